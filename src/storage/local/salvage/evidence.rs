//! What can still be told of durable journal groups that cannot be read: which offsets they may have held. So that no offset
//! is given a second time when a person gives such a group up.

use std::io;

use crate::disk::{AlignedBuf, read_exact_at};
use crate::model::{Lsn, Offset, PartitionKey};
use crate::record::{BatchHeader, DECOMPRESSED_BYTES_MAX, HEADER_BYTES, check_crc, crc32c};
use crate::storage::local::format::journal::{BLOCK, ENTRY_BYTES, Entry, GROUP_HEADER_BYTES};
use crate::storage::local::log::LIKE_IN_SEGMENT_FROM_BYTES;
use crate::storage::local::scan::ScannedFile;
use crate::storage::local::survey::Survey;

/// The least that a batch takes in a group: its entry of the table, its header, and a record.
const BATCH_BYTES_MIN: u64 = (ENTRY_BYTES + HEADER_BYTES) as u64 + RECORD_BYTES_MIN;
/// The least that a record takes, decompressed: seven numbers of a byte each.
const RECORD_BYTES_MIN: u64 = 7;
/// No group is larger.
const GROUP_BYTES_MAX: u64 = 64 << 20;

/// More records than any partition has had: a million in a second, for nine years. So many are left out where nothing tells.
pub(in crate::storage::local) const ANY: u64 = 1 << 48;

/// Some lost groups that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The first.
    pub first: Lsn,
    /// The last.
    pub last: Lsn,
    /// What they held.
    pub held: Held,
}

/// What they may have held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// These batches and no others: each holds by its own checksum, and the table vouches for all, or all but one.
    Batches(Vec<HeldBatch>),
    /// At most so many records, of whatever partition.
    AtMost(u64),
}

/// A batch of a lost group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldBatch {
    /// Its first offset.
    pub base: Offset,
    /// Its last offset.
    pub last: Offset,
    /// The partition that the table names. No checksum of its own says that this is right.
    pub key: Option<PartitionKey>,
}

/// What is known of each range of lost groups.
pub(in crate::storage::local) fn of_lost(files: &[ScannedFile], found: &Survey) -> Vec<Lost> {
    let of_range = |(index, (first, last)): (usize, &(Lsn, Lsn))| {
        let place = found.lost_at.get(index).copied().flatten();
        let behind = found.groups.iter().find(|group| group.lsn > *last);
        let region = place.map(|(file, from)| {
            let to = behind.filter(|group| group.file == file);
            (file, from, to.map_or(files[file].bytes, |group| group.position))
        });
        let batches = region
            .filter(|_| first == last)
            .and_then(|(file, from, to)| batches_of(&read(&files[file], from, to).ok()?));
        let held = match (batches, region) {
            (Some(batches), _) => Held::Batches(batches),
            // One file holds all of them if the group behind stands in it.
            (None, Some((file, from, to))) if behind.is_some_and(|group| group.file == file) => {
                Held::AtMost(records_in(to - from))
            }
            (None, _) if are_all_there(files, *first) => {
                Held::AtMost(records_in(files.iter().map(|file| file.bytes).sum()))
            }
            (None, _) => Held::AtMost(records_in((last.0 - first.0 + 1).saturating_mul(GROUP_BYTES_MAX))),
        };
        Lost {
            first: *first,
            last: *last,
            held,
        }
    };
    let tail = found.tail.map(|bytes| Lost {
        first: found.end.next(),
        last: Lsn(u64::MAX),
        held: Held::AtMost(bytes.map_or(ANY, records_in)),
    });
    found.lost.iter().enumerate().map(of_range).chain(tail).collect()
}

/// Whether no file is missing among those that may have held a group and what followed it.
fn are_all_there(files: &[ScannedFile], first: Lsn) -> bool {
    let mut headers: Vec<_> = files.iter().filter_map(|file| file.header).collect();
    headers.sort_by_key(|header| header.generation);
    let reaches = headers.first().is_some_and(|oldest| oldest.first_lsn <= first);
    reaches
        && headers
            .windows(2)
            .all(|pair| pair[0].generation + 1 == pair[1].generation)
}

/// Most records that so many bytes of journal hold, however well they are compressed.
pub(super) fn records_in(bytes: u64) -> u64 {
    let per_batch = DECOMPRESSED_BYTES_MAX as u64 / RECORD_BYTES_MIN;
    (bytes / BATCH_BYTES_MIN).saturating_mul(per_batch).min(ANY)
}

/// Behind the last offset of a partition that these groups may have held, if `next` is the one behind all that can be read. The
/// group that was `seen` last of the partition tells all that was before it.
pub(in crate::storage::local) fn end_at_most(next: Offset, seen: Option<Lsn>, lost: &[Lost]) -> Offset {
    let mut end = next;
    for lost in lost
        .iter()
        .filter(|lost| seen.is_none_or(|seen| seen < lost.last))
    {
        match &lost.held {
            Held::AtMost(records) => {
                let records = i64::try_from(*records).unwrap_or(i64::MAX);
                end = Offset::new(end.get().saturating_add(records)).unwrap_or(end);
            }
            Held::Batches(batches) => {
                for batch in batches.iter().filter(|batch| batch.base >= next) {
                    if batch.base == end {
                        end = batch.last.next();
                    }
                }
            }
        }
    }
    end
}

/// Behind every offset that any partition may have had.
pub(in crate::storage::local) fn anywhere() -> Offset {
    i64::try_from(ANY)
        .ok()
        .and_then(Offset::new)
        .unwrap_or(Offset::ZERO)
}

fn read(file: &ScannedFile, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let len = usize::try_from((to - from).min(GROUP_BYTES_MAX)).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut buf = AlignedBuf::zeroed(len / BLOCK * BLOCK);
    read_exact_at(&*file.file, &mut buf, from)?;
    Ok(buf.to_vec())
}

/// The batches of a group whose header or table does not hold, from all bytes up to the next group. The number of entries says
/// where the first batch stands, and is tried out.
fn batches_of(bytes: &[u8]) -> Option<Vec<HeldBatch>> {
    let most = bytes.len().saturating_sub(GROUP_HEADER_BYTES) / ENTRY_BYTES;
    (1..=most).find_map(|entries| {
        let start = GROUP_HEADER_BYTES + entries * ENTRY_BYTES;
        let found = tile(bytes, start, entries)?;
        vouched(bytes.get(GROUP_HEADER_BYTES..start)?, bytes, &found)
    })
}

/// Whole batches from here on, at most so many, with nothing else in between or behind.
fn tile(bytes: &[u8], start: usize, most: usize) -> Option<Vec<(usize, BatchHeader)>> {
    let mut found = Vec::new();
    let mut at = start;
    while found.len() < most {
        let Some((gap, header)) = next_batch(bytes, at) else {
            break;
        };
        found.push((at + gap, header));
        at += gap + usize::try_from(header.total_bytes()).ok()?;
    }
    // Behind the last of all that the table has, only the padding is the group's.
    let end = if found.len() == most {
        at.next_multiple_of(BLOCK).min(bytes.len())
    } else {
        bytes.len()
    };
    let rest = bytes.get(at..end)?;
    (!found.is_empty() && rest.iter().all(|byte| *byte == 0)).then_some(found)
}

/// The batch that stands here, or behind the zeros in front of a large one.
fn next_batch(bytes: &[u8], at: usize) -> Option<(usize, BatchHeader)> {
    if let Some(header) = whole_batch(bytes, at) {
        return Some((0, header));
    }
    let zeros = bytes.get(at..)?.iter().take(BLOCK).take_while(|byte| **byte == 0);
    (1..=zeros.count()).find_map(|gap| {
        let header = whole_batch(bytes, at + gap)?;
        (header.total_bytes() >= u64::from(LIKE_IN_SEGMENT_FROM_BYTES)).then_some((gap, header))
    })
}

fn whole_batch(bytes: &[u8], at: usize) -> Option<BatchHeader> {
    let rest = bytes.get(at..)?;
    let header = BatchHeader::parse(rest.get(..HEADER_BYTES)?).ok()?;
    let batch = rest.get(..usize::try_from(header.total_bytes()).ok()?)?;
    check_crc(&header, batch).is_ok().then_some(header)
}

/// Compares batches with the table. The offsets of a batch are not under its own checksum, but under that in the table; an
/// entry that does not fit is where the damage is, and there is one at most.
fn vouched(table: &[u8], bytes: &[u8], found: &[(usize, BatchHeader)]) -> Option<Vec<HeldBatch>> {
    let entries: Vec<_> = table
        .as_chunks::<ENTRY_BYTES>()
        .0
        .iter()
        .filter_map(|entry| match Entry::decode(entry) {
            Ok(Entry::Append(entry)) => Some(entry),
            Ok(Entry::DeleteTopic(_) | Entry::Trim { .. }) | Err(_) => None,
        })
        .collect();
    let held = found.iter().map(|(at, header)| {
        let len = usize::try_from(header.total_bytes()).unwrap_or_default();
        let crc = bytes.get(*at..at + len).map(crc32c);
        let (base, last) = (header.base_offset, header.last_offset());
        let entry = entries
            .iter()
            .find(|e| e.base == base && e.last == last && Some(e.crc) == crc);
        HeldBatch {
            base,
            last,
            key: entry.map(|entry| entry.key),
        }
    });
    let held: Vec<_> = held.collect();
    let alone = held.iter().filter(|batch| batch.key.is_none()).count();
    (alone <= 1).then_some(held)
}
