//! What a history consists of, and its form in a file: one JSON object in each line.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A step of one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in nanoseconds of a clock that all processes share and that never goes back.
    pub t: u64,
    /// The process: one life of it, so another number after a restart.
    pub process: u32,
    /// Ties the end of an operation to its beginning; one process uses each number for one operation.
    pub op: u64,
    /// What happened.
    pub is: Body,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// An operation begins; written before the first byte leaves.
    Invoke(Op),
    /// It has succeeded; written after the answer was understood.
    Ok(Done),
    /// It has definitely not happened, and why.
    Fail(String),
    /// It may have happened, or may happen yet, and why that is not known. The same as no end at all.
    Info(String),
    /// Something that was not asked for.
    Note(Note),
}

/// What is asked of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// To append a record.
    Produce {
        /// Where.
        at: At,
        /// Which.
        uid: Uid,
    },
    /// To become a member of a group.
    Join {
        /// The group.
        group: String,
        /// The name of a static member.
        instance: Option<String>,
        /// From here on whatever was handed out may be committed at any time, without an event.
        auto_commit: bool,
    },
    /// To commit, as a member.
    Commit {
        /// The group.
        group: String,
        /// Id of the member.
        member: String,
        /// Offsets of the next records wanted.
        offsets: Vec<(At, i64)>,
    },
    /// To leave the group.
    Leave {
        /// The group.
        group: String,
    },
    /// To see the group as a whole.
    Describe {
        /// The group.
        group: String,
    },
}

/// How an operation has succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// The record has this offset.
    Produced(i64),
    /// The group is so.
    Described(View),
    /// There is nothing to say about it.
    Done,
}

/// A group as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Its epoch.
    pub group_epoch: u32,
    /// Who holds what.
    pub members: Vec<Held>,
    /// How far it is; partitions without a committed offset are left out.
    pub committed: Vec<(At, i64)>,
}

/// What a member holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its id.
    pub member: String,
    /// Also what it is still to release.
    pub partitions: Vec<At>,
}

/// What was not asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// A member was told that it holds more partitions. Written before it reads any of them.
    Assigned {
        /// The group.
        group: String,
        /// Id of the member.
        member: String,
        /// The name of a static member.
        instance: Option<String>,
        /// The member's epoch in the answer that said so.
        epoch: u32,
        /// The group's epoch in it.
        group_epoch: u32,
        /// The new ones.
        partitions: Vec<At>,
    },
    /// A member is about to give partitions back.
    Revoked {
        /// Which.
        partitions: Vec<At>,
    },
    /// A member was told that it has lost partitions.
    Lost {
        /// Which.
        partitions: Vec<At>,
    },
    /// A member was handed a record.
    Polled {
        /// The group.
        group: String,
        /// Where the record lies.
        at: At,
        /// Its offset.
        offset: i64,
        /// Which record it is.
        uid: Uid,
        /// Whether it was marked as one that may have been handed out before.
        redelivered: bool,
    },
    /// Something was done to the broker or to a process, or anything else that a reader of the history wants to know.
    Nemesis(String),
}

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

/// Why something is no event.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    /// Not a partition.
    #[error("{0:?} is no partition: topic/index")]
    At(String),
    /// Not a record.
    #[error("{0:?} is no record: process-number")]
    Uid(String),
    /// Not an event; the reason of the parser.
    #[error("line {line} is no event: {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// Why.
        reason: String,
    },
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

/// The line of an event, its end included.
pub fn write(event: &Event) -> String {
    let mut line = serde_json::to_string(event).expect("names are strings and numbers are integers");
    line.push('\n');
    line
}

/// The events of a file. A last line without an end is left out: its writer was killed.
///
/// # Errors
/// `Line` for the first line that is no event.
pub fn read(text: &str) -> Result<Vec<Event>, BadEvent> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let event = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| BadEvent::Line {
            line: index + 1,
            reason: error.to_string(),
        })
    };
    whole.lines().enumerate().map(event).collect()
}
