//! How long a broker takes to start with many committed offsets: `cargo bench --bench recovery`. 1,000 groups with 100
//! partitions each, found first in the journal, after a kill, and then in a checkpoint.

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
const ROUNDS: u32 = 5;

/// A broker, and what it said when it was ready.
struct Broker {
    child: Child,
    recovered: Value,
    ready: Value,
    /// Kept open: what it says later goes there, too.
    _told: Lines<BufReader<ChildStderr>>,
}

fn start(dir: &Path) -> Broker {
    let mut command = Command::new(env!("CARGO_BIN_EXE_naru"));
    command
        .args(["serve", "--log-level", "info", "--log-format", "json"])
        .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(dir.join("data"))
        .arg("--port-file")
        .arg(dir.join("ports"))
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

    async fn client(&self, dir: &Path) -> Client {
        let ports = std::fs::read_to_string(dir.join("ports")).expect("a port file");
        let ports: Value = serde_json::from_str(&ports).expect("JSON");
        let native = ports["native"].as_str().expect("an address");
        Client::connect(&format!("naru://{native}"))
            .await
            .expect("it answers")
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

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for round in 0..ROUNDS {
        let dir = tempfile::tempdir().expect("a directory");
        let filled = start(dir.path());
        runtime.block_on(async { fill(&filled.client(dir.path()).await).await });
        filled.end(Signal::KILL);
        for (from, signal) in [("journal", Signal::KILL), ("checkpoint", Signal::TERM)] {
            let broker = start(dir.path());
            println!(
                "round {round}, from the {from}: ready after {} ms, recovered {}",
                broker.ready["duration_ms"], broker.recovered
            );
            runtime.block_on(async { check(&broker.client(dir.path()).await).await });
            broker.end(signal);
        }
    }
}
