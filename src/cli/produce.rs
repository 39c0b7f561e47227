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
use super::lines::read_lines;
use super::output::{line, table};
use super::session::connect;
use crate::client::{Compression, Error, Producer, ProducerRecord, RecordMetadata, Ticket};
use crate::model::{Acks, Offset, PartitionId};

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

/// Flags of `produce`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  seq 1000 | naru produce numbers
  naru produce orders --key-delimiter : < orders.txt
  echo hello | naru produce greetings -k me -H source=shell
  naru produce logs -z zstd < app.log

Every line is a record: an empty line is an empty value, a last line without newline counts, CR is kept.
Exit code 0 only if every record was acknowledged, 7 if some were. After the first failure no more lines are read.")]
pub(crate) struct ProduceArgs {
    /// Topic to write to.
    topic: String,
    /// Key of every record.
    #[arg(short, long, conflicts_with = "key_delimiter")]
    key: Option<String>,
    /// The key is what stands before the first DELIM of a line; a line without it has no key.
    #[arg(long, value_name = "DELIM", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_delimiter: Option<String>,
    /// A header of every record; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "KEY:VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Partition, instead of the one that the key leads to.
    #[arg(short, long, value_name = "N")]
    partition: Option<u32>,
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
            .tell("every line becomes a record; end with Ctrl-D");
    }
    let (sender, receiver) = mpsc::channel(TICKETS_WAITING);
    let recipe = Recipe::new(&args);
    // Both in one task: if the feeder stops, the sender is dropped and the counting ends with the last ticket.
    let (fed, tally) = tokio::join!(feed(producer, &recipe, sender), count(receiver));
    let report = Report { tally, args: &args };
    if context.output.is_table() {
        line(&report.text())?;
    } else {
        context.output.json(&report.to_json())?;
    }
    report.verdict(fed)
}

/// How a line becomes a record.
struct Recipe {
    topic: Arc<str>,
    key: Option<Bytes>,
    delimiter: Option<Bytes>,
    headers: Vec<(String, Bytes)>,
    partition: Option<u32>,
}

impl Recipe {
    fn new(args: &ProduceArgs) -> Self {
        Self {
            topic: args.topic.as_str().into(),
            key: args.key.clone().map(Bytes::from),
            delimiter: args.key_delimiter.clone().map(Bytes::from),
            headers: args
                .headers
                .iter()
                .map(|(key, value)| (key.clone(), Bytes::from(value.clone())))
                .collect(),
            partition: args.partition,
        }
    }

    fn record(&self, line: Bytes) -> ProducerRecord {
        let (key, value) = match &self.delimiter {
            Some(delimiter) => split_at(&line, delimiter),
            None => (self.key.clone(), line),
        };
        let mut record = ProducerRecord::to(Arc::clone(&self.topic)).value(value);
        if let Some(key) = key {
            record = record.key(key);
        }
        if let Some(partition) = self.partition {
            record = record.partition(partition);
        }
        self.headers.iter().fold(record, |record, (key, value)| {
            record.header(key.clone(), value.clone())
        })
    }
}

/// Key and value of a line; slices, nothing is copied.
fn split_at(line: &Bytes, delimiter: &[u8]) -> (Option<Bytes>, Bytes) {
    match line
        .windows(delimiter.len())
        .position(|window| window == delimiter)
    {
        Some(at) => (Some(line.slice(..at)), line.slice(at + delimiter.len()..)),
        None => (None, line.clone()),
    }
}

/// Hands the lines to the producer, until they end or one fails.
async fn feed(producer: Producer, recipe: &Recipe, tickets: mpsc::Sender<Ticket>) -> Result<(), Failure> {
    let mut pieces =
        read_lines(io::stdin()).map_err(|e| Failure::unexpected(format!("cannot read stdin: {e}")))?;
    let mut number = 0_u64;
    while let Some(piece) = pieces.recv().await {
        let piece = piece.map_err(|e| Failure::unexpected(format!("cannot read stdin: {e}")))?;
        for line in piece {
            number += 1;
            let ticket = producer.enqueue(recipe.record(line)).await.map_err(|error| {
                let failure = Failure::from(error);
                let message = format!("line {number} cannot be sent: {}", failure.message);
                Failure { message, ..failure }
            })?;
            // The counter hangs up after a failure: nothing more is to be sent then.
            if tickets.send(ticket).await.is_err() {
                return Ok(());
            }
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
    /// Number of the first line that failed, from 1, and why.
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

/// Looks at the tickets in the order of the lines. After the first failure no more are taken, only those there already.
async fn count(mut tickets: mpsc::Receiver<Ticket>) -> Tally {
    let mut tally = Tally::default();
    let mut number = 0;
    while let Some(ticket) = tickets.recv().await {
        number += 1;
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
                format!("line {number} was not acknowledged: "),
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
            headers: Vec::new(),
            partition: None,
            acks: AcksArg::Fsync,
            compression: Compression::None,
        }
    }

    #[test]
    fn the_key_ends_at_the_first_delimiter() {
        for (line, delimiter, key, value) in [
            ("a:b:c", ":", Some("a"), "b:c"),
            (":b", ":", Some(""), "b"),
            ("a:", ":", Some("a"), ""),
            ("abc", ":", None, "abc"),
            ("", ":", None, ""),
            ("k=>v", "=>", Some("k"), "v"),
        ] {
            let expected = (key.map(bytes), bytes(value));
            assert_eq!(split_at(&bytes(line), delimiter.as_bytes()), expected, "{line:?}");
        }
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
        let report = Report { tally, args: &args };
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
            match (Report { tally, args: &args }).verdict(fed) {
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
