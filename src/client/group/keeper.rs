//! The task that keeps a member alive: a heartbeat is always under way, and what its answers order is done at once.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::builder::member_id;
use super::handover::Job;
use super::membership::{Beat, Member, Orders};
use super::proposer;
use super::shared::Shared;
use crate::client::{Error, Membership};
use crate::model::ErrorCode;
use crate::rt::Clock;

/// Joins, within the request timeout.
///
/// # Errors
/// The last one that came.
pub(super) async fn join(shared: &Shared, member: &mut Member) -> Result<Orders, Error> {
    let clock = &shared.data.clock;
    let deadline = clock.mono() + shared.data.config.request_timeout;
    let mut failures = 0;
    loop {
        let error = match shared.beat(&member.next_beat(false)).await {
            Ok(answer) => return Ok(told(shared, member, answer)),
            Err(error) => error,
        };
        failures += 1;
        let pause = shared.pause(&error, failures);
        if !error.is_retriable() || clock.mono() + pause >= deadline {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
    }
}

/// Takes an answer in, which everybody who waits for news hears.
fn told(shared: &Shared, member: &mut Member, answer: Membership) -> Orders {
    let orders = member.answered(&answer);
    shared.places().membership = Some(answer);
    orders
}

/// The task.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) member: Member,
    pub(super) jobs: mpsc::Sender<Job>,
    /// Group epoch that was answered last, of those for which the leader was asked.
    pub(super) proposed: Option<u32>,
}

impl Keeper {
    /// Heartbeats until the consumer leaves or is told for good that it is out.
    pub(super) async fn run(mut self, first: Orders) {
        let mut failures = 0;
        let mut urgent = false;
        self.obey(first).await;
        loop {
            let released = std::mem::take(&mut self.shared.places().released);
            self.member.finished(&released);
            let beat = self.member.next_beat(std::mem::take(&mut urgent));
            let Some(answer) = self.beat(&beat).await else {
                urgent = true;
                continue;
            };
            let error = match answer {
                Ok(answer) => {
                    failures = 0;
                    let orders = told(&self.shared, &mut self.member, answer);
                    self.obey(orders).await;
                    continue;
                }
                Err(error) => error,
            };
            if self.shared.places().is_closing && !is_mended_by_time(&error) {
                return self.is_out();
            }
            failures += 1;
            if self.refused(&error).await {
                return self.end(error).await;
            }
            tokio::time::sleep(self.shared.pause(&error, failures)).await;
        }
    }

    /// Sends a heartbeat. `None`: it was held back, and there is something to say now.
    async fn beat(&self, beat: &Beat) -> Option<Result<Membership, Error>> {
        let answer = self.shared.beat(beat);
        // One that is answered at once is not overtaken by the next: nothing would ever be heard.
        if !beat.waits() {
            return Some(answer.await);
        }
        tokio::select! {
            answer = answer => Some(answer),
            () = self.shared.heartbeat.notified() => None,
        }
    }

    /// Reading stops, and partitions that are lost are forgotten, before anybody hears of the new epoch.
    async fn obey(&mut self, orders: Orders) {
        let (claims, released) = {
            let mut places = self.shared.places();
            let claims = places.obey(&orders);
            (claims, places.claims(&orders.release))
        };
        self.shared.member.send_replace(self.member.identity());
        let taken: Vec<_> = orders.take.into_iter().zip(claims).collect();
        self.order(Job::Lost(orders.lose)).await;
        self.order(Job::finish(&self.shared, released)).await;
        self.propose();
        self.order(Job::Take(taken)).await;
    }

    /// Answers for an assignment that is asked for, once, beside the heartbeats: they do not wait for the program.
    fn propose(&mut self) {
        let wanted = {
            let places = self.shared.places();
            let last = places.membership.as_ref();
            last.and_then(|last| last.proposal_wanted.clone())
        };
        let Some(wanted) = wanted.filter(|wanted| self.proposed != Some(wanted.group_epoch)) else {
            return;
        };
        self.proposed = Some(wanted.group_epoch);
        let shared = Arc::clone(&self.shared);
        self.shared.control.link.tasks.spawn(|stop| async move {
            tokio::select! {
                () = proposer::answer(shared, wanted) => {}
                () = stop.cancelled() => {}
            }
        });
    }

    async fn order(&self, job: Job) {
        if !job.is_nothing() {
            // Hooks that never return stop the heartbeats in the end: such a member is of no use to its group.
            let _ = self.jobs.send(job).await;
        }
    }

    /// After a refusal, or without an answer. True: the consumer ends.
    async fn refused(&mut self, error: &Error) -> bool {
        match error.code() {
            Some(ErrorCode::UnknownMemberId | ErrorCode::FencedMemberEpoch) => {
                let id = member_id(&self.shared.data.config.client_id);
                tracing::warn!(group = %self.shared.options.group, %error, member = %id, "the group removed this member, which joins again");
                let lost = self.member.join_again(id);
                self.lose(lost).await;
                false
            }
            _ if is_mended_by_time(error) => {
                tracing::debug!(group = %self.shared.options.group, %error, "no answer to a heartbeat");
                self.member.unanswered();
                false
            }
            _ => true,
        }
    }

    /// The consumer leaves and is out already: who waits for the next answer to commit hears that there is none.
    fn is_out(&self) {
        self.shared.places().is_out = true;
        self.shared.member.send_replace(self.member.identity());
    }

    async fn lose(&mut self, lost: Vec<crate::client::TopicPartition>) {
        {
            let mut places = self.shared.places();
            // Also what was finished and not told yet: it is nobody's to commit.
            let all = places.all();
            places.lose(&all);
            places.released.clear();
            places.membership = None;
            places.wake();
        }
        self.shared.member.send_replace(self.member.identity());
        self.order(Job::Lost(lost)).await;
    }

    /// The program hears why.
    async fn end(self, error: Error) {
        tracing::error!(group = %self.shared.options.group, %error, "the consumer is out of its group for good");
        let lost = self.shared.places().end(Some(error));
        self.shared.member.send_replace(self.member.identity());
        self.order(Job::Lost(lost)).await;
    }
}

/// Whether the same heartbeat may succeed later.
fn is_mended_by_time(error: &Error) -> bool {
    error.code() == Some(ErrorCode::StaleMemberEpoch)
        || (error.is_retriable() && !error.concerns_membership())
}
