//! The formats of `docs/storage-format.md` once more, as far as the rules need them: read from whole bytes, without any check,
//! and without the code that is tested.

use std::collections::BTreeSet;

use super::super::*;

fn at<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    bytes[from..from + N].try_into().unwrap()
}

pub(super) fn u32_at(bytes: &[u8], from: usize) -> usize {
    usize::try_from(u32::from_le_bytes(at(bytes, from))).unwrap()
}

pub(super) fn u64_at(bytes: &[u8], from: usize) -> u64 {
    u64::from_le_bytes(at(bytes, from))
}

fn offset_at(bytes: &[u8], from: usize) -> Offset {
    Offset::new(i64::from_le_bytes(at(bytes, from))).unwrap()
}

fn key_at(bytes: &[u8], topic: usize, partition: usize) -> PartitionKey {
    PartitionKey {
        topic: TopicId::from_bytes(at(bytes, topic)),
        partition: PartitionId(u32::from_le_bytes(at(bytes, partition))),
    }
}

/// A checkpoint.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) seq: u64,
    pub(super) lsn: u64,
    pub(super) clean_end: u64,
    /// With its checksum.
    pub(super) bytes: u64,
    /// Partitions of which it has the last, partial block.
    pub(super) put_back: BTreeSet<PartitionKey>,
    /// Segments by their partition and base: bytes of batches, and whether it is the last one of its partition.
    pub(super) segments: BTreeMap<(PartitionKey, Offset), (u64, bool)>,
}

impl Record {
    pub(super) fn of(file: &[u8]) -> Self {
        assert_eq!(&file[..8], b"NARUCKPT");
        let (mut segments, mut put_back) = (BTreeMap::new(), BTreeSet::new());
        let mut next = 76;
        for _ in 0..u32_at(file, 68) {
            let key = key_at(file, next, next + 16);
            let flags = u32_at(file, next + 20);
            let (count, quarantined) = (u32_at(file, next + 52), u32_at(file, next + 56));
            next += 60;
            for n in 1..=count {
                segments.insert(
                    (key, offset_at(file, next)),
                    (u64_at(file, next + 16), n == count),
                );
                next += 52;
            }
            next += 16 * quarantined;
            if flags & 1 != 0 {
                next += 12 + u32_at(file, next + 8);
            }
            if flags & 2 != 0 {
                next += 4 + u32_at(file, next);
                put_back.insert(key);
            }
        }
        Self {
            seq: u64_at(file, 40),
            lsn: u64_at(file, 48),
            clean_end: u64_at(file, 56),
            bytes: 40 + u64_at(file, 32) + 4,
            put_back,
            segments,
        }
    }
}

/// A batch in a group.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) key: PartitionKey,
    pub(super) base: Offset,
    pub(super) last: Offset,
    /// In its file.
    pub(super) from: u64,
    pub(super) to: u64,
}

/// A group of the journal.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) lsn: u64,
    pub(super) from: u64,
    /// Behind header and table.
    pub(super) payload: u64,
    /// Behind the padding.
    pub(super) to: u64,
    pub(super) entries: usize,
    pub(super) parts: Vec<Part>,
    /// Topics that it deletes.
    pub(super) deleted: Vec<TopicId>,
}

/// The first LSN of a journal file, if it was ever used, and the groups of its last lap.
pub(super) fn groups_of(file: &[u8]) -> Option<(u64, Vec<Group>)> {
    if !file.starts_with(b"NARUJRNL") {
        return None;
    }
    let first = u64_at(file, 48);
    let mut groups: Vec<Group> = Vec::new();
    let mut from = 8192;
    while from + 128 <= file.len() {
        let lsn = first + groups.len() as u64;
        // Behind the last one stand zeros, or an earlier lap with smaller numbers.
        if !file[from..].starts_with(b"NGRP") || u64_at(file, from + 8) != lsn {
            break;
        }
        let group = group_at(file, from, lsn);
        from = usize::try_from(group.to).unwrap();
        groups.push(group);
    }
    Some((first, groups))
}

fn group_at(file: &[u8], from: usize, lsn: u64) -> Group {
    let entries = u32_at(file, from + 28);
    let payload = from + 128 + 64 * entries;
    let (mut parts, mut deleted) = (Vec::new(), Vec::new());
    for entry in (0..entries).map(|n| from + 128 + 64 * n) {
        let key = key_at(file, entry + 8, entry + 4);
        if file[entry] == 2 {
            deleted.push(key.topic);
        } else if file[entry] == 1 {
            let begin = (payload + u32_at(file, entry + 40)) as u64;
            parts.push(Part {
                key,
                base: offset_at(file, entry + 24),
                last: offset_at(file, entry + 32),
                from: begin,
                to: begin + u32_at(file, entry + 44) as u64,
            });
        }
    }
    Group {
        lsn,
        from: from as u64,
        payload: payload as u64,
        to: (payload + u32_at(file, from + 32)).next_multiple_of(4096) as u64,
        entries,
        parts,
        deleted,
    }
}

/// The partition and the base offset that the path of a segment names.
pub(super) fn segment_of(path: &str) -> (PartitionKey, Offset) {
    let names: Vec<_> = path.split('/').collect();
    let key = PartitionKey {
        topic: TopicId::from_bytes(uuid::Uuid::parse_str(names[1]).unwrap().into_bytes()),
        partition: PartitionId(names[2].parse().unwrap()),
    };
    let base = names[3].trim_end_matches(".log").parse().unwrap();
    (key, offset(base))
}
