//! What a partition decides: whether a batch is next, a duplicate or out of order, and which offsets it gets.
//!
//! Pure: time comes in as an argument, nothing is locked, read or written here. Knows neither the engine nor requests.
//! Source of the rules: KIP-98, KIP-360; `docs/guarantees.md`, P1 and P2.
#![deny(clippy::wildcard_enum_match_arm)]

mod producers;
mod retention;
mod snapshot;
#[cfg(test)]
mod tests;

pub use producers::{PRODUCER_IDLE_MS_MAX, PRODUCERS_REMEMBERED_MAX, ProducerLimits, WINDOW_BATCHES};
pub use retention::{Cause, ClockGuard, NextDeletion, RetainedSegment, Retention, Trust, When, due, next};
pub use snapshot::SnapshotError;

use self::producers::{Judgement, ProducerTable};
use crate::model::{LeaderEpoch, Lsn, Offset, ProducerEpoch, Sequence, Timestamp};
use crate::planted::{self, Bug};
use crate::record::BatchHeader;

/// Everything that decides about the next batch of one partition.
#[derive(Clone, Debug)]
pub struct PartitionState {
    next: Offset,
    leader_epoch: LeaderEpoch,
    last_append: Timestamp,
    producers: ProducerTable,
}

/// What is to be done with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Append it at this offset; then call [`PartitionState::appended`].
    Append {
        /// Offset of its first record.
        base: Offset,
        /// Its append time: the time given, unless the clock went back.
        append_time: Timestamp,
    },
    /// It is one of the remembered batches: answer with the original's place once the original is durable.
    Duplicate {
        /// Offset of the original's first record.
        base: Offset,
        /// Offset of its last record.
        last: Offset,
        /// When the original was appended.
        append_time: Timestamp,
        /// The group the original is in; [`Lsn::ZERO`] if it was durable before the start.
        lsn: Lsn,
    },
    /// It was appended before the remembered batches; its place is forgotten.
    DuplicateOld {
        /// It is durable when this group is: the one of the oldest batch that is remembered.
        lsn: Lsn,
    },
}

/// Why a batch is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It neither follows the last batch of its producer nor repeats one.
    #[error("sequence {got} does not follow: {expected} is next")]
    OutOfOrder {
        /// The sequence that would have been right.
        expected: Sequence,
        /// The first sequence of the batch.
        got: Sequence,
    },
    /// A newer epoch of this producer has written here.
    #[error("producer epoch {got} is fenced by epoch {current}")]
    StaleEpoch {
        /// The epoch in force.
        current: ProducerEpoch,
        /// The epoch of the batch.
        got: ProducerEpoch,
    },
}

impl PartitionState {
    /// An empty partition.
    pub fn new(limits: ProducerLimits) -> Self {
        Self {
            next: Offset::ZERO,
            leader_epoch: LeaderEpoch::default(),
            last_append: Timestamp(i64::MIN),
            producers: ProducerTable::new(limits),
        }
    }

    /// Takes over a log that ends at `next`, with the epoch that is stamped into batches from now on.
    ///
    /// The log's own end wins over what replay added up: a quarantined range leaves a gap that only the log knows.
    pub fn lead(&mut self, next: Offset, epoch: LeaderEpoch) {
        self.next = next;
        self.leader_epoch = epoch;
    }

    /// The next offset to be assigned.
    pub fn next_offset(&self) -> Offset {
        self.next
    }

    /// The epoch that is stamped into batches.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// The append time of a batch that is appended now.
    ///
    /// A clock that went back does not take the append times of a partition back with it.
    pub fn append_time(&self, now: Timestamp) -> Timestamp {
        now.max(self.last_append)
    }

    /// How many producers are remembered.
    pub fn producers(&self) -> usize {
        self.producers.len()
    }

    /// Forgets producers that have not appended for too long. Whoever appends does so, too; this is for quiet partitions.
    pub fn expire(&mut self, now: Timestamp) {
        let now = self.append_time(now);
        self.producers.expire(now);
    }

    /// Decides about a batch. Only forgets producers that were idle for too long; changes nothing else.
    ///
    /// # Errors
    /// The batch breaks the order of its producer.
    pub fn sequence(&mut self, now: Timestamp, header: &BatchHeader) -> Result<Decision, Refusal> {
        let append_time = self.append_time(now);
        self.producers.expire(append_time);
        let base = self.next;
        match self.producers.judge(header)? {
            Judgement::Next => Ok(Decision::Append { base, append_time }),
            Judgement::Repeats(original) => Ok(Decision::Duplicate {
                base: original.base,
                last: original.last_offset(),
                append_time: original.append_time,
                lsn: original.lsn,
            }),
            Judgement::RepeatsForgotten { lsn } => Ok(Decision::DuplicateOld { lsn }),
        }
    }

    /// Books a batch that was handed to the engine; `header` is as stamped, `lsn` the group it went into.
    pub fn appended(&mut self, header: &BatchHeader, append_time: Timestamp, lsn: Lsn) {
        self.last_append = append_time.max(self.last_append);
        self.next = header.last_offset().next();
        self.producers.expire(self.last_append);
        self.producers.remember(header, append_time, lsn);
    }

    /// Books a batch that recovery found: the same, without a decision, and durable already.
    ///
    /// A batch below what is booked already is passed over, so replay may begin earlier than it needs to.
    pub fn replayed(&mut self, header: &BatchHeader, append_time: Timestamp) {
        if header.base_offset >= self.next {
            let mut header = *header;
            if planted::is(Bug::SequenceNotReplayed) {
                header.producer = None;
            }
            self.appended(&header, append_time, Lsn::ZERO);
        }
    }
}
