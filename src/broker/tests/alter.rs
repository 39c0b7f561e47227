//! AlterTopic, seen through requests: in force at once, durable before it is answered, and there after a restart.

use super::restart::{replay, restart};
use super::*;
use crate::api::{AlterTopic, AlteredTopic, DeleteTopic, DescribeTopic, DescribedTopic};
use crate::model::PartitionKey;
use crate::storage::SnapshotSource;

fn alter(name: &str) -> AlterTopic {
    AlterTopic {
        name: name.to_owned(),
        ..AlterTopic::default()
    }
}

fn set(name: &str, entries: &[(&str, &str)]) -> AlterTopic {
    let set = entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    AlterTopic {
        set: set.collect(),
        ..alter(name)
    }
}

fn grow(name: &str, partitions: u32) -> AlterTopic {
    AlterTopic {
        partitions,
        ..alter(name)
    }
}

fn key(topic: TopicId, partition: u32) -> PartitionKey {
    PartitionKey {
        topic,
        partition: PartitionId(partition),
    }
}

fn batch_to(topic: &str, partition: u32) -> ProducePartition {
    item(named(topic, partition), ProducePayload::Raw(batch(1, None)))
}

impl Rig {
    /// Makes everything durable on the way.
    fn alter(&self, alter: AlterTopic) -> Result<AlteredTopic, ApiError> {
        let (_, reply) = waits(self.broker.receive(Request::AlterTopic(alter)));
        self.store.make_all_durable();
        match reply? {
            Response::AlterTopic(altered) => Ok(altered),
            other => panic!("{other:?}"),
        }
    }

    fn described(&self, name: &str) -> DescribedTopic {
        let name = name.to_owned();
        match self.ask(Request::DescribeTopic(DescribeTopic { name })) {
            Ok(Response::DescribeTopic(described)) => described,
            other => panic!("{other:?}"),
        }
    }

    /// Value and source of an entry.
    fn entry(&self, topic: &str, name: &str) -> (String, String) {
        let described = self.described(topic).configs.into_iter();
        let entry = described.into_iter().find(|entry| entry.name == name).unwrap();
        (entry.value, entry.source)
    }

    fn end_of(&self, topic: &str, partition: u32) -> Result<i64, ApiError> {
        let mut all = fetched(self.ask(fetch(FetchForm::Raw, Duration::ZERO, &[(topic, partition, 0)])));
        all.remove(0).map(|part| part.high_watermark.get())
    }
}

#[test]
fn a_change_is_answered_when_it_is_durable_and_whoever_sees_it_waits_too() {
    let rig = Rig::manual();
    rig.create("t", 1);
    let change = AlterTopic {
        partitions: 2,
        ..set("t", &[("max.message.bytes", "1024")])
    };
    let (lsn, reply) = waits(rig.broker.receive(Request::AlterTopic(change.clone())));
    assert!(lsn > rig.durable(), "the answer waits");
    let Ok(Response::AlterTopic(altered)) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!((altered.partitions, altered.changed), (2, true));
    let describe = Request::DescribeTopic(DescribeTopic { name: "t".to_owned() });
    let unchanged = Request::AlterTopic(change);
    let only_asked = Request::AlterTopic(AlterTopic {
        validate_only: true,
        ..grow("t", 9)
    });
    for request in [describe, unchanged, only_asked] {
        let name = request.kind().name();
        assert_eq!(waits(rig.broker.receive(request)).0, lsn, "{name}");
    }
    // Refused by a rule that is not durable yet, and taken by a partition that is not.
    let large = item(named("t", 0), ProducePayload::Raw(batch(200, None)));
    let (waits_for, refused) = rig.produce(Acks::Fsync, large);
    assert_eq!((waits_for, code(refused)), (lsn, ErrorCode::MessageTooLarge));
    let (waits_for, produced) = rig.produce(Acks::Fsync, batch_to("t", 1));
    assert!(waits_for > lsn);
    assert_eq!(offsets(&produced), Some((0, 0)));
}

#[test]
fn new_partitions_take_records_and_the_others_keep_theirs() {
    let rig = Rig::new();
    let id = rig.create("t", 2);
    let producer = rig.init(None).unwrap();
    assert!(rig.produce(Acks::Fsync, sequenced("t", producer, 0, 3)).1.is_ok());
    let before = rig.produce(Acks::Fsync, batch_to("t", 2)).1.unwrap_err();
    assert_eq!(before.code, ErrorCode::UnknownTopicOrPartition);
    assert_eq!(rig.alter(grow("t", 4)).unwrap().partitions, 4);
    for partition in 2..4 {
        assert_eq!(rig.end_of("t", partition).unwrap(), 0);
        let produced = rig.produce(Acks::Fsync, batch_to("t", partition)).1;
        assert_eq!(offsets(&produced), Some((0, 0)));
        assert_eq!(rig.end_of("t", partition).unwrap(), 1);
    }
    // The producer goes on where it was, and its repetition is known.
    let (_, again) = rig.produce(Acks::Fsync, sequenced("t", producer, 0, 3));
    assert!(again.as_ref().unwrap().duplicate);
    assert_eq!(offsets(&again), Some((0, 2)));
    let (_, next) = rig.produce(Acks::Fsync, sequenced("t", producer, 3, 1));
    assert_eq!(offsets(&next), Some((3, 3)));
    let beyond = rig.end_of("t", 4).unwrap_err();
    assert_eq!((beyond.details.limit, beyond.details.actual), (Some(4), Some(4)));
    let numbers = rig.broker.topics_now();
    assert_eq!((numbers[0].partitions.len(), numbers[0].records_in), (4, 6));
    // And all of them go with the topic.
    let delete = Request::DeleteTopic(DeleteTopic {
        name: "t".to_owned(),
        id: Some(id),
    });
    assert!(rig.ask(delete).is_ok());
    rig.create("t", 4);
    assert_eq!(rig.end_of("t", 3).unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_waits_at_a_new_partition_is_told_when_its_topic_goes() {
    let rig = Rig::new();
    rig.create("t", 1);
    rig.alter(grow("t", 2)).unwrap();
    let wait = Duration::from_secs(20);
    let Outcome::Later(mut parked) = rig.broker.receive(fetch(FetchForm::Raw, wait, &[("t", 1, 0)])) else {
        panic!("there is nothing to read yet");
    };
    let moment = tokio::time::timeout(Duration::from_secs(1), &mut parked).await;
    assert!(moment.is_err(), "it waits");
    let delete = Request::DeleteTopic(DeleteTopic {
        name: "t".to_owned(),
        id: None,
    });
    assert!(rig.ask(delete).is_ok());
    let mut answer = fetched(parked.await);
    assert_eq!(code(answer.remove(0)), ErrorCode::UnknownTopicOrPartition);
}

#[test]
fn rules_for_batches_are_in_force_at_once() {
    let rig = Rig::new();
    rig.create("t", 1);
    let large = || item(named("t", 0), ProducePayload::Raw(batch(200, None)));
    assert!(rig.produce(Acks::Fsync, large()).1.is_ok());
    rig.alter(set("t", &[("max.message.bytes", "1024")])).unwrap();
    let error = rig.produce(Acks::Fsync, large()).1.unwrap_err();
    assert_eq!(
        (error.code, error.details.limit),
        (ErrorCode::MessageTooLarge, Some(1024))
    );
    assert_eq!(rig.end_of("t", 0).unwrap(), 200, "what is there stays readable");
    let back = AlterTopic {
        unset: vec!["max.message.bytes".to_owned()],
        ..set("t", &[("message.timestamp.type", "LogAppendTime")])
    };
    rig.alter(back).unwrap();
    assert!(rig.produce(Acks::Fsync, large()).1.is_ok());
    let appended = fetch(FetchForm::Structured, Duration::ZERO, &[("t", 0, 200)]);
    let part = fetched(rig.ask(appended)).remove(0).unwrap();
    let FetchPayload::Structured(records) = part.payload else {
        panic!("not decoded");
    };
    assert_eq!(records[0].1.timestamp, Some(START));
}

#[test]
fn retention_goes_by_what_is_in_force() {
    let rig = Rig::new();
    rig.create("t", 1);
    for _ in 0..5 {
        rig.produce(Acks::Fsync, batch_to("t", 0)).1.unwrap();
    }
    let next = |rig: &Rig| rig.described("t").partitions[0].next_deletion;
    let seven_days = next(&rig).unwrap();
    rig.alter(set("t", &[("retention.ms", "60000")])).unwrap();
    assert_ne!(next(&rig), Some(seven_days), "the next deletion is another one");
    rig.clock.advance(Duration::from_millis(60_001));
    assert_eq!(rig.broker.retain().records, 5);
    rig.produce(Acks::Fsync, batch_to("t", 0)).1.unwrap();
    rig.alter(set("t", &[("retention.ms", "-1")])).unwrap();
    assert_eq!(next(&rig), None);
    rig.clock.advance(Duration::from_secs(3600));
    assert_eq!(rig.broker.retain().records, 0);
}

/// Whoever was told that records are kept from now on loses none, although retention is at work at that moment.
#[test]
fn nothing_is_removed_by_a_rule_that_was_replaced() {
    let rig = Rig::new();
    rig.create("t", 3);
    let start = |rig: &Rig| {
        let partitions = rig.described("t").partitions.into_iter();
        partitions.map(|p| p.bounds.log_start.get()).collect::<Vec<_>>()
    };
    for _ in 0..100 {
        rig.alter(set("t", &[("retention.bytes", "0")])).unwrap();
        for partition in 0..3 {
            rig.produce(Acks::Fsync, batch_to("t", partition)).1.unwrap();
        }
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| rig.broker.retain());
            rig.alter(set("t", &[("retention.bytes", "-1")])).unwrap();
            let kept_from = start(&rig);
            looking.join().unwrap();
            assert_eq!(start(&rig), kept_from);
        });
    }
}

#[test]
fn who_only_asks_is_told_and_changes_nothing() {
    let rig = Rig::with(
        MemoryOptions {
            capacity_bytes: 32 << 10,
            ..MemoryOptions::default()
        },
        Settings::default(),
    );
    let id = rig.create("t", 1);
    let ask = |change: AlterTopic| {
        rig.alter(AlterTopic {
            validate_only: true,
            ..change
        })
    };
    let change = AlterTopic {
        id: Some(id),
        partitions: 3,
        ..set("t", &[("retention.ms", "1h")])
    };
    let would_be = ask(change.clone()).unwrap();
    assert_eq!((would_be.partitions, would_be.changed), (3, true));
    let entry = would_be
        .configs
        .iter()
        .find(|e| e.name == "retention.ms")
        .unwrap();
    assert_eq!(
        (entry.value.as_str(), entry.source.as_str()),
        ("3600000", "topic")
    );
    assert_eq!(rig.described("t").partitions.len(), 1);
    assert_eq!(
        rig.entry("t", "retention.ms"),
        ("604800000".to_owned(), "default".to_owned())
    );
    assert_eq!(code(ask(grow("t", 1025))), ErrorCode::InvalidPartitions);
    // What it said is what comes of it.
    assert_eq!(rig.alter(change), Ok(would_be));
    // Asking needs no room.
    while rig
        .broker
        .store
        .permit(16 << 10, crate::storage::Class::Internal)
        .is_ok()
    {
        assert!(rig.init(None).is_ok());
        rig.alter(grow(
            "t",
            u32::try_from(rig.described("t").partitions.len()).unwrap() + 1,
        ))
        .unwrap();
    }
    assert_eq!(code(rig.alter(grow("t", 900))), ErrorCode::StorageFull);
    assert!(ask(grow("t", 900)).unwrap().changed);
}

#[test]
fn refusals_say_what_and_what_instead() {
    let rig = Rig::new();
    let id = rig.create("orders", 3);
    let error = rig.alter(set("orders", &[("retention.msec", "1")])).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidConfig);
    assert_eq!(error.details.nearest_name.as_deref(), Some("retention.ms"));
    let error = rig.alter(set("orders", &[("storage", "memory")])).unwrap_err();
    assert_eq!(
        (error.code, error.details.field.as_deref()),
        (ErrorCode::InvalidConfig, Some("storage"))
    );
    let error = rig.alter(grow("orders", 2)).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidPartitions);
    assert!(error.message.contains("has 3 partitions"), "{}", error.message);
    assert_eq!(
        code(rig.alter(grow("orders", 1025))),
        ErrorCode::InvalidPartitions
    );
    assert_eq!(
        code(rig.alter(grow("order", 4))),
        ErrorCode::UnknownTopicOrPartition
    );
    assert_eq!(code(rig.alter(grow("__meta", 4))), ErrorCode::InvalidName);
    let other = AlterTopic {
        id: Some(TopicId::from_bytes([3; 16])),
        ..grow("orders", 4)
    };
    assert_eq!(code(rig.alter(other)), ErrorCode::UnknownTopicId);
    let described = rig.described("orders");
    assert_eq!((described.id, described.partitions.len()), (id, 3));
}

#[test]
fn a_changed_topic_comes_back_from_records_and_from_snapshots() {
    for with_snapshot in [true, false] {
        let rig = Rig::new();
        let id = rig.create("t", 1);
        rig.alter(AlterTopic {
            partitions: 2,
            ..set("t", &[("retention.ms", "1h"), ("max.message.bytes", "2048")])
        })
        .unwrap();
        rig.produce(Acks::Fsync, batch_to("t", 1)).1.unwrap();
        let taken = match rig.broker.snapshot(PartitionKey::META) {
            Some(snapshot) if with_snapshot => vec![(PartitionKey::META, snapshot)],
            _ => Vec::new(),
        };
        rig.alter(AlterTopic {
            unset: vec!["retention.ms".to_owned()],
            ..grow("t", 3)
        })
        .unwrap();
        rig.produce(Acks::Fsync, batch_to("t", 2)).1.unwrap();
        let keys = [0, 1, 2].map(|partition| key(id, partition));
        let rig = restart(rig, taken, &keys);
        assert_eq!(rig.described("t").partitions.len(), 3);
        assert_eq!(rig.entry("t", "retention.ms").1, "default");
        let own = ("2048".to_owned(), "topic".to_owned());
        assert_eq!(rig.entry("t", "max.message.bytes"), own);
        for (partition, end) in [(0, 0), (1, 1), (2, 1)] {
            assert_eq!(rig.end_of("t", partition).unwrap(), end);
            let produced = rig.produce(Acks::Fsync, batch_to("t", partition)).1;
            assert_eq!(offsets(&produced), Some((end, end)));
        }
        let mut recovered = Recovered::new(&rig.settings);
        replay(&rig.store, PartitionKey::META, &mut recovered);
        let replayed = crate::storage::Replay::replayed_snapshot(&recovered, PartitionKey::META);
        assert_eq!(replayed, rig.broker.snapshot(PartitionKey::META));
    }
}
