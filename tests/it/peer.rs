//! The TCP side of a broker with a service of the test's choice, and a peer that may say anything to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use naru::api::{self, Outcome, Request, Service};
use naru::broker::{self, Broker, Recovered};
use naru::model::{BrokerId, ConnectionId, DurableState, Lsn};
use naru::net::frame::FrameReader;
use naru::net::{Counters, Parts, Settings, bind, start};
use naru::pb::v1;
use naru::pb::v1::request::Body;
use naru::pb::v1::response::Body as Answer;
use naru::rt::{RandomIds, SystemClock, Tasks};
use naru::storage::LogStore;
use naru::storage::memory::{MemoryOptions, MemoryStore};
use naru::wire::client::{decode_response, encode_request};
use naru::wire::{Identity, NativeProtocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Longer than anything may take on a busy machine; only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) counters: Arc<Counters>,
    pub(crate) durable: watch::Sender<DurableState>,
    pub(crate) tasks: Tasks,
}

/// A service made of a function.
pub(crate) struct Fake<F>(pub(crate) F);

impl<F: Fn(Request) -> Outcome + Send + Sync + 'static> Service for Fake<F> {
    fn handle(&self, request: Request, _from: &api::Peer) -> Outcome {
        (self.0)(request)
    }

    fn disconnected(&self, _connection: ConnectionId) {}
}

/// A server over a service of the test's own, with a durable state that the test moves.
pub(crate) fn start_server(settings: Settings, service: impl Service) -> Server {
    let (durable, receiver) = watch::channel(DurableState::default());
    start_over(settings, Arc::new(service), durable, receiver)
}

/// A server over a real broker in memory, without topics.
pub(crate) fn start_broker(settings: Settings) -> Server {
    let store = Arc::new(MemoryStore::new(MemoryOptions::default()));
    let receiver = store.durable();
    let of_broker = broker::Settings::default();
    let broker = Broker::new(
        store,
        Recovered::new(&of_broker),
        Arc::new(SystemClock::new()),
        Arc::new(RandomIds),
        of_broker,
    );
    // The engine moves its own durable state; the one at hand is not heard.
    let (unheard, _) = watch::channel(DurableState::default());
    start_over(settings, Arc::new(broker.unwrap()), unheard, receiver)
}

fn start_over(
    settings: Settings,
    service: Arc<dyn Service>,
    durable: watch::Sender<DurableState>,
    receiver: watch::Receiver<DurableState>,
) -> Server {
    let identity = Identity {
        cluster_id: "test-cluster".to_owned(),
        broker_id: BrokerId(1),
        server_version: "0.0.0".to_owned(),
        features: Vec::new(),
        batch_bytes_max: 1_048_588,
        step_bytes_max: 4 << 20,
    };
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let counters = Arc::new(Counters::default());
    let tasks = Tasks::new();
    let parts = Parts {
        protocol: NativeProtocol::new(identity, &settings),
        settings,
        service,
        durable: receiver,
        clock: Arc::new(SystemClock::new()),
        counters: Arc::clone(&counters),
    };
    start(listener, parts, &tasks);
    Server {
        address,
        counters,
        durable,
        tasks,
    }
}

impl Server {
    /// Makes everything up to this LSN durable.
    pub(crate) fn durable_at(&self, lsn: u64) {
        self.durable.send_modify(|state| state.lsn = Lsn(lsn));
    }

    pub(crate) async fn peer(&self) -> Peer {
        Peer {
            stream: TcpStream::connect(self.address).await.unwrap(),
            frames: FrameReader::new(),
        }
    }

    /// A peer that was greeted.
    pub(crate) async fn friend(&self) -> Peer {
        let mut peer = self.peer().await;
        peer.ask(0, hello()).await;
        let answer = peer.answer().await;
        assert!(matches!(answer.body, Some(Answer::Hello(_))), "{answer:?}");
        peer
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    frames: FrameReader,
}

impl Peer {
    /// A greeted peer of whatever listens there.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let mut peer = Self {
            stream: TcpStream::connect(address).await.unwrap(),
            frames: FrameReader::new(),
        };
        peer.ask(0, hello()).await;
        assert!(matches!(peer.answer().await.body, Some(Answer::Hello(_))));
        peer
    }

    pub(crate) async fn ask(&mut self, id: u64, body: Body) {
        self.send(&request(id, body)).await;
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn answer(&mut self) -> v1::Response {
        self.next().await.expect("an answer, not the end")
    }

    /// The id and the error of the next answer.
    pub(crate) async fn refusal(&mut self) -> (u64, v1::Error) {
        let answer = self.answer().await;
        match answer.body {
            Some(Answer::Error(error)) => (answer.request_id, error),
            other => panic!("no error: {other:?}"),
        }
    }

    /// The next answer, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<v1::Response> {
        loop {
            if let Some(frame) = self.frames.take(64 << 20).unwrap() {
                return Some(decode_response(frame).unwrap());
            }
            if self.read().await == 0 {
                assert_eq!(self.frames.unread(), b"", "the end comes between answers");
                return None;
            }
        }
    }

    pub(crate) async fn expect_end(&mut self) {
        let answer = self.next().await;
        assert_eq!(answer, None, "an answer instead of the end");
    }

    /// Everything up to the end, as it comes.
    pub(crate) async fn read_to_end(&mut self) -> Vec<u8> {
        while self.read().await > 0 {}
        self.frames.unread().to_vec()
    }

    pub(crate) async fn expect_pong(&mut self) {
        self.ask(77, ping()).await;
        let answer = self.answer().await;
        assert!(matches!(answer.body, Some(Answer::Ping(_))), "{answer:?}");
        assert_eq!(answer.request_id, 77);
    }

    async fn read(&mut self) -> usize {
        let read = self.stream.read_buf(self.frames.room());
        let read = tokio::time::timeout(PATIENCE, read).await;
        // A reset is an end, too: the peer may have been in the middle of sending.
        read.expect("an answer or the end in time").unwrap_or_default()
    }
}

/// A request as a frame.
pub(crate) fn request(id: u64, body: Body) -> Vec<u8> {
    encode_request(id, 0, body).unwrap().to_bytes().to_vec()
}

/// A payload as a frame.
pub(crate) fn framed(payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(payload);
    frame
}

pub(crate) fn hello() -> Body {
    Body::Hello(v1::HelloRequest {
        version_min: 1,
        version_max: 1,
        client_name: "peer".to_owned(),
        ..Default::default()
    })
}

pub(crate) fn ping() -> Body {
    Body::Ping(v1::PingRequest {
        payload: Bytes::from_static(b"ping"),
    })
}

fn at(partition: u32) -> Option<v1::TopicPartition> {
    Some(v1::TopicPartition {
        topic: "orders".to_owned(),
        topic_id: Bytes::new(),
        partition,
    })
}

/// A produce to this partition of so many bytes, which no real broker would take for a batch.
pub(crate) fn produce(partition: u32, bytes: usize) -> Body {
    let payload = v1::produce_partition::Payload::Raw(Bytes::from(vec![0; bytes]));
    Body::Produce(v1::ProduceRequest {
        acks: 1,
        partitions: vec![v1::ProducePartition {
            partition: at(partition),
            payload: Some(payload),
            ..Default::default()
        }],
    })
}

pub(crate) fn fetch() -> Body {
    Body::Fetch(v1::FetchRequest {
        max_wait_ms: 1000,
        partitions: vec![v1::FetchPartition {
            partition: at(0),
            ..Default::default()
        }],
        ..Default::default()
    })
}

pub(crate) fn metadata() -> Body {
    Body::Metadata(v1::MetadataRequest {
        topics: Vec::new(),
        all: true,
    })
}

/// The moment, for how long something outside of this process takes.
#[expect(
    clippy::disallowed_methods,
    reason = "other processes are measured by the clock on the wall"
)]
pub(crate) fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
