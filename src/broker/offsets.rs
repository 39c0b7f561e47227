//! ListOffsets: where partitions begin and end.

use super::{Broker, errors};
use crate::api::{ApiError, ListOffsets, ListOffsetsPartition, ListedOffset, OffsetSpec, Outcome, Response};
use crate::storage::{LogStore, PartitionLog};

impl<S: LogStore> Broker<S> {
    pub(super) fn list_offsets(&self, list: &ListOffsets) -> Outcome {
        let (asked, max) = (list.partitions.len(), self.settings.request_partitions_max);
        if asked > max {
            return Outcome::Ready(Err(errors::too_many("partitions", asked, max)));
        }
        let offsets: Vec<_> = list
            .partitions
            .iter()
            .map(|asked| self.list_offset(asked))
            .collect();
        Outcome::AfterLsn {
            lsn: self.metadata_lsn(),
            reply: Ok(Response::ListOffsets(offsets)),
        }
    }

    fn list_offset(&self, asked: &ListOffsetsPartition) -> Result<ListedOffset, ApiError> {
        let partition = self.resolve(&asked.partition)?;
        let bounds = partition.log.bounds(self.durable_lsn());
        Ok(ListedOffset {
            offset: match asked.spec {
                OffsetSpec::Earliest => bounds.log_start,
                OffsetSpec::Latest => bounds.high_watermark,
            },
            leader_epoch: self.store.leader_epoch(),
        })
    }
}
