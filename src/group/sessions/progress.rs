//! Whether a position moves. A slow handler is told of, not evicted: liveness and progress are two things.

use std::time::Duration;

use crate::model::Offset;

/// Where somebody is in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The offset committed, which is the next one to be processed; `None`: nothing was committed.
    pub committed: Option<Offset>,
    /// Behind what was handed out last; `None`: nothing was.
    pub handed: Option<Offset>,
    /// Where what there is to read ends, exclusive.
    pub end: Offset,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    seen: Option<Position>,
    /// The end when it was looked at first: where somebody stands who has neither committed nor read.
    first_end: Option<Offset>,
    /// Since when it stands still while there is something to process.
    since: Option<Duration>,
    reported: bool,
}

impl Progress {
    pub(super) fn observe(&mut self, now: Duration, position: Position) {
        self.first_end.get_or_insert(position.end);
        let moved = self.seen.is_none_or(|seen| {
            // What a prefetch takes is progress as well, until its buffer is full.
            seen.committed != position.committed || seen.handed != position.handed
        });
        if moved {
            self.since = None;
            self.reported = false;
        }
        self.seen = Some(position);
        if self.next() >= Some(position.end) {
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
        let found = (self.next()?, self.since?);
        self.reported = true;
        Some(found)
    }

    /// Since when it stands still, if that has been reported.
    pub(super) fn stalled(&self) -> Option<Duration> {
        self.since.filter(|_| self.reported)
    }

    fn next(&self) -> Option<Offset> {
        let seen = self.seen?;
        seen.committed.or(seen.handed).or(self.first_end)
    }
}
