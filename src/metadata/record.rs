//! Records of `__meta` and its snapshot as they are stored: `naru.internal.v1`.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::config::{self, ConfigError, ConfigKey, ConfigValue, Entries};
use super::machine::{Machine, Topic};
use crate::machine::Stored;
use crate::metadata::Limits;
use crate::model::{InvalidTopicName, Timestamp, TopicId, TopicName};
use crate::pb::internal as pb;

/// One change, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaRecord {
    /// A topic exists from now on.
    TopicCreated(Topic),
    /// A topic is gone, with its partitions.
    TopicDeleted(TopicId),
    /// A topic has other partitions or another configuration from now on.
    TopicAltered(AlteredTopic),
    /// Producer ids below `end` may have been handed out.
    ProducerIdsReserved {
        /// End of the block, exclusive.
        end: i64,
    },
}

/// What a topic is from now on. As a whole, so that it does not depend on what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlteredTopic {
    /// Which topic.
    pub(super) id: TopicId,
    /// How many partitions; never fewer than before.
    pub(super) partitions: u32,
    /// All of its own entries.
    pub(super) entries: Entries,
}

/// A stored record that cannot be: written by a newer or a broken broker. Metadata is never guessed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No valid protobuf message.
    #[error("no protobuf message: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A kind of record that this version does not know.
    #[error("a record of a kind that this version does not know")]
    UnknownKind,
    /// An id that has not 16 bytes.
    #[error("a topic id of {0} bytes")]
    TopicId(usize),
    /// A bad name.
    #[error("a bad topic name: {0}")]
    Name(#[from] InvalidTopicName),
    /// A bad configuration.
    #[error("a bad topic configuration: {0}")]
    Config(#[from] ConfigError),
    /// No partitions.
    #[error("a topic without partitions")]
    NoPartitions,
}

impl MetaRecord {
    /// The stored form.
    pub fn encode(&self) -> Bytes {
        let kind = match self {
            Self::TopicCreated(topic) => pb::meta_record::Kind::TopicCreated(encode_topic(topic)),
            Self::TopicDeleted(id) => pb::meta_record::Kind::TopicDeleted(pb::TopicDeleted {
                topic_id: encode_id(*id),
            }),
            Self::TopicAltered(altered) => pb::meta_record::Kind::TopicAltered(pb::TopicAltered {
                topic_id: encode_id(altered.id),
                partitions: altered.partitions,
                configs: encode_entries(&altered.entries),
            }),
            Self::ProducerIdsReserved { end } => {
                pb::meta_record::Kind::ProducerIdsReserved(pb::ProducerIdsReserved { end: *end })
            }
        };
        pb::MetaRecord { kind: Some(kind) }.encode_to_vec().into()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// It is not one.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        match pb::MetaRecord::decode(bytes)?.kind {
            Some(pb::meta_record::Kind::TopicCreated(topic)) => decode_topic(&topic).map(Self::TopicCreated),
            Some(pb::meta_record::Kind::TopicDeleted(deleted)) => {
                decode_id(&deleted.topic_id).map(Self::TopicDeleted)
            }
            Some(pb::meta_record::Kind::TopicAltered(altered)) => {
                Ok(Self::TopicAltered(decode_altered(&altered)?))
            }
            Some(pb::meta_record::Kind::ProducerIdsReserved(reserved)) => {
                Ok(Self::ProducerIdsReserved { end: reserved.end })
            }
            None => Err(DecodeError::UnknownKind),
        }
    }
}

impl Stored for Machine {
    type Limits = Limits;
    type DecodeError = DecodeError;

    fn empty(limits: Limits) -> Self {
        Self::new(limits)
    }

    fn encode(record: &MetaRecord) -> Bytes {
        record.encode()
    }

    fn decode(bytes: Bytes) -> Result<MetaRecord, DecodeError> {
        MetaRecord::decode(bytes)
    }

    fn snapshot(&self) -> Bytes {
        let snapshot = pb::MetaSnapshot {
            topics: self.user_topics().map(|topic| encode_topic(topic)).collect(),
            producer_ids_end: self.producer_ids_end(),
            deleted_topic_ids: self.deleted_ids().map(encode_id).collect(),
        };
        snapshot.encode_to_vec().into()
    }

    fn restore(limits: Limits, snapshot: Bytes) -> Result<Self, DecodeError> {
        let snapshot = pb::MetaSnapshot::decode(snapshot)?;
        let topics: Result<Vec<_>, _> = snapshot.topics.iter().map(decode_topic).collect();
        let deleted: Result<Vec<_>, _> = snapshot
            .deleted_topic_ids
            .iter()
            .map(|id| decode_id(id))
            .collect();
        Ok(Self::with(limits, topics?, deleted?, snapshot.producer_ids_end))
    }
}

fn encode_id(id: TopicId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn decode_id(bytes: &[u8]) -> Result<TopicId, DecodeError> {
    TopicId::from_slice(bytes).ok_or(DecodeError::TopicId(bytes.len()))
}

fn encode_topic(topic: &Topic) -> pb::TopicCreated {
    pb::TopicCreated {
        topic_id: encode_id(topic.id),
        name: topic.name.to_string(),
        partitions: topic.partitions,
        configs: encode_entries(topic.entries()),
        created_ms: topic.created.0,
        altered: topic.altered,
    }
}

fn encode_entries(entries: &Entries) -> BTreeMap<String, String> {
    let entry = |(key, value): (&ConfigKey, &ConfigValue)| (key.name().to_owned(), value.to_string());
    entries.iter().map(entry).collect()
}

fn decode_altered(stored: &pb::TopicAltered) -> Result<AlteredTopic, DecodeError> {
    Ok(AlteredTopic {
        id: decode_id(&stored.topic_id)?,
        partitions: checked_partitions(stored.partitions)?,
        entries: config::parse(stored.configs.iter().map(|(k, v)| (k.as_str(), v.as_str())))?,
    })
}

fn checked_partitions(stored: u32) -> Result<u32, DecodeError> {
    match stored {
        0 => Err(DecodeError::NoPartitions),
        partitions => Ok(partitions),
    }
}

fn decode_topic(stored: &pb::TopicCreated) -> Result<Topic, DecodeError> {
    let name: TopicName = stored.name.parse()?;
    let entries: Entries = config::parse(stored.configs.iter().map(|(k, v)| (k.as_str(), v.as_str())))?;
    let partitions = checked_partitions(stored.partitions)?;
    let id = decode_id(&stored.topic_id)?;
    let created = Timestamp(stored.created_ms);
    let mut topic = Topic::new(id, name, partitions, entries, created);
    topic.altered = stored.altered;
    Ok(topic)
}
