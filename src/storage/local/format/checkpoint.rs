//! The checkpoint record: what is in the segments, so that the journal below it can be used anew.

use bytes::{Buf, BufMut, Bytes};

use super::{DirectoryId, FormatError, take};
use crate::disk::BLOCK_BYTES;
use crate::model::{Lsn, Offset, PartitionId, PartitionKey, Timestamp, TopicId};
use crate::record::crc32c;

/// Version 1 had no partial blocks, and is read as well.
const VERSION: u32 = 2;
const VERSION_MIN: u32 = 1;
const MAGIC: [u8; 8] = *b"NARUCKPT";
const FLAG_CLEAN: u32 = 1;
const FLAG_SNAPSHOT: u32 = 1;
const FLAG_PARTIAL: u32 = 2;
const FLAG_SEALED: u32 = 1;
/// Bytes before the body: magic, version, flags, directory, length of the body.
pub(in crate::storage::local) const PREFIX_BYTES: usize = 40;
/// Behind the body: the checksum.
const CRC_BYTES: usize = 4;
/// No record has more bytes: about 100 times what 20,000 partitions with many segments need. What claims more is none, and
/// is not read.
pub const CHECKPOINT_BYTES_MAX: usize = 1 << 30;

/// One checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Grows by one with every record.
    pub seq: u64,
    /// Every group up to this one is in the segments, and they are synced.
    pub lsn: Lsn,
    /// Set by a clean stop: the last group of the journal.
    pub clean_end: Option<Lsn>,
    /// Incarnation of the broker that wrote it.
    pub incarnation: u32,
    /// The partitions that have data, ordered by key.
    pub partitions: Vec<PartitionCheckpoint>,
    /// Topics deleted at or below `lsn` whose files may still be there.
    pub deleted: Vec<TopicId>,
}

/// One partition in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionCheckpoint {
    /// Which one.
    pub key: PartitionKey,
    /// First readable offset.
    pub log_start: Offset,
    /// Next offset behind the trusted bytes.
    pub end: Offset,
    /// Append time of the newest batch.
    pub last_append: Timestamp,
    /// CRC-32C of the trusted bytes in the last, partial block of the active segment.
    pub partial_crc: u32,
    /// These bytes, if the record has them.
    pub partial: Option<Bytes>,
    /// Segments, oldest first; the last one is active unless it is sealed.
    pub segments: Vec<SegmentCheckpoint>,
    /// Damaged ranges: first and last offset, inclusive.
    pub quarantined: Vec<(Offset, Offset)>,
    /// State kept above the engine, with the offset it covers.
    pub snapshot: Option<(Offset, Bytes)>,
}

/// One segment in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentCheckpoint {
    /// Base offset.
    pub base: Offset,
    /// Next offset behind its last batch.
    pub end: Offset,
    /// Bytes of its batches.
    pub bytes: u64,
    /// Append time of its first batch.
    pub oldest_append: Timestamp,
    /// Append time of its last batch.
    pub newest_append: Timestamp,
    /// Greatest timestamp of its records.
    pub max_timestamp: Timestamp,
    /// Nothing is appended to it any more.
    pub sealed: bool,
}

/// How many bytes a record has, by what stands at its front; no more than [`CHECKPOINT_BYTES_MAX`].
///
/// # Errors
/// It is none.
pub fn record_bytes(front: &[u8]) -> Result<usize, FormatError> {
    let mut buf = front;
    if take::<8>(&mut buf)? != MAGIC {
        return Err(FormatError::Magic("checkpoint"));
    }
    take::<24>(&mut buf)?;
    let length = buf.try_get_u64_le()?;
    let bytes = length
        .saturating_add(PREFIX_BYTES as u64)
        .saturating_add(CRC_BYTES as u64);
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes <= CHECKPOINT_BYTES_MAX)
        .ok_or(FormatError::TooLong {
            bytes,
            max: CHECKPOINT_BYTES_MAX,
        })
}

impl Checkpoint {
    /// The whole record.
    pub fn encode(&self, directory: DirectoryId) -> Vec<u8> {
        let mut body = Vec::new();
        body.put_u64_le(self.seq);
        body.put_u64_le(self.lsn.0);
        body.put_u64_le(self.clean_end.unwrap_or_default().0);
        body.put_u32_le(self.incarnation);
        put_len(&mut body, self.partitions.len());
        put_len(&mut body, self.deleted.len());
        for partition in &self.partitions {
            partition.encode(&mut body);
        }
        for topic in &self.deleted {
            body.put_slice(topic.as_bytes());
        }
        let mut out = Vec::with_capacity(body.len().saturating_add(64));
        out.put_slice(&MAGIC);
        out.put_u32_le(VERSION);
        out.put_u32_le(if self.clean_end.is_some() { FLAG_CLEAN } else { 0 });
        out.put_slice(&directory);
        out.put_u64_le(body.len() as u64);
        out.extend_from_slice(&body);
        let crc = crc32c(&out);
        out.put_u32_le(crc);
        out
    }

    /// Reads a record from the front of a file; what stands behind it is of an older, longer one.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn decode(bytes: &[u8], directory: DirectoryId) -> Result<Self, FormatError> {
        let length = record_bytes(bytes)?.saturating_sub(PREFIX_BYTES.saturating_add(CRC_BYTES));
        let mut buf = bytes.get(MAGIC.len()..).ok_or(FormatError::Truncated)?;
        let version = buf.try_get_u32_le()?;
        let flags = buf.try_get_u32_le()?;
        let owner = take::<16>(&mut buf)?;
        buf.try_get_u64_le()?;
        let covered = length.saturating_add(PREFIX_BYTES);
        let (record, rest) = bytes.split_at_checked(covered).ok_or(FormatError::Truncated)?;
        let crc = rest.first_chunk::<4>().ok_or(FormatError::Truncated)?;
        if crc32c(record) != u32::from_le_bytes(*crc) {
            return Err(FormatError::Checksum);
        }
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(FormatError::Version(version));
        }
        if owner != directory {
            return Err(FormatError::OtherDirectory);
        }
        let body = buf.get(..length).ok_or(FormatError::Truncated)?;
        Self::decode_body(body, flags & FLAG_CLEAN != 0)
    }

    fn decode_body(mut buf: &[u8], clean: bool) -> Result<Self, FormatError> {
        let seq = buf.try_get_u64_le()?;
        let lsn = Lsn(buf.try_get_u64_le()?);
        let end = Lsn(buf.try_get_u64_le()?);
        let incarnation = buf.try_get_u32_le()?;
        let partition_count = buf.try_get_u32_le()?;
        let deleted_count = buf.try_get_u32_le()?;
        let mut partitions = Vec::new();
        for _ in 0..partition_count {
            partitions.push(PartitionCheckpoint::decode(&mut buf)?);
        }
        let mut deleted = Vec::new();
        for _ in 0..deleted_count {
            deleted.push(TopicId::from_bytes(take::<16>(&mut buf)?));
        }
        if !buf.is_empty() {
            return Err(FormatError::Field("length"));
        }
        Ok(Self {
            seq,
            lsn,
            clean_end: clean.then_some(end),
            incarnation,
            partitions,
            deleted,
        })
    }
}

impl PartitionCheckpoint {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_slice(self.key.topic.as_bytes());
        out.put_u32_le(self.key.partition.0);
        let snapshot = if self.snapshot.is_some() { FLAG_SNAPSHOT } else { 0 };
        let partial = if self.partial.is_some() { FLAG_PARTIAL } else { 0 };
        out.put_u32_le(snapshot | partial);
        out.put_i64_le(self.log_start.get());
        out.put_i64_le(self.end.get());
        out.put_i64_le(self.last_append.0);
        out.put_u32_le(self.partial_crc);
        put_len(out, self.segments.len());
        put_len(out, self.quarantined.len());
        for segment in &self.segments {
            out.put_i64_le(segment.base.get());
            out.put_i64_le(segment.end.get());
            out.put_u64_le(segment.bytes);
            out.put_i64_le(segment.oldest_append.0);
            out.put_i64_le(segment.newest_append.0);
            out.put_i64_le(segment.max_timestamp.0);
            out.put_u32_le(if segment.sealed { FLAG_SEALED } else { 0 });
        }
        for (first, last) in &self.quarantined {
            out.put_i64_le(first.get());
            out.put_i64_le(last.get());
        }
        if let Some((covers, blob)) = &self.snapshot {
            out.put_i64_le(covers.get());
            put_len(out, blob.len());
            out.put_slice(blob);
        }
        if let Some(partial) = &self.partial {
            put_len(out, partial.len());
            out.put_slice(partial);
        }
    }

    fn decode(buf: &mut &[u8]) -> Result<Self, FormatError> {
        let topic = TopicId::from_bytes(take::<16>(buf)?);
        let key = PartitionKey {
            topic,
            partition: PartitionId(buf.try_get_u32_le()?),
        };
        let flags = buf.try_get_u32_le()?;
        let log_start = get_offset(buf)?;
        let end = get_offset(buf)?;
        let last_append = Timestamp(buf.try_get_i64_le()?);
        let partial_crc = buf.try_get_u32_le()?;
        let segment_count = buf.try_get_u32_le()?;
        let quarantined_count = buf.try_get_u32_le()?;
        let mut segments = Vec::new();
        for _ in 0..segment_count {
            segments.push(SegmentCheckpoint::decode(buf)?);
        }
        let mut quarantined = Vec::new();
        for _ in 0..quarantined_count {
            quarantined.push((get_offset(buf)?, get_offset(buf)?));
        }
        let snapshot = if flags & FLAG_SNAPSHOT == 0 {
            None
        } else {
            let covers = get_offset(buf)?;
            Some((covers, get_bytes(buf)?))
        };
        let partial = if flags & FLAG_PARTIAL == 0 {
            None
        } else {
            let bytes = get_bytes(buf)?;
            let end = segments.last().map_or(0, |active| active.bytes);
            let length = end.checked_rem(BLOCK_BYTES as u64);
            let fits = length == Some(bytes.len() as u64) && crc32c(&bytes) == partial_crc;
            Some(bytes)
                .filter(|_| fits)
                .ok_or(FormatError::Field("partial block"))
                .map(Some)?
        };
        Ok(Self {
            key,
            log_start,
            end,
            last_append,
            partial_crc,
            partial,
            segments,
            quarantined,
            snapshot,
        })
    }
}

impl SegmentCheckpoint {
    fn decode(buf: &mut &[u8]) -> Result<Self, FormatError> {
        Ok(Self {
            base: get_offset(buf)?,
            end: get_offset(buf)?,
            bytes: buf.try_get_u64_le()?,
            oldest_append: Timestamp(buf.try_get_i64_le()?),
            newest_append: Timestamp(buf.try_get_i64_le()?),
            max_timestamp: Timestamp(buf.try_get_i64_le()?),
            sealed: buf.try_get_u32_le()? & FLAG_SEALED != 0,
        })
    }
}

fn get_offset(buf: &mut &[u8]) -> Result<Offset, FormatError> {
    Offset::new(buf.try_get_i64_le()?).ok_or(FormatError::Field("offset"))
}

fn get_bytes(buf: &mut &[u8]) -> Result<Bytes, FormatError> {
    let length = usize::try_from(buf.try_get_u32_le()?).map_err(|_| FormatError::Field("length"))?;
    let (bytes, rest) = buf.split_at_checked(length).ok_or(FormatError::Truncated)?;
    *buf = rest;
    Ok(Bytes::copy_from_slice(bytes))
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.put_u32_le(u32::try_from(len).expect("limits keep every list of a checkpoint below 2^32"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(n: i64) -> Offset {
        Offset::new(n).unwrap()
    }

    fn segment(base: i64, end: i64, bytes: u64, sealed: bool) -> SegmentCheckpoint {
        SegmentCheckpoint {
            base: offset(base),
            end: offset(end),
            bytes,
            oldest_append: Timestamp(base + 100),
            newest_append: Timestamp(end + 100),
            max_timestamp: Timestamp(end + 50),
            sealed,
        }
    }

    fn example() -> Checkpoint {
        Checkpoint {
            seq: 5,
            lsn: Lsn(1000),
            clean_end: Some(Lsn(1001)),
            incarnation: 3,
            partitions: vec![
                PartitionCheckpoint {
                    key: PartitionKey::META,
                    log_start: offset(0),
                    end: offset(3),
                    last_append: Timestamp(1),
                    partial_crc: crc32c(&[7; 300]),
                    partial: Some(Bytes::from_static(&[7; 300])),
                    segments: vec![segment(0, 3, 300, false)],
                    quarantined: vec![],
                    snapshot: Some((offset(2), Bytes::from_static(b"state"))),
                },
                PartitionCheckpoint {
                    key: PartitionKey {
                        topic: TopicId::from_bytes([9; 16]),
                        partition: PartitionId(1),
                    },
                    log_start: offset(4),
                    end: offset(9),
                    last_append: Timestamp(7),
                    partial_crc: 8,
                    partial: None,
                    segments: vec![segment(0, 5, 300, true), segment(5, 9, 200, true)],
                    quarantined: vec![(offset(4), offset(4))],
                    snapshot: None,
                },
            ],
            deleted: vec![TopicId::from_bytes([1; 16])],
        }
    }

    #[test]
    fn record_comes_back_also_with_an_older_longer_one_behind() {
        let mut bytes = example().encode([7; 16]);
        assert_eq!(Checkpoint::decode(&bytes, [7; 16]), Ok(example()));
        bytes.extend_from_slice(b"rest of an older record");
        assert_eq!(Checkpoint::decode(&bytes, [7; 16]), Ok(example()));
        assert_eq!(
            Checkpoint::decode(&bytes, [8; 16]),
            Err(FormatError::OtherDirectory)
        );
    }

    #[test]
    fn record_of_version_1_is_read() {
        let mut expected = example();
        for partition in &mut expected.partitions {
            partition.partial = None;
        }
        // Without the flag nothing else is different.
        let mut bytes = expected.encode([7; 16]);
        let end = bytes.len() - 4;
        bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
        let crc = crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Checkpoint::decode(&bytes, [7; 16]), Ok(expected));
    }

    #[test]
    fn partial_block_that_is_not_the_one_meant_is_refused() {
        let mut record = example();
        record.partitions[0].partial_crc += 1;
        let bytes = record.encode([7; 16]);
        let refused = Err(FormatError::Field("partial block"));
        assert_eq!(Checkpoint::decode(&bytes, [7; 16]), refused);
    }

    #[test]
    fn record_that_claims_more_than_any_has_is_none() {
        let mut bytes = example().encode([7; 16]);
        assert_eq!(record_bytes(&bytes), Ok(bytes.len()));
        for (claimed, holds) in [
            (CHECKPOINT_BYTES_MAX - 44, true),
            (CHECKPOINT_BYTES_MAX - 43, false),
            (usize::MAX, false),
        ] {
            bytes[32..40].copy_from_slice(&(claimed as u64).to_le_bytes());
            assert_eq!(record_bytes(&bytes).is_ok(), holds, "{claimed}");
            assert!(Checkpoint::decode(&bytes, [7; 16]).is_err());
        }
        let error = record_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains(&CHECKPOINT_BYTES_MAX.to_string()), "{error}");
    }

    #[test]
    fn every_flip_and_every_cut_is_seen() {
        let bytes = example().encode([7; 16]);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert!(
                    Checkpoint::decode(&bad, [7; 16]).is_err(),
                    "bit {bit} of byte {at}"
                );
            }
            assert!(Checkpoint::decode(&bytes[..at], [7; 16]).is_err(), "cut at {at}");
        }
    }
}
