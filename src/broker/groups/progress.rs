//! What is looked at from time to time: whether members get on, and whether offsets of groups without members have expired.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Groups, Now, State, millis};
use crate::broker::lag_time::age_ms;
use crate::group::sessions::Position;
use crate::group::{Command, GroupConfig};
use crate::model::{GroupId, MemberId, PartitionKey};
use crate::storage::{LogStore, PartitionLog};

/// Positions are looked at so often at most and at least.
const WATCH_LEAST: Duration = Duration::from_millis(250);
const WATCH_MOST: Duration = Duration::from_secs(10);

/// Offsets that may expire are looked at so often at least: the wall clock may be set, and commits come in between.
const RETENTION_LOOK_MOST: Duration = Duration::from_secs(3_600);

/// How often the positions of a group are looked at: a position that stands still is told within a quarter more than the timeout.
pub(super) fn every(config: &GroupConfig) -> Duration {
    (millis(config.progress_ms()) / 4).clamp(WATCH_LEAST, WATCH_MOST)
}

/// Where a member is in all that it may read.
type Held = BTreeMap<PartitionKey, Position>;

impl<S: LogStore> Groups<S> {
    /// Takes note of how far the members of a group are.
    pub(super) fn watch(&self, state: &mut State<S::Log>, group: &GroupId) {
        let now = self.clock.mono();
        let Some(membership) = state.driver.machine.membership(group.as_str()) else {
            return;
        };
        let timeout = millis(membership.config.progress_ms());
        let again = every(&membership.config);
        let members = membership.members.iter();
        let positions: Vec<(MemberId, Held)> = members
            .map(|(id, member)| {
                let held = member.assigned.keys();
                let held = held.filter_map(|key| Some((*key, self.position(state, group, *key)?)));
                (id.clone(), held.collect())
            })
            .collect();
        for (member, held) in &positions {
            state.sessions.positions(now, group, member, timeout, held);
        }
        if !positions.is_empty() {
            state.sessions.watch(now, group, again);
        }
    }

    fn position(&self, state: &State<S::Log>, group: &GroupId, key: PartitionKey) -> Option<Position> {
        let bounds = self
            .registry
            .partition(key)?
            .log
            .bounds(self.durable.borrow().lsn);
        let committed = state.driver.machine.offset(group.as_str(), key);
        Some(Position {
            // What was removed is not to be processed any more.
            committed: committed.map(|committed| committed.offset.max(bounds.log_start)),
            handed: state.seen.get(&(group.clone(), key)).copied(),
            end: bounds.high_watermark,
        })
    }

    /// Forgets offsets that have expired (OF3).
    pub(super) fn expire_offsets(&self, state: &mut State<S::Log>, group: GroupId) {
        let count = |state: &State<S::Log>| state.driver.machine.offsets(group.as_str()).count();
        let before = count(state);
        let command = Command::ExpireOffsets { group: group.clone() };
        // Tried again if there was no room.
        if self.carry_out(state, command, &[]).is_err() {
            return;
        }
        let offsets = before.saturating_sub(count(state));
        if offsets > 0 {
            tracing::info!(event = "group_offsets_expired", group = %group, offsets, "committed offsets of a group without members were forgotten");
        }
        state.time_offsets(Now::by(&*self.clock), &group);
    }
}

impl<L> State<L> {
    /// How many partitions of a group have a holder that lives but does not get on.
    pub(in crate::broker) fn stalled(&self, group: &GroupId) -> u64 {
        let members = self.driver.machine.membership(group.as_str());
        let members = members
            .into_iter()
            .flat_map(|membership| membership.members.keys());
        let stalled = members.map(|member| self.sessions.stalled(group, member).count());
        u64::try_from(stalled.sum::<usize>()).unwrap_or(u64::MAX)
    }

    /// When to look next whether offsets of a group have expired. Whoever commits into a group without members need not say so: it
    /// is looked at at least once in the time for which offsets are kept.
    pub(super) fn time_offsets(&mut self, now: Now, group: &GroupId) {
        let machine = &self.driver.machine;
        let membership = machine.membership(group.as_str());
        let kept = membership.filter(|membership| membership.members.is_empty());
        let kept = kept.and_then(|membership| membership.config.offsets_retention_ms);
        let at = kept.map(|kept| {
            let next = machine.next_offset_expiry(group.as_str());
            let left = next.map_or(kept, |next| age_ms(next, now.wall));
            let left = Duration::from_millis(left.min(kept)).min(RETENTION_LOOK_MOST);
            now.mono.saturating_add(left)
        });
        self.sessions.offsets_expire(group, at);
    }
}
