//! Damage is fenced off: its offsets are told to whoever asks for them, to the operator and to the next checkpoint, and
//! nothing else is touched.

use std::io;

use super::damage::{self, Found, Place, Whole};
use super::format::index::IndexEntry;
use super::log::{LocalLog, SegmentMeta};
use super::paths;
use crate::disk::{DiskFile, read_exact_at};
use crate::model::Offset;
use crate::planted::{self, Bug};
use crate::storage::{ReadError, ReadSpec};

/// So many entries of the index in a row that name no batch: it is that of another segment, or all is damaged.
const PLACES_TRIED_MAX: u32 = 8;

/// Where an index entry says that a batch begins.
pub(super) fn place_of(entry: &IndexEntry) -> Place {
    Place {
        position: u64::from(entry.position),
        offset: entry.base,
    }
}

/// Where the first batch of a segment begins.
pub(super) fn beginning(segment: &SegmentMeta) -> Place {
    Place {
        position: 0,
        offset: segment.base,
    }
}

/// Where a walk begins by the index: at the batch that an entry names, or at the first one if the entry is none of this segment.
pub(super) fn place_by(entry: Option<IndexEntry>, segment: &SegmentMeta) -> Place {
    let is_own = |entry: &IndexEntry| {
        (segment.base..segment.end).contains(&entry.base) && u64::from(entry.position) < segment.bytes
    };
    entry
        .filter(|entry| is_own(entry) || planted::is(Bug::IndexTrusted))
        .map_or(beginning(segment), |entry| place_of(&entry))
}

/// Whether a batch with this offset begins at a place, as far as eight bytes tell.
fn begins_at(file: &dyn DiskFile, place: Place) -> bool {
    let mut base = [0; 8];
    read_exact_at(file, &mut base, place.position).is_ok() && i64::from_be_bytes(base) == place.offset.get()
}

impl LocalLog {
    /// Looks at a segment again because something is wrong with it, and fences off what is damaged: batch by batch from
    /// `from` on, where one begins, up to the first whole one that ends at or behind `target`. `trouble` is the error of the
    /// read that brought us here, if it was one.
    ///
    /// # Errors
    /// The disk gives nothing at all: that is no damage of this segment.
    pub(super) fn look_closer(
        &self,
        file: &dyn DiskFile,
        segment: &SegmentMeta,
        from: Place,
        target: Offset,
        trouble: Option<io::Error>,
    ) -> io::Result<Found> {
        let next_indexed = |place: Place| {
            let entry = self.reads().entry_above(self.partition(), segment, place.offset);
            entry.map(|entry| place_of(&entry))
        };
        let mut found = damage::look(file, segment, &next_indexed, from, target);
        if found.damaged.is_empty() {
            if trouble.is_some() {
                self.reads().note_healed_error();
            }
            return Ok(found);
        }
        let unreadable = found.unreadable.is_some();
        if let Some(error) = found.unreadable.take()
            && !self.reads().disk_answers()
        {
            return Err(error);
        }
        for (first, last) in &found.damaged {
            found.news += u64::from(self.fence(segment, *first, *last));
        }
        if found.news > 0 && unreadable {
            self.reads().note_lasting_error();
        }
        Ok(found)
    }

    /// Where a batch begins by itself, at a place or in front of it: the index may be that of another segment, and what it says
    /// is no proof of damage. Where a place is damaged an entry in front of it does, so that not all of the segment is walked.
    fn proven(&self, file: &dyn DiskFile, segment: &SegmentMeta, from: Place) -> Place {
        let mut place = from;
        for _ in 0..PLACES_TRIED_MAX {
            if begins_at(file, place) || planted::is(Bug::IndexTrusted) {
                return place;
            }
            let Some(before) = Offset::new(place.offset.get() - 1).filter(|before| *before >= segment.base)
            else {
                break;
            };
            let entry = self.reads().entry_at_or_below(self.partition(), segment, before);
            place = place_by(entry, segment);
        }
        beginning(segment)
    }

    /// The whole batch that holds the offset asked for, where a plain walk did not get to it.
    pub(super) fn batch_in_spite_of_damage(
        &self,
        file: &dyn DiskFile,
        segment: &SegmentMeta,
        from: Place,
        spec: &ReadSpec,
        trouble: Option<io::Error>,
    ) -> io::Result<Result<Whole, ReadError>> {
        let from = self.proven(file, segment, from);
        let found = self.look_closer(file, segment, from, spec.from, trouble)?;
        if let Err(error) = self.state().check(spec) {
            return Ok(Err(error));
        }
        Ok(found
            .whole
            .ok_or_else(|| ReadError::Io("the segment went away while it was read".to_owned())))
    }

    /// The next whole batch for a lookup that begins at an offset. What cannot be read may be what is looked for: without it
    /// there is no right answer.
    pub(super) fn batch_for_lookup(
        &self,
        file: &dyn DiskFile,
        segment: &SegmentMeta,
        at: Place,
        from: Offset,
        trouble: Option<io::Error>,
    ) -> io::Result<Result<Option<Whole>, ReadError>> {
        let begin = self.proven(file, segment, at);
        let found = self.look_closer(file, segment, begin, at.offset.max(from), trouble)?;
        Ok(match found.damaged.into_iter().find(|(_, last)| *last >= from) {
            Some((first, last)) => Err(ReadError::Corrupt {
                first: first.max(from),
                last,
            }),
            None => Ok(found.whole),
        })
    }

    /// A segment's file is not there, although nobody has removed it: everything that it held is lost.
    pub(super) fn file_is_missing(&self, segment: &SegmentMeta) -> bool {
        let last = Offset::new(segment.end.get() - 1).unwrap_or(segment.base);
        self.fence(segment, segment.base, last)
    }

    /// Whether a segment is not part of the log any more.
    pub(super) fn is_gone(&self, segment: &SegmentMeta) -> bool {
        let state = self.state();
        let named = state.segments.iter().any(|s| s.base == segment.base);
        state.deleted || !named || state.log_start >= segment.end
    }

    /// Fences off a damaged range of a segment. Whether that is news.
    fn fence(&self, segment: &SegmentMeta, first: Offset, last: Offset) -> bool {
        // A file that was removed meanwhile is cut step by step, which is no damage.
        let is_new = !self.is_gone(segment) && self.quarantine(first, last);
        if is_new {
            let file = paths::segment(self.partition(), segment.base);
            self.tell(first, last, &file);
        }
        is_new
    }

    /// Fences off a batch that cannot be understood although its checksum holds.
    pub(super) fn damaged(&self, first: Offset, end: Offset) -> ReadError {
        let last = Offset::new(end.get() - 1).unwrap_or(first).max(first);
        if self.quarantine(first, last) {
            self.tell(first, last, "");
        }
        ReadError::Corrupt { first, last }
    }

    fn tell(&self, first: Offset, last: Offset, file: &str) {
        self.reads().note_damage();
        tracing::error!(
            event = "data_corrupt", topic = %self.partition().topic, partition = %self.partition().partition,
            first = %first, last = %last, file, "acknowledged data is damaged"
        );
    }
}
