//! A change of a membership as it is stored: what is different from before. Decided on a draft, applied to what is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::config::GroupConfig;
use super::state::{Held, Member, Membership};
use crate::model::{MemberId, PartitionKey, Timestamp, TopicId};

/// What is different in a membership. What is `None` or empty stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupChange {
    /// Settings from now on.
    pub config: Option<GroupConfig>,
    /// Epoch of the group from now on.
    pub epoch: u32,
    /// Epoch of the assignment from now on.
    pub assignment_epoch: u32,
    /// Topics and numbers of partitions that the epoch was made for.
    pub resolved: Option<BTreeMap<TopicId, u32>>,
    /// Members that are gone.
    pub removed: Vec<MemberId>,
    /// Members that are new or say something else about themselves; what they hold comes with `holdings`.
    pub members: BTreeMap<MemberId, MemberInfo>,
    /// What members hold from now on.
    pub holdings: BTreeMap<MemberId, Holding>,
    /// Who is to hold what from now on; `None`: nobody.
    pub target: BTreeMap<PartitionKey, Option<MemberId>>,
    /// Number of the next join.
    pub next_join: u64,
    /// Since when there is nobody, from now on.
    pub empty_since: Option<Timestamp>,
}

/// What a member says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// As in [`Member`], with nothing held.
    pub member: Member,
    /// Its topics are all that the group has to do with, and not named again: most members of most groups subscribe alike.
    pub all_topics: bool,
}

/// What a member holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// As in [`Member`].
    pub assigned: Held,
    /// As in [`Member`].
    pub revoking: Held,
    /// As in [`Member`].
    pub held_epoch: u32,
}

impl Holding {
    fn of(member: &Member) -> Self {
        Self {
            assigned: member.assigned.clone(),
            revoking: member.revoking.clone(),
            held_epoch: member.held_epoch,
        }
    }

    fn is_of(&self, member: &Member) -> bool {
        self.assigned == member.assigned
            && self.revoking == member.revoking
            && self.held_epoch == member.held_epoch
    }
}

impl MemberInfo {
    fn of(member: &Member, resolved: &BTreeMap<TopicId, u32>) -> Self {
        let all_topics = member.topics.iter().eq(resolved.keys());
        Self {
            all_topics,
            member: Member {
                join: member.join,
                instance: member.instance.clone(),
                client_id: Arc::clone(&member.client_id),
                host: Arc::clone(&member.host),
                subscription: Arc::clone(&member.subscription),
                topics: if all_topics {
                    Arc::default()
                } else {
                    Arc::clone(&member.topics)
                },
                assigned: Held::new(),
                revoking: Held::new(),
                held_epoch: 0,
            },
        }
    }
}

/// Whether a member says the same about itself.
fn says_the_same(before: &Member, after: &Member) -> bool {
    before.join == after.join
        && before.instance == after.instance
        && before.client_id == after.client_id
        && before.host == after.host
        && before.subscription == after.subscription
        && before.topics == after.topics
}

impl GroupChange {
    /// What makes `after` of `before`; `None`: they are the same.
    pub fn between(before: &Membership, after: &Membership) -> Option<Self> {
        if before == after {
            return None;
        }
        let mut change = Self {
            config: (before.config != after.config).then(|| after.config.clone()),
            epoch: after.epoch,
            assignment_epoch: after.assignment_epoch,
            resolved: (before.resolved != after.resolved).then(|| after.resolved.clone()),
            removed: gone(before, after),
            next_join: after.next_join,
            empty_since: after.empty_since,
            ..Self::default()
        };
        for (id, member) in &after.members {
            change.add_member(id, before.members.get(id), member, &after.resolved);
        }
        for (key, id) in &after.target {
            if before.target.get(key) != Some(id) {
                change.target.insert(*key, Some(id.clone()));
            }
        }
        let gone = before.target.keys().filter(|key| !after.target.contains_key(key));
        change.target.extend(gone.map(|key| (*key, None)));
        Some(change)
    }

    fn add_member(
        &mut self,
        id: &MemberId,
        before: Option<&Member>,
        after: &Member,
        resolved: &BTreeMap<TopicId, u32>,
    ) {
        if before.is_none_or(|before| !says_the_same(before, after)) {
            self.members.insert(id.clone(), MemberInfo::of(after, resolved));
        }
        let holding = Holding::of(after);
        let before = before.map_or_else(Holding::default, Holding::of);
        if holding != before {
            self.holdings.insert(id.clone(), holding);
        }
    }

    /// Makes the change.
    pub fn apply_to(&self, membership: &mut Membership) {
        if let Some(config) = &self.config {
            membership.config = config.clone();
        }
        membership.epoch = self.epoch;
        membership.assignment_epoch = self.assignment_epoch;
        membership.next_join = self.next_join;
        membership.empty_since = self.empty_since;
        if let Some(resolved) = &self.resolved {
            membership.resolved.clone_from(resolved);
        }
        for id in &self.removed {
            membership.members.remove(id);
        }
        let all = self.members.values().any(|info| info.all_topics);
        let all = if all {
            membership.all_topics()
        } else {
            Arc::default()
        };
        for (id, info) in &self.members {
            let mut member = info.member.clone();
            if info.all_topics {
                member.topics = Arc::clone(&all);
            }
            if let Some(known) = membership.members.remove(id) {
                member.assigned = known.assigned;
                member.revoking = known.revoking;
                member.held_epoch = known.held_epoch;
            }
            membership.members.insert(id.clone(), member);
        }
        for (id, holding) in &self.holdings {
            if let Some(member) = membership.members.get_mut(id)
                && !holding.is_of(member)
            {
                member.assigned.clone_from(&holding.assigned);
                member.revoking.clone_from(&holding.revoking);
                member.held_epoch = holding.held_epoch;
            }
        }
        for (key, id) in &self.target {
            match id {
                Some(id) => membership.target.insert(*key, id.clone()),
                None => membership.target.remove(key),
            };
        }
    }
}

fn gone(before: &Membership, after: &Membership) -> Vec<MemberId> {
    let ids = before.members.keys();
    ids.filter(|id| !after.members.contains_key(*id))
        .cloned()
        .collect()
}
