//! Naru, a message broker: topics, partitions and offsets, and an acknowledgement that means "on disk".
//!
//! ```text
//!  socket      frame          request               decision                    one durable write          effect
//!  net --> net::frame --> wire --> api --> broker --> partition --> storage::local (journal) --> segments, lazily
//!                                                                           | durable LSN
//!          reply waits for its LSN <----------------------------------------+
//!          parked fetches wake, answered from memory <----------------------+
//! ```
//!
//! Modules in reading order: [`model`], [`record`], [`api`], [`partition`], [`metadata`], [`disk`], [`storage`],
//! [`broker`], [`net`], [`wire`], [`http`], [`server`]; and, for programs that talk to a broker, [`client`].

pub mod model;
pub mod pb;
pub mod record;
pub mod rt;

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod broker;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod disk;
#[cfg(feature = "server")]
pub mod group;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod machine;
#[cfg(feature = "server")]
pub mod metadata;
pub mod net;
#[cfg(feature = "server")]
pub mod partition;
#[cfg(feature = "server")]
mod planted;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod storage;
#[cfg(feature = "server")]
pub mod telemetry;
#[cfg(all(test, feature = "server"))]
mod testing;
pub mod wire;

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod history;
