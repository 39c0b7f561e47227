//! Records of `__meta` and its snapshot as they are stored: `naru.internal.v1`.

use bytes::Bytes;
use prost::Message;

use super::config::{self, ConfigError, Entries};
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
    /// Producer ids below `end` may have been handed out.
    ProducerIdsReserved {
        /// End of the block, exclusive.
        end: i64,
    },
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
        configs: topic
            .entries()
            .iter()
            .map(|(key, value)| (key.name().to_owned(), value.to_string()))
            .collect(),
        created_ms: topic.created.0,
    }
}

fn decode_topic(stored: &pb::TopicCreated) -> Result<Topic, DecodeError> {
    let name: TopicName = stored.name.parse()?;
    let entries: Entries = config::parse(stored.configs.iter().map(|(k, v)| (k.as_str(), v.as_str())))?;
    if stored.partitions == 0 {
        return Err(DecodeError::NoPartitions);
    }
    let id = decode_id(&stored.topic_id)?;
    Ok(Topic::new(
        id,
        name,
        stored.partitions,
        entries,
        Timestamp(stored.created_ms),
    ))
}
