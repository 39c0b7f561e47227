//! What recovery tells the broker: snapshots first, then batches and deletions in the order of the journal.

use std::collections::BTreeMap;

use super::Settings;
use super::driver::Replayed;
use crate::machine::{StateMachine as _, Stored as _};
use crate::metadata::MetaRecord;
use crate::model::{Offset, PartitionKey, Timestamp, TopicId, TopicStorage};
use crate::partition::{PartitionState, ProducerLimits, SnapshotError};
use crate::record::{BatchError, BatchHeader};
use crate::storage::{Replay, Snapshot};
use crate::{group, metadata};

/// So many producer ids are left out where it is not known which were handed out: more than any journal can have reserved.
const PRODUCER_IDS_SKIPPED: i64 = 1 << 40;

/// Stored state that cannot be understood. Nothing is guessed: the broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The snapshot of a machine.
    #[error("the state of {of} in the checkpoint")]
    Snapshot {
        /// Name of its partition.
        of: &'static str,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A batch of a machine's records.
    #[error("the batch of {of} at offset {base}")]
    Batch {
        /// Name of its partition.
        of: &'static str,
        /// Its offset.
        base: Offset,
        /// What is wrong.
        source: BatchError,
    },
    /// A record of a machine.
    #[error("the record of {of} at offset {offset}")]
    Record {
        /// Name of its partition.
        of: &'static str,
        /// Its offset.
        offset: Offset,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The producers of a partition.
    #[error("the producers of {key} in the checkpoint")]
    Producers {
        /// Which partition.
        key: PartitionKey,
        /// What is wrong.
        source: SnapshotError,
    },
}

/// Collects the state that a broker begins with. Hand it to the engine's recovery, then to [`super::Broker::new`].
#[derive(Debug)]
pub struct Recovered {
    producers: ProducerLimits,
    meta: Replayed<metadata::Machine>,
    groups: Replayed<group::Machine>,
    partitions: BTreeMap<PartitionKey, PartitionState>,
    /// Records of the log are given up.
    lossy: bool,
    /// The first thing that could not be understood; what comes after does not matter any more.
    failure: Option<RecoverError>,
}

/// Everything that was recovered.
pub(super) struct Parts {
    pub(super) meta: Replayed<metadata::Machine>,
    pub(super) groups: Replayed<group::Machine>,
    /// The partitions with state.
    pub(super) partitions: BTreeMap<PartitionKey, PartitionState>,
}

impl Recovered {
    /// Nothing yet: the state of a new data directory.
    pub fn new(settings: &Settings) -> Self {
        Self {
            producers: settings.producers,
            meta: Replayed::new(PartitionKey::META, "__meta", settings.limits, settings),
            groups: Replayed::new(PartitionKey::GROUPS, "__groups", settings.groups, settings),
            partitions: BTreeMap::new(),
            lossy: false,
            failure: None,
        }
    }

    /// The same where records of the log are given up: whatever producer ids they reserved are not handed out again.
    pub fn after_loss(settings: &Settings) -> Self {
        Self {
            lossy: true,
            ..Self::new(settings)
        }
    }

    /// The metadata, past all producer ids that may have been handed out.
    fn meta_snapshot(&self) -> Snapshot {
        if !self.lossy {
            return self.meta.snapshot();
        }
        let mut machine = self.meta.machine.clone();
        let end = machine.producer_ids_end().saturating_add(PRODUCER_IDS_SKIPPED);
        machine.apply(&MetaRecord::ProducerIdsReserved { end });
        Snapshot {
            blob: machine.snapshot(),
            ..self.meta.snapshot()
        }
    }

    /// The names of the topics so far.
    pub fn topic_names(&self) -> BTreeMap<TopicId, String> {
        let topics = self.meta.machine.user_topics();
        topics.map(|topic| (topic.id, topic.name.to_string())).collect()
    }

    /// What could not be understood so far, if anything.
    pub fn failure(&self) -> Option<&RecoverError> {
        self.failure.as_ref()
    }

    pub(super) fn finish(self) -> Result<Parts, RecoverError> {
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(Parts {
                meta: self.meta,
                groups: self.groups,
                partitions: self.partitions,
            }),
        }
    }

    fn take_snapshot(&mut self, key: PartitionKey, snapshot: Snapshot) -> Result<(), RecoverError> {
        match key {
            PartitionKey::META => self.meta.take_snapshot(snapshot),
            PartitionKey::GROUPS => self.groups.take_snapshot(snapshot),
            key => {
                let state = PartitionState::from_stored(self.producers, snapshot.covers, snapshot.blob)
                    .map_err(|source| RecoverError::Producers { key, source })?;
                self.partitions.insert(key, state);
                Ok(())
            }
        }
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
        match key {
            PartitionKey::META => {
                let taken = self.meta.take_batch(header, batch, append_time);
                self.keep(taken);
            }
            PartitionKey::GROUPS => {
                let taken = self.groups.take_batch(header, batch, append_time);
                self.keep(taken);
            }
            key => {
                let limits = self.producers;
                self.partitions
                    .entry(key)
                    .or_insert_with(|| PartitionState::new(limits))
                    .replayed(header, append_time);
            }
        }
    }

    fn topic_deleted(&mut self, topic: TopicId) {
        // Records in `__meta` and `__groups` tell the machines; here only the partitions go.
        self.partitions.retain(|key, _| key.topic != topic);
    }

    fn partitions(&self) -> Vec<PartitionKey> {
        let topics = self.meta.machine.user_topics();
        topics
            .flat_map(|topic| (0..topic.partitions).map(|partition| topic.key(partition)))
            .collect()
    }

    fn is_in_memory(&self, key: PartitionKey) -> bool {
        let mut topics = self.meta.machine.user_topics();
        topics.any(|topic| topic.id == key.topic && topic.config().storage == TopicStorage::Memory)
    }

    fn replayed_snapshot(&self, key: PartitionKey) -> Option<Snapshot> {
        match key {
            PartitionKey::META => Some(self.meta_snapshot()),
            PartitionKey::GROUPS => Some(self.groups.snapshot()),
            key => {
                let state = self.partitions.get(&key)?;
                Some(Snapshot {
                    covers: state.next_offset(),
                    blob: state.to_stored()?,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producer_ids_that_a_lost_record_may_have_reserved_are_left_out() {
        let settings = Settings::default();
        let next_after = |recovered: &Recovered| {
            let mut again = Recovered::new(&settings);
            let snapshot = recovered.replayed_snapshot(PartitionKey::META).unwrap();
            again.snapshot(PartitionKey::META, snapshot);
            again.meta.machine.producer_ids_end()
        };
        let first = next_after(&Recovered::new(&settings));
        let after_loss = next_after(&Recovered::after_loss(&settings));
        assert_eq!(after_loss, first + PRODUCER_IDS_SKIPPED);
    }
}
