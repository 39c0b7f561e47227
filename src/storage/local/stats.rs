//! What the journal counts about its groups.

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

/// The numbers at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsNow {
    /// Batches per group: how many appends shared one sync.
    pub batches: HistogramNow,
    /// Records per group.
    pub records: HistogramNow,
    /// Microseconds from the moment a group is taken to its being durable.
    pub commits: HistogramNow,
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

    pub(super) fn now(&self) -> StatsNow {
        StatsNow {
            batches: self.batches.now(),
            records: self.records.now(),
            commits: self.commits.now(),
        }
    }
}
