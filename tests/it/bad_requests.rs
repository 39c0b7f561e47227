//! What well-formed requests with bad content get from a real broker: names, batches, sequences, offsets. Framing and
//! protobuf are in `bad_input.rs`. Cases are numbered only to be found.
//!
//! Every case runs on a real socket beside a topic whose content must stay what it was.

use std::time::Duration;

use bytes::Bytes;
use naru::model::{ErrorCode, ProducerEpoch, ProducerId, Sequence, Timestamp};
use naru::net::Settings;
use naru::pb::v1;
use naru::pb::v1::produce_partition::Payload;
use naru::pb::v1::request::Body;
use naru::pb::v1::response::Body as Answer;
use naru::record::{BatchBuilder, Header, ProducerFields, crc32c};

use crate::peer::{PATIENCE, Peer, Server, start_broker};

const ID: u64 = 5;
const TOPIC: &str = "orders";
/// `max.message.bytes` of the topic.
const BATCH_BYTES_MAX: usize = 4096;

/// Where things stand in a record batch, version 2.
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_OFFSET_DELTA_AT: usize = 23;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_ID_AT: usize = 43;
const COUNT_AT: usize = 57;
const HEADER_BYTES: usize = 61;

/// A broker with one topic that holds three records, and a peer of it.
struct Rig {
    server: Server,
    peer: Peer,
}

impl Rig {
    async fn start(settings: Settings) -> Self {
        let server = start_broker(settings);
        let peer = server.friend().await;
        let mut rig = Self { server, peer };
        let created = rig.ask(create(TOPIC)).await;
        assert!(matches!(created, Answer::CreateTopic(_)), "{created:?}");
        let produced = rig.produce(batch(3)).await;
        assert_eq!((produced.error, produced.base_offset), (None, 0));
        rig
    }

    async fn ask(&mut self, body: Body) -> Answer {
        self.peer.ask(ID, body).await;
        let answer = self.peer.answer().await;
        assert_eq!(answer.request_id, ID);
        answer.body.unwrap()
    }

    async fn produce(&mut self, batch: Bytes) -> v1::ProducedPartition {
        self.produce_to(TOPIC, 0, Payload::Raw(batch)).await
    }

    async fn produce_to(&mut self, topic: &str, partition: u32, payload: Payload) -> v1::ProducedPartition {
        let partitions = vec![v1::ProducePartition {
            partition: at(topic, partition),
            payload: Some(payload),
            ..Default::default()
        }];
        match self
            .ask(Body::Produce(v1::ProduceRequest { acks: 1, partitions }))
            .await
        {
            Answer::Produce(mut produced) => produced.partitions.remove(0),
            other => panic!("no produce: {other:?}"),
        }
    }

    /// The code with which a batch is refused; checks that the refusal is definite and that nothing was written.
    async fn refused(&mut self, name: &str, batch: Bytes) -> v1::Error {
        let before = self.end().await;
        let error = self.produce(batch).await.error;
        let error = error.unwrap_or_else(|| panic!("{name}: taken"));
        assert!(error.definite, "{name}: {error:?}");
        assert_eq!(self.end().await, before, "{name}: something was written");
        error
    }

    async fn fetch(&mut self, offset: i64, request: v1::FetchRequest) -> v1::FetchedPartition {
        let partitions = vec![v1::FetchPartition {
            partition: at(TOPIC, 0),
            offset,
            ..Default::default()
        }];
        match self
            .ask(Body::Fetch(v1::FetchRequest {
                partitions,
                ..request
            }))
            .await
        {
            Answer::Fetch(mut fetched) => fetched.partitions.remove(0),
            other => panic!("no fetch: {other:?}"),
        }
    }

    /// The high watermark.
    async fn end(&mut self) -> i64 {
        let fetched = self.fetch(0, v1::FetchRequest::default()).await;
        assert_eq!(fetched.error, None);
        fetched.high_watermark
    }

    async fn new_producer(&mut self) -> v1::InitProducerResponse {
        self.init(-1, -1).await.unwrap()
    }

    async fn init(
        &mut self,
        producer_id: i64,
        producer_epoch: i32,
    ) -> Result<v1::InitProducerResponse, v1::Error> {
        let request = v1::InitProducerRequest {
            producer_id,
            producer_epoch,
        };
        match self.ask(Body::InitProducer(request)).await {
            Answer::InitProducer(made) => Ok(made),
            Answer::Error(error) => Err(error),
            other => panic!("no producer: {other:?}"),
        }
    }
}

fn at(topic: &str, partition: u32) -> Option<v1::TopicPartition> {
    Some(v1::TopicPartition {
        topic: topic.to_owned(),
        topic_id: Bytes::new(),
        partition,
    })
}

fn create(name: &str) -> Body {
    Body::CreateTopic(v1::CreateTopicRequest {
        name: name.to_owned(),
        partitions: 1,
        configs: vec![v1::ConfigEntry {
            name: "max.message.bytes".to_owned(),
            value: BATCH_BYTES_MAX.to_string(),
            ..Default::default()
        }],
        ..Default::default()
    })
}

fn builder(records: u32) -> BatchBuilder {
    let mut builder = BatchBuilder::new();
    for n in 0..records {
        builder.push(
            Timestamp(1_000),
            Some(b"key"),
            Some(format!("value {n}").as_bytes()),
            &[],
        );
    }
    builder
}

fn batch(records: u32) -> Bytes {
    builder(records).finish(None)
}

/// A batch of one record of a producer.
fn batch_of(producer: v1::InitProducerResponse, sequence: i32) -> Bytes {
    batch_of_epoch(producer.producer_id, producer.producer_epoch, sequence, 1)
}

fn batch_of_epoch(id: i64, epoch: i32, sequence: i32, records: u32) -> Bytes {
    builder(records).finish(Some(ProducerFields {
        id: ProducerId(id),
        epoch: ProducerEpoch(i16::try_from(epoch).unwrap()),
        base_sequence: Sequence(sequence),
    }))
}

/// A batch with other bytes at one place, under a checksum that fits.
fn patched(batch: &Bytes, at: usize, bytes: &[u8]) -> Bytes {
    let mut batch = batch.to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    summed(batch)
}

/// Sets length and checksum to what the bytes say.
fn summed(mut batch: Vec<u8>) -> Bytes {
    let length = u32::try_from(batch.len() - 12).unwrap();
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c(&batch[ATTRIBUTES_AT..]);
    batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(batch)
}

fn name_of(code: ErrorCode) -> String {
    code.name().to_owned()
}

/// 45 to 58.
#[tokio::test]
async fn names_that_no_topic_may_have() {
    let mut rig = Rig::start(Settings::default()).await;
    let long = "x".repeat(201);
    for name in [
        "../../etc/passwd",
        "a/b",
        ".",
        "..",
        "",
        &long,
        "a\0b",
        "space ",
        "a\nERROR forged",
        "\u{1b}[31mred",
        "a\u{202e}b",
        "e\u{301}",
        "\u{e9}",
        "__internal",
        "dlq.orders",
        "<script>",
        "topic{label=\"x\"}",
    ] {
        let describe = Body::DescribeTopic(v1::DescribeTopicRequest {
            name: name.to_owned(),
        });
        let delete = Body::DeleteTopic(v1::DeleteTopicRequest {
            name: name.to_owned(),
            ..Default::default()
        });
        for body in [create(name), describe, delete] {
            let Answer::Error(error) = rig.ask(body.clone()).await else {
                panic!("{name:?} is taken by {body:?}");
            };
            assert_eq!(error.name, name_of(ErrorCode::InvalidName), "{name:?}: {error:?}");
            assert!(error.definite && !error.message.is_empty(), "{error:?}");
            assert!(!error.message.contains(['\n', '\u{1b}', '\0']), "{error:?}");
        }
        let metadata = Body::Metadata(v1::MetadataRequest {
            topics: vec![name.to_owned()],
            all: false,
        });
        let Answer::Metadata(answer) = rig.ask(metadata).await else {
            panic!("no metadata");
        };
        let error = answer.topics[0].error.clone().unwrap();
        assert_eq!(error.name, name_of(ErrorCode::InvalidName), "{name:?}");
        if !name.is_empty() {
            let error = rig
                .produce_to(name, 0, Payload::Raw(batch(1)))
                .await
                .error
                .unwrap();
            assert_eq!(error.name, name_of(ErrorCode::InvalidName), "{name:?}");
        }
    }
    assert_eq!(rig.end().await, 3);
}

/// 51, 59 and 60: unusual, and allowed.
#[tokio::test]
async fn names_that_only_look_bad() {
    let mut rig = Rig::start(Settings::default()).await;
    let longest = "y".repeat(200);
    let names = [
        "CON",
        "trailing.",
        "a.b",
        "a_b",
        "Orders",
        "ORDERS",
        "-",
        "...",
        &longest,
    ];
    for name in names {
        let created = rig.ask(create(name)).await;
        assert!(matches!(created, Answer::CreateTopic(_)), "{name}: {created:?}");
    }
    for (count, name) in (1..).zip(names) {
        let produced = rig.produce_to(name, 0, Payload::Raw(batch(count))).await;
        assert_eq!((produced.base_offset, produced.error), (0, None), "{name}");
    }
    // Each has its own records: none is another one's twin.
    let all = Body::ListTopics(v1::ListTopicsRequest::default());
    let Answer::ListTopics(listed) = rig.ask(all).await else {
        panic!("no list");
    };
    for (count, name) in (1..).zip(names) {
        let topic = listed.topics.iter().find(|topic| topic.name == name).unwrap();
        assert_eq!(topic.records, count, "{name}");
    }
}

/// 61 to 63, 66, and what else a batch can say about itself.
#[tokio::test]
async fn batches_that_contradict_themselves() {
    let mut rig = Rig::start(Settings::default()).await;
    let five = batch(5);
    let counted = |count: i32| {
        let batch = patched(&five, COUNT_AT, &count.to_be_bytes());
        patched(&batch, LAST_OFFSET_DELTA_AT, &count.wrapping_sub(1).to_be_bytes())
    };
    let empty = summed(five[..HEADER_BYTES].to_vec());
    let flags = |bits: u16| patched(&five, ATTRIBUTES_AT, &bits.to_be_bytes());
    let invalid = ErrorCode::InvalidBatch;
    for (name, batch, code) in [
        ("61 more than it counts", counted(4), invalid),
        ("61 fewer than it counts", counted(6), invalid),
        ("62 counts 2^31 - 1", counted(i32::MAX), invalid),
        ("62 counts -1", counted(-1), invalid),
        ("63 counts 0", counted(0), invalid),
        ("63 has no records", patched(&empty, COUNT_AT, &[0; 4]), invalid),
        ("no bytes", Bytes::new(), invalid),
        ("half a header", five.slice(..30), invalid),
        ("cut at the end", five.slice(..five.len() - 1), invalid),
        ("two batches", [five.as_ref(), &five].concat().into(), invalid),
        ("a byte behind", [five.as_ref(), &[0]].concat().into(), invalid),
        ("magic 1", patched(&five, MAGIC_AT, &[1]), invalid),
        ("magic 3", patched(&five, MAGIC_AT, &[3]), invalid),
        (
            "the delta of another count",
            patched(&five, LAST_OFFSET_DELTA_AT, &[0, 0, 0, 9]),
            invalid,
        ),
        ("a control batch", flags(1 << 5), invalid),
        ("codec 7", flags(7), ErrorCode::UnsupportedCompression),
        (
            "the broker's kind of time",
            flags(1 << 3),
            ErrorCode::InvalidTimestamp,
        ),
        ("part of a transaction", flags(1 << 4), ErrorCode::InvalidTxnState),
        (
            "a producer without epoch",
            patched(&five, PRODUCER_ID_AT, &1_u64.to_be_bytes()),
            invalid,
        ),
        (
            "garbage for records",
            summed([&five[..HEADER_BYTES], [0xff_u8; 100].as_slice()].concat()),
            ErrorCode::InvalidRecord,
        ),
    ] {
        let error = rig.refused(name, batch).await;
        assert_eq!(error.name, name_of(code), "{name}: {error:?}");
    }
}

/// No refusal: clients get this number wrong, and the broker has just looked at every time.
#[tokio::test]
async fn a_false_greatest_time_is_corrected() {
    let mut rig = Rig::start(Settings::default()).await;
    let five = batch(5);
    let produced = rig.produce(patched(&five, MAX_TIMESTAMP_AT, &[0; 8])).await;
    assert_eq!((produced.error, produced.base_offset), (None, 3));
    let fetched = rig.fetch(3, v1::FetchRequest::default()).await;
    let Some(v1::fetched_partition::Payload::RawBatches(bytes)) = fetched.payload else {
        panic!("no batches");
    };
    assert_eq!(bytes[CRC_AT..], five[CRC_AT..]);
}

/// 66 in both forms, and 65 headers, which are no trouble.
#[tokio::test]
async fn headers_without_a_name_are_refused_and_many_are_not() {
    let mut rig = Rig::start(Settings::default()).await;
    let header = |key: &str| Header {
        key: key.to_owned(),
        value: None,
    };
    let mut unnamed = BatchBuilder::new();
    unnamed.push(Timestamp(1), None, None, &[header("a"), header("")]);
    let error = rig.refused("66 an unnamed header", unnamed.finish(None)).await;
    assert_eq!(error.name, name_of(ErrorCode::InvalidRecord), "{error:?}");
    let record = v1::Record {
        headers: vec![v1::Header::default()],
        ..Default::default()
    };
    let records = Payload::Structured(v1::Records {
        records: vec![record],
    });
    let error = rig.produce_to(TOPIC, 0, records).await.error.unwrap();
    assert_eq!(error.name, name_of(ErrorCode::InvalidRecord), "{error:?}");
    let mut many = BatchBuilder::new();
    many.push(Timestamp(1), None, None, &vec![header("h"); 65]);
    assert_eq!(rig.produce(many.finish(None)).await.error, None);
}

/// 64: every single bit under the checksum counts.
#[tokio::test]
async fn a_flipped_bit_is_found() {
    let mut rig = Rig::start(Settings::default()).await;
    let good = batch(2);
    for at in CRC_AT..good.len() {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1 << (at % 8);
        let error = rig.refused(&format!("byte {at}"), bytes.into()).await;
        assert!(
            [ErrorCode::CorruptBatch, ErrorCode::InvalidBatch]
                .map(ErrorCode::name)
                .contains(&error.name.as_str()),
            "byte {at}: {error:?}"
        );
    }
    // One that no other rule could find.
    let mut bytes = good.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let error = rig.refused("64 the last byte", bytes.into()).await;
    assert_eq!(error.name, name_of(ErrorCode::CorruptBatch));
}

/// 65: the limit is told, and the largest batch is taken.
#[tokio::test]
async fn a_batch_above_the_limit_is_refused_with_the_limit() {
    let mut rig = Rig::start(Settings::default()).await;
    let sized = |total: usize| {
        let filled = |value: usize| {
            let mut builder = BatchBuilder::new();
            builder.push(Timestamp(1), None, Some(&vec![b'x'; value]), &[]);
            builder.finish(None)
        };
        let overhead = filled(3000).len() - 3000;
        let batch = filled(total - overhead);
        assert_eq!(batch.len(), total);
        batch
    };
    assert_eq!(rig.produce(sized(BATCH_BYTES_MAX)).await.error, None);
    let error = rig.refused("65 one byte more", sized(BATCH_BYTES_MAX + 1)).await;
    assert_eq!(error.name, name_of(ErrorCode::MessageTooLarge));
    let details = error.details.unwrap();
    assert_eq!((details.limit, details.actual), (Some(4096), Some(4097)));
    let record = v1::Record {
        value: Some(Bytes::from(vec![0; BATCH_BYTES_MAX])),
        ..Default::default()
    };
    let records = Payload::Structured(v1::Records {
        records: vec![record],
    });
    let error = rig.produce_to(TOPIC, 0, records).await.error.unwrap();
    assert_eq!(error.name, name_of(ErrorCode::MessageTooLarge));
}

/// 68: a producer's time is kept as it is, or refused where it lies far ahead of the broker's clock; retention goes by
/// neither.
#[tokio::test]
async fn times_from_the_ends_of_the_calendar() {
    const YEAR_9999: i64 = 253_402_214_400_000;
    let mut rig = Rig::start(Settings::default()).await;
    let timed = |time| {
        let mut builder = BatchBuilder::new();
        builder.push(Timestamp(time), None, Some(b"v"), &[]);
        builder.finish(None)
    };
    for time in [i64::MIN, -2, -1, 0] {
        let produced = rig.produce(timed(time)).await;
        assert_eq!(produced.error, None, "{time}");
        assert!(produced.append_time > 1_700_000_000_000, "{time}");
    }
    for time in [YEAR_9999, i64::MAX] {
        let error = rig.refused("68 far ahead", timed(time)).await;
        assert_eq!(error.name, name_of(ErrorCode::InvalidTimestamp), "{time}");
    }
    assert_eq!(rig.end().await, 7);
}

/// 69 and 70.
#[tokio::test]
async fn places_and_levels_that_do_not_exist() {
    let mut rig = Rig::start(Settings::default()).await;
    for (topic, partition) in [("order", 0), (TOPIC, 1), (TOPIC, u32::MAX)] {
        let produced = rig.produce_to(topic, partition, Payload::Raw(batch(1))).await;
        let error = produced.error.unwrap();
        assert_eq!(
            error.name,
            name_of(ErrorCode::UnknownTopicOrPartition),
            "{topic}/{partition}"
        );
        assert!(error.definite && !error.hint.is_empty(), "{error:?}");
    }
    let partitions = vec![v1::ProducePartition {
        partition: at(TOPIC, 0),
        payload: Some(Payload::Raw(batch(1))),
        ..Default::default()
    }];
    let Answer::Error(error) = rig
        .ask(Body::Produce(v1::ProduceRequest { acks: 9, partitions }))
        .await
    else {
        panic!("acks 9 is taken");
    };
    assert_eq!(error.name, name_of(ErrorCode::InvalidArgument));
    assert_eq!(error.details.unwrap().field, "produce.acks");
    assert_eq!(rig.end().await, 3);
}

/// 71 to 73.
#[tokio::test]
async fn sequences_of_a_producer() {
    let mut rig = Rig::start(Settings::default()).await;
    let producer = rig.new_producer().await;
    for sequence in 0..7 {
        assert_eq!(
            rig.produce(batch_of(producer, sequence)).await.base_offset,
            3 + i64::from(sequence)
        );
    }
    let gap = rig.refused("71 a gap", batch_of(producer, 8)).await;
    assert_eq!(gap.name, name_of(ErrorCode::OutOfOrderSequence));
    assert_eq!(gap.class, v1::ErrorClass::Fatal as i32);
    assert_eq!(gap.details.unwrap().expected_sequence, Some(7));
    let again = rig.produce(batch_of(producer, 6)).await;
    assert_eq!(
        (again.error, again.base_offset, again.duplicate),
        (None, 9, true),
        "72"
    );
    let old = rig.produce(batch_of(producer, 0)).await;
    assert_eq!(
        (old.error, old.base_offset, old.duplicate),
        (None, -1, true),
        "73"
    );
    assert_eq!(rig.end().await, 10);
}

/// 74, 75 and 78.
#[tokio::test]
async fn epochs_of_a_producer() {
    let mut rig = Rig::start(Settings::default()).await;
    let old = rig.new_producer().await;
    assert_eq!(rig.produce(batch_of(old, 0)).await.error, None);
    let new = rig.init(old.producer_id, old.producer_epoch).await.unwrap();
    assert_eq!(
        (new.producer_id, new.producer_epoch),
        (old.producer_id, old.producer_epoch + 1)
    );
    assert_eq!(rig.produce(batch_of(new, 0)).await.error, None);
    let fenced = rig.refused("74 an old epoch", batch_of(old, 1)).await;
    assert_eq!(fenced.name, name_of(ErrorCode::InvalidProducerEpoch));
    assert_eq!(fenced.details.unwrap().current_epoch, Some(new.producer_epoch));
    for never in [1 << 40, i64::MAX] {
        let error = rig
            .refused("75 an id that was never given", batch_of_epoch(never, 0, 0, 1))
            .await;
        assert_eq!(error.name, name_of(ErrorCode::UnknownProducerId));
    }
    let last = rig.init(new.producer_id, i32::from(i16::MAX)).await.unwrap();
    assert!(
        last.producer_id != new.producer_id && last.producer_epoch == 0,
        "78: {last:?}"
    );
}

/// 77.
#[tokio::test]
async fn a_sequence_goes_on_at_zero_behind_the_greatest() {
    let mut rig = Rig::start(Settings::default()).await;
    let producer = rig.new_producer().await;
    let batch = |sequence| batch_of_epoch(producer.producer_id, producer.producer_epoch, sequence, 3);
    // The first batch of a producer that is not known may begin anywhere.
    assert_eq!(rig.produce(batch(i32::MAX - 4)).await.error, None);
    // Two records before the wrap and one behind it.
    let across = rig.produce(batch(i32::MAX - 1)).await;
    assert_eq!((across.error, across.base_offset), (None, 6));
    assert_eq!(rig.produce(batch(1)).await.base_offset, 9);
    let again = rig.produce(batch(i32::MAX - 1)).await;
    assert_eq!((again.base_offset, again.duplicate), (6, true));
}

/// 83.
#[tokio::test]
async fn offsets_that_cannot_be_read_are_answered_with_those_that_can() {
    let mut rig = Rig::start(Settings::default()).await;
    for offset in [-1, i64::MIN, 4, i64::MAX] {
        let error = rig
            .fetch(offset, v1::FetchRequest::default())
            .await
            .error
            .unwrap();
        assert_eq!(error.name, name_of(ErrorCode::OffsetOutOfRange), "{offset}");
        let details = error.details.unwrap();
        assert_eq!(
            (details.log_start_offset, details.high_watermark),
            (Some(0), Some(3)),
            "{offset}"
        );
    }
    assert_eq!(rig.fetch(3, v1::FetchRequest::default()).await.error, None);
    let trim = v1::TrimTopicRequest {
        partitions: vec![v1::TrimPartition {
            partition: at(TOPIC, 0),
            to_offset: 2,
        }],
    };
    assert!(matches!(
        rig.ask(Body::TrimTopic(trim)).await,
        Answer::TrimTopic(_)
    ));
    let error = rig.fetch(1, v1::FetchRequest::default()).await.error.unwrap();
    assert_eq!(
        error.name,
        name_of(ErrorCode::OffsetOutOfRange),
        "83 below the earliest"
    );
    let details = error.details.unwrap();
    assert_eq!(
        (details.log_start_offset, details.high_watermark),
        (Some(2), Some(3))
    );
}

/// 84 and 85.
#[tokio::test]
async fn limits_of_a_fetch_are_cut_to_what_the_broker_allows() {
    let settings = Settings {
        fetch_wait_max: Duration::from_millis(50),
        ..Settings::default()
    };
    let mut rig = Rig::start(settings).await;
    for max_bytes in [0, 1, 1 << 31, u32::MAX] {
        let request = v1::FetchRequest {
            max_bytes,
            ..Default::default()
        };
        let fetched = rig.fetch(0, request).await;
        assert_eq!((fetched.error, fetched.next_offset), (None, 3), "{max_bytes}");
    }
    let request = v1::FetchRequest {
        max_wait_ms: u32::MAX,
        min_bytes: u32::MAX,
        ..Default::default()
    };
    let fetched = tokio::time::timeout(PATIENCE, rig.fetch(3, request)).await;
    assert_eq!(fetched.expect("49 days are cut to 50 ms").next_offset, 3);
}

/// 86.
#[tokio::test]
async fn more_long_polls_than_a_connection_may_have_are_sent_back() {
    let settings = Settings {
        requests_parked_max: 4,
        ..Settings::default()
    };
    let mut rig = Rig::start(settings).await;
    let poll = || {
        Body::Fetch(v1::FetchRequest {
            max_wait_ms: 20_000,
            partitions: vec![v1::FetchPartition {
                partition: at(TOPIC, 0),
                offset: 3,
                ..Default::default()
            }],
            ..Default::default()
        })
    };
    for id in 100..105 {
        rig.peer.ask(id, poll()).await;
    }
    let (id, error) = rig.peer.refusal().await;
    assert_eq!((id, error.name), (104, name_of(ErrorCode::Backpressure)));
    assert!(error.retry_after_ms > 0);
    // The others wait on, and are answered.
    let mut other = rig.server.friend().await;
    let partitions = vec![v1::ProducePartition {
        partition: at(TOPIC, 0),
        payload: Some(Payload::Raw(batch(1))),
        ..Default::default()
    }];
    other
        .ask(1, Body::Produce(v1::ProduceRequest { acks: 1, partitions }))
        .await;
    other.answer().await;
    let mut answered = Vec::new();
    for _ in 0..4 {
        answered.push(rig.peer.answer().await.request_id);
    }
    answered.sort_unstable();
    assert_eq!(answered, [100, 101, 102, 103]);
}

/// 87.
#[tokio::test]
async fn more_partitions_than_a_request_may_have_are_refused() {
    let mut rig = Rig::start(Settings::default()).await;
    for count in [1_025, 100_000] {
        let one = v1::FetchPartition {
            partition: at(TOPIC, 0),
            ..Default::default()
        };
        let request = v1::FetchRequest {
            partitions: vec![one; count],
            ..Default::default()
        };
        let Answer::Error(error) = rig.ask(Body::Fetch(request)).await else {
            panic!("{count} partitions are taken");
        };
        assert_eq!(error.name, name_of(ErrorCode::TooManyElements), "{count}");
        assert!(error.details.unwrap().limit.is_some());
    }
}
