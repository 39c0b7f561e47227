//! What recovery tells the broker: snapshots first, then batches and deletions in the order of the journal.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Settings;
use crate::machine::StateMachine;
use crate::metadata::{DecodeError, Machine, MetaRecord};
use crate::model::{Offset, PartitionKey, Timestamp, TopicId};
use crate::partition::{PartitionState, ProducerLimits, SnapshotError};
use crate::record::{BatchError, BatchHeader, Records};
use crate::storage::{Replay, Snapshot};

/// Stored state that cannot be understood. Nothing is guessed: the broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The snapshot of the metadata.
    #[error("the metadata in the checkpoint")]
    MetaSnapshot(#[source] DecodeError),
    /// A batch of metadata.
    #[error("the metadata batch at offset {base}")]
    MetaBatch {
        /// Its offset.
        base: Offset,
        /// What is wrong.
        #[source]
        source: BatchError,
    },
    /// A record of metadata.
    #[error("the metadata record at offset {offset}")]
    MetaRecord {
        /// Its offset.
        offset: Offset,
        /// What is wrong.
        #[source]
        source: DecodeError,
    },
    /// The producers of a partition.
    #[error("the producers of {key} in the checkpoint")]
    Producers {
        /// Which partition.
        key: PartitionKey,
        /// What is wrong.
        #[source]
        source: SnapshotError,
    },
}

/// Collects the state that a broker begins with. Hand it to the engine's recovery, then to [`super::Broker::new`].
#[derive(Debug)]
pub struct Recovered {
    limits: crate::metadata::Limits,
    producers: ProducerLimits,
    machine: Machine,
    meta: PartitionState,
    partitions: BTreeMap<PartitionKey, PartitionState>,
    /// The first thing that could not be understood; what comes after does not matter any more.
    failure: Option<RecoverError>,
}

impl Recovered {
    /// Nothing yet: the state of a new data directory.
    pub fn new(settings: &Settings) -> Self {
        Self {
            limits: settings.limits,
            producers: settings.producers,
            machine: Machine::new(settings.limits),
            meta: PartitionState::new(settings.producers),
            partitions: BTreeMap::new(),
            failure: None,
        }
    }

    /// The machine, where `__meta` ends, and the partitions with state.
    pub(super) fn finish(
        self,
    ) -> Result<(Machine, PartitionState, BTreeMap<PartitionKey, PartitionState>), RecoverError> {
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok((self.machine, self.meta, self.partitions)),
        }
    }

    fn take_snapshot(&mut self, key: PartitionKey, snapshot: Snapshot) -> Result<(), RecoverError> {
        if key == PartitionKey::META {
            self.machine =
                Machine::restore(self.limits, snapshot.blob).map_err(RecoverError::MetaSnapshot)?;
            // Metadata has no producers; only the offset matters.
            self.meta.lead(snapshot.covers, self.meta.leader_epoch());
            return Ok(());
        }
        let state = PartitionState::from_stored(self.producers, snapshot.covers, snapshot.blob)
            .map_err(|source| RecoverError::Producers { key, source })?;
        self.partitions.insert(key, state);
        Ok(())
    }

    fn take_metadata(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<(), RecoverError> {
        let base = header.base_offset;
        if base < self.meta.next_offset() {
            return Ok(());
        }
        for record in Records::new(header, batch) {
            let record = record.map_err(|source| RecoverError::MetaBatch { base, source })?;
            let value = Bytes::copy_from_slice(record.value.unwrap_or_default());
            let offset = record.offset;
            let decoded =
                MetaRecord::decode(value).map_err(|source| RecoverError::MetaRecord { offset, source })?;
            self.machine.apply(&decoded);
        }
        Ok(())
    }

    fn keep(&mut self, result: Result<(), RecoverError>) {
        if let Err(failure) = result {
            self.failure.get_or_insert(failure);
        }
    }
}

impl Replay for Recovered {
    fn snapshot(&mut self, key: PartitionKey, snapshot: Snapshot) {
        let taken = self.take_snapshot(key, snapshot);
        self.keep(taken);
    }

    fn batch(&mut self, key: PartitionKey, header: &BatchHeader, batch: &[u8], append_time: Timestamp) {
        if key == PartitionKey::META {
            let taken = self.take_metadata(header, batch);
            self.keep(taken);
            self.meta.replayed(header, append_time);
            return;
        }
        let limits = self.producers;
        self.partitions
            .entry(key)
            .or_insert_with(|| PartitionState::new(limits))
            .replayed(header, append_time);
    }

    fn topic_deleted(&mut self, topic: TopicId) {
        // The record in `__meta` tells the machine; here only the partitions go.
        self.partitions.retain(|key, _| key.topic != topic);
    }

    fn replayed_snapshot(&self, key: PartitionKey) -> Option<Snapshot> {
        if key == PartitionKey::META {
            return Some(Snapshot {
                covers: self.meta.next_offset(),
                blob: self.machine.snapshot(),
            });
        }
        let state = self.partitions.get(&key)?;
        Some(Snapshot {
            covers: state.next_offset(),
            blob: state.to_stored()?,
        })
    }
}
