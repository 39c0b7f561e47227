//! Large groups: what is written grows with what moves, not with the group.

use super::rig::{Rig, beat, subscribed};
use crate::group::*;
use crate::machine::{StateMachine, Stored};
use crate::model::Timestamp;

fn large(partitions: u32, members: usize) -> Rig {
    let mut rig = Rig::new(partitions);
    for number in 0..members {
        rig.join(&format!("m{number}"));
    }
    rig.settle();
    rig
}

#[test]
fn a_join_and_a_leave_of_a_large_group_are_small_records() {
    let rig = large(200, 50);
    let join = Command::Heartbeat(Heartbeat {
        subscription: Some(subscribed(&["a"])),
        ..beat("new", 0)
    });
    let leave = Command::Remove {
        group: "g".parse().unwrap(),
        member: "m7".parse().unwrap(),
    };
    for command in [join, leave] {
        let effects = rig.machine.handle(Timestamp(7), command);
        let bytes: usize = effects.records.iter().map(|r| Machine::encode(r).len()).sum();
        assert!(bytes > 0 && bytes < 1_500, "{bytes} bytes");
    }
    let quiet = Command::Heartbeat(rig.beat_of("m7"));
    assert_eq!(rig.machine.handle(Timestamp(7), quiet).records, []);
}

#[test]
fn a_full_group_is_balanced_and_the_rest_wait_in_line() {
    let mut rig = Rig::new(300);
    let max = Limits::default().members_per_group_max;
    for number in 0..max {
        rig.join(&format!("m{number}"));
    }
    rig.settle();
    assert_eq!(rig.group().members.len(), max);
    assert_eq!(rig.group().idle().len(), max - 300);
    assert!(rig.counts().iter().all(|count| *count <= 1));
}

/// What every answer shows is worked out once for each change, and must be what the group is.
#[test]
fn the_overview_of_a_group_says_what_its_membership_says() {
    let mut rig = Rig::new(3);
    for name in ["b", "a", "d", "c", "e"] {
        rig.join(name);
        overview_fits(&rig);
    }
    rig.settle();
    overview_fits(&rig);
    for name in ["b", "d", "c", "a", "e"] {
        rig.remove(name);
        overview_fits(&rig);
        rig.machine.begin(crate::model::LeaderEpoch(2));
        overview_fits(&rig);
    }
}

fn overview_fits(rig: &Rig) {
    let membership = rig.group();
    if membership.members.is_empty() {
        assert!(rig.machine.overview("g").is_none());
        return;
    }
    let overview = rig.machine.overview("g").unwrap();
    assert_eq!(overview.leader(), membership.leader());
    assert_eq!(overview.state(), membership.state());
    assert_eq!(overview.idle_members(), membership.idle().len());
    let mut ranked: Vec<_> = membership.members.keys().collect();
    ranked.retain(|id| overview.idle_rank(id.as_str()).is_some());
    ranked.sort_by_key(|id| overview.idle_rank(id.as_str()));
    assert_eq!(ranked, membership.idle());
}
