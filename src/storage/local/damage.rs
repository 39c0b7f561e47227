//! A closer look at a segment in which something is wrong: which batches are damaged, to the offset, and which is the next
//! whole one.
//!
//! A batch is whole if it stands where its offset belongs and its checksum holds. Behind one that is not, the next one is
//! found by the length that the damaged one still tells, else by looking at every byte for a header that leads, from whole
//! batch to whole batch, to the next one that the index knows or to the end of the segment; else it is that one. Bytes are
//! read past the page cache, and twice if need be: what heals is no damage. `docs/storage-format.md`, "Damage in a segment".

use std::io;

use bytes::Bytes;

use super::log::SegmentMeta;
use crate::disk::{BLOCK_BYTES, DiskFile, drop_pages, read_exact_at};
use crate::model::Offset;
use crate::record::{BatchHeader, HEADER_BYTES, check_crc};

/// The search for a header reads so much at once.
const PIECE_BYTES: usize = 64 << 10;
/// The least that a disk fails to give.
const SECTOR_BYTES: usize = 512;
/// Bytes of a batch up to the end of its length, which counts what follows.
const LENGTH_END: u64 = 12;
/// What a search may read to check what looks like a header: records may be made to look so.
const CHECK_BYTES_MAX: u64 = 64 << 20;
/// So many whole batches one behind the other are as good as an entry of the index, where there is none.
const CHAIN_BATCHES: u32 = 16;

/// Where a batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) position: u64,
    pub(super) offset: Offset,
}

/// A whole batch.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) place: Place,
    pub(super) header: BatchHeader,
    pub(super) bytes: Bytes,
}

impl Whole {
    pub(super) fn behind(&self) -> Place {
        Place {
            position: self.place.position + self.bytes.len() as u64,
            offset: self.header.last_offset().next(),
        }
    }
}

/// What a closer look came to.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// First and last offset of what is damaged, in order, apart from each other.
    pub(super) damaged: Vec<(Offset, Offset)>,
    /// The first whole batch that ends at or behind the offset that was looked for.
    pub(super) whole: Option<Whole>,
    /// Of these ranges, those that nobody knew of; counted by whoever fences them off.
    pub(super) news: u64,
    /// The last error of a read that failed twice.
    pub(super) unreadable: Option<io::Error>,
}

/// The first place that the index knows behind one: not necessarily of a whole batch.
pub(super) type NextIndexed<'a> = &'a dyn Fn(Place) -> Option<Place>;

/// Looks at the batches from one on, up to the first whole one that ends at or behind `target`.
pub(super) fn look(
    file: &dyn DiskFile,
    segment: &SegmentMeta,
    next_indexed: NextIndexed<'_>,
    from: Place,
    target: Offset,
) -> Found {
    let end = Place {
        position: segment.bytes,
        offset: segment.end,
    };
    let mut looker = Looker {
        file,
        there: file.len().unwrap_or(segment.bytes).min(segment.bytes),
        end,
        next_indexed,
        unreadable: None,
    };
    let mut found = Found::default();
    let mut at = from;
    while at.offset < end.offset {
        let whole = looker.batch_at(at.position, end);
        match whole.filter(|whole| whole.place.offset == at.offset) {
            Some(whole) if whole.header.last_offset() >= target => {
                found.whole = Some(whole);
                break;
            }
            Some(whole) => at = whole.behind(),
            None => {
                let next = looker.next_whole(at);
                note(&mut found.damaged, at.offset, next.offset);
                at = next;
            }
        }
    }
    found.unreadable = looker.unreadable;
    found
}

/// Notes offsets up to `end`, which is behind them; what follows on the last ones is one range with them.
fn note(damaged: &mut Vec<(Offset, Offset)>, first: Offset, end: Offset) {
    let last = Offset::new(end.get() - 1).unwrap_or(first).max(first);
    match damaged.last_mut() {
        Some((_, before)) if before.next() == first => *before = last,
        _ => damaged.push((first, last)),
    }
}

struct Looker<'a> {
    file: &'a dyn DiskFile,
    /// Bytes of the segment that the file has.
    there: u64,
    end: Place,
    next_indexed: NextIndexed<'a>,
    unreadable: Option<io::Error>,
}

impl Looker<'_> {
    /// Where the next whole batch stands behind a damaged one; if none can be made out, the next one that the index knows,
    /// whole or not, or the end.
    fn next_whole(&mut self, damaged: Place) -> Place {
        let indexed = (self.next_indexed)(damaged)
            .filter(|p| p.position > damaged.position && p.position < self.end.position)
            .filter(|p| p.offset > damaged.offset && p.offset < self.end.offset);
        let stop = indexed.unwrap_or(self.end);
        let near = self.by_length(damaged, stop);
        // The length may be what is damaged, and lead to a batch in the value of a record: one from which others follow is
        // worth more, and the search finds it if this is none.
        let mut left = CHECK_BYTES_MAX;
        if near.is_some_and(|near| near == stop || self.is_followed(near, stop, &mut left)) {
            return near.unwrap_or(stop);
        }
        self.search(damaged, stop).or(near).unwrap_or(stop)
    }

    /// Whether what stands at a place leads to `stop`.
    fn is_followed(&mut self, place: Place, stop: Place, left: &mut u64) -> bool {
        self.batch_at(place.position, stop)
            .is_some_and(|first| self.leads_to(&first, stop, left))
    }

    /// The next whole batch, or `stop`, if a damaged one still has the length that leads there.
    fn by_length(&mut self, damaged: Place, stop: Place) -> Option<Place> {
        let head = self.read(damaged.position, LENGTH_END)?;
        let length = head.last_chunk().map(|length| u32::from_be_bytes(*length))?;
        let behind = damaged.position + LENGTH_END + u64::from(length);
        if behind >= stop.position {
            return (behind == stop.position).then_some(stop);
        }
        let next = self.batch_at(behind, stop)?.place;
        (next.offset > damaged.offset).then_some(next)
    }

    /// The first header behind a damaged batch that leads to `stop`.
    fn search(&mut self, damaged: Place, stop: Place) -> Option<Place> {
        let upto = stop.position.min(self.there);
        let mut left = CHECK_BYTES_MAX;
        let mut from = damaged.position + 1;
        while from + HEADER_BYTES as u64 <= upto {
            let piece = self.read_what_there_is(from, upto);
            for (at, head) in (from..).zip(piece.windows(HEADER_BYTES)) {
                let Some(header) = header_within(head, at, stop) else {
                    continue;
                };
                if header.base_offset <= damaged.offset || header.total_bytes() > left {
                    continue;
                }
                left -= header.total_bytes();
                if let Some(first) = self.batch_at(at, stop)
                    && self.leads_to(&first, stop, &mut left)
                {
                    return Some(first.place);
                }
            }
            from += (piece.len() - HEADER_BYTES) as u64 + 1;
        }
        None
    }

    /// Whether whole batches follow on one up to `stop`. Bytes of a record may look like a batch; what stands behind them
    /// does not go on with its offset.
    fn leads_to(&mut self, first: &Whole, stop: Place, left: &mut u64) -> bool {
        let mut at = first.behind();
        let mut batches = 1;
        while at.position < stop.position {
            if stop == self.end && batches == CHAIN_BATCHES {
                return true;
            }
            let next = self.batch_at(at.position, stop);
            let Some(next) = next.filter(|next| next.place.offset == at.offset) else {
                return self.is_what_is_left_of_a_batch(at, stop);
            };
            let Some(rest) = left.checked_sub(next.bytes.len() as u64) else {
                return false;
            };
            *left = rest;
            at = next.behind();
            batches += 1;
        }
        at == stop
    }

    /// Whether a batch stood here that is damaged, too: it still has its offset, or its length leads to the next. Less is no
    /// evidence: behind a batch in the value of a record come zeros.
    fn is_what_is_left_of_a_batch(&mut self, at: Place, stop: Place) -> bool {
        let head = self.read(at.position, LENGTH_END);
        let offset = head.as_deref().and_then(<[u8]>::first_chunk);
        offset == Some(&at.offset.get().to_be_bytes()) || self.by_length(at, stop).is_some()
    }

    /// The batch at a position, if it is whole and ends at or before `stop`.
    fn batch_at(&mut self, position: u64, stop: Place) -> Option<Whole> {
        let head = self.read(position, HEADER_BYTES as u64)?;
        let header = header_within(&head, position, stop)?;
        let bytes = self.read(position, header.total_bytes())?;
        check_crc(&header, &bytes).ok()?;
        Some(Whole {
            place: Place {
                position,
                offset: header.base_offset,
            },
            header,
            bytes,
        })
    }

    /// Reads past the page cache; what fails is tried once more.
    fn read(&mut self, at: u64, len: u64) -> Option<Bytes> {
        if at.checked_add(len)? > self.there {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        drop_pages(self.file, at, len);
        if read_exact_at(self.file, &mut bytes, at).is_ok() {
            return Some(bytes.into());
        }
        drop_pages(self.file, at, len);
        match read_exact_at(self.file, &mut bytes, at) {
            Ok(()) => Some(bytes.into()),
            Err(error) => {
                self.unreadable = Some(error);
                None
            }
        }
    }

    /// A piece of the file for the search, at least a header long; zeros for what the disk does not give.
    fn read_what_there_is(&mut self, at: u64, upto: u64) -> Vec<u8> {
        let len = usize::try_from(upto - at).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let mut piece = vec![0; len];
        self.fill(&mut piece, at, &[BLOCK_BYTES, SECTOR_BYTES]);
        piece
    }

    fn fill(&mut self, buf: &mut [u8], at: u64, units: &[usize]) {
        let Err(error) = read_exact_at(self.file, buf, at) else {
            return;
        };
        let Some((unit, smaller)) = units.split_first() else {
            self.unreadable = Some(error);
            buf.fill(0);
            return;
        };
        // Pieces end where those of the disk do.
        let first = usize::try_from(at.next_multiple_of(*unit as u64) - at).unwrap_or(0);
        let (front, rest) = buf.split_at_mut(first.min(buf.len()));
        let mut from = at;
        for part in std::iter::once(front).chain(rest.chunks_mut(*unit)) {
            self.fill(part, from, smaller);
            from += part.len() as u64;
        }
    }
}

/// The header at the front of some bytes, if a batch with it ends at or before `stop`.
fn header_within(head: &[u8], position: u64, stop: Place) -> Option<BatchHeader> {
    let header = BatchHeader::parse(head).ok()?;
    let fits = position.checked_add(header.total_bytes())? <= stop.position;
    (fits && header.total_bytes() >= HEADER_BYTES as u64 && header.last_offset() < stop.offset)
        .then_some(header)
}
