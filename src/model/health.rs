//! How a storage engine is, as operators ask.

use std::borrow::Cow;
use std::time::Duration;

use super::Lsn;

/// How a storage engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageHealth {
    /// Name of the kind of engine: `local`, `memory`.
    pub engine: Cow<'static, str>,
    /// Whether it takes what it should.
    pub state: StorageState,
    /// Last group on disk.
    pub durable: Lsn,
    /// Last group in the segments.
    pub applied: Lsn,
    /// Bytes taken in and not yet in the segments.
    pub admitted_bytes: u64,
    /// Journal files that are ready, of how many.
    pub journal_files: (u32, u32),
    /// Damaged batches found by reading, since the start.
    pub crc_errors: u64,
    /// Free bytes of the disk when it was last looked at, and what is kept in reserve; `None`: not on disk.
    pub disk: Option<(u64, u64)>,
    /// What logs in memory hold; `None`: the engine has none.
    pub memory: Option<MemoryHealth>,
    /// What the last start came to; `None`: there was nothing to recover from.
    pub recovery: Option<RecoverySummary>,
}

/// Whether a storage engine takes what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageState {
    /// All is well.
    Ok,
    /// Full: produce is refused.
    ReadOnly,
    /// It failed for good, for this reason.
    Broken(String),
}

/// What a start found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoverySummary {
    /// The broker had stopped cleanly.
    pub clean: bool,
    /// Groups applied again.
    pub groups: u64,
    /// Bytes of batches applied again.
    pub bytes: u64,
    /// Groups that were durable and cannot be read.
    pub lost_groups: u64,
    /// The last group was never acknowledged and was left out.
    pub unfinished: bool,
    /// How long it took.
    pub took: Duration,
}

/// What logs that are in memory alone hold and may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryHealth {
    /// Bytes held, with what batches take beside theirs.
    pub held_bytes: u64,
    /// Most bytes of all such logs.
    pub bytes_max: u64,
    /// Records that went because there was no room for them any more, since the start.
    pub dropped_records: u64,
    /// Bytes of their batches.
    pub dropped_bytes: u64,
}
