//! One TCP connection: many requests at once, replies in any order, matched by request id.
//!
//! Does not reconnect and does not retry; when it breaks, every request without an answer fails with one reason.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::config::ClientConfig;
use crate::net::frame::{FrameOut, FrameReader};
use crate::pb::v1 as pb;
use crate::pb::v1::{request::Body as RequestBody, response::Body as ResponseBody};
use crate::rt::Tasks;
use crate::wire::PROTOCOL_VERSION;
use crate::wire::client::{decode_response, encode_request};

/// Frames waiting for the writer. Full: whoever sends waits, and TCP pushes back on them.
const OUTBOX_LEN: usize = 64;

/// Bytes gathered for one write, unless a single frame has more.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// Requests in flight, where the broker does not say how many it takes.
const REQUESTS_RUNNING_DEFAULT: u32 = 64;

/// Response limit, where the broker does not say.
const RESPONSE_BYTES_DEFAULT: u32 = 16 << 20;

/// Whatever the broker says, a longer response is not read.
const RESPONSE_BYTES_CEILING: u32 = 64 << 20;

/// Id of the handshake; those of requests are above it, and 0 is the broker's own.
const HELLO_ID: u64 = 1;

/// What a reply that goes to a mailbox brings.
#[derive(Debug)]
pub(super) struct Reply {
    /// The sender's own number for the request.
    pub(super) token: u64,
    pub(super) result: Result<ResponseBody, Error>,
}

/// Where a reply goes.
#[derive(Debug)]
enum ReplyTo {
    Caller(oneshot::Sender<Result<ResponseBody, Error>>),
    Mailbox {
        mailbox: mpsc::Sender<Reply>,
        token: u64,
    },
}

impl ReplyTo {
    fn deliver(self, result: Result<ResponseBody, Error>) {
        match self {
            // Nobody waits any more: the call was dropped.
            Self::Caller(caller) => drop(caller.send(result)),
            // The mailbox has room for all requests that its owner has out; closed, its owner is gone.
            Self::Mailbox { mailbox, token } => drop(mailbox.try_send(Reply { token, result })),
        }
    }
}

/// A connection whose handshake is done. Dropping the last handle closes it.
#[derive(Debug)]
pub(super) struct Connection {
    info: pb::HelloResponse,
    outbox: mpsc::Sender<FrameOut>,
    shared: Arc<Shared>,
    running: Arc<Semaphore>,
    parked: Arc<Semaphore>,
}

#[derive(Debug)]
struct Shared {
    address: String,
    pending: Mutex<PendingMap>,
    /// Frames received; standing still while a request waits means that the peer is dead.
    received: AtomicU64,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct PendingMap {
    /// Bounded by the permits that the entries hold.
    requests: HashMap<u64, Pending>,
    last_id: u64,
    closed: Option<String>,
}

#[derive(Debug)]
struct Pending {
    reply_to: ReplyTo,
    _permit: OwnedSemaphorePermit,
}

/// A request whose answer is under way.
#[derive(Debug)]
struct Call {
    id: u64,
    received_before: u64,
    answer: oneshot::Receiver<Result<ResponseBody, Error>>,
}

impl Connection {
    /// Connects and shakes hands, both within the connect timeout.
    pub(super) async fn open(address: &str, config: &ClientConfig, tasks: &Tasks) -> Result<Self, Error> {
        let connecting = Self::open_without_timeout(address, config, tasks);
        tokio::time::timeout(config.connect_timeout, connecting)
            .await
            .unwrap_or_else(|_| {
                Err(connect_error(
                    address,
                    format!("no answer within {:?}", config.connect_timeout),
                ))
            })
    }

    async fn open_without_timeout(
        address: &str,
        config: &ClientConfig,
        tasks: &Tasks,
    ) -> Result<Self, Error> {
        let refused = |e: std::io::Error| connect_error(address, e.to_string());
        let stream = TcpStream::connect(address).await.map_err(refused)?;
        // Frames are gathered by the writer; waiting for more would only delay them.
        stream.set_nodelay(true).map_err(refused)?;
        let (mut read, mut write) = stream.into_split();
        let mut frames = FrameReader::default();
        let info = shake_hands(address, config, &mut read, &mut write, &mut frames).await?;
        Ok(Self::start(address, info, read, write, frames, tasks))
    }

    fn start(
        address: &str,
        info: pb::HelloResponse,
        read: OwnedReadHalf,
        write: OwnedWriteHalf,
        frames: FrameReader,
        tasks: &Tasks,
    ) -> Self {
        let limits = info.limits.unwrap_or_default();
        let shared = Arc::new(Shared {
            address: address.to_owned(),
            pending: Mutex::default(),
            received: AtomicU64::new(0),
            stop: tasks.token().child_token(),
        });
        let (outbox, queue) = mpsc::channel(OUTBOX_LEN);
        let response_max = match limits.response_bytes_max {
            0 => RESPONSE_BYTES_DEFAULT,
            max => max.min(RESPONSE_BYTES_CEILING),
        };
        let writer = write_frames(write, queue, shared.clone());
        let reader = read_replies(read, frames, response_max, shared.clone());
        tasks.spawn(|_| writer);
        tasks.spawn(|_| reader);
        let permits = |max: u32| {
            let max = if max == 0 { REQUESTS_RUNNING_DEFAULT } else { max };
            Arc::new(Semaphore::new(usize::try_from(max).unwrap_or(usize::MAX >> 3)))
        };
        Self {
            running: permits(limits.requests_running_max),
            parked: permits(limits.requests_parked_max),
            info,
            outbox,
            shared,
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.shared.address
    }

    /// What the broker said in the handshake.
    pub(super) fn info(&self) -> &pb::HelloResponse {
        &self.info
    }

    pub(super) fn limits(&self) -> pb::Limits {
        self.info.limits.unwrap_or_default()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.shared.lock().closed.is_some()
    }

    /// Closes the connection: everything without an answer fails with this reason.
    pub(super) fn close(&self, reason: &str) {
        self.shared.close(reason);
    }

    /// Sends a request and waits for the answer. Dropping the future does not take the request back.
    pub(super) async fn call(
        &self,
        what: &'static str,
        body: RequestBody,
        timeout: Duration,
    ) -> Result<ResponseBody, Error> {
        let slots = match body {
            // A fetch may be parked at the broker, where it does not count as running, and so may a heartbeat that waits.
            RequestBody::Fetch(_) => &self.parked,
            RequestBody::GroupHeartbeat(ref beat) if beat.max_wait_ms > 0 => &self.parked,
            _ => &self.running,
        };
        let mut sent = None;
        let answered = self.call_without_timeout(body, slots, timeout, &mut sent);
        // The broker is told the same deadline; its own answer to that is worth a moment.
        let patience = timeout.saturating_add(Duration::from_millis(250));
        if let Ok(result) = tokio::time::timeout(patience, answered).await {
            return result;
        }
        if let Some((id, received_before)) = sent {
            self.shared.lock().requests.remove(&id);
            if self.shared.received.load(Ordering::Relaxed) == received_before {
                self.close("the broker is silent");
            }
        }
        Err(Error::Timeout {
            what,
            after: timeout,
            may_have_taken_effect: sent.is_some(),
            cause: None,
        })
    }

    async fn call_without_timeout(
        &self,
        body: RequestBody,
        slots: &Arc<Semaphore>,
        timeout: Duration,
        sent: &mut Option<(u64, u64)>,
    ) -> Result<ResponseBody, Error> {
        let permit = self.permit(slots).await?;
        let (caller, answer) = oneshot::channel();
        let id = self.shared.register(ReplyTo::Caller(caller), permit)?;
        let call = Call {
            id,
            received_before: self.shared.received.load(Ordering::Relaxed),
            answer,
        };
        *sent = Some((call.id, call.received_before));
        let frame = encode_request(id, deadline_ms(timeout), body);
        self.hand_over(id, frame).await?;
        call.answer.await.unwrap_or_else(|_| Err(self.shared.lost()))
    }

    /// Sends a request whose answer goes to `mailbox`, which must have room for all requests out at once. Requests
    /// sent one after the other reach the broker in that order. Waits for a slot of the connection.
    ///
    /// # Errors
    /// Nothing was sent, and no answer will come.
    pub(super) async fn send(
        &self,
        mailbox: &mpsc::Sender<Reply>,
        token: u64,
        frame: impl FnOnce(u64) -> Option<FrameOut>,
    ) -> Result<(), Error> {
        let permit = self.permit(&self.running).await?;
        let reply_to = ReplyTo::Mailbox {
            mailbox: mailbox.clone(),
            token,
        };
        let id = self.shared.register(reply_to, permit)?;
        self.hand_over(id, frame(id)).await
    }

    async fn permit(&self, slots: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Error> {
        slots
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| self.shared.not_sent())
    }

    async fn hand_over(&self, id: u64, frame: Option<FrameOut>) -> Result<(), Error> {
        let Some(frame) = frame else {
            self.shared.lock().requests.remove(&id);
            return Err(Error::Usage("the request is larger than any frame".into()));
        };
        // A closed outbox means a closed connection, which answers every entry that was registered before.
        let _ = self.outbox.send(frame).await;
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.close("closed by this side");
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, PendingMap> {
        self.pending.lock().expect("no panics while locked")
    }

    fn register(&self, reply_to: ReplyTo, permit: OwnedSemaphorePermit) -> Result<u64, Error> {
        let mut map = self.lock();
        if map.closed.is_some() {
            drop(map);
            return Err(self.not_sent());
        }
        map.last_id += 1;
        let id = HELLO_ID + map.last_id;
        let pending = Pending {
            reply_to,
            _permit: permit,
        };
        map.requests.insert(id, pending);
        Ok(id)
    }

    fn close(&self, reason: &str) {
        let requests = {
            let mut map = self.lock();
            map.closed.get_or_insert_with(|| reason.to_owned());
            std::mem::take(&mut map.requests)
        };
        self.stop.cancel();
        let mut requests: Vec<_> = requests.into_iter().collect();
        // In the order of sending, so that whoever has several out sees them fail in order.
        requests.sort_unstable_by_key(|(id, _)| *id);
        for (_, pending) in requests {
            pending.reply_to.deliver(Err(self.lost()));
        }
    }

    fn deliver(&self, id: u64, result: Result<ResponseBody, Error>) {
        self.received.fetch_add(1, Ordering::Relaxed);
        let pending = self.lock().requests.remove(&id);
        // Without an entry its caller has given up.
        if let Some(pending) = pending {
            pending.reply_to.deliver(result);
        }
    }

    fn lost(&self) -> Error {
        self.disconnected(true)
    }

    fn not_sent(&self) -> Error {
        self.disconnected(false)
    }

    fn disconnected(&self, may_have_taken_effect: bool) -> Error {
        Error::Disconnected {
            address: self.address.clone(),
            reason: self.lock().closed.clone().unwrap_or_default(),
            may_have_taken_effect,
        }
    }
}

pub(super) fn deadline_ms(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1)
}

fn connect_error(address: &str, reason: impl Into<String>) -> Error {
    Error::Connect {
        address: address.to_owned(),
        reason: reason.into(),
    }
}

async fn shake_hands(
    address: &str,
    config: &ClientConfig,
    read: &mut OwnedReadHalf,
    write: &mut OwnedWriteHalf,
    frames: &mut FrameReader,
) -> Result<pb::HelloResponse, Error> {
    let hello = pb::HelloRequest {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        client_name: "naru-rust".into(),
        client_version: env!("CARGO_PKG_VERSION").into(),
        client_id: config.client_id.clone(),
        features: Vec::new(),
        expected_cluster_id: config.expected_cluster_id.clone(),
    };
    let failed = |e: std::io::Error| connect_error(address, e.to_string());
    let body = RequestBody::Hello(hello);
    let frame = encode_request(HELLO_ID, deadline_ms(config.connect_timeout), body)
        .ok_or_else(|| Error::Config("the client id is too long".into()))?;
    for mut piece in frame.into_chunks() {
        write.write_all_buf(&mut piece).await.map_err(failed)?;
    }
    let bytes = loop {
        match frames.take(RESPONSE_BYTES_DEFAULT) {
            Ok(Some(bytes)) => break bytes,
            Ok(None) => {}
            Err(bad) => {
                return Err(connect_error(
                    address,
                    format!("no answer of a Naru broker: {bad}"),
                ));
            }
        }
        if read.read_buf(frames.room()).await.map_err(failed)? == 0 {
            return Err(connect_error(address, "closed during the handshake"));
        }
    };
    let response = decode_response(bytes)
        .map_err(|e| connect_error(address, format!("no answer of a Naru broker: {e}")))?;
    match response.body {
        Some(ResponseBody::Hello(info)) if info.draining => {
            Err(connect_error(address, "the broker is about to stop"))
        }
        Some(ResponseBody::Hello(info)) => Ok(info),
        Some(ResponseBody::Error(error)) => Err(error.into()),
        _ => Err(connect_error(
            address,
            "the handshake was answered with something else",
        )),
    }
}

async fn write_frames(mut write: OwnedWriteHalf, mut queue: mpsc::Receiver<FrameOut>, shared: Arc<Shared>) {
    let mut pieces = Pieces::default();
    let mut stopped = pin!(shared.stop.cancelled());
    loop {
        let frame = tokio::select! {
            frame = queue.recv() => frame,
            () = &mut stopped => None,
        };
        let Some(frame) = frame else { break };
        pieces.extend(frame);
        while pieces.remaining() < WRITE_BYTES_MAX
            && let Ok(frame) = queue.try_recv()
        {
            pieces.extend(frame);
        }
        let written = tokio::select! {
            written = write.write_all_buf(&mut pieces) => written,
            () = &mut stopped => break,
        };
        if let Err(e) = written {
            shared.close(&e.to_string());
            break;
        }
    }
}

async fn read_replies(
    mut read: OwnedReadHalf,
    mut frames: FrameReader,
    response_max: u32,
    shared: Arc<Shared>,
) {
    let reason = {
        let reading = read_until_broken(&mut read, &mut frames, response_max, &shared);
        tokio::select! {
            reason = reading => reason,
            () = shared.stop.cancelled() => "closed by this side".to_owned(),
        }
    };
    shared.close(&reason);
}

async fn read_until_broken(
    read: &mut OwnedReadHalf,
    frames: &mut FrameReader,
    response_max: u32,
    shared: &Shared,
) -> String {
    loop {
        loop {
            let response = match frames.take(response_max) {
                Ok(Some(bytes)) => decode_response(bytes),
                Ok(None) => break,
                Err(bad) => return bad.to_string(),
            };
            match response {
                Ok(pb::Response { request_id: 0, body }) => return connection_error(body),
                Ok(response) => shared.deliver(response.request_id, result_of(response.body)),
                // Whose answer it was cannot be known, so all of them are lost.
                Err(e) => return format!("a response cannot be decoded: {e}"),
            }
        }
        match read.read_buf(frames.room()).await {
            Ok(0) => return "closed by the broker".into(),
            Ok(_) => {}
            Err(e) => return e.to_string(),
        }
    }
}

/// The broker speaks about the connection itself; it closes it then.
fn connection_error(body: Option<ResponseBody>) -> String {
    match body {
        Some(ResponseBody::Error(error)) => Error::from(error).to_string(),
        _ => "the broker answered a request that nobody made".into(),
    }
}

fn result_of(body: Option<ResponseBody>) -> Result<ResponseBody, Error> {
    match body {
        Some(ResponseBody::Error(error)) => Err(error.into()),
        Some(body) => Ok(body),
        None => Err(Error::Decode {
            what: "a response",
            reason: "it has no body that this client knows".into(),
        }),
    }
}

/// Pieces of many frames, written with few system calls.
#[derive(Debug, Default)]
struct Pieces {
    // Invariant: no piece is empty; `bytes` is their sum.
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Pieces {
    fn extend(&mut self, frame: FrameOut) {
        for piece in frame.into_chunks() {
            if !piece.is_empty() {
                self.bytes += piece.len();
                self.pieces.push_back(piece);
            }
        }
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        self.bytes -= count;
        while count > 0 {
            let front = self.pieces.front_mut().expect("no more is written than is there");
            if front.len() > count {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_advance_over_their_borders() {
        let mut pieces = Pieces::default();
        for text in ["abc", "", "de"] {
            pieces.extend(FrameOut::plain(text));
        }
        let mut slices = [IoSlice::new(&[]); 4];
        assert_eq!(pieces.chunks_vectored(&mut slices), 2);
        pieces.advance(2);
        assert_eq!((pieces.chunk(), pieces.remaining()), (&b"c"[..], 3));
        pieces.advance(2);
        assert_eq!((pieces.chunk(), pieces.remaining()), (&b"e"[..], 1));
        pieces.advance(1);
        assert!(!pieces.has_remaining());
    }
}
