//! Producers that note what was acknowledged, readers that note what they saw, and the comparison with what is there.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use naru::client::{Client, CreateTopicOptions, OffsetSpec, Producer, ProducerRecord, Start, Ticket};
use naru::model::Offset;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::peer::PATIENCE;

pub(crate) const TOPIC: &str = "orders";
const PRODUCERS: u64 = 4;
/// Further ones, whose batches are large.
const LARGE_PRODUCERS: u64 = 2;
/// More than a batch that is copied into the journal as a whole.
const LARGE_PIECES: std::ops::Range<usize> = 65..160;
const PARTITIONS: u32 = 3;
/// Records that a producer has on the way.
const ON_THE_WAY: usize = 40;

/// A record as one of the producers made it; everything else about it follows from these two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Made {
    producer: u64,
    number: u64,
}

impl Made {
    /// Between 20 and about 1,000 bytes that belong to this record alone; of some producers up to 160 KiB now and then.
    fn value(self) -> String {
        let mut random = fastrand::Rng::with_seed(self.producer << 32 | self.number);
        let filler: String = (0..random.usize(0..1_000))
            .map(|_| random.alphanumeric())
            .collect();
        let mut value = format!("{}/{}/{filler}", self.producer, self.number);
        if self.producer >= PRODUCERS && random.u32(0..8) == 0 {
            for piece in 0..random.usize(LARGE_PIECES) {
                value.push_str(&format!("{piece:04}{filler:.>1020}"));
            }
        }
        value
    }

    fn partition(self) -> u32 {
        fastrand::Rng::with_seed(self.number << 8 | self.producer).u32(0..PARTITIONS)
    }

    /// The record that these bytes are, if they are one to the last byte.
    fn read(value: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(value).ok()?.splitn(3, '/');
        let (producer, number) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let made = Self { producer, number };
        (made.value().as_bytes() == value).then_some(made)
    }
}

/// What one producer knows at the end.
struct Ledger {
    sent: u64,
    acknowledged: Vec<(Made, u32, u64)>,
}

/// A partition as it was read: value by offset.
type Seen = Vec<BTreeMap<u64, Vec<u8>>>;

/// Producers at work, and a reader of every partition.
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    acknowledged: watch::Sender<u64>,
    producers: JoinSet<Ledger>,
    readers: JoinSet<(u32, BTreeMap<u64, Vec<u8>>)>,
    /// Where each reader shall stop, once that is known.
    ends: watch::Sender<Option<Vec<u64>>>,
}

/// A client that does not wait long before it tries a broker again that was killed.
pub(crate) async fn stubborn_client(url: &str) -> Client {
    Client::builder()
        .reconnect_backoff(Duration::from_millis(10), Duration::from_millis(100))
        .wait_for_broker(PATIENCE)
        .connect(url)
        .await
        .unwrap()
}

impl Load {
    pub(crate) async fn start(broker: &Broker) -> Self {
        Self::start_producers(broker, PRODUCERS).await
    }

    /// Also with batches of more than 64 KiB.
    pub(crate) async fn start_with_large_batches(broker: &Broker) -> Self {
        Self::start_producers(broker, PRODUCERS + LARGE_PRODUCERS).await
    }

    async fn start_producers(broker: &Broker, producers: u64) -> Self {
        let options = CreateTopicOptions {
            partitions: PARTITIONS,
            ..Default::default()
        };
        broker.client().await.create_topic(TOPIC, options).await.unwrap();
        let mut load = Self {
            stop: watch::Sender::new(false),
            acknowledged: watch::Sender::new(0),
            producers: JoinSet::new(),
            readers: JoinSet::new(),
            ends: watch::Sender::new(None),
        };
        for producer in 0..producers {
            let client = stubborn_client(&broker.url()).await;
            let (stop, acknowledged) = (load.stop.subscribe(), load.acknowledged.clone());
            load.producers
                .spawn(produce(producer, client, stop, acknowledged));
        }
        for partition in 0..PARTITIONS {
            let client = stubborn_client(&broker.url()).await;
            load.readers.spawn(tail(partition, client, load.ends.subscribe()));
        }
        load
    }

    /// Acknowledgements so far.
    pub(crate) fn count(&self) -> u64 {
        *self.acknowledged.borrow()
    }

    /// Waits for so many acknowledgements more.
    pub(crate) async fn more(&self, acknowledgements: u64) {
        let mut seen = self.acknowledged.subscribe();
        let enough = *seen.borrow() + acknowledgements;
        tokio::time::timeout(PATIENCE, seen.wait_for(|count| *count >= enough))
            .await
            .expect("the producers get on")
            .unwrap();
    }

    /// Ends the producers, reads everything with a new client, kills the broker, reads everything again, and compares. Returns
    /// the number of records.
    pub(crate) async fn finish(mut self, broker: &mut Broker) -> usize {
        self.stop.send_replace(true);
        let ledgers = self.producers.join_all().await;
        let found = read_all(&broker.client().await).await;
        broker.kill();
        broker.restart();
        let again = read_all(&broker.client().await).await;
        assert!(found == again, "everything reads the same after another start");
        check_ledgers(&ledgers, &found);
        check_order(&found);
        let ends = found.iter().map(|partition| partition.len() as u64).collect();
        self.ends.send_replace(Some(ends));
        while let Some(seen) = self.readers.join_next().await {
            let (partition, seen) = seen.unwrap();
            // What was read once, before whatever kill, is what is there, and the reader missed nothing.
            assert!(
                seen == found[partition as usize],
                "partition {partition} reads differently than while it was written"
            );
        }
        found.iter().map(BTreeMap::len).sum()
    }
}

async fn produce(
    producer: u64,
    client: Client,
    stop: watch::Receiver<bool>,
    acknowledged: watch::Sender<u64>,
) -> Ledger {
    let sender = client
        .producer()
        .batch_bytes(if producer < PRODUCERS { 4 << 10 } else { 256 << 10 })
        .linger(Duration::from_millis(1))
        .build()
        .await
        .unwrap();
    let mut ledger = Ledger {
        sent: 0,
        acknowledged: Vec::new(),
    };
    let mut on_the_way = VecDeque::new();
    while !*stop.borrow() {
        let made = Made {
            producer,
            number: ledger.sent,
        };
        on_the_way.push_back((made, send(&sender, made).await));
        ledger.sent += 1;
        if on_the_way.len() == ON_THE_WAY {
            let (made, ticket) = on_the_way.pop_front().unwrap();
            note(&mut ledger, made, ticket, &acknowledged).await;
        }
    }
    for (made, ticket) in on_the_way {
        note(&mut ledger, made, ticket, &acknowledged).await;
    }
    sender.close().await.unwrap();
    ledger
}

async fn send(producer: &Producer, made: Made) -> Ticket {
    let record = ProducerRecord::to(TOPIC)
        .partition(made.partition())
        .value(made.value());
    producer.enqueue(record).await.unwrap()
}

async fn note(ledger: &mut Ledger, made: Made, ticket: Ticket, acknowledged: &watch::Sender<u64>) {
    let stored = ticket.await.unwrap_or_else(|error| panic!("{made:?}: {error}"));
    let offset = stored
        .offset
        .expect("a retry within the window has its offset")
        .get();
    ledger
        .acknowledged
        .push((made, stored.partition.0, offset.try_into().unwrap()));
    acknowledged.send_modify(|count| *count += 1);
}

/// Reads from the beginning, over all kills, until it is told where the end is and is there.
async fn tail(
    partition: u32,
    client: Client,
    mut ends: watch::Receiver<Option<Vec<u64>>>,
) -> (u32, BTreeMap<u64, Vec<u8>>) {
    let reader = client.reader(TOPIC, partition, Start::Earliest);
    let mut reader = reader.build().await.unwrap();
    let mut seen = BTreeMap::new();
    let mut end = u64::MAX;
    while (seen.len() as u64) < end {
        tokio::select! {
            record = reader.next() => {
                let record = record.expect("the stream goes on").unwrap();
                let offset = u64::try_from(record.offset.get()).unwrap();
                assert_eq!(offset, seen.len() as u64, "offsets of partition {partition} have no gaps");
                seen.insert(offset, record.value.unwrap().to_vec());
            }
            told = ends.wait_for(Option::is_some), if end == u64::MAX => {
                end = told.unwrap().as_ref().unwrap()[partition as usize];
            }
        }
    }
    (partition, seen)
}

async fn read_all(client: &Client) -> Seen {
    let partitions: Vec<u32> = (0..PARTITIONS).collect();
    let ends = client
        .list_offsets(TOPIC, &partitions, OffsetSpec::Latest)
        .await
        .unwrap();
    let mut found = Vec::new();
    for (partition, end) in partitions.into_iter().zip(ends) {
        let end = end.unwrap();
        let mut reader = client
            .reader(TOPIC, partition, Start::Earliest)
            .build()
            .await
            .unwrap();
        let mut records = BTreeMap::new();
        while reader.position() < end {
            let record = reader.next().await.unwrap().unwrap();
            let offset = u64::try_from(record.offset.get()).unwrap();
            assert_eq!(
                offset,
                records.len() as u64,
                "offsets of partition {partition} have no gaps"
            );
            records.insert(offset, record.value.unwrap().to_vec());
        }
        assert_eq!(reader.position(), end);
        assert!(end == Offset::ZERO || !records.is_empty());
        found.push(records);
    }
    found
}

/// Every acknowledged record is where it was acknowledged, once, and nothing is there that nobody sent.
fn check_ledgers(ledgers: &[Ledger], found: &Seen) {
    let mut places: BTreeMap<Made, (u32, u64)> = BTreeMap::new();
    for (partition, records) in (0..).zip(found) {
        for (offset, value) in records {
            let place = (partition, *offset);
            let made = Made::read(value).unwrap_or_else(|| panic!("nobody made what is at {place:?}"));
            assert_eq!(made.partition(), partition, "{made:?} is in another partition");
            let before = places.insert(made, place);
            assert_eq!(before, None, "{made:?} is there twice, again at {place:?}");
        }
    }
    let mut acknowledged = 0;
    for (made, partition, offset) in ledgers.iter().flat_map(|ledger| &ledger.acknowledged) {
        assert_eq!(
            places.get(made),
            Some(&(*partition, *offset)),
            "{made:?} is not where it was acknowledged"
        );
        acknowledged += 1;
    }
    // Nobody gave up on a record, so that what was sent, acknowledged and found are the same.
    let sent: u64 = ledgers.iter().map(|ledger| ledger.sent).sum();
    assert_eq!((sent, places.len() as u64), (acknowledged, acknowledged));
}

/// Records of one producer are in the order in which it sent them.
fn check_order(found: &Seen) {
    for (partition, records) in found.iter().enumerate() {
        let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
        for value in records.values() {
            let made = Made::read(value).unwrap();
            let before = newest.insert(made.producer, made.number);
            assert!(
                before < Some(made.number),
                "{made:?} in partition {partition} comes behind {before:?}"
            );
        }
    }
}
