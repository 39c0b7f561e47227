//! Journal files and groups.
//!
//! A file begins with two copies of its header, a block each; groups follow, each on a block boundary:
//! `header 128 B | entry table 64 B each | payload | zeros to the next block`.

use bytes::{Buf, BufMut};

use super::{DirectoryId, FormatError, take};
use crate::model::{Lsn, Offset, PartitionId, PartitionKey, Timestamp, TopicId};
use crate::record::{crc32c, crc32c_append};

/// Journal files are written in blocks of this size.
pub const BLOCK: usize = 4096;
/// Where the first group of a file begins: behind two copies of the file header.
pub const GROUPS_START: u64 = 8192;
/// Bytes of a group header.
pub const GROUP_HEADER_BYTES: usize = 128;
/// Bytes of an entry in a group's table.
pub const ENTRY_BYTES: usize = 64;

const VERSION: u32 = 1;
const FILE_MAGIC: [u8; 8] = *b"NARUJRNL";
const GROUP_MAGIC: u32 = u32::from_le_bytes(*b"NGRP");
const FILE_HEADER_USED: usize = 84;

/// Header of a journal file. Rewritten, and synced, whenever the file is used anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// Length of the file in bytes.
    pub file_bytes: u64,
    /// Grows by one with every reuse of any file of the ring.
    pub generation: u64,
    /// LSN of the first group.
    pub first_lsn: Lsn,
    /// Sequence number of the newest checkpoint at that moment.
    pub checkpoint_seq: u64,
    /// LSN of that checkpoint.
    pub checkpoint_lsn: Lsn,
    /// Incarnation of the broker that wrote it.
    pub incarnation: u32,
}

impl FileHeader {
    /// One copy: a whole block.
    pub fn encode(&self, directory: DirectoryId) -> [u8; BLOCK] {
        let mut out = [0; BLOCK];
        let mut buf = out.as_mut_slice();
        buf.put_slice(&FILE_MAGIC);
        buf.put_u32_le(VERSION);
        buf.put_u32_le(0);
        buf.put_slice(&directory);
        buf.put_u64_le(self.file_bytes);
        buf.put_u64_le(self.generation);
        buf.put_u64_le(self.first_lsn.0);
        buf.put_u64_le(self.checkpoint_seq);
        buf.put_u64_le(self.checkpoint_lsn.0);
        buf.put_u32_le(self.incarnation);
        let (body, tail) = out.split_last_chunk_mut::<4>().expect("a block has 4,096 bytes");
        *tail = crc32c(body).to_le_bytes();
        out
    }

    /// Reads one copy.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn decode(block: &[u8; BLOCK], directory: DirectoryId) -> Result<Self, FormatError> {
        let (body, crc) = block.split_last_chunk::<4>().ok_or(FormatError::Truncated)?;
        let mut buf = body;
        if take::<8>(&mut buf)? != FILE_MAGIC {
            return Err(FormatError::Magic("journal file"));
        }
        if crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(FormatError::Checksum);
        }
        let version = buf.try_get_u32_le()?;
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        buf.try_get_u32_le()?;
        if take::<16>(&mut buf)? != directory {
            return Err(FormatError::OtherDirectory);
        }
        Ok(Self {
            file_bytes: buf.try_get_u64_le()?,
            generation: buf.try_get_u64_le()?,
            first_lsn: Lsn(buf.try_get_u64_le()?),
            checkpoint_seq: buf.try_get_u64_le()?,
            checkpoint_lsn: Lsn(buf.try_get_u64_le()?),
            incarnation: buf.try_get_u32_le()?,
        })
    }
}

/// Where a group stands: its checksum holds only there, so that bytes of an earlier lap, of another file or of another
/// directory are never taken for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory.
    pub directory: DirectoryId,
    /// Generation of the file.
    pub generation: u64,
    /// Position of the group in the file.
    pub position: u64,
}

impl Place {
    fn seed(&self) -> u32 {
        let mut bytes = [0; 32];
        let mut buf = bytes.as_mut_slice();
        buf.put_slice(&self.directory);
        buf.put_u64_le(self.generation);
        buf.put_u64_le(self.position);
        crc32c(&bytes)
    }
}

/// Header of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// Number of the group.
    pub lsn: Lsn,
    /// [`chain_hash`] of the header before.
    pub previous: u64,
    /// Incarnation of the broker that wrote it.
    pub incarnation: u32,
    /// Entries in the table.
    pub entries: u32,
    /// Bytes behind the table, without padding.
    pub payload_bytes: u32,
    /// Wall-clock time of writing.
    pub written: Timestamp,
}

impl GroupHeader {
    /// Bytes of the whole group with its padding.
    pub fn total_bytes(&self) -> u64 {
        group_bytes(self.entries, u64::from(self.payload_bytes))
    }

    /// Bytes of the entry table.
    pub fn table_bytes(&self) -> u64 {
        u64::from(self.entries).saturating_mul(ENTRY_BYTES as u64)
    }

    /// Where the payload begins, from the start of the group.
    pub fn payload_start(&self) -> u64 {
        self.table_bytes().saturating_add(GROUP_HEADER_BYTES as u64)
    }

    /// Writes the header in front of the table, which must stand behind it already.
    ///
    /// `front` is header and table together.
    pub fn encode_into(&self, front: &mut [u8], place: &Place) {
        let (header, table) = front
            .split_first_chunk_mut::<GROUP_HEADER_BYTES>()
            .expect("a group has a header");
        *header = [0; GROUP_HEADER_BYTES];
        let mut buf = header.as_mut_slice();
        buf.put_u32_le(GROUP_MAGIC);
        buf.put_u32_le(VERSION);
        buf.put_u64_le(self.lsn.0);
        buf.put_u64_le(self.previous);
        buf.put_u32_le(self.incarnation);
        buf.put_u32_le(self.entries);
        buf.put_u32_le(self.payload_bytes);
        buf.put_u32_le(0);
        buf.put_i64_le(self.written.0);
        let (body, crc) = header
            .split_last_chunk_mut::<4>()
            .expect("a header has 128 bytes");
        *crc = crc32c_append(crc32c_append(place.seed(), body), table).to_le_bytes();
    }

    /// Whether a header may be what damage has left of that of an empty group with this number: of its beginning, its number, the
    /// hash of the header before it, and that it has neither entries nor payload, at most one is gone. An empty group of an
    /// earlier lap has another number and another hash.
    pub fn is_left_of_empty(header: &[u8; GROUP_HEADER_BYTES], lsn: Lsn, previous: Option<u64>) -> bool {
        let at = |from: usize, expected: &[u8]| header.get(from..).is_some_and(|h| h.starts_with(expected));
        let is_numbered = at(8, &lsn.0.to_le_bytes());
        let follows = previous.map(|hash| at(16, &hash.to_le_bytes()));
        let marks = [
            Self::begins(header),
            is_numbered,
            at(28, &[0; 8]),
            follows.unwrap_or(true),
        ];
        let gone = marks.into_iter().filter(|mark| !mark).count();
        gone <= 1 && (is_numbered || follows.is_some())
    }

    /// How many of three marks of a group that was to follow another a damaged header still has: its beginning, its number, and
    /// the hash of the header before it.
    pub fn marks_of_next(header: &[u8; GROUP_HEADER_BYTES], lsn: Lsn, previous: Option<u64>) -> usize {
        let at = |from: usize, expected: &[u8]| header.get(from..).is_some_and(|h| h.starts_with(expected));
        let marks = [
            Self::begins(header),
            at(8, &lsn.0.to_le_bytes()),
            previous.is_some_and(|hash| at(16, &hash.to_le_bytes())),
        ];
        marks.into_iter().filter(|mark| *mark).count()
    }

    fn begins(header: &[u8; GROUP_HEADER_BYTES]) -> bool {
        let (magic, version) = (GROUP_MAGIC.to_le_bytes(), VERSION.to_le_bytes());
        header.starts_with(&magic) && header.get(4..).is_some_and(|h| h.starts_with(&version))
    }

    /// Reads the fields of a header without looking at its checksum; `None` if this is no group header at all.
    ///
    /// Needed to know how long the table is that the checksum covers.
    pub fn peek(header: &[u8; GROUP_HEADER_BYTES]) -> Option<Self> {
        Self::begins(header).then(|| Self::fields(header)).flatten()
    }

    /// Reads the fields of what may be a header, damaged in any way.
    pub fn fields(header: &[u8; GROUP_HEADER_BYTES]) -> Option<Self> {
        let mut buf = header.get(8..)?;
        let lsn = Lsn(buf.try_get_u64_le().ok()?);
        let previous = buf.try_get_u64_le().ok()?;
        let incarnation = buf.try_get_u32_le().ok()?;
        let entries = buf.try_get_u32_le().ok()?;
        let payload_bytes = buf.try_get_u32_le().ok()?;
        buf.try_get_u32_le().ok()?;
        let written = Timestamp(buf.try_get_i64_le().ok()?);
        Some(Self {
            lsn,
            previous,
            incarnation,
            entries,
            payload_bytes,
            written,
        })
    }

    /// Whether the checksum over header and table holds at this place.
    pub fn verify(front: &[u8], place: &Place) -> bool {
        let Some((header, table)) = front.split_first_chunk::<GROUP_HEADER_BYTES>() else {
            return false;
        };
        let Some((body, crc)) = header.split_last_chunk::<4>() else {
            return false;
        };
        crc32c_append(crc32c_append(place.seed(), body), table) == u32::from_le_bytes(*crc)
    }
}

/// Bytes of a group with so many entries and so much payload, padded to whole blocks.
pub fn group_bytes(entries: u32, payload_bytes: u64) -> u64 {
    let table = u64::from(entries).saturating_mul(ENTRY_BYTES as u64);
    let used = table
        .saturating_add(payload_bytes)
        .saturating_add(GROUP_HEADER_BYTES as u64);
    used.checked_next_multiple_of(BLOCK as u64).unwrap_or(u64::MAX)
}

/// What the next group's header says of this one.
pub fn chain_hash(header: &[u8; GROUP_HEADER_BYTES]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, header)
}

/// What an entry of a group does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Appends a batch.
    Append(AppendEntry),
    /// Removes a topic with all partitions.
    DeleteTopic(TopicId),
    /// Removes the records of a partition below an offset.
    Trim {
        /// The partition.
        key: PartitionKey,
        /// The first offset that stays.
        to: Offset,
    },
}

/// An appended batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendEntry {
    /// The partition.
    pub key: PartitionKey,
    /// Offset of the first record.
    pub base: Offset,
    /// Offset of the last record.
    pub last: Offset,
    /// Whether the batch is the first of a segment file.
    pub starts_segment: bool,
    /// Where it begins in the group's payload.
    pub position: u32,
    /// Its bytes.
    pub length: u32,
    /// When it was appended.
    pub append_time: Timestamp,
    /// CRC-32C of the whole batch as stored.
    pub crc: u32,
}

/// Whether a block begins like the header of a file or of a group, whole or not.
pub fn has_magic(block: &[u8]) -> bool {
    block.starts_with(&FILE_MAGIC) || block.starts_with(&GROUP_MAGIC.to_le_bytes())
}

const KIND_APPEND: u8 = 1;
const KIND_DELETE_TOPIC: u8 = 2;
const KIND_TRIM: u8 = 3;
const FLAG_STARTS_SEGMENT: u8 = 1;

impl Entry {
    /// Its bytes in the table.
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        let mut buf = out.as_mut_slice();
        match self {
            Self::Append(e) => {
                buf.put_u8(KIND_APPEND);
                buf.put_u8(if e.starts_segment { FLAG_STARTS_SEGMENT } else { 0 });
                buf.put_u16_le(0);
                buf.put_u32_le(e.key.partition.0);
                buf.put_slice(e.key.topic.as_bytes());
                buf.put_i64_le(e.base.get());
                buf.put_i64_le(e.last.get());
                buf.put_u32_le(e.position);
                buf.put_u32_le(e.length);
                buf.put_i64_le(e.append_time.0);
                buf.put_u32_le(0);
                buf.put_u32_le(e.crc);
            }
            Self::DeleteTopic(topic) => {
                buf.put_u8(KIND_DELETE_TOPIC);
                buf.put_slice(&[0; 7]);
                buf.put_slice(topic.as_bytes());
            }
            Self::Trim { key, to } => {
                buf.put_u8(KIND_TRIM);
                buf.put_slice(&[0; 3]);
                buf.put_u32_le(key.partition.0);
                buf.put_slice(key.topic.as_bytes());
                buf.put_i64_le(to.get());
            }
        }
        out
    }

    /// Reads an entry of a table whose checksum holds.
    ///
    /// # Errors
    /// `Field` for values that no Naru of this version writes.
    pub fn decode(bytes: &[u8; ENTRY_BYTES]) -> Result<Self, FormatError> {
        let mut buf = bytes.as_slice();
        let kind = buf.try_get_u8()?;
        let flags = buf.try_get_u8()?;
        buf.try_get_u16_le()?;
        let partition = PartitionId(buf.try_get_u32_le()?);
        let topic = TopicId::from_bytes(take::<16>(&mut buf)?);
        match kind {
            KIND_APPEND => {
                let base = Offset::new(buf.try_get_i64_le()?).ok_or(FormatError::Field("base offset"))?;
                let last = Offset::new(buf.try_get_i64_le()?).ok_or(FormatError::Field("last offset"))?;
                let position = buf.try_get_u32_le()?;
                let length = buf.try_get_u32_le()?;
                let append_time = Timestamp(buf.try_get_i64_le()?);
                buf.try_get_u32_le()?;
                let crc = buf.try_get_u32_le()?;
                let key = PartitionKey { topic, partition };
                let starts_segment = flags & FLAG_STARTS_SEGMENT != 0;
                Ok(Self::Append(AppendEntry {
                    key,
                    base,
                    last,
                    starts_segment,
                    position,
                    length,
                    append_time,
                    crc,
                }))
            }
            KIND_DELETE_TOPIC => Ok(Self::DeleteTopic(topic)),
            KIND_TRIM => {
                let to = Offset::new(buf.try_get_i64_le()?).ok_or(FormatError::Field("log start"))?;
                let key = PartitionKey { topic, partition };
                Ok(Self::Trim { key, to })
            }
            _ => Err(FormatError::Field("kind of entry")),
        }
    }
}

const _: () = assert!(FILE_HEADER_USED + 4 <= BLOCK);

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            directory: [3; 16],
            generation: 9,
            position: 8192,
        }
    }

    fn append() -> Entry {
        Entry::Append(AppendEntry {
            key: PartitionKey {
                topic: TopicId::from_bytes([5; 16]),
                partition: PartitionId(6),
            },
            base: Offset::new(100).unwrap(),
            last: Offset::new(199).unwrap(),
            starts_segment: true,
            position: 10,
            length: 2000,
            append_time: Timestamp(1_700_000_000_000),
            crc: 0x1234_5678,
        })
    }

    #[test]
    fn file_header_comes_back_and_every_flip_is_seen() {
        let header = FileHeader {
            file_bytes: 1 << 28,
            generation: 4,
            first_lsn: Lsn(77),
            checkpoint_seq: 3,
            checkpoint_lsn: Lsn(70),
            incarnation: 2,
        };
        let block = header.encode([1; 16]);
        assert_eq!(FileHeader::decode(&block, [1; 16]), Ok(header));
        assert_eq!(
            FileHeader::decode(&block, [2; 16]),
            Err(FormatError::OtherDirectory)
        );
        for at in (0..FILE_HEADER_USED).chain([2000, BLOCK - 1]) {
            let mut bad = block;
            bad[at] ^= 0x10;
            assert!(FileHeader::decode(&bad, [1; 16]).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_is_left_of_an_empty_group_is_told_from_that_of_an_earlier_lap() {
        let empty = |lsn, previous| {
            let header = GroupHeader {
                lsn: Lsn(lsn),
                previous,
                incarnation: 2,
                entries: 0,
                payload_bytes: 0,
                written: Timestamp(5),
            };
            let mut front = [0; GROUP_HEADER_BYTES];
            header.encode_into(&mut front, &place());
            front
        };
        let its = empty(12, 0xabcd);
        for bit in 0..8 * GROUP_HEADER_BYTES {
            let mut left = its;
            left[bit / 8] ^= 1 << (bit % 8);
            assert!(
                GroupHeader::is_left_of_empty(&left, Lsn(12), Some(0xabcd)),
                "bit {bit}"
            );
        }
        assert!(GroupHeader::is_left_of_empty(&its, Lsn(12), None));
        let earlier = empty(4, 0x1234);
        assert!(!GroupHeader::is_left_of_empty(&earlier, Lsn(12), Some(0xabcd)));
        assert!(!GroupHeader::is_left_of_empty(&earlier, Lsn(12), None));
    }

    #[test]
    fn group_holds_only_at_its_own_place() {
        let header = GroupHeader {
            lsn: Lsn(12),
            previous: 0xabcd,
            incarnation: 2,
            entries: 2,
            payload_bytes: 2000,
            written: Timestamp(5),
        };
        let mut front = vec![0; GROUP_HEADER_BYTES + 2 * ENTRY_BYTES];
        front[128..192].copy_from_slice(&append().encode());
        front[192..].copy_from_slice(&Entry::DeleteTopic(TopicId::from_bytes([8; 16])).encode());
        header.encode_into(&mut front, &place());
        assert_eq!(GroupHeader::peek(front.first_chunk().unwrap()), Some(header));
        assert!(GroupHeader::verify(&front, &place()));
        assert!(!GroupHeader::verify(
            &front,
            &Place {
                generation: 10,
                ..place()
            }
        ));
        assert!(!GroupHeader::verify(
            &front,
            &Place {
                position: 12288,
                ..place()
            }
        ));
        assert!(!GroupHeader::verify(
            &front,
            &Place {
                directory: [4; 16],
                ..place()
            }
        ));
        for at in 0..front.len() {
            let mut bad = front.clone();
            bad[at] ^= 1;
            assert!(!GroupHeader::verify(&bad, &place()), "byte {at}");
        }
    }

    #[test]
    fn entries_come_back() {
        for entry in [append(), Entry::DeleteTopic(TopicId::from_bytes([8; 16]))] {
            assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        }
        assert_eq!(Entry::decode(&[0; 64]), Err(FormatError::Field("kind of entry")));
    }

    #[test]
    fn groups_fill_whole_blocks() {
        assert_eq!(group_bytes(0, 0), 4096);
        assert_eq!(group_bytes(1, 4096 - 192), 4096);
        assert_eq!(group_bytes(1, 4096 - 191), 8192);
    }
}
