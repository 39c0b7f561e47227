//! OF3: committed offsets expire only where a retention is configured, only without a member, and counted from when the last one went.

use super::rig::{Rig, beat, commit, id, subscribed, who};
use super::{committed, key, run};
use crate::group::*;
use crate::machine::{StateMachine, Stored};
use crate::model::{GroupState, LeaderEpoch, Timestamp};

const RETENTION: i64 = 10_000;

fn configure(rig: &mut Rig, now: i64, entries: &[(&str, Option<&str>)]) {
    let entries = entries
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)));
    let configure = Configure {
        group: "g".to_owned(),
        create: rig.machine.group("g").is_none(),
        entries: entries.collect(),
    };
    let reply = run(&mut rig.machine, now, Command::Configure(configure));
    assert!(matches!(reply, Reply::Configured { .. }), "{reply:?}");
}

/// A group with a retention of 10 s and two partitions.
fn kept() -> Rig {
    let mut rig = Rig::new(2);
    configure(&mut rig, 0, &[("offsets.retention.ms", Some("10s"))]);
    rig
}

fn join(rig: &mut Rig, now: i64, name: &str) {
    let joins = Heartbeat {
        subscription: Some(subscribed(&["a"])),
        ..beat(name, 0)
    };
    let reply = run(&mut rig.machine, now, Command::Heartbeat(joins));
    assert!(matches!(reply, Reply::Alive { .. }), "{reply:?}");
    rig.learn(name);
}

fn commits(rig: &mut Rig, now: i64, member: Option<MemberRef>, partition: u32, offset: i64) {
    let commit = Command::CommitOffsets(commit(member, partition, offset));
    let reply = run(&mut rig.machine, now, commit);
    assert_eq!(reply, Reply::Committed(Timestamp(now)));
}

fn leaves(rig: &mut Rig, now: i64, name: &str) {
    let remove = Command::Remove {
        group: "g".parse().unwrap(),
        member: id(name),
    };
    run(&mut rig.machine, now, remove);
}

/// What is left when it is looked at then.
fn left(rig: &mut Rig, now: i64) -> Vec<u32> {
    let expire = Command::ExpireOffsets {
        group: "g".parse().unwrap(),
    };
    assert_eq!(run(&mut rig.machine, now, expire), Reply::Done);
    let offsets = committed(&rig.machine, "g");
    offsets.into_iter().map(|(key, _)| key.partition.0).collect()
}

fn next(rig: &Rig) -> Option<i64> {
    rig.machine.next_offset_expiry("g").map(|at| at.0)
}

#[test]
fn of3_without_a_retention_nothing_ever_expires() {
    let mut rig = Rig::new(2);
    join(&mut rig, 0, "one");
    commits(&mut rig, 1, Some(who("one", 1)), 0, 5);
    leaves(&mut rig, 2, "one");
    assert_eq!((next(&rig), left(&mut rig, i64::MAX)), (None, vec![0]));
    // Once it is configured, it counts from when the group became empty, which is over.
    configure(&mut rig, 50_000, &[("offsets.retention.ms", Some("10s"))]);
    assert_eq!(next(&rig), Some(2 + RETENTION));
    configure(&mut rig, 50_000, &[("offsets.retention.ms", None)]);
    assert_eq!((next(&rig), left(&mut rig, i64::MAX)), (None, vec![0]));
}

#[test]
fn of3_expiry_counts_from_when_the_last_member_went_and_not_from_the_commit() {
    let mut rig = kept();
    join(&mut rig, 0, "one");
    commits(&mut rig, 1, Some(who("one", 1)), 0, 5);
    leaves(&mut rig, 100_000, "one");
    assert_eq!(rig.group().empty_since, Some(Timestamp(100_000)));
    assert_eq!(next(&rig), Some(110_000));
    assert_eq!(left(&mut rig, 109_999), [0]);
    let bytes = rig.machine.state_bytes();
    assert_eq!(left(&mut rig, 110_000), [0; 0]);
    assert_eq!(bytes - rig.machine.state_bytes(), OFFSET_STATE_BYTES);
    assert_eq!(next(&rig), None);
    // The group and its settings stay.
    assert_eq!(rig.group().config.offsets_retention_ms, Some(10_000));
    // Nothing is left, so nothing is written.
    let again = Command::ExpireOffsets {
        group: "g".parse().unwrap(),
    };
    assert_eq!(rig.machine.handle(Timestamp(i64::MAX), again).records, []);
}

#[test]
fn of3_bug_14_offsets_of_a_group_with_an_idle_member_do_not_expire() {
    let mut rig = kept();
    join(&mut rig, 0, "one");
    commits(&mut rig, 1, Some(who("one", 1)), 0, 5);
    assert_eq!((next(&rig), left(&mut rig, i64::MAX)), (None, vec![0]));
    leaves(&mut rig, 100, "one");
    // It comes back, and goes again: it counts from then.
    join(&mut rig, 200, "two");
    assert_eq!(rig.group().empty_since, None);
    assert_eq!(left(&mut rig, 1_000_000), [0]);
    leaves(&mut rig, 1_000_000, "two");
    assert_eq!(next(&rig), Some(1_000_000 + RETENTION));
}

#[test]
fn of3_bug_13_offsets_do_not_expire_while_the_group_rebalances() {
    let mut rig = kept();
    join(&mut rig, 0, "one");
    commits(&mut rig, 1, Some(who("one", 1)), 0, 5);
    join(&mut rig, 2, "two");
    assert_eq!(rig.group().state(), GroupState::Reconciling);
    assert_eq!(left(&mut rig, i64::MAX), [0]);
    leaves(&mut rig, 3, "one");
    assert_eq!(left(&mut rig, i64::MAX), [0]);
    configure(&mut rig, 4, &[("assignor", Some("leader"))]);
    join(&mut rig, 5, "three");
    assert_eq!(rig.group().state(), GroupState::Assigning);
    assert_eq!((next(&rig), left(&mut rig, i64::MAX)), (None, vec![0]));
}

#[test]
fn of3_a_commit_into_a_group_without_members_is_kept_from_itself_on() {
    let mut rig = kept();
    commits(&mut rig, 1_000, None, 0, 5);
    commits(&mut rig, 8_000, None, 1, 5);
    assert_eq!(next(&rig), Some(11_000));
    assert_eq!(left(&mut rig, 11_000), [1]);
    assert_eq!((next(&rig), left(&mut rig, 17_999)), (Some(18_000), vec![1]));
    assert_eq!(left(&mut rig, 18_000), [0; 0]);
}

#[test]
fn of3_bug_15_a_restart_does_not_move_the_expiry() {
    let mut rig = kept();
    join(&mut rig, 0, "one");
    commits(&mut rig, 1, Some(who("one", 1)), 0, 5);
    leaves(&mut rig, 5_000, "one");
    let topics = rig.machine.topics().clone();
    rig.machine = Machine::restore(Limits::default(), rig.machine.snapshot()).unwrap();
    *rig.machine.topics_mut() = topics;
    rig.machine.begin(LeaderEpoch(2));
    assert_eq!(next(&rig), Some(15_000));
    assert_eq!(
        (left(&mut rig, 14_999), left(&mut rig, 15_000)),
        (vec![0], vec![])
    );
}

#[test]
fn of3_a_group_of_which_it_is_not_known_when_it_became_empty_keeps_offsets_from_their_commit_on() {
    let mut rig = kept();
    commits(&mut rig, 1_000, None, 0, 5);
    // As a broker has written it that did not note it.
    let mut change = GroupChange::between(&Membership::default(), rig.group()).unwrap();
    change.empty_since = None;
    rig.machine.apply(&GroupRecord::Changed {
        group: "g".parse().unwrap(),
        change: Box::new(change),
    });
    assert_eq!((rig.group().empty_since, next(&rig)), (None, Some(11_000)));
}

#[test]
fn of3_a_static_member_that_closed_is_a_member_until_its_session_ends() {
    let mut rig = kept();
    rig.join_static("s", "first");
    commits(&mut rig, 8, Some(who("s", 1)), 0, 5);
    let mut member = who("s", 1);
    member.instance = Some("first".to_owned());
    let close = Command::Close(Close {
        group: "g".to_owned(),
        member,
        offsets: Vec::new(),
    });
    run(&mut rig.machine, 9, close);
    assert_eq!((next(&rig), left(&mut rig, i64::MAX)), (None, vec![0]));
    leaves(&mut rig, 20, "s");
    assert_eq!(next(&rig), Some(20 + RETENTION));
    assert_eq!(committed(&rig.machine, "g"), [(key(1, 0), 5)]);
}
