//! One connection, one task: reads requests, hands them to the broker in order, writes replies as they become due.
//!
//! Every turn of the loop takes in what has been read, writes what is due, and then waits for the one event that can
//! change something. Nothing is read that could not be kept: see [`Next`].

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use super::frame::{FrameError, Peek};
use super::greeting::{Greeted, greet};
use super::listener::Shared;
use super::pending::{Blocked, Held, InFlight, Meter, Parked, Queued};
use super::protocol::{Decision, Decoded, Protocol};
use super::socket::{Inbound, Outbound};
use super::{Hangup, Settings};
use crate::api::{ApiError, Ending, Outcome, Peer, Reply, Request, RequestKind, Service};
use crate::model::{DurableState, ErrorCode};
use crate::rt::BoxFuture;

/// Frames up to this size are read before they take their share of the memory for requests.
const ADMIT_LATE_BYTES_MAX: u32 = 64 << 10;

/// Frames handled in a row before other connections get their turn.
const FRAMES_IN_A_ROW: usize = 256;

/// When a client that was refused a parked request may try again.
const PARKED_RETRY_MS: u32 = 100;

/// A connection that was just accepted.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    /// Given back when the peer has greeted.
    pub(super) greeting_slot: OwnedSemaphorePermit,
}

/// Runs a connection from accept to close.
pub(super) async fn run<P: Protocol>(accepted: Accepted, shared: &Arc<Shared<P>>, stop: CancellationToken) {
    let Accepted {
        stream,
        address,
        greeting_slot,
    } = accepted;
    let (read, write) = stream.into_split();
    let counters = &shared.parts.counters;
    let mut inbound = Inbound::new(read, Arc::clone(counters));
    let mut outbound = Outbound::new(write, Arc::clone(counters));
    let settings = &shared.parts.settings;
    let greeted = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        greeted = greet(&mut inbound, &mut outbound, &shared.parts.protocol, settings, counters) => greeted,
    };
    match greeted {
        Greeted::Gone => {}
        Greeted::Refused => linger(inbound, outbound, settings).await,
        Greeted::Welcome(software) => {
            drop(greeting_slot);
            let peer = Peer {
                connection: shared.next_connection(),
                host: address.ip().to_canonical().to_string().into(),
                software,
            };
            if let Some((inbound, outbound)) = converse(inbound, outbound, peer, shared, stop).await {
                linger(inbound, outbound, settings).await;
            }
        }
    }
}

/// Serves a connection that was greeted. What comes back is still to be closed with care.
async fn converse<P: Protocol>(
    inbound: Inbound,
    outbound: Outbound,
    peer: Peer,
    shared: &Shared<P>,
    stop: CancellationToken,
) -> Option<(Inbound, Outbound)> {
    let mut open = Open::new(inbound, outbound, peer, shared);
    // A token of its own: ten thousand connections must not queue for the lock of one.
    let served = open.serve(stop.child_token()).await;
    shared.parts.counters.count_abandoned(open.in_flight.len());
    let linger = served.is_ok() && open.input != Input::Ended;
    linger.then_some((open.inbound, open.outbound))
}

/// Tells the broker once that a connection has ended, however its task ends, a panic included.
struct Attached<'a> {
    peer: Peer,
    service: &'a dyn Service,
    told: bool,
}

impl Attached<'_> {
    /// No request can come any more.
    fn end(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            self.service.disconnected(self.peer.connection);
        }
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Says goodbye without resetting the connection under the last reply.
async fn linger(mut inbound: Inbound, mut outbound: Outbound, settings: &Settings) {
    outbound.finish().await;
    // The peer has had its time, whether it used it or not.
    let _ = tokio::time::timeout(settings.linger, inbound.discard()).await;
}

/// What the connection may do about its input now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Read on.
    Read,
    /// Wait for a share of the memory for requests.
    Memory,
    /// Wait until something is answered or written.
    Relief,
    /// There is more in the buffer, but others must have their turn.
    Turn,
}

/// Where the input stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Open,
    /// The peer has sent everything; what it asked is still answered.
    Ended,
    /// The broker stops: nothing more is taken in, what was begun is answered.
    Stopped,
    /// The peer broke the rules or the engine failed: what was said is written, nothing else.
    Refused,
}

/// A share of the memory for requests.
enum Admission {
    None,
    Waiting(BoxFuture<'static, Option<OwnedSemaphorePermit>>),
    Granted(OwnedSemaphorePermit),
}

#[expect(
    clippy::large_enum_variant,
    reason = "one lives at a time, on the stack; boxing it would cost an allocation per answer"
)]
enum Event {
    Stop,
    Durable,
    Answered(u64, Reply),
    Retry,
    Memory(Option<OwnedSemaphorePermit>),
    Writable(io::Result<()>),
    Received(io::Result<usize>),
    Turn,
    Timer,
}

/// The time in which a started frame must make progress.
#[derive(Clone, Copy, Debug)]
struct Window {
    ends: Duration,
    received_bytes: u64,
}

struct Open<'a, P> {
    shared: &'a Shared<P>,
    settings: &'a Settings,
    inbound: Inbound,
    outbound: Outbound,
    durable: watch::Receiver<DurableState>,
    /// The engine has gone without a word, which is as bad as its poison.
    engine_gone: bool,
    in_flight: InFlight,
    held: Held,
    parked: Parked,
    blocked: Blocked,
    admission: Admission,
    input: Input,
    frame_window: Option<Window>,
    written_at: Duration,
    asked_at: Duration,
    timer: Pin<Box<Sleep>>,
    timer_at: Option<Duration>,
    /// The last field, and so dropped behind all requests.
    attached: Attached<'a>,
}

impl<'a, P: Protocol> Open<'a, P> {
    fn new(inbound: Inbound, outbound: Outbound, peer: Peer, shared: &'a Shared<P>) -> Self {
        let now = shared.parts.clock.mono();
        Self {
            shared,
            settings: &shared.parts.settings,
            inbound,
            outbound,
            durable: shared.parts.durable.clone(),
            engine_gone: false,
            in_flight: InFlight::default(),
            held: Held::default(),
            parked: Parked::default(),
            blocked: Blocked::default(),
            admission: Admission::None,
            input: Input::Open,
            frame_window: None,
            written_at: now,
            asked_at: now,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            timer_at: None,
            attached: Attached {
                peer,
                service: &*shared.parts.service,
                told: false,
            },
        }
    }

    /// Serves until there is nothing left to do. An error means that the peer is gone or was hung up on.
    async fn serve(&mut self, stop: CancellationToken) -> io::Result<()> {
        let mut stopped = std::pin::pin!(stop.cancelled());
        loop {
            let now = self.shared.parts.clock.mono();
            let mut next = self.take_requests(now);
            let released = self.release_due();
            let written = self.outbound.flush()?;
            if written > 0 || self.outbound.is_empty() {
                self.written_at = now;
            }
            if next == Next::Relief && (released || written > 0) {
                // The relief has come already; nothing else would wake us.
                next = Next::Turn;
            }
            self.end_membership(next);
            if self.is_done(next) {
                return Ok(());
            }
            if self.running() == 0 {
                self.inbound.frames.release();
            }
            self.watch_frame(next, now);
            self.set_timer(now);
            match self.wait(next, stopped.as_mut()).await {
                Event::Stop => self.stop(),
                // Looked at by `release_due`.
                Event::Durable | Event::Turn => {}
                Event::Answered(id, reply) => self.answer(id, reply),
                Event::Retry => self.retry_blocked(),
                Event::Memory(permit) => {
                    self.admission = permit.map_or(Admission::None, Admission::Granted);
                }
                Event::Writable(result) => result?,
                Event::Received(Ok(0)) => self.input = Input::Ended,
                Event::Received(result) => {
                    result?;
                }
                Event::Timer => self.check_deadlines()?,
            }
        }
    }

    async fn wait(&mut self, next: Next, stopped: Pin<&mut impl Future<Output = ()>>) -> Event {
        let alive = self.input != Input::Refused;
        let may_answer = alive && self.outbound.bytes() <= self.settings.connection_reply_bytes_max;
        let memory = async {
            match &mut self.admission {
                Admission::Waiting(permit) => permit.await,
                Admission::None | Admission::Granted(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stopped, if matches!(self.input, Input::Open | Input::Ended) => Event::Stop,
            changed = self.durable.changed(), if alive && !self.held.is_empty() => {
                self.engine_gone = changed.is_err();
                Event::Durable
            }
            (id, reply) = self.parked.next(), if may_answer && !self.parked.is_empty() => Event::Answered(id, reply),
            () = self.blocked.retry(), if alive && !self.blocked.is_empty() => Event::Retry,
            permit = memory, if next == Next::Memory => Event::Memory(permit),
            result = self.outbound.writable(), if !self.outbound.is_empty() => Event::Writable(result),
            result = self.inbound.receive(), if next == Next::Read && self.input == Input::Open => {
                Event::Received(result)
            }
            () = tokio::task::yield_now(), if next == Next::Turn => Event::Turn,
            () = self.timer.as_mut() => Event::Timer,
        }
    }

    /// Nothing can come any more that would have to be answered, and everything is written.
    fn is_done(&self, next: Next) -> bool {
        let nothing_open = self.in_flight.is_empty() && self.outbound.is_empty();
        match self.input {
            Input::Open => false,
            Input::Ended => nothing_open && next == Next::Read,
            Input::Stopped => nothing_open,
            Input::Refused => self.outbound.is_empty(),
        }
    }

    /// Requests that are not answered, without the parked ones.
    fn running(&self) -> usize {
        self.in_flight.len().saturating_sub(self.parked.len())
    }

    /// Takes in all requests that are there, as far as the limits allow.
    fn take_requests(&mut self, now: Duration) -> Next {
        for _ in 0..FRAMES_IN_A_ROW {
            if matches!(self.input, Input::Stopped | Input::Refused) {
                return Next::Relief;
            }
            if self.running() >= self.settings.requests_running_max
                || self.outbound.bytes() > self.settings.connection_reply_bytes_max
            {
                return Next::Relief;
            }
            let bytes = match self.inbound.frames.peek(self.settings.request_bytes_max) {
                Ok(Peek::Nothing) => return Next::Read,
                Ok(Peek::Partial { bytes }) if bytes <= ADMIT_LATE_BYTES_MAX => return Next::Read,
                Ok(Peek::Partial { bytes } | Peek::Complete { bytes }) => bytes,
                Err(error) => {
                    self.refuse_frame(error);
                    return Next::Relief;
                }
            };
            let budget = self.settings.connection_request_bytes_max;
            if !self.in_flight.is_empty() && self.in_flight.bytes() + u64::from(bytes) > budget {
                return Next::Relief;
            }
            let Some(permit) = self.admit(bytes) else {
                return Next::Memory;
            };
            match self.inbound.frames.take(self.settings.request_bytes_max) {
                Ok(Some(frame)) => {
                    self.asked_at = now;
                    self.frame_window = None;
                    let charge = frame.len() as u64;
                    let decoded = self.shared.parts.protocol.decode(frame);
                    self.take_request(decoded, charge, permit, now);
                }
                // Admitted before its body is read.
                Ok(None) => {
                    self.admission = Admission::Granted(permit);
                    return Next::Read;
                }
                Err(error) => {
                    self.refuse_frame(error);
                    return Next::Relief;
                }
            }
        }
        Next::Turn
    }

    /// Takes a share of the memory for requests, or begins to wait for it.
    fn admit(&mut self, bytes: u32) -> Option<OwnedSemaphorePermit> {
        match std::mem::replace(&mut self.admission, Admission::None) {
            Admission::Granted(permit) => Some(permit),
            waiting @ Admission::Waiting(_) => {
                self.admission = waiting;
                None
            }
            Admission::None => {
                let (memory, all) = self.shared.request_memory.of(bytes > ADMIT_LATE_BYTES_MAX);
                let share = bytes.min(all);
                if let Ok(permit) = Arc::clone(memory).try_acquire_many_owned(share) {
                    return Some(permit);
                }
                self.admission = Admission::Waiting(Box::pin(acquire(Arc::clone(memory), share)));
                None
            }
        }
    }

    fn take_request(&mut self, decoded: Decoded, charge: u64, permit: OwnedSemaphorePermit, now: Duration) {
        let Decoded { id, decision } = decoded;
        match decision {
            Decision::Request { .. } | Decision::Answer(_) if self.in_flight.contains(id) => {
                self.hang_up(id, in_flight_already(id));
            }
            Decision::Request {
                request,
                deadline,
                decoded_bytes,
            } => {
                self.shared.parts.counters.count_request();
                let meter = Meter {
                    kind: request.kind(),
                    acks: match &request {
                        Request::Produce(produce) => Some(produce.acks),
                        _ => None,
                    },
                    since: now,
                    ending: Ending::Ok,
                };
                self.in_flight
                    .insert(id, charge.max(decoded_bytes), meter, Some(permit));
                let expires = now.saturating_add(deadline.unwrap_or(self.settings.request_deadline_default));
                let queued = Queued { id, expires, request };
                let appends = matches!(queued.request, Request::Produce(_) | Request::Step(_));
                if appends && !self.blocked.is_empty() {
                    // Batches of one connection stay in the order in which they came.
                    self.blocked.put_last(queued);
                } else if let Some((queued, retry)) = self.submit(queued) {
                    if self.blocked.is_empty() {
                        self.blocked.put_first(queued, retry);
                    } else {
                        self.blocked.put_last(queued);
                    }
                }
            }
            Decision::Answer(answer) => self.outbound.push(answer),
            Decision::Refuse(error) => {
                self.shared.parts.counters.count_bad_input(error.code);
                self.outbound
                    .push(self.shared.parts.protocol.encode(id, Err(error)));
            }
            Decision::HangUp(error) => self.hang_up(id, error),
        }
    }

    /// Hands a request to the broker. It comes back, with the time of its next try, if there is no room for it.
    fn submit(&mut self, queued: Queued) -> Option<(Queued, BoxFuture<'static, ()>)> {
        let Queued { id, expires, request } = queued;
        match self.attached.service.handle(request, &self.attached.peer) {
            Outcome::Ready(reply) => self.answer(id, reply),
            Outcome::AfterLsn { lsn, reply } => {
                self.in_flight.ends(id, Ending::of_reply(&reply));
                self.held
                    .push(lsn, id, self.shared.parts.protocol.encode(id, reply));
            }
            Outcome::Blocked { request, retry } => return Some((Queued { id, expires, request }, retry)),
            Outcome::Later(_) if self.parked.len() >= self.settings.requests_parked_max => {
                self.answer(id, Err(too_many_parked(self.settings.requests_parked_max)));
            }
            Outcome::Later(reply) => {
                self.in_flight.discharge(id);
                self.parked.push(id, reply);
            }
        }
        None
    }

    /// Hands blocked requests to the broker until one of them is blocked again.
    fn retry_blocked(&mut self) {
        self.expire_blocked(self.shared.parts.clock.mono());
        while let Some(first) = self.blocked.pop() {
            if let Some((first, retry)) = self.submit(first) {
                self.blocked.put_first(first, retry);
                return;
            }
        }
    }

    fn expire_blocked(&mut self, now: Duration) {
        for id in self.blocked.take_expired(now) {
            self.answer(id, Err(deadline_exceeded()));
        }
    }

    fn answer(&mut self, id: u64, reply: Reply) {
        self.in_flight.ends(id, Ending::of_reply(&reply));
        self.finish(id, self.shared.parts.clock.mono());
        self.outbound.push(self.shared.parts.protocol.encode(id, reply));
    }

    /// The request is over: gives its share back and counts it.
    fn finish(&mut self, id: u64, now: Duration) {
        if let Some(meter) = self.in_flight.remove(id) {
            let took = now.saturating_sub(meter.since);
            let counters = &self.shared.parts.counters;
            counters.count_answer(&meter, took);
        }
    }

    /// Moves replies that have become due to the output. Returns whether there were any.
    fn release_due(&mut self) -> bool {
        if self.held.is_empty() {
            return false;
        }
        let mut released = false;
        let state = *self.durable.borrow_and_update();
        let mut now = None;
        while let Some((id, reply)) = self.held.pop_due(state.lsn) {
            let now = *now.get_or_insert_with(|| self.shared.parts.clock.mono());
            self.finish(id, now);
            self.outbound.push(reply);
            released = true;
        }
        if state.poisoned || self.engine_gone {
            for id in self.held.give_up() {
                self.answer(id, Err(storage_failed()));
            }
            self.give_up_waiting();
            self.input = Input::Refused;
        }
        released
    }

    /// Once nothing more is taken in from a peer, be it that it is gone, nobody can be a member through this connection. A
    /// broker that stops answers what waits anyway.
    fn end_membership(&mut self, next: Next) {
        match self.input {
            Input::Ended if next == Next::Read => {
                let heartbeats = |id| self.in_flight.kind(id) == Some(RequestKind::GroupHeartbeat);
                for id in self.parked.give_up_those(heartbeats) {
                    self.answer(id, Err(half_closed()));
                }
                if self.running() == 0 {
                    self.attached.end();
                }
            }
            Input::Refused => {
                // Nobody would see the answers.
                self.parked.give_up();
                self.attached.end();
            }
            Input::Open | Input::Ended | Input::Stopped => {}
        }
    }

    /// Takes nothing more in and answers what only waits.
    fn stop(&mut self) {
        self.input = Input::Stopped;
        self.admission = Admission::None;
        self.give_up_waiting();
    }

    /// Answers requests that have not changed anything and would wait.
    fn give_up_waiting(&mut self) {
        let mut ids = self.parked.give_up();
        ids.extend(self.blocked.give_up());
        for id in ids {
            self.answer(id, Err(draining()));
        }
    }

    fn refuse_frame(&mut self, error: FrameError) {
        let error = self.shared.parts.protocol.frame_error(error);
        self.hang_up(0, error);
    }

    fn hang_up(&mut self, id: u64, error: ApiError) {
        self.shared.parts.counters.count_bad_input(error.code);
        self.outbound
            .push(self.shared.parts.protocol.encode(id, Err(error)));
        self.input = Input::Refused;
    }

    /// A started frame must make progress, but only while it is being read.
    fn watch_frame(&mut self, next: Next, now: Duration) {
        let reading = next == Next::Read && self.input == Input::Open;
        if !reading || self.inbound.frames.unread().is_empty() {
            self.frame_window = None;
        } else if self.frame_window.is_none() {
            self.frame_window = Some(Window {
                ends: now.saturating_add(self.settings.progress_window),
                received_bytes: self.inbound.received_bytes(),
            });
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let output = self.written_at.saturating_add(self.settings.output_deadline);
        let idle = self.asked_at.saturating_add(self.settings.idle_deadline);
        [
            self.frame_window.map(|window| window.ends),
            (!self.outbound.is_empty()).then_some(output),
            self.is_idle().then_some(idle),
            self.blocked.next_expiry(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.outbound.is_empty()
    }

    /// Deadlines mostly move away: a timer that rings too early is set again then, which is cheaper than moving it with
    /// every request.
    fn set_timer(&mut self, now: Duration) {
        let Some(deadline) = self.next_deadline() else {
            if self.timer_at.is_none() {
                self.ring_in(now, self.settings.idle_deadline);
            }
            return;
        };
        if self.timer_at.is_none_or(|at| deadline < at) {
            self.ring_in(now, deadline.saturating_sub(now));
        }
    }

    fn ring_in(&mut self, now: Duration, wait: Duration) {
        self.timer.set(tokio::time::sleep(wait));
        self.timer_at = Some(now.saturating_add(wait));
    }

    fn check_deadlines(&mut self) -> io::Result<()> {
        self.timer_at = None;
        let now = self.shared.parts.clock.mono();
        if let Some(window) = self.frame_window
            && window.ends <= now
        {
            let received = self.inbound.received_bytes() - window.received_bytes;
            if received < self.settings.progress_bytes {
                return self.hang_up_silently(Hangup::SlowFrame);
            }
            self.frame_window = None;
        }
        if !self.outbound.is_empty() && self.written_at + self.settings.output_deadline <= now {
            return self.hang_up_silently(Hangup::SlowReader);
        }
        if self.is_idle() && self.asked_at + self.settings.idle_deadline <= now {
            return self.hang_up_silently(Hangup::Idle);
        }
        self.expire_blocked(now);
        Ok(())
    }

    fn hang_up_silently(&self, reason: Hangup) -> io::Result<()> {
        self.shared.parts.counters.count_hangup(reason);
        tracing::debug!(reason = reason.name(), "connection closed by the broker");
        Err(io::ErrorKind::TimedOut.into())
    }
}

async fn acquire(memory: Arc<Semaphore>, bytes: u32) -> Option<OwnedSemaphorePermit> {
    // The semaphore is never closed; were it, the connection would simply ask again.
    memory.acquire_many_owned(bytes).await.ok()
}

fn in_flight_already(id: u64) -> ApiError {
    ApiError::new(
        ErrorCode::Protocol,
        format!("request id {id} is in flight on this connection already"),
    )
    .hint("use an id again only after its reply has come")
}

fn too_many_parked(max: usize) -> ApiError {
    ApiError::new(
        ErrorCode::Backpressure,
        format!("{max} requests of this connection are waiting already"),
    )
    .hint("wait for some of them, or use another connection")
    .retry_after_ms(PARKED_RETRY_MS)
}

fn deadline_exceeded() -> ApiError {
    ApiError::new(
        ErrorCode::DeadlineExceeded,
        "the broker had no room for this request before its deadline",
    )
}

fn storage_failed() -> ApiError {
    ApiError::new(
        ErrorCode::StorageFailed,
        "the storage engine failed before this was known to be on disk; it may be there or not",
    )
    .hint("when the broker is back, retry with an idempotent producer or look at what is there")
}

fn half_closed() -> ApiError {
    ApiError::new(
        ErrorCode::Protocol,
        "the connection is closed for requests, so nothing can be heard of this member any more",
    )
    .hint("keep both directions of the connection open while a member lives")
}

fn draining() -> ApiError {
    ApiError::new(ErrorCode::Draining, "the broker is stopping").hint("connect again")
}
