//! The committed offset of one group and partition as a register: commits write it, views and first records read it.
//!
//! A commit without an answer may count or not; what commits itself may have committed whatever it was handed. So a value is
//! wrong only if no order of what is possible explains it.

use std::collections::BTreeMap;

use super::claims::{Reading, Seen};
use super::index::Moment;

/// A value that the committed offset may have had, from when, and when at the latest it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Write {
    pub(super) offset: i64,
    pub(super) begin: Moment,
    /// `None`: it may yet come.
    pub(super) end: Option<Moment>,
    pub(super) is_sure: bool,
    /// The step that it belongs to.
    pub(super) step: Option<usize>,
}

/// Every value that the committed offset of one partition may have had.
pub(super) struct Register {
    writes: BTreeMap<i64, Vec<Write>>,
    /// The acknowledged ones by their beginning.
    sure: Vec<Write>,
    /// When each was acknowledged, in order, with the highest so far.
    floors: Vec<(Moment, Write)>,
}

/// A look at the committed offset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) offset: i64,
    pub(super) invoked: Moment,
    pub(super) returned: Moment,
}

impl Register {
    pub(super) fn of(reading: &Reading<'_>) -> Self {
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
                step: commit.step,
            });
        }
        for claim in reading.claims.iter().filter(|claim| claim.commits_itself) {
            let end = reading.end_of(claim);
            all.extend(claim.polls.iter().map(|poll| Write {
                offset: poll.offset.saturating_add(1),
                begin: poll.moment,
                end,
                is_sure: false,
                step: None,
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
    pub(super) fn floor(&self, before: Moment) -> Option<Write> {
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
    pub(super) fn explains(&self, look: Look) -> bool {
        self.explanations(look).next().is_some()
    }

    /// Whatever may have written what was seen.
    pub(super) fn explanations(&self, look: Look) -> impl Iterator<Item = &Write> {
        let writes = self.writes.get(&look.offset).into_iter().flatten();
        writes
            .filter(move |write| write.begin < look.returned)
            .filter(move |write| !self.is_overwritten(write, look.invoked))
    }

    /// Whether somebody may have committed this between two moments.
    pub(super) fn may_be_written(&self, offset: i64, after: Moment, before: Moment) -> bool {
        let mut writes = self.writes.get(&offset).into_iter().flatten();
        writes.any(|write| write.begin < before && write.end.is_none_or(|end| end > after))
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
