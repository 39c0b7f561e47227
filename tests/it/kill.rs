//! The broker is killed again and again under load, also while it starts, and nothing that was acknowledged or read changes.
//!
//! The moments are the test's own to choose, so between a start and a kill time passes by; everything else waits for events.

use std::time::Duration;

use fastrand::Rng;
use naru::history::FaultKind;

use crate::broker::{Broker, Setup};
use crate::churn::Churn;
use crate::load::Load;
use crate::rounds::rounds;

/// Rounds in a run of CI, of so many kills each.
const ROUNDS: u64 = 3;
const KILLS: u32 = 10;

/// A debug build is ready after about a tenth of a second.
const DIES_WITHIN_MS: u64 = 150;

/// What came of all kills.
#[derive(Debug, Default)]
struct Figures {
    kills: u32,
    /// Of them while it started.
    at_start: u32,
    /// Starts that found the last group unfinished.
    unfinished: u32,
    slowest_start_ms: u64,
    records: usize,
    topics: usize,
}

/// How a power cut is made, or a kill: by what the broker's disk does with what was not synced.
pub(crate) type Lossy = fn(&mut Rng) -> Option<u64>;

#[tokio::test(flavor = "multi_thread")]
async fn kills_under_load_lose_double_and_move_nothing() {
    under_load("kill_loop", |_| None).await;
}

pub(crate) async fn under_load(name: &str, lossy: Lossy) {
    let mut figures = Figures::default();
    for (round, seed) in (0..).zip(rounds(ROUNDS)) {
        let mut random = Rng::with_seed(seed);
        // Most rings are as small as can be, so that files are used again and again; the others take large batches.
        let large = round % ROUNDS == ROUNDS - 1;
        let setup = if large {
            Setup::default()
        } else {
            Setup::small_journal()
        };
        let lossy = lossy(&mut random);
        let fault = match lossy {
            Some(_) => FaultKind::PowerCut,
            None => FaultKind::Kill,
        };
        let mut broker = Setup { lossy, ..setup }.start();
        one_round(&mut broker, (large, fault), &mut random, &mut figures).await;
    }
    let Figures {
        kills,
        at_start,
        unfinished,
        slowest_start_ms,
        records,
        topics,
    } = figures;
    eprintln!(
        "figures {name}: kills={kills} at_start={at_start} unfinished={unfinished} slowest_start_ms={slowest_start_ms} \
         records={records} topics={topics}"
    );
}

async fn one_round(
    broker: &mut Broker,
    (large, fault): (bool, FaultKind),
    random: &mut Rng,
    figures: &mut Figures,
) {
    let load = if large {
        Load::start_with_large_batches(broker).await
    } else {
        Load::start(broker).await
    };
    let churn = Churn::start(&broker.url()).await;
    for _ in 0..KILLS {
        // Right after the start, in the middle of the first ring, and after several: all are hit; always just after an answer.
        let most = 1 << random.u32(1..=9);
        load.more(random.u64(1..=most)).await;
        load.fault(fault);
        broker.kill();
        if random.u32(0..3) == 0 {
            let after = Duration::from_millis(random.u64(0..DIES_WITHIN_MS));
            broker.die_while_starting(after).await;
            figures.at_start += 1;
            figures.kills += 1;
        }
        broker.restart();
        load.over(fault);
        figures.kills += 1;
        let recovered = broker.log.wait_for("recovered");
        assert_ne!(recovered["clean"], true, "no stop was clean");
        assert_eq!(broker.log.event("data_corrupt"), None);
        figures.unfinished += u32::from(broker.log.event("unfinished_group").is_some());
        let took = broker.log.wait_for("ready")["duration_ms"].as_u64().unwrap();
        figures.slowest_start_ms = figures.slowest_start_ms.max(took);
    }
    // Whatever the moments were, the ring has been around at the end.
    while load.count() < 2_000 {
        load.more(1).await;
    }
    figures.records += load.finish(broker).await.produced;
    figures.topics += churn.finish(broker).await;
}
