//! Names of files and directories below the data directory.

use crate::model::{Offset, PartitionKey, TopicId};

/// What this directory is.
pub(super) const FORMAT: &str = "FORMAT";
/// Held by the running broker.
pub(super) const LOCK: &str = "LOCK";
/// Journal files.
pub(super) const JOURNAL: &str = "journal";
/// Topics, by id.
pub(super) const TOPICS: &str = "topics";
/// What recovery put aside.
pub(super) const SALVAGE: &str = "salvage";
/// What is being deleted.
pub(super) const TRASH: &str = "trash";
/// Space set aside for the broker's own work; holds nothing.
pub(super) const RESERVE: &str = "reserve";
/// The two checkpoint files.
pub(super) const CHECKPOINTS: [&str; 2] = ["checkpoint.0", "checkpoint.1"];

/// What a file of the data directory is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A journal file.
    Journal,
    /// Batches of a partition.
    Segment,
    /// What helps to find them.
    Index,
    /// One of the two checkpoints.
    Checkpoint,
    /// Anything else.
    Other,
}

impl FileKind {
    /// The kind of the file at a path below the data directory.
    pub fn of(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        match name.rsplit_once('.') {
            Some((_, "journal")) => Self::Journal,
            Some((_, "log")) => Self::Segment,
            Some((_, "index" | "timeindex")) => Self::Index,
            Some(("checkpoint", _)) => Self::Checkpoint,
            _ => Self::Other,
        }
    }
}

pub(super) fn journal(number: u64) -> String {
    format!("{JOURNAL}/{number:08}.journal")
}

pub(super) fn topic(id: TopicId) -> String {
    format!("{TOPICS}/{id}")
}

pub(super) fn partition(key: PartitionKey) -> String {
    format!("{TOPICS}/{}/{}", key.topic, key.partition)
}

pub(super) fn segment(key: PartitionKey, base: Offset) -> String {
    format!("{}/{:020}.log", partition(key), base.get())
}

/// The base offset in the name of a segment or of its index.
pub(super) fn base_of(name: &str) -> Option<Offset> {
    let (digits, kind) = name.split_once('.')?;
    let is_ours = digits.len() == 20 && matches!(kind, "log" | "index");
    Offset::new(digits.parse().ok().filter(|_| is_ours)?)
}

pub(super) fn index(key: PartitionKey, base: Offset) -> String {
    format!("{}/{:020}.index", partition(key), base.get())
}
