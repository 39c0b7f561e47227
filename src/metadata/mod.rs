//! Topics, their configuration and blocks of producer ids: a pure machine over the internal partition `__meta`.
//!
//! Everything that changes is a [`MetaRecord`]; its snapshot is kept in the checkpoint. There is no store trait around it
//! yet: the broker drives the machine directly, and a second store would be the first reason for one. Knows nothing of
//! requests, locks or the engine.

mod config;
mod machine;
mod record;
#[cfg(test)]
mod tests;
mod topic_keys;

pub use config::{ConfigError, ConfigKey, ConfigSource, ConfigValue, TopicDefaults};
pub use machine::{
    AlterTopic, Command, CreateTopic, Limits, Machine, MetaError, PRODUCER_ID_BLOCK, PRODUCER_ID_FIRST, Page,
    ProducerIds, Reply, Topic,
};
pub use record::{AlteredTopic, DecodeError, MetaRecord};
