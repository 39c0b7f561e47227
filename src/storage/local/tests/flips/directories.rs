//! Three small data directories, as a kill or a stop left them, and what was written to each.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;

/// A batch as it was acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) base: Offset,
    pub(super) last: Offset,
    pub(super) bytes: Bytes,
    /// The group that it is in.
    pub(super) lsn: Lsn,
}

/// A directory, and what is known of it from outside.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) disk: SimDisk,
    /// Of the partitions that there are: their batches, trimmed ones included.
    pub(super) sent: BTreeMap<PartitionKey, Vec<Sent>>,
    pub(super) starts: BTreeMap<PartitionKey, Offset>,
    /// The last group, which may be taken for an unfinished one.
    pub(super) last: Lsn,
    /// The state above the engine, and the same without the last group.
    pub(super) above: Above,
    pub(super) above_before_last: Above,
}

/// Segments of two or three batches, and an index entry for every second one.
pub(super) const TINY: LogConfig = LogConfig {
    segment_bytes: 220,
    index_interval_bytes: 100,
    ..CONFIG
};

const A: fn() -> PartitionKey = || key(1, 0);
const B: fn() -> PartitionKey = || key(2, 0);
/// Deleted in the end.
const GONE: u8 = 7;

/// Fills a directory.
struct Maker {
    rig: Rig,
    rng: fastrand::Rng,
    sent: BTreeMap<PartitionKey, Vec<Sent>>,
    starts: BTreeMap<PartitionKey, Offset>,
    deleted: BTreeSet<TopicId>,
    before: Above,
}

impl Maker {
    fn new(seed: u64) -> Self {
        let mut rig = Rig::new(&small());
        rig.config = TINY;
        Self {
            rig,
            rng: fastrand::Rng::with_seed(seed),
            sent: BTreeMap::new(),
            starts: BTreeMap::new(),
            deleted: BTreeSet::new(),
            before: Above::default(),
        }
    }

    fn note_before(&mut self) {
        self.before = self.rig.above.lock().unwrap().clone();
    }

    /// One group with a batch for each of these, all of a few bytes.
    fn group(&mut self, keys: &[PartitionKey]) {
        let records = self.rng.usize(1..3);
        let bytes = self.rng.usize(1..5);
        self.group_of(keys, records, bytes);
    }

    fn group_of(&mut self, keys: &[PartitionKey], records: usize, bytes: usize) {
        self.note_before();
        let mut placed = Vec::new();
        for key in keys {
            let fill = self.rng.u8(..);
            // Of one group, each a step of its own, so that a partition may have several.
            let batch = self.rig.batch(*key, records, bytes, fill);
            let header = *batch.header();
            placed.push((*key, header.base_offset, header.last_offset(), batch.to_bytes()));
            self.rig.submit(vec![(*key, batch)], &[]);
        }
        assert_eq!(self.rig.inline.journal().unwrap(), Round::Worked);
        let lsn = self.rig.durable();
        for (key, base, last, bytes) in placed {
            self.sent.entry(key).or_default().push(Sent {
                base,
                last,
                bytes,
                lsn,
            });
        }
    }

    fn trim(&mut self, key: PartitionKey, to: Offset) {
        self.note_before();
        self.rig.trim(key, to);
        assert_eq!(self.rig.inline.journal().unwrap(), Round::Worked);
        self.starts.insert(key, to);
    }

    fn delete(&mut self, topic: TopicId) {
        self.note_before();
        self.rig.submit(Vec::new(), &[topic]);
        assert_eq!(self.rig.inline.journal().unwrap(), Round::Worked);
        self.deleted.insert(topic);
    }

    fn seal(&mut self) {
        self.note_before();
        assert_eq!(self.rig.inline.seal(), Round::Worked);
    }

    fn apply(&mut self) {
        while self.rig.inline.apply().unwrap() == Round::Worked {}
    }

    fn checkpoint(&mut self) {
        self.apply();
        self.rig.inline.checkpoint().unwrap();
    }

    /// The base of the `n`th batch of a partition.
    fn base(&self, key: PartitionKey, n: usize) -> Offset {
        self.sent[&key][n].base
    }

    fn left(mut self, stopped: bool) -> Directory {
        let last = self.rig.durable();
        let above = self.rig.above.lock().unwrap().clone();
        self.sent.retain(|key, _| !self.deleted.contains(&key.topic));
        let disk = self.rig.disk.clone();
        if stopped {
            self.rig.inline.stop().unwrap();
        }
        Directory {
            disk: disk.after_kill(),
            sent: self.sent,
            starts: self.starts,
            last,
            above,
            above_before_last: self.before,
        }
    }
}

/// Killed before anything was applied; the last group is not proven to be durable.
pub(super) fn journal_only(seed: u64) -> Directory {
    let mut maker = Maker::new(seed);
    maker.group(&[A()]);
    maker.group(&[PartitionKey::META]);
    maker.group(&[A(), B()]);
    maker.seal();
    let second = maker.base(A(), 1);
    maker.trim(A(), second);
    maker.group(&[key(GONE, 0)]);
    maker.delete(TopicId::from_bytes([GONE; 16]));
    maker.group(&[B()]);
    maker.left(false)
}

/// Stopped in order: everything is in segments, and nothing of the journal is needed.
pub(super) fn stopped(seed: u64) -> Directory {
    let mut maker = Maker::new(seed);
    maker.group(&[A(), B(), A(), PartitionKey::META]);
    maker.group(&[A(), A(), B(), A(), A()]);
    maker.left(true)
}

/// Killed in the middle: a ring that has gone round, two checkpoints, segments that ended, one of them below a log start, a
/// deleted topic, groups that are applied and groups that are not, and a seal at the end.
pub(super) fn mixed(seed: u64) -> Directory {
    let mut maker = Maker::new(seed);
    // Two of these fill a journal file.
    for round in 0..7 {
        maker.group_of(&[key(GONE, 0)], 1, 25_000);
        if round % 2 == 1 {
            maker.checkpoint();
        }
    }
    maker.group_of(&[A(), A(), A(), B(), PartitionKey::META], 2, 2);
    maker.checkpoint();
    maker.group(&[A(), B(), A()]);
    maker.delete(TopicId::from_bytes([GONE; 16]));
    maker.checkpoint();
    // Applied, above the checkpoint: there are two copies.
    maker.group(&[A(), PartitionKey::META]);
    maker.apply();
    // In the journal alone.
    maker.group(&[A(), B()]);
    // Into the middle of a batch.
    let start = maker.base(A(), 1).next();
    maker.trim(A(), start);
    maker.group(&[B()]);
    maker.seal();
    maker.left(false)
}
