//! Sends records: batches them, keeps their order per partition over retries, and says when they are safe.

mod accumulator;
mod queue;
mod record;
mod sender;
mod ticket;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

pub use record::{BatchMetadata, PreparedBatch, ProducerRecord, RecordMetadata};
pub use ticket::{BatchTicket, Ticket};

use self::accumulator::{Accepted, Accumulator, Added, Described, Topic};
use self::queue::{QueueOptions, WINDOW_BATCHES_MAX};
use self::sender::Sender;
use self::ticket::{Answered, Completion};
use super::link::Link;
use super::{Client, Error};
use crate::model::{Acks, Timestamp};
use crate::record::{Codec, HEADER_BYTES};
use crate::rt::Clock;

/// Largest batch, where neither the topic nor the broker says.
const BATCH_BYTES_MAX_DEFAULT: u32 = 1_048_588;

/// Failures kept for the next flush, if no ticket shows them.
const FAILURES_KEPT: usize = 16;

/// Options of a [`Producer`]; all have defaults.
#[derive(Clone, Debug)]
pub struct ProducerBuilder {
    link: Arc<Link>,
    options: Options,
}

/// What the builder collects.
#[derive(Clone, Copy, Debug)]
struct Options {
    acks: Acks,
    linger: Duration,
    batch_bytes: u32,
    max_in_flight: u32,
    idempotent: bool,
    retries: bool,
    buffer_bytes: u32,
    delivery_timeout: Duration,
    compression: Codec,
    topics_max_age: Duration,
    backoff: super::backoff::Backoff,
}

impl Options {
    fn queue(&self) -> QueueOptions {
        QueueOptions {
            idempotent: self.idempotent,
            retries: self.retries,
            window_batches: self.max_in_flight,
            delivery_timeout: self.delivery_timeout,
            backoff: self.backoff,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::Config(text));
        if self.max_in_flight == 0 || (self.idempotent && self.max_in_flight > WINDOW_BATCHES_MAX) {
            return wrong(format!(
                "max_in_flight is {}, it must be 1 to {WINDOW_BATCHES_MAX}: so many batches a broker recognises when they are repeated",
                self.max_in_flight
            ));
        }
        if self.batch_bytes == 0 || self.buffer_bytes < self.batch_bytes {
            return wrong(format!(
                "batch_bytes is {} and buffer_bytes {}: the buffer must hold a batch, and a batch a record",
                self.batch_bytes, self.buffer_bytes
            ));
        }
        Ok(())
    }
}

impl ProducerBuilder {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            options: Options {
                acks: Acks::Fsync,
                linger: Duration::from_millis(5),
                batch_bytes: 256 << 10,
                max_in_flight: WINDOW_BATCHES_MAX,
                idempotent: true,
                retries: true,
                buffer_bytes: 32 << 20,
                delivery_timeout: Duration::from_secs(120),
                compression: Codec::None,
                topics_max_age: Duration::from_secs(60),
                backoff: client.link.backoff(),
            },
            link: client.link.clone(),
        }
    }

    /// When a record counts as safe. Default: on disk.
    #[must_use]
    pub fn acks(mut self, acks: Acks) -> Self {
        self.options.acks = acks;
        self
    }

    /// How long a batch waits for more records while others are in flight. Default: 5 ms.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.options.linger = linger;
        self
    }

    /// Size at which a batch is closed; never above what the topic allows. Default: 256 KiB.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: u32) -> Self {
        self.options.batch_bytes = bytes;
        self
    }

    /// Batches in flight per partition, 1 to 5 for an idempotent producer. Default: 5.
    #[must_use]
    pub fn max_in_flight(mut self, batches: u32) -> Self {
        self.options.max_in_flight = batches;
        self
    }

    /// Whether the broker removes the duplicates that retries make. Default: true. Without it and with retries, one batch
    /// per partition is in flight, and records may come twice.
    #[must_use]
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.options.idempotent = idempotent;
        self
    }

    /// Whether a batch is sent again after an error that a retry may cure. Default: true.
    #[must_use]
    pub fn retries(mut self, retries: bool) -> Self {
        self.options.retries = retries;
        self
    }

    /// Bytes of records that are not acknowledged yet; `send` waits above it. Default: 32 MiB.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: u32) -> Self {
        self.options.buffer_bytes = bytes;
        self
    }

    /// How long a record may take from its acceptance to its acknowledgement. Default: 120 s.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.options.delivery_timeout = timeout;
        self
    }

    /// After how long topics are looked up again while records are sent, to see what was changed about them: more partitions, other
    /// limits. Records without a partition may go to new ones from then on. Default: 60 s.
    #[must_use]
    pub fn topics_max_age(mut self, age: Duration) -> Self {
        self.options.topics_max_age = age;
        self
    }

    /// How batches are compressed; one that would not become smaller is sent as it is. They are stored as they are sent and
    /// come to consumers so. Does not concern [`Producer::send_batch`]. Default: not at all.
    #[must_use]
    pub fn compression(mut self, codec: Codec) -> Self {
        self.options.compression = codec;
        self
    }

    /// Starts the producer.
    ///
    /// # Errors
    /// `Config` if options contradict each other.
    pub async fn build(self) -> Result<Producer, Error> {
        self.options.check()?;
        let shared = Arc::new(Shared {
            budget: Semaphore::new(usize::try_from(self.options.buffer_bytes).unwrap_or(usize::MAX >> 3)),
            options: self.options,
            link: self.link,
            accumulator: Mutex::new(Accumulator::compressing(self.options.compression)),
            topics: Mutex::default(),
            failures: Mutex::default(),
            refreshing: AtomicBool::new(false),
            wake: Notify::new(),
        });
        let sender = Sender::new(shared.clone());
        shared.link.tasks.spawn(|stop| async move {
            tokio::select! {
                () = sender.run() => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(Producer {
            handle: Arc::new(Handle { shared }),
        })
    }
}

/// What the producer's handles share with its sender.
#[derive(Debug)]
struct Shared {
    options: Options,
    link: Arc<Link>,
    accumulator: Mutex<Accumulator>,
    topics: Mutex<HashMap<Arc<str>, Arc<Topic>>>,
    /// Bytes of records without an answer that still fit.
    budget: Semaphore,
    failures: Mutex<Vec<Arc<Completion>>>,
    /// Topics are being looked up again.
    refreshing: AtomicBool,
    /// The sender has something new to look at.
    wake: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Accumulator> {
        self.accumulator.lock().expect("no panics while locked")
    }

    fn give_back(&self, bytes: u32) {
        self.budget.add_permits(usize::try_from(bytes).unwrap_or(0));
    }

    fn remember_failure(&self, completion: &Arc<Completion>) {
        let mut failures = self.failures.lock().expect("no panics while locked");
        if failures.len() < FAILURES_KEPT {
            failures.push(completion.clone());
        }
    }

    fn take_failure(&self) -> Result<(), Error> {
        let failures = std::mem::take(&mut *self.failures.lock().expect("no panics while locked"));
        match failures
            .iter()
            .find_map(|completion| completion.unobserved_failure())
        {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn known_topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics
            .lock()
            .expect("no panics while locked")
            .get(name)
            .cloned()
    }

    /// What is known of the topics is old: they are looked up again, one after the other, in the background.
    fn refresh_topics(self: &Arc<Self>) {
        if self.refreshing.swap(true, Ordering::AcqRel) {
            return;
        }
        let names: Vec<Arc<str>> = {
            let topics = self.topics.lock().expect("no panics while locked");
            topics.keys().cloned().collect()
        };
        let shared = Arc::clone(self);
        self.link.tasks.spawn(|stop| async move {
            let all = async {
                for name in names {
                    // Who sends to a topic that is gone is told so by the broker.
                    if let Err(error) = shared.look_up(&name).await {
                        tracing::debug!(topic = %name, %error, "topic not looked up again");
                    }
                }
            };
            tokio::select! {
                () = all => {}
                () = stop.cancelled() => {}
            }
            shared.refreshing.store(false, Ordering::Release);
        });
    }

    fn forget_topic(&self, topic: &Topic) {
        let mut topics = self.topics.lock().expect("no panics while locked");
        if topics.get(&topic.name).is_some_and(|known| known.id == topic.id) {
            topics.remove(&topic.name);
        }
    }

    async fn topic(self: &Arc<Self>, name: &str) -> Result<Arc<Topic>, Error> {
        match self.known_topic(name) {
            Some(topic) => Ok(topic),
            None => self.look_up(name).await,
        }
    }

    /// The topic as the broker has it now, where what is known of it does not do: it may have more partitions, or take larger
    /// batches.
    async fn topic_for<T>(
        self: &Arc<Self>,
        name: &str,
        check: impl Fn(&Topic) -> Result<T, Error>,
    ) -> Result<(Arc<Topic>, T), Error> {
        let topic = self.topic(name).await?;
        if let Ok(checked) = check(&topic) {
            return Ok((topic, checked));
        }
        let topic = self.look_up(name).await?;
        let checked = check(&topic)?;
        Ok((topic, checked))
    }

    async fn look_up(&self, name: &str) -> Result<Arc<Topic>, Error> {
        let client = Client {
            link: self.link.clone(),
        };
        let described = client.describe_topic(name).await?;
        let configured = described
            .configs
            .iter()
            .find(|entry| entry.name == "max.message.bytes");
        let limit = configured
            .and_then(|entry| entry.value.parse().ok())
            .unwrap_or(BATCH_BYTES_MAX_DEFAULT);
        let batch_bytes_max = match client.broker_info().limits.batch_bytes_max {
            0 => limit,
            max => limit.min(max),
        };
        let batch_bytes = self.options.batch_bytes.min(batch_bytes_max);
        let found = Described {
            partitions: u32::try_from(described.partitions.len()).unwrap_or(u32::MAX),
            batch_bytes_max,
            batch_bytes: usize::try_from(batch_bytes).unwrap_or(usize::MAX),
        };
        let mut topics = self.topics.lock().expect("no panics while locked");
        let topic = self.lock().topic(name, described.topic_id, found);
        topics.insert(topic.name.clone(), topic.clone());
        Ok(topic)
    }
}

/// The clones of a producer. The sender ends after the last of them.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().end();
        self.shared.wake.notify_one();
    }
}

/// Sends records. Clones share everything. When the last clone is dropped, what was accepted is still sent.
#[derive(Clone, Debug)]
pub struct Producer {
    handle: Arc<Handle>,
}

impl Producer {
    /// Sends a record and waits until it is safe.
    ///
    /// # Errors
    /// Final: what a retry can cure was retried until the delivery timeout.
    pub async fn send(&self, record: ProducerRecord) -> Result<RecordMetadata, Error> {
        self.enqueue(record).await?.await
    }

    /// Hands a record over; waits only for room in the buffer. Records of one partition keep the order of these calls.
    /// Dropping the future before it is ready takes the record back.
    ///
    /// # Errors
    /// `Usage` or `Broker` if the record can never be sent.
    pub async fn enqueue(&self, record: ProducerRecord) -> Result<Ticket, Error> {
        let shared = &self.handle.shared;
        let check = |topic: &Topic| record_bytes(topic, &record);
        let (topic, bytes) = shared.topic_for(&record.topic, check).await?;
        let room = shared.budget.acquire_many(self.charge(bytes)).await;
        room.map_err(|_| closed())?.forget();
        self.add(&topic, &record, self.charge(bytes))
    }

    /// Hands a record over without waiting.
    ///
    /// # Errors
    /// `BufferFull`; `Usage` if the topic has not been used by this producer before (see [`prepare`](Self::prepare)).
    pub fn try_enqueue(&self, record: ProducerRecord) -> Result<Ticket, Error> {
        let shared = &self.handle.shared;
        let topic = shared.known_topic(&record.topic).ok_or_else(|| {
            Error::Usage(format!(
                "topic {:?} must be prepared before records are sent without waiting",
                record.topic
            ))
        })?;
        let bytes = self.charge(record_bytes(&topic, &record)?);
        let room = shared.budget.try_acquire_many(bytes);
        room.map_err(|_| Error::BufferFull {
            buffer_bytes: shared.options.buffer_bytes,
        })?
        .forget();
        self.add(&topic, &record, bytes)
    }

    /// Hands over a whole batch for one partition; waits only for room in the buffer. One ticket, nothing per record.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue); `Usage` if the batch is larger than the topic allows.
    pub async fn send_batch(
        &self,
        topic: &str,
        partition: u32,
        batch: impl Into<PreparedBatch>,
    ) -> Result<BatchTicket, Error> {
        let shared = &self.handle.shared;
        let batch = batch.into();
        let bytes = batch.sealed.total_bytes();
        let check = |topic: &Topic| {
            check_partition(topic, partition)?;
            check_size(topic, u64::from(bytes))
        };
        let (topic, ()) = shared.topic_for(topic, check).await?;
        let charge = self.charge(bytes);
        shared
            .budget
            .acquire_many(charge)
            .await
            .map_err(|_| closed())?
            .forget();
        let now = shared.link.clock.mono();
        let added = shared.lock().add_batch(&topic, partition, batch, charge, now);
        self.finish_adding(added, charge)
    }

    /// Looks a topic up, so that the first record does not have to wait for it.
    ///
    /// # Errors
    /// `Broker` with `UNKNOWN_TOPIC_OR_PARTITION`.
    pub async fn prepare(&self, topic: &str) -> Result<PreparedTopic, Error> {
        let topic = self.handle.shared.topic(topic).await?;
        Ok(PreparedTopic {
            partitions: topic.partitions,
            batch_bytes_max: topic.batch_bytes_max,
        })
    }

    /// Sends what waits for more records and waits until everything that was handed over before is answered.
    ///
    /// # Errors
    /// The first failure since the last flush that no ticket has shown.
    pub async fn flush(&self) -> Result<(), Error> {
        let shared = &self.handle.shared;
        let unanswered = shared.lock().begin_flush();
        shared.wake.notify_one();
        for completion in unanswered {
            Answered::new(completion).await;
        }
        shared.take_failure()
    }

    /// Flushes and ends the producer; later calls of its clones answer `Usage`.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn close(self) -> Result<(), Error> {
        self.handle.shared.lock().end();
        self.flush().await
    }

    fn add(&self, topic: &Topic, record: &ProducerRecord, buffered: u32) -> Result<Ticket, Error> {
        let shared = &self.handle.shared;
        let accepted = Accepted {
            topic,
            record,
            timestamp: record.timestamp.unwrap_or_else(|| shared.link.clock.wall()),
            buffered,
            now: shared.link.clock.mono(),
        };
        let added = shared.lock().add(&accepted);
        self.finish_adding(added, buffered)
    }

    fn finish_adding<T>(&self, added: Result<Added<T>, Error>, buffered: u32) -> Result<T, Error> {
        let shared = &self.handle.shared;
        match added {
            Ok(added) => {
                if added.wake {
                    shared.wake.notify_one();
                }
                Ok(added.ticket)
            }
            Err(error) => {
                shared.give_back(buffered);
                Err(error)
            }
        }
    }

    /// A record larger than the whole buffer takes all of it.
    fn charge(&self, bytes: u32) -> u32 {
        bytes.min(self.handle.shared.options.buffer_bytes)
    }
}

fn closed() -> Error {
    Error::Usage("the producer is closed".into())
}

/// Bytes that a record takes at most, checked against what can be sent at all.
fn record_bytes(topic: &Topic, record: &ProducerRecord) -> Result<u32, Error> {
    if let Some(partition) = record.partition {
        check_partition(topic, partition)?;
    }
    // A record's exact size depends on its batch; 36 bytes cover the numbers around it, 10 those of a header.
    let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    let headers: usize = record
        .headers
        .iter()
        .map(|h| h.key.len() + length(&h.value) + 10)
        .sum();
    let bytes = length(&record.key) + length(&record.value) + headers + 36;
    let exact = crate::record::BatchBuilder::with_capacity(HEADER_BYTES);
    let alone = if u64::try_from(bytes + HEADER_BYTES).unwrap_or(u64::MAX) > u64::from(topic.batch_bytes_max)
    {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        exact.encoded_bytes_with(Timestamp(0), key, value, &record.headers)
    } else {
        bytes
    };
    check_size(topic, u64::try_from(alone).unwrap_or(u64::MAX))?;
    u32::try_from(bytes).map_err(|_| Error::Usage("a record has less than 4 GiB".into()))
}

fn check_size(topic: &Topic, bytes: u64) -> Result<(), Error> {
    if bytes > u64::from(topic.batch_bytes_max) {
        return Err(Error::Usage(format!(
            "a batch of {bytes} bytes is too large: topic {} allows {} (max.message.bytes)",
            topic.name, topic.batch_bytes_max
        )));
    }
    Ok(())
}

fn check_partition(topic: &Topic, partition: u32) -> Result<(), Error> {
    if partition >= topic.partitions {
        return Err(Error::Usage(format!(
            "topic {} has no partition {partition}: it has {}",
            topic.name, topic.partitions
        )));
    }
    Ok(())
}

/// What a producer knows about a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreparedTopic {
    /// Number of partitions.
    pub partitions: u32,
    /// Largest batch that the topic takes.
    pub batch_bytes_max: u32,
}
