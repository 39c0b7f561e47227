//! Closing segments: by size when a batch is taken in, by age when a clock says so, also without any batch.
//!
//! A segment is closed by remembering that the next batch begins another one. Nothing of that is written: the batch
//! carries it in its journal entry, so recovery lays files out as the first life did, whatever the clock says by then.

use std::io;
use std::time::Duration;

use super::applier::{Applier, Segments};
use super::log::{LocalLog, LogState};
use super::stats::RollReason;
use crate::model::{Offset, PartitionKey, Timestamp};
use crate::record::crc32c;
use crate::storage::LogConfig;

/// How often segments are looked at; so much later than `segment.ms` says one may be closed.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Files that are given their final length in one round. Each costs two syncs, and appends wait for their turn.
const SEALS_PER_ROUND: usize = 16;

/// The segment that the next batch goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Active {
    /// Offset of its first record.
    pub(super) base: Offset,
    /// Bytes that it will have once everything taken in is applied.
    pub(super) bytes: u64,
    /// Append time of its first batch.
    pub(super) oldest_append: Timestamp,
    /// Monotonic time at which it was first looked at, and its age then.
    pub(super) seen: Option<(Duration, Duration)>,
}

impl Active {
    /// How old it is.
    ///
    /// The wall clock is asked once, for a segment may come from an earlier life; from then on the monotonic one counts.
    /// So a clock that jumps neither ages nor rejuvenates a segment.
    fn age(&mut self, wall: Timestamp, mono: Duration) -> Duration {
        let (since, age_then) = *self.seen.get_or_insert_with(|| {
            let age_ms = wall.0.saturating_sub(self.oldest_append.0);
            (mono, Duration::from_millis(u64::try_from(age_ms).unwrap_or(0)))
        });
        age_then + mono.saturating_sub(since)
    }
}

/// The age at which a segment is closed: `segment.ms` less a part of the jitter that is always the same for this segment.
fn age_max(config: &LogConfig, key: PartitionKey, base: Offset) -> Duration {
    let mut seed = [0; 28];
    seed[..16].copy_from_slice(key.topic.as_bytes());
    seed[16..20].copy_from_slice(&key.partition.0.to_le_bytes());
    seed[20..].copy_from_slice(&base.get().to_le_bytes());
    let parts = u128::from(crc32c(&seed));
    let jitter = (u128::from(config.segment_jitter_ms) * parts) >> 32;
    let jitter = u64::try_from(jitter).unwrap_or(u64::MAX);
    Duration::from_millis(config.segment_ms.saturating_sub(jitter).max(1))
}

impl LogState {
    /// Makes the next batch begin a segment if the active one is old enough. Whether it was.
    pub(super) fn roll_by_age(&mut self, key: PartitionKey, wall: Timestamp, mono: Duration) -> bool {
        let config = self.config;
        let old = |active: &mut Active| active.age(wall, mono) >= age_max(&config, key, active.base);
        self.active.take_if(old).is_some()
    }

    /// Whether the last segment is complete and its file still has to be cut to its end.
    fn waits_for_seal(&self) -> bool {
        let complete = |s: &super::log::SegmentMeta| !s.sealed && s.bytes > 0 && s.end == self.end;
        self.active.is_none() && self.segments.last().is_some_and(complete)
    }
}

impl Segments {
    /// Gives the last segment of a partition its final length, if nothing will be appended to it any more. True: done.
    fn seal_complete(&mut self, log: &LocalLog) -> io::Result<bool> {
        let waits = {
            let state = log.state();
            !state.deleted && state.waits_for_seal()
        };
        if !waits {
            return Ok(false);
        }
        self.seal_active(log)?;
        if let Some(last) = log.state().segments.last_mut() {
            last.sealed = true;
        }
        Ok(true)
    }
}

impl Applier {
    /// Closes segments that are old enough, and gives those that got no batch since their final length, so that a quiet
    /// partition's records can be removed like any others.
    pub(super) fn roll_old_segments(&mut self) -> io::Result<()> {
        let (wall, mono) = (self.engine.clock.wall(), self.engine.clock.mono());
        if mono < self.next_look {
            return Ok(());
        }
        self.next_look = mono + LOOK_EVERY;
        let logs: Vec<_> = self.engine.logs().values().cloned().collect();
        let mut sealed = 0;
        for log in logs {
            if log.state().roll_by_age(log.partition(), wall, mono) {
                self.engine.queue.rolls.count(RollReason::Age);
            }
            if sealed < SEALS_PER_ROUND && self.segments.seal_complete(&log)? {
                sealed += 1;
                self.changed = true;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PartitionId, TopicId};

    const CONFIG: LogConfig = LogConfig {
        segment_bytes: 1 << 20,
        index_interval_bytes: 4096,
        segment_ms: 10_000,
        segment_jitter_ms: 4000,
        memory_bytes: None,
    };

    fn key(partition: u32) -> PartitionKey {
        PartitionKey {
            topic: TopicId::from_bytes([9; 16]),
            partition: PartitionId(partition),
        }
    }

    fn active(oldest_append: i64) -> Active {
        Active {
            base: Offset::ZERO,
            bytes: 1,
            oldest_append: Timestamp(oldest_append),
            seen: None,
        }
    }

    #[test]
    fn jitter_spreads_segments_and_is_the_same_for_the_same_one() {
        let ages: Vec<_> = (0..64).map(|p| age_max(&CONFIG, key(p), Offset::ZERO)).collect();
        assert!(
            ages.iter().all(|a| (6000..=10_000).contains(&a.as_millis())),
            "{ages:?}"
        );
        let distinct: std::collections::BTreeSet<_> = ages.iter().collect();
        assert!(distinct.len() > 32, "{ages:?}");
        assert_eq!(ages[7], age_max(&CONFIG, key(7), Offset::ZERO));
        let exact = LogConfig {
            segment_jitter_ms: 0,
            ..CONFIG
        };
        assert_eq!(age_max(&exact, key(3), Offset::ZERO), Duration::from_secs(10));
        let all = LogConfig {
            segment_jitter_ms: u64::MAX,
            ..CONFIG
        };
        assert!(age_max(&all, key(3), Offset::ZERO) >= Duration::from_millis(1));
    }

    #[test]
    fn a_clock_that_jumps_neither_ages_nor_rejuvenates_a_segment() {
        let second = Duration::from_secs;
        let mut segment = active(1000);
        assert_eq!(
            segment.age(Timestamp(4000), second(50)),
            second(3),
            "of an earlier life"
        );
        assert_eq!(
            segment.age(Timestamp(i64::MAX), second(51)),
            second(4),
            "a jump ahead"
        );
        assert_eq!(
            segment.age(Timestamp(i64::MIN), second(52)),
            second(5),
            "a jump back"
        );
        let mut from_the_future = active(i64::MAX);
        assert_eq!(from_the_future.age(Timestamp(0), second(1)), second(0));
        assert_eq!(from_the_future.age(Timestamp(0), second(9)), second(8));
    }
}
