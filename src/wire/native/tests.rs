//! The native protocol: greeting, requests, answers, errors.

use super::*;
use crate::api;
use crate::api::{FetchForm, ProducePayload, ProducerStamp, Request};
use crate::model::{Acks, PartitionId, ProducerEpoch, ProducerId, Sequence};
use crate::pb::v1::produce_partition::Payload;

fn protocol() -> NativeProtocol {
    let identity = Identity {
        cluster_id: "c1".to_owned(),
        broker_id: BrokerId(3),
        server_version: "0.1.0".to_owned(),
        features: vec!["structured".to_owned()],
        batch_bytes_max: 1_048_588,
        step_bytes_max: 4 << 20,
    };
    NativeProtocol::new(identity, &Settings::default())
}

fn frame(body: Body) -> Bytes {
    let request = v1::Request {
        request_id: 42,
        deadline_ms: 0,
        body: Some(body),
    };
    Bytes::from(request.encode_to_vec())
}

fn response(frame: &FrameOut) -> v1::Response {
    v1::Response::decode(frame.to_bytes().slice(4..)).unwrap()
}

fn hello() -> v1::HelloRequest {
    v1::HelloRequest {
        version_min: 1,
        version_max: 1,
        client_name: "test".to_owned(),
        client_version: "1.2".to_owned(),
        ..Default::default()
    }
}

fn refusal(greeting: Greeting) -> v1::Error {
    let Greeting::Refuse { code, answer } = greeting else {
        panic!("not refused: {greeting:?}");
    };
    let response = response(&answer);
    assert_eq!(response.request_id, 42);
    let Some(Answer::Error(error)) = response.body else {
        panic!("no error");
    };
    assert_eq!(error.code, code.number());
    error
}

fn at(topic: &str, partition: u32) -> Option<v1::TopicPartition> {
    Some(v1::TopicPartition {
        topic: topic.to_owned(),
        topic_id: Bytes::new(),
        partition,
    })
}

fn decoded(body: Body) -> Request {
    let Decoded { id, decision } = protocol().decode(frame(body));
    assert_eq!(id, 42);
    let Decision::Request { request, .. } = decision else {
        panic!("{decision:?}");
    };
    request
}

fn wrong_field(body: Body) -> String {
    let Decision::Refuse(error) = protocol().decode(frame(body)).decision else {
        panic!("not refused");
    };
    assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");
    error.details.field.unwrap_or_default()
}

#[test]
fn hello_is_answered_with_identity_and_limits() {
    let Greeting::Welcome { answer, software } = protocol().greet(frame(Body::Hello(hello()))) else {
        panic!("refused");
    };
    assert_eq!(&*software, "test 1.2");
    let Some(Answer::Hello(answer)) = response(&answer).body else {
        panic!("no hello");
    };
    assert_eq!(
        (answer.version, answer.broker_id, answer.cluster_id.as_str()),
        (1, 3, "c1")
    );
    let limits = answer.limits.unwrap_or_default();
    assert_eq!(
        (limits.request_bytes_max, limits.response_bytes_max),
        (8 << 20, 16 << 20)
    );
    assert_eq!(
        (limits.requests_running_max, limits.requests_parked_max),
        (64, 64)
    );
    assert_eq!(
        (limits.fetch_wait_ms_max, limits.idle_timeout_ms),
        (30_000, 600_000)
    );
    assert_eq!(
        (limits.batch_bytes_max, limits.step_bytes_max),
        (1_048_588, 4 << 20)
    );
}

#[test]
fn hello_with_other_versions_is_refused_with_ours() {
    for (version_min, version_max) in [(2, 9), (0, 0), (7, 1)] {
        let body = v1::HelloRequest {
            version_min,
            version_max,
            ..hello()
        };
        let error = refusal(protocol().greet(frame(Body::Hello(body))));
        assert_eq!(
            (error.name.as_str(), error.class()),
            ("UNSUPPORTED_VERSION", v1::ErrorClass::Fatal)
        );
        let details = error.details.unwrap_or_default();
        assert_eq!((details.version_min, details.version_max), (Some(1), Some(1)));
    }
    let newer = v1::HelloRequest {
        version_max: 5,
        ..hello()
    };
    assert!(matches!(
        protocol().greet(frame(Body::Hello(newer))),
        Greeting::Welcome { .. }
    ));
}

#[test]
fn hello_to_another_cluster_is_refused() {
    let expecting = |cluster: &str| {
        frame(Body::Hello(v1::HelloRequest {
            expected_cluster_id: cluster.to_owned(),
            ..hello()
        }))
    };
    assert!(matches!(
        protocol().greet(expecting("c1")),
        Greeting::Welcome { .. }
    ));
    assert_eq!(refusal(protocol().greet(expecting("c2"))).name, "WRONG_CLUSTER");
}

#[test]
fn nothing_but_hello_and_ping_is_answered_before_hello() {
    let ping = v1::PingRequest {
        payload: Bytes::from_static(b"x"),
    };
    assert!(matches!(
        protocol().greet(frame(Body::Ping(ping))),
        Greeting::Answer(_)
    ));
    let metadata = Body::Metadata(v1::MetadataRequest::default());
    assert_eq!(refusal(protocol().greet(frame(metadata))).name, "PROTOCOL");
    let empty = v1::Request {
        request_id: 42,
        ..Default::default()
    };
    let error = refusal(protocol().greet(Bytes::from(empty.encode_to_vec())));
    assert_eq!(error.name, "UNKNOWN_REQUEST");
}

#[test]
fn ping_comes_back_up_to_its_limit() {
    let ping = |bytes: usize| {
        let payload = Bytes::from(vec![5; bytes]);
        protocol()
            .decode(frame(Body::Ping(v1::PingRequest { payload })))
            .decision
    };
    let Decision::Answer(answer) = ping(1024) else {
        panic!("no answer");
    };
    let expected = v1::PingResponse {
        payload: Bytes::from(vec![5; 1024]),
    };
    assert_eq!(response(&answer).body, Some(Answer::Ping(expected)));
    let Decision::Refuse(error) = ping(1025) else {
        panic!("not refused");
    };
    assert_eq!(error.details.field.as_deref(), Some("ping.payload"));
}

#[test]
fn a_second_hello_hangs_up() {
    let Decision::HangUp(error) = protocol().decode(frame(Body::Hello(hello()))).decision else {
        panic!("goes on");
    };
    assert_eq!(error.code, ErrorCode::Protocol);
}

#[test]
fn produce_is_decoded_without_copying_its_batch() {
    let batch = vec![7; 5000];
    let bytes = frame(Body::Produce(v1::ProduceRequest {
        acks: v1::Acks::Memory.into(),
        partitions: vec![v1::ProducePartition {
            partition: at("orders", 9),
            leader_epoch: Some(4),
            payload: Some(Payload::Raw(batch.into())),
            ..Default::default()
        }],
    }));
    let Decision::Request {
        request, deadline, ..
    } = protocol().decode(bytes.clone()).decision
    else {
        panic!("refused");
    };
    assert_eq!(deadline, None);
    let Request::Produce(api::Produce { acks, partitions }) = request else {
        panic!("no produce");
    };
    assert_eq!(acks, Acks::Memory);
    assert_eq!(&*partitions[0].partition.topic, "orders");
    assert_eq!(partitions[0].partition.partition, PartitionId(9));
    let ProducePayload::Raw(raw) = &partitions[0].payload else {
        panic!("not raw");
    };
    assert!(
        bytes.as_ptr_range().contains(&raw.as_ptr()),
        "a slice of the frame"
    );
}

#[test]
fn structured_records_keep_nulls_headers_and_producer() {
    let record = v1::Record {
        key: None,
        value: Some(Bytes::new()),
        headers: vec![v1::Header {
            key: "h".to_owned(),
            value: None,
        }],
        timestamp: Some(-5),
        offset: 99,
    };
    let request = decoded(Body::Produce(v1::ProduceRequest {
        acks: 0,
        partitions: vec![v1::ProducePartition {
            partition: at("orders", 0),
            producer_id: Some(1),
            producer_epoch: Some(2),
            base_sequence: Some(3),
            payload: Some(Payload::Structured(v1::Records {
                records: vec![record],
            })),
            ..Default::default()
        }],
    }));
    let Request::Produce(api::Produce {
        acks: Acks::Fsync,
        partitions,
    }) = request
    else {
        panic!("no produce with fsync");
    };
    let ProducePayload::Structured { records, producer } = &partitions[0].payload else {
        panic!("not structured");
    };
    let stamp = ProducerStamp {
        id: ProducerId(1),
        epoch: ProducerEpoch(2),
        base_sequence: Sequence(3),
    };
    assert_eq!(*producer, Some(stamp));
    assert_eq!((&records[0].key, &records[0].value), (&None, &Some(Bytes::new())));
    assert_eq!(records[0].headers[0].value, None);
    assert_eq!(records[0].timestamp.map(|t| t.0), Some(-5));
}

/// The field that is wrong in a produce to two partitions, the second of which was spoiled.
fn wrong_field_of_produce(payload: Payload, spoil: impl Fn(&mut v1::ProducePartition)) -> String {
    let good = v1::ProducePartition {
        partition: at("orders", 0),
        payload: Some(Payload::Raw(Bytes::from_static(b"batch"))),
        ..Default::default()
    };
    let mut second = v1::ProducePartition {
        payload: Some(payload),
        ..good.clone()
    };
    spoil(&mut second);
    let field = wrong_field(Body::Produce(v1::ProduceRequest {
        acks: 0,
        partitions: vec![good, second],
    }));
    let inside = field.strip_prefix("produce.partitions[1].");
    inside.unwrap_or_else(|| panic!("{field}")).to_owned()
}

#[test]
fn wrong_raw_produces_name_the_field() {
    let wrong = |spoil: fn(&mut v1::ProducePartition)| {
        wrong_field_of_produce(Payload::Raw(Bytes::from_static(b"batch")), spoil)
    };
    assert_eq!(wrong(|p| p.partition = None), "partition");
    assert_eq!(wrong(|p| p.partition = at("", 0)), "partition.topic");
    assert_eq!(wrong(|p| p.payload = None), "payload");
    assert_eq!(wrong(|p| p.leader_epoch = Some(-1)), "leader_epoch");
    assert_eq!(wrong(|p| p.producer_epoch = Some(0)), "producer_id");
    let short_id = |p: &mut v1::ProducePartition| {
        p.partition.as_mut().unwrap().topic_id = Bytes::from_static(b"short");
    };
    assert_eq!(wrong(short_id), "partition.topic_id");
}

#[test]
fn wrong_structured_produces_name_the_field() {
    let wrong = |id, epoch, sequence| {
        wrong_field_of_produce(Payload::Structured(v1::Records::default()), |p| {
            (p.producer_id, p.producer_epoch, p.base_sequence) = (id, epoch, sequence);
        })
    };
    assert_eq!(wrong(Some(1), Some(1), None), "producer_id");
    assert_eq!(wrong(None, Some(1), Some(1)), "producer_id");
    assert_eq!(wrong(Some(-1), Some(1), Some(1)), "producer_id");
    assert_eq!(wrong(Some(1), Some(1 << 15), Some(1)), "producer_epoch");
    assert_eq!(wrong(Some(1), Some(1), Some(-1)), "base_sequence");
}

#[test]
fn a_produce_with_wrong_acks_or_no_partitions_names_them() {
    let produce = |acks| v1::ProduceRequest {
        acks,
        partitions: Vec::new(),
    };
    assert_eq!(wrong_field(Body::Produce(produce(9))), "produce.acks");
    assert_eq!(wrong_field(Body::Produce(produce(0))), "produce.partitions");
}

#[test]
fn fetches_are_cut_to_the_limits() {
    let fetch = |max_bytes, max_wait_ms| {
        let request = decoded(Body::Fetch(v1::FetchRequest {
            max_wait_ms,
            max_bytes,
            partitions: vec![v1::FetchPartition {
                partition: at("orders", 0),
                offset: -7,
                ..Default::default()
            }],
            ..Default::default()
        }));
        let Request::Fetch(fetch) = request else {
            panic!("no fetch");
        };
        fetch
    };
    let default = fetch(0, 500);
    assert_eq!((default.max_bytes, default.form), (8 << 20, FetchForm::Raw));
    assert_eq!(default.max_wait, Duration::from_millis(500));
    assert_eq!(
        (default.partitions[0].offset, default.partitions[0].max_bytes),
        (-7, u32::MAX)
    );
    let greedy = fetch(u32::MAX, u32::MAX);
    assert_eq!(greedy.max_wait, Duration::from_secs(30));
    assert_eq!(greedy.max_bytes, (16 << 20) - (256 << 10));
}

#[test]
fn other_wrong_fields_are_named() {
    let offsets = |spec, timestamp| {
        Body::ListOffsets(v1::ListOffsetsRequest {
            partitions: vec![v1::ListOffsetsPartition {
                partition: at("orders", 0),
                spec,
                timestamp,
            }],
        })
    };
    assert_eq!(wrong_field(offsets(0, None)), "list_offsets.partitions[0].spec");
    assert_eq!(wrong_field(offsets(4, None)), "list_offsets.partitions[0].spec");
    assert_eq!(
        wrong_field(offsets(3, None)),
        "list_offsets.partitions[0].timestamp",
        "AT_TIMESTAMP needs one"
    );
    assert_eq!(
        wrong_field(offsets(2, Some(7))),
        "list_offsets.partitions[0].timestamp",
        "LATEST has none"
    );
    let create = |operation_id: &[u8]| {
        Body::CreateTopic(v1::CreateTopicRequest {
            name: "a".to_owned(),
            operation_id: Bytes::copy_from_slice(operation_id),
            ..Default::default()
        })
    };
    let mut internal = [0; 16];
    internal[15] = 1;
    assert_eq!(wrong_field(create(&internal)), "create_topic.operation_id");
    assert_eq!(wrong_field(create(b"x")), "create_topic.operation_id");
    let alter = Body::AlterTopic(v1::AlterTopicRequest {
        name: "a".to_owned(),
        topic_id: Bytes::from_static(b"x"),
        ..Default::default()
    });
    assert_eq!(wrong_field(alter), "alter_topic.topic_id");
    let init = |producer_id, producer_epoch| {
        Body::InitProducer(v1::InitProducerRequest {
            producer_id,
            producer_epoch,
        })
    };
    assert_eq!(wrong_field(init(5, -1)), "init_producer.producer_epoch");
    assert_eq!(wrong_field(init(-5, 1)), "init_producer.producer_id");
    assert_eq!(wrong_field(init(5, 70_000)), "init_producer.producer_epoch");
    let new = Request::InitProducer(api::InitProducer { current: None });
    assert_eq!((decoded(init(-1, -1)), decoded(init(0, -1))), (new.clone(), new));
    let fetch = Body::Fetch(v1::FetchRequest {
        form: 9,
        ..Default::default()
    });
    assert_eq!(wrong_field(fetch), "fetch.form");
}

#[test]
fn commits_and_what_they_ask_back_are_decoded() {
    let item = v1::OffsetToCommit {
        partition: at("orders", 3),
        offset: -7,
        leader_epoch: Some(2),
        metadata: "half".to_owned(),
    };
    let commit = |offsets| {
        Body::CommitOffsets(v1::CommitOffsetsRequest {
            group: "g".to_owned(),
            member: None,
            offsets,
        })
    };
    let Request::CommitOffsets(taken) = decoded(commit(vec![item.clone()])) else {
        panic!("another request");
    };
    assert_eq!((taken.group.as_str(), taken.offsets.len()), ("g", 1));
    let first = &taken.offsets[0];
    // Which offsets are right is the broker's to say.
    assert_eq!((first.offset, first.leader_epoch.map(|e| e.0)), (-7, Some(2)));
    assert_eq!(
        (first.metadata.as_str(), first.partition.partition.0),
        ("half", 3)
    );
    assert_eq!(wrong_field(commit(vec![])), "commit_offsets.offsets");
    let spoilt = v1::OffsetToCommit {
        leader_epoch: Some(-1),
        ..item.clone()
    };
    assert_eq!(
        wrong_field(commit(vec![item.clone(), spoilt])),
        "commit_offsets.offsets[1].leader_epoch"
    );
    let nowhere = v1::OffsetToCommit {
        partition: None,
        ..item
    };
    assert_eq!(
        wrong_field(commit(vec![nowhere])),
        "commit_offsets.offsets[0].partition"
    );

    let fetch = |partitions| {
        Body::FetchOffsets(v1::FetchOffsetsRequest {
            group: "g".to_owned(),
            partitions,
        })
    };
    let Request::FetchOffsets(all) = decoded(fetch(vec![])) else {
        panic!("another request");
    };
    assert_eq!((all.group.as_str(), all.partitions), ("g", vec![]));
    let unnamed = v1::TopicPartition::default();
    assert_eq!(
        wrong_field(fetch(vec![unnamed])),
        "fetch_offsets.partitions[0].partition.topic"
    );
}

#[test]
fn text_that_is_not_utf8_is_malformed_and_keeps_its_request_id() {
    let mut bytes = vec![0x08, 42, 0x62, 3, 0x0a, 1, 0xff];
    let Decoded { id, decision } = protocol().decode(Bytes::from(bytes.clone()));
    let Decision::Refuse(error) = decision else {
        panic!("not refused");
    };
    assert_eq!((id, error.code), (42, ErrorCode::Malformed));
    bytes[6] = b'a';
    assert!(matches!(
        protocol().decode(Bytes::from(bytes)).decision,
        Decision::Request { .. }
    ));
}

#[test]
fn many_small_records_are_charged_for_their_memory() {
    let bytes = frame(Body::Produce(v1::ProduceRequest {
        acks: 0,
        partitions: vec![v1::ProducePartition {
            partition: at("orders", 0),
            payload: Some(Payload::Structured(v1::Records {
                records: vec![v1::Record::default(); 1000],
            })),
            ..Default::default()
        }],
    }));
    let Decision::Request { decoded_bytes, .. } = protocol().decode(bytes).decision else {
        panic!("refused");
    };
    assert_eq!(decoded_bytes, 256_000);
}
