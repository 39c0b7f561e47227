//! Committed offsets: what is kept, when it is answered, what a restart leaves of it.

use super::restart::{replay, restart};
use super::*;
use crate::api::{CommitOffsets, DeleteTopic, DescribeTopic, FetchOffsets, GroupOffset, OffsetToCommit};
use crate::group;
use crate::model::PartitionKey;
use crate::storage::{Replay, SnapshotSource};

fn place(partition: TopicPartition, offset: i64) -> OffsetToCommit {
    OffsetToCommit {
        partition,
        offset,
        leader_epoch: None,
        metadata: String::new(),
    }
}

fn commit_of(group: &str, offsets: Vec<OffsetToCommit>) -> Request {
    Request::CommitOffsets(CommitOffsets {
        member: None,
        group: group.to_owned(),
        offsets,
    })
}

fn offsets_of(group: &str, partitions: Vec<TopicPartition>) -> Request {
    Request::FetchOffsets(FetchOffsets {
        group: group.to_owned(),
        partitions,
    })
}

fn commit(rig: &Rig, group: &str, offsets: &[(&str, u32, i64)]) -> Result<(), ApiError> {
    let offsets = offsets
        .iter()
        .map(|(topic, partition, offset)| place(named(topic, *partition), *offset));
    rig.ask(commit_of(group, offsets.collect())).map(|_| ())
}

fn shown(reply: Reply) -> Vec<Result<GroupOffset, ApiError>> {
    match reply {
        Ok(Response::FetchOffsets(offsets)) => offsets,
        other => panic!("{other:?}"),
    }
}

/// Topic, partition and committed offset, everywhere.
fn committed(rig: &Rig, group: &str) -> Vec<(String, u32, i64)> {
    let all = shown(rig.ask(offsets_of(group, vec![])));
    let line = |offset: Result<GroupOffset, ApiError>| {
        let offset = offset.unwrap();
        let at = offset.committed.unwrap().offset.get();
        (offset.topic.to_string(), offset.key.partition.0, at)
    };
    all.into_iter().map(line).collect()
}

fn line(topic: &str, partition: u32, offset: i64) -> (String, u32, i64) {
    (topic.to_owned(), partition, offset)
}

/// A topic of three partitions with so many records in the first.
fn filled(rig: &Rig, topic: &str, records: u32) -> TopicId {
    let id = rig.create(topic, 3);
    rig.produce(Acks::Fsync, raw(topic, records)).1.unwrap();
    rig.store.make_all_durable();
    id
}

#[test]
fn a_commit_is_shown_with_its_words_and_where_the_partition_ends() {
    let rig = Rig::new();
    let id = filled(&rig, "t", 9);
    let with_words = OffsetToCommit {
        leader_epoch: Some(rig.store.leader_epoch()),
        metadata: "halfway".to_owned(),
        ..place(with_id(id), 4)
    };
    assert_eq!(
        rig.ask(commit_of("g", vec![with_words])),
        Ok(Response::CommitOffsets(START))
    );
    let asked = vec![named("t", 0), named("t", 2), named("t", 3), named("u", 0)];
    let mut offsets = shown(rig.ask(offsets_of("g", asked))).into_iter();
    let first = offsets.next().unwrap().unwrap();
    assert_eq!((first.topic.as_str(), first.key.topic), ("t", id));
    assert_eq!(first.bounds.high_watermark, offset(9));
    let kept = first.committed.unwrap();
    assert_eq!(
        (kept.offset, kept.at, kept.metadata.as_ref()),
        (offset(4), START, "halfway")
    );
    assert_eq!(kept.leader_epoch, Some(rig.store.leader_epoch()));
    assert_eq!(offsets.next().unwrap().unwrap().committed, None);
    assert_eq!(code(offsets.next().unwrap()), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(code(offsets.next().unwrap()), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(committed(&rig, "nobody"), []);
}

#[test]
fn a_group_lags_by_what_it_can_still_read() {
    let rig = Rig::new();
    filled(&rig, "a", 10);
    filled(&rig, "b", 5);
    commit(&rig, "g", &[("a", 0, 2), ("a", 1, 0), ("b", 0, 5)]).unwrap();
    commit(&rig, "h", &[("b", 0, 1)]).unwrap();
    let lag = |max| {
        let (groups, all) = rig.broker.groups_now(max);
        let shown = groups.into_iter().map(|group| {
            let topics = group.lag.iter().map(|(topic, lag)| (topic.to_string(), *lag));
            (group.name.to_string(), topics.collect::<Vec<_>>(), group.lag_max)
        });
        (shown.collect::<Vec<_>>(), all)
    };
    let g = |lag| {
        (
            "g".to_owned(),
            vec![("a".to_owned(), lag), ("b".to_owned(), 0)],
            lag,
        )
    };
    let h = ("h".to_owned(), vec![("b".to_owned(), 4)], 4);
    assert_eq!(lag(9), (vec![g(8), h], 2));
    assert_eq!(lag(1), (vec![g(8)], 2), "the first by name");
    // What is trimmed cannot be read any more.
    let partitions = vec![crate::api::TrimPartition {
        partition: named("a", 0),
        to: 7,
    }];
    rig.ask(Request::TrimTopic(crate::api::TrimTopic { partitions }))
        .unwrap();
    assert_eq!(lag(1), (vec![g(3)], 2));
}

#[test]
fn whoever_sees_a_commit_waits_until_it_is_durable() {
    let rig = Rig::manual();
    filled(&rig, "t", 9);
    let (lsn, reply) = waits(rig.broker.receive(commit_of("g", vec![place(named("t", 0), 4)])));
    assert!(reply.is_ok() && lsn > rig.durable());
    assert_eq!(waits(rig.broker.receive(offsets_of("g", vec![]))).0, lsn);
    assert_eq!(
        waits(rig.broker.receive(offsets_of("g", vec![named("t", 0)]))).0,
        lsn
    );
    // A refusal may have been decided by what is not durable yet.
    let beyond = waits(rig.broker.receive(commit_of("", vec![place(named("t", 0), 4)])));
    assert_eq!((beyond.0, code(beyond.1)), (lsn, ErrorCode::InvalidName));
}

#[test]
fn of5_an_offset_outside_of_its_partition_is_refused() {
    let rig = Rig::manual();
    filled(&rig, "t", 9);
    // Sequenced, but nobody can have read it.
    rig.produce(Acks::Fsync, raw("t", 1)).1.unwrap();
    for bad in [10, -1, i64::MIN, i64::MAX] {
        let (_, reply) = waits(
            rig.broker
                .receive(commit_of("g", vec![place(named("t", 0), bad)])),
        );
        let error = reply.unwrap_err();
        assert_eq!(error.code, ErrorCode::OffsetOutOfRange, "{bad}");
        assert!(error.code.is_definite());
        assert_eq!(error.details.high_watermark, Some(offset(9)));
        assert_eq!(error.details.field.as_deref(), Some("commit_offsets.offsets[0]"));
        assert!(error.message.starts_with("t/0: "), "{error}");
    }
    rig.store.make_all_durable();
    assert_eq!(committed(&rig, "g"), []);
    let behind_the_last = commit_of("g", vec![place(named("t", 0), 10), place(named("t", 1), 0)]);
    assert!(waits(rig.broker.receive(behind_the_last)).1.is_ok());
}

#[test]
fn one_bad_item_refuses_the_whole_commit_and_is_named() {
    let rig = Rig::new();
    filled(&rig, "t", 9);
    commit(&rig, "g", &[("t", 0, 1)]).unwrap();
    let cases = [
        (("t", 7, 0), ErrorCode::UnknownTopicOrPartition, "t/7"),
        (("tt", 0, 0), ErrorCode::UnknownTopicOrPartition, "tt/0"),
        (("__meta", 0, 0), ErrorCode::InvalidName, "__meta/0"),
        (("t", 1, 1), ErrorCode::OffsetOutOfRange, "t/1"),
        (("t", 0, 3), ErrorCode::InvalidArgument, "t/0"),
    ];
    for (bad, expected, place) in cases {
        let error = commit(&rig, "g", &[("t", 0, 2), bad]).unwrap_err();
        assert_eq!(error.code, expected, "{bad:?}");
        assert!(error.message.starts_with(place), "{error}");
        assert_eq!(error.details.field.as_deref(), Some("commit_offsets.offsets[1]"));
        assert_eq!(committed(&rig, "g"), [line("t", 0, 1)]);
    }
    let by_id = place(with_id(TopicId::GROUPS), 0);
    assert_eq!(
        code(rig.ask(commit_of("g", vec![by_id]))),
        ErrorCode::UnknownTopicOrPartition
    );
}

#[test]
fn the_partition_of_the_groups_is_described_without_what_users_can_set() {
    let rig = Rig::new();
    filled(&rig, "t", 9);
    commit(&rig, "g", &[("t", 0, 5)]).unwrap();
    let describe = |name: &str| {
        let name = name.to_owned();
        match rig.ask(Request::DescribeTopic(DescribeTopic { name })) {
            Ok(Response::DescribeTopic(described)) => described,
            other => panic!("{other:?}"),
        }
    };
    let groups = describe("__groups");
    assert_eq!(groups.partitions[0].bounds.high_watermark, offset(1));
    assert_eq!(groups.configs, []);
    assert!(!describe("t").configs.is_empty());
}

#[test]
fn what_a_group_may_commit_is_limited() {
    let settings = Settings {
        request_partitions_max: 2,
        groups: group::Limits {
            groups_max: 1,
            offsets_per_group_max: 1,
            metadata_bytes_max: 3,
            ..group::Limits::default()
        },
        ..Settings::default()
    };
    let rig = Rig::with(MemoryOptions::default(), settings);
    filled(&rig, "t", 9);
    let three = [("t", 0, 1), ("t", 1, 0), ("t", 2, 0)];
    assert_eq!(code(commit(&rig, "g", &three)), ErrorCode::TooManyElements);
    let asked = vec![named("t", 0), named("t", 1), named("t", 2)];
    assert_eq!(code(rig.ask(offsets_of("g", asked))), ErrorCode::TooManyElements);
    assert_eq!(code(commit(&rig, "g", &three[..2])), ErrorCode::LimitExceeded);
    let wordy = OffsetToCommit {
        metadata: "1234".to_owned(),
        ..place(named("t", 0), 1)
    };
    let error = rig.ask(commit_of("g", vec![wordy])).unwrap_err();
    assert_eq!(error.code, ErrorCode::MessageTooLarge);
    assert_eq!((error.details.limit, error.details.actual), (Some(3), Some(4)));
    commit(&rig, "g", &three[..1]).unwrap();
    assert_eq!(code(commit(&rig, "h", &three[..1])), ErrorCode::LimitExceeded);
    assert_eq!(
        code(commit(&rig, "a\u{202e}b", &three[..1])),
        ErrorCode::InvalidName
    );
    assert_eq!(code(rig.ask(offsets_of("", vec![]))), ErrorCode::InvalidName);
}

#[test]
fn a_topic_that_is_created_again_inherits_nothing() {
    let rig = Rig::new();
    let old = filled(&rig, "t", 9);
    filled(&rig, "u", 9);
    commit(&rig, "g", &[("t", 0, 5), ("u", 0, 6)]).unwrap();
    let delete = Request::DeleteTopic(DeleteTopic {
        name: "t".to_owned(),
        id: None,
    });
    rig.ask(delete).unwrap();
    assert_eq!(committed(&rig, "g"), [line("u", 0, 6)]);
    // One step: no reader of the journal can find the one without the other.
    assert_eq!(
        rig.broker.groups.lock().driver.lsn,
        rig.broker.lock_coordinator().driver.lsn
    );
    filled(&rig, "t", 9);
    assert_eq!(committed(&rig, "g"), [line("u", 0, 6)]);
    let late = rig.ask(commit_of("g", vec![place(with_id(old), 7)]));
    assert_eq!(code(late), ErrorCode::UnknownTopicOrPartition);
    commit(&rig, "g", &[("t", 0, 1)]).unwrap();
    let rig = restart(rig, vec![], &[]);
    assert_eq!(committed(&rig, "g"), [line("t", 0, 1), line("u", 0, 6)]);
}

/// Commits, deletions and creations; the state is stored after each of them in turn, and the broker started from there.
#[test]
fn a_restart_leaves_the_last_commits_wherever_the_snapshot_was_taken() {
    let acts: [fn(&Rig); 7] = [
        |rig| commit(rig, "g", &[("t", 0, 1), ("u", 0, 1)]).unwrap(),
        |rig| commit(rig, "h", &[("u", 0, 2)]).unwrap(),
        |rig| commit(rig, "g", &[("t", 0, 7)]).unwrap(),
        |rig| {
            let name = "u".to_owned();
            rig.ask(Request::DeleteTopic(DeleteTopic { name, id: None }))
                .unwrap();
        },
        |rig| {
            filled(rig, "u", 3);
        },
        |rig| commit(rig, "g", &[("t", 0, 2), ("u", 0, 3)]).unwrap(),
        |rig| commit(rig, "g", &[("t", 0, 2)]).unwrap(),
    ];
    for stored_after in 0..=acts.len() {
        let rig = Rig::new();
        filled(&rig, "t", 9);
        filled(&rig, "u", 9);
        let store = || {
            let keys = [PartitionKey::META, PartitionKey::GROUPS];
            keys.map(|key| (key, rig.broker.snapshot(key).unwrap()))
        };
        let mut stored = store();
        for (index, act) in acts.iter().enumerate() {
            act(&rig);
            if index + 1 == stored_after {
                stored = store();
            }
        }
        let before = committed(&rig, "g");
        assert_eq!(before, [line("t", 0, 2), line("u", 0, 3)]);
        let partition = |rig: &Rig, topic| PartitionKey {
            topic: rig
                .broker
                .lock_coordinator()
                .driver
                .machine
                .topic(topic)
                .unwrap()
                .id,
            partition: PartitionId(0),
        };
        let keys = [partition(&rig, "t"), partition(&rig, "u")];
        let rig = restart(rig, stored.to_vec(), &keys);
        assert_eq!(committed(&rig, "g"), before, "stored after {stored_after}");
        assert_eq!(committed(&rig, "h"), []);
        commit(&rig, "g", &[("t", 0, 9)]).unwrap();
        assert_eq!(committed(&rig, "g"), [line("t", 0, 9), line("u", 0, 3)]);
    }
}

#[test]
fn what_recovery_leaves_of_groups_is_what_the_next_checkpoint_stores() {
    let rig = Rig::new();
    filled(&rig, "t", 9);
    commit(&rig, "g", &[("t", 0, 5), ("t", 1, 0)]).unwrap();
    let mut recovered = Recovered::new(&rig.settings);
    replay(&rig.store, PartitionKey::GROUPS, &mut recovered);
    let key = PartitionKey::GROUPS;
    assert_eq!(recovered.replayed_snapshot(key), rig.broker.snapshot(key));
}

#[test]
fn commits_that_race_are_seen_whole_and_the_last_one_counts() {
    const COMMITS: i64 = 200;
    let rig = Rig::new();
    filled(&rig, "t", 1);
    for topic in ["a", "b"] {
        rig.create(topic, 1);
        rig.produce(Acks::Fsync, raw(topic, 1_000)).1.unwrap();
    }
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for n in 0..COMMITS {
                    commit(&rig, "g", &[("a", 0, n), ("b", 0, n)]).unwrap();
                }
            });
        }
        scope.spawn(|| {
            loop {
                let seen: Vec<_> = committed(&rig, "g").into_iter().map(|(_, _, at)| at).collect();
                if let [a, b] = seen[..] {
                    assert_eq!(a, b, "half a commit was seen");
                    if a == COMMITS - 1 {
                        return;
                    }
                }
            }
        });
    });
    let last = COMMITS - 1;
    assert_eq!(committed(&rig, "g"), [line("a", 0, last), line("b", 0, last)]);
    // Every commit is in the log, the last one last.
    let rig = restart(rig, vec![], &[]);
    let mut recovered = Recovered::new(&rig.settings);
    replay(&rig.store, PartitionKey::GROUPS, &mut recovered);
    assert_eq!(
        recovered.replayed_snapshot(PartitionKey::GROUPS),
        rig.broker.snapshot(PartitionKey::GROUPS)
    );
}
