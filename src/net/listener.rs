//! The accept loop: takes the limits before it accepts, and never ends because an accept failed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::connection::{self, Accepted};
use super::{Counters, Protocol, Settings};
use crate::api::Service;
use crate::model::{ConnectionId, DurableState};
use crate::rt::{Clock, Tasks};

const BACKLOG: u32 = 1024;

/// After a failed accept: what is short (descriptors, memory) must have a chance to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Three keep-alive probes, 10 s apart, after 30 s of silence find a dead peer within a minute.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
/// What was sent and not acknowledged by the peer's kernel for so long ends the connection.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// What a listener and its connections need.
pub struct Parts<P> {
    /// Limits.
    pub settings: Settings,
    /// What frames mean.
    pub protocol: P,
    /// Who answers requests.
    pub service: Arc<dyn Service>,
    /// What is durable.
    pub durable: watch::Receiver<DurableState>,
    /// For deadlines.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub counters: Arc<Counters>,
}

impl<P> std::fmt::Debug for Parts<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// What all connections of a listener share.
pub(super) struct Shared<P> {
    pub(super) parts: Parts<P>,
    pub(super) request_memory: RequestMemory,
    connections: AtomicU64,
}

impl<P> Shared<P> {
    /// A number for the next connection.
    pub(super) fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed))
    }
}

/// The memory that all connections have for unanswered requests. A quarter of it is for small ones alone: who begins
/// many large requests and sends them slowly must not hold up everybody's pings, fetches and short batches.
pub(super) struct RequestMemory {
    large: (Arc<Semaphore>, u32),
    small: (Arc<Semaphore>, u32),
}

impl RequestMemory {
    fn new(bytes: usize) -> Self {
        let share = |bytes: usize| {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
            (Arc::new(Semaphore::new(bytes as usize)), bytes)
        };
        let small = bytes / 4;
        Self {
            large: share(bytes - small),
            small: share(small),
        }
    }

    /// The part for large or small requests, and how many bytes it has in all.
    pub(super) fn of(&self, large: bool) -> (&Arc<Semaphore>, u32) {
        let (semaphore, bytes) = if large { &self.large } else { &self.small };
        (semaphore, *bytes)
    }
}

/// Opens a listening socket. Must be called inside a runtime.
///
/// # Errors
/// What the system says.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restarted broker must not wait until the old connections are forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// How many connections the descriptor limit allows: 60 % of it, at most `wanted`.
pub fn connection_limit(wanted: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let share = limit.map_or(u64::MAX, |descriptors| (descriptors / 10).saturating_mul(6));
    usize::try_from(share)
        .unwrap_or(usize::MAX)
        .clamp(1, wanted.max(1))
}

/// Accepts connections until the tasks are told to stop; they then answer what they have begun, and end.
pub fn start<P: Protocol>(listener: TcpListener, parts: Parts<P>, tasks: &Tasks) {
    let connections = tasks.clone();
    tasks.spawn(move |stop| accept_loop(listener, parts, connections, stop));
}

async fn accept_loop<P: Protocol>(
    listener: TcpListener,
    parts: Parts<P>,
    connections: Tasks,
    stop: CancellationToken,
) {
    let limit = connection_limit(parts.settings.connections_max);
    let slots = Arc::new(Semaphore::new(limit));
    let ungreeted = Arc::new(Semaphore::new(parts.settings.ungreeted_max));
    let shared = Arc::new(Shared {
        request_memory: RequestMemory::new(parts.settings.request_memory_bytes_max),
        parts,
        connections: AtomicU64::new(1),
    });
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            next = accept(&listener, &slots, &ungreeted) => next,
        };
        match next {
            Ok((stream, address, slot, greeting_slot)) => {
                shared.parts.counters.count_accepted();
                let shared = Arc::clone(&shared);
                connections.spawn(move |stop| async move {
                    let open = OpenGuard {
                        shared: &shared,
                        _slot: slot,
                    };
                    let accepted = Accepted {
                        stream,
                        address,
                        greeting_slot,
                    };
                    connection::run(accepted, open.shared, stop).await;
                });
            }
            Err(error) => {
                shared.parts.counters.count_accept_error();
                warn!(%error, "accept failed");
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

/// Takes both limits first, so that who is too many waits in the kernel's queue and costs nothing.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    ungreeted: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let greeting_slot = Arc::clone(ungreeted)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    if let Err(error) = set_options(&stream) {
        // The peer may be gone already; reading will tell.
        debug!(%error, "socket options refused");
    }
    Ok((stream, address, slot, greeting_slot))
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

/// Counts the connection as closed however its task ends, a panic included.
struct OpenGuard<'a, P> {
    shared: &'a Arc<Shared<P>>,
    _slot: OwnedSemaphorePermit,
}

impl<P> Drop for OpenGuard<'_, P> {
    fn drop(&mut self) {
        self.shared.parts.counters.count_closed();
    }
}
