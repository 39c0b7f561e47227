//! Fetches by members: they read what they hold, and what was handed to them is remembered for the next holder.

use std::sync::Arc;

use super::members::member_ref;
use super::{Groups, State, group_errors};
use crate::api::{ApiError, GroupMember};
use crate::group::MemberRef;
use crate::model::{Lsn, Offset, PartitionKey};
use crate::storage::LogStore;

/// What a fetch by a member must pass, for each of its partitions.
pub(in crate::broker) trait Fence: Send + Sync {
    /// Whether the member may read these partitions now, in order, and the LSN of what that rests on. Records below the offsets are
    /// about to be handed out: the next holder of a partition is told.
    fn pass(&self, ends: &[(PartitionKey, Offset)]) -> (Lsn, Vec<Result<(), ApiError>>);
}

struct MemberFence<S: LogStore> {
    groups: Arc<Groups<S>>,
    group: String,
    member: MemberRef,
}

impl<S: LogStore> Groups<S> {
    pub(in crate::broker) fn fence(self: &Arc<Self>, group: &str, member: &GroupMember) -> Arc<dyn Fence> {
        Arc::new(MemberFence {
            groups: Arc::clone(self),
            group: group.to_owned(),
            member: member_ref(member),
        })
    }

    /// A valid request of a member is a sign of life (TM1).
    pub(super) fn touch(&self, state: &mut State<S::Log>, group: &str, member: &str) {
        let membership = state.driver.machine.group(group);
        let found = membership.and_then(|(group, known)| {
            let (id, _) = known.membership.as_ref()?.members.get_key_value(member)?;
            Some((group.clone(), id.clone()))
        });
        if let Some((group, id)) = found {
            state.sessions.touch(self.clock.mono(), &group, &id);
        }
    }
}

impl<S: LogStore> Fence for MemberFence<S> {
    fn pass(&self, ends: &[(PartitionKey, Offset)]) -> (Lsn, Vec<Result<(), ApiError>>) {
        let mut state = self.groups.lock();
        let mut results = Vec::with_capacity(ends.len());
        for (key, end) in ends {
            let checked = state.driver.machine.check_fetch(&self.group, &self.member, *key);
            if checked.is_ok() && *end > Offset::default() {
                state.note_seen(&self.group, *key, *end);
            }
            results.push(checked.map_err(|error| group_errors::group(error, &[])));
        }
        if results.iter().any(Result::is_ok) {
            self.groups.touch(&mut state, &self.group, &self.member.member);
        }
        (self.groups.lsn(&state), results)
    }
}

impl<L> State<L> {
    fn note_seen(&mut self, group: &str, key: PartitionKey, end: Offset) {
        let Some((group, _)) = self.driver.machine.group(group) else {
            return;
        };
        let key = (group.clone(), key);
        let is_full = |state: &Self| state.seen.len() >= state.seen_max && !state.seen.contains_key(&key);
        if is_full(self) && !self.seen_overflowed {
            let machine = &self.driver.machine;
            self.seen
                .retain(|(group, _), _| machine.group(group.as_str()).is_some());
        }
        if is_full(self) {
            self.seen_overflowed = true;
            return;
        }
        let seen = self.seen.entry(key).or_default();
        *seen = end.max(*seen);
    }
}
