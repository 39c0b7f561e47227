//! CommitOffsets and FetchOffsets: how far groups are. Answers wait for the LSN of the state that they show.

use std::sync::Arc;

use super::Undone;
use super::members::{member_ref, other_kind};
use crate::api::{
    ApiError, CommitOffsets, Committed, FetchOffsets, FetchedOffsets, GroupOffset, OffsetToCommit, Outcome,
    Request, Response,
};
use crate::broker::coordinator::not_admitted;
use crate::broker::{Broker, Partition, errors};
use crate::group::{self, Command, CommittedOffset};
use crate::model::{GroupId, Lsn, Offset, PartitionKey, TopicName};
use crate::planted::{self, Bug};
use crate::storage::{LogStore, PartitionLog};

/// A partition that exists, and what its topic is called.
type Found<L> = (TopicName, Arc<Partition<L>>);

/// An offset that may be committed, and where.
pub(in crate::broker) type Checked<L> = (Arc<Partition<L>>, Offset);

impl<S: LogStore> Broker<S> {
    pub(in crate::broker) fn commit_offsets(&self, commit: CommitOffsets) -> Outcome {
        let found = match self.found_offsets(&commit.offsets) {
            Ok(found) => found,
            Err(outcome) => return outcome,
        };
        let mut state = self.groups.lock();
        let committed = self.offsets_of(&commit.offsets, &found).and_then(|offsets| {
            let command = Command::CommitOffsets(group::CommitOffsets {
                group: commit.group.clone(),
                member: commit.member.as_ref().map(member_ref),
                offsets,
            });
            self.groups.carry_out(&mut state, command, &commit.offsets)
        });
        let reply = match committed {
            Err(Undone::NotAdmitted(refused)) => {
                return not_admitted(refused, Request::CommitOffsets(commit));
            }
            Err(Undone::Refused(error)) => Err(*error),
            Ok(group::Reply::Committed(at)) => {
                if let Some(member) = &commit.member {
                    let groups = &self.groups;
                    groups.touch(&mut state, &commit.group, &member.member_id);
                }
                Ok(Response::CommitOffsets(at))
            }
            Ok(_) => Err(other_kind()),
        };
        Outcome::AfterLsn {
            // A deletion that was seen is in the metadata, too, and its LSN is known before the groups are free.
            lsn: self.groups.lsn(&state),
            reply,
        }
    }

    /// Looks offsets up before the groups are locked: what is wrong with a name is known to the metadata, whose lock comes
    /// first.
    pub(in crate::broker) fn found_offsets(
        &self,
        items: &[OffsetToCommit],
    ) -> Result<Vec<Checked<S::Log>>, Outcome> {
        let (asked, max) = (items.len(), self.settings.request_partitions_max);
        if asked > max {
            return Err(Outcome::Ready(Err(errors::too_many("offsets", asked, max))));
        }
        let found: Result<Vec<_>, _> = items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                self.check_item(item)
                    .map_err(|error| errors::of_item(error, index, item))
            })
            .collect();
        found.map_err(|error| Outcome::AfterLsn {
            lsn: self.metadata_lsn(),
            reply: Err(error),
        })
    }

    /// Offsets for the machine, unless one of the topics is gone by now. The groups are locked.
    pub(in crate::broker) fn offsets_of(
        &self,
        items: &[OffsetToCommit],
        found: &[Checked<S::Log>],
    ) -> Result<Vec<(PartitionKey, CommittedOffset)>, Undone> {
        let mut placed = items.iter().enumerate().zip(found);
        if let Some(((index, item), _)) = placed.find(|(_, (partition, _))| partition.is_gone()) {
            return Err(errors::of_item(errors::deleted(), index, item).into());
        }
        let now = self.clock.wall();
        let offsets = items.iter().zip(found).map(|(item, (partition, offset))| {
            let committed = CommittedOffset {
                offset: *offset,
                leader_epoch: item.leader_epoch,
                metadata: item.metadata.as_str().into(),
                committed: now,
            };
            (partition.log.key(), committed)
        });
        Ok(offsets.collect())
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

    pub(in crate::broker) fn fetch_offsets(&self, fetch: &FetchOffsets) -> Outcome {
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
        let groups = self.groups.lock();
        let offsets: FetchedOffsets = if fetch.partitions.is_empty() {
            self.all_offsets(&groups.driver.machine, &fetch.group)
        } else {
            let shown = found.into_iter().map(|found| {
                let (topic, partition) = found?;
                if partition.is_gone() {
                    return Err(errors::deleted());
                }
                let committed = groups.driver.machine.offset(&fetch.group, partition.log.key());
                Ok(self.show_offset(topic, &partition, committed))
            });
            shown.collect()
        };
        let early = planted::is(Bug::UndurableOffsetShown);
        Outcome::AfterLsn {
            lsn: if early {
                Lsn::ZERO
            } else {
                self.groups.lsn(&groups)
            },
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

    pub(in crate::broker) fn partition_of(&self, key: PartitionKey) -> Option<Found<S::Log>> {
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
