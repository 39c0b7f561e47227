//! `naru topic offsets`: where the partitions of a topic begin and end, and where a time is.

use clap::Args;
use serde_json::{Value, json};

use super::Context;
use super::failure::{Outcome, Stopped};
use super::offset_range::{Time, parse_time};
use super::output::{line, table};
use super::session::connect;
use crate::client::{Client, OffsetAt, PartitionDescription};
use crate::rt::{Clock as _, SystemClock};
use crate::telemetry::rfc3339_millis;

/// Flags of `topic offsets`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru topic offsets orders
  naru topic offsets orders --at -15m
  naru topic offsets orders --at 2026-11-25T09:30:00Z

START is the first record kept, HIGH-WATERMARK the end of what consumers see, END the end of what was taken in. With --at: the first
record in offset order that is not older than TIME, and its time; '-' where there is none, and reading from there gets what comes next.")]
pub(crate) struct TopicOffsetsArgs {
    /// Name of the topic.
    topic: String,
    /// Where this time is: RFC 3339, a date, 10-digit seconds, 13-digit milliseconds, or a signed duration as in -15m.
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    at: Option<Time>,
}

/// One partition, and where the time asked for is in it.
type Row = (PartitionDescription, Option<OffsetAt>);

pub(crate) async fn run(args: TopicOffsetsArgs, context: &Context) -> Outcome {
    let client = connect(context).await?;
    let topic = client.describe_topic(&args.topic).await?;
    let found = match args.at {
        Some(time) => find(&client, &args.topic, &topic.partitions, time).await?,
        None => vec![None; topic.partitions.len()],
    };
    let rows: Vec<Row> = topic.partitions.into_iter().zip(found).collect();
    if context.output.is_table() {
        line(&text(&rows, args.at.is_some()))?;
    } else {
        context.output.json_all(rows.iter().map(json_of).collect())?;
    }
    Ok(())
}

async fn find(
    client: &Client,
    topic: &str,
    partitions: &[PartitionDescription],
    time: Time,
) -> Result<Vec<Option<OffsetAt>>, Stopped> {
    let at = time.resolve(SystemClock::new().wall());
    let partitions: Vec<u32> = partitions.iter().map(|p| p.partition.0).collect();
    let found = client.offsets_at(topic, &partitions, at).await?;
    Ok(found
        .into_iter()
        .map(|found| found.map(Some))
        .collect::<Result<_, _>>()?)
}

fn text(rows: &[Row], with_time: bool) -> String {
    let mut header = vec!["PART", "START", "HIGH-WATERMARK", "END"];
    if with_time {
        header.extend(["AT", "TIME"]);
    }
    let cells = |(partition, found): &Row| {
        let mut cells = vec![
            partition.partition.to_string(),
            partition.log_start.to_string(),
            partition.high_watermark.to_string(),
            partition.log_end.to_string(),
        ];
        if let Some(found) = found {
            cells.push(found.offset.to_string());
            cells.push(found.timestamp.map_or("-".to_owned(), rfc3339_millis));
        }
        cells
    };
    table(&header, rows.iter().map(cells).collect(), &[0, 1, 2, 3, 4])
}

fn json_of((partition, found): &Row) -> Value {
    let mut json = json!({
        "partition": partition.partition.0,
        "log_start_offset": partition.log_start.get(),
        "high_watermark": partition.high_watermark.get(),
        "log_end_offset": partition.log_end.get(),
    });
    if let Some(found) = found {
        json["at_offset"] = json!(found.offset.get());
        json["at_timestamp"] = json!(found.timestamp.map(rfc3339_millis));
    }
    json
}
