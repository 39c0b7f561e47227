//! Who is to hold which partition: pure functions of members, partitions and what was before.

mod range;
mod round_robin;
mod sticky;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::model::{MemberId, PartitionId, PartitionKey, TopicId};

/// How partitions are assigned to the members of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assignor {
    /// Balanced, and what is held stays where it is as far as balance allows.
    #[default]
    Sticky,
    /// Neighbouring partitions of each topic together, as Kafka's `RangeAssignor`.
    Range,
    /// One partition after the other to one member after the other, as Kafka's `RoundRobinAssignor`.
    RoundRobin,
    /// As the leader of the group proposes; sticky where it does not.
    Leader,
}

impl Assignor {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sticky, Self::Range, Self::RoundRobin, Self::Leader];

    /// Name in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sticky => "sticky",
            Self::Range => "range",
            Self::RoundRobin => "round_robin",
            Self::Leader => "leader",
        }
    }
}

impl fmt::Display for Assignor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No assignor has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is one of sticky, range, round_robin and leader")]
pub struct UnknownAssignor;

impl FromStr for Assignor {
    type Err = UnknownAssignor;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|assignor| assignor.name() == name)
            .ok_or(UnknownAssignor)
    }
}

/// A member and the topics that it may be given.
#[derive(Clone, Copy, Debug)]
pub struct Subscriber<'a> {
    /// Its id.
    pub id: &'a MemberId,
    /// The topics.
    pub topics: &'a BTreeSet<TopicId>,
}

/// What an assignment is made of.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// The members in the order in which they joined.
    pub members: Vec<Subscriber<'a>>,
    /// The topics with their numbers of partitions.
    pub topics: &'a BTreeMap<TopicId, u32>,
    /// Who was to hold what before.
    pub previous: &'a BTreeMap<PartitionKey, MemberId>,
}

/// Who is to hold what.
pub type Assignment = BTreeMap<PartitionKey, MemberId>;

/// Every partition of a topic that somebody subscribes to gets one holder among its subscribers. The same input gives the
/// same assignment, always.
pub fn assign(assignor: Assignor, input: &Input<'_>) -> Assignment {
    match assignor {
        Assignor::Sticky | Assignor::Leader => sticky::assign(input),
        Assignor::Range => range::assign(input),
        Assignor::RoundRobin => round_robin::assign(input),
    }
}

/// Partitions of topics in the order of their keys.
fn partitions(topics: &BTreeMap<TopicId, u32>) -> impl Iterator<Item = PartitionKey> {
    topics.iter().flat_map(|(topic, count)| {
        (0..*count).map(|index| PartitionKey {
            topic: *topic,
            partition: PartitionId(index),
        })
    })
}
