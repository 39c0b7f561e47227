//! The engine on the simulated disk, driven round by round.

mod absurd;
mod behaviour;
mod evidence;
mod fence;
mod flips;
mod headers;
mod inspect;
mod partial;
mod past;
mod planted;
mod power;
mod reserve;
mod restore;
mod retire;
mod rot;
mod salvage;
mod scrub;
pub(crate) mod swarm;
mod threaded;
mod time;
mod trim;
mod unread;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::{Inline, LocalStore, OpenError, Round, Settings};
use crate::disk::sim::{SimDisk, SimOptions};
use crate::model::{Lsn, Offset, PartitionId, PartitionKey, Timestamp, TopicId};
use crate::record::{BatchBuilder, BatchHeader, SealedBatch};
use crate::rt::{Clock, IdSource, ManualClock};
use crate::storage::{
    Backpressure, Class, LogConfig, LogStore, PartitionLog, Permit, Placed, ReadError, ReadSpec, Replay,
    SharedSnapshots, Snapshot, SnapshotSource, Step, SubmitError, Trim,
};

pub(super) fn key(topic: u8, partition: u32) -> PartitionKey {
    PartitionKey {
        topic: TopicId::from_bytes([topic; 16]),
        partition: PartitionId(partition),
    }
}

pub(super) fn offset(n: i64) -> Offset {
    Offset::new(n).unwrap()
}

pub(super) fn small() -> Settings {
    Settings {
        journal_file_bytes: 64 << 10,
        journal_first_file_bytes: 64 << 10,
        journal_files: 3,
        memory_tail_bytes: 1 << 20,
        reserve_bytes: 0,
        open_files_max: 3,
        apply_after: Duration::ZERO,
        ..Settings::default()
    }
}

pub(super) const CONFIG: LogConfig = LogConfig {
    segment_bytes: 16 << 10,
    index_interval_bytes: 4096,
    segment_ms: 9000,
    segment_jitter_ms: 0,
    memory_bytes: None,
};

struct FixedIds;

impl IdSource for FixedIds {
    fn uuid(&self) -> [u8; 16] {
        [0x5a; 16]
    }
}

/// State kept above the engine: per partition the next offset and a hash of all batches so far. Replay must rebuild it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Above(BTreeMap<PartitionKey, (Offset, u64)>);

impl Above {
    fn take(&mut self, key: PartitionKey, base: Offset, last: Offset, bytes: &[u8]) {
        let (next, hash) = self.0.entry(key).or_default();
        *next = last.next();
        let seed = (*hash).wrapping_mul(0x100_0000_01b3) ^ u64::from(crate::record::crc32c(&bytes[21..]));
        *hash = seed ^ u64::try_from(base.get()).unwrap();
    }

    fn snapshot_of(&self, key: PartitionKey) -> Option<Snapshot> {
        let (next, hash) = self.0.get(&key)?;
        Some(Snapshot {
            covers: *next,
            blob: Bytes::copy_from_slice(&hash.to_le_bytes()),
        })
    }
}

impl Replay for Above {
    fn snapshot(&mut self, key: PartitionKey, snapshot: Snapshot) {
        let hash = u64::from_le_bytes(snapshot.blob[..].try_into().unwrap());
        self.0.insert(key, (snapshot.covers, hash));
    }

    fn batch(&mut self, key: PartitionKey, header: &BatchHeader, batch: &[u8], _append_time: Timestamp) {
        self.take(key, header.base_offset, header.last_offset(), batch);
    }

    fn topic_deleted(&mut self, topic: TopicId) {
        self.0.retain(|key, _| key.topic != topic);
    }

    fn replayed_snapshot(&self, key: PartitionKey) -> Option<Snapshot> {
        self.snapshot_of(key)
    }
}

struct Source(Arc<Mutex<Above>>);

impl SnapshotSource for Source {
    fn snapshot(&self, key: PartitionKey) -> Option<Snapshot> {
        self.0.lock().unwrap().snapshot_of(key)
    }
}

/// An engine on a simulated disk, and what was given to it.
pub(super) struct Rig {
    pub(super) disk: SimDisk,
    pub(super) store: Arc<LocalStore>,
    pub(super) inline: Inline,
    pub(super) above: Arc<Mutex<Above>>,
    pub(super) clock: Arc<ManualClock>,
    /// Of every log that is opened from here.
    pub(super) config: LogConfig,
}

pub(super) fn new_disk() -> SimDisk {
    SimDisk::new(SimOptions::default())
}

impl Rig {
    pub(super) fn open(disk: &SimDisk, settings: &Settings) -> Result<Self, OpenError> {
        let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
        let mut above = Above::default();
        let shared: Arc<dyn Clock> = Arc::clone(&clock) as Arc<dyn Clock>;
        let store = LocalStore::open(Arc::new(disk.clone()), settings, shared, &FixedIds, &mut above)?;
        let above = Arc::new(Mutex::new(above));
        let source: SharedSnapshots = Arc::new(Source(Arc::clone(&above)));
        let (store, inline) = store.into_inline(source);
        Ok(Self {
            disk: disk.clone(),
            store,
            inline,
            above,
            clock,
            config: CONFIG,
        })
    }

    pub(super) fn new(settings: &Settings) -> Self {
        Self::open(&new_disk(), settings).unwrap()
    }

    /// A batch of `records` values of `bytes` bytes each, for the end of a partition's log.
    pub(super) fn batch(&self, key: PartitionKey, records: usize, bytes: usize, fill: u8) -> SealedBatch {
        let mut builder = BatchBuilder::new();
        for i in 0..records {
            let value = vec![fill.wrapping_add(u8::try_from(i % 256).unwrap()); bytes];
            builder.push(Timestamp(1_700_000_000_000), None, Some(&value), &[]);
        }
        let mut batch = builder.seal(None);
        batch.stamp(
            self.store.open(key, self.config).bounds(Lsn::ZERO).log_end,
            self.store.leader_epoch(),
        );
        batch
    }

    /// A permit, for which room is made as the engine's threads would.
    fn permit(&mut self, bytes: u64) -> Permit {
        loop {
            match self.store.permit(bytes, Class::Internal) {
                Ok(permit) => return permit,
                Err(busy) => {
                    assert_eq!(busy, Backpressure::Busy);
                    self.inline.make_journal_file().unwrap();
                    while self.inline.journal().unwrap() == Round::Worked {}
                    self.inline.applier_round(true).unwrap();
                }
            }
        }
    }

    /// Submits one step of a batch per partition.
    pub(super) fn submit(&mut self, batches: Vec<(PartitionKey, SealedBatch)>, delete: &[TopicId]) -> Lsn {
        let bytes = batches.iter().map(|(_, b)| u64::from(b.total_bytes())).sum();
        let permit = self.permit(bytes);
        self.submit_with(permit, batches, delete).unwrap()
    }

    /// As [`submit`](Self::submit), with a permit that is there.
    pub(super) fn submit_with(
        &mut self,
        permit: Permit,
        batches: Vec<(PartitionKey, SealedBatch)>,
        delete: &[TopicId],
    ) -> Result<Lsn, SubmitError> {
        let mut above = self.above.lock().unwrap();
        let mut step = Step {
            appends: smallvec::SmallVec::new(),
            trims: smallvec::SmallVec::new(),
            deletions: delete.iter().copied().collect(),
        };
        for (key, batch) in batches {
            let header = *batch.header();
            above.take(key, header.base_offset, header.last_offset(), &batch.to_bytes());
            let log = self.store.open(key, self.config);
            step.appends.push(Placed {
                log,
                base: header.base_offset,
                batch,
                append_time: self.clock.wall(),
            });
        }
        for topic in delete {
            above.topic_deleted(*topic);
        }
        self.store.submit(permit, step)
    }

    /// Submits a trim.
    pub(super) fn trim(&mut self, key: PartitionKey, to: Offset) -> Lsn {
        let log = self.store.open(key, self.config);
        let permit = self.permit(0);
        self.store.submit(permit, Step::trim([Trim { log, to }])).unwrap()
    }

    /// Appends one batch and makes it durable.
    pub(super) fn produce(&mut self, key: PartitionKey, records: usize, bytes: usize, fill: u8) -> Bytes {
        let batch = self.batch(key, records, bytes, fill);
        let stored = batch.to_bytes();
        let lsn = self.submit(vec![(key, batch)], &[]);
        assert_eq!(self.inline.journal().unwrap(), Round::Worked);
        assert_eq!(self.durable(), lsn);
        stored
    }

    pub(super) fn durable(&self) -> Lsn {
        self.store.durable().borrow().lsn
    }

    pub(super) fn read(
        &self,
        key: PartitionKey,
        from: Offset,
        max_bytes: u32,
    ) -> Result<(Bytes, Offset), ReadError> {
        let spec = ReadSpec {
            from,
            durable: self.durable(),
            max_bytes,
            min_one: true,
        };
        let log = self.store.open(key, self.config);
        let out = match log.try_read(&spec) {
            Some(out) => out?,
            None => log.read_segments(&spec)?,
        };
        assert_eq!(out.bytes, out.extents.iter().map(|e| e.len() as u64).sum::<u64>());
        Ok((out.extents.concat().into(), out.next))
    }

    /// Everything visible of a partition.
    pub(super) fn read_all(&self, key: PartitionKey) -> Bytes {
        let mut next = Offset::ZERO;
        let mut all = Vec::new();
        loop {
            let (bytes, behind) = self.read(key, next, 5000).unwrap();
            if bytes.is_empty() {
                return all.into();
            }
            assert!(behind > next);
            all.extend_from_slice(&bytes);
            next = behind;
        }
    }
}
