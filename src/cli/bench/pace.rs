//! An open loop: a record is due at its time, whether the ones before were answered or not.
//!
//! A thread of its own, because the runtime's timers count in whole milliseconds.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::rt::Clock;

/// The scheduler wakes a thread so much too late at most, usually; what is left is waited out awake.
const AWAKE_BEFORE_DUE: Duration = Duration::from_micros(55);

/// When each record is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) start: Duration,
    pub(super) rate_per_s: u32,
}

impl Schedule {
    pub(super) fn due(&self, number: u64) -> Duration {
        let rate = u64::from(self.rate_per_s.max(1));
        // Whole seconds apart from the rest, so that nothing overflows or drifts.
        let rest = number % rate * 1_000_000_000 / rate;
        self.start + Duration::from_secs(number / rate) + Duration::from_nanos(rest)
    }
}

/// Blocks until this moment.
pub(super) fn wait_until(clock: &Arc<dyn Clock>, due: Duration) {
    loop {
        let left = due.saturating_sub(clock.mono());
        if left.is_zero() {
            return;
        }
        match left.checked_sub(AWAKE_BEFORE_DUE) {
            Some(asleep) if !asleep.is_zero() => thread::park_timeout(asleep),
            _ => std::hint::spin_loop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::SystemClock;

    #[test]
    fn records_are_due_evenly_and_without_drift() {
        let schedule = Schedule {
            start: Duration::from_secs(1),
            rate_per_s: 3,
        };
        assert_eq!(schedule.due(0), Duration::from_secs(1));
        assert_eq!(schedule.due(1), Duration::from_nanos(1_333_333_333));
        assert_eq!(schedule.due(3), Duration::from_secs(2));
        assert_eq!(schedule.due(3_000_000), Duration::from_secs(1_000_001));
    }

    #[test]
    fn waiting_never_ends_early() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        for micros in [0, 10, 300] {
            let due = clock.mono() + Duration::from_micros(micros);
            wait_until(&clock, due);
            assert!(clock.mono() >= due);
        }
    }
}
