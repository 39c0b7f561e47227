//! A disk that counts: syncs and their time by kind of file, calls that take long, and where the bytes of fetches come from.
//!
//! Stands between the engine and the real disk, so that neither knows of metrics.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::stall::Stalls;
use crate::disk::{Disk, DiskFile, Entry, Mode, SharedDisk};
use crate::rt::Clock;
use crate::storage::local::FileKind;
use crate::telemetry::{Histogram, HistogramNow};

/// What is counted. Shared by the disk and all its files.
#[derive(Debug)]
pub(crate) struct DiskMeter {
    /// One per [`SYNCED`].
    syncs: [SyncMeter; SYNCED.len()],
    /// Writes and syncs that do not come back.
    pub(crate) stalls: Stalls,
    page_cache_bytes: AtomicU64,
    disk_bytes: AtomicU64,
    segments_created: AtomicU64,
    segments_removed: AtomicU64,
}

#[derive(Debug)]
struct SyncMeter {
    durations: Histogram,
    errors: AtomicU64,
}

/// Kinds of files whose syncs are counted apart.
const SYNCED: [(FileKind, &str); 4] = [
    (FileKind::Journal, "journal"),
    (FileKind::Segment, "segment"),
    (FileKind::Index, "index"),
    (FileKind::Checkpoint, "checkpoint"),
];

/// The numbers at one moment.
#[derive(Clone, Debug)]
pub(crate) struct DiskNow {
    /// Per kind of file: its name, how long syncs took, and how many failed.
    pub(crate) syncs: Vec<(&'static str, HistogramNow, u64)>,
    /// Bytes of segments that fetches found in the page cache.
    pub(crate) page_cache_bytes: u64,
    /// Bytes of segments that fetches had to wait for.
    pub(crate) disk_bytes: u64,
    /// Segment files made.
    pub(crate) segments_created: u64,
    /// Segment files removed.
    pub(crate) segments_removed: u64,
}

impl Default for DiskMeter {
    fn default() -> Self {
        Self {
            syncs: SYNCED.map(|_| SyncMeter {
                durations: Histogram::of_latencies(),
                errors: AtomicU64::default(),
            }),
            stalls: Stalls::default(),
            page_cache_bytes: AtomicU64::default(),
            disk_bytes: AtomicU64::default(),
            segments_created: AtomicU64::default(),
            segments_removed: AtomicU64::default(),
        }
    }
}

impl DiskMeter {
    /// The numbers now.
    pub(crate) fn now(&self) -> DiskNow {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let syncs = SYNCED.iter().zip(&self.syncs);
        DiskNow {
            syncs: syncs
                .map(|((_, name), meter)| (*name, meter.durations.now(), get(&meter.errors)))
                .collect(),
            page_cache_bytes: get(&self.page_cache_bytes),
            disk_bytes: get(&self.disk_bytes),
            segments_created: get(&self.segments_created),
            segments_removed: get(&self.segments_removed),
        }
    }
}

/// See the module.
pub(crate) struct MeteredDisk {
    disk: SharedDisk,
    clock: Arc<dyn Clock>,
    meter: Arc<DiskMeter>,
}

impl MeteredDisk {
    /// Counts what is done to `disk`.
    pub(crate) fn new(disk: SharedDisk, clock: Arc<dyn Clock>, meter: Arc<DiskMeter>) -> Self {
        Self { disk, clock, meter }
    }

    fn file(&self, path: &str, mode: Mode, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(MeteredFile {
            file,
            // Writers open segments directly; whoever opens one through the page cache reads for a fetch.
            reads_for_fetches: mode == Mode::Buffered && FileKind::of(path) == FileKind::Segment,
            kind: FileKind::of(path),
            clock: Arc::clone(&self.clock),
            meter: Arc::clone(&self.meter),
        })
    }
}

impl fmt::Debug for MeteredDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MeteredDisk").field(&self.disk).finish()
    }
}

impl Disk for MeteredDisk {
    fn create_new(&self, path: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        let file = self.disk.create_new(path, mode)?;
        if FileKind::of(path) == FileKind::Segment {
            self.meter.segments_created.fetch_add(1, Ordering::Relaxed);
        }
        Ok(self.file(path, mode, file))
    }

    fn open(&self, path: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        Ok(self.file(path, mode, file))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Entry>> {
        self.disk.list(dir)
    }

    fn mkdir(&self, dir: &str) -> io::Result<()> {
        self.disk.mkdir(dir)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.disk.unlink(path)?;
        // Out of the trash as well as out of a partition: the name tells.
        if FileKind::of(path) == FileKind::Segment {
            self.meter.segments_removed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn rmdir(&self, dir: &str) -> io::Result<()> {
        self.disk.rmdir(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let sync = || self.disk.sync_dir(dir);
        self.meter.stalls.watch(&*self.clock, "directory", sync).0
    }

    fn sync_files(&self, files: &[&dyn DiskFile]) -> io::Result<()> {
        // They are files of this disk, so each counts its own sync.
        self.disk.sync_files(files)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn supports_direct(&self) -> bool {
        self.disk.supports_direct()
    }
}

struct MeteredFile {
    file: Box<dyn DiskFile>,
    kind: FileKind,
    reads_for_fetches: bool,
    clock: Arc<dyn Clock>,
    meter: Arc<DiskMeter>,
}

impl MeteredFile {
    /// Makes a call that is seen while it lasts.
    fn watch<T>(&self, call: impl FnOnce() -> T) -> (T, Duration) {
        let name = SYNCED.iter().find(|(kind, _)| *kind == self.kind);
        let name = name.map_or("file", |(_, name)| *name);
        self.meter.stalls.watch(&*self.clock, name, call)
    }
}

impl fmt::Debug for MeteredFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MeteredFile").field(&self.file).finish()
    }
}

impl DiskFile for MeteredFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        if !self.reads_for_fetches {
            return self.file.read_at(buf, at);
        }
        let cached = self.file.read_cached_at(buf, at)?;
        if cached > 0 {
            self.meter
                .page_cache_bytes
                .fetch_add(cached as u64, Ordering::Relaxed);
            return Ok(cached);
        }
        let read = self.file.read_at(buf, at)?;
        self.meter.disk_bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }

    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.watch(|| self.file.write_all_at(buf, at)).0
    }

    fn write_all_vectored_at(&self, bufs: &[&[u8]], at: u64) -> io::Result<()> {
        self.watch(|| self.file.write_all_vectored_at(bufs, at)).0
    }

    fn sync_data(&self) -> io::Result<()> {
        let (synced, took) = self.watch(|| self.file.sync_data());
        let mut kinds = SYNCED.iter().zip(&self.meter.syncs);
        if let Some((_, meter)) = kinds.find(|((kind, _), _)| *kind == self.kind) {
            meter.durations.observe(took);
            if synced.is_err() {
                meter.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
        synced
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.file.allocate(at, len)
    }

    fn drop_cache(&self, at: u64, len: u64) -> io::Result<()> {
        self.file.drop_cache(at, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::real::RealDisk;
    use crate::rt::SystemClock;

    fn metered(dir: &std::path::Path) -> (MeteredDisk, Arc<DiskMeter>) {
        let meter = Arc::<DiskMeter>::default();
        let disk = Arc::new(RealDisk::open(dir).unwrap());
        let clock = Arc::new(SystemClock::new());
        (MeteredDisk::new(disk, clock, Arc::clone(&meter)), meter)
    }

    #[test]
    fn syncs_are_counted_by_kind_of_file() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, meter) = metered(dir.path());
        disk.mkdir("journal").unwrap();
        for path in ["journal/00000001.journal", "checkpoint.0", "FORMAT"] {
            let file = disk.create_new(path, Mode::Buffered).unwrap();
            file.write_all_at(b"x", 0).unwrap();
            file.sync_data().unwrap();
        }
        let counts: Vec<_> = meter
            .now()
            .syncs
            .iter()
            .map(|(name, h, e)| (*name, h.count(), *e))
            .collect();
        assert_eq!(
            counts,
            [
                ("journal", 1, 0),
                ("segment", 0, 0),
                ("index", 0, 0),
                ("checkpoint", 1, 0)
            ]
        );
    }

    #[test]
    fn bytes_of_a_segment_come_from_the_page_cache_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, meter) = metered(dir.path());
        let path = "topics/t/0/00000000000000000000.log";
        for dir in ["topics", "topics/t", "topics/t/0"] {
            disk.mkdir(dir).unwrap();
        }
        let file = disk.create_new(path, Mode::Buffered).unwrap();
        file.write_all_at(&[7; 8192], 0).unwrap();
        file.sync_data().unwrap();
        let mut buf = [0; 8192];
        crate::disk::read_exact_at(&*file, &mut buf, 0).unwrap();
        let now = meter.now();
        assert_eq!((now.page_cache_bytes, now.disk_bytes), (8192, 0));
        assert_eq!((now.segments_created, now.segments_removed), (1, 0));
        file.drop_cache(0, 8192).unwrap();
        crate::disk::read_exact_at(&*file, &mut buf, 0).unwrap();
        let now = meter.now();
        // A file system that lives in memory keeps its pages whatever it is told.
        assert_eq!(now.page_cache_bytes + now.disk_bytes, 2 * 8192);
        drop(file);
        disk.unlink(path).unwrap();
        assert_eq!(meter.now().segments_removed, 1);
    }
}
