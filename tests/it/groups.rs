//! Committed offsets against the real binary: killed, restarted, topics deleted and made again, and what the command line
//! makes of them.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use naru::client::{
    Client, ConsumedRecord, Consumer, CreateTopicOptions, Error, OffsetToCommit, ProducerRecord, Reset,
};
use naru::model::{ErrorCode, Offset, PartitionId};
use naru::net::Settings;
use naru::pb::v1;
use naru::pb::v1::request::Body;
use naru::pb::v1::response::Body as Answer;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::broker::{Broker, Setup, naru};
use crate::peer::{PATIENCE, Peer, start_broker, until};

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

/// A topic with so many records in each of its partitions.
async fn fill(client: &Client, topic: &str, partitions: u32, records: u32) {
    let options = CreateTopicOptions {
        partitions,
        ..Default::default()
    };
    client.create_topic(topic, options).await.unwrap();
    let producer = client.producer().build().await.unwrap();
    for n in 0..records {
        for partition in 0..partitions {
            let record = ProducerRecord::to(topic)
                .partition(partition)
                .value(n.to_string());
            // Closing shows what failed.
            drop(producer.enqueue(record).await.unwrap());
        }
    }
    producer.close().await.unwrap();
}

async fn consumer(client: &Client, group: &str, topic: &str) -> Consumer {
    let builder = client.consumer(group, topic).reset(Reset::Earliest);
    builder.build().await.unwrap()
}

async fn next(consumer: &mut Consumer) -> ConsumedRecord {
    consumer.next().await.unwrap().unwrap()
}

/// Topic, partition and committed offset, wherever there is one.
async fn committed(client: &Client, group: &str) -> Vec<(String, u32, i64)> {
    let all = client.fetch_all_offsets(group).await.unwrap();
    let line = |at: naru::client::GroupOffset| {
        let committed = at.committed.unwrap().offset.get();
        (at.topic, at.partition.0, committed)
    };
    all.into_iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_a_consumer_goes_on_at_exactly_what_it_committed() {
    let mut broker = Setup::small_journal().start();
    fill(&broker.client().await, "orders", 3, 100).await;
    let mut expected = [0_i64; 3];
    // The ring has been round, and every start begins from another checkpoint.
    for life in 0..4 {
        let client = broker.client().await;
        let mut consumer = consumer(&client, "billing", "orders").await;
        for partition in 0..3 {
            assert_eq!(
                consumer.position(partition).map(Offset::get),
                Some(expected[usize::try_from(partition).unwrap()]),
                "life {life}"
            );
        }
        for _ in 0..40 {
            let record = next(&mut consumer).await;
            let place = &mut expected[usize::try_from(record.partition.0).unwrap()];
            assert_eq!(record.offset.get(), *place, "life {life}: {record:?}");
            *place += 1;
        }
        consumer.commit().await.unwrap().unwrap();
        assert_eq!(consumer.commit().await.unwrap(), None, "there is nothing new");
        // Read, and lost: it was not committed.
        for _ in 0..7 {
            next(&mut consumer).await;
        }
        drop(consumer);
        broker.kill();
        broker.restart();
        assert_eq!(broker.log.event("data_corrupt"), None);
        let client = broker.client().await;
        let places = (0..)
            .zip(expected)
            .map(|(partition, at)| ("orders".to_owned(), partition, at));
        assert_eq!(committed(&client, "billing").await, places.collect::<Vec<_>>());
        assert_eq!(committed(&client, "nobody").await, []);
    }
}

/// Commits (n, n) for two partitions, n growing, until it is told to stop; the last n that was acknowledged.
async fn commit_without_end(client: Client, acknowledged: Arc<AtomicI64>, stop: Arc<Mutex<bool>>) {
    let mut n = acknowledged.load(Ordering::SeqCst);
    while !*stop.lock().unwrap() {
        n += 1;
        let both = [0, 1].map(|partition| OffsetToCommit::new("t", partition, offset(n)));
        client.commit_offsets("g", both.to_vec()).await.unwrap();
        acknowledged.store(n, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_amid_commits_lose_none_and_halve_none() {
    let mut broker = Setup::small_journal().start();
    let client = broker.client().await;
    fill(&client, "t", 2, 1).await;
    // So many records that every offset that is committed below is in range.
    let producer = client.producer().build().await.unwrap();
    for n in 0..20_000 {
        let record = ProducerRecord::to("t").partition(n % 2).value("x");
        drop(producer.enqueue(record).await.unwrap());
    }
    producer.close().await.unwrap();
    let acknowledged = Arc::new(AtomicI64::new(0));
    let stop = Arc::new(Mutex::new(false));
    let mut tasks = JoinSet::new();
    tasks.spawn(commit_without_end(
        broker.client().await,
        Arc::clone(&acknowledged),
        Arc::clone(&stop),
    ));
    for kill in 1..=4 {
        let more = acknowledged.load(Ordering::SeqCst) + 50 * kill;
        until("more commits", || acknowledged.load(Ordering::SeqCst) >= more).await;
        broker.kill();
        let before = acknowledged.load(Ordering::SeqCst);
        broker.restart();
        let found = committed(&broker.client().await, "g").await;
        let [(_, 0, a), (_, 1, b)] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(a, b, "half a commit after kill {kill}");
        assert!(*a >= before, "commit {before} was acknowledged, {a} was found");
    }
    *stop.lock().unwrap() = true;
    tasks.join_next().await.unwrap().unwrap();
    let last = acknowledged.load(Ordering::SeqCst);
    assert!(last < 10_000, "the offsets end");
    let expected = [0, 1].map(|partition| ("t".to_owned(), partition, last));
    assert_eq!(committed(&broker.client().await, "g").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_again_starts_anew_also_after_a_kill() {
    let mut broker = Setup::small_journal().start();
    let client = broker.client().await;
    fill(&client, "t", 1, 5).await;
    fill(&client, "u", 1, 5).await;
    for topic in ["t", "u"] {
        let mut consumer = consumer(&client, "g", topic).await;
        for _ in 0..3 {
            next(&mut consumer).await;
        }
        consumer.commit().await.unwrap();
    }
    client.delete_topic("t").await.unwrap();
    let kept = [("u".to_owned(), 0, 3)];
    assert_eq!(committed(&client, "g").await, kept);
    fill(&client, "t", 1, 5).await;
    broker.kill();
    broker.restart();
    let client = broker.client().await;
    assert_eq!(committed(&client, "g").await, kept);
    let refused = client.consumer("g", "t").build().await.unwrap_err();
    assert!(
        matches!(&refused, Error::NoPlace(place) if place.lost.is_none()),
        "{refused}"
    );
    let mut consumer = consumer(&client, "g", "t").await;
    assert_eq!(next(&mut consumer).await.offset, Offset::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_begins_as_told_and_keeps_its_place_over_a_restart_of_the_broker() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    fill(&client, "t", 2, 4).await;
    let refused = client.consumer("g", "t").build().await.unwrap_err();
    assert_eq!(refused.to_string(), "group g has committed nothing for t/0");

    let mut latest = client
        .consumer("g", "t")
        .partitions([1])
        .reset(Reset::Latest)
        .build()
        .await
        .unwrap();
    assert_eq!((latest.position(1), latest.position(0)), (Some(offset(4)), None));
    // Nothing was read, and the place is kept all the same: what comes now is not passed over by the next one.
    latest.commit().await.unwrap().unwrap();
    drop(latest);

    let mut consumer = client
        .consumer("g", "t")
        .reset(Reset::Earliest)
        .build()
        .await
        .unwrap();
    assert_eq!(
        (consumer.position(0), consumer.position(1)),
        (Some(offset(0)), Some(offset(4)))
    );
    let mut records = Vec::new();
    for _ in 0..3 {
        records.push(next(&mut consumer).await);
    }
    let places: Vec<_> = records.iter().map(|r| (r.partition, r.offset.get())).collect();
    assert_eq!(places, [0, 1, 2].map(|at| (PartitionId(0), at)));
    consumer.commit_through(&records[1]).await.unwrap().unwrap();
    assert_eq!(consumer.committed(0), Some(offset(2)));
    assert_eq!(consumer.lost(), []);
    broker.kill();
    broker.restart();
    assert_eq!(
        next(&mut consumer).await.offset,
        offset(3),
        "it goes on by itself"
    );
    consumer.commit().await.unwrap().unwrap();
    let expected = [("t".to_owned(), 0, 4), ("t".to_owned(), 1, 4)];
    assert_eq!(committed(&client, "g").await, expected);
    // The topic that it reads is gone: its commits do not land in the next one of the name.
    client.delete_topic("t").await.unwrap();
    fill(&client, "t", 2, 4).await;
    let error = consumer.commit_through(&records[0]).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UnknownTopicOrPartition), "{error}");
    assert!(!error.may_have_taken_effect());
}

/// Bytes of the segments of `__groups`.
fn groups_on_disk(broker: &Broker) -> u64 {
    let topic = broker.data.join("topics/00000000-0000-0000-0000-000000000002/0");
    let files = std::fs::read_dir(topic)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap());
    files.map(|file| file.len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_without_end_take_bounded_room_and_are_found_after_a_kill() {
    const TASKS: i64 = 16;
    const COMMITS: i64 = 400;
    const METADATA: usize = 4_000;
    let mut broker = Broker::start();
    let client = broker.client().await;
    fill(&client, "t", 2, 500).await;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let client = broker.client().await;
        tasks.spawn(async move {
            for n in 1..=COMMITS {
                let both = [0, 1].map(|partition| OffsetToCommit {
                    metadata: "x".repeat(METADATA),
                    ..OffsetToCommit::new("t", partition, offset(n))
                });
                client
                    .commit_offsets(&format!("g{task}"), both.to_vec())
                    .await
                    .unwrap();
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    // 51 MB were written, in segments of 16 MiB.
    let described = client.describe_topic("__groups").await.unwrap();
    assert_eq!(described.partitions[0].high_watermark, offset(TASKS * COMMITS));
    broker.kill();
    broker.restart();
    let client = broker.client().await;
    let described = client.describe_topic("__groups").await.unwrap();
    assert!(described.partitions[0].log_start > Offset::ZERO, "{described:?}");
    // The start has written two checkpoints: nothing waits any more.
    let bytes = groups_on_disk(&broker);
    assert!(bytes < 17 << 20, "{bytes} bytes");
    for task in 0..TASKS {
        let expected = [0, 1].map(|partition| ("t".to_owned(), partition, COMMITS));
        assert_eq!(committed(&client, &format!("g{task}")).await, expected);
    }
}

async fn refused_commit(peer: &mut Peer, items: &[(&str, u32, i64)]) -> v1::Error {
    let item = |(topic, partition, offset): &(&str, u32, i64)| v1::OffsetToCommit {
        partition: Some(v1::TopicPartition {
            topic: (*topic).to_owned(),
            partition: *partition,
            ..Default::default()
        }),
        offset: *offset,
        ..Default::default()
    };
    let request = v1::CommitOffsetsRequest {
        group: "g".to_owned(),
        member: None,
        offsets: items.iter().map(item).collect(),
    };
    peer.ask(9, Body::CommitOffsets(request)).await;
    peer.refusal().await.1
}

#[tokio::test]
async fn bad_commits_are_refused_for_certain_and_name_what_is_wrong() {
    let server = start_broker(Settings::default());
    let mut peer = server.friend().await;
    let create = v1::CreateTopicRequest {
        name: "t".to_owned(),
        partitions: 2,
        ..Default::default()
    };
    peer.ask(1, Body::CreateTopic(create)).await;
    assert!(matches!(peer.answer().await.body, Some(Answer::CreateTopic(_))));
    let cases = [
        (("t", 0, 1), ErrorCode::OffsetOutOfRange, "t/0: offset 1 "),
        (("t", 0, -1), ErrorCode::OffsetOutOfRange, "t/0: offset -1 "),
        (("t", 0, i64::MIN), ErrorCode::OffsetOutOfRange, "t/0: "),
        (("t", 0, i64::MAX), ErrorCode::OffsetOutOfRange, "t/0: "),
        (("t", 2, 0), ErrorCode::UnknownTopicOrPartition, "t/2: "),
        (
            ("t", u32::MAX, 0),
            ErrorCode::UnknownTopicOrPartition,
            "t/4294967295: ",
        ),
        (("tt", 0, 0), ErrorCode::UnknownTopicOrPartition, "tt/0: "),
        (("__groups", 0, 0), ErrorCode::InvalidName, "__groups/0: "),
        (("t", 1, 0), ErrorCode::InvalidArgument, "t/1: "),
    ];
    for (bad, code, message) in cases {
        let error = refused_commit(&mut peer, &[("t", 1, 0), bad]).await;
        assert_eq!(
            (error.name.as_str(), error.definite),
            (code.name(), true),
            "{error:?}"
        );
        assert!(error.message.starts_with(message), "{error:?}");
        assert_eq!(error.details.unwrap().field, "commit_offsets.offsets[1]");
    }
    let error = refused_commit(&mut peer, &[]).await;
    assert_eq!(error.name, "INVALID_ARGUMENT");
    let many: Vec<_> = (0..1_025).map(|partition| ("t", partition, 0)).collect();
    assert_eq!(refused_commit(&mut peer, &many).await.name, "TOO_MANY_ELEMENTS");
    for group in ["", "a\nb", "\u{202e}evil", &"x".repeat(201)] {
        let request = v1::FetchOffsetsRequest {
            group: group.to_owned(),
            ..Default::default()
        };
        peer.ask(9, Body::FetchOffsets(request)).await;
        assert_eq!(peer.refusal().await.1.name, "INVALID_NAME", "{group:?}");
    }
    // Nothing of all this was kept.
    let request = v1::FetchOffsetsRequest {
        group: "g".to_owned(),
        ..Default::default()
    };
    peer.ask(9, Body::FetchOffsets(request)).await;
    let kept = peer.answer().await.body;
    assert_eq!(
        kept,
        Some(Answer::FetchOffsets(v1::FetchOffsetsResponse::default()))
    );
}

fn run(broker: &Broker, args: &[&str]) -> Output {
    command(broker, args).stdin(Stdio::null()).output().unwrap()
}

fn command(broker: &Broker, args: &[&str]) -> Command {
    let mut command = naru();
    command.arg("-s").arg(broker.url()).args(args);
    command
}

fn ok(broker: &Broker, args: &[&str]) -> String {
    let output = run(broker, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(broker: &Broker, args: &[&str], code: i32) -> String {
    let output = run(broker, args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    stderr
}

/// Committed offset, end and lag of each partition.
fn places(broker: &Broker, group: &str) -> Vec<(Option<i64>, i64, Option<i64>)> {
    let text = ok(broker, &["group", "offsets", group]);
    let line = |line: &str| {
        let json: Value = serde_json::from_str(line).unwrap();
        let number = |name: &str| json[name].as_i64();
        (
            number("committed"),
            number("high_watermark").unwrap(),
            number("lag"),
        )
    };
    text.lines().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn consume_with_a_group_goes_on_behind_what_it_has_printed() {
    let mut broker = Broker::start();
    fill(&broker.client().await, "orders", 2, 3).await;
    let consume = |more: &[&'static str]| {
        let args = ["consume", "orders", "-g", "billing", "-f", "%p/%o "];
        [&args[..], more].concat()
    };
    let text = refused(&broker, &consume(&["--exit-at-end"]), 3);
    assert!(
        text.contains("has committed nothing for orders/0") && text.contains("-o start"),
        "{text}"
    );
    let text = refused(&broker, &consume(&["-o", "1"]), 2);
    assert!(text.contains("naru group commit"), "{text}");
    let text = refused(&broker, &["group", "offsets", "billing"], 3);
    assert!(text.contains("has committed nothing"), "{text}");

    let from_start = consume(&["-o", "start", "--exit-at-end", "-p", "0"]);
    assert_eq!(ok(&broker, &[&from_start[..], &["-n", "2"]].concat()), "0/0 0/1 ");
    assert_eq!(
        places(&broker, "billing"),
        [(Some(2), 3, Some(1)), (None, 3, None)]
    );
    broker.kill();
    broker.restart();
    assert_eq!(ok(&broker, &from_start), "0/2 ");
    assert_eq!(ok(&broker, &from_start), "");
    assert_eq!(ok(&broker, &consume(&["-o", "end", "--exit-at-end"])), "");
    assert_eq!(
        places(&broker, "billing"),
        [(Some(3), 3, Some(0)), (Some(3), 3, Some(0))]
    );

    ok(
        &broker,
        &["group", "commit", "billing", "orders", "-p", "1", "-o", "start"],
    );
    assert_eq!(places(&broker, "billing")[1], (Some(0), 3, Some(3)));
    let text = refused(
        &broker,
        &["group", "commit", "billing", "orders", "-p", "1", "-o", "4"],
        3,
    );
    assert!(text.contains("offset 4 cannot be committed"), "{text}");
    let table = ok(&broker, &["group", "offsets", "billing", "--format", "table"]);
    assert!(
        table.starts_with("TOPIC") && table.lines().count() == 3,
        "{table}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_consume_has_committed_what_it_printed_while_it_waited() {
    let broker = Broker::start();
    fill(&broker.client().await, "orders", 1, 3).await;
    let mut child = command(
        &broker,
        &["consume", "orders", "-g", "g", "-o", "start", "-f", "%o\\n"],
    )
    .stdin(Stdio::null())
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    for expected in ["0", "1", "2"] {
        assert_eq!(out.next().unwrap().unwrap(), expected);
    }
    let client = broker.client().await;
    // It waits for more, and the commit follows the output.
    let commit = async { while committed(&client, "g").await != [("orders".to_owned(), 0, 3)] {} };
    tokio::time::timeout(PATIENCE, commit)
        .await
        .expect("a commit in time");
    child.kill().unwrap();
    child.wait().unwrap();
    let again = ["consume", "orders", "-g", "g", "--exit-at-end", "-f", "%o\\n"];
    assert_eq!(ok(&broker, &again), "");
}
