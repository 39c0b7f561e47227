//! Values of settings: what each kind takes, how it is read, and how it is shown.

use std::fmt;
use std::net::SocketAddr;

use crate::model::{parse_bytes, parse_millis, show_bytes, show_millis};
use crate::telemetry;

/// How much of a bad value a message repeats.
const QUOTED_CHARS_MAX: usize = 64;

/// A value as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    /// From a variable, a flag or `--set`: text without a type.
    Plain(String),
    /// A string of a file.
    Text(String),
    /// A whole number of a file.
    Integer(String),
    /// `true` or `false` of a file.
    Flag(bool),
    /// Anything else that a file can hold; its name.
    Other(&'static str),
}

/// What a setting can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// host:port, the host a number.
    Address,
    /// A path; empty: none, where that is allowed.
    Path { or_none: bool },
    /// `true` or `false`.
    Flag,
    /// A size in bytes.
    Bytes { min: u64, max: u64 },
    /// A duration in ms.
    Millis { min: u64, max: u64 },
    /// A whole number.
    Count { min: u64, max: u64 },
    /// One of some words.
    Words(&'static [&'static str]),
    /// A log level or directives.
    Level,
}

/// A checked value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Address(SocketAddr),
    Text(String),
    Flag(bool),
    Number(u64),
}

impl Kind {
    /// The value, if it is one of this kind.
    pub(super) fn parse(self, raw: &Raw) -> Option<Value> {
        let in_range =
            |number: Option<u64>, min, max| number.filter(|n| (min..=max).contains(n)).map(Value::Number);
        match (self, raw) {
            (Self::Flag, Raw::Flag(flag)) => Some(Value::Flag(*flag)),
            (Self::Flag, Raw::Plain(text)) => text.parse().ok().map(Value::Flag),
            (Self::Bytes { min, max }, Raw::Plain(text) | Raw::Text(text) | Raw::Integer(text)) => {
                in_range(parse_bytes(text), min, max)
            }
            (Self::Millis { min, max }, Raw::Plain(text) | Raw::Text(text) | Raw::Integer(text)) => {
                in_range(parse_millis(text), min, max)
            }
            (Self::Count { min, max }, Raw::Plain(text) | Raw::Integer(text)) => {
                in_range(text.parse().ok(), min, max)
            }
            (Self::Address, Raw::Plain(text) | Raw::Text(text)) => text.parse().ok().map(Value::Address),
            (Self::Path { or_none }, Raw::Plain(text) | Raw::Text(text)) => {
                (or_none || !text.is_empty()).then(|| Value::Text(text.clone()))
            }
            (Self::Words(words), Raw::Plain(text) | Raw::Text(text)) => {
                words.contains(&text.as_str()).then(|| Value::Text(text.clone()))
            }
            (Self::Level, Raw::Plain(text) | Raw::Text(text)) => {
                let settings = telemetry::Settings {
                    level: text.clone(),
                    ..telemetry::Settings::default()
                };
                (!text.is_empty() && settings.check().is_ok()).then(|| Value::Text(text.clone()))
            }
            _ => None,
        }
    }

    /// The value as [`Kind::parse`] reads it, with the largest unit that leaves a whole number.
    pub(super) fn show(self, value: &Value) -> String {
        match (self, value) {
            (Self::Bytes { .. }, Value::Number(bytes)) => show_bytes(*bytes),
            (Self::Millis { .. }, Value::Number(ms)) => show_millis(*ms),
            (_, Value::Number(number)) => number.to_string(),
            (_, Value::Address(address)) => address.to_string(),
            (_, Value::Text(text)) => text.clone(),
            (_, Value::Flag(flag)) => flag.to_string(),
        }
    }

    /// The value as a file has it.
    pub(super) fn toml(self, value: &Value) -> String {
        match self {
            Self::Flag | Self::Count { .. } => self.show(value),
            _ => toml::Value::String(self.show(value)).to_string(),
        }
    }
}

/// What would be right, in words.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("an address as in 127.0.0.1:9640"),
            Self::Path { or_none: false } => f.write_str("a path"),
            Self::Path { or_none: true } => f.write_str("a path; empty: none"),
            Self::Flag => f.write_str("true or false"),
            Self::Bytes { min, max } => {
                write!(f, "a size from {} to {}", show_bytes(*min), show_bytes(*max))
            }
            Self::Millis { min, max } => {
                write!(
                    f,
                    "a duration from {} to {}",
                    show_millis(*min),
                    show_millis(*max)
                )
            }
            Self::Count { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Words(words) => f.write_str(&words.join(" or ")),
            Self::Level => {
                f.write_str("error, warn, info, debug, trace, or directives as in warn,naru::storage=debug")
            }
        }
    }
}

/// As much of a text as a message repeats.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(QUOTED_CHARS_MAX).collect()
}

/// As a message repeats it.
impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(text) | Self::Text(text) => write!(f, "{:?}", cut(text)),
            Self::Integer(text) => f.write_str(&cut(text)),
            Self::Flag(flag) => flag.fmt(f),
            Self::Other(what) => write!(f, "({what})"),
        }
    }
}
