//! `naru topic config get|set|unset`: what a topic is configured with.

use clap::{Args, Subcommand};
use serde_json::json;

use super::Context;
use super::config_entries::{CHANGED, NOTHING_TO_CHANGE, chosen, show_changes, show_entries};
use super::failure::Outcome;
use super::session::connect;
use super::topic::parse_config;
use crate::client::AlterTopicOptions;

/// What to do with the configuration of a topic.
#[derive(Debug, Subcommand)]
pub(crate) enum TopicConfigCommand {
    /// Show the entries in force, and where each comes from.
    Get(GetArgs),
    /// Set entries, all of them or none; in force at once.
    Set(SetArgs),
    /// Let entries go back to the broker's default.
    Unset(UnsetArgs),
}

/// Flags of `topic config get`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru topic config get orders
  naru topic config get orders retention.ms --format json

SOURCE says who sets the value: the topic itself, the broker's topic.defaults, or nobody (default).")]
pub(crate) struct GetArgs {
    /// Name of the topic.
    topic: String,
    /// Only these entries.
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
}

/// Flags of `topic config set`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru topic config set orders retention.ms=12h
  naru topic config set orders retention.ms=unlimited retention.bytes=10GiB --dry-run

Retention removes what the new values do not keep within half a minute, and it cannot be had back; see what goes
next with 'naru topic describe TOPIC'. The entries there are: docs/topics.md.")]
pub(crate) struct SetArgs {
    /// Name of the topic.
    topic: String,
    /// Entries and their values.
    #[arg(value_name = "KEY=VALUE", value_parser = parse_config, required = true)]
    entries: Vec<(String, String)>,
    /// Only check, and show what would change.
    #[arg(long)]
    dry_run: bool,
}

/// Flags of `topic config unset`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  naru topic config unset orders retention.ms")]
pub(crate) struct UnsetArgs {
    /// Name of the topic.
    topic: String,
    /// Entries that the topic is no longer to have of its own.
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<String>,
    /// Only check, and show what would change.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(command: TopicConfigCommand, context: &Context) -> Outcome {
    let (topic, options) = match command {
        TopicConfigCommand::Get(args) => return get(args, context).await,
        TopicConfigCommand::Set(args) => {
            let options = AlterTopicOptions {
                set: args.entries,
                validate_only: args.dry_run,
                ..AlterTopicOptions::default()
            };
            (args.topic, options)
        }
        TopicConfigCommand::Unset(args) => {
            let options = AlterTopicOptions {
                unset: args.keys,
                validate_only: args.dry_run,
                ..AlterTopicOptions::default()
            };
            (args.topic, options)
        }
    };
    alter(&topic, options, context).await
}

async fn get(args: GetArgs, context: &Context) -> Outcome {
    let client = connect(context).await?;
    let described = client.describe_topic(&args.topic).await?;
    let of = format!("topic '{}'", args.topic);
    let command = format!("naru topic config get {}", args.topic);
    show_entries(context, &chosen(&args.keys, &described.configs, [&of, &command])?)
}

async fn alter(topic: &str, options: AlterTopicOptions, context: &Context) -> Outcome {
    let client = connect(context).await?;
    let before = client.describe_topic(topic).await?;
    let dry_run = options.validate_only;
    let options = AlterTopicOptions {
        topic_id: Some(before.topic_id),
        ..options
    };
    let after = client.alter_topic(topic, options).await?;
    let whole = json!({
        "topic": topic, "id": after.topic_id.to_string(), "changed": after.changed, "dry_run": dry_run,
    });
    show_changes(context, whole, [&before.configs, &after.configs])?;
    context.output.tell(match (after.changed, dry_run) {
        (false, _) => NOTHING_TO_CHANGE,
        (true, true) => "a dry run: nothing was changed",
        (true, false) => CHANGED,
    });
    Ok(())
}
