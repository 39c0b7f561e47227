//! Lives of an engine on a disk that fails openly: nothing acknowledged may be lost.

use std::io;

use super::model::{Model, check, contents, everything};
use super::options::{Draw, Options};
use super::*;
use crate::disk::sim::{CutProfile, Fault, FaultKind, Strike};
use crate::storage::Class;

/// How often recovery is tried, less one, while faults strike it.
const TRIES_MAX: u64 = 4;

pub(super) struct Life<'a> {
    pub(super) options: &'a Options,
    pub(super) draw: Draw,
    pub(super) rig: Rig,
    pub(super) model: Model,
    pub(super) figures: Figures,
    keys: Vec<PartitionKey>,
    next_topic: u8,
    fill: u8,
    /// A directory's sync failed: the file system is taken for aborted, only a remount follows.
    aborted: bool,
    read_failed: bool,
}

pub(super) fn run(options: &Options) -> Result<Figures, Finding> {
    let mut life = Life::begin(options);
    for nth in 0..options.lives {
        life.live()?;
        let image = life.end();
        life.recover(image, nth + 1 < options.lives)?;
    }
    life.finish()
}

impl<'a> Life<'a> {
    pub(super) fn begin(options: &'a Options) -> Self {
        Self::begin_on(options, &SimDisk::new(options.disk.clone()))
    }

    /// On a disk that is empty.
    pub(super) fn begin_on(options: &'a Options, disk: &SimDisk) -> Self {
        let rig = options.open(disk).expect("nothing is wrong yet");
        Self {
            options,
            draw: Draw::new(!options.seed),
            model: Model::begin(rig.durable()),
            rig,
            figures: Figures {
                seeds: 1,
                ..Figures::default()
            },
            keys: options.keys(),
            next_topic: options.topics + 1,
            fill: 0,
            aborted: false,
            read_failed: false,
        }
    }

    /// Operations until the engine is poisoned or enough were done.
    pub(super) fn live(&mut self) -> Result<(), Finding> {
        for _ in 0..self.options.operations {
            self.inject();
            self.operate()?;
            self.note_strikes();
            if self.rig.store.engine.is_poisoned() {
                return self.check_poisoned();
            }
        }
        Ok(())
    }

    fn inject(&mut self) {
        for rate in &self.options.rates {
            // Bytes that two reads in a row do not get are damage; here the disk fails once.
            let again = rate.kind == FaultKind::ReadFails && self.rig.disk.expects(rate.kind);
            if self.draw.below(1000) < rate.per_mille && !again {
                let fault = Fault::next(rate.kind, rate.prefix).after(self.draw.below(4));
                self.rig.disk.inject(fault.times(rate.times));
            }
        }
        if self.options.tight && self.draw.chance(15) {
            let bytes = self
                .draw
                .one_of(&[0, 8 << 10, 64 << 10, 80 << 10, 1 << 30, 1 << 30]);
            self.rig.disk.set_free_bytes(bytes);
        }
    }

    pub(super) fn operate(&mut self) -> Result<(), Finding> {
        match self.draw.below(100) {
            0..40 => return self.produce(),
            40..60 => self.commit(),
            60..72 => {
                let everything = self.draw.chance(70);
                let result = self.rig.inline.applier_round(everything);
                self.worked(result, "the disk was full for the applier");
            }
            72..76 => {
                let result = self.rig.inline.checkpoint();
                self.worked(result, "the disk was full for a checkpoint");
            }
            76..79 => {
                self.rig.inline.seal();
            }
            79..82 => {
                // The maker of files only warns, and tries again later.
                if self.rig.inline.make_journal_file().is_err() {
                    self.figures.reach("no file could be made for want of space");
                }
            }
            82..92 => return self.look(),
            92..96 if self.options.trims => self.trim(),
            96..98 if self.options.deletions => self.delete(),
            _ if self.options.time_passes => self.rig.clock.advance(Duration::from_millis(1700)),
            _ => self.commit(),
        }
        self.acknowledge();
        Ok(())
    }

    /// What the threads do with an error.
    fn worked(&mut self, result: io::Result<()>, full: &'static str) {
        match result {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                self.figures.reach(full);
                self.rig.store.engine.control().storage_full = true;
            }
            Err(error) => self.rig.store.engine.poison("the applier failed", &error),
        }
    }

    pub(super) fn commit(&mut self) {
        let mut result = Ok(Round::Worked);
        while std::matches!(result, Ok(Round::Worked)) {
            result = self.rig.inline.journal();
        }
        self.worked(result.map(drop), "the disk was full for a checkpoint");
    }

    pub(super) fn acknowledge(&mut self) {
        self.model.acknowledged = self.model.acknowledged.max(self.rig.durable());
    }

    pub(super) fn produce(&mut self) -> Result<(), Finding> {
        let count = if self.options.steps {
            1 + self.draw.below(3)
        } else {
            1
        };
        let mut keys: Vec<_> = (0..count).map(|_| self.draw.one_of(&self.keys)).collect();
        keys.sort_unstable();
        keys.dedup();
        let batches: Vec<_> = keys.iter().map(|key| (*key, self.batch(*key))).collect();
        let bytes = batches.iter().map(|(_, b)| u64::from(b.total_bytes())).sum();
        let Some(permit) = self.permit(bytes)? else {
            return Ok(());
        };
        if keys.len() > 1 {
            self.figures.reach("a step went to several partitions");
        }
        let stored = batches
            .iter()
            .map(|(key, batch)| (*key, batch.to_bytes()))
            .collect();
        if let Ok(lsn) = self.rig.submit_with(permit, batches, &[]) {
            self.model.appended(lsn, stored);
        }
        if self.draw.chance(40) {
            self.commit();
        }
        self.acknowledge();
        Ok(())
    }

    fn batch(&mut self, key: PartitionKey) -> SealedBatch {
        self.fill = self.fill.wrapping_add(7);
        let records = 1 + usize::try_from(self.draw.below(3)).unwrap();
        let large = self.options.large_batches && self.draw.chance(15);
        let bytes = if large {
            self.figures.reach("a large batch was appended");
            66_000 + self.draw.below(80_000) / records as u64
        } else {
            1 + self.draw.below(self.options.value_bytes_max)
        };
        let bytes = usize::try_from(bytes).unwrap();
        self.rig.batch(key, records, bytes, self.fill)
    }

    /// A permit, if one can be had; a refusal is definite, so nothing may have changed.
    fn permit(&mut self, bytes: u64) -> Result<Option<Permit>, Finding> {
        for _ in 0..4 {
            match self.rig.store.permit(bytes, Class::Produce) {
                Ok(permit) => return Ok(Some(permit)),
                Err(Backpressure::Busy) => {
                    let _ = self.rig.inline.make_journal_file();
                    self.commit();
                    if !self.rig.store.engine.is_poisoned() {
                        let result = self.rig.inline.applier_round(true);
                        self.worked(result, "the disk was full for the applier");
                    }
                }
                Err(Backpressure::StorageFull { .. }) => {
                    self.figures.reach("produce was refused for want of space");
                    return Ok(None);
                }
                Err(Backpressure::TooLarge { .. }) => return Ok(None),
            }
            if self.rig.store.engine.is_poisoned() {
                return Ok(None);
            }
        }
        Ok(None)
    }

    fn trim(&mut self) {
        let key = self.draw.one_of(&self.keys);
        let state = self.model.state(self.rig.durable());
        let Some(log) = state.logs.get(&key).filter(|_| !key.topic.is_internal()) else {
            return;
        };
        let to = self.draw.one_of(&log.batches).base;
        let to = if self.draw.chance(20) { log.end() } else { to };
        let log = self.rig.store.open(key, self.rig.config);
        if let Ok(permit) = self.rig.store.permit(0, Class::Internal)
            && let Ok(lsn) = self.rig.store.submit(permit, Step::trim([Trim { log, to }]))
        {
            self.figures.reach("a log was trimmed");
            self.model.trimmed(lsn, key, to);
        }
    }

    fn delete(&mut self) {
        let key = self.draw.one_of(&self.keys);
        if key.topic.is_internal() {
            return;
        }
        if let Ok(permit) = self.rig.store.permit(0, Class::Internal)
            && let Ok(lsn) = self.rig.submit_with(permit, vec![], &[key.topic])
        {
            self.figures.reach("a topic was deleted");
            self.model.deleted(lsn, key.topic);
            self.keys.retain(|other| other.topic != key.topic);
            for partition in 0..self.options.partitions {
                self.keys.push(super::key(self.next_topic, partition));
            }
            self.next_topic += 1;
        }
    }

    /// Reads one partition: what is durable, and nothing else.
    fn look(&mut self) -> Result<(), Finding> {
        let key = self.draw.one_of(&self.keys);
        let expected = self.model.state(self.rig.durable());
        let Some(log) = expected.logs.get(&key).filter(|_| !key.topic.is_internal()) else {
            return Ok(());
        };
        self.rig
            .store
            .engine
            .tail()
            .evict(self.rig.store.engine.control().applied, 0);
        if self.options.lies {
            return super::lies::check_log(&self.rig, key, &expected, "read").map(drop);
        }
        match contents(&self.rig, key) {
            Ok(found) => {
                let kept = log.batches.iter().filter(|b| b.last >= log.start);
                let kept: Vec<_> = kept.map(|b| (b.base, b.bytes.clone())).collect();
                ensure(found.corrupt.is_empty() && found.batches == kept, || {
                    format!(
                        "{key} does not read as it was acknowledged, damage {:?}",
                        found.corrupt
                    )
                })
            }
            Err(ReadError::Io(error)) => {
                self.note_strikes();
                ensure(std::mem::take(&mut self.read_failed), || {
                    format!("{key}: {error}")
                })
            }
            Err(other) => Err(Finding(format!("{key}: {other}"))),
        }
    }

    /// Nothing is acknowledged or taken in any more.
    fn check_poisoned(&mut self) -> Result<(), Finding> {
        let before = self.rig.durable();
        if self.model.has_above(before) {
            self.figures.reach("poisoned with steps waiting");
        }
        self.rig.disk.clear_faults();
        for _ in 0..3 {
            let _ = self.rig.inline.seal();
        }
        let now = self.rig.durable();
        ensure(now == before, || {
            format!("{now} was acknowledged behind {before}, after the end")
        })?;
        let key = self.keys[0];
        let batch = self.rig.batch(key, 1, 10, 0);
        if let Ok(permit) = self.rig.store.permit(100, Class::Internal) {
            let taken = self.rig.submit_with(permit, vec![(key, batch)], &[]);
            ensure(taken == Err(SubmitError::Poisoned), || {
                format!("{taken:?} after the end")
            })?;
        }
        Ok(())
    }

    pub(super) fn note_strikes(&mut self) -> Vec<Strike> {
        let strikes = self.rig.disk.take_strikes();
        for strike in &strikes {
            self.aborted |= std::matches!(strike.kind, FaultKind::SyncDirFails | FaultKind::SyncDirNoSpace);
            self.read_failed |= strike.kind == FaultKind::ReadFails;
            if let Some(situation) = situation(strike) {
                self.figures.reach(situation);
            }
        }
        strikes
    }

    /// The process ends in one way or another; the next one finds this.
    pub(super) fn end(&mut self) -> SimDisk {
        self.acknowledge();
        let seed = self.draw.below(u64::MAX);
        let aborted = std::mem::take(&mut self.aborted);
        let cut = (aborted || self.draw.chance(60)).then(|| {
            let all = [&self.options.cuts[..], &[CutProfile::Ext4]].concat();
            self.draw.one_of(&all)
        });
        match cut {
            Some(profile) => {
                self.figures.reach("a power cut");
                self.rig.disk.after_power_cut(seed, profile)
            }
            None => {
                self.figures.reach("a kill");
                self.rig.disk.after_kill()
            }
        }
    }

    /// Recovers, perhaps on a disk that fails in the middle of it, and compares.
    fn recover(&mut self, mut image: SimDisk, goes_on: bool) -> Result<(), Finding> {
        let mut failed = false;
        for _ in 0..self.draw.below(TRIES_MAX) {
            image = match self.try_recover(&image)? {
                None => break,
                Some(next) => next,
            };
            failed = true;
        }
        image.clear_faults();
        image.set_free_bytes(1 << 30);
        let opened = self.options.open(&image);
        self.rig = opened.map_err(|e| Finding(format!("a healed disk is refused: {e}")))?;
        self.figures.recoveries += 1;
        if failed {
            self.figures.reach("recovery failed and succeeded later");
        }
        self.check_recovered()?;
        if goes_on {
            self.take_back_topics();
        }
        Ok(())
    }

    /// A topic whose deletion was lost is there again.
    pub(super) fn take_back_topics(&mut self) {
        let keys = &self.keys;
        let expected = self.model.state(self.model.acknowledged);
        let gone = |topic: &u8| !keys.iter().any(|k| k.topic == key(*topic, 0).topic);
        let back: Vec<_> = expected
            .logs
            .keys()
            .filter(|k| !keys.contains(k))
            .copied()
            .collect();
        assert!(back.iter().all(|k| gone(&k.topic.as_bytes()[0])));
        self.keys.extend(back);
    }

    /// One try while faults are due. `None` if the engine would have started; otherwise the disk for the next try.
    fn try_recover(&mut self, image: &SimDisk) -> Result<Option<SimDisk>, Finding> {
        for rate in &self.options.rates {
            if self.draw.chance(50) {
                image.inject(Fault::next(rate.kind, rate.prefix).after(self.draw.below(12)));
            }
        }
        if self.options.tight && self.draw.chance(50) {
            image.set_free_bytes(self.draw.below(20 << 10));
        }
        let opened = self.options.open(image);
        let strikes = image.take_strikes();
        let struck = |kinds: &[FaultKind]| strikes.iter().any(|strike| kinds.contains(&strike.kind));
        let error = match opened {
            // It is killed at once, or served: what follows is the same.
            Ok(rig) => {
                drop(rig);
                image.clear_faults();
                return Ok(None);
            }
            Err(error) => error,
        };
        match &error {
            OpenError::Io(e) if e.kind() == io::ErrorKind::StorageFull => {
                self.figures.reach("the disk was full in recovery");
            }
            OpenError::Io(e) => ensure(!strikes.is_empty(), || format!("recovery failed by itself: {e}"))?,
            refused => ensure(struck(&[FaultKind::ReadFails]), || format!("recovery: {refused}"))?,
        }
        if struck(&[FaultKind::ReadFails]) {
            self.figures.reach("reading failed in recovery");
        }
        if struck(&[FaultKind::SyncFails, FaultKind::SyncNoSpace]) {
            self.figures.reach("a sync failed in recovery");
        }
        image.clear_faults();
        let aborted = struck(&[FaultKind::SyncDirFails, FaultKind::SyncDirNoSpace]);
        let seed = self.draw.below(u64::MAX);
        Ok(Some(if aborted || self.draw.chance(40) {
            image.after_power_cut(seed, CutProfile::Ext4)
        } else {
            image.after_kill()
        }))
    }

    fn check_recovered(&mut self) -> Result<(), Finding> {
        let report = self.rig.store.report().clone();
        let acknowledged = self.model.acknowledged;
        ensure(report.end >= acknowledged, || {
            format!(
                "recovered to group {}, acknowledged was {acknowledged}",
                report.end
            )
        })?;
        ensure(report.lost_groups == 0, || format!("{report:?}"))?;
        if report.unfinished {
            self.figures.reach("a torn group was dropped");
        }
        if self.model.has_above(report.end) {
            self.figures.reach("a group without acknowledgement was gone");
        }
        if self.model.has_above(acknowledged) && report.end > acknowledged {
            self.figures.reach("a group without acknowledgement was there");
        }
        self.model.forget_above(report.end);
        let expected = self.model.state(report.end);
        check(&self.rig, &expected, "recovered")?;
        // Once more, of what this recovery left: the same.
        let seed = self.draw.below(u64::MAX);
        let again = self.rig.disk.after_power_cut(seed, CutProfile::DropAll);
        let again = self.options.open(&again);
        let again = again.map_err(|e| Finding(format!("recovering again: {e}")))?;
        self.figures.recoveries += 1;
        check(&again, &expected, "recovered twice")
    }

    /// Faults off: everything works, and a clean stop leaves nothing to replay.
    fn finish(mut self) -> Result<Figures, Finding> {
        self.rig.disk.clear_faults();
        for _ in 0..20 {
            self.produce()?;
            self.commit();
            let result = self.rig.inline.applier_round(true);
            self.worked(result, "the disk was full at the end");
        }
        self.acknowledge();
        let failure = self.rig.store.status().failure;
        ensure(failure.is_none(), || {
            format!("nothing was wrong any more, but {failure:?}")
        })?;
        let before = everything(&self.rig)?;
        let Self {
            rig,
            options,
            model,
            mut figures,
            ..
        } = self;
        let disk = rig.disk.clone();
        rig.inline.stop().map_err(|e| Finding(format!("stopping: {e}")))?;
        let again = options.open(&disk.after_kill());
        let again = again.map_err(|e| Finding(format!("after a clean stop: {e}")))?;
        figures.recoveries += 1;
        ensure(again.store.report().groups == 0, || {
            "a clean stop left something to replay".to_owned()
        })?;
        let expected = model.state(again.store.report().end);
        check(&again, &expected, "after a clean stop")?;
        ensure(everything(&again)? == before, || {
            "a clean stop changed something".to_owned()
        })?;
        Ok(figures)
    }
}

/// What a strike that was survived is counted as.
fn situation(strike: &Strike) -> Option<&'static str> {
    let place = strike.path.split('/').next().unwrap_or_default();
    let place = if place.starts_with("checkpoint") {
        "checkpoint"
    } else {
        place
    };
    Some(match (strike.kind, place) {
        (FaultKind::WriteFails, "journal") => "a write to the journal failed",
        (FaultKind::WriteFails, "topics") => "a write to a segment failed",
        (FaultKind::SyncFails, "journal") => "a sync of the journal failed",
        (FaultKind::SyncNoSpace, "journal") => "a sync of the journal found no space",
        (FaultKind::SyncFails, "topics") => "a sync of a segment failed",
        (FaultKind::SyncNoSpace, "topics") => "a sync of a segment found no space",
        (FaultKind::SyncFails | FaultKind::SyncNoSpace, "checkpoint") => "a sync of a checkpoint failed",
        (FaultKind::SyncDirFails | FaultKind::SyncDirNoSpace, _) => "a sync of a directory failed",
        (FaultKind::ReadFails, _) => "reading failed",
        (FaultKind::ReadInterrupted, _) => "reading was interrupted",
        (FaultKind::WriteLost, _) => "a write was lost",
        (FaultKind::WriteMisdirected, _) => "a write went elsewhere",
        (FaultKind::SyncLies, _) => "a sync kept sectors back",
        _ => return None,
    })
}
