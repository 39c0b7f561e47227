//! What goes to stdout: tables for people, JSON for programs. Everything else goes to stderr.

use std::io::{self, IsTerminal, Write};

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
            Format::Table | Format::Json => self.json(&serde_json::Value::Array(values)),
        }
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
    fn sizes_have_binary_units() {
        assert_eq!(bytes_text(0), "0 B");
        assert_eq!(bytes_text(3 << 20), "3.00 MiB");
    }
}
