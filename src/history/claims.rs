//! What members of a group hold, read and commit of one partition.

use super::index::Moment;
use super::names::{At, Uid};

/// Where a group reads.
pub(super) type Target<'a> = (&'a str, &'a At);

/// A record that was handed to a member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Polled {
    pub(super) moment: Moment,
    pub(super) offset: i64,
    pub(super) uid: Uid,
    pub(super) redelivered: bool,
}

/// One time of holding a partition, from being told of it; its end cannot be seen, but the claim that follows it can.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    pub(super) process: u32,
    pub(super) member: &'a str,
    pub(super) instance: Option<&'a str>,
    pub(super) epoch: u32,
    pub(super) assigned: Moment,
    /// When its process began to join.
    pub(super) joined: Option<Moment>,
    pub(super) commits_itself: bool,
    pub(super) begins_anywhere: bool,
    pub(super) polls: Vec<Polled>,
}

/// A committed offset that was asked for and not refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Commit {
    pub(super) offset: i64,
    pub(super) invoked: Moment,
    /// When it was known to be kept; `None`: it may have been kept.
    pub(super) returned: Option<Moment>,
    /// The claim under which it was made.
    pub(super) claim: Option<usize>,
    /// The step that it belongs to.
    pub(super) step: Option<usize>,
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
    /// Begin and end of looks that showed no committed offset.
    pub(super) nowhere: Vec<(Moment, Moment)>,
    /// Handed out by a process that was not told before that it holds the partition.
    pub(super) unclaimed: Vec<Polled>,
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

    /// The claim under which a process may have asked for something at this moment.
    pub(super) fn claim_of(&self, process: u32, invoked: Moment) -> Option<usize> {
        let is_it = |claim: &Claim<'_>| claim.process == process && claim.assigned < invoked;
        self.claims.iter().rposition(is_it)
    }

    pub(super) fn delivered_once(&self) -> usize {
        let polls = self.claims.iter().flat_map(|claim| &claim.polls);
        let mut offsets: Vec<i64> = polls.map(|poll| poll.offset).collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets.len()
    }
}
