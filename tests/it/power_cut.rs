//! As the loops of kills, but what was not synced goes with the process: the broker's disk is one that loses it, at random.
//! Only built with the feature that gives the broker such a disk.

use fastrand::Rng;

use crate::{kill, kill_members};

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
