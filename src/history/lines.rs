//! A history in a file: one event in each line.

use super::event::Event;

/// Why something is no event.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    /// Not a partition.
    #[error("{0:?} is no partition: topic/index")]
    At(String),
    /// Not a record.
    #[error("{0:?} is no record: process-number")]
    Uid(String),
    /// Not an event; the reason of the parser.
    #[error("line {line} is no event: {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// Why.
        reason: String,
    },
}

/// The line of an event, its end included.
pub fn write(event: &Event) -> String {
    let mut line = serde_json::to_string(event).expect("names are strings and numbers are integers");
    line.push('\n');
    line
}

/// The event of a line.
///
/// # Errors
/// `Line` with this number, if it is none.
pub fn parse(number: usize, line: &str) -> Result<Event, BadEvent> {
    serde_json::from_str(line).map_err(|error| BadEvent::Line {
        line: number,
        reason: error.to_string(),
    })
}

/// The events of a file. A last line without an end is left out: its writer was killed.
///
/// # Errors
/// `Line` for the first line that is no event.
pub fn read(text: &str) -> Result<Vec<Event>, BadEvent> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    (1..)
        .zip(whole.lines())
        .map(|(number, line)| parse(number, line))
        .collect()
}
