//! Everything that can be set, collected from the components and checked against each other.
//!
//! Each component owns its own `Settings` and their defaults; this file only gathers them. One table, `keys.rs`, names them; [`Sources`] reads them from
//! a file, variables and flags. The reference is `docs/configuration.md`.

mod docs;
mod error;
mod file;
mod keys;
mod place;
mod source;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use docs::{commented_default, reference};
pub use error::{LoadError, LoadErrors};
pub use keys::Reload;
pub use place::{Excerpt, Source};
pub use source::{Configuration, Shown, Sources, USUAL_FILES};

use crate::model::show_bytes;
use crate::storage::local;
use crate::{broker, http, net, telemetry};

/// All settings of a broker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file that they were read from, for commands that are shown.
    pub file: Option<PathBuf>,
    /// Where the records are kept.
    pub data_dir: PathBuf,
    /// Keep everything in memory instead.
    pub in_memory: bool,
    /// Most bytes of all records that are in memory alone.
    pub memory_bytes_max: u64,
    /// Where the native protocol listens.
    pub listen: SocketAddr,
    /// Where to write the bound addresses once the broker is ready.
    pub port_file: Option<PathBuf>,
    /// Addresses that others can reach are allowed although nobody has to log in.
    pub insecure_no_auth: bool,
    /// How long connections may take to end when the broker stops.
    pub drain: Duration,
    /// The engine on disk.
    pub storage: local::Settings,
    /// The broker.
    pub broker: broker::Settings,
    /// Limits of the native listener.
    pub net: net::Settings,
    /// The HTTP listener.
    pub http: http::Settings,
    /// The log.
    pub log: telemetry::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            file: None,
            data_dir: PathBuf::from("naru-data"),
            in_memory: false,
            memory_bytes_max: 256 << 20,
            listen: SocketAddr::from(([127, 0, 0, 1], 9640)),
            port_file: None,
            insecure_no_auth: false,
            drain: Duration::from_secs(10),
            storage: local::Settings::default(),
            broker: broker::Settings::default(),
            net: net::Settings::default(),
            http: http::Settings::default(),
            log: telemetry::Settings::default(),
        }
    }
}

/// Settings that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Anybody who can reach this address could read and write everything.
    #[error("{setting} {address} can be reached from other machines, and nobody has to log in")]
    Exposed {
        /// Which listener.
        setting: &'static str,
        /// Its address.
        address: SocketAddr,
    },
    /// Both listeners have the same address.
    #[error("server.listen and server.http are both {0}")]
    SameAddress(SocketAddr),
    /// A journal file must hold at least a few groups.
    #[error("a journal file of {bytes} bytes is too small, the least is {min}")]
    JournalFile {
        /// What was asked for.
        bytes: u64,
        /// The least.
        min: u64,
    },
    /// One limit is above what another leaves it.
    #[error("{small} is {low}, which is more than {share}{large}, {high}")]
    Order {
        /// What must be smaller.
        small: &'static str,
        /// Its value, as it is written.
        low: String,
        /// How much of the larger it may be: `half of `, or nothing.
        share: &'static str,
        /// What must be larger.
        large: &'static str,
        /// Its value, as it is written.
        high: String,
    },
    /// A request fits no journal file.
    #[error("limits.request_bytes_max is {}, and a file of storage.journal_file_bytes, {}, holds requests of {} at most", show_bytes(*request), show_bytes(*file), show_bytes(*most))]
    RequestJournal {
        /// The longest request.
        request: u64,
        /// The length of a journal file.
        file: u64,
        /// The longest request that fits it.
        most: u64,
    },
    /// The log level is not one.
    #[error(transparent)]
    LogLevel(#[from] telemetry::InvalidLevel),
}

impl ConfigError {
    /// The settings that it is about.
    pub fn keys(&self) -> Vec<&'static str> {
        match self {
            Self::Exposed { setting, .. } => vec![setting],
            Self::SameAddress(_) => vec!["server.listen", "server.http"],
            Self::JournalFile { .. } => vec!["storage.journal_file_bytes"],
            Self::Order { small, large, .. } => vec![small, large],
            Self::RequestJournal { .. } => vec!["limits.request_bytes_max", "storage.journal_file_bytes"],
            Self::LogLevel(_) => vec!["log.level"],
        }
    }

    /// What to do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Exposed { .. } => {
                "listen on 127.0.0.1, or add --insecure-no-auth if the network itself keeps strangers out"
            }
            Self::SameAddress(_) => "give them different ports",
            Self::JournalFile { .. } => "16MiB and more suit a busy broker; smaller ones are for tests",
            Self::Order { .. } | Self::RequestJournal { .. } => "lower the first or raise the second",
            Self::LogLevel(_) => {
                "use error, warn, info, debug or trace, or directives as in warn,naru::storage=debug"
            }
        }
    }
}

impl Settings {
    /// Checks that the settings can be, and fit together.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// Everything that cannot be or does not fit together.
    pub fn problems(&self) -> Vec<ConfigError> {
        let level = self.log.check().map_err(ConfigError::from);
        let exposed = self.exposed().into_iter().filter(|_| !self.insecure_no_auth);
        let exposed = exposed.map(|(setting, address)| Err(ConfigError::Exposed { setting, address }));
        let same = self.listen == self.http.listen && self.listen.port() != 0;
        let apart = if same {
            Err(ConfigError::SameAddress(self.listen))
        } else {
            Ok(())
        };
        let (bytes, min) = (
            self.storage.journal_file_bytes,
            local::Settings::JOURNAL_FILE_BYTES_MIN,
        );
        let journal = if bytes < min {
            Err(ConfigError::JournalFile { bytes, min })
        } else {
            Ok(())
        };
        let orders = self.orders().into_iter().map(Order::check);
        std::iter::once(level)
            .chain(exposed)
            .chain([apart, journal, self.request_fits_journal()])
            .chain(orders)
            .filter_map(Result::err)
            .collect()
    }

    /// Limits that must not be above others.
    fn orders(&self) -> Vec<Order> {
        let topics = &self.broker.limits;
        let (net, storage) = (&self.net, &self.storage);
        let per_topic = count(
            "limits.partitions_per_topic_max",
            topics.partitions_per_topic_max.into(),
        );
        let request = bytes("limits.request_bytes_max", net.request_bytes_max.into());
        let mut orders = vec![
            count("topic.defaults.partitions", topics.partitions_default.into()).within(per_topic),
            per_topic.within(count("limits.partitions_max", topics.partitions_max.into())),
            request.within(bytes(
                "limits.request_memory_bytes_max",
                net.request_memory_bytes_max as u64,
            )),
            bytes("limits.fetch_bytes_max", self.broker.fetch_bytes_max.into())
                .within(bytes("limits.response_bytes_max", net.response_bytes_max.into()))
                .of("half of ", |bytes| bytes / 2),
        ];
        // What a topic says itself is told to its producers; a default for all of them must work.
        if let Some(batch) = self.broker.topic_defaults.number("max.message.bytes") {
            let batch = bytes("topic.defaults.max.message.bytes", batch);
            orders.push(batch.within(request).of("what fits in ", |bytes| {
                bytes.saturating_sub(PRODUCE_BYTES_BESIDE_BATCH)
            }));
        }
        if !self.in_memory {
            let tail = bytes("storage.memory_tail_bytes", storage.memory_tail_bytes);
            orders.push(
                request
                    .within(tail)
                    .of("a quarter of ", local::Settings::step_bytes_beside),
            );
            orders.push(
                bytes("storage.apply_bytes", storage.apply_bytes)
                    .within(tail)
                    .of("a third of ", local::Settings::apply_bytes_beside),
            );
        }
        orders
    }

    /// A request goes to the journal in one piece.
    fn request_fits_journal(&self) -> Result<(), ConfigError> {
        let (request, file) = (self.net.request_bytes_max.into(), self.storage.journal_file_bytes);
        let most = local::Settings::step_bytes_in(file);
        if self.in_memory || request <= most {
            return Ok(());
        }
        Err(ConfigError::RequestJournal {
            request,
            file,
            most: most >> 10 << 10,
        })
    }

    /// The largest batch that a produce request can bring, in bytes; topics and the engine may allow less.
    pub fn batch_bytes_max(&self) -> u32 {
        let bytes = u64::from(self.net.request_bytes_max).saturating_sub(PRODUCE_BYTES_BESIDE_BATCH);
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// The listeners that other machines can reach.
    pub fn exposed(&self) -> Vec<(&'static str, SocketAddr)> {
        [("server.listen", self.listen), ("server.http", self.http.listen)]
            .into_iter()
            .filter(|(_, address)| !address.ip().to_canonical().is_loopback())
            .collect()
    }
}

/// What a produce request has beside its one batch at most: its frame, the names of client and topic, numbers.
const PRODUCE_BYTES_BESIDE_BATCH: u64 = 4 << 10;

/// A setting that is a number.
#[derive(Clone, Copy)]
struct Limit {
    key: &'static str,
    value: u64,
    show: fn(u64) -> String,
}

fn count(key: &'static str, value: u64) -> Limit {
    Limit {
        key,
        value,
        show: |value| value.to_string(),
    }
}

fn bytes(key: &'static str, value: u64) -> Limit {
    Limit {
        key,
        value,
        show: show_bytes,
    }
}

impl Limit {
    fn within(self, large: Self) -> Order {
        Order {
            small: self,
            large,
            share: "",
            most: large.value,
        }
    }
}

/// One setting that must not be above another, or above a share of it.
struct Order {
    small: Limit,
    large: Limit,
    share: &'static str,
    most: u64,
}

impl Order {
    fn of(self, share: &'static str, most: fn(u64) -> u64) -> Self {
        Self {
            share,
            most: most(self.large.value),
            ..self
        }
    }

    fn check(self) -> Result<(), ConfigError> {
        if self.small.value <= self.most {
            return Ok(());
        }
        Err(ConfigError::Order {
            small: self.small.key,
            low: (self.small.show)(self.small.value),
            share: self.share,
            large: self.large.key,
            high: (self.large.show)(self.large.value),
        })
    }
}

#[cfg(test)]
mod tests;
