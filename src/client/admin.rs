//! Calls about topics and the broker itself.

use std::time::Duration;

use bytes::Bytes;

use super::{Client, Error};
use crate::model::{Offset, PartitionId, Timestamp, TopicId};

/// How a topic is created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateTopicOptions {
    /// Number of partitions; 0: the broker's default.
    pub partitions: u32,
    /// Configuration entries, name and value.
    pub configs: Vec<(String, String)>,
    /// An existing topic with as many partitions is success.
    pub if_not_exists: bool,
}

/// A topic that was created or was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its id.
    pub topic_id: TopicId,
    /// Its number of partitions.
    pub partitions: u32,
    /// False: it was there already.
    pub created: bool,
}

/// Everything about one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its id.
    pub topic_id: TopicId,
    /// When it was created.
    pub created: Timestamp,
    /// Its configuration, defaults included.
    pub configs: Vec<TopicConfigEntry>,
    /// Its partitions, in order.
    pub partitions: Vec<PartitionDescription>,
}

/// One configuration entry of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfigEntry {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
    /// Where it comes from: `default` or `topic`.
    pub source: String,
}

/// One partition of a described topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Index.
    pub partition: PartitionId,
    /// Broker that leads it.
    pub leader: u32,
    /// Its leader's epoch.
    pub leader_epoch: i32,
    /// First offset kept.
    pub log_start: Offset,
    /// End of what consumers see, exclusive.
    pub high_watermark: Offset,
    /// Next offset to be assigned.
    pub log_end: Offset,
    /// Bytes of batches.
    pub size_bytes: u64,
    /// Segment files.
    pub segments: u32,
    /// Idempotent producers remembered.
    pub producers: u32,
    /// Damaged ranges, first and last offset (inclusive).
    pub quarantined: Vec<(Offset, Offset)>,
}

/// Which topics are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListTopicsOptions {
    /// Glob: `*` any text, `?` one character; empty: all.
    pub pattern: String,
    /// The broker's own topics too.
    pub include_internal: bool,
    /// Topics per page; 0: the broker's default.
    pub page: u32,
}

/// One topic of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicListing {
    /// Its name.
    pub name: String,
    /// Its id.
    pub topic_id: TopicId,
    /// Its number of partitions.
    pub partitions: u32,
    /// High watermarks minus log starts.
    pub records: u64,
    /// Bytes of batches.
    pub size_bytes: u64,
}

/// One page of a list of topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPage {
    /// The topics.
    pub topics: Vec<TopicListing>,
    /// Where the next page begins; `None` at the end.
    pub cursor: Option<String>,
}

/// Brokers and the partitions of some topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Identity of the cluster.
    pub cluster_id: String,
    /// Its brokers: number and address.
    pub brokers: Vec<(u32, String)>,
    /// The topics asked for.
    pub topics: Vec<TopicMetadata>,
}

/// One topic of [`Metadata`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMetadata {
    /// Its name.
    pub name: String,
    /// Its id and number of partitions, or why there are none.
    pub result: Result<(TopicId, u32), Error>,
}

/// Which topics [`Client::metadata`] tells about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataTopics {
    /// None, only the brokers.
    None,
    /// These.
    Named(Vec<String>),
    /// All.
    All,
}

/// Which offset [`Client::list_offsets`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first offset kept.
    Earliest,
    /// The high watermark: where the next record that consumers see will be.
    Latest,
}

impl Client {
    /// Creates a topic. Safe to retry inside: the broker knows the operation's id.
    ///
    /// # Errors
    /// `Broker` with `TOPIC_ALREADY_EXISTS`, `INVALID_NAME`, `INVALID_CONFIG`, `INVALID_PARTITIONS` or `LIMIT_EXCEEDED`.
    pub async fn create_topic(&self, name: &str, options: CreateTopicOptions) -> Result<CreatedTopic, Error> {
        let _ = (name, options);
        unimplemented!()
    }

    /// Deletes a topic and all of its records.
    ///
    /// # Errors
    /// `Broker` with `UNKNOWN_TOPIC_OR_PARTITION`. After `Disconnected` or `Timeout` the topic may be gone.
    pub async fn delete_topic(&self, name: &str) -> Result<TopicId, Error> {
        let _ = name;
        unimplemented!()
    }

    /// Everything about one topic.
    ///
    /// # Errors
    /// `Broker` with `UNKNOWN_TOPIC_OR_PARTITION`, and a similar name in the details if there is one.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, Error> {
        let _ = name;
        unimplemented!()
    }

    /// One page of the topics; begin with `cursor` `None` and go on until it comes back `None`.
    ///
    /// # Errors
    /// Those of every request.
    pub async fn list_topics_page(
        &self,
        options: &ListTopicsOptions,
        cursor: Option<String>,
    ) -> Result<TopicPage, Error> {
        let _ = (options, cursor);
        unimplemented!()
    }

    /// All topics, page by page.
    ///
    /// # Errors
    /// Those of every request.
    pub async fn list_topics(&self, options: &ListTopicsOptions) -> Result<Vec<TopicListing>, Error> {
        let _ = options;
        unimplemented!()
    }

    /// Brokers, and the partitions of topics.
    ///
    /// # Errors
    /// Those of every request; a topic's own error is in its place.
    pub async fn metadata(&self, topics: MetadataTopics) -> Result<Metadata, Error> {
        let _ = topics;
        unimplemented!()
    }

    /// The first or the next visible offset of some partitions of a topic, in the order asked for.
    ///
    /// # Errors
    /// Those of every request; a partition's own error is in its place.
    pub async fn list_offsets(
        &self,
        topic: &str,
        partitions: &[u32],
        spec: OffsetSpec,
    ) -> Result<Vec<Result<Offset, Error>>, Error> {
        let _ = (topic, partitions, spec);
        unimplemented!()
    }

    /// Sends `payload` (at most 1,024 bytes) there and back. Returns how long it took.
    ///
    /// # Errors
    /// Those of every request.
    pub async fn ping(&self, payload: Bytes) -> Result<Duration, Error> {
        let _ = payload;
        unimplemented!()
    }
}
