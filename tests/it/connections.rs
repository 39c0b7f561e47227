//! What a connection does with the answers of a broker, over real sockets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use naru::api::{
    FetchPayload, Fetched, FetchedPartition, MetadataAnswer, Outcome, Produced, Reply, Request, Response,
};
use naru::model::{LeaderEpoch, Lsn, Offset};
use naru::net::{Hangup, Settings};
use naru::pb::v1;
use naru::pb::v1::request::Body;
use naru::pb::v1::response::Body as Answer;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::peer::{Fake, PATIENCE, fetch, metadata, ping, produce, request, start_server, until};

fn produced() -> Reply {
    Ok(Response::Produce(Produced {
        partitions: Vec::new(),
    }))
}

fn described() -> Reply {
    Ok(Response::Metadata(MetadataAnswer {
        cluster_id: String::new(),
        brokers: Vec::new(),
        topics: Vec::new(),
    }))
}

fn fetched(extents: Vec<Bytes>) -> Reply {
    let partition = FetchedPartition {
        high_watermark: Offset::ZERO,
        log_start: Offset::ZERO,
        next_offset: Offset::ZERO,
        leader_epoch: LeaderEpoch(1),
        payload: FetchPayload::Raw(extents),
    };
    Ok(Response::Fetch(Fetched {
        partitions: vec![Ok(partition)],
    }))
}

/// The partition of a produce or of a step, by which tests tell them apart.
fn partition_of(request: &Request) -> Option<u64> {
    match request {
        Request::Produce(produce) => Some(u64::from(produce.partitions[0].partition.partition.0)),
        Request::Step(step) => Some(u64::from(step.appends[0].partition.partition.0)),
        _ => None,
    }
}

/// Answers a produce to partition N once LSN N is durable, a fetch never, and all else at once.
fn by_lsn(request: Request) -> Outcome {
    match &request {
        Request::Produce(_) => Outcome::AfterLsn {
            lsn: Lsn(partition_of(&request).unwrap()),
            reply: produced(),
        },
        Request::Fetch(_) => Outcome::Later(Box::pin(std::future::pending())),
        _ => Outcome::Ready(described()),
    }
}

async fn ids<const N: usize>(peer: &mut crate::peer::Peer) -> [u64; N] {
    let mut ids = [0; N];
    for id in &mut ids {
        *id = peer.answer().await.request_id;
    }
    ids
}

#[tokio::test]
async fn replies_wait_for_their_lsn_and_others_pass_them_by() {
    let server = start_server(Settings::default(), Fake(by_lsn));
    let mut peer = server.friend().await;
    for (id, lsn) in [(1, 10), (2, 30), (3, 20)] {
        peer.ask(id, produce(lsn, 10)).await;
    }
    peer.ask(4, metadata()).await;
    assert_eq!(ids(&mut peer).await, [4]);
    server.durable_at(9);
    peer.ask(5, metadata()).await;
    assert_eq!(ids(&mut peer).await, [5], "nothing is due at 9");
    server.durable_at(20);
    assert_eq!(ids(&mut peer).await, [1, 3], "in the order of their LSN");
    server.durable_at(30);
    assert_eq!(ids(&mut peer).await, [2]);
    peer.ask(6, produce(30, 10)).await;
    assert_eq!(ids(&mut peer).await, [6], "due already");
}

#[tokio::test]
async fn poison_answers_what_is_held_as_indefinite_and_hangs_up() {
    let server = start_server(Settings::default(), Fake(by_lsn));
    let mut peer = server.friend().await;
    peer.ask(1, produce(1, 10)).await;
    peer.ask(2, produce(2, 10)).await;
    peer.ask(3, fetch()).await;
    until("three requests", || server.counters.requests() == 3).await;
    server.durable.send_modify(|state| {
        state.lsn = Lsn(1);
        state.poisoned = true;
    });
    let answer = peer.answer().await;
    assert!(
        matches!(answer.body, Some(Answer::Produce(_))),
        "1 was durable: {answer:?}"
    );
    let (id, error) = peer.refusal().await;
    assert_eq!(
        (id, error.name.as_str(), error.definite),
        (2, "STORAGE_FAILED", false)
    );
    let (id, error) = peer.refusal().await;
    assert_eq!((id, error.name.as_str(), error.definite), (3, "DRAINING", true));
    peer.expect_end().await;
}

#[tokio::test]
async fn an_engine_that_is_gone_is_as_bad_as_a_poisoned_one() {
    let server = start_server(Settings::default(), Fake(by_lsn));
    let mut peer = server.friend().await;
    peer.ask(1, produce(1, 10)).await;
    until("the request", || server.counters.requests() == 1).await;
    drop(server.durable);
    assert_eq!(peer.refusal().await.1.name, "STORAGE_FAILED");
    peer.expect_end().await;
}

/// A broker without room until it is let in; remembers in which order produces got in.
#[derive(Clone, Default)]
struct Gate {
    open: Arc<std::sync::atomic::AtomicBool>,
    notify: Arc<Notify>,
    order: Arc<Mutex<Vec<u64>>>,
    tries: Arc<AtomicU64>,
}

impl Gate {
    fn handle(&self, request: Request) -> Outcome {
        let Some(partition) = partition_of(&request) else {
            return Outcome::Ready(described());
        };
        self.tries.fetch_add(1, Ordering::SeqCst);
        if self.open.load(Ordering::SeqCst) {
            self.order.lock().unwrap().push(partition);
            return Outcome::Ready(produced());
        }
        let notify = Arc::clone(&self.notify);
        Outcome::Blocked {
            request,
            retry: Box::pin(async move { notify.notified().await }),
        }
    }

    fn server(&self, settings: Settings) -> crate::peer::Server {
        let gate = self.clone();
        start_server(settings, Fake(move |request| gate.handle(request)))
    }
}

fn in_a_step(produce: Body) -> Body {
    let Body::Produce(produce) = produce else {
        panic!("no produce");
    };
    Body::Step(v1::StepRequest {
        group: "g".to_owned(),
        producer_id: 1,
        appends: produce.partitions,
        ..Default::default()
    })
}

#[tokio::test]
async fn blocked_produces_and_steps_keep_their_order_and_hold_up_nothing_else() {
    let gate = Gate::default();
    let server = gate.server(Settings::default());
    let mut peer = server.friend().await;
    for partition in 0..20 {
        let appends = produce(partition, 10);
        let appends = if partition % 5 == 3 {
            in_a_step(appends)
        } else {
            appends
        };
        peer.ask(u64::from(partition), appends).await;
    }
    peer.ask(100, metadata()).await;
    assert_eq!(ids(&mut peer).await, [100]);
    assert_eq!(
        gate.tries.load(Ordering::SeqCst),
        1,
        "only the first one was tried"
    );
    gate.notify.notify_one();
    until("a second try", || gate.tries.load(Ordering::SeqCst) == 2).await;
    gate.open.store(true, Ordering::SeqCst);
    gate.notify.notify_one();
    let answered: [u64; 20] = ids(&mut peer).await;
    assert_eq!(answered.to_vec(), (0..20).collect::<Vec<_>>());
    assert_eq!(*gate.order.lock().unwrap(), (0..20).collect::<Vec<_>>());
    peer.ask(200, produce(99, 10)).await;
    assert_eq!(ids(&mut peer).await, [200]);
}

#[tokio::test]
async fn a_blocked_produce_is_given_up_at_its_deadline() {
    let gate = Gate::default();
    let settings = Settings {
        request_deadline_default: Duration::from_millis(30),
        ..Settings::default()
    };
    let server = gate.server(settings);
    let mut peer = server.friend().await;
    peer.ask(1, produce(1, 10)).await;
    peer.ask(2, produce(2, 10)).await;
    for expected in [1, 2] {
        let (id, error) = peer.refusal().await;
        assert_eq!(
            (id, error.name.as_str(), error.definite),
            (expected, "DEADLINE_EXCEEDED", true)
        );
    }
    gate.open.store(true, Ordering::SeqCst);
    peer.ask(3, produce(3, 10)).await;
    assert_eq!(ids(&mut peer).await, [3]);
    assert_eq!(*gate.order.lock().unwrap(), [3]);
}

#[tokio::test]
async fn only_so_many_requests_are_parked() {
    let settings = Settings {
        requests_parked_max: 2,
        requests_running_max: 1,
        ..Settings::default()
    };
    let release = Arc::new(Notify::new());
    let parked = Arc::clone(&release);
    let server = start_server(
        settings,
        Fake(move |_| {
            let release = Arc::clone(&parked);
            Outcome::Later(Box::pin(async move {
                release.notified().await;
                fetched(Vec::new())
            }))
        }),
    );
    let mut peer = server.friend().await;
    for id in 1..=3 {
        peer.ask(id, fetch()).await;
    }
    let (id, error) = peer.refusal().await;
    assert_eq!((id, error.name.as_str()), (3, "BACKPRESSURE"));
    assert!(error.retry_after_ms > 0);
    peer.expect_pong().await;
    release.notify_one();
    assert_eq!(ids(&mut peer).await, [1]);
    peer.ask(4, fetch()).await;
    release.notify_one();
    release.notify_one();
    let mut rest: [u64; 2] = ids(&mut peer).await;
    rest.sort_unstable();
    assert_eq!(rest, [2, 4]);
}

#[tokio::test]
async fn past_the_running_limit_nothing_is_read() {
    let settings = Settings {
        requests_running_max: 2,
        ..Settings::default()
    };
    let server = start_server(settings, Fake(by_lsn));
    let mut peer = server.friend().await;
    let all = [
        request(1, produce(1, 10)),
        request(2, produce(2, 10)),
        request(3, ping()),
    ]
    .concat();
    peer.send(&all).await;
    until("two requests", || server.counters.requests() == 2).await;
    server.durable_at(1);
    assert_eq!(
        ids(&mut peer).await,
        [1, 3],
        "the ping has waited for the first answer"
    );
    server.durable_at(2);
    assert_eq!(ids(&mut peer).await, [2]);
}

#[tokio::test]
async fn past_the_byte_budget_nothing_is_read() {
    let settings = Settings {
        connection_request_bytes_max: 150_000,
        ..Settings::default()
    };
    let server = start_server(settings, Fake(by_lsn));
    let mut peer = server.friend().await;
    let all = [
        request(1, produce(1, 100_000)),
        request(2, produce(2, 100_000)),
        request(3, ping()),
    ]
    .concat();
    peer.send(&all).await;
    until("one request", || server.counters.requests() == 1).await;
    server.durable_at(1);
    assert_eq!(ids(&mut peer).await, [1, 3]);
    assert_eq!(server.counters.requests(), 2);
    server.durable_at(2);
    assert_eq!(ids(&mut peer).await, [2]);
    // One request alone may be larger than the budget.
    peer.ask(4, produce(3, 200_000)).await;
    server.durable_at(3);
    assert_eq!(ids(&mut peer).await, [4]);
}

#[tokio::test]
async fn memory_for_requests_is_taken_before_their_bodies_are_read() {
    let settings = Settings {
        request_memory_bytes_max: 1_300_000,
        ..Settings::default()
    };
    let server = start_server(settings, Fake(by_lsn));
    let (mut first, mut second) = (server.friend().await, server.friend().await);
    first.ask(1, produce(1, 900_000)).await;
    until("the first", || server.counters.requests() == 1).await;
    let before = server.counters.bytes_in();
    let large = request(2, produce(2, 900_000));
    second.send(&large[..4]).await;
    until("its length", || server.counters.bytes_in() == before + 4).await;
    // The kernel takes what fits; the rest goes once the server reads again.
    let rest = large[4..].to_vec();
    let check = async {
        first.expect_pong().await;
        assert_eq!(server.counters.requests(), 1);
        let pong_bytes = request(77, ping()).len() as u64;
        let expected = before + 4 + pong_bytes;
        assert_eq!(server.counters.bytes_in(), expected, "not a byte of its body");
        server.durable_at(1);
        assert_eq!(ids(&mut first).await, [1]);
    };
    tokio::join!(second.send(&rest), check);
    server.durable_at(2);
    assert_eq!(ids(&mut second).await, [2]);
}

#[tokio::test]
async fn a_request_id_twice_in_flight_hangs_up() {
    let server = start_server(Settings::default(), Fake(by_lsn));
    let mut peer = server.friend().await;
    peer.ask(1, produce(1, 10)).await;
    peer.ask(1, metadata()).await;
    let (id, error) = peer.refusal().await;
    assert_eq!(
        (id, error.name.as_str(), error.class()),
        (1, "PROTOCOL", v1::ErrorClass::Fatal)
    );
    peer.expect_end().await;
}

#[tokio::test]
async fn a_request_id_may_come_again_after_its_answer() {
    let server = start_server(Settings::default(), Fake(by_lsn));
    let mut peer = server.friend().await;
    for id in [0, u64::MAX, 0, u64::MAX] {
        peer.ask(id, metadata()).await;
        assert_eq!(ids(&mut peer).await, [id]);
    }
}

#[tokio::test]
async fn what_was_asked_before_a_half_close_is_answered() {
    let settings = Settings {
        requests_running_max: 2,
        ..Settings::default()
    };
    let server = start_server(settings, Fake(by_lsn));
    let mut peer = server.friend().await;
    for id in 1..=5 {
        peer.ask(id, produce(1, 10)).await;
    }
    peer.stream.shutdown().await.unwrap();
    until("two requests", || server.counters.requests() == 2).await;
    server.durable_at(1);
    assert_eq!(ids(&mut peer).await, [1, 2, 3, 4, 5]);
    peer.expect_end().await;
}

#[tokio::test]
async fn drain_answers_what_was_begun_and_closes() {
    let gate = Gate::default();
    let blocked = gate.clone();
    let server = start_server(
        Settings::default(),
        Fake(move |request| match partition_of(&request) {
            Some(7) => blocked.handle(request),
            _ => by_lsn(request),
        }),
    );
    let mut peer = server.friend().await;
    let mut ungreeted = server.peer().await;
    peer.ask(1, produce(1, 10)).await;
    peer.ask(2, fetch()).await;
    peer.ask(3, produce(7, 10)).await;
    until("all requests", || {
        server.counters.requests() == 3 && server.counters.accepted() == 2
    })
    .await;
    server.tasks.stop();
    for expected in [2, 3] {
        let (id, error) = peer.refusal().await;
        assert_eq!(
            (id, error.name.as_str(), error.definite),
            (expected, "DRAINING", true)
        );
    }
    ungreeted.expect_end().await;
    server.durable_at(1);
    assert_eq!(ids(&mut peer).await, [1]);
    peer.expect_end().await;
    drop(peer);
    assert_eq!(server.tasks.wait(PATIENCE).await, 0);
    assert_eq!(server.counters.open(), 0);
}

#[tokio::test]
async fn large_replies_arrive_whole_and_in_order() {
    let extents: Vec<Bytes> = (0..100_u8)
        .map(|n| Bytes::from(vec![n; 40_000 + usize::from(n)]))
        .collect();
    let expected = extents.concat();
    let server = start_server(
        Settings::default(),
        Fake(move |_| Outcome::Ready(fetched(extents.clone()))),
    );
    let mut peer = server.friend().await;
    for id in 1..=3 {
        peer.ask(id, fetch()).await;
    }
    for id in 1..=3 {
        let answer = peer.answer().await;
        assert_eq!(answer.request_id, id);
        let Some(Answer::Fetch(mut fetched)) = answer.body else {
            panic!("no fetch");
        };
        let payload = fetched.partitions.remove(0).payload;
        assert!(
            payload
                == Some(v1::fetched_partition::Payload::RawBatches(
                    expected.clone().into()
                ))
        );
    }
}

#[tokio::test]
async fn a_peer_that_takes_no_replies_is_read_no_more_and_then_hung_up_on() {
    let reply = vec![Bytes::from(vec![1; 1 << 20])];
    let settings = Settings {
        output_deadline: Duration::from_millis(200),
        connection_reply_bytes_max: 2 << 20,
        ..Settings::default()
    };
    let server = start_server(settings, Fake(move |_| Outcome::Ready(fetched(reply.clone()))));
    let mut peer = server.friend().await;
    let mut other = server.friend().await;
    for id in 0..50 {
        peer.ask(id, fetch()).await;
    }
    until("the hang-up", || server.counters.hangups(Hangup::SlowReader) == 1).await;
    assert!(
        server.counters.requests() < 50,
        "{} were read",
        server.counters.requests()
    );
    other.expect_pong().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_waiting_one_is_not() {
    let settings = Settings {
        idle_deadline: Duration::from_millis(50),
        ..Settings::default()
    };
    let server = start_server(settings, Fake(by_lsn));
    let mut idle = server.friend().await;
    let mut waiting = server.friend().await;
    waiting.ask(1, produce(1, 10)).await;
    idle.expect_end().await;
    until("one hang-up", || server.counters.hangups(Hangup::Idle) == 1).await;
    server.durable_at(1);
    assert_eq!(ids(&mut waiting).await, [1]);
    waiting.expect_end().await;
}

#[tokio::test]
async fn a_panic_ends_one_connection_and_no_other() {
    let server = start_server(
        Settings::default(),
        Fake(|request| match request {
            Request::Metadata(_) => panic!("on purpose"),
            other => by_lsn(other),
        }),
    );
    let (mut unlucky, mut other) = (server.friend().await, server.friend().await);
    unlucky.ask(1, metadata()).await;
    unlucky.expect_end().await;
    until("the count", || server.counters.open() == 1).await;
    other.expect_pong().await;
}

#[tokio::test]
async fn more_connections_than_allowed_wait_for_their_turn() {
    let settings = Settings {
        connections_max: 1,
        ..Settings::default()
    };
    let server = start_server(settings, Fake(by_lsn));
    let mut first = server.friend().await;
    let mut second = server.peer().await;
    second.ask(0, crate::peer::hello()).await;
    first.expect_pong().await;
    assert_eq!(server.counters.accepted(), 1);
    drop(first);
    assert!(matches!(second.answer().await.body, Some(Answer::Hello(_))));
    second.expect_pong().await;
}
