//! Sends records: batches them, keeps their order per partition over retries, and says when they are safe.

mod record;

use std::time::Duration;

pub use record::{BatchMetadata, PreparedBatch, ProducerRecord, RecordMetadata};

use super::{Client, Error};
use crate::model::Acks;

/// Options of a [`Producer`]; all have defaults.
#[derive(Clone, Debug)]
pub struct ProducerBuilder {
    _client: Client,
}

impl ProducerBuilder {
    pub(super) fn new(client: Client) -> Self {
        Self { _client: client }
    }

    /// When a record counts as safe. Default: on disk.
    #[must_use]
    pub fn acks(self, _acks: Acks) -> Self {
        unimplemented!()
    }

    /// How long a batch waits for more records while others are in flight. Default: 5 ms.
    #[must_use]
    pub fn linger(self, _linger: Duration) -> Self {
        unimplemented!()
    }

    /// Size at which a batch is closed; never above what the topic allows. Default: 256 KiB.
    #[must_use]
    pub fn batch_bytes(self, _bytes: u32) -> Self {
        unimplemented!()
    }

    /// Batches in flight per partition, 1 to 5 for an idempotent producer. Default: 5.
    #[must_use]
    pub fn max_in_flight(self, _batches: u32) -> Self {
        unimplemented!()
    }

    /// Whether the broker removes the duplicates that retries make. Default: true.
    #[must_use]
    pub fn idempotent(self, _idempotent: bool) -> Self {
        unimplemented!()
    }

    /// Whether a batch is sent again after an error that a retry may cure. Default: true.
    #[must_use]
    pub fn retries(self, _retries: bool) -> Self {
        unimplemented!()
    }

    /// Bytes of records that are not acknowledged yet; `send` waits above it. Default: 32 MiB.
    #[must_use]
    pub fn buffer_bytes(self, _bytes: u32) -> Self {
        unimplemented!()
    }

    /// How long a record may take from its acceptance to its acknowledgement. Default: 120 s.
    #[must_use]
    pub fn delivery_timeout(self, _timeout: Duration) -> Self {
        unimplemented!()
    }

    /// Starts the producer.
    ///
    /// # Errors
    /// `Config` if options contradict each other; those of a request, for an idempotent producer.
    pub async fn build(self) -> Result<Producer, Error> {
        unimplemented!()
    }
}

/// Sends records. Clones share everything. When the last clone is dropped, what was accepted is still sent.
#[derive(Clone, Debug)]
pub struct Producer {}

impl Producer {
    /// Sends a record and waits until it is safe.
    ///
    /// # Errors
    /// Final: what a retry can cure was retried until the delivery timeout.
    pub async fn send(&self, record: ProducerRecord) -> Result<RecordMetadata, Error> {
        self.enqueue(record).await?.await
    }

    /// Hands a record over; waits only for room in the buffer. Records of one partition keep the order of these calls.
    ///
    /// # Errors
    /// `Usage` or `Broker` if the record can never be sent.
    pub async fn enqueue(&self, _record: ProducerRecord) -> Result<Ticket, Error> {
        unimplemented!()
    }

    /// Hands a record over without waiting.
    ///
    /// # Errors
    /// `BufferFull`; `Usage` if the topic has not been used by this producer before (see [`prepare`](Self::prepare)).
    pub fn try_enqueue(&self, _record: ProducerRecord) -> Result<Ticket, Error> {
        unimplemented!()
    }

    /// Hands over a whole batch for one partition; waits only for room in the buffer. One ticket, nothing per record.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue); `Usage` if the batch is larger than the topic allows.
    pub async fn send_batch(
        &self,
        _topic: &str,
        _partition: u32,
        _batch: impl Into<PreparedBatch>,
    ) -> Result<BatchTicket, Error> {
        unimplemented!()
    }

    /// Looks a topic up, so that the first record does not have to wait for it. Returns the number of its partitions and
    /// the largest batch in bytes that will be built for it.
    ///
    /// # Errors
    /// `Broker` with `UNKNOWN_TOPIC_OR_PARTITION`.
    pub async fn prepare(&self, _topic: &str) -> Result<PreparedTopic, Error> {
        unimplemented!()
    }

    /// Sends what waits for more records and waits until everything that was handed over before is answered.
    ///
    /// # Errors
    /// The first failure since the last flush that no ticket has shown.
    pub async fn flush(&self) -> Result<(), Error> {
        unimplemented!()
    }

    /// Flushes and ends the producer; later calls of its clones answer `Usage`.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn close(self) -> Result<(), Error> {
        unimplemented!()
    }
}

/// What a producer knows about a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreparedTopic {
    /// Number of partitions.
    pub partitions: u32,
    /// Largest batch that the topic takes.
    pub batch_bytes_max: u32,
}

/// The acknowledgement of one record: a future. Dropping it changes nothing about the record.
#[derive(Debug)]
#[must_use = "a ticket that nobody awaits hides errors until flush or close"]
pub struct Ticket {}

impl Future for Ticket {
    type Output = Result<RecordMetadata, Error>;

    fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        unimplemented!()
    }
}

/// The acknowledgement of one batch: a future. Dropping it changes nothing about the batch.
#[derive(Debug)]
#[must_use = "a ticket that nobody awaits hides errors until flush or close"]
pub struct BatchTicket {}

impl Future for BatchTicket {
    type Output = Result<BatchMetadata, Error>;

    fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        unimplemented!()
    }
}
