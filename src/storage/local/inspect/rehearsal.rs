//! The second pass of recovery without its writes: what a start would take from the journal, what from a second copy in a
//! segment, and which offsets it would have to fence off. Follows [`super::super::redo`] step by step; a test compares them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::finding::{Effect, Finding, Kind, Report};
use crate::disk::Disk;
use crate::model::{Lsn, Offset, PartitionKey, TopicId};
use crate::record::{BatchHeader, crc32c};
use crate::storage::local::format::checkpoint::{Checkpoint, PartitionCheckpoint};
use crate::storage::local::format::journal::{AppendEntry, Entry};
use crate::storage::local::paths;
use crate::storage::local::redo::batch_at;
use crate::storage::local::scan::{self, FoundGroup, ScannedFile};
use crate::storage::local::survey::Survey;

/// What of the broker's own partitions is damaged in the groups above a checkpoint and has no second copy: found before the
/// second pass writes anything, so that a refusal leaves everything as it was.
pub(in crate::storage::local) fn internal_damage(
    disk: &dyn Disk,
    files: &[ScannedFile],
    found: &Survey,
    newest: &Checkpoint,
) -> io::Result<Option<String>> {
    if !found
        .groups
        .iter()
        .any(|g| g.internal_damage && g.lsn > newest.lsn)
    {
        return Ok(None);
    }
    let mut report = Report::new();
    let broken = BTreeSet::new();
    Rehearsal::new(disk, newest, &found.deleted, &broken).run(files, found, newest, &mut report)?;
    let refusal = report.findings.iter().find(|f| f.effect == Effect::Refusal);
    Ok(refusal.map(|finding| {
        let range = finding.offsets.map_or(String::new(), |(first, last)| format!(" {first} to {last}"));
        let of = finding.partition.map_or(String::new(), |key| format!(" of {key}"));
        let at = finding.position.map_or(String::new(), |at| format!(" at {at}"));
        format!(
            "records{range}{of} are damaged in {}{at}, and the broker needs them: {}; put a whole copy of the file in its place",
            finding.file, finding.what
        )
    }))
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
}

/// The pass.
pub(super) struct Rehearsal<'a> {
    disk: &'a dyn Disk,
    deleted: &'a BTreeSet<TopicId>,
    logs: BTreeMap<PartitionKey, Log>,
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
    ) -> Self {
        let log = |p: &PartitionCheckpoint| Log {
            next: p.end,
            log_start: p.log_start,
            active: p.segments.last().map(|s| (s.base, s.bytes)),
            broken: broken.contains(&p.key),
        };
        let kept = newest
            .partitions
            .iter()
            .filter(|p| !deleted.contains(&p.key.topic));
        Self {
            disk,
            deleted,
            logs: kept.map(|p| (p.key, log(p))).collect(),
            now: (String::new(), 0, Lsn::ZERO),
        }
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
            let bytes = scan::read_group(files, group)?;
            self.group(group, &bytes, group.lsn > newest.lsn, report)?;
        }
        if found.lost.iter().any(|(_, last)| *last > newest.lsn) {
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
        bytes: &[u8],
        counts: bool,
        report: &mut Report,
    ) -> io::Result<()> {
        let payload_start = usize::try_from(group.header.payload_start()).unwrap_or(usize::MAX);
        let (front, payload) = bytes.split_at_checked(payload_start).unwrap_or((bytes, &[]));
        for entry in scan::entries_of(front) {
            match entry {
                Ok(Entry::Append(entry)) => {
                    report.checked.group_batches += 1;
                    let from = entry.position as usize;
                    let to = from.saturating_add(entry.length as usize).min(payload.len());
                    let batch = payload.get(from.min(to)..to).unwrap_or_default();
                    if !counts {
                        self.look(&entry, batch, report);
                    } else if !self.deleted.contains(&entry.key.topic) {
                        self.append(&entry, batch, report)?;
                    }
                }
                Ok(Entry::Trim { key, to }) if counts && !self.deleted.contains(&key.topic) => {
                    self.trim(key, to, report)?;
                }
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
        })
    }

    fn trim(&mut self, key: PartitionKey, to: Offset, report: &mut Report) -> io::Result<()> {
        if to > self.log(key).next {
            self.fill_gap(key, to, report)?;
        }
        let log = self.log(key);
        log.log_start = log.log_start.max(to);
        Ok(())
    }

    fn append(&mut self, entry: &AppendEntry, batch: &[u8], report: &mut Report) -> io::Result<()> {
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
        if whole {
            if let Err(e) = BatchHeader::parse(batch) {
                report.add(self.batch_finding(entry, Effect::Refusal, &format!("this is no batch: {e}")));
            }
            self.gather(key, entry, u64::from(entry.length));
        } else if self.has_copy(entry)? {
            let what =
                "the checksum does not fit; the segment holds a whole copy, which the next start takes";
            report.add(self.batch_finding(entry, Effect::Harmless, what));
            self.gather(key, entry, u64::from(entry.length));
        } else {
            let what = "the checksum does not fit, and no segment holds a copy";
            report.add(self.batch_finding(entry, loss_of(key), what));
            self.lose(key, entry.last.next());
        }
        Ok(())
    }

    fn gather(&mut self, key: PartitionKey, entry: &AppendEntry, length: u64) {
        let log = self.log(key);
        let starts = entry.starts_segment || std::mem::take(&mut log.broken) || log.active.is_none();
        let (base, at) = log.active.filter(|_| !starts).unwrap_or((entry.base, 0));
        log.active = Some((base, at + length));
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
        let disk = self.disk;
        let log = self.log(key);
        while to.is_none_or(|to| log.next < to) && !log.broken {
            let Some((base, at)) = log.active else { break };
            let Some((header, bytes)) = batch_at(disk, &paths::segment(key, base), at)? else {
                break;
            };
            let fits = header.base_offset == log.next && to.is_none_or(|to| header.last_offset() < to);
            if !fits {
                break;
            }
            log.active = Some((base, at + bytes.len() as u64));
            log.next = header.last_offset().next();
        }
        Ok(())
    }

    /// Whether the last life wrote the same batch into the segment.
    fn has_copy(&mut self, entry: &AppendEntry) -> io::Result<bool> {
        let disk = self.disk;
        let log = self.log(entry.key);
        if log.broken {
            return Ok(false);
        }
        let (base, at) = match log.active {
            Some(active) if !entry.starts_segment => active,
            None if !entry.starts_segment => return Ok(false),
            _ => (entry.base, 0),
        };
        let found = batch_at(disk, &paths::segment(entry.key, base), at)?;
        Ok(found.is_some_and(|(_, bytes)| crc32c(&bytes) == entry.crc))
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
