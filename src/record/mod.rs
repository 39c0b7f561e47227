//! Record batches, format version 2 of Apache Kafka: the unit of produce, storage, fetch and checksum.
//!
//! Byte layout: `docs/storage-format.md`. Knows nothing of topics, files or protocols. Source: KIP-98, KIP-82.

// This module reads bytes that anybody may have sent: whatever could panic on them does not compile.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod batch;
mod builder;
mod codec;
mod compression;
mod crc;
mod validate;
mod varint;

#[cfg(test)]
mod tests;

pub use batch::{BatchHeader, Batches, HEADER_BYTES, SealedBatch, TimedRecord, check_crc, max_timestamp_of};
pub use builder::{BatchBuilder, ProducerFields};
pub use codec::{Header, Record, RecordView, Records};
pub use compression::{Codec, DECOMPRESSED_BYTES_MAX, UnknownCodec, uncompressed};
pub use crc::{crc32c, crc32c_append, outer_crc};
pub use validate::{BatchError, is_compressed, validate, validate_within};
