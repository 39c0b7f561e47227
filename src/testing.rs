//! What unit tests share: seeds of tests that draw at random.

use std::env;
use std::time::{Duration, Instant};

/// Seeds of a test that draws at random: so many rounds, each with a seed of its own.
///
/// `NARU_TEST_SEED=n` begins with this seed; without it every run begins with another. `NARU_TEST_SECONDS=n` makes the test
/// go on until so many seconds have passed, whatever its number of rounds.
#[expect(
    clippy::disallowed_methods,
    reason = "a run draws its own seed and says which"
)]
pub(crate) fn rounds(default_rounds: u64) -> Rounds {
    let seed = number("NARU_TEST_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
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
