//! The binary from outside: what it prints, where, and with which exit code.

mod records;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use crate::broker::{Broker, Log, http_get, naru, serve, signal};

impl Broker {
    /// A command against this broker.
    pub(crate) fn naru(&self, args: &[&str]) -> Command {
        let mut command = naru();
        command.arg("-s").arg(self.url()).args(args);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.naru(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs to success; stdout.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        succeeded(&self.run(args))
    }

    pub(crate) fn ok_json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    fn feed(&self, args: &[&str], input: impl Into<Vec<u8>>) -> Output {
        let mut child = self
            .naru(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.into());
        // A command that refuses early does not read all of it.
        let writer = thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// Produces to success; the report.
    pub(crate) fn produce(&self, args: &[&str], input: impl Into<Vec<u8>>) -> Value {
        serde_json::from_str(&succeeded(&self.feed(args, input))).unwrap()
    }
}

pub(crate) fn succeeded(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Checks the exit code; stderr.
pub(crate) fn failed(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
    stderr(output)
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn serve_is_ready_when_the_port_file_is_there_and_stops_cleanly_on_sigterm() {
    let mut broker = Broker::start();
    let ready = http_get(&broker.http, "/readyz?verbose");
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    assert!(ready.contains("journal files "), "{ready}");
    assert!(http_get(&broker.http, "/livez").ends_with("ok\n"));
    broker.signal(Signal::TERM);
    assert_eq!(broker.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_healthcheck_follows_readiness_and_ends_with_0_or_1() {
    let mut broker = Broker::start();
    let port_file = broker.dir.path().join("ports.json");
    let by_file = || {
        naru()
            .arg("healthcheck")
            .arg("--port-file")
            .arg(&port_file)
            .output()
            .unwrap()
    };
    let by_flag = |address: &str| naru().args(["healthcheck", "--http", address]).output().unwrap();
    assert!(succeeded(&by_file()).contains(&broker.http));
    succeeded(&by_flag(&broker.http));
    let by_name = naru()
        .arg("healthcheck")
        .env("NARU_SERVER__HTTP", &broker.http)
        .output();
    succeeded(&by_name.unwrap());
    // The native port tells HTTP clients where to go.
    assert!(failed(&by_flag(&broker.native), 1).contains("status 4"));
    broker.kill();
    assert!(failed(&by_file(), 1).contains("no answer"));
}

#[test]
fn the_cluster_says_who_and_how_it_is() {
    let mut broker = Broker::start();
    broker.ok(&["topic", "create", "orders", "-p", "3"]);
    let info = broker.ok_json(&["cluster", "info", "--format", "json"]);
    assert_eq!(info["native_address"], broker.native.as_str());
    assert_eq!(info["http_address"], broker.http.as_str());
    assert_eq!(
        (&info["engine"], &info["partitions"]),
        (&"local".into(), &3.into())
    );
    assert_eq!(info["limits"]["request_bytes_max"], 512 << 10);
    assert_eq!(info["limits"]["batch_bytes_max"], 508 << 10, "it fits a request");
    assert!(
        broker
            .ok(&["cluster", "info", "--format", "table"])
            .contains("request at most")
    );
    let first = broker.ok_json(&["cluster", "health", "--format", "json"]);
    assert_eq!(
        first["storage"]["recovery"]["clean"], true,
        "there was no crash before it"
    );
    broker.kill();
    broker.restart();
    let health = broker.ok_json(&["cluster", "health", "--format", "json"]);
    assert_eq!(
        (&health["healthy"], &health["problems"]),
        (&true.into(), &Value::Array(Vec::new()))
    );
    let recovery = &health["storage"]["recovery"];
    assert_eq!(
        (&recovery["clean"], &recovery["lost_groups"]),
        (&false.into(), &0.into())
    );
    assert!(health["storage"]["free_bytes"].as_u64().unwrap() > 0);
    let watched = broker.ok(&[
        "cluster",
        "health",
        "--watch",
        "--exit-when-healthy",
        "--format",
        "table",
    ]);
    assert!(watched.contains("HEALTHY     yes"), "{watched}");
}

#[test]
fn a_broker_to_play_with_has_topics_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = naru()
        .args(["dev", "--format", "ndjson"])
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut told)
        .unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    let server = format!("naru://{}", told["native"].as_str().unwrap());
    let orders = naru()
        .args(["-s", &server, "consume", "orders", "--exit-at-end", "-f", "%k\\n"])
        .output()
        .unwrap();
    assert_eq!(succeeded(&orders).lines().count(), 5);
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(entries(dir.path()), 0);
}

#[test]
fn error_codes_are_explained_without_a_broker() {
    let shown = succeeded(
        &naru()
            .args(["errors", "show", "storage_full", "--format", "json"])
            .output()
            .unwrap(),
    );
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&shown["code"], &shown["class"]),
        (&3.into(), &"RETRY_AFTER".into())
    );
    let csv = succeeded(
        &naru()
            .args(["errors", "list", "--format", "csv"])
            .output()
            .unwrap(),
    );
    assert!(csv.starts_with("cause,class,code,"), "{csv}");
    let unknown = naru()
        .args(["errors", "show", "DATA_CORUPT", "--format", "json"])
        .output()
        .unwrap();
    let error: Value = serde_json::from_str(&failed(&unknown, 3)).unwrap();
    assert_eq!(error["error"]["hint"], "did you mean 'DATA_CORRUPT'?");
}

/// Also what is wrong with the command line itself: a script that asked for JSON reads JSON.
#[test]
fn a_command_line_that_makes_no_sense_is_refused_in_the_form_it_asks_for() {
    let by_flag = |command: &mut Command| command.args(["--format", "json", "cluster", "helth"]).output();
    let by_name = |command: &mut Command| {
        let command = command.env("NARU_FORMAT", "ndjson");
        command.args(["topic", "create", "t", "-p", "0"]).output()
    };
    for (output, named) in [
        (by_flag(&mut naru()), "helth"),
        (by_name(&mut naru()), "--partitions"),
    ] {
        let text = failed(&output.unwrap(), 2);
        let error: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(error["error"]["code"], "USAGE", "{text}");
        assert!(
            error["error"]["message"].as_str().unwrap().contains(named),
            "{text}"
        );
    }
    assert!(failed(&naru().args(["cluster", "helth"]).output().unwrap(), 2).starts_with("error: "));
}

#[test]
fn every_shell_gets_a_completion_script() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = succeeded(&naru().args(["completion", shell]).output().unwrap());
        assert!(script.contains("healthcheck"), "{shell}");
    }
    failed(&naru().args(["completion", "tcl"]).output().unwrap(), 2);
}

#[test]
fn a_broker_in_memory_serves_without_touching_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = naru()
        .args([
            "serve",
            "--in-memory",
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
        ])
        .current_dir(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Log::of(child.stderr.take().unwrap()).wait_for("ready");
    assert_eq!(entries(dir.path()), 0);
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_second_broker_on_the_same_directory_is_refused_with_the_pid_of_the_first() {
    let broker = Broker::start();
    let second = serve(&broker.dir.path().join("data")).output().unwrap();
    let text = failed(&second, 4);
    assert!(
        text.contains(&format!("process id {}", broker.child.id())),
        "{text}"
    );
}

#[test]
fn addresses_that_others_can_reach_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let output = naru()
        .args(["serve", "--listen", "0.0.0.0:0", "--data-dir"])
        .arg(&data)
        .output()
        .unwrap();
    let text = failed(&output, 2);
    assert!(text.contains("--insecure-no-auth"), "{text}");
    assert!(!data.exists());
}

#[test]
fn a_directory_with_other_files_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
    let text = failed(&serve(dir.path()).output().unwrap(), 1);
    assert!(text.contains("thesis.txt"), "{text}");
    assert_eq!(entries(dir.path()), 1);
}

#[test]
fn help_lists_the_exit_codes_and_mistakes_are_usage_errors() {
    let text = succeeded(&naru().arg("--help").output().unwrap());
    for code in ["  0  success", "  7  partial", "130  interrupted"] {
        assert!(text.contains(code), "{text}");
    }
    let text = failed(&naru().arg("topci").output().unwrap(), 2);
    assert!(text.contains("topic"), "{text}");
    let text = failed(&naru().args(["consume", "x", "-f", "%q"]).output().unwrap(), 2);
    assert!(
        text.contains("column 1: '%q' is not known\n  %q\n  ^^\nhint: use"),
        "{text}"
    );
    for words in [
        &["consume", "x", "-f", "%q"][..],
        &["consume", "x", "--nonsense"],
        &["topci"],
        &["produce", "x", "-f", "%v"],
        &["produce", "x", "-p", "many"],
    ] {
        let output = naru().args(words).args(["--format", "json"]).output().unwrap();
        let error: Value = serde_json::from_str(&failed(&output, 2)).unwrap();
        let error = &error["error"];
        assert_eq!(error["code"], "USAGE", "{error}");
        assert!(
            error["message"].is_string() && error["hint"].is_string(),
            "{error}"
        );
    }
    let output = naru().args(["consume", "x", "--format", "csv"]).output().unwrap();
    assert!(failed(&output, 2).contains("hint: write the columns"));
    for command in ["consume", "produce"] {
        let text = succeeded(&naru().args([command, "--help"]).output().unwrap());
        assert!(
            text.contains("{base64}") && text.contains("value_base64"),
            "{text}"
        );
    }
}

#[test]
fn version_knows_crate_compiler_and_protocol() {
    let output = naru().args(["version", "--format", "json"]).output().unwrap();
    let version: Value = serde_json::from_str(&succeeded(&output)).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["protocol"]["lowest"], 1);
    assert!(version["rustc"].as_str().unwrap().starts_with("1."), "{version}");
}

#[test]
fn without_a_broker_commands_end_with_6_and_say_what_to_do() {
    // A port that was free a moment ago and that nobody listens on.
    let url = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("naru://{}", listener.local_addr().unwrap())
    };
    let output = naru().args(["-s", &url, "topic", "list"]).output().unwrap();
    let text = failed(&output, 6);
    assert!(text.contains("naru serve") && text.lines().count() <= 2, "{text}");
    assert!(output.stdout.is_empty());
    let output = naru()
        .args(["-s", &url, "topic", "list", "--format", "json"])
        .output()
        .unwrap();
    let error: Value = serde_json::from_str(&failed(&output, 6)).unwrap();
    assert_eq!(error["error"]["code"], "CANNOT_CONNECT");
    assert_eq!(error["error"]["retriable"], true);
}

#[test]
fn topics_are_created_listed_described_and_deleted() {
    let broker = Broker::start();
    let create = [
        "topic",
        "create",
        "orders",
        "-p",
        "6",
        "-c",
        "max.message.bytes=2048",
    ];
    broker.ok(&create);
    let text = failed(&broker.run(&create), 4);
    assert!(
        text.contains("--if-not-exists") && text.contains("topic describe orders"),
        "{text}"
    );
    broker.ok(&[&create[..], &["--if-not-exists"]].concat());
    failed(&broker.run(&["topic", "create", "a/b"]), 2);

    let described = broker.ok_json(&["topic", "describe", "orders", "--format", "json"]);
    assert_eq!(described["name"], "orders");
    assert_eq!(described["partitions"].as_array().unwrap().len(), 6);
    let configs = described["configs"].as_array().unwrap();
    let limit = configs.iter().find(|c| c["name"] == "max.message.bytes").unwrap();
    assert_eq!(limit["value"], "2048");
    let listed = broker.ok(&["topic", "list", "--match", "ord*", "--format", "table"]);
    assert!(
        listed.starts_with("TOPIC") && listed.contains("orders"),
        "{listed}"
    );
    let text = failed(&broker.run(&["topic", "describe", "ordres"]), 3);
    assert!(text.contains("did you mean 'orders'?"), "{text}");

    let text = failed(&broker.run(&["topic", "delete", "orders"]), 2);
    assert!(text.contains("-y"), "{text}");
    broker.ok(&["topic", "delete", "orders", "-y"]);
    assert_eq!(broker.ok(&["topic", "list"]), "");
    let text = failed(&broker.run(&["topic", "delete", "orders", "-y"]), 3);
    assert!(text.contains("hint: 'naru topic list'"), "{text}");
    failed(&broker.run(&["topic", "describe", "orders"]), 3);
}

#[test]
fn lines_go_in_and_come_out_as_they_were_and_survive_a_kill() {
    let mut broker = Broker::start();
    broker.ok(&["topic", "create", "lines", "-p", "1"]);
    let report = broker.produce(&["produce", "lines"], "one\n\nthree\r\nlast without newline");
    assert_eq!(
        (&report["acknowledged"], &report["acks"]),
        (&4.into(), &"fsync".into())
    );
    let partition = &report["partitions"][0];
    assert_eq!(
        (&partition["first_offset"], &partition["last_offset"]),
        (&0.into(), &3.into())
    );

    broker.kill();
    broker.restart();
    let read = |args: &[&str]| broker.ok(&[&["consume", "lines", "--exit-at-end"], args].concat());
    assert_eq!(
        read(&["-o", "start", "-f", "%v\\n"]),
        "one\n\nthree\r\nlast without newline\n"
    );
    assert_eq!(
        read(&["-o", "1", "-n", "2", "-f", "%p/%o=%v;"]),
        "0/1=;0/2=three\r;"
    );
    assert_eq!(read(&["-o", "end", "-f", "%v"]), "");
    assert_eq!(read(&["-o", "99", "-f", "%v"]), "");
    assert_eq!(read(&["-o", "-2", "-f", "%o;"]), "2;3;");
    assert_eq!(read(&["-o", "+3", "-f", "%o;"]), "3;");
    assert_eq!(read(&["-o", "@-15m", "-f", "%o;"]), "0;1;2;3;");
    assert_eq!(read(&["-o", "@-15m:-10m", "-f", "%o;"]), "");
    assert_eq!(read(&["-o", "@+1h", "-f", "%o;"]), "");
    // A range with an end needs no --exit-at-end.
    assert_eq!(broker.ok(&["consume", "lines", "-o", "1:3", "-f", "%o;"]), "1;2;");
    assert_eq!(
        broker.ok(&["consume", "lines", "-o", ":end", "-f", "%o;"]),
        "0;1;2;3;"
    );
    let bad = failed(&broker.run(&["consume", "lines", "-o", "@soon"]), 2);
    assert!(bad.contains("RFC 3339"), "{bad}");
    let at = |time: &str| {
        broker.ok_json(&["topic", "offsets", "lines", "--at", time, "--format", "json"])[0].clone()
    };
    assert_eq!(
        (&at("-1h")["at_offset"], &at("+1h")["at_offset"]),
        (&0.into(), &4.into())
    );
    assert!(at("-1h")["at_timestamp"].is_string() && at("+1h")["at_timestamp"].is_null());
    assert_eq!(at("2001-01-01")["high_watermark"], 4);
    // The log goes on where it was.
    let report = broker.produce(&["produce", "lines"], "more\n");
    assert_eq!(report["partitions"][0]["first_offset"], 4);
}

#[test]
fn keys_headers_and_bytes_that_are_no_text_come_back() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "t", "-p", "3"]);
    let args = [
        "produce",
        "t",
        "--key-delimiter",
        ":",
        "-H",
        "source:shell",
        "-p",
        "2",
        "--acks",
        "memory",
    ];
    let report = broker.produce(&args, b"k:a:b\n\xff\xfe\n");
    assert_eq!(report["acks"], "memory");
    assert_eq!(report["partitions"][0]["partition"], 2);
    // Acknowledged in memory means visible a moment later: the reader waits for two records instead of for the end.
    let text = broker.ok(&["consume", "t", "-p", "2", "-n", "2"]);
    let records: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        (&records[0]["key"], &records[0]["value"]),
        (&"k".into(), &"a:b".into())
    );
    assert_eq!(records[0]["headers"][0]["key"], "source");
    assert_eq!(
        (&records[1]["key"], &records[1]["value_base64"]),
        (&Value::Null, &"//4=".into())
    );
}

#[test]
fn all_partitions_are_read_and_records_of_a_key_keep_their_order() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "many", "-p", "6"]);
    let input: String = (0..3_000).map(|n| format!("key-{}={n}\n", n % 50)).collect();
    let report = broker.produce(&["produce", "many", "--key-delimiter", "="], input);
    assert_eq!(report["acknowledged"], 3_000);
    let text = broker.ok(&["consume", "many", "--exit-at-end", "-f", "%k %v\\n"]);
    let mut seen: Vec<u32> = Vec::new();
    let mut newest = BTreeMap::new();
    for line in text.lines() {
        let (key, number) = line.split_once(' ').unwrap();
        let number = number.parse().unwrap();
        seen.push(number);
        assert!(
            newest
                .insert(key.to_owned(), number)
                .is_none_or(|before| before < number)
        );
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..3_000).collect::<Vec<_>>());
}

#[test]
fn a_reader_that_goes_away_ends_consume_quietly() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "long"]);
    let line = "x".repeat(100) + "\n";
    broker.produce(&["produce", "long"], line.repeat(5_000));
    let mut child = broker
        .naru(&["consume", "long", "-f", "%v\\n"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    assert_eq!(first, line);
    drop(out);
    let output = child.wait_with_output().unwrap();
    assert_eq!(failed(&output, 0), "");
}

#[test]
fn ctrl_c_ends_a_waiting_consumer_with_130() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "quiet"]);
    broker.produce(&["produce", "quiet"], "x\n");
    let mut child = broker
        .naru(&["consume", "quiet", "-f", "%v\\n"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The record shows that the consumer is up and waits for more, and that what it has is flushed.
    let mut first = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut first).unwrap();
    assert_eq!(first, "x\n");
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_record_above_the_topics_limit_is_a_partial_failure_and_names_its_line() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "small", "-c", "max.message.bytes=1024"]);
    let input = format!("fits\n{}\nafter\n", "x".repeat(4096));
    let output = broker.feed(&["produce", "small"], input);
    let text = failed(&output, 7);
    assert!(text.contains("line 2"), "{text}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["acknowledged"], 1);
    assert_eq!(
        broker.ok(&["consume", "small", "--exit-at-end", "-f", "%v\\n"]),
        "fits\n"
    );
}

#[test]
fn unknown_topics_and_partitions_are_refused_before_anything_is_read() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "orders"]);
    let text = failed(&broker.feed(&["produce", "order"], "x\n"), 3);
    assert!(text.contains("did you mean 'orders'?"), "{text}");
    failed(&broker.feed(&["produce", "orders", "-p", "7"], "x\n"), 3);
    failed(&broker.run(&["consume", "orders", "-p", "7"]), 3);
}

#[test]
fn bench_produce_prints_one_json_object_and_makes_its_topic() {
    let broker = Broker::start();
    let args = "bench produce --topic bench --records 2503 --size 200 --batch-records 100 --in-flight 3 \
                --connections 2 --partitions 4 --acks fsync --json";
    let text = broker.ok(&args.split_whitespace().collect::<Vec<_>>());
    assert_eq!(text.lines().count(), 1, "{text}");
    let result: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&result["records"], &result["errors"]), (&2503.into(), &0.into()));
    for field in ["records_per_s", "bytes_per_s", "p50_us", "p99_us", "p999_us"] {
        assert!(result[field].as_f64().unwrap() > 0.0, "{field}: {text}");
    }
    let described = broker.ok_json(&["topic", "describe", "bench", "--format", "json"]);
    assert_eq!(described["records"], 2503);
    assert_eq!(described["partitions"].as_array().unwrap().len(), 4);
}

#[test]
fn bench_consume_counts_every_record_once_for_each_connection() {
    let broker = Broker::start();
    let produce =
        "bench produce --topic bench --records 2503 --size 200 --batch-records 100 --partitions 3 --json";
    broker.ok(&produce.split_whitespace().collect::<Vec<_>>());
    let consume = "bench consume --topic bench --connections 2 --fetch-bytes 50000 --json";
    let result = broker.ok_json(&consume.split_whitespace().collect::<Vec<_>>());
    assert_eq!(result["records"], 2 * 2503);
    assert!(result["bytes"].as_u64().unwrap() > 2 * 2503 * 200, "{result}");
    for field in ["records_per_s", "bytes_per_s"] {
        assert!(result[field].as_f64().unwrap() > 0.0, "{field}: {result}");
    }
    failed(&broker.run(&["bench", "consume", "--topic", "bnch"]), 3);
}

#[test]
fn bench_e2e_sees_every_acknowledged_record_once_and_in_order() {
    let broker = Broker::start();
    let args = "bench e2e --topic latency --rate 2000 --duration 250ms --size 100 --json";
    // A second run on the same topic is not taken for the first.
    for _ in 0..2 {
        let result = broker.ok_json(&args.split_whitespace().collect::<Vec<_>>());
        for field in ["records", "acknowledged", "received"] {
            assert_eq!(result[field], 500, "{field}: {result}");
        }
        for field in ["errors", "lost", "duplicated", "reordered"] {
            assert_eq!(result[field], 0, "{field}: {result}");
        }
        for side in ["ack_us", "e2e_us"] {
            let at = |share: &str| result[side][share].as_u64().unwrap();
            assert!(
                0 < at("p50") && at("p50") <= at("p99") && at("p99") <= at("max"),
                "{result}"
            );
        }
        // Times count from when a record was due, so the command's own lateness is part of them.
        let most = |side: &str| result[side]["max"].as_u64().unwrap();
        assert!(most("late_us") <= most("ack_us"), "{result}");
    }
    let refused = "bench e2e --topic latency --rate 1 --duration 1ms";
    failed(&broker.run(&refused.split_whitespace().collect::<Vec<_>>()), 2);
}

#[test]
fn the_demo_agrees_on_a_file_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (tmp, file) = (dir.path().join("tmp"), dir.path().join("text"));
    let surroundings = dir.path().join("surroundings");
    fs::create_dir(&tmp).unwrap();
    fs::create_dir(&surroundings).unwrap();
    fs::write(surroundings.join("naru.toml"), "[storage]\nreads_max = 0").unwrap();
    let text: String = (0..20_000).map(|n| format!("line {n} of the text\n")).collect();
    let tail: &[u8] = b"\n\xff\xfe no text\nno newline";
    fs::write(&file, [text.as_bytes(), tail].concat()).unwrap();
    let output = naru()
        .args(["demo", "--format", "json"])
        .arg(&file)
        .env("TMPDIR", &tmp)
        // Neither variables nor a file of the surroundings concern it.
        .env("NARU_STORAGE__READS_MAX", "0")
        .current_dir(&surroundings)
        .output()
        .unwrap();
    let report: Value = serde_json::from_str(&succeeded(&output)).unwrap();
    assert_eq!(report["agrees"], true);
    assert_eq!(report["records"]["acknowledged"], 20_003);
    assert_eq!(report["records"]["found"], 20_003);
    // The last quarter is sent only after the kill.
    let at_kill = report["acknowledged_at_kill"].as_u64().unwrap();
    assert!((10_001..=15_003).contains(&at_kill), "{at_kill}");
    assert_eq!(entries(&tmp), 0);
}

#[test]
fn an_interrupted_demo_removes_its_broker_and_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = naru()
        .arg("demo")
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut told = BufReader::new(child.stderr.take().unwrap());
    told.read_line(&mut first).unwrap();
    // "started a broker in DIR, process id PID"
    assert_eq!(entries(dir.path()), 1);
    let pid = first.trim().rsplit(' ').next().unwrap().to_owned();
    let proc = Path::new("/proc").join(&pid);
    assert!(proc.exists(), "{first}");
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(entries(dir.path()), 0);
    assert!(!proc.exists(), "process {pid} is left");
}

#[test]
fn a_topic_is_trimmed_only_when_told_to_and_stays_so() {
    let mut broker = Broker::start();
    broker.ok(&["topic", "create", "orders", "-p", "2"]);
    broker.produce(&["produce", "orders", "-p", "0"], "a\nb\nc\nd\n");
    let plan = broker.ok_json(&[
        "--format",
        "json",
        "topic",
        "trim",
        "orders",
        "--to-offset",
        "3",
        "-p",
        "0",
    ]);
    assert_eq!((&plan["records"], &plan["executed"]), (&3.into(), &false.into()));
    let start = |broker: &Broker| {
        let topic = broker.ok_json(&["--format", "json", "topic", "describe", "orders"]);
        topic["partitions"][0]["log_start_offset"].as_i64().unwrap()
    };
    assert_eq!(start(&broker), 0, "a plan changes nothing");
    let refused = broker.run(&[
        "topic",
        "trim",
        "orders",
        "--to-offset",
        "5",
        "-p",
        "0",
        "--execute",
    ]);
    assert!(
        failed(&refused, 3).contains("above the end of orders/0, which is 4"),
        "{refused:?}"
    );
    failed(&broker.run(&["topic", "trim", "orders", "--execute"]), 2);
    failed(
        &broker.run(&["topic", "trim", "orders", "--to-end", "-p", "7"]),
        3,
    );
    broker.ok(&[
        "topic",
        "trim",
        "orders",
        "--to-offset",
        "3",
        "-p",
        "0",
        "--execute",
    ]);
    assert_eq!(start(&broker), 3);
    broker.kill();
    broker.restart();
    assert_eq!(start(&broker), 3);
    let left = broker.ok(&["consume", "orders", "-o", "start", "--exit-at-end", "-f", "%v\\n"]);
    assert_eq!(left, "d\n");
    broker.ok(&["topic", "trim", "orders", "--to-end", "--execute"]);
    assert_eq!(
        broker.ok(&["consume", "orders", "-o", "start", "--exit-at-end", "-f", "%v\\n"]),
        ""
    );
    let next = broker.produce(&["produce", "orders", "-p", "0"], "e\n");
    assert_eq!(next["partitions"][0]["first_offset"], 4);
}
