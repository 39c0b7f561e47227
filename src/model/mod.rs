//! The words of the field as types. Knows nothing else of the crate.

mod error_code;
mod glob;
mod group;
mod health;
mod ids;
mod member;
mod nearest;
mod quantities;
mod shell;
mod topic;
mod units;

pub use error_code::{ErrorClass, ErrorCode};
pub use glob::{GLOB_BYTES_MAX, Glob, GlobTooLong};
#[cfg(feature = "server")]
pub(crate) use group::is_hidden;
pub use group::{GROUP_ID_BYTES_MAX, GroupId, GroupState, InvalidGroupId};
pub use health::{MemoryHealth, RecoverySummary, StorageHealth, StorageState};
pub use ids::{
    BrokerId, ConnectionId, LeaderEpoch, PartitionId, PartitionKey, ProducerEpoch, ProducerId, Sequence,
    TopicId,
};
pub use member::{InstanceId, InvalidMemberId, MEMBER_ID_BYTES_MAX, MemberId};
pub use nearest::nearest;
pub use quantities::{ByteCount, DurableState, LogBounds, Lsn, Offset, Timestamp};
pub use shell::{shell_path, shell_word};
pub use topic::{InvalidTopicName, TimestampType, TopicConfig, TopicName, TopicStorage};
pub use units::{parse_bytes, parse_millis, show_bytes, show_millis};

/// How safe a produced batch must be before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum Acks {
    /// On disk: its journal frame was synced.
    #[default]
    Fsync,
    /// Sequenced in memory; a crash may lose it. Visible to consumers only once it is durable.
    Memory,
}

impl Acks {
    /// All levels.
    pub const ALL: [Self; 2] = [Self::Fsync, Self::Memory];

    /// Name for options and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::Memory => "memory",
        }
    }
}
