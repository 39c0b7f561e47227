//! Compressed batches through a real broker: stored as they came, read in both forms, in order, and never believed.

use std::process::Command;

use bytes::{Bytes, BytesMut};
use naru::client::{Client, Compression, CreateTopicOptions, ProducerRecord, Start};
use naru::model::{ErrorCode, Timestamp};
use naru::net::Settings;
use naru::pb::v1;
use naru::pb::v1::produce_partition::Payload;
use naru::pb::v1::request::Body;
use naru::pb::v1::response::Body as Answer;
use naru::record::{BatchBuilder, Batches, Codec, DECOMPRESSED_BYTES_MAX, crc32c};

use crate::broker::Broker;
use crate::peer::{Peer, Server, start_broker};

const TOPIC: &str = "orders";
const CODECS: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

/// Above this the broker decompresses on another thread.
const OFFLOADED_BYTES: usize = 200_000;

async fn rig() -> (Server, Peer) {
    let server = start_broker(Settings::default());
    let mut peer = server.friend().await;
    let topic = v1::CreateTopicRequest {
        name: TOPIC.to_owned(),
        partitions: 1,
        ..Default::default()
    };
    peer.ask(1, Body::CreateTopic(topic)).await;
    assert!(matches!(peer.answer().await.body, Some(Answer::CreateTopic(_))));
    (server, peer)
}

fn at() -> Option<v1::TopicPartition> {
    Some(v1::TopicPartition {
        topic: TOPIC.to_owned(),
        ..Default::default()
    })
}

fn produce(batch: Bytes) -> Body {
    Body::Produce(v1::ProduceRequest {
        acks: 1,
        partitions: vec![v1::ProducePartition {
            partition: at(),
            payload: Some(Payload::Raw(batch)),
            ..Default::default()
        }],
    })
}

async fn produced(peer: &mut Peer, batch: Bytes) -> v1::ProducedPartition {
    peer.ask(2, produce(batch)).await;
    match peer.answer().await.body {
        Some(Answer::Produce(mut produced)) => produced.partitions.remove(0),
        other => panic!("no produce: {other:?}"),
    }
}

async fn fetched(peer: &mut Peer, offset: i64, form: v1::FetchForm) -> v1::FetchedPartition {
    let request = v1::FetchRequest {
        form: form.into(),
        partitions: vec![v1::FetchPartition {
            partition: at(),
            offset,
            ..Default::default()
        }],
        ..Default::default()
    };
    peer.ask(3, Body::Fetch(request)).await;
    match peer.answer().await.body {
        Some(Answer::Fetch(mut fetched)) => fetched.partitions.remove(0),
        other => panic!("no fetch: {other:?}"),
    }
}

/// Records that compress well and differ.
fn batch(codec: Codec, records: u32, value_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new();
    for n in 0..records {
        let mut value = n.to_be_bytes().to_vec();
        value.resize(value_bytes.max(4), b'x');
        builder.push(Timestamp(1_000), Some(b"key"), Some(&value), &[]);
    }
    let batch = builder.compressed(codec).finish(None);
    let header = naru::record::BatchHeader::parse(&batch).unwrap();
    assert_eq!(Codec::of(&header), Ok(codec));
    batch
}

/// A batch with other bytes for records, under a header that fits them.
fn with_body(batch: &Bytes, body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::from(&batch[..61]);
    bytes.extend_from_slice(body);
    let length = u32::try_from(bytes.len() - 12).unwrap();
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.freeze()
}

#[tokio::test]
async fn batches_of_every_codec_are_stored_as_they_came_and_read_in_both_forms() {
    let (_server, mut peer) = rig().await;
    let mut offset = 0;
    for codec in CODECS {
        for (records, value_bytes) in [(3, 1_000), (40, OFFLOADED_BYTES / 40)] {
            let sent = batch(codec, records, value_bytes);
            let answer = produced(&mut peer, sent.clone()).await;
            assert_eq!((answer.error, answer.base_offset), (None, offset), "{codec}");
            let raw = fetched(&mut peer, offset, v1::FetchForm::Raw).await;
            let Some(v1::fetched_partition::Payload::RawBatches(bytes)) = raw.payload else {
                panic!("no batches");
            };
            // From the checksum on, which is the producer's own.
            assert_eq!(bytes[17..], sent[17..], "{codec}");
            let structured = fetched(&mut peer, offset + 1, v1::FetchForm::Structured).await;
            let Some(v1::fetched_partition::Payload::Records(found)) = structured.payload else {
                panic!("no records");
            };
            let numbers = found.records.iter().map(|record| {
                let value = record.value.as_ref().unwrap();
                assert_eq!(value.len(), value_bytes);
                (
                    record.offset - offset,
                    u32::from_be_bytes(value[..4].try_into().unwrap()),
                )
            });
            assert!(numbers.eq((1..records).map(|n| (i64::from(n), n))), "{codec}");
            offset += i64::from(records);
            assert_eq!(structured.next_offset, offset);
        }
    }
}

#[tokio::test]
async fn batches_keep_their_order_whatever_their_validation_takes() {
    let (_server, mut peer) = rig().await;
    let slow = batch(Codec::Gzip, 40, OFFLOADED_BYTES);
    let quick = batch(Codec::None, 1, 10);
    for id in 10..30 {
        peer.ask(
            id,
            produce(if id % 2 == 0 { slow.clone() } else { quick.clone() }),
        )
        .await;
    }
    let mut offsets = Vec::new();
    for _ in 0..20 {
        let answer = peer.answer().await;
        let Some(Answer::Produce(produced)) = answer.body else {
            panic!("no produce");
        };
        assert_eq!(produced.partitions[0].error, None);
        offsets.push((answer.request_id, produced.partitions[0].base_offset));
    }
    offsets.sort_unstable();
    let expected = (10..30).scan(0, |next, id| {
        let base = *next;
        *next += if id % 2 == 0 { 40 } else { 1 };
        Some((id, base))
    });
    assert!(offsets.iter().copied().eq(expected), "{offsets:?}");
}

#[tokio::test]
async fn what_only_looks_compressed_is_refused_and_nothing_is_written() {
    let (_server, mut peer) = rig().await;
    for codec in CODECS {
        let good = batch(codec, 5, 1_000);
        let miscounted = {
            let mut bytes = good.to_vec();
            bytes[57..61].copy_from_slice(&4_u32.to_be_bytes());
            bytes[23..27].copy_from_slice(&3_u32.to_be_bytes());
            with_body(&bytes.clone().into(), &bytes[61..])
        };
        for (what, bad) in [
            ("garbage", with_body(&good, &[0xd7; 200])),
            ("nothing", with_body(&good, &[])),
            ("half", with_body(&good, &good[61..61 + (good.len() - 61) / 2])),
            ("another count", miscounted),
        ] {
            let error = produced(&mut peer, bad).await.error;
            let error = error.unwrap_or_else(|| panic!("{codec}: {what} is taken"));
            let codes = [ErrorCode::InvalidBatch, ErrorCode::InvalidRecord].map(ErrorCode::name);
            assert!(codes.contains(&error.name.as_str()), "{codec}, {what}: {error:?}");
            assert!(error.definite);
        }
    }
    let lz4 = batch(Codec::Lz4, 200, 1_000);
    for (what, codec, body) in [
        (
            "81 a size of 2 GiB that is a lie",
            Codec::Snappy,
            &[0xff, 0xff, 0xff, 0xff, 0x07, 0][..],
        ),
        (
            "81 a window of 2 GiB",
            Codec::Zstd,
            &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00],
        ),
        ("a frame without its end", Codec::Lz4, &lz4[61..lz4.len() - 4]),
        ("two frames", Codec::Lz4, &[&lz4[61..], &lz4[61..]].concat()),
    ] {
        let like = if codec == Codec::Lz4 {
            lz4.clone()
        } else {
            batch(codec, 5, 1_000)
        };
        let error = produced(&mut peer, with_body(&like, body)).await.error;
        let error = error.unwrap_or_else(|| panic!("{codec}: {what} is taken"));
        assert_eq!(error.name, ErrorCode::InvalidBatch.name(), "{what}: {error:?}");
    }
    let error = produced(&mut peer, {
        let mut bytes = batch(Codec::Zstd, 5, 1_000).to_vec();
        bytes[22] = 6;
        let body = bytes[61..].to_vec();
        with_body(&bytes.into(), &body)
    })
    .await
    .error
    .unwrap();
    assert_eq!(error.name, ErrorCode::UnsupportedCompression.name());
    assert_eq!(fetched(&mut peer, 0, v1::FetchForm::Raw).await.high_watermark, 0);
}

/// 80: a small batch that is gigabytes of records. The broker gives up at its limit.
#[tokio::test]
async fn a_decompression_bomb_takes_neither_time_nor_memory() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    client
        .create_topic(TOPIC, CreateTopicOptions::default())
        .await
        .unwrap();
    let mut bomb = Vec::new();
    let mut encoder = zstd::stream::write::Encoder::new(&mut bomb, 1).unwrap();
    for _ in 0..160 {
        std::io::Write::write_all(&mut encoder, &vec![0; 64 << 20]).unwrap();
    }
    encoder.finish().unwrap();
    assert!(bomb.len() < 1 << 20, "10 GiB in {} bytes", bomb.len());
    let bomb = with_body(&batch(Codec::Zstd, 5, 1_000), &bomb);
    let (_, before) = broker.rss_kib();
    let address = broker.native.parse().unwrap();
    let mut peer = Peer::connect(address).await;
    for _ in 0..4 {
        let error = produced(&mut peer, bomb.clone()).await.error.unwrap();
        assert_eq!(error.name, ErrorCode::MessageTooLarge.name(), "{error:?}");
        assert_eq!(error.details.unwrap().limit, Some(DECOMPRESSED_BYTES_MAX as u64));
    }
    let (_, peak) = broker.rss_kib();
    let grown = peak - before;
    assert!(
        grown < 320 << 10,
        "the broker took {grown} KiB for 40 GiB of zeros"
    );
    assert!(broker.child.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn a_producer_compresses_and_a_reader_does_not_notice() {
    let broker = Broker::start();
    let client: Client = broker.client().await;
    client
        .create_topic(TOPIC, CreateTopicOptions::default())
        .await
        .unwrap();
    let mut expected = Vec::new();
    for codec in [
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ] {
        let producer = client.producer().compression(codec).build().await.unwrap();
        for n in 0..500 {
            let value = format!("{codec} {n} {}", "naru ".repeat(40));
            expected.push(value.clone());
            drop(
                producer
                    .enqueue(ProducerRecord::to(TOPIC).value(value))
                    .await
                    .unwrap(),
            );
        }
        producer.close().await.unwrap();
    }
    let mut reader = client.reader(TOPIC, 0, Start::Earliest).build().await.unwrap();
    for value in &expected {
        let record = reader.next().await.unwrap().unwrap();
        assert_eq!(record.value.as_deref(), Some(value.as_bytes()));
    }
    // They really are compressed, in what the broker has.
    let described = client.describe_topic(TOPIC).await.unwrap();
    let plain: usize = expected.iter().map(String::len).sum();
    assert!(
        described.partitions[0].size_bytes < plain as u64 / 4,
        "{described:?}"
    );
    let mut batches = client.reader(TOPIC, 0, Start::Earliest).build().await.unwrap();
    let first = batches.next_batch().await.unwrap().unwrap();
    let (header, _) = Batches::new(first.bytes.clone()).next().unwrap().unwrap();
    assert_eq!(Codec::of(&header), Ok(Codec::Gzip));
}

/// What the encoder writes, read by an implementation that shares no line with it.
#[test]
fn aiokafka_reads_the_batches_of_every_codec() {
    let probe = Command::new("python3")
        .args(["-c", "import aiokafka, cramjam"])
        .output();
    if !probe.as_ref().is_ok_and(|probe| probe.status.success()) {
        eprintln!(
            "SKIPPED: reading with aiokafka: python3 with aiokafka is not there; \
             pip install -r tests/fixtures/record/requirements.txt"
        );
        return;
    }
    // Records of more than one block of every codec.
    let value = |n: u8| [n; 1_000];
    let folder = tempfile::tempdir().unwrap();
    let files = Codec::ALL.map(|codec| {
        let mut builder = BatchBuilder::new().compressed(codec);
        for n in 0..200_u8 {
            builder.push(Timestamp(1_000 + i64::from(n)), Some(&[n]), Some(&value(n)), &[]);
        }
        let batch = builder.finish(None);
        let header = naru::record::BatchHeader::parse(&batch).unwrap();
        assert_eq!(Codec::of(&header), Ok(codec));
        let file = folder.path().join(codec.name());
        std::fs::write(&file, &batch).unwrap();
        file
    });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/record/generate.py");
    let run = Command::new("python3")
        .args([script, "--check"])
        .args(files)
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr),
    );
    assert!(run.status.success(), "{err}");
    let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let expected: Vec<_> = (0..200_u8)
        .map(|n| {
            serde_json::json!([
                1_000 + u64::from(n),
                hexadecimal(&[n]),
                hexadecimal(&value(n)),
                []
            ])
        })
        .collect();
    let read: Vec<serde_json::Value> = out
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(read.len(), Codec::ALL.len(), "{out}");
    for batch in read {
        assert_eq!(batch["records"].as_array(), Some(&expected));
    }
}
