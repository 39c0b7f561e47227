//! One way each to damage a correct history so that one anomaly is in it, and no other. False: this history cannot be
//! damaged so.

#![expect(
    clippy::ptr_arg,
    reason = "every way has the same type, also those that insert nothing"
)]

use super::reference::GROUP;
use crate::history::claims::{Claim, Commit, Polled, Reading};
use crate::history::index::Index;
use crate::history::{At, Body, Done, Event, Held, Note, Op, Stored, Uid, View};

/// Nobody in a correct history.
pub(super) const STRANGER: u32 = 9_999;

pub(super) fn insert(events: &mut Vec<Event>, index: usize, process: u32, op: u64, is: Body) {
    let t = index.checked_sub(1).map_or(0, |before| events[before].t);
    events.insert(index, Event { t, process, op, is });
}

pub(super) fn append(events: &mut Vec<Event>, process: u32, op: u64, is: Body) {
    insert(events, events.len(), process, op, is);
}

fn polled(at: &At, offset: i64, uid: Uid) -> Body {
    Body::Note(Note::Polled {
        group: GROUP.to_owned(),
        at: at.clone(),
        offset,
        uid,
        redelivered: true,
    })
}

fn uid_at(index: &Index<'_>, at: &At, offset: i64) -> Option<Uid> {
    Some(index.log.get(at)?.get(&offset)?.first()?.0)
}

/// The first thing about any partition that `find` wants.
fn first_of<T>(events: &[Event], find: impl Fn(&Index<'_>, &At, &Reading<'_>) -> Option<T>) -> Option<T> {
    let index = Index::new(events);
    let mut readings = index.readings.iter();
    readings.find_map(|((_, at), reading)| find(&index, at, reading))
}

/// Whether a value may have been committed by somebody who did not hear of it.
pub(super) fn may_be_committed(reading: &Reading<'_>, offset: i64) -> bool {
    // When a step has happened may be known only late.
    let open =
        |commit: &Commit| commit.offset == offset && (commit.returned.is_none() || commit.step.is_some());
    let by_itself =
        |claim: &Claim<'_>| claim.commits_itself && claim.polls.iter().any(|poll| poll.offset + 1 == offset);
    reading.commits.iter().any(open) || reading.claims.iter().any(by_itself)
}

fn times_polled(reading: &Reading<'_>, offset: i64) -> usize {
    let polls = reading.claims.iter().flat_map(|claim| &claim.polls);
    polls.filter(|poll| poll.offset == offset).count()
}

fn floor(reading: &Reading<'_>, before: usize) -> Option<i64> {
    let kept = reading.commits.iter();
    let kept = kept.filter(|commit| commit.returned.is_some_and(|returned| returned < before));
    let highest = kept.max_by_key(|commit| commit.offset)?;
    // What a step has committed is half of something.
    let mut commits = reading.commits.iter();
    let is_step = commits.any(|commit| commit.offset == highest.offset && commit.step.is_some());
    (!is_step).then_some(highest.offset)
}

/// Claims of which the process was given nothing more later, and was not killed in the middle of something.
fn last_claims<'r>(index: &'r Index<'_>, reading: &'r Reading<'r>) -> impl Iterator<Item = &'r Claim<'r>> {
    reading.claims.iter().filter(|claim| {
        let mut others = reading.claims.iter();
        let is_last = !others.any(|other| other.process == claim.process && other.assigned > claim.assigned);
        is_last && !index.open.keys().any(|(process, _)| *process == claim.process)
    })
}

pub(super) fn another_record(events: &mut Vec<Event>) -> bool {
    let Some(place) = first_of(events, |index, at, _| uid_at(index, at, 0).map(|_| at.clone())) else {
        return false;
    };
    let uid = Uid {
        process: STRANGER,
        number: 1,
    };
    let produce = Op::Produce {
        at: place,
        uids: vec![uid],
        session: None,
        sequence: None,
    };
    // Sent before anything is there, so that its offset is none that is too low.
    insert(events, 0, STRANGER, 1, Body::Invoke(produce));
    append(events, STRANGER, 1, Body::Ok(Done::Produced(Stored::fsync(0))));
    true
}

pub(super) fn record_again(events: &mut Vec<Event>) -> bool {
    let found = first_of(events, |index, at, reading| {
        let (end, _) = index.log.get(at)?.last_key_value()?;
        let claim = reading.claims.last()?;
        let last = claim.polls.last().filter(|poll| poll.offset == *end)?;
        let is_open = reading.end_of(claim).is_none();
        is_open.then(|| (claim.process, at.clone(), *last))
    });
    let Some((process, at, Polled { offset, uid, .. })) = found else {
        return false;
    };
    append(events, process, 0, polled(&at, offset + 1, uid));
    true
}

pub(super) fn forget_last_poll(events: &mut Vec<Event>) -> bool {
    let found = first_of(events, |index, at, reading| {
        let claims = reading.claims.iter().filter(|claim| !claim.commits_itself);
        claims
            .filter_map(|claim| claim.polls.last())
            .find(|poll| {
                let is_logged = index.log[at][&poll.offset][0].1 != poll.moment;
                let commits = reading.commits.iter();
                let is_passed = commits
                    .filter(|commit| commit.returned.is_some())
                    .any(|commit| commit.offset > poll.offset);
                is_logged && is_passed && times_polled(reading, poll.offset) == 1
            })
            .map(|poll| poll.moment)
    });
    found.is_some_and(|moment| {
        events.remove(moment);
        true
    })
}

pub(super) fn assign_twice(events: &mut Vec<Event>) -> bool {
    let found = events.iter().enumerate().find_map(|(moment, event)| {
        let Body::Note(Note::Assigned {
            group,
            epoch,
            group_epoch,
            partitions,
            ..
        }) = &event.is
        else {
            return None;
        };
        let other = Note::Assigned {
            group: group.clone(),
            member: "stranger".to_owned(),
            instance: None,
            epoch: *epoch,
            group_epoch: *group_epoch,
            partitions: partitions.clone(),
        };
        Some((moment, other))
    });
    let Some((moment, other)) = found else {
        return false;
    };
    insert(events, moment + 1, STRANGER, 0, Body::Note(other));
    true
}

fn last_view(events: &mut [Event]) -> Option<&mut View> {
    events.iter_mut().rev().find_map(|event| match &mut event.is {
        Body::Ok(Done::Described(view)) => Some(view),
        _ => None,
    })
}

pub(super) fn hold_twice(events: &mut Vec<Event>) -> bool {
    let Some(view) = last_view(events) else {
        return false;
    };
    let partitions = view.members[0].partitions.clone();
    let is_held = !partitions.is_empty();
    view.members.push(Held {
        member: "stranger".to_owned(),
        partitions,
    });
    is_held
}

pub(super) fn epoch_back(events: &mut Vec<Event>) -> bool {
    let told = Index::new(events).told.len();
    let view = last_view(events).filter(|view| view.group_epoch > 1 && told > 2);
    view.is_some_and(|view| {
        view.group_epoch = 0;
        true
    })
}

pub(super) fn read_on(events: &mut Vec<Event>) -> bool {
    let found = first_of(events, |index, at, reading| {
        last_claims(index, reading).find_map(|claim| {
            let end = reading.end_of(claim)?;
            let next = claim.polls.last()?.offset + 1;
            let uid = uid_at(index, at, next)?;
            (index.records[&uid].sent.unwrap().invoked > end).then(|| (claim.process, at.clone(), next, uid))
        })
    });
    let Some((process, at, offset, uid)) = found else {
        return false;
    };
    append(events, process, 0, polled(&at, offset, uid));
    true
}

pub(super) fn read_unasked(events: &mut Vec<Event>) -> bool {
    let found = first_of(events, |index, at, _| Some((at.clone(), uid_at(index, at, 0)?)));
    let Some((at, uid)) = found else {
        return false;
    };
    append(events, STRANGER, 0, polled(&at, 0, uid));
    true
}

pub(super) fn commit_late(events: &mut Vec<Event>) -> bool {
    let found = first_of(events, |index, at, reading| {
        let claim = last_claims(index, reading).find(|claim| reading.end_of(claim).is_some())?;
        let offset = floor(reading, usize::MAX)?;
        Some((claim.process, claim.member.to_owned(), at.clone(), offset))
    });
    let Some((process, member, at, offset)) = found else {
        return false;
    };
    let commit = Op::Commit {
        group: GROUP.to_owned(),
        member,
        offsets: vec![(at, offset)],
    };
    append(events, process, u64::MAX, Body::Invoke(commit));
    append(events, process, u64::MAX, Body::Ok(Done::Done));
    true
}

pub(super) fn start_later(events: &mut Vec<Event>) -> bool {
    let found = first_of(events, |_, _, reading| {
        reading.claims.iter().find_map(|claim| {
            let (first, second) = (claim.polls.first()?, claim.polls.get(1)?);
            let is_committed = reading
                .commits
                .iter()
                .any(|commit| commit.offset == second.offset);
            let fits = !claim.commits_itself
                && !is_committed
                && !may_be_committed(reading, second.offset)
                && times_polled(reading, first.offset) > 1
                && floor(reading, claim.assigned).is_none_or(|floor| floor <= first.offset);
            fits.then_some(first.moment)
        })
    });
    found.is_some_and(|moment| {
        events.remove(moment);
        true
    })
}

pub(super) fn start_earlier(events: &mut Vec<Event>) -> bool {
    let found = first_of(events, |index, at, reading| {
        reading.claims.iter().find_map(|claim| {
            let first = claim.polls.first()?;
            let before = first.offset - 1;
            let fits = !claim.commits_itself
                && floor(reading, claim.assigned) == Some(first.offset)
                && !may_be_committed(reading, before);
            let uid = uid_at(index, at, before).filter(|_| fits)?;
            Some((first.moment, claim.process, at.clone(), before, uid))
        })
    });
    let Some((moment, process, at, offset, uid)) = found else {
        return false;
    };
    insert(events, moment, process, 0, polled(&at, offset, uid));
    true
}

pub(super) fn see_less(events: &mut Vec<Event>) -> bool {
    let found = first_of(events, |_, at, reading| {
        let (last, earlier) = reading.seen.split_last()?;
        let fits = last.offset > 0
            && earlier.iter().all(|seen| seen.offset < last.offset)
            && !may_be_committed(reading, last.offset - 1);
        fits.then(|| at.clone())
    });
    let Some((at, view)) = found.zip(last_view(events)) else {
        return false;
    };
    let shown = view.committed.iter_mut().find(|(shown, _)| *shown == at);
    shown.is_some_and(|(_, offset)| {
        *offset -= 1;
        true
    })
}

pub(super) fn see_nothing(events: &mut Vec<Event>) -> bool {
    last_view(events).is_some_and(|view| view.committed.pop().is_some())
}

pub(super) fn see_back_and_forth(events: &mut Vec<Event>) -> bool {
    let found = first_of(events, |_, at, reading| {
        let (last, earlier) = reading.commits.split_last()?;
        let before = earlier.iter().rev().find(|commit| commit.returned.is_some())?;
        let fits = before.offset < last.offset
            && last.step.is_none()
            && !may_be_committed(reading, before.offset)
            && reading
                .seen
                .iter()
                .rev()
                .skip(1)
                .all(|seen| seen.offset <= before.offset);
        fits.then_some((at.clone(), last.returned?, before.offset))
    });
    let Some((at, returned, offset)) = found else {
        return false;
    };
    events[returned].is = Body::Info("timeout".to_owned());
    let Some(mut view) = last_view(events).cloned() else {
        return false;
    };
    if let Some((_, shown)) = view.committed.iter_mut().find(|(shown, _)| *shown == at) {
        *shown = offset;
    }
    let describe = Op::Describe {
        group: GROUP.to_owned(),
    };
    append(events, STRANGER, 1, Body::Invoke(describe));
    append(events, STRANGER, 1, Body::Ok(Done::Described(view)));
    true
}

pub(super) fn poll_again(events: &mut Vec<Event>) -> bool {
    let found = first_of(events, |_, _, reading| {
        let mut polls = reading.claims.iter().flat_map(|claim| &claim.polls);
        polls.next().map(|poll| poll.moment)
    });
    found.is_some_and(|moment| {
        let Event { process, is, .. } = events[moment].clone();
        insert(events, moment + 1, process, 0, is);
        true
    })
}

pub(super) fn skip(events: &mut Vec<Event>) -> bool {
    let found = first_of(events, |_, _, reading| {
        let claims = reading.claims.iter().filter(|claim| !claim.commits_itself);
        claims
            .filter(|claim| claim.polls.len() > 2)
            .flat_map(|claim| &claim.polls[1..claim.polls.len() - 1])
            .find(|poll| times_polled(reading, poll.offset) > 1)
            .map(|poll| poll.moment)
    });
    found.is_some_and(|moment| {
        events.remove(moment);
        true
    })
}

pub(super) fn unmark(events: &mut Vec<Event>) -> bool {
    let found = first_of(events, |_, _, reading| {
        reading.claims.iter().find_map(|claim| {
            let again = claim.polls.iter().find(|poll| {
                let others = reading.claims.iter().filter(|other| claim.follows(other));
                let mut polls = others.flat_map(|other| &other.polls);
                polls.any(|other| other.offset == poll.offset && other.moment < poll.moment)
            })?;
            Some(again.moment)
        })
    });
    let Some(moment) = found else {
        return false;
    };
    if let Body::Note(Note::Polled { redelivered, .. }) = &mut events[moment].is {
        *redelivered = false;
    }
    true
}
