//! Patterns with `*` (any text) and `?` (one character), matched without recursion.

/// Longest pattern, in bytes: no name is longer.
pub const GLOB_BYTES_MAX: usize = 200;

/// A pattern is longer than any name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pattern has {0} bytes, at most 200 are allowed")]
pub struct GlobTooLong(pub usize);

/// A pattern over names, which are ASCII. Empty: matches everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Vec<u8>);

impl Glob {
    /// The pattern in this text; every text that is short enough is one.
    ///
    /// # Errors
    /// It is longer than [`GLOB_BYTES_MAX`].
    pub fn new(pattern: &str) -> Result<Self, GlobTooLong> {
        if pattern.len() > GLOB_BYTES_MAX {
            return Err(GlobTooLong(pattern.len()));
        }
        Ok(Self(pattern.as_bytes().to_vec()))
    }

    /// Whether the whole name fits.
    ///
    /// Walks the name once; on a mismatch only the last star takes up one more character, since a star before it
    /// cannot do better.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_slice(), name.as_bytes());
        if pattern.is_empty() {
            return true;
        }
        let (mut p, mut n) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while let Some(&character) = name.get(n) {
            match pattern.get(p) {
                Some(b'*') => {
                    p += 1;
                    star = Some((p, n));
                }
                Some(&wanted) if wanted == b'?' || wanted == character => {
                    p += 1;
                    n += 1;
                }
                Some(_) | None => {
                    let Some((behind, taken)) = star else {
                        return false;
                    };
                    star = Some((behind, taken + 1));
                    (p, n) = (behind, taken + 1);
                }
            }
        }
        pattern.iter().skip(p).all(|rest| *rest == b'*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Glob::new(pattern).unwrap().matches(name)
    }

    /// The textbook definition, exponential and obviously right.
    fn naive(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some((b'*', rest)), _) => {
                naive(rest, name) || name.split_first().is_some_and(|(_, tail)| naive(pattern, tail))
            }
            (Some(_), None) => false,
            (Some((p, rest)), Some((n, tail))) => (*p == b'?' || p == n) && naive(rest, tail),
        }
    }

    #[test]
    fn stars_and_question_marks_match_whole_names() {
        assert!(matches("", "anything"));
        assert!(matches("*", ""));
        assert!(matches("orders.*", "orders.eu"));
        assert!(!matches("orders.*", "my.orders.eu"));
        assert!(matches("*eu", "orders.eu"));
        assert!(matches("o?ders", "orders"));
        assert!(!matches("o?ders", "oders"));
        assert!(!matches("orders", "orders2"));
    }

    #[test]
    fn a_pattern_made_to_backtrack_ends_soon() {
        let pattern = "*a".repeat(99) + "b";
        assert!(!matches(&pattern, &"a".repeat(200)));
    }

    #[test]
    fn a_pattern_longer_than_any_name_is_refused() {
        assert_eq!(Glob::new(&"x".repeat(201)), Err(GlobTooLong(201)));
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*?]{1,8}", name in "[ab]{0,8}") {
            proptest::prop_assert_eq!(matches(&pattern, &name), naive(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
