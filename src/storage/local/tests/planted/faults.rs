//! Finders: seeds with a disk that fails, is full, or lies.

use super::crash::{check_last_blocks, open, settings};
use std::io;

use super::past::{Client, Past};
use super::*;
use crate::disk::sim::{CutProfile, FailedSync, Fault, FaultKind};
use crate::planted::hunt::Hunt;

/// Errors that the disk tells. Nothing that was acknowledged is lost, and a full disk ends nothing.
pub(super) const FAULTS: Finder = Finder {
    name: "seeds with disk faults",
    unit: "seeds",
    budget: 200,
    clean: 60,
    search: |hunt, first| search(hunt, first, told),
};

/// Writes that the disk says it did and did not. What is missing is refused or reported.
pub(super) const LIES: Finder = Finder {
    name: "seeds with lost writes",
    unit: "seeds",
    budget: 200,
    clean: 40,
    search: |hunt, first| search(hunt, first, lied),
};

const ACTS: usize = 90;
/// A full disk is tried again so often, and must have room by then.
const TRIES: usize = 100;

fn search(hunt: &Hunt, first: u64, one_seed: fn(u64)) {
    let mut seed = first;
    while hunt.goes_on() {
        hunt.attempt(|| one_seed(seed));
        seed += 1;
    }
}

/// A run that ends when the disk fails.
struct Life {
    disk: SimDisk,
    settings: Settings,
    rig: Rig,
    client: Client,
    rng: fastrand::Rng,
    /// Only a disk without room was ordered.
    only_full: bool,
    /// Names could not be synced. A file system that fails at that takes no writes until it is mounted again, so the
    /// next life begins with what is on the disk.
    names_failed: bool,
    /// Whether checkpoints come often.
    hurries: bool,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let failed_sync = if rng.bool() {
            FailedSync::KeepsCache
        } else {
            FailedSync::Reverts
        };
        let disk = SimDisk::new(SimOptions {
            seed,
            failed_sync,
            ..SimOptions::default()
        });
        let settings = settings(seed);
        let rig = open(&disk, &settings).unwrap();
        // A full block between two checkpoints, now and then: of what is not full the checkpoint has a copy.
        let client = Client::new(&rig, Past::default()).with_values_of(10..1500);
        Self {
            disk,
            settings,
            rig,
            client,
            rng,
            only_full: false,
            names_failed: false,
            hurries: false,
        }
    }

    /// Does something of the engine's until it is done; whether the engine is still there.
    fn lasts(&mut self, act: impl Fn(&mut Inline) -> io::Result<()>) -> bool {
        for _ in 0..TRIES {
            match act(&mut self.rig.inline) {
                Ok(()) => return !self.client.has_failed(),
                Err(e) if e.kind() == io::ErrorKind::StorageFull => {}
                Err(e) => {
                    assert!(!self.only_full, "a full disk ended the engine: {e}");
                    return false;
                }
            }
        }
        panic!("there is room again, and the engine does not go on");
    }

    fn act(&mut self) -> bool {
        self.rig
            .clock
            .advance(Duration::from_millis(self.rng.u64(0..900)));
        let write = |inline: &mut Inline| {
            while inline.journal()? == Round::Worked {}
            Ok(())
        };
        while !self.client.ask(&mut self.rng) {
            let room = self.lasts(|inline| {
                inline.make_journal_file()?;
                write(inline)?;
                inline.applier_round(true)
            });
            if !room {
                return false;
            }
        }
        let mut lasts = true;
        if self.rng.u32(0..4) > 0 {
            lasts &= self.lasts(write);
        }
        if lasts && self.rng.u32(0..3) == 0 {
            lasts &= self.lasts(|inline| inline.applier_round(true));
        }
        let every = if self.hurries { 2 } else { 8 };
        if lasts && self.rng.u32(0..every) == 0 {
            lasts &= self.lasts(Inline::checkpoint);
        }
        self.client.look();
        lasts
    }

    /// The next process, then the next power cut.
    fn is_recovered(&mut self, ended_by: Option<CutProfile>) {
        let durable = self.client.durable();
        let past = self.client.past.lock().unwrap().clone();
        let image = match ended_by {
            None => self.disk.after_kill(),
            Some(profile) => self.disk.after_power_cut(self.rng.u64(..), profile),
        };
        let rig = open(&image, &self.settings).unwrap_or_else(|e| panic!("after a fault: {e}"));
        let found = past.check(&rig, durable);
        let second = image.after_power_cut(self.rng.u64(..), CutProfile::DropAll);
        // A copy in the checkpoint would make up for a last block that recovery left to the page cache.
        check_last_blocks(&second, "after a fault and a cut");
        let rig = open(&second, &self.settings).unwrap_or_else(|e| panic!("after a fault and a cut: {e}"));
        past.after(&found).check(&rig, Lsn::ZERO);
    }
}

/// A fault that the disk tells of.
fn order(rng: &mut fastrand::Rng, full: bool) -> Fault {
    let topics = format!("topics/{}", if rng.bool() { "0" } else { "" });
    let (kind, prefix) = if full {
        (FaultKind::NoSpace, topics.as_str())
    } else {
        *rng.choice(&[
            // What a failed sync leaves is the most deceptive.
            (FaultKind::SyncFails, "journal/"),
            (FaultKind::SyncFails, "journal/"),
            (FaultKind::SyncFails, "topics/"),
            (FaultKind::SyncFails, "topics/"),
            (FaultKind::SyncFails, "topics/"),
            (FaultKind::SyncFails, "checkpoint"),
            (FaultKind::SyncDirFails, "topics"),
            (FaultKind::WriteFails, "journal/"),
            (FaultKind::WriteFails, "topics/"),
            (FaultKind::WriteFails, "checkpoint"),
        ])
        .expect("there are some")
    };
    let times = if full { rng.u64(1..6) } else { 1 };
    Fault::next(kind, prefix).after(rng.u64(0..3)).times(times)
}

fn told(seed: u64) {
    let mut life = Life::new(seed);
    life.only_full = life.rng.u32(0..4) == 0;
    let first = life.rng.usize(5..60);
    // Soon, before checkpoints have buried what came of it.
    let last = if life.only_full {
        ACTS
    } else {
        first + life.rng.usize(1..12)
    };
    for n in 0..last {
        if n == first || (life.only_full && life.rng.u32(0..12) == 0) {
            let fault = order(&mut life.rng, life.only_full);
            // Segments are not synced for anything else.
            life.hurries = fault.prefix.starts_with("topics");
            life.names_failed |= fault.kind == FaultKind::SyncDirFails;
            life.disk.inject(fault);
        }
        if !life.act() {
            break;
        }
    }
    life.is_recovered(Some(CutProfile::Ext4));
    life.is_recovered(Some(CutProfile::DropAll));
    if !life.names_failed {
        life.is_recovered(None);
    }
}

/// From some moment on no checkpoint reaches the disk.
fn lied(seed: u64) {
    let mut life = Life::new(seed);
    life.client = life.client.without_internal();
    let first = life.rng.usize(5..60);
    for n in 0..ACTS {
        if n == first {
            life.disk
                .inject(Fault::next(FaultKind::WriteLost, "checkpoint").times(u64::MAX));
        }
        assert!(life.act(), "a disk that lies tells of no error");
    }
    let durable = life.client.durable();
    let past = life.client.past.lock().unwrap().clone();
    match open(&life.disk.after_kill(), &life.settings) {
        Err(OpenError::Refused(_)) => {}
        Err(other) => panic!("{other}"),
        Ok(rig) => {
            past.check_damaged(&rig, durable, false);
        }
    }
}
