//! Consumer groups: their members, what each is to hold, and how far each group is. A pure machine over the internal partition
//! `__groups`.
//!
//! A group is there as long as it has offsets or producers whose steps are remembered, and from its first member or setting on
//! until it is deleted. Offsets and assignments belong to topic ids, so a topic that is
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
mod error;
mod expiry;
mod machine;
mod members;
mod propose;
mod reconcile;
mod record;
pub mod sessions;
mod state;
mod step;
#[cfg(test)]
mod tests;

pub use change::{GroupChange, Holding, MemberInfo};
pub use config::{GroupConfig, GroupConfigError};
pub use error::GroupError;
pub use machine::{
    Close, Command, CommitOffsets, CommittedOffset, Configure, Group, Limits, Machine, OFFSET_STATE_BYTES,
    Offsets, Overview, Propose, Reply,
};
pub use members::{
    CLIENT_ID_BYTES_MAX, Heartbeat, MemberRef, PATTERNS_MAX, PATTERNS_PER_GROUP_MAX, SUBSCRIBED_TOPICS_MAX,
};
pub use record::{DecodeError, GroupRecord};
pub use state::{
    Held, MEANT_STATE_BYTES, MEMBER_STATE_BYTES, MEMBERSHIP_STATE_BYTES, Member, Membership,
    SUBSCRIBED_STATE_BYTES, Subscription, TARGET_STATE_BYTES, Topics,
};
pub use step::{
    STEP_APPEND_STATE_BYTES, STEP_APPENDS_MAX, STEP_IDLE_MS_MAX, STEP_PRODUCER_STATE_BYTES, STEP_STATE_BYTES,
    STEP_WINDOW, StepAppend, StepCommand, StepResult, StepStamp, StepTaken, Stepper, Steppers, Taken,
};
