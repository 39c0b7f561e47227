//! Appending and committing in one step, as one request.

use std::time::Duration;

use bytes::Bytes;

use super::admin::{decode, offset, unexpected};
use super::groups::{OffsetToCommit, items_to_commit, place};
use super::link::Repeat;
use super::members::GroupMember;
use super::{Client, Error};
use crate::model::{
    Acks, LeaderEpoch, Lsn, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicId,
};
use crate::pb::v1 as pb;
use crate::pb::v1::{request::Body as RequestBody, response::Body as ResponseBody};

const WHAT: &str = "step";

/// A step of a group: batches to append and offsets to commit, all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The group.
    pub group: String,
    /// Who commits; `None`: a consumer that assigns itself.
    pub member: Option<GroupMember>,
    /// A producer of [`Client::init_producer`].
    pub producer: (ProducerId, ProducerEpoch),
    /// Number of the step in the group: 0 for the first of a producer epoch. The same one again is the same step.
    pub sequence: Sequence,
    /// Where the group is then.
    pub offsets: Vec<OffsetToCommit>,
    /// What is appended.
    pub appends: Vec<StepAppend>,
}

/// A batch of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepAppend {
    /// Name of the topic.
    pub topic: String,
    /// Its id. If given it wins over the name.
    pub topic_id: Option<TopicId>,
    /// The partition.
    pub partition: PartitionId,
    /// A whole record batch without a producer of its own.
    pub batch: Bytes,
}

/// A step that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stepped {
    /// When, by the broker's clock.
    pub committed: Timestamp,
    /// It had been taken before.
    pub duplicate: bool,
    /// How safe it is.
    pub acks: Acks,
    /// The journal frame that made it durable, for [`Acks::Fsync`].
    pub durable_through: Option<Lsn>,
    /// One per append, in that order; empty for a duplicate older than what the broker remembers.
    pub appends: Vec<SteppedAppend>,
}

/// Where a batch of a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteppedAppend {
    /// Offset of the first record.
    pub base: Offset,
    /// Offset of the last record.
    pub last: Offset,
    /// When it was appended.
    pub append_time: Timestamp,
    /// Epoch stamped into it.
    pub leader_epoch: LeaderEpoch,
}

impl Client {
    /// A new idempotent producer, or the next epoch of one: earlier epochs are refused from then on.
    ///
    /// # Errors
    /// `Broker` with `UNKNOWN_PRODUCER_ID` or `INVALID_PRODUCER_EPOCH`, and those of every request.
    pub async fn init_producer(
        &self,
        current: Option<(ProducerId, ProducerEpoch)>,
    ) -> Result<(ProducerId, ProducerEpoch), Error> {
        const WHAT: &str = "init producer";
        let body = RequestBody::InitProducer(pb::InitProducerRequest {
            producer_id: current.map_or(-1, |(id, _)| id.0),
            producer_epoch: current.map_or(-1, |(_, epoch)| i32::from(epoch.0)),
        });
        // A new id costs nothing if the answer is lost; the next epoch of an id may be handed out once only.
        let repeat = current.map_or(Repeat::Safe, |_| Repeat::OnlyIfNotDone);
        match self.link.call(WHAT, body, repeat).await? {
            ResponseBody::InitProducer(producer) => {
                let epoch = i16::try_from(producer.producer_epoch)
                    .map_err(|_| decode(WHAT, "the producer epoch is out of range"))?;
                Ok((ProducerId(producer.producer_id), ProducerEpoch(epoch)))
            }
            other => Err(unexpected(WHAT, &other)),
        }
    }

    /// Takes a step: appends and commits, all or nothing. Safe to retry inside: the broker knows the step by its producer and
    /// sequence. Batches are shared, not copied.
    ///
    /// # Errors
    /// `Broker` with `STALE_MEMBER_EPOCH`, `UNKNOWN_MEMBER_ID`, `FENCED_MEMBER_EPOCH` or `FENCED_INSTANCE_ID`, with
    /// `OUT_OF_ORDER_SEQUENCE` or `INVALID_PRODUCER_EPOCH`, and those of commits and of produced batches.
    pub async fn step(&self, step: Step) -> Result<Stepped, Error> {
        let asked = step.appends.len();
        let body = RequestBody::Step(step.into());
        answered(self.link.call(WHAT, body, Repeat::Safe).await?, asked)
    }

    /// [`step`](Self::step), once.
    pub(super) async fn step_once(&self, step: &Step, timeout: Duration) -> Result<Stepped, Error> {
        let body = RequestBody::Step(step.clone().into());
        answered(
            self.link.call_once(WHAT, body, timeout).await?,
            step.appends.len(),
        )
    }
}

fn answered(answer: ResponseBody, asked: usize) -> Result<Stepped, Error> {
    let ResponseBody::Step(stepped) = answer else {
        return Err(unexpected(WHAT, &answer));
    };
    let stepped = Stepped::try_from(stepped)?;
    let found = stepped.appends.len();
    if found == asked || (stepped.duplicate && found == 0) {
        return Ok(stepped);
    }
    Err(decode(WHAT, "another number of appends than asked for"))
}

impl From<Step> for pb::StepRequest {
    fn from(step: Step) -> Self {
        let (id, epoch) = step.producer;
        let append = |append: StepAppend| pb::ProducePartition {
            partition: Some(place(append.topic, append.topic_id, append.partition)),
            payload: Some(pb::produce_partition::Payload::Raw(append.batch)),
            ..pb::ProducePartition::default()
        };
        Self {
            group: step.group,
            member: step.member.as_ref().map(pb::GroupMember::from),
            producer_id: id.0,
            producer_epoch: i32::from(epoch.0),
            sequence: step.sequence.0,
            offsets: items_to_commit(step.offsets),
            appends: step.appends.into_iter().map(append).collect(),
        }
    }
}

impl TryFrom<pb::StepResponse> for Stepped {
    type Error = Error;

    fn try_from(stepped: pb::StepResponse) -> Result<Self, Error> {
        let acks = match stepped.acks() {
            pb::Acks::Fsync => Acks::Fsync,
            pb::Acks::Memory => Acks::Memory,
            pb::Acks::Unspecified => return Err(decode(WHAT, "it does not say how safe it is")),
        };
        let append = |append: pb::SteppedPartition| {
            Ok(SteppedAppend {
                base: offset(WHAT, append.base_offset)?,
                last: offset(WHAT, append.last_offset)?,
                append_time: Timestamp(append.append_time),
                leader_epoch: LeaderEpoch(append.leader_epoch),
            })
        };
        Ok(Self {
            committed: Timestamp(stepped.committed_ms),
            duplicate: stepped.duplicate,
            acks,
            durable_through: stepped.durable_through.map(Lsn),
            appends: stepped
                .appends
                .into_iter()
                .map(append)
                .collect::<Result<_, Error>>()?,
        })
    }
}
