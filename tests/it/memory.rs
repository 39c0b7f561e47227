//! Topics in memory and brokers in memory, from outside: what they hold, what a restart leaves, and what is on the disk.

use std::process::{Child, Stdio};

use naru::client::{Client, CreateTopicOptions, Producer, ProducerRecord, Start};
use naru::model::{Acks, ErrorCode, MemoryHealth, Offset};

use crate::broker::{Broker, Log, http_get, naru};

/// A broker in memory; killed at the end.
struct InMemory {
    child: Child,
    dir: tempfile::TempDir,
    native: String,
    http: String,
}

impl InMemory {
    fn start(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = naru()
            .args([
                "serve",
                "--in-memory",
                "--log-level",
                "info",
                "--log-format",
                "json",
            ])
            .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .args(more)
            .current_dir(dir.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let ready = Log::of(child.stderr.take().unwrap()).wait_for("ready");
        assert_eq!(ready.get("data_dir"), None, "there is none");
        let address = |name: &str| ready[name].as_str().unwrap().to_owned();
        let (native, http) = (address("native"), address("http"));
        Self {
            child,
            dir,
            native,
            http,
        }
    }

    /// A metric without labels.
    fn metric(&self, name: &str) -> u64 {
        let page = http_get(&self.http, "/metrics");
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap().trim().parse().unwrap()
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends so many records of a kilobyte, and looks at what they were acknowledged with.
async fn send(producer: &Producer, topic: &str, records: usize, acks: Acks) {
    let mut tickets = Vec::new();
    for _ in 0..records {
        let record = ProducerRecord::to(topic).value(vec![b'x'; 1000]);
        tickets.push(producer.enqueue(record).await.unwrap());
    }
    for ticket in tickets {
        assert_eq!(ticket.await.unwrap().acks, acks);
    }
}

/// The error of reading at an offset that is not there.
async fn out_of_range(client: &Client, topic: &str, offset: i64) -> naru::client::BrokerError {
    let start = Start::Offset(Offset::new(offset).unwrap());
    let mut reader = client.reader(topic, 0, start).build().await.unwrap();
    match reader.next().await.unwrap() {
        Err(naru::client::Error::Broker(error)) => {
            assert_eq!(error.code, Some(ErrorCode::OffsetOutOfRange), "{error:?}");
            *error
        }
        other => panic!("{other:?}"),
    }
}

/// What a broker in memory says that it holds.
async fn memory(client: &Client) -> MemoryHealth {
    let storage = client.describe_cluster().await.unwrap().storage;
    assert_eq!(storage.engine, "memory");
    storage.memory.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_in_memory_takes_three_times_what_it_may_hold_and_writes_no_file() {
    const LIMIT: u64 = 16 << 20;
    const RECORDS: usize = 48 << 10;
    let broker = InMemory::start(&["--set", "storage.memory_bytes_max=16MiB"]);
    let client = Client::connect(&format!("naru://{}", broker.native))
        .await
        .unwrap();
    client
        .create_topic("t", CreateTopicOptions::default())
        .await
        .unwrap();
    let producer = client.producer().build().await.unwrap();
    for _ in 0..8 {
        send(&producer, "t", RECORDS / 8, Acks::Memory).await;
        let held = memory(&client).await.held_bytes;
        assert!(held <= LIMIT, "{held} bytes are held");
    }
    let now = memory(&client).await;
    assert!(now.held_bytes > LIMIT / 2, "{now:?}");
    let dropped = now.dropped_records;
    assert_eq!(broker.metric("naru_in_memory"), 1);
    assert_eq!(broker.metric("naru_memory_limit_bytes"), LIMIT);
    assert!(broker.metric("naru_memory_held_bytes") > 0);
    let error = out_of_range(&client, "t", 0).await;
    let start = Offset::new(error.details.log_start_offset.unwrap()).unwrap();
    assert_eq!(u64::try_from(start.get()).unwrap(), dropped);
    let end = error.details.high_watermark.unwrap();
    assert_eq!(end, i64::try_from(RECORDS).unwrap());
    let mut reader = client.reader("t", 0, Start::Offset(start)).build().await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().offset, start);
    let on_disk = CreateTopicOptions {
        configs: vec![("storage".to_owned(), "disk".to_owned())],
        ..CreateTopicOptions::default()
    };
    let refused = client.create_topic("d", on_disk).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::InvalidConfig));
    assert_eq!(std::fs::read_dir(broker.dir.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_empties_a_topic_in_memory_and_its_offsets_go_on_behind_the_old_ones() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let in_memory = CreateTopicOptions {
        configs: vec![("storage".to_owned(), "memory".to_owned())],
        ..CreateTopicOptions::default()
    };
    client.create_topic("m", in_memory).await.unwrap();
    client
        .create_topic("d", CreateTopicOptions::default())
        .await
        .unwrap();
    let producer = client.producer().build().await.unwrap();
    send(&producer, "m", 100, Acks::Memory).await;
    send(&producer, "d", 100, Acks::Fsync).await;
    drop((client, producer));
    broker.kill();
    broker.restart();
    assert_eq!(broker.log.event("data_corrupt"), None);
    let client = broker.client().await;
    let mut start = 0;
    for place in [0, 50, 100] {
        let error = out_of_range(&client, "m", place).await;
        let there = error.details.log_start_offset.unwrap();
        assert!(there > 100, "begins at {there}");
        start = there;
    }
    let producer = client.producer().build().await.unwrap();
    send(&producer, "m", 1, Acks::Memory).await;
    let mut reader = client.reader("m", 0, Start::Earliest).build().await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().offset.get(), start);
    let mut reader = client.reader("d", 0, Start::Earliest).build().await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().offset, Offset::ZERO);
}
