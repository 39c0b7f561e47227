//! `naru log verify` and `naru log dump` on directories that the real broker wrote.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::broker::{Broker, naru};

fn log(args: &[&str], path: &Path) -> Output {
    naru()
        .arg("log")
        .args(args)
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Every file below a directory with its bytes.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                all.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    all
}

/// A broker with a topic of 200 records, sent by ten commands.
fn filled() -> Broker {
    let broker = Broker::start();
    let url = broker.url();
    let created = naru()
        .args(["-s", &url, "topic", "create", "orders"])
        .output()
        .unwrap();
    said(&created, 0);
    for part in 0..10 {
        let lines: String = (0..20)
            .map(|i| format!("order-{:04} {}\n", part * 20 + i, "x".repeat(100)))
            .collect();
        let file = broker.dir.path().join("lines");
        fs::write(&file, lines).unwrap();
        let produced = naru()
            .args(["-s", &url, "produce", "orders"])
            .stdin(fs::File::open(&file).unwrap())
            .output()
            .unwrap();
        said(&produced, 0);
    }
    broker
}

fn place_of(data: &Path, needle: &[u8]) -> (PathBuf, usize) {
    let files = contents(data)
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "log"));
    let mut found = files.filter_map(|(path, bytes)| {
        let at = bytes.windows(needle.len()).position(|w| w == needle)?;
        Some((path, at))
    });
    found.next().unwrap()
}

#[test]
fn the_verdict_of_a_directory_is_right_and_changes_nothing() {
    let mut broker = filled();
    let data = broker.data.clone();
    let refused = log(&["verify"], &data);
    said(&refused, 4);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(
        stderr.contains(&broker.child.id().to_string()) && stderr.contains("hint: "),
        "{stderr}"
    );
    broker.kill();
    let before = contents(&data);
    let text = said(&log(&["verify", "--format", "table"], &data), 0);
    assert!(text.contains("VERDICT      everything is whole"), "{text}");
    let verdict: Value =
        serde_json::from_str(&said(&log(&["verify", "--format", "json"], &data), 0)).unwrap();
    assert_eq!(
        (&verdict["clean"], &verdict["starts"]),
        (&true.into(), &true.into())
    );
    assert!(
        verdict["checked"]["group_batches"].as_u64().unwrap() >= 10,
        "{verdict}"
    );
    assert_eq!(contents(&data), before);

    broker.restart();
    broker.signal(rustix::process::Signal::TERM);
    broker.child.wait().unwrap();
    let verdict: Value =
        serde_json::from_str(&said(&log(&["verify", "--format", "json"], &data), 0)).unwrap();
    assert!(
        verdict["checked"]["records"].as_u64().unwrap() >= 200,
        "{verdict}"
    );

    let (path, at) = place_of(&data, b"order-0123");
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let before = contents(&data);
    let verdict: Value =
        serde_json::from_str(&said(&log(&["verify", "--format", "json"], &data), 8)).unwrap();
    let finding = &verdict["findings"][0];
    assert_eq!(
        (&finding["kind"], &finding["effect"]),
        (&"segment_batch".into(), &"loss".into()),
        "{verdict}"
    );
    let (first, last) = (
        finding["first_offset"].as_i64().unwrap(),
        finding["last_offset"].as_i64().unwrap(),
    );
    assert!(
        first <= 123 && 123 <= last && first >= 120 && last < 140,
        "{first} to {last}"
    );
    assert!(usize::try_from(finding["position"].as_u64().unwrap()).unwrap() < at);
    assert!(path.ends_with(finding["file"].as_str().unwrap()));
    let dumped = log(&["dump", "--format", "json"], &path);
    let lines = said(&dumped, 7);
    let bad: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .filter(|v: &Value| v["ok"] == false)
        .collect();
    assert_eq!((bad.len(), &bad[0]["base_offset"]), (1, &first.into()));
    assert_eq!(contents(&data), before);
}

#[test]
fn files_are_shown_without_a_broker() {
    let mut broker = filled();
    let data = broker.data.clone();
    let journal = data.join("journal/00000000.journal");
    said(&log(&["dump"], &journal), 4);
    said(&log(&["dump", "--live"], &journal), 0);
    broker.signal(rustix::process::Signal::TERM);
    broker.child.wait().unwrap();
    let before = contents(&data);
    let (segment, _) = place_of(&data, b"order-0000");
    let records = said(
        &log(&["dump", "--records", "-o", "57:60", "-f", "%o %v\n"], &segment),
        0,
    );
    let short: Vec<&str> = records.lines().map(|line| &line[..13]).collect();
    assert_eq!(short, ["57 order-0057", "58 order-0058", "59 order-0059"]);
    let of_journal = said(
        &log(&["dump", "--records", "-o", "57:60", "-f", "%o %v\n"], &journal),
        0,
    );
    assert!(of_journal.contains("58 order-0058"), "{of_journal}");
    for (path, words) in [
        (&segment, ["batch  at 0  offsets 0 to", " none  "]),
        (
            &segment.with_extension("index"),
            ["entry  at 0  offset 0", "stands at 0"],
        ),
        (&journal, ["header  at 0  generation", "  append  at "]),
        (&data.join("checkpoint.0"), ["checkpoint  ", "directory "]),
        (&data, ["segment ", "journal/00000000.journal"]),
    ] {
        let text = said(&log(&["dump", "--format", "table"], path), 0);
        assert!(
            words.iter().all(|word| text.contains(word)),
            "{}: {text}",
            path.display()
        );
        let lines = said(&log(&["dump", "--format", "json"], path), 0);
        assert!(
            lines
                .lines()
                .all(|line| serde_json::from_str::<Value>(line).is_ok_and(|v| v["type"].is_string()))
        );
    }
    assert_eq!(contents(&data), before);
    let letter = broker.dir.path().join("letter.txt");
    fs::write(&letter, "dear reader").unwrap();
    said(&log(&["dump"], &letter), 7);
    said(&log(&["verify"], broker.dir.path()), 3);
    said(&log(&["verify"], &broker.dir.path().join("nowhere")), 3);
}
