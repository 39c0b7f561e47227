//! The machine: decides about topics and producer-id blocks, and applies what was decided.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::config::{self, ConfigError, ConfigKey, ConfigSource, ConfigValue, Entries, TopicDefaults};

use super::record::{AlteredTopic, MetaRecord};
use crate::machine::{Effects, StateMachine};
use crate::model::{
    Glob, InvalidTopicName, PartitionId, PartitionKey, Timestamp, TopicConfig, TopicId, TopicName, nearest,
};

/// So many producer ids are reserved at once, durable before one of them is handed out.
pub const PRODUCER_ID_BLOCK: i64 = 1000;

/// The first producer id; 0 means "none" to some clients.
pub const PRODUCER_ID_FIRST: i64 = 1;

/// So many ids of deleted topics are remembered, so that a late retry of a creation does not bring a topic back.
const DELETED_IDS_MAX: usize = 10_000;

/// How many neighbours in the order of names are looked at for a similar one, in each direction.
const NEIGHBOURS_MAX: usize = 256;

/// How many names one page looks at; a page may so be short, or empty, although there is more.
const PAGE_NAMES_MAX: usize = 2_000;

/// The broker's own topics: `__meta` and `__groups`.
const INTERNAL_TOPICS: usize = 2;

/// How much of everything there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Topics, without the broker's own.
    pub topics_max: usize,
    /// Partitions of one topic.
    pub partitions_per_topic_max: u32,
    /// Partitions of all topics.
    pub partitions_max: u32,
    /// Partitions of a topic that does not say.
    pub partitions_default: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            topics_max: 10_000,
            partitions_per_topic_max: 1_024,
            partitions_max: 20_000,
            partitions_default: 1,
        }
    }
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Identity.
    pub id: TopicId,
    /// Name, unique among the topics that exist.
    pub name: TopicName,
    /// How many partitions.
    pub partitions: u32,
    /// When it was created.
    pub created: Timestamp,
    /// Changed since: what was asked for at its creation is not known any more.
    pub(super) altered: bool,
    config: TopicConfig,
    // Invariant: `config` is the default with these on top, the topic's own last.
    defaults: Arc<TopicDefaults>,
    entries: Entries,
}

impl Topic {
    pub(super) fn new(
        id: TopicId,
        name: TopicName,
        partitions: u32,
        entries: Entries,
        created: Timestamp,
    ) -> Self {
        Self {
            id,
            name,
            partitions,
            created,
            altered: false,
            config: config::effective(&TopicDefaults::default(), &entries),
            defaults: Arc::default(),
            entries,
        }
    }

    /// The same topic on a broker with these defaults.
    fn with_defaults(mut self, defaults: &Arc<TopicDefaults>) -> Self {
        self.config = config::effective(defaults, &self.entries);
        self.defaults = Arc::clone(defaults);
        self
    }

    /// The same topic, changed.
    fn altered_to(&self, altered: &AlteredTopic) -> Self {
        Self {
            // A partition that exists stays, whatever a record says.
            partitions: altered.partitions.max(self.partitions),
            altered: true,
            config: config::effective(&self.defaults, &altered.entries),
            entries: altered.entries.clone(),
            name: self.name.clone(),
            defaults: Arc::clone(&self.defaults),
            id: self.id,
            created: self.created,
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> &TopicConfig {
        &self.config
    }

    /// One of its partitions.
    pub fn key(&self, partition: u32) -> PartitionKey {
        PartitionKey {
            topic: self.id,
            partition: PartitionId(partition),
        }
    }

    /// What an entry is set to, and by whom.
    pub fn value(&self, key: ConfigKey) -> (ConfigValue, ConfigSource) {
        config::shown(key, &self.defaults, &self.entries)
    }

    pub(super) fn entries(&self) -> &Entries {
        &self.entries
    }
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make a topic.
    CreateTopic(CreateTopic),
    /// Change a topic.
    AlterTopic(AlterTopic),
    /// Remove the topic of this name, if it has this id.
    DeleteTopic {
        /// Its name; not checked yet.
        name: String,
        /// Its id, if the caller knows it.
        id: Option<TopicId>,
    },
    /// Reserve the next block of producer ids.
    ReserveProducerIds,
}

/// A topic to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTopic {
    /// Its name; not checked yet.
    pub name: String,
    /// How many partitions; 0: the default.
    pub partitions: u32,
    /// Names and values; not checked yet.
    pub configs: Vec<(String, String)>,
    /// An existing topic with as many partitions (any number, if none is asked for) is success.
    pub if_not_exists: bool,
    /// The id that it gets.
    pub id: TopicId,
    /// Whether the client chose the id, so that a topic with this id is the result of an earlier try.
    pub id_is_operation: bool,
}

/// What is to change about a topic: all of it, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlterTopic {
    /// Its name; not checked yet.
    pub name: String,
    /// Its id, if the caller knows it.
    pub id: Option<TopicId>,
    /// Names and values of entries that are the topic's own from now on; not checked yet.
    pub set: Vec<(String, String)>,
    /// Names of entries that go back to the default; not checked yet.
    pub unset: Vec<String>,
    /// How many partitions from now on; 0: as many as there are.
    pub partitions: u32,
}

/// A block of producer ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIds {
    /// The first.
    pub first: i64,
    /// Behind the last.
    pub end: i64,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To [`Command::CreateTopic`].
    Created {
        /// The topic.
        topic: Arc<Topic>,
        /// False: it was there before this operation.
        created: bool,
    },
    /// To [`Command::AlterTopic`].
    Altered {
        /// The topic as it is from now on.
        topic: Arc<Topic>,
        /// False: it was so before.
        changed: bool,
    },
    /// To [`Command::DeleteTopic`]: the topic as it was.
    Deleted(Arc<Topic>),
    /// To [`Command::ReserveProducerIds`].
    Reserved(ProducerIds),
    /// To any.
    Refused(MetaError),
}

/// Why a command is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// The name is not allowed.
    #[error("{0}")]
    Name(#[from] InvalidTopicName),
    /// A configuration entry is not allowed.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// Too many partitions for one topic.
    #[error("{asked} partitions, a topic has 1 to {max}")]
    Partitions {
        /// What was asked for.
        asked: u32,
        /// The limit.
        max: u32,
    },
    /// Partitions are never removed.
    #[error("topic {name} has {has} partitions, it cannot have {asked}: partitions are never removed")]
    FewerPartitions {
        /// The topic.
        name: TopicName,
        /// How many it has.
        has: u32,
        /// What was asked for.
        asked: u32,
    },
    /// No more topics.
    #[error("there are {max} topics, which is the limit")]
    TooManyTopics {
        /// The limit.
        max: usize,
    },
    /// No more partitions.
    #[error("{asked} partitions more would pass the limit of {max} partitions in all")]
    TooManyPartitions {
        /// What was asked for.
        asked: u32,
        /// The limit.
        max: u32,
    },
    /// The name is taken.
    #[error("topic {name} exists, with {partitions} partitions")]
    Exists {
        /// The name.
        name: TopicName,
        /// Its partitions.
        partitions: u32,
    },
    /// No such topic.
    #[error("there is no topic {name}")]
    Unknown {
        /// What was asked for.
        name: TopicName,
        /// A similar name.
        nearest: Option<TopicName>,
    },
    /// The topic of that name is another one.
    #[error("topic {name} has the id {id}: it was created again")]
    OtherId {
        /// The name.
        name: TopicName,
        /// Its id now.
        id: TopicId,
    },
    /// The operation id was used for something else, is the broker's own, or its topic was deleted since.
    #[error("{0}")]
    OperationId(&'static str),
}

/// What a page shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<'a> {
    /// Names behind this one; empty: from the first.
    pub behind: &'a str,
    /// Most topics.
    pub count: usize,
    /// Only these.
    pub matching: &'a Glob,
    /// With the broker's own.
    pub include_internal: bool,
}

/// All metadata.
// Invariant: `by_name` and `by_id` hold the same topics; `partitions` counts those of users.
#[derive(Clone, Debug)]
pub struct Machine {
    limits: Limits,
    defaults: Arc<TopicDefaults>,
    by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    by_id: BTreeMap<TopicId, Arc<Topic>>,
    partitions: u32,
    producer_ids_end: i64,
    /// Oldest first.
    deleted: VecDeque<TopicId>,
}

impl Machine {
    /// A broker without topics, but for its own, and without defaults but the built-in ones.
    pub fn new(limits: Limits) -> Self {
        Self::with(limits, Vec::new(), Vec::new(), PRODUCER_ID_FIRST)
    }

    /// With these defaults for topics, those that exist included.
    #[must_use]
    pub fn with_defaults(mut self, defaults: &Arc<TopicDefaults>) -> Self {
        self.set_defaults(defaults);
        self
    }

    /// From now on topics have these defaults, those that exist included. Returns whether they are others than before.
    pub fn set_defaults(&mut self, defaults: &Arc<TopicDefaults>) -> bool {
        if self.defaults == *defaults {
            return false;
        }
        self.defaults = Arc::clone(defaults);
        let users: Vec<Arc<Topic>> = self.user_topics().cloned().collect();
        for topic in users {
            self.replace(Topic::clone(&topic).with_defaults(defaults));
        }
        true
    }

    /// From now on there may be so much. What there is more than that stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    pub(super) fn with(
        limits: Limits,
        topics: Vec<Topic>,
        deleted: Vec<TopicId>,
        producer_ids_end: i64,
    ) -> Self {
        let mut machine = Self {
            limits,
            defaults: Arc::default(),
            by_name: BTreeMap::new(),
            by_id: BTreeMap::new(),
            partitions: 0,
            producer_ids_end: producer_ids_end.max(PRODUCER_ID_FIRST),
            deleted: deleted.into(),
        };
        let internal: [_; INTERNAL_TOPICS] = [
            (TopicId::META, TopicName::meta()),
            (TopicId::GROUPS, TopicName::groups()),
        ];
        for (id, name) in internal {
            machine.insert(Topic::new(id, name, 1, Entries::new(), Timestamp(0)));
        }
        for topic in topics {
            machine.insert(topic);
        }
        machine
    }

    /// The topic of this name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    /// The topic with this id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.by_id.get(&id)
    }

    /// The topics of users, in the order of their names.
    pub fn user_topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.by_name.values().filter(|topic| !topic.id.is_internal())
    }

    /// Producer ids below may have been handed out.
    pub fn producer_ids_end(&self) -> i64 {
        self.producer_ids_end
    }

    /// A name similar to this one, among its neighbours in the order of names: the search stays short however many
    /// topics there are.
    pub fn nearest(&self, name: &str) -> Option<TopicName> {
        let at_or_behind = self
            .by_name
            .range::<str, _>((Bound::Included(name), Bound::Unbounded));
        let before = self
            .by_name
            .range::<str, _>((Bound::Unbounded, Bound::Excluded(name)));
        let names = before
            .rev()
            .take(NEIGHBOURS_MAX)
            .chain(at_or_behind.take(NEIGHBOURS_MAX));
        let users = names.filter(|(_, topic)| !topic.id.is_internal());
        let found = nearest(name, users.map(|(name, _)| name.as_ref()))?;
        self.topic(found).map(|topic| topic.name.clone())
    }

    /// A page of topics in the order of their names, and where the next one begins (`None`: this was the last).
    pub fn page(&self, page: &Page<'_>) -> (Vec<Arc<Topic>>, Option<TopicName>) {
        let range = self
            .by_name
            .range::<str, _>((Bound::Excluded(page.behind), Bound::Unbounded));
        let mut found = Vec::new();
        let mut last: Option<&Arc<Topic>> = None;
        for (looked_at, (name, topic)) in range.enumerate() {
            if found.len() >= page.count.max(1) || looked_at >= PAGE_NAMES_MAX {
                return (found, last.map(|topic| topic.name.clone()));
            }
            let shown = page.include_internal || !topic.id.is_internal();
            if shown && page.matching.matches(name) {
                found.push(Arc::clone(topic));
            }
            last = Some(topic);
        }
        (found, None)
    }

    pub(super) fn deleted_ids(&self) -> impl Iterator<Item = TopicId> {
        self.deleted.iter().copied()
    }

    fn create(&self, now: Timestamp, command: CreateTopic) -> Result<Effects<MetaRecord, Reply>, MetaError> {
        let name = TopicName::for_user(&command.name)?;
        let entries = config::parse(command.configs.iter().map(|(k, v)| (k.as_str(), v.as_str())))?;
        self.defaults.check_storage(&entries)?;
        if command.id_is_operation
            && let Some(reply) = self.earlier_try(&command, &entries)?
        {
            return Ok(unchanged(reply));
        }
        if let Some(topic) = self.topic(name.as_str()) {
            let fits = command.partitions == 0 || command.partitions == topic.partitions;
            if command.if_not_exists && fits {
                return Ok(unchanged(Reply::Created {
                    topic: Arc::clone(topic),
                    created: false,
                }));
            }
            return Err(MetaError::Exists {
                name,
                partitions: topic.partitions,
            });
        }
        let partitions = self.room_for(command.partitions)?;
        let topic = Topic::new(command.id, name, partitions, entries, now).with_defaults(&self.defaults);
        Ok(Effects {
            reply: Reply::Created {
                topic: Arc::new(topic.clone()),
                created: true,
            },
            records: vec![MetaRecord::TopicCreated(topic)],
        })
    }

    /// The result of an earlier try of the same operation, if there was one.
    fn earlier_try(&self, command: &CreateTopic, entries: &Entries) -> Result<Option<Reply>, MetaError> {
        if command.id.is_internal() {
            return Err(MetaError::OperationId(
                "ids below 2^16 are the broker's own: choose a random one",
            ));
        }
        // A deleted topic's batches are told from a living one's by the id, so an id never comes back.
        if self.deleted.contains(&command.id) {
            return Err(MetaError::OperationId(
                "this operation made a topic that was deleted since",
            ));
        }
        let Some(topic) = self.by_id.get(&command.id) else {
            return Ok(None);
        };
        let as_made =
            (command.partitions == 0 || command.partitions == topic.partitions) && topic.entries() == entries;
        let same = topic.name.as_str() == command.name && (topic.altered || as_made);
        if !same {
            return Err(MetaError::OperationId(
                "this operation id was used to create another topic",
            ));
        }
        Ok(Some(Reply::Created {
            topic: Arc::clone(topic),
            created: true,
        }))
    }

    /// How many partitions a new topic gets.
    fn room_for(&self, asked: u32) -> Result<u32, MetaError> {
        let partitions = match asked {
            0 => self.limits.partitions_default.max(1),
            asked => asked,
        };
        self.check_partitions_of_topic(partitions)?;
        if self.by_id.len().saturating_sub(INTERNAL_TOPICS) >= self.limits.topics_max {
            return Err(MetaError::TooManyTopics {
                max: self.limits.topics_max,
            });
        }
        self.check_partitions_in_all(partitions)?;
        Ok(partitions)
    }

    fn check_partitions_of_topic(&self, partitions: u32) -> Result<(), MetaError> {
        match self.limits.partitions_per_topic_max {
            max if partitions > max => Err(MetaError::Partitions {
                asked: partitions,
                max,
            }),
            _ => Ok(()),
        }
    }

    fn check_partitions_in_all(&self, more: u32) -> Result<(), MetaError> {
        match self.limits.partitions_max {
            max if self.partitions.saturating_add(more) > max => {
                Err(MetaError::TooManyPartitions { asked: more, max })
            }
            _ => Ok(()),
        }
    }

    fn alter(&self, command: &AlterTopic) -> Result<Effects<MetaRecord, Reply>, MetaError> {
        let topic = self.named(&command.name, command.id)?;
        let set = command.set.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        let unset = command.unset.iter().map(String::as_str);
        let entries = config::altered(&topic.entries, set, unset)?;
        let partitions = self.grown(topic, command.partitions)?;
        if entries == topic.entries && partitions == topic.partitions {
            return Ok(unchanged(Reply::Altered {
                topic: Arc::clone(topic),
                changed: false,
            }));
        }
        let altered = AlteredTopic {
            id: topic.id,
            partitions,
            entries,
        };
        Ok(Effects {
            reply: Reply::Altered {
                topic: Arc::new(topic.altered_to(&altered)),
                changed: true,
            },
            records: vec![MetaRecord::TopicAltered(altered)],
        })
    }

    /// How many partitions a topic has when so many are asked for.
    fn grown(&self, topic: &Topic, asked: u32) -> Result<u32, MetaError> {
        let has = topic.partitions;
        match asked {
            0 => Ok(has),
            asked if asked < has => Err(MetaError::FewerPartitions {
                name: topic.name.clone(),
                has,
                asked,
            }),
            // Also where the limit is lower than it was.
            asked if asked == has => Ok(has),
            asked => {
                self.check_partitions_of_topic(asked)?;
                self.check_partitions_in_all(asked - has)?;
                Ok(asked)
            }
        }
    }

    /// The topic that a user means.
    fn named(&self, name: &str, id: Option<TopicId>) -> Result<&Arc<Topic>, MetaError> {
        let name = TopicName::for_user(name)?;
        let Some(topic) = self.topic(name.as_str()) else {
            let nearest = self.nearest(name.as_str());
            return Err(MetaError::Unknown { name, nearest });
        };
        if id.is_some_and(|id| id != topic.id) {
            return Err(MetaError::OtherId { name, id: topic.id });
        }
        Ok(topic)
    }

    fn delete(&self, name: &str, id: Option<TopicId>) -> Result<Effects<MetaRecord, Reply>, MetaError> {
        let topic = self.named(name, id)?;
        Ok(Effects {
            records: vec![MetaRecord::TopicDeleted(topic.id)],
            reply: Reply::Deleted(Arc::clone(topic)),
        })
    }

    fn insert(&mut self, topic: Topic) {
        if !topic.id.is_internal() {
            self.partitions = self.partitions.saturating_add(topic.partitions);
        }
        self.replace(topic);
    }

    /// Puts a topic in the place of the one with its name and id.
    fn replace(&mut self, topic: Topic) {
        let topic = Arc::new(topic);
        self.by_name
            .insert(Arc::from(topic.name.as_str()), Arc::clone(&topic));
        self.by_id.insert(topic.id, topic);
    }

    fn put_altered(&mut self, altered: &AlteredTopic) {
        // Without a record of its creation there is no topic, and so nothing to change.
        let Some(topic) = self.by_id.get(&altered.id) else {
            return;
        };
        let (before, topic) = (topic.partitions, topic.altered_to(altered));
        self.partitions = self
            .partitions
            .saturating_add(topic.partitions.saturating_sub(before));
        self.replace(topic);
    }

    fn remove(&mut self, id: TopicId) {
        if let Some(topic) = self.by_id.remove(&id) {
            self.by_name.remove(topic.name.as_str());
            self.partitions = self.partitions.saturating_sub(topic.partitions);
            self.deleted.push_back(id);
        }
        while self.deleted.len() > DELETED_IDS_MAX {
            self.deleted.pop_front();
        }
    }
}

impl StateMachine for Machine {
    type Command = Command;
    type Record = MetaRecord;
    type Reply = Reply;

    fn handle(&self, now: Timestamp, command: Command) -> Effects<MetaRecord, Reply> {
        let decided = match command {
            Command::CreateTopic(create) => self.create(now, create),
            Command::AlterTopic(alter) => self.alter(&alter),
            Command::DeleteTopic { name, id } => self.delete(&name, id),
            Command::ReserveProducerIds => {
                let first = self.producer_ids_end;
                let end = first.saturating_add(PRODUCER_ID_BLOCK);
                Ok(Effects {
                    records: vec![MetaRecord::ProducerIdsReserved { end }],
                    reply: Reply::Reserved(ProducerIds { first, end }),
                })
            }
        };
        decided.unwrap_or_else(|refusal| unchanged(Reply::Refused(refusal)))
    }

    fn apply(&mut self, record: &MetaRecord) {
        match record {
            MetaRecord::TopicCreated(topic) => self.insert(topic.clone().with_defaults(&self.defaults)),
            MetaRecord::TopicAltered(altered) => self.put_altered(altered),
            MetaRecord::TopicDeleted(id) => self.remove(*id),
            MetaRecord::ProducerIdsReserved { end } => {
                self.producer_ids_end = self.producer_ids_end.max(*end);
            }
        }
    }
}

fn unchanged(reply: Reply) -> Effects<MetaRecord, Reply> {
    Effects {
        records: Vec::new(),
        reply,
    }
}
