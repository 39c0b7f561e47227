//! Topics by scripts: they come, grow and go under members.

use std::collections::BTreeSet;

use super::key;
use super::rig::{Rig, beat, subscribed, topic};
use crate::group::*;
use crate::model::{GroupState, Timestamp};

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
fn of4_bug_32_offsets_go_with_their_topic_and_another_one_of_its_name_inherits_nothing() {
    let mut rig = Rig::new(2);
    rig.join("one");
    rig.commit("one", 0, 5);
    rig.run(Command::DeleteTopic(topic(1)));
    assert_eq!(rig.machine.offsets("g").count(), 0);
    rig.machine.topics_mut().remove(topic(1));
    rig.machine.topics_mut().insert(topic(9), "a", 2);
    rig.run(Command::Refresh {
        group: "g".parse().unwrap(),
    });
    assert_eq!(rig.counts(), [2]);
    assert_eq!(rig.machine.offset("g", key(9, 0)), None);
    // What is still under way for the old one finds nothing to hold.
    rig.learn("one");
    assert!(matches!(
        rig.commit("one", 0, 6),
        Reply::Refused(GroupError::NotHeld { .. })
    ));
}
