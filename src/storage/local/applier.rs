//! The applier: moves durable groups from memory into segments, in big pieces, and writes checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::behind;
use super::checkpoint::{CheckpointFiles, Retired};
use super::engine::Engine;
use super::group::{Group, WrittenBatch, key_of};
use super::journal::Round;
use super::log::{LocalLog, SegmentMeta};
use super::partial::{Partial, Partials};
use super::paths;
use super::segment::{LARGE_PIECE_BYTES, PIECE_BYTES, Pieces, RunBatch, SegmentWriter};
use super::trash::Trash;
use crate::disk::{AlignedBuf, huge_pages};
use crate::model::{Lsn, Offset, PartitionKey, Timestamp, TopicId};
use crate::planted::{self, Bug};
use crate::storage::SnapshotSource;

/// Most bytes of groups applied in one round.
const ROUND_BYTES_MAX: u64 = 128 << 20;
/// A round ends when it has so many bytes, and so many for each of its partitions: rounds are short, so that room comes back
/// evenly, unless there are many partitions, whose pieces would be small.
const ROUND_BYTES: u64 = 16 << 20;
const ROUND_PARTITION_BYTES: u64 = 512 << 10;

/// The writer of segments and checkpoints; its one user is the applier thread, recovery, or a simulation.
#[derive(Debug)]
pub(super) struct Applier {
    pub(super) engine: Arc<Engine>,
    pub(super) segments: Segments,
    pub(super) checkpoints: CheckpointFiles,
    pub(super) trash: Trash,
    /// Topics deleted in the groups applied so far whose files are still there.
    pub(super) deleted: Vec<TopicId>,
    /// Log starts moved since the last checkpoint: segments may be waiting for one to go.
    pub(super) trimmed: bool,
    /// Segments that the newest checkpoint does without, and the one before may not.
    pub(super) retired: Vec<Retired>,
    /// Whether anything was applied since the last checkpoint, and when that was.
    pub(super) changed: bool,
    pub(super) last_checkpoint: Duration,
    /// Ranges found damaged by reading of which a checkpoint tells the next life.
    pub(super) damage_noted: u64,
    /// When segments are looked at next whether they are old enough to be closed.
    pub(super) next_look: Duration,
}

/// The open segments of all partitions.
#[derive(Debug)]
pub(super) struct Segments {
    disk: crate::disk::SharedDisk,
    writers: BTreeMap<PartitionKey, (u64, SegmentWriter)>,
    uses: u64,
    writers_max: usize,
    /// The partial last blocks of partitions whose writer is closed.
    partials: Partials,
    known_dirs: BTreeSet<String>,
    dirty_dirs: BTreeSet<String>,
    /// Made for the first batch: an idle broker does without.
    staging: AlignedBuf,
    /// The largest write.
    pub(super) write_bytes_max: usize,
    /// While recovery writes: see [`SegmentWriter::keep_behind`].
    recovering: bool,
}

impl Segments {
    pub(super) fn new(disk: crate::disk::SharedDisk, writers_max: usize) -> Self {
        Self {
            disk,
            writers: BTreeMap::new(),
            uses: 0,
            writers_max: writers_max.max(1),
            partials: Partials::default(),
            known_dirs: BTreeSet::new(),
            dirty_dirs: BTreeSet::new(),
            staging: AlignedBuf::zeroed(0),
            write_bytes_max: PIECE_BYTES,
            recovering: false,
        }
    }

    fn make_dirs(&mut self, key: PartitionKey) -> io::Result<()> {
        let (topic, partition) = (paths::topic(key.topic), paths::partition(key));
        if self.known_dirs.contains(&partition) {
            return Ok(());
        }
        self.disk.mkdir(&topic)?;
        self.disk.mkdir(&partition)?;
        if !planted::is(Bug::TopicDirNotSynced) {
            self.dirty_dirs.extend([paths::TOPICS.to_owned(), topic]);
        }
        self.known_dirs.insert(partition);
        Ok(())
    }

    /// The active segment of a partition, opened if need be; `None` if it has no segment yet.
    pub(super) fn active(&mut self, log: &LocalLog) -> io::Result<Option<&mut SegmentWriter>> {
        let key = log.partition();
        let last = log.state().segments.last().copied();
        let Some(last) = last else { return Ok(None) };
        if self.writers.get(&key).is_none_or(|(_, w)| w.base() != last.base) {
            let writer = SegmentWriter::reopen(&*self.disk, key, last)?;
            self.insert(key, writer)?;
        }
        self.uses += 1;
        let uses = self.uses;
        Ok(self.writers.get_mut(&key).map(|(used, writer)| {
            *used = uses;
            writer
        }))
    }

    /// Writers opened from now on leave what stands behind their end, until [`cut_all`](Self::cut_all).
    pub(super) fn begin_recovery(&mut self) {
        self.recovering = true;
    }

    fn insert(&mut self, key: PartitionKey, mut writer: SegmentWriter) -> io::Result<()> {
        if self.recovering && planted::is(Bug::ReplayTruncatesFirst) {
            writer.cut()?;
        } else if self.recovering {
            writer.keep_behind();
        }
        if self.writers.len() >= self.writers_max && !self.writers.contains_key(&key) {
            let oldest = self
                .writers
                .iter()
                .min_by_key(|(_, (used, _))| *used)
                .map(|(k, _)| *k);
            if let Some(oldest) = oldest
                && let Some((_, writer)) = self.writers.get_mut(&oldest)
            {
                // Closed only when durable: a later sync through another handle could miss an error of this one.
                if self.recovering {
                    writer.sync()?;
                } else if !planted::is(Bug::ClosedUnsynced) {
                    writer.seal()?;
                }
                self.partials.insert(oldest, writer.partial());
                self.writers.remove(&oldest);
            }
        }
        self.uses += 1;
        self.writers.insert(key, (self.uses, writer));
        Ok(())
    }

    /// Ends the active segment, if any, and begins one at `base`.
    pub(super) fn start_segment(&mut self, log: &LocalLog, base: Offset) -> io::Result<()> {
        let sealed = log.state().segments.last().is_some_and(|s| s.sealed);
        if !sealed && let Some(active) = self.active(log)? {
            if active.base() == base && active.bytes() == 0 {
                return Ok(());
            }
            active.seal()?;
        }
        self.start_behind_damage(log, base)
    }

    /// Ends the active segment; nothing follows it yet.
    pub(super) fn seal_active(&mut self, log: &LocalLog) -> io::Result<()> {
        let Some(active) = self.active(log)? else {
            return Ok(());
        };
        active.seal()?;
        let partial = active.partial();
        self.writers.remove(&log.partition());
        self.partials.insert(log.partition(), partial);
        Ok(())
    }

    /// Begins a segment at `base` without looking at the one before.
    pub(super) fn start_behind_damage(&mut self, log: &LocalLog, base: Offset) -> io::Result<()> {
        let key = log.partition();
        self.make_dirs(key)?;
        if let Some((_, before)) = self.writers.get_mut(&key) {
            // Recovery may just have written to it, and nobody syncs a writer that is not there any more.
            before.sync()?;
        }
        let writer = SegmentWriter::create(&*self.disk, key, base)?;
        if !planted::is(Bug::SegmentDirNotSynced) {
            self.dirty_dirs.insert(paths::partition(key));
        }
        self.insert(key, writer)?;
        let mut state = log.state();
        if let Some(before) = state.segments.last_mut() {
            before.sealed = true;
        }
        state.segments.push(SegmentMeta::empty(base));
        Ok(())
    }

    /// Appends a run of batches, whose bytes are all of `memory`, to the active segment and shows them to readers.
    pub(super) fn append(
        &mut self,
        log: &LocalLog,
        run: &[RunBatch<'_>],
        memory: &[&[u8]],
        end: Offset,
        time: Timestamp,
    ) -> io::Result<()> {
        let Some(first) = run.first() else {
            return Ok(());
        };
        let config = log.state().config;
        let mut staging = std::mem::replace(&mut self.staging, AlignedBuf::zeroed(0));
        if staging.is_empty() {
            staging = AlignedBuf::zeroed(LARGE_PIECE_BYTES);
        }
        let write_bytes_max = self.write_bytes_max;
        let appended = match self.active(log)? {
            Some(writer) => {
                let pieces = Pieces {
                    memory,
                    write_bytes_max,
                    staging: &mut staging,
                };
                let interval = u64::from(config.index_interval_bytes);
                let result = writer.append(run, interval, u64::from(config.segment_bytes), pieces);
                result.map(|()| (writer.bytes(), writer.max_timestamp()))
            }
            None => Err(io::Error::other("a batch without a segment to go to")),
        };
        self.staging = staging;
        let (bytes, max_timestamp) = appended?;
        let mut state = log.state();
        if let Some(segment) = state.segments.last_mut() {
            segment.bytes = bytes;
            segment.end = end;
            segment.oldest_append = segment.oldest_append.min(first.append_time);
            segment.newest_append = segment.newest_append.max(time);
            segment.max_timestamp = max_timestamp;
        }
        state.last_append = state.last_append.max(time);
        Ok(())
    }

    /// Cuts every open active segment to its end; what stands behind it is put aside.
    pub(super) fn cut_all(&mut self) -> io::Result<()> {
        self.recovering = false;
        for (key, (_, writer)) in &mut self.writers {
            behind::put_aside(&*self.disk, *key, writer.base(), writer.bytes())?;
            writer.cut()?;
        }
        Ok(())
    }

    /// Cuts the active segment of a partition to its end if anything stands behind that, and puts it aside: what a life applied
    /// whose groups are lost. Its offsets are given again, and if the disk loses the write that replaces it, it would be taken
    /// for that.
    pub(super) fn cut_what_is_left(&mut self, log: &LocalLog) -> io::Result<()> {
        let key = log.partition();
        let last = log.state().segments.last().copied();
        let Some(last) = last.filter(|last| !last.sealed) else {
            return Ok(());
        };
        if !behind::put_aside(&*self.disk, key, last.base, last.bytes)? {
            return Ok(());
        }
        self.active(log)?.map_or(Ok(()), SegmentWriter::cut)
    }

    /// Makes everything written so far durable: files first, then the names of new ones.
    pub(super) fn sync_all(&mut self) -> io::Result<()> {
        let mut dirty: Vec<_> = self.writers.values_mut().map(|(_, writer)| writer).collect();
        dirty.retain(|writer| writer.is_dirty());
        let files: Vec<_> = dirty.iter().flat_map(|writer| writer.files()).collect();
        self.disk.sync_files(&files)?;
        dirty.into_iter().for_each(SegmentWriter::note_synced);
        for dir in std::mem::take(&mut self.dirty_dirs) {
            self.disk.sync_dir(&dir)?;
        }
        Ok(())
    }

    /// The trusted bytes in a partition's last, partial block.
    pub(super) fn partial(&self, key: PartitionKey) -> Option<Partial> {
        let open = self.writers.get(&key).map(|(_, writer)| writer.partial());
        open.or_else(|| self.partials.get(key).cloned())
    }

    pub(super) fn note_partial(&mut self, key: PartitionKey, partial: Partial) {
        self.partials.insert(key, partial);
    }

    /// Closes the file of a segment that is not needed any more.
    pub(super) fn forget_segment(&mut self, key: PartitionKey, base: Offset) {
        if self
            .writers
            .get(&key)
            .is_some_and(|(_, writer)| writer.base() == base)
        {
            self.writers.remove(&key);
            self.partials.remove(key);
        }
    }

    fn forget_topic(&mut self, topic: TopicId) {
        self.writers.retain(|key, _| key.topic != topic);
        self.partials.forget_topic(topic);
        let dir = paths::topic(topic);
        self.known_dirs.retain(|d| !d.starts_with(&dir));
        self.dirty_dirs.retain(|d| !d.starts_with(&dir));
    }
}

/// The batches of one partition in a round, and where new segments begin.
struct Run<'a> {
    log: &'a Arc<LocalLog>,
    batches: Vec<(&'a Group, &'a WrittenBatch)>,
}

/// How many of these groups make a round; at least one if there is one.
fn round_of(groups: &[Arc<Group>]) -> usize {
    let mut partitions = BTreeSet::new();
    let mut bytes = 0;
    for (index, group) in groups.iter().enumerate() {
        bytes += group.blocks.len() as u64;
        partitions.extend(group.appends.iter().map(key_of));
        if bytes >= ROUND_BYTES && bytes / ROUND_PARTITION_BYTES >= partitions.len() as u64 {
            return index + 1;
        }
    }
    groups.len()
}

/// The bytes of a run, in as few pieces as they have in memory. Batches that stand side by side in a group are taken
/// together: a block that two pieces have a part of is whole in the second.
#[derive(Default)]
struct Memory<'a> {
    pieces: Vec<&'a [u8]>,
    open: Option<(&'a Group, usize, usize)>,
}

impl<'a> Memory<'a> {
    fn add(&mut self, group: &'a Group, batch: &WrittenBatch) {
        let (from, to) = (batch.position, batch.position + batch.length);
        self.open = match self.open {
            Some((open, begin, end)) if open.lsn == group.lsn && end == from => Some((open, begin, to)),
            _ => {
                self.close();
                Some((group, from, to))
            }
        };
    }

    fn close(&mut self) {
        if let Some((group, from, to)) = self.open.take() {
            self.pieces.extend(group.blocks.spans(from, to));
        }
    }

    fn finish(mut self) -> Vec<&'a [u8]> {
        self.close();
        self.pieces
    }
}

impl Applier {
    /// Applies what is durable. Full disk: nothing is lost, `Err(StorageFull)`, to be repeated.
    pub(super) fn apply(&mut self) -> io::Result<Round> {
        let applied = self.engine.control().applied;
        let durable = self.engine.durable_lsn();
        let mut groups = self.engine.tail().range(applied, durable, ROUND_BYTES_MAX);
        groups.truncate(round_of(&groups));
        let half = self.engine.settings.memory_tail_bytes / 2;
        self.segments.write_bytes_max = if self.engine.budget.admitted() > half {
            LARGE_PIECE_BYTES
        } else {
            PIECE_BYTES
        };
        let Some(last) = groups.last().map(|g| g.lsn) else {
            return Ok(Round::Idle);
        };
        let mut runs: BTreeMap<PartitionKey, Run<'_>> = BTreeMap::new();
        for group in &groups {
            for batch in &group.appends {
                let run = runs.entry(key_of(batch)).or_insert_with(|| Run {
                    log: &batch.log,
                    batches: Vec::new(),
                });
                run.batches.push((group, batch));
            }
        }
        for run in runs.into_values() {
            self.apply_run(&run).map_err(fatal_if_broken)?;
        }
        for (log, _) in groups.iter().flat_map(|group| &group.trims) {
            self.trimmed |= log.apply_trims(last);
        }
        for group in &groups {
            for topic in &group.deletions {
                self.delete_topic(*topic);
            }
        }
        let granted: u64 = groups.iter().map(|g| g.granted).sum();
        self.applied(last, granted);
        Ok(Round::Worked)
    }

    fn apply_run(&mut self, run: &Run<'_>) -> io::Result<()> {
        // A round that failed half-way is repeated: what was done then is not done again.
        let done = run.log.state().segments.last().map(|s| s.end);
        let mut batches = run
            .batches
            .iter()
            .filter(|(_, b)| done.is_none_or(|end| b.base >= end))
            .peekable();
        while let Some((_, first)) = batches.peek() {
            if first.starts_segment {
                self.segments.start_segment(run.log, first.base)?;
            }
            let mut part = Vec::new();
            let mut memory = Memory::default();
            let (mut end, mut time) = (first.base, first.append_time);
            while let Some((group, batch)) = batches.next_if(|(_, b)| !b.starts_segment || part.is_empty()) {
                part.push(RunBatch {
                    base: batch.base,
                    append_time: batch.append_time,
                    bytes: group.batch_bytes(batch),
                });
                memory.add(group, batch);
                end = batch.last.next();
                time = time.max(batch.append_time);
            }
            self.segments
                .append(run.log, &part, &memory.finish(), end, time)?;
        }
        Ok(())
    }

    fn applied(&mut self, last: Lsn, granted: u64) {
        self.changed = true;
        self.engine.control().applied = last;
        let free = self.engine.disk_room().unwrap_or(0);
        self.engine.budget.applied(granted, free);
        self.engine.evict(last);
    }

    /// Forgets a deleted topic; its files go behind the next checkpoint.
    pub(super) fn delete_topic(&mut self, topic: TopicId) {
        for log in self.engine.logs_of(topic) {
            log.delete();
        }
        self.engine.logs().retain(|key, _| key.topic != topic);
        self.engine.reads.close(|key| key.topic == topic);
        self.segments.forget_topic(topic);
        self.deleted.push(topic);
        self.changed = true;
    }

    /// What the applier thread does when it wakes: apply if it is worth it, checkpoint if it is due. `until_durable`
    /// waits for an LSN and says whether it came.
    pub(super) fn round(
        &mut self,
        asked: &super::engine::Control,
        source: &dyn SnapshotSource,
        until_durable: &mut dyn FnMut(Lsn) -> bool,
    ) -> io::Result<()> {
        self.engine.hold_reserve()?;
        self.engine.refresh_disk_free();
        huge_pages::look(self.engine.clock.mono());
        let everything = asked.apply_asked || asked.checkpoint_asked || asked.stop;
        while self.apply_is_due(everything) {
            self.apply()?;
            if self.checkpoint_is_due(false) {
                self.checkpoint(source, false, until_durable)?;
            }
        }
        self.roll_old_segments()?;
        if self.checkpoint_is_due(asked.checkpoint_asked) {
            self.checkpoint(source, false, until_durable)?;
            if self.engine.files.is_short() {
                // A file is used again only below the record before the newest.
                self.checkpoint(source, false, until_durable)?;
            }
        }
        self.trash.round(&*self.engine.disk)?;
        Ok(())
    }

    fn apply_is_due(&self, everything: bool) -> bool {
        let engine = &self.engine;
        let applied = engine.control().applied;
        if engine.durable_lsn() <= applied {
            return false;
        }
        // What is admitted decides here as it does on waking: counted in any other way, a tail full of small batches, which
        // share blocks of the journal, would wake the applier for nothing again and again.
        let bytes = engine.budget.admitted();
        let oldest = engine.tail().get(applied.next());
        let age = oldest.map_or(Duration::ZERO, |g| engine.clock.mono().saturating_sub(g.written));
        everything || bytes >= engine.settings.apply_bytes || age >= engine.settings.apply_after
    }

    fn checkpoint_is_due(&self, asked: bool) -> bool {
        let applied = self.engine.control().applied;
        let frees_a_file = self.engine.files.oldest_full().is_some_and(|end| end <= applied);
        let old = self.engine.clock.mono().saturating_sub(self.last_checkpoint)
            >= self.engine.settings.checkpoint_every;
        asked
            || self.engine.files.is_short()
            || frees_a_file
            || (old && (self.changed || self.engine.reads.crc_errors() > self.damage_noted))
            || self.trimmed
            || !self.deleted.is_empty()
            // Files go one record later, which can wait, but not for somebody to append, and not if space is what is short.
            || (!self.retired.is_empty() && (old || self.engine.budget.storage_full()))
    }
}

/// A full disk is waited for; everything else is the end.
fn fatal_if_broken(error: io::Error) -> io::Error {
    if planted::is(Bug::EnospcIsFatal) {
        return io::Error::other(error);
    }
    error
}
