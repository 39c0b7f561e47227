//! A consumer with a name that assigns itself: reads partitions of a topic and goes on where its group has committed.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::error::NoPlace;
use super::groups::{LostRange, OffsetToCommit, Reset};
use super::reader::{ConsumedBatch, ConsumedRecord, PartitionReader, ReaderOptions, Source};
use super::step::Step;
use super::stepper::{Stepper, Tried, behind};
use super::{Client, Error, ProducerRecord, StepMetadata};
use crate::model::{ErrorCode, Offset, PartitionId, Timestamp, TopicId};
use crate::rt::Clock;

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
            group_at: BTreeMap::new(),
            lost: Vec::new(),
            stepper: Stepper::default(),
            stepped: Vec::new(),
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
            consumer.group_at.insert(point.partition, point.offset);
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
    /// Where the group is: what was committed, or where reading began.
    group_at: BTreeMap<PartitionId, Offset>,
    lost: Vec<LostRange>,
    stepper: Stepper,
    /// What the undecided step was made of.
    stepped: Vec<(PartitionId, Offset)>,
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

    /// Begins a step: the records that were made of what was read are appended, and what was read is committed, all of it or
    /// nothing. As [`GroupConsumer::step`](super::GroupConsumer::step), but that nobody fences a second consumer that assigns
    /// itself the same partitions.
    pub fn step(&mut self) -> ConsumerStep<'_> {
        ConsumerStep {
            consumer: self,
            records: Vec::new(),
            consumed: BTreeMap::new(),
            state: State::New,
        }
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
        if self.stepper.undecided().is_some() {
            return Err(Error::Usage(
                "a step is undecided, and with it how far the group is".into(),
            ));
        }
        let offsets = self.to_commit(&news);
        let at = self.client.commit_offsets(&self.group, offsets).await?;
        self.group_at.extend(news.iter().copied());
        self.committed.extend(news);
        Ok(Some(at))
    }

    fn to_commit(&self, positions: &[(PartitionId, Offset)]) -> Vec<OffsetToCommit> {
        let offset = |(partition, offset): &(PartitionId, Offset)| OffsetToCommit {
            topic_id: Some(self.topic_id),
            ..OffsetToCommit::new(self.topic.as_ref(), partition.0, *offset)
        };
        positions.iter().map(offset).collect()
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

    /// Goes on in these partitions where the group is.
    fn go_back(&mut self, partitions: impl Iterator<Item = PartitionId>) {
        for partition in partitions {
            let reader = self.readers.iter_mut().find(|(of, _)| *of == partition);
            if let (Some((_, reader)), Some(to)) = (reader, self.group_at.get(&partition)) {
                reader.seek(*to);
            }
        }
    }

    /// Makes the undecided step.
    async fn decide(&mut self) -> Result<StepMetadata, Error> {
        let deadline = self.client.link.clock.mono() + self.client.link.config.request_timeout;
        let client = self.client.clone();
        let error = match self.stepper.try_until(&client, deadline, |_| {}).await {
            Some(Tried::Taken(taken)) => {
                let stepped = std::mem::take(&mut self.stepped);
                self.group_at.extend(stepped.iter().copied());
                self.committed.extend(stepped);
                return Ok(taken);
            }
            Some(Tried::Unknown(error)) => return Err(error),
            Some(Tried::Refused(error)) => error,
            Some(Tried::NotAsThis(error)) => {
                self.stepper.give_up();
                error
            }
            None => return Err(Error::Usage("there is no step to make".into())),
        };
        let stepped = std::mem::take(&mut self.stepped);
        self.go_back(stepped.into_iter().map(|(partition, _)| partition));
        Err(error)
    }

    /// Finds out what became of a step whose fate its program did not wait for.
    async fn settle(&mut self) -> Result<(), Error> {
        if self.stepper.undecided().is_none() {
            return Ok(());
        }
        let partitions: Vec<_> = self.stepped.iter().map(|(partition, _)| *partition).collect();
        let decided = self.decide().await;
        match decided {
            Err(error) if self.stepper.undecided().is_some() => {
                Err(behind(error, self.client.link.config.request_timeout))
            }
            // The program does not know which of the records that it has were in it: all of them come again, but for those.
            _ => {
                self.go_back(partitions.into_iter());
                Ok(())
            }
        }
    }

    async fn begin(&mut self, records: &[ProducerRecord]) -> Result<(), Error> {
        let client = self.client.clone();
        let output = self.stepper.output(&client, records).await?;
        let (group, offsets) = (self.group.clone(), self.to_commit(&self.stepped));
        let step = |producer, sequence, appends| Step {
            group,
            member: None,
            producer,
            sequence,
            offsets,
            appends,
        };
        self.stepper.begin(&client, step, output).await.map(drop)
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

/// A step of a [`Consumer`] that is being made up: records to append, and what they were made of. Nothing happens before
/// [`send`](Self::send).
///
/// A step that fails, or is dropped before it was sent, did not happen: the consumer goes back to where its group is, and what the
/// step was made of comes again. Only if it failed with [`Error::may_have_taken_effect`], or if the future of `send` was dropped, is
/// that not known yet: the same step may be sent again, or else the consumer finds it out before the next step, and goes on
/// where the group is then.
#[derive(Debug)]
#[must_use = "a step does nothing before it is sent"]
pub struct ConsumerStep<'a> {
    consumer: &'a mut Consumer,
    records: Vec<ProducerRecord>,
    /// Behind the last record of each partition; the first is where that record, or its batch, begins.
    consumed: BTreeMap<PartitionId, (Offset, Offset)>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Sent,
    Decided,
}

impl ConsumerStep<'_> {
    /// Adds a record to append. Records without a partition go where a producer would send them by their key; those without a key
    /// stay together.
    pub fn append(mut self, record: ProducerRecord) -> Self {
        self.records.push(record);
        self
    }

    /// Adds what the records were made of: a record, and everything before it in its partition. Of several from one partition the
    /// last is enough.
    pub fn consumed(mut self, record: &ConsumedRecord) -> Self {
        self.add(record.partition, (record.offset, record.offset.next()));
        self
    }

    /// Adds what the records were made of: a batch, and everything before it in its partition.
    pub fn consumed_batch(mut self, partition: PartitionId, batch: &ConsumedBatch) -> Self {
        let first = batch.from.max(batch.header.base_offset);
        self.add(partition, (first, batch.header.last_offset().next()));
        self
    }

    fn add(&mut self, partition: PartitionId, (first, next): (Offset, Offset)) {
        let known = self.consumed.entry(partition).or_insert((first, next));
        *known = (known.0.min(first), known.1.max(next));
    }

    /// Takes the step: when this returns, all of it is safe and visible. Over lost answers and connections the same step is sent
    /// again, within the request timeout, and the broker takes it once.
    ///
    /// # Errors
    /// `Usage` for records that are none of this consumer's, or come again since it went back; `Broker` with `GROUP_NOT_EMPTY`
    /// while the group has members, and as [`Client::step`]. Unless [`Error::may_have_taken_effect`] says otherwise nothing of it
    /// was kept, and what it was made of comes again.
    pub async fn send(&mut self) -> Result<StepMetadata, Error> {
        match self.state {
            State::Decided => return Err(Error::Usage("the step is decided already".into())),
            State::Sent => {}
            State::New => {
                self.consumer.settle().await?;
                self.check()?;
                let consumed = self.consumed.iter();
                self.consumer.stepped = consumed.map(|(at, (_, next))| (*at, *next)).collect();
                self.consumer.begin(&self.records).await?;
                self.state = State::Sent;
            }
        }
        let decided = self.consumer.decide().await;
        if self.consumer.stepper.undecided().is_none() {
            self.state = State::Decided;
        }
        decided
    }

    fn check(&self) -> Result<(), Error> {
        if self.consumed.is_empty() && self.records.is_empty() {
            return Err(Error::Usage(
                "a step needs something to append or to commit".into(),
            ));
        }
        for (partition, (first, next)) in &self.consumed {
            let group_at = self.consumer.group_at.get(partition).copied();
            let read = self.consumer.position(partition.0);
            let is_read = group_at
                .zip(read)
                .is_some_and(|(at, read)| at <= *first && *next <= read);
            if !is_read {
                let topic = &self.consumer.topic;
                return Err(Error::Usage(format!(
                    "offset {first} of {topic}/{partition} is not what this consumer has read behind what is committed"
                )));
            }
        }
        Ok(())
    }
}

impl Drop for ConsumerStep<'_> {
    fn drop(&mut self) {
        if self.state == State::New {
            let partitions: Vec<_> = self.consumed.keys().copied().collect();
            self.consumer.go_back(partitions.into_iter());
        }
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
