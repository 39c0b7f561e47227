//! What a member of a group says to the broker, request by request. Nothing here joins, waits or heartbeats by itself.

use std::sync::Arc;
use std::time::Duration;

use super::admin::{decode, offset, topic_id, unexpected};
use super::groups::{OffsetToCommit, items_to_commit};
use super::link::Repeat;
use super::{Client, Error};
use crate::model::{GroupState, Offset, PartitionId, Timestamp, TopicId};
use crate::pb::v1 as pb;
use crate::pb::v1::{request::Body as RequestBody, response::Body as ResponseBody};

/// A partition of a topic, by both of its names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Its id.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
}

/// Who asks, as a member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Its id, another one for every life: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub member_id: String,
    /// Its epoch, as the last heartbeat told it; 0: it joins.
    pub member_epoch: u32,
    /// Its name, if it is a static member.
    pub instance_id: Option<String>,
}

/// A heartbeat: joins, says that a member is alive, tells what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupHeartbeat {
    /// The group.
    pub group: String,
    /// Who.
    pub member: GroupMember,
    /// Of the last answer; 0: answer at once.
    pub revision: u64,
    /// For operators; at most 256 bytes.
    pub client_id: String,
    /// How long to wait for news. Cut by the broker at half of the session timeout.
    pub max_wait: Duration,
    /// What the member wants to read; needed to join. `None`: as before.
    pub subscription: Option<Subscription>,
    /// All that the member holds; `None`: no news. What is being revoked and not in here is released.
    pub owned: Option<Vec<TopicPartition>>,
}

/// What a member wants to read: at least one topic or pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Names of topics, also of such that do not exist yet.
    pub topics: Vec<String>,
    /// Globs over names of topics: `*` any text, `?` one character.
    pub patterns: Vec<String>,
}

/// A member as it is to be from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// For the next requests.
    pub member_epoch: u32,
    /// Of members and subscriptions; ahead of the member's while the group moves.
    pub group_epoch: u32,
    /// For the next heartbeat.
    pub revision: u64,
    /// Member id of the leader.
    pub leader_id: String,
    /// Whether it is the leader.
    pub is_leader: bool,
    /// What it has to do.
    pub role: MemberRole,
    /// How the group is.
    pub state: GroupState,
    /// How often to send a heartbeat that does not wait.
    pub heartbeat: Duration,
    /// Who is not heard of for so long is removed.
    pub session_timeout: Duration,
    /// Who does not release what is revoked in so long is removed.
    pub handoff_timeout: Duration,
    /// An assignment is wanted, see [`Client::propose_assignment`].
    pub proposal_wanted: Option<ProposalWanted>,
    /// All that it is to hold.
    pub assigned: Vec<AssignedPartition>,
    /// What it is to release.
    pub revoking: Vec<TopicPartition>,
}

/// What a member has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberRole {
    /// To read partitions.
    Active,
    /// To wait until a partition becomes free.
    Standby {
        /// Its place in the line, from 1.
        rank: u32,
        /// Why, in words; empty where the broker does not say.
        reason: String,
    },
}

/// A partition that a member is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignedPartition {
    /// Which.
    pub partition: TopicPartition,
    /// Where the group goes on; `None`: nothing was committed.
    pub committed: Option<Offset>,
    /// Records below may have been handed to an earlier holder; `None`: none was.
    pub maybe_seen_upto: Option<Offset>,
}

/// What a leader needs to propose an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposalWanted {
    /// To be named by the proposal.
    pub group_epoch: u32,
    /// So long from the answer; then the broker assigns.
    pub deadline: Duration,
    /// The members.
    pub members: Vec<ProposalMember>,
    /// To be given to exactly one member each.
    pub partitions: Vec<TopicPartition>,
}

/// A member, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposalMember {
    /// Its id.
    pub member_id: String,
    /// Its name, if it is a static member.
    pub instance_id: Option<String>,
    /// What it says about itself.
    pub client_id: String,
    /// Topics that it subscribes to, its patterns resolved: it may be given these only.
    pub topics: Vec<String>,
    /// What it holds now.
    pub held: Vec<TopicPartition>,
}

/// How a consumer was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedConsumer {
    /// When, by the broker's clock.
    pub at: Timestamp,
    /// False: it is a static member, and its place is kept until its session ends.
    pub left: bool,
}

impl Client {
    /// Sends one heartbeat, once: whether and when to send the next is the caller's to decide, with what the error says.
    ///
    /// # Errors
    /// `Broker` with `UNKNOWN_MEMBER_ID` or `FENCED_MEMBER_EPOCH` (join again under a new member id), `FENCED_INSTANCE_ID`
    /// (stop), `UNRELEASED_INSTANCE_ID`, `GROUP_FULL`, `INVALID_NAME`, `INVALID_ARGUMENT`; `Connect`, `Disconnected` and
    /// `Timeout`, after which the same heartbeat may be sent again.
    pub async fn group_heartbeat(&self, beat: GroupHeartbeat) -> Result<Membership, Error> {
        self.group_heartbeat_within(beat, self.link.config.request_timeout)
            .await
    }

    /// [`group_heartbeat`](Self::group_heartbeat) with its own timeout beside what it is to wait.
    pub(super) async fn group_heartbeat_within(
        &self,
        beat: GroupHeartbeat,
        timeout: Duration,
    ) -> Result<Membership, Error> {
        const WHAT: &str = "group heartbeat";
        let timeout = timeout.saturating_add(beat.max_wait);
        let body = RequestBody::GroupHeartbeat(beat.into());
        match self.link.call_once(WHAT, body, timeout).await? {
            ResponseBody::GroupHeartbeat(answer) => answer.try_into(),
            other => Err(unexpected(WHAT, &other)),
        }
    }

    /// Keeps how far a group is, for a member that holds the partitions: all of the offsets or none. Returns when.
    ///
    /// # Errors
    /// `Broker` with `STALE_MEMBER_EPOCH` (try again with the epoch of the next heartbeat), `UNKNOWN_MEMBER_ID`,
    /// `FENCED_MEMBER_EPOCH`, `FENCED_INSTANCE_ID`, and those of [`commit_offsets`](Self::commit_offsets).
    pub async fn commit_offsets_as(
        &self,
        group: &str,
        member: &GroupMember,
        offsets: Vec<OffsetToCommit>,
    ) -> Result<Timestamp, Error> {
        self.commit(group, Some(member.into()), offsets).await
    }

    /// Commits and leaves in one step, all or nothing; no offsets are fine. Safe to repeat: who has left already is answered
    /// with `UNKNOWN_MEMBER_ID`.
    ///
    /// # Errors
    /// As [`commit_offsets_as`](Self::commit_offsets_as).
    pub async fn close_consumer(
        &self,
        group: &str,
        member: &GroupMember,
        offsets: Vec<OffsetToCommit>,
    ) -> Result<ClosedConsumer, Error> {
        const WHAT: &str = "close consumer";
        let body = RequestBody::CloseConsumer(pb::CloseConsumerRequest {
            group: group.to_owned(),
            member: Some(member.into()),
            offsets: items_to_commit(offsets),
        });
        match self.link.call(WHAT, body, Repeat::Safe).await? {
            ResponseBody::CloseConsumer(closed) => Ok(ClosedConsumer {
                at: Timestamp(closed.committed_ms),
                left: closed.left,
            }),
            other => Err(unexpected(WHAT, &other)),
        }
    }

    /// Assigns, as the leader of a group with `assignor=leader` that was asked to: member ids, and what each is to hold.
    ///
    /// # Errors
    /// `Broker` with `INVALID_ASSIGNMENT` and the reason, `UNKNOWN_MEMBER_ID`, `STALE_MEMBER_EPOCH` or `FENCED_MEMBER_EPOCH`.
    pub async fn propose_assignment(
        &self,
        group: &str,
        member: &GroupMember,
        group_epoch: u32,
        assignments: Vec<(String, Vec<TopicPartition>)>,
    ) -> Result<(), Error> {
        const WHAT: &str = "propose assignment";
        let assignments = assignments.into_iter();
        let body = RequestBody::ProposeAssignment(pb::ProposeAssignmentRequest {
            group: group.to_owned(),
            member: Some(member.into()),
            group_epoch,
            assignments: assignments
                .map(|(member_id, partitions)| pb::MemberAssignment {
                    member_id,
                    partitions: by_topic(partitions),
                })
                .collect(),
        });
        match self.link.call(WHAT, body, Repeat::OnlyIfNotDone).await? {
            ResponseBody::ProposeAssignment(_) => Ok(()),
            other => Err(unexpected(WHAT, &other)),
        }
    }
}

impl From<&GroupMember> for pb::GroupMember {
    fn from(member: &GroupMember) -> Self {
        Self {
            member_id: member.member_id.clone(),
            member_epoch: member.member_epoch,
            instance_id: member.instance_id.clone().unwrap_or_default(),
        }
    }
}

impl From<GroupHeartbeat> for pb::GroupHeartbeatRequest {
    fn from(beat: GroupHeartbeat) -> Self {
        let subscription = |Subscription { topics, patterns }| pb::Subscription { topics, patterns };
        Self {
            group: beat.group,
            member_id: beat.member.member_id,
            member_epoch: beat.member.member_epoch,
            revision: beat.revision,
            instance_id: beat.member.instance_id.unwrap_or_default(),
            client_id: beat.client_id,
            max_wait_ms: u32::try_from(beat.max_wait.as_millis()).unwrap_or(u32::MAX),
            subscription: beat.subscription.map(subscription),
            owned: beat.owned.map(|owned| pb::OwnedPartitions {
                topics: by_topic(owned),
            }),
        }
    }
}

impl TryFrom<pb::GroupHeartbeatResponse> for Membership {
    type Error = Error;

    fn try_from(answer: pb::GroupHeartbeatResponse) -> Result<Self, Error> {
        let role = member_role(answer.role(), answer.standby_rank, answer.standby_reason.clone());
        let state = group_state(answer.group_state())?;
        let mut assigned = Vec::new();
        for topic in answer.assigned {
            let name = Arc::from(topic.topic);
            let topic_id = topic_id(&topic.topic_id)?;
            for found in topic.partitions {
                let checked = |value: Option<i64>| value.map(|value| offset("an assignment", value));
                assigned.push(AssignedPartition {
                    partition: TopicPartition {
                        topic: Arc::clone(&name),
                        topic_id,
                        partition: PartitionId(found.partition),
                    },
                    committed: checked(found.committed_offset).transpose()?,
                    maybe_seen_upto: checked(found.maybe_seen_upto).transpose()?,
                });
            }
        }
        Ok(Self {
            member_epoch: answer.member_epoch,
            group_epoch: answer.group_epoch,
            revision: answer.revision,
            leader_id: answer.leader_id,
            is_leader: answer.is_leader,
            role: role?,
            state,
            heartbeat: millis(answer.heartbeat_ms),
            session_timeout: millis(answer.session_timeout_ms),
            handoff_timeout: millis(answer.handoff_timeout_ms),
            proposal_wanted: answer.proposal_wanted.map(TryFrom::try_from).transpose()?,
            assigned,
            revoking: one_by_one(answer.revoking)?,
        })
    }
}

impl TryFrom<pb::ProposalWanted> for ProposalWanted {
    type Error = Error;

    fn try_from(wanted: pb::ProposalWanted) -> Result<Self, Error> {
        let member = |member: pb::ProposalMember| {
            Ok(ProposalMember {
                member_id: member.member_id,
                instance_id: given(member.instance_id),
                client_id: member.client_id,
                topics: member.topics,
                held: one_by_one(member.held)?,
            })
        };
        Ok(Self {
            group_epoch: wanted.group_epoch,
            deadline: millis(wanted.deadline_ms),
            members: wanted
                .members
                .into_iter()
                .map(member)
                .collect::<Result<_, Error>>()?,
            partitions: one_by_one(wanted.partitions)?,
        })
    }
}

pub(super) fn member_role(role: pb::MemberRole, rank: u32, reason: String) -> Result<MemberRole, Error> {
    match role {
        pb::MemberRole::Active => Ok(MemberRole::Active),
        pb::MemberRole::Standby => Ok(MemberRole::Standby { rank, reason }),
        pb::MemberRole::Unspecified => Err(decode("a member", "its role is not one that this client knows")),
    }
}

pub(super) fn group_state(state: pb::GroupState) -> Result<GroupState, Error> {
    match state {
        pb::GroupState::GroupEmpty => Ok(GroupState::Empty),
        pb::GroupState::GroupAssigning => Ok(GroupState::Assigning),
        pb::GroupState::GroupReconciling => Ok(GroupState::Reconciling),
        pb::GroupState::GroupStable => Ok(GroupState::Stable),
        pb::GroupState::Unspecified => Err(decode("a group", "its state is not one that this client knows")),
    }
}

/// Partitions by topic, in the order in which the topics come.
fn by_topic(partitions: Vec<TopicPartition>) -> Vec<pb::TopicPartitions> {
    let mut topics: Vec<pb::TopicPartitions> = Vec::new();
    for partition in partitions {
        let id = partition.topic_id.as_bytes();
        match topics.iter_mut().find(|topic| topic.topic_id == id[..]) {
            Some(topic) => topic.partitions.push(partition.partition.0),
            None => topics.push(pb::TopicPartitions {
                topic: partition.topic.as_ref().to_owned(),
                topic_id: bytes::Bytes::copy_from_slice(id),
                partitions: vec![partition.partition.0],
            }),
        }
    }
    topics
}

pub(super) fn one_by_one(topics: Vec<pb::TopicPartitions>) -> Result<Vec<TopicPartition>, Error> {
    let mut partitions = Vec::new();
    for topic in topics {
        let name: Arc<str> = Arc::from(topic.topic);
        let topic_id = topic_id(&topic.topic_id)?;
        let indexes = topic.partitions.into_iter();
        partitions.extend(indexes.map(|index| TopicPartition {
            topic: Arc::clone(&name),
            topic_id,
            partition: PartitionId(index),
        }));
    }
    Ok(partitions)
}

pub(super) fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}
