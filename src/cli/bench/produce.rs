//! `naru bench produce`: how fast this broker takes records, and how long each batch waits for its acknowledgement.
//!
//! Closed loop: every connection keeps so many batches in flight. Each batch is built from its records and checksummed
//! anew, so the client's work is part of the figure.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::task::JoinSet;

use super::{Latency, create_if_missing, per_second, rate_text};
use crate::cli::Context;
use crate::cli::failure::{Exit, Failure, Outcome, Stopped};
use crate::cli::output::line;
use crate::cli::produce::{AcksArg, acks_name};
use crate::cli::progress;
use crate::cli::session::connect;
use crate::client::{BatchMetadata, BatchTicket, Client, Compression, Error, Producer};
use crate::model::{Acks, Timestamp};
use crate::record::{BatchBuilder, HEADER_BYTES};
use crate::rt::{Clock, SystemClock};

/// Most batches in flight on one connection: what the broker reads ahead of its answers.
const IN_FLIGHT_MAX: i64 = 64;
/// An idempotent producer has at most so many batches of a partition in flight.
const IDEMPOTENT_IN_FLIGHT_MAX: u32 = 5;
/// What a record of a batch has beside its value, at most: lengths, deltas, null key, no headers.
const RECORD_OVERHEAD_BYTES_MAX: usize = 32;

/// Flags of `bench produce`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  naru bench produce --topic bench --records 1000000 --size 100 --batch-records 1000 --in-flight 5 --json

Latency is the time from handing a batch over to its acknowledgement. Progress on stderr, the result on stdout.")]
pub(crate) struct ProduceBenchArgs {
    /// Topic to write to; created if it is missing.
    #[arg(long)]
    topic: String,
    /// Records in all.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=8 << 20))]
    size: u32,
    /// Records in a batch; fewer where the topic's limit on batches asks for it.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    batch_records: u32,
    /// Batches in flight on each connection.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=IN_FLIGHT_MAX))]
    in_flight: u32,
    /// Connections.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Partitions to write to, in turn.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// When a record counts as safe.
    #[arg(long, value_enum, default_value_t = AcksArg::Fsync)]
    acks: AcksArg,
    /// How batches are compressed: none, gzip, snappy, lz4 or zstd. All values are alike, so they shrink to little.
    #[arg(short = 'z', long, value_name = "CODEC", default_value_t = Compression::None)]
    compression: Compression,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: ProduceBenchArgs, context: &Context) -> Outcome {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let bar = progress::bar(context, args.records, "records");
    let mut loads = prepare(&args, context, &clock, &bar).await?;
    let started = clock.mono();
    let mut running = JoinSet::new();
    for load in loads.drain(..) {
        running.spawn(load.run());
    }
    let mut sum = Measured::new();
    while let Some(joined) = running.join_next().await {
        let measured = joined.map_err(|e| Failure::unexpected(format!("a connection's task ended: {e}")))?;
        sum.add(measured);
    }
    let took = clock.mono() - started;
    bar.finish_and_clear();
    let result = Summary::new(&sum, took, u64::from(args.size));
    if args.json || !context.output.is_table() {
        line(&result.to_json().to_string())?;
    } else {
        line(&result.text(acks_name(args.acks.into())))?;
    }
    match sum.first_error {
        None => Ok(()),
        Some(error) => {
            let failure = Failure::from(error);
            let exit = if sum.records > 0 {
                Exit::Partial
            } else {
                failure.exit
            };
            let message = format!(
                "{} records were not acknowledged: {}",
                sum.errors, failure.message
            );
            Err(Failure {
                exit,
                message,
                ..failure
            }
            .into())
        }
    }
}

/// Makes the topic and the connections, so that nothing but producing is measured.
async fn prepare(
    args: &ProduceBenchArgs,
    context: &Context,
    clock: &Arc<dyn Clock>,
    bar: &ProgressBar,
) -> Result<Vec<Load>, Stopped> {
    let client = connect(context).await?;
    create_if_missing(&client, &args.topic, args.partitions).await?;
    let mut loads = Vec::new();
    for index in 0..args.connections {
        let client = if index == 0 {
            client.clone()
        } else {
            connect(context).await?
        };
        let producer = producer(&client, args).await?;
        let topic = producer.prepare(&args.topic).await?;
        let batch_records = batch_records(args, topic.batch_bytes_max)?;
        let share = args.records / u64::from(args.connections);
        let extra = u64::from(u64::from(index) < args.records % u64::from(args.connections));
        loads.push(Load {
            producer,
            topic: args.topic.clone(),
            partitions: args.partitions.min(topic.partitions),
            first_partition: index,
            records: share + extra,
            batch_records,
            compression: args.compression,
            value: vec![b'x'; usize::try_from(args.size).unwrap_or(usize::MAX)],
            in_flight: usize::try_from(args.in_flight).unwrap_or(1),
            clock: Arc::clone(clock),
            bar: bar.clone(),
        });
    }
    Ok(loads)
}

async fn producer(client: &Client, args: &ProduceBenchArgs) -> Result<Producer, Error> {
    let per_partition = args.in_flight.div_ceil(args.partitions);
    let idempotent = per_partition <= IDEMPOTENT_IN_FLIGHT_MAX;
    client
        .producer()
        .acks(Acks::from(args.acks))
        .idempotent(idempotent)
        // Without sequences a producer that may repeat a batch has one on the way, whatever was asked for.
        .retries(idempotent)
        .max_in_flight(if idempotent {
            IDEMPOTENT_IN_FLIGHT_MAX
        } else {
            args.in_flight
        })
        // The bytes in flight are bounded here already, by their number.
        .buffer_bytes(u32::MAX)
        .build()
        .await
}

/// Records per batch: as asked for, unless the topic's limit is lower.
fn batch_records(args: &ProduceBenchArgs, batch_bytes_max: u32) -> Result<u32, Failure> {
    let limit = usize::try_from(batch_bytes_max).unwrap_or(usize::MAX);
    let record = usize::try_from(args.size).unwrap_or(usize::MAX) + RECORD_OVERHEAD_BYTES_MAX;
    let fitting = u32::try_from(limit.saturating_sub(HEADER_BYTES) / record).unwrap_or(u32::MAX);
    if fitting == 0 {
        let message = format!(
            "a record of {} bytes does not fit into a batch of {limit} bytes",
            args.size
        );
        return Err(Failure::usage(message).hint("the topic's max.message.bytes is the limit"));
    }
    Ok(args.batch_records.min(fitting))
}

/// What one connection does.
struct Load {
    producer: Producer,
    topic: String,
    partitions: u32,
    first_partition: u32,
    records: u64,
    batch_records: u32,
    compression: Compression,
    value: Vec<u8>,
    in_flight: usize,
    clock: Arc<dyn Clock>,
    bar: ProgressBar,
}

/// A batch that was answered.
struct Answered {
    result: Result<BatchMetadata, Error>,
    records: u32,
    took: Duration,
}

impl Load {
    async fn run(mut self) -> Measured {
        let mut measured = Measured::new();
        let mut waiting: JoinSet<Answered> = JoinSet::new();
        let mut left = self.records;
        let mut partition = self.first_partition;
        while left > 0 && measured.first_error.is_none() {
            if waiting.len() >= self.in_flight {
                self.take_answer(&mut waiting, &mut measured).await;
                continue;
            }
            let count = u32::try_from(left).unwrap_or(u32::MAX).min(self.batch_records);
            left -= u64::from(count);
            let batch = self.batch(count);
            partition = partition.wrapping_add(1);
            let sent = self.clock.mono();
            match self
                .producer
                .send_batch(&self.topic, partition % self.partitions, batch)
                .await
            {
                Ok(ticket) => {
                    waiting.spawn(answer(ticket, count, sent, Arc::clone(&self.clock)));
                }
                Err(error) => measured.fail(u64::from(count), error),
            }
        }
        while !waiting.is_empty() {
            self.take_answer(&mut waiting, &mut measured).await;
        }
        // What was given up after an error was not acknowledged either.
        measured.errors += left;
        measured
    }

    /// A batch whose records all differ in their first bytes.
    fn batch(&mut self, count: u32) -> BatchBuilder {
        let record = self.value.len() + RECORD_OVERHEAD_BYTES_MAX;
        let records = usize::try_from(count).unwrap_or(usize::MAX);
        let capacity = HEADER_BYTES + records.saturating_mul(record);
        let mut builder = BatchBuilder::with_capacity(capacity).compressed(self.compression);
        let now: Timestamp = self.clock.wall();
        let stamp = self.clock.mono().as_nanos().to_le_bytes();
        let stamped = stamp.len().min(self.value.len());
        self.value[..stamped].copy_from_slice(&stamp[..stamped]);
        for _ in 0..count {
            builder.push(now, None, Some(&self.value), &[]);
        }
        builder
    }

    async fn take_answer(&self, waiting: &mut JoinSet<Answered>, measured: &mut Measured) {
        match waiting.join_next().await {
            Some(Ok(Answered {
                result: Ok(_),
                records,
                took,
            })) => {
                measured.records += u64::from(records);
                measured.latency.record(took);
                self.bar.inc(u64::from(records));
            }
            Some(Ok(Answered {
                result: Err(error),
                records,
                ..
            })) => measured.fail(u64::from(records), error),
            Some(Err(ended)) => {
                let error = Error::Usage(format!("a batch's task ended: {ended}"));
                measured.fail(u64::from(self.batch_records), error);
            }
            None => {}
        }
    }
}

async fn answer(ticket: BatchTicket, records: u32, sent: Duration, clock: Arc<dyn Clock>) -> Answered {
    let result = ticket.await;
    Answered {
        result,
        records,
        took: clock.mono().saturating_sub(sent),
    }
}

/// What was seen.
struct Measured {
    records: u64,
    errors: u64,
    first_error: Option<Error>,
    latency: Latency,
}

impl Measured {
    fn new() -> Self {
        Self {
            records: 0,
            errors: 0,
            first_error: None,
            latency: Latency::new(),
        }
    }

    fn fail(&mut self, records: u64, error: Error) {
        self.errors += records;
        self.first_error.get_or_insert(error);
    }

    fn add(&mut self, other: Self) {
        self.records += other.records;
        self.errors += other.errors;
        if self.first_error.is_none() {
            self.first_error = other.first_error;
        }
        self.latency.add(&other.latency);
    }
}

/// The result.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Summary {
    records: u64,
    errors: u64,
    records_per_s: f64,
    bytes_per_s: f64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
}

impl Summary {
    fn new(measured: &Measured, took: Duration, size: u64) -> Self {
        Self {
            records: measured.records,
            errors: measured.errors,
            records_per_s: per_second(measured.records, took),
            bytes_per_s: per_second(measured.records.saturating_mul(size), took),
            p50_us: measured.latency.quantile_us(0.5),
            p99_us: measured.latency.quantile_us(0.99),
            p999_us: measured.latency.quantile_us(0.999),
        }
    }

    fn to_json(self) -> serde_json::Value {
        json!({
            "records": self.records, "errors": self.errors,
            "records_per_s": self.records_per_s, "bytes_per_s": self.bytes_per_s,
            "p50_us": self.p50_us, "p99_us": self.p99_us, "p999_us": self.p999_us,
        })
    }

    fn text(self, acks: &str) -> String {
        format!(
            "{} records acknowledged ({acks}), {} errors\n{:.0} records/s, {}/s\nlatency per batch: p50 {} us, p99 {} us, p99.9 {} us",
            self.records,
            self.errors,
            self.records_per_s,
            rate_text(self.bytes_per_s),
            self.p50_us,
            self.p99_us,
            self.p999_us,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(size: u32, batch_records: u32) -> ProduceBenchArgs {
        ProduceBenchArgs {
            topic: "t".to_owned(),
            records: 1,
            size,
            batch_records,
            in_flight: 5,
            connections: 1,
            partitions: 1,
            acks: AcksArg::Fsync,
            compression: Compression::None,
            json: true,
        }
    }

    #[test]
    fn no_batch_is_above_the_topics_limit() {
        const LIMIT: u32 = 1_048_588;
        assert_eq!(batch_records(&args(100, 1_000), LIMIT), Ok(1_000));
        for (size, asked) in [
            (1_024, 1_000),
            (1_024, 2_000),
            (100, 50_000),
            (0, u32::MAX),
            (1_048_490, 3),
        ] {
            let count = batch_records(&args(size, asked), LIMIT).unwrap();
            let mut builder = BatchBuilder::new();
            let value = vec![0; size as usize];
            for n in 0..count {
                builder.push(Timestamp(i64::from(n)), None, Some(&value), &[]);
            }
            assert!(builder.encoded_bytes() <= LIMIT as usize, "{size} x {count}");
        }
        let error = batch_records(&args(1_048_588, 1), LIMIT).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
    }

    #[test]
    fn the_result_has_the_agreed_fields() {
        let mut measured = Measured::new();
        measured.records = 500;
        for us in 1..=1_000 {
            measured.latency.record(Duration::from_micros(us));
        }
        let json = Summary::new(&measured, Duration::from_millis(500), 100).to_json();
        let names: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(
            names,
            [
                "bytes_per_s",
                "errors",
                "p50_us",
                "p999_us",
                "p99_us",
                "records",
                "records_per_s"
            ]
        );
        assert_eq!(json["records_per_s"], 1_000.0);
        assert_eq!(json["bytes_per_s"], 100_000.0);
        assert_eq!(json["p50_us"], 500);
        assert_eq!(json["p99_us"], 990);
    }
}
