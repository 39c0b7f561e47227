//! What the broker can be asked, in domain types. Knows neither bytes on the wire nor how anything is done.

mod admin;
mod error;
mod fetch;
mod groups;
mod produce;

use std::sync::Arc;

pub use admin::{
    BrokerInfo, ConfigEntry, CreateTopic, CreatedTopic, DeleteTopic, DescribeTopic, DescribedTopic,
    ListOffsets, ListOffsetsPartition, ListTopics, ListedOffset, ListedTopics, Metadata, MetadataAnswer,
    OffsetSpec, PartitionDescription, PartitionMetadata, TopicListing, TopicMetadata,
};
pub use error::{ApiError, ErrorDetails};
pub use fetch::{Fetch, FetchForm, FetchPartition, FetchPayload, Fetched, FetchedPartition};
pub use groups::{CommitOffsets, Committed, FetchOffsets, FetchedOffsets, GroupOffset, OffsetToCommit};
pub use produce::{
    InitProducer, InitializedProducer, Produce, ProducePartition, ProducePayload, Produced,
    ProducedPartition, ProducerStamp,
};

use crate::model::{Lsn, PartitionId, Timestamp, TopicId};
use crate::rt::BoxFuture;

/// A partition as a client names it: by id if given, otherwise by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPartition {
    /// Name of the topic; not checked yet. May be empty if there is an id.
    pub topic: Arc<str>,
    /// Id of the topic.
    pub topic_id: Option<TopicId>,
    /// Index of the partition.
    pub partition: PartitionId,
}

/// Everything that can be asked, but for the protocols' own greetings and pings.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Topics, partitions, brokers.
    Metadata(Metadata),
    /// Makes a topic.
    CreateTopic(CreateTopic),
    /// Removes a topic and its records.
    DeleteTopic(DeleteTopic),
    /// Everything about one topic.
    DescribeTopic(DescribeTopic),
    /// Pages through the topics.
    ListTopics(ListTopics),
    /// Earliest or latest offsets.
    ListOffsets(ListOffsets),
    /// Makes or bumps an idempotent producer.
    InitProducer(InitProducer),
    /// Appends batches.
    Produce(Produce),
    /// Reads batches, waiting for them if asked to.
    Fetch(Fetch),
    /// Keeps how far a group is.
    CommitOffsets(CommitOffsets),
    /// Asks how far a group is.
    FetchOffsets(FetchOffsets),
}

impl Request {
    /// Name of the request kind for metrics and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Metadata(_) => "metadata",
            Self::CreateTopic(_) => "create_topic",
            Self::DeleteTopic(_) => "delete_topic",
            Self::DescribeTopic(_) => "describe_topic",
            Self::ListTopics(_) => "list_topics",
            Self::ListOffsets(_) => "list_offsets",
            Self::InitProducer(_) => "init_producer",
            Self::Produce(_) => "produce",
            Self::Fetch(_) => "fetch",
            Self::CommitOffsets(_) => "commit_offsets",
            Self::FetchOffsets(_) => "fetch_offsets",
        }
    }
}

/// The answer to the request of the same name.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// To [`Request::Metadata`].
    Metadata(MetadataAnswer),
    /// To [`Request::CreateTopic`].
    CreateTopic(CreatedTopic),
    /// To [`Request::DeleteTopic`].
    DeleteTopic(TopicId),
    /// To [`Request::DescribeTopic`].
    DescribeTopic(DescribedTopic),
    /// To [`Request::ListTopics`].
    ListTopics(ListedTopics),
    /// To [`Request::ListOffsets`]: one per partition asked for.
    ListOffsets(Vec<Result<ListedOffset, ApiError>>),
    /// To [`Request::InitProducer`].
    InitProducer(InitializedProducer),
    /// To [`Request::Produce`].
    Produce(Produced),
    /// To [`Request::Fetch`].
    Fetch(Fetched),
    /// To [`Request::CommitOffsets`]: the time of the commit.
    CommitOffsets(Timestamp),
    /// To [`Request::FetchOffsets`].
    FetchOffsets(FetchedOffsets),
}

/// An answer or one error for the whole request.
pub type Reply = Result<Response, ApiError>;

/// What has become of a request.
pub enum Outcome {
    /// Answered.
    Ready(Reply),
    /// To be answered once this LSN is durable; if the engine is poisoned first, with `STORAGE_FAILED` instead.
    AfterLsn {
        /// The greatest LSN that the answer depends on.
        lsn: Lsn,
        /// The answer then.
        reply: Reply,
    },
    /// Nothing has been looked at: there is no room. Hand the same request in again when `retry` is ready; requests of
    /// the same connection that must keep their order (produce) wait behind it.
    Blocked {
        /// The request, unchanged.
        request: Request,
        /// Ready when it is worth another try.
        retry: BoxFuture<'static, ()>,
    },
    /// Will be answered by this future: a long poll or a read from disk. Dropping it drops the request.
    Later(BoxFuture<'static, Reply>),
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ready(reply) => f.debug_tuple("Ready").field(reply).finish(),
            Self::AfterLsn { lsn, reply } => f
                .debug_struct("AfterLsn")
                .field("lsn", lsn)
                .field("reply", reply)
                .finish(),
            Self::Blocked { request, .. } => f
                .debug_struct("Blocked")
                .field("request", request)
                .finish_non_exhaustive(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

/// The broker as a protocol sees it.
pub trait Service: Send + Sync + 'static {
    /// Takes a request in. Synchronous: produces of one connection keep the order in which they are handed in.
    fn handle(&self, request: Request) -> Outcome;
}
