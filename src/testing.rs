//! What unit tests share: seeds of tests that draw at random, and crashes at every moment of a run.

pub(crate) mod crash;

use std::env;
use std::time::{Duration, Instant};

/// Where the short form begins.
const FIRST_SEED: u64 = 1;

/// Seeds of a test that draws at random: so many rounds, each with a seed of its own.
///
/// `NARU_TEST_SEED=n` begins with this seed. `NARU_TEST_SECONDS=n` makes the test go on until so many seconds have passed,
/// whatever its number of rounds, and begin with another seed every time. Without either the seeds are always the same: what
/// comes in is judged by what it changes, and new ground is for the long run.
pub(crate) fn rounds(default_rounds: u64) -> Rounds {
    rounds_behind(0, default_rounds)
}

/// As [`rounds`], for the test that goes on where another one ends: the short form begins so many seeds further on.
#[expect(
    clippy::disallowed_methods,
    reason = "a run draws its own seed and says which"
)]
pub(crate) fn rounds_behind(others: u64, default_rounds: u64) -> Rounds {
    let is_long = number("NARU_TEST_SECONDS").is_some();
    let drawn = || is_long.then(|| uuid::Uuid::new_v4().as_u64_pair().0);
    let seed = number("NARU_TEST_SEED")
        .or_else(drawn)
        .unwrap_or(FIRST_SEED + others);
    eprintln!("NARU_TEST_SEED={seed} draws the same again");
    Rounds {
        next: seed,
        left: default_rounds,
        until: number("NARU_TEST_SECONDS").map(|seconds| now() + Duration::from_secs(seconds)),
    }
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

#[expect(
    clippy::disallowed_methods,
    reason = "how long a test goes on is not part of what it tests"
)]
fn now() -> Instant {
    Instant::now()
}
