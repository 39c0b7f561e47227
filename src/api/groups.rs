//! Committed offsets of groups.

use std::sync::Arc;

use super::{ApiError, TopicPartition};
use crate::model::{LeaderEpoch, LogBounds, Offset, PartitionKey, Timestamp, TopicName};

/// Keeps how far a group is: all of the offsets, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOffsets {
    /// The group; not checked yet.
    pub group: String,
    /// Where it is.
    pub offsets: Vec<OffsetToCommit>,
}

/// One partition of [`CommitOffsets`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetToCommit {
    /// The partition.
    pub partition: TopicPartition,
    /// Offset of the next record that the group wants; not checked yet.
    pub offset: i64,
    /// Epoch of the last record that was processed, if known.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Whatever the group wants to keep with it.
    pub metadata: String,
}

/// Asks how far a group is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchOffsets {
    /// The group; not checked yet.
    pub group: String,
    /// In these partitions; empty: everywhere it has committed.
    pub partitions: Vec<TopicPartition>,
}

/// How far a group is, as of one moment: one per partition asked for, in that order.
pub type FetchedOffsets = Vec<Result<GroupOffset, ApiError>>;

/// How far a group is in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOffset {
    /// Name of the topic.
    pub topic: TopicName,
    /// The partition.
    pub key: PartitionKey,
    /// What was committed; `None`: nothing.
    pub committed: Option<Committed>,
    /// Where the partition begins and ends, to tell how far the group is behind.
    pub bounds: LogBounds,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Offset of the next record that the group wants.
    pub offset: Offset,
    /// Epoch of the last record that was processed, if the group told.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The group's own words.
    pub metadata: Arc<str>,
    /// When it was committed.
    pub at: Timestamp,
}
