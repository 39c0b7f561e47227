//! The broker over the engine in memory: what is answered, when, and what it shows.

mod admin;
mod alter;
mod fetch;
mod group_timers;
mod groups;
mod lag;
mod members;
mod memory;
mod planted;
mod power;
mod produce;
mod restart;
mod retention;
mod steps;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::{Broker, Recovered, Settings};
use crate::api::{
    ApiError, CreateTopic, Fetch, FetchForm, FetchPartition, FetchPayload, Fetched, FetchedPartition,
    InitProducer, InitializedProducer, Outcome, Peer, Produce, ProducePartition, ProducePayload, Produced,
    ProducedPartition, ProducerStamp, Reply, Request, Response, Service, TopicPartition,
};
use crate::model::{
    Acks, ConnectionId, ErrorCode, Lsn, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, Timestamp,
    TopicId,
};
use crate::record::{BatchBuilder, ProducerFields, Record};
use crate::rt::{Clock, IdSource, ManualClock};
use crate::storage::LogStore;
use crate::storage::memory::{MemoryOptions, MemoryStore};

const START: Timestamp = Timestamp(1_700_000_000_000);

impl<S: LogStore> Broker<S> {
    /// Takes a request in from somebody, no matter who.
    fn receive(&self, request: Request) -> Outcome {
        let peer = Peer {
            connection: ConnectionId(1),
            host: "127.0.0.1".into(),
            software: "".into(),
        };
        self.handle(request, &peer)
    }
}

/// Ids 0x1000.., in order.
#[derive(Debug, Default)]
struct CountedIds(AtomicU64);

impl IdSource for CountedIds {
    fn uuid(&self) -> [u8; 16] {
        let n = u128::from(self.0.fetch_add(1, Ordering::Relaxed)) + (1 << 64);
        n.to_be_bytes()
    }
}

/// A broker with everything that it was given.
struct Rig {
    broker: Broker<MemoryStore>,
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    ids: Arc<CountedIds>,
    settings: Settings,
}

impl Rig {
    /// Durable at once.
    fn new() -> Self {
        Self::with(MemoryOptions::default(), Settings::default())
    }

    /// Durable when told so.
    fn manual() -> Self {
        let options = MemoryOptions {
            durable_at_once: false,
            ..MemoryOptions::default()
        };
        Self::with(options, Settings::default())
    }

    fn with(options: MemoryOptions, settings: Settings) -> Self {
        let store = Arc::new(MemoryStore::new(options));
        let recovered = Recovered::new(&settings);
        let clock = Arc::new(ManualClock::at(START));
        Self::over(store, recovered, clock, Arc::default(), settings)
    }

    fn over(
        store: Arc<MemoryStore>,
        recovered: Recovered,
        clock: Arc<ManualClock>,
        ids: Arc<CountedIds>,
        settings: Settings,
    ) -> Self {
        let broker = Broker::new(
            Arc::clone(&store),
            recovered,
            Arc::clone(&clock) as Arc<dyn Clock>,
            Arc::clone(&ids) as Arc<dyn IdSource>,
            settings.clone(),
        );
        Self {
            broker: broker.unwrap(),
            store,
            clock,
            ids,
            settings,
        }
    }

    fn durable(&self) -> Lsn {
        self.store.durable().borrow().lsn
    }

    /// The answer, which must be due at once.
    fn ask(&self, request: Request) -> Reply {
        let (lsn, reply) = waits(self.broker.receive(request));
        assert!(
            lsn <= self.durable(),
            "due at {lsn}, durable is {}",
            self.durable()
        );
        reply
    }

    /// Makes everything durable on the way.
    fn create(&self, name: &str, partitions: u32) -> TopicId {
        let (_, reply) = waits(self.broker.receive(create(name, partitions)));
        self.store.make_all_durable();
        match reply {
            Ok(Response::CreateTopic(created)) => created.id,
            other => panic!("{other:?}"),
        }
    }

    fn init(&self, current: Option<(ProducerId, ProducerEpoch)>) -> Result<InitializedProducer, ApiError> {
        let (_, reply) = waits(
            self.broker
                .receive(Request::InitProducer(InitProducer { current })),
        );
        self.store.make_all_durable();
        match reply? {
            Response::InitProducer(producer) => Ok(producer),
            other => panic!("{other:?}"),
        }
    }

    /// One batch; the LSN its answer waits for, and the answer.
    fn produce(&self, acks: Acks, item: ProducePartition) -> (Lsn, Result<ProducedPartition, ApiError>) {
        let (lsn, reply) = waits(self.broker.receive(request(acks, vec![item])));
        let Ok(Response::Produce(Produced { mut partitions })) = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(partitions.len(), 1);
        (lsn, partitions.remove(0))
    }

    /// One partition, without waiting.
    fn read(&self, topic: &str, offset: i64) -> Result<FetchedPartition, ApiError> {
        let mut all = fetched(self.ask(fetch(FetchForm::Raw, Duration::ZERO, &[(topic, 0, offset)])));
        all.remove(0)
    }

    /// The high watermark as a fetch shows it.
    fn visible(&self, topic: &str) -> i64 {
        self.read(topic, 0).unwrap().high_watermark.get()
    }
}

/// What an answer waits for; `Ready` waits for nothing.
fn waits(outcome: Outcome) -> (Lsn, Reply) {
    match outcome {
        Outcome::Ready(reply) => (Lsn::ZERO, reply),
        Outcome::AfterLsn { lsn, reply } => (lsn, reply),
        other => panic!("{other:?}"),
    }
}

fn create(name: &str, partitions: u32) -> Request {
    Request::CreateTopic(CreateTopic {
        name: name.to_owned(),
        partitions,
        configs: Vec::new(),
        if_not_exists: false,
        operation_id: None,
    })
}

fn named(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition {
        topic: Arc::from(topic),
        topic_id: None,
        partition: PartitionId(partition),
    }
}

fn with_id(id: TopicId) -> TopicPartition {
    TopicPartition {
        topic: Arc::from(""),
        topic_id: Some(id),
        partition: PartitionId(0),
    }
}

fn request(acks: Acks, partitions: Vec<ProducePartition>) -> Request {
    Request::Produce(Produce { acks, partitions })
}

fn batch(records: u32, producer: Option<ProducerFields>) -> Bytes {
    let mut builder = BatchBuilder::new();
    for n in 0..records {
        builder.push(Timestamp(5), None, Some(format!("value {n}").as_bytes()), &[]);
    }
    builder.finish(producer)
}

fn item(partition: TopicPartition, payload: ProducePayload) -> ProducePartition {
    ProducePartition {
        partition,
        leader_epoch: None,
        payload,
    }
}

/// A raw batch without a producer for partition 0.
fn raw(topic: &str, records: u32) -> ProducePartition {
    item(named(topic, 0), ProducePayload::Raw(batch(records, None)))
}

/// A raw batch of a producer in epoch 0 for partition 0.
fn sequenced(topic: &str, producer: InitializedProducer, sequence: i32, records: u32) -> ProducePartition {
    let fields = ProducerFields {
        id: producer.id,
        epoch: producer.epoch,
        base_sequence: Sequence(sequence),
    };
    item(named(topic, 0), ProducePayload::Raw(batch(records, Some(fields))))
}

fn record(value: &str) -> Record {
    Record {
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        ..Record::default()
    }
}

fn structured(
    topic: &str,
    records: &[&str],
    producer: Option<(InitializedProducer, i32)>,
) -> ProducePartition {
    item(
        named(topic, 0),
        ProducePayload::Structured {
            records: records.iter().map(|value| record(value)).collect(),
            producer: producer.map(|(producer, sequence)| ProducerStamp {
                id: producer.id,
                epoch: producer.epoch,
                base_sequence: Sequence(sequence),
            }),
        },
    )
}

fn fetch(form: FetchForm, max_wait: Duration, partitions: &[(&str, u32, i64)]) -> Request {
    Request::Fetch(Fetch {
        max_wait,
        min_bytes: 1,
        max_bytes: 0,
        form,
        member: None,
        partitions: partitions
            .iter()
            .map(|(topic, partition, offset)| FetchPartition {
                partition: named(topic, *partition),
                offset: *offset,
                max_bytes: 0,
                leader_epoch: None,
            })
            .collect(),
    })
}

fn fetched(reply: Reply) -> Vec<Result<FetchedPartition, ApiError>> {
    match reply {
        Ok(Response::Fetch(Fetched { partitions })) => partitions,
        other => panic!("{other:?}"),
    }
}

/// Offset and value of each record.
fn values(fetched: &FetchedPartition) -> Vec<(i64, String)> {
    let FetchPayload::Structured(records) = &fetched.payload else {
        panic!("{fetched:?}");
    };
    let text = |r: &Record| String::from_utf8(r.value.clone().unwrap().to_vec()).unwrap();
    records.iter().map(|(o, r)| (o.get(), text(r))).collect()
}

/// First and last offset.
fn offsets(produced: &Result<ProducedPartition, ApiError>) -> Option<(i64, i64)> {
    let (first, last) = produced.as_ref().unwrap().offsets?;
    Some((first.get(), last.get()))
}

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn code<T: std::fmt::Debug>(result: Result<T, ApiError>) -> ErrorCode {
    result.unwrap_err().code
}
