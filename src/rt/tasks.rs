//! Every task is spawned here, so that shutdown can wait for all of them.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns tasks and ends them: one token says stop, one tracker knows who is still there.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// A stage with no tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task that is handed the token which says when to stop.
    pub fn spawn<F, Fut>(&self, task: F)
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(task(self.stop.clone()));
    }

    /// The token that is cancelled by [`stop`](Self::stop).
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tells all tasks to stop.
    pub fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
    }

    /// Waits until all tasks have ended, at most this long. Returns how many are still there.
    pub async fn wait(&self, at_most: Duration) -> usize {
        self.tracker.close();
        // Who is still there after the deadline is counted by the caller's message.
        let _ = tokio::time::timeout(at_most, self.tracker.wait()).await;
        self.tracker.len()
    }
}
