//! What a checkpoint said, made again from the segments and the journal when neither record can be read.
//!
//! Journal files are used again only below the record before the newest, so whatever stood below the oldest file is in segments,
//! synced. The record is that of the group before that file: a partition ends where the journal first goes on with it, and all
//! behind that is replayed as ever. `docs/operations.md`, "When a start is refused", says what is not known any more.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::evidence;
use crate::disk::{BLOCK_BYTES, Disk, DiskFile, Mode, read_exact_at};
use crate::model::{Lsn, Offset, PartitionId, PartitionKey, Timestamp, TopicId};
use crate::record::{BatchHeader, HEADER_BYTES, check_crc, crc32c};
use crate::storage::local::format::DirectoryId;
use crate::storage::local::format::checkpoint::{Checkpoint, PartitionCheckpoint, SegmentCheckpoint};
use crate::storage::local::format::journal::{Entry, FileHeader};
use crate::storage::local::inspect::dump;
use crate::storage::local::paths;
use crate::storage::local::scan::{self, ScannedFile};

/// A record that was made again.
#[derive(Clone, Debug)]
pub(in crate::storage::local) struct Rebuilt {
    pub(in crate::storage::local) record: Checkpoint,
    /// Partitions that had segments and have none: where they ended nothing tells but the journal.
    pub(in crate::storage::local) emptied: BTreeSet<PartitionKey>,
    /// The first record of the groups' partition that is left.
    groups_from: Offset,
}

impl Rebuilt {
    /// Whether the journal holds everything since the directory was made.
    pub(in crate::storage::local) fn is_whole(&self) -> bool {
        self.record.lsn == Lsn::ZERO
    }

    /// What going on by it means, in words.
    pub(in crate::storage::local) fn meaning(&self) -> String {
        if self.is_whole() {
            return "the journal holds every group since the directory was made: nothing is given up by beginning there".to_owned();
        }
        let groups = if self.groups_from > Offset::ZERO {
            format!(
                ", nor of commits of consumer groups below record {} of __groups",
                self.groups_from
            )
        } else {
            String::new()
        };
        format!(
            "segments, and the journal from group {} on, tell which records there are. Nothing tells of older trims and retention \
             (what they removed and still has its file is there again), of the last sequence numbers of producers (what they send \
             again may be stored twice), of offsets fenced off behind the last record of a partition, nor when records were \
             appended (their age counts from the last group){groups}",
            self.record.lsn.next()
        )
    }
}

/// Makes the record again, or says why it cannot be.
pub(in crate::storage::local) fn rebuild(
    disk: &dyn Disk,
    files: &[ScannedFile],
    directory: DirectoryId,
) -> io::Result<Result<Rebuilt, String>> {
    let headers: Vec<FileHeader> = files.iter().filter_map(|file| file.header).collect();
    let Some(oldest) = headers.iter().min_by_key(|header| header.generation) else {
        return Ok(Err(
            "no journal file with a header is there to tell the rest".to_owned()
        ));
    };
    let named = headers.iter().map(|h| h.checkpoint_lsn).max().unwrap_or_default();
    if oldest.first_lsn > named.next() {
        return Ok(Err(format!(
            "the oldest journal file with a header begins with group {}, and no header names a checkpoint above {named}: a file in \
             front of it, or its header, is missing",
            oldest.first_lsn
        )));
    }
    let mut rebuilt = Rebuilt {
        record: Checkpoint {
            seq: headers.iter().map(|h| h.checkpoint_seq).max().unwrap_or(0).max(1),
            lsn: Lsn(oldest.first_lsn.0.saturating_sub(1)),
            clean_end: None,
            incarnation: headers.iter().map(|h| h.incarnation).max().unwrap_or(0),
            partitions: Vec::new(),
            deleted: Vec::new(),
        },
        emptied: BTreeSet::new(),
        groups_from: Offset::ZERO,
    };
    if rebuilt.is_whole() {
        return Ok(Ok(rebuilt));
    }
    let journal = Journal::read(files, directory)?;
    let mut meta_from = None;
    for (key, bases) in partitions(disk)? {
        let goes_on = journal.firsts.get(&key).copied();
        match bases.first() {
            None if goes_on.is_none() => drop(rebuilt.emptied.insert(key)),
            None => {}
            Some(first) if key.topic.is_internal() => {
                if key == PartitionKey::META {
                    meta_from = Some(*first);
                } else {
                    rebuilt.groups_from = *first;
                }
                rebuilt
                    .record
                    .partitions
                    .push(empty(key, *first, journal.written));
            }
            Some(_) => {
                let found = partition(disk, key, &bases, goes_on, journal.written)?;
                rebuilt.record.partitions.push(found);
            }
        }
        if bases.is_empty()
            && let Some(base) = goes_on.filter(|_| !key.topic.is_internal())
        {
            rebuilt.record.partitions.push(empty(key, base, journal.written));
        }
    }
    let meta_from = meta_from.or(journal.firsts.get(&PartitionKey::META).copied());
    if meta_from != Some(Offset::ZERO) {
        return Ok(Err(
            "which topics there were before is told by a snapshot that the checkpoints alone had (the first records of __meta are \
             not in segments any more)"
                .to_owned(),
        ));
    }
    rebuilt.record.partitions.sort_by_key(|partition| partition.key);
    Ok(Ok(rebuilt))
}

/// What the journal tells of partitions.
struct Journal {
    /// The first offset of each that stands in it.
    firsts: BTreeMap<PartitionKey, Offset>,
    /// When its last group was written.
    written: Timestamp,
}

impl Journal {
    fn read(files: &[ScannedFile], directory: DirectoryId) -> io::Result<Self> {
        let mut groups = Vec::new();
        for index in 0..files.len() {
            let Some(own) = files[index].header else { continue };
            let later = files
                .iter()
                .filter_map(|f| f.header)
                .filter(|h| h.generation > own.generation);
            let before = later.map(|h| h.first_lsn).min().unwrap_or(Lsn(u64::MAX));
            let found = scan::scan(files, index, directory, &BTreeMap::new())?.groups;
            groups.extend(found.into_iter().filter(|group| group.lsn < before));
        }
        groups.sort_by_key(|group| group.lsn);
        let mut journal = Self {
            firsts: BTreeMap::new(),
            written: Timestamp::default(),
        };
        for group in &groups {
            journal.written = journal.written.max(group.header.written);
            let read = scan::read_group(files, group)?;
            if let Some(unread) = read.unread_front(&group.header) {
                return Err(scan::unread_error(&files[group.file], unread));
            }
            let bytes = read.bytes;
            let front = usize::try_from(group.header.payload_start())
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            for entry in scan::entries_of(&bytes[..front]).filter_map(Result::ok) {
                if let Entry::Append(entry) = entry {
                    journal.firsts.entry(entry.key).or_insert(entry.base);
                }
            }
        }
        Ok(journal)
    }
}

/// Partitions that have a directory, with the base offsets of their segments.
fn partitions(disk: &dyn Disk) -> io::Result<BTreeMap<PartitionKey, Vec<Offset>>> {
    let mut found = BTreeMap::new();
    let topics = match disk.list(paths::TOPICS) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    for topic in topics.iter().filter(|entry| entry.is_dir) {
        let Ok(id) = uuid::Uuid::parse_str(&topic.name) else {
            continue;
        };
        let id = TopicId::from_bytes(*id.as_bytes());
        for partition in disk.list(&paths::topic(id))?.iter().filter(|entry| entry.is_dir) {
            let Ok(number) = partition.name.parse() else {
                continue;
            };
            let key = PartitionKey {
                topic: id,
                partition: PartitionId(number),
            };
            let files = disk.list(&paths::partition(key))?;
            let logs = files.iter().filter(|entry| entry.name.ends_with(".log"));
            let mut bases: Vec<_> = logs.filter_map(|entry| paths::base_of(&entry.name)).collect();
            bases.sort_unstable();
            found.insert(key, bases);
        }
    }
    Ok(found)
}

/// A partition of which nothing is stored below an offset. The segments of the broker's own are taken in behind it, and heard.
fn empty(key: PartitionKey, from: Offset, written: Timestamp) -> PartitionCheckpoint {
    PartitionCheckpoint {
        key,
        log_start: from,
        end: from,
        last_append: written,
        partial_crc: crc32c(&[]),
        partial: None,
        segments: Vec::new(),
        quarantined: Vec::new(),
        snapshot: None,
    }
}

fn partition(
    disk: &dyn Disk,
    key: PartitionKey,
    bases: &[Offset],
    goes_on: Option<Offset>,
    written: Timestamp,
) -> io::Result<PartitionCheckpoint> {
    let mut found = empty(key, bases[0], written);
    if let Some(goes_on) = goes_on.filter(|offset| *offset <= bases[0]) {
        return Ok(empty(key, goes_on, written));
    }
    let bases: Vec<_> = bases
        .iter()
        .filter(|base| goes_on.is_none_or(|to| **base < to))
        .collect();
    for (index, base) in bases.iter().enumerate() {
        let file = disk.open(&paths::segment(key, **base), Mode::Buffered)?;
        let next = bases.get(index + 1).map(|next| **next);
        let walked = walk(&*file, **base, goes_on, next.is_none())?;
        let mut segment = SegmentCheckpoint {
            base: **base,
            end: walked.end,
            bytes: walked.bytes,
            oldest_append: written,
            newest_append: written,
            max_timestamp: walked.max_timestamp,
            sealed: next.is_some(),
        };
        found.end = walked.end;
        match next {
            Some(next) if walked.unknown > 0 => (segment.end, segment.bytes) = (next, file.len()?),
            None if walked.unknown > 0 && goes_on.is_none() => {
                // What is damaged at the end had offsets, which are not given again.
                let records = i64::try_from(evidence::records_in(walked.unknown)).unwrap_or(i64::MAX);
                found.end = Offset::new(walked.end.get().saturating_add(records)).unwrap_or(walked.end);
                let last = Offset::new(found.end.get() - 1).unwrap_or(walked.end);
                found.quarantined.push((walked.end, last));
                segment.sealed = true;
            }
            Some(_) | None => {}
        }
        if segment.bytes > 0 {
            found.segments.push(segment);
        }
    }
    if let Some(last) = found.segments.last() {
        let file = disk.open(&paths::segment(key, last.base), Mode::Buffered)?;
        found.partial_crc = crc32c(&last_block(&*file, last.bytes)?);
    }
    Ok(found)
}

fn last_block(file: &dyn DiskFile, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(end % BLOCK_BYTES as u64).unwrap_or_default()];
    let at = end - bytes.len() as u64;
    read_exact_at(file, &mut bytes, at)?;
    Ok(bytes)
}

/// What stands in a segment.
struct Walked {
    /// Behind the last batch that counts.
    end: Offset,
    bytes: u64,
    max_timestamp: Timestamp,
    /// Bytes behind it that are neither a batch nor zeros.
    unknown: u64,
}

/// Goes through a segment up to an offset. Of the last one every batch has to be whole, and behind what is not the next whole one is
/// looked for; of the others the headers tell enough.
fn walk(file: &dyn DiskFile, base: Offset, upto: Option<Offset>, is_last: bool) -> io::Result<Walked> {
    let len = file.len()?;
    let mut walked = Walked {
        end: base,
        bytes: 0,
        max_timestamp: Timestamp(i64::MIN),
        unknown: 0,
    };
    let mut at = 0;
    while at < len {
        let header = header_at(file, at, len, is_last).filter(|header| header.base_offset >= walked.end);
        if let Some(header) = header {
            if upto.is_some_and(|upto| header.base_offset >= upto) {
                return Ok(walked);
            }
            at += header.total_bytes();
            walked.end = header.last_offset().next();
            walked.bytes = at;
            walked.max_timestamp = walked.max_timestamp.max(header.max_timestamp);
        } else if let Some(next) = is_last.then(|| next_that_leads_on(file, at, len)).flatten() {
            at = next;
        } else {
            let rest = if dump::only_zeros(file, at, len) {
                0
            } else {
                len - at
            };
            walked.unknown = rest;
            break;
        }
    }
    Ok(walked)
}

/// The next whole batch behind garbage on which another one follows, or nothing more. One in the value of a record is none: what
/// stands behind that does not go on with its offset.
fn next_that_leads_on(file: &dyn DiskFile, at: u64, len: u64) -> Option<u64> {
    let mut from = at;
    loop {
        from = dump::next_batch(file, from, len)?;
        let header = header_at(file, from, len, true)?;
        let behind = from + header.total_bytes();
        if behind == len || dump::only_zeros(file, behind, len) {
            return Some(from);
        }
        let follows = header_at(file, behind, len, false);
        if follows.is_some_and(|next| next.base_offset == header.last_offset().next()) {
            return Some(from);
        }
    }
}

fn header_at(file: &dyn DiskFile, at: u64, len: u64, whole: bool) -> Option<BatchHeader> {
    if whole {
        let (header, bytes) = dump::batch_at(file, at, len).ok()?;
        return check_crc(&header, &bytes).is_ok().then_some(header);
    }
    let mut head = [0; HEADER_BYTES];
    read_exact_at(file, &mut head, at).ok()?;
    let header = BatchHeader::parse(&head).ok()?;
    (header.total_bytes() <= len - at).then_some(header)
}
