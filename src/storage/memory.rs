//! An engine that keeps everything in memory: for tests, and for brokers that need not survive.
//!
//! Every step is a group of its own. It is durable at once, or, for tests, when [`MemoryStore::make_durable`] says so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use super::{
    Backpressure, Class, LogCaps, LogConfig, LogStats, LogStore, PartitionLog, Permit, PermitOwner, Placed,
    ReadError, ReadOut, ReadSpec, SegmentSummary, Step, SubmitError, TimedOffset, find_in_batch,
};
use crate::model::{
    DurableState, LeaderEpoch, LogBounds, Lsn, Offset, PartitionKey, StorageHealth, StorageState, Timestamp,
};
use crate::record::BatchHeader;
use crate::rt::BoxFuture;

/// How a memory store behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Most bytes of batches in all partitions; beyond, the store is full. Produce may use seven eighths.
    pub capacity_bytes: u64,
    /// Most bytes admitted and not durable yet; beyond, the store is busy. Produce may use seven eighths.
    pub queue_bytes: u64,
    /// Most bytes of one step.
    pub step_bytes_max: u32,
    /// Whether a step is durable as soon as it is submitted.
    pub durable_at_once: bool,
    /// Whether reads pretend to need a disk.
    pub cold: bool,
    /// The epoch that is stamped into batches.
    pub leader_epoch: LeaderEpoch,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            capacity_bytes: 256 << 20,
            queue_bytes: 64 << 20,
            step_bytes_max: 8 << 20,
            durable_at_once: true,
            cold: false,
            leader_epoch: LeaderEpoch(1),
        }
    }
}

/// The engine.
#[derive(Debug)]
pub struct MemoryStore {
    options: MemoryOptions,
    state: Mutex<State>,
    durable: watch::Sender<DurableState>,
    failed: watch::Sender<bool>,
    admission: Arc<Admission>,
}

#[derive(Debug, Default)]
struct State {
    logs: BTreeMap<PartitionKey, Arc<MemoryLog>>,
    lsn: Lsn,
    poisoned: bool,
    /// Steps that are not durable, oldest first: their bytes and whom to wake.
    waiting: VecDeque<(Lsn, u64, Vec<Arc<MemoryLog>>)>,
}

/// The two budgets. Permits give back to it.
#[derive(Debug, Default)]
struct Admission {
    used: Mutex<Used>,
    freed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Used {
    /// Admitted, not durable.
    queued: u64,
    /// Submitted, not deleted.
    stored: u64,
}

/// The log of one partition in memory.
#[derive(Debug)]
pub struct MemoryLog {
    key: PartitionKey,
    cold: bool,
    state: Mutex<LogState>,
}

#[derive(Debug, Default)]
struct LogState {
    /// In offset order, without gaps.
    batches: Vec<StoredBatch>,
    bytes: u64,
    start: Offset,
    /// Trims that are not durable yet: their step, and the first offset that stays.
    trims: Vec<(Lsn, Offset)>,
    end: Offset,
    gone: bool,
    waiters: Vec<Weak<Notify>>,
}

#[derive(Debug)]
struct StoredBatch {
    lsn: Lsn,
    base: Offset,
    end: Offset,
    append_time: Timestamp,
    max_timestamp: Timestamp,
    bytes: Bytes,
}

impl StoredBatch {
    fn damaged(&self) -> ReadError {
        ReadError::Corrupt {
            first: self.base,
            last: Offset::new(self.end.get() - 1).unwrap_or(self.base),
        }
    }

    /// Every batch can be removed by itself.
    fn summary(&self) -> SegmentSummary {
        SegmentSummary {
            base: self.base,
            end: self.end,
            bytes: self.bytes.len() as u64,
            oldest_append: self.append_time,
            newest_append: self.append_time,
            max_timestamp: self.max_timestamp,
            sealed: true,
        }
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new(options: MemoryOptions) -> Self {
        Self {
            options,
            state: Mutex::default(),
            durable: watch::Sender::new(DurableState::default()),
            failed: watch::Sender::new(false),
            admission: Arc::default(),
        }
    }

    /// Makes everything up to `lsn` durable and wakes who waits for it.
    pub fn make_durable(&self, lsn: Lsn) {
        let mut state = lock(&self.state);
        self.publish(&mut state, lsn);
    }

    /// Makes everything durable that was submitted.
    pub fn make_all_durable(&self) {
        self.make_durable(Lsn(u64::MAX));
    }

    /// Fails as a failed sync would: nothing more is taken in or becomes durable.
    pub fn poison(&self) {
        lock(&self.state).poisoned = true;
        self.durable.send_modify(|durable| durable.poisoned = true);
        self.failed.send_replace(true);
    }

    fn publish(&self, state: &mut State, upto: Lsn) {
        if state.poisoned {
            return;
        }
        let mut wake = Vec::new();
        let mut reached = None;
        while let Some((lsn, bytes, logs)) = state.waiting.pop_front_if(|(lsn, ..)| *lsn <= upto) {
            self.admission.give_back(bytes);
            wake.extend(logs);
            reached = Some(lsn);
        }
        let Some(reached) = reached else { return };
        // Published before anybody is woken: who wakes must see what woke him.
        self.durable.send_modify(|durable| durable.lsn = reached);
        for log in wake {
            let freed = log.apply_trims(reached);
            let mut used = lock(&self.admission.used);
            used.stored = used.stored.saturating_sub(freed);
            drop(used);
            log.wake();
        }
    }

    fn delete(&self, state: &mut State, topic: crate::model::TopicId) -> Vec<Arc<MemoryLog>> {
        let gone: Vec<_> = state
            .logs
            .extract_if(.., |key, _| key.topic == topic)
            .map(|(_, log)| log)
            .collect();
        for log in &gone {
            let mut log = lock(&log.state);
            log.gone = true;
            log.batches.clear();
            let mut used = lock(&self.admission.used);
            used.stored = used.stored.saturating_sub(log.bytes);
        }
        gone
    }
}

impl LogStore for MemoryStore {
    type Log = MemoryLog;

    fn caps(&self) -> LogCaps {
        LogCaps {
            step_bytes_max: self.options.step_bytes_max,
        }
    }

    fn leader_epoch(&self) -> LeaderEpoch {
        self.options.leader_epoch
    }

    fn permit(&self, bytes: u64, class: Class) -> Result<Permit, Backpressure> {
        let max = u64::from(self.options.step_bytes_max);
        if bytes > max {
            return Err(Backpressure::TooLarge { bytes, max });
        }
        let part = |budget: u64| match class {
            Class::Produce => budget - budget / 8,
            Class::Internal => budget,
        };
        let mut used = lock(&self.admission.used);
        let capacity = self.options.capacity_bytes;
        if used.stored + used.queued + bytes > part(capacity) {
            return Err(Backpressure::StorageFull {
                free_bytes: capacity.saturating_sub(used.stored + used.queued),
                reserve_bytes: capacity / 8,
            });
        }
        if used.queued + bytes > part(self.options.queue_bytes) {
            return Err(Backpressure::Busy);
        }
        used.queued += bytes;
        Ok(Permit::new(bytes, Box::new(Arc::clone(&self.admission))))
    }

    fn split_permit(&self, permit: &mut Permit, bytes: u64) -> Option<Permit> {
        permit.split(bytes, Box::new(Arc::clone(&self.admission)))
    }

    fn permit_freed(&self) -> BoxFuture<'static, ()> {
        Box::pin(Arc::clone(&self.admission.freed).notified_owned())
    }

    fn submit(&self, permit: Permit, step: Step<MemoryLog>) -> Result<Lsn, SubmitError> {
        let mut state = lock(&self.state);
        if state.poisoned {
            return Err(SubmitError::Poisoned);
        }
        let gone = |log: &MemoryLog| lock(&log.state).gone;
        if step.appends.iter().any(|placed| gone(&placed.log))
            || step.trims.iter().any(|trim| gone(&trim.log))
        {
            return Err(SubmitError::NotOwner);
        }
        let lsn = state.lsn.next();
        state.lsn = lsn;
        let mut touched = Vec::new();
        for placed in step.appends {
            let stored = placed.log.append(lsn, &placed);
            lock(&self.admission.used).stored += stored;
            touched.push(placed.log);
        }
        for trim in step.trims {
            lock(&trim.log.state).trims.push((lsn, trim.to));
            touched.push(trim.log);
        }
        for topic in step.deletions {
            touched.extend(self.delete(&mut state, topic));
        }
        state.waiting.push_back((lsn, permit.spend(), touched));
        if self.options.durable_at_once {
            self.publish(&mut state, lsn);
        }
        Ok(lsn)
    }

    fn health(&self) -> StorageHealth {
        // One lock after the other: a submission holds them the other way round.
        let poisoned = lock(&self.state).poisoned;
        let (stored, queued) = {
            let used = lock(&self.admission.used);
            (used.stored, used.queued)
        };
        let (taken, capacity) = (stored + queued, self.options.capacity_bytes);
        StorageHealth {
            engine: "memory".into(),
            state: if poisoned {
                StorageState::Broken("the engine was poisoned".to_owned())
            } else if taken >= capacity - capacity / 8 {
                StorageState::ReadOnly
            } else {
                StorageState::Ok
            },
            durable: self.durable.borrow().lsn,
            applied: self.durable.borrow().lsn,
            admitted_bytes: queued,
            journal_files: (0, 0),
            crc_errors: 0,
            disk: None,
            recovery: None,
        }
    }

    fn durable(&self) -> watch::Receiver<DurableState> {
        self.durable.subscribe()
    }

    fn failed(&self) -> watch::Receiver<bool> {
        self.failed.subscribe()
    }

    fn open(&self, key: PartitionKey, _config: LogConfig) -> Arc<MemoryLog> {
        let mut state = lock(&self.state);
        let log = state.logs.entry(key).or_insert_with(|| {
            Arc::new(MemoryLog {
                key,
                cold: self.options.cold,
                state: Mutex::default(),
            })
        });
        Arc::clone(log)
    }
}

impl MemoryLog {
    fn append(&self, lsn: Lsn, placed: &Placed<Self>) -> u64 {
        let (base, batch) = (placed.base, &placed.batch);
        let mut state = lock(&self.state);
        assert_eq!(base, state.end, "offsets are assigned under the partition's lock");
        let bytes = batch.to_bytes();
        let stored = bytes.len() as u64;
        state.end = batch.header().last_offset().next();
        let end = state.end;
        state.batches.push(StoredBatch {
            lsn,
            base,
            end,
            append_time: placed.append_time,
            max_timestamp: batch.header().max_timestamp,
            bytes,
        });
        state.bytes += stored;
        stored
    }

    /// Drops what lies wholly below the trims up to this step; how many bytes that were.
    fn apply_trims(&self, upto: Lsn) -> u64 {
        let mut state = lock(&self.state);
        let start = state.bounds(upto).log_start;
        state.trims.retain(|(lsn, _)| *lsn > upto);
        state.start = start;
        let below = state.batches.partition_point(|batch| batch.end <= start);
        let freed = state
            .batches
            .drain(..below)
            .map(|batch| batch.bytes.len() as u64)
            .sum();
        state.bytes -= freed;
        freed
    }

    /// Wakes everybody who waits, once.
    fn wake(&self) {
        let waiters = std::mem::take(&mut lock(&self.state).waiters);
        for waiter in waiters.iter().filter_map(Weak::upgrade) {
            waiter.notify_one();
        }
    }

    fn read_now(&self, spec: &ReadSpec) -> Result<ReadOut, ReadError> {
        let state = lock(&self.state);
        if state.gone {
            return Err(ReadError::NotOwner);
        }
        let bounds = state.bounds(spec.durable);
        if spec.from < bounds.log_start || spec.from > bounds.high_watermark {
            return Err(ReadError::OutOfRange(bounds));
        }
        let mut out = ReadOut {
            next: spec.from,
            ..ReadOut::default()
        };
        let first = state.batches.partition_point(|batch| batch.end <= spec.from);
        for batch in state.batches.iter().skip(first) {
            let bytes = out.bytes + batch.bytes.len() as u64;
            let fits = bytes <= u64::from(spec.max_bytes) || (spec.min_one && out.extents.is_empty());
            if batch.lsn > spec.durable || !fits {
                break;
            }
            out.extents.push(batch.bytes.clone());
            out.bytes = bytes;
            out.next = batch.end;
        }
        Ok(out)
    }
}

impl MemoryLog {
    fn find_now(&self, at: Timestamp, durable: Lsn) -> Result<Option<TimedOffset>, ReadError> {
        let state = lock(&self.state);
        if state.gone {
            return Err(ReadError::NotOwner);
        }
        let visible = state.batches.iter().take_while(|batch| batch.lsn <= durable);
        for batch in visible.filter(|batch| batch.max_timestamp >= at) {
            let found = BatchHeader::parse(&batch.bytes)
                .and_then(|header| find_in_batch(&header, &batch.bytes, state.start, at));
            if let Some(found) = found.map_err(|_| batch.damaged())? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

impl LogState {
    fn bounds(&self, durable: Lsn) -> LogBounds {
        let visible = self.batches.partition_point(|batch| batch.lsn <= durable);
        let high_watermark = visible.checked_sub(1).and_then(|last| self.batches.get(last));
        let trimmed = self.trims.iter().filter(|(lsn, _)| *lsn <= durable);
        let log_start = trimmed.map(|(_, to)| *to).fold(self.start, Offset::max);
        LogBounds {
            log_start,
            high_watermark: high_watermark.map_or(log_start, |batch| batch.end.max(log_start)),
            log_end: self.end,
        }
    }
}

impl PartitionLog for MemoryLog {
    fn key(&self) -> PartitionKey {
        self.key
    }

    fn bounds(&self, durable: Lsn) -> LogBounds {
        lock(&self.state).bounds(durable)
    }

    fn stats(&self) -> LogStats {
        LogStats {
            size_bytes: lock(&self.state).bytes,
            segments: 1,
            quarantined: Vec::new(),
        }
    }

    fn segments(&self) -> Vec<SegmentSummary> {
        lock(&self.state)
            .batches
            .iter()
            .map(StoredBatch::summary)
            .collect()
    }

    fn try_read(&self, spec: &ReadSpec) -> Option<Result<ReadOut, ReadError>> {
        (!self.cold).then(|| self.read_now(spec))
    }

    fn read(self: Arc<Self>, spec: ReadSpec) -> BoxFuture<'static, Result<ReadOut, ReadError>> {
        Box::pin(async move { self.read_now(&spec) })
    }

    fn find_timestamp(
        self: Arc<Self>,
        at: Timestamp,
        durable: Lsn,
    ) -> BoxFuture<'static, Result<Option<TimedOffset>, ReadError>> {
        Box::pin(async move { self.find_now(at, durable) })
    }

    fn notify_on_append(&self, waiter: Weak<Notify>) {
        let mut state = lock(&self.state);
        // Who has gone away is forgotten when the list would grow, so that it is as long as there are waiters.
        if state.waiters.len() == state.waiters.capacity() {
            state.waiters.retain(|waiter| waiter.strong_count() > 0);
        }
        state.waiters.push(waiter);
        let gone = state.gone;
        drop(state);
        if gone {
            self.wake();
        }
    }
}

impl Admission {
    fn give_back(&self, bytes: u64) {
        let mut used = lock(&self.used);
        used.queued = used.queued.saturating_sub(bytes);
        drop(used);
        self.freed.notify_waiters();
    }
}

impl PermitOwner for Arc<Admission> {
    fn give_back(&self, bytes: u64) {
        Admission::give_back(self, bytes);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panics while locked")
}
