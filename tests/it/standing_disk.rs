//! A disk that stands still for longer than the broker calls itself ready, under load: everybody can see it, nothing is
//! acknowledged before it goes on, what is in memory is read, nobody loses his place in a group, and nothing is lost or doubled.
//! Only built with the feature that gives the broker such a disk.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use naru::client::{
    AutoCommit, Client, CreateTopicOptions, GroupConsumer, GroupHandle, GroupRecord, ProducerRecord, Reset,
    Start,
};
use naru::history::FaultKind;
use naru::model::{GroupState, Offset};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::broker::{Broker, Setup, http_get};
use crate::load::{Load, TOPIC};
use crate::peer::{PATIENCE, now};

/// From here on the broker is not ready: `docs/guarantees.md`.
const READY_FOR: Duration = Duration::from_secs(10);
const GROUP: &str = "members";
/// Shorter than the disk stands still.
const SETTINGS: [(&str, &str); 2] = [("session.timeout.ms", "4000"), ("heartbeat.interval.ms", "1000")];
/// A topic beside that of the load.
const PROBE: &str = "probe";
/// Read while the disk stands still.
const RECORDS: usize = 50;

async fn page(broker: &Broker, path: &'static str) -> String {
    let address = broker.http.clone();
    let asked = tokio::task::spawn_blocking(move || http_get(&address, path));
    asked.await.unwrap()
}

async fn metric(broker: &Broker, name: &str) -> f64 {
    let page = page(broker, "/metrics").await;
    let line = page.lines().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{page}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Asks for the page until it begins so.
async fn readyz(broker: &Broker, status: &str) -> String {
    let wait = async {
        loop {
            let page = page(broker, "/readyz?verbose").await;
            if page.starts_with(&format!("HTTP/1.1 {status}")) {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let said = tokio::time::timeout(PATIENCE, wait).await;
    said.unwrap_or_else(|_| panic!("/readyz never says {status}"))
}

async fn member(broker: &Broker) -> GroupConsumer {
    let client = broker.client().await;
    let builder = client.group_consumer(GROUP).topics([TOPIC]);
    let builder = builder.reset(Reset::Earliest).auto_commit(AutoCommit::Off);
    builder.build().await.unwrap()
}

/// Reads the first records of a partition.
async fn read(broker: &Broker) {
    let client = broker.client().await;
    let mut reader = client.reader(TOPIC, 0, Start::Earliest).build().await.unwrap();
    for _ in 0..RECORDS {
        reader.next().await.unwrap().unwrap();
    }
}

/// Stops the disk until what is returned is dropped; somebody may just be on his way to it.
async fn stop_disk(gate: &Path) -> File {
    let gate = File::open(gate).unwrap();
    let locked = tokio::task::spawn_blocking(move || gate.lock().map(|()| gate));
    locked.await.unwrap().unwrap()
}

/// What was asked while the disk stood still: when each was answered.
type Answers = JoinSet<Instant>;

/// Waits until everybody in the group holds what he is to hold.
async fn at_rest(client: &Client) {
    let begun = now();
    loop {
        let group = client.describe_group(GROUP).await.unwrap();
        if group.state == GroupState::Stable && group.members.iter().all(|member| !member.assigned.is_empty())
        {
            return assert_eq!(group.members.len(), 2);
        }
        assert!(begun.elapsed() < PATIENCE, "{group:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the two members of the group have read, to be committed.
async fn next_of(members: &mut [GroupConsumer; 2]) -> Vec<(GroupHandle, GroupRecord)> {
    let mut read = Vec::new();
    for member in members {
        let record = member.next().await.unwrap().unwrap();
        read.push((member.handle(), record));
    }
    read
}

/// Where the group is, in any partition.
async fn committed(client: &Client) -> Vec<Offset> {
    let committed = client.fetch_all_offsets(GROUP).await.unwrap().into_iter();
    let mut committed: Vec<_> = committed.map(|at| at.committed.unwrap().offset).collect();
    committed.sort_unstable();
    committed
}

/// While the disk stands still: everybody can see it, and what is in memory is read. Asks for the places of the group, which are
/// under way to the disk.
async fn look_at(broker: &Broker, load: &Load, begun: Instant, answers: &mut Answers) {
    while metric(broker, "naru_disk_stall_seconds").await < 1.0 {
        assert!(begun.elapsed() < PATIENCE, "the disk does not stand still");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let client = broker.client().await;
    answers.spawn(async move {
        committed(&client).await;
        now()
    });
    let read = tokio::time::timeout(READY_FOR / 2, read(broker)).await;
    read.expect("what is in memory is read at once");
    let acknowledged = load.count();
    let said = readyz(broker, "503").await;
    assert!(begun.elapsed() >= READY_FOR, "red after {:?}", begun.elapsed());
    assert!(said.contains("[-]disk failed: the disk stands still"), "{said}");
    let alive = page(broker, "/livez").await;
    assert!(
        alive.starts_with("HTTP/1.1 200"),
        "another start would help nobody: {alive}"
    );
    assert_eq!(
        load.count(),
        acknowledged,
        "acknowledged while the disk stood still"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standing_disk_is_seen_and_nothing_is_acknowledged_early_lost_or_doubled() {
    let gate = tempfile::NamedTempFile::new().unwrap();
    let mut broker = Setup {
        gate: Some(gate.path().to_owned()),
        ..Setup::default()
    }
    .start();
    let client = broker.client().await;
    client
        .create_topic(PROBE, CreateTopicOptions::default())
        .await
        .unwrap();
    let settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    client.create_group(GROUP, settings.to_vec()).await.unwrap();
    let producer = client.producer().build().await.unwrap();
    let probe = ProducerRecord::to(PROBE).value("v");
    producer.send(probe.clone()).await.unwrap();
    let load = Load::start(&broker).await;
    while load.count() < 2_000 {
        load.more(1).await;
    }
    let mut members = [member(&broker).await, member(&broker).await];
    at_rest(&client).await;
    let read = next_of(&mut members).await;

    load.fault(FaultKind::Error);
    let begun = now();
    let standing = stop_disk(gate.path()).await;
    let mut answers = Answers::new();
    answers.spawn(async move {
        producer.send(probe).await.unwrap();
        now()
    });
    let mut expected = Vec::new();
    for (handle, record) in read {
        expected.push(record.offset.next());
        answers.spawn(async move {
            handle.commit_through(&record).await.unwrap();
            now()
        });
    }
    expected.sort_unstable();
    look_at(&broker, &load, begun, &mut answers).await;
    let released = now();
    drop(standing);
    readyz(&broker, "200").await;
    load.over(FaultKind::Error);

    for answered in answers.join_all().await {
        assert!(answered >= released, "{:?} too early", released - answered);
    }
    assert!(metric(&broker, "naru_disk_stalls_total").await >= 1.0);
    broker.log.wait_where(|line| {
        let took = line["duration_ms"].as_u64().map(Duration::from_millis);
        line["event"] == "disk_stalled" && took >= Some(READY_FOR)
    });
    assert_eq!(broker.log.event("group_member_expired"), None, "they were well");
    for member in members {
        member.close().await.unwrap();
    }
    assert_eq!(committed(&client).await, expected);
    // It goes on by itself.
    load.more(500).await;
    let records = load.finish(&mut broker).await.produced;
    let stall_ms = (released - begun).as_millis();
    eprintln!(
        "figures standing_disk: stalls=1 stall_ms={stall_ms} records={records} seconds={}",
        begun.elapsed().as_secs()
    );
}
