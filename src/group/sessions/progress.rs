//! Whether a position moves. A slow handler is told of, not evicted: liveness and progress are two things.

use std::time::Duration;

use crate::model::Offset;

/// Where somebody is in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The next offset that it wants.
    pub next: Offset,
    /// Where what there is to read ends, exclusive.
    pub end: Offset,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    next: Option<Offset>,
    /// Since when it stands still while there is something to read.
    since: Option<Duration>,
    reported: bool,
}

impl Progress {
    pub(super) fn observe(&mut self, now: Duration, position: Position) {
        if self.next != Some(position.next) {
            self.next = Some(position.next);
            self.since = None;
            self.reported = false;
        }
        if position.next >= position.end {
            self.since = None;
        } else if self.since.is_none() {
            self.since = Some(now);
        }
    }

    /// When it is late, if it is not known to be.
    pub(super) fn deadline(&self, timeout: Duration) -> Option<Duration> {
        let since = self.since.filter(|_| !self.reported)?;
        Some(since.saturating_add(timeout))
    }

    /// It is late: where it stands and since when.
    pub(super) fn report(&mut self) -> Option<(Offset, Duration)> {
        let found = (self.next?, self.since?);
        self.reported = true;
        Some(found)
    }
}
