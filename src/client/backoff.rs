//! Waiting times between attempts: doubling, bounded, with jitter so that clients do not come back all at once.

use std::time::Duration;

/// How long to wait after failures in a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pub(super) first: Duration,
    pub(super) max: Duration,
}

impl Backoff {
    /// Between half and the whole of `first * 2^(failures - 1)`, at most `max`. `random` lies in 0..1.
    pub(super) fn after(self, failures: u32, random: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let whole = self.first.saturating_mul(1 << doublings).min(self.max);
        whole.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_doubles_up_to_the_maximum_and_jitters_down_to_half() {
        let backoff = Backoff {
            first: Duration::from_millis(50),
            max: Duration::from_secs(2),
        };
        let whole: Vec<_> = (1..=7).map(|n| backoff.after(n, 1.0).as_millis()).collect();
        assert_eq!(whole, [50, 100, 200, 400, 800, 1600, 2000]);
        assert_eq!(backoff.after(1, 0.0), Duration::from_millis(25));
        assert_eq!(backoff.after(u32::MAX, 1.0), Duration::from_secs(2));
    }
}
