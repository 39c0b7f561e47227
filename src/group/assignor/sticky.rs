//! The sticky assignor: what is held stays, what is free goes to whoever has least, and then partitions move one by one from
//! whoever has most to whoever has least, as long as that makes the group more even.
//!
//! Every move lowers the sum of the squares of the members' counts, so it ends (librdkafka#4783 did not). Where all subscribe
//! alike the counts differ by one at most: a join takes its share from those with most and nobody else gets anything, a
//! leave hands out what the leaver had and moves nothing else.
//!
//! Members with the same subscription are a class. Who has least of a class is at hand, so that finding who has least of all
//! that subscribe to a topic costs as much as there are classes: next to nothing where all subscribe alike.

use std::collections::{BTreeMap, BTreeSet};

use super::{Assignment, Input, partitions};
use crate::model::{MemberId, PartitionKey, TopicId};

/// How many partitions somebody has, and who that is by the order of joining: who has least comes first.
type Rank = (usize, usize);

/// A member with what it is to hold.
struct Holder<'a> {
    id: &'a MemberId,
    class: usize,
    /// By topic; none of them is empty.
    held: BTreeMap<TopicId, BTreeSet<PartitionKey>>,
    count: usize,
}

/// Members that subscribe to the same.
struct Class<'a> {
    topics: &'a BTreeSet<TopicId>,
    by_count: BTreeSet<Rank>,
}

struct Plan<'a> {
    holders: Vec<Holder<'a>>,
    by_count: BTreeSet<Rank>,
    classes: Vec<Class<'a>>,
    /// Who has least of each class.
    least: Vec<Rank>,
    /// The classes that subscribe to a topic.
    subscribed: BTreeMap<TopicId, Vec<usize>>,
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
        let mut numbers: BTreeMap<&BTreeSet<TopicId>, usize> = BTreeMap::new();
        let mut classes: Vec<Class<'a>> = Vec::new();
        let mut holders: Vec<Holder<'a>> = Vec::new();
        for (place, member) in input.members.iter().enumerate() {
            // Neighbours often share even the memory; only others need to be compared.
            let before = holders.last().map(|holder| holder.class);
            let same = before.filter(|class| {
                let topics = classes.get(*class).map(|class| class.topics);
                topics.is_some_and(|topics| std::ptr::eq(topics, member.topics))
            });
            let class = same.unwrap_or_else(|| *numbers.entry(member.topics).or_insert(classes.len()));
            if class == classes.len() {
                classes.push(Class {
                    topics: member.topics,
                    by_count: BTreeSet::new(),
                });
            }
            if let Some(class) = classes.get_mut(class) {
                class.by_count.insert((0, place));
            }
            holders.push(Holder {
                id: member.id,
                class,
                held: BTreeMap::new(),
                count: 0,
            });
        }
        let mut subscribed: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        for (number, class) in classes.iter().enumerate() {
            for topic in class.topics {
                subscribed.entry(*topic).or_default().push(number);
            }
        }
        Self {
            by_count: (0..holders.len()).map(|place| (0, place)).collect(),
            least: classes
                .iter()
                .filter_map(|class| class.by_count.first().copied())
                .collect(),
            holders,
            classes,
            subscribed,
        }
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
        let class = self
            .holders
            .get(place)
            .and_then(|holder| self.classes.get(holder.class));
        class.is_some_and(|class| class.topics.contains(&key.topic))
    }

    /// Who has least of all that subscribe to a topic.
    fn least_of(&self, topic: TopicId) -> Option<Rank> {
        let classes = self.subscribed.get(&topic)?.iter();
        classes.filter_map(|class| self.least.get(*class)).min().copied()
    }

    fn give(&mut self, place: usize, key: PartitionKey) {
        let Some(holder) = self.holders.get_mut(place) else {
            return;
        };
        if holder.held.entry(key.topic).or_default().insert(key) {
            let before = holder.count;
            holder.count += 1;
            self.counted(place, before);
        }
    }

    fn take(&mut self, place: usize, key: PartitionKey) {
        let Some(holder) = self.holders.get_mut(place) else {
            return;
        };
        let Some(held) = holder.held.get_mut(&key.topic) else {
            return;
        };
        if held.remove(&key) {
            if held.is_empty() {
                holder.held.remove(&key.topic);
            }
            let before = holder.count;
            holder.count -= 1;
            self.counted(place, before);
        }
    }

    /// Somebody has more or less than before.
    fn counted(&mut self, place: usize, before: usize) {
        let Some(holder) = self.holders.get(place) else {
            return;
        };
        let ranks = [(before, place), (holder.count, place)];
        let replace = |ranked: &mut BTreeSet<Rank>| {
            ranked.remove(&ranks[0]);
            ranked.insert(ranks[1]);
        };
        replace(&mut self.by_count);
        if let Some(class) = self.classes.get_mut(holder.class)
            && let Some(least) = self.least.get_mut(holder.class)
        {
            replace(&mut class.by_count);
            *least = class.by_count.first().copied().unwrap_or(ranks[1]);
        }
    }

    /// Nobody gets a partition that nobody subscribes to.
    fn give_to_least(&mut self, key: PartitionKey) {
        if let Some((_, place)) = self.least_of(key.topic) {
            self.give(place, key);
        }
    }

    /// Moves one partition from a holder that has at least two more than one who may have it.
    fn move_one(&mut self) -> bool {
        let Some(least) = self.by_count.first().map(|(count, _)| *count) else {
            return false;
        };
        // Looked up once for all who have too much.
        let mut known = BTreeMap::new();
        let rich = self.by_count.iter().rev();
        let rich = rich.take_while(|(count, _)| *count > least + 1);
        let found = rich.copied().find_map(|(count, from)| {
            let (key, to) = self.movable(count, from, &mut known)?;
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
    fn movable(
        &self,
        count: usize,
        from: usize,
        known: &mut BTreeMap<TopicId, Option<Rank>>,
    ) -> Option<(PartitionKey, usize)> {
        let held = self.holders.get(from)?.held.iter();
        let options = held.filter_map(|(topic, held)| {
            let least = known.entry(*topic).or_insert_with(|| self.least_of(*topic));
            let (other, to) = least.filter(|(other, _)| *other + 1 < count)?;
            Some((other, *held.last()?, to))
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
