//! The first pass of recovery, which only reads: which groups stand above a checkpoint, which are missing, and why a start
//! has to be refused. Collects all that it finds; what follows from it is the caller's business. `docs/storage-format.md`,
//! "Recovery".

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::checkpoint::Pair;
use super::format::DirectoryId;
use super::format::checkpoint::Checkpoint;
use super::format::journal::{FileHeader, GROUPS_START};
use super::paths;
use super::salvage::Way;
use super::scan::{self, BEFORE_GIVING_UP, FoundGroup, ScannedFile, Unread};
use crate::model::{Lsn, Offset, PartitionKey, TopicId};
use crate::planted::{self, Bug};

/// How far into a file whose header does not say that it is in use a start looks for groups that say so. More than groups
/// have unless a request is larger than that, and not so much that every start would read the whole ring.
const FRONT_BYTES: u64 = 16 << 20;

/// Why the broker must not start: acknowledged data may be missing, and what is there does not say which.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    /// A header of the journal names a checkpoint that cannot be read any more.
    #[error(
        "the journal names checkpoint {seq} (LSN {lsn}), the newest that can be read is {newest_seq} (LSN {newest_lsn}): the \
         other checkpoint file is missing or damaged; put it back from a copy, or see what going on without it costs"
    )]
    CheckpointGone {
        seq: u64,
        lsn: Lsn,
        newest_seq: u64,
        newest_lsn: Lsn,
    },
    /// One of the two checkpoints cannot be read now, and the other is not certain to be enough.
    #[error(
        "{file} cannot be read ({why}), and by the other record alone ({newest_seq}, up to group {newest_lsn}) not all is as it \
         should be: {BEFORE_GIVING_UP}"
    )]
    CheckpointUnread {
        file: &'static str,
        why: String,
        newest_seq: u64,
        newest_lsn: Lsn,
    },
    /// The newest file is shorter than its header says: of an older one the headers behind it tell what is missing.
    #[error(
        "{} has {bytes} bytes, less than its header says ({of}): groups may be missing at its end, and nothing tells; put a whole \
         copy of the file in its place",
        paths::journal(*number)
    )]
    FileCut { number: u64, bytes: u64, of: u64 },
    /// A file that was made once is shorter than any can be.
    #[error("{} has {bytes} bytes, less than any journal file: it was cut; put a whole copy of the file in its place", paths::journal(*number))]
    FileStump { number: u64, bytes: u64 },
    /// There are files, and none has a header.
    #[error(
        "no journal file can be read: none has a header, or groups by which it could be made again; put whole copies in their place"
    )]
    NoneLegible,
    /// The files with groups are not there.
    #[error(
        "journal files are missing: none that is there was ever used; put them back from where they went"
    )]
    NoFiles,
    /// The newest file has lost its header.
    #[error(
        "{}: its header is damaged or that of an earlier lap, but it holds group {lsn} and perhaps more: put a whole copy in \
         its place; `naru log salvage` tells whether its header can be written again",
        paths::journal(*number)
    )]
    HeaderGone { number: u64, lsn: Lsn },
    /// Groups that were durable, and nothing tells what was in them.
    #[error(
        "{}journal groups {first} to {last} were durable and cannot be read ({}{}): nothing else tells which records, commits or \
         topics were in them; put a whole copy of the file in its place",
        unread.as_deref().map_or(String::new(), read_failed),
        paths::journal(*number), position.map_or(String::new(), |at| format!(" at {at}"))
    )]
    GroupsLost {
        first: Lsn,
        last: Lsn,
        number: u64,
        position: Option<u64>,
        /// The block that the disk does not give, in words, if that is why.
        unread: Option<String>,
    },
    /// The disk does not give what stands behind the last group.
    #[error(
        "{} cannot be read at {position}, and group {lsn} may stand there ({why}): whether it was acknowledged cannot be told; try \
         again, or put a whole copy of the file in its place. In a copy made around bad blocks zeros stand there, which tell \
         nobody of the group: give it up first",
        paths::journal(*number)
    )]
    Unreadable {
        number: u64,
        position: u64,
        lsn: Lsn,
        why: String,
    },
    /// A snapshot covers more than the journal brings.
    #[error(
        "checkpoint {seq} knows {key} up to offset {covers}, and the last group that can be read, {end}, ends before that: \
         durable groups are missing at the end of {}; put a whole copy of the file in its place",
        paths::journal(*number)
    )]
    EndLost {
        seq: u64,
        key: PartitionKey,
        covers: Offset,
        end: Lsn,
        number: u64,
    },
    /// No file can hold the group behind the checkpoint.
    #[error(
        "journal group {needed} is needed, but the oldest journal file begins at {oldest}: a journal file is missing or its \
         header is damaged; put it back from where it went"
    )]
    FileMissing { needed: Lsn, oldest: Lsn },
}

/// What is said first where a read has failed.
fn read_failed(unread: &str) -> String {
    format!("{unread}; {BEFORE_GIVING_UP}: ")
}

impl Problem {
    /// The way past it, of which there is one for each. `end` is the last durable group that anything tells of, `newest` that of
    /// the checkpoint.
    pub(super) fn way(&self, end: Lsn, newest: Lsn) -> Way {
        match *self {
            Self::GroupsLost { first, last, .. } => Way::Groups { first, last },
            Self::FileMissing { needed, oldest } => Way::Groups {
                first: needed.max(newest.next()),
                last: Lsn(oldest.0.saturating_sub(1)),
            },
            Self::HeaderGone { number, .. } => Way::Header(number),
            Self::CheckpointGone { .. } | Self::CheckpointUnread { .. } => Way::Checkpoint,
            Self::FileCut { .. }
            | Self::FileStump { .. }
            | Self::Unreadable { .. }
            | Self::EndLost { .. }
            | Self::NoneLegible
            | Self::NoFiles => Way::Tail { from: end.next() },
        }
    }

    /// The most bytes of groups that may be missing behind the end, if that is known.
    fn tail_bytes(&self, files: &[ScannedFile]) -> Option<u64> {
        match self {
            Self::FileCut { of, .. } => Some(*of),
            Self::Unreadable { number, .. } => {
                let file = files.iter().find(|file| file.number == *number);
                file.map(|file| file.bytes)
            }
            Self::FileStump { .. }
            | Self::HeaderGone { .. }
            | Self::GroupsLost { .. }
            | Self::EndLost { .. }
            | Self::CheckpointGone { .. }
            | Self::CheckpointUnread { .. }
            | Self::NoneLegible
            | Self::NoFiles
            | Self::FileMissing { .. } => None,
        }
    }

    /// Whether it may be seen because the checkpoint is not the newest one.
    const fn is_of_an_older_checkpoint(&self) -> bool {
        matches!(
            self,
            Self::CheckpointGone { .. } | Self::FileMissing { .. } | Self::GroupsLost { .. }
        )
    }

    /// The file that it is about, if it is about one.
    pub(super) fn file(&self) -> Option<String> {
        match self {
            Self::FileCut { number, .. }
            | Self::FileStump { number, .. }
            | Self::HeaderGone { number, .. }
            | Self::GroupsLost { number, .. }
            | Self::Unreadable { number, .. }
            | Self::EndLost { number, .. } => Some(paths::journal(*number)),
            Self::CheckpointUnread { file, .. } => Some((*file).to_owned()),
            Self::CheckpointGone { .. } | Self::NoneLegible | Self::NoFiles | Self::FileMissing { .. } => {
                None
            }
        }
    }

    /// Whether it is seen because a read failed, so that another try may not see it.
    pub(super) const fn is_of_a_failed_read(&self) -> bool {
        matches!(
            self,
            Self::Unreadable { .. }
                | Self::CheckpointUnread { .. }
                | Self::GroupsLost { unread: Some(_), .. }
        )
    }
}

/// What the journal holds above a checkpoint.
#[derive(Debug)]
pub(super) struct Survey {
    /// Groups above the checkpoint, in LSN order, whose header and table hold.
    pub(super) groups: Vec<FoundGroup>,
    /// Topics deleted by these groups.
    pub(super) deleted: BTreeSet<TopicId>,
    /// The last durable group.
    pub(super) end: Lsn,
    /// [`super::format::journal::chain_hash`] of its header.
    pub(super) hash: u64,
    /// Ranges of durable groups that cannot be read: first and last.
    pub(super) lost: Vec<(Lsn, Lsn)>,
    /// Where the first of each of these ranges stands or should stand: index of its file, position.
    pub(super) lost_at: Vec<Option<(usize, u64)>>,
    /// Durable groups that cannot be read and held nothing.
    pub(super) empty_lost: Vec<Lsn>,
    /// Groups that do not follow the one before, although that is there.
    pub(super) chain_breaks: Vec<Lsn>,
    /// Bytes of the unfinished last group.
    pub(super) unfinished: Option<(Lsn, Vec<u8>)>,
    /// What may be missing behind the end: at most so many bytes of groups, if that is known.
    pub(super) tail: Option<Option<u64>>,
    /// A block that the disk does not give stands in one of the groups, of those that were looked at.
    pub(super) unread_inside: bool,
    /// Why a start is refused. With any of these the rest is what could be made out all the same.
    pub(super) problems: Vec<Problem>,
}

impl Survey {
    /// Looks at the groups above `newest`.
    pub(super) fn make(
        files: &[ScannedFile],
        newest: &Checkpoint,
        directory: DirectoryId,
    ) -> io::Result<Self> {
        Self::above(newest.lsn, files, newest, directory)
    }

    /// Looks at the groups above an LSN, which is that of `newest` or of the record before it.
    pub(super) fn above(
        base: Lsn,
        files: &[ScannedFile],
        newest: &Checkpoint,
        directory: DirectoryId,
    ) -> io::Result<Self> {
        let mut problems = file_problems(files, newest, directory)?;
        let (needed, missing) = needed_files(files, base);
        problems.extend(missing);
        let covered = covered_above(newest);
        let Walked {
            mut all,
            deletions,
            mut unreadable,
            reached,
        } = walk(files, &needed, directory, &covered)?;
        all.sort_by_key(|g| g.lsn);
        let mut groups = all.clone();
        groups.retain(|g| g.lsn > base);
        let proven = reached
            .values()
            .fold(proven(files, newest), |proven, lsn| proven.max(*lsn));
        let unfinished = drop_unfinished(files, &all, &mut groups, base.max(proven), &mut unreadable)?;
        let (mut lost, chain_breaks) = gaps(&groups, base, proven);
        let mut empty_lost = Vec::new();
        for (first, _) in lost.extract_if(.., |(first, last)| {
            first == last && held_nothing(files, &all, *first)
        }) {
            empty_lost.push(first);
        }
        problems.extend(lost.iter().filter_map(|(first, last)| {
            let first = (*first).max(newest.lsn.next());
            groups_lost(files, &all, &unreadable, (first, *last))
        }));
        if planted::is(Bug::OlderCheckpointAccepted) {
            problems.retain(|problem| !problem.is_of_an_older_checkpoint());
        }
        let end = groups.last().map_or(base, |g| g.lsn).max(proven);
        let lost_at = lost
            .iter()
            .map(|(first, _)| place_of(files, &all, *first))
            .collect();
        problems.extend(unreadable_end(files, &all, &unreadable, end, newest)?);
        let counts = |lsn: Lsn| groups.iter().any(|g| g.lsn == lsn);
        let deleted: BTreeSet<_> = deletions
            .into_iter()
            .filter(|(lsn, _)| counts(*lsn))
            .map(|(_, topic)| topic)
            .collect();
        let not_reached = |key: &PartitionKey| !reached.contains_key(key) && !deleted.contains(&key.topic);
        let lost_end = covered.into_iter().find(|(key, _)| not_reached(key));
        problems.extend(lost_end.map(|(key, covers)| end_lost(files, newest.seq, (key, covers), end)));
        let tail = tail_of(&problems, files, end, newest.lsn);
        Ok(Self {
            deleted,
            end,
            hash: groups.last().map_or(0, |g| g.hash),
            lost,
            lost_at,
            empty_lost,
            chain_breaks,
            unfinished,
            tail,
            unread_inside: unread_inside(&groups, &unreadable),
            problems,
            groups,
        })
    }

    /// One of the two checkpoints may be unreadable for the moment, and the newest. The journal files reach back to the record
    /// before the newest, so the other one is enough as long as all behind it is there: with anything missing or unfinished
    /// the one that cannot be read may be what shows that it was durable.
    pub(super) fn heed_unread(&mut self, pair: &Pair, newest: &Checkpoint) {
        let Some((file, why)) = pair.unread() else {
            return;
        };
        if !self.problems.is_empty() || self.unfinished.is_some() {
            // Said first: with that record the others may not be there.
            let problem = Problem::CheckpointUnread {
                file,
                why: why.to_owned(),
                newest_seq: newest.seq,
                newest_lsn: newest.lsn,
            };
            self.problems.insert(0, problem);
        }
    }
}

/// Whether a block that could not be read stands in one of these groups.
fn unread_inside(groups: &[FoundGroup], unreadable: &[(usize, Unread)]) -> bool {
    groups.iter().any(|group| {
        let inside = |at: u64| (group.position..group.end()).contains(&at);
        let mut of_file = unreadable.iter().filter(|(file, _)| *file == group.file);
        of_file.any(|(_, unread)| inside(unread.at))
    })
}

/// What the headers say, and what says that there should be one.
fn file_problems(
    files: &[ScannedFile],
    newest: &Checkpoint,
    directory: DirectoryId,
) -> io::Result<Vec<Problem>> {
    let mut problems = header_problems(files, newest);
    if let Some(gone) = header_gone(files, newest.lsn, directory)? {
        problems.retain(|problem| !matches!(problem, Problem::NoFiles | Problem::NoneLegible));
        problems.push(gone);
    }
    Ok(problems)
}

fn end_lost(files: &[ScannedFile], seq: u64, (key, covers): (PartitionKey, Offset), end: Lsn) -> Problem {
    let number = newest_file(files).map_or(0, |index| files[index].number);
    Problem::EndLost {
        seq,
        key,
        covers,
        end,
        number,
    }
}

/// What may be missing behind the end, by the problem that knows least of it.
fn tail_of(problems: &[Problem], files: &[ScannedFile], end: Lsn, newest: Lsn) -> Option<Option<u64>> {
    let of_tail = |problem: &&Problem| matches!(problem.way(end, newest), Way::Tail { .. });
    let bytes = problems
        .iter()
        .filter(of_tail)
        .map(|problem| problem.tail_bytes(files));
    bytes.reduce(|all, bytes| all.zip(bytes).map(|(all, bytes)| all.saturating_add(bytes)))
}

/// What the files that may hold groups above an LSN hold.
#[derive(Default)]
struct Walked {
    all: Vec<FoundGroup>,
    deletions: Vec<(Lsn, TopicId)>,
    /// Indexes of files, and blocks in them.
    unreadable: Vec<(usize, Unread)>,
    reached: BTreeMap<PartitionKey, Lsn>,
}

fn walk(
    files: &[ScannedFile],
    needed: &[usize],
    directory: DirectoryId,
    covered: &BTreeMap<PartitionKey, Offset>,
) -> io::Result<Walked> {
    let mut walked = Walked::default();
    for &index in needed {
        let later = files.iter().filter_map(|f| f.header).filter(|h| {
            files[index]
                .header
                .is_some_and(|own| h.generation > own.generation)
        });
        // A later file began where the groups that counted had ended: what stands behind that here was unfinished.
        let before = later.map(|h| h.first_lsn).min().unwrap_or(Lsn(u64::MAX));
        let found = scan::scan(files, index, directory, covered)?;
        for (key, lsn) in found.reached.into_iter().filter(|(_, lsn)| *lsn < before) {
            walked.reached.entry(key).or_insert(lsn);
        }
        let deletions = found.deletions.into_iter();
        walked
            .deletions
            .extend(deletions.filter(|(lsn, _)| *lsn < before));
        walked
            .unreadable
            .extend(found.unreadable.into_iter().map(|unread| (index, unread)));
        walked
            .all
            .extend(found.groups.into_iter().filter(|g| g.lsn < before));
    }
    Ok(walked)
}

/// What the headers say of checkpoints that existed, and of the files themselves.
fn header_problems(files: &[ScannedFile], newest: &Checkpoint) -> Vec<Problem> {
    let mut problems = Vec::new();
    let named = files
        .iter()
        .filter_map(|f| f.header)
        .map(|h| (h.checkpoint_seq, h.checkpoint_lsn))
        .max();
    // One record may be lost: files are used again only below the record before the newest.
    if let Some((seq, lsn)) = named.filter(|(seq, _)| *seq > newest.seq + 1) {
        problems.push(Problem::CheckpointGone {
            seq,
            lsn,
            newest_seq: newest.seq,
            newest_lsn: newest.lsn,
        });
    }
    for file in files {
        let (number, bytes) = (file.number, file.bytes);
        let is_newest = |h: &FileHeader| {
            let others = files.iter().filter_map(|f| f.header);
            others.map(|h| h.generation).max() == Some(h.generation)
        };
        if let Some(of) = file
            .header
            .filter(is_newest)
            .map(|h| h.file_bytes)
            .filter(|of| bytes < *of)
        {
            problems.push(Problem::FileCut { number, bytes, of });
        }
        // Files are made one after the other, and the first one before the directory is one: only the last may have been cut off
        // while it was made. One with a header, that is: what follows from names of others is durable with it.
        let was_made = number == 0 || files.iter().any(|f| f.number > number && f.header.is_some());
        if was_made && bytes < GROUPS_START {
            problems.push(Problem::FileStump { number, bytes });
        }
    }
    // A directory without any checkpointed group may have been cut off while its first header was written: into the first file,
    // which is as old as the directory.
    let first = files.iter().any(|f| f.number == 0);
    if files.iter().all(|f| f.header.is_none()) && (newest.lsn > Lsn::ZERO || !first) {
        problems.push(if files.iter().any(|f| f.illegible) {
            Problem::NoneLegible
        } else {
            Problem::NoFiles
        });
    }
    problems
}

/// A file that is in use and has lost its header, or never got it. One whose header was only being rewritten holds no group under a generation
/// that is missing among those of the others, or none that is needed.
fn header_gone(files: &[ScannedFile], newest: Lsn, directory: DirectoryId) -> io::Result<Option<Problem>> {
    let last = newest_file(files).and_then(|index| files[index].header);
    let known = files.iter().filter_map(|f| f.header).map(|h| h.generation);
    let known: BTreeSet<u64> = known.collect();
    let ahead = scan::generations_ahead(files);
    let next = *ahead.start();
    // All of the newest are refused, also those that are not needed: their generation would be given again. Those behind the
    // next one would be by later starts. Their groups are not below the first one of the newest header, nor, where there is
    // none, below the checkpoint, as all are that earlier laps have left.
    let begun = last.map_or(newest, |last| Lsn(last.first_lsn.0.saturating_sub(1)));
    let ahead = ahead.map(|generation| (generation, if generation == next { Lsn::ZERO } else { begun }));
    let missing = scan::generations_missing(files);
    for file in files {
        let own = file.header.map(|header| header.generation);
        // The known ones are looked for, too: a disk may have put the header into another file.
        let later = known.iter().copied().filter(|generation| Some(*generation) > own);
        // A header that never reached the disk leaves that of an earlier lap, which is whole.
        let missing = missing.iter().copied().filter(|_| own.is_none());
        let needed = later.chain(missing).map(|generation| (generation, newest));
        let wanted: Vec<_> = ahead.clone().chain(needed).collect();
        // Zeros may be a file that was never used: only where its first groups would stand is worth a look, unless no file
        // says of any how it was used.
        let all = file.illegible || known.is_empty() && newest > Lsn::ZERO;
        let upto = if all { file.bytes } else { FRONT_BYTES };
        if let Some((_, header)) = scan::first_group_of(file, directory, &wanted, upto)? {
            let (number, lsn) = (file.number, header.lsn);
            return Ok(Some(Problem::HeaderGone { number, lsn }));
        }
    }
    Ok(None)
}

/// The last group that something else than a group behind it proves to have been durable.
fn proven(files: &[ScannedFile], newest: &Checkpoint) -> Lsn {
    // A file gets its header when the group before its first one is durable.
    let firsts = files
        .iter()
        .filter_map(|f| f.header)
        .map(|h| Lsn(h.first_lsn.0.saturating_sub(1)));
    // A stop proves its last group, and every record the groups that it stands on.
    let stop = newest.clean_end.unwrap_or_default();
    firsts.fold(stop.max(newest.lsn), Lsn::max)
}

/// Partitions whose snapshot covers more than the segments of a checkpoint hold, and up to where. The snapshot was taken from
/// live state and written when all that it covers was durable: groups above the checkpoint have the rest, and whichever brings
/// it was durable.
fn covered_above(newest: &Checkpoint) -> BTreeMap<PartitionKey, Offset> {
    let covers = newest.partitions.iter().filter_map(|partition| {
        let (covers, _) = partition.snapshot.as_ref()?;
        (*covers > partition.end).then_some((partition.key, *covers))
    });
    covers.collect()
}

/// Where a group stands or should stand: the index of its file and the position in it.
fn place_of(files: &[ScannedFile], groups: &[FoundGroup], lsn: Lsn) -> Option<(usize, u64)> {
    // Starts without a group between them begin files with the same number: the last of them is in use.
    let begins = |file: &ScannedFile| file.header.filter(|h| h.first_lsn == lsn).map(|h| h.generation);
    let begun = files
        .iter()
        .enumerate()
        .filter_map(|(i, f)| begins(f).map(|generation| (generation, i)));
    if let Some((_, index)) = begun.max() {
        return Some((index, GROUPS_START));
    }
    let before = groups.iter().find(|g| g.lsn.next() == lsn)?;
    Some((before.file, before.end()))
}

/// Whether the disk keeps back what stands behind the last group: zeros would be evidence of nothing, and so is this, but a
/// group that was acknowledged may be there.
fn unreadable_end(
    files: &[ScannedFile],
    groups: &[FoundGroup],
    unreadable: &[(usize, Unread)],
    end: Lsn,
    newest: &Checkpoint,
) -> io::Result<Option<Problem>> {
    let lsn = end.next();
    let place = place_of(files, groups, lsn);
    // Behind a stop in order nothing was written but what a header tells of.
    if newest.clean_end == Some(end) && place.is_none_or(|(_, position)| position != GROUPS_START) {
        return Ok(None);
    }
    let Some(index) = place.map(|(index, _)| index).or_else(|| newest_file(files)) else {
        return Ok(None);
    };
    let file = &files[index];
    let before: Vec<_> = unreadable
        .iter()
        .filter(|(of, _)| *of == index)
        .map(|(_, unread)| unread.clone())
        .collect();
    let found = if let Some((_, position)) = place {
        scan::first_unreadable_of(file, position, lsn, &before)?
    } else {
        // The last group is in segments and cannot be read itself, so that it does not say where it ends.
        let from = match place_of(files, groups, end).filter(|(of, _)| *of == index) {
            Some((_, position)) => scan::apparent_end(file, position, end)?,
            None => GROUPS_START,
        };
        scan::first_unreadable_between(file, from, file.bytes, &before)?
    };
    let number = file.number;
    Ok(found.map(|Unread { at, why }| Problem::Unreadable {
        number,
        position: at,
        lsn,
        why,
    }))
}

/// The index of the file that was begun last.
fn newest_file(files: &[ScannedFile]) -> Option<usize> {
    let begun = files
        .iter()
        .enumerate()
        .filter_map(|(i, f)| f.header.map(|h| (h.generation, i)));
    begun.max().map(|(_, index)| index)
}

/// Whether a group that cannot be read was an empty one: its header is there but for a little, and nothing stands behind it.
fn held_nothing(files: &[ScannedFile], groups: &[FoundGroup], lsn: Lsn) -> bool {
    let place = place_of(files, groups, lsn);
    let before = groups.iter().find(|group| group.lsn.next() == lsn);
    let previous = before.map(|group| group.hash);
    place.is_some_and(|(file, position)| scan::looks_empty(&files[file], position, lsn, previous))
}

fn groups_lost(
    files: &[ScannedFile],
    groups: &[FoundGroup],
    unreadable: &[(usize, Unread)],
    (first, last): (Lsn, Lsn),
) -> Option<Problem> {
    let place = place_of(files, groups, first);
    let nearest = || {
        groups
            .iter()
            .rfind(|g| g.lsn < first)
            .or(groups.first())
            .map(|g| g.file)
    };
    let file = place.map(|(file, _)| file).or_else(nearest).unwrap_or(0);
    let unread = unread_among(files, groups, unreadable, (first, last));
    (first <= last).then(|| Problem::GroupsLost {
        first,
        last,
        number: files.get(file).map_or(0, |f| f.number),
        position: place.map(|(_, position)| position),
        unread,
    })
}

/// The first block that the disk does not give where groups stand or should stand that are lost: the read may be what is wrong.
fn unread_among(
    files: &[ScannedFile],
    groups: &[FoundGroup],
    unreadable: &[(usize, Unread)],
    (first, last): (Lsn, Lsn),
) -> Option<String> {
    let from = place_of(files, groups, first);
    let behind = groups.iter().find(|group| group.lsn > last);
    let to = behind.map(|group| (group.file, group.position));
    let order = |file: usize| files[file].header.map(|header| header.generation);
    let is_among = |file: usize, at: u64| {
        let place = (order(file), at);
        from.is_none_or(|(file, from)| (order(file), from) <= place)
            && to.is_none_or(|(file, to)| place < (order(file), to))
    };
    let (file, unread) = unreadable
        .iter()
        .find(|(file, unread)| is_among(*file, unread.at))?;
    Some(unread.told_of(&paths::journal(files[*file].number)))
}

/// Indexes of the files that may hold groups above an LSN, oldest first; and whether one is missing in front of them.
fn needed_files(files: &[ScannedFile], base: Lsn) -> (Vec<usize>, Option<Problem>) {
    let mut order: Vec<_> = files
        .iter()
        .enumerate()
        .filter_map(|(i, f)| f.header.map(|h| (h, i)))
        .collect();
    order.sort_by_key(|(h, _)| h.generation);
    let needed = base.next();
    let newest = order.iter().rfind(|(h, _)| h.first_lsn <= needed);
    // More than one if a disk has put a header into another file as well: its groups are in one of them.
    let first = newest.and_then(|(n, _)| order.iter().position(|(h, _)| h.generation == n.generation));
    let missing = order.first().filter(|_| first.is_none());
    let missing = missing.map(|(oldest, _)| Problem::FileMissing {
        needed,
        oldest: oldest.first_lsn,
    });
    let from = first.unwrap_or(0);
    (order[from..].iter().map(|(_, i)| *i).collect(), missing)
}

/// Takes the last group out if its payload is not whole and nothing proves that it was durable. Otherwise what stands behind it
/// may be the unfinished one. `all` are the groups of the files at hand, those below the checkpoint included.
fn drop_unfinished(
    files: &[ScannedFile],
    all: &[FoundGroup],
    groups: &mut Vec<FoundGroup>,
    proven: Lsn,
    unreadable: &mut Vec<(usize, Unread)>,
) -> io::Result<Option<(Lsn, Vec<u8>)>> {
    if let Some(last) = groups.last().copied() {
        let read = scan::read_group(files, &last)?;
        unreadable.extend(read.first_unread().map(|unread| (last.file, unread.clone())));
        if last.lsn > proven && !scan::payload_holds(&read.bytes, &last.header) {
            groups.pop();
            return Ok(Some((last.lsn, read.bytes)));
        }
    }
    let end = groups.last().map_or(proven, |last| last.lsn.max(proven));
    let Some((file, position)) = place_of(files, all, end.next()) else {
        return Ok(None);
    };
    let previous = all.iter().find(|group| group.lsn == end).map(|group| group.hash);
    let bytes = scan::unfinished_at(&files[file], position, end.next(), previous)?;
    Ok(bytes.map(|bytes| (end.next(), bytes)))
}

/// Numbers that are missing below a group that is there, or that is proven: group n+1 was written only after n was durable.
/// And the groups that do not follow the one before them.
fn gaps(groups: &[FoundGroup], base: Lsn, proven: Lsn) -> (Vec<(Lsn, Lsn)>, Vec<Lsn>) {
    let (mut lost, mut breaks) = (Vec::new(), Vec::new());
    let mut expected = base.next();
    let mut previous: Option<u64> = None;
    for group in groups {
        if group.lsn > expected {
            lost.push((expected, Lsn(group.lsn.0 - 1)));
            previous = None;
        }
        if previous.is_some_and(|hash| hash != group.header.previous) {
            breaks.push(group.lsn);
        }
        previous = Some(group.hash);
        expected = group.lsn.next();
    }
    if proven >= expected {
        lost.push((expected, proven));
    }
    (lost, breaks)
}
