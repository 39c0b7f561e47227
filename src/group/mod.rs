//! Consumer groups: how far each of them is. A pure machine over the internal partition `__groups`.
//!
//! A group is a name under which offsets were committed; it is there as long as it has one. Offsets belong to topic ids, so
//! a topic that is created again under an old name inherits nothing. Everything that changes is a [`GroupRecord`]; the
//! snapshot is kept in the checkpoint. Whether an offset lies in its partition is the caller's business: this knows nothing
//! of topics' names, logs, requests, locks or the engine. What it promises: `docs/guarantees.md`, P4.
#![deny(clippy::wildcard_enum_match_arm)]

mod machine;
mod record;
pub mod sessions;
#[cfg(test)]
mod tests;

pub use machine::{
    Command, CommitOffsets, CommittedOffset, GroupError, Limits, Machine, OFFSET_STATE_BYTES, Reply,
};
pub use record::{DecodeError, GroupRecord};
