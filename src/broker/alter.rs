//! Changes while topics are in use: AlterTopic, of one of them; and what a new configuration changes for all.

use std::sync::Arc;

use super::admin::entries;
use super::coordinator::{Coordinator, STEP_BYTES_MAX, not_admitted};
use super::{Broker, Partition, Settings, TopicHandle, errors, open_partition};
use crate::api::{AlterTopic, AlteredTopic, ApiError, Outcome, Reply, Request, Response};
use crate::machine::StateMachine;
use crate::metadata::{self, Command, MetaRecord};
use crate::partition::PartitionState;
use crate::storage::{Class, LogConfig, LogStore, PartitionLog, Permit};

impl<S: LogStore> Broker<S> {
    pub(super) fn alter_topic(&self, alter: AlterTopic) -> Outcome {
        // Who only asks needs no room, and has an answer also while there is none.
        let permit = match alter.validate_only {
            true => None,
            false => match self.admit(STEP_BYTES_MAX, Class::Internal) {
                Ok(permit) => Some(permit),
                Err(refused) => return not_admitted(refused, Request::AlterTopic(alter)),
            },
        };
        let command = Command::AlterTopic(metadata::AlterTopic {
            name: alter.name,
            id: alter.id,
            set: alter.set,
            unset: alter.unset,
            partitions: alter.partitions,
        });
        let mut meta = self.lock_coordinator();
        let effects = meta.driver.machine.handle(self.clock.wall(), command);
        let reply: Reply = match effects.reply {
            metadata::Reply::Altered { topic, changed } => {
                let applied = match permit {
                    Some(permit) if changed => self.apply_altered(&mut meta, permit, &topic, effects.records),
                    _ => Ok(()),
                };
                applied.map(|()| Response::AlterTopic(shown(&topic, changed)))
            }
            metadata::Reply::Refused(refusal) => Err(errors::metadata(refusal)),
            _ => Err(errors::internal("the answer is of another kind")),
        };
        Outcome::AfterLsn {
            lsn: meta.driver.lsn,
            reply,
        }
    }

    fn apply_altered(
        &self,
        meta: &mut Coordinator<S::Log>,
        permit: Permit,
        topic: &Arc<metadata::Topic>,
        records: Vec<MetaRecord>,
    ) -> Result<(), ApiError> {
        let handle = self
            .registry
            .with_id(topic.id)
            .ok_or_else(|| errors::internal("a topic without partitions"))?;
        // Held until the registry has the new form. Retention looks there under a partition's lock, so it removes nothing
        // by the old rules that is ordered behind the new ones.
        let locks: Vec<_> = handle.partitions.iter().map(|p| p.lock()).collect();
        self.commit(meta, permit, records)?;
        self.registry.insert(self.in_new_form(&handle, topic));
        drop(locks);
        self.groups.topic_changed(topic);
        Ok(())
    }

    /// Takes over from a new configuration what can change while the broker runs: the defaults of topics, and how many
    /// topics and groups there may be. Takes a while with many partitions.
    pub fn reconfigure(&self, new: &Settings) {
        let mut meta = self.lock_coordinator();
        let machine = &mut meta.driver.machine;
        machine.set_limits(new.limits);
        if machine.set_defaults(&new.topic_defaults) {
            for topic in machine.user_topics() {
                // No topic comes or goes while the metadata is locked.
                let Some(handle) = self.registry.with_id(topic.id) else {
                    continue;
                };
                let locks: Vec<_> = handle.partitions.iter().map(|p| p.lock()).collect();
                self.registry.insert(self.in_new_form(&handle, topic));
                drop(locks);
            }
        }
        drop(meta);
        self.groups.lock().driver.machine.set_limits(new.groups);
    }

    /// The partitions that there are, with the topic's configuration, and those that it has more.
    fn in_new_form(&self, handle: &TopicHandle<S::Log>, topic: &Arc<metadata::Topic>) -> TopicHandle<S::Log> {
        let config = LogConfig::from(topic.config());
        let reopened = |partition: &Arc<Partition<S::Log>>| {
            // An open log takes the configuration on.
            self.store.open(partition.log.key(), config);
            Arc::clone(partition)
        };
        let has = handle.topic.partitions;
        let more = (has..topic.partitions).map(|index| {
            let key = topic.key(index);
            let state = PartitionState::new(self.settings.producers);
            open_partition(&*self.store, key, config, &handle.traffic, state)
        });
        TopicHandle {
            topic: Arc::clone(topic),
            partitions: handle.partitions.iter().map(reopened).chain(more).collect(),
            traffic: Arc::clone(&handle.traffic),
        }
    }
}

fn shown(topic: &metadata::Topic, changed: bool) -> AlteredTopic {
    AlteredTopic {
        id: topic.id,
        partitions: topic.partitions,
        configs: entries(topic),
        changed,
    }
}
