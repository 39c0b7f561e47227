//! The client: connects to a broker, produces, reads, administers topics.
//!
//! ```no_run
//! use naru::client::{Client, CreateTopicOptions, ProducerRecord, Reset, Start};
//!
//! # async fn example() -> Result<(), naru::client::Error> {
//! let client = Client::connect("naru://localhost:9640").await?; // a clone is cheap
//! let options = CreateTopicOptions { partitions: 6, if_not_exists: true, ..Default::default() };
//! client.create_topic("orders", options).await?;
//!
//! let producer = client.producer().build().await?;
//! let stored = producer.send(ProducerRecord::to("orders").key("o-1").value("42")).await?; // on disk
//!
//! // Pipelined: `enqueue` waits for room in the buffer only, the ticket for the acknowledgement.
//! let ticket = producer.enqueue(ProducerRecord::to("orders").value("43").header("source", "web")).await?;
//! ticket.await?;
//! producer.close().await?;
//!
//! let mut reader = client.reader("orders", stored.partition.0, Start::Earliest).build().await?;
//! while let Some(record) = reader.next().await {
//!     let record = record?;
//!     println!("{}: {:?}", record.offset, record.value);
//! }
//!
//! // With a name: goes on where the group has committed, also after a restart.
//! let mut consumer = client.consumer("billing", "orders").reset(Reset::Earliest).build().await?;
//! while let Some(record) = consumer.next().await {
//!     println!("{:?}", record?.value);
//!     consumer.commit().await?; // after the work: each record is processed at least once
//! }
//!
//! // As a member of a group, which shares the partitions out; commits what was processed by itself.
//! let mut member = client.group_consumer("mail").topics(["orders"]).reset(Reset::Earliest).build().await?;
//! while let Some(record) = member.next().await {
//!     println!("{:?}", record?.value); // counts as processed when the next one is asked for
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Every error says whether a retry may help ([`Error::is_retriable`]) and whether the broker may have done what was asked
//! ([`Error::may_have_taken_effect`]). Retries that are safe happen inside. Needs a tokio runtime with time and I/O.

mod admin;
mod backoff;
mod cluster;
mod config;
mod connection;
mod consumer;
mod error;
mod fetcher;
mod group;
mod group_admin;
mod groups;
mod link;
mod members;
mod partitioner;
mod producer;
mod reader;
mod step;
mod stepper;
mod typed;

use std::sync::Arc;

pub use crate::record::Codec as Compression;
pub use crate::wire::PROTOCOL_VERSION;
pub use admin::{
    AlterTopicOptions, AlteredTopic, CreateTopicOptions, CreatedTopic, ListTopicsOptions, Metadata,
    MetadataTopics, NextDeletion, OffsetAt, OffsetSpec, PartitionDescription, TopicConfigEntry,
    TopicDescription, TopicListing, TopicMetadata, TopicPage, TrimTo,
};
pub use cluster::{ClusterDescription, ClusterLimits};
pub use config::{ClientBuilder, DEFAULT_PORT};
pub use consumer::{Consumer, ConsumerBuilder, ConsumerStep};
pub use error::{BrokerError, Error, NoPlace};
pub use group::{
    AutoCommit, CommitError, Consumed, ConsumerState, GroupBatch, GroupBatches, GroupConsumer,
    GroupConsumerBuilder, GroupHandle, GroupRecord, GroupStep,
};
pub use group_admin::{
    AlteredGroup, CreatedGroup, Evict, EvictedMember, GroupDescription, GroupListing, GroupMemberDescription,
    GroupPage, GroupPartitionDescription, ListGroupsOptions,
};
pub use groups::{CommittedOffset, GroupOffset, LostRange, OffsetToCommit, Reset, ResumePoint};
pub use members::{
    AssignedPartition, ClosedConsumer, GroupHeartbeat, GroupMember, MemberRole, Membership, ProposalMember,
    ProposalWanted, Subscription, TopicPartition,
};
pub use producer::{
    BatchMetadata, BatchTicket, PreparedBatch, PreparedTopic, Producer, ProducerBuilder, ProducerRecord,
    RecordMetadata, Ticket,
};
pub use reader::{ConsumedBatch, ConsumedRecord, PartitionReader, PartitionReaderBuilder, Start};
pub use step::{Step, StepAppend, Stepped, SteppedAppend};
pub use stepper::StepMetadata;
pub use typed::{DecodeError, EncodeError, Format, Json, Part, Raw, Text, Topic};

/// A connection to a broker that mends itself. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    link: Arc<link::Link>,
}

/// What the broker said about itself in the handshake.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BrokerInfo {
    /// `host:port` that is connected.
    pub address: String,
    /// Version of its software.
    pub server_version: String,
    /// Its cluster.
    pub cluster_id: String,
    /// Its number.
    pub broker_id: u32,
    /// Its limits.
    pub limits: crate::pb::v1::Limits,
}

impl BrokerInfo {
    fn of(connection: &connection::Connection) -> Self {
        let info = connection.info();
        Self {
            address: connection.address().to_owned(),
            server_version: info.server_version.clone(),
            cluster_id: info.cluster_id.clone(),
            broker_id: info.broker_id,
            limits: connection.limits(),
        }
    }
}

impl Client {
    /// Connects to `naru://host:port[,host:port]` with default options.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self, Error> {
        ClientBuilder::new().connect(url).await
    }

    /// Options before connecting.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    async fn open(addresses: Vec<String>, config: config::ClientConfig) -> Result<Self, Error> {
        let link = link::Link::open(addresses, config).await?;
        Ok(Self { link })
    }

    /// What the broker that is connected now, or was connected last, said about itself.
    pub fn broker_info(&self) -> BrokerInfo {
        self.link.info()
    }

    /// Builds a producer.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self)
    }

    /// Builds a consumer that goes on where its group has committed.
    pub fn consumer(&self, group: &str, topic: &str) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), group, topic)
    }

    /// Builds a consumer that becomes a member of a group, which shares the partitions out among its members.
    pub fn group_consumer(&self, group: &str) -> GroupConsumerBuilder {
        GroupConsumerBuilder::new(self.clone(), group)
    }

    /// Builds a reader of one partition.
    pub fn reader(&self, topic: &str, partition: u32, start: Start) -> PartitionReaderBuilder {
        PartitionReaderBuilder::new(self.clone(), topic, partition, start)
    }
}

#[cfg(test)]
mod tests;
