//! `naru consume`: records of a topic, from all of its partitions at once.

use std::io::{self, BufWriter, StdoutLock, Write};

use clap::Args;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Context;
use super::consume_group::Place;
use super::consume_member;
use super::failure::{Exit, Failure, Outcome, Stopped};
use super::new_partitions::NewPartitions;
use super::offset_range::OffsetRange;
use super::output::Format;
use super::ranges::Range;
use super::record_format::{self, DoesNotFit, Located, RecordFormat};
use super::record_json;
use super::record_output::write_readable;
use super::session::connect;
use super::signals::Interruption;
use super::skipped::Skipped;
use crate::client::{Client, ConsumedBatch, Error, OffsetSpec, PartitionReader, Start};
use crate::model::{Offset, PartitionId, TopicId};

/// Batches that wait to be written; a slow output stops the readers, and they the broker.
const BATCHES_WAITING: usize = 4;

const EXAMPLES: &str = "Examples:
  naru consume orders -o start --exit-at-end -f '%v\\n'
  naru consume orders -o end
  naru consume orders -p 0 -o 1200 -n 10 -f json
  naru consume orders -o -10
  naru consume orders -o @-15m
  naru consume orders -o @2026-11-25:2026-11-26 -f '%d{rfc3339} %v\\n'
  naru consume orders -g billing -o start
  naru consume orders -o start --exit-at-end -f json | naru produce copy -f json";

const OFFSETS: &str = "\
With -g the command is a member of the group: commands with one group share the partitions out, and when one ends the others \
go on where it was. It commits what it has printed: after the output was flushed, when there is nothing more to print, at least \
once a second, when a partition goes to another member, and at the end. So each record is printed at least once; what was \
printed right before a kill is printed again. There -o says where to begin where nothing was committed, or where what comes \
next is gone; without it that is an error. --exit-at-end ends when the group has printed everything up to there. With -p the \
command takes the partitions itself, which is refused while the group has members.

Partitions that the topic gets meanwhile are read from their beginning, within some seconds; not with -p, with an end, or \
from an offset that is named.

Offsets, of each partition: start, end, N, +N (N behind the start), -N (the last N), A:B (from A up to and without B; waits \
for B), :end (up to the high watermark that holds when the command starts), @TIME (from the first record that is not older), \
@T1:T2 (up to the first that is not older than T2). TIME: RFC 3339 (2026-11-25T09:30:00Z), a date (midnight UTC), 10-digit \
seconds, 13-digit milliseconds, or a signed duration (-15m). Producers choose times and may go back with them: between two \
times there may be records of other times.";

/// Help in full.
fn help() -> String {
    format!(
        "{EXAMPLES}

{OFFSETS}

Without -f: readable on a terminal, JSON lines in a pipe and with --format json.

{}

{}
A format in which every field has an end, as in '%k\\t%v\\n' or '%K{{big32}}%k%V{{big32}}%v', is read again by 'naru produce -f' with \
the same format; so are JSON lines.",
        record_format::help(record_format::Reader::Consume),
        record_json::HELP,
    )
}

/// Flags of `consume`.
#[derive(Debug, Args)]
#[command(
    after_help = format!("{EXAMPLES}\n\nGroups, offsets and the record format language: naru consume --help"),
    after_long_help = help()
)]
pub(crate) struct ConsumeArgs {
    /// Topic to read.
    pub(super) topic: String,
    /// What to read of each partition: start, end, N, +N, -N, A:B, :end, @TIME, @T1:T2 [default: start].
    #[arg(short, long, value_name = "OFFSETS", allow_hyphen_values = true)]
    pub(super) offset: Option<OffsetRange>,
    /// Go on where this group has committed, and commit what was printed.
    #[arg(short, long, value_name = "GROUP")]
    group: Option<String>,
    /// End at the high watermarks that hold when the command starts.
    #[arg(long)]
    pub(super) exit_at_end: bool,
    /// End after so many records.
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(super) count: Option<u64>,
    /// Only these partitions.
    #[arg(short, long, value_name = "N", value_delimiter = ',')]
    pub(super) partitions: Vec<u32>,
    /// Go on behind damaged records, with a warning; exit code 7 at the end if there were any.
    #[arg(long)]
    pub(super) skip_corrupt: bool,
    /// How a record is written: a record format, or json for JSON lines.
    #[arg(short = 'f', long, value_name = "FORMAT")]
    record_format: Option<String>,
}

pub(crate) async fn run(args: ConsumeArgs, context: &Context) -> Outcome {
    let style = Style::new(&args, context)?;
    if let Some(group) = args.group.as_deref().filter(|_| args.partitions.is_empty()) {
        return consume_member::run(&args, group, style, context).await;
    }
    let mut interruption = Interruption::new();
    let client = interruption.or(connect(context)).await?;
    let Plan {
        ranges,
        mut place,
        new_partitions,
    } = interruption.or(plan(&client, &args)).await?;
    let mut printer = Printer::new(&args, style);
    if args.count == Some(0) {
        return Ok(());
    }
    let mut reading = Reading::new(&client, &args);
    interruption.or(reading.add(ranges)).await?;
    if new_partitions.is_none() {
        reading.adds_no_more();
    }
    let printing = print_all(reading, &mut printer, place.as_mut(), new_partitions);
    let printed = interruption.or(printing).await;
    if matches!(printed, Err(Stopped::Told(_))) {
        settle(&mut printer, place.as_mut()).await?;
    }
    printed
}

/// Prints until there is nothing more to print. Dropped while it waits, it has printed whole batches.
async fn print_all(
    mut reading: Reading<'_>,
    printer: &mut Printer<'_>,
    mut place: Option<&mut Place>,
    mut new_partitions: Option<NewPartitions>,
) -> Outcome {
    let topic = reading.topic;
    let mut skipped = Skipped::default();
    loop {
        if let Some(new_partitions) = &mut new_partitions {
            let more = new_partitions.look().await;
            reading.add(begin(&more)).await?;
        }
        let received = match reading.batches.try_recv() {
            Ok(received) => Some(received),
            // Whoever reads the output sees everything while there is nothing more to come.
            Err(_) => {
                settle(printer, place.as_deref_mut()).await?;
                match &new_partitions {
                    None => reading.batches.recv().await,
                    Some(new_partitions) => {
                        let next = reading.batches.recv();
                        match tokio::time::timeout(new_partitions.wait(), next).await {
                            Ok(received) => received,
                            Err(_) => continue,
                        }
                    }
                }
            }
        };
        let Some((partition, result)) = received else {
            break;
        };
        let (batch, end) = match result {
            Ok(Found::Batch(batch, end)) => (batch, end),
            Ok(Found::Damage(first, last)) => {
                skipped.pass_over(topic, partition, (first, last));
                if let Some(place) = place.as_deref_mut() {
                    place.printed(partition, last.next());
                }
                continue;
            }
            Err(error) => {
                settle(printer, place.as_deref_mut()).await?;
                return Err(failed(topic, partition, error));
            }
        };
        let printed = match printer.print(partition, &batch, end) {
            Ok(printed) => printed,
            Err(stopped) => {
                printer.flush()?;
                return Err(stopped);
            }
        };
        if let Some(place) = place.as_deref_mut() {
            place.printed(partition, printed.next);
            if place.is_due() {
                settle(printer, Some(place)).await?;
            }
        }
        if printed.was_all {
            break;
        }
    }
    settle(printer, place).await?;
    skipped.outcome()
}

/// Flushes the output, then commits: in the other order a kill in between would lose what was not flushed.
async fn settle(printer: &mut Printer<'_>, place: Option<&mut Place>) -> Outcome {
    printer.flush()?;
    match place {
        Some(place) => place.commit().await,
        None => Ok(()),
    }
}

/// Partitions that the topic got while it was read: what is in them is newer than the command.
fn begin(partitions: &[u32]) -> Vec<Range> {
    let range = |partition: &u32| Range {
        partition: PartitionId(*partition),
        start: Start::Earliest,
        end: None,
    };
    partitions.iter().map(range).collect()
}

/// The readers, and where what they read comes together.
struct Reading<'a> {
    client: &'a Client,
    topic: &'a str,
    on_damage: OnDamage,
    /// `None`: no reader is added any more.
    sender: Option<mpsc::Sender<Received>>,
    batches: mpsc::Receiver<Received>,
    readers: JoinSet<()>,
}

impl<'a> Reading<'a> {
    fn new(client: &'a Client, args: &'a ConsumeArgs) -> Self {
        let (sender, batches) = mpsc::channel(BATCHES_WAITING);
        Self {
            client,
            topic: &args.topic,
            on_damage: if args.skip_corrupt {
                OnDamage::PassOver
            } else {
                OnDamage::End
            },
            sender: Some(sender),
            batches,
            readers: JoinSet::new(),
        }
    }

    async fn add(&mut self, ranges: Vec<Range>) -> Outcome {
        for range in ranges {
            let reader = self
                .client
                .reader(self.topic, range.partition.0, range.start)
                .build()
                .await?;
            if let Some(sender) = &self.sender {
                self.readers
                    .spawn(read(reader, range, self.on_damage, sender.clone()));
            }
        }
        Ok(())
    }

    /// From now on the channel ends when the last reader has.
    fn adds_no_more(&mut self) {
        self.sender = None;
    }
}

/// What there is to read, where the group is if there is one, and whether there may be more.
struct Plan {
    ranges: Vec<Range>,
    place: Option<Place>,
    new_partitions: Option<NewPartitions>,
}

async fn plan(client: &Client, args: &ConsumeArgs) -> Result<Plan, Stopped> {
    let (topic_id, partitions) = partitions_of(client, args).await?;
    let known = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
    let new_partitions = NewPartitions::of(client, args, topic_id, known);
    let (ranges, place) = ranges(client, args, (topic_id, partitions)).await?;
    Ok(Plan {
        ranges,
        place,
        new_partitions,
    })
}

/// Partitions with nothing to read are left out.
async fn ranges(
    client: &Client,
    args: &ConsumeArgs,
    (topic_id, partitions): (TopicId, Vec<u32>),
) -> Result<(Vec<Range>, Option<Place>), Stopped> {
    let Some(group) = &args.group else {
        let range = args.offset.unwrap_or(OffsetRange::FROM_START);
        let ranges =
            super::ranges::resolve(client, &args.topic, &partitions, range, args.exit_at_end).await?;
        return Ok((ranges, None));
    };
    let topic = (args.topic.as_str(), topic_id);
    let (place, points) = Place::find(client, group, topic, &partitions, args.offset).await?;
    let starts = points.iter().map(|point| Range {
        partition: point.partition,
        start: Start::Offset(point.offset),
        end: None,
    });
    if !args.exit_at_end {
        return Ok((starts.collect(), Some(place)));
    }
    let latest = client
        .list_offsets(&args.topic, &partitions, OffsetSpec::Latest)
        .await?;
    let mut ranges = Vec::new();
    for (range, (point, end)) in starts.zip(points.iter().zip(latest)) {
        let end = end?;
        if point.offset < end {
            ranges.push(Range {
                end: Some(end),
                ..range
            });
        }
    }
    Ok((ranges, Some(place)))
}

/// Id of the topic, and its partitions that are wanted.
async fn partitions_of(client: &Client, args: &ConsumeArgs) -> Result<(TopicId, Vec<u32>), Stopped> {
    let topic = client.describe_topic(&args.topic).await?;
    let count = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
    if args.partitions.is_empty() {
        return Ok((topic.topic_id, (0..count).collect()));
    }
    let mut partitions = args.partitions.clone();
    partitions.sort_unstable();
    partitions.dedup();
    match partitions.iter().find(|partition| **partition >= count) {
        None => Ok((topic.topic_id, partitions)),
        Some(partition) => {
            let message = format!("topic '{}' has no partition {partition}", args.topic);
            Err(
                Failure::new(Exit::NotFound, "UNKNOWN_TOPIC_OR_PARTITION", message)
                    .hint(format!("its partitions are 0 to {}", count.saturating_sub(1)))
                    .into(),
            )
        }
    }
}

type Received = (PartitionId, Result<Found, Error>);

/// What comes next of a partition.
enum Found {
    /// A batch, and where to end in it.
    Batch(ConsumedBatch, Option<Offset>),
    /// First and last offset of what cannot be read and is passed over.
    Damage(Offset, Offset),
}

/// What damage is to a reader.
#[derive(Clone, Copy)]
enum OnDamage {
    End,
    PassOver,
}

/// Reads one partition to its end, or until an error or nobody listens.
async fn read(mut reader: PartitionReader, range: Range, on_damage: OnDamage, out: mpsc::Sender<Received>) {
    while range.end.is_none_or(|end| reader.position() < end) {
        let Some(result) = reader.next_batch().await else {
            return;
        };
        let found = match (result, on_damage) {
            (Ok(batch), _) => Ok(Found::Batch(batch, range.end)),
            (Err(error), OnDamage::End) => Err(error),
            (Err(error), OnDamage::PassOver) => match error.damaged_offsets() {
                Some((first, last)) => {
                    reader.seek(last.next());
                    Ok(Found::Damage(first, last))
                }
                None => Err(error),
            },
        };
        let ended = found.is_err();
        if out.send((range.partition, found)).await.is_err() || ended {
            return;
        }
    }
}

pub(super) fn failed(topic: &str, partition: PartitionId, error: Error) -> Stopped {
    let Some((first, last)) = error.damaged_offsets() else {
        return error.into();
    };
    let message = format!("{topic}/{partition}: offsets {first} to {last} are damaged and cannot be read");
    Failure::new(Exit::Partial, "DATA_CORRUPT", message)
        .hint(format!(
            "what follows can be read: -p {partition} -o {}; --skip-corrupt goes on behind all that is damaged",
            last.next()
        ))
        .into()
}

fn does_not_fit(located: &Located<'_>, error: &DoesNotFit) -> Failure {
    let place = format!("{}/{} @{}", located.topic, located.partition, located.offset);
    Failure::new(Exit::Partial, "DOES_NOT_FIT", format!("{place}: {error}")).hint(format!(
        "nothing of this record was written; take a greater width, and go on with -p {} -o {}",
        located.partition, located.offset
    ))
}

/// How records are written.
pub(super) enum Style {
    Custom(RecordFormat),
    Readable { colours: bool },
    Json,
}

impl Style {
    fn new(args: &ConsumeArgs, context: &Context) -> Result<Self, Failure> {
        match (args.record_format.as_deref(), context.output.format) {
            (Some(record_format::JSON), _) | (None, Format::Json | Format::Ndjson) => Ok(Self::Json),
            (Some(text), _) => RecordFormat::parse(text).map(Self::Custom),
            (None, Format::Table) => Ok(Self::Readable {
                colours: context.output.colours,
            }),
            (None, Format::Csv) => Err(Failure::usage(
                "records are not printed as csv: keys, values and headers have no columns",
            )
            .hint(
                "write the columns that you want, as in -f '%p\\t%o\\t%d{rfc3339}\\t%k{json}\\t%v{json}\\n'",
            )),
        }
    }
}

/// How far the output is.
pub(super) struct Printed {
    /// Offset behind what was printed of the partition.
    pub(super) next: Offset,
    /// As many records as were asked for.
    pub(super) was_all: bool,
}

pub(super) struct Printer<'a> {
    out: BufWriter<StdoutLock<'static>>,
    topic: &'a str,
    style: Style,
    /// A record on its way out: what fails in the middle is not written at all.
    scratch: Vec<u8>,
    written: u64,
    count: Option<u64>,
}

impl<'a> Printer<'a> {
    pub(super) fn new(args: &'a ConsumeArgs, style: Style) -> Self {
        Self {
            out: BufWriter::with_capacity(64 << 10, io::stdout().lock()),
            topic: &args.topic,
            style,
            scratch: Vec::new(),
            written: 0,
            count: args.count,
        }
    }

    /// Writes the records of a batch that were asked for.
    pub(super) fn print(
        &mut self,
        partition: PartitionId,
        batch: &ConsumedBatch,
        end: Option<Offset>,
    ) -> Result<Printed, Stopped> {
        let topic = &self.topic;
        let undecoded =
            |error| Failure::new(Exit::Partial, "DECODE", format!("{topic}/{partition}: {error}"));
        let batch = batch.clone().decompressed().map_err(undecoded)?;
        for record in batch.records() {
            let record = record.map_err(undecoded)?;
            if record.offset < batch.from || end.is_some_and(|end| record.offset >= end) {
                continue;
            }
            self.written += 1;
            let located = Located {
                topic: self.topic,
                partition,
                offset: record.offset,
                record: &record.to_record(&batch.bytes),
                number: self.written,
            };
            match &self.style {
                Style::Custom(format) => {
                    self.scratch.clear();
                    let written = format.write(&mut self.scratch, &located);
                    written.map_err(|error| does_not_fit(&located, &error))?;
                    self.out.write_all(&self.scratch)?;
                }
                Style::Readable { colours } => write_readable(&mut self.out, &located, *colours)?,
                Style::Json => record_json::write(&mut self.out, &located)?,
            }
            if self.count.is_some_and(|count| self.written >= count) {
                return Ok(Printed {
                    next: record.offset.next(),
                    was_all: true,
                });
            }
        }
        let next = batch.header.last_offset().next();
        Ok(Printed {
            next: end.map_or(next, |end| next.min(end)),
            was_all: false,
        })
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ErrorCode;
    use crate::pb::v1 as pb;

    #[test]
    fn damage_is_told_with_its_range_and_the_way_on() {
        let error = Error::from(pb::Error {
            code: ErrorCode::DataCorrupt.number(),
            details: Some(pb::ErrorDetails {
                first_offset: Some(10),
                last_offset: Some(19),
                ..pb::ErrorDetails::default()
            }),
            ..pb::Error::default()
        });
        let Stopped::Failed(failure) = failed("orders", PartitionId(2), error) else {
            panic!("no failure");
        };
        assert_eq!(failure.exit.code(), 7);
        assert_eq!(
            failure.message,
            "orders/2: offsets 10 to 19 are damaged and cannot be read"
        );
        assert_eq!(
            failure.hint.as_deref(),
            Some("what follows can be read: -p 2 -o 20; --skip-corrupt goes on behind all that is damaged")
        );
    }
}
