//! Deadlines in their order: one per duty at most.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{GroupId, InstanceId, MemberId, PartitionKey};

/// What a deadline is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Duty {
    /// A member is to be heard of.
    Session(GroupId, MemberId),
    /// A member is to release what is revoked.
    Handoff(GroupId, MemberId),
    /// A leader is to propose.
    Proposal(GroupId),
    /// A hold-down is forgotten.
    HoldDown(GroupId, InstanceId),
    /// A position is to move.
    Progress(GroupId, MemberId, PartitionKey),
    /// The positions of a group are to be looked at.
    Watch(GroupId),
    /// The committed offsets of a group may expire.
    Retention(GroupId),
}

// Invariant: `due` and `at` say the same.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeSet<(Duration, Duty)>,
    at: BTreeMap<Duty, Duration>,
}

impl Timers {
    pub(super) fn get(&self, duty: &Duty) -> Option<Duration> {
        self.at.get(duty).copied()
    }

    /// In place of the deadline that the duty had.
    pub(super) fn set(&mut self, duty: Duty, at: Duration) {
        self.cancel(&duty);
        self.due.insert((at, duty.clone()));
        self.at.insert(duty, at);
    }

    /// The deadline that the duty had.
    pub(super) fn cancel(&mut self, duty: &Duty) -> Option<Duration> {
        let (duty, at) = self.at.remove_entry(duty)?;
        self.due.remove(&(at, duty));
        Some(at)
    }

    /// Sets, or cancels.
    pub(super) fn put(&mut self, duty: Duty, at: Option<Duration>) {
        match at {
            Some(at) if self.get(&duty) == Some(at) => {}
            Some(at) => self.set(duty, at),
            None => {
                self.cancel(&duty);
            }
        }
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Removes and returns what is due, at most so much of it: what is set again meanwhile waits for the next call.
    pub(super) fn take_due(&mut self, now: Duration, max: usize) -> Vec<Duty> {
        let mut taken = Vec::new();
        while taken.len() < max && self.next().is_some_and(|at| at <= now) {
            let Some((_, duty)) = self.due.pop_first() else {
                break;
            };
            self.at.remove(&duty);
            taken.push(duty);
        }
        taken
    }
}
