//! Signals that ask a command to end.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::failure::{Exit, Stopped};

/// How long a command may take to end in order.
const GRACE: Duration = Duration::from_secs(5);

/// The first signal that a command gets, for one that ends in order.
pub(super) struct Interruption(Pin<Box<dyn Future<Output = u8> + Send>>);

impl Interruption {
    /// Waits for one from now on.
    pub(super) fn new() -> Self {
        Self(Box::pin(interrupted()))
    }

    /// What the work comes to, or [`Stopped::Told`] where the signal comes first; the work is dropped then. Not to be called
    /// again after that.
    pub(super) async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T, impl Into<Stopped>>>,
    ) -> Result<T, Stopped> {
        tokio::select! {
            biased;
            code = &mut self.0 => Err(Stopped::Told(code)),
            outcome = work => outcome.map_err(Into::into),
        }
    }
}

/// Ready when a signal is to end a command from outside. One that ends in order by itself has time for it, until a second one.
pub(super) async fn ends_now(ends_in_order: bool) -> u8 {
    let code = interrupted().await;
    if ends_in_order {
        // In time or not, the exit code is that of the first.
        let _ = tokio::time::timeout(GRACE, interrupted()).await;
    }
    code
}

/// Ready when a signal asks the command to end; the shell's exit code for it.
async fn interrupted() -> u8 {
    let waits = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    );
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = waits else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => Exit::Interrupted.code(),
        _ = terminate.recv() => 128 + 15,
        _ = hangup.recv() => 128 + 1,
    }
}
