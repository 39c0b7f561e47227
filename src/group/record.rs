//! Records of `__groups` and its snapshot as they are stored: `naru.internal.v1`.

mod membership;
mod steps;

use bytes::Bytes;
use prost::Message;

use super::assignor::UnknownAssignor;
use super::change::GroupChange;
use super::machine::{CommittedOffset, Limits, Machine};
use super::state::Membership;
use super::step::StepTaken;
use crate::machine::{StateMachine, Stored};
use crate::model::{
    GroupId, InvalidGroupId, InvalidMemberId, LeaderEpoch, Offset, PartitionId, PartitionKey, Timestamp,
    TopicId,
};
use crate::pb::internal as pb;
use crate::pb::internal::group_record::Kind;

/// One change, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRecord {
    /// A group is so far in these partitions: one commit, whole.
    OffsetsCommitted {
        /// The group.
        group: GroupId,
        /// Where it is; each partition once.
        offsets: Vec<(PartitionKey, CommittedOffset)>,
    },
    /// A topic is gone, and with it every offset committed for it, and whatever members held of it.
    TopicDeleted(TopicId),
    /// The membership of a group is different.
    Changed {
        /// The group.
        group: GroupId,
        /// What is different.
        change: Box<GroupChange>,
    },
    /// A group is gone with all that it had.
    Deleted(GroupId),
    /// What a group has committed in these partitions is forgotten.
    OffsetsRemoved {
        /// The group.
        group: GroupId,
        /// The partitions.
        partitions: Vec<PartitionKey>,
    },
    /// A producer has appended in one with the commit before it, if there was one.
    StepTaken {
        /// The group.
        group: GroupId,
        /// What is remembered of it.
        step: StepTaken,
    },
}

impl GroupRecord {
    /// What makes `after` of `before`; `None`: they are the same.
    pub(super) fn changed(group: &GroupId, before: &Membership, after: &Membership) -> Option<Self> {
        let change = GroupChange::between(before, after)?;
        Some(Self::Changed {
            group: group.clone(),
            change: Box::new(change),
        })
    }
}

/// A stored record that cannot be: written by a newer or a broken broker. Offsets are never guessed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No valid protobuf message.
    #[error("no protobuf message: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A kind of record that this version does not know.
    #[error("a record of a kind that this version does not know")]
    UnknownKind,
    /// A bad group id.
    #[error("a bad group id: {0}")]
    Group(#[from] InvalidGroupId),
    /// An id that has not 16 bytes.
    #[error("a topic id of {0} bytes")]
    TopicId(usize),
    /// A bad member id or instance id.
    #[error("a bad member id: {0}")]
    Member(#[from] InvalidMemberId),
    /// An assignor that this version does not know.
    #[error("an assignor: {0}")]
    Assignor(#[from] UnknownAssignor),
    /// Not one epoch per partition.
    #[error("{partitions} partitions with {epochs} epochs")]
    Epochs {
        /// Partitions.
        partitions: usize,
        /// Epochs.
        epochs: usize,
    },
    /// An offset below zero.
    #[error("a committed offset of {0}")]
    Offset(i64),
    /// An identity of a producer that cannot be.
    #[error("a step of producer {id}, epoch {epoch}, sequence {sequence}")]
    Stamp {
        /// The producer.
        id: i64,
        /// Its epoch.
        epoch: i32,
        /// The sequence.
        sequence: i32,
    },
    /// A producer without a step.
    #[error("a producer without a step")]
    NoStep,
}

impl Stored for Machine {
    type Limits = Limits;
    type DecodeError = DecodeError;

    fn empty(limits: Limits) -> Self {
        Self::new(limits)
    }

    fn encode(record: &GroupRecord) -> Bytes {
        let kind = match record {
            GroupRecord::OffsetsCommitted { group, offsets } => {
                Kind::OffsetsCommitted(pb::OffsetsCommitted {
                    group: group.to_string(),
                    topics: encode_offsets(offsets.iter().map(|(key, committed)| (key, committed))),
                })
            }
            GroupRecord::TopicDeleted(topic) => Kind::TopicDeleted(pb::TopicDeleted {
                topic_id: encode_id(*topic),
            }),
            GroupRecord::Changed { group, change } => Kind::GroupChanged(membership::encode(group, change)),
            GroupRecord::Deleted(group) => Kind::GroupDeleted(group.to_string()),
            GroupRecord::OffsetsRemoved { group, partitions } => Kind::OffsetsRemoved(pb::OffsetsRemoved {
                group: group.to_string(),
                topics: membership::encode_keys(partitions),
            }),
            GroupRecord::StepTaken { group, step } => Kind::StepTaken(steps::encode(group, step)),
        };
        pb::GroupRecord { kind: Some(kind) }.encode_to_vec().into()
    }

    fn decode(bytes: Bytes) -> Result<GroupRecord, DecodeError> {
        match pb::GroupRecord::decode(bytes)?.kind {
            Some(Kind::OffsetsCommitted(stored)) => Ok(GroupRecord::OffsetsCommitted {
                group: stored.group.parse()?,
                offsets: decode_offsets(stored.topics)?,
            }),
            Some(Kind::TopicDeleted(stored)) => decode_id(&stored.topic_id).map(GroupRecord::TopicDeleted),
            Some(Kind::GroupChanged(stored)) => Ok(GroupRecord::Changed {
                group: stored.group.parse()?,
                change: Box::new(membership::decode(stored)?),
            }),
            Some(Kind::GroupDeleted(group)) => Ok(GroupRecord::Deleted(group.parse()?)),
            Some(Kind::OffsetsRemoved(stored)) => Ok(GroupRecord::OffsetsRemoved {
                group: stored.group.parse()?,
                partitions: membership::decode_keys(&stored.topics)?,
            }),
            Some(Kind::StepTaken(stored)) => Ok(GroupRecord::StepTaken {
                group: stored.group.parse()?,
                step: steps::decode(stored)?,
            }),
            None => Err(DecodeError::UnknownKind),
        }
    }

    fn snapshot(&self) -> Bytes {
        let groups = self.groups().map(|(id, group)| {
            let whole = |after| GroupChange::between(&Membership::default(), after).unwrap_or_default();
            pb::Group {
                group: id.to_string(),
                topics: encode_offsets(group.offsets.iter()),
                membership: group
                    .membership
                    .as_ref()
                    .map(|after| membership::encode(id, &whole(after))),
                step_producers: steps::encode_all(&group.steppers),
            }
        });
        let snapshot = pb::GroupSnapshot {
            groups: groups.collect(),
        };
        snapshot.encode_to_vec().into()
    }

    fn restore(limits: Limits, snapshot: Bytes) -> Result<Self, DecodeError> {
        let mut machine = Self::new(limits);
        for stored in pb::GroupSnapshot::decode(snapshot)?.groups {
            let group: GroupId = stored.group.parse()?;
            // What a group holds is what one commit of all of it would leave; so it is with its members.
            machine.apply(&GroupRecord::OffsetsCommitted {
                group: group.clone(),
                offsets: decode_offsets(stored.topics)?,
            });
            if let Some(stored) = stored.membership {
                let change = Box::new(membership::decode(stored)?);
                machine.apply(&GroupRecord::Changed {
                    group: group.clone(),
                    change,
                });
            }
            for stored in stored.step_producers {
                let (producer, stepper) = steps::decode_one(stored)?;
                machine.insert_stepper(&group, producer, stepper);
            }
        }
        Ok(machine)
    }
}

/// Neighbours of one topic share its id.
fn encode_offsets<'a>(
    offsets: impl Iterator<Item = (&'a PartitionKey, &'a CommittedOffset)>,
) -> Vec<pb::TopicOffsets> {
    let mut topics: Vec<pb::TopicOffsets> = Vec::new();
    for (key, committed) in offsets {
        let offset = pb::PartitionOffset {
            partition: key.partition.0,
            offset: committed.offset.get(),
            leader_epoch: committed.leader_epoch.map(|epoch| epoch.0),
            metadata: committed.metadata.as_ref().to_owned(),
            committed_ms: committed.committed.0,
        };
        match topics.last_mut() {
            Some(topic) if topic.topic_id == key.topic.as_bytes().as_slice() => topic.partitions.push(offset),
            Some(_) | None => topics.push(pb::TopicOffsets {
                topic_id: encode_id(key.topic),
                partitions: vec![offset],
            }),
        }
    }
    topics
}

fn decode_offsets(
    topics: Vec<pb::TopicOffsets>,
) -> Result<Vec<(PartitionKey, CommittedOffset)>, DecodeError> {
    let mut offsets = Vec::new();
    for topic in topics {
        let id = decode_id(&topic.topic_id)?;
        for stored in topic.partitions {
            let key = PartitionKey {
                topic: id,
                partition: PartitionId(stored.partition),
            };
            let committed = CommittedOffset {
                offset: Offset::new(stored.offset).ok_or(DecodeError::Offset(stored.offset))?,
                leader_epoch: stored.leader_epoch.map(LeaderEpoch),
                metadata: stored.metadata.into(),
                committed: Timestamp(stored.committed_ms),
            };
            offsets.push((key, committed));
        }
    }
    Ok(offsets)
}

fn encode_id(id: TopicId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn decode_id(bytes: &[u8]) -> Result<TopicId, DecodeError> {
    TopicId::from_slice(bytes).ok_or(DecodeError::TopicId(bytes.len()))
}
