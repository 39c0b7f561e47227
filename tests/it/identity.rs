//! Who is at the other end of a connection, and that the broker hears of its end once, over real sockets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use naru::api::{ApiError, ClosedConsumer, Outcome, Peer as From, Reply, Request, Response, Service};
use naru::model::{ConnectionId, ErrorCode, Lsn, Timestamp};
use naru::net::{Hangup, Settings};
use naru::pb::v1;
use naru::pb::v1::request::Body;
use naru::pb::v1::response::Body as Answer;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::peer::{PATIENCE, Peer, Server, fetch, hello, metadata, request, start_server, until};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Asked(ConnectionId, &'static str),
    /// A request that waited was dropped or answered.
    Dropped(&'static str),
    Ended(ConnectionId),
}

/// Parks heartbeats and fetches until they are let go, answers a commit when LSN 1 is durable, a close at once, and panics at
/// metadata. Remembers what happened.
#[derive(Clone)]
struct Watcher {
    events: Arc<Mutex<Vec<Event>>>,
    peers: Arc<Mutex<Vec<From>>>,
    release: watch::Sender<bool>,
}

/// Remembers when it is dropped.
struct Waiting(Arc<Mutex<Vec<Event>>>, &'static str);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(Event::Dropped(self.1));
    }
}

fn refused() -> Reply {
    Err(ApiError::new(ErrorCode::UnknownGroup, "let go"))
}

impl Service for Watcher {
    fn handle(&self, request: Request, from: &From) -> Outcome {
        let kind = request.kind().name();
        self.events
            .lock()
            .unwrap()
            .push(Event::Asked(from.connection, kind));
        self.peers.lock().unwrap().push(from.clone());
        match request {
            Request::GroupHeartbeat(_) | Request::Fetch(_) => {
                let waiting = Waiting(Arc::clone(&self.events), kind);
                let mut release = self.release.subscribe();
                Outcome::Later(Box::pin(async move {
                    let _waiting = waiting;
                    release.wait_for(|release| *release).await.unwrap();
                    refused()
                }))
            }
            Request::CommitOffsets(_) => Outcome::AfterLsn {
                lsn: Lsn(1),
                reply: Ok(Response::CommitOffsets(Timestamp(1))),
            },
            Request::CloseConsumer(_) => Outcome::Ready(Ok(Response::CloseConsumer(ClosedConsumer {
                at: Timestamp(1),
                left: true,
            }))),
            _ => panic!("a broker with a bug"),
        }
    }

    fn disconnected(&self, connection: ConnectionId) {
        self.events.lock().unwrap().push(Event::Ended(connection));
    }
}

impl Watcher {
    fn new() -> Self {
        Self {
            events: Arc::default(),
            peers: Arc::default(),
            release: watch::Sender::new(false),
        }
    }

    fn server(&self, settings: Settings) -> Server {
        start_server(settings, self.clone())
    }

    fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    fn asked(&self) -> usize {
        self.peers.lock().unwrap().len()
    }

    /// A peer whose heartbeat and fetch wait.
    async fn member(&self, server: &Server) -> Peer {
        let asked = self.asked();
        let mut peer = server.friend().await;
        peer.ask(1, heartbeat(0)).await;
        peer.ask(2, fetch()).await;
        until("both wait", || self.asked() == asked + 2).await;
        peer
    }

    /// Waits for the end of one connection; it must come after all that it had asked, and once.
    async fn expect_one_end(&self) {
        let ended = |event: &Event| matches!(event, Event::Ended(_));
        until("the end", || self.events().iter().any(ended)).await;
        let events = self.events();
        assert_eq!(
            events.iter().filter(|event| ended(event)).count(),
            1,
            "{events:?}"
        );
        assert!(ended(events.last().unwrap()), "{events:?}");
        let dropped = [Event::Dropped("group_heartbeat"), Event::Dropped("fetch")];
        assert!(dropped.iter().all(|event| events.contains(event)), "{events:?}");
    }
}

fn heartbeat(member: u32) -> Body {
    Body::GroupHeartbeat(v1::GroupHeartbeatRequest {
        group: "g".to_owned(),
        member_id: format!("m-{member}"),
        member_epoch: 1,
        max_wait_ms: 5000,
        ..Default::default()
    })
}

fn commit() -> Body {
    Body::CommitOffsets(v1::CommitOffsetsRequest {
        group: "g".to_owned(),
        member: Some(v1::GroupMember::default()),
        offsets: vec![v1::OffsetToCommit {
            partition: Some(v1::TopicPartition {
                topic: "orders".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }],
    })
}

fn close() -> Body {
    Body::CloseConsumer(v1::CloseConsumerRequest {
        group: "g".to_owned(),
        member: Some(v1::GroupMember::default()),
        offsets: Vec::new(),
    })
}

#[tokio::test]
async fn every_connection_has_a_number_an_address_and_a_name() {
    let watcher = Watcher::new();
    let server = watcher.server(Settings::default());
    let (mut first, mut second) = (server.friend().await, server.friend().await);
    for peer in [&mut first, &mut second] {
        for id in 1..=2 {
            peer.ask(id, close()).await;
            assert!(matches!(peer.answer().await.body, Some(Answer::CloseConsumer(_))));
        }
    }
    let peers = watcher.peers.lock().unwrap().clone();
    let numbers: Vec<_> = peers.iter().map(|peer| peer.connection).collect();
    assert_eq!((numbers[0], numbers[2]), (numbers[1], numbers[3]));
    assert_ne!(numbers[0], numbers[2]);
    for peer in peers {
        assert_eq!((&*peer.host, &*peer.software), ("127.0.0.1", "peer"));
    }
}

#[tokio::test]
async fn the_name_of_a_client_is_cut_to_what_can_be_shown() {
    let watcher = Watcher::new();
    let server = watcher.server(Settings::default());
    let mut peer = server.peer().await;
    let mut greeting = hello();
    if let Body::Hello(hello) = &mut greeting {
        hello.client_name = format!("a\nb{}", "x".repeat(200));
        hello.client_version = "1.2".to_owned();
    }
    peer.ask(0, greeting).await;
    assert!(matches!(peer.answer().await.body, Some(Answer::Hello(_))));
    peer.ask(1, close()).await;
    peer.answer().await;
    let software = Arc::clone(&watcher.peers.lock().unwrap()[0].software);
    assert_eq!(*software, format!("a\\nb{} 1.2", "x".repeat(61)));
}

#[tokio::test]
async fn the_end_is_told_once_when_the_peer_goes() {
    let watcher = Watcher::new();
    let server = watcher.server(Settings::default());
    let mut peer = watcher.member(&server).await;
    peer.ask(3, commit()).await;
    until("the commit", || watcher.asked() == 3).await;
    // With unread input of its own the kernel resets; so both kinds of end are seen here and below.
    peer.stream.set_zero_linger().unwrap();
    drop(peer);
    watcher.expect_one_end().await;
}

#[tokio::test]
async fn the_end_is_told_once_when_the_broker_hangs_up() {
    let watcher = Watcher::new();
    let server = watcher.server(Settings::default());
    let mut peer = watcher.member(&server).await;
    peer.ask(3, hello()).await;
    assert_eq!(peer.refusal().await.1.name, "PROTOCOL");
    peer.expect_end().await;
    watcher.expect_one_end().await;
}

#[tokio::test]
async fn the_end_is_told_once_when_the_engine_fails() {
    let watcher = Watcher::new();
    let server = watcher.server(Settings::default());
    let mut peer = watcher.member(&server).await;
    peer.ask(3, commit()).await;
    until("the commit", || watcher.asked() == 3).await;
    server.durable.send_modify(|state| state.poisoned = true);
    peer.read_to_end().await;
    watcher.expect_one_end().await;
}

#[tokio::test]
async fn the_end_is_told_once_when_the_broker_stops() {
    let watcher = Watcher::new();
    let server = watcher.server(Settings::default());
    let mut peer = watcher.member(&server).await;
    server.tasks.stop();
    for _ in 0..2 {
        assert_eq!(peer.refusal().await.1.name, "DRAINING");
    }
    peer.expect_end().await;
    drop(peer);
    assert_eq!(server.tasks.wait(PATIENCE).await, 0);
    watcher.expect_one_end().await;
}

#[tokio::test]
async fn the_end_is_told_once_when_the_task_panics() {
    let watcher = Watcher::new();
    let server = watcher.server(Settings::default());
    let mut peer = watcher.member(&server).await;
    peer.ask(3, metadata()).await;
    peer.expect_end().await;
    watcher.expect_one_end().await;
}

#[test]
fn the_end_is_told_once_when_the_task_is_cancelled() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let (of_server, of_peer) = (runtime(), runtime());
    let watcher = Watcher::new();
    let server = of_server.block_on(async { watcher.server(Settings::default()) });
    let peer = of_peer.block_on(watcher.member(&server));
    of_server.shutdown_timeout(PATIENCE);
    of_peer.block_on(watcher.expect_one_end());
    drop(peer);
}

#[tokio::test]
async fn who_never_said_hello_was_never_there() {
    let watcher = Watcher::new();
    let settings = Settings {
        greeting_deadline: Duration::from_millis(30),
        ..Settings::default()
    };
    let server = watcher.server(settings);
    let mut silent = server.peer().await;
    silent.expect_end().await;
    until("the hang-up", || server.counters.hangups(Hangup::Greeting) == 1).await;
    let mut rude = server.peer().await;
    rude.ask(1, close()).await;
    assert_eq!(rude.refusal().await.1.name, "PROTOCOL");
    rude.expect_end().await;
    drop(rude);
    until("both closed", || server.counters.open() == 0).await;
    assert_eq!(watcher.events(), []);
}

#[tokio::test]
async fn a_peer_that_only_listens_is_no_member_any_more_and_still_gets_its_answers() {
    let watcher = Watcher::new();
    let server = watcher.server(Settings::default());
    let mut peer = watcher.member(&server).await;
    peer.ask(3, commit()).await;
    until("the commit", || watcher.asked() == 3).await;
    peer.stream.shutdown().await.unwrap();
    let (id, error) = peer.refusal().await;
    assert_eq!((id, error.name.as_str(), error.definite), (1, "PROTOCOL", true));
    let ended = |event: &Event| matches!(event, Event::Ended(_));
    assert!(!watcher.events().iter().any(ended), "a commit is on its way");
    server.durable_at(1);
    assert_eq!(peer.answer().await.request_id, 3);
    until("the end", || watcher.events().iter().any(ended)).await;
    assert!(!watcher.events().contains(&Event::Dropped("fetch")));
    watcher.release.send_replace(true);
    let (id, error) = peer.refusal().await;
    assert_eq!((id, error.name.as_str()), (2, "UNKNOWN_GROUP"));
    peer.expect_end().await;
    let ends = watcher.events().into_iter().filter(ended).count();
    assert_eq!(ends, 1, "told once");
}

#[tokio::test]
async fn members_that_wait_hold_up_nothing_of_their_connection() {
    let watcher = Watcher::new();
    let server = watcher.server(Settings::default());
    let mut peer = server.friend().await;
    for member in 0..64 {
        peer.ask(u64::from(member), heartbeat(member)).await;
    }
    // All that may wait do, and all but one that may run.
    for id in 100..163 {
        peer.ask(id, commit()).await;
    }
    peer.ask(200, close()).await;
    let answer = peer.answer().await;
    assert!(
        matches!(answer.body, Some(Answer::CloseConsumer(_))),
        "{answer:?}"
    );
    assert_eq!((answer.request_id, watcher.asked()), (200, 64 + 63 + 1));
    peer.expect_pong().await;
    peer.ask(201, heartbeat(64)).await;
    let (id, error) = peer.refusal().await;
    assert_eq!((id, error.name.as_str()), (201, "BACKPRESSURE"));
    server.durable_at(1);
    for id in 100..163 {
        assert_eq!(peer.answer().await.request_id, id);
    }
    watcher.release.send_replace(true);
    let mut answered: Vec<u64> = Vec::new();
    for _ in 0..64 {
        answered.push(peer.refusal().await.0);
    }
    answered.sort_unstable();
    assert_eq!(answered, (0..64).collect::<Vec<_>>());
}

#[tokio::test]
async fn twenty_five_members_of_one_connection_wait_and_read_side_by_side() {
    let watcher = Watcher::new();
    let server = watcher.server(Settings::default());
    let mut peer = server.friend().await;
    let all: Vec<u8> = (0..25)
        .flat_map(|member| {
            let beat = request(u64::from(member), heartbeat(member));
            let read = request(u64::from(member) + 100, fetch());
            [beat, read].concat()
        })
        .collect();
    peer.send(&all).await;
    until("all of them wait", || watcher.asked() == 50).await;
    peer.ask(200, close()).await;
    assert_eq!(peer.answer().await.request_id, 200);
    // The broker stops: what waits is answered, and nothing keeps the connection.
    server.tasks.stop();
    let mut ids = Vec::new();
    for _ in 0..50 {
        let (id, error) = peer.refusal().await;
        assert_eq!(error.name, "DRAINING");
        ids.push(id);
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..25).chain(100..125).collect::<Vec<_>>());
    peer.expect_end().await;
    drop(peer);
    assert_eq!(server.tasks.wait(PATIENCE).await, 0);
}
