//! What a member is to know.

use std::collections::BTreeMap;

use super::members::member_ref;
use super::{Groups, State, group_errors, millis};
use crate::api::{
    ApiError, AssignedPartition, AssignedTopic, GroupMember, MemberRole, Membership, ProposalMember,
    ProposalWanted, TopicPartitions,
};
use crate::broker::errors;
use crate::group::{self, Held, Member};
use crate::model::{GroupId, Lsn, MemberId, PartitionId, PartitionKey, TopicId, TopicName};
use crate::storage::{LogStore, PartitionLog};

impl<S: LogStore> Groups<S> {
    /// Everything that a heartbeat is answered with.
    pub(super) fn membership(
        &self,
        state: &State<S::Log>,
        key: &(GroupId, MemberId),
        asked: &GroupMember,
    ) -> Result<Membership, ApiError> {
        let machine = &state.driver.machine;
        let (group, id) = (key.0.as_str(), key.1.as_str());
        let known = machine
            .membership(group)
            .ok_or_else(|| super::members::unknown_group(group))?;
        // Meanwhile it may have been removed, or its place taken.
        let found = known.known(&member_ref(asked));
        let (id_known, member) = found.map_err(|error| group_errors::group(error, &[]))?;
        let revision = machine.revision(group, id);
        let overview = machine
            .overview(group)
            .ok_or_else(|| errors::internal("a member without its group"))?;
        let leader = overview.leader();
        Ok(Membership {
            member_epoch: known.member_epoch(member),
            group_epoch: known.epoch,
            revision: revision.ok_or_else(|| errors::internal("a member without a revision"))?,
            leader_id: leader.map(ToString::to_string).unwrap_or_default(),
            is_leader: leader == Some(id_known),
            role: role(known, overview, id_known),
            state: overview.state(),
            heartbeat: millis(known.config.heartbeat_ms()),
            session_timeout: millis(known.config.session_ms()),
            handoff_timeout: millis(known.config.handoff_ms()),
            proposal_wanted: self.proposal(known, leader == Some(id_known)),
            assigned: self.assigned(state, &key.0, member),
            revoking: self.by_topic(&member.revoking),
        })
    }

    fn assigned(&self, state: &State<S::Log>, group: &GroupId, member: &Member) -> Vec<AssignedTopic> {
        let mut topics: BTreeMap<TopicId, Vec<AssignedPartition>> = BTreeMap::new();
        for key in member.assigned.keys() {
            let committed = state.driver.machine.offset(group.as_str(), *key);
            let seen = state.seen.get(&(group.clone(), *key)).copied();
            let end = || Some(self.registry.partition(*key)?.log.bounds(Lsn(u64::MAX)).log_end);
            let seen = seen.or_else(|| if state.seen_overflowed { end() } else { None });
            topics.entry(key.topic).or_default().push(AssignedPartition {
                partition: key.partition,
                committed: committed.map(|committed| committed.offset),
                maybe_seen_upto: seen,
            });
        }
        let topics = topics.into_iter().filter_map(|(topic_id, partitions)| {
            Some(AssignedTopic {
                topic: self.topic_name(topic_id)?,
                topic_id,
                partitions,
            })
        });
        topics.collect()
    }

    pub(super) fn topic_name(&self, id: TopicId) -> Option<TopicName> {
        let handle = self.registry.with_id(id)?;
        Some(handle.topic.name.clone())
    }

    /// Partitions by topic, with names.
    pub(super) fn by_topic(&self, held: &Held) -> Vec<TopicPartitions> {
        self.named(held.keys().copied())
    }

    /// Partitions in the order of their keys, by topic.
    pub(super) fn named(&self, keys: impl Iterator<Item = PartitionKey>) -> Vec<TopicPartitions> {
        let mut topics: BTreeMap<TopicId, Vec<PartitionId>> = BTreeMap::new();
        for key in keys {
            topics.entry(key.topic).or_default().push(key.partition);
        }
        let topics = topics.into_iter().map(|(id, partitions)| TopicPartitions {
            topic: self
                .topic_name(id)
                .map(|name| name.as_str().into())
                .unwrap_or_default(),
            topic_id: Some(id),
            partitions,
        });
        topics.collect()
    }

    fn proposal(&self, known: &group::Membership, leads: bool) -> Option<ProposalWanted> {
        if !leads || known.assignment_epoch == known.epoch {
            return None;
        }
        let members = known.in_join_order().into_iter().map(|(id, member)| {
            let held = member.assigned.keys().chain(member.revoking.keys());
            ProposalMember {
                member_id: id.to_string(),
                instance_id: member.instance.as_ref().map(ToString::to_string),
                client_id: member.client_id.as_ref().to_owned(),
                topics: member
                    .topics
                    .iter()
                    .filter_map(|topic| self.topic_name(*topic))
                    .collect(),
                held: self.named(held.copied()),
            }
        });
        Some(ProposalWanted {
            group_epoch: known.epoch,
            deadline: millis(known.config.proposal_ms()),
            members: members.collect(),
            partitions: self.named(known.all_partitions()),
        })
    }
}

/// What a member has to do.
pub(super) fn role(known: &group::Membership, overview: &group::Overview, id: &MemberId) -> MemberRole {
    let Some(place) = overview.idle_rank(id.as_str()) else {
        return MemberRole::Active;
    };
    let (members, partitions) = (known.members.len(), known.partitions());
    let reason = if known.assignment_epoch < known.epoch {
        "the leader has not assigned yet".to_owned()
    } else {
        format!("{members} members, {partitions} partitions")
    };
    MemberRole::Standby {
        rank: u32::try_from(place + 1).unwrap_or(u32::MAX),
        reason,
    }
}
