//! A group whose state a test sets; it keeps what it was told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::fake::{TOPIC_ID, refusal};
use crate::model::ErrorCode;
use crate::pb::v1 as pb;
use crate::pb::v1::response::Body as ResponseBody;

/// How often a heartbeat is sent: short, as the broker beside it serves one request of a connection after another.
const HEARTBEAT_MS: u32 = 20;

#[derive(Default)]
pub(super) struct Group {
    told: Mutex<Told>,
    changed: Notify,
}

#[derive(Default)]
pub(super) struct Told {
    pub(super) membership: pb::GroupHeartbeatResponse,
    /// Refusals of the next heartbeats, commits and closings.
    pub(super) refuse_beats: VecDeque<ErrorCode>,
    pub(super) refuse_commits: VecDeque<ErrorCode>,
    pub(super) beats: Vec<pb::GroupHeartbeatRequest>,
    pub(super) commits: Vec<(pb::GroupMember, Vec<(u32, i64)>)>,
    pub(super) closed: Vec<(pb::GroupMember, Vec<(u32, i64)>)>,
    pub(super) committed: BTreeMap<u32, i64>,
    /// Refusals of the next steps.
    pub(super) refuse_steps: VecDeque<ErrorCode>,
    pub(super) steps: Vec<pb::StepRequest>,
    /// Stamps of steps that were taken.
    stepped: Vec<(i64, i32, i32)>,
}

fn places(offsets: Vec<pb::OffsetToCommit>) -> Vec<(u32, i64)> {
    let place = |item: pb::OffsetToCommit| (item.partition.unwrap().partition, item.offset);
    offsets.into_iter().map(place).collect()
}

impl Group {
    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    /// From now on the member has these partitions. The third: below it somebody else may have seen the records.
    pub(super) fn give(&self, epoch: u32, assigned: &[u32], revoking: &[u32], seen_upto: Option<i64>) {
        let mut told = self.told();
        let partition = |partition: &u32| pb::AssignedPartition {
            partition: *partition,
            committed_offset: told.committed.get(partition).copied(),
            maybe_seen_upto: seen_upto,
        };
        let assigned = pb::AssignedTopic {
            topic: "orders".into(),
            topic_id: Bytes::from_static(&TOPIC_ID),
            partitions: assigned.iter().map(partition).collect(),
        };
        let revoking = pb::TopicPartitions {
            topic: "orders".into(),
            topic_id: Bytes::from_static(&TOPIC_ID),
            partitions: revoking.to_vec(),
        };
        told.membership = pb::GroupHeartbeatResponse {
            member_epoch: epoch,
            group_epoch: epoch,
            revision: told.membership.revision + 1,
            role: pb::MemberRole::Active.into(),
            group_state: pb::GroupState::GroupStable.into(),
            heartbeat_ms: HEARTBEAT_MS,
            session_timeout_ms: 10_000,
            handoff_timeout_ms: 30_000,
            assigned: vec![assigned],
            revoking: vec![revoking],
            ..Default::default()
        };
        self.changed.notify_waiters();
    }

    /// Refuses the next heartbeat, also one that waits.
    pub(super) fn refuse(&self, code: ErrorCode) {
        self.told().refuse_beats.push_back(code);
        self.changed.notify_waiters();
    }

    pub(super) async fn heartbeat(&self, beat: pb::GroupHeartbeatRequest) -> ResponseBody {
        let (revision, wait) = (beat.revision, Duration::from_millis(beat.max_wait_ms.into()));
        let mut changed = std::pin::pin!(self.changed.notified());
        changed.as_mut().enable();
        let is_news = {
            let mut told = self.told();
            told.beats.push(beat);
            revision != told.membership.revision || !told.refuse_beats.is_empty()
        };
        if !is_news {
            // In vain or not, what is true then is answered.
            let _ = tokio::time::timeout(wait, changed).await;
        }
        let mut told = self.told();
        match told.refuse_beats.pop_front() {
            Some(code) => ResponseBody::Error(refusal(code)),
            None => ResponseBody::GroupHeartbeat(told.membership.clone()),
        }
    }

    pub(super) fn commit(&self, commit: pb::CommitOffsetsRequest) -> ResponseBody {
        let mut told = self.told();
        let places = places(commit.offsets);
        told.commits.push((commit.member.unwrap(), places.clone()));
        if let Some(code) = told.refuse_commits.pop_front() {
            return ResponseBody::Error(refusal(code));
        }
        told.committed.extend(places);
        ResponseBody::CommitOffsets(pb::CommitOffsetsResponse { committed_ms: 7 })
    }

    pub(super) fn close(&self, close: pb::CloseConsumerRequest) -> ResponseBody {
        let mut told = self.told();
        let places = places(close.offsets);
        told.closed.push((close.member.unwrap(), places.clone()));
        if let Some(code) = told.refuse_commits.pop_front() {
            return ResponseBody::Error(refusal(code));
        }
        told.committed.extend(places);
        ResponseBody::CloseConsumer(pb::CloseConsumerResponse {
            committed_ms: 7,
            left: true,
        })
    }

    /// Takes a step, once.
    pub(super) fn step(
        &self,
        step: pb::StepRequest,
        mut append: impl FnMut(u32, &Bytes) -> i64,
    ) -> ResponseBody {
        let mut told = self.told();
        told.steps.push(step.clone());
        let stamp = (step.producer_id, step.producer_epoch, step.sequence);
        let duplicate = told.stepped.contains(&stamp);
        let mut response = pb::StepResponse {
            committed_ms: 7,
            duplicate,
            acks: pb::Acks::Fsync.into(),
            ..Default::default()
        };
        if duplicate {
            return ResponseBody::Step(response);
        }
        if let Some(code) = told.refuse_steps.pop_front() {
            return ResponseBody::Error(refusal(code));
        }
        told.stepped.push(stamp);
        told.committed.extend(places(step.offsets));
        for item in step.appends {
            let Some(pb::produce_partition::Payload::Raw(batch)) = item.payload else {
                panic!("raw batches only")
            };
            let base_offset = append(item.partition.unwrap().partition, &batch);
            response.appends.push(pb::SteppedPartition {
                base_offset,
                last_offset: base_offset,
                ..Default::default()
            });
        }
        ResponseBody::Step(response)
    }

    pub(super) fn offsets(&self, fetch: &pb::FetchOffsetsRequest, end: &dyn Fn(u32) -> i64) -> ResponseBody {
        let told = self.told();
        let offset = |partition: &pb::TopicPartition| pb::GroupOffset {
            partition: Some(pb::TopicPartition {
                topic_id: Bytes::from_static(&TOPIC_ID),
                ..partition.clone()
            }),
            offset: told.committed.get(&partition.partition).copied(),
            high_watermark: end(partition.partition),
            ..Default::default()
        };
        ResponseBody::FetchOffsets(pb::FetchOffsetsResponse {
            offsets: fetch.partitions.iter().map(offset).collect(),
        })
    }
}
