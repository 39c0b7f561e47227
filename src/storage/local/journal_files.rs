//! The ring of journal files: made once, zeroed, then used again and again.

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::format::DirectoryId;
use super::format::journal::{BLOCK, FileHeader, GROUPS_START};
use super::paths;
use crate::disk::{AlignedBuf, DiskFile, Mode, SharedDisk};
use crate::model::Lsn;
use crate::planted::{self, Bug};

/// Zeroed at once, so that overwriting never changes the file's metadata.
const ZERO_PIECE_BYTES: usize = 256 << 10;
/// Between two pieces while nobody waits: zeroing at full speed would slow the journal down.
const ZERO_PAUSE: Duration = Duration::from_millis(2);

/// A file that holds groups, or held some.
#[derive(Debug)]
pub(super) struct RingFile {
    pub(super) file: Box<dyn DiskFile>,
    pub(super) bytes: u64,
    /// Last LSN in it; [`Lsn::ZERO`] for one that was never used.
    pub(super) last_lsn: Lsn,
}

#[derive(Debug)]
struct Inner {
    /// Never used, or of no use any more.
    fresh: VecDeque<RingFile>,
    /// Full, oldest first.
    full: VecDeque<RingFile>,
    /// Bytes of the current file, and what is left of it.
    current: (u64, u64),
    /// Files below this LSN may be used again: the LSN of the checkpoint before the newest.
    recyclable: Lsn,
    newest_checkpoint: (u64, Lsn),
    generation: u64,
    next_number: u64,
    /// Files of the ring that exist.
    made: u32,
    waiting: bool,
    /// The checkpoint that would free a file waits for the journal itself: a file more must be made.
    extra_wanted: bool,
    stop: bool,
}

/// What a wait for a file came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// One may be free now.
    MayBeFree,
    /// None can become free before this group is written: make one more.
    MakeExtra,
    /// The engine stops.
    Stop,
}

/// The ring.
#[derive(Debug)]
pub(super) struct JournalFiles {
    inner: Mutex<Inner>,
    changed: Condvar,
    disk: SharedDisk,
    directory: DirectoryId,
    file_bytes: u64,
    files: u32,
}

/// The next file to write groups to, its header durable.
#[derive(Debug)]
pub(super) struct Rotated {
    pub(super) ring: RingFile,
    pub(super) generation: u64,
}

/// What is known of the ring at start.
#[derive(Debug)]
pub(super) struct RingState {
    pub(super) fresh: VecDeque<RingFile>,
    pub(super) full: VecDeque<RingFile>,
    pub(super) generation: u64,
    pub(super) next_number: u64,
    pub(super) newest_checkpoint: (u64, Lsn),
    pub(super) previous_checkpoint: Lsn,
}

impl JournalFiles {
    pub(super) fn new(
        disk: SharedDisk,
        directory: DirectoryId,
        file_bytes: u64,
        files: u32,
        state: RingState,
    ) -> Self {
        let made = u32::try_from(state.fresh.len() + state.full.len()).unwrap_or(u32::MAX);
        let inner = Inner {
            fresh: state.fresh,
            full: state.full,
            current: (0, 0),
            recyclable: state.previous_checkpoint,
            newest_checkpoint: state.newest_checkpoint,
            generation: state.generation,
            next_number: state.next_number,
            made,
            waiting: false,
            extra_wanted: false,
            stop: false,
        };
        Self {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            disk,
            directory,
            file_bytes,
            files,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panics while locked")
    }

    /// How many files are there, of how many.
    pub(super) fn progress(&self) -> (u32, u32) {
        (self.lock().made, self.files)
    }

    /// Bytes the journal can take, bytes of all files, bytes that files still to be made will need.
    pub(super) fn space(&self) -> (u64, u64, u64) {
        let inner = self.lock();
        let usable = |f: &RingFile| f.bytes - GROUPS_START;
        let fresh: u64 = inner.fresh.iter().map(usable).sum();
        let full: u64 = inner.full.iter().map(usable).sum();
        let recyclable: u64 = inner
            .full
            .iter()
            .take_while(|f| f.last_lsn <= inner.recyclable)
            .map(usable)
            .sum();
        let claimed = u64::from(self.files.saturating_sub(inner.made)) * self.file_bytes;
        (
            inner.current.1 + fresh + recyclable,
            inner.current.0 + fresh + full,
            claimed,
        )
    }

    /// Notes what is left of the current file.
    pub(super) fn set_current(&self, bytes: u64, left: u64) {
        self.lock().current = (bytes, left);
    }

    /// Whether somebody waits for a file: a checkpoint would help.
    pub(super) fn is_short(&self) -> bool {
        self.lock().waiting
    }

    /// The end of the oldest full file: a checkpoint above it will free a file.
    pub(super) fn oldest_full(&self) -> Option<Lsn> {
        let inner = self.lock();
        inner
            .full
            .iter()
            .find(|f| f.last_lsn > inner.newest_checkpoint.1)
            .map(|f| f.last_lsn)
    }

    /// A checkpoint is durable. Files below the one before it may be used again.
    pub(super) fn checkpointed(&self, seq: u64, lsn: Lsn) {
        let mut inner = self.lock();
        inner.recyclable = inner.newest_checkpoint.1;
        if planted::is(Bug::RecycledTooEarly) {
            inner.recyclable = lsn;
        }
        inner.newest_checkpoint = (seq, lsn);
        drop(inner);
        self.changed.notify_all();
    }

    /// Puts the current file away and takes the next one; `None` if there is none now.
    pub(super) fn rotate(
        &self,
        old: Option<RingFile>,
        first_lsn: Lsn,
        incarnation: u32,
    ) -> io::Result<Result<Rotated, Option<RingFile>>> {
        let (mut ring, header) = {
            let mut inner = self.lock();
            let ring = match inner.fresh.pop_front() {
                Some(fresh) => fresh,
                None if inner.full.front().is_some_and(|f| f.last_lsn <= inner.recyclable) => {
                    inner.full.pop_front().expect("there is a first file")
                }
                None => {
                    inner.waiting = true;
                    return Ok(Err(old));
                }
            };
            inner.waiting = false;
            inner.full.extend(old);
            inner.generation += 1;
            let header = FileHeader {
                file_bytes: ring.bytes,
                generation: inner.generation,
                first_lsn,
                checkpoint_seq: inner.newest_checkpoint.0,
                checkpoint_lsn: inner.newest_checkpoint.1,
                incarnation,
            };
            (ring, header)
        };
        // What stands where the first group will is of no use any more. If the disk does not give it, a start that finds the
        // file begun and not used could not tell that from a group.
        ring.file.write_all_at(&AlignedBuf::zeroed(BLOCK), GROUPS_START)?;
        write_header(&*ring.file, &header, self.directory)?;
        ring.last_lsn = Lsn::ZERO;
        Ok(Ok(Rotated {
            ring,
            generation: header.generation,
        }))
    }

    /// Waits until a file may have become free.
    pub(super) fn wait(&self) -> Waited {
        let mut inner = self.lock();
        loop {
            let free =
                !inner.fresh.is_empty() || inner.full.front().is_some_and(|f| f.last_lsn <= inner.recyclable);
            if inner.stop {
                return Waited::Stop;
            } else if free {
                return Waited::MayBeFree;
            } else if std::mem::take(&mut inner.extra_wanted) && inner.made >= self.files {
                return Waited::MakeExtra;
            }
            inner = self.changed.wait(inner).expect("no panics while locked");
        }
    }

    /// A checkpoint cannot be written before the journal goes on.
    pub(super) fn want_extra(&self) {
        self.lock().extra_wanted = true;
        self.changed.notify_all();
    }

    /// Waits before another try at making a file; true if the engine stops meanwhile.
    pub(super) fn rest(&self, at_most: Duration) -> bool {
        let (inner, _) = self
            .changed
            .wait_timeout_while(self.lock(), at_most, |inner| !inner.stop)
            .expect("no panics while locked");
        inner.stop
    }

    /// Ends all waiting.
    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    /// Makes one file of the ring if any is missing: zeroed, synced, its name durable. Returns whether more are missing.
    pub(super) fn make_one(&self, paced: bool) -> io::Result<bool> {
        if self.lock().made >= self.files {
            return Ok(false);
        }
        self.make_extra(paced)
    }

    /// Makes one file, beyond the ring's number if need be. Returns whether more are missing.
    pub(super) fn make_extra(&self, paced: bool) -> io::Result<bool> {
        self.make(self.file_bytes, paced)
    }

    /// Makes the file that a start begins with if what is there must stay as it is: the header of the only file that has one
    /// is not written over. One copy after the other guards against one failure, and a start may be tried many times.
    pub(super) fn make_beside_the_only_one(&self, bytes: u64) -> io::Result<()> {
        let needed = {
            let inner = self.lock();
            inner.fresh.is_empty() && inner.full.len() <= 1
        };
        if needed {
            self.make(bytes, false)?;
        }
        Ok(())
    }

    fn make(&self, bytes: u64, paced: bool) -> io::Result<bool> {
        let number = {
            let mut inner = self.lock();
            inner.next_number += 1;
            inner.next_number - 1
        };
        let made = make_file(&*self.disk, number, bytes, || !paced || self.pause());
        let file = match made {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(false),
            Err(e) => {
                // A half-made file holds nothing; it is removed here or, after a crash, at the next start.
                let _ = self.disk.unlink(&paths::journal(number));
                return Err(e);
            }
        };
        let mut inner = self.lock();
        inner.fresh.push_back(RingFile {
            file,
            bytes,
            last_lsn: Lsn::ZERO,
        });
        inner.made += 1;
        let more = inner.made < self.files;
        drop(inner);
        self.changed.notify_all();
        Ok(more)
    }

    /// Lets the journal have the disk for a moment, unless it waits for this very file. Returns false when stopping.
    fn pause(&self) -> bool {
        let inner = self.lock();
        if inner.stop || inner.waiting {
            return !inner.stop;
        }
        let (inner, _) = self
            .changed
            .wait_timeout(inner, ZERO_PAUSE)
            .expect("no panics while locked");
        !inner.stop
    }
}

/// Writes both copies of a header, one after the other: a crash in the middle of one leaves the other whole.
pub(super) fn write_header(
    file: &dyn DiskFile,
    header: &FileHeader,
    directory: DirectoryId,
) -> io::Result<()> {
    let mut block = AlignedBuf::zeroed(BLOCK);
    block.copy_from_slice(&header.encode(directory));
    for copy in [0, BLOCK as u64] {
        file.write_all_at(&block, copy)?;
        file.sync_data()?;
    }
    Ok(())
}

/// Makes a zeroed journal file; `None` if `go_on` said no.
pub(super) fn make_file(
    disk: &dyn crate::disk::Disk,
    number: u64,
    bytes: u64,
    go_on: impl Fn() -> bool,
) -> io::Result<Option<Box<dyn DiskFile>>> {
    let path = paths::journal(number);
    let file = disk.create_new(&path, Mode::Direct)?;
    let zeros = AlignedBuf::zeroed(ZERO_PIECE_BYTES);
    let mut at = 0;
    while at < bytes {
        if !go_on() {
            disk.unlink(&path)?;
            return Ok(None);
        }
        let piece = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(&zeros[..piece], at)?;
        at += piece as u64;
    }
    file.sync_data()?;
    if !planted::is(Bug::JournalDirNotSynced) {
        disk.sync_dir(paths::JOURNAL)?;
    }
    Ok(Some(file))
}
