//! The words in which a person says what is given up, or restored.

use std::fmt;
use std::str::FromStr;

use crate::model::{Lsn, Offset, PartitionId, PartitionKey, TopicId};

/// One way past an obstacle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// `format`: `FORMAT` is written again; nothing is lost.
    Format,
    /// `header:N`: the header of journal file N is written again; nothing is lost.
    Header(u64),
    /// `group:N` or `group:N-M`: groups of the journal that cannot be read are given up.
    Groups {
        /// The first.
        first: Lsn,
        /// The last.
        last: Lsn,
    },
    /// `tail:N`: group N and whatever may have stood behind it.
    Tail {
        /// The first that nothing tells of.
        from: Lsn,
    },
    /// `checkpoint`: what no checkpoint tells any more, and segments and the journal do not.
    Checkpoint,
    /// `TOPIC/PARTITION:FIRST-LAST`: records of the broker's own are given up.
    Records {
        /// Whose.
        key: PartitionKey,
        /// The first.
        first: Offset,
        /// The last.
        last: Offset,
    },
}

impl Way {
    /// Whether nothing is given up by it.
    pub const fn restores(self) -> bool {
        matches!(self, Self::Format | Self::Header(_))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format => f.write_str("format"),
            Self::Header(number) => write!(f, "header:{number}"),
            Self::Groups { first, last } if first == last => write!(f, "group:{first}"),
            Self::Groups { first, last } => write!(f, "group:{first}-{last}"),
            Self::Tail { from } => write!(f, "tail:{from}"),
            Self::Checkpoint => f.write_str("checkpoint"),
            Self::Records { key, first, last } => {
                match key.topic {
                    TopicId::META => f.write_str("__meta")?,
                    TopicId::GROUPS => f.write_str("__groups")?,
                    topic => write!(f, "{topic}")?,
                }
                write!(f, "/{}:{first}-{last}", key.partition)
            }
        }
    }
}

/// The words make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write it as it was shown: group:N, group:N-M, tail:N, TOPIC/PARTITION:FIRST-LAST, checkpoint, format, or header:N"
)]
pub struct InvalidWay;

impl FromStr for Way {
    type Err = InvalidWay;

    fn from_str(text: &str) -> Result<Self, InvalidWay> {
        let Some((what, which)) = text.split_once(':') else {
            return match text {
                "format" => Ok(Self::Format),
                "checkpoint" => Ok(Self::Checkpoint),
                _ => Err(InvalidWay),
            };
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| InvalidWay);
        let (first, last) = which.split_once('-').unwrap_or((which, which));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(InvalidWay);
        }
        match what {
            "header" if first == last => return Ok(Self::Header(first)),
            "tail" if first == last => return Ok(Self::Tail { from: Lsn(first) }),
            "group" => {
                return Ok(Self::Groups {
                    first: Lsn(first),
                    last: Lsn(last),
                });
            }
            _ => {}
        }
        let (topic, partition) = what.split_once('/').ok_or(InvalidWay)?;
        let topic = match topic {
            "__meta" => TopicId::META,
            "__groups" => TopicId::GROUPS,
            id => TopicId::from_bytes(*uuid::Uuid::parse_str(id).map_err(|_| InvalidWay)?.as_bytes()),
        };
        let partition = PartitionId(partition.parse().map_err(|_| InvalidWay)?);
        let offset = |number| i64::try_from(number).ok().and_then(Offset::new).ok_or(InvalidWay);
        Ok(Self::Records {
            key: PartitionKey { topic, partition },
            first: offset(first)?,
            last: offset(last)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_understood() {
        for text in [
            "format",
            "header:3",
            "group:7",
            "group:7-9",
            "tail:8",
            "checkpoint",
            "__meta/0:12-14",
            "__groups/0:5-5",
            "01010101-0101-0101-0101-010101010101/2:0-9",
        ] {
            assert_eq!(
                text.parse::<Way>().map(|way| way.to_string()).as_deref(),
                Ok(text)
            );
        }
        for text in [
            "",
            "group",
            "group:",
            "group:9-7",
            "group:x",
            "header:1-2",
            "tail:1-2",
            "tail",
            "a:1-2",
            "__meta:1",
            "__meta/x:1-2",
        ] {
            assert_eq!(text.parse::<Way>(), Err(InvalidWay), "{text}");
        }
    }
}
