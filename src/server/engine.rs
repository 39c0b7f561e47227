//! The storage engine with the broker over it, as the shell sees them: engines differ in type, the shell does not care.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{info, warn};

use super::ServeError;
use super::groups;
use super::lock::DirectoryLock;
use super::metered::{DiskMeter, MeteredDisk};
use super::metrics::{EngineNow, GROUPS_MAX, LocalNow};
use super::port_file::Addresses;
use super::process;
use super::status::{EngineHealth, Status};
use crate::api::Service;
use crate::broker::{self, Broker, Recovered};
use crate::config::Settings;
use crate::disk::SharedDisk;
use crate::disk::real::RealDisk;
use crate::metadata::TopicDefaults;
use crate::model::{DurableState, shell_path};
use crate::net;
use crate::rt::{BoxFuture, Clock, IdSource, RandomIds, Tasks};
use crate::storage::LogStore;
use crate::storage::local::{LocalStore, OpenError, RecoveryReport};
use crate::storage::memory::{MemoryOptions, MemoryStore, WithMemory};
use crate::wire::{Identity, NativeProtocol};

/// How long to wait before a full disk is tried again at start.
const FULL_DISK_RETRY: Duration = Duration::from_secs(1);

/// An engine that was opened, with the broker over it.
pub(crate) struct Engine {
    /// Who answers requests.
    pub(crate) service: Arc<dyn Service>,
    /// What is durable, and whether the engine was poisoned.
    pub(crate) durable: watch::Receiver<DurableState>,
    /// Whether the engine was poisoned, for who waits for nothing else.
    pub(crate) failed: watch::Receiver<bool>,
    /// How the engine stands; may be asked from anywhere.
    pub(crate) health: Arc<dyn Fn() -> EngineHealth + Send + Sync>,
    /// What it has counted; may be asked from anywhere, and takes a while with many partitions.
    pub(crate) now: Arc<dyn Fn() -> EngineNow + Send + Sync>,
    /// Removes what retention does not keep; takes a while with many partitions.
    pub(crate) retain: Arc<dyn Fn() + Send + Sync>,
    /// Starts what time brings about for consumer groups.
    pub(crate) start_groups: Box<dyn Fn(&Tasks) + Send + Sync>,
    /// Takes over from new settings what can change; takes a while with many partitions.
    pub(crate) reconfigure: Arc<dyn Fn(&broker::Settings) + Send + Sync>,
    /// Ends the engine with a clean checkpoint.
    pub(crate) close: Box<dyn FnOnce() -> BoxFuture<'static, Result<(), String>> + Send>,
    /// Whether anything survives the end.
    pub(crate) kept: bool,
    step_bytes_max: u32,
    cluster_id: String,
}

/// Opens the engine that the settings ask for, and the broker over it.
///
/// # Errors
/// The directory is in use or cannot be used, or recovery refuses to start.
pub(crate) async fn open(
    settings: &Settings,
    addresses: Addresses,
    clock: &Arc<dyn Clock>,
    status: &Status,
    meter: &Arc<DiskMeter>,
) -> Result<Engine, ServeError> {
    let mut broker = settings.broker.clone();
    broker.address = addresses.native.to_string();
    broker.http_address = addresses.http.to_string();
    broker.version = env!("CARGO_PKG_VERSION").to_owned();
    broker.revision = option_env!("NARU_REVISION").unwrap_or_default().to_owned();
    if settings.in_memory {
        warn!(
            event = "in_memory",
            "nothing survives the end of this process: records are kept in memory only"
        );
        broker.cluster_id = uuid_text(RandomIds.uuid());
        broker.topic_defaults = for_memory(&broker.topic_defaults);
        let options = MemoryOptions::bounded(settings.memory_bytes_max);
        return over(MemoryStore::new(options), broker, clock).map(in_memory);
    }
    open_local(settings, broker, clock, status, meter).await
}

/// An engine and its broker, before their types are forgotten.
struct Pair<S: LogStore> {
    store: Arc<S>,
    broker: Arc<Broker<S>>,
    cluster_id: String,
}

fn broker_over<S: LogStore>(
    store: S,
    recovered: Recovered,
    settings: broker::Settings,
    clock: &Arc<dyn Clock>,
) -> Result<Pair<S>, ServeError> {
    let store = Arc::new(store);
    let cluster_id = settings.cluster_id.clone();
    let broker = Broker::new(
        Arc::clone(&store),
        recovered,
        Arc::clone(clock),
        Arc::new(RandomIds),
        settings,
    )
    .map_err(|error| ServeError::Storage(with_causes(&error)))?;
    Ok(Pair {
        store,
        broker: Arc::new(broker),
        cluster_id,
    })
}

fn over<S: LogStore>(
    store: S,
    settings: broker::Settings,
    clock: &Arc<dyn Clock>,
) -> Result<Pair<S>, ServeError> {
    let recovered = Recovered::new(&settings);
    broker_over(store, recovered, settings, clock)
}

fn in_memory(pair: Pair<MemoryStore>) -> Engine {
    let durable = pair.store.durable();
    let state = durable.clone();
    let (counted, counting) = (Arc::clone(&pair.store), Arc::clone(&pair.broker));
    let retaining = Arc::clone(&pair.broker);
    let of_groups = Arc::clone(&pair.broker);
    let reconfiguring = Arc::clone(&pair.broker);
    Engine {
        retain: Arc::new(move || {
            retaining.retain();
        }),
        start_groups: Box::new(move |tasks| groups::start(Arc::clone(&of_groups), tasks)),
        reconfigure: Arc::new(move |settings| {
            let mut settings = settings.clone();
            settings.topic_defaults = for_memory(&settings.topic_defaults);
            reconfiguring.reconfigure(&settings);
        }),
        service: pair.broker,
        now: Arc::new(move || EngineNow {
            counters: counting.counters().now(),
            topics: counting.topics_now(),
            groups: counting.groups_now(GROUPS_MAX),
            local: None,
            memory: counted.health().memory,
        }),
        durable,
        failed: pair.store.failed(),
        health: Arc::new(move || EngineHealth {
            poisoned: state.borrow().poisoned,
            ..EngineHealth::default()
        }),
        close: Box::new(|| Box::pin(async { Ok(()) })),
        kept: false,
        step_bytes_max: pair.store.caps().step_bytes_max,
        cluster_id: pair.cluster_id,
    }
}

fn for_memory(defaults: &TopicDefaults) -> Arc<TopicDefaults> {
    Arc::new(defaults.clone().in_memory())
}

async fn open_local(
    settings: &Settings,
    broker: broker::Settings,
    clock: &Arc<dyn Clock>,
    status: &Status,
    meter: &Arc<DiskMeter>,
) -> Result<Engine, ServeError> {
    let begun = clock.mono();
    let lock = DirectoryLock::take(&settings.data_dir)?;
    let (store, recovered) = loop {
        match recover(settings, lock.dir(), &broker, clock, meter).await {
            Ok(opened) => break opened,
            Err(Refusal::Full(error)) => {
                // Whoever makes room should not have to start the broker as well.
                warn!(event = "storage_full", error.message = %error, "the disk is full: recovery waits for room");
                status.hold_recovery("the disk is full");
                tokio::time::sleep(FULL_DISK_RETRY).await;
            }
            Err(Refusal::NotOurs(error)) => {
                lock.withdraw();
                return Err(error);
            }
            Err(Refusal::Other(error)) => return Err(error),
        }
    };
    tell_recovery(store.report());
    let recovery_took = clock.mono().saturating_sub(begun);
    let broker = broker::Settings {
        cluster_id: uuid_text(store.directory_id()),
        ..broker
    };
    let store = WithMemory::new(store, settings.memory_bytes_max);
    let pair = broker_over(store, recovered, broker, clock)?;
    let snapshots = Arc::clone(&pair.broker);
    pair.store
        .inner()
        .start(snapshots)
        .map_err(|error| ServeError::Storage(error.to_string()))?;
    Ok(local(pair, lock, recovery_took))
}

enum Refusal {
    Full(std::io::Error),
    NotOurs(ServeError),
    Other(ServeError),
}

/// Opens the directory on a blocking thread. Dropping the future leaves that thread alone: recovery can end at any
/// point, as in a crash.
async fn recover(
    settings: &Settings,
    dir: &Path,
    broker: &broker::Settings,
    clock: &Arc<dyn Clock>,
    meter: &Arc<DiskMeter>,
) -> Result<(LocalStore, Recovered), Refusal> {
    let (dir, mut storage) = (dir.to_owned(), settings.storage.clone());
    storage.open_files_max = process::segment_files();
    let (clock, mut recovered) = (Arc::clone(clock), Recovered::new(broker));
    let meter = Arc::clone(meter);
    let opening = tokio::task::spawn_blocking(move || {
        let disk = MeteredDisk::new(open_disk(&dir)?, Arc::clone(&clock), meter);
        let store = LocalStore::open(Arc::new(disk), &storage, clock, &RandomIds, &mut recovered)?;
        Ok::<_, OpenError>((store, recovered))
    });
    match opening.await {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(OpenError::Io(error))) if error.kind() == std::io::ErrorKind::StorageFull => {
            Err(Refusal::Full(error))
        }
        Ok(Err(error @ OpenError::NotOurs(_))) => Err(Refusal::NotOurs(refused(settings, &error))),
        Ok(Err(error)) => Err(Refusal::Other(refused(settings, &error))),
        Err(ended) => Err(Refusal::Other(ServeError::Storage(format!(
            "recovery ended: {ended}"
        )))),
    }
}

#[cfg(not(feature = "test-faults"))]
fn open_disk(dir: &Path) -> std::io::Result<SharedDisk> {
    Ok(Arc::new(RealDisk::open(dir)?))
}

/// The disk of a test, which may be one that loses what was not synced, or that stands still when it is told to.
#[cfg(feature = "test-faults")]
fn open_disk(dir: &Path) -> std::io::Result<SharedDisk> {
    use crate::disk::gate::{GatedDisk, VARIABLE};

    let disk = open_lossy_disk(dir)?;
    let Some(gate) = std::env::var_os(VARIABLE) else {
        return Ok(disk);
    };
    warn!(
        event = "gated_disk",
        "TEST ONLY: this broker waits for its disk as long as {VARIABLE} is locked"
    );
    Ok(Arc::new(GatedDisk::new(disk, gate.into())))
}

#[cfg(feature = "test-faults")]
fn open_lossy_disk(dir: &Path) -> std::io::Result<SharedDisk> {
    use crate::disk::lossy::{LossyDisk, VARIABLE};

    let Ok(seed) = std::env::var(VARIABLE) else {
        return Ok(Arc::new(RealDisk::open(dir)?));
    };
    let seed = seed
        .parse()
        .map_err(|_| std::io::Error::other(format!("{VARIABLE}={seed} is no seed: give a number")))?;
    warn!(
        event = "lossy_disk",
        seed, "TEST ONLY: this broker loses everything that is not synced when it ends"
    );
    Ok(Arc::new(LossyDisk::open(dir, seed)?))
}

fn refused(settings: &Settings, error: &OpenError) -> ServeError {
    let dir = &settings.data_dir;
    if !matches!(error, OpenError::NotOurs(_) | OpenError::Io(_)) {
        // Lines of their own: a long message is cut in the log.
        let [doctor, salvage] = ways_out(dir, settings.file.as_deref());
        tracing::error!(event = "start_refused", "what is wrong is told by: {doctor}");
        tracing::error!(event = "start_refused", "the ways out are told by: {salvage}");
    }
    ServeError::Storage(format!("{}: {}", dir.display(), with_causes(error)))
}

/// Commands for who is refused a start, to be pasted into a shell, which may stand in another directory than the broker did.
fn ways_out(dir: &Path, config: Option<&Path>) -> [String; 2] {
    let word = |path: &Path| shell_path(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    let dir = word(dir);
    let config = config.map_or(String::new(), |config| format!(" --config {}", word(config)));
    [
        format!("naru doctor {dir}"),
        format!("naru log salvage {dir}{config}"),
    ]
}

fn tell_recovery(report: &RecoveryReport) {
    info!(
        event = "recovered",
        clean = report.in_order(),
        groups = report.groups,
        journal_bytes = report.journal_bytes,
        bytes = report.bytes,
        durable_lsn = report.end.0,
        "recovery is done"
    );
    if report.unfinished {
        warn!(
            event = "unfinished_group",
            "the last group was never acknowledged; it was put into salvage/ and left out"
        );
    }
    if report.lost_groups > 0 {
        tracing::error!(
            event = "data_corrupt",
            severity = "critical",
            groups = report.lost_groups,
            "acknowledged groups cannot be read; their offsets answer DATA_CORRUPT"
        );
    }
}

fn local(pair: Pair<WithMemory<LocalStore>>, lock: DirectoryLock, recovery_took: Duration) -> Engine {
    let Pair {
        store,
        broker,
        cluster_id,
    } = pair;
    let asked = Arc::clone(&store);
    let (counted, counting) = (Arc::clone(&store), Arc::clone(&broker));
    let retaining = Arc::clone(&broker);
    let of_groups = Arc::clone(&broker);
    let reconfiguring = Arc::clone(&broker);
    Engine {
        retain: Arc::new(move || {
            retaining.retain();
        }),
        start_groups: Box::new(move |tasks| groups::start(Arc::clone(&of_groups), tasks)),
        reconfigure: Arc::new(move |settings| reconfiguring.reconfigure(settings)),
        service: broker,
        now: Arc::new(move || EngineNow {
            counters: counting.counters().now(),
            topics: counting.topics_now(),
            groups: counting.groups_now(GROUPS_MAX),
            local: Some(local_now(counted.inner(), recovery_took)),
            memory: Some(counted.memory()),
        }),
        durable: store.durable(),
        kept: true,
        failed: store.failed(),
        step_bytes_max: store.caps().step_bytes_max,
        cluster_id,
        health: Arc::new(move || {
            let status = asked.inner().status();
            EngineHealth {
                poisoned: status.failure.is_some(),
                read_only: status
                    .storage_full
                    .then(|| "the disk is full; reading and deleting still work".to_owned()),
                journal_files: Some(status.journal_files),
                ..EngineHealth::default()
            }
        }),
        close: Box::new(move || {
            let closing = tokio::task::spawn_blocking(move || {
                let closed = store.inner().shutdown().map_err(|error| error.to_string());
                // The directory is given free only when nothing of it is written any more.
                drop(lock);
                closed
            });
            Box::pin(async move { closing.await.unwrap_or_else(|ended| Err(ended.to_string())) })
        }),
    }
}

fn local_now(store: &LocalStore, recovery_took: Duration) -> LocalNow {
    let status = store.status();
    LocalNow {
        stats: store.stats(),
        recovery: store.report().clone(),
        recovery_took,
        lsn: (status.durable.0, status.applied.0),
        admitted_bytes: status.admitted_bytes,
        journal_files: status.journal_files,
        crc_errors: status.crc_errors,
        read_errors: status.read_errors,
        scrub: status.scrub,
        storage_full: status.storage_full,
        reserve_held_bytes: status.reserve_held_bytes,
        failed: status.failure.is_some(),
    }
}

/// Starts answering on the native port.
pub(crate) fn start_native(
    listener: TcpListener,
    engine: &Engine,
    settings: &Settings,
    http: SocketAddr,
    clock: &Arc<dyn Clock>,
    counters: &Arc<net::Counters>,
    tasks: &Tasks,
) {
    (engine.start_groups)(tasks);
    let net = net::Settings {
        http_port: Some(http.port()),
        ..settings.net.clone()
    };
    let identity = Identity {
        cluster_id: engine.cluster_id.clone(),
        broker_id: settings.broker.broker_id,
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
        features: Vec::new(),
        // A batch that fits no request would be sent again and again.
        batch_bytes_max: engine.step_bytes_max.min(settings.batch_bytes_max()),
        step_bytes_max: engine.step_bytes_max,
    };
    let parts = net::Parts {
        protocol: NativeProtocol::new(identity, &net),
        settings: net,
        service: Arc::clone(&engine.service),
        durable: engine.durable.clone(),
        clock: Arc::clone(clock),
        counters: Arc::clone(counters),
    };
    net::start(listener, parts, tasks);
}

fn uuid_text(bytes: [u8; 16]) -> String {
    uuid::Uuid::from_bytes(bytes).to_string()
}

/// An error with what caused it, on one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_out_of_a_refused_start_can_be_pasted() {
        let [doctor, salvage] = ways_out(Path::new("/my data"), Some(Path::new("/a b.toml")));
        assert_eq!(doctor, "naru doctor '/my data'");
        assert_eq!(salvage, "naru log salvage '/my data' --config '/a b.toml'");
        let [_, salvage] = ways_out(Path::new("/data"), None);
        assert_eq!(salvage, "naru log salvage /data");
        let odd = ["it's my data", "my broker's.toml"].map(Path::new);
        let here = std::env::current_dir().unwrap();
        let [doctor, salvage] = ways_out(odd[0], Some(odd[1]));
        let [dir, config] = odd.map(|path| shell_path(&here.join(path)));
        assert!(dir.ends_with(r"it'\''s my data'") && config.ends_with(r"my broker'\''s.toml'"));
        assert_eq!(doctor, format!("naru doctor {dir}"));
        assert_eq!(salvage, format!("naru log salvage {dir} --config {config}"));
        let [doctor, _] = ways_out(Path::new("data"), None);
        assert_eq!(doctor, format!("naru doctor {}", shell_path(&here.join("data"))));
    }
}
