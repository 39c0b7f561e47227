//! Tables over a history, made in one pass: records, claims to partitions, commits, views of groups, readings, and faults.
//!
//! Claims are put in order by epochs, never by when a process got around to writing: one that was stopped writes late.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use smallvec::SmallVec;

use super::claims::{Claim, Commit, Polled, Reading, Seen, Target};
use super::event::{
    Body, Done, Edge, Event, Fault, Found, Level, Note, Numbered, Op, Output, Phase, Reset, Stored, View,
};
use super::names::{At, Uid};
use super::report::Figures;
use super::through::{Entry, Span, Through};
use super::written::{Known, Place, Sent};

/// An event, by its place in the history.
pub(super) type Moment = usize;

/// A view of a group.
#[derive(Debug)]
pub(super) struct Viewed<'a> {
    pub(super) group: &'a str,
    pub(super) invoked: Moment,
    pub(super) returned: Moment,
    pub(super) view: &'a View,
}

/// A step that was asked for.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) process: u32,
    pub(super) invoked: Moment,
    pub(super) has_failed: bool,
    pub(super) group: &'a str,
    pub(super) outputs: &'a [Output],
    pub(super) offsets: &'a [(At, i64)],
    /// When it was known to have happened.
    pub(super) happened: Option<Moment>,
}

/// The end of a partition as a broker told it.
#[derive(Clone, Copy, Debug)]
pub(super) struct End<'a> {
    pub(super) at: &'a At,
    pub(super) offset: i64,
    pub(super) invoked: Moment,
    pub(super) returned: Moment,
}

/// A batch that was acknowledged.
#[derive(Debug)]
pub(super) struct Answered<'a> {
    pub(super) at: &'a At,
    pub(super) sequence: Numbered,
    pub(super) base: i64,
    pub(super) returned: Moment,
}

/// An operation that was asked for and has no success or failure.
#[derive(Debug)]
pub(super) struct Open<'a> {
    pub(super) invoked: Moment,
    pub(super) op: &'a Op,
    /// Its end says that nobody knows; otherwise it has none.
    pub(super) is_given_up: bool,
}

/// What was seen at each offset of a partition.
pub(super) type SeenAt = BTreeMap<i64, SmallVec<[(Uid, Moment); 1]>>;

/// The tables.
#[derive(Debug, Default)]
pub(super) struct Index<'a> {
    pub(super) events: &'a [Event],
    pub(super) records: HashMap<Uid, Known<'a>>,
    /// All records in order.
    pub(super) order: Vec<Uid>,
    /// What is known to be at each offset, by acknowledgement or by reading, first times only.
    pub(super) log: BTreeMap<&'a At, SeenAt>,
    pub(super) readings: BTreeMap<Target<'a>, Reading<'a>>,
    pub(super) views: Vec<Viewed<'a>>,
    /// Epochs that were told, and when: group, epoch, moment.
    pub(super) told: Vec<(&'a str, u32, Moment)>,
    pub(super) steps: Vec<Step<'a>>,
    pub(super) spans: Vec<Span<'a>>,
    /// The two readings at the end.
    pub(super) finals: [BTreeMap<&'a At, Through<'a>>; 2],
    pub(super) ends: Vec<End<'a>>,
    pub(super) answered: Vec<Answered<'a>>,
    pub(super) faults: Vec<(&'a Fault, Moment)>,
    pub(super) phases: Vec<(Phase, Moment)>,
    /// Records that were handed out altered, or without a name.
    pub(super) altered: Vec<(Option<Uid>, Place<'a>)>,
    pub(super) open: BTreeMap<(u32, u64), Open<'a>>,
    /// The lowest offset of which it is sure that nothing has removed it on purpose.
    pub(super) kept_from: BTreeMap<&'a At, i64>,
    pub(super) deleted: BTreeSet<&'a str>,
    pub(super) in_memory: BTreeSet<&'a str>,
    /// Acknowledged in memory.
    pub(super) unsure: Vec<(Uid, Place<'a>)>,
    pub(super) asked: Vec<Asked<'a>>,
    joins: HashMap<u32, Joined>,
    current: HashMap<(u32, Target<'a>), usize>,
    current_span: HashMap<(u32, &'a At), usize>,
    figures: Figures,
    /// When the fault began that is over and after which nothing has succeeded yet.
    recovers_from: Option<u64>,
}

/// Committed offsets that were asked for; without `of`: all.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) group: &'a str,
    pub(super) of: Option<&'a [At]>,
    pub(super) shown: &'a [(At, i64)],
    pub(super) invoked: Moment,
    pub(super) returned: Moment,
}

#[derive(Clone, Copy, Debug)]
struct Joined {
    moment: Moment,
    commits_itself: bool,
    begins_anywhere: bool,
}

impl<'a> Index<'a> {
    pub(super) fn new(events: &'a [Event]) -> Self {
        let mut index = Self {
            events,
            ..Self::default()
        };
        for (moment, event) in events.iter().enumerate() {
            index.take(moment, event);
        }
        index.finish();
        index
    }

    pub(super) fn figures(&self) -> Figures {
        let readings = self.readings.values();
        let claims = readings.clone().flat_map(|reading| &reading.claims);
        let delivered = readings.clone().map(Reading::delivered_once).sum::<usize>();
        let polled = claims.clone().map(|claim| claim.polls.len()).sum::<usize>();
        let whole = |last: &BTreeMap<&At, Through<'_>>| last.values().filter(|it| it.is_whole).count();
        Figures {
            polled,
            redelivered: polled.saturating_sub(delivered),
            claims: claims.count(),
            commits: readings
                .flat_map(|reading| &reading.commits)
                .filter(|commit| commit.returned.is_some())
                .count(),
            views: self.views.len(),
            steps: self.steps.iter().filter(|step| step.happened.is_some()).count(),
            read: self.spans.iter().map(|span| span.entries.len()).sum(),
            read_through: self.finals.iter().map(whole).sum(),
            ..self.figures
        }
    }

    fn take(&mut self, moment: Moment, event: &'a Event) {
        let id = (event.process, event.op);
        match &event.is {
            Body::Invoke(op) => self.invoked(moment, id, op),
            Body::Ok(done) => {
                if let Some(begun) = self.open.remove(&id) {
                    self.recovered(event.t);
                    self.succeeded(id.0, (begun.invoked, moment), begun.op, done);
                }
            }
            Body::Fail(_) => {
                if let Some(begun) = self.open.remove(&id) {
                    self.failed(begun);
                }
            }
            Body::Info(_) => {
                if let Some(begun) = self.open.get_mut(&id) {
                    begun.is_given_up = true;
                }
            }
            Body::Note(note) => self.noted(moment, event.process, note),
        }
    }

    fn invoked(&mut self, moment: Moment, id: (u32, u64), op: &'a Op) {
        let begun = Open {
            invoked: moment,
            op,
            is_given_up: false,
        };
        self.open.insert(id, begun);
        match op {
            Op::Produce { at, uids, .. } => {
                for uid in uids {
                    self.sent(*uid, at, moment, None);
                }
            }
            Op::Step {
                group,
                outputs,
                offsets,
                ..
            } => {
                for output in outputs {
                    self.sent(output.uid, &output.at, moment, Some(self.steps.len()));
                }
                self.steps.push(Step {
                    process: id.0,
                    invoked: moment,
                    has_failed: false,
                    group,
                    outputs,
                    offsets,
                    happened: None,
                });
            }
            Op::Join {
                auto_commit, reset, ..
            } => {
                let joined = Joined {
                    moment,
                    commits_itself: *auto_commit,
                    begins_anywhere: *reset == Reset::Latest,
                };
                self.joins.insert(id.0, joined);
            }
            Op::Commit { .. }
            | Op::Leave { .. }
            | Op::Describe { .. }
            | Op::Committed { .. }
            | Op::Offset { .. }
            | Op::CreateTopic { .. }
            | Op::DeleteTopic { .. }
            | Op::Trim { .. } => {}
        }
    }

    fn sent(&mut self, uid: Uid, at: &'a At, invoked: Moment, step: Option<usize>) {
        let known = self.records.entry(uid).or_default();
        known.attempts = known.attempts.saturating_add(1);
        known.sent.get_or_insert(Sent { at, invoked, step });
    }

    fn succeeded(&mut self, process: u32, (invoked, returned): (Moment, Moment), op: &'a Op, done: &'a Done) {
        match (op, done) {
            (
                Op::Produce {
                    at, uids, sequence, ..
                },
                Done::Produced(stored),
            ) => {
                self.answered(at, uids, *stored, returned);
                if let Some(sequence) = *sequence {
                    self.answered.push(Answered {
                        at,
                        sequence,
                        base: stored.base,
                        returned,
                    });
                }
            }
            (Op::Step { outputs, .. }, Done::Stepped(offsets)) => {
                for (output, offset) in outputs.iter().zip(offsets) {
                    self.acknowledged(output.uid, (&output.at, *offset), returned);
                }
                self.stepped(invoked, |step| step.happened = Some(returned));
            }
            (Op::Describe { group }, Done::Described(view)) => {
                self.told.push((group, view.group_epoch, returned));
                self.views.push(Viewed {
                    group,
                    invoked,
                    returned,
                    view,
                });
                self.looked(group, None, &view.committed, (invoked, returned));
            }
            (Op::Committed { group, of }, Done::Committed(shown)) => {
                self.looked(group, Some(of), shown, (invoked, returned));
            }
            (Op::Offset { at, edge }, Done::Offset(offset)) => match edge {
                Edge::Start => self.removed(at, *offset),
                Edge::End => self.ends.push(End {
                    at,
                    offset: *offset,
                    invoked,
                    returned,
                }),
            },
            (op, _) => self.ended(process, op, invoked, Some(returned)),
        }
    }

    fn answered(&mut self, at: &'a At, uids: &'a [Uid], stored: Stored, returned: Moment) {
        for (number, uid) in (0..).zip(uids) {
            let offset = stored.base.saturating_add(number);
            match stored.level {
                Level::Fsync => self.acknowledged(*uid, (at, offset), returned),
                Level::Memory => {
                    self.figures.produced += 1;
                    let moment = returned;
                    self.unsure.push((*uid, Place { at, offset, moment }));
                }
            }
        }
    }

    fn acknowledged(&mut self, uid: Uid, (at, offset): (&'a At, i64), moment: Moment) {
        self.figures.produced += 1;
        self.sure(uid, Place { at, offset, moment });
    }

    pub(super) fn sure(&mut self, uid: Uid, place: Place<'a>) {
        self.records.entry(uid).or_default().ack.get_or_insert(place);
        self.logged(uid, place);
    }

    fn stepped(&mut self, invoked: Moment, change: impl FnOnce(&mut Step<'a>)) {
        let step = self.steps.binary_search_by_key(&invoked, |step| step.invoked);
        if let Some(step) = step.ok().and_then(|step| self.steps.get_mut(step)) {
            change(step);
        }
    }

    fn looked(
        &mut self,
        group: &'a str,
        of: Option<&'a [At]>,
        shown: &'a [(At, i64)],
        (invoked, returned): (Moment, Moment),
    ) {
        for (at, offset) in shown {
            let seen = Seen {
                offset: *offset,
                invoked,
                returned,
            };
            self.readings.entry((group, at)).or_default().seen.push(seen);
        }
        self.asked.push(Asked {
            group,
            of,
            shown,
            invoked,
            returned,
        });
    }

    fn failed(&mut self, begun: Open<'a>) {
        match begun.op {
            Op::Produce { uids, .. } => uids.iter().for_each(|uid| self.not_sent(*uid)),
            Op::Step { outputs, offsets, .. } => {
                self.figures.refused += offsets.len();
                outputs.iter().for_each(|output| self.not_sent(output.uid));
                self.stepped(begun.invoked, |step| step.has_failed = true);
            }
            Op::Commit { offsets, .. } => self.figures.refused += offsets.len(),
            Op::Join { .. }
            | Op::Leave { .. }
            | Op::Describe { .. }
            | Op::Committed { .. }
            | Op::Offset { .. }
            | Op::CreateTopic { .. }
            | Op::DeleteTopic { .. }
            | Op::Trim { .. } => {}
        }
    }

    fn not_sent(&mut self, uid: Uid) {
        let known = self.records.entry(uid).or_default();
        known.failed = known.failed.saturating_add(1);
    }

    /// An operation has ended, or has never been heard of again.
    pub(super) fn ended(&mut self, process: u32, op: &'a Op, invoked: Moment, returned: Option<Moment>) {
        match op {
            Op::Commit { group, offsets, .. } => {
                self.committed((process, group), offsets, invoked, returned, None);
            }
            Op::DeleteTopic { topic } => {
                self.deleted.insert(topic);
            }
            Op::CreateTopic {
                topic,
                in_memory: true,
                ..
            } => {
                self.in_memory.insert(topic);
            }
            Op::Trim { at, before } => self.removed(at, *before),
            Op::Produce { .. }
            | Op::Step { .. }
            | Op::Join { .. }
            | Op::Leave { .. }
            | Op::Describe { .. }
            | Op::Committed { .. }
            | Op::Offset { .. }
            | Op::CreateTopic { .. } => {}
        }
    }

    pub(super) fn committed(
        &mut self,
        (process, group): (u32, &'a str),
        offsets: &'a [(At, i64)],
        invoked: Moment,
        returned: Option<Moment>,
        step: Option<usize>,
    ) {
        for (at, offset) in offsets {
            let reading = self.readings.entry((group, at)).or_default();
            let claim = reading.claim_of(process, invoked);
            reading.commits.push(Commit {
                offset: *offset,
                invoked,
                returned,
                claim,
                step,
            });
        }
    }

    /// Records below this offset may have been removed on purpose.
    fn removed(&mut self, at: &'a At, before: i64) {
        if before <= 0 {
            return;
        }
        let known = self.kept_from.entry(at).or_insert(before);
        *known = before.max(*known);
    }

    fn noted(&mut self, moment: Moment, process: u32, note: &'a Note) {
        match note {
            Note::Assigned { .. } => self.assigned(moment, process, note),
            Note::Polled { .. } => self.polled(moment, process, note),
            Note::Reading { at, from } => {
                self.span(moment, process, at).from = Some(*from);
            }
            Note::Read { at, records, next } => self.read(moment, process, at, (records, *next)),
            Note::Damaged(range) => {
                let span = self.current_span.get(&(process, &range.at)).copied();
                if let Some(span) = span.and_then(|span| self.spans.get_mut(span)) {
                    span.damaged.push((range, moment));
                } else {
                    self.span(moment, process, &range.at)
                        .damaged
                        .push((range, moment));
                }
            }
            Note::Phase(phase) => self.phases.push((*phase, moment)),
            Note::Fault(fault) => {
                if fault.kind.empties_memory() {
                    let begun = self
                        .faults
                        .iter()
                        .rev()
                        .find(|(known, _)| known.kind == fault.kind);
                    let begun = begun.and_then(|(_, begun)| self.events.get(*begun));
                    self.recovers_from = begun.filter(|_| fault.is_over).map(|begun| begun.t);
                }
                self.faults.push((fault, moment));
            }
            Note::Revoked { .. } | Note::Lost { .. } | Note::Nemesis(_) => {}
        }
    }

    fn recovered(&mut self, t: u64) {
        if let Some(begun) = self.recovers_from.take() {
            self.figures.recoveries += 1;
            let took = t.saturating_sub(begun);
            self.figures.slowest_recovery_ns = took.max(self.figures.slowest_recovery_ns);
        }
    }

    fn assigned(&mut self, moment: Moment, process: u32, note: &'a Note) {
        let Note::Assigned {
            group,
            member,
            instance,
            epoch,
            group_epoch,
            partitions,
        } = note
        else {
            return;
        };
        self.told.push((group, *group_epoch, moment));
        let joined = self.joins.get(&process);
        for at in partitions {
            let target = (group.as_str(), at);
            let claims = &mut self.readings.entry(target).or_default().claims;
            self.current.insert((process, target), claims.len());
            claims.push(Claim {
                process,
                member,
                instance: instance.as_deref(),
                epoch: *epoch,
                assigned: moment,
                joined: joined.map(|joined| joined.moment),
                commits_itself: joined.is_some_and(|joined| joined.commits_itself),
                begins_anywhere: joined.is_some_and(|joined| joined.begins_anywhere),
                polls: Vec::new(),
            });
        }
    }

    fn polled(&mut self, moment: Moment, process: u32, note: &'a Note) {
        let Note::Polled {
            group,
            at,
            offset,
            uid,
            redelivered,
        } = note
        else {
            return;
        };
        let (offset, uid) = (*offset, *uid);
        self.seen(uid, Place { at, offset, moment });
        let target = (group.as_str(), at);
        let current = self.current.get(&(process, target)).copied();
        let reading = self.readings.entry(target).or_default();
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

    fn span(&mut self, moment: Moment, process: u32, at: &'a At) -> &mut Span<'a> {
        self.current_span.insert((process, at), self.spans.len());
        self.spans.push(Span {
            process,
            at,
            begin: moment,
            from: None,
            entries: Rc::default(),
            next: None,
            damaged: Vec::new(),
        });
        self.spans.last_mut().expect("one was added")
    }

    fn read(&mut self, moment: Moment, process: u32, at: &'a At, (records, next): (&'a [Found], i64)) {
        for found in records {
            let place = Place {
                at,
                offset: found.offset,
                moment,
            };
            if !found.intact || found.uid.is_none() {
                self.altered.push((found.uid, place));
            }
            if let Some(uid) = found.uid {
                self.seen(uid, place);
            }
        }
        let span = self.current_span.get(&(process, at)).copied();
        if span.is_none() {
            self.span(moment, process, at);
        }
        let span = span.unwrap_or(self.spans.len().saturating_sub(1));
        if let Some(span) = self.spans.get_mut(span) {
            span.next = Some(next);
            Rc::make_mut(&mut span.entries).extend(records.iter().map(|found| Entry {
                offset: found.offset,
                uid: found.uid,
                is_intact: found.intact,
                moment,
            }));
        }
    }

    fn seen(&mut self, uid: Uid, place: Place<'a>) {
        self.records.entry(uid).or_default().see(place);
        self.logged(uid, place);
    }

    fn logged(&mut self, uid: Uid, place: Place<'a>) {
        let there = self
            .log
            .entry(place.at)
            .or_default()
            .entry(place.offset)
            .or_default();
        if there.iter().all(|(known, _)| *known != uid) {
            there.push((uid, place.moment));
        }
    }
}
