//! What goes wrong between two of the right things: no room, a topic that goes, a place that changes hands.

use super::*;
use crate::api::DeleteTopic;
use crate::model::PartitionKey;

fn as_instance(heartbeat: GroupHeartbeat) -> GroupHeartbeat {
    let member = GroupMember {
        instance_id: Some("i".to_owned()),
        ..heartbeat.member
    };
    GroupHeartbeat { member, ..heartbeat }
}

fn subscribing(name: &str, group: &str, topics: &[&str]) -> GroupHeartbeat {
    let subscription = Subscription {
        topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        patterns: Vec::new(),
    };
    GroupHeartbeat {
        group: group.to_owned(),
        subscription: Some(subscription),
        ..beat(name, 0)
    }
}

impl Rig {
    fn deletes(&self, name: &str) -> Result<(), ErrorCode> {
        let delete = DeleteTopic {
            name: name.to_owned(),
            id: None,
        };
        let reply = self.ask(Request::DeleteTopic(delete));
        reply.map(|_| ()).map_err(|error| error.code)
    }

    fn closes(&self, member: GroupMember) {
        let close = CloseConsumer {
            group: "g".to_owned(),
            member,
            offsets: Vec::new(),
        };
        self.ask(Request::CloseConsumer(close)).unwrap();
    }
}

#[test]
fn a_topic_that_many_groups_read_can_be_deleted() {
    let rig = Rig::new();
    rig.create("t", 4);
    rig.create("kept", 1);
    for n in 0..1_000 {
        let group = format!("group-{n}");
        rig.beats(subscribing("one", &group, &["t", "kept"]), 1).unwrap();
    }
    assert_eq!(rig.deletes("t"), Ok(()));
    let named = subscribing("one", "group-7", &["t", "kept"]);
    let left = told(rig.beats(named, 1));
    assert_eq!(left.assigned.len(), 1);
    assert_eq!(left.assigned[0].topic.as_str(), "kept");
}

#[test]
fn a_deletion_that_finds_no_room_changes_nothing_and_may_be_tried_again() {
    let options = MemoryOptions {
        queue_bytes: 24 << 10,
        durable_at_once: false,
        ..MemoryOptions::default()
    };
    let rig = Rig::with(options, Settings::default());
    rig.create("t", 1);
    for n in 0..300 {
        let group = format!("{}-{n}", "g".repeat(100));
        waits(rig.broker.handle(
            Request::GroupHeartbeat(subscribing("one", &group, &["t"])),
            &peer(1),
        ))
        .1
        .unwrap();
        rig.store.make_all_durable();
    }
    let delete = DeleteTopic {
        name: "t".to_owned(),
        id: None,
    };
    let error = waits(rig.broker.receive(Request::DeleteTopic(delete)))
        .1
        .unwrap_err();
    assert_eq!((error.code, error.retry_after_ms), (ErrorCode::Backpressure, 100));
    rig.produce(Acks::Fsync, raw("t", 1)).1.unwrap();
}

#[test]
fn who_has_not_heard_that_a_topic_is_gone_is_no_zombie() {
    let rig = Rig::new();
    let gone = rig.create("gone", 2);
    let topic = rig.create("t", 1);
    let joined = told(rig.beats(subscribing("one", "g", &["gone", "t"]), 1));
    assert_eq!(joined.assigned.len(), 2);
    rig.deletes("gone").unwrap();
    let owned = [("gone", gone, 2), ("t", topic, 1)].map(|(name, id, count)| TopicPartitions {
        topic: name.into(),
        topic_id: Some(id),
        partitions: (0..count).map(PartitionId).collect(),
    });
    let all = GroupHeartbeat {
        owned: Some(owned.to_vec()),
        revision: joined.revision,
        ..beat("one", joined.member_epoch)
    };
    assert_eq!(holds(&told(rig.beats(all.clone(), 1))), [0]);
    // Nor is one who names partitions that never were.
    let mut never = all;
    never.owned.as_mut().unwrap()[1].partitions.push(PartitionId(7));
    assert_eq!(holds(&told(rig.beats(never, 1))), [0]);
}

#[test]
fn a_takeover_that_found_no_room_is_no_takeover() {
    let options = MemoryOptions {
        queue_bytes: 64 << 10,
        durable_at_once: false,
        ..MemoryOptions::default()
    };
    let rig = Rig::with(options, Settings::default());
    rig.create("t", 1);
    rig.beats(as_instance(joining("a")), 1).unwrap();
    rig.store.make_all_durable();
    let commit = |bytes| {
        let commit = CommitOffsets {
            group: "filler".to_owned(),
            member: None,
            offsets: vec![OffsetToCommit {
                partition: named("t", 0),
                offset: 0,
                leader_epoch: None,
                metadata: "x".repeat(bytes),
            }],
        };
        rig.broker.receive(Request::CommitOffsets(commit))
    };
    for bytes in [1_000, 0] {
        while !matches!(commit(bytes), Outcome::Blocked { .. }) {}
    }
    let asked = Request::GroupHeartbeat(as_instance(joining("b")));
    let Outcome::Blocked { request, .. } = rig.broker.handle(asked, &peer(2)) else {
        panic!("there was room");
    };
    rig.store.make_all_durable();
    let taken = told(waits(rig.broker.handle(request, &peer(2))).1);
    assert_eq!(holds(&taken), [0]);
}

#[test]
fn ep6_who_takes_over_has_no_more_time_to_release_than_was_left() {
    let rig = Rig::new();
    rig.create("t", 2);
    rig.beats(as_instance(joining("a")), 1).unwrap();
    rig.joins("other", 9);
    // Half of it is to be released within 30 s.
    for (n, name) in ["b", "c", "d"].into_iter().enumerate() {
        rig.clock.advance(Duration::from_secs(9));
        rig.beats(beat("other", 1), 9).unwrap();
        rig.broker.groups_due();
        let connection = u64::try_from(n).unwrap() + 2;
        let taken = told(rig.beats(as_instance(joining(name)), connection));
        assert_eq!(taken.revoking.len(), 1);
    }
    rig.clock.advance(Duration::from_secs(4));
    rig.broker.groups_due();
    assert_eq!(rig.names(), ["other"]);
}

#[test]
fn a_static_member_that_left_may_start_again_as_often_as_it_likes() {
    let rig = Rig::new();
    rig.create("t", 1);
    for name in ["a", "b", "c", "d"] {
        // Over one connection: that it has left counts, not that the connection is gone.
        let joined = told(rig.beats(as_instance(joining(name)), 1));
        assert_eq!((holds(&joined), joined.group_epoch), (vec![0], 1));
        rig.closes(as_instance(beat(name, joined.member_epoch)).member);
    }
    rig.clock.advance(Duration::from_secs(11));
    rig.broker.groups_due();
    assert_eq!(rig.names(), [""; 0], "it did not come back");
}

#[test]
fn what_a_member_read_that_was_gone_before_a_restart_may_have_been_seen() {
    let rig = Rig::new();
    let topic = rig.create("t", 1);
    rig.produce(Acks::Fsync, raw("t", 9)).1.unwrap();
    let joined = rig.joins("one", 1);
    rig.commits(Some(who("one", joined.member_epoch)), 0, 3).unwrap();
    rig.broker.disconnected(ConnectionId(1));
    rig.clock.advance(Duration::from_secs(3));
    rig.broker.groups_due();
    assert_eq!(rig.names(), [""; 0]);
    let of_topic = PartitionKey {
        topic,
        partition: PartitionId(0),
    };
    let again = restart(rig, Vec::new(), &[of_topic]);
    let next = again.joins("two", 2);
    let assigned = &next.assigned[0].partitions[0];
    assert_eq!(assigned.committed.unwrap().get(), 3);
    assert_eq!(assigned.maybe_seen_upto.unwrap().get(), 9);
    assert_eq!(next.role, MemberRole::Active);
}

#[test]
fn where_it_is_not_remembered_how_far_was_read_everything_may_have_been() {
    let rig = Rig::new();
    rig.create("t", 2);
    rig.produce(Acks::Fsync, raw("t", 9)).1.unwrap();
    rig.broker.groups.lock().keep_seen(0);
    let joined = rig.joins("one", 1);
    assert_eq!(joined.assigned[0].partitions[0].maybe_seen_upto, None);
    let fetch = fetch_as("one", joined.member_epoch, Duration::ZERO, 0);
    rig.broker.handle(fetch, &peer(1));
    rig.closes(who("one", joined.member_epoch));
    let next = rig.joins("two", 2);
    let upto = next.assigned[0]
        .partitions
        .iter()
        .map(|p| p.maybe_seen_upto.unwrap().get());
    assert_eq!(upto.collect::<Vec<_>>(), [9, 0]);
}

#[test]
fn a_group_id_that_cannot_be_is_no_group_that_is_not_there() {
    let rig = Rig::new();
    for group in ["", "a\nb", "\u{1b}[31m", &"x".repeat(201)] {
        let group = group.to_owned();
        let asked = [
            Request::DescribeGroup(DescribeGroup { group: group.clone() }),
            Request::DeleteGroup(crate::api::DeleteGroup { group: group.clone() }),
            Request::EvictMember(EvictMember {
                group: group.clone(),
                member: EvictedMember::Member("m".to_owned()),
                reason: String::new(),
            }),
        ];
        for request in asked {
            let error = rig.ask(request.clone()).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidName, "{request:?}");
        }
    }
}

#[test]
fn a_member_that_says_too_much_is_refused_and_none_is_there_afterwards() {
    let rig = Rig::new();
    rig.create("t", 1);
    let names = |count: usize| -> Vec<String> { (0..count).map(|n| format!("t{n}")).collect() };
    let wants = |topics: usize, patterns: usize| GroupHeartbeat {
        subscription: Some(Subscription {
            topics: names(topics),
            patterns: names(patterns),
        }),
        ..beat("one", 0)
    };
    let named = |member: GroupMember| GroupHeartbeat {
        member,
        ..joining("one")
    };
    let instance = |instance: &str| {
        named(GroupMember {
            instance_id: Some(instance.to_owned()),
            ..who("one", 0)
        })
    };
    let long = "x".repeat(65);
    let bad_topic = subscribing("one", "g", &["a/b"]);
    let mut bad_pattern = wants(0, 1);
    bad_pattern.subscription.as_mut().unwrap().patterns = vec!["x".repeat(201)];
    let talkative = GroupHeartbeat {
        client_id: "x".repeat(257),
        ..joining("one")
    };
    for (what, asked, code) in [
        ("topics", wants(1_001, 0), ErrorCode::TooManyElements),
        ("patterns", wants(0, 101), ErrorCode::TooManyElements),
        ("nothing", wants(0, 0), ErrorCode::InvalidArgument),
        ("a name", bad_topic, ErrorCode::InvalidArgument),
        ("a pattern", bad_pattern, ErrorCode::InvalidArgument),
        ("a client id", talkative, ErrorCode::InvalidArgument),
        ("a member id", named(who(&long, 0)), ErrorCode::InvalidArgument),
        (
            "an empty member id",
            named(who("", 0)),
            ErrorCode::InvalidArgument,
        ),
        ("hidden text", named(who("a\nb", 0)), ErrorCode::InvalidArgument),
        ("an instance id", instance(&long), ErrorCode::InvalidArgument),
        (
            "an epoch",
            named(who("one", u32::MAX)),
            ErrorCode::UnknownMemberId,
        ),
    ] {
        let error = rig.beats(asked, 1).unwrap_err();
        assert_eq!(
            (error.code, error.code.is_definite()),
            (code, true),
            "{what}: {error:?}"
        );
    }
    let asked = DescribeGroup {
        group: "g".to_owned(),
    };
    let error = rig.ask(Request::DescribeGroup(asked)).unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownGroup);
    // The most that is allowed is allowed.
    assert!(rig.beats(wants(1_000, 100), 1).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_is_answered_late_does_not_keep_a_killed_member() {
    let rig = Rig::new();
    rig.create("t", 1);
    let joined = rig.joins("one", 1);
    let fetch = fetch_as("one", joined.member_epoch, WAIT, 0);
    let Outcome::Later(mut waits) = rig.broker.handle(fetch, &peer(2)) else {
        panic!("there was something to read");
    };
    assert!(look(&mut waits).await.is_none());
    rig.broker.disconnected(ConnectionId(1));
    rig.produce(Acks::Fsync, raw("t", 1)).1.unwrap();
    assert!(look(&mut waits).await.is_some());
    rig.commits(Some(who("one", joined.member_epoch)), 0, 1).unwrap();
    rig.clock.advance(Duration::from_secs(2));
    rig.broker.groups_due();
    assert_eq!(rig.names(), [""; 0]);
}
