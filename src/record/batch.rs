//! The batch header and sealed batches.

use bytes::Bytes;

use crate::model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;

/// The decoded header. Field names are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Bytes behind the length field: whole batch less 12.
    pub batch_length: u32,
    /// Epoch of the leader that stamped it.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C from `attributes` to the end.
    pub crc: u32,
    /// Codec, timestamp type, transactional, control.
    pub attributes: u16,
    /// Offset of the last record less `base_offset`.
    pub last_offset_delta: u32,
    /// Create time of the first record.
    pub base_timestamp: Timestamp,
    /// Greatest create time.
    pub max_timestamp: Timestamp,
    /// Idempotent producer; `None` if the field is negative.
    pub producer: Option<(ProducerId, ProducerEpoch, Sequence)>,
    /// Number of records.
    pub count: u32,
}

impl BatchHeader {
    /// Bytes of the whole batch.
    pub fn total_bytes(&self) -> u64 {
        u64::from(self.batch_length) + 12
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> Offset {
        self.base_offset
            .checked_add(self.last_offset_delta)
            .unwrap_or(self.base_offset)
    }

    /// Sequence of the last record, if there is a producer.
    pub fn last_sequence(&self) -> Option<Sequence> {
        self.producer
            .map(|(_, _, first)| first.plus(self.last_offset_delta))
    }
}

/// A validated batch whose header can still be stamped; the body stays shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedBatch {
    head: [u8; HEADER_BYTES],
    body: Bytes,
    header: BatchHeader,
}

impl BatchHeader {
    /// Decodes the header at the front of `bytes`; checks magic and that lengths and counts are not negative, nothing else.
    ///
    /// # Errors
    /// `Truncated` if there are fewer than 61 bytes, otherwise what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, super::BatchError> {
        let _ = bytes;
        unimplemented!()
    }
}

impl SealedBatch {
    /// Decoded header, as stamped.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The 61 header bytes, as stamped.
    pub fn head(&self) -> &[u8; HEADER_BYTES] {
        &self.head
    }

    /// The bytes behind the header.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Bytes of the whole batch.
    pub fn total_bytes(&self) -> u32 {
        unimplemented!()
    }

    /// Writes base offset and leader epoch into the header; the CRC does not cover them.
    pub fn stamp(&mut self, base: Offset, epoch: LeaderEpoch) {
        let _ = (base, epoch);
        unimplemented!()
    }

    /// CRC-32C of all bytes, header as stamped: combined from the first 21 bytes and the batch's own CRC, so the body is
    /// not walked again.
    pub fn whole_crc(&self) -> u32 {
        unimplemented!()
    }

    /// The whole batch in one piece (copies the body).
    pub fn to_bytes(&self) -> Bytes {
        unimplemented!()
    }
}

/// Cuts a concatenation of whole batches, as fetched or stored, into batches with their headers. Slices, never copies.
/// Ends after the first error.
#[derive(Debug)]
pub struct Batches {
    rest: Bytes,
}

impl Batches {
    /// Over these bytes.
    pub fn new(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }
}

impl Iterator for Batches {
    type Item = Result<(BatchHeader, Bytes), super::BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let _ = &self.rest;
        unimplemented!()
    }
}
