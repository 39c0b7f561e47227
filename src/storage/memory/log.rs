//! One partition in memory: a ring of batches. What is too much goes from its old end; what nobody could have read yet stays.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use tokio::sync::Notify;

use super::lock;
use super::room::{GivenUp, Room};
use crate::model::{LogBounds, Lsn, Offset, PartitionKey, Timestamp};
use crate::record::BatchHeader;
use crate::rt::BoxFuture;
use crate::storage::{
    AppendTime, LogStats, PartitionLog, Placed, ReadError, ReadOut, ReadSpec, SegmentSummary, TimedOffset,
    find_in_batch,
};

/// What a batch takes beside its bytes: its place in the ring, which may be half empty, and its allocation.
pub(super) const BATCH_OVERHEAD_BYTES: u64 = 256;

/// Retention sees a bounded log in so many pieces, not in batches, of which there may be very many.
const PIECES: u64 = 64;

/// Batches below this size are copied when they are read, so that an answer is not made of thousands of pieces.
const COPY_BELOW_BYTES: usize = 8 << 10;

/// A ring that is emptied gives back its places when it has more than this many.
const PLACES_KEPT: usize = 64;

/// How a log is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogOptions {
    /// Most bytes that it holds, with what batches take beside their bytes; `None`: as many as there is room for.
    pub(super) bytes_max: Option<u64>,
    /// Where it begins.
    pub(super) start: Offset,
    /// Whether reads pretend to need a disk.
    pub(super) cold: bool,
}

/// The log of one partition in memory.
#[derive(Debug)]
pub struct MemoryLog {
    key: PartitionKey,
    cold: bool,
    room: Arc<Room>,
    state: Mutex<LogState>,
}

#[derive(Debug)]
struct LogState {
    bytes_max: Option<u64>,
    /// In offset order, without gaps; their LSNs never go back.
    batches: VecDeque<StoredBatch>,
    /// Bytes of the batches.
    bytes: u64,
    start: Offset,
    /// Trims that are not durable yet: their step, and the first offset that stays.
    trims: Vec<(Lsn, Offset)>,
    end: Offset,
    gone: bool,
    waiters: Vec<Weak<Notify>>,
}

#[derive(Debug)]
struct StoredBatch {
    lsn: Lsn,
    base: Offset,
    end: Offset,
    append_time: Timestamp,
    max_timestamp: Timestamp,
    bytes: Bytes,
}

/// What a batch takes.
pub(super) fn cost(batch_bytes: u64) -> u64 {
    batch_bytes + BATCH_OVERHEAD_BYTES
}

impl StoredBatch {
    fn cost(&self) -> u64 {
        cost(self.bytes.len() as u64)
    }

    fn damaged(&self) -> ReadError {
        ReadError::Corrupt {
            first: self.base,
            last: Offset::new(self.end.get() - 1).unwrap_or(self.base),
        }
    }

    fn summary(&self) -> SegmentSummary {
        SegmentSummary {
            base: self.base,
            end: self.end,
            bytes: self.bytes.len() as u64,
            oldest_append: self.append_time,
            newest_append: self.append_time,
            max_timestamp: self.max_timestamp,
            sealed: true,
        }
    }
}

impl MemoryLog {
    pub(super) fn new(key: PartitionKey, options: LogOptions, room: Arc<Room>) -> Self {
        let state = LogState {
            bytes_max: options.bytes_max,
            batches: VecDeque::new(),
            bytes: 0,
            start: options.start,
            trims: Vec::new(),
            end: options.start,
            gone: false,
            waiters: Vec::new(),
        };
        Self {
            key,
            cold: options.cold,
            room,
            state: Mutex::new(state),
        }
    }

    pub(super) fn partition(&self) -> PartitionKey {
        self.key
    }

    /// Another limit, from the next append on.
    pub(super) fn set_bytes_max(&self, bytes_max: Option<u64>) {
        lock(&self.state).bytes_max = bytes_max;
    }

    pub(super) fn is_gone(&self) -> bool {
        lock(&self.state).gone
    }

    /// What it holds, with what batches take beside their bytes.
    pub(super) fn held(&self) -> u64 {
        lock(&self.state).held()
    }

    /// Makes room for a batch of so many bytes, here and among all logs. False: what is in the way may not go yet, because
    /// it is not durable; nothing was taken then.
    ///
    /// A batch that is larger than the whole log takes all of it.
    pub(super) fn admit(&self, batch_bytes: u64, durable: Lsn) -> bool {
        let cost = cost(batch_bytes);
        let over = {
            let state = lock(&self.state);
            let over = |max| (state.held() + cost).saturating_sub(max);
            state.bytes_max.map_or(0, over).min(state.held())
        };
        (over == 0 || self.give_up(over, durable) >= over) && self.room.take(cost, durable)
    }

    /// Lets the oldest batches go until so many bytes are free, none that is not durable; how many are free then.
    pub(super) fn give_up(&self, bytes: u64, durable: Lsn) -> u64 {
        let (mut freed, mut gone) = (0, GivenUp::default());
        let mut state = lock(&self.state);
        while freed < bytes
            && let Some(batch) = state.batches.pop_front_if(|batch| batch.lsn <= durable)
        {
            freed += batch.cost();
            gone.bytes += batch.bytes.len() as u64;
            gone.records += batch.end.since(batch.base.max(state.start));
            state.bytes -= batch.bytes.len() as u64;
            state.start = state.start.max(batch.end);
        }
        state.shrink();
        drop(state);
        if freed > 0 {
            self.room.gave_up(freed, gone);
        }
        freed
    }

    /// Takes in a batch for which there is room. It is durable with this LSN, or with that of the batch before if that is
    /// later; which of the two is returned.
    pub(super) fn append(&self, lsn: Lsn, placed: AppendedBatch<'_>) -> Lsn {
        let mut state = lock(&self.state);
        assert_eq!(
            placed.base, state.end,
            "offsets are assigned under the partition's lock"
        );
        let bytes = placed.batch.to_bytes();
        let header = placed.batch.header();
        let lsn = state.batches.back().map_or(lsn, |last| last.lsn.max(lsn));
        state.end = header.last_offset().next();
        state.bytes += bytes.len() as u64;
        let batch = StoredBatch {
            lsn,
            base: placed.base,
            end: state.end,
            append_time: placed.append_time,
            max_timestamp: header.max_timestamp,
            bytes,
        };
        state.batches.push_back(batch);
        lsn
    }

    /// From this step on the log begins here, once that is durable and [applied](Self::apply_trims).
    pub(super) fn trim(&self, lsn: Lsn, to: Offset) {
        let mut state = lock(&self.state);
        if to > state.end {
            assert!(
                state.batches.is_empty(),
                "a log with batches begins at most where it ends"
            );
            state.end = to;
        }
        state.trims.push((lsn, to));
    }

    /// Drops what lies wholly below the trims up to this step.
    pub(super) fn apply_trims(&self, upto: Lsn) {
        let mut state = lock(&self.state);
        let start = state.bounds(upto).log_start;
        state.trims.retain(|(lsn, _)| *lsn > upto);
        state.start = start;
        let below = state.batches.partition_point(|batch| batch.end <= start);
        let (mut bytes, mut freed) = (0, 0);
        for batch in state.batches.drain(..below) {
            bytes += batch.bytes.len() as u64;
            freed += batch.cost();
        }
        state.bytes -= bytes;
        state.shrink();
        drop(state);
        self.room.give_back(freed);
    }

    /// The partition does not exist any more. Nobody is woken: that is for when it is durable.
    pub(super) fn delete(&self) {
        let freed = {
            let mut state = lock(&self.state);
            let freed = state.held();
            state.gone = true;
            state.batches = VecDeque::new();
            state.bytes = 0;
            freed
        };
        self.room.give_back(freed);
        self.room.leave(self.key);
    }

    /// Wakes everybody who waits, once.
    pub(super) fn wake(&self) {
        let waiters = std::mem::take(&mut lock(&self.state).waiters);
        for waiter in waiters.iter().filter_map(Weak::upgrade) {
            waiter.notify_one();
        }
    }

    fn read_now(&self, spec: &ReadSpec) -> Result<ReadOut, ReadError> {
        let state = lock(&self.state);
        if state.gone {
            return Err(ReadError::NotOwner);
        }
        let bounds = state.bounds(spec.durable);
        if spec.from < bounds.log_start || spec.from > bounds.high_watermark {
            return Err(ReadError::OutOfRange(bounds));
        }
        let mut out = ReadOut {
            next: spec.from,
            ..ReadOut::default()
        };
        let mut copied = Vec::new();
        let first = state.batches.partition_point(|batch| batch.end <= spec.from);
        for batch in state.batches.range(first..) {
            let bytes = out.bytes + batch.bytes.len() as u64;
            let fits = bytes <= u64::from(spec.max_bytes) || (spec.min_one && out.bytes == 0);
            if batch.lsn > spec.durable || !fits {
                break;
            }
            if batch.bytes.len() < COPY_BELOW_BYTES {
                copied.extend_from_slice(&batch.bytes);
            } else {
                push_copied(&mut out, &mut copied);
                out.extents.push(batch.bytes.clone());
            }
            out.bytes = bytes;
            out.next = batch.end;
        }
        push_copied(&mut out, &mut copied);
        Ok(out)
    }

    /// Decompresses, so not for a thread that others wait for.
    fn find_now(&self, at: Timestamp, durable: Lsn) -> Result<Option<TimedOffset>, ReadError> {
        let mut from = Offset::ZERO;
        loop {
            // Looked into without the lock: appends go on meanwhile.
            let Some((start, batch)) = lock(&self.state).candidate(from, at, durable)? else {
                return Ok(None);
            };
            let found = BatchHeader::parse(&batch.bytes)
                .and_then(|header| find_in_batch(&header, &batch.bytes, start, at));
            match found {
                Ok(None) => from = batch.end,
                Ok(found) => return Ok(found),
                Err(_) => return Err(batch.damaged()),
            }
        }
    }
}

/// A batch of any kind of log.
#[derive(Clone, Copy, Debug)]
pub(super) struct AppendedBatch<'a> {
    base: Offset,
    batch: &'a crate::record::SealedBatch,
    append_time: Timestamp,
}

impl<'a, L> From<&'a Placed<L>> for AppendedBatch<'a> {
    fn from(placed: &'a Placed<L>) -> Self {
        Self {
            base: placed.base,
            batch: &placed.batch,
            append_time: placed.append_time,
        }
    }
}

fn push_copied(out: &mut ReadOut, copied: &mut Vec<u8>) {
    if !copied.is_empty() {
        out.extents.push(std::mem::take(copied).into());
    }
}

impl LogState {
    fn held(&self) -> u64 {
        self.bytes + self.batches.len() as u64 * BATCH_OVERHEAD_BYTES
    }

    fn bounds(&self, durable: Lsn) -> LogBounds {
        let visible = self.batches.partition_point(|batch| batch.lsn <= durable);
        let high_watermark = visible.checked_sub(1).and_then(|last| self.batches.get(last));
        let trimmed = self.trims.iter().filter(|(lsn, _)| *lsn <= durable);
        let log_start = trimmed.map(|(_, to)| *to).fold(self.start, Offset::max);
        LogBounds {
            log_start,
            high_watermark: high_watermark.map_or(log_start, |batch| batch.end.max(log_start)),
            log_end: self.end,
        }
    }

    fn append_time(&self, at: Offset) -> Option<Timestamp> {
        let first = self.batches.partition_point(|batch| batch.end <= at);
        let batch = self.batches.get(first).filter(|batch| batch.base <= at)?;
        Some(batch.append_time)
    }

    /// The first batch at or behind `from` that has a late enough record, and where the log begins.
    fn candidate(
        &self,
        from: Offset,
        at: Timestamp,
        durable: Lsn,
    ) -> Result<Option<(Offset, StoredBatch)>, ReadError> {
        if self.gone {
            return Err(ReadError::NotOwner);
        }
        let start = self.bounds(durable).log_start;
        let from = from.max(start);
        let first = self.batches.partition_point(|batch| batch.end <= from);
        let visible = self.batches.range(first..).take_while(|b| b.lsn <= durable);
        let mut late = visible.filter(|batch| batch.max_timestamp >= at);
        Ok(late.next().map(|batch| {
            let bytes = batch.bytes.clone();
            (start, StoredBatch { bytes, ..*batch })
        }))
    }

    fn summaries(&self) -> Vec<SegmentSummary> {
        let piece_bytes = self.bytes_max.map_or(0, |max| max / PIECES);
        let mut pieces: Vec<SegmentSummary> = Vec::new();
        for batch in &self.batches {
            match pieces.last_mut() {
                Some(piece) if piece.bytes < piece_bytes => {
                    piece.end = batch.end;
                    piece.bytes += batch.bytes.len() as u64;
                    piece.newest_append = batch.append_time;
                    piece.max_timestamp = piece.max_timestamp.max(batch.max_timestamp);
                }
                _ => pieces.push(batch.summary()),
            }
        }
        pieces
    }

    /// Gives back places of a ring that has become much smaller.
    fn shrink(&mut self) {
        let (len, capacity) = (self.batches.len(), self.batches.capacity());
        if capacity > PLACES_KEPT && len < capacity / 4 {
            self.batches.shrink_to((len * 2).max(PLACES_KEPT));
        }
    }
}

impl PartitionLog for MemoryLog {
    fn key(&self) -> PartitionKey {
        self.key
    }

    fn bounds(&self, durable: Lsn) -> LogBounds {
        lock(&self.state).bounds(durable)
    }

    fn stats(&self) -> LogStats {
        LogStats {
            size_bytes: lock(&self.state).bytes,
            segments: 0,
            quarantined: Vec::new(),
        }
    }

    fn segments(&self) -> Vec<SegmentSummary> {
        lock(&self.state).summaries()
    }

    fn try_read(&self, spec: &ReadSpec) -> Option<Result<ReadOut, ReadError>> {
        (!self.cold).then(|| self.read_now(spec))
    }

    fn read(self: Arc<Self>, spec: ReadSpec) -> BoxFuture<'static, Result<ReadOut, ReadError>> {
        Box::pin(async move { self.read_now(&spec) })
    }

    fn append_time(&self, at: Offset) -> Option<AppendTime> {
        let state = lock(&self.state);
        let time = state.append_time(at)?;
        if !self.cold {
            return Some(AppendTime::exactly(time));
        }
        Some(AppendTime {
            earliest: state.batches.front()?.append_time,
            latest: state.batches.back()?.append_time,
        })
    }

    fn find_append_time(&self, at: Offset) -> Result<Option<Timestamp>, ReadError> {
        let state = lock(&self.state);
        if state.gone {
            return Err(ReadError::NotOwner);
        }
        Ok(state.append_time(at))
    }

    fn find_timestamp(
        self: Arc<Self>,
        at: Timestamp,
        durable: Lsn,
    ) -> BoxFuture<'static, Result<Option<TimedOffset>, ReadError>> {
        Box::pin(async move {
            let slots = self.room.lookups();
            let _slot = slots.acquire_owned().await.map_err(|_| ReadError::NotOwner)?;
            let task = tokio::task::spawn_blocking(move || self.find_now(at, durable));
            task.await.map_err(|ended| ReadError::Io(ended.to_string()))?
        })
    }

    fn notify_on_append(&self, waiter: Weak<Notify>) {
        let mut state = lock(&self.state);
        // Who has gone away is forgotten when the list would grow, so that it is as long as there are waiters.
        if state.waiters.len() == state.waiters.capacity() {
            state.waiters.retain(|waiter| waiter.strong_count() > 0);
        }
        state.waiters.push(waiter);
        let gone = state.gone;
        drop(state);
        if gone {
            self.wake();
        }
    }
}
