//! The second pass of recovery without its writes: what a start would take from the journal, what from a second copy in a
//! segment, which offsets it would have to fence off, and what the state above the engine would be told. Follows
//! [`super::super::redo`] step by step; a test compares them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;

use super::finding::{Effect, Finding, Kind, Report};
use crate::disk::Disk;
use crate::model::{Lsn, Offset, PartitionKey, Timestamp, TopicId};
use crate::record::{BatchHeader, crc32c};
use crate::storage::local::format::checkpoint::{Checkpoint, PartitionCheckpoint};
use crate::storage::local::format::journal::{AppendEntry, Entry};
use crate::storage::local::paths;
use crate::storage::local::redo::batch_at;
use crate::storage::local::salvage::evidence::{self, Lost};
use crate::storage::local::salvage::{Accepted, Way};
use crate::storage::local::scan::{self, BEFORE_GIVING_UP, FoundGroup, GroupBytes, ScannedFile, Unread};
use crate::storage::local::survey::Survey;
use crate::storage::{Replay, Snapshot};

/// What of the broker's own partitions is damaged in the groups above a checkpoint, or of any the disk does not give, and has no
/// second copy: found before the second pass writes anything, so that a refusal leaves everything as it was. Of users' batches
/// that is what the first pass has met: it reads in pieces from header to header, and where a group reaches out of the piece
/// with its header, the second pass is the first to read the rest, and refuses late.
pub(in crate::storage::local) fn damage_that_refuses(
    disk: &dyn Disk,
    files: &[ScannedFile],
    found: &Survey,
    newest: &Checkpoint,
    accepted: &Accepted,
) -> io::Result<Option<String>> {
    let internal = |g: &FoundGroup| g.internal_damage && g.lsn > newest.lsn;
    if !found.unread_inside && !found.groups.iter().any(internal) {
        return Ok(None);
    }
    let mut report = Report::new();
    let broken = BTreeSet::new();
    Rehearsal::new(disk, newest, &found.deleted, &broken, &mut Nobody).run(
        files,
        found,
        newest,
        &mut report,
    )?;
    let given_up = |finding: &Finding| {
        let records = finding.partition.zip(finding.offsets);
        records.is_some_and(|(key, (first, last))| accepted.has_records(key, first, last))
    };
    let refusal = report
        .findings
        .iter()
        .find(|f| f.effect == Effect::Refusal && !given_up(f));
    Ok(refusal.map(|finding| {
        if finding.kind == Kind::Unreadable {
            return finding.what.clone();
        }
        let range = finding.offsets.map_or(String::new(), |(first, last)| format!(" {first} to {last}"));
        let of = finding.partition.map_or(String::new(), |key| format!(" of {key}"));
        let at = finding.position.map_or(String::new(), |at| format!(" at {at}"));
        format!(
            "records{range}{of} are damaged in {}{at}, and the broker needs them: {}; put a whole copy of the file in its place",
            finding.file, finding.what
        )
    }))
}

/// Listens to a rehearsal of which only the findings matter.
pub(super) struct Nobody;

impl Replay for Nobody {
    fn snapshot(&mut self, _key: PartitionKey, _snapshot: Snapshot) {}

    fn batch(&mut self, _key: PartitionKey, _header: &BatchHeader, _batch: &[u8], _append_time: Timestamp) {}

    fn topic_deleted(&mut self, _topic: TopicId) {}

    fn replayed_snapshot(&self, _key: PartitionKey) -> Option<Snapshot> {
        None
    }
}

/// One partition as the pass sees it.
#[derive(Debug)]
struct Log {
    /// Next offset.
    next: Offset,
    log_start: Offset,
    /// The segment that the next batch goes to, and where in it.
    active: Option<(Offset, u64)>,
    /// The next batch begins a segment, because what is before it is damaged.
    broken: bool,
    /// The snapshot has what is below.
    covers: Offset,
    /// The last group with a batch of it, which says where it stood.
    seen: Option<Lsn>,
}

/// The pass.
pub(super) struct Rehearsal<'a> {
    disk: &'a dyn Disk,
    deleted: &'a BTreeSet<TopicId>,
    logs: BTreeMap<PartitionKey, Log>,
    replay: &'a mut dyn Replay,
    /// Partitions whose end the checkpoint alone told, if that was made again.
    emptied: Option<BTreeSet<PartitionKey>>,
    /// The group that is gone through: its file, its position, its number.
    now: (String, u64, Lsn),
}

impl<'a> Rehearsal<'a> {
    /// Begins at a checkpoint. `broken` are the partitions that are missing durable bytes.
    pub(super) fn new(
        disk: &'a dyn Disk,
        newest: &Checkpoint,
        deleted: &'a BTreeSet<TopicId>,
        broken: &BTreeSet<PartitionKey>,
        replay: &'a mut dyn Replay,
    ) -> Self {
        let log = |p: &PartitionCheckpoint| Log {
            next: p.end,
            log_start: p.log_start,
            active: p.segments.last().map(|s| (s.base, s.bytes)),
            broken: broken.contains(&p.key),
            covers: p.snapshot.as_ref().map_or(Offset::ZERO, |(covers, _)| *covers),
            seen: None,
        };
        let kept = newest
            .partitions
            .iter()
            .filter(|p| !deleted.contains(&p.key.topic));
        let mut logs = BTreeMap::new();
        for partition in kept {
            logs.insert(partition.key, log(partition));
            if let Some((covers, blob)) = &partition.snapshot {
                let (covers, blob) = (*covers, blob.clone());
                replay.snapshot(partition.key, Snapshot { covers, blob });
            }
        }
        Self {
            disk,
            deleted,
            logs,
            replay,
            emptied: None,
            now: (String::new(), 0, Lsn::ZERO),
        }
    }

    /// Goes on by a record that was made again.
    pub(super) fn without_checkpoint(&mut self, emptied: BTreeSet<PartitionKey>) {
        self.emptied = Some(emptied);
    }

    /// Behind [`run`](Self::run): the offsets that lost groups may have held, of partitions that nothing behind them names. They
    /// are what giving these groups up costs beside what the findings say.
    pub(super) fn at_stake(&mut self, lost: &[Lost]) -> Vec<(PartitionKey, Offset, Offset)> {
        let mut keys: BTreeSet<_> = self.logs.keys().copied().collect();
        keys.extend(self.replay.partitions());
        keys.retain(|key| !key.topic.is_internal() && !self.deleted.contains(&key.topic));
        let of_key = |key: PartitionKey| {
            let log = self.log(key);
            let (next, seen) = (log.next, log.seen);
            let forgotten = self.emptied.as_ref();
            let forgotten =
                forgotten.is_some_and(|emptied| emptied.contains(&key) || self.replay.is_in_memory(key));
            let end = if forgotten && next == Offset::ZERO {
                evidence::anywhere()
            } else {
                evidence::end_at_most(next, seen, lost)
            };
            let last = Offset::new(end.get() - 1).filter(|last| *last >= next)?;
            Some((key, next, last))
        };
        keys.into_iter().filter_map(of_key).collect()
    }

    /// Partitions that there are, with the first offset that stays.
    pub(super) fn log_starts(&self) -> BTreeMap<PartitionKey, Offset> {
        self.logs.iter().map(|(key, log)| (*key, log.log_start)).collect()
    }

    /// Goes through all groups above the checkpoint, and looks at those that only the record before it needs.
    pub(super) fn run(
        &mut self,
        files: &[ScannedFile],
        found: &Survey,
        newest: &Checkpoint,
        report: &mut Report,
    ) -> io::Result<()> {
        for group in &found.groups {
            self.now = (
                paths::journal(files[group.file].number),
                group.position,
                group.lsn,
            );
            report.checked.groups += 1;
            report.start.groups += u64::from(group.lsn > newest.lsn);
            report.start.written = report.start.written.max(Some(group.header.written));
            let read = scan::read_group(files, group)?;
            self.group(group, &read, group.lsn > newest.lsn, report)?;
        }
        let lost = found.lost.iter().any(|(_, last)| *last > newest.lsn);
        if lost || found.tail.is_some() || self.emptied.is_some() {
            let keys: Vec<_> = self.logs.keys().copied().collect();
            for key in keys {
                self.adopt(key, None)?;
            }
        }
        Ok(())
    }

    fn group(
        &mut self,
        group: &FoundGroup,
        read: &GroupBytes,
        counts: bool,
        report: &mut Report,
    ) -> io::Result<()> {
        let bytes = &read.bytes[..];
        if let Some(unread) = read.unread_front(&group.header).filter(|_| counts) {
            // It could be read a moment ago.
            report.add(self.not_given(unread));
            return Ok(());
        }
        let payload_start = usize::try_from(group.header.payload_start()).unwrap_or(usize::MAX);
        let (front, payload) = bytes.split_at_checked(payload_start).unwrap_or((bytes, &[]));
        for entry in scan::entries_of(front) {
            match entry {
                Ok(Entry::Append(entry)) => {
                    report.checked.group_batches += 1;
                    let from = entry.position as usize;
                    let to = from.saturating_add(entry.length as usize).min(payload.len());
                    let batch = payload.get(from.min(to)..to).unwrap_or_default();
                    let unread = read.unread_in(&(payload_start + from.min(to)..payload_start + to));
                    if !counts {
                        self.look(&entry, batch, report);
                    } else if !self.deleted.contains(&entry.key.topic) {
                        self.log(entry.key).seen = Some(group.lsn);
                        self.append(&entry, batch, unread, report)?;
                    }
                }
                Ok(Entry::Trim { key, to }) if counts && !self.deleted.contains(&key.topic) => {
                    self.trim(key, to, report)?;
                }
                Ok(Entry::DeleteTopic(topic)) if counts => self.replay.topic_deleted(topic),
                Ok(Entry::Trim { .. } | Entry::DeleteTopic(_)) => {}
                Err(e) => {
                    let effect = if counts { Effect::Refusal } else { Effect::Harmless };
                    let what = format!("an entry of the group's table cannot be understood: {e}");
                    report.add(self.finding(effect, what));
                }
            }
        }
        Ok(())
    }

    fn finding(&self, effect: Effect, what: impl Into<String>) -> Finding {
        let (file, position, lsn) = &self.now;
        Finding::new(Kind::JournalBatch, effect, file.as_str(), what)
            .at(*position)
            .groups(*lsn, *lsn)
    }

    /// What a start does not go on without: the disk may give it again.
    fn not_given(&self, unread: &Unread) -> Finding {
        let (file, _, lsn) = &self.now;
        let what = format!(
            "{}, and group {lsn} stands there: {BEFORE_GIVING_UP}",
            unread.told_of(file)
        );
        Finding::new(Kind::Unreadable, Effect::Refusal, file.as_str(), what)
            .at(unread.at)
            .groups(*lsn, *lsn)
    }

    fn batch_finding(&self, entry: &AppendEntry, effect: Effect, what: &str) -> Finding {
        self.finding(effect, what)
            .of(entry.key)
            .records(entry.base, entry.last.next())
    }

    /// A batch that is in a synced segment: its copy here is of use only if the newest checkpoint is lost.
    fn look(&self, entry: &AppendEntry, batch: &[u8], report: &mut Report) {
        if crc32c(batch) != entry.crc {
            let what =
                "the checksum does not fit; the batch is in its segment, too, by the newest checkpoint";
            report.add(self.batch_finding(entry, Effect::Harmless, what));
        }
    }

    fn log(&mut self, key: PartitionKey) -> &mut Log {
        self.logs.entry(key).or_insert(Log {
            next: Offset::ZERO,
            log_start: Offset::ZERO,
            active: None,
            broken: false,
            covers: Offset::ZERO,
            seen: None,
        })
    }

    fn trim(&mut self, key: PartitionKey, to: Offset, report: &mut Report) -> io::Result<()> {
        let log = self.log(key);
        if to > log.next && log.active.is_none() && !log.broken {
            // Whether there never was a batch, as in memory, or they are lost: what is below is gone.
            log.next = to;
        } else if to > log.next {
            self.fill_gap(key, to, report)?;
        }
        let log = self.log(key);
        log.log_start = log.log_start.max(to);
        Ok(())
    }

    fn append(
        &mut self,
        entry: &AppendEntry,
        batch: &[u8],
        unread: Option<&Unread>,
        report: &mut Report,
    ) -> io::Result<()> {
        let key = entry.key;
        let whole = crc32c(batch) == entry.crc;
        let next = self.log(key).next;
        if entry.last < next {
            if !whole {
                self.look(entry, batch, report);
            }
            return Ok(());
        }
        if entry.base > next {
            self.fill_gap(key, entry.base, report)?;
        }
        let copy;
        let batch = if whole {
            batch
        } else if let Some(bytes) = self.copy_of(entry)? {
            let what =
                "the checksum does not fit; the segment holds a whole copy, which the next start takes";
            report.add(self.batch_finding(entry, Effect::Harmless, what));
            copy = bytes;
            &copy
        } else {
            let (first, last) = (entry.base, entry.last);
            report.add(match unread {
                Some(unread) => self
                    .not_given(unread)
                    .of(key)
                    .records(first, last.next())
                    .past(Way::Records { key, first, last }),
                None => {
                    let what = "the checksum does not fit, and no segment holds a copy";
                    self.batch_finding(entry, loss_of(key), what)
                }
            });
            self.lose(key, entry.last.next());
            return Ok(());
        };
        match BatchHeader::parse(batch) {
            Ok(header) => self.tell(key, &header, batch, entry.append_time),
            Err(e) => {
                report.add(self.batch_finding(entry, Effect::Refusal, &format!("this is no batch: {e}")));
            }
        }
        report.start.bytes += u64::from(entry.length);
        self.gather(entry);
        Ok(())
    }

    /// Tells the state above the engine of a batch that its snapshot does not have.
    fn tell(&mut self, key: PartitionKey, header: &BatchHeader, batch: &[u8], append_time: Timestamp) {
        if header.base_offset >= self.log(key).covers {
            self.replay.batch(key, header, batch, append_time);
        }
    }

    fn gather(&mut self, entry: &AppendEntry) {
        let log = self.log(entry.key);
        let starts = entry.starts_segment || std::mem::take(&mut log.broken) || log.active.is_none();
        let (base, at) = log.active.filter(|_| !starts).unwrap_or((entry.base, 0));
        log.active = Some((base, at + u64::from(entry.length)));
        log.broken = false;
        log.next = entry.last.next();
    }

    fn lose(&mut self, key: PartitionKey, next: Offset) {
        let log = self.log(key);
        log.next = next;
        log.broken = true;
    }

    /// Offsets that should be there and that no group has: what the segment holds is taken, the rest is lost.
    fn fill_gap(&mut self, key: PartitionKey, to: Offset, report: &mut Report) -> io::Result<()> {
        self.adopt(key, Some(to))?;
        let reached = self.log(key).next;
        if reached < to {
            let (file, position, lsn) = self.now.clone();
            let what =
                format!("group {lsn} goes on at offset {to}, and no group holds the offsets before it");
            let finding = Finding::new(Kind::Offsets, loss_of(key), file, what).at(position);
            report.add(finding.of(key).records(reached, to));
            self.lose(key, to);
        }
        Ok(())
    }

    /// Takes batches from the segment behind what is known of it.
    fn adopt(&mut self, key: PartitionKey, to: Option<Offset>) -> io::Result<()> {
        loop {
            let log = self.log(key);
            let (next, active) = (log.next, log.active);
            if log.broken || to.is_some_and(|to| next >= to) {
                return Ok(());
            }
            let fits = |(header, _): &(BatchHeader, Bytes)| {
                header.base_offset == next && to.is_none_or(|to| header.last_offset() < to)
            };
            // The group that is lost may have ended the segment: then the next one is named by this offset.
            let mut found = None;
            for (base, at) in active.into_iter().chain([(next, 0)]) {
                let batch = batch_at(self.disk, &paths::segment(key, base), at)?.filter(fits);
                if let Some(batch) = batch {
                    found = Some((base, at, batch));
                    break;
                }
            }
            let Some((base, at, (header, bytes))) = found else {
                return Ok(());
            };
            self.tell(key, &header, &bytes, Timestamp::default());
            let log = self.log(key);
            log.active = Some((base, at + bytes.len() as u64));
            log.next = header.last_offset().next();
        }
    }

    /// The same batch as the last life wrote it into the segment, if it is whole.
    fn copy_of(&mut self, entry: &AppendEntry) -> io::Result<Option<Bytes>> {
        let disk = self.disk;
        let log = self.log(entry.key);
        if log.broken {
            return Ok(None);
        }
        let (base, at) = match log.active {
            Some(active) if !entry.starts_segment => active,
            None if !entry.starts_segment => return Ok(None),
            _ => (entry.base, 0),
        };
        let found = batch_at(disk, &paths::segment(entry.key, base), at)?;
        Ok(found
            .map(|(_, bytes)| bytes)
            .filter(|bytes| crc32c(bytes) == entry.crc))
    }
}

/// The broker cannot do without its own partitions.
fn loss_of(key: PartitionKey) -> Effect {
    if key.topic.is_internal() {
        Effect::Refusal
    } else {
        Effect::Loss
    }
}
