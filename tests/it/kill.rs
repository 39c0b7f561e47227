//! The broker is killed again and again under load, and nothing that was acknowledged or read changes.

use crate::broker::Setup;
use crate::load::Load;

const KILLS: u32 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn ten_kills_under_load_lose_double_and_move_nothing() {
    let seed =
        std::env::var("NARU_TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("NARU_TEST_SEED={seed} makes the same moments and the same records again");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut broker = Setup::small_journal().start();
    let load = Load::start(&broker).await;
    let (mut clean, mut slowest) = (0, 0);
    for _ in 0..KILLS {
        // Right after the start, in the middle of the first ring, and after several: all are hit.
        let most = 1 << random.u32(1..=9);
        load.more(random.u64(1..=most)).await;
        broker.kill();
        broker.restart();
        let recovered = broker.log.wait_for("recovered");
        clean += u32::from(recovered["clean"] == true);
        slowest = slowest.max(broker.log.wait_for("ready")["duration_ms"].as_u64().unwrap());
        assert_eq!(broker.log.event("data_corrupt"), None);
    }
    // Whatever the moments were, the ring has been around at the end.
    while load.count() < 2_000 {
        load.more(1).await;
    }
    let records = load.finish(&broker).await;
    assert_eq!(clean, 0, "no stop was clean");
    eprintln!("{records} records over {KILLS} kills, slowest start {slowest} ms");
}
