//! Consumer groups: asks the machine, submits what it decides, tells whoever waits for news.
//!
//! What is shared by the requests, the parked heartbeats and the timers lies behind one lock, [`Groups::lock`]. The machine decides
//! without changing anything, so the permit can be asked for when it is known what is to be written: without one, nothing has
//! happened. Sessions are soft and move beside it.

mod admin;
mod commits;
mod describe;
mod due;
mod fence;
mod members;
mod parked;
mod progress;
mod show;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::driver::Driver;
use super::lag_time::LagTimes;
use super::{Counters, NotAdmitted, Registry, Settings, admit, errors, group_errors, when_durable};
use crate::api::{ApiError, OffsetToCommit};
use crate::group::sessions::{Sessions, Tenure, Terms, Times};
use crate::group::{Command, Machine, Member, Membership, Reply};
use crate::machine::{StateMachine, Stored};
use crate::model::{DurableState, GroupId, Lsn, MemberId, Offset, PartitionKey, Timestamp};
use crate::planted::{self, Bug};
use crate::rt::Clock;
use crate::storage::{Class, LogStore, PartitionLog, Step};

pub(super) use commits::Checked;
pub(super) use fence::Fence;
pub(super) use members::member_ref;

/// How long a dynamic member lives without its connection.
const DISCONNECT_GRACE: Duration = Duration::from_secs(2);

/// Partitions of groups of which it is remembered how far they were handed out.
const SEEN_MAX: usize = 1_000_000;

/// A record in a batch beside its value.
const RECORD_BYTES: usize = 128;

/// All groups, for requests, parked heartbeats and timers.
pub(super) struct Groups<S: LogStore> {
    store: Arc<S>,
    durable: watch::Receiver<DurableState>,
    clock: Arc<dyn Clock>,
    registry: Arc<Registry<S::Log>>,
    metadata_lsn: Arc<AtomicU64>,
    counters: Arc<Counters>,
    settings: Settings,
    /// When what groups have not processed was appended.
    pub(super) lag_times: LagTimes,
    state: Mutex<State<S::Log>>,
    /// The next deadline may be earlier than it was.
    sooner: Notify,
}

/// What the lock guards.
pub(super) struct State<L> {
    pub(super) driver: Driver<L, Machine>,
    sessions: Sessions,
    /// Heartbeats that wait for news.
    waiting: BTreeMap<(GroupId, MemberId), Arc<Notify>>,
    /// Ends of what was handed to members of groups.
    seen: BTreeMap<(GroupId, PartitionKey), Offset>,
    /// How many of them are kept. [`SEEN_MAX`] but in tests.
    seen_max: usize,
    /// There were more: where nothing is known, everything may have been handed out.
    seen_overflowed: bool,
    /// Topics have changed, or the broker has just started.
    refresh: bool,
    /// When the timers will be looked at next.
    looked_at: Option<Duration>,
}

/// Both clocks at one moment.
#[derive(Clone, Copy)]
struct Now {
    mono: Duration,
    wall: Timestamp,
}

impl Now {
    fn by(clock: &dyn Clock) -> Self {
        Self {
            mono: clock.mono(),
            wall: clock.wall(),
        }
    }
}

/// Why a command was not carried out. Nothing has happened.
pub(super) enum Undone {
    /// There is no room.
    NotAdmitted(NotAdmitted),
    /// It was refused, or the engine has failed.
    Refused(Box<ApiError>),
}

impl From<ApiError> for Undone {
    fn from(error: ApiError) -> Self {
        Self::Refused(Box::new(error))
    }
}

impl<S: LogStore> Groups<S> {
    pub(super) fn new(store: &Arc<S>, from: Origin<'_, S>) -> Self {
        let now = Now::by(&**from.clock);
        let mut driver = Driver::new(&**store, from.recovered);
        for handle in from.registry.all() {
            let topic = &handle.topic;
            driver
                .machine
                .topics_mut()
                .insert(topic.id, topic.name.as_str(), topic.partitions);
        }
        driver.machine.begin(store.leader_epoch());
        let mut state = State {
            sessions: Sessions::new(Times {
                disconnect_grace: DISCONNECT_GRACE,
            }),
            driver,
            waiting: BTreeMap::new(),
            seen: BTreeMap::new(),
            seen_max: SEEN_MAX,
            seen_overflowed: false,
            refresh: true,
            looked_at: None,
        };
        state.load(now, from.registry);
        Self {
            store: Arc::clone(store),
            durable: store.durable(),
            clock: Arc::clone(from.clock),
            registry: Arc::clone(from.registry),
            metadata_lsn: Arc::clone(from.metadata_lsn),
            counters: Arc::clone(from.counters),
            settings: from.settings.clone(),
            lag_times: LagTimes::default(),
            state: Mutex::new(state),
            sooner: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<S::Log>> {
        self.state.lock().expect("no panics while locked")
    }

    /// What was decided may rest on what is not durable yet.
    pub(super) fn lsn(&self, state: &State<S::Log>) -> Lsn {
        let metadata = Lsn(self.metadata_lsn.load(Ordering::Acquire));
        state.driver.lsn.max(metadata)
    }

    /// The answer, once what it rests on is durable. Dropping it loses nothing.
    async fn when_durable(&self, lsn: Lsn, reply: crate::api::Reply) -> crate::api::Reply {
        let reply = when_durable(self.durable.clone(), lsn, reply).await;
        self.counters.count(&reply);
        reply
    }

    /// Decides a command, makes it happen, and tells whom it concerns.
    fn carry_out(
        &self,
        state: &mut State<S::Log>,
        command: Command,
        items: &[OffsetToCommit],
    ) -> Result<Reply, Undone> {
        let now = self.clock.wall();
        let effects = state.driver.machine.handle(now, command);
        if let Reply::Refused(refusal) = effects.reply {
            return Err(group_errors::group(refusal, items).into());
        }
        self.write(state, effects.records)?;
        Ok(effects.reply)
    }

    /// Writes what was decided, and applies it.
    fn write(
        &self,
        state: &mut State<S::Log>,
        records: Vec<crate::group::GroupRecord>,
    ) -> Result<(), Undone> {
        if records.is_empty() {
            return Ok(());
        }
        let sizes = records
            .iter()
            .map(|record| Machine::encode(record).len() + RECORD_BYTES);
        let bytes = u64::try_from(sizes.sum::<usize>()).unwrap_or(u64::MAX);
        let permit = admit(&*self.store, bytes, Class::Internal, &self.settings).map_err(|refused| {
            if planted::is(Bug::AppliedWithoutPermit) {
                records
                    .iter()
                    .for_each(|record| state.driver.machine.apply(record));
            }
            Undone::NotAdmitted(refused)
        })?;
        let (placed, pending) = state.driver.place(self.clock.wall(), records);
        let submitted = self.store.submit(permit, Step::append(placed));
        let lsn = submitted.map_err(errors::submit)?;
        state.driver.apply(&pending, lsn);
        self.spread(state);
        Ok(())
    }

    /// After a change: timers as they must be now, and whoever waits for news has it.
    pub(super) fn spread(&self, state: &mut State<S::Log>) {
        let now = Now::by(&*self.clock);
        let changed = state.driver.machine.take_changed();
        let mut last: Option<GroupId> = None;
        for key in changed {
            state.time_member(now.mono, &key.0, &key.1);
            if last.as_ref() != Some(&key.0) {
                state.time_group(now, &key.0);
                last = Some(key.0.clone());
            }
            if let Some(waiting) = state.waiting.remove(&key) {
                waiting.notify_one();
            }
        }
        self.poke(state);
    }

    /// Wakes the timers if something is due before they look.
    fn poke(&self, state: &State<S::Log>) {
        let next = state.sessions.next_deadline();
        let sooner = match (next, state.looked_at) {
            (Some(next), Some(looked_at)) => next < looked_at,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if sooner || state.refresh {
            self.sooner.notify_one();
        }
    }
}

/// What groups are made of.
pub(super) struct Origin<'a, S: LogStore> {
    pub(super) recovered: super::driver::Replayed<Machine>,
    pub(super) registry: &'a Arc<Registry<S::Log>>,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) metadata_lsn: &'a Arc<AtomicU64>,
    pub(super) counters: &'a Arc<Counters>,
    pub(super) settings: &'a Settings,
}

impl<L: PartitionLog> State<L> {
    #[cfg(test)]
    pub(super) fn keep_seen(&mut self, max: usize) {
        self.seen_max = max;
    }

    #[cfg(test)]
    pub(super) fn waiting_is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// TM3: every member has its full session. What it may have been handed before is not known: everything.
    fn load(&mut self, now: Now, registry: &Registry<L>) {
        let groups: Vec<_> = self.driver.machine.groups().map(|(id, _)| id.clone()).collect();
        for group in groups {
            let Some(membership) = self.driver.machine.membership(group.as_str()) else {
                continue;
            };
            // Who held a partition may be gone, and nobody has it yet: where it committed, it had read.
            let committed = self.driver.machine.offsets(group.as_str());
            let keys = committed
                .map(|(key, _)| key)
                .chain(membership.holders().into_keys());
            for key in keys {
                let end = registry
                    .partition(key)
                    .map(|partition| partition.log.bounds(Lsn(u64::MAX)).log_end);
                self.seen.insert((group.clone(), key), end.unwrap_or_default());
                self.seen_overflowed |= self.seen.len() > self.seen_max;
            }
            for (id, member) in &membership.members {
                self.sessions
                    .loaded(now.mono, &group, id, terms(membership, member));
                if !member.revoking.is_empty() {
                    self.sessions.revoking_began(
                        now.mono,
                        &group,
                        id,
                        millis(membership.config.handoff_ms()),
                    );
                }
            }
            self.time_group(now, &group);
        }
    }

    fn time_member(&mut self, now: Duration, group: &GroupId, id: &MemberId) {
        let membership = self.driver.machine.membership(group.as_str());
        let known = membership.and_then(|membership| Some((membership, membership.members.get(id)?)));
        match known {
            None => self.sessions.forget(group, id),
            Some((_, member)) if member.revoking.is_empty() => self.sessions.revoking_ended(group, id),
            Some((membership, _)) => {
                let timeout = millis(membership.config.handoff_ms());
                self.sessions.revoking_began(now, group, id, timeout);
            }
        }
    }

    fn time_group(&mut self, now: Now, group: &GroupId) {
        self.time_offsets(now, group);
        let Some(membership) = self.driver.machine.membership(group.as_str()) else {
            self.sessions.forget_group(group);
            self.seen.retain(|(of, _), _| of != group);
            return;
        };
        if membership.assignment_epoch < membership.epoch {
            let timeout = millis(membership.config.proposal_ms());
            self.sessions
                .proposal_wanted(now.mono, group, membership.epoch, timeout);
        } else {
            self.sessions.proposal_ended(group);
        }
        if membership.members.is_empty() {
            self.sessions.watch_ended(group);
        } else {
            self.sessions
                .watch(now.mono, group, progress::every(&membership.config));
        }
    }
}

fn terms(membership: &Membership, member: &Member) -> Terms {
    Terms {
        session: millis(membership.config.session_ms()),
        tenure: if member.instance.is_some() {
            Tenure::Static
        } else {
            Tenure::Dynamic
        },
    }
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}
