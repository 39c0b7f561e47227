//! Where steps wait for the journal: taking them in is short, ordered, and decides their LSN.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use smallvec::SmallVec;

use super::blocks::CopiedBatch;
use super::buffers::BufferPool;
use super::group::{Held, OpenGroup, PendingBatch};
use super::log::{LIKE_IN_SEGMENT_FROM_BYTES, LocalLog};
use super::stats::{RollReason, Rolls};
use crate::model::Lsn;
use crate::planted::{self, Bug};
use crate::storage::{Placed, Step, SubmitError};

/// What the journal thread is woken for.
#[derive(Debug)]
pub(super) enum Work {
    /// A group to write.
    Group(OpenGroup),
    /// Nothing came for as long as was waited.
    Idle,
    /// Closed, and everything was taken.
    Closed,
}

#[derive(Debug)]
struct Inner {
    /// Groups that are not taken yet, oldest first.
    groups: VecDeque<OpenGroup>,
    /// Number of the next group to be opened.
    next: Lsn,
    poisoned: bool,
    closed: bool,
    /// The journal's thread waits for work, so that it has to be woken. While it writes it is not: a wake-up that nobody
    /// waits for is a system call all the same.
    awaited: bool,
}

impl Inner {
    /// The last group, if it has room for so many bytes more, or else a new one.
    fn group_for(&mut self, bytes: u64, bytes_max: u64) -> &mut OpenGroup {
        let last = self.groups.back();
        if last.is_none_or(|g| !g.is_empty() && g.payload_bytes + bytes > bytes_max) {
            self.groups.push_back(OpenGroup::new(self.next));
            self.next = self.next.next();
        }
        self.groups
            .back_mut()
            .expect("a group was opened if there was none")
    }
}

/// The queue in front of the journal.
#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    work: Condvar,
    group_bytes_max: u64,
    /// Segments closed. Most are by what is taken in here.
    pub(super) rolls: Rolls,
}

impl Queue {
    /// A queue whose first group has this number.
    pub(super) fn new(next: Lsn, group_bytes_max: u32) -> Self {
        let inner = Inner {
            groups: VecDeque::new(),
            next,
            poisoned: false,
            closed: false,
            awaited: false,
        };
        Self {
            inner: Mutex::new(inner),
            work: Condvar::new(),
            group_bytes_max: u64::from(group_bytes_max),
            rolls: Rolls::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panics while locked")
    }

    /// Takes a step in. Lock order: this queue, then the state of each log.
    pub(super) fn submit(
        &self,
        granted: u64,
        mut step: Step<LocalLog>,
        pool: &BufferPool,
    ) -> Result<Lsn, SubmitError> {
        let splits = planted::is(Bug::StepSplit);
        while splits && step.appends.len() > 1 {
            self.submit(0, Step::append(step.appends.remove(0)), pool)?;
        }
        // What takes time is done before the queue is locked. Where a batch will begin in a block is known by then.
        let prepared: SmallVec<[_; 1]> = step
            .appends
            .iter()
            .map(|placed| (placed.batch.whole_crc(), copied(placed, pool)))
            .collect();
        let bytes: u64 = step
            .appends
            .iter()
            .map(|p| u64::from(p.batch.total_bytes()))
            .sum();
        let mut inner = self.lock();
        if inner.poisoned || inner.closed {
            return Err(SubmitError::Poisoned);
        }
        // All or nothing: look at every log before the first is changed. Whoever deletes a partition holds its lock
        // above the engine, as the caller does, so nothing changes in between.
        let gone = |log: &LocalLog| log.is_deleted();
        if step.appends.iter().any(|p| gone(&p.log)) || step.trims.iter().any(|t| gone(&t.log)) {
            return Err(SubmitError::NotOwner);
        }
        let bytes_max = if splits { 0 } else { self.group_bytes_max };
        let group = inner.group_for(bytes, bytes_max);
        let lsn = group.lsn;
        group.granted += granted;
        for (placed, (crc, copied)) in step.appends.into_iter().zip(prepared) {
            let taken_in = placed.log.take_in(&placed, lsn, group.payload_bytes);
            if taken_in.ends_segment {
                self.rolls.count(RollReason::Size);
            }
            let length = placed.batch.total_bytes();
            group.payload_bytes = taken_in.position + u64::from(length);
            group.has_large |= length >= LIKE_IN_SEGMENT_FROM_BYTES;
            let append_time = placed.append_time;
            group.appends.push(PendingBatch {
                log: placed.log,
                base: placed.base,
                last: placed.batch.header().last_offset(),
                length,
                crc,
                starts_segment: taken_in.starts_segment,
                position: taken_in.position,
                append_time,
                bytes: match copied {
                    None => Held::Whole(placed.batch),
                    Some(copied) if copied.fits(taken_in.position) => Held::Copied(copied),
                    // The segment was closed meanwhile, or this is not the step's first batch of the partition.
                    Some(_) => Held::Copied(CopiedBatch::new(&placed.batch, taken_in.position, pool)),
                },
            });
        }
        for trim in step.trims {
            if trim.log.trim_from(lsn, trim.to) {
                self.rolls.count(RollReason::Emptied);
            }
            group.trims.push((trim.log, trim.to));
        }
        group.deletions.extend(step.deletions);
        let awaited = std::mem::take(&mut inner.awaited);
        drop(inner);
        if awaited {
            self.work.notify_one();
        }
        Ok(lsn)
    }

    /// The oldest group that waits, without waiting for one.
    pub(super) fn try_take(&self) -> Option<OpenGroup> {
        self.lock().groups.pop_front()
    }

    /// Opens an empty group of its own: the seal of the one before. `None` if something else came meanwhile.
    pub(super) fn open_seal(&self) -> Option<OpenGroup> {
        let mut inner = self.lock();
        if !inner.groups.is_empty() || inner.poisoned {
            return None;
        }
        let seal = OpenGroup::new(inner.next);
        inner.next = inner.next.next();
        Some(seal)
    }

    /// Waits for a group, at most this long; for ever without a limit.
    pub(super) fn wait(&self, at_most: Option<Duration>) -> Work {
        let mut inner = self.lock();
        loop {
            if let Some(group) = inner.groups.pop_front() {
                return Work::Group(group);
            }
            if inner.closed || inner.poisoned {
                return Work::Closed;
            }
            inner.awaited = true;
            match at_most {
                None => inner = self.work.wait(inner).expect("no panics while locked"),
                Some(limit) => {
                    let (guard, timeout) = self
                        .work
                        .wait_timeout(inner, limit)
                        .expect("no panics while locked");
                    inner = guard;
                    if timeout.timed_out() && inner.groups.is_empty() && !inner.closed {
                        return Work::Idle;
                    }
                }
            }
        }
    }

    /// The last number that was given out.
    pub(super) fn last_submitted(&self) -> Lsn {
        Lsn(self.lock().next.0 - 1)
    }

    /// Takes nothing in any more; what is there is still written.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_all();
    }

    /// Takes nothing in any more and forgets what is there: its fate is unknown.
    pub(super) fn poison(&self) {
        let mut inner = self.lock();
        inner.poisoned = true;
        let forgotten = std::mem::take(&mut inner.groups);
        drop(inner);
        drop(forgotten);
        self.work.notify_all();
    }
}

/// The copy of a batch that is large enough for one.
fn copied(placed: &Placed<LocalLog>, pool: &BufferPool) -> Option<CopiedBatch> {
    let length = placed.batch.total_bytes();
    (length >= LIKE_IN_SEGMENT_FROM_BYTES).then(|| {
        let position = placed.log.next_position(length);
        CopiedBatch::new(&placed.batch, position, pool)
    })
}
