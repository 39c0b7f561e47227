//! Topics that are changed while the real binary serves them.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use naru::client::{AlterTopicOptions, Client, CreateTopicOptions, ProducerRecord};
use naru::model::ErrorCode;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::broker::{Broker, Setup};
use crate::cli::{failed, stderr, succeeded};
use crate::peer::PATIENCE;

fn entry(broker: &Broker, name: &str) -> (String, String) {
    let shown = broker.ok_json(&["--format", "json", "topic", "config", "get", "orders", name]);
    let text = |field: &str| shown[0][field].as_str().unwrap().to_owned();
    (text("value"), text("source"))
}

fn pair(value: &str, source: &str) -> (String, String) {
    (value.to_owned(), source.to_owned())
}

fn segments(broker: &Broker) -> u64 {
    let topic = broker.ok_json(&["--format", "json", "topic", "describe", "orders"]);
    topic["partitions"][0]["segments"].as_u64().unwrap()
}

#[test]
fn a_topics_configuration_changes_while_it_is_used_and_stays_so() {
    let mut broker = Broker::start();
    broker.ok(&["topic", "create", "orders"]);
    let set = |broker: &Broker, args: &[&str]| {
        let all = [&["--format", "json", "topic", "config", "set", "orders"], args].concat();
        broker.ok_json(&all)
    };
    let tried = set(&broker, &["retention.ms=12h", "--dry-run"]);
    assert_eq!(
        (&tried["changed"], &tried["dry_run"]),
        (&true.into(), &true.into())
    );
    assert_eq!(tried["changes"][0]["value"], "43200000");
    assert_eq!(entry(&broker, "retention.ms"), pair("604800000", "default"));
    let done = set(
        &broker,
        &[
            "retention.ms=12h",
            "segment.bytes=64KiB",
            "max.message.bytes=16384",
        ],
    );
    assert_eq!(done["changes"].as_array().unwrap().len(), 3);
    assert_eq!(
        done["changes"][1]["source_before"], "default",
        "in the order of names: {done}"
    );
    assert_eq!(entry(&broker, "retention.ms"), pair("43200000", "topic"));
    let again = set(&broker, &["retention.ms=720m"]);
    assert_eq!(
        (&again["changed"], &again["changes"]),
        (&false.into(), &Value::Array(Vec::new()))
    );

    // In force: batches are cut to the new limit, and a segment takes four of them. A kill settles what is in segments.
    assert_eq!(segments(&broker), 0);
    let lines = format!("{}\n", "x".repeat(1000)).repeat(160);
    broker.produce(&["produce", "orders"], lines.as_str());
    broker.kill();
    broker.restart();
    assert!(segments(&broker) >= 3, "{} segments", segments(&broker));
    for (name, value) in [
        ("retention.ms", "43200000"),
        ("segment.bytes", "65536"),
        ("max.message.bytes", "16384"),
    ] {
        assert_eq!(entry(&broker, name), pair(value, "topic"));
    }
    // Also after the restart.
    let before = segments(&broker);
    broker.produce(&["produce", "orders"], lines.as_str());
    let unset = [
        "topic",
        "config",
        "unset",
        "orders",
        "retention.ms",
        "segment.bytes",
    ];
    broker.ok(&unset);
    broker.kill();
    broker.restart();
    assert!(segments(&broker) >= before + 2);
    assert_eq!(entry(&broker, "segment.bytes"), pair("268435456", "default"));
    assert_eq!(entry(&broker, "retention.ms"), pair("604800000", "default"));
    let read = broker.ok(&["consume", "orders", "-o", "start", "--exit-at-end", "-f", "%v\\n"]);
    assert_eq!(read.lines().count(), 320);
}

#[test]
fn the_next_deletion_follows_the_retention_that_is_set() {
    let mut broker = Broker::start();
    broker.ok(&["topic", "create", "orders"]);
    broker.produce(&["produce", "orders"], "a\nb\n");
    // A kill settles what is in segments.
    broker.kill();
    broker.restart();
    let set = |entry: &str| broker.ok(&["topic", "config", "set", "orders", entry]);
    let next = || {
        let topic = broker.ok_json(&["--format", "json", "topic", "describe", "orders"]);
        topic["partitions"][0]["next_deletion"].clone()
    };
    let at = || {
        let next = next();
        assert_eq!(next["upto_offset"], 2);
        next["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
    };
    set("retention.ms=1h");
    let in_an_hour = at();
    set("retention.ms=3h");
    assert_eq!(at().as_millisecond() - in_an_hour.as_millisecond(), 7_200_000);
    set("retention.ms=unlimited");
    assert_eq!(next(), Value::Null);
    set("retention.bytes=1MiB");
    assert!(next()["after_bytes"].as_u64().unwrap() > 1_000_000);
}

#[test]
fn what_a_topic_cannot_be_configured_with_is_refused_with_a_hint() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "orders", "-p", "3"]);
    let set = |args: &[&str]| broker.run(&[&["topic", "config", "set"], args].concat());
    let misspelt = set(&["orders", "segment.bytes=1MiB", "retention.sm=1h"]);
    assert!(failed(&misspelt, 2).contains("did you mean 'retention.ms'?"));
    let text = failed(&set(&["orders", "cleanup.policy=compact"]), 2);
    assert!(text.contains("there is no compaction yet"), "{text}");
    let text = failed(&set(&["orders", "storage=memory"]), 2);
    assert!(text.contains("fixed when a topic is made"), "{text}");
    let text = failed(&set(&["orders", "retention.ms=yesterday"]), 2);
    assert!(text.contains("a duration from 0"), "{text}");
    failed(&set(&["orders"]), 2);
    failed(&set(&["orders", "retention.ms"]), 2);
    assert!(failed(&set(&["order", "retention.ms=1h"]), 3).contains("did you mean 'orders'?"));
    // Nothing of what was refused as a whole.
    assert_eq!(entry(&broker, "segment.bytes"), pair("268435456", "default"));
    let refused = broker.run(&[
        "--format",
        "json",
        "topic",
        "config",
        "unset",
        "orders",
        "nothing.ms",
    ]);
    let error: Value = serde_json::from_str(&failed(&refused, 2)).unwrap();
    assert_eq!(error["error"]["code"], "INVALID_CONFIG");
    assert_eq!(error["error"]["retriable"], false);
    let unknown = broker.run(&["topic", "config", "get", "orders", "retention.m"]);
    assert!(failed(&unknown, 3).contains("did you mean 'retention.ms'?"));
    let csv = broker.ok(&[
        "--format",
        "csv",
        "topic",
        "config",
        "get",
        "orders",
        "retention.ms",
    ]);
    assert_eq!(
        csv,
        "name,source,value,without_effect\nretention.ms,default,604800000,false\n"
    );

    let add = |args: &[&str]| broker.run(&[&["topic", "add-partitions", "orders"], args].concat());
    let text = failed(&add(&["--to", "2"]), 2);
    assert!(text.contains("partitions are never removed"), "{text}");
    failed(&add(&["--to", "1025"]), 2);
    failed(&add(&["--to", "0"]), 2);
    failed(&add(&[]), 2);
    let same = add(&["--to", "3", "--format", "json"]);
    let same_json: Value = serde_json::from_str(&succeeded(&same)).unwrap();
    assert_eq!(same_json["changed"], false);
    assert!(!stderr(&same).contains("warning"), "{same:?}");
}

#[test]
fn a_topic_gets_partitions_and_whoever_does_it_is_warned() {
    let mut broker = Broker::start();
    broker.ok(&["topic", "create", "orders", "-p", "2"]);
    broker.produce(&["produce", "orders", "-p", "1"], "old\n");
    let tried = broker.run(&["topic", "add-partitions", "orders", "--to", "5", "--dry-run"]);
    assert!(stderr(&tried).contains("keys lead to other ones"), "{tried:?}");
    let count = |broker: &Broker| {
        let topic = broker.ok_json(&["--format", "json", "topic", "describe", "orders"]);
        topic["partitions"].as_array().unwrap().len()
    };
    assert_eq!(count(&broker), 2);
    let text = broker.ok(&[
        "--format",
        "table",
        "topic",
        "add-partitions",
        "orders",
        "-p",
        "5",
    ]);
    assert_eq!(text, "topic 'orders' has 5 partitions now, it had 2\n");
    let placed = broker.produce(&["produce", "orders", "-p", "4"], "new\n");
    assert_eq!(placed["partitions"][0]["first_offset"], 0);
    broker.kill();
    broker.restart();
    assert_eq!(count(&broker), 5);
    broker.produce(&["produce", "orders", "-p", "4"], "newer\n");
    let read = broker.ok(&[
        "consume",
        "orders",
        "-o",
        "start",
        "--exit-at-end",
        "-f",
        "%p %o %v\\n",
    ]);
    let mut lines: Vec<_> = read.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["1 0 old", "4 0 new", "4 1 newer"]);
    let metrics = crate::broker::http_get(&broker.http, "/metrics");
    assert!(
        metrics.contains("naru_topic_partitions{topic=\"orders\"} 5"),
        "{metrics}"
    );
}

/// What several clients were told about a topic that they change at the same time, killing the broker on the way: every
/// number of partitions and every value that was acknowledged is there, and records in new partitions with it.
#[tokio::test(flavor = "multi_thread")]
async fn changes_that_were_acknowledged_survive_kills() {
    let mut broker = Setup::small_journal().start();
    let mut partitions = 1;
    let mut ends: BTreeMap<u32, i64> = BTreeMap::new();
    let client = broker.client().await;
    let created = client
        .create_topic("t", CreateTopicOptions::default())
        .await
        .unwrap();
    for round in 0..6_u32 {
        let client = broker.client().await;
        let mut asked = JoinSet::new();
        for n in 1..=4 {
            let client = client.clone();
            let value = (1_000_000 + round * 10 + n).to_string();
            let options = AlterTopicOptions {
                partitions: partitions + n,
                set: vec![("retention.ms".to_owned(), value.clone())],
                topic_id: Some(created.topic_id),
                ..AlterTopicOptions::default()
            };
            asked.spawn(async move { (n, value, client.alter_topic("t", options).await) });
        }
        let mut values = Vec::new();
        for (n, value, answer) in asked.join_all().await {
            match answer {
                Ok(altered) => {
                    assert_eq!(altered.topic_id, created.topic_id);
                    assert_eq!(altered.partitions, partitions + n);
                    values.push(value);
                }
                // Whoever came behind one that asked for more.
                Err(error) => assert_eq!(error.code(), Some(ErrorCode::InvalidPartitions), "{error}"),
            }
        }
        partitions += 4;
        let producer = client.producer().build().await.unwrap();
        let record = ProducerRecord::to("t").partition(partitions - 1).value("x");
        let stored = producer.send(record).await.unwrap();
        *ends.entry(stored.partition.0).or_default() += 1;
        broker.kill();
        broker.restart();
        check(&broker.client().await, partitions, &values, &ends).await;
    }
}

async fn check(client: &Client, partitions: u32, values: &[String], ends: &BTreeMap<u32, i64>) {
    let topic = client.describe_topic("t").await.unwrap();
    assert_eq!(u32::try_from(topic.partitions.len()).unwrap(), partitions);
    let entry = topic.configs.iter().find(|e| e.name == "retention.ms").unwrap();
    assert!(
        values.contains(&entry.value),
        "{} is none of {values:?}",
        entry.value
    );
    for partition in topic.partitions {
        let end = ends.get(&partition.partition.0).copied().unwrap_or(0);
        assert_eq!(partition.high_watermark.get(), end, "{}", partition.partition);
    }
}

/// A command that goes on for ever, and the lines that it prints.
struct Endless {
    child: Child,
    lines: Receiver<String>,
}

impl Endless {
    fn consume(broker: &Broker, args: &[&str]) -> Self {
        let all = [&["consume", "orders", "-f", "%p %v\\n"], args].concat();
        let mut command = broker.naru(&all);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        // Ends with the child, at the latest.
        thread::spawn(move || {
            out.lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    fn next(&self, count: usize) -> Vec<String> {
        let next = |_| self.lines.recv_timeout(PATIENCE).unwrap();
        let mut lines: Vec<_> = (0..count).map(next).collect();
        lines.sort_unstable();
        lines
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn who_reads_a_whole_topic_reads_the_partitions_that_it_gets_meanwhile() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "orders"]);
    broker.produce(&["produce", "orders"], "first\n");
    let plain = Endless::consume(&broker, &["-o", "start"]);
    assert_eq!(plain.next(1), ["0 first"]);
    // It commits where it begins before it waits: from then on it passes over nothing.
    let group = Endless::consume(&broker, &["-g", "billing", "-o", "end"]);
    let offsets = ["group", "offsets", "billing"];
    let mut looks = 0;
    while broker.run(&offsets).status.code() != Some(0) {
        looks += 1;
        assert!(looks < 1000, "the group has committed nothing");
    }
    broker.ok(&["-q", "topic", "add-partitions", "orders", "--to", "3"]);
    broker.produce(&["produce", "orders", "-p", "2"], "new\n");
    broker.produce(&["produce", "orders", "-p", "0"], "old\n");
    for consumer in [&plain, &group] {
        assert_eq!(consumer.next(2), ["0 old", "2 new"]);
    }
}
