//! Reads one partition in the order of its offsets.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::{Client, Error};
use crate::model::{Offset, PartitionId, Timestamp};
use crate::record::{BatchHeader, Header, Records};

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first record kept.
    Earliest,
    /// Behind the last record that is visible now.
    Latest,
    /// At this offset.
    Offset(Offset),
}

/// Options of a [`PartitionReader`]; all have defaults.
#[derive(Clone, Debug)]
pub struct PartitionReaderBuilder {
    client: Client,
    topic: String,
    partition: u32,
    start: Start,
}

impl PartitionReaderBuilder {
    pub(super) fn new(client: Client, topic: &str, partition: u32, start: Start) -> Self {
        Self {
            client,
            topic: topic.to_owned(),
            partition,
            start,
        }
    }

    /// Bytes of one fetch; one more is fetched ahead. Default: 1 MiB.
    #[must_use]
    pub fn fetch_bytes(self, bytes: u32) -> Self {
        let _ = bytes;
        self
    }

    /// How long the broker holds a fetch back while there is nothing to read. Default: 5 s.
    #[must_use]
    pub fn max_wait(self, wait: Duration) -> Self {
        let _ = wait;
        self
    }

    /// Whether the checksum of every batch is compared here too. Default: true.
    #[must_use]
    pub fn check_crc(self, check: bool) -> Self {
        let _ = check;
        self
    }

    /// How long one gap without a working broker may last before the reader reports it. Default: 120 s.
    #[must_use]
    pub fn give_up_after(self, at_most: Duration) -> Self {
        let _ = at_most;
        self
    }

    /// Starts reading.
    ///
    /// # Errors
    /// `Broker` with `UNKNOWN_TOPIC_OR_PARTITION`, and those of every request.
    pub async fn build(self) -> Result<PartitionReader, Error> {
        let _ = (self.client, self.topic, self.partition, self.start);
        unimplemented!()
    }
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// Name of its topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// Its create time.
    pub timestamp: Timestamp,
    /// Key; `None` is null.
    pub key: Option<Bytes>,
    /// Value; `None` is null.
    pub value: Option<Bytes>,
    /// Headers, in order.
    pub headers: Vec<Header>,
}

/// A whole batch that was read, not decoded yet.
#[derive(Clone, Debug)]
pub struct ConsumedBatch {
    /// Its header.
    pub header: BatchHeader,
    /// All of its bytes.
    pub bytes: Bytes,
    /// First offset wanted: records below it were asked for by nobody.
    pub from: Offset,
}

impl ConsumedBatch {
    /// Walks all records of the batch, also those below `from`.
    pub fn records(&self) -> Records<'_> {
        Records::new(&self.header, &self.bytes)
    }
}

/// Reads one partition: a `Stream` of records that waits at the end of the log for more.
///
/// After an error that is not retriable the stream ends; [`seek`](Self::seek) makes it go on.
#[derive(Debug)]
pub struct PartitionReader {
    position: Offset,
}

impl PartitionReader {
    /// The next record; waits for one at the end of the log. `None` after an error that ended the stream.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<ConsumedRecord, Error>> {
        unimplemented!()
    }

    /// The next batch, for those who decode by themselves. Mixes with `next`: what `next` has begun is finished first by
    /// being skipped to the next whole batch. Dropping the future loses nothing.
    pub async fn next_batch(&mut self) -> Option<Result<ConsumedBatch, Error>> {
        unimplemented!()
    }

    /// Offset of the next record wanted.
    pub fn position(&self) -> Offset {
        self.position
    }

    /// End of what is visible, exclusive, as the broker said last.
    pub fn high_watermark(&self) -> Offset {
        unimplemented!()
    }

    /// Goes on at this offset, whatever happened before.
    pub fn seek(&mut self, offset: Offset) {
        let _ = offset;
        unimplemented!()
    }
}

impl futures_core::Stream for PartitionReader {
    type Item = Result<ConsumedRecord, Error>;

    fn poll_next(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        unimplemented!()
    }
}
