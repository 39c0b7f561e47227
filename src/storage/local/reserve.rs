//! Disk space set aside in a file of its own, so that nobody else can take it, and given up when the broker's own work
//! finds the disk full: commits, deletions, checkpoints and recovery go on where produce has stopped.
//!
//! The file holds nothing. Losing it in a crash loses nothing but the space, so it is never synced.

use std::io;
use std::sync::{Mutex, MutexGuard};

use super::paths;
use crate::disk::{Disk, DiskFile, Mode, SharedDisk};

/// What must be free beside the reserve before it is set aside again, as a part of it: without this, a disk that is just
/// full would be refused and accepted by turns.
const MARGIN_PART: u64 = 4;

/// The reserve; `reserve_bytes` 0: none, and no file.
#[derive(Debug)]
pub(super) struct Reserve {
    bytes: u64,
    disk: SharedDisk,
    held: Mutex<Held>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Yes,
    No,
    /// The file system cannot set space aside: the rule of admission is all that there is.
    Never,
}

impl Reserve {
    pub(super) fn new(disk: SharedDisk, bytes: u64) -> Self {
        let held = if bytes == 0 { Held::Never } else { Held::No };
        Self {
            bytes,
            disk,
            held: Mutex::new(held),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no panics while locked")
    }

    /// Bytes that are set aside now.
    pub(super) fn held_bytes(&self) -> u64 {
        if *self.lock() == Held::Yes { self.bytes } else { 0 }
    }

    /// What has to be free beside a reserve of this size before produce is taken in again.
    pub(super) fn margin(bytes: u64) -> u64 {
        bytes / MARGIN_PART
    }

    /// Takes over what an earlier life has set aside.
    pub(super) fn take_over(&self) -> io::Result<()> {
        if self.bytes == 0 {
            return remove(&*self.disk);
        }
        match self.disk.open(paths::RESERVE, Mode::Buffered) {
            // A file that was copied may have its length and no blocks: allocating tells.
            Ok(file) if file.len()? > 0 => self.allocate(&*file),
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Sets the space aside if it is not, and if so much is free beside it and `needed`. Whether that changed anything.
    pub(super) fn hold(&self, needed: u64) -> io::Result<bool> {
        if *self.lock() != Held::No {
            return Ok(false);
        }
        let wanted = self.bytes.saturating_add(Self::margin(self.bytes));
        if !self
            .disk
            .free_bytes()
            .is_ok_and(|free| free >= wanted.saturating_add(needed))
        {
            return Ok(false);
        }
        let file = match self.disk.create_new(paths::RESERVE, Mode::Buffered) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.open(paths::RESERVE, Mode::Buffered)
            }
            other => other,
        };
        match file {
            Ok(file) => self.allocate(&*file)?,
            // No name is left: the next try may find one.
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {}
            Err(e) => return Err(e),
        }
        Ok(self.held_bytes() > 0)
    }

    fn allocate(&self, file: &dyn DiskFile) -> io::Result<()> {
        let held = match file.allocate(0, self.bytes) {
            Ok(()) => {
                // The length shows the space, and gives back what a larger setting had taken.
                file.set_len(self.bytes)?;
                Held::Yes
            }
            Err(e) => {
                file.set_len(0)?;
                match e.kind() {
                    io::ErrorKind::StorageFull => Held::No,
                    io::ErrorKind::Unsupported => Held::Never,
                    _ => return Err(e),
                }
            }
        };
        *self.lock() = held;
        Ok(())
    }

    /// The broker's own work has found the disk full. Whether there was something to give up; then it is worth trying again.
    pub(super) fn give_up(&self) -> bool {
        let mut held = self.lock();
        if *held != Held::Yes {
            return false;
        }
        *held = Held::No;
        give_up(&*self.disk)
    }
}

/// Frees what is set aside, and the name of the file: the disk may be short of those. Whether there was anything.
pub(super) fn give_up(disk: &dyn Disk) -> bool {
    match disk.unlink(paths::RESERVE) {
        Ok(()) => {
            tracing::warn!(
                event = "reserve_released",
                "the disk is full: the space kept in reserve is used for the broker's own work; produce is refused until there is room"
            );
            true
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(event = "reserve_failed", error = %error, "the space kept in reserve could not be freed");
            false
        }
    }
}

fn remove(disk: &dyn Disk) -> io::Result<()> {
    match disk.unlink(paths::RESERVE) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
