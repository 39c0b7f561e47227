//! The last, partial blocks of active segments. They are written again in place with every batch that follows, and hold bytes that the
//! journal does not have any more; so the checkpoint keeps a copy, and recovery puts it back before it writes anything behind.
//! `docs/adr/0020-partial-blocks-in-the-checkpoint.md` says why.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;

use super::format::checkpoint::{PartitionCheckpoint, SegmentCheckpoint};
use super::paths;
use crate::disk::{AlignedBuf, BLOCK_BYTES, Disk, DiskFile, Mode, read_exact_at};
use crate::model::{PartitionKey, TopicId};
use crate::planted::{self, Bug};
use crate::record::crc32c;

/// Most bytes of such blocks in one checkpoint record, and most kept for partitions whose file is closed: about 8,000 of them. The
/// rest goes without, as before there were any copies; the broker's own partitions are the first of all.
pub(super) const PARTIAL_BLOCKS_BYTES_MAX: usize = 16 << 20;

const SECTOR_BYTES: usize = 512;

/// The trusted bytes of a last block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Partial {
    /// CRC-32C of the bytes.
    pub(super) crc: u32,
    /// Themselves, if they are known.
    pub(super) bytes: Option<Bytes>,
}

impl Partial {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self {
            crc: crc32c(bytes),
            bytes: Some(Bytes::copy_from_slice(bytes)),
        }
    }

    fn len(&self) -> usize {
        self.bytes.as_ref().map_or(0, Bytes::len)
    }
}

/// Those of partitions whose files are closed.
#[derive(Debug, Default)]
pub(super) struct Partials {
    of: BTreeMap<PartitionKey, Partial>,
    bytes: usize,
}

impl Partials {
    pub(super) fn insert(&mut self, key: PartitionKey, mut partial: Partial) {
        self.remove(key);
        if self.bytes + partial.len() > PARTIAL_BLOCKS_BYTES_MAX {
            partial.bytes = None;
        }
        self.bytes += partial.len();
        self.of.insert(key, partial);
    }

    pub(super) fn remove(&mut self, key: PartitionKey) {
        self.bytes -= self.of.remove(&key).map_or(0, |partial| partial.len());
    }

    pub(super) fn get(&self, key: PartitionKey) -> Option<&Partial> {
        self.of.get(&key)
    }

    pub(super) fn forget_topic(&mut self, topic: TopicId) {
        self.of.retain(|key, _| key.topic != topic);
        self.bytes = self.of.values().map(Partial::len).sum();
    }
}

/// Leaves out of a record what is more than so many bytes. It is in the order of keys: the broker's own partitions are the first.
pub(super) fn keep_within(partitions: &mut [PartitionCheckpoint], max: usize) {
    let mut room = max;
    for partition in partitions {
        let bytes = partition.partial.as_ref().map_or(0, Bytes::len);
        match room.checked_sub(bytes) {
            Some(left) => room = left,
            None => partition.partial = None,
        }
    }
}

/// The copy that a record has of the last block of a partition's newest segment.
pub(super) fn copy_of(partition: &PartitionCheckpoint) -> Option<&Bytes> {
    let copy = partition.partial.as_ref();
    copy.filter(|_| !planted::is(Bug::PartialBlockLeft))
}

/// Up to where the file of a segment has to reach: what is missing behind that can be [put back](put_back).
pub(super) fn needed_bytes(partition: &PartitionCheckpoint, segment: &SegmentCheckpoint) -> u64 {
    let newest = partition.segments.last();
    let copy = copy_of(partition).filter(|_| newest.is_some_and(|newest| newest.base == segment.base));
    segment.bytes - copy.map_or(0, |copy| copy.len() as u64)
}

/// The last, partial block of a partition's newest segment, if the file has the bytes of which the checkpoint has the checksum.
pub(super) fn in_file(disk: &dyn Disk, partition: &PartitionCheckpoint) -> io::Result<Option<Bytes>> {
    let Some(active) = partition.segments.last() else {
        return Ok(Some(Bytes::new()));
    };
    let mut bytes = vec![0; usize::try_from(active.bytes % BLOCK_BYTES as u64).unwrap_or_default()];
    let file = disk.open(&paths::segment(partition.key, active.base), Mode::Buffered)?;
    let at = active.bytes - bytes.len() as u64;
    let read = read_exact_at(&*file, &mut bytes, at);
    let holds = read.is_ok() && crc32c(&bytes) == partition.partial_crc;
    Ok(holds.then(|| Bytes::from(bytes)))
}

/// Writes the block again from the copy in the checkpoint, if there is one, durably. What stands behind it stays, as far as it
/// can be read: it may be the only copy of something.
pub(super) fn put_back(disk: &dyn Disk, partition: &PartitionCheckpoint) -> io::Result<()> {
    let (Some(active), Some(bytes)) = (partition.segments.last(), copy_of(partition)) else {
        return Ok(());
    };
    let path = paths::segment(partition.key, active.base);
    let at = active.bytes - bytes.len() as u64;
    let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
    let there = disk.open(&path, Mode::Buffered)?;
    for (n, sector) in block.chunks_mut(SECTOR_BYTES).enumerate() {
        // A bad sector, or the end of the file: nothing that could be kept.
        let _ = read_exact_at(&*there, sector, at + (n * SECTOR_BYTES) as u64);
    }
    block[..bytes.len()].copy_from_slice(bytes);
    let file = disk.open(&path, Mode::Direct)?;
    file.write_all_at(&block, at)?;
    file.sync_data()
}

/// A segment file as it will be once its last block is [put back](put_back); for who only reads.
#[derive(Debug)]
pub(super) struct AsPutBack {
    file: Box<dyn DiskFile>,
    at: u64,
    bytes: Bytes,
}

impl AsPutBack {
    pub(super) fn new(file: Box<dyn DiskFile>, end: u64, bytes: Bytes) -> Self {
        Self {
            file,
            at: end - bytes.len() as u64,
            bytes,
        }
    }
}

impl DiskFile for AsPutBack {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        if at < self.at {
            // Up to the block alone: it may be what cannot be read.
            let before = usize::try_from(self.at - at).unwrap_or(usize::MAX).min(buf.len());
            return self.file.read_at(&mut buf[..before], at);
        }
        let inside = usize::try_from(at - self.at).unwrap_or(usize::MAX);
        match self.bytes.get(inside..) {
            Some(bytes) if !bytes.is_empty() => {
                let len = bytes.len().min(buf.len());
                buf[..len].copy_from_slice(&bytes[..len]);
                Ok(len)
            }
            _ => self.file.read_at(buf, at),
        }
    }

    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn drop_cache(&self, at: u64, len: u64) -> io::Result<()> {
        self.file.drop_cache(at, len)
    }
}
