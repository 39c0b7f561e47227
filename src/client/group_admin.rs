//! Groups as operators see them: listing, describing, changing, removing.

use std::time::Duration;

use super::admin::{TopicConfigEntry, config_entries, decode, offset, topic_id, unexpected};
use super::link::Repeat;
use super::members::{MemberRole, Subscription, TopicPartition, given, group_state, member_role, one_by_one};
use super::{Client, Error};
use crate::model::{GroupState, Offset, PartitionId, Timestamp};
use crate::pb::v1 as pb;
use crate::pb::v1::{request::Body as RequestBody, response::Body as ResponseBody};

/// A group that exists now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedGroup {
    /// False: it was there already, and is as it was.
    pub created: bool,
    /// Its settings, defaults included.
    pub configs: Vec<TopicConfigEntry>,
}

/// The settings of a group, changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlteredGroup {
    /// All of them from now on.
    pub configs: Vec<TopicConfigEntry>,
    /// False: it was so before.
    pub changed: bool,
}

/// Everything about one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its name.
    pub group: String,
    /// How it is.
    pub state: GroupState,
    /// Of members and subscriptions.
    pub group_epoch: u32,
    /// That the assignment was made for.
    pub assignment_epoch: u32,
    /// Who assigns.
    pub assignor: String,
    /// Member id of the leader; `None` without members.
    pub leader_id: Option<String>,
    /// Members that hold nothing and are to have nothing.
    pub idle_members: u32,
    /// Partitions that nobody holds.
    pub unassigned_partitions: u32,
    /// What to do about it; may be empty.
    pub hint: String,
    /// Its settings, defaults included.
    pub configs: Vec<TopicConfigEntry>,
    /// Its members in the order in which they joined.
    pub members: Vec<GroupMemberDescription>,
    /// Subscribed or committed partitions, by topic name and index.
    pub partitions: Vec<GroupPartitionDescription>,
    /// Since when there is no member; `None`: there is one, or it is not known.
    pub empty_since: Option<Timestamp>,
}

/// Everything about one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMemberDescription {
    /// Its id.
    pub member_id: String,
    /// Its name, if it is a static member.
    pub instance_id: Option<String>,
    /// What it says about itself.
    pub client_id: String,
    /// Address that it joined from.
    pub host: String,
    /// What it wants to read.
    pub subscription: Subscription,
    /// Its epoch.
    pub member_epoch: u32,
    /// What it is to hold.
    pub assigned: Vec<TopicPartition>,
    /// What it is to release.
    pub revoking: Vec<TopicPartition>,
    /// What it has to do.
    pub role: MemberRole,
    /// How long ago it was heard of.
    pub last_heartbeat: Duration,
    /// Whether it is the leader.
    pub is_leader: bool,
}

/// One partition of a described group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPartitionDescription {
    /// Which.
    pub partition: TopicPartition,
    /// Where the group is; `None`: nothing was committed.
    pub committed: Option<Offset>,
    /// First offset kept.
    pub log_start: Offset,
    /// End of what consumers see, exclusive.
    pub high_watermark: Offset,
    /// Records that are there and not processed; `None`: nothing was committed.
    pub lag: Option<u64>,
    /// Age of the oldest of them; `None`: not known.
    pub lag_time: Option<Duration>,
    /// Member id of who holds it.
    pub member_id: Option<String>,
    /// Whether it is to be released.
    pub is_revoking: bool,
    /// For how long its holder has not got on although there are records, if that is longer than `progress.timeout.ms`.
    pub stalled: Option<Duration>,
}

impl GroupPartitionDescription {
    /// First and last offset of what was removed before the group processed it.
    pub fn lost(&self) -> Option<(Offset, Offset)> {
        let first = self.committed?;
        let last = Offset::new(self.log_start.get() - 1)?;
        (first <= last).then_some((first, last))
    }
}

/// Which groups are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListGroupsOptions {
    /// Glob: `*` any text, `?` one character; empty: all.
    pub pattern: String,
    /// Groups per page; 0: the broker's default.
    pub page: u32,
}

/// One group of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// Its name.
    pub group: String,
    /// How it is.
    pub state: GroupState,
    /// Its members.
    pub members: u32,
    /// Topics that it subscribes to or has committed in.
    pub topics: u32,
    /// Records that are there and not processed, of all partitions with a committed offset.
    pub lag: u64,
}

/// One page of a list of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPage {
    /// The groups.
    pub groups: Vec<GroupListing>,
    /// Where the next page begins; `None` at the end.
    pub cursor: Option<String>,
}

/// Which member is evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evict {
    /// The one with this member id.
    Member(String),
    /// The static one with this instance id.
    Instance(String),
}

/// A member that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvictedMember {
    /// Its member id.
    pub member_id: String,
    /// Epoch of the group from now on.
    pub group_epoch: u32,
}

impl Client {
    /// Makes a group before anybody joins it, with names and values of settings. One that exists is left as it is.
    ///
    /// # Errors
    /// `Broker` with `INVALID_NAME`, `INVALID_CONFIG` or `LIMIT_EXCEEDED`.
    pub async fn create_group(
        &self,
        group: &str,
        configs: Vec<(String, String)>,
    ) -> Result<CreatedGroup, Error> {
        const WHAT: &str = "create group";
        let body = RequestBody::CreateGroup(pb::CreateGroupRequest {
            group: group.to_owned(),
            configs: config_entries(configs),
        });
        match self.link.call(WHAT, body, Repeat::Safe).await? {
            ResponseBody::CreateGroup(created) => Ok(CreatedGroup {
                created: created.created,
                configs: created.configs.into_iter().map(TopicConfigEntry::from).collect(),
            }),
            other => Err(unexpected(WHAT, &other)),
        }
    }

    /// Changes the settings of a group, all or nothing: names and values of those that are its own from now on, and names of
    /// those that go back to the default.
    ///
    /// # Errors
    /// `Broker` with `UNKNOWN_GROUP` or `INVALID_CONFIG`. After `Disconnected` or `Timeout` it may be changed.
    pub async fn alter_group(
        &self,
        group: &str,
        set: Vec<(String, String)>,
        unset: Vec<String>,
    ) -> Result<AlteredGroup, Error> {
        const WHAT: &str = "alter group";
        let body = RequestBody::AlterGroup(pb::AlterGroupRequest {
            group: group.to_owned(),
            set: config_entries(set),
            unset,
        });
        // A second attempt could undo what somebody else has set in between.
        match self.link.call(WHAT, body, Repeat::OnlyIfNotDone).await? {
            ResponseBody::AlterGroup(altered) => Ok(AlteredGroup {
                configs: altered.configs.into_iter().map(TopicConfigEntry::from).collect(),
                changed: altered.changed,
            }),
            other => Err(unexpected(WHAT, &other)),
        }
    }

    /// Removes a group without members, with its offsets and settings.
    ///
    /// # Errors
    /// `Broker` with `UNKNOWN_GROUP` or `GROUP_NOT_EMPTY`. After `Disconnected` or `Timeout` it may be gone.
    pub async fn delete_group(&self, group: &str) -> Result<(), Error> {
        const WHAT: &str = "delete group";
        let body = RequestBody::DeleteGroup(pb::DeleteGroupRequest {
            group: group.to_owned(),
        });
        // A second attempt could delete a group that somebody has begun again in between.
        match self.link.call(WHAT, body, Repeat::OnlyIfNotDone).await? {
            ResponseBody::DeleteGroup(pb::DeleteGroupResponse {}) => Ok(()),
            other => Err(unexpected(WHAT, &other)),
        }
    }

    /// Everything about one group.
    ///
    /// # Errors
    /// `Broker` with `UNKNOWN_GROUP` or `INVALID_NAME`.
    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription, Error> {
        const WHAT: &str = "describe group";
        let body = RequestBody::DescribeGroup(pb::DescribeGroupRequest {
            group: group.to_owned(),
        });
        match self.link.call(WHAT, body, Repeat::Safe).await? {
            ResponseBody::DescribeGroup(described) => described.try_into(),
            other => Err(unexpected(WHAT, &other)),
        }
    }

    /// One page of the groups; begin with `cursor` `None` and go on until it comes back `None`.
    ///
    /// # Errors
    /// Those of every request.
    pub async fn list_groups_page(
        &self,
        options: &ListGroupsOptions,
        cursor: Option<String>,
    ) -> Result<GroupPage, Error> {
        const WHAT: &str = "list groups";
        let body = RequestBody::ListGroups(pb::ListGroupsRequest {
            cursor: cursor.unwrap_or_default(),
            count: options.page,
            r#match: options.pattern.clone(),
        });
        match self.link.call(WHAT, body, Repeat::Safe).await? {
            ResponseBody::ListGroups(listed) => listed.try_into(),
            other => Err(unexpected(WHAT, &other)),
        }
    }

    /// All groups, page by page; each that exists all the time is in it exactly once.
    ///
    /// # Errors
    /// Those of every request.
    pub async fn list_groups(&self, options: &ListGroupsOptions) -> Result<Vec<GroupListing>, Error> {
        let mut groups = Vec::new();
        let mut cursor = None;
        loop {
            let page = self.list_groups_page(options, cursor).await?;
            groups.extend(page.groups);
            match page.cursor {
                None => return Ok(groups),
                next => cursor = next,
            }
        }
    }

    /// Removes a member at once; what it held goes to the others. `reason` is for the broker's log: at most 256 bytes.
    ///
    /// # Errors
    /// `Broker` with `UNKNOWN_GROUP` or `UNKNOWN_MEMBER_ID`. After `Disconnected` or `Timeout` it may be gone.
    pub async fn evict_member(&self, group: &str, who: Evict, reason: &str) -> Result<EvictedMember, Error> {
        const WHAT: &str = "evict member";
        let (member_id, instance_id) = match who {
            Evict::Member(id) => (id, String::new()),
            Evict::Instance(id) => (String::new(), id),
        };
        let body = RequestBody::EvictMember(pb::EvictMemberRequest {
            group: group.to_owned(),
            member_id,
            instance_id,
            reason: reason.to_owned(),
        });
        // A second attempt could meet another member with the same instance id.
        match self.link.call(WHAT, body, Repeat::OnlyIfNotDone).await? {
            ResponseBody::EvictMember(evicted) => Ok(EvictedMember {
                member_id: evicted.member_id,
                group_epoch: evicted.group_epoch,
            }),
            other => Err(unexpected(WHAT, &other)),
        }
    }
}

impl TryFrom<pb::DescribeGroupResponse> for GroupDescription {
    type Error = Error;

    fn try_from(group: pb::DescribeGroupResponse) -> Result<Self, Error> {
        let state = group_state(group.state())?;
        let members = group.members.into_iter().map(TryFrom::try_from);
        let partitions = group.partitions.into_iter().map(TryFrom::try_from);
        Ok(Self {
            group: group.group,
            state,
            group_epoch: group.group_epoch,
            assignment_epoch: group.assignment_epoch,
            assignor: group.assignor,
            leader_id: given(group.leader_id),
            idle_members: group.idle_members,
            unassigned_partitions: group.unassigned_partitions,
            hint: group.hint,
            configs: group.configs.into_iter().map(TopicConfigEntry::from).collect(),
            members: members.collect::<Result<_, Error>>()?,
            partitions: partitions.collect::<Result<_, Error>>()?,
            empty_since: group.empty_since_ms.map(Timestamp),
        })
    }
}

impl TryFrom<pb::GroupMemberDescription> for GroupMemberDescription {
    type Error = Error;

    fn try_from(member: pb::GroupMemberDescription) -> Result<Self, Error> {
        let role = member_role(member.role(), member.standby_rank, String::new())?;
        let pb::Subscription { topics, patterns } = member.subscription.unwrap_or_default();
        Ok(Self {
            member_id: member.member_id,
            instance_id: given(member.instance_id),
            client_id: member.client_id,
            host: member.host,
            subscription: Subscription { topics, patterns },
            member_epoch: member.member_epoch,
            assigned: one_by_one(member.assigned)?,
            revoking: one_by_one(member.revoking)?,
            role,
            last_heartbeat: Duration::from_millis(member.last_heartbeat_ms),
            is_leader: member.is_leader,
        })
    }
}

impl TryFrom<pb::GroupPartitionDescription> for GroupPartitionDescription {
    type Error = Error;

    fn try_from(found: pb::GroupPartitionDescription) -> Result<Self, Error> {
        const WHAT: &str = "describe group";
        let place = found
            .partition
            .ok_or_else(|| decode(WHAT, "an offset without its partition"))?;
        let number = |value: i64| u64::try_from(value).map_err(|_| decode(WHAT, "a lag is negative"));
        Ok(Self {
            partition: TopicPartition {
                topic_id: topic_id(&place.topic_id)?,
                topic: place.topic.into(),
                partition: PartitionId(place.partition),
            },
            committed: found
                .committed_offset
                .map(|value| offset(WHAT, value))
                .transpose()?,
            log_start: offset(WHAT, found.log_start_offset)?,
            high_watermark: offset(WHAT, found.high_watermark)?,
            lag: found.lag.map(number).transpose()?,
            lag_time: found.lag_ms.map(number).transpose()?.map(Duration::from_millis),
            member_id: given(found.member_id),
            is_revoking: found.revoking,
            stalled: found.stalled_ms.map(Duration::from_millis),
        })
    }
}

impl TryFrom<pb::ListGroupsResponse> for GroupPage {
    type Error = Error;

    fn try_from(listed: pb::ListGroupsResponse) -> Result<Self, Error> {
        let listing = |group: pb::GroupListing| {
            Ok(GroupListing {
                state: group_state(group.state())?,
                group: group.group,
                members: group.members,
                topics: group.topics,
                lag: u64::try_from(group.lag).map_err(|_| decode("list groups", "a lag is negative"))?,
            })
        };
        Ok(Self {
            groups: listed
                .groups
                .into_iter()
                .map(listing)
                .collect::<Result<_, Error>>()?,
            cursor: given(listed.cursor),
        })
    }
}
