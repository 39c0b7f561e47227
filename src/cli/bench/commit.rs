//! `naru bench commit`: how many commits of offsets a broker makes durable.
//!
//! Closed loop: every connection has a member of a group, which keeps so many commits in flight.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::task::JoinSet;

use super::broker_process::{Span, Used};
use super::crowd::{Crowd, Plan, Seat, prepare_topic};
use super::{Latency, per_second};
use crate::cli::Context;
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::line;
use crate::cli::parse_duration;
use crate::client::OffsetToCommit;
use crate::model::{ErrorCode, Offset};
use crate::rt::{Clock, SystemClock};

/// Before a commit is tried again with the epoch that a heartbeat tells meanwhile.
const STALE_PAUSE: Duration = Duration::from_millis(5);

/// Flags of `bench commit`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  naru bench commit --connections 100 --in-flight 1 --duration 10s

Each connection has one member, which commits the partitions that it holds; a commit is answered when it is on disk. `commit_us`: \
until that answer. Exit code 7 if a commit was refused.")]
pub(crate) struct CommitBenchArgs {
    /// Topic to commit for; created with --partitions if it is missing. Nothing is written to it.
    #[arg(long, default_value = "bench-commit")]
    topic: String,
    /// Partitions of a topic that is created.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// Connections, each with one member.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Groups that the members are spread over.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    groups: u32,
    /// Commits in flight on each connection.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    in_flight: u32,
    /// How long to commit.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// Process id of the broker, if it runs on this machine: what it uses is told, too.
    #[arg(long)]
    pid: Option<u32>,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: CommitBenchArgs, context: &Context) -> Outcome {
    if !args.connections.is_multiple_of(args.groups) {
        let message = format!(
            "{} connections cannot be spread evenly over {} groups",
            args.connections, args.groups
        );
        return Err(Failure::usage(message).into());
    }
    let plan = Plan {
        topic: args.topic.clone(),
        partitions: prepare_topic(&args.topic, args.partitions, context).await?,
        groups: args.groups,
        members: args.connections / args.groups,
        connections: args.connections,
        every: None,
    };
    let crowd = Crowd::gather(&plan, context).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let (before, began) = (Used::of(args.pid)?, clock.mono());
    let mut loads = JoinSet::new();
    for seat in &crowd.seats {
        for _ in 0..args.in_flight {
            let load = Load {
                seat: Arc::clone(seat),
                clock: Arc::clone(&clock),
                until: began + args.duration,
            };
            loads.spawn(load.run());
        }
    }
    let mut done = Done::new();
    while let Some(joined) = loads.join_next().await {
        done.add(joined.map_err(|e| Failure::unexpected(format!("a member's task ended: {e}")))?);
    }
    let (after, took) = (Used::of(args.pid)?, clock.mono().saturating_sub(began));
    let used = Used::between(before, after);
    line(&report(
        &args,
        &done,
        took,
        used,
        args.json || !context.output.is_table(),
    ))?;
    let checked = crowd.board.check();
    crowd.leave(context).await?;
    checked?;
    done.outcome()
}

/// One commit after the other of one member.
struct Load {
    seat: Arc<Seat>,
    clock: Arc<dyn Clock>,
    until: Duration,
}

impl Load {
    async fn run(self) -> Done {
        let mut done = Done::new();
        let offset = |partition: crate::client::TopicPartition| OffsetToCommit {
            topic_id: Some(partition.topic_id),
            ..OffsetToCommit::new(partition.topic.as_ref(), partition.partition.0, Offset::ZERO)
        };
        let offsets: Vec<_> = self.seat.assigned().into_iter().map(offset).collect();
        while self.clock.mono() < self.until {
            let began = self.clock.mono();
            let (member, group) = (self.seat.member(), &self.seat.group);
            let committed = self
                .seat
                .client
                .commit_offsets_as(group, &member, offsets.clone());
            match committed.await {
                Ok(_) => done.latency.record(self.clock.mono().saturating_sub(began)),
                // The group came to rest a moment ago: the member's heartbeat is about to tell the new epoch.
                Err(error) if error.code() == Some(ErrorCode::StaleMemberEpoch) => {
                    tokio::time::sleep(STALE_PAUSE).await;
                    continue;
                }
                Err(error) => {
                    done.first_error.get_or_insert(Failure::from(error));
                    // What is refused once is refused again.
                    return done;
                }
            }
            done.commits += 1;
        }
        done
    }
}

/// What was committed.
struct Done {
    commits: u64,
    latency: Latency,
    first_error: Option<Failure>,
}

impl Done {
    fn new() -> Self {
        Self {
            commits: 0,
            latency: Latency::new(),
            first_error: None,
        }
    }

    fn add(&mut self, other: Self) {
        self.commits += other.commits;
        self.latency.add(&other.latency);
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn outcome(self) -> Outcome {
        match self.first_error {
            None => Ok(()),
            Some(failure) => Err(Failure {
                exit: Exit::Partial,
                ..failure
            }
            .into()),
        }
    }
}

fn report(args: &CommitBenchArgs, done: &Done, took: Duration, used: Option<Span>, json: bool) -> String {
    let rate = per_second(done.commits, took);
    if json {
        return json!({
            "connections": args.connections, "groups": args.groups, "in_flight": args.in_flight,
            "commits": done.commits, "commits_per_s": rate, "commit_us": done.latency.to_json(),
            "broker": used.map(|span| span.to_json(took)),
        })
        .to_string();
    }
    let used = used.map_or_else(String::new, |span| format!("\nbroker: {}", span.text(took)));
    format!(
        "{} durable commits of {} members of {} groups, {} in flight each\n{rate} commits/s\nuntil on disk: {}{used}",
        done.commits,
        args.connections,
        args.groups,
        args.in_flight,
        done.latency.text(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_have_committed_is_added_up_and_a_refusal_fails_the_run() {
        let mut sum = Done::new();
        for refused in [None, Some(Failure::usage("no".to_owned())), None] {
            let mut one = Done::new();
            one.commits = 3;
            one.latency.record(Duration::from_micros(50));
            one.first_error = refused;
            sum.add(one);
        }
        assert_eq!((sum.commits, sum.latency.quantile_us(1.0)), (9, 50));
        assert!(sum.outcome().is_err());
        assert!(Done::new().outcome().is_ok());
    }
}
