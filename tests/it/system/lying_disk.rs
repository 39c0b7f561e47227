//! A disk that says "written" and writes nothing: what is missing afterwards is told, unless it is the last group.

use std::collections::BTreeSet;
use std::path::PathBuf;

use naru::client::{Client, CreateTopicOptions, OffsetSpec, Producer, ProducerRecord, Start};
use naru::model::Offset;
use rustix::process::Signal;

use super::strace::{self, Strike, Tracer};
use super::{at_once, story};
use crate::broker::{Broker, Setup};

const TOPIC: &str = "t";
/// Every group of one such record is one block of the journal.
const VALUE_BYTES: usize = 1_000;
/// More than groups that are lied about: a last group whose loss nothing can show is no part of this.
const RECORDS: i64 = 28;

/// What does not reach the disk.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// The Nth group of the journal, and the broker is killed before a checkpoint.
    Group(usize),
    /// The Nth write of the segment, and the broker stops in order.
    Segment(usize),
}

/// What of the acknowledged records is not there.
#[derive(Clone, Copy, Debug, Default)]
struct Missing {
    /// Told: the reader is given the offsets, the operator an event.
    told: u64,
    /// The start is refused, and the message says for which groups of the journal.
    refused: u64,
    /// At the end, without a word.
    silent: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lying_disk_did_not_write_is_told_unless_it_is_the_last_group() {
    if !strace::is_there("a disk that lies") {
        return;
    }
    let begun = crate::peer::now();
    let lies = [1, 2, 5, 9, 14, 20].map(Lie::Group).into_iter();
    let lies = lies.chain([1, 2].map(Lie::Segment));
    let found = at_once(3, lies.map(lie)).await;
    let told: u64 = found.iter().map(|(_, missing)| missing.told).sum();
    let silent: u64 = found.iter().map(|(_, missing)| missing.silent).sum();
    let refused: u64 = found.iter().map(|(_, missing)| missing.refused).sum();
    let seconds = begun.elapsed().as_secs();
    eprintln!(
        "figures system_lying_disk: lies={} records_told={told} starts_refused={refused} records_silent={silent} seconds={seconds}",
        found.len()
    );
    assert_eq!(silent, 0, "{found:?}");
    assert!(told + refused > 0, "the disk did not lie: {found:?}");
}

async fn lie(lie: Lie) -> (Lie, Missing) {
    let mut broker = Setup::default().start();
    let client = broker.client().await;
    client
        .create_topic(TOPIC, CreateTopicOptions::default())
        .await
        .unwrap();
    let producer = story::producer(&client).await.unwrap();
    send(&producer, 0..4).await;
    if matches!(lie, Lie::Segment(_)) {
        // So that the segment is there, and has a name.
        broker.signal(Signal::TERM);
        broker.ended().await;
        broker.restart();
    }
    let strike = Strike {
        call: "pwrite64",
        when: match lie {
            Lie::Group(n) | Lie::Segment(n) => n.to_string(),
        },
        what: format!("retval={}", 4096),
        paths: match lie {
            Lie::Group(_) => journal(&broker),
            Lie::Segment(_) => segment(&broker),
        },
    };
    let tracer = Tracer::attach(broker.pid(), &strike);
    let producer = story::producer(&broker.client().await).await.unwrap();
    send(&producer, 4..RECORDS).await;
    match lie {
        Lie::Group(_) => broker.kill(),
        Lie::Segment(_) => {
            broker.signal(Signal::TERM);
            broker.ended().await;
        }
    }
    drop(tracer);
    if !broker.restart_if_it_will() {
        let told = broker.log.wait_for("ended")["error.message"].to_string();
        assert!(told.contains("were durable and cannot be read"), "{told}");
        return (
            lie,
            Missing {
                refused: 1,
                ..Missing::default()
            },
        );
    }
    let missing = look(&broker.client().await).await;
    (lie, missing)
}

fn journal(broker: &Broker) -> Vec<PathBuf> {
    let files = std::fs::read_dir(broker.data.join("journal")).unwrap();
    files.map(|entry| entry.unwrap().path()).collect()
}

fn segment(broker: &Broker) -> Vec<PathBuf> {
    super::io_errors::files(&broker.data)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "log"))
        .filter(|path| !path.to_string_lossy().contains("00000000-0000"))
        .collect()
}

fn value(number: i64) -> String {
    format!("{number}/{}", "v".repeat(VALUE_BYTES))
}

async fn send(producer: &Producer, numbers: std::ops::Range<i64>) {
    for number in numbers {
        let record = ProducerRecord::to(TOPIC).partition(0).value(value(number));
        let stored = producer.send(record).await.unwrap();
        assert_eq!(stored.offset.unwrap().get(), number);
    }
}

/// Reads what is there, past what is damaged.
async fn look(client: &Client) -> Missing {
    let end = client
        .list_offsets(TOPIC, &[0], OffsetSpec::Latest)
        .await
        .unwrap();
    let end = end[0].as_ref().unwrap().get();
    let mut reader = client.reader(TOPIC, 0, Start::Earliest).build().await.unwrap();
    let (mut there, mut told) = (BTreeSet::new(), BTreeSet::new());
    while reader.position().get() < end {
        match reader.next().await.unwrap() {
            Ok(record) => {
                let at = record.offset.get();
                assert_eq!(record.value.unwrap(), value(at), "at {at}");
                there.insert(at);
            }
            Err(error) => {
                let (first, last) = error.damaged_offsets().unwrap_or_else(|| panic!("{error}"));
                told.extend(first.get()..=last.get());
                reader = client
                    .reader(TOPIC, 0, Start::Offset(Offset::new(last.get() + 1).unwrap()))
                    .build()
                    .await
                    .unwrap();
            }
        }
    }
    assert!(there.is_disjoint(&told), "{told:?} were damaged, and are there");
    let silent = (0..RECORDS)
        .filter(|at| !there.contains(at) && !told.contains(at))
        .count();
    Missing {
        told: told.len() as u64,
        refused: 0,
        silent: silent as u64,
    }
}
