//! The journal: takes the open group, lays it out, writes and syncs it, publishes its LSN. Exactly one group is in flight.

use std::io;
use std::sync::Arc;

use super::engine::Engine;
use super::format::journal::{GROUPS_START, Place};
use super::group::{Framing, Group, OpenGroup, assemble};
use super::journal_files::RingFile;
use crate::disk::DiskFile;
use crate::model::Lsn;
use crate::planted::{self, Bug};

/// What a round came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Nothing was there to do.
    Idle,
    /// Something was done.
    Worked,
    /// A group waits for a journal file: a checkpoint must free one.
    NoFile,
}

/// The writer of the journal; its one user is the journal thread, or a simulation.
#[derive(Debug)]
pub(super) struct Journal {
    engine: Arc<Engine>,
    current: Option<RingFile>,
    generation: u64,
    position: u64,
    previous: u64,
    incarnation: u32,
    /// A group that was taken and has no file yet.
    held: Option<OpenGroup>,
    /// Whether the last group was followed by a seal, or is one.
    sealed: bool,
}

impl Journal {
    pub(super) fn new(engine: Arc<Engine>, previous: u64, incarnation: u32) -> Self {
        Self {
            engine,
            current: None,
            generation: 0,
            position: 0,
            previous,
            incarnation,
            held: None,
            sealed: true,
        }
    }

    /// Begins a new journal file, before anything is served.
    pub(super) fn begin(&mut self, first_lsn: Lsn) -> io::Result<()> {
        if self.rotate(first_lsn)? {
            let ring = self.current.as_ref().expect("a file was taken");
            self.engine
                .files
                .set_current(ring.bytes - GROUPS_START, ring.bytes - self.position);
            return Ok(());
        }
        Err(io::Error::other(
            "no journal file can be used again after recovery",
        ))
    }

    /// Whether a seal is due when nothing else comes.
    pub(super) fn wants_seal(&self) -> bool {
        !self.sealed
    }

    /// Writes the group that waits, if any.
    pub(super) fn round(&mut self) -> Round {
        match self.held.take().or_else(|| self.engine.queue.try_take()) {
            Some(group) => self.write(group),
            None => Round::Idle,
        }
    }

    /// Writes an empty group, so that a damaged last group is known to have been durable.
    pub(super) fn seal(&mut self) -> Round {
        if self.held.is_some() {
            return self.round();
        }
        match self.engine.queue.open_seal() {
            Some(group) => self.write(group),
            None => Round::Idle,
        }
    }

    /// Writes one group. Any error poisons the engine: what reached the disk is unknown.
    pub(super) fn write(&mut self, group: OpenGroup) -> Round {
        let is_seal = group.is_empty();
        match self.try_write(group) {
            Ok(true) => {
                self.sealed = is_seal;
                Round::Worked
            }
            Ok(false) => Round::NoFile,
            Err(error) => {
                self.engine.poison("journal write or sync failed", &error);
                Round::Idle
            }
        }
    }

    fn try_write(&mut self, open: OpenGroup) -> io::Result<bool> {
        let total = open.total_bytes();
        let left = self.current.as_ref().map_or(0, |f| f.bytes - self.position);
        if total > left && !self.rotate(open.lsn)? {
            self.held = Some(open);
            return Ok(false);
        }
        let place = Place {
            directory: self.engine.directory,
            generation: self.generation,
            position: self.position,
        };
        let framing = Framing {
            place,
            previous: self.previous,
            incarnation: self.incarnation,
            written: self.engine.clock.wall(),
            mono: self.engine.clock.mono(),
        };
        let group = assemble(open, &framing, &self.engine.buffers);
        let ring = self.current.as_mut().expect("a file was taken above");
        assert!(
            self.position + total <= ring.bytes,
            "the largest group fits the smallest journal file"
        );
        ring.file
            .write_all_vectored_at(&group.blocks.writes(), self.position)?;
        // The explicit sync is what an acknowledgement stands on.
        if !planted::is(Bug::AckBeforeSync) {
            sync(&*ring.file)?;
        }
        ring.last_lsn = group.lsn;
        self.position += total;
        self.previous = group.hash;
        let took = self.engine.clock.mono().saturating_sub(framing.mono);
        self.engine.stats.committed(&group, took);
        self.engine
            .files
            .set_current(ring.bytes - GROUPS_START, ring.bytes - self.position);
        self.publish(group);
        Ok(true)
    }

    fn rotate(&mut self, first_lsn: Lsn) -> io::Result<bool> {
        match self
            .engine
            .files
            .rotate(self.current.take(), first_lsn, self.incarnation)?
        {
            Ok(rotated) => {
                self.current = Some(rotated.ring);
                self.generation = rotated.generation;
                self.position = GROUPS_START;
                Ok(true)
            }
            Err(old) => {
                self.current = old;
                self.engine.ask_for_checkpoint();
                Ok(false)
            }
        }
    }

    /// Makes a durable group visible: acknowledgements first, then whoever waits for records.
    fn publish(&self, group: Group) {
        let group = Arc::new(group);
        let engine = &self.engine;
        engine.tail().push(Arc::clone(&group));
        // The applier may have poisoned the engine while this group was written: that must not be taken back.
        engine.durable.send_modify(|state| state.lsn = group.lsn);
        engine.account_written(group.granted);
        for batch in &group.appends {
            batch.log.wake();
        }
        for (log, _) in &group.trims {
            log.wake();
        }
        engine.groups_changed();
    }
}

/// Once: after an error nothing about the file can be believed any more.
fn sync(file: &dyn DiskFile) -> io::Result<()> {
    match file.sync_data() {
        Err(_) if planted::is(Bug::SyncRetried) => file.sync_data(),
        once => once,
    }
}
