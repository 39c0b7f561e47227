//! What a group is: its members, what each holds and is to hold, and what follows from that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::assignor::Assignment;
use super::config::GroupConfig;
use crate::model::{Glob, GroupState, InstanceId, MemberId, PartitionId, PartitionKey, Timestamp, TopicId};

/// Partitions and the epoch since which they are held.
pub type Held = BTreeMap<PartitionKey, u32>;

/// What a member wants to read. Sets: the order in which a client lists topics means nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subscription {
    /// Names of topics.
    pub topics: BTreeSet<Arc<str>>,
    /// Globs over names of topics.
    pub patterns: BTreeSet<Arc<str>>,
}

/// What the membership of a group is counted as without anybody in it, in bytes of state: about what it takes in memory.
pub const MEMBERSHIP_STATE_BYTES: u64 = 256;

/// What a member is counted as beside its subscription and what it holds, in bytes of state.
pub const MEMBER_STATE_BYTES: u64 = 768;

/// What a name or a pattern in a subscription is counted as beside its text, in bytes of state.
pub const SUBSCRIBED_STATE_BYTES: u64 = 128;

/// What a topic is counted as that a member subscribes to where another one of its group subscribes to others, in bytes of state.
pub const MEANT_STATE_BYTES: u64 = 32;

/// What a partition that is to be held is counted as, in bytes of state: its target and its holder.
pub const TARGET_STATE_BYTES: u64 = 128;

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// When it joined, counted. A static member that comes back keeps its place.
    pub join: u64,
    /// Its name, if it is static.
    pub instance: Option<InstanceId>,
    /// Its own words.
    pub client_id: Arc<str>,
    /// Address that it joined from.
    pub host: Arc<str>,
    /// What it wants to read.
    pub subscription: Arc<Subscription>,
    /// The topics which that meant when it was looked up last.
    pub topics: Arc<BTreeSet<TopicId>>,
    /// What it holds and may read.
    pub assigned: Held,
    /// What it holds, is to release, and may only commit.
    pub revoking: Held,
    /// Its epoch as long as `revoking` is not empty.
    pub held_epoch: u32,
}

impl Member {
    /// Whether it holds a partition, be it one that it is to release.
    pub fn holds(&self, key: PartitionKey) -> bool {
        self.assigned.contains_key(&key) || self.revoking.contains_key(&key)
    }
}

/// The membership of a group. Everything here is stored.
// Invariant (EP12): a partition is in `assigned` or `revoking` of one member at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Its settings.
    pub config: GroupConfig,
    /// Changes with members, subscriptions and partitions; never goes back. 0: there never was a member.
    pub epoch: u32,
    /// The epoch that `target` was made for.
    pub assignment_epoch: u32,
    /// The topics that members subscribe to, with the numbers of partitions that `epoch` was made for.
    pub resolved: BTreeMap<TopicId, u32>,
    /// The members.
    pub members: BTreeMap<MemberId, Member>,
    /// Who is to hold what.
    pub target: Assignment,
    /// Number of the next join.
    pub next_join: u64,
    /// Since when there is no member; `None` while there is one.
    pub empty_since: Option<Timestamp>,
}

impl Membership {
    /// The epoch of a member: of the assignment, unless it has still to release something (EP5).
    pub fn member_epoch(&self, member: &Member) -> u32 {
        if member.revoking.is_empty() {
            self.assignment_epoch
        } else {
            member.held_epoch
        }
    }

    /// Takes note of whether there is somebody.
    pub(super) fn note_emptiness(&mut self, now: Timestamp) {
        if self.members.is_empty() {
            self.empty_since.get_or_insert(now);
        } else {
            self.empty_since = None;
        }
    }

    /// Who joined first of those who are there (LE1, LE2); a static member that comes back keeps its place (LE3).
    pub fn leader(&self) -> Option<&MemberId> {
        let first = self.members.iter().min_by_key(|(_, member)| member.join);
        first.map(|(id, _)| id)
    }

    /// What it is counted as, in bytes of state.
    pub fn state_bytes(&self) -> u64 {
        let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
        let text = |text: &Arc<str>| SUBSCRIBED_STATE_BYTES + count(text.len());
        let subscribed = |member: &Member| -> u64 {
            let subscription = &member.subscription;
            let texts = subscription.topics.iter().chain(&subscription.patterns);
            // Where all of the group's topics are meant, the members share the set.
            let meant = Some(member.topics.len()).filter(|len| *len < self.resolved.len());
            texts.map(text).sum::<u64>() + count(meant.unwrap_or_default()) * MEANT_STATE_BYTES
        };
        let subscribed: u64 = self.members.values().map(subscribed).sum();
        MEMBERSHIP_STATE_BYTES
            + count(self.members.len()) * MEMBER_STATE_BYTES
            + subscribed
            + count(self.target.len()) * TARGET_STATE_BYTES
    }

    /// Whether it had members, has none, and says nothing that a new one would not say.
    pub(super) fn is_left_behind(&self) -> bool {
        self.members.is_empty() && self.epoch > 0 && self.config == GroupConfig::default()
    }

    /// All topics that members subscribe to; the same set for all who mean all of them.
    pub(super) fn all_topics(&self) -> Arc<BTreeSet<TopicId>> {
        let all = |member: &&Member| member.topics.iter().eq(self.resolved.keys());
        let shared = self.members.values().find(all);
        let made = || Arc::new(self.resolved.keys().copied().collect());
        shared.map_or_else(made, |member| Arc::clone(&member.topics))
    }

    /// The member that has this instance id now.
    pub fn instance(&self, instance: &str) -> Option<&MemberId> {
        let mut members = self.members.iter();
        let found =
            members.find(|(_, member)| member.instance.as_ref().is_some_and(|i| i.as_str() == instance));
        found.map(|(id, _)| id)
    }

    /// The members in the order in which they joined.
    pub fn in_join_order(&self) -> Vec<(&MemberId, &Member)> {
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_unstable_by_key(|(_, member)| member.join);
        members
    }

    /// Who holds what, be it to be released.
    pub fn holders(&self) -> BTreeMap<PartitionKey, &MemberId> {
        let held = self.members.iter().flat_map(|(id, member)| {
            let keys = member.assigned.keys().chain(member.revoking.keys());
            keys.map(move |key| (*key, id))
        });
        held.collect()
    }

    /// The partitions of the topics that members subscribe to, in the order of their keys.
    pub fn all_partitions(&self) -> impl Iterator<Item = PartitionKey> {
        self.resolved.iter().flat_map(|(topic, count)| {
            (0..*count).map(|index| PartitionKey {
                topic: *topic,
                partition: PartitionId(index),
            })
        })
    }

    /// How many partitions the topics have that members subscribe to.
    pub fn partitions(&self) -> u64 {
        self.resolved.values().map(|count| u64::from(*count)).sum()
    }

    /// How the group is.
    pub fn state(&self) -> GroupState {
        if self.members.is_empty() {
            return GroupState::Empty;
        }
        if self.assignment_epoch < self.epoch {
            return GroupState::Assigning;
        }
        let revoking = self.members.values().any(|member| !member.revoking.is_empty());
        let waiting = || {
            let holds =
                |id: &MemberId, key| self.members.get(id).is_some_and(|m| m.assigned.contains_key(key));
            self.target.iter().any(|(key, id)| !holds(id, key))
        };
        if revoking || waiting() {
            GroupState::Reconciling
        } else {
            GroupState::Stable
        }
    }

    /// Members that hold nothing and are to have nothing, in the order in which they are next in line.
    pub fn idle(&self) -> Vec<&MemberId> {
        let wanted: BTreeSet<&MemberId> = self.target.values().collect();
        let members = self.in_join_order().into_iter();
        let idle = members.filter(|(id, member)| {
            !wanted.contains(id) && member.assigned.is_empty() && member.revoking.is_empty()
        });
        idle.map(|(id, _)| id).collect()
    }
}

/// What topics there are now, as far as groups need to know. Not stored: the broker keeps it as it is.
#[derive(Clone, Debug, Default)]
pub struct Topics {
    by_id: BTreeMap<TopicId, (Arc<str>, u32)>,
    by_name: BTreeMap<Arc<str>, TopicId>,
    /// What came, or has another number of partitions, since this was forgotten last.
    changed: BTreeSet<TopicId>,
}

impl Topics {
    /// There is a topic, or it has more partitions now.
    pub fn insert(&mut self, id: TopicId, name: &str, partitions: u32) {
        let name: Arc<str> = Arc::from(name);
        self.by_id.insert(id, (Arc::clone(&name), partitions));
        self.changed.insert(id);
        self.by_name.insert(name, id);
    }

    /// A topic is gone.
    pub fn remove(&mut self, id: TopicId) {
        self.changed.remove(&id);
        let Some((name, _)) = self.by_id.remove(&id) else {
            return;
        };
        if self.by_name.get(&name) == Some(&id) {
            self.by_name.remove(&name);
        }
    }

    /// The name of a topic.
    pub fn name(&self, id: TopicId) -> Option<&Arc<str>> {
        self.by_id.get(&id).map(|(name, _)| name)
    }

    /// How many partitions a topic has.
    pub fn partitions(&self, id: TopicId) -> Option<u32> {
        self.by_id.get(&id).map(|(_, partitions)| *partitions)
    }

    /// Every group that what has changed concerns knows of it.
    pub fn forget_changed(&mut self) {
        self.changed.clear();
    }

    /// Those topics among what has changed that a subscription means.
    pub(super) fn changed_and_meant(&self, subscription: &Subscription) -> BTreeSet<TopicId> {
        let globs = globs(subscription);
        let meant = |id: &&TopicId| {
            self.name(**id).is_some_and(|name| {
                subscription.topics.contains(name) || globs.iter().any(|glob| glob.matches(name))
            })
        };
        self.changed.iter().filter(meant).copied().collect()
    }

    /// What came, or has another number of partitions.
    pub(super) fn changed(&self) -> &BTreeSet<TopicId> {
        &self.changed
    }

    /// The topics that a subscription means now. A name without a topic means none yet.
    pub fn resolve(&self, subscription: &Subscription) -> BTreeSet<TopicId> {
        let named = subscription.topics.iter();
        let named = named.filter_map(|name| self.by_name.get(name).copied());
        let globs = globs(subscription);
        let fits = |name: &str| globs.iter().any(|glob| glob.matches(name));
        let matching = self.by_name.iter().filter(|(name, _)| fits(name));
        named.chain(matching.map(|(_, id)| *id)).collect()
    }
}

/// A pattern that is too long was refused when it came, and matches nothing.
fn globs(subscription: &Subscription) -> Vec<Glob> {
    let patterns = subscription.patterns.iter();
    patterns.filter_map(|pattern| Glob::new(pattern).ok()).collect()
}
