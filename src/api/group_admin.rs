//! Groups as operators see them.

use super::{ConfigEntry, MemberRole, Subscription, TopicPartitions};
use crate::model::{GroupState, LogBounds, Offset, PartitionKey, Timestamp, TopicName};

/// Makes a group; one that exists is left as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateGroup {
    /// Its name; not checked yet.
    pub group: String,
    /// Names and values of its settings.
    pub configs: Vec<(String, String)>,
}

/// A group that exists now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedGroup {
    /// False: it was there already.
    pub created: bool,
    /// All of its settings.
    pub configs: Vec<ConfigEntry>,
}

/// Changes the settings of a group: all of what is asked for, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlterGroup {
    /// Its name; not checked yet.
    pub group: String,
    /// Names and values of settings that are the group's own from now on.
    pub set: Vec<(String, String)>,
    /// Names of settings that go back to the default.
    pub unset: Vec<String>,
}

/// The settings of a group from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlteredGroup {
    /// All of them.
    pub configs: Vec<ConfigEntry>,
    /// False: it was so before.
    pub changed: bool,
}

/// Removes a group without members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteGroup {
    /// Its name; not checked yet.
    pub group: String,
}

/// Asks for everything about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeGroup {
    /// Its name; not checked yet.
    pub group: String,
}

/// Everything about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedGroup {
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
    /// Member id of the leader, if there are members.
    pub leader_id: Option<String>,
    /// Members that hold nothing and are to have nothing.
    pub idle_members: u32,
    /// Partitions that nobody holds.
    pub unassigned_partitions: u32,
    /// What to do about it, in words; may be empty.
    pub hint: String,
    /// All settings.
    pub configs: Vec<ConfigEntry>,
    /// The members in the order in which they joined.
    pub members: Vec<MemberDescription>,
    /// Subscribed or committed partitions, by topic name and index.
    pub partitions: Vec<GroupPartition>,
    /// Since when there is no member; `None`: there is one, or it is not known.
    pub empty_since: Option<Timestamp>,
}

/// Everything about a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its id.
    pub member_id: String,
    /// Its name, if it is static.
    pub instance_id: Option<String>,
    /// Its own words.
    pub client_id: String,
    /// Address that it joined from.
    pub host: String,
    /// What it wants to read.
    pub subscription: Subscription,
    /// Its epoch.
    pub member_epoch: u32,
    /// What it is to hold.
    pub assigned: Vec<TopicPartitions>,
    /// What it is to release.
    pub revoking: Vec<TopicPartitions>,
    /// What it has to do.
    pub role: MemberRole,
    /// Milliseconds since it was heard of.
    pub last_heartbeat_ms: u64,
    /// Whether it is the leader.
    pub is_leader: bool,
}

/// Everything about a partition of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPartition {
    /// Name of the topic.
    pub topic: TopicName,
    /// The partition.
    pub key: PartitionKey,
    /// Where the group is; `None`: nothing was committed.
    pub committed: Option<Offset>,
    /// Where the partition begins and ends.
    pub bounds: LogBounds,
    /// Records that are there and not processed; `None`: nothing was committed.
    pub lag: Option<u64>,
    /// Milliseconds since the oldest of them was appended; `None`: not known.
    pub lag_ms: Option<u64>,
    /// Member id of who holds it.
    pub member_id: Option<String>,
    /// Whether it is to be released.
    pub is_revoking: bool,
    /// Milliseconds for which its holder has not got on although there are records, if that is too long.
    pub stalled_ms: Option<u64>,
}

/// Pages through the groups in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListGroups {
    /// Empty at first, then what came back.
    pub cursor: String,
    /// Most groups of the page.
    pub count: u32,
    /// Glob with `*` and `?`; empty: all.
    pub matching: String,
}

/// A page of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroups {
    /// The groups.
    pub groups: Vec<GroupListing>,
    /// Empty: the end.
    pub cursor: String,
}

/// A group in a list.
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

/// Removes a member at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvictMember {
    /// The group; not checked yet.
    pub group: String,
    /// Who.
    pub member: EvictedMember,
    /// Why, in words; at most 256 bytes.
    pub reason: String,
}

/// How an operator names a member; not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvictedMember {
    /// By its member id.
    Member(String),
    /// By its instance id.
    Instance(String),
}

/// A member that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// Its member id.
    pub member_id: String,
    /// Epoch of the group from now on.
    pub group_epoch: u32,
}
