//! What `/livez` and `/readyz` say. Knows nothing of sockets or of how a check is made.

use std::fmt::Write as _;

/// One thing that is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Short name, as used by `?exclude=`.
    pub name: &'static str,
    /// How it stands.
    pub state: CheckState,
}

/// How a check stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckState {
    /// As it should be.
    Good,
    /// Something to know; fails nothing.
    Note(String),
    /// Not as it should be, and why.
    Failed(String),
}

impl Check {
    /// A check that fails with this reason, or is fine without one.
    pub fn new(name: &'static str, failure: Option<String>) -> Self {
        Self {
            name,
            state: failure.map_or(CheckState::Good, CheckState::Failed),
        }
    }

    /// Something to know that fails nothing.
    pub fn note(name: &'static str, what: impl Into<String>) -> Self {
        Self {
            name,
            state: CheckState::Note(what.into()),
        }
    }
}

/// Who knows how the process stands. Asked once per request, so it must not block.
pub trait Probe: Send + Sync + 'static {
    /// Whether the process works at all; if not, somebody should start it again.
    fn liveness(&self) -> Vec<Check>;

    /// Whether it takes requests right now.
    fn readiness(&self) -> Vec<Check>;
}

/// The answer to a question about health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// No check failed but those that were excluded.
    pub good: bool,
    /// The body.
    pub text: String,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// List the checks even if all is well.
    pub verbose: bool,
    /// Checks that do not count.
    pub exclude: Vec<String>,
}

impl Query {
    /// Reads `verbose`, `verbose=true`, `exclude=a`, `exclude=a,b`, repeated as one likes; other words are ignored, as
    /// Kubernetes does.
    pub fn parse(text: &str) -> Self {
        let mut query = Self::default();
        for pair in text.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "verbose" => query.verbose = !matches!(value, "false" | "0"),
                "exclude" => query.exclude.extend(value.split(',').map(str::to_owned)),
                _ => {}
            }
        }
        query
    }
}

/// Sums the checks up in the form that Kubernetes uses: `[+]name ok`, `[-]name failed: why`, and `[i]` for notes.
///
/// The list is shown when asked for or when something failed.
pub fn verdict(endpoint: &str, checks: &[Check], query: &Query) -> Verdict {
    let mut lines = String::new();
    let mut good = true;
    for check in checks {
        let excluded = query.exclude.iter().any(|name| name == check.name);
        // Writing to a String does not fail.
        let _ = match &check.state {
            CheckState::Good if excluded => writeln!(lines, "[+]{} excluded: ok", check.name),
            CheckState::Good => writeln!(lines, "[+]{} ok", check.name),
            CheckState::Note(what) => writeln!(lines, "[i]{} {what}", check.name),
            CheckState::Failed(_) if excluded => writeln!(lines, "[+]{} excluded: ok", check.name),
            CheckState::Failed(why) => {
                good = false;
                writeln!(lines, "[-]{} failed: {why}", check.name)
            }
        };
    }
    let text = match (good, query.verbose) {
        (true, false) => "ok\n".to_owned(),
        (true, true) => format!("{lines}{endpoint} check passed\n"),
        (false, _) => format!("{lines}{endpoint} check failed\n"),
    };
    Verdict { good, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        vec![
            Check::new("listeners", None),
            Check::note("journal files", "2 of 4 ready"),
            Check::new("storage", Some("the disk is full".to_owned())),
        ]
    }

    #[test]
    fn a_failed_check_is_named_even_without_verbose() {
        let seen = verdict("readyz", &checks(), &Query::default());
        assert!(!seen.good);
        assert_eq!(
            seen.text,
            "[+]listeners ok\n[i]journal files 2 of 4 ready\n[-]storage failed: the disk is full\nreadyz check failed\n"
        );
    }

    #[test]
    fn an_excluded_check_does_not_count() {
        let query = Query::parse("verbose&exclude=storage");
        let seen = verdict("readyz", &checks(), &query);
        assert!(seen.good);
        assert_eq!(
            seen.text,
            "[+]listeners ok\n[i]journal files 2 of 4 ready\n[+]storage excluded: ok\nreadyz check passed\n"
        );
    }

    #[test]
    fn all_well_is_one_word() {
        let good = [
            Check::new("listeners", None),
            Check::note("journal files", "4 of 4"),
        ];
        assert_eq!(verdict("livez", &good, &Query::default()).text, "ok\n");
    }

    #[test]
    fn queries_are_read_leniently() {
        let expected = Query {
            verbose: true,
            exclude: vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],
        };
        assert_eq!(Query::parse("exclude=a,b&verbose=1&x=y&exclude=c"), expected);
        assert_eq!(Query::parse(""), Query::default());
        assert!(!Query::parse("verbose=false").verbose);
    }
}
