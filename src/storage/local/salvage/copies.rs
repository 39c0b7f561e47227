//! Copies of every file that salvaging touches, made before it does.

use std::collections::BTreeSet;
use std::io;

use super::rebuild::rebuild;
use super::way::Way;
use crate::disk::{AlignedBuf, BLOCK_BYTES, Disk, DiskFile, Mode, read_exact_at};
use crate::storage::local::checkpoint::Pair;
use crate::storage::local::directory;
use crate::storage::local::format::DirectoryId;
use crate::storage::local::format::checkpoint::Checkpoint;
use crate::storage::local::{paths, scan};

const PIECE_BYTES: usize = 1 << 20;
/// What must be left beside the copies for the change itself.
pub(in crate::storage::local) const LEFT_BYTES: u64 = 32 << 20;

/// Where copies of this name lie.
pub(super) fn place(name: &str) -> String {
    format!("{}/{name}", paths::SALVAGE)
}

/// Copies what these ways touch. Returns how many files and bytes.
pub(super) fn keep(
    disk: &dyn Disk,
    to: &str,
    directory: DirectoryId,
    ways: &[Way],
) -> io::Result<(usize, u64)> {
    let files = touched(disk, directory, ways)?;
    let mut bytes = 0;
    for path in &files {
        bytes += disk.open(path, Mode::Buffered)?.len()?;
    }
    let free = disk.free_bytes()?;
    if free < bytes.saturating_add(LEFT_BYTES) {
        let message = format!("{bytes} bytes have to be copied, and {free} are free; nothing was changed");
        return Err(io::Error::new(io::ErrorKind::StorageFull, message));
    }
    directory::make_missing(disk)?;
    let mut dirs = BTreeSet::from([to.to_owned()]);
    for path in &files {
        for (at, _) in path.match_indices('/') {
            dirs.insert(format!("{to}/{}", &path[..at]));
        }
    }
    for dir in &dirs {
        disk.mkdir(dir)?;
    }
    for path in &files {
        copy(disk, path, &format!("{to}/{path}"))?;
    }
    for dir in dirs.iter().rev() {
        disk.sync_dir(dir)?;
    }
    disk.sync_dir(paths::SALVAGE)?;
    Ok((files.len(), bytes))
}

/// Files that are written over, cut or put aside; those alone that are there.
fn touched(disk: &dyn Disk, directory: DirectoryId, ways: &[Way]) -> io::Result<Vec<String>> {
    let mut files: Vec<String> = [paths::FORMAT, paths::CHECKPOINTS[0], paths::CHECKPOINTS[1]]
        .map(str::to_owned)
        .to_vec();
    let gives_up = ways.iter().any(|way| !way.restores());
    for scanned in scan::open_files(disk, directory)? {
        let restored = ways.contains(&Way::Header(scanned.number));
        // Files that were never used hold nothing; zeros in place of a header do not say so.
        if restored || gives_up && scan::holds_anything(&scanned)? {
            files.push(paths::journal(scanned.number));
        }
    }
    let pair = Pair::read(disk, directory)?;
    let rebuilt = if gives_up && pair.newest().is_none() {
        rebuild(disk, &scan::open_files(disk, directory)?, directory)?.ok()
    } else {
        None
    };
    let newest = pair.newest().map(|(_, newest)| newest);
    let newest = newest.or(rebuilt.as_ref().map(|rebuilt| &rebuilt.record));
    if gives_up && let Some(newest) = newest {
        for topic in disk.list(paths::TOPICS)? {
            let dir = format!("{}/{}", paths::TOPICS, topic.name);
            for partition in disk.list(&dir)? {
                of_partition(
                    disk,
                    &format!("{dir}/{}", partition.name),
                    newest,
                    ways,
                    &mut files,
                )?;
            }
        }
    }
    files.retain(|path| disk.open(path, Mode::Buffered).is_ok());
    Ok(files)
}

/// Segments of a partition behind whose trusted end something stands, and those that the checkpoint does not name.
fn of_partition(
    disk: &dyn Disk,
    dir: &str,
    newest: &Checkpoint,
    ways: &[Way],
    files: &mut Vec<String>,
) -> io::Result<()> {
    let known = newest.partitions.iter().find(|p| paths::partition(p.key) == dir);
    let given_up = |way: &Way| matches!(way, Way::Records { key, .. } if paths::partition(*key) == dir);
    for entry in disk.list(dir)? {
        let path = format!("{dir}/{}", entry.name);
        let segment = known.and_then(|p| {
            p.segments
                .iter()
                .find(|s| paths::base_of(&entry.name) == Some(s.base))
        });
        let whole = segment.is_some_and(|segment| {
            let long = |bytes: u64| {
                disk.open(&path, Mode::Buffered)
                    .and_then(|file| file.len())
                    .is_ok_and(|len| len > bytes)
            };
            segment.sealed || path.ends_with(".log") && !long(segment.bytes)
        });
        if !entry.is_dir && (!whole || ways.iter().any(given_up)) {
            files.push(path);
        }
    }
    Ok(())
}

fn copy(disk: &dyn Disk, from: &str, to: &str) -> io::Result<()> {
    let source = disk.open(from, Mode::Buffered)?;
    let target = disk.create_new(to, Mode::Buffered)?;
    let len = source.len()?;
    let mut buf = AlignedBuf::zeroed(PIECE_BYTES);
    let mut at = 0;
    while at < len {
        let piece = usize::try_from(len - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        read_what_can_be(&*source, &mut buf[..piece], at);
        target.write_all_at(&buf[..piece], at)?;
        at += piece as u64;
    }
    target.sync_data()
}

/// What the disk does not give is zeros in the copy. Returns whether it gives all.
pub(in crate::storage::local) fn read_what_can_be(file: &dyn DiskFile, buf: &mut [u8], at: u64) -> bool {
    if read_exact_at(file, buf, at).is_ok() {
        return true;
    }
    let mut all = true;
    for (index, block) in buf.chunks_mut(BLOCK_BYTES).enumerate() {
        if read_exact_at(file, block, at + (index * BLOCK_BYTES) as u64).is_err() {
            block.fill(0);
            all = false;
        }
    }
    all
}
