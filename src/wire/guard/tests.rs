//! The guard against messages that no decoder should see, and its table against the `.proto` files.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::pb::v1;
use crate::pb::v1::produce_partition::Payload;
use crate::pb::v1::request::Body;

const SHALLOW: Limits = Limits { depth: 2, ..OPEN };

fn request(body: Body) -> Vec<u8> {
    let request = v1::Request {
        request_id: 7,
        deadline_ms: 1000,
        body: Some(body),
    };
    request.encode_to_vec()
}

fn ping() -> Vec<u8> {
    request(Body::Ping(v1::PingRequest {
        payload: Bytes::from_static(b"hello"),
    }))
}

fn produce(payload: Payload) -> Vec<u8> {
    request(Body::Produce(v1::ProduceRequest {
        acks: 1,
        partitions: vec![v1::ProducePartition {
            partition: Some(v1::TopicPartition {
                topic: "orders".to_owned(),
                topic_id: Bytes::new(),
                partition: 3,
            }),
            payload: Some(payload),
            ..Default::default()
        }],
    }))
}

fn structured(record: &v1::Record, count: usize) -> Vec<u8> {
    produce(Payload::Structured(v1::Records {
        records: vec![record.clone(); count],
    }))
}

fn with(mut bytes: Vec<u8>, more: &[u8]) -> Vec<u8> {
    bytes.extend_from_slice(more);
    bytes
}

fn length_delimited(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    with(bytes, content)
}

#[test]
fn the_table_is_what_the_proto_files_say() {
    let files = protox::compile(["proto/naru/v1/naru.proto"], ["proto"]).unwrap();
    let mut messages = BTreeMap::new();
    for file in &files.file {
        for message in &file.message_type {
            assert!(message.nested_type.is_empty(), "nested messages are not walked");
            messages.insert(message.name().to_owned(), message.clone());
        }
    }
    let mut seen = BTreeSet::new();
    let mut open = vec![&REQUEST];
    while let Some(message) = open.pop() {
        if !seen.insert(message.name) {
            continue;
        }
        let described = &messages[message.name];
        let in_proto: BTreeMap<i32, (&str, String)> = described
            .field
            .iter()
            .map(|field| {
                let kind = match field.r#type().as_str_name() {
                    "TYPE_MESSAGE" => field.type_name().rsplit('.').next().unwrap().to_owned(),
                    scalar => {
                        let repeated = field.label().as_str_name() == "LABEL_REPEATED";
                        let has_length = matches!(scalar, "TYPE_STRING" | "TYPE_BYTES");
                        if repeated && !has_length {
                            format!("packed {scalar}")
                        } else {
                            scalar.to_owned()
                        }
                    }
                };
                (field.number(), (field.name(), kind))
            })
            .collect();
        let in_table: BTreeMap<i32, (&str, String)> = message
            .fields()
            .iter()
            .map(|field| {
                let kind = match field.kind {
                    Kind::U64 => "TYPE_UINT64",
                    Kind::I64 => "TYPE_INT64",
                    Kind::U32 => "TYPE_UINT32",
                    Kind::I32 => "TYPE_INT32",
                    Kind::U32s => "packed TYPE_UINT32",
                    Kind::Bool => "TYPE_BOOL",
                    Kind::Enum => "TYPE_ENUM",
                    Kind::String => "TYPE_STRING",
                    Kind::Bytes => "TYPE_BYTES",
                    Kind::Message(inner) => {
                        open.push(inner);
                        inner.name
                    }
                };
                (
                    i32::try_from(field.number).unwrap(),
                    (field.name, kind.to_owned()),
                )
            })
            .collect();
        assert_eq!(in_table, in_proto, "{}", message.name);
    }
    assert!(seen.len() > 15, "the walk has reached {seen:?}");
}

#[test]
fn honest_requests_pass_and_are_counted() {
    assert_eq!(check(&ping(), &GREETING).map(|counts| counts.elements), Ok(4));
    let record = v1::Record {
        key: Some(Bytes::from_static(b"k")),
        value: Some(Bytes::from_static(b"v")),
        headers: vec![v1::Header::default(); 2],
        timestamp: Some(-1),
        offset: 0,
    };
    let counts = check(&structured(&record, 3), &OPEN).unwrap();
    assert_eq!(counts.record_messages, 9);
    // Three records and in each: key, value, two headers, timestamp.
    assert_eq!(counts.record_fields, 3 + 3 * 5);
    assert_eq!(counts.unknown_bytes, 0);
    // The table's own messages behind records are counted as before.
    let mut two = structured(&record, 1);
    two = with(two, &structured(&record, 1)[5..]);
    assert_eq!(check(&two, &OPEN).unwrap().record_messages, 6);
}

#[test]
fn broken_bytes_are_malformed() {
    let long = [0xff; 11];
    let cases: [(&str, Vec<u8>); 13] = [
        ("a varint is cut off", vec![0x08, 0x80]),
        ("a varint is longer than 10 bytes", with(vec![0x08], &long)),
        ("a varint is longer than 10 bytes", long.to_vec()),
        (
            "a varint is larger than 64 bits",
            with(
                vec![0x08],
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            ),
        ),
        ("a length is greater than what is left", vec![0x5a, 5, 1]),
        (
            "a length is greater than what is left",
            with(vec![0x5a], &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ),
        ("groups are not allowed", vec![0x53]),
        ("groups are not allowed", vec![0x54]),
        ("this wire type does not exist", vec![0x56]),
        ("this wire type does not exist", vec![0x57]),
        ("a field number is out of range", vec![0x00, 0x00]),
        (
            "a field number is out of range",
            vec![0x82, 0x80, 0x80, 0x80, 0x10, 0],
        ),
        ("a field is cut off", vec![0xf9, 0x06, 1, 2, 3]),
    ];
    for (what, bytes) in cases {
        let error = check(&bytes, &OPEN).unwrap_err();
        let GuardError::Malformed { what: found, .. } = error else {
            panic!("{error:?} instead of {what}");
        };
        assert_eq!(found, what, "{bytes:x?}");
    }
}

#[test]
fn submessages_stay_inside_of_the_message_around_them() {
    // produce { partitions { partition (length 9, but 2 are left) } } and 16 bytes more behind the produce.
    let inner = [0x0a, 9, 0x18];
    let partition = length_delimited(15, &inner);
    let mut produce = vec![19 << 3 | 2 | 0x80, 1];
    produce.push(u8::try_from(partition.len()).unwrap());
    let bytes = with(with(produce, &partition), &[0; 16]);
    assert_eq!(
        check(&bytes, &OPEN),
        Err(GuardError::Malformed {
            at: 7,
            what: "a message ends behind the one around it"
        })
    );
    // The same with a scalar that runs over the end.
    let hello = with(vec![10 << 3 | 2, 2, 0x08, 0x80], &[0x01]);
    assert_eq!(
        check(&hello, &OPEN),
        Err(GuardError::Malformed {
            at: 5,
            what: "a field ends behind its message"
        })
    );
}

#[test]
fn wrong_wire_types_and_responses_are_told_apart() {
    assert_eq!(
        check(&[0x5d, 0, 0, 0, 0], &OPEN),
        Err(GuardError::Malformed {
            at: 1,
            what: "a field has another wire type than it should"
        })
    );
    let response = v1::Response {
        request_id: 1,
        body: Some(v1::response::Body::Error(v1::Error::default())),
    };
    assert_eq!(check(&response.encode_to_vec(), &OPEN), Err(GuardError::Response));
}

#[test]
fn nesting_has_a_limit_and_no_stack() {
    let bytes = produce(Payload::Raw(Bytes::new()));
    assert_eq!(check(&bytes, &SHALLOW), Err(GuardError::TooDeep { max: 2 }));
    let deep = structured(
        &v1::Record {
            headers: vec![v1::Header::default()],
            ..Default::default()
        },
        1,
    );
    assert_eq!(check(&deep, &GREETING), Err(GuardError::TooDeep { max: 4 }));
    assert!(check(&deep, &OPEN).is_ok());
    // What nests in an unknown field is never entered.
    let mut nested = Vec::new();
    for _ in 0..100_000 {
        let mut outer = vec![0xfa, 0x06];
        prost::encoding::encode_varint(nested.len() as u64, &mut outer);
        if outer.len() + nested.len() > 900 {
            break;
        }
        outer.extend_from_slice(&nested);
        nested = outer;
    }
    assert!(check(&with(ping(), &nested), &OPEN).is_ok());
}

#[test]
fn elements_are_counted_before_anything_is_decoded() {
    let singular_again = with(ping(), &[0x08, 1].repeat(9_997));
    assert_eq!(
        check(&singular_again, &OPEN),
        Err(GuardError::TooManyElements { max: 10_000 })
    );
    let just_enough = with(ping(), &[0x08, 1].repeat(9_996));
    assert_eq!(check(&just_enough, &OPEN).map(|c| c.elements), Ok(10_000));
    let empty_messages = request(Body::Fetch(v1::FetchRequest {
        partitions: vec![v1::FetchPartition::default(); 1_000_000],
        ..Default::default()
    }));
    assert_eq!(
        check(&empty_messages, &OPEN),
        Err(GuardError::TooManyElements { max: 10_000 })
    );
    assert_eq!(
        check(&with(ping(), &[0x08, 1].repeat(29)), &GREETING),
        Err(GuardError::TooManyElements { max: 32 })
    );
}

#[test]
fn records_have_limits_of_their_own() {
    let empty = v1::Record::default();
    assert!(check(&structured(&empty, 100_000), &OPEN).is_ok());
    assert_eq!(
        check(&structured(&empty, 100_001), &OPEN),
        Err(GuardError::TooManyElements { max: 100_000 })
    );
    let scalars: Vec<u8> = length_delimited(15, &length_delimited(1, &[0x28, 1].repeat(900_000)));
    let body = length_delimited(15, &scalars);
    let mut bytes = vec![0x9a, 0x01];
    prost::encoding::encode_varint(body.len() as u64, &mut bytes);
    assert_eq!(
        check(&with(bytes, &body), &OPEN),
        Err(GuardError::TooManyElements { max: 800_000 })
    );
}

/// A heartbeat of a member that holds these partitions of two topics each.
fn heartbeat(partitions: Vec<u32>) -> Vec<u8> {
    let topic = v1::TopicPartitions {
        topic: "orders".to_owned(),
        topic_id: Bytes::new(),
        partitions,
    };
    request(Body::GroupHeartbeat(v1::GroupHeartbeatRequest {
        group: "g".to_owned(),
        owned: Some(v1::OwnedPartitions {
            topics: vec![topic; 2],
        }),
        ..Default::default()
    }))
}

#[test]
fn lists_of_numbers_have_a_limit_of_their_own() {
    let counts = check(&heartbeat(vec![300; 50_000]), &OPEN).unwrap();
    // Request: id, deadline, body. Heartbeat: group, owned. Owned: twice a topic with its name and its list.
    assert_eq!((counts.numbers, counts.elements), (100_000, 3 + 2 + 2 * 3));
    assert_eq!(
        check(&heartbeat(vec![300; 50_001]), &OPEN),
        Err(GuardError::TooManyElements { max: 100_000 })
    );
    assert_eq!(
        check(&heartbeat(vec![1; 16]), &GREETING).map(|c| c.numbers),
        Ok(32)
    );
    assert_eq!(
        check(&heartbeat(vec![1; 17]), &GREETING),
        Err(GuardError::TooManyElements { max: 32 })
    );
}

#[test]
fn unknown_fields_are_few_or_refused() {
    let unknown = |bytes: usize| with(ping(), &length_delimited(9, &vec![0; bytes]));
    assert_eq!(check(&unknown(1021), &OPEN).map(|c| c.unknown_bytes), Ok(1024));
    assert_eq!(
        check(&unknown(1022), &OPEN),
        Err(GuardError::TooManyUnknown {
            bytes: 1025,
            max: 1024
        })
    );
    assert_eq!(
        check(&unknown(0), &GREETING),
        Err(GuardError::TooManyUnknown { bytes: 2, max: 0 })
    );
    let packed_zeros = with(ping(), &length_delimited(9, &vec![0; 10_000_000]));
    assert_eq!(
        check(&packed_zeros, &OPEN),
        Err(GuardError::TooManyUnknown {
            bytes: 10_000_005,
            max: 1024
        })
    );
}

#[test]
fn a_body_from_the_future_is_an_unknown_request_however_large() {
    let mut future = vec![0x08, 5];
    future.extend_from_slice(&[0xfa, 0x06]);
    prost::encoding::encode_varint(5000, &mut future);
    future.extend_from_slice(&[0; 5000]);
    assert_eq!(check(&future, &OPEN), Err(GuardError::UnknownRequest));
    assert_eq!(check(&[0x08, 5], &OPEN), Err(GuardError::UnknownRequest));
    assert_eq!(request_id(&future), 5);
}

#[test]
fn values_that_do_not_fit_are_named() {
    let partitions = |value: u64| {
        let mut field = vec![0x10];
        prost::encoding::encode_varint(value, &mut field);
        length_delimited(13, &field)
    };
    assert!(check(&partitions(u64::from(u32::MAX)), &OPEN).is_ok());
    assert_eq!(
        check(&partitions(1 << 32), &OPEN),
        Err(GuardError::OutOfRange {
            message: "CreateTopicRequest",
            field: "partitions",
            value: 1 << 32
        })
    );
    let negative = request(Body::InitProducer(v1::InitProducerRequest {
        producer_id: -1,
        producer_epoch: -1,
    }));
    assert!(check(&negative, &OPEN).is_ok(), "a negative int32 has ten bytes");
}

#[test]
fn the_request_id_is_found_as_far_as_possible() {
    assert_eq!(request_id(&ping()), 7);
    assert_eq!(request_id(&with(ping(), &[0x5b])), 7, "before what is broken");
    assert_eq!(
        request_id(&with(length_delimited(11, b"x"), &[0x08, 9])),
        9,
        "behind the body"
    );
    assert_eq!(request_id(&[0x5b, 0x08, 9]), 0, "not behind what is broken");
    assert_eq!(request_id(&[]), 0);
}

proptest! {
    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let verdict = check(&bytes, &OPEN);
        request_id(&bytes);
        if let Ok(counts) = verdict {
            prop_assert!(counts.elements as usize <= bytes.len());
            // What the guard lets through is protobuf; only text can still be wrong.
            if let Err(error) = v1::Request::decode(&bytes[..]) {
                prop_assert!(error.to_string().contains("UTF-8"), "{error}");
            }
        }
    }

    #[test]
    fn changed_requests_are_judged_as_prost_does(at in 0_usize..200, to in any::<u8>()) {
        let record = v1::Record {
            key: Some(Bytes::from_static(b"key")),
            headers: vec![v1::Header { key: "h".to_owned(), value: None }],
            ..Default::default()
        };
        let mut bytes = structured(&record, 2);
        let at = at % bytes.len();
        bytes[at] = to;
        if check(&bytes, &OPEN).is_ok() && let Err(error) = v1::Request::decode(&bytes[..]) {
            prop_assert!(error.to_string().contains("UTF-8"), "{error}");
        }
    }

    #[test]
    fn changed_lists_of_numbers_are_judged_as_prost_does(
        numbers in prop::collection::vec(any::<u32>(), 0..9),
        changes in prop::collection::vec((0_usize..200, any::<u8>()), 1..4),
    ) {
        let mut bytes = heartbeat(numbers);
        let count = bytes.len();
        for (at, to) in changes {
            bytes[at % count] = to;
        }
        let decoded = v1::Request::decode(&bytes[..]);
        match (check(&bytes, &OPEN), decoded) {
            (Ok(counts), Ok(v1::Request { body: Some(Body::GroupHeartbeat(beat)), .. })) => {
                let owned = beat.owned.unwrap_or_default().topics.into_iter();
                let numbers: usize = owned.map(|topic| topic.partitions.len()).sum();
                // A body that is there twice is counted twice.
                prop_assert!(usize::try_from(counts.numbers).unwrap() >= numbers);
            }
            (Ok(_), Err(error)) => prop_assert!(error.to_string().contains("UTF-8"), "{error}"),
            (Ok(_), Ok(_)) | (Err(_), _) => {}
        }
    }
}
