//! Two clients with one instance id must not take the place from each other for ever.

use std::time::Duration;

/// How long after a takeover from a living holder the next one is refused.
pub const HOLD_DOWN_FIRST: Duration = Duration::from_secs(2);

/// It doubles with each such takeover, up to this.
pub const HOLD_DOWN_MAX: Duration = Duration::from_secs(60);

/// So long after its end without another takeover a hold-down is forgotten: the next takeover is the first again.
pub const HOLD_DOWN_QUIET: Duration = Duration::from_secs(120);

/// A takeover is refused for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the instance was taken over from a living member a moment ago; again in {} ms",
    retry_after.as_millis()
)]
pub struct HeldDown {
    /// When it may be tried again, from now.
    pub retry_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HoldDown {
    length: Duration,
    end: Duration,
}

impl HoldDown {
    /// What holds after a takeover now.
    pub(super) fn next(before: Option<&Self>, now: Duration) -> Result<Self, HeldDown> {
        let length = match before {
            Some(held) if now < held.end => {
                return Err(HeldDown {
                    retry_after: held.end.saturating_sub(now),
                });
            }
            // Whether the timer has fired already must not matter.
            Some(held) if now < held.forgotten() => held.length.saturating_mul(2).min(HOLD_DOWN_MAX),
            Some(_) | None => HOLD_DOWN_FIRST,
        };
        Ok(Self {
            length,
            end: now.saturating_add(length),
        })
    }

    pub(super) fn forgotten(&self) -> Duration {
        self.end.saturating_add(HOLD_DOWN_QUIET)
    }
}
