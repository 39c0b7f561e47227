//! The engine without threads: a simulation decides what happens when.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::applier::Applier;
use super::engine::{Control, Engine};
use super::journal::{Journal, Round};
use super::scrub::Scrub;
use crate::storage::SharedSnapshots;

/// Drives an engine round by round.
pub struct Inline {
    engine: Arc<Engine>,
    journal: Journal,
    applier: Applier,
    scrub: Scrub,
    snapshots: SharedSnapshots,
}

impl Inline {
    pub(super) fn new(
        engine: Arc<Engine>,
        journal: Journal,
        applier: Applier,
        snapshots: SharedSnapshots,
    ) -> Self {
        Self {
            scrub: Scrub::new(Arc::clone(&engine)),
            engine,
            journal,
            applier,
            snapshots,
        }
    }

    /// Writes, syncs and publishes one group, if any waits. Makes room when the journal needs a file.
    ///
    /// # Errors
    /// If a checkpoint that was needed to free a journal file failed.
    pub fn journal(&mut self) -> io::Result<Round> {
        let mut round = self.journal.round();
        while round == Round::NoFile {
            if self.engine.files.make_one(false)? {
                self.engine.account_journal();
            } else {
                self.make_room()?;
            }
            round = self.journal.round();
        }
        Ok(round)
    }

    fn make_room(&mut self) -> io::Result<()> {
        while self.applier.apply()? == Round::Worked {}
        let durable = self.engine.durable_lsn();
        // Snapshots cannot wait for a group that itself waits for a file.
        if self.engine.queue.last_submitted() > durable {
            self.engine.files.make_extra(false)?;
            self.engine.account_journal();
            return Ok(());
        }
        self.checkpoint()?;
        self.checkpoint()
    }

    /// Writes the seal behind the last group.
    pub fn seal(&mut self) -> Round {
        self.journal.seal()
    }

    /// Makes a journal file, if any is missing.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn make_journal_file(&mut self) -> io::Result<()> {
        self.engine.files.make_one(false)?;
        self.engine.account_journal();
        Ok(())
    }

    /// Applies what is durable to the segments.
    ///
    /// # Errors
    /// `StorageFull`, to be repeated; others are fatal.
    pub fn apply(&mut self) -> io::Result<Round> {
        self.applier.apply()
    }

    /// Writes a checkpoint of what is applied; groups that wait are written first.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn checkpoint(&mut self) -> io::Result<()> {
        self.checkpoint_as(false)
    }

    fn checkpoint_as(&mut self, clean: bool) -> io::Result<()> {
        let (journal, engine) = (&mut self.journal, &self.engine);
        let mut until_durable = |lsn| {
            while engine.durable_lsn() < lsn && journal.round() == Round::Worked {}
            engine.durable_lsn() >= lsn
        };
        self.applier
            .checkpoint(&*self.snapshots, clean, &mut until_durable)
    }

    /// What the applier thread does when it wakes.
    ///
    /// # Errors
    /// As [`apply`](Self::apply) and [`checkpoint`](Self::checkpoint).
    pub fn applier_round(&mut self, everything: bool) -> io::Result<()> {
        let asked = Control {
            apply_asked: everything,
            ..self.engine.control().clone()
        };
        let (journal, engine) = (&mut self.journal, &self.engine);
        let mut until_durable = |lsn| {
            while engine.durable_lsn() < lsn && journal.round() == Round::Worked {}
            engine.durable_lsn() >= lsn
        };
        self.applier.round(&asked, &*self.snapshots, &mut until_durable)
    }

    /// Reads the next piece of the segments if it is due. Returns how long nothing is; `None`: nothing is ever scrubbed.
    pub fn scrub(&mut self) -> Option<Duration> {
        self.scrub.round()
    }

    /// A clean stop: everything written, applied, and a clean checkpoint.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn stop(mut self) -> io::Result<()> {
        while self.journal()? == Round::Worked {}
        self.engine.queue.close();
        while self.applier.apply()? == Round::Worked {}
        self.checkpoint_as(true)
    }
}

impl std::fmt::Debug for Inline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inline")
            .field("journal", &self.journal)
            .finish_non_exhaustive()
    }
}
