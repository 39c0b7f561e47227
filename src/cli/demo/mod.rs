//! `naru demo`: the promise, shown. Starts a broker, writes to it, kills it in the middle, starts it again, and compares what
//! was acknowledged with what is there.

pub(crate) mod broker;
mod events;
mod ledger;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::Context;
use super::failure::{Exit, Failure, Outcome, Stopped};
use super::lines;
use super::output::{Output, line};
use super::progress;
use crate::client::{Client, CreateTopicOptions, OffsetSpec, Producer, ProducerRecord, Start, Ticket};
use crate::model::{Offset, PartitionId};
use crate::record::Record;
use crate::rt::{Clock, SystemClock};
use broker::{BrokerProcess, Ports};
use events::{KeyValue, order_events};
use ledger::{Found, Place, Tally, compare};

const TOPIC: &str = "demo";
const PARTITIONS: u32 = 3;
const EVENTS_DEFAULT: usize = 100_000;
/// Header that carries a record's number, by which it is recognised.
const NUMBER_HEADER: &str = "n";
/// Lines of a file share so many keys.
const FILE_KEYS: usize = 1_000;
/// Tickets that wait to be looked at; the producer's own buffer bounds the bytes.
const TICKETS_WAITING: usize = 64 << 10;
/// How long a record may wait for its acknowledgement, restart included.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// Flags of `demo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Starts a broker in a temporary directory, produces over TCP, kills the broker with SIGKILL when about half of the records
are acknowledged, starts it again on what the disk holds, goes on, reads all back and compares every acknowledged record:
is it there once, in its place, in order, unchanged? Exit code 0 only if all agree, 8 if not.")]
pub(crate) struct DemoArgs {
    /// A text whose lines are the records; without it: 100,000 made-up order events. Held in memory.
    file: Option<PathBuf>,
}

pub(crate) async fn run(args: DemoArgs, context: &Context) -> Outcome {
    let inputs = inputs(args.file.as_deref())?;
    // Declared first, so it is removed last: after the broker has ended, whatever ends this function.
    let dir = tempfile::Builder::new()
        .prefix("naru-demo-")
        .tempdir()
        .map_err(|e| Failure::unexpected(format!("cannot make a temporary directory: {e}")))?;
    let clock = SystemClock::new();
    let mut broker = BrokerProcess::start(dir.path(), Ports::any())?;
    context.output.tell(&format!(
        "started a broker in {}, process id {}",
        dir.path().display(),
        broker.id()
    ));
    let ports = broker.ready().await?;
    let client = connect(ports).await?;
    let options = CreateTopicOptions {
        partitions: PARTITIONS,
        ..CreateTopicOptions::default()
    };
    client.create_topic(TOPIC, options).await?;

    let bar = progress::bar(context, inputs.len() as u64, "records acknowledged");
    let started = clock.mono();
    let show = Show {
        inputs: &inputs,
        dir: dir.path(),
        ports,
        bar: &bar,
        clock: &clock,
        output: context.output,
    };
    let (broker, run) = show.run(&client, broker).await?;
    let produced_in = clock.mono() - started;
    show.tell("reading everything back");
    let found = read_back(&client, &inputs).await?;
    bar.finish_and_clear();
    drop(broker);

    let report = Report {
        tally: compare(&run.places, &found),
        acknowledged_at_kill: run.acknowledged_at_kill,
        restart: run.restart,
        produced_in,
        first_error: run.first_error,
    };
    if context.output.wants_json() {
        context.output.json(&report.to_json())?;
    } else {
        line(&report.text())?;
    }
    report.verdict()
}

/// Keys and values: the lines of the file, or events.
fn inputs(file: Option<&Path>) -> Result<Vec<KeyValue>, Failure> {
    let Some(path) = file else {
        return Ok(order_events(EVENTS_DEFAULT));
    };
    let text = std::fs::read(path).map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Unexpected,
        };
        Failure::new(
            exit,
            "CANNOT_READ",
            format!("cannot read {}: {error}", path.display()),
        )
    })?;
    let inputs: Vec<KeyValue> = lines::split(&Bytes::from(text))
        .into_iter()
        .enumerate()
        .map(|(number, value)| KeyValue {
            key: format!("key-{}", number % FILE_KEYS).into(),
            value,
        })
        .collect();
    if inputs.is_empty() {
        return Err(Failure::usage(format!("{} has no lines", path.display())));
    }
    Ok(inputs)
}

async fn connect(ports: Ports) -> Result<Client, Stopped> {
    Ok(Client::builder()
        .client_id("naru-demo")
        .request_timeout(DELIVERY_TIMEOUT)
        .connect(&format!("naru://{}", ports.native))
        .await?)
}

/// Everything that the parts of the demo share.
struct Show<'a> {
    inputs: &'a [KeyValue],
    dir: &'a Path,
    ports: Ports,
    bar: &'a ProgressBar,
    clock: &'a SystemClock,
    output: Output,
}

/// What happened while producing.
struct Produced {
    /// By number of the record.
    places: Vec<Option<Place>>,
    acknowledged_at_kill: usize,
    /// From the kill until the broker was ready again.
    restart: Duration,
    first_error: Option<String>,
}

impl Show<'_> {
    /// Produces, and kills and restarts the broker in the middle of it.
    async fn run(
        &self,
        client: &Client,
        broker: BrokerProcess,
    ) -> Result<(BrokerProcess, Produced), Stopped> {
        let producer = client
            .producer()
            .delivery_timeout(DELIVERY_TIMEOUT)
            .build()
            .await?;
        let (tickets, taken) = mpsc::channel(TICKETS_WAITING);
        let (count, counted) = watch::channel(0);
        let (open, gate) = watch::channel(false);
        let (fed, (places, first_error), restarted) = tokio::join!(
            self.feed(producer, tickets, gate),
            self.collect(taken, count),
            self.kill_and_restart(broker, counted, open),
        );
        fed?;
        let (broker, acknowledged_at_kill, restart) = restarted?;
        let produced = Produced {
            places,
            acknowledged_at_kill,
            restart,
            first_error,
        };
        Ok((broker, produced))
    }

    /// Tells what happens, above the bar if there is one.
    fn tell(&self, text: &str) {
        self.bar.suspend(|| self.output.tell(text));
    }

    /// Sends all records in order. The last quarter waits until the broker was killed: whatever the size of the buffers
    /// in between, the kill falls into the middle.
    async fn feed(
        &self,
        producer: Producer,
        tickets: mpsc::Sender<Ticket>,
        mut killed: watch::Receiver<bool>,
    ) -> Result<(), Stopped> {
        let gate = self.inputs.len() - self.inputs.len() / 4;
        for (number, input) in self.inputs.iter().enumerate() {
            if number == gate && killed.wait_for(|killed| *killed).await.is_err() {
                break;
            }
            let record = ProducerRecord::to(TOPIC)
                .key(input.key.clone())
                .value(input.value.clone())
                .header(NUMBER_HEADER, number.to_string());
            let ticket = producer.enqueue(record).await?;
            if tickets.send(ticket).await.is_err() {
                break;
            }
        }
        // The tickets tell what became of each record.
        let _ = producer.close().await;
        Ok(())
    }

    /// Notes where each record was acknowledged; the first refusal, if any.
    async fn collect(
        &self,
        mut tickets: mpsc::Receiver<Ticket>,
        count: watch::Sender<usize>,
    ) -> (Vec<Option<Place>>, Option<String>) {
        let mut places = Vec::with_capacity(self.inputs.len());
        let mut first_error = None;
        let mut acknowledged = 0;
        while let Some(ticket) = tickets.recv().await {
            let place = match ticket.await {
                Ok(metadata) => {
                    acknowledged += 1;
                    let partition = metadata.partition;
                    // A duplicate too old to have an offset cannot happen with so few batches in flight; if it does,
                    // the record counts as unacknowledged and the demo fails.
                    metadata.offset.map(|offset| Place { partition, offset })
                }
                Err(error) => {
                    first_error.get_or_insert_with(|| error.to_string());
                    None
                }
            };
            places.push(place);
            count.send_replace(acknowledged);
            self.bar.inc(1);
        }
        places.resize(self.inputs.len(), None);
        (places, first_error)
    }

    async fn kill_and_restart(
        &self,
        broker: BrokerProcess,
        mut acknowledged: watch::Receiver<usize>,
        open: watch::Sender<bool>,
    ) -> Result<(BrokerProcess, usize, Duration), Stopped> {
        let half = self.inputs.len() / 2;
        // If everything ends before that, there is nobody to kill in the middle, but the show goes on.
        let _ = acknowledged.wait_for(|count| *count >= half).await;
        let at_kill = *acknowledged.borrow();
        self.bar
            .set_message("killed the broker with SIGKILL, starting it again");
        let killed = self.clock.mono();
        broker.kill()?;
        open.send_replace(true);
        self.tell(&format!(
            "killed it with SIGKILL after {at_kill} acknowledged records, starting it again"
        ));
        let mut broker = BrokerProcess::start(self.dir, self.ports)?;
        broker.ready().await?;
        let restart = self.clock.mono() - killed;
        self.tell(&format!("ready again after {} ms", restart.as_millis()));
        Ok((broker, at_kill, restart))
    }
}

/// Reads all partitions from the first record to the last.
async fn read_back(client: &Client, inputs: &[KeyValue]) -> Result<Vec<Found>, Stopped> {
    let partitions: Vec<u32> = (0..PARTITIONS).collect();
    let ends = client
        .list_offsets(TOPIC, &partitions, OffsetSpec::Latest)
        .await?;
    let mut found = Vec::with_capacity(inputs.len());
    for (partition, end) in partitions.into_iter().zip(ends) {
        let end = end?;
        let mut reader = client
            .reader(TOPIC, partition, Start::Offset(Offset::ZERO))
            .build()
            .await?;
        while reader.position() < end {
            let batch = match reader.next_batch().await {
                Some(batch) => batch?.decompressed()?,
                None => break,
            };
            for record in batch.records() {
                let record =
                    record.map_err(|e| Failure::unexpected(format!("a batch cannot be decoded: {e}")))?;
                let place = Place {
                    partition: PartitionId(partition),
                    offset: record.offset,
                };
                found.push(recognise(place, &record.to_record(&batch.bytes), inputs));
            }
        }
    }
    Ok(found)
}

fn recognise(place: Place, record: &Record, inputs: &[KeyValue]) -> Found {
    let number = record
        .headers
        .iter()
        .find(|header| header.key == NUMBER_HEADER)
        .and_then(|header| str::from_utf8(header.value.as_deref()?).ok()?.parse().ok());
    let sent = number.and_then(|number: usize| inputs.get(number));
    Found {
        place,
        number,
        as_sent: sent.is_some_and(|sent| {
            record.key.as_ref() == Some(&sent.key) && record.value.as_ref() == Some(&sent.value)
        }),
    }
}

struct Report {
    tally: Tally,
    acknowledged_at_kill: usize,
    restart: Duration,
    produced_in: Duration,
    first_error: Option<String>,
}

impl Report {
    fn records_per_s(&self) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate for people; 2^53 records are far away"
        )]
        let acknowledged = self.tally.acknowledged as f64;
        (acknowledged / self.produced_in.as_secs_f64().max(1e-9)).round()
    }

    fn text(&self) -> String {
        let tally = &self.tally;
        let mut text = format!(
            "\
sent           {} records to {PARTITIONS} partitions
killed         with SIGKILL after {} were acknowledged
restart        {} ms from the kill until the broker was ready again
throughput     {:.0} records/s, restart included

acknowledged   {}
found          {}
missing        {}
duplicated     {}
moved          {}
changed        {}
out of order   {}
",
            tally.sent,
            self.acknowledged_at_kill,
            self.restart.as_millis(),
            self.records_per_s(),
            tally.acknowledged,
            tally.found,
            tally.missing,
            tally.duplicated,
            tally.moved,
            tally.changed,
            tally.out_of_order,
        );
        text.push_str(if tally.agrees() {
            "\nEvery acknowledged record is there: once, in its place, in order, unchanged."
        } else {
            "\nWHAT WAS ACKNOWLEDGED AND WHAT WAS FOUND DO NOT AGREE."
        });
        text
    }

    fn to_json(&self) -> serde_json::Value {
        json!({
            "agrees": self.tally.agrees(),
            "records": self.tally,
            "acknowledged_at_kill": self.acknowledged_at_kill,
            "restart_ms": u64::try_from(self.restart.as_millis()).unwrap_or(u64::MAX),
            "records_per_s": self.records_per_s(),
        })
    }

    fn verdict(self) -> Outcome {
        if self.tally.agrees() {
            return Ok(());
        }
        let why = self.first_error.map(|error| format!(" (first refusal: {error})"));
        let message = format!("acknowledged and found do not agree{}", why.unwrap_or_default());
        Err(Failure::new(Exit::CheckFailed, "DISAGREE", message).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Header;

    fn inputs() -> Vec<KeyValue> {
        order_events(10)
    }

    fn record_of(number: usize, input: &KeyValue) -> Record {
        Record {
            key: Some(input.key.clone()),
            value: Some(input.value.clone()),
            headers: vec![Header {
                key: NUMBER_HEADER.to_owned(),
                value: Some(number.to_string().into()),
            }],
            timestamp: None,
        }
    }

    #[test]
    fn a_record_is_recognised_by_number_key_and_value() {
        let inputs = inputs();
        let place = Place {
            partition: PartitionId(0),
            offset: Offset::ZERO,
        };
        let whole = record_of(7, &inputs[7]);
        let found = recognise(place, &whole, &inputs);
        assert_eq!((found.number, found.as_sent), (Some(7), true));
        let swapped = record_of(7, &inputs[8]);
        assert!(!recognise(place, &swapped, &inputs).as_sent);
        let strange = Record {
            headers: Vec::new(),
            ..whole
        };
        let found = recognise(place, &strange, &inputs);
        assert_eq!((found.number, found.as_sent), (None, false));
    }

    #[test]
    fn only_agreement_is_success() {
        let report = |missing| Report {
            tally: Tally {
                sent: 2,
                acknowledged: 2,
                found: 2 - missing,
                missing,
                ..Tally::default()
            },
            acknowledged_at_kill: 1,
            restart: Duration::from_millis(40),
            produced_in: Duration::from_secs(1),
            first_error: None,
        };
        assert!(report(0).verdict().is_ok());
        assert!(report(1).text().contains("DO NOT AGREE"));
        let Err(Stopped::Failed(failure)) = report(1).verdict() else {
            panic!("a missing record is a failure");
        };
        assert_eq!(failure.exit.code(), 8);
    }
}
