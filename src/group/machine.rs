//! The machine: decides about commits and applies what was decided.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::record::GroupRecord;
use crate::machine::{Effects, StateMachine};
use crate::model::{
    GroupId, InvalidGroupId, LeaderEpoch, Offset, PartitionId, PartitionKey, Timestamp, TopicId,
};

/// What a committed offset is counted as beside its metadata, in bytes of state: about what it takes in memory.
pub const OFFSET_STATE_BYTES: u64 = 96;

/// How much of everything there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Groups.
    pub groups_max: usize,
    /// Committed offsets of one group.
    pub offsets_per_group_max: usize,
    /// Metadata of one committed offset, in bytes.
    pub metadata_bytes_max: usize,
    /// Offsets of all groups with their metadata, in bytes, each offset counted as [`OFFSET_STATE_BYTES`]. The whole state
    /// is written with every checkpoint.
    pub state_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            groups_max: 10_000,
            offsets_per_group_max: 20_000,
            metadata_bytes_max: 4_096,
            state_bytes_max: 64 << 20,
        }
    }
}

/// How far a group is in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Offset of the next record that the group wants.
    pub offset: Offset,
    /// Epoch of the last record that it processed, if it told.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Its own words.
    pub metadata: Arc<str>,
    /// When it was committed, by the broker's clock.
    pub committed: Timestamp,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Keep these offsets.
    CommitOffsets(CommitOffsets),
    /// Forget every offset of a topic, which is being deleted.
    DeleteTopic(TopicId),
}

/// Offsets to be kept, all of them or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOffsets {
    /// The group; not checked yet.
    pub group: String,
    /// Where it is; the time of the commit is filled in.
    pub offsets: Vec<(PartitionKey, CommittedOffset)>,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To [`Command::CommitOffsets`]: the time of the commit.
    Committed(Timestamp),
    /// To [`Command::DeleteTopic`].
    TopicDeleted,
    /// To a commit.
    Refused(GroupError),
}

/// Why a commit is refused. `index` is the place in the command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The group id is not allowed.
    #[error("{0}")]
    Id(#[from] InvalidGroupId),
    /// A partition comes twice: which of the two offsets is meant cannot be known.
    #[error("a partition comes a second time")]
    Twice {
        /// The second place.
        index: usize,
    },
    /// Too much metadata.
    #[error("{bytes} bytes of metadata, at most {max} are allowed")]
    MetadataTooLarge {
        /// Where.
        index: usize,
        /// What was sent.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// No more groups.
    #[error("there are {max} groups, which is the limit")]
    TooManyGroups {
        /// The limit.
        max: usize,
    },
    /// No more offsets in this group.
    #[error("the group would have {would_be} committed offsets, at most {max} are allowed")]
    TooManyOffsets {
        /// With this commit.
        would_be: usize,
        /// The limit.
        max: usize,
    },
    /// No more offsets in all.
    #[error("the offsets of all groups would take {would_be} bytes, at most {max} are allowed")]
    StateFull {
        /// With this commit.
        would_be: u64,
        /// The limit.
        max: u64,
    },
}

/// The committed offsets of one group.
type Offsets = BTreeMap<PartitionKey, CommittedOffset>;

/// All groups.
// Invariant: no group is empty; `state_bytes` counts every offset that is there.
#[derive(Clone, Debug)]
pub struct Machine {
    limits: Limits,
    groups: BTreeMap<GroupId, Offsets>,
    state_bytes: u64,
}

impl Machine {
    /// No groups.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            groups: BTreeMap::new(),
            state_bytes: 0,
        }
    }

    /// From now on there may be so much. What there is more than that stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// How far a group is in a partition; `None`: it never committed there.
    pub fn offset(&self, group: &str, key: PartitionKey) -> Option<&CommittedOffset> {
        self.groups.get(group)?.get(&key)
    }

    /// Everything that a group has committed, by topic id and partition.
    pub fn offsets(&self, group: &str) -> impl Iterator<Item = (PartitionKey, &CommittedOffset)> {
        let offsets = self.groups.get(group).into_iter().flatten();
        offsets.map(|(key, committed)| (*key, committed))
    }

    /// All groups with their offsets, in the order of their ids.
    pub fn groups(&self) -> impl Iterator<Item = (&GroupId, &Offsets)> {
        self.groups.iter()
    }

    /// Bytes of state as [`Limits::state_bytes_max`] counts them.
    pub fn state_bytes(&self) -> u64 {
        self.state_bytes
    }

    fn commit(
        &self,
        now: Timestamp,
        command: CommitOffsets,
    ) -> Result<Effects<GroupRecord, Reply>, GroupError> {
        let group: GroupId = command.group.parse()?;
        self.check_items(&command.offsets)?;
        self.check_room(&group, &command.offsets)?;
        let stamp = |(key, committed): (PartitionKey, CommittedOffset)| {
            let committed = CommittedOffset {
                committed: now,
                ..committed
            };
            (key, committed)
        };
        let offsets: Vec<_> = command.offsets.into_iter().map(stamp).collect();
        let records = if offsets.is_empty() {
            Vec::new()
        } else {
            vec![GroupRecord::OffsetsCommitted { group, offsets }]
        };
        Ok(Effects {
            records,
            reply: Reply::Committed(now),
        })
    }

    fn check_items(&self, offsets: &[(PartitionKey, CommittedOffset)]) -> Result<(), GroupError> {
        let max = self.limits.metadata_bytes_max;
        let mut seen = BTreeSet::new();
        for (index, (key, committed)) in offsets.iter().enumerate() {
            if !seen.insert(*key) {
                return Err(GroupError::Twice { index });
            }
            let bytes = committed.metadata.len();
            if bytes > max {
                return Err(GroupError::MetadataTooLarge { index, bytes, max });
            }
        }
        Ok(())
    }

    /// Limits hold back what grows. A commit that takes no more room than what it replaces always passes: a group that is
    /// there must be able to go on.
    fn check_room(
        &self,
        group: &GroupId,
        offsets: &[(PartitionKey, CommittedOffset)],
    ) -> Result<(), GroupError> {
        let known = self.groups.get(group);
        let max = self.limits.groups_max;
        if known.is_none() && !offsets.is_empty() && self.groups.len() >= max {
            return Err(GroupError::TooManyGroups { max });
        }
        let replaced = || offsets.iter().filter_map(|(key, _)| known?.get(key));
        let kept = known.map_or(0, BTreeMap::len).saturating_sub(replaced().count());
        let (would_be, max) = (kept + offsets.len(), self.limits.offsets_per_group_max);
        if would_be > max && offsets.len() > replaced().count() {
            return Err(GroupError::TooManyOffsets { would_be, max });
        }
        let freed: u64 = replaced().map(state_bytes).sum();
        let added: u64 = offsets.iter().map(|(_, committed)| state_bytes(committed)).sum();
        let would_be = self.state_bytes.saturating_sub(freed).saturating_add(added);
        let max = self.limits.state_bytes_max;
        if would_be > max && added > freed {
            return Err(GroupError::StateFull { would_be, max });
        }
        Ok(())
    }

    fn delete_topic(&self, topic: TopicId) -> Effects<GroupRecord, Reply> {
        let is_known = self.groups.values().any(|offsets| has_topic(offsets, topic));
        let records = if is_known {
            vec![GroupRecord::TopicDeleted(topic)]
        } else {
            Vec::new()
        };
        Effects {
            records,
            reply: Reply::TopicDeleted,
        }
    }

    fn insert(&mut self, group: &GroupId, offsets: &[(PartitionKey, CommittedOffset)]) {
        if offsets.is_empty() {
            return;
        }
        let known = self.groups.entry(group.clone()).or_default();
        for (key, committed) in offsets {
            self.state_bytes = self.state_bytes.saturating_add(state_bytes(committed));
            if let Some(replaced) = known.insert(*key, committed.clone()) {
                self.state_bytes = self.state_bytes.saturating_sub(state_bytes(&replaced));
            }
        }
    }

    fn forget_topic(&mut self, topic: TopicId) {
        let mut freed = 0;
        self.groups.retain(|_, offsets| {
            if has_topic(offsets, topic) {
                offsets.retain(|key, committed| {
                    let goes = key.topic == topic;
                    freed += if goes { state_bytes(committed) } else { 0 };
                    !goes
                });
            }
            !offsets.is_empty()
        });
        self.state_bytes = self.state_bytes.saturating_sub(freed);
    }
}

fn has_topic(offsets: &Offsets, topic: TopicId) -> bool {
    let first = PartitionKey {
        topic,
        partition: PartitionId(0),
    };
    offsets
        .range(first..)
        .next()
        .is_some_and(|(key, _)| key.topic == topic)
}

fn state_bytes(committed: &CommittedOffset) -> u64 {
    OFFSET_STATE_BYTES.saturating_add(u64::try_from(committed.metadata.len()).unwrap_or(u64::MAX))
}

impl StateMachine for Machine {
    type Command = Command;
    type Record = GroupRecord;
    type Reply = Reply;

    fn handle(&self, now: Timestamp, command: Command) -> Effects<GroupRecord, Reply> {
        match command {
            Command::CommitOffsets(commit) => self.commit(now, commit).unwrap_or_else(|refusal| Effects {
                records: Vec::new(),
                reply: Reply::Refused(refusal),
            }),
            Command::DeleteTopic(topic) => self.delete_topic(topic),
        }
    }

    fn apply(&mut self, record: &GroupRecord) {
        match record {
            GroupRecord::OffsetsCommitted { group, offsets } => self.insert(group, offsets),
            GroupRecord::TopicDeleted(topic) => self.forget_topic(*topic),
        }
    }
}
