//! The table of all settings. Reading, showing, checking, the commented default and the reference all come from it.

use std::path::PathBuf;
use std::time::Duration;

use super::Settings;
use super::value::{Kind, Value};
use crate::storage::local;
use crate::telemetry::LogFormat;

/// Whether a change takes effect in a running broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// With the next SIGHUP.
    Hot,
    /// With the next start.
    Restart,
}

impl Reload {
    /// `hot` or `restart`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Restart => "restart",
        }
    }
}

/// A setting.
pub(super) struct Key {
    /// `section.key`.
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) kind: Kind,
    pub(super) reload: Reload,
    pub(super) get: fn(&Settings) -> Value,
    /// Takes values of the key's kind; others change nothing.
    pub(super) set: fn(&mut Settings, Value),
}

impl Key {
    /// The value in force, as it is shown.
    pub(super) fn shown(&self, settings: &Settings) -> String {
        self.kind.show(&(self.get)(settings))
    }

    /// The variable that sets it.
    pub(super) fn variable(&self) -> String {
        format!("NARU_{}", self.name.replace('.', "__").to_uppercase())
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;

const fn bytes(min: u64, max: u64) -> Kind {
    Kind::Bytes { min, max }
}

const fn millis(min: u64, max: u64) -> Kind {
    Kind::Millis { min, max }
}

const fn count(min: u64, max: u64) -> Kind {
    Kind::Count { min, max }
}

fn as_millis(duration: Duration) -> Value {
    Value::Number(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// A setting that is a number in its component. The ranges of the table fit the types.
macro_rules! number {
    ($name:literal, $about:literal, $kind:expr, $($field:ident).+) => {
        Key {
            name: $name,
            about: $about,
            kind: $kind,
            reload: Reload::Restart,
            get: |s| Value::Number(u64::try_from(s.$($field).+).unwrap_or_default()),
            set: |s, value| {
                if let Value::Number(number) = value
                    && let Ok(number) = number.try_into()
                {
                    s.$($field).+ = number;
                }
            },
        }
    };
}

/// A setting that is a duration in its component.
macro_rules! duration {
    ($name:literal, $about:literal, $kind:expr, $($field:ident).+) => {
        Key {
            name: $name,
            about: $about,
            kind: $kind,
            reload: Reload::Restart,
            get: |s| as_millis(s.$($field).+),
            set: |s, value| {
                if let Value::Number(ms) = value {
                    s.$($field).+ = Duration::from_millis(ms);
                }
            },
        }
    };
}

/// A setting that is true or false.
macro_rules! flag {
    ($name:literal, $about:literal, $($field:ident).+) => {
        Key {
            name: $name,
            about: $about,
            kind: Kind::Flag,
            reload: Reload::Restart,
            get: |s| Value::Flag(s.$($field).+),
            set: |s, value| {
                if let Value::Flag(flag) = value {
                    s.$($field).+ = flag;
                }
            },
        }
    };
}

/// A setting that is an address.
macro_rules! address {
    ($name:literal, $about:literal, $($field:ident).+) => {
        Key {
            name: $name,
            about: $about,
            kind: Kind::Address,
            reload: Reload::Restart,
            get: |s| Value::Address(s.$($field).+),
            set: |s, value| {
                if let Value::Address(address) = value {
                    s.$($field).+ = address;
                }
            },
        }
    };
}

/// The same, in effect with the next SIGHUP.
const fn hot(key: Key) -> Key {
    Key {
        reload: Reload::Hot,
        ..key
    }
}

/// All of them, by section, in the order of the reference.
#[rustfmt::skip]
pub(super) static KEYS: &[Key] = &[
    address!("server.listen", "Address of the native protocol; port 0: any free one.", listen),
    address!("server.http", "Address of HTTP: health and metrics; port 0: any free one.", http.listen),
    Key {
        name: "server.port_file",
        about: "The addresses are written to this file as JSON once the broker is ready.",
        kind: Kind::Path { or_none: true },
        reload: Reload::Restart,
        get: |s| Value::Text(s.port_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default()),
        set: |s, value| {
            if let Value::Text(path) = value {
                s.port_file = (!path.is_empty()).then(|| PathBuf::from(path));
            }
        },
    },
    flag!("server.insecure_no_auth", "Allows addresses that others can reach although nobody has to log in.", insecure_no_auth),
    Key {
        name: "server.shutdown_grace",
        about: "How long connections may take to end when the broker stops.",
        kind: millis(0, HOUR),
        reload: Reload::Hot,
        get: |s| as_millis(s.drain),
        set: |s, value| {
            if let Value::Number(ms) = value {
                s.drain = Duration::from_millis(ms);
            }
        },
    },
    Key {
        name: "storage.data_dir",
        about: "Where the records are kept; made if it is missing.",
        kind: Kind::Path { or_none: false },
        reload: Reload::Restart,
        get: |s| Value::Text(s.data_dir.display().to_string()),
        set: |s, value| {
            if let Value::Text(path) = value {
                s.data_dir = PathBuf::from(path);
            }
        },
    },
    flag!("storage.in_memory", "Keeps everything in memory: nothing survives the end of the process.", in_memory),
    number!("storage.memory_bytes_max", "Most bytes of all records that are in memory alone: of topics with storage=memory and, with storage.in_memory, of all topics. Beyond, the oldest records of the fullest partitions go.", bytes(16 * MIB, 1024 * GIB), memory_bytes_max),
    number!("storage.journal_file_bytes", "Size of a journal file; the first of a new directory is at most 16MiB, or what the longest request needs.", bytes(local::Settings::JOURNAL_FILE_BYTES_MIN, 64 * GIB), storage.journal_file_bytes),
    number!("storage.journal_files", "Journal files in the ring.", count(3, 64), storage.journal_files),
    number!("storage.memory_tail_bytes", "Most bytes of new batches kept in memory, from where readers at the end are served.", bytes(8 * MIB, 64 * GIB), storage.memory_tail_bytes),
    number!("storage.apply_bytes", "Durable batches are written to their segments when they have so many bytes; at most a third of the memory tail.", bytes(64 * KIB, 16 * GIB), storage.apply_bytes),
    duration!("storage.apply_after", "Durable batches are written to their segments at the latest after so long.", millis(100, HOUR), storage.apply_after),
    duration!("storage.checkpoint_every", "A checkpoint is written after so long if anything changed.", millis(SECOND, DAY), storage.checkpoint_every),
    number!("storage.reserve_bytes", "Disk space set aside in the file `reserve`, which produce never uses: for the broker's own partitions, deletions, checkpoints and recovery.", bytes(MIB, 1024 * GIB), storage.reserve_bytes),
    number!("storage.reads_max", "Most reads from disk at once.", count(1, 256), storage.reads_max),
    duration!("storage.scrub_interval", "All segments are read and checked once in so long, in the background; 0: never.", millis(0, 366 * DAY), storage.scrub_interval),
    number!("storage.scrub_bytes_per_second", "Most bytes that the scrub reads in a second.", bytes(64 * KIB, 64 * GIB), storage.scrub_bytes_per_second),
    hot(duration!("storage.retention_every", "How often segments that are too old or too many are looked for.", millis(SECOND, DAY), broker.retention_every)),
    number!("limits.connections_max", "Connections at once; at most 60 % of the descriptors that the process may have.", count(1, 1_000_000), net.connections_max),
    Key {
        name: "limits.request_bytes_max",
        about: "Longest request frame; a journal file must hold twice as much, and the memory tail four times.",
        kind: bytes(16 * KIB, 64 * MIB),
        reload: Reload::Restart,
        get: |s| Value::Number(s.net.request_bytes_max.into()),
        set: |s, value| {
            if let Value::Number(number) = value
                && let Ok(number) = u32::try_from(number)
            {
                s.net.request_bytes_max = number;
                // What is taken in goes to the journal in one piece.
                s.storage.step_bytes_max = number.max(local::Settings::default().step_bytes_max);
            }
        },
    },
    number!("limits.response_bytes_max", "Longest response frame; at least twice what a fetch may answer with.", bytes(16 * MIB, 64 * MIB), net.response_bytes_max),
    number!("limits.requests_running_max", "Requests of one connection that are read and not answered, without those that wait for records or the disk.", count(1, 65_536), net.requests_running_max),
    number!("limits.requests_parked_max", "Requests of one connection that wait for records or the disk; more are answered with BACKPRESSURE.", count(1, 65_536), net.requests_parked_max),
    number!("limits.connection_request_bytes_max", "Bytes of unanswered requests of one connection; a single request may be larger.", bytes(64 * KIB, 16 * GIB), net.connection_request_bytes_max),
    number!("limits.connection_reply_bytes_max", "Bytes of replies not taken yet, above which a connection's requests are not read.", bytes(64 * KIB, 16 * GIB), net.connection_reply_bytes_max),
    number!("limits.request_memory_bytes_max", "Bytes of unanswered requests of all connections.", bytes(MIB, 4 * GIB), net.request_memory_bytes_max),
    duration!("limits.greeting_deadline", "From the accept of a connection to its greeting.", millis(100, HOUR), net.greeting_deadline),
    duration!("limits.output_deadline", "A peer that takes nothing of its replies for so long is hung up on.", millis(SECOND, HOUR), net.output_deadline),
    duration!("limits.idle_deadline", "A connection without any request for so long is closed.", millis(SECOND, 7 * DAY), net.idle_deadline),
    duration!("limits.request_deadline_default", "How long a request waits for room if it does not say so itself.", millis(100, HOUR), net.request_deadline_default),
    Key {
        name: "limits.fetch_wait_max",
        about: "Longest wait of a fetch for records.",
        kind: millis(0, HOUR),
        reload: Reload::Restart,
        get: |s| as_millis(s.broker.fetch_wait_max),
        set: |s, value| {
            if let Value::Number(ms) = value {
                // The listener guards the same promise that the broker keeps.
                s.broker.fetch_wait_max = Duration::from_millis(ms);
                s.net.fetch_wait_max = Duration::from_millis(ms);
            }
        },
    },
    number!("limits.fetch_bytes_max", "Most bytes of batches in one answer to a fetch; one batch comes even if it is larger.", bytes(KIB, 32 * MIB), broker.fetch_bytes_max),
    hot(number!("limits.topics_max", "Topics.", count(1, 1_000_000), broker.limits.topics_max)),
    hot(number!("limits.partitions_per_topic_max", "Partitions of one topic.", count(1, 1_024), broker.limits.partitions_per_topic_max)),
    hot(number!("limits.partitions_max", "Partitions of all topics.", count(1, 1_000_000), broker.limits.partitions_max)),
    hot(number!("limits.groups_max", "Groups.", count(1, 1_000_000), broker.groups.groups_max)),
    hot(number!("limits.offsets_per_group_max", "Committed offsets of one group.", count(1, 1_000_000), broker.groups.offsets_per_group_max)),
    hot(number!("limits.group_state_bytes_max", "Committed offsets and members of all groups; all of it is written with every checkpoint.", bytes(MIB, 4 * GIB), broker.groups.state_bytes_max)),
    number!("limits.producers_per_partition_max", "Idempotent producers remembered per partition.", count(1, 100_000), broker.producers.count_max),
    number!("http.connections_max", "Connections to the HTTP port at once; more wait.", count(1, 65_536), http.connections_max),
    duration!("http.head_timeout", "How long the head of a request may take, and how long an idle connection is kept.", millis(100, HOUR), http.head_timeout),
    duration!("http.connection_lifetime", "How long a connection to the HTTP port may live.", millis(SECOND, DAY), http.connection_lifetime),
    Key {
        name: "log.level",
        about: "Level of the log on stderr.",
        kind: Kind::Level,
        reload: Reload::Hot,
        get: |s| Value::Text(s.log.level.clone()),
        set: |s, value| {
            if let Value::Text(level) = value {
                s.log.level = level;
            }
        },
    },
    Key {
        name: "log.format",
        about: "Form of the log lines; auto: text on a terminal, otherwise JSON.",
        kind: Kind::Words(&["auto", "json", "text"]),
        reload: Reload::Restart,
        get: |s| Value::Text(s.log.format.word().to_owned()),
        set: |s, value| {
            if let Value::Text(word) = value {
                s.log.format = LogFormat::named(&word).unwrap_or_default();
            }
        },
    },
    hot(number!("topic.defaults.partitions", "Partitions of a topic that does not say.", count(1, 1_024), broker.limits.partitions_default)),
];
