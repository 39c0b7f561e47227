//! What time brings about in groups beside sessions: members that live but do not get on, offsets that expire.

use super::lag::described;
use super::restart::restart;
use super::*;
use crate::api::{
    AlterGroup, CloseConsumer, CommitOffsets, CreateGroup, EvictMember, EvictedMember, GroupHeartbeat,
    GroupMember, OffsetToCommit, Subscription,
};
use crate::model::PartitionKey;
use crate::storage::SnapshotSource;

fn create_group(rig: &Rig, configs: &[(&str, &str)]) {
    let configs = configs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    rig.ask(Request::CreateGroup(CreateGroup {
        group: "g".to_owned(),
        configs: configs.collect(),
    }))
    .unwrap();
}

fn member() -> GroupMember {
    GroupMember {
        member_id: "one".to_owned(),
        member_epoch: 1,
        instance_id: None,
    }
}

fn beat(rig: &Rig, epoch: u32) {
    rig.ask(Request::GroupHeartbeat(heartbeat(epoch))).unwrap();
}

fn heartbeat(epoch: u32) -> GroupHeartbeat {
    let subscription = Subscription {
        topics: vec!["t".to_owned()],
        patterns: Vec::new(),
    };
    GroupHeartbeat {
        group: "g".to_owned(),
        member: GroupMember {
            member_epoch: epoch,
            ..member()
        },
        revision: 0,
        client_id: "test".to_owned(),
        max_wait: Duration::ZERO,
        subscription: (epoch == 0).then_some(subscription),
        owned: None,
    }
}

fn commit(rig: &Rig, member: Option<GroupMember>, offset: i64) {
    rig.ask(Request::CommitOffsets(CommitOffsets {
        group: "g".to_owned(),
        member,
        offsets: vec![OffsetToCommit {
            partition: named("t", 0),
            offset,
            leader_epoch: None,
            metadata: String::new(),
        }],
    }))
    .unwrap();
}

/// Time passes, a second at a time, and what is due is done. The member says that it lives if there is one.
fn pass(rig: &Rig, seconds: u64, lives: bool) {
    for _ in 0..seconds {
        rig.clock.advance(Duration::from_secs(1));
        rig.broker.groups_due();
        if lives {
            beat(rig, 1);
        }
    }
}

fn evict(rig: &Rig) {
    rig.ask(Request::EvictMember(EvictMember {
        group: "g".to_owned(),
        member: EvictedMember::Member("one".to_owned()),
        reason: String::new(),
    }))
    .unwrap();
}

/// Partitions that stand still: as described, as counted, and how often that was found.
async fn stalled(rig: &Rig) -> (Option<u64>, u64, u64) {
    let described = described(rig).await;
    let now = rig.broker.groups_now(1).0;
    let found = rig.broker.counters().now().members_stalled;
    (
        described.partitions[0].stalled_ms,
        now[0].stalled_partitions,
        found,
    )
}

#[tokio::test]
async fn a_member_that_lives_but_does_not_get_on_is_told_and_not_evicted() {
    let rig = Rig::new();
    rig.create("t", 1);
    create_group(&rig, &[("progress.timeout.ms", "20s")]);
    beat(&rig, 0);
    commit(&rig, Some(member()), 0);
    pass(&rig, 60, true);
    assert_eq!(stalled(&rig).await, (None, 0, 0), "there is nothing to process");
    rig.produce(Acks::Fsync, raw("t", 3)).1.unwrap();
    pass(&rig, 19, true);
    assert_eq!(stalled(&rig).await, (None, 0, 0));
    pass(&rig, 10, true);
    let (ms, partitions, found) = stalled(&rig).await;
    assert!((20_000..=29_000).contains(&ms.unwrap()), "{ms:?}");
    assert_eq!((partitions, found), (1, 1));
    let hint = described(&rig).await.hint;
    assert!(
        hint.contains("member one lives, but has not got on in t/0"),
        "{hint}"
    );
    pass(&rig, 60, true);
    assert_eq!(stalled(&rig).await.2, 1, "it is told once");
    assert_eq!(described(&rig).await.members.len(), 1);
    // It gets on a little, and stands again.
    commit(&rig, Some(member()), 1);
    pass(&rig, 6, true);
    assert_eq!(stalled(&rig).await, (None, 0, 1));
    pass(&rig, 30, true);
    assert_eq!(stalled(&rig).await.2, 2);
    commit(&rig, Some(member()), 3);
    pass(&rig, 60, true);
    assert_eq!(stalled(&rig).await, (None, 0, 2));
    assert_eq!(described(&rig).await.hint, "");
}

#[tokio::test]
async fn of3_offsets_expire_by_themselves_once_the_group_has_been_empty_for_the_retention() {
    let rig = Rig::new();
    rig.create("t", 1);
    rig.produce(Acks::Fsync, raw("t", 3)).1.unwrap();
    create_group(&rig, &[("offsets.retention.ms", "30s")]);
    beat(&rig, 0);
    commit(&rig, Some(member()), 2);
    let is_kept = async |rig: &Rig| !described(rig).await.partitions.is_empty();
    pass(&rig, 100, true);
    assert!(is_kept(&rig).await);
    assert_eq!(described(&rig).await.empty_since, None);
    evict(&rig);
    let since = rig.clock.wall();
    assert_eq!(described(&rig).await.empty_since, Some(since));
    pass(&rig, 20, false);
    assert!(is_kept(&rig).await);
    // A restart in between.
    let keys = [PartitionKey::META, PartitionKey::GROUPS];
    let snapshots = keys
        .into_iter()
        .filter_map(|key| Some((key, rig.broker.snapshot(key)?)));
    let snapshots = snapshots.collect();
    let rig = restart(rig, snapshots, &[]);
    assert_eq!(described(&rig).await.empty_since, Some(since));
    pass(&rig, 9, false);
    assert!(is_kept(&rig).await);
    pass(&rig, 2, false);
    assert!(!is_kept(&rig).await);
    assert_eq!(described(&rig).await.empty_since, Some(since), "the group stays");
    // What is committed into it is kept as long.
    commit(&rig, None, 1);
    pass(&rig, 29, false);
    assert!(is_kept(&rig).await);
    pass(&rig, 32, false);
    assert!(!is_kept(&rig).await);
}

#[tokio::test]
async fn of3_a_retention_that_is_set_later_is_in_force_at_once_and_can_be_taken_back() {
    let rig = Rig::new();
    rig.create("t", 1);
    rig.produce(Acks::Fsync, raw("t", 3)).1.unwrap();
    commit(&rig, None, 1);
    let alter = |set: &[(&str, &str)], unset: &[&str]| {
        let set = set
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let alter = AlterGroup {
            group: "g".to_owned(),
            set: set.collect(),
            unset: unset.iter().map(|name| (*name).to_owned()).collect(),
        };
        rig.ask(Request::AlterGroup(alter)).unwrap();
    };
    pass(&rig, 100, false);
    alter(&[("offsets.retention.ms", "5s")], &[]);
    pass(&rig, 3, false);
    alter(&[], &["offsets.retention.ms"]);
    pass(&rig, 100, false);
    assert_eq!(described(&rig).await.partitions.len(), 1);
    alter(&[("offsets.retention.ms", "5s")], &[]);
    pass(&rig, 6, false);
    assert_eq!(described(&rig).await.partitions.len(), 0);
}

#[tokio::test]
async fn ep11_a_leave_while_a_heartbeat_waits_is_carried_out_and_ends_the_wait() {
    let rig = Rig::new();
    rig.create("t", 1);
    beat(&rig, 0);
    let told = rig.broker.receive(Request::GroupHeartbeat(heartbeat(1)));
    let Ok(Response::GroupHeartbeat(told)) = waits(told).1 else {
        panic!("the member lives");
    };
    let waiting = GroupHeartbeat {
        revision: told.revision,
        max_wait: Duration::from_secs(30),
        ..heartbeat(1)
    };
    let Outcome::Later(waiting) = rig.broker.receive(Request::GroupHeartbeat(waiting)) else {
        panic!("there is no news");
    };
    let close = CloseConsumer {
        group: "g".to_owned(),
        member: member(),
        offsets: Vec::new(),
    };
    rig.ask(Request::CloseConsumer(close)).unwrap();
    assert_eq!(described(&rig).await.members, []);
    let ended = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    assert_eq!(code(ended.expect("it need not wait")), ErrorCode::UnknownMemberId);
}
