//! Members by scripts: each rule of the coordinator is a test that says it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::{key, run};
use crate::group::*;
use crate::machine::{StateMachine, Stored};
use crate::model::{GroupId, GroupState, LeaderEpoch, MemberId, Offset, PartitionKey, Timestamp, TopicId};

/// A machine with topics, the members as clients of it, and a group.
#[derive(Clone)]
pub(super) struct Rig {
    pub(super) machine: Machine,
    pub(super) clients: BTreeMap<String, Client>,
}

/// What a client knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Client {
    pub(super) epoch: u32,
    /// Of the newest answer that it has heard.
    pub(super) revision: u64,
    /// What it reads and commits.
    pub(super) owned: BTreeSet<PartitionKey>,
}

pub(super) fn topic(number: u8) -> TopicId {
    TopicId::from_bytes([number; 16])
}

pub(super) fn id(name: &str) -> MemberId {
    name.parse().unwrap()
}

pub(super) fn subscribed(topics: &[&str]) -> Subscription {
    Subscription {
        topics: topics.iter().map(|name| (*name).into()).collect(),
        patterns: BTreeSet::new(),
    }
}

impl Rig {
    /// Topic `a` with so many partitions.
    pub(super) fn new(partitions: u32) -> Self {
        let mut machine = Machine::new(Limits::default());
        machine.topics_mut().insert(topic(1), "a", partitions);
        machine.begin(LeaderEpoch(1));
        Self {
            machine,
            clients: BTreeMap::new(),
        }
    }

    pub(super) fn group(&self) -> &Membership {
        self.machine.membership("g").unwrap()
    }

    pub(super) fn run(&mut self, command: Command) -> Reply {
        let reply = run(&mut self.machine, 7, command);
        if let Some(membership) = self.machine.membership("g") {
            check(membership);
        }
        reply
    }

    pub(super) fn refused(&mut self, command: Command) -> GroupError {
        let before = self.machine.clone();
        let reply = self.run(command);
        let Reply::Refused(error) = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(before.groups, self.machine.groups, "a refusal changes nothing");
        error
    }

    /// A heartbeat as the client would send it, without taking notice of the answer.
    pub(super) fn beat_of(&self, name: &str) -> Heartbeat {
        let client = self.clients.get(name).cloned().unwrap_or_default();
        Heartbeat {
            owned: Some(client.owned),
            revision: client.revision,
            ..beat(name, client.epoch)
        }
    }

    /// The client takes in what it is to know: it stops reading what is not its own any more, and reads what is.
    pub(super) fn learn(&mut self, name: &str) {
        let membership = self.machine.membership("g").unwrap();
        let member = &membership.members[name];
        let client = self.clients.entry(name.to_owned()).or_default();
        client.epoch = membership.member_epoch(member);
        client.revision = self.machine.revision("g", name).unwrap();
        client.owned = member.assigned.keys().copied().collect();
    }

    pub(super) fn heartbeat(&mut self, name: &str) {
        let beat = self.beat_of(name);
        let reply = self.run(Command::Heartbeat(beat));
        assert!(matches!(reply, Reply::Alive { .. }), "{reply:?}");
        self.learn(name);
    }

    pub(super) fn join(&mut self, name: &str) {
        let beat = Heartbeat {
            subscription: Some(subscribed(&["a"])),
            ..beat(name, 0)
        };
        let reply = self.run(Command::Heartbeat(beat));
        assert!(matches!(reply, Reply::Alive { .. }), "{reply:?}");
        self.learn(name);
    }

    pub(super) fn join_static(&mut self, name: &str, instance: &str) {
        let mut beat = Heartbeat {
            subscription: Some(subscribed(&["a"])),
            ..beat(name, 0)
        };
        beat.member.instance = Some(instance.to_owned());
        let reply = self.run(Command::Heartbeat(beat));
        assert!(matches!(reply, Reply::Alive { .. }), "{reply:?}");
        self.learn(name);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.run(Command::Remove {
            group: "g".parse().unwrap(),
            member: id(name),
        });
        self.clients.remove(name);
    }

    /// Everybody hears and releases until nobody has anything to say.
    pub(super) fn settle(&mut self) -> usize {
        for round in 1.. {
            let before = self.clone();
            let names: Vec<_> = self.group().members.keys().map(ToString::to_string).collect();
            for name in &names {
                self.heartbeat(name);
            }
            if before.machine.groups == self.machine.groups && before.clients == self.clients {
                return round;
            }
            assert!(round < 10, "the group does not settle");
        }
        unreachable!()
    }

    pub(super) fn counts(&self) -> Vec<usize> {
        let members = self.group().in_join_order().into_iter();
        members.map(|(_, member)| member.assigned.len()).collect()
    }

    pub(super) fn commit(&mut self, name: &str, partition: u32, offset: i64) -> Reply {
        let epoch = self.clients.get(name).map_or(1, |client| client.epoch);
        self.run(Command::CommitOffsets(commit(
            Some(who(name, epoch)),
            partition,
            offset,
        )))
    }
}

pub(super) fn who(name: &str, epoch: u32) -> MemberRef {
    MemberRef {
        member: name.to_owned(),
        epoch,
        instance: None,
    }
}

pub(super) fn beat(name: &str, epoch: u32) -> Heartbeat {
    Heartbeat {
        group: "g".to_owned(),
        member: who(name, epoch),
        client_id: "test".to_owned(),
        host: "127.0.0.1:1".to_owned(),
        subscription: None,
        revision: 0,
        owned: None,
    }
}

pub(super) fn commit(member: Option<MemberRef>, partition: u32, offset: i64) -> CommitOffsets {
    let committed = CommittedOffset {
        offset: Offset::new(offset).unwrap(),
        leader_epoch: None,
        metadata: "".into(),
        committed: Timestamp(0),
    };
    CommitOffsets {
        group: "g".to_owned(),
        member,
        offsets: vec![(key(1, partition), committed)],
    }
}

/// What holds always.
pub(super) fn check(membership: &Membership) {
    let mut holders: BTreeMap<PartitionKey, &MemberId> = BTreeMap::new();
    for (id, member) in &membership.members {
        let keys: Vec<_> = member.assigned.keys().chain(member.revoking.keys()).collect();
        for key in keys {
            if let Some(other) = holders.insert(*key, id) {
                panic!("EP12: {key} is held by {other} and by {id}");
            }
            let count = membership.resolved.get(&key.topic).copied();
            let is_gone = count.is_none_or(|count| key.partition.0 >= count);
            assert!(
                !is_gone || member.revoking.contains_key(key),
                "{key} does not exist"
            );
        }
        assert!(membership.member_epoch(member) <= membership.epoch);
    }
    assert!(membership.assignment_epoch <= membership.epoch);
}

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
fn topics_come_grow_and_go() {
    let mut rig = Rig::new(2);
    let wants = Subscription {
        topics: BTreeSet::new(),
        patterns: ["a*".into()].into(),
    };
    rig.run(Command::Heartbeat(Heartbeat {
        subscription: Some(wants),
        ..beat("one", 0)
    }));
    rig.learn("one");
    rig.machine.topics_mut().insert(topic(1), "a", 3);
    rig.machine.topics_mut().insert(topic(2), "ab", 1);
    rig.machine.topics_mut().insert(topic(3), "b", 1);
    assert_eq!(rig.machine.affected(), ["g".parse().unwrap()]);
    rig.run(Command::Refresh {
        group: "g".parse().unwrap(),
    });
    assert_eq!((rig.group().epoch, rig.counts()), (2, vec![4]));
    assert_eq!(rig.machine.affected(), []);
    rig.learn("one");
    assert_eq!(rig.commit("one", 0, 5), Reply::Committed(Timestamp(7)));
    // OF4, bug 32: gone at once, and another topic of that name begins at nothing.
    rig.run(Command::DeleteTopic(topic(1)));
    assert_eq!((rig.counts(), rig.machine.offsets("g").count()), (vec![1], 0));
    rig.machine.topics_mut().remove(topic(1));
    rig.machine.topics_mut().insert(topic(9), "a", 2);
    rig.run(Command::Refresh {
        group: "g".parse().unwrap(),
    });
    assert_eq!(rig.counts(), [3]);
    assert!(rig.group().members["one"].assigned.contains_key(&key(9, 0)));
}

#[test]
fn a_deleted_topic_is_another_epoch_and_gives_out_what_waited_for_its_release() {
    let mut rig = Rig::new(2);
    rig.machine.topics_mut().insert(topic(2), "b", 2);
    let join = |rig: &mut Rig, name: &str, topics: &[&str]| {
        rig.run(Command::Heartbeat(Heartbeat {
            subscription: Some(subscribed(topics)),
            ..beat(name, 0)
        }));
        rig.learn(name);
    };
    join(&mut rig, "one", &["b"]);
    join(&mut rig, "two", &["b"]);
    rig.settle();
    // The second wants another topic, which nobody holds; what it holds of `b` is to be released first.
    let mut other = rig.beat_of("two");
    other.subscription = Some(subscribed(&["a"]));
    rig.run(Command::Heartbeat(other));
    let two = &rig.group().members["two"];
    assert_eq!((two.revoking.len(), two.assigned.len()), (1, 0));
    let epoch = rig.group().epoch;
    rig.run(Command::DeleteTopic(topic(2)));
    let two = &rig.group().members["two"];
    assert_eq!((two.revoking.len(), two.assigned.len()), (0, 2));
    assert_eq!(
        (rig.group().epoch, rig.group().state()),
        (epoch + 1, GroupState::Stable)
    );
    // Nothing of it is left, so a second time is nothing.
    rig.run(Command::DeleteTopic(topic(2)));
    assert_eq!(rig.group().epoch, epoch + 1);
}

#[test]
fn members_and_what_they_subscribe_to_are_counted_and_limited_in_bytes() {
    let mut rig = Rig::new(2);
    rig.join("one");
    let subscribed_to_a = SUBSCRIBED_STATE_BYTES + 1;
    let one = MEMBERSHIP_STATE_BYTES + MEMBER_STATE_BYTES + subscribed_to_a + 2 * TARGET_STATE_BYTES;
    assert_eq!(rig.machine.state_bytes(), one);
    let two = one + MEMBER_STATE_BYTES + subscribed_to_a;
    let full = |max| Limits {
        state_bytes_max: max,
        ..Limits::default()
    };
    rig.machine.set_limits(full(two - 1));
    let join = Command::Heartbeat(Heartbeat {
        subscription: Some(subscribed(&["a"])),
        ..beat("two", 0)
    });
    assert_eq!(
        rig.refused(join.clone()),
        GroupError::StateFull {
            would_be: two,
            max: two - 1
        }
    );
    rig.machine.set_limits(full(two));
    assert!(matches!(rig.run(join), Reply::Alive { .. }));
    assert_eq!(rig.machine.state_bytes(), two);
    // Who is there goes on, and what goes away is not counted.
    rig.machine.set_limits(full(1));
    rig.heartbeat("one");
    rig.settle();
    rig.remove("two");
    assert_eq!(rig.machine.state_bytes(), one);
    rig.run(Command::DeleteTopic(topic(1)));
    assert_eq!(rig.machine.state_bytes(), one - 2 * TARGET_STATE_BYTES);
    rig.remove("one");
    assert_eq!(rig.machine.state_bytes(), MEMBERSHIP_STATE_BYTES);
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
fn limits_hold_back_what_grows() {
    let mut rig = Rig::new(2);
    rig.machine.set_limits(Limits {
        members_per_group_max: 2,
        members_max: 3,
        groups_max: 2,
        ..Limits::default()
    });
    rig.join("one");
    rig.join("two");
    let join = |group: &str, name: &str| {
        Command::Heartbeat(Heartbeat {
            group: group.to_owned(),
            subscription: Some(subscribed(&["a"])),
            ..beat(name, 0)
        })
    };
    assert_eq!(rig.refused(join("g", "three")), GroupError::GroupFull { max: 2 });
    assert!(matches!(rig.run(join("h", "three")), Reply::Alive { .. }));
    assert_eq!(
        rig.refused(join("h", "four")),
        GroupError::TooManyMembers { max: 3 }
    );
    rig.remove("one");
    assert_eq!(
        rig.refused(join("i", "four")),
        GroupError::TooManyGroups { max: 2 }
    );
}

#[test]
fn what_a_member_says_about_itself_has_limits() {
    let mut rig = Rig::new(2);
    let with = |subscription| {
        Command::Heartbeat(Heartbeat {
            subscription,
            ..beat("five", 0)
        })
    };
    assert_eq!(rig.refused(with(None)), GroupError::NoSubscription);
    assert_eq!(
        rig.refused(with(Some(Subscription::default()))),
        GroupError::NoSubscription
    );
    let topics = (0..=SUBSCRIBED_TOPICS_MAX)
        .map(|n| format!("t{n}").into())
        .collect();
    let many = Subscription {
        topics,
        ..Subscription::default()
    };
    assert!(matches!(
        rig.refused(with(Some(many))),
        GroupError::SubscriptionTooLarge { .. }
    ));
    let patterns = (0..=PATTERNS_MAX).map(|n| format!("t{n}*").into()).collect();
    let many = Subscription {
        patterns,
        ..Subscription::default()
    };
    assert!(matches!(
        rig.refused(with(Some(many))),
        GroupError::SubscriptionTooLarge { .. }
    ));
    let long = Subscription {
        patterns: ["x".repeat(201).into()].into(),
        ..Subscription::default()
    };
    assert_eq!(rig.refused(with(Some(long))), GroupError::Pattern { bytes: 201 });
    let bad = subscribed(&["__meta"]);
    assert!(matches!(rig.refused(with(Some(bad))), GroupError::TopicName(_)));
    let bad = Heartbeat {
        client_id: "x".repeat(CLIENT_ID_BYTES_MAX + 1),
        subscription: Some(subscribed(&["a"])),
        ..beat("five", 0)
    };
    assert_eq!(
        rig.refused(Command::Heartbeat(bad)),
        GroupError::ClientIdTooLong { bytes: 257 }
    );
    let bad = Heartbeat {
        subscription: Some(subscribed(&["a"])),
        ..beat("a b", 0)
    };
    assert!(matches!(
        rig.refused(Command::Heartbeat(bad)),
        GroupError::MemberId(_)
    ));
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

#[test]
fn members_who_subscribe_alike_share_what_it_means_in_memory_and_on_disk() {
    let mut rig = Rig::new(1);
    for n in 10..210 {
        rig.machine.topics_mut().insert(topic(n), &format!("t{n}"), 1);
    }
    let join = |name: &str, patterns: &[&str]| {
        Command::Heartbeat(Heartbeat {
            subscription: Some(Subscription {
                patterns: patterns.iter().map(|text| Arc::from(*text)).collect(),
                ..Subscription::default()
            }),
            ..beat(name, 0)
        })
    };
    for name in ["one", "two", "three"] {
        rig.run(join(name, &["t*"]));
    }
    let sets = |machine: &Machine| -> Vec<_> {
        let members = machine.membership("g").unwrap().members.values();
        members.map(|member| Arc::as_ptr(&member.topics)).collect()
    };
    let restored = Machine::restore(Limits::default(), rig.machine.snapshot()).unwrap();
    for machine in [&rig.machine, &restored] {
        let sets = sets(machine);
        assert_eq!((sets.len(), sets[0]), (3, sets[1]));
        assert_eq!(sets[0], sets[2]);
    }
    assert_eq!(restored.membership("g"), rig.machine.membership("g"));
    // A topic more is told once, not by every member.
    rig.machine.topics_mut().insert(topic(210), "t210", 1);
    let refresh = |machine: &Machine| {
        let group: GroupId = "g".parse().unwrap();
        machine.handle(Timestamp(5), Command::Refresh { group }).records
    };
    let records = refresh(&rig.machine);
    assert_eq!(records.len(), 1);
    let bytes = Machine::encode(&records[0]).len();
    assert!(bytes < 201 * 40, "{bytes} bytes");
    // Who subscribes to others is counted with what that means.
    rig.run(Command::Refresh {
        group: "g".parse().unwrap(),
    });
    let bytes = rig.machine.state_bytes();
    rig.run(join("four", &["t2*"]));
    // t20 to t29, t200 to t209, t210.
    let more = MEMBER_STATE_BYTES + SUBSCRIBED_STATE_BYTES + 3 + 21 * MEANT_STATE_BYTES;
    assert_eq!(rig.machine.state_bytes(), bytes + more);
}

#[test]
fn patterns_are_limited_in_a_group_and_those_who_subscribe_alike_count_once() {
    let mut rig = Rig::new(1);
    let globs = |from: usize, count: usize| Subscription {
        patterns: (from..from + count)
            .map(|n| Arc::from(format!("p{n}*")))
            .collect(),
        ..Subscription::default()
    };
    let says = |name: &str, epoch: u32, subscription: Subscription| {
        Command::Heartbeat(Heartbeat {
            subscription: Some(subscription),
            ..beat(name, epoch)
        })
    };
    for n in 0..10 {
        rig.run(says(&format!("m{n}"), 0, globs(n * 100, 100)));
    }
    let full = GroupError::TooManyPatterns {
        would_be: PATTERNS_PER_GROUP_MAX + 1,
        max: PATTERNS_PER_GROUP_MAX,
    };
    assert_eq!(rig.refused(says("more", 0, globs(5_000, 1))), full);
    rig.run(says("alike", 0, globs(0, 100)));
    rig.run(says("plain", 0, subscribed(&["a"])));
    // In place of its own there is room.
    rig.run(says("m3", 1, globs(5_000, 100)));
    assert_eq!(rig.refused(says("plain", 1, globs(6_000, 1))), full);
}
