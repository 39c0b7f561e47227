//! What goes to stdout: tables for people, JSON for programs. Everything else goes to stderr.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// Form of a command's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns.
    Table,
    /// JSON, indented.
    Json,
    /// JSON, one value per line.
    Ndjson,
    /// Comma-separated values with a line of names, for lists.
    Csv,
}

/// Where a command writes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// The form.
    pub format: Format,
    /// The form, if the command line names one.
    pub chosen: Option<Format>,
    /// Say nothing that was not asked for.
    pub quiet: bool,
    /// Colours are wanted and can be shown.
    pub colours: bool,
}

/// What the command line says about output.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wishes {
    /// A form, if one was named.
    pub format: Option<Format>,
    /// `-q`.
    pub quiet: bool,
    /// `--no-color`.
    pub no_colours: bool,
}

impl Output {
    /// Fills in what was not said: a table on a terminal, one JSON value per line in a pipe.
    pub(crate) fn new(wishes: Wishes) -> Self {
        let terminal = io::stdout().is_terminal();
        let default = if terminal { Format::Table } else { Format::Ndjson };
        Self {
            format: wishes.format.unwrap_or(default),
            chosen: wishes.format,
            quiet: wishes.quiet,
            colours: terminal && !wishes.no_colours,
        }
    }

    /// True if people read it.
    pub(crate) fn is_table(&self) -> bool {
        self.format == Format::Table
    }

    /// True if JSON was asked for by name: for commands whose output is a story, even in a pipe.
    pub(crate) fn wants_json(&self) -> bool {
        matches!(self.chosen, Some(Format::Json | Format::Ndjson))
    }

    /// Writes one JSON value in the form that was chosen.
    ///
    /// # Errors
    /// Whatever stdout says.
    pub(crate) fn json(&self, value: &serde_json::Value) -> io::Result<()> {
        match self.format {
            Format::Ndjson => line(&value.to_string()),
            Format::Csv => line(&csv(std::slice::from_ref(value))),
            Format::Table | Format::Json => line(&format!("{value:#}")),
        }
    }

    /// Writes JSON values: an array, or one line each.
    ///
    /// # Errors
    /// Whatever stdout says.
    pub(crate) fn json_all(&self, values: Vec<serde_json::Value>) -> io::Result<()> {
        match self.format {
            Format::Ndjson => values.iter().try_for_each(|value| line(&value.to_string())),
            Format::Csv if values.is_empty() => Ok(()),
            Format::Csv => line(&csv(&values)),
            Format::Table | Format::Json => self.json(&serde_json::Value::Array(values)),
        }
    }

    /// Writes a list: each item as a row for people and as a JSON value for programs.
    ///
    /// # Errors
    /// Whatever stdout says.
    pub(crate) fn list(
        &self,
        header: &[&str],
        right: &[usize],
        items: impl Iterator<Item = (Vec<String>, serde_json::Value)>,
    ) -> io::Result<()> {
        if self.is_table() {
            let rows = items.map(|(row, _)| row).collect();
            return line(&table(header, rows, right));
        }
        self.json_all(items.map(|(_, value)| value).collect())
    }

    /// Tells people what was done and what may come next, on stderr.
    pub(crate) fn tell(&self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }
}

/// Writes a line to stdout.
///
/// # Errors
/// Whatever stdout says.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes a line to stderr; there is nobody left to tell if that fails.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Aligned columns without lines around them. Columns named in `right` are aligned to the right.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>, right: &[usize]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// One fact per line, names before values.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = facts
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}"))
        .collect();
    lines.join("\n")
}

/// JSON objects as comma-separated values (RFC 4180 with `\n`): a line of names, those of the first object, and a line for
/// each. What is itself a list or an object stands there as JSON.
fn csv(values: &[serde_json::Value]) -> String {
    let names: Vec<&String> = match values.first() {
        Some(serde_json::Value::Object(object)) => object.keys().collect(),
        _ => return String::new(),
    };
    let header = names
        .iter()
        .map(|name| csv_field(name))
        .collect::<Vec<_>>()
        .join(",");
    let row = |value: &serde_json::Value| {
        let fields = names.iter().map(|name| match &value[name.as_str()] {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(text) => csv_field(text),
            other => csv_field(&other.to_string()),
        });
        fields.collect::<Vec<_>>().join(",")
    };
    std::iter::once(header)
        .chain(values.iter().map(row))
        .collect::<Vec<_>>()
        .join("\n")
}

fn csv_field(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// A duration for people, with its two greatest units: `1h 2m`, `3s 40ms`.
pub(crate) fn duration_text(duration: Duration) -> String {
    const UNITS: [(u128, &str); 5] = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
        (1, "ms"),
    ];
    let mut left = duration.as_millis();
    let mut parts = Vec::new();
    for (size, unit) in UNITS {
        let count = left / size;
        left %= size;
        // Nothing small behind the second unit, and nothing in between.
        if count > 0 {
            parts.push(format!("{count}{unit}"));
        }
        if parts.len() == 2 || (!parts.is_empty() && count == 0) {
            break;
        }
    }
    if parts.is_empty() {
        return "0ms".to_owned();
    }
    parts.join(" ")
}

/// Bytes for people: `3.1 GiB`.
pub(crate) fn bytes_text(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let rows = vec![
            vec!["orders".to_owned(), "12".to_owned()],
            vec!["x".to_owned(), "1".to_owned()],
        ];
        assert_eq!(
            table(&["TOPIC", "RECORDS"], rows, &[1]),
            "TOPIC   RECORDS\norders       12\nx             1"
        );
    }

    #[test]
    fn facts_stand_below_each_other() {
        let text = facts(&[("a", "1".to_owned()), ("bcd", "2".to_owned())]);
        assert_eq!(text, "a    1\nbcd  2");
    }

    #[test]
    fn values_with_commas_and_quotes_are_quoted() {
        let values = [
            serde_json::json!({"name": "a,b", "n": 1, "list": [1, 2]}),
            serde_json::json!({"name": "say \"x\"", "n": null, "list": []}),
        ];
        assert_eq!(
            csv(&values),
            "list,n,name\n\"[1,2]\",1,\"a,b\"\n[],,\"say \"\"x\"\"\""
        );
        assert_eq!(csv(&[]), "");
    }

    #[test]
    fn durations_have_their_two_greatest_units() {
        for (ms, text) in [
            (0, "0ms"),
            (40, "40ms"),
            (3_040, "3s 40ms"),
            (60_000, "1m"),
            (3_600_500, "1h"),
            (90_061_000, "1d 1h"),
        ] {
            assert_eq!(duration_text(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(bytes_text(0), "0 B");
        assert_eq!(bytes_text(3 << 20), "3.00 MiB");
    }
}
