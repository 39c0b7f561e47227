//! The storage engine's face: ordering is synchronous, durability is asynchronous.
//!
//! Above this seam nobody sees paths, file positions or syncs, or assumes that the log end equals the high watermark.
//! Design: `docs/architecture.md` and `docs/storage-format.md`.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::{Notify, watch};

use crate::model::{
    DurableState, LeaderEpoch, LogBounds, Lsn, Offset, PartitionKey, StorageHealth, Timestamp, TopicConfig,
    TopicId, TopicStorage,
};
use crate::record::{
    BatchError, BatchHeader, Codec, DECOMPRESSED_BYTES_MAX, Records, SealedBatch, uncompressed,
};
use crate::rt::BoxFuture;

pub mod local;
pub mod memory;

/// On whose behalf something is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Users' records: may use seven eighths of every budget.
    Produce,
    /// Internal partitions, trims and deletions: may use all of it.
    Internal,
}

/// Why there is no permit right now. Nothing has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Backpressure {
    /// Too much is waiting in memory or in the journal: wait for [`LogStore::permit_freed`].
    #[error("the engine is busy with what was written before")]
    Busy,
    /// The disk is full; try again later.
    #[error("the disk is full: {free_bytes} bytes are free, {reserve_bytes} are kept in reserve")]
    StorageFull {
        /// Free bytes less what is promised already.
        free_bytes: u64,
        /// What is kept for the broker itself.
        reserve_bytes: u64,
    },
    /// The step is larger than a journal frame can be.
    #[error("{bytes} bytes in one step, at most {max} fit into a journal frame")]
    TooLarge {
        /// What was asked for.
        bytes: u64,
        /// The limit.
        max: u64,
    },
}

/// Why a step was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The engine is poisoned: the process is about to end.
    #[error("the storage engine failed before; the broker is stopping")]
    Poisoned,
    /// The partition was deleted.
    #[error("the partition does not exist any more")]
    NotOwner,
    /// The memory of a partition in memory is full of what is not durable yet: another try may succeed.
    #[error("the memory of the partition is full of what nobody can read yet")]
    Busy,
}

/// Limits of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogCaps {
    /// Most bytes of batches in one step.
    pub step_bytes_max: u32,
}

/// Admission for so many bytes; given back when dropped unused.
pub struct Permit {
    bytes: u64,
    give_back: Option<Box<dyn PermitOwner>>,
}

/// Who gave a permit out.
pub trait PermitOwner: Send + Sync {
    /// Takes back what was not used.
    fn give_back(&self, bytes: u64);
}

impl Permit {
    /// A permit for so many bytes.
    pub fn new(bytes: u64, owner: Box<dyn PermitOwner>) -> Self {
        Self {
            bytes,
            give_back: Some(owner),
        }
    }

    /// How many bytes it allows.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes `bytes` out of this permit into one of their own, for one of several steps of a request.
    ///
    /// Returns `None`, and changes nothing, if it does not hold so many.
    pub fn split(&mut self, bytes: u64, owner: Box<dyn PermitOwner>) -> Option<Self> {
        self.bytes = self.bytes.checked_sub(bytes)?;
        Some(Self::new(bytes, owner))
    }

    /// Uses the permit up; the engine now accounts for the bytes itself.
    pub fn spend(mut self) -> u64 {
        self.give_back = None;
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(owner) = self.give_back.take() {
            owner.give_back(self.bytes);
        }
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// A stamped batch and where it goes.
#[derive(Debug)]
pub struct Placed<L> {
    /// The partition.
    pub log: Arc<L>,
    /// Its offset; the engine checks that it is the log end.
    pub base: Offset,
    /// The batch, stamped with base offset and leader epoch.
    pub batch: SealedBatch,
    /// When it is appended, by the broker's clock.
    pub append_time: Timestamp,
}

/// What becomes durable together, or not at all.
#[derive(Debug)]
pub struct Step<L> {
    /// Batches, in order.
    pub appends: SmallVec<[Placed<L>; 1]>,
    /// Partitions whose oldest records go.
    pub trims: SmallVec<[Trim<L>; 1]>,
    /// Topics whose partitions cease to exist.
    pub deletions: SmallVec<[TopicId; 1]>,
}

impl<L> Step<L> {
    /// A step of one batch.
    pub fn append(placed: Placed<L>) -> Self {
        Self {
            appends: SmallVec::from_buf([placed]),
            trims: SmallVec::new(),
            deletions: SmallVec::new(),
        }
    }

    /// A step that only moves log starts.
    pub fn trim(trims: impl IntoIterator<Item = Trim<L>>) -> Self {
        Self {
            appends: SmallVec::new(),
            trims: trims.into_iter().collect(),
            deletions: SmallVec::new(),
        }
    }
}

/// Where a partition begins from now on.
#[derive(Debug)]
pub struct Trim<L> {
    /// The partition.
    pub log: Arc<L>,
    /// Its first offset that stays: at most the high watermark. Below the log start it changes nothing.
    ///
    /// Of a log that never had a batch it may be any offset: the log then goes on there.
    pub to: Offset,
}

/// How a partition's log is laid out. Applies to what is appended from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A segment file is closed before it would grow above this.
    pub segment_bytes: u32,
    /// At least so many bytes between two entries of the offset index.
    pub index_interval_bytes: u32,
    /// A segment file is closed when its first batch is so old, in ms, whether or not another batch comes.
    pub segment_ms: u64,
    /// At most so much less, in ms, so that the segments of many partitions are not closed all at once.
    pub segment_jitter_ms: u64,
    /// The log is in memory alone and holds at most so many bytes; `None`: it is kept as the engine keeps logs.
    pub memory_bytes: Option<u64>,
}

impl From<&TopicConfig> for LogConfig {
    fn from(topic: &TopicConfig) -> Self {
        Self {
            segment_bytes: topic.segment_bytes,
            index_interval_bytes: topic.index_interval_bytes,
            segment_ms: topic.segment_ms,
            segment_jitter_ms: topic.segment_jitter_ms,
            memory_bytes: match topic.storage {
                TopicStorage::Disk => None,
                TopicStorage::Memory => Some(topic.memory_bytes),
            },
        }
    }
}

/// What to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadSpec {
    /// First offset wanted.
    pub from: Offset,
    /// Only what was durable at this LSN: loaded once for all partitions of a fetch.
    pub durable: Lsn,
    /// Most bytes; at least one batch comes if `min_one`.
    pub max_bytes: u32,
    /// Whether one batch comes even if it is larger than `max_bytes`.
    pub min_one: bool,
}

/// Whole batches in offset order; the first may begin below the offset asked for.
#[derive(Clone, Debug, Default)]
pub struct ReadOut {
    /// The bytes, in order.
    pub extents: Vec<Bytes>,
    /// Their total.
    pub bytes: u64,
    /// Where to read next; equals the offset asked for if there is nothing yet.
    pub next: Offset,
}

/// Why nothing could be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The offset is below the log start or above the high watermark.
    #[error("offset is outside of {} to {}", .0.log_start, .0.high_watermark)]
    OutOfRange(LogBounds),
    /// Acknowledged data is damaged.
    #[error("offsets {first} to {last} are damaged")]
    Corrupt {
        /// First damaged offset at or behind the one asked for.
        first: Offset,
        /// Last damaged offset, inclusive.
        last: Offset,
    },
    /// The partition was deleted.
    #[error("the partition does not exist any more")]
    NotOwner,
    /// The read failed; another may not.
    #[error("read failed: {0}")]
    Io(String),
}

/// What a partition's log looks like from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Bytes of batches from log start to log end.
    pub size_bytes: u64,
    /// Segment files, with the active one.
    pub segments: u32,
    /// Damaged ranges: first and last offset, inclusive.
    pub quarantined: Vec<(Offset, Offset)>,
}

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOffset {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Timestamp,
}

/// When a batch was appended, by the broker's clock, as far as memory alone knows. Both ends are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendTime {
    /// Not before.
    pub earliest: Timestamp,
    /// Not after.
    pub latest: Timestamp,
}

impl AppendTime {
    /// A time that is known.
    pub fn exactly(at: Timestamp) -> Self {
        Self {
            earliest: at,
            latest: at,
        }
    }

    /// The time, if it is known.
    pub fn exact(self) -> Option<Timestamp> {
        (self.earliest == self.latest).then_some(self.earliest)
    }
}

/// A piece of a partition's log that is removed as a whole: what retention decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Offset of its first record.
    pub base: Offset,
    /// Behind its last record.
    pub end: Offset,
    /// Bytes of its batches.
    pub bytes: u64,
    /// Append time of its first batch, by the broker's clock; never goes back within a partition.
    pub oldest_append: Timestamp,
    /// Append time of its last batch. Where damage took the time of a batch, that of a later one: never too early.
    pub newest_append: Timestamp,
    /// Greatest timestamp of its records, which producers chose unless the topic has log append time.
    pub max_timestamp: Timestamp,
    /// Nothing is appended to it any more; only the last one may be active.
    pub sealed: bool,
}

/// The first record of a batch at or behind `from` whose timestamp is `at` or later.
///
/// # Errors
/// The batch is damaged: none is stored that cannot be walked.
fn find_in_batch(
    header: &BatchHeader,
    batch: &[u8],
    from: Offset,
    at: Timestamp,
) -> Result<Option<TimedOffset>, BatchError> {
    let decompressed;
    let (header, batch) = match Codec::of(header)? {
        Codec::None => (header, batch),
        _ => {
            let compressed = Bytes::copy_from_slice(batch);
            decompressed = uncompressed(header, &compressed, DECOMPRESSED_BYTES_MAX)?;
            (&decompressed.0, &*decompressed.1)
        }
    };
    for record in Records::new(header, batch) {
        let record = record?;
        if record.offset >= from && record.timestamp >= at {
            return Ok(Some(TimedOffset {
                offset: record.offset,
                timestamp: record.timestamp,
            }));
        }
    }
    Ok(None)
}

/// A storage engine.
pub trait LogStore: Send + Sync + 'static {
    /// A partition's log.
    type Log: PartitionLog;

    /// Its limits.
    fn caps(&self) -> LogCaps;

    /// The epoch that is stamped into batches from now on; grows with every start.
    fn leader_epoch(&self) -> LeaderEpoch;

    /// Admission for `bytes` of batches, taken before any state is looked at. With it, [`submit`](Self::submit) fails
    /// only if the engine is poisoned, the partition is gone, or it is in memory and full of what is not durable yet.
    ///
    /// # Errors
    /// Says what is short.
    fn permit(&self, bytes: u64, class: Class) -> Result<Permit, Backpressure>;

    /// Takes a part of a permit for one of several steps of a request. `None` if it does not hold so much.
    fn split_permit(&self, permit: &mut Permit, bytes: u64) -> Option<Permit>;

    /// Becomes ready when a permit that was refused as [`Backpressure::Busy`] may be had. Register before asking again.
    fn permit_freed(&self) -> BoxFuture<'static, ()>;

    /// Takes in a step: synchronous, ordered, all in one journal frame. Durable when [`durable`](Self::durable) reaches
    /// the LSN that comes back. The caller holds the locks of all partitions of the step.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing of the step has happened.
    fn submit(&self, permit: Permit, step: Step<Self::Log>) -> Result<Lsn, SubmitError>;

    /// How the engine is, for operators; takes no lock that a disk holds up.
    fn health(&self) -> StorageHealth;

    /// What is durable. Changes with every group.
    fn durable(&self) -> watch::Receiver<DurableState>;

    /// Whether the engine is poisoned. Changes once at most: whoever waits for nothing else is not woken by every group.
    fn failed(&self) -> watch::Receiver<bool>;

    /// The log of a partition, made on first use. One that is open takes the configuration on.
    fn open(&self, key: PartitionKey, config: LogConfig) -> Arc<Self::Log>;
}

/// The log of one partition.
pub trait PartitionLog: Send + Sync + std::fmt::Debug + 'static {
    /// Which one.
    fn key(&self) -> PartitionKey;

    /// Its marks as of this durable LSN.
    fn bounds(&self, durable: Lsn) -> LogBounds;

    /// Size, segments, damage.
    fn stats(&self) -> LogStats;

    /// The segments, oldest first, without what is in memory only: that is newer than all of them. Does not block.
    fn segments(&self) -> Vec<SegmentSummary>;

    /// Reads if memory alone can answer; `None` if the disk must be asked.
    fn try_read(&self, spec: &ReadSpec) -> Option<Result<ReadOut, ReadError>>;

    /// Reads from memory or disk, on the engine's own threads.
    fn read(self: Arc<Self>, spec: ReadSpec) -> BoxFuture<'static, Result<ReadOut, ReadError>>;

    /// The first record in offset order, of those that are readable and were durable at this LSN, whose timestamp is `at`
    /// or later; `None` if there is none. Looks into batches, on the engine's own threads.
    ///
    /// Timestamps need not ascend: a record behind the one found may be older than `at`.
    fn find_timestamp(
        self: Arc<Self>,
        at: Timestamp,
        durable: Lsn,
    ) -> BoxFuture<'static, Result<Option<TimedOffset>, ReadError>>;

    /// When the batch that holds this offset was appended, as far as memory knows; `None`: no batch holds it. Does not block.
    fn append_time(&self, at: Offset) -> Option<AppendTime>;

    /// When the batch that holds this offset was appended, or an earlier one less than a second before. `None`: no batch
    /// holds it. Blocks on the disk.
    ///
    /// # Errors
    /// Those of reading.
    fn find_append_time(&self, at: Offset) -> Result<Option<Timestamp>, ReadError>;

    /// Notifies once when a batch becomes durable or the partition goes. Register, then check, then wait.
    fn notify_on_append(&self, waiter: Weak<Notify>);
}

/// State kept above the engine for a partition, as stored in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// It covers the batches below this offset; replay goes on from here.
    pub covers: Offset,
    /// Bytes that only their owner understands.
    pub blob: Bytes,
}

/// Who can be asked for snapshots. Called by the checkpoint without any lock of the engine held.
pub trait SnapshotSource {
    /// State of this partition together with the offset it covers, taken under one lock; `None`: nothing to keep.
    fn snapshot(&self, key: PartitionKey) -> Option<Snapshot>;
}

/// Who listens to recovery. Snapshots come first, then batches and deletions in LSN order.
pub trait Replay {
    /// State from the checkpoint.
    fn snapshot(&mut self, key: PartitionKey, snapshot: Snapshot);

    /// A batch at or behind the snapshot's offset, with its bytes. `lsn` is durable.
    fn batch(&mut self, key: PartitionKey, header: &BatchHeader, batch: &[u8], append_time: Timestamp);

    /// A topic that was deleted.
    fn topic_deleted(&mut self, topic: TopicId);

    /// When all is replayed: the partitions that this state knows of, those included in which nothing was ever stored.
    fn partitions(&self) -> Vec<PartitionKey> {
        Vec::new()
    }

    /// When all is replayed: whether the records of a partition are in memory alone, so that no file tells of them.
    fn is_in_memory(&self, _key: PartitionKey) -> bool {
        false
    }

    /// When all is replayed: what [`SnapshotSource::snapshot`] would say now, for the checkpoint that ends recovery.
    fn replayed_snapshot(&self, key: PartitionKey) -> Option<Snapshot>;
}

/// Who can be asked for snapshots while the broker runs.
pub type SharedSnapshots = Arc<dyn SnapshotSource + Send + Sync>;
