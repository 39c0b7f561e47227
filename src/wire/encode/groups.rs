//! Answers to members of groups, and about them.

use std::time::Duration;

use super::{acks, config_entry, topic_id};
use crate::api::{
    AlteredGroup, AssignedTopic, ClosedConsumer, CreatedGroup, DescribedGroup, Evicted, GroupListing,
    GroupPartition, ListedGroups, MemberDescription, MemberRole, Membership, ProposalMember, ProposalWanted,
    Stepped, SteppedAppend, Subscription, TopicPartitions,
};
use crate::model::{GroupState, Lsn, Offset};
use crate::pb::v1;

pub(super) fn group_heartbeat(membership: Membership) -> v1::GroupHeartbeatResponse {
    let (role, standby_rank, standby_reason) = role(membership.role);
    v1::GroupHeartbeatResponse {
        member_epoch: membership.member_epoch,
        group_epoch: membership.group_epoch,
        revision: membership.revision,
        leader_id: membership.leader_id,
        is_leader: membership.is_leader,
        role: role.into(),
        standby_rank,
        standby_reason,
        group_state: state(membership.state).into(),
        heartbeat_ms: millis(membership.heartbeat),
        session_timeout_ms: millis(membership.session_timeout),
        handoff_timeout_ms: millis(membership.handoff_timeout),
        proposal_wanted: membership.proposal_wanted.map(proposal_wanted),
        assigned: membership.assigned.into_iter().map(assigned_topic).collect(),
        revoking: all_partitions(membership.revoking),
    }
}

fn role(role: MemberRole) -> (v1::MemberRole, u32, String) {
    match role {
        MemberRole::Active => (v1::MemberRole::Active, 0, String::new()),
        MemberRole::Standby { rank, reason } => (v1::MemberRole::Standby, rank, reason),
    }
}

fn state(state: GroupState) -> v1::GroupState {
    match state {
        GroupState::Empty => v1::GroupState::GroupEmpty,
        GroupState::Assigning => v1::GroupState::GroupAssigning,
        GroupState::Reconciling => v1::GroupState::GroupReconciling,
        GroupState::Stable => v1::GroupState::GroupStable,
    }
}

fn assigned_topic(topic: AssignedTopic) -> v1::AssignedTopic {
    let partitions = topic.partitions.into_iter();
    let partitions = partitions.map(|partition| v1::AssignedPartition {
        partition: partition.partition.0,
        committed_offset: partition.committed.map(Offset::get),
        maybe_seen_upto: partition.maybe_seen_upto.map(Offset::get),
    });
    v1::AssignedTopic {
        topic: topic.topic.to_string(),
        topic_id: topic_id(topic.topic_id),
        partitions: partitions.collect(),
    }
}

fn all_partitions(topics: Vec<TopicPartitions>) -> Vec<v1::TopicPartitions> {
    topics.into_iter().map(topic_partitions).collect()
}

fn topic_partitions(topic: TopicPartitions) -> v1::TopicPartitions {
    v1::TopicPartitions {
        topic: topic.topic.as_ref().to_owned(),
        topic_id: topic.topic_id.map(topic_id).unwrap_or_default(),
        partitions: topic.partitions.into_iter().map(|index| index.0).collect(),
    }
}

fn proposal_wanted(wanted: ProposalWanted) -> v1::ProposalWanted {
    v1::ProposalWanted {
        group_epoch: wanted.group_epoch,
        deadline_ms: millis(wanted.deadline),
        members: wanted.members.into_iter().map(proposal_member).collect(),
        partitions: all_partitions(wanted.partitions),
    }
}

fn proposal_member(member: ProposalMember) -> v1::ProposalMember {
    v1::ProposalMember {
        member_id: member.member_id,
        instance_id: member.instance_id.unwrap_or_default(),
        client_id: member.client_id,
        topics: member.topics.iter().map(ToString::to_string).collect(),
        held: all_partitions(member.held),
    }
}

pub(super) fn close_consumer(closed: ClosedConsumer) -> v1::CloseConsumerResponse {
    v1::CloseConsumerResponse {
        committed_ms: closed.at.0,
        left: closed.left,
    }
}

pub(super) fn propose_assignment(group_epoch: u32) -> v1::ProposeAssignmentResponse {
    v1::ProposeAssignmentResponse { group_epoch }
}

pub(super) fn create_group(created: CreatedGroup) -> v1::CreateGroupResponse {
    v1::CreateGroupResponse {
        created: created.created,
        configs: created.configs.into_iter().map(config_entry).collect(),
    }
}

pub(super) fn alter_group(altered: AlteredGroup) -> v1::AlterGroupResponse {
    v1::AlterGroupResponse {
        configs: altered.configs.into_iter().map(config_entry).collect(),
        changed: altered.changed,
    }
}

pub(super) fn describe_group(group: DescribedGroup) -> v1::DescribeGroupResponse {
    v1::DescribeGroupResponse {
        group: group.group,
        state: state(group.state).into(),
        group_epoch: group.group_epoch,
        assignment_epoch: group.assignment_epoch,
        assignor: group.assignor,
        leader_id: group.leader_id.unwrap_or_default(),
        idle_members: group.idle_members,
        unassigned_partitions: group.unassigned_partitions,
        hint: group.hint,
        configs: group.configs.into_iter().map(config_entry).collect(),
        members: group.members.into_iter().map(member_description).collect(),
        partitions: group.partitions.into_iter().map(group_partition).collect(),
        empty_since_ms: group.empty_since.map(|since| since.0),
    }
}

fn member_description(member: MemberDescription) -> v1::GroupMemberDescription {
    // Why a member is idle is the hint's to say here.
    let (role, standby_rank, _) = role(member.role);
    let Subscription { topics, patterns } = member.subscription;
    v1::GroupMemberDescription {
        member_id: member.member_id,
        instance_id: member.instance_id.unwrap_or_default(),
        client_id: member.client_id,
        host: member.host,
        subscription: Some(v1::Subscription { topics, patterns }),
        member_epoch: member.member_epoch,
        assigned: all_partitions(member.assigned),
        revoking: all_partitions(member.revoking),
        role: role.into(),
        standby_rank,
        last_heartbeat_ms: member.last_heartbeat_ms,
        is_leader: member.is_leader,
    }
}

fn group_partition(partition: GroupPartition) -> v1::GroupPartitionDescription {
    v1::GroupPartitionDescription {
        partition: Some(v1::TopicPartition {
            topic: partition.topic.to_string(),
            topic_id: topic_id(partition.key.topic),
            partition: partition.key.partition.0,
        }),
        committed_offset: partition.committed.map(Offset::get),
        log_start_offset: partition.bounds.log_start.get(),
        high_watermark: partition.bounds.high_watermark.get(),
        lag: partition.lag.map(signed),
        lag_ms: partition.lag_ms.map(signed),
        member_id: partition.member_id.unwrap_or_default(),
        revoking: partition.is_revoking,
        stalled_ms: partition.stalled_ms,
    }
}

pub(super) fn list_groups(listed: ListedGroups) -> v1::ListGroupsResponse {
    v1::ListGroupsResponse {
        groups: listed.groups.into_iter().map(group_listing).collect(),
        cursor: listed.cursor,
    }
}

fn group_listing(group: GroupListing) -> v1::GroupListing {
    v1::GroupListing {
        group: group.group,
        state: state(group.state).into(),
        members: group.members,
        topics: group.topics,
        lag: signed(group.lag),
    }
}

pub(super) fn evict_member(evicted: Evicted) -> v1::EvictMemberResponse {
    v1::EvictMemberResponse {
        member_id: evicted.member_id,
        group_epoch: evicted.group_epoch,
    }
}

pub(super) fn step(stepped: Stepped) -> v1::StepResponse {
    v1::StepResponse {
        committed_ms: stepped.committed.0,
        duplicate: stepped.duplicate,
        acks: acks(stepped.acks).into(),
        durable_through: stepped.durable_through.map(|Lsn(lsn)| lsn),
        appends: stepped.appends.into_iter().map(stepped_append).collect(),
    }
}

fn stepped_append(append: SteppedAppend) -> v1::SteppedPartition {
    v1::SteppedPartition {
        base_offset: append.base.get(),
        last_offset: append.last.get(),
        append_time: append.append_time.0,
        leader_epoch: append.leader_epoch.0,
    }
}

/// More than fits is on no disk, and no record is so old.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
