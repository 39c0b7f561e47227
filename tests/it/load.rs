//! Producers and readers that write down what they ask and hear, over whatever is done to the broker; at the end everything is
//! read twice, and the histories are checked.

use std::collections::VecDeque;
use std::time::Duration;

use naru::client::{
    Client, ConsumedRecord, CreateTopicOptions, OffsetSpec, PartitionReader, Producer, ProducerRecord, Start,
    Ticket,
};
use naru::history::{self, Body, Done, Edge, Fault, FaultKind, Found, Note, Op, Phase, Stored, Uid, check};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::notebook::{Histories, Notebook, at};
use crate::peer::PATIENCE;

pub(crate) const TOPIC: &str = "orders";
const PRODUCERS: u32 = 4;
/// Further ones, whose batches are large.
const LARGE_PRODUCERS: u32 = 2;
/// More than a batch that is copied into the journal as a whole.
const LARGE_PIECES: std::ops::Range<usize> = 65..160;
const PARTITIONS: u32 = 3;
/// Records that a producer has on the way.
const ON_THE_WAY: usize = 40;

/// Processes of the history: producers are numbered from 0 on, readers from here, one of each partition.
const READERS: u32 = 100;
/// Those who read everything when all is over.
const LAST_READERS: u32 = 200;
/// Who says what is done to the broker.
const OWN: u32 = 300;

/// A record as one of the producers made it; everything else about it follows from which it is.
#[derive(Clone, Copy, Debug)]
struct Made(Uid);

impl Made {
    /// Between 20 and about 1,000 bytes that belong to this record alone; of some producers up to 160 KiB now and then.
    fn value(self) -> String {
        let Self(uid) = self;
        let mut random = fastrand::Rng::with_seed(u64::from(uid.process) << 32 | uid.number);
        let filler: String = (0..random.usize(0..1_000))
            .map(|_| random.alphanumeric())
            .collect();
        let mut value = format!("{uid}/{filler}");
        if uid.process >= PRODUCERS && random.u32(0..8) == 0 {
            for piece in 0..random.usize(LARGE_PIECES) {
                value.push_str(&format!("{piece:04}{filler:.>1020}"));
            }
        }
        value
    }

    fn partition(self) -> u32 {
        fastrand::Rng::with_seed(self.0.number << 8 | u64::from(self.0.process)).u32(0..PARTITIONS)
    }

    /// The record that these bytes say they are, and whether they are it to the last byte.
    fn read(value: &[u8]) -> (Option<Uid>, bool) {
        let text = std::str::from_utf8(value).unwrap_or_default();
        let uid = text.split_once('/').and_then(|(uid, _)| uid.parse().ok());
        let intact = uid.is_some_and(|uid| Self(uid).value() == text);
        (uid, intact)
    }
}

/// Producers at work, and a reader of every partition.
pub(crate) struct Load {
    histories: Histories,
    book: Notebook,
    stop: watch::Sender<bool>,
    acknowledged: watch::Sender<u64>,
    producers: JoinSet<()>,
    readers: JoinSet<()>,
    /// Where each reader shall stop, once that is known.
    ends: watch::Sender<Option<Vec<i64>>>,
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

    async fn start_producers(broker: &Broker, producers: u32) -> Self {
        let options = CreateTopicOptions {
            partitions: PARTITIONS,
            ..Default::default()
        };
        broker.client().await.create_topic(TOPIC, options).await.unwrap();
        let histories = Histories::new();
        let mut load = Self {
            book: histories.book(OWN),
            histories,
            stop: watch::Sender::new(false),
            acknowledged: watch::Sender::new(0),
            producers: JoinSet::new(),
            readers: JoinSet::new(),
            ends: watch::Sender::new(None),
        };
        load.book.note(Note::Phase(Phase::Chaos));
        for producer in 0..producers {
            let client = stubborn_client(&broker.url()).await;
            let (stop, acknowledged) = (load.stop.subscribe(), load.acknowledged.clone());
            let book = load.histories.book(producer);
            load.producers.spawn(async move {
                produce(producer, client, book, stop, acknowledged).await;
            });
        }
        for partition in 0..PARTITIONS {
            let client = stubborn_client(&broker.url()).await;
            let tail = Tail::start(partition, &client, load.histories.book(READERS + partition)).await;
            load.readers.spawn(tail.follow(load.ends.subscribe()));
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

    /// Writes down that something is done to the broker, before it is done.
    pub(crate) fn fault(&self, kind: FaultKind) {
        self.note_fault(kind, false);
    }

    /// Writes down that the broker is ready again.
    pub(crate) fn over(&self, kind: FaultKind) {
        self.note_fault(kind, true);
    }

    fn note_fault(&self, kind: FaultKind, is_over: bool) {
        self.book.note(Note::Fault(Fault {
            kind,
            is_over,
            what: String::new(),
            damaged: Vec::new(),
        }));
    }

    /// Ends the producers, reads everything with new clients, kills the broker, reads everything again, and has the history of
    /// all checked.
    pub(crate) async fn finish(mut self, broker: &mut Broker) -> history::Figures {
        self.book.note(Note::Phase(Phase::Healed));
        self.stop.send_replace(true);
        while let Some(ended) = self.producers.join_next().await {
            ended.unwrap();
        }
        self.book.note(Note::Phase(Phase::FinalRead));
        let ends = self.read_all(broker, LAST_READERS).await;
        self.fault(FaultKind::Kill);
        broker.kill();
        broker.restart();
        self.over(FaultKind::Kill);
        self.book.note(Note::Phase(Phase::SecondRead));
        let again = self.read_all(broker, LAST_READERS + PARTITIONS).await;
        assert_eq!(ends, again, "partitions end where they did");
        self.ends.send_replace(Some(ends));
        while let Some(ended) = self.readers.join_next().await {
            ended.unwrap();
        }
        let report = check(self.histories.events());
        assert!(report.is_clean(), "{report}");
        let figures = report.figures;
        // Nobody gave up on a record, and everything was read: while it was written, and twice since.
        let produced = usize::try_from(self.count()).unwrap();
        assert_eq!((figures.produced, figures.read), (produced, 3 * produced));
        assert_eq!(figures.read_through, 2 * PARTITIONS as usize);
        figures
    }

    /// Reads every partition to its end. Where the ends are.
    async fn read_all(&self, broker: &Broker, process: u32) -> Vec<i64> {
        let mut ends = Vec::new();
        for partition in 0..PARTITIONS {
            let client = broker.client().await;
            let book = self.histories.book(process + partition);
            let op = book.invoke(Op::Offset {
                at: at(TOPIC, partition),
                edge: Edge::End,
            });
            let end = client.list_offsets(TOPIC, &[partition], OffsetSpec::Latest).await;
            let end = end.unwrap()[0].clone().unwrap().get();
            book.end(op, Body::Ok(Done::Offset(end)));
            let mut tail = Tail::start(partition, &client, book).await;
            while tail.reader.position().get() < end {
                tail.next().await;
            }
            ends.push(end);
        }
        ends
    }
}

async fn produce(
    producer: u32,
    client: Client,
    book: Notebook,
    stop: watch::Receiver<bool>,
    acknowledged: watch::Sender<u64>,
) {
    let sender = client
        .producer()
        .batch_bytes(if producer < PRODUCERS { 4 << 10 } else { 256 << 10 })
        .linger(Duration::from_millis(1))
        .build()
        .await
        .unwrap();
    let mut on_the_way = VecDeque::new();
    let made = (0..).map(|number| {
        Made(Uid {
            process: producer,
            number,
        })
    });
    for made in made.take_while(|_| !*stop.borrow()) {
        let op = book.invoke(Op::Produce {
            at: at(TOPIC, made.partition()),
            uids: vec![made.0],
            session: Some(0),
            sequence: None,
        });
        on_the_way.push_back((op, made, send(&sender, made).await));
        if on_the_way.len() == ON_THE_WAY {
            let (op, made, ticket) = on_the_way.pop_front().unwrap();
            book.end(op, stored(made, ticket).await);
            acknowledged.send_modify(|count| *count += 1);
        }
    }
    for (op, made, ticket) in on_the_way {
        book.end(op, stored(made, ticket).await);
        acknowledged.send_modify(|count| *count += 1);
    }
    sender.close().await.unwrap();
}

async fn send(producer: &Producer, made: Made) -> Ticket {
    let record = ProducerRecord::to(TOPIC)
        .partition(made.partition())
        .value(made.value());
    producer.enqueue(record).await.unwrap()
}

async fn stored(made: Made, ticket: Ticket) -> Body {
    let stored = ticket.await.unwrap_or_else(|error| panic!("{made:?}: {error}"));
    assert_eq!(stored.partition.0, made.partition());
    let offset = stored.offset.expect("a retry within the window has its offset");
    Body::Ok(Done::Produced(Stored::fsync(offset.get())))
}

/// Somebody who reads a partition from the beginning and writes down what it is handed.
struct Tail {
    partition: u32,
    reader: PartitionReader,
    book: Notebook,
}

impl Tail {
    async fn start(partition: u32, client: &Client, book: Notebook) -> Self {
        book.note(Note::Reading {
            at: at(TOPIC, partition),
            from: history::Start::Earliest,
        });
        let reader = client.reader(TOPIC, partition, Start::Earliest);
        Self {
            partition,
            reader: reader.build().await.unwrap(),
            book,
        }
    }

    async fn next(&mut self) {
        let record = self.reader.next().await.expect("the stream goes on").unwrap();
        self.note(&record);
    }

    fn note(&self, record: &ConsumedRecord) {
        let (uid, intact) = Made::read(record.value.as_deref().unwrap_or_default());
        let found = Found {
            offset: record.offset.get(),
            uid,
            intact,
        };
        self.book.note(Note::Read {
            at: at(TOPIC, self.partition),
            records: vec![found],
            next: self.reader.position().get(),
        });
    }

    /// Over all that is done to the broker, until it is told where the end is and is there.
    async fn follow(mut self, mut ends: watch::Receiver<Option<Vec<i64>>>) {
        let mut end = i64::MAX;
        while self.reader.position().get() < end {
            tokio::select! {
                record = self.reader.next() => self.note(&record.expect("the stream goes on").unwrap()),
                told = ends.wait_for(Option::is_some), if end == i64::MAX => {
                    end = told.unwrap().as_ref().unwrap()[self.partition as usize];
                }
            }
        }
    }
}
