//! Drives a machine over its internal partition: its records become a batch of a step, and are applied once the engine has
//! taken that step in. The one mechanism under metadata and groups, while the broker runs and when it recovers.

use std::sync::Arc;

use bytes::Bytes;

use super::Settings;
use super::recovered::RecoverError;
use crate::machine::Stored;
use crate::model::{Lsn, Offset, PartitionKey, Timestamp, TopicConfig};
use crate::partition::PartitionState;
use crate::record::{BatchBuilder, BatchHeader, Records};
use crate::storage::{LogConfig, LogStore, PartitionLog, Placed, Snapshot};

/// Segments of internal partitions. Whole ones go with the checkpoints whose snapshot covers them, so this is about what such
/// a partition takes on disk.
const SEGMENT_BYTES: u32 = 16 << 20;

/// A machine and where its records go.
#[derive(Debug)]
pub(super) struct Driver<L, M> {
    pub(super) machine: M,
    /// LSN of the newest record applied: whatever shows this state is answered when it is durable.
    pub(super) lsn: Lsn,
    pub(super) log: Arc<L>,
    state: PartitionState,
}

/// Records that are in a step and not yet applied.
#[derive(Debug)]
pub(super) struct Pending<R> {
    records: Vec<R>,
    header: BatchHeader,
    append_time: Timestamp,
}

impl<L: PartitionLog, M: Stored> Driver<L, M> {
    /// Goes on where recovery ended.
    pub(super) fn new<S: LogStore<Log = L>>(store: &S, recovered: Replayed<M>) -> Self {
        let config = LogConfig {
            segment_bytes: SEGMENT_BYTES,
            ..LogConfig::from(&TopicConfig::default())
        };
        let log = store.open(recovered.key, config);
        let mut state = recovered.state;
        state.lead(log.bounds(Lsn::ZERO).log_end, store.leader_epoch());
        Self {
            machine: recovered.machine,
            lsn: Lsn::ZERO,
            log,
            state,
        }
    }

    /// Records as one batch at the end of the internal partition. It is to be submitted, and then
    /// [applied](Self::apply), before anybody else gets at the driver; if submitting fails, nothing has happened.
    pub(super) fn place(&self, now: Timestamp, records: Vec<M::Record>) -> (Placed<L>, Pending<M::Record>) {
        let mut builder = BatchBuilder::new();
        for record in &records {
            builder.push(now, None, Some(&M::encode(record)), &[]);
        }
        let mut batch = builder.seal(None);
        let base = self.state.next_offset();
        batch.stamp(base, self.state.leader_epoch());
        let append_time = self.state.append_time(now);
        let pending = Pending {
            records,
            header: *batch.header(),
            append_time,
        };
        let placed = Placed {
            log: Arc::clone(&self.log),
            base,
            batch,
            append_time,
        };
        (placed, pending)
    }

    /// Applies records that the engine has taken in.
    pub(super) fn apply(&mut self, pending: &Pending<M::Record>, lsn: Lsn) {
        self.state.appended(&pending.header, pending.append_time, lsn);
        for record in &pending.records {
            self.machine.apply(record);
        }
        self.lsn = lsn;
    }

    /// For the checkpoint.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            covers: self.state.next_offset(),
            blob: self.machine.snapshot(),
        }
    }
}

/// A machine on its way back: its snapshot first, then the batches behind it.
#[derive(Debug)]
pub(super) struct Replayed<M: Stored> {
    pub(super) key: PartitionKey,
    /// What its partition is called in messages.
    name: &'static str,
    limits: M::Limits,
    pub(super) machine: M,
    state: PartitionState,
}

impl<M: Stored> Replayed<M> {
    /// Nothing yet: the state of a new data directory.
    pub(super) fn new(key: PartitionKey, name: &'static str, limits: M::Limits, settings: &Settings) -> Self {
        Self {
            key,
            name,
            limits,
            machine: M::empty(limits),
            // Internal partitions have no producers; only the offset matters.
            state: PartitionState::new(settings.producers),
        }
    }

    pub(super) fn take_snapshot(&mut self, snapshot: Snapshot) -> Result<(), RecoverError> {
        self.machine = M::restore(self.limits, snapshot.blob).map_err(|source| RecoverError::Snapshot {
            of: self.name,
            source: Box::new(source),
        })?;
        self.state.lead(snapshot.covers, self.state.leader_epoch());
        Ok(())
    }

    /// Applies a batch, unless the snapshot covers it.
    pub(super) fn take_batch(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        append_time: Timestamp,
    ) -> Result<(), RecoverError> {
        let base = header.base_offset;
        if base < self.state.next_offset() {
            return Ok(());
        }
        for record in Records::new(header, batch) {
            let record = record.map_err(|source| RecoverError::Batch {
                of: self.name,
                base,
                source,
            })?;
            let value = Bytes::copy_from_slice(record.value.unwrap_or_default());
            let decoded = self.decode(record.offset, value)?;
            self.machine.apply(&decoded);
        }
        self.state.replayed(header, append_time);
        Ok(())
    }

    fn decode(&self, offset: Offset, value: Bytes) -> Result<M::Record, RecoverError> {
        M::decode(value).map_err(|source| RecoverError::Record {
            of: self.name,
            offset,
            source: Box::new(source),
        })
    }

    /// For the checkpoint that ends recovery.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            covers: self.state.next_offset(),
            blob: self.machine.snapshot(),
        }
    }
}
