//! ListOffsets: where partitions begin and end, and where a time is.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Broker, Partition, errors};
use crate::api::{
    ApiError, ListOffsets, ListOffsetsPartition, ListedOffset, OffsetSpec, Outcome, Reply, Response,
};
use crate::model::{LeaderEpoch, Lsn, Timestamp};
use crate::storage::{LogStore, PartitionLog};

/// A partition that is asked about.
type Target<L> = (Arc<Partition<L>>, OffsetSpec);

impl<S: LogStore> Broker<S> {
    pub(super) fn list_offsets(&self, list: &ListOffsets) -> Outcome {
        let (asked, max) = (list.partitions.len(), self.settings.request_partitions_max);
        if asked > max {
            return Outcome::Ready(Err(errors::too_many("partitions", asked, max)));
        }
        let targets: Vec<_> = list
            .partitions
            .iter()
            .map(|asked| self.offset_target(asked))
            .collect();
        let by_time =
            |target: &Result<Target<S::Log>, _>| matches!(target, Ok((_, OffsetSpec::AtTimestamp(_))));
        if targets.iter().any(by_time) {
            return self.search_offsets(targets);
        }
        let (durable, epoch) = (self.durable_lsn(), self.store.leader_epoch());
        let offsets = targets.into_iter().map(|target| {
            let (partition, spec) = target?;
            Ok(mark(&partition, spec, durable, epoch))
        });
        Outcome::AfterLsn {
            lsn: self.metadata_lsn(),
            reply: Ok(Response::ListOffsets(offsets.collect())),
        }
    }

    fn offset_target(&self, asked: &ListOffsetsPartition) -> Result<Target<S::Log>, ApiError> {
        Ok((self.resolve(&asked.partition)?, asked.spec))
    }

    /// Answers when the records were looked for, which takes the disk.
    fn search_offsets(&self, targets: Vec<Result<Target<S::Log>, ApiError>>) -> Outcome {
        let mut state = self.durable.clone();
        let (durable, epoch) = (self.durable_lsn(), self.store.leader_epoch());
        let metadata_lsn = Arc::clone(&self.metadata_lsn);
        let counters = Arc::clone(&self.counters);
        Outcome::Later(Box::pin(async move {
            let mut offsets = Vec::with_capacity(targets.len());
            for target in targets {
                offsets.push(match target {
                    Ok((partition, OffsetSpec::AtTimestamp(at))) => {
                        search(&partition, at, durable, epoch).await
                    }
                    Ok((partition, spec)) => Ok(mark(&partition, spec, durable, epoch)),
                    Err(error) => Err(error),
                });
            }
            // Which topics there are was decided by what may not be durable yet.
            let lsn = Lsn(metadata_lsn.load(Ordering::Acquire));
            let reply: Reply = match state.wait_for(|now| now.lsn >= lsn || now.poisoned).await {
                Ok(now) if now.lsn >= lsn => Ok(Response::ListOffsets(offsets)),
                _ => Err(errors::storage_failed(
                    "the engine failed before the answer was sure",
                )),
            };
            counters.count(&reply);
            reply
        }))
    }
}

/// The mark of a partition that this spec names.
fn mark<L: PartitionLog>(
    partition: &Partition<L>,
    spec: OffsetSpec,
    durable: Lsn,
    leader_epoch: LeaderEpoch,
) -> ListedOffset {
    let bounds = partition.log.bounds(durable);
    ListedOffset {
        offset: match spec {
            OffsetSpec::Earliest => bounds.log_start,
            OffsetSpec::Latest | OffsetSpec::AtTimestamp(_) => bounds.high_watermark,
        },
        timestamp: None,
        leader_epoch,
    }
}

async fn search<L: PartitionLog>(
    partition: &Partition<L>,
    at: Timestamp,
    durable: Lsn,
    leader_epoch: LeaderEpoch,
) -> Result<ListedOffset, ApiError> {
    let log = Arc::clone(&partition.log);
    let found = log.find_timestamp(at, durable).await.map_err(errors::read)?;
    Ok(match found {
        Some(found) => ListedOffset {
            offset: found.offset,
            timestamp: Some(found.timestamp),
            leader_epoch,
        },
        None => mark(partition, OffsetSpec::Latest, durable, leader_epoch),
    })
}
