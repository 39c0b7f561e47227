//! `naru log dump`: what a file of a data directory holds.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::failure::{Exit, Failure, Outcome};
use super::log::{cannot_read, hold};
use super::offset_range::{Begin, OffsetRange, Until};
use super::output::Format;
use super::record_format::{self, Located, RecordFormat};
use super::record_output::write_readable;
use super::{Context, record_json};
use crate::disk::Disk;
use crate::disk::real::RealDisk;
use crate::model::{Offset, PartitionId, Timestamp};
use crate::record::{BatchHeader, Codec, DECOMPRESSED_BYTES_MAX, Records, uncompressed};
use crate::storage::local::FileKind;
use crate::storage::local::format::checkpoint::{Checkpoint, PartitionCheckpoint};
use crate::storage::local::format::index::IndexEntry;
use crate::storage::local::format::journal::{AppendEntry, FileHeader, GroupHeader};
use crate::storage::local::format::{DirectoryId, FormatError};
use crate::storage::local::inspect::FORMAT_FILE;
use crate::storage::local::inspect::dump::{DumpError, Item, dump};
use crate::telemetry::rfc3339_millis;

/// The data directory is at most so many levels above a file of it.
const LEVELS_MAX: usize = 4;

/// Arguments of `log dump`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru log dump ./data/topics/ID/0/00000000000000000000.log
  naru log dump ./data/topics/ID/0/00000000000000000000.log --records -o 100:200
  naru log dump ./data/journal/00000000.journal --format json
  naru log dump ./data

A directory shows its files. A segment shows its batches, an index its entries, a journal file its groups with their entries, a
checkpoint its partitions; --records shows the records instead, without a broker. Topics have their ids here, not their names.
JSON is one object per line, with --format json, too. Nothing is written. Files of a running broker need --live.
Exit code 7 if something in a file is damaged; `naru log verify DIR` says what that means.")]
pub(crate) struct DumpArgs {
    /// Segments, indexes, journal files, checkpoints, or a data directory.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Show the records of batches.
    #[arg(long)]
    records: bool,
    /// Only what touches these offsets: N (from N on), A:B (from A up to and without B), :B.
    #[arg(short, long, value_name = "OFFSETS", value_parser = parse_offsets)]
    offset: Option<Wanted>,
    /// How a record is written; letters as in `naru consume`.
    #[arg(short = 'f', long, value_name = "FORMAT", requires = "records")]
    record_format: Option<String>,
    /// Look at files that a running broker writes: their ends may be half written.
    #[arg(long)]
    live: bool,
}

/// Offsets from one up to another, which is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    from: Offset,
    end: Option<Offset>,
}

impl Wanted {
    fn touches(self, first: Offset, last: Offset) -> bool {
        last >= self.from && self.end.is_none_or(|end| first < end)
    }
}

fn parse_offsets(text: &str) -> Result<Wanted, String> {
    let expected = || format!("{text:?}: expected N, A:B or :B with offsets");
    let from_front = text.strip_prefix(':').map(|end| format!("0:{end}"));
    let range: OffsetRange = from_front
        .as_deref()
        .unwrap_or(text)
        .parse()
        .map_err(|_| expected())?;
    let from = match range.begin {
        Begin::Start => Offset::ZERO,
        Begin::At(offset) => offset,
        Begin::End | Begin::AfterStart(_) | Begin::BeforeEnd(_) | Begin::Time(_) => return Err(expected()),
    };
    let end = match range.until {
        Until::Forever | Until::End => None,
        Until::Offset(end) => Some(end),
        Until::Time(_) => return Err(expected()),
    };
    Ok(Wanted { from, end })
}

/// How records are written.
enum Style {
    Json,
    Readable,
    Format(RecordFormat),
}

impl Style {
    fn new(args: &DumpArgs, context: &Context) -> Result<Self, Failure> {
        match (args.record_format.as_deref(), context.output.format) {
            (Some(record_format::JSON), _) => Ok(Self::Json),
            (Some(format), _) => RecordFormat::parse(format).map(Self::Format),
            (None, Format::Table) => Ok(Self::Readable),
            (None, Format::Json | Format::Ndjson | Format::Csv) => Ok(Self::Json),
        }
    }
}

pub(super) fn run(args: &DumpArgs, context: &Context) -> Outcome {
    let style = Style::new(args, context)?;
    let mut damaged = 0;
    for path in &args.paths {
        let meta = path.metadata().map_err(|e| cannot_read(path, &e))?;
        let root = data_directory(path);
        let _lock = match root.filter(|_| !args.live) {
            Some(root) => hold(&root).map_err(|f| f.hint("stop the broker first, or say --live"))?,
            None => None,
        };
        let mut printer = Printer::new(args, &style, context, path);
        let shown = if meta.is_dir() {
            printer.directory(path)
        } else {
            printer.file(path)
        };
        printer.out.flush()?;
        shown.map_err(|error| match error {
            DumpError::Output(error) => error.into(),
            DumpError::Read(error) => cannot_read(path, &error).into(),
            error @ (DumpError::Unknown | DumpError::Format { .. }) => {
                super::Stopped::from(unreadable(path, &error))
            }
        })?;
        damaged += printer.damaged;
    }
    if damaged == 0 {
        return Ok(());
    }
    let message = format!("{damaged} things are not as they should be");
    Err(Failure::new(Exit::Partial, "DAMAGED", message)
        .hint("`naru log verify DIR` says what it means")
        .into())
}

fn unreadable(path: &Path, error: &DumpError) -> Failure {
    Failure::new(
        Exit::Partial,
        "NOT_READABLE",
        format!("{}: {error}", path.display()),
    )
}

/// The data directory that a file belongs to, or that the path is.
fn data_directory(path: &Path) -> Option<PathBuf> {
    let full = path.canonicalize().ok()?;
    let mut levels = full.ancestors().take(LEVELS_MAX + 1);
    levels
        .find(|dir| dir.join(FORMAT_FILE).is_file())
        .map(Path::to_owned)
}

struct Printer<'a> {
    args: &'a DumpArgs,
    style: &'a Style,
    scratch: Vec<u8>,
    readable: bool,
    colours: bool,
    out: BufWriter<io::StdoutLock<'static>>,
    /// Of a segment, by its path.
    topic: String,
    partition: PartitionId,
    number: u64,
    damaged: u64,
}

impl<'a> Printer<'a> {
    fn new(args: &'a DumpArgs, style: &'a Style, context: &Context, path: &Path) -> Self {
        let name_above = |levels: usize| {
            let above = path.ancestors().nth(levels).and_then(Path::file_name);
            above.map_or("-".to_owned(), |name| name.to_string_lossy().into_owned())
        };
        Self {
            args,
            style,
            scratch: Vec::new(),
            readable: context.output.format == Format::Table,
            colours: context.output.colours,
            out: BufWriter::new(io::stdout().lock()),
            topic: name_above(2),
            partition: PartitionId(name_above(1).parse().unwrap_or_default()),
            number: 0,
            damaged: 0,
        }
    }

    fn file(&mut self, path: &Path) -> Result<(), DumpError> {
        let (dir, name) = match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
            (Some(dir), Some(name)) if dir.as_os_str().is_empty() => (Path::new("."), name),
            (Some(dir), Some(name)) => (dir, name),
            _ => return Err(DumpError::Unknown),
        };
        let disk = RealDisk::open_read_only(dir).map_err(DumpError::Read)?;
        dump(&disk, name, &mut |item| self.item(&item))
    }

    /// The files of a data directory.
    fn directory(&mut self, root: &Path) -> Result<(), DumpError> {
        let disk = RealDisk::open_read_only(root).map_err(DumpError::Read)?;
        let mut open = vec![String::new()];
        while let Some(dir) = open.pop() {
            let mut inner = Vec::new();
            for entry in disk.list(&dir).map_err(DumpError::Read)? {
                let path = if dir.is_empty() {
                    entry.name
                } else {
                    format!("{dir}/{}", entry.name)
                };
                if entry.is_dir {
                    inner.push(path);
                    continue;
                }
                let bytes = root
                    .join(&path)
                    .symlink_metadata()
                    .map_err(DumpError::Read)?
                    .len();
                let kind = kind_name(FileKind::of(&path));
                let value = json!({"type": "file", "kind": kind, "file": path, "bytes": bytes});
                let text = format!("{kind:10}  {bytes:>12}  {path}");
                self.put(&value, &text).map_err(DumpError::Output)?;
            }
            open.extend(inner.into_iter().rev());
        }
        Ok(())
    }

    fn put(&mut self, value: &Value, text: &str) -> io::Result<()> {
        if self.readable {
            writeln!(self.out, "{text}")
        } else {
            writeln!(self.out, "{value}")
        }
    }

    fn wants(&self, first: Offset, last: Offset) -> bool {
        self.args.offset.is_none_or(|wanted| wanted.touches(first, last))
    }

    fn item(&mut self, item: &Item) -> io::Result<()> {
        self.damaged += u64::from(item.is_damaged());
        match item {
            Item::Batch {
                header,
                bytes,
                damage,
                ..
            } => {
                if !self.wants(header.base_offset, header.last_offset()) {
                    return Ok(());
                }
                if self.args.records && damage.is_none() {
                    return self.records(header, bytes);
                }
            }
            Item::Append {
                entry, bytes, whole, ..
            } => {
                if !self.wants(entry.base, entry.last) {
                    return Ok(());
                }
                if self.args.records
                    && *whole
                    && let Ok(header) = BatchHeader::parse(bytes)
                {
                    self.topic = entry.key.topic.to_string();
                    self.partition = entry.key.partition;
                    return self.records(&header, bytes);
                }
            }
            Item::Index { entry: Ok(entry), .. } if !self.wants(entry.base, entry.base) => return Ok(()),
            _ if self.args.records && !item.is_damaged() => return Ok(()),
            Item::Zeros { .. }
            | Item::Garbage { .. }
            | Item::Index { .. }
            | Item::JournalHeader { .. }
            | Item::Group { .. }
            | Item::Deletion { .. }
            | Item::Trim { .. }
            | Item::Checkpoint { .. } => {}
        }
        let value = to_json(item);
        let text = if self.readable {
            to_text(item)
        } else {
            String::new()
        };
        self.put(&value, &text)
    }

    fn records(&mut self, header: &BatchHeader, bytes: &bytes::Bytes) -> io::Result<()> {
        let walked = match uncompressed(header, bytes, DECOMPRESSED_BYTES_MAX) {
            Err(e) => Err(e),
            Ok((plain, bytes)) => {
                let mut walk = Records::new(&plain, &bytes);
                loop {
                    match walk.next() {
                        None => break Ok(()),
                        Some(Err(e)) => break Err(e),
                        Some(Ok(view)) if self.wants(view.offset, view.offset) => {
                            let record = view.to_record(&bytes);
                            self.record(view.offset, &record)?;
                        }
                        Some(Ok(_)) => {}
                    }
                }
            }
        };
        if let Err(e) = walked {
            self.damaged += 1;
            let base = header.base_offset;
            let value = json!({"type": "garbage", "base_offset": base.get(), "what": e.to_string()});
            return self.put(
                &value,
                &format!("garbage  the records of the batch at offset {base}: {e}"),
            );
        }
        Ok(())
    }

    fn record(&mut self, offset: Offset, record: &crate::record::Record) -> io::Result<()> {
        self.number += 1;
        let located = Located {
            topic: &self.topic,
            partition: self.partition,
            offset,
            record,
            number: self.number,
        };
        match self.style {
            Style::Json => record_json::write(&mut self.out, &located),
            Style::Readable => write_readable(&mut self.out, &located, self.colours),
            Style::Format(format) => {
                self.scratch.clear();
                let fits = format.write(&mut self.scratch, &located);
                // What does not fit its width would be misread: better said than written.
                fits.map_err(|e| {
                    io::Error::new(io::ErrorKind::InvalidData, format!("offset {offset}: {e}"))
                })?;
                self.out.write_all(&self.scratch)
            }
        }
    }
}

const fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Journal => "journal",
        FileKind::Segment => "segment",
        FileKind::Index => "index",
        FileKind::Checkpoint => "checkpoint",
        FileKind::Other => "other",
    }
}

fn codec_name(header: &BatchHeader) -> String {
    Codec::of(header).map_or("unknown".to_owned(), |codec| codec.name().to_owned())
}

fn to_json(item: &Item) -> Value {
    match item {
        Item::Batch {
            position,
            header: h,
            bytes,
            damage,
        } => json!({
            "type": "batch", "position": position, "bytes": bytes.len(), "base_offset": h.base_offset.get(),
            "last_offset": h.last_offset().get(), "records": h.count, "codec": codec_name(h), "leader_epoch": h.leader_epoch.0,
            "attributes": h.attributes, "base_timestamp": h.base_timestamp.0, "max_timestamp": h.max_timestamp.0,
            "producer_id": h.producer.map(|(id, ..)| id.0), "producer_epoch": h.producer.map(|(_, epoch, _)| epoch.0),
            "base_sequence": h.producer.map(|(.., sequence)| sequence.0), "crc": format!("{:08x}", h.crc),
            "ok": damage.is_none(), "what": damage,
        }),
        Item::Zeros { position, bytes } => json!({"type": "zeros", "position": position, "bytes": bytes}),
        Item::Garbage { position, bytes, why } => {
            json!({"type": "garbage", "position": position, "bytes": bytes, "what": why})
        }
        Item::Index { position, entry } => match entry {
            Ok(e) => json!({
                "type": "index_entry", "position": position, "ok": true, "base_offset": e.base.get(),
                "segment_position": e.position, "append_time": e.append_time.0,
                "max_timestamp_before": e.max_timestamp_before.0, "outer_crc": format!("{:08x}", e.outer_crc),
            }),
            Err(e) => {
                json!({"type": "index_entry", "position": position, "ok": false, "what": e.to_string()})
            }
        },
        Item::JournalHeader { position, header } => match header {
            Ok(h) => json!({
                "type": "journal_header", "position": position, "ok": true, "file_bytes": h.file_bytes,
                "generation": h.generation, "first_lsn": h.first_lsn.0, "checkpoint_sequence": h.checkpoint_seq,
                "checkpoint_lsn": h.checkpoint_lsn.0, "incarnation": h.incarnation,
            }),
            Err(e) => {
                json!({"type": "journal_header", "position": position, "ok": false, "what": e.to_string()})
            }
        },
        Item::Group { position, header: h } => json!({
            "type": "group", "position": position, "lsn": h.lsn.0, "bytes": h.total_bytes(), "entries": h.entries,
            "payload_bytes": h.payload_bytes, "incarnation": h.incarnation, "written": h.written.0,
            "previous_hash": format!("{:016x}", h.previous),
        }),
        Item::Append {
            position,
            lsn,
            entry: e,
            whole,
            ..
        } => json!({
            "type": "append", "position": position, "lsn": lsn.0, "topic_id": e.key.topic.to_string(),
            "partition": e.key.partition.0, "base_offset": e.base.get(), "last_offset": e.last.get(), "bytes": e.length,
            "starts_segment": e.starts_segment, "append_time": e.append_time.0, "crc": format!("{:08x}", e.crc), "ok": whole,
        }),
        Item::Deletion { lsn, topic } => {
            json!({"type": "delete_topic", "lsn": lsn.0, "topic_id": topic.to_string()})
        }
        Item::Trim { lsn, key, to } => json!({
            "type": "trim", "lsn": lsn.0, "topic_id": key.topic.to_string(), "partition": key.partition.0,
            "log_start": to.get(),
        }),
        Item::Checkpoint { directory, record: r } => json!({
            "type": "checkpoint", "directory_id": uuid::Uuid::from_bytes(*directory).to_string(), "sequence": r.seq,
            "lsn": r.lsn.0, "clean_end_lsn": r.clean_end.map(|end| end.0), "incarnation": r.incarnation,
            "deleted_topics": r.deleted.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "partitions": r.partitions.iter().map(partition_json).collect::<Vec<_>>(),
        }),
    }
}

fn partition_json(p: &PartitionCheckpoint) -> Value {
    let segments = p.segments.iter().map(|s| {
        json!({
            "base_offset": s.base.get(), "end_offset": s.end.get(), "bytes": s.bytes, "sealed": s.sealed,
            "oldest_append": s.oldest_append.0, "newest_append": s.newest_append.0, "max_timestamp": s.max_timestamp.0,
        })
    });
    let quarantined = p
        .quarantined
        .iter()
        .map(|(first, last)| json!([first.get(), last.get()]));
    json!({
        "topic_id": p.key.topic.to_string(), "partition": p.key.partition.0, "log_start": p.log_start.get(),
        "end": p.end.get(), "segments": segments.collect::<Vec<_>>(), "quarantined": quarantined.collect::<Vec<_>>(),
        "snapshot_bytes": p.snapshot.as_ref().map(|(_, blob)| blob.len()),
        "snapshot_covers": p.snapshot.as_ref().map(|(covers, _)| covers.get()),
    })
}

fn time(at: Timestamp) -> String {
    rfc3339_millis(at)
}

fn to_text(item: &Item) -> String {
    match item {
        Item::Batch {
            position,
            header,
            bytes,
            damage,
        } => batch_text(*position, header, bytes.len(), damage.as_deref()),
        Item::Zeros { position, bytes } => {
            format!("zeros  at {position}  {bytes} bytes to the end, not written yet")
        }
        Item::Garbage { position, bytes, why } => {
            format!("garbage  at {position}  {bytes} bytes  DAMAGED: {why}")
        }
        Item::Index { position, entry } => index_text(*position, entry),
        Item::JournalHeader { position, header } => header_text(*position, header),
        Item::Group { position, header } => group_text(*position, header),
        Item::Append {
            position,
            entry,
            whole,
            ..
        } => append_text(*position, entry, *whole),
        Item::Deletion { topic, .. } => format!("  delete  topic {topic}"),
        Item::Trim { key, to, .. } => format!("  trim  {key}  to offset {to}"),
        Item::Checkpoint { directory, record } => checkpoint_text(*directory, record),
    }
}

fn batch_text(position: u64, h: &BatchHeader, bytes: usize, damage: Option<&str>) -> String {
    let producer = h.producer.map_or(String::new(), |(id, epoch, sequence)| {
        format!("  producer {id}/{epoch} sequence {sequence}")
    });
    let state = damage.map_or(String::new(), |why| format!("  DAMAGED: {why}"));
    format!(
        "batch  at {position}  offsets {} to {}  {} records  {bytes} bytes  {}  epoch {}  {}{producer}{state}",
        h.base_offset,
        h.last_offset(),
        h.count,
        codec_name(h),
        h.leader_epoch,
        time(h.max_timestamp)
    )
}

fn index_text(position: u64, entry: &Result<IndexEntry, FormatError>) -> String {
    match entry {
        Ok(e) => format!(
            "entry  at {position}  offset {}  stands at {} of the segment  {}",
            e.base,
            e.position,
            time(e.append_time)
        ),
        Err(e) => format!("entry  at {position}  DAMAGED: {e}"),
    }
}

fn header_text(position: u64, header: &Result<FileHeader, FormatError>) -> String {
    match header {
        Ok(h) => format!(
            "header  at {position}  generation {}  from group {}  checkpoint {} (group {})  incarnation {}  {} bytes",
            h.generation, h.first_lsn, h.checkpoint_seq, h.checkpoint_lsn, h.incarnation, h.file_bytes
        ),
        Err(e) => format!("header  at {position}  DAMAGED: {e}"),
    }
}

fn group_text(position: u64, h: &GroupHeader) -> String {
    format!(
        "group  at {position}  LSN {}  {} entries  {} bytes  incarnation {}  {}",
        h.lsn,
        h.entries,
        h.total_bytes(),
        h.incarnation,
        time(h.written)
    )
}

fn append_text(position: u64, e: &AppendEntry, whole: bool) -> String {
    let state = if whole {
        ""
    } else {
        "  DAMAGED: the checksum does not fit"
    };
    let starts = if e.starts_segment {
        "  starts a segment"
    } else {
        ""
    };
    format!(
        "  append  at {position}  {}  offsets {} to {}  {} bytes{starts}{state}",
        e.key, e.base, e.last, e.length
    )
}

fn checkpoint_text(directory: DirectoryId, r: &Checkpoint) -> String {
    let end = r
        .clean_end
        .map_or(String::new(), |end| format!("  clean stop at group {end}"));
    let mut text = format!(
        "checkpoint  {}  up to group {}{end}  incarnation {}  directory {}",
        r.seq,
        r.lsn,
        r.incarnation,
        uuid::Uuid::from_bytes(directory)
    );
    for p in &r.partitions {
        text.push_str(&format!(
            "\n  partition  {}  offsets {} up to {}",
            p.key, p.log_start, p.end
        ));
        for s in &p.segments {
            let state = if s.sealed { "  sealed" } else { "" };
            text.push_str(&format!(
                "\n    segment  {} up to {}  {} bytes{state}",
                s.base, s.end, s.bytes
            ));
        }
        for (first, last) in &p.quarantined {
            text.push_str(&format!("\n    quarantined  {first} to {last}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_numbers_or_ranges_of_them() {
        let wanted = |from, end: Option<i64>| Wanted {
            from: Offset::new(from).unwrap(),
            end: end.map(|end| Offset::new(end).unwrap()),
        };
        assert_eq!(parse_offsets("7"), Ok(wanted(7, None)));
        assert_eq!(parse_offsets("7:9"), Ok(wanted(7, Some(9))));
        assert_eq!(parse_offsets(":9"), Ok(wanted(0, Some(9))));
        for bad in ["-3", "@-1h", "x", "", "1:@2026-01-01"] {
            assert!(parse_offsets(bad).is_err(), "{bad}");
        }
        let at = |n| Offset::new(n).unwrap();
        assert!(wanted(7, Some(9)).touches(at(0), at(7)) && !wanted(7, Some(9)).touches(at(9), at(12)));
    }
}
