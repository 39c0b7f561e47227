//! Names of consumer groups.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest group id, in bytes.
pub const GROUP_ID_BYTES_MAX: usize = 200;

/// Identity of a consumer group: 1 to 200 bytes of text that can be shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(Arc<str>);

/// How a group is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GroupState {
    /// It has no members.
    #[default]
    Empty,
    /// The leader is to propose an assignment.
    Assigning,
    /// Partitions are on their way from member to member.
    Reconciling,
    /// Every member has what it is to have.
    Stable,
}

impl GroupState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Empty, Self::Assigning, Self::Reconciling, Self::Stable];

    /// Name for people and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Assigning => "assigning",
            Self::Reconciling => "reconciling",
            Self::Stable => "stable",
        }
    }
}

/// Why a string is no group id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGroupId {
    /// It is empty.
    #[error("a group id must not be empty")]
    Empty,
    /// It is longer than 200 bytes.
    #[error("a group id has at most {GROUP_ID_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// It has a character that cannot be shown, or that changes how others are shown.
    #[error("character {character:?} at byte {at} is not allowed in a group id: use text that can be shown")]
    Character {
        /// The character.
        character: char,
        /// Where it stands, in bytes.
        at: usize,
    },
    /// It begins or ends with white space.
    #[error("a group id does not begin or end with white space")]
    Edge,
}

impl GroupId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Control characters, line ends, and what is invisible or turns the direction of text around: two ids that look the same
/// would be two groups, and a log line with one of them would not say what it seems to say.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

impl FromStr for GroupId {
    type Err = InvalidGroupId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(InvalidGroupId::Empty);
        }
        if text.len() > GROUP_ID_BYTES_MAX {
            return Err(InvalidGroupId::TooLong(text.len()));
        }
        if let Some((at, character)) = text.char_indices().find(|(_, c)| is_hidden(*c)) {
            return Err(InvalidGroupId::Character { character, at });
        }
        if text.trim() != text {
            return Err(InvalidGroupId::Edge);
        }
        Ok(Self(Arc::from(text)))
    }
}

impl std::borrow::Borrow<str> for GroupId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_ids_are_text_that_can_be_shown() {
        for good in [
            "billing",
            "a b",
            "caf\u{e9}",
            "\u{ad6d}\u{c5b4}",
            "a/b:c",
            &"x".repeat(200),
        ] {
            assert_eq!(
                good.parse::<GroupId>().map(|id| id.to_string()),
                Ok(good.to_owned())
            );
        }
    }

    #[test]
    fn bad_group_ids_say_what_is_wrong() {
        assert_eq!("".parse::<GroupId>(), Err(InvalidGroupId::Empty));
        let long = "\u{e9}".repeat(101);
        assert_eq!(long.parse::<GroupId>(), Err(InvalidGroupId::TooLong(202)));
        assert_eq!(" a".parse::<GroupId>(), Err(InvalidGroupId::Edge));
        assert_eq!("a\u{a0}".parse::<GroupId>(), Err(InvalidGroupId::Edge));
        for (text, character, at) in [
            ("a\nlevel=info", '\n', 1),
            ("\u{1b}[31mred", '\u{1b}', 0),
            ("a\0", '\0', 1),
            ("\u{202e}evil", '\u{202e}', 0),
            ("\u{e9}\u{200b}", '\u{200b}', 2),
            ("a\u{2066}b", '\u{2066}', 1),
            ("a\u{7f}", '\u{7f}', 1),
        ] {
            assert_eq!(
                text.parse::<GroupId>(),
                Err(InvalidGroupId::Character { character, at })
            );
        }
    }
}
