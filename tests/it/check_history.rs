//! `naru check-history` on files, on a pipe, and on what is no history.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::broker::naru;
use crate::cli::{failed, stderr, succeeded};

/// The example of `docs/histories.md`, two processes apart from the others.
fn example(dir: &Path) -> [PathBuf; 2] {
    let page = include_str!("../../docs/histories.md");
    let (_, example) = page.split_once("```json\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let (readers, others): (Vec<_>, Vec<_>) = example
        .lines()
        .partition(|line| line.contains(r#""process":4"#) || line.contains(r#""process":5"#));
    let files = [dir.join("readers.ndjson"), dir.join("others.ndjson")];
    fs::write(&files[0], readers.join("\n") + "\n").unwrap();
    fs::write(&files[1], others.join("\n") + "\n").unwrap();
    files
}

fn checked(args: &[&str], files: &[PathBuf]) -> Output {
    let mut command = naru();
    command.arg("check-history").args(args).args(files);
    command.output().unwrap()
}

#[test]
fn files_of_several_processes_are_one_history_and_a_promise_that_is_broken_has_its_events() {
    let dir = tempfile::tempdir().unwrap();
    let files = example(dir.path());
    let text = succeeded(&checked(&[], &files));
    assert!(text.contains("no promise is broken"), "{text}");
    assert!(text.contains("28 events in 2 files"), "{text}");
    let readings = fs::read_to_string(&files[0]).unwrap();
    fs::write(&files[0], readings.replace(r#"{"offset":2,"uid":"1-3"},"#, "")).unwrap();
    let broken = checked(&["--format", "json"], &files);
    assert!(failed(&broken, 8).contains("lost-write"));
    let report: Value = serde_json::from_slice(&broken.stdout).unwrap();
    assert_eq!(report["broken"], true);
    assert_eq!(report["figures"]["records_acknowledged"], 4);
    let anomaly = &report["anomalies"][0];
    assert_eq!(
        (&anomaly["name"], &anomaly["count"]),
        (&"lost-write".into(), &1.into())
    );
    let proof = anomaly["witnesses"][0]["events"].as_array().unwrap();
    assert_eq!(proof[0]["event"]["is"]["invoke"]["produce"]["uids"][0], "1-3");
    assert_eq!(proof[1]["event"]["is"]["ok"]["produced"]["base"], 2);
    let text = String::from_utf8(checked(&[], &files).stdout).unwrap();
    assert!(text.contains("error  lost-write  1"), "{text}");
    assert!(text.contains(r#"process 1  {"invoke":{"produce""#), "{text}");
}

#[test]
fn a_line_that_a_kill_cut_off_is_told_and_one_that_is_no_event_is_refused_with_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let files = example(dir.path());
    let mut readings = fs::read_to_string(&files[0]).unwrap();
    readings.push_str(r#"{"t":412000,"process":5,"is":{"no"#);
    fs::write(&files[0], &readings).unwrap();
    let from_pipe = naru()
        .args(["check-history", "-"])
        .arg(&files[1])
        .stdin(File::open(&files[0]).unwrap())
        .output()
        .unwrap();
    assert!(stderr(&from_pipe).contains("stdin: the last line has no end"));
    assert!(succeeded(&from_pipe).contains("no promise is broken"));
    readings.push_str("\n\n");
    fs::write(&files[0], readings).unwrap();
    let garbage = failed(&checked(&[], &files), 2);
    assert!(
        garbage.contains("readers.ndjson: line 7 is no event"),
        "{garbage}"
    );
    let missing = failed(&checked(&[], &[dir.path().join("none")]), 3);
    assert!(missing.contains("cannot read"), "{missing}");
}

#[test]
fn what_proves_too_little_fails_if_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("weak.ndjson");
    let lines = (0..100).map(|op| {
        let produce = format!(r#"{{"produce":{{"at":"a/0","uids":["1-{op}"]}}}}"#);
        let head = format!(r#"{{"t":{op},"process":1,"op":{op},"is":"#);
        format!("{head}{{\"invoke\":{produce}}}}}\n{head}{{\"info\":\"timeout\"}}}}\n")
    });
    fs::write(&file, lines.collect::<String>()).unwrap();
    let files = [file];
    let text = succeeded(&checked(&[], &files));
    assert!(text.contains("warning  info-rate  1"), "{text}");
    assert!(failed(&checked(&["--strict"], &files), 8).contains("info-rate"));
}
