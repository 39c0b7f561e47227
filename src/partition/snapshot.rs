//! Producer state as it is kept in a checkpoint: `naru.internal.v1.ProducerSnapshot`.
//!
//! LSNs are not stored: what a checkpoint knows is durable.

use bytes::Bytes;
use prost::Message;
use smallvec::SmallVec;

use super::PartitionState;
use super::producers::{Producer, ProducerLimits, ProducerTable, Remembered, WINDOW_BATCHES, distance};
use crate::model::{LeaderEpoch, Lsn, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use crate::pb::internal::{ProducerEntry, ProducerSnapshot, RememberedBatch};

/// Stored producers that cannot be: the checkpoint was written by a newer or a broken broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes are no message.
    #[error("the stored producers are no message")]
    Malformed(#[from] prost::DecodeError),
    /// An entry contradicts itself.
    #[error("producer {producer_id} is stored with {what}")]
    Producer {
        /// Which one.
        producer_id: i64,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl PartitionState {
    /// The producers that are remembered, as bytes for a checkpoint; `None` if there are none.
    pub fn to_stored(&self) -> Option<Bytes> {
        self.snapshot().map(|producers| producers.encode_to_vec().into())
    }

    /// The state as of offset `covers`, from the bytes of a checkpoint.
    ///
    /// # Errors
    /// Says what cannot be.
    pub fn from_stored(limits: ProducerLimits, covers: Offset, stored: Bytes) -> Result<Self, SnapshotError> {
        Self::restore(limits, covers, &ProducerSnapshot::decode(stored)?)
    }

    /// The producers that are remembered; `None` if there are none.
    pub(super) fn snapshot(&self) -> Option<ProducerSnapshot> {
        let producers: Vec<_> = self
            .producers
            .oldest_first()
            .map(|(id, producer)| stored(id, producer))
            .collect();
        (!producers.is_empty()).then_some(ProducerSnapshot { producers })
    }

    /// The state as of offset `covers`.
    ///
    /// # Errors
    /// An entry contradicts itself.
    pub(super) fn restore(
        limits: ProducerLimits,
        covers: Offset,
        snapshot: &ProducerSnapshot,
    ) -> Result<Self, SnapshotError> {
        let mut producers = ProducerTable::new(limits);
        let mut last_append = Timestamp(i64::MIN);
        for entry in &snapshot.producers {
            let producer = restored(entry).map_err(|what| SnapshotError::Producer {
                producer_id: entry.producer_id,
                what,
            })?;
            last_append = last_append.max(producer.last_append);
            producers.insert(ProducerId(entry.producer_id), producer);
        }
        Ok(Self {
            next: covers,
            leader_epoch: LeaderEpoch::default(),
            last_append,
            producers,
        })
    }
}

fn stored(id: ProducerId, producer: &Producer) -> ProducerEntry {
    ProducerEntry {
        producer_id: id.0,
        producer_epoch: i32::from(producer.epoch.0),
        last_append_ms: producer.last_append.0,
        batches: producer
            .batches
            .iter()
            .map(|batch| RememberedBatch {
                first_sequence: batch.first.0,
                last_sequence: batch.last.0,
                base_offset: batch.base.get(),
                append_time: batch.append_time.0,
            })
            .collect(),
        known_records: producer.known_records,
    }
}

fn restored(entry: &ProducerEntry) -> Result<Producer, &'static str> {
    let epoch = i16::try_from(entry.producer_epoch)
        .ok()
        .filter(|epoch| *epoch >= 0)
        .ok_or("an epoch out of range")?;
    if entry.producer_id < 0 {
        return Err("a negative id");
    }
    if entry.batches.is_empty() || entry.batches.len() > WINDOW_BATCHES {
        return Err("no or too many batches");
    }
    let mut batches: SmallVec<[Remembered; WINDOW_BATCHES]> = SmallVec::new();
    for batch in &entry.batches {
        if batch.first_sequence < 0 || batch.last_sequence < 0 {
            return Err("a negative sequence");
        }
        let first = Sequence(batch.first_sequence);
        if batches.last().is_some_and(|before| before.last.next() != first) {
            return Err("a gap between its batches");
        }
        batches.push(Remembered {
            first,
            last: Sequence(batch.last_sequence),
            base: Offset::new(batch.base_offset).ok_or("a negative offset")?,
            append_time: Timestamp(batch.append_time),
            lsn: Lsn::ZERO,
        });
    }
    // What is remembered is known, whatever the count says.
    let remembered = batches
        .iter()
        .map(|b| distance(b.first, b.last).saturating_add(1));
    let known_records = remembered
        .fold(0_u32, u32::saturating_add)
        .max(entry.known_records);
    Ok(Producer::restored(
        ProducerEpoch(epoch),
        Timestamp(entry.last_append_ms),
        known_records,
        batches,
    ))
}
