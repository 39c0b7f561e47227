//! Opening a data directory: two passes over the journal above the newest checkpoint, then a new checkpoint and a new
//! journal file. What was acknowledged is never cut; what cannot be decided refuses to start. `docs/storage-format.md`,
//! "Recovery".

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use super::applier::{Applier, Segments};
use super::checkpoint::{CheckpointFiles, Pair, Retired, settle_newest};
use super::directory;
use super::engine::{Beginning, Engine};
use super::format::checkpoint::{Checkpoint, PartitionCheckpoint};
use super::format::journal::GROUPS_START;
use super::format::{DirectoryId, FormatError};
use super::inspect;
use super::journal::Journal;
use super::journal_files::{JournalFiles, RingFile, RingState, write_header};
use super::log::{LocalLog, Recovered, SegmentMeta};
use super::paths;
use super::read::ReadSide;
use super::redo::Redo;
use super::reserve;
use super::salvage::rebuild::{Rebuilt, rebuild};
use super::salvage::{Accepted, evidence};
use super::scan::{self, BEFORE_GIVING_UP, ScannedFile};
use super::settings::Settings;
use super::survey::{Problem, Survey};
use super::trash::Trash;
use crate::disk::{Disk, Mode, SharedDisk};
use crate::model::{Lsn, PartitionKey};
use crate::rt::{Clock, IdSource};
use crate::storage::{LogConfig, Replay, Snapshot, SnapshotSource};

/// Said when the directory of all segments is gone.
pub(super) const NO_TOPICS: &str =
    "the directory topics is missing, and with it every segment: put it back from a copy";

/// Why a data directory was not opened. Nothing in it was changed, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There are files, but none that says that they are ours.
    #[error(
        "the data directory is not empty and has no FORMAT file: found {0}; give Naru a directory of its own"
    )]
    NotOurs(String),
    /// `FORMAT` cannot be used.
    #[error("FORMAT: {why}{advice}")]
    Format {
        /// What does not fit.
        #[source]
        why: FormatError,
        /// What it should read, as far as anything tells; begins with a semicolon unless it is empty.
        advice: String,
    },
    /// `FORMAT` is missing from a directory that was in use.
    #[error(
        "FORMAT is missing, but the directory was in use ({trace} tells): refusing to start, nothing was changed{advice}"
    )]
    FormatGone {
        /// The file or directory that is not there before `FORMAT` is.
        trace: String,
        /// As of [`Format`](Self::Format).
        advice: String,
    },
    /// Acknowledged data is missing that the broker cannot do without.
    #[error("refusing to start, nothing was changed: {0}")]
    Refused(String),
    /// The same, found when segments had been written to already.
    #[error(
        "refusing to start: {0}; what was written by then stands in the journal or a checkpoint, too, and nothing is lost"
    )]
    RefusedLate(String),
    /// A file operation failed; with `StorageFull` it is worth trying again.
    #[error("opening the data directory: {0}")]
    Io(#[from] io::Error),
}

/// What opening came to, for the log and for tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The checkpoint that recovery began from.
    pub checkpoint: Lsn,
    /// The last durable group.
    pub end: Lsn,
    /// Whether the last stop was clean.
    pub clean: bool,
    /// Groups applied again.
    pub groups: u64,
    /// Bytes that they have in the journal, headers and tables included.
    pub journal_bytes: u64,
    /// Bytes of batches applied again.
    pub bytes: u64,
    /// Groups that were durable and cannot be read.
    pub lost_groups: u64,
    /// The unfinished last group was dropped (it was never acknowledged).
    pub unfinished: bool,
}

impl OpenError {
    /// As it is once segments may have been written to.
    fn late(self) -> Self {
        match self {
            Self::Refused(why) => Self::RefusedLate(why),
            other => other,
        }
    }
}

impl RecoveryReport {
    /// Whether the run before ended in order, or there was none: a new directory has nothing to be unclean about.
    pub fn in_order(&self) -> bool {
        self.clean || self.end == Lsn::ZERO
    }
}

/// The parts of an open engine.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) engine: Arc<Engine>,
    pub(super) applier: Applier,
    pub(super) journal: Journal,
    pub(super) report: RecoveryReport,
}

/// Opens a data directory; makes it if it is empty. On a full disk the reserve is given up, so that the next try has it.
pub(super) fn open(
    disk: SharedDisk,
    settings: &Settings,
    clock: Arc<dyn Clock>,
    ids: &dyn IdSource,
    replay: &mut dyn Replay,
) -> Result<Opened, OpenError> {
    open_accepting(disk, settings, clock, ids, replay, &Accepted::default())
}

/// As [`open`], without what a person has given up.
pub(super) fn open_accepting(
    disk: SharedDisk,
    settings: &Settings,
    clock: Arc<dyn Clock>,
    ids: &dyn IdSource,
    replay: &mut dyn Replay,
    accepted: &Accepted,
) -> Result<Opened, OpenError> {
    let opened = recover(Arc::clone(&disk), settings, clock, ids, replay, accepted);
    if let Err(OpenError::Io(error)) = &opened
        && error.kind() == io::ErrorKind::StorageFull
    {
        reserve::give_up(&*disk);
    }
    opened
}

fn recover(
    disk: SharedDisk,
    settings: &Settings,
    clock: Arc<dyn Clock>,
    ids: &dyn IdSource,
    replay: &mut dyn Replay,
    accepted: &Accepted,
) -> Result<Opened, OpenError> {
    let settings = settings.clone().fitted();
    let directory = directory::identify(&*disk, &settings, ids)?;
    let pair = Pair::read(&*disk, directory)?;
    let rebuilt = rebuilt(&*disk, &pair, directory, accepted)?;
    // The first one is written first: a kill on the way leaves the other as it is.
    let made_again = rebuilt.as_ref().map(|rebuilt| (1, &rebuilt.record));
    let Some((newest_in, newest)) = pair.newest().or(made_again) else {
        return Err(no_checkpoint(&pair));
    };
    if !directory::has_topics(&*disk)? {
        return Err(OpenError::Refused(NO_TOPICS.to_owned()));
    }
    let files = scan::open_files(&*disk, directory)?;
    scan::check_readable(&files)?;
    let mut found = Survey::make(&files, newest, directory)?;
    found.heed_unread(&pair, newest);
    let given_up = |p: &Problem| accepted.has(p.way(found.end, newest.lsn));
    if let Some(problem) = found.problems.iter().find(|problem| !given_up(problem)) {
        return Err(OpenError::Refused(problem.to_string()));
    }
    tell_harmless_damage(&found);
    if let Some(why) = inspect::damage_that_refuses(&*disk, &files, &found, newest, accepted)? {
        return Err(OpenError::Refused(read_first(&pair, why)));
    }
    let incarnations = files.iter().filter_map(|f| f.header).map(|h| h.incarnation);
    let incarnation = incarnations.fold(newest.incarnation, u32::max) + 1;
    let reads = Arc::new(ReadSide::new(
        Arc::clone(&disk),
        settings.open_files_max,
        settings.reads_max,
    ));
    let mut redo = Redo::new(
        Arc::clone(&reads),
        Segments::new(Arc::clone(&disk), settings.open_files_max),
        &found.deleted,
    );
    if !accepted.is_empty() {
        let emptied = rebuilt.as_ref().map(|rebuilt| rebuilt.emptied.clone());
        redo.accept(accepted.clone(), evidence::of_lost(&files, &found), emptied);
        directory::make_journal(&*disk)?;
    }
    redo.begin(&*disk, newest, replay)?;
    let mut report = report_of(&found, newest);
    for group in &found.groups {
        redo.group(&files, group, replay).map_err(OpenError::late)?;
    }
    redo.finish(&found, &mut report, replay)
        .map_err(OpenError::late)?;
    let retired = salvage(&*disk, &found, redo.logs())?;
    let opened = Conclusion {
        disk,
        settings,
        clock,
        directory,
        incarnation,
        newest_in,
        newest,
        found,
        files,
        report,
        retired,
    };
    opened.conclude(redo, reads, replay)
}

/// The record that is made again, where none can be read and a person has given it up.
fn rebuilt(
    disk: &dyn Disk,
    pair: &Pair,
    directory: DirectoryId,
    accepted: &Accepted,
) -> Result<Option<Rebuilt>, OpenError> {
    if pair.newest().is_some() {
        return Ok(None);
    }
    if !accepted.has_checkpoint() {
        return Err(no_checkpoint(pair));
    }
    let files = scan::open_files(disk, directory)?;
    let rebuilt = rebuild(disk, &files, directory)?;
    rebuilt.map(Some).map_err(OpenError::Refused)
}

fn no_checkpoint(pair: &Pair) -> OpenError {
    let why = pair.files.iter().filter_map(|f| f.as_ref().err());
    let why: Vec<_> = why.map(ToString::to_string).collect();
    let why = format!(
        "no checkpoint can be read (checkpoint.0, checkpoint.1: {}); put one back from a copy, or see what going on without them \
         costs",
        why.join(", ")
    );
    OpenError::Refused(read_first(pair, why))
}

/// Of what is refused for want of a checkpoint that is perhaps there: that a read failed comes first.
fn read_first(pair: &Pair, why: String) -> String {
    match pair.unread() {
        // Once is enough.
        Some((file, error)) if why.contains(BEFORE_GIVING_UP) => {
            format!("{file} cannot be read ({error}), and {why}")
        }
        Some((file, error)) => format!("{file} cannot be read ({error}); {BEFORE_GIVING_UP}: {why}"),
        None => why,
    }
}

/// What is wrong in the journal and costs nothing.
fn tell_harmless_damage(found: &Survey) {
    for lsn in &found.empty_lost {
        tracing::error!(event = "journal_group_damaged", lsn = %lsn, "an empty journal group cannot be read; nothing was in it");
    }
    for lsn in &found.chain_breaks {
        tracing::error!(event = "journal_chain_broken", lsn = %lsn, "a journal group does not follow the one before");
    }
}

fn report_of(found: &Survey, newest: &Checkpoint) -> RecoveryReport {
    RecoveryReport {
        checkpoint: newest.lsn,
        end: found.end,
        clean: newest.clean_end.is_some() && found.groups.is_empty(),
        groups: found.groups.len() as u64,
        journal_bytes: found.groups.iter().map(|g| g.header.total_bytes()).sum(),
        lost_groups: found.lost.iter().map(|(first, last)| last.0 - first.0 + 1).sum(),
        unfinished: found.unfinished.is_some(),
        bytes: 0,
    }
}

/// Puts aside what nobody names: bytes of the unfinished group, segments and topics that neither the checkpoint nor the
/// replay knows.
fn salvage(
    disk: &dyn Disk,
    found: &Survey,
    logs: &BTreeMap<PartitionKey, Arc<LocalLog>>,
) -> Result<Vec<Retired>, OpenError> {
    directory::make_missing(disk)?;
    if let Some((lsn, bytes)) = &found.unfinished {
        let path = format!("{}/unfinished-{}.group", paths::SALVAGE, lsn);
        tracing::warn!(event = "unfinished_group", lsn = %lsn, bytes = bytes.len(), kept = %path, "the last group was not finished and never acknowledged");
        match keep_copy(disk, &path, bytes) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            // The copy is for curiosity; a full disk must not keep the broker from starting.
            Err(e) => {
                tracing::warn!(event = "salvage_failed", error = %e, "the unfinished group could not be kept")
            }
        }
    }
    let topics: BTreeSet<String> = logs.keys().map(|k| k.topic.to_string()).collect();
    let deleted: BTreeSet<String> = found.deleted.iter().map(ToString::to_string).collect();
    for entry in disk.list(paths::TOPICS)? {
        if topics.contains(&entry.name) {
            continue;
        }
        if !deleted.contains(&entry.name) {
            let aside = aside(disk, &format!("topic-{}", entry.name))?;
            tracing::warn!(event = "unknown_topic", topic = %entry.name, kept = %aside, "files of a topic that nobody names were put aside");
            disk.rename(&format!("{}/{}", paths::TOPICS, entry.name), &aside)?;
        }
    }
    let mut retired = Vec::new();
    for (key, log) in logs {
        salvage_segments(disk, *key, log, &mut retired)?;
    }
    disk.sync_dir(paths::SALVAGE)?;
    disk.sync_dir(paths::TOPICS)?;
    Ok(retired)
}

/// A path in `salvage/` that is not taken: an earlier start may have put the same aside, which stays.
pub(super) fn aside(disk: &dyn Disk, name: &str) -> io::Result<String> {
    let taken = disk.list(paths::SALVAGE)?;
    let is_free = |name: &String| taken.iter().all(|entry| entry.name != *name);
    let mut free = name.to_owned();
    let mut number = 2_u64;
    while !is_free(&free) {
        free = format!("{name}.{number}");
        number += 1;
    }
    Ok(format!("{}/{free}", paths::SALVAGE))
}

fn keep_copy(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<()> {
    let file = disk.create_new(path, Mode::Buffered)?;
    let kept = file.write_all_at(bytes, 0).and_then(|()| file.sync_data());
    if kept.is_err() {
        // Half a copy is none, and a full disk needs the space.
        disk.unlink(path)?;
    }
    kept
}

fn salvage_segments(
    disk: &dyn Disk,
    key: PartitionKey,
    log: &LocalLog,
    retired: &mut Vec<Retired>,
) -> io::Result<()> {
    let dir = paths::partition(key);
    let entries = match disk.list(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let log_start = log.state().log_start;
    let known: BTreeSet<String> = {
        let state = log.state();
        state
            .segments
            .iter()
            .flat_map(|s| [paths::segment(key, s.base), paths::index(key, s.base)])
            .collect()
    };
    for entry in entries {
        let path = format!("{dir}/{}", entry.name);
        let base = paths::base_of(&entry.name);
        if known.contains(&path) {
            continue;
        }
        if let Some(base) = base.filter(|base| *base < log_start) {
            // The checkpoint does without it; the one before may not, and is not replaced yet.
            retired.push((key, base));
        } else {
            let aside = aside(disk, &format!("{}-{}-{}", key.topic, key.partition, entry.name))?;
            tracing::warn!(event = "unknown_file", file = %path, kept = %aside, "a file that nobody names was put aside");
            disk.rename(&path, &aside)?;
        }
    }
    Ok(())
}

/// The log of a partition as a checkpoint has it.
pub(super) fn log_of(partition: &PartitionCheckpoint, reads: &Arc<ReadSide>) -> LocalLog {
    let segment = |s: &super::format::checkpoint::SegmentCheckpoint| SegmentMeta {
        base: s.base,
        end: s.end,
        bytes: s.bytes,
        oldest_append: s.oldest_append,
        newest_append: s.newest_append,
        max_timestamp: s.max_timestamp,
        sealed: s.sealed,
    };
    let found = Recovered {
        log_start: partition.log_start,
        end: partition.end,
        last_append: partition.last_append,
        segments: partition.segments.iter().map(segment).collect(),
        quarantined: partition.quarantined.clone(),
    };
    LocalLog::recovered(partition.key, DEFAULT_CONFIG, Arc::clone(reads), found)
}

/// Until the topic's own is known; replay keeps to the layout that the journal recorded.
pub(super) const DEFAULT_CONFIG: LogConfig = LogConfig {
    segment_bytes: 256 << 20,
    index_interval_bytes: 4096,
    segment_ms: u64::MAX,
    segment_jitter_ms: 0,
    memory_bytes: None,
};

/// Asks the replayed state for the snapshots of the checkpoint that ends recovery.
struct Replayed<'a>(&'a dyn Replay);

impl SnapshotSource for Replayed<'_> {
    fn snapshot(&self, key: PartitionKey) -> Option<Snapshot> {
        self.0.replayed_snapshot(key)
    }
}

/// What the end of recovery needs.
struct Conclusion<'a> {
    disk: SharedDisk,
    settings: Settings,
    clock: Arc<dyn Clock>,
    directory: DirectoryId,
    incarnation: u32,
    newest_in: usize,
    newest: &'a Checkpoint,
    found: Survey,
    files: Vec<ScannedFile>,
    report: RecoveryReport,
    retired: Vec<Retired>,
}

impl Conclusion<'_> {
    /// New checkpoint, new journal file.
    fn conclude(self, redo: Redo, reads: Arc<ReadSide>, replay: &dyn Replay) -> Result<Opened, OpenError> {
        let named = self
            .files
            .iter()
            .filter_map(|f| f.header)
            .map(|h| h.checkpoint_seq)
            .max()
            .unwrap_or(0);
        let seq = self.newest.seq.max(named);
        let file_bytes = self.settings.journal_file_bytes;
        let bytes_min = Settings::file_bytes_for(self.settings.step_bytes_max.into()).min(file_bytes);
        settle_newest_header(&self.files, self.directory)?;
        settle_newest(&*self.disk, self.newest_in)?;
        let (ring, too_short) = ring_state(&*self.disk, self.files, self.newest, self.found.end, bytes_min)?;
        let files = JournalFiles::new(
            Arc::clone(&self.disk),
            self.directory,
            file_bytes,
            self.settings.journal_files,
            ring,
        );
        let (logs, segments, mut deleted) = redo.into_parts();
        deleted.extend(self.newest.deleted.iter().copied());
        let begin = Beginning {
            directory: self.directory,
            incarnation: self.incarnation,
            durable: self.found.end,
            files,
            reads,
            logs,
        };
        let engine = Arc::new(Engine::new(
            Arc::clone(&self.disk),
            self.clock,
            self.settings,
            begin,
        ));
        let mut applier = Applier {
            segments,
            checkpoints: CheckpointFiles::new(seq, self.newest_in),
            trash: Trash::open(&*self.disk)?,
            deleted,
            trimmed: false,
            retired: self.retired,
            changed: false,
            last_checkpoint: engine.clock.mono(),
            damage_noted: 0,
            next_look: engine.clock.mono(),
            engine: Arc::clone(&engine),
        };
        // Twice: then the journal files of the last life lie below the record before the newest, and can be used again.
        applier.checkpoint(&Replayed(replay), false, &mut |_| true)?;
        applier.checkpoint(&Replayed(replay), false, &mut |_| true)?;
        let mut journal = Journal::new(Arc::clone(&engine), self.found.hash, self.incarnation);
        let bytes = engine.settings.journal_first_file_bytes;
        engine.files.make_beside_the_only_one(bytes)?;
        journal.begin(self.found.end.next())?;
        // Not before another file has a header: until then they alone say which generation was the last.
        for number in too_short {
            self.disk.unlink(&paths::journal(number))?;
        }
        engine.account_journal();
        engine.reserve.take_over()?;
        engine.hold_reserve()?;
        engine.refresh_disk_free();
        Ok(Opened {
            engine,
            applier,
            journal,
            report: self.report,
        })
    }
}

/// Writes the header of the newest file again, as it is, before that of an older one is written over: what a start before
/// this one wrote and failed to sync stands in the page cache, and perhaps nowhere else. The only file is left alone.
fn settle_newest_header(files: &[ScannedFile], directory: DirectoryId) -> io::Result<()> {
    let with_header = files.iter().filter_map(|f| f.header.map(|header| (f, header)));
    if with_header.clone().count() < 2 {
        return Ok(());
    }
    let newest = with_header.max_by_key(|(_, header)| header.generation);
    newest.map_or(Ok(()), |(file, header)| {
        write_header(&*file.file, &header, directory)
    })
}

/// The ring as it is found: files with a header are full; others were never used, and are made anew. Those that are too
/// short for the largest group, made when files were smaller by configuration, are not part of it: their numbers, the
/// oldest first.
fn ring_state(
    disk: &dyn Disk,
    files: Vec<ScannedFile>,
    newest: &Checkpoint,
    end: Lsn,
    bytes_min: u64,
) -> io::Result<(RingState, Vec<u64>)> {
    let next_number = files.iter().map(|f| f.number + 1).max().unwrap_or(0);
    let generation = files
        .iter()
        .filter_map(|f| f.header)
        .map(|h| h.generation)
        .max()
        .unwrap_or(0);
    let mut full = Vec::new();
    let mut fresh = VecDeque::new();
    let mut too_short = Vec::new();
    let first_life = files.iter().all(|f| f.header.is_none());
    let named = files.iter().filter(|f| f.header.is_some());
    let last_named = named.map(|f| f.number).max();
    for scanned in files {
        let ring = RingFile {
            file: scanned.file,
            bytes: scanned.bytes,
            last_lsn: end,
        };
        match scanned.header {
            // One that was cut is given up: it may be shorter than any header says.
            Some(header) if scanned.bytes < bytes_min.max(header.file_bytes) => {
                too_short.push((header.generation, scanned.number))
            }
            None if scanned.bytes < bytes_min && first_life => too_short.push((0, scanned.number)),
            Some(header) => full.push((header.generation, ring)),
            // Cut, and given up: evidence until another file has a header. One that was never finished is none.
            None if scanned.bytes < GROUPS_START && Some(scanned.number) < last_named.max(Some(1)) => {
                too_short.push((0, scanned.number));
            }
            // The one file of a directory that was just made.
            None if first_life && scanned.number == 0 && newest.lsn == Lsn::ZERO => fresh.push_back(ring),
            None => {
                drop(ring);
                disk.unlink(&paths::journal(scanned.number))?;
            }
        }
    }
    full.sort_by_key(|(generation, _)| *generation);
    let full = full.into_iter().map(|(_, ring)| ring).collect();
    too_short.sort_unstable();
    let too_short = too_short.into_iter().map(|(_, number)| number).collect();
    let newest_checkpoint = (newest.seq, newest.lsn);
    let ring = RingState {
        fresh,
        full,
        generation,
        next_number,
        newest_checkpoint,
        previous_checkpoint: Lsn::ZERO,
    };
    Ok((ring, too_short))
}
