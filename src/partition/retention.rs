//! What retention removes from a partition, and when it will the next time.
//!
//! Whole segments, oldest first, by age and by size; age is that of the newest append in a segment, by the broker's clock,
//! never a producer's. Source of the rules: `retention.ms` and `retention.bytes` as in Kafka.

use crate::model::{Offset, Timestamp};

/// A segment as retention sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedSegment {
    /// Behind its last record.
    pub end: Offset,
    /// Bytes of its batches.
    pub bytes: u64,
    /// Append time of its newest batch.
    pub newest_append: Timestamp,
    /// Nothing is appended to it any more.
    pub sealed: bool,
}

/// What is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Segments whose newest record is older go; `None`: whatever their age.
    pub age_ms_max: Option<u64>,
    /// Oldest segments go while at least so many bytes stay without them; `None`: whatever the size.
    pub bytes_max: Option<u64>,
}

/// Why segments go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Too old.
    Age,
    /// Too much.
    Size,
}

/// What the next deletion waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The clock: it comes with the first look at or behind this time.
    At(Timestamp),
    /// So many more bytes of records.
    AfterBytes(u64),
}

/// The next deletion, if nothing changes but the clock and the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextDeletion {
    /// What lies below goes: the first offset that stays.
    pub upto: Offset,
    /// When.
    pub when: When,
}

/// The first offset that stays now, and why the ones below go; `None`: nothing goes. Without a time nothing is too old.
pub fn due(
    segments: &[RetainedSegment],
    retention: Retention,
    now: Option<Timestamp>,
) -> Option<(Offset, Cause)> {
    let by_age = now.zip(retention.age_ms_max).and_then(|(now, max)| {
        // In order: what is behind a young segment stays, whatever its age, for a log has no holes.
        let old = segments.iter().take_while(|s| age_ms(s, now) > max);
        old.last().map(|s| s.end)
    });
    let by_size = retention.bytes_max.and_then(|max| {
        let mut left = total(segments);
        let goes = |segment: &&RetainedSegment| {
            left = left.saturating_sub(segment.bytes);
            // The one that is written to holds what came last.
            segment.sealed && left >= max
        };
        segments.iter().take_while(goes).last().map(|s| s.end)
    });
    match (by_age, by_size) {
        (Some(age), Some(size)) if size > age => Some((size, Cause::Size)),
        (Some(age), _) => Some((age, Cause::Age)),
        (None, Some(size)) => Some((size, Cause::Size)),
        (None, None) => None,
    }
}

/// What goes next, when nothing is due: the oldest segment, by whichever comes first as far as that can be known: a time
/// is named before an amount.
pub fn next(segments: &[RetainedSegment], retention: Retention) -> Option<NextDeletion> {
    let oldest = segments.first()?;
    let at = retention.age_ms_max.map(|max| {
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        // At the first millisecond that is above the limit.
        When::At(Timestamp(
            oldest.newest_append.0.saturating_add(max).saturating_add(1),
        ))
    });
    let after = retention.bytes_max.map(|max| {
        let left = total(segments).saturating_sub(oldest.bytes);
        When::AfterBytes(max.saturating_sub(left))
    });
    at.or(after).map(|when| NextDeletion {
        upto: oldest.end,
        when,
    })
}

fn total(segments: &[RetainedSegment]) -> u64 {
    segments.iter().map(|s| s.bytes).fold(0, u64::saturating_add)
}

fn age_ms(segment: &RetainedSegment, now: Timestamp) -> u64 {
    u64::try_from(now.0.saturating_sub(segment.newest_append.0)).unwrap_or(0)
}

/// Watches the wall clock against the monotonic one: a jump ahead would make everything old at once.
///
/// After one, ages do not count until the two have agreed for [`STABLE_MS`](Self::STABLE_MS). Source: `docs/guarantees.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockGuard {
    /// Both clocks at the last look, in ms.
    last: Option<(i64, u64)>,
    /// Monotonic time, in ms, up to which ages do not count.
    paused_until: Option<u64>,
}

/// What the guard says about a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Ages count.
    Full,
    /// The wall clock has just jumped ahead by so many ms: ages do not count for a while.
    Jumped(u64),
    /// It had jumped before.
    Paused,
}

impl ClockGuard {
    /// A wall clock that gains more than this between two looks has jumped.
    pub const JUMP_MS: u64 = 10 * 60_000;
    /// So long the clocks must agree before ages count again.
    pub const STABLE_MS: u64 = 30 * 60_000;

    /// Whether it has nothing to compare the next look with.
    pub fn is_new(&self) -> bool {
        self.last.is_none()
    }

    /// What the wall clock is known to have shown before this process began, such as the time of the newest record. Machines
    /// do start with a clock that is years off, and how long a process was away no clock of the next one can tell: so a
    /// gap is judged as a jump.
    pub fn begin(&mut self, known: Timestamp, mono_ms: u64) {
        self.last.get_or_insert((known.0, mono_ms));
    }

    /// A guard that knows what the wall clock had shown before this process began, from the newest record, say. Machines do
    /// start with a clock that is years off, and how long a process was away no clock of the next one can tell: a gap is
    /// judged as a jump.
    pub fn starting(known: Option<Timestamp>, mono_ms: u64) -> Self {
        Self {
            last: known.map(|wall| (wall.0, mono_ms)),
            paused_until: None,
        }
    }

    /// Judges this moment: wall clock in ms since 1970, monotonic clock in ms.
    pub fn look(&mut self, wall: Timestamp, mono_ms: u64) -> Trust {
        let before = self.last.replace((wall.0, mono_ms));
        if let Some((wall_before, mono_before)) = before {
            let moved = u64::try_from(wall.0.saturating_sub(wall_before)).unwrap_or(0);
            let gained = moved.saturating_sub(mono_ms.saturating_sub(mono_before));
            if gained > Self::JUMP_MS {
                self.paused_until = Some(mono_ms.saturating_add(Self::STABLE_MS));
                return Trust::Jumped(gained);
            }
        }
        match self.paused_until {
            Some(until) if mono_ms < until => Trust::Paused,
            _ => {
                self.paused_until = None;
                Trust::Full
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments of ten records: bytes and newest append time; the last one is written to.
    fn segments(of: &[(u64, i64)]) -> Vec<RetainedSegment> {
        let last = of.len() - 1;
        (0..)
            .zip(of)
            .map(|(index, (bytes, newest))| RetainedSegment {
                end: offset(10 * (i64::try_from(index).unwrap() + 1)),
                bytes: *bytes,
                newest_append: Timestamp(*newest),
                sealed: index != last,
            })
            .collect()
    }

    fn offset(n: i64) -> Offset {
        Offset::new(n).unwrap()
    }

    fn keep(age_ms_max: Option<u64>, bytes_max: Option<u64>) -> Retention {
        Retention {
            age_ms_max,
            bytes_max,
        }
    }

    #[test]
    fn what_is_too_old_goes_whole_segments_at_a_time() {
        let all = segments(&[(100, 1_000), (100, 2_000), (100, 3_000)]);
        for (now, goes) in [
            (1_000, None),
            (1_500, None),
            (1_501, Some(10)),
            (2_501, Some(20)),
            // The active one as well: a quiet topic becomes empty.
            (3_501, Some(30)),
            (i64::MAX, Some(30)),
        ] {
            let found = due(&all, keep(Some(500), None), Some(Timestamp(now)));
            assert_eq!(found, goes.map(|upto| (offset(upto), Cause::Age)), "{now}");
        }
        assert_eq!(due(&all, keep(Some(500), None), None), None, "no time is trusted");
        assert_eq!(due(&all, keep(None, None), Some(Timestamp(i64::MAX))), None);
    }

    #[test]
    fn an_old_segment_behind_a_young_one_waits_for_it() {
        let all = segments(&[(100, 9_000), (100, 1_000), (100, 9_500)]);
        assert_eq!(due(&all, keep(Some(500), None), Some(Timestamp(9_100))), None);
    }

    #[test]
    fn size_leaves_at_least_what_is_to_be_kept_and_the_active_segment() {
        let all = segments(&[(100, 0), (200, 0), (300, 0), (50, 0)]);
        for (max, goes) in [
            (651, None),
            (550, Some(10)),
            (551, None),
            (350, Some(20)),
            (50, Some(30)),
            (0, Some(30)),
        ] {
            let found = due(&all, keep(None, Some(max)), Some(Timestamp(0)));
            assert_eq!(found, goes.map(|upto| (offset(upto), Cause::Size)), "{max}");
        }
    }

    #[test]
    fn the_limit_that_removes_more_names_the_cause() {
        let all = segments(&[(100, 0), (100, 5_000), (100, 9_000)]);
        let both = |age, bytes| due(&all, keep(Some(age), Some(bytes)), Some(Timestamp(6_000)));
        assert_eq!(both(2_000, 250), Some((offset(10), Cause::Age)));
        assert_eq!(both(2_000, 100), Some((offset(20), Cause::Size)));
    }

    #[test]
    fn the_next_deletion_comes_true() {
        let all = segments(&[(100, 1_000), (100, 2_000), (100, 3_000)]);
        let by_age = keep(Some(500), None);
        let Some(NextDeletion {
            upto,
            when: When::At(at),
        }) = next(&all, by_age)
        else {
            panic!("no time")
        };
        assert_eq!(due(&all, by_age, Some(Timestamp(at.0 - 1))), None);
        assert_eq!(due(&all, by_age, Some(at)), Some((upto, Cause::Age)));
        let by_size = keep(None, Some(1_000));
        let Some(NextDeletion {
            when: When::AfterBytes(bytes),
            ..
        }) = next(&all, by_size)
        else {
            panic!("no amount")
        };
        let mut grown = all.clone();
        grown[2].bytes += bytes - 1;
        assert_eq!(due(&grown, by_size, None), None);
        grown[2].bytes += 1;
        assert_eq!(due(&grown, by_size, None), Some((offset(10), Cause::Size)));
        assert_eq!(next(&all, keep(None, None)), None);
        assert_eq!(next(&[], by_age), None);
    }

    #[test]
    fn ages_do_not_count_behind_a_jump_of_the_clock() {
        const MINUTE: u64 = 60_000;
        let mut guard = ClockGuard::default();
        let wall = |minutes: u64| Timestamp(i64::try_from(minutes * MINUTE).unwrap());
        assert_eq!(guard.look(wall(1_000), 0), Trust::Full);
        assert_eq!(guard.look(wall(1_001), MINUTE), Trust::Full);
        // Ten minutes more than there were is the limit.
        assert_eq!(guard.look(wall(1_012), 2 * MINUTE), Trust::Full);
        assert_eq!(guard.look(wall(3_013), 3 * MINUTE), Trust::Jumped(2_000 * MINUTE));
        assert_eq!(guard.look(wall(3_014), 4 * MINUTE), Trust::Paused);
        // Corrected: a jump back is none, and does not end the pause either.
        assert_eq!(guard.look(wall(1_015), 5 * MINUTE), Trust::Paused);
        assert_eq!(guard.look(wall(1_042), 32 * MINUTE), Trust::Paused);
        assert_eq!(guard.look(wall(1_043), 33 * MINUTE), Trust::Full);
    }

    #[test]
    fn a_clock_that_was_set_wrong_while_nobody_looked_is_not_believed_at_once() {
        let mut guard = ClockGuard::default();
        assert!(guard.is_new());
        guard.begin(Timestamp(5_000), 70);
        assert!(!guard.is_new());
        let jump = i64::try_from(ClockGuard::JUMP_MS).unwrap();
        assert_eq!(
            guard.look(Timestamp(5_001 + jump), 70),
            Trust::Jumped(ClockGuard::JUMP_MS + 1)
        );
        assert_eq!(guard.look(Timestamp(5_002 + jump), 71), Trust::Paused);
        // What was known counts once.
        guard.begin(Timestamp(0), 71);
        let mut near = ClockGuard::default();
        near.begin(Timestamp(5_000), 70);
        assert_eq!(near.look(Timestamp(5_000 + jump), 70), Trust::Full);
        let mut behind = ClockGuard::default();
        behind.begin(Timestamp(i64::MAX), 0);
        assert_eq!(behind.look(Timestamp(0), 0), Trust::Full);
    }

    #[test]
    fn a_clock_that_was_set_while_nobody_looked_is_not_believed_at_once() {
        let jump = i64::try_from(ClockGuard::JUMP_MS).unwrap();
        let first = |known: Option<i64>, wall| {
            let mut guard = ClockGuard::starting(known.map(Timestamp), 70);
            (guard.look(Timestamp(wall), 70), guard.look(Timestamp(wall), 71))
        };
        let gap = Trust::Jumped(ClockGuard::JUMP_MS + 1);
        assert_eq!(first(Some(5_000), 5_001 + jump), (gap, Trust::Paused));
        for (known, wall) in [(Some(5_000), 5_000 + jump), (Some(i64::MAX), 0), (None, i64::MAX)] {
            assert_eq!(first(known, wall), (Trust::Full, Trust::Full), "{known:?}");
        }
    }

    #[test]
    fn a_second_jump_begins_the_pause_anew() {
        let mut guard = ClockGuard::default();
        let day = 86_400_000;
        guard.look(Timestamp(0), 0);
        assert_eq!(guard.look(Timestamp(day), 1), Trust::Jumped(86_399_999));
        let later = ClockGuard::STABLE_MS - 1;
        assert!(matches!(guard.look(Timestamp(3 * day), later), Trust::Jumped(_)));
        assert_eq!(guard.look(Timestamp(3 * day), later + 1), Trust::Paused);
        assert_eq!(
            guard.look(Timestamp(3 * day), later + ClockGuard::STABLE_MS),
            Trust::Full
        );
    }
}
