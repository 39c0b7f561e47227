//! What the journal counts about its groups, and why segments are closed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::group::Group;
use crate::telemetry::{Histogram, HistogramNow};

/// Counted per durable group that holds anything.
#[derive(Debug)]
pub(super) struct Stats {
    batches: Histogram,
    records: Histogram,
    commits: Histogram,
}

/// Why a segment was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RollReason {
    /// The next batch does not fit any more.
    Size,
    /// It is old enough.
    Age,
    /// Nothing of its partition is left.
    Emptied,
}

/// Segments closed since the start, by reason.
#[derive(Debug, Default)]
pub(super) struct Rolls {
    size: AtomicU64,
    age: AtomicU64,
    emptied: AtomicU64,
}

impl Rolls {
    fn counter(&self, reason: RollReason) -> (&'static str, &AtomicU64) {
        match reason {
            RollReason::Size => ("size", &self.size),
            RollReason::Age => ("age", &self.age),
            RollReason::Emptied => ("emptied", &self.emptied),
        }
    }

    pub(super) fn count(&self, reason: RollReason) {
        self.counter(reason).1.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> [(&'static str, u64); 3] {
        [RollReason::Size, RollReason::Age, RollReason::Emptied].map(|reason| {
            let (name, count) = self.counter(reason);
            (name, count.load(Ordering::Relaxed))
        })
    }
}

/// The numbers at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsNow {
    /// Batches per group: how many appends shared one sync.
    pub batches: HistogramNow,
    /// Records per group.
    pub records: HistogramNow,
    /// Microseconds from the moment a group is taken to its being durable.
    pub commits: HistogramNow,
    /// Per reason: its name, and how many segments were closed for it.
    pub rolls: [(&'static str, u64); 3],
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            batches: Histogram::of_amounts(),
            records: Histogram::of_amounts(),
            commits: Histogram::of_latencies(),
        }
    }
}

impl Stats {
    /// Counts a group that has become durable; seals are no work of anybody's.
    pub(super) fn committed(&self, group: &Group, took: Duration) {
        if group.appends.is_empty() {
            return;
        }
        let records = group
            .appends
            .iter()
            .map(|batch| batch.last.next().since(batch.base));
        self.records.add(records.sum());
        self.batches.add(group.appends.len() as u64);
        self.commits.observe(took);
    }

    pub(super) fn now(&self, rolls: &Rolls) -> StatsNow {
        StatsNow {
            batches: self.batches.now(),
            records: self.records.now(),
            commits: self.commits.now(),
            rolls: rolls.now(),
        }
    }
}
