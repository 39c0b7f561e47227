//! What the broker can be asked, in domain types. Knows neither bytes on the wire nor how anything is done.

mod admin;
mod cluster;
mod error;
mod fetch;
mod group_admin;
mod groups;
mod produce;
mod step;

use std::sync::Arc;

pub use admin::{
    AlterTopic, AlteredTopic, BrokerInfo, ConfigEntry, CreateTopic, CreatedTopic, DeleteTopic, DeletionTime,
    DescribeTopic, DescribedTopic, ListOffsets, ListOffsetsPartition, ListTopics, ListedOffset, ListedTopics,
    Metadata, MetadataAnswer, NextDeletion, OffsetSpec, PartitionDescription, PartitionMetadata,
    TopicListing, TopicMetadata, TrimPartition, TrimTopic, Trimmed,
};
pub use cluster::{DescribeCluster, DescribedCluster};
pub use error::{ApiError, ErrorDetails};
pub use fetch::{Fetch, FetchForm, FetchPartition, FetchPayload, Fetched, FetchedPartition};
pub use group_admin::{
    AlterGroup, AlteredGroup, CreateGroup, CreatedGroup, DeleteGroup, DescribeGroup, DescribedGroup,
    EvictMember, Evicted, EvictedMember, GroupListing, GroupPartition, ListGroups, ListedGroups,
    MemberDescription,
};
pub use groups::{
    AssignedPartition, AssignedTopic, CloseConsumer, ClosedConsumer, CommitOffsets, Committed, FetchOffsets,
    FetchedOffsets, GroupHeartbeat, GroupMember, GroupOffset, MemberRole, Membership, OffsetToCommit,
    ProposalMember, ProposalWanted, ProposeAssignment, Subscription, TopicPartitions,
};
pub use produce::{
    InitProducer, InitializedProducer, Produce, ProducePartition, ProducePayload, Produced,
    ProducedPartition, ProducerStamp, Validation,
};
pub use step::{Step, StepStamp, Stepped, SteppedAppend};

use crate::model::{ConnectionId, ErrorCode, Lsn, PartitionId, Timestamp, TopicId};
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
    /// How the broker is, and who it is.
    DescribeCluster(DescribeCluster),
    /// Changes a topic's configuration and number of partitions.
    AlterTopic(AlterTopic),
    /// Removes the oldest records of partitions.
    TrimTopic(TrimTopic),
    /// A member joins, lives on, and asks what it is to hold.
    GroupHeartbeat(GroupHeartbeat),
    /// A member commits and leaves.
    CloseConsumer(CloseConsumer),
    /// A leader assigns.
    ProposeAssignment(ProposeAssignment),
    /// Makes a group.
    CreateGroup(CreateGroup),
    /// Changes a group's settings.
    AlterGroup(AlterGroup),
    /// Removes a group without members.
    DeleteGroup(DeleteGroup),
    /// Everything about one group.
    DescribeGroup(DescribeGroup),
    /// Pages through the groups.
    ListGroups(ListGroups),
    /// Removes a member of a group.
    EvictMember(EvictMember),
    /// Appends batches and commits offsets in one.
    Step(Step),
}

/// Kind of a request, for what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// [`Request::Metadata`].
    Metadata,
    /// [`Request::CreateTopic`].
    CreateTopic,
    /// [`Request::DeleteTopic`].
    DeleteTopic,
    /// [`Request::DescribeTopic`].
    DescribeTopic,
    /// [`Request::ListTopics`].
    ListTopics,
    /// [`Request::ListOffsets`].
    ListOffsets,
    /// [`Request::InitProducer`].
    InitProducer,
    /// [`Request::Produce`].
    Produce,
    /// [`Request::Fetch`].
    Fetch,
    /// [`Request::CommitOffsets`].
    CommitOffsets,
    /// [`Request::FetchOffsets`].
    FetchOffsets,
    /// [`Request::DescribeCluster`].
    DescribeCluster,
    /// [`Request::AlterTopic`].
    AlterTopic,
    /// [`Request::TrimTopic`].
    TrimTopic,
    /// [`Request::GroupHeartbeat`].
    GroupHeartbeat,
    /// [`Request::CloseConsumer`].
    CloseConsumer,
    /// [`Request::ProposeAssignment`].
    ProposeAssignment,
    /// [`Request::CreateGroup`].
    CreateGroup,
    /// [`Request::AlterGroup`].
    AlterGroup,
    /// [`Request::DeleteGroup`].
    DeleteGroup,
    /// [`Request::DescribeGroup`].
    DescribeGroup,
    /// [`Request::ListGroups`].
    ListGroups,
    /// [`Request::EvictMember`].
    EvictMember,
    /// [`Request::Step`].
    Step,
}

impl RequestKind {
    /// All kinds, in the order in which they are declared.
    pub const ALL: &'static [Self] = &[
        Self::Metadata,
        Self::CreateTopic,
        Self::DeleteTopic,
        Self::DescribeTopic,
        Self::ListTopics,
        Self::ListOffsets,
        Self::InitProducer,
        Self::Produce,
        Self::Fetch,
        Self::CommitOffsets,
        Self::FetchOffsets,
        Self::DescribeCluster,
        Self::AlterTopic,
        Self::TrimTopic,
        Self::GroupHeartbeat,
        Self::CloseConsumer,
        Self::ProposeAssignment,
        Self::CreateGroup,
        Self::AlterGroup,
        Self::DeleteGroup,
        Self::DescribeGroup,
        Self::ListGroups,
        Self::EvictMember,
        Self::Step,
    ];

    /// Name for metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::CreateTopic => "create_topic",
            Self::DeleteTopic => "delete_topic",
            Self::DescribeTopic => "describe_topic",
            Self::ListTopics => "list_topics",
            Self::ListOffsets => "list_offsets",
            Self::InitProducer => "init_producer",
            Self::Produce => "produce",
            Self::Fetch => "fetch",
            Self::CommitOffsets => "commit_offsets",
            Self::FetchOffsets => "fetch_offsets",
            Self::DescribeCluster => "describe_cluster",
            Self::AlterTopic => "alter_topic",
            Self::TrimTopic => "trim_topic",
            Self::GroupHeartbeat => "group_heartbeat",
            Self::CloseConsumer => "close_consumer",
            Self::ProposeAssignment => "propose_assignment",
            Self::CreateGroup => "create_group",
            Self::AlterGroup => "alter_group",
            Self::DeleteGroup => "delete_group",
            Self::DescribeGroup => "describe_group",
            Self::ListGroups => "list_groups",
            Self::EvictMember => "evict_member",
            Self::Step => "step",
        }
    }

    /// Its place in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl Request {
    /// Its kind.
    pub const fn kind(&self) -> RequestKind {
        match self {
            Self::Metadata(_) => RequestKind::Metadata,
            Self::CreateTopic(_) => RequestKind::CreateTopic,
            Self::DeleteTopic(_) => RequestKind::DeleteTopic,
            Self::DescribeTopic(_) => RequestKind::DescribeTopic,
            Self::ListTopics(_) => RequestKind::ListTopics,
            Self::ListOffsets(_) => RequestKind::ListOffsets,
            Self::InitProducer(_) => RequestKind::InitProducer,
            Self::Produce(_) => RequestKind::Produce,
            Self::Fetch(_) => RequestKind::Fetch,
            Self::CommitOffsets(_) => RequestKind::CommitOffsets,
            Self::FetchOffsets(_) => RequestKind::FetchOffsets,
            Self::DescribeCluster(_) => RequestKind::DescribeCluster,
            Self::AlterTopic(_) => RequestKind::AlterTopic,
            Self::TrimTopic(_) => RequestKind::TrimTopic,
            Self::GroupHeartbeat(_) => RequestKind::GroupHeartbeat,
            Self::CloseConsumer(_) => RequestKind::CloseConsumer,
            Self::ProposeAssignment(_) => RequestKind::ProposeAssignment,
            Self::CreateGroup(_) => RequestKind::CreateGroup,
            Self::AlterGroup(_) => RequestKind::AlterGroup,
            Self::DeleteGroup(_) => RequestKind::DeleteGroup,
            Self::DescribeGroup(_) => RequestKind::DescribeGroup,
            Self::ListGroups(_) => RequestKind::ListGroups,
            Self::EvictMember(_) => RequestKind::EvictMember,
            Self::Step(_) => RequestKind::Step,
        }
    }
}

/// How a request ended, for what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Answered as asked.
    Ok,
    /// Refused for something that the client can mend.
    ClientError,
    /// Refused or given up for something that the broker or its machine is short of or has lost.
    ServerError,
    /// Sent back because others come first.
    Throttled,
}

impl Ending {
    /// All of them, the gravest last.
    pub const ALL: [Self; 4] = [Self::Ok, Self::ClientError, Self::Throttled, Self::ServerError];

    /// Name for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::Throttled => "throttled",
        }
    }

    /// Its place in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        match self {
            Self::Ok => 0,
            Self::ClientError => 1,
            Self::Throttled => 2,
            Self::ServerError => 3,
        }
    }

    /// What this error says about the end of a request.
    pub const fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Internal
            | ErrorCode::StorageFailed
            | ErrorCode::StorageFull
            | ErrorCode::DataCorrupt => Self::ServerError,
            ErrorCode::Backpressure | ErrorCode::DeadlineExceeded | ErrorCode::Draining => Self::Throttled,
            _ => Self::ClientError,
        }
    }

    /// How a request with this reply ended: as its gravest item did.
    pub fn of_reply(reply: &Reply) -> Self {
        let mut gravest = Self::Ok;
        each_error(reply, |error| {
            let ending = Self::of(error.code);
            if ending.index() > gravest.index() {
                gravest = ending;
            }
        });
        gravest
    }
}

/// Calls `look` with every error in a reply, be it for the whole request or for an item.
pub fn each_error(reply: &Reply, look: impl FnMut(&ApiError)) {
    fn items<'a, T: 'a>(
        results: impl IntoIterator<Item = &'a Result<T, ApiError>>,
        look: impl FnMut(&ApiError),
    ) {
        results
            .into_iter()
            .filter_map(|item| item.as_ref().err())
            .for_each(look);
    }
    let mut look = look;
    match reply {
        Err(error) => look(error),
        Ok(Response::Metadata(answer)) => items(answer.topics.iter().map(|(_, item)| item), look),
        Ok(Response::ListOffsets(listed)) => items(listed, look),
        Ok(Response::TrimTopic(trimmed)) => items(trimmed, look),
        Ok(Response::Produce(produced)) => items(&produced.partitions, look),
        Ok(Response::Fetch(fetched)) => items(&fetched.partitions, look),
        Ok(Response::FetchOffsets(offsets)) => items(offsets, look),
        Ok(
            Response::CreateTopic(_)
            | Response::AlterTopic(_)
            | Response::DeleteTopic(_)
            | Response::DescribeTopic(_)
            | Response::ListTopics(_)
            | Response::InitProducer(_)
            | Response::CommitOffsets(_)
            | Response::DescribeCluster(_)
            | Response::GroupHeartbeat(_)
            | Response::CloseConsumer(_)
            | Response::ProposeAssignment(_)
            | Response::CreateGroup(_)
            | Response::AlterGroup(_)
            | Response::DeleteGroup
            | Response::DescribeGroup(_)
            | Response::ListGroups(_)
            | Response::EvictMember(_)
            | Response::Step(_),
        ) => {}
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
    /// To [`Request::DescribeCluster`].
    DescribeCluster(Box<DescribedCluster>),
    /// To [`Request::AlterTopic`].
    AlterTopic(AlteredTopic),
    /// To [`Request::TrimTopic`]: one per partition asked for.
    TrimTopic(Vec<Result<Trimmed, ApiError>>),
    /// To [`Request::GroupHeartbeat`].
    GroupHeartbeat(Box<Membership>),
    /// To [`Request::CloseConsumer`].
    CloseConsumer(ClosedConsumer),
    /// To [`Request::ProposeAssignment`]: the epoch of the group.
    ProposeAssignment(u32),
    /// To [`Request::CreateGroup`].
    CreateGroup(CreatedGroup),
    /// To [`Request::AlterGroup`].
    AlterGroup(AlteredGroup),
    /// To [`Request::DeleteGroup`].
    DeleteGroup,
    /// To [`Request::DescribeGroup`].
    DescribeGroup(Box<DescribedGroup>),
    /// To [`Request::ListGroups`].
    ListGroups(ListedGroups),
    /// To [`Request::EvictMember`].
    EvictMember(Evicted),
    /// To [`Request::Step`].
    Step(Stepped),
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

/// Who is at the other end of a connection. A clone is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The connection.
    pub connection: ConnectionId,
    /// Its address as text, without the port.
    pub host: Arc<str>,
    /// Name and version of its software, in its own words and cut; may be empty.
    pub software: Arc<str>,
}

/// The broker as a protocol sees it.
pub trait Service: Send + Sync + 'static {
    /// Takes a request in. Synchronous: produces of one connection keep the order in which they are handed in.
    fn handle(&self, request: Request, from: &Peer) -> Outcome;

    /// A connection from which requests may have come has ended, however it did; also because the broker stops. Called once,
    /// when no request can come from it any more and none of its heartbeats waits. Reads may still be answered.
    fn disconnected(&self, connection: ConnectionId);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_endings_stand_at_their_index() {
        for (at, kind) in RequestKind::ALL.iter().enumerate() {
            assert_eq!(kind.index(), at, "{}", kind.name());
        }
        for (at, ending) in Ending::ALL.iter().enumerate() {
            assert_eq!(ending.index(), at, "{}", ending.name());
        }
    }

    #[test]
    fn a_request_ends_as_its_gravest_item() {
        let error = |code| Err(ApiError::new(code, "x"));
        let reply = |items| Ok(Response::ListOffsets(items));
        let codes = [
            ErrorCode::UnknownTopicOrPartition,
            ErrorCode::StorageFailed,
            ErrorCode::Backpressure,
        ];
        assert_eq!(
            Ending::of_reply(&reply(codes.map(error).into())),
            Ending::ServerError
        );
        assert_eq!(
            Ending::of_reply(&reply(vec![error(codes[0])])),
            Ending::ClientError
        );
        assert_eq!(Ending::of_reply(&reply(Vec::new())), Ending::Ok);
        assert_eq!(
            Ending::of_reply(&Err(ApiError::new(codes[2], "x"))),
            Ending::Throttled
        );
    }
}
