//! Looking a record up by its timestamp: segments that are old as a whole are passed over, the index leads near the first
//! record that is not, and the batches are walked from there into the records.
//!
//! The answer is exact whatever the index says: it only chooses where the walk begins, each entry has a checksum, and
//! without any the segment is walked from its start.

use std::io;

use super::damage::Place;
use super::fence::place_by;
use super::log::{LocalLog, LogState, SegmentMeta, TailBatch};
use super::read::{Step, Walk};
use crate::model::{Lsn, Offset, Timestamp};
use crate::record::BatchHeader;
use crate::storage::{ReadError, TimedOffset, find_in_batch};

/// How often a lookup begins anew because what it looked at went from memory to disk, or was removed, meanwhile.
const TRIES_MAX: u32 = 16;
/// A walk behind an index entry is short.
const PIECE_BYTES: usize = 256 << 10;

/// What may hold the answer, as of one look at the log.
struct Candidates {
    /// What is below cannot be read any more.
    log_start: Offset,
    /// What is not below cannot be read yet.
    high_watermark: Offset,
    /// Segments that have a record that is late enough, oldest first.
    segments: Vec<SegmentMeta>,
    /// Batches behind all segments that have one.
    batches: Vec<TailBatch>,
}

/// What came of looking at one candidate.
enum Look {
    Found(TimedOffset),
    Nothing,
    /// It is not there any more: look at the log again.
    Moved,
}

impl LogState {
    fn candidates(&self, at: Timestamp, durable: Lsn) -> Result<Candidates, ReadError> {
        if self.deleted {
            return Err(ReadError::NotOwner);
        }
        let bounds = self.bounds(durable);
        let applied_end = self.segments.last().map_or(Offset::ZERO, |s| s.end);
        let late = |s: &&SegmentMeta| s.end > bounds.log_start && s.max_timestamp >= at;
        let unapplied = self.tail.partition_point(|b| b.base < applied_end);
        let batches = self.tail.iter().skip(unapplied).take_while(|b| b.lsn <= durable);
        let batches = batches.filter(|b| b.last >= bounds.log_start && b.max_timestamp >= at);
        Ok(Candidates {
            log_start: bounds.log_start,
            high_watermark: bounds.high_watermark,
            segments: self.segments.iter().filter(late).copied().collect(),
            // Only the batch that log start lies in can disappoint: its late record may be below.
            batches: batches.take(2).copied().collect(),
        })
    }
}

impl LocalLog {
    /// The first readable record whose timestamp is `at` or later. Blocks on the disk.
    pub(super) fn find_timestamp_now(
        &self,
        at: Timestamp,
        durable: Lsn,
    ) -> Result<Option<TimedOffset>, ReadError> {
        for _ in 0..TRIES_MAX {
            let candidates = self.state().candidates(at, durable)?;
            match self.look(&candidates, at)? {
                // Applied behind the LSN that the caller knows of: there, but not visible to him.
                Look::Found(found) if found.offset >= candidates.high_watermark => return Ok(None),
                Look::Found(found) => return Ok(Some(found)),
                Look::Nothing => return Ok(None),
                Look::Moved => {}
            }
        }
        Err(ReadError::Io(format!(
            "segments of {} went away as often as they were looked at",
            self.partition()
        )))
    }

    fn look(&self, candidates: &Candidates, at: Timestamp) -> Result<Look, ReadError> {
        let from = candidates.log_start;
        for segment in &candidates.segments {
            match self.look_into_segment(*segment, from, at)? {
                Look::Nothing => {}
                done => return Ok(done),
            }
        }
        for batch in &candidates.batches {
            match self.look_into_batch(batch, from, at)? {
                Look::Nothing => {}
                done => return Ok(done),
            }
        }
        Ok(Look::Nothing)
    }

    fn look_into_batch(&self, batch: &TailBatch, from: Offset, at: Timestamp) -> Result<Look, ReadError> {
        // Evicted meanwhile: so it was applied, and is in a segment now.
        let Some(group) = self.reads().tail().get(batch.lsn) else {
            return Ok(Look::Moved);
        };
        let begin = group.payload_start + batch.position;
        let bytes = group.blocks.get(begin, begin + batch.length);
        let found = BatchHeader::parse(bytes).and_then(|header| find_in_batch(&header, bytes, from, at));
        match found {
            Ok(found) => Ok(found.map_or(Look::Nothing, Look::Found)),
            Err(_) => Err(self.damaged(batch.base, batch.last.next())),
        }
    }

    fn look_into_segment(
        &self,
        segment: SegmentMeta,
        from: Offset,
        at: Timestamp,
    ) -> Result<Look, ReadError> {
        match self.walk_to(segment, from, at) {
            Ok(Ok(found)) => Ok(found.map_or(Look::Nothing, Look::Found)),
            _ if self.is_deleted() => Err(ReadError::NotOwner),
            // Its file is cut step by step on the way to being removed, which is no damage.
            _ if self.is_gone(&segment) => Ok(Look::Moved),
            Ok(Err(damaged)) => Err(damaged),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.file_is_missing(&segment);
                Err(ReadError::Corrupt {
                    first: segment.base.max(from),
                    last: Offset::new(segment.end.get() - 1).unwrap_or(segment.base),
                })
            }
            Err(e) => Err(ReadError::Io(e.to_string())),
        }
    }

    fn walk_to(
        &self,
        segment: SegmentMeta,
        from: Offset,
        at: Timestamp,
    ) -> io::Result<Result<Option<TimedOffset>, ReadError>> {
        let key = self.partition();
        let file = self.reads().file(key, segment.base, false)?;
        let older = self.reads().entry_behind_older(key, &segment, at);
        let removed = self.reads().entry_at_or_below(key, &segment, from);
        let start = older.into_iter().chain(removed).max_by_key(|e| e.base);
        let start = place_by(start, &segment);
        let mut walk = Walk::new(
            &*file,
            self.reads().buffers(),
            segment,
            start.position,
            PIECE_BYTES,
        )
        .counted_by(self.reads());
        let mut expected = start.offset;
        loop {
            // Every batch is checked: a flipped bit in a timestamp would make the answer wrong.
            let (header, bytes) = match walk.checked_step(expected, Offset::ZERO) {
                Ok(Step::Batch(header, bytes)) => (header, bytes),
                Ok(Step::End) if expected >= segment.end => return Ok(Ok(None)),
                trouble => {
                    let here = Place {
                        position: walk.position,
                        offset: expected,
                    };
                    match self.batch_for_lookup(&*file, &segment, here, from, trouble.err())? {
                        Ok(Some(whole)) => {
                            walk.go_to(whole.place.position);
                            (whole.header, whole.bytes)
                        }
                        Ok(None) => return Ok(Ok(None)),
                        Err(damaged) => return Ok(Err(damaged)),
                    }
                }
            };
            if header.last_offset() >= from && header.max_timestamp >= at {
                match find_in_batch(&header, &bytes, from, at) {
                    Ok(None) => {}
                    Ok(found) => return Ok(Ok(found)),
                    Err(_) => {
                        return Ok(Err(self.damaged(header.base_offset, header.last_offset().next())));
                    }
                }
            }
            walk.position += bytes.len() as u64;
            expected = header.last_offset().next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::LogStore as _;
    use crate::storage::local::paths;
    use crate::storage::local::tests::{CONFIG, Rig, key, small};

    #[test]
    fn a_segment_that_is_removed_under_a_lookup_is_not_taken_for_damaged() {
        let mut rig = Rig::new(&small());
        for fill in 0..40 {
            rig.produce(key(1, 0), 2, 500, fill);
        }
        rig.inline.apply().unwrap();
        let log = rig.store.open(key(1, 0), CONFIG);
        let everything = Timestamp(i64::MIN);
        let before = log.state().candidates(everything, rig.durable()).unwrap();
        let oldest = before.segments[0];
        // Trimmed meanwhile, and its file is on its way out.
        log.state().start_at(oldest.end);
        rig.disk
            .write_file(&paths::segment(key(1, 0), oldest.base), b"cut")
            .unwrap();
        assert!(std::matches!(log.look(&before, everything), Ok(Look::Moved)));
        let found = log.find_timestamp_now(everything, rig.durable()).unwrap();
        assert_eq!(found.unwrap().offset, oldest.end);
        assert_eq!(log.state().quarantined, []);
        assert_eq!(log.reads().crc_errors(), 0);
    }
}
