//! What one file of a data directory holds, item by item. Trusts nothing: whatever the bytes are, they come out as items, or
//! as an error that says why they cannot be read.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile, Mode, read_exact_at};
use crate::model::{Lsn, Offset, PartitionKey, TopicId};
use crate::record::{BatchHeader, HEADER_BYTES, check_crc, crc32c};
use crate::storage::local::checkpoint::read_record;
use crate::storage::local::format::checkpoint::Checkpoint;
use crate::storage::local::format::index::{INDEX_ENTRY_BYTES, IndexEntry};
use crate::storage::local::format::journal::{AppendEntry, BLOCK, Entry, FileHeader, GroupHeader};
use crate::storage::local::format::{DirectoryId, FormatError};
use crate::storage::local::paths::FileKind;
use crate::storage::local::scan::{self, FoundGroup, ScannedFile};

/// No batch has more bytes; a header that claims more is none.
pub const BATCH_BYTES_MAX: u64 = 64 << 20;
/// How far behind garbage the next batch is looked for.
pub const RESYNC_BYTES_MAX: u64 = 4 << 20;

/// One thing in a file.
#[derive(Clone, Debug)]
pub enum Item {
    /// A batch of a segment.
    Batch {
        /// Where it begins.
        position: u64,
        /// Its header.
        header: BatchHeader,
        /// All of it.
        bytes: Bytes,
        /// Why it cannot be trusted.
        damage: Option<String>,
    },
    /// Nothing but zeros from here to the end: room that was not written to.
    Zeros {
        /// Where they begin.
        position: u64,
        /// How many.
        bytes: u64,
    },
    /// Bytes that are nothing that should be here.
    Garbage {
        /// Where they begin.
        position: u64,
        /// How many, up to the next thing that can be made out, or the end.
        bytes: u64,
        /// What is wrong.
        why: String,
    },
    /// An entry of an index.
    Index {
        /// Where it stands.
        position: u64,
        /// The entry.
        entry: Result<IndexEntry, FormatError>,
    },
    /// A copy of a journal file's header.
    JournalHeader {
        /// Where it stands.
        position: u64,
        /// The header.
        header: Result<FileHeader, FormatError>,
    },
    /// A group of a journal file.
    Group {
        /// Where it begins.
        position: u64,
        /// Its header.
        header: GroupHeader,
    },
    /// A batch in a group.
    Append {
        /// Where the batch begins in the file.
        position: u64,
        /// Its group.
        lsn: Lsn,
        /// Its entry in the table.
        entry: AppendEntry,
        /// Its bytes.
        bytes: Bytes,
        /// Its checksum fits.
        whole: bool,
    },
    /// A topic's deletion in a group.
    Deletion {
        /// Its group.
        lsn: Lsn,
        /// The topic.
        topic: TopicId,
    },
    /// A trim in a group.
    Trim {
        /// Its group.
        lsn: Lsn,
        /// The partition.
        key: PartitionKey,
        /// The first offset that stays.
        to: Offset,
    },
    /// The record of a checkpoint.
    Checkpoint {
        /// The directory that it belongs to.
        directory: DirectoryId,
        /// The record.
        record: Box<Checkpoint>,
    },
}

impl Item {
    /// Whether something is wrong with it.
    pub fn is_damaged(&self) -> bool {
        match self {
            Self::Batch { damage, .. } => damage.is_some(),
            Self::Garbage { .. } => true,
            Self::Index { entry, .. } => entry.is_err(),
            Self::JournalHeader { header, .. } => header.is_err(),
            Self::Append { whole, .. } => !whole,
            Self::Zeros { .. }
            | Self::Group { .. }
            | Self::Deletion { .. }
            | Self::Trim { .. }
            | Self::Checkpoint { .. } => false,
        }
    }
}

/// Why a file is not shown to its end.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// It is of no kind that can be shown.
    #[error("this is no segment, index, journal file or checkpoint")]
    Unknown,
    /// It is of a kind, but does not hold.
    #[error("{what}: {why}")]
    Format {
        /// Which part.
        what: &'static str,
        /// What is wrong.
        #[source]
        why: FormatError,
    },
    /// The disk does not give the bytes.
    #[error(transparent)]
    Read(io::Error),
    /// Whoever looks at the items said so.
    #[error(transparent)]
    Output(io::Error),
}

type Visit<'a> = &'a mut dyn FnMut(Item) -> io::Result<()>;

/// Shows a file to `visit`, item by item. What it is tells its name or, failing that, its first bytes.
///
/// # Errors
/// If it is nothing that can be shown, cannot be read, or `visit` fails.
pub fn dump(disk: &dyn Disk, path: &str, visit: Visit<'_>) -> Result<(), DumpError> {
    let file = disk.open(path, Mode::Buffered).map_err(DumpError::Read)?;
    match kind_of(&*file, path).map_err(DumpError::Read)? {
        FileKind::Segment => dump_segment(&*file, visit),
        FileKind::Index => dump_index(&*file, visit),
        FileKind::Journal => dump_journal(file, visit),
        FileKind::Checkpoint => dump_checkpoint(&*file, visit),
        FileKind::Other => Err(DumpError::Unknown),
    }
}

/// What a file is, by its name or its first bytes.
///
/// # Errors
/// If it cannot be read.
pub fn kind_of(file: &dyn DiskFile, path: &str) -> io::Result<FileKind> {
    let named = FileKind::of(path);
    if named != FileKind::Other {
        return Ok(named);
    }
    let len = file.len()?.min(HEADER_BYTES as u64);
    let head = read(file, 0, len)?;
    Ok(match head.get(..8) {
        Some(b"NARUJRNL") => FileKind::Journal,
        Some(b"NARUCKPT") => FileKind::Checkpoint,
        _ if BatchHeader::parse(&head).is_ok_and(|h| h.total_bytes() <= BATCH_BYTES_MAX) => FileKind::Segment,
        _ => FileKind::Other,
    })
}

fn read(file: &dyn DiskFile, at: u64, len: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?];
    read_exact_at(file, &mut bytes, at)?;
    Ok(Bytes::from(bytes))
}

fn dump_segment(file: &dyn DiskFile, visit: Visit<'_>) -> Result<(), DumpError> {
    let len = file.len().map_err(DumpError::Read)?;
    let mut position = 0;
    while position < len {
        let item = match batch_at(file, position, len) {
            Ok((header, bytes)) => Item::Batch {
                position,
                damage: check_crc(&header, &bytes).err().map(|e| e.to_string()),
                header,
                bytes,
            },
            Err(why) if only_zeros(file, position, len) => {
                let _ = why;
                Item::Zeros {
                    position,
                    bytes: len - position,
                }
            }
            Err(why) => Item::Garbage {
                position,
                bytes: next_batch(file, position, len).unwrap_or(len) - position,
                why,
            },
        };
        position += match &item {
            Item::Batch { bytes, .. } => bytes.len() as u64,
            Item::Garbage { bytes, .. } => *bytes,
            _ => len - position,
        };
        visit(item).map_err(DumpError::Output)?;
    }
    Ok(())
}

pub(in crate::storage::local) fn batch_at(
    file: &dyn DiskFile,
    position: u64,
    len: u64,
) -> Result<(BatchHeader, Bytes), String> {
    let left = len - position;
    let head = read(file, position, left.min(HEADER_BYTES as u64)).map_err(|e| e.to_string())?;
    let header = BatchHeader::parse(&head).map_err(|e| e.to_string())?;
    let total = header.total_bytes();
    if total > BATCH_BYTES_MAX || total > left {
        return Err(format!(
            "a batch would have {total} bytes, {left} are left in the file"
        ));
    }
    let bytes = read(file, position, total).map_err(|e| e.to_string())?;
    Ok((header, bytes))
}

pub(in crate::storage::local) fn only_zeros(file: &dyn DiskFile, mut position: u64, len: u64) -> bool {
    while position < len {
        let Ok(bytes) = read(file, position, (len - position).min(1 << 16)) else {
            return false;
        };
        if bytes.iter().any(|byte| *byte != 0) {
            return false;
        }
        position += bytes.len() as u64;
    }
    true
}

/// Where the next whole batch begins behind garbage.
pub(in crate::storage::local) fn next_batch(file: &dyn DiskFile, position: u64, len: u64) -> Option<u64> {
    let window = read(file, position, (len - position).min(RESYNC_BYTES_MAX)).ok()?;
    let candidates = window.windows(HEADER_BYTES).enumerate().skip(1);
    // The format version stands in front of the checksum; most bytes are none.
    let candidates = candidates.filter(|(_, head)| head.get(16) == Some(&2));
    candidates
        .map(|(at, _)| position + at as u64)
        .find(|at| batch_at(file, *at, len).is_ok_and(|(header, bytes)| check_crc(&header, &bytes).is_ok()))
}

fn dump_index(file: &dyn DiskFile, visit: Visit<'_>) -> Result<(), DumpError> {
    let len = file.len().map_err(DumpError::Read)?;
    let entry_bytes = INDEX_ENTRY_BYTES as u64;
    for position in (0..len / entry_bytes).map(|at| at * entry_bytes) {
        let mut bytes = [0; INDEX_ENTRY_BYTES];
        read_exact_at(file, &mut bytes, position).map_err(DumpError::Read)?;
        let entry = IndexEntry::decode(&bytes);
        visit(Item::Index { position, entry }).map_err(DumpError::Output)?;
    }
    if len % entry_bytes != 0 {
        let garbage = Item::Garbage {
            position: len / entry_bytes * entry_bytes,
            bytes: len % entry_bytes,
            why: format!("an entry has {entry_bytes} bytes"),
        };
        visit(garbage).map_err(DumpError::Output)?;
    }
    Ok(())
}

/// The directory that a header or a record claims to belong to.
fn owner(bytes: &[u8]) -> Option<DirectoryId> {
    bytes.get(16..)?.first_chunk().copied()
}

fn dump_journal(file: Box<dyn DiskFile>, visit: Visit<'_>) -> Result<(), DumpError> {
    let len = file.len().map_err(DumpError::Read)?;
    let mut chosen: Option<(FileHeader, DirectoryId)> = None;
    let mut problem = FormatError::Truncated;
    for position in [0, BLOCK as u64] {
        let block = read(&*file, position, (BLOCK as u64).min(len.saturating_sub(position)))
            .map_err(DumpError::Read)?;
        let id = owner(&block).unwrap_or_default();
        let header = match block.first_chunk() {
            Some(block) => FileHeader::decode(block, id),
            None => Err(FormatError::Truncated),
        };
        match &header {
            Ok(found) if chosen.is_none_or(|(best, _)| found.generation > best.generation) => {
                chosen = Some((*found, id));
            }
            Ok(_) => {}
            Err(e) => problem = e.clone(),
        }
        visit(Item::JournalHeader { position, header }).map_err(DumpError::Output)?;
    }
    let Some((header, directory)) = chosen else {
        // The checksums of its groups are seeded with what the header says.
        let what = "no copy of the header holds, and without it nobody can tell the groups";
        return Err(DumpError::Format { what, why: problem });
    };
    let scanned = ScannedFile {
        number: 0,
        file,
        bytes: len / BLOCK as u64 * BLOCK as u64,
        header: Some(header),
        illegible: false,
        unread: None,
    };
    let files = [scanned];
    let found = scan::scan(&files, 0, directory, &BTreeMap::new()).map_err(DumpError::Read)?;
    let groups = found.groups;
    groups
        .iter()
        .try_for_each(|group| dump_group(&files, group, visit))
}

fn dump_group(files: &[ScannedFile], group: &FoundGroup, visit: Visit<'_>) -> Result<(), DumpError> {
    let (position, header, lsn) = (group.position, group.header, group.lsn);
    visit(Item::Group { position, header }).map_err(DumpError::Output)?;
    let bytes = Bytes::from(scan::read_group(files, group).map_err(DumpError::Read)?.bytes);
    let payload_start = usize::try_from(header.payload_start())
        .unwrap_or(usize::MAX)
        .min(bytes.len());
    for entry in scan::entries_of(&bytes[..payload_start]) {
        let item = match entry {
            Ok(Entry::Append(entry)) => {
                let from = payload_start
                    .saturating_add(entry.position as usize)
                    .min(bytes.len());
                let to = from.saturating_add(entry.length as usize).min(bytes.len());
                let batch = bytes.slice(from..to);
                Item::Append {
                    position: position + from as u64,
                    lsn,
                    entry,
                    whole: crc32c(&batch) == entry.crc,
                    bytes: batch,
                }
            }
            Ok(Entry::DeleteTopic(topic)) => Item::Deletion { lsn, topic },
            Ok(Entry::Trim { key, to }) => Item::Trim { lsn, key, to },
            Err(e) => Item::Garbage {
                position,
                bytes: 0,
                why: format!("an entry of group {lsn}: {e}"),
            },
        };
        visit(item).map_err(DumpError::Output)?;
    }
    Ok(())
}

fn dump_checkpoint(file: &dyn DiskFile, visit: Visit<'_>) -> Result<(), DumpError> {
    let none = |why| DumpError::Format {
        what: "the file holds no record of a checkpoint",
        why,
    };
    let bytes = read_record(file).map_err(DumpError::Read)?.map_err(none)?;
    let directory = owner(&bytes).unwrap_or_default();
    let record = Box::new(Checkpoint::decode(&bytes, directory).map_err(none)?);
    visit(Item::Checkpoint { directory, record }).map_err(DumpError::Output)
}
