//! The sticky assignor: what is held stays, what is free goes to whoever has least, and then partitions move one by one from
//! whoever has most to whoever has least, as long as that makes the group more even.
//!
//! Every move lowers the sum of the squares of the members' counts, so it ends (librdkafka#4783 did not). Where all subscribe
//! alike the counts differ by one at most: a join takes its share from those with most and nobody else gets anything, a
//! leave hands out what the leaver had and moves nothing else.

use std::collections::{BTreeMap, BTreeSet};

use super::{Assignment, Input, partitions};
use crate::model::{MemberId, PartitionKey, TopicId};

/// A member with what it is to hold.
struct Holder<'a> {
    id: &'a MemberId,
    topics: &'a BTreeSet<TopicId>,
    held: BTreeMap<TopicId, BTreeSet<PartitionKey>>,
    count: usize,
}

struct Plan<'a> {
    holders: Vec<Holder<'a>>,
    /// Holders by (count, place): who has least comes first.
    by_count: BTreeSet<(usize, usize)>,
}

pub(super) fn assign(input: &Input<'_>) -> Assignment {
    let mut plan = Plan::new(input);
    for key in plan.keep(input) {
        plan.give_to_least(key);
    }
    while plan.move_one() {}
    plan.into_assignment()
}

impl<'a> Plan<'a> {
    fn new(input: &Input<'a>) -> Self {
        let holder = |member: &super::Subscriber<'a>| Holder {
            id: member.id,
            topics: member.topics,
            held: BTreeMap::new(),
            count: 0,
        };
        let holders: Vec<_> = input.members.iter().map(holder).collect();
        let by_count = (0..holders.len()).map(|place| (0, place)).collect();
        Self { holders, by_count }
    }

    /// Leaves every partition with its holder if that is still there and still subscribes; returns the others.
    fn keep(&mut self, input: &Input<'_>) -> Vec<PartitionKey> {
        let places: BTreeMap<&MemberId, usize> = (self.holders.iter().enumerate())
            .map(|(place, holder)| (holder.id, place))
            .collect();
        let mut free = Vec::new();
        for key in partitions(input.topics) {
            let before = input.previous.get(&key).and_then(|id| places.get(id).copied());
            match before.filter(|place| self.may_hold(*place, key)) {
                Some(place) => self.give(place, key),
                None => free.push(key),
            }
        }
        free
    }

    fn may_hold(&self, place: usize, key: PartitionKey) -> bool {
        let holder = self.holders.get(place);
        holder.is_some_and(|holder| holder.topics.contains(&key.topic))
    }

    fn give(&mut self, place: usize, key: PartitionKey) {
        let Some(holder) = self.holders.get_mut(place) else {
            return;
        };
        if holder.held.entry(key.topic).or_default().insert(key) {
            self.by_count.remove(&(holder.count, place));
            holder.count += 1;
            self.by_count.insert((holder.count, place));
        }
    }

    fn take(&mut self, place: usize, key: PartitionKey) {
        let Some(holder) = self.holders.get_mut(place) else {
            return;
        };
        if holder
            .held
            .get_mut(&key.topic)
            .is_some_and(|held| held.remove(&key))
        {
            self.by_count.remove(&(holder.count, place));
            holder.count -= 1;
            self.by_count.insert((holder.count, place));
        }
    }

    /// Nobody gets a partition that nobody subscribes to.
    fn give_to_least(&mut self, key: PartitionKey) {
        let mut least = self.by_count.iter().map(|(_, place)| *place);
        if let Some(place) = least.find(|place| self.may_hold(*place, key)) {
            self.give(place, key);
        }
    }

    /// Moves one partition from a holder that has at least two more than one who may have it.
    fn move_one(&mut self) -> bool {
        let Some(least) = self.by_count.first().map(|(count, _)| *count) else {
            return false;
        };
        let rich = self.by_count.iter().rev();
        let rich = rich.take_while(|(count, _)| *count > least + 1);
        let found = rich.copied().find_map(|(count, from)| {
            let (key, to) = self.movable(count, from)?;
            Some((from, key, to))
        });
        let Some((from, key, to)) = found else {
            return false;
        };
        self.take(from, key);
        self.give(to, key);
        true
    }

    /// A partition of this holder, and who may have it and has least, if that makes the two more even. The last partition
    /// of a topic goes first, so that what moves does not depend on what moved before.
    fn movable(&self, count: usize, from: usize) -> Option<(PartitionKey, usize)> {
        let holder = self.holders.get(from)?;
        let topics = holder.held.iter().filter(|(_, held)| !held.is_empty());
        let options = topics.filter_map(|(topic, held)| {
            let poor = self.by_count.iter();
            let mut poor = poor.take_while(|(other, _)| *other + 1 < count);
            let (other, to) = poor.find(|(_, place)| {
                let to = self.holders.get(*place);
                to.is_some_and(|to| to.topics.contains(topic))
            })?;
            Some((*other, *held.last()?, *to))
        });
        let best = options.min_by_key(|(other, key, _)| (*other, *key))?;
        Some((best.1, best.2))
    }

    fn into_assignment(self) -> Assignment {
        let mut assignment = Assignment::new();
        for holder in self.holders {
            for key in holder.held.into_values().flatten() {
                assignment.insert(key, holder.id.clone());
            }
        }
        assignment
    }
}
