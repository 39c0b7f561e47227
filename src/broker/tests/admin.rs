//! Topics and producer ids: what is made, shown and waited for.

use super::*;
use crate::api::{
    DeleteTopic, DescribeCluster, DescribeTopic, DescribedTopic, ListOffsets, ListOffsetsPartition,
    ListTopics, ListedTopics, Metadata, OffsetSpec,
};

fn list(cursor: &str, count: u32, matching: &str) -> Request {
    Request::ListTopics(ListTopics {
        cursor: cursor.to_owned(),
        count,
        matching: matching.to_owned(),
        include_internal: false,
    })
}

fn listed(reply: Reply) -> ListedTopics {
    match reply {
        Ok(Response::ListTopics(listed)) => listed,
        other => panic!("{other:?}"),
    }
}

fn describe(rig: &Rig, name: &str) -> Result<DescribedTopic, ApiError> {
    let name = name.to_owned();
    match rig.ask(Request::DescribeTopic(DescribeTopic { name }))? {
        Response::DescribeTopic(described) => Ok(described),
        other => panic!("{other:?}"),
    }
}

fn delete(name: &str, id: Option<TopicId>) -> Request {
    Request::DeleteTopic(DeleteTopic {
        name: name.to_owned(),
        id,
    })
}

#[test]
fn whoever_sees_a_topic_waits_until_it_is_durable() {
    let rig = Rig::manual();
    let (lsn, reply) = waits(rig.broker.receive(create("t", 1)));
    assert!(reply.is_ok() && lsn > rig.durable());
    let requests = [
        create("t", 1),
        list("", 0, ""),
        Request::DescribeTopic(DescribeTopic { name: "t".to_owned() }),
        Request::Metadata(Metadata {
            topics: vec!["t".to_owned()],
            all: false,
        }),
    ];
    for request in requests {
        let name = request.kind().name();
        assert_eq!(waits(rig.broker.receive(request)).0, lsn, "{name}");
    }
}

#[test]
fn metadata_shows_the_topics_asked_for_in_that_order() {
    let rig = Rig::new();
    let (a, b) = (rig.create("a", 2), rig.create("b", 1));
    let ask = |topics: &[&str], all| {
        let topics = topics.iter().map(|name| (*name).to_owned()).collect();
        match rig.ask(Request::Metadata(Metadata { topics, all })) {
            Ok(Response::Metadata(answer)) => answer,
            other => panic!("{other:?}"),
        }
    };
    let answer = ask(&["b", "nothing", "a", "a/b"], false);
    assert_eq!(answer.brokers.len(), 1);
    let names: Vec<_> = answer.topics.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["b", "nothing", "a", "a/b"]);
    assert_eq!(answer.topics[0].1.as_ref().unwrap().id, b);
    assert_eq!(answer.topics[2].1.as_ref().unwrap().partitions.len(), 2);
    assert_eq!(
        answer.topics[1].1.as_ref().unwrap_err().code,
        ErrorCode::UnknownTopicOrPartition
    );
    assert_eq!(
        answer.topics[3].1.as_ref().unwrap_err().code,
        ErrorCode::InvalidName
    );
    let all = ask(&[], true).topics;
    let ids: Vec<_> = all.iter().map(|(_, topic)| topic.as_ref().unwrap().id).collect();
    assert_eq!(ids, [a, b]);
    assert_eq!(ask(&[], false).topics, []);
}

#[test]
fn a_described_topic_shows_configuration_and_marks() {
    let rig = Rig::new();
    let configs = vec![("max.message.bytes".to_owned(), "2000".to_owned())];
    let made = Request::CreateTopic(CreateTopic {
        name: "t".to_owned(),
        partitions: 2,
        configs,
        if_not_exists: false,
        operation_id: Some(TopicId::from_bytes([7; 16])),
    });
    assert_eq!(rig.ask(made.clone()), rig.ask(made));
    let producer = rig.init(None).unwrap();
    assert!(rig.produce(Acks::Fsync, sequenced("t", producer, 0, 3)).1.is_ok());
    let described = describe(&rig, "t").unwrap();
    assert_eq!(described.id, TopicId::from_bytes([7; 16]));
    assert_eq!(described.created, START);
    let entries: Vec<_> = described
        .configs
        .iter()
        .map(|entry| (entry.name.as_str(), entry.value.as_str(), entry.source.as_str()))
        .collect();
    for expected in [
        ("index.interval.bytes", "4096", "default"),
        ("max.message.bytes", "2000", "topic"),
        ("retention.ms", "604800000", "default"),
        ("retention.bytes", "-1", "default"),
        ("segment.bytes", "268435456", "default"),
    ] {
        assert!(entries.contains(&expected), "{expected:?} is not in {entries:?}");
    }
    let first = &described.partitions[0];
    assert_eq!(first.bounds.high_watermark, offset(3));
    assert_eq!(first.producers, 1);
    assert_eq!(described.partitions[1].producers, 0);
    let large = "x".repeat(2000);
    let (_, refused) = rig.produce(Acks::Fsync, structured("t", &[&large], None));
    assert_eq!(refused.unwrap_err().details.limit, Some(2000));
}

#[test]
fn topics_are_listed_in_pages_with_their_records() {
    let rig = Rig::new();
    for name in ["a", "b.x", "b.y", "c"] {
        rig.create(name, 1);
    }
    assert!(rig.produce(Acks::Fsync, raw("b.x", 4)).1.is_ok());
    let first = listed(rig.ask(list("", 1, "b.*")));
    assert_eq!(first.topics.len(), 1);
    assert_eq!(first.topics[0].name.as_str(), "b.x");
    assert_eq!(first.topics[0].records, 4);
    assert_eq!(first.topics[0].size_bytes, batch(4, None).len() as u64);
    let second = listed(rig.ask(list(&first.cursor, 9, "b.*")));
    let names: Vec<_> = second.topics.iter().map(|topic| topic.name.as_str()).collect();
    assert_eq!(names, ["b.y"]);
    assert_eq!(second.cursor, "");
    for bad in [list("a/b", 1, ""), list("", 1, &"*".repeat(201))] {
        assert_eq!(code(rig.ask(bad)), ErrorCode::InvalidArgument);
    }
    let internal = Request::ListTopics(ListTopics {
        cursor: String::new(),
        count: 0,
        matching: "__*".to_owned(),
        include_internal: true,
    });
    let all = listed(rig.ask(internal));
    let names: Vec<_> = all.topics.iter().map(|topic| topic.name.as_str()).collect();
    assert_eq!(names, ["__groups", "__meta"]);
    assert_eq!(all.topics[0].records, 0);
    assert_eq!(all.topics[1].records, 4, "one record per topic made");
}

#[test]
fn earliest_and_latest_are_what_can_be_read() {
    let rig = Rig::manual();
    rig.create("t", 1);
    let ask = |spec| {
        let partition = named("t", 0);
        let partitions = vec![ListOffsetsPartition { partition, spec }];
        match rig.ask(Request::ListOffsets(ListOffsets { partitions })) {
            Ok(Response::ListOffsets(offsets)) => offsets[0].as_ref().unwrap().offset.get(),
            other => panic!("{other:?}"),
        }
    };
    let (lsn, _) = rig.produce(Acks::Fsync, raw("t", 3));
    assert_eq!((ask(OffsetSpec::Earliest), ask(OffsetSpec::Latest)), (0, 0));
    rig.store.make_durable(lsn);
    assert_eq!((ask(OffsetSpec::Earliest), ask(OffsetSpec::Latest)), (0, 3));
}

#[tokio::test]
async fn a_time_is_answered_with_the_record_that_begins_it_or_with_the_high_watermark() {
    let rig = Rig::manual();
    rig.create("t", 2);
    let structured = |times: &[i64]| {
        let records = times.iter().map(|time| crate::record::Record {
            timestamp: Some(Timestamp(*time)),
            ..crate::record::Record::default()
        });
        crate::api::ProducePartition {
            payload: crate::api::ProducePayload::Structured {
                records: records.collect(),
                producer: None,
            },
            ..raw("t", 1)
        }
    };
    rig.produce(Acks::Fsync, structured(&[START.0, START.0 + 10, START.0 + 5]))
        .1
        .unwrap();
    rig.store.make_all_durable();
    rig.produce(Acks::Fsync, structured(&[START.0 + 20])).1.unwrap();
    let ask = async |at: i64| {
        let partitions = [
            ("t", OffsetSpec::AtTimestamp(Timestamp(at))),
            ("t", OffsetSpec::Earliest),
            ("none", OffsetSpec::Latest),
        ];
        let partitions = partitions.map(|(name, spec)| ListOffsetsPartition {
            partition: named(name, 0),
            spec,
        });
        let list = ListOffsets {
            partitions: partitions.to_vec(),
        };
        let Outcome::Later(reply) = rig.broker.receive(Request::ListOffsets(list)) else {
            panic!("a lookup by time must not be answered on the caller's thread");
        };
        match reply.await {
            Ok(Response::ListOffsets(offsets)) => {
                assert_eq!(offsets[1].as_ref().unwrap().offset, Offset::ZERO);
                assert_eq!(
                    offsets[2].as_ref().unwrap_err().code,
                    ErrorCode::UnknownTopicOrPartition
                );
                let found = offsets[0].as_ref().unwrap();
                (found.offset.get(), found.timestamp.map(|at| at.0 - START.0))
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(0).await, (0, Some(0)));
    assert_eq!(ask(START.0 + 1).await, (1, Some(10)), "inside of the batch");
    assert_eq!(
        ask(START.0 + 20).await,
        (3, None),
        "not durable: the high watermark"
    );
    rig.store.make_all_durable();
    assert_eq!(ask(START.0 + 20).await, (3, Some(20)));
    assert_eq!(ask(START.0 + 21).await, (4, None));
}

#[tokio::test]
async fn a_lookup_by_time_in_a_topic_that_is_not_durable_yet_waits_for_it() {
    let rig = Rig::manual();
    waits(rig.broker.receive(create("t", 1))).1.unwrap();
    let partitions = vec![ListOffsetsPartition {
        partition: named("t", 0),
        spec: OffsetSpec::AtTimestamp(Timestamp(0)),
    }];
    let asked = Request::ListOffsets(ListOffsets { partitions });
    let Outcome::Later(mut reply) = rig.broker.receive(asked) else {
        panic!("a lookup by time must not be answered on the caller's thread");
    };
    let look = std::future::poll_fn(|context| std::task::Poll::Ready(reply.as_mut().poll(context)));
    assert!(look.await.is_pending());
    rig.store.make_all_durable();
    assert!(reply.await.is_ok());
}

#[test]
fn refusals_say_what_and_what_instead() {
    let rig = Rig::new();
    let id = rig.create("orders", 3);
    assert_eq!(code(rig.ask(create("orders", 3))), ErrorCode::TopicAlreadyExists);
    assert_eq!(code(rig.ask(create("a/b", 3))), ErrorCode::InvalidName);
    let error = rig.ask(create("many", 1025)).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidPartitions);
    assert_eq!(error.details.limit, Some(1024));
    let other = TopicId::from_bytes([3; 16]);
    assert_eq!(
        code(rig.ask(delete("orders", Some(other)))),
        ErrorCode::UnknownTopicId
    );
    let error = rig.ask(delete("order", None)).unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownTopicOrPartition);
    assert_eq!(error.details.nearest_name.as_deref(), Some("orders"));
    assert_eq!(rig.ask(delete("orders", Some(id))), Ok(Response::DeleteTopic(id)));
    assert_eq!(code(describe(&rig, "orders")), ErrorCode::UnknownTopicOrPartition);
}

#[test]
fn a_topic_made_again_under_its_name_is_another_one() {
    let rig = Rig::new();
    let old = rig.create("t", 1);
    assert!(rig.produce(Acks::Fsync, raw("t", 3)).1.is_ok());
    assert!(rig.ask(delete("t", None)).is_ok());
    let new = rig.create("t", 1);
    assert_ne!(old, new);
    assert_eq!(rig.visible("t"), 0);
    let to_old = ProducePartition {
        partition: with_id(old),
        ..raw("t", 1)
    };
    let (_, refused) = rig.produce(Acks::Fsync, to_old);
    assert_eq!(code(refused), ErrorCode::UnknownTopicOrPartition);
}

#[test]
fn producer_ids_are_reserved_durably_before_they_are_handed_out() {
    let rig = Rig::manual();
    let ask = |current| {
        let outcome = rig
            .broker
            .receive(Request::InitProducer(InitProducer { current }));
        let (lsn, reply) = waits(outcome);
        match reply.unwrap() {
            Response::InitProducer(producer) => (lsn, producer),
            other => panic!("{other:?}"),
        }
    };
    let (reserved, first) = ask(None);
    assert!(reserved > rig.durable());
    let mut last = first.id.0;
    for _ in 1..1000 {
        let (lsn, next) = ask(None);
        assert_eq!((lsn, next.id.0), (reserved, last + 1));
        last = next.id.0;
    }
    let (second, next) = ask(None);
    assert!(second > reserved, "the next block");
    assert_eq!(next.id.0, last + 1);
}

#[test]
fn an_epoch_is_bumped_and_behind_the_last_comes_another_id() {
    let rig = Rig::new();
    let producer = rig.init(None).unwrap();
    let bumped = rig.init(Some((producer.id, ProducerEpoch(8)))).unwrap();
    assert_eq!((bumped.id, bumped.epoch), (producer.id, ProducerEpoch(9)));
    let other = rig.init(Some((producer.id, ProducerEpoch(i16::MAX)))).unwrap();
    assert!(other.id > producer.id);
    assert_eq!(other.epoch, ProducerEpoch(0));
    let never = Some((ProducerId(other.id.0 + 1), ProducerEpoch(0)));
    assert_eq!(code(rig.init(never)), ErrorCode::UnknownProducerId);
    assert_eq!(
        code(rig.init(Some((producer.id, ProducerEpoch(-1))))),
        ErrorCode::InvalidArgument
    );
}

#[test]
fn a_broker_says_who_and_how_it_is_also_before_anything_is_durable() {
    let rig = Rig::with(
        MemoryOptions {
            durable_at_once: false,
            ..MemoryOptions::default()
        },
        Settings {
            version: "9.9".to_owned(),
            http_address: "127.0.0.1:7".to_owned(),
            ..Settings::default()
        },
    );
    rig.create("orders", 3);
    rig.create("payments", 1);
    rig.clock.advance(Duration::from_secs(5));
    // In memory, not durable: this answer does not wait.
    rig.broker.receive(create("later", 1));
    let Ok(Response::DescribeCluster(described)) = rig.ask(Request::DescribeCluster(DescribeCluster)) else {
        panic!("no answer");
    };
    assert_eq!((described.topics, described.partitions), (3, 5));
    assert_eq!(
        (described.version.as_str(), described.http_address.as_str()),
        ("9.9", "127.0.0.1:7")
    );
    assert_eq!(described.uptime, Duration::from_secs(5));
    assert_eq!(
        (described.problems.len(), described.storage.engine.as_ref()),
        (0, "memory")
    );
}
