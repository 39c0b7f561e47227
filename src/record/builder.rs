//! Encoding of batches. Knows nothing of limits: the caller asks for the size before it pushes.

use bytes::Bytes;

use super::batch::{LENGTH_END, MAGIC};
use super::crc::{OUTER_BYTES, crc32c};
use super::{BatchHeader, Codec, HEADER_BYTES, Header, SealedBatch, varint};
use crate::model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

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

/// Builds one batch, record by record, straight into its final bytes.
#[derive(Debug)]
pub struct BatchBuilder {
    /// The batch so far: room for the header, then the records.
    buffer: Vec<u8>,
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
    codec: Codec,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new() -> Self {
        const FIRST_CAPACITY_BYTES: usize = 1024;
        Self::with_capacity(FIRST_CAPACITY_BYTES)
    }

    /// An empty batch with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut buffer = Vec::with_capacity(bytes.max(HEADER_BYTES));
        buffer.resize(HEADER_BYTES, 0);
        Self {
            buffer,
            count: 0,
            base_timestamp: 0,
            max_timestamp: 0,
            codec: Codec::None,
        }
    }

    /// Compresses the records when the batch is finished, if that makes it smaller.
    #[must_use]
    pub fn compressed(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Appends a record. The first record's time is the base of the others' deltas.
    pub fn push(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) {
        if self.count == 0 {
            self.base_timestamp = timestamp.0;
            self.max_timestamp = timestamp.0;
        }
        let shape = self.shape(timestamp, key, value, headers);
        self.max_timestamp = self.max_timestamp.max(timestamp.0);
        self.count = self.count.saturating_add(1);

        let buffer = &mut self.buffer;
        // One growth at most.
        buffer.reserve(shape.total_bytes());
        varint::put(buffer, varint::zigzag_length(shape.length));
        buffer.push(0);
        varint::put(buffer, shape.timestamp_delta);
        varint::put(buffer, shape.offset_delta);
        put_nullable(buffer, key);
        put_nullable(buffer, value);
        varint::put(buffer, varint::zigzag_length(headers.len()));
        for header in headers {
            put_nullable(buffer, Some(header.key.as_bytes()));
            put_nullable(buffer, header.value.as_deref());
        }
    }

    /// How the records will be compressed, if that makes them smaller.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Records so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Size of the batch so far in bytes, header included; exact, but for compression.
    pub fn encoded_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// What `encoded_bytes` would be after pushing this record; exact.
    pub fn encoded_bytes_with(
        &self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> usize {
        let record = self.shape(timestamp, key, value, headers).total_bytes();
        self.buffer.len().saturating_add(record)
    }

    /// Finishes the batch: header, producer, CRC; base offset 0, leader epoch -1. Whole batch bytes.
    /// The builder must not be empty.
    ///
    /// # Panics
    /// If the builder is empty, or holds 2 GiB, of which every limit on batches is far away.
    pub fn finish(self, producer: Option<ProducerFields>) -> Bytes {
        self.encode(producer).0
    }

    /// The same as a sealed batch, which needs no validation.
    ///
    /// # Panics
    /// As [`BatchBuilder::finish`].
    pub fn seal(self, producer: Option<ProducerFields>) -> SealedBatch {
        let (batch, header) = self.encode(producer);
        SealedBatch::new(batch, header)
    }

    fn encode(mut self, producer: Option<ProducerFields>) -> (Bytes, BatchHeader) {
        let last_offset_delta = self
            .count
            .checked_sub(1)
            .expect("a batch is finished with at least one record in it");
        let attributes = self.compress();
        let batch_length = i32::try_from(self.buffer.len())
            .ok()
            .and_then(|bytes| u32::try_from(bytes).ok())
            .and_then(|bytes| bytes.checked_sub(LENGTH_END))
            .expect("a batch is kept below 2 GiB by the limit on its size");
        let mut header = BatchHeader {
            base_offset: Offset::ZERO,
            batch_length,
            leader_epoch: LeaderEpoch(-1),
            crc: 0,
            attributes,
            last_offset_delta,
            base_timestamp: Timestamp(self.base_timestamp),
            max_timestamp: Timestamp(self.max_timestamp),
            producer: producer.map(|fields| (fields.id, fields.epoch, fields.base_sequence)),
            count: self.count,
        };
        self.put_head(&header);
        header.crc = crc32c(self.buffer.split_at(OUTER_BYTES).1);
        self.put_head(&header);
        (Bytes::from(self.buffer), header)
    }

    /// Compresses the records if that pays; the attributes that say so.
    fn compress(&mut self) -> u16 {
        let (head, records) = self.buffer.split_at(HEADER_BYTES);
        let Some(compressed) = self.codec.compress(records) else {
            return 0;
        };
        self.buffer = [head, &compressed].concat();
        self.codec.number().into()
    }

    fn put_head(&mut self, header: &BatchHeader) {
        let (head, _) = self
            .buffer
            .split_first_chunk_mut::<HEADER_BYTES>()
            .expect("the header has room from the start");
        *head = encode_head(header);
    }

    /// Sizes and deltas of a record, if it were pushed next.
    #[inline(always)]
    fn shape(
        &self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> Shape {
        let timestamp_delta = if self.count == 0 {
            0
        } else {
            varint::zigzag(timestamp.0.wrapping_sub(self.base_timestamp))
        };
        let offset_delta = varint::zigzag(i64::from(self.count));
        let header_bytes = if headers.is_empty() {
            0
        } else {
            headers_bytes(headers)
        };
        // No sum of lengths of slices in memory reaches `usize::MAX`.
        let length = 1_usize
            .saturating_add(varint::encoded_bytes(timestamp_delta))
            .saturating_add(varint::encoded_bytes(offset_delta))
            .saturating_add(nullable_bytes(key))
            .saturating_add(nullable_bytes(value))
            .saturating_add(varint::encoded_bytes(varint::zigzag_length(headers.len())))
            .saturating_add(header_bytes);
        Shape {
            timestamp_delta,
            offset_delta,
            length,
        }
    }
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// What a record looks like before it is written. Deltas in zigzag form.
struct Shape {
    timestamp_delta: u64,
    offset_delta: u64,
    /// Bytes behind the record's length.
    length: usize,
}

impl Shape {
    #[inline(always)]
    fn total_bytes(&self) -> usize {
        varint::encoded_bytes(varint::zigzag_length(self.length)).saturating_add(self.length)
    }
}

/// The zigzag form of the length -1, which stands for null.
const NULL: u8 = 1;

#[inline(always)]
fn put_nullable(buffer: &mut Vec<u8>, bytes: Option<&[u8]>) {
    if let Some(bytes) = bytes {
        varint::put(buffer, varint::zigzag_length(bytes.len()));
        buffer.extend_from_slice(bytes);
    } else {
        buffer.push(NULL);
    }
}

#[inline(always)]
fn nullable_bytes(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| {
        varint::encoded_bytes(varint::zigzag_length(bytes.len())).saturating_add(bytes.len())
    })
}

#[inline(never)]
fn headers_bytes(headers: &[Header]) -> usize {
    headers
        .iter()
        .map(|header| {
            nullable_bytes(Some(header.key.as_bytes()))
                .saturating_add(nullable_bytes(header.value.as_deref()))
        })
        .fold(0, usize::saturating_add)
}

pub(super) fn encode_head(header: &BatchHeader) -> [u8; HEADER_BYTES] {
    let (id, epoch, sequence) = header
        .producer
        .map_or((-1, -1, -1), |(id, epoch, sequence)| (id.0, epoch.0, sequence.0));
    let mut head = [0; HEADER_BYTES];
    let mut rest = &mut head[..];
    let mut put = |field: &[u8]| {
        if let Some((front, behind)) = std::mem::take(&mut rest).split_at_mut_checked(field.len()) {
            front.copy_from_slice(field);
            rest = behind;
        }
    };
    put(&header.base_offset.get().to_be_bytes());
    put(&header.batch_length.to_be_bytes());
    put(&header.leader_epoch.0.to_be_bytes());
    put(&[MAGIC]);
    put(&header.crc.to_be_bytes());
    put(&header.attributes.to_be_bytes());
    put(&header.last_offset_delta.to_be_bytes());
    put(&header.base_timestamp.0.to_be_bytes());
    put(&header.max_timestamp.0.to_be_bytes());
    put(&id.to_be_bytes());
    put(&epoch.to_be_bytes());
    put(&sequence.to_be_bytes());
    put(&header.count.to_be_bytes());
    debug_assert!(rest.is_empty(), "the fields fill the header");
    head
}
