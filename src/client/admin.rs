//! Calls about topics and the broker itself.

use std::time::Duration;

use bytes::Bytes;

use super::link::Repeat;
use super::{Client, Error};
use crate::model::{Offset, PartitionId, Timestamp, TopicId};
use crate::pb::v1 as pb;
use crate::pb::v1::{request::Body as RequestBody, response::Body as ResponseBody};
use crate::rt::{Clock, IdSource, RandomIds};

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

/// How a topic is changed: all of it, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlterTopicOptions {
    /// Entries that are the topic's own from now on, name and value.
    pub set: Vec<(String, String)>,
    /// Names of entries that go back to the broker's default.
    pub unset: Vec<String>,
    /// Number of partitions from now on, never fewer than there are; 0: as many as there are.
    pub partitions: u32,
    /// Only say what would come of it.
    pub validate_only: bool,
    /// Only the topic with this id: another one that has its name meanwhile is refused with `UNKNOWN_TOPIC_ID`.
    pub topic_id: Option<TopicId>,
}

/// A topic as it is after a change, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlteredTopic {
    /// Its id.
    pub topic_id: TopicId,
    /// Its number of partitions.
    pub partitions: u32,
    /// Its configuration, defaults included.
    pub configs: Vec<TopicConfigEntry>,
    /// False: it was so before.
    pub changed: bool,
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
    /// Where it comes from: `default`, `broker` or `topic`.
    pub source: String,
    /// The broker keeps it, but it changes nothing there.
    pub without_effect: bool,
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
    /// What retention removes next; `None`: nothing.
    pub next_deletion: Option<NextDeletion>,
}

/// What retention removes next from a partition, if nothing but the time and the size changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextDeletion {
    /// First offset that stays.
    pub upto: Offset,
    /// Because it is too old then.
    pub at: Option<Timestamp>,
    /// Because it is too much when so many bytes more are there.
    pub after_bytes: Option<u64>,
}

/// Up to where [`Client::trim_topic`] removes records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrimTo {
    /// What lies below this offset, which stays.
    Offset(Offset),
    /// Everything that consumers can see.
    HighWatermark,
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
    /// The first record in offset order whose timestamp is this or later; the high watermark if there is none.
    AtTimestamp(Timestamp),
}

/// One answer of [`Client::offsets_at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetAt {
    /// Offset of the record found, or the high watermark.
    pub offset: Offset,
    /// Timestamp of the record; `None`: there is none that is late enough.
    pub timestamp: Option<Timestamp>,
}

impl Client {
    /// Creates a topic. Safe to retry inside: the broker knows the operation's id.
    ///
    /// # Errors
    /// `Broker` with `TOPIC_ALREADY_EXISTS`, `INVALID_NAME`, `INVALID_CONFIG`, `INVALID_PARTITIONS` or `LIMIT_EXCEEDED`.
    pub async fn create_topic(&self, name: &str, options: CreateTopicOptions) -> Result<CreatedTopic, Error> {
        let request = pb::CreateTopicRequest {
            name: name.to_owned(),
            partitions: options.partitions,
            configs: config_entries(options.configs),
            if_not_exists: options.if_not_exists,
            operation_id: Bytes::copy_from_slice(&RandomIds.uuid()),
        };
        let body = RequestBody::CreateTopic(request);
        match self.link.call("create topic", body, Repeat::Safe).await? {
            ResponseBody::CreateTopic(created) => Ok(CreatedTopic {
                topic_id: topic_id(&created.topic_id)?,
                partitions: created.partitions,
                created: created.created,
            }),
            other => Err(unexpected("create topic", &other)),
        }
    }

    /// Changes a topic's configuration and number of partitions, all or nothing; answered when it is durable and in force.
    /// Records with a key go to other partitions where their number changes.
    ///
    /// # Errors
    /// `Broker` with `UNKNOWN_TOPIC_OR_PARTITION`, `UNKNOWN_TOPIC_ID`, `INVALID_CONFIG`, `INVALID_PARTITIONS` or `LIMIT_EXCEEDED`.
    /// After `Disconnected` or `Timeout` it may be changed; the same change again does no harm, unless somebody else has
    /// changed the same since.
    pub async fn alter_topic(&self, name: &str, options: AlterTopicOptions) -> Result<AlteredTopic, Error> {
        let id = options.topic_id.map(|id| Bytes::copy_from_slice(id.as_bytes()));
        // Without the id, a second attempt could meet a topic that somebody created again in between.
        let repeat = if id.is_some() || options.validate_only {
            Repeat::Safe
        } else {
            Repeat::OnlyIfNotDone
        };
        let body = RequestBody::AlterTopic(pb::AlterTopicRequest {
            name: name.to_owned(),
            topic_id: id.unwrap_or_default(),
            set: config_entries(options.set),
            unset: options.unset,
            partitions: options.partitions,
            validate_only: options.validate_only,
        });
        match self.link.call("alter topic", body, repeat).await? {
            ResponseBody::AlterTopic(altered) => Ok(AlteredTopic {
                topic_id: topic_id(&altered.topic_id)?,
                partitions: altered.partitions,
                configs: altered.configs.into_iter().map(TopicConfigEntry::from).collect(),
                changed: altered.changed,
            }),
            other => Err(unexpected("alter topic", &other)),
        }
    }

    /// Deletes a topic and all of its records.
    ///
    /// # Errors
    /// `Broker` with `UNKNOWN_TOPIC_OR_PARTITION`. After `Disconnected` or `Timeout` the topic may be gone.
    pub async fn delete_topic(&self, name: &str) -> Result<TopicId, Error> {
        let body = RequestBody::DeleteTopic(pb::DeleteTopicRequest {
            name: name.to_owned(),
            topic_id: Bytes::new(),
        });
        // A second attempt could delete a topic that somebody created again in between.
        match self
            .link
            .call("delete topic", body, Repeat::OnlyIfNotDone)
            .await?
        {
            ResponseBody::DeleteTopic(deleted) => topic_id(&deleted.topic_id),
            other => Err(unexpected("delete topic", &other)),
        }
    }

    /// Everything about one topic.
    ///
    /// # Errors
    /// `Broker` with `UNKNOWN_TOPIC_OR_PARTITION`, and a similar name in the details if there is one.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, Error> {
        let body = RequestBody::DescribeTopic(pb::DescribeTopicRequest {
            name: name.to_owned(),
        });
        match self.link.call("describe topic", body, Repeat::Safe).await? {
            ResponseBody::DescribeTopic(described) => described.try_into(),
            other => Err(unexpected("describe topic", &other)),
        }
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
        let body = RequestBody::ListTopics(pb::ListTopicsRequest {
            cursor: cursor.unwrap_or_default(),
            count: options.page,
            r#match: options.pattern.clone(),
            include_internal: options.include_internal,
        });
        let page = match self.link.call("list topics", body, Repeat::Safe).await? {
            ResponseBody::ListTopics(page) => page,
            other => return Err(unexpected("list topics", &other)),
        };
        let topics = page.topics.into_iter().map(TopicListing::try_from);
        Ok(TopicPage {
            topics: topics.collect::<Result<_, _>>()?,
            cursor: Some(page.cursor).filter(|cursor| !cursor.is_empty()),
        })
    }

    /// All topics, page by page.
    ///
    /// # Errors
    /// Those of every request.
    pub async fn list_topics(&self, options: &ListTopicsOptions) -> Result<Vec<TopicListing>, Error> {
        let mut topics = Vec::new();
        let mut cursor = None;
        loop {
            let page = self.list_topics_page(options, cursor).await?;
            topics.extend(page.topics);
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(topics);
            }
        }
    }

    /// Brokers, and the partitions of topics.
    ///
    /// # Errors
    /// Those of every request; a topic's own error is in its place.
    pub async fn metadata(&self, topics: MetadataTopics) -> Result<Metadata, Error> {
        let (topics, all) = match topics {
            MetadataTopics::None => (Vec::new(), false),
            MetadataTopics::Named(names) => (names, false),
            MetadataTopics::All => (Vec::new(), true),
        };
        let body = RequestBody::Metadata(pb::MetadataRequest { topics, all });
        match self.link.call("metadata", body, Repeat::Safe).await? {
            ResponseBody::Metadata(metadata) => Ok(metadata.into()),
            other => Err(unexpected("metadata", &other)),
        }
    }

    /// The first, the next visible, or the offset at a time of some partitions of a topic, in the order asked for.
    ///
    /// # Errors
    /// Those of every request; a partition's own error is in its place.
    pub async fn list_offsets(
        &self,
        topic: &str,
        partitions: &[u32],
        spec: OffsetSpec,
    ) -> Result<Vec<Result<Offset, Error>>, Error> {
        let listed = self.ask_offsets(topic, partitions, spec).await?;
        let offsets = listed.into_iter().map(|found| found.map(|found| found.offset));
        Ok(offsets.collect())
    }

    /// Where a time begins in some partitions of a topic, in the order asked for: the first record in offset order whose
    /// timestamp is `at` or later. Exact to the record, also inside of a batch.
    ///
    /// # Errors
    /// Those of every request; a partition's own error is in its place.
    pub async fn offsets_at(
        &self,
        topic: &str,
        partitions: &[u32],
        at: Timestamp,
    ) -> Result<Vec<Result<OffsetAt, Error>>, Error> {
        self.ask_offsets(topic, partitions, OffsetSpec::AtTimestamp(at))
            .await
    }

    async fn ask_offsets(
        &self,
        topic: &str,
        partitions: &[u32],
        spec: OffsetSpec,
    ) -> Result<Vec<Result<OffsetAt, Error>>, Error> {
        let (spec, timestamp) = match spec {
            OffsetSpec::Earliest => (pb::OffsetSpec::Earliest, None),
            OffsetSpec::Latest => (pb::OffsetSpec::Latest, None),
            OffsetSpec::AtTimestamp(at) => (pb::OffsetSpec::AtTimestamp, Some(at.0)),
        };
        let asked = partitions.iter().map(|&partition| pb::ListOffsetsPartition {
            partition: Some(pb::TopicPartition {
                topic: topic.to_owned(),
                topic_id: Bytes::new(),
                partition,
            }),
            spec: spec.into(),
            timestamp,
        });
        let body = RequestBody::ListOffsets(pb::ListOffsetsRequest {
            partitions: asked.collect(),
        });
        let listed = match self.link.call("list offsets", body, Repeat::Safe).await? {
            ResponseBody::ListOffsets(listed) => listed.partitions,
            other => return Err(unexpected("list offsets", &other)),
        };
        if listed.len() != partitions.len() {
            return Err(decode(
                "list offsets",
                "another number of partitions than asked for",
            ));
        }
        Ok(listed
            .into_iter()
            .map(|listed| match listed.error {
                Some(error) => Err(error.into()),
                None => Ok(OffsetAt {
                    offset: offset("list offsets", listed.offset)?,
                    timestamp: listed.timestamp.map(Timestamp),
                }),
            })
            .collect())
    }

    /// Removes the oldest records of some partitions for good; where each begins then, in the order given. What is below
    /// the log start already is success.
    ///
    /// # Errors
    /// Those of every request; a partition's own error is in its place: `OFFSET_OUT_OF_RANGE` above its high watermark.
    pub async fn trim_topic(
        &self,
        topic: &str,
        partitions: &[(u32, TrimTo)],
    ) -> Result<Vec<Result<Offset, Error>>, Error> {
        let asked = partitions.iter().map(|&(partition, to)| pb::TrimPartition {
            partition: Some(pb::TopicPartition {
                topic: topic.to_owned(),
                topic_id: Bytes::new(),
                partition,
            }),
            to_offset: match to {
                TrimTo::Offset(offset) => offset.get(),
                TrimTo::HighWatermark => -1,
            },
        });
        let body = RequestBody::TrimTopic(pb::TrimTopicRequest {
            partitions: asked.collect(),
        });
        let trimmed = match self.link.call("trim topic", body, Repeat::Safe).await? {
            ResponseBody::TrimTopic(trimmed) => trimmed.partitions,
            other => return Err(unexpected("trim topic", &other)),
        };
        if trimmed.len() != partitions.len() {
            return Err(decode(
                "trim topic",
                "another number of partitions than asked for",
            ));
        }
        let start = |trimmed: pb::TrimmedPartition| match trimmed.error {
            Some(error) => Err(error.into()),
            None => offset("trim topic", trimmed.log_start_offset),
        };
        Ok(trimmed.into_iter().map(start).collect())
    }

    /// Sends `payload` (at most 1,024 bytes) there and back. Returns how long it took.
    ///
    /// # Errors
    /// Those of every request.
    pub async fn ping(&self, payload: Bytes) -> Result<Duration, Error> {
        let before = self.link.clock.mono();
        let body = RequestBody::Ping(pb::PingRequest {
            payload: payload.clone(),
        });
        match self.link.call("ping", body, Repeat::Safe).await? {
            ResponseBody::Ping(pong) if pong.payload == payload => {
                Ok(self.link.clock.mono().saturating_sub(before))
            }
            ResponseBody::Ping(_) => Err(decode("ping", "other bytes came back")),
            other => Err(unexpected("ping", &other)),
        }
    }
}

impl TryFrom<pb::DescribeTopicResponse> for TopicDescription {
    type Error = Error;

    fn try_from(described: pb::DescribeTopicResponse) -> Result<Self, Error> {
        let partitions = described
            .partitions
            .into_iter()
            .map(PartitionDescription::try_from);
        Ok(Self {
            topic_id: topic_id(&described.topic_id)?,
            created: Timestamp(described.created_ms),
            configs: described
                .configs
                .into_iter()
                .map(TopicConfigEntry::from)
                .collect(),
            partitions: partitions.collect::<Result<_, _>>()?,
            name: described.name,
        })
    }
}

pub(super) fn config_entries(entries: Vec<(String, String)>) -> Vec<pb::ConfigEntry> {
    let entry = |(name, value)| pb::ConfigEntry {
        name,
        value,
        ..pb::ConfigEntry::default()
    };
    entries.into_iter().map(entry).collect()
}

impl From<pb::ConfigEntry> for TopicConfigEntry {
    fn from(entry: pb::ConfigEntry) -> Self {
        Self {
            name: entry.name,
            value: entry.value,
            source: entry.source,
            without_effect: entry.without_effect,
        }
    }
}

impl TryFrom<pb::PartitionDescription> for PartitionDescription {
    type Error = Error;

    fn try_from(described: pb::PartitionDescription) -> Result<Self, Error> {
        let checked = |value| offset("describe topic", value);
        let ranges = described.quarantined.into_iter();
        Ok(Self {
            partition: PartitionId(described.partition),
            leader: described.leader,
            leader_epoch: described.leader_epoch,
            log_start: checked(described.log_start_offset)?,
            high_watermark: checked(described.high_watermark)?,
            log_end: checked(described.log_end_offset)?,
            size_bytes: described.size_bytes,
            segments: described.segments,
            producers: described.producers,
            quarantined: ranges
                .map(|range| Ok((checked(range.first)?, checked(range.last)?)))
                .collect::<Result<_, Error>>()?,
            next_deletion: described
                .next_deletion
                .map(|next| {
                    let (mut at, mut after_bytes) = (None, None);
                    match next.when {
                        Some(pb::next_deletion::When::AtMs(ms)) => at = Some(Timestamp(ms)),
                        Some(pb::next_deletion::When::AfterBytes(bytes)) => after_bytes = Some(bytes),
                        None => {}
                    }
                    Ok::<_, Error>(NextDeletion {
                        upto: checked(next.upto_offset)?,
                        at,
                        after_bytes,
                    })
                })
                .transpose()?,
        })
    }
}

impl TryFrom<pb::TopicListing> for TopicListing {
    type Error = Error;

    fn try_from(listing: pb::TopicListing) -> Result<Self, Error> {
        Ok(Self {
            topic_id: topic_id(&listing.topic_id)?,
            name: listing.name,
            partitions: listing.partitions,
            records: u64::try_from(listing.records).unwrap_or(0),
            size_bytes: listing.size_bytes,
        })
    }
}

impl From<pb::MetadataResponse> for Metadata {
    fn from(metadata: pb::MetadataResponse) -> Self {
        let brokers = metadata.brokers.into_iter().map(|b| (b.id, b.address));
        let topics = metadata.topics.into_iter().map(|topic| TopicMetadata {
            result: match topic.error {
                Some(error) => Err(error.into()),
                None => topic_id(&topic.topic_id)
                    .map(|id| (id, u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX))),
            },
            name: topic.name,
        });
        Self {
            cluster_id: metadata.cluster_id,
            brokers: brokers.collect(),
            topics: topics.collect(),
        }
    }
}

pub(super) fn topic_id(bytes: &[u8]) -> Result<TopicId, Error> {
    TopicId::from_slice(bytes).ok_or_else(|| decode("a topic id", "it has not 16 bytes"))
}

/// An offset as it came over the wire.
pub(super) fn offset(what: &'static str, value: i64) -> Result<Offset, Error> {
    Offset::new(value).ok_or_else(|| decode(what, "an offset is negative"))
}

pub(super) fn decode(what: &'static str, reason: &str) -> Error {
    Error::Decode {
        what,
        reason: reason.to_owned(),
    }
}

/// The broker answered one request with the answer of another.
pub(super) fn unexpected(what: &'static str, _answer: &ResponseBody) -> Error {
    decode(what, "the answer is one to another request")
}
