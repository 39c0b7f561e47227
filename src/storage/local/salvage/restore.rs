//! The header of a journal file, made again from the groups behind it: nothing is given up by that.

use std::collections::BTreeMap;
use std::io;

use crate::disk::Disk;
use crate::model::Lsn;
use crate::storage::local::format::DirectoryId;
use crate::storage::local::format::checkpoint::Checkpoint;
use crate::storage::local::format::journal::{FileHeader, GROUPS_START, GroupHeader};
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

/// The header by the groups, which hold under one generation alone: one that is missing among those of the others; the one
/// that comes next, or one behind it, which may also have been written below the header of the lap before; or one of which a
/// disk has put the header into another file.
fn made_again(
    files: &[ScannedFile],
    file: &ScannedFile,
    directory: DirectoryId,
    newest: Option<&Checkpoint>,
) -> io::Result<Option<FileHeader>> {
    let own = file.header.map(|header| header.generation);
    let known = files.iter().filter_map(|f| f.header).map(|h| h.generation);
    let mut candidates: Vec<_> = scan::generations_ahead(files).collect();
    if own.is_none() {
        candidates.extend(scan::generations_missing(files));
    }
    candidates.extend(known.filter(|generation| Some(*generation) > own));
    let mut wanted: Vec<_> = candidates.into_iter().map(|g| (g, Lsn::ZERO)).collect();
    // The first group tells most, so all are tried with it before any other group is.
    let first = scan::first_group_of(file, directory, &wanted, GROUPS_START + 1)?;
    if let Some((generation, group)) = first {
        return Ok(Some(header_of(file, generation, &group, group.lsn, newest)));
    }
    // The newest lap counts, also where what an earlier one left stands in front of it.
    let mut found = None;
    while let Some((generation, group)) = scan::first_group_of(file, directory, &wanted, file.bytes)? {
        wanted.retain(|(other, _)| *other > generation);
        found = Some((generation, group));
    }
    let Some((generation, group)) = found else {
        return Ok(None);
    };
    let first = first_of(files, generation, group.lsn, directory, newest)?;
    Ok(Some(header_of(file, generation, &group, first, newest)))
}

fn header_of(
    file: &ScannedFile,
    generation: u64,
    group: &GroupHeader,
    first_lsn: Lsn,
    newest: Option<&Checkpoint>,
) -> FileHeader {
    FileHeader {
        file_bytes: file.bytes,
        generation,
        first_lsn,
        checkpoint_seq: newest.map_or(0, |newest| newest.seq),
        checkpoint_lsn: newest.map_or(Lsn::ZERO, |newest| newest.lsn),
        incarnation: group.incarnation,
    }
}

/// The group with which a file began whose first ones are gone: the one behind the last of the files before. Never more than what
/// it was: that the groups before it were durable is what a header proves.
fn first_of(
    files: &[ScannedFile],
    generation: u64,
    found: Lsn,
    directory: DirectoryId,
    newest: Option<&Checkpoint>,
) -> io::Result<Lsn> {
    let mut behind = None;
    for (index, file) in files.iter().enumerate() {
        if file.header.is_none_or(|h| h.generation >= generation) {
            continue;
        }
        let mut groups = scan::scan(files, index, directory, &BTreeMap::new())?.groups;
        groups.retain(|group| group.lsn < found);
        // One that was not finished is no evidence: its number was given again.
        if let Some(last) = groups.last()
            && !scan::payload_holds(&scan::read_group(files, last)?, &last.header)
        {
            groups.pop();
        }
        behind = behind.max(groups.last().map(|group| group.lsn.next()));
    }
    let needed = newest.map_or(found, |newest| newest.lsn.next());
    Ok(behind.unwrap_or(needed).min(found))
}
