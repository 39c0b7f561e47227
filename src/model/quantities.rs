//! Quantities: offsets, log sequence numbers, byte counts, times.

use std::fmt;

/// Position of a record in a partition, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(i64);

impl Offset {
    /// The first offset.
    pub const ZERO: Self = Self(0);

    /// The offset with this number, or `None` if it is negative.
    pub const fn new(value: i64) -> Option<Self> {
        if value < 0 { None } else { Some(Self(value)) }
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The offset that follows.
    ///
    /// Saturates at `i64::MAX`, which no log reaches.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The offset `count` records later, or `None` past `i64::MAX`.
    pub fn checked_add(self, count: u32) -> Option<Self> {
        self.0.checked_add(i64::from(count)).map(Self)
    }

    /// How many offsets lie from `start` (inclusive) to this one (exclusive); 0 if `start` is not below it.
    pub fn since(self, start: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(start.0)).unwrap_or(0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Log sequence number: the number of a journal group, from 1. Everything in one group becomes durable together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before the first group: waits for nothing.
    pub const ZERO: Self = Self(0);

    /// The number of the next group.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the journal publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DurableState {
    /// Every group up to this one is on disk.
    pub lsn: Lsn,
    /// A write or sync of the journal failed: whatever is not durable by now has an unknown fate.
    pub poisoned: bool,
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteCount(pub u64);

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

/// Wall-clock time in ms since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The marks of a partition. `log_start <= high_watermark <= log_end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LogBounds {
    /// First readable offset.
    pub log_start: Offset,
    /// End of the durable, visible prefix, exclusive.
    pub high_watermark: Offset,
    /// Next offset to be assigned.
    pub log_end: Offset,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_never_negative() {
        assert_eq!(Offset::new(-1), None);
        assert_eq!(Offset::new(0), Some(Offset::ZERO));
        assert_eq!(Offset::ZERO.since(Offset(5)), 0);
        assert_eq!(Offset(7).since(Offset(5)), 2);
        assert_eq!(Offset(i64::MAX).checked_add(1), None);
    }
}
