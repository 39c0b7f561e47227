//! Reading segments: from offset to position by the sparse index, then along the batch headers; every batch is checked
//! before it is given out.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::ReadErrors;
use super::buffers::BufferPool;
use super::fence::place_by;
use super::format::index::{INDEX_ENTRY_BYTES, IndexEntry, entries_at_most};
use super::log::{LocalLog, SegmentMeta};
use super::paths;
use super::tail::Tail;
use crate::disk::{BLOCK_BYTES, DiskFile, Mode, SharedDisk, read_exact_at};
use crate::model::{Offset, PartitionKey, Timestamp};
use crate::planted::{self, Bug};
use crate::record::{BatchHeader, HEADER_BYTES, check_crc};
use crate::storage::{ReadError, ReadOut, ReadSpec};

/// Cold reads below this size are slow out of proportion.
const PIECE_BYTES: usize = 256 << 10;

/// Bytes of buffers that are kept for the next reads: fresh memory would have to be zeroed for each.
const POOL_BYTES: usize = 8 << 20;

type CacheKey = (PartitionKey, Offset, bool);

#[derive(Debug, Default)]
struct FileCache {
    files: BTreeMap<CacheKey, (u64, Arc<dyn DiskFile>)>,
    uses: u64,
}

/// What reading needs, shared by all partitions.
#[derive(Debug)]
pub(super) struct ReadSide {
    disk: SharedDisk,
    tail: Tail,
    files: Mutex<FileCache>,
    files_max: usize,
    slots: Arc<Semaphore>,
    buffers: Arc<BufferPool>,
    crc_errors: AtomicU64,
    healed_errors: AtomicU64,
    lasting_errors: AtomicU64,
}

impl ReadSide {
    pub(super) fn new(disk: SharedDisk, files_max: usize, reads_max: usize) -> Self {
        Self {
            disk,
            tail: Tail::default(),
            files: Mutex::default(),
            files_max: files_max.max(2),
            slots: Arc::new(Semaphore::new(reads_max.max(1))),
            buffers: Arc::new(BufferPool::new(POOL_BYTES)),
            crc_errors: AtomicU64::new(0),
            healed_errors: AtomicU64::new(0),
            lasting_errors: AtomicU64::new(0),
        }
    }

    pub(super) fn disk(&self) -> &SharedDisk {
        &self.disk
    }

    pub(super) fn tail(&self) -> &Tail {
        &self.tail
    }

    pub(super) fn buffers(&self) -> &Arc<BufferPool> {
        &self.buffers
    }

    pub(super) fn slots(&self) -> Arc<Semaphore> {
        Arc::clone(&self.slots)
    }

    /// Ranges of offsets that turned out to be damaged.
    pub(super) fn crc_errors(&self) -> u64 {
        self.crc_errors.load(Ordering::Relaxed)
    }

    /// Reads of segments that failed.
    pub(super) fn read_errors(&self) -> ReadErrors {
        ReadErrors {
            healed: self.healed_errors.load(Ordering::Relaxed),
            lasting: self.lasting_errors.load(Ordering::Relaxed),
        }
    }

    /// A read failed, and did not when it was tried again.
    pub(super) fn note_healed_error(&self) {
        self.healed_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// A read failed whatever was tried.
    pub(super) fn note_lasting_error(&self) {
        self.lasting_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// A range of offsets turned out to be damaged.
    pub(super) fn note_damage(&self) {
        self.crc_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the disk gives anything at all: if not, what it does not give of a segment is no damage of that segment.
    pub(super) fn disk_answers(&self) -> bool {
        paths::CHECKPOINTS.iter().any(|path| {
            let mut front = [0; 16];
            self.disk.open(path, Mode::Buffered).is_ok_and(|file| {
                let dropped = file.drop_cache(0, BLOCK_BYTES as u64);
                dropped.is_ok() && read_exact_at(&*file, &mut front, 0).is_ok()
            })
        })
    }

    pub(super) fn file(&self, key: PartitionKey, base: Offset, index: bool) -> io::Result<Arc<dyn DiskFile>> {
        let cache_key = (key, base, index);
        {
            let mut cache = self.files.lock().expect("no panics while locked");
            cache.uses += 1;
            let now = cache.uses;
            if let Some((used, file)) = cache.files.get_mut(&cache_key) {
                *used = now;
                return Ok(Arc::clone(file));
            }
        }
        let path = if index {
            paths::index(key, base)
        } else {
            paths::segment(key, base)
        };
        let file: Arc<dyn DiskFile> = Arc::from(self.disk.open(&path, Mode::Buffered)?);
        let mut cache = self.files.lock().expect("no panics while locked");
        while cache.files.len() >= self.files_max {
            let oldest = cache
                .files
                .iter()
                .min_by_key(|(_, (used, _))| *used)
                .map(|(k, _)| *k);
            if let Some(oldest) = oldest {
                cache.files.remove(&oldest);
            }
        }
        let now = cache.uses;
        cache.files.insert(cache_key, (now, Arc::clone(&file)));
        Ok(file)
    }

    /// Closes what is open of a topic's partitions that satisfy `of`.
    pub(super) fn close(&self, of: impl Fn(PartitionKey) -> bool) {
        self.files
            .lock()
            .expect("no panics while locked")
            .files
            .retain(|(key, _, _), _| !of(*key));
    }

    /// The last index entry at or below an offset.
    pub(super) fn entry_at_or_below(
        &self,
        key: PartitionKey,
        segment: &SegmentMeta,
        offset: Offset,
    ) -> Option<IndexEntry> {
        self.search(key, segment, |e| e.base <= offset).0
    }

    /// The last index entry before which every record is older than `at`.
    pub(super) fn entry_behind_older(
        &self,
        key: PartitionKey,
        segment: &SegmentMeta,
        at: Timestamp,
    ) -> Option<IndexEntry> {
        self.search(key, segment, |e| e.max_timestamp_before < at).0
    }

    /// The first index entry above an offset.
    pub(super) fn entry_above(
        &self,
        key: PartitionKey,
        segment: &SegmentMeta,
        offset: Offset,
    ) -> Option<IndexEntry> {
        self.search(key, segment, |e| e.base <= offset).1
    }

    /// The last entry of which `is_before` holds and the first of which it does not: it holds for those of a front part.
    /// Damaged entries are passed over.
    fn search(
        &self,
        key: PartitionKey,
        segment: &SegmentMeta,
        is_before: impl Fn(&IndexEntry) -> bool,
    ) -> (Option<IndexEntry>, Option<IndexEntry>) {
        // The index only makes reading faster: without it the segment is walked from its start.
        let Ok(file) = self.file(key, segment.base, true) else {
            return (None, None);
        };
        let count = entries_at_most(file.len().unwrap_or_default(), segment.bytes);
        let (mut low, mut high) = (0, count);
        let (mut before, mut after) = (None, None);
        while low < high {
            let middle = low + (high - low) / 2;
            // A damaged entry says nothing: take the next one that holds instead.
            let Some((at, entry)) = first_good_entry(&*file, middle, high) else {
                high = middle;
                continue;
            };
            if is_before(&entry) {
                before = Some(entry);
                low = at + 1;
            } else {
                after = Some(entry);
                high = middle;
            }
        }
        (before, after)
    }
}

fn first_good_entry(file: &dyn DiskFile, from: u64, to: u64) -> Option<(u64, IndexEntry)> {
    for at in from..to {
        let mut bytes = [0; INDEX_ENTRY_BYTES];
        match read_exact_at(file, &mut bytes, at * INDEX_ENTRY_BYTES as u64) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return None,
            // Without an index reading is slow, and never wrong.
            Err(_) => continue,
        }
        if let Ok(entry) = IndexEntry::decode(&bytes) {
            return Some((at, entry));
        }
    }
    None
}

/// A walk along the batches of one segment.
pub(super) struct Walk<'a> {
    file: &'a dyn DiskFile,
    buffers: &'a Arc<BufferPool>,
    segment: SegmentMeta,
    /// Bytes read, and where they stand in the file.
    piece: Bytes,
    piece_at: u64,
    piece_bytes: usize,
    pub(super) position: u64,
    /// Who counts reads that failed.
    counted_by: Option<&'a ReadSide>,
}

/// What stands at the walk's position.
pub(super) enum Step {
    /// A batch whose header fits the offset expected here.
    Batch(BatchHeader, Bytes),
    /// Something that is no such batch.
    Damaged,
    /// The end of the segment.
    End,
}

/// What a header tells.
enum Head {
    Batch(BatchHeader),
    Damaged,
    End,
}

impl<'a> Walk<'a> {
    /// A walk from this position, where a batch begins, in pieces of so many bytes.
    pub(super) fn new(
        file: &'a dyn DiskFile,
        buffers: &'a Arc<BufferPool>,
        segment: SegmentMeta,
        position: u64,
        piece_bytes: usize,
    ) -> Self {
        Self {
            file,
            buffers,
            segment,
            piece: Bytes::new(),
            piece_at: 0,
            piece_bytes: piece_bytes.clamp(PIECE_BYTES, 1 << 20),
            position,
            counted_by: None,
        }
    }

    /// The same, with reads that failed counted if another one gave what was wanted.
    pub(super) fn counted_by(mut self, reads: &'a ReadSide) -> Self {
        self.counted_by = Some(reads);
        self
    }

    /// Goes on at another position, with what the file holds there now.
    pub(super) fn go_to(&mut self, position: u64) {
        self.forget_piece();
        self.position = position;
    }

    /// Reads what stands here from the file again.
    pub(super) fn forget_piece(&mut self) {
        self.piece = Bytes::new();
    }

    /// Bytes at the position, at least `len` of them unless the segment ends before.
    fn fill(&mut self, len: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.segment.bytes.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let wanted = len.min(left);
        let skip = usize::try_from(self.position.saturating_sub(self.piece_at)).unwrap_or(usize::MAX);
        if self.position < self.piece_at || skip.saturating_add(wanted) > self.piece.len() {
            let len = wanted.max(self.piece_bytes).min(left);
            // A sector that cannot be read is not to hide what stands in front of it.
            self.piece = self.read(len).or_else(|_| self.read_again(len, wanted))?;
            self.piece_at = self.position;
            return Ok(self.piece.clone());
        }
        Ok(self.piece.slice(skip..))
    }

    /// Reads what failed once more, and then no more than is wanted: a sector that cannot be read is not to hide what stands
    /// in front of it.
    fn read_again(&mut self, len: usize, wanted: usize) -> io::Result<Bytes> {
        let again = self.read(len);
        match &again {
            Err(_) if wanted < len => {
                self.piece_bytes = 0;
                self.read(wanted)
            }
            Err(_) => again,
            Ok(_) => {
                self.counted_by.inspect(|reads| reads.note_healed_error());
                again
            }
        }
    }

    fn read(&self, len: usize) -> io::Result<Bytes> {
        let mut buf = self.buffers.take(len);
        let into = buf.get_mut(..len).unwrap_or_default();
        read_exact_at(self.file, into, self.position)?;
        Ok(self.buffers.freeze(buf, len))
    }

    /// The header of the batch that stands here, if it is the one expected. Reads nothing behind the piece that has it.
    fn head(&mut self, expected: Offset) -> io::Result<Head> {
        if self.position >= self.segment.bytes {
            return Ok(Head::End);
        }
        let bytes = self.fill(HEADER_BYTES)?;
        let Ok(header) = BatchHeader::parse(&bytes) else {
            return Ok(Head::Damaged);
        };
        let fits = self.position + header.total_bytes() <= self.segment.bytes
            && header.last_offset() < self.segment.end;
        let follows = header.base_offset == expected || planted::is(Bug::BaseOffsetUnchecked);
        if !follows || !fits {
            return Ok(Head::Damaged);
        }
        Ok(Head::Batch(header))
    }

    /// Whether the batch that stands here has more than so many bytes; false if there is none.
    pub(super) fn is_larger_than(&mut self, bytes: u64, expected: Offset) -> io::Result<bool> {
        Ok(std::matches!(self.head(expected)?, Head::Batch(header) if header.total_bytes() > bytes))
    }

    pub(super) fn step(&mut self, expected: Offset) -> io::Result<Step> {
        let header = match self.head(expected)? {
            Head::Batch(header) => header,
            Head::Damaged => return Ok(Step::Damaged),
            Head::End => return Ok(Step::End),
        };
        let Ok(total) = usize::try_from(header.total_bytes()) else {
            return Ok(Step::Damaged);
        };
        let bytes = self.fill(total)?;
        Ok(Step::Batch(header, bytes.slice(..total)))
    }

    /// As [`step`](Self::step); a batch that ends at or behind `from` is checked.
    pub(super) fn checked_step(&mut self, expected: Offset, from: Offset) -> io::Result<Step> {
        let step = self.step(expected)?;
        let damaged = std::matches!(
            &step,
            Step::Batch(header, bytes) if header.last_offset() >= from && check_crc(header, bytes).is_err()
        );
        Ok(if damaged { Step::Damaged } else { step })
    }
}

impl LocalLog {
    /// Reads from the segments. Blocks on the disk.
    pub(super) fn read_segments(&self, spec: &ReadSpec) -> Result<ReadOut, ReadError> {
        let (segment, end) = {
            let state = self.state();
            if state.check(spec)? {
                return Ok(ReadOut {
                    next: spec.from,
                    ..ReadOut::default()
                });
            }
            let at = state.segments.partition_point(|s| s.base <= spec.from);
            let Some(segment) = at.checked_sub(1).and_then(|i| state.segments.get(i)).copied() else {
                return Err(ReadError::Io(format!(
                    "no segment of {} holds offset {}",
                    self.partition(),
                    spec.from
                )));
            };
            (
                segment,
                state.bounds(spec.durable).high_watermark.min(segment.end),
            )
        };
        match self.walk(spec, segment, end) {
            Ok(found) => found,
            Err(e) => {
                if e.kind() == io::ErrorKind::NotFound {
                    self.file_is_missing(&segment);
                }
                // Removed while it was read, or damaged; else the disk is what fails.
                self.state().check(spec)?;
                Err(ReadError::Io(e.to_string()))
            }
        }
    }

    fn walk(
        &self,
        spec: &ReadSpec,
        segment: SegmentMeta,
        end: Offset,
    ) -> io::Result<Result<ReadOut, ReadError>> {
        let key = self.partition();
        let file = self.reads().file(key, segment.base, false)?;
        let start = self.reads().entry_at_or_below(key, &segment, spec.from);
        let start = place_by(start, &segment);
        let max_bytes = spec.max_bytes as usize;
        let walk = Walk::new(&*file, self.reads().buffers(), segment, start.position, max_bytes);
        let mut walk = walk.counted_by(self.reads());
        let mut expected = start.offset;
        let mut out = ReadOut {
            next: spec.from,
            ..ReadOut::default()
        };
        let mut runs = Runs::default();
        while expected < end {
            // What the answer has no room for is not read: with batches of about its size that would be every second one.
            let room = u64::from(spec.max_bytes).saturating_sub(out.bytes);
            if !runs.is_empty() && walk.is_larger_than(room, expected).unwrap_or(true) {
                break;
            }
            let (header, piece, at) = match walk.checked_step(expected, spec.from) {
                Ok(Step::Batch(header, _)) => (header, walk.piece.clone(), walk.position - walk.piece_at),
                // What was found so far is an answer; the next read begins here.
                _ if !runs.is_empty() => break,
                // Offsets up to the end were acknowledged: batches that end before are damaged, too.
                trouble => {
                    let whole =
                        self.batch_in_spite_of_damage(&*file, &segment, start, spec, trouble.err())?;
                    let whole = match whole {
                        Ok(whole) => whole,
                        Err(error) => return Ok(Err(error)),
                    };
                    walk.go_to(whole.place.position);
                    (whole.header, whole.bytes, 0)
                }
            };
            let total = header.total_bytes();
            if header.last_offset() >= spec.from {
                let fits = out.bytes + total <= u64::from(spec.max_bytes);
                let first = runs.is_empty() && spec.min_one;
                if !(fits || first) {
                    break;
                }
                runs.push(&piece, at, total);
                out.bytes += total;
                out.next = header.last_offset().next();
            }
            walk.position += total;
            expected = header.last_offset().next();
        }
        runs.close();
        out.extents = runs.extents;
        Ok(Ok(out))
    }
}

/// Batches of one piece that stand one after the other become one extent.
#[derive(Default)]
struct Runs {
    extents: Vec<Bytes>,
    open: Option<(Bytes, usize, usize)>,
}

impl Runs {
    fn push(&mut self, piece: &Bytes, from: u64, len: u64) {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        match &mut self.open {
            Some((open, _, to)) if *to == from && open.as_ptr() == piece.as_ptr() => *to += len,
            _ => {
                self.close();
                self.open = Some((piece.clone(), from, from + len));
            }
        }
    }

    fn close(&mut self) {
        if let Some((piece, from, to)) = self.open.take() {
            self.extents.push(piece.slice(from..to));
        }
    }

    fn is_empty(&self) -> bool {
        self.extents.is_empty() && self.open.is_none()
    }
}
