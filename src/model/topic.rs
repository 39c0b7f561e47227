//! Names and configurations of topics.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest topic name, in bytes.
const TOPIC_NAME_BYTES_MAX: usize = 200;

/// Name of a topic: `[A-Za-z0-9._-]{1,200}`, not `.` or `..`. `__` and `dlq.` in front are the broker's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// Why a string is no topic name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopicName {
    /// It is empty.
    #[error("a topic name must not be empty")]
    Empty,
    /// It is longer than 200 bytes.
    #[error("a topic name has at most 200 bytes, this one has {0}")]
    TooLong(usize),
    /// It has a character outside `[A-Za-z0-9._-]`.
    #[error("character {character:?} at byte {at} is not allowed in a topic name: use A-Z a-z 0-9 . _ -")]
    Character {
        /// The character.
        character: char,
        /// Where it stands, in bytes.
        at: usize,
    },
    /// It is `.` or `..`.
    #[error("'.' and '..' are not topic names")]
    Dots,
    /// It begins with `__` or `dlq.`.
    #[error("topic names that begin with '__' or 'dlq.' are reserved to the broker")]
    Reserved,
}

impl TopicName {
    /// The internal topic of the broker's metadata.
    pub fn meta() -> Self {
        Self(Arc::from("__meta"))
    }

    /// The internal topic of consumer groups.
    pub fn groups() -> Self {
        Self(Arc::from("__groups"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name that a user may create: [`FromStr`] and not reserved.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn for_user(text: &str) -> Result<Self, InvalidTopicName> {
        let name: Self = text.parse()?;
        if text.starts_with("__") || text.starts_with("dlq.") {
            return Err(InvalidTopicName::Reserved);
        }
        Ok(name)
    }
}

impl FromStr for TopicName {
    type Err = InvalidTopicName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(InvalidTopicName::Empty);
        }
        if text.len() > TOPIC_NAME_BYTES_MAX {
            return Err(InvalidTopicName::TooLong(text.len()));
        }
        let bad = text
            .char_indices()
            .find(|(_, c)| !(c.is_ascii_alphanumeric() || ".-_".contains(*c)));
        if let Some((at, character)) = bad {
            return Err(InvalidTopicName::Character { character, at });
        }
        if text == "." || text == ".." {
            return Err(InvalidTopicName::Dots);
        }
        Ok(Self(Arc::from(text)))
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose clock the time of a record comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's, when the batch is appended.
    LogAppendTime,
}

/// Where the records of a topic are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TopicStorage {
    /// In the journal and in segment files.
    #[default]
    Disk,
    /// In memory alone, bounded: a restart leaves nothing.
    Memory,
}

/// What can be configured per topic, with all defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// `max.message.bytes`: largest record batch, in bytes with its header.
    pub max_message_bytes: u32,
    /// `segment.bytes`: a segment file is closed before it would grow above this.
    pub segment_bytes: u32,
    /// `segment.ms`: age in ms at which a segment file is closed.
    pub segment_ms: u64,
    /// `segment.jitter.ms`: at most so much is taken off `segment_ms`, so that not all files are closed at once.
    pub segment_jitter_ms: u64,
    /// `index.interval.bytes`: at least so many bytes of log between two entries of the offset index.
    pub index_interval_bytes: u32,
    /// `retention.ms`: age in ms from which records may be deleted; `None`: no age is too high.
    pub retention_ms: Option<u64>,
    /// `retention.bytes`: bytes of a partition from which its oldest records may be deleted; `None`: unlimited.
    pub retention_bytes: Option<u64>,
    /// `message.timestamp.type`: whose time records have.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far the producer's time may lie behind the broker's; `None`: any.
    pub timestamp_before_max_ms: Option<u64>,
    /// `message.timestamp.after.max.ms`: how far the producer's time may lie ahead of the broker's; `None`: any.
    pub timestamp_after_max_ms: Option<u64>,
    /// `storage`: where its records are; fixed when the topic is made.
    pub storage: TopicStorage,
    /// `memory.bytes`: most bytes of batches of one partition of a topic in memory.
    pub memory_bytes: u64,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            max_message_bytes: 1_048_588,
            segment_bytes: 256 << 20,
            segment_ms: 7 * 86_400_000,
            segment_jitter_ms: 0,
            index_interval_bytes: 4096,
            retention_ms: Some(7 * 86_400_000),
            retention_bytes: None,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: None,
            timestamp_after_max_ms: Some(3_600_000),
            storage: TopicStorage::Disk,
            memory_bytes: 64 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_users_may_create() {
        for good in ["a", "orders", "A.b_c-9", &"x".repeat(200)] {
            assert_eq!(
                TopicName::for_user(good).map(|n| n.to_string()),
                Ok(good.to_owned())
            );
        }
    }

    #[test]
    fn bad_names_say_what_is_wrong() {
        assert_eq!(TopicName::for_user(""), Err(InvalidTopicName::Empty));
        assert_eq!(
            TopicName::for_user(&"x".repeat(201)),
            Err(InvalidTopicName::TooLong(201))
        );
        assert_eq!(TopicName::for_user("."), Err(InvalidTopicName::Dots));
        assert_eq!(TopicName::for_user(".."), Err(InvalidTopicName::Dots));
        assert_eq!(TopicName::for_user("__x"), Err(InvalidTopicName::Reserved));
        assert_eq!(TopicName::for_user("dlq.x"), Err(InvalidTopicName::Reserved));
        for (text, character, at) in [
            ("../etc", '/', 2),
            ("a/b", '/', 1),
            ("a\0", '\0', 1),
            ("a\nb", '\n', 1),
            ("\u{1b}[1m", '\u{1b}', 0),
            ("caf\u{e9}", '\u{e9}', 3),
        ] {
            assert_eq!(
                TopicName::for_user(text),
                Err(InvalidTopicName::Character { character, at })
            );
        }
    }
}
