//! The configuration of the real process: where it comes from, what is refused, and what a signal changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::broker::{Log, http_get, naru, signal};
use crate::peer::until;

/// A broker that is configured by a file alone.
struct Configured {
    child: Child,
    log: Log,
    dir: tempfile::TempDir,
}

impl Configured {
    fn start(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), more);
        let mut child = naru()
            .args(["serve", "--config"])
            .arg(file(dir.path()))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Log::of(child.stderr.take().unwrap());
        log.wait_for("ready");
        Self { child, log, dir }
    }

    fn reload(&self, more: &str) {
        write(self.dir.path(), more);
        signal(&self.child, Signal::HUP);
    }

    async fn until_metric_is(&self, value: u8) {
        let http = self.log.wait_for("ready")["http"].as_str().unwrap().to_owned();
        let line = format!("\nnaru_config_last_reload_successful {value}\n");
        until("the metric follows", || {
            http_get(&http, "/metrics").contains(&line)
        })
        .await;
    }

    async fn stop(&mut self) {
        signal(&self.child, Signal::TERM);
        let mut status = None;
        until("the broker's end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        assert_eq!(status.unwrap().code(), Some(0));
        self.log.wait_for_end();
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("naru.toml")
}

/// Writes a file that suits a test, with more lines at the end.
fn write(dir: &Path, more: &str) {
    let data = dir.join("data");
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n[storage]\ndata_dir = {data:?}\njournal_file_bytes = \"16MiB\"\n[log]\nformat = \"json\"\n{more}"
    );
    fs::write(file(dir), text).unwrap();
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn hangup_changes_the_log_level_and_says_what_waits_for_a_restart() {
    let mut broker = Configured::start("level = \"info\"");
    assert!(broker.dir.path().join("data").is_dir());
    broker.until_metric_is(1).await;
    broker.reload("level = \"error\"\n[limits]\nconnections_max = 4");
    let line = broker.log.wait_for("config_reloaded");
    assert_eq!(line["applied"], "log.level", "{line}");
    assert_eq!(line["needs_restart"], "limits.connections_max", "{line}");
    // The answer is written although lines of its level are not, any more.
    broker.reload("level = \"error\"\n[server]\nlistne = 1");
    broker.log.wait_for("config_reload_failed");
    broker.reload("level = \"error\"\n[http]\nconnections_max = 5");
    broker
        .log
        .wait_where(|line| line["needs_restart"] == "http.connections_max");
    broker.stop().await;
    assert_eq!(broker.log.event("draining"), None, "that line is of level info");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_changes_nothing_until_it_is_mended() {
    let mut broker = Configured::start("level = \"info\"");
    broker.reload("level = \"error\"\nlevle = 1");
    let line = broker.log.wait_for("config_reload_failed");
    let message = line["error.message"].as_str().unwrap();
    assert!(
        message.ends_with("naru.toml:10:1: there is no setting log.levle"),
        "{line}"
    );
    assert_eq!(line["hint"], "did you mean log.level?", "{line}");
    broker.until_metric_is(0).await;
    broker.reload("level = \"info\"");
    broker.until_metric_is(1).await;
    // A file that is gone says nothing, and is not taken for one that says "all defaults".
    fs::remove_file(file(broker.dir.path())).unwrap();
    signal(&broker.child, Signal::HUP);
    broker.until_metric_is(0).await;
    let gone = |line: &Value| {
        line["error.message"]
            .as_str()
            .is_some_and(|m| m.contains("No such file"))
    };
    assert_eq!(broker.log.wait_where(gone)["event"], "config_reload_failed");
    broker.reload("level = \"info\"");
    broker.until_metric_is(1).await;
    assert_eq!(broker.log.wait_for("config_reloaded")["applied"], "");
    broker.stop().await;
    assert!(broker.log.event("draining").is_some(), "the level is still info");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_have_the_defaults_of_the_file_and_new_ones_after_a_hangup() {
    let mut broker = Configured::start("[topic.defaults]\npartitions = 3\nretention.ms = \"1d\"");
    let server = format!(
        "naru://{}",
        broker.log.wait_for("ready")["native"].as_str().unwrap()
    );
    let naru_with = |args: &[&str]| {
        let output = run(naru().args(["-s", &server]).args(args));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let is = |topic: &str, partitions: usize, retention: &str| {
        let described: Value =
            serde_json::from_str(&naru_with(&["topic", "describe", topic, "--format", "json"])).unwrap();
        let number = described["partitions"].as_array().unwrap().len();
        assert_eq!(number, partitions, "{described:#}");
        let mut entries = described["configs"].as_array().unwrap().iter();
        let entry = entries.find(|entry| entry["name"] == "retention.ms").unwrap();
        assert_eq!(
            (&entry["value"], &entry["source"]),
            (&retention.into(), &"broker".into())
        );
    };
    naru_with(&["topic", "create", "t"]);
    is("t", 3, "86400000");
    broker.reload("[topic.defaults]\npartitions = 2\nretention.ms = \"2d\"");
    let line = broker.log.wait_for("config_reloaded");
    assert_eq!(
        line["applied"], "topic.defaults.partitions topic.defaults.retention.ms",
        "{line}"
    );
    naru_with(&["topic", "create", "u"]);
    is("t", 3, "172800000");
    is("u", 2, "172800000");
    broker.stop().await;
}

#[test]
fn an_unknown_setting_ends_the_start_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "levle = \"info\"");
    let output = run(naru().args(["serve", "--config"]).arg(file(dir.path())));
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(
        text.contains("naru.toml:9:1: there is no setting log.levle\n  |\n9 | levle = \"info\"\n  | ^^^^^\nhint: did you mean log.level?\n"),
        "{text}"
    );

    let output = run(naru()
        .arg("serve")
        .env("NARU_SERVER__LISTNE", "x")
        .current_dir(&dir));
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("naru.toml:9")
            && stderr(&output).contains("did you mean NARU_SERVER__LISTEN?"),
        "the file of the directory is read, and all mistakes are told"
    );
    fs::remove_file(file(dir.path())).unwrap();
    let output = run(naru()
        .arg("serve")
        .env("NARU_SERVER__LISTNE", "x")
        .current_dir(&dir));
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("did you mean NARU_SERVER__LISTEN?"), "{text}");
}

#[test]
fn check_says_ok_or_ends_with_8_and_init_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let in_dir = |args: &[&str]| run(naru().args(args).current_dir(&dir));
    let written = in_dir(&["config", "init"]);
    assert_eq!(written.status.code(), Some(0), "{}", stderr(&written));
    let checked = in_dir(&["config", "check"]);
    assert_eq!(
        (checked.status.code(), checked.stdout),
        (Some(0), b"ok\n".to_vec())
    );
    let again = in_dir(&["config", "init"]);
    assert_eq!(again.status.code(), Some(4));
    assert!(stderr(&again).contains("naru.toml exists already"));

    fs::write(dir.path().join("bad.toml"), "[storage]\nreads_max = 0").unwrap();
    let bad = in_dir(&["config", "check", "bad.toml"]);
    assert_eq!(bad.status.code(), Some(8));
    let text = stderr(&bad);
    let expected = "bad.toml:2:13: storage.reads_max = 0 is not a whole number from 1 to 256";
    assert!(text.contains(expected), "{text}");
    let bad = in_dir(&["config", "check", "bad.toml", "--format", "json"]);
    let error: Value = serde_json::from_slice(&bad.stderr).unwrap();
    let problems = &error["error"]["problems"];
    assert!(
        problems[0]["message"].as_str().unwrap().starts_with(expected),
        "{error:#}"
    );
    assert_eq!(in_dir(&["config", "check", "none.toml"]).status.code(), Some(8));
}

#[test]
fn show_has_a_source_for_every_value() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("naru.toml"), "[storage]\nreads_max = 3").unwrap();
    let output = run(naru()
        .args(["config", "show", "--format", "json", "--listen", "127.0.0.1:7"])
        .env("NARU_LIMITS__TOPICS_MAX", "5")
        .current_dir(&dir));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let lines: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    for (key, value, source) in [
        ("storage.reads_max", "3", "file naru.toml:2"),
        ("limits.topics_max", "5", "env NARU_LIMITS__TOPICS_MAX"),
        ("server.listen", "127.0.0.1:7", "flag --listen"),
        ("server.http", "127.0.0.1:9641", "default"),
    ] {
        let line = lines.iter().find(|line| line["key"] == key).unwrap();
        assert_eq!((&line["value"], &line["source"]), (&value.into(), &source.into()));
    }
}
