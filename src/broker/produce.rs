//! Produce: permit, then per partition validate, sequence, stamp, submit.

use std::sync::atomic::Ordering;

use super::coordinator::not_admitted;
use super::times::{self, NO_TIME};
use super::{Broker, Partition, errors};
use crate::api::{
    ApiError, Outcome, Produce, ProducePartition, ProducePayload, Produced, ProducedPartition, ProducerStamp,
    Request, Response, Validation,
};
use crate::metadata::PRODUCER_ID_FIRST;
use crate::model::{Acks, Lsn, Offset, ProducerId, Timestamp, TimestampType, TopicConfig, TopicStorage};
use crate::partition::Decision;
use crate::planted::{self, Bug};
use crate::record::{BatchBuilder, ProducerFields, Record, SealedBatch, validate};
use crate::storage::{Class, LogStore, PartitionLog, Permit, Placed, Step};

/// What time it is, and whether records get it as theirs.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) now: Timestamp,
    kind: TimestampType,
}

impl Times {
    pub(super) fn of(config: &TopicConfig, now: Timestamp) -> Self {
        Self {
            now,
            kind: config.timestamp_type,
        }
    }

    /// Records get the time at which they are appended.
    pub(super) fn stamps(self) -> bool {
        self.kind == TimestampType::LogAppendTime
    }
}

/// Where a batch is.
struct Place {
    offsets: Option<(Offset, Offset)>,
    append_time: Timestamp,
    lsn: Lsn,
    duplicate: bool,
}

/// What a batch is acknowledged with, and when.
struct Given {
    acks: Acks,
    waits_for: Lsn,
}

impl Given {
    fn of(asked: Acks, storage: TopicStorage, lsn: Lsn) -> Self {
        let (acks, waits_for) = match (storage, asked) {
            // Nothing makes it survive, whatever was asked for. It waits all the same: until it can be read, and until no
            // later start gives its offset again.
            (TopicStorage::Memory, _) => (Acks::Memory, lsn),
            (TopicStorage::Disk, Acks::Fsync) => (Acks::Fsync, lsn),
            (TopicStorage::Disk, Acks::Memory) => (Acks::Memory, Lsn::ZERO),
        };
        Self { acks, waits_for }
    }
}

impl<S: LogStore> Broker<S> {
    pub(super) fn produce(&self, produce: Produce) -> Outcome {
        let (asked, max) = (produce.partitions.len(), self.settings.request_partitions_max);
        if asked > max {
            return Outcome::Ready(Err(errors::too_many("batches", asked, max)));
        }
        let produce = match self.validated(produce) {
            Ok(produce) => produce,
            Err(later) => return later,
        };
        // Before any state is looked at, so that with the permit nothing but the end of the broker can refuse.
        let mut permit = match self.admit(produce.payload_bytes(), Class::Produce) {
            Ok(permit) => permit,
            Err(refused) => return not_admitted(refused, Request::Produce(produce)),
        };
        let acks = produce.acks;
        let mut lsn = Lsn::ZERO;
        let mut results = Vec::with_capacity(asked);
        for item in produce.partitions {
            let result = self.produce_one(&mut permit, item, acks);
            lsn = lsn.max(match &result {
                Ok((_, waits_for)) => *waits_for,
                // Refused perhaps because of a deletion that is not durable yet.
                Err(_) => self.metadata_lsn(),
            });
            results.push(result.map(|(produced, _)| produced));
        }
        Outcome::AfterLsn {
            lsn,
            reply: Ok(Response::Produce(Produced { partitions: results })),
        }
    }

    /// The answer, and what it waits for.
    fn produce_one(
        &self,
        permit: &mut Permit,
        item: ProducePartition,
        acks: Acks,
    ) -> Result<(ProducedPartition, Lsn), ApiError> {
        let (handle, partition) = self.resolve_with_topic(&item.partition)?;
        let config = handle.topic.config();
        let now = self.clock.wall();
        // Everything that takes time is done before the partition is locked.
        let batch = sealed_batch(config, item.payload, now)?;
        if let Some((id, ..)) = batch.header().producer {
            self.check_producer_id(id)?;
        }
        let share = self
            .store
            .split_permit(permit, u64::from(batch.total_bytes()))
            .ok_or_else(|| errors::internal("a batch larger than its permit"))?;
        let times = Times::of(config, now);
        let place = self.place(&partition, item.leader_epoch, times, batch, share)?;
        let given = Given::of(acks, config.storage, place.lsn);
        let durable_through = match given.acks {
            // What was durable before the start is so now, whatever group it was in.
            Acks::Fsync if place.lsn == Lsn::ZERO => Some(self.durable_lsn()),
            Acks::Fsync => Some(place.lsn),
            Acks::Memory => None,
        };
        let produced = ProducedPartition {
            offsets: place.offsets,
            append_time: place.append_time,
            leader_epoch: self.store.leader_epoch(),
            duplicate: place.duplicate,
            acks: given.acks,
            durable_through,
            log_start: partition.log.bounds(self.durable_lsn()).log_start,
        };
        Ok((produced, given.waits_for))
    }

    /// One critical section: the decision, the append and the book-keeping. Nothing in it waits.
    fn place(
        &self,
        partition: &Partition<S::Log>,
        asked_epoch: Option<crate::model::LeaderEpoch>,
        times: Times,
        mut batch: SealedBatch,
        permit: Permit,
    ) -> Result<Place, ApiError> {
        let mut state = partition.lock();
        if partition.is_gone() {
            return Err(errors::deleted());
        }
        let epoch = state.leader_epoch();
        if let Some(got) = asked_epoch.filter(|got| *got != epoch) {
            return Err(errors::not_owner(epoch, got));
        }
        let decision = state
            .sequence(times.now, batch.header())
            .map_err(errors::out_of_sequence)?;
        let (base, append_time) = match decision {
            Decision::Append { base, append_time } => (base, append_time),
            Decision::Duplicate {
                base,
                last,
                append_time,
                lsn,
            } => {
                self.counters.duplicate();
                partition.traffic.duplicate();
                let early = planted::is(Bug::DuplicateAnsweredEarly);
                return Ok(Place {
                    offsets: Some((base, last)),
                    append_time,
                    lsn: if early { Lsn::ZERO } else { lsn },
                    duplicate: true,
                });
            }
            Decision::DuplicateOld { lsn } => {
                self.counters.duplicate();
                partition.traffic.duplicate();
                return Ok(Place {
                    offsets: None,
                    append_time: NO_TIME,
                    lsn,
                    duplicate: true,
                });
            }
        };
        batch.stamp(base, epoch);
        if times.stamps() {
            batch.stamp_append_time(append_time);
        }
        let (header, bytes) = (*batch.header(), batch.total_bytes());
        let log = std::sync::Arc::clone(&partition.log);
        let step = Step::append(Placed {
            log,
            base,
            batch,
            append_time,
        });
        let lsn = self.store.submit(permit, step).map_err(errors::submit)?;
        state.appended(&header, append_time, lsn);
        drop(state);
        self.counters.appended(header.count, bytes);
        partition.traffic.appended(header.count, bytes, append_time);
        Ok(Place {
            offsets: Some((base, header.last_offset())),
            append_time,
            lsn,
            duplicate: false,
        })
    }

    pub(super) fn check_producer_id(&self, id: ProducerId) -> Result<(), ApiError> {
        let next = self.producer_ids_next.load(Ordering::Acquire);
        if (PRODUCER_ID_FIRST..next).contains(&id.0) {
            Ok(())
        } else {
            Err(errors::unknown_producer(id))
        }
    }
}

/// A batch that was checked by every rule, ready to be stamped.
pub(super) fn sealed_batch(
    config: &TopicConfig,
    payload: ProducePayload,
    now: Timestamp,
) -> Result<SealedBatch, ApiError> {
    let batch = match payload {
        ProducePayload::Raw(bytes) => {
            validate(bytes, config.max_message_bytes).map_err(|bad| errors::bad_batch(&bad))?
        }
        ProducePayload::Compressed(validation) => sealed(&validation, config.max_message_bytes)?,
        ProducePayload::Structured { records, producer } => {
            encode(&records, producer, now, config.max_message_bytes)?
        }
    };
    times::check(config, now, &batch)?;
    Ok(batch)
}

/// A compressed batch that was validated before.
fn sealed(validation: &Validation, bytes_max: u32) -> Result<SealedBatch, ApiError> {
    let verdict = validation
        .verdict()
        .ok_or_else(|| errors::internal("a batch that was not validated"))?;
    let batch = verdict.clone().map_err(|bad| errors::bad_batch(&bad))?;
    if batch.total_bytes() > bytes_max {
        return Err(errors::batch_too_large(
            batch.total_bytes().into(),
            bytes_max.into(),
        ));
    }
    Ok(batch)
}

/// Encodes records into a batch; those without a time get `now`.
fn encode(
    records: &[Record],
    producer: Option<ProducerStamp>,
    now: Timestamp,
    bytes_max: u32,
) -> Result<SealedBatch, ApiError> {
    if records.is_empty() {
        return Err(errors::bad_batch(&crate::record::BatchError::Invalid(
            "the batch has no records".to_owned(),
        )));
    }
    let max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let mut builder = BatchBuilder::new();
    for (index, record) in (0_u32..).zip(records) {
        if record.headers.iter().any(|header| header.key.is_empty()) {
            return Err(errors::bad_batch(&crate::record::BatchError::Record {
                index,
                what: "a header key is empty".to_owned(),
            }));
        }
        let time = record.timestamp.unwrap_or(now);
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let bytes = builder.encoded_bytes_with(time, key, value, &record.headers);
        if bytes > max {
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            return Err(errors::batch_too_large(bytes, u64::from(bytes_max)));
        }
        builder.push(time, key, value, &record.headers);
    }
    let producer = producer.map(checked).transpose()?;
    Ok(builder.seal(producer))
}

fn checked(stamp: ProducerStamp) -> Result<ProducerFields, ApiError> {
    let ProducerStamp {
        id,
        epoch,
        base_sequence,
    } = stamp;
    if id.0 < 0 || epoch.0 < 0 || base_sequence.0 < 0 {
        return Err(errors::bad_argument(
            "producer_id",
            "producer id, epoch and sequence must not be negative",
        ));
    }
    Ok(ProducerFields {
        id,
        epoch,
        base_sequence,
    })
}
