//! What an operator does to a broker, and what a disk does to it: stop, restart, failing syncs, a full file system.

use std::time::Duration;

use naru::client::{CreateTopicOptions, ProducerRecord};
use naru::history::FaultKind;
use rustix::process::Signal;

use crate::broker::{Broker, Setup};
use crate::load::Load;

/// Stops in good order under load; each ends within what the broker gives itself, and the machine's slowness.
const STOPS: usize = 12;
const DRAINED_WITHIN: Duration = Duration::from_secs(11);

/// How long the broker stands still: within the patience of a request, and beyond.
const STILL_MS: [u64; 4] = [1_000, 1_700, 5_000, 1_200];

#[tokio::test(flavor = "multi_thread")]
async fn signals_drain_under_load_and_the_next_start_replays_nothing() {
    let mut broker = Setup::small_journal().start();
    let load = Load::start(&broker).await;
    let mut slowest = Duration::ZERO;
    for stop in 0..STOPS {
        load.more(fastrand::u64(1..200)).await;
        let signal = [Signal::TERM, Signal::INT][stop % 2];
        let signalled = crate::peer::now();
        load.fault(FaultKind::Restart);
        broker.signal(signal);
        let status = broker.ended().await;
        assert_eq!(status.code(), Some(0), "{signal:?}");
        slowest = slowest.max(signalled.elapsed());
        assert!(slowest < DRAINED_WITHIN, "{signal:?}: after {slowest:?}");
        broker.restart();
        load.over(FaultKind::Restart);
        let recovered = broker.log.wait_for("recovered");
        assert_eq!(
            (&recovered["clean"], &recovered["groups"]),
            (&true.into(), &0.into()),
            "{recovered}"
        );
    }
    let records = load.finish(&mut broker).await.produced;
    let slowest = slowest.as_millis();
    eprintln!("figures shutdown: stops={STOPS} records={records} slowest_stop_ms={slowest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stands_still_for_seconds_loses_doubles_and_moves_nothing() {
    let mut broker = Setup::small_journal().start();
    let load = Load::start(&broker).await;
    for still_ms in STILL_MS {
        load.more(fastrand::u64(1..500)).await;
        load.fault(FaultKind::Pause);
        broker.signal(Signal::STOP);
        // How long it stands still is all that is tried here.
        tokio::time::sleep(Duration::from_millis(still_ms)).await;
        broker.signal(Signal::CONT);
        load.over(FaultKind::Pause);
    }
    load.more(500).await;
    let records = load.finish(&mut broker).await.produced;
    eprintln!("figures standstill: stops={} records={records}", STILL_MS.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_of_an_idle_broker_is_small_and_it_starts_at_once() {
    let broker = Broker::start();
    let ready = broker.log.wait_for("ready")["duration_ms"].as_u64().unwrap();
    let (now, _) = broker.rss_kib();
    eprintln!("ready after {ready} ms, {now} KiB resident");
    // The goals, 150 ms and 20 MiB, are for a release build on a machine that does nothing else.
    assert!(ready < 1_500, "ready after {ready} ms");
    assert!(now < 40 << 10, "{now} KiB resident");
    // Of the 20 MiB a release build's code has 9. With huge pages it would be 13 MiB.
    let anonymous = broker.anonymous_kib();
    assert!(anonymous < 11 << 10, "{anonymous} KiB are of no file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_may_be_a_symbolic_link() {
    let home = tempfile::tempdir().unwrap();
    let link = home.path().join("link");
    std::fs::create_dir(home.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", &link).unwrap();
    let broker = Setup::default().start_on(home, link);
    let client = broker.client().await;
    client
        .create_topic("t", CreateTopicOptions::default())
        .await
        .unwrap();
    let producer = client.producer().build().await.unwrap();
    producer.send(ProducerRecord::to("t").value("v")).await.unwrap();
    let real = broker.dir.path().join("real");
    assert!(real.join("journal").is_dir());
}
