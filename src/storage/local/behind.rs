//! What stands behind the end of an active segment when recovery has written to it: looked at, and kept, before it is cut off.

use std::io;

use super::salvage::{LEFT_BYTES, read_what_can_be};
use super::{directory, paths, recovery};
use crate::disk::{BLOCK_BYTES, Disk, DiskFile, Mode};
use crate::model::{Offset, PartitionKey};

/// Most bytes behind the end of a segment that are looked at and kept. A life applies less than that to one partition between
/// two checkpoints, unless there are few.
const KEPT_BYTES_MAX: u64 = 64 << 20;
const PIECE_BYTES: usize = 1 << 20;

/// What stands behind an end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Behind {
    /// More than zeros.
    bytes: bool,
    /// Some of it the disk does not give.
    unread: bool,
}

/// Puts aside what stands behind the end of a segment, if that is more than zeros: what a life applied whose groups are lost.
/// The copy is for people to look at, and a start does without. Returns whether there is anything to cut off.
pub(super) fn put_aside(disk: &dyn Disk, key: PartitionKey, base: Offset, end: u64) -> io::Result<bool> {
    let path = paths::segment(key, base);
    let file = disk.open(&path, Mode::Buffered)?;
    let len = file.len()?;
    let bytes = len.saturating_sub(end).min(KEPT_BYTES_MAX);
    let behind = look(&*file, end, bytes);
    if behind == Behind::default() {
        return Ok(len > end.next_multiple_of(BLOCK_BYTES as u64));
    }
    if behind.unread {
        tracing::warn!(event = "segment_cut", file = %path, bytes = end, "what stands behind the end of a segment cannot be read, and is cut off");
    }
    if !behind.bytes {
        return Ok(true);
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    let name = format!("{}-{}-{name}.from-{end}", key.topic, key.partition);
    match keep(disk, &*file, &name, end, bytes) {
        Ok(kept) => {
            tracing::warn!(event = "segment_cut", file = %path, bytes = end, kept = %kept, "what stood behind the end of a segment is cut off: no group has it")
        }
        Err(error) => {
            tracing::warn!(event = "segment_cut", file = %path, bytes = end, "what stood behind the end of a segment is cut off: no group has it");
            tracing::warn!(event = "salvage_failed", file = %path, error = %error, "what is cut off a segment could not be kept");
        }
    }
    Ok(true)
}

fn look(file: &dyn DiskFile, from: u64, bytes: u64) -> Behind {
    let mut behind = Behind::default();
    in_pieces(from, bytes, |at, piece| {
        behind.unread |= !read_what_can_be(file, piece, at);
        behind.bytes |= piece.iter().any(|byte| *byte != 0);
        Ok(())
    })
    .unwrap_or_default();
    behind
}

/// Goes through so many bytes from a position, with a buffer for each piece of them.
fn in_pieces(
    from: u64,
    bytes: u64,
    mut each: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let piece_bytes = usize::try_from(bytes).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
    let mut buf = vec![0; piece_bytes];
    let mut done = 0;
    while done < bytes {
        let piece = usize::try_from(bytes - done)
            .unwrap_or(piece_bytes)
            .min(piece_bytes);
        each(from + done, &mut buf[..piece])?;
        done += piece as u64;
    }
    Ok(())
}

/// Copies bytes of a file, durably, before they are cut off. Returns where to.
fn keep(disk: &dyn Disk, file: &dyn DiskFile, name: &str, from: u64, bytes: u64) -> io::Result<String> {
    directory::make_missing(disk)?;
    // The start needs the room more.
    if disk.free_bytes()? < bytes.saturating_add(LEFT_BYTES) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let path = recovery::aside(disk, name)?;
    let copy = disk.create_new(&path, Mode::Buffered)?;
    let kept = in_pieces(from, bytes, |at, piece| {
        read_what_can_be(file, piece, at);
        copy.write_all_at(piece, at - from)
    });
    if let Err(error) = kept.and_then(|()| copy.sync_data()) {
        // Half a copy is none.
        disk.unlink(&path)?;
        return Err(error);
    }
    disk.sync_dir(paths::SALVAGE)?;
    Ok(path)
}
