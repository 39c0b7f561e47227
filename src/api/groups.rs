//! Members of groups, and committed offsets.

use std::sync::Arc;
use std::time::Duration;

use super::{ApiError, TopicPartition};
use crate::model::{
    GroupState, LeaderEpoch, LogBounds, Offset, PartitionId, PartitionKey, Timestamp, TopicId, TopicName,
};

/// Partitions of one topic, named as in [`TopicPartition`]; answers have both the name and the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPartitions {
    /// Name of the topic; not checked yet. May be empty if there is an id.
    pub topic: Arc<str>,
    /// Id of the topic.
    pub topic_id: Option<TopicId>,
    /// Indexes of the partitions; ascending in answers.
    pub partitions: Vec<PartitionId>,
}

/// Who asks, as a member of a group; not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Its id.
    pub member_id: String,
    /// Its epoch, as it was told last.
    pub member_epoch: u32,
    /// If it is a static member: its name.
    pub instance_id: Option<String>,
}

/// A member joins, lives on, tells what it holds, and asks what it is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupHeartbeat {
    /// The group; not checked yet.
    pub group: String,
    /// Who it is, with its epoch; 0: it joins.
    pub member: GroupMember,
    /// What it knows; while this is in force there is nothing new. 0: answer at once.
    pub revision: u64,
    /// Its own words, for operators; not checked yet.
    pub client_id: String,
    /// How long to wait for news.
    pub max_wait: Duration,
    /// What it wants to read; `None`: as before.
    pub subscription: Option<Subscription>,
    /// All that it holds; `None`: no news.
    pub owned: Option<Vec<TopicPartitions>>,
}

/// What a member wants to read; not checked yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Names of topics.
    pub topics: Vec<String>,
    /// Globs over names of topics.
    pub patterns: Vec<String>,
}

/// Answer to a heartbeat: the member as it is to be from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// For its next requests.
    pub member_epoch: u32,
    /// Of members and subscriptions.
    pub group_epoch: u32,
    /// For its next heartbeat.
    pub revision: u64,
    /// Member id of the leader.
    pub leader_id: String,
    /// Whether it is the leader.
    pub is_leader: bool,
    /// What it has to do.
    pub role: MemberRole,
    /// How the group is.
    pub state: GroupState,
    /// How often it is to send a heartbeat that does not wait.
    pub heartbeat: Duration,
    /// When it is removed if nothing is heard of it.
    pub session_timeout: Duration,
    /// When it is removed if it does not release what is revoked.
    pub handoff_timeout: Duration,
    /// If it is to propose an assignment.
    pub proposal_wanted: Option<ProposalWanted>,
    /// All that it is to hold, by topic.
    pub assigned: Vec<AssignedTopic>,
    /// What it is to release, by topic.
    pub revoking: Vec<TopicPartitions>,
}

/// What a member has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberRole {
    /// To read partitions.
    Active,
    /// To wait: there are no partitions for it.
    Standby {
        /// Its place in the line, from 1.
        rank: u32,
        /// Why, in words.
        reason: String,
    },
}

/// Partitions of one topic that a member is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignedTopic {
    /// Name of the topic.
    pub topic: TopicName,
    /// Its id.
    pub topic_id: TopicId,
    /// The partitions, ascending.
    pub partitions: Vec<AssignedPartition>,
}

/// A partition that a member is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssignedPartition {
    /// Its index.
    pub partition: PartitionId,
    /// Where the group goes on; `None`: nothing was committed.
    pub committed: Option<Offset>,
    /// Records below may have been handed to an earlier holder; `None`: none was.
    pub maybe_seen_upto: Option<Offset>,
}

/// An assignment is wanted of the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposalWanted {
    /// For this epoch.
    pub group_epoch: u32,
    /// Until when.
    pub deadline: Duration,
    /// For these members.
    pub members: Vec<ProposalMember>,
    /// All of these partitions.
    pub partitions: Vec<TopicPartitions>,
}

/// A member, for a leader that proposes an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposalMember {
    /// Its id.
    pub member_id: String,
    /// Its name, if it is static.
    pub instance_id: Option<String>,
    /// Its own words.
    pub client_id: String,
    /// Topics that it may be given, its patterns resolved.
    pub topics: Vec<TopicName>,
    /// What it holds now.
    pub held: Vec<TopicPartitions>,
}

/// Commits and leaves, all or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseConsumer {
    /// The group; not checked yet.
    pub group: String,
    /// Who leaves.
    pub member: GroupMember,
    /// Its last commit; may be empty.
    pub offsets: Vec<OffsetToCommit>,
}

/// A consumer that is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedConsumer {
    /// When.
    pub at: Timestamp,
    /// False: it is a static member, and its place is kept.
    pub left: bool,
}

/// An assignment by the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposeAssignment {
    /// The group; not checked yet.
    pub group: String,
    /// The leader.
    pub member: GroupMember,
    /// The epoch that it is for.
    pub group_epoch: u32,
    /// Member ids and what each is to hold; not checked yet. Empty: the broker is to assign.
    pub assignments: Vec<(String, Vec<TopicPartitions>)>,
}

/// Keeps how far a group is: all of the offsets, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOffsets {
    /// The group; not checked yet.
    pub group: String,
    /// Who says so; `None`: a consumer that assigns itself.
    pub member: Option<GroupMember>,
    /// Where it is.
    pub offsets: Vec<OffsetToCommit>,
}

/// One partition of [`CommitOffsets`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetToCommit {
    /// The partition.
    pub partition: TopicPartition,
    /// Offset of the next record that the group wants; not checked yet.
    pub offset: i64,
    /// Epoch of the last record that was processed, if known.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Whatever the group wants to keep with it.
    pub metadata: String,
}

/// Asks how far a group is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchOffsets {
    /// The group; not checked yet.
    pub group: String,
    /// In these partitions; empty: everywhere it has committed.
    pub partitions: Vec<TopicPartition>,
}

/// How far a group is, as of one moment: one per partition asked for, in that order.
pub type FetchedOffsets = Vec<Result<GroupOffset, ApiError>>;

/// How far a group is in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOffset {
    /// Name of the topic.
    pub topic: TopicName,
    /// The partition.
    pub key: PartitionKey,
    /// What was committed; `None`: nothing.
    pub committed: Option<Committed>,
    /// Where the partition begins and ends, to tell how far the group is behind.
    pub bounds: LogBounds,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Offset of the next record that the group wants.
    pub offset: Offset,
    /// Epoch of the last record that was processed, if the group told.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The group's own words.
    pub metadata: Arc<str>,
    /// When it was committed.
    pub at: Timestamp,
}
