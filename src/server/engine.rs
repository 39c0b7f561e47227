//! The storage engine with the broker over it, as the shell sees them: engines differ in type, the shell does not care.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::ServeError;
use super::status::EngineHealth;
use crate::api::Service;
use crate::broker::{Broker, Recovered};
use crate::config::Settings;
use crate::model::DurableState;
use crate::net;
use crate::rt::{BoxFuture, Clock, RandomIds, Tasks};
use crate::storage::LogStore;
use crate::storage::memory::{MemoryOptions, MemoryStore};
use crate::wire::{Identity, NativeProtocol};

/// An engine that was opened, with the broker over it.
pub(crate) struct Engine {
    /// Who answers requests.
    pub(crate) service: Arc<dyn Service>,
    /// What is durable, and whether the engine was poisoned.
    pub(crate) durable: watch::Receiver<DurableState>,
    /// Most bytes of batches in one step.
    pub(crate) step_bytes_max: u32,
    /// Identity of the cluster.
    pub(crate) cluster_id: String,
    /// How the engine stands; may be asked from anywhere.
    pub(crate) health: Arc<dyn Fn() -> EngineHealth + Send + Sync>,
    /// Ends the engine with a clean checkpoint.
    pub(crate) close: Box<dyn FnOnce() -> BoxFuture<'static, Result<(), String>> + Send>,
}

/// Opens the engine that the settings ask for, and the broker over it.
///
/// # Errors
/// The directory is in use or cannot be used, or recovery refuses to start.
pub(crate) async fn open(
    settings: &Settings,
    native: SocketAddr,
    clock: Arc<dyn Clock>,
) -> Result<Engine, ServeError> {
    let mut broker = settings.broker.clone();
    broker.address = native.to_string();
    if settings.in_memory {
        open_in_memory(broker, clock)
    } else {
        Err(ServeError::Storage("no engine is built in yet".to_owned()))
    }
}

fn open_in_memory(settings: crate::broker::Settings, clock: Arc<dyn Clock>) -> Result<Engine, ServeError> {
    let store = Arc::new(MemoryStore::new(MemoryOptions::default()));
    let recovered = Recovered::new(&settings);
    let cluster_id = settings.cluster_id.clone();
    let broker = Broker::new(Arc::clone(&store), recovered, clock, Arc::new(RandomIds), settings)
        .map_err(|error| ServeError::Storage(error.to_string()))?;
    let durable = store.durable();
    let state = durable.clone();
    Ok(Engine {
        service: Arc::new(broker),
        durable,
        step_bytes_max: store.caps().step_bytes_max,
        cluster_id,
        health: Arc::new(move || EngineHealth {
            poisoned: state.borrow().poisoned,
            ..EngineHealth::default()
        }),
        close: Box::new(|| Box::pin(async { Ok(()) })),
    })
}

/// Starts answering on the native port.
pub(crate) fn start_native(
    listener: TcpListener,
    engine: &Engine,
    settings: &Settings,
    http_port: u16,
    clock: Arc<dyn Clock>,
    tasks: &Tasks,
) {
    let net = net::Settings {
        http_port: Some(http_port),
        ..settings.net.clone()
    };
    let identity = Identity {
        cluster_id: engine.cluster_id.clone(),
        broker_id: settings.broker.broker_id,
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
        features: Vec::new(),
        batch_bytes_max: engine.step_bytes_max,
        step_bytes_max: engine.step_bytes_max,
    };
    let parts = net::Parts {
        protocol: NativeProtocol::new(identity, &net),
        settings: net,
        service: Arc::clone(&engine.service),
        durable: engine.durable.clone(),
        clock,
        counters: Arc::default(),
    };
    net::start(listener, parts, tasks);
}
