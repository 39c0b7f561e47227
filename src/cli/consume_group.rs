//! The place of a group in `naru consume -g`: where it goes on, and what of it was printed and can be committed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::consume::Begin;
use super::failure::{Failure, Stopped};
use super::output::say;
use crate::client::{Client, OffsetToCommit, Reset, ResumePoint};
use crate::model::{Offset, PartitionId, TopicId};
use crate::rt::{Clock as _, SystemClock};

/// While records come without a break, what was printed is committed so often; otherwise whenever there is nothing more to
/// print.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// How far a group is.
#[derive(Debug)]
pub(crate) struct Place {
    client: Client,
    group: String,
    topic: String,
    topic_id: TopicId,
    /// Behind what was printed and is not committed yet.
    printed: BTreeMap<PartitionId, Offset>,
    clock: SystemClock,
    committed_at: Duration,
}

impl Place {
    /// Finds out where the group goes on.
    pub(crate) async fn find(
        client: &Client,
        group: &str,
        topic: (&str, TopicId),
        partitions: &[u32],
        begin: Option<Begin>,
    ) -> Result<(Self, Vec<ResumePoint>), Stopped> {
        let reset = reset_of(begin)?;
        let points = client.resume_points(group, topic.0, partitions, reset).await?;
        let mut place = Self {
            client: client.clone(),
            group: group.to_owned(),
            topic: topic.0.to_owned(),
            topic_id: topic.1,
            printed: BTreeMap::new(),
            clock: SystemClock::new(),
            committed_at: Duration::ZERO,
        };
        for point in &points {
            // Where the group begins is kept from the start: otherwise records that come before its first commit would be
            // passed over if it began at the end a second time.
            if !point.is_committed {
                place.printed(point.partition, point.offset);
            }
            if let Some((first, last)) = point.lost {
                say(&format!(
                    "offsets {first} to {last} of {}/{} are gone, and group {group} has not read them",
                    topic.0, point.partition
                ));
            }
        }
        place.committed_at = place.clock.mono();
        Ok((place, points))
    }

    /// Everything before `next` was written to the output.
    pub(crate) fn printed(&mut self, partition: PartitionId, next: Offset) {
        self.printed.insert(partition, next);
    }

    /// Whether it is time to commit although there is more to print.
    pub(crate) fn is_due(&self) -> bool {
        self.clock.mono().saturating_sub(self.committed_at) >= COMMIT_EVERY
    }

    /// Commits what was printed. Only to be called once the output has it.
    pub(crate) async fn commit(&mut self) -> Result<(), Stopped> {
        self.committed_at = self.clock.mono();
        if self.printed.is_empty() {
            return Ok(());
        }
        let offsets = self.printed.iter().map(|(partition, offset)| OffsetToCommit {
            topic_id: Some(self.topic_id),
            ..OffsetToCommit::new(self.topic.as_str(), partition.0, *offset)
        });
        self.client.commit_offsets(&self.group, offsets.collect()).await?;
        self.printed.clear();
        Ok(())
    }
}

fn reset_of(begin: Option<Begin>) -> Result<Reset, Failure> {
    match begin {
        None => Ok(Reset::Error),
        Some(Begin::Start) => Ok(Reset::Earliest),
        Some(Begin::End) => Ok(Reset::Latest),
        Some(Begin::At(offset)) => Err(Failure::usage(
            "with -g, -o is start or end: it says where to begin where the group has committed nothing",
        )
        .hint(format!(
            "to set an offset: naru group commit GROUP TOPIC -p PARTITION -o {offset}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_a_group_the_offset_is_a_reset_policy() {
        assert_eq!(reset_of(None), Ok(Reset::Error));
        assert_eq!(reset_of(Some(Begin::Start)), Ok(Reset::Earliest));
        assert_eq!(reset_of(Some(Begin::End)), Ok(Reset::Latest));
        let refused = reset_of(Some(Begin::At(Offset::ZERO))).unwrap_err();
        assert!(refused.hint.unwrap().contains("naru group commit"));
    }
}
