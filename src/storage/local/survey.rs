//! The first pass of recovery, which only reads: which groups stand above a checkpoint, which are missing, and why a start
//! has to be refused. Collects all that it finds; what follows from it is the caller's business. `docs/storage-format.md`,
//! "Recovery".

use std::collections::BTreeSet;
use std::io;

use super::format::DirectoryId;
use super::format::checkpoint::Checkpoint;
use super::format::journal::GROUPS_START;
use super::paths;
use super::scan::{self, FoundGroup, ScannedFile};
use crate::model::{Lsn, TopicId};
use crate::planted::{self, Bug};

/// Why the broker must not start: acknowledged data may be missing, and what is there does not say which.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    /// A header of the journal names a checkpoint that cannot be read any more.
    #[error(
        "the journal names checkpoint {seq} (LSN {lsn}), the newest that can be read is {newest_seq} (LSN {newest_lsn}): the \
         other checkpoint file is missing or damaged"
    )]
    CheckpointGone {
        seq: u64,
        lsn: Lsn,
        newest_seq: u64,
        newest_lsn: Lsn,
    },
    /// A file is shorter than its header says.
    #[error("{} has {bytes} bytes, less than its header says: groups may be missing at its end", paths::journal(*number))]
    FileCut { number: u64, bytes: u64 },
    /// The first file is shorter than any can be.
    #[error("{} has {bytes} bytes, less than any journal file: it was cut", paths::journal(*number))]
    FileStump { number: u64, bytes: u64 },
    /// There are files, and none has a header.
    #[error("no journal file can be read")]
    NoneLegible,
    /// There are no files.
    #[error("the journal files are missing")]
    NoFiles,
    /// The newest file has lost its header.
    #[error(
        "{}: both copies of its header are damaged, but it holds group {lsn} and perhaps more: put a whole copy in its place, \
         or move it out of the directory to start without its groups",
        paths::journal(*number)
    )]
    HeaderGone { number: u64, lsn: Lsn },
    /// No file can hold the group behind the checkpoint.
    #[error(
        "journal group {needed} is needed, but the oldest journal file begins at {oldest}: a journal file is missing or its \
         header is damaged"
    )]
    FileMissing { needed: Lsn, oldest: Lsn },
}

impl Problem {
    /// The file that it is about, if it is about one.
    pub(super) fn file(&self) -> Option<String> {
        match self {
            Self::FileCut { number, .. }
            | Self::FileStump { number, .. }
            | Self::HeaderGone { number, .. } => Some(paths::journal(*number)),
            Self::CheckpointGone { .. } | Self::NoneLegible | Self::NoFiles | Self::FileMissing { .. } => {
                None
            }
        }
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
    /// Groups that do not follow the one before, although that is there.
    pub(super) chain_breaks: Vec<Lsn>,
    /// Bytes of the unfinished last group.
    pub(super) unfinished: Option<(Lsn, Vec<u8>)>,
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
        let mut problems = header_problems(files, newest);
        problems.extend(header_gone(files, directory)?);
        let (needed, missing) = needed_files(files, base);
        problems.extend(missing);
        let mut deletions = Vec::new();
        let mut groups = Vec::new();
        for index in needed {
            let later = files.iter().filter_map(|f| f.header).filter(|h| {
                files[index]
                    .header
                    .is_some_and(|own| h.generation > own.generation)
            });
            // A later file began where the groups that counted had ended: what stands behind that here was unfinished.
            let before = later.map(|h| h.first_lsn).min().unwrap_or(Lsn(u64::MAX));
            let found = scan::scan(files, index, directory, &mut deletions)?;
            groups.extend(found.into_iter().filter(|g| g.lsn > base && g.lsn < before));
        }
        groups.sort_by_key(|g| g.lsn);
        // A stop proves its last group, and every record the groups that it stands on.
        let proven = newest.clean_end.unwrap_or_default().max(newest.lsn);
        let unfinished = drop_unfinished(files, &mut groups, proven)?;
        if planted::is(Bug::OlderCheckpointAccepted) {
            let older =
                |p: &Problem| matches!(p, Problem::CheckpointGone { .. } | Problem::FileMissing { .. });
            problems.retain(|p| !older(p));
        }
        let (lost, chain_breaks) = gaps(&groups, base, proven);
        let end = groups.last().map_or(base, |g| g.lsn).max(proven);
        let counts = |lsn: Lsn| groups.iter().any(|g| g.lsn == lsn);
        let deleted = deletions
            .into_iter()
            .filter(|(lsn, _)| counts(*lsn))
            .map(|(_, topic)| topic)
            .collect();
        Ok(Self {
            deleted,
            end,
            hash: groups.last().map_or(0, |g| g.hash),
            lost,
            chain_breaks,
            unfinished,
            problems,
            groups,
        })
    }
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
        if file.header.is_some_and(|h| bytes < h.file_bytes) {
            problems.push(Problem::FileCut { number, bytes });
        }
        // The first file had its full length before the directory was one; later ones may have been cut off while being made.
        if number == 0 && bytes < GROUPS_START {
            problems.push(Problem::FileStump { number, bytes });
        }
    }
    // A directory without any checkpointed group may have been cut off while its first header was written.
    if files.iter().all(|f| f.header.is_none()) && (newest.lsn > Lsn::ZERO || files.is_empty()) {
        problems.push(if files.iter().any(|f| f.illegible) {
            Problem::NoneLegible
        } else {
            Problem::NoFiles
        });
    }
    problems
}

/// The newest file without its header. A file whose header was only being rewritten holds no group under the generation
/// that comes next; one that was in use does, and they were durable.
fn header_gone(files: &[ScannedFile], directory: DirectoryId) -> io::Result<Option<Problem>> {
    let generations = files.iter().filter_map(|f| f.header).map(|h| h.generation);
    let next = generations.max().unwrap_or(0) + 1;
    for file in files.iter().filter(|f| f.header.is_none()) {
        // Zeros may be a file that was never used: only where its first group would stand is worth a look.
        let upto = if file.illegible {
            file.bytes
        } else {
            GROUPS_START + 1
        };
        if let Some(lsn) = scan::first_group_of(file, directory, next, upto)? {
            let number = file.number;
            return Ok(Some(Problem::HeaderGone { number, lsn }));
        }
    }
    Ok(None)
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
    let first = order.iter().rposition(|(h, _)| h.first_lsn <= needed);
    let missing = order.first().filter(|_| first.is_none());
    let missing = missing.map(|(oldest, _)| Problem::FileMissing {
        needed,
        oldest: oldest.first_lsn,
    });
    let from = first.unwrap_or(0);
    (order[from..].iter().map(|(_, i)| *i).collect(), missing)
}

/// Takes the last group out if its payload is not whole and nothing proves that it was durable.
fn drop_unfinished(
    files: &[ScannedFile],
    groups: &mut Vec<FoundGroup>,
    proven: Lsn,
) -> io::Result<Option<(Lsn, Vec<u8>)>> {
    let Some(last) = groups.last().copied() else {
        return Ok(None);
    };
    let bytes = scan::read_group(files, &last)?;
    if last.lsn > proven && !scan::payload_holds(&bytes, &last.header) {
        groups.pop();
        return Ok(Some((last.lsn, bytes)));
    }
    Ok(scan::unfinished_behind(files, &last)?.map(|bytes| (last.lsn.next(), bytes)))
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
