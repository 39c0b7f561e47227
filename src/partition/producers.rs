//! The table of idempotent producers of one partition.
//!
//! Knows sequences, epochs and when to forget; not what a batch contains or where it is stored.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::Refusal;
use crate::model::{Lsn, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use crate::record::BatchHeader;

/// How many batches per producer are remembered with their places, and so how many a client may have in flight.
/// Source: KIP-98.
pub const WINDOW_BATCHES: usize = 5;

/// Default of [`ProducerLimits::idle_ms_max`]: 7 days.
pub const PRODUCER_IDLE_MS_MAX: i64 = 7 * 24 * 60 * 60 * 1000;

/// Default of [`ProducerLimits::count_max`].
pub const PRODUCERS_REMEMBERED_MAX: usize = 100_000;

/// More than half of the sequence space cannot be told from the future.
const KNOWN_RECORDS_MAX: u32 = 1 << 30;

/// Size of the sequence space. Source: KIP-98.
const SEQUENCE_SPACE: i64 = 1 << 31;

/// When producers are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerLimits {
    /// Most producers remembered per partition; beyond, the one that has not appended for longest goes.
    pub count_max: usize,
    /// A producer is forgotten so many ms after its last append.
    pub idle_ms_max: i64,
}

impl Default for ProducerLimits {
    fn default() -> Self {
        Self {
            count_max: PRODUCERS_REMEMBERED_MAX,
            idle_ms_max: PRODUCER_IDLE_MS_MAX,
        }
    }
}

/// A batch with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) first: Sequence,
    pub(super) last: Sequence,
    pub(super) base: Offset,
    pub(super) append_time: Timestamp,
    pub(super) lsn: Lsn,
}

impl Remembered {
    /// One sequence per record, one offset per record: the last offset follows.
    pub(super) fn last_offset(&self) -> Offset {
        self.base
            .checked_add(distance(self.first, self.last))
            .unwrap_or(self.base)
    }
}

/// What is known of one producer.
// Invariant: `batches` is not empty; the batches follow each other without a gap.
#[derive(Clone, Debug)]
pub(super) struct Producer {
    pub(super) epoch: ProducerEpoch,
    pub(super) last_append: Timestamp,
    /// Records up to the newest that were surely appended in this epoch, without a gap. What lies before them may have
    /// been refused, so a batch from there must not be called a duplicate.
    pub(super) known_records: u32,
    /// Oldest first.
    pub(super) batches: SmallVec<[Remembered; WINDOW_BATCHES]>,
    /// Key in `ProducerTable::by_age`.
    age: u64,
}

/// Verdict on a batch in the order of its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It is next, or there is no producer to keep in order.
    Next,
    /// It is this one again.
    Repeats(Remembered),
    /// It lies before the remembered ones, in or before the group of the oldest of them.
    RepeatsForgotten { lsn: Lsn },
}

/// All producers of one partition.
// Invariant: `by_age` holds each producer once, under its `age`, in the order of the last appends.
#[derive(Clone, Debug)]
pub(super) struct ProducerTable {
    limits: ProducerLimits,
    producers: BTreeMap<ProducerId, Producer>,
    by_age: BTreeMap<u64, ProducerId>,
    next_age: u64,
}

impl ProducerTable {
    pub(super) fn new(limits: ProducerLimits) -> Self {
        Self {
            limits,
            producers: BTreeMap::new(),
            by_age: BTreeMap::new(),
            next_age: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.producers.len()
    }

    /// Judges a batch; changes nothing.
    pub(super) fn judge(&self, header: &BatchHeader) -> Result<Judgement, Refusal> {
        let Some((id, epoch, first)) = header.producer else {
            return Ok(Judgement::Next);
        };
        // Nothing is known of this producer: forgotten, trimmed away or new. Any sequence is right, because refusing
        // would end producers for ever that were merely quiet for a week. Source: KIP-360.
        let Some(producer) = self.producers.get(&id) else {
            return Ok(Judgement::Next);
        };
        if epoch < producer.epoch {
            return Err(Refusal::StaleEpoch {
                current: producer.epoch,
                got: epoch,
            });
        }
        if epoch > producer.epoch {
            return if first == Sequence::ZERO {
                Ok(Judgement::Next)
            } else {
                Err(Refusal::OutOfOrder {
                    expected: Sequence::ZERO,
                    got: first,
                })
            };
        }
        producer.judge(first, header.last_offset_delta)
    }

    /// Books a batch that was appended.
    pub(super) fn remember(&mut self, header: &BatchHeader, append_time: Timestamp, lsn: Lsn) {
        let Some((id, epoch, first)) = header.producer else {
            return;
        };
        let batch = Remembered {
            first,
            last: first.plus(header.last_offset_delta),
            base: header.base_offset,
            append_time,
            lsn,
        };
        let records = header.last_offset_delta.saturating_add(1);
        let before = self.remove(id);
        let producer = match before {
            Some(mut known) if known.epoch == epoch && known.next() == first => {
                known.push(batch, records);
                known
            }
            // A new epoch, or a batch that was taken although nothing was known: what was before counts no more.
            Some(_) | None => Producer {
                epoch,
                last_append: append_time,
                known_records: records.min(KNOWN_RECORDS_MAX),
                batches: SmallVec::from_iter([batch]),
                age: 0,
            },
        };
        self.insert(id, producer);
    }

    /// Adds a producer as the one that appended last; forgets the oldest beyond the limit.
    pub(super) fn insert(&mut self, id: ProducerId, mut producer: Producer) {
        producer.age = self.next_age;
        self.next_age += 1;
        self.by_age.insert(producer.age, id);
        self.producers.insert(id, producer);
        while self.producers.len() > self.limits.count_max.max(1) {
            self.forget_oldest();
        }
    }

    /// Forgets who has not appended for too long.
    pub(super) fn expire(&mut self, now: Timestamp) {
        while let Some((_, id)) = self.by_age.first_key_value() {
            let idle = self
                .producers
                .get(id)
                .map_or(i64::MAX, |p| now.0.saturating_sub(p.last_append.0));
            if idle <= self.limits.idle_ms_max {
                return;
            }
            self.forget_oldest();
        }
    }

    /// All producers, the one that has not appended for longest first.
    pub(super) fn oldest_first(&self) -> impl Iterator<Item = (ProducerId, &Producer)> {
        self.by_age
            .values()
            .filter_map(|id| self.producers.get(id).map(|p| (*id, p)))
    }

    fn remove(&mut self, id: ProducerId) -> Option<Producer> {
        let producer = self.producers.remove(&id)?;
        self.by_age.remove(&producer.age);
        Some(producer)
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.by_age.pop_first() {
            self.producers.remove(&id);
        }
    }
}

impl Producer {
    /// A producer as it was stored.
    pub(super) fn restored(
        epoch: ProducerEpoch,
        last_append: Timestamp,
        known_records: u32,
        batches: SmallVec<[Remembered; WINDOW_BATCHES]>,
    ) -> Self {
        Self {
            epoch,
            last_append,
            known_records: known_records.min(KNOWN_RECORDS_MAX),
            batches,
            age: 0,
        }
    }

    /// The sequence that follows the newest batch.
    fn next(&self) -> Sequence {
        self.batches
            .last()
            .map_or(Sequence::ZERO, |newest| newest.last.next())
    }

    fn judge(&self, first: Sequence, last_offset_delta: u32) -> Result<Judgement, Refusal> {
        let next = self.next();
        if first == next {
            return Ok(Judgement::Next);
        }
        let last = first.plus(last_offset_delta);
        let same = self.batches.iter().find(|b| b.first == first && b.last == last);
        if let Some(original) = same {
            return Ok(Judgement::Repeats(*original));
        }
        // How far before `next` the batch begins and ends. Only what lies wholly between the first record that is known
        // and the oldest batch that is remembered was surely appended; an overlap is no duplicate.
        let begins = distance(first, next);
        let ends = begins.checked_sub(last_offset_delta.saturating_add(1));
        if let Some(oldest) = self.batches.first()
            && begins <= self.known_records
            && ends.is_some_and(|ends| ends >= distance(oldest.first, next))
        {
            return Ok(Judgement::RepeatsForgotten { lsn: oldest.lsn });
        }
        Err(Refusal::OutOfOrder {
            expected: next,
            got: first,
        })
    }

    fn push(&mut self, batch: Remembered, records: u32) {
        if self.batches.len() == WINDOW_BATCHES {
            self.batches.remove(0);
        }
        self.last_append = batch.append_time;
        self.batches.push(batch);
        self.known_records = self.known_records.saturating_add(records).min(KNOWN_RECORDS_MAX);
    }
}

/// How many sequences lie from `from` forward to `to`, around the wrap: 0 to 2^31 - 1.
pub(super) fn distance(from: Sequence, to: Sequence) -> u32 {
    let forward = (i64::from(to.0) - i64::from(from.0)).rem_euclid(SEQUENCE_SPACE);
    u32::try_from(forward).expect("a remainder by 2^31 fits 32 bits")
}
