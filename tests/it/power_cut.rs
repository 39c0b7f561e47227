//! As the loops of kills, but what was not synced goes with the process: the broker's disk is one that loses it, at random.
//! Only built with the feature that gives the broker such a disk.

use std::env;
use std::process::Command;

use fastrand::Rng;

use crate::{chaos, kill, kill_members};

/// Bugs that the first of these loops is to find. Most of the others are out of its reach: they take a disk that fails, or a
/// kill at one operation of thousands. `docs/testing.md` has them all.
const BUGS: [&str; 9] = [
    "ack-before-sync",
    "recovered-tail-not-synced",
    "journal-dir-not-synced",
    "segment-dir-not-synced",
    "topic-dir-not-synced",
    "snapshot-ahead-of-durability",
    "snapshot-after-wait",
    "checkpoint-before-sync",
    "segment-trusted",
];

/// Each is found within this time; most take a second or two.
const SECONDS_MAX: &str = "60";

/// Another seed for the disk of each broker.
fn lossy(random: &mut Rng) -> Option<u64> {
    Some(random.u64(1..))
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_under_load_lose_double_and_move_nothing() {
    kill::under_load("power_cut_loop", lossy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_amid_rebalances_steps_and_commits_lose_double_and_split_nothing() {
    kill_members::amid_rebalances("power_cut_members", lossy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_promise_is_broken_while_members_are_killed_and_stopped_and_the_power_is_cut() {
    chaos::while_all_are_disturbed("power_cut_chaos", |random| Some(random.u64(1..))).await;
}

/// The loop above, in a process of its own, with a broker that is broken on purpose.
#[test]
fn planted_bugs_are_found_by_power_cuts() {
    let mut figures = String::new();
    for bug in BUGS {
        let output = Command::new(env::current_exe().unwrap())
            .args([
                "power_cut::power_cuts_under_load_lose_double_and_move_nothing",
                "--exact",
                "--nocapture",
            ])
            .env("NARU_TEST_PLANTED", bug)
            .env("NARU_TEST_SECONDS", SECONDS_MAX)
            .env_remove("NARU_TEST_SEED")
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{bug} was not found:\n{told}");
        assert!(
            told.contains("bug_planted") || told.contains("panicked at"),
            "{bug}:\n{told}"
        );
        let rounds = told.matches("NARU_TEST_SEED=").count();
        eprintln!(
            "{bug}: {}",
            told.lines()
                .skip_while(|line| !line.contains("panicked at"))
                .nth(1)
                .unwrap_or_default()
        );
        figures += &format!(" {bug}={rounds}");
    }
    eprintln!("figures power_cut_planted: bugs={}{figures}", BUGS.len());
}
