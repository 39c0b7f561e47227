//! Which offsets of a partition in memory may be given out: those below an offset that is on disk, so that no later start
//! gives one of them again.
//!
//! Pure. What is on disk is the log start of an empty log of the same partition in the other engine: every offset below it
//! may have been given. It is moved ahead in blocks, long before they are used up, and a batch whose block is not durable yet
//! becomes durable, and so visible, together with it.

use std::collections::VecDeque;

use crate::model::{Lsn, Offset};

/// So many offsets are reserved ahead.
pub(super) const RESERVED_AHEAD: u32 = 1 << 16;

/// The reservations that still matter, oldest first.
#[derive(Debug, Default)]
pub(super) struct Reserved(VecDeque<(Offset, Lsn)>);

/// What a batch needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// It is covered by a reservation that becomes durable with this LSN; `None`: by none yet.
    pub(super) covered: Option<Lsn>,
    /// Reserve what is below this offset now.
    pub(super) ask: Option<Offset>,
}

impl Reserved {
    /// What a batch that ends here needs.
    pub(super) fn need(&self, end: Offset) -> Need {
        let covering = self.0.iter().find(|(below, _)| *below >= end);
        let low = self
            .0
            .back()
            .is_none_or(|(below, _)| below.since(end) < u64::from(RESERVED_AHEAD / 2));
        Need {
            covered: covering.map(|(_, lsn)| *lsn),
            ask: low.then(|| end.checked_add(RESERVED_AHEAD)).flatten(),
        }
    }

    /// A reservation was submitted. Those that only cover what has been given out are forgotten.
    pub(super) fn note(&mut self, below: Offset, lsn: Lsn, given: Offset) {
        while self.0.pop_front_if(|(end, _)| *end <= given).is_some() {}
        self.0.push_back((below, lsn));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn o(n: i64) -> Offset {
        Offset::new(n).unwrap()
    }

    #[test]
    fn a_block_is_asked_for_at_first_and_when_half_of_it_is_used() {
        let ahead = i64::from(RESERVED_AHEAD);
        let mut reserved = Reserved::default();
        let first = reserved.need(o(10));
        assert_eq!((first.covered, first.ask), (None, Some(o(10 + ahead))));
        reserved.note(o(10 + ahead), Lsn(1), o(10));
        let covered = |end, lsn, ask| {
            let need = Need {
                covered: Some(Lsn(lsn)),
                ask,
            };
            (o(end), need)
        };
        let half = 10 + ahead / 2;
        for (end, need) in [
            covered(half, 1, None),
            covered(half + 1, 1, Some(o(half + 1 + ahead))),
            covered(10 + ahead, 1, Some(o(10 + 2 * ahead))),
        ] {
            assert_eq!(reserved.need(end), need, "{end}");
        }
        reserved.note(o(half + 1 + ahead), Lsn(2), o(half + 1));
        // What the first block covers is durable with it, however late the second becomes so.
        assert_eq!(reserved.need(o(10 + ahead)).covered, Some(Lsn(1)));
        assert_eq!(reserved.need(o(11 + ahead)).covered, Some(Lsn(2)));
        reserved.note(o(20 + 2 * ahead), Lsn(3), o(10 + ahead));
        assert_eq!(reserved.0.len(), 2);
    }

    #[test]
    fn a_batch_larger_than_a_block_asks_for_all_it_needs() {
        let end = o(i64::from(RESERVED_AHEAD) * 5);
        let need = Reserved::default().need(end);
        assert!(need.ask.unwrap() > end);
    }
}
