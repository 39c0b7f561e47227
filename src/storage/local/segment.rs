//! Writing one segment: aligned pieces, from where they are in memory if they stand there as in the file, otherwise through
//! one staging buffer, and both in one call; with the sparse index beside it.

use std::io;
use std::ops::Range;

use super::format::index::{INDEX_ENTRY_BYTES, IndexEntry, entries_at_most};
use super::log::SegmentMeta;
use super::partial::Partial;
use super::paths;
use crate::disk::{AlignedBuf, BLOCK_BYTES, Disk, DiskFile, Mode, read_exact_at};
use crate::model::{Offset, PartitionKey, Timestamp};
use crate::planted::{self, Bug};
use crate::record::{crc32c, max_timestamp_of};

/// The largest write while the journal must not wait long for the disk.
pub(super) const PIECE_BYTES: usize = 256 << 10;
/// The largest write while memory runs short: faster, at the price of the journal's latency. Size of the staging buffer.
pub(super) const LARGE_PIECE_BYTES: usize = 2 << 20;
/// Runs of whole blocks are written without a copy if they are so long; the blocks at both ends are staged and go with them.
const DIRECT_FROM_BYTES: usize = 32 << 10;
/// Space is reserved ahead only for runs of at least a piece.
const PREALLOCATE_FROM_BYTES: u64 = PIECE_BYTES as u64;

/// A batch has an index entry if it was appended so many ms behind the last one that has, however few bytes lie between: the
/// index is where append times are looked up.
pub(super) const INDEX_EVERY_MS: i64 = 1_000;

/// A batch on its way into a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunBatch<'a> {
    pub(super) base: Offset,
    pub(super) append_time: Timestamp,
    pub(super) bytes: &'a [u8],
}

/// How a run is written.
#[derive(Debug)]
pub(super) struct Pieces<'a, 'b> {
    /// All bytes of the run in order, in as few pieces as they have in memory.
    pub(super) memory: &'b [&'a [u8]],
    /// The largest write, whole blocks, at most [`LARGE_PIECE_BYTES`].
    pub(super) write_bytes_max: usize,
    /// At least `write_bytes_max` long.
    pub(super) staging: &'b mut AlignedBuf,
}

/// The last batch that has an index entry.
#[derive(Clone, Copy, Debug)]
struct Indexed {
    position: u64,
    append_time: Timestamp,
}

impl Indexed {
    /// Whether the batch that comes next at this position has one, too.
    fn is_far_from(self, position: u64, next: &RunBatch<'_>, index_interval: u64) -> bool {
        let later = next.append_time.0.saturating_sub(self.append_time.0);
        position - self.position >= index_interval || later >= INDEX_EVERY_MS
    }
}

/// The active segment of a partition, open for writing.
#[derive(Debug)]
pub(super) struct SegmentWriter {
    base: Offset,
    file: Box<dyn DiskFile>,
    index: Box<dyn DiskFile>,
    /// Bytes of batches so far.
    position: u64,
    /// Greatest timestamp of the records so far.
    max_timestamp: Timestamp,
    /// The bytes of the last block, which is not full.
    partial: Vec<u8>,
    allocated: u64,
    index_bytes: u64,
    last_indexed: Option<Indexed>,
    dirty: bool,
    /// Recovery: bytes behind the end may be the only whole copy of something, and stay until the file is cut.
    keep_behind: bool,
}

fn open_or_create(disk: &dyn Disk, path: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
    match disk.create_new(path, mode) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => disk.open(path, mode),
        other => other,
    }
}

impl SegmentWriter {
    /// Begins a segment. A file of that name, left by a life that ended before its checkpoint, is written over.
    pub(super) fn create(disk: &dyn Disk, key: PartitionKey, base: Offset) -> io::Result<Self> {
        let file = open_or_create(disk, &paths::segment(key, base), Mode::Direct)?;
        let index = open_or_create(disk, &paths::index(key, base), Mode::Buffered)?;
        index.set_len(0)?;
        Ok(Self {
            base,
            file,
            index,
            position: 0,
            max_timestamp: Timestamp(i64::MIN),
            partial: Vec::new(),
            allocated: 0,
            index_bytes: 0,
            last_indexed: None,
            dirty: true,
            keep_behind: false,
        })
    }

    /// Opens a segment at a trusted end. Index entries behind it are cut off.
    pub(super) fn reopen(disk: &dyn Disk, key: PartitionKey, segment: SegmentMeta) -> io::Result<Self> {
        let file = disk.open(&paths::segment(key, segment.base), Mode::Direct)?;
        let index = open_or_create(disk, &paths::index(key, segment.base), Mode::Buffered)?;
        let partial_bytes = usize::try_from(segment.bytes % BLOCK_BYTES as u64).unwrap_or_default();
        let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
        if partial_bytes > 0 {
            let at = segment.bytes - partial_bytes as u64;
            // A file that was cut to its exact end is shorter than the block.
            if read_up_to(&*file, &mut block, at, partial_bytes).is_err() {
                // A bad sector behind the end is nobody's loss: nothing there is needed.
                let buffered = disk.open(&paths::segment(key, segment.base), Mode::Buffered)?;
                read_exact_at(&*buffered, &mut block[..partial_bytes], at)?;
            }
        }
        let (index_bytes, last_indexed) = trusted_index(&*index, segment)?;
        index.set_len(index_bytes)?;
        Ok(Self {
            base: segment.base,
            file,
            index,
            position: segment.bytes,
            max_timestamp: segment.max_timestamp,
            partial: block[..partial_bytes].to_vec(),
            allocated: 0,
            index_bytes,
            last_indexed,
            dirty: true,
            keep_behind: false,
        })
    }

    /// From now on padding does not overwrite what stands behind the end.
    pub(super) fn keep_behind(&mut self) {
        self.keep_behind = true;
    }

    pub(super) fn base(&self) -> Offset {
        self.base
    }

    pub(super) fn bytes(&self) -> u64 {
        self.position
    }

    pub(super) fn max_timestamp(&self) -> Timestamp {
        self.max_timestamp
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// The bytes in the last, partial block.
    pub(super) fn partial(&self) -> Partial {
        Partial::of(&self.partial)
    }

    /// Appends batches. After an error nothing is changed but bytes behind the end, and the same call may be repeated.
    pub(super) fn append(
        &mut self,
        batches: &[RunBatch<'_>],
        index_interval: u64,
        segment_bytes: u64,
        pieces: Pieces<'_, '_>,
    ) -> io::Result<()> {
        let run: u64 = batches.iter().map(|b| b.bytes.len() as u64).sum();
        self.preallocate(run, segment_bytes)?;
        self.dirty = true;
        let mut position = self.position;
        let mut max_timestamp = self.max_timestamp;
        let mut last_indexed = self.last_indexed;
        let mut index = Vec::new();
        let mut stage = Stage {
            at: position - self.partial.len() as u64,
            parts: Vec::new(),
            parts_bytes: 0,
            open: 0,
            filled: self.partial.len(),
            max: pieces.write_bytes_max,
            buf: pieces.staging,
        };
        stage.buf[..self.partial.len()].copy_from_slice(&self.partial);
        for batch in batches {
            if last_indexed.is_none_or(|last| last.is_far_from(position, batch, index_interval)) {
                index.extend_from_slice(&index_entry(batch, position, max_timestamp)?.encode());
                last_indexed = Some(Indexed {
                    position,
                    append_time: batch.append_time,
                });
            }
            max_timestamp = max_timestamp.max(timestamp_of(batch)?);
            position += batch.bytes.len() as u64;
        }
        if planted::is(Bug::PartialBatchAfterEnospc) {
            self.position = position;
        }
        for piece in pieces.memory {
            stage.push(&*self.file, piece)?;
        }
        let partial = stage.finish(&*self.file, self.keep_behind)?;
        self.index.write_all_at(&index, self.index_bytes)?;
        self.partial = partial;
        self.position = position;
        self.max_timestamp = max_timestamp;
        self.last_indexed = last_indexed;
        self.index_bytes += index.len() as u64;
        Ok(())
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.dirty {
            self.file.sync_data()?;
            self.index.sync_data()?;
            self.note_synced();
        }
        Ok(())
    }

    /// The files that [`sync`](Self::sync) would sync, for who syncs several segments together and says so afterwards.
    pub(super) fn files(&self) -> [&dyn DiskFile; 2] {
        [&*self.file, &*self.index]
    }

    pub(super) fn note_synced(&mut self) {
        self.dirty = false;
    }

    /// Ends the segment: exactly its batches remain, durable.
    pub(super) fn seal(&mut self) -> io::Result<()> {
        self.cut()?;
        self.sync()
    }

    /// Drops padding, and whatever else stands behind the last batch.
    pub(super) fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.position)?;
        self.dirty = !(self.keep_behind && planted::is(Bug::RecoveredTailNotSynced));
        self.keep_behind = false;
        self.allocated = 0;
        Ok(())
    }

    fn preallocate(&mut self, run: u64, segment_bytes: u64) -> io::Result<()> {
        let end = (self.position + run).next_multiple_of(BLOCK_BYTES as u64);
        if run < PREALLOCATE_FROM_BYTES || end <= self.allocated {
            return Ok(());
        }
        let ahead = (end + run)
            .min(segment_bytes.next_multiple_of(BLOCK_BYTES as u64))
            .max(end);
        let from = self
            .allocated
            .max(self.position / BLOCK_BYTES as u64 * BLOCK_BYTES as u64);
        match self.file.allocate(from, ahead - from) {
            Ok(()) => self.allocated = ahead,
            // Only an optimisation: writing allocates as well.
            Err(e) if matches!(e.kind(), io::ErrorKind::Unsupported | io::ErrorKind::StorageFull) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

fn timestamp_of(batch: &RunBatch<'_>) -> io::Result<Timestamp> {
    max_timestamp_of(batch.bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn index_entry(
    batch: &RunBatch<'_>,
    position: u64,
    max_timestamp_before: Timestamp,
) -> io::Result<IndexEntry> {
    let outer = batch
        .bytes
        .first_chunk::<21>()
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(IndexEntry {
        base: batch.base,
        append_time: batch.append_time,
        max_timestamp_before,
        position: u32::try_from(position).map_err(|_| io::ErrorKind::FileTooLarge)?,
        outer_crc: crc32c(outer),
    })
}

/// How much of an index file belongs to the bytes below the trusted end, and the last position that it indexes.
fn trusted_index(index: &dyn DiskFile, segment: SegmentMeta) -> io::Result<(u64, Option<Indexed>)> {
    let entries = entries_at_most(index.len()?, segment.bytes);
    for count in (1..=entries).rev() {
        let mut bytes = [0; INDEX_ENTRY_BYTES];
        // An index is never a reason to refuse a start: what the disk does not give is damaged, and cut off if it can be.
        if read_exact_at(index, &mut bytes, (count - 1) * INDEX_ENTRY_BYTES as u64).is_err() {
            continue;
        }
        if let Ok(entry) = IndexEntry::decode(&bytes)
            && entry.base < segment.end
            && u64::from(entry.position) < segment.bytes
        {
            let last = Indexed {
                position: u64::from(entry.position),
                append_time: entry.append_time,
            };
            return Ok((count * INDEX_ENTRY_BYTES as u64, Some(last)));
        }
    }
    Ok((0, None))
}

fn read_up_to(file: &dyn DiskFile, buf: &mut AlignedBuf, at: u64, needed: usize) -> io::Result<()> {
    let mut got = 0;
    while got < needed {
        match file.read_at(&mut buf[got..], at + got as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes unconditionally: what reads show is no sign of what is on the disk.
fn write(file: &dyn DiskFile, slices: &[&[u8]], at: u64) -> io::Result<()> {
    if planted::is(Bug::ReplaySkipsEqualBytes) {
        let bytes = slices.concat();
        let mut there = AlignedBuf::zeroed(bytes.len());
        let _ = read_up_to(file, &mut there, at, bytes.len());
        if there[..] == *bytes {
            return Ok(());
        }
    }
    file.write_all_vectored_at(slices, at)
}

/// Whole blocks on their way to the file.
enum Part<'a> {
    /// In the staging buffer.
    Staged(Range<usize>),
    /// Where they are in memory.
    Direct(&'a [u8]),
}

/// What waits to be written at `at`, all of it in one call when `max` bytes are there: `parts`, and behind them what was
/// staged from `open` on.
struct Stage<'a, 'b> {
    at: u64,
    parts: Vec<Part<'a>>,
    parts_bytes: usize,
    /// Where the part of the staging buffer begins that is not among `parts`: at a block.
    open: usize,
    filled: usize,
    max: usize,
    buf: &'b mut AlignedBuf,
}

impl<'a> Stage<'a, '_> {
    fn push(&mut self, file: &dyn DiskFile, bytes: &'a [u8]) -> io::Result<()> {
        let Some((head, mut whole, tail)) = self.whole_blocks(bytes) else {
            return self.copy(file, bytes);
        };
        self.copy(file, head)?;
        self.close_staged(self.filled);
        while !whole.is_empty() {
            if self.parts_bytes == self.max {
                self.write(file)?;
            }
            let (now, later) = whole.split_at(whole.len().min(self.max - self.parts_bytes));
            self.parts.push(Part::Direct(now));
            self.parts_bytes += now.len();
            whole = later;
        }
        self.copy(file, tail)
    }

    /// Cuts out the blocks that can be written as they are, if they are worth it.
    fn whole_blocks(&self, bytes: &'a [u8]) -> Option<(&'a [u8], &'a [u8], &'a [u8])> {
        let head = self.filled.next_multiple_of(BLOCK_BYTES) - self.filled;
        let (head, rest) = bytes.split_at_checked(head)?;
        let whole = rest.len() / BLOCK_BYTES * BLOCK_BYTES;
        let aligned = rest.as_ptr().addr().is_multiple_of(BLOCK_BYTES);
        let (whole, tail) = rest.split_at(whole);
        (aligned && whole.len() >= DIRECT_FROM_BYTES).then_some((head, whole, tail))
    }

    fn copy(&mut self, file: &dyn DiskFile, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.max - self.parts_bytes - (self.filled - self.open);
            if room == 0 {
                self.close_staged(self.filled);
                self.write(file)?;
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buf[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
        }
        Ok(())
    }

    /// What was staged up to `end`, which is whole blocks, comes next.
    fn close_staged(&mut self, end: usize) {
        if end > self.open {
            self.parts.push(Part::Staged(self.open..end));
            self.parts_bytes += end - self.open;
        }
        (self.open, self.filled) = (end, end);
    }

    /// Writes all parts.
    fn write(&mut self, file: &dyn DiskFile) -> io::Result<()> {
        let bytes = |part: &Part<'a>| match part {
            Part::Staged(range) => &self.buf[range.clone()],
            Part::Direct(bytes) => *bytes,
        };
        let slices: Vec<&[u8]> = self.parts.iter().map(bytes).collect();
        write(file, &slices, self.at)?;
        self.at += self.parts_bytes as u64;
        self.parts.clear();
        (self.parts_bytes, self.open, self.filled) = (0, 0, 0);
        Ok(())
    }

    /// Writes the rest, padded with zeros or with what is there; returns the bytes of the last, partial block.
    fn finish(mut self, file: &dyn DiskFile, keep_behind: bool) -> io::Result<Vec<u8>> {
        let (filled, padded) = (self.filled, self.filled.next_multiple_of(BLOCK_BYTES));
        let used = filled % BLOCK_BYTES;
        self.buf[filled..padded].fill(0);
        if keep_behind && used > 0 {
            let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
            let block_at = self.at + (self.parts_bytes + padded - self.open - BLOCK_BYTES) as u64;
            // What cannot be read, or is not there, is nothing to keep.
            let _ = read_up_to(file, &mut block, block_at, BLOCK_BYTES);
            self.buf[filled..padded].copy_from_slice(&block[used..]);
        }
        let partial = self.buf[filled - used..filled].to_vec();
        self.close_staged(padded);
        self.write(file)?;
        Ok(partial)
    }
}

#[cfg(test)]
mod tests;
