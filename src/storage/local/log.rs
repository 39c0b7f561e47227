//! One partition's log as the engine keeps it: which batches are in memory, which segments are on disk.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::Notify;

use super::read::ReadSide;
use super::roll::Active;
use crate::disk::BLOCK_BYTES;
use crate::model::{LogBounds, Lsn, Offset, PartitionKey, Timestamp};
use crate::planted::{self, Bug};
use crate::rt::BoxFuture;
use crate::storage::{
    AppendTime, LogConfig, LogStats, PartitionLog, Placed, ReadError, ReadOut, ReadSpec, SegmentSummary,
    TimedOffset,
};

/// Extents below this are copied out of the memory tail, so that a slow reader does not hold a whole group in memory.
const COPY_BELOW_BYTES: usize = 64 << 10;

/// A batch that is still in the memory tail, or will be.
#[derive(Clone, Copy, Debug)]
pub(super) struct TailBatch {
    pub(super) base: Offset,
    pub(super) last: Offset,
    pub(super) lsn: Lsn,
    pub(super) append_time: Timestamp,
    /// Greatest timestamp of its records.
    pub(super) max_timestamp: Timestamp,
    /// Where it begins in the group's payload.
    pub(super) position: usize,
    pub(super) length: usize,
}

/// A segment as readers see it: everything here is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentMeta {
    pub(super) base: Offset,
    /// Behind its last batch.
    pub(super) end: Offset,
    /// Bytes of its batches.
    pub(super) bytes: u64,
    /// Append times of its first and its last batch.
    pub(super) oldest_append: Timestamp,
    pub(super) newest_append: Timestamp,
    /// Greatest timestamp of its records.
    pub(super) max_timestamp: Timestamp,
    /// Its file has its final length: nothing is appended to it any more.
    pub(super) sealed: bool,
}

impl SegmentMeta {
    /// A segment without batches; its times are such that those of the first batch take their place.
    pub(super) fn empty(base: Offset) -> Self {
        Self {
            base,
            end: base,
            bytes: 0,
            oldest_append: Timestamp(i64::MAX),
            newest_append: Timestamp(i64::MIN),
            max_timestamp: Timestamp(i64::MIN),
            sealed: false,
        }
    }

    /// As the segment that the next batch goes to, unless it is sealed.
    pub(super) fn as_active(&self) -> Option<Active> {
        (!self.sealed).then_some(Active {
            base: self.base,
            bytes: self.bytes,
            oldest_append: self.oldest_append,
            seen: None,
        })
    }
}

/// Where a batch goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TakenIn {
    pub(super) starts_segment: bool,
    /// It did not fit into the segment before.
    pub(super) ends_segment: bool,
    /// Where it begins in the group's payload.
    pub(super) position: u64,
}

/// A batch of at least so many bytes stands in its group as it will stand in its segment: the same number of bytes behind
/// the start of a block. So whole blocks of it can be written from the group's memory, without a copy.
pub(super) const LIKE_IN_SEGMENT_FROM_BYTES: u32 = 64 << 10;

/// Where a batch goes in a payload of so many bytes.
fn position_for(payload_bytes: u64, segment_position: u64, length: u32) -> u64 {
    if length < LIKE_IN_SEGMENT_FROM_BYTES {
        return payload_bytes;
    }
    let block = BLOCK_BYTES as u64;
    let (is, wanted) = (payload_bytes % block, segment_position % block);
    payload_bytes + (wanted + block - is) % block
}

#[derive(Debug)]
pub(super) struct LogState {
    pub(super) deleted: bool,
    pub(super) config: LogConfig,
    pub(super) log_start: Offset,
    /// Trims that were taken in and not applied yet, by their group, with the first offset that stays.
    pub(super) trims: Vec<(Lsn, Offset)>,
    /// Next offset to be assigned.
    pub(super) end: Offset,
    pub(super) last_append: Timestamp,
    /// Oldest first.
    pub(super) segments: Vec<SegmentMeta>,
    /// First and last offset of damaged ranges, ordered, not overlapping.
    pub(super) quarantined: Vec<(Offset, Offset)>,
    /// The segment that the next batch goes to; `None`: it begins one.
    pub(super) active: Option<Active>,
    /// Batches in memory, oldest first, up to `end` without a gap.
    pub(super) tail: VecDeque<TailBatch>,
}

/// The log of one partition.
#[derive(Debug)]
pub struct LocalLog {
    key: PartitionKey,
    reads: Arc<ReadSide>,
    state: Mutex<LogState>,
    waiters: Mutex<Vec<Weak<Notify>>>,
    has_waiters: AtomicBool,
}

/// What recovery found of a partition.
#[derive(Clone, Debug)]
pub(super) struct Recovered {
    pub(super) log_start: Offset,
    pub(super) end: Offset,
    pub(super) last_append: Timestamp,
    pub(super) segments: Vec<SegmentMeta>,
    pub(super) quarantined: Vec<(Offset, Offset)>,
}

impl LocalLog {
    /// An empty log.
    pub(super) fn new(key: PartitionKey, config: LogConfig, reads: Arc<ReadSide>) -> Self {
        let nothing = Recovered {
            log_start: Offset::ZERO,
            end: Offset::ZERO,
            last_append: Timestamp::default(),
            segments: Vec::new(),
            quarantined: Vec::new(),
        };
        Self::recovered(key, config, reads, nothing)
    }

    /// A log as recovery found it.
    pub(super) fn recovered(
        key: PartitionKey,
        config: LogConfig,
        reads: Arc<ReadSide>,
        found: Recovered,
    ) -> Self {
        let state = LogState {
            deleted: false,
            config,
            log_start: found.log_start,
            trims: Vec::new(),
            end: found.end,
            last_append: found.last_append,
            active: found.segments.last().and_then(SegmentMeta::as_active),
            segments: found.segments,
            quarantined: found.quarantined,
            tail: VecDeque::new(),
        };
        let has_waiters = AtomicBool::new(false);
        Self {
            key,
            reads,
            state: Mutex::new(state),
            waiters: Mutex::new(Vec::new()),
            has_waiters,
        }
    }

    pub(super) fn partition(&self) -> PartitionKey {
        self.key
    }

    pub(super) fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().expect("no panics while locked")
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.state().deleted
    }

    /// Where in a segment a batch of so many bytes goes if it is the next one.
    pub(super) fn next_position(&self, length: u32) -> u64 {
        let state = self.state();
        let segment_bytes = u64::from(state.config.segment_bytes);
        let active = state.active.as_ref().map(|active| active.bytes);
        active
            .filter(|bytes| bytes + u64::from(length) <= segment_bytes)
            .unwrap_or(0)
    }

    /// Notes a batch that enters the open group behind so many bytes of payload. Returns where it goes.
    pub(super) fn take_in(&self, placed: &Placed<Self>, lsn: Lsn, payload_bytes: u64) -> TakenIn {
        let header = placed.batch.header();
        let length = placed.batch.total_bytes();
        let mut state = self.state();
        assert_eq!(
            placed.base, state.end,
            "offsets are assigned in order, under the partition's lock"
        );
        assert_eq!(
            placed.base, header.base_offset,
            "the batch is stamped with its offset"
        );
        let segment_bytes = u64::from(state.config.segment_bytes);
        let had_segment = state.active.is_some();
        let (starts_segment, segment_position) = match &mut state.active {
            Some(active) if active.bytes + u64::from(length) <= segment_bytes => {
                let position = active.bytes;
                active.bytes += u64::from(length);
                (false, position)
            }
            active => {
                *active = Some(Active {
                    base: placed.base,
                    bytes: u64::from(length),
                    oldest_append: placed.append_time,
                    seen: None,
                });
                (true, 0)
            }
        };
        let position = position_for(payload_bytes, segment_position, length);
        state.end = header.last_offset().next();
        state.last_append = state.last_append.max(placed.append_time);
        state.tail.push_back(TailBatch {
            base: placed.base,
            last: header.last_offset(),
            lsn,
            append_time: placed.append_time,
            max_timestamp: header.max_timestamp,
            position: usize::try_from(position).expect("a group has fewer bytes than 2^32"),
            length: length as usize,
        });
        TakenIn {
            starts_segment,
            ends_segment: starts_segment && had_segment,
            position,
        }
    }

    /// Notes a trim that enters the open group. A partition that is emptied goes on in another segment, so that this one's
    /// file can go. Whether that ends one.
    pub(super) fn trim_from(&self, lsn: Lsn, to: Offset) -> bool {
        let mut state = self.state();
        if to > state.end {
            let empty = state.tail.is_empty() && state.segments.is_empty();
            assert!(empty, "a log with batches begins at most where it ends");
            state.end = to;
        }
        state.trims.push((lsn, to));
        to == state.end && state.active.take().is_some()
    }

    /// The trims of groups up to this one are applied: what lies below is gone for good. Whether segments may be waiting for
    /// a checkpoint to go.
    pub(super) fn apply_trims(&self, upto: Lsn) -> bool {
        let mut state = self.state();
        let start = state.bounds(upto).log_start;
        state.trims.retain(|(lsn, _)| *lsn > upto);
        state.start_at(start);
        !state.segments.is_empty()
    }

    /// Forgets the batches of groups that left memory.
    pub(super) fn forget(&self, upto: Lsn) {
        let mut state = self.state();
        while state.tail.front().is_some_and(|b| b.lsn <= upto) {
            state.tail.pop_front();
        }
        if state.tail.is_empty() {
            state.tail.shrink_to_fit();
        }
    }

    /// The partition is gone: nothing is taken in or read any more, and whoever waits is told.
    pub(super) fn delete(&self) {
        self.state().deleted = true;
        self.wake();
    }

    /// Wakes parked fetches. The publisher calls it behind publishing the durable LSN.
    pub(super) fn wake(&self) {
        // Pairs with the fence in `notify_on_append`: either we see the waiter or it sees what was published.
        fence(Ordering::SeqCst);
        if !self.has_waiters.load(Ordering::SeqCst) {
            return;
        }
        let waiters = {
            let mut waiters = self.waiters.lock().expect("no panics while locked");
            self.has_waiters.store(false, Ordering::SeqCst);
            std::mem::take(&mut *waiters)
        };
        for waiter in waiters {
            if let Some(waiter) = waiter.upgrade() {
                waiter.notify_one();
            }
        }
    }

    /// Marks a range as damaged, what lies below the log start left out. Whether that is news.
    pub(super) fn quarantine(&self, first: Offset, last: Offset) -> bool {
        let mut state = self.state();
        let first = first.max(state.log_start);
        let known = state
            .quarantined
            .iter()
            .any(|(from, to)| *from <= first && last <= *to);
        if last < first || known {
            return false;
        }
        insert_range(&mut state.quarantined, first, last);
        true
    }

    fn read_memory(&self, spec: &ReadSpec) -> Option<Result<ReadOut, ReadError>> {
        let (batches, start) = {
            let state = self.state();
            match state.check(spec) {
                Err(error) => return Some(Err(error)),
                Ok(at_end) if at_end => {
                    return Some(Ok(ReadOut {
                        next: spec.from,
                        ..ReadOut::default()
                    }));
                }
                Ok(_) => {}
            }
            if state.tail.front().is_none_or(|b| b.base > spec.from) {
                return None;
            }
            let start = state.tail.partition_point(|b| b.last < spec.from);
            (state.choose(start, spec), spec.from)
        };
        let mut out = ReadOut {
            next: start,
            ..ReadOut::default()
        };
        let mut group = None;
        let mut run: Option<(usize, usize)> = None;
        for batch in batches {
            if group
                .as_ref()
                .is_none_or(|g: &Arc<super::group::Group>| g.lsn != batch.lsn)
            {
                push_run(&mut out, group.as_deref(), run.take());
                // Evicted meanwhile: it is in the segments, and so is everything before it.
                let Some(found) = self.reads.tail().get(batch.lsn) else {
                    break;
                };
                group = Some(found);
            }
            let begin = group.as_ref().map_or(0, |g| g.payload_start) + batch.position;
            let one_piece = |from, to| {
                group
                    .as_ref()
                    .is_some_and(|g| g.blocks.has_in_one_piece(from, to))
            };
            run = match run {
                Some((from, to)) if to == begin && one_piece(from, to + batch.length) => {
                    Some((from, to + batch.length))
                }
                other => {
                    push_run(&mut out, group.as_deref(), other);
                    Some((begin, begin + batch.length))
                }
            };
            out.next = batch.last.next();
        }
        push_run(&mut out, group.as_deref(), run);
        if out.extents.is_empty() {
            None
        } else {
            Some(Ok(out))
        }
    }
}

/// Adds adjacent batches of one group as one extent.
fn push_run(out: &mut ReadOut, group: Option<&super::group::Group>, run: Option<(usize, usize)>) {
    let (Some(group), Some((from, to))) = (group, run) else {
        return;
    };
    let slice = group.blocks.slice(from, to);
    out.bytes += slice.len() as u64;
    out.extents.push(if slice.len() < COPY_BELOW_BYTES {
        bytes::Bytes::copy_from_slice(&slice)
    } else {
        slice
    });
}

impl LogState {
    /// The marks as of a durable LSN.
    pub(super) fn bounds(&self, durable: Lsn) -> LogBounds {
        let visible = self.tail.partition_point(|b| b.lsn <= durable);
        let high_watermark = match self.tail.get(visible) {
            Some(first_hidden) if !planted::is(Bug::ReadBeforeSync) => first_hidden.base,
            Some(_) | None => self.end,
        };
        let trimmed = self.trims.iter().filter(|(lsn, _)| *lsn <= durable);
        let log_start = trimmed.map(|(_, to)| *to).fold(self.log_start, Offset::max);
        LogBounds {
            log_start,
            // A reader with an older LSN than a trim must not see an end before the start.
            high_watermark: high_watermark.max(log_start),
            log_end: self.end,
        }
    }

    /// Where the log begins once the trims that were taken in are applied.
    fn start_taken_in(&self) -> Offset {
        let trims = self.trims.iter().map(|(_, to)| *to);
        trims.fold(self.log_start, Offset::max)
    }

    /// Moves the log start, and forgets what was damaged below it.
    pub(super) fn start_at(&mut self, start: Offset) {
        if start <= self.log_start {
            return;
        }
        self.log_start = start;
        self.quarantined.retain(|(_, last)| *last >= start);
        if let Some((first, _)) = self.quarantined.first_mut() {
            *first = (*first).max(start);
        }
    }

    /// Whether there is anything to read: an error, or whether `from` is the high watermark.
    pub(super) fn check(&self, spec: &ReadSpec) -> Result<bool, ReadError> {
        if self.deleted {
            return Err(ReadError::NotOwner);
        }
        let bounds = self.bounds(spec.durable);
        if spec.from < bounds.log_start || spec.from > bounds.high_watermark {
            return Err(ReadError::OutOfRange(bounds));
        }
        if spec.from == bounds.high_watermark {
            return Ok(true);
        }
        match self
            .quarantined
            .iter()
            .find(|(first, last)| *first <= spec.from && spec.from <= *last)
        {
            Some((_, last)) => Err(ReadError::Corrupt {
                first: spec.from,
                last: *last,
            }),
            None => Ok(false),
        }
    }

    /// The segments that hold applied batches.
    fn summaries(&self) -> Vec<SegmentSummary> {
        let last = self.segments.last().map(|s| s.base);
        // Closed also if its file is still to be cut: the next batch goes elsewhere.
        let closed = |s: &SegmentMeta| self.active.is_none() && s.end == self.end;
        let summary = |s: &SegmentMeta| SegmentSummary {
            base: s.base,
            end: s.end,
            bytes: s.bytes,
            oldest_append: s.oldest_append,
            newest_append: s.newest_append,
            max_timestamp: s.max_timestamp,
            sealed: s.sealed || Some(s.base) != last || closed(s),
        };
        let start = self.start_taken_in();
        let with_batches = self.segments.iter().filter(|s| s.bytes > 0 && s.end > start);
        with_batches.map(summary).collect()
    }

    /// Durable batches from this index of the tail on, as many as fit.
    fn choose(&self, start: usize, spec: &ReadSpec) -> Vec<TailBatch> {
        let mut bytes = 0;
        let mut out = Vec::new();
        for batch in self.tail.iter().skip(start).take_while(|b| b.lsn <= spec.durable) {
            let fits = bytes + batch.length <= spec.max_bytes as usize;
            let first = out.is_empty() && spec.min_one;
            if !(fits || first) {
                break;
            }
            bytes += batch.length;
            out.push(*batch);
        }
        out
    }
}

impl PartitionLog for LocalLog {
    fn key(&self) -> PartitionKey {
        self.key
    }

    fn bounds(&self, durable: Lsn) -> LogBounds {
        self.state().bounds(durable)
    }

    fn stats(&self) -> LogStats {
        let state = self.state();
        let unapplied_from = state.segments.last().map_or(state.log_start, |s| s.end);
        // Those below the log start only wait for a checkpoint to go.
        let start = state.start_taken_in();
        let segments = || state.segments.iter().filter(|s| s.end > start || s.bytes == 0);
        let applied: u64 = segments().map(|s| s.bytes).sum();
        let unapplied: usize = state
            .tail
            .iter()
            .filter(|b| b.base >= unapplied_from)
            .map(|b| b.length)
            .sum();
        LogStats {
            size_bytes: applied + unapplied as u64,
            segments: u32::try_from(segments().count()).unwrap_or(u32::MAX),
            quarantined: state.quarantined.clone(),
        }
    }

    fn segments(&self) -> Vec<SegmentSummary> {
        self.state().summaries()
    }

    fn try_read(&self, spec: &ReadSpec) -> Option<Result<ReadOut, ReadError>> {
        self.read_memory(spec)
    }

    fn read(self: Arc<Self>, spec: ReadSpec) -> BoxFuture<'static, Result<ReadOut, ReadError>> {
        Box::pin(async move {
            if let Some(found) = self.read_memory(&spec) {
                return found;
            }
            self.on_read_thread(move |log| log.read_segments(&spec)).await
        })
    }

    fn append_time(&self, at: Offset) -> Option<AppendTime> {
        self.state().append_time(at)
    }

    fn find_append_time(&self, at: Offset) -> Result<Option<Timestamp>, ReadError> {
        self.find_append_time_now(at)
    }

    fn find_timestamp(
        self: Arc<Self>,
        at: Timestamp,
        durable: Lsn,
    ) -> BoxFuture<'static, Result<Option<TimedOffset>, ReadError>> {
        Box::pin(self.on_read_thread(move |log| log.find_timestamp_now(at, durable)))
    }

    fn notify_on_append(&self, waiter: Weak<Notify>) {
        {
            let mut waiters = self.waiters.lock().expect("no panics while locked");
            // Waiters that gave up leave dead entries; a partition without appends must not collect them.
            if waiters.len() == waiters.capacity() {
                waiters.retain(|w| w.strong_count() > 0);
            }
            waiters.push(waiter);
            self.has_waiters.store(true, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
    }
}

impl LocalLog {
    /// Runs `work` where blocking on the disk is allowed, a bounded number at once.
    async fn on_read_thread<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let slots = self.reads.slots();
        let _slot = slots.acquire_owned().await.map_err(|_| ReadError::NotOwner)?;
        let task = tokio::task::spawn_blocking(move || work(&self));
        task.await.map_err(|e| ReadError::Io(e.to_string()))?
    }

    pub(super) fn reads(&self) -> &ReadSide {
        &self.reads
    }
}

/// Inserts an inclusive range, merging what overlaps or touches.
pub(super) fn insert_range(ranges: &mut Vec<(Offset, Offset)>, first: Offset, last: Offset) {
    let (mut first, mut last) = (first, last);
    ranges.retain(|(a, b)| {
        let apart = b.next() < first || last.next() < *a;
        if !apart {
            first = first.min(*a);
            last = last.max(*b);
        }
        apart
    });
    let at = ranges.partition_point(|(a, _)| *a < first);
    ranges.insert(at, (first, last));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn o(n: i64) -> Offset {
        Offset::new(n).unwrap()
    }

    #[test]
    fn large_batches_stand_in_a_group_as_in_their_segment() {
        let large = LIKE_IN_SEGMENT_FROM_BYTES;
        assert_eq!(position_for(100, 5_000, large - 1), 100);
        assert_eq!(position_for(100, 5_000, large), 904);
        assert_eq!(position_for(904, 904, large), 904);
        assert_eq!(position_for(4_095, 4_094, large), 8_190);
        assert_eq!(position_for(0, 4_096, large), 0);
    }

    #[test]
    fn ranges_merge_when_they_touch() {
        let mut ranges = Vec::new();
        insert_range(&mut ranges, o(10), o(19));
        insert_range(&mut ranges, o(30), o(39));
        insert_range(&mut ranges, o(0), o(3));
        assert_eq!(ranges, [(o(0), o(3)), (o(10), o(19)), (o(30), o(39))]);
        insert_range(&mut ranges, o(20), o(29));
        assert_eq!(ranges, [(o(0), o(3)), (o(10), o(39))]);
        insert_range(&mut ranges, o(2), o(50));
        assert_eq!(ranges, [(o(0), o(50))]);
    }
}
