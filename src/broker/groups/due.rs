//! What time brings about: sessions that end, hand-offs and proposals that are late; and what changed topics mean for groups.

use std::sync::Arc;
use std::time::Duration;

use super::{Groups, State};
use crate::broker::Broker;
use crate::group::Command;
use crate::group::sessions::{Expiry, Lapse};
use crate::metadata;
use crate::model::{ConnectionId, GroupId, TopicId};
use crate::storage::LogStore;

/// When a refresh of groups that found no room is tried again.
const REFRESH_RETRY: Duration = Duration::from_millis(100);

impl<S: LogStore> Broker<S> {
    /// Does what is due for groups. Returns when there is something to do next, from now; earlier if
    /// [`groups_sooner`](Self::groups_sooner) says so.
    pub fn groups_due(&self) -> Option<Duration> {
        self.groups.due()
    }

    /// Ready when something may be due earlier than was said.
    pub async fn groups_sooner(&self) {
        self.groups.sooner.notified().await;
    }
}

impl<S: LogStore> Groups<S> {
    fn due(&self) -> Option<Duration> {
        let mut state = self.lock();
        let now = self.clock.mono();
        let refreshed = self.refresh(&mut state);
        for expiry in state.sessions.expired(now) {
            self.expire(&mut state, expiry);
        }
        let next = state.sessions.next_deadline();
        let retry = (!refreshed).then(|| now.saturating_add(REFRESH_RETRY));
        let next = next.into_iter().chain(retry).min();
        state.looked_at = next;
        next.map(|next| next.saturating_sub(self.clock.mono()))
    }

    fn expire(&self, state: &mut State<S::Log>, expiry: Expiry) {
        match expiry {
            Expiry::Member { group, member, lapse } => {
                let command = Command::Remove {
                    group: group.clone(),
                    member: member.clone(),
                };
                // Reported again if there was no room.
                if self.carry_out(state, command, &[]).is_ok() {
                    let why = reason(lapse);
                    tracing::warn!(event = "group_member_expired", group = %group, member = %member, reason = why, "a member was removed");
                    self.counters.member_expired();
                }
            }
            Expiry::Proposal { group, epoch } => {
                let fallback = Command::Fallback {
                    group: group.clone(),
                    epoch,
                };
                if self.carry_out(state, fallback, &[]).is_ok() {
                    tracing::warn!(event = "group_proposal_late", group = %group, epoch, "the leader has not proposed in time: the broker assigns");
                }
            }
            Expiry::Stalled {
                group,
                member,
                partition,
                next,
                since,
            } => {
                let stands = self.clock.mono().saturating_sub(since);
                self.counters.member_stalled();
                tracing::warn!(event = "group_member_stalled", group = %group, member = %member, partition = %partition, offset = %next, for_s = stands.as_secs(), "a member lives but does not get on");
            }
            Expiry::Watch { group } => self.watch(state, &group),
            Expiry::Offsets { group } => self.expire_offsets(state, group),
        }
    }

    /// Settles all groups whose subscriptions mean something else now. False: there was no room for all.
    fn refresh(&self, state: &mut State<S::Log>) -> bool {
        if !std::mem::take(&mut state.refresh) {
            return true;
        }
        let affected: Vec<GroupId> = state.driver.machine.affected();
        for group in affected {
            // Without room it is tried again.
            if self.carry_out(state, Command::Refresh { group }, &[]).is_err() {
                state.refresh = true;
            }
        }
        if !state.refresh {
            state.driver.machine.topics_mut().forget_changed();
        }
        !state.refresh
    }

    /// A topic is there, or has another number of partitions.
    pub(in crate::broker) fn topic_changed(self: &Arc<Self>, topic: &metadata::Topic) {
        let mut state = self.lock();
        let topics = state.driver.machine.topics_mut();
        topics.insert(topic.id, topic.name.as_str(), topic.partitions);
        state.refresh = true;
        self.poke(&state);
    }

    /// A topic is gone; what members held of it went with the step that removed it. The groups are locked already.
    pub(in crate::broker) fn topic_gone(&self, state: &mut State<S::Log>, topic: TopicId) {
        state.driver.machine.topics_mut().remove(topic);
        state.seen.retain(|(_, key), _| key.topic != topic);
        state.refresh = true;
        self.spread(state);
    }

    /// A connection has ended.
    pub(in crate::broker) fn disconnected(&self, connection: ConnectionId) {
        let mut state = self.lock();
        state.sessions.disconnected(self.clock.mono(), connection);
        self.poke(&state);
    }
}

const fn reason(lapse: Lapse) -> &'static str {
    match lapse {
        Lapse::Session => "nothing was heard of it for its session",
        Lapse::Disconnected => "its connection was lost, and it did not come back",
        Lapse::Handoff => "it did not release in time what was revoked",
    }
}
