//! An engine that keeps everything in memory: for tests, and for brokers that need not survive.
//!
//! Every step is a group of its own. It is durable at once, or, for tests, when [`MemoryStore::make_durable`] says so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, watch};

use super::lock;
use super::log::{LogOptions, MemoryLog, cost};
use super::room::Room;
use crate::model::{
    DurableState, LeaderEpoch, Lsn, Offset, PartitionKey, StorageHealth, StorageState, TopicId,
};
use crate::rt::BoxFuture;
use crate::storage::{
    Backpressure, Class, LogCaps, LogConfig, LogStore, Permit, PermitOwner, Step, SubmitError,
};

/// How a memory store behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Most bytes of batches in all partitions.
    pub capacity_bytes: u64,
    /// What happens beyond.
    pub when_full: WhenFull,
    /// Most bytes of an internal partition; `None`: all that was ever written. Nobody reads it but a test that restarts.
    pub internal_bytes_max: Option<u64>,
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

/// What a memory store does when it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It refuses as a full disk does; produce may use seven eighths.
    Refuse,
    /// The oldest batches of whoever holds the most go.
    DropOldest,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            capacity_bytes: 256 << 20,
            when_full: WhenFull::Refuse,
            internal_bytes_max: None,
            queue_bytes: 64 << 20,
            step_bytes_max: 8 << 20,
            durable_at_once: true,
            cold: false,
            leader_epoch: LeaderEpoch(1),
        }
    }
}

impl MemoryOptions {
    /// Newest bytes kept of each internal partition. What they say is in the broker's own state, and nobody will ever
    /// recover it from here.
    const INTERNAL_BYTES_MAX: u64 = 256 << 10;

    /// For a broker that runs: never more than so many bytes, and never full.
    pub fn bounded(capacity_bytes: u64) -> Self {
        Self {
            capacity_bytes,
            when_full: WhenFull::DropOldest,
            internal_bytes_max: Some(Self::INTERNAL_BYTES_MAX),
            ..Self::default()
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
    room: Arc<Room>,
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

/// Admitted bytes that are not durable. Permits give back to it.
#[derive(Debug, Default)]
struct Admission {
    queued: Mutex<u64>,
    freed: Arc<Notify>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(options: MemoryOptions) -> Self {
        Self {
            options,
            state: Mutex::default(),
            durable: watch::Sender::new(DurableState::default()),
            failed: watch::Sender::new(false),
            room: Arc::new(Room::new(match options.when_full {
                // Permits see to it.
                WhenFull::Refuse => u64::MAX,
                WhenFull::DropOldest => options.capacity_bytes,
            })),
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
            log.apply_trims(reached);
            log.wake();
        }
    }

    fn delete(state: &mut State, topic: TopicId) -> Vec<Arc<MemoryLog>> {
        let gone: Vec<_> = state
            .logs
            .extract_if(.., |key, _| key.topic == topic)
            .map(|(_, log)| log)
            .collect();
        for log in &gone {
            log.delete();
        }
        gone
    }

    /// What a log may hold.
    fn bytes_max(&self, key: PartitionKey, config: &LogConfig) -> Option<u64> {
        if key.topic.is_internal() {
            self.options.internal_bytes_max
        } else {
            config.memory_bytes
        }
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
        let mut queued = lock(&self.admission.queued);
        if self.options.when_full == WhenFull::Refuse {
            let (taken, capacity) = (self.room.held() + *queued, self.options.capacity_bytes);
            if taken + bytes > part(capacity) {
                return Err(Backpressure::StorageFull {
                    free_bytes: capacity.saturating_sub(taken),
                    reserve_bytes: capacity / 8,
                });
            }
        }
        if *queued + bytes > part(self.options.queue_bytes) {
            return Err(Backpressure::Busy);
        }
        *queued += bytes;
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
        if step.appends.iter().any(|placed| placed.log.is_gone())
            || step.trims.iter().any(|trim| trim.log.is_gone())
        {
            return Err(SubmitError::NotOwner);
        }
        let durable = self.durable.borrow().lsn;
        for (index, placed) in step.appends.iter().enumerate() {
            let bytes = u64::from(placed.batch.total_bytes());
            if !placed.log.admit(bytes, durable) {
                let admitted = step.appends.iter().take(index);
                let taken = admitted.map(|placed| cost(placed.batch.total_bytes().into()));
                self.room.give_back(taken.sum());
                return Err(SubmitError::Busy);
            }
        }
        let lsn = state.lsn.next();
        state.lsn = lsn;
        let mut touched = Vec::new();
        for placed in step.appends {
            placed.log.append(lsn, (&placed).into());
            touched.push(placed.log);
        }
        for trim in step.trims {
            trim.log.trim(lsn, trim.to);
            touched.push(trim.log);
        }
        for topic in step.deletions {
            touched.extend(Self::delete(&mut state, topic));
        }
        state.waiting.push_back((lsn, permit.spend(), touched));
        if self.options.durable_at_once {
            self.publish(&mut state, lsn);
        }
        Ok(lsn)
    }

    fn health(&self) -> StorageHealth {
        let poisoned = lock(&self.state).poisoned;
        let (queued, capacity) = (*lock(&self.admission.queued), self.options.capacity_bytes);
        let refuses = self.options.when_full == WhenFull::Refuse
            && self.room.held() + queued >= capacity - capacity / 8;
        StorageHealth {
            engine: "memory".into(),
            state: if poisoned {
                StorageState::Broken("the engine was poisoned".to_owned())
            } else if refuses {
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
            memory: Some(self.room.health()),
            recovery: None,
        }
    }

    fn durable(&self) -> watch::Receiver<DurableState> {
        self.durable.subscribe()
    }

    fn failed(&self) -> watch::Receiver<bool> {
        self.failed.subscribe()
    }

    fn open(&self, key: PartitionKey, config: LogConfig) -> Arc<MemoryLog> {
        let mut state = lock(&self.state);
        let bytes_max = self.bytes_max(key, &config);
        let log = state.logs.entry(key).or_insert_with(|| {
            let options = LogOptions {
                bytes_max,
                start: Offset::ZERO,
                cold: self.options.cold,
            };
            let log = Arc::new(MemoryLog::new(key, options, Arc::clone(&self.room)));
            self.room.enter(&log);
            log
        });
        log.set_bytes_max(bytes_max);
        Arc::clone(log)
    }
}

impl Admission {
    fn give_back(&self, bytes: u64) {
        let mut queued = lock(&self.queued);
        *queued = queued.saturating_sub(bytes);
        drop(queued);
        self.freed.notify_waiters();
    }
}

impl PermitOwner for Arc<Admission> {
    fn give_back(&self, bytes: u64) {
        Admission::give_back(self, bytes);
    }
}
