//! Commits: who may commit what, and how much room there is.

use std::collections::{BTreeMap, BTreeSet};

use super::error::GroupError;
use super::machine::{CommitOffsets, CommittedOffset, Group, Machine, OFFSET_STATE_BYTES, Offsets, Reply};
use super::record::GroupRecord;
use crate::machine::Effects;
use crate::model::{GroupId, PartitionId, PartitionKey, Timestamp, TopicId};

impl Machine {
    pub(super) fn commit(
        &self,
        now: Timestamp,
        command: CommitOffsets,
    ) -> Result<Effects<GroupRecord, Reply>, GroupError> {
        let group: GroupId = command.group.parse()?;
        self.check_fence(&command)?;
        self.check_items(&command.offsets)?;
        self.check_room(&group, &command.offsets)?;
        let room = match command.offsets.is_empty() {
            true => None,
            false => self.room_for(&group)?,
        };
        let stamp = |(key, committed): (PartitionKey, CommittedOffset)| {
            let committed = CommittedOffset {
                committed: now,
                ..committed
            };
            (key, committed)
        };
        let offsets: Vec<_> = command.offsets.into_iter().map(stamp).collect();
        let records = if offsets.is_empty() {
            Vec::new()
        } else {
            let committed = GroupRecord::OffsetsCommitted { group, offsets };
            room.into_iter().chain([committed]).collect()
        };
        Ok(Effects {
            records,
            reply: Reply::Committed(now),
        })
    }

    fn check_items(&self, offsets: &[(PartitionKey, CommittedOffset)]) -> Result<(), GroupError> {
        let max = self.limits.metadata_bytes_max;
        let mut seen = BTreeSet::new();
        for (index, (key, committed)) in offsets.iter().enumerate() {
            if !seen.insert(*key) {
                return Err(GroupError::Twice { index });
            }
            let bytes = committed.metadata.len();
            if bytes > max {
                return Err(GroupError::MetadataTooLarge { index, bytes, max });
            }
        }
        Ok(())
    }

    /// Limits hold back what grows. A commit that takes no more room than what it replaces always passes: a group that is
    /// there must be able to go on.
    fn check_room(
        &self,
        group: &GroupId,
        offsets: &[(PartitionKey, CommittedOffset)],
    ) -> Result<(), GroupError> {
        let known = self.groups.get(group);
        let known_offsets = known.map(|group| &group.offsets);
        let replaced = || offsets.iter().filter_map(|(key, _)| known_offsets?.get(key));
        let kept = known_offsets
            .map_or(0, BTreeMap::len)
            .saturating_sub(replaced().count());
        let (would_be, max) = (kept + offsets.len(), self.limits.offsets_per_group_max);
        if would_be > max && offsets.len() > replaced().count() {
            return Err(GroupError::TooManyOffsets { would_be, max });
        }
        let freed: u64 = replaced().map(state_bytes).sum();
        let added: u64 = offsets.iter().map(|(_, committed)| state_bytes(committed)).sum();
        let would_be = self.state_bytes.saturating_sub(freed).saturating_add(added);
        let max = self.limits.state_bytes_max;
        if would_be > max && added > freed {
            return Err(GroupError::StateFull { would_be, max });
        }
        Ok(())
    }

    /// Its offsets go, and members lose its partitions, which is another epoch; what waited for them to be released is given
    /// out in the same step.
    pub(super) fn delete_topic(&self, topic: TopicId) -> Effects<GroupRecord, Reply> {
        let mut records = Vec::new();
        if self.groups.values().any(|group| group.has_topic(topic)) {
            records.push(GroupRecord::TopicDeleted(topic));
        }
        for (group, known) in &self.groups {
            let Some(membership) = known.membership.as_ref().filter(|m| m.has_topic(topic)) else {
                continue;
            };
            let mut without = membership.clone();
            without.forget_topic(topic);
            let mut draft = without.clone();
            draft.advance();
            draft.settle();
            records.extend(GroupRecord::changed(group, &without, &draft));
        }
        Effects {
            records,
            reply: Reply::TopicDeleted,
        }
    }

    pub(super) fn insert(&mut self, group: &GroupId, offsets: &[(PartitionKey, CommittedOffset)]) {
        if offsets.is_empty() {
            return;
        }
        let known = &mut self.groups.entry(group.clone()).or_default().offsets;
        for (key, committed) in offsets {
            self.state_bytes = self.state_bytes.saturating_add(state_bytes(committed));
            if let Some(replaced) = known.insert(*key, committed.clone()) {
                self.state_bytes = self.state_bytes.saturating_sub(state_bytes(&replaced));
            }
        }
    }

    pub(super) fn forget_topic(&mut self, topic: TopicId) {
        let mut freed = 0;
        let mut shown = Vec::new();
        self.groups.retain(|id, group| {
            if has_topic(&group.offsets, topic) {
                group.offsets.retain(|key, committed| {
                    let goes = key.topic == topic;
                    freed += if goes { state_bytes(committed) } else { 0 };
                    !goes
                });
            }
            if let Some(membership) = &mut group.membership
                && membership.has_topic(topic)
            {
                let before = membership.state_bytes();
                membership.forget_topic(topic);
                freed += before.saturating_sub(membership.state_bytes());
                shown.push(id.clone());
            }
            !group.is_empty()
        });
        self.state_bytes = self.state_bytes.saturating_sub(freed);
        for group in shown {
            self.show(&group);
        }
    }

    /// Who may commit: a member in its epoch, for what it holds; or a consumer that assigns itself, where there are no members.
    fn check_fence(&self, command: &CommitOffsets) -> Result<(), GroupError> {
        let Some(asked) = &command.member else {
            let members = self.membership(&command.group).map_or(0, |m| m.members.len());
            return if members == 0 {
                Ok(())
            } else {
                Err(GroupError::NotEmpty { members })
            };
        };
        let membership = self.members_of(&command.group, asked)?;
        let (_, member) = membership.current(asked)?;
        let foreign = command.offsets.iter().position(|(key, _)| !member.holds(*key));
        foreign.map_or(Ok(()), |index| {
            Err(GroupError::NotHeld {
                index,
                current: membership.member_epoch(member),
            })
        })
    }
}

impl Group {
    /// Whether the group has to do with a topic.
    fn has_topic(&self, topic: TopicId) -> bool {
        let membership = self.membership.as_ref();
        has_topic(&self.offsets, topic) || membership.is_some_and(|m| m.has_topic(topic))
    }
}

fn has_topic(offsets: &Offsets, topic: TopicId) -> bool {
    let first = PartitionKey {
        topic,
        partition: PartitionId(0),
    };
    offsets
        .range(first..)
        .next()
        .is_some_and(|(key, _)| key.topic == topic)
}

pub(super) fn state_bytes(committed: &CommittedOffset) -> u64 {
    OFFSET_STATE_BYTES.saturating_add(u64::try_from(committed.metadata.len()).unwrap_or(u64::MAX))
}
