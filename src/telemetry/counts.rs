//! How many lines were logged, by level.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Names of levels for metrics, the gravest first; what is finer than `debug` counts as that.
const LEVELS: [&str; 4] = ["error", "warn", "info", "debug"];

/// Lines written since the start, by level.
#[derive(Debug, Default)]
pub struct LogCounts([AtomicU64; LEVELS.len()]);

impl LogCounts {
    /// Name of the level and number of lines, of every level.
    pub fn now(&self) -> [(&'static str, u64); LEVELS.len()] {
        std::array::from_fn(|at| (LEVELS[at], self.0[at].load(Ordering::Relaxed)))
    }
}

/// Counts what passes the filter, which is what is written.
#[derive(Debug)]
pub(super) struct Counting(pub(super) Arc<LogCounts>);

impl<S: Subscriber> Layer<S> for Counting {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let at = match *event.metadata().level() {
            Level::ERROR => 0,
            Level::WARN => 1,
            Level::INFO => 2,
            Level::DEBUG | Level::TRACE => 3,
        };
        self.0.0[at].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn lines_that_are_written_are_counted_by_level() {
        let counts = Arc::new(LogCounts::default());
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new("info"))
            .with_writer(std::io::sink)
            .finish()
            .with(Counting(Arc::clone(&counts)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("a");
            tracing::warn!("b");
            tracing::warn!("c");
            tracing::info!("d");
            tracing::debug!("below the level");
        });
        assert_eq!(
            counts.now(),
            [("error", 1), ("warn", 2), ("info", 1), ("debug", 0)]
        );
    }
}
