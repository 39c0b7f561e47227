//! `naru bench e2e`: an open loop. Records are sent at a fixed rate, whatever the answers do, and times count from the moment
//! at which a record was due: a broker that stalls pays for every record that should have been sent meanwhile.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::arrivals::Arrivals;
use super::pace::{Schedule, wait_until};
use super::{Latency, create_if_missing, joined, per_second};
use crate::cli::Context;
use crate::cli::failure::{Exit, Failure, Outcome, Stopped};
use crate::cli::output::line;
use crate::cli::parse_duration;
use crate::cli::produce::{AcksArg, acks_name};
use crate::cli::session::connect;
use crate::client::{ConsumedBatch, Error, PartitionReader, Producer, ProducerRecord, Start, Ticket};
use crate::model::Acks;
use crate::rt::{Clock, SystemClock};

/// What a value begins with: number of the run, number of the record; 8 bytes each, little-endian.
const STAMP_BYTES: u32 = 16;
/// Records of one run: a bit of each is kept.
const RECORDS_MAX: u64 = 100_000_000;
/// Tickets that wait to be looked at; the producer's buffer bounds the bytes.
const TICKETS_WAITING: usize = 64 << 10;
/// Between the last preparation and the first record.
const HEAD_START: Duration = Duration::from_millis(200);
/// The producer's buffer.
const BUFFER_BYTES: u32 = 256 << 20;

/// Flags of `bench e2e`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  naru bench e2e --topic latency --rate 5000 --duration 10s --size 1024 --json

All times count from the moment at which a record was due; `late_us` is how late the command itself handed it over. Exit code 8 if a record was lost, duplicated or reordered.")]
pub(crate) struct E2eArgs {
    /// Topic to write to and read from; created with one partition if it is missing. Partition 0 is used.
    #[arg(long)]
    topic: String,
    /// Records per second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// How long to send.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// Bytes of each value.
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(i64::from(STAMP_BYTES)..=8 << 20))]
    size: u32,
    /// When a record counts as safe.
    #[arg(long, value_enum, default_value_t = AcksArg::Fsync)]
    acks: AcksArg,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: E2eArgs, context: &Context) -> Outcome {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let count = records_of(&args)?;
    let (producer, reader) = prepare(&args, context).await?;
    let plan = Plan {
        schedule: Schedule {
            start: clock.mono() + HEAD_START,
            rate_per_s: args.rate,
        },
        count,
        run: fastrand::u64(..),
        topic: args.topic.as_str().into(),
        size: args.size,
    };
    let (tickets, sent) = mpsc::channel(TICKETS_WAITING);
    let sender = start_sender(plan.clone(), producer, Arc::clone(&clock), tickets)?;
    let (tell, told) = watch::channel(None);
    // Tasks of the runtime, as in a service: the command's own thread would have to be woken for every record.
    let (mut receiving, mut acknowledging) = (JoinSet::new(), JoinSet::new());
    receiving.spawn(receive(reader, plan, Arc::clone(&clock), told, context.timeout));
    acknowledging.spawn(async move {
        let acknowledged = acknowledge(sent, &clock).await;
        // The reader goes on until it has so many, or for as long as was allowed.
        tell.send_replace(Some(acknowledged.records));
        acknowledged
    });
    let acknowledged = joined(&mut acknowledging).await?;
    let received = joined(&mut receiving).await?;
    let sent = sender
        .await
        .map_err(|_| Failure::unexpected("the sending thread ended early".to_owned()))?;
    let result = Summary {
        records: count,
        acknowledged,
        received: received?,
        sent,
    };
    if args.json || !context.output.is_table() {
        line(&result.to_json().to_string())?;
    } else {
        line(&result.text(acks_name(args.acks.into())))?;
    }
    result.outcome()
}

fn records_of(args: &E2eArgs) -> Result<u64, Failure> {
    let records = args.duration.as_nanos() * u128::from(args.rate) / 1_000_000_000;
    match u64::try_from(records) {
        Ok(records @ 1..=RECORDS_MAX) => Ok(records),
        _ => {
            let message = format!("{records} records are to be sent; a run has 1 to {RECORDS_MAX}");
            Err(Failure::usage(message).hint("choose another --rate or --duration"))
        }
    }
}

async fn prepare(args: &E2eArgs, context: &Context) -> Result<(Producer, PartitionReader), Stopped> {
    let client = connect(context).await?;
    create_if_missing(&client, &args.topic, 1).await?;
    let producer = client
        .producer()
        .acks(Acks::from(args.acks))
        .linger(Duration::ZERO)
        .buffer_bytes(BUFFER_BYTES)
        .build()
        .await?;
    producer.prepare(&args.topic).await?;
    // A connection of its own, as another process would have.
    let reader = connect(context)
        .await?
        .reader(&args.topic, 0, Start::Latest)
        .build()
        .await?;
    Ok((producer, reader))
}

/// What the three sides of a run know.
#[derive(Clone, Debug)]
struct Plan {
    schedule: Schedule,
    count: u64,
    run: u64,
    topic: Arc<str>,
    size: u32,
}

impl Plan {
    fn value(&self, number: u64) -> Bytes {
        let mut value = vec![b'x'; usize::try_from(self.size).unwrap_or(usize::MAX)];
        value[..8].copy_from_slice(&self.run.to_le_bytes());
        value[8..16].copy_from_slice(&number.to_le_bytes());
        value.into()
    }

    /// The number of a record of this run.
    fn number_of(&self, value: Option<&[u8]>) -> Option<u64> {
        let (run, rest) = value?.split_first_chunk::<8>()?;
        let number = rest.first_chunk::<8>()?;
        (u64::from_le_bytes(*run) == self.run).then(|| u64::from_le_bytes(*number))
    }
}

/// How the sending went.
#[derive(Debug)]
struct Sent {
    took: Duration,
    /// How much too late records were handed over: the client's own share of their times.
    lateness: Latency,
    refused: u64,
    first_error: Option<Error>,
}

impl Sent {
    fn new() -> Self {
        Self {
            took: Duration::ZERO,
            lateness: Latency::new(),
            refused: 0,
            first_error: None,
        }
    }
}

/// A record on its way.
struct Sending {
    due: Duration,
    ticket: Ticket,
}

fn start_sender(
    plan: Plan,
    producer: Producer,
    clock: Arc<dyn Clock>,
    tickets: mpsc::Sender<Sending>,
) -> Result<oneshot::Receiver<Sent>, Failure> {
    let (done, result) = oneshot::channel();
    let body = move || {
        // Nobody is there to be told if the command was interrupted.
        let _ = done.send(send_all(&plan, &producer, &clock, &tickets));
    };
    thread::Builder::new()
        .name("naru-bench-pace".to_owned())
        .spawn(body)
        .map_err(|e| Failure::unexpected(format!("cannot start a thread: {e}")))?;
    Ok(result)
}

fn send_all(
    plan: &Plan,
    producer: &Producer,
    clock: &Arc<dyn Clock>,
    tickets: &mpsc::Sender<Sending>,
) -> Sent {
    let mut sent = Sent::new();
    for number in 0..plan.count {
        let due = plan.schedule.due(number);
        let value = plan.value(number);
        wait_until(clock, due);
        sent.lateness.record(clock.mono().saturating_sub(due));
        let record = ProducerRecord::to(Arc::clone(&plan.topic))
            .partition(0)
            .value(value);
        match producer.try_enqueue(record) {
            Ok(ticket) => {
                if tickets.blocking_send(Sending { due, ticket }).is_err() {
                    break;
                }
            }
            // An open loop does not wait: what finds no room counts as an error.
            Err(error) => {
                sent.refused += 1;
                sent.first_error.get_or_insert(error);
            }
        }
    }
    sent.took = clock.mono().saturating_sub(plan.schedule.start);
    sent
}

/// What the broker said.
#[derive(Debug)]
struct Acknowledged {
    records: u64,
    errors: u64,
    first_error: Option<Error>,
    latency: Latency,
}

/// Answers come in the order of the records: there is one partition.
async fn acknowledge(mut sent: mpsc::Receiver<Sending>, clock: &Arc<dyn Clock>) -> Acknowledged {
    let mut acknowledged = Acknowledged {
        records: 0,
        errors: 0,
        first_error: None,
        latency: Latency::new(),
    };
    while let Some(Sending { due, ticket }) = sent.recv().await {
        match ticket.await {
            Ok(_) => {
                acknowledged.records += 1;
                acknowledged.latency.record(clock.mono().saturating_sub(due));
            }
            Err(error) => {
                acknowledged.errors += 1;
                acknowledged.first_error.get_or_insert(error);
            }
        }
    }
    acknowledged
}

/// What the reader saw.
#[derive(Debug)]
struct Received {
    arrivals: Arrivals,
    latency: Latency,
}

async fn receive(
    mut reader: PartitionReader,
    plan: Plan,
    clock: Arc<dyn Clock>,
    mut told: watch::Receiver<Option<u64>>,
    patience: Duration,
) -> Result<Received, Error> {
    let mut received = Received {
        arrivals: Arrivals::new(plan.count),
        latency: Latency::new(),
    };
    loop {
        let acknowledged = *told.borrow_and_update();
        if acknowledged.is_some_and(|records| received.arrivals.received >= records) {
            return Ok(received);
        }
        tokio::select! {
            biased;
            batch = reader.next_batch() => match batch {
                Some(batch) => received.take(&batch?, &plan, clock.mono())?,
                None => return Ok(received),
            },
            // Without a sender everything that could be said was said.
            Ok(()) = told.changed() => {}
            () = tokio::time::sleep(patience), if acknowledged.is_some() => return Ok(received),
        }
    }
}

impl Received {
    fn take(&mut self, batch: &ConsumedBatch, plan: &Plan, now: Duration) -> Result<(), Error> {
        let batch = batch.clone().decompressed()?;
        for record in batch.records() {
            let record = record?.to_record(&batch.bytes);
            let Some(number) = plan.number_of(record.value.as_deref()) else {
                continue;
            };
            if self.arrivals.note(number) {
                self.latency.record(now.saturating_sub(plan.schedule.due(number)));
            }
        }
        Ok(())
    }
}

/// The result.
#[derive(Debug)]
struct Summary {
    records: u64,
    acknowledged: Acknowledged,
    received: Received,
    sent: Sent,
}

impl Summary {
    fn lost(&self) -> u64 {
        self.acknowledged
            .records
            .saturating_sub(self.received.arrivals.received)
    }

    fn errors(&self) -> u64 {
        self.acknowledged.errors + self.sent.refused
    }

    fn to_json(&self) -> serde_json::Value {
        let arrivals = &self.received.arrivals;
        json!({
            "records": self.records, "acknowledged": self.acknowledged.records, "received": arrivals.received,
            "errors": self.errors(), "lost": self.lost(), "duplicated": arrivals.duplicated, "reordered": arrivals.reordered,
            "records_per_s": per_second(self.records, self.sent.took),
            "late_us": self.sent.lateness.to_json(), "ack_us": self.acknowledged.latency.to_json(), "e2e_us": self.received.latency.to_json(),
        })
    }

    fn text(&self, acks: &str) -> String {
        let arrivals = &self.received.arrivals;
        format!(
            "{} records due, {} acknowledged ({acks}), {} received\n{} errors, {} lost, {} duplicated, {} reordered\n\
             {:.0} records/s\nhanded over late by: {}\nacknowledged: {}\nend to end: {}",
            self.records,
            self.acknowledged.records,
            arrivals.received,
            self.errors(),
            self.lost(),
            arrivals.duplicated,
            arrivals.reordered,
            per_second(self.records, self.sent.took),
            self.sent.lateness.text(),
            self.acknowledged.latency.text(),
            self.received.latency.text(),
        )
    }

    fn outcome(self) -> Outcome {
        let errors = self.errors();
        if let Some(error) = self.acknowledged.first_error.or(self.sent.first_error) {
            let failure = Failure::from(error);
            let exit = if self.acknowledged.records > 0 {
                Exit::Partial
            } else {
                failure.exit
            };
            let message = format!("{errors} records were not acknowledged: {}", failure.message);
            return Err(Failure {
                exit,
                message,
                ..failure
            }
            .into());
        }
        let arrivals = &self.received.arrivals;
        let lost = self.acknowledged.records.saturating_sub(arrivals.received);
        if lost + arrivals.duplicated + arrivals.reordered > 0 {
            let message = format!(
                "{lost} acknowledged records were lost, {} duplicated, {} reordered",
                arrivals.duplicated, arrivals.reordered
            );
            return Err(Failure::new(Exit::CheckFailed, "BENCH_CHECK_FAILED", message).into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(rate: u32, duration: Duration) -> E2eArgs {
        E2eArgs {
            topic: "t".to_owned(),
            rate,
            duration,
            size: STAMP_BYTES,
            acks: AcksArg::Fsync,
            json: true,
        }
    }

    fn summary(received: &[u64]) -> Summary {
        let mut arrivals = Arrivals::new(4);
        for number in received {
            arrivals.note(*number);
        }
        let acknowledged = Acknowledged {
            records: 3,
            errors: 0,
            first_error: None,
            latency: Latency::new(),
        };
        Summary {
            records: 4,
            acknowledged,
            received: Received {
                arrivals,
                latency: Latency::new(),
            },
            sent: Sent::new(),
        }
    }

    #[test]
    fn a_run_has_a_bounded_number_of_records() {
        assert_eq!(records_of(&args(5_000, Duration::from_millis(200))), Ok(1_000));
        assert!(records_of(&args(1, Duration::from_millis(1))).is_err());
        assert!(records_of(&args(1_000_000, Duration::from_secs(101))).is_err());
    }

    #[test]
    fn only_values_of_this_run_have_a_number() {
        let plan = Plan {
            schedule: Schedule {
                start: Duration::ZERO,
                rate_per_s: 1,
            },
            count: 9,
            run: 7,
            topic: "t".into(),
            size: STAMP_BYTES,
        };
        assert_eq!(plan.number_of(Some(&plan.value(5))), Some(5));
        let other = Plan {
            run: 8,
            ..plan.clone()
        };
        assert_eq!(plan.number_of(Some(&other.value(5))), None);
        assert_eq!(plan.number_of(Some(b"short")), None);
        assert_eq!(plan.number_of(None), None);
    }

    #[test]
    fn loss_duplicates_and_disorder_fail_the_run() {
        assert!(summary(&[0, 1, 2]).outcome().is_ok());
        for wrong in [&[0, 1][..], &[0, 1, 2, 2], &[0, 2, 1]] {
            let Err(Stopped::Failed(failure)) = summary(wrong).outcome() else {
                panic!("{wrong:?} passed");
            };
            assert_eq!(failure.exit, Exit::CheckFailed);
        }
        assert_eq!(summary(&[0, 1]).to_json()["lost"], 1);
    }
}
