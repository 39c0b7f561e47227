//! Partitions that were read without a group; and of those readings the ones that say what is there at the end.

use std::rc::Rc;

use super::event::{Range, Start};
use super::index::Moment;
use super::names::{At, Uid};

/// A record that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) offset: i64,
    pub(super) uid: Option<Uid>,
    pub(super) is_intact: bool,
    pub(super) moment: Moment,
}

/// One time of reading a partition.
#[derive(Clone, Debug)]
pub(super) struct Span<'a> {
    pub(super) process: u32,
    pub(super) at: &'a At,
    pub(super) begin: Moment,
    pub(super) from: Option<Start>,
    pub(super) entries: Rc<Vec<Entry>>,
    /// It has everything below.
    pub(super) next: Option<i64>,
    /// What it was told to be damaged.
    pub(super) damaged: Vec<(&'a Range, Moment)>,
}

impl Span<'_> {
    /// Whether the reader was told that this record is damaged.
    pub(super) fn is_damaged(&self, offset: i64) -> bool {
        let mut damaged = self.damaged.iter();
        damaged.any(|(range, _)| range.first <= offset && offset <= range.last)
    }
}

/// All that a partition has, as one reader found it.
#[derive(Debug)]
pub(super) struct Through<'a> {
    /// Its entries are in the order of their offsets.
    pub(super) span: Span<'a>,
    /// Nobody wrote any more; what was there before is there now.
    pub(super) cutoff: Moment,
    /// It was read up to the end that the broker told.
    pub(super) is_whole: bool,
}

impl<'a> Through<'a> {
    pub(super) fn new(span: &Span<'a>, cutoff: Moment, is_whole: bool) -> Self {
        let mut span = span.clone();
        if !span.entries.is_sorted_by_key(|entry| entry.offset) {
            Rc::make_mut(&mut span.entries).sort_by_key(|entry| entry.offset);
        }
        Self {
            span,
            cutoff,
            is_whole,
        }
    }

    /// Whether the reader would have found what was at this offset before it began.
    pub(super) fn covers(&self, offset: i64) -> bool {
        let from = match self.span.from {
            Some(Start::Earliest) => i64::MIN,
            Some(Start::Offset(from)) => from,
            Some(Start::Latest) | None => i64::MAX,
        };
        let is_below = self.is_whole || self.span.next.is_some_and(|next| offset < next);
        offset >= from && is_below
    }

    pub(super) fn entry(&self, offset: i64) -> Option<&Entry> {
        let entries = &self.span.entries;
        let first = entries.partition_point(|entry| entry.offset < offset);
        entries.get(first).filter(|entry| entry.offset == offset)
    }

    /// Whether the reader should have found something at this offset, has not, and was not told why.
    pub(super) fn misses(&self, offset: i64) -> bool {
        self.covers(offset) && self.entry(offset).is_none() && !self.span.is_damaged(offset)
    }
}
