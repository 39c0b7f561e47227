//! The real process on a system that fails it: killed at a chosen system call, errors of the disk, a disk that lies, is slow
//! or full, few descriptors, little memory.
//!
//! What needs root or a tool that is missing is skipped, says so, and counts itself.

mod disk_full;
mod io_errors;
mod kill_points;
mod lying_disk;
mod story;
mod strace;

use std::process::Command;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Says loudly what was not tested here.
pub(crate) fn skipped(what: &str, why: &str) {
    eprintln!("SKIPPED: {what}: {why}");
    eprintln!(
        "figures system_skipped: skipped=1 what={}",
        what.replace(' ', "-")
    );
}

/// Whether a command is there.
pub(crate) fn has(command: &str) -> bool {
    Command::new(command).arg("-V").output().is_ok()
}

/// Runs all of these, so many at once; what came of them, in no order.
pub(crate) async fn at_once<F>(limit: usize, all: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(limit));
    let mut tasks = JoinSet::new();
    for one in all {
        let slots = Arc::clone(&slots);
        tasks.spawn(async move {
            let _slot = slots.acquire().await.unwrap();
            one.await
        });
    }
    tasks.join_all().await
}
