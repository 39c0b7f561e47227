//! Reads the configuration again while the broker runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{error, info};

use crate::broker;
use crate::config::{Configuration, Settings};
use crate::telemetry::{ANSWER_TARGET, LogControl};

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
    /// Becomes false when a reload fails.
    pub(super) successful: Arc<AtomicBool>,
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
        self.targets.successful.store(read.is_ok(), Ordering::Relaxed);
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
