//! What operators see of groups and do to them on the command line, against the real binary.

use std::io::Write;
use std::process::{Output, Stdio};

use naru::rt::{Clock, SystemClock};
use serde_json::Value;

use crate::broker::{Broker, http_get, naru};
use crate::peer::until;

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

fn refused(broker: &Broker, args: &[&str], code: i32) -> String {
    let output = run(broker, args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    stderr
}

/// Value and source of a setting.
fn setting(broker: &Broker, name: &str) -> (String, String) {
    let entry = json(broker, &["group", "config", "get", "billing", name]);
    let entry = entry.get(0).unwrap_or(&entry);
    let text = |field: &str| entry[field].as_str().unwrap().to_owned();
    (text("value"), text("source"))
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_group_are_given_changed_and_taken_back_and_survive_a_restart() {
    let mut broker = Broker::start();
    let created = json(
        &broker,
        &["group", "create", "billing", "-c", "offsets.retention.ms=7d"],
    );
    assert_eq!(created["created"], true);
    let again = json(&broker, &["group", "create", "billing", "-c", "assignor=range"]);
    assert_eq!(again["created"], false);
    let own = |value: &str| (value.to_owned(), "group".to_owned());
    let default = |value: &str| (value.to_owned(), "default".to_owned());
    assert_eq!(setting(&broker, "assignor"), default("sticky"));
    let set = [
        "group",
        "config",
        "set",
        "billing",
        "assignor=range",
        "session.timeout.ms=30s",
    ];
    assert_eq!(json(&broker, &set)["changes"].as_array().unwrap().len(), 2);
    assert_eq!(json(&broker, &set)["changed"], false);
    broker.kill();
    broker.restart();
    assert_eq!(setting(&broker, "assignor"), own("range"));
    assert_eq!(setting(&broker, "session.timeout.ms"), own("30000"));
    assert_eq!(setting(&broker, "offsets.retention.ms"), own("604800000"));
    let unset = [
        "group",
        "config",
        "unset",
        "billing",
        "assignor",
        "offsets.retention.ms",
    ];
    assert_eq!(json(&broker, &unset)["changed"], true);
    assert_eq!(setting(&broker, "assignor"), default("sticky"));
    assert_eq!(setting(&broker, "offsets.retention.ms"), default("-1"));

    let text = refused(
        &broker,
        &["group", "config", "set", "billing", "assignor=best"],
        2,
    );
    assert!(
        text.contains("one of sticky, range, round_robin and leader"),
        "{text}"
    );
    let both = [
        "group",
        "config",
        "set",
        "billing",
        "session.timeout.ms=40s",
        "sesion=1",
    ];
    let text = refused(&broker, &both, 2);
    assert!(text.contains("there is no setting sesion"), "{text}");
    assert_eq!(
        setting(&broker, "session.timeout.ms"),
        own("30000"),
        "all or nothing"
    );
    refused(
        &broker,
        &["group", "config", "set", "nobody", "assignor=range"],
        3,
    );
    let text = refused(&broker, &["group", "config", "get", "billing", "assigner"], 3);
    assert!(text.contains("did you mean 'assignor'?"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_an_empty_group_expire_by_themselves_over_a_restart() {
    let mut broker = Broker::start();
    filled(&broker, "orders", 1);
    ok(
        &broker,
        &["group", "commit", "billing", "orders", "-p", "0", "-o", "1"],
    );
    ok(
        &broker,
        &["group", "config", "set", "billing", "offsets.retention.ms=2s"],
    );
    broker.kill();
    broker.restart();
    let described = json(&broker, &["group", "describe", "billing"]);
    assert!(described["empty_since"].is_string(), "{described}");
    until("the offset is forgotten", || {
        let described = json(&broker, &["group", "describe", "billing"]);
        described["partitions"].as_array().unwrap().is_empty()
    })
    .await;
}
