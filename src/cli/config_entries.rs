//! Configuration entries of topics and groups as people see them: which there are, and what a change has changed.

use serde_json::{Value, json};

use super::Context;
use super::failure::{Exit, Failure, Outcome};
use super::output::{Format, line, table};
use super::topic::{config_json, value_text};
use crate::client::TopicConfigEntry;
use crate::model::nearest;

pub(super) const NOTHING_TO_CHANGE: &str = "nothing to change: it is so already";
pub(super) const CHANGED: &str = "changed, and in force";

/// Shows entries with where each comes from.
pub(super) fn show_entries(context: &Context, entries: &[&TopicConfigEntry]) -> Outcome {
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
    let header: &[&str] = if entries.iter().any(|entry| entry.without_effect) {
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
        .list(header, &[], entries.iter().map(row).map(shorten))?;
    Ok(())
}

/// The entries of these names; all of them if none is named. `of`: whose they are; `command` shows all of them.
pub(super) fn chosen<'a>(
    keys: &[String],
    all: &'a [TopicConfigEntry],
    [of, command]: [&str; 2],
) -> Result<Vec<&'a TopicConfigEntry>, Failure> {
    if keys.is_empty() {
        return Ok(all.iter().collect());
    }
    let find = |key: &String| {
        let found = all.iter().find(|entry| entry.name == *key);
        found.ok_or_else(|| {
            let message = format!("{of} shows no entry '{key}'");
            let similar = nearest(key, all.iter().map(|entry| entry.name.as_str()));
            let hint = similar.map_or_else(
                || format!("all that it shows: {command}"),
                |name| format!("did you mean '{name}'?"),
            );
            Failure::new(Exit::NotFound, "INVALID_CONFIG", message).hint(hint)
        })
    };
    keys.iter().map(find).collect()
}

/// Shows what is different; in JSON as `changes` of `whole`.
pub(super) fn show_changes(
    context: &Context,
    mut whole: Value,
    [before, now]: [&[TopicConfigEntry]; 2],
) -> Outcome {
    let changes = changes(before, now);
    let all: Vec<Value> = changes.iter().map(Change::json).collect();
    match context.output.format {
        Format::Table if changes.is_empty() => {}
        Format::Table => {
            let rows = changes.iter().map(Change::row).collect();
            line(&table(&["ENTRY", "BEFORE", "NOW"], rows, &[]))?;
        }
        Format::Csv => context.output.json_all(all)?,
        Format::Json | Format::Ndjson => {
            whole["changes"] = all.into();
            context.output.json(&whole)?;
        }
    }
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
            let keys = [key.to_owned()];
            chosen(&keys, &all, ["topic 'orders'", "naru topic config get orders"])
                .map(|entries| entries.len())
        };
        assert_eq!(ask("segment.ms"), Ok(1));
        let failure = ask("retention.m").unwrap_err();
        assert_eq!(failure.exit.code(), 3);
        assert_eq!(failure.hint.as_deref(), Some("did you mean 'retention.ms'?"));
    }
}
