//! The record format language of `-f`: letters known from kcat and rpk. `consume` writes records with a format, and
//! `produce` reads them with the same one.
//!
//! Pure: text in, records out, and the other way round. The letters are in `table`, which help is made of, too. The words
//! are cut in `parse`; `write` and `read` are the two directions. Not every format can be read: where it does not say where
//! a field ends, [`RecordReader::new`] refuses it.

mod forms;
mod parse;
mod read;
mod table;
mod write;

use std::ops::Range;

use super::failure::Failure;
use crate::model::{Offset, PartitionId};
use crate::record::Record;
use forms::{Encoding, NumberForm, TimeForm};
use table::{Number, Text};

#[cfg(test)]
use read::Unreadable;
pub(crate) use read::{Fields, Incoming, RecordReader};
pub(crate) use table::{Reader, help};
pub(crate) use write::DoesNotFit;

/// The word that stands for JSON lines instead of a format.
pub(crate) const JSON: &str = "json";

/// A record and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// The record.
    pub record: &'a Record,
    /// Running number of the output, from 1.
    pub number: u64,
}

/// A parsed format.
#[derive(Clone, Debug)]
pub(crate) struct RecordFormat {
    text: String,
    parts: Vec<Placed>,
}

/// A part and where it stands in the text of the format, in bytes.
#[derive(Clone, Debug)]
struct Placed {
    part: Part,
    span: Range<usize>,
}

#[derive(Clone, Debug)]
enum Part {
    Literal(Vec<u8>),
    Text(Text, Encoding),
    Number(Number, NumberForm),
    Time(TimeForm),
    Headers(Vec<Placed>),
}

/// A format that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FormatError {
    /// Where in the format, in bytes.
    span: Range<usize>,
    /// What is wrong.
    what: String,
    /// What to write instead.
    hint: String,
}

impl RecordFormat {
    /// Reads a format.
    ///
    /// # Errors
    /// Says what is wrong, shows where, and what to write instead.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let parts = parse::parts(text).map_err(|error| error.failure(text))?;
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }
}

impl FormatError {
    fn new(span: Range<usize>, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            span,
            what: what.into(),
            hint: hint.into(),
        }
    }

    /// The failure of a command that was given this format.
    fn failure(&self, format: &str) -> Failure {
        let before = format.get(..self.span.start).unwrap_or(format);
        let marked = format.get(self.span.clone()).unwrap_or_default();
        let column = before.chars().count() + 1;
        // One column per character, whatever was typed, so that the carets stand where they should.
        let shown: String = format
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let carets = "^".repeat(marked.chars().count().max(1));
        Failure::usage(format!("record format, column {column}: {}", self.what))
            .shown(format!("  {shown}\n  {:1$}{carets}", "", column - 1))
            .hint(self.hint.clone())
    }
}

#[cfg(test)]
mod tests;
