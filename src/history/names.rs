//! What partitions and records are called in a history.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::lines::BadEvent;

/// A partition, written `topic/index`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct At {
    /// Name of the topic.
    pub topic: String,
    /// Index of the partition.
    pub partition: u32,
}

/// A record: unique in the whole history, and told by its value. Written `process-number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uid {
    /// Who made it.
    pub process: u32,
    /// Counted by who made it.
    pub number: u64,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

impl FromStr for At {
    type Err = BadEvent;

    fn from_str(text: &str) -> Result<Self, BadEvent> {
        let parsed = text.rsplit_once('/').and_then(|(topic, index)| {
            Some(Self {
                topic: topic.to_owned(),
                partition: index.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| BadEvent::At(text.to_owned()))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.process, self.number)
    }
}

impl FromStr for Uid {
    type Err = BadEvent;

    fn from_str(text: &str) -> Result<Self, BadEvent> {
        let parsed = text.split_once('-').and_then(|(process, number)| {
            Some(Self {
                process: process.parse().ok()?,
                number: number.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| BadEvent::Uid(text.to_owned()))
    }
}

impl TryFrom<String> for At {
    type Error = BadEvent;

    fn try_from(text: String) -> Result<Self, BadEvent> {
        text.parse()
    }
}

impl From<At> for String {
    fn from(at: At) -> Self {
        at.to_string()
    }
}

impl TryFrom<String> for Uid {
    type Error = BadEvent;

    fn try_from(text: String) -> Result<Self, BadEvent> {
        text.parse()
    }
}

impl From<Uid> for String {
    fn from(uid: Uid) -> Self {
        uid.to_string()
    }
}
