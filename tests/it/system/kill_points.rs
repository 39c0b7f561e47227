//! SIGKILL at the Nth system call of a kind: in a first start, at work, in recovery, and while stopping.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use naru::client::Client;
use rustix::process::Signal;

use super::at_once;
use super::story::{self, Ledger};
use super::strace::{self, Strike, Tracer};
use crate::broker::{Broker, Setup};

/// Points in a run of the default length; less would mean that the sweep has lost its hold.
const POINTS_MIN: usize = 60;
/// Brokers at once: most of the time one waits for its tracer.
const AT_ONCE: usize = 3;

/// What a broker lives through while its calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// A new directory, a whole story, a stop.
    Whole,
    /// A start on what a killed broker left, and no more.
    Recovery,
    /// A stop behind a story.
    Stop,
}

/// System calls struck one after another until the broker survives.
#[derive(Clone, Debug)]
struct Sweep {
    call: &'static str,
    /// Calls in files of these names only.
    files: &'static [&'static str],
    life: Life,
    first: usize,
    step: usize,
    last: usize,
}

const fn at_work(call: &'static str, last: usize) -> Sweep {
    Sweep {
        call,
        files: &[],
        life: Life::Whole,
        first: 1,
        step: 1,
        last,
    }
}

const fn in_recovery(call: &'static str) -> Sweep {
    Sweep {
        life: Life::Recovery,
        ..at_work(call, 12)
    }
}

const fn at_the_stop(call: &'static str) -> Sweep {
    Sweep {
        life: Life::Stop,
        ..at_work(call, 8)
    }
}

const fn of_checkpoints(call: &'static str) -> Sweep {
    Sweep {
        files: &["checkpoint.0", "checkpoint.1"],
        ..at_work(call, 6)
    }
}

const fn far(call: &'static str) -> Sweep {
    Sweep {
        first: 13,
        step: 6,
        ..at_work(call, 60)
    }
}

/// Each thread counts for itself: the first ones strike where the directory is made, later ones the thread of the journal
/// in a first life, those of few files the applier.
const SWEEPS: [Sweep; 24] = [
    at_work("pwrite64", 8),
    far("pwrite64"),
    at_work("fdatasync", 8),
    far("fdatasync"),
    at_work("fsync", 12),
    at_work("mkdir", 8),
    at_work("rename", 6),
    at_work("unlink", 6),
    at_work("ftruncate", 6),
    of_checkpoints("pwrite64"),
    of_checkpoints("fdatasync"),
    in_recovery("pwrite64"),
    in_recovery("fdatasync"),
    in_recovery("fsync"),
    in_recovery("ftruncate"),
    in_recovery("unlink"),
    in_recovery("rename"),
    in_recovery("mkdir"),
    at_the_stop("pwrite64"),
    at_the_stop("fdatasync"),
    at_the_stop("fsync"),
    at_the_stop("ftruncate"),
    at_the_stop("rename"),
    at_the_stop("unlink"),
];

/// Where a broker was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Killed {
    Starting,
    Working,
    Stopping,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_at_any_system_call_loses_and_invents_nothing() {
    if !strace::is_there("kills at chosen system calls") {
        return;
    }
    let begun = crate::peer::now();
    let template = Arc::new(Template::make().await);
    let sweeps = SWEEPS.map(|sweep| {
        let template = Arc::clone(&template);
        async move { run(&sweep, &template).await }
    });
    let mut killed: BTreeMap<Killed, usize> = BTreeMap::new();
    for point in at_once(AT_ONCE, sweeps).await.into_iter().flatten() {
        *killed.entry(point).or_default() += 1;
    }
    let points: usize = killed.values().sum();
    eprintln!(
        "figures system_kill_points: kills={points} {killed:?} seconds={}",
        begun.elapsed().as_secs()
    );
    assert!(points >= POINTS_MIN, "{points} points: {killed:?}");
    assert_eq!(killed.len(), 3, "in every phase: {killed:?}");
}

/// A data directory of a broker that was killed behind its story, and the story.
struct Template {
    broker: Broker,
    told: Ledger,
}

impl Template {
    async fn make() -> Self {
        let mut broker = Setup::small_journal().start();
        let told = Ledger::default();
        story::tell(&broker.client().await, &told).await.unwrap();
        broker.kill();
        Self { broker, told }
    }
}

async fn run(sweep: &Sweep, template: &Template) -> Vec<Killed> {
    let mut killed = Vec::new();
    for n in (sweep.first..=sweep.last).step_by(sweep.step) {
        match point(sweep, n, template).await {
            Some(phase) => killed.push(phase),
            // There are no more such calls.
            None => break,
        }
    }
    killed
}

/// One life under strace and one after it. Where it was killed, if it was.
async fn point(sweep: &Sweep, n: usize, template: &Template) -> Option<Killed> {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let strike = Strike {
        call: sweep.call,
        when: n.to_string(),
        what: "signal=SIGKILL".to_owned(),
        paths: sweep.files.iter().map(|name| data.join(name)).collect(),
    };
    let mut setup = Setup::small_journal();
    let mut told = Ledger::default();
    if sweep.life == Life::Recovery {
        copy(&template.broker.data, &data);
        // What is done behind the check is noted in a ledger of this point's own.
        told = Ledger::new(template.told.lock().unwrap().clone());
    }
    if sweep.life != Life::Stop {
        setup.under = strike.under();
    }
    let mut broker = setup.spawn_on(home, data);
    let killed = match (broker.is_ready(), sweep.life) {
        (false, _) => Some(Killed::Starting),
        (true, Life::Recovery) => None,
        (true, Life::Whole) => live(&mut broker, &told, None).await,
        (true, Life::Stop) => live(&mut broker, &told, Some(&strike)).await,
    };
    match killed {
        Some(_) => assert_eq!(broker.ended().await.signal(), Some(9), "{sweep:?} {n}"),
        None => broker.kill(),
    }
    broker.restart();
    assert_eq!(broker.log.event("data_corrupt"), None);
    let client = broker.client().await;
    story::check(&client, &told).await;
    story::go_on(&client, &told).await;
    killed
}

/// The story, and a stop behind it, which alone is struck if something is given.
async fn live(broker: &mut Broker, told: &Ledger, at_the_stop: Option<&Strike>) -> Option<Killed> {
    let client = Client::builder()
        .reconnect_backoff(Duration::from_millis(1), Duration::from_millis(1))
        .wait_for_broker(Duration::from_millis(1));
    let Ok(client) = client.connect(&broker.url()).await else {
        return Some(Killed::Working);
    };
    let tale = story::tell(&client, told);
    let ended = tokio::select! {
        ended = tale => ended,
        _ = broker.ended() => return Some(Killed::Working),
    };
    if ended.is_err() {
        return Some(Killed::Working);
    }
    let _tracer = at_the_stop.map(|strike| Tracer::attach(broker.pid(), strike));
    broker.signal(Signal::TERM);
    let status = broker.ended().await;
    (status.code() != Some(0)).then_some(Killed::Stopping)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target: PathBuf = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
