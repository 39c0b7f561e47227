//! Time as an argument.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use crate::model::Timestamp;

/// Where time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time. May jump; never decides about order.
    fn wall(&self) -> Timestamp;

    /// Time since some fixed moment; never goes back.
    fn mono(&self) -> Duration;
}

/// The system's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[expect(clippy::disallowed_methods, reason = "this is where time enters")]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where time enters")]
    fn wall(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn mono(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that stands still until told otherwise, for tests and simulations.
#[derive(Debug)]
pub struct ManualClock(Mutex<(i64, Duration)>);

impl ManualClock {
    /// A clock that stands at this wall-clock time.
    pub fn at(wall: Timestamp) -> Self {
        Self(Mutex::new((wall.0, Duration::ZERO)))
    }

    /// Lets both times pass.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().expect("no panics while locked");
        now.0 += i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        now.1 += by;
    }

    /// Sets the wall clock alone, as an operator or a time server does.
    pub fn jump_wall(&self, to: Timestamp) {
        self.0.lock().expect("no panics while locked").0 = to.0;
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        Timestamp(self.0.lock().expect("no panics while locked").0)
    }

    fn mono(&self) -> Duration {
        self.0.lock().expect("no panics while locked").1
    }
}
