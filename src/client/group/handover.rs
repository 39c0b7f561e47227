//! The task that does what takes time: finding where the group is, hooks, commits. One thing after another, in the order in
//! which the broker gave and took.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::builder::AutoCommit;
use super::error::CommitError;
use super::handle::GroupHandle;
use super::hooks;
use super::places::Claim;
use super::shared::Shared;
use crate::client::groups::ResumePoint;
use crate::client::{AssignedPartition, Error, GroupOffset, LostRange, Reset, TopicPartition};
use crate::model::{Offset, TopicId};
use crate::rt::Clock;

/// Pause before the places of partitions that could not be found are looked up again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Shortest time for hooks and commits, where the group says nothing.
const HANDOFF_MIN: Duration = Duration::from_millis(100);

/// A partition to be read, and the claim to it.
type Taken = (AssignedPartition, Claim);

/// What is to be done.
#[derive(Debug)]
pub(super) enum Job {
    Take(Vec<Taken>),
    /// To be handed over by this time, unless the claims have ended.
    Finish(Vec<(TopicPartition, Claim)>, Duration),
    Lost(Vec<TopicPartition>),
    /// The consumer leaves: hooks for everything that it holds, then this is told.
    Leave(oneshot::Sender<()>),
}

impl Job {
    pub(super) fn finish(shared: &Shared, claimed: Vec<(TopicPartition, Claim)>) -> Self {
        Self::Finish(claimed, shared.data.clock.mono() + handoff(shared))
    }

    pub(super) fn is_nothing(&self) -> bool {
        match self {
            Self::Take(taken) => taken.is_empty(),
            Self::Finish(claimed, _) => claimed.is_empty(),
            Self::Lost(partitions) => partitions.is_empty(),
            Self::Leave(_) => false,
        }
    }
}

/// How long handing over may take here: the broker's time also has to hold the heartbeats before and after.
fn handoff(shared: &Shared) -> Duration {
    let places = shared.places();
    let told = places.membership.as_ref().map(|last| last.handoff_timeout);
    told.map_or(HANDOFF_MIN, |told| (told * 3 / 4).max(HANDOFF_MIN))
}

/// The task.
pub(super) struct Handover {
    shared: Arc<Shared>,
    /// Whose place could not be found yet.
    later: Vec<Taken>,
    /// Who has no place unless the program says one.
    lost_places: Vec<Taken>,
    /// Topics of which something was read before.
    begun: BTreeSet<TopicId>,
    /// What the program was told that it has: it hears of the end of that, once, and of no other.
    told: BTreeSet<TopicPartition>,
}

impl Handover {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            later: Vec::new(),
            lost_places: Vec::new(),
            begun: BTreeSet::new(),
            told: BTreeSet::new(),
        }
    }

    /// Works until the keeper has ended.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let every = match self.shared.options.auto_commit {
            AutoCommit::AfterProcessing { every } => Some(every),
            AutoCommit::Off => None,
        };
        let clock = self.shared.data.clock;
        let mut commit_at = every.map(|every| clock.mono() + every);
        loop {
            let until_commit = commit_at.map(|at| at.saturating_sub(clock.mono()));
            tokio::select! {
                job = jobs.recv() => match job {
                    None => return,
                    // What comes behind is committed by leaving.
                    Some(Job::Leave(done)) => return self.leave(done).await,
                    Some(job) => self.work(job).await,
                },
                () = tokio::time::sleep(LOOK_AGAIN), if !self.later.is_empty() => {
                    let again = std::mem::take(&mut self.later);
                    self.take(again, false).await;
                }
                () = self.shared.sought.notified(), if !self.lost_places.is_empty() => {
                    let again = self.sought();
                    self.take(again, false).await;
                }
                () = tokio::time::sleep(until_commit.unwrap_or_default()), if until_commit.is_some() => {
                    self.auto_commit(None).await;
                    commit_at = every.map(|every| clock.mono() + every);
                }
            }
        }
    }

    async fn work(&mut self, job: Job) {
        match job {
            Job::Take(taken) => self.take(taken, true).await,
            Job::Finish(claimed, deadline) => self.finish(&claimed, deadline).await,
            Job::Lost(mut partitions) => {
                partitions.retain(|at| self.told.remove(at));
                if !partitions.is_empty() {
                    let hook = &self.shared.options.hooks.lost;
                    hooks::call(hook, partitions, self.handle()).await;
                }
            }
            Job::Leave(done) => self.leave(done).await,
        }
    }

    async fn leave(&mut self, done: oneshot::Sender<()>) {
        let deadline = self.shared.data.clock.mono() + handoff(&self.shared);
        let held = self.shared.places().all();
        self.call_revoked(held, deadline).await;
        // The consumer may have been dropped meanwhile.
        let _ = done.send(());
    }

    fn handle(&self) -> GroupHandle {
        GroupHandle::new(Arc::clone(&self.shared))
    }

    /// Commits what was processed; what fails is tried again the next time, and in the end with the hand-over.
    async fn auto_commit(&self, of: Option<&[TopicPartition]>) {
        let group = &self.shared.options.group;
        match self.shared.commit_processed(of).await {
            Ok(_) => {}
            Err(error @ CommitError::Lost { .. }) => tracing::info!(%group, %error, "not committed"),
            Err(error) => tracing::warn!(%group, %error, "commit failed"),
        }
    }

    /// Finds out where the group is in partitions that are new, tells the program, and begins to read.
    async fn take(&mut self, taken: Vec<Taken>, is_news: bool) {
        let still: Vec<_> = taken
            .into_iter()
            .filter(|taken| self.is_assigned(taken))
            .collect();
        if still.is_empty() {
            return;
        }
        if is_news {
            let partitions: Vec<_> = still.iter().map(|(taken, _)| taken.partition.clone()).collect();
            self.told.extend(partitions.iter().cloned());
            let hook = &self.shared.options.hooks.assigned;
            let called = hooks::call(hook, partitions, self.handle());
            let limit = handoff(&self.shared);
            if tokio::time::timeout(limit, called).await.is_err() {
                tracing::warn!(group = %self.shared.options.group, after_ms = limit.as_millis(), "the hook on_assigned was given up");
            }
        }
        let mut topics: BTreeMap<Arc<str>, Vec<Taken>> = BTreeMap::new();
        for taken in still {
            topics
                .entry(taken.0.partition.topic.clone())
                .or_default()
                .push(taken);
        }
        for (topic, taken) in topics {
            let indexes: Vec<u32> = taken
                .iter()
                .map(|(taken, _)| taken.partition.partition.0)
                .collect();
            let group = self.shared.options.group.as_ref();
            match self.shared.control.fetch_offsets(group, &topic, &indexes).await {
                Ok(found) => {
                    let ids: Vec<_> = found.iter().flatten().map(|found| found.topic_id).collect();
                    for (taken, found) in taken.into_iter().zip(found) {
                        self.begin(taken, found);
                    }
                    // Behind all of those that came together: they were there before.
                    self.begun.extend(ids);
                }
                Err(error) => {
                    for taken in taken {
                        self.begin(taken, Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Those without a place for which the program has said one; the others wait on, if they are still held.
    fn sought(&mut self) -> Vec<Taken> {
        let all = std::mem::take(&mut self.lost_places);
        let mut places = self.shared.places();
        let mut sought = Vec::new();
        for (taken, claim) in all {
            match places.claimed(&taken.partition, claim).map(|place| place.wanted) {
                Some(Some(_)) => sought.push((taken, claim)),
                Some(None) => self.lost_places.push((taken, claim)),
                None => {}
            }
        }
        sought
    }

    fn is_assigned(&self, (taken, claim): &Taken) -> bool {
        let mut places = self.shared.places();
        let place = places.claimed(&taken.partition, *claim);
        place.is_some_and(|place| place.is_assigned)
    }

    fn begin(&mut self, (taken, claim): Taken, found: Result<GroupOffset, Error>) {
        let options = &self.shared.options;
        let wanted = {
            let mut places = self.shared.places();
            places
                .claimed(&taken.partition, claim)
                .and_then(|place| place.wanted)
        };
        let point = found.and_then(|found| match wanted {
            // The program has said where to begin.
            Some(offset) => Ok((offset, found.committed.map(|committed| committed.offset), None)),
            None => ResumePoint::find(&options.group, &found, self.reset(&found)).map(|point| {
                (
                    point.offset,
                    point.is_committed.then_some(point.offset),
                    point.lost,
                )
            }),
        });
        match point {
            Ok((start, committed, lost)) => {
                self.read(&taken.partition, claim, (start, committed), lost);
            }
            // The group decides what becomes of a topic that is not there.
            Err(error)
                if error.is_retriable() || error.broker().is_some_and(|error| error.says_unknown_topic()) =>
            {
                tracing::debug!(%error, topic = %taken.partition.topic, "the place of the group was not found");
                self.later.push((taken, claim));
            }
            Err(error) => {
                self.lost_places.push((taken, claim));
                let mut places = self.shared.places();
                places.errors.push_back(error);
                places.wake();
            }
        }
    }

    /// A partition that a topic got while it was read has nothing in it that anybody could have passed over: where nothing was
    /// committed it is read from its beginning, however new the rest was to be.
    fn reset(&self, found: &GroupOffset) -> Reset {
        match self.shared.options.reset {
            Reset::Latest if found.committed.is_none() && self.begun.contains(&found.topic_id) => {
                Reset::Earliest
            }
            reset => reset,
        }
    }

    fn read(
        &self,
        partition: &TopicPartition,
        claim: Claim,
        place: (Offset, Option<Offset>),
        lost: Option<(Offset, Offset)>,
    ) {
        let mut places = self.shared.places();
        if let Some((first, last)) = lost {
            places.note_lost(LostRange {
                topic: Arc::clone(&partition.topic),
                partition: partition.partition,
                first,
                last,
            });
        }
        places.begin(partition, claim, place, |start| {
            self.shared.read(partition, start)
        });
    }

    /// Hands partitions over: what was handed out is finished, the program may commit, what was processed is committed, and
    /// then the broker is told. What is not finished in time comes again elsewhere.
    async fn finish(&mut self, claimed: &[(TopicPartition, Claim)], deadline: Duration) {
        self.wait_until_processed(claimed, deadline).await;
        // What was lost meanwhile, and perhaps given anew, is not the one that was to be handed over.
        let partitions = self.shared.places().held_as(claimed);
        self.call_revoked(partitions.clone(), deadline).await;
        if self.shared.options.auto_commit != AutoCommit::Off {
            let left = self.left(deadline).max(HANDOFF_MIN);
            let commit = self.auto_commit(Some(&partitions));
            if tokio::time::timeout(left, commit).await.is_err() {
                tracing::warn!(group = %self.shared.options.group, "partitions are handed over without their last commit: it was not answered in time");
            }
        }
        {
            let mut places = self.shared.places();
            let held = places.held_as(claimed);
            places.lose(&held);
            places.released.extend(held);
        }
        self.shared.heartbeat.notify_one();
    }

    fn left(&self, deadline: Duration) -> Duration {
        deadline.saturating_sub(self.shared.data.clock.mono())
    }

    async fn wait_until_processed(&self, claimed: &[(TopicPartition, Claim)], deadline: Duration) {
        let processed = async {
            loop {
                let settled = self.shared.settled.notified();
                if !self.shared.places().is_in_hand(claimed) {
                    return;
                }
                settled.await;
            }
        };
        if tokio::time::timeout(self.left(deadline), processed)
            .await
            .is_err()
        {
            tracing::warn!(group = %self.shared.options.group, "a record was not processed within the hand-off timeout: it comes again elsewhere");
        }
    }

    async fn call_revoked(&mut self, mut partitions: Vec<TopicPartition>, deadline: Duration) {
        partitions.retain(|at| self.told.remove(at));
        if partitions.is_empty() {
            return;
        }
        let hook = &self.shared.options.hooks.revoked;
        let called = hooks::call(hook, partitions, self.handle());
        if tokio::time::timeout(self.left(deadline), called).await.is_err() {
            tracing::warn!(group = %self.shared.options.group, "the hook on_revoked was given up at the hand-off timeout");
        }
    }
}
