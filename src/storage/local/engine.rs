//! What the journal, the applier and the callers share.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::budget::Budget;
use super::buffers::BufferPool;
use super::format::DirectoryId;
use super::journal_files::JournalFiles;
use super::log::LocalLog;
use super::queue::Queue;
use super::read::ReadSide;
use super::reserve::Reserve;
use super::scrub::{Rest, ScrubCounts};
use super::settings::Settings;
use super::stats::Stats;
use super::tail::Tail;
use crate::disk::SharedDisk;
use crate::model::{DurableState, Lsn, PartitionKey, TopicId};
use crate::rt::Clock;

/// How often a checkpoint that waits for the journal asks for a journal file.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Buffers kept for the next groups have at most this part of the memory tail's bytes, and count as part of it.
const POOL_SHARE: u64 = 8;

/// What the applier is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Control {
    /// Every group up to here is in the segments (not necessarily synced).
    pub(super) applied: Lsn,
    /// Apply what is durable, whatever its amount.
    pub(super) apply_asked: bool,
    /// Free a journal file.
    pub(super) checkpoint_asked: bool,
    pub(super) stop: bool,
    /// The applier waits for this group to be durable.
    pub(super) awaits: Option<Lsn>,
    /// The applier found the disk full.
    pub(super) storage_full: bool,
    /// Why the engine is poisoned.
    pub(super) failure: Option<String>,
}

#[derive(Debug)]
pub(super) struct Engine {
    pub(super) disk: SharedDisk,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Settings,
    pub(super) directory: DirectoryId,
    pub(super) incarnation: u32,
    pub(super) queue: Queue,
    pub(super) durable: watch::Sender<DurableState>,
    pub(super) failed: watch::Sender<bool>,
    pub(super) reads: Arc<ReadSide>,
    pub(super) files: JournalFiles,
    pub(super) budget: Arc<Budget>,
    pub(super) reserve: Reserve,
    pub(super) stats: Stats,
    pub(super) scrubbed: ScrubCounts,
    /// Of the scrub's thread.
    pub(super) scrub_rest: Rest,
    /// For groups on their way to the journal, and then part of the memory tail.
    pub(super) buffers: Arc<BufferPool>,
    pub(super) logs: Mutex<BTreeMap<PartitionKey, Arc<LocalLog>>>,
    control: Mutex<Control>,
    changed: Condvar,
}

/// How an engine begins.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) directory: DirectoryId,
    pub(super) incarnation: u32,
    pub(super) durable: Lsn,
    pub(super) files: JournalFiles,
    pub(super) reads: Arc<ReadSide>,
    pub(super) logs: BTreeMap<PartitionKey, Arc<LocalLog>>,
}

impl Engine {
    pub(super) fn new(disk: SharedDisk, clock: Arc<dyn Clock>, settings: Settings, begin: Beginning) -> Self {
        let budget = Budget::new(
            settings.memory_tail_bytes,
            settings.reserve_bytes,
            settings.step_bytes_max,
        );
        let pool_bytes = usize::try_from(settings.memory_tail_bytes / POOL_SHARE).unwrap_or(usize::MAX);
        let engine = Self {
            queue: Queue::new(begin.durable.next(), settings.group_bytes_max),
            durable: watch::Sender::new(DurableState {
                lsn: begin.durable,
                poisoned: false,
            }),
            failed: watch::Sender::new(false),
            reads: begin.reads,
            files: begin.files,
            budget: Arc::new(budget),
            reserve: Reserve::new(Arc::clone(&disk), settings.reserve_bytes),
            stats: Stats::default(),
            scrubbed: ScrubCounts::default(),
            scrub_rest: Rest::default(),
            buffers: Arc::new(BufferPool::new(pool_bytes)),
            logs: Mutex::new(begin.logs),
            control: Mutex::new(Control {
                applied: begin.durable,
                ..Control::default()
            }),
            changed: Condvar::new(),
            directory: begin.directory,
            incarnation: begin.incarnation,
            disk,
            clock,
            settings,
        };
        engine.account_journal();
        engine
    }

    pub(super) fn tail(&self) -> &Tail {
        self.reads.tail()
    }

    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().expect("no panics while locked")
    }

    pub(super) fn logs(&self) -> MutexGuard<'_, BTreeMap<PartitionKey, Arc<LocalLog>>> {
        self.logs.lock().expect("no panics while locked")
    }

    /// The partitions of a topic.
    pub(super) fn logs_of(&self, topic: TopicId) -> Vec<Arc<LocalLog>> {
        self.logs()
            .values()
            .filter(|l| l.partition().topic == topic)
            .cloned()
            .collect()
    }

    pub(super) fn durable_lsn(&self) -> Lsn {
        self.durable.borrow().lsn
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.durable.borrow().poisoned
    }

    /// The engine failed: nothing that is not durable yet has a known fate, and nothing more is taken in. The process is
    /// to end; a later success of the same file would prove nothing.
    pub(super) fn poison(&self, what: &str, error: &io::Error) {
        tracing::error!(event = "storage_failed", severity = "critical", error = %error, "{what}");
        self.control()
            .failure
            .get_or_insert_with(|| format!("{what}: {error}"));
        self.queue.poison();
        self.durable.send_modify(|state| state.poisoned = true);
        self.failed.send_replace(true);
        self.files.stop();
        self.scrub_rest.stop();
        self.changed.notify_all();
    }

    /// Tells the applier that there is more to apply, if it is worth it.
    pub(super) fn groups_changed(&self) {
        let (applied, awaited) = {
            let control = self.control();
            (
                control.applied,
                control.awaits.is_some_and(|lsn| lsn <= self.durable_lsn()),
            )
        };
        self.evict(applied);
        if awaited || self.budget.admitted() >= self.settings.apply_bytes {
            self.changed.notify_all();
        }
    }

    /// Drops groups that are in the segments, while they and the buffers kept for others have more bytes than the memory tail.
    pub(super) fn evict(&self, applied: Lsn) {
        let kept = self.buffers.free_bytes() as u64;
        let bytes_max = self.settings.memory_tail_bytes.saturating_sub(kept);
        self.tail().evict(applied, bytes_max);
    }

    /// Blocks the applier until a group is durable; false if it never will be.
    pub(super) fn wait_durable(&self, lsn: Lsn) -> bool {
        let mut control = self.control();
        control.awaits = Some(lsn);
        let reached = loop {
            if self.is_poisoned() || control.failure.is_some() {
                break false;
            }
            if self.durable_lsn() >= lsn {
                break true;
            }
            if self.files.is_short() {
                // The journal waits for a checkpoint and this checkpoint for the journal.
                self.files.want_extra();
            }
            // Asked again now and then: making a file fails while the disk is full.
            (control, _) = self
                .changed
                .wait_timeout(control, ASK_AGAIN)
                .expect("no panics while locked");
        };
        control.awaits = None;
        reached
    }

    /// Asks the applier for a checkpoint that frees a journal file.
    pub(super) fn ask_for_checkpoint(&self) {
        self.control().checkpoint_asked = true;
        self.changed.notify_all();
    }

    /// Somebody waits for room: makes it where it is short.
    pub(super) fn make_room(&self) {
        let (free, total, _) = self.files.space();
        {
            let mut control = self.control();
            control.apply_asked = true;
            control.checkpoint_asked |= free < total / 4;
        }
        self.changed.notify_all();
    }

    /// Ends everything without finishing it.
    pub(super) fn abandon(&self) {
        self.control()
            .failure
            .get_or_insert_with(|| "abandoned".to_owned());
        self.queue.poison();
        self.files.stop();
        self.scrub_rest.stop();
        self.changed.notify_all();
    }

    pub(super) fn stop_applier(&self) {
        self.control().stop = true;
        self.changed.notify_all();
    }

    /// Waits until the applier has something to do, at most this long.
    pub(super) fn wait_for_applier_work(&self, at_most: Duration) -> Control {
        let control = self.control();
        let idle = |c: &mut Control| {
            let enough =
                self.budget.admitted() >= self.settings.apply_bytes && self.durable_lsn() > c.applied;
            !(c.stop || c.apply_asked || c.checkpoint_asked || c.failure.is_some() || enough)
        };
        let (mut control, _) = self
            .changed
            .wait_timeout_while(control, at_most, idle)
            .expect("no panics while locked");
        let asked = control.clone();
        control.apply_asked = false;
        control.checkpoint_asked = false;
        asked
    }

    /// Accounts for a group that is in the journal now.
    pub(super) fn account_written(&self, granted: u64) {
        let (free, _, _) = self.files.space();
        self.budget.written(granted, free);
    }

    /// Accounts for journal files made or freed.
    pub(super) fn account_journal(&self) {
        let (free, total, claimed) = self.files.space();
        self.budget.set_journal(free, total, claimed);
    }

    /// What the disk has for the broker's own work: what is free, and what is set aside.
    pub(super) fn disk_room(&self) -> io::Result<u64> {
        Ok(self.disk.free_bytes()?.saturating_add(self.reserve.held_bytes()))
    }

    /// Asks the disk how much is free.
    pub(super) fn refresh_disk_free(&self) {
        if let Ok(room) = self.disk_room() {
            self.budget.set_disk_free(room);
        }
    }

    /// Sets the reserve aside again if there is room beside what is on its way to the disk.
    pub(super) fn hold_reserve(&self) -> io::Result<()> {
        // What a full disk keeps from being applied may want the name, if not the space.
        if !self.control().storage_full && self.reserve.hold(self.budget.admitted())? {
            tracing::info!(
                event = "reserve_held",
                bytes = self.settings.reserve_bytes,
                "disk space is set aside for the broker's own work"
            );
        }
        Ok(())
    }

    /// The broker's own work has found the disk full: produce is refused, and what is set aside given up. Whether trying
    /// again at once may help.
    pub(super) fn disk_is_full(&self) -> bool {
        self.budget.disk_is_full();
        self.reserve.give_up()
    }

    /// Whether another journal file leaves produce what it may use; the journal itself may have the reserve as well.
    pub(super) fn has_room_for_journal_file(&self) -> bool {
        let needed = self
            .settings
            .journal_file_bytes
            .saturating_add(self.settings.reserve_bytes);
        self.files.is_short() || self.disk_room().is_ok_and(|room| room >= needed)
    }
}

impl std::fmt::Debug for dyn Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}
