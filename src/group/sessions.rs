//! Soft state of members: who is heard of, who is late. Pure: the time is an argument, and what is late is returned.
//!
//! Nothing of this is stored. After a start every member has its full session from the load on (TM3), and hand-offs and proposals
//! that were under way begin to count again. The time is monotonic, from any origin; whoever drives this calls
//! [`Sessions::expired`] at [`Sessions::next_deadline`] and turns what it gets into commands of the machine.
//!
//! There is one deadline per duty, in `timers`: whatever is set again or ended leaves no old one behind, so a stale timer cannot
//! fire (SB5). What is said about a member that is not known here is late news and means nothing.

mod hold_down;
mod progress;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hold_down::HoldDown;
use progress::Progress;
use timers::{Duty, Timers};

pub use hold_down::{HOLD_DOWN_FIRST, HOLD_DOWN_MAX, HOLD_DOWN_QUIET, HeldDown};
pub use progress::Position;

use crate::model::{ConnectionId, GroupId, InstanceId, MemberId, Offset, PartitionKey};

/// An expiry that nobody acted upon is reported again after this time: a removal that could not be stored must not leave a member
/// without a timer for ever.
pub const EXPIRY_REPEAT: Duration = Duration::from_secs(1);

/// At most so much is reported at once. A host that is lost may take thousands of members with it, each removal costs what its
/// group is large, and requests of all groups wait meanwhile; whoever asks again at once has the rest.
pub const EXPIRED_AT_ONCE_MAX: usize = 16;

/// A leader has at most so many proposal timeouts from the first epoch that waited for it, however often the epoch changes.
pub const PROPOSAL_TIMEOUTS_MAX: u32 = 3;

/// Times that are the same for all groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How long a dynamic member lives without its connection, if its session does not end before.
    pub disconnect_grace: Duration,
}

/// Whether a member keeps its place when its connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// It does not: it lives for the grace.
    Dynamic,
    /// It has an instance id and keeps its place until its session ends.
    Static,
}

/// What holds for the session of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long it may be silent.
    pub session: Duration,
    /// What the loss of its connection means.
    pub tenure: Tenure,
}

/// A heartbeat that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Park {
    /// To be handed to [`Sessions::answered`].
    pub id: ParkId,
    /// How long it may wait: what was asked for, at most half of the session.
    pub wait: Duration,
}

/// A new member may take the place of another one, with what that one hands on. Nothing has happened yet.
#[derive(Clone, Debug)]
pub struct TakeOver {
    instance: InstanceId,
    holder: MemberId,
    /// What holds from then on, if the holder lives.
    hold_down: Option<HoldDown>,
    /// When the holder was to have released what is revoked.
    handoff: Option<Duration>,
    /// With when each is late.
    progress: BTreeMap<PartitionKey, (Progress, Option<Duration>)>,
}

/// Tells one parked heartbeat from the next one of the same member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkId(u64);

/// Why a member is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lapse {
    /// It was silent for its session.
    Session,
    /// Its connection was lost and it did not come back.
    Disconnected,
    /// It did not release in time what is revoked (EP7).
    Handoff,
}

/// What is late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// A member; reported every [`EXPIRY_REPEAT`] until it is forgotten or heard of.
    Member {
        /// Its group.
        group: GroupId,
        /// The member.
        member: MemberId,
        /// Why.
        lapse: Lapse,
    },
    /// The proposal of a leader; reported every [`EXPIRY_REPEAT`] until it is ended or wanted for a newer epoch.
    Proposal {
        /// The group.
        group: GroupId,
        /// The epoch for which it is wanted.
        epoch: u32,
    },
    /// A position that stands still while there is something to read. Reported once until it moves.
    Stalled {
        /// The group.
        group: GroupId,
        /// Who holds the partition.
        member: MemberId,
        /// The partition.
        partition: PartitionKey,
        /// Where it stands.
        next: Offset,
        /// Since when.
        since: Duration,
    },
    /// It is time to look at the positions of a group, see [`Sessions::watch`].
    Watch {
        /// The group.
        group: GroupId,
    },
    /// Committed offsets of a group may have expired; reported every [`EXPIRY_REPEAT`] until it is timed anew.
    Offsets {
        /// The group.
        group: GroupId,
    },
}

/// How a member is, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The connection that it is bound to.
    pub connection: Option<ConnectionId>,
    /// When it was last heard of; the load counts.
    pub heard: Duration,
    /// Whether a heartbeat of it waits.
    pub parked: bool,
    /// When it expires if nothing is heard of it.
    pub expires: Duration,
    /// When it is removed if it does not release what is revoked.
    pub handoff: Option<Duration>,
}

/// The soft state of all groups.
#[derive(Debug)]
pub struct Sessions {
    times: Times,
    groups: BTreeMap<GroupId, Group>,
    /// Who is bound to a connection. The same as `Link::Bound` of the members.
    bound: BTreeMap<ConnectionId, BTreeSet<(GroupId, MemberId)>>,
    timers: Timers,
    next_park: u64,
}

#[derive(Debug, Default)]
struct Group {
    members: BTreeMap<MemberId, Member>,
    proposal: Option<Proposal>,
    hold_downs: BTreeMap<InstanceId, HoldDown>,
}

#[derive(Debug)]
struct Member {
    terms: Terms,
    link: Link,
    heard: Duration,
    parked: Option<Parked>,
    /// What it is if its session deadline passes.
    lapse: Lapse,
    progress: BTreeMap<PartitionKey, Progress>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// None is known since the start.
    Unknown,
    Bound(ConnectionId),
    /// Remembered, so that a request of it that is processed late does not count as a sign of life.
    Lost(ConnectionId),
}

#[derive(Clone, Copy, Debug)]
struct Parked {
    id: ParkId,
    /// When it is answered at the latest.
    until: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Proposal {
    epoch: u32,
    /// When the first of the epochs that were not proposed for began.
    since: Duration,
}

impl Sessions {
    /// Nobody is known.
    pub fn new(times: Times) -> Self {
        Self {
            times,
            groups: BTreeMap::new(),
            bound: BTreeMap::new(),
            timers: Timers::default(),
            next_park: 0,
        }
    }

    /// A member was loaded: it has its full session from now on (TM3).
    pub fn loaded(&mut self, now: Duration, group: &GroupId, member: &MemberId, terms: Terms) {
        self.forget(group, member);
        self.insert(group, member, Member::new(now, terms, Link::Unknown));
    }

    /// A heartbeat came. It binds the member to the connection and ends the wait of the one before; the caller answers that one. A
    /// heartbeat from the connection that the member lost changes nothing. A new member whose connection was lost before this is
    /// told lives for its session.
    pub fn beat(
        &mut self,
        now: Duration,
        group: &GroupId,
        member: &MemberId,
        connection: ConnectionId,
        terms: Terms,
    ) {
        let Some(known) = self.member(group, member) else {
            self.insert(group, member, Member::new(now, terms, Link::Bound(connection)));
            return;
        };
        if known.link == Link::Lost(connection) {
            return;
        }
        let before = std::mem::replace(&mut known.link, Link::Bound(connection));
        known.terms = terms;
        known.parked = None;
        known.lapse = Lapse::Session;
        known.heard = now;
        self.relink(group, member, before, Link::Bound(connection));
        self.timers
            .set(session_of(group, member), now.saturating_add(terms.session));
    }

    /// Another valid request of the member came, on any connection (TM1). Of one whose connection is lost only a heartbeat counts: a
    /// fetch of a process that was killed may be answered after that.
    pub fn touch(&mut self, now: Duration, group: &GroupId, member: &MemberId) {
        let Some(known) = self.member(group, member) else {
            return;
        };
        if matches!(known.link, Link::Lost(_)) {
            return;
        }
        known.heard = now;
        known.lapse = Lapse::Session;
        let from = known.parked.map_or(now, |parked| parked.until.max(now));
        let expires = from.saturating_add(known.terms.session);
        self.timers.set(session_of(group, member), expires);
    }

    /// The heartbeat that came last waits for its answer; the member is alive meanwhile. `None`: the member has no such connection
    /// any more, answer at once.
    pub fn park(
        &mut self,
        now: Duration,
        group: &GroupId,
        member: &MemberId,
        connection: ConnectionId,
        wait_max: Duration,
    ) -> Option<Park> {
        let id = ParkId(self.next_park);
        let known = self.member(group, member)?;
        if known.link != Link::Bound(connection) {
            return None;
        }
        let wait = wait_max.min(known.terms.session / 2);
        let until = now.saturating_add(wait);
        known.parked = Some(Parked { id, until });
        // Not without a deadline: whoever should answer may be gone.
        let expires = until.saturating_add(known.terms.session);
        self.timers.set(session_of(group, member), expires);
        self.next_park += 1;
        Some(Park { id, wait })
    }

    /// A parked heartbeat was answered: the session counts from now. One that a later heartbeat took the place of changes nothing.
    pub fn answered(&mut self, now: Duration, group: &GroupId, member: &MemberId, park: ParkId) {
        let Some(known) = self.member(group, member) else {
            return;
        };
        if known.parked.is_some_and(|parked| parked.id == park) {
            known.parked = None;
            let expires = now.saturating_add(known.terms.session);
            self.timers.set(session_of(group, member), expires);
        }
    }

    /// A connection is lost. Whoever has moved to another one is not concerned.
    pub fn disconnected(&mut self, now: Duration, connection: ConnectionId) {
        let grace = now.saturating_add(self.times.disconnect_grace);
        for (group, member) in self.bound.remove(&connection).unwrap_or_default() {
            let duty = session_of(&group, &member);
            let before = self.timers.get(&duty);
            let Some(known) = self.member(&group, &member) else {
                continue;
            };
            known.link = Link::Lost(connection);
            known.parked = None;
            // If a heartbeat was parked the session counts from now, otherwise it goes on.
            let session = now.saturating_add(known.terms.session);
            let mut at = before.map_or(session, |before| before.min(session));
            if known.terms.tenure == Tenure::Dynamic && grace < at {
                known.lapse = Lapse::Disconnected;
                at = grace;
            }
            self.timers.set(duty, at);
        }
    }

    /// A static member has left and will be back: whoever comes under its name has its place at once, and its session counts from
    /// now.
    pub fn rests(&mut self, now: Duration, group: &GroupId, member: &MemberId) {
        let Some(known) = self.member(group, member) else {
            return;
        };
        let before = known.link;
        let after = match before {
            Link::Bound(connection) => Link::Lost(connection),
            Link::Unknown | Link::Lost(_) => before,
        };
        (known.link, known.parked, known.lapse) = (after, None, Lapse::Session);
        let expires = now.saturating_add(known.terms.session);
        self.relink(group, member, before, after);
        self.timers.set(session_of(group, member), expires);
    }

    /// A new member wants the place of `holder`, who has this instance id. Whose connection is lost, or is not known since the start,
    /// gives way at once; one who is alive gives way once, and then not before the hold-down is over. Nothing changes before
    /// [`replaced`](Self::replaced).
    ///
    /// # Errors
    /// The instance was taken over from a living holder not long ago: two clients have the same instance id.
    pub fn take_over(
        &self,
        now: Duration,
        group: &GroupId,
        instance: &InstanceId,
        holder: &MemberId,
    ) -> Result<TakeOver, HeldDown> {
        let known = self.groups.get(group);
        let member = known.and_then(|known| known.members.get(holder));
        let lives = member.is_some_and(|member| matches!(member.link, Link::Bound(_)));
        let before = known.and_then(|known| known.hold_downs.get(instance));
        let progress = member.into_iter().flat_map(|member| &member.progress);
        let progress = progress.map(|(key, progress)| {
            let late = self.timers.get(&progress_of(group, holder, *key));
            (*key, (progress.clone(), late))
        });
        Ok(TakeOver {
            instance: instance.clone(),
            holder: holder.clone(),
            hold_down: lives.then(|| HoldDown::next(before, now)).transpose()?,
            handoff: self.timers.get(&handoff_of(group, holder)),
            progress: progress.collect(),
        })
    }

    /// A member has the place of another one now, who had the same instance id: it has what that one still has to release, with the
    /// deadline for it (EP6), its positions, and its own terms (ST5).
    pub fn replaced(
        &mut self,
        now: Duration,
        group: &GroupId,
        (taken, new): (TakeOver, &MemberId),
        connection: ConnectionId,
        terms: Terms,
    ) {
        self.forget(group, &taken.holder);
        self.beat(now, group, new, connection, terms);
        for (partition, (progress, late)) in taken.progress {
            if let Some(known) = self.member(group, new) {
                known.progress.insert(partition, progress);
            }
            self.timers.put(progress_of(group, new, partition), late);
        }
        if let Some(at) = taken.handoff {
            self.timers.set(handoff_of(group, new), at);
        }
        if let Some(hold_down) = taken.hold_down {
            self.hold_down(group, taken.instance, hold_down);
        }
    }

    fn hold_down(&mut self, group: &GroupId, instance: InstanceId, hold_down: HoldDown) {
        let duty = Duty::HoldDown(group.clone(), instance.clone());
        self.timers.set(duty, hold_down.forgotten());
        let known = self.groups.entry(group.clone()).or_default();
        known.hold_downs.insert(instance, hold_down);
    }

    /// A member has something to release. A second time before [`Self::revoking_ended`] changes nothing (EP6).
    pub fn revoking_began(
        &mut self,
        now: Duration,
        group: &GroupId,
        member: &MemberId,
        handoff_timeout: Duration,
    ) {
        let duty = handoff_of(group, member);
        if self.member(group, member).is_some() && self.timers.get(&duty).is_none() {
            self.timers.set(duty, now.saturating_add(handoff_timeout));
        }
    }

    /// A member has nothing to release any more.
    pub fn revoking_ended(&mut self, group: &GroupId, member: &MemberId) {
        self.timers.cancel(&handoff_of(group, member));
    }

    /// The leader is to propose an assignment for this epoch. A newer epoch gives it the time anew, within
    /// [`PROPOSAL_TIMEOUTS_MAX`]: a group that changes again and again must not wait for ever.
    pub fn proposal_wanted(
        &mut self,
        now: Duration,
        group: &GroupId,
        epoch: u32,
        proposal_timeout: Duration,
    ) {
        let known = self.groups.entry(group.clone()).or_default();
        let since = match known.proposal {
            Some(proposal) if proposal.epoch >= epoch => return,
            Some(proposal) => proposal.since,
            None => now,
        };
        known.proposal = Some(Proposal { epoch, since });
        let last = since.saturating_add(proposal_timeout.saturating_mul(PROPOSAL_TIMEOUTS_MAX));
        let at = now.saturating_add(proposal_timeout).min(last);
        self.timers.set(Duty::Proposal(group.clone()), at);
    }

    /// No proposal is wanted any more.
    pub fn proposal_ended(&mut self, group: &GroupId) {
        self.timers.cancel(&Duty::Proposal(group.clone()));
        if let Some(known) = self.groups.get_mut(group) {
            known.proposal = None;
        }
        self.tidy(group);
    }

    /// Where a member is in the partitions that it holds: all of them. One that stands still for `timeout` while there is something to
    /// process is reported.
    pub fn positions(
        &mut self,
        now: Duration,
        group: &GroupId,
        member: &MemberId,
        timeout: Duration,
        held: &BTreeMap<PartitionKey, Position>,
    ) {
        let Some(known) = self.member(group, member) else {
            return;
        };
        let released = known.progress.extract_if(.., |key, _| !held.contains_key(key));
        let released: Vec<_> = released.map(|(key, _)| key).collect();
        let observe = |(key, position): (&PartitionKey, &Position)| {
            let progress = known.progress.entry(*key).or_default();
            progress.observe(now, *position);
            (*key, progress.deadline(timeout))
        };
        let deadlines: Vec<_> = held.iter().map(observe).collect();
        for partition in released {
            self.timers.cancel(&progress_of(group, member, partition));
        }
        for (partition, deadline) in deadlines {
            self.timers.put(progress_of(group, member, partition), deadline);
        }
    }

    /// The partitions of a member whose position was reported to stand still, and since when it does.
    pub fn stalled(
        &self,
        group: &GroupId,
        member: &MemberId,
    ) -> impl Iterator<Item = (PartitionKey, Duration)> {
        let known = self.groups.get(group).and_then(|known| known.members.get(member));
        let progress = known.into_iter().flat_map(|known| &known.progress);
        progress.filter_map(|(key, progress)| Some((*key, progress.stalled()?)))
    }

    /// The positions of a group are looked at in so long, unless that is timed already.
    pub fn watch(&mut self, now: Duration, group: &GroupId, every: Duration) {
        let duty = Duty::Watch(group.clone());
        if self.timers.get(&duty).is_none() {
            self.timers.set(duty, now.saturating_add(every));
        }
    }

    /// Nobody is there whose position could be looked at.
    pub fn watch_ended(&mut self, group: &GroupId) {
        self.timers.cancel(&Duty::Watch(group.clone()));
    }

    /// When to look next whether committed offsets of a group have expired; `None`: not as things are.
    pub fn offsets_expire(&mut self, group: &GroupId, at: Option<Duration>) {
        self.timers.put(Duty::Retention(group.clone()), at);
    }

    /// A member is gone.
    pub fn forget(&mut self, group: &GroupId, member: &MemberId) {
        let known = self.groups.get_mut(group);
        let Some(gone) = known.and_then(|known| known.members.remove(member)) else {
            return;
        };
        self.relink(group, member, gone.link, Link::Unknown);
        self.timers.cancel(&session_of(group, member));
        self.timers.cancel(&handoff_of(group, member));
        for partition in gone.progress.keys() {
            self.timers.cancel(&progress_of(group, member, *partition));
        }
        self.tidy(group);
    }

    /// A group is gone with all that is in it.
    pub fn forget_group(&mut self, group: &GroupId) {
        self.proposal_ended(group);
        self.watch_ended(group);
        self.offsets_expire(group, None);
        let known = self.groups.get_mut(group);
        for instance in known
            .map(|known| std::mem::take(&mut known.hold_downs))
            .unwrap_or_default()
            .into_keys()
        {
            self.timers.cancel(&Duty::HoldDown(group.clone(), instance));
        }
        let members = self.groups.get(group).map(|known| known.members.keys());
        let members: Vec<_> = members.into_iter().flatten().cloned().collect();
        for member in members {
            self.forget(group, &member);
        }
        self.tidy(group);
    }

    /// How a member is.
    pub fn standing(&self, group: &GroupId, member: &MemberId) -> Option<Standing> {
        let known = self.groups.get(group)?.members.get(member)?;
        Some(Standing {
            connection: match known.link {
                Link::Bound(connection) => Some(connection),
                Link::Unknown | Link::Lost(_) => None,
            },
            heard: known.heard,
            parked: known.parked.is_some(),
            expires: self.timers.get(&session_of(group, member))?,
            handoff: self.timers.get(&handoff_of(group, member)),
        })
    }

    /// When [`Self::expired`] has something to do next.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// What is late by now, [`EXPIRED_AT_ONCE_MAX`] of it at most, what was due first comes first; what is due at the same time in an order that does not depend on chance.
    /// A member that is late with two things is reported with the first.
    pub fn expired(&mut self, now: Duration) -> Vec<Expiry> {
        let mut members = BTreeSet::new();
        let mut late = Vec::new();
        for duty in self.timers.take_due(now, EXPIRED_AT_ONCE_MAX) {
            let Some(expiry) = self.expire(now, duty) else {
                continue;
            };
            let first = match &expiry {
                Expiry::Member { group, member, .. } => members.insert((group.clone(), member.clone())),
                Expiry::Proposal { .. }
                | Expiry::Stalled { .. }
                | Expiry::Watch { .. }
                | Expiry::Offsets { .. } => true,
            };
            if first {
                late.push(expiry);
            }
        }
        late
    }

    fn expire(&mut self, now: Duration, duty: Duty) -> Option<Expiry> {
        let again = now.saturating_add(EXPIRY_REPEAT);
        match duty.clone() {
            Duty::Session(group, member) => {
                let lapse = self.member(&group, &member)?.lapse;
                self.timers.set(duty, again);
                Some(Expiry::Member { group, member, lapse })
            }
            Duty::Handoff(group, member) => {
                self.timers.set(duty, again);
                let lapse = Lapse::Handoff;
                Some(Expiry::Member { group, member, lapse })
            }
            Duty::Proposal(group) => {
                let epoch = self.groups.get(&group)?.proposal?.epoch;
                self.timers.set(duty, again);
                Some(Expiry::Proposal { group, epoch })
            }
            Duty::HoldDown(group, instance) => {
                self.groups.get_mut(&group)?.hold_downs.remove(&instance);
                self.tidy(&group);
                None
            }
            Duty::Watch(group) => Some(Expiry::Watch { group }),
            Duty::Retention(group) => {
                self.timers.set(duty, again);
                Some(Expiry::Offsets { group })
            }
            Duty::Progress(group, member, partition) => {
                let progress = self.member(&group, &member)?.progress.get_mut(&partition)?;
                let (next, since) = progress.report()?;
                Some(Expiry::Stalled {
                    group,
                    member,
                    partition,
                    next,
                    since,
                })
            }
        }
    }

    fn member(&mut self, group: &GroupId, member: &MemberId) -> Option<&mut Member> {
        self.groups.get_mut(group)?.members.get_mut(member)
    }

    fn insert(&mut self, group: &GroupId, member: &MemberId, new: Member) {
        self.relink(group, member, Link::Unknown, new.link);
        let expires = new.heard.saturating_add(new.terms.session);
        self.timers.set(session_of(group, member), expires);
        let known = self.groups.entry(group.clone()).or_default();
        known.members.insert(member.clone(), new);
    }

    fn relink(&mut self, group: &GroupId, member: &MemberId, before: Link, after: Link) {
        if before == after {
            return;
        }
        let key = (group.clone(), member.clone());
        if let Link::Bound(connection) = before
            && let Some(bound) = self.bound.get_mut(&connection)
        {
            bound.remove(&key);
            if bound.is_empty() {
                self.bound.remove(&connection);
            }
        }
        if let Link::Bound(connection) = after {
            self.bound.entry(connection).or_default().insert(key);
        }
    }

    /// A group about which there is nothing to know takes no memory.
    fn tidy(&mut self, group: &GroupId) {
        let empty = self.groups.get(group).is_some_and(|known| {
            known.members.is_empty() && known.proposal.is_none() && known.hold_downs.is_empty()
        });
        if empty {
            self.groups.remove(group);
        }
    }
}

impl Member {
    fn new(now: Duration, terms: Terms, link: Link) -> Self {
        Self {
            terms,
            link,
            heard: now,
            parked: None,
            lapse: Lapse::Session,
            progress: BTreeMap::new(),
        }
    }
}

fn session_of(group: &GroupId, member: &MemberId) -> Duty {
    Duty::Session(group.clone(), member.clone())
}

fn handoff_of(group: &GroupId, member: &MemberId) -> Duty {
    Duty::Handoff(group.clone(), member.clone())
}

fn progress_of(group: &GroupId, member: &MemberId, partition: PartitionKey) -> Duty {
    Duty::Progress(group.clone(), member.clone(), partition)
}
