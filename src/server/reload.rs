//! Reads the configuration again while the broker runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{error, warn};

use crate::config::{Configuration, Settings};
use crate::telemetry::LogControl;

/// The configuration in force, and what it takes to change it.
#[derive(Debug)]
pub(super) struct Reloading {
    configuration: Configuration,
    log: LogControl,
    successful: Arc<AtomicBool>,
}

impl Reloading {
    /// Begins with what the broker was started with. `successful` becomes false when a reload fails.
    pub(super) fn new(configuration: Configuration, log: LogControl, successful: Arc<AtomicBool>) -> Self {
        Self {
            configuration,
            log,
            successful,
        }
    }

    /// The settings in force: those of the start, and what was changed since.
    pub(super) fn settings(&self) -> &Settings {
        &self.configuration.settings
    }

    /// Reads all sources again, applies what can be, and says so in one line. On an error everything stays.
    pub(super) fn reload(&mut self) {
        let read = self.configuration.read_again();
        self.successful.store(read.is_ok(), Ordering::Relaxed);
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
