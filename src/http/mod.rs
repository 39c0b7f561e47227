//! The HTTP listener: health and metrics.
//!
//! HTTP/1.1 only. Every connection has a deadline for its next request head and there are few of them: this port is for
//! probes and people, and must stay cheap when somebody plays with it. Knows nothing of the storage engine.

mod health;
mod metrics;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use health::{Check, CheckState, Probe, Query, Verdict, verdict};
pub use metrics::{BadQuery, Metrics};

use crate::rt::Tasks;

/// Limits of the listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to listen; port 0: any.
    pub listen: SocketAddr,
    /// Connections at once; more wait in the backlog.
    pub connections_max: usize,
    /// How long the head of a request may take, which is also how long an idle connection is kept.
    pub head_timeout: Duration,
    /// How long a connection may live.
    pub connection_lifetime: Duration,
}

/// Most header fields of a request.
const HEADERS_MAX: usize = 64;
/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9641)),
            connections_max: 64,
            head_timeout: Duration::from_secs(5),
            connection_lifetime: Duration::from_secs(300),
        }
    }
}

/// Who fills the pages.
#[derive(Clone)]
pub struct Sources {
    /// How the process stands.
    pub probe: Arc<dyn Probe>,
    /// What it has counted.
    pub metrics: Arc<dyn Metrics>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// The pages.
fn router(sources: Sources) -> Router {
    let health = Router::new()
        .route("/livez", get(livez))
        .route("/healthz", get(livez))
        .route("/readyz", get(readyz))
        .with_state(sources.probe);
    // No page takes a body. What a client sends as one is never read: hyper closes the connection behind the answer.
    health.merge(metrics::router(sources.metrics))
}

async fn livez(State(probe): State<Arc<dyn Probe>>, RawQuery(query): RawQuery) -> impl IntoResponse {
    answer("livez", &probe.liveness(), query.as_deref())
}

async fn readyz(State(probe): State<Arc<dyn Probe>>, RawQuery(query): RawQuery) -> impl IntoResponse {
    answer("readyz", &probe.readiness(), query.as_deref())
}

fn answer(endpoint: &str, checks: &[Check], query: Option<&str>) -> impl IntoResponse + use<> {
    let verdict = verdict(endpoint, checks, &Query::parse(query.unwrap_or_default()));
    let status = if verdict.good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let plain = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, plain, verdict.text)
}

/// Serves until the tasks are told to stop. Every accepted connection is one of `tasks`.
pub fn serve(listener: TcpListener, settings: &Settings, sources: Sources, tasks: &Tasks) {
    let settings = settings.clone();
    let router = router(sources);
    let stage = tasks.clone();
    tasks.spawn(|stop| async move {
        let slots = Arc::new(Semaphore::new(settings.connections_max));
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = accept(&listener, &slots) => accepted,
            };
            let Some((socket, slot)) = accepted else { continue };
            let router = router.clone();
            let settings = settings.clone();
            stage.spawn(|stop| async move {
                converse(socket, router, &settings, stop).await;
                drop(slot);
            });
        }
    });
}

/// The next connection and the slot it takes; `None` if accepting failed.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((socket, _)) => Some((socket, slot)),
        Err(error) => {
            debug!(error.message = %error, "accepting an HTTP connection failed");
            // Out of descriptors, say: without a pause this would spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn converse(socket: TcpStream, router: Router, settings: &Settings, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.head_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let lifetime = tokio::time::sleep(settings.connection_lifetime);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            // An answer that has begun is finished; then the connection closes instead of waiting for the next request.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = lifetime => return,
    };
    if let Err(error) = ended {
        debug!(error.message = %error, "an HTTP connection ended with an error");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[derive(Default)]
    struct Switch(AtomicBool);

    impl Probe for Switch {
        fn liveness(&self) -> Vec<Check> {
            vec![Check::new("engine", None)]
        }

        fn readiness(&self) -> Vec<Check> {
            let ready = self.0.load(Ordering::Relaxed);
            vec![Check::new("recovery", (!ready).then(|| "recovering".to_owned()))]
        }
    }

    struct Nothing;

    impl Metrics for Nothing {
        fn all(&self) -> String {
            "naru_test 1\n".to_owned()
        }

        fn partitions(&self, topics: &str) -> Result<String, BadQuery> {
            match topics {
                "" => Ok("everything\n".to_owned()),
                _ => Err(BadQuery(format!("no pattern: {topics}"))),
            }
        }
    }

    async fn start(settings: Settings) -> (SocketAddr, Arc<Switch>, Tasks) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let probe = Arc::new(Switch::default());
        let tasks = Tasks::new();
        let sources = Sources {
            probe: probe.clone(),
            metrics: Arc::new(Nothing),
        };
        serve(listener, &settings, sources, &tasks);
        (address, probe, tasks)
    }

    async fn exchange(address: SocketAddr, request: &str) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A reset behind the answer is as good as an end.
        let _ = socket.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        exchange(address, &request).await
    }

    #[tokio::test]
    async fn readiness_follows_the_probe_and_liveness_does_not() {
        let (address, probe, tasks) = start(Settings::default()).await;
        let before = get(address, "/readyz").await;
        assert!(before.starts_with("HTTP/1.1 503"), "{before}");
        assert!(before.contains("[-]recovery failed: recovering"), "{before}");
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        probe.0.store(true, Ordering::Relaxed);
        let after = get(address, "/readyz?verbose").await;
        assert!(after.starts_with("HTTP/1.1 200"), "{after}");
        assert!(after.contains("[+]recovery ok"), "{after}");
        assert!(get(address, "/healthz").await.ends_with("ok\n"));
        assert!(get(address, "/nothing").await.starts_with("HTTP/1.1 404"));
        tasks.stop();
        assert_eq!(tasks.wait(Duration::from_secs(5)).await, 0);
    }

    #[tokio::test]
    async fn metrics_are_text_and_a_bad_query_is_told() {
        let (address, _probe, tasks) = start(Settings::default()).await;
        let page = get(address, "/metrics").await;
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        assert!(page.contains("content-type: text/plain; version=0.0.4"), "{page}");
        assert!(page.ends_with("\r\n\r\nnaru_test 1\n"), "{page}");
        let all = get(address, "/metrics/partitions").await;
        assert!(all.ends_with("everything\n"), "{all}");
        for (query, status, answer) in [
            ("topic=x*", 400, "no pattern: x*\n"),
            ("topic=%2A", 400, "no pattern: *\n"),
            ("tropic=x", 400, "unknown field `tropic`"),
        ] {
            let refused = get(address, &format!("/metrics/partitions?{query}")).await;
            assert!(
                refused.starts_with(&format!("HTTP/1.1 {status}")),
                "{query}: {refused}"
            );
            assert!(refused.contains(answer), "{query}: {refused}");
        }
        tasks.stop();
        assert_eq!(tasks.wait(Duration::from_secs(5)).await, 0);
    }

    #[tokio::test]
    async fn a_head_that_never_ends_is_cut_off_by_time_and_by_size() {
        let settings = Settings {
            head_timeout: Duration::from_millis(50),
            ..Settings::default()
        };
        let (address, _probe, tasks) = start(settings).await;
        // The connection ends although the client neither finishes nor closes.
        let slow = exchange(address, "GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ").await;
        assert!(!slow.contains("200 OK"), "{slow}");
        let long = format!(
            "GET /livez HTTP/1.1\r\nX: {}\r\n\r\n",
            "x".repeat(HEAD_BYTES_MAX * 2)
        );
        let refused = exchange(address, &long).await;
        assert!(!refused.contains("200 OK"), "{refused}");
        tasks.stop();
        assert_eq!(tasks.wait(Duration::from_secs(5)).await, 0);
    }

    #[tokio::test]
    async fn connections_above_the_limit_wait_for_a_slot() {
        let settings = Settings {
            connections_max: 1,
            head_timeout: Duration::from_millis(100),
            ..Settings::default()
        };
        let (address, _probe, tasks) = start(settings).await;
        let idle = TcpStream::connect(address).await.unwrap();
        // The idle connection holds the only slot until its head is overdue; then this one is answered.
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        drop(idle);
        tasks.stop();
        assert_eq!(tasks.wait(Duration::from_secs(5)).await, 0);
    }

    #[tokio::test]
    async fn an_idle_connection_does_not_hold_up_the_end() {
        let (address, _probe, tasks) = start(Settings::default()).await;
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket
            .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 12];
        socket.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        tasks.stop();
        assert_eq!(tasks.wait(Duration::from_secs(5)).await, 0);
    }
}
