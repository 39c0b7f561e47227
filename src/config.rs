//! Everything that can be set, collected from the components and checked against each other.
//!
//! Each component owns its own `Settings` and their defaults; this file only gathers them. One table, `keys.rs`, names them; [`Sources`] reads them from
//! a file, variables and flags. The reference is `docs/configuration.md`.

mod docs;
mod file;
mod keys;
mod source;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use docs::{commented_default, reference};
pub use keys::Reload;
pub use source::{Configuration, LoadError, Shown, Source, Sources, USUAL_FILES};

use crate::storage::local;
use crate::{broker, http, net, telemetry};

/// All settings of a broker.
#[derive(Clone, Debug)]
pub struct Settings {
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
    #[error("--listen and --http are both {0}")]
    SameAddress(SocketAddr),
    /// A journal file must hold at least a few groups.
    #[error("a journal file of {bytes} bytes is too small, the least is {min}")]
    JournalFile {
        /// What was asked for.
        bytes: u64,
        /// The least.
        min: u64,
    },
    /// One limit is above another that must hold it.
    #[error("{small} is {low}, which is more than {large}, {high}")]
    Order {
        /// What must be smaller.
        small: &'static str,
        /// Its value.
        low: u64,
        /// What must be larger.
        large: &'static str,
        /// Its value.
        high: u64,
    },
    /// The log level is not one.
    #[error(transparent)]
    LogLevel(#[from] telemetry::InvalidLevel),
}

impl ConfigError {
    /// What to do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Exposed { .. } => {
                "listen on 127.0.0.1, or add --insecure-no-auth if the network itself keeps strangers out"
            }
            Self::SameAddress(_) => "give them different ports",
            Self::JournalFile { .. } => "16MiB and more suit a busy broker; smaller ones are for tests",
            Self::Order { .. } => "lower the first or raise the second",
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
        self.log.check()?;
        if !self.insecure_no_auth
            && let Some((setting, address)) = self.exposed().into_iter().next()
        {
            return Err(ConfigError::Exposed { setting, address });
        }
        if self.listen == self.http.listen && self.listen.port() != 0 {
            return Err(ConfigError::SameAddress(self.listen));
        }
        let (bytes, min) = (
            self.storage.journal_file_bytes,
            local::Settings::JOURNAL_FILE_BYTES_MIN,
        );
        if bytes < min {
            return Err(ConfigError::JournalFile { bytes, min });
        }
        self.orders().into_iter().try_for_each(in_order)
    }

    /// Limits that must not be above others, with their names.
    fn orders(&self) -> [(Limit, Limit); 4] {
        let topics = &self.broker.limits;
        let most = (
            "limits.partitions_per_topic_max",
            topics.partitions_per_topic_max.into(),
        );
        [
            (
                ("topic.defaults.partitions", topics.partitions_default.into()),
                most,
            ),
            (most, ("limits.partitions_max", topics.partitions_max.into())),
            (
                ("limits.request_bytes_max", self.net.request_bytes_max.into()),
                (
                    "limits.request_memory_bytes_max",
                    self.net.request_memory_bytes_max as u64,
                ),
            ),
            (
                ("limits.fetch_bytes_max", self.broker.fetch_bytes_max.into()),
                (
                    "half of limits.response_bytes_max",
                    (self.net.response_bytes_max / 2).into(),
                ),
            ),
        ]
    }

    /// The listeners that other machines can reach.
    pub fn exposed(&self) -> Vec<(&'static str, SocketAddr)> {
        [("--listen", self.listen), ("--http", self.http.listen)]
            .into_iter()
            .filter(|(_, address)| !address.ip().to_canonical().is_loopback())
            .collect()
    }
}

/// The name of a limit and its value.
type Limit = (&'static str, u64);

fn in_order(((small, low), (large, high)): (Limit, Limit)) -> Result<(), ConfigError> {
    if low <= high {
        return Ok(());
    }
    Err(ConfigError::Order {
        small,
        low,
        large,
        high,
    })
}

#[cfg(test)]
mod tests;
