//! Rot in records that nobody reads, found by the scrub of the real broker; and what a consumer sees of it.

use std::fs;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::broker::{Broker, Setup, http_get, naru};

/// Runs a command against a broker; its exit code, what it wrote, and what it said.
fn run(broker: &Broker, args: &[&str], input: &str) -> (i32, String, String) {
    let file = broker.dir.path().join("input");
    fs::write(&file, input).unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = naru()
        .args(["-s", &broker.url()])
        .args(args)
        .stdin(Stdio::from(fs::File::open(&file).unwrap()))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn metric(broker: &Broker, name: &str) -> f64 {
    let page = http_get(&broker.http, "/metrics");
    let value = page.lines().find_map(|line| line.strip_prefix(name));
    value.map_or(0.0, |value| value.trim().parse().unwrap())
}

/// Flips one bit of a record that stands in a segment.
fn rot(broker: &Broker, record: &str) {
    let mut dirs = vec![broker.data.join("topics")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let mut bytes = fs::read(&path).unwrap();
            let at = bytes.windows(record.len()).position(|w| w == record.as_bytes());
            if let Some(at) = at.filter(|_| path.extension().is_some_and(|e| e == "log")) {
                bytes[at] ^= 1;
                fs::write(&path, bytes).unwrap();
                return;
            }
        }
    }
    panic!("{record} is in no segment");
}

/// A record of a hundred, which fill several blocks: of the last one there is a copy.
fn order(number: usize) -> String {
    format!("order-{number:03}{:.>60}\n", "")
}

#[test]
fn rot_that_nobody_reads_is_found_told_and_skipped() {
    let mut setup = Setup::default();
    setup.settings.push("storage.scrub_interval=1s".to_owned());
    let mut broker = setup.start();
    assert_eq!(run(&broker, &["topic", "create", "orders"], "").0, 0);
    for part in 0..5 {
        let lines: String = (0..20).map(|i| order(part * 20 + i)).collect();
        assert_eq!(run(&broker, &["produce", "orders"], &lines).0, 0);
    }
    broker.signal(Signal::TERM);
    broker.child.wait().unwrap();
    rot(&broker, "order-027");
    broker.restart();
    let finished = broker.log.wait_for("scrub_finished");
    assert_eq!(finished["damaged_ranges"], 1, "{finished}");
    assert!(metric(&broker, "naru_scrub_last_pass_timestamp_seconds") > 1.7e9);
    assert!(metric(&broker, "naru_scrub_damaged_ranges_total") > 0.0);
    let (_, described, _) = run(&broker, &["topic", "describe", "orders", "--format", "json"], "");
    let described: Value = serde_json::from_str(&described).unwrap();
    let range = &described["partitions"][0]["quarantined"][0];
    let end = |name| usize::try_from(range[name].as_u64().unwrap()).unwrap();
    let (first, last) = (end("first_offset"), end("last_offset"));
    assert!(
        (20..=27).contains(&first) && (27..=39).contains(&last),
        "{described}"
    );

    let whole: Vec<String> = (0..100).map(order).collect();
    let before = whole[..first].concat();
    let consume = ["consume", "orders", "--exit-at-end", "-f", "%v\\n"];
    let (code, printed, said) = run(&broker, &consume, "");
    assert_eq!((code, &printed), (7, &before), "{said}");
    let told = format!("orders/0: offsets {first} to {last} are damaged and");
    assert!(said.contains(&told) && said.contains("--skip-corrupt"), "{said}");
    let rest = before + &whole[last + 1..].concat();
    let groups: [&[&str]; 3] = [
        &[],
        &["-g", "billing", "-o", "start"],
        &["-g", "alone", "-p", "0", "-o", "start"],
    ];
    for group in groups {
        let args = [&consume[..], &["--skip-corrupt"], group].concat();
        let (code, printed, said) = run(&broker, &args, "");
        assert_eq!((code, &printed), (7, &rest), "{group:?}: {said}");
        assert_eq!(said.matches(&told).count(), 1, "{said}");
        let total = format!("1 damaged range with {} offsets skipped", last - first + 1);
        assert!(said.contains(&total), "{said}");
        if !group.is_empty() {
            // What was skipped counts as printed.
            let (code, printed, said) = run(&broker, &args, "");
            assert_eq!((code, printed.as_str()), (0, ""), "{group:?}: {said}");
        }
    }
    println!(
        "figures scrub_real: bytes={}",
        metric(&broker, "naru_scrub_bytes_total")
    );
}

/// Both partitions stand at the same offsets when one of them cannot be read on.
#[test]
fn what_is_skipped_as_a_member_is_of_the_damaged_partition_alone() {
    let mut broker = Setup::default().start();
    assert_eq!(run(&broker, &["topic", "create", "orders", "-p", "2"], "").0, 0);
    for part in 0..5 {
        for partition in 0..2 {
            let lines: String = (0..20).map(|i| order(500 * partition + 20 * part + i)).collect();
            let to = partition.to_string();
            assert_eq!(run(&broker, &["produce", "orders", "-p", &to], &lines).0, 0);
        }
    }
    broker.signal(Signal::TERM);
    broker.child.wait().unwrap();
    for damaged in [500, 520, 540] {
        rot(&broker, &format!("order-{damaged:03}"));
    }
    broker.restart();
    let args = [
        "consume",
        "orders",
        "-g",
        "billing",
        "-o",
        "start",
        "--exit-at-end",
        "--skip-corrupt",
        "-f",
        "%v\\n",
    ];
    let (code, printed, said) = run(&broker, &args, "");
    assert_eq!(code, 7, "{said}");
    let printed: Vec<_> = printed.lines().map(|line| format!("{line}\n")).collect();
    for whole in (0..100).map(order) {
        assert!(
            printed.contains(&whole),
            "{whole} is whole and was skipped: {said}"
        );
    }
    let skipped = 200 - printed.len();
    assert!(
        said.contains(&format!(" with {skipped} offsets skipped")),
        "{} printed: {said}",
        printed.len()
    );
    assert!(!said.contains("orders/0"), "{said}");
}
