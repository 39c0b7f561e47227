//! Configuration entries of a topic: names as in Kafka, values as text, ranges.

use std::collections::BTreeMap;

use super::nearest::nearest;
use crate::model::TopicConfig;

/// What can be configured per topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigKey {
    /// `max.message.bytes`
    MaxMessageBytes,
    /// `segment.bytes`
    SegmentBytes,
    /// `index.interval.bytes`
    IndexIntervalBytes,
}

/// All names, sorted.
pub const CONFIG_NAMES: [&str; 3] = ["index.interval.bytes", "max.message.bytes", "segment.bytes"];

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
    /// The value is no number in the range.
    #[error("{name} = {value:?} is no whole number from {min} to {max}")]
    OutOfRange {
        /// The entry.
        name: &'static str,
        /// What was asked for.
        value: String,
        /// Least value.
        min: u32,
        /// Greatest value.
        max: u32,
    },
    /// The entry is given twice.
    #[error("{0} is given twice")]
    Twice(&'static str),
}

impl ConfigKey {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 3] = [
        Self::IndexIntervalBytes,
        Self::MaxMessageBytes,
        Self::SegmentBytes,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IndexIntervalBytes => CONFIG_NAMES[0],
            Self::MaxMessageBytes => CONFIG_NAMES[1],
            Self::SegmentBytes => CONFIG_NAMES[2],
        }
    }

    /// Least and greatest value, in bytes.
    pub const fn range(self) -> (u32, u32) {
        match self {
            Self::IndexIntervalBytes => (256, 16 << 20),
            // A batch travels in one frame and one journal group; both end at 8 MiB.
            Self::MaxMessageBytes => (1 << 10, 8 << 20),
            // Positions in a segment fit 31 bits, as stock tools expect.
            Self::SegmentBytes => (64 << 10, 0x7fff_ffff),
        }
    }

    /// The value in force.
    pub const fn get(self, config: &TopicConfig) -> u32 {
        match self {
            Self::IndexIntervalBytes => config.index_interval_bytes,
            Self::MaxMessageBytes => config.max_message_bytes,
            Self::SegmentBytes => config.segment_bytes,
        }
    }

    fn set(self, config: &mut TopicConfig, value: u32) {
        match self {
            Self::IndexIntervalBytes => config.index_interval_bytes = value,
            Self::MaxMessageBytes => config.max_message_bytes = value,
            Self::SegmentBytes => config.segment_bytes = value,
        }
    }

    fn parse(name: &str, value: &str) -> Result<(Self, u32), ConfigError> {
        let key = Self::ALL.into_iter().find(|key| key.name() == name);
        let key = key.ok_or_else(|| ConfigError::Unknown {
            // Cut, because the message repeats it.
            name: name.chars().take(64).collect(),
            nearest: nearest(name, CONFIG_NAMES),
        })?;
        let (min, max) = key.range();
        let number = value.parse::<u32>().ok().filter(|n| (min..=max).contains(n));
        let number = number.ok_or_else(|| ConfigError::OutOfRange {
            name: key.name(),
            value: value.chars().take(64).collect(),
            min,
            max,
        })?;
        Ok((key, number))
    }
}

/// The entries that a topic sets itself.
pub(super) type Entries = BTreeMap<ConfigKey, u32>;

/// Checks entries as they were given.
pub(super) fn parse<'a>(
    entries: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Entries, ConfigError> {
    let mut checked = Entries::new();
    for (name, value) in entries {
        let (key, number) = ConfigKey::parse(name, value)?;
        if checked.insert(key, number).is_some() {
            return Err(ConfigError::Twice(key.name()));
        }
    }
    Ok(checked)
}

/// The configuration in force.
pub(super) fn effective(entries: &Entries) -> TopicConfig {
    let mut config = TopicConfig::default();
    for (key, value) in entries {
        key.set(&mut config, *value);
    }
    config
}
