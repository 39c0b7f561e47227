//! `EIO`, and `ENOSPC` from a sync, at chosen writes and syncs of the real process: it ends, believes nothing that comes later,
//! and finds what was acknowledged when it is started again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use naru::client::{Client, Error};
use rustix::process::Signal;

use super::at_once;
use super::story::{self, Ledger};
use super::strace::{self, Strike, Tracer};
use crate::broker::{Broker, Setup};

/// What is struck, in a broker that has just been told a story, stopped and started again.
#[derive(Clone, Copy, Debug)]
enum Target {
    Journal,
    Segment,
    Index,
    Checkpoints,
    /// Directories whose names are synced behind a checkpoint or for a new segment.
    Directories,
}

const TARGETS: [(Target, &[&str]); 5] = [
    (Target::Journal, &["pwrite64", "fdatasync"]),
    (Target::Segment, &["pwrite64", "fdatasync"]),
    (Target::Index, &["pwrite64", "fdatasync"]),
    (Target::Checkpoints, &["pwrite64", "fdatasync"]),
    (Target::Directories, &["fsync"]),
];

/// The first, and one in the midst, once and for ever.
const WHEN: [&str; 4] = ["1", "1+", "3", "3+"];

impl Target {
    fn paths(self, data: &Path) -> Vec<PathBuf> {
        let of = |part: &str| {
            files(data)
                .into_iter()
                .filter(|path| path.to_string_lossy().ends_with(part))
                .collect()
        };
        match self {
            Self::Journal => of(".journal"),
            Self::Segment => of(".log"),
            Self::Index => of(".index"),
            Self::Checkpoints => ["checkpoint.0", "checkpoint.1"]
                .map(|name| data.join(name))
                .to_vec(),
            Self::Directories => directories(data),
        }
    }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        found.push(path.clone());
        if path.is_dir() {
            walk(&path, found);
        }
    }
}

pub(super) fn files(data: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(data, &mut found);
    found.retain(|path| path.is_file());
    found
}

fn directories(data: &Path) -> Vec<PathBuf> {
    let mut found = vec![data.to_owned()];
    walk(data, &mut found);
    found.retain(|path| path.is_dir());
    found
}

/// What came of a strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The broker ended with 74.
    Ended,
    /// The call was never made.
    Missed,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_any_file_ends_the_broker_with_74_and_loses_nothing_acknowledged() {
    if !strace::is_there("errors of the disk at chosen system calls") {
        return;
    }
    let begun = crate::peer::now();
    let calls = TARGETS
        .iter()
        .flat_map(|(target, calls)| calls.iter().map(|call| (*target, *call)));
    let strikes = calls.flat_map(|(target, call)| WHEN.map(|when| strike(target, call, when, "EIO")));
    let outcomes = at_once(3, strikes).await;
    let ended = outcomes
        .iter()
        .filter(|outcome| **outcome == Outcome::Ended)
        .count();
    let (missed, seconds) = (outcomes.len() - ended, begun.elapsed().as_secs());
    eprintln!("figures system_io_errors: ended_with_74={ended} never_called={missed} seconds={seconds}");
    assert!(ended >= 24, "{ended} strikes had an effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_finds_the_disk_full_is_believed_no_more_than_any_that_fails() {
    if !strace::is_there("a sync that finds the disk full") {
        return;
    }
    for target in [Target::Journal, Target::Segment, Target::Checkpoints] {
        let outcome = strike(target, "fdatasync", "1", "ENOSPC").await;
        assert_eq!(outcome, Outcome::Ended, "{target:?}");
    }
    assert_eq!(
        strike(Target::Directories, "fsync", "1", "ENOSPC").await,
        Outcome::Ended
    );
}

/// A broker that is told a story on what an earlier one left, while one of its calls fails.
async fn strike(target: Target, call: &'static str, when: &'static str, errno: &'static str) -> Outcome {
    let what = format!("{target:?} {call} {when} {errno}");
    let mut broker = Setup::small_journal().start();
    let told = Ledger::default();
    story::tell(&broker.client().await, &told).await.unwrap();
    // What is in the segments now has names, which strace takes.
    broker.signal(Signal::TERM);
    assert_eq!(broker.ended().await.code(), Some(0));
    broker.restart();
    let client = broker.client().await;
    let strike = Strike {
        call,
        when: when.to_owned(),
        what: format!("error={errno}"),
        paths: target.paths(&broker.data),
    };
    let tracer = Tracer::attach(broker.pid(), &strike);
    let refused = work(&client, &told).await;
    if let Err(error) = &refused {
        // Between two records it may have been the seal that failed: then nobody is there to be sent the next one.
        assert!(
            error.may_have_taken_effect() || matches!(error, Error::Connect { .. }),
            "{what}: nobody knows what the disk did: {error}"
        );
        // Nothing is acknowledged any more.
        another(&broker.url(), &told).await.expect_err(&what);
    } else {
        // Segments and checkpoints are written at the latest when it stops.
        broker.signal(Signal::TERM);
    }
    let status = broker.ended().await;
    drop(tracer);
    let outcome = match (&refused, status.code()) {
        (_, Some(74)) => Outcome::Ended,
        (Ok(()), Some(0)) => Outcome::Missed,
        other => panic!("{what}: {other:?}"),
    };
    if outcome == Outcome::Ended {
        broker.log.wait_for("storage_failed");
    }
    restart_and_check(&mut broker, &told).await;
    outcome
}

async fn work(client: &Client, told: &Ledger) -> Result<(), Error> {
    let producer = story::producer(client).await?;
    story::records(&producer, told, 12).await
}

/// Somebody who comes when it has failed.
async fn another(url: &str, told: &Ledger) -> Result<(), Error> {
    let client = Client::builder().request_timeout(Duration::from_secs(1));
    work(&client.connect(url).await?, told).await
}

async fn restart_and_check(broker: &mut Broker, told: &Ledger) {
    broker.restart();
    assert_eq!(broker.log.event("data_corrupt"), None);
    let client = broker.client().await;
    story::check(&client, told).await;
    story::go_on(&client, told).await;
}
