//! `naru doctor` on directories that the real broker wrote.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::SystemTime;

use rustix::process::Signal;
use serde_json::Value;

use crate::broker::{Broker, naru};

fn doctor(dir: &Path, format: &str) -> Output {
    naru()
        .args(["doctor", "--format", format])
        .arg(dir)
        .output()
        .unwrap()
}

fn said(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
    stdout
}

fn json(dir: &Path, code: i32) -> Value {
    serde_json::from_str(&said(&doctor(dir, "json"), code)).unwrap()
}

fn status<'a>(page: &'a Value, check: &str) -> &'a str {
    let checks = page["checks"].as_array().unwrap();
    let found = checks.iter().find(|c| c["name"] == check);
    found.unwrap_or_else(|| panic!("no {check}: {page}"))["status"]
        .as_str()
        .unwrap()
}

/// Everything below a directory: names, bytes, times of change.
fn everything(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let bytes = if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        all.insert(path, (modified, bytes));
    }
    all
}

/// A broker that was killed, with ten commands' records in a topic.
fn killed() -> Broker {
    let mut broker = Broker::start();
    said(&broker.run(&["topic", "create", "orders"]), 0);
    let lines = broker.dir.path().join("lines");
    // More than a block: damage in the last one costs nothing.
    fs::write(&lines, format!("one\ntwo\nthree\n{}\n", "x".repeat(5000))).unwrap();
    for _ in 0..3 {
        let url = broker.url();
        let input = fs::File::open(&lines).unwrap();
        let produced = naru()
            .args(["-s", &url, "produce", "orders"])
            .stdin(input)
            .output()
            .unwrap();
        said(&produced, 0);
    }
    assert_eq!(status(&json(&broker.data, 4), "lock"), "skipped");
    broker.kill();
    broker
}

#[test]
fn a_page_says_how_a_directory_is_and_nothing_is_written() {
    let mut broker = killed();
    let data = broker.data.clone();
    let before = everything(&data);
    let page = json(&data, 0);
    for check in [
        "permissions",
        "lock",
        "identity",
        "checkpoints",
        "journal",
        "metadata",
        "segments",
        "start",
    ] {
        assert_eq!(status(&page, check), "ok", "{page}");
    }
    assert_eq!(
        (&page["starts"], &page["topics"]),
        (&true.into(), &serde_json::json!(["orders"]))
    );
    assert!(page["replay_groups"].as_u64().unwrap() >= 3, "{page}");
    let text = said(&doctor(&data, "table"), 0);
    assert!(
        text.contains("VERDICT  everything is whole") && text.contains("1 topic: orders"),
        "{text}"
    );
    assert_eq!(everything(&data), before);

    // One that may not be written to is looked at all the same.
    fs::set_permissions(&data, Permissions::from_mode(0o500)).unwrap();
    assert_eq!(status(&json(&data, 8), "permissions"), "error");
    fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(status(&json(&data, 0), "permissions"), "warning");
    fs::set_permissions(&data, Permissions::from_mode(0o700)).unwrap();

    broker.restart();
    broker.signal(Signal::TERM);
    broker.child.wait().unwrap();
    let page = json(&data, 0);
    assert_eq!(
        (&page["replay_groups"], &page["topics"][0]),
        (&0.into(), &"orders".into())
    );
    said(&doctor(broker.dir.path(), "json"), 3);
}

#[test]
fn damage_is_named_with_its_topic_and_what_to_do() {
    let mut broker = killed();
    broker.restart();
    broker.signal(Signal::TERM);
    broker.child.wait().unwrap();
    let data = broker.data.clone();
    let holds = |bytes: &[u8]| bytes.windows(5).position(|w| w == b"three");
    let is_segment = |path: &Path| path.extension().is_some_and(|e| e == "log");
    let mut segments = everything(&data).into_iter().filter(|(path, _)| is_segment(path));
    let (path, at, mut bytes) = segments
        .find_map(|(path, (_, bytes))| holds(&bytes).map(|at| (path, at, bytes)))
        .unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let text = said(&doctor(&data, "table"), 8);
    assert!(
        text.contains("error    segments") && text.contains("topic orders (") && text.contains(", offsets "),
        "{text}"
    );
    assert!(text.contains("do: ") && text.contains("ok       start"), "{text}");
    let verified = naru()
        .args(["log", "verify", "--format", "json"])
        .arg(&data)
        .output()
        .unwrap();
    let verified: Value = serde_json::from_str(&said(&verified, 8)).unwrap();
    assert_eq!(verified["findings"][0]["topic"], "orders");
    fs::write(data.join("FORMAT"), "naru data directory, format 1\n").unwrap();
    let page = json(&data, 8);
    assert_eq!(
        (status(&page, "identity"), status(&page, "start")),
        ("error", "error")
    );
}
