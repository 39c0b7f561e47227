//! The process shell: opens the engine, starts broker and listeners, waits for a signal, drains.
//!
//! The only place that knows all concrete types. Order of the start: HTTP (so that `/readyz` can say "recovering"),
//! engine, broker, native listener, port file. Order of the end: readiness, listeners, connections, engine, HTTP.

mod engine;
mod groups;
mod lock;
mod metered;
mod metrics;
mod offline;
mod port_file;
mod process;
mod reload;
mod retention;
mod signals;
mod stall;
mod status;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::config::{Configuration, Settings};
use crate::http;
use crate::net;
use crate::rt::{Clock, SystemClock, Tasks};
use crate::telemetry::{self, InvalidLevel, LogControl, LogTime};
use engine::Engine;
use metrics::Metrics;
use port_file::Addresses;
use reload::{Reloading, Targets};
use signals::Signals;
use status::{Phase, Status};

pub use offline::{salvage, state_of};

/// How long answers may take to leave once the engine has failed, and open pages at the end.
const FLUSH_GRACE: Duration = Duration::from_secs(1);

/// Why the broker did not start, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The log cannot be set up.
    #[error(transparent)]
    LogLevel(#[from] InvalidLevel),
    /// Another broker uses the data directory.
    #[error("the data directory {} is in use{}", dir.display(), by_pid(*pid))]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Process id of the other broker, if it left one.
        pid: Option<u32>,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The data directory cannot be made or used.
    #[error("cannot use the data directory {}: {source}", dir.display())]
    DataDir {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The engine refuses to start on what it found.
    #[error("the storage engine did not start: {0}")]
    Storage(String),
    /// The port file cannot be written.
    #[error("cannot write the port file {}: {source}", path.display())]
    PortFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system gives no signals.
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    /// The engine was poisoned.
    #[error("a write or sync of the journal failed: what was not acknowledged has an unknown fate")]
    Poisoned,
    /// The last checkpoint failed; nothing is lost, the next start takes longer.
    #[error("the clean checkpoint at the end failed: {0}")]
    Checkpoint(String),
    /// A second signal ended the drain.
    #[error("stopped at once by a second signal")]
    Forced,
}

fn by_pid(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" by the broker with process id {pid}"))
        .unwrap_or_default()
}

impl ServeError {
    /// Exit code of the process, as listed by `naru --help`.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::LogLevel(_) => 2,
            Self::InUse { .. } => 4,
            Self::Poisoned => 74,
            Self::Forced => 130,
            Self::Listen { .. }
            | Self::DataDir { .. }
            | Self::Storage(_)
            | Self::PortFile { .. }
            | Self::Signals(_)
            | Self::Checkpoint(_) => 1,
        }
    }
}

/// Makes the process take little memory until it has large buffers to fill. For the start of a process, before it has threads.
pub fn start_small() {
    crate::disk::huge_pages::decline();
}

/// Ends what [`start_small`] began, for a process that turns out to be no broker.
pub fn go_on_large() {
    crate::disk::huge_pages::leave();
}

/// Runs the broker until a signal ends it or its engine fails.
///
/// # Errors
/// See [`ServeError`]; the exit code follows from it.
pub async fn run(configuration: Configuration) -> Result<(), ServeError> {
    let clock = SystemClock::new();
    let log = telemetry::init(&configuration.settings.log, LogTime::new(move || clock.wall()))?;
    #[cfg(all(feature = "test-faults", not(test)))]
    crate::planted::announce();
    let ended = serve(configuration, log, Arc::new(clock)).await;
    if let Err(error) = &ended {
        error!(event = "ended", error.message = %error, "the broker has ended");
    }
    ended
}

async fn serve(
    configuration: Configuration,
    log: LogControl,
    clock: Arc<dyn Clock>,
) -> Result<(), ServeError> {
    let started = clock.mono();
    let settings = &configuration.settings.clone();
    // First of all, so that no signal can end the process in the middle of the start without a word.
    let mut signals = Signals::install().map_err(ServeError::Signals)?;
    warn_if_exposed(settings);
    process::raise_descriptor_limit();
    let status = Arc::new(Status::new());
    let pages = Tasks::new();
    // Both ports are taken before recovery, so that a wrong address is known at once. Clients that come too early wait in
    // the kernel's queue.
    let (native, http) = (bind(settings.listen)?, bind(settings.http.listen)?);
    let addresses = Addresses {
        native: local_address(&native, settings.listen)?,
        http: local_address(&http, settings.http.listen)?,
    };
    let data_dir = (!settings.in_memory).then(|| settings.data_dir.clone());
    let metrics = Arc::new(Metrics::new(metrics::Parts {
        clock: Arc::clone(&clock),
        status: Arc::clone(&status),
        data_dir: data_dir.clone(),
        log: Arc::clone(log.counts()),
    }));
    let sources = http::Sources {
        probe: status.clone(),
        metrics: metrics.clone(),
    };
    http::serve(http, &settings.http, sources, &pages);

    let engine = tokio::select! {
        biased;
        // Recovery can be broken off at any point and done again.
        signal = signals.next() => {
            info!(event = "stopped", signal, "stopped before recovery was done");
            return Ok(());
        }
        opened = engine::open(settings, addresses, &clock, &status, &metrics.disk) => opened?,
    };
    watch_engine(&engine, &metrics, &status, &clock);
    let connections = Tasks::new();
    let (retention_every, every) = watch::channel(settings.broker.retention_every);
    retention::start(every, Arc::clone(&engine.retain), &connections);
    engine::start_native(
        native,
        &engine,
        settings,
        addresses.http,
        &clock,
        &metrics.native,
        &connections,
    );
    status.enter(Phase::Serving);
    write_port_file(settings.port_file.as_deref(), addresses)?;
    info!(
        event = "ready",
        native = %addresses.native,
        http = %addresses.http,
        data_dir = data_dir.as_ref().map(|dir| dir.display().to_string()),
        duration_ms = u64::try_from((clock.mono() - started).as_millis()).unwrap_or(u64::MAX),
        "the broker is ready"
    );
    let targets = Targets {
        log,
        broker: Arc::clone(&engine.reconfigure),
        retention_every,
        last: Arc::clone(&metrics.last_reload),
    };
    let mut reloading = Reloading::new(configuration, targets);
    let ended = until_the_end(&mut reloading, engine, &mut signals, &status, &connections).await;
    pages.stop();
    pages.wait(FLUSH_GRACE).await;
    ended
}

/// Lets the pages show how the engine is.
fn watch_engine(engine: &Engine, metrics: &Metrics, status: &Status, clock: &Arc<dyn Clock>) {
    let (health, now) = (Arc::clone(&engine.health), Arc::clone(&engine.now));
    let (disk, clock) = (Arc::clone(&metrics.disk), Arc::clone(clock));
    status.watch_engine(move || status::EngineHealth {
        stalled: disk.stalls.why_not_ready(&*clock),
        ..health()
    });
    metrics.watch_engine(Box::new(move || now()));
}

/// Waits for a signal or the engine's failure, then ends what runs. Reads the configuration again when it is told to.
async fn until_the_end(
    reloading: &mut Reloading,
    engine: Engine,
    signals: &mut Signals,
    status: &Status,
    connections: &Tasks,
) -> Result<(), ServeError> {
    let mut failed = engine.failed.clone();
    let signal = loop {
        tokio::select! {
            biased;
            () = poisoned(&mut failed) => return Err(flush_and_fail(connections).await),
            signal = signals.next_or_reload() => match signal {
                Some(signal) => break signal,
                None => reloading.reload().await,
            },
        }
    };
    info!(
        event = "draining",
        signal, "stopping: no new connections, running requests are answered"
    );
    status.enter(Phase::Draining);
    tokio::select! {
        biased;
        _ = signals.next() => Err(ServeError::Forced),
        ended = drain(engine, connections, &mut failed, reloading.settings().drain) => ended,
    }
}

/// Connections first, then the engine: nobody is left to write when the checkpoint is made.
async fn drain(
    engine: Engine,
    connections: &Tasks,
    failed: &mut watch::Receiver<bool>,
    at_most: Duration,
) -> Result<(), ServeError> {
    connections.stop();
    let left = tokio::select! {
        biased;
        () = poisoned(failed) => return Err(flush_and_fail(connections).await),
        left = connections.wait(at_most) => left,
    };
    if left > 0 {
        warn!(
            event = "drain_timeout",
            connections = left,
            "connections were still open after the drain"
        );
    }
    let (closed, kept) = ((engine.close)().await, engine.kept);
    if *failed.borrow() {
        return Err(ServeError::Poisoned);
    }
    closed.map_err(ServeError::Checkpoint)?;
    if kept {
        info!(
            event = "stopped",
            "the broker has stopped with a clean checkpoint"
        );
    } else {
        info!(
            event = "stopped",
            "the broker has stopped, and with it everything in its memory"
        );
    }
    Ok(())
}

/// Ready when the engine is poisoned; never if it just ends.
async fn poisoned(failed: &mut watch::Receiver<bool>) {
    if failed.wait_for(|failed| *failed).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Gives connections a moment to send the answers "unknown fate" that they hold.
async fn flush_and_fail(connections: &Tasks) -> ServeError {
    error!(
        event = "storage_failed",
        severity = "critical",
        "a write or sync of the journal failed; the broker ends and recovers when it is started again"
    );
    connections.stop();
    connections.wait(FLUSH_GRACE).await;
    ServeError::Poisoned
}

fn warn_if_exposed(settings: &Settings) {
    for (setting, address) in settings.exposed() {
        warn!(
            event = "insecure_no_auth",
            setting,
            %address,
            "ANYBODY WHO REACHES THIS ADDRESS CAN READ, WRITE AND DELETE EVERYTHING: no authentication, no encryption"
        );
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    net::bind(address).map_err(|source| ServeError::Listen { address, source })
}

fn local_address(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, ServeError> {
    listener
        .local_addr()
        .map_err(|source| ServeError::Listen { address, source })
}

fn write_port_file(path: Option<&Path>, addresses: Addresses) -> Result<(), ServeError> {
    let Some(path) = path else { return Ok(()) };
    addresses.write(path).map_err(|source| ServeError::PortFile {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn in_memory() -> Settings {
        Settings {
            in_memory: true,
            ..Settings::default()
        }
    }

    async fn opened(settings: &Settings) -> Engine {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let native = SocketAddr::from(([127, 0, 0, 1], 1));
        let addresses = Addresses { native, http: native };
        engine::open(settings, addresses, &clock, &Status::new(), &Arc::default())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_poisoned_engine_ends_the_broker_with_74_after_a_bounded_wait() {
        let settings = in_memory();
        let mut engine = opened(&settings).await;
        let (publish, failed) = watch::channel(false);
        engine.failed = failed;
        let connections = Tasks::new();
        let (told, was_told) = tokio::sync::oneshot::channel();
        connections.spawn(|stop| async move {
            stop.cancelled().await;
            // A connection that cannot get rid of its answers does not hold up the end.
            let _ = told.send(());
            std::future::pending::<()>().await;
        });
        publish.send_replace(true);
        let mut signals = Signals::install().unwrap();
        let status = Status::new();
        let configuration = Sources::default().load().unwrap();
        let log = telemetry::init(&settings.log, LogTime::new(|| crate::model::Timestamp(0))).unwrap();
        let targets = Targets {
            log,
            broker: Arc::clone(&engine.reconfigure),
            retention_every: watch::channel(settings.broker.retention_every).0,
            last: Arc::new(reload::LastReload::new(Arc::new(SystemClock::new()))),
        };
        let mut reloading = Reloading::new(configuration, targets);
        let ended = until_the_end(&mut reloading, engine, &mut signals, &status, &connections).await;
        assert!(matches!(&ended, Err(ServeError::Poisoned)), "{ended:?}");
        assert_eq!(ended.unwrap_err().exit_code(), 74);
        was_told.await.unwrap();
    }

    #[tokio::test]
    async fn a_drain_waits_for_connections_and_then_closes_the_engine() {
        let settings = in_memory();
        let mut engine = opened(&settings).await;
        let (closed, was_closed) = tokio::sync::oneshot::channel();
        engine.close = Box::new(|| {
            Box::pin(async {
                closed.send(()).unwrap();
                Ok(())
            })
        });
        let connections = Tasks::new();
        connections.spawn(|stop| async move { stop.cancelled().await });
        let mut failed = engine.failed.clone();
        drain(engine, &connections, &mut failed, settings.drain)
            .await
            .unwrap();
        was_closed.await.unwrap();
        assert_eq!(connections.wait(Duration::ZERO).await, 0);
    }
}
