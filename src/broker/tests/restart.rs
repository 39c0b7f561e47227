//! Restart: snapshots and the batches behind them give the same broker.

use super::*;
use crate::broker::RecoverError;
use crate::model::PartitionKey;
use crate::record::Batches;
use crate::storage::{LogConfig, PartitionLog, ReadSpec, Replay, Snapshot, SnapshotSource};

const CONFIG: LogConfig = LogConfig {
    segment_bytes: 1 << 20,
    index_interval_bytes: 4096,
    segment_ms: u64::MAX,
    segment_jitter_ms: 0,
    memory_bytes: None,
};

/// Everything durable of a partition, as recovery would hand it over.
pub(super) fn replay(store: &MemoryStore, key: PartitionKey, into: &mut Recovered) {
    let durable = store.durable().borrow().lsn;
    let spec = ReadSpec {
        from: Offset::ZERO,
        durable,
        max_bytes: u32::MAX,
        min_one: true,
    };
    let log = store.open(key, CONFIG);
    if log.bounds(durable).log_end == Offset::ZERO {
        return;
    }
    let out = log.try_read(&spec).unwrap().unwrap();
    for batch in Batches::new(out.extents.concat().into()) {
        let (header, bytes) = batch.unwrap();
        into.batch(key, &header, &bytes, START);
    }
}

/// A new broker over the same store, from these snapshots and all batches.
pub(super) fn restart(rig: Rig, snapshots: Vec<(PartitionKey, Snapshot)>, keys: &[PartitionKey]) -> Rig {
    let mut recovered = Recovered::new(&rig.settings);
    for (key, snapshot) in snapshots {
        recovered.snapshot(key, snapshot);
    }
    replay(&rig.store, PartitionKey::META, &mut recovered);
    replay(&rig.store, PartitionKey::GROUPS, &mut recovered);
    for key in keys {
        replay(&rig.store, *key, &mut recovered);
    }
    Rig::over(rig.store, recovered, rig.clock, rig.ids, rig.settings)
}

fn snapshots(rig: &Rig, key: PartitionKey) -> Vec<(PartitionKey, Snapshot)> {
    [PartitionKey::META, key]
        .into_iter()
        .filter_map(|key| rig.broker.snapshot(key).map(|snapshot| (key, snapshot)))
        .collect()
}

fn key(topic: TopicId) -> PartitionKey {
    PartitionKey {
        topic,
        partition: PartitionId(0),
    }
}

/// Five batches, of which three are in the snapshot; then a restart with and without it.
#[test]
fn duplicates_are_recognised_after_a_restart_with_their_old_places() {
    for with_snapshot in [true, false] {
        let rig = Rig::new();
        let topic = rig.create("t", 1);
        let producer = rig.init(None).unwrap();
        let mut places = Vec::new();
        let mut taken = Vec::new();
        for n in 0..7 {
            let (_, produced) = rig.produce(Acks::Fsync, sequenced("t", producer, n * 2, 2));
            places.push(offsets(&produced));
            if n == 3 && with_snapshot {
                taken = snapshots(&rig, key(topic));
                assert_eq!(taken.len(), 2);
            }
        }
        let rig = restart(rig, taken, &[key(topic)]);
        for n in 0..7 {
            let (_, again) = rig.produce(Acks::Fsync, sequenced("t", producer, n * 2, 2));
            let place = places[usize::try_from(n).unwrap()].filter(|_| n >= 2);
            assert_eq!(offsets(&again), place);
            let again = again.unwrap();
            assert!(again.duplicate);
            assert_eq!(again.durable_through, Some(rig.durable()));
        }
        let (_, next) = rig.produce(Acks::Fsync, sequenced("t", producer, 14, 1));
        assert_eq!(offsets(&next), Some((14, 14)));
        let (_, gap) = rig.produce(Acks::Fsync, sequenced("t", producer, 16, 1));
        assert_eq!(code(gap), ErrorCode::OutOfOrderSequence);
    }
}

#[test]
fn topics_and_producer_ids_go_on_where_they_were() {
    let rig = Rig::new();
    let kept = rig.create("kept", 3);
    let gone = rig.create("gone", 1);
    let producer = rig.init(None).unwrap();
    let taken = snapshots(&rig, key(gone));
    let delete = Request::DeleteTopic(crate::api::DeleteTopic {
        name: "gone".to_owned(),
        id: None,
    });
    assert!(rig.ask(delete).is_ok());
    rig.create("late", 1);
    let rig = restart(rig, taken, &[key(kept)]);
    assert_eq!(code(rig.read("gone", 0)), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(rig.visible("kept") + rig.visible("late"), 0);
    // The rest of the first block may have been handed out: the next begins behind it.
    let next = rig.init(None).unwrap();
    assert_eq!(next.id, ProducerId(1001));
    let (_, old) = rig.produce(Acks::Fsync, sequenced("kept", producer, 0, 1));
    assert_eq!(offsets(&old), Some((0, 0)));
}

#[test]
fn what_recovery_leaves_is_what_the_next_checkpoint_stores() {
    let rig = Rig::new();
    let topic = rig.create("t", 1);
    let producer = rig.init(None).unwrap();
    assert!(rig.produce(Acks::Fsync, sequenced("t", producer, 0, 2)).1.is_ok());
    let mut recovered = Recovered::new(&rig.settings);
    for at in [PartitionKey::META, key(topic)] {
        replay(&rig.store, at, &mut recovered);
        assert_eq!(recovered.replayed_snapshot(at), rig.broker.snapshot(at));
    }
    recovered.topic_deleted(topic);
    assert_eq!(recovered.replayed_snapshot(key(topic)), None);
}

#[test]
fn stored_state_that_cannot_be_understood_prevents_the_start() {
    let rig = Rig::new();
    let bad = Snapshot {
        covers: Offset::ZERO,
        blob: Bytes::from_static(&[0x0a, 0x05, 0x01]),
    };
    let key = key(TopicId::from_bytes([5; 16]));
    for at in [PartitionKey::META, PartitionKey::GROUPS, key] {
        let mut recovered = Recovered::new(&rig.settings);
        recovered.snapshot(at, bad.clone());
        let failed = recovered.finish().map(|_| ()).unwrap_err();
        match failed {
            RecoverError::Snapshot { of: "__meta", .. } => assert_eq!(at, PartitionKey::META),
            RecoverError::Snapshot { .. } => assert_eq!(at, PartitionKey::GROUPS),
            RecoverError::Producers { key: of, .. } => assert_eq!(of, at),
            other => panic!("{other:?}"),
        }
    }
    let mut recovered = Recovered::new(&rig.settings);
    let header = crate::record::BatchHeader::parse(&batch(1, None)).unwrap();
    recovered.batch(PartitionKey::META, &header, &batch(1, None), START);
    let failed = recovered.finish().map(|_| ()).unwrap_err();
    assert!(
        matches!(failed, RecoverError::Record { of: "__meta", offset, .. } if offset == Offset::ZERO),
        "{failed:?}"
    );
}
