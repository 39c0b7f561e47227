//! `naru bench heartbeat`: what groups that are at rest cost the broker, and how long members take to join them.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::broker_process::{Span, Used};
use super::crowd::{Crowd, Plan, prepare_topic};
use super::{Latency, per_second};
use crate::cli::Context;
use crate::cli::failure::Outcome;
use crate::cli::output::line;
use crate::cli::parse_duration;
use crate::rt::Clock;

/// Flags of `bench heartbeat`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  naru bench heartbeat --groups 1000 --members 5 --connections 200 --duration 30s --pid \"$(pidof naru)\"

The members join one after the other, hold partitions and read nothing. `join_us`: until a join is answered. `joining_s`: from \
the first join until every partition has an owner and every member its share. Then nothing happens but heartbeats. Exit code 8 if \
a member is refused.")]
pub(crate) struct HeartbeatBenchArgs {
    /// Topic to subscribe to; created with --partitions if it is missing.
    #[arg(long, default_value = "bench-heartbeat")]
    topic: String,
    /// Partitions of a topic that is created.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// Groups.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    groups: u32,
    /// Members of each group.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    members: u32,
    /// Connections that the members share.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    connections: u32,
    /// How long to heartbeat when all are there.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// Send heartbeats at this interval that do not wait, instead of one that the broker holds back until there is news.
    #[arg(long, value_parser = parse_duration)]
    every: Option<Duration>,
    /// Process id of the broker, if it runs on this machine: what it uses is told, too.
    #[arg(long)]
    pid: Option<u32>,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: HeartbeatBenchArgs, context: &Context) -> Outcome {
    let plan = Plan {
        topic: args.topic.clone(),
        partitions: prepare_topic(&args.topic, args.partitions, context).await?,
        groups: args.groups,
        members: args.members,
        connections: args.connections,
        every: args.every,
    };
    let before = Used::of(args.pid)?;
    let clock = crate::rt::SystemClock::new();
    let began = clock.mono();
    let crowd = Crowd::gather(&plan, context).await?;
    let (joined, joining) = (Used::of(args.pid)?, clock.mono().saturating_sub(began));
    let (beats, began) = (crowd.board.beats(), clock.mono());
    tokio::time::sleep(args.duration).await;
    let (after, took) = (Used::of(args.pid)?, clock.mono().saturating_sub(began));
    let result = Summary {
        groups: plan.groups,
        members: plan.groups.saturating_mul(plan.members),
        connections: plan.connections,
        partitions: plan.partitions,
        joining,
        took,
        beats: crowd.board.beats().saturating_sub(beats),
        while_joining: Used::between(before, joined),
        at_rest: Used::between(joined, after),
    };
    line(&result.report(&crowd.joins, args.json || !context.output.is_table()))?;
    let checked = crowd.board.check();
    crowd.leave(context).await?;
    checked?;
    Ok(())
}

/// What is reported.
#[derive(Clone, Copy, Debug)]
struct Summary {
    groups: u32,
    members: u32,
    connections: u32,
    partitions: u32,
    joining: Duration,
    took: Duration,
    beats: u64,
    while_joining: Option<Span>,
    at_rest: Option<Span>,
}

impl Summary {
    fn report(&self, joins: &Latency, json: bool) -> String {
        let rate = per_second(self.beats, self.took);
        if json {
            return json!({
                "groups": self.groups, "members": self.members, "connections": self.connections,
                "partitions": self.partitions, "joining_s": self.joining.as_secs_f64(), "join_us": joins.to_json(),
                "duration_s": self.took.as_secs_f64(), "heartbeats": self.beats, "heartbeats_per_s": rate,
                "broker_joining": self.while_joining.map(|span| span.to_json(self.joining)),
                "broker": self.at_rest.map(|span| span.to_json(self.took)),
            })
            .to_string();
        }
        let mut text = format!(
            "{} members of {} groups over {} connections, {} partitions each group\njoined one by one in {:.3} s: {}\n{} heartbeats, {rate}/s",
            self.members,
            self.groups,
            self.connections,
            self.partitions,
            self.joining.as_secs_f64(),
            joins.text(),
            self.beats,
        );
        let spans = [
            ("broker, joining ", self.while_joining, self.joining),
            ("broker, at rest ", self.at_rest, self.took),
        ];
        for (name, span, took) in spans {
            if let Some(span) = span {
                text.push('\n');
                text.push_str(name);
                text.push_str(&span.text(took));
            }
        }
        text
    }
}
