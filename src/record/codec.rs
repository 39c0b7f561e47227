//! Records inside a batch: their byte layout, read without copies. Knows nothing of what may be stored.

use std::str;

use bytes::Bytes;

use super::batch::{APPEND_TIME_BIT, CODEC_BITS};
use super::{BatchError, BatchHeader, HEADER_BYTES, varint};
use crate::model::{Offset, Timestamp};

/// A record header: a key, which is text, and a value, which may be null.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Header {
    /// Key, UTF-8.
    pub key: String,
    /// Value; `None` is null.
    pub value: Option<Bytes>,
}

/// A record outside of its batch.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Record {
    /// Key; `None` is null.
    pub key: Option<Bytes>,
    /// Value; `None` is null (a tombstone).
    pub value: Option<Bytes>,
    /// Headers, in order; keys may repeat.
    pub headers: Vec<Header>,
    /// Create time; `None` on produce: to be filled with the clock.
    pub timestamp: Option<Timestamp>,
}

impl Record {
    /// An upper bound of the record's encoded size.
    pub fn encoded_bytes_max(&self) -> u64 {
        // Length 5, attributes 1, timestamp delta 10, offset delta 5, two lengths of 5, header count 5.
        const FIXED_BYTES_MAX: u64 = 36;
        const HEADER_LENGTHS_BYTES_MAX: u64 = 10;
        let length = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let optional = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, |bytes| length(bytes.len()));
        self.headers
            .iter()
            .map(|header| {
                length(header.key.len())
                    .saturating_add(optional(&header.value))
                    .saturating_add(HEADER_LENGTHS_BYTES_MAX)
            })
            .fold(FIXED_BYTES_MAX, u64::saturating_add)
            .saturating_add(optional(&self.key))
            .saturating_add(optional(&self.value))
    }
}

/// A record inside a batch, borrowed from it; keys and values are slices, nothing is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Its create time.
    pub timestamp: Timestamp,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Value.
    pub value: Option<&'a [u8]>,
    /// Number of headers.
    pub header_count: u32,
    /// Encoded headers, already checked to be well-formed.
    headers: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Decodes the headers: key and value.
    pub fn headers(&self) -> Vec<Header> {
        self.decode_headers(Bytes::copy_from_slice)
    }

    /// An owned copy whose bytes are slices of `batch`, the very bytes this view was made from.
    ///
    /// # Panics
    /// If the view was made from other bytes.
    pub fn to_record(&self, batch: &Bytes) -> Record {
        let slice = |part: &'a [u8]| batch.slice_ref(part);
        Record {
            key: self.key.map(slice),
            value: self.value.map(slice),
            headers: self.decode_headers(slice),
            timestamp: Some(self.timestamp),
        }
    }

    fn decode_headers(&self, own: impl Fn(&'a [u8]) -> Bytes) -> Vec<Header> {
        let mut rest = self.headers;
        // The headers were walked when this view was made: the count is true and none of them is malformed.
        (0..self.header_count)
            .map_while(|_| take_header(&mut rest).ok())
            .map(|(key, value)| Header {
                key: key.to_owned(),
                value: value.map(&own),
            })
            .collect()
    }
}

/// Walks the records of one uncompressed batch of any origin: offsets may have gaps, as compaction leaves them.
/// A compressed one is an error: see [`super::uncompressed`]. Ends after the first error.
#[derive(Debug)]
pub struct Records<'a> {
    header: BatchHeader,
    rest: &'a [u8],
    /// Index of the next record.
    index: u32,
    ended: bool,
}

impl<'a> Records<'a> {
    /// Over a whole batch (header included) whose header was parsed.
    pub fn new(header: &BatchHeader, batch: &'a [u8]) -> Self {
        let whole = usize::try_from(header.total_bytes())
            .ok()
            .and_then(|end| batch.get(..end))
            .unwrap_or(batch);
        Self::in_body(header, whole.get(HEADER_BYTES..).unwrap_or_default())
    }

    /// Over what follows the header.
    pub(super) fn in_body(header: &BatchHeader, body: &'a [u8]) -> Self {
        Self {
            header: *header,
            rest: body,
            index: 0,
            ended: false,
        }
    }

    fn take(&mut self) -> Result<Option<RecordView<'a>>, BatchError> {
        let header = &self.header;
        if header.attributes & CODEC_BITS != 0 {
            return Err(BatchError::Compression(codec(header.attributes)));
        }
        if self.index == header.count {
            return match self.rest {
                [] => Ok(None),
                rest => Err(trailing_bytes(rest)),
            };
        }
        let raw = take_record(&mut self.rest).map_err(|what| malformed(self.index, what))?;
        let offset = u32::try_from(raw.offset_delta)
            .ok()
            .filter(|&delta| delta <= header.last_offset_delta)
            .and_then(|delta| header.base_offset.checked_add(delta))
            .ok_or_else(|| malformed(self.index, "its offset lies outside of the batch"))?;
        let timestamp = if header.attributes & APPEND_TIME_BIT == 0 {
            raw.timestamp(header.base_timestamp)
        } else {
            header.max_timestamp
        };
        self.index = self.index.saturating_add(1);
        Ok(Some(RecordView {
            offset,
            timestamp,
            key: raw.key,
            value: raw.value,
            header_count: raw.header_count,
            headers: raw.headers,
        }))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let taken = self.take();
        self.ended = !matches!(taken, Ok(Some(_)));
        taken.transpose()
    }
}

/// What is wrong with a record, in words. A constant text, so that the walk neither allocates nor formats.
pub(super) type Malformed = &'static str;

/// A well-formed record; whether its fields make sense is not checked.
pub(super) struct RawRecord<'a> {
    pub(super) attributes: u8,
    timestamp_delta: i64,
    pub(super) offset_delta: i32,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    header_count: u32,
    headers: &'a [u8],
    pub(super) has_empty_header_key: bool,
}

impl RawRecord<'_> {
    /// Its create time. Wraps as Kafka does, so that any two times can stand in one batch.
    #[inline(always)]
    pub(super) fn timestamp(&self, base: Timestamp) -> Timestamp {
        Timestamp(base.0.wrapping_add(self.timestamp_delta))
    }
}

/// Takes one record from the front, headers checked. After an error `rest` is of no use.
#[inline(always)]
pub(super) fn take_record<'a>(rest: &mut &'a [u8]) -> Result<RawRecord<'a>, Malformed> {
    let length = take_length(rest).ok_or("its length is malformed or negative")?;
    let (mut record, behind) = rest
        .split_at_checked(length)
        .ok_or("it is longer than the rest of the batch")?;
    *rest = behind;
    let (&attributes, fields) = record.split_first().ok_or("it has no attributes")?;
    record = fields;
    let timestamp_delta = varint::take_u64(&mut record).ok_or("its timestamp delta is malformed")?;
    let offset_delta = varint::take_u32(&mut record).ok_or("its offset delta is malformed")?;
    let key =
        take_nullable(&mut record).ok_or("its key has a malformed length or is longer than the record")?;
    let value =
        take_nullable(&mut record).ok_or("its value has a malformed length or is longer than the record")?;
    let header_count = varint::take_u32(&mut record)
        .filter(|encoded| encoded & 1 == 0)
        .ok_or("its header count is malformed or negative")?
        >> 1;
    let has_empty_header_key = if header_count == 0 && record.is_empty() {
        false
    } else {
        check_headers(header_count, record)?
    };
    Ok(RawRecord {
        attributes,
        timestamp_delta: varint::unzigzag(timestamp_delta),
        offset_delta: varint::unzigzag_u32(offset_delta),
        key,
        value,
        header_count,
        headers: record,
        has_empty_header_key,
    })
}

/// Walks the headers to the end of the record; says whether one of them has an empty key. The claimed count only bounds the
/// walk: each header takes bytes, so that a false count fails when the bytes end.
#[inline(never)]
fn check_headers(count: u32, mut rest: &[u8]) -> Result<bool, Malformed> {
    let mut has_empty_key = false;
    for _ in 0..count {
        let (key, _) = take_header(&mut rest)?;
        has_empty_key |= key.is_empty();
    }
    if rest.is_empty() {
        Ok(has_empty_key)
    } else {
        Err("bytes follow its last header")
    }
}

fn take_header<'a>(rest: &mut &'a [u8]) -> Result<(&'a str, Option<&'a [u8]>), Malformed> {
    let key = take_length(rest)
        .and_then(|length| take_bytes(rest, length))
        .ok_or("a header key is null, has a malformed length or is longer than the record")?;
    let key = str::from_utf8(key).map_err(|_| "a header key is not UTF-8")?;
    let value =
        take_nullable(rest).ok_or("a header value has a malformed length or is longer than the record")?;
    Ok((key, value))
}

/// Takes a length that must not be negative.
#[inline(always)]
fn take_length(rest: &mut &[u8]) -> Option<usize> {
    let encoded = varint::take_u32(rest)?;
    // In the zigzag form the lowest bit is the sign.
    if encoded & 1 != 0 {
        return None;
    }
    usize::try_from(encoded >> 1).ok()
}

/// Takes a length and so many bytes; the length -1 is null. The outer option is an error, the inner one the format's null.
#[inline(always)]
fn take_nullable<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    /// The zigzag form of -1.
    const NULL: u32 = 1;
    let encoded = varint::take_u32(rest)?;
    if encoded == NULL {
        return Some(None);
    }
    if encoded & 1 != 0 {
        return None;
    }
    let length = usize::try_from(encoded >> 1).ok()?;
    take_bytes(rest, length).map(Some)
}

#[inline(always)]
fn take_bytes<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (bytes, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(bytes)
}

/// The codec number in the attributes.
pub(super) fn codec(attributes: u16) -> u8 {
    let [low, _] = (attributes & CODEC_BITS).to_le_bytes();
    low
}

#[cold]
pub(super) fn malformed(index: u32, what: Malformed) -> BatchError {
    BatchError::Record {
        index,
        what: what.to_owned(),
    }
}

#[cold]
pub(super) fn trailing_bytes(rest: &[u8]) -> BatchError {
    BatchError::Invalid(format!(
        "{} bytes follow the last record of the batch",
        rest.len()
    ))
}
