//! What bad requests of members of groups and their operators get, before any broker sees them: framed and encoded well, with
//! fields that cannot be, or damaged. The service behind would take anything.

use bytes::Bytes;
use naru::api::{ApiError, Request};
use naru::model::{ErrorCode, PartitionId};
use naru::pb::v1;
use naru::pb::v1::request::Body;
use naru::pb::v1::response::Body as Answer;

use crate::members::Rig;
use crate::peer::{Peer, framed, request};

const ID: [u8; 16] = [9; 16];

fn taking_anything() -> Rig {
    Rig::answering(Err(ApiError::new(ErrorCode::UnknownGroup, "taken")))
}

async fn refusal(peer: &mut Peer, body: Body) -> v1::Error {
    peer.ask(5, body).await;
    let (id, error) = peer.refusal().await;
    assert_eq!(id, 5);
    assert!(error.definite, "{error:?}");
    error
}

fn beat() -> v1::GroupHeartbeatRequest {
    v1::GroupHeartbeatRequest {
        group: "g".to_owned(),
        member_id: "m-1".to_owned(),
        subscription: Some(v1::Subscription {
            topics: vec!["orders".to_owned()],
            patterns: Vec::new(),
        }),
        ..Default::default()
    }
}

fn holding(topic: v1::TopicPartitions) -> Body {
    Body::GroupHeartbeat(v1::GroupHeartbeatRequest {
        owned: Some(v1::OwnedPartitions {
            topics: vec![on_wire(&[0]), topic],
        }),
        ..beat()
    })
}

fn on_wire(partitions: &[u32]) -> v1::TopicPartitions {
    v1::TopicPartitions {
        topic: "orders".to_owned(),
        topic_id: Bytes::from_static(&ID),
        partitions: partitions.to_vec(),
    }
}

fn who() -> Option<v1::GroupMember> {
    Some(v1::GroupMember {
        member_id: "m-1".to_owned(),
        member_epoch: 1,
        instance_id: String::new(),
    })
}

fn place(topic: &str) -> Option<v1::TopicPartition> {
    Some(v1::TopicPartition {
        topic: topic.to_owned(),
        ..Default::default()
    })
}

fn item() -> v1::OffsetToCommit {
    v1::OffsetToCommit {
        partition: place("orders"),
        ..Default::default()
    }
}

fn close(member: Option<v1::GroupMember>, offsets: Vec<v1::OffsetToCommit>) -> Body {
    Body::CloseConsumer(v1::CloseConsumerRequest {
        group: "g".to_owned(),
        member,
        offsets,
    })
}

fn propose(member: Option<v1::GroupMember>, assignments: Vec<v1::MemberAssignment>) -> Body {
    Body::ProposeAssignment(v1::ProposeAssignmentRequest {
        group: "g".to_owned(),
        member,
        group_epoch: 1,
        assignments,
    })
}

fn assignment(partitions: Vec<v1::TopicPartitions>) -> v1::MemberAssignment {
    v1::MemberAssignment {
        member_id: "m-1".to_owned(),
        partitions,
    }
}

fn evict(member_id: &str, instance_id: &str, reason: String) -> Body {
    Body::EvictMember(v1::EvictMemberRequest {
        group: "g".to_owned(),
        member_id: member_id.to_owned(),
        instance_id: instance_id.to_owned(),
        reason,
    })
}

fn fetch_as(group: &str, member: Option<v1::GroupMember>) -> Body {
    Body::Fetch(v1::FetchRequest {
        group: group.to_owned(),
        member,
        partitions: vec![v1::FetchPartition {
            partition: place("orders"),
            ..Default::default()
        }],
        ..Default::default()
    })
}

/// A step that is right but for what `spoil` does to it.
fn step(spoil: impl FnOnce(&mut v1::StepRequest)) -> Body {
    let mut step = v1::StepRequest {
        group: "g".to_owned(),
        member: who(),
        producer_id: 1,
        producer_epoch: 0,
        sequence: 0,
        offsets: vec![item()],
        appends: vec![v1::ProducePartition {
            partition: place("bills"),
            payload: Some(v1::produce_partition::Payload::Structured(v1::Records::default())),
            ..Default::default()
        }],
    };
    spoil(&mut step);
    Body::Step(step)
}

/// Bad requests and the field that is at fault.
fn bad_fields() -> Vec<(&'static str, Body)> {
    let negative = v1::OffsetToCommit {
        leader_epoch: Some(-1),
        ..item()
    };
    let nowhere = v1::OffsetToCommit::default();
    let long = "x".repeat(257);
    vec![
        ("group_heartbeat.owned.topics[1].topic", holding(nameless())),
        ("group_heartbeat.owned.topics[1].topic_id", holding(short_id())),
        (
            "group_heartbeat.owned.topics[1].partitions",
            holding(on_wire(&[])),
        ),
        ("close_consumer.member", close(None, vec![])),
        (
            "close_consumer.offsets[1].partition",
            close(who(), vec![item(), nowhere.clone()]),
        ),
        (
            "close_consumer.offsets[0].leader_epoch",
            close(who(), vec![negative]),
        ),
        ("evict_member.member_id", evict("", "", String::new())),
        ("evict_member.instance_id", evict("m-1", "desk", String::new())),
        ("evict_member.reason", evict("m-1", "", long)),
        ("fetch.group", fetch_as("", who())),
        ("fetch.member", fetch_as("g", None)),
    ]
}

fn nameless() -> v1::TopicPartitions {
    v1::TopicPartitions {
        topic: String::new(),
        topic_id: Bytes::new(),
        ..on_wire(&[0])
    }
}

fn short_id() -> v1::TopicPartitions {
    v1::TopicPartitions {
        topic_id: Bytes::from_static(b"short"),
        ..on_wire(&[0])
    }
}

fn bad_proposals() -> Vec<(&'static str, Body)> {
    let assigned = |topic| {
        propose(
            who(),
            vec![assignment(vec![on_wire(&[0])]), assignment(vec![topic])],
        )
    };
    vec![
        (
            "propose_assignment.member",
            propose(None, vec![assignment(vec![on_wire(&[0])])]),
        ),
        (
            "propose_assignment.assignments[1].partitions[0].topic",
            assigned(nameless()),
        ),
        (
            "propose_assignment.assignments[1].partitions[0].topic_id",
            assigned(short_id()),
        ),
        (
            "propose_assignment.assignments[1].partitions[0].partitions",
            assigned(on_wire(&[])),
        ),
    ]
}

fn bad_steps() -> Vec<(&'static str, Body)> {
    vec![
        ("step.sequence", step(|step| step.sequence = -1)),
        ("step.producer_id", step(|step| step.producer_id = -1)),
        ("step.producer_epoch", step(|step| step.producer_epoch = -1)),
        ("step.producer_epoch", step(|step| step.producer_epoch = 1 << 15)),
        (
            "step.appends",
            step(|step| {
                step.appends.clear();
                step.offsets.clear();
            }),
        ),
        (
            "step.offsets[0].partition",
            step(|step| step.offsets[0].partition = None),
        ),
        (
            "step.appends[0].partition",
            step(|step| step.appends[0].partition = None),
        ),
        (
            "step.appends[0].partition.topic",
            step(|step| step.appends[0].partition = place("")),
        ),
        (
            "step.appends[0].leader_epoch",
            step(|step| step.appends[0].leader_epoch = Some(-1)),
        ),
        (
            "step.appends[0].payload",
            step(|step| step.appends[0].payload = None),
        ),
        (
            "step.appends[0].producer_id",
            step(|step| {
                let append = &mut step.appends[0];
                append.producer_id = Some(1);
                append.producer_epoch = Some(0);
                append.base_sequence = Some(0);
            }),
        ),
        (
            "step.appends[0].producer_id",
            step(|step| step.appends[0].base_sequence = Some(0)),
        ),
    ]
}

#[tokio::test]
async fn a_bad_field_is_named_and_the_connection_goes_on() {
    let rig = taking_anything();
    let mut peer = rig.server.friend().await;
    for (field, body) in [bad_fields(), bad_proposals(), bad_steps()].concat() {
        let error = refusal(&mut peer, body).await;
        assert_eq!(error.name, "INVALID_ARGUMENT", "{field}: {error:?}");
        let found = error.details.unwrap_or_default().field;
        assert_eq!(found, field, "{}", error.message);
        assert!(error.message.starts_with(field), "{}", error.message);
    }
    peer.expect_pong().await;
    assert_eq!(*rig.asked.lock().unwrap(), [], "the broker saw none of them");
}

#[tokio::test]
async fn what_is_just_within_the_limits_is_taken() {
    let rig = taking_anything();
    let mut peer = rig.server.friend().await;
    let numbers: Vec<u32> = (0..99_999).collect();
    for body in [
        evict("m-1", "", "x".repeat(256)),
        holding(on_wire(&numbers)),
        propose(who(), vec![assignment(Vec::new())]),
        close(who(), Vec::new()),
        step(|step| step.offsets.clear()),
        step(|step| step.appends.clear()),
        step(|step| step.member = None),
        fetch_as("g", who()),
    ] {
        let error = refusal(&mut peer, body).await;
        assert_eq!(
            (error.name.as_str(), error.message.as_str()),
            ("UNKNOWN_GROUP", "taken")
        );
    }
    let numbers: Vec<u32> = (0..100_000).collect();
    let error = refusal(&mut peer, holding(on_wire(&numbers))).await;
    let limit = error.details.and_then(|details| details.limit);
    assert_eq!((error.name.as_str(), limit), ("TOO_MANY_ELEMENTS", Some(100_000)));
    // One number more than the 99,999 above, beside the first topic's one.
    let taken = rig.asked.lock().unwrap().len();
    assert_eq!(taken, 8);
}

#[tokio::test]
async fn pages_of_groups_have_a_size() {
    let rig = taking_anything();
    let mut peer = rig.server.friend().await;
    for (asked, given) in [(0, 100), (1, 1), (1000, 1000), (1001, 1000), (u32::MAX, 1000)] {
        let list = v1::ListGroupsRequest {
            count: asked,
            ..Default::default()
        };
        refusal(&mut peer, Body::ListGroups(list)).await;
        let Request::ListGroups(list) = rig.only() else {
            panic!("another request");
        };
        assert_eq!(list.count, given);
    }
}

#[tokio::test]
async fn numbers_of_partitions_are_read_packed_and_one_by_one() {
    let rig = taking_anything();
    let mut peer = rig.server.friend().await;
    // request_id 5, group_heartbeat { owned { topics { topic "t", ... } } }
    let framed_with = |numbers: &[u8]| {
        let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
        let topic = [&[0x0a, 1, b't'], numbers].concat();
        let owned = [&[0x0a, length(&topic)], &topic[..]].concat();
        let beat = [&[0x4a, length(&owned)], &owned[..]].concat();
        framed(&[&[0x08, 5, 0x82, 0x02, length(&beat)], &beat[..]].concat())
    };
    for numbers in [
        // 1 and 300 in one list, in two, and one by one.
        &[0x1a, 3, 1, 0xac, 2][..],
        &[0x1a, 1, 1, 0x1a, 2, 0xac, 2],
        &[0x18, 1, 0x18, 0xac, 2],
    ] {
        peer.send(&framed_with(numbers)).await;
        assert_eq!(peer.refusal().await.1.message, "taken");
        let Request::GroupHeartbeat(beat) = rig.only() else {
            panic!("another request");
        };
        let owned = beat.owned.unwrap();
        assert_eq!(owned[0].partitions, [PartitionId(1), PartitionId(300)]);
    }
    for (numbers, name) in [
        // A number of 33 bits.
        (&[0x1a, 5, 0x80, 0x80, 0x80, 0x80, 0x10][..], "INVALID_ARGUMENT"),
        (&[0x18, 0x80, 0x80, 0x80, 0x80, 0x10], "INVALID_ARGUMENT"),
        // A number that ends behind its list, or nowhere.
        (&[0x1a, 1, 0x81, 0x18, 1], "MALFORMED"),
        (&[0x1a, 1, 0x81], "MALFORMED"),
        // A list that ends behind its message.
        (&[0x1a, 9, 1], "MALFORMED"),
        // Another wire type.
        (&[0x1d, 0, 0, 0, 0], "MALFORMED"),
    ] {
        peer.send(&framed_with(numbers)).await;
        let (id, error) = peer.refusal().await;
        assert_eq!((id, error.name.as_str()), (5, name), "{numbers:x?}: {error:?}");
        if name == "INVALID_ARGUMENT" {
            assert_eq!(
                error.details.unwrap_or_default().field,
                "TopicPartitions.partitions"
            );
        }
    }
    peer.expect_pong().await;
    assert_eq!(*rig.asked.lock().unwrap(), []);
}

/// Every prefix of good requests, and every byte of them changed: an answer or a taken request each time, never the end.
#[tokio::test]
async fn damaged_requests_of_members_are_answered_and_never_end_the_connection() {
    let rig = taking_anything();
    let mut peer = rig.server.friend().await;
    let bodies = [
        holding(on_wire(&[1, 300])),
        close(who(), vec![item()]),
        propose(who(), vec![assignment(vec![on_wire(&[0, 1])])]),
        evict("m-1", "", "stuck".to_owned()),
        step(|_| {}),
    ];
    let mut answered = 0;
    for body in bodies {
        let whole = request(5, body)[4..].to_vec();
        let cut = (1..whole.len()).map(|len| whole[..len].to_vec());
        // Behind the id, so that the answer to a response instead of a request is not asked for here.
        let changed = (5..whole.len()).flat_map(|at| {
            let flip = |mask: u8| {
                let mut bytes = whole.clone();
                bytes[at] ^= mask;
                bytes
            };
            [flip(0x01), flip(0x80), flip(0xff)]
        });
        for bytes in cut.chain(changed) {
            peer.send(&framed(&bytes)).await;
            let answer = peer.next().await;
            let answer = answer.unwrap_or_else(|| panic!("the end after {bytes:x?}"));
            assert!(matches!(answer.body, Some(Answer::Error(_))), "{answer:?}");
            answered += 1;
        }
    }
    assert!(answered > 800, "{answered}");
    peer.expect_pong().await;
}
