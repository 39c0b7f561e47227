//! What changes metadata: decide, append to `__meta`, apply, answer when durable.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::driver::{Driver, Replayed};
use super::groups::State;
use super::{Broker, NotAdmitted, errors, open_topic};
use crate::api::{
    ApiError, CreateTopic, CreatedTopic, DeleteTopic, InitProducer, InitializedProducer, Outcome, Reply,
    Request, Response,
};
use crate::group;
use crate::machine::StateMachine;
use crate::metadata::{self, Command, Machine, MetaRecord, PRODUCER_ID_FIRST, ProducerIds};
use crate::model::{Lsn, ProducerEpoch, ProducerId, TopicId};
use crate::storage::{Class, LogStore, PartitionLog, Permit, Step};

/// More than any command writes: a name of 200 bytes, a handful of numbers, and every configuration entry once.
pub(super) const STEP_BYTES_MAX: u64 = 16 << 10;

/// The metadata machine, and what is left of its producer ids.
#[derive(Debug)]
pub(super) struct Coordinator<L> {
    pub(super) driver: Driver<L, Machine>,
    /// What is left of the block of producer ids, and the LSN of its reservation.
    producer_ids: ProducerIds,
    producer_ids_lsn: Lsn,
}

impl<L: PartitionLog> Coordinator<L> {
    pub(super) fn new<S: LogStore<Log = L>>(store: &S, recovered: Replayed<Machine>) -> Self {
        // Nobody knows how many of the last block were handed out, so the first producer reserves the next.
        let end = recovered.machine.producer_ids_end();
        Self {
            driver: Driver::new(store, recovered),
            producer_ids: ProducerIds { first: end, end },
            producer_ids_lsn: Lsn::ZERO,
        }
    }
}

impl<S: LogStore> Broker<S> {
    pub(super) fn create_topic(&self, create: CreateTopic) -> Outcome {
        let permit = match self.admit(STEP_BYTES_MAX, Class::Internal) {
            Ok(permit) => permit,
            Err(refused) => return not_admitted(refused, Request::CreateTopic(create)),
        };
        let id_is_operation = create.operation_id.is_some();
        let id = create
            .operation_id
            .unwrap_or_else(|| TopicId::from_bytes(self.ids.uuid()));
        let command = Command::CreateTopic(metadata::CreateTopic {
            name: create.name,
            partitions: create.partitions,
            configs: create.configs,
            if_not_exists: create.if_not_exists,
            id,
            id_is_operation,
        });
        self.decide(permit, command, |reply| match reply {
            metadata::Reply::Created { topic, created } => Some(Response::CreateTopic(CreatedTopic {
                id: topic.id,
                partitions: topic.partitions,
                created,
            })),
            _ => None,
        })
    }

    pub(super) fn delete_topic(&self, delete: DeleteTopic) -> Outcome {
        let permit = match self.admit(STEP_BYTES_MAX, Class::Internal) {
            Ok(permit) => permit,
            Err(refused) => return not_admitted(refused, Request::DeleteTopic(delete)),
        };
        let command = Command::DeleteTopic {
            name: delete.name,
            id: delete.id,
        };
        self.decide(permit, command, |reply| match reply {
            metadata::Reply::Deleted(topic) => Some(Response::DeleteTopic(topic.id)),
            _ => None,
        })
    }

    pub(super) fn init_producer(&self, init: InitProducer) -> Outcome {
        let permit = match self.admit(STEP_BYTES_MAX, Class::Internal) {
            Ok(permit) => permit,
            Err(refused) => return not_admitted(refused, Request::InitProducer(init)),
        };
        let mut meta = self.lock_coordinator();
        let reply = match init.current {
            None => self.new_producer(&mut meta, permit),
            Some((id, epoch)) => match bumped(&meta, id, epoch) {
                // There is no epoch behind the largest.
                Ok(None) => self.new_producer(&mut meta, permit),
                Ok(Some(producer)) => Ok(producer),
                Err(error) => Err(error),
            },
        };
        Outcome::AfterLsn {
            lsn: meta.producer_ids_lsn,
            reply: reply.map(Response::InitProducer),
        }
    }

    fn new_producer(
        &self,
        meta: &mut Coordinator<S::Log>,
        permit: Permit,
    ) -> Result<InitializedProducer, ApiError> {
        if meta.producer_ids.first >= meta.producer_ids.end {
            let effects = meta
                .driver
                .machine
                .handle(self.clock.wall(), Command::ReserveProducerIds);
            let metadata::Reply::Reserved(ids) = effects.reply else {
                return Err(errors::internal("no producer ids were reserved"));
            };
            meta.producer_ids_lsn = self.commit(meta, permit, effects.records)?;
            meta.producer_ids = ids;
        }
        let id = ProducerId(meta.producer_ids.first);
        meta.producer_ids.first += 1;
        self.producer_ids_next
            .store(meta.producer_ids.first, Ordering::Release);
        Ok(InitializedProducer {
            id,
            epoch: ProducerEpoch(0),
        })
    }

    /// Decides a command about topics, makes it happen and answers once it is durable, refusals too: they were decided
    /// by what may not be durable yet.
    fn decide(
        &self,
        permit: Permit,
        command: Command,
        answer: impl FnOnce(metadata::Reply) -> Option<Response>,
    ) -> Outcome {
        let mut meta = self.lock_coordinator();
        let effects = meta.driver.machine.handle(self.clock.wall(), command);
        let done = match &effects.reply {
            metadata::Reply::Refused(_) => Ok(()),
            metadata::Reply::Created { created: false, .. } | metadata::Reply::Reserved(_) => Ok(()),
            metadata::Reply::Created { topic, .. } => {
                self.apply_created(&mut meta, permit, topic, effects.records)
            }
            metadata::Reply::Altered { .. } => {
                Err(errors::internal("changes of topics are not decided here"))
            }
            metadata::Reply::Deleted(topic) => self.apply_deleted(&mut meta, permit, topic, effects.records),
        };
        let reply: Reply = match (done, effects.reply) {
            (Err(error), _) => Err(error),
            (Ok(()), metadata::Reply::Refused(refusal)) => Err(errors::metadata(refusal)),
            (Ok(()), reply) => answer(reply).ok_or_else(|| errors::internal("the answer is of another kind")),
        };
        Outcome::AfterLsn {
            lsn: meta.driver.lsn,
            reply,
        }
    }

    fn apply_created(
        &self,
        meta: &mut Coordinator<S::Log>,
        permit: Permit,
        topic: &Arc<metadata::Topic>,
        records: Vec<MetaRecord>,
    ) -> Result<(), ApiError> {
        // A retry of an operation that was carried out before.
        if records.is_empty() {
            return Ok(());
        }
        self.commit(meta, permit, records)?;
        let handle = open_topic(&*self.store, topic, self.settings.producers, |_| None);
        self.registry.insert(handle);
        self.groups.topic_changed(topic);
        Ok(())
    }

    fn apply_deleted(
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
        // Held until the topic is out of the registry: a commit for it comes before the deletion, or finds it gone.
        let mut groups = self.groups.lock();
        // All of them are locked while the deletion is ordered: no batch may follow it.
        let locks: Vec<_> = handle.partitions.iter().map(|p| p.lock()).collect();
        let mark = |gone| {
            for partition in &handle.partitions {
                partition.gone.store(gone, Ordering::Release);
            }
        };
        // Marked first: the engine wakes parked fetches while it takes the step in, and they wake only once.
        mark(true);
        let committed = self.commit_deletion(meta, &mut groups, permit, topic.id, records);
        if let Err(error) = committed {
            mark(false);
            return Err(error);
        }
        drop(locks);
        self.registry.remove(topic);
        self.groups.topic_gone(&mut groups, topic.id);
        Ok(())
    }

    /// Writes a deletion, and that groups forget the topic, in one step, and applies both.
    fn commit_deletion(
        &self,
        meta: &mut Coordinator<S::Log>,
        groups: &mut State<S::Log>,
        permit: Permit,
        topic: TopicId,
        records: Vec<MetaRecord>,
    ) -> Result<(), ApiError> {
        let now = self.clock.wall();
        let forgotten = groups
            .driver
            .machine
            .handle(now, group::Command::DeleteTopic(topic))
            .records;
        let (of_meta, pending_meta) = meta.driver.place(now, records);
        let of_groups = (!forgotten.is_empty()).then(|| groups.driver.place(now, forgotten));
        let (of_groups, pending_groups) = of_groups.unzip();
        let step = Step {
            appends: std::iter::once(of_meta).chain(of_groups).collect(),
            trims: SmallVec::new(),
            deletions: SmallVec::from_buf([topic]),
        };
        // What many groups are to remember of it may be more than such steps usually are.
        let bytes = step_bytes(&step);
        let permit = if bytes > permit.bytes() {
            drop(permit);
            self.admit(bytes, Class::Internal).map_err(no_room)?
        } else {
            permit
        };
        let lsn = self.submit(permit, step)?;
        meta.driver.apply(&pending_meta, lsn);
        if let Some(pending) = &pending_groups {
            groups.driver.apply(pending, lsn);
        }
        self.metadata_lsn.store(lsn.0, Ordering::Release);
        Ok(())
    }

    /// Appends records to `__meta` and applies them.
    pub(super) fn commit(
        &self,
        meta: &mut Coordinator<S::Log>,
        permit: Permit,
        records: Vec<MetaRecord>,
    ) -> Result<Lsn, ApiError> {
        let (placed, pending) = meta.driver.place(self.clock.wall(), records);
        let lsn = self.submit(permit, Step::append(placed))?;
        meta.driver.apply(&pending, lsn);
        self.metadata_lsn.store(lsn.0, Ordering::Release);
        Ok(lsn)
    }

    /// Submits a step of internal partitions with as much of the permit as it needs.
    pub(super) fn submit(&self, mut permit: Permit, step: Step<S::Log>) -> Result<Lsn, ApiError> {
        let bytes = step_bytes(&step);
        let share = self
            .store
            .split_permit(&mut permit, bytes)
            .ok_or_else(|| errors::internal("an internal step larger than its permit"))?;
        self.store.submit(share, step).map_err(errors::submit)
    }
}

fn step_bytes<L>(step: &Step<L>) -> u64 {
    let sizes = step.appends.iter();
    sizes.map(|placed| u64::from(placed.batch.total_bytes())).sum()
}

/// Where nobody can wait for room.
fn no_room(refused: NotAdmitted) -> ApiError {
    match refused {
        NotAdmitted::Wait(_) => errors::busy(),
        NotAdmitted::Refused(error) => *error,
    }
}

pub(super) fn not_admitted(refused: NotAdmitted, request: Request) -> Outcome {
    match refused {
        NotAdmitted::Wait(retry) => Outcome::Blocked { request, retry },
        NotAdmitted::Refused(error) => Outcome::Ready(Err(*error)),
    }
}

/// The same producer one epoch later; `None` behind the last epoch. Fencing needs no state here: every partition fences
/// the older epoch when the newer one first writes to it.
fn bumped<L>(
    meta: &Coordinator<L>,
    id: ProducerId,
    epoch: ProducerEpoch,
) -> Result<Option<InitializedProducer>, ApiError> {
    if !(PRODUCER_ID_FIRST..meta.producer_ids.first).contains(&id.0) {
        return Err(errors::unknown_producer(id));
    }
    if epoch.0 < 0 {
        return Err(errors::bad_argument("producer_epoch", "an epoch is not negative"));
    }
    let next = epoch.0.checked_add(1).map(ProducerEpoch);
    Ok(next.map(|epoch| InitializedProducer { id, epoch }))
}
