//! Topics in memory beside those of an engine that survives.
//!
//! The other engine keeps nothing of them but which offsets may have been given, see [`reserved`](super::reserved). So every
//! start begins them behind all offsets of the starts before: who kept an old place is told that it is out of range, and never
//! reads another record under it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use smallvec::SmallVec;
use tokio::sync::{Notify, watch};

use super::lock;
use super::log::{LogOptions, MemoryLog, cost};
use super::reserved::{Need, Reserved};
use super::room::Room;
use crate::model::{
    DurableState, LeaderEpoch, LogBounds, Lsn, MemoryHealth, Offset, PartitionKey, StorageHealth, Timestamp,
    TopicId,
};
use crate::rt::BoxFuture;
use crate::storage::{
    AppendTime, Backpressure, Class, LogCaps, LogConfig, LogStats, LogStore, PartitionLog, Permit, Placed,
    ReadError, ReadOut, ReadSpec, SegmentSummary, Step, SubmitError, TimedOffset, Trim,
};

/// An engine, and topics in memory beside those that it keeps.
#[derive(Debug)]
pub struct WithMemory<S: LogStore> {
    inner: S,
    durable: watch::Receiver<DurableState>,
    room: Arc<Room>,
    /// Those in memory.
    logs: Mutex<BTreeMap<PartitionKey, Arc<EitherLog<S::Log>>>>,
}

/// A partition of either kind.
#[derive(Debug)]
pub enum EitherLog<L> {
    /// The other engine keeps it.
    Kept(Arc<L>),
    /// It is in memory.
    InMemory(ReservedLog<L>),
}

/// A partition in memory, and where its offsets are reserved.
#[derive(Debug)]
pub struct ReservedLog<L> {
    log: Arc<MemoryLog>,
    /// Has no batches; its log start is what is reserved.
    reservation: Arc<L>,
    reserved: Mutex<Reserved>,
}

/// A step by where its parts go.
struct Parts<L> {
    kept: Step<L>,
    appends: SmallVec<[Placed<EitherLog<L>>; 1]>,
    trims: Vec<(Arc<MemoryLog>, Offset)>,
}

impl<S: LogStore> WithMemory<S> {
    /// Topics in memory beside this engine, with at most so many bytes in all.
    pub fn new(inner: S, memory_bytes_max: u64) -> Self {
        Self {
            durable: inner.durable(),
            inner,
            room: Arc::new(Room::new(memory_bytes_max)),
            logs: Mutex::default(),
        }
    }

    /// The other engine.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// What topics in memory hold.
    pub fn memory(&self) -> MemoryHealth {
        self.room.health()
    }

    /// Makes room for every batch of a step, or for none.
    fn admit(&self, appends: &[Placed<EitherLog<S::Log>>]) -> Result<(), SubmitError> {
        let durable = self.durable.borrow().lsn;
        let mut taken = 0;
        for placed in appends {
            let EitherLog::InMemory(to) = &*placed.log else {
                continue;
            };
            let bytes = u64::from(placed.batch.total_bytes());
            if !to.log.admit(bytes, durable) {
                self.room.give_back(taken);
                return Err(SubmitError::Busy);
            }
            taken += cost(bytes);
        }
        Ok(())
    }

    fn delete(&self, topic: TopicId) {
        let gone: Vec<_> = lock(&self.logs)
            .extract_if(.., |key, _| key.topic == topic)
            .map(|(_, log)| log)
            .collect();
        for log in &gone {
            if let EitherLog::InMemory(gone) = &**log {
                gone.log.delete();
                gone.log.wake();
            }
        }
    }
}

impl<L: PartitionLog> Parts<L> {
    fn of(step: Step<EitherLog<L>>) -> Self {
        let mut parts = Self {
            kept: Step {
                appends: SmallVec::new(),
                trims: SmallVec::new(),
                deletions: step.deletions,
            },
            appends: SmallVec::new(),
            trims: Vec::new(),
        };
        for placed in step.appends {
            match &*placed.log {
                EitherLog::Kept(log) => parts.kept.appends.push(Placed {
                    log: Arc::clone(log),
                    base: placed.base,
                    batch: placed.batch,
                    append_time: placed.append_time,
                }),
                EitherLog::InMemory(_) => parts.appends.push(placed),
            }
        }
        for trim in step.trims {
            match &*trim.log {
                EitherLog::Kept(log) => parts.kept.trims.push(Trim {
                    log: Arc::clone(log),
                    to: trim.to,
                }),
                EitherLog::InMemory(of) => parts.trims.push((Arc::clone(&of.log), trim.to)),
            }
        }
        parts
    }

    fn has_kept(&self) -> bool {
        let kept = &self.kept;
        !(kept.appends.is_empty() && kept.trims.is_empty() && kept.deletions.is_empty())
    }

    fn touches_gone(&self) -> bool {
        self.trims.iter().any(|(log, _)| log.is_gone())
            || self
                .appends
                .iter()
                .any(|placed| std::matches!(&*placed.log, EitherLog::InMemory(to) if to.log.is_gone()))
    }
}

impl<L: PartitionLog> ReservedLog<L> {
    /// What a batch that ends here needs. Where the step writes to the other engine anyway, a new reservation: whoever
    /// waits for this partition is woken by it.
    fn need(&self, end: Offset, with_kept: bool) -> Need {
        let mut need = lock(&self.reserved).need(end);
        if with_kept {
            need.ask = need
                .ask
                .or_else(|| end.checked_add(super::reserved::RESERVED_AHEAD));
        }
        need
    }
}

impl<S: LogStore> LogStore for WithMemory<S> {
    type Log = EitherLog<S::Log>;

    fn caps(&self) -> LogCaps {
        self.inner.caps()
    }

    fn leader_epoch(&self) -> LeaderEpoch {
        self.inner.leader_epoch()
    }

    fn permit(&self, bytes: u64, class: Class) -> Result<Permit, Backpressure> {
        self.inner.permit(bytes, class)
    }

    fn split_permit(&self, permit: &mut Permit, bytes: u64) -> Option<Permit> {
        self.inner.split_permit(permit, bytes)
    }

    fn permit_freed(&self) -> BoxFuture<'static, ()> {
        self.inner.permit_freed()
    }

    fn submit(&self, permit: Permit, step: Step<Self::Log>) -> Result<Lsn, SubmitError> {
        let mut parts = Parts::of(step);
        if parts.appends.is_empty() && parts.trims.is_empty() {
            let deletions = parts.kept.deletions.clone();
            let lsn = self.inner.submit(permit, parts.kept)?;
            deletions.into_iter().for_each(|topic| self.delete(topic));
            return Ok(lsn);
        }
        if self.durable.borrow().poisoned {
            return Err(SubmitError::Poisoned);
        }
        if parts.touches_gone() {
            return Err(SubmitError::NotOwner);
        }
        self.admit(&parts.appends)?;
        let (with_kept, deletions) = (parts.has_kept(), parts.kept.deletions.clone());
        let needs = reserve(&mut parts, with_kept);
        // Only what the other engine writes costs what it has; batches in memory take none of its room.
        let submitted = if parts.has_kept() {
            self.inner.submit(permit, parts.kept)
        } else {
            Ok(Lsn::ZERO)
        };
        let of_kept = submitted.inspect_err(|_| {
            let costs = parts.appends.iter().map(|p| cost(p.batch.total_bytes().into()));
            self.room.give_back(costs.sum());
        })?;
        let mut lsn = if with_kept { of_kept } else { Lsn::ZERO };
        for (placed, need) in parts.appends.iter().zip(needs) {
            let at_least = if with_kept {
                of_kept
            } else {
                need.covered.unwrap_or(of_kept)
            };
            lsn = lsn.max(self.append(placed, need, at_least, of_kept));
        }
        for (log, to) in &parts.trims {
            log.trim(Lsn::ZERO, *to);
            log.apply_trims(Lsn::ZERO);
        }
        deletions.into_iter().for_each(|topic| self.delete(topic));
        Ok(lsn)
    }

    fn health(&self) -> StorageHealth {
        StorageHealth {
            memory: Some(self.memory()),
            ..self.inner.health()
        }
    }

    fn durable(&self) -> watch::Receiver<DurableState> {
        self.inner.durable()
    }

    fn failed(&self) -> watch::Receiver<bool> {
        self.inner.failed()
    }

    fn open(&self, key: PartitionKey, config: LogConfig) -> Arc<Self::Log> {
        let Some(bytes_max) = config.memory_bytes else {
            return Arc::new(EitherLog::Kept(self.inner.open(key, config)));
        };
        let mut logs = lock(&self.logs);
        let either = logs.entry(key).or_insert_with(|| {
            let reservation = self.inner.open(key, config);
            let options = LogOptions {
                bytes_max: Some(bytes_max),
                start: reservation.bounds(Lsn::ZERO).log_end,
                cold: false,
            };
            let log = Arc::new(MemoryLog::new(key, options, Arc::clone(&self.room)));
            self.room.enter(&log);
            Arc::new(EitherLog::InMemory(ReservedLog {
                log,
                reservation,
                reserved: Mutex::default(),
            }))
        });
        if let EitherLog::InMemory(opened) = &**either {
            opened.log.set_bytes_max(Some(bytes_max));
        }
        Arc::clone(either)
    }
}

/// Adds to the step what must be reserved for its batches; what each of them needs.
fn reserve<L: PartitionLog>(parts: &mut Parts<L>, with_kept: bool) -> SmallVec<[Need; 1]> {
    let Parts { kept, appends, .. } = parts;
    let mut needs = SmallVec::new();
    for placed in appends.iter() {
        let EitherLog::InMemory(to) = &*placed.log else {
            continue;
        };
        let need = to.need(placed.batch.header().last_offset().next(), with_kept);
        kept.trims.extend(need.ask.map(|below| Trim {
            log: Arc::clone(&to.reservation),
            to: below,
        }));
        needs.push(need);
    }
    needs
}

impl<S: LogStore> WithMemory<S> {
    /// Takes in a batch that is durable with this LSN, and notes the reservation that was submitted for it. Returns with
    /// what it really is durable.
    fn append(&self, placed: &Placed<EitherLog<S::Log>>, need: Need, at_least: Lsn, reservation: Lsn) -> Lsn {
        let EitherLog::InMemory(to) = &*placed.log else {
            return Lsn::ZERO;
        };
        if let Some(below) = need.ask {
            lock(&to.reserved).note(below, reservation, placed.base);
        }
        let lsn = to.log.append(at_least, placed.into());
        // Otherwise the reservation wakes whoever waits, when it is durable.
        if lsn <= self.durable.borrow().lsn {
            to.log.wake();
        }
        lsn
    }
}

impl<L: PartitionLog> PartitionLog for EitherLog<L> {
    fn key(&self) -> PartitionKey {
        match self {
            Self::Kept(log) => log.key(),
            Self::InMemory(reserved) => reserved.log.key(),
        }
    }

    fn bounds(&self, durable: Lsn) -> LogBounds {
        match self {
            Self::Kept(log) => log.bounds(durable),
            Self::InMemory(reserved) => reserved.log.bounds(durable),
        }
    }

    fn stats(&self) -> LogStats {
        match self {
            Self::Kept(log) => log.stats(),
            Self::InMemory(reserved) => reserved.log.stats(),
        }
    }

    fn segments(&self) -> Vec<SegmentSummary> {
        match self {
            Self::Kept(log) => log.segments(),
            Self::InMemory(reserved) => reserved.log.segments(),
        }
    }

    fn try_read(&self, spec: &ReadSpec) -> Option<Result<ReadOut, ReadError>> {
        match self {
            Self::Kept(log) => log.try_read(spec),
            Self::InMemory(reserved) => reserved.log.try_read(spec),
        }
    }

    fn read(self: Arc<Self>, spec: ReadSpec) -> BoxFuture<'static, Result<ReadOut, ReadError>> {
        match &*self {
            Self::Kept(log) => Arc::clone(log).read(spec),
            Self::InMemory(reserved) => Arc::clone(&reserved.log).read(spec),
        }
    }

    fn append_time(&self, at: Offset) -> Option<AppendTime> {
        match self {
            Self::Kept(log) => log.append_time(at),
            Self::InMemory(reserved) => reserved.log.append_time(at),
        }
    }

    fn find_append_time(&self, at: Offset) -> Result<Option<Timestamp>, ReadError> {
        match self {
            Self::Kept(log) => log.find_append_time(at),
            Self::InMemory(reserved) => reserved.log.find_append_time(at),
        }
    }

    fn find_timestamp(
        self: Arc<Self>,
        at: Timestamp,
        durable: Lsn,
    ) -> BoxFuture<'static, Result<Option<TimedOffset>, ReadError>> {
        match &*self {
            Self::Kept(log) => Arc::clone(log).find_timestamp(at, durable),
            Self::InMemory(reserved) => Arc::clone(&reserved.log).find_timestamp(at, durable),
        }
    }

    fn notify_on_append(&self, waiter: Weak<Notify>) {
        match self {
            Self::Kept(log) => log.notify_on_append(waiter),
            Self::InMemory(reserved) => {
                reserved.reservation.notify_on_append(Weak::clone(&waiter));
                reserved.log.notify_on_append(waiter);
            }
        }
    }
}
