//! Anomalies of reading on: where members begin, what they are handed, and whether committed offsets hold.
//!
//! A committed offset is a register: commits write it, views and first records read it. A commit without an answer may count or
//! not; what commits itself may have committed whatever it was handed. So a value is wrong only if no order of what is possible
//! explains it.

use std::collections::BTreeMap;

use super::index::{Claim, Index, Moment, Place, Polled, Reading, Seen};
use super::report::{Anomaly, Finding};

/// A value that the committed offset may have had, from when, and when at the latest it was written.
#[derive(Clone, Copy, Debug)]
struct Write {
    offset: i64,
    begin: Moment,
    /// `None`: it may yet come.
    end: Option<Moment>,
    is_sure: bool,
}

/// Every value that the committed offset of one partition may have had.
struct Register {
    writes: BTreeMap<i64, Vec<Write>>,
    /// The acknowledged ones by their beginning.
    sure: Vec<Write>,
    /// When each was acknowledged, in order, with the highest so far.
    floors: Vec<(Moment, Write)>,
}

/// A look at the committed offset.
#[derive(Clone, Copy, Debug)]
struct Look {
    offset: i64,
    invoked: Moment,
    returned: Moment,
}

impl Register {
    fn of(reading: &Reading<'_>) -> Self {
        let mut all = Vec::new();
        for commit in &reading.commits {
            let claim = commit.claim.and_then(|claim| reading.claims.get(claim));
            all.push(Write {
                offset: commit.offset,
                begin: commit.invoked,
                end: commit
                    .returned
                    .or_else(|| claim.and_then(|claim| reading.end_of(claim))),
                is_sure: commit.returned.is_some(),
            });
        }
        for claim in reading.claims.iter().filter(|claim| claim.commits_itself) {
            let end = reading.end_of(claim);
            all.extend(claim.polls.iter().map(|poll| Write {
                offset: poll.offset.saturating_add(1),
                begin: poll.moment,
                end,
                is_sure: false,
            }));
        }
        let mut sure: Vec<Write> = all.iter().copied().filter(|write| write.is_sure).collect();
        sure.sort_by_key(|write| write.begin);
        let ended = sure.iter().filter_map(|write| Some((write.end?, *write)));
        let mut floors: Vec<(Moment, Write)> = ended.collect();
        floors.sort_by_key(|(end, _)| *end);
        let mut highest: Option<Write> = None;
        for (_, write) in &mut floors {
            let is_higher = highest.is_none_or(|known| known.offset <= write.offset);
            highest = if is_higher { Some(*write) } else { highest };
            *write = highest.unwrap_or(*write);
        }
        let mut writes: BTreeMap<i64, Vec<Write>> = BTreeMap::new();
        for write in all {
            writes.entry(write.offset).or_default().push(write);
        }
        Self { writes, sure, floors }
    }

    /// The highest offset that was acknowledged before this moment.
    fn floor(&self, before: Moment) -> Option<Write> {
        let acknowledged = self.floors.partition_point(|(end, _)| *end < before);
        let last = acknowledged.checked_sub(1)?;
        self.floors.get(last).map(|(_, write)| *write)
    }

    /// Whether a commit was overwritten for sure before this moment.
    fn is_overwritten(&self, write: &Write, before: Moment) -> bool {
        let Some(end) = write.end else {
            return false;
        };
        let first = self.sure.partition_point(|other| other.begin <= end);
        self.sure
            .iter()
            .skip(first)
            .take_while(|other| other.begin < before)
            .any(|other| other.end.is_some_and(|end| end < before))
    }

    /// Whether somebody may have committed what was seen.
    fn explains(&self, look: Look) -> bool {
        let writes = self.writes.get(&look.offset).into_iter().flatten();
        writes
            .filter(|write| write.begin < look.returned)
            .any(|write| !self.is_overwritten(write, look.invoked))
    }

    /// Whether somebody may have committed this between two moments.
    fn may_be_written(&self, offset: i64, after: Moment, before: Moment) -> bool {
        let mut writes = self.writes.get(&offset).into_iter().flatten();
        writes.any(|write| write.begin < before && write.end.is_none_or(|end| end > after))
    }
}

/// What a look at the committed offset shows: an anomaly, or nothing.
fn judge(register: &Register, look: Look, at_first: i64) -> Option<(Anomaly, String, Vec<Moment>)> {
    let floor = register.floor(look.invoked);
    match floor {
        // Nothing was committed for sure: at the beginning, or at what may have been committed.
        None if look.offset == at_first || register.explains(look) => None,
        Some(_) if register.explains(look) => None,
        Some(floor) if look.offset < floor.offset => {
            let events = [Some(floor.begin), floor.end, Some(look.returned)];
            Some((
                Anomaly::CommitLost,
                format!("{} had been committed", floor.offset),
                events.into_iter().flatten().collect(),
            ))
        }
        _ => Some((
            Anomaly::StartWrong,
            "nobody committed that".to_owned(),
            vec![look.invoked, look.returned],
        )),
    }
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

/// Looks of both kinds that show this anomaly.
fn bad_looks(index: &Index<'_>, wanted: Anomaly, findings: &mut Vec<Finding>) {
    for ((group, at), reading) in &index.readings {
        let register = Register::of(reading);
        let log_start = index.log.get(at).and_then(|log| log.keys().next()).copied();
        // A member that commits by itself may commit where it began.
        let at_first = log_start.unwrap_or_default();
        let mut found = |look: Look, what: String| {
            let Some((anomaly, why, events)) = judge(&register, look, at_first) else {
                return;
            };
            if anomaly == wanted {
                findings.push(Finding {
                    anomaly,
                    what: format!("{what}: {why}"),
                    events,
                });
            }
        };
        for (claim, look) in starts(reading) {
            let what = format!(
                "{} of group {group} began at {} of {at}",
                claim.member, look.offset
            );
            found(look, what);
        }
        for seen in &reading.seen {
            let look = Look::from(*seen);
            found(look, format!("group {group} stood at {} of {at}", look.offset));
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
    for ((group, at), reading) in &index.readings {
        let register = Register::of(reading);
        for viewed in index.views.iter().filter(|viewed| viewed.group == *group) {
            if viewed.view.committed.iter().any(|(shown, _)| shown == *at) {
                continue;
            }
            if let Some(floor) = register.floor(viewed.invoked) {
                findings.push(Finding {
                    anomaly: Anomaly::CommitLost,
                    what: format!(
                        "group {group} stood nowhere in {at}: {} had been committed",
                        floor.offset
                    ),
                    events: [Some(floor.begin), floor.end, Some(viewed.returned)]
                        .into_iter()
                        .flatten()
                        .collect(),
                });
            }
        }
    }
}

impl From<Seen> for Look {
    fn from(seen: Seen) -> Self {
        Self {
            offset: seen.offset,
            invoked: seen.invoked,
            returned: seen.returned,
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

/// Records that one claim was handed one after the other.
fn pairs<'r>(reading: &'r Reading<'r>) -> impl Iterator<Item = (&'r Claim<'r>, Polled, Polled)> {
    reading.claims.iter().flat_map(|claim| {
        let pairs = claim.polls.windows(2);
        pairs.filter_map(move |pair| match pair {
            [first, second] => Some((claim, *first, *second)),
            _ => None,
        })
    })
}

/// [`Anomaly::PollNonmonotonic`].
pub(super) fn poll_nonmonotonic(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for ((_, at), reading) in &index.readings {
        for (claim, first, second) in
            pairs(reading).filter(|(_, first, second)| second.offset <= first.offset)
        {
            findings.push(Finding {
                anomaly: Anomaly::PollNonmonotonic,
                what: format!(
                    "{} was handed offset {} of {at} after {}",
                    claim.member, second.offset, first.offset
                ),
                events: vec![claim.assigned, first.moment, second.moment],
            });
        }
    }
}

/// [`Anomaly::PollSkip`].
pub(super) fn poll_skip(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for ((_, at), reading) in &index.readings {
        let Some(log) = index.log.get(at) else {
            continue;
        };
        for (claim, first, second) in pairs(reading) {
            let between = first.offset.saturating_add(1)..second.offset;
            if between.is_empty() {
                continue;
            }
            if let Some((skipped, there)) = log.range(between).next() {
                let proofs = there.iter().map(|(_, moment)| *moment);
                findings.push(Finding {
                    anomaly: Anomaly::PollSkip,
                    what: format!(
                        "{} was handed offsets {} and {} of {at}, but not {skipped}",
                        claim.member, first.offset, second.offset
                    ),
                    events: [claim.assigned, first.moment, second.moment]
                        .into_iter()
                        .chain(proofs)
                        .collect(),
                });
            }
        }
    }
}

/// [`Anomaly::Redelivery`]. A member that was stopped may hand out late what it fetched in time: only who comes later is told.
pub(super) fn redelivery(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (place, reading) in &index.readings {
        let mut earlier: BTreeMap<i64, Vec<(&Claim<'_>, Polled)>> = BTreeMap::new();
        for claim in &reading.claims {
            for poll in &claim.polls {
                earlier.entry(poll.offset).or_default().push((claim, *poll));
            }
        }
        for deliveries in earlier.values().filter(|deliveries| deliveries.len() > 1) {
            unmarked(*place, deliveries, findings);
        }
    }
}

fn unmarked((group, at): Place<'_>, deliveries: &[(&Claim<'_>, Polled)], findings: &mut Vec<Finding>) {
    for (claim, poll) in deliveries.iter().filter(|(_, poll)| !poll.redelivered) {
        let mut before = deliveries.iter().filter(|(_, first)| first.moment < poll.moment);
        let first = before.find(|(other, _)| claim.follows(other));
        if let Some((other, first)) = first {
            findings.push(Finding {
                anomaly: Anomaly::Redelivery,
                what: format!(
                    "offset {} of {at} was handed to {} and again to {} of group {group}, without a mark",
                    poll.offset, other.member, claim.member
                ),
                events: vec![first.moment, claim.assigned, poll.moment],
            });
        }
    }
}
