//! Asks the broker every now and then to remove what is too old or too much.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use crate::rt::Tasks;

/// Calls `retain` at once and then this often, one call at a time, until the tasks are told to stop. A new interval counts
/// from when it is set.
pub(crate) fn start(
    mut every: watch::Receiver<Duration>,
    retain: Arc<dyn Fn() + Send + Sync>,
    tasks: &Tasks,
) {
    tasks.spawn(move |stop| async move {
        let mut ticks = ticks(*every.borrow_and_update());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = every.changed() => ticks = self::ticks(*every.borrow_and_update()),
                _ = ticks.tick() => look(&retain).await,
            }
        }
    });
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = tokio::time::interval(every.max(Duration::from_millis(1)));
    // After a pause of the machine one look is enough.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Thousands of partitions are looked at, which is no work for a thread that serves connections.
async fn look(retain: &Arc<dyn Fn() + Send + Sync>) {
    let retain = Arc::clone(retain);
    if tokio::task::spawn_blocking(move || retain()).await.is_err() {
        tracing::error!(
            event = "retention_failed",
            "looking at retention ended with a panic"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn retention_is_looked_at_until_the_end() {
        let looks = Arc::new(AtomicU32::new(0));
        let (seen, looked) = tokio::sync::mpsc::channel(8);
        let count = Arc::clone(&looks);
        let tasks = Tasks::new();
        let retain = Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
            // Nobody waits for more than three.
            let _ = seen.try_send(());
        });
        // So rarely that there is one look, until it is told otherwise.
        let (every, told) = watch::channel(Duration::from_secs(86_400));
        start(told, retain, &tasks);
        let mut looked = looked;
        looked.recv().await.unwrap();
        every.send(Duration::from_millis(1)).unwrap();
        // Also when nobody can tell it anything more.
        drop(every);
        for _ in 0..3 {
            looked.recv().await.unwrap();
        }
        tasks.stop();
        assert_eq!(tasks.wait(Duration::from_secs(10)).await, 0);
        assert!(looks.load(Ordering::Relaxed) >= 3);
    }
}
