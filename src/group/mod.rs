//! Consumer groups: their members, what each is to hold, and how far each group is. A pure machine over the internal partition
//! `__groups`.
//!
//! A group is there as long as it has members, settings or offsets. Offsets and assignments belong to topic ids, so a topic that is
//! created again under an old name inherits nothing. Everything that changes is a [`GroupRecord`]; the snapshot is kept in the
//! checkpoint. Whether an offset lies in its partition is the caller's business: this knows nothing of logs, requests, locks or the
//! engine, and no clock. What it promises: `docs/guarantees.md`, P4 and P5; why it is so: ADR 0010.
//!
//! Epochs as in KIP-848: the group's changes with members and partitions, the assignment is made for one, and a member is in it when it
//! has released what it is not to hold any more. A partition is never held by two members (EP12).
#![deny(clippy::wildcard_enum_match_arm)]

pub mod assignor;
mod change;
mod commits;
mod config;
mod machine;
mod members;
mod propose;
mod reconcile;
mod record;
pub mod sessions;
mod state;
#[cfg(test)]
mod tests;

pub use change::{GroupChange, Holding, MemberInfo};
pub use config::{GroupConfig, GroupConfigError};
pub use machine::{
    Close, Command, CommitOffsets, CommittedOffset, Configure, Group, GroupError, Limits, Machine,
    OFFSET_STATE_BYTES, Offsets, Propose, Reply,
};
pub use members::{CLIENT_ID_BYTES_MAX, Heartbeat, MemberRef, PATTERNS_MAX, SUBSCRIBED_TOPICS_MAX};
pub use record::{DecodeError, GroupRecord};
pub use state::{Held, Member, Membership, Subscription, Topics};
