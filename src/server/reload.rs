//! Reads the configuration again while the broker runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use tracing::{error, warn};

use crate::config::{Configuration, Settings};
use crate::model::Timestamp;
use crate::rt::Clock;
use crate::telemetry::LogControl;

/// When the configuration was read the last time, and whether it could be.
#[derive(Debug)]
pub(super) struct LastReload {
    clock: Arc<dyn Clock>,
    successful: AtomicBool,
    /// Milliseconds since 1970.
    at: AtomicI64,
}

impl LastReload {
    /// The start, which has read it.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            at: AtomicI64::new(clock.wall().0),
            successful: AtomicBool::new(true),
            clock,
        }
    }

    fn note(&self, successful: bool) {
        self.at.store(self.clock.wall().0, Ordering::Relaxed);
        self.successful.store(successful, Ordering::Relaxed);
    }

    pub(super) fn was_successful(&self) -> bool {
        self.successful.load(Ordering::Relaxed)
    }

    pub(super) fn at(&self) -> Timestamp {
        Timestamp(self.at.load(Ordering::Relaxed))
    }
}

/// The configuration in force, and what it takes to change it.
#[derive(Debug)]
pub(super) struct Reloading {
    configuration: Configuration,
    log: LogControl,
    last: Arc<LastReload>,
}

impl Reloading {
    /// Begins with what the broker was started with. `last` is told of every reload.
    pub(super) fn new(configuration: Configuration, log: LogControl, last: Arc<LastReload>) -> Self {
        Self {
            configuration,
            log,
            last,
        }
    }

    /// The settings in force: those of the start, and what was changed since.
    pub(super) fn settings(&self) -> &Settings {
        &self.configuration.settings
    }

    /// Reads all sources again, applies what can be, and says so in one line. On an error everything stays.
    pub(super) fn reload(&mut self) {
        let read = self.configuration.read_again();
        self.last.note(read.is_ok());
        let new = match read {
            Ok(new) => new,
            Err(failure) => {
                return error!(
                    event = "config_reload_failed",
                    error.message = %failure,
                    hint = failure.hint(),
                    "the configuration was not changed"
                );
            }
        };
        let (applied, needs_restart) = self.configuration.apply(&new);
        // Not at info, which is often not written: whoever sent the signal looks for this line.
        warn!(
            event = "config_reloaded",
            applied = applied.join(" "),
            needs_restart = needs_restart.join(" "),
            "the configuration was read again"
        );
        if applied.contains(&"log.level")
            && let Err(failure) = self.log.set_level(&self.settings().log)
        {
            error!(event = "config_reload_failed", error.message = %failure, "the log level stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rt::ManualClock;

    #[test]
    fn a_reload_that_fails_has_its_time_too() {
        let clock = Arc::new(ManualClock::at(Timestamp(5_000)));
        let last = LastReload::new(clock.clone());
        assert_eq!((last.was_successful(), last.at()), (true, Timestamp(5_000)));
        clock.advance(Duration::from_secs(2));
        last.note(false);
        assert_eq!((last.was_successful(), last.at()), (false, Timestamp(7_000)));
    }
}
