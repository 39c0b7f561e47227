//! Fetch: what is seen, how much, and when a parked one is answered. No clock but tokio's paused one passes here.

use super::*;
use crate::api::DeleteTopic;
use crate::model::PartitionKey;
use crate::rt::BoxFuture;
use crate::storage::{Class, LogConfig, Placed, Step};

const WAIT: Duration = Duration::from_secs(20);
/// Long enough for everything that is ready, far below [`WAIT`].
const MOMENT: Duration = Duration::from_secs(1);

fn later(outcome: Outcome) -> BoxFuture<'static, Reply> {
    match outcome {
        Outcome::Later(future) => future,
        other => panic!("{other:?}"),
    }
}

/// Polls until nothing happens any more; the answer if there is one.
async fn look(future: &mut BoxFuture<'static, Reply>) -> Option<Reply> {
    tokio::time::timeout(MOMENT, future).await.ok()
}

#[test]
fn steps_over_several_partitions_are_seen_whole_or_not_at_all() {
    let rig = Rig::manual();
    let id = rig.create("t", 2);
    let config = LogConfig {
        segment_bytes: 1 << 20,
        index_interval_bytes: 4096,
        segment_ms: u64::MAX,
        segment_jitter_ms: 0,
        memory_bytes: None,
    };
    let place = |index| {
        let key = PartitionKey {
            topic: id,
            partition: PartitionId(index),
        };
        let mut batch = crate::record::validate(batch(2, None), 1 << 20).unwrap();
        batch.stamp(Offset::ZERO, rig.store.leader_epoch());
        Placed {
            log: rig.store.open(key, config),
            base: Offset::ZERO,
            batch,
            append_time: START,
        }
    };
    let step = Step {
        appends: (0..2).map(place).collect(),
        trims: smallvec::SmallVec::new(),
        deletions: smallvec::SmallVec::new(),
    };
    let permit = rig.store.permit(1 << 10, Class::Internal).unwrap();
    let lsn = rig.store.submit(permit, step).unwrap();
    let both = || {
        let all = fetch(FetchForm::Raw, Duration::ZERO, &[("t", 0, 0), ("t", 1, 0)]);
        let ends = fetched(rig.ask(all)).into_iter();
        ends.map(|part| part.unwrap().next_offset.get())
            .collect::<Vec<_>>()
    };
    assert_eq!(both(), [0, 0]);
    rig.store.make_durable(lsn);
    assert_eq!(both(), [2, 2]);
}

#[test]
fn raw_batches_come_back_byte_for_byte_but_for_the_stamp() {
    let rig = Rig::new();
    rig.create("t", 1);
    assert!(rig.produce(Acks::Fsync, raw("t", 2)).1.is_ok());
    assert!(rig.produce(Acks::Fsync, raw("t", 3)).1.is_ok());
    // From the middle of the second batch: the whole batch comes.
    let part = rig.read("t", 3).unwrap();
    let FetchPayload::Raw(extents) = &part.payload else {
        panic!("{part:?}");
    };
    let bytes = extents.concat();
    assert_eq!(bytes[..8], 2_i64.to_be_bytes());
    assert_eq!(bytes[16..], batch(3, None)[16..]);
    assert_eq!((part.next_offset, part.high_watermark), (offset(5), offset(5)));
}

#[test]
fn structured_records_begin_at_the_offset_asked_for() {
    let rig = Rig::new();
    rig.create("t", 1);
    for values in [["a", "b", "c"], ["d", "e", "f"]] {
        assert!(rig.produce(Acks::Fsync, structured("t", &values, None)).1.is_ok());
    }
    let all = fetched(rig.ask(fetch(FetchForm::Structured, Duration::ZERO, &[("t", 0, 1)])));
    let part = all[0].as_ref().unwrap();
    let expected = [(1, "b"), (2, "c"), (3, "d"), (4, "e"), (5, "f")];
    assert_eq!(values(part), expected.map(|(o, v)| (o, v.to_owned())));
    assert_eq!(part.next_offset, offset(6));
}

#[test]
fn a_structured_answer_stops_at_its_limit_and_goes_on_from_there() {
    let settings = Settings {
        fetch_structured_bytes_max: 200,
        ..Settings::default()
    };
    let rig = Rig::with(MemoryOptions::default(), settings);
    rig.create("t", 2);
    let large = "x".repeat(500);
    let records = ["a", "b", "c", "d", "e", "f", &large, "h"];
    assert!(
        rig.produce(Acks::Fsync, structured("t", &records, None))
            .1
            .is_ok()
    );
    let (mut seen, mut next, mut turns) = (Vec::new(), 0, 0);
    while next < 8 {
        let asked = fetch(FetchForm::Structured, WAIT, &[("t", 0, next), ("t", 0, 0)]);
        let all = fetched(rig.ask(asked));
        let part = all[0].as_ref().unwrap();
        assert!(part.next_offset.get() > next, "no progress at {next}");
        // Whatever the second one still got, the answer as a whole is bounded.
        assert!(values(all[1].as_ref().unwrap()).len() <= 5);
        seen.extend(values(part).into_iter().map(|(_, value)| value));
        next = part.next_offset.get();
        turns += 1;
    }
    assert_eq!(seen, records);
    assert!(turns >= 3);
}

#[test]
fn max_bytes_is_shared_in_the_order_asked_and_the_first_batch_always_comes() {
    let rig = Rig::new();
    rig.create("t", 3);
    let size = u32::try_from(batch(10, None).len()).unwrap();
    for partition in [1, 2] {
        for _ in 0..3 {
            let item = ProducePartition {
                partition: named("t", partition),
                ..raw("t", 10)
            };
            assert!(rig.produce(Acks::Fsync, item).1.is_ok());
        }
    }
    let read = |max_bytes| {
        let asked = fetch(FetchForm::Raw, WAIT, &[("t", 0, 0), ("t", 1, 0), ("t", 2, 0)]);
        let Request::Fetch(asked) = asked else {
            unreachable!()
        };
        let all = rig.ask(Request::Fetch(Fetch { max_bytes, ..asked }));
        let parts = fetched(all).into_iter();
        parts
            .map(|part| part.unwrap().next_offset.get())
            .collect::<Vec<_>>()
    };
    assert_eq!(read(1), [0, 10, 0]);
    assert_eq!(read(2 * size), [0, 20, 0]);
    assert_eq!(read(4 * size), [0, 30, 10]);
    assert_eq!(read(0), [0, 30, 30]);
    assert_eq!(read(1 << 31), [0, 30, 30]);
}

#[test]
fn offsets_out_of_range_are_refused_with_the_bounds() {
    let rig = Rig::new();
    rig.create("t", 1);
    assert!(rig.produce(Acks::Fsync, raw("t", 3)).1.is_ok());
    for bad in [-1, i64::MIN, 4, i64::MAX] {
        let error = rig.read("t", bad).unwrap_err();
        assert_eq!(error.code, ErrorCode::OffsetOutOfRange, "{bad}");
        assert_eq!(error.details.log_start_offset, Some(offset(0)));
        assert_eq!(error.details.high_watermark, Some(offset(3)));
    }
    assert_eq!(rig.read("t", 3).unwrap().next_offset, offset(3));
}

#[test]
fn too_many_partitions_and_old_epochs_are_refused() {
    let rig = Rig::new();
    rig.create("t", 1);
    let many = vec![("t", 0, 0); 100_000];
    let error = rig.ask(fetch(FetchForm::Raw, WAIT, &many)).unwrap_err();
    assert_eq!(error.code, ErrorCode::TooManyElements);
    let Request::Fetch(mut asked) = fetch(FetchForm::Raw, WAIT, &[("t", 0, 0)]) else {
        unreachable!()
    };
    asked.partitions[0].leader_epoch = Some(crate::model::LeaderEpoch(0));
    let error = fetched(rig.ask(Request::Fetch(asked))).remove(0).unwrap_err();
    assert_eq!(error.code, ErrorCode::NotOwner);
}

#[tokio::test(start_paused = true)]
async fn a_parked_fetch_is_woken_by_a_durable_append_to_any_of_its_partitions() {
    let rig = Rig::manual();
    rig.create("t", 2);
    let asked = fetch(FetchForm::Raw, WAIT, &[("t", 0, 0), ("t", 1, 0)]);
    let mut parked = later(rig.broker.receive(asked));
    assert_eq!(look(&mut parked).await, None);
    let item = ProducePartition {
        partition: named("t", 1),
        ..raw("t", 2)
    };
    let (lsn, _) = rig.produce(Acks::Fsync, item);
    assert_eq!(look(&mut parked).await, None, "seen before it is durable");
    rig.store.make_durable(lsn);
    let all = fetched(look(&mut parked).await.unwrap());
    assert_eq!(all[0].as_ref().unwrap().next_offset, offset(0));
    assert_eq!(all[1].as_ref().unwrap().next_offset, offset(2));
}

#[tokio::test(start_paused = true)]
async fn what_becomes_durable_before_the_first_poll_is_not_missed() {
    let rig = Rig::manual();
    rig.create("t", 1);
    let mut parked = later(rig.broker.receive(fetch(FetchForm::Raw, WAIT, &[("t", 0, 0)])));
    let (lsn, _) = rig.produce(Acks::Fsync, raw("t", 2));
    rig.store.make_durable(lsn);
    let all = fetched(look(&mut parked).await.unwrap());
    assert_eq!(all[0].as_ref().unwrap().next_offset, offset(2));
}

#[tokio::test(start_paused = true)]
async fn a_fetch_waits_for_min_bytes_and_answers_with_less_when_the_time_is_up() {
    let rig = Rig::new();
    rig.create("t", 1);
    let size = u32::try_from(batch(2, None).len()).unwrap();
    let Request::Fetch(asked) = fetch(FetchForm::Raw, WAIT, &[("t", 0, 0)]) else {
        unreachable!()
    };
    let asked = Fetch {
        min_bytes: 3 * size,
        ..asked
    };
    let mut parked = later(rig.broker.receive(Request::Fetch(asked.clone())));
    for _ in 0..2 {
        assert_eq!(look(&mut parked).await, None);
        assert!(rig.produce(Acks::Fsync, raw("t", 2)).1.is_ok());
    }
    let mut early = later(rig.broker.receive(Request::Fetch(asked)));
    assert_eq!(look(&mut early).await, None);
    // Its time is up: it comes with what there is.
    let all = fetched(tokio::time::timeout(WAIT, &mut parked).await.unwrap());
    assert_eq!(all[0].as_ref().unwrap().next_offset, offset(4));
    assert!(rig.produce(Acks::Fsync, raw("t", 2)).1.is_ok());
    let all = fetched(early.await);
    assert_eq!(all[0].as_ref().unwrap().next_offset, offset(6));
}

#[tokio::test(start_paused = true)]
async fn the_longest_wait_is_bounded() {
    let rig = Rig::new();
    rig.create("t", 1);
    let wait = Duration::from_millis(1 << 31);
    let parked = later(rig.broker.receive(fetch(FetchForm::Raw, wait, &[("t", 0, 0)])));
    let bound = rig.settings.fetch_wait_max + MOMENT;
    let all = fetched(tokio::time::timeout(bound, parked).await.unwrap());
    assert_eq!(all[0].as_ref().unwrap().next_offset, offset(0));
}

#[tokio::test(start_paused = true)]
async fn an_error_of_any_partition_is_enough() {
    let rig = Rig::new();
    rig.create("t", 1);
    let asked = fetch(FetchForm::Raw, WAIT, &[("t", 0, 0), ("t", 1, 0), ("t", 0, 9)]);
    let all = fetched(rig.ask(asked));
    assert!(all[0].is_ok());
    let codes: Vec<_> = all.into_iter().skip(1).map(code).collect();
    assert_eq!(
        codes,
        [ErrorCode::UnknownTopicOrPartition, ErrorCode::OffsetOutOfRange]
    );
}

#[tokio::test(start_paused = true)]
async fn deleting_the_topic_wakes_a_parked_fetch_once_the_deletion_is_durable() {
    let rig = Rig::manual();
    rig.create("t", 2);
    let asked = fetch(FetchForm::Raw, WAIT, &[("t", 0, 0), ("t", 1, 0)]);
    let mut parked = later(rig.broker.receive(asked));
    assert_eq!(look(&mut parked).await, None);
    let delete = Request::DeleteTopic(DeleteTopic {
        name: "t".to_owned(),
        id: None,
    });
    let (lsn, reply) = waits(rig.broker.receive(delete));
    assert!(reply.is_ok() && lsn > rig.durable());
    assert_eq!(
        look(&mut parked).await,
        None,
        "a crash could still take the deletion back"
    );
    let (waits_for, refused) = rig.produce(Acks::Fsync, raw("t", 1));
    assert_eq!(
        (waits_for, code(refused)),
        (lsn, ErrorCode::UnknownTopicOrPartition)
    );
    rig.store.make_durable(lsn);
    for part in fetched(look(&mut parked).await.unwrap()) {
        assert_eq!(code(part), ErrorCode::UnknownTopicOrPartition);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_that_a_topic_is_gone_before_its_deletion_is_durable() {
    let rig = Rig::manual();
    rig.create("t", 1);
    let asked = fetch(FetchForm::Raw, WAIT, &[("t", 0, 0)]);
    // Looked up before the deletion, looked at behind it.
    let mut parked = later(rig.broker.receive(asked.clone()));
    let delete = Request::DeleteTopic(DeleteTopic {
        name: "t".to_owned(),
        id: None,
    });
    let (lsn, _) = waits(rig.broker.receive(delete));
    assert_eq!(look(&mut parked).await, None);
    let (waits_for, reply) = waits(rig.broker.receive(asked));
    assert_eq!(waits_for, lsn);
    rig.store.make_durable(lsn);
    for reply in [reply, look(&mut parked).await.unwrap()] {
        assert_eq!(code(fetched(reply).remove(0)), ErrorCode::UnknownTopicOrPartition);
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_needs_the_disk_is_read_later() {
    let options = MemoryOptions {
        cold: true,
        ..MemoryOptions::default()
    };
    let rig = Rig::with(options, Settings::default());
    rig.create("t", 1);
    assert!(rig.produce(Acks::Fsync, raw("t", 2)).1.is_ok());
    for wait in [Duration::ZERO, WAIT] {
        let mut read = later(rig.broker.receive(fetch(FetchForm::Raw, wait, &[("t", 0, 1)])));
        let all = fetched(look(&mut read).await.unwrap());
        assert_eq!(all[0].as_ref().unwrap().next_offset, offset(2));
    }
    // At the end of the log there is nothing that a disk could add.
    assert_eq!(rig.read("t", 2).unwrap().next_offset, offset(2));
    let now = rig.broker.counters().now();
    assert_eq!(now.records_out, 2);
    assert_eq!(now.bytes_out, 2 * batch(2, None).len() as u64);
}
