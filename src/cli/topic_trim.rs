//! `naru topic trim`: removes the oldest records. Shows what would go, and does it only when told to.

use clap::Args;
use serde_json::json;

use super::Context;
use super::failure::{Exit, Failure, Outcome, Stopped};
use super::output::{bytes_text, line, say, table};
use super::session::connect;
use crate::client::{Client, PartitionDescription, TopicDescription, TrimTo};
use crate::model::{Offset, Timestamp};

/// Flags of `topic trim`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["to_offset", "to_end", "before"]))]
#[command(after_help = "Examples:
  naru topic trim orders --before 2026-11-01T00:00:00Z
  naru topic trim orders --to-offset 120000 -p 3 --execute
  naru topic trim orders --to-end --execute

Without --execute nothing is changed. What is removed cannot be had back; offsets go on where they ended.")]
pub(crate) struct TrimArgs {
    /// Topic whose oldest records go.
    topic: String,
    /// Remove what lies below this offset.
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    to_offset: Option<i64>,
    /// Remove everything that is there.
    #[arg(long)]
    to_end: bool,
    /// Remove records up to the first one of this time or later: RFC 3339, as in 2026-11-01T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    before: Option<jiff::Timestamp>,
    /// Only this partition; may be repeated.
    #[arg(short, long = "partition", value_name = "N")]
    partitions: Vec<u32>,
    /// Do it.
    #[arg(long)]
    execute: bool,
}

/// What becomes of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Planned {
    partition: u32,
    from: Offset,
    to: Offset,
    end: Offset,
    size_bytes: u64,
}

impl Planned {
    fn records(&self) -> u64 {
        self.to.since(self.from)
    }
}

/// Plans, shows, and executes if asked to.
///
/// # Errors
/// No such topic or partition, an offset above the high watermark, or those of every request.
pub(crate) async fn run(args: TrimArgs, context: &Context) -> Outcome {
    let client = connect(context).await?;
    let topic = client.describe_topic(&args.topic).await?;
    let plan = plan(&client, &args, &topic).await?;
    show(&plan, &args, context)?;
    if !args.execute {
        if context.output.is_table() {
            say("Nothing was changed. Run again with --execute.");
        }
        return Ok(());
    }
    execute(&client, &args.topic, &plan).await
}

async fn plan(client: &Client, args: &TrimArgs, topic: &TopicDescription) -> Result<Vec<Planned>, Stopped> {
    let chosen = chosen(args, topic)?;
    let mut plan = Vec::with_capacity(chosen.len());
    for partition in chosen {
        let index = partition.partition.0;
        let to = match (args.to_offset.and_then(Offset::new), args.before) {
            (Some(offset), _) => offset,
            (None, Some(before)) => {
                let at = Timestamp(before.as_millisecond());
                let found = client.offsets_at(&args.topic, &[index], at).await?;
                match found.into_iter().next() {
                    Some(found) => found?.offset,
                    None => partition.log_start,
                }
            }
            (None, None) => partition.high_watermark,
        };
        if to > partition.high_watermark {
            let message = format!(
                "offset {to} is above the end of {}/{index}, which is {}",
                args.topic, partition.high_watermark
            );
            return Err(Failure::new(Exit::NotFound, "OFFSET_OUT_OF_RANGE", message)
                .hint("use --to-end to remove everything")
                .into());
        }
        plan.push(Planned {
            partition: index,
            from: partition.log_start,
            to: to.max(partition.log_start),
            end: partition.high_watermark,
            size_bytes: partition.size_bytes,
        });
    }
    Ok(plan)
}

fn chosen<'a>(
    args: &TrimArgs,
    topic: &'a TopicDescription,
) -> Result<Vec<&'a PartitionDescription>, Failure> {
    let all = &topic.partitions;
    if args.partitions.is_empty() {
        return Ok(all.iter().collect());
    }
    let find = |wanted: &u32| {
        all.iter().find(|p| p.partition.0 == *wanted).ok_or_else(|| {
            let message = format!("topic '{}' has no partition {wanted}", args.topic);
            Failure::new(Exit::NotFound, "UNKNOWN_TOPIC_OR_PARTITION", message)
        })
    };
    args.partitions.iter().map(find).collect()
}

fn show(plan: &[Planned], args: &TrimArgs, context: &Context) -> Outcome {
    if !context.output.is_table() {
        let partitions: Vec<_> = plan.iter().map(json_of).collect();
        context.output.json(&json!({
            "topic": args.topic, "executed": args.execute, "partitions": partitions,
            "records": plan.iter().map(Planned::records).sum::<u64>(),
        }))?;
        return Ok(());
    }
    let row = |planned: &Planned| {
        vec![
            planned.partition.to_string(),
            planned.from.to_string(),
            planned.to.to_string(),
            planned.end.to_string(),
            planned.records().to_string(),
            bytes_text(planned.size_bytes),
        ]
    };
    let rows = plan.iter().map(row).collect();
    let header = ["PART", "START", "NEW START", "END", "REMOVES", "SIZE NOW"];
    line(&table(&header, rows, &[0, 1, 2, 3, 4, 5]))?;
    Ok(())
}

fn json_of(planned: &Planned) -> serde_json::Value {
    json!({
        "partition": planned.partition,
        "log_start_offset": planned.from.get(),
        "new_log_start_offset": planned.to.get(),
        "high_watermark": planned.end.get(),
        "removes": planned.records(),
    })
}

async fn execute(client: &Client, topic: &str, plan: &[Planned]) -> Outcome {
    let partitions: Vec<_> = plan.iter().map(|p| (p.partition, TrimTo::Offset(p.to))).collect();
    for (trimmed, planned) in client.trim_topic(topic, &partitions).await?.into_iter().zip(plan) {
        trimmed.map_err(|error| {
            let mut failure = Failure::from(error);
            failure.message = format!("{topic}/{}: {}", planned.partition, failure.message);
            failure
        })?;
    }
    say(&format!(
        "{} records removed",
        plan.iter().map(Planned::records).sum::<u64>()
    ));
    Ok(())
}
