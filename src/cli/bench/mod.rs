//! `naru bench`: how fast a broker takes and gives records, and how long that takes.

mod arrivals;
mod broker_process;
mod commit;
mod consume;
mod crowd;
mod e2e;
mod group;
mod heartbeat;
mod pace;
mod produce;

use std::time::Duration;

use clap::Subcommand;
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::task::JoinSet;

use super::Context;
use super::failure::{Failure, Outcome, Stopped};
use super::output::{bytes_text, say};
use crate::client::{Client, CreateTopicOptions};
use crate::model::ErrorCode;

/// Three significant digits up to ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Produce records as fast as the broker takes them.
    Produce(produce::ProduceBenchArgs),
    /// Read a whole topic as fast as the broker gives it.
    Consume(consume::ConsumeBenchArgs),
    /// Produce at a fixed rate and measure how long records take to their readers.
    E2e(e2e::E2eArgs),
    /// Let members of a group come and go, and measure how long partitions are without an owner.
    Group(group::GroupBenchArgs),
    /// Let many groups be at rest, and measure what their heartbeats cost.
    Heartbeat(heartbeat::HeartbeatBenchArgs),
    /// Commit offsets as fast as the broker makes them durable.
    Commit(commit::CommitBenchArgs),
}

pub(crate) async fn run(command: BenchCommand, context: &Context) -> Outcome {
    match command {
        BenchCommand::Produce(args) => produce::run(args, context).await,
        BenchCommand::Consume(args) => consume::run(args, context).await,
        BenchCommand::E2e(args) => e2e::run(args, context).await,
        BenchCommand::Group(args) => group::run(args, context).await,
        BenchCommand::Heartbeat(args) => heartbeat::run(args, context).await,
        BenchCommand::Commit(args) => commit::run(args, context).await,
    }
}

/// Makes the topic to measure with.
async fn create_if_missing(client: &Client, topic: &str, partitions: u32) -> Result<(), Stopped> {
    let options = CreateTopicOptions {
        partitions,
        if_not_exists: true,
        ..CreateTopicOptions::default()
    };
    match client.create_topic(topic, options).await {
        Ok(_) => Ok(()),
        // It is there with another number of partitions; those it has are used.
        Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) => {
            say(&format!(
                "topic '{topic}' exists with another number of partitions; using those"
            ));
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// A rounded rate.
#[expect(
    clippy::cast_precision_loss,
    reason = "a rate for people; 2^53 records are far away"
)]
fn per_second(count: u64, took: Duration) -> f64 {
    (count as f64 / took.as_secs_f64().max(1e-9)).round()
}

/// A rate of bytes, without the "per second".
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rounded rate, not negative"
)]
fn rate_text(bytes_per_s: f64) -> String {
    bytes_text(bytes_per_s as u64)
}

/// How long something took, many times.
#[derive(Debug)]
struct Latency(Histogram<u64>);

impl Latency {
    fn new() -> Self {
        Self(Histogram::new_with_max(LATENCY_US_MAX, 3).expect("the bounds are those of the crate"))
    }

    fn record(&mut self, took: Duration) {
        self.0
            .saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// Microseconds below which this share of all values lies.
    fn quantile_us(&self, share: f64) -> u64 {
        self.0.value_at_quantile(share)
    }

    fn to_json(&self) -> serde_json::Value {
        json!({
            "p50": self.quantile_us(0.5), "p90": self.quantile_us(0.9), "p99": self.quantile_us(0.99),
            "p999": self.quantile_us(0.999), "max": self.0.max(),
        })
    }

    fn text(&self) -> String {
        format!(
            "p50 {} us, p90 {} us, p99 {} us, p99.9 {} us, max {} us",
            self.quantile_us(0.5),
            self.quantile_us(0.9),
            self.quantile_us(0.99),
            self.quantile_us(0.999),
            self.0.max()
        )
    }
}

/// What the only task of a set came to.
async fn joined<T: 'static>(task: &mut JoinSet<T>) -> Result<T, Failure> {
    match task.join_next().await {
        Some(Ok(ended)) => Ok(ended),
        Some(Err(error)) => Err(Failure::unexpected(format!("a task ended: {error}"))),
        None => Err(Failure::unexpected("a task was waited for twice".to_owned())),
    }
}
