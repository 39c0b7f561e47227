//! Requests of members of groups, and about them.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Path, each_if_any, invalid, offset_to_commit, page, produce_partition, producer_epoch_from,
    producer_id_from, topic_id,
};
use crate::api;
use crate::api::{ApiError, GroupMember, ProducePayload, Subscription, TopicPartitions};
use crate::model::{PartitionId, Sequence};
use crate::pb::v1;

/// Most bytes of why a member is evicted.
const EVICT_REASON_BYTES_MAX: usize = 256;

pub(in crate::wire) fn group_heartbeat(request: v1::GroupHeartbeatRequest) -> Result<api::Request, ApiError> {
    let v1::GroupHeartbeatRequest {
        group,
        member_id,
        member_epoch,
        revision,
        instance_id,
        client_id,
        max_wait_ms,
        subscription,
        owned,
    } = request;
    let subscribe = |v1::Subscription { topics, patterns }| Subscription { topics, patterns };
    let owned =
        owned.map(|owned| each_if_any(owned.topics, "group_heartbeat.owned.topics", topic_partitions));
    Ok(api::Request::GroupHeartbeat(api::GroupHeartbeat {
        group,
        member: GroupMember {
            member_id,
            member_epoch,
            instance_id: given(instance_id),
        },
        revision,
        client_id,
        max_wait: Duration::from_millis(u64::from(max_wait_ms)),
        subscription: subscription.map(subscribe),
        owned: owned.transpose()?,
    }))
}

pub(in crate::wire) fn close_consumer(request: v1::CloseConsumerRequest) -> Result<api::Request, ApiError> {
    let v1::CloseConsumerRequest {
        group,
        member: who,
        offsets,
    } = request;
    Ok(api::Request::CloseConsumer(api::CloseConsumer {
        group,
        member: needed("close_consumer.member", who)?,
        offsets: each_if_any(offsets, "close_consumer.offsets", offset_to_commit)?,
    }))
}

pub(in crate::wire) fn propose_assignment(
    request: v1::ProposeAssignmentRequest,
) -> Result<api::Request, ApiError> {
    let v1::ProposeAssignmentRequest {
        group,
        member: who,
        group_epoch,
        assignments,
    } = request;
    let assign = |item: v1::MemberAssignment, path: Path| {
        let place = |topic, inner: Path| {
            named_partitions(topic, |field| {
                path.field(&format!("partitions[{}].{field}", inner.index))
            })
        };
        let partitions = each_if_any(item.partitions, "partitions", place)?;
        Ok((item.member_id, partitions))
    };
    Ok(api::Request::ProposeAssignment(api::ProposeAssignment {
        group,
        member: needed("propose_assignment.member", who)?,
        group_epoch,
        assignments: each_if_any(assignments, "propose_assignment.assignments", assign)?,
    }))
}

pub(in crate::wire) fn create_group(request: v1::CreateGroupRequest) -> api::Request {
    let v1::CreateGroupRequest { group, configs } = request;
    api::Request::CreateGroup(api::CreateGroup {
        group,
        configs: super::config_entries(configs),
    })
}

pub(in crate::wire) fn alter_group(request: v1::AlterGroupRequest) -> api::Request {
    let v1::AlterGroupRequest { group, set, unset } = request;
    api::Request::AlterGroup(api::AlterGroup {
        group,
        set: super::config_entries(set),
        unset,
    })
}

pub(in crate::wire) fn delete_group(request: v1::DeleteGroupRequest) -> api::Request {
    api::Request::DeleteGroup(api::DeleteGroup { group: request.group })
}

pub(in crate::wire) fn describe_group(request: v1::DescribeGroupRequest) -> api::Request {
    api::Request::DescribeGroup(api::DescribeGroup { group: request.group })
}

pub(in crate::wire) fn list_groups(request: v1::ListGroupsRequest) -> api::Request {
    let v1::ListGroupsRequest {
        cursor,
        count,
        r#match: matching,
    } = request;
    api::Request::ListGroups(api::ListGroups {
        cursor,
        count: page(count),
        matching,
    })
}

pub(in crate::wire) fn evict_member(request: v1::EvictMemberRequest) -> Result<api::Request, ApiError> {
    let v1::EvictMemberRequest {
        group,
        member_id,
        instance_id,
        reason,
    } = request;
    within("evict_member.reason", &reason, EVICT_REASON_BYTES_MAX)?;
    let who = match (given(member_id), given(instance_id)) {
        (Some(id), None) => api::EvictedMember::Member(id),
        (None, Some(id)) => api::EvictedMember::Instance(id),
        (None, None) => {
            return Err(invalid(
                "evict_member.member_id",
                "must be given, or instance_id instead",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(invalid(
                "evict_member.instance_id",
                "names another way what member_id names already: give one of them",
            ));
        }
    };
    Ok(api::Request::EvictMember(api::EvictMember {
        group,
        member: who,
        reason,
    }))
}

pub(in crate::wire) fn step(request: v1::StepRequest) -> Result<api::Request, ApiError> {
    let v1::StepRequest {
        group,
        member: who,
        producer_id,
        producer_epoch,
        sequence,
        offsets,
        appends,
    } = request;
    if sequence < 0 {
        return Err(invalid("step.sequence", format!("{sequence} is negative")));
    }
    let stamp = api::StepStamp {
        id: producer_id_from("step.producer_id", producer_id)?,
        epoch: producer_epoch_from("step.producer_epoch", producer_epoch)?,
        sequence: Sequence(sequence),
    };
    if offsets.is_empty() && appends.is_empty() {
        return Err(invalid("step.appends", "must not be empty together with offsets"));
    }
    Ok(api::Request::Step(api::Step {
        group,
        member: who.map(member),
        stamp,
        offsets: each_if_any(offsets, "step.offsets", offset_to_commit)?,
        appends: each_if_any(appends, "step.appends", append)?,
    }))
}

/// A batch of a step. Of a raw one the broker looks at the header, as with every batch.
fn append(item: v1::ProducePartition, path: Path) -> Result<api::ProducePartition, ApiError> {
    let append = produce_partition(item, path)?;
    match &append.payload {
        ProducePayload::Structured {
            producer: Some(_), ..
        } => Err(invalid(
            path.field("producer_id"),
            "a step has one producer for all of its batches",
        )),
        ProducePayload::Structured { producer: None, .. }
        | ProducePayload::Raw(_)
        | ProducePayload::Compressed(_) => Ok(append),
    }
}

/// The group and the member of a fetch: both or none.
pub(super) fn of_fetch(
    group: String,
    who: Option<v1::GroupMember>,
) -> Result<Option<(String, GroupMember)>, ApiError> {
    match (given(group), who) {
        (None, None) => Ok(None),
        (Some(group), Some(who)) => Ok(Some((group, member(who)))),
        (None, Some(_)) => Err(invalid("fetch.group", "must be given with a member")),
        (Some(_), None) => Err(invalid("fetch.member", "must be given with a group")),
    }
}

pub(super) fn member(member: v1::GroupMember) -> GroupMember {
    let v1::GroupMember {
        member_id,
        member_epoch,
        instance_id,
    } = member;
    GroupMember {
        member_id,
        member_epoch,
        instance_id: given(instance_id),
    }
}

fn needed(field: &'static str, who: Option<v1::GroupMember>) -> Result<GroupMember, ApiError> {
    who.map(member).ok_or_else(|| invalid(field, "must be given"))
}

fn topic_partitions(item: v1::TopicPartitions, path: Path) -> Result<TopicPartitions, ApiError> {
    named_partitions(item, |field| path.field(field))
}

fn named_partitions(
    item: v1::TopicPartitions,
    name: impl Fn(&str) -> String,
) -> Result<TopicPartitions, ApiError> {
    let v1::TopicPartitions {
        topic,
        topic_id: id,
        partitions,
    } = item;
    let topic_id = topic_id(|| name("topic_id"), &id)?;
    if topic.is_empty() && topic_id.is_none() {
        return Err(invalid(name("topic"), "must be given, or topic_id instead"));
    }
    if partitions.is_empty() {
        return Err(invalid(name("partitions"), "must not be empty"));
    }
    Ok(TopicPartitions {
        topic: Arc::from(topic),
        topic_id,
        partitions: partitions.into_iter().map(PartitionId).collect(),
    })
}

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn within(field: &'static str, text: &str, bytes_max: usize) -> Result<(), ApiError> {
    match text.len() {
        bytes if bytes > bytes_max => Err(invalid(
            field,
            format!("has {bytes} bytes, at most {bytes_max} are allowed"),
        )),
        _ => Ok(()),
    }
}
