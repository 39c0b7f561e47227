//! From a refused start back to a broker that runs, as an operator would go.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::broker::{Broker, naru, serve};

fn ended(output: &Output, code: i32) -> (String, String) {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
    (stdout, stderr)
}

fn produce(broker: &Broker, topic: &str, lines: &str) {
    let path = broker.dir.path().join("lines");
    fs::write(&path, lines).unwrap();
    let mut command = naru();
    command.args(["-s", &broker.url(), "produce", topic, "-p", "0"]);
    let input = fs::File::open(&path).unwrap();
    ended(&command.stdin(input).output().unwrap(), 0);
}

/// The journal file and the group in it that holds these bytes.
fn group_of(data: &Path, needle: &[u8]) -> (PathBuf, usize) {
    let files = fs::read_dir(data.join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut places = files.filter_map(|path| {
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(needle.len()).position(|w| w == needle)?;
        Some((path, at / 4096 * 4096))
    });
    places.next().unwrap()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn refused_start(data: &Path) -> String {
    let output = serve(data).stderr(Stdio::piped()).output().unwrap();
    let (_, log) = ended(&output, 1);
    log
}

fn salvage(data: &Path, args: &[&str], code: i32) -> (Value, String) {
    let config = data.with_file_name("naru.toml");
    let small = "[storage]\njournal_file_bytes = \"1MiB\"\nreserve_bytes = \"1MiB\"\n[limits]\nrequest_bytes_max = \"512KiB\"\n";
    fs::write(&config, small).unwrap();
    let mut command = naru();
    command
        .args(["log", "salvage", "--format", "json", "--config"])
        .arg(config)
        .arg(data);
    let (stdout, stderr) = ended(&command.args(args).output().unwrap(), code);
    let value = if stdout.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&stdout).unwrap()
    };
    (value, stderr)
}

fn what_the_broker_and_the_doctor_say(data: &Path) {
    let why = refused_start(data);
    assert!(
        why.contains("naru doctor") && why.contains("naru log salvage"),
        "{why}"
    );
    let doctor = naru()
        .args(["doctor", "--format", "table"])
        .arg(data)
        .output()
        .unwrap();
    let (page, _) = ended(&doctor, 8);
    assert!(
        page.contains("error    start") && page.contains("naru log salvage"),
        "{page}"
    );
}

/// A broker that was killed, with a group in its journal that cannot be read: its file and its place.
fn killed_and_damaged() -> (Broker, PathBuf, usize) {
    let mut broker = Broker::start();
    for topic in ["orders", "other"] {
        ended(&broker.run(&["topic", "create", topic]), 0);
    }
    produce(&broker, "orders", "first\n");
    produce(&broker, "orders", "lost-1\n");
    produce(&broker, "other", "behind\n");
    salvage(&broker.data, &[], 4);
    broker.kill();
    let data = broker.data.clone();
    assert_eq!(salvage(&data, &[], 0).0["starts"], true);
    let (path, group) = group_of(&data, b"lost-1");
    flip(&path, group + 40);
    (broker, path, group)
}

#[test]
fn a_group_that_cannot_be_read_is_given_up_by_name_and_the_broker_starts() {
    let (mut broker, path, group) = killed_and_damaged();
    let data = broker.data.clone();
    what_the_broker_and_the_doctor_say(&data);
    let (plan, _) = salvage(&data, &[], 8);
    let lsn = plan["obstacles"][0]["first_lsn"].as_u64().unwrap();
    let way = format!("group:{lsn}");
    assert_eq!(plan["obstacles"][0]["way"], way.as_str(), "{plan}");
    assert!(
        plan["command"]
            .as_str()
            .unwrap()
            .ends_with(&format!("--give-up {way}")),
        "{plan}"
    );
    let given_up = &plan["given_up"];
    assert_eq!(given_up.as_array().unwrap().len(), 1, "{plan}");
    assert_eq!(
        (
            &given_up[0]["topic"],
            &given_up[0]["first_offset"],
            &given_up[0]["last_offset"]
        ),
        (&"orders".into(), &1.into(), &1.into())
    );

    let (_, wrong) = salvage(&data, &["--give-up", &format!("group:{}", lsn + 1)], 8);
    assert!(wrong.contains("is not named"), "{wrong}");
    salvage(&data, &["--restore", &way], 2);
    assert_eq!(salvage(&data, &[], 8).0, plan, "nothing was changed");
    let (done, _) = salvage(&data, &["--give-up", &way], 0);
    let copies = data.join(done["copies"].as_str().unwrap());
    let copy = copies.join("journal").join(path.file_name().unwrap());
    let mut kept = fs::read(copy).unwrap();
    kept[group + 40] ^= 1;
    assert!(
        kept[group..].windows(6).any(|w| w == b"lost-1"),
        "the copy has what was there"
    );
    assert_eq!(salvage(&data, &[], 0).0["starts"], true);

    broker.restart();
    let corrupt = broker.run(&["consume", "orders", "--exit-at-end", "-f", "%o %v\n"]);
    let (out, told) = ended(&corrupt, 7);
    assert!(
        out.starts_with("0 first\n") && told.contains("offsets 1 to 1 are damaged"),
        "{out}{told}"
    );
    produce(&broker, "orders", "new\n");
    let behind = broker.run(&["consume", "orders", "-o", "2", "--exit-at-end", "-f", "%o %v\n"]);
    assert_eq!(ended(&behind, 0).0, "2 new\n");
    let other = broker.run(&["consume", "other", "--exit-at-end", "-f", "%o %v\n"]);
    assert_eq!(ended(&other, 0).0, "0 behind\n");
    what_was_given_up_is_named(&mut broker);
}

/// For as long as it is not trimmed.
fn what_was_given_up_is_named(broker: &mut Broker) {
    let data = broker.data.clone();
    broker.signal(Signal::TERM);
    broker.child.wait().unwrap();
    let verified = naru()
        .args(["log", "verify", "--format", "json"])
        .arg(&data)
        .output()
        .unwrap();
    let verified: Value = serde_json::from_str(&ended(&verified, 8).0).unwrap();
    let mut findings = verified["findings"].as_array().unwrap().clone();
    findings.retain(|finding| finding["effect"] != "note");
    assert_eq!(
        (findings.len(), &findings[0]["kind"]),
        (1, &"quarantined".into()),
        "{verified}"
    );
}

#[test]
fn format_that_is_gone_is_restored_at_no_loss() {
    let mut broker = Broker::start();
    ended(&broker.run(&["topic", "create", "orders"]), 0);
    produce(&broker, "orders", "first\n");
    broker.signal(Signal::TERM);
    broker.child.wait().unwrap();
    let data = broker.data.clone();
    let text = fs::read(data.join("FORMAT")).unwrap();
    fs::remove_file(data.join("FORMAT")).unwrap();
    assert!(refused_start(&data).contains("naru log salvage"));
    let (plan, _) = salvage(&data, &[], 8);
    assert!(
        plan["command"].as_str().unwrap().ends_with("--restore format"),
        "{plan}"
    );
    assert_eq!(plan["given_up"], serde_json::json!([]));
    salvage(&data, &["--restore", "format"], 0);
    assert_eq!(fs::read(data.join("FORMAT")).unwrap(), text);
    broker.restart();
    let all = broker.run(&["consume", "orders", "--exit-at-end", "-f", "%o %v\n"]);
    assert_eq!(ended(&all, 0).0, "0 first\n");
}
