//! Everything that the simulated disk knows, behind one lock: names, files, free space, faults.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::content::{Content, PAGE, SECTOR};
use super::fault::{FaultKind, Faults};
use super::inode::Inode;
use super::medium::Settled;
use super::rng::Rng;
use super::tree::{DirId, FileId, Node, ROOT, Tree, join};
use super::{CutProfile, SimOptions};
use crate::disk::{Entry, Mode, paths};

/// Above this the system refuses a file; it also keeps positions from overflowing.
const FILE_BYTES_MAX: u64 = 1 << 44;

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) options: SimOptions,
    pub(super) faults: Faults,
    pub(super) ops: u64,
    pub(super) tree: Tree,
    pub(super) rng: Rng,
    inodes: BTreeMap<FileId, Arc<Inode>>,
    handles: BTreeMap<FileId, u64>,
    /// How files were written so far; the two ways are never mixed in one.
    written: BTreeMap<FileId, Mode>,
    next_id: u64,
    capacity_blocks: u64,
    used_blocks: u64,
    /// Files and directories that there may be.
    capacity_inodes: u64,
    pub(super) read_only: bool,
    /// What became durable and the medium behind does not have yet; `None` without one.
    pub(super) settled: Option<Vec<Settled>>,
}

impl State {
    pub(super) fn new(options: SimOptions) -> Self {
        Self {
            faults: Faults::default(),
            ops: 0,
            tree: Tree::new(),
            rng: Rng::new(options.seed),
            inodes: BTreeMap::new(),
            handles: BTreeMap::new(),
            written: BTreeMap::new(),
            next_id: ROOT + 1,
            capacity_blocks: options.free_bytes / PAGE,
            used_blocks: 0,
            capacity_inodes: u64::MAX,
            read_only: false,
            settled: None,
            options,
        }
    }

    pub(super) fn create(&mut self, path: &str) -> io::Result<FileId> {
        let (dir, name) = self.place(path)?;
        if self.tree.get(dir, name).is_some() {
            return Err(Errno::EXIST.into());
        }
        self.check_inodes()?;
        let id = self.next_id();
        self.inodes.insert(id, Arc::new(Inode::default()));
        self.tree.link(dir, name, Node::File(id));
        *self.handles.entry(id).or_default() += 1;
        Ok(id)
    }

    pub(super) fn open(&mut self, path: &str) -> io::Result<FileId> {
        let id = self.find_file(path)?;
        *self.handles.entry(id).or_default() += 1;
        Ok(id)
    }

    pub(super) fn close(&mut self, id: FileId) {
        if let Some(count) = self.handles.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.handles.remove(&id);
            }
        }
        self.release(id);
    }

    pub(super) fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let dir = self.tree.dir(&paths::names(path)?)?;
        let entry = |(name, node): (&String, &Node)| Entry {
            name: name.clone(),
            is_dir: matches!(node, Node::Dir(_)),
        };
        Ok(self.tree.names(dir).iter().map(entry).collect())
    }

    pub(super) fn mkdir(&mut self, path: &str) -> io::Result<()> {
        if paths::names(path)?.is_empty() {
            return Ok(());
        }
        let (dir, name) = self.place(path)?;
        match self.tree.get(dir, name) {
            Some(Node::Dir(_)) => Ok(()),
            Some(Node::File(_)) => Err(Errno::EXIST.into()),
            None => {
                self.check_inodes()?;
                let id = self.next_id();
                self.tree.link(dir, name, Node::Dir(id));
                Ok(())
            }
        }
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        if let Some(replaced) = self.tree.rename(from, to)? {
            self.inode(replaced).unlinked = true;
            self.release(replaced);
        }
        Ok(())
    }

    pub(super) fn unlink(&mut self, path: &str) -> io::Result<()> {
        let id = self.find_file(path)?;
        let (dir, name) = self.place(path)?;
        self.tree.unlink(dir, name);
        self.inode(id).unlinked = true;
        self.release(id);
        Ok(())
    }

    pub(super) fn rmdir(&mut self, path: &str) -> io::Result<()> {
        let (dir, name) = self.place(path)?;
        match self.tree.get(dir, name) {
            None => Err(Errno::NOENT.into()),
            Some(Node::File(_)) => Err(Errno::NOTDIR.into()),
            Some(Node::Dir(id)) if !self.tree.names(id).is_empty() => Err(Errno::NOTEMPTY.into()),
            Some(Node::Dir(_)) => {
                self.tree.unlink(dir, name);
                Ok(())
            }
        }
    }

    pub(super) fn sync_dir(&mut self, path: &str) -> io::Result<()> {
        self.check_writable()?;
        let dir = self.tree.dir(&paths::names(path)?)?;
        let kinds = [
            (FaultKind::SyncDirFails, Errno::IO),
            (FaultKind::SyncDirNoSpace, Errno::NOSPC),
        ];
        if let Err(errno) = self.faults.check_each(&kinds, path) {
            self.tree.fail_sync(dir);
            return Err(errno.into());
        }
        let changes = self.tree.sync(dir);
        self.settle(changes.into_iter().map(Settled::Name));
        self.forget_unreferenced();
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        id: FileId,
        path: &str,
        mode: Mode,
        buf: &[u8],
        at: u64,
    ) -> io::Result<()> {
        if self.written.get(&id).is_some_and(|&written| written != mode) {
            let message = "direct and buffered writes to one file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        if buf.is_empty() {
            return Ok(());
        }
        let len = buf.len() as u64;
        check_range(at, len)?;
        self.check_writable()?;
        self.faults.check(FaultKind::NoSpace, path, Errno::NOSPC)?;
        let kinds = [
            (FaultKind::WriteFails, Errno::IO),
            (FaultKind::NoSpaceMidway, Errno::NOSPC),
        ];
        let failing = self.faults.check_each(&kinds, path);
        if failing.is_ok() && self.goes_astray(id, path, buf, at) {
            return Ok(());
        }
        self.reserve(id, at, len)?;
        let done = match failing {
            Ok(()) => buf.len(),
            Err(_) => self.rng.cut_point(buf.len()),
        };
        self.written.insert(id, mode);
        if done > 0 {
            self.inode(id).write(&buf[..done], at);
        }
        Ok(failing?)
    }

    /// Whether a write is lost, or hits another place than its own.
    fn goes_astray(&mut self, id: FileId, path: &str, buf: &[u8], at: u64) -> bool {
        if self.faults.strikes(FaultKind::WriteLost, path) {
            return true;
        }
        let astray = self.faults.strikes(FaultKind::WriteMisdirected, path);
        if astray && let Some((path, target, page)) = self.other_page(id, at) {
            let inode = self.inode(target);
            for (nth, bytes) in (0..).zip(buf.chunks(to_usize(SECTOR))) {
                if (page * PAGE + nth * SECTOR) < inode.cached.len() {
                    inode.rot(page * PAGE / SECTOR + nth, |sector| {
                        sector[..bytes.len()].copy_from_slice(bytes);
                    });
                }
            }
            let strike = self.faults.struck.last_mut();
            strike.expect("it was noted just now").landed = Some((path, page * PAGE));
        }
        astray
    }

    /// A page of any file that is not the one at this place, if there is any.
    fn other_page(&mut self, id: FileId, at: u64) -> Option<(String, FileId, u64)> {
        let files = self.named_files();
        let pages = |id: FileId| self.view(id).cached.len().div_ceil(PAGE);
        let own = (at / PAGE, id);
        let all: Vec<_> = files
            .into_iter()
            .flat_map(|(path, file)| (0..pages(file)).map(move |page| (path.clone(), file, page)))
            .filter(|(_, file, page)| (*page, *file) != own)
            .collect();
        let nth = if all.is_empty() {
            0
        } else {
            self.rng.below(all.len() as u64)
        };
        all.into_iter().nth(to_usize(nth))
    }

    /// All files that have a name.
    pub(super) fn named_files(&self) -> Vec<(String, FileId)> {
        let mut files = Vec::new();
        for (path, dir) in self.tree.walk() {
            for (name, node) in self.tree.names(dir) {
                if let Node::File(id) = node {
                    files.push((join(&path, name), *id));
                }
            }
        }
        files.sort();
        files
    }

    pub(super) fn sync_data(&mut self, id: FileId, path: &str) -> io::Result<()> {
        self.check_writable()?;
        let kinds = [
            (FaultKind::SyncFails, Errno::IO),
            (FaultKind::SyncNoSpace, Errno::NOSPC),
        ];
        let fails = self.faults.check_each(&kinds, path);
        let lies = fails.is_ok() && self.faults.strikes(FaultKind::SyncLies, path);
        let after = self.options.failed_sync;
        let Self { inodes, rng, .. } = self;
        let inode = inodes.get_mut(&id).map(Arc::make_mut).expect(OPEN_FILES_STAY);
        let reached = if fails.is_err() {
            inode.fail_sync(rng, after);
            Vec::new()
        } else if lies {
            inode.sync_some(rng)
        } else {
            inode.sync()
        };
        self.settle([Settled::Sectors(id, reached)]);
        Ok(fails?)
    }

    pub(super) fn set_len(&mut self, id: FileId, path: &str, len: u64) -> io::Result<()> {
        check_range(len, 0)?;
        self.check_writable()?;
        self.faults.check(FaultKind::ChangeFails, path, Errno::IO)?;
        let freed = self.inode(id).set_len(len);
        self.used_blocks -= freed as u64;
        Ok(())
    }

    pub(super) fn allocate(&mut self, id: FileId, path: &str, at: u64, len: u64) -> io::Result<()> {
        check_range(at, len)?;
        self.check_writable()?;
        self.faults
            .check(FaultKind::AllocateNoSpace, path, Errno::NOSPC)?;
        self.reserve(id, at, len)
    }

    pub(super) fn read(&mut self, id: FileId, path: &str, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.faults.check(FaultKind::ReadInterrupted, path, Errno::INTR)?;
        self.faults.check(FaultKind::ReadFails, path, Errno::IO)?;
        let inode = self.view(id);
        let there = inode.cached.len().saturating_sub(at).min(buf.len() as u64);
        if !inode.is_readable(at, there) {
            return Err(Errno::IO.into());
        }
        Ok(inode.cached.read(buf, at))
    }

    /// How much of a read of `len` bytes is done; less than all of it where a fault says so.
    pub(super) fn read_limit(&mut self, path: &str, len: usize, unit: usize) -> usize {
        let units = (len / unit) as u64;
        if units < 2 || !self.faults.strikes(FaultKind::ReadShort, path) {
            return len;
        }
        let units = 1 + self.rng.below(units - 1);
        usize::try_from(units).map_or(len, |units| units * unit)
    }

    pub(super) fn view(&self, id: FileId) -> &Inode {
        self.inodes.get(&id).expect(OPEN_FILES_STAY)
    }

    /// Whether this file can still be reached.
    #[cfg(any(test, feature = "test-faults"))]
    pub(super) fn has(&self, id: FileId) -> bool {
        self.inodes.contains_key(&id)
    }

    /// How a file was written so far, if at all.
    pub(super) fn written(&self, id: FileId) -> Option<Mode> {
        self.written.get(&id).copied()
    }

    pub(super) fn note_written(&mut self, id: FileId, mode: Option<Mode>) {
        match mode {
            Some(mode) => self.written.insert(id, mode),
            None => self.written.remove(&id),
        };
    }

    pub(super) fn inode(&mut self, id: FileId) -> &mut Inode {
        self.inodes
            .get_mut(&id)
            .map(Arc::make_mut)
            .expect(OPEN_FILES_STAY)
    }

    pub(super) fn find_file(&self, path: &str) -> io::Result<FileId> {
        let (dir, name) = self.place(path)?;
        match self.tree.get(dir, name) {
            Some(Node::File(id)) => Ok(id),
            Some(Node::Dir(_)) => Err(Errno::ISDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.capacity_blocks.saturating_sub(self.used_blocks) * PAGE
    }

    pub(super) fn set_free_bytes(&mut self, bytes: u64) {
        self.capacity_blocks = self.used_blocks.saturating_add(bytes / PAGE);
    }

    pub(super) fn set_free_inodes(&mut self, count: u64) {
        self.capacity_inodes = self.used_inodes().saturating_add(count);
    }

    fn used_inodes(&self) -> u64 {
        let gone = |(id, inode): &(&FileId, &Arc<Inode>)| inode.unlinked && !self.handles.contains_key(id);
        let files = self.inodes.iter().filter(|file| !gone(file)).count();
        (files + self.tree.walk().len()) as u64
    }

    fn check_inodes(&self) -> io::Result<()> {
        if self.capacity_inodes < u64::MAX && self.used_inodes() >= self.capacity_inodes {
            return Err(Errno::NOSPC.into());
        }
        Ok(())
    }

    pub(super) fn check_writable(&self) -> io::Result<()> {
        if self.read_only {
            return Err(Errno::ROFS.into());
        }
        Ok(())
    }

    /// Puts a file with its name and bytes in place, durably and for nothing.
    pub(super) fn put_file(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut content = Content::default();
        content.write(bytes, 0);
        let inode = Arc::new(Inode::settled(content));
        let (dir, name) = self.place(path)?;
        let id = match self.tree.get(dir, name) {
            Some(Node::File(id)) => id,
            Some(Node::Dir(_)) => return Err(Errno::ISDIR.into()),
            None => {
                let id = self.next_id();
                self.tree.link_durably(dir, name, Node::File(id));
                id
            }
        };
        self.used_blocks += inode.allocated.len() as u64;
        if let Some(old) = self.inodes.insert(id, inode) {
            self.used_blocks -= old.allocated.len() as u64;
        }
        Ok(())
    }

    /// At random times random sectors reach the medium by themselves, as a page cache writes them back.
    pub(super) fn write_back_some(&mut self) {
        if !self.options.write_back || self.rng.below(4) != 0 || self.inodes.is_empty() {
            return;
        }
        let nth = usize::try_from(self.rng.below(self.inodes.len() as u64)).unwrap_or(0);
        if let Some(&id) = self.inodes.keys().nth(nth) {
            self.write_back_some_of(id, 2);
        }
        if self.rng.below(8) == 0 {
            self.write_back_a_name();
        }
    }

    /// Random sectors of a file reach the medium, `quarters` of four of those that are dirty.
    pub(super) fn write_back_some_of(&mut self, id: FileId, quarters: u64) {
        let Self { inodes, rng, .. } = self;
        if let Some(inode) = inodes.get_mut(&id) {
            let sectors = Arc::make_mut(inode).write_back(|_| rng.quarters(quarters));
            self.settle([Settled::Sectors(id, sectors)]);
        }
    }

    /// A random change of a name reaches the medium.
    pub(super) fn write_back_a_name(&mut self) {
        let changes = self.tree.write_back(&mut self.rng);
        self.settle(changes.into_iter().map(Settled::Name));
    }

    fn settle(&mut self, durable: impl IntoIterator<Item = Settled>) {
        if let Some(settled) = &mut self.settled {
            settled.extend(durable);
        }
    }

    /// The disk that the next process finds when this one dies: everything that was written, and no handles.
    pub(super) fn after_kill(&self) -> Self {
        let mut after = self.clone();
        after.settled = None;
        after.handles.clear();
        after.faults = Faults::default();
        after.read_only = false;
        after.forget_unreferenced();
        for id in after.inodes.keys().copied().collect::<Vec<_>>() {
            after.release(id);
        }
        after
    }

    /// The disk that the next process finds when the power fails.
    pub(super) fn after_power_cut(&self, seed: u64, profile: CutProfile) -> Self {
        let mut rng = Rng::new(seed);
        let (names, data) = profile.parts();
        let mut after = self.clone();
        after.settled = None;
        after.handles.clear();
        after.written.clear();
        after.faults = Faults::default();
        after.read_only = false;
        after.tree = self.tree.cut(&mut rng, names);
        after.forget_unreferenced();
        for inode in after.inodes.values_mut() {
            inode.cut(&mut rng, data);
        }
        after.used_blocks = after.inodes.values().map(|i| i.allocated.len() as u64).sum();
        after.rng = rng;
        after
    }

    /// Directory and last name of a path.
    fn place<'a>(&self, path: &'a str) -> io::Result<(DirId, &'a str)> {
        let (dirs, name) = paths::split(path)?;
        Ok((self.tree.dir(&dirs)?, name))
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Takes the blocks that a range still lacks, all or none.
    fn reserve(&mut self, id: FileId, at: u64, len: u64) -> io::Result<()> {
        let missing = self.view(id).missing_blocks(at, len);
        let count = missing.len() as u64;
        if count * PAGE > self.free_bytes() {
            return Err(Errno::NOSPC.into());
        }
        self.used_blocks += count;
        self.inode(id).allocate(missing);
        Ok(())
    }

    /// Frees the space of a file without names and handles. Its bytes stay, for the power cut that brings its name back.
    fn release(&mut self, id: FileId) {
        if self.handles.contains_key(&id) {
            return;
        }
        if let Some(inode) = self.inodes.get_mut(&id).filter(|inode| inode.unlinked) {
            let freed = std::mem::take(&mut Arc::make_mut(inode).allocated);
            self.used_blocks -= freed.len() as u64;
        }
    }

    /// Forgets files that nobody can ever reach again.
    fn forget_unreferenced(&mut self) {
        let referenced = self.tree.referenced();
        let Self {
            inodes,
            handles,
            written,
            used_blocks,
            ..
        } = self;
        inodes.retain(|id, inode| {
            let keep = referenced.contains(id) || handles.contains_key(id);
            if !keep {
                written.remove(id);
                *used_blocks -= inode.allocated.len() as u64;
            }
            keep
        });
    }
}

fn to_usize(small: u64) -> usize {
    usize::try_from(small).expect("small")
}

const OPEN_FILES_STAY: &str = "a file stays while it has a name or a handle";

fn check_range(at: u64, len: u64) -> io::Result<()> {
    match at.checked_add(len) {
        Some(end) if end <= FILE_BYTES_MAX => Ok(()),
        _ => Err(Errno::FBIG.into()),
    }
}
