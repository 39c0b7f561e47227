//! Writing and reading the checkpoint pair.
//!
//! Order, on which everything rests: segments and directories synced, then the record durable, then journal files used
//! again and deleted topics' files removed.

use std::io;

use super::applier::Applier;
use super::format::checkpoint::{
    CHECKPOINT_BYTES_MAX, Checkpoint, PREFIX_BYTES, PartitionCheckpoint, SegmentCheckpoint, record_bytes,
};
use super::format::{DirectoryId, FormatError};
use super::log::LocalLog;
use super::partial::{self, PARTIAL_BLOCKS_BYTES_MAX};
use super::paths;
use crate::disk::{Disk, DiskFile, Mode, drop_pages, read_exact_at};
use crate::model::{Lsn, Offset, PartitionKey};
use crate::planted::{self, Bug};
use crate::storage::SnapshotSource;

/// The pair of files.
#[derive(Debug)]
pub(super) struct CheckpointFiles {
    /// Of the newest record.
    pub(super) seq: u64,
    /// Which file holds the older record, to be written next.
    next: usize,
}

/// Why a checkpoint file gives no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRecord {
    /// What is there is none.
    #[error(transparent)]
    Invalid(#[from] FormatError),
    /// The disk does not give it, in its words. Another read may, so this says nothing of what stands there.
    #[error("{0}")]
    Unread(String),
}

/// What the two files hold.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) files: [Result<Checkpoint, NoRecord>; 2],
}

impl Pair {
    /// Reads both files; one that is missing or damaged is an error value, never "nothing there".
    pub(super) fn read(disk: &dyn Disk, directory: DirectoryId) -> io::Result<Self> {
        Ok(Self {
            files: [read_one(disk, 0, directory)?, read_one(disk, 1, directory)?],
        })
    }

    /// The newest valid record and the file it is in.
    pub(super) fn newest(&self) -> Option<(usize, &Checkpoint)> {
        let valid = self
            .files
            .iter()
            .enumerate()
            .filter_map(|(i, f)| f.as_ref().ok().map(|c| (i, c)));
        valid.max_by_key(|(_, c)| c.seq)
    }

    /// The file that the disk does not give, and what it says.
    pub(super) fn unread(&self) -> Option<(&'static str, &str)> {
        let files = paths::CHECKPOINTS.into_iter().zip(&self.files);
        let mut unread = files.filter_map(|(path, file)| match file {
            Err(NoRecord::Unread(why)) => Some((path, why.as_str())),
            Ok(_) | Err(NoRecord::Invalid(_)) => None,
        });
        unread.next()
    }
}

fn read_one(
    disk: &dyn Disk,
    which: usize,
    directory: DirectoryId,
) -> io::Result<Result<Checkpoint, NoRecord>> {
    let file = match disk.open(paths::CHECKPOINTS[which], Mode::Buffered) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Err(FormatError::Truncated.into())),
        Err(e) => return Err(e),
    };
    // A sync that failed may have left a record in memory that the disk does not have, as if it had.
    drop_pages(&*file, 0, file.len()?.min(CHECKPOINT_BYTES_MAX as u64));
    Ok(match read_record(&*file) {
        Ok(record) => record
            .and_then(|bytes| Checkpoint::decode(&bytes, directory))
            .map_err(NoRecord::Invalid),
        // A sector that cannot be read concerns this record, not the other.
        Err(error) => Err(NoRecord::Unread(error.to_string())),
    })
}

/// Makes sure that the record from which a start goes on is on the disk, before the other one is written over: a life before may
/// have ended between its write and its sync.
pub(super) fn settle_newest(disk: &dyn Disk, newest_in: usize) -> io::Result<()> {
    match disk.open(paths::CHECKPOINTS[newest_in], Mode::Buffered) {
        Ok(file) => file.sync_data(),
        // One that is made again from the rest has no file yet.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// The bytes of the record at the front of a checkpoint file. How long it is says the record itself, and the file has to have
/// it: the length of the file alone says nothing, nor is what stands behind the record of any use.
pub(super) fn read_record(file: &dyn DiskFile) -> io::Result<Result<Vec<u8>, FormatError>> {
    // A read that fails is tried once more.
    try_read_record(file).or_else(|_| try_read_record(file))
}

fn try_read_record(file: &dyn DiskFile) -> io::Result<Result<Vec<u8>, FormatError>> {
    let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    let mut front = [0; PREFIX_BYTES];
    let front = &mut front[..len.min(PREFIX_BYTES)];
    read_exact_at(file, front, 0)?;
    let bytes = match record_bytes(front) {
        Ok(bytes) if bytes <= len => bytes,
        Ok(_) => return Ok(Err(FormatError::Truncated)),
        Err(error) => return Ok(Err(error)),
    };
    let mut record = vec![0; bytes];
    read_exact_at(file, &mut record, 0)?;
    Ok(Ok(record))
}

impl CheckpointFiles {
    /// Goes on behind the newest record of the pair.
    pub(super) fn new(seq: u64, newest_in: usize) -> Self {
        Self {
            seq,
            next: 1 - newest_in,
        }
    }

    /// Writes a record over the older one. It is durable when this returns.
    pub(super) fn write(
        &mut self,
        disk: &dyn Disk,
        record: &Checkpoint,
        directory: DirectoryId,
    ) -> io::Result<()> {
        let bytes = record.encode(directory);
        if bytes.len() > CHECKPOINT_BYTES_MAX {
            // Nobody would read it again: the record before it is of more use.
            let message = format!("a checkpoint of {} bytes is longer than any may be", bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let path = paths::CHECKPOINTS[self.next];
        let file = match disk.open(path, Mode::Buffered) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let file = disk.create_new(path, Mode::Buffered)?;
                disk.sync_dir("")?;
                file
            }
            other => other?,
        };
        write_record(&*file, &bytes)?;
        self.seq = record.seq;
        self.next = 1 - self.next;
        Ok(())
    }
}

fn write_record(file: &dyn DiskFile, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, 0)?;
    file.sync_data()
}

impl Applier {
    /// Writes a checkpoint of everything applied so far.
    pub(super) fn checkpoint(
        &mut self,
        source: &dyn SnapshotSource,
        clean: bool,
        until_durable: &mut dyn FnMut(Lsn) -> bool,
    ) -> io::Result<()> {
        let mut lsn = self.engine.control().applied;
        if planted::is(Bug::CheckpointAhead) {
            lsn = self.engine.durable_lsn();
        }
        let damage_noted = self.engine.reads.crc_errors();
        let mut partitions = self.describe_partitions(source);
        let retired: Vec<_> = partitions.iter_mut().flat_map(retire).collect();
        if planted::is(Bug::UnlinkedBeforeCheckpoint) {
            self.trash.take_in_segments(&*self.engine.disk, &retired)?;
        }
        // Snapshots were taken from live state: what they cover must be durable before the record is. This includes the
        // deletion of every topic that had no snapshot any more.
        let waits = !planted::is(Bug::SnapshotAheadOfDurability);
        if waits && !until_durable(self.engine.queue.last_submitted()) {
            return Ok(());
        }
        if planted::is(Bug::SnapshotAfterWait) {
            partitions = self.describe_partitions(source);
        }
        // Positions were read above, before the sync: what is written meanwhile is not in the record.
        if !planted::is(Bug::CheckpointBeforeSync) {
            self.segments.sync_all()?;
        }
        let record = Checkpoint {
            seq: self.checkpoints.seq + 1,
            lsn,
            clean_end: clean.then_some(lsn),
            incarnation: self.engine.incarnation,
            partitions,
            deleted: self.deleted.clone(),
        };
        self.checkpoints
            .write(&*self.engine.disk, &record, self.engine.directory)?;
        if planted::is(Bug::CheckpointBeforeSync) {
            self.segments.sync_all()?;
        }
        self.engine.files.checkpointed(record.seq, lsn);
        self.engine.account_journal();
        // Forgotten only when it is done: a full disk may refuse it, and the next checkpoint tries again.
        self.trash.take_in(&*self.engine.disk, &self.deleted)?;
        self.deleted.clear();
        self.forget_retired(retired)?;
        self.changed = false;
        self.trimmed = false;
        self.damage_noted = damage_noted;
        self.last_checkpoint = self.engine.clock.mono();
        Ok(())
    }

    fn describe_partitions(&self, source: &dyn SnapshotSource) -> Vec<PartitionCheckpoint> {
        let logs: Vec<_> = self.engine.logs().values().cloned().collect();
        let mut described: Vec<_> = logs.iter().filter_map(|log| self.describe(log, source)).collect();
        partial::keep_within(&mut described, PARTIAL_BLOCKS_BYTES_MAX);
        described
    }

    fn describe(&self, log: &LocalLog, source: &dyn SnapshotSource) -> Option<PartitionCheckpoint> {
        let key = log.partition();
        let snapshot = source.snapshot(key).map(|s| (s.covers, s.blob));
        let state = log.state();
        let nothing_stored = state.segments.is_empty() && state.quarantined.is_empty();
        // An emptied partition goes on where it ended.
        if nothing_stored && state.log_start == Offset::ZERO && snapshot.is_none() {
            return None;
        }
        let stored = state.segments.last().map_or(state.log_start, |s| s.end);
        // What is damaged behind the last batch had offsets, too, which are not given again.
        let damaged = state.quarantined.last().map_or(stored, |(_, last)| last.next());
        let end = stored.max(damaged);
        let segment = |s: &super::log::SegmentMeta| SegmentCheckpoint {
            base: s.base,
            end: s.end,
            bytes: s.bytes,
            oldest_append: s.oldest_append,
            newest_append: s.newest_append,
            max_timestamp: s.max_timestamp,
            sealed: s.sealed,
        };
        let partial = self.segments.partial(key).unwrap_or_default();
        // What is sealed is not written to again.
        let written_to = state.segments.last().is_some_and(|last| !last.sealed);
        let bytes = partial.bytes.filter(|bytes| written_to && !bytes.is_empty());
        Some(PartitionCheckpoint {
            key,
            log_start: state.log_start,
            end,
            last_append: state.last_append,
            partial_crc: partial.crc,
            partial: bytes,
            segments: state.segments.iter().map(segment).collect(),
            quarantined: state.quarantined.clone(),
            snapshot,
        })
    }
}

/// A segment that no recovery from a record needs, by its partition and its base.
pub(super) type Retired = (PartitionKey, Offset);

/// Takes out of a record what no recovery from it needs: segments below the log start; and of the broker's own partitions,
/// which nobody reads but recovery, those below the snapshot at which it begins. Without this they would grow for ever.
fn retire(partition: &mut PartitionCheckpoint) -> Vec<Retired> {
    let key = partition.key;
    let snapshot = partition.snapshot.as_ref().filter(|_| key.topic.is_internal());
    let needed_from = snapshot.map_or(partition.log_start, |(covers, _)| *covers);
    // The last one is written to, unless it is sealed.
    let written_to = partition.segments.last().is_some_and(|last| !last.sealed);
    let complete = partition.segments.len() - usize::from(written_to);
    let unneeded = partition
        .segments
        .iter()
        .take(complete)
        .take_while(|s| s.end <= needed_from);
    let unneeded = unneeded.count();
    let retired: Vec<_> = partition.segments.drain(..unneeded).collect();
    if let Some(last) = retired.last() {
        partition.log_start = partition.log_start.max(last.end);
    }
    retired.into_iter().map(|s| (key, s.base)).collect()
}

impl Applier {
    /// The record that does without these segments is durable. Their files stay until the next one is: a recovery that has
    /// to take the older record still finds what that names.
    fn forget_retired(&mut self, retired: Vec<Retired>) -> io::Result<()> {
        for (key, base) in &retired {
            let Some(log) = self.engine.logs().get(key).cloned() else {
                continue;
            };
            let mut state = log.state();
            let gone = state.segments.iter().find(|segment| segment.base == *base);
            // Where nothing is left the next record still has to know where the log ended.
            state.log_start = gone.map_or(state.log_start, |gone| gone.end.max(state.log_start));
            state.segments.retain(|segment| segment.base != *base);
            drop(state);
            self.segments.forget_segment(*key, *base);
            self.engine.reads.close(|of| of == *key);
        }
        let before = std::mem::replace(&mut self.retired, retired);
        let taken = self.trash.take_in_segments(&*self.engine.disk, &before);
        if taken.is_err() {
            self.retired.extend(before);
        }
        taken
    }
}

/// The first record of a new directory.
pub(super) fn first_record() -> Checkpoint {
    Checkpoint {
        seq: 1,
        lsn: Lsn::ZERO,
        clean_end: None,
        incarnation: 0,
        partitions: Vec::new(),
        deleted: Vec::new(),
    }
}

/// Writes the first record of a new directory.
pub(super) fn initial(disk: &dyn Disk, directory: DirectoryId) -> io::Result<()> {
    CheckpointFiles::new(0, 1).write(disk, &first_record(), directory)
}
