//! A consumer with a name that assigns itself: reads partitions of a topic and goes on where its group has committed.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::error::NoPlace;
use super::groups::{LostRange, OffsetToCommit, Reset};
use super::reader::{ConsumedBatch, ConsumedRecord, PartitionReader, ReaderOptions, Source};
use super::{Client, Error};
use crate::model::{ErrorCode, Offset, PartitionId, Timestamp, TopicId};

/// Options of a [`Consumer`]; all have defaults.
#[derive(Clone, Debug)]
pub struct ConsumerBuilder {
    client: Client,
    group: String,
    topic: String,
    partitions: Option<Vec<u32>>,
    reset: Reset,
    options: ReaderOptions,
}

impl ConsumerBuilder {
    pub(super) fn new(client: Client, group: &str, topic: &str) -> Self {
        Self {
            client,
            group: group.to_owned(),
            topic: topic.to_owned(),
            partitions: None,
            reset: Reset::default(),
            options: ReaderOptions::default(),
        }
    }

    /// The partitions that this consumer assigns itself. Nobody keeps another consumer of the group from taking the same
    /// ones. Default: all that the topic has now.
    #[must_use]
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.partitions = Some(partitions.into_iter().collect());
        self
    }

    /// Where to begin in partitions where the group has committed nothing, or where what it would read next is gone.
    /// Default: [`Reset::Error`].
    #[must_use]
    pub fn reset(mut self, reset: Reset) -> Self {
        self.reset = reset;
        self
    }

    /// Bytes of one fetch of one partition. Default: 1 MiB.
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

    /// Finds out where the group is and starts reading.
    ///
    /// # Errors
    /// [`Error::NoPlace`] as the reset policy says, `Broker` with `UNKNOWN_TOPIC_OR_PARTITION` or `INVALID_NAME`, and those of
    /// every request.
    pub async fn build(self) -> Result<Consumer, Error> {
        let described = self.client.describe_topic(&self.topic).await?;
        let mut partitions = match self.partitions {
            Some(partitions) => partitions,
            None => described.partitions.iter().map(|p| p.partition.0).collect(),
        };
        partitions.sort_unstable();
        partitions.dedup();
        let points = self
            .client
            .resume_points(&self.group, &self.topic, &partitions, self.reset)
            .await?;
        let topic: Arc<str> = self.topic.into();
        let mut consumer = Consumer {
            group: self.group,
            topic: Arc::clone(&topic),
            topic_id: described.topic_id,
            reset: self.reset,
            readers: Vec::new(),
            turn: 0,
            committed: BTreeMap::new(),
            lost: Vec::new(),
            client: self.client,
        };
        for point in points {
            let source = Source {
                topic: Arc::clone(&topic),
                topic_id: described.topic_id,
                partition: point.partition.0,
                member: None,
            };
            let link = Arc::clone(&consumer.client.link);
            let reader = PartitionReader::start(link, source, self.options, point.offset);
            consumer.readers.push((point.partition, reader));
            if point.is_committed {
                consumer.committed.insert(point.partition, point.offset);
            }
            consumer.note_lost(point.partition, point.lost);
        }
        Ok(consumer)
    }
}

/// Reads partitions of a topic for a group. Records of one partition come in order, those of several take turns.
///
/// Nothing is committed by itself. Whoever commits **after** it has processed what it got sees each record at least once:
/// what was read and not committed comes again after a crash. Also a stream of records.
#[derive(Debug)]
pub struct Consumer {
    client: Client,
    group: String,
    topic: Arc<str>,
    topic_id: TopicId,
    reset: Reset,
    readers: Vec<(PartitionId, PartitionReader)>,
    /// Who is asked first.
    turn: usize,
    /// What the broker is known to have.
    committed: BTreeMap<PartitionId, Offset>,
    lost: Vec<LostRange>,
}

/// Asks one reader for what comes next.
type Ask<T> = fn(&mut PartitionReader, &mut Context<'_>) -> Poll<Option<Result<T, Error>>>;

impl Consumer {
    /// The next record of any partition; waits for one. `None` when every partition has ended with an error.
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// A partition that fails is reported once; the others go on. [`Error::NoPlace`] names offsets that went before they were
    /// read, unless the reset policy says where to go on.
    pub async fn next(&mut self) -> Option<Result<ConsumedRecord, Error>> {
        std::future::poll_fn(|context| self.poll(context, PartitionReader::poll_record))
            .await
            .map(|result| result.map(|(_, record)| record))
    }

    /// The next batch of any partition, for those who decode by themselves. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn next_batch(&mut self) -> Option<Result<(PartitionId, ConsumedBatch), Error>> {
        std::future::poll_fn(|context| self.poll(context, PartitionReader::poll_batch)).await
    }

    /// Commits that everything handed out so far was processed, in all partitions at once. Returns when, by the broker's
    /// clock; `None` if the broker has all of it already.
    ///
    /// # Errors
    /// As [`Client::commit_offsets`]; nothing was kept if the error is definite.
    pub async fn commit(&mut self) -> Result<Option<Timestamp>, Error> {
        let positions = self
            .readers
            .iter()
            .map(|(partition, reader)| (*partition, reader.position()));
        self.commit_positions(positions.collect()).await
    }

    /// Commits that the records of one partition were processed up to this one, this one included. What was handed out
    /// behind it comes again after a restart.
    ///
    /// # Errors
    /// As [`Client::commit_offsets`].
    pub async fn commit_through(&mut self, record: &ConsumedRecord) -> Result<Option<Timestamp>, Error> {
        self.commit_positions(vec![(record.partition, record.offset.next())])
            .await
    }

    /// What this consumer has committed, or has found committed, in a partition.
    pub fn committed(&self, partition: u32) -> Option<Offset> {
        self.committed.get(&PartitionId(partition)).copied()
    }

    /// Offset of the next record of a partition; `None` if it is none of this consumer's.
    pub fn position(&self, partition: u32) -> Option<Offset> {
        let mut readers = self.readers.iter();
        let found = readers.find(|(of, _)| of.0 == partition);
        found.map(|(_, reader)| reader.position())
    }

    /// Offsets that went before the group had read them, so far; with [`Reset::Error`] they are errors instead.
    pub fn lost(&self) -> &[LostRange] {
        &self.lost
    }

    async fn commit_positions(
        &mut self,
        positions: Vec<(PartitionId, Offset)>,
    ) -> Result<Option<Timestamp>, Error> {
        let news: Vec<_> = positions
            .into_iter()
            .filter(|(partition, offset)| self.committed.get(partition) != Some(offset))
            .collect();
        if news.is_empty() {
            return Ok(None);
        }
        let offsets = news.iter().map(|(partition, offset)| OffsetToCommit {
            topic_id: Some(self.topic_id),
            ..OffsetToCommit::new(self.topic.as_ref(), partition.0, *offset)
        });
        let at = self.client.commit_offsets(&self.group, offsets.collect()).await?;
        self.committed.extend(news);
        Ok(Some(at))
    }

    /// Asks the readers in turn.
    fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        ask: Ask<T>,
    ) -> Poll<Option<Result<(PartitionId, T), Error>>> {
        let count = self.readers.len();
        let mut ended = 0;
        for step in 0..count {
            let index = (self.turn + step) % count;
            while let Some((partition, reader)) = self.readers.get_mut(index) {
                let partition = *partition;
                let error = match ask(reader, context) {
                    Poll::Pending => break,
                    Poll::Ready(None) => {
                        ended += 1;
                        break;
                    }
                    Poll::Ready(Some(Ok(got))) => {
                        self.turn = (index + 1) % count;
                        return Poll::Ready(Some(Ok((partition, got))));
                    }
                    Poll::Ready(Some(Err(error))) => error,
                };
                if let Err(error) = self.go_on_after(index, error) {
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        if ended == count {
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    /// Moves a reader whose records went before it had read them, if the reset policy says where to.
    fn go_on_after(&mut self, index: usize, error: Error) -> Result<(), Error> {
        let Some((partition, reader)) = self.readers.get_mut(index) else {
            return Err(error);
        };
        let Some((log_start, high_watermark)) = bounds_behind(&error, reader.position()) else {
            return Err(error);
        };
        let last = Offset::new(log_start.get() - 1).unwrap_or_default();
        let (partition, lost) = (*partition, (reader.position(), last));
        match self.reset {
            Reset::Earliest => reader.seek(log_start),
            Reset::Latest => reader.seek(high_watermark),
            Reset::Error => {
                return Err(Error::NoPlace(Box::new(NoPlace {
                    group: self.group.clone(),
                    topic: self.topic.as_ref().to_owned(),
                    partition,
                    lost: Some(lost),
                })));
            }
        }
        self.note_lost(partition, Some(lost));
        Ok(())
    }

    fn note_lost(&mut self, partition: PartitionId, lost: Option<(Offset, Offset)>) {
        let Some((first, last)) = lost else { return };
        tracing::warn!(topic = %self.topic, partition = %partition, first = %first, last = %last, "records went before their group had read them");
        self.lost.push(LostRange {
            topic: Arc::clone(&self.topic),
            partition,
            first,
            last,
        });
    }
}

/// What can be read, if the error says that a reader at this position is too late.
pub(super) fn bounds_behind(error: &Error, position: Offset) -> Option<(Offset, Offset)> {
    let refusal = error.broker()?;
    if refusal.code != Some(ErrorCode::OffsetOutOfRange) {
        return None;
    }
    let log_start = Offset::new(refusal.details.log_start_offset?)?;
    let high_watermark = Offset::new(refusal.details.high_watermark?)?;
    (position < log_start).then_some((log_start, high_watermark))
}

impl futures_core::Stream for Consumer {
    type Item = Result<ConsumedRecord, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.get_mut().poll(context, PartitionReader::poll_record);
        polled.map(|next| next.map(|result| result.map(|(_, record)| record)))
    }
}
