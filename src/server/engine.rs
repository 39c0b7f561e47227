//! The storage engine with the broker over it, as the shell sees them: engines differ in type, the shell does not care.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use super::ServeError;
use super::status::EngineHealth;
use crate::config::Settings;
use crate::model::DurableState;
use crate::rt::{BoxFuture, Clock, Tasks};

/// An open engine and its broker.
pub(crate) trait Engine: Send {
    /// How the engine stands; may be asked from anywhere.
    fn health(&self) -> Arc<dyn Fn() -> EngineHealth + Send + Sync>;

    /// What is durable, and whether the engine was poisoned.
    fn durable(&self) -> watch::Receiver<DurableState>;

    /// Starts the native listener; the address it got.
    fn listen<'a>(
        &'a self,
        settings: &'a Settings,
        http: SocketAddr,
        tasks: &'a Tasks,
    ) -> BoxFuture<'a, Result<SocketAddr, ServeError>>;

    /// Ends the engine with a clean checkpoint.
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), String>>;
}

/// Opens the engine that the settings ask for, and the broker over it.
///
/// # Errors
/// The directory is in use or cannot be used, or recovery refuses to start.
pub(crate) async fn open(settings: &Settings, _clock: Arc<dyn Clock>) -> Result<Box<dyn Engine>, ServeError> {
    let _ = settings;
    Err(ServeError::Storage("no engine is built in yet".to_owned()))
}
