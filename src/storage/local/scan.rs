//! Reading journal files back: which groups are there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::{Range, RangeInclusive};

use super::format::DirectoryId;
use super::format::journal::{
    BLOCK, ENTRY_BYTES, Entry, FileHeader, GROUP_HEADER_BYTES, GROUPS_START, GroupHeader, Place, chain_hash,
};
use super::paths;
use crate::disk::{AlignedBuf, Disk, DiskFile, Mode};
use crate::model::{Lsn, Offset, PartitionKey, TopicId};
use crate::planted::{self, Bug};
use crate::record::crc32c;

/// What to do if the disk does not give what nothing else has.
pub(super) const AROUND_BAD_BLOCKS: &str = "try again; if it stays, copy the directory to another disk with a tool that reads \
     around bad blocks (ddrescue), and run `naru doctor` on the copy";
/// What to do before anything is given up because of a read that failed: what it did not give may be there.
pub(super) const BEFORE_GIVING_UP: &str = "try again, and look at the disk, before anything is given up";
/// Journal files are read in pieces of at least this size.
const WINDOW_BYTES: usize = 1 << 20;

/// What a look for groups under other generations may read of their tables.
const CHECK_BYTES_MAX: u64 = 64 << 20;

/// How many generations in a row may have lost all their headers and are still looked for. Each is a file begun, with two
/// copies of its header; and each costs another try at every group that is of none of the others.
const GENERATIONS_AHEAD: u64 = 16;

/// A block that the disk does not give. That is no damage: another read may give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unread {
    pub(super) at: u64,
    /// What the disk said.
    pub(super) why: String,
}

impl Unread {
    /// That it is so, in words, as the beginning of what follows from it.
    pub(super) fn told_of(&self, file: &str) -> String {
        format!("{file} cannot be read at {} ({})", self.at, self.why)
    }
}

/// A journal file and its header, if one of the two copies holds.
#[derive(Debug)]
pub(super) struct ScannedFile {
    pub(super) number: u64,
    pub(super) file: Box<dyn DiskFile>,
    pub(super) bytes: u64,
    pub(super) header: Option<FileHeader>,
    /// Neither header nor zeros: a header that was being rewritten, or damage.
    pub(super) illegible: bool,
    /// Why there is no header, if the disk does not give one of its copies.
    pub(super) unread: Option<Unread>,
}

/// A group whose header and table hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FoundGroup {
    pub(super) lsn: Lsn,
    /// Index of its file.
    pub(super) file: usize,
    pub(super) position: u64,
    pub(super) header: GroupHeader,
    /// [`chain_hash`] of its header.
    pub(super) hash: u64,
    /// A batch in it that is of one of the broker's own partitions does not hold.
    pub(super) internal_damage: bool,
}

impl FoundGroup {
    /// Where the next group of its file stands.
    pub(super) fn end(&self) -> u64 {
        self.position + self.header.total_bytes()
    }
}

/// Opens all files of the ring.
pub(super) fn open_files(disk: &dyn Disk, directory: DirectoryId) -> io::Result<Vec<ScannedFile>> {
    let mut files = Vec::new();
    let entries = match disk.list(paths::JOURNAL) {
        // A directory that is gone has no files: what follows from that is not decided here.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    for entry in entries {
        let number = entry.name.strip_suffix(".journal").and_then(|n| n.parse().ok());
        // One that leaves no number for the next file was never made.
        let ours = |n: &u64| *n < u64::MAX && paths::journal(*n).ends_with(&entry.name) && !entry.is_dir;
        let Some(number) = number.filter(ours) else {
            tracing::warn!(event = "unknown_file", file = %entry.name, "ignored a file in the journal directory");
            continue;
        };
        let file = disk.open(&paths::journal(number), Mode::Direct)?;
        let bytes = file.len()? / BLOCK as u64 * BLOCK as u64;
        let mut window = Window::new(&*file, bytes);
        let mut copies = Vec::new();
        let mut zeros = true;
        for at in [0, BLOCK as u64] {
            let block = window.get(at, BLOCK)?;
            zeros &= block.iter().all(|b| *b == 0);
            copies.extend(
                block
                    .first_chunk()
                    .and_then(|b| FileHeader::decode(b, directory).ok()),
            );
        }
        let header = copies.into_iter().max_by_key(|h| h.generation);
        // The window reads on behind the two copies, and a block there says nothing of them.
        let unread = window
            .unreadable
            .into_iter()
            .find(|unread| unread.at < GROUPS_START);
        let unread = unread.filter(|_| header.is_none());
        let illegible = header.is_none() && !zeros;
        // What a file has grown by since it was made holds no group.
        let made_with = header.map_or(bytes, |header| header.file_bytes / BLOCK as u64 * BLOCK as u64);
        let bytes = bytes.min(made_with);
        files.push(ScannedFile {
            number,
            file,
            bytes,
            header,
            illegible,
            unread,
        });
    }
    Ok(files)
}

/// Refuses files whose header is not known because it could not be read: such a file is neither unused nor damaged, and
/// another try may read it.
pub(super) fn check_readable(files: &[ScannedFile]) -> io::Result<()> {
    for scanned in files {
        if let Some(unread) = &scanned.unread {
            let (file, why) = (paths::journal(scanned.number), &unread.why);
            let message = format!("{file}: its header cannot be read: {why}; {AROUND_BAD_BLOCKS}");
            return Err(io::Error::other(message));
        }
    }
    Ok(())
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// Groups whose header and table hold.
    pub(super) groups: Vec<FoundGroup>,
    /// Topics that they delete.
    pub(super) deletions: Vec<(Lsn, TopicId)>,
    /// Blocks that could not be read, of those that were looked at.
    pub(super) unreadable: Vec<Unread>,
    /// Of partitions that somebody asks about: the first group that reaches the offset that is asked about.
    pub(super) reached: BTreeMap<PartitionKey, Lsn>,
}

/// Finds all groups of a file whose header and table hold. `asked` are partitions and offsets for [`Scanned::reached`].
pub(super) fn scan(
    files: &[ScannedFile],
    index: usize,
    directory: DirectoryId,
    asked: &BTreeMap<PartitionKey, Offset>,
) -> io::Result<Scanned> {
    let mut found = Scanned::default();
    let scanned = &files[index];
    let Some(file_header) = scanned.header else {
        return Ok(found);
    };
    let mut window = Window::new(&*scanned.file, scanned.bytes);
    let mut batches = Window::of_blocks(scanned);
    let mut position = GROUPS_START;
    while position + BLOCK as u64 <= scanned.bytes {
        let place = Place {
            directory,
            generation: file_header.generation,
            position,
        };
        match group_of_this_lap(&mut window, scanned.bytes, &place)? {
            Some((header, hash, entries)) => {
                let deleted = entries.iter().filter_map(|entry| match entry {
                    Entry::DeleteTopic(topic) => Some((header.lsn, *topic)),
                    Entry::Append(_) | Entry::Trim { .. } => None,
                });
                found.deletions.extend(deleted);
                let reached = entries.iter().filter_map(end_of);
                for (key, _) in
                    reached.filter(|(key, end)| asked.get(key).is_some_and(|offset| end >= offset))
                {
                    found.reached.entry(key).or_insert(header.lsn);
                }
                let payload = position + header.payload_start();
                let mut internal_damage = false;
                for entry in &entries {
                    internal_damage |= is_damaged_internal(&mut batches, payload, entry)?;
                }
                found.groups.push(FoundGroup {
                    lsn: header.lsn,
                    file: index,
                    position,
                    header,
                    hash,
                    internal_damage,
                });
                position += header.total_bytes();
            }
            None if planted::is(Bug::CutAtFirstBadCrc) => break,
            // Bytes of an earlier lap, padding, or damage: groups begin on blocks, so look at the next one.
            None => position += BLOCK as u64,
        }
    }
    found.unreadable = window.unreadable;
    Ok(found)
}

/// The partition of an entry, and where it ends with it.
fn end_of(entry: &Entry) -> Option<(PartitionKey, Offset)> {
    match entry {
        Entry::Append(entry) => Some((entry.key, entry.last.next())),
        Entry::Trim { key, to } => Some((*key, *to)),
        Entry::DeleteTopic(_) => None,
    }
}

/// Generations of which no header is there and that may have been given all the same: the one that comes next, and those
/// behind it, of which a group may be all that is left.
pub(super) fn generations_ahead(files: &[ScannedFile]) -> RangeInclusive<u64> {
    let known = files.iter().filter_map(|f| f.header).map(|h| h.generation);
    let next = known.max().map_or(1, |last| last + 1);
    next..=next.saturating_add(GENERATIONS_AHEAD)
}

/// Generations that are missing among and in front of those of the headers, newest first.
pub(super) fn generations_missing(files: &[ScannedFile]) -> Vec<u64> {
    let known = files.iter().filter_map(|f| f.header).map(|h| h.generation);
    let known: BTreeSet<u64> = known.collect();
    let next = *generations_ahead(files).start();
    let oldest = known.first().copied().unwrap_or(next);
    let oldest = oldest.saturating_sub(files.len() as u64).max(1);
    let missing = (oldest..next)
        .rev()
        .filter(|generation| !known.contains(generation));
    missing.take(files.len()).collect()
}

/// The first group in front of `upto` that was written to a file under one of these generations, whatever its header says, and
/// is above the LSN beside that; and the generation.
pub(super) fn first_group_of(
    scanned: &ScannedFile,
    directory: DirectoryId,
    wanted: &[(u64, Lsn)],
    upto: u64,
) -> io::Result<Option<(u64, GroupHeader)>> {
    let mut window = Window::new(&*scanned.file, scanned.bytes);
    // A group holds under one generation alone: those of the file's own, which are most, are of no other.
    let own = scanned.header.map(|header| header.generation);
    let mut left = CHECK_BYTES_MAX;
    let mut position = GROUPS_START;
    while position < upto && position + BLOCK as u64 <= scanned.bytes {
        let header = peek_at(&mut window, position)?;
        let front = header.map_or(u64::MAX, |header| header.payload_start());
        // Records may be made to look like groups with long tables.
        if let Some(header) = header.filter(|_| front <= left) {
            let wanted = wanted.iter().filter(|(_, above)| header.lsn > *above);
            for generation in own.into_iter().chain(wanted.map(|(generation, _)| *generation)) {
                let place = Place {
                    directory,
                    generation,
                    position,
                };
                if group_at(&mut window, scanned.bytes, &place)?.is_some() {
                    if Some(generation) == own {
                        break;
                    }
                    return Ok(Some((generation, header)));
                }
            }
            left -= front;
        }
        position += BLOCK as u64;
    }
    Ok(None)
}

/// Up to where the groups of a generation say that they reach: behind the end of the file, if that is cut off in one of them whose
/// header and table are there.
pub(super) fn reached_by_groups(
    scanned: &ScannedFile,
    directory: DirectoryId,
    generation: u64,
) -> io::Result<u64> {
    let mut window = Window::new(&*scanned.file, scanned.bytes);
    let (mut reached, mut position) = (0, GROUPS_START);
    while position + BLOCK as u64 <= scanned.bytes {
        let place = Place {
            directory,
            generation,
            position,
        };
        // Its front alone has to be there.
        match front_at(&mut window, scanned.bytes, &place)? {
            Some((header, ..)) => {
                reached = position.saturating_add(header.total_bytes());
                position = reached;
            }
            None => position += BLOCK as u64,
        }
    }
    Ok(reached)
}

/// Whether anything but zeros stands in a file, or the disk does not give all of it.
pub(super) fn holds_anything(scanned: &ScannedFile) -> io::Result<bool> {
    let mut window = Window::new(&*scanned.file, scanned.bytes);
    for at in (0..scanned.bytes).step_by(BLOCK) {
        if window.get(at, BLOCK)?.iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
    }
    // Of one that was cut, what is left of a block.
    Ok(!window.unreadable.is_empty() || scanned.file.len()? % BLOCK as u64 != 0)
}

/// The group at a place, if it was written there under the generation that its file has now.
fn group_of_this_lap(
    window: &mut Window<'_>,
    file_bytes: u64,
    place: &Place,
) -> io::Result<Option<(GroupHeader, u64, Vec<Entry>)>> {
    let found = group_at(window, file_bytes, place)?;
    if found.is_none() && place.generation > 1 && planted::is(Bug::EarlierLapAccepted) {
        let generation = place.generation - 1;
        return group_of_this_lap(window, file_bytes, &Place { generation, ..*place });
    }
    Ok(found)
}

fn group_at(
    window: &mut Window<'_>,
    file_bytes: u64,
    place: &Place,
) -> io::Result<Option<(GroupHeader, u64, Vec<Entry>)>> {
    let group = front_at(window, file_bytes, place)?;
    Ok(group.filter(|(header, ..)| header.total_bytes() <= file_bytes - place.position))
}

/// As [`group_at`], of a group whose end may be missing.
fn front_at(
    window: &mut Window<'_>,
    file_bytes: u64,
    place: &Place,
) -> io::Result<Option<(GroupHeader, u64, Vec<Entry>)>> {
    let Some(header) = peek_at(window, place.position)? else {
        return Ok(None);
    };
    if header.payload_start() > file_bytes - place.position {
        return Ok(None);
    }
    let front_bytes = usize::try_from(header.payload_start()).map_err(|_| io::ErrorKind::InvalidData)?;
    let front = window.get(place.position, front_bytes)?;
    if !GroupHeader::verify(front, place) {
        return Ok(None);
    }
    let hash = chain_hash(front.first_chunk().ok_or(io::ErrorKind::InvalidData)?);
    Ok(Some((
        header,
        hash,
        entries_of(front).filter_map(Result::ok).collect(),
    )))
}

/// Whether an entry is a batch of one of the broker's own partitions and does not hold: no start without it, which is to be
/// known before anything is written.
fn is_damaged_internal(batches: &mut Window<'_>, payload: u64, entry: &Entry) -> io::Result<bool> {
    let Entry::Append(entry) = entry else {
        return Ok(false);
    };
    if !entry.key.topic.is_internal() {
        return Ok(false);
    }
    let from = payload + u64::from(entry.position);
    let block = from / BLOCK as u64 * BLOCK as u64;
    let skip = usize::try_from(from - block).map_err(|_| io::ErrorKind::InvalidData)?;
    let length = entry.length as usize;
    let bytes = batches.get(block, skip.saturating_add(length))?;
    Ok(bytes.get(skip..).is_none_or(|batch| crc32c(batch) != entry.crc))
}

fn peek_at(window: &mut Window<'_>, position: u64) -> io::Result<Option<GroupHeader>> {
    let bytes = window.get(position, GROUP_HEADER_BYTES)?;
    Ok(bytes.first_chunk().and_then(GroupHeader::peek))
}

/// Whether an empty group stood here whose header does not hold: of its marks at most one is gone, and zeros follow. A group
/// that held anything has a table behind its header, whose entries are not zero.
pub(super) fn looks_empty(scanned: &ScannedFile, position: u64, lsn: Lsn, previous: Option<u64>) -> bool {
    let mut window = Window::new(&*scanned.file, scanned.bytes);
    if position + BLOCK as u64 > scanned.bytes {
        return false;
    }
    let Ok(block) = window.get(position, BLOCK) else {
        return false;
    };
    let Some((header, rest)) = block.split_first_chunk() else {
        return false;
    };
    GroupHeader::is_left_of_empty(header, lsn, previous) && rest.iter().all(|byte| *byte == 0)
}

/// The entries of a table that stands behind its group's header.
pub(super) fn entries_of(
    front: &[u8],
) -> impl Iterator<Item = Result<Entry, super::format::FormatError>> + '_ {
    let table = front.get(GROUP_HEADER_BYTES..).unwrap_or_default();
    table.as_chunks::<ENTRY_BYTES>().0.iter().map(Entry::decode)
}

/// A whole group as the disk gives it.
pub(super) struct GroupBytes {
    /// Zeros where the disk gives nothing.
    pub(super) bytes: Vec<u8>,
    /// Where it stands in its file.
    position: u64,
    unread: Vec<Unread>,
}

impl GroupBytes {
    /// The first block that the disk does not give of those in which this part of the group stands.
    pub(super) fn unread_in(&self, part: &Range<usize>) -> Option<&Unread> {
        let (from, to) = (self.position + part.start as u64, self.position + part.end as u64);
        let touches = |unread: &&Unread| unread.at < to && from < unread.at + BLOCK as u64;
        self.unread.iter().find(touches)
    }

    /// The same of its header and table.
    pub(super) fn unread_front(&self, header: &GroupHeader) -> Option<&Unread> {
        let front = usize::try_from(header.payload_start()).unwrap_or(usize::MAX);
        self.unread_in(&(0..front.min(self.bytes.len())))
    }

    /// The first block of all that the disk does not give.
    pub(super) fn first_unread(&self) -> Option<&Unread> {
        self.unread.first()
    }
}

/// Reads a whole group.
pub(super) fn read_group(files: &[ScannedFile], group: &FoundGroup) -> io::Result<GroupBytes> {
    let scanned = &files[group.file];
    let total = usize::try_from(group.header.total_bytes()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut window = Window::of_blocks(scanned);
    let bytes = window.get(group.position, total)?.to_vec();
    Ok(GroupBytes {
        bytes,
        position: group.position,
        unread: window.unreadable,
    })
}

/// As an error of who cannot do without this block.
pub(super) fn unread_error(scanned: &ScannedFile, unread: &Unread) -> io::Error {
    let told = unread.told_of(&paths::journal(scanned.number));
    io::Error::other(format!("{told}; {BEFORE_GIVING_UP}"))
}

/// The first block that cannot be read of what stands at a position and may be this group: the block where its header would
/// stand, or any of the group if that header is there. `unreadable` are blocks that could not be read before.
pub(super) fn first_unreadable_of(
    scanned: &ScannedFile,
    position: u64,
    lsn: Lsn,
    unreadable: &[Unread],
) -> io::Result<Option<Unread>> {
    let end = apparent_end(scanned, position, lsn)?;
    first_unreadable_between(scanned, position, end, unreadable)
}

/// Where a group that may be damaged ends as far as its header tells: behind its first block at the least.
pub(super) fn apparent_end(scanned: &ScannedFile, position: u64, lsn: Lsn) -> io::Result<u64> {
    let mut window = Window::of_blocks(scanned);
    let header = peek_at(&mut window, position)?.filter(|header| header.lsn == lsn);
    let total = header.map_or(BLOCK as u64, |header| header.total_bytes());
    Ok(position.saturating_add(total).min(scanned.bytes))
}

/// The first block of a range that cannot be read now, or could not be before.
pub(super) fn first_unreadable_between(
    scanned: &ScannedFile,
    from: u64,
    to: u64,
    unreadable: &[Unread],
) -> io::Result<Option<Unread>> {
    let mut window = Window::new(&*scanned.file, scanned.bytes);
    let mut at = from;
    while at < to {
        window.get(at, BLOCK)?;
        at = window.at + window.filled as u64;
    }
    let all = window.unreadable.iter().chain(unreadable);
    let inside = all.filter(|unread| (from..to).contains(&unread.at));
    Ok(inside.min_by_key(|unread| unread.at).cloned())
}

/// Whether the payload of a group is whole.
pub(super) fn payload_holds(bytes: &[u8], header: &GroupHeader) -> bool {
    let Ok(payload_start) = usize::try_from(header.payload_start()) else {
        return false;
    };
    let Some((front, payload)) = bytes.split_at_checked(payload_start) else {
        return false;
    };
    entries_of(front).all(|entry| match entry {
        Ok(Entry::Append(e)) => {
            let end = (e.position as usize).saturating_add(e.length as usize);
            payload
                .get(e.position as usize..end)
                .is_some_and(|batch| crc32c(batch) == e.crc)
        }
        Ok(Entry::DeleteTopic(_) | Entry::Trim { .. }) => true,
        Err(_) => false,
    })
}

/// What stands at the place of the group behind the last whole one, for `salvage/`, if it is what was being written there: of
/// its marks at most one is damaged. Bytes of an earlier lap have one at most.
pub(super) fn unfinished_at(
    scanned: &ScannedFile,
    position: u64,
    lsn: Lsn,
    previous: Option<u64>,
) -> io::Result<Option<Vec<u8>>> {
    if position + BLOCK as u64 > scanned.bytes {
        return Ok(None);
    }
    let mut window = Window::new(&*scanned.file, scanned.bytes);
    let front = window.get(position, GROUP_HEADER_BYTES)?.first_chunk();
    let Some(header) = front.filter(|h| GroupHeader::marks_of_next(h, lsn, previous) >= 2) else {
        return Ok(None);
    };
    let total = GroupHeader::fields(header).map_or(0, |header| header.total_bytes());
    let len = usize::try_from(total.min(scanned.bytes - position)).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Some(window.get(position, len)?.to_vec()))
}

/// Reads a file forward in large aligned pieces. What cannot be read comes as zeros and is noted: damage, to be judged by
/// checksums, and no proof that nothing stands there.
struct Window<'a> {
    file: &'a dyn DiskFile,
    bytes: u64,
    buf: AlignedBuf,
    at: u64,
    filled: usize,
    minimum: usize,
    /// Blocks that could not be read.
    unreadable: Vec<Unread>,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn DiskFile, bytes: u64) -> Self {
        Self {
            file,
            bytes,
            buf: AlignedBuf::zeroed(0),
            at: 0,
            filled: 0,
            minimum: usize::try_from(bytes)
                .unwrap_or(WINDOW_BYTES)
                .clamp(BLOCK, WINDOW_BYTES),
            unreadable: Vec::new(),
        }
    }

    /// Reads no more than it is asked for.
    fn of_blocks(scanned: &'a ScannedFile) -> Self {
        Self {
            minimum: BLOCK,
            ..Self::new(&*scanned.file, scanned.bytes)
        }
    }

    /// `len` bytes at a block boundary; zeros behind the end of the file.
    fn get(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let inside = at >= self.at && at + len as u64 <= self.at + self.filled as u64;
        if !inside {
            let wanted = len.next_multiple_of(BLOCK).max(self.minimum);
            if self.buf.len() < wanted {
                self.buf = AlignedBuf::zeroed(wanted);
            }
            let left = usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX);
            let readable = wanted.min(left);
            read_or_zero(self.file, &mut self.buf[..readable], at, &mut self.unreadable);
            self.buf[readable..wanted].fill(0);
            self.at = at;
            self.filled = wanted;
        }
        let skip = usize::try_from(at - self.at).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(&self.buf[skip..skip + len])
    }
}

fn read_or_zero(file: &dyn DiskFile, buf: &mut [u8], at: u64, unreadable: &mut Vec<Unread>) {
    if crate::disk::read_exact_at(file, buf, at).is_ok() {
        return;
    }
    for (i, block) in buf.chunks_mut(BLOCK).enumerate() {
        let at = at + (i * BLOCK) as u64;
        if let Err(error) = crate::disk::read_exact_at(file, block, at) {
            tracing::warn!(event = "read_failed", position = at, error = %error, "a block of the journal cannot be read");
            block.fill(0);
            let why = error.to_string();
            unreadable.push(Unread { at, why });
        }
    }
}
