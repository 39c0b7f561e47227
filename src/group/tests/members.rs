//! Members by scripts: they join, release, commit, leave. Each rule of the coordinator is a test that says it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::key;
use super::rig::{Rig, beat, commit, id, subscribed, topic, who};
use crate::group::*;
use crate::machine::{StateMachine, Stored};
use crate::model::{GroupState, LeaderEpoch, PartitionKey, Timestamp};

#[test]
fn ep1_a_join_and_a_leave_are_epochs_and_a_heartbeat_is_none() {
    let mut rig = Rig::new(4);
    rig.join("one");
    assert_eq!((rig.group().epoch, rig.group().assignment_epoch), (1, 1));
    rig.heartbeat("one");
    assert_eq!(rig.group().epoch, 1);
    rig.join("two");
    assert_eq!(rig.group().epoch, 2);
    rig.remove("two");
    assert_eq!(rig.group().epoch, 3);
    rig.remove("one");
    assert_eq!((rig.group().epoch, rig.group().state()), (4, GroupState::Empty));
    assert!(rig.group().target.is_empty());
}

#[test]
fn bug_1_a_join_that_is_sent_again_is_the_same_member() {
    let mut rig = Rig::new(4);
    for _ in 0..3 {
        rig.join("one");
    }
    assert_eq!((rig.group().members.len(), rig.group().epoch), (1, 1));
}

#[test]
fn ep4_ep5_a_partition_moves_when_its_holder_has_released_it() {
    let mut rig = Rig::new(4);
    rig.join("one");
    assert_eq!(rig.counts(), [4]);
    rig.join("two");
    assert_eq!(rig.counts(), [2, 0], "the second waits");
    assert_eq!(rig.group().state(), GroupState::Reconciling);
    let one = &rig.group().members["one"];
    assert_eq!(
        (one.revoking.len(), rig.group().member_epoch(one)),
        (2, 1),
        "EP5: it stays in its epoch"
    );
    // No news is no release.
    rig.run(Command::Heartbeat(beat("one", 1)));
    assert_eq!(rig.counts(), [2, 0]);
    // It has heard, and releases: in that same step the second holds them.
    rig.learn("one");
    rig.heartbeat("one");
    assert_eq!(rig.counts(), [2, 2]);
    assert_eq!(rig.group().state(), GroupState::Stable);
    let one = &rig.group().members["one"];
    assert_eq!(rig.group().member_epoch(one), 2);
}

#[test]
fn ep5_a_late_heartbeat_of_an_older_epoch_releases_nothing() {
    let mut rig = Rig::new(4);
    rig.join("one");
    rig.join("two");
    // What it says was true before it was given these partitions.
    let late = Heartbeat {
        owned: Some(BTreeSet::new()),
        ..beat("one", 0)
    };
    for revision in [0, u64::MAX] {
        rig.run(Command::Heartbeat(Heartbeat {
            revision,
            ..late.clone()
        }));
        assert_eq!(rig.group().members["one"].revoking.len(), 2);
    }
}

#[test]
fn ep5_a_late_heartbeat_from_before_the_member_had_a_partition_does_not_release_it() {
    let mut rig = Rig::new(6);
    rig.join("one");
    rig.join("two");
    // Under way: the second holds nothing yet, in the epoch in which it will get its half.
    let late = rig.beat_of("two");
    assert_eq!(
        (late.member.epoch, late.owned.clone()),
        (2, Some(BTreeSet::new()))
    );
    rig.learn("one");
    rig.heartbeat("one");
    rig.learn("two");
    rig.join("three");
    let two = rig.group().members["two"].clone();
    assert_eq!((two.revoking.len(), two.held_epoch), (1, 2));
    rig.run(Command::Heartbeat(late));
    assert_eq!(rig.group().members["two"], two, "it reads on, and has not heard");
    // Neither does what it says before it has heard.
    let mut unheard = rig.beat_of("two");
    unheard.owned = Some(BTreeSet::new());
    rig.run(Command::Heartbeat(unheard));
    assert_eq!(rig.group().members["two"], two);
    rig.settle();
    assert_eq!(rig.counts(), [2, 2, 2]);
}

#[test]
fn a_restart_asks_again_for_what_is_to_be_released() {
    let mut rig = Rig::new(4);
    rig.join("one");
    rig.join("two");
    rig.learn("one");
    let release = rig.beat_of("one");
    let topics = rig.machine.topics().clone();
    rig.machine = Machine::restore(Limits::default(), rig.machine.snapshot()).unwrap();
    *rig.machine.topics_mut() = topics;
    rig.machine.begin(LeaderEpoch(2));
    rig.run(Command::Heartbeat(release));
    assert_eq!(rig.counts(), [2, 0], "the revision is one of before the start");
    rig.settle();
    assert_eq!(rig.counts(), [2, 2]);
}

#[test]
fn ep6_another_target_does_not_restart_a_revocation() {
    let mut rig = Rig::new(6);
    rig.join("one");
    rig.join("two");
    let before = rig.group().members["one"].revoking.clone();
    rig.join("three");
    let one = &rig.group().members["one"];
    assert_eq!(one.held_epoch, 1, "it is still in the epoch in which it began");
    assert!(before.keys().all(|key| one.revoking.contains_key(key)));
    rig.settle();
    assert_eq!(rig.counts(), [2, 2, 2]);
}

#[test]
fn ep8_who_knows_a_newer_epoch_or_holds_what_it_does_not_is_fenced() {
    let mut rig = Rig::new(4);
    rig.join("one");
    rig.join("two");
    rig.settle();
    let ahead = rig.refused(Command::Heartbeat(beat("one", 9)));
    assert_eq!(ahead, GroupError::FencedEpoch { current: 2, got: 9 });
    let held = rig.group().members["two"].assigned.keys().copied().collect();
    let foreign = Heartbeat {
        owned: Some(held),
        ..beat("one", 2)
    };
    assert_eq!(
        rig.refused(Command::Heartbeat(foreign)),
        GroupError::FencedEpoch { current: 2, got: 2 }
    );
    // The reply was lost: it is behind, and holds nothing that it may not.
    rig.run(Command::Heartbeat(Heartbeat {
        owned: Some(BTreeSet::new()),
        ..beat("one", 1)
    }));
    assert_eq!(rig.counts(), [2, 2]);
}

#[test]
fn ep9_of1_commits_need_the_epoch_and_the_partition() {
    let mut rig = Rig::new(2);
    rig.join("one");
    assert_eq!(rig.commit("one", 0, 5), Reply::Committed(Timestamp(7)));
    rig.join("two");
    // Revoking: it may still commit, in its old epoch.
    let goes = *rig.group().members["one"].revoking.keys().next().unwrap();
    assert_eq!(
        rig.commit("one", goes.partition.0, 6),
        Reply::Committed(Timestamp(7))
    );
    rig.learn("one");
    rig.heartbeat("one");
    let error = rig.refused(Command::CommitOffsets(commit(
        Some(who("one", 1)),
        goes.partition.0,
        7,
    )));
    assert_eq!(error, GroupError::StaleEpoch { current: 2, got: 1 });
    let error = rig.refused(Command::CommitOffsets(commit(
        Some(who("one", 2)),
        goes.partition.0,
        7,
    )));
    assert_eq!(error, GroupError::NotHeld { index: 0, current: 2 });
    let error = rig.refused(Command::CommitOffsets(commit(
        Some(who("one", 3)),
        goes.partition.0,
        7,
    )));
    assert_eq!(error, GroupError::FencedEpoch { current: 2, got: 3 });
    let error = rig.refused(Command::CommitOffsets(commit(Some(who("gone", 2)), 0, 7)));
    assert_eq!(
        error,
        GroupError::UnknownMember {
            member: "gone".to_owned()
        }
    );
    let error = rig.refused(Command::CommitOffsets(commit(None, 0, 7)));
    assert_eq!(error, GroupError::NotEmpty { members: 2 });
    assert_eq!(rig.machine.offset("g", goes).unwrap().offset.get(), 6);
}

#[test]
fn partitions_that_do_not_move_are_read_in_the_older_epoch_and_others_are_not() {
    let mut rig = Rig::new(4);
    rig.join("one");
    rig.join("two");
    let one = rig.group().members["one"].clone();
    let (stays, goes) = (
        *one.assigned.keys().next().unwrap(),
        *one.revoking.keys().next().unwrap(),
    );
    let fetch = |rig: &Rig, name: &str, epoch, key| rig.machine.check_fetch("g", &who(name, epoch), key);
    assert_eq!(fetch(&rig, "one", 1, stays), Ok(()));
    assert_eq!(
        fetch(&rig, "one", 1, goes),
        Err(GroupError::StaleEpoch { current: 1, got: 1 }),
        "CS6"
    );
    rig.settle();
    assert_eq!(fetch(&rig, "one", 1, stays), Ok(()), "it need not have heard");
    assert_eq!(
        fetch(&rig, "two", 1, goes),
        Err(GroupError::StaleEpoch { current: 2, got: 1 })
    );
    assert_eq!(fetch(&rig, "two", 2, goes), Ok(()));
    assert_eq!(
        fetch(&rig, "one", 3, stays),
        Err(GroupError::FencedEpoch { current: 2, got: 3 })
    );
    let unknown = Err(GroupError::UnknownMember {
        member: "who".to_owned(),
    });
    assert_eq!(fetch(&rig, "who", 2, stays), unknown);
    assert_eq!(rig.machine.check_fetch("other", &who("who", 2), stays), unknown);
}

#[test]
fn bug_27_a_last_commit_that_is_refused_keeps_the_member() {
    let mut rig = Rig::new(2);
    rig.join("one");
    let close = Close {
        group: "g".to_owned(),
        member: who("one", 1),
        offsets: commit(None, 9, 3).offsets,
    };
    assert_eq!(
        rig.refused(Command::Close(close)),
        GroupError::NotHeld { index: 0, current: 1 }
    );
}

#[test]
fn le7_bug_16_the_order_of_a_subscription_means_nothing_and_its_content_does() {
    let mut rig = Rig::new(2);
    rig.machine.topics_mut().insert(topic(2), "b", 3);
    rig.join("one");
    let again = Heartbeat {
        subscription: Some(subscribed(&["a"])),
        ..beat("one", 1)
    };
    rig.run(Command::Heartbeat(again));
    assert_eq!(rig.group().epoch, 1);
    let more = Heartbeat {
        subscription: Some(subscribed(&["b", "a"])),
        ..beat("one", 1)
    };
    rig.run(Command::Heartbeat(more));
    assert_eq!((rig.group().epoch, rig.counts()), (2, vec![5]));
}

#[test]
fn bug_30_more_members_than_partitions_wait_in_line() {
    let mut rig = Rig::new(2);
    for name in ["one", "two", "three", "four"] {
        rig.join(name);
    }
    rig.settle();
    assert_eq!(rig.counts(), [1, 1, 0, 0]);
    assert_eq!(rig.group().idle(), [&id("three"), &id("four")]);
    rig.remove("one");
    rig.settle();
    assert_eq!(
        (rig.counts(), rig.group().idle()),
        (vec![1, 1, 0], vec![&id("four")])
    );
}

#[test]
fn a_group_is_deleted_when_its_members_have_left() {
    let mut rig = Rig::new(2);
    let delete = || Command::Delete {
        group: "g".to_owned(),
    };
    let unknown = GroupError::UnknownGroup {
        group: "g".to_owned(),
    };
    assert_eq!(rig.refused(delete()), unknown);
    rig.join("one");
    rig.commit("one", 0, 3);
    assert_eq!(rig.refused(delete()), GroupError::NotEmpty { members: 1 });
    rig.remove("one");
    assert_eq!(rig.run(delete()), Reply::Done);
    assert!(rig.machine.group("g").is_none());
    assert_eq!((rig.machine.state_bytes(), rig.machine.members()), (0, 0));
}

#[test]
fn a_revision_changes_when_there_is_something_to_tell_and_only_then() {
    let mut rig = Rig::new(4);
    let revision = |rig: &Rig, name: &str| rig.machine.revision("g", name).unwrap();
    rig.join("one");
    let first = revision(&rig, "one");
    assert_eq!(first >> 32, 1);
    rig.machine.take_changed();
    rig.heartbeat("one");
    assert_eq!(
        (revision(&rig, "one"), rig.machine.take_changed().len()),
        (first, 0)
    );
    rig.join("two");
    assert_ne!(revision(&rig, "one"), first);
    let names = |rig: &mut Rig| -> Vec<String> {
        rig.machine
            .take_changed()
            .into_iter()
            .map(|(_, member)| member.to_string())
            .collect()
    };
    assert_eq!(names(&mut rig), ["one", "two"]);
    rig.learn("one");
    rig.heartbeat("one");
    assert_eq!(
        names(&mut rig),
        ["one", "two"],
        "the one has another epoch, the other its partitions"
    );
    rig.remove("one");
    assert_eq!(names(&mut rig), ["one", "two"], "who was removed is told, too");
    // Another run of the broker: no revision is one of before.
    let before = revision(&rig, "two");
    let mut machine = Machine::restore(Limits::default(), rig.machine.snapshot()).unwrap();
    machine.begin(LeaderEpoch(2));
    assert!(machine.revision("g", "two").unwrap() > before);
}

#[test]
fn ep2_one_request_joins_keeps_alive_and_tells_and_its_full_form_is_taken_at_any_time() {
    let mut rig = Rig::new(2);
    rig.join("one");
    let before = rig.machine.groups.clone();
    // Nothing that is news, everything that is known, and both again.
    let full = Heartbeat {
        subscription: Some(subscribed(&["a"])),
        ..rig.beat_of("one")
    };
    for beat in [beat("one", 1), rig.beat_of("one"), full.clone(), full] {
        let reply = rig.run(Command::Heartbeat(beat));
        assert!(matches!(reply, Reply::Alive { .. }), "{reply:?}");
        assert_eq!(rig.machine.groups, before);
    }
}

#[test]
fn ep3_a_member_is_settled_has_to_release_or_waits_for_others() {
    let mut rig = Rig::new(4);
    rig.join("one");
    assert_eq!(rig.group().state(), GroupState::Stable);
    rig.join("two");
    let (one, two) = (&rig.group().members["one"], &rig.group().members["two"]);
    assert_eq!(
        (one.assigned.len(), one.revoking.len()),
        (2, 2),
        "it is to release"
    );
    assert_eq!((two.assigned.len(), two.revoking.len()), (0, 0), "it waits");
    assert!(rig.group().idle().is_empty(), "who waits is not idle");
    assert_eq!(rig.group().state(), GroupState::Reconciling);
    rig.settle();
    assert_eq!(rig.group().state(), GroupState::Stable);
}

#[test]
fn bug_5_bug_6_what_waited_for_a_member_is_given_out_when_it_is_removed() {
    let mut rig = Rig::new(4);
    rig.join("one");
    rig.join("two");
    assert_eq!(rig.counts(), [2, 0]);
    // It was never heard of again, with two partitions still to release.
    rig.remove("one");
    assert_eq!((rig.counts(), rig.group().state()), (vec![4], GroupState::Stable));
}

#[test]
fn bug_7_bug_33_after_all_are_gone_in_the_middle_of_it_the_next_one_holds_everything() {
    let mut rig = Rig::new(4);
    for name in ["one", "two", "three"] {
        rig.join(name);
    }
    assert_eq!(rig.group().state(), GroupState::Reconciling);
    for name in ["two", "one", "three"] {
        rig.remove(name);
    }
    assert_eq!(rig.group().state(), GroupState::Empty);
    rig.join("four");
    assert_eq!((rig.counts(), rig.group().leader()), (vec![4], Some(&id("four"))));
}

#[test]
fn of2_a_commit_amid_a_rebalance_is_taken_whole_or_not_at_all() {
    let mut rig = Rig::new(4);
    rig.join("one");
    rig.join("two");
    let one = rig.group().members["one"].clone();
    let (stays, goes) = (
        one.assigned.keys().next().unwrap(),
        one.revoking.keys().next().unwrap(),
    );
    let both = |epoch, offset| {
        let mut both = commit(Some(who("one", epoch)), stays.partition.0, offset);
        both.offsets
            .extend(commit(None, goes.partition.0, offset).offsets);
        Command::CommitOffsets(both)
    };
    assert_eq!(rig.run(both(1, 5)), Reply::Committed(Timestamp(7)));
    rig.settle();
    assert_eq!(
        rig.refused(both(2, 6)),
        GroupError::NotHeld { index: 1, current: 2 }
    );
    let committed = |rig: &Rig| {
        rig.machine
            .offsets("g")
            .map(|(_, at)| at.offset.get())
            .collect::<Vec<_>>()
    };
    assert_eq!(committed(&rig), [5, 5]);
}

#[test]
fn of6_nobody_takes_offsets_from_under_members() {
    let mut rig = Rig::new(2);
    rig.join("one");
    rig.commit("one", 0, 5);
    let others = Command::CommitOffsets(commit(None, 0, 0));
    assert_eq!(rig.refused(others), GroupError::NotEmpty { members: 1 });
    let delete = Command::Delete {
        group: "g".to_owned(),
    };
    assert_eq!(rig.refused(delete), GroupError::NotEmpty { members: 1 });
    assert_eq!(rig.machine.offset("g", key(1, 0)).unwrap().offset.get(), 5);
}

#[test]
fn cs4_bug_19_what_a_member_claims_makes_it_no_holder() {
    let mut rig = Rig::new(4);
    rig.join("one");
    rig.join("two");
    rig.settle();
    let holders = |rig: &Rig| -> Vec<_> {
        let holders = rig.group().holders();
        holders.into_iter().map(|(key, id)| (key, id.clone())).collect()
    };
    let before = holders(&rig);
    let everything: BTreeSet<PartitionKey> = (0..4).map(|index| key(1, index)).collect();
    let claim = |name: &str, epoch| Heartbeat {
        owned: Some(everything.clone()),
        subscription: Some(subscribed(&["a"])),
        ..beat(name, epoch)
    };
    assert_eq!(
        rig.refused(Command::Heartbeat(claim("one", 2))),
        GroupError::FencedEpoch { current: 2, got: 2 }
    );
    assert_eq!(holders(&rig), before);
    // Neither does it as it joins.
    rig.run(Command::Heartbeat(claim("three", 0)));
    assert!(rig.group().members["three"].assigned.is_empty());
}

#[test]
fn cs5_who_was_removed_may_not_commit_any_more() {
    let mut rig = Rig::new(2);
    rig.join("one");
    rig.commit("one", 0, 5);
    rig.remove("one");
    let unknown = GroupError::UnknownMember {
        member: "one".to_owned(),
    };
    let late = commit(Some(who("one", 1)), 0, 9);
    assert_eq!(rig.refused(Command::CommitOffsets(late.clone())), unknown);
    let close = Close {
        group: "g".to_owned(),
        member: who("one", 1),
        offsets: late.offsets,
    };
    assert_eq!(rig.refused(Command::Close(close)), unknown);
    assert_eq!(rig.machine.offset("g", key(1, 0)).unwrap().offset.get(), 5);
}

#[test]
fn cs6_bug_20_what_is_to_be_released_is_not_read_may_be_committed_and_goes_when_its_time_is_over() {
    let mut rig = Rig::new(2);
    rig.join("one");
    rig.join("two");
    let goes = *rig.group().members["one"].revoking.keys().next().unwrap();
    let fetch = |rig: &Rig, name: &str, epoch| rig.machine.check_fetch("g", &who(name, epoch), goes);
    assert_eq!(
        fetch(&rig, "one", 1),
        Err(GroupError::StaleEpoch { current: 1, got: 1 })
    );
    assert_eq!(
        rig.commit("one", goes.partition.0, 5),
        Reply::Committed(Timestamp(7))
    );
    // Its hand-off is late.
    rig.remove("one");
    rig.learn("two");
    assert_eq!(fetch(&rig, "two", 3), Ok(()));
    let late = commit(Some(who("one", 1)), goes.partition.0, 6);
    assert!(matches!(
        rig.refused(Command::CommitOffsets(late)),
        GroupError::UnknownMember { .. }
    ));
}

#[test]
fn tm4_what_is_decided_rests_on_the_time_that_is_given_and_on_nothing_else() {
    let mut rig = Rig::new(2);
    rig.join("one");
    let remove = || Command::Remove {
        group: "g".parse().unwrap(),
        member: id("one"),
    };
    let decided = |now| rig.machine.handle(Timestamp(now), remove()).records;
    assert_eq!(decided(5), decided(5));
    assert_ne!(decided(5), decided(6), "since when it is empty");
}

proptest! {
    /// CS7 through the machine: a join moves at most its share, a leave moves what the leaver had.
    #[test]
    fn cs7_joins_and_leaves_move_little(partitions in 1_u32..40, members in 1_usize..8, leaver in 0_usize..8) {
        let mut rig = Rig::new(partitions);
        for number in 0..members {
            rig.join(&format!("m{number}"));
            rig.settle();
        }
        let before = rig.group().target.clone();
        rig.join("new");
        rig.settle();
        let after = rig.group().target.clone();
        let moved = before.iter().filter(|(key, id)| after.get(key) != Some(id)).count();
        prop_assert!(moved <= (partitions as usize).div_ceil(members + 1));
        let counts = rig.counts();
        prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
        let leaver = format!("m{}", leaver % members);
        rig.remove(&leaver);
        for (key, id) in &after {
            if id.as_str() != leaver {
                prop_assert_eq!(rig.group().target.get(key), Some(id));
            }
        }
    }
}
