//! A disk that a test makes stand still and go on: for tests of the real binary alone, never in a release.
//!
//! A file stands for the way to the disk: as long as somebody has it locked, no write, sync or change of a name begins. Reads
//! come from the page cache.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Disk, DiskFile, Entry, Mode, SharedDisk};

/// The variable that makes a broker use such a disk; its value is the path of the file. Release binaries do not have these
/// letters.
pub const VARIABLE: &str = "NARU_TEST_DISK_GATE";

#[derive(Debug)]
struct Gate(PathBuf);

impl Gate {
    /// Waits for as long as the file is locked.
    fn pass(&self) -> io::Result<()> {
        File::open(&self.0)?.lock_shared()
    }
}

/// Another disk behind a gate.
#[derive(Debug)]
pub struct GatedDisk {
    disk: SharedDisk,
    gate: Arc<Gate>,
}

impl GatedDisk {
    /// `disk`, which stands still while the file at this path is locked.
    pub fn new(disk: SharedDisk, gate: PathBuf) -> Self {
        let gate = Arc::new(Gate(gate));
        Self { disk, gate }
    }

    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(GatedFile {
            file,
            gate: Arc::clone(&self.gate),
        })
    }
}

impl Disk for GatedDisk {
    fn create_new(&self, path: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        self.gate.pass()?;
        Ok(self.file(self.disk.create_new(path, mode)?))
    }

    fn open(&self, path: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.disk.open(path, mode)?))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Entry>> {
        self.disk.list(dir)
    }

    fn mkdir(&self, dir: &str) -> io::Result<()> {
        self.gate.pass()?;
        self.disk.mkdir(dir)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.gate.pass()?;
        self.disk.rename(from, to)
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.gate.pass()?;
        self.disk.unlink(path)
    }

    fn rmdir(&self, dir: &str) -> io::Result<()> {
        self.gate.pass()?;
        self.disk.rmdir(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.gate.pass()?;
        self.disk.sync_dir(dir)
    }

    fn sync_files(&self, files: &[&dyn DiskFile]) -> io::Result<()> {
        // They are files of this disk, so each passes the gate by itself.
        self.disk.sync_files(files)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn supports_direct(&self) -> bool {
        self.disk.supports_direct()
    }
}

#[derive(Debug)]
struct GatedFile {
    file: Box<dyn DiskFile>,
    gate: Arc<Gate>,
}

impl DiskFile for GatedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buf, at)
    }

    fn read_cached_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_cached_at(buf, at)
    }

    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.gate.pass()?;
        self.file.write_all_at(buf, at)
    }

    fn write_all_vectored_at(&self, bufs: &[&[u8]], at: u64) -> io::Result<()> {
        self.gate.pass()?;
        self.file.write_all_vectored_at(bufs, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass()?;
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.gate.pass()?;
        self.file.set_len(len)
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.gate.pass()?;
        self.file.allocate(at, len)
    }

    fn drop_cache(&self, at: u64, len: u64) -> io::Result<()> {
        self.file.drop_cache(at, len)
    }
}
