//! What shows topics: Metadata, DescribeTopic, ListTopics. Answers wait for the LSN of the metadata that they show.

use std::sync::Arc;

use super::retention::next_deletion;
use super::{Broker, errors};
use crate::api::{
    ApiError, BrokerInfo, ConfigEntry, DeletionTime, DescribeTopic, DescribedTopic, ListTopics, ListedTopics,
    Metadata, MetadataAnswer, NextDeletion, Outcome, PartitionDescription, PartitionMetadata, Response,
    TopicListing, TopicMetadata,
};
use crate::metadata::{ConfigKey, ConfigSource, Page, Topic};
use crate::model::{ErrorCode, Glob, PartitionId, TopicId, TopicName};
use crate::partition;
use crate::storage::{LogStore, PartitionLog};

/// A log and how many producers write to it.
type Part<L> = (Arc<L>, u32);

impl<S: LogStore> Broker<S> {
    pub(super) fn metadata(&self, asked: Metadata) -> Outcome {
        let (count, max) = (asked.topics.len(), self.settings.request_partitions_max);
        if count > max {
            return Outcome::Ready(Err(errors::too_many("topics", count, max)));
        }
        let meta = self.lock_coordinator();
        let lsn = meta.driver.lsn;
        let found: Vec<(String, Option<Arc<Topic>>)> = if asked.all {
            let all = meta.driver.machine.user_topics();
            all.map(|topic| (topic.name.to_string(), Some(Arc::clone(topic))))
                .collect()
        } else {
            let find = |name: String| {
                let topic = meta.driver.machine.topic(&name).cloned();
                (name, topic)
            };
            asked.topics.into_iter().map(find).collect()
        };
        // What is wrong with a name is found out without the lock, which the search takes itself.
        drop(meta);
        let show = |(name, topic): (String, Option<Arc<Topic>>)| {
            let shown = match topic {
                Some(topic) => Ok(self.show(&topic)),
                None => Err(self.unknown_topic(&name)),
            };
            (name, shown)
        };
        let topics = found.into_iter().map(show).collect();
        let broker = BrokerInfo {
            id: self.settings.broker_id,
            address: self.settings.address.clone(),
        };
        Outcome::AfterLsn {
            lsn,
            reply: Ok(Response::Metadata(MetadataAnswer {
                cluster_id: self.settings.cluster_id.clone(),
                brokers: vec![broker],
                topics,
            })),
        }
    }

    pub(super) fn describe_topic(&self, asked: &DescribeTopic) -> Outcome {
        let meta = self.lock_coordinator();
        let lsn = meta.driver.lsn;
        let topic = meta.driver.machine.topic(&asked.name).cloned();
        drop(meta);
        let described = topic
            .and_then(|topic| self.describe(&topic))
            .ok_or_else(|| self.unknown_topic(&asked.name));
        Outcome::AfterLsn {
            lsn,
            reply: described.map(Response::DescribeTopic),
        }
    }

    pub(super) fn list_topics(&self, asked: &ListTopics) -> Outcome {
        let matching = match Glob::new(&asked.matching) {
            Ok(glob) => glob,
            Err(bad) => return Outcome::Ready(Err(errors::bad_argument("match", bad.to_string()))),
        };
        if !asked.cursor.is_empty() && asked.cursor.parse::<TopicName>().is_err() {
            return Outcome::Ready(Err(bad_cursor()));
        }
        let count = match asked.count {
            0 => self.settings.list_count_default,
            count => count.min(self.settings.list_count_max),
        };
        let page = Page {
            behind: &asked.cursor,
            count: usize::try_from(count).unwrap_or(usize::MAX),
            matching: &matching,
            include_internal: asked.include_internal,
        };
        let meta = self.lock_coordinator();
        let lsn = meta.driver.lsn;
        let (topics, next) = meta.driver.machine.page(&page);
        drop(meta);
        let listed = ListedTopics {
            topics: topics.iter().filter_map(|topic| self.listing(topic)).collect(),
            cursor: next.map(|name| name.to_string()).unwrap_or_default(),
        };
        Outcome::AfterLsn {
            lsn,
            reply: Ok(Response::ListTopics(listed)),
        }
    }

    /// `None` if the topic was deleted meanwhile.
    fn describe(&self, topic: &Topic) -> Option<DescribedTopic> {
        let durable = self.durable_lsn();
        let describe = |(index, (log, producers)): (u32, Part<S::Log>)| {
            let stats = log.stats();
            PartitionDescription {
                metadata: self.partition(index),
                bounds: log.bounds(durable),
                size_bytes: stats.size_bytes,
                segments: stats.segments,
                producers,
                quarantined: stats.quarantined,
                next_deletion: if topic.id.is_internal() {
                    None
                } else {
                    next_deletion(&*log, topic.config()).map(shown)
                },
            }
        };
        Some(DescribedTopic {
            name: topic.name.clone(),
            id: topic.id,
            created: topic.created,
            // The broker's own topics are kept as the broker needs them: what users can set says nothing about them.
            configs: if topic.id.is_internal() {
                Vec::new()
            } else {
                entries(topic)
            },
            partitions: (0..).zip(self.parts(topic)?).map(describe).collect(),
        })
    }

    fn listing(&self, topic: &Topic) -> Option<TopicListing> {
        let durable = self.durable_lsn();
        let (mut records, mut size_bytes) = (0, 0);
        for (log, _) in self.parts(topic)? {
            let bounds = log.bounds(durable);
            records += bounds.high_watermark.since(bounds.log_start);
            size_bytes += log.stats().size_bytes;
        }
        Some(TopicListing {
            name: topic.name.clone(),
            id: topic.id,
            partitions: topic.partitions,
            records,
            size_bytes,
        })
    }

    /// The partitions of a topic, the broker's own included; `None` if it was deleted meanwhile.
    fn parts(&self, topic: &Topic) -> Option<Vec<Part<S::Log>>> {
        if topic.id.is_internal() {
            let log = match topic.id {
                TopicId::GROUPS => Arc::clone(&self.groups.lock().driver.log),
                _ => Arc::clone(&self.lock_coordinator().driver.log),
            };
            return Some(vec![(log, 0)]);
        }
        let handle = self.registry.with_id(topic.id)?;
        let part = |p: &Arc<super::Partition<S::Log>>| {
            let producers = p.lock().producers();
            (Arc::clone(&p.log), u32::try_from(producers).unwrap_or(u32::MAX))
        };
        // As many as the topic that is shown: it may have got more meanwhile, which nobody has waited for.
        let shown = usize::try_from(topic.partitions).unwrap_or(usize::MAX);
        Some(handle.partitions.iter().take(shown).map(part).collect())
    }

    fn show(&self, topic: &Topic) -> TopicMetadata {
        TopicMetadata {
            id: topic.id,
            partitions: (0..topic.partitions).map(|p| self.partition(p)).collect(),
        }
    }

    fn partition(&self, index: u32) -> PartitionMetadata {
        PartitionMetadata {
            partition: PartitionId(index),
            leader: self.settings.broker_id,
            leader_epoch: self.store.leader_epoch(),
        }
    }
}

fn shown(next: partition::NextDeletion) -> NextDeletion {
    NextDeletion {
        upto: next.upto,
        when: match next.when {
            partition::When::At(at) => DeletionTime::At(at),
            partition::When::AfterBytes(bytes) => DeletionTime::AfterBytes(bytes),
        },
    }
}

/// All entries that work, and those without effect that somebody has set.
pub(super) fn entries(topic: &Topic) -> Vec<ConfigEntry> {
    let entry = |key: ConfigKey| {
        let (value, source) = topic.value(key);
        (key.has_effect() || source != ConfigSource::Default).then(|| ConfigEntry {
            name: key.name().to_owned(),
            value: value.to_string(),
            source: source.to_string(),
            has_effect: key.has_effect(),
        })
    };
    ConfigKey::all().filter_map(entry).collect()
}

fn bad_cursor() -> ApiError {
    ApiError::new(ErrorCode::InvalidArgument, "this cursor was never handed out")
        .hint("begin with an empty cursor")
        .details(crate::api::ErrorDetails {
            field: Some("cursor".to_owned()),
            ..crate::api::ErrorDetails::default()
        })
}
