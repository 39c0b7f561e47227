//! A walk along the entries of a segment's index, beside the walk along its batches.

use std::io;

use crate::disk::{DiskFile, read_exact_at};
use crate::storage::local::format::index::{INDEX_ENTRY_BYTES, IndexEntry, entries_at_most};

const ENTRY_BYTES: u64 = INDEX_ENTRY_BYTES as u64;
/// Entries are read so many at a time.
const PIECE_ENTRIES: u64 = 1_024;

/// The entries for the trusted bytes of a segment, in order.
pub(in crate::storage::local) struct IndexWalk<'a> {
    file: &'a dyn DiskFile,
    entries: u64,
    /// Bytes of the segment that the entries may point into.
    segment_bytes: u64,
    next: u64,
    piece: Vec<u8>,
    piece_at: u64,
    peeked: Option<(u64, IndexEntry)>,
    /// Entries that do not hold and have no good one behind them yet: the first, and how many.
    doubtful: Option<(u64, u64)>,
    /// Entries that do not hold although one behind them does: they were synced. The first, and how many.
    damaged: Option<(u64, u64)>,
    /// Good entries so far.
    pub(super) good: u64,
}

impl<'a> IndexWalk<'a> {
    pub(in crate::storage::local) fn new(file: &'a dyn DiskFile, segment_bytes: u64) -> io::Result<Self> {
        Ok(Self {
            entries: entries_at_most(file.len()?, segment_bytes),
            file,
            segment_bytes,
            next: 0,
            piece: Vec::new(),
            piece_at: 0,
            peeked: None,
            doubtful: None,
            damaged: None,
            good: 0,
        })
    }

    /// The next entry that holds and points into the trusted bytes, with its own position in the index.
    pub(in crate::storage::local) fn peek(&mut self) -> Option<(u64, IndexEntry)> {
        while self.peeked.is_none() && self.next < self.entries {
            let at = self.next;
            self.next += 1;
            match self.entry(at) {
                Some(entry) if u64::from(entry.position) < self.segment_bytes => {
                    self.confirm_damage();
                    self.good += 1;
                    self.peeked = Some((at * ENTRY_BYTES, entry));
                }
                // Written since the checkpoint: recovery writes it again.
                Some(_) => self.next = self.entries,
                None => {
                    let (first, count) = self.doubtful.unwrap_or((at * ENTRY_BYTES, 0));
                    self.doubtful = Some((first, count + 1));
                }
            }
        }
        self.peeked
    }

    /// Goes behind the entry that was peeked at.
    pub(in crate::storage::local) fn advance(&mut self) {
        self.peeked = None;
    }

    /// Begins with the entry of this number.
    pub(in crate::storage::local) fn beginning_with(mut self, entry: u64) -> Self {
        self.next = entry;
        self
    }

    /// The number of the entry that comes next.
    pub(in crate::storage::local) fn place(&self) -> u64 {
        self.peeked.map_or(self.next, |(at, _)| at / ENTRY_BYTES)
    }

    /// Passes over what points in front of a position.
    pub(in crate::storage::local) fn skip_to(&mut self, position: u64) {
        while self
            .peek()
            .is_some_and(|(_, entry)| u64::from(entry.position) < position)
        {
            self.advance();
        }
    }

    /// Entries that do not hold so far, and have a good one behind them.
    pub(in crate::storage::local) fn damaged_entries(&self) -> u64 {
        self.damaged.map_or(0, |(_, count)| count)
    }

    /// Goes to the end. Where nothing is written any more, entries without a good one behind them are damaged, too.
    pub(in crate::storage::local) fn finish(mut self, sealed: bool) -> (u64, Option<(u64, u64)>) {
        while self.peek().is_some() {
            self.advance();
        }
        if sealed {
            self.confirm_damage();
        }
        (self.good, self.damaged)
    }

    fn confirm_damage(&mut self) {
        if let Some((first, count)) = self.doubtful.take() {
            let (first, before) = self.damaged.unwrap_or((first, 0));
            self.damaged = Some((first, before + count));
        }
    }

    fn entry(&mut self, at: u64) -> Option<IndexEntry> {
        let inside = at >= self.piece_at && (at - self.piece_at) * ENTRY_BYTES < self.piece.len() as u64;
        if !inside {
            let count = PIECE_ENTRIES.min(self.entries - at);
            let mut piece = vec![0; usize::try_from(count * ENTRY_BYTES).unwrap_or_default()];
            // What cannot be read stays zero, which is no entry.
            if read_exact_at(self.file, &mut piece, at * ENTRY_BYTES).is_err() {
                for (i, chunk) in piece.chunks_mut(INDEX_ENTRY_BYTES).enumerate() {
                    if read_exact_at(self.file, chunk, (at + i as u64) * ENTRY_BYTES).is_err() {
                        chunk.fill(0);
                    }
                }
            }
            self.piece = piece;
            self.piece_at = at;
        }
        let from = usize::try_from((at - self.piece_at) * ENTRY_BYTES).unwrap_or(usize::MAX);
        let bytes = self.piece.get(from..)?.first_chunk()?;
        IndexEntry::decode(bytes).ok()
    }
}
