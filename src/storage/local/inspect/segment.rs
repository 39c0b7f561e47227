//! Checks the segments of one partition against a checkpoint: every batch by its checksum and its place, the part of its
//! header that the checksum leaves out by the index and by its neighbours, the index by the batches.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::finding::{Effect, Finding, Kind, Report};
use super::index::IndexWalk;
use super::{InspectError, Opened, Watch, open};
use crate::disk::{BLOCK_BYTES, Disk, DiskFile, drop_pages, read_exact_at};
use crate::model::{LeaderEpoch, Offset, PartitionKey, Timestamp};
use crate::record::{BatchHeader, HEADER_BYTES, check_crc, crc32c};
use crate::storage::local::buffers::BufferPool;
use crate::storage::local::format::checkpoint::{PartitionCheckpoint, SegmentCheckpoint};
use crate::storage::local::log::SegmentMeta;
use crate::storage::local::partial::{self, AsPutBack};
use crate::storage::local::paths;
use crate::storage::local::read::{Step, Walk};
use crate::storage::local::redo::{FrontState, front_state, is_needed};

/// Large reads: nobody waits for a single batch.
const PIECE_BYTES: usize = 1 << 20;

/// Checks the segments of a partition. Returns whether the next batch must begin a segment because bytes that were durable
/// are missing.
pub(super) fn check_partition(
    disk: &dyn Disk,
    partition: &PartitionCheckpoint,
    epoch_max: u32,
    report: &mut Report,
    watch: &mut dyn Watch,
) -> Result<bool, InspectError> {
    report.checked.partitions += 1;
    let mut broken = false;
    let mut epochs = Epochs {
        last: LeaderEpoch(i32::MIN),
        max: LeaderEpoch(i32::try_from(epoch_max).unwrap_or(i32::MAX)),
    };
    check_gaps(partition, report);
    let mut last = None;
    for segment in &partition.segments {
        report.checked.segments += 1;
        let state = front_state(disk, partition, segment)?;
        let is_short = report_front(partition, segment, &state, report);
        broken |= is_short;
        last = Some(segment).filter(|_| !is_short);
        let path = paths::segment(partition.key, segment.base);
        let len = match state {
            FrontState::Whole => segment.bytes,
            FrontState::Short(len) => len,
            FrontState::Missing => continue,
        };
        let file = match open(disk, &path)? {
            Opened::File(file) if state == FrontState::Whole => as_started(disk, partition, segment, file)?,
            Opened::File(file) => file,
            Opened::Missing => continue,
            Opened::Failed(e) => {
                report.add(unreadable(partition.key, segment, &path, &e));
                continue;
            }
        };
        let check = SegmentCheck {
            key: partition.key,
            segment,
            path: &path,
            file: &*file,
            len,
            known: &partition.quarantined,
        };
        check.run(disk, &mut epochs, report, watch)?;
        // Whatever is behind: the page cache is not ours to keep.
        let _ = file.drop_cache(0, segment.bytes);
    }
    report_quarantined(partition, report);
    // Of what the broker needs all of it is lost already.
    if !(broken && is_needed(partition))
        && let Some(last) = last
    {
        broken |= check_partial_block(disk, partition, last, report)?;
    }
    Ok(broken)
}

/// Records that snapshots cover are not read by anybody.
fn loss_of(key: PartitionKey) -> Effect {
    if key.topic.is_internal() {
        Effect::Harmless
    } else {
        Effect::Loss
    }
}

fn unreadable(key: PartitionKey, segment: &SegmentCheckpoint, path: &str, error: &io::Error) -> Finding {
    Finding::new(
        Kind::Unreadable,
        loss_of(key),
        path,
        format!("the file cannot be opened: {error}"),
    )
    .of(key)
    .records(segment.base, segment.end)
}

fn report_front(
    partition: &PartitionCheckpoint,
    segment: &SegmentCheckpoint,
    state: &FrontState,
    report: &mut Report,
) -> bool {
    let key = partition.key;
    let path = paths::segment(key, segment.base);
    let effect = if is_needed(partition) {
        Effect::Refusal
    } else {
        loss_of(key)
    };
    match state {
        FrontState::Whole => return false,
        FrontState::Missing => {
            let what = format!("the file is missing; {} bytes were durable", segment.bytes);
            let finding = Finding::new(Kind::SegmentMissing, effect, path, what);
            report.add(finding.of(key).records(segment.base, segment.end));
        }
        FrontState::Short(found) => {
            let what = format!("the file has {found} bytes; {} were durable", segment.bytes);
            let finding = Finding::new(Kind::SegmentShort, effect, path, what);
            // The walk that follows names the records.
            let finding = finding.of(key).at(*found);
            // Of the broker's own all of it is given up, or nothing.
            let whole = key.topic.is_internal();
            report.add(if whole {
                finding.records(segment.base, segment.end)
            } else {
                finding
            });
        }
    }
    true
}

/// Offsets between two segments, or in front of the first, that no segment holds.
fn check_gaps(partition: &PartitionCheckpoint, report: &mut Report) {
    let mut expected = partition.log_start;
    if partition.key.topic.is_internal() {
        // What its snapshot covers goes, whatever the log start says.
        expected = partition.segments.first().map_or(expected, |first| first.base);
    }
    for segment in &partition.segments {
        let (from, to) = (expected, segment.base);
        let last = Offset::new(to.get() - 1).unwrap_or(to);
        if to > from && !is_known(&partition.quarantined, from, last) {
            let path = paths::segment(partition.key, to);
            let what = format!("this segment begins at {to}, and nothing holds the offsets before it");
            let finding = Finding::new(Kind::Offsets, loss_of(partition.key), path, what);
            report.add(finding.of(partition.key).records(from, to));
        }
        expected = expected.max(segment.end);
    }
}

fn is_known(known: &[(Offset, Offset)], first: Offset, last: Offset) -> bool {
    known.iter().any(|(from, to)| *from <= first && last <= *to)
}

/// What the broker has fenced off: it stays lost, whether or not its damaged bytes are still there.
fn report_quarantined(partition: &PartitionCheckpoint, report: &mut Report) {
    let readable = partition
        .quarantined
        .iter()
        .filter(|(_, last)| *last >= partition.log_start);
    for (first, last) in readable {
        let named = report.findings.iter().any(|f| {
            f.partition == Some(partition.key)
                && f.kind == Kind::SegmentBatch
                && f.offsets.is_some_and(|(from, to)| *first <= from && to <= *last)
        });
        if !named {
            let what = "the broker found this damage before and answers with DATA_CORRUPT";
            let file = paths::partition(partition.key);
            let finding = Finding::new(Kind::Quarantined, loss_of(partition.key), file, what);
            report.add(finding.of(partition.key).records(*first, last.next()));
        }
    }
}

/// A start writes a last block that is damaged or missing again from the checkpoint, if that has a copy: what it holds is checked as it will be then.
fn as_started(
    disk: &dyn Disk,
    partition: &PartitionCheckpoint,
    segment: &SegmentCheckpoint,
    file: Box<dyn DiskFile>,
) -> io::Result<Box<dyn DiskFile>> {
    let is_last = partition
        .segments
        .last()
        .is_some_and(|last| last.base == segment.base);
    match &partition.partial {
        Some(bytes) if is_last && partial::in_file(disk, partition)?.is_none() => {
            Ok(Box::new(AsPutBack::new(file, segment.bytes, bytes.clone())))
        }
        _ => Ok(file),
    }
}

/// Returns whether the block is lost.
fn check_partial_block(
    disk: &dyn Disk,
    partition: &PartitionCheckpoint,
    active: &SegmentCheckpoint,
    report: &mut Report,
) -> Result<bool, InspectError> {
    if partial::in_file(disk, partition)?.is_some() {
        return Ok(false);
    }
    let key = partition.key;
    let path = paths::segment(key, active.base);
    let at = active.bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let named = report
        .findings
        .iter()
        .any(|f| f.file == path && matches!(f.kind, Kind::SegmentBatch | Kind::BatchHeader));
    if partition.partial.is_some() {
        let what = "the last block is damaged or missing; the next start writes it again from the checkpoint";
        report.add(
            Finding::new(Kind::PartialBlock, Effect::Harmless, path, what)
                .of(key)
                .at(at),
        );
    } else if is_needed(partition) {
        let what =
            "the last block differs from what the checkpoint says of it, and the broker needs this partition";
        report.add(
            Finding::new(Kind::PartialBlock, Effect::Refusal, path, what)
                .of(key)
                .at(at)
                .records(active.base, active.end),
        );
    } else if !named {
        let what = "the last block differs from what the checkpoint says of it, in bytes that no batch's checksum covers";
        report.add(
            Finding::new(Kind::PartialBlock, Effect::Harmless, path, what)
                .of(key)
                .at(at),
        );
    }
    Ok(partition.partial.is_none())
}

/// Leader epochs ascend along a log, and none is of a broker that there has not been.
struct Epochs {
    last: LeaderEpoch,
    max: LeaderEpoch,
}

impl Epochs {
    fn complaint(&mut self, header: &BatchHeader) -> Option<String> {
        let epoch = header.leader_epoch;
        let last = std::mem::replace(&mut self.last, epoch.min(self.max));
        if epoch > self.max {
            return Some(format!(
                "leader epoch {epoch} is greater than any there was ({})",
                self.max
            ));
        }
        (epoch < last).then(|| format!("leader epoch {epoch} stands behind {last}"))
    }
}

/// One segment file.
struct SegmentCheck<'a> {
    key: PartitionKey,
    segment: &'a SegmentCheckpoint,
    path: &'a str,
    file: &'a dyn DiskFile,
    /// Bytes of batches that are there.
    len: u64,
    /// What is fenced off already.
    known: &'a [(Offset, Offset)],
}

/// What one batch, read by itself, turned out to be.
enum Alone {
    Whole(BatchHeader, Bytes),
    Damaged {
        /// Its length, if its header names one that fits into the segment.
        length: Option<u64>,
        why: String,
    },
}

/// Where the walk stands.
struct Cursor {
    position: u64,
    expected: Offset,
    max_timestamp: Timestamp,
    /// Something was passed over: sums over all batches say nothing any more.
    damaged: bool,
}

impl SegmentCheck<'_> {
    fn run(
        &self,
        disk: &dyn Disk,
        epochs: &mut Epochs,
        report: &mut Report,
        watch: &mut dyn Watch,
    ) -> Result<(), InspectError> {
        let index_path = paths::index(self.key, self.segment.base);
        let index_file = match open(disk, &index_path)? {
            Opened::File(file) => Some(file),
            Opened::Missing => {
                let what = "the file is missing: reading this segment is slow";
                report
                    .add(Finding::new(Kind::Index, Effect::Harmless, index_path.as_str(), what).of(self.key));
                None
            }
            Opened::Failed(e) => {
                let what = format!("the file cannot be opened: {e}");
                report.add(
                    Finding::new(Kind::Unreadable, Effect::Harmless, index_path.as_str(), what).of(self.key),
                );
                None
            }
        };
        let mut index = index_file
            .as_deref()
            .map(|file| IndexWalk::new(file, self.len))
            .transpose()?;
        self.walk(&mut index, &index_path, epochs, report, watch);
        if let Some(index) = index {
            let (good, damaged) = index.finish(self.segment.sealed);
            report.checked.index_entries += good;
            if let Some((at, count)) = damaged {
                let what = format!("{count} entries do not hold; reading passes them over");
                let finding = Finding::new(Kind::Index, Effect::Harmless, index_path, what);
                report.add(finding.of(self.key).at(at));
            }
        }
        if self.segment.sealed && self.file.len()? > self.segment.bytes {
            let what = "bytes stand behind the end of this finished segment; nobody reads them";
            let finding = Finding::new(Kind::SegmentTail, Effect::Note, self.path, what);
            report.add(finding.of(self.key).at(self.segment.bytes));
        }
        Ok(())
    }

    fn walk(
        &self,
        index: &mut Option<IndexWalk<'_>>,
        index_path: &str,
        epochs: &mut Epochs,
        report: &mut Report,
        watch: &mut dyn Watch,
    ) {
        let meta = SegmentMeta {
            bytes: self.len,
            end: self.segment.end,
            ..SegmentMeta::empty(self.segment.base)
        };
        let buffers = Arc::new(BufferPool::new(4 * PIECE_BYTES));
        let mut walk = Walk::new(self.file, &buffers, meta, 0, PIECE_BYTES);
        let mut cursor = Cursor {
            position: 0,
            expected: self.segment.base,
            max_timestamp: Timestamp(i64::MIN),
            damaged: false,
        };
        while cursor.position < self.len {
            let before = cursor.position;
            walk.position = before;
            let found = match walk.step(cursor.expected) {
                Ok(Step::Batch(header, bytes)) if check_crc(&header, &bytes).is_ok() => {
                    Alone::Whole(header, bytes)
                }
                // Read again, by itself and past the cache: a flip in memory, or a bad sector in front, is not its damage.
                _ => {
                    walk.forget_piece();
                    self.alone(before, cursor.expected)
                }
            };
            match found {
                Alone::Whole(header, bytes) => {
                    self.batch(&header, &bytes, &mut cursor, index, index_path, epochs, report);
                }
                Alone::Damaged { length, why } => self.skip(length, why, &mut cursor, index, report),
            }
            watch.more(cursor.position - before);
            report.checked.bytes += cursor.position - before;
        }
        if cursor.expected < self.segment.end {
            let why = format!("the batches end at offset {}", cursor.expected);
            self.damage(cursor.position, cursor.expected, self.segment.end, why, report);
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the places that one batch is compared with"
    )]
    fn batch(
        &self,
        header: &BatchHeader,
        bytes: &[u8],
        cursor: &mut Cursor,
        index: &mut Option<IndexWalk<'_>>,
        index_path: &str,
        epochs: &mut Epochs,
        report: &mut Report,
    ) {
        let complaint = epochs.complaint(header);
        let mut header_damage = None;
        if let Some(index) = index {
            while let Some((at, entry)) = index.peek() {
                let position = u64::from(entry.position);
                if position > cursor.position {
                    break;
                }
                index.advance();
                let outer_fits = bytes
                    .first_chunk::<21>()
                    .is_some_and(|o| crc32c(o) == entry.outer_crc);
                let time_fits = cursor.damaged || entry.max_timestamp_before == cursor.max_timestamp;
                let wrong = if position < cursor.position {
                    "points between two batches"
                } else if entry.base != header.base_offset {
                    "names another offset than the batch that it points to"
                } else if !time_fits {
                    "names another timestamp than the records before it have"
                } else if !outer_fits {
                    header_damage = Some(
                        "the part of the header that the batch's checksum leaves out differs from the index"
                            .to_owned(),
                    );
                    continue;
                } else {
                    continue;
                };
                let what = format!("an entry {wrong}");
                report.add(
                    Finding::new(Kind::Index, Effect::Harmless, index_path, what)
                        .of(self.key)
                        .at(at),
                );
            }
        }
        if let Some(what) = header_damage.or(complaint) {
            let finding = Finding::new(Kind::BatchHeader, Effect::Harmless, self.path, what);
            let end = header.last_offset().next();
            report.add(
                finding
                    .of(self.key)
                    .at(cursor.position)
                    .records(header.base_offset, end),
            );
        }
        report.checked.batches += 1;
        report.checked.records += u64::from(header.count);
        cursor.max_timestamp = cursor.max_timestamp.max(header.max_timestamp);
        cursor.position += bytes.len() as u64;
        cursor.expected = header.last_offset().next();
    }

    /// Passes over what is damaged: to the batch behind it if its length still leads there, else to the next one that the
    /// index knows, else to the end.
    fn skip(
        &self,
        length: Option<u64>,
        why: String,
        cursor: &mut Cursor,
        index: &mut Option<IndexWalk<'_>>,
        report: &mut Report,
    ) {
        let (position, first) = (cursor.position, cursor.expected);
        let (next, expected) = length
            .and_then(|length| self.batch_behind(position + length, first))
            .or_else(|| next_indexed(index.as_mut()?, position, first))
            .unwrap_or((self.len, self.segment.end));
        if let Some(index) = index {
            // What points into the damage cannot be compared with anything.
            while index.peek().is_some_and(|(_, e)| u64::from(e.position) < next) {
                index.advance();
            }
        }
        cursor.position = next;
        cursor.expected = expected;
        cursor.damaged = true;
        self.damage(position, first, expected, why, report);
    }

    fn damage(&self, position: u64, first: Offset, end: Offset, why: String, report: &mut Report) {
        let last = Offset::new(end.get() - 1).unwrap_or(first).max(first);
        // One stretch of damage is one finding.
        if let Some(before) = report.findings.last_mut()
            && before.kind == Kind::SegmentBatch
            && before.file == self.path
            && before.offsets.is_some_and(|(_, to)| to.next() == first)
        {
            before.offsets = before.offsets.map(|(from, _)| (from, last));
            return;
        }
        let why = if is_known(self.known, first, last) {
            format!("{why} (the broker knows: it answers with DATA_CORRUPT)")
        } else {
            why
        };
        let finding = Finding::new(Kind::SegmentBatch, loss_of(self.key), self.path, why);
        report.add(finding.of(self.key).at(position).records(first, end));
    }

    /// Reads one batch by itself, past the page cache.
    fn alone(&self, position: u64, expected: Offset) -> Alone {
        let damaged = |length, why: String| Alone::Damaged { length, why };
        let left = self.len - position;
        let head = match self.read(position, (HEADER_BYTES as u64).min(left)) {
            Ok(head) => head,
            Err(e) => return damaged(None, format!("the disk does not give the bytes: {e}")),
        };
        let header = match BatchHeader::parse(&head) {
            Ok(header) => header,
            Err(e) => return damaged(None, format!("no batch stands here: {e}")),
        };
        let total = header.total_bytes();
        if total > left {
            return damaged(
                None,
                format!("the batch claims {total} bytes, {left} are left in the segment"),
            );
        }
        let bytes = match self.read(position, total) {
            Ok(bytes) => bytes,
            Err(e) => return damaged(Some(total), format!("the disk does not give the bytes: {e}")),
        };
        if let Err(e) = check_crc(&header, &bytes) {
            return damaged(Some(total), e.to_string());
        }
        let base = header.base_offset;
        if base != expected {
            let why = format!("a batch with base offset {base} stands where {expected} should");
            return damaged(Some(total), why);
        }
        if header.last_offset() >= self.segment.end {
            let why = format!("the batch ends at {}, behind the segment", header.last_offset());
            return damaged(Some(total), why);
        }
        Alone::Whole(header, bytes)
    }

    fn read(&self, position: u64, len: u64) -> io::Result<Bytes> {
        drop_pages(self.file, position, len);
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?];
        read_exact_at(self.file, &mut bytes, position)?;
        Ok(Bytes::from(bytes))
    }

    /// Whether a whole batch with a later offset begins here, or the segment ends.
    fn batch_behind(&self, position: u64, first: Offset) -> Option<(u64, Offset)> {
        if position == self.len {
            return Some((position, self.segment.end));
        }
        let left = self.len.checked_sub(position)?;
        let head = self.read(position, (HEADER_BYTES as u64).min(left)).ok()?;
        let header = BatchHeader::parse(&head)
            .ok()
            .filter(|h| h.total_bytes() <= left)?;
        let bytes = self.read(position, header.total_bytes()).ok()?;
        let follows = header.base_offset > first && header.last_offset() < self.segment.end;
        (follows && check_crc(&header, &bytes).is_ok()).then_some((position, header.base_offset))
    }
}

/// The next entry behind a position and an offset.
fn next_indexed(index: &mut IndexWalk<'_>, position: u64, first: Offset) -> Option<(u64, Offset)> {
    loop {
        let (_, entry) = index.peek()?;
        if u64::from(entry.position) > position && entry.base > first {
            return Some((u64::from(entry.position), entry.base));
        }
        index.advance();
    }
}
