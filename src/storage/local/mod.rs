//! The engine on local disk: one journal under all partitions, segments behind it.
//!
//! ```text
//!  submit --> queue --> journal thread: one group, one write, one sync --> durable LSN --> replies, fetches
//!                               |
//!                               +--> memory tail --> applier thread: segments in big pieces, checkpoints
//! ```
//!
//! Rules and formats: `docs/architecture.md`, `docs/storage-format.md`. Journal and applier are machines with a `round`;
//! [`LocalStore::start`] gives each a thread, a simulation drives them itself through [`Inline`].

mod append_time;
mod applier;
mod behind;
mod blocks;
mod budget;
mod buffers;
mod checkpoint;
mod damage;
mod directory;
mod engine;
mod fence;
pub mod format;
mod group;
mod inline;
pub mod inspect;
mod journal;
mod journal_files;
mod log;
mod lookup;
mod partial;
mod paths;
mod queue;
mod read;
mod recovery;
mod redo;
mod reserve;
mod roll;
pub mod salvage;
mod scan;
mod scrub;
mod segment;
mod settings;
mod stats;
mod survey;
mod tail;
#[cfg(test)]
mod tests;
mod threads;
mod trash;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

pub use inline::Inline;
pub use journal::Round;
pub use log::LocalLog;
pub use paths::FileKind;
pub use recovery::{OpenError, RecoveryReport};
pub use scrub::ScrubNow;
pub use settings::Settings;
pub use stats::StatsNow;

use self::budget::Budget;
use self::engine::Engine;
use self::threads::Threads;
use crate::disk::SharedDisk;
use crate::model::{
    DurableState, LeaderEpoch, Lsn, PartitionKey, RecoverySummary, StorageHealth, StorageState,
};
use crate::rt::{BoxFuture, Clock, IdSource};
use crate::storage::{
    Backpressure, Class, LogCaps, LogConfig, LogStore, Permit, Replay, SharedSnapshots, Step, SubmitError,
};

/// What an operator may want to know of a running engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Journal files that are made, of how many.
    pub journal_files: (u32, u32),
    /// The last durable group.
    pub durable: Lsn,
    /// The last group in the segments.
    pub applied: Lsn,
    /// Bytes admitted and not yet applied.
    pub admitted_bytes: u64,
    /// Produce is refused for want of disk.
    pub storage_full: bool,
    /// Bytes of disk that are set aside for the broker's own work.
    pub reserve_held_bytes: u64,
    /// Why the engine failed, if it did.
    pub failure: Option<String>,
    /// Damaged ranges found by reading.
    pub crc_errors: u64,
    /// Reads of segments that failed.
    pub read_errors: ReadErrors,
    /// What the scrub has done.
    pub scrub: ScrubNow,
}

/// Reads of segments that failed since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadErrors {
    /// They did not when they were tried again.
    pub healed: u64,
    /// They did, and records were lost.
    pub lasting: u64,
}

/// The engine on local disk.
#[derive(Debug)]
pub struct LocalStore {
    engine: Arc<Engine>,
    threads: Mutex<Threads>,
    report: RecoveryReport,
    recovery_took: Duration,
}

impl LocalStore {
    /// Opens a data directory, recovering what the last life left; makes it if it is empty. Nothing runs yet:
    /// call [`start`](Self::start), or [`into_inline`](Self::into_inline).
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong and whether anything was changed.
    pub fn open(
        disk: SharedDisk,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        ids: &dyn IdSource,
        replay: &mut dyn Replay,
    ) -> Result<Self, OpenError> {
        let begun = clock.mono();
        let opened = recovery::open(disk, settings, Arc::clone(&clock), ids, replay)?;
        let threads = Mutex::new(Threads::new(opened.journal, opened.applier));
        Ok(Self {
            engine: opened.engine,
            threads,
            report: opened.report,
            recovery_took: clock.mono().saturating_sub(begun),
        })
    }

    /// Starts the threads. Checkpoints ask `snapshots` for the state kept above the engine.
    ///
    /// # Errors
    /// If a thread cannot be made.
    pub fn start(&self, snapshots: SharedSnapshots) -> io::Result<()> {
        self.threads
            .lock()
            .expect("no panics while locked")
            .start(&self.engine, snapshots)
    }

    /// For simulations: the engine without threads, and its driver.
    pub fn into_inline(self, snapshots: SharedSnapshots) -> (Arc<Self>, Inline) {
        let store = Arc::new(self);
        let (journal, applier) = store.threads.lock().expect("no panics while locked").take();
        let inline = Inline::new(Arc::clone(&store.engine), journal, applier, snapshots);
        (store, inline)
    }

    /// Takes nothing in any more, writes what was taken in, and ends with a clean checkpoint: the next start replays
    /// nothing. Blocks.
    ///
    /// # Errors
    /// If the engine failed before or on the way: the next start replays the journal instead.
    pub fn shutdown(&self) -> io::Result<()> {
        self.threads
            .lock()
            .expect("no panics while locked")
            .shutdown(&self.engine)
    }

    /// Identity of the data directory, made with it.
    pub fn directory_id(&self) -> [u8; 16] {
        self.engine.directory
    }

    /// What opening came to.
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// What the journal has counted since the start, and segments closed.
    pub fn stats(&self) -> StatsNow {
        self.engine.stats.now(&self.engine.queue.rolls)
    }

    /// How the engine is.
    pub fn status(&self) -> Status {
        let control = self.engine.control().clone();
        Status {
            journal_files: self.engine.files.progress(),
            durable: self.engine.durable_lsn(),
            applied: control.applied,
            admitted_bytes: self.engine.budget.admitted(),
            storage_full: control.storage_full || self.engine.budget.storage_full(),
            reserve_held_bytes: self.engine.reserve.held_bytes(),
            failure: control.failure,
            crc_errors: self.engine.reads.crc_errors(),
            read_errors: self.engine.reads.read_errors(),
            scrub: self.engine.scrubbed.now(),
        }
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        if let Ok(threads) = self.threads.get_mut() {
            threads.abandon(&self.engine);
        }
        // Groups hold their partitions, and partitions the tail with the groups.
        self.engine.tail().clear();
    }
}

impl LogStore for LocalStore {
    type Log = LocalLog;

    fn caps(&self) -> LogCaps {
        LogCaps {
            step_bytes_max: self.engine.settings.step_bytes_max,
        }
    }

    fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(i32::try_from(self.engine.incarnation).unwrap_or(i32::MAX))
    }

    fn permit(&self, bytes: u64, class: Class) -> Result<Permit, Backpressure> {
        if class == Class::Produce && self.engine.control().storage_full {
            return Err(Backpressure::StorageFull {
                free_bytes: 0,
                reserve_bytes: self.engine.settings.reserve_bytes,
            });
        }
        let permit = self.engine.budget.permit(bytes, class);
        if permit.as_ref().is_err_and(|e| *e == Backpressure::Busy) {
            self.engine.make_room();
        }
        permit
    }

    fn split_permit(&self, permit: &mut Permit, bytes: u64) -> Option<Permit> {
        self.engine.budget.split(permit, bytes)
    }

    fn permit_freed(&self) -> BoxFuture<'static, ()> {
        self.engine.budget.freed()
    }

    fn submit(&self, permit: Permit, step: Step<LocalLog>) -> Result<Lsn, SubmitError> {
        let deletions = step.deletions.clone();
        let lsn = {
            let pool = &self.engine.buffers;
            self.engine.queue.submit(Budget::cost_of(&permit), step, pool)?
        };
        Budget::spend(permit);
        for topic in deletions {
            for log in self.engine.logs_of(topic) {
                log.delete();
            }
        }
        Ok(lsn)
    }

    fn health(&self) -> StorageHealth {
        let status = self.status();
        let state = match status.failure {
            Some(failure) => StorageState::Broken(failure),
            None if status.storage_full => StorageState::ReadOnly,
            None => StorageState::Ok,
        };
        let report = &self.report;
        StorageHealth {
            engine: "local".into(),
            state,
            durable: status.durable,
            applied: status.applied,
            admitted_bytes: status.admitted_bytes,
            journal_files: status.journal_files,
            crc_errors: status.crc_errors,
            disk: Some((self.engine.budget.disk_free(), self.engine.settings.reserve_bytes)),
            memory: None,
            recovery: Some(RecoverySummary {
                clean: report.in_order(),
                groups: report.groups,
                bytes: report.bytes,
                lost_groups: report.lost_groups,
                unfinished: report.unfinished,
                took: self.recovery_took,
            }),
        }
    }

    fn durable(&self) -> watch::Receiver<DurableState> {
        self.engine.durable.subscribe()
    }

    fn failed(&self) -> watch::Receiver<bool> {
        self.engine.failed.subscribe()
    }

    fn open(&self, key: PartitionKey, config: LogConfig) -> Arc<LocalLog> {
        let mut logs = self.engine.logs();
        let reads = &self.engine.reads;
        let log = logs
            .entry(key)
            .or_insert_with(|| Arc::new(LocalLog::new(key, config, Arc::clone(reads))));
        log.state().config = config;
        Arc::clone(log)
    }
}
