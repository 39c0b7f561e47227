//! What a member reads.

use std::ops::Deref;

use super::places::Claim;
use crate::client::{ConsumedBatch, ConsumedRecord, TopicPartition};
use crate::model::Offset;

/// A record that a member of a group was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// The record.
    pub record: ConsumedRecord,
    /// It may have been handed to an earlier holder of the partition, who did not commit it.
    pub redelivered: bool,
    pub(super) claim: Claim,
}

impl Deref for GroupRecord {
    type Target = ConsumedRecord;

    fn deref(&self) -> &ConsumedRecord {
        &self.record
    }
}

/// A whole batch that a member of a group was given, not decoded yet.
#[derive(Clone, Debug)]
pub struct GroupBatch {
    /// Where it is from.
    pub partition: TopicPartition,
    /// The batch.
    pub batch: ConsumedBatch,
    /// Records below may have been handed to an earlier holder of the partition; `None`: none was.
    pub maybe_seen_upto: Option<Offset>,
    pub(super) claim: Claim,
}
