//! Reading segments: from offset to position by the sparse index, then along the batch headers; every batch is checked
//! before it is given out.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::buffers::BufferPool;
use super::format::index::{INDEX_ENTRY_BYTES, IndexEntry};
use super::log::{LocalLog, SegmentMeta};
use super::paths;
use super::tail::Tail;
use crate::disk::{DiskFile, Mode, SharedDisk, read_exact_at};
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

    /// Batches or files that turned out to be damaged.
    pub(super) fn crc_errors(&self) -> u64 {
        self.crc_errors.load(Ordering::Relaxed)
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
        segment: Offset,
        offset: Offset,
    ) -> io::Result<Option<IndexEntry>> {
        let (before, _) = self.search(key, segment, |e| e.base <= offset)?;
        Ok(before)
    }

    /// The last index entry before which every record is older than `at`.
    pub(super) fn entry_behind_older(
        &self,
        key: PartitionKey,
        segment: Offset,
        at: Timestamp,
    ) -> io::Result<Option<IndexEntry>> {
        let (before, _) = self.search(key, segment, |e| e.max_timestamp_before < at)?;
        Ok(before)
    }

    /// The first index entry above an offset.
    fn entry_above(
        &self,
        key: PartitionKey,
        segment: Offset,
        offset: Offset,
    ) -> io::Result<Option<IndexEntry>> {
        let (_, after) = self.search(key, segment, |e| e.base <= offset)?;
        Ok(after)
    }

    /// The last entry of which `is_before` holds and the first of which it does not: it holds for those of a front part.
    /// Damaged entries are passed over.
    fn search(
        &self,
        key: PartitionKey,
        segment: Offset,
        is_before: impl Fn(&IndexEntry) -> bool,
    ) -> io::Result<(Option<IndexEntry>, Option<IndexEntry>)> {
        let file = match self.file(key, segment, true) {
            Ok(file) => file,
            // The index only makes reading faster: without it the segment is walked from its start.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((None, None)),
            Err(e) => return Err(e),
        };
        let count = file.len()? / INDEX_ENTRY_BYTES as u64;
        let (mut low, mut high) = (0, count);
        let (mut before, mut after) = (None, None);
        while low < high {
            let middle = low + (high - low) / 2;
            // A damaged entry says nothing: take the next one that holds instead.
            let Some((at, entry)) = first_good_entry(&*file, middle, high)? else {
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
        Ok((before, after))
    }
}

fn first_good_entry(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<Option<(u64, IndexEntry)>> {
    for at in from..to {
        let mut bytes = [0; INDEX_ENTRY_BYTES];
        match read_exact_at(file, &mut bytes, at * INDEX_ENTRY_BYTES as u64) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            // Without an index reading is slow, and never wrong.
            Err(_) => continue,
        }
        if let Ok(entry) = IndexEntry::decode(&bytes) {
            return Ok(Some((at, entry)));
        }
    }
    Ok(None)
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
        }
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
            let mut buf = self.buffers.take(len);
            let into = buf.get_mut(..len).unwrap_or_default();
            read_exact_at(self.file, into, self.position)?;
            self.piece = self.buffers.freeze(buf, len);
            self.piece_at = self.position;
            return Ok(self.piece.clone());
        }
        Ok(self.piece.slice(skip..))
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
    fn is_larger_than(&mut self, bytes: u64, expected: Offset) -> io::Result<bool> {
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
            Err(_) if self.is_deleted() => Err(ReadError::NotOwner),
            Err(e) if self.is_trimmed_to(spec) => {
                tracing::debug!(error = %e, "a segment was removed while it was read");
                Err(ReadError::OutOfRange(self.state().bounds(spec.durable)))
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                // The file is shorter than what was applied to it: what is missing is damage, not absence.
                Err(self.damaged(spec.from, segment.end))
            }
            Err(e) => Err(ReadError::Io(e.to_string())),
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
        let start = self.reads().entry_at_or_below(key, segment.base, spec.from)?;
        let mut expected = start.map_or(segment.base, |e| e.base);
        let max_bytes = spec.max_bytes as usize;
        let position = start.map_or(0, |e| u64::from(e.position));
        let mut walk = Walk::new(&*file, self.reads().buffers(), segment, position, max_bytes);
        let mut out = ReadOut {
            next: spec.from,
            ..ReadOut::default()
        };
        let mut runs = Runs::default();
        while expected < end {
            // What the answer has no room for is not read: with batches of about its size that would be every second one.
            let room = u64::from(spec.max_bytes).saturating_sub(out.bytes);
            if !runs.is_empty() && walk.is_larger_than(room, expected)? {
                break;
            }
            match walk.step(expected)? {
                // Offsets up to the end were acknowledged: a last batch that tells fewer than it has is damaged.
                Step::End if runs.is_empty() => {
                    return Ok(Err(self.damage_at(segment, spec.from, expected)));
                }
                Step::End => break,
                Step::Damaged => match self.skip_damage(&mut walk, spec.from, expected)? {
                    Some(next) => expected = next,
                    None if runs.is_empty() => return Ok(Err(self.damage_at(segment, spec.from, expected))),
                    None => break,
                },
                Step::Batch(header, bytes) => {
                    let total = bytes.len();
                    let wanted = header.last_offset() >= spec.from;
                    if wanted && check_crc(&header, &bytes).is_err() {
                        if !runs.is_empty() {
                            break;
                        }
                        if !still_damaged(&*file, walk.position, total, &header)? {
                            walk.forget_piece();
                            continue;
                        }
                        return Ok(Err(self.damaged(header.base_offset, header.last_offset().next())));
                    }
                    if wanted {
                        let fits = out.bytes + total as u64 <= u64::from(spec.max_bytes);
                        let first = runs.is_empty() && spec.min_one;
                        if !(fits || first) {
                            break;
                        }
                        let from = usize::try_from(walk.position - walk.piece_at).unwrap_or(usize::MAX);
                        runs.push(&walk.piece, from, total);
                        out.bytes += total as u64;
                        out.next = header.last_offset().next();
                    }
                    walk.position += total as u64;
                    expected = header.last_offset().next();
                }
            }
        }
        runs.close();
        out.extents = runs.extents;
        Ok(Ok(out))
    }

    /// Jumps over damage that lies wholly below the offset asked for; returns the offset of the next batch.
    fn skip_damage(&self, walk: &mut Walk<'_>, from: Offset, expected: Offset) -> io::Result<Option<Offset>> {
        let next = self
            .reads()
            .entry_above(self.partition(), walk.segment.base, expected)?;
        Ok(next.filter(|e| e.base <= from).map(|e| {
            walk.position = u64::from(e.position);
            e.base
        }))
    }

    /// No batch can be made out where `expected` should stand: everything up to the next indexed one is damaged.
    pub(super) fn damage_at(&self, segment: SegmentMeta, from: Offset, expected: Offset) -> ReadError {
        let next = self
            .reads()
            .entry_above(self.partition(), segment.base, expected.max(from));
        let end = next.ok().flatten().map_or(segment.end, |e| e.base);
        self.damaged(expected, end)
    }

    pub(super) fn damaged(&self, first: Offset, end: Offset) -> ReadError {
        let last = Offset::new(end.get() - 1).unwrap_or(first).max(first);
        self.reads().crc_errors.fetch_add(1, Ordering::Relaxed);
        self.quarantine(first, last);
        tracing::error!(
            event = "data_corrupt", topic = %self.partition().topic, partition = %self.partition().partition,
            first = %first, last = %last, "acknowledged data is damaged"
        );
        ReadError::Corrupt { first, last }
    }
}

/// Reads once more past the page cache: a flipped bit in memory is not damage on disk.
pub(super) fn still_damaged(
    file: &dyn DiskFile,
    at: u64,
    len: usize,
    header: &BatchHeader,
) -> io::Result<bool> {
    file.drop_cache(at, len as u64)?;
    let mut again = vec![0; len];
    read_exact_at(file, &mut again, at)?;
    Ok(check_crc(header, &again).is_err())
}

/// Batches of one piece that stand one after the other become one extent.
#[derive(Default)]
struct Runs {
    extents: Vec<Bytes>,
    open: Option<(Bytes, usize, usize)>,
}

impl Runs {
    fn push(&mut self, piece: &Bytes, from: usize, len: usize) {
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
