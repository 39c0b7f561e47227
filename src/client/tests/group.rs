//! The group consumer against a group that gives, takes and refuses as a test tells it to.

use super::fake_group::Told;
use super::*;
use crate::model::{PartitionId, TopicId};

type Log = Arc<Mutex<Vec<(&'static str, Vec<u32>)>>>;

/// A broker with so many partitions, and so many records in each.
async fn broker(partitions: u32, records: u32) -> FakeBroker {
    let broker = FakeBroker::start(usize::try_from(partitions).unwrap(), |_, _| Act::Serve).await;
    let client = broker.client().await;
    let producer = client.producer().build().await.unwrap();
    for n in 0..records {
        for partition in 0..partitions {
            producer
                .send(order(n.to_string()).partition(partition))
                .await
                .unwrap();
        }
    }
    producer.close().await.unwrap();
    broker
}

fn indexes(partitions: &[TopicPartition]) -> Vec<u32> {
    partitions.iter().map(|at| at.partition.0).collect()
}

async fn consumer(broker: &FakeBroker, auto_commit: AutoCommit) -> (GroupConsumer, Log) {
    let log = Log::default();
    let note = |what: &'static str| {
        let log = log.clone();
        move |partitions: Vec<TopicPartition>, _: GroupHandle| {
            log.lock().unwrap().push((what, indexes(&partitions)));
            std::future::ready(())
        }
    };
    let builder = broker.client().await.group_consumer("billing");
    let builder = builder
        .topics(["orders"])
        .reset(Reset::Earliest)
        .auto_commit(auto_commit);
    let builder = builder.on_assigned(note("assigned"));
    let builder = builder.on_revoked(note("revoked")).on_lost(note("lost"));
    (builder.build().await.unwrap(), log)
}

const SOON: AutoCommit = AutoCommit::AfterProcessing {
    every: Duration::from_millis(5),
};

/// Waits until the group has been told this.
async fn until(broker: &FakeBroker, what: &str, is_it: impl Fn(&Told) -> bool) {
    let waiting = async {
        while !is_it(&broker.group().told()) {
            tokio::time::sleep(ms(2)).await;
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    came.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn next(consumer: &mut GroupConsumer) -> GroupRecord {
    let next = tokio::time::timeout(Duration::from_secs(20), consumer.next()).await;
    next.expect("a record").unwrap().unwrap()
}

fn owned(beat: &pb::GroupHeartbeatRequest) -> Option<Vec<u32>> {
    let owned = beat.owned.as_ref()?;
    let mut all: Vec<u32> = owned
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.clone())
        .collect();
    all.sort_unstable();
    Some(all)
}

fn at(partition: u32) -> TopicPartition {
    TopicPartition {
        topic: "orders".into(),
        topic_id: TopicId::from_bytes(fake::TOPIC_ID),
        partition: PartitionId(partition),
    }
}

#[tokio::test]
async fn by_itself_only_what_was_followed_by_the_next_record_is_committed() {
    let broker = broker(1, 5).await;
    broker.group().told().committed.insert(0, 1);
    broker.group().give(1, &[0], &[], Some(3));
    let (mut consumer, log) = consumer(&broker, SOON).await;
    let first = next(&mut consumer).await;
    assert_eq!((first.offset, first.redelivered), (offset(1), true));
    assert!(next(&mut consumer).await.redelivered);
    until(&broker, "a commit", |told| !told.commits.is_empty()).await;
    // Offset 2 is in hand.
    assert_eq!(broker.group().told().commits[0].1, [(0, 2)]);
    assert!(!next(&mut consumer).await.redelivered);
    assert_eq!(consumer.position(&at(0)), Some(offset(4)));
    consumer.commit().await.unwrap();
    assert_eq!(broker.group().told().committed[&0], 4);
    assert_eq!(*log.lock().unwrap(), [("assigned", vec![0])]);
    assert_eq!(
        (consumer.state(), indexes(&consumer.assignment())),
        (ConsumerState::Active, vec![0])
    );
    consumer.close().await.unwrap();
    let told = broker.group().told();
    assert_eq!(
        (told.closed.len(), &told.closed[0].1),
        (1, &vec![]),
        "nothing was left to commit"
    );
}

#[tokio::test]
async fn what_is_revoked_is_finished_committed_and_then_released() {
    let broker = broker(2, 3).await;
    broker.group().give(1, &[0, 1], &[], None);
    let (mut consumer, log) = consumer(&broker, SOON).await;
    while consumer.position(&at(0)).is_none() || consumer.position(&at(1)).is_none() {
        tokio::time::sleep(ms(2)).await;
    }
    consumer.pause(&at(0)).unwrap();
    let record = next(&mut consumer).await;
    consumer.resume(&at(0)).unwrap();
    // The record in hand is of the partition that has to go.
    broker.group().give(1, &[0], &[1], None);
    while consumer.assignment().len() > 1 {
        tokio::time::sleep(ms(2)).await;
    }
    assert!(!log.lock().unwrap().iter().any(|(what, _)| *what == "revoked"));
    let released = |told: &Told| told.beats.iter().any(|beat| owned(beat) == Some(vec![0]));
    assert!(!released(&broker.group().told()));
    let after = next(&mut consumer).await;
    assert_eq!(after.partition.0, 0);
    until(&broker, "a release", released).await;
    assert_eq!(broker.group().told().committed[&1], record.offset.get() + 1);
    assert!(log.lock().unwrap().contains(&("revoked", vec![1])));
    // The rest of what was read of it is not handed out.
    broker.group().give(2, &[0], &[], None);
    for _ in after.offset.get() + 1..3 {
        assert_eq!(next(&mut consumer).await.partition.0, 0);
    }
    assert_eq!(
        consumer.commit_through(&record).await.unwrap_err().lost(),
        [TopicPartition {
            topic_id: TopicId::from_bytes([0; 16]),
            ..at(1)
        }]
    );
}

#[tokio::test]
async fn a_commit_in_an_old_epoch_is_made_again_after_the_next_heartbeat() {
    let broker = broker(1, 3).await;
    broker.group().give(1, &[0], &[], None);
    let (mut consumer, _) = consumer(&broker, AutoCommit::Off).await;
    next(&mut consumer).await;
    broker
        .group()
        .told()
        .refuse_commits
        .push_back(ErrorCode::StaleMemberEpoch);
    assert!(consumer.commit().await.unwrap().is_some());
    let told = broker.group().told();
    assert_eq!(told.commits.len(), 2);
    assert_eq!(told.committed[&0], 1);
}

#[tokio::test]
async fn a_commit_of_a_partition_that_went_meanwhile_says_which_is_lost() {
    let broker = broker(2, 3).await;
    broker.group().give(1, &[0, 1], &[], None);
    let (mut consumer, log) = consumer(&broker, AutoCommit::Off).await;
    for _ in 0..3 {
        next(&mut consumer).await;
    }
    broker
        .group()
        .told()
        .refuse_commits
        .push_back(ErrorCode::FencedMemberEpoch);
    broker.group().give(2, &[0], &[], None);
    let error = consumer.commit().await.unwrap_err();
    assert_eq!(error.lost(), [at(1)]);
    assert_eq!(error.to_string(), "not held any more: orders/1");
    assert!(!error.may_have_taken_effect());
    assert!(log.lock().unwrap().contains(&("lost", vec![1])));
    consumer.commit().await.unwrap();
    assert!(!broker.group().told().committed.contains_key(&1));
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_may_have_been_kept_also_if_its_partition_went_meanwhile() {
    let mut attempts = 0;
    let broker = FakeBroker::start(1, move |_, body| match body {
        RequestBody::CommitOffsets(_) => {
            attempts += 1;
            match attempts {
                1 => Act::ServeAndHangUp,
                _ => Act::Answer(Box::new(ResponseBody::Error(refusal(
                    ErrorCode::FencedMemberEpoch,
                )))),
            }
        }
        _ => Act::Serve,
    })
    .await;
    broker.group().give(1, &[0], &[], None);
    let producer = broker.client().await.producer().build().await.unwrap();
    producer.send(order("0")).await.unwrap();
    let (mut consumer, _) = consumer(&broker, AutoCommit::Off).await;
    next(&mut consumer).await;
    let moves = async {
        until(&broker, "the commit", |told| told.committed.contains_key(&0)).await;
        broker.group().give(2, &[], &[], None);
    };
    let (committed, ()) = tokio::join!(consumer.commit(), moves);
    let error = committed.unwrap_err();
    assert_eq!(error.lost(), [at(0)]);
    assert!(error.may_have_taken_effect(), "{error}");
    assert_eq!(
        error.to_string(),
        "not held any more: orders/0; an answer was lost, so it may have been kept"
    );
}

#[tokio::test]
async fn a_consumer_that_the_group_removed_closes_at_once_and_says_what_it_lost() {
    for auto_commit in [AutoCommit::Off, AutoCommit::default()] {
        let gone = Arc::new(AtomicUsize::new(0));
        let is_gone = gone.clone();
        let broker = FakeBroker::start(1, move |_, body| match body {
            RequestBody::GroupHeartbeat(_) | RequestBody::CloseConsumer(_)
                if is_gone.load(Ordering::SeqCst) > 0 =>
            {
                Act::Answer(Box::new(ResponseBody::Error(refusal(ErrorCode::UnknownMemberId))))
            }
            _ => Act::Serve,
        })
        .await;
        broker.group().give(1, &[0], &[], None);
        let producer = broker.client().await.producer().build().await.unwrap();
        for n in 0..2 {
            producer.send(order(n.to_string())).await.unwrap();
        }
        let (mut consumer, _) = consumer(&broker, auto_commit).await;
        next(&mut consumer).await;
        next(&mut consumer).await;
        gone.store(1, Ordering::SeqCst);
        // The request timeout is 30 s.
        let closed = tokio::time::timeout(Duration::from_secs(10), consumer.close()).await;
        match (closed.expect("closed at once"), auto_commit) {
            (Ok(()), AutoCommit::Off) => {}
            (Err(error), AutoCommit::AfterProcessing { .. }) => assert_eq!(error.lost(), [at(0)]),
            (closed, _) => panic!("{auto_commit:?}: {closed:?}"),
        }
    }
}

#[tokio::test]
async fn a_member_that_the_group_removed_loses_everything_and_joins_as_another() {
    for code in [ErrorCode::UnknownMemberId, ErrorCode::FencedMemberEpoch] {
        let broker = broker(1, 3).await;
        broker.group().give(1, &[0], &[], None);
        let (mut consumer, log) = consumer(&broker, AutoCommit::Off).await;
        let record = next(&mut consumer).await;
        let first = broker.group().told().beats[0].member_id.clone();
        broker.group().refuse(code);
        until(&broker, "another member", |told| {
            told.beats.iter().any(|beat| beat.member_id != first)
        })
        .await;
        // Nothing was committed: the same record comes again, under a claim of its own.
        assert_eq!(next(&mut consumer).await.offset, record.offset);
        assert_eq!(
            consumer.commit_through(&record).await.unwrap_err().lost(),
            [at(0)]
        );
        let told = broker.group().told();
        assert_eq!(told.commits.len(), 0);
        let again = told.beats.iter().find(|beat| beat.member_id != first).unwrap();
        assert_eq!((again.member_epoch, owned(again)), (0, Some(vec![])));
        assert!(again.subscription.is_some());
        let expected = [("assigned", vec![0]), ("lost", vec![0]), ("assigned", vec![0])];
        assert_eq!(*log.lock().unwrap(), expected);
    }
}

#[tokio::test]
async fn a_static_member_that_was_replaced_ends_with_an_error() {
    let broker = broker(1, 0).await;
    broker.group().give(1, &[0], &[], None);
    let (mut consumer, log) = consumer(&broker, SOON).await;
    broker.group().refuse(ErrorCode::FencedInstanceId);
    let error = consumer.next().await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::FencedInstanceId));
    assert!(consumer.next().await.is_none());
    assert_eq!(consumer.state(), ConsumerState::Ended);
    while log.lock().unwrap().last() != Some(&("lost", vec![0])) {
        tokio::time::sleep(ms(2)).await;
    }
    consumer.close().await.unwrap();
    assert_eq!(broker.group().told().closed.len(), 0);
}

#[tokio::test]
async fn over_a_lost_connection_a_member_stays_who_it_is_and_where_it_is() {
    let cut = Arc::new(AtomicUsize::new(0));
    let hang_up = cut.clone();
    let broker = FakeBroker::start(1, move |_, body| match body {
        RequestBody::GroupHeartbeat(_) if hang_up.swap(0, Ordering::SeqCst) > 0 => Act::HangUp,
        _ => Act::Serve,
    })
    .await;
    broker.group().give(1, &[0], &[], None);
    let producer = broker.client().await.producer().build().await.unwrap();
    for n in 0..4 {
        producer.send(order(n.to_string())).await.unwrap();
    }
    let (mut consumer, log) = consumer(&broker, AutoCommit::Off).await;
    assert_eq!(next(&mut consumer).await.offset, offset(0));
    let before = broker.group().told().beats.len();
    cut.store(1, Ordering::SeqCst);
    until(&broker, "a full heartbeat", |told| {
        told.beats[before..].iter().any(|beat| beat.owned.is_some())
    })
    .await;
    for expected in 1..4 {
        assert_eq!(next(&mut consumer).await.offset, offset(expected));
    }
    consumer.commit().await.unwrap();
    let told = broker.group().told();
    assert!(
        told.beats
            .iter()
            .all(|beat| beat.member_id == told.beats[0].member_id)
    );
    let full = told.beats[before..]
        .iter()
        .find(|beat| beat.owned.is_some())
        .unwrap();
    assert_eq!((full.member_epoch, owned(full)), (1, Some(vec![0])));
    assert_eq!(told.committed[&0], 4);
    assert_eq!(*log.lock().unwrap(), [("assigned", vec![0])]);
}

#[tokio::test]
async fn fetches_are_made_as_the_member_and_go_on_after_a_refusal() {
    let refusals = Arc::new(AtomicUsize::new(3));
    let left = refusals.clone();
    let members = Arc::new(Mutex::new(Vec::new()));
    let seen = members.clone();
    let broker = FakeBroker::start(1, move |_, body| {
        let RequestBody::Fetch(fetch) = body else {
            return Act::Serve;
        };
        seen.lock()
            .unwrap()
            .push((fetch.group.clone(), fetch.member.clone().unwrap()));
        let refused = |left: usize| left.checked_sub(1);
        if left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, refused)
            .is_err()
        {
            return Act::Serve;
        }
        answer(ResponseBody::Fetch(pb::FetchResponse {
            partitions: vec![pb::FetchedPartition {
                error: Some(refusal(ErrorCode::StaleMemberEpoch)),
                ..Default::default()
            }],
        }))
    })
    .await;
    broker.group().give(4, &[0], &[], None);
    let producer = broker.client().await.producer().build().await.unwrap();
    producer.send(order("1")).await.unwrap();
    let (mut consumer, _) = consumer(&broker, AutoCommit::Off).await;
    assert_eq!(next(&mut consumer).await.offset, offset(0));
    let members = members.lock().unwrap();
    assert!(members.len() >= 4);
    let (group, member) = &members[0];
    assert_eq!((group.as_str(), member.member_epoch), ("billing", 4));
    assert_eq!(member.member_id, broker.group().told().beats[0].member_id);
}

#[tokio::test]
async fn a_paused_partition_hands_out_nothing_and_a_seek_moves_the_group() {
    let broker = broker(2, 3).await;
    broker.group().give(1, &[0, 1], &[], None);
    let (mut consumer, _) = consumer(&broker, AutoCommit::Off).await;
    while consumer.position(&at(0)).is_none() || consumer.position(&at(1)).is_none() {
        tokio::time::sleep(ms(2)).await;
    }
    consumer.pause(&at(1)).unwrap();
    for n in 0..3 {
        let record = next(&mut consumer).await;
        assert_eq!((record.partition.0, record.offset), (0, offset(n)));
    }
    consumer.seek(&at(0), offset(2)).unwrap();
    assert_eq!(next(&mut consumer).await.offset, offset(2));
    consumer.resume(&at(1)).unwrap();
    assert_eq!(next(&mut consumer).await.partition.0, 1);
    consumer.commit().await.unwrap();
    assert_eq!(broker.group().told().committed, [(0, 3), (1, 1)].into());
    assert!(consumer.seek(&at(7), offset(0)).is_err());
}

#[tokio::test]
async fn without_anything_to_read_it_is_not_built_and_refusals_are_told() {
    let broker = broker(1, 0).await;
    let client = broker.client().await;
    let nothing = client.group_consumer("billing").build().await.unwrap_err();
    assert!(matches!(nothing, Error::Usage(_)), "{nothing}");
    broker.group().refuse(ErrorCode::GroupFull);
    let full = client.group_consumer("billing").topics(["orders"]).build().await;
    assert_eq!(full.unwrap_err().code(), Some(ErrorCode::GroupFull));
}

/// A consumer whose hook for what is handed over waits until it may go on.
async fn hesitant(broker: &FakeBroker) -> (GroupConsumer, Log, Arc<tokio::sync::Notify>) {
    let (log, go) = (Log::default(), Arc::new(tokio::sync::Notify::new()));
    let note = |what: &'static str| {
        let log = log.clone();
        move |partitions: Vec<TopicPartition>, _: GroupHandle| {
            log.lock().unwrap().push((what, indexes(&partitions)));
            std::future::ready(())
        }
    };
    let (revoked, goes) = (log.clone(), Arc::clone(&go));
    let consumer = broker.client().await.group_consumer("billing");
    let consumer = consumer.topics(["orders"]).reset(Reset::Earliest);
    let consumer = consumer.on_assigned(note("assigned")).on_lost(note("lost"));
    let consumer = consumer.on_revoked(move |partitions, _| {
        revoked.lock().unwrap().push(("revoked", indexes(&partitions)));
        let goes = Arc::clone(&goes);
        async move { goes.notified().await }
    });
    (consumer.build().await.unwrap(), log, go)
}

/// Waits until the member has heard what the group tells now.
async fn hears(broker: &FakeBroker, what: &str) {
    let revision = broker.group().told().membership.revision;
    until(broker, what, |told| {
        told.beats.last().unwrap().revision == revision
    })
    .await;
}

async fn heard(log: &Log, what: (&'static str, &[u32])) {
    let is_there = || {
        log.lock()
            .unwrap()
            .iter()
            .any(|(name, of)| (*name, of.as_slice()) == what)
    };
    let heard = async {
        while !is_there() {
            tokio::time::sleep(ms(2)).await;
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(20), heard).await;
    came.unwrap_or_else(|_| panic!("never {what:?}: {log:?}"));
}

#[tokio::test]
async fn what_was_lost_while_it_was_handed_over_and_is_given_anew_is_read() {
    let broker = broker(1, 3).await;
    broker.group().give(1, &[0], &[], None);
    let (mut consumer, log, go) = hesitant(&broker).await;
    assert_eq!(next(&mut consumer).await.offset, offset(0));
    assert_eq!(next(&mut consumer).await.offset, offset(1));
    broker.group().give(1, &[], &[0], None);
    hears(&broker, "the revocation").await;
    // So that nothing of it is in hand.
    assert!(tokio::time::timeout(ms(200), consumer.next()).await.is_err());
    heard(&log, ("revoked", &[0])).await;
    broker.group().give(3, &[0], &[], None);
    broker.group().refuse(ErrorCode::UnknownMemberId);
    until(&broker, "a new member", |told| {
        let id = &told.beats[0].member_id;
        told.beats
            .iter()
            .any(|beat| beat.member_id != *id && beat.member_epoch == 3)
    })
    .await;
    go.notify_one();
    assert_eq!(
        next(&mut consumer).await.offset,
        offset(0),
        "nothing was committed"
    );
    go.notify_one();
    let log = log.lock().unwrap().clone();
    assert_eq!(
        log,
        [("assigned", vec![0]), ("revoked", vec![0]), ("assigned", vec![0])]
    );
}

#[tokio::test]
async fn a_program_hears_of_the_end_of_what_it_was_told_that_it_has_and_of_no_other() {
    let broker = broker(3, 1).await;
    broker.group().give(1, &[0], &[], None);
    let (consumer, log, go) = hesitant(&broker).await;
    heard(&log, ("assigned", &[0])).await;
    broker.group().give(1, &[], &[0], None);
    heard(&log, ("revoked", &[0])).await;
    // While the hook is at it, two come and go again: one in peace, one is lost.
    broker.group().give(2, &[1, 2], &[], None);
    hears(&broker, "epoch 2").await;
    broker.group().give(2, &[2], &[1], None);
    hears(&broker, "the revocation").await;
    broker.group().give(4, &[], &[], None);
    hears(&broker, "the loss").await;
    go.notify_one();
    broker.group().give(5, &[0], &[], None);
    hears(&broker, "epoch 5").await;
    let all = async {
        while log.lock().unwrap().len() < 3 {
            tokio::time::sleep(ms(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
    go.notify_one();
    consumer.close().await.unwrap();
    let log = log.lock().unwrap().clone();
    assert_eq!(
        log,
        [
            ("assigned", vec![0]),
            ("revoked", vec![0]),
            ("assigned", vec![0]),
            ("revoked", vec![0])
        ]
    );
}

#[tokio::test]
async fn where_the_group_has_no_place_a_seek_says_one() {
    let broker = broker(2, 3).await;
    broker.group().told().committed.insert(1, 2);
    broker.group().give(1, &[0, 1], &[], None);
    let consumer = broker.client().await.group_consumer("billing");
    let mut consumer = consumer.topics(["orders"]).build().await.unwrap();
    let mut told = None;
    let mut read = Vec::new();
    while told.is_none() || read.is_empty() {
        let next = tokio::time::timeout(Duration::from_secs(20), consumer.next()).await;
        match next.unwrap().unwrap() {
            Ok(record) => read.push((record.partition.0, record.offset)),
            Err(error) => told = Some(error),
        }
    }
    assert!(
        matches!(&told, Some(Error::NoPlace(place)) if place.partition.0 == 0),
        "{told:?}"
    );
    assert_eq!(read, [(1, offset(2))]);
    consumer.seek(&at(0), offset(1)).unwrap();
    for expected in [1, 2] {
        let record = next(&mut consumer).await;
        assert_eq!((record.partition.0, record.offset), (0, offset(expected)));
    }
}

#[tokio::test]
async fn a_late_refusal_of_an_old_epoch_does_not_reset_a_newer_one() {
    let broker = broker(1, 3).await;
    broker.group().give(1, &[0], &[], None);
    let (mut consumer, log) = consumer(&broker, AutoCommit::Off).await;
    next(&mut consumer).await;
    // What was said of epoch 1 is heard when the member is in epoch 2 already.
    broker.group().give(2, &[0], &[], None);
    until(&broker, "the new epoch", |told| {
        told.beats.iter().any(|beat| beat.member_epoch == 2)
    })
    .await;
    for code in [ErrorCode::FencedMemberEpoch, ErrorCode::UnknownMemberId] {
        broker.group().told().refuse_commits.push_back(code);
    }
    consumer.commit().await.unwrap();
    let told = broker.group().told();
    assert_eq!(told.commits.len(), 3);
    let ids = told.beats.iter().map(|beat| &beat.member_id);
    let ids: std::collections::BTreeSet<_> = ids.collect();
    assert_eq!(ids.len(), 1, "it stays who it is");
    assert_eq!(*log.lock().unwrap(), [("assigned", vec![0])], "nothing is lost");
}

#[tokio::test]
async fn batches_are_a_stream_as_well() {
    use futures_core::Stream as _;
    let broker = broker(1, 3).await;
    broker.group().give(1, &[0], &[], None);
    let (mut consumer, _) = consumer(&broker, AutoCommit::Off).await;
    let mut next = 0;
    while next < 3 {
        let mut batches = consumer.batches();
        let polled = std::future::poll_fn(|context| std::pin::Pin::new(&mut batches).poll_next(context));
        let batch = tokio::time::timeout(Duration::from_secs(20), polled).await;
        let batch = batch.expect("a batch").unwrap().unwrap();
        assert_eq!(batch.batch.header.base_offset.get(), next);
        next = batch.batch.header.last_offset().get() + 1;
    }
}
