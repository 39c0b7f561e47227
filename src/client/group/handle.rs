//! What a program can ask of its consumer from anywhere: from hooks and from other tasks.

use std::sync::Arc;

use super::error::CommitError;
use super::record::GroupRecord;
use super::shared::Shared;
use super::step::{Consumed, GroupStep};
use crate::client::{Error, GroupMember, LostRange, MemberRole, Membership, TopicPartition};
use crate::model::{Offset, Timestamp};

/// A handle of a [`GroupConsumer`](super::GroupConsumer). Clones share it; when the consumer is gone nothing is held any more.
#[derive(Clone, Debug)]
pub struct GroupHandle {
    shared: Arc<Shared>,
}

/// How a consumer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumerState {
    /// On its way into the group.
    Joining,
    /// It has partitions, or is to have some.
    Active,
    /// There are no partitions for it now.
    Standby {
        /// Its place in the line, from 1.
        rank: u32,
        /// Why, in words.
        reason: String,
    },
    /// It has left, or was told that it is out for good.
    Ended,
}

impl GroupHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Commits all that was processed, in all partitions at once: what was handed out before the last
    /// [`next`](super::GroupConsumer::next). Returns when, by the broker's clock; `None` if the broker has all of it.
    ///
    /// # Errors
    /// [`CommitError::Lost`] names partitions that are not held any more.
    pub async fn commit(&self) -> Result<Option<Timestamp>, CommitError> {
        self.shared.commit_processed(None).await
    }

    /// Commits that the records of one partition were processed up to this one, this one included.
    ///
    /// # Errors
    /// As [`commit`](Self::commit); `Lost` also if the partition has been away since the record was read.
    pub async fn commit_through(&self, record: &GroupRecord) -> Result<Timestamp, CommitError> {
        let done = Consumed::from(record).done(&self.shared);
        self.shared.commit(&[done]).await
    }

    /// Begins a step, see [`GroupConsumer::step`](super::GroupConsumer::step). Also for the hook `on_revoked`.
    pub fn step(&self) -> GroupStep {
        GroupStep::new(Arc::clone(&self.shared))
    }

    /// The partitions that are read.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.shared.places().assigned()
    }

    /// How it is.
    pub fn state(&self) -> ConsumerState {
        let places = self.shared.places();
        if places.has_ended {
            return ConsumerState::Ended;
        }
        match places.membership.as_ref().map(|last| &last.role) {
            None => ConsumerState::Joining,
            Some(MemberRole::Active) => ConsumerState::Active,
            Some(MemberRole::Standby { rank, reason }) => ConsumerState::Standby {
                rank: *rank,
                reason: reason.clone(),
            },
        }
    }

    /// What the broker said last; `None` while it joins.
    pub fn membership(&self) -> Option<Membership> {
        self.shared.places().membership.clone()
    }

    /// Why the assignment that this member proposed last as the leader was not taken; `None` if it was.
    pub fn refused_proposal(&self) -> Option<Error> {
        self.shared.places().refused_proposal.clone()
    }

    /// Who it is now, for requests of its own.
    pub fn member(&self) -> GroupMember {
        self.shared.member.borrow().clone()
    }

    /// Offset of the next record of a partition; `None` if it is not held, or not read yet.
    pub fn position(&self, partition: &TopicPartition) -> Option<Offset> {
        self.shared.places().position(partition)
    }

    /// Goes on at this offset, which is then how far the group is there.
    ///
    /// # Errors
    /// `Usage` if the partition is not assigned.
    pub fn seek(&self, partition: &TopicPartition, offset: Offset) -> Result<(), Error> {
        let done = self.shared.places().seek(partition, offset);
        self.shared.settled.notify_one();
        self.shared.sought.notify_one();
        assigned(done, partition)
    }

    /// Hands out nothing of this partition until [`resume`](Self::resume); it stays assigned.
    ///
    /// # Errors
    /// As [`seek`](Self::seek).
    pub fn pause(&self, partition: &TopicPartition) -> Result<(), Error> {
        assigned(self.shared.places().pause(partition, true), partition)
    }

    /// Hands out again what [`pause`](Self::pause) stopped.
    ///
    /// # Errors
    /// As [`seek`](Self::seek).
    pub fn resume(&self, partition: &TopicPartition) -> Result<(), Error> {
        assigned(self.shared.places().pause(partition, false), partition)
    }

    /// Offsets that went before the group had read them, so far; with [`Reset::Error`](crate::client::Reset::Error) they are
    /// errors instead.
    pub fn lost_ranges(&self) -> Vec<LostRange> {
        self.shared.places().lost.clone()
    }
}

fn assigned(done: bool, partition: &TopicPartition) -> Result<(), Error> {
    if done {
        return Ok(());
    }
    let (topic, index) = (&partition.topic, partition.partition);
    Err(Error::Usage(format!(
        "{topic}/{index} is not assigned to this consumer"
    )))
}
