//! What a broker keeps: records by partition, and up to where they outlive a kill.

use std::collections::BTreeMap;

use crate::history::{At, Found, Range, Uid};

/// A partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    records: Vec<Uid>,
    /// The end of what is on disk and can be read.
    durable: usize,
    pub(super) start: i64,
    pub(super) damaged: Option<Range>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Store(pub(super) BTreeMap<At, Stored>);

impl Stored {
    pub(super) fn end(&self) -> i64 {
        i64::try_from(self.durable).unwrap()
    }

    pub(super) fn at(&self, offset: i64) -> Uid {
        self.records[usize::try_from(offset).unwrap()]
    }

    /// What a reader gets from an offset on, at most so many: what it is told to be damaged, records, and where it stands then.
    pub(super) fn read(&self, from: i64, most: i64) -> (Option<&Range>, Vec<Found>, i64) {
        let next = from.max(self.start);
        let end = self.end().min(next.saturating_add(most));
        if let Some(damaged) = self
            .damaged
            .as_ref()
            .filter(|it| it.first <= next && next <= it.last)
        {
            return (Some(damaged), Vec::new(), damaged.last + 1);
        }
        let stop = self
            .damaged
            .as_ref()
            .map(|it| it.first)
            .filter(|first| *first > next);
        let end = stop.map_or(end, |stop| stop.min(end)).max(next.min(self.end()));
        let found = (next..end).map(|offset| Found {
            offset,
            uid: Some(self.at(offset)),
            intact: true,
        });
        (None, found.collect(), end.max(next))
    }
}

impl Store {
    pub(super) fn of(&mut self, at: &At) -> &mut Stored {
        self.0.entry(at.clone()).or_default()
    }

    /// Appends; the offset of the first.
    pub(super) fn append(&mut self, at: &At, uids: &[Uid], is_durable: bool) -> i64 {
        let stored = self.of(at);
        let base = i64::try_from(stored.records.len()).unwrap();
        stored.records.extend(uids);
        if is_durable {
            stored.durable = stored.records.len();
        }
        base
    }

    pub(super) fn sync(&mut self) {
        for stored in self.0.values_mut() {
            stored.durable = stored.records.len();
        }
    }

    /// What is not on disk is gone.
    pub(super) fn forget(&mut self) {
        for stored in self.0.values_mut() {
            stored.records.truncate(stored.durable);
        }
    }
}
