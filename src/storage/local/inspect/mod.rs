//! Looking at a data directory without changing it: [`verify`] says whether all that was acknowledged is there and whole,
//! [`dump`] shows what a file holds.
//!
//! The verdict is recovery's. Its first pass is the same code; its second, which writes, is rehearsed. So a directory that
//! is found clean starts and loses nothing, and damage is named as the broker will name it. What a crash may leave (an
//! unfinished group, a checkpoint or a header that was being written) is no damage.

pub mod dump;
mod finding;
mod index;
mod rehearsal;
mod segment;
mod verify;

use std::io;

pub use finding::{Checked, CheckpointSummary, Effect, FINDINGS_MAX, Finding, Kind, Report, StartSummary};
pub use verify::{rehearse, verify};

pub use super::salvage::evidence::{Held, HeldBatch, Lost};

use super::paths;
use crate::disk::{Disk, DiskFile, Mode};

pub(super) use index::IndexWalk;
pub(super) use rehearsal::damage_that_refuses;

/// The file that a running broker holds a lock on.
pub const LOCK_FILE: &str = paths::LOCK;
/// Disk space that a broker has set aside.
pub const RESERVE_FILE: &str = paths::RESERVE;
/// The file that makes a directory a data directory.
pub const FORMAT_FILE: &str = paths::FORMAT;

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is nothing of ours in the directory.
    #[error("there is no FORMAT file, so this is no data directory")]
    NotADataDirectory,
    /// Making the directory was never finished: nothing was ever stored in it.
    #[error(
        "there is no FORMAT file: making this directory was not finished, and nothing was ever stored in it"
    )]
    NeverUsed,
    /// Written by a newer Naru.
    #[error("the directory has storage format {0}, which is newer than this program knows")]
    Newer(u32),
    /// A file may not be read, or the directory cannot be listed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Hears how far the work is.
pub trait Watch {
    /// So many bytes will be looked at.
    fn total(&mut self, bytes: u64);
    /// So many more have been.
    fn more(&mut self, bytes: u64);
}

/// Opens a file to look at; what is not there is nothing. Not being allowed to look is no finding but the end.
fn open(disk: &dyn Disk, path: &str) -> Result<Opened, InspectError> {
    match disk.open(path, Mode::Buffered) {
        Ok(file) => Ok(Opened::File(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Opened::Missing),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(e.into()),
        Err(e) => Ok(Opened::Failed(e)),
    }
}

enum Opened {
    File(Box<dyn DiskFile>),
    Missing,
    Failed(io::Error),
}
