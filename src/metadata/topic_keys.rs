//! The tables of what a topic can be configured with, and of what is refused and why.

use super::config::{ConfigValue, Kind};
use crate::model::{TimestampType, TopicConfig, TopicStorage};

/// A hundred years in ms: beyond, "unlimited" is meant.
const MILLIS_MAX: u64 = 100 * 365 * 86_400_000;

/// As much as a signed 64-bit number of another broker's tools can say.
const NUMBER_MAX: u64 = (1 << 63) - 1;

const FLAG: Kind = Kind::Words(&["false", "true"]);

/// One configuration entry.
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) about: &'static str,
    /// Reads it from a configuration; `None`: it has no effect.
    pub(super) get: Option<fn(&TopicConfig) -> ConfigValue>,
    pub(super) set: fn(&mut TopicConfig, ConfigValue),
    /// The default of an entry without effect.
    default: ConfigValue,
}

impl Spec {
    const fn works(
        name: &'static str,
        kind: Kind,
        about: &'static str,
        get: fn(&TopicConfig) -> ConfigValue,
        set: fn(&mut TopicConfig, ConfigValue),
    ) -> Self {
        Self {
            name,
            kind,
            about,
            get: Some(get),
            set,
            default: ConfigValue::Unlimited,
        }
    }

    const fn without_effect(
        name: &'static str,
        kind: Kind,
        default: ConfigValue,
        about: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            about,
            get: None,
            set: |_, _| {},
            default,
        }
    }

    pub(super) fn value(&self, config: &TopicConfig) -> ConfigValue {
        self.get.map_or(self.default, |get| get(config))
    }

    /// Whether it is chosen when the topic is made, once and for all.
    pub(super) fn is_fixed(&self) -> bool {
        self.name == "storage"
    }
}

const fn bytes(min: u64, max: u64) -> Kind {
    Kind::Bytes {
        min,
        max,
        or_unlimited: false,
    }
}

const fn millis(min: u64, or_unlimited: bool) -> Kind {
    Kind::Millis {
        min,
        max: MILLIS_MAX,
        or_unlimited,
    }
}

fn number(value: ConfigValue) -> u64 {
    match value {
        ConfigValue::Number(number) => number,
        ConfigValue::Unlimited | ConfigValue::Word(_) => u64::MAX,
    }
}

/// Only for entries whose range fits.
fn number32(value: ConfigValue) -> u32 {
    u32::try_from(number(value)).unwrap_or(u32::MAX)
}

fn optional(value: ConfigValue) -> Option<u64> {
    match value {
        ConfigValue::Number(number) => Some(number),
        ConfigValue::Unlimited | ConfigValue::Word(_) => None,
    }
}

fn limit(value: Option<u64>) -> ConfigValue {
    value.map_or(ConfigValue::Unlimited, ConfigValue::Number)
}

fn show32(value: u32) -> ConfigValue {
    ConfigValue::Number(u64::from(value))
}

/// All entries that are taken in, sorted by name.
pub(super) static KEYS: [Spec; 22] = [
    Spec::works(
        "cleanup.policy",
        Kind::Only(
            "delete",
            "there is no compaction yet, old records go by retention.ms and retention.bytes",
        ),
        "how old records go: by age and size",
        |_| ConfigValue::Word("delete"),
        |_, _| {},
    ),
    Spec::without_effect(
        "compression.type",
        Kind::Only(
            "producer",
            "batches are stored as they come, so compression is chosen in the producer",
        ),
        ConfigValue::Word("producer"),
        "batches are always stored as the producer compressed them",
    ),
    Spec::without_effect(
        "file.delete.delay.ms",
        millis(0, false),
        ConfigValue::Number(60_000),
        "files go when the last reader has let go of them, which needs no delay",
    ),
    Spec::without_effect(
        "flush.messages",
        Kind::Count {
            min: 1,
            max: NUMBER_MAX,
        },
        ConfigValue::Number(NUMBER_MAX),
        "a record acknowledged with acks=fsync is on disk in any case",
    ),
    Spec::without_effect(
        "flush.ms",
        Kind::Millis {
            min: 0,
            max: NUMBER_MAX,
            or_unlimited: false,
        },
        ConfigValue::Number(NUMBER_MAX),
        "a record acknowledged with acks=fsync is on disk in any case",
    ),
    Spec::works(
        "index.interval.bytes",
        bytes(256, 16 << 20),
        "at least so many bytes of log between two entries of an index",
        |config| show32(config.index_interval_bytes),
        |config, value| config.index_interval_bytes = number32(value),
    ),
    Spec::works(
        "max.message.bytes",
        // A batch travels in one frame and one journal group; both end at 8 MiB.
        bytes(1 << 10, 8 << 20),
        "largest record batch",
        |config| show32(config.max_message_bytes),
        |config, value| config.max_message_bytes = number32(value),
    ),
    Spec::works(
        "memory.bytes",
        bytes(64 << 10, 1 << 40),
        "most bytes of a partition of a topic in memory; beyond, its oldest records go",
        |config| ConfigValue::Number(config.memory_bytes),
        |config, value| config.memory_bytes = number(value),
    ),
    Spec::works(
        "message.timestamp.after.max.ms",
        millis(0, true),
        "how far a producer's time may lie ahead of the broker's clock",
        |config| limit(config.timestamp_after_max_ms),
        |config, value| config.timestamp_after_max_ms = optional(value),
    ),
    Spec::works(
        "message.timestamp.before.max.ms",
        millis(0, true),
        "how far a producer's time may lie behind the broker's clock",
        |config| limit(config.timestamp_before_max_ms),
        |config, value| config.timestamp_before_max_ms = optional(value),
    ),
    Spec::works(
        "message.timestamp.type",
        Kind::Words(&["CreateTime", "LogAppendTime"]),
        "whose time records have: the producer's or the broker's",
        |config| {
            ConfigValue::Word(match config.timestamp_type {
                TimestampType::CreateTime => "CreateTime",
                TimestampType::LogAppendTime => "LogAppendTime",
            })
        },
        |config, value| {
            config.timestamp_type = match value {
                ConfigValue::Word("LogAppendTime") => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            }
        },
    ),
    Spec::without_effect(
        "min.insync.replicas",
        Kind::Only(
            "1",
            "one broker keeps one copy, and acks=fsync is what makes a record safe",
        ),
        ConfigValue::Word("1"),
        "there is one copy",
    ),
    Spec::without_effect(
        "preallocate",
        FLAG,
        ConfigValue::Word("false"),
        "the engine preallocates its files as it needs",
    ),
    Spec::without_effect(
        "remote.storage.enable",
        Kind::Only("false", "there is no tiered storage"),
        ConfigValue::Word("false"),
        "there is no tiered storage",
    ),
    Spec::works(
        "retention.bytes",
        Kind::Bytes {
            min: 0,
            max: NUMBER_MAX,
            or_unlimited: true,
        },
        "bytes of a partition from which its oldest records may go",
        |config| limit(config.retention_bytes),
        |config, value| config.retention_bytes = optional(value),
    ),
    Spec::works(
        "retention.ms",
        millis(0, true),
        "age from which records may go",
        |config| limit(config.retention_ms),
        |config, value| config.retention_ms = optional(value),
    ),
    Spec::works(
        "segment.bytes",
        // Positions in a segment fit 31 bits, as stock tools expect.
        bytes(64 << 10, 0x7fff_ffff),
        "a segment file is closed before it grows above this",
        |config| show32(config.segment_bytes),
        |config, value| config.segment_bytes = number32(value),
    ),
    Spec::without_effect(
        "segment.index.bytes",
        bytes(4, 0x7fff_ffff),
        ConfigValue::Number(10 << 20),
        "indexes grow as they need",
    ),
    Spec::works(
        "segment.jitter.ms",
        millis(0, false),
        "at most so much is taken off segment.ms, so that not all files are closed at once",
        |config| ConfigValue::Number(config.segment_jitter_ms),
        |config, value| config.segment_jitter_ms = number(value),
    ),
    Spec::works(
        "segment.ms",
        millis(1, false),
        "age at which a segment file is closed",
        |config| ConfigValue::Number(config.segment_ms),
        |config, value| config.segment_ms = number(value),
    ),
    Spec::works(
        "storage",
        Kind::Words(&["disk", "memory"]),
        "where records are kept; in memory, no restart leaves any; fixed when the topic is made",
        |config| {
            ConfigValue::Word(match config.storage {
                TopicStorage::Disk => "disk",
                TopicStorage::Memory => "memory",
            })
        },
        |config, value| {
            config.storage = match value {
                ConfigValue::Word("memory") => TopicStorage::Memory,
                _ => TopicStorage::Disk,
            }
        },
    ),
    Spec::without_effect(
        "unclean.leader.election.enable",
        FLAG,
        ConfigValue::Word("false"),
        "there is one copy, so nobody is elected",
    ),
];

const NO_COMPACTION: &str = "there is no compaction yet, old records go by retention.ms and retention.bytes";
const NO_TIERS: &str =
    "there is no tiered storage, retention.ms and retention.bytes are for all that is kept";
const NO_CODEC: &str = "batches are stored as they come, so level and codec are chosen in the producer";
const NO_REPLICAS: &str =
    "there is one copy and nothing to throttle, a fetch bounds its own bytes (max_bytes)";

/// Entries of Kafka that cannot be had, why, and what comes nearest; sorted by name.
pub(super) static REFUSED: [(&str, &str); 17] = [
    ("compression.gzip.level", NO_CODEC),
    ("compression.lz4.level", NO_CODEC),
    ("compression.zstd.level", NO_CODEC),
    ("delete.retention.ms", NO_COMPACTION),
    ("follower.replication.throttled.replicas", NO_REPLICAS),
    ("leader.replication.throttled.replicas", NO_REPLICAS),
    ("local.retention.bytes", NO_TIERS),
    ("local.retention.ms", NO_TIERS),
    ("max.compaction.lag.ms", NO_COMPACTION),
    (
        "message.downconversion.enable",
        "batches are never converted, clients read the format that is stored",
    ),
    (
        "message.format.version",
        "there is one format, record batches of version 2",
    ),
    (
        "message.timestamp.difference.max.ms",
        "it was split in two: message.timestamp.before.max.ms and message.timestamp.after.max.ms",
    ),
    ("min.cleanable.dirty.ratio", NO_COMPACTION),
    ("min.compaction.lag.ms", NO_COMPACTION),
    ("remote.copy.disable", NO_TIERS),
    ("remote.log.copy.disable", NO_TIERS),
    ("remote.log.delete.on.disable", NO_TIERS),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted_and_apart() {
        assert!(KEYS.is_sorted_by(|a, b| a.name < b.name));
        assert!(REFUSED.is_sorted_by(|a, b| a.0 < b.0));
        assert!(
            KEYS.iter()
                .all(|key| REFUSED.iter().all(|(name, _)| *name != key.name))
        );
    }

    #[test]
    fn what_is_set_is_what_is_shown() {
        let mut config = TopicConfig::default();
        for spec in &KEYS {
            let other = match spec.kind {
                Kind::Bytes { min, .. } | Kind::Millis { min, .. } | Kind::Count { min, .. } => {
                    ConfigValue::Number(min + 1)
                }
                Kind::Words(words) => ConfigValue::Word(words[1]),
                Kind::Only(word, _) => ConfigValue::Word(word),
            };
            (spec.set)(&mut config, other);
            if spec.get.is_some() {
                assert_eq!(spec.value(&config), other, "{}", spec.name);
            }
            if let Kind::Bytes {
                or_unlimited: true, ..
            }
            | Kind::Millis {
                or_unlimited: true, ..
            } = spec.kind
            {
                (spec.set)(&mut config, ConfigValue::Unlimited);
                assert_eq!(spec.value(&config), ConfigValue::Unlimited, "{}", spec.name);
            }
        }
    }

    #[test]
    fn every_default_could_be_set() {
        for spec in &KEYS {
            let shown = spec.value(&TopicConfig::default());
            assert_eq!(spec.kind.parse(&shown.to_string()), Some(shown), "{}", spec.name);
        }
    }

    /// The tables of `docs/topics.md`, as they follow from those above.
    fn documented() -> [String; 3] {
        let row = |spec: &Spec| {
            let default = spec.value(&TopicConfig::default());
            let (name, kind, about) = (spec.name, spec.kind.to_string(), spec.about);
            let kind = kind.replace(" (256MiB is understood)", "");
            let kind = kind.replace(" (7d, 12h, 30m, 10s are understood)", "");
            format!("| `{name}` | `{default}` | {kind} | {about} |\n")
        };
        let rows = |works: bool| {
            KEYS.iter()
                .filter(|s| s.get.is_some() == works)
                .map(row)
                .collect()
        };
        let refused = REFUSED
            .iter()
            .map(|(name, reason)| format!("| `{name}` | {reason} |\n"));
        [rows(true), rows(false), refused.collect()]
    }

    #[test]
    fn the_document_has_these_tables() {
        let document = include_str!("../../docs/topics.md");
        for table in documented() {
            assert!(
                document.contains(&table),
                "docs/topics.md needs this table:\n{table}"
            );
        }
    }
}
