//! Appending and committing in one step.

use super::{GroupMember, OffsetToCommit, ProducePartition};
use crate::model::{Acks, LeaderEpoch, Lsn, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// Appends batches and commits offsets: all of it or nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The group; not checked yet.
    pub group: String,
    /// Who commits; `None`: a consumer that assigns itself.
    pub member: Option<GroupMember>,
    /// Who steps, and which step it is.
    pub stamp: StepStamp,
    /// Where the group is then; may be empty.
    pub offsets: Vec<OffsetToCommit>,
    /// The batches, of which structured ones have no producer of their own; may be empty.
    pub appends: Vec<ProducePartition>,
}

impl Step {
    /// Bytes that are waiting to be written, as far as they are known before encoding.
    pub fn payload_bytes(&self) -> u64 {
        self.appends.iter().map(|p| p.payload.bytes()).sum()
    }
}

/// Identity of a step: the same one again is the same step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepStamp {
    /// Who.
    pub id: ProducerId,
    /// Fencing number.
    pub epoch: ProducerEpoch,
    /// Number of the step in the group.
    pub sequence: Sequence,
}

/// A step that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stepped {
    /// When.
    pub committed: Timestamp,
    /// It had been taken before.
    pub duplicate: bool,
    /// The level given.
    pub acks: Acks,
    /// The journal frame that made it durable, for [`Acks::Fsync`].
    pub durable_through: Option<Lsn>,
    /// One per append, in the order asked; empty for a duplicate older than what is remembered.
    pub appends: Vec<SteppedAppend>,
}

/// A batch that has its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteppedAppend {
    /// Offset of the first record.
    pub base: Offset,
    /// Offset of the last record.
    pub last: Offset,
    /// When it was appended.
    pub append_time: Timestamp,
    /// Epoch stamped into it.
    pub leader_epoch: LeaderEpoch,
}
