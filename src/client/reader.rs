//! Reads one partition in the order of its offsets.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::admin::decode;
use super::fetcher::{FetchAs, Fetched, Fetcher};
use super::link::Link;
use super::{Client, Error, OffsetSpec};
use crate::model::{Offset, PartitionId, Timestamp, TopicId};
use crate::record::{
    BatchError, BatchHeader, DECOMPRESSED_BYTES_MAX, Header, RecordView, Records, uncompressed,
};

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first record kept.
    Earliest,
    /// Behind the last record that is visible now.
    Latest,
    /// At this offset.
    Offset(Offset),
    /// At the first record in offset order whose timestamp is this or later; behind the last record if there is none.
    Timestamp(Timestamp),
}

/// Options of a [`PartitionReader`]; all have defaults.
#[derive(Clone, Debug)]
pub struct PartitionReaderBuilder {
    client: Client,
    topic: String,
    partition: u32,
    start: Start,
    options: ReaderOptions,
}

/// What the builder collects.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReaderOptions {
    pub(super) fetch_bytes: u32,
    pub(super) max_wait: Duration,
    pub(super) check_crc: bool,
    pub(super) give_up_after: Duration,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        Self {
            fetch_bytes: 1 << 20,
            max_wait: Duration::from_secs(5),
            check_crc: true,
            give_up_after: Duration::from_secs(120),
        }
    }
}

/// What is read.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) topic: Arc<str>,
    pub(super) topic_id: TopicId,
    pub(super) partition: u32,
    /// Who fetches; `None`: somebody who needs no leave of a group.
    pub(super) member: Option<FetchAs>,
}

impl PartitionReaderBuilder {
    pub(super) fn new(client: Client, topic: &str, partition: u32, start: Start) -> Self {
        Self {
            client,
            topic: topic.to_owned(),
            partition,
            start,
            options: ReaderOptions::default(),
        }
    }

    /// Bytes of one fetch. Beside the fetch that is being read, one waits and one is under way. Default: 1 MiB.
    #[must_use]
    pub fn fetch_bytes(mut self, bytes: u32) -> Self {
        self.options.fetch_bytes = bytes;
        self
    }

    /// How long the broker holds a fetch back while there is nothing to read. Default: 5 s.
    #[must_use]
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.options.max_wait = wait;
        self
    }

    /// Whether the checksum of every batch is compared here too. Default: true.
    #[must_use]
    pub fn check_crc(mut self, check: bool) -> Self {
        self.options.check_crc = check;
        self
    }

    /// How long one gap without a working broker may last before the reader reports it. Default: 120 s.
    #[must_use]
    pub fn give_up_after(mut self, at_most: Duration) -> Self {
        self.options.give_up_after = at_most;
        self
    }

    /// Starts reading.
    ///
    /// # Errors
    /// `Broker` with `UNKNOWN_TOPIC_OR_PARTITION`, `Usage` if the topic has no such partition, and those of every request.
    pub async fn build(self) -> Result<PartitionReader, Error> {
        let described = self.client.describe_topic(&self.topic).await?;
        let partitions = described.partitions.len();
        if !described
            .partitions
            .iter()
            .any(|p| p.partition.0 == self.partition)
        {
            return Err(Error::Usage(format!(
                "topic {} has no partition {}: it has {partitions}",
                self.topic, self.partition
            )));
        }
        let spec = match self.start {
            Start::Offset(_) => None,
            Start::Earliest => Some(OffsetSpec::Earliest),
            Start::Latest => Some(OffsetSpec::Latest),
            Start::Timestamp(at) => Some(OffsetSpec::AtTimestamp(at)),
        };
        let position = match (self.start, spec) {
            (Start::Offset(offset), _) => offset,
            (_, Some(spec)) => self.find(spec).await?,
            (_, None) => Offset::ZERO,
        };
        let source = Source {
            topic: self.topic.into(),
            topic_id: described.topic_id,
            partition: self.partition,
            member: None,
        };
        Ok(PartitionReader::start(
            self.client.link,
            source,
            self.options,
            position,
        ))
    }

    async fn find(&self, spec: OffsetSpec) -> Result<Offset, Error> {
        let listed = self
            .client
            .list_offsets(&self.topic, &[self.partition], spec)
            .await?;
        let first = listed.into_iter().next();
        first.unwrap_or_else(|| Err(decode("list offsets", "it has no partition")))
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
    /// First offset wanted: a batch may begin below it.
    pub from: Offset,
}

impl ConsumedBatch {
    /// The same batch with its records decompressed; itself if they are not compressed. The checksum in the header stays
    /// that of the compressed form.
    ///
    /// # Errors
    /// `Decode` if they cannot be decompressed, or are more than 32 MiB.
    pub fn decompressed(self) -> Result<Self, Error> {
        let unread =
            |e: BatchError| decode("a batch", &format!("at offset {}: {e}", self.header.base_offset));
        let (header, bytes) =
            uncompressed(&self.header, &self.bytes, DECOMPRESSED_BYTES_MAX).map_err(unread)?;
        Ok(Self {
            header,
            bytes,
            from: self.from,
        })
    }

    /// Walks the records at `from` and above, nothing is copied. An error for a compressed batch: see
    /// [`decompressed`](Self::decompressed).
    pub fn records(&self) -> impl Iterator<Item = Result<RecordView<'_>, Error>> {
        Records::new(&self.header, &self.bytes)
            .map(|record| record.map_err(|e| decode("a record", &e.to_string())))
            .filter(|record| record.as_ref().map_or(true, |record| record.offset >= self.from))
    }
}

/// Reads one partition: a `Stream` of records that waits at the end of the log for more.
///
/// Lost connections are mended inside. After an error the stream ends; [`seek`](Self::seek) makes it go on.
#[derive(Debug)]
pub struct PartitionReader {
    link: Arc<Link>,
    source: Source,
    options: ReaderOptions,
    fetched: mpsc::Receiver<Result<Fetched, Error>>,
    /// Ends the fetching of before a seek, a parked fetch included.
    _stop: DropGuard,
    batches: VecDeque<ConsumedBatch>,
    /// The batch whose records are being handed out, and those that are left of it.
    current: Option<ConsumedBatch>,
    records: VecDeque<ConsumedRecord>,
    position: Offset,
    /// Where the log goes on behind what was fetched; there may be no record at all before it.
    fetched_to: Offset,
    high_watermark: Offset,
}

impl PartitionReader {
    pub(super) fn start(link: Arc<Link>, source: Source, options: ReaderOptions, position: Offset) -> Self {
        let (fetched, stop) = start_fetching(&link, &source, options, position);
        Self {
            link,
            source,
            options,
            fetched,
            _stop: stop,
            batches: VecDeque::new(),
            current: None,
            records: VecDeque::new(),
            position,
            fetched_to: position,
            high_watermark: Offset::ZERO,
        }
    }

    /// The next record; waits for one at the end of the log. `None` after an error that ended the stream.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<ConsumedRecord, Error>> {
        std::future::poll_fn(|context| self.poll_record(context)).await
    }

    /// The next batch, for those who decode by themselves. Mixes with `next`: what is left of a batch comes first, as that
    /// batch with a higher `from`. Dropping the future loses nothing.
    pub async fn next_batch(&mut self) -> Option<Result<ConsumedBatch, Error>> {
        std::future::poll_fn(|context| self.poll_batch(context)).await
    }

    /// Offset of the next record wanted.
    pub fn position(&self) -> Offset {
        self.position
    }

    /// End of what is visible, exclusive, as the broker said with what was fetched last.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Goes on at this offset, whatever happened before.
    pub fn seek(&mut self, offset: Offset) {
        let (link, source) = (self.link.clone(), self.source.clone());
        *self = Self {
            high_watermark: self.high_watermark,
            ..Self::start(link, source, self.options, offset)
        };
    }

    pub(super) fn poll_record(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<ConsumedRecord, Error>>> {
        loop {
            if let Some(record) = self.records.pop_front() {
                self.position = record.offset.next();
                return Poll::Ready(Some(Ok(record)));
            }
            self.current = None;
            let batch = match ready!(self.poll_fresh_batch(context)) {
                Some(Ok(batch)) => batch,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            match self.decode(&batch) {
                Ok(records) => self.records = records,
                Err(error) => return Poll::Ready(Some(Err(self.end_with(error)))),
            }
            self.current = Some(batch);
        }
    }

    pub(super) fn poll_batch(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<ConsumedBatch, Error>>> {
        let left = !std::mem::take(&mut self.records).is_empty();
        if let Some(mut batch) = self.current.take().filter(|_| left) {
            batch.from = self.position;
            self.position = batch.header.last_offset().next();
            return Poll::Ready(Some(Ok(batch)));
        }
        let batch = ready!(self.poll_fresh_batch(context));
        if let Some(Ok(batch)) = &batch {
            self.position = batch.header.last_offset().next();
        }
        Poll::Ready(batch)
    }

    /// The next batch of which nothing was handed out.
    fn poll_fresh_batch(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<ConsumedBatch, Error>>> {
        loop {
            if let Some(batch) = self.batches.pop_front() {
                return Poll::Ready(Some(Ok(batch)));
            }
            self.position = self.position.max(self.fetched_to);
            match ready!(self.fetched.poll_recv(context)) {
                Some(Ok(fetched)) => {
                    self.batches = fetched.batches.into();
                    self.fetched_to = fetched.next;
                    self.high_watermark = fetched.high_watermark;
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    fn decode(&self, batch: &ConsumedBatch) -> Result<VecDeque<ConsumedRecord>, Error> {
        let batch = batch.clone().decompressed()?;
        batch
            .records()
            .map(|view| {
                let view = view?;
                let record = view.to_record(&batch.bytes);
                Ok(ConsumedRecord {
                    topic: self.source.topic.clone(),
                    partition: PartitionId(self.source.partition),
                    offset: view.offset,
                    timestamp: view.timestamp,
                    key: record.key,
                    value: record.value,
                    headers: record.headers,
                })
            })
            .collect()
    }

    /// Nothing comes behind this error.
    fn end_with(&mut self, error: Error) -> Error {
        self.batches.clear();
        self.fetched.close();
        while self.fetched.try_recv().is_ok() {}
        error
    }
}

impl futures_core::Stream for PartitionReader {
    type Item = Result<ConsumedRecord, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_record(context)
    }
}

fn start_fetching(
    link: &Arc<Link>,
    source: &Source,
    options: ReaderOptions,
    from: Offset,
) -> (mpsc::Receiver<Result<Fetched, Error>>, DropGuard) {
    // One fetch ahead: full, the fetcher waits with what it has.
    let (sender, receiver) = mpsc::channel(1);
    let fetcher = Fetcher::new(link.clone(), source.clone(), options, from);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    link.tasks.spawn(|all_stopped| async move {
        tokio::select! {
            () = fetcher.run(sender) => {}
            () = stopped.cancelled() => {}
            () = all_stopped.cancelled() => {}
        }
    });
    (receiver, stop.drop_guard())
}
