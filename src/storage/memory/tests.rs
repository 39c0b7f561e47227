//! What both engines with logs in memory promise, over both; then what is particular to topics beside another engine.

use std::future::Future;
use std::task::{Context, Poll, Waker};

use super::log::BATCH_OVERHEAD_BYTES;
use super::reserved::RESERVED_AHEAD;
use super::*;
use crate::model::{Lsn, Offset, PartitionId, PartitionKey, Timestamp, TopicId};
use crate::record::{BatchBuilder, Codec, SealedBatch, validate};
use crate::rt::BoxFuture;
use crate::storage::{
    Backpressure, Class, LogCaps, LogConfig, LogStore, PartitionLog, Permit, Placed, ReadError, ReadSpec,
    Step, SubmitError, Trim,
};
use std::sync::Arc;
use tokio::sync::{Notify, watch};

const BOUND: u64 = 64 << 10;

const CONFIG: LogConfig = LogConfig {
    segment_bytes: 1 << 20,
    index_interval_bytes: 4096,
    segment_ms: u64::MAX,
    segment_jitter_ms: 0,
    memory_bytes: Some(BOUND),
};

fn key(topic: u8) -> PartitionKey {
    PartitionKey {
        topic: TopicId::from_bytes([topic; 16]),
        partition: PartitionId(0),
    }
}

fn o(n: i64) -> Offset {
    Offset::new(n).unwrap()
}

/// An engine that several share: a restart leaves the one below, and a simulation drives it.
#[derive(Debug)]
pub(crate) struct Shared<S>(pub(crate) Arc<S>);

impl<S> Clone for Shared<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: LogStore> LogStore for Shared<S> {
    type Log = S::Log;

    fn caps(&self) -> LogCaps {
        self.0.caps()
    }

    fn leader_epoch(&self) -> crate::model::LeaderEpoch {
        self.0.leader_epoch()
    }

    fn permit(&self, bytes: u64, class: Class) -> Result<Permit, Backpressure> {
        self.0.permit(bytes, class)
    }

    fn split_permit(&self, permit: &mut Permit, bytes: u64) -> Option<Permit> {
        self.0.split_permit(permit, bytes)
    }

    fn permit_freed(&self) -> BoxFuture<'static, ()> {
        self.0.permit_freed()
    }

    fn submit(&self, permit: Permit, step: Step<S::Log>) -> Result<Lsn, SubmitError> {
        self.0.submit(permit, step)
    }

    fn health(&self) -> crate::model::StorageHealth {
        self.0.health()
    }

    fn durable(&self) -> watch::Receiver<crate::model::DurableState> {
        self.0.durable()
    }

    fn failed(&self) -> watch::Receiver<bool> {
        self.0.failed()
    }

    fn open(&self, key: PartitionKey, config: LogConfig) -> Arc<S::Log> {
        let kept = LogConfig {
            memory_bytes: None,
            ..config
        };
        self.0.open(key, kept)
    }
}

/// The other engine, durable at once or when told so.
fn kept(durable_at_once: bool) -> Shared<MemoryStore> {
    Shared(Arc::new(MemoryStore::new(MemoryOptions {
        durable_at_once,
        ..MemoryOptions::default()
    })))
}

fn batch(records: u32, bytes: usize, codec: Option<Codec>, time: i64) -> SealedBatch {
    let mut builder = BatchBuilder::new();
    for _ in 0..records {
        builder.push(Timestamp(time), None, Some(&vec![7; bytes]), &[]);
    }
    match codec {
        None => builder.seal(None),
        Some(codec) => validate(builder.compressed(codec).finish(None), u32::MAX).unwrap(),
    }
}

/// Appends at the end.
fn append<S: LogStore>(store: &S, log: &Arc<S::Log>, mut batch: SealedBatch) -> Result<Lsn, SubmitError> {
    let base = log.bounds(Lsn::ZERO).log_end;
    batch.stamp(base, store.leader_epoch());
    let permit = store
        .permit(u64::from(batch.total_bytes()), Class::Produce)
        .unwrap();
    store.submit(
        permit,
        Step::append(Placed {
            log: Arc::clone(log),
            base,
            batch,
            append_time: Timestamp(5),
        }),
    )
}

fn durable<S: LogStore>(store: &S) -> Lsn {
    store.durable().borrow().lsn
}

fn read<S: LogStore>(store: &S, log: &S::Log, from: i64) -> Result<(u64, i64), ReadError> {
    let spec = ReadSpec {
        from: o(from),
        durable: durable(store),
        max_bytes: u32::MAX,
        min_one: true,
    };
    let out = log.try_read(&spec).unwrap()?;
    assert_eq!(out.bytes, out.extents.iter().map(|e| e.len() as u64).sum::<u64>());
    Ok((out.bytes, out.next.get()))
}

fn held<S: LogStore>(store: &S) -> u64 {
    store.health().memory.unwrap().held_bytes
}

/// Start and high watermark.
fn marks<S: LogStore>(store: &S, log: &S::Log) -> (i64, i64) {
    let bounds = log.bounds(durable(store));
    (bounds.log_start.get(), bounds.high_watermark.get())
}

fn in_memory() -> MemoryStore {
    MemoryStore::new(MemoryOptions::bounded(16 << 20))
}

fn beside() -> WithMemory<Shared<MemoryStore>> {
    WithMemory::new(kept(true), 16 << 20)
}

/// Runs a test over both.
macro_rules! over_both {
    ($($name:ident => $test:ident;)*) => {
        $(mod $name {
            #[test]
            fn in_memory() {
                super::$test(&super::in_memory());
            }

            #[test]
            fn beside() {
                super::$test(&super::beside());
            }
        })*
    };
}

over_both! {
    three_times_the_bound_leaves_the_newest => a_ring;
    a_batch_larger_than_the_bound_stays_alone => a_large_batch;
    trims_and_deletions_give_memory_back => trims;
    retention_sees_few_pieces => pieces;
    a_lookup_by_time_decompresses_elsewhere => lookup;
    who_waits_is_woken => waits;
}

fn a_ring<S: LogStore>(store: &S) {
    let log = store.open(key(1), CONFIG);
    let one = u64::from(batch(1, 1000, None, 1).total_bytes()) + BATCH_OVERHEAD_BYTES;
    let written = 3 * BOUND / one;
    for n in 0..written {
        append(store, &log, batch(1, 1000, None, 1)).unwrap();
        assert!(held(store) <= BOUND, "batch {n}: {}", held(store));
    }
    let left = i64::try_from(BOUND / one).unwrap();
    let end = i64::try_from(written).unwrap();
    assert_eq!(marks(store, &log), (end - left, end));
    let below = read(store, &log, end - left - 1).unwrap_err();
    let ReadError::OutOfRange(bounds) = below else {
        panic!("{below}");
    };
    assert_eq!((bounds.log_start, bounds.high_watermark), (o(end - left), o(end)));
    assert_eq!(read(store, &log, end - left).unwrap().1, end);
    let health = store.health().memory.unwrap();
    assert_eq!(health.dropped_records, written - BOUND / one);
    // A smaller bound, as when the topic's configuration is changed, holds from the next batch on.
    let smaller = LogConfig {
        memory_bytes: Some(BOUND / 2),
        ..CONFIG
    };
    store.open(key(1), smaller);
    append(store, &log, batch(1, 1000, None, 1)).unwrap();
    assert!(held(store) <= BOUND / 2);
}

fn a_large_batch<S: LogStore>(store: &S) {
    let log = store.open(key(1), CONFIG);
    append(store, &log, batch(1, 10, None, 1)).unwrap();
    append(store, &log, batch(1, 100_000, None, 1)).unwrap();
    assert_eq!(marks(store, &log), (1, 2));
    append(store, &log, batch(1, 10, None, 1)).unwrap();
    assert_eq!(marks(store, &log), (2, 3));
    assert!(held(store) < 1000);
}

fn trims<S: LogStore>(store: &S) {
    let log = store.open(key(1), CONFIG);
    for _ in 0..10 {
        append(store, &log, batch(2, 100, None, 1)).unwrap();
    }
    let before = held(store);
    let trim = Trim {
        log: Arc::clone(&log),
        to: o(11),
    };
    store
        .submit(store.permit(0, Class::Internal).unwrap(), Step::trim([trim]))
        .unwrap();
    assert_eq!(marks(store, &log), (11, 20));
    assert_eq!(held(store), before / 2);
    assert!(std::matches!(
        read(store, &log, 10),
        Err(ReadError::OutOfRange(_))
    ));
    // The batch in which the log begins comes whole.
    assert_eq!(read(store, &log, 11).unwrap().1, 20);
    let step = Step {
        appends: smallvec::SmallVec::new(),
        trims: smallvec::SmallVec::new(),
        deletions: [key(1).topic].into_iter().collect(),
    };
    store
        .submit(store.permit(0, Class::Internal).unwrap(), step)
        .unwrap();
    assert_eq!(held(store), 0);
    assert_eq!(read(store, &log, 12), Err(ReadError::NotOwner));
    assert_eq!(
        append(store, &log, batch(1, 1, None, 1)),
        Err(SubmitError::NotOwner)
    );
    let again = store.open(key(2), CONFIG);
    append(store, &again, batch(1, 1, None, 1)).unwrap();
    assert_eq!(marks(store, &again), (0, 1));
}

fn pieces<S: LogStore>(store: &S) {
    let log = store.open(key(1), CONFIG);
    for _ in 0..1000 {
        append(store, &log, batch(1, 10, None, 1)).unwrap();
    }
    let pieces = log.segments();
    assert!((2..=65).contains(&pieces.len()), "{} pieces", pieces.len());
    let (start, end) = marks(store, &log);
    assert_eq!((pieces[0].base, pieces.last().unwrap().end), (o(start), o(end)));
    assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].base));
    let bytes: u64 = pieces.iter().map(|piece| piece.bytes).sum();
    assert_eq!(bytes, log.stats().size_bytes);
}

/// If looking into the batch were done where the question is asked, the answer would be there although the one thread for
/// blocking work is busy.
fn lookup<S: LogStore>(store: &S) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let log = store.open(key(1), CONFIG);
        for time in [10, 30, 20, 40] {
            append(store, &log, batch(3, 1000, Some(Codec::Zstd), time)).unwrap();
        }
        for (at, found) in [(0, Some(0)), (11, Some(3)), (31, Some(9)), (41, None)] {
            let (release, released) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || released.recv());
            let mut asked = Arc::clone(&log).find_timestamp(Timestamp(at), durable(store));
            let first = asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(first.is_pending(), "looked up at once");
            release.send(()).unwrap();
            busy.await.unwrap().unwrap();
            let answer = asked.await.unwrap();
            assert_eq!(answer.map(|f| f.offset.get()), found, "{at}");
        }
    });
}

fn waits<S: LogStore>(store: &S) {
    let log = store.open(key(1), CONFIG);
    let waiter = Arc::new(Notify::new());
    log.notify_on_append(Arc::downgrade(&waiter));
    let woken = waiter.notified();
    let mut woken = std::pin::pin!(woken);
    let mut look = Context::from_waker(Waker::noop());
    assert_eq!(woken.as_mut().poll(&mut look), Poll::Pending);
    append(store, &log, batch(1, 1, None, 1)).unwrap();
    assert_eq!(woken.as_mut().poll(&mut look), Poll::Ready(()));
}

#[test]
fn all_logs_together_stay_below_the_limit_and_the_fullest_gives_up_its_oldest() {
    for store in [
        MemoryStore::new(MemoryOptions::bounded(200 << 10)),
        MemoryStore::new(MemoryOptions::bounded(BOUND * 2)),
    ] {
        let limit = store.health().memory.unwrap().bytes_max;
        let small = store.open(key(9), CONFIG);
        append(&store, &small, batch(1, 1000, None, 1)).unwrap();
        let large: Vec<_> = (1..7).map(|n| store.open(key(n), CONFIG)).collect();
        for n in 0..300_usize {
            append(&store, &large[n % 6], batch(1, 1000, None, 1)).unwrap();
            assert!(held(&store) <= limit, "batch {n}: {}", held(&store));
        }
        assert!(held(&store) > limit / 2, "{} of {limit}", held(&store));
        assert_eq!(marks(&store, &small), (0, 1), "who has little keeps it");
        for log in &large {
            let (start, end) = marks(&store, log);
            assert!(start > 0 && end == 50, "{start} to {end}");
        }
    }
}

#[test]
fn a_broker_in_memory_keeps_little_of_its_own_partitions() {
    let store = in_memory();
    let log = store.open(PartitionKey::GROUPS, CONFIG);
    for _ in 0..1000 {
        append(&store, &log, batch(1, 2000, None, 1)).unwrap();
    }
    assert!(held(&store) <= 256 << 10, "{}", held(&store));
}

#[test]
fn a_batch_is_seen_when_its_offsets_are_reserved() {
    let below = kept(false);
    let store = WithMemory::new(below.clone(), 1 << 20);
    let log = store.open(key(1), CONFIG);
    let waiter = Arc::new(Notify::new());
    log.notify_on_append(Arc::downgrade(&waiter));
    let first = append(&store, &log, batch(2, 1, None, 1)).unwrap();
    assert!(first > durable(&store));
    assert_eq!(marks(&store, &log), (0, 0));
    assert_eq!(read(&store, &log, 0), Ok((0, 0)));
    below.0.make_all_durable();
    assert_eq!(marks(&store, &log), (0, 2));
    // Whoever waits is woken by the reservation.
    let mut woken = std::pin::pin!(waiter.notified());
    let mut look = Context::from_waker(Waker::noop());
    assert_eq!(woken.as_mut().poll(&mut look), Poll::Ready(()));
    // From then on nothing is written for it.
    for n in 0..100 {
        assert_eq!(append(&store, &log, batch(2, 1, None, 1)), Ok(first));
        assert_eq!(marks(&store, &log), (0, 4 + 2 * n));
    }
    assert_eq!(below.0.health().durable, first);
}

#[test]
fn the_next_block_is_reserved_before_it_is_needed() {
    let below = kept(false);
    let store = WithMemory::new(below.clone(), 1 << 20);
    let log = store.open(key(1), CONFIG);
    let step = RESERVED_AHEAD / 8;
    let first = append(&store, &log, batch(step, 0, None, 1)).unwrap();
    below.0.make_all_durable();
    for _ in 0..20 {
        // Whatever is submitted meanwhile becomes durable a step later.
        let at = append(&store, &log, batch(step, 0, None, 1)).unwrap();
        assert!(at <= durable(&store), "{at} is not durable yet");
        below.0.make_all_durable();
    }
    let reservations = durable(&store).0 - first.0 + 1;
    assert!((4..=7).contains(&reservations), "{reservations}");
}

#[test]
fn what_nobody_could_read_yet_is_never_dropped() {
    let below = kept(false);
    let store = WithMemory::new(below.clone(), 16 << 20);
    let log = store.open(key(1), CONFIG);
    let mut taken = 0;
    let refused = loop {
        match append(&store, &log, batch(1, 1000, None, 1)) {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, SubmitError::Busy);
    let before = held(&store);
    assert!(before <= BOUND && before > BOUND / 2);
    below.0.make_all_durable();
    assert_eq!(read(&store, &log, 0).unwrap().1, taken);
    append(&store, &log, batch(1, 1000, None, 1)).unwrap();
    assert_eq!(marks(&store, &log), (1, taken + 1));
    // The limit of all logs is no different.
    let below = kept(false);
    let store = WithMemory::new(below.clone(), BOUND / 2);
    let log = store.open(key(1), CONFIG);
    while append(&store, &log, batch(1, 1000, None, 1)).is_ok() {}
    assert!(held(&store) <= BOUND / 2);
    below.0.make_all_durable();
    append(&store, &log, batch(1, 1000, None, 1)).unwrap();
}

#[test]
fn a_restart_begins_behind_every_offset_that_was_given() {
    let below = kept(true);
    let mut ends = Vec::new();
    for life in 0..4 {
        let store = WithMemory::new(below.clone(), 1 << 20);
        let log = store.open(key(1), CONFIG);
        let (start, end) = marks(&store, &log);
        assert_eq!(start, end, "nothing is left");
        if let Some(before) = ends.last() {
            assert!(start > *before, "{start} in life {life}, before it {before}");
            let out = read(&store, &log, *before).unwrap_err();
            assert!(
                std::matches!(out, ReadError::OutOfRange(b) if b.log_start == o(start)),
                "{out}"
            );
        } else {
            assert_eq!(start, 0);
        }
        for _ in 0..=life {
            append(&store, &log, batch(40_000, 0, None, 1)).unwrap();
        }
        ends.push(marks(&store, &log).1);
    }
    // A start without a record uses nothing up.
    let start = |store: &WithMemory<Shared<MemoryStore>>| marks(store, &store.open(key(1), CONFIG)).0;
    let once = start(&WithMemory::new(below.clone(), 1 << 20));
    assert_eq!(start(&WithMemory::new(below, 1 << 20)), once);
}

#[test]
fn an_engine_that_failed_takes_nothing_into_memory() {
    let below = kept(true);
    let store = WithMemory::new(below.clone(), 1 << 20);
    let log = store.open(key(1), CONFIG);
    append(&store, &log, batch(1, 1, None, 1)).unwrap();
    let before = held(&store);
    below.0.poison();
    assert_eq!(
        append(&store, &log, batch(1, 1, None, 1)),
        Err(SubmitError::Poisoned)
    );
    assert_eq!(held(&store), before);
}

#[test]
fn topics_of_both_kinds_are_side_by_side() {
    let below = kept(true);
    let store = WithMemory::new(below.clone(), 1 << 20);
    let disk = LogConfig {
        memory_bytes: None,
        ..CONFIG
    };
    let (memory, kept) = (store.open(key(1), CONFIG), store.open(key(2), disk));
    for _ in 0..3 {
        append(&store, &memory, batch(1, 10, None, 1)).unwrap();
        append(&store, &kept, batch(1, 10, None, 1)).unwrap();
    }
    assert_eq!((marks(&store, &memory), marks(&store, &kept)), ((0, 3), (0, 3)));
    // In the other engine there are the records of one of them.
    let sizes = [key(1), key(2)].map(|key| below.open(key, disk).stats().size_bytes);
    assert_eq!(sizes[0], 0);
    assert!(sizes[1] > 0);
}
