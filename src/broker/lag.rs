//! How far behind groups are, for metrics.

use std::collections::BTreeMap;

use super::Broker;
use super::lag_time::{SCRAPE_LOOKUPS_MAX, age_ms};
use crate::group::{Membership, Overview};
use crate::model::{GroupId, Offset, PartitionKey, Timestamp, TopicName};
use crate::storage::{LogStore, PartitionLog};

/// A group at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupNow {
    /// Which one.
    pub name: GroupId,
    /// When it committed last.
    pub last_commit: Timestamp,
    /// Records that it still has to read, of each topic, by name.
    pub lag: BTreeMap<TopicName, u64>,
    /// The most of them in one partition.
    pub lag_max: u64,
    /// Milliseconds since the oldest of them was appended; 0: there are none.
    pub lag_ms: u64,
    /// Its members.
    pub members: u64,
    /// Members that hold nothing and are to have nothing.
    pub idle_members: u64,
    /// Subscribed partitions that nobody holds.
    pub unassigned_partitions: u64,
    /// Partitions whose holder lives but does not get on.
    pub stalled_partitions: u64,
    /// Epoch of the group; 0: it has never had a member.
    pub epoch: u64,
}

/// A group's offsets as they are copied out of the machine.
struct Copied {
    name: GroupId,
    offsets: Vec<(PartitionKey, Offset)>,
    last_commit: Timestamp,
    membership: MembersNow,
    stalled: u64,
}

/// How the members of a group are.
#[derive(Default)]
struct MembersNow {
    members: u64,
    idle: u64,
    unassigned: u64,
    epoch: u64,
}

impl MembersNow {
    /// `idle`: how many of its members are.
    fn of(membership: &Membership, idle: usize) -> Self {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let members = membership.members.values();
        let held = members
            .map(|member| count(member.assigned.len() + member.revoking.len()))
            .sum();
        Self {
            members: count(membership.members.len()),
            idle: count(idle),
            unassigned: membership.partitions().saturating_sub(held),
            epoch: u64::from(membership.epoch),
        }
    }
}

impl<S: LogStore> Broker<S> {
    /// The first groups in the order of their names, and how many there are in all. Looks up how old lags are, for which it may
    /// ask the disk a bounded number of times.
    pub fn groups_now(&self, groups_max: usize) -> (Vec<GroupNow>, usize) {
        let (copied, all) = self.copy_groups(groups_max);
        let mut lookups = SCRAPE_LOOKUPS_MAX;
        let groups = copied
            .into_iter()
            .map(|group| self.group_now(group, &mut lookups));
        (groups.collect(), all)
    }

    /// Looks nothing up while the groups are locked: commits wait for this.
    fn copy_groups(&self, groups_max: usize) -> (Vec<Copied>, usize) {
        let groups = self.groups.lock();
        let machine = &groups.driver.machine;
        let first = machine.groups().take(groups_max);
        let copied = first.map(|(name, group)| {
            let offsets = &group.offsets;
            let times = offsets.values().map(|committed| committed.committed);
            let last = times.max().unwrap_or_default();
            let offsets = offsets.iter().map(|(key, committed)| (*key, committed.offset));
            let membership = group.membership.as_ref();
            let idle = machine.overview(name.as_str()).map_or(0, Overview::idle_members);
            Copied {
                name: name.clone(),
                offsets: offsets.collect(),
                last_commit: last,
                membership: membership
                    .map(|members| MembersNow::of(members, idle))
                    .unwrap_or_default(),
                stalled: groups.stalled(name),
            }
        });
        (copied.collect(), machine.groups().count())
    }

    fn group_now(&self, copied: Copied, lookups: &mut usize) -> GroupNow {
        let durable = self.durable_lsn();
        let mut group = GroupNow {
            name: copied.name,
            last_commit: copied.last_commit,
            lag: BTreeMap::new(),
            lag_max: 0,
            lag_ms: 0,
            members: copied.membership.members,
            idle_members: copied.membership.idle,
            unassigned_partitions: copied.membership.unassigned,
            stalled_partitions: copied.stalled,
            epoch: copied.membership.epoch,
        };
        let mut places = Vec::new();
        for (key, offset) in copied.offsets {
            let Some((topic, partition)) = self.partition_of(key) else {
                continue;
            };
            let bounds = partition.log.bounds(durable);
            // Records that are gone do not count.
            let from = offset.max(bounds.log_start);
            let behind = bounds.high_watermark.since(from);
            *group.lag.entry(topic).or_default() += behind;
            group.lag_max = group.lag_max.max(behind);
            if behind > 0 {
                places.push((partition, from));
            }
        }
        let places: Vec<_> = places
            .iter()
            .map(|(partition, from)| (&*partition.log, *from))
            .collect();
        let oldest = self.groups.lag_times.oldest(&places, lookups);
        group.lag_ms = oldest.map_or(0, |oldest| age_ms(self.clock.wall(), oldest));
        group
    }
}
