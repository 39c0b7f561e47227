//! What makes a directory a data directory: `FORMAT`, which is written last when one is made. Tells a directory whose making
//! was never finished from one that was in use and has lost `FORMAT`: the first is made anew, the second never.
//! `docs/storage-format.md`, "FORMAT".

use std::io;

use super::checkpoint;
use super::format::checkpoint::Checkpoint;
use super::format::journal::{BLOCK, has_magic};
use super::format::{DirectoryId, FormatError, identity};
use super::journal_files::make_file;
use super::paths;
use super::recovery::OpenError;
use super::settings::Settings;
use crate::disk::{AlignedBuf, Disk, DiskFile, Entry, Mode, read_exact_at};
use crate::rt::IdSource;

/// `FORMAT` is a few lines; more of it is not read.
const FORMAT_BYTES_MAX: usize = 4096;
/// The journal file of a directory without `FORMAT` is read in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;
const NEW_FORMAT: &str = "FORMAT.new";

/// Reads `FORMAT`, or makes a new directory.
pub(super) fn identify(
    disk: &dyn Disk,
    settings: &Settings,
    ids: &dyn IdSource,
) -> Result<DirectoryId, OpenError> {
    match disk.open(paths::FORMAT, Mode::Buffered) {
        Ok(file) => match identity::decode(&read_front(&*file)?) {
            Ok(id) => Ok(id),
            Err(why @ FormatError::Version(_)) => Err(OpenError::Format {
                why,
                advice: String::new(),
            }),
            Err(why) => Err(OpenError::Format {
                why,
                advice: advice(owner(disk)),
            }),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => create(disk, settings, ids.uuid()),
        Err(e) => Err(e.into()),
    }
}

/// The front of a small file.
pub(super) fn read_front(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?)
        .unwrap_or(usize::MAX)
        .min(FORMAT_BYTES_MAX);
    let mut bytes = vec![0; len];
    read_exact_at(file, &mut bytes, 0)?;
    Ok(bytes)
}

/// Makes a new directory. `FORMAT` comes last: without it, what is there was never used, unless something tells otherwise.
fn create(disk: &dyn Disk, settings: &Settings, id: DirectoryId) -> Result<DirectoryId, OpenError> {
    const OURS: [&str; 9] = [
        paths::LOCK,
        paths::JOURNAL,
        paths::TOPICS,
        paths::SALVAGE,
        paths::TRASH,
        paths::RESERVE,
        paths::CHECKPOINTS[0],
        paths::CHECKPOINTS[1],
        NEW_FORMAT,
    ];
    let entries = disk.list("")?;
    let foreign = entries.iter().filter(|e| !OURS.contains(&e.name.as_str()));
    let foreign: Vec<_> = foreign.map(|e| e.name.clone()).collect();
    if !foreign.is_empty() {
        return Err(OpenError::NotOurs(foreign.join(", ")));
    }
    if let Some(trace) = trace_of_use(disk)? {
        return Err(OpenError::FormatGone {
            trace,
            advice: advice(owner(disk)),
        });
    }
    for dir in [paths::JOURNAL, paths::TOPICS, paths::SALVAGE, paths::TRASH] {
        disk.mkdir(dir)?;
    }
    for entry in disk.list(paths::JOURNAL)? {
        disk.unlink(&format!("{}/{}", paths::JOURNAL, entry.name))?;
    }
    let unfinished = [paths::CHECKPOINTS[0], NEW_FORMAT];
    for entry in entries.iter().filter(|e| unfinished.contains(&e.name.as_str())) {
        disk.unlink(&entry.name)?;
    }
    make_file(disk, 0, settings.journal_first_file_bytes, || true)?;
    checkpoint::initial(disk, id)?;
    write_format(disk, id)?;
    Ok(id)
}

fn write_format(disk: &dyn Disk, id: DirectoryId) -> io::Result<()> {
    let file = disk.create_new(NEW_FORMAT, Mode::Buffered)?;
    file.write_all_at(identity::encode(id).as_bytes(), 0)?;
    file.sync_data()?;
    disk.rename(NEW_FORMAT, paths::FORMAT)?;
    disk.sync_dir("")
}

/// Writes `FORMAT` of a directory that was in use again.
pub(super) fn restore_format(disk: &dyn Disk, id: DirectoryId) -> io::Result<()> {
    match disk.unlink(NEW_FORMAT) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    write_format(disk, id)
}

/// What tells that a directory without `FORMAT` was in use all the same; `None` if it provably never was. Nothing but its one
/// journal file, without any header, and the first record in `checkpoint.0` is there before `FORMAT` is durable.
pub(super) fn trace_of_use(disk: &dyn Disk) -> io::Result<Option<String>> {
    for dir in [paths::TOPICS, paths::SALVAGE, paths::TRASH] {
        if let Some(entry) = list(disk, dir)?.first() {
            return Ok(Some(format!("{dir}/{}", entry.name)));
        }
    }
    let [first, second] = paths::CHECKPOINTS;
    let late = list(disk, "")?.into_iter().map(|entry| entry.name);
    if let Some(name) = late
        .into_iter()
        .find(|name| name == second || name == paths::RESERVE)
    {
        return Ok(Some(name));
    }
    if !holds_first_record_at_most(disk, first)? {
        return Ok(Some(first.to_owned()));
    }
    for entry in list(disk, paths::JOURNAL)? {
        let path = format!("{}/{}", paths::JOURNAL, entry.name);
        if path != paths::journal(0) || holds_magic(disk, &path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn list(disk: &dyn Disk, dir: &str) -> io::Result<Vec<Entry>> {
    match disk.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// Whether a checkpoint file holds what making a directory may leave: nothing, the first record, or that torn.
fn holds_first_record_at_most(disk: &dyn Disk, path: &str) -> io::Result<bool> {
    let file = match disk.open(path, Mode::Buffered) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(e),
    };
    let first = checkpoint::first_record();
    if file.len()? > first.encode(DirectoryId::default()).len() as u64 {
        return Ok(false);
    }
    let bytes = read_front(&*file)?;
    let record = owner_of(&bytes).and_then(|id| Checkpoint::decode(&bytes, id).ok());
    Ok(record.is_none_or(|record| record == first))
}

/// Whether a journal file has a header or a group anywhere, whole or not: one that was never used is zeros, or what the
/// device held before if it was not synced.
fn holds_magic(disk: &dyn Disk, path: &str) -> io::Result<bool> {
    let file = disk.open(path, Mode::Direct)?;
    let bytes = file.len()? / BLOCK as u64 * BLOCK as u64;
    let mut piece = AlignedBuf::zeroed(PIECE_BYTES);
    let mut at = 0;
    while at < bytes {
        let len = usize::try_from(bytes - at)
            .unwrap_or(PIECE_BYTES)
            .min(PIECE_BYTES);
        read_exact_at(&*file, &mut piece[..len], at)?;
        if piece[..len].chunks(BLOCK).any(has_magic) {
            return Ok(true);
        }
        at += len as u64;
    }
    Ok(false)
}

/// The directory that a checkpoint record belongs to, whichever that is.
pub(super) fn owner_of(record: &[u8]) -> Option<DirectoryId> {
    let id = *record.get(16..)?.first_chunk()?;
    Checkpoint::decode(record, id).ok().map(|_| id)
}

/// The directory by its checkpoints.
fn owner(disk: &dyn Disk) -> Option<DirectoryId> {
    paths::CHECKPOINTS.iter().find_map(|path| {
        let file = disk.open(path, Mode::Buffered).ok()?;
        owner_of(&checkpoint::read_record(&*file).ok()?.ok()?)
    })
}

/// What to do about a `FORMAT` that is missing or damaged, to be said behind what is wrong.
pub(super) fn advice(id: Option<DirectoryId>) -> String {
    match id {
        Some(id) => format!(
            "; by the checkpoints it should read: {}",
            identity::encode(id).trim_end().replace('\n', " / ")
        ),
        None => "; no checkpoint says what it should read: put it back from a copy".to_owned(),
    }
}

/// Makes the directories that hold nothing a start needs, if they are gone.
pub(super) fn make_missing(disk: &dyn Disk) -> io::Result<()> {
    for dir in [paths::SALVAGE, paths::TRASH] {
        match disk.list(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                disk.mkdir(dir)?;
                disk.sync_dir("")?;
            }
            other => drop(other?),
        }
    }
    Ok(())
}

/// Makes the directory of the journal, if what was in it is given up with it.
pub(super) fn make_journal(disk: &dyn Disk) -> io::Result<()> {
    match disk.list(paths::JOURNAL) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            disk.mkdir(paths::JOURNAL)?;
            disk.sync_dir("")
        }
        other => other.map(drop),
    }
}

/// Whether the directory of the topics is there. It is as old as the data directory: without it everything below it is lost.
pub(super) fn has_topics(disk: &dyn Disk) -> io::Result<bool> {
    match disk.list(paths::TOPICS) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|_| true),
    }
}
