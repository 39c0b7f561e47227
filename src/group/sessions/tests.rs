//! Each timer by itself, and all of them in any order.

use proptest::prelude::*;

use super::*;
use crate::model::{PartitionId, TopicId};

const GRACE: Duration = Duration::from_secs(2);
const SESSION: Duration = Duration::from_secs(10);
const PROGRESS: Duration = Duration::from_secs(60);
const DYNAMIC: Terms = Terms {
    session: SESSION,
    tenure: Tenure::Dynamic,
};
const STATIC: Terms = Terms {
    session: SESSION,
    tenure: Tenure::Static,
};
const C1: ConnectionId = ConnectionId(1);
const C2: ConnectionId = ConnectionId(2);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn group() -> GroupId {
    "g".parse().unwrap()
}

fn id(name: &str) -> MemberId {
    name.parse().unwrap()
}

fn instance() -> InstanceId {
    "i".parse().unwrap()
}

fn partition(index: u32) -> PartitionKey {
    PartitionKey {
        topic: TopicId::from_bytes([9; 16]),
        partition: PartitionId(index),
    }
}

fn at(next: i64, end: i64) -> Position {
    let offset = |value| Offset::new(value).unwrap();
    Position {
        committed: Some(offset(next)),
        handed: None,
        end: offset(end),
    }
}

/// One group, times in words.
struct Bench(Sessions, BTreeMap<PartitionKey, Position>);

impl Bench {
    fn new() -> Self {
        let times = Times {
            disconnect_grace: GRACE,
        };
        Self(Sessions::new(times), BTreeMap::new())
    }

    fn beat(&mut self, now: Duration, member: &str, connection: ConnectionId, terms: Terms) {
        self.0.beat(now, &group(), &id(member), connection, terms);
    }

    fn park(
        &mut self,
        now: Duration,
        member: &str,
        connection: ConnectionId,
        wait: Duration,
    ) -> Option<Park> {
        self.0.park(now, &group(), &id(member), connection, wait)
    }

    fn position(&mut self, now: Duration, index: u32, position: Position) {
        self.1.insert(partition(index), position);
        self.0.positions(now, &group(), &id("a"), PROGRESS, &self.1);
    }

    fn take_over(&mut self, now: Duration, holder: &str) -> Result<(), Duration> {
        let result = self.0.take_over(now, &group(), &instance(), &id(holder));
        let taken = result.map_err(|held| held.retry_after)?;
        if let Some(hold_down) = taken.hold_down {
            self.0.hold_down(&group(), instance(), hold_down);
        }
        Ok(())
    }

    fn replaced(&mut self, now: Duration, old: &str, new: &str, connection: ConnectionId) {
        let taken = self.0.take_over(now, &group(), &instance(), &id(old)).unwrap();
        // As the machine's news of the change has it.
        self.0.forget(&group(), &id(old));
        self.0
            .replaced(now, &group(), (taken, &id(new)), connection, STATIC);
    }

    fn expired(&mut self, now: Duration) -> Vec<String> {
        let show = |expiry| match expiry {
            Expiry::Member { member, lapse, .. } => format!("{member} {lapse:?}"),
            Expiry::Proposal { epoch, .. } => format!("proposal {epoch}"),
            Expiry::Stalled {
                partition,
                next,
                since,
                ..
            } => format!("stalled {} at {next} since {since:?}", partition.partition),
            Expiry::Watch { group } => format!("watch {group}"),
            Expiry::Offsets { group } => format!("offsets of {group}"),
        };
        self.0.expired(now).into_iter().map(show).collect()
    }

    /// Nothing is late a moment before `at`, and this is at it.
    fn expires_at(&mut self, at: Duration, what: &[&str]) {
        assert_eq!(self.0.next_deadline(), Some(at));
        assert_eq!(self.expired(at.saturating_sub(ms(1))), [""; 0]);
        assert_eq!(self.expired(at), what);
    }
}

#[test]
fn a_silent_member_is_late_after_its_session_again_and_again_until_it_is_forgotten() {
    let mut bench = Bench::new();
    bench.beat(s(5), "a", C1, DYNAMIC);
    bench.expires_at(s(15), &["a Session"]);
    bench.expires_at(s(16), &["a Session"]);
    bench.0.forget(&group(), &id("a"));
    assert_eq!(bench.0.next_deadline(), None);
    assert!(bench.0.groups.is_empty() && bench.0.bound.is_empty());
}

#[test]
fn of_many_that_are_late_at_once_some_are_reported_and_the_rest_when_asked_again() {
    let mut bench = Bench::new();
    let all = EXPIRED_AT_ONCE_MAX + 3;
    for number in 0..all {
        bench.beat(s(0), &format!("m{number}"), C1, DYNAMIC);
    }
    let first = bench.expired(s(10));
    assert_eq!(first.len(), EXPIRED_AT_ONCE_MAX);
    assert_eq!(bench.0.next_deadline(), Some(s(10)), "the rest is late already");
    let rest = bench.expired(s(10));
    assert_eq!(rest.len(), 3);
    assert!(rest.iter().all(|late| !first.contains(late)));
    assert_eq!(bench.0.next_deadline(), Some(s(11)));
}

#[test]
fn a_heartbeat_after_the_report_brings_the_whole_session_back() {
    let mut bench = Bench::new();
    bench.beat(s(0), "a", C1, DYNAMIC);
    bench.expires_at(s(10), &["a Session"]);
    bench.beat(ms(10_500), "a", C1, DYNAMIC);
    bench.expires_at(ms(20_500), &["a Session"]);
}

#[test]
fn tm1_any_request_refreshes_the_session_also_of_a_member_that_is_parked() {
    let mut bench = Bench::new();
    bench.beat(s(0), "a", C1, DYNAMIC);
    bench.0.touch(s(9), &group(), &id("a"));
    assert_eq!(bench.expired(s(18)), [""; 0]);
    bench.park(s(18), "a", C1, s(4)).unwrap();
    bench.0.touch(s(19), &group(), &id("a"));
    // The parked heartbeat still keeps it alive up to 22 s.
    bench.expires_at(s(32), &["a Session"]);
}

#[test]
fn tm3_every_loaded_member_has_its_full_session_from_the_load() {
    let mut bench = Bench::new();
    for (name, terms) in [("a", DYNAMIC), ("b", STATIC)] {
        bench.0.loaded(s(100), &group(), &id(name), terms);
    }
    bench.expires_at(s(110), &["a Session", "b Session"]);
}

#[test]
fn the_session_of_a_group_can_change_with_the_next_heartbeat() {
    let mut bench = Bench::new();
    bench.beat(s(0), "a", C1, DYNAMIC);
    let longer = Terms {
        session: s(60),
        ..DYNAMIC
    };
    bench.beat(s(1), "a", C1, longer);
    bench.expires_at(s(61), &["a Session"]);
}

#[test]
fn a_dynamic_member_lives_for_the_grace_without_its_connection() {
    let mut bench = Bench::new();
    bench.beat(s(0), "a", C1, DYNAMIC);
    bench.0.disconnected(s(3), C1);
    bench.expires_at(s(5), &["a Disconnected"]);
}

#[test]
fn the_grace_is_no_longer_than_what_is_left_of_the_session() {
    let mut bench = Bench::new();
    bench.beat(s(0), "a", C1, DYNAMIC);
    bench.0.disconnected(s(9), C1);
    bench.expires_at(s(10), &["a Session"]);
}

#[test]
fn a_static_member_keeps_its_place_for_its_session_without_its_connection() {
    let mut bench = Bench::new();
    bench.beat(s(0), "a", C1, STATIC);
    bench.0.disconnected(s(3), C1);
    bench.expires_at(s(10), &["a Session"]);
}

#[test]
fn a_heartbeat_on_a_new_connection_undoes_the_loss_and_one_of_the_old_connection_does_not() {
    let mut bench = Bench::new();
    bench.beat(s(0), "a", C1, DYNAMIC);
    bench.0.disconnected(s(1), C1);
    bench.beat(s(2), "a", C1, DYNAMIC);
    bench.0.touch(s(2), &group(), &id("a"));
    assert_eq!(
        bench.0.next_deadline(),
        Some(s(3)),
        "one is late, the other no heartbeat"
    );
    bench.beat(s(2), "a", C2, DYNAMIC);
    bench.expires_at(s(12), &["a Session"]);
}

#[test]
fn the_late_loss_of_the_old_connection_does_not_hurt_who_has_moved() {
    let mut bench = Bench::new();
    bench.beat(s(0), "a", C1, DYNAMIC);
    bench.beat(s(0), "b", C1, DYNAMIC);
    bench.beat(s(1), "a", C2, DYNAMIC);
    bench.0.disconnected(s(2), C1);
    bench.0.disconnected(s(2), C1);
    bench.expires_at(s(4), &["b Disconnected"]);
    bench.0.forget(&group(), &id("b"));
    let standing = bench.0.standing(&group(), &id("a")).unwrap();
    assert_eq!((standing.connection, standing.expires), (Some(C2), s(11)));
}

#[test]
fn a_parked_heartbeat_keeps_alive_and_the_session_counts_from_its_answer() {
    let mut bench = Bench::new();
    bench.beat(s(0), "a", C1, DYNAMIC);
    let park = bench.park(s(0), "a", C1, s(60)).unwrap();
    assert_eq!(park.wait, s(5), "half of the session at most");
    assert!(bench.0.standing(&group(), &id("a")).unwrap().parked);
    assert_eq!(bench.expired(s(5)), [""; 0]);
    bench.0.answered(s(5), &group(), &id("a"), park.id);
    bench.0.answered(s(9), &group(), &id("a"), park.id);
    bench.expires_at(s(15), &["a Session"]);
}

#[test]
fn a_parked_heartbeat_that_is_answered_early_brings_the_deadline_forward() {
    let mut bench = Bench::new();
    bench.beat(s(0), "a", C1, DYNAMIC);
    let park = bench.park(s(0), "a", C1, s(5)).unwrap();
    bench.0.answered(s(1), &group(), &id("a"), park.id);
    bench.expires_at(s(11), &["a Session"]);
}

#[test]
fn a_parked_heartbeat_that_nobody_answers_does_not_keep_alive_for_ever() {
    let mut bench = Bench::new();
    bench.beat(s(0), "a", C1, DYNAMIC);
    bench.park(s(0), "a", C1, Duration::MAX).unwrap();
    bench.expires_at(s(15), &["a Session"]);
}

#[test]
fn the_session_of_a_parked_member_counts_from_the_loss_of_its_connection() {
    let mut bench = Bench::new();
    bench.beat(s(0), "s", C1, STATIC);
    bench.beat(s(0), "d", C1, DYNAMIC);
    let parks = ["s", "d"].map(|name| bench.park(s(0), name, C1, s(5)).unwrap());
    bench.0.disconnected(s(4), C1);
    for (name, park) in ["s", "d"].into_iter().zip(parks) {
        bench.0.answered(s(5), &group(), &id(name), park.id);
    }
    bench.expires_at(s(6), &["d Disconnected"]);
    bench.0.forget(&group(), &id("d"));
    bench.expires_at(s(14), &["s Session"]);
}

#[test]
fn the_answer_of_a_heartbeat_that_another_took_the_place_of_means_nothing() {
    let mut bench = Bench::new();
    bench.beat(s(0), "a", C1, DYNAMIC);
    let first = bench.park(s(0), "a", C1, s(5)).unwrap();
    bench.beat(s(1), "a", C1, DYNAMIC);
    let second = bench.park(s(1), "a", C1, s(5)).unwrap();
    bench.0.answered(s(1), &group(), &id("a"), first.id);
    assert_eq!(bench.0.next_deadline(), Some(s(16)));
    bench.0.answered(s(6), &group(), &id("a"), second.id);
    bench.expires_at(s(16), &["a Session"]);
}

#[test]
fn nobody_parks_on_a_connection_that_is_lost_or_is_not_the_members() {
    let mut bench = Bench::new();
    assert_eq!(bench.park(s(0), "a", C1, s(5)), None);
    bench.beat(s(0), "a", C1, DYNAMIC);
    assert_eq!(bench.park(s(0), "a", C2, s(5)), None);
    bench.0.disconnected(s(0), C1);
    assert_eq!(bench.park(s(0), "a", C1, s(5)), None);
    bench.expires_at(s(2), &["a Disconnected"]);
}

#[test]
fn ep6_bug_21_the_deadline_of_a_hand_off_is_not_set_anew_by_another_target() {
    let mut bench = Bench::new();
    bench.beat(s(0), "a", C1, DYNAMIC);
    let begin = |bench: &mut Bench, now| bench.0.revoking_began(now, &group(), &id("a"), s(30));
    begin(&mut bench, s(1));
    begin(&mut bench, s(20));
    bench.beat(s(30), "a", C1, DYNAMIC);
    bench.expires_at(s(31), &["a Handoff"]);
    bench.0.revoking_ended(&group(), &id("a"));
    begin(&mut bench, s(35));
    let standing = bench.0.standing(&group(), &id("a")).unwrap();
    assert_eq!(standing.handoff, Some(s(65)), "the next one has its own time");
}

#[test]
fn ep7_only_who_has_something_to_release_is_late_with_it() {
    let mut bench = Bench::new();
    for name in ["a", "b"] {
        bench.beat(s(0), name, C1, DYNAMIC);
    }
    for name in ["a", "b", "stranger"] {
        bench.0.revoking_began(s(0), &group(), &id(name), s(5));
    }
    bench.0.revoking_ended(&group(), &id("b"));
    bench.expires_at(s(5), &["a Handoff"]);
}

#[test]
fn a_member_that_is_late_with_two_things_is_reported_once() {
    let mut bench = Bench::new();
    bench.beat(s(0), "a", C1, DYNAMIC);
    bench.0.revoking_began(s(0), &group(), &id("a"), s(8));
    assert_eq!(bench.expired(s(20)), ["a Handoff"]);
}

#[test]
fn a_leader_has_its_time_anew_for_a_newer_epoch_but_not_for_ever() {
    let mut bench = Bench::new();
    let want = |bench: &mut Bench, now, epoch| bench.0.proposal_wanted(now, &group(), epoch, s(5));
    want(&mut bench, s(0), 3);
    want(&mut bench, s(2), 3);
    want(&mut bench, s(2), 2);
    assert_eq!(bench.0.next_deadline(), Some(s(5)));
    want(&mut bench, s(4), 4);
    assert_eq!(bench.0.next_deadline(), Some(s(9)));
    want(&mut bench, s(8), 5);
    want(&mut bench, s(12), 6);
    bench.expires_at(s(15), &["proposal 6"]);
    bench.expires_at(s(16), &["proposal 6"]);
    bench.0.proposal_ended(&group());
    assert_eq!(bench.0.next_deadline(), None);
    want(&mut bench, s(20), 7);
    bench.expires_at(s(25), &["proposal 7"]);
}

/// A group whose instance `i` is held by a living `a`.
fn contested() -> Bench {
    let mut bench = Bench::new();
    bench.beat(s(0), "a", C1, STATIC);
    bench
}

#[test]
fn ep10_the_newest_holder_of_an_instance_wins_once_and_then_there_is_a_hold_down_that_doubles() {
    let mut bench = contested();
    assert_eq!(bench.take_over(s(0), "a"), Ok(()));
    let mut now = s(0);
    for length in [2, 4, 8, 16, 32, 60, 60] {
        let half = s(length) / 2;
        assert_eq!(bench.take_over(now + half, "a"), Err(half));
        now += s(length);
        assert_eq!(bench.take_over(now - ms(1), "a"), Err(ms(1)));
        assert_eq!(bench.take_over(now, "a"), Ok(()), "after {length} s");
    }
}

#[test]
fn a_hold_down_is_forgotten_after_quiet_whether_or_not_the_timer_was_asked() {
    for ask in [true, false] {
        let mut bench = contested();
        assert_eq!(bench.take_over(s(0), "a"), Ok(()));
        assert_eq!(bench.take_over(s(121), "a"), Ok(()), "not yet forgotten");
        let forgotten = s(121 + 4) + HOLD_DOWN_QUIET;
        bench.beat(forgotten, "a", C1, STATIC);
        if ask {
            assert_eq!(bench.expired(forgotten), [""; 0]);
            assert!(bench.0.groups[&group()].hold_downs.is_empty());
        }
        assert_eq!(bench.take_over(forgotten, "a"), Ok(()));
        assert_eq!(bench.take_over(forgotten, "a"), Err(HOLD_DOWN_FIRST));
    }
}

#[test]
fn who_is_not_connected_gives_way_at_once_and_as_often_as_it_takes() {
    let mut bench = contested();
    bench.0.disconnected(s(0), C1);
    bench.0.loaded(s(0), &group(), &id("loaded"), STATIC);
    for holder in ["a", "loaded", "stranger", "a"] {
        assert_eq!(bench.take_over(s(0), holder), Ok(()), "{holder}");
    }
    bench.beat(s(0), "a", C2, STATIC);
    assert_eq!(
        bench.take_over(s(0), "a"),
        Ok(()),
        "none of them began a hold-down"
    );
    assert_eq!(bench.take_over(s(0), "a"), Err(s(2)));
    bench.0.disconnected(s(1), C2);
    assert_eq!(
        bench.take_over(s(1), "a"),
        Ok(()),
        "a hold-down protects the living"
    );
}

#[test]
fn who_may_take_over_has_not_begun_a_hold_down_before_it_does() {
    let bench = contested();
    for _ in 0..2 {
        assert!(bench.0.take_over(s(0), &group(), &instance(), &id("a")).is_ok());
    }
}

#[test]
fn a_static_member_that_has_left_gives_way_at_once_and_keeps_its_place_for_a_session() {
    let mut bench = contested();
    bench.park(s(1), "a", C1, s(3)).unwrap();
    bench.0.rests(s(2), &group(), &id("a"));
    // Late words over the connection that it left.
    bench.beat(s(3), "a", C1, STATIC);
    bench.0.disconnected(s(3), C1);
    for _ in 0..2 {
        assert_eq!(bench.take_over(s(3), "a"), Ok(()));
    }
    bench.expires_at(s(12), &["a Session"]);
}

#[test]
fn st1_who_takes_over_inherits_the_hand_off_and_the_positions_and_the_old_one_is_forgotten() {
    let mut bench = contested();
    bench.0.revoking_began(s(0), &group(), &id("a"), s(8));
    bench.position(s(1), 0, at(5, 9));
    bench.replaced(s(5), "a", "b", C2);
    assert_eq!(bench.0.standing(&group(), &id("a")), None);
    let standing = bench.0.standing(&group(), &id("b")).unwrap();
    assert_eq!((standing.connection, standing.expires), (Some(C2), s(15)));
    bench.0.disconnected(s(6), C1);
    bench.expires_at(s(8), &["b Handoff"]);
    bench.0.revoking_ended(&group(), &id("b"));
    bench.beat(s(60), "b", C2, STATIC);
    bench.expires_at(s(61), &["stalled 0 at 5 since 1s"]);
}

#[test]
fn st5_the_session_of_who_takes_over_replaces_that_of_the_one_before() {
    let mut bench = Bench::new();
    bench.beat(s(0), "a", C1, STATIC);
    let taken = bench.0.take_over(s(1), &group(), &instance(), &id("a")).unwrap();
    let longer = Terms {
        session: s(60),
        ..STATIC
    };
    bench.0.replaced(s(1), &group(), (taken, &id("b")), C2, longer);
    assert_eq!(bench.0.standing(&group(), &id("b")).unwrap().expires, s(61));
    assert_eq!(bench.expired(s(60)), [""; 0], "nothing is left of the old one");
}

#[test]
fn a_position_that_stands_still_is_reported_once_until_it_moves() {
    let mut bench = Bench::new();
    let terms = Terms {
        session: s(1_000),
        ..DYNAMIC
    };
    bench.beat(s(0), "a", C1, terms);
    bench.position(s(1), 0, at(5, 9));
    bench.position(s(50), 0, at(5, 20));
    bench.expires_at(s(61), &["stalled 0 at 5 since 1s"]);
    bench.position(s(62), 0, at(5, 30));
    bench.position(s(63), 0, at(5, 5));
    bench.position(s(64), 0, at(5, 30));
    assert_eq!(bench.expired(s(500)), [""; 0]);
    bench.position(s(500), 0, at(6, 30));
    bench.position(s(510), 0, at(7, 30));
    bench.expires_at(s(570), &["stalled 0 at 7 since 510s"]);
}

#[test]
fn who_has_nothing_to_read_does_not_stand_still() {
    let mut bench = Bench::new();
    let terms = Terms {
        session: s(1_000),
        ..DYNAMIC
    };
    bench.beat(s(0), "a", C1, terms);
    bench.position(s(0), 0, at(5, 5));
    bench.position(s(0), 1, at(5, 9));
    bench.position(s(59), 1, at(9, 9));
    assert_eq!(bench.expired(s(200)), [""; 0]);
    // It counts from when there is something.
    bench.position(s(200), 0, at(5, 6));
    bench.position(s(200), 1, at(9, 10));
    bench.1.remove(&partition(1));
    bench.position(s(201), 0, at(5, 6));
    bench.expires_at(s(260), &["stalled 0 at 5 since 200s"]);
}

#[test]
fn who_reads_on_gets_on_and_who_has_neither_read_nor_committed_stands_where_it_began() {
    let mut bench = Bench::new();
    let terms = Terms {
        session: s(1_000),
        ..DYNAMIC
    };
    bench.beat(s(0), "a", C1, terms);
    let handed = |handed: i64| Position {
        handed: Offset::new(handed),
        ..at(5, 20)
    };
    // It takes more into its buffer, and then no more.
    bench.position(s(0), 0, handed(8));
    bench.position(s(50), 0, handed(10));
    bench.expires_at(s(110), &["stalled 0 at 5 since 50s"]);
    let stalled: Vec<_> = bench.0.stalled(&group(), &id("a")).collect();
    assert_eq!(stalled, [(partition(0), s(50))]);
    bench.position(s(120), 0, handed(20));
    assert_eq!(bench.0.stalled(&group(), &id("a")).count(), 0);

    let mut silent = Bench::new();
    silent.beat(s(0), "a", C1, terms);
    let nothing = |end: i64| Position {
        committed: None,
        ..at(0, end)
    };
    silent.position(s(0), 0, nothing(7));
    silent.position(s(500), 0, nothing(7));
    assert_eq!(silent.expired(s(600)), [""; 0]);
    silent.position(s(700), 0, nothing(8));
    silent.expires_at(s(760), &["stalled 0 at 7 since 700s"]);
}

#[test]
fn what_is_looked_at_from_time_to_time_has_one_timer_each() {
    let mut bench = Bench::new();
    bench.0.watch(s(0), &group(), s(10));
    bench.0.watch(s(5), &group(), s(10));
    bench.expires_at(s(10), &["watch g"]);
    assert_eq!(bench.0.next_deadline(), None, "whoever looks sets it again");
    bench.0.offsets_expire(&group(), Some(s(20)));
    // Again until it was looked at.
    bench.expires_at(s(20), &["offsets of g"]);
    bench.expires_at(s(21), &["offsets of g"]);
    bench.0.watch(s(21), &group(), s(10));
    bench.0.watch_ended(&group());
    bench.0.offsets_expire(&group(), None);
    assert_eq!(bench.0.next_deadline(), None);
}

#[test]
fn nothing_is_left_of_a_group_that_is_forgotten() {
    let mut bench = contested();
    bench.beat(s(0), "b", C2, DYNAMIC);
    bench.park(s(0), "b", C2, s(3)).unwrap();
    bench.0.revoking_began(s(0), &group(), &id("a"), s(8));
    bench.0.proposal_wanted(s(0), &group(), 1, s(5));
    bench.position(s(0), 0, at(5, 9));
    bench.take_over(s(0), "a").unwrap();
    bench.0.watch(s(0), &group(), s(10));
    bench.0.offsets_expire(&group(), Some(s(20)));
    bench.0.forget_group(&group());
    assert!(bench.0.groups.is_empty() && bench.0.bound.is_empty());
    assert_eq!(bench.0.next_deadline(), None);
}

/// What can happen to 3 members over 4 connections.
#[derive(Clone, Copy, Debug)]
enum Event {
    Pass(u64),
    Beat(usize, usize),
    Touch(usize),
    Park(usize, u64),
    Answer(usize),
    Disconnect(usize),
    Began(usize),
    Ended(usize),
    Proposal(u32),
    Position(usize, i64),
    Forget(usize),
    Load(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let (who, conn) = (0_usize..3, 0_usize..4);
    prop_oneof![
        5 => (0_u64..6_000).prop_map(Event::Pass),
        4 => (who.clone(), conn.clone()).prop_map(|(m, c)| Event::Beat(m, c)),
        1 => who.clone().prop_map(Event::Touch),
        3 => (who.clone(), 0_u64..20_000).prop_map(|(m, wait)| Event::Park(m, wait)),
        2 => who.clone().prop_map(Event::Answer),
        2 => conn.prop_map(Event::Disconnect),
        1 => who.clone().prop_map(Event::Began),
        1 => who.clone().prop_map(Event::Ended),
        1 => (1_u32..9).prop_map(Event::Proposal),
        1 => (who.clone(), 0_i64..3).prop_map(|(m, next)| Event::Position(m, next)),
        1 => who.clone().prop_map(Event::Forget),
        1 => who.prop_map(Event::Load),
    ]
}

/// What a member may count on, worked out without deadlines: from the events alone.
#[derive(Clone, Debug)]
struct Expected {
    terms: Terms,
    heard: Duration,
    connection: Option<u64>,
    lost: Option<Duration>,
    park: Option<(ParkId, Duration)>,
}

impl Expected {
    fn new(now: Duration, m: usize, connection: Option<u64>) -> Self {
        Self {
            terms: terms(m),
            heard: now,
            connection,
            lost: None,
            park: None,
        }
    }
}

struct World {
    bench: Bench,
    now: Duration,
    members: [Option<Expected>; 3],
    /// The last number of each of the 4 connections: one that is lost comes again under another.
    connections: [u64; 4],
    handoffs: [bool; 3],
    proposal: bool,
}

/// The second member is static.
fn terms(member: usize) -> Terms {
    Terms {
        session: s(10 + 2 * member as u64),
        tenure: if member == 1 {
            Tenure::Static
        } else {
            Tenure::Dynamic
        },
    }
}

fn name(member: usize) -> MemberId {
    id(["a", "b", "c"][member])
}

impl World {
    fn new() -> Self {
        Self {
            bench: Bench::new(),
            now: s(1_000),
            members: [None, None, None],
            connections: [0, 1, 2, 3],
            handoffs: [false; 3],
            proposal: false,
        }
    }

    fn step(&mut self, event: Event) {
        let (now, group) = (self.now, group());
        let sessions = &mut self.bench.0;
        match event {
            Event::Pass(millis) => self.now += ms(millis),
            Event::Beat(m, c) => {
                let connection = self.connections[c];
                sessions.beat(now, &group, &name(m), ConnectionId(connection), terms(m));
                self.members[m] = Some(Expected::new(now, m, Some(connection)));
            }
            Event::Touch(m) => {
                sessions.touch(now, &group, &name(m));
                if let Some(member) = self.members[m].as_mut().filter(|member| member.lost.is_none()) {
                    member.heard = now;
                }
            }
            Event::Park(m, wait) => {
                let Some(member) = &mut self.members[m] else {
                    return;
                };
                let Some(connection) = member.connection else {
                    return;
                };
                let park = sessions.park(now, &group, &name(m), ConnectionId(connection), ms(wait));
                let park = park.expect("the connection lives");
                member.park = Some((park.id, now + park.wait));
            }
            Event::Answer(m) => {
                let Some(member) = &mut self.members[m] else {
                    return;
                };
                if let Some((park, _)) = member.park.take() {
                    sessions.answered(now, &group, &name(m), park);
                    member.heard = now;
                }
            }
            Event::Disconnect(c) => self.lose(c),
            Event::Began(m) => {
                sessions.revoking_began(now, &group, &name(m), s(30));
                self.handoffs[m] = self.members[m].is_some();
            }
            Event::Ended(m) => {
                sessions.revoking_ended(&group, &name(m));
                self.handoffs[m] = false;
            }
            Event::Proposal(epoch) => {
                sessions.proposal_wanted(now, &group, epoch, s(5));
                self.proposal = true;
            }
            Event::Position(m, next) => {
                let held = BTreeMap::from([(partition(0), at(next, 9))]);
                sessions.positions(now, &group, &name(m), PROGRESS, &held);
            }
            Event::Forget(m) => {
                sessions.forget(&group, &name(m));
                self.members[m] = None;
                self.handoffs[m] = false;
            }
            Event::Load(m) => {
                sessions.loaded(now, &group, &name(m), terms(m));
                self.handoffs[m] = false;
                self.members[m] = Some(Expected::new(now, m, None));
            }
        }
    }

    fn lose(&mut self, c: usize) {
        let (now, lost) = (self.now, self.connections[c]);
        self.connections[c] += 4;
        self.bench.0.disconnected(now, ConnectionId(lost));
        for member in self.members.iter_mut().flatten() {
            if member.connection == Some(lost) {
                member.connection = None;
                member.lost = Some(now);
                if let Some((_, until)) = member.park.take() {
                    member.heard = member.heard.max(now.min(until));
                }
            }
        }
    }

    /// When a member has to be reported: never before it, and at it.
    fn end_of(member: &Expected) -> Duration {
        let session = member
            .park
            .map_or(member.heard, |(_, until)| until.max(member.heard));
        let session = session + member.terms.session;
        match member.lost {
            Some(lost) if member.terms.tenure == Tenure::Dynamic => session.min(lost + GRACE),
            Some(_) | None => session,
        }
    }

    /// Asks for what is late now; what is reported is forgotten, as the broker does when the removal is stored.
    fn collect(&mut self) -> Result<(), TestCaseError> {
        let now = self.now;
        for expiry in self.bench.0.expired(now) {
            match expiry {
                Expiry::Member { member, lapse, .. } => {
                    let m = (0..3).find(|m| name(*m) == member).unwrap();
                    if lapse == Lapse::Handoff {
                        prop_assert!(self.handoffs[m], "{member} has nothing to release");
                    } else {
                        let expected = self.members[m].clone();
                        prop_assert!(expected.is_none_or(|e| Self::end_of(&e) <= now), "{member} lives");
                    }
                    self.step(Event::Forget(m));
                }
                Expiry::Proposal { group, .. } => {
                    prop_assert!(self.proposal);
                    self.bench.0.proposal_ended(&group);
                    self.proposal = false;
                }
                Expiry::Stalled { .. } | Expiry::Watch { .. } | Expiry::Offsets { .. } => {}
            }
        }
        for (m, member) in self.members.iter().enumerate() {
            if let Some(member) = member {
                prop_assert!(Self::end_of(member) > now, "{} is late: {member:?}", name(m));
                let standing = self.bench.0.standing(&group(), &name(m)).unwrap();
                prop_assert_eq!(standing.expires, Self::end_of(member));
                prop_assert_eq!(standing.connection, member.connection.map(ConnectionId));
            }
        }
        Ok(())
    }

    /// Deadlines and lists are those of what is there and no others.
    fn check(&self) -> Result<(), TestCaseError> {
        let sessions = &self.bench.0;
        let bound: usize = sessions.bound.values().map(BTreeSet::len).sum();
        let expected = self.members.iter().flatten();
        prop_assert_eq!(bound, expected.filter(|m| m.connection.is_some()).count());
        let known = sessions.groups.get(&group());
        let known: Vec<_> = known.iter().flat_map(|g| g.members.keys()).collect();
        let names: Vec<_> = (0..3).filter(|m| self.members[*m].is_some()).map(name).collect();
        prop_assert_eq!(known, names.iter().collect::<Vec<_>>());
        Ok(())
    }
}

proptest! {
    /// What users hit, 7: nobody is removed who lives, everybody is who does not, and when all are silent the group is empty
    /// within the longest of its timers. A session ends half a session later if a heartbeat is parked that nobody answers.
    #[test]
    fn in_any_order_of_events_exactly_the_silent_expire_and_in_silence_everybody_does(
        events in prop::collection::vec(event(), 1..120),
    ) {
        let mut world = World::new();
        for event in events {
            world.step(event);
            world.collect()?;
            world.check()?;
        }
        let silent_since = world.now;
        while let Some(next) = world.bench.0.next_deadline() {
            prop_assert!(next >= world.now);
            world.now = next;
            world.collect()?;
            world.check()?;
        }
        let longest = terms(2).session * 3 / 2;
        prop_assert!(world.now <= silent_since + longest.max(s(30)).max(s(15)).max(PROGRESS));
        prop_assert!(world.members.iter().all(Option::is_none));
        prop_assert!(world.bench.0.groups.is_empty() && world.bench.0.bound.is_empty());
    }

    /// As before, without the broker's answers and removals: without a connection a member is late within its session.
    #[test]
    fn a_member_without_beat_and_connection_is_reported_within_its_session(
        events in prop::collection::vec(event(), 1..120),
    ) {
        let mut world = World::new();
        for event in events {
            world.step(event);
        }
        for connection in 0..4 {
            world.step(Event::Disconnect(connection));
        }
        for m in 0..3 {
            if world.members[m].is_none() {
                continue;
            }
            let mut late = Vec::new();
            let end = world.now + terms(m).session;
            while let Some(next) = world.bench.0.next_deadline().filter(|next| *next <= end) {
                late.extend(world.bench.0.expired(next));
            }
            let found = late.iter().any(|expiry| match expiry {
                Expiry::Member { member, .. } => *member == name(m),
                Expiry::Proposal { .. }
                | Expiry::Stalled { .. }
                | Expiry::Watch { .. }
                | Expiry::Offsets { .. } => false,
            });
            prop_assert!(found, "{} in {late:?}", name(m));
            world.bench.0.forget(&group(), &name(m));
            world.members[m] = None;
        }
    }
}
