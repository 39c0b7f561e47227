//! The broker itself: receives a request, asks the pure code, submits to the engine, answers.
//!
//! Knows no protocol and no files. Time, identities and the engine are handed in.
//!
//! Order of locks: metadata, then groups, then partitions ascending by (topic id, index), then the engine's own. Nothing that holds
//! a partition asks the coordinator; no guard of a map is held while a mutex is taken; nothing is awaited under either.

mod admin;
mod alter;
mod cluster;
mod coordinator;
mod counters;
mod decompression;
mod driver;
mod errors;
mod fetch;
mod group_errors;
mod groups;
mod lag;
mod lag_time;
mod offsets;
mod produce;
mod recovered;
mod retention;
mod settings;
mod step;
#[cfg(test)]
mod tests;
mod times;
mod traffic;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::watch;

pub use counters::{Counters, CountersNow};
pub use lag::GroupNow;
pub use recovered::{RecoverError, Recovered};
pub use retention::RetentionPass;
pub use settings::Settings;
pub use traffic::{PartitionNow, TopicNow};

use self::coordinator::Coordinator;
use self::decompression::Decompression;
use self::groups::Groups;
use self::recovered::Parts;
use self::retention::RetentionClock;
use self::traffic::Traffic;
use crate::api::{ApiError, Outcome, Peer, Request, Service, TopicPartition};
use crate::metadata;
use crate::model::{ConnectionId, DurableState, Lsn, PartitionKey, TopicId, TopicName, TopicStorage};
use crate::partition::PartitionState;
use crate::rt::{BoxFuture, Clock, IdSource};
use crate::storage::{
    Backpressure, Class, LogConfig, LogStore, PartitionLog, Permit, Snapshot, SnapshotSource,
};

/// A broker over an engine.
pub struct Broker<S: LogStore> {
    store: Arc<S>,
    durable: watch::Receiver<DurableState>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    settings: Settings,
    counters: Arc<Counters>,
    registry: Arc<Registry<S::Log>>,
    decompression: Decompression,
    retention: RetentionClock,
    coordinator: Mutex<Coordinator<S::Log>>,
    groups: Arc<Groups<S>>,
    /// LSN of the newest metadata that answers may have been decided by. Behind what the coordinator holds for moments
    /// only; read where its lock would be too much.
    metadata_lsn: Arc<AtomicU64>,
    /// Producer ids below were handed out, or may have been before the start.
    producer_ids_next: AtomicI64,
    /// Monotonic time of the start.
    started: Duration,
}

/// The topics of users that can be produced to and fetched from.
#[derive(Debug)]
struct Registry<L> {
    by_id: DashMap<TopicId, Arc<TopicHandle<L>>>,
    by_name: DashMap<Arc<str>, Arc<TopicHandle<L>>>,
}

/// A topic and its partitions, in the order of their indexes.
#[derive(Debug)]
struct TopicHandle<L> {
    topic: Arc<metadata::Topic>,
    partitions: Vec<Arc<Partition<L>>>,
    traffic: Arc<Traffic>,
}

/// A partition: who decides, and where it is stored.
#[derive(Debug)]
struct Partition<L> {
    log: Arc<L>,
    /// The topic was deleted, or is just being. Written under the lock of `state`, which is held until the deletion has
    /// its LSN.
    gone: AtomicBool,
    traffic: Arc<Traffic>,
    state: Mutex<PartitionState>,
}

/// A partition that was asked for, and its topic.
type Resolved<L> = (Arc<TopicHandle<L>>, Arc<Partition<L>>);

/// Why there is no permit.
enum NotAdmitted {
    /// Not now: ready when another try makes sense.
    Wait(BoxFuture<'static, ()>),
    /// Not at all.
    Refused(Box<ApiError>),
}

impl<S: LogStore> Broker<S> {
    /// A broker that goes on where the recovered state ends. The engine must have finished its recovery.
    ///
    /// # Errors
    /// What was stored cannot be understood.
    pub fn new(
        store: Arc<S>,
        recovered: Recovered,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        settings: Settings,
    ) -> Result<Self, RecoverError> {
        let Parts {
            mut meta,
            groups,
            mut partitions,
        } = recovered.finish()?;
        // The defaults of this start; what is stored are the topics' own settings alone.
        meta.machine = meta.machine.with_defaults(&settings.topic_defaults);
        let limits = settings.producers;
        let registry = Arc::<Registry<S::Log>>::default();
        for topic in meta.machine.user_topics() {
            let states = |key| partitions.remove(&key);
            registry.insert(open_topic(&*store, topic, limits, states));
        }
        let retention = RetentionClock::starting(&registry, clock.mono());
        let producer_ids_next = AtomicI64::new(meta.machine.producer_ids_end());
        let coordinator = Mutex::new(Coordinator::new(&*store, meta));
        let (metadata_lsn, counters) = (Arc::default(), Arc::default());
        let origin = groups::Origin {
            recovered: groups,
            registry: &registry,
            clock: &clock,
            metadata_lsn: &metadata_lsn,
            counters: &counters,
            settings: &settings,
        };
        let groups = Arc::new(Groups::new(&store, origin));
        Ok(Self {
            durable: store.durable(),
            started: clock.mono(),
            store,
            clock,
            ids,
            settings,
            counters,
            registry,
            decompression: Decompression::default(),
            retention,
            coordinator,
            groups,
            metadata_lsn,
            producer_ids_next,
        })
    }

    /// What has been counted since the start.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    fn lock_coordinator(&self) -> MutexGuard<'_, Coordinator<S::Log>> {
        self.coordinator.lock().expect("no panics while locked")
    }

    fn durable_lsn(&self) -> Lsn {
        self.durable.borrow().lsn
    }

    fn metadata_lsn(&self) -> Lsn {
        Lsn(self.metadata_lsn.load(Ordering::Acquire))
    }

    fn admit(&self, bytes: u64, class: Class) -> Result<Permit, NotAdmitted> {
        admit(&*self.store, bytes, class, &self.settings)
    }

    /// The partition that a client means.
    fn resolve(&self, asked: &TopicPartition) -> Result<Arc<Partition<S::Log>>, ApiError> {
        Ok(self.resolve_with_topic(asked)?.1)
    }

    /// The partition that a client means, and its topic.
    fn resolve_with_topic(&self, asked: &TopicPartition) -> Result<Resolved<S::Log>, ApiError> {
        let handle = match asked.topic_id {
            Some(id) => self
                .registry
                .with_id(id)
                .ok_or_else(|| errors::unknown_topic_id(id))?,
            None => self
                .registry
                .with_name(&asked.topic)
                .ok_or_else(|| self.unknown_topic(&asked.topic))?,
        };
        let partition = usize::try_from(asked.partition.0)
            .ok()
            .and_then(|index| handle.partitions.get(index).cloned())
            .ok_or_else(|| errors::unknown_partition(&handle.topic, asked.partition))?;
        Ok((handle, partition))
    }

    /// Says what is wrong with a name under which there is no topic. Never called with a partition locked.
    fn unknown_topic(&self, name: &str) -> ApiError {
        match TopicName::for_user(name) {
            Err(bad) => errors::bad_name(&bad),
            Ok(name) => {
                let nearest = self.lock_coordinator().driver.machine.nearest(name.as_str());
                errors::unknown_topic(&name, nearest)
            }
        }
    }
}

impl<S: LogStore> Service for Broker<S> {
    fn handle(&self, request: Request, from: &Peer) -> Outcome {
        let outcome = match request {
            Request::Metadata(metadata) => self.metadata(metadata),
            Request::CreateTopic(create) => self.create_topic(create),
            Request::DeleteTopic(delete) => self.delete_topic(delete),
            Request::DescribeTopic(describe) => self.describe_topic(&describe),
            Request::ListTopics(list) => self.list_topics(&list),
            Request::ListOffsets(list) => self.list_offsets(&list),
            Request::InitProducer(init) => self.init_producer(init),
            Request::Produce(produce) => self.produce(produce),
            Request::Fetch(fetch) => self.fetch(fetch),
            Request::CommitOffsets(commit) => self.commit_offsets(commit),
            Request::FetchOffsets(fetch) => self.fetch_offsets(&fetch),
            Request::DescribeCluster(_) => self.describe_cluster(),
            Request::AlterTopic(alter) => self.alter_topic(alter),
            Request::TrimTopic(trim) => self.trim_topic(trim),
            Request::GroupHeartbeat(heartbeat) => self.group_heartbeat(heartbeat, from),
            Request::CloseConsumer(close) => self.close_consumer(close),
            Request::ProposeAssignment(propose) => self.propose_assignment(propose),
            Request::CreateGroup(create) => self.create_group(create),
            Request::AlterGroup(alter) => self.alter_group(alter),
            Request::DeleteGroup(delete) => self.delete_group(delete),
            Request::DescribeGroup(describe) => self.describe_group(&describe),
            Request::ListGroups(list) => self.list_groups(&list),
            Request::EvictMember(evict) => self.evict_member(evict),
            Request::Step(step) => self.step(step),
        };
        match &outcome {
            Outcome::Ready(reply) | Outcome::AfterLsn { reply, .. } => self.counters.count(reply),
            // Counted when it is answered.
            Outcome::Blocked { .. } | Outcome::Later(_) => {}
        }
        outcome
    }

    fn disconnected(&self, connection: ConnectionId) {
        self.groups.disconnected(connection);
    }
}

impl<S: LogStore> SnapshotSource for Broker<S> {
    fn snapshot(&self, key: PartitionKey) -> Option<Snapshot> {
        if key == PartitionKey::META {
            return Some(self.lock_coordinator().driver.snapshot());
        }
        if key == PartitionKey::GROUPS {
            return Some(self.groups.lock().driver.snapshot());
        }
        let handle = self.registry.with_id(key.topic)?;
        // Whoever sends a batch again behind a restart must not hear that it is there: it went with all the others.
        if handle.topic.config().storage == TopicStorage::Memory {
            return None;
        }
        let partition = handle.partitions.get(usize::try_from(key.partition.0).ok()?)?;
        let now = self.clock.wall();
        let mut state = partition.lock();
        state.expire(now);
        let covers = state.next_offset();
        let blob = state.to_stored()?;
        Some(Snapshot { covers, blob })
    }
}

impl<S: LogStore> std::fmt::Debug for Broker<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<L> Registry<L> {
    fn insert(&self, handle: TopicHandle<L>) {
        let handle = Arc::new(handle);
        let name = Arc::from(handle.topic.name.as_str());
        self.by_id.insert(handle.topic.id, Arc::clone(&handle));
        self.by_name.insert(name, handle);
    }

    fn remove(&self, topic: &metadata::Topic) {
        self.by_name.remove(topic.name.as_str());
        self.by_id.remove(&topic.id);
    }

    fn all(&self) -> Vec<Arc<TopicHandle<L>>> {
        self.by_id.iter().map(|handle| Arc::clone(&handle)).collect()
    }

    /// Whether this is what there is of the topic now.
    fn has(&self, handle: &Arc<TopicHandle<L>>) -> bool {
        let now = self.with_id(handle.topic.id);
        now.is_some_and(|now| Arc::ptr_eq(&now, handle))
    }

    fn partition(&self, key: PartitionKey) -> Option<Arc<Partition<L>>> {
        let handle = self.with_id(key.topic)?;
        handle
            .partitions
            .get(usize::try_from(key.partition.0).ok()?)
            .cloned()
    }

    fn with_id(&self, id: TopicId) -> Option<Arc<TopicHandle<L>>> {
        self.by_id.get(&id).map(|handle| Arc::clone(&handle))
    }

    fn with_name(&self, name: &str) -> Option<Arc<TopicHandle<L>>> {
        self.by_name.get(name).map(|handle| Arc::clone(&handle))
    }
}

impl<L> Default for Registry<L> {
    fn default() -> Self {
        Self {
            by_id: DashMap::new(),
            by_name: DashMap::new(),
        }
    }
}

impl<L> Partition<L> {
    fn lock(&self) -> MutexGuard<'_, PartitionState> {
        self.state.lock().expect("no panics while locked")
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
}

/// A permit, or why there is none.
fn admit<S: LogStore>(
    store: &S,
    bytes: u64,
    class: Class,
    settings: &Settings,
) -> Result<Permit, NotAdmitted> {
    let mut refusal = match store.permit(bytes, class) {
        Ok(permit) => return Ok(permit),
        Err(refusal) => refusal,
    };
    if refusal == Backpressure::Busy {
        // Registered before asking again: what is freed in between wakes us.
        let freed = store.permit_freed();
        refusal = match store.permit(bytes, class) {
            Ok(permit) => return Ok(permit),
            Err(Backpressure::Busy) => return Err(NotAdmitted::Wait(freed)),
            Err(refusal) => refusal,
        };
    }
    let error = errors::not_admitted(refusal, settings);
    Err(NotAdmitted::Refused(Box::new(error)))
}

/// Opens all logs of a topic; partitions without a recovered state begin with an empty one.
fn open_topic<S: LogStore>(
    store: &S,
    topic: &Arc<metadata::Topic>,
    limits: crate::partition::ProducerLimits,
    mut recovered: impl FnMut(PartitionKey) -> Option<PartitionState>,
) -> TopicHandle<S::Log> {
    let config = LogConfig::from(topic.config());
    let traffic = Arc::<Traffic>::default();
    let open = |index| {
        let key = topic.key(index);
        let state = recovered(key).unwrap_or_else(|| PartitionState::new(limits));
        open_partition(store, key, config, &traffic, state)
    };
    TopicHandle {
        topic: Arc::clone(topic),
        partitions: (0..topic.partitions).map(open).collect(),
        traffic,
    }
}

/// Opens the log of a partition, and goes on behind its end.
fn open_partition<S: LogStore>(
    store: &S,
    key: PartitionKey,
    config: LogConfig,
    traffic: &Arc<Traffic>,
    mut state: PartitionState,
) -> Arc<Partition<S::Log>> {
    let log = store.open(key, config);
    state.lead(log.bounds(Lsn::ZERO).log_end, store.leader_epoch());
    Arc::new(Partition {
        log,
        gone: AtomicBool::new(false),
        traffic: Arc::clone(traffic),
        state: Mutex::new(state),
    })
}

/// The answer, once what it rests on is durable; the engine may fail before.
async fn when_durable(
    mut durable: watch::Receiver<DurableState>,
    lsn: Lsn,
    reply: crate::api::Reply,
) -> crate::api::Reply {
    match durable.wait_for(|now| now.lsn >= lsn || now.poisoned).await {
        Ok(now) if now.lsn >= lsn => reply,
        _ => Err(errors::storage_failed(
            "the engine failed before the answer was sure",
        )),
    }
}
