//! Records on their way to a broker, and what the broker says about them.

use std::sync::Arc;

use bytes::Bytes;

use crate::model::{Acks, Lsn, Offset, PartitionId, Timestamp};
use crate::record::{BatchBuilder, Header, Record, SealedBatch};

/// A record to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerRecord {
    pub(in crate::client) topic: Arc<str>,
    pub(in crate::client) partition: Option<u32>,
    pub(in crate::client) key: Option<Bytes>,
    pub(in crate::client) value: Option<Bytes>,
    pub(in crate::client) headers: Vec<Header>,
    pub(in crate::client) timestamp: Option<Timestamp>,
}

impl ProducerRecord {
    /// A record for this topic with null key and null value.
    pub fn to(topic: impl Into<Arc<str>>) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            key: None,
            value: None,
            headers: Vec::new(),
            timestamp: None,
        }
    }

    /// This record for this topic, with its nulls and its create time.
    pub fn of(topic: impl Into<Arc<str>>, record: Record) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            key: record.key,
            value: record.value,
            headers: record.headers,
            timestamp: record.timestamp,
        }
    }

    /// Key: records of one key go to one partition.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Value.
    #[must_use]
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// One more header.
    #[must_use]
    pub fn header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header {
            key: key.into(),
            value: Some(value.into()),
        });
        self
    }

    /// Partition, instead of the one that the key leads to.
    #[must_use]
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Create time, instead of now.
    #[must_use]
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }
}

/// Where an acknowledged record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordMetadata {
    /// Name of its topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset; `None` for a duplicate that is too old for the broker to remember where it is.
    pub offset: Option<Offset>,
    /// When the broker appended it.
    pub append_time: Timestamp,
    /// How safe it is.
    pub acks: Acks,
    /// True if a retry found it written already.
    pub duplicate: bool,
}

/// Where an acknowledged batch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchMetadata {
    /// Name of its topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: PartitionId,
    /// Offset of its first record; `None` for a duplicate that is too old for the broker to remember where it is.
    pub base_offset: Option<Offset>,
    /// Records in it.
    pub records: u32,
    /// When the broker appended it.
    pub append_time: Timestamp,
    /// How safe it is.
    pub acks: Acks,
    /// True if a retry found it written already.
    pub duplicate: bool,
    /// The journal group that made it durable.
    pub durable_through: Option<Lsn>,
}

/// A whole batch for [`Producer::send_batch`](super::Producer::send_batch). Clones share the records, so a benchmark can
/// send one batch many times without building it again.
#[derive(Clone, Debug)]
pub struct PreparedBatch {
    pub(super) sealed: SealedBatch,
}

impl From<BatchBuilder> for PreparedBatch {
    /// The builder must not be empty.
    fn from(builder: BatchBuilder) -> Self {
        Self {
            sealed: builder.seal(None),
        }
    }
}

impl From<SealedBatch> for PreparedBatch {
    fn from(sealed: SealedBatch) -> Self {
        Self { sealed }
    }
}
