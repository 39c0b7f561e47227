//! Reads the configuration again while the broker runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{error, info};

use crate::broker;
use crate::config::{Configuration, Settings};
use crate::model::Timestamp;
use crate::rt::Clock;
use crate::telemetry::{ANSWER_TARGET, LogControl};

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
pub(super) struct Reloading {
    configuration: Configuration,
    targets: Targets,
}

/// What a new configuration is told to.
pub(super) struct Targets {
    /// The log.
    pub(super) log: LogControl,
    /// The broker; takes a while with many partitions.
    pub(super) broker: Arc<dyn Fn(&broker::Settings) + Send + Sync>,
    /// How often retention looks.
    pub(super) retention_every: watch::Sender<Duration>,
    /// Is told of every reload.
    pub(super) last: Arc<LastReload>,
}

impl Reloading {
    /// Begins with what the broker was started with.
    pub(super) fn new(configuration: Configuration, targets: Targets) -> Self {
        Self {
            configuration,
            targets,
        }
    }

    /// The settings in force: those of the start, and what was changed since.
    pub(super) fn settings(&self) -> &Settings {
        &self.configuration.settings
    }

    /// Reads all sources again, applies what can be, and says so in one line. On an error everything stays.
    pub(super) async fn reload(&mut self) {
        let read = self.configuration.read_again();
        self.targets.last.note(read.is_ok());
        let new = match read {
            Ok(new) => new,
            Err(failure) => {
                return error!(
                    target: ANSWER_TARGET,
                    event = "config_reload_failed",
                    error.message = %failure,
                    hint = failure.hint(),
                    "the configuration was not changed"
                );
            }
        };
        let (applied, needs_restart) = self.configuration.apply(&new);
        if let Err(failure) = self.put_in_force().await {
            // Nothing of the sort can happen but by a defect; the operator sees it all the same.
            return error!(target: ANSWER_TARGET, event = "config_reload_failed", error.message = %failure, "changes are not in force");
        }
        // Whoever sent the signal looks for this line, whatever the level is.
        info!(
            target: ANSWER_TARGET,
            event = "config_reloaded",
            applied = applied.join(" "),
            needs_restart = needs_restart.join(" "),
            "the configuration was read again"
        );
    }

    async fn put_in_force(&self) -> Result<(), String> {
        let settings = self.settings();
        let (tell, new) = (Arc::clone(&self.targets.broker), settings.broker.clone());
        tokio::task::spawn_blocking(move || tell(&new))
            .await
            .map_err(|ended| ended.to_string())?;
        self.targets.retention_every.send_if_modified(|every| {
            let before = std::mem::replace(every, settings.broker.retention_every);
            before != *every
        });
        self.targets
            .log
            .set_level(&settings.log)
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
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
