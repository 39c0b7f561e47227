//! Committed offsets: keeping how far a group is, and where it goes on.

use std::sync::Arc;

use bytes::Bytes;

use super::admin::{decode, offset, topic_id, unexpected};
use super::error::NoPlace;
use super::link::Repeat;
use super::{Client, Error};
use crate::model::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId};
use crate::pb::v1 as pb;
use crate::pb::v1::{request::Body as RequestBody, response::Body as ResponseBody};

/// How far a group is in a partition, to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetToCommit {
    /// Name of the topic.
    pub topic: String,
    /// Its id. If given it wins over the name, so that the commit never lands in a topic that was created again.
    pub topic_id: Option<TopicId>,
    /// The partition.
    pub partition: PartitionId,
    /// Offset of the next record wanted: the last one processed plus one.
    pub offset: Offset,
    /// Epoch of the last record processed, if known.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Whatever the group wants to keep with it, at most 4,096 bytes.
    pub metadata: String,
}

impl OffsetToCommit {
    /// An offset without anything beside it.
    pub fn new(topic: impl Into<String>, partition: u32, offset: Offset) -> Self {
        Self {
            topic: topic.into(),
            topic_id: None,
            partition: PartitionId(partition),
            offset,
            leader_epoch: None,
            metadata: String::new(),
        }
    }
}

/// How far a group is in a partition, as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOffset {
    /// Name of the topic.
    pub topic: String,
    /// Its id.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// What was committed; `None`: nothing.
    pub committed: Option<CommittedOffset>,
    /// First offset kept.
    pub log_start: Offset,
    /// End of what consumers see, exclusive.
    pub high_watermark: Offset,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Offset of the next record wanted.
    pub offset: Offset,
    /// Epoch of the last record processed, if the group told.
    pub leader_epoch: Option<LeaderEpoch>,
    /// What the group keeps with it.
    pub metadata: String,
    /// When it was committed, by the broker's clock.
    pub at: Timestamp,
}

impl GroupOffset {
    /// How many records the group still has to read; `None` if it has committed nothing. Records that are gone do not count.
    pub fn lag(&self) -> Option<u64> {
        let committed = self.committed.as_ref()?;
        Some(self.high_watermark.since(committed.offset.max(self.log_start)))
    }

    /// Offsets that are gone although the group has not read them, first and last (inclusive).
    pub fn lost(&self) -> Option<(Offset, Offset)> {
        let next = self.committed.as_ref()?.offset;
        let last = Offset::new(self.log_start.get().checked_sub(1)?)?;
        (next <= last).then_some((next, last))
    }
}

/// Where a group begins in a partition where it has committed nothing, or where what it would read next is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reset {
    /// At the first record kept.
    Earliest,
    /// Behind the last record that is visible now.
    Latest,
    /// Nowhere: that is an error, [`Error::NoPlace`].
    #[default]
    Error,
}

/// Where a group goes on in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    /// The partition.
    pub partition: PartitionId,
    /// Offset of the next record.
    pub offset: Offset,
    /// False: it comes from the reset policy.
    pub is_committed: bool,
    /// Offsets that are gone although the group has not read them, first and last (inclusive).
    pub lost: Option<(Offset, Offset)>,
}

impl ResumePoint {
    pub(super) fn find(group: &str, at: &GroupOffset, reset: Reset) -> Result<Self, Error> {
        let lost = at.lost();
        let committed = at.committed.as_ref().filter(|_| lost.is_none());
        let offset = match (committed, reset) {
            (Some(committed), _) => committed.offset,
            (None, Reset::Earliest) => at.log_start,
            (None, Reset::Latest) => at.high_watermark,
            (None, Reset::Error) => {
                return Err(Error::NoPlace(Box::new(NoPlace {
                    group: group.to_owned(),
                    topic: at.topic.clone(),
                    partition: at.partition,
                    lost,
                })));
            }
        };
        Ok(Self {
            partition: at.partition,
            offset,
            is_committed: committed.is_some(),
            lost,
        })
    }
}

impl Client {
    /// Keeps how far a group is: all of the offsets or none. Returns when, by the broker's clock. Safe to retry inside as
    /// long as the calls for one group are made one after another.
    ///
    /// # Errors
    /// `Broker` with `OFFSET_OUT_OF_RANGE` above the high watermark, `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_NAME`,
    /// `LIMIT_EXCEEDED` or `MESSAGE_TOO_LARGE`; the message names the offset at fault, and nothing was kept.
    pub async fn commit_offsets(
        &self,
        group: &str,
        offsets: Vec<OffsetToCommit>,
    ) -> Result<Timestamp, Error> {
        self.commit(group, None, offsets).await
    }

    pub(super) async fn commit(
        &self,
        group: &str,
        member: Option<pb::GroupMember>,
        offsets: Vec<OffsetToCommit>,
    ) -> Result<Timestamp, Error> {
        let body = RequestBody::CommitOffsets(pb::CommitOffsetsRequest {
            group: group.to_owned(),
            member,
            offsets: items_to_commit(offsets),
        });
        match self.link.call("commit offsets", body, Repeat::Safe).await? {
            ResponseBody::CommitOffsets(committed) => Ok(Timestamp(committed.committed_ms)),
            other => Err(unexpected("commit offsets", &other)),
        }
    }

    /// How far a group is in some partitions of a topic, in the order asked for. A group that never committed is no error.
    ///
    /// # Errors
    /// `Broker` with `INVALID_NAME`, and those of every request; a partition's own error is in its place.
    pub async fn fetch_offsets(
        &self,
        group: &str,
        topic: &str,
        partitions: &[u32],
    ) -> Result<Vec<Result<GroupOffset, Error>>, Error> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let asked = partitions
            .iter()
            .map(|index| place(topic.to_owned(), None, PartitionId(*index)));
        let found = self.call_fetch_offsets(group, asked.collect()).await?;
        if found.len() != partitions.len() {
            return Err(decode(
                "fetch offsets",
                "another number of partitions than asked for",
            ));
        }
        Ok(found)
    }

    /// How far a group is wherever it has committed, by topic name and partition; empty if it never has.
    ///
    /// # Errors
    /// `Broker` with `INVALID_NAME`, and those of every request.
    pub async fn fetch_all_offsets(&self, group: &str) -> Result<Vec<GroupOffset>, Error> {
        let found = self.call_fetch_offsets(group, Vec::new()).await?;
        found.into_iter().collect()
    }

    /// Where a group goes on in partitions of a topic: where it has committed, else where `reset` says.
    ///
    /// # Errors
    /// [`Error::NoPlace`] if `reset` is [`Reset::Error`] and needed; otherwise as [`fetch_offsets`](Self::fetch_offsets).
    pub async fn resume_points(
        &self,
        group: &str,
        topic: &str,
        partitions: &[u32],
        reset: Reset,
    ) -> Result<Vec<ResumePoint>, Error> {
        let found = self.fetch_offsets(group, topic, partitions).await?;
        let find = |found: Result<GroupOffset, Error>| ResumePoint::find(group, &found?, reset);
        found.into_iter().map(find).collect()
    }

    async fn call_fetch_offsets(
        &self,
        group: &str,
        partitions: Vec<pb::TopicPartition>,
    ) -> Result<Vec<Result<GroupOffset, Error>>, Error> {
        let body = RequestBody::FetchOffsets(pb::FetchOffsetsRequest {
            group: group.to_owned(),
            partitions,
        });
        match self.link.call("fetch offsets", body, Repeat::Safe).await? {
            ResponseBody::FetchOffsets(fetched) => {
                Ok(fetched.offsets.into_iter().map(GroupOffset::try_from).collect())
            }
            other => Err(unexpected("fetch offsets", &other)),
        }
    }
}

impl TryFrom<pb::GroupOffset> for GroupOffset {
    type Error = Error;

    fn try_from(found: pb::GroupOffset) -> Result<Self, Error> {
        if let Some(error) = found.error {
            return Err(error.into());
        }
        let checked = |value| offset("fetch offsets", value);
        let place = found
            .partition
            .ok_or_else(|| decode("fetch offsets", "an offset without its partition"))?;
        let committed = match found.offset {
            None => None,
            Some(value) => Some(CommittedOffset {
                offset: checked(value)?,
                leader_epoch: found.leader_epoch.map(LeaderEpoch),
                metadata: found.metadata,
                at: Timestamp(found.committed_ms),
            }),
        };
        Ok(Self {
            topic_id: topic_id(&place.topic_id)?,
            topic: place.topic,
            partition: PartitionId(place.partition),
            committed,
            log_start: checked(found.log_start_offset)?,
            high_watermark: checked(found.high_watermark)?,
        })
    }
}

pub(super) fn items_to_commit(offsets: Vec<OffsetToCommit>) -> Vec<pb::OffsetToCommit> {
    let item = |item: OffsetToCommit| pb::OffsetToCommit {
        partition: Some(place(item.topic, item.topic_id, item.partition)),
        offset: item.offset.get(),
        leader_epoch: item.leader_epoch.map(|epoch| epoch.0),
        metadata: item.metadata,
    };
    offsets.into_iter().map(item).collect()
}

pub(super) fn place(topic: String, id: Option<TopicId>, index: PartitionId) -> pb::TopicPartition {
    let topic_id = id.map(|id| Bytes::copy_from_slice(id.as_bytes()));
    pb::TopicPartition {
        topic,
        topic_id: topic_id.unwrap_or_default(),
        partition: index.0,
    }
}

/// Offsets of a partition that are gone although their group has not read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRange {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// The first.
    pub first: Offset,
    /// The last, inclusive.
    pub last: Offset,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn place(committed: Option<i64>, log_start: i64, high_watermark: i64) -> GroupOffset {
        GroupOffset {
            topic: "orders".to_owned(),
            topic_id: TopicId::from_bytes([9; 16]),
            partition: PartitionId(3),
            committed: committed.map(|offset| CommittedOffset {
                offset: at(offset),
                leader_epoch: None,
                metadata: String::new(),
                at: Timestamp(0),
            }),
            log_start: at(log_start),
            high_watermark: at(high_watermark),
        }
    }

    #[test]
    fn a_group_goes_on_where_it_has_committed_whatever_the_policy() {
        for (committed, lag) in [(5, 15), (12, 8), (20, 0)] {
            for reset in [Reset::Earliest, Reset::Latest, Reset::Error] {
                let place = place(Some(committed), 5, 20);
                let point = ResumePoint::find("g", &place, reset).unwrap();
                assert_eq!(
                    (point.offset, point.is_committed, point.lost),
                    (at(committed), true, None)
                );
                assert_eq!(place.lag(), Some(lag));
            }
        }
    }

    #[test]
    fn without_a_commit_the_policy_decides_and_the_default_is_an_error() {
        let nowhere = place(None, 5, 20);
        assert_eq!(nowhere.lag(), None);
        let find = |reset| ResumePoint::find("g", &nowhere, reset).map(|point| point.offset.get());
        assert_eq!(find(Reset::Earliest), Ok(5));
        assert_eq!(find(Reset::Latest), Ok(20));
        let error = find(Reset::default()).unwrap_err();
        assert_eq!(error.to_string(), "group g has committed nothing for orders/3");
        assert!(!error.is_retriable() && !error.may_have_taken_effect());
    }

    #[test]
    fn records_that_are_gone_before_the_group_has_read_them_are_named() {
        let behind = place(Some(2), 5, 20);
        assert_eq!((behind.lost(), behind.lag()), (Some((at(2), at(4))), Some(15)));
        let find = |reset| ResumePoint::find("g", &behind, reset);
        for (reset, offset) in [(Reset::Earliest, 5), (Reset::Latest, 20)] {
            let point = find(reset).unwrap();
            assert_eq!(
                (point.offset, point.is_committed, point.lost),
                (at(offset), false, behind.lost())
            );
        }
        let error = find(Reset::Error).unwrap_err();
        assert_eq!(
            error.to_string(),
            "offsets 2 to 4 of orders/3 are gone, and group g has not read them"
        );
    }
}
