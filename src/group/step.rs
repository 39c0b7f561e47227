//! Steps: a producer appends and commits in one, and what it sends again is answered as the first time.
//!
//! The rules are those of idempotent producers (KIP-98, KIP-360), with one sequence per step in place of one per record. The
//! table is bounded by count, bytes and age, over all groups; who is forgotten is said in the record of the step that makes room,
//! so that a replay does not depend on limits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::error::GroupError;
use super::machine::{CommitOffsets, CommittedOffset, Limits, Machine, Reply};
use super::members::MemberRef;
use super::record::GroupRecord;
use crate::machine::Effects;
use crate::model::{
    Acks, GroupId, LeaderEpoch, Offset, PartitionKey, ProducerEpoch, ProducerId, Sequence, Timestamp,
};

/// How many steps per producer are remembered with their results, and so how many a client may have in flight.
pub const STEP_WINDOW: usize = 5;

/// Default of [`Limits::step_idle_ms_max`]: 7 days.
pub const STEP_IDLE_MS_MAX: i64 = 7 * 24 * 60 * 60 * 1000;

/// Appends of one step, at most.
pub const STEP_APPENDS_MAX: usize = 1_000;

/// What a producer is counted as beside its steps, in bytes of state: about what it takes in memory.
pub const STEP_PRODUCER_STATE_BYTES: u64 = 256;

/// What a remembered step is counted as beside its appends, in bytes of state.
pub const STEP_STATE_BYTES: u64 = 64;

/// What an append of a remembered step is counted as, in bytes of state.
pub const STEP_APPEND_STATE_BYTES: u64 = 32;

/// Most producers that one step makes forget. Room for one step is always made with fewer, unless limits were lowered.
const FORGOTTEN_PER_STEP_MAX: usize = 1_000;

/// Steps that are known to have been taken are counted so far: more cannot be told from the future.
const KNOWN_STEPS_MAX: u32 = 1 << 30;

/// Size of the sequence space. Source: KIP-98.
const SEQUENCE_SPACE: i64 = 1 << 31;

/// Who steps, and which step it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepStamp {
    /// Who.
    pub producer: ProducerId,
    /// Fencing number.
    pub epoch: ProducerEpoch,
    /// Number of the step in the group.
    pub sequence: Sequence,
}

/// A step as it is to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepCommand {
    /// The group; not checked yet.
    pub group: String,
    /// Who commits; `None`: a consumer that assigns itself.
    pub member: Option<MemberRef>,
    /// Which step this is.
    pub stamp: StepStamp,
    /// Where the group is then; may be empty.
    pub offsets: Vec<(PartitionKey, CommittedOffset)>,
    /// The level at which the whole of it will be acknowledged.
    pub acks: Acks,
    /// The places that the appends will have; may be empty.
    pub appends: Vec<StepAppend>,
}

/// An append of a step and its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepAppend {
    /// Offset of the first record.
    pub base: Offset,
    /// Offset of the last record.
    pub last: Offset,
    /// When it was appended.
    pub append_time: Timestamp,
    /// Epoch stamped into it.
    pub leader_epoch: LeaderEpoch,
}

/// What a step brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepResult {
    /// Which step.
    pub sequence: Sequence,
    /// When.
    pub at: Timestamp,
    /// The level given.
    pub acks: Acks,
    /// In the order asked.
    pub appends: Arc<[StepAppend]>,
}

/// What is answered to a step that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// It had been taken before.
    pub duplicate: bool,
    /// When; of a step older than what is remembered: when the oldest that is remembered was taken.
    pub at: Timestamp,
    /// The level given; of a step older than what is remembered: of the oldest that is.
    pub acks: Acks,
    /// In the order asked; empty for a step older than what is remembered.
    pub appends: Arc<[StepAppend]>,
}

/// A step as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepTaken {
    /// Who.
    pub producer: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// What came of it.
    pub result: StepResult,
    /// Who is remembered no more.
    pub forgotten: Vec<(GroupId, ProducerId)>,
}

/// A producer that has stepped.
// Invariant: `results` is not empty, and its steps follow each other without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stepper {
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// Steps up to the newest that were surely taken in this epoch, without a gap.
    pub known: u32,
    /// The newest ones, oldest first.
    pub results: VecDeque<StepResult>,
}

/// The producers that have stepped in a group.
pub type Steppers = BTreeMap<ProducerId, Stepper>;

/// All of them in the order of their last steps, and what they are counted as.
#[derive(Clone, Debug, Default)]
pub(super) struct StepIndex {
    by_age: BTreeSet<(Timestamp, GroupId, ProducerId)>,
    bytes: u64,
}

impl StepResult {
    fn state_bytes(&self) -> u64 {
        let appends = u64::try_from(self.appends.len()).unwrap_or(u64::MAX);
        STEP_STATE_BYTES + appends * STEP_APPEND_STATE_BYTES
    }
}

impl Stepper {
    fn newest(&self) -> Option<&StepResult> {
        self.results.back()
    }

    fn next(&self) -> Sequence {
        self.newest()
            .map_or(Sequence::ZERO, |newest| newest.sequence.next())
    }

    fn last_step(&self) -> Timestamp {
        self.newest().map_or(Timestamp(0), |newest| newest.at)
    }

    fn state_bytes(&self) -> u64 {
        let results: u64 = self.results.iter().map(StepResult::state_bytes).sum();
        STEP_PRODUCER_STATE_BYTES + results
    }

    /// `None`: it is next.
    fn judge(&self, stamp: StepStamp) -> Result<Option<Taken>, GroupError> {
        if stamp.epoch < self.epoch {
            return Err(GroupError::StaleProducer {
                current: self.epoch,
                got: stamp.epoch,
            });
        }
        let got = stamp.sequence;
        if stamp.epoch > self.epoch {
            let expected = Sequence::ZERO;
            return match got == expected {
                true => Ok(None),
                false => Err(GroupError::StepOutOfOrder { expected, got }),
            };
        }
        let expected = self.next();
        if got == expected {
            return Ok(None);
        }
        let again = |result: &StepResult, appends| Taken {
            duplicate: true,
            at: result.at,
            acks: result.acks,
            appends,
        };
        if let Some(result) = self.results.iter().find(|result| result.sequence == got) {
            return Ok(Some(again(result, Arc::clone(&result.appends))));
        }
        match self.results.front() {
            Some(oldest) if distance(got, expected) <= self.known => Ok(Some(again(oldest, Arc::default()))),
            Some(_) | None => Err(GroupError::StepOutOfOrder { expected, got }),
        }
    }

    /// What is known of a producer when it has taken this step, too.
    fn after(before: Option<Self>, epoch: ProducerEpoch, result: StepResult) -> Self {
        match before {
            Some(mut known) if known.epoch == epoch && known.next() == result.sequence => {
                if known.results.len() >= STEP_WINDOW {
                    known.results.pop_front();
                }
                known.results.push_back(result);
                known.known = known.known.saturating_add(1).min(KNOWN_STEPS_MAX);
                known
            }
            // A new epoch, or a step that was taken although nothing was known: what was before counts no more.
            Some(_) | None => Self {
                epoch,
                known: 1,
                results: VecDeque::from([result]),
            },
        }
    }
}

impl StepIndex {
    fn insert(&mut self, group: &GroupId, producer: ProducerId, stepper: &Stepper) {
        let is_new = self.by_age.insert((stepper.last_step(), group.clone(), producer));
        self.bytes += if is_new { stepper.state_bytes() } else { 0 };
    }

    pub(super) fn remove(&mut self, group: &GroupId, producer: ProducerId, stepper: &Stepper) {
        let was_there = self
            .by_age
            .remove(&(stepper.last_step(), group.clone(), producer));
        let freed = if was_there { stepper.state_bytes() } else { 0 };
        self.bytes = self.bytes.saturating_sub(freed);
    }
}

impl Machine {
    /// What is to be answered to a step that has been taken before; `None`: it is next. To be asked before anything else of a
    /// step is looked at: what it appended to may be gone since.
    ///
    /// # Errors
    /// [`GroupError::StaleProducer`], [`GroupError::StepOutOfOrder`].
    pub fn taken(&self, now: Timestamp, group: &str, stamp: StepStamp) -> Result<Option<Taken>, GroupError> {
        let known = self.groups.get(group);
        let known = known.and_then(|known| known.steppers.get(&stamp.producer));
        // Nothing is known of this producer, or it was merely quiet for a week: any sequence is right. Source: KIP-360.
        let known = known.filter(|known| !is_idle(&self.limits, now, known.last_step()));
        known.map_or(Ok(None), |known| known.judge(stamp))
    }

    /// Producers whose steps are remembered, and what that is counted as, in bytes.
    pub fn steps(&self) -> (usize, u64) {
        (self.steps.by_age.len(), self.steps.bytes)
    }

    /// A step that is sent again is answered whoever is a member by now: it was taken when it was allowed.
    pub(super) fn step(
        &self,
        now: Timestamp,
        step: StepCommand,
    ) -> Result<Effects<GroupRecord, Reply>, GroupError> {
        let group: GroupId = step.group.parse()?;
        if let Some(taken) = self.taken(now, group.as_str(), step.stamp)? {
            return Ok(Effects {
                records: Vec::new(),
                reply: Reply::Stepped(taken),
            });
        }
        let (appends, max) = (step.appends.len(), STEP_APPENDS_MAX);
        if appends > max {
            return Err(GroupError::TooManyAppends { appends, max });
        }
        let room = self.room_for(&group)?;
        let commit = CommitOffsets {
            group: step.group,
            member: step.member,
            offsets: step.offsets,
        };
        let mut records = self.commit(now, commit)?.records;
        if records.is_empty() {
            // With offsets the commit has made room already.
            records.extend(room);
        }
        let result = StepResult {
            sequence: step.stamp.sequence,
            at: now,
            acks: step.acks,
            appends: step.appends.into(),
        };
        let taken = Taken {
            duplicate: false,
            at: now,
            acks: result.acks,
            appends: Arc::clone(&result.appends),
        };
        let step = StepTaken {
            producer: step.stamp.producer,
            epoch: step.stamp.epoch,
            forgotten: self.forgotten_for(now, &group, step.stamp, &result),
            result,
        };
        records.push(GroupRecord::StepTaken { group, step });
        Ok(Effects {
            records,
            reply: Reply::Stepped(taken),
        })
    }

    /// Who is forgotten with this step: who has been idle for too long, and as many more as make room for it.
    fn forgotten_for(
        &self,
        now: Timestamp,
        group: &GroupId,
        stamp: StepStamp,
        result: &StepResult,
    ) -> Vec<(GroupId, ProducerId)> {
        let known = self.groups.get(group);
        let known = known.and_then(|known| known.steppers.get(&stamp.producer));
        let freed = known.map_or(0, Stepper::state_bytes);
        let after = Stepper::after(known.cloned(), stamp.epoch, result.clone());
        let mut count = self.steps.by_age.len() + usize::from(known.is_none());
        let mut bytes = (self.steps.bytes + after.state_bytes()).saturating_sub(freed);
        let mut forgotten = Vec::new();
        for (last_step, other, producer) in &self.steps.by_age {
            let is_full = count > self.limits.step_producers_max || bytes > self.limits.step_state_bytes_max;
            if forgotten.len() >= FORGOTTEN_PER_STEP_MAX
                || !(is_full || is_idle(&self.limits, now, *last_step))
            {
                break;
            }
            if other == group && *producer == stamp.producer {
                continue;
            }
            let known = self.groups.get(other);
            let known = known.and_then(|known| known.steppers.get(producer));
            bytes = bytes.saturating_sub(known.map_or(0, Stepper::state_bytes));
            count -= 1;
            forgotten.push((other.clone(), *producer));
        }
        forgotten
    }

    pub(super) fn take_step(&mut self, group: &GroupId, step: &StepTaken) {
        for (other, producer) in &step.forgotten {
            self.forget_stepper(other, *producer);
            if self.groups.get(other).is_some_and(super::Group::is_empty) {
                self.groups.remove(other);
            }
        }
        let before = self.forget_stepper(group, step.producer);
        let after = Stepper::after(before, step.epoch, step.result.clone());
        self.insert_stepper(group, step.producer, after);
    }

    pub(super) fn insert_stepper(&mut self, group: &GroupId, producer: ProducerId, stepper: Stepper) {
        self.steps.insert(group, producer, &stepper);
        let known = self.groups.entry(group.clone()).or_default();
        known.steppers.insert(producer, stepper);
    }

    fn forget_stepper(&mut self, group: &GroupId, producer: ProducerId) -> Option<Stepper> {
        let stepper = self.groups.get_mut(group)?.steppers.remove(&producer)?;
        self.steps.remove(group, producer, &stepper);
        Some(stepper)
    }
}

fn is_idle(limits: &Limits, now: Timestamp, last_step: Timestamp) -> bool {
    now.0.saturating_sub(last_step.0) > limits.step_idle_ms_max
}

/// How many sequences lie from `from` forward to `to`, around the wrap: 0 to 2^31 - 1.
fn distance(from: Sequence, to: Sequence) -> u32 {
    let forward = (i64::from(to.0) - i64::from(from.0)).rem_euclid(SEQUENCE_SPACE);
    u32::try_from(forward).expect("a remainder by 2^31 fits 32 bits")
}
