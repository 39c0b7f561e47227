//! What the leader of a group with `assignor = leader` does when it is asked for an assignment.

use std::fmt;
use std::sync::Arc;

use super::shared::Shared;
use crate::client::{ProposalWanted, TopicPartition};
use crate::rt::Clock;

type Assign = dyn Fn(&ProposalWanted) -> Vec<(String, Vec<TopicPartition>)> + Send + Sync;

/// The assignor of a program; without one the broker assigns.
#[derive(Clone, Default)]
pub(super) struct Proposer(Option<Arc<Assign>>);

impl fmt::Debug for Proposer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Proposer").field(&self.0.is_some()).finish()
    }
}

impl Proposer {
    pub(super) fn new(
        assign: impl Fn(&ProposalWanted) -> Vec<(String, Vec<TopicPartition>)> + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(assign)))
    }
}

/// Proposes, or leaves it to the broker, which assigns at once then. What is refused is told, and left to the broker's deadline.
pub(super) async fn answer(shared: Arc<Shared>, wanted: ProposalWanted) {
    let group = shared.options.group.as_ref();
    let assignment = match &shared.options.proposer.0 {
        Some(assign) => assign(&wanted),
        None => Vec::new(),
    };
    let clock = &shared.data.clock;
    let deadline = clock.mono() + wanted.deadline;
    let mut failures = 0;
    loop {
        let member = shared.member.borrow().clone();
        let proposed =
            shared
                .control
                .propose_assignment(group, &member, wanted.group_epoch, assignment.clone());
        let error = match proposed.await {
            Ok(()) => {
                shared.places().refused_proposal = None;
                return;
            }
            Err(error) => error,
        };
        failures += 1;
        let pause = shared.pause(&error, failures);
        if error.is_retriable() && !error.concerns_membership() && clock.mono() + pause < deadline {
            tokio::time::sleep(pause).await;
            continue;
        }
        tracing::warn!(event = "group_proposal_refused", %group, epoch = wanted.group_epoch, %error, "the proposed assignment was not taken: the broker assigns after its deadline");
        shared.places().refused_proposal = Some(error);
        return;
    }
}
