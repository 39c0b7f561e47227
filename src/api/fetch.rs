//! Reading.

use std::time::Duration;

use bytes::Bytes;

use super::{ApiError, GroupMember, TopicPartition};
use crate::model::{LeaderEpoch, Offset};
use crate::record::Record;

/// Reads from one or several partitions; waits until there is enough.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetch {
    /// How long to wait for `min_bytes`.
    pub max_wait: Duration,
    /// Enough is so much in all; an error of any partition is enough, too.
    pub min_bytes: u32,
    /// Most bytes in all; the first batch comes even if it is larger.
    pub max_bytes: u32,
    /// In which form.
    pub form: FetchForm,
    /// If a member of a group reads: the group, not checked yet, and who it is.
    pub member: Option<(String, GroupMember)>,
    /// From where.
    pub partitions: Vec<FetchPartition>,
}

/// Form of fetched records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchForm {
    /// Whole record batches as stored.
    Raw,
    /// Decoded records.
    Structured,
}

/// From where to read.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchPartition {
    /// The partition.
    pub partition: TopicPartition,
    /// First offset wanted; not checked yet.
    pub offset: i64,
    /// Most bytes of this partition.
    pub max_bytes: u32,
    /// If given, the leader epoch that the client knows.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// One result per partition, in the order asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    /// The results.
    pub partitions: Vec<Result<FetchedPartition, ApiError>>,
}

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchedPartition {
    /// End of the visible records, exclusive.
    pub high_watermark: Offset,
    /// First readable offset.
    pub log_start: Offset,
    /// Where to read next.
    pub next_offset: Offset,
    /// Epoch of the partition.
    pub leader_epoch: LeaderEpoch,
    /// The records.
    pub payload: FetchPayload,
}

/// Records as they were asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum FetchPayload {
    /// Whole batches in offset order; the first may begin below the offset asked for.
    Raw(Vec<Bytes>),
    /// Records from the offset asked for, each with its offset.
    Structured(Vec<(Offset, Record)>),
}
