//! Calls to the disk that do not come back: how long the oldest is under way, and how many took long.
//!
//! A disk that stands still answers nothing, so whoever waits for it can say nothing either. These are asked from outside.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::warn;

use crate::rt::Clock;

/// A write or sync that takes so long is counted, logged, and shown while it lasts.
const STALL_AFTER: Duration = Duration::from_secs(1);
/// While one takes so long the broker is not ready: what is sent to it would wait.
const NOT_READY_AFTER: Duration = Duration::from_secs(10);

/// A call under way.
#[derive(Debug)]
struct Call {
    number: u64,
    begun: Duration,
    file: &'static str,
}

/// The calls under way, and those that took long.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    /// As many as the engine has threads that write.
    under_way: Mutex<Vec<Call>>,
    next: AtomicU64,
    count: AtomicU64,
}

impl Stalls {
    /// Makes a call to the disk, on a file of this kind; it is seen while it lasts. Returns how long it took.
    pub(crate) fn watch<T>(
        &self,
        clock: &dyn Clock,
        file: &'static str,
        call: impl FnOnce() -> T,
    ) -> (T, Duration) {
        let (number, begun) = (self.next.fetch_add(1, Ordering::Relaxed), clock.mono());
        self.lock().push(Call { number, begun, file });
        let result = call();
        let took = clock.mono().saturating_sub(begun);
        self.lock().retain(|call| call.number != number);
        if took >= STALL_AFTER {
            self.count.fetch_add(1, Ordering::Relaxed);
            let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            warn!(
                event = "disk_stalled",
                file, duration_ms, "a write or sync took long"
            );
        }
        (result, took)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls so far that took a second or more.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How long the oldest call under way has taken; zero below a second.
    pub(crate) fn stalled_for(&self, clock: &dyn Clock) -> Duration {
        self.oldest(clock, STALL_AFTER)
            .map_or(Duration::ZERO, |(age, _)| age)
    }

    /// Why the broker is not ready, if a call takes too long.
    pub(crate) fn why_not_ready(&self, clock: &dyn Clock) -> Option<String> {
        let (age, file) = self.oldest(clock, NOT_READY_AFTER)?;
        let seconds = age.as_secs();
        Some(format!(
            "the disk stands still: a write or sync of a {file} has not come back for {seconds} s"
        ))
    }

    fn oldest(&self, clock: &dyn Clock, at_least: Duration) -> Option<(Duration, &'static str)> {
        let now = clock.mono();
        let calls = self.lock();
        let ages = calls
            .iter()
            .map(|call| (now.saturating_sub(call.begun), call.file));
        ages.max().filter(|(age, _)| *age >= at_least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use crate::rt::ManualClock;

    #[test]
    fn a_call_is_seen_while_it_lasts_and_counted_if_it_took_long() {
        let (stalls, clock) = (Stalls::default(), ManualClock::at(Timestamp(0)));
        let ((), took) = stalls.watch(&clock, "journal", || {
            clock.advance(Duration::from_millis(999));
            assert_eq!(stalls.stalled_for(&clock), Duration::ZERO);
            stalls.watch(&clock, "segment", || ());
            clock.advance(Duration::from_millis(1));
            assert_eq!(stalls.stalled_for(&clock), STALL_AFTER);
            assert_eq!(stalls.why_not_ready(&clock), None);
            clock.advance(Duration::from_secs(9));
            let why = stalls.why_not_ready(&clock).unwrap();
            assert!(why.contains("of a journal has not come back for 10 s"), "{why}");
        });
        assert_eq!((took, stalls.count()), (Duration::from_secs(10), 1));
        assert_eq!(stalls.stalled_for(&clock), Duration::ZERO);
        assert_eq!(stalls.why_not_ready(&clock), None);
    }
}
