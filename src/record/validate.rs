//! What a batch must be before it may be stored.

use bytes::Bytes;

use super::SealedBatch;

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
    /// A codec that is not supported.
    #[error("codec {0} is not supported")]
    Compression(u8),
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
/// # Errors
/// The first rule that is broken.
pub fn validate(_bytes: Bytes, _bytes_max: u32) -> Result<SealedBatch, BatchError> {
    unimplemented!()
}
