//! Topics and offsets.

use super::{ApiError, TopicPartition};
use crate::model::{BrokerId, LeaderEpoch, LogBounds, Offset, PartitionId, Timestamp, TopicId, TopicName};

/// Asks for topics and brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// These topics; not checked yet.
    pub topics: Vec<String>,
    /// All topics instead.
    pub all: bool,
}

/// Topics and brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataAnswer {
    /// Identity of the cluster.
    pub cluster_id: String,
    /// Its brokers.
    pub brokers: Vec<BrokerInfo>,
    /// One per topic asked for, in that order, with the name asked for.
    pub topics: Vec<(String, Result<TopicMetadata, ApiError>)>,
}

/// A broker and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerInfo {
    /// Its number.
    pub id: BrokerId,
    /// host:port.
    pub address: String,
}

/// A topic and its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMetadata {
    /// Its id.
    pub id: TopicId,
    /// Its partitions, from 0.
    pub partitions: Vec<PartitionMetadata>,
}

/// A partition and its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// Index.
    pub partition: PartitionId,
    /// Who sequences it.
    pub leader: BrokerId,
    /// Fencing number of the leader.
    pub leader_epoch: LeaderEpoch,
}

/// A configuration entry, by its name in Kafka where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Name.
    pub name: String,
    /// Value as text.
    pub value: String,
    /// Who sets it: `default`, `broker` or `topic`.
    pub source: String,
    /// False: it is kept and shown, but changes nothing here.
    pub has_effect: bool,
}

/// Makes a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTopic {
    /// Name; not checked yet.
    pub name: String,
    /// How many partitions; 0: the default.
    pub partitions: u32,
    /// Names and values.
    pub configs: Vec<(String, String)>,
    /// An existing topic with as many partitions is success.
    pub if_not_exists: bool,
    /// Chosen by the client: becomes the topic's id, and a retry returns the first result.
    pub operation_id: Option<TopicId>,
}

/// A topic that exists now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its id.
    pub id: TopicId,
    /// Its partitions.
    pub partitions: u32,
    /// False: it was there already.
    pub created: bool,
}

/// Changes a topic: all of what is asked for, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlterTopic {
    /// Its name; not checked yet.
    pub name: String,
    /// If given, must be the id of that name.
    pub id: Option<TopicId>,
    /// Names and values of entries that are the topic's own from now on.
    pub set: Vec<(String, String)>,
    /// Names of entries that go back to the broker's default.
    pub unset: Vec<String>,
    /// How many partitions from now on; 0: as many as there are.
    pub partitions: u32,
    /// Says what would come of it and changes nothing.
    pub validate_only: bool,
}

/// A topic as it is from now on, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlteredTopic {
    /// Its id.
    pub id: TopicId,
    /// Its partitions.
    pub partitions: u32,
    /// All configuration entries.
    pub configs: Vec<ConfigEntry>,
    /// False: it was so before.
    pub changed: bool,
}

/// Removes a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteTopic {
    /// Its name; not checked yet.
    pub name: String,
    /// If given, must be the id of that name.
    pub id: Option<TopicId>,
}

/// Asks for everything about a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeTopic {
    /// Its name; not checked yet.
    pub name: String,
}

/// Everything about a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedTopic {
    /// Its name.
    pub name: TopicName,
    /// Its id.
    pub id: TopicId,
    /// When it was created.
    pub created: Timestamp,
    /// All configuration entries.
    pub configs: Vec<ConfigEntry>,
    /// Its partitions.
    pub partitions: Vec<PartitionDescription>,
}

/// Everything about a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Index and leader.
    pub metadata: PartitionMetadata,
    /// Its marks.
    pub bounds: LogBounds,
    /// Bytes of batches.
    pub size_bytes: u64,
    /// Segment files.
    pub segments: u32,
    /// Idempotent producers remembered.
    pub producers: u32,
    /// Damaged ranges, last inclusive.
    pub quarantined: Vec<(Offset, Offset)>,
    /// What retention removes next; `None`: nothing.
    pub next_deletion: Option<NextDeletion>,
}

/// Pages through the topics in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListTopics {
    /// Empty at first, then what came back.
    pub cursor: String,
    /// Most topics of the page.
    pub count: u32,
    /// Glob with `*` and `?`; empty: all.
    pub matching: String,
    /// Whether the broker's own topics are listed, too.
    pub include_internal: bool,
}

/// A page of topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTopics {
    /// The topics.
    pub topics: Vec<TopicListing>,
    /// Empty: the end.
    pub cursor: String,
}

/// A topic in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicListing {
    /// Its name.
    pub name: TopicName,
    /// Its id.
    pub id: TopicId,
    /// Its partitions.
    pub partitions: u32,
    /// Visible records of all partitions.
    pub records: u64,
    /// Bytes of all partitions.
    pub size_bytes: u64,
}

/// Which offset is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// Log start.
    Earliest,
    /// High watermark.
    Latest,
    /// The first record in offset order whose timestamp is this or later.
    AtTimestamp(Timestamp),
}

/// Removes the oldest records of partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrimTopic {
    /// Which partitions, and up to where.
    pub partitions: Vec<TrimPartition>,
}

/// One partition of [`TrimTopic`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrimPartition {
    /// The partition.
    pub partition: TopicPartition,
    /// First offset that stays; -1: the high watermark. Not checked yet.
    pub to: i64,
}

/// A partition that was trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trimmed {
    /// Its first offset from now on.
    pub log_start: Offset,
}

/// What retention removes next from a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextDeletion {
    /// First offset that stays.
    pub upto: Offset,
    /// When.
    pub when: DeletionTime,
}

/// What a deletion waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletionTime {
    /// This time of the broker's clock.
    At(Timestamp),
    /// So many more bytes.
    AfterBytes(u64),
}

/// Asks for offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListOffsets {
    /// Of these partitions.
    pub partitions: Vec<ListOffsetsPartition>,
}

/// One partition of [`ListOffsets`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListOffsetsPartition {
    /// The partition.
    pub partition: TopicPartition,
    /// Which offset.
    pub spec: OffsetSpec,
}

/// An offset asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedOffset {
    /// The offset; the high watermark if no record has the timestamp asked for or a later one.
    pub offset: Offset,
    /// Timestamp of the record, if one was looked for by its timestamp and found.
    pub timestamp: Option<Timestamp>,
    /// Epoch of the partition.
    pub leader_epoch: LeaderEpoch,
}
