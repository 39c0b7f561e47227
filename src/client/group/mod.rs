//! A consumer that is a member of a group: the broker says which partitions it reads, and it hands over what it read.
//!
//! [`membership`] decides, without network or time, what is said and held; [`keeper`] keeps a heartbeat under way and carries
//! the orders out that need no waiting; [`handover`] does what takes time: finding places, hooks, commits. [`places`] knows how
//! far each partition is; [`step`] appends and commits in one; [`shared`] is what all of them have in common.

mod builder;
mod consumer;
mod error;
mod handle;
mod handover;
mod hooks;
mod keeper;
mod membership;
mod places;
mod proposer;
mod record;
mod shared;
mod step;

pub use builder::{AutoCommit, GroupConsumerBuilder};
pub use consumer::{GroupBatches, GroupConsumer};
pub use error::CommitError;
pub use handle::{ConsumerState, GroupHandle};
pub use record::{GroupBatch, GroupRecord};
pub use step::{Consumed, GroupStep};
