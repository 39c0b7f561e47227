//! What the consumer, its handles and its tasks have in common.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::builder::Options;
use super::error::CommitError;
use super::membership::Beat;
use super::places::{Done, Places};
use super::step::Steps;
use crate::client::fetcher::FetchAs;
use crate::client::link::{Link, pause_after};
use crate::client::reader::{PartitionReader, ReaderOptions, Source};
use crate::client::{Client, Error, GroupHeartbeat, GroupMember, Membership, OffsetToCommit, TopicPartition};
use crate::model::{ErrorClass, ErrorCode, Offset, Timestamp};
use crate::rt::Clock;

/// Refusals of one commit that say that the membership has ended, while heartbeats say that it has not.
pub(super) const REFUSALS_MAX: u32 = 5;

/// Waited for the answer to a heartbeat beside what it may be held back, before anything is known about the session.
const FIRST_ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Fetches that may wait on one connection, where the broker does not say.
const FETCHES_WAITING_DEFAULT: usize = 64;

#[derive(Debug)]
pub(super) struct Shared {
    /// A connection of its own: the broker sees its end as the end of this consumer, and heartbeats do not queue behind
    /// anybody's fetches.
    pub(super) control: Client,
    /// Records come over the connection of the program's client,
    pub(super) data: Arc<Link>,
    /// and over these, if there are more partitions than one connection may have waiting fetches.
    more: Mutex<Vec<Arc<Link>>>,
    pub(super) options: Options,
    places: Mutex<Places>,
    /// Who this is, as the last answer told it; changes with every answer.
    pub(super) member: watch::Sender<GroupMember>,
    /// Asks for a heartbeat at once.
    pub(super) heartbeat: Arc<Notify>,
    /// What was in hand is processed.
    pub(super) settled: Notify,
    /// Commits and steps are made one after another.
    pub(super) steps: tokio::sync::Mutex<Steps>,
    /// The program has said where to go on.
    pub(super) sought: Notify,
}

impl Shared {
    pub(super) fn new(control: Client, data: Arc<Link>, options: Options, member: GroupMember) -> Self {
        Self {
            control,
            data,
            more: Mutex::default(),
            options,
            places: Mutex::default(),
            member: watch::Sender::new(member),
            heartbeat: Arc::default(),
            settled: Notify::new(),
            steps: tokio::sync::Mutex::default(),
            sought: Notify::new(),
        }
    }

    pub(super) fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().expect("no panics while locked")
    }

    /// Goes on where the group is; nothing of these partitions is in hand any more.
    pub(super) fn go_back(&self, done: &[Done]) {
        self.places().go_back(done);
        self.settled.notify_one();
    }

    /// Sends a heartbeat and waits for the answer.
    pub(super) async fn beat(&self, beat: &Beat) -> Result<Membership, Error> {
        let last = self
            .places()
            .membership
            .as_ref()
            .map(|last| (last.heartbeat, last.session_timeout));
        let (heartbeat, session) = last.unwrap_or((Duration::ZERO, FIRST_ANSWER_WAIT));
        // Given up while there is time for another one within the session.
        let patience = self.data.config.request_timeout.min(session / 2);
        let request = GroupHeartbeat {
            group: self.options.group.as_ref().to_owned(),
            member: beat.member.clone(),
            revision: beat.revision,
            client_id: self.data.config.client_id.clone(),
            max_wait: if beat.waits() { heartbeat } else { Duration::ZERO },
            subscription: beat.subscribes.then(|| self.options.subscription.clone()),
            owned: beat.owned.clone(),
        };
        self.control.group_heartbeat_within(request, patience).await
    }

    /// Reads a partition as the member that this is.
    pub(super) fn read(&self, partition: &TopicPartition, from: Offset) -> PartitionReader {
        let source = Source {
            topic: Arc::clone(&partition.topic),
            topic_id: partition.topic_id,
            partition: partition.partition.0,
            member: Some(FetchAs {
                group: Arc::clone(&self.options.group),
                member: self.member.subscribe(),
                heartbeat: Arc::clone(&self.heartbeat),
            }),
        };
        let options = ReaderOptions {
            // One fetch waits while another is under way.
            fetch_bytes: (self.options.prefetch_bytes / 2).max(1),
            // Whether there is anything to read decides the group: a reader does not end by itself.
            give_up_after: Duration::MAX,
            ..ReaderOptions::default()
        };
        PartitionReader::start(self.data_link(), source, options, from)
    }

    /// The connection with the fewest readers; a new one if it has as many as may wait there. A reader whose fetch had to wait for
    /// those of others would hear of its records late.
    fn data_link(&self) -> Arc<Link> {
        let waiting_max = match self.data.info().limits.requests_parked_max {
            0 => FETCHES_WAITING_DEFAULT,
            max => usize::try_from(max).unwrap_or(usize::MAX),
        };
        // The program may have fetches of its own; a reader and its fetcher hold the link once each.
        let full = (waiting_max / 4 * 3).max(1).saturating_mul(2);
        let mut more = self.more.lock().expect("no panics while locked");
        let all = std::iter::once(&self.data).chain(more.iter());
        match all.min_by_key(|link| Arc::strong_count(link)) {
            Some(freest) if Arc::strong_count(freest) < full => Arc::clone(freest),
            _ => {
                let link = self.data.another_later();
                more.push(Arc::clone(&link));
                link
            }
        }
    }

    /// Commits what was processed, of these partitions or of all; `None` if the broker has all of it.
    pub(super) async fn commit_processed(
        &self,
        of: Option<&[TopicPartition]>,
    ) -> Result<Option<Timestamp>, CommitError> {
        let steps = self.steps.lock().await;
        let mut done = self.places().uncommitted(of);
        // How far the group is there says the step.
        done.retain(|done| !steps.leave_open(&done.partition));
        if done.is_empty() {
            return Ok(None);
        }
        self.commit_as_member(&done).await.map(Some)
    }

    /// Commits places that were processed.
    pub(super) async fn commit(&self, done: &[Done]) -> Result<Timestamp, CommitError> {
        let steps = self.steps.lock().await;
        if done.iter().any(|done| steps.leave_open(&done.partition)) {
            return Err(
                Error::Usage("a step of this partition is undecided: send it again first".into()).into(),
            );
        }
        self.commit_as_member(done).await
    }

    async fn commit_as_member(&self, done: &[Done]) -> Result<Timestamp, CommitError> {
        let at = self
            .as_member(done, |member, offsets| async move {
                let group = self.options.group.as_ref();
                self.control.commit_offsets_as(group, &member, offsets).await
            })
            .await?;
        self.places().committed(done);
        Ok(at)
    }

    /// Makes a request of the member about these places, again after the next heartbeat if its epoch has passed.
    pub(super) async fn as_member<T, Fut>(
        &self,
        done: &[Done],
        request: impl Fn(GroupMember, Vec<OffsetToCommit>) -> Fut,
    ) -> Result<T, CommitError>
    where
        Fut: Future<Output = Result<T, Error>>,
    {
        let clock = &self.data.clock;
        let deadline = clock.mono() + self.data.config.request_timeout;
        let mut member = self.member.subscribe();
        let mut refusals = 0;
        // The answer to an attempt was lost: it may count, whatever is said to the next one.
        let mut may_have_been_kept = false;
        loop {
            let lost = self.places().not_held(done);
            if !lost.is_empty() {
                return Err(CommitError::Lost {
                    partitions: lost,
                    may_have_been_kept,
                });
            }
            let now = member.borrow_and_update().clone();
            let error = match request(now, offsets(done)).await {
                Ok(got) => return Ok(got),
                Err(error) => error,
            };
            may_have_been_kept |= error.may_have_taken_effect();
            let error = match may_have_been_kept {
                true => error.after_unknown_attempt(),
                false => error,
            };
            let is_stale = error.is_stale_epoch();
            let is_out = error
                .broker()
                .is_some_and(|error| error.class == ErrorClass::Rejoin);
            let is_replaced = error.code() == Some(ErrorCode::FencedInstanceId);
            // With nothing to commit there is nothing to find out.
            let may_go_on = is_stale || ((is_out || is_replaced) && !done.is_empty());
            if !may_go_on {
                return Err(error.into());
            }
            // Whether the partitions are still held decides the heartbeat.
            self.heartbeat.notify_one();
            refusals += u32::from(!is_stale);
            let left = deadline.saturating_sub(clock.mono());
            let news = tokio::time::timeout(left, member.changed()).await;
            if refusals >= REFUSALS_MAX || !matches!(news, Ok(Ok(()))) {
                return Err(error.into());
            }
        }
    }

    /// How long to wait after failures in a row.
    pub(super) fn pause(&self, error: &Error, failures: u32) -> Duration {
        pause_after(error, self.data.backoff(), failures)
    }
}

pub(super) fn offsets(done: &[Done]) -> Vec<OffsetToCommit> {
    let offset = |done: &Done| OffsetToCommit {
        topic_id: Some(done.partition.topic_id),
        ..OffsetToCommit::new(
            done.partition.topic.as_ref(),
            done.partition.partition.0,
            done.offset,
        )
    };
    done.iter().map(offset).collect()
}
