//! Changes of a membership as they are stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{DecodeError, decode_id, encode_id};
use crate::group::change::{GroupChange, Holding, MemberInfo};
use crate::group::config::GroupConfig;
use crate::group::state::{Held, Member, Subscription};
use crate::model::{GroupId, MemberId, PartitionId, PartitionKey, Timestamp, TopicId};
use crate::pb::internal as pb;
use crate::planted::{self, Bug};

pub(super) fn encode(group: &GroupId, change: &GroupChange) -> pb::GroupChanged {
    pb::GroupChanged {
        group: group.to_string(),
        epoch: change.epoch,
        assignment_epoch: change.assignment_epoch,
        next_join: change.next_join,
        empty_since_ms: change.empty_since.map(|since| since.0),
        config: change.config.as_ref().map(encode_config),
        resolved: change.resolved.as_ref().map(encode_resolved),
        removed: change.removed.iter().map(ToString::to_string).collect(),
        members: change
            .members
            .iter()
            .map(|(id, info)| encode_info(id, info))
            .collect(),
        holdings: change
            .holdings
            .iter()
            .map(|(id, holding)| encode_holding(id, holding))
            .collect(),
        target: encode_target(&change.target),
    }
}

pub(super) fn decode(stored: pb::GroupChanged) -> Result<GroupChange, DecodeError> {
    let mut change = GroupChange {
        epoch: stored.epoch,
        assignment_epoch: stored.assignment_epoch,
        next_join: stored.next_join,
        empty_since: stored.empty_since_ms.map(Timestamp),
        config: stored.config.map(|config| decode_config(&config)).transpose()?,
        resolved: stored
            .resolved
            .map(|resolved| decode_resolved(&resolved))
            .transpose()?,
        ..GroupChange::default()
    };
    for id in stored.removed {
        if planted::is(Bug::FenceNotReplayed) {
            continue;
        }
        change.removed.push(id.parse()?);
    }
    for info in stored.members {
        let (id, info) = decode_info(info)?;
        change.members.insert(id, info);
    }
    for holding in stored.holdings {
        let decoded = Holding {
            assigned: decode_held(&holding.assigned)?,
            revoking: decode_held(&holding.revoking)?,
            held_epoch: holding.held_epoch,
        };
        change.holdings.insert(holding.member_id.parse()?, decoded);
    }
    for target in stored.target {
        let id: Option<MemberId> = match target.member_id.as_str() {
            "" => None,
            id => Some(id.parse()?),
        };
        for topic in target.topics {
            let topic_id = decode_id(&topic.topic_id)?;
            let keys = topic.partitions.iter().map(|index| key(topic_id, *index));
            change.target.extend(keys.map(|key| (key, id.clone())));
        }
    }
    Ok(change)
}

fn encode_config(config: &GroupConfig) -> pb::GroupConfig {
    pb::GroupConfig {
        assignor: config.assignor.map(|assignor| assignor.name().to_owned()),
        session_timeout_ms: config.session_timeout_ms,
        heartbeat_ms: config.heartbeat_ms,
        handoff_timeout_ms: config.handoff_timeout_ms,
        proposal_timeout_ms: config.proposal_timeout_ms,
        progress_timeout_ms: config.progress_timeout_ms,
        offsets_retention_ms: config.offsets_retention_ms,
    }
}

fn decode_config(stored: &pb::GroupConfig) -> Result<GroupConfig, DecodeError> {
    let assignor = stored.assignor.as_deref();
    Ok(GroupConfig {
        assignor: assignor.map(str::parse).transpose()?,
        session_timeout_ms: stored.session_timeout_ms,
        heartbeat_ms: stored.heartbeat_ms,
        handoff_timeout_ms: stored.handoff_timeout_ms,
        proposal_timeout_ms: stored.proposal_timeout_ms,
        progress_timeout_ms: stored.progress_timeout_ms,
        offsets_retention_ms: stored.offsets_retention_ms,
    })
}

fn encode_resolved(resolved: &BTreeMap<TopicId, u32>) -> pb::Resolved {
    let topics = resolved.iter().map(|(topic, partitions)| pb::TopicCount {
        topic_id: encode_id(*topic),
        partitions: *partitions,
    });
    pb::Resolved {
        topics: topics.collect(),
    }
}

fn decode_resolved(stored: &pb::Resolved) -> Result<BTreeMap<TopicId, u32>, DecodeError> {
    let topics = stored.topics.iter();
    topics
        .map(|topic| Ok((decode_id(&topic.topic_id)?, topic.partitions)))
        .collect()
}

fn encode_info(id: &MemberId, MemberInfo { member, all_topics }: &MemberInfo) -> pb::MemberInfo {
    let texts = |set: &BTreeSet<Arc<str>>| set.iter().map(|text| text.as_ref().to_owned()).collect();
    pb::MemberInfo {
        member_id: id.to_string(),
        join: member.join,
        instance_id: member
            .instance
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        client_id: member.client_id.as_ref().to_owned(),
        host: member.host.as_ref().to_owned(),
        topics: texts(&member.subscription.topics),
        patterns: texts(&member.subscription.patterns),
        topic_ids: member.topics.iter().map(|topic| encode_id(*topic)).collect(),
        all_topics: *all_topics,
    }
}

fn decode_info(stored: pb::MemberInfo) -> Result<(MemberId, MemberInfo), DecodeError> {
    let instance = match stored.instance_id.as_str() {
        "" => None,
        id => Some(id.parse()?),
    };
    let texts = |texts: Vec<String>| texts.into_iter().map(Arc::from).collect();
    let topics: Result<BTreeSet<TopicId>, DecodeError> =
        stored.topic_ids.iter().map(|id| decode_id(id)).collect();
    let member = Member {
        join: stored.join,
        instance,
        client_id: stored.client_id.into(),
        host: stored.host.into(),
        subscription: Arc::new(Subscription {
            topics: texts(stored.topics),
            patterns: texts(stored.patterns),
        }),
        topics: Arc::new(topics?),
        assigned: Held::new(),
        revoking: Held::new(),
        held_epoch: 0,
    };
    let all_topics = stored.all_topics;
    Ok((stored.member_id.parse()?, MemberInfo { member, all_topics }))
}

fn encode_holding(id: &MemberId, holding: &Holding) -> pb::Holding {
    pb::Holding {
        member_id: id.to_string(),
        assigned: encode_held(&holding.assigned),
        revoking: encode_held(&holding.revoking),
        held_epoch: holding.held_epoch,
    }
}

/// Neighbours of one topic share its id.
fn encode_held(held: &Held) -> Vec<pb::HeldTopic> {
    let mut topics: Vec<(TopicId, pb::HeldTopic)> = Vec::new();
    for (key, since) in held {
        let topic = topic_of(&mut topics, key.topic);
        topic.partitions.push(key.partition.0);
        topic.since_epochs.push(*since);
    }
    topics.into_iter().map(|(_, topic)| topic).collect()
}

fn decode_held(stored: &[pb::HeldTopic]) -> Result<Held, DecodeError> {
    let mut held = Held::new();
    for topic in stored {
        let (partitions, epochs) = (topic.partitions.len(), topic.since_epochs.len());
        if partitions != epochs {
            return Err(DecodeError::Epochs { partitions, epochs });
        }
        let topic_id = decode_id(&topic.topic_id)?;
        let pairs = topic.partitions.iter().zip(&topic.since_epochs);
        held.extend(pairs.map(|(index, since)| (key(topic_id, *index), *since)));
    }
    Ok(held)
}

fn encode_target(target: &BTreeMap<PartitionKey, Option<MemberId>>) -> Vec<pb::Target> {
    let mut by_member: BTreeMap<&str, Vec<(TopicId, pb::HeldTopic)>> = BTreeMap::new();
    for (key, id) in target {
        let topics = by_member
            .entry(id.as_ref().map_or("", MemberId::as_str))
            .or_default();
        topic_of(topics, key.topic).partitions.push(key.partition.0);
    }
    let targets = by_member.into_iter().map(|(id, topics)| pb::Target {
        member_id: id.to_owned(),
        topics: topics.into_iter().map(|(_, topic)| topic).collect(),
    });
    targets.collect()
}

/// The last topic if it is this one, otherwise a new one behind it.
fn topic_of(topics: &mut Vec<(TopicId, pb::HeldTopic)>, id: TopicId) -> &mut pb::HeldTopic {
    if topics.last().is_none_or(|(last, _)| *last != id) {
        topics.push((
            id,
            pb::HeldTopic {
                topic_id: encode_id(id),
                ..pb::HeldTopic::default()
            },
        ));
    }
    let last = topics.len() - 1;
    &mut topics[last].1
}

fn key(topic: TopicId, index: u32) -> PartitionKey {
    PartitionKey {
        topic,
        partition: PartitionId(index),
    }
}

/// Partitions by topic.
pub(super) fn encode_keys(keys: &[PartitionKey]) -> Vec<pb::HeldTopic> {
    let mut topics: Vec<(TopicId, pb::HeldTopic)> = Vec::new();
    for key in keys {
        topic_of(&mut topics, key.topic).partitions.push(key.partition.0);
    }
    topics.into_iter().map(|(_, topic)| topic).collect()
}

pub(super) fn decode_keys(stored: &[pb::HeldTopic]) -> Result<Vec<PartitionKey>, DecodeError> {
    let mut keys = Vec::new();
    for topic in stored {
        let id = decode_id(&topic.topic_id)?;
        keys.extend(topic.partitions.iter().map(|index| key(id, *index)));
    }
    Ok(keys)
}
