//! Steps: the rules of idempotent producers, and that nothing happens twice or by half.

use super::rig::{Rig, commit, topic, who};
use super::run;
use crate::group::*;
use crate::machine::{StateMachine, Stored};
use crate::model::{Acks, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

fn append(base: i64) -> StepAppend {
    StepAppend {
        base: Offset::new(base).unwrap(),
        last: Offset::new(base + 2).unwrap(),
        append_time: Timestamp(9),
        leader_epoch: LeaderEpoch(4),
    }
}

/// A step without offsets of a consumer that assigns itself.
fn step(producer: i64, epoch: i16, sequence: i32) -> StepCommand {
    StepCommand {
        group: "g".to_owned(),
        member: None,
        stamp: StepStamp {
            producer: ProducerId(producer),
            epoch: ProducerEpoch(epoch),
            sequence: Sequence(sequence),
        },
        offsets: Vec::new(),
        acks: Acks::Fsync,
        appends: vec![append(i64::from(sequence) * 10)],
    }
}

/// The answer, and whether something was written.
fn take(machine: &mut Machine, now: i64, step: StepCommand) -> Result<Taken, GroupError> {
    let (groups, steps) = (machine.groups.clone(), machine.steps());
    let reply = run(machine, now, Command::Step(step));
    let changed = (&groups, steps) != (&machine.groups, machine.steps());
    if let Reply::Refused(error) = reply {
        assert!(!changed, "a refusal does nothing");
        return Err(error);
    }
    let Reply::Stepped(taken) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(changed, !taken.duplicate, "a repetition does nothing");
    Ok(taken)
}

fn out_of_order(expected: i32, got: i32) -> Result<Taken, GroupError> {
    Err(GroupError::StepOutOfOrder {
        expected: Sequence(expected),
        got: Sequence(got),
    })
}

#[test]
fn ip2_steps_follow_each_other_and_wrap() {
    let mut machine = Machine::new(Limits::default());
    for sequence in 0..3 {
        assert!(!take(&mut machine, 1, step(1, 0, sequence)).unwrap().duplicate);
    }
    assert_eq!(take(&mut machine, 1, step(1, 0, 4)), out_of_order(3, 4));
    // Nothing is known of this one: it may begin anywhere, and goes over the end of the numbers.
    take(&mut machine, 1, step(2, 0, i32::MAX)).unwrap();
    assert!(!take(&mut machine, 1, step(2, 0, 0)).unwrap().duplicate);
    assert!(take(&mut machine, 1, step(2, 0, i32::MAX)).unwrap().duplicate);
}

#[test]
fn ip3_a_repeated_step_is_answered_as_the_first_time_also_after_a_restart() {
    let mut machine = Machine::new(Limits::default());
    let mut first = Vec::new();
    for sequence in 0..5 {
        let mut asked = step(1, 0, sequence);
        asked.acks = if sequence == 2 { Acks::Memory } else { Acks::Fsync };
        first.push(take(&mut machine, 100 + i64::from(sequence), asked).unwrap());
    }
    let mut restored = Machine::restore(Limits::default(), machine.snapshot()).unwrap();
    for machine in [&mut machine, &mut restored] {
        for (sequence, first) in first.iter().enumerate() {
            // Other places and another level than the first time: they are not what counts.
            let mut again = step(1, 0, i32::try_from(sequence).unwrap());
            again.appends = vec![append(999), append(1_999)];
            let expected = Taken {
                duplicate: true,
                ..first.clone()
            };
            assert_eq!(take(machine, 500, again), Ok(expected));
        }
    }
}

#[test]
fn ip4_a_step_older_than_the_window_is_a_repetition_without_places() {
    let mut machine = Machine::new(Limits::default());
    // What lies before the first that is known may have been refused.
    for sequence in 10..17 {
        take(&mut machine, 1, step(1, 0, sequence)).unwrap();
    }
    for (sequence, appends) in [(16, 1), (12, 1), (11, 0), (10, 0)] {
        let taken = take(&mut machine, 1, step(1, 0, sequence)).unwrap();
        assert_eq!(
            (taken.duplicate, taken.appends.len()),
            (true, appends),
            "{sequence}"
        );
    }
    assert_eq!(take(&mut machine, 1, step(1, 0, 9)), out_of_order(17, 9));
}

#[test]
fn ip5_ip6_an_older_epoch_is_refused_and_a_newer_one_begins_at_zero() {
    let mut machine = Machine::new(Limits::default());
    take(&mut machine, 1, step(1, 3, 0)).unwrap();
    take(&mut machine, 1, step(1, 3, 1)).unwrap();
    let stale = Err(GroupError::StaleProducer {
        current: ProducerEpoch(3),
        got: ProducerEpoch(2),
    });
    assert_eq!(take(&mut machine, 1, step(1, 2, 2)), stale);
    assert_eq!(take(&mut machine, 1, step(1, 4, 2)), out_of_order(0, 2));
    assert!(!take(&mut machine, 1, step(1, 4, 0)).unwrap().duplicate);
    // What the older epoch did is not looked at any more.
    assert_eq!(take(&mut machine, 1, step(1, 4, 2)), out_of_order(1, 2));
}

#[test]
fn ip7_ip8_a_producer_that_was_quiet_for_a_week_may_go_on_with_any_step() {
    let mut machine = Machine::new(Limits::default());
    take(&mut machine, 0, step(1, 0, 0)).unwrap();
    take(&mut machine, 0, step(2, 5, 0)).unwrap();
    let week = 7 * DAY_MS;
    assert_eq!(take(&mut machine, week, step(1, 0, 7)), out_of_order(1, 7));
    assert!(!take(&mut machine, week + 1, step(1, 0, 7)).unwrap().duplicate);
    assert_eq!(machine.steps().0, 1, "the other was quiet, too, and is forgotten");
    assert!(!take(&mut machine, week + 2, step(2, 0, 3)).unwrap().duplicate);
}

#[test]
fn ip9_producers_are_bounded_in_number_and_the_one_that_was_quiet_longest_goes() {
    let mut machine = Machine::new(Limits {
        step_producers_max: 2,
        ..Limits::default()
    });
    let in_group = |group: &str, producer, sequence| StepCommand {
        group: group.to_owned(),
        ..step(producer, 0, sequence)
    };
    take(&mut machine, 1, in_group("a", 1, 0)).unwrap();
    take(&mut machine, 2, in_group("b", 2, 0)).unwrap();
    take(&mut machine, 3, in_group("a", 1, 1)).unwrap();
    take(&mut machine, 4, in_group("c", 3, 0)).unwrap();
    assert_eq!(machine.steps().0, 2);
    assert!(machine.group("b").is_none(), "nothing is left of it");
    assert!(take(&mut machine, 5, in_group("a", 1, 0)).unwrap().duplicate);
    assert!(!take(&mut machine, 5, in_group("b", 2, 9)).unwrap().duplicate);
}

#[test]
fn ip9_what_is_remembered_is_bounded_in_bytes() {
    let one = STEP_PRODUCER_STATE_BYTES + STEP_STATE_BYTES + STEP_APPEND_STATE_BYTES;
    let mut machine = Machine::new(Limits {
        step_state_bytes_max: 2 * one,
        ..Limits::default()
    });
    take(&mut machine, 1, step(1, 0, 0)).unwrap();
    take(&mut machine, 2, step(2, 0, 0)).unwrap();
    assert_eq!(machine.steps(), (2, 2 * one));
    take(&mut machine, 3, step(2, 0, 1)).unwrap();
    assert_eq!(
        machine.steps(),
        (1, one + STEP_STATE_BYTES + STEP_APPEND_STATE_BYTES)
    );
    for sequence in 2..20 {
        take(&mut machine, 4, step(2, 0, sequence)).unwrap();
    }
    let window = u64::try_from(STEP_WINDOW).unwrap();
    let full = STEP_PRODUCER_STATE_BYTES + window * (STEP_STATE_BYTES + STEP_APPEND_STATE_BYTES);
    assert_eq!(
        machine.steps(),
        (1, full),
        "no more than the window, but never less than who steps"
    );
}

#[test]
fn ip13_a_step_commits_and_is_remembered_in_one_or_not_at_all() {
    let mut rig = Rig::new(2);
    rig.join("one");
    let asked = |epoch, partition, sequence| StepCommand {
        member: Some(who("one", epoch)),
        offsets: commit(None, partition, 5).offsets,
        ..step(1, 0, sequence)
    };
    for (command, error) in [
        (asked(2, 0, 0), GroupError::FencedEpoch { current: 1, got: 2 }),
        (asked(0, 0, 0), GroupError::StaleEpoch { current: 1, got: 0 }),
        (asked(1, 7, 0), GroupError::NotHeld { index: 0, current: 1 }),
        (
            StepCommand {
                member: None,
                ..asked(1, 0, 0)
            },
            GroupError::NotEmpty { members: 1 },
        ),
    ] {
        assert_eq!(take(&mut rig.machine, 7, command), Err(error));
    }
    let effects = rig.machine.handle(Timestamp(7), Command::Step(asked(1, 0, 0)));
    assert_eq!(effects.records.len(), 2, "one batch");
    take(&mut rig.machine, 7, asked(1, 0, 0)).unwrap();
    assert_eq!(rig.machine.offsets("g").count(), 1);
    // Fenced since: what was taken is taken, and what was not is not.
    rig.remove("one");
    assert!(take(&mut rig.machine, 8, asked(1, 0, 0)).unwrap().duplicate);
    let gone = Err(GroupError::UnknownMember {
        member: "one".to_owned(),
    });
    assert_eq!(take(&mut rig.machine, 8, asked(1, 0, 1)), gone);
}

#[test]
fn a_deleted_topic_takes_no_answer_and_a_deleted_group_takes_all() {
    let mut rig = Rig::new(2);
    let asked = StepCommand {
        offsets: commit(None, 0, 5).offsets,
        ..step(1, 0, 0)
    };
    take(&mut rig.machine, 7, asked.clone()).unwrap();
    rig.run(Command::DeleteTopic(topic(1)));
    assert_eq!(rig.machine.offsets("g").count(), 0);
    assert!(take(&mut rig.machine, 7, asked.clone()).unwrap().duplicate);
    rig.run(Command::Delete {
        group: "g".to_owned(),
    });
    assert_eq!(rig.machine.steps(), (0, 0));
    assert!(!take(&mut rig.machine, 7, asked).unwrap().duplicate);
}

#[test]
fn appends_of_a_step_and_groups_are_limited() {
    let mut machine = Machine::new(Limits {
        groups_max: 1,
        ..Limits::default()
    });
    let many = StepCommand {
        appends: vec![append(0); STEP_APPENDS_MAX + 1],
        ..step(1, 0, 0)
    };
    let too_many = GroupError::TooManyAppends {
        appends: STEP_APPENDS_MAX + 1,
        max: STEP_APPENDS_MAX,
    };
    assert_eq!(take(&mut machine, 1, many), Err(too_many));
    take(&mut machine, 1, step(1, 0, 0)).unwrap();
    let other = StepCommand {
        group: "h".to_owned(),
        ..step(1, 0, 0)
    };
    assert_eq!(
        take(&mut machine, 1, other),
        Err(GroupError::TooManyGroups { max: 1 })
    );
}

#[test]
fn stored_steps_that_cannot_be_are_refused() {
    use crate::pb::internal as pb;
    use prost::Message;
    let decode = |step: pb::StepTaken| {
        let kind = Some(pb::group_record::Kind::StepTaken(step));
        Machine::decode(pb::GroupRecord { kind }.encode_to_vec().into())
    };
    let good = pb::StepTaken {
        group: "g".to_owned(),
        result: Some(pb::StepResult::default()),
        ..pb::StepTaken::default()
    };
    assert!(decode(good.clone()).is_ok());
    let without = pb::StepTaken {
        result: None,
        ..good.clone()
    };
    assert_eq!(decode(without), Err(DecodeError::NoStep));
    for (producer_id, producer_epoch) in [(-1, 0), (0, -1), (0, 1 << 15)] {
        let bad = pb::StepTaken {
            producer_id,
            producer_epoch,
            ..good.clone()
        };
        assert!(matches!(decode(bad), Err(DecodeError::Stamp { .. })));
    }
}
