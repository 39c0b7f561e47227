//! Anomalies of committed offsets: where members begin, and whether what was committed holds.

use super::anomaly::Anomaly;
use super::claims::{Claim, Reading, Seen};
use super::index::{Index, Moment};
use super::names::At;
use super::register::{Look, Register, Write};
use super::report::Finding;

/// Where a member begins if nothing is committed for sure, and up to where records may have been removed.
#[derive(Clone, Copy, Debug)]
struct Beginning {
    first: i64,
    kept_from: i64,
    is_anywhere: bool,
}

impl Beginning {
    fn of(index: &Index<'_>, at: &At) -> Self {
        let log_start = index.log.get(at).and_then(|log| log.keys().next()).copied();
        Self {
            first: log_start.unwrap_or_default(),
            kept_from: index.kept_from(at),
            is_anywhere: false,
        }
    }

    fn allows(self, look: Look, floor: Option<Write>) -> bool {
        let lowest = floor.map_or(i64::MIN, |floor| floor.offset);
        let is_first = floor.is_none() && (look.offset == self.first || self.is_anywhere);
        is_first || (lowest <= look.offset && look.offset <= self.kept_from)
    }
}

/// What a look at the committed offset shows: an anomaly, or nothing.
fn judge(register: &Register, look: Look, beginning: Beginning) -> Option<(Anomaly, String, Vec<Moment>)> {
    let floor = register.floor(look.invoked);
    if beginning.allows(look, floor) || register.explains(look) {
        return None;
    }
    match floor {
        Some(floor) if look.offset < floor.offset => Some(lost(floor, look.returned)),
        _ => Some((
            Anomaly::StartWrong,
            "nobody committed that".to_owned(),
            vec![look.invoked, look.returned],
        )),
    }
}

/// A commit that was kept, and a look that shows it no more. If records came with it, half of a step is gone.
fn lost(floor: Write, shown: Moment) -> (Anomaly, String, Vec<Moment>) {
    let anomaly = match floor.step {
        Some(_) => Anomaly::TornStep,
        None => Anomaly::CommitLost,
    };
    let events = [Some(floor.begin), floor.end, Some(shown)];
    (
        anomaly,
        format!("{} had been committed", floor.offset),
        events.into_iter().flatten().collect(),
    )
}

fn starts<'r>(reading: &'r Reading<'r>) -> impl Iterator<Item = (&'r Claim<'r>, Look)> {
    reading.claims.iter().filter_map(|claim| {
        let first = claim.polls.first()?;
        let look = Look {
            offset: first.offset,
            invoked: claim.assigned,
            returned: first.moment,
        };
        Some((claim, look))
    })
}

/// Looks of all kinds that show this anomaly.
pub(super) fn bad_looks(index: &Index<'_>, wanted: Anomaly, findings: &mut Vec<Finding>) {
    for ((group, at), reading) in &index.readings {
        let register = Register::of(reading);
        let beginning = Beginning::of(index, at);
        let mut found = |bad: Option<(Anomaly, String, Vec<Moment>)>, what: String| {
            let Some((anomaly, why, events)) = bad.filter(|(anomaly, ..)| *anomaly == wanted) else {
                return;
            };
            findings.push(Finding {
                anomaly,
                what: format!("{what}: {why}"),
                events,
            });
        };
        for (claim, look) in starts(reading) {
            let beginning = Beginning {
                is_anywhere: claim.begins_anywhere,
                ..beginning
            };
            let what = format!(
                "{} of group {group} began at {} of {at}",
                claim.member, look.offset
            );
            found(judge(&register, look, beginning), what);
        }
        for seen in &reading.seen {
            let look = Look::from(*seen);
            let what = format!("group {group} stood at {} of {at}", look.offset);
            found(judge(&register, look, beginning), what);
        }
        for (invoked, returned) in &reading.nowhere {
            // Committed offsets go with their topic.
            let floor = register
                .floor(*invoked)
                .filter(|_| beginning.kept_from < i64::MAX);
            let what = format!("group {group} stood nowhere in {at}");
            found(floor.map(|floor| lost(floor, *returned)), what);
        }
    }
}

/// [`Anomaly::StartWrong`].
pub(super) fn start_wrong(index: &Index<'_>, findings: &mut Vec<Finding>) {
    bad_looks(index, Anomaly::StartWrong, findings);
}

/// [`Anomaly::CommitLost`]. That a committed offset is not to be seen at all counts, too.
pub(super) fn commit_lost(index: &Index<'_>, findings: &mut Vec<Finding>) {
    bad_looks(index, Anomaly::CommitLost, findings);
}

/// [`Anomaly::CommitBeyond`]: the group has passed over records that are yet to come. Whoever asks for that gets it.
pub(super) fn commit_beyond(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for ((group, at), reading) in &index.readings {
        if index.kept_from(at) == i64::MAX {
            continue;
        }
        let Some(last) = index.finals[0].get(at).filter(|last| last.is_whole) else {
            continue;
        };
        let Some(end) = last.span.next else {
            continue;
        };
        let beyond = |seen: &&Seen| seen.returned < last.cutoff && seen.offset > end;
        for seen in reading.seen.iter().filter(beyond) {
            findings.push(Finding {
                anomaly: Anomaly::CommitBeyond,
                what: format!(
                    "group {group} had committed {} of {at}, which ends at {end}",
                    seen.offset
                ),
                events: vec![seen.returned, last.span.begin],
            });
        }
    }
}

/// [`Anomaly::CommitRegress`].
pub(super) fn commit_regress(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for ((group, at), reading) in &index.readings {
        let register = Register::of(reading);
        let mut by_end = reading.seen.clone();
        by_end.sort_by_key(|seen| seen.returned);
        let mut by_end = by_end.into_iter().peekable();
        let mut by_begin = reading.seen.clone();
        by_begin.sort_by_key(|seen| seen.invoked);
        let mut highest: Option<Seen> = None;
        for seen in by_begin {
            while let Some(earlier) = by_end.next_if(|earlier| earlier.returned < seen.invoked) {
                let is_higher = highest.is_none_or(|known| known.offset <= earlier.offset);
                highest = if is_higher { Some(earlier) } else { highest };
            }
            let Some(before) = highest.filter(|before| before.offset > seen.offset) else {
                continue;
            };
            if !register.may_be_written(seen.offset, before.invoked, seen.returned) {
                findings.push(Finding {
                    anomaly: Anomaly::CommitRegress,
                    what: format!(
                        "group {group} went back from {} to {} of {at}",
                        before.offset, seen.offset
                    ),
                    events: vec![before.returned, seen.returned],
                });
            }
        }
    }
}
