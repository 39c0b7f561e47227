//! A connection that mends itself: reconnects on demand, with backoff, and repeats what is safe to repeat.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::backoff::Backoff;
use super::config::ClientConfig;
use super::connection::Connection;
use super::{BrokerInfo, Error};
use crate::model::ErrorClass;
use crate::pb::v1::{request::Body as RequestBody, response::Body as ResponseBody};
use crate::rt::{Clock, SystemClock, Tasks};

/// Shared by the client and everything built from it.
#[derive(Debug)]
pub(super) struct Link {
    addresses: Vec<String>,
    pub(super) config: ClientConfig,
    pub(super) clock: SystemClock,
    pub(super) tasks: Tasks,
    state: tokio::sync::Mutex<State>,
    info: Mutex<BrokerInfo>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Arc<Connection>>,
    /// Rounds over all addresses without success, in a row.
    failures: u32,
    not_before: Duration,
}

/// Whether a request may be sent a second time after its fate became unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It has the same effect twice as once.
    Safe,
    /// Only if it surely had no effect.
    OnlyIfNotDone,
}

impl Link {
    /// Connects for the first time.
    pub(super) async fn open(addresses: Vec<String>, config: ClientConfig) -> Result<Arc<Self>, Error> {
        let link = Self::new(addresses, config);
        let patience = link.clock.mono() + link.config.wait_for_broker;
        loop {
            match link.connection().await {
                Ok(_) => return Ok(link),
                Err(error) if !error.is_retriable() || link.clock.mono() >= patience => return Err(error),
                Err(_) => {}
            }
        }
    }

    fn new(addresses: Vec<String>, config: ClientConfig) -> Arc<Self> {
        Arc::new(Self {
            addresses,
            clock: SystemClock::new(),
            tasks: Tasks::new(),
            state: tokio::sync::Mutex::default(),
            info: Mutex::default(),
            config,
        })
    }

    /// A connection of its own to the same broker, made when it is needed.
    pub(super) fn another_later(&self) -> Arc<Self> {
        Self::new(self.addresses.clone(), self.config.clone())
    }

    /// A connection of its own to the same broker.
    pub(super) async fn another(&self) -> Result<Arc<Self>, Error> {
        Self::open(self.addresses.clone(), self.config.clone()).await
    }

    /// Ends the connection and all tasks, for ever.
    pub(super) fn close(&self) {
        self.tasks.stop();
    }

    /// The broker that is connected now or was last.
    pub(super) fn info(&self) -> BrokerInfo {
        self.info.lock().expect("no panics while locked").clone()
    }

    pub(super) fn backoff(&self) -> Backoff {
        Backoff {
            first: self.config.backoff_first,
            max: self.config.backoff_max,
        }
    }

    /// The connection, made new if it is broken. One task connects, the others wait for it.
    ///
    /// # Errors
    /// `Connect` after one round over all addresses; the next call waits out the backoff first.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>, Error> {
        let mut state = self.state.lock().await;
        if let Some(connection) = state.current.as_ref().filter(|c| !c.is_closed()) {
            return Ok(connection.clone());
        }
        state.current = None;
        let wait = state.not_before.saturating_sub(self.clock.mono());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        match self.connect_to_any().await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                state.failures = 0;
                // A broker that takes connections and drops them at once is not dialled in a tight loop either.
                state.not_before = self.clock.mono() + self.backoff().after(1, fastrand::f64());
                state.current = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                state.failures = state.failures.saturating_add(1);
                let pause = self.backoff().after(state.failures, fastrand::f64());
                state.not_before = self.clock.mono() + pause;
                Err(error)
            }
        }
    }

    async fn connect_to_any(&self) -> Result<Connection, Error> {
        let mut failure = Error::Config("the URL names no broker".into());
        for address in &self.addresses {
            match Connection::open(address, &self.config, &self.tasks).await {
                Ok(connection) => {
                    *self.info.lock().expect("no panics while locked") = BrokerInfo::of(&connection);
                    return Ok(connection);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Makes one request and repeats it as far as that is safe and the request timeout allows.
    pub(super) async fn call(
        &self,
        what: &'static str,
        body: RequestBody,
        repeat: Repeat,
    ) -> Result<ResponseBody, Error> {
        self.call_within(what, body, repeat, self.config.request_timeout)
            .await
    }

    /// [`call`](Self::call) with a timeout of its own.
    pub(super) async fn call_within(
        &self,
        what: &'static str,
        body: RequestBody,
        repeat: Repeat,
        timeout: Duration,
    ) -> Result<ResponseBody, Error> {
        let deadline = self.clock.mono() + timeout;
        let mut unknown_attempt = false;
        let mut failures = 0;
        loop {
            let left = deadline.saturating_sub(self.clock.mono());
            let error = match self.call_once(what, body.clone(), left).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            unknown_attempt |= error.may_have_taken_effect();
            failures += 1;
            let pause = pause_after(&error, self.backoff(), failures);
            let repeatable = error.is_retriable()
                && !error.concerns_membership()
                && (repeat == Repeat::Safe || !unknown_attempt);
            if !repeatable || self.clock.mono() + pause >= deadline {
                return Err(if unknown_attempt {
                    error.after_unknown_attempt()
                } else {
                    error
                });
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Makes one request, once.
    pub(super) async fn call_once(
        &self,
        what: &'static str,
        body: RequestBody,
        timeout: Duration,
    ) -> Result<ResponseBody, Error> {
        let connection = tokio::time::timeout(timeout, self.connection()).await;
        let connection = connection.unwrap_or(Err(Error::Timeout {
            what,
            after: timeout,
            may_have_taken_effect: false,
            cause: None,
        }))?;
        connection.call(what, body, timeout).await
    }
}

/// How long to wait before the next attempt.
pub(super) fn pause_after(error: &Error, backoff: Backoff, failures: u32) -> Duration {
    let asked = match error.broker() {
        Some(error) if error.class == ErrorClass::RetryAfter => {
            Duration::from_millis(u64::from(error.retry_after_ms))
        }
        _ => Duration::ZERO,
    };
    asked.max(backoff.after(failures, fastrand::f64()))
}
