//! Settings of a group.

use super::assignor::{Assignor, UnknownAssignor};

/// A timer of a group and its range, in milliseconds.
struct Timer {
    name: &'static str,
    default_ms: u32,
    min_ms: u32,
    max_ms: u32,
}

const SESSION: Timer = Timer {
    name: "session.timeout.ms",
    default_ms: 10_000,
    min_ms: 1_000,
    max_ms: 1_800_000,
};

const HEARTBEAT: Timer = Timer {
    name: "heartbeat.interval.ms",
    default_ms: 3_000,
    min_ms: 100,
    max_ms: 600_000,
};

const HANDOFF: Timer = Timer {
    name: "handoff.timeout.ms",
    default_ms: 30_000,
    min_ms: 100,
    max_ms: 3_600_000,
};

const PROPOSAL: Timer = Timer {
    name: "proposal.timeout.ms",
    default_ms: 5_000,
    min_ms: 100,
    max_ms: 60_000,
};

const ASSIGNOR: &str = "assignor";

/// Settings of a group; `None`: the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupConfig {
    /// Who assigns.
    pub assignor: Option<Assignor>,
    /// When a member that is not heard of is removed.
    pub session_timeout_ms: Option<u32>,
    /// How often members are to send a heartbeat that does not wait.
    pub heartbeat_ms: Option<u32>,
    /// When a member that does not release what is revoked is removed.
    pub handoff_timeout_ms: Option<u32>,
    /// How long the leader has to propose an assignment.
    pub proposal_timeout_ms: Option<u32>,
}

/// Why a setting is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupConfigError {
    /// There is no such setting.
    #[error("there is no setting {name}; there are {}", GroupConfig::NAMES.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// No number of milliseconds.
    #[error("{name} is a whole number of milliseconds, not {value:?}")]
    NotMillis {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: String,
    },
    /// Out of range.
    #[error("{name} is {min} to {max} ms, not {value}")]
    OutOfRange {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: u64,
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// Not an assignor.
    #[error("assignor {value:?}: {source}")]
    Assignor {
        /// What was given.
        value: String,
        /// Which there are.
        source: UnknownAssignor,
    },
    /// A heartbeat interval that leaves no room for one that is lost.
    #[error(
        "heartbeat.interval.ms {heartbeat} is more than half of session.timeout.ms {session}: one late heartbeat would end the session"
    )]
    HeartbeatTooLong {
        /// The interval.
        heartbeat: u32,
        /// The session.
        session: u32,
    },
}

impl GroupConfig {
    /// Names of all settings.
    pub const NAMES: [&'static str; 5] = [
        ASSIGNOR,
        SESSION.name,
        HEARTBEAT.name,
        HANDOFF.name,
        PROPOSAL.name,
    ];

    /// Who assigns.
    pub fn assignor(&self) -> Assignor {
        self.assignor.unwrap_or_default()
    }

    /// When a member that is not heard of is removed, in ms.
    pub fn session_ms(&self) -> u32 {
        self.session_timeout_ms.unwrap_or(SESSION.default_ms)
    }

    /// How often members send a heartbeat that does not wait, in ms. At most half of a session that was made shorter.
    pub fn heartbeat_ms(&self) -> u32 {
        let heartbeat = self.heartbeat_ms.unwrap_or(HEARTBEAT.default_ms);
        heartbeat.min(self.session_ms() / 2)
    }

    /// When a member that does not release what is revoked is removed, in ms.
    pub fn handoff_ms(&self) -> u32 {
        self.handoff_timeout_ms.unwrap_or(HANDOFF.default_ms)
    }

    /// How long the leader has to propose an assignment, in ms.
    pub fn proposal_ms(&self) -> u32 {
        self.proposal_timeout_ms.unwrap_or(PROPOSAL.default_ms)
    }

    /// All settings: name, value in force, whether it is the group's own.
    pub fn entries(&self) -> [(&'static str, String, bool); 5] {
        [
            (ASSIGNOR, self.assignor().to_string(), self.assignor.is_some()),
            (
                SESSION.name,
                self.session_ms().to_string(),
                self.session_timeout_ms.is_some(),
            ),
            (
                HEARTBEAT.name,
                self.heartbeat_ms().to_string(),
                self.heartbeat_ms.is_some(),
            ),
            (
                HANDOFF.name,
                self.handoff_ms().to_string(),
                self.handoff_timeout_ms.is_some(),
            ),
            (
                PROPOSAL.name,
                self.proposal_ms().to_string(),
                self.proposal_timeout_ms.is_some(),
            ),
        ]
    }

    /// Gives a setting a value; `None`: the default again.
    ///
    /// # Errors
    /// There is no such setting, or it cannot have this value.
    pub fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), GroupConfigError> {
        if name == ASSIGNOR {
            let parse = |value: &str| {
                value.parse().map_err(|source| GroupConfigError::Assignor {
                    value: value.to_owned(),
                    source,
                })
            };
            self.assignor = value.map(parse).transpose()?;
            return Ok(());
        }
        let (timer, slot) = match name {
            _ if name == SESSION.name => (&SESSION, &mut self.session_timeout_ms),
            _ if name == HEARTBEAT.name => (&HEARTBEAT, &mut self.heartbeat_ms),
            _ if name == HANDOFF.name => (&HANDOFF, &mut self.handoff_timeout_ms),
            _ if name == PROPOSAL.name => (&PROPOSAL, &mut self.proposal_timeout_ms),
            _ => {
                return Err(GroupConfigError::Unknown {
                    name: name.to_owned(),
                });
            }
        };
        *slot = value.map(|value| timer.parse(value)).transpose()?;
        Ok(())
    }

    /// Whether the settings fit each other.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), GroupConfigError> {
        let session = self.session_ms();
        match self.heartbeat_ms {
            Some(heartbeat) if heartbeat > session / 2 => {
                Err(GroupConfigError::HeartbeatTooLong { heartbeat, session })
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Timer {
    fn parse(&self, text: &str) -> Result<u32, GroupConfigError> {
        let value: u64 = text.parse().map_err(|_| GroupConfigError::NotMillis {
            name: self.name,
            value: text.to_owned(),
        })?;
        let fits = u32::try_from(value).ok();
        let fits = fits.filter(|ms| (self.min_ms..=self.max_ms).contains(ms));
        fits.ok_or(GroupConfigError::OutOfRange {
            name: self.name,
            value,
            min: self.min_ms,
            max: self.max_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_default_a_range_and_goes_back() {
        let mut config = GroupConfig::default();
        let defaults = config.entries();
        assert_eq!(defaults.each_ref().map(|entry| entry.0), GroupConfig::NAMES);
        assert_eq!(
            defaults.each_ref().map(|entry| entry.1.as_str()),
            ["sticky", "10000", "3000", "30000", "5000"]
        );
        for (name, value) in [
            ("assignor", "range"),
            ("session.timeout.ms", "60000"),
            ("heartbeat.interval.ms", "500"),
            ("handoff.timeout.ms", "100"),
            ("proposal.timeout.ms", "60000"),
        ] {
            config.set(name, Some(value)).unwrap();
            assert!(
                config.entries().contains(&(name, value.to_owned(), true)),
                "{name}"
            );
            assert_eq!(config.check(), Ok(()));
        }
        for name in GroupConfig::NAMES {
            config.set(name, None).unwrap();
        }
        assert_eq!(config, GroupConfig::default());
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let refusal = |name, value| {
            GroupConfig::default()
                .set(name, Some(value))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refusal("session.timeout.ms", "999"),
            "session.timeout.ms is 1000 to 1800000 ms, not 999"
        );
        assert_eq!(
            refusal("handoff.timeout.ms", "3600001"),
            "handoff.timeout.ms is 100 to 3600000 ms, not 3600001"
        );
        assert_eq!(
            refusal("proposal.timeout.ms", "5s"),
            "proposal.timeout.ms is a whole number of milliseconds, not \"5s\""
        );
        assert_eq!(
            refusal("assignor", "best"),
            "assignor \"best\": it is one of sticky, range, round_robin and leader"
        );
        assert!(refusal("sesion", "1").starts_with("there is no setting sesion; there are assignor, "));
    }

    #[test]
    fn a_heartbeat_fits_twice_into_a_session() {
        let mut config = GroupConfig::default();
        config.set("session.timeout.ms", Some("2000")).unwrap();
        assert_eq!((config.heartbeat_ms(), config.check()), (1_000, Ok(())));
        config.set("heartbeat.interval.ms", Some("1001")).unwrap();
        assert!(matches!(
            config.check(),
            Err(GroupConfigError::HeartbeatTooLong { .. })
        ));
    }
}
