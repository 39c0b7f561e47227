//! Tables over a history, made in one pass: records, claims to partitions, commits, and views of groups.
//!
//! A claim is one time of holding a partition, from being told of it; its end cannot be seen, but the claim that follows it can.
//! Claims are put in order by epochs, never by when a process got around to writing: one that was stopped writes late.

use std::collections::{BTreeMap, HashMap};

use super::event::{At, Body, Done, Event, Note, Op, Uid, View};
use super::report::Figures;

/// An event, by its place in the history.
pub(super) type Moment = usize;

/// Where a group reads.
pub(super) type Place<'a> = (&'a str, &'a At);

/// A record that was sent.
#[derive(Debug)]
pub(super) struct Produced {
    pub(super) invoked: Moment,
}

/// A record that was handed to a member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Polled {
    pub(super) moment: Moment,
    pub(super) offset: i64,
    pub(super) uid: Uid,
    pub(super) redelivered: bool,
}

/// One time of holding a partition.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    pub(super) process: u32,
    pub(super) member: &'a str,
    pub(super) instance: Option<&'a str>,
    pub(super) epoch: u32,
    pub(super) assigned: Moment,
    /// When its process began to join.
    joined: Option<Moment>,
    pub(super) commits_itself: bool,
    pub(super) polls: Vec<Polled>,
}

/// A committed offset that was asked for and not refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Commit {
    pub(super) offset: i64,
    pub(super) invoked: Moment,
    /// When it was acknowledged; `None`: it may have been kept.
    pub(super) returned: Option<Moment>,
    /// The claim under which it was made.
    pub(super) claim: Option<usize>,
}

/// A committed offset that was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) offset: i64,
    pub(super) invoked: Moment,
    pub(super) returned: Moment,
}

/// Everything about one partition and one group.
#[derive(Debug, Default)]
pub(super) struct Reading<'a> {
    /// In the order in which they were written down.
    pub(super) claims: Vec<Claim<'a>>,
    pub(super) commits: Vec<Commit>,
    pub(super) seen: Vec<Seen>,
    /// Handed out by a process that was not told before that it holds the partition.
    pub(super) unclaimed: Vec<Polled>,
}

/// A view of a group.
#[derive(Debug)]
pub(super) struct Viewed<'a> {
    pub(super) group: &'a str,
    pub(super) invoked: Moment,
    pub(super) returned: Moment,
    pub(super) view: &'a View,
}

/// What was seen at each offset of a partition.
pub(super) type SeenAt = BTreeMap<i64, Vec<(Uid, Moment)>>;

/// The tables.
#[derive(Debug, Default)]
pub(super) struct Index<'a> {
    pub(super) produced: HashMap<Uid, Produced>,
    /// What was seen at each offset, by acknowledgement or by reading, first times only.
    pub(super) log: BTreeMap<&'a At, SeenAt>,
    pub(super) readings: BTreeMap<Place<'a>, Reading<'a>>,
    pub(super) views: Vec<Viewed<'a>>,
    /// Epochs that were told, and when: group, epoch, moment.
    pub(super) told: Vec<(&'a str, u32, Moment)>,
    open: BTreeMap<(u32, u64), (Moment, &'a Op)>,
    joins: HashMap<u32, (Moment, bool)>,
    current: HashMap<(u32, Place<'a>), usize>,
    figures: Figures,
}

impl<'a> Index<'a> {
    pub(super) fn new(events: &'a [Event]) -> Self {
        let mut index = Self::default();
        for (moment, event) in events.iter().enumerate() {
            index.take(moment, event);
        }
        for ((process, _), (invoked, op)) in std::mem::take(&mut index.open) {
            index.ended(process, op, invoked, None);
        }
        for reading in index.readings.values_mut() {
            reading.commits.sort_by_key(|commit| commit.invoked);
        }
        index
    }

    pub(super) fn figures(&self) -> Figures {
        let readings = self.readings.values();
        let claims = readings.clone().flat_map(|reading| &reading.claims);
        let delivered = readings.clone().map(Reading::delivered_once).sum::<usize>();
        let polled = claims.clone().map(|claim| claim.polls.len()).sum::<usize>();
        Figures {
            polled,
            redelivered: polled.saturating_sub(delivered),
            claims: claims.count(),
            commits: readings
                .flat_map(|reading| &reading.commits)
                .filter(|commit| commit.returned.is_some())
                .count(),
            views: self.views.len(),
            ..self.figures
        }
    }

    fn take(&mut self, moment: Moment, event: &'a Event) {
        let id = (event.process, event.op);
        match &event.is {
            Body::Invoke(op) => self.invoked(moment, id, op),
            Body::Ok(done) => {
                if let Some((invoked, op)) = self.open.remove(&id) {
                    self.succeeded(event.process, (invoked, moment), op, done);
                }
            }
            Body::Fail(_) => {
                if let Some((_, Op::Commit { offsets, .. })) = self.open.remove(&id) {
                    self.figures.refused += offsets.len();
                }
            }
            // It stays open to the end of the history.
            Body::Info(_) => {}
            Body::Note(note) => self.noted(moment, event.process, note),
        }
    }

    fn invoked(&mut self, moment: Moment, id: (u32, u64), op: &'a Op) {
        self.open.insert(id, (moment, op));
        match op {
            Op::Produce { uid, .. } => {
                self.produced.insert(*uid, Produced { invoked: moment });
            }
            Op::Join { auto_commit, .. } => {
                self.joins.insert(id.0, (moment, *auto_commit));
            }
            Op::Commit { .. } | Op::Leave { .. } | Op::Describe { .. } => {}
        }
    }

    fn succeeded(&mut self, process: u32, (invoked, returned): (Moment, Moment), op: &'a Op, done: &'a Done) {
        match (op, done) {
            (Op::Produce { at, uid }, Done::Produced(offset)) => {
                self.figures.produced += 1;
                self.logged(at, *offset, *uid, returned);
            }
            (Op::Describe { group }, Done::Described(view)) => {
                self.told.push((group, view.group_epoch, returned));
                self.views.push(Viewed {
                    group,
                    invoked,
                    returned,
                    view,
                });
                for (at, offset) in &view.committed {
                    let seen = Seen {
                        offset: *offset,
                        invoked,
                        returned,
                    };
                    self.readings.entry((group, at)).or_default().seen.push(seen);
                }
            }
            (op, _) => self.ended(process, op, invoked, Some(returned)),
        }
    }

    /// An operation has ended, or has never been heard of again.
    fn ended(&mut self, process: u32, op: &'a Op, invoked: Moment, returned: Option<Moment>) {
        let Op::Commit { group, offsets, .. } = op else {
            return;
        };
        for (at, offset) in offsets {
            let place = (group.as_str(), at);
            let reading = self.readings.entry(place).or_default();
            let mut claims = reading.claims.iter().enumerate().rev();
            let claim = claims.find(|(_, claim)| claim.process == process && claim.assigned < invoked);
            let claim = claim.map(|(at, _)| at);
            reading.commits.push(Commit {
                offset: *offset,
                invoked,
                returned,
                claim,
            });
        }
    }

    fn noted(&mut self, moment: Moment, process: u32, note: &'a Note) {
        match note {
            Note::Assigned {
                group,
                member,
                instance,
                epoch,
                group_epoch,
                partitions,
            } => {
                self.told.push((group, *group_epoch, moment));
                let joined = self.joins.get(&process);
                for at in partitions {
                    let place = (group.as_str(), at);
                    let claims = &mut self.readings.entry(place).or_default().claims;
                    self.current.insert((process, place), claims.len());
                    claims.push(Claim {
                        process,
                        member,
                        instance: instance.as_deref(),
                        epoch: *epoch,
                        assigned: moment,
                        joined: joined.map(|(joined, _)| *joined),
                        commits_itself: joined.is_some_and(|(_, itself)| *itself),
                        polls: Vec::new(),
                    });
                }
            }
            Note::Polled {
                group,
                at,
                offset,
                uid,
                redelivered,
            } => {
                let (offset, uid) = (*offset, *uid);
                self.logged(at, offset, uid, moment);
                let place = (group.as_str(), at);
                let current = self.current.get(&(process, place)).copied();
                let reading = self.readings.entry(place).or_default();
                let claim = current.and_then(|claim| reading.claims.get_mut(claim));
                claim
                    .map_or(&mut reading.unclaimed, |claim| &mut claim.polls)
                    .push(Polled {
                        moment,
                        offset,
                        uid,
                        redelivered: *redelivered,
                    });
            }
            Note::Revoked { .. } | Note::Lost { .. } | Note::Nemesis(_) => {}
        }
    }

    fn logged(&mut self, at: &'a At, offset: i64, uid: Uid, moment: Moment) {
        let there = self.log.entry(at).or_default().entry(offset).or_default();
        if there.iter().all(|(known, _)| *known != uid) {
            there.push((uid, moment));
        }
    }
}

impl Claim<'_> {
    /// Whether this claim began when the other one had ended, as far as epochs say.
    pub(super) fn follows(&self, other: &Self) -> bool {
        if self.process == other.process && self.member == other.member {
            return self.assigned > other.assigned;
        }
        if self.epoch != other.epoch {
            return self.epoch > other.epoch;
        }
        // A static member that starts again stays in its epoch.
        let is_same = self.instance.is_some() && self.instance == other.instance;
        is_same && self.joined.is_some_and(|joined| joined > other.assigned)
    }
}

impl Reading<'_> {
    /// Claims that began when this one had ended.
    pub(super) fn after<'s>(&'s self, claim: &'s Claim<'_>) -> impl Iterator<Item = &'s Claim<'s>> {
        self.claims.iter().filter(move |later| later.follows(claim))
    }

    /// The first moment at which a claim is known to have ended: what it was about to commit is refused from then on.
    pub(super) fn end_of(&self, claim: &Claim<'_>) -> Option<Moment> {
        self.after(claim).map(|later| later.assigned).min()
    }

    fn delivered_once(&self) -> usize {
        let polls = self.claims.iter().flat_map(|claim| &claim.polls);
        let mut offsets: Vec<i64> = polls.map(|poll| poll.offset).collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets.len()
    }
}
