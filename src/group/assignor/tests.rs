//! Properties of all assignors, and of the sticky one.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

type Topics = BTreeMap<TopicId, u32>;
type Members = Vec<(MemberId, BTreeSet<TopicId>)>;

fn topic(number: u8) -> TopicId {
    TopicId::from_bytes([number; 16])
}

fn member(name: &str) -> MemberId {
    name.parse().unwrap()
}

fn run(assignor: Assignor, members: &Members, topics: &Topics, previous: &Assignment) -> Assignment {
    let members = members.iter().map(|(id, topics)| Subscriber { id, topics });
    let input = Input {
        members: members.collect(),
        topics,
        previous,
    };
    assign(assignor, &input)
}

/// All subscribe to all of the topics.
fn alike(names: &[&str], topics: &Topics) -> Members {
    let all: BTreeSet<_> = topics.keys().copied().collect();
    names.iter().map(|name| (member(name), all.clone())).collect()
}

fn counts(members: &Members, assignment: &Assignment) -> Vec<usize> {
    let count = |id: &MemberId| assignment.values().filter(|holder| *holder == id).count();
    members.iter().map(|(id, _)| count(id)).collect()
}

fn of(assignment: &Assignment, name: &str) -> Vec<(u8, u32)> {
    let keys = assignment.iter().filter(|(_, id)| id.as_str() == name);
    keys.map(|(key, _)| (key.topic.as_bytes()[0], key.partition.0))
        .collect()
}

/// The examples of Kafka's documentation of `RangeAssignor` and `RoundRobinAssignor`: two topics of three partitions.
#[test]
fn range_and_round_robin_assign_as_kafka_documents_them() {
    let topics = Topics::from([(topic(0), 3), (topic(1), 3)]);
    let members = alike(&["C1", "C0"], &topics);
    let range = run(Assignor::Range, &members, &topics, &Assignment::new());
    assert_eq!(of(&range, "C0"), [(0, 0), (0, 1), (1, 0), (1, 1)]);
    assert_eq!(of(&range, "C1"), [(0, 2), (1, 2)]);
    let round_robin = run(Assignor::RoundRobin, &members, &topics, &Assignment::new());
    assert_eq!(of(&round_robin, "C0"), [(0, 0), (0, 2), (1, 1)]);
    assert_eq!(of(&round_robin, "C1"), [(0, 1), (1, 0), (1, 2)]);
}

/// The second example of Kafka's `RoundRobinAssignor`: subscriptions differ.
#[test]
fn round_robin_passes_by_who_does_not_subscribe() {
    let topics = Topics::from([(topic(0), 1), (topic(1), 2), (topic(2), 3)]);
    let members: Members = vec![
        (member("C0"), [topic(0)].into()),
        (member("C1"), [topic(0), topic(1)].into()),
        (member("C2"), [topic(0), topic(1), topic(2)].into()),
    ];
    let assignment = run(Assignor::RoundRobin, &members, &topics, &Assignment::new());
    assert_eq!(of(&assignment, "C0"), [(0, 0)]);
    assert_eq!(of(&assignment, "C1"), [(1, 0)]);
    assert_eq!(of(&assignment, "C2"), [(1, 1), (2, 0), (2, 1), (2, 2)]);
}

/// Of 7 partitions that one of 3 members held, each gets its share: a member that holds something may still be given more.
#[test]
fn bug_29_everybody_gets_a_share_not_only_who_has_nothing() {
    let topics = Topics::from([(topic(0), 8)]);
    let members = alike(&["a", "b", "c"], &topics);
    let key = |index| PartitionKey {
        topic: topic(0),
        partition: PartitionId(index),
    };
    let mut previous: Assignment = (0..7).map(|index| (key(index), member("a"))).collect();
    previous.insert(key(7), member("b"));
    let assignment = run(Assignor::Sticky, &members, &topics, &previous);
    let mut counts = counts(&members, &assignment);
    counts.sort_unstable();
    assert_eq!(counts, [2, 3, 3]);
}

#[test]
fn bug_30_who_is_one_too_many_gets_nothing() {
    let topics = Topics::from([(topic(0), 2)]);
    let members = alike(&["a", "b", "c"], &topics);
    for assignor in Assignor::ALL {
        let assignment = run(assignor, &members, &topics, &Assignment::new());
        assert_eq!(counts(&members, &assignment), [1, 1, 0], "{assignor}");
    }
}

fn subscriptions() -> impl Strategy<Value = Vec<BTreeSet<u8>>> {
    prop::collection::vec(prop::collection::btree_set(0_u8..4, 0..4), 0..8)
}

fn members_of(subscriptions: &[BTreeSet<u8>]) -> Members {
    let members = subscriptions.iter().enumerate();
    members
        .map(|(at, topics)| {
            (
                member(&format!("m{at}")),
                topics.iter().map(|t| topic(*t)).collect(),
            )
        })
        .collect()
}

proptest! {
    #[test]
    fn every_partition_that_is_wanted_has_one_holder_who_wants_it(
        partitions in prop::collection::vec(0_u32..12, 4),
        subscriptions in subscriptions(),
        before in subscriptions(),
    ) {
        let topics: Topics = (0_u8..).zip(partitions).map(|(at, count)| (topic(at), count)).collect();
        let (members, before) = (members_of(&subscriptions), members_of(&before));
        for assignor in Assignor::ALL {
            let previous = run(assignor, &before, &topics, &Assignment::new());
            let assignment = run(assignor, &members, &topics, &previous);
            for key in super::partitions(&topics) {
                let wanted = members.iter().any(|(_, wants)| wants.contains(&key.topic));
                match assignment.get(&key) {
                    Some(id) => {
                        let holder = members.iter().find(|(member, _)| member == id).unwrap();
                        prop_assert!(holder.1.contains(&key.topic));
                    }
                    None => prop_assert!(!wanted, "{assignor}: {key}"),
                }
            }
            prop_assert!(assignment.keys().all(|key| key.partition.0 < topics[&key.topic]));
            prop_assert_eq!(run(assignor, &members, &topics, &assignment), assignment, "it does not swing");
        }
    }

    /// No single move makes two members more even.
    #[test]
    fn cs7_sticky_is_as_even_as_single_moves_make_it(
        partitions in prop::collection::vec(0_u32..12, 4),
        subscriptions in subscriptions(),
        before in subscriptions(),
    ) {
        let topics: Topics = (0_u8..).zip(partitions).map(|(at, count)| (topic(at), count)).collect();
        let (members, before) = (members_of(&subscriptions), members_of(&before));
        let previous = run(Assignor::Sticky, &before, &topics, &Assignment::new());
        let assignment = run(Assignor::Sticky, &members, &topics, &previous);
        let counts = counts(&members, &assignment);
        for (key, id) in &assignment {
            let from = members.iter().position(|(member, _)| member == id).unwrap();
            for (to, (_, wants)) in members.iter().enumerate() {
                let better = wants.contains(&key.topic) && counts[to] + 1 < counts[from];
                prop_assert!(!better, "{key} should go from {from} to {to}: {counts:?}");
            }
        }
    }

    #[test]
    fn cs7_a_join_takes_its_share_for_the_newcomer_alone_and_a_leave_moves_what_was_the_leavers(
        partitions in prop::collection::vec(0_u32..30, 3),
        members in 1_usize..9,
        leaver in 0_usize..9,
    ) {
        let topics: Topics = (0_u8..).zip(partitions).map(|(at, count)| (topic(at), count)).collect();
        let all: usize = topics.values().map(|count| *count as usize).sum();
        let names: Vec<_> = (0..members).map(|at| format!("m{at}")).collect();
        let mut group = alike(&names.iter().map(String::as_str).collect::<Vec<_>>(), &topics);
        let before = run(Assignor::Sticky, &group, &topics, &Assignment::new());
        group.extend(alike(&["new"], &topics));
        let joined = run(Assignor::Sticky, &group, &topics, &before);
        let moved: Vec<_> = joined.iter().filter(|(key, id)| before.get(key) != Some(id)).collect();
        prop_assert!(moved.len() <= all.div_ceil(members + 1));
        prop_assert!(moved.iter().all(|(_, id)| id.as_str() == "new"));
        let (gone, _) = group.remove(leaver % members);
        let left = run(Assignor::Sticky, &group, &topics, &joined);
        for (key, id) in &joined {
            if *id != gone {
                prop_assert_eq!(left.get(key), Some(id));
            }
        }
        let counts = counts(&group, &left);
        prop_assert!(group.is_empty() || counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
    }
}
