//! Logs and metrics of the process.
//!
//! Logs are set up once, written to stderr, and never read by the program. One flat JSON object per line, or text for people when stderr is a terminal. Success is a counter, never a line per
//! request, so nothing about logs has to be fast. Knows nothing of what is logged or counted.

mod counts;
pub mod fields;
mod histogram;
mod json;
mod metrics;

use std::fmt;
use std::io::IsTerminal;
use std::sync::Arc;

use tracing::Level;
use tracing_subscriber::filter::{Directive, EnvFilter};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;

pub use counts::LogCounts;
pub use histogram::{AMOUNT_BOUNDS, Histogram, HistogramNow, LATENCY_BOUNDS_US};
pub use json::JsonLines;
pub use metrics::{CONTENT_TYPE, Family, Kind, Page};

use crate::model::Timestamp;

/// Target of lines that answer an operator: written whatever the level is. More specific than any directive for a module.
pub const ANSWER_TARGET: &str = "naru::server::answer";

/// What log lines look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text if stderr is a terminal, otherwise JSON.
    #[default]
    Auto,
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

impl LogFormat {
    /// Its name in a configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Json => "json",
            Self::Text => "text",
        }
    }

    /// The form of this name.
    pub fn named(word: &str) -> Option<Self> {
        [Self::Auto, Self::Json, Self::Text]
            .into_iter()
            .find(|format| format.word() == word)
    }
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A level (`info`) or tracing directives (`warn,naru::storage=debug`).
    pub level: String,
    /// Form of the lines.
    pub format: LogFormat,
    /// Number of this broker, written on every JSON line.
    pub node: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Auto,
            node: 0,
        }
    }
}

/// The level is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{level}' is no log level: {why}")]
pub struct InvalidLevel {
    /// What was given.
    pub level: String,
    /// What the parser says.
    pub why: String,
}

impl Settings {
    /// Checks the level without setting anything up.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), InvalidLevel> {
        self.filter().map(drop)
    }

    fn filter(&self) -> Result<EnvFilter, InvalidLevel> {
        let invalid = |why: &dyn fmt::Display| InvalidLevel {
            level: self.level.clone(),
            why: why.to_string(),
        };
        let wanted = EnvFilter::builder()
            .parse(&self.level)
            .map_err(|why| invalid(&why))?;
        let always: Directive = format!("{ANSWER_TARGET}={}", Level::INFO)
            .parse()
            .map_err(|why| invalid(&why))?;
        Ok(wanted.add_directive(always))
    }
}

/// Wall-clock time for log lines; an argument, so that this module has no clock of its own.
#[derive(Clone)]
pub struct LogTime(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl LogTime {
    /// Times from this function.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Now as RFC 3339 with milliseconds, UTC.
    fn text(&self) -> String {
        rfc3339_millis((self.0)())
    }
}

impl fmt::Debug for LogTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogTime")
    }
}

impl FormatTime for LogTime {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        w.write_str(&self.text())
    }
}

/// A time as RFC 3339 with milliseconds, UTC; the bare number where the calendar ends.
pub fn rfc3339_millis(at: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(at.0) {
        Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        Err(_) => at.0.to_string(),
    }
}

/// Changes the level of a log that runs, and knows what it has written.
pub struct LogControl {
    set: Box<dyn Fn(EnvFilter) + Send + Sync>,
    counts: Arc<LogCounts>,
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogControl")
    }
}

impl LogControl {
    /// From now on lines of this level are written; the form stays.
    ///
    /// # Errors
    /// The level is not one, and the old one stays.
    pub fn set_level(&self, settings: &Settings) -> Result<(), InvalidLevel> {
        (self.set)(settings.filter()?);
        Ok(())
    }

    /// How many lines were written.
    pub fn counts(&self) -> &Arc<LogCounts> {
        &self.counts
    }
}

/// Sets up the process's log on stderr. Later calls change nothing.
///
/// # Errors
/// The level is not one.
pub fn init(settings: &Settings, time: LogTime) -> Result<LogControl, InvalidLevel> {
    let filter = settings.filter()?;
    let terminal = std::io::stderr().is_terminal();
    let as_text = match settings.format {
        LogFormat::Auto => terminal,
        LogFormat::Json => false,
        LogFormat::Text => true,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second set-up in one process happens only in tests, where the first one stays in force. A filter can be replaced as
    // long as its log is there, which is to the end of the process.
    let counts = Arc::new(LogCounts::default());
    let counting = counts::Counting(Arc::clone(&counts));
    let set: Box<dyn Fn(EnvFilter) + Send + Sync> = if as_text {
        let builder = builder
            .with_ansi(terminal)
            .with_timer(time)
            .with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = tracing::subscriber::set_global_default(builder.finish().with(counting));
        Box::new(move |filter| drop(handle.reload(filter)))
    } else {
        let lines = JsonLines::new(time, settings.node);
        let builder = builder.event_format(lines).with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = tracing::subscriber::set_global_default(builder.finish().with(counting));
        Box::new(move |filter| drop(handle.reload(filter)))
    };
    Ok(LogControl { set, counts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc_with_milliseconds() {
        assert_eq!(rfc3339_millis(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            rfc3339_millis(Timestamp(1_795_425_242_113)),
            "2026-11-23T09:14:02.113Z"
        );
        assert_eq!(rfc3339_millis(Timestamp(-1)), "1969-12-31T23:59:59.999Z");
        assert_eq!(rfc3339_millis(Timestamp(i64::MAX)), i64::MAX.to_string());
    }

    #[test]
    fn a_bad_level_is_named() {
        let settings = Settings {
            level: "naru=loud".to_owned(),
            ..Settings::default()
        };
        let error = settings.check().unwrap_err();
        assert_eq!(error.level, "naru=loud");
        assert!(Settings::default().check().is_ok());
    }

    #[test]
    fn answers_to_the_operator_are_written_at_every_level() {
        for level in [
            "error",
            "off",
            "naru=error",
            "naru::server=off",
            "naru::disk=trace",
        ] {
            let settings = Settings {
                level: level.to_owned(),
                ..Settings::default()
            };
            let subscriber = tracing_subscriber::fmt()
                .with_env_filter(settings.filter().unwrap())
                .with_writer(std::io::sink)
                .finish();
            tracing::subscriber::with_default(subscriber, || {
                assert!(tracing::enabled!(target: ANSWER_TARGET, Level::INFO), "{level}");
                assert!(!tracing::enabled!(target: "naru::server", Level::INFO), "{level}");
            });
        }
    }
}
