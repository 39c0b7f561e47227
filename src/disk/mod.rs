//! Everything that is done to files goes through [`Disk`], so that a simulated disk can stand for the real one.
//!
//! Names come from the broker alone, never from users. Durability is explicit: file contents and sizes are durable after
//! [`DiskFile::sync_data`], names after [`Disk::sync_dir`] of the directory that holds them.

use std::fmt;
use std::io;
use std::sync::Arc;

mod aligned;
mod error;
#[cfg(feature = "test-faults")]
pub mod gate;
pub mod huge_pages;
#[cfg(any(test, feature = "test-faults"))]
pub mod lossy;
mod paths;
pub mod real;
pub mod sim;
#[cfg(test)]
mod tests;

pub use aligned::{AlignedBuf, BLOCK_BYTES};
pub use error::{DiskError, os_error};

/// How a file is opened. Every mode allows reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Through the page cache.
    Buffered,
    /// Past the page cache where the disk can ([`Disk::supports_direct`]): positions, lengths and buffers are multiples
    /// of [`BLOCK_BYTES`].
    Direct,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// A data directory. Paths are relative to it, with `/` between parts; the root is `""`.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Makes a new, empty file. Its name is durable only after [`sync_dir`](Self::sync_dir) of its directory.
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken.
    fn create_new(&self, path: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file; never follows a symbolic link.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn open(&self, path: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>>;

    /// The entries of a directory, sorted by name.
    ///
    /// # Errors
    /// `NotFound` if there is no such directory.
    fn list(&self, dir: &str) -> io::Result<Vec<Entry>>;

    /// Makes a directory whose parent exists; success if it is there already.
    fn mkdir(&self, dir: &str) -> io::Result<()>;

    /// Renames a file or directory. Replaces a file of that name in one step: after a crash the old or the new one is there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn unlink(&self, path: &str) -> io::Result<()>;

    /// Removes an empty directory.
    fn rmdir(&self, dir: &str) -> io::Result<()>;

    /// Makes the names in a directory durable. As with [`DiskFile::sync_data`], an error is final and never `StorageFull`.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Makes contents and lengths of several files durable, in any order. As after [`DiskFile::sync_data`], nothing can be
    /// believed about any of them after an error.
    fn sync_files(&self, files: &[&dyn DiskFile]) -> io::Result<()>;

    /// Bytes that can still be allocated.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Whether [`Mode::Direct`] really passes by the page cache here.
    fn supports_direct(&self) -> bool;
}

/// An open file. All methods take `&self`: concurrent reads are fine, the engine has one writer per file.
#[expect(
    clippy::len_without_is_empty,
    reason = "the length is a system call that can fail, not a property"
)]
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Reads into `buf` from `at`; may read less, 0 only at the end of the file.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;

    /// Reads what memory holds already, without waiting for the disk; 0 if that is nothing or cannot be told.
    fn read_cached_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let (_, _) = (buf, at);
        Ok(0)
    }

    /// Writes all of `buf` at `at`, growing the file if need be. Not durable yet.
    ///
    /// In [`Mode::Direct`] the slice must come from an [`AlignedBuf`].
    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()>;

    /// As [`write_all_at`](Self::write_all_at), of slices that follow each other in the file. May be one write to the disk
    /// or several.
    fn write_all_vectored_at(&self, bufs: &[&[u8]], mut at: u64) -> io::Result<()> {
        for buf in bufs {
            self.write_all_at(buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    /// Makes contents and length durable. After an error nothing about this file can be believed any more, not even a
    /// later success: the caller poisons itself. For the same reason a full disk is never `StorageFull` here.
    fn sync_data(&self) -> io::Result<()>;

    /// Sets the length; what is behind is gone, a gap reads as zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves space without changing the length (`FALLOC_FL_KEEP_SIZE`).
    ///
    /// # Errors
    /// `StorageFull` if there is not so much; `Unsupported` where the file system cannot.
    fn allocate(&self, at: u64, len: u64) -> io::Result<()>;

    /// Tells the page cache that this range is not needed again.
    fn drop_cache(&self, at: u64, len: u64) -> io::Result<()>;
}

/// Reads exactly `buf.len()` bytes; retries interrupted and short reads.
///
/// # Errors
/// `UnexpectedEof` if the file ends before.
pub fn read_exact_at(file: &dyn DiskFile, mut buf: &mut [u8], mut at: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.read_at(buf, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = &mut buf[n..];
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Drops all pages of the page cache that a range touches: of one of which only a part is named the whole would stay.
pub fn drop_pages(file: &dyn DiskFile, at: u64, len: u64) {
    let block = BLOCK_BYTES as u64;
    let from = at / block * block;
    let to = at.saturating_add(len).checked_next_multiple_of(block);
    // Advice that is not taken costs certainty about the cache, and nothing else.
    let _ = file.drop_cache(from, to.unwrap_or(u64::MAX) - from);
}

/// Refuses what direct I/O could not do, in the same way on every disk; also catches by 512 B what a device with small
/// sectors would let pass.
fn check_alignment(direct: bool, buf: &[u8], at: u64) -> io::Result<()> {
    let block = BLOCK_BYTES as u64;
    let aligned = at.is_multiple_of(block)
        && buf.len().is_multiple_of(BLOCK_BYTES)
        && buf.as_ptr().addr().is_multiple_of(BLOCK_BYTES);
    if direct && !aligned {
        let message = "direct I/O needs whole blocks in an aligned buffer";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(())
}

/// A shared disk.
pub type SharedDisk = Arc<dyn Disk>;
