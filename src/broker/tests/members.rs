//! Members of groups through the broker: what they are told and when, what they may read and commit, when they are gone.

mod hard;

use super::restart::restart;
use super::*;
use crate::api::{
    CloseConsumer, CommitOffsets, DescribeGroup, DescribedGroup, EvictMember, EvictedMember, GroupHeartbeat,
    GroupMember, ListGroups, MemberRole, Membership, OffsetToCommit, Subscription, TopicPartitions,
};
use crate::model::GroupState;
use crate::rt::BoxFuture;
use crate::storage::SnapshotSource;

const WAIT: Duration = Duration::from_secs(4);
/// Long enough for everything that is ready, far below [`WAIT`].
const MOMENT: Duration = Duration::from_millis(500);

fn peer(connection: u64) -> Peer {
    Peer {
        connection: ConnectionId(connection),
        host: "127.0.0.1".into(),
        software: "".into(),
    }
}

fn who(name: &str, epoch: u32) -> GroupMember {
    GroupMember {
        member_id: name.to_owned(),
        member_epoch: epoch,
        instance_id: None,
    }
}

fn beat(name: &str, epoch: u32) -> GroupHeartbeat {
    GroupHeartbeat {
        group: "g".to_owned(),
        member: who(name, epoch),
        revision: 0,
        client_id: "test".to_owned(),
        max_wait: Duration::ZERO,
        subscription: None,
        owned: None,
    }
}

fn joining(name: &str) -> GroupHeartbeat {
    let subscription = Subscription {
        topics: vec!["t".to_owned()],
        patterns: Vec::new(),
    };
    GroupHeartbeat {
        subscription: Some(subscription),
        ..beat(name, 0)
    }
}

fn told(reply: Reply) -> Membership {
    match reply {
        Ok(Response::GroupHeartbeat(membership)) => *membership,
        other => panic!("{other:?}"),
    }
}

fn holds(membership: &Membership) -> Vec<u32> {
    let topics = membership.assigned.iter();
    topics
        .flat_map(|topic| topic.partitions.iter().map(|p| p.partition.0))
        .collect()
}

fn owning(topic: TopicId, partitions: &[u32]) -> Option<Vec<TopicPartitions>> {
    Some(vec![TopicPartitions {
        topic: "t".into(),
        topic_id: Some(topic),
        partitions: partitions.iter().copied().map(PartitionId).collect(),
    }])
}

impl Rig {
    fn beats(&self, heartbeat: GroupHeartbeat, connection: u64) -> Reply {
        let request = Request::GroupHeartbeat(heartbeat);
        waits(self.broker.handle(request, &peer(connection))).1
    }

    fn joins(&self, name: &str, connection: u64) -> Membership {
        told(self.beats(joining(name), connection))
    }

    fn parks(&self, name: &str, known: &Membership, connection: u64) -> BoxFuture<'static, Reply> {
        let heartbeat = GroupHeartbeat {
            revision: known.revision,
            max_wait: WAIT,
            ..beat(name, known.member_epoch)
        };
        match self
            .broker
            .handle(Request::GroupHeartbeat(heartbeat), &peer(connection))
        {
            Outcome::Later(future) => future,
            other => panic!("{other:?}"),
        }
    }

    fn commits(&self, member: Option<GroupMember>, partition: u32, offset: i64) -> Result<(), ErrorCode> {
        let commit = CommitOffsets {
            group: "g".to_owned(),
            member,
            offsets: vec![OffsetToCommit {
                partition: named("t", partition),
                offset,
                leader_epoch: None,
                metadata: String::new(),
            }],
        };
        let reply = self.ask(Request::CommitOffsets(commit));
        reply.map(|_| ()).map_err(|error| error.code)
    }

    fn describes(&self) -> DescribedGroup {
        let asked = DescribeGroup {
            group: "g".to_owned(),
        };
        match self.ask(Request::DescribeGroup(asked)) {
            Ok(Response::DescribeGroup(described)) => *described,
            other => panic!("{other:?}"),
        }
    }

    fn names(&self) -> Vec<String> {
        self.describes()
            .members
            .into_iter()
            .map(|member| member.member_id)
            .collect()
    }
}

async fn look(future: &mut BoxFuture<'static, Reply>) -> Option<Reply> {
    tokio::time::timeout(MOMENT, future).await.ok()
}

fn fetch_as(name: &str, epoch: u32, wait: Duration, partition: u32) -> Request {
    let Request::Fetch(fetch) = fetch(FetchForm::Raw, wait, &[("t", partition, 0)]) else {
        panic!("a fetch");
    };
    Request::Fetch(Fetch {
        member: Some(("g".to_owned(), who(name, epoch))),
        ..fetch
    })
}

fn one(reply: Reply) -> Result<i64, ErrorCode> {
    let Ok(Response::Fetch(mut fetched)) = reply else {
        panic!("{reply:?}");
    };
    let part = fetched.partitions.remove(0);
    part.map(|part| part.next_offset.get())
        .map_err(|error| error.code)
}

#[tokio::test(start_paused = true)]
async fn a_partition_goes_from_hand_to_hand_and_both_are_told_at_once() {
    let rig = Rig::new();
    let topic = rig.create("t", 2);
    let one = rig.joins("one", 1);
    assert_eq!(
        (holds(&one), one.member_epoch, one.is_leader),
        (vec![0, 1], 1, true)
    );
    let mut of_one = rig.parks("one", &one, 1);
    assert!(look(&mut of_one).await.is_none(), "no news");

    let two = rig.joins("two", 2);
    assert_eq!((holds(&two), two.state), (vec![], GroupState::Reconciling));
    assert!(
        !matches!(two.role, MemberRole::Standby { .. }),
        "it will have one"
    );
    let mut of_two = rig.parks("two", &two, 2);
    let news = told(look(&mut of_one).await.unwrap());
    assert_eq!(
        (holds(&news), news.member_epoch, news.revoking.len()),
        (vec![0], 1, 1)
    );
    assert!(look(&mut of_two).await.is_none());

    let release = GroupHeartbeat {
        owned: owning(topic, &[0]),
        revision: news.revision,
        ..beat("one", 1)
    };
    let released = told(rig.beats(release, 1));
    assert_eq!((holds(&released), released.member_epoch), (vec![0], 2));
    let given = told(look(&mut of_two).await.unwrap());
    assert_eq!(
        (holds(&given), given.member_epoch, given.state),
        (vec![1], 2, GroupState::Stable)
    );
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_waits_is_answered_by_the_next_and_when_its_time_is_up() {
    let rig = Rig::new();
    rig.create("t", 1);
    let one = rig.joins("one", 1);
    let mut first = rig.parks("one", &one, 1);
    let mut second = rig.parks("one", &one, 1);
    assert_eq!(told(look(&mut first).await.unwrap()).revision, one.revision);
    assert!(look(&mut second).await.is_none());
    assert_eq!(
        told(tokio::time::timeout(WAIT * 2, &mut second).await.unwrap()).revision,
        one.revision
    );
    let parked = rig.parks("one", &one, 1);
    drop(parked);
    assert!(rig.broker.groups.lock().waiting_is_empty());
}

#[tokio::test(start_paused = true)]
async fn members_read_what_they_hold_and_the_next_holder_hears_how_far() {
    let rig = Rig::new();
    let topic = rig.create("t", 2);
    for partition in [0, 1] {
        let item = item(named("t", partition), ProducePayload::Raw(batch(5, None)));
        rig.produce(Acks::Fsync, item).1.unwrap();
    }
    rig.joins("one", 1);
    assert_eq!(one(rig.ask(fetch_as("one", 1, Duration::ZERO, 1))), Ok(5));
    assert_eq!(
        one(rig.ask(fetch_as("who", 1, Duration::ZERO, 1))),
        Err(ErrorCode::UnknownMemberId)
    );
    assert_eq!(
        one(rig.ask(fetch_as("one", 2, Duration::ZERO, 1))),
        Err(ErrorCode::FencedMemberEpoch)
    );
    rig.joins("two", 2);
    assert_eq!(
        one(rig.ask(fetch_as("one", 1, Duration::ZERO, 0))),
        Ok(5),
        "it stays, and never pauses"
    );
    assert_eq!(
        one(rig.ask(fetch_as("one", 1, Duration::ZERO, 1))),
        Err(ErrorCode::StaleMemberEpoch),
        "CS6"
    );
    assert_eq!(
        rig.commits(Some(who("one", 1)), 1, 3),
        Ok(()),
        "it may commit what it is to release"
    );
    let news = told(rig.beats(beat("one", 1), 1));
    let release = GroupHeartbeat {
        owned: owning(topic, &[0]),
        revision: news.revision,
        ..beat("one", 1)
    };
    rig.beats(release, 1).unwrap();
    assert_eq!(
        rig.commits(Some(who("one", 1)), 1, 4),
        Err(ErrorCode::StaleMemberEpoch),
        "EP9"
    );
    assert_eq!(
        rig.commits(Some(who("one", 2)), 1, 4),
        Err(ErrorCode::FencedMemberEpoch)
    );
    assert_eq!(rig.commits(None, 1, 4), Err(ErrorCode::GroupNotEmpty));
    let two = told(rig.beats(beat("two", 2), 2));
    let given = two.assigned[0].partitions[0];
    assert_eq!(
        (
            given.committed.unwrap().get(),
            given.maybe_seen_upto.unwrap().get()
        ),
        (3, 5)
    );
    assert_eq!(one(rig.ask(fetch_as("two", 2, Duration::ZERO, 1))), Ok(5));
}

/// Bug 24: the fence holds when the answer goes out, not only when the question came.
#[tokio::test(start_paused = true)]
async fn a_fetch_that_waits_brings_nothing_to_who_has_lost_the_partition() {
    let rig = Rig::new();
    rig.create("t", 1);
    rig.joins("one", 1);
    let mut waiting = match rig.broker.handle(fetch_as("one", 1, WAIT, 0), &peer(1)) {
        Outcome::Later(future) => future,
        other => panic!("{other:?}"),
    };
    assert!(look(&mut waiting).await.is_none());
    let evict = EvictMember {
        group: "g".to_owned(),
        member: EvictedMember::Member("one".to_owned()),
        reason: "test".to_owned(),
    };
    rig.ask(Request::EvictMember(evict)).unwrap();
    rig.produce(Acks::Fsync, raw("t", 1)).1.unwrap();
    assert_eq!(one(waiting.await), Err(ErrorCode::UnknownMemberId));
}

#[test]
fn who_loses_its_connection_is_gone_soon_and_who_is_silent_after_its_session() {
    let rig = Rig::new();
    rig.create("t", 1);
    for (name, connection) in [("lost", 1), ("back", 2), ("silent", 3), ("alive", 4)] {
        rig.joins(name, connection);
    }
    let after = |seconds| {
        rig.clock.advance(Duration::from_secs(seconds));
        rig.broker.groups_due();
        rig.names()
    };
    let keep = || rig.beats(beat("alive", 0), 4).unwrap();
    rig.broker.disconnected(ConnectionId(1));
    rig.broker.disconnected(ConnectionId(2));
    assert_eq!(after(1).len(), 4);
    rig.beats(beat("back", 0), 5).unwrap();
    keep();
    assert_eq!(after(2), ["back", "silent", "alive"]);
    keep();
    assert_eq!(after(7), ["back", "alive"]);
    keep();
    assert_eq!(after(9), ["alive"]);
    assert_eq!(rig.broker.counters().now().members_expired, 3);
    assert_eq!(
        rig.beats(beat("silent", 3), 3).unwrap_err().code,
        ErrorCode::UnknownMemberId
    );
}

#[test]
fn the_last_commit_and_the_leave_are_one() {
    let rig = Rig::new();
    rig.create("t", 1);
    rig.produce(Acks::Fsync, raw("t", 3)).1.unwrap();
    rig.joins("one", 1);
    let close = |epoch| {
        Request::CloseConsumer(CloseConsumer {
            group: "g".to_owned(),
            member: who("one", epoch),
            offsets: vec![OffsetToCommit {
                partition: named("t", 0),
                offset: 3,
                leader_epoch: None,
                metadata: String::new(),
            }],
        })
    };
    assert_eq!(rig.ask(close(9)).unwrap_err().code, ErrorCode::FencedMemberEpoch);
    assert_eq!(rig.names().len(), 1);
    rig.ask(close(1)).unwrap();
    let described = rig.describes();
    assert_eq!((described.state, described.members.len()), (GroupState::Empty, 0));
    let partition = &described.partitions[0];
    assert_eq!((partition.committed.unwrap().get(), partition.lag), (3, Some(0)));
}

#[test]
fn two_with_one_instance_id_do_not_take_the_place_from_each_other_for_ever() {
    let rig = Rig::new();
    rig.create("t", 1);
    let join = |name: &str, connection| {
        let mut heartbeat = joining(name);
        heartbeat.member.instance_id = Some("i".to_owned());
        rig.beats(heartbeat, connection)
    };
    let first = told(join("a1", 1));
    let second = told(join("b1", 2));
    assert_eq!(
        (holds(&second), second.group_epoch),
        (vec![0], first.group_epoch),
        "no rebalance"
    );
    let mut old = beat("a1", 1);
    old.member.instance_id = Some("i".to_owned());
    assert_eq!(rig.beats(old, 1).unwrap_err().code, ErrorCode::FencedInstanceId);
    let refused = join("a2", 1).unwrap_err();
    assert_eq!(refused.code, ErrorCode::UnreleasedInstanceId);
    assert!((1..=2_000).contains(&refused.retry_after_ms));
    // Who lost its connection gives way at once.
    rig.broker.disconnected(ConnectionId(2));
    join("a3", 1).unwrap();
}

#[test]
fn topics_that_come_grow_and_go_reach_groups_by_themselves() {
    let rig = Rig::new();
    rig.joins("one", 1);
    let partitions = || {
        rig.broker.groups_due();
        rig.describes().partitions.len()
    };
    assert_eq!(partitions(), 0);
    rig.create("t", 2);
    assert_eq!(partitions(), 2);
    let alter = crate::api::AlterTopic {
        name: "t".to_owned(),
        partitions: 5,
        ..crate::api::AlterTopic::default()
    };
    rig.ask(Request::AlterTopic(alter)).unwrap();
    assert_eq!(partitions(), 5);
    let delete = crate::api::DeleteTopic {
        name: "t".to_owned(),
        id: None,
    };
    rig.ask(Request::DeleteTopic(delete)).unwrap();
    let described = rig.describes();
    assert_eq!(
        (described.partitions.len(), described.members[0].assigned.len()),
        (0, 0)
    );
    rig.create("t", 1);
    assert_eq!(partitions(), 1);
    assert_eq!(rig.describes().members[0].assigned[0].partitions.len(), 1);
}

#[test]
fn tm3_after_a_restart_members_go_on_with_a_full_session_and_all_may_have_been_seen() {
    let rig = Rig::new();
    let topic = rig.create("t", 2);
    rig.produce(Acks::Fsync, raw("t", 4)).1.unwrap();
    let before = rig.joins("one", 1);
    rig.clock.advance(Duration::from_secs(9));
    let snapshot = |rig: &Rig| {
        let keys = [
            crate::model::PartitionKey::META,
            crate::model::PartitionKey::GROUPS,
        ];
        keys.into_iter()
            .map(|key| (key, rig.broker.snapshot(key).unwrap()))
            .collect()
    };
    let of_topic = crate::model::PartitionKey {
        topic,
        partition: PartitionId(0),
    };
    for with_snapshot in [false, true] {
        let snapshots = if with_snapshot { snapshot(&rig) } else { Vec::new() };
        let stopped = Rig::over(
            Arc::clone(&rig.store),
            Recovered::new(&rig.settings),
            Arc::clone(&rig.clock),
            Arc::clone(&rig.ids),
            rig.settings.clone(),
        );
        let again = restart(stopped, snapshots, &[of_topic]);
        again.clock.advance(Duration::from_secs(9));
        again.broker.groups_due();
        let now = told(again.beats(beat("one", before.member_epoch), 7));
        assert_eq!((holds(&now), now.member_epoch), (vec![0, 1], before.member_epoch));
        assert_eq!(now.assigned[0].partitions[0].maybe_seen_upto.unwrap().get(), 4);
    }
}

#[test]
fn groups_are_listed_page_by_page_and_deleted_when_empty() {
    let rig = Rig::new();
    rig.create("t", 1);
    rig.produce(Acks::Fsync, raw("t", 3)).1.unwrap();
    for group in ["a", "b", "c"] {
        let heartbeat = GroupHeartbeat {
            group: group.to_owned(),
            ..joining("one")
        };
        rig.beats(heartbeat, 1).unwrap();
    }
    let list = |cursor: &str, count, matching: &str| {
        let asked = ListGroups {
            cursor: cursor.to_owned(),
            count,
            matching: matching.to_owned(),
        };
        match rig.ask(Request::ListGroups(asked)) {
            Ok(Response::ListGroups(listed)) => {
                let names: Vec<_> = listed.groups.into_iter().map(|group| group.group).collect();
                (names.join(" "), listed.cursor)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(list("", 2, ""), ("a b".to_owned(), "b".to_owned()));
    assert_eq!(list("b", 2, ""), ("c".to_owned(), String::new()));
    assert_eq!(list("", 0, "[bc]"), (String::new(), String::new()));
    assert_eq!(list("", 0, "c*"), ("c".to_owned(), String::new()));
    let delete = |group: &str| {
        let delete = crate::api::DeleteGroup {
            group: group.to_owned(),
        };
        rig.ask(Request::DeleteGroup(delete))
            .map(|_| ())
            .map_err(|error| error.code)
    };
    assert_eq!(delete("a"), Err(ErrorCode::GroupNotEmpty));
    assert_eq!(delete("x"), Err(ErrorCode::UnknownGroup));
    let evict = EvictMember {
        group: "a".to_owned(),
        member: EvictedMember::Member("one".to_owned()),
        reason: String::new(),
    };
    rig.ask(Request::EvictMember(evict)).unwrap();
    assert_eq!(delete("a"), Ok(()));
    assert_eq!(list("", 0, ""), ("b c".to_owned(), String::new()));
}
