//! Generated from `proto/` by `build.rs`; no code of our own.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason
)]

/// The native protocol, `docs/protocol.md`.
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/naru.v1.rs"));
}

/// What the broker stores about itself, `docs/storage-format.md`.
pub mod internal {
    include!(concat!(env!("OUT_DIR"), "/naru.internal.v1.rs"));
}
