//! Records that go out with `consume -f` and come back with `produce -f`.

use serde_json::Value;

use super::{failed, stderr};
use crate::broker::Broker;

/// Records with everything that can get lost on the way: nulls, empty ones, bytes, separators, headers that repeat.
const ODD_RECORDS: &str = r#"{"key":null,"value":null,"headers":[]}
{"key":"","value":"","headers":[{"key":"a","value":null},{"key":"a","value":""}]}
{"key_base64":"/wA=","value_base64":"gAoJ","headers":[{"key":"b","value_base64":"/w=="}]}
{"key":"k","value":{"id": 1.50, "id":[]},"timestamp":"2026-01-02T03:04:05.678Z"}
{"key":"k","value":"12","timestamp":1000}
{"key":"tab\there","value":"{\n}"}
"#;

#[test]
fn a_topic_is_copied_by_json_lines_and_by_formats_with_lengths() {
    let broker = Broker::start();
    for topic in ["odd", "json", "lengths", "quoted"] {
        broker.ok(&["topic", "create", topic, "-p", "2"]);
    }
    let report = broker.produce(&["produce", "odd", "-f", "json"], ODD_RECORDS);
    assert_eq!(report["acknowledged"], 6);
    let read = |topic: &str, format: &str| {
        let args = ["consume", topic, "--exit-at-end", "-f", format];
        let output = broker.run(&args);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        output.stdout
    };
    let sorted = |topic: &str| {
        let text = String::from_utf8(read(topic, "json")).unwrap();
        let head = format!("{{\"topic\":\"{topic}\",");
        let mut lines: Vec<String> = text
            .lines()
            .map(|line| line.strip_prefix(&head).unwrap().to_owned())
            .collect();
        lines.sort();
        lines
    };
    let original = sorted("odd");
    assert_eq!(original.len(), 6);
    assert!(
        original
            .iter()
            .any(|line| line.contains("\"value\":{\"id\": 1.50, \"id\":[]}"))
    );
    // Records of a partition come in their order, so each has the offset that it had.
    broker.produce(
        &["produce", "json", "-f", "json", "--keep-partitions"],
        read("odd", "json"),
    );
    assert_eq!(sorted("json"), original);
    for (topic, format) in [
        (
            "lengths",
            "%p{big32}%d{big64}%K{big32}%k%V{big32}%v%H{big8}%h{%K{big8}%k%V{big16}%v}",
        ),
        (
            "quoted",
            "%p %d{rfc3339} %k{json} %v{json} %H %h{%k{json}=%v{json},}\\n",
        ),
    ] {
        broker.produce(&["produce", topic, "-f", format], read("odd", format));
        assert_eq!(sorted(topic), original, "{format}");
    }
}

#[test]
fn bad_input_is_told_with_its_place_and_what_is_before_it_is_sent() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "t"]);
    let output = broker.feed(
        &["produce", "t", "-f", "json", "--format", "json"],
        "{\"value\":1}\n{\"value\":\n{\"value\":3}\n",
    );
    let error: Value = serde_json::from_str(&failed(&output, 7)).unwrap();
    assert_eq!(error["error"]["code"], "BAD_INPUT");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("line 2, column 9: EOF"), "{message}");
    assert!(error["error"]["hint"].as_str().unwrap().contains("tail -n +2"));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["acknowledged"], 1);
    let text = failed(&broker.feed(&["produce", "t", "-f", "%k:%v\\n"], "no colon\n"), 2);
    assert!(
        text.contains("record 1, line 1, column 9 (byte 8): expected ':'"),
        "{text}"
    );
    let text = failed(&broker.feed(&["produce", "t", "-f", "%k%v\\n"], "x\n"), 2);
    assert!(
        text.contains("nothing says where") && text.contains("\n  ^^^^\n"),
        "{text}"
    );
    let value = "x".repeat(300);
    broker.produce(&["produce", "t"], format!("{value}\n"));
    let output = broker.run(&["consume", "t", "--exit-at-end", "-f", "%V{big8}%v"]);
    let text = failed(&output, 7);
    assert!(
        text.contains("t/0 @1: 300 does not fit into '%V{big8}'") && text.contains("-o 1"),
        "{text}"
    );
    assert_eq!(output.stdout, b"\x011");
}
