//! `/metrics` and `/metrics/partitions`. Knows nothing of what is counted.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::telemetry::CONTENT_TYPE;

/// So many pages are put together at once; more wait.
const GATHERED_AT_ONCE: usize = 1;

/// What is wrong with the query of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadQuery(pub String);

/// Who knows what was counted. May take a few milliseconds: it is called where blocking is allowed.
pub trait Metrics: Send + Sync + 'static {
    /// Everything but single partitions, in the text form of Prometheus.
    fn all(&self) -> String;

    /// The partitions of topics whose names match this pattern; empty: of all.
    ///
    /// # Errors
    /// The pattern is none, or matches more than a page can hold.
    fn partitions(&self, topics: &str) -> Result<String, BadQuery>;
}

/// What may be asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    #[serde(default)]
    topic: String,
}

#[derive(Clone)]
struct Pages {
    metrics: Arc<dyn Metrics>,
    slots: Arc<Semaphore>,
}

pub(super) fn router(metrics: Arc<dyn Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(all))
        .route("/metrics/partitions", get(partitions))
        .with_state(Pages {
            metrics,
            slots: Arc::new(Semaphore::new(GATHERED_AT_ONCE)),
        })
}

async fn all(State(pages): State<Pages>) -> Response {
    gather(pages, |metrics| Ok(metrics.all())).await
}

async fn partitions(State(pages): State<Pages>, query: Result<Query<Ask>, QueryRejection>) -> Response {
    match query {
        Ok(Query(ask)) => gather(pages, move |metrics| metrics.partitions(&ask.topic)).await,
        Err(rejection) => refuse(&BadQuery(rejection.body_text())),
    }
}

/// Walking thousands of partitions must not hold up the connections of a worker thread.
async fn gather(
    pages: Pages,
    ask: impl FnOnce(&dyn Metrics) -> Result<String, BadQuery> + Send + 'static,
) -> Response {
    let Pages { metrics, slots } = pages;
    // The semaphore is never closed.
    let _slot = slots.acquire().await;
    match tokio::task::spawn_blocking(move || ask(&*metrics)).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, CONTENT_TYPE), no_store()], text).into_response(),
        Ok(Err(bad)) => refuse(&bad),
        Err(ended) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("gathering ended: {ended}\n"),
        )
            .into_response(),
    }
}

fn no_store() -> (header::HeaderName, &'static str) {
    (header::CACHE_CONTROL, "no-store")
}

fn refuse(bad: &BadQuery) -> Response {
    let plain = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), no_store()];
    (StatusCode::BAD_REQUEST, plain, format!("{bad}\n")).into_response()
}
