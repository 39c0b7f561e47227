//! Journal groups: open, while batches are taken in; written, as part of the memory tail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::format::journal::{
    AppendEntry, ENTRY_BYTES, Entry, GROUP_HEADER_BYTES, GroupHeader, Place, chain_hash, group_bytes,
};
use super::log::LocalLog;
use crate::disk::{AlignedBuf, BLOCK_BYTES};
use crate::model::{Lsn, Offset, PartitionKey, Timestamp, TopicId};
use crate::record::SealedBatch;

/// A batch that waits for its group to be written.
#[derive(Debug)]
pub(super) struct PendingBatch {
    pub(super) log: Arc<LocalLog>,
    pub(super) batch: SealedBatch,
    pub(super) starts_segment: bool,
    pub(super) append_time: Timestamp,
}

/// The group that takes batches in.
#[derive(Debug)]
pub(super) struct OpenGroup {
    pub(super) lsn: Lsn,
    pub(super) appends: Vec<PendingBatch>,
    /// Partitions and where they begin from now on.
    pub(super) trims: Vec<(Arc<LocalLog>, Offset)>,
    pub(super) deletions: Vec<TopicId>,
    /// Bytes of batches.
    pub(super) payload_bytes: u64,
    /// What the permits of its batches had.
    pub(super) granted: u64,
}

impl OpenGroup {
    pub(super) fn new(lsn: Lsn) -> Self {
        Self {
            lsn,
            appends: Vec::new(),
            trims: Vec::new(),
            deletions: Vec::new(),
            payload_bytes: 0,
            granted: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.trims.is_empty() && self.deletions.is_empty()
    }

    fn entries(&self) -> u32 {
        let entries = self.appends.len() + self.trims.len() + self.deletions.len();
        u32::try_from(entries).expect("a group has fewer bytes than 2^32")
    }

    /// Bytes in the journal, with padding.
    pub(super) fn total_bytes(&self) -> u64 {
        group_bytes(self.entries(), self.payload_bytes)
    }
}

/// A batch in a written group.
#[derive(Debug)]
pub(super) struct WrittenBatch {
    pub(super) log: Arc<LocalLog>,
    pub(super) base: Offset,
    pub(super) last: Offset,
    /// Where it begins in the group's bytes.
    pub(super) position: usize,
    pub(super) length: usize,
    pub(super) starts_segment: bool,
    pub(super) append_time: Timestamp,
}

/// A written group: the memory tail is made of these.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) lsn: Lsn,
    /// [`chain_hash`] of its header.
    pub(super) hash: u64,
    /// The whole group as written.
    pub(super) bytes: Bytes,
    pub(super) payload_start: usize,
    pub(super) appends: Vec<WrittenBatch>,
    pub(super) trims: Vec<(Arc<LocalLog>, Offset)>,
    pub(super) deletions: Vec<TopicId>,
    pub(super) granted: u64,
    /// Monotonic time of writing.
    pub(super) written: Duration,
}

impl Group {
    /// Memory that it holds on to: bytes, and what is kept per batch here and in the partition.
    pub(super) fn memory_bytes(&self) -> u64 {
        (BufferPool::rounded(self.bytes.len()) + self.appends.len() * 160) as u64
    }

    pub(super) fn batch_bytes(&self, batch: &WrittenBatch) -> &[u8] {
        &self.bytes[batch.position..batch.position + batch.length]
    }
}

/// What a group's header needs to know beside its content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Framing {
    pub(super) place: Place,
    pub(super) previous: u64,
    pub(super) incarnation: u32,
    pub(super) written: Timestamp,
    pub(super) mono: Duration,
}

/// Lays an open group out as it will stand in the journal.
pub(super) fn assemble(open: OpenGroup, framing: &Framing, pool: &Arc<BufferPool>) -> Group {
    let entries = open.entries();
    let total = usize::try_from(open.total_bytes()).expect("a group fits a journal file");
    let payload_start = GROUP_HEADER_BYTES + entries as usize * ENTRY_BYTES;
    let payload_bytes = u32::try_from(open.payload_bytes).expect("a group has fewer bytes than 2^32");
    let mut buf = pool.take(total);
    let mut table_at = GROUP_HEADER_BYTES;
    let mut at = payload_start;
    let mut appends = Vec::with_capacity(open.appends.len());
    for pending in open.appends {
        let (head, body) = (pending.batch.head(), pending.batch.body());
        let length = head.len() + body.len();
        buf[at..at + head.len()].copy_from_slice(head);
        buf[at + head.len()..at + length].copy_from_slice(body);
        let header = pending.batch.header();
        let entry = Entry::Append(AppendEntry {
            key: pending.log.partition(),
            base: header.base_offset,
            last: header.last_offset(),
            starts_segment: pending.starts_segment,
            position: u32::try_from(at - payload_start).expect("a group has fewer bytes than 2^32"),
            length: u32::try_from(length).expect("a batch has fewer bytes than 2^31"),
            append_time: pending.append_time,
            crc: pending.batch.whole_crc(),
        });
        buf[table_at..table_at + ENTRY_BYTES].copy_from_slice(&entry.encode());
        appends.push(WrittenBatch {
            log: pending.log,
            base: header.base_offset,
            last: header.last_offset(),
            position: at,
            length,
            starts_segment: pending.starts_segment,
            append_time: pending.append_time,
        });
        table_at += ENTRY_BYTES;
        at += length;
    }
    for entry in entries_without_payload(&open.trims, &open.deletions) {
        buf[table_at..table_at + ENTRY_BYTES].copy_from_slice(&entry.encode());
        table_at += ENTRY_BYTES;
    }
    // The buffer was used before: its old bytes must not reach the disk.
    buf[at..total].fill(0);
    let header = GroupHeader {
        lsn: open.lsn,
        previous: framing.previous,
        incarnation: framing.incarnation,
        entries,
        payload_bytes,
        written: framing.written,
    };
    header.encode_into(&mut buf[..payload_start], &framing.place);
    let hash = chain_hash(buf.first_chunk().expect("a group has a header"));
    let bytes = Bytes::from_owner(PooledBuf {
        buf: Some(buf),
        len: total,
        pool: Arc::clone(pool),
    });
    Group {
        lsn: open.lsn,
        hash,
        bytes,
        payload_start,
        appends,
        trims: open.trims,
        deletions: open.deletions,
        granted: open.granted,
        written: framing.mono,
    }
}

/// The entries that stand behind those of batches.
fn entries_without_payload<'a>(
    trims: &'a [(Arc<LocalLog>, Offset)],
    deletions: &'a [TopicId],
) -> impl Iterator<Item = Entry> + 'a {
    let trims = trims.iter().map(|(log, to)| Entry::Trim {
        key: log.partition(),
        to: *to,
    });
    trims.chain(deletions.iter().map(|topic| Entry::DeleteTopic(*topic)))
}

/// Aligned buffers that are used again, because memory that was not touched for a while is slow.
#[derive(Debug)]
pub(super) struct BufferPool {
    /// By length.
    free: Mutex<(BTreeMap<usize, Vec<AlignedBuf>>, usize)>,
    bytes_max: usize,
}

impl BufferPool {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            free: Mutex::default(),
            bytes_max,
        }
    }

    /// Lengths come in eight steps per power of two: few enough to meet again, close enough to waste an eighth at most.
    fn rounded(len: usize) -> usize {
        let step = (len.max(1).next_power_of_two() / 16).max(BLOCK_BYTES);
        len.next_multiple_of(step)
    }

    /// A buffer of at least `len` bytes with any content.
    fn take(&self, len: usize) -> AlignedBuf {
        let len = Self::rounded(len);
        {
            let mut free = self.free.lock().expect("no panics while locked");
            if let Some(buf) = free.0.get_mut(&len).and_then(Vec::pop) {
                free.1 -= len;
                return buf;
            }
        }
        AlignedBuf::zeroed(len)
    }

    fn give_back(&self, buf: AlignedBuf) {
        let mut free = self.free.lock().expect("no panics while locked");
        if free.1 + buf.len() <= self.bytes_max {
            free.1 += buf.len();
            free.0.entry(buf.len()).or_default().push(buf);
        }
    }
}

/// Goes back to the pool when the last slice of it is dropped.
struct PooledBuf {
    buf: Option<AlignedBuf>,
    len: usize,
    pool: Arc<BufferPool>,
}

impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        self.buf.as_deref().map_or(&[], |b| &b[..self.len])
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        if let Some(buf) = self.buf.take() {
            self.pool.give_back(buf);
        }
    }
}

/// What the tail and the applier need to know of a partition without its lock.
pub(super) fn key_of(batch: &WrittenBatch) -> PartitionKey {
    batch.log.partition()
}
