//! `naru topic create|list|describe|delete`; the other verbs have files of their own.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Context;
use super::failure::{Exit, Failure, Outcome, Stopped};
use super::output::{bytes_text, line, table};
use super::session::connect;
use super::topic_config::{self, TopicConfigCommand};
use super::topic_offsets::{self, TopicOffsetsArgs};
use super::topic_partitions::{self, AddPartitionsArgs};
use crate::client::{
    CreateTopicOptions, Error, ListTopicsOptions, NextDeletion, PartitionDescription, TopicConfigEntry,
    TopicDescription, TopicListing,
};
use crate::model::{ErrorCode, show_bytes, show_millis};
use crate::telemetry::rfc3339_millis;

/// What to do with topics.
#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Create a topic.
    Create(CreateArgs),
    /// List topics: partitions, records, size.
    List(ListArgs),
    /// Show everything about a topic.
    Describe(NameArgs),
    /// Show and change what a topic is configured with.
    #[command(subcommand)]
    Config(TopicConfigCommand),
    /// Give a topic more partitions.
    AddPartitions(AddPartitionsArgs),
    /// Show where partitions begin and end, and where a time is.
    Offsets(TopicOffsetsArgs),
    /// Remove the oldest records of a topic; shows first what would go.
    Trim(super::topic_trim::TrimArgs),
    /// Delete a topic and all of its records; asks first.
    Delete(NameArgs),
}

/// Flags of `topic create`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  naru topic create orders -p 6 -c max.message.bytes=2097152")]
pub(crate) struct CreateArgs {
    /// Name: letters, digits, '.', '_' and '-', at most 200.
    name: String,
    /// Number of partitions [default: the broker's, 1].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// A configuration entry; may be repeated.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse_config)]
    config: Vec<(String, String)>,
    /// An existing topic with as many partitions is success.
    #[arg(long)]
    if_not_exists: bool,
}

/// Flags of `topic list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only names that fit: '*' is any text, '?' any character.
    #[arg(long = "match", value_name = "GLOB", default_value = "")]
    pattern: String,
    /// The broker's own topics, too.
    #[arg(long)]
    internal: bool,
}

/// The name of a topic.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Name of the topic.
    name: String,
}

/// Reads `KEY=VALUE`.
pub(super) fn parse_config(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

pub(crate) async fn run(command: TopicCommand, context: &Context) -> Outcome {
    match command {
        TopicCommand::Create(args) => create(args, context).await,
        TopicCommand::List(args) => list(args, context).await,
        TopicCommand::Describe(args) => describe(args, context).await,
        TopicCommand::Config(command) => topic_config::run(command, context).await,
        TopicCommand::AddPartitions(args) => topic_partitions::run(args, context).await,
        TopicCommand::Offsets(args) => topic_offsets::run(args, context).await,
        TopicCommand::Trim(args) => super::topic_trim::run(args, context).await,
        TopicCommand::Delete(args) => delete(args, context).await,
    }
}

async fn create(args: CreateArgs, context: &Context) -> Outcome {
    let client = connect(context).await?;
    let options = CreateTopicOptions {
        partitions: args.partitions.unwrap_or(0),
        configs: args.config,
        if_not_exists: args.if_not_exists,
    };
    let topic = client
        .create_topic(&args.name, options)
        .await
        .map_err(|error| not_created(&args.name, error))?;
    if context.output.is_table() {
        let what = if topic.created {
            "created"
        } else {
            "exists already"
        };
        line(&format!(
            "topic '{}' {what}, partitions: {}",
            args.name, topic.partitions
        ))?;
        context
            .output
            .tell(&format!("write to it: naru produce {}", args.name));
    } else {
        context.output.json(&json!({
            "name": args.name, "id": topic.topic_id.to_string(), "partitions": topic.partitions,
            "created": topic.created,
        }))?;
    }
    Ok(())
}

/// A topic that is there already is told with the flag that makes it no mistake, and with how to look at it.
fn not_created(name: &str, error: Error) -> Failure {
    let exists = error.code() == Some(ErrorCode::TopicAlreadyExists);
    let failure = Failure::from(error);
    if exists {
        failure.hint(format!(
            "with --if-not-exists that is success where the number of partitions is the same; look at it: naru topic describe {name}"
        ))
    } else {
        failure
    }
}

async fn list(args: ListArgs, context: &Context) -> Outcome {
    let client = connect(context).await?;
    let options = ListTopicsOptions {
        pattern: args.pattern,
        include_internal: args.internal,
        page: 0,
    };
    let topics = client.list_topics(&options).await?;
    if !context.output.is_table() {
        context
            .output
            .json_all(topics.iter().map(listing_json).collect())?;
        return Ok(());
    }
    if topics.is_empty() {
        context.output.tell("no topics; make one: naru topic create NAME");
        return Ok(());
    }
    let rows = topics.iter().map(listing_row).collect();
    line(&table(&["TOPIC", "PART", "RECORDS", "SIZE"], rows, &[1, 2, 3]))?;
    Ok(())
}

fn listing_json(topic: &TopicListing) -> Value {
    json!({
        "name": topic.name, "id": topic.topic_id.to_string(), "partitions": topic.partitions,
        "records": topic.records, "size_bytes": topic.size_bytes,
    })
}

fn listing_row(topic: &TopicListing) -> Vec<String> {
    vec![
        topic.name.clone(),
        topic.partitions.to_string(),
        topic.records.to_string(),
        bytes_text(topic.size_bytes),
    ]
}

async fn describe(args: NameArgs, context: &Context) -> Outcome {
    let client = connect(context).await?;
    let topic = client.describe_topic(&args.name).await?;
    if context.output.is_table() {
        line(&description_text(&topic))?;
    } else {
        context.output.json(&description_json(&topic))?;
    }
    Ok(())
}

fn records_of(partition: &PartitionDescription) -> u64 {
    partition.high_watermark.since(partition.log_start)
}

fn description_text(topic: &TopicDescription) -> String {
    let records: u64 = topic.partitions.iter().map(records_of).sum();
    let bytes: u64 = topic.partitions.iter().map(|p| p.size_bytes).sum();
    let mut facts = vec![
        ("topic", topic.name.clone()),
        ("id", topic.topic_id.to_string()),
        ("created", rfc3339_millis(topic.created)),
        ("partitions", topic.partitions.len().to_string()),
        ("records", records.to_string()),
        ("size", bytes_text(bytes)),
    ];
    let configs: Vec<_> = topic
        .configs
        .iter()
        .map(|c| (c.name.as_str(), config_text(c)))
        .collect();
    facts.extend(configs);
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let facts: String = facts
        .into_iter()
        .map(|(name, value)| format!("{name:width$}  {value}\n"))
        .collect();
    let damaged = topic.partitions.iter().any(|p| !p.quarantined.is_empty());
    let mut header = vec![
        "PART",
        "LEADER",
        "EPOCH",
        "START",
        "END",
        "RECORDS",
        "SIZE",
        "SEGMENTS",
        "PRODUCERS",
        "NEXT DELETION",
    ];
    if damaged {
        header.push("DAMAGED");
    }
    let rows = topic
        .partitions
        .iter()
        .map(|partition| partition_row(partition, damaged))
        .collect();
    format!("{facts}\n{}", table(&header, rows, &[0, 1, 2, 3, 4, 5, 6, 7, 8]))
}

fn partition_row(partition: &PartitionDescription, damaged: bool) -> Vec<String> {
    let mut row = vec![
        partition.partition.to_string(),
        partition.leader.to_string(),
        partition.leader_epoch.to_string(),
        partition.log_start.to_string(),
        partition.high_watermark.to_string(),
        records_of(partition).to_string(),
        bytes_text(partition.size_bytes),
        partition.segments.to_string(),
        partition.producers.to_string(),
        partition
            .next_deletion
            .map_or_else(|| "-".to_owned(), next_deletion_text),
    ];
    if damaged {
        let ranges: Vec<String> = partition
            .quarantined
            .iter()
            .map(|(first, last)| format!("{first}-{last}"))
            .collect();
        row.push(ranges.join(" "));
    }
    row
}

fn next_deletion_text(next: NextDeletion) -> String {
    let when = match (next.at, next.after_bytes) {
        (Some(at), _) => format!("at {}", rfc3339_millis(at)),
        (None, Some(bytes)) => format!("after {} more", bytes_text(bytes)),
        (None, None) => "some time".to_owned(),
    };
    format!("below {} {when}", next.upto)
}

fn next_deletion_json(next: NextDeletion) -> Value {
    json!({
        "upto_offset": next.upto.get(),
        "at": next.at.map(rfc3339_millis),
        "after_bytes": next.after_bytes,
    })
}

/// A value for people: durations and sizes with their unit.
pub(super) fn value_text(entry: &TopicConfigEntry) -> String {
    match entry.value.parse() {
        Ok(ms) if entry.name.ends_with(".ms") => show_millis(ms),
        Ok(bytes) if entry.name.ends_with(".bytes") => show_bytes(bytes),
        _ if entry.value == "-1" => "unlimited".to_owned(),
        _ => entry.value.clone(),
    }
}

/// An entry for people: its value, who sets it, and a word where it has no effect.
fn config_text(entry: &TopicConfigEntry) -> String {
    let value = value_text(entry);
    let effect = if entry.without_effect {
        ", without effect"
    } else {
        ""
    };
    format!("{value} ({}{effect})", entry.source)
}

pub(super) fn config_json(entry: &TopicConfigEntry) -> Value {
    json!({
        "name": entry.name,
        "value": entry.value,
        "source": entry.source,
        "without_effect": entry.without_effect,
    })
}

fn description_json(topic: &TopicDescription) -> Value {
    let partitions: Vec<Value> = topic.partitions.iter().map(partition_json).collect();
    let configs: Vec<Value> = topic.configs.iter().map(config_json).collect();
    json!({
        "name": topic.name,
        "id": topic.topic_id.to_string(),
        "created": rfc3339_millis(topic.created),
        "records": topic.partitions.iter().map(records_of).sum::<u64>(),
        "size_bytes": topic.partitions.iter().map(|p| p.size_bytes).sum::<u64>(),
        "partitions": partitions,
        "configs": configs,
    })
}

fn partition_json(partition: &PartitionDescription) -> Value {
    let quarantined: Vec<Value> = partition
        .quarantined
        .iter()
        .map(|(first, last)| json!({"first_offset": first.get(), "last_offset": last.get()}))
        .collect();
    json!({
        "partition": partition.partition.0,
        "leader": partition.leader,
        "leader_epoch": partition.leader_epoch,
        "log_start_offset": partition.log_start.get(),
        "high_watermark": partition.high_watermark.get(),
        "log_end_offset": partition.log_end.get(),
        "records": records_of(partition),
        "size_bytes": partition.size_bytes,
        "segments": partition.segments,
        "producers": partition.producers,
        "quarantined": quarantined,
        "next_deletion": partition.next_deletion.map(next_deletion_json),
    })
}

async fn delete(args: NameArgs, context: &Context) -> Outcome {
    // Before anything else: a script that forgot -y hears of it even when no broker runs.
    if !context.yes && !io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "refusing to delete topic '{}' without being asked twice",
            args.name
        ))
        .hint("add -y if you mean it")
        .into());
    }
    let client = connect(context).await?;
    if !context.yes {
        let topic = client.describe_topic(&args.name).await.map_err(not_there)?;
        let records: u64 = topic.partitions.iter().map(records_of).sum();
        confirm(&format!(
            "delete topic '{}' with {records} records? [y/N] ",
            args.name
        ))
        .await?;
    }
    let id = client.delete_topic(&args.name).await.map_err(not_there)?;
    if context.output.is_table() {
        line(&format!("topic '{}' deleted", args.name))?;
    } else {
        context
            .output
            .json(&json!({"name": args.name, "id": id.to_string(), "deleted": true}))?;
    }
    Ok(())
}

/// Who wants to delete a topic does not want to hear how to create it.
fn not_there(error: Error) -> Failure {
    let failure = Failure::from(error);
    match &failure.hint {
        Some(hint) if hint.starts_with("create it") => failure.hint("'naru topic list' shows what there is"),
        _ => failure,
    }
}

/// Asks on the terminal. Anything but yes ends the command.
pub(super) async fn confirm(question: &str) -> Result<(), Stopped> {
    write!(io::stderr().lock(), "{question}")?;
    // On a thread of its own, so that Ctrl-C still ends the command.
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("answer".to_owned())
        .spawn(move || {
            let mut answer = String::new();
            let read = io::stdin().lock().read_line(&mut answer);
            // Nobody waits any more if the command was interrupted.
            let _ = sender.send(read.map(|_| answer));
        })?;
    let answer = match receiver.await {
        Ok(answer) => answer?,
        Err(_) => String::new(),
    };
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::new(Exit::Interrupted, "DECLINED", "nothing was deleted").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Offset, PartitionId, Timestamp, TopicId};

    fn topic() -> TopicDescription {
        TopicDescription {
            name: "orders".to_owned(),
            topic_id: TopicId::from_bytes([7; 16]),
            created: Timestamp(0),
            configs: vec![TopicConfigEntry {
                name: "max.message.bytes".to_owned(),
                value: "100".to_owned(),
                source: "topic".to_owned(),
                without_effect: false,
            }],
            partitions: vec![PartitionDescription {
                partition: PartitionId(0),
                leader: 1,
                leader_epoch: 3,
                log_start: Offset::ZERO,
                high_watermark: Offset::new(41).unwrap(),
                log_end: Offset::new(42).unwrap(),
                size_bytes: 1024,
                segments: 1,
                producers: 2,
                quarantined: vec![(Offset::new(4).unwrap(), Offset::new(9).unwrap())],
                next_deletion: None,
            }],
        }
    }

    #[test]
    fn a_description_names_damage_only_where_there_is_some() {
        let mut topic = topic();
        let text = description_text(&topic);
        assert!(text.contains("DAMAGED") && text.contains("4-9"), "{text}");
        assert!(text.contains("max.message.bytes  100B (topic)"), "{text}");
        topic.partitions[0].quarantined.clear();
        assert!(!description_text(&topic).contains("DAMAGED"));
    }

    #[test]
    fn entries_are_shown_with_units_and_effect() {
        let shown = |name: &str, value: &str, without_effect| {
            config_text(&TopicConfigEntry {
                name: name.to_owned(),
                value: value.to_owned(),
                source: "broker".to_owned(),
                without_effect,
            })
        };
        assert_eq!(shown("retention.ms", "604800000", false), "7d (broker)");
        assert_eq!(shown("retention.ms", "-1", false), "unlimited (broker)");
        assert_eq!(shown("segment.bytes", "65536", false), "64KiB (broker)");
        assert_eq!(
            shown("preallocate", "true", true),
            "true (broker, without effect)"
        );
    }

    #[test]
    fn a_description_as_json_has_the_marks_as_numbers() {
        let json = description_json(&topic());
        assert_eq!(json["partitions"][0]["high_watermark"], 41);
        assert_eq!(json["partitions"][0]["quarantined"][0]["last_offset"], 9);
        assert_eq!(json["records"], 41);
    }

    #[test]
    fn config_entries_need_a_name() {
        assert_eq!(parse_config("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(parse_config("=b").is_err());
        assert!(parse_config("a").is_err());
    }
}
