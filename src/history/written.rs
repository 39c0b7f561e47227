//! What is known of each record that was sent or read: who sent it, whether that succeeded, and where it was seen.

use smallvec::SmallVec;

use super::index::Moment;
use super::names::At;

/// A record at a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) at: &'a At,
    pub(super) offset: i64,
    /// When it was known to be there.
    pub(super) moment: Moment,
}

/// How a record was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent<'a> {
    pub(super) at: &'a At,
    /// The first time.
    pub(super) invoked: Moment,
    /// The step that it belongs to.
    pub(super) step: Option<usize>,
}

/// A record.
#[derive(Clone, Debug, Default)]
pub(super) struct Known<'a> {
    pub(super) sent: Option<Sent<'a>>,
    /// How often it was sent, and how often that has definitely failed.
    pub(super) attempts: u32,
    pub(super) failed: u32,
    /// Where it was acknowledged first, unless a fault may have taken that back.
    pub(super) ack: Option<Place<'a>>,
    /// Where it was read, each place once.
    pub(super) seen: SmallVec<[Place<'a>; 1]>,
}

impl<'a> Known<'a> {
    pub(super) fn see(&mut self, place: Place<'a>) {
        let is_known = |seen: &Place<'_>| seen.offset == place.offset && seen.at == place.at;
        if !self.seen.iter().any(is_known) {
            self.seen.push(place);
        }
    }

    /// Whether every attempt to send it has definitely failed.
    pub(super) fn has_failed(&self) -> bool {
        self.attempts > 0 && self.attempts == self.failed
    }

    /// Where it is for sure, with the moment that first showed it to be anywhere.
    pub(super) fn place(&self) -> Option<Place<'a>> {
        let first = self.ack.or_else(|| self.seen.first().copied())?;
        let moments = self.ack.iter().chain(&self.seen).map(|place| place.moment);
        Some(Place {
            moment: moments.min().unwrap_or(first.moment),
            ..first
        })
    }
}
