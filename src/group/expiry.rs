//! Expiry of committed offsets, where a retention is configured (OF3): never while the group has a member, and counted from when
//! the last one went, or from a commit after that.

use super::commits::state_bytes;
use super::machine::{CommittedOffset, Machine, Reply};
use super::record::GroupRecord;
use super::state::Membership;
use crate::machine::Effects;
use crate::model::{GroupId, PartitionKey, Timestamp};

/// When an offset expires; `None`: not as things are.
fn expires(membership: &Membership, committed: &CommittedOffset) -> Option<Timestamp> {
    let retention = membership.config.offsets_retention_ms?;
    if !membership.members.is_empty() {
        return None;
    }
    // A group that became empty under a broker that did not note it yet: from the commit.
    let since = membership
        .empty_since
        .map_or(committed.committed, |since| since.max(committed.committed));
    let retention = i64::try_from(retention).unwrap_or(i64::MAX);
    Some(Timestamp(since.0.saturating_add(retention)))
}

impl Machine {
    /// When the next committed offset of a group expires as things are; `None`: none does.
    pub fn next_offset_expiry(&self, group: &str) -> Option<Timestamp> {
        let (_, known) = self.group(group)?;
        let membership = known.membership.as_ref()?;
        let offsets = known.offsets.values();
        offsets
            .filter_map(|committed| expires(membership, committed))
            .min()
    }

    pub(super) fn expire_offsets(&self, now: Timestamp, group: GroupId) -> Effects<GroupRecord, Reply> {
        let known = self.groups.get(&group);
        let known = known.and_then(|known| Some((known.membership.as_ref()?, &known.offsets)));
        let late = known.into_iter().flat_map(|(membership, offsets)| {
            let late = offsets
                .iter()
                .filter(move |(_, committed)| expires(membership, committed).is_some_and(|at| at <= now));
            late.map(|(key, _)| *key)
        });
        let partitions: Vec<PartitionKey> = late.collect();
        let record = (!partitions.is_empty()).then_some(GroupRecord::OffsetsRemoved { group, partitions });
        Effects {
            records: record.into_iter().collect(),
            reply: Reply::Done,
        }
    }

    pub(super) fn remove_offsets(&mut self, group: &GroupId, partitions: &[PartitionKey]) {
        let Some(known) = self.groups.get_mut(group) else {
            return;
        };
        let removed = partitions.iter().filter_map(|key| known.offsets.remove(key));
        let freed: u64 = removed.map(|committed| state_bytes(&committed)).sum();
        self.state_bytes = self.state_bytes.saturating_sub(freed);
        if known.is_empty() {
            self.groups.remove(group);
        }
    }
}
