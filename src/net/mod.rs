//! TCP: frames, connections, the accept loop, and every limit a peer can run into. Knows no message type.
//!
//! A connection is one task. Before the greeting it cannot even name the broker ([`connection`](self) hands the
//! service only to the open phase); afterwards it reads requests, hands them to [`crate::api::Service`] in the order
//! they came, and writes replies in whatever order they become due. Limits: `docs/protocol.md`, "Limits".
//!
//! [`frame`] alone also belongs to the client.

pub mod frame;

#[cfg(feature = "server")]
mod connection;
#[cfg(feature = "server")]
mod counters;
#[cfg(feature = "server")]
mod greeting;
#[cfg(feature = "server")]
mod listener;
#[cfg(feature = "server")]
mod lookalike;
#[cfg(feature = "server")]
mod outbox;
#[cfg(feature = "server")]
mod pending;
#[cfg(feature = "server")]
mod protocol;
#[cfg(feature = "server")]
mod settings;
#[cfg(feature = "server")]
mod socket;

#[cfg(feature = "server")]
pub use counters::{AnswersNow, Counters, Hangup};
#[cfg(feature = "server")]
pub use listener::{Parts, bind, connection_limit, start};
#[cfg(feature = "server")]
pub use protocol::{Decision, Decoded, Greeting, Protocol};
#[cfg(feature = "server")]
pub use settings::Settings;
