//! A histogram that many threads add to without a lock. Knows nothing of how it is shown.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds for latencies, inclusive, in microseconds: 0.5 ms to 10 s.
pub const LATENCY_BOUNDS_US: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Upper bounds for amounts, inclusive: powers of four up to about a million.
pub const AMOUNT_BOUNDS: &[u64] = &[
    1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576,
];

/// Counts of values by size, in whole units: microseconds for latencies, pieces for amounts.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One per bound, and one for what is above all of them.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What a histogram holds at one moment. Values that are added meanwhile may be missing from one of the parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramNow {
    /// Upper bound, inclusive, and how many values are at or below it and above the bound before.
    pub buckets: Vec<(u64, u64)>,
    /// How many values are above the last bound.
    pub above: u64,
    /// All values added up.
    pub sum: u64,
}

impl Histogram {
    /// An empty histogram with these upper bounds, in ascending order.
    pub fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self {
            bounds,
            counts,
            sum: AtomicU64::new(0),
        }
    }

    /// For durations, in microseconds.
    pub fn of_latencies() -> Self {
        Self::new(LATENCY_BOUNDS_US)
    }

    /// For amounts of things.
    pub fn of_amounts() -> Self {
        Self::new(AMOUNT_BOUNDS)
    }

    /// Adds a duration to a histogram of latencies.
    pub fn observe(&self, duration: Duration) {
        self.add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// Adds a value.
    pub fn add(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// What it holds now.
    pub fn now(&self) -> HistogramNow {
        let mut counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        HistogramNow {
            buckets: self.bounds.iter().copied().zip(counts.by_ref()).collect(),
            above: counts.next().unwrap_or(0),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

impl HistogramNow {
    /// How many values there are.
    pub fn count(&self) -> u64 {
        let within: u64 = self.buckets.iter().map(|(_, count)| count).sum();
        within + self.above
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_the_first_bucket_that_is_not_below_it() {
        let histogram = Histogram::new(&[10, 20]);
        for value in [0, 10, 11, 20, 21, 1_000] {
            histogram.add(value);
        }
        let now = histogram.now();
        assert_eq!(now.buckets, [(10, 2), (20, 2)]);
        assert_eq!((now.above, now.sum, now.count()), (2, 1_062, 6));
    }

    #[test]
    fn durations_are_counted_in_microseconds() {
        let histogram = Histogram::of_latencies();
        histogram.observe(Duration::from_millis(3));
        let now = histogram.now();
        assert_eq!(now.sum, 3_000);
        assert_eq!(
            now.buckets.iter().find(|(_, count)| *count == 1),
            Some(&(5_000, 1))
        );
    }

    #[test]
    fn bounds_ascend() {
        for bounds in [LATENCY_BOUNDS_US, AMOUNT_BOUNDS] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
    }
}
