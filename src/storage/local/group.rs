//! Journal groups: open, while batches are taken in; written, as part of the memory tail.

use std::sync::Arc;
use std::time::Duration;

use super::blocks::{Blocks, BlocksBuilder, CopiedBatch};
use super::buffers::BufferPool;
use super::format::journal::{
    AppendEntry, ENTRY_BYTES, Entry, GROUP_HEADER_BYTES, GroupHeader, Place, chain_hash, group_bytes,
};
use super::log::LocalLog;
use crate::disk::BLOCK_BYTES;
use crate::model::{Lsn, Offset, PartitionKey, Timestamp, TopicId};
use crate::record::SealedBatch;

/// The bytes of a batch that waits.
#[derive(Debug)]
pub(super) enum Held {
    /// As they came: to be copied when the group is written.
    Whole(SealedBatch),
    /// As they will be written.
    Copied(CopiedBatch),
}

/// A batch that waits for its group to be written.
#[derive(Debug)]
pub(super) struct PendingBatch {
    pub(super) log: Arc<LocalLog>,
    pub(super) base: Offset,
    pub(super) last: Offset,
    /// Bytes of the batch.
    pub(super) length: u32,
    /// CRC-32C of all its bytes.
    pub(super) crc: u32,
    pub(super) starts_segment: bool,
    /// Where it begins, behind [`OpenGroup::lead_bytes`] of the payload.
    pub(super) position: u64,
    pub(super) append_time: Timestamp,
    pub(super) bytes: Held,
}

impl PendingBatch {
    /// Its entry in the table; `position` counts from the end of the table.
    fn entry(&self, position: usize) -> AppendEntry {
        AppendEntry {
            key: self.log.partition(),
            base: self.base,
            last: self.last,
            starts_segment: self.starts_segment,
            position: u32::try_from(position).expect("a group has fewer bytes than 2^32"),
            length: self.length,
            append_time: self.append_time,
            crc: self.crc,
        }
    }

    /// Puts it where it stands in its group.
    fn write(self, at: usize, blocks: &mut BlocksBuilder<'_>) -> WrittenBatch {
        match self.bytes {
            Held::Whole(batch) => blocks.push(&batch, at),
            Held::Copied(batch) => blocks.push_copied(batch, at),
        }
        WrittenBatch {
            base: self.base,
            last: self.last,
            log: self.log,
            position: at,
            length: self.length as usize,
            starts_segment: self.starts_segment,
            append_time: self.append_time,
        }
    }
}

/// The group that takes batches in.
#[derive(Debug)]
pub(super) struct OpenGroup {
    pub(super) lsn: Lsn,
    pub(super) appends: Vec<PendingBatch>,
    /// Partitions and where they begin from now on.
    pub(super) trims: Vec<(Arc<LocalLog>, Offset)>,
    pub(super) deletions: Vec<TopicId>,
    /// Bytes of batches, and of gaps between them.
    pub(super) payload_bytes: u64,
    /// Some batch stands as in its segment.
    pub(super) has_large: bool,
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
            has_large: false,
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

    /// Zeros between the table and the first batch: where batches stand as in their segments, they count from a block.
    fn lead_bytes(&self) -> u64 {
        let table_end = GROUP_HEADER_BYTES as u64 + u64::from(self.entries()) * ENTRY_BYTES as u64;
        if self.has_large {
            table_end.next_multiple_of(BLOCK_BYTES as u64) - table_end
        } else {
            0
        }
    }

    /// Bytes in the journal, with padding.
    pub(super) fn total_bytes(&self) -> u64 {
        group_bytes(self.entries(), self.lead_bytes() + self.payload_bytes)
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
    pub(super) blocks: Blocks,
    pub(super) payload_start: usize,
    pub(super) appends: Vec<WrittenBatch>,
    pub(super) trims: Vec<(Arc<LocalLog>, Offset)>,
    pub(super) deletions: Vec<TopicId>,
    pub(super) granted: u64,
    /// Monotonic time of writing.
    pub(super) written: Duration,
}

impl Group {
    /// Memory that it holds on to: bytes, the block that aligning them costs, and what is kept per batch here and in the
    /// partition.
    pub(super) fn memory_bytes(&self) -> u64 {
        (self.blocks.buffer_bytes() + BLOCK_BYTES + self.appends.len() * 160) as u64
    }

    pub(super) fn batch_bytes(&self, batch: &WrittenBatch) -> &[u8] {
        self.blocks.get(batch.position, batch.position + batch.length)
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
    let table_end = GROUP_HEADER_BYTES + entries as usize * ENTRY_BYTES;
    let lead = usize::try_from(open.lead_bytes()).expect("a block has 4,096 bytes");
    let payload_start = table_end + lead;
    let header = GroupHeader {
        lsn: open.lsn,
        previous: framing.previous,
        incarnation: framing.incarnation,
        entries,
        payload_bytes: u32::try_from(lead as u64 + open.payload_bytes)
            .expect("a group has fewer bytes than 2^32"),
        written: framing.written,
    };
    // Large batches are there already, in blocks of their own.
    let room = if open.has_large { payload_start } else { total };
    let mut blocks = BlocksBuilder::new(pool, payload_start, room);
    let hash = write_front(blocks.front(), &open, table_end, &header, &framing.place);
    let mut appends = Vec::with_capacity(open.appends.len());
    for pending in open.appends {
        let at =
            payload_start + usize::try_from(pending.position).expect("a group has fewer bytes than 2^32");
        appends.push(pending.write(at, &mut blocks));
    }
    Group {
        lsn: open.lsn,
        hash,
        blocks: blocks.finish(total),
        payload_start,
        appends,
        trims: open.trims,
        deletions: open.deletions,
        granted: open.granted,
        written: framing.mono,
    }
}

/// Writes everything in front of the payload; gives what the next group says of this one.
fn write_front(
    front: &mut [u8],
    open: &OpenGroup,
    table_end: usize,
    header: &GroupHeader,
    place: &Place,
) -> u64 {
    let payload_start = front.len();
    let batches = open.appends.iter().map(|pending| {
        let position = usize::try_from(pending.position).expect("a group has fewer bytes than 2^32");
        Entry::Append(pending.entry(payload_start - table_end + position))
    });
    let all = batches.chain(entries_without_payload(&open.trims, &open.deletions));
    for (to, entry) in front[GROUP_HEADER_BYTES..table_end]
        .chunks_exact_mut(ENTRY_BYTES)
        .zip(all)
    {
        to.copy_from_slice(&entry.encode());
    }
    front[table_end..].fill(0);
    header.encode_into(&mut front[..table_end], place);
    chain_hash(front.first_chunk().expect("a group has a header"))
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

/// What the tail and the applier need to know of a partition without its lock.
pub(super) fn key_of(batch: &WrittenBatch) -> PartitionKey {
    batch.log.partition()
}
