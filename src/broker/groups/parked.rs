//! A heartbeat that waits for news.

use std::sync::Arc;

use tokio::sync::Notify;

use super::Groups;
use crate::api::{GroupMember, Reply, Response};
use crate::group::sessions::Park;
use crate::model::{GroupId, MemberId};
use crate::storage::LogStore;

/// Dropping it, as happens when its connection ends, loses nothing.
pub(super) struct Parked<S: LogStore> {
    groups: Arc<Groups<S>>,
    key: (GroupId, MemberId),
    member: GroupMember,
    wake: Arc<Notify>,
    park: Park,
}

impl<S: LogStore> Parked<S> {
    pub(super) fn new(
        groups: Arc<Groups<S>>,
        key: (GroupId, MemberId),
        member: GroupMember,
        wake: Arc<Notify>,
        park: Park,
    ) -> Self {
        Self {
            groups,
            key,
            member,
            wake,
            park,
        }
    }

    /// Answers when there is news, or the time is up.
    pub(super) async fn wait(self) -> Reply {
        tokio::select! {
            biased;
            () = self.wake.notified() => {}
            () = tokio::time::sleep(self.park.wait) => {}
        }
        let (lsn, reply) = {
            let mut state = self.groups.lock();
            let now = self.groups.clock.mono();
            state
                .sessions
                .answered(now, &self.key.0, &self.key.1, self.park.id);
            let reply = self.groups.membership(&state, &self.key, &self.member);
            (
                self.groups.lsn(&state),
                reply.map(|membership| Response::GroupHeartbeat(Box::new(membership))),
            )
        };
        self.groups.when_durable(lsn, reply).await
    }
}

impl<S: LogStore> Drop for Parked<S> {
    fn drop(&mut self) {
        let mut state = self.groups.lock();
        let known = state.waiting.get(&self.key);
        if known.is_some_and(|known| Arc::ptr_eq(known, &self.wake)) {
            state.waiting.remove(&self.key);
        }
    }
}
