//! When the batch at an offset was appended: exact while it is in memory, from the index of its segment later.
//!
//! Batches do not carry the time, and the journal, which does, is written over. The index has it for a batch at least every
//! [`INDEX_EVERY_MS`](super::segment::INDEX_EVERY_MS), so what is found is less than that too early. Without an index it is the
//! time of the first batch of the segment: never too late.

use super::log::{LocalLog, LogState, SegmentMeta};
use crate::model::{Offset, Timestamp};
use crate::storage::{AppendTime, ReadError};

/// What one look at the log tells.
enum Place {
    Known(Timestamp),
    In(SegmentMeta),
    Nowhere,
}

impl LogState {
    /// What memory alone knows.
    pub(super) fn append_time(&self, at: Offset) -> Option<AppendTime> {
        match self.place(at) {
            Place::Known(time) => Some(AppendTime::exactly(time)),
            Place::In(segment) => Some(AppendTime {
                earliest: segment.oldest_append,
                latest: segment.newest_append,
            }),
            Place::Nowhere => None,
        }
    }

    fn place(&self, at: Offset) -> Place {
        if self.deleted || at < self.log_start || at >= self.end {
            return Place::Nowhere;
        }
        let first = self.tail.partition_point(|batch| batch.last < at);
        if let Some(batch) = self.tail.get(first).filter(|batch| batch.base <= at) {
            return Place::Known(batch.append_time);
        }
        let behind = self.segments.partition_point(|segment| segment.base <= at);
        let segment = behind.checked_sub(1).and_then(|index| self.segments.get(index));
        segment.map_or(Place::Nowhere, |segment| Place::In(*segment))
    }
}

impl LocalLog {
    /// When the batch that holds this offset was appended, less than a second too early at most. Blocks on the disk.
    pub(super) fn find_append_time_now(&self, at: Offset) -> Result<Option<Timestamp>, ReadError> {
        let segment = match self.state().place(at) {
            Place::Known(time) => return Ok(Some(time)),
            Place::Nowhere => return Ok(None),
            Place::In(segment) => segment,
        };
        if segment.oldest_append == segment.newest_append {
            return Ok(Some(segment.oldest_append));
        }
        let entry = self.reads().entry_at_or_below(self.partition(), &segment, at);
        if self.is_deleted() {
            return Err(ReadError::NotOwner);
        }
        // An index that was left by another life must not lead out of the segment.
        let time = entry.map_or(segment.oldest_append, |entry| entry.append_time);
        Ok(Some(time.clamp(segment.oldest_append, segment.newest_append)))
    }
}
