//! What is done to a data directory without a broker, and still needs what a broker keeps above its engine.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::engine::with_causes;
use super::lock::DirectoryLock;
use crate::broker::{self, Recovered};
use crate::config::Settings;
use crate::disk::SharedDisk;
use crate::disk::real::RealDisk;
use crate::model::TopicId;
use crate::rt::{RandomIds, SystemClock};
use crate::storage::Replay;
use crate::storage::local::inspect::Watch;
use crate::storage::local::salvage::{self, Done, Means, SalvageError, Way};

/// Hears from `feed` what a start would hear, and says what came of it: the names of the topics, and why a start would not
/// understand it, if so.
pub fn state_of(feed: &mut dyn FnMut(&mut dyn Replay)) -> (BTreeMap<TopicId, String>, Option<String>) {
    let mut recovered = Recovered::new(&broker::Settings::default());
    feed(&mut recovered);
    let failure = recovered.failure().map(|failure| with_causes(failure));
    (recovered.topic_names(), failure)
}

/// Takes these ways past what keeps a broker from starting on a directory, if they are exactly those that there are. Copies of
/// what is touched go to a directory of this name below `salvage/`.
///
/// # Errors
/// [`SalvageError`] says what is wrong and whether anything was changed.
pub fn salvage(dir: &Path, settings: &Settings, wanted: &[Way], name: &str) -> Result<Done, SalvageError> {
    let lock = DirectoryLock::take(dir).map_err(|error| SalvageError::InUse(error.to_string()))?;
    let disk: SharedDisk = Arc::new(RealDisk::open(lock.dir()).map_err(SalvageError::Disk)?);
    // Looked at once more: nobody else can change anything any more.
    let plan = salvage::plan(&*disk, &mut Unwatched, &mut Recovered::new(&settings.broker))?;
    let ways = salvage::check(&plan, wanted)?;
    let means = Means {
        settings: &settings.storage,
        clock: Arc::new(SystemClock::new()),
        ids: &RandomIds,
        name,
    };
    let mut recovered = Recovered::after_loss(&settings.broker);
    salvage::salvage(disk, &plan, &ways, &means, &mut recovered)
}

/// Nobody waits for a number.
struct Unwatched;

impl Watch for Unwatched {
    fn total(&mut self, _bytes: u64) {}

    fn more(&mut self, _bytes: u64) {}
}
