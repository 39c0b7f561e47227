//! Settings of a group.

use super::assignor::{Assignor, UnknownAssignor};
use crate::model::parse_millis;

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

const PROGRESS: Timer = Timer {
    name: "progress.timeout.ms",
    default_ms: 300_000,
    min_ms: 1_000,
    max_ms: 86_400_000,
};

const RETENTION: &str = "offsets.retention.ms";

/// Least and most of it. Most: ten years.
const RETENTION_MS: std::ops::RangeInclusive<u64> = 1_000..=315_360_000_000;

/// What stands for no limit, as in the configuration of topics.
const UNLIMITED: [&str; 2] = ["-1", "unlimited"];

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
    /// How long a position may stand still before that is told.
    pub progress_timeout_ms: Option<u32>,
    /// How long committed offsets are kept once the group has no member.
    pub offsets_retention_ms: Option<u64>,
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
    #[error("{name} is a duration as in 30000, 30s or 12h, not {value:?}")]
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
        min: u64,
        /// The most.
        max: u64,
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
    pub const NAMES: [&'static str; 7] = [
        ASSIGNOR,
        SESSION.name,
        HEARTBEAT.name,
        HANDOFF.name,
        PROPOSAL.name,
        PROGRESS.name,
        RETENTION,
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

    /// How long a position may stand still before that is told, in ms.
    pub fn progress_ms(&self) -> u32 {
        self.progress_timeout_ms.unwrap_or(PROGRESS.default_ms)
    }

    /// All settings: name, value in force, whether it is the group's own.
    pub fn entries(&self) -> [(&'static str, String, bool); 7] {
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
            (
                PROGRESS.name,
                self.progress_ms().to_string(),
                self.progress_timeout_ms.is_some(),
            ),
            (
                RETENTION,
                self.offsets_retention_ms
                    .map_or_else(|| UNLIMITED[0].to_owned(), |ms| ms.to_string()),
                self.offsets_retention_ms.is_some(),
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
        if name == RETENTION {
            self.offsets_retention_ms = value.map(parse_retention).transpose()?.flatten();
            return Ok(());
        }
        let (timer, slot) = match name {
            _ if name == SESSION.name => (&SESSION, &mut self.session_timeout_ms),
            _ if name == HEARTBEAT.name => (&HEARTBEAT, &mut self.heartbeat_ms),
            _ if name == HANDOFF.name => (&HANDOFF, &mut self.handoff_timeout_ms),
            _ if name == PROPOSAL.name => (&PROPOSAL, &mut self.proposal_timeout_ms),
            _ if name == PROGRESS.name => (&PROGRESS, &mut self.progress_timeout_ms),
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
        let value = millis(self.name, text)?;
        let fits = u32::try_from(value).ok();
        let fits = fits.filter(|ms| (self.min_ms..=self.max_ms).contains(ms));
        fits.ok_or(GroupConfigError::OutOfRange {
            name: self.name,
            value,
            min: u64::from(self.min_ms),
            max: u64::from(self.max_ms),
        })
    }
}

fn millis(name: &'static str, text: &str) -> Result<u64, GroupConfigError> {
    parse_millis(text).ok_or_else(|| GroupConfigError::NotMillis {
        name,
        value: text.to_owned(),
    })
}

/// `None`: for ever.
fn parse_retention(text: &str) -> Result<Option<u64>, GroupConfigError> {
    if UNLIMITED.contains(&text) {
        return Ok(None);
    }
    let value = millis(RETENTION, text)?;
    if RETENTION_MS.contains(&value) {
        return Ok(Some(value));
    }
    Err(GroupConfigError::OutOfRange {
        name: RETENTION,
        value,
        min: *RETENTION_MS.start(),
        max: *RETENTION_MS.end(),
    })
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
            ["sticky", "10000", "3000", "30000", "5000", "300000", "-1"]
        );
        for (name, value) in [
            ("assignor", "range"),
            ("session.timeout.ms", "60000"),
            ("heartbeat.interval.ms", "500"),
            ("handoff.timeout.ms", "100"),
            ("proposal.timeout.ms", "60000"),
            ("progress.timeout.ms", "1000"),
            ("offsets.retention.ms", "604800000"),
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
            refusal("proposal.timeout.ms", "5 apples"),
            "proposal.timeout.ms is a duration as in 30000, 30s or 12h, not \"5 apples\""
        );
        assert_eq!(
            refusal("offsets.retention.ms", "999"),
            "offsets.retention.ms is 1000 to 315360000000 ms, not 999"
        );
        assert_eq!(
            refusal("assignor", "best"),
            "assignor \"best\": it is one of sticky, range, round_robin and leader"
        );
        assert!(refusal("sesion", "1").starts_with("there is no setting sesion; there are assignor, "));
    }

    #[test]
    fn tm2_session_hand_off_and_progress_have_bounds_and_are_times_of_their_own() {
        let mut config = GroupConfig::default();
        config.set("session.timeout.ms", Some("30m")).unwrap();
        assert_eq!((config.handoff_ms(), config.progress_ms()), (30_000, 300_000));
        for (name, value) in [
            ("session.timeout.ms", "31m"),
            ("handoff.timeout.ms", "61m"),
            ("progress.timeout.ms", "25h"),
        ] {
            let refused = config.set(name, Some(value));
            assert!(
                matches!(refused, Err(GroupConfigError::OutOfRange { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn durations_have_units_and_retention_may_have_no_end() {
        let mut config = GroupConfig::default();
        config.set("session.timeout.ms", Some("1m")).unwrap();
        config.set("offsets.retention.ms", Some("7d")).unwrap();
        assert_eq!(config.session_ms(), 60_000);
        assert_eq!(config.offsets_retention_ms, Some(604_800_000));
        for text in ["-1", "unlimited"] {
            config.offsets_retention_ms = Some(5_000);
            config.set("offsets.retention.ms", Some(text)).unwrap();
            assert_eq!(config.offsets_retention_ms, None);
        }
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
