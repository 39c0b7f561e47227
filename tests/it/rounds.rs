//! Seeds of tests that draw at random, and how long such tests go on.

use std::env;
use std::time::Duration;

use tokio::time::Instant;

use crate::peer::now;

/// Rounds of a test, each with a seed of its own: so many of them.
///
/// `NARU_TEST_SEED=n` begins with this seed; without it every run begins with another. `NARU_TEST_SECONDS=n` makes the test
/// go on until so many seconds have passed, whatever its number of rounds.
pub(crate) fn rounds(default_rounds: u64) -> Rounds {
    let seed = number("NARU_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    Rounds {
        next: seed,
        left: default_rounds,
        until: seconds().map(|seconds| now() + Duration::from_secs(seconds)),
    }
}

/// How long tests are to go on that draw at random, if anybody has said so.
pub(crate) fn seconds() -> Option<u64> {
    number("NARU_TEST_SECONDS")
}

/// See [`rounds`].
#[derive(Debug)]
pub(crate) struct Rounds {
    next: u64,
    left: u64,
    until: Option<Instant>,
}

impl Iterator for Rounds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let more = match self.until {
            Some(until) => now() < until,
            None => self.left > 0,
        };
        let seed = more.then_some(self.next)?;
        // At the start of each round, so that the last one that is shown is the one that failed.
        eprintln!("NARU_TEST_SEED={seed} draws the same again");
        self.left = self.left.saturating_sub(1);
        self.next = seed.wrapping_add(1);
        Some(seed)
    }
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}
