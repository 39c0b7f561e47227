//! The disk of the operating system: a data directory on a Linux file system. Does not know what its files mean.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;

use rustix::fs::{Advice, FallocateFlags, OFlags};

use super::error::{failed, sync_failed};
use super::{AlignedBuf, BLOCK_BYTES, Disk, DiskFile, Entry, Mode, check_alignment, paths};

/// Written and removed once at start, to learn whether this file system takes direct I/O.
const PROBE: &str = ".direct-probe";

const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// Syncs that wait at the same time: the device answers them with one flush of its cache, where one after the other each
/// costs a flush of its own. More would only hold up the sync of the journal that comes in between.
const SYNCS_AT_ONCE_MAX: usize = 8;
/// Few files are synced one after the other.
const FILES_PER_THREAD_MIN: usize = 8;

/// A data directory on a real file system.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    direct: bool,
    /// Nothing below the root is changed, and files are opened for reading alone.
    read_only: bool,
}

impl RealDisk {
    /// Opens the data directory `root`, which must exist, and probes whether it takes direct I/O. A symbolic link is
    /// followed now, and never again.
    ///
    /// # Errors
    /// `NotFound` or `NotADirectory` for a wrong `root`; whatever the system says about making a file in it.
    pub fn open(root: &Path) -> io::Result<Self> {
        let root = real_root(root)?;
        let direct = probe_direct(&root.join(PROBE)).map_err(|e| failed("probe", PROBE, None, e))?;
        Ok(Self {
            root,
            direct,
            read_only: false,
        })
    }

    /// Opens the data directory `root` to look at it: nothing in it is ever changed, every call that would is refused with
    /// `ReadOnlyFilesystem`. Reads go through the page cache.
    ///
    /// # Errors
    /// `NotFound` or `NotADirectory` for a wrong `root`.
    pub fn open_read_only(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: real_root(root)?,
            direct: false,
            read_only: true,
        })
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }

    fn locate(&self, path: &str) -> io::Result<PathBuf> {
        let mut full = self.root.clone();
        full.extend(paths::names(path)?);
        Ok(full)
    }

    /// Refuses the root, which can neither be made, renamed nor removed.
    fn locate_entry(&self, path: &str) -> io::Result<PathBuf> {
        paths::split(path)?;
        self.locate(path)
    }

    fn open_with(&self, options: &mut OpenOptions, path: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        let direct = self.direct && mode == Mode::Direct;
        let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
        let file = options
            .read(true)
            .write(!self.read_only)
            .mode(FILE_MODE)
            .custom_flags(open_flags(flags))
            .open(self.locate_entry(path)?)?;
        Ok(Box::new(RealFile {
            file,
            path: path.to_owned(),
            direct,
        }))
    }
}

impl Disk for RealDisk {
    fn create_new(&self, path: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        self.check_writable()
            .and_then(|()| self.open_with(OpenOptions::new().create_new(true), path, mode))
            .map_err(|e| failed("create", path, None, e))
    }

    fn open(&self, path: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        self.open_with(&mut OpenOptions::new(), path, mode)
            .map_err(|e| failed("open", path, None, e))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Entry>> {
        let read = || {
            let mut entries = self
                .locate(dir)?
                .read_dir()?
                .map(|entry| to_entry(&entry?))
                .collect::<io::Result<Vec<Entry>>>()?;
            entries.sort();
            Ok(entries)
        };
        read().map_err(|e| failed("list", dir, None, e))
    }

    fn mkdir(&self, dir: &str) -> io::Result<()> {
        let make = || {
            self.check_writable()?;
            let full = self.locate(dir)?;
            match DirBuilder::new().mode(DIR_MODE).create(&full) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    // A link to a directory is not one of ours.
                    let is_dir = full.symlink_metadata()?.is_dir();
                    if is_dir { Ok(()) } else { Err(e) }
                }
                result => result,
            }
        };
        make().map_err(|e| failed("make directory", dir, None, e))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let rename = || {
            self.check_writable()?;
            std::fs::rename(self.locate_entry(from)?, self.locate_entry(to)?)
        };
        rename().map_err(|e| failed("rename", &format!("{from} -> {to}"), None, e))
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        let unlink = || {
            self.check_writable()?;
            std::fs::remove_file(self.locate_entry(path)?)
        };
        unlink().map_err(|e| failed("unlink", path, None, e))
    }

    fn rmdir(&self, dir: &str) -> io::Result<()> {
        let remove = || {
            self.check_writable()?;
            std::fs::remove_dir(self.locate_entry(dir)?)
        };
        remove().map_err(|e| failed("remove directory", dir, None, e))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let sync = || {
            self.check_writable()?;
            OpenOptions::new()
                .read(true)
                .custom_flags(open_flags(OFlags::DIRECTORY))
                .open(self.locate(dir)?)?
                .sync_all()
        };
        sync().map_err(|e| sync_failed("sync directory", dir, e))
    }

    fn sync_files(&self, files: &[&dyn DiskFile]) -> io::Result<()> {
        let next = AtomicUsize::new(0);
        let sync_rest = || {
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                file.sync_data()?;
            }
            Ok(())
        };
        let helpers = SYNCS_AT_ONCE_MAX.min(files.len() / FILES_PER_THREAD_MIN);
        std::thread::scope(|scope| {
            // A thread that cannot be had is not missed: those that run, this one among them, do all that is left.
            let helpers: Vec<_> = (1..helpers)
                .filter_map(|_| Builder::new().spawn_scoped(scope, sync_rest).ok())
                .collect();
            let own = sync_rest();
            let joined = helpers.into_iter().map(|helper| match helper.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            joined.fold(own, Result::and)
        })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root).map_err(|e| failed("statvfs", "", None, e.into()))?;
        // Available to us, which is less than free: the file system keeps some blocks for the superuser.
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn supports_direct(&self) -> bool {
        self.direct
    }
}

/// Most slices in one system call (`IOV_MAX` of Linux).
const SLICES_MAX: usize = 1024;

#[derive(Debug)]
struct RealFile {
    file: File,
    path: String,
    direct: bool,
}

impl RealFile {
    fn failed(&self, op: &'static str, at: Option<u64>, e: io::Error) -> io::Error {
        failed(op, &self.path, at, e)
    }

    /// Writes these slices in one system call if the kernel takes all of them at once; what it leaves, one by one.
    fn write_together(&self, bufs: &[&[u8]], at: u64) -> io::Result<()> {
        let slices: Vec<IoSlice<'_>> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
        let written = match rustix::io::pwritev(&self.file, &slices, at) {
            Ok(written) => written,
            Err(rustix::io::Errno::INTR) => 0,
            Err(e) => return Err(e.into()),
        };
        if self.direct && written % BLOCK_BYTES != 0 {
            return Err(inside_a_block(written));
        }
        for (rest, at) in left_of(bufs, at, written) {
            self.write_pieces(rest, at)?;
        }
        Ok(())
    }

    fn write_pieces(&self, buf: &[u8], at: u64) -> io::Result<()> {
        write_pieces(self.direct, buf, at, |buf, at| self.file.write_at(buf, at))
    }
}

/// What is left of slices that follow each other from `at` when the first `written` bytes are done, and where it goes.
fn left_of<'a>(
    bufs: &'a [&'a [u8]],
    mut at: u64,
    mut written: usize,
) -> impl Iterator<Item = (&'a [u8], u64)> {
    bufs.iter().map(move |buf| {
        let done = written.min(buf.len());
        written -= done;
        let rest = (&buf[done..], at + done as u64);
        at += buf.len() as u64;
        rest
    })
}

/// Writes all of `buf` by as many calls of `write` as that takes.
fn write_pieces(
    direct: bool,
    mut buf: &[u8],
    mut at: u64,
    mut write: impl FnMut(&[u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    while !buf.is_empty() {
        match write(buf, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) if direct && n < buf.len() && n % BLOCK_BYTES != 0 => {
                return Err(inside_a_block(n));
            }
            Ok(n) => {
                buf = &buf[n..];
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The rest could not be written directly, and the two ways of writing are never mixed.
fn inside_a_block(bytes: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::WriteZero,
        format!("direct write stopped inside a block after {bytes} bytes"),
    )
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        let stat = self.file.metadata();
        Ok(stat.map_err(|e| self.failed("stat", None, e))?.len())
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        check_alignment(self.direct, buf, at)
            .and_then(|()| self.file.read_at(buf, at))
            .map_err(|e| self.failed("read", Some(at), e))
    }

    fn read_cached_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut into = [io::IoSliceMut::new(buf)];
        match rustix::io::preadv2(&self.file, &mut into, at, rustix::io::ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(read),
            // Not in memory, or a file system that cannot tell. Any other trouble is the ordinary read's to report.
            Err(_) => Ok(0),
        }
    }

    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        check_alignment(self.direct, buf, at)
            .and_then(|()| self.write_pieces(buf, at))
            .map_err(|e| self.failed("write", Some(at), e))
    }

    fn write_all_vectored_at(&self, bufs: &[&[u8]], at: u64) -> io::Result<()> {
        let mut begin = at;
        for together in bufs.chunks(SLICES_MAX) {
            let bytes: usize = together.iter().map(|buf| buf.len()).sum();
            together
                .iter()
                .try_for_each(|buf| check_alignment(self.direct, buf, begin))
                .and_then(|()| match together {
                    [buf] => self.write_pieces(buf, begin),
                    bufs => self.write_together(bufs, begin),
                })
                .map_err(|e| self.failed("write", Some(begin), e))?;
            begin += bytes as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file
            .sync_data()
            .map_err(|e| sync_failed("sync", &self.path, e))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file
            .set_len(len)
            .map_err(|e| self.failed("set length", Some(len), e))
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, at, len) {
                Err(rustix::io::Errno::INTR) => {}
                result => return result.map_err(|e| self.failed("allocate", Some(at), e.into())),
            }
        }
    }

    fn drop_cache(&self, at: u64, len: u64) -> io::Result<()> {
        // The system takes length 0 for "to the end"; here it means nothing at all.
        let Some(len) = NonZeroU64::new(len) else {
            return Ok(());
        };
        rustix::fs::fadvise(&self.file, at, Some(len), Advice::DontNeed)
            .map_err(|e| self.failed("drop cache", Some(at), e.into()))
    }
}

/// The directory itself: below it, and for its own sync, no link is followed.
fn real_root(root: &Path) -> io::Result<PathBuf> {
    let shown = root.to_string_lossy();
    let described = |e| failed("open data directory", &shown, None, e);
    let real = root.canonicalize().map_err(described)?;
    if !real.metadata().map_err(described)?.is_dir() {
        return Err(described(io::ErrorKind::NotADirectory.into()));
    }
    Ok(real)
}

fn open_flags(flags: OFlags) -> i32 {
    (flags | OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed()
}

/// Whether one block can be written past the page cache. Some file systems (tmpfs of older kernels) refuse the open, some
/// only the write, and with `EINVAL` in both cases.
fn probe_direct(probe: &Path) -> io::Result<bool> {
    remove_if_there(probe)?;
    let written = write_block(probe);
    // Even a refused open may have left the name behind.
    remove_if_there(probe)?;
    takes_direct(written)
}

fn takes_direct(written: io::Result<()>) -> io::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        // A full disk that let us open the file takes direct I/O; whoever needs space will hear about it.
        Err(e) if e.kind() == io::ErrorKind::StorageFull => Ok(true),
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(false),
        Err(e) => Err(e),
    }
}

fn write_block(path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .custom_flags(open_flags(OFlags::DIRECT))
        .open(path)?
        .write_all_at(&AlignedBuf::zeroed(BLOCK_BYTES), 0)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn to_entry(entry: &std::fs::DirEntry) -> io::Result<Entry> {
    let name = entry
        .file_name()
        .into_string()
        .map_err(|name| io::Error::new(io::ErrorKind::InvalidData, format!("foreign name {name:?}")))?;
    Ok(Entry {
        name,
        is_dir: entry.file_type()?.is_dir(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::disk::os_error;

    #[test]
    fn opening_leaves_nothing_behind_and_clears_an_old_probe() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(PROBE), "left by a crash").unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        assert_eq!(disk.list("").unwrap(), []);
    }

    /// Writes to memory as a system would that answers each call as `script` says.
    fn scripted(direct: bool, len: usize, script: &[Result<usize, io::ErrorKind>]) -> io::Result<Vec<u8>> {
        let wanted: Vec<u8> = (0..len)
            .map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1])
            .collect();
        let mut written = vec![0; len + 3];
        let mut script = script.iter();
        write_pieces(direct, &wanted, 3, |buf, at| {
            let taken = match script.next() {
                Some(Ok(taken)) => (*taken).min(buf.len()),
                Some(Err(kind)) => return Err((*kind).into()),
                None => buf.len(),
            };
            let at = usize::try_from(at).unwrap();
            written[at..at + taken].copy_from_slice(&buf[..taken]);
            Ok(taken)
        })?;
        assert_eq!(written[3..], wanted);
        Ok(written)
    }

    #[test]
    fn short_and_interrupted_writes_are_gone_on_with_where_they_stopped() {
        let interrupted = Err(io::ErrorKind::Interrupted);
        scripted(
            false,
            10_000,
            &[Ok(1), interrupted, interrupted, Ok(4096), Ok(700)],
        )
        .unwrap();
        scripted(true, 3 * 4096, &[interrupted, Ok(4096), Ok(4096)]).unwrap();
    }

    #[test]
    fn a_write_that_cannot_go_on_says_so() {
        let kind = |direct, script: &[_]| scripted(direct, 8192, script).unwrap_err().kind();
        assert_eq!(kind(false, &[Ok(9), Ok(0)]), io::ErrorKind::WriteZero);
        assert_eq!(kind(true, &[Ok(700)]), io::ErrorKind::WriteZero);
        let full = Err(io::ErrorKind::StorageFull);
        assert_eq!(kind(false, &[Ok(512), full]), io::ErrorKind::StorageFull);
    }

    #[test]
    fn what_a_vectored_write_left_is_written_where_it_belongs() {
        let bufs: [&[u8]; 3] = [b"abc", b"", b"defg"];
        let all = b"abcdefg";
        for written in 0..=all.len() {
            let mut left = Vec::new();
            for (rest, at) in left_of(&bufs, 5, written) {
                assert!(
                    rest.is_empty() || at == 5 + (written + left.len()) as u64,
                    "{written}"
                );
                left.extend_from_slice(rest);
            }
            assert_eq!(left, all[written..], "{written}");
        }
    }

    #[test]
    fn a_root_that_is_missing_or_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let kind = |path: &Path| RealDisk::open(path).unwrap_err().kind();
        assert_eq!(kind(&missing), io::ErrorKind::NotFound);
        std::fs::write(&missing, "a file").unwrap();
        assert_eq!(kind(&missing), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn only_a_refusal_of_direct_io_is_taken_for_one() {
        use rustix::io::Errno;
        let probe = |errno: Errno| takes_direct(Err(errno.into()));
        assert!(!probe(Errno::INVAL).unwrap());
        assert!(!probe(Errno::OPNOTSUPP).unwrap());
        assert!(probe(Errno::NOSPC).unwrap());
        assert_eq!(probe(Errno::IO).unwrap_err().raw_os_error(), Some(5));
        assert_eq!(
            probe(Errno::ACCESS).unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
    }

    #[test]
    fn without_direct_io_a_file_opened_so_is_buffered() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk {
            root: dir.path().to_owned(),
            direct: false,
            read_only: false,
        };
        let file = disk.create_new("f", Mode::Direct).unwrap();
        file.write_all_at(b"odd", 1).unwrap();
        assert_eq!(file.len().unwrap(), 4);
    }

    #[test]
    fn a_disk_that_is_only_read_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "text").unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        let disk = RealDisk::open_read_only(dir.path()).unwrap();
        let file = disk.open("f", Mode::Direct).unwrap();
        let mut text = [0; 4];
        crate::disk::read_exact_at(&*file, &mut text, 0).unwrap();
        assert_eq!(&text, b"text");
        file.drop_cache(0, 4).unwrap();
        for refused in [
            disk.create_new("g", Mode::Buffered).map(drop),
            disk.mkdir("e"),
            disk.rename("f", "g"),
            disk.unlink("f"),
            disk.rmdir("d"),
            disk.sync_dir("d"),
        ] {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
        assert!(file.write_all_at(b"x", 0).is_err());
        assert!(file.set_len(0).is_err());
        assert!(file.allocate(0, 1).is_err());
        let names: Vec<_> = disk.list("").unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["d", "f"]);
        assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"text");
    }

    #[test]
    fn files_and_directories_belong_to_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        disk.mkdir("d").unwrap();
        disk.create_new("d/f", Mode::Buffered).unwrap();
        let mode = |path: &str| {
            let stat = dir.path().join(path).metadata().unwrap();
            stat.permissions().mode() & 0o777
        };
        // The mask of the process may take more away, but never adds.
        assert_eq!(mode("d") & 0o077, 0);
        assert_eq!(mode("d/f") & 0o177, 0);
    }

    #[test]
    fn a_root_that_is_a_link_is_followed_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("real", &link).unwrap();
        let disk = RealDisk::open(&link).unwrap();
        disk.sync_dir("").unwrap();
        std::fs::remove_file(&link).unwrap();
        disk.create_new("f", Mode::Buffered).unwrap();
        assert!(dir.path().join("real/f").exists());
    }

    #[test]
    fn symbolic_links_below_the_root_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        disk.create_new("f", Mode::Buffered).unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("link")).unwrap();
        let error = disk.open("link", Mode::Buffered).unwrap_err();
        assert_eq!(os_error(&error), Some(rustix::io::Errno::LOOP.raw_os_error()));
        std::os::unix::fs::symlink(".", dir.path().join("here")).unwrap();
        assert_eq!(
            disk.mkdir("here").unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert!(disk.sync_dir("here").is_err());
    }

    #[test]
    fn free_bytes_is_what_the_file_system_says() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        assert!(disk.free_bytes().unwrap() > 0);
    }
}
