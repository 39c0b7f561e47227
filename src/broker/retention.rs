//! Removing records: because somebody says so (TrimTopic), and because they are too old or too many.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;
use tracing::{debug, info, warn};

use super::coordinator::not_admitted;
use super::{Broker, NotAdmitted, Partition, Registry, errors};
use crate::api::{ApiError, Outcome, Request, Response, TrimPartition, TrimTopic, Trimmed};
use crate::model::{Lsn, Offset, Timestamp, TopicConfig};
use crate::partition::{
    ClockGuard, NextDeletion, PartitionState, RetainedSegment, Retention, Trust, due, next,
};
use crate::storage::{Class, LogStore, PartitionLog, Step, Trim};

/// What a target of -1 stands for.
const TO_HIGH_WATERMARK: i64 = -1;

/// The clock as the last look at retention saw it.
#[derive(Debug)]
pub(super) struct RetentionClock(Mutex<Looks>);

#[derive(Debug)]
struct Looks {
    guard: ClockGuard,
    /// Nobody has looked yet.
    is_first: bool,
}

impl RetentionClock {
    /// Of a broker that begins now, with these topics. Nothing is appended before there is one, so that a clock that is
    /// wrong has left no trace yet.
    pub(super) fn starting<L: PartitionLog>(registry: &Registry<L>, mono: Duration) -> Self {
        let topics = registry.all();
        let logs = topics.iter().flat_map(|handle| &handle.partitions);
        let newest = logs
            .flat_map(|partition| segments(&*partition.log))
            .map(|segment| segment.newest_append)
            .max();
        Self(Mutex::new(Looks {
            guard: ClockGuard::starting(newest, millis(mono)),
            is_first: true,
        }))
    }

    /// Whether ages count now. Says why if they do not, once.
    fn look(&self, wall: Timestamp, mono: Duration) -> Trust {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let trust = looks.guard.look(wall, millis(mono));
        let is_first = std::mem::take(&mut looks.is_first);
        match trust {
            // As a rule the broker was away, or nobody wrote.
            Trust::Jumped(ms) if is_first => info!(
                event = "clock_unproven",
                ahead_ms = ms,
                "the newest record is old: nothing is removed for its age until the clock has been steady for 30 minutes"
            ),
            Trust::Jumped(ms) => warn!(
                event = "clock_jumped",
                ahead_ms = ms,
                "the clock jumped ahead: nothing is removed for its age until it has been steady for 30 minutes"
            ),
            Trust::Full | Trust::Paused => {}
        }
        trust
    }
}

/// What a look at retention came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionPass {
    /// Partitions whose log start moved.
    pub partitions: u32,
    /// Records that went.
    pub records: u64,
    /// Whether ages counted.
    pub by_age: bool,
}

impl<S: LogStore> Broker<S> {
    pub(super) fn trim_topic(&self, trim: TrimTopic) -> Outcome {
        let (asked, max) = (trim.partitions.len(), self.settings.request_partitions_max);
        if asked > max {
            return Outcome::Ready(Err(errors::too_many("partitions", asked, max)));
        }
        let mut lsn = self.metadata_lsn();
        let mut results = Vec::with_capacity(asked);
        for item in &trim.partitions {
            match self.trim_one(item) {
                Ok(result) => {
                    lsn = lsn.max(result.as_ref().map_or(Lsn::ZERO, |(_, lsn)| *lsn));
                    results.push(result.map(|(trimmed, _)| trimmed));
                }
                // Trims that were taken in already are none again the next time.
                Err(refused) => return not_admitted(refused, Request::TrimTopic(trim)),
            }
        }
        Outcome::AfterLsn {
            lsn,
            reply: Ok(Response::TrimTopic(results)),
        }
    }

    /// Where the partition begins from now on, and the group that says so.
    fn trim_one(&self, item: &TrimPartition) -> Result<Result<(Trimmed, Lsn), ApiError>, NotAdmitted> {
        let partition = match self.resolve(&item.partition) {
            Ok(partition) => partition,
            Err(error) => return Ok(Err(error)),
        };
        let bounds = partition.log.bounds(self.durable_lsn());
        let to = match item.to {
            TO_HIGH_WATERMARK => Some(bounds.high_watermark),
            to => Offset::new(to).filter(|to| *to <= bounds.high_watermark),
        };
        let Some(to) = to else {
            return Ok(Err(errors::out_of_range(bounds)));
        };
        if to <= bounds.log_start {
            let log_start = bounds.log_start;
            return Ok(Ok((Trimmed { log_start }, Lsn::ZERO)));
        }
        let permit = self.admit(0, Class::Internal)?;
        let state = partition.lock();
        Ok(self
            .trim(&partition, &state, to, permit)
            .map(|lsn| (Trimmed { log_start: to }, lsn)))
    }

    /// The partition's lock is held until the trim has its place among the appends, and so that nobody deletes the topic in
    /// between.
    fn trim(
        &self,
        partition: &Partition<S::Log>,
        _held: &MutexGuard<'_, PartitionState>,
        to: Offset,
        permit: crate::storage::Permit,
    ) -> Result<Lsn, ApiError> {
        if partition.is_gone() {
            return Err(errors::deleted());
        }
        let log = Arc::clone(&partition.log);
        let step = Step {
            appends: SmallVec::new(),
            trims: SmallVec::from_buf([Trim { log, to }]),
            deletions: SmallVec::new(),
        };
        self.store.submit(permit, step).map_err(errors::submit)
    }

    /// Looks at all partitions and removes what their topics' retention does not keep. Called every now and then.
    pub fn retain(&self) -> RetentionPass {
        let wall = self.clock.wall();
        let trust = self.retention.look(wall, self.clock.mono());
        let now = (trust == Trust::Full).then_some(wall);
        let mut pass = RetentionPass {
            by_age: now.is_some(),
            ..RetentionPass::default()
        };
        for handle in self.registry.all() {
            let retention = retention_of(handle.topic.config());
            for partition in &handle.partitions {
                let Some((upto, cause)) = due(&segments(&*partition.log), retention, now) else {
                    continue;
                };
                let bounds = partition.log.bounds(self.durable_lsn());
                let upto = upto.min(bounds.high_watermark);
                if upto <= bounds.log_start {
                    continue;
                }
                // Without a permit, the next look does it.
                let Ok(permit) = self.admit(0, Class::Internal) else {
                    return pass;
                };
                let state = partition.lock();
                // Altered or deleted since it was looked at: the next look goes by what is in force then.
                if !self.registry.has(&handle) {
                    break;
                }
                let trimmed = self.trim(partition, &state, upto, permit);
                drop(state);
                if trimmed.is_ok() {
                    debug!(topic = %handle.topic.name, upto = %upto, cause = ?cause, "records removed");
                    pass.partitions += 1;
                    pass.records += upto.since(bounds.log_start);
                }
            }
        }
        pass
    }
}

fn millis(mono: Duration) -> u64 {
    u64::try_from(mono.as_millis()).unwrap_or(u64::MAX)
}

fn retention_of(config: &TopicConfig) -> Retention {
    Retention {
        age_ms_max: config.retention_ms,
        bytes_max: config.retention_bytes,
    }
}

fn segments<L: PartitionLog>(log: &L) -> Vec<RetainedSegment> {
    let retained = log.segments().into_iter().map(|segment| RetainedSegment {
        end: segment.end,
        bytes: segment.bytes,
        newest_append: segment.newest_append,
        sealed: segment.sealed,
    });
    retained.collect()
}

/// What retention removes next from a partition.
pub(super) fn next_deletion<L: PartitionLog>(log: &L, config: &TopicConfig) -> Option<NextDeletion> {
    next(&segments(log), retention_of(config))
}
