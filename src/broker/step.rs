//! Step: appends and the commit of what they were made of, as one frame of the journal. All of it or nothing.

use std::sync::{Arc, MutexGuard};

use smallvec::SmallVec;

use super::coordinator::not_admitted;
use super::groups::{Checked, State, Undone, member_ref};
use super::produce::{Times, sealed_batch};
use super::{Broker, Partition, errors, group_errors};
use crate::api::{
    ApiError, ErrorDetails, Outcome, ProducePartition, Request, Response, Step, Stepped, SteppedAppend,
};
use crate::group::{self, Command, GroupRecord, StepAppend, StepCommand, StepStamp, Taken};
use crate::machine::StateMachine;
use crate::model::{Acks, Lsn, PartitionKey, Timestamp, TopicStorage};
use crate::partition::{Decision, PartitionState};
use crate::record::SealedBatch;
use crate::storage::{Class, LogStore, PartitionLog, Placed, Step as Frame};

/// A batch that is ready to be appended, and where.
struct Ready<L> {
    partition: Arc<Partition<L>>,
    batch: SealedBatch,
    times: Times,
    /// Nothing makes it survive.
    in_memory: bool,
}

/// A partition that is locked, and the place that its batch gets.
struct Locked<'a> {
    /// Index in the request.
    index: usize,
    state: MutexGuard<'a, PartitionState>,
    append: StepAppend,
}

impl<S: LogStore> Broker<S> {
    pub(super) fn step(&self, mut step: Step) -> Outcome {
        let (asked, max) = (step.appends.len(), self.settings.request_partitions_max);
        if asked > max {
            return Outcome::Ready(Err(errors::too_many("batches", asked, max)));
        }
        if let Some(retry) = self.validate_compressed(&mut step.appends) {
            return Outcome::Blocked {
                request: Request::Step(step),
                retry,
            };
        }
        let found = match self.found_offsets(&step.offsets) {
            Ok(found) => found,
            Err(refusal) => {
                let state = self.groups.lock();
                let repeated = self.repeated(&state, &step);
                return repeated.map_or(refusal, |taken| self.answer_step(&state, Ok(taken)));
            }
        };
        let ready: Result<Vec<_>, ApiError> = step
            .appends
            .iter()
            .enumerate()
            .map(|(index, item)| self.ready(item).map_err(|error| at(index, error)))
            .collect();
        let mut state = self.groups.lock();
        let reply = match ready.and_then(|ready| self.known_producer(&step).map(|()| ready)) {
            Err(error) => Err(error),
            Ok(ready) => match self.take(&mut state, &step, &found, ready) {
                Err(Undone::NotAdmitted(refused)) => return not_admitted(refused, Request::Step(step)),
                Err(Undone::Refused(error)) => Err(*error),
                Ok(taken) => Ok(taken),
            },
        };
        let reply = reply.or_else(|error| self.repeated(&state, &step).ok_or(error));
        self.answer_step(&state, reply)
    }

    /// What a step that was taken before is answered, whatever is wrong with it now: its topics may be gone since.
    fn repeated(&self, state: &State<S::Log>, step: &Step) -> Option<Taken> {
        let known = state
            .driver
            .machine
            .taken(self.clock.wall(), &step.group, stamp(step));
        known.ok().flatten()
    }

    fn answer_step(&self, state: &State<S::Log>, reply: Result<Taken, ApiError>) -> Outcome {
        let lsn = self.groups.lsn(state);
        Outcome::AfterLsn {
            lsn,
            reply: reply.map(|taken| Response::Step(answer(taken, lsn))),
        }
    }

    fn known_producer(&self, step: &Step) -> Result<(), ApiError> {
        self.check_producer_id(step.stamp.id)
    }

    /// Everything that takes time is done before anything is locked.
    fn ready(&self, item: &ProducePartition) -> Result<Ready<S::Log>, ApiError> {
        let (handle, partition) = self.resolve_with_topic(&item.partition)?;
        let config = handle.topic.config();
        let now = self.clock.wall();
        let batch = sealed_batch(config, item.payload.clone(), now)?;
        if batch.header().producer.is_some() {
            return Err(errors::bad_argument(
                "appends",
                "a batch of a step has no producer of its own: the step is what is told from its retry",
            ));
        }
        let epoch = self.store.leader_epoch();
        if let Some(got) = item.leader_epoch.filter(|got| *got != epoch) {
            return Err(errors::not_owner(epoch, got));
        }
        Ok(Ready {
            partition,
            batch,
            times: Times::of(config, now),
            in_memory: config.storage == TopicStorage::Memory,
        })
    }

    fn take(
        &self,
        state: &mut State<S::Log>,
        step: &Step,
        found: &[Checked<S::Log>],
        mut ready: Vec<Ready<S::Log>>,
    ) -> Result<Taken, Undone> {
        let now = self.clock.wall();
        let partitions: Vec<_> = ready.iter().map(|ready| Arc::clone(&ready.partition)).collect();
        let mut locked = lock_all(&partitions)?;
        for locked in &mut locked {
            let Some(ready) = ready.get_mut(locked.index) else {
                continue;
            };
            locked.append = place(&mut locked.state, ready).map_err(|error| at(locked.index, error))?;
        }
        let mut appends: Vec<_> = locked
            .iter()
            .map(|locked| (locked.index, locked.append))
            .collect();
        appends.sort_unstable_by_key(|(index, _)| *index);
        let in_memory = ready.iter().any(|ready| ready.in_memory);
        let command = Command::Step(StepCommand {
            group: step.group.clone(),
            member: step.member.as_ref().map(member_ref),
            stamp: stamp(step),
            offsets: self.offsets_of(&step.offsets, found)?,
            acks: if in_memory { Acks::Memory } else { Acks::Fsync },
            appends: appends.into_iter().map(|(_, append)| append).collect(),
        });
        let effects = state.driver.machine.handle(now, command);
        let taken = match effects.reply {
            group::Reply::Stepped(taken) => taken,
            group::Reply::Refused(refusal) => return Err(group_errors::group(refusal, &step.offsets).into()),
            _ => return Err(errors::internal("the answer is of another kind").into()),
        };
        if !effects.records.is_empty() {
            self.submit_step(state, now, effects.records, ready, locked)?;
        }
        Ok(taken)
    }

    /// One frame with all batches and what the group is to remember.
    fn submit_step(
        &self,
        state: &mut State<S::Log>,
        now: Timestamp,
        records: Vec<GroupRecord>,
        ready: Vec<Ready<S::Log>>,
        locked: Vec<Locked<'_>>,
    ) -> Result<(), Undone> {
        let headers: Vec<_> = ready
            .iter()
            .map(|ready| (*ready.batch.header(), ready.batch.total_bytes()))
            .collect();
        let (of_groups, pending) = state.driver.place(now, records);
        let sizes = headers.iter().map(|(_, bytes)| u64::from(*bytes));
        let bytes = sizes.sum::<u64>() + u64::from(of_groups.batch.total_bytes());
        let permit = self.admit(bytes, Class::Produce).map_err(Undone::NotAdmitted)?;
        let mut places: Vec<_> = locked
            .iter()
            .map(|locked| (locked.index, locked.append))
            .collect();
        places.sort_unstable_by_key(|(index, _)| *index);
        let of_partitions = ready.into_iter().zip(places).map(|(ready, (_, append))| Placed {
            log: Arc::clone(&ready.partition.log),
            base: append.base,
            batch: ready.batch,
            append_time: append.append_time,
        });
        let frame = Frame {
            appends: of_partitions.chain(std::iter::once(of_groups)).collect(),
            trims: SmallVec::new(),
            deletions: SmallVec::new(),
        };
        let lsn: Lsn = self.store.submit(permit, frame).map_err(errors::submit)?;
        for mut locked in locked {
            if let Some((header, bytes)) = headers.get(locked.index) {
                locked.state.appended(header, locked.append.append_time, lsn);
                self.counters.appended(header.count, *bytes);
            }
        }
        state.driver.apply(&pending, lsn);
        self.groups.spread(state);
        Ok(())
    }
}

/// Locks partitions in the order of their keys.
fn lock_all<L: PartitionLog>(partitions: &[Arc<Partition<L>>]) -> Result<Vec<Locked<'_>>, Undone> {
    let mut order: Vec<(PartitionKey, usize)> = partitions
        .iter()
        .enumerate()
        .map(|(index, partition)| (partition.log.key(), index))
        .collect();
    order.sort_unstable();
    let twice = order
        .windows(2)
        .find(|pair| matches!(pair, [(a, _), (b, _)] if a == b));
    if let Some([_, (_, index)]) = twice {
        let error = errors::bad_argument(
            "appends",
            "a partition comes a second time: a step has one batch for each",
        );
        return Err(at(*index, error).into());
    }
    let mut locked = Vec::with_capacity(order.len());
    for (_, index) in order {
        let Some(partition) = partitions.get(index) else {
            continue;
        };
        let state = partition.lock();
        if partition.is_gone() {
            return Err(at(index, errors::deleted()).into());
        }
        locked.push(Locked {
            index,
            state,
            append: StepAppend::default(),
        });
    }
    Ok(locked)
}

/// Stamps a batch with the place that it gets.
fn place<L>(state: &mut PartitionState, ready: &mut Ready<L>) -> Result<StepAppend, ApiError> {
    let decision = state.sequence(ready.times.now, ready.batch.header());
    let Decision::Append { base, append_time } = decision.map_err(errors::out_of_sequence)? else {
        return Err(errors::internal("a batch without a producer is no duplicate"));
    };
    let epoch = state.leader_epoch();
    ready.batch.stamp(base, epoch);
    if ready.times.stamps() {
        ready.batch.stamp_append_time(append_time);
    }
    Ok(StepAppend {
        base,
        last: ready.batch.header().last_offset(),
        append_time,
        leader_epoch: epoch,
    })
}

/// The same error with the batch at fault.
fn at(index: usize, error: ApiError) -> ApiError {
    let details = ErrorDetails {
        field: Some(format!("step.appends[{index}]")),
        ..error.details
    };
    ApiError { details, ..error }
}

fn stamp(step: &Step) -> StepStamp {
    StepStamp {
        producer: step.stamp.id,
        epoch: step.stamp.epoch,
        sequence: step.stamp.sequence,
    }
}

fn answer(taken: Taken, lsn: Lsn) -> Stepped {
    let appends = taken.appends.iter().map(|append| SteppedAppend {
        base: append.base,
        last: append.last,
        append_time: append.append_time,
        leader_epoch: append.leader_epoch,
    });
    Stepped {
        committed: taken.at,
        duplicate: taken.duplicate,
        acks: taken.acks,
        durable_through: (taken.acks == Acks::Fsync).then_some(lsn),
        appends: appends.collect(),
    }
}
