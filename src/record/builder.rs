//! Encoding of batches.

use bytes::Bytes;

use super::{Header, SealedBatch};
use crate::model::{ProducerEpoch, ProducerId, Sequence, Timestamp};

/// Producer fields of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerFields {
    /// Who.
    pub id: ProducerId,
    /// Fencing number.
    pub epoch: ProducerEpoch,
    /// Sequence of the first record.
    pub base_sequence: Sequence,
}

/// Builds one uncompressed batch, record by record, straight into its final bytes.
#[derive(Debug, Default)]
pub struct BatchBuilder {}

impl BatchBuilder {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch with room for so many bytes.
    pub fn with_capacity(_bytes: usize) -> Self {
        unimplemented!()
    }

    /// Appends a record. The first record's time is the base of the others' deltas.
    pub fn push(
        &mut self,
        _timestamp: Timestamp,
        _key: Option<&[u8]>,
        _value: Option<&[u8]>,
        _headers: &[Header],
    ) {
        unimplemented!()
    }

    /// Records so far.
    pub fn count(&self) -> u32 {
        unimplemented!()
    }

    /// Size of the batch so far in bytes, header included; exact.
    pub fn encoded_bytes(&self) -> usize {
        unimplemented!()
    }

    /// What `encoded_bytes` would be after pushing this record; exact.
    pub fn encoded_bytes_with(
        &self,
        _timestamp: Timestamp,
        _key: Option<&[u8]>,
        _value: Option<&[u8]>,
        _headers: &[Header],
    ) -> usize {
        unimplemented!()
    }

    /// Finishes the batch: header, producer, CRC; base offset 0, leader epoch -1. Whole batch bytes.
    /// The builder must not be empty.
    pub fn finish(self, _producer: Option<ProducerFields>) -> Bytes {
        unimplemented!()
    }

    /// The same as a sealed batch, which needs no validation.
    pub fn seal(self, _producer: Option<ProducerFields>) -> SealedBatch {
        unimplemented!()
    }
}
