//! What commands need of the broker that look at a data directory without one: handed in by `main`, which alone knows both.

use std::collections::BTreeMap;

use super::log::{cannot_read, no_verdict};
use super::{Context, Failure, log_verify};
use crate::disk::real::RealDisk;
use crate::model::{PartitionKey, TopicId};
use crate::storage::Replay;
use crate::storage::local::inspect::{Report, rehearse};

/// Functions of the broker.
#[derive(Clone, Copy, Debug)]
pub struct Offline {
    /// Hears what a start would hear; the names of the topics, and why a start would not understand it, if so.
    pub state_of: StateOf,
}

/// See [`Offline::state_of`].
pub type StateOf = fn(&mut dyn FnMut(&mut dyn Replay)) -> (BTreeMap<TopicId, String>, Option<String>);

/// A verdict, with the names of the topics.
pub(super) struct Verdict {
    pub(super) report: Report,
    pub(super) names: Names,
}

/// Reads everything below a data directory.
pub(super) fn verdict(
    dir: &std::path::Path,
    disk: &RealDisk,
    context: &Context,
    offline: Offline,
) -> Result<Verdict, Failure> {
    let mut progress = log_verify::Progress(super::progress::bar(context, 0, "bytes"));
    let mut found = None;
    let (names, failure) = (offline.state_of)(&mut |replay| {
        found = Some(rehearse(disk, &mut progress, replay));
    });
    progress.0.finish_and_clear();
    let found = found.ok_or_else(|| Failure::unexpected(format!("nothing looked at {}", dir.display())))?;
    let mut report = found.map_err(|e| no_verdict(dir, &e))?;
    // What a damaged log tells makes no sense anyhow.
    if let Some(why) = failure.filter(|_| report.starts()) {
        report.not_understood(why);
    }
    Ok(Verdict {
        report,
        names: Names(names),
    })
}

/// Opens a directory to look at.
pub(super) fn open(dir: &std::path::Path) -> Result<RealDisk, Failure> {
    RealDisk::open_read_only(dir).map_err(|e| cannot_read(dir, &e))
}

/// Names of topics by their ids.
pub(super) struct Names(BTreeMap<TopicId, String>);

impl Names {
    /// All of them, in order.
    pub(super) fn all(&self) -> Vec<&str> {
        let mut all: Vec<_> = self.0.values().map(String::as_str).collect();
        all.sort_unstable();
        all
    }

    /// The name of a topic, if it is known.
    pub(super) fn of(&self, topic: TopicId) -> Option<&str> {
        match topic {
            TopicId::META => Some("__meta"),
            TopicId::GROUPS => Some("__groups"),
            topic => self.0.get(&topic).map(String::as_str),
        }
    }

    /// A partition for people: its topic's name beside the id, under which its files lie.
    pub(super) fn partition(&self, key: PartitionKey) -> String {
        let (topic, partition) = (key.topic, key.partition);
        match self.of(topic) {
            Some(name) => format!("topic {name} ({topic}), partition {partition}"),
            None => format!("topic {topic}, partition {partition}"),
        }
    }
}

#[cfg(test)]
pub(super) fn no_names() -> Names {
    Names(BTreeMap::new())
}
