//! Appending.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{ApiError, TopicPartition};
use crate::model::{Acks, LeaderEpoch, Lsn, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use crate::record::{BatchError, Record, SealedBatch, validate_within};

/// Makes a new idempotent producer or bumps the epoch of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitProducer {
    /// The producer whose epoch is to be bumped; `None`: a new one.
    pub current: Option<(ProducerId, ProducerEpoch)>,
}

/// Identity of an idempotent producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitializedProducer {
    /// Its id.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
}

/// Batches for one or several partitions. Each partition succeeds or fails by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Produce {
    /// How safe they must be before the answer.
    pub acks: Acks,
    /// The batches.
    pub partitions: Vec<ProducePartition>,
}

impl Produce {
    /// Bytes that are waiting to be written, as far as they are known before encoding.
    pub fn payload_bytes(&self) -> u64 {
        self.partitions.iter().map(|p| p.payload.bytes()).sum()
    }
}

/// One batch.
#[derive(Clone, Debug, PartialEq)]
pub struct ProducePartition {
    /// Where it goes.
    pub partition: TopicPartition,
    /// If given, the leader epoch that the client knows.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The records.
    pub payload: ProducePayload,
}

/// The records of one batch.
#[derive(Clone, Debug, PartialEq)]
pub enum ProducePayload {
    /// A whole record batch, not validated yet.
    Raw(Bytes),
    /// A whole record batch whose records are compressed, and what its validation came to. Never made by a protocol.
    Compressed(Arc<Validation>),
    /// Records, to be encoded by the broker.
    Structured {
        /// The records.
        records: Vec<Record>,
        /// Identity of an idempotent producer.
        producer: Option<ProducerStamp>,
    },
}

/// A compressed batch on its way through validation, which may take place on another thread.
#[derive(Debug, PartialEq)]
pub struct Validation {
    batch: Bytes,
    verdict: OnceLock<Result<SealedBatch, BatchError>>,
}

impl Validation {
    /// Nothing is known yet.
    pub fn new(batch: Bytes) -> Self {
        Self {
            batch,
            verdict: OnceLock::new(),
        }
    }

    /// Validates the batch, whatever its size. Comes to no verdict if its records have more than `records_bytes_max` bytes,
    /// unless that is the whole `limit`.
    pub fn run(&self, records_bytes_max: usize, limit: usize) {
        match validate_within(self.batch.clone(), u32::MAX, records_bytes_max) {
            Err(BatchError::Expands { .. }) if records_bytes_max < limit => {}
            verdict => {
                // Another thread may have been faster; both say the same.
                let _ = self.verdict.set(verdict);
            }
        }
    }

    /// Comes to the verdict that there can be none, unless there is one: a decoder that fails on these bytes fails again.
    pub fn give_up(&self) {
        let reason = "the records could not be looked at".to_owned();
        let _ = self.verdict.set(Err(BatchError::Invalid(reason)));
    }

    /// What validation came to, if it has ended.
    pub fn verdict(&self) -> Option<&Result<SealedBatch, BatchError>> {
        self.verdict.get()
    }
}

impl ProducePayload {
    /// An upper bound of the batch's size in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Raw(bytes) => bytes.len() as u64,
            Self::Compressed(validation) => validation.batch.len() as u64,
            Self::Structured { records, .. } => {
                let header = crate::record::HEADER_BYTES as u64;
                header + records.iter().map(Record::encoded_bytes_max).sum::<u64>()
            }
        }
    }
}

/// Producer fields of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerStamp {
    /// Who.
    pub id: ProducerId,
    /// Fencing number.
    pub epoch: ProducerEpoch,
    /// Sequence of the first record.
    pub base_sequence: Sequence,
}

/// One result per partition, in the order asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Produced {
    /// The results.
    pub partitions: Vec<Result<ProducedPartition, ApiError>>,
}

/// A batch that has its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducedPartition {
    /// Offsets of the first and last record; `None` for a duplicate older than what is remembered.
    pub offsets: Option<(Offset, Offset)>,
    /// When it was appended.
    pub append_time: Timestamp,
    /// Epoch stamped into it.
    pub leader_epoch: LeaderEpoch,
    /// The batch had been written before.
    pub duplicate: bool,
    /// The level given.
    pub acks: Acks,
    /// The journal frame that made it durable, for [`Acks::Fsync`].
    pub durable_through: Option<Lsn>,
    /// First readable offset of the partition.
    pub log_start: Offset,
}
