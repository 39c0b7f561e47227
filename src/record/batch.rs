//! The batch header and sealed batches. Knows nothing of what a record looks like.

use bytes::{BufMut, Bytes, BytesMut};

use super::crc::{OUTER_BYTES, combine, crc32c, outer_crc};
use super::{BatchError, Records};
use crate::model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;
const HEADER_BYTES_U32: u32 = 61;

/// Bytes of a batch up to the end of its length field, which counts what follows.
pub(super) const LENGTH_END: u32 = 12;

/// The only format version there is.
pub(super) const MAGIC: u8 = 2;

/// Attributes, lowest three bits: the codec.
pub(super) const CODEC_BITS: u16 = 0b111;
/// Attributes: every record has the time of the append, which is the greatest time of the header.
pub(super) const APPEND_TIME_BIT: u16 = 1 << 3;
/// Attributes: part of a transaction.
pub(super) const TRANSACTIONAL_BIT: u16 = 1 << 4;
/// Attributes: written by a broker to end a transaction.
pub(super) const CONTROL_BIT: u16 = 1 << 5;

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
    /// Idempotent producer; `None` if the producer id is negative.
    pub producer: Option<(ProducerId, ProducerEpoch, Sequence)>,
    /// Number of records.
    pub count: u32,
}

impl BatchHeader {
    /// Decodes the header at the front of `bytes`; checks magic and that lengths and counts are not negative, nothing else.
    ///
    /// # Errors
    /// `Truncated` if there are fewer than 61 bytes, otherwise what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let raw = RawHeader::parse(bytes)?;
        Ok(Self {
            base_offset: Offset::new(raw.base_offset)
                .ok_or_else(|| negative("base offset", raw.base_offset))?,
            batch_length: raw.checked_length()?,
            leader_epoch: LeaderEpoch(raw.leader_epoch),
            crc: raw.crc,
            attributes: raw.attributes,
            last_offset_delta: not_negative("last offset delta", raw.last_offset_delta)?,
            base_timestamp: Timestamp(raw.base_timestamp),
            max_timestamp: Timestamp(raw.max_timestamp),
            producer: (raw.producer_id >= 0).then_some((
                ProducerId(raw.producer_id),
                ProducerEpoch(raw.producer_epoch),
                Sequence(raw.base_sequence),
            )),
            count: not_negative("record count", raw.count)?,
        })
    }

    /// Bytes of the whole batch.
    pub fn total_bytes(&self) -> u64 {
        total_bytes(self.batch_length)
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

/// Greatest timestamp that the header at the front of `batch` names; `None` if it is shorter than a header.
///
/// For batches that were checked when they were taken in: the rest of the header is not looked at.
pub fn max_timestamp_of(batch: &[u8]) -> Option<Timestamp> {
    let head: &[u8; HEADER_BYTES] = batch.first_chunk()?;
    Some(Timestamp(i64::from_be_bytes(field::<35, 8>(head))))
}

/// Checks a whole batch of any origin against the CRC in its header. Bytes behind the batch do not count.
///
/// # Errors
/// `Truncated` if `batch` is shorter than its header says, `Crc` if its bytes have another checksum.
pub fn check_crc(header: &BatchHeader, batch: &[u8]) -> Result<(), BatchError> {
    let covered = usize::try_from(header.total_bytes())
        .ok()
        .and_then(|end| batch.get(OUTER_BYTES..end))
        .ok_or_else(|| truncated(header.total_bytes(), batch))?;
    compare_crc(header.crc, covered)
}

/// A validated batch whose header can still be stamped; the body stays shared.
// Invariant: made by `validate` or by `BatchBuilder` only; `header` is the decoded form of `head`, whose CRC and length fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedBatch {
    head: [u8; HEADER_BYTES],
    body: Bytes,
    header: BatchHeader,
    /// Noted while a compressed batch was walked, so that nobody has to decompress it again.
    extremes: Option<[TimedRecord; 2]>,
}

/// A record of a batch, and its create time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedRecord {
    /// Which one, from 0.
    pub index: u32,
    /// Its create time.
    pub timestamp: Timestamp,
}

impl SealedBatch {
    /// Seals a whole batch that keeps the rules of `validate`. `header` is its decoded header.
    pub(super) fn new(mut batch: Bytes, header: BatchHeader) -> Self {
        debug_assert_eq!(BatchHeader::parse(&batch), Ok(header));
        let body = batch.split_off(HEADER_BYTES);
        let mut head = [0; HEADER_BYTES];
        head.copy_from_slice(&batch);
        Self {
            head,
            body,
            header,
            extremes: None,
        }
    }

    /// Notes the records with the least and the greatest create time.
    pub(super) fn with_extremes(mut self, extremes: Option<[TimedRecord; 2]>) -> Self {
        self.extremes = extremes;
        self
    }

    /// Of a compressed batch: the records with the least and the greatest create time, those with -1, "no time", left out.
    pub fn extremes(&self) -> Option<[TimedRecord; 2]> {
        self.extremes
    }

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
        // The length field is an i32, so that 12 more fit a u32.
        self.header.batch_length.saturating_add(LENGTH_END)
    }

    /// Writes base offset and leader epoch into the header; the CRC does not cover them.
    pub fn stamp(&mut self, base: Offset, epoch: LeaderEpoch) {
        self.header.base_offset = base;
        self.header.leader_epoch = epoch;
        self.head[..8].copy_from_slice(&base.get().to_be_bytes());
        self.head[12..16].copy_from_slice(&epoch.0.to_be_bytes());
    }

    /// Writes the producer fields into the header and mends the CRC, which covers them, without walking the body.
    pub fn stamp_producer(&mut self, producer: super::ProducerFields) {
        self.restamp(|head| {
            head[43..51].copy_from_slice(&producer.id.0.to_be_bytes());
            head[51..53].copy_from_slice(&producer.epoch.0.to_be_bytes());
            head[53..57].copy_from_slice(&producer.base_sequence.0.to_be_bytes());
        });
        self.header.producer = Some((producer.id, producer.epoch, producer.base_sequence));
    }

    /// Gives all records this time, the broker's at the append, and mends the CRC, which covers it, without walking the
    /// body. What the producer chose stays in the records, unread.
    pub fn stamp_append_time(&mut self, at: Timestamp) {
        let attributes = self.header.attributes | APPEND_TIME_BIT;
        self.restamp(|head| {
            head[21..23].copy_from_slice(&attributes.to_be_bytes());
            head[35..43].copy_from_slice(&at.0.to_be_bytes());
        });
        self.header.attributes = attributes;
        self.header.max_timestamp = at;
    }

    /// Writes the greatest create time of the records, and mends the CRC, which covers it, without walking the body.
    pub(super) fn stamp_max_timestamp(&mut self, greatest: Timestamp) {
        self.restamp(|head| head[35..43].copy_from_slice(&greatest.0.to_be_bytes()));
        self.header.max_timestamp = greatest;
    }

    /// The records of an uncompressed batch, in order.
    pub fn records(&self) -> Records<'_> {
        Records::in_body(&self.header, &self.body)
    }

    fn restamp(&mut self, change: impl FnOnce(&mut [u8; HEADER_BYTES])) {
        let before = crc32c(&self.head[OUTER_BYTES..]);
        change(&mut self.head);
        let after = crc32c(&self.head[OUTER_BYTES..]);
        // A CRC is linear: the change of the header's CRC, moved over the body, is the change of the whole one.
        let body_bytes = self.total_bytes().saturating_sub(HEADER_BYTES_U32);
        self.header.crc = combine(before ^ after, self.header.crc, body_bytes);
        self.head[17..21].copy_from_slice(&self.header.crc.to_be_bytes());
    }

    /// CRC-32C of all bytes, header as stamped: combined from the first 21 bytes and the batch's own CRC, so the body is
    /// not walked again.
    pub fn whole_crc(&self) -> u32 {
        let covered_bytes = self.header.batch_length.saturating_sub(OUTER_BYTES_BEHIND_LENGTH);
        combine(outer_crc(&self.head), self.header.crc, covered_bytes)
    }

    /// The whole batch in one piece (copies the body).
    pub fn to_bytes(&self) -> Bytes {
        let mut whole = BytesMut::with_capacity(HEADER_BYTES.saturating_add(self.body.len()));
        whole.put_slice(&self.head);
        whole.put_slice(&self.body);
        whole.freeze()
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

    fn cut(&mut self) -> Result<(BatchHeader, Bytes), BatchError> {
        let header = BatchHeader::parse(&self.rest)?;
        let end = usize::try_from(header.total_bytes())
            .ok()
            .filter(|&end| end <= self.rest.len())
            .ok_or_else(|| truncated(header.total_bytes(), &self.rest))?;
        Ok((header, self.rest.split_to(end)))
    }
}

impl Iterator for Batches {
    type Item = Result<(BatchHeader, Bytes), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let cut = self.cut();
        if cut.is_err() {
            self.rest.clear();
        }
        Some(cut)
    }
}

/// The header's fields as they stand in its bytes: any value is possible but for the magic.
pub(super) struct RawHeader {
    pub(super) base_offset: i64,
    pub(super) batch_length: i32,
    pub(super) leader_epoch: i32,
    pub(super) crc: u32,
    pub(super) attributes: u16,
    pub(super) last_offset_delta: i32,
    pub(super) base_timestamp: i64,
    pub(super) max_timestamp: i64,
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i16,
    pub(super) base_sequence: i32,
    pub(super) count: i32,
}

impl RawHeader {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let head: &[u8; HEADER_BYTES] = bytes
            .first_chunk()
            .ok_or_else(|| truncated(HEADER_BYTES_U64, bytes))?;
        let magic = head[16];
        if magic != MAGIC {
            return Err(BatchError::Invalid(format!(
                "the batch has format version (magic) {magic}, only {MAGIC} is supported"
            )));
        }
        Ok(Self {
            base_offset: i64::from_be_bytes(field::<0, 8>(head)),
            batch_length: i32::from_be_bytes(field::<8, 4>(head)),
            leader_epoch: i32::from_be_bytes(field::<12, 4>(head)),
            crc: u32::from_be_bytes(field::<17, 4>(head)),
            attributes: u16::from_be_bytes(field::<21, 2>(head)),
            last_offset_delta: i32::from_be_bytes(field::<23, 4>(head)),
            base_timestamp: i64::from_be_bytes(field::<27, 8>(head)),
            max_timestamp: i64::from_be_bytes(field::<35, 8>(head)),
            producer_id: i64::from_be_bytes(field::<43, 8>(head)),
            producer_epoch: i16::from_be_bytes(field::<51, 2>(head)),
            base_sequence: i32::from_be_bytes(field::<53, 4>(head)),
            count: i32::from_be_bytes(field::<57, 4>(head)),
        })
    }

    /// The length field, at least as large as an empty batch has it.
    pub(super) fn checked_length(&self) -> Result<u32, BatchError> {
        u32::try_from(self.batch_length)
            .ok()
            .filter(|&length| total_bytes(length) >= HEADER_BYTES_U64)
            .ok_or_else(|| {
                BatchError::Invalid(format!(
                    "the length field says that {} bytes follow, the header alone has 49",
                    self.batch_length
                ))
            })
    }
}

/// Bytes that the batch's own CRC leaves out and the length field counts.
const OUTER_BYTES_BEHIND_LENGTH: u32 = 9;

/// `HEADER_BYTES`, to be compared with lengths of files.
const HEADER_BYTES_U64: u64 = 61;

const _: () = assert!(HEADER_BYTES == 61 && OUTER_BYTES == 21);

/// Bytes of a whole batch with this length field.
pub(super) fn total_bytes(batch_length: u32) -> u64 {
    u64::from(batch_length).saturating_add(u64::from(LENGTH_END))
}

/// Compares the stored CRC with that of the bytes it covers.
pub(super) fn compare_crc(stored: u32, covered: &[u8]) -> Result<(), BatchError> {
    let computed = crc32c(covered);
    if computed == stored {
        Ok(())
    } else {
        Err(BatchError::Crc { stored, computed })
    }
}

pub(super) fn truncated(expected: u64, bytes: &[u8]) -> BatchError {
    BatchError::Truncated {
        expected,
        actual: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
    }
}

/// The `N` bytes from `AT`; that they lie inside the header is checked when this is compiled.
#[inline]
fn field<const AT: usize, const N: usize>(head: &[u8; HEADER_BYTES]) -> [u8; N] {
    const { assert!(AT.saturating_add(N) <= HEADER_BYTES) };
    std::array::from_fn(|at| head.get(AT.saturating_add(at)).copied().unwrap_or(0))
}

fn not_negative(what: &str, value: i32) -> Result<u32, BatchError> {
    u32::try_from(value).map_err(|_| negative(what, i64::from(value)))
}

fn negative(what: &str, value: i64) -> BatchError {
    BatchError::Invalid(format!("the {what} is {value}, it must not be negative"))
}
