//! What a client does to a broker that may end at any moment, what it was told, and what must be there afterwards.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use naru::client::{
    Client, CreateTopicOptions, Error, ListTopicsOptions, OffsetSpec, OffsetToCommit, Producer,
    ProducerRecord, Start, TrimTo,
};
use naru::model::Offset;

/// Its records stay.
pub(super) const KEPT: &str = "kept";
/// Deleted in the middle.
const GONE: &str = "gone";
const GROUP: &str = "readers";
const PARTITIONS: u32 = 2;
/// With 40 records the ring of four small journal files goes around, and each partition gets a second segment.
const VALUE_BYTES: usize = 6_000;

/// How a request stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    NotAsked,
    /// Sent, and no answer: it may have happened.
    Unknown,
    Done,
}

/// A number that only grows: what is certain, and what may be.
#[derive(Clone, Copy, Debug, Default)]
struct AtLeast {
    done: i64,
    asked: i64,
}

/// What the broker was asked and what it answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Per partition of `KEPT`: what was sent, in order.
    sent: [Vec<String>; PARTITIONS as usize],
    /// Per partition: what was acknowledged, by its offset.
    acknowledged: [BTreeMap<i64, String>; PARTITIONS as usize],
    created: [Fate; 2],
    deleted: Fate,
    committed: AtLeast,
    trimmed: AtLeast,
    /// Nothing is left to do.
    pub(super) finished: bool,
}

/// A teller of what is going on: the ledger outlives the story, which is broken off at any point.
pub(super) type Ledger = Mutex<Told>;

/// Topics made and deleted, rolls, a trim, commits, and 40 records, each of which waits for the one before.
pub(super) async fn tell(client: &Client, told: &Ledger) -> Result<(), Error> {
    create(client, told, 0, KEPT, PARTITIONS).await?;
    create(client, told, 1, GONE, 1).await?;
    let producer = producer(client).await?;
    for _ in 0..4 {
        let record = ProducerRecord::to(GONE).value(vec![b'g'; VALUE_BYTES]);
        producer.send(record).await?;
    }
    records(&producer, told, 16).await?;
    commit(client, told, 5).await?;
    note(told, |told| told.deleted = Fate::Unknown);
    client.delete_topic(GONE).await?;
    note(told, |told| told.deleted = Fate::Done);
    records(&producer, told, 12).await?;
    trim(client, told).await?;
    records(&producer, told, 12).await?;
    commit(client, told, 14).await?;
    note(told, |told| told.finished = true);
    Ok(())
}

/// What can be done to any broker that is well: one record more, where the others end.
pub(super) async fn go_on(client: &Client, told: &Ledger) {
    create(client, told, 0, KEPT, PARTITIONS).await.unwrap();
    let producer = producer(client).await.unwrap();
    let before = read(client, 0).await.len();
    records(&producer, told, 1).await.unwrap();
    assert_eq!(read(client, 0).await.len(), before + 1);
}

/// A producer that gives up soon: the broker may be gone.
pub(super) async fn producer(client: &Client) -> Result<Producer, Error> {
    let producer = client.producer().linger(Duration::ZERO).retries(false);
    producer.delivery_timeout(Duration::from_secs(10)).build().await
}

fn note<T>(told: &Ledger, write: impl FnOnce(&mut Told) -> T) -> T {
    write(&mut told.lock().unwrap())
}

async fn create(
    client: &Client,
    told: &Ledger,
    nth: usize,
    name: &str,
    partitions: u32,
) -> Result<(), Error> {
    note(told, |told| told.created[nth] = Fate::Unknown);
    let options = CreateTopicOptions {
        partitions,
        configs: vec![("segment.bytes".to_owned(), "65536".to_owned())],
        if_not_exists: true,
    };
    client.create_topic(name, options).await?;
    note(told, |told| told.created[nth] = Fate::Done);
    Ok(())
}

/// Sends records one after another, the partitions in turn.
pub(super) async fn records(producer: &Producer, told: &Ledger, count: usize) -> Result<(), Error> {
    for n in 0..count {
        let partition = u32::try_from(n).unwrap() % PARTITIONS;
        let value = note(told, |told| {
            let sent = &mut told.sent[partition as usize];
            let mut value = format!("{partition}/{}/", sent.len());
            // Of this record alone, to the last byte.
            let mut random = fastrand::Rng::with_seed(sent.len() as u64);
            while value.len() < VALUE_BYTES {
                value.push(random.alphanumeric());
            }
            sent.push(value.clone());
            value
        });
        let record = ProducerRecord::to(KEPT).partition(partition).value(value.clone());
        let stored = producer.send(record).await?;
        let offset = stored.offset.expect("nothing is sent twice").get();
        note(told, |told| {
            told.acknowledged[partition as usize].insert(offset, value)
        });
    }
    Ok(())
}

async fn commit(client: &Client, told: &Ledger, offset: i64) -> Result<(), Error> {
    note(told, |told| told.committed.asked = offset);
    let offset = Offset::new(offset).unwrap();
    client
        .commit_offsets(GROUP, vec![OffsetToCommit::new(KEPT, 0, offset)])
        .await?;
    note(told, |told| told.committed.done = told.committed.asked);
    Ok(())
}

/// Removes all that there is of the first partition, which so begins another segment.
async fn trim(client: &Client, told: &Ledger) -> Result<(), Error> {
    note(told, |told| {
        told.trimmed.asked = i64::try_from(told.sent[0].len()).unwrap()
    });
    let start = client
        .trim_topic(KEPT, &[(0, TrimTo::HighWatermark)])
        .await?
        .remove(0)?;
    note(told, |told| told.trimmed.done = start.get());
    Ok(())
}

/// Everything acknowledged is there and where it was acknowledged, and nothing is there that nobody sent.
pub(super) async fn check(client: &Client, told: &Ledger) {
    let told = told.lock().unwrap().clone();
    let topics = client.list_topics(&ListTopicsOptions::default()).await.unwrap();
    let has = |name: &str| topics.iter().any(|topic| topic.name == name);
    assert!(
        has(KEPT) || told.created[0] != Fate::Done,
        "a created topic is gone"
    );
    assert!(!has(KEPT) || told.created[0] != Fate::NotAsked);
    match (told.created[1], told.deleted) {
        (Fate::Done, Fate::NotAsked) => assert!(has(GONE), "a created topic is gone"),
        (Fate::NotAsked, _) | (_, Fate::Done) => assert!(!has(GONE), "a deleted topic is there"),
        _ => {}
    }
    if !has(KEPT) {
        return;
    }
    check_places(client, &told).await;
    for partition in 0..PARTITIONS {
        check_partition(client, &told, partition).await;
    }
}

async fn check_places(client: &Client, told: &Told) {
    let AtLeast { done, asked } = told.committed;
    let at = client.fetch_offsets(GROUP, KEPT, &[0]).await.unwrap().remove(0);
    let at = at
        .unwrap()
        .committed
        .map_or(0, |committed| committed.offset.get());
    assert!(
        (done..=asked).contains(&at),
        "committed {at}, not {done} to {asked}"
    );
    let AtLeast { done, asked } = told.trimmed;
    let start = log_start(client, 0).await;
    assert!(
        (done..=asked).contains(&start),
        "the log starts at {start}, not {done} to {asked}"
    );
}

async fn log_start(client: &Client, partition: u32) -> i64 {
    let starts = client
        .list_offsets(KEPT, &[partition], OffsetSpec::Earliest)
        .await;
    starts.unwrap().remove(0).unwrap().get()
}

async fn check_partition(client: &Client, told: &Told, partition: u32) {
    let start = log_start(client, partition).await;
    let (sent, acknowledged) = (
        &told.sent[partition as usize],
        &told.acknowledged[partition as usize],
    );
    let found = read(client, partition).await;
    for (offset, value) in acknowledged.range(start..) {
        assert!(
            found.get(offset) == Some(value),
            "{partition}@{offset} was acknowledged and is {}",
            show(found.get(offset))
        );
    }
    let mut numbers = Vec::new();
    for (offset, value) in &found {
        let number = sent.iter().position(|sent| sent == value);
        numbers.push(
            number.unwrap_or_else(|| panic!("nobody sent {partition}@{offset}: {}", show(Some(value)))),
        );
    }
    assert!(
        numbers.is_sorted_by(|a, b| a < b),
        "{partition} in the order in which it was sent: {numbers:?}"
    );
}

fn show(value: Option<&String>) -> String {
    value.map_or("nothing".to_owned(), |value| value.chars().take(20).collect())
}

async fn read(client: &Client, partition: u32) -> BTreeMap<i64, String> {
    let ends = client.list_offsets(KEPT, &[partition], OffsetSpec::Latest).await;
    let end = ends.unwrap().remove(0).unwrap();
    let mut reader = client
        .reader(KEPT, partition, Start::Earliest)
        .build()
        .await
        .unwrap();
    let mut found = BTreeMap::new();
    while reader.position() < end {
        let record = reader.next().await.unwrap().unwrap();
        let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
        found.insert(record.offset.get(), value);
    }
    found
}
