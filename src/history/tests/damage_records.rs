//! Ways to damage what a history says about records, readers, steps and faults; as in `damage`.

#![expect(
    clippy::ptr_arg,
    reason = "every way has the same type, also those that insert nothing"
)]

use super::damage::{STRANGER, append, insert, may_be_committed};
use super::reference::GROUP;
use crate::history::index::{Index, Moment};
use crate::history::steps::is_set_back;
use crate::history::written::Known;
use crate::history::{
    At, Body, Done, Event, FaultKind, Found, Level, Note, Op, Output, Phase, Start, Stored, Uid,
};

fn phase(events: &[Event], wanted: Phase) -> usize {
    let is_it = |event: &Event| event.is == Body::Note(Note::Phase(wanted));
    events.iter().position(is_it).unwrap()
}

/// Lets something happen to what was read from an event on.
fn change_reads(events: &mut [Event], from: usize, mut change: impl FnMut(&At, &mut Vec<Found>)) {
    for event in &mut events[from..] {
        if let Body::Note(Note::Read { at, records, .. }) = &mut event.is {
            change(at, records);
        }
    }
}

/// Nobody finds the record any more when everything is read.
fn remove(events: &mut [Event], uid: Uid) -> bool {
    let from = phase(events, Phase::FinalRead);
    change_reads(events, from, |_, records| {
        records.retain(|found| found.uid != Some(uid));
    });
    true
}

/// The first record that `fits`.
fn record(events: &[Event], fits: impl Fn(&Index<'_>, &Known<'_>) -> bool) -> Option<(Uid, At, i64)> {
    let index = Index::new(events);
    index.order.iter().find_map(|uid| {
        let known = &index.records[uid];
        let place = known.place()?;
        fits(&index, known).then(|| (*uid, place.at.clone(), place.offset))
    })
}

/// The records that were sent with this one.
fn batch_of<'a>(events: &'a [Event], known: &Known<'_>) -> &'a [Uid] {
    match &events[known.sent.unwrap().invoked].is {
        Body::Invoke(Op::Produce { uids, .. }) => uids,
        _ => &[],
    }
}

/// Whether it was first read when everything was read.
fn is_read_at_the_end(events: &[Event], known: &Known<'_>) -> bool {
    let end = phase(events, Phase::FinalRead);
    known.seen.first().is_some_and(|seen| seen.moment > end)
}

fn ended(events: &[Event], invoked: Moment) -> Option<usize> {
    let id = (events[invoked].process, events[invoked].op);
    let mut later = events.iter().enumerate().skip(invoked + 1);
    later
        .find(|(_, event)| (event.process, event.op) == id)
        .map(|(moment, _)| moment)
}

pub(super) fn lose(events: &mut Vec<Event>) -> bool {
    let found = record(events, |index, known| {
        known.sent.is_some_and(|sent| sent.step.is_none())
            && known.ack.is_some_and(|ack| index.kept_from(ack.at) == i64::MIN)
            && known.ack.is_some_and(|ack| ack.at.topic != "events")
    });
    found.is_some_and(|(uid, ..)| remove(events, uid))
}

pub(super) fn move_last(events: &mut Vec<Event>) -> bool {
    let found = record(events, |index, known| {
        let Some(ack) = known.ack else {
            return false;
        };
        let is_last = index.log[ack.at].keys().next_back() == Some(&ack.offset);
        is_last && is_read_at_the_end(events, known) && batch_of(events, known).len() == 1
    });
    let Some((uid, ..)) = found else {
        return false;
    };
    change_reads(events, 0, |_, records| {
        for found in records.iter_mut().filter(|found| found.uid == Some(uid)) {
            found.offset += 1;
        }
    });
    true
}

pub(super) fn acknowledge_twice(events: &mut Vec<Event>) -> bool {
    let found = events
        .iter()
        .enumerate()
        .find_map(|(moment, event)| match &event.is {
            Body::Invoke(
                op @ Op::Produce {
                    sequence: Some(_), ..
                },
            ) => {
                let end = ended(events, moment)?;
                let is_ok = match &events[end].is {
                    Body::Ok(Done::Produced(stored)) => stored.level == Level::Fsync,
                    _ => false,
                };
                is_ok.then(|| (event.process, op.clone()))
            }
            _ => None,
        });
    let Some((process, op)) = found else {
        return false;
    };
    append(events, process, u64::MAX, Body::Invoke(op));
    let done = Done::Produced(Stored::fsync(1_000));
    append(events, process, u64::MAX, Body::Ok(done));
    true
}

pub(super) fn read_what_nobody_sent(events: &mut Vec<Event>) -> bool {
    let at = At {
        topic: "orders".to_owned(),
        partition: 0,
    };
    let from = Start::Offset(1_000);
    append(
        events,
        STRANGER,
        0,
        Body::Note(Note::Reading { at: at.clone(), from }),
    );
    let uid = Uid {
        process: STRANGER,
        number: 1,
    };
    let records = vec![Found {
        offset: 1_000,
        uid: Some(uid),
        intact: true,
    }];
    let next = 1_001;
    append(events, STRANGER, 0, Body::Note(Note::Read { at, records, next }));
    true
}

pub(super) fn alter(events: &mut Vec<Event>) -> bool {
    let end = phase(events, Phase::FinalRead);
    let mut is_done = false;
    change_reads(&mut events[..end], 0, |_, records| {
        if let Some(found) = records.first_mut().filter(|_| !is_done) {
            found.intact = false;
            is_done = true;
        }
    });
    is_done
}

pub(super) fn forget_the_name(events: &mut Vec<Event>) -> bool {
    let at = At {
        topic: "orders".to_owned(),
        partition: 0,
    };
    let records = vec![Found {
        offset: 1_000,
        uid: None,
        intact: false,
    }];
    let next = 1_001;
    append(events, STRANGER, 0, Body::Note(Note::Read { at, records, next }));
    true
}

pub(super) fn refuse(events: &mut Vec<Event>) -> bool {
    let found = record(events, |_, known| {
        let is_plain = known.sent.is_some_and(|sent| sent.step.is_none());
        is_plain && known.ack.is_some() && !known.seen.is_empty()
    });
    let Some((uid, ..)) = found else {
        return false;
    };
    let sent = Index::new(events).records[&uid].sent.unwrap().invoked;
    let end = ended(events, sent).unwrap();
    events[end].is = Body::Fail("no".to_owned());
    true
}

pub(super) fn take_back(events: &mut Vec<Event>) -> bool {
    let found = record(events, |index, known| {
        let is_plain = known.sent.is_some_and(|sent| sent.step.is_none());
        is_plain
            && known.ack.is_none()
            && batch_of(events, known).len() == 1
            && !is_read_at_the_end(events, known)
            && known
                .seen
                .iter()
                .all(|seen| index.kept_from(seen.at) == i64::MIN && seen.at.topic == "orders")
    });
    found.is_some_and(|(uid, ..)| remove(events, uid))
}

pub(super) fn differ(events: &mut Vec<Event>) -> bool {
    let from = phase(events, Phase::SecondRead);
    let mut is_done = false;
    change_reads(events, from, |_, records| {
        if !is_done {
            is_done = records.pop().is_some();
        }
    });
    is_done
}

/// A record was sent only when a later one was there.
pub(super) fn send_late(events: &mut Vec<Event>) -> bool {
    let index = Index::new(events);
    let found = index.order.iter().find_map(|uid| {
        let known = &index.records[uid];
        let (sent, ack) = (known.sent?, known.ack?);
        let is_first = known.place()?.moment == ack.moment && sent.step.is_none();
        if !is_first || batch_of(events, known).len() > 1 {
            return None;
        }
        let mut others = index.order.iter().map(|uid| &index.records[uid]);
        let is_overtaken = others.clone().any(|other| {
            let place = other.place();
            place.is_some_and(|place| {
                place.at == ack.at && place.offset > ack.offset && place.moment < ack.moment
            })
        });
        // Nothing else of its session was sent meanwhile.
        let process = events[sent.invoked].process;
        let is_alone = !others.any(|other| {
            other.sent.is_some_and(|other| {
                events[other.invoked].process == process
                    && sent.invoked < other.invoked
                    && other.invoked < ack.moment
            })
        });
        (is_overtaken && is_alone).then_some((sent.invoked, ack.moment))
    });
    drop(index);
    let Some((invoked, answered)) = found else {
        return false;
    };
    let Event { process, op, is, .. } = events.remove(invoked);
    insert(events, answered - 1, process, op, is);
    true
}

/// Two batches of one session that were on the way together were sent in the other order.
pub(super) fn swap_in_session(events: &mut Vec<Event>) -> bool {
    let index = Index::new(events);
    let places: Vec<_> = index
        .order
        .iter()
        .filter_map(|uid| Some((uid, index.records[uid].place()?)))
        .collect();
    let sent = |uid: &Uid| index.records[uid].sent.map(|sent| sent.invoked);
    let found = places.iter().find_map(|(first, before)| {
        places.iter().find_map(|(second, behind)| {
            let (a, b) = (sent(first)?, sent(second)?);
            let is_pair = first.process == second.process
                && index.records[first].sent?.step.is_none()
                && index.records[first].ack.is_some()
                && index.records[second].ack.is_some()
                && before.at == behind.at
                && before.offset < behind.offset
                && a < b
                && places.iter().all(|(_, place)| {
                    place.at != before.at || place.offset < before.offset || place.moment > b
                });
            is_pair.then_some((a, b))
        })
    });
    drop(places);
    drop(index);
    let Some((a, b)) = found else {
        return false;
    };
    let (first, second) = (events[a].clone(), events[b].clone());
    (events[a].op, events[a].is) = (second.op, second.is);
    (events[b].op, events[b].is) = (first.op, first.is);
    true
}

pub(super) fn tear_batch(events: &mut Vec<Event>) -> bool {
    let found = record(events, |index, known| {
        known.ack.is_none()
            && batch_of(events, known).len() > 1
            && is_read_at_the_end(events, known)
            && known.seen.iter().all(|seen| {
                let is_kept = index.kept_from(seen.at) <= seen.offset;
                is_kept && !index.may_be_rotten(seen.at, (i64::MIN, i64::MAX), Moment::MAX)
            })
    });
    found.is_some_and(|(uid, ..)| remove(events, uid))
}

pub(super) fn end_too_early(events: &mut Vec<Event>) -> bool {
    let end = phase(events, Phase::FinalRead);
    let index = Index::new(events);
    let told = index.ends.iter().find(|told| {
        let known = |offset: i64| index.is_known(told.at, offset, told.invoked);
        told.returned < end && index.kept_from(told.at) < i64::MAX && known(told.offset - 1)
    });
    let returned = told.map(|told| told.returned);
    drop(index);
    let Some(returned) = returned else {
        return false;
    };
    if let Body::Ok(Done::Offset(offset)) = &mut events[returned].is {
        *offset -= 1;
    }
    true
}

/// A record of which nobody but the reading at the end knows leaves a hole.
pub(super) fn punch(events: &mut Vec<Event>) -> bool {
    let found = record(events, |index, known| {
        let is_last = known.seen.iter().any(|seen| {
            let last = index.finals[0][seen.at].span.entries.last();
            last.is_some_and(|last| last.offset == seen.offset) || index.kept_from(seen.at) > i64::MIN
        });
        let is_plain = known.sent.is_some_and(|sent| sent.step.is_none());
        is_plain
            && known.ack.is_none()
            && !is_last
            && batch_of(events, known).len() == 1
            && is_read_at_the_end(events, known)
    });
    found.is_some_and(|(uid, ..)| remove(events, uid))
}

/// The first time before the end that a reader without a group was handed so many records at once.
fn handed(events: &mut [Event], count: usize) -> Option<(usize, &mut Vec<Found>)> {
    let end = phase(events, Phase::FinalRead);
    let reads = events[..end].iter_mut().enumerate();
    reads
        .filter_map(|(moment, event)| match &mut event.is {
            Body::Note(Note::Read { records, .. }) => Some((moment, records)),
            _ => None,
        })
        .find(|(_, records)| records.len() >= count)
}

pub(super) fn read_again(events: &mut Vec<Event>) -> bool {
    handed(events, 1).is_some_and(|(_, records)| {
        records.push(records[records.len() - 1]);
        true
    })
}

pub(super) fn read_past(events: &mut Vec<Event>) -> bool {
    let end = phase(events, Phase::FinalRead);
    let known: Vec<_> = {
        let index = Index::new(events);
        let last = &index.finals[0];
        let there = last.iter().filter(|(at, _)| index.kept_from(at) == i64::MIN);
        there
            .flat_map(|(_, last)| last.span.entries.iter().filter_map(|entry| entry.uid))
            .collect()
    };
    let mut is_done = false;
    change_reads(&mut events[..end], 0, |_, records| {
        if !is_done && records.len() >= 3 && records[1].uid.is_some_and(|uid| known.contains(&uid)) {
            records.remove(1);
            is_done = true;
        }
    });
    is_done
}

pub(super) fn read_past_the_first(events: &mut Vec<Event>) -> bool {
    let found = {
        let index = Index::new(events);
        let mut spans = index.spans.iter();
        let span = spans.find(|span| {
            let first = span.entries.first();
            let is_kept = index.kept_from(span.at) == i64::MIN;
            matches!(span.from, Some(Start::Offset(_)))
                && is_kept
                && span.damaged.is_empty()
                && first.is_some_and(|first| index.exists(span.at, first.offset))
        });
        span.map(|span| span.entries[0].moment)
    };
    found.is_some_and(|moment| {
        if let Body::Note(Note::Read { records, .. }) = &mut events[moment].is {
            records.remove(0);
        }
        true
    })
}

pub(super) fn begin_too_early(events: &mut Vec<Event>) -> bool {
    let found = {
        let index = Index::new(events);
        let mut spans = index.spans.iter();
        spans.find_map(|span| {
            let first = span.entries.first()?.offset;
            (span.from == Some(Start::Offset(first))).then_some((span.begin, first))
        })
    };
    found.is_some_and(|(begin, first)| {
        if let Body::Note(Note::Reading { from, .. }) = &mut events[begin].is {
            *from = Start::Offset(first + 1);
        }
        true
    })
}

pub(super) fn commit_beyond(events: &mut Vec<Event>) -> bool {
    let before = phase(events, Phase::FinalRead);
    let at = At {
        topic: "orders".to_owned(),
        partition: 0,
    };
    let offsets = vec![(at.clone(), 1_000)];
    let commit = Op::Commit {
        group: GROUP.to_owned(),
        member: String::new(),
        offsets: offsets.clone(),
    };
    let look = Op::Committed {
        group: GROUP.to_owned(),
        of: vec![at],
    };
    let story = [
        (1, Body::Invoke(commit)),
        (1, Body::Ok(Done::Done)),
        (2, Body::Invoke(look)),
        (2, Body::Ok(Done::Committed(offsets))),
    ];
    for (op, is) in story.into_iter().rev() {
        insert(events, before, STRANGER, op, is);
    }
    true
}

pub(super) fn tear_step(events: &mut Vec<Event>) -> bool {
    let found = record(events, |index, known| {
        let step = known.sent.and_then(|sent| index.steps.get(sent.step?));
        step.is_some_and(|step| step.outputs.len() == 2)
    });
    found.is_some_and(|(uid, ..)| remove(events, uid))
}

/// The records of a step are there, and right after it the committed offset is not.
pub(super) fn forget_the_commit(events: &mut Vec<Event>) -> bool {
    let found = {
        let index = Index::new(events);
        let mut readings = index.readings.iter();
        readings.find_map(|((_, at), reading)| {
            let commits = &reading.commits;
            let mut steps = commits.iter().filter(|commit| commit.step.is_some());
            steps.find_map(|step| {
                let returned = step.returned?;
                let is_highest = |before: Moment, below: i64| {
                    let mut earlier = commits.iter().filter(|commit| commit.invoked < before);
                    earlier.all(|commit| commit.invoked == step.invoked || commit.offset < below)
                };
                let below = step.offset - 1;
                let is_unseen = reading
                    .seen
                    .iter()
                    .all(|seen| seen.invoked > returned || seen.offset < below);
                let fits = is_highest(returned, below) && is_unseen && !may_be_committed(reading, below);
                fits.then(|| ((*at).clone(), returned, below))
            })
        })
    };
    let Some((at, returned, below)) = found else {
        return false;
    };
    let look = Op::Committed {
        group: GROUP.to_owned(),
        of: vec![at.clone()],
    };
    let shown = Done::Committed(vec![(at, below)]);
    insert(events, returned + 1, STRANGER, 1, Body::Invoke(look));
    insert(events, returned + 2, STRANGER, 1, Body::Ok(shown));
    true
}

/// The committed offset of a step with an unknown outcome is seen, and its record is not there.
pub(super) fn forget_the_outputs(events: &mut Vec<Event>) -> bool {
    let end = phase(events, Phase::FinalRead);
    let found = {
        let index = Index::new(events);
        let mut readings = index.readings.iter();
        readings.find_map(|((_, at), reading)| {
            let commits = &reading.commits;
            let mut steps = commits
                .iter()
                .filter_map(|commit| Some((commit, index.steps.get(commit.step?)?)));
            steps.find_map(|(commit, step)| {
                let same = commits.iter().filter(|other| other.offset == commit.offset);
                let known = step.outputs.first().map(|output| &index.records[&output.uid])?;
                let fits = is_read_at_the_end(events, known) && step.outputs.len() == 1 && same.count() == 1;
                let uid = step.outputs[0].uid;
                fits.then(|| ((*at).clone(), commit.invoked, commit.offset, uid))
            })
        })
    };
    let Some((at, invoked, offset, uid)) = found else {
        return false;
    };
    let by_itself = |event: &Event| match &event.is {
        Body::Note(Note::Polled {
            at: polled,
            offset: last,
            ..
        }) => *polled == at && last + 1 == offset,
        _ => false,
    };
    let is_clear = {
        let index = Index::new(events);
        let reading = &index.readings[&(GROUP, &at)];
        let is_higher = reading
            .commits
            .iter()
            .any(|commit| commit.invoked < invoked && commit.offset >= offset);
        let itself = reading.claims.iter().any(|claim| claim.commits_itself);
        let is_seen = reading.seen.iter().any(|seen| match seen.invoked < invoked {
            true => seen.offset > offset,
            false => seen.offset < offset,
        });
        let is_committed = is_higher || (itself && events.iter().any(by_itself));
        invoked < end && !is_committed && !is_seen
    };
    if !is_clear {
        return false;
    }
    remove(events, uid);
    if let Some(end) = ended(events, invoked) {
        events[end].is = Body::Info("timeout".to_owned());
    }
    let look = Op::Committed {
        group: GROUP.to_owned(),
        of: vec![at.clone()],
    };
    let shown = Done::Committed(vec![(at, offset)]);
    insert(events, invoked + 1, STRANGER, 1, Body::Invoke(look));
    insert(events, invoked + 2, STRANGER, 1, Body::Ok(shown));
    true
}

pub(super) fn step_again(events: &mut Vec<Event>) -> bool {
    let found = record(events, |index, known| {
        let step = known.sent.and_then(|sent| index.steps.get(sent.step?));
        step.is_some_and(|step| {
            let mut made_of = step.outputs.iter().filter_map(|output| output.of.as_ref());
            made_of.all(|(at, offset)| !is_set_back(index, (GROUP, at), *offset, step.invoked))
        })
    });
    let Some((uid, at, _)) = found else {
        return false;
    };
    let of = events.iter().find_map(|event| match &event.is {
        Body::Invoke(Op::Step { outputs, .. }) => {
            let mut outputs = outputs.iter();
            outputs.find(|output| output.uid == uid)?.of.clone()
        }
        _ => None,
    });
    let uid = Uid {
        process: STRANGER,
        number: 1,
    };
    let step = Op::Step {
        group: GROUP.to_owned(),
        member: "stranger".to_owned(),
        outputs: vec![Output { at, uid, of }],
        offsets: Vec::new(),
    };
    append(events, STRANGER, 1, Body::Invoke(step));
    append(events, STRANGER, 1, Body::Ok(Done::Stepped(vec![1_000])));
    true
}

pub(super) fn keep_silent(events: &mut Vec<Event>) -> bool {
    let end = phase(events, Phase::FinalRead);
    let damaged = {
        let index = Index::new(events);
        index.faults.iter().any(|(fault, moment)| {
            let mut damaged = fault.damaged.iter();
            *moment < end && damaged.any(|range| index.is_known(&range.at, range.first, end))
        })
    };
    let before = events.len();
    events.retain(|event| !matches!(event.is, Body::Note(Note::Damaged(_))));
    damaged && events.len() < before
}

pub(super) fn blame(events: &mut Vec<Event>) -> bool {
    let is_told = events
        .iter()
        .any(|event| matches!(event.is, Body::Note(Note::Damaged(_))));
    events.retain(|event| match &event.is {
        Body::Note(Note::Fault(fault)) => fault.kind != FaultKind::Rot,
        _ => true,
    });
    is_told
}

pub(super) fn hang(events: &mut Vec<Event>) -> bool {
    let (from, to) = (phase(events, Phase::Healed), phase(events, Phase::FinalRead));
    let begun = |event: &Event| match &event.is {
        Body::Invoke(Op::Describe { .. }) => Some(event.op),
        _ => None,
    };
    let Some(op) = events[from..to].iter().find_map(begun) else {
        return false;
    };
    let answer = |event: &Event| event.op == op && matches!(event.is, Body::Ok(Done::Described(_)));
    let found = events.iter().position(answer);
    found.is_some_and(|answer| {
        events.remove(answer);
        true
    })
}

pub(super) fn ask_in_vain(events: &mut Vec<Event>) -> bool {
    let begin = phase(events, Phase::Chaos) + 1;
    for number in 0..100 {
        let uid = Uid {
            process: STRANGER,
            number,
        };
        let at = At {
            topic: "orders".to_owned(),
            partition: 0,
        };
        let produce = Op::Produce {
            at,
            uids: vec![uid],
            session: None,
            sequence: None,
        };
        insert(events, begin, STRANGER, number, Body::Info("timeout".to_owned()));
        insert(events, begin, STRANGER, number, Body::Invoke(produce));
    }
    true
}
