//! The header of a journal file, made again from the groups behind it: nothing is given up by that.

use std::collections::BTreeMap;
use std::io;

use crate::disk::Disk;
use crate::model::Lsn;
use crate::storage::local::format::DirectoryId;
use crate::storage::local::format::checkpoint::Checkpoint;
use crate::storage::local::format::journal::{BLOCK, FileHeader, GROUPS_START, GroupHeader};
use crate::storage::local::journal_files::write_header;
use crate::storage::local::paths;
use crate::storage::local::scan::{self, AROUND_BAD_BLOCKS, BEFORE_GIVING_UP, ScannedFile};
use crate::storage::local::settings::Settings;

/// Why no header is made again from groups that would say what was in it.
#[derive(Debug)]
enum NotNow {
    /// The disk does not give this block of a file, which another try may read.
    Unread(String),
    Io(io::Error),
}

impl From<io::Error> for NotNow {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<NotNow> for io::Error {
    fn from(why: NotNow) -> Self {
        match why {
            NotNow::Unread(unread) => Self::other(format!("{unread}; {BEFORE_GIVING_UP}")),
            NotNow::Io(error) => error,
        }
    }
}

/// Whether the header of a file can be made again.
#[derive(Debug)]
pub(super) enum CanBeMade {
    Yes,
    No,
    /// Not as long as the disk does not give a block, in words.
    NotNow(String),
}

/// Looks whether the header of a file can be made again.
pub(super) fn can_be_made(disk: &dyn Disk, directory: DirectoryId, number: u64) -> io::Result<CanBeMade> {
    let files = scan::open_files(disk, directory)?;
    let Some(file) = files.iter().find(|file| file.number == number) else {
        return Ok(CanBeMade::No);
    };
    match made_again(&files, file, directory, None) {
        Ok(Some(_)) => Ok(CanBeMade::Yes),
        Ok(None) => Ok(CanBeMade::No),
        Err(NotNow::Unread(unread)) => Ok(CanBeMade::NotNow(format!("{unread}; {AROUND_BAD_BLOCKS}"))),
        Err(NotNow::Io(error)) => Err(error),
    }
}

/// Writes both copies of a header again, one after the other: the first makes the file whole.
pub(super) fn header(
    disk: &dyn Disk,
    directory: DirectoryId,
    number: u64,
    newest: Option<&Checkpoint>,
    settings: &Settings,
) -> io::Result<()> {
    let files = scan::open_files(disk, directory)?;
    let file = files.iter().find(|file| file.number == number);
    let header = match file {
        Some(file) => made_again(&files, file, directory, newest)?.map(|header| (file, header)),
        None => None,
    };
    let (file, mut header) = header.ok_or(io::ErrorKind::InvalidData)?;
    header.file_bytes = length_of(&files, file, header.generation, directory, settings)?;
    write_header(&*file.file, &header, directory)
}

/// The length with which a file was made. What is left of it does not say: one that has lost its header may have lost its end,
/// too, and a header with the length that is left would hide that.
fn length_of(
    files: &[ScannedFile],
    file: &ScannedFile,
    generation: u64,
    directory: DirectoryId,
    settings: &Settings,
) -> io::Result<u64> {
    // It is the same in every lap.
    if let Some(earlier) = file.header {
        return Ok(earlier.file_bytes);
    }
    let settings = settings.clone().fitted();
    let configured = [settings.journal_first_file_bytes, settings.journal_file_bytes];
    let others = files.iter().filter_map(|f| f.header).map(|h| h.file_bytes);
    let known: Vec<u64> = others.chain(configured).collect();
    let reached = scan::reached_by_groups(file, directory, generation)?;
    Ok(made_with(file.file.len()?, reached, &known))
}

/// The length with which a file was made that has so many bytes now and groups that say that they reach so far, if others were
/// made with these lengths. One of them, if it was not longer than any: the longest where the end is gone, since so much may be
/// missing.
fn made_with(there: u64, reached: u64, known: &[u64]) -> u64 {
    let block = BLOCK as u64;
    let longest = known.iter().copied().max().unwrap_or_default();
    if reached <= there && known.contains(&there) {
        there
    } else if reached.max(there) <= longest {
        longest
    } else if reached > there {
        reached.next_multiple_of(block)
    } else {
        there / block * block
    }
}

/// The header by the groups, which hold under one generation alone: one that is missing among those of the others; the one
/// that comes next, or one behind it, which may also have been written below the header of the lap before; or one of which a
/// disk has put the header into another file.
fn made_again(
    files: &[ScannedFile],
    file: &ScannedFile,
    directory: DirectoryId,
    newest: Option<&Checkpoint>,
) -> Result<Option<FileHeader>, NotNow> {
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
) -> Result<Lsn, NotNow> {
    let mut behind = None;
    for (index, file) in files.iter().enumerate() {
        if file.header.is_none_or(|h| h.generation >= generation) {
            continue;
        }
        let mut groups = scan::scan(files, index, directory, &BTreeMap::new())?.groups;
        groups.retain(|group| group.lsn < found);
        // One that was not finished is no evidence: its number was given again.
        if let Some(last) = groups.last() {
            let read = scan::read_group(files, last)?;
            if let Some(unread) = read.first_unread() {
                let path = paths::journal(files[last.file].number);
                return Err(NotNow::Unread(unread.told_of(&path)));
            }
            if !scan::payload_holds(&read.bytes, &last.header) {
                groups.pop();
            }
        }
        behind = behind.max(groups.last().map(|group| group.lsn.next()));
    }
    let needed = newest.map_or(found, |newest| newest.lsn.next());
    Ok(behind.unwrap_or(needed).min(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_was_made_with_a_length_that_files_are_made_with_unless_it_is_longer() {
        let known = [16 << 20, 256 << 20, 256 << 20];
        for (there, reached, length) in [
            // As it was made, the first one too.
            (256 << 20, 0, 256 << 20),
            (16 << 20, 9 << 20, 16 << 20),
            // Its end is gone: so much may be missing.
            (200 << 20, 0, 256 << 20),
            (9 << 20, 0, 256 << 20),
            ((16 << 20) - 1, 0, 256 << 20),
            // A group goes on behind what looks like all of it.
            (16 << 20, (16 << 20) + 1, 256 << 20),
            (256 << 20, (256 << 20) + 1, (256 << 20) + 4096),
            // Made when files were longer by configuration.
            (512 << 20, 100, 512 << 20),
            ((512 << 20) + 7, 100, 512 << 20),
        ] {
            assert_eq!(made_with(there, reached, &known), length, "{there} {reached}");
        }
        assert_eq!(made_with(8192, 20_000, &[]), 20_480);
    }
}
