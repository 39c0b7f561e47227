//! The scrub: all segments are read again and again, slowly, so that rot in what nobody reads is found while there is a backup.
//!
//! [`Pace`] decides when the next piece is due; [`Scrub::round`] reads one. What is damaged is fenced off as a read would. A
//! piece is dropped from the page cache before it is read, or the cache would hide what the disk has, and behind it, or it
//! would push out what readers need. The broker's own partitions are left out: their segments below the snapshot are read by
//! nobody. `docs/operations.md`, "Damage".

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::damage::{Place, Whole};
use super::engine::Engine;
use super::fence::{beginning, place_of};
use super::inspect::IndexWalk;
use super::log::{LocalLog, SegmentMeta};
use super::paths;
use super::read::{Step, Walk};
use crate::disk::{DiskFile, Mode, drop_pages};
use crate::model::{Offset, PartitionKey, Timestamp};
use crate::record::outer_crc;

/// Read at once: a stop waits for no more, and readers for little.
const PIECE_BYTES: u64 = 256 << 10;
/// A start has other things to do first.
const FIRST_AFTER: Duration = Duration::from_secs(600);
/// After a disk that gave nothing.
const AGAIN_AFTER: Duration = Duration::from_secs(3600);

/// When what is read. Knows the time only as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    interval: Duration,
    bytes_per_second: u64,
    /// When the next pass begins.
    pass_at: Duration,
    /// When the next piece is due.
    piece_at: Duration,
}

impl Pace {
    /// `None`: nothing is ever scrubbed.
    pub(super) fn new(interval: Duration, bytes_per_second: u64, now: Duration) -> Option<Self> {
        let first = now.saturating_add(interval.min(FIRST_AFTER));
        (!interval.is_zero()).then_some(Self {
            interval,
            bytes_per_second: bytes_per_second.max(1),
            pass_at: first,
            piece_at: first,
        })
    }

    /// Whether a pass begins now. If so, the next one is due an interval later, however long this one takes.
    fn begins_pass(&mut self, now: Duration) -> bool {
        let begins = now >= self.pass_at;
        if begins {
            self.pass_at = now.saturating_add(self.interval);
        }
        begins
    }

    /// Notes bytes that were read. What could not be read in time is not caught up with.
    fn note(&mut self, bytes: u64, now: Duration) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let took = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.piece_at = self.piece_at.max(now).saturating_add(took);
    }

    /// How long nothing is due.
    fn rest(&self, in_pass: bool, now: Duration) -> Duration {
        let next = if in_pass {
            self.piece_at
        } else {
            self.pass_at.max(self.piece_at)
        };
        next.saturating_sub(now)
    }

    /// Begins anew later: nothing could be read.
    fn put_off(&mut self, now: Duration) {
        self.pass_at = now.saturating_add(self.interval.min(AGAIN_AFTER));
    }
}

/// What the scrub has counted.
#[derive(Debug, Default)]
pub(super) struct ScrubCounts {
    bytes: AtomicU64,
    damaged: AtomicU64,
    index_errors: AtomicU64,
    passes: AtomicU64,
    last_pass_ms: AtomicI64,
}

/// What the scrub has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubNow {
    /// Bytes of segments read.
    pub bytes: u64,
    /// Damaged ranges that nobody had found before.
    pub damaged: u64,
    /// Entries of indexes that do not hold or do not fit their batches.
    pub index_errors: u64,
    /// Passes over everything that came to an end.
    pub passes: u64,
    /// When the last of them did.
    pub last_pass: Option<Timestamp>,
}

impl ScrubCounts {
    pub(super) fn now(&self) -> ScrubNow {
        // In the order in which the end of a pass writes the two.
        let passes = self.passes.load(Ordering::Acquire);
        let last_pass = Timestamp(self.last_pass_ms.load(Ordering::Relaxed));
        ScrubNow {
            bytes: self.bytes.load(Ordering::Relaxed),
            damaged: self.damaged.load(Ordering::Relaxed),
            index_errors: self.index_errors.load(Ordering::Relaxed),
            passes,
            last_pass: (passes > 0).then_some(last_pass),
        }
    }
}

/// Lets the scrub's thread rest, and wakes it to end.
#[derive(Debug, Default)]
pub(super) struct Rest {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Rest {
    /// Rests for so long; true if the scrub is to end, and at once then.
    pub(super) fn rest(&self, time: Duration) -> bool {
        let stopped = self.stopped.lock().expect("no panics while locked");
        let rested = self
            .changed
            .wait_timeout_while(stopped, time, |stopped| !*stopped);
        *rested.expect("no panics while locked").0
    }

    pub(super) fn stop(&self) {
        *self.stopped.lock().expect("no panics while locked") = true;
        self.changed.notify_all();
    }
}

/// A segment that is being read.
#[derive(Debug)]
struct Opened {
    log: Arc<LocalLog>,
    segment: SegmentMeta,
    file: Box<dyn DiskFile>,
    index: Option<Box<dyn DiskFile>>,
}

/// How far it is read.
#[derive(Debug)]
struct Current {
    of: Opened,
    /// The next batch.
    at: Place,
    /// The next entry of the index.
    entry: u64,
    index_errors: u64,
}

/// A pass over all segments.
#[derive(Debug)]
struct Pass {
    begun: Duration,
    before: ScrubNow,
    partitions: VecDeque<PartitionKey>,
    /// The partition that is being read, and up to where it was.
    partition: Option<(Arc<LocalLog>, Offset)>,
    current: Option<Current>,
}

/// The scrub of an engine.
#[derive(Debug)]
pub(super) struct Scrub {
    engine: Arc<Engine>,
    pace: Option<Pace>,
    pass: Option<Pass>,
}

impl Scrub {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        let settings = &engine.settings;
        let now = engine.clock.mono();
        let pace = Pace::new(settings.scrub_interval, settings.scrub_bytes_per_second, now);
        Self {
            engine,
            pace,
            pass: None,
        }
    }

    /// Does what is due: at most one piece. Returns how long nothing is; `None`: nothing ever will be.
    pub(super) fn round(&mut self) -> Option<Duration> {
        let pace = self.pace.as_mut()?;
        let now = self.engine.clock.mono();
        if self.pass.is_none() && pace.begins_pass(now) {
            self.pass = Some(Pass::begin(&self.engine, now));
        }
        if let Some(pass) = &mut self.pass
            && pace.rest(true, now).is_zero()
        {
            match pass.piece(&self.engine) {
                Ok(Some(bytes)) => {
                    self.engine.scrubbed.bytes.fetch_add(bytes, Ordering::Relaxed);
                    pace.note(bytes, now);
                }
                Ok(None) => {
                    pass.end(&self.engine);
                    self.pass = None;
                }
                Err(error) => {
                    tracing::warn!(event = "scrub_failed", error = %error, "the disk gives nothing; segments are scrubbed later");
                    pace.put_off(now);
                    self.pass = None;
                }
            }
        }
        Some(pace.rest(self.pass.is_some(), self.engine.clock.mono()))
    }
}

impl Pass {
    fn begin(engine: &Engine, now: Duration) -> Self {
        let partitions = engine.logs();
        let partitions = partitions.keys().copied().filter(|key| !key.topic.is_internal());
        Self {
            begun: now,
            before: engine.scrubbed.now(),
            partitions: partitions.collect(),
            partition: None,
            current: None,
        }
    }

    /// Reads the next piece; `None` at the end.
    fn piece(&mut self, engine: &Engine) -> io::Result<Option<u64>> {
        let mut current = match self.current.take() {
            Some(current) => current,
            None => match self.next_segment(engine) {
                Some(current) => current,
                None => return Ok(None),
            },
        };
        let bytes = current.piece(&engine.scrubbed)?;
        if current.is_done() {
            current.end(&engine.scrubbed);
        } else {
            self.current = Some(current);
        }
        Ok(Some(bytes))
    }

    /// The next segment that can be opened. What was appended since the pass began is read as well.
    fn next_segment(&mut self, engine: &Engine) -> Option<Current> {
        loop {
            let Some((log, upto)) = self.partition.take() else {
                let key = self.partitions.pop_front()?;
                let log = engine.logs().get(&key).cloned();
                self.partition = log.map(|log| (log, Offset::ZERO));
                continue;
            };
            let next = {
                let state = log.state();
                let mut there = state.segments.iter().filter(|s| s.bytes > 0 && s.end > upto);
                there.next().copied()
            };
            let Some(segment) = next else {
                continue;
            };
            self.partition = Some((Arc::clone(&log), segment.end));
            match Current::open(engine, &log, segment) {
                Ok(current) => return Some(current),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let news = u64::from(log.file_is_missing(&segment));
                    engine.scrubbed.damaged.fetch_add(news, Ordering::Relaxed);
                }
                Err(error) => {
                    tracing::warn!(event = "scrub_failed", error = %error, "a segment could not be opened to be scrubbed");
                }
            }
        }
    }

    fn end(&self, engine: &Engine) {
        let counts = &engine.scrubbed;
        counts
            .last_pass_ms
            .store(engine.clock.wall().0, Ordering::Relaxed);
        counts.passes.fetch_add(1, Ordering::Release);
        let now = counts.now();
        tracing::info!(
            event = "scrub_finished",
            bytes = now.bytes - self.before.bytes,
            damaged_ranges = now.damaged - self.before.damaged,
            index_errors = now.index_errors - self.before.index_errors,
            seconds = engine.clock.mono().saturating_sub(self.begun).as_secs(),
            "all segments were scrubbed"
        );
    }
}

impl Current {
    fn open(engine: &Engine, log: &Arc<LocalLog>, segment: SegmentMeta) -> io::Result<Self> {
        let key = log.partition();
        // Handles of its own: those of the readers stay open for them.
        let file = engine
            .disk
            .open(&paths::segment(key, segment.base), Mode::Buffered)?;
        let index = engine.disk.open(&paths::index(key, segment.base), Mode::Buffered);
        let index = index.ok().inspect(|index| drop_pages(&**index, 0, u64::MAX));
        let of = Opened {
            log: Arc::clone(log),
            segment,
            file,
            index,
        };
        Ok(Self {
            at: beginning(&of.segment),
            of,
            entry: 0,
            index_errors: 0,
        })
    }

    fn is_done(&self) -> bool {
        self.at.offset >= self.of.segment.end
    }

    /// Checks the batches of the next piece; one that is larger is a piece of its own. Returns their bytes.
    fn piece(&mut self, counts: &ScrubCounts) -> io::Result<u64> {
        let Opened {
            log, segment, file, ..
        } = &self.of;
        let from = self.at.position;
        drop_pages(&**file, from, PIECE_BYTES);
        let piece_bytes = usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX);
        let walk = Walk::new(&**file, log.reads().buffers(), *segment, from, piece_bytes);
        let mut walk = walk.counted_by(log.reads());
        let mut index = self.of.index_from(self.entry);
        while self.at.offset < segment.end && self.at.position - from < PIECE_BYTES {
            let Some(whole) = self.of.next_batch(&mut walk, self.at, counts)? else {
                self.at = end_of(segment);
                break;
            };
            if let Some(index) = &mut index {
                if whole.place != self.at {
                    // What points into damage cannot be compared with anything.
                    index.skip_to(whole.place.position);
                }
                self.index_errors += misfits(index, &whole);
            }
            self.at = whole.behind();
            walk.position = self.at.position;
        }
        if let Some(index) = index {
            self.entry = index.place();
            self.index_errors += index.damaged_entries();
        }
        let read = self.at.position - from;
        drop_pages(&**file, from, read);
        Ok(read)
    }

    /// Tells what the index is like.
    fn end(self, counts: &ScrubCounts) {
        if self.index_errors == 0 {
            return;
        }
        counts
            .index_errors
            .fetch_add(self.index_errors, Ordering::Relaxed);
        tracing::warn!(
            event = "index_damaged",
            file = %paths::index(self.of.log.partition(), self.of.segment.base),
            entries = self.index_errors,
            "entries of an index do not hold or do not fit their batches; reading does without them"
        );
    }
}

impl Opened {
    fn index_from(&self, entry: u64) -> Option<IndexWalk<'_>> {
        let index = IndexWalk::new(self.index.as_deref()?, self.segment.bytes).ok()?;
        Some(index.beginning_with(entry))
    }

    /// The batch at a place, or the next whole one behind damage, which is fenced off; `None`: only damage is left.
    fn next_batch(&self, walk: &mut Walk<'_>, at: Place, counts: &ScrubCounts) -> io::Result<Option<Whole>> {
        if walk.is_larger_than(PIECE_BYTES, at.offset).unwrap_or(false) {
            drop_pages(&*self.file, at.position, self.segment.bytes - at.position);
            walk.forget_piece();
        }
        let trouble = match walk.checked_step(at.offset, Offset::ZERO) {
            Ok(Step::Batch(header, bytes)) => {
                return Ok(Some(Whole {
                    place: at,
                    header,
                    bytes,
                }));
            }
            trouble => trouble.err(),
        };
        let found = self
            .log
            .look_closer(&*self.file, &self.segment, at, at.offset, trouble)?;
        counts.damaged.fetch_add(found.news, Ordering::Relaxed);
        walk.go_to(found.whole.as_ref().map_or(at.position, |w| w.place.position));
        Ok(found.whole)
    }
}

fn end_of(segment: &SegmentMeta) -> Place {
    Place {
        position: segment.bytes,
        offset: segment.end,
    }
}

/// Entries up to a batch that say something else than the batch at their place.
fn misfits(index: &mut IndexWalk<'_>, whole: &Whole) -> u64 {
    let outer = whole.bytes.first_chunk().map(outer_crc);
    let mut wrong = 0;
    while let Some((_, entry)) = index.peek() {
        if u64::from(entry.position) > whole.place.position {
            break;
        }
        index.advance();
        let fits = place_of(&entry) == whole.place && Some(entry.outer_crc) == outer;
        wrong += u64::from(!fits);
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn passes_begin_an_interval_apart_and_the_first_one_soon() {
        assert_eq!(Pace::new(Duration::ZERO, 1, SECOND), None);
        let week = 7 * 24 * 3600 * SECOND;
        let mut pace = Pace::new(week, 1 << 20, SECOND).unwrap();
        assert_eq!(pace.rest(false, SECOND), FIRST_AFTER);
        assert!(!pace.begins_pass(FIRST_AFTER));
        assert!(pace.begins_pass(FIRST_AFTER + 2 * SECOND));
        assert_eq!(pace.rest(false, FIRST_AFTER + 2 * SECOND), week);
        // Nothing could be read: not only a week later.
        pace.put_off(week);
        assert_eq!(pace.rest(false, week), AGAIN_AFTER);
        // One that takes longer than the interval is followed by the next at once.
        assert!(pace.begins_pass(5 * week));
        assert_eq!(Pace::new(SECOND, 1, SECOND).unwrap().rest(false, SECOND), SECOND);
    }

    #[test]
    fn pieces_keep_the_rate_and_what_was_late_is_not_caught_up_with() {
        let mut pace = Pace::new(SECOND, 1 << 20, Duration::ZERO).unwrap();
        let mut now = SECOND;
        for _ in 0..8 {
            assert_eq!(pace.rest(true, now), Duration::ZERO);
            pace.note(256 << 10, now);
            assert_eq!(pace.rest(true, now), SECOND / 4);
            now += SECOND / 4;
        }
        // The disk, or the machine, stood still for a minute.
        now += 60 * SECOND;
        pace.note(1 << 20, now);
        assert_eq!(pace.rest(true, now), SECOND);
        pace.note(u64::MAX, now);
        assert!(pace.rest(true, now) > 1000 * SECOND);
    }

    #[test]
    fn rest_ends_at_once_when_the_scrub_is_to_end() {
        let rest = Arc::new(Rest::default());
        assert!(!rest.rest(Duration::ZERO));
        let resting = Arc::clone(&rest);
        let thread = std::thread::spawn(move || resting.rest(3600 * SECOND));
        rest.stop();
        assert!(thread.join().unwrap());
        assert!(rest.rest(3600 * SECOND));
    }
}
