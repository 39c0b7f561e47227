//! Record batches, format version 2 of Apache Kafka: the unit of produce, storage, fetch and checksum.
//!
//! Byte layout: `docs/storage-format.md`. Knows nothing of topics, files or protocols. Source: KIP-98, KIP-82.

mod batch;
mod builder;
mod codec;
mod validate;

pub use batch::{BatchHeader, Batches, HEADER_BYTES, SealedBatch};
pub use builder::{BatchBuilder, ProducerFields};
pub use codec::{Header, Record, RecordView, Records};
pub use validate::{BatchError, validate};
