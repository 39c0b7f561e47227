//! How long a broker takes to start after a kill: `cargo bench --bench recovery [-- groups|journal]`.
//!
//! `groups`: 1,000 groups with 100 partitions each, found first in the journal and then in a checkpoint. `journal`: a GiB of
//! journal that no checkpoint covers, of records of three shapes; the journal is written past the page cache, and thus read
//! from the disk.

#![expect(clippy::print_stdout, reason = "prints its result")]

use std::io::{BufRead as _, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use naru::client::{Client, CreateTopicOptions, OffsetToCommit};
use naru::model::Offset;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const GROUPS: u32 = 1_000;
const PARTITIONS: u32 = 100;
const GROUP_ROUNDS: u32 = 5;
const JOURNAL_ROUNDS: usize = 3;
const GIB: u64 = 1 << 30;

/// What a journal is filled with.
struct Load {
    name: &'static str,
    /// Flags of `naru bench produce`.
    flags: &'static [&'static str],
    records: u64,
    record_bytes: u64,
}

const LOADS: [Load; 3] = [
    Load {
        name: "1,024 bytes, batches of 1,000, 1 partition",
        flags: &["--batch-records", "1000", "--in-flight", "5"],
        records: 1_048_576,
        record_bytes: 1_024,
    },
    Load {
        name: "1,024 bytes, batches of 100, 1,000 partitions",
        flags: &[
            "--batch-records",
            "100",
            "--in-flight",
            "50",
            "--partitions",
            "1000",
        ],
        records: 1_048_576,
        record_bytes: 1_024,
    },
    Load {
        name: "100 bytes, single records, 16 partitions",
        flags: &[
            "--batch-records",
            "1",
            "--in-flight",
            "64",
            "--connections",
            "16",
            "--partitions",
            "16",
        ],
        records: 1_000_000,
        record_bytes: 100,
    },
];

/// A broker, and what it said when it was ready.
struct Broker {
    child: Child,
    recovered: Value,
    ready: Value,
    /// Kept open: what it says later goes there, too.
    _told: Lines<BufReader<ChildStderr>>,
}

fn start(dir: &Path, settings: &[(&str, &str)]) -> Broker {
    let mut command = Command::new(env!("CARGO_BIN_EXE_naru"));
    command
        .args(["serve", "--log-level", "info", "--log-format", "json"])
        .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(dir.join("data"))
        .arg("--port-file")
        .arg(dir.join("ports"))
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the broker starts");
    let mut told = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let (mut recovered, mut ready) = (Value::Null, Value::Null);
    for line in told.by_ref() {
        let line: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        if line["event"] == "recovered" {
            recovered = line;
        } else if line["event"] == "ready" {
            ready = line;
            break;
        }
    }
    Broker {
        child,
        recovered,
        ready,
        _told: told,
    }
}

impl Broker {
    fn end(mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
        self.child.wait().expect("it ends");
    }

    fn url(&self, dir: &Path) -> String {
        let ports = std::fs::read_to_string(dir.join("ports")).expect("a port file");
        let ports: Value = serde_json::from_str(&ports).expect("JSON");
        format!("naru://{}", ports["native"].as_str().expect("an address"))
    }

    async fn client(&self, dir: &Path) -> Client {
        Client::connect(&self.url(dir)).await.expect("it answers")
    }
}

async fn fill(client: &Client) {
    let options = CreateTopicOptions {
        partitions: PARTITIONS,
        ..Default::default()
    };
    client.create_topic("t", options).await.expect("a topic");
    for group in 0..GROUPS {
        let offsets = (0..PARTITIONS).map(|partition| OffsetToCommit::new("t", partition, Offset::ZERO));
        let group = format!("group-{group}");
        client
            .commit_offsets(&group, offsets.collect())
            .await
            .expect("a commit");
    }
}

async fn check(client: &Client) {
    for group in 0..GROUPS {
        let group = format!("group-{group}");
        let found = client.fetch_all_offsets(&group).await.expect("offsets");
        assert_eq!(found.len(), PARTITIONS as usize, "{group}");
    }
}

fn groups() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for round in 0..GROUP_ROUNDS {
        let dir = tempfile::tempdir().expect("a directory");
        let filled = start(dir.path(), &[]);
        runtime.block_on(async { fill(&filled.client(dir.path()).await).await });
        filled.end(Signal::KILL);
        for (from, signal) in [("journal", Signal::KILL), ("checkpoint", Signal::TERM)] {
            let broker = start(dir.path(), &[]);
            println!(
                "round {round}, from the {from}: ready after {} ms, recovered {}",
                broker.ready["duration_ms"], broker.recovered
            );
            runtime.block_on(async { check(&broker.client(dir.path()).await).await });
            broker.end(signal);
        }
    }
}

fn produce(load: &Load, url: &str) {
    let status = Command::new(env!("CARGO_BIN_EXE_naru"))
        .args(["-s", url, "bench", "produce", "--topic", "filled", "--json"])
        .args(["--records", &load.records.to_string()])
        .args(["--size", &load.record_bytes.to_string()])
        .args(load.flags)
        .stdout(Stdio::null())
        .status();
    assert!(status.expect("the command starts").success(), "{}", load.name);
}

fn number(line: &Value, field: &str) -> u64 {
    line[field].as_u64().expect("a number")
}

fn journal(load: &Load) {
    // No checkpoint by time, and none because a file is full but the first, which is small.
    let settings = [
        ("NARU_STORAGE__CHECKPOINT_EVERY", "1d"),
        ("NARU_STORAGE__JOURNAL_FILE_BYTES", "2GiB"),
        ("NARU_STORAGE__JOURNAL_FILES", "3"),
    ];
    let mut per_gib = Vec::new();
    for _ in 0..JOURNAL_ROUNDS {
        let dir = tempfile::tempdir().expect("a directory");
        let filled = start(dir.path(), &settings);
        produce(load, &filled.url(dir.path()));
        filled.end(Signal::KILL);
        let broker = start(dir.path(), &settings);
        let (ms, bytes) = (
            number(&broker.ready, "duration_ms"),
            number(&broker.recovered, "journal_bytes"),
        );
        println!(
            "{}: ready after {ms} ms, {} groups in {} MiB of journal, {} MiB of batches",
            load.name,
            number(&broker.recovered, "groups"),
            bytes >> 20,
            number(&broker.recovered, "bytes") >> 20,
        );
        broker.end(Signal::TERM);
        per_gib.push(ms * GIB / bytes);
    }
    per_gib.sort_unstable();
    println!(
        "{}: {} ms per GiB of journal, median of {JOURNAL_ROUNDS}",
        load.name,
        per_gib[JOURNAL_ROUNDS / 2]
    );
}

fn main() {
    // `cargo bench` adds `--bench`.
    let asked: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let wanted = |part: &str| asked.is_empty() || asked.iter().any(|a| a == part);
    if wanted("groups") {
        groups();
    }
    if wanted("journal") {
        LOADS.iter().for_each(journal);
    }
}
