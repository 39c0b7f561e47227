//! Lag in seconds: the age of the oldest record that a group has not processed.

use super::*;
use crate::api::{CommitOffsets, DescribeGroup, DescribedGroup, OffsetToCommit, TrimPartition, TrimTopic};

fn commit(rig: &Rig, offset: i64) {
    let commit = CommitOffsets {
        group: "g".to_owned(),
        member: None,
        offsets: vec![OffsetToCommit {
            partition: named("t", 0),
            offset,
            leader_epoch: None,
            metadata: String::new(),
        }],
    };
    rig.ask(Request::CommitOffsets(commit)).unwrap();
}

/// A record each at 0, 5 and 6 s. It is 20 s now.
fn filled(rig: &Rig) {
    rig.create("t", 2);
    for pause_s in [0, 5, 1] {
        rig.clock.advance(Duration::from_secs(pause_s));
        rig.produce(Acks::Fsync, raw("t", 1)).1.unwrap();
    }
    rig.clock.advance(Duration::from_secs(14));
}

pub(super) async fn described(rig: &Rig) -> DescribedGroup {
    let describe = Request::DescribeGroup(DescribeGroup {
        group: "g".to_owned(),
    });
    let reply = match rig.broker.receive(describe) {
        Outcome::AfterLsn { reply, .. } => reply,
        Outcome::Later(reply) => reply.await,
        other => panic!("{other:?}"),
    };
    match reply {
        Ok(Response::DescribeGroup(described)) => *described,
        other => panic!("{other:?}"),
    }
}

/// Records and ms as the description shows them, and ms of the metric.
async fn lag(rig: &Rig) -> (Option<u64>, Option<u64>, u64) {
    let described = described(rig).await;
    let groups = rig.broker.groups_now(10).0;
    (
        described.partitions[0].lag,
        described.partitions[0].lag_ms,
        groups[0].lag_ms,
    )
}

async fn check_lags(rig: &Rig) {
    filled(rig);
    for (offset, expected) in [
        (0, (Some(3), Some(20_000), 20_000)),
        (1, (Some(2), Some(15_000), 15_000)),
        (2, (Some(1), Some(14_000), 14_000)),
        (3, (Some(0), Some(0), 0)),
    ] {
        commit(rig, offset);
        assert_eq!(lag(rig).await, expected, "committed {offset}");
    }
    rig.produce(Acks::Fsync, raw("t", 1)).1.unwrap();
    assert_eq!(lag(rig).await, (Some(1), Some(0), 0));
    rig.clock.advance(Duration::from_millis(700));
    assert_eq!(lag(rig).await, (Some(1), Some(700), 700));
}

#[tokio::test]
async fn lag_is_shown_as_the_age_of_the_oldest_unprocessed_record_also_without_members() {
    check_lags(&Rig::new()).await;
}

#[tokio::test]
async fn lag_of_what_is_on_disk_is_looked_up() {
    let options = MemoryOptions {
        cold: true,
        ..MemoryOptions::default()
    };
    check_lags(&Rig::with(options, Settings::default())).await;
}

#[tokio::test]
async fn lag_behind_what_was_removed_is_the_age_of_the_oldest_record_that_is_there() {
    let rig = Rig::new();
    filled(&rig);
    commit(&rig, 0);
    let trim = TrimTopic {
        partitions: vec![TrimPartition {
            partition: named("t", 0),
            to: 2,
        }],
    };
    rig.ask(Request::TrimTopic(trim)).unwrap();
    assert_eq!(lag(&rig).await, (Some(1), Some(14_000), 14_000));
    let at = described(&rig).await.partitions.remove(0);
    assert_eq!((at.committed, at.bounds.log_start), (Some(offset(0)), offset(2)));
}

#[tokio::test]
async fn a_clock_that_goes_back_makes_no_lag() {
    let rig = Rig::new();
    filled(&rig);
    commit(&rig, 1);
    rig.clock.jump_wall(START);
    assert_eq!(lag(&rig).await, (Some(2), Some(0), 0));
}
