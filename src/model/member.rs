//! Names of the members of consumer groups.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest member id and instance id, in bytes.
pub const MEMBER_ID_BYTES_MAX: usize = 64;

/// Why a string is no member id and no instance id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMemberId {
    /// It is empty.
    #[error("it must not be empty")]
    Empty,
    /// It is longer than 64 bytes.
    #[error("it has at most {MEMBER_ID_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// It has a character that it cannot have.
    #[error("character {character:?} at byte {at} is not allowed: use letters, digits, '.', '_' and '-'")]
    Character {
        /// The character.
        character: char,
        /// Where it stands, in bytes.
        at: usize,
    },
}

macro_rules! member_name {
    ($(#[doc = $doc:literal])* $name:ident) => {
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidMemberId;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                check(text)?;
                Ok(Self(Arc::from(text)))
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

member_name! {
    /// Identity of one incarnation of a member, chosen by the client: 1 to 64 letters, digits, dots, dashes and underscores.
    /// Never used again, so that whoever has lost its place cannot be taken for who has it now.
    MemberId
}

member_name! {
    /// Identity of a static member over its restarts, from its configuration; the same characters as a [`MemberId`].
    InstanceId
}

fn check(text: &str) -> Result<(), InvalidMemberId> {
    if text.is_empty() {
        return Err(InvalidMemberId::Empty);
    }
    if text.len() > MEMBER_ID_BYTES_MAX {
        return Err(InvalidMemberId::TooLong(text.len()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match text.char_indices().find(|(_, c)| !allowed(*c)) {
        Some((at, character)) => Err(InvalidMemberId::Character { character, at }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_have_plain_characters() {
        for good in ["a", "billing-7f3a", "A_b.9", &"x".repeat(64)] {
            assert_eq!(good.parse::<MemberId>().unwrap().as_str(), good);
            assert_eq!(good.parse::<InstanceId>().unwrap().to_string(), good);
        }
        let bad = |text: &str| text.parse::<MemberId>().unwrap_err();
        assert_eq!(bad(""), InvalidMemberId::Empty);
        assert_eq!(bad(&"x".repeat(65)), InvalidMemberId::TooLong(65));
        let character = InvalidMemberId::Character {
            character: '\u{e9}',
            at: 3,
        };
        assert_eq!(bad("caf\u{e9}"), character);
        for text in ["a b", "a/b", "a\n", "*"] {
            assert!(matches!(bad(text), InvalidMemberId::Character { .. }), "{text:?}");
        }
    }
}
