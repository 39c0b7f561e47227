//! Configuration entries of a topic: names as in Kafka, values as text, in three classes.
//!
//! Some work, some are taken in and shown but have no effect here, some are refused with the reason. `docs/topics.md` shows
//! the tables below and is checked against them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::topic_keys::{KEYS, REFUSED, Spec};
use crate::model::{TopicConfig, nearest, parse_bytes, parse_millis};

/// What `storage` is called that is in memory alone.
const IN_MEMORY: &str = "memory";

/// How much of a bad entry a message repeats.
const QUOTED_CHARS_MAX: usize = 64;

/// A configuration entry that a topic may have. Ordered by name.
#[derive(Clone, Copy)]
pub struct ConfigKey(&'static Spec);

/// Why a configuration entry is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no such entry.
    #[error("there is no topic configuration {name:?}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// A similar name.
        nearest: Option<&'static str>,
    },
    /// The entry exists in Kafka, but Naru cannot do what it asks for.
    #[error("{name} is not supported: {reason}")]
    Refused {
        /// The entry.
        name: &'static str,
        /// Why not, and what comes nearest.
        reason: &'static str,
    },
    /// The value is none of those that the entry can have.
    #[error("{name} = {value:?} is not {expected}")]
    Value {
        /// The entry.
        name: &'static str,
        /// What was asked for.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// The entry is given twice, or both set and unset.
    #[error("{0} is given twice")]
    Twice(&'static str),
    /// The entry cannot be changed.
    #[error("{0} is fixed when a topic is made: make another topic")]
    Fixed(&'static str),
    /// The entry has no default of the broker.
    #[error("{0} is chosen topic by topic, the broker has no default for it")]
    NoDefault(&'static str),
}

/// What a configuration entry can be set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A size in bytes.
    Bytes {
        min: u64,
        max: u64,
        /// Whether -1 stands for "unlimited".
        or_unlimited: bool,
    },
    /// A duration in ms.
    Millis {
        min: u64,
        max: u64,
        /// Whether -1 stands for "unlimited".
        or_unlimited: bool,
    },
    /// A number.
    Count { min: u64, max: u64 },
    /// One of some words.
    Words(&'static [&'static str]),
    /// One value, and why there is no other.
    Only(&'static str, &'static str),
}

/// A checked value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigValue {
    /// Bytes, ms or a count.
    Number(u64),
    /// No limit; Kafka writes -1.
    Unlimited,
    /// One of the words that the entry knows.
    Word(&'static str),
}

/// Where the value of an entry comes from. The later ones win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigSource {
    /// Built in.
    Default,
    /// The broker's `topic.defaults`.
    Broker,
    /// The topic's own.
    Topic,
}

/// What the broker's configuration sets for topics that do not set it themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicDefaults(Entries);

/// Checked entries by key.
pub(super) type Entries = BTreeMap<ConfigKey, ConfigValue>;

impl ConfigKey {
    /// All of them, in the order of their names.
    pub fn all() -> impl Iterator<Item = Self> {
        KEYS.iter().map(Self)
    }

    /// The entry of this name.
    ///
    /// # Errors
    /// [`ConfigError::Refused`] and [`ConfigError::Unknown`].
    pub fn named(name: &str) -> Result<Self, ConfigError> {
        if let Some(spec) = KEYS.iter().find(|spec| spec.name == name) {
            return Ok(Self(spec));
        }
        let refused = REFUSED.iter().find(|(refused, _)| *refused == name);
        if let Some((name, reason)) = refused {
            return Err(ConfigError::Refused { name, reason });
        }
        Err(ConfigError::Unknown {
            name: name.chars().take(QUOTED_CHARS_MAX).collect(),
            nearest: nearest(name, KEYS.iter().map(|spec| spec.name)),
        })
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// Whether it changes anything here; otherwise it is stored and shown for the sake of tools that set it.
    pub const fn has_effect(self) -> bool {
        self.0.get.is_some()
    }

    /// What it does, or why it has no effect.
    pub const fn about(self) -> &'static str {
        self.0.about
    }

    /// Its built-in default.
    pub fn default_value(self) -> ConfigValue {
        self.0.value(&TopicConfig::default())
    }

    /// What it can be set to, in words.
    pub fn expected(self) -> String {
        self.0.kind.to_string()
    }

    fn parse(self, value: &str) -> Result<ConfigValue, ConfigError> {
        let kind = self.0.kind;
        if let Some(value) = kind.parse(value) {
            return Ok(value);
        }
        Err(ConfigError::Value {
            name: self.name(),
            value: value.chars().take(QUOTED_CHARS_MAX).collect(),
            expected: kind.to_string(),
        })
    }
}

impl PartialEq for ConfigKey {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for ConfigKey {}

impl PartialOrd for ConfigKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ConfigKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.name().cmp(other.name())
    }
}

impl fmt::Debug for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Kind {
    pub(super) fn parse(self, text: &str) -> Option<ConfigValue> {
        let in_range = |number: Option<u64>, min, max| {
            number
                .filter(|n| (min..=max).contains(n))
                .map(ConfigValue::Number)
        };
        match self {
            Self::Bytes { or_unlimited, .. } | Self::Millis { or_unlimited, .. }
                if or_unlimited && is_unlimited(text) =>
            {
                Some(ConfigValue::Unlimited)
            }
            Self::Bytes { min, max, .. } => in_range(parse_bytes(text), min, max),
            Self::Millis { min, max, .. } => in_range(parse_millis(text), min, max),
            Self::Count { min, max } => in_range(text.parse().ok(), min, max),
            Self::Words(words) => words
                .iter()
                .find(|word| **word == text)
                .map(|word| ConfigValue::Word(word)),
            Self::Only(word, _) => (word == text).then_some(ConfigValue::Word(word)),
        }
    }
}

/// Kafka's clients write the greatest number where they mean "any".
fn is_unlimited(text: &str) -> bool {
    matches!(text, "-1" | "none" | "unlimited" | "9223372036854775807")
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes {
                min,
                max,
                or_unlimited,
            } => {
                let or = if *or_unlimited { ", or -1: unlimited" } else { "" };
                write!(f, "a size from {min} to {max} bytes (256MiB is understood){or}")
            }
            Self::Millis {
                min,
                max,
                or_unlimited,
            } => {
                let or = if *or_unlimited { ", or -1: unlimited" } else { "" };
                write!(
                    f,
                    "a duration from {min} to {max} ms (7d, 12h, 30m, 10s are understood){or}"
                )
            }
            Self::Count { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Words(words) => f.write_str(&words.join(" or ")),
            Self::Only(word, reason) => write!(f, "{word}, the only value there is: {reason}"),
        }
    }
}

impl fmt::Display for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Unlimited => f.write_str("-1"),
            Self::Word(word) => f.write_str(word),
        }
    }
}

impl fmt::Display for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Broker => "broker",
            Self::Topic => "topic",
        })
    }
}

impl TopicDefaults {
    /// Checks entries as they are configured.
    ///
    /// # Errors
    /// As for a topic; and `storage`, which would change what existing topics are.
    pub fn parse<'a>(entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, ConfigError> {
        let entries = parse(entries)?;
        match entries.keys().find(|key| key.0.is_fixed()) {
            Some(key) => Err(ConfigError::NoDefault(key.name())),
            None => Ok(Self(entries)),
        }
    }

    /// Sets one entry, also over one that is there already.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse); then nothing has changed.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let Self(entry) = Self::parse([(name, value)])?;
        self.0.extend(entry);
        Ok(())
    }

    /// Names of the entries that are not the same in `other`.
    pub fn changes<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'static str> + 'a {
        ConfigKey::all()
            .filter(|key| self.0.get(key) != other.0.get(key))
            .map(ConfigKey::name)
    }

    /// The number that an entry is set to, if it is set and is one.
    pub fn number(&self, name: &str) -> Option<u64> {
        let key = ConfigKey::named(name).ok()?;
        match self.0.get(&key)? {
            ConfigValue::Number(number) => Some(*number),
            ConfigValue::Unlimited | ConfigValue::Word(_) => None,
        }
    }

    /// The same on a broker that keeps everything in memory: what its topics say about storage shall be true.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        let storage = KEYS.iter().find(|spec| spec.is_fixed()).map(ConfigKey);
        let memory = |key| (key, ConfigValue::Word(IN_MEMORY));
        self.0.extend(storage.map(memory));
        self
    }

    /// Checks that a topic does not ask for what a broker in memory has not.
    pub(super) fn check_storage(&self, entries: &Entries) -> Result<(), ConfigError> {
        let asked = |(key, _): &(&ConfigKey, _)| key.0.is_fixed() && self.0.contains_key(*key);
        let other = |(_, value): &(_, &ConfigValue)| **value != ConfigValue::Word(IN_MEMORY);
        match entries.iter().filter(asked).find(other) {
            None => Ok(()),
            Some((key, value)) => Err(ConfigError::Value {
                name: key.name(),
                value: value.to_string(),
                expected: format!("{IN_MEMORY}: this broker keeps everything in memory (storage.in_memory)"),
            }),
        }
    }
}

/// Checks entries as they were given.
pub(super) fn parse<'a>(
    entries: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Entries, ConfigError> {
    let mut checked = Entries::new();
    for (name, value) in entries {
        let key = ConfigKey::named(name)?;
        let value = key.parse(value)?;
        if checked.insert(key, value).is_some() {
            return Err(ConfigError::Twice(key.name()));
        }
    }
    Ok(checked)
}

/// What a topic's own entries become when some are set and some go back to the default.
pub(super) fn altered<'a>(
    entries: &Entries,
    set: impl IntoIterator<Item = (&'a str, &'a str)>,
    unset: impl IntoIterator<Item = &'a str>,
) -> Result<Entries, ConfigError> {
    let mut result = entries.clone();
    let mut touched = BTreeSet::new();
    for (name, value) in set {
        let key = ConfigKey::named(name)?;
        if !touched.insert(key) {
            return Err(ConfigError::Twice(key.name()));
        }
        if !key.0.is_fixed() {
            result.insert(key, key.parse(value)?);
            continue;
        }
        // Setting it to what it is changes nothing, so that tools may write back what they have read.
        let (current, _) = shown(key, &TopicDefaults::default(), entries);
        if key.parse(value) != Ok(current) {
            return Err(ConfigError::Fixed(key.name()));
        }
    }
    for name in unset {
        let key = ConfigKey::named(name)?;
        if !touched.insert(key) {
            return Err(ConfigError::Twice(key.name()));
        }
        if result.remove(&key).is_some() && key.0.is_fixed() {
            return Err(ConfigError::Fixed(key.name()));
        }
    }
    Ok(result)
}

/// The configuration in force.
pub(super) fn effective(defaults: &TopicDefaults, entries: &Entries) -> TopicConfig {
    let mut config = TopicConfig::default();
    for (key, value) in defaults.0.iter().chain(entries) {
        (key.0.set)(&mut config, *value);
    }
    config
}

/// The value in force, and where it comes from.
pub(super) fn shown(
    key: ConfigKey,
    defaults: &TopicDefaults,
    entries: &Entries,
) -> (ConfigValue, ConfigSource) {
    if let Some(value) = entries.get(&key) {
        return (*value, ConfigSource::Topic);
    }
    match defaults.0.get(&key) {
        Some(value) => (*value, ConfigSource::Broker),
        None => (key.default_value(), ConfigSource::Default),
    }
}
