//! What operators see of groups and do to them on the command line, against the real binary.

use std::io::Write;
use std::process::{Output, Stdio};

use naru::rt::{Clock, SystemClock};
use serde_json::Value;

use crate::broker::{Broker, http_get, naru};

fn run(broker: &Broker, args: &[&str]) -> Output {
    let mut command = naru();
    command.arg("-s").arg(broker.url()).args(args);
    command.stdin(Stdio::null()).output().unwrap()
}

fn ok(broker: &Broker, args: &[&str]) -> String {
    let output = run(broker, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(broker: &Broker, args: &[&str]) -> Value {
    serde_json::from_str(&ok(broker, args)).unwrap()
}

/// A topic of one partition with so many records.
fn filled(broker: &Broker, topic: &str, records: usize) {
    ok(broker, &["topic", "create", topic]);
    for _ in 0..records {
        let mut command = naru();
        command.arg("-s").arg(broker.url()).args(["produce", topic, "-q"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"x\n").unwrap();
        assert!(child.wait().unwrap().success());
    }
}

fn metric(broker: &Broker, series: &str) -> f64 {
    let page = http_get(&broker.http, "/metrics");
    let line = page.lines().find_map(|line| line.strip_prefix(series));
    line.unwrap_or_else(|| panic!("{series} is missing in\n{page}"))
        .trim()
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_in_seconds_survives_a_restart_without_a_member() {
    let mut broker = Broker::start();
    let clock = SystemClock::new();
    filled(&broker, "orders", 2);
    ok(
        &broker,
        &["group", "commit", "billing", "orders", "-p", "0", "-o", "1"],
    );
    broker.kill();
    broker.restart();
    let described = json(&broker, &["group", "describe", "billing"]);
    let at = &described["partitions"][0];
    assert_eq!((&at["committed"], &at["lag"]), (&1.into(), &1.into()));
    let most = u64::try_from(clock.mono().as_millis()).unwrap() + 1_000;
    let age = at["lag_ms"].as_u64().unwrap();
    assert!((1..=most).contains(&age), "{age} ms of {most}");
    let seconds = metric(&broker, "naru_group_lag_max_seconds{group=\"billing\"}");
    assert!(
        seconds > 0.0 && seconds < clock.mono().as_secs_f64() + 1.0,
        "{seconds}"
    );

    ok(
        &broker,
        &[
            "topic",
            "trim",
            "orders",
            "-p",
            "0",
            "--to-offset",
            "2",
            "--execute",
            "-y",
        ],
    );
    let output = run(&broker, &["group", "describe", "billing", "--format", "table"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("offsets 1 to 1 of orders/0 are gone"), "{told}");
}
