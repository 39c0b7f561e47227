//! The native protocol: frames of one protobuf message each, turned into the broker's own types and back.
//!
//! The contract is `proto/naru/v1`; its prose is `docs/protocol.md`. Requests pass the guard before they are decoded. Record
//! bytes are slices of the read buffer on the way in and shared extents on the way out; only what stands in front of
//! them is encoded. [`client`], [`errors`] and `payload` also belong to the client.

pub mod client;
pub mod errors;

mod payload;

#[cfg(feature = "server")]
mod decode;
#[cfg(feature = "server")]
mod encode;
#[cfg(feature = "server")]
mod guard;
#[cfg(feature = "server")]
mod native;
#[cfg(feature = "server")]
mod schema;

#[cfg(feature = "server")]
pub use native::{Identity, NativeProtocol};

/// The only version of the protocol so far.
pub const PROTOCOL_VERSION: u32 = 1;

/// Most bytes of a ping.
pub const PING_BYTES_MAX: usize = 1024;
