//! The consumer as a program holds it: a stream of records.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};

use super::builder::AutoCommit;
use super::error::CommitError;
use super::handle::{ConsumerState, GroupHandle};
use super::handover::Job;
use super::record::{GroupBatch, GroupRecord};
use super::shared::Shared;
use super::step::GroupStep;
use crate::client::{ClosedConsumer, Error, TopicPartition};
use crate::model::{ErrorCode, Offset, Timestamp};

/// A member of a group. The broker says which partitions it reads; records of one partition come in order, those of several
/// take turns. Also a stream of records.
///
/// A record counts as processed when the next one is asked for, or when [`commit`](Self::commit) is called. Unless told
/// otherwise, the consumer commits by itself what was processed, so each record is processed at least once.
///
/// Dropped without [`close`](Self::close) it lets its connection go, and the group goes on without it a moment later.
#[derive(Debug)]
pub struct GroupConsumer {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

impl GroupConsumer {
    pub(super) fn new(shared: Arc<Shared>, jobs: mpsc::Sender<Job>) -> Self {
        Self { shared, jobs }
    }

    /// The next record of any partition; waits for one, and for partitions. `None` when the consumer has ended.
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// A partition that fails is reported once; the others go on. `FENCED_INSTANCE_ID`, and whatever else makes an end of the
    /// membership for good, is the last thing that comes.
    pub async fn next(&mut self) -> Option<Result<GroupRecord, Error>> {
        std::future::poll_fn(|context| self.poll_record(context)).await
    }

    /// The next batch of any partition, for those who decode by themselves. All of it counts as processed when the next one is
    /// asked for.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn next_batch(&mut self) -> Option<Result<GroupBatch, Error>> {
        std::future::poll_fn(|context| self.poll_batch(context)).await
    }

    /// The batches as a stream, see [`next_batch`](Self::next_batch). It may be dropped and begun again: nothing is lost.
    pub fn batches(&mut self) -> GroupBatches<'_> {
        GroupBatches { consumer: self }
    }

    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<GroupBatch, Error>>> {
        self.settle();
        let options = &self.shared.options;
        self.shared
            .places()
            .poll_batch(context, (&options.group, options.reset))
    }

    fn poll_record(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<GroupRecord, Error>>> {
        self.settle();
        let options = &self.shared.options;
        self.shared
            .places()
            .poll_record(context, (&options.group, options.reset))
    }

    /// What was handed out is processed.
    fn settle(&self) {
        if self.shared.places().settle() {
            self.shared.settled.notify_one();
        }
    }

    /// Commits that everything handed out so far was processed, in all partitions at once. Returns when, by the broker's
    /// clock; `None` if the broker has all of it already.
    ///
    /// # Errors
    /// [`CommitError::Lost`] names partitions that are not held any more.
    pub async fn commit(&mut self) -> Result<Option<Timestamp>, CommitError> {
        self.settle();
        self.shared.commit_processed(None).await
    }

    /// Commits that the records of one partition were processed up to this one, this one included.
    ///
    /// # Errors
    /// As [`GroupHandle::commit_through`].
    pub async fn commit_through(&mut self, record: &GroupRecord) -> Result<Timestamp, CommitError> {
        self.handle().commit_through(record).await
    }

    /// Begins a step: the records that were made of what was read are appended, and what was read is committed, all of it or
    /// nothing. So each record counts once in what is made of it, whatever dies on the way.
    ///
    /// ```no_run
    /// # use naru::client::{Client, CommitError, AutoCommit, ProducerRecord};
    /// # async fn bills(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let billing = client.group_consumer("billing").topics(["orders"]);
    /// let mut consumer = billing.auto_commit(AutoCommit::Off).build().await?;
    /// while let Some(order) = consumer.next().await {
    ///     let order = order?;
    ///     let bill = ProducerRecord::to("bills").value(order.value.clone().unwrap_or_default());
    ///     match consumer.step().append(bill).consumed(&order).send().await {
    ///         // Of what is lost somebody else makes the bills, from where the group is.
    ///         Ok(_) | Err(CommitError::Lost { .. }) => {}
    ///         Err(error) => return Err(error.into()),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It needs [`AutoCommit::Off`]: what is committed beside the steps is passed over by them.
    pub fn step(&self) -> GroupStep {
        GroupStep::new(Arc::clone(&self.shared))
    }

    /// For hooks and other tasks.
    pub fn handle(&self) -> GroupHandle {
        GroupHandle::new(Arc::clone(&self.shared))
    }

    /// The partitions that are read.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.handle().assignment()
    }

    /// How it is.
    pub fn state(&self) -> ConsumerState {
        self.handle().state()
    }

    /// Offset of the next record of a partition; `None` if it is not held, or not read yet.
    pub fn position(&self, partition: &TopicPartition) -> Option<Offset> {
        self.handle().position(partition)
    }

    /// Of which partition the last error was, if it was about one: behind [`Error::damaged_offsets`] it can be read on.
    pub fn failed_partition(&self) -> Option<TopicPartition> {
        self.shared.places().failed.clone()
    }

    /// Goes on at this offset.
    ///
    /// # Errors
    /// As [`GroupHandle::seek`].
    pub fn seek(&mut self, partition: &TopicPartition, offset: Offset) -> Result<(), Error> {
        self.handle().seek(partition, offset)
    }

    /// Hands out nothing of this partition until [`resume`](Self::resume).
    ///
    /// # Errors
    /// As [`GroupHandle::seek`].
    pub fn pause(&mut self, partition: &TopicPartition) -> Result<(), Error> {
        self.handle().pause(partition)
    }

    /// Hands out again what [`pause`](Self::pause) stopped.
    ///
    /// # Errors
    /// As [`GroupHandle::seek`].
    pub fn resume(&mut self, partition: &TopicPartition) -> Result<(), Error> {
        self.handle().resume(partition)
    }

    /// Leaves: the hook `on_revoked` for all that is held, then the last commit and the leaving in one step, so that the group
    /// goes on at once. What was handed out last counts as processed only if [`commit`](Self::commit) was called after it.
    /// With [`AutoCommit::Off`] nothing is committed here.
    ///
    /// # Errors
    /// [`CommitError::Lost`] if the group had removed this member, so that its last commit was not kept.
    pub async fn close(self) -> Result<(), CommitError> {
        {
            let mut places = self.shared.places();
            if places.has_ended {
                return Ok(());
            }
            places.is_closing = true;
            places.stop_reading();
        }
        self.shared.settled.notify_one();
        let (leave, left) = oneshot::channel();
        if self.jobs.send(Job::Leave(leave)).await.is_ok() {
            // Without an answer the tasks have ended already, and there is nobody to wait for.
            let _ = left.await;
        }
        self.leave().await
    }

    async fn leave(&self) -> Result<(), CommitError> {
        let done = match self.shared.options.auto_commit {
            AutoCommit::AfterProcessing { .. } => self.shared.places().uncommitted(None),
            AutoCommit::Off => Vec::new(),
        };
        let shared = &self.shared;
        let closed: Result<ClosedConsumer, _> = shared
            .as_member(&done, |member, offsets| async move {
                let group = shared.options.group.as_ref();
                shared.control.close_consumer(group, &member, offsets).await
            })
            .await;
        match closed {
            Ok(_) => Ok(()),
            // It has left already: an answer was lost on the way, or the group removed it, with nothing to commit.
            Err(CommitError::Failed(error))
                if error.code() == Some(ErrorCode::UnknownMemberId)
                    && (done.is_empty() || error.may_have_taken_effect()) =>
            {
                Ok(())
            }
            // The same, and the heartbeat has said so first.
            Err(CommitError::Lost {
                may_have_been_kept: true,
                ..
            }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        // Readers end, and handles that are left hold nothing.
        drop(self.shared.places().end(None));
        self.shared.control.link.close();
    }
}

impl futures_core::Stream for GroupConsumer {
    type Item = Result<GroupRecord, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_record(context)
    }
}

/// A stream of whole batches, of [`GroupConsumer::batches`].
#[derive(Debug)]
pub struct GroupBatches<'a> {
    consumer: &'a mut GroupConsumer,
}

impl futures_core::Stream for GroupBatches<'_> {
    type Item = Result<GroupBatch, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().consumer.poll_batch(context)
    }
}
