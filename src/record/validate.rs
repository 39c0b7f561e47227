//! What a batch must be before it may be stored. Knows nothing of topics: the limit on the size is an argument.

use std::borrow::Cow;

use bytes::Bytes;

use super::batch::{
    APPEND_TIME_BIT, CODEC_BITS, CONTROL_BIT, RawHeader, TRANSACTIONAL_BIT, TimedRecord, compare_crc,
    total_bytes, truncated,
};
use super::codec::{malformed, take_record, trailing_bytes};
use super::crc::OUTER_BYTES;
use super::{BatchHeader, Codec, DECOMPRESSED_BYTES_MAX, HEADER_BYTES, SealedBatch};
use crate::model::Timestamp;

/// What is wrong with a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Shorter than it says, or than a header.
    #[error("the batch has {actual} bytes, {expected} are needed")]
    Truncated {
        /// Bytes needed.
        expected: u64,
        /// Bytes there.
        actual: u64,
    },
    /// Larger than the topic allows.
    #[error("the batch has {actual} bytes, the topic allows {max} (max.message.bytes)")]
    TooLarge {
        /// Its size.
        actual: u64,
        /// The limit.
        max: u64,
    },
    /// The checksum does not fit.
    #[error("the batch says CRC-32C {stored:#010x}, its bytes have {computed:#010x}")]
    Crc {
        /// In the header.
        stored: u32,
        /// Over the bytes.
        computed: u32,
    },
    /// There is no such codec; or there is, and the batch must be decompressed before it is walked.
    #[error("codec {0} is not supported here")]
    Compression(u8),
    /// Decompressed, the records are more than the limit.
    #[error("the records have more than {max} bytes when they are decompressed")]
    Expands {
        /// The limit.
        max: u64,
    },
    /// The timestamp type is the broker's to set.
    #[error("the batch sets the append-time bit, which only the broker may set")]
    TimestampType,
    /// Transactions are not supported.
    #[error("the batch is transactional, which is not supported")]
    Transactional,
    /// The header contradicts itself, the records or the format.
    #[error("{0}")]
    Invalid(String),
    /// A record is malformed.
    #[error("record {index}: {what}")]
    Record {
        /// Which one, from 0.
        index: u32,
        /// What is wrong.
        what: String,
    },
}

/// Checks one whole batch by every rule of `docs/protocol.md`, "Rules for batches", walking its records.
///
/// What the CRC covers is looked at only once the CRC fits, so that damage on the way is never taken for a faulty client. A
/// greatest timestamp that is not that of the records is corrected, with the CRC, as Kafka does: clients get it wrong, and
/// lookups by time rely on it.
///
/// # Errors
/// The first rule that is broken.
pub fn validate(bytes: Bytes, bytes_max: u32) -> Result<SealedBatch, BatchError> {
    validate_within(bytes, bytes_max, DECOMPRESSED_BYTES_MAX)
}

/// Whether a batch says that its records are compressed; false if it is too short to say anything.
pub fn is_compressed(batch: &[u8]) -> bool {
    /// Where the lower half of the attributes stands.
    const ATTRIBUTES_LOW_AT: usize = 22;
    let low = batch.get(ATTRIBUTES_LOW_AT).copied().unwrap_or_default();
    u16::from(low) & CODEC_BITS != 0
}

/// As [`validate`], giving up when the records have more than so many bytes decompressed.
///
/// # Errors
/// As [`validate`]; `Expands` where the records pass the limit.
pub fn validate_within(
    bytes: Bytes,
    bytes_max: u32,
    decompressed_bytes_max: usize,
) -> Result<SealedBatch, BatchError> {
    check_size(&bytes, bytes_max)?;
    let raw = RawHeader::parse(&bytes)?;
    check_length(&raw, &bytes)?;
    // The length check made sure that there are at least 61 bytes.
    compare_crc(raw.crc, bytes.get(OUTER_BYTES..).unwrap_or_default())?;
    let header = BatchHeader::parse(&bytes)?;
    check_attributes(header.attributes)?;
    check_counts(&header)?;
    check_producer(&raw)?;
    let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let records = Codec::of(&header)?.decompress(body, decompressed_bytes_max)?;
    let max_timestamp = check_records(&header, &records)?;
    let extremes = match records {
        Cow::Borrowed(_) => None,
        Cow::Owned(records) => extremes(&header, &records),
    };
    let mut sealed = SealedBatch::new(bytes, header).with_extremes(extremes);
    if max_timestamp != header.max_timestamp {
        sealed.stamp_max_timestamp(max_timestamp);
    }
    Ok(sealed)
}

fn check_size(bytes: &[u8], bytes_max: u32) -> Result<(), BatchError> {
    let actual = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let max = u64::from(bytes_max);
    if actual > max {
        return Err(BatchError::TooLarge { actual, max });
    }
    Ok(())
}

fn check_length(raw: &RawHeader, bytes: &[u8]) -> Result<(), BatchError> {
    let expected = total_bytes(raw.checked_length()?);
    let actual = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if actual < expected {
        return Err(truncated(expected, bytes));
    }
    if actual > expected {
        return Err(BatchError::Invalid(format!(
            "the batch has {expected} bytes, {actual} were sent: exactly one batch is expected"
        )));
    }
    Ok(())
}

fn check_attributes(attributes: u16) -> Result<(), BatchError> {
    const KNOWN_BITS: u16 = CODEC_BITS | APPEND_TIME_BIT | TRANSACTIONAL_BIT | CONTROL_BIT;
    if attributes & !KNOWN_BITS != 0 {
        return Err(BatchError::Invalid(format!(
            "the batch has attributes {attributes:#06x}, of which bits 6 to 15 must be clear"
        )));
    }
    if attributes & CONTROL_BIT != 0 {
        return Err(BatchError::Invalid(
            "the batch is a control batch, which only the broker may write".to_owned(),
        ));
    }
    if attributes & TRANSACTIONAL_BIT != 0 {
        return Err(BatchError::Transactional);
    }
    if attributes & APPEND_TIME_BIT != 0 {
        return Err(BatchError::TimestampType);
    }
    Ok(())
}

fn check_counts(header: &BatchHeader) -> Result<(), BatchError> {
    let BatchHeader {
        count,
        last_offset_delta,
        ..
    } = *header;
    if count == 0 {
        return Err(BatchError::Invalid("the batch has no records".to_owned()));
    }
    if last_offset_delta.checked_add(1) != Some(count) {
        return Err(BatchError::Invalid(format!(
            "the batch counts {count} records, but its last offset delta is {last_offset_delta}"
        )));
    }
    Ok(())
}

fn check_producer(raw: &RawHeader) -> Result<(), BatchError> {
    let RawHeader {
        producer_id,
        producer_epoch,
        base_sequence,
        ..
    } = *raw;
    let idempotent = producer_id >= 0 && producer_epoch >= 0 && base_sequence >= 0;
    let none = producer_id == -1 && producer_epoch == -1 && base_sequence == -1;
    if idempotent || none {
        return Ok(());
    }
    Err(BatchError::Invalid(format!(
        "producer id {producer_id}, epoch {producer_epoch} and sequence {base_sequence} must all be -1 or none negative"
    )))
}

/// The walk over every record, the broker's hottest loop: no allocation, no formatting, each byte of a record's frame read
/// once, keys and values skipped. Returns the greatest create time.
fn check_records(header: &BatchHeader, body: &[u8]) -> Result<Timestamp, BatchError> {
    let mut rest = body;
    let mut max_timestamp = Timestamp(i64::MIN);
    for index in 0..header.count {
        if rest.is_empty() {
            return Err(too_few_records(header.count, index));
        }
        let record = take_record(&mut rest).map_err(|what| malformed(index, what))?;
        if record.attributes != 0 {
            return Err(malformed(index, "its attributes must be 0"));
        }
        if record.offset_delta.cast_unsigned() != index {
            return Err(malformed(index, "its offset delta must be its index"));
        }
        if record.has_empty_header_key {
            return Err(malformed(index, "a header key is empty"));
        }
        max_timestamp = max_timestamp.max(record.timestamp(header.base_timestamp));
    }
    if !rest.is_empty() {
        return Err(trailing_bytes(rest));
    }
    Ok(max_timestamp)
}

/// The records with the least and the greatest create time, but for those without one. The records were checked.
fn extremes(header: &BatchHeader, mut rest: &[u8]) -> Option<[TimedRecord; 2]> {
    /// Kafka's word for "no time".
    const NO_TIME: Timestamp = Timestamp(-1);
    let timed = (0..header.count).map_while(|index| {
        let timestamp = take_record(&mut rest).ok()?.timestamp(header.base_timestamp);
        Some(TimedRecord { index, timestamp })
    });
    timed
        .filter(|record| record.timestamp != NO_TIME)
        .fold(None, |found, record| {
            let [least, greatest] = found.unwrap_or([record; 2]);
            let least = if record.timestamp < least.timestamp {
                record
            } else {
                least
            };
            let greatest = if record.timestamp > greatest.timestamp {
                record
            } else {
                greatest
            };
            Some([least, greatest])
        })
}

#[cold]
fn too_few_records(count: u32, actual: u32) -> BatchError {
    BatchError::Invalid(format!("the batch counts {count} records, but holds {actual}"))
}

#[cfg(test)]
mod tests;
