//! What is encoded by hand is read back by the protobuf library.

use prost::Message;

use super::*;
use crate::api::Committed;
use crate::model::{LeaderEpoch, LogBounds, PartitionId, PartitionKey, ProducerEpoch, ProducerId, Timestamp};
use crate::record::Header;

const MAX: u32 = 16 << 20;

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn fetched(payload: FetchPayload) -> FetchedPartition {
    FetchedPartition {
        high_watermark: offset(300),
        log_start: offset(0),
        next_offset: offset(7),
        leader_epoch: LeaderEpoch(2),
        payload,
    }
}

fn decode(frame: &FrameOut) -> v1::Response {
    v1::Response::decode(frame.to_bytes().slice(4..)).unwrap()
}

fn expected_partition(payload: Option<Payload>) -> v1::FetchedPartition {
    v1::FetchedPartition {
        error: None,
        high_watermark: 300,
        log_start_offset: 0,
        next_offset: 7,
        leader_epoch: 2,
        payload,
    }
}

#[test]
fn fetches_by_hand_are_what_prost_writes() {
    let large = Bytes::from(vec![1; 100_000]);
    let small = Bytes::from_static(b"small");
    let record = Record {
        key: None,
        value: Some(small.clone()),
        headers: vec![Header {
            key: "h".to_owned(),
            value: None,
        }],
        timestamp: Some(crate::model::Timestamp(5)),
    };
    let error = ApiError::new(ErrorCode::OffsetOutOfRange, "no");
    let partitions = vec![
        Ok(fetched(FetchPayload::Raw(vec![
            large.clone(),
            small.clone(),
            large.clone(),
        ]))),
        Err(error.clone()),
        Ok(fetched(FetchPayload::Raw(vec![]))),
        Ok(fetched(FetchPayload::Structured(vec![(offset(6), record)]))),
        Ok(fetched(FetchPayload::Raw(vec![small.clone()]))),
    ];
    let expected = v1::Response {
        request_id: 99,
        body: Some(Body::Fetch(v1::FetchResponse {
            partitions: vec![
                expected_partition(Some(Payload::RawBatches(
                    [large.clone(), small.clone(), large.clone()].concat().into(),
                ))),
                v1::FetchedPartition {
                    error: Some(errors::to_wire(error)),
                    ..Default::default()
                },
                expected_partition(Some(Payload::RawBatches(Bytes::new()))),
                expected_partition(Some(Payload::Records(v1::Records {
                    records: vec![v1::Record {
                        key: None,
                        value: Some(small.clone()),
                        headers: vec![v1::Header {
                            key: "h".to_owned(),
                            value: None,
                        }],
                        timestamp: Some(5),
                        offset: 6,
                    }],
                }))),
                expected_partition(Some(Payload::RawBatches(small))),
            ],
        })),
    };
    let frame = reply(99, Ok(Response::Fetch(Fetched { partitions })), MAX);
    assert_eq!(frame.to_bytes()[4..], expected.encode_to_vec());
    assert_eq!(decode(&frame), expected);
    let chunks = frame.into_chunks();
    let shared = chunks
        .iter()
        .filter(|chunk| chunk.as_ptr() == large.as_ptr())
        .count();
    assert_eq!(shared, 2, "large extents are not copied");
}

#[test]
fn an_empty_fetch_has_its_body_all_the_same() {
    let frame = reply(0, Ok(Response::Fetch(Fetched { partitions: vec![] })), MAX);
    assert_eq!(
        decode(&frame).body,
        Some(Body::Fetch(v1::FetchResponse::default()))
    );
}

#[test]
fn a_reply_above_the_limit_becomes_an_error_with_the_limit() {
    let fetch = |bytes: usize| {
        let payload = FetchPayload::Raw(vec![Bytes::from(vec![0; bytes])]);
        let partitions = vec![Ok(fetched(payload))];
        Ok(Response::Fetch(Fetched { partitions }))
    };
    let overhead = reply(1, fetch(900), 1000).bytes() - 900;
    let fitting = 1004 - overhead;
    assert!(matches!(
        decode(&reply(1, fetch(fitting), 1000)).body,
        Some(Body::Fetch(_))
    ));
    let Some(Body::Error(error)) = decode(&reply(1, fetch(fitting + 1), 1000)).body else {
        panic!("no error");
    };
    assert_eq!(error.name, "LIMIT_EXCEEDED");
    assert_eq!(error.details.and_then(|details| details.limit), Some(1000));
}

#[test]
fn a_produced_partition_says_what_it_got() {
    let produced = ProducedPartition {
        offsets: Some((offset(10), offset(12))),
        append_time: crate::model::Timestamp(77),
        leader_epoch: LeaderEpoch(4),
        duplicate: false,
        acks: Acks::Fsync,
        durable_through: Some(Lsn(0)),
        log_start: offset(3),
    };
    let forgotten = ProducedPartition {
        offsets: None,
        duplicate: true,
        acks: Acks::Memory,
        durable_through: None,
        ..produced
    };
    let error = ApiError::new(ErrorCode::StorageFull, "full");
    let partitions = vec![Ok(produced), Ok(forgotten), Err(error)];
    let frame = reply(5, Ok(Response::Produce(Produced { partitions })), MAX);
    let Some(Body::Produce(answer)) = decode(&frame).body else {
        panic!("no produce");
    };
    let first = v1::ProducedPartition {
        error: None,
        base_offset: 10,
        last_offset: 12,
        append_time: 77,
        leader_epoch: 4,
        duplicate: false,
        acks: v1::Acks::Fsync.into(),
        durable_through: Some(0),
        log_start_offset: 3,
    };
    assert_eq!(answer.partitions[0], first);
    let second = &answer.partitions[1];
    assert_eq!(
        (second.base_offset, second.last_offset, second.duplicate),
        (-1, -1, true)
    );
    assert_eq!(
        (second.acks, second.durable_through),
        (v1::Acks::Memory.into(), None)
    );
    let third = answer.partitions[2].error.clone().unwrap_or_default();
    assert_eq!((third.name.as_str(), third.definite), ("STORAGE_FULL", true));
}

#[test]
fn a_changed_topic_is_shown_with_its_configuration() {
    let altered = AlteredTopic {
        id: TopicId::from_bytes([9; 16]),
        partitions: 7,
        configs: vec![ConfigEntry {
            name: "preallocate".to_owned(),
            value: "true".to_owned(),
            source: "topic".to_owned(),
            has_effect: false,
        }],
        changed: true,
    };
    let expected = v1::AlterTopicResponse {
        topic_id: Bytes::from(vec![9; 16]),
        partitions: 7,
        configs: vec![v1::ConfigEntry {
            name: "preallocate".to_owned(),
            value: "true".to_owned(),
            source: "topic".to_owned(),
            without_effect: true,
        }],
        changed: true,
    };
    let shown = decode(&reply(1, Ok(Response::AlterTopic(altered)), MAX));
    assert_eq!(shown.body, Some(Body::AlterTopic(expected)));
}

#[test]
fn other_answers_cross_the_wire() {
    let id = TopicId::from_bytes([9; 16]);
    let cases = [
        (
            Response::InitProducer(InitializedProducer {
                id: ProducerId(5),
                epoch: ProducerEpoch(6),
            }),
            Body::InitProducer(v1::InitProducerResponse {
                producer_id: 5,
                producer_epoch: 6,
            }),
        ),
        (
            Response::CreateTopic(CreatedTopic {
                id,
                partitions: 6,
                created: true,
            }),
            Body::CreateTopic(v1::CreateTopicResponse {
                topic_id: Bytes::from(vec![9; 16]),
                partitions: 6,
                created: true,
            }),
        ),
        (
            Response::DeleteTopic(id),
            Body::DeleteTopic(v1::DeleteTopicResponse {
                topic_id: Bytes::from(vec![9; 16]),
            }),
        ),
        (
            Response::ListOffsets(vec![Ok(ListedOffset {
                offset: offset(8),
                timestamp: Some(crate::model::Timestamp(77)),
                leader_epoch: LeaderEpoch(1),
            })]),
            Body::ListOffsets(v1::ListOffsetsResponse {
                partitions: vec![v1::ListedOffset {
                    error: None,
                    offset: 8,
                    leader_epoch: 1,
                    timestamp: Some(77),
                }],
            }),
        ),
        (
            Response::CommitOffsets(Timestamp(77)),
            Body::CommitOffsets(v1::CommitOffsetsResponse { committed_ms: 77 }),
        ),
    ];
    for (response, expected) in cases {
        assert_eq!(decode(&reply(1, Ok(response), MAX)).body, Some(expected));
    }
}

#[test]
fn group_offsets_tell_nothing_committed_from_offset_zero() {
    let id = TopicId::from_bytes([9; 16]);
    let at = |committed| GroupOffset {
        topic: "t".parse().unwrap(),
        key: PartitionKey {
            topic: id,
            partition: PartitionId(2),
        },
        committed,
        bounds: LogBounds {
            log_start: offset(1),
            high_watermark: offset(9),
            log_end: offset(10),
        },
    };
    let zero = Committed {
        offset: Offset::ZERO,
        leader_epoch: Some(LeaderEpoch(3)),
        metadata: "words".into(),
        at: Timestamp(77),
    };
    let error = ApiError::new(ErrorCode::UnknownTopicOrPartition, "no");
    let offsets = vec![Ok(at(Some(zero))), Ok(at(None)), Err(error.clone())];
    let nothing = v1::GroupOffset {
        partition: Some(v1::TopicPartition {
            topic: "t".to_owned(),
            topic_id: Bytes::from(vec![9; 16]),
            partition: 2,
        }),
        log_start_offset: 1,
        high_watermark: 9,
        ..Default::default()
    };
    let expected = vec![
        v1::GroupOffset {
            offset: Some(0),
            leader_epoch: Some(3),
            metadata: "words".to_owned(),
            committed_ms: 77,
            ..nothing.clone()
        },
        nothing,
        v1::GroupOffset {
            error: Some(errors::to_wire(error)),
            ..Default::default()
        },
    ];
    assert_eq!(
        decode(&reply(1, Ok(Response::FetchOffsets(offsets)), MAX)).body,
        Some(Body::FetchOffsets(v1::FetchOffsetsResponse { offsets: expected }))
    );
}
