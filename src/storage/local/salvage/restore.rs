//! The header of a journal file, made again from the groups behind it: nothing is given up by that.

use std::collections::BTreeSet;
use std::io;

use crate::disk::Disk;
use crate::storage::local::format::DirectoryId;
use crate::storage::local::format::checkpoint::Checkpoint;
use crate::storage::local::format::journal::FileHeader;
use crate::storage::local::inspect::Finding;
use crate::storage::local::journal_files::write_header;
use crate::storage::local::paths;
use crate::storage::local::scan::{self, ScannedFile};

/// The number of the file that a finding is about, if its header can be made again.
pub(super) fn lost_header(
    disk: &dyn Disk,
    directory: DirectoryId,
    finding: &Finding,
) -> io::Result<Option<u64>> {
    let files = scan::open_files(disk, directory)?;
    let file = files
        .iter()
        .find(|file| paths::journal(file.number) == finding.file);
    let Some(file) = file.filter(|file| file.header.is_none()) else {
        return Ok(None);
    };
    Ok(made_again(&files, file, directory, None)?.map(|_| file.number))
}

/// Writes both copies of a header again, one after the other: the first makes the file whole.
pub(super) fn header(
    disk: &dyn Disk,
    directory: DirectoryId,
    number: u64,
    newest: Option<&Checkpoint>,
) -> io::Result<()> {
    let files = scan::open_files(disk, directory)?;
    let file = files
        .iter()
        .find(|file| file.number == number && file.header.is_none());
    let header = match file {
        Some(file) => made_again(&files, file, directory, newest)?.map(|header| (file, header)),
        None => None,
    };
    let (file, header) = header.ok_or(io::ErrorKind::InvalidData)?;
    write_header(&*file.file, &header, directory)
}

/// The header by the first group, which holds under one generation alone: one that is missing among those of the others, or
/// the one that comes next.
fn made_again(
    files: &[ScannedFile],
    file: &ScannedFile,
    directory: DirectoryId,
    newest: Option<&Checkpoint>,
) -> io::Result<Option<FileHeader>> {
    let known: BTreeSet<u64> = files
        .iter()
        .filter_map(|f| f.header)
        .map(|h| h.generation)
        .collect();
    let next = known.last().map_or(1, |last| last + 1);
    let oldest = known
        .first()
        .copied()
        .unwrap_or(next)
        .saturating_sub(files.len() as u64)
        .max(1);
    for generation in (oldest..=next)
        .rev()
        .filter(|generation| !known.contains(generation))
    {
        if let Some(group) = scan::first_header(file, directory, generation)? {
            return Ok(Some(FileHeader {
                file_bytes: file.bytes,
                generation,
                first_lsn: group.lsn,
                checkpoint_seq: newest.map_or(0, |newest| newest.seq),
                checkpoint_lsn: newest.map_or(crate::model::Lsn::ZERO, |newest| newest.lsn),
                incarnation: group.incarnation,
            }));
        }
    }
    Ok(None)
}
