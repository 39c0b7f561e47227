//! `/metrics` of a real broker, and the page that explains it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use naru::client::{CreateTopicOptions, OffsetToCommit, ProducerRecord, Reset, Start};
use naru::model::Offset;

use crate::broker::{Broker, http_get};
use crate::peer::until;

/// The body of a page.
fn page_of(broker: &Broker, path: &str) -> String {
    let answer = http_get(&broker.http, path);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    body.to_owned()
}

/// The lines of a page that are samples, by series.
fn samples(page: &str) -> BTreeMap<&str, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series, value.parse().unwrap())
        })
        .collect()
}

/// The families of a page, from its `# TYPE` lines.
fn families(page: &str) -> BTreeMap<String, String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            (name.to_owned(), kind.to_owned())
        })
        .collect()
}

/// The families that the document explains: name, type and labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let mut cells = row.split('|').map(str::trim);
        let name = cells.next().unwrap().trim_end_matches('`').to_owned();
        let kind = cells.next().unwrap().to_owned();
        let labels = cells.next().unwrap().split(',').map(str::trim);
        let labels = labels.filter(|label| !label.is_empty()).map(str::to_owned);
        (name, (kind, labels.collect()))
    })
    .collect()
}

fn labels(page: &str, family: &str) -> BTreeSet<String> {
    let own = samples(page).into_keys().filter_map(|series| {
        let rest = series.strip_prefix(family)?;
        let rest = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| rest.strip_prefix(end))
            .unwrap_or(rest);
        rest.strip_prefix('{')?.strip_suffix('}')
    });
    own.flat_map(|labels| labels.split(','))
        .filter_map(|label| label.split_once('=').map(|(name, _)| name.to_owned()))
        .filter(|name| name != "le")
        .collect()
}

/// A broker on which everything has happened once that makes a series.
async fn busy() -> Broker {
    let broker = Broker::start();
    let client = broker.client().await;
    let options = CreateTopicOptions::default();
    client.create_topic("orders", options).await.unwrap();
    let producer = client.producer().build().await.unwrap();
    for n in 0..100 {
        let record = ProducerRecord::to("orders").value(format!("{n}"));
        producer.send(record).await.unwrap();
    }
    let mut reader = client.reader("orders", 0, Start::Earliest).build().await.unwrap();
    for _ in 0..100 {
        reader.next().await.unwrap().unwrap();
    }
    client.describe_topic("nothing").await.unwrap_err();
    let place = OffsetToCommit::new("orders", 0, Offset::new(60).unwrap());
    client.commit_offsets("billing", vec![place]).await.unwrap();
    // A member, so that there is something to say of members.
    let mail = client
        .group_consumer("mail")
        .topics(["orders"])
        .reset(Reset::Latest);
    mail.build().await.unwrap().close().await.unwrap();
    broker
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_counted() {
    let broker = busy().await;
    let page = page_of(&broker, "/metrics");
    let samples = samples(&page);
    for (series, expected) in [
        ("naru_records_produced_total{topic=\"orders\"}", 100.0),
        ("naru_records_fetched_total{topic=\"orders\"}", 100.0),
        ("naru_topic_records{topic=\"orders\"}", 100.0),
        ("naru_requests_total{api=\"create_topic\",outcome=\"ok\"}", 1.0),
        (
            "naru_requests_total{api=\"describe_topic\",outcome=\"client_error\"}",
            1.0,
        ),
        (
            "naru_request_errors_total{code=\"UNKNOWN_TOPIC_OR_PARTITION\"}",
            1.0,
        ),
        ("naru_produce_ack_duration_seconds_count{acks=\"fsync\"}", 100.0),
        ("naru_groups", 2.0),
        // Its only member has left.
        ("naru_group_members{group=\"mail\"}", 0.0),
        ("naru_group_epoch{group=\"mail\"}", 2.0),
        ("naru_group_lag_records{group=\"billing\",topic=\"orders\"}", 40.0),
        ("naru_group_lag_max_records{group=\"billing\"}", 40.0),
        ("naru_storage_state", 0.0),
        ("naru_last_shutdown_clean", 1.0),
        ("naru_segment_rolls_total{reason=\"size\"}", 0.0),
        ("naru_ready{check=\"storage\"}", 1.0),
    ] {
        assert_eq!(samples.get(series), Some(&expected), "{series}\n{page}");
    }
    let at_least = |series, least| {
        let found = samples.get(series).copied();
        assert!(found >= Some(least), "{series}: {found:?}\n{page}");
    };
    at_least("naru_log_events_total{level=\"info\"}", 1.0);
    at_least("naru_fsync_duration_seconds_count{file=\"journal\"}", 1.0);
    at_least("naru_fetch_source_bytes_total{source=\"memory\"}", 1_000.0);
    at_least("naru_commit_batch_records_sum", 100.0);
    at_least("naru_disk_free_bytes{path=\"data\"}", 1.0);
    let partitions = page_of(&broker, "/metrics/partitions?topic=ord*");
    let high_watermark = "naru_partition_high_watermark{topic=\"orders\",partition=\"0\"} 100\n";
    assert!(partitions.contains(high_watermark), "{partitions}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_explains_what_is_shown_and_nothing_else() {
    let broker = busy().await;
    let page = page_of(&broker, "/metrics") + &page_of(&broker, "/metrics/partitions");
    let documented = documented();
    let shown = families(&page);
    for (name, kind) in &shown {
        let Some((kind_there, labels_there)) = documented.get(name) else {
            panic!("{name} is not in docs/metrics.md");
        };
        assert_eq!(kind, kind_there, "{name}");
        assert_eq!(&labels(&page, name), labels_there, "{name}");
    }
    // Shown only once something has gone wrong that did not here, or at the end of the first scrub.
    let seldom = [
        "naru_bad_input_total",
        "naru_produce_rejected_total",
        "naru_scrub_last_pass_timestamp_seconds",
    ];
    for name in documented.keys().filter(|name| !seldom.contains(&name.as_str())) {
        assert!(
            shown.contains_key(name),
            "docs/metrics.md explains {name}, which is not shown"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_connection_that_went_away_are_in_flight_no_more() {
    let broker = Broker::start();
    let client = broker.client().await;
    client
        .create_topic("t", CreateTopicOptions::default())
        .await
        .unwrap();
    let mut reader = client.reader("t", 0, Start::Earliest).build().await.unwrap();
    // A long poll is on its way now; it is never answered.
    assert!(
        tokio::time::timeout(std::time::Duration::from_millis(50), reader.next())
            .await
            .is_err()
    );
    drop(reader);
    drop(client);
    until("nothing is in flight", || {
        let page = page_of(&broker, "/metrics");
        samples(&page)["naru_requests_in_flight"] == 0.0
    })
    .await;
}
