//! `naru topic config get|set|unset`: what a topic is configured with.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Context;
use super::failure::{Exit, Failure, Outcome};
use super::output::{Format, line, table};
use super::session::connect;
use super::topic::{config_json, parse_config, value_text};
use crate::client::{AlterTopicOptions, TopicConfigEntry};
use crate::model::nearest;

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
    let chosen = chosen(&args, &described.configs)?;
    let row = |entry: &&TopicConfigEntry| {
        let effect = if entry.without_effect { "none" } else { "" };
        let cells = vec![
            entry.name.clone(),
            value_text(entry),
            entry.source.clone(),
            effect.to_owned(),
        ];
        (cells, config_json(entry))
    };
    let header: &[&str] = if chosen.iter().any(|entry| entry.without_effect) {
        &["ENTRY", "VALUE", "SOURCE", "EFFECT"]
    } else {
        &["ENTRY", "VALUE", "SOURCE"]
    };
    let shorten = |(mut cells, json): (Vec<String>, Value)| {
        cells.truncate(header.len());
        (cells, json)
    };
    context
        .output
        .list(header, &[], chosen.iter().map(row).map(shorten))?;
    Ok(())
}

fn chosen<'a>(args: &GetArgs, all: &'a [TopicConfigEntry]) -> Result<Vec<&'a TopicConfigEntry>, Failure> {
    if args.keys.is_empty() {
        return Ok(all.iter().collect());
    }
    let find = |key: &String| {
        let found = all.iter().find(|entry| entry.name == *key);
        found.ok_or_else(|| {
            let message = format!("topic '{}' shows no entry '{key}'", args.topic);
            let similar = nearest(key, all.iter().map(|entry| entry.name.as_str()));
            let hint = similar.map_or_else(
                || format!("all that it shows: naru topic config get {}", args.topic),
                |name| format!("did you mean '{name}'?"),
            );
            Failure::new(Exit::NotFound, "INVALID_CONFIG", message).hint(hint)
        })
    };
    args.keys.iter().map(find).collect()
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
    let changes = changes(&before.configs, &after.configs);
    let all: Vec<Value> = changes.iter().map(Change::json).collect();
    match context.output.format {
        Format::Table => {}
        Format::Csv => return Ok(context.output.json_all(all)?),
        Format::Json | Format::Ndjson => {
            return Ok(context.output.json(&json!({
                "topic": topic, "id": after.topic_id.to_string(), "changed": after.changed,
                "dry_run": dry_run, "changes": all,
            }))?);
        }
    }
    if !changes.is_empty() {
        let rows = changes.iter().map(Change::row).collect();
        line(&table(&["ENTRY", "BEFORE", "NOW"], rows, &[]))?;
    }
    context.output.tell(match (after.changed, dry_run) {
        (false, _) => "nothing to change: it is so already",
        (true, true) => "a dry run: nothing was changed",
        (true, false) => "changed, and in force",
    });
    Ok(())
}

/// An entry that is another one than before, or comes from somewhere else.
#[derive(Debug, PartialEq, Eq)]
struct Change<'a> {
    name: &'a str,
    /// `None`: it was not shown.
    before: Option<&'a TopicConfigEntry>,
    now: Option<&'a TopicConfigEntry>,
}

fn changes<'a>(before: &'a [TopicConfigEntry], now: &'a [TopicConfigEntry]) -> Vec<Change<'a>> {
    let mut names: Vec<&str> = before
        .iter()
        .chain(now)
        .map(|entry| entry.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    let find = |entries: &'a [TopicConfigEntry], name| entries.iter().find(|entry| entry.name == name);
    let change = |name| Change {
        name,
        before: find(before, name),
        now: find(now, name),
    };
    let all = names.into_iter().map(change);
    all.filter(|change| change.before != change.now).collect()
}

impl Change<'_> {
    fn row(&self) -> Vec<String> {
        let text = |entry: Option<&TopicConfigEntry>| {
            entry.map_or_else(
                || "-".to_owned(),
                |entry| format!("{} ({})", value_text(entry), entry.source),
            )
        };
        vec![self.name.to_owned(), text(self.before), text(self.now)]
    }

    fn json(&self) -> Value {
        let (before, now) = (self.before, self.now);
        json!({
            "name": self.name,
            "value_before": before.map(|entry| &entry.value),
            "source_before": before.map(|entry| &entry.source),
            "value": now.map(|entry| &entry.value),
            "source": now.map(|entry| &entry.source),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, value: &str, source: &str) -> TopicConfigEntry {
        TopicConfigEntry {
            name: name.to_owned(),
            value: value.to_owned(),
            source: source.to_owned(),
            without_effect: false,
        }
    }

    #[test]
    fn what_changed_is_shown_with_both_sides() {
        let before = [
            entry("a", "1", "default"),
            entry("retention.ms", "60000", "topic"),
        ];
        let now = [
            entry("a", "1", "topic"),
            entry("preallocate", "true", "topic"),
            entry("retention.ms", "60000", "topic"),
        ];
        let found = changes(&before, &now);
        let rows: Vec<_> = found.iter().map(Change::row).collect();
        assert_eq!(
            rows,
            [
                ["a", "1 (default)", "1 (topic)"],
                ["preallocate", "-", "true (topic)"]
            ]
        );
        assert_eq!(found[1].json()["value_before"], Value::Null);
        assert_eq!(found[1].json()["value"], "true");
        assert_eq!(changes(&now, &now), []);
    }

    #[test]
    fn an_entry_that_is_not_there_is_asked_back() {
        let all = [
            entry("retention.ms", "1", "topic"),
            entry("segment.ms", "1", "topic"),
        ];
        let ask = |key: &str| {
            let args = GetArgs {
                topic: "orders".to_owned(),
                keys: vec![key.to_owned()],
            };
            chosen(&args, &all).map(|entries| entries.len())
        };
        assert_eq!(ask("segment.ms"), Ok(1));
        let failure = ask("retention.m").unwrap_err();
        assert_eq!(failure.exit.code(), 3);
        assert_eq!(failure.hint.as_deref(), Some("did you mean 'retention.ms'?"));
    }
}
