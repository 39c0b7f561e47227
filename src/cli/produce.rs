//! `naru produce`: lines of stdin become records.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::sync::Arc;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Context;
use super::failure::{Exit, Failure, Outcome, Stopped};
use super::output::{line, table};
use super::produce_input::{InputForm, Numbered};
use super::record_format::{self, Fields, Incoming, RecordFormat, RecordReader};
use super::record_json;
use super::session::connect;
use crate::client::{Compression, Error, Producer, ProducerRecord, RecordMetadata, Ticket};
use crate::model::{Acks, Offset, PartitionId};
use crate::record::Header;

/// Tickets that wait to be looked at; the producer's own buffer bounds the bytes.
const TICKETS_WAITING: usize = 64 << 10;

/// When a record counts as safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AcksArg {
    /// On disk.
    Fsync,
    /// In the broker's memory; a crash may lose it.
    Memory,
}

impl From<AcksArg> for Acks {
    fn from(acks: AcksArg) -> Self {
        match acks {
            AcksArg::Fsync => Self::Fsync,
            AcksArg::Memory => Self::Memory,
        }
    }
}

/// Name of a level, as the flag spells it.
pub(crate) const fn acks_name(acks: Acks) -> &'static str {
    match acks {
        Acks::Fsync => "fsync",
        Acks::Memory => "memory",
    }
}

const EXAMPLES: &str = "Examples:
  seq 1000 | naru produce numbers
  naru produce orders --key-delimiter : < orders.txt
  echo hello | naru produce greetings -k me -H source=shell
  naru produce logs -z zstd < app.log
  naru consume orders -o start --exit-at-end -f json | naru produce copy -f json
  naru produce orders -f '%k\\t%v\\n' < orders.tsv
  naru produce blobs -f '%K{big32}%k%V{big32}%v' < dump

Without -f every line is a record: an empty line is an empty value, a last line without newline counts, CR is kept.
Exit code 0 only if every record was acknowledged, 7 if some were. After the first failure no more is read; a line or record \
that cannot be read is told with its place, what is before it is sent, and nothing from there on.";

/// Help in full.
fn help() -> String {
    format!(
        "{EXAMPLES}

{}

A field that has no length before it and is not JSON ends at the text behind it, and cannot run over the end of the record, \
which is the text at the end of the format; its last newline may be missing at the end of the input. Formats that do not say \
where a field ends are refused. What lengths and {{json}} write comes back exactly, null and empty apart; without them \
a null comes back as empty (see --tombstone).

{}
When a line is read, everything but the value may be left out, and where the record stood is left aside (see \
--keep-partitions); other fields are refused. A value that is a number, a list or an object is taken as it stands.",
        record_format::help(record_format::Reader::Produce),
        record_json::HELP,
    )
}

/// Flags of `produce`.
#[derive(Debug, Args)]
#[command(
    after_help = format!("{EXAMPLES}\n\nThe record format language: naru produce --help"),
    after_long_help = help()
)]
pub(crate) struct ProduceArgs {
    /// Topic to write to.
    topic: String,
    /// Key of every record.
    #[arg(short, long, conflicts_with = "key_delimiter")]
    key: Option<String>,
    /// The key is what stands before the first DELIM of a line; a line without it has no key.
    #[arg(long, value_name = "DELIM", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_delimiter: Option<String>,
    /// How records are read: a record format, or json for JSON lines; without it lines are values.
    #[arg(short = 'f', long, value_name = "FORMAT", conflicts_with = "key_delimiter")]
    record_format: Option<String>,
    /// A header of every record; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "KEY:VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Partition, instead of the one that the key leads to.
    #[arg(short, long, value_name = "N")]
    partition: Option<u32>,
    /// With -f json: to the partition that each line names, instead of the one that the key leads to.
    #[arg(long, conflicts_with = "partition", requires = "record_format")]
    keep_partitions: bool,
    /// An empty value is null: it removes its key where a topic is compacted.
    #[arg(long)]
    tombstone: bool,
    /// When a record counts as safe.
    #[arg(long, value_enum, default_value_t = AcksArg::Fsync)]
    acks: AcksArg,
    /// How batches are compressed: none, gzip, snappy, lz4 or zstd.
    #[arg(short = 'z', long, value_name = "CODEC", default_value_t = Compression::None)]
    compression: Compression,
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once([':', '=']) {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY:VALUE".to_owned()),
    }
}

pub(crate) async fn run(args: ProduceArgs, context: &Context) -> Outcome {
    let recipe = Recipe::new(&args)?;
    let client = connect(context).await?;
    let producer = client
        .producer()
        .acks(args.acks.into())
        .compression(args.compression)
        .delivery_timeout(context.timeout)
        .build()
        .await?;
    // An unknown topic or partition is found before anything is read.
    let prepared = producer.prepare(&args.topic).await?;
    if let Some(partition) = args.partition.filter(|p| *p >= prepared.partitions) {
        let message = format!("topic '{}' has no partition {partition}", args.topic);
        return Err(
            Failure::new(Exit::NotFound, "UNKNOWN_TOPIC_OR_PARTITION", message)
                .hint(format!(
                    "its partitions are 0 to {}",
                    prepared.partitions.saturating_sub(1)
                ))
                .into(),
        );
    }
    if io::stdin().is_terminal() {
        context
            .output
            .tell("reading records from the terminal; end with Ctrl-D");
    }
    let (sender, receiver) = mpsc::channel(TICKETS_WAITING);
    // Both in one task: if the feeder stops, the sender is dropped and the counting ends with the last ticket.
    let (fed, tally) = tokio::join!(feed(producer, &recipe, sender), count(receiver));
    let report = Report {
        tally,
        args: &args,
        counted: recipe.input.counted(),
    };
    if context.output.is_table() {
        line(&report.text())?;
    } else {
        context.output.json(&report.to_json())?;
    }
    report.verdict(fed)
}

/// How the input becomes records, and what is added to them.
#[derive(Debug)]
struct Recipe {
    input: InputForm,
    topic: Arc<str>,
    key: Option<Bytes>,
    headers: Vec<Header>,
    partition: Partition,
    tombstone: bool,
}

/// Where a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Partition {
    /// Where its key leads.
    ByKey,
    /// Here.
    Always(u32),
    /// Where the input says.
    AsRead,
}

impl Recipe {
    /// Checks what fits together.
    ///
    /// # Errors
    /// Two arguments want the same, or the format cannot be read with.
    fn new(args: &ProduceArgs) -> Result<Self, Failure> {
        let input = match args.record_format.as_deref() {
            None => InputForm::Lines {
                delimiter: args.key_delimiter.clone().map(Bytes::from),
            },
            Some(record_format::JSON) => InputForm::Json,
            Some(text) => InputForm::Format(RecordReader::new(&RecordFormat::parse(text)?)?),
        };
        let fields = match &input {
            InputForm::Lines { .. } => Fields {
                value: true,
                ..Fields::default()
            },
            InputForm::Json => Fields {
                key: true,
                value: true,
                partition: args.keep_partitions,
            },
            InputForm::Format(reader) => reader.has(),
        };
        fits(args, fields)?;
        Ok(Self {
            input,
            topic: args.topic.as_str().into(),
            key: args.key.clone().map(Bytes::from),
            headers: args
                .headers
                .iter()
                .map(|(key, value)| Header {
                    key: key.clone(),
                    value: Some(Bytes::from(value.clone())),
                })
                .collect(),
            partition: match args.partition {
                Some(partition) => Partition::Always(partition),
                None if fields.partition => Partition::AsRead,
                None => Partition::ByKey,
            },
            tombstone: args.tombstone,
        })
    }

    fn record(&self, incoming: Incoming) -> ProducerRecord {
        let mut record = incoming.record;
        record.key = record.key.or_else(|| self.key.clone());
        record.headers.extend(self.headers.iter().cloned());
        if self.tombstone {
            record.value = record.value.filter(|value| !value.is_empty());
        }
        let partition = match self.partition {
            Partition::ByKey => None,
            Partition::Always(partition) => Some(partition),
            Partition::AsRead => incoming.partition,
        };
        let record = ProducerRecord::of(Arc::clone(&self.topic), record);
        match partition {
            Some(partition) => record.partition(partition),
            None => record,
        }
    }
}

/// Refuses what the input and an argument both want to say, and what nothing says.
fn fits(args: &ProduceArgs, fields: Fields) -> Result<(), Failure> {
    let twice = |flag: &str, what: &str| {
        Failure::usage(format!("{flag} and the record format both name the {what}"))
            .hint(format!("leave out {flag}, or read no {what}"))
    };
    let json = args.record_format.as_deref() == Some(record_format::JSON);
    if args.key.is_some() && fields.key {
        return Err(twice("--key", "key"));
    }
    if args.partition.is_some() && fields.partition {
        return Err(twice("--partition", "partition"));
    }
    if args.keep_partitions && !json {
        return Err(Failure::usage("--keep-partitions is for -f json")
            .hint("in a record format '%p' is the partition that the record goes to"));
    }
    if !fields.value && !args.tombstone {
        return Err(
            Failure::usage("the record format has no '%v', so records would have no value")
                .hint("add --tombstone if they are to be tombstones"),
        );
    }
    Ok(())
}

/// Hands what is read to the producer, until it ends or something fails.
async fn feed(
    producer: Producer,
    recipe: &Recipe,
    tickets: mpsc::Sender<(u64, Ticket)>,
) -> Result<(), Failure> {
    let mut pieces = recipe
        .input
        .clone()
        .read(io::stdin())
        .map_err(|e| Failure::unexpected(format!("cannot read stdin: {e}")))?;
    let counted = recipe.input.counted();
    while let Some(piece) = pieces.recv().await {
        for Numbered { number, incoming } in piece.records {
            let ticket = producer.enqueue(recipe.record(incoming)).await.map_err(|error| {
                let failure = Failure::from(error);
                let message = format!("{counted} {number} cannot be sent: {}", failure.message);
                Failure { message, ..failure }
            })?;
            // The counter hangs up after a failure: nothing more is to be sent then.
            if tickets.send((number, ticket)).await.is_err() {
                return Ok(());
            }
        }
        if let Some(failure) = piece.failure {
            return Err(failure);
        }
    }
    drop(tickets);
    // The tickets tell about failures; this only makes what waits for more records leave now.
    let _ = producer.close().await;
    Ok(())
}

/// What was acknowledged in a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Acknowledged {
    count: u64,
    first: Option<Offset>,
    last: Option<Offset>,
}

#[derive(Debug, Default)]
struct Tally {
    partitions: BTreeMap<PartitionId, Acknowledged>,
    acks: Option<Acks>,
    /// Records whose tickets failed.
    failed: u64,
    /// Number of the first line or record that failed, from 1, and why.
    first_failure: Option<(u64, Error)>,
}

impl Tally {
    fn acknowledged(&self) -> u64 {
        self.partitions.values().map(|p| p.count).sum()
    }

    fn add(&mut self, number: u64, result: Result<RecordMetadata, Error>) {
        match result {
            Ok(metadata) => {
                let partition = self.partitions.entry(metadata.partition).or_default();
                partition.count += 1;
                partition.first = partition.first.or(metadata.offset);
                partition.last = metadata.offset.or(partition.last);
                self.acks = Some(metadata.acks);
            }
            Err(error) => {
                self.failed += 1;
                self.first_failure.get_or_insert((number, error));
            }
        }
    }
}

/// Looks at the tickets in the order of the input. After the first failure no more are taken, only those there already.
async fn count(mut tickets: mpsc::Receiver<(u64, Ticket)>) -> Tally {
    let mut tally = Tally::default();
    while let Some((number, ticket)) = tickets.recv().await {
        tally.add(number, ticket.await);
        if tally.first_failure.is_some() {
            tickets.close();
        }
    }
    tally
}

struct Report<'a> {
    tally: Tally,
    args: &'a ProduceArgs,
    /// What the numbers count: lines or records.
    counted: &'static str,
}

impl Report<'_> {
    fn text(&self) -> String {
        let number = |offset: Option<Offset>| offset.map_or("-".to_owned(), |o| o.to_string());
        let rows = self
            .tally
            .partitions
            .iter()
            .map(|(partition, a)| {
                vec![
                    partition.to_string(),
                    a.count.to_string(),
                    number(a.first),
                    number(a.last),
                ]
            })
            .collect();
        let acks = self.tally.acks.map_or("", acks_name);
        let total = format!("{} records acknowledged ({acks})", self.tally.acknowledged());
        if self.tally.partitions.is_empty() {
            return "0 records acknowledged".to_owned();
        }
        format!(
            "{}\n{total}",
            table(&["PART", "RECORDS", "FIRST", "LAST"], rows, &[0, 1, 2, 3])
        )
    }

    fn to_json(&self) -> Value {
        let partitions: Vec<Value> = self
            .tally
            .partitions
            .iter()
            .map(|(partition, a)| {
                json!({
                    "partition": partition.0, "records": a.count,
                    "first_offset": a.first.map(Offset::get), "last_offset": a.last.map(Offset::get),
                })
            })
            .collect();
        json!({
            "topic": self.args.topic, "acks": self.tally.acks.map(acks_name),
            "acknowledged": self.tally.acknowledged(), "failed": self.tally.failed, "partitions": partitions,
        })
    }

    /// 0 only if every line was acknowledged; 7 if only some were.
    fn verdict(self, fed: Result<(), Failure>) -> Outcome {
        let acknowledged = self.tally.acknowledged();
        let (what, failure) = match (self.tally.first_failure, fed) {
            (None, Ok(())) => return Ok(()),
            (Some((number, error)), _) => (
                format!("{} {number} was not acknowledged: ", self.counted),
                Failure::from(error),
            ),
            (None, Err(failure)) => (String::new(), failure),
        };
        let exit = if acknowledged > 0 {
            Exit::Partial
        } else {
            failure.exit
        };
        let message = match self.tally.failed {
            0 | 1 => format!("{what}{}", failure.message),
            failed => format!("{what}{} ({failed} records failed)", failure.message),
        };
        Err(Stopped::Failed(Failure {
            exit,
            message,
            ..failure
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn acknowledged(partition: u32, offset: Option<i64>) -> Result<RecordMetadata, Error> {
        Ok(RecordMetadata {
            topic: "t".into(),
            partition: PartitionId(partition),
            offset: offset.and_then(Offset::new),
            append_time: Timestamp(0),
            acks: Acks::Fsync,
            duplicate: offset.is_none(),
        })
    }

    fn args() -> ProduceArgs {
        ProduceArgs {
            topic: "t".to_owned(),
            key: None,
            key_delimiter: None,
            record_format: None,
            headers: Vec::new(),
            partition: None,
            keep_partitions: false,
            tombstone: false,
            acks: AcksArg::Fsync,
            compression: Compression::None,
        }
    }

    fn report(tally: Tally, args: &ProduceArgs) -> Report<'_> {
        Report {
            tally,
            args,
            counted: "line",
        }
    }

    fn incoming() -> Incoming {
        Incoming {
            record: crate::record::Record {
                key: Some(bytes("k")),
                value: Some(bytes("")),
                ..crate::record::Record::default()
            },
            partition: Some(3),
        }
    }

    #[test]
    fn the_partition_of_a_line_counts_only_if_it_is_to_be_kept() {
        let json = ProduceArgs {
            record_format: Some("json".to_owned()),
            ..args()
        };
        let to = |args: &ProduceArgs| Recipe::new(args).unwrap().record(incoming());
        let plain = ProducerRecord::to("t").key("k").value("");
        assert_eq!(to(&json), plain);
        let keep = ProduceArgs {
            keep_partitions: true,
            ..json
        };
        assert_eq!(to(&keep), plain.clone().partition(3));
        // In a format %p is written for nothing else.
        let format = ProduceArgs {
            record_format: Some("%p %v\\n".to_owned()),
            ..args()
        };
        assert_eq!(to(&format), plain.partition(3));
        let tombstone = ProduceArgs {
            tombstone: true,
            ..args()
        };
        assert_eq!(to(&tombstone), ProducerRecord::to("t").key("k"));
    }

    #[test]
    fn what_input_and_flags_both_name_is_refused() {
        let refused = |format: &str, change: fn(&mut ProduceArgs)| {
            let mut args = ProduceArgs {
                record_format: Some(format.to_owned()),
                ..args()
            };
            change(&mut args);
            Recipe::new(&args).map_err(|failure| failure.message)
        };
        let with_key = |args: &mut ProduceArgs| args.key = Some("k".to_owned());
        let with_partition = |args: &mut ProduceArgs| args.partition = Some(0);
        assert!(refused("json", with_key).unwrap_err().contains("--key"));
        assert!(refused("%k %v\\n", with_key).unwrap_err().contains("--key"));
        assert!(
            refused("%p %v\\n", with_partition)
                .unwrap_err()
                .contains("--partition")
        );
        assert!(refused("%v\\n", with_key).is_ok() && refused("json", with_partition).is_ok());
        assert!(refused("%v\\n", |args| args.keep_partitions = true).is_err());
        assert!(refused("%k\\n", |_| ()).unwrap_err().contains("no '%v'"));
        assert!(refused("%k\\n", |args| args.tombstone = true).is_ok());
    }

    #[test]
    fn the_report_has_count_first_and_last_offset_per_partition() {
        let mut tally = Tally::default();
        for (number, (partition, offset)) in [(1, Some(5)), (0, Some(9)), (1, Some(6)), (1, None)]
            .into_iter()
            .enumerate()
        {
            tally.add(number as u64 + 1, acknowledged(partition, offset));
        }
        let args = args();
        let report = report(tally, &args);
        let json = report.to_json();
        assert_eq!(json["acknowledged"], 4);
        assert_eq!(
            json["partitions"][1],
            json!({"partition": 1, "records": 3, "first_offset": 5, "last_offset": 6})
        );
        assert!(
            report.text().ends_with("4 records acknowledged (fsync)"),
            "{}",
            report.text()
        );
        assert!(report.verdict(Ok(())).is_ok());
    }

    #[test]
    fn exit_is_partial_only_if_something_was_acknowledged() {
        let lost = || Error::Timeout {
            what: "Produce",
            after: std::time::Duration::from_secs(1),
            may_have_taken_effect: true,
            cause: None,
        };
        let exit = |tally: Tally, fed| {
            let args = args();
            match report(tally, &args).verdict(fed) {
                Err(Stopped::Failed(failure)) => failure.exit,
                other => panic!("{other:?}"),
            }
        };
        let mut none = Tally::default();
        none.add(1, Err(lost()));
        assert_eq!(exit(none, Ok(())), Exit::Unavailable);
        let mut some = Tally::default();
        some.add(1, acknowledged(0, Some(0)));
        some.add(2, Err(lost()));
        assert_eq!(some.first_failure.as_ref().map(|(number, _)| *number), Some(2));
        assert_eq!(exit(some, Ok(())), Exit::Partial);
        let mut read = Tally::default();
        read.add(1, acknowledged(0, Some(0)));
        assert_eq!(exit(read, Err(Failure::unexpected("stdin"))), Exit::Partial);
    }
}
