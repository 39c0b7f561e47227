//! Brings what members hold nearer to what they are to hold, as far as that can be without two of them holding the same.
//!
//! The rules are those of KIP-848, with one difference: the whole group is settled at once, in the step that changes it. A
//! member that releases the last partition makes its new holder a holder in that same step, and that one only has to be told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::assignor::{Assignor, Input, Subscriber, assign};
use super::state::{Held, Membership, Subscription, Topics};
use crate::model::{MemberId, PartitionKey, TopicId};

impl Membership {
    /// Looks up again what the subscriptions mean. Partitions that are gone are nobody's from now on. True: something
    /// changed, and the group needs another epoch.
    pub(super) fn refresh(&mut self, topics: &Topics) -> bool {
        let mut changed = false;
        // Most members of a group subscribe to the same, and looking that up can be dear: patterns see every name.
        let mut known: BTreeMap<Arc<Subscription>, Arc<BTreeSet<TopicId>>> = BTreeMap::new();
        for member in self.members.values_mut() {
            let means = known
                .entry(Arc::clone(&member.subscription))
                .or_insert_with(|| Arc::new(topics.resolve(&member.subscription)));
            changed |= *means != member.topics;
            // Also if it is the same: one set for all of them.
            member.topics = Arc::clone(means);
        }
        self.recount(topics) || changed
    }

    /// Counts again what the members' topics have, without looking up what subscriptions mean: that changes with topics alone,
    /// and then everything is [refreshed](Self::refresh). True: something changed, and the group needs another epoch.
    pub(super) fn recount(&mut self, topics: &Topics) -> bool {
        let mut meant: BTreeSet<TopicId> = BTreeSet::new();
        let mut before = None;
        for member in self.members.values() {
            // Who subscribes alike shares the memory, usually.
            if !before.is_some_and(|before| Arc::ptr_eq(before, &member.topics)) {
                meant.extend(member.topics.iter());
            }
            before = Some(&member.topics);
        }
        let meant = meant.into_iter();
        let resolved: BTreeMap<TopicId, u32> = meant
            .filter_map(|topic| Some((topic, topics.partitions(topic)?)))
            .collect();
        let changed = resolved != self.resolved;
        if changed {
            self.resolved = resolved;
        }
        changed
    }

    /// Whether [`refresh`](Self::refresh) would change something, for what has changed of the topics. `known`: what subscriptions
    /// mean of that.
    pub(super) fn is_affected<'a>(
        &'a self,
        topics: &Topics,
        known: &mut BTreeMap<&'a Subscription, BTreeSet<TopicId>>,
    ) -> bool {
        let mut grown = topics.changed().iter();
        if grown.any(|id| {
            let before = self.resolved.get(id);
            before.is_some_and(|count| topics.partitions(*id) != Some(*count))
        }) {
            return true;
        }
        self.members.values().any(|member| {
            let meant = known
                .entry(&*member.subscription)
                .or_insert_with(|| topics.changed_and_meant(&member.subscription));
            meant.iter().any(|id| !member.topics.contains(id))
        })
    }

    /// Whether members have to do with a topic; they may hold partitions of one that they do not subscribe to any more.
    pub(super) fn has_topic(&self, topic: TopicId) -> bool {
        let held = || {
            let mut members = self.members.values();
            members.any(|member| member.revoking.keys().any(|key| key.topic == topic))
        };
        self.resolved.contains_key(&topic) || held()
    }

    /// A topic is gone: its partitions are nobody's any more.
    pub(super) fn forget_topic(&mut self, topic: TopicId) {
        self.resolved.remove(&topic);
        self.target.retain(|key, _| key.topic != topic);
        for member in self.members.values_mut() {
            member.assigned.retain(|key, _| key.topic != topic);
            member.revoking.retain(|key, _| key.topic != topic);
            if member.topics.contains(&topic) {
                let mut topics = member.topics.as_ref().clone();
                topics.remove(&topic);
                member.topics = Arc::new(topics);
            }
        }
    }

    /// The membership has changed: another epoch, which needs another assignment.
    pub(super) fn advance(&mut self) {
        self.epoch = self.epoch.saturating_add(1);
    }

    /// Settles the group: makes an assignment if one is needed and the broker makes it, takes away what is not to be held
    /// any more, and gives out what is free.
    pub(super) fn settle(&mut self) {
        let by_leader = self.config.assignor() == Assignor::Leader && !self.members.is_empty();
        let before = self.assignment_epoch;
        if self.assignment_epoch < self.epoch && !by_leader {
            self.target = self.best();
            self.assignment_epoch = self.epoch;
        }
        self.settle_on_target(before);
    }

    /// Settles the group on an assignment that somebody else made.
    pub(super) fn settle_on(&mut self, target: BTreeMap<PartitionKey, MemberId>) {
        let before = self.assignment_epoch;
        self.target = target;
        self.assignment_epoch = self.epoch;
        self.settle_on_target(before);
    }

    /// What the broker would assign.
    pub(super) fn best(&self) -> BTreeMap<PartitionKey, MemberId> {
        let members = self.in_join_order().into_iter();
        let members = members.map(|(id, member)| Subscriber {
            id,
            topics: &member.topics,
        });
        let input = Input {
            members: members.collect(),
            topics: &self.resolved,
            previous: &self.target,
        };
        assign(self.config.assignor(), &input)
    }

    /// `before` is the assignment epoch that members without anything to release have been in.
    fn settle_on_target(&mut self, before: u32) {
        let (members, resolved) = (&self.members, &self.resolved);
        self.target.retain(|key, id| {
            let wants = members
                .get(id)
                .is_some_and(|member| member.topics.contains(&key.topic));
            wants
                && resolved
                    .get(&key.topic)
                    .is_some_and(|count| key.partition.0 < *count)
        });
        self.take_away(before);
        self.give_out();
    }

    /// EP4, EP6: what is not in the target is to be released. Another target does not restart what has begun.
    fn take_away(&mut self, before: u32) {
        for (id, member) in &mut self.members {
            let target = &self.target;
            let goes = |key: &PartitionKey| target.get(key) != Some(id);
            if !member.assigned.keys().any(goes) {
                continue;
            }
            if member.revoking.is_empty() {
                member.held_epoch = before;
            }
            let (stays, goes) = std::mem::take(&mut member.assigned)
                .into_iter()
                .partition(|(key, _)| !goes(key));
            member.assigned = stays;
            member.revoking.extend::<Held>(goes);
        }
    }

    /// EP4, EP5: what nobody holds goes to whom the target names, unless that one has itself still to release something.
    fn give_out(&mut self) {
        let held = self.holders();
        let free = self.target.iter().filter(|(key, _)| !held.contains_key(key));
        let free: Vec<_> = free.map(|(key, id)| (*key, id.clone())).collect();
        for (key, id) in free {
            if let Some(member) = self.members.get_mut(&id)
                && member.revoking.is_empty()
            {
                member.assigned.insert(key, self.assignment_epoch);
            }
        }
    }
}
