//! Everything that can be set, collected from the components and checked against each other.
//!
//! Each component owns its own `Settings` and their defaults; this file only gathers them. Where values come from (flags
//! today) is not its business: a source fills a `Settings` and calls [`Settings::check`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::storage::local;
use crate::{broker, http, net, telemetry};

/// All settings of a broker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the records are kept.
    pub data_dir: PathBuf,
    /// Keep everything in memory instead.
    pub in_memory: bool,
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
        Ok(())
    }

    /// The listeners that other machines can reach.
    pub fn exposed(&self) -> Vec<(&'static str, SocketAddr)> {
        [("--listen", self.listen), ("--http", self.http.listen)]
            .into_iter()
            .filter(|(_, address)| !address.ip().to_canonical().is_loopback())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(native: &str, http: &str) -> Settings {
        let mut settings = Settings {
            listen: native.parse().unwrap(),
            ..Settings::default()
        };
        settings.http.listen = http.parse().unwrap();
        settings
    }

    #[test]
    fn the_defaults_are_on_loopback_and_fine() {
        let settings = Settings::default();
        assert_eq!(settings.check(), Ok(()));
        assert!(settings.exposed().is_empty());
    }

    #[test]
    fn addresses_that_others_can_reach_need_consent() {
        for (native, http, setting) in [
            ("0.0.0.0:9640", "127.0.0.1:9641", "--listen"),
            ("127.0.0.1:9640", "[::]:9641", "--http"),
            ("192.168.1.7:0", "[::1]:0", "--listen"),
            ("[::ffff:10.0.0.1]:0", "[::1]:0", "--listen"),
        ] {
            let mut settings = listening(native, http);
            let error = settings.check().unwrap_err();
            assert!(
                matches!(&error, ConfigError::Exposed { setting: s, .. } if *s == setting),
                "{native} {http}: {error}"
            );
            settings.insecure_no_auth = true;
            assert_eq!(settings.check(), Ok(()));
            assert_eq!(settings.exposed().len(), 1);
        }
        for loopback in ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(listening(loopback, "127.0.0.1:2").check(), Ok(()), "{loopback}");
        }
    }

    #[test]
    fn two_listeners_need_two_ports() {
        let error = listening("127.0.0.1:7", "127.0.0.1:7").check().unwrap_err();
        assert_eq!(error, ConfigError::SameAddress("127.0.0.1:7".parse().unwrap()));
        assert_eq!(listening("127.0.0.1:0", "127.0.0.1:0").check(), Ok(()));
    }

    #[test]
    fn a_tiny_journal_file_is_refused() {
        let mut settings = Settings::default();
        settings.storage.journal_file_bytes = 100;
        let error = settings.check().unwrap_err();
        assert_eq!(
            error,
            ConfigError::JournalFile {
                bytes: 100,
                min: 65_536
            }
        );
    }

    #[test]
    fn a_bad_log_level_is_refused_before_anything_starts() {
        let mut settings = Settings::default();
        settings.log.level = "x=y=z".to_owned();
        assert!(matches!(settings.check(), Err(ConfigError::LogLevel(_))));
    }
}
