//! Lets the broker do what is due for consumer groups: sessions that end, hand-offs and proposals that are late, topics that changed.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::Broker;
use crate::rt::Tasks;
use crate::storage::LogStore;

/// Nothing is due: whoever makes something due says so.
const NEVER: Duration = Duration::from_secs(3_600);

/// Looks whenever something is due, until the tasks are told to stop. From then on nobody expires: a broker that stops has closed
/// the connections itself.
pub(crate) fn start<S: LogStore>(broker: Arc<Broker<S>>, tasks: &Tasks) {
    tasks.spawn(move |stop| async move {
        loop {
            let wait = broker.groups_due().unwrap_or(NEVER);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = broker.groups_sooner() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    });
}
