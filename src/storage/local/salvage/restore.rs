//! The header of a journal file, made again from the groups behind it: nothing is given up by that.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::disk::Disk;
use crate::model::Lsn;
use crate::storage::local::format::DirectoryId;
use crate::storage::local::format::checkpoint::Checkpoint;
use crate::storage::local::format::journal::{FileHeader, GROUPS_START};
use crate::storage::local::journal_files::write_header;
use crate::storage::local::scan::{self, ScannedFile};

/// Whether the header of a file can be made again.
pub(super) fn can_be_made(disk: &dyn Disk, directory: DirectoryId, number: u64) -> io::Result<bool> {
    let files = scan::open_files(disk, directory)?;
    let file = files.iter().find(|file| file.number == number);
    Ok(match file {
        Some(file) => made_again(&files, file, directory, None)?.is_some(),
        None => false,
    })
}

/// Writes both copies of a header again, one after the other: the first makes the file whole.
pub(super) fn header(
    disk: &dyn Disk,
    directory: DirectoryId,
    number: u64,
    newest: Option<&Checkpoint>,
) -> io::Result<()> {
    let files = scan::open_files(disk, directory)?;
    let file = files.iter().find(|file| file.number == number);
    let header = match file {
        Some(file) => made_again(&files, file, directory, newest)?.map(|header| (file, header)),
        None => None,
    };
    let (file, header) = header.ok_or(io::ErrorKind::InvalidData)?;
    write_header(&*file.file, &header, directory)
}

/// The header by the groups, which hold under one generation alone: one that is missing among those of the others, or the one
/// that comes next, which may also have been written below the header of the lap before.
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
    let candidates = (oldest..=next)
        .rev()
        .filter(|generation| !known.contains(generation));
    let candidates: Vec<_> = candidates
        .take(if file.header.is_some() { 1 } else { files.len() + 1 })
        .collect();
    // The first group tells most, so all of them are tried with it before any other group is.
    for upto in [GROUPS_START + 1, file.bytes] {
        for generation in &candidates {
            let Some(group) = scan::first_group_of(file, directory, *generation, Lsn::ZERO, upto)? else {
                continue;
            };
            let first_lsn = if upto == file.bytes {
                first_of(files, *generation, group.lsn, directory, newest)?
            } else {
                group.lsn
            };
            return Ok(Some(FileHeader {
                file_bytes: file.bytes,
                generation: *generation,
                first_lsn,
                checkpoint_seq: newest.map_or(0, |newest| newest.seq),
                checkpoint_lsn: newest.map_or(Lsn::ZERO, |newest| newest.lsn),
                incarnation: group.incarnation,
            }));
        }
    }
    Ok(None)
}

/// The group with which a file began whose first ones are gone: the one behind the last of the file before. Never more than what it
/// was: that the groups before it were durable is what a header proves.
fn first_of(
    files: &[ScannedFile],
    generation: u64,
    found: Lsn,
    directory: DirectoryId,
    newest: Option<&Checkpoint>,
) -> io::Result<Lsn> {
    let before = files
        .iter()
        .position(|f| f.header.is_some_and(|h| h.generation + 1 == generation));
    let behind = match before {
        Some(index) => {
            let groups = scan::scan(files, index, directory, &BTreeMap::new())?.groups;
            groups
                .iter()
                .map(|group| group.lsn.next())
                .filter(|lsn| *lsn <= found)
                .max()
        }
        None => None,
    };
    let needed = newest.map_or(found, |newest| newest.lsn.next());
    Ok(behind.unwrap_or(needed).min(found))
}
