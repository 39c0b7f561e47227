//! The task that moves batches from the accumulator over the connection and answers back to the tickets.
//!
//! Owns the queues and decides nothing about order: the queues do. Batches go over one connection at a time, and the next
//! connection is made only after every request of the broken one has failed, so that nothing overtakes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::mpsc;

use super::Shared;
use super::accumulator::{Batch, Closed, Topic};
use super::queue::{BatchNo, Failure, Identity, IdentityNeed, PartitionQueue};
use super::record::BatchMetadata;
use crate::client::admin::{decode, unexpected};
use crate::client::connection::{Connection, Reply, deadline_ms};
use crate::client::link::pause_after;
use crate::client::{BrokerError, Error};
use crate::model::{Acks, ErrorCode, Lsn, Offset, PartitionId, ProducerEpoch, ProducerId, Timestamp};
use crate::net::frame::FrameOut;
use crate::pb::v1 as pb;
use crate::pb::v1::{request::Body as RequestBody, response::Body as ResponseBody};
use crate::rt::Clock;
use crate::wire::client::{encode_produce, encode_request};

/// Requests of one producer in flight. The connection has its own limit; this one bounds the mailbox.
const REQUESTS_MAX: usize = 64;

/// Batches of several partitions share a request up to so many bytes: fewer frames, one durable write at the broker.
const REQUEST_BYTES: usize = 1 << 20;

/// Room for the envelope of a request.
const ENVELOPE_BYTES: usize = 64;

/// What the sender waits for.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "made once per reply and taken apart at once; a box would cost more"
)]
enum Event {
    Reply(Reply),
    Connected(Result<Arc<Connection>, Error>),
}

#[derive(Debug)]
enum Request {
    Produce(Vec<Sent>),
    InitProducer,
}

/// A batch of a request in flight.
#[derive(Clone, Copy, Debug)]
struct Sent {
    slot: usize,
    no: BatchNo,
}

#[derive(Debug)]
struct Outstanding {
    request: Request,
    give_up_at: Duration,
}

/// Batches that are to be sent, by their slots.
type Ready = SmallVec<[(usize, Closed); 8]>;

/// Encodes batches. What compresses much is done on a thread that may be busy; others wait for it, in their order.
async fn sealed(ready: Ready) -> SmallVec<[(usize, Batch); 8]> {
    let seal = |ready: Ready| {
        let sealed = ready.into_iter().map(|(slot, closed)| (slot, closed.seal()));
        sealed.collect()
    };
    if !ready.iter().any(|(_, closed)| closed.is_much_work()) {
        return seal(ready);
    }
    // Fails only if the runtime is ending, and everything on it.
    tokio::task::spawn_blocking(move || seal(ready))
        .await
        .unwrap_or_default()
}

/// The state of the task.
#[derive(Debug)]
pub(super) struct Sender {
    shared: Arc<Shared>,
    queues: Vec<PartitionQueue<Batch>>,
    /// Slots whose queue is not empty.
    busy: BTreeSet<usize>,
    connection: Option<Arc<Connection>>,
    connecting: bool,
    /// By token, which grows: the order of sending.
    outstanding: BTreeMap<u64, Outstanding>,
    next_token: u64,
    identity: Option<Identity>,
    identity_failures: u32,
    identity_not_before: Duration,
    /// The next identity must have a new id: the broker refused to bump this one.
    new_id: bool,
    /// The epoch that the broker has, where it is not the one that came with the identity.
    bump_from: Option<i32>,
    /// When topics are looked up again; `None`: nothing was sent yet.
    refresh_due: Option<Duration>,
    mailbox: mpsc::Sender<Reply>,
    replies: mpsc::Receiver<Reply>,
    /// Holds one: there is one attempt to connect at a time.
    connected_tx: mpsc::Sender<Result<Arc<Connection>, Error>>,
    connected: mpsc::Receiver<Result<Arc<Connection>, Error>>,
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        // Full it cannot be: no more requests are out than it has room for.
        let (mailbox, replies) = mpsc::channel(REQUESTS_MAX);
        let (connected_tx, connected) = mpsc::channel(1);
        Self {
            shared,
            queues: Vec::new(),
            busy: BTreeSet::new(),
            connection: None,
            connecting: false,
            outstanding: BTreeMap::new(),
            next_token: 0,
            identity: None,
            identity_failures: 0,
            identity_not_before: Duration::ZERO,
            new_id: false,
            bump_from: None,
            refresh_due: None,
            mailbox,
            replies,
            connected_tx,
            connected,
        }
    }

    /// Runs until the producer is closed and everything has its answer.
    pub(super) async fn run(mut self) {
        loop {
            let now = self.now();
            let mut wakes_at = self.collect(now).await;
            self.expire(now);
            if self.shared.lock().is_finished() {
                return;
            }
            self.refresh_topics(now);
            self.send_ready(now).await;
            wakes_at = earliest(wakes_at, self.next_timer(now));
            match self.next_event(wakes_at).await {
                Some(Event::Reply(reply)) => self.on_reply(reply),
                Some(Event::Connected(result)) => self.on_connected(result),
                None => {}
            }
            while let Ok(reply) = self.replies.try_recv() {
                self.on_reply(reply);
            }
        }
    }

    /// Looks topics up again where that was long ago. Only while there is something to send: who is idle need not know.
    fn refresh_topics(&mut self, now: Duration) {
        let due = *self
            .refresh_due
            .get_or_insert(now + self.shared.options.topics_max_age);
        if now >= due && !self.busy.is_empty() {
            self.refresh_due = Some(now + self.shared.options.topics_max_age);
            self.shared.refresh_topics();
        }
    }

    fn now(&self) -> Duration {
        self.shared.link.clock.mono()
    }

    /// `None`: there are new records, or a timer has run out.
    async fn next_event(&mut self, wakes_at: Option<Duration>) -> Option<Event> {
        let now = self.now();
        let timer = async {
            match wakes_at {
                Some(at) => tokio::time::sleep(at.saturating_sub(now)).await,
                None => std::future::pending().await,
            }
        };
        // The senders of both channels live as long as this task.
        tokio::select! {
            Some(reply) = self.replies.recv() => Some(Event::Reply(reply)),
            Some(result) = self.connected.recv() => Some(Event::Connected(result)),
            () = self.shared.wake.notified() => None,
            () = timer => None,
        }
    }

    /// Takes what is ready out of the accumulator, and encodes it. Returns when to look again.
    async fn collect(&mut self, now: Duration) -> Option<Duration> {
        let (ready, wakes_at) = self.take_ready(now);
        for (slot, batch) in sealed(ready).await {
            let (records, deadline) = (batch.records, batch.since + self.shared.options.delivery_timeout);
            self.queues[slot].push(batch, records, deadline);
            self.busy.insert(slot);
        }
        wakes_at
    }

    fn take_ready(&mut self, now: Duration) -> (Ready, Option<Duration>) {
        let shared = self.shared.clone();
        let mut accumulator = shared.lock();
        let options = shared.options.queue();
        let slots = accumulator.slots();
        self.queues.resize_with(slots, || PartitionQueue::new(options));
        let idle = self.busy.is_empty();
        let mut ready = Ready::new();
        let wakes_at = accumulator.take_ready(
            now,
            shared.options.linger,
            idle,
            |slot| self.queues[slot].has_room(),
            |slot, batch| ready.push((slot, batch)),
        );
        (ready, wakes_at)
    }

    fn expire(&mut self, now: Duration) {
        for slot in self.busy.clone() {
            self.queues[slot].expire(now);
            self.answer_failed(slot);
        }
        let overdue = self.outstanding.values().any(|request| request.give_up_at <= now);
        // A broker that leaves a produce request without an answer for so long is not there. All that is in flight comes
        // back as unknown and is sent again over the next connection.
        if overdue && let Some(connection) = &self.connection {
            connection.close("a request was not answered in time");
        }
    }

    /// Sends all that may be sent now.
    async fn send_ready(&mut self, now: Duration) {
        if self.busy.is_empty() || self.connecting {
            return;
        }
        let Some(connection) = self.connection.clone().filter(|c| !c.is_closed()) else {
            self.connection = None;
            if self.outstanding.is_empty() {
                self.connect();
            }
            return;
        };
        if self.shared.options.idempotent {
            self.hand_out_identity(&connection, now).await;
        }
        while self.outstanding.len() < REQUESTS_MAX {
            let items = self.gather(&connection, now);
            if items.is_empty() {
                return;
            }
            self.send_produce(&connection, items, now).await;
        }
    }

    fn connect(&mut self) {
        self.connecting = true;
        let (link, connected) = (self.shared.link.clone(), self.connected_tx.clone());
        self.shared.link.tasks.spawn(|stop| async move {
            tokio::select! {
                result = link.connection() => drop(connected.send(result).await),
                () = stop.cancelled() => {}
            }
        });
    }

    fn on_connected(&mut self, result: Result<Arc<Connection>, Error>) {
        self.connecting = false;
        match result {
            Ok(connection) => {
                for queue in &mut self.queues {
                    queue.on_new_connection();
                }
                self.connection = Some(connection);
            }
            // The link waits before it tries again; the batches wait until their delivery timeout.
            Err(error) if error.is_retriable() && self.shared.options.retries => {
                tracing::debug!(%error, "broker not reached");
            }
            Err(error) => self.fail_all(&error),
        }
    }

    fn fail_all(&mut self, error: &Error) {
        for slot in self.busy.clone() {
            self.queues[slot].fail_waiting(error);
            self.answer_failed(slot);
        }
    }

    /// Gives queues the identity that they wait for, or asks the broker for one.
    async fn hand_out_identity(&mut self, connection: &Arc<Connection>, now: Duration) {
        let mut missing: Option<IdentityNeed> = None;
        for slot in &self.busy {
            let queue = &mut self.queues[*slot];
            let Some(need) = queue.needs_identity() else {
                continue;
            };
            match self.identity {
                Some(identity) if identity.generation > need.above => queue.on_identity(identity),
                _ => missing = Some(need),
            }
        }
        let Some(need) = missing else { return };
        let asked = self
            .outstanding
            .values()
            .any(|o| matches!(o.request, Request::InitProducer));
        if asked || now < self.identity_not_before || self.outstanding.len() >= REQUESTS_MAX {
            return;
        }
        self.new_id |= need.new_id;
        let (producer_id, producer_epoch) = match self.identity {
            Some(identity) if !self.new_id => {
                let epoch = i32::from(identity.epoch.0);
                (identity.id.0, self.bump_from.unwrap_or(epoch))
            }
            _ => (-1, -1),
        };
        let body = RequestBody::InitProducer(pb::InitProducerRequest {
            producer_id,
            producer_epoch,
        });
        let timeout = self.shared.link.config.request_timeout;
        let frame = |id| encode_request(id, deadline_ms(timeout), body);
        self.send(connection, Request::InitProducer, now + timeout, frame)
            .await;
    }

    /// At most one batch of each partition, as many as fit one request. They count as in flight from here on.
    fn gather(&mut self, connection: &Connection, now: Duration) -> Vec<Sent> {
        let bytes_max = request_bytes_max(&connection.limits());
        let mut bytes = ENVELOPE_BYTES;
        let mut gathered = Vec::new();
        for slot in &self.busy {
            if bytes >= bytes_max {
                break;
            }
            let queue = &mut self.queues[*slot];
            let Some(next_bytes) = queue.peek_to_send(now).map(batch_bytes) else {
                continue;
            };
            // A batch that does not fit begins the next request; one that fits none is for the broker to refuse.
            if !gathered.is_empty() && bytes + next_bytes > bytes_max {
                continue;
            }
            let Some(sending) = queue.next_to_send(now) else {
                continue;
            };
            if let Some(producer) = sending.producer {
                sending.batch.sealed.stamp_producer(producer);
            }
            bytes += next_bytes;
            gathered.push(Sent {
                slot: *slot,
                no: sending.no,
            });
        }
        gathered
    }

    async fn send_produce(&mut self, connection: &Arc<Connection>, sent: Vec<Sent>, now: Duration) {
        let oldest = sent
            .iter()
            .filter_map(|sent| self.queues[sent.slot].front_deadline())
            .min();
        let left = oldest.map_or(Duration::ZERO, |deadline| deadline.saturating_sub(now));
        let timeout = self.shared.link.config.request_timeout.min(left.max(ATTEMPT_MIN));
        let acks = match self.shared.options.acks {
            Acks::Fsync => pb::Acks::Fsync,
            Acks::Memory => pb::Acks::Memory,
        };
        let places: Vec<(Arc<Topic>, u32)> = {
            let accumulator = self.shared.lock();
            sent.iter().map(|sent| accumulator.place(sent.slot)).collect()
        };
        let batches = sent
            .iter()
            .zip(places)
            .filter_map(|(sent, (topic, partition))| {
                let batch = self.queues[sent.slot].get(sent.no)?;
                let partition = pb::TopicPartition {
                    topic: topic.name.as_ref().to_owned(),
                    topic_id: Bytes::copy_from_slice(topic.id.as_bytes()),
                    partition,
                };
                let partition = pb::ProducePartition {
                    partition: Some(partition),
                    ..Default::default()
                };
                let head = Bytes::copy_from_slice(batch.sealed.head());
                Some((partition, [head, batch.sealed.body().clone()]))
            })
            .collect();
        let frame = move |id| encode_produce(id, deadline_ms(timeout), acks, batches);
        self.send(
            connection,
            Request::Produce(sent),
            now + timeout + ATTEMPT_MIN,
            frame,
        )
        .await;
    }

    async fn send(
        &mut self,
        connection: &Arc<Connection>,
        request: Request,
        give_up_at: Duration,
        frame: impl FnOnce(u64) -> Option<FrameOut>,
    ) {
        let token = self.next_token;
        self.next_token += 1;
        self.outstanding
            .insert(token, Outstanding { request, give_up_at });
        if let Err(error) = connection.send(&self.mailbox, token, frame).await {
            self.on_reply(Reply {
                token,
                result: Err(error),
            });
        }
    }

    fn on_reply(&mut self, reply: Reply) {
        let Some(outstanding) = self.outstanding.remove(&reply.token) else {
            return;
        };
        match outstanding.request {
            Request::Produce(sent) => self.on_produced(&sent, reply.result),
            Request::InitProducer => self.on_identity(reply.result),
        }
    }

    fn on_identity(&mut self, result: Result<ResponseBody, Error>) {
        let error = match result {
            Ok(ResponseBody::InitProducer(given)) => match self.identity_of(&given) {
                Ok(identity) => {
                    self.identity = Some(identity);
                    self.identity_failures = 0;
                    self.new_id = false;
                    self.bump_from = None;
                    return;
                }
                Err(error) => error,
            },
            Ok(other) => unexpected("init producer", &other),
            Err(error) => error,
        };
        self.identity_failures = self.identity_failures.saturating_add(1);
        let pause = pause_after(&error, self.shared.link.backoff(), self.identity_failures);
        self.identity_not_before = self.now() + pause;
        let refused = matches!(
            error.code(),
            Some(ErrorCode::InvalidProducerEpoch | ErrorCode::UnknownProducerId)
        );
        let current = error.broker().and_then(|error| error.details.current_epoch);
        if refused && current.is_some() && self.bump_from.is_none() {
            // The answer to an earlier bump was lost. The id is ours alone, so its epoch is bumped from there: other than a new
            // id, that also keeps out what lies in the buffers of broken connections.
            self.bump_from = current;
        } else if refused && !self.new_id {
            self.new_id = true;
        } else if !(error.is_retriable() && self.shared.options.retries) {
            self.fail_all(&error);
        }
    }

    fn identity_of(&self, given: &pb::InitProducerResponse) -> Result<Identity, Error> {
        let epoch = i16::try_from(given.producer_epoch)
            .ok()
            .filter(|epoch| *epoch >= 0);
        let (Some(epoch), 0..) = (epoch, given.producer_id) else {
            return Err(decode("init producer", "the identity is out of range"));
        };
        Ok(Identity {
            generation: self.identity.map_or(0, |identity| identity.generation) + 1,
            id: ProducerId(given.producer_id),
            epoch: ProducerEpoch(epoch),
        })
    }

    fn on_produced(&mut self, sent: &[Sent], result: Result<ResponseBody, Error>) {
        let error = match result {
            Ok(ResponseBody::Produce(produced)) if produced.partitions.len() == sent.len() => {
                for (sent, produced) in sent.iter().zip(produced.partitions) {
                    match produced.error {
                        Some(error) => self.on_failed(*sent, error.into()),
                        None => self.on_written(*sent, &produced),
                    }
                }
                return;
            }
            Ok(_) => self.protocol_broken(),
            Err(error @ Error::Decode { .. }) => {
                tracing::warn!(%error, "answer to a produce request not understood");
                self.protocol_broken()
            }
            Err(error) => error,
        };
        for sent in sent {
            self.on_failed(*sent, error.clone());
        }
    }

    /// An answer that answers something else says nothing about the batches, so the connection is given up.
    fn protocol_broken(&self) -> Error {
        const REASON: &str = "the answer does not fit the produce request";
        let address = self
            .connection
            .as_ref()
            .map_or("", |connection| connection.address());
        let error = Error::Disconnected {
            address: address.to_owned(),
            reason: REASON.into(),
            may_have_taken_effect: true,
        };
        if let Some(connection) = &self.connection {
            connection.close(REASON);
        }
        error
    }

    fn on_written(&mut self, sent: Sent, produced: &pb::ProducedPartition) {
        let now = self.now();
        let Some(batch) = self.queues[sent.slot].on_success(sent.no, now) else {
            return;
        };
        let (topic, partition) = self.shared.lock().place(sent.slot);
        let metadata = BatchMetadata {
            topic: topic.name.clone(),
            partition: PartitionId(partition),
            base_offset: Offset::new(produced.base_offset),
            records: batch.records,
            append_time: Timestamp(produced.append_time),
            acks: match produced.acks() {
                pb::Acks::Memory => Acks::Memory,
                pb::Acks::Fsync | pb::Acks::Unspecified => Acks::Fsync,
            },
            duplicate: produced.duplicate,
            durable_through: produced.durable_through.map(Lsn),
        };
        self.answer(sent.slot, &batch, Ok(metadata));
    }

    fn on_failed(&mut self, sent: Sent, error: Error) {
        let now = self.now();
        if error.broker().is_some_and(BrokerError::says_unknown_topic) {
            // Deleted, perhaps created again: the next record looks it up.
            let (topic, _) = self.shared.lock().place(sent.slot);
            self.shared.forget_topic(&topic);
        }
        if error.code() == Some(ErrorCode::MessageTooLarge) {
            // The topic takes less than it did: what comes next is cut to that.
            self.shared.refresh_topics();
        }
        let failure = self.queues[sent.slot].on_failure(sent.no, error, now);
        if failure == Some(Failure::Forgotten) {
            let (topic, partition) = self.shared.lock().place(sent.slot);
            tracing::warn!(topic = %topic.name, partition, "broker does not know acknowledged batches");
        }
        self.answer_failed(sent.slot);
    }

    fn answer_failed(&mut self, slot: usize) {
        for (batch, error) in self.queues[slot].take_failed() {
            self.answer(slot, &batch, Err(error));
        }
    }

    /// The one place where a batch gets its answer and gives its bytes back.
    fn answer(&mut self, slot: usize, batch: &Batch, answer: Result<BatchMetadata, Error>) {
        if self.queues[slot].is_empty() {
            self.busy.remove(&slot);
        }
        if answer.is_err() {
            self.shared.remember_failure(&batch.completion);
        }
        batch.completion.complete(answer);
        self.shared.lock().answered(batch.number);
        self.shared.give_back(batch.buffered);
    }

    fn next_timer(&self, now: Duration) -> Option<Duration> {
        let queues = self
            .busy
            .iter()
            .filter_map(|slot| self.queues[*slot].wakes_at(now));
        let requests = self.outstanding.values().map(|request| request.give_up_at);
        let identity = Some(self.identity_not_before).filter(|at| *at > now);
        queues.chain(requests).chain(identity).min()
    }
}

/// However little is left of the delivery timeout, an attempt gets so long.
const ATTEMPT_MIN: Duration = Duration::from_millis(250);

fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    a.into_iter().chain(b).min()
}

fn batch_bytes(batch: &Batch) -> usize {
    usize::try_from(batch.sealed.total_bytes()).unwrap_or(usize::MAX)
}

fn request_bytes_max(limits: &pb::Limits) -> usize {
    [limits.request_bytes_max, limits.step_bytes_max]
        .into_iter()
        .filter(|limit| *limit > 0)
        .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
        .fold(REQUEST_BYTES, usize::min)
}
