//! Steps of a member: what was made of records is appended and the records are committed, all of it or nothing.

use std::sync::Arc;
use std::time::Duration;

use super::builder::AutoCommit;
use super::error::CommitError;
use super::places::{Claim, Done};
use super::record::{GroupBatch, GroupRecord};
use super::shared::{REFUSALS_MAX, Shared, offsets};
use crate::client::stepper::{Stepper, Tried, behind};
use crate::client::{Error, ProducerRecord, Step, StepMetadata, TopicPartition};
use crate::model::{Offset, PartitionId, TopicId};
use crate::rt::Clock;

/// Up to where a partition was read: everything before, and a record or batch. Made of a reference to either.
#[derive(Clone, Debug)]
pub struct Consumed {
    topic: Arc<str>,
    partition: PartitionId,
    claim: Claim,
    offset: Offset,
}

/// Steps of a consumer, made one after another.
#[derive(Debug, Default)]
pub(super) struct Steps {
    stepper: Stepper,
    /// What the undecided step was made of.
    done: Vec<Done>,
}

/// A step that is being made up: records to append, and what they were made of. Begun with
/// [`GroupConsumer::step`](super::GroupConsumer::step); nothing happens before [`send`](Self::send).
///
/// A step that fails, or is dropped before it was sent, did not happen: the consumer goes back to where its group is, and what the
/// step was made of comes again. Only if it failed with [`Error::may_have_taken_effect`], or if the future of `send` was dropped, is
/// that not known yet: the same step may be sent again, or else the consumer finds it out before the next step, and goes on
/// where the group is then.
#[derive(Debug)]
#[must_use = "a step does nothing before it is sent"]
pub struct GroupStep {
    shared: Arc<Shared>,
    records: Vec<ProducerRecord>,
    consumed: Vec<Consumed>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    /// Under this number.
    Sent(u64),
    Decided,
}

impl From<&GroupRecord> for Consumed {
    fn from(record: &GroupRecord) -> Self {
        Self {
            topic: Arc::clone(&record.topic),
            partition: record.partition,
            claim: record.claim,
            offset: record.offset.next(),
        }
    }
}

impl From<&GroupBatch> for Consumed {
    fn from(batch: &GroupBatch) -> Self {
        Self {
            topic: Arc::clone(&batch.partition.topic),
            partition: batch.partition.partition,
            claim: batch.claim,
            offset: batch.batch.header.last_offset().next(),
        }
    }
}

impl Consumed {
    /// The place to commit. One that is not held has an id that nobody holds.
    pub(super) fn done(&self, shared: &Shared) -> Done {
        let places = shared.places();
        let held = places.named(&self.topic, self.partition).cloned();
        let partition = held.unwrap_or_else(|| TopicPartition {
            topic: Arc::clone(&self.topic),
            topic_id: TopicId::from_bytes([0; 16]),
            partition: self.partition,
        });
        Done {
            partition,
            claim: self.claim,
            offset: self.offset,
        }
    }
}

impl Steps {
    /// Whether it is not known how far the group is in one of these partitions.
    pub(super) fn leave_open(&self, partition: &TopicPartition) -> bool {
        self.stepper.undecided().is_some() && self.done.iter().any(|done| done.partition == *partition)
    }

    /// Makes the undecided step. A refusal that concerns the membership is no decision while the partitions are held: the next
    /// heartbeat may tell a new epoch.
    async fn decide(&mut self, shared: &Shared, deadline: Duration) -> Result<StepMetadata, CommitError> {
        let mut member = shared.member.subscribe();
        let mut refusals = 0;
        loop {
            let gone = shared.places().gone(&self.done);
            if !gone.is_empty() && !self.stepper.is_unknown() {
                self.stepper.give_up();
                return Err(self.not_taken(
                    shared,
                    CommitError::Lost {
                        partitions: gone,
                        may_have_been_kept: false,
                    },
                ));
            }
            let now = member.borrow_and_update().clone();
            let who = |step: &mut Step| {
                // Who holds it no more asks as who it was: the broker says whether it was taken then, and takes nothing now.
                if gone.is_empty() {
                    step.member = Some(now);
                }
            };
            let error = match self.stepper.try_until(&shared.control, deadline, who).await {
                Some(Tried::Taken(taken)) => {
                    shared.places().stepped(&std::mem::take(&mut self.done));
                    shared.settled.notify_one();
                    return Ok(taken);
                }
                Some(Tried::Unknown(error)) => return Err(error.into()),
                Some(Tried::Refused(error)) => return Err(self.not_taken(shared, error.into())),
                Some(Tried::NotAsThis(error)) => error,
                None => return Err(Error::Usage("there is no step to make".into()).into()),
            };
            let gone = shared.places().gone(&self.done);
            if !gone.is_empty() {
                continue;
            }
            shared.heartbeat.notify_one();
            refusals += u32::from(!error.is_stale_epoch());
            let left = deadline.saturating_sub(shared.data.clock.mono());
            let news = tokio::time::timeout(left, member.changed()).await;
            if refusals >= REFUSALS_MAX || !matches!(news, Ok(Ok(()))) {
                self.stepper.give_up();
                return Err(self.not_taken(shared, error.into()));
            }
        }
    }

    fn not_taken(&mut self, shared: &Shared, error: CommitError) -> CommitError {
        shared.go_back(&std::mem::take(&mut self.done));
        error
    }

    /// Finds out what became of a step whose fate its program did not wait for.
    async fn settle(&mut self, shared: &Shared, deadline: Duration) -> Result<(), Error> {
        if self.stepper.undecided().is_none() {
            return Ok(());
        }
        let done = self.done.clone();
        let decided = self.decide(shared, deadline).await;
        match decided {
            // The program does not know which of the records that it has were in it: all of them come again, but for those.
            Ok(_) => shared.go_back(&done),
            Err(CommitError::Failed(error)) if self.stepper.undecided().is_some() => {
                return Err(behind(error, shared.data.config.request_timeout));
            }
            Err(_) => {}
        }
        Ok(())
    }

    async fn begin(&mut self, shared: &Shared, step: &GroupStep, done: Vec<Done>) -> Result<u64, Error> {
        let output = self.stepper.output(&shared.control, &step.records).await?;
        let items = offsets(&done);
        let number = self
            .stepper
            .begin(
                &shared.control,
                |producer, sequence, appends| Step {
                    group: shared.options.group.as_ref().to_owned(),
                    member: Some(shared.member.borrow().clone()),
                    producer,
                    sequence,
                    offsets: items,
                    appends,
                },
                output,
            )
            .await?;
        self.done = done;
        Ok(number)
    }
}

impl GroupStep {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            records: Vec::new(),
            consumed: Vec::new(),
            state: State::New,
        }
    }

    /// Adds a record to append. Records without a partition go where a producer would send them by their key; those without a key
    /// stay together.
    pub fn append(mut self, record: ProducerRecord) -> Self {
        self.records.push(record);
        self
    }

    /// Adds what the records were made of: a [`GroupRecord`] or [`GroupBatch`], and everything before it in its partition. Of
    /// several from one partition the last is enough.
    pub fn consumed(mut self, consumed: impl Into<Consumed>) -> Self {
        self.consumed.push(consumed.into());
        self
    }

    /// Takes the step: when this returns, all of it is safe and visible. Over lost answers and connections the same step is sent
    /// again, within the request timeout, and the broker takes it once.
    ///
    /// # Errors
    /// [`CommitError::Lost`] names partitions that the member does not hold any more, or in which the consumer has gone back since
    /// the record was read; `Failed` with `Usage` if the consumer commits by itself, with what is wrong with the records, and with
    /// what else requests fail of. Unless [`Error::may_have_taken_effect`] says otherwise nothing of it was kept, and what is
    /// still held comes again.
    pub async fn send(&mut self) -> Result<StepMetadata, CommitError> {
        let shared = Arc::clone(&self.shared);
        if shared.options.auto_commit != AutoCommit::Off {
            return Err(usage(
                "this consumer commits by itself, which its steps would come behind: build it with AutoCommit::Off",
            ));
        }
        let mut steps = shared.steps.lock().await;
        let deadline = shared.data.clock.mono() + shared.data.config.request_timeout;
        match self.state {
            State::Decided => return Err(usage("the step is decided already")),
            State::Sent(number) => {
                if steps.stepper.undecided().map(|step| step.number) != Some(number) {
                    self.state = State::Decided;
                    return Err(usage(
                        "the step was decided before another one was taken, and the consumer went on where its group was",
                    ));
                }
            }
            State::New => {
                steps.settle(&shared, deadline).await?;
                let done = self.done()?;
                let lost = shared.places().not_held(&done);
                if !lost.is_empty() {
                    return Err(self.never_begun(CommitError::Lost {
                        partitions: lost,
                        may_have_been_kept: false,
                    }));
                }
                match steps.begin(&shared, self, done).await {
                    Ok(number) => self.state = State::Sent(number),
                    Err(error) => return Err(self.never_begun(error.into())),
                }
            }
        }
        let decided = steps.decide(&shared, deadline).await;
        if steps.stepper.undecided().is_none() {
            self.state = State::Decided;
        }
        decided
    }

    /// One place for each partition: the last.
    fn done(&self) -> Result<Vec<Done>, CommitError> {
        let mut done: Vec<Done> = Vec::new();
        for next in self.consumed.iter().map(|consumed| consumed.done(&self.shared)) {
            match done.iter_mut().find(|known| known.partition == next.partition) {
                None => done.push(next),
                // Of two times of reading the earlier one is lost, and with it the step.
                Some(known) if known.claim != next.claim => known.claim = known.claim.min(next.claim),
                Some(known) => known.offset = known.offset.max(next.offset),
            }
        }
        if done.is_empty() && self.records.is_empty() {
            return Err(usage("a step needs something to append or to commit"));
        }
        Ok(done)
    }

    fn never_begun(&mut self, error: CommitError) -> CommitError {
        self.go_back();
        error
    }

    fn go_back(&mut self) {
        self.state = State::Decided;
        let done: Vec<_> = self
            .consumed
            .iter()
            .map(|consumed| consumed.done(&self.shared))
            .collect();
        self.shared.go_back(&done);
    }
}

impl Drop for GroupStep {
    fn drop(&mut self) {
        if self.state == State::New {
            self.go_back();
        }
    }
}

fn usage(text: &str) -> CommitError {
    Error::Usage(text.to_owned()).into()
}
