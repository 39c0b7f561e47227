//! `bench heartbeat` and `bench commit`, small and short, against the real binary.

use serde_json::Value;

use crate::broker::{Broker, naru};

fn bench(broker: &Broker, line: &str, code: i32) -> (Value, String) {
    let mut command = naru();
    command.arg("-s").arg(broker.url()).arg("bench");
    let output = command.args(line.split_whitespace()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{line}: {stderr}");
    (serde_json::from_slice(&output.stdout).unwrap_or_default(), stderr)
}

fn groups(broker: &Broker) -> String {
    let mut command = naru();
    command.arg("-s").arg(broker.url());
    let output = command
        .args(["group", "list", "--format", "ndjson"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bench_heartbeat_counts_heartbeats_and_leaves_no_group_behind() {
    let broker = Broker::start();
    let (result, _) = bench(
        &broker,
        "heartbeat --groups 3 --members 4 --connections 2 --partitions 9 --every 100ms --duration 1s --json",
        0,
    );
    assert_eq!((&result["groups"], &result["members"]), (&3.into(), &12.into()));
    let beats = result["heartbeats"].as_u64().unwrap();
    assert!((12..=132).contains(&beats), "{result}");
    for field in ["p50", "max"] {
        assert!(result["join_us"][field].as_u64().unwrap() > 0, "{result}");
    }
    assert_eq!(result["broker"], Value::Null, "nobody asked for it");
    assert_eq!(groups(&broker), "");
}

#[cfg(target_os = "linux")]
#[test]
fn bench_commit_counts_durable_commits_and_what_the_broker_used() {
    let broker = Broker::start();
    let line = format!(
        "commit --connections 4 --groups 2 --partitions 6 --in-flight 2 --duration 500ms --pid {} --json",
        broker.pid()
    );
    let (result, _) = bench(&broker, &line, 0);
    assert!(result["commits"].as_u64().unwrap() > 0, "{result}");
    assert!(result["commits_per_s"].as_f64().unwrap() > 0.0, "{result}");
    assert!(
        result["broker"]["rss_kib_after"].as_u64().unwrap() > 0,
        "{result}"
    );
    assert_eq!(groups(&broker), "");
    let (_, stderr) = bench(&broker, "commit --connections 3 --groups 2", 2);
    assert!(stderr.contains("cannot be spread evenly"), "{stderr}");
}
