//! Partitions that a topic gets while `naru consume` reads all of it.

use std::time::Duration;

use super::consume::ConsumeArgs;
use super::offset_range::{Begin, OffsetRange, Until};
use crate::client::{Client, MetadataTopics};
use crate::model::TopicId;
use crate::rt::{Clock as _, SystemClock};

/// How often the topic is asked how many partitions it has.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Looks now and then whether there are more.
#[derive(Debug)]
pub(crate) struct NewPartitions {
    client: Client,
    topic: String,
    topic_id: TopicId,
    /// How many are read.
    known: u32,
    clock: SystemClock,
    next_look: Duration,
}

impl NewPartitions {
    /// For a command that reads all partitions of this topic for ever; `None` if it does not.
    pub(crate) fn of(client: &Client, args: &ConsumeArgs, topic_id: TopicId, known: u32) -> Option<Self> {
        let range = args.offset.unwrap_or(OffsetRange::FROM_START);
        // An offset that is named need not be one of an empty partition.
        let anywhere = match range.begin {
            Begin::Start | Begin::End | Begin::BeforeEnd(_) | Begin::Time(_) => true,
            Begin::At(_) | Begin::AfterStart(_) => false,
        };
        let all_for_ever = args.partitions.is_empty() && !args.exit_at_end && range.until == Until::Forever;
        let clock = SystemClock::new();
        (anywhere && all_for_ever).then(|| Self {
            client: client.clone(),
            topic: args.topic.clone(),
            topic_id,
            known,
            next_look: clock.mono() + LOOK_EVERY,
            clock,
        })
    }

    /// How long until the next look.
    pub(crate) fn wait(&self) -> Duration {
        self.next_look.saturating_sub(self.clock.mono())
    }

    /// The partitions that were not told of before, if it is time to look. What keeps the broker from answering, those who read
    /// tell.
    pub(crate) async fn look(&mut self) -> Vec<u32> {
        if !self.wait().is_zero() {
            return Vec::new();
        }
        self.next_look = self.clock.mono() + LOOK_EVERY;
        let asked = MetadataTopics::Named(vec![self.topic.clone()]);
        let Ok(metadata) = self.client.metadata(asked).await else {
            return Vec::new();
        };
        let count = metadata.topics.into_iter().find_map(|topic| match topic.result {
            Ok((id, count)) if id == self.topic_id => Some(count),
            _ => None,
        });
        let new = self.known..count.unwrap_or(self.known).max(self.known);
        self.known = new.end;
        new.collect()
    }
}
