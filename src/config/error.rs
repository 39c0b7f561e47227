//! What is wrong with a configuration: where it stands, what it is, what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::ConfigError;
use super::place::{Excerpt, Source};

/// How many mistakes are told; the rest is counted.
const TOLD_MAX: usize = 20;

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// One entry is wrong.
    #[error("{}: {what}", place(at, excerpt.as_ref()))]
    Entry {
        /// Where it stands.
        at: Source,
        /// What is wrong.
        what: String,
        /// What to do about it.
        hint: String,
        /// The piece of the file, if it is one.
        excerpt: Option<Excerpt>,
    },
    /// The settings do not fit together.
    #[error("{error}{}", told(origins))]
    Check {
        /// What does not fit.
        error: ConfigError,
        /// The settings that it is about, and where they come from.
        origins: Vec<(&'static str, Source)>,
    },
    /// There are more mistakes than are told.
    #[error("and {0} more")]
    More(usize),
}

fn place(at: &Source, excerpt: Option<&Excerpt>) -> String {
    match excerpt {
        Some(excerpt) => format!("{}:{}", at.place(), excerpt.column()),
        None => at.place(),
    }
}

fn told(origins: &[(&'static str, Source)]) -> String {
    if origins.is_empty() {
        return String::new();
    }
    let origins: Vec<String> = origins
        .iter()
        .map(|(key, source)| format!("{key}: {source}"))
        .collect();
    format!(" ({})", origins.join(", "))
}

impl LoadError {
    /// What to do about it.
    pub fn hint(&self) -> &str {
        match self {
            Self::Unreadable { .. } => {
                "--config names another file; `naru config init FILE` writes one with all defaults"
            }
            Self::Entry { hint, .. } => hint,
            Self::Check { error, .. } => error.hint(),
            Self::More(_) => "",
        }
    }

    /// The line of the file with a mark under what is wrong.
    pub fn excerpt(&self) -> Option<&Excerpt> {
        match self {
            Self::Entry { excerpt, .. } => excerpt.as_ref(),
            Self::Unreadable { .. } | Self::Check { .. } | Self::More(_) => None,
        }
    }
}

/// Mistakes as they are found; those that are not told are only counted.
#[derive(Debug, Default)]
pub(super) struct Problems {
    told: Vec<LoadError>,
    more: usize,
}

impl Problems {
    /// One more. It is made only if it is told: a broken file may have very many.
    pub(super) fn add(&mut self, error: impl FnOnce() -> LoadError) {
        if self.told.len() < TOLD_MAX {
            self.told.push(error());
        } else {
            self.more += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// `value`, if there was no mistake.
    pub(super) fn or<T>(mut self, value: T) -> Result<T, LoadErrors> {
        if self.more > 0 {
            self.told.push(LoadError::More(self.more));
        }
        if self.is_empty() {
            Ok(value)
        } else {
            Err(LoadErrors(self.told))
        }
    }
}

/// Everything that is wrong with a configuration, in the order of its sources. On one line, as for a log.
// Invariant: never empty.
#[derive(Debug)]
pub struct LoadErrors(Vec<LoadError>);

impl LoadErrors {
    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &LoadError> {
        self.0.iter()
    }

    /// What to do about the first.
    pub fn hint(&self) -> &str {
        self.0.first().map_or("", LoadError::hint)
    }
}

impl fmt::Display for LoadErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.iter().enumerate() {
            let between = if index == 0 { "" } else { "; " };
            write!(f, "{between}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadErrors {}
