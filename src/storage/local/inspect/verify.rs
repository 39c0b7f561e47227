//! The verdict on a whole data directory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::finding::{CheckpointSummary, Effect, Finding, Kind, Report};
use super::rehearsal::{Nobody, Rehearsal};
use super::{InspectError, Opened, Watch, open, segment};
use crate::disk::{AlignedBuf, Disk, Entry, read_exact_at};
use crate::model::{Lsn, Offset, PartitionKey};
use crate::storage::Replay;
use crate::storage::local::checkpoint::{NoRecord, Pair, read_record};
use crate::storage::local::directory;
use crate::storage::local::format::checkpoint::Checkpoint;
use crate::storage::local::format::journal::{BLOCK, FileHeader, GROUPS_START};
use crate::storage::local::format::{DirectoryId, FormatError, identity};
use crate::storage::local::paths;
use crate::storage::local::recovery::NO_TOPICS;
use crate::storage::local::salvage::Way;
use crate::storage::local::salvage::evidence;
use crate::storage::local::salvage::rebuild::{Rebuilt, rebuild};
use crate::storage::local::scan::{self, ScannedFile};
use crate::storage::local::survey::{Problem, Survey};

/// Journal files are read through in pieces of this size, to find what the disk does not give.
const PIECE_BYTES: usize = 1 << 20;
/// Journal files that are not there are named up to so many.
const NUMBERS_MAX: usize = 16;

/// Looks at everything below a data directory, and changes nothing.
///
/// # Errors
/// If there is no verdict: it is no data directory, of a newer format, or may not be read.
pub fn verify(disk: &dyn Disk, watch: &mut dyn Watch) -> Result<Report, InspectError> {
    rehearse(disk, watch, &mut Nobody)
}

/// As [`verify`], and tells `replay` what a start would tell it, as far as that can be read.
///
/// # Errors
/// As of [`verify`].
pub fn rehearse(
    disk: &dyn Disk,
    watch: &mut dyn Watch,
    replay: &mut dyn Replay,
) -> Result<Report, InspectError> {
    let mut report = Report::new();
    let files = list(disk, "")?;
    let records = read_checkpoints(disk)?;
    let Some(directory) = identify(disk, &files, &records, &mut report)? else {
        return Ok(report);
    };
    report.directory = Some(directory);
    let pair = decode_pair(&records, directory);
    let files = scan::open_files(disk, directory)?;
    if !directory::has_topics(disk)? {
        report.add(Finding::new(
            Kind::SegmentMissing,
            Effect::Refusal,
            paths::TOPICS,
            NO_TOPICS,
        ));
    }
    report_checkpoints(&records, &pair, &files, &mut report);
    let rebuilt = report_rebuilt(disk, &files, directory, &pair, &mut report)?;
    let made_again = rebuilt.as_ref().map(|rebuilt| (0, &rebuilt.record));
    let Some((newest_in, newest)) = pair.newest().or(made_again) else {
        return Ok(report);
    };
    let before = pair.files[1 - newest_in].as_ref().ok();
    report_unreadable_headers(&files, &mut report);
    let base = before.map_or(newest.lsn, |before| before.lsn.min(newest.lsn));
    watch.total(planned_bytes(&files, newest));
    read_through(&files, &mut report, watch)?;
    let mut found = Survey::above(base, &files, newest, directory)?;
    found.heed_unread(&pair, newest);
    report.end = found.end;
    report_survey(&found, &files, newest, base, &mut report);
    report_headers(&files, directory, &found, &mut report)?;
    let mut broken = BTreeSet::new();
    for partition in newest
        .partitions
        .iter()
        .filter(|p| !found.deleted.contains(&p.key.topic))
    {
        if segment::check_partition(disk, partition, newest_epoch(&files, newest), &mut report, watch)? {
            broken.insert(partition.key);
        }
    }
    let written = newest.partitions.iter().map(|p| p.last_append);
    report.start.written = written.max();
    let mut rehearsal = Rehearsal::new(disk, newest, &found.deleted, &broken, replay);
    if let Some(rebuilt) = &rebuilt {
        rehearsal.without_checkpoint(rebuilt.emptied.clone());
    }
    rehearsal.run(&files, &found, newest, &mut report)?;
    let starts = rehearsal.log_starts();
    let lost = found.lost.iter().any(|(_, last)| *last > newest.lsn);
    if lost || found.tail.is_some() || rebuilt.is_some() {
        report.lost = evidence::of_lost(&files, &found);
        report.lost.retain(|lost| lost.last > newest.lsn);
        report.at_stake = rehearsal.at_stake(&report.lost);
    }
    Strangers {
        disk,
        files: &files,
        newest,
        before,
        found: &found,
        starts: &starts,
    }
    .report(&mut report)?;
    settle(&mut report, &starts);
    Ok(report)
}

/// Makes the record that no checkpoint file has any more again, as far as it can be.
fn report_rebuilt(
    disk: &dyn Disk,
    files: &[ScannedFile],
    directory: DirectoryId,
    pair: &Pair,
    report: &mut Report,
) -> Result<Option<Rebuilt>, InspectError> {
    // A record that another Naru or another directory has written is no damage.
    let is_foreign = |e: &NoRecord| {
        matches!(
            e,
            NoRecord::Invalid(FormatError::Version(_) | FormatError::OtherDirectory)
        )
    };
    let mut errors = pair.files.iter().filter_map(|file| file.as_ref().err());
    if pair.newest().is_some() || errors.any(is_foreign) {
        return Ok(None);
    }
    let rebuilt = rebuild(disk, files, directory)?;
    let of_pair = |f: &&mut Finding| paths::CHECKPOINTS.contains(&f.file.as_str());
    for finding in report.findings.iter_mut().filter(of_pair) {
        match &rebuilt {
            Ok(rebuilt) => {
                finding.what.push_str(&format!("; {}", rebuilt.meaning()));
                finding.way = Some(Way::Checkpoint);
            }
            Err(why) => finding.what.push_str(&format!(", and {why}")),
        }
    }
    Ok(rebuilt.ok())
}

/// Files of which the disk does not give the header: they are neither unused nor damaged.
fn report_unreadable_headers(files: &[ScannedFile], report: &mut Report) {
    for scanned in files {
        if let Err(error) = scan::check_readable(std::slice::from_ref(scanned)) {
            let file = paths::journal(scanned.number);
            let finding = Finding::new(Kind::Unreadable, Effect::Refusal, file, error.to_string());
            report.add(finding.past(Way::Header(scanned.number)));
        }
    }
}

/// What lies below a log start was given up: its damage costs nothing.
fn settle(report: &mut Report, starts: &BTreeMap<PartitionKey, Offset>) {
    for finding in &mut report.findings {
        let given_up = |key: PartitionKey, last: Offset| starts.get(&key).is_some_and(|start| last < *start);
        if finding.effect == Effect::Loss
            && let (Some(key), Some((_, last))) = (finding.partition, finding.offsets)
            && given_up(key, last)
        {
            finding.effect = Effect::Harmless;
            finding
                .what
                .push_str("; retention or a trim has given these records up");
        }
    }
    if report.left_out == 0 {
        report.worst = report.findings.iter().map(|f| f.effect).max();
    }
}

fn list(disk: &dyn Disk, dir: &str) -> Result<Vec<Entry>, InspectError> {
    match disk.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !dir.is_empty() => Ok(Vec::new()),
        other => Ok(other?),
    }
}

/// The identity of the directory, from `FORMAT` or, if that is damaged, from what it seeds.
fn identify(
    disk: &dyn Disk,
    root: &[Entry],
    records: &[Raw; 2],
    report: &mut Report,
) -> Result<Option<DirectoryId>, InspectError> {
    let problem = match open(disk, paths::FORMAT)? {
        Opened::File(file) => match directory::read_front(&*file) {
            Ok(text) => match identity::decode(&text) {
                Ok(id) => return Ok(Some(id)),
                Err(FormatError::Version(version)) => return Err(InspectError::Newer(version)),
                Err(e) => e.to_string(),
            },
            Err(e) => format!("the disk does not give the bytes: {e}"),
        },
        Opened::Missing => {
            let ours = |name: &str| root.iter().any(|entry| entry.name == name);
            let made =
                records.iter().any(|r| r.owner().is_some()) || ours(paths::JOURNAL) || ours(paths::TOPICS);
            if !made {
                return Err(InspectError::NotADataDirectory);
            }
            match directory::trace_of_use(disk)? {
                Some(trace) => format!("the file is missing, but the directory was in use ({trace} tells)"),
                None => return Err(InspectError::NeverUsed),
            }
        }
        Opened::Failed(e) => e.to_string(),
    };
    let id = records.iter().find_map(Raw::owner);
    let what = format!("{problem}{}", directory::advice(id));
    report.add(Finding::new(Kind::Format, Effect::Refusal, paths::FORMAT, what));
    Ok(id)
}

/// The bytes of a checkpoint file's record.
enum Raw {
    Missing,
    Unreadable(String),
    /// It is no record.
    Invalid(FormatError),
    Bytes(Vec<u8>),
}

impl Raw {
    /// The directory that its record belongs to, whichever that is.
    fn owner(&self) -> Option<DirectoryId> {
        let Self::Bytes(bytes) = self else { return None };
        directory::owner_of(bytes)
    }

    fn decode(&self, directory: DirectoryId) -> Result<Checkpoint, NoRecord> {
        match self {
            Self::Missing => Err(FormatError::Truncated.into()),
            Self::Unreadable(why) => Err(NoRecord::Unread(why.clone())),
            Self::Invalid(error) => Err(error.clone().into()),
            Self::Bytes(bytes) => Checkpoint::decode(bytes, directory).map_err(NoRecord::Invalid),
        }
    }
}

fn read_checkpoints(disk: &dyn Disk) -> Result<[Raw; 2], InspectError> {
    let read = |which: usize| {
        Ok::<_, InspectError>(match open(disk, paths::CHECKPOINTS[which])? {
            Opened::Missing => Raw::Missing,
            Opened::Failed(e) => Raw::Unreadable(e.to_string()),
            Opened::File(file) => match read_record(&*file) {
                Ok(Ok(bytes)) => Raw::Bytes(bytes),
                Ok(Err(error)) => Raw::Invalid(error),
                Err(e) => Raw::Unreadable(e.to_string()),
            },
        })
    };
    Ok([read(0)?, read(1)?])
}

fn decode_pair(records: &[Raw; 2], directory: DirectoryId) -> Pair {
    Pair {
        files: [records[0].decode(directory), records[1].decode(directory)],
    }
}

/// What became of the pair: one record that does not hold may have been in the writing when the broker died; two, or one
/// that the journal has relied on, were durable.
fn report_checkpoints(records: &[Raw; 2], pair: &Pair, files: &[ScannedFile], report: &mut Report) {
    let mut readable: Vec<_> = (0..2)
        .filter_map(|i| pair.files[i].as_ref().ok().map(|c| (paths::CHECKPOINTS[i], c)))
        .collect();
    readable.sort_by_key(|(_, c)| std::cmp::Reverse(c.seq));
    let summary = |(file, c): &(&'static str, &Checkpoint)| CheckpointSummary {
        file: (*file).to_owned(),
        seq: c.seq,
        lsn: c.lsn,
        clean: c.clean_end.is_some(),
    };
    report.checkpoints = readable.iter().map(summary).collect();
    let newest = readable.first().map(|(_, c)| *c);
    let named = files
        .iter()
        .filter_map(|f| f.header)
        .map(|h| h.checkpoint_seq)
        .max();
    for (which, raw) in records.iter().enumerate() {
        if let Raw::Bytes(bytes) = raw {
            report.checked.bytes += bytes.len() as u64;
        }
        let Err(error) = &pair.files[which] else { continue };
        let why = match raw {
            Raw::Missing => "the file is missing".to_owned(),
            Raw::Unreadable(why) if newest.is_none() => {
                format!(
                    "the disk does not give the bytes: {why}; {}",
                    scan::BEFORE_GIVING_UP
                )
            }
            Raw::Unreadable(why) => format!("the disk does not give the bytes: {why}"),
            Raw::Invalid(_) | Raw::Bytes(_) => error.to_string(),
        };
        let (effect, meaning) = match newest {
            None => (Effect::Refusal, "no record says where to begin"),
            // A directory that was just made has one.
            Some(newest) if newest.seq == 1 && matches!(raw, Raw::Missing) => continue,
            Some(_) if matches!(raw, Raw::Unreadable(_)) => (
                Effect::Harmless,
                "the other record is enough if nothing behind it is missing or unfinished, at the price of a longer replay",
            ),
            Some(newest) if named > Some(newest.seq) || matches!(raw, Raw::Missing) => (
                Effect::Harmless,
                "the other record is enough, at the price of a longer replay",
            ),
            Some(_) => (
                Effect::Note,
                "the broker died while it wrote this record, or it is damaged: the other one is enough",
            ),
        };
        let file = paths::CHECKPOINTS[which];
        let kind = match (raw, effect) {
            (Raw::Unreadable(_), Effect::Refusal) => Kind::Unreadable,
            _ => Kind::Checkpoint,
        };
        report.add(Finding::new(kind, effect, file, format!("{why}; {meaning}")));
    }
}

fn planned_bytes(files: &[ScannedFile], newest: &Checkpoint) -> u64 {
    let journal: u64 = files.iter().map(|f| f.bytes).sum();
    let segments = newest.partitions.iter().flat_map(|p| &p.segments);
    journal + segments.map(|s| s.bytes).sum::<u64>()
}

/// Reads the journal once from end to end: what the disk does not give counts as zeros from here on, as it does in recovery.
fn read_through(
    files: &[ScannedFile],
    report: &mut Report,
    watch: &mut dyn Watch,
) -> Result<(), InspectError> {
    let mut buf = AlignedBuf::zeroed(PIECE_BYTES);
    for scanned in files {
        report.checked.journal_files += 1;
        let mut at = 0;
        let mut bad: Option<(u64, u64, String)> = None;
        while at < scanned.bytes {
            let len = usize::try_from(scanned.bytes - at)
                .unwrap_or(usize::MAX)
                .min(buf.len());
            if read_exact_at(&*scanned.file, &mut buf[..len], at).is_err() {
                for position in (at..at + len as u64).step_by(BLOCK) {
                    if let Err(e) = read_exact_at(&*scanned.file, &mut buf[..BLOCK], position) {
                        let (first, count, why) = bad.unwrap_or((position, 0, e.to_string()));
                        bad = Some((first, count + 1, why));
                    }
                }
            }
            at += len as u64;
            watch.more(len as u64);
            report.checked.bytes += len as u64;
        }
        if let Some((first, count, why)) = bad {
            let what = format!("the disk does not give {count} blocks of {BLOCK} bytes: {why}");
            let file = paths::journal(scanned.number);
            report.add(Finding::new(Kind::Unreadable, Effect::Harmless, file, what).at(first));
        }
    }
    Ok(())
}

fn newest_epoch(files: &[ScannedFile], newest: &Checkpoint) -> u32 {
    let written = files.iter().filter_map(|f| f.header).map(|h| h.incarnation);
    written.fold(newest.incarnation, u32::max)
}

fn report_problems(found: &Survey, newest: &Checkpoint, report: &mut Report) {
    for problem in &found.problems {
        let file = problem.file().unwrap_or_else(|| paths::JOURNAL.to_owned());
        // Only the record before the newest needs what is missing here.
        let spare = matches!(problem, Problem::FileMissing { oldest, .. } if *oldest <= newest.lsn.next());
        let effect = if spare { Effect::Harmless } else { Effect::Refusal };
        let kind = match problem {
            failed if failed.is_of_a_failed_read() => Kind::Unreadable,
            Problem::CheckpointGone { .. } => Kind::Checkpoint,
            Problem::GroupsLost { .. } | Problem::EndLost { .. } => Kind::JournalGroup,
            Problem::Unreadable { .. } | Problem::CheckpointUnread { .. } => Kind::Unreadable,
            Problem::FileCut { .. }
            | Problem::FileStump { .. }
            | Problem::NoneLegible
            | Problem::NoFiles
            | Problem::HeaderGone { .. }
            | Problem::FileMissing { .. } => Kind::JournalFile,
        };
        let way = problem.way(found.end, newest.lsn);
        let finding = Finding::new(kind, effect, file, problem.to_string()).past(way);
        report.add(match way {
            Way::Groups { first, last } => finding.groups(first, last),
            _ => finding,
        });
    }
}

fn report_survey(found: &Survey, files: &[ScannedFile], newest: &Checkpoint, base: Lsn, report: &mut Report) {
    report_problems(found, newest, report);
    for (first, last) in &found.lost {
        let needed = (*first).max(newest.lsn.next());
        let (file, position) = where_lost(found, files, *first);
        if needed <= *last {
            let what = format!(
                "groups {needed} to {last} were durable and cannot be read; offsets that are missing because of it are named \
                 where something follows them"
            );
            let finding = Finding::new(Kind::JournalGroup, Effect::Loss, file.as_str(), what);
            report.add(Finding {
                position,
                ..finding.groups(needed, *last)
            });
        }
        if *first <= newest.lsn && base < newest.lsn {
            let upto = newest.lsn.min(*last);
            let what = format!(
                "groups {first} to {upto} cannot be read; by the newest checkpoint all of them is in segments"
            );
            let finding = Finding::new(Kind::JournalGroup, Effect::Harmless, file, what);
            report.add(Finding {
                position,
                ..finding.groups(*first, upto)
            });
        }
    }
    report_empty_lost(found, files, report);
    for lsn in &found.chain_breaks {
        let at = found.groups.iter().find(|g| g.lsn == *lsn);
        let file = at.map_or(paths::JOURNAL.to_owned(), |g| {
            paths::journal(files[g.file].number)
        });
        let what = "the group names another header than that of the group before it";
        let finding = Finding::new(Kind::JournalChain, Effect::Harmless, file, what);
        report.add(Finding {
            position: at.map(|g| g.position),
            ..finding.groups(*lsn, *lsn)
        });
    }
    if let Some((lsn, bytes)) = &found.unfinished {
        let what = format!(
            "the broker died while it wrote this group of {} bytes, which was never acknowledged; the next start puts it aside",
            bytes.len()
        );
        let file = found.groups.last().map_or(paths::JOURNAL.to_owned(), |g| {
            paths::journal(files[g.file].number)
        });
        report.add(Finding::new(Kind::UnfinishedGroup, Effect::Note, file, what).groups(*lsn, *lsn));
    }
}

fn report_empty_lost(found: &Survey, files: &[ScannedFile], report: &mut Report) {
    for lsn in &found.empty_lost {
        let (file, position) = where_lost(found, files, *lsn);
        let what = "the group cannot be read; it was an empty one, which only proves the group before it";
        let finding = Finding::new(Kind::JournalGroup, Effect::Harmless, file, what).groups(*lsn, *lsn);
        report.add(Finding { position, ..finding });
    }
}

/// Where the first of some lost groups should stand: behind the one before it, if that is there.
fn where_lost(found: &Survey, files: &[ScannedFile], first: Lsn) -> (String, Option<u64>) {
    let before = found.groups.iter().rfind(|g| g.lsn < first);
    let behind = found.groups.iter().find(|g| g.lsn > first);
    match (before, behind) {
        (Some(group), _) => (
            paths::journal(files[group.file].number),
            Some(group.position + group.header.total_bytes()),
        ),
        (None, Some(group)) => (paths::journal(files[group.file].number), Some(GROUPS_START)),
        (None, None) => (paths::JOURNAL.to_owned(), None),
    }
}

/// The copies of the headers. A file with groups that count had its header synced before them; another may have been in the
/// middle of getting a new one.
fn report_headers(
    files: &[ScannedFile],
    directory: DirectoryId,
    found: &Survey,
    report: &mut Report,
) -> Result<(), InspectError> {
    for (index, scanned) in files.iter().enumerate() {
        let file = paths::journal(scanned.number);
        if let Some(header) = scanned.header
            && scanned.bytes < header.file_bytes
        {
            let what = format!(
                "the file has {} bytes, its header says {}",
                scanned.bytes, header.file_bytes
            );
            report.add(Finding::new(
                Kind::JournalHeader,
                Effect::Harmless,
                file.as_str(),
                what,
            ));
        }
        if scanned.illegible {
            let what = "neither copy of the header holds: the file was being put to use again, or is damaged; no group that is \
                        needed stands in it";
            report.add(Finding::new(Kind::JournalHeader, Effect::Note, file, what));
            continue;
        }
        let Some(header) = scanned.header else { continue };
        for at in [0, BLOCK as u64] {
            let mut block = AlignedBuf::zeroed(BLOCK);
            let copy = read_exact_at(&*scanned.file, &mut block, at)
                .map_err(|e| e.to_string())
                .and_then(|()| {
                    let block = block.first_chunk().ok_or(FormatError::Truncated);
                    let header = block.and_then(|block| FileHeader::decode(block, directory));
                    header.map_err(|e| e.to_string())
                });
            let what = match copy {
                Ok(copy) if copy == header => continue,
                Ok(_) => "the two copies of the header differ".to_owned(),
                Err(e) => format!("one copy of the header does not hold: {e}"),
            };
            let (effect, meaning) = if found.groups.iter().any(|group| group.file == index) {
                (Effect::Harmless, "the other is enough")
            } else {
                (
                    Effect::Note,
                    "the file was being put to use again, or is damaged; nothing in it is needed",
                )
            };
            let what = format!("{what}; {meaning}");
            report.add(Finding::new(Kind::JournalHeader, effect, file.as_str(), what).at(at));
        }
    }
    Ok(())
}

/// Looks for files that neither checkpoint nor journal names.
struct Strangers<'a> {
    disk: &'a dyn Disk,
    files: &'a [ScannedFile],
    newest: &'a Checkpoint,
    before: Option<&'a Checkpoint>,
    found: &'a Survey,
    starts: &'a BTreeMap<PartitionKey, Offset>,
}

impl Strangers<'_> {
    fn report(&self, report: &mut Report) -> Result<(), InspectError> {
        for entry in list(self.disk, paths::JOURNAL)? {
            let number = entry.name.strip_suffix(".journal").and_then(|n| n.parse().ok());
            let path = format!("{}/{}", paths::JOURNAL, entry.name);
            if number.is_none_or(|n| !paths::journal(n).ends_with(&entry.name)) {
                self.stranger(report, path, "no journal file has such a name");
            } else if number == Some(u64::MAX) {
                let what = "no journal file was ever made with the last number that there is: a broker does not read it";
                self.stranger(report, path, what);
            }
        }
        let numbers: BTreeSet<u64> = self.files.iter().map(|f| f.number).collect();
        for number in (0..numbers.last().copied().unwrap_or(0))
            .filter(|n| !numbers.contains(n))
            .take(NUMBERS_MAX)
        {
            let what = "there is no file of this number. A start removes files that were never finished; but if it was the \
                        newest of all, its groups are gone and nothing tells of them";
            report.add(Finding::new(
                Kind::JournalFile,
                Effect::Note,
                paths::journal(number),
                what,
            ));
        }
        let topics: BTreeSet<String> = self.starts.keys().map(|key| key.topic.to_string()).collect();
        let leaving = [Some(self.newest), self.before]
            .into_iter()
            .flatten()
            .flat_map(|c| &c.deleted);
        let leaving: BTreeSet<String> = leaving
            .chain(&self.found.deleted)
            .map(ToString::to_string)
            .collect();
        for topic in list(self.disk, paths::TOPICS)? {
            let path = format!("{}/{}", paths::TOPICS, topic.name);
            if topics.contains(&topic.name) {
                for partition in list(self.disk, &path)? {
                    self.partition(&topic.name, &partition.name, report)?;
                }
            } else if !leaving.contains(&topic.name) {
                self.stranger(report, path, "no topic has this id; the next start puts it aside");
            }
        }
        Ok(())
    }

    fn stranger(&self, report: &mut Report, path: String, what: &str) {
        report.add(Finding::new(Kind::UnknownFile, Effect::Note, path, what));
    }

    fn partition(&self, topic: &str, partition: &str, report: &mut Report) -> Result<(), InspectError> {
        let dir = format!("{}/{topic}/{partition}", paths::TOPICS);
        let key = self
            .starts
            .keys()
            .find(|key| paths::partition(**key) == dir)
            .copied();
        let Some(key) = key else {
            self.stranger(report, dir, "the topic has no such partition");
            return Ok(());
        };
        let records = [Some(self.newest), self.before].into_iter().flatten();
        let of_key = records.flat_map(|c| &c.partitions).filter(|p| p.key == key);
        let bases: BTreeSet<Offset> = of_key.flat_map(|p| &p.segments).map(|s| s.base).collect();
        let at_newest = self.newest.partitions.iter().find(|p| p.key == key);
        // Segments that retention gave up go later; those behind the checkpoint's end come from the journal.
        let given_up = at_newest
            .map_or(Offset::ZERO, |p| p.log_start)
            .max(self.starts[&key]);
        let end = at_newest.map_or(Offset::ZERO, |p| p.end);
        for entry in list(self.disk, &dir)? {
            let base = paths::base_of(&entry.name);
            if base.is_none_or(|base| !bases.contains(&base) && base >= given_up && base < end) {
                let path = format!("{dir}/{}", entry.name);
                self.stranger(
                    report,
                    path,
                    "neither checkpoint names it; the next start puts it aside",
                );
            }
        }
        Ok(())
    }
}
