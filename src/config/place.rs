//! Where a value stands: its source, and for a file the line that can be shown.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// How much of a line is shown.
const EXCERPT_CHARS_MAX: usize = 100;

/// How much of it comes before what is wrong, if the line is longer.
const CONTEXT_CHARS: usize = 30;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    Default,
    /// A line of a file, from 1.
    File(PathBuf, usize),
    /// A variable of the environment.
    Env(String),
    /// `--set`.
    Set,
    /// A flag, with its dashes.
    Flag(&'static str),
}

impl Source {
    /// The place itself, as an error begins.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::File(path, line) => format!("{}:{line}", path.display()),
            Self::Env(name) => name.clone(),
            Self::Set => "--set".to_owned(),
            Self::Flag(name) => (*name).to_owned(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Default | Self::Set => "",
            Self::File(..) => "file ",
            Self::Env(_) => "env ",
            Self::Flag(_) => "flag ",
        };
        write!(f, "{kind}{}", self.place())
    }
}

/// A file that was read, and where its lines begin.
#[derive(Debug)]
pub(super) struct FileText {
    pub(super) path: PathBuf,
    pub(super) text: String,
    line_starts: Vec<usize>,
}

impl FileText {
    pub(super) fn new(path: PathBuf, text: String) -> Self {
        let behind_newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0)
            .chain(behind_newlines.map(|(at, _)| at + 1))
            .collect();
        Self {
            path,
            text,
            line_starts,
        }
    }

    /// The line of a position, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at)
    }

    /// The source that a value at this position has.
    pub(super) fn source(&self, at: usize) -> Source {
        Source::File(self.path.clone(), self.line(at))
    }

    /// The line of a piece of the text, with a mark under as much of the piece as is on that line.
    pub(super) fn excerpt(&self, piece: Range<usize>) -> Excerpt {
        let line = self.line(piece.start);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let rest = self.text.get(start..).unwrap_or("");
        let text = rest.lines().next().unwrap_or("");
        let chars_until = |at: usize| text.char_indices().take_while(|(i, _)| start + i < at).count();
        let from = chars_until(piece.start);
        let marked = chars_until(piece.end).saturating_sub(from).max(1);
        let skipped = if text.chars().count() > EXCERPT_CHARS_MAX {
            from.saturating_sub(CONTEXT_CHARS)
        } else {
            0
        };
        // A tab or worse would put the mark in the wrong place.
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        Excerpt {
            line,
            column: from + 1,
            text: text
                .chars()
                .skip(skipped)
                .take(EXCERPT_CHARS_MAX)
                .map(plain)
                .collect(),
            mark: from - skipped..(from - skipped + marked).min(EXCERPT_CHARS_MAX),
        }
    }
}

/// A piece of a file, for people to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    line: usize,
    column: usize,
    text: String,
    /// In characters of `text`.
    mark: Range<usize>,
}

impl Excerpt {
    /// The column, from 1, in characters.
    pub fn column(&self) -> usize {
        self.column
    }
}

/// Three lines without an end of line, as compilers show them.
impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let text = self.text.trim_end();
        let (before, marks) = (" ".repeat(self.mark.start), "^".repeat(self.mark.len().max(1)));
        write!(f, "{margin} |\n{number} | {text}\n{margin} | {before}{marks}")
    }
}

/// Where the name and the value of an entry stand in a file.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    pub(super) file: Arc<FileText>,
    pub(super) name: Range<usize>,
    pub(super) value: Range<usize>,
}

impl Spot {
    pub(super) fn of_name(&self) -> Excerpt {
        self.file.excerpt(self.name.clone())
    }

    pub(super) fn of_value(&self) -> Excerpt {
        self.file.excerpt(self.value.clone())
    }
}
