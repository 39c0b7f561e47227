//! What a seed draws. A seed alone would say nothing after the next change of these lines: the whole set is printed.

use super::*;
use crate::disk::sim::{CutProfile, FailedSync, FaultKind, Rng};

/// A generator with the questions that a swarm asks.
#[derive(Clone, Debug)]
pub(super) struct Draw(Rng);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(Rng::new(seed))
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0.below(end)
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.0.below(100) < percent
    }

    pub(super) fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        let nth = self.0.below(all.len() as u64);
        all[usize::try_from(nth).unwrap()].clone()
    }
}

/// A kind of fault, where it strikes, and how often in a thousand operations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) kind: FaultKind,
    pub(super) prefix: &'static str,
    pub(super) per_mille: u64,
    /// How often in a row.
    pub(super) times: u64,
}

/// Faults that must be survived, and where.
const OPEN_FAULTS: [(FaultKind, &str); 22] = [
    (FaultKind::WriteFails, "journal/"),
    (FaultKind::WriteFails, "topics/"),
    (FaultKind::WriteFails, "checkpoint"),
    (FaultKind::SyncFails, "journal/"),
    (FaultKind::SyncFails, "topics/"),
    (FaultKind::SyncFails, "checkpoint"),
    (FaultKind::SyncNoSpace, "journal/"),
    (FaultKind::SyncNoSpace, "topics/"),
    (FaultKind::SyncNoSpace, "checkpoint"),
    (FaultKind::NoSpace, "topics/"),
    (FaultKind::NoSpace, "checkpoint"),
    (FaultKind::NoSpaceMidway, "journal/"),
    (FaultKind::NoSpaceMidway, "topics/"),
    (FaultKind::NoSpaceMidway, "checkpoint"),
    (FaultKind::AllocateNoSpace, "topics/"),
    (FaultKind::SyncDirFails, "topics"),
    (FaultKind::SyncDirNoSpace, "topics"),
    (FaultKind::ChangeFails, "topics/"),
    (FaultKind::ChangeNoSpace, ""),
    (FaultKind::ReadFails, ""),
    (FaultKind::ReadInterrupted, ""),
    (FaultKind::ReadShort, ""),
];

/// What one seed is about.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) seed: u64,
    pub(super) settings: Settings,
    pub(super) config: LogConfig,
    pub(super) disk: SimOptions,
    pub(super) topics: u8,
    pub(super) partitions: u32,
    /// A partition of the broker's own, which recovery must not do without.
    pub(super) internal: bool,
    pub(super) value_bytes_max: u64,
    pub(super) large_batches: bool,
    pub(super) steps: bool,
    pub(super) trims: bool,
    pub(super) deletions: bool,
    pub(super) time_passes: bool,
    pub(super) tight: bool,
    /// Whether the disk lies: what is damaged must be told, and need not be there.
    pub(super) lies: bool,
    pub(super) rates: Vec<Rate>,
    pub(super) cuts: Vec<CutProfile>,
    pub(super) lives: u64,
    pub(super) operations: u64,
}

impl Options {
    pub(super) fn draw(seed: u64) -> Self {
        let mut draw = Draw::new(seed);
        let d = &mut draw;
        let large_batches = d.chance(15);
        let file_bytes = if large_batches {
            1 << 20
        } else {
            d.one_of(&[64 << 10, 96 << 10, 256 << 10])
        };
        let settings = Settings {
            journal_file_bytes: file_bytes,
            journal_first_file_bytes: d.one_of(&[64 << 10, file_bytes]).max(if large_batches {
                file_bytes
            } else {
                0
            }),
            journal_files: d.one_of(&[2, 3, 4]),
            memory_tail_bytes: d.one_of(&[256 << 10, 1 << 20]).max(4 * file_bytes),
            reserve_bytes: d.one_of(&[0, 64 << 10]),
            open_files_max: d.one_of(&[2, 3, 16]),
            apply_after: d.one_of(&[Duration::ZERO, Duration::from_secs(2)]),
            ..Settings::default()
        };
        let config = LogConfig {
            segment_bytes: d.one_of(&[8 << 10, 16 << 10, 128 << 10]),
            index_interval_bytes: d.one_of(&[512, 4096]),
            segment_ms: d.one_of(&[3000, u64::MAX]),
            ..CONFIG
        };
        let disk = SimOptions {
            seed,
            direct: d.chance(75),
            write_back: d.chance(50),
            failed_sync: d.one_of(&[FailedSync::KeepsCache, FailedSync::Reverts]),
            ..SimOptions::default()
        };
        let rates = Self::draw_rates(d);
        // A sector of garbage in the block that a segment ends in is damage that nobody can undo: no `Nasty`.
        let profiles = [CutProfile::Ext4, CutProfile::Posix, CutProfile::DropAll];
        Self {
            seed,
            settings,
            config,
            disk,
            topics: d.one_of(&[1, 2, 3]),
            partitions: d.one_of(&[1, 2, 4]),
            internal: d.chance(30),
            value_bytes_max: d.one_of(&[100, 900, 4000]),
            large_batches,
            steps: d.chance(60),
            trims: d.chance(50),
            deletions: d.chance(40),
            time_passes: d.chance(50),
            tight: d.chance(30),
            lies: false,
            rates,
            cuts: profiles.into_iter().filter(|_| d.chance(60)).collect(),
            lives: 1 + d.below(3),
            operations: 20 + d.below(50),
        }
    }

    fn draw_rates(d: &mut Draw) -> Vec<Rate> {
        let mut rates = Vec::new();
        for (kind, prefix) in OPEN_FAULTS {
            assert_eq!(kind.class(), FaultClass::Survive);
            if d.chance(25) {
                let per_mille = d.one_of(&[10, 30, 100]);
                rates.push(Rate {
                    kind,
                    prefix,
                    per_mille,
                    times: 1,
                });
            }
        }
        rates
    }

    /// Keys that a life may begin with.
    pub(super) fn keys(&self) -> Vec<PartitionKey> {
        let topics = 1..=self.topics;
        let mut keys: Vec<_> = topics
            .flat_map(|topic| (0..self.partitions).map(move |partition| key(topic, partition)))
            .collect();
        if self.internal {
            keys.push(PartitionKey::META);
        }
        keys
    }

    pub(super) fn open(&self, disk: &SimDisk) -> Result<Rig, OpenError> {
        let mut rig = Rig::open(disk, &self.settings)?;
        rig.config = self.config;
        Ok(rig)
    }
}
