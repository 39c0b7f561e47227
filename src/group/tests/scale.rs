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
