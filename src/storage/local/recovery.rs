//! Opening a data directory: two passes over the journal above the newest checkpoint, then a new checkpoint and a new
//! journal file. What was acknowledged is never cut; what cannot be decided refuses to start. `docs/storage-format.md`,
//! "Recovery".

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use super::applier::{Applier, Segments};
use super::checkpoint::{self, CheckpointFiles, Pair, Retired};
use super::engine::{Beginning, Engine};
use super::format::checkpoint::{Checkpoint, PartitionCheckpoint};
use super::format::journal::GROUPS_START;
use super::format::{DirectoryId, FormatError, identity};
use super::journal::Journal;
use super::journal_files::{JournalFiles, RingFile, RingState, make_file};
use super::log::{LocalLog, Recovered, SegmentMeta};
use super::paths;
use super::read::ReadSide;
use super::redo::Redo;
use super::scan::{self, FoundGroup, ScannedFile};
use super::settings::Settings;
use super::trash::Trash;
use crate::disk::{Disk, Mode, SharedDisk, read_exact_at};
use crate::model::{Lsn, PartitionKey, TopicId};
use crate::rt::{Clock, IdSource};
use crate::storage::{LogConfig, Replay, Snapshot, SnapshotSource};

/// Why a data directory was not opened. Nothing in it was changed, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There are files, but none that says that they are ours.
    #[error(
        "the data directory is not empty and has no FORMAT file: found {0}; give Naru a directory of its own"
    )]
    NotOurs(String),
    /// `FORMAT` cannot be used.
    #[error("FORMAT: {0}")]
    Format(#[source] FormatError),
    /// Acknowledged data is missing that the broker cannot do without.
    #[error("refusing to start, nothing was changed: {0}")]
    Refused(String),
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
    /// Bytes of batches applied again.
    pub bytes: u64,
    /// Groups that were durable and cannot be read.
    pub lost_groups: u64,
    /// The unfinished last group was dropped (it was never acknowledged).
    pub unfinished: bool,
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

/// Opens a data directory; makes it if it is empty.
pub(super) fn open(
    disk: SharedDisk,
    settings: &Settings,
    clock: Arc<dyn Clock>,
    ids: &dyn IdSource,
    replay: &mut dyn Replay,
) -> Result<Opened, OpenError> {
    let settings = settings.clone().fitted();
    let directory = identify(&*disk, &settings, ids)?;
    let pair = Pair::read(&*disk, directory)?;
    let Some((newest_in, newest)) = pair.newest() else {
        let why: Vec<_> = pair
            .files
            .iter()
            .filter_map(|f| f.as_ref().err())
            .map(ToString::to_string)
            .collect();
        return Err(OpenError::Refused(format!(
            "no checkpoint can be read (checkpoint.0, checkpoint.1: {})",
            why.join(", ")
        )));
    };
    let files = scan::open_files(&*disk, directory)?;
    let found = Survey::make(&files, newest, directory)?;
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
    redo.begin(&*disk, newest, replay)?;
    let mut report = found.report(newest);
    for group in &found.groups {
        redo.group(&files, group, replay)?;
    }
    redo.finish(&found, &mut report, replay)?;
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

/// Reads `FORMAT`, or makes a new directory.
fn identify(disk: &dyn Disk, settings: &Settings, ids: &dyn IdSource) -> Result<DirectoryId, OpenError> {
    match disk.open(paths::FORMAT, Mode::Buffered) {
        Ok(file) => {
            let len = usize::try_from(file.len()?).unwrap_or(usize::MAX).min(4096);
            let mut text = vec![0; len];
            read_exact_at(&*file, &mut text, 0)?;
            identity::decode(&text).map_err(OpenError::Format)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => create(disk, settings, ids.uuid()),
        Err(e) => Err(e.into()),
    }
}

/// Makes a new directory. `FORMAT` comes last: without it, what is there was never used and is made anew.
fn create(disk: &dyn Disk, settings: &Settings, id: DirectoryId) -> Result<DirectoryId, OpenError> {
    const OURS: [&str; 8] = [
        paths::LOCK,
        paths::JOURNAL,
        paths::TOPICS,
        paths::SALVAGE,
        paths::TRASH,
        "checkpoint.0",
        "checkpoint.1",
        "FORMAT.new",
    ];
    let entries = disk.list("")?;
    let topics = entries
        .iter()
        .any(|e| e.name == paths::TOPICS && disk.list(paths::TOPICS).is_ok_and(|t| !t.is_empty()));
    let foreign: Vec<_> = entries
        .iter()
        .filter(|e| !OURS.contains(&e.name.as_str()))
        .map(|e| e.name.clone())
        .collect();
    if topics || !foreign.is_empty() {
        return Err(OpenError::NotOurs(if topics {
            "topics".to_owned()
        } else {
            foreign.join(", ")
        }));
    }
    for dir in [paths::JOURNAL, paths::TOPICS, paths::SALVAGE, paths::TRASH] {
        disk.mkdir(dir)?;
    }
    for entry in disk.list(paths::JOURNAL)? {
        disk.unlink(&format!("{}/{}", paths::JOURNAL, entry.name))?;
    }
    for file in entries
        .iter()
        .filter(|e| e.name.starts_with("checkpoint.") || e.name == "FORMAT.new")
    {
        disk.unlink(&file.name)?;
    }
    make_file(disk, 0, settings.journal_first_file_bytes, || true)?;
    checkpoint::initial(disk, id)?;
    let file = disk.create_new("FORMAT.new", Mode::Buffered)?;
    file.write_all_at(identity::encode(id).as_bytes(), 0)?;
    file.sync_data()?;
    disk.rename("FORMAT.new", paths::FORMAT)?;
    disk.sync_dir("")?;
    Ok(id)
}

/// What the first, read-only pass found.
#[derive(Debug)]
pub(super) struct Survey {
    /// Groups above the checkpoint, in LSN order, whose header and table hold.
    groups: Vec<FoundGroup>,
    /// Topics deleted by these groups.
    deleted: BTreeSet<TopicId>,
    /// The last durable group.
    end: Lsn,
    /// [`super::format::journal::chain_hash`] of its header.
    hash: u64,
    /// Ranges of durable groups that cannot be read: first and last.
    pub(super) lost: Vec<(Lsn, Lsn)>,
    /// Bytes of the unfinished last group.
    unfinished: Option<(Lsn, Vec<u8>)>,
}

impl Survey {
    fn make(files: &[ScannedFile], newest: &Checkpoint, directory: DirectoryId) -> Result<Self, OpenError> {
        check_headers(files, newest)?;
        check_illegible(files, directory)?;
        let needed = needed_files(files, newest)?;
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
            groups.extend(found.into_iter().filter(|g| g.lsn > newest.lsn && g.lsn < before));
        }
        groups.sort_by_key(|g| g.lsn);
        let unfinished = drop_unfinished(files, &mut groups, newest)?;
        let lost = gaps(&groups, newest);
        let end = groups
            .last()
            .map_or(newest.lsn, |g| g.lsn)
            .max(newest.clean_end.unwrap_or_default());
        let dropped = |lsn: Lsn| groups.iter().any(|g| g.lsn == lsn);
        let deleted = deletions
            .into_iter()
            .filter(|(lsn, _)| dropped(*lsn))
            .map(|(_, topic)| topic)
            .collect();
        Ok(Self {
            deleted,
            end,
            hash: groups.last().map_or(0, |g| g.hash),
            lost,
            unfinished,
            groups,
        })
    }

    fn report(&self, newest: &Checkpoint) -> RecoveryReport {
        RecoveryReport {
            checkpoint: newest.lsn,
            end: self.end,
            clean: newest.clean_end.is_some() && self.groups.is_empty(),
            groups: self.groups.len() as u64,
            lost_groups: self.lost.iter().map(|(first, last)| last.0 - first.0 + 1).sum(),
            unfinished: self.unfinished.is_some(),
            bytes: 0,
        }
    }
}

/// Refuses where a file of the journal says that checkpoints existed which cannot be read any more.
fn check_headers(files: &[ScannedFile], newest: &Checkpoint) -> Result<(), OpenError> {
    let named = files
        .iter()
        .filter_map(|f| f.header)
        .map(|h| (h.checkpoint_seq, h.checkpoint_lsn))
        .max();
    // One record may be lost: files are used again only below the record before the newest.
    if let Some((seq, lsn)) = named.filter(|(seq, _)| *seq > newest.seq + 1) {
        return Err(OpenError::Refused(format!(
            "the journal names checkpoint {seq} (LSN {lsn}), the newest that can be read is {} (LSN {}): the other checkpoint \
             file is missing or damaged",
            newest.seq, newest.lsn
        )));
    }
    let cut = files
        .iter()
        .find(|f| f.header.is_some_and(|h| f.bytes < h.file_bytes));
    if let Some(file) = cut {
        return Err(OpenError::Refused(format!(
            "{} has {} bytes, less than its header says: groups may be missing at its end",
            paths::journal(file.number),
            file.bytes
        )));
    }
    // The first file had its full length before the directory was one; later ones may have been cut off while being made.
    let stump = files.iter().find(|f| f.number == 0 && f.bytes < GROUPS_START);
    if let Some(file) = stump {
        return Err(OpenError::Refused(format!(
            "{} has {} bytes, less than any journal file: it was cut",
            paths::journal(file.number),
            file.bytes
        )));
    }
    // A directory without any checkpointed group may have been cut off while its first header was written.
    if files.iter().all(|f| f.header.is_none()) && (newest.lsn > Lsn::ZERO || files.is_empty()) {
        let problem = if files.iter().any(|f| f.illegible) {
            "no journal file can be read"
        } else {
            "the journal files are missing"
        };
        return Err(OpenError::Refused(problem.to_owned()));
    }
    Ok(())
}

/// Refuses where the newest file has lost its header. A file whose header was only being rewritten holds no group under the
/// generation that comes next; one that was in use does, and they were durable.
fn check_illegible(files: &[ScannedFile], directory: DirectoryId) -> Result<(), OpenError> {
    let generations = files.iter().filter_map(|f| f.header).map(|h| h.generation);
    let next = generations.max().unwrap_or(0) + 1;
    for file in files.iter().filter(|f| f.illegible) {
        if let Some(lsn) = scan::first_group_of(file, directory, next)? {
            return Err(OpenError::Refused(format!(
                "{}: both copies of its header are damaged, but it holds group {lsn} and perhaps more: put a whole copy in its \
                 place, or move it out of the directory to start without its groups",
                paths::journal(file.number)
            )));
        }
    }
    Ok(())
}

/// Indexes of the files that may hold groups above the checkpoint, oldest first.
fn needed_files(files: &[ScannedFile], newest: &Checkpoint) -> Result<Vec<usize>, OpenError> {
    let mut order: Vec<_> = files
        .iter()
        .enumerate()
        .filter_map(|(i, f)| f.header.map(|h| (h, i)))
        .collect();
    order.sort_by_key(|(h, _)| h.generation);
    let next = newest.lsn.next();
    let first_needed = order.iter().rposition(|(h, _)| h.first_lsn <= next);
    match first_needed {
        Some(at) => Ok(order[at..].iter().map(|(_, i)| *i).collect()),
        None if order.is_empty() => Ok(Vec::new()),
        None => Err(OpenError::Refused(format!(
            "journal group {next} is needed, but the oldest journal file begins at {}: a journal file is missing or its header \
             is damaged",
            order[0].0.first_lsn
        ))),
    }
}

/// Takes the last group out if its payload is not whole and nothing proves that it was durable.
fn drop_unfinished(
    files: &[ScannedFile],
    groups: &mut Vec<FoundGroup>,
    newest: &Checkpoint,
) -> Result<Option<(Lsn, Vec<u8>)>, OpenError> {
    let Some(last) = groups.last().copied() else {
        return Ok(None);
    };
    let bytes = scan::read_group(files, &last)?;
    let proven = newest.clean_end.is_some_and(|end| end >= last.lsn);
    if !proven && !scan::payload_holds(&bytes, &last.header) {
        groups.pop();
        return Ok(Some((last.lsn, bytes)));
    }
    Ok(scan::unfinished_behind(files, &last)?.map(|bytes| (last.lsn.next(), bytes)))
}

/// Numbers that are missing below a group that is there: group n+1 was written only after n was durable.
fn gaps(groups: &[FoundGroup], newest: &Checkpoint) -> Vec<(Lsn, Lsn)> {
    let mut lost = Vec::new();
    let mut expected = newest.lsn.next();
    let mut previous: Option<u64> = None;
    for group in groups {
        if group.lsn > expected {
            lost.push((expected, Lsn(group.lsn.0 - 1)));
            previous = None;
        }
        if previous.is_some_and(|hash| hash != group.header.previous) {
            tracing::error!(event = "journal_chain_broken", lsn = %group.lsn, "a journal group does not follow the one before");
        }
        previous = Some(group.hash);
        expected = group.lsn.next();
    }
    if let Some(end) = newest.clean_end.filter(|end| *end >= expected) {
        lost.push((expected, end));
    }
    lost
}

/// Puts aside what nobody names: bytes of the unfinished group, segments and topics that neither the checkpoint nor the
/// replay knows.
fn salvage(
    disk: &dyn Disk,
    found: &Survey,
    logs: &BTreeMap<PartitionKey, Arc<LocalLog>>,
) -> Result<Vec<Retired>, OpenError> {
    if let Some((lsn, bytes)) = &found.unfinished {
        let path = format!("{}/unfinished-{}.group", paths::SALVAGE, lsn);
        tracing::warn!(event = "unfinished_group", lsn = %lsn, bytes = bytes.len(), kept = %path, "the last group was not finished and never acknowledged");
        match disk.create_new(&path, Mode::Buffered) {
            Ok(file) => {
                file.write_all_at(bytes, 0)?;
                file.sync_data()?;
            }
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
            let aside = format!("{}/topic-{}", paths::SALVAGE, entry.name);
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
            let aside = format!(
                "{}/{}-{}-{}",
                paths::SALVAGE,
                key.topic,
                key.partition,
                entry.name
            );
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
        let ring = ring_state(&*self.disk, self.files, self.newest, self.found.end)?;
        let file_bytes = self.settings.journal_file_bytes;
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
            next_look: engine.clock.mono(),
            engine: Arc::clone(&engine),
        };
        // Twice: then the journal files of the last life lie below the record before the newest, and can be used again.
        applier.checkpoint(&Replayed(replay), false, &mut |_| true)?;
        applier.checkpoint(&Replayed(replay), false, &mut |_| true)?;
        let mut journal = Journal::new(Arc::clone(&engine), self.found.hash, self.incarnation);
        journal.begin(self.found.end.next())?;
        engine.refresh_disk_free();
        engine.account_journal();
        Ok(Opened {
            engine,
            applier,
            journal,
            report: self.report,
        })
    }
}

/// The ring as it is found: files with a header are full; others were never used, and are made anew.
fn ring_state(
    disk: &dyn Disk,
    files: Vec<ScannedFile>,
    newest: &Checkpoint,
    end: Lsn,
) -> io::Result<RingState> {
    let next_number = files.iter().map(|f| f.number + 1).max().unwrap_or(0);
    let generation = files
        .iter()
        .filter_map(|f| f.header)
        .map(|h| h.generation)
        .max()
        .unwrap_or(0);
    let mut full = Vec::new();
    let mut fresh = VecDeque::new();
    let first_life = files.iter().all(|f| f.header.is_none());
    for scanned in files {
        let ring = RingFile {
            file: scanned.file,
            bytes: scanned.bytes,
            last_lsn: end,
        };
        match scanned.header {
            Some(header) => full.push((header.generation, ring)),
            // The one file of a directory that was just made.
            None if first_life && scanned.number == 0 => fresh.push_back(ring),
            None => {
                drop(ring);
                disk.unlink(&paths::journal(scanned.number))?;
            }
        }
    }
    full.sort_by_key(|(generation, _)| *generation);
    let full = full.into_iter().map(|(_, ring)| ring).collect();
    let newest_checkpoint = (newest.seq, newest.lsn);
    Ok(RingState {
        fresh,
        full,
        generation,
        next_number,
        newest_checkpoint,
        previous_checkpoint: Lsn::ZERO,
    })
}
