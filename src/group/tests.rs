//! The machine by scripts of commands, its snapshot, and random histories against a plain map.

mod expiry;
mod explore;
mod histories;
mod leader;
mod limits;
mod matrix;
mod members;
mod rig;
mod scale;
mod statics;
mod steps;
mod topics;

use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::machine::{StateMachine, Stored};
use crate::model::{InvalidGroupId, LeaderEpoch, Offset, PartitionId, PartitionKey, Timestamp, TopicId};
use crate::pb::internal as pb;

fn key(topic: u8, partition: u32) -> PartitionKey {
    PartitionKey {
        topic: TopicId::from_bytes([topic; 16]),
        partition: PartitionId(partition),
    }
}

fn at(offset: i64) -> CommittedOffset {
    with(offset, "")
}

fn with(offset: i64, metadata: &str) -> CommittedOffset {
    CommittedOffset {
        offset: Offset::new(offset).unwrap(),
        leader_epoch: None,
        metadata: metadata.into(),
        committed: Timestamp(0),
    }
}

/// Decides, and applies what was decided after a round trip through its stored form.
fn run(machine: &mut Machine, now: i64, command: Command) -> Reply {
    let effects = machine.handle(Timestamp(now), command);
    for record in &effects.records {
        let stored = Machine::decode(Machine::encode(record)).unwrap();
        assert_eq!(&stored, record);
        machine.apply(&stored);
    }
    effects.reply
}

fn commit(
    machine: &mut Machine,
    group: &str,
    offsets: &[(PartitionKey, CommittedOffset)],
) -> Result<Timestamp, GroupError> {
    let command = CommitOffsets {
        group: group.to_owned(),
        member: None,
        offsets: offsets.to_vec(),
    };
    match run(machine, 42, Command::CommitOffsets(command)) {
        Reply::Committed(at) => Ok(at),
        Reply::Refused(error) => Err(error),
        Reply::TopicDeleted
        | Reply::Alive { .. }
        | Reply::Closed { .. }
        | Reply::Done
        | Reply::Configured { .. }
        | Reply::Stepped(_) => panic!("another reply"),
    }
}

fn committed(machine: &Machine, group: &str) -> Vec<(PartitionKey, i64)> {
    let offsets = machine.offsets(group);
    offsets.map(|(key, c)| (key, c.offset.get())).collect()
}

#[test]
fn the_last_commit_counts_also_when_it_goes_back() {
    let mut machine = Machine::new(Limits::default());
    assert_eq!(machine.offset("g", key(1, 0)), None);
    let given = CommittedOffset {
        leader_epoch: Some(LeaderEpoch(3)),
        ..with(7, "half of it")
    };
    assert_eq!(
        commit(&mut machine, "g", &[(key(1, 0), given.clone())]),
        Ok(Timestamp(42))
    );
    let kept = machine.offset("g", key(1, 0)).unwrap();
    assert_eq!(
        kept,
        &CommittedOffset {
            committed: Timestamp(42),
            ..given
        }
    );
    for offset in [9, 9, 2] {
        commit(&mut machine, "g", &[(key(1, 0), at(offset))]).unwrap();
        assert_eq!(committed(&machine, "g"), [(key(1, 0), offset)]);
    }
    assert_eq!(committed(&machine, "other"), []);
}

#[test]
fn a_commit_is_one_record_or_none() {
    let machine = Machine::new(Limits::default());
    let handle = |offsets: Vec<_>| {
        let command = CommitOffsets {
            group: "g".to_owned(),
            member: None,
            offsets,
        };
        machine.handle(Timestamp(1), Command::CommitOffsets(command))
    };
    let effects = handle(vec![(key(2, 0), at(1)), (key(1, 1), at(2)), (key(1, 0), at(3))]);
    assert_eq!(effects.records.len(), 1);
    let twice = handle(vec![(key(2, 0), at(1)), (key(1, 1), at(2)), (key(2, 0), at(3))]);
    assert_eq!(twice.records, []);
    assert_eq!(twice.reply, Reply::Refused(GroupError::Twice { index: 2 }));
    assert_eq!(handle(vec![]).records, []);
}

#[test]
fn a_deleted_topic_takes_its_offsets_and_empty_groups_with_it() {
    let mut machine = Machine::new(Limits::default());
    commit(&mut machine, "both", &[(key(1, 0), at(1)), (key(2, 5), at(2))]).unwrap();
    commit(
        &mut machine,
        "one",
        &[(key(1, 0), with(3, "note")), (key(1, 9), at(4))],
    )
    .unwrap();
    let delete = |machine: &mut Machine, topic| {
        let command = Command::DeleteTopic(TopicId::from_bytes([topic; 16]));
        let written = machine.handle(Timestamp(1), command.clone()).records.len();
        run(machine, 1, command);
        written
    };
    assert_eq!(delete(&mut machine, 1), 1);
    assert_eq!(committed(&machine, "both"), [(key(2, 5), 2)]);
    assert_eq!(machine.groups().count(), 1);
    assert_eq!(machine.state_bytes(), OFFSET_STATE_BYTES);
    // Nobody has anything of it any more: nothing is written.
    assert_eq!(delete(&mut machine, 1), 0);
    assert_eq!(delete(&mut machine, 2), 1);
    assert_eq!((machine.groups().count(), machine.state_bytes()), (0, 0));
}

#[test]
fn groups_and_offsets_are_limited_but_those_that_are_there_go_on() {
    let limits = Limits {
        groups_max: 2,
        offsets_per_group_max: 3,
        ..Limits::default()
    };
    let mut machine = Machine::new(limits);
    commit(&mut machine, "a", &[(key(1, 0), at(1)), (key(1, 1), at(1))]).unwrap();
    commit(&mut machine, "b", &[(key(1, 0), at(1))]).unwrap();
    let full = Err(GroupError::TooManyGroups { max: 2 });
    assert_eq!(commit(&mut machine, "c", &[(key(1, 0), at(1))]), full);
    let four = [(key(1, 1), at(2)), (key(1, 2), at(2)), (key(1, 3), at(2))];
    assert_eq!(
        commit(&mut machine, "a", &four),
        Err(GroupError::TooManyOffsets { would_be: 4, max: 3 })
    );
    assert_eq!(committed(&machine, "a"), [(key(1, 0), 1), (key(1, 1), 1)]);
    assert!(commit(&mut machine, "a", &four[..2]).is_ok());
    assert!(commit(&mut machine, "a", &[(key(1, 0), at(9)), (key(1, 1), at(9))]).is_ok());
    // Smaller limits than what was stored hold nobody up.
    let tight = Limits {
        groups_max: 0,
        offsets_per_group_max: 1,
        state_bytes_max: 1,
        ..limits
    };
    let mut restored = Machine::restore(tight, machine.snapshot()).unwrap();
    assert!(commit(&mut restored, "a", &[(key(1, 0), at(10)), (key(1, 1), at(10))]).is_ok());
    assert!(commit(&mut restored, "a", &[(key(1, 7), at(10))]).is_err());
}

#[test]
fn metadata_and_the_whole_state_are_limited_in_bytes() {
    let limits = Limits {
        metadata_bytes_max: 8,
        state_bytes_max: 2 * OFFSET_STATE_BYTES + 8,
        ..Limits::default()
    };
    let mut machine = Machine::new(limits);
    assert_eq!(
        commit(
            &mut machine,
            "g",
            &[(key(1, 0), at(1)), (key(1, 1), with(1, "123456789"))]
        ),
        Err(GroupError::MetadataTooLarge {
            index: 1,
            bytes: 9,
            max: 8
        })
    );
    commit(
        &mut machine,
        "g",
        &[(key(1, 0), at(1)), (key(1, 1), with(1, "12345678"))],
    )
    .unwrap();
    let max = limits.state_bytes_max;
    assert_eq!(machine.state_bytes(), max);
    assert_eq!(
        commit(&mut machine, "h", &[(key(1, 0), at(1))]),
        Err(GroupError::StateFull {
            would_be: max + OFFSET_STATE_BYTES,
            max
        })
    );
    assert!(
        commit(
            &mut machine,
            "g",
            &[(key(1, 0), with(2, "")), (key(1, 1), with(2, "12"))]
        )
        .is_ok()
    );
    assert_eq!(machine.state_bytes(), max - 6);
}

#[test]
fn bad_group_ids_are_refused() {
    let mut machine = Machine::new(Limits::default());
    assert_eq!(
        commit(&mut machine, "", &[(key(1, 0), at(1))]),
        Err(GroupError::Id(InvalidGroupId::Empty))
    );
    assert!(matches!(
        commit(&mut machine, "a\nb", &[(key(1, 0), at(1))]),
        Err(GroupError::Id(InvalidGroupId::Character { .. }))
    ));
}

#[test]
fn stored_records_that_cannot_be_are_refused() {
    let decode = |bytes: &'static [u8]| Machine::decode(bytes::Bytes::from_static(bytes));
    assert_eq!(decode(&[]), Err(DecodeError::UnknownKind));
    assert_eq!(decode(&[0x12, 0x02, 0x0a, 0x00]), Err(DecodeError::TopicId(0)));
    assert_eq!(
        decode(&[0x0a, 0x00]),
        Err(DecodeError::Group(InvalidGroupId::Empty))
    );
    assert!(matches!(
        decode(&[0x0a, 0x05, 0x0a]),
        Err(DecodeError::Malformed(_))
    ));
    // A kind with number 15, from the future.
    assert_eq!(decode(&[0x7a, 0x00]), Err(DecodeError::UnknownKind));
    let negative = pb::GroupRecord {
        kind: Some(pb::group_record::Kind::OffsetsCommitted(pb::OffsetsCommitted {
            group: "g".to_owned(),
            topics: vec![pb::TopicOffsets {
                topic_id: vec![1; 16].into(),
                partitions: vec![pb::PartitionOffset {
                    offset: -1,
                    ..pb::PartitionOffset::default()
                }],
            }],
        })),
    };
    assert_eq!(
        Machine::decode(negative.encode_to_vec().into()),
        Err(DecodeError::Offset(-1))
    );
}

#[derive(Clone, Debug)]
enum Act {
    Commit(u8, Vec<(u8, u32, i64)>),
    Delete(u8),
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..3_u8, prop::collection::vec((1..4_u8, 0..3_u32, 0..100_i64), 0..4))
            .prop_map(|(group, offsets)| Act::Commit(group, offsets)),
        1 => (1..4_u8).prop_map(Act::Delete),
        1 => Just(Act::Restart),
    ]
}

proptest! {
    /// Every history leaves what a plain map would hold, whenever it is stored and restored on the way; a refused commit
    /// leaves nothing.
    #[test]
    fn a_history_with_restarts_leaves_the_last_commits(acts in prop::collection::vec(act(), 0..60)) {
        let mut machine = Machine::new(Limits::default());
        let mut model: BTreeMap<(String, PartitionKey), i64> = BTreeMap::new();
        for act in acts {
            match act {
                Act::Commit(group, offsets) => {
                    let group = format!("g{group}");
                    let offsets: Vec<_> = offsets.iter().map(|(t, p, o)| (key(*t, *p), at(*o))).collect();
                    if commit(&mut machine, &group, &offsets).is_ok() {
                        for (key, committed) in offsets {
                            model.insert((group.clone(), key), committed.offset.get());
                        }
                    }
                }
                Act::Delete(topic) => {
                    let topic = TopicId::from_bytes([topic; 16]);
                    run(&mut machine, 1, Command::DeleteTopic(topic));
                    model.retain(|(_, key), _| key.topic != topic);
                }
                Act::Restart => {
                    let restored = Machine::restore(Limits::default(), machine.snapshot()).unwrap();
                    prop_assert_eq!(restored.state_bytes(), machine.state_bytes());
                    machine = restored;
                }
            }
            let groups = machine.groups();
            let held: BTreeMap<_, _> = groups
                .flat_map(|(group, offsets)| {
                    offsets.offsets.iter().map(|(key, c)| ((group.to_string(), *key), c.offset.get()))
                })
                .collect();
            prop_assert_eq!(&held, &model);
        }
        prop_assert_eq!(machine.state_bytes(), u64::try_from(model.len()).unwrap() * OFFSET_STATE_BYTES);
    }
}
