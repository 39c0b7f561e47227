//! What is limited, and what it is counted as.

use std::sync::Arc;

use super::rig::{Rig, beat, subscribed, topic, who};
use super::{key, run};
use crate::group::*;
use crate::machine::{StateMachine, Stored};
use crate::model::{GroupId, Timestamp};

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

#[test]
fn a_new_group_takes_the_place_of_one_that_was_only_tried_out() {
    let mut rig = Rig::new(2);
    rig.machine.set_limits(Limits {
        groups_max: 3,
        ..Limits::default()
    });
    let tries = |rig: &mut Rig, group: &str, at: i64| {
        let join = Command::Heartbeat(Heartbeat {
            group: group.to_owned(),
            subscription: Some(subscribed(&["a"])),
            ..beat("one", 0)
        });
        assert!(
            matches!(run(&mut rig.machine, at, join), Reply::Alive { .. }),
            "{group}"
        );
        let leave = Command::Close(Close {
            group: group.to_owned(),
            member: who("one", 1),
            offsets: Vec::new(),
        });
        assert!(
            matches!(run(&mut rig.machine, at, leave), Reply::Closed { .. }),
            "{group}"
        );
    };
    let groups = |rig: &Rig| -> Vec<String> { rig.machine.groups().map(|(id, _)| id.to_string()).collect() };
    tries(&mut rig, "x", 1);
    tries(&mut rig, "w", 2);
    let kept = Command::Configure(Configure {
        group: "kept".to_owned(),
        create: true,
        entries: Vec::new(),
    });
    run(&mut rig.machine, 3, kept);
    tries(&mut rig, "y", 4);
    assert_eq!(groups(&rig), ["kept", "w", "y"]);
    let commit = |group: &str| {
        Command::CommitOffsets(CommitOffsets {
            group: group.to_owned(),
            member: None,
            offsets: vec![(key(1, 0), crate::group::tests::at(0))],
        })
    };
    for group in ["v", "u"] {
        assert_eq!(
            run(&mut rig.machine, 5, commit(group)),
            Reply::Committed(Timestamp(5))
        );
    }
    assert_eq!(groups(&rig), ["kept", "u", "v"]);
    let full = Reply::Refused(GroupError::TooManyGroups { max: 3 });
    assert_eq!(run(&mut rig.machine, 6, commit("t")), full);
    let restored = Machine::restore(Limits::default(), rig.machine.snapshot()).unwrap();
    assert_eq!(restored.state_bytes(), rig.machine.state_bytes());
}
