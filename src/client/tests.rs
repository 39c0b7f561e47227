//! The client against a broker that hangs up, refuses, forgets to answer and answers in any order.

mod altered;
mod fake;
mod fake_group;
mod group;
mod members;
mod steps;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;

use self::fake::{Act, FakeBroker, fast, refusal};
use super::*;
use crate::model::{ErrorCode, Offset, Timestamp};
use crate::pb::v1 as pb;
use crate::pb::v1::{request::Body as RequestBody, response::Body as ResponseBody};
use crate::record::BatchBuilder;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn order(value: impl Into<String>) -> ProducerRecord {
    ProducerRecord::to("orders").value(value.into())
}

fn answer(body: ResponseBody) -> Act {
    Act::Answer(Box::new(body))
}

/// The address of a port that nobody listens on.
async fn dead_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_refused_connection_is_reported_with_address_and_reason() {
    let dead = dead_address().await;
    let error = Client::connect(&format!("naru://{dead}")).await.unwrap_err();
    assert!(
        matches!(&error, Error::Connect { address, reason } if *address == dead && reason.contains("refused")),
        "{error}"
    );
    assert!(error.is_retriable() && !error.may_have_taken_effect());
}

#[tokio::test]
async fn a_silent_peer_is_given_up_after_the_connect_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("naru://{}", listener.local_addr().unwrap());
    let error = Client::builder()
        .connect_timeout(ms(30))
        .connect(&url)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Connect { reason, .. } if reason.contains("no answer within 30ms")),
        "{error}"
    );
}

#[tokio::test]
async fn a_peer_of_another_protocol_is_recognised() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("naru://{}", listener.local_addr().unwrap());
    let answering = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n")
            .await
            .unwrap();
        stream
    };
    let (result, _stream) = tokio::join!(Client::connect(&url), answering);
    let error = result.unwrap_err();
    assert!(
        matches!(&error, Error::Connect { reason, .. } if reason.contains("no answer of a Naru broker")),
        "{error}"
    );
}

#[tokio::test]
async fn the_next_address_is_tried_and_a_refused_handshake_is_final() {
    let broker = FakeBroker::start(1, |_, _| Act::Serve).await;
    let url = format!(
        "naru://{},{}",
        dead_address().await,
        broker.url().strip_prefix("naru://").unwrap()
    );
    let client = fast().connect(&url).await.unwrap();
    assert_eq!(client.broker_info().cluster_id, "fake");

    let strict = |_, _: &RequestBody| answer(ResponseBody::Error(refusal(ErrorCode::WrongCluster)));
    let broker = FakeBroker::start(1, strict).await;
    let builder = fast().wait_for_broker(Duration::from_secs(60));
    let error = builder.connect(&broker.url()).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::WrongCluster));
}

#[tokio::test]
async fn a_broker_that_comes_later_is_waited_for() {
    let script = |connection, _: &RequestBody| if connection < 4 { Act::HangUp } else { Act::Serve };
    let broker = FakeBroker::start(1, script).await;
    assert!(
        fast().connect(&broker.url()).await.is_err(),
        "one round without waiting"
    );
    fast()
        .wait_for_broker(Duration::from_secs(60))
        .connect(&broker.url())
        .await
        .unwrap();
}

#[tokio::test]
async fn answers_in_any_order_reach_their_callers() {
    let mut pings = 0;
    let script = move |_, body: &RequestBody| match body {
        RequestBody::Ping(_) => {
            pings += 1;
            if pings < 3 { Act::Later } else { Act::Serve }
        }
        _ => Act::Serve,
    };
    let client = FakeBroker::start(1, script).await.client_kept().await;
    let ping = |text: &'static str| client.0.ping(Bytes::from_static(text.as_bytes()));
    let (a, b, c) = tokio::join!(ping("a"), ping("b"), ping("c"));
    assert!(a.is_ok() && b.is_ok() && c.is_ok(), "{a:?} {b:?} {c:?}");
}

#[tokio::test]
async fn a_lost_answer_is_repeated_only_where_that_is_safe() {
    let script = |connection, body: &RequestBody| match body {
        RequestBody::Hello(_) => Act::Serve,
        _ if connection < 3 => Act::HangUp,
        _ => Act::Serve,
    };
    let broker = FakeBroker::start(1, script).await;
    let client = broker.client().await;
    let error = client.delete_topic("orders").await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Disconnected {
                may_have_taken_effect: true,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(client.describe_topic("orders").await.unwrap().partitions.len(), 1);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_sent_again_and_a_refusal_is_not() {
    let commits = std::sync::Arc::new(Mutex::new(Vec::new()));
    let seen = commits.clone();
    let script = move |connection, body: &RequestBody| match body {
        RequestBody::CommitOffsets(commit) => {
            seen.lock().unwrap().push(commit.offsets[0].offset);
            match (connection, commit.offsets[0].offset) {
                (1, _) => Act::HangUp,
                (_, 9) => answer(ResponseBody::Error(refusal(ErrorCode::OffsetOutOfRange))),
                _ => answer(ResponseBody::CommitOffsets(pb::CommitOffsetsResponse {
                    committed_ms: 77,
                })),
            }
        }
        _ => Act::Serve,
    };
    let broker = FakeBroker::start(1, script).await;
    let client = broker.client().await;
    let commit = |at| client.commit_offsets("g", vec![OffsetToCommit::new("orders", 0, offset(at))]);
    assert_eq!(commit(5).await, Ok(Timestamp(77)));
    let error = commit(9).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::OffsetOutOfRange));
    assert!(!error.may_have_taken_effect() && !error.is_retriable());
    assert_eq!(*commits.lock().unwrap(), [5, 5, 9]);
}

/// A broker whose records below offset 40 go while they are being read: from then on it answers with the bounds.
async fn forgetful() -> FakeBroker {
    let script = |_, body: &RequestBody| match body {
        RequestBody::FetchOffsets(_) => {
            let place = pb::GroupOffset {
                partition: Some(pb::TopicPartition {
                    topic: "orders".into(),
                    topic_id: Bytes::from_static(&[9; 16]),
                    partition: 0,
                }),
                offset: Some(10),
                high_watermark: 60,
                ..Default::default()
            };
            answer(ResponseBody::FetchOffsets(pb::FetchOffsetsResponse {
                offsets: vec![place],
            }))
        }
        RequestBody::CommitOffsets(_) => answer(ResponseBody::CommitOffsets(Default::default())),
        RequestBody::Fetch(fetch) if (20..40).contains(&fetch.partitions[0].offset) => {
            let error = pb::Error {
                details: Some(pb::ErrorDetails {
                    log_start_offset: Some(40),
                    high_watermark: Some(60),
                    ..Default::default()
                }),
                ..refusal(ErrorCode::OffsetOutOfRange)
            };
            answer(ResponseBody::Fetch(pb::FetchResponse {
                partitions: vec![pb::FetchedPartition {
                    error: Some(error),
                    ..Default::default()
                }],
            }))
        }
        _ => Act::Serve,
    };
    filled(6, script).await
}

#[tokio::test]
async fn records_that_go_while_they_are_read_are_named_and_the_reset_policy_says_where_to_go_on() {
    for (reset, goes_on_at) in [
        (Reset::Earliest, Some(40)),
        (Reset::Latest, Some(60)),
        (Reset::Error, None),
    ] {
        let broker = forgetful().await;
        let client = broker.client().await;
        // This broker does one thing at a time on a connection: long waits would hold up the commit.
        let builder = client
            .consumer("g", "orders")
            .reset(reset)
            .fetch_bytes(1)
            .max_wait(ms(5));
        let mut consumer = builder.build().await.unwrap();
        for expected in 10..20 {
            assert_eq!(consumer.next().await.unwrap().unwrap().offset, offset(expected));
        }
        let Some(at) = goes_on_at else {
            let error = consumer.next().await.unwrap().unwrap_err();
            let message = "offsets 20 to 39 of orders/0 are gone, and group g has not read them";
            assert_eq!(error.to_string(), message);
            assert!(consumer.next().await.is_none(), "its only partition has ended");
            continue;
        };
        if at < 60 {
            assert_eq!(consumer.next().await.unwrap().unwrap().offset, offset(at));
        } else {
            let producer = client.producer().build().await.unwrap();
            let (next, sent) = tokio::join!(consumer.next(), producer.send(order("behind the end")));
            sent.unwrap();
            assert_eq!(next.unwrap().unwrap().offset, offset(at));
        }
        let lost = [LostRange {
            topic: "orders".into(),
            partition: crate::model::PartitionId(0),
            first: offset(20),
            last: offset(39),
        }];
        assert_eq!(consumer.lost(), lost);
        assert!(consumer.commit().await.unwrap().is_some());
        assert_eq!(consumer.committed(0), Some(offset(at + 1)));
    }
}

/// Answers that a broker never gives.
#[tokio::test]
async fn offsets_that_make_no_sense_are_decode_errors() {
    let answers = [
        vec![],
        vec![pb::GroupOffset::default()],
        vec![pb::GroupOffset {
            partition: Some(pb::TopicPartition {
                topic: "orders".into(),
                topic_id: Bytes::from_static(&[9; 16]),
                partition: 0,
            }),
            offset: Some(-4),
            ..Default::default()
        }],
    ];
    for offsets in answers {
        let script = move |_, body: &RequestBody| match body {
            RequestBody::FetchOffsets(_) => answer(ResponseBody::FetchOffsets(pb::FetchOffsetsResponse {
                offsets: offsets.clone(),
            })),
            _ => Act::Serve,
        };
        let broker = FakeBroker::start(1, script).await;
        let client = broker.client().await;
        let error = client
            .resume_points("g", "orders", &[0], Reset::Earliest)
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Decode {
                    what: "fetch offsets" | "a topic id",
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_request_without_an_answer_times_out_and_the_dead_connection_is_replaced() {
    let script = |connection, body: &RequestBody| match body {
        RequestBody::Ping(_) if connection == 1 => Act::Ignore,
        _ => Act::Serve,
    };
    let broker = FakeBroker::start(1, script).await;
    let client = fast()
        .request_timeout(ms(50))
        .connect(&broker.url())
        .await
        .unwrap();
    let error = client.ping(Bytes::new()).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Timeout {
                may_have_taken_effect: true,
                ..
            }
        ),
        "{error}"
    );
    client.ping(Bytes::new()).await.unwrap();
}

#[tokio::test]
async fn an_unknown_topic_is_refused_without_being_asked_for_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let script = move |_, body: &RequestBody| {
        if matches!(body, RequestBody::DescribeTopic(_)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Act::Serve
    };
    let broker = FakeBroker::start(1, script).await;
    let client = broker.client().await;
    let producer = client.producer().build().await.unwrap();
    let error = producer.send(ProducerRecord::to("odrers")).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UnknownTopicOrPartition));
    assert!(!error.is_retriable());
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

/// Refuses the second produce request because of its topic.
fn topic_gone_once() -> impl FnMut(u32, &RequestBody) -> Act + Send + 'static {
    let mut produced = 0;
    move |_, body: &RequestBody| {
        produced += u32::from(matches!(body, RequestBody::Produce(_)));
        match body {
            RequestBody::Produce(_) if produced == 2 => {
                let error = Some(refusal(ErrorCode::UnknownTopicId));
                let partition = pb::ProducedPartition {
                    error,
                    ..Default::default()
                };
                answer(ResponseBody::Produce(pb::ProduceResponse {
                    partitions: vec![partition],
                }))
            }
            _ => Act::Serve,
        }
    }
}

#[tokio::test]
async fn a_topic_that_was_gone_for_a_moment_goes_on_with_its_sequences() {
    let broker = FakeBroker::start(1, topic_gone_once()).await;
    let client = broker.client().await;
    let producer = client.producer().build().await.unwrap();
    producer.send(order("a")).await.unwrap();
    let error = producer.send(order("b")).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UnknownTopicId));
    // Were it numbered from the beginning, the broker would take it for the first one.
    let stored = producer.send(order("c")).await.unwrap();
    assert!(!stored.duplicate);
    assert_eq!(broker.values(0), ["a", "c"]);
}

#[tokio::test]
async fn a_topic_that_was_created_again_is_looked_up_again() {
    let mut gone_once = topic_gone_once();
    let mut described = 0;
    let ids = Arc::new(Mutex::new(Vec::new()));
    let seen = ids.clone();
    let script = move |connection, body: &RequestBody| {
        match body {
            RequestBody::Produce(produce) => {
                let place = produce.partitions[0].partition.as_ref().unwrap();
                seen.lock().unwrap().push(place.topic_id[0]);
            }
            RequestBody::DescribeTopic(_) => {
                described += 1;
                if described == 2 {
                    return answer(ResponseBody::DescribeTopic(pb::DescribeTopicResponse {
                        topic_id: Bytes::from_static(&[8; 16]),
                        partitions: vec![pb::PartitionDescription::default()],
                        ..Default::default()
                    }));
                }
            }
            _ => {}
        }
        gone_once(connection, body)
    };
    let broker = FakeBroker::start(1, script).await;
    let producer = broker.client().await.producer().build().await.unwrap();
    producer.send(order("a")).await.unwrap();
    producer.send(order("b")).await.unwrap_err();
    let _ = producer.send(order("c")).await;
    assert_eq!(*ids.lock().unwrap(), [9, 9, 8]);
}

#[tokio::test]
async fn options_that_cannot_work_are_refused() {
    let broker = FakeBroker::start(1, |_, _| Act::Serve).await;
    let client = broker.client().await;
    for builder in [
        client.producer().max_in_flight(0),
        client.producer().max_in_flight(6),
        client.producer().buffer_bytes(1_000),
        client.producer().batch_bytes(0),
    ] {
        let error = builder.build().await.unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error}");
    }
    client
        .producer()
        .idempotent(false)
        .retries(false)
        .max_in_flight(6)
        .build()
        .await
        .unwrap();
}

/// Breaks a produce request in ten, in different ways, and some fetches.
fn unreliable(seed: u64) -> impl FnMut(u32, &RequestBody) -> Act + Send + 'static {
    let mut random = fastrand::Rng::with_seed(seed);
    move |_, body| match (body, random.u8(0..100)) {
        (RequestBody::Produce(_) | RequestBody::InitProducer(_), 0..3) => Act::HangUp,
        (RequestBody::Produce(_) | RequestBody::InitProducer(_), 3..6) => Act::ServeAndHangUp,
        (RequestBody::Produce(_), 6..10) => answer(ResponseBody::Error(refusal(ErrorCode::Backpressure))),
        (RequestBody::Fetch(_), 0..20) => Act::HangUp,
        _ => Act::Serve,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_an_unreliable_network_each_record_is_stored_once_in_order_and_read_back() {
    const RECORDS: usize = 3_000;
    for seed in 0..3 {
        println!("seed {seed}");
        let broker = FakeBroker::start(3, unreliable(seed)).await;
        let client = broker.client().await;
        let producer = client
            .producer()
            .batch_bytes(500)
            .linger(ms(1))
            .build()
            .await
            .unwrap();
        let mut tickets = Vec::new();
        for i in 0..RECORDS {
            let record = order(i.to_string())
                .key(format!("key-{}", i % 17))
                .timestamp(Timestamp(5));
            tickets.push(producer.enqueue(record).await.unwrap());
        }
        let mut stored = Vec::new();
        for ticket in tickets {
            stored.push(ticket.await.unwrap());
        }
        let mut found = 0;
        for partition in 0..3_usize {
            let values = broker.values(partition);
            let numbers: Vec<usize> = values.iter().map(|value| value.parse().unwrap()).collect();
            assert!(
                numbers.is_sorted_by(|a, b| a < b),
                "once and in order: {numbers:?}"
            );
            for (at, number) in numbers.iter().enumerate() {
                let place = &stored[*number];
                assert_eq!(usize::try_from(place.partition.0).unwrap(), partition);
                assert_eq!(place.offset, Offset::new(i64::try_from(at).unwrap()));
            }
            found += numbers.len();

            let index = u32::try_from(partition).unwrap();
            let reader = client
                .reader("orders", index, Start::Earliest)
                .fetch_bytes(3_000)
                .max_wait(ms(5));
            let mut reader = reader.build().await.unwrap();
            for expected in values {
                let record = reader.next().await.unwrap().unwrap();
                assert_eq!(record.value.as_deref(), Some(expected.as_bytes()));
            }
        }
        assert_eq!(found, RECORDS);
        producer.close().await.unwrap();
    }
}

#[tokio::test]
async fn records_behind_a_refused_batch_arrive_in_order() {
    let broker = FakeBroker::start(1, |_, _| Act::Serve).await;
    let client = broker.client().await;
    let producer = client.producer().build().await.unwrap();
    let mut tickets = Vec::new();
    for i in 0..40_i64 {
        let value = if i % 10 == 3 {
            format!("bad {i}")
        } else {
            format!("good {i}")
        };
        let mut batch = BatchBuilder::new();
        batch.push(Timestamp(i), None, Some(value.as_bytes()), &[]);
        tickets.push(producer.send_batch("orders", 0, batch).await.unwrap());
    }
    for (i, ticket) in tickets.into_iter().enumerate() {
        match ticket.await {
            Ok(_) => assert_ne!(i % 10, 3),
            Err(error) => {
                assert_eq!((i % 10, error.code()), (3, Some(ErrorCode::InvalidRecord)));
                assert!(!error.may_have_taken_effect());
            }
        }
    }
    let expected: Vec<_> = (0..40)
        .filter(|i| i % 10 != 3)
        .map(|i| format!("good {i}"))
        .collect();
    assert_eq!(broker.values(0), expected);
    producer.close().await.unwrap();
}

#[tokio::test]
async fn a_full_buffer_makes_senders_wait_and_refuses_those_who_do_not() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let mut waiting = true;
    let script = move |_, body: &RequestBody| match body {
        RequestBody::Produce(_) if waiting && released.try_recv().is_err() => Act::Later,
        RequestBody::Produce(_) => {
            waiting = false;
            Act::Serve
        }
        _ => Act::Serve,
    };
    let broker = FakeBroker::start(1, script).await;
    let client = broker.client().await;
    let producer = client
        .producer()
        .buffer_bytes(2_000)
        .batch_bytes(1_000)
        .build()
        .await
        .unwrap();
    let early = producer.try_enqueue(order("a")).unwrap_err();
    assert!(matches!(early, Error::Usage(_)), "{early}");
    let prepared = producer.prepare("orders").await.unwrap();
    assert_eq!((prepared.partitions, prepared.batch_bytes_max), (1, 100_000));
    let first = producer.try_enqueue(order("a".repeat(900))).unwrap();
    let second = producer.try_enqueue(order("b".repeat(900))).unwrap();
    let full = producer.try_enqueue(order("c".repeat(900))).unwrap_err();
    assert_eq!(full, Error::BufferFull { buffer_bytes: 2_000 });
    let mut third = std::pin::pin!(producer.enqueue(order("c".repeat(900))));
    let pending =
        std::future::poll_fn(|context| std::task::Poll::Ready(third.as_mut().poll(context).is_pending()));
    assert!(pending.await, "there is no room");
    // Whatever the broker holds back is answered together with a request that it does not hold back.
    release.send(()).unwrap();
    client.ping(Bytes::new()).await.unwrap();
    first.await.unwrap();
    let third = third.await.unwrap();
    second.await.unwrap();
    third.await.unwrap();
}

#[tokio::test]
async fn what_can_never_be_sent_is_refused_before_it_is_taken() {
    let broker = FakeBroker::start(2, |_, _| Act::Serve).await;
    let client = broker.client().await;
    let producer = client.producer().build().await.unwrap();
    let error = producer.send(order("x".repeat(100_001))).await.unwrap_err();
    assert!(
        matches!(&error, Error::Usage(text) if text.contains("max.message.bytes")),
        "{error}"
    );
    let error = producer.send(order("x").partition(2)).await.unwrap_err();
    assert!(
        matches!(&error, Error::Usage(text) if text.contains("no partition 2")),
        "{error}"
    );
    // The largest record that fits: 61 bytes of header, and 10 around so large a value.
    let largest = order("x".repeat(100_000 - 61 - 11)).partition(0);
    producer.send(largest).await.unwrap();
}

#[tokio::test]
async fn records_that_nobody_answers_expire_as_possibly_written() {
    let script = |_, body: &RequestBody| match body {
        RequestBody::Produce(_) => Act::Ignore,
        _ => Act::Serve,
    };
    let broker = FakeBroker::start(1, script).await;
    let client = fast()
        .request_timeout(ms(50))
        .connect(&broker.url())
        .await
        .unwrap();
    let producer = client.producer().delivery_timeout(ms(200)).build().await.unwrap();
    let error = producer.send(order("a")).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Timeout {
                may_have_taken_effect: true,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn close_sends_what_waits_and_reports_what_no_ticket_has_shown() {
    let broker = FakeBroker::start(1, |_, _| Act::Serve).await;
    let client = broker.client().await;
    let producer = client
        .producer()
        .linger(Duration::from_secs(60))
        .build()
        .await
        .unwrap();
    let clone = producer.clone();
    for i in 0..5 {
        drop(producer.enqueue(order(format!("good {i}"))).await.unwrap());
    }
    producer.flush().await.unwrap();
    assert_eq!(broker.values(0).len(), 5);
    drop(producer.enqueue(order("bad")).await.unwrap());
    assert_eq!(
        producer.close().await.unwrap_err().code(),
        Some(ErrorCode::InvalidRecord)
    );
    let error = clone.send(order("late")).await.unwrap_err();
    assert_eq!(error, Error::Usage("the producer is closed".into()));
}

#[tokio::test]
async fn what_was_accepted_is_sent_after_the_producer_was_dropped() {
    let broker = FakeBroker::start(1, |_, _| Act::Serve).await;
    let client = broker.client().await;
    let producer = client
        .producer()
        .linger(Duration::from_secs(60))
        .build()
        .await
        .unwrap();
    let first = producer.enqueue(order("a")).await.unwrap();
    let second = producer.enqueue(order("b")).await.unwrap();
    drop((producer, client));
    assert_eq!(first.await.unwrap().offset, Offset::new(0));
    assert_eq!(second.await.unwrap().offset, Offset::new(1));
}

#[tokio::test]
async fn records_are_gathered_while_others_are_in_flight() {
    let broker = FakeBroker::start(1, |_, _| Act::Serve).await;
    let client = broker.client().await;
    let producer = client
        .producer()
        .linger(Duration::from_secs(60))
        .build()
        .await
        .unwrap();
    let mut tickets = Vec::new();
    for i in 0..100 {
        tickets.push(producer.enqueue(order(i.to_string())).await.unwrap());
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert!(
        broker.batches(0) <= 3,
        "{} batches of 100 records",
        broker.batches(0)
    );
}

async fn filled(batches: i64, script: impl FnMut(u32, &RequestBody) -> Act + Send + 'static) -> FakeBroker {
    let broker = FakeBroker::start(1, script).await;
    let producer = broker.client().await.producer().build().await.unwrap();
    for batch in 0..batches {
        let mut builder = BatchBuilder::new();
        for i in 0..10 {
            let value = (batch * 10 + i).to_string();
            builder.push(Timestamp(i), None, Some(value.as_bytes()), &[]);
        }
        let written = producer
            .send_batch("orders", 0, builder)
            .await
            .unwrap()
            .await
            .unwrap();
        assert_eq!(
            (written.base_offset, written.records),
            (Offset::new(batch * 10), 10)
        );
    }
    broker
}

#[tokio::test]
async fn a_reader_begins_inside_a_batch_and_waits_at_the_end() {
    let broker = filled(3, |_, _| Act::Serve).await;
    let client = broker.client().await;
    let mut reader = client
        .reader("orders", 0, Start::Offset(offset(17)))
        .build()
        .await
        .unwrap();
    for expected in 17..30 {
        assert_eq!(reader.position(), offset(expected));
        let record = reader.next().await.unwrap().unwrap();
        assert_eq!(
            (record.offset, record.value),
            (offset(expected), Some(Bytes::from(expected.to_string())))
        );
    }
    assert_eq!(reader.high_watermark(), offset(30));
    let producer = broker.client().await.producer().build().await.unwrap();
    let (next, sent) = tokio::join!(reader.next(), producer.send(order("new").header("a", "b")));
    let record = next.unwrap().unwrap();
    assert_eq!(Some(record.offset), sent.unwrap().offset);
    assert_eq!(record.headers[0].key, "a");
}

#[tokio::test]
async fn whole_batches_and_records_can_be_mixed() {
    let broker = filled(3, |_, _| Act::Serve).await;
    let client = broker.client().await;
    let reader = client.reader("orders", 0, Start::Earliest).max_wait(ms(5));
    let mut reader = reader.build().await.unwrap();
    let numbers = |batch: &ConsumedBatch| -> Vec<i64> {
        batch
            .records()
            .map(|record| record.unwrap().offset.get())
            .collect()
    };
    assert_eq!(
        numbers(&reader.next_batch().await.unwrap().unwrap()),
        (0..10).collect::<Vec<_>>()
    );
    assert_eq!(reader.next().await.unwrap().unwrap().offset, offset(10));
    assert_eq!(
        numbers(&reader.next_batch().await.unwrap().unwrap()),
        (11..20).collect::<Vec<_>>()
    );
    reader.seek(offset(5));
    assert_eq!(
        numbers(&reader.next_batch().await.unwrap().unwrap()),
        (5..10).collect::<Vec<_>>()
    );
    assert_eq!(reader.position(), offset(10));
    assert_eq!(reader.next().await.unwrap().unwrap().offset, offset(10));
}

#[tokio::test]
async fn damaged_data_is_reported_and_a_seek_goes_on_behind_it() {
    let script = |_, body: &RequestBody| match body {
        RequestBody::Fetch(fetch) if (10..20).contains(&fetch.partitions[0].offset) => {
            let details = pb::ErrorDetails {
                first_offset: Some(10),
                last_offset: Some(19),
                ..Default::default()
            };
            let error = pb::Error {
                details: Some(details),
                ..refusal(ErrorCode::DataCorrupt)
            };
            let partition = pb::FetchedPartition {
                error: Some(error),
                ..Default::default()
            };
            answer(ResponseBody::Fetch(pb::FetchResponse {
                partitions: vec![partition],
            }))
        }
        _ => Act::Serve,
    };
    let broker = filled(3, script).await;
    let client = broker.client().await;
    let mut reader = client
        .reader("orders", 0, Start::Offset(offset(12)))
        .build()
        .await
        .unwrap();
    let error = reader.next().await.unwrap().unwrap_err();
    let (first, last) = error.damaged_offsets().unwrap();
    assert_eq!((first, last), (offset(10), offset(19)));
    assert!(reader.next().await.is_none(), "the stream has ended");
    reader.seek(last.next());
    assert_eq!(reader.next().await.unwrap().unwrap().offset, offset(20));
}

#[tokio::test]
async fn a_batch_that_does_not_fit_its_checksum_is_an_error() {
    let broker = filled(2, |_, _| Act::Serve).await;
    broker.damage(0, 1);
    let client = broker.client().await;
    let mut reader = client
        .reader("orders", 0, Start::Offset(offset(15)))
        .build()
        .await
        .unwrap();
    let error = reader.next().await.unwrap().unwrap_err();
    assert!(
        matches!(&error, Error::Decode { reason, .. } if reason.contains("CRC")),
        "{error}"
    );
    assert!(reader.next().await.is_none());
    let unchecked = client
        .reader("orders", 0, Start::Offset(offset(15)))
        .check_crc(false);
    let batch = unchecked
        .build()
        .await
        .unwrap()
        .next_batch()
        .await
        .unwrap()
        .unwrap();
    assert_eq!((batch.header.base_offset, batch.from), (offset(10), offset(15)));
}

#[tokio::test]
async fn a_reader_gives_up_when_the_gap_lasts_too_long() {
    let script = |connection, body: &RequestBody| match body {
        RequestBody::Fetch(_) => Act::HangUp,
        RequestBody::Hello(_) if connection > 2 => Act::HangUp,
        _ => Act::Serve,
    };
    let broker = filled(0, script).await;
    let client = broker.client().await;
    let reader = client.reader("orders", 0, Start::Latest).give_up_after(ms(50));
    let error = reader.build().await.unwrap().next().await.unwrap().unwrap_err();
    assert!(error.is_retriable(), "{error}");
}

impl FakeBroker {
    /// A client together with its broker, which must outlive it.
    async fn client_kept(self) -> (Client, Self) {
        (self.client().await, self)
    }
}
