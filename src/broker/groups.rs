//! CommitOffsets and FetchOffsets: how far groups are. Answers wait for the LSN of the state that they show.

use std::sync::Arc;

use super::coordinator::not_admitted;
use super::{Broker, Partition, errors, group_errors};
use crate::api::{
    ApiError, CommitOffsets, Committed, FetchOffsets, FetchedOffsets, GroupOffset, OffsetToCommit, Outcome,
    Request, Response,
};
use crate::group::{self, Command, CommittedOffset};
use crate::machine::StateMachine;
use crate::model::{GroupId, Offset, PartitionKey, Timestamp, TopicName};
use crate::storage::{Class, LogStore, PartitionLog, Permit, Step};

/// A record of a commit beside its offsets: batch header, group id, numbers.
const COMMIT_BYTES: u64 = 1_024;

/// An offset of a commit beside its metadata, as it is written: topic id, numbers, lengths.
const OFFSET_BYTES: u64 = 128;

/// A partition that exists, and what its topic is called.
type Found<L> = (TopicName, Arc<Partition<L>>);

/// An offset that may be committed, and where.
type Checked<L> = (Arc<Partition<L>>, Offset);

impl<S: LogStore> Broker<S> {
    pub(super) fn commit_offsets(&self, commit: CommitOffsets) -> Outcome {
        let (asked, max) = (commit.offsets.len(), self.settings.request_partitions_max);
        if asked > max {
            return Outcome::Ready(Err(errors::too_many("offsets", asked, max)));
        }
        let permit = match self.admit(step_bytes(&commit), Class::Internal) {
            Ok(permit) => permit,
            Err(refused) => return not_admitted(refused, Request::CommitOffsets(commit)),
        };
        // Looked up before the groups are locked: what is wrong with a name is known to the metadata, whose lock comes
        // first.
        let found: Result<Vec<_>, _> = commit
            .offsets
            .iter()
            .enumerate()
            .map(|(index, item)| {
                self.check_item(item)
                    .map_err(|error| errors::of_item(error, index, item))
            })
            .collect();
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                return Outcome::AfterLsn {
                    lsn: self.metadata_lsn(),
                    reply: Err(error),
                };
            }
        };
        self.commit_found(permit, commit, &found)
    }

    fn commit_found(&self, permit: Permit, commit: CommitOffsets, found: &[Checked<S::Log>]) -> Outcome {
        let mut groups = self.lock_groups();
        let mut items = commit.offsets.iter().enumerate().zip(found);
        let gone = items.find(|(_, (partition, _))| partition.is_gone());
        let result = match gone.map(|(item, _)| item) {
            Some((index, item)) => Err(errors::of_item(errors::deleted(), index, item)),
            None => self.decide_commit(&mut groups, permit, commit, found),
        };
        Outcome::AfterLsn {
            // A deletion that was seen is in the metadata, too, and its LSN is known before the groups are free.
            lsn: groups.lsn.max(self.metadata_lsn()),
            reply: result.map(Response::CommitOffsets),
        }
    }

    fn decide_commit(
        &self,
        groups: &mut super::driver::Driver<S::Log, group::Machine>,
        permit: Permit,
        commit: CommitOffsets,
        found: &[Checked<S::Log>],
    ) -> Result<Timestamp, ApiError> {
        let now = self.clock.wall();
        let offsets = commit.offsets.iter().zip(found);
        let offsets = offsets.map(|(item, (partition, offset))| {
            let committed = CommittedOffset {
                offset: *offset,
                leader_epoch: item.leader_epoch,
                metadata: item.metadata.as_str().into(),
                committed: now,
            };
            (partition.log.key(), committed)
        });
        let command = Command::CommitOffsets(group::CommitOffsets {
            group: commit.group.clone(),
            member: None,
            offsets: offsets.collect(),
        });
        let effects = groups.machine.handle(now, command);
        match effects.reply {
            group::Reply::Committed(at) => {
                if !effects.records.is_empty() {
                    let (placed, pending) = groups.place(now, effects.records);
                    let lsn = self.submit(permit, Step::append(placed))?;
                    groups.apply(&pending, lsn);
                }
                Ok(at)
            }
            group::Reply::Refused(refusal) => Err(group_errors::group(refusal, &commit.offsets)),
            _ => Err(errors::internal("the answer is of another kind")),
        }
    }

    /// The partition of an item, and its offset if that can be one.
    fn check_item(&self, item: &OffsetToCommit) -> Result<Checked<S::Log>, ApiError> {
        let partition = self.resolve(&item.partition)?;
        let bounds = partition.log.bounds(self.durable_lsn());
        // Below the log start is fine: retention may have passed a group that is slow.
        let offset = Offset::new(item.offset)
            .filter(|offset| *offset <= bounds.high_watermark)
            .ok_or_else(|| errors::commit_out_of_range(item.offset, bounds))?;
        Ok((partition, offset))
    }

    pub(super) fn fetch_offsets(&self, fetch: &FetchOffsets) -> Outcome {
        let (asked, max) = (fetch.partitions.len(), self.settings.request_partitions_max);
        if asked > max {
            return Outcome::Ready(Err(errors::too_many("partitions", asked, max)));
        }
        if let Err(bad) = fetch.group.parse::<GroupId>() {
            return Outcome::Ready(Err(errors::bad_group(&bad)));
        }
        let found: Vec<Result<Found<S::Log>, ApiError>> = fetch
            .partitions
            .iter()
            .map(|asked| {
                let (handle, partition) = self.resolve_with_topic(asked)?;
                Ok((handle.topic.name.clone(), partition))
            })
            .collect();
        let groups = self.lock_groups();
        let offsets: FetchedOffsets = if fetch.partitions.is_empty() {
            self.all_offsets(&groups.machine, &fetch.group)
        } else {
            let shown = found.into_iter().map(|found| {
                let (topic, partition) = found?;
                if partition.is_gone() {
                    return Err(errors::deleted());
                }
                let committed = groups.machine.offset(&fetch.group, partition.log.key());
                Ok(self.show_offset(topic, &partition, committed))
            });
            shown.collect()
        };
        Outcome::AfterLsn {
            lsn: groups.lsn.max(self.metadata_lsn()),
            reply: Ok(Response::FetchOffsets(offsets)),
        }
    }

    /// By name of the topic, then by partition.
    fn all_offsets(&self, machine: &group::Machine, group: &str) -> FetchedOffsets {
        let mut shown: Vec<GroupOffset> = machine
            .offsets(group)
            .filter_map(|(key, committed)| {
                let (topic, partition) = self.partition_of(key)?;
                Some(self.show_offset(topic, &partition, Some(committed)))
            })
            .collect();
        shown.sort_by(|a, b| (&a.topic, a.key.partition).cmp(&(&b.topic, b.key.partition)));
        shown.into_iter().map(Ok).collect()
    }

    pub(super) fn partition_of(&self, key: PartitionKey) -> Option<Found<S::Log>> {
        let handle = self.registry.with_id(key.topic)?;
        let index = usize::try_from(key.partition.0).ok()?;
        let partition = handle.partitions.get(index).cloned()?;
        Some((handle.topic.name.clone(), partition))
    }

    fn show_offset(
        &self,
        topic: TopicName,
        partition: &Partition<S::Log>,
        committed: Option<&CommittedOffset>,
    ) -> GroupOffset {
        GroupOffset {
            topic,
            key: partition.log.key(),
            committed: committed.map(|committed| Committed {
                offset: committed.offset,
                leader_epoch: committed.leader_epoch,
                metadata: Arc::clone(&committed.metadata),
                at: committed.committed,
            }),
            bounds: partition.log.bounds(self.durable_lsn()),
        }
    }
}

/// At least what the record of a commit takes.
fn step_bytes(commit: &CommitOffsets) -> u64 {
    let bytes = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
    let offsets = commit.offsets.iter();
    let offsets = offsets.map(|item| OFFSET_BYTES.saturating_add(bytes(item.metadata.len())));
    offsets.fold(COMMIT_BYTES, u64::saturating_add)
}
