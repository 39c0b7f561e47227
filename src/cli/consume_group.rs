//! The place of a group in `naru consume -g -p`, which assigns itself: where it goes on, and what of it was printed and can be committed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::failure::{Failure, Stopped};
use super::offset_range::{Begin, OffsetRange, Until};
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
        range: Option<OffsetRange>,
    ) -> Result<(Self, Vec<ResumePoint>), Stopped> {
        let reset = reset_of(range)?;
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

pub(super) fn reset_of(range: Option<OffsetRange>) -> Result<Reset, Failure> {
    let refused = || {
        Failure::usage(
            "with -g, -o is start or end: it says where to begin where the group has committed nothing",
        )
    };
    let Some(range) = range else {
        return Ok(Reset::Error);
    };
    match (range.begin, range.until) {
        (Begin::Start, Until::Forever) => Ok(Reset::Earliest),
        (Begin::End, Until::Forever) => Ok(Reset::Latest),
        (Begin::Start | Begin::End, _) => Err(refused().hint("to stop at the end: --exit-at-end")),
        (begin, _) => {
            let begin = OffsetRange {
                begin,
                ..OffsetRange::FROM_START
            };
            Err(refused().hint(format!(
                "to set an offset: naru group commit GROUP TOPIC -p PARTITION -o {begin}"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_a_group_the_offset_is_a_reset_policy() {
        let reset = |text: &str| reset_of(Some(text.parse().unwrap()));
        assert_eq!(reset_of(None), Ok(Reset::Error));
        assert_eq!(reset("start"), Ok(Reset::Earliest));
        assert_eq!(reset("end"), Ok(Reset::Latest));
        let hint = |text| reset(text).unwrap_err().hint.unwrap();
        assert!(hint("7").ends_with("naru group commit GROUP TOPIC -p PARTITION -o 7"));
        assert!(hint("@-15m").contains("naru group commit"));
        assert!(hint(":end").contains("--exit-at-end"));
    }
}
