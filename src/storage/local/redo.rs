//! The second pass of recovery: what the journal holds above the checkpoint goes into the segments once more,
//! unconditionally, and into the replayed state.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::applier::Segments;
use super::format::checkpoint::{Checkpoint, PartitionCheckpoint, SegmentCheckpoint};
use super::format::journal::{AppendEntry, Entry};
use super::log::{LocalLog, SegmentMeta};
use super::partial::{self, Partial};
use super::paths;
use super::read::ReadSide;
use super::recovery::{DEFAULT_CONFIG, OpenError, RecoveryReport, log_of};
use super::salvage::Accepted;
use super::salvage::evidence::{self, Lost};
use super::scan::{self, FoundGroup, ScannedFile, Unread};
use super::segment::RunBatch;
use super::survey::Survey;
use crate::disk::{Disk, DiskFile, Mode, read_exact_at};
use crate::model::{Lsn, Offset, PartitionKey, Timestamp, TopicId};
use crate::planted::{self, Bug};
use crate::record::{BatchHeader, HEADER_BYTES, check_crc, crc32c};
use crate::storage::{Replay, Snapshot};

/// Batches are gathered up to so many bytes before they are written, partition by partition.
const GATHER_BYTES: usize = 32 << 20;

struct Gathered {
    base: Offset,
    last: Offset,
    starts_segment: bool,
    append_time: Timestamp,
    bytes: Bytes,
}

/// What became of the last, partial block of a partition's newest segment.
enum LastBlock {
    Whole(Bytes),
    /// It is damaged or missing, and the checkpoint has this copy of it.
    Kept(Bytes),
    Lost,
}

/// The state of the second pass.
pub(super) struct Redo {
    reads: Arc<ReadSide>,
    segments: Segments,
    logs: BTreeMap<PartitionKey, Arc<LocalLog>>,
    /// Next offset per partition, gathered batches included.
    next: BTreeMap<PartitionKey, Offset>,
    /// Replayed state covers what is below.
    covers: BTreeMap<PartitionKey, Offset>,
    deleted: BTreeSet<TopicId>,
    gathered: BTreeMap<PartitionKey, Vec<Gathered>>,
    gathered_bytes: usize,
    /// Partitions whose next batch begins a segment, because what is before it is damaged.
    broken: BTreeSet<PartitionKey>,
    bytes: u64,
    /// What a person has given up.
    accepted: Accepted,
    /// What the lost groups among it may have held.
    lost: Vec<Lost>,
    /// Partitions whose end the checkpoint alone told, if that was made again.
    emptied: Option<BTreeSet<PartitionKey>>,
    /// The last group with a batch of a partition: it says where the log stood.
    seen: BTreeMap<PartitionKey, Lsn>,
}

fn refused(what: impl Into<String>) -> OpenError {
    OpenError::Refused(what.into())
}

impl Redo {
    pub(super) fn new(reads: Arc<ReadSide>, segments: Segments, deleted: &BTreeSet<TopicId>) -> Self {
        Self {
            reads,
            segments,
            logs: BTreeMap::new(),
            next: BTreeMap::new(),
            covers: BTreeMap::new(),
            deleted: deleted.clone(),
            gathered: BTreeMap::new(),
            gathered_bytes: 0,
            broken: BTreeSet::new(),
            bytes: 0,
            accepted: Accepted::default(),
            lost: Vec::new(),
            emptied: None,
            seen: BTreeMap::new(),
        }
    }

    /// Goes on without what a person has given up.
    pub(super) fn accept(
        &mut self,
        accepted: Accepted,
        lost: Vec<Lost>,
        emptied: Option<BTreeSet<PartitionKey>>,
    ) {
        self.accepted = accepted;
        self.lost = lost;
        self.emptied = emptied;
    }

    pub(super) fn logs(&self) -> &BTreeMap<PartitionKey, Arc<LocalLog>> {
        &self.logs
    }

    pub(super) fn into_parts(self) -> (BTreeMap<PartitionKey, Arc<LocalLog>>, Segments, Vec<TopicId>) {
        (self.logs, self.segments, self.deleted.into_iter().collect())
    }

    /// Takes over the partitions of the checkpoint.
    pub(super) fn begin(
        &mut self,
        disk: &dyn Disk,
        newest: &Checkpoint,
        replay: &mut dyn Replay,
    ) -> Result<(), OpenError> {
        self.segments.begin_recovery();
        let mut damaged = Vec::new();
        for partition in &newest.partitions {
            let key = partition.key;
            if self.deleted.contains(&key.topic) {
                continue;
            }
            let log = Arc::new(log_of(partition, &self.reads));
            let bytes = match self.check_segments(disk, partition, &log)? {
                LastBlock::Whole(bytes) => Some(bytes),
                LastBlock::Kept(bytes) => {
                    damaged.push(partition);
                    Some(bytes)
                }
                LastBlock::Lost => None,
            };
            let partial = Partial {
                crc: partition.partial_crc,
                bytes,
            };
            self.segments.note_partial(key, partial);
            self.next.insert(key, partition.end);
            self.logs.insert(key, log);
            if let Some((covers, blob)) = &partition.snapshot {
                self.covers.insert(key, *covers);
                replay.snapshot(
                    key,
                    Snapshot {
                        covers: *covers,
                        blob: blob.clone(),
                    },
                );
            }
        }
        // Nothing was written so far: a refusal leaves everything as it was.
        for partition in damaged {
            let key = partition.key;
            tracing::warn!(event = "partial_block_put_back", topic = %key.topic, partition = %key.partition, "the last block of a segment was damaged, and is written again from the checkpoint");
            partial::put_back(disk, partition)?;
        }
        if planted::is(Bug::SegmentTrusted) {
            let ends: Vec<_> = self.next.iter().map(|(key, next)| (*key, *next)).collect();
            for (key, next) in ends {
                self.adopt(key, next, None, replay)?;
            }
        }
        Ok(())
    }

    /// Compares the files with what the checkpoint says of them. A file that is missing or short is damage, unless all that is
    /// missing can be put back. Returns what became of the last, partial block.
    fn check_segments(
        &mut self,
        disk: &dyn Disk,
        partition: &PartitionCheckpoint,
        log: &LocalLog,
    ) -> Result<LastBlock, OpenError> {
        let key = partition.key;
        let needed = is_needed(partition);
        let mut last_is_short = false;
        for segment in &partition.segments {
            last_is_short = false;
            let found = match front_state(disk, partition, segment)? {
                FrontState::Whole => continue,
                FrontState::Short(found) => found,
                FrontState::Missing => 0,
            };
            last_is_short = true;
            let path = paths::segment(key, segment.base);
            if needed {
                let last = Offset::new(segment.end.get() - 1).unwrap_or(segment.base);
                if self.accepted.has_records(key, segment.base, last) {
                    self.drop_segments(log);
                    return Ok(LastBlock::Lost);
                }
                return Err(refused(format!(
                    "{path} has {found} bytes, {} were durable, and the broker needs them: put a whole copy of the file in its \
                     place",
                    segment.bytes
                )));
            }
            tracing::error!(event = "segment_short", file = %path, found, expected = segment.bytes, "a segment is missing bytes");
            if found == 0 && !key.topic.is_internal() {
                let last = Offset::new(segment.end.get() - 1).unwrap_or(segment.base);
                log.quarantine(segment.base, last);
            }
            self.broken.insert(key);
        }
        if last_is_short {
            return Ok(LastBlock::Lost);
        }
        if let Some(bytes) = partial::in_file(disk, partition)? {
            return Ok(LastBlock::Whole(bytes));
        }
        if let Some(copy) = partial::copy_of(partition) {
            return Ok(LastBlock::Kept(copy.clone()));
        }
        if needed {
            let ends = partition.segments.last().map(|active| (active.base, active.end));
            let last = ends.and_then(|(base, end)| Some((base, Offset::new(end.get() - 1)?)));
            if last.is_some_and(|(base, last)| self.accepted.has_records(key, base, last)) {
                self.drop_segments(log);
                return Ok(LastBlock::Lost);
            }
            let path = partition
                .segments
                .last()
                .map(|last| paths::segment(key, last.base));
            return Err(refused(format!(
                "the last block of {} is damaged, and the broker needs it: put a whole copy of the file in its place",
                path.unwrap_or_default()
            )));
        }
        // The batches that it belongs to fail their own checksum when they are read, or cannot be read at all: the segment
        // could not even be opened to write behind them.
        tracing::error!(event = "partial_block_damaged", topic = %key.topic, partition = %key.partition, "the last block of a segment is damaged");
        self.broken.insert(key);
        Ok(LastBlock::Lost)
    }

    /// The broker's own partitions are read by recovery alone, and it begins at the snapshot: their segments are not needed, and
    /// the log goes on where it ended.
    fn drop_segments(&mut self, log: &LocalLog) {
        let mut state = log.state();
        state.log_start = state.end;
        state.segments.clear();
        state.quarantined.clear();
        state.active = None;
        self.broken.insert(log.partition());
    }

    /// Goes through one group.
    pub(super) fn group(
        &mut self,
        files: &[ScannedFile],
        group: &FoundGroup,
        replay: &mut dyn Replay,
    ) -> Result<(), OpenError> {
        let mut read = scan::read_group(files, group)?;
        let file = &files[group.file];
        if let Some(unread) = read.unread_front(&group.header) {
            // It could be read a moment ago.
            return Err(refused(scan::unread_error(file, unread).to_string()));
        }
        let bytes = Bytes::from(std::mem::take(&mut read.bytes));
        let payload_start = usize::try_from(group.header.payload_start()).unwrap_or(usize::MAX);
        let front = bytes
            .get(..payload_start)
            .ok_or_else(|| refused(format!("journal group {} is cut", group.lsn)))?;
        for entry in scan::entries_of(front) {
            let entry = entry.map_err(|e| refused(format!("journal group {}: {e}", group.lsn)))?;
            if let Entry::Append(append) = &entry {
                self.seen.insert(append.key, group.lsn);
            }
            match entry {
                Entry::Append(entry) if self.deleted.contains(&entry.key.topic) => {}
                Entry::Append(entry) => {
                    let from = payload_start + entry.position as usize;
                    let to = from.saturating_add(entry.length as usize).min(bytes.len());
                    let batch = from.min(to)..to;
                    let unread = read.unread_in(&batch).map(|unread| (file, unread));
                    self.append(&entry, bytes.slice(batch), unread, replay)?;
                }
                Entry::Trim { key, .. } if self.deleted.contains(&key.topic) => {}
                Entry::Trim { key, to } => self.trim(key, to, replay)?,
                Entry::DeleteTopic(topic) => replay.topic_deleted(topic),
            }
        }
        if self.gathered_bytes > GATHER_BYTES {
            self.flush_all()?;
        }
        Ok(())
    }

    /// Moves a log start. What lies below was written like everything else: its files go by the checkpoints to come.
    fn trim(&mut self, key: PartitionKey, to: Offset, replay: &mut dyn Replay) -> Result<(), OpenError> {
        let next = self.next.get(&key).copied().unwrap_or(Offset::ZERO);
        if to > next && self.is_empty(key) {
            // Whether there never was a batch or they are lost: what is below is gone, and nothing is to be written before.
            self.next.insert(key, to);
        } else if to > next {
            // It was durable, so the records below it were.
            self.fill_gap(key, next, to, replay)?;
        }
        self.log(key).state().start_at(to);
        Ok(())
    }

    fn is_empty(&self, key: PartitionKey) -> bool {
        let stored = self.logs.get(&key);
        let stored = stored.is_some_and(|log| !log.state().segments.is_empty());
        !stored && !self.gathered.contains_key(&key) && !self.broken.contains(&key)
    }

    fn log(&mut self, key: PartitionKey) -> Arc<LocalLog> {
        let reads = &self.reads;
        let log = self
            .logs
            .entry(key)
            .or_insert_with(|| Arc::new(LocalLog::new(key, DEFAULT_CONFIG, Arc::clone(reads))));
        Arc::clone(log)
    }

    fn append(
        &mut self,
        entry: &AppendEntry,
        bytes: Bytes,
        unread: Option<(&ScannedFile, &Unread)>,
        replay: &mut dyn Replay,
    ) -> Result<(), OpenError> {
        let key = entry.key;
        self.log(key);
        let next = self.next.get(&key).copied().unwrap_or(Offset::ZERO);
        if entry.last < next {
            return Ok(());
        }
        if entry.base > next {
            self.fill_gap(key, next, entry.base, replay)?;
        }
        if crc32c(&bytes) == entry.crc {
            return self.gather(entry, bytes, replay);
        }
        if let Some(copy) = self.copy_in_segment(entry)? {
            return self.gather(entry, copy, replay);
        }
        // What the disk does not give now it may give again: a start that went on would write over it.
        match unread {
            Some((file, unread)) if !self.accepted.has_records(key, entry.base, entry.last) => {
                Err(refused(scan::unread_error(file, unread).to_string()))
            }
            _ => self.lose(key, entry.base, entry.last),
        }
    }

    /// Takes a batch in, to be written with others of its partition.
    fn gather(
        &mut self,
        entry: &AppendEntry,
        bytes: Bytes,
        replay: &mut dyn Replay,
    ) -> Result<(), OpenError> {
        let key = entry.key;
        let header = BatchHeader::parse(&bytes)
            .map_err(|e| refused(format!("a batch of {key} at {}: {e}", entry.base)))?;
        if self.covers.get(&key).is_none_or(|covers| entry.base >= *covers) {
            replay.batch(key, &header, &bytes, entry.append_time);
        }
        self.next.insert(key, entry.last.next());
        self.bytes += bytes.len() as u64;
        self.gathered_bytes += bytes.len();
        let starts_segment = entry.starts_segment || self.broken.contains(&key);
        let gathered = Gathered {
            base: entry.base,
            last: entry.last,
            starts_segment,
            append_time: entry.append_time,
            bytes,
        };
        self.gathered.entry(key).or_default().push(gathered);
        if self.broken.contains(&key) {
            self.flush(key)?;
        }
        Ok(())
    }

    /// Offsets below `to` should be there and no group has them: what the segment itself holds is taken, the rest is lost.
    fn fill_gap(
        &mut self,
        key: PartitionKey,
        from: Offset,
        to: Offset,
        replay: &mut dyn Replay,
    ) -> Result<(), OpenError> {
        let reached = self.adopt(key, from, Some(to), replay)?;
        if reached < to {
            let last = Offset::new(to.get() - 1).unwrap_or(reached);
            self.lose(key, reached, last)?;
        }
        Ok(())
    }

    /// Takes batches from the segment behind its trusted end: they were applied in the last life, from durable groups.
    fn adopt(
        &mut self,
        key: PartitionKey,
        from: Offset,
        to: Option<Offset>,
        replay: &mut dyn Replay,
    ) -> Result<Offset, OpenError> {
        let mut next = from;
        while to.is_none_or(|to| next < to) && !self.broken.contains(&key) {
            self.flush(key)?;
            let Some(log) = self.logs.get(&key).cloned() else {
                break;
            };
            let time = log.state().last_append;
            let fits = |(header, _): &(BatchHeader, Bytes)| {
                header.base_offset == next && to.is_none_or(|to| header.last_offset() < to)
            };
            let disk = &**self.reads.disk();
            let behind = match self.segments.active(&log)? {
                Some(writer) => batch_at(disk, &paths::segment(key, writer.base()), writer.bytes())?,
                None => None,
            };
            let mut found = behind.filter(fits);
            let starts_segment = found.is_none();
            if starts_segment {
                // The group that is lost may have ended the segment: then the next one is named by this offset.
                found = batch_at(disk, &paths::segment(key, next), 0)?.filter(fits);
            }
            let Some((header, bytes)) = found else {
                break;
            };
            let last = header.last_offset();
            let entry = AppendEntry {
                key,
                base: next,
                last,
                starts_segment,
                position: 0,
                length: 0,
                append_time: time,
                crc: 0,
            };
            self.gather(&entry, bytes, replay)?;
            next = last.next();
        }
        Ok(next)
    }

    /// The copy of a batch that the last life wrote into the segment, if it is whole.
    fn copy_in_segment(&mut self, entry: &AppendEntry) -> Result<Option<Bytes>, OpenError> {
        if self.broken.contains(&entry.key) {
            return Ok(None);
        }
        self.flush(entry.key)?;
        let log = self.logs.get(&entry.key).cloned();
        let (base, at) = match log {
            Some(log) if !entry.starts_segment => match self.segments.active(&log)? {
                Some(writer) => (writer.base(), writer.bytes()),
                None => return Ok(None),
            },
            _ => (entry.base, 0),
        };
        let found = batch_at(&**self.reads.disk(), &paths::segment(entry.key, base), at)?;
        Ok(found
            .map(|(_, bytes)| bytes)
            .filter(|bytes| crc32c(bytes) == entry.crc))
    }

    /// Acknowledged offsets that cannot be had any more.
    fn lose(&mut self, key: PartitionKey, first: Offset, last: Offset) -> Result<(), OpenError> {
        if key.topic.is_internal() && !self.accepted.has_records(key, first, last) {
            return Err(refused(format!(
                "records {first} to {last} of {key} are damaged in the journal, and the broker needs them"
            )));
        }
        tracing::error!(event = "data_corrupt", topic = %key.topic, partition = %key.partition, first = %first, last = %last, "acknowledged data is damaged");
        self.flush(key)?;
        if let Some(log) = self.logs.get(&key).filter(|_| !key.topic.is_internal()) {
            log.quarantine(first, last);
        }
        self.next.insert(key, last.next());
        self.broken.insert(key);
        Ok(())
    }

    fn flush(&mut self, key: PartitionKey) -> Result<(), OpenError> {
        let Some(gathered) = self.gathered.remove(&key) else {
            return Ok(());
        };
        let Some(log) = self.logs.get(&key).cloned() else {
            return Ok(());
        };
        let mut batches = gathered.iter().peekable();
        while let Some(first) = batches.peek() {
            if self.broken.remove(&key) {
                self.segments.start_behind_damage(&log, first.base)?;
            } else if first.starts_segment {
                self.segments.start_segment(&log, first.base)?;
            }
            let mut run = Vec::new();
            let (mut end, mut time) = (first.base, first.append_time);
            while let Some(batch) = batches.next_if(|b| run.is_empty() || !b.starts_segment) {
                run.push(RunBatch {
                    base: batch.base,
                    append_time: batch.append_time,
                    bytes: &batch.bytes,
                });
                end = batch.last.next();
                time = time.max(batch.append_time);
                self.gathered_bytes -= batch.bytes.len();
            }
            let memory: Vec<&[u8]> = run.iter().map(|batch| batch.bytes).collect();
            self.segments.append(&log, &run, &memory, end, time)?;
        }
        Ok(())
    }

    fn flush_all(&mut self) -> Result<(), OpenError> {
        let keys: Vec<_> = self.gathered.keys().copied().collect();
        keys.into_iter().try_for_each(|key| self.flush(key))
    }

    /// Fences off every offset that a group given up may have held, so that none is given a second time. Partitions that a later
    /// group names have told where they stood.
    fn give_up(&mut self, replay: &dyn Replay) -> Result<(), OpenError> {
        if self.lost.is_empty() && self.emptied.is_none() {
            return Ok(());
        }
        let mut keys: BTreeSet<_> = self.logs.keys().copied().collect();
        keys.extend(replay.partitions());
        keys.retain(|key| !key.topic.is_internal() && !self.deleted.contains(&key.topic));
        for key in keys {
            let next = self.next.get(&key).copied().unwrap_or(Offset::ZERO);
            let forgotten = self.emptied.as_ref();
            let forgotten =
                forgotten.is_some_and(|emptied| emptied.contains(&key) || replay.is_in_memory(key));
            let end = evidence::end_at_most(next, self.seen.get(&key).copied(), &self.lost);
            let end = if forgotten && next == Offset::ZERO {
                evidence::anywhere()
            } else {
                end
            };
            if let Some(last) = Offset::new(end.get() - 1).filter(|last| *last >= next) {
                self.log(key);
                self.lose(key, next, last)?;
            }
        }
        Ok(())
    }

    /// A snapshot has what the lost end of the journal had: the log goes on behind it. What it covers is not needed, and an end in
    /// front of it would refuse every start to come, for want of the same groups.
    fn go_on_behind_snapshots(&mut self) -> Result<(), OpenError> {
        let covers = self.covers.clone();
        for (key, covers) in covers.into_iter().filter(|(key, _)| key.topic.is_internal()) {
            if self.next.get(&key).is_some_and(|next| *next < covers) {
                self.flush(key)?;
                self.next.insert(key, covers);
                if let Some(log) = self.logs.get(&key).cloned() {
                    log.state().end = covers;
                    self.drop_segments(&log);
                }
            }
        }
        Ok(())
    }

    /// Files of topics that were deleted may be found where no checkpoint says that they were.
    fn forget_unknown(&mut self, replay: &dyn Replay) {
        let known: BTreeSet<TopicId> = replay.partitions().iter().map(|key| key.topic).collect();
        if self.emptied.is_some() && !known.is_empty() {
            let stays = |key: &PartitionKey| key.topic.is_internal() || known.contains(&key.topic);
            self.logs.retain(|key, _| stays(key));
            self.next.retain(|key, _| stays(key));
        }
    }

    /// Writes what is gathered, cuts the files, and tells the logs where they end.
    pub(super) fn finish(
        &mut self,
        found: &Survey,
        report: &mut RecoveryReport,
        replay: &mut dyn Replay,
    ) -> Result<(), OpenError> {
        self.flush_all()?;
        if !found.lost.is_empty() || found.tail.is_some() || self.emptied.is_some() {
            if !found.lost.is_empty() {
                tracing::error!(event = "journal_groups_lost", groups = ?found.lost, "durable journal groups cannot be read");
            }
            let ends: Vec<_> = self.next.iter().map(|(key, next)| (*key, *next)).collect();
            for (key, next) in ends {
                self.adopt(key, next, None, replay)?;
            }
            self.flush_all()?;
            self.go_on_behind_snapshots()?;
            self.give_up(replay)?;
            self.forget_unknown(replay);
        }
        self.segments.cut_all()?;
        for (key, log) in &self.logs {
            let mut state = log.state();
            state.end = self.next.get(key).copied().unwrap_or(Offset::ZERO);
            if let Some(last) = state.segments.last_mut() {
                // What is damaged at its end is not written to any more, not even to cut it.
                last.sealed |= self.broken.contains(key);
            }
            state.active = state.segments.last().and_then(SegmentMeta::as_active);
        }
        for log in self.logs.values() {
            // Not each of them was written to, and few files are open at once.
            self.segments.cut_what_is_left(log)?;
        }
        report.bytes = self.bytes;
        Ok(())
    }
}

impl std::fmt::Debug for Redo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redo")
            .field("partitions", &self.logs.len())
            .finish_non_exhaustive()
    }
}

/// Whether a start needs the segments that a checkpoint names of a partition: those of one of the broker's own, unless its
/// snapshot covers all that they hold. Then nobody reads them any more.
pub(super) fn is_needed(partition: &PartitionCheckpoint) -> bool {
    let covered = partition
        .snapshot
        .as_ref()
        .is_some_and(|(covers, _)| *covers >= partition.end);
    partition.key.topic.is_internal() && !covered
}

/// Whether the bytes of a segment that were durable are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrontState {
    /// All of them, or all but what the checkpoint has a copy of.
    Whole,
    /// Only so many bytes are.
    Short(u64),
    /// There is no file, or an empty one.
    Missing,
}

/// Compares the length of a segment's file with what a checkpoint says.
pub(super) fn front_state(
    disk: &dyn Disk,
    partition: &PartitionCheckpoint,
    segment: &SegmentCheckpoint,
) -> io::Result<FrontState> {
    let found = match disk.open(&paths::segment(partition.key, segment.base), Mode::Buffered) {
        Ok(file) => Some(file.len()?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let needed = match found {
        Some(_) => partial::needed_bytes(partition, segment),
        // Whoever removed a file removed more than a block.
        None => segment.bytes,
    };
    Ok(match found.unwrap_or(0) {
        found if found >= needed => FrontState::Whole,
        0 => FrontState::Missing,
        found => FrontState::Short(found),
    })
}

/// The batch at a position of a segment file, if there is a whole one.
pub(super) fn batch_at(disk: &dyn Disk, path: &str, at: u64) -> io::Result<Option<(BatchHeader, Bytes)>> {
    let file = match disk.open(path, Mode::Buffered) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let Some(head) = read_some(&*file, at, HEADER_BYTES) else {
        return Ok(None);
    };
    let Ok(header) = BatchHeader::parse(&head) else {
        return Ok(None);
    };
    let Ok(total) = usize::try_from(header.total_bytes()) else {
        return Ok(None);
    };
    if header.total_bytes() > file.len()?.saturating_sub(at) {
        return Ok(None);
    }
    let Some(bytes) = read_some(&*file, at, total) else {
        return Ok(None);
    };
    let holds = check_crc(&header, &bytes).is_ok() || planted::is(Bug::SegmentTrusted);
    Ok(holds.then(|| (header, Bytes::from(bytes))))
}

fn read_some(file: &dyn DiskFile, at: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    read_exact_at(file, &mut bytes, at).ok().map(|()| bytes)
}
