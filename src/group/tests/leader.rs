//! The leader by scripts: who leads, and what it may propose.

use super::key;
use super::rig::{Rig, id, who};
use crate::group::*;
use crate::model::GroupState;

#[test]
fn le1_le2_who_joined_first_leads_and_then_who_joined_next() {
    let mut rig = Rig::new(2);
    for name in ["z", "m", "a"] {
        rig.join(name);
    }
    assert_eq!(rig.group().leader(), Some(&id("z")));
    rig.remove("z");
    assert_eq!(rig.group().leader(), Some(&id("m")));
    rig.join("z");
    assert_eq!(rig.group().leader(), Some(&id("m")));
}

/// A group of two whose leader assigns, and has not yet.
fn led_by_one() -> Rig {
    let mut rig = Rig::new(2);
    let configure = Configure {
        group: "g".to_owned(),
        create: true,
        entries: vec![("assignor".to_owned(), Some("leader".to_owned()))],
    };
    let reply = rig.run(Command::Configure(configure));
    assert_eq!(reply, Reply::Configured { changed: true });
    rig.join("one");
    rig.join("two");
    assert_eq!(
        (rig.group().state(), rig.counts()),
        (GroupState::Assigning, vec![0, 0])
    );
    rig
}

#[test]
fn le8_only_the_leader_proposes_and_only_what_can_be() {
    let mut rig = led_by_one();
    let propose = |name: &str, epoch, of: &[(&str, &[u32])]| {
        let keys = |keys: &[u32]| keys.iter().map(|index| key(1, *index)).collect();
        Command::Propose(Propose {
            group: "g".to_owned(),
            member: who(name, 0),
            epoch,
            assignments: of
                .iter()
                .map(|(name, parts)| ((*name).to_owned(), keys(parts)))
                .collect(),
        })
    };
    for (command, reason) in [
        (
            propose("two", 2, &[("one", &[0, 1])]),
            "only the leader of a group proposes",
        ),
        (
            propose("one", 1, &[("one", &[0, 1])]),
            "it is for group epoch 1, and the group is in 2",
        ),
        (propose("one", 2, &[("one", &[0])]), "a/1 goes to nobody"),
        (
            propose("one", 2, &[("one", &[0, 1]), ("two", &[1])]),
            "a/1 goes to one and to two",
        ),
        (
            propose("one", 2, &[("one", &[0, 1, 2])]),
            "nobody subscribes to a partition a/2",
        ),
        (propose("one", 2, &[("who", &[0, 1])]), "\"who\" is not a member"),
    ] {
        let reason = reason.to_owned();
        assert_eq!(rig.refused(command), GroupError::InvalidAssignment { reason });
    }
    assert_eq!(rig.run(propose("one", 2, &[("two", &[0, 1])])), Reply::Done);
    assert_eq!(
        (rig.group().state(), rig.counts()),
        (GroupState::Stable, vec![0, 2])
    );
    let reason = "it is for group epoch 2, and the group is in 2, which has its assignment".to_owned();
    let again = rig.refused(propose("one", 2, &[("two", &[0, 1])]));
    assert_eq!(again, GroupError::InvalidAssignment { reason });
}

#[test]
fn a_leader_that_leaves_it_to_the_broker_has_its_assignment_at_once() {
    let mut rig = led_by_one();
    let none = |name: &str, epoch| {
        Command::Propose(Propose {
            group: "g".to_owned(),
            member: who(name, 0),
            epoch,
            assignments: Vec::new(),
        })
    };
    assert!(matches!(
        rig.refused(none("two", 2)),
        GroupError::InvalidAssignment { .. }
    ));
    assert!(matches!(
        rig.refused(none("one", 1)),
        GroupError::InvalidAssignment { .. }
    ));
    assert_eq!(rig.run(none("one", 2)), Reply::Done);
    assert_eq!(
        (rig.group().state(), rig.counts()),
        (GroupState::Stable, vec![1, 1])
    );
}

#[test]
fn sb5_without_a_proposal_the_broker_assigns_and_a_late_timer_does_nothing() {
    let mut rig = led_by_one();
    let fallback = |epoch| Command::Fallback {
        group: "g".parse().unwrap(),
        epoch,
    };
    rig.run(fallback(1));
    assert_eq!(rig.group().state(), GroupState::Assigning);
    rig.run(fallback(2));
    assert_eq!(
        (rig.group().state(), rig.counts()),
        (GroupState::Stable, vec![1, 1])
    );
}
