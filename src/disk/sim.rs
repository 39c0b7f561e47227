//! A disk in memory that is as unkind as a real one may be, and the same every time for the same seed.
//!
//! What is written is visible at once and durable only after [`DiskFile::sync_data`]; names
//! only after [`Disk::sync_dir`] of their directory. Direct writes are no more durable than buffered ones. From a running
//! disk, images can be taken of what the next process would find; the original runs on:
//!
//! - [`SimDisk::after_kill`]: the process died. All that was written is there.
//! - [`SimDisk::after_power_cut`]: the power failed. [`CutProfile`] says how bad it may be, a seed picks one outcome.
//!
//! [`SimDisk::on_op`] calls a hook before each operation that changes something, with a [`Moment`] that takes such images.
//! Since un-synced sectors survive independently of each other, an image before the operation that *follows* a write is
//! also an image from the middle of that write; for a kill in its middle there is [`Moment::after_kill_midway`].
//!
//! To cut the power at every operation of a recorded run and recover each:
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use naru::disk::sim::{CutProfile, SimDisk, SimOptions};
//! use naru::disk::{Disk, Mode};
//!
//! let disk = SimDisk::new(SimOptions::default());
//! let acknowledged = Arc::new(Mutex::new(0));
//! let seen = Arc::clone(&acknowledged);
//! disk.on_op(move |moment| {
//!     // Read before the image is taken: what is acknowledged by now must be in it.
//!     let acknowledged = *seen.lock().unwrap();
//!     for seed in 0..20 {
//!         let image = moment.after_power_cut(seed, CutProfile::Posix);
//!         // This is where a test starts the engine on the image. Here: the file is as long as was promised.
//!         let found = image.read_file("log").map_or(0, |bytes| bytes.len());
//!         assert!(found >= acknowledged, "seed {seed}, before {:?}", moment.op());
//!     }
//! });
//!
//! let log = disk.create_new("log", Mode::Buffered)?;
//! disk.sync_dir("")?;
//! for at in 0..5 {
//!     log.write_all_at(b"x", at)?;
//!     log.sync_data()?;
//!     *acknowledged.lock().unwrap() += 1;
//! }
//! assert_eq!(disk.ops(), 12);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Faults are ordered one by one ([`SimDisk::inject`]); each kind has a [`FaultClass`] that says what may be asked of whoever
//! meets it. A slow disk is a [`SimDisk::stall`] where threads drive it, and elsewhere a hook that advances the clock.
//!
//! Memory: images share pages with the original until one of them writes.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::error::{failed, sync_failed};
use super::{Disk, DiskFile, Entry, Mode};

mod content;
mod cut;
mod fault;
mod file;
mod inode;
pub(super) mod medium;
mod rng;
mod stall;
mod state;
mod tree;

#[cfg(test)]
mod tests;

pub use cut::{CutProfile, FailedSync};
pub use fault::{Fault, FaultClass, FaultKind, Strike};
pub use stall::Stall;

pub(crate) use rng::Rng;

use cut::{DataKept, NamesKept};
use file::SimFile;
use state::State;

/// Properties of a [`SimDisk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimOptions {
    /// Start of the generator that decides faults and write-back.
    pub seed: u64,
    /// Space, counted in allocated blocks of 4 KiB; see [`SimDisk::set_free_bytes`].
    pub free_bytes: u64,
    /// Whether [`Mode::Direct`] is direct. If not, such files are buffered.
    pub direct: bool,
    /// What is left in the cache when a sync fails.
    pub failed_sync: FailedSync,
    /// Whether un-synced sectors become durable by themselves at random times. Then a sector that is overwritten before
    /// its sync can come back with the version in between.
    pub write_back: bool,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            free_bytes: 1 << 40,
            direct: true,
            failed_sync: FailedSync::KeepsCache,
            write_back: false,
        }
    }
}

/// An operation that changes the disk, whether or not it succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are the arguments of the method that is named"
)]
pub enum Op<'a> {
    /// [`Disk::create_new`]
    Create { path: &'a str },
    /// [`DiskFile::write_all_at`]
    Write { path: &'a str, at: u64, data: &'a [u8] },
    /// [`DiskFile::sync_data`]
    Sync { path: &'a str },
    /// [`DiskFile::set_len`]
    SetLen { path: &'a str, len: u64 },
    /// [`DiskFile::allocate`]
    Allocate { path: &'a str, at: u64, len: u64 },
    /// [`Disk::mkdir`]
    Mkdir { dir: &'a str },
    /// [`Disk::rename`]
    Rename { from: &'a str, to: &'a str },
    /// [`Disk::unlink`]
    Unlink { path: &'a str },
    /// [`Disk::rmdir`]
    Rmdir { dir: &'a str },
    /// [`Disk::sync_dir`]
    SyncDir { dir: &'a str },
}

/// The moment before an operation takes effect; see [`SimDisk::on_op`].
#[derive(Debug)]
pub struct Moment<'a> {
    disk: &'a SimDisk,
    index: u64,
    op: &'a Op<'a>,
}

impl Moment<'_> {
    /// Number of operations before this one.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The operation that is about to happen.
    pub fn op(&self) -> &Op<'_> {
        self.op
    }

    /// See [`SimDisk::after_power_cut`].
    pub fn after_power_cut(&self, seed: u64, profile: CutProfile) -> SimDisk {
        self.disk.after_power_cut(seed, profile)
    }

    /// See [`SimDisk::after_kill`].
    pub fn after_kill(&self) -> SimDisk {
        self.disk.after_kill()
    }

    /// As [`after_kill`](Self::after_kill), but a write has been done up to a boundary between two sectors.
    pub fn after_kill_midway(&self, seed: u64) -> SimDisk {
        let image = self.disk.after_kill();
        if let Op::Write { path, at, data } = *self.op {
            let done = Rng::new(seed).cut_point(data.len());
            let mut state = image.state();
            // A file without a name is gone with the process.
            if let Ok(id) = state.find_file(path) {
                let before = state.written(id);
                // Without space for it the write would not have begun.
                let _ = state.write(id, path, before.unwrap_or(Mode::Buffered), &data[..done], at);
                // Of a first write it is not known here whether it was a direct one; the next process may do either.
                state.note_written(id, before);
            }
        }
        image
    }
}

type Hook = Box<dyn FnMut(&Moment<'_>) + Send>;

/// A simulated disk; clones are handles on the same one.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    hook: Mutex<Option<Hook>>,
    stalls: Mutex<Vec<Arc<stall::Held>>>,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(options: SimOptions) -> Self {
        Self::from_state(State::new(options))
    }

    /// The disk as the next process finds it when this one is killed: everything written is there, durable or not; files
    /// without a name are gone, and so are orders for faults and the hook.
    pub fn after_kill(&self) -> Self {
        Self::from_state(self.state().after_kill())
    }

    /// The disk as the next process finds it when the power fails now: one of the outcomes that `profile` allows, picked
    /// by `seed`. All of it is durable. Without orders for faults and without the hook.
    pub fn after_power_cut(&self, seed: u64, profile: CutProfile) -> Self {
        Self::from_state(self.state().after_power_cut(seed, profile))
    }

    /// How many operations that change something were begun.
    pub fn ops(&self) -> u64 {
        self.state().ops
    }

    /// Calls `hook` before each operation that changes something takes effect, one call at a time; replaces the hook before.
    ///
    /// The hook may take images and use them freely. It must not change this disk: that would wait for itself.
    pub fn on_op(&self, hook: impl FnMut(&Moment<'_>) + Send + 'static) {
        *lock(&self.shared.hook) = Some(Box::new(hook));
    }

    /// Orders a fault.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.add(fault);
    }

    /// Whether a fault of this kind is still to come.
    pub fn expects(&self, kind: FaultKind) -> bool {
        self.state().faults.are_ordered(kind)
    }

    /// Cancels all faults that are still to come.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// The faults that struck since this was last asked, in order.
    pub fn take_strikes(&self) -> Vec<Strike> {
        std::mem::take(&mut self.state().faults.struck)
    }

    /// Holds up operations that change something and of which `choice` is true, until the [`Stall`] is dropped. For disks
    /// that threads use: whoever drives everything alone would wait for itself.
    #[must_use = "dropping it lets the operations go"]
    pub fn stall(&self, choice: impl Fn(&Op<'_>) -> bool + Send + Sync + 'static) -> Stall {
        let held = stall::Held::new(Box::new(choice));
        let mut stalls = lock(&self.shared.stalls);
        stalls.retain(|held| !held.is_open());
        stalls.push(Arc::clone(&held));
        Stall::new(held)
    }

    /// Lets so many more files and directories be made; then creation fails with `ENOSPC`. Removing one allows another.
    pub fn set_free_inodes(&self, count: u64) {
        self.state().set_free_inodes(count);
    }

    /// Makes the disk read-only, as file systems do when they have lost trust in it: every change and sync fails with
    /// `EROFS`. Images are writable again.
    pub fn set_read_only(&self) {
        self.state().read_only = true;
    }

    /// Makes so many bytes free, in whole blocks of 4 KiB. Writes and reservations take blocks, each once; cutting a file
    /// off and removing its last name and handle gives them back. What does not fit is refused as a whole.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.state().set_free_bytes(bytes);
    }

    /// All files with their lengths, sorted by path.
    pub fn files(&self) -> Vec<(String, u64)> {
        let state = self.state();
        let length = |(path, id)| (path, state.view(id).cached.len());
        state.named_files().into_iter().map(length).collect()
    }

    /// Everything in a file, with no faults.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn read_file(&self, path: &str) -> io::Result<Vec<u8>> {
        let state = self.state();
        let content = &state.view(state.find_file(path)?).cached;
        let len = usize::try_from(content.len()).map_err(|_| Errno::FBIG)?;
        let mut bytes = vec![0; len];
        content.read(&mut bytes, 0);
        Ok(bytes)
    }

    /// Puts a file in place or replaces its bytes, durable at once; not an operation that is counted.
    ///
    /// # Errors
    /// `NotFound` if its directory is not there.
    pub fn write_file(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.state().put_file(path, bytes)
    }

    /// Flips bit `bit % 8` of the byte at `at`, on the medium and in the cache.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    pub fn flip_bit(&self, path: &str, at: u64, bit: u32) -> io::Result<()> {
        let inside = usize::try_from(at % content::SECTOR).map_err(|_| Errno::INVAL)?;
        self.rot(path, at, |sector| sector[inside] ^= 1u8.rotate_left(bit))
    }

    /// Zeroes the sector that holds the byte at `at`, on the medium and in the cache.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    pub fn zero_sector(&self, path: &str, at: u64) -> io::Result<()> {
        self.rot(path, at, |sector| sector.fill(0))
    }

    /// Makes the sectors of a range fail to be read (`EIO`) until each is written whole, on this disk and its images.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    pub fn make_unreadable(&self, path: &str, at: u64, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let id = state.find_file(path)?;
        state.inode(id).make_unreadable(at, len);
        Ok(())
    }

    fn from_state(state: State) -> Self {
        let shared = Shared {
            state: Mutex::new(state),
            hook: Mutex::new(None),
            stalls: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    fn rot(&self, path: &str, at: u64, change: impl Fn(&mut [u8])) -> io::Result<()> {
        let mut state = self.state();
        let id = state.find_file(path)?;
        state.inode(id).rot(at / content::SECTOR, change);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }

    /// Counts an operation and lets the hook look at the disk before it.
    fn begin(&self, op: &Op<'_>) {
        // Held over the call, so that the numbers arrive in order; the state is not, so that images can be taken.
        let mut hook = lock(&self.shared.hook);
        let index = {
            let mut state = self.state();
            state.write_back_some();
            state.ops += 1;
            state.ops - 1
        };
        if let Some(hook) = hook.as_mut() {
            hook(&Moment {
                disk: self,
                index,
                op,
            });
        }
        drop(hook);
        let stalls = lock(&self.shared.stalls).clone();
        stalls.iter().for_each(|held| held.pass(op));
    }

    /// Counts an operation on names and does it unless a fault says no.
    fn change<T>(
        &self,
        (verb, path): (&'static str, &str),
        op: &Op<'_>,
        effect: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.begin(op);
        let mut state = self.state();
        let mut kinds = vec![(FaultKind::ChangeFails, Errno::IO)];
        if matches!(op, Op::Create { .. } | Op::Mkdir { .. } | Op::Rename { .. }) {
            kinds.push((FaultKind::ChangeNoSpace, Errno::NOSPC));
        }
        let check = state.check_writable();
        check
            .and_then(|()| state.faults.check_each(&kinds, path).map_err(io::Error::from))
            .and_then(|()| effect(&mut state))
            .map_err(|e| failed(verb, path, None, e))
    }

    fn handle(&self, id: tree::FileId, path: &str, mode: Mode) -> Box<dyn DiskFile> {
        let mode = if self.supports_direct() {
            mode
        } else {
            Mode::Buffered
        };
        Box::new(SimFile {
            disk: self.clone(),
            id,
            path: path.to_owned(),
            mode,
        })
    }
}

impl Disk for SimDisk {
    fn create_new(&self, path: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        let id = self.change(("create", path), &Op::Create { path }, |state| state.create(path))?;
        Ok(self.handle(id, path, mode))
    }

    fn open(&self, path: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        let opened = self.state().open(path);
        let id = opened.map_err(|e| failed("open", path, None, e))?;
        Ok(self.handle(id, path, mode))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Entry>> {
        let listed = self.state().list(dir);
        listed.map_err(|e| failed("list", dir, None, e))
    }

    fn mkdir(&self, dir: &str) -> io::Result<()> {
        self.change(("make directory", dir), &Op::Mkdir { dir }, |state| {
            state.mkdir(dir)
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let op = Op::Rename { from, to };
        self.change(("rename", from), &op, |state| state.rename(from, to))
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.change(("unlink", path), &Op::Unlink { path }, |state| state.unlink(path))
    }

    fn rmdir(&self, dir: &str) -> io::Result<()> {
        self.change(("remove directory", dir), &Op::Rmdir { dir }, |state| {
            state.rmdir(dir)
        })
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.begin(&Op::SyncDir { dir });
        let synced = self.state().sync_dir(dir);
        synced.map_err(|e| sync_failed("sync directory", dir, e))
    }

    /// In the order in which they are given.
    fn sync_files(&self, files: &[&dyn DiskFile]) -> io::Result<()> {
        files.iter().try_for_each(|file| file.sync_data())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.state().free_bytes())
    }

    fn supports_direct(&self) -> bool {
        self.state().options.direct
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("files", &self.files()).finish()
    }
}

/// A test that panics in one thread must not hide its reason behind a second panic in the next.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
