//! `naru bench consume`: how fast this broker gives records. Batches are fetched as they are stored, and their checksums are
//! compared here; records are counted, not decoded.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::task::JoinSet;

use super::{per_second, rate_text};
use crate::cli::Context;
use crate::cli::failure::{Failure, Outcome, Stopped};
use crate::cli::output::line;
use crate::cli::progress;
use crate::cli::session::connect;
use crate::client::{Error, OffsetSpec, PartitionReader, Start};
use crate::model::Offset;
use crate::rt::{Clock, SystemClock};

/// Flags of `bench consume`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  naru bench consume --topic bench --json

Reads what is there when it starts, from the first record kept to the last. Progress on stderr, the result on stdout.")]
pub(crate) struct ConsumeBenchArgs {
    /// Topic to read.
    #[arg(long)]
    topic: String,
    /// Connections; each one reads the whole topic.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Bytes of one fetch.
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..=64 << 20))]
    fetch_bytes: u32,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: ConsumeBenchArgs, context: &Context) -> Outcome {
    let clock = SystemClock::new();
    let bar = Arc::new(progress::bar(context, 0, "records"));
    let loads = prepare(&args, context, &bar).await?;
    let started = clock.mono();
    let mut running = JoinSet::new();
    for load in loads {
        running.spawn(load.run());
    }
    let mut sum = Seen::default();
    while let Some(joined) = running.join_next().await {
        let seen = joined.map_err(|e| Failure::unexpected(format!("a reader's task ended: {e}")))??;
        sum.records += seen.records;
        sum.bytes += seen.bytes;
    }
    let took = clock.mono() - started;
    bar.finish_and_clear();
    line(&report(&sum, took, args.json || !context.output.is_table()))?;
    Ok(())
}

/// Connections, readers, and where each of them stops.
async fn prepare(
    args: &ConsumeBenchArgs,
    context: &Context,
    bar: &Arc<ProgressBar>,
) -> Result<Vec<Load>, Stopped> {
    let mut loads = Vec::new();
    for _ in 0..args.connections {
        let client = connect(context).await?;
        let topic = client.describe_topic(&args.topic).await?;
        let partitions: Vec<u32> = topic.partitions.iter().map(|p| p.partition.0).collect();
        let earliest = client
            .list_offsets(&args.topic, &partitions, OffsetSpec::Earliest)
            .await?;
        let latest = client
            .list_offsets(&args.topic, &partitions, OffsetSpec::Latest)
            .await?;
        for ((partition, first), end) in partitions.into_iter().zip(earliest).zip(latest) {
            let (first, end) = (first?, end?);
            if first >= end {
                continue;
            }
            bar.inc_length(end.get().abs_diff(first.get()));
            let reader = client
                .reader(&args.topic, partition, Start::Offset(first))
                .fetch_bytes(args.fetch_bytes)
                .build()
                .await?;
            loads.push(Load {
                reader,
                end,
                bar: Arc::clone(bar),
            });
        }
    }
    Ok(loads)
}

/// One partition over one connection.
struct Load {
    reader: PartitionReader,
    end: Offset,
    bar: Arc<ProgressBar>,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    records: u64,
    bytes: u64,
}

impl Load {
    async fn run(mut self) -> Result<Seen, Error> {
        let mut seen = Seen::default();
        while self.reader.position() < self.end {
            let Some(batch) = self.reader.next_batch().await else {
                break;
            };
            let batch = batch?;
            seen.records += u64::from(batch.header.count);
            seen.bytes += batch.bytes.len() as u64;
            self.bar.inc(u64::from(batch.header.count));
        }
        Ok(seen)
    }
}

fn report(seen: &Seen, took: Duration, json: bool) -> String {
    let records_per_s = per_second(seen.records, took);
    let bytes_per_s = per_second(seen.bytes, took);
    if json {
        return json!({
            "records": seen.records, "bytes": seen.bytes,
            "records_per_s": records_per_s, "bytes_per_s": bytes_per_s,
        })
        .to_string();
    }
    format!(
        "{} records read, {} of batches\n{records_per_s:.0} records/s, {}/s",
        seen.records,
        crate::cli::output::bytes_text(seen.bytes),
        rate_text(bytes_per_s)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_has_the_agreed_fields() {
        let seen = Seen {
            records: 500,
            bytes: 60_000,
        };
        let json: serde_json::Value =
            serde_json::from_str(&report(&seen, Duration::from_millis(500), true)).unwrap();
        assert_eq!(
            json,
            json!({"records": 500, "bytes": 60_000, "records_per_s": 1_000.0, "bytes_per_s": 120_000.0})
        );
        let text = report(&seen, Duration::from_secs(1), false);
        assert!(text.contains("500 records read"), "{text}");
    }
}
