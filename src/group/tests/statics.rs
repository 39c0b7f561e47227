//! Static members by scripts: they come back, and take over.

use super::rig::{Rig, beat, commit, id, subscribed, topic, who};
use crate::group::*;
use crate::machine::Stored;
use crate::model::{GroupState, LeaderEpoch, Timestamp};

#[test]
fn st1_st2_le3_a_static_member_comes_back_without_a_rebalance() {
    let mut rig = Rig::new(4);
    rig.join_static("first-1", "first");
    rig.join("two");
    rig.settle();
    let (epoch, held) = (rig.group().epoch, rig.group().members["first-1"].assigned.clone());
    rig.join_static("first-2", "first");
    assert_eq!(rig.group().epoch, epoch);
    assert_eq!(rig.group().members["first-2"].assigned, held);
    assert_eq!(rig.group().leader(), Some(&id("first-2")), "LE3");
    let mut old = beat("first-1", epoch);
    old.member.instance = Some("first".to_owned());
    let fenced = GroupError::FencedInstance {
        instance: "first".to_owned(),
    };
    assert_eq!(rig.refused(Command::Heartbeat(old.clone())), fenced);
    let asked = commit(Some(old.member), 0, 3);
    assert_eq!(rig.refused(Command::CommitOffsets(asked)), fenced);
}

#[test]
fn st6_a_static_member_that_closes_keeps_its_place_and_others_leave() {
    let mut rig = Rig::new(2);
    rig.join_static("s", "first");
    rig.join("d");
    rig.settle();
    let close = |name: &str, epoch, instance: Option<&str>, offset| Close {
        group: "g".to_owned(),
        member: MemberRef {
            instance: instance.map(str::to_owned),
            ..who(name, epoch)
        },
        offsets: commit(None, offset, 3).offsets,
    };
    let held = |rig: &Rig, name: &str| {
        rig.group().members[name]
            .assigned
            .keys()
            .next()
            .unwrap()
            .partition
            .0
    };
    let (of_s, of_d) = (held(&rig, "s"), held(&rig, "d"));
    let reply = rig.run(Command::Close(close("s", 2, Some("first"), of_s)));
    assert_eq!(
        reply,
        Reply::Closed {
            at: Timestamp(7),
            left: false
        }
    );
    let reply = rig.run(Command::Close(close("d", 2, None, of_d)));
    assert_eq!(
        reply,
        Reply::Closed {
            at: Timestamp(7),
            left: true
        }
    );
    assert_eq!(rig.group().members.len(), 1);
    assert_eq!(
        rig.machine.offsets("g").count(),
        2,
        "bug 27: both last commits count"
    );
    let again = rig.refused(Command::Close(close("d", 2, None, of_d)));
    assert_eq!(
        again,
        GroupError::UnknownMember {
            member: "d".to_owned()
        }
    );
}

#[test]
fn st1_a_takeover_that_subscribes_to_something_else_is_one_epoch() {
    let mut rig = Rig::new(2);
    rig.machine.topics_mut().insert(topic(2), "b", 2);
    rig.join_static("s-1", "first");
    let mut other = Heartbeat {
        subscription: Some(subscribed(&["a", "b"])),
        ..beat("s-2", 0)
    };
    other.member.instance = Some("first".to_owned());
    rig.run(Command::Heartbeat(other));
    assert_eq!((rig.group().epoch, rig.counts()), (2, vec![4]));
}

/// Two members, the first of them static, in the middle of a rebalance.
fn reconciling() -> Rig {
    let mut rig = Rig::new(4);
    rig.join_static("s-1", "first");
    rig.join("two");
    assert_eq!(rig.group().state(), GroupState::Reconciling);
    rig
}

/// The same, and the leader has not assigned.
fn assigning() -> Rig {
    let mut rig = Rig::new(4);
    let configure = Configure {
        group: "g".to_owned(),
        create: true,
        entries: vec![("assignor".to_owned(), Some("leader".to_owned()))],
    };
    rig.run(Command::Configure(configure));
    rig.join_static("s-1", "first");
    rig.join("two");
    assert_eq!(rig.group().state(), GroupState::Assigning);
    rig
}

#[test]
fn st1_bug_9_a_static_member_comes_back_in_any_state_and_its_earlier_life_is_fenced() {
    let mut settled = reconciling();
    settled.settle();
    for mut rig in [settled, reconciling(), assigning()] {
        let (state, epoch) = (rig.group().state(), rig.group().epoch);
        let held = rig.group().members["s-1"].assigned.clone();
        rig.join_static("s-2", "first");
        assert_eq!(rig.group().epoch, epoch, "{state:?}");
        assert_eq!(rig.group().members["s-2"].assigned, held, "{state:?}");
        let mut old = who("s-1", epoch);
        old.instance = Some("first".to_owned());
        for key in held.keys() {
            let refused = rig.machine.check_fetch("g", &old, *key);
            assert!(
                matches!(refused, Err(GroupError::FencedInstance { .. })),
                "{state:?}"
            );
        }
    }
}

#[test]
fn st2_bug_10_the_new_id_of_a_static_member_survives_a_restart() {
    let mut rig = reconciling();
    rig.settle();
    rig.join_static("s-2", "first");
    let topics = rig.machine.topics().clone();
    rig.machine = Machine::restore(Limits::default(), rig.machine.snapshot()).unwrap();
    *rig.machine.topics_mut() = topics;
    rig.machine.begin(LeaderEpoch(2));
    assert_eq!(rig.group().instance("first"), Some(&id("s-2")));
    rig.clients.remove("s-1");
    rig.settle();
    assert_eq!(rig.counts(), [2, 2]);
}

#[test]
fn st3_bug_11_who_comes_back_before_the_assignment_is_made_gets_its_share() {
    let mut rig = assigning();
    rig.join_static("s-2", "first");
    let epoch = rig.group().epoch;
    // What the leader may have made for its earlier life is refused.
    let stale = Propose {
        group: "g".to_owned(),
        member: who("s-2", 0),
        epoch,
        assignments: vec![("s-1".to_owned(), rig.group().all_partitions().collect())],
    };
    assert!(matches!(
        rig.refused(Command::Propose(stale)),
        GroupError::InvalidAssignment { .. }
    ));
    rig.run(Command::Fallback {
        group: "g".parse().unwrap(),
        epoch,
    });
    assert_eq!(rig.counts(), [2, 2]);
}

#[test]
fn st4_bug_12_new_partitions_reach_a_group_whose_static_leader_has_started_again() {
    let mut rig = reconciling();
    rig.settle();
    rig.join_static("s-2", "first");
    assert_eq!(rig.group().leader(), Some(&id("s-2")));
    rig.machine.topics_mut().insert(topic(1), "a", 6);
    assert_eq!(rig.machine.affected(), ["g".parse().unwrap()]);
    rig.run(Command::Refresh {
        group: "g".parse().unwrap(),
    });
    rig.clients.remove("s-1");
    rig.settle();
    assert_eq!(rig.counts(), [3, 3]);
}

#[test]
fn st7_the_id_of_an_earlier_life_is_nobodys() {
    let mut rig = reconciling();
    rig.join_static("s-2", "first");
    let unknown = GroupError::UnknownMember {
        member: "s-1".to_owned(),
    };
    assert_eq!(rig.refused(Command::Heartbeat(beat("s-1", 1))), unknown);
    assert_eq!(
        rig.refused(Command::CommitOffsets(commit(Some(who("s-1", 1)), 0, 3))),
        unknown
    );
}

#[test]
fn st8_a_commit_with_an_instance_and_without_a_member_id_is_fenced() {
    let mut rig = Rig::new(2);
    rig.join_static("s-1", "first");
    let mut nobody = who("", 1);
    nobody.instance = Some("first".to_owned());
    assert_eq!(
        rig.refused(Command::CommitOffsets(commit(Some(nobody), 0, 3))),
        GroupError::FencedInstance {
            instance: "first".to_owned()
        }
    );
    assert_eq!(
        rig.run(Command::CommitOffsets(commit(Some(who("s-1", 1)), 0, 3))),
        Reply::Committed(Timestamp(7))
    );
}
