//! How old the oldest record is that a group has not processed, by its append time. The engine knows it at once for what is in
//! memory; what is on disk is looked up where blocking is allowed, a bounded number at a time, and remembered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use crate::model::{Offset, PartitionKey, Timestamp};
use crate::storage::{AppendTime, PartitionLog};

/// Times that are remembered; beyond, all are looked up again when they are wanted.
const KNOWN_MAX: usize = 20_000;

/// Most lookups on disk for one scrape.
pub(super) const SCRAPE_LOOKUPS_MAX: usize = 256;

/// Most lookups on disk for one description of a group; further partitions have no age.
pub(super) const DESCRIBE_LOOKUPS_MAX: usize = 1_024;

/// Descriptions that look on disk at once; more wait.
const LOOKING_AT_ONCE: usize = 2;

/// What has been looked up. A batch keeps its time, so an entry is never wrong.
#[derive(Debug)]
pub(super) struct LagTimes {
    known: Mutex<BTreeMap<(PartitionKey, Offset), Timestamp>>,
    slots: Arc<Semaphore>,
}

impl Default for LagTimes {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            slots: Arc::new(Semaphore::new(LOOKING_AT_ONCE)),
        }
    }
}

impl LagTimes {
    /// When the batch at an offset was appended, as far as that is known without the disk.
    pub(super) fn known<L: PartitionLog>(&self, log: &L, at: Offset) -> Option<AppendTime> {
        let in_memory = log.append_time(at)?;
        if in_memory.exact().is_some() {
            return Some(in_memory);
        }
        let known = self.known.lock().expect("no panics while locked");
        let found = known.get(&(log.key(), at)).copied();
        Some(found.map_or(in_memory, AppendTime::exactly))
    }

    /// Looks it up and remembers it. Blocks on the disk.
    pub(super) fn find<L: PartitionLog>(&self, log: &L, at: Offset) -> Option<Timestamp> {
        // Nobody waits for this: damage is told to who reads, and the next lookup tries again.
        let found = log.find_append_time(at).ok().flatten()?;
        let mut known = self.known.lock().expect("no panics while locked");
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert((log.key(), at), found);
        Some(found)
    }

    /// Who describes a group holds one while it looks on disk.
    pub(super) fn slots(&self) -> Arc<Semaphore> {
        Arc::clone(&self.slots)
    }

    /// The append time of the oldest of these places, with at most `budget` lookups, which are taken from it. Without enough of
    /// them it is not later than the oldest can be: a lag that is shown is never too long.
    pub(super) fn oldest<L: PartitionLog>(
        &self,
        places: &[(&L, Offset)],
        budget: &mut usize,
    ) -> Option<Timestamp> {
        let known = places
            .iter()
            .filter_map(|(log, at)| Some((self.known(*log, *at)?, *log, *at)));
        let mut known: Vec<_> = known.collect();
        known.sort_by_key(|(time, _, _)| time.earliest);
        let mut oldest: Option<Timestamp> = None;
        for (time, log, at) in known {
            if oldest.is_some_and(|oldest| oldest <= time.earliest) {
                break;
            }
            let found = match time.exact() {
                Some(exact) => exact,
                None if *budget == 0 => time.latest,
                None => {
                    *budget -= 1;
                    self.find(log, at).unwrap_or(time.latest)
                }
            };
            oldest = Some(oldest.map_or(found, |oldest| oldest.min(found)));
        }
        oldest
    }
}

/// Milliseconds since then; none if the clock has gone back since.
pub(super) fn age_ms(now: Timestamp, at: Timestamp) -> u64 {
    u64::try_from(now.0.saturating_sub(at.0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PartitionId, TopicId};
    use crate::record::BatchBuilder;
    use crate::storage::memory::{MemoryOptions, MemoryStore};
    use crate::storage::{Class, LogConfig, LogStore, Placed, Step};

    type Log = <MemoryStore as LogStore>::Log;

    /// Partitions that pretend to be on disk, each with a record at these times.
    fn logs(times: &[&[i64]]) -> Vec<Arc<Log>> {
        let store = MemoryStore::new(MemoryOptions {
            cold: true,
            ..MemoryOptions::default()
        });
        let config = LogConfig::from(&crate::model::TopicConfig::default());
        let mut logs = Vec::new();
        for (index, times) in times.iter().enumerate() {
            let key = PartitionKey {
                topic: TopicId::from_bytes([3; 16]),
                partition: PartitionId(u32::try_from(index).unwrap()),
            };
            let log = store.open(key, config);
            for (base, time) in times.iter().enumerate() {
                let mut builder = BatchBuilder::new();
                builder.push(Timestamp(0), None, Some(b"value"), &[]);
                let mut batch = builder.seal(None);
                let base = Offset::new(i64::try_from(base).unwrap()).unwrap();
                batch.stamp(base, store.leader_epoch());
                let placed = Placed {
                    log: Arc::clone(&log),
                    base,
                    batch,
                    append_time: Timestamp(*time),
                };
                let permit = store.permit(1_000, Class::Produce).unwrap();
                store.submit(permit, Step::append(placed)).unwrap();
            }
            logs.push(log);
        }
        logs
    }

    fn at(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    fn oldest(times: &LagTimes, places: &[(&Log, Offset)], lookups: usize) -> (Option<i64>, usize) {
        let mut left = lookups;
        let found = times.oldest(places, &mut left).map(|time| time.0);
        (found, lookups - left)
    }

    #[test]
    fn only_what_may_be_the_oldest_is_looked_up_and_once() {
        let logs = logs(&[&[10, 50, 90], &[60, 70], &[40, 45, 95]]);
        let places = [(&*logs[0], at(1)), (&*logs[1], at(0)), (&*logs[2], at(1))];
        let times = LagTimes::default();
        // The one whose segment begins at 60 cannot be older than 45.
        assert_eq!(oldest(&times, &places, 9), (Some(45), 2));
        assert_eq!(oldest(&times, &places, 9), (Some(45), 0));
        assert_eq!(oldest(&times, &[], 9), (None, 0));
        assert_eq!(
            oldest(&times, &[(&*logs[0], at(3))], 9),
            (None, 0),
            "there is nothing"
        );
    }

    #[test]
    fn without_lookups_no_lag_is_too_long() {
        let logs = logs(&[&[10, 50, 90], &[20, 30, 80]]);
        let places = [(&*logs[0], at(1)), (&*logs[1], at(1))];
        let times = LagTimes::default();
        assert_eq!(oldest(&times, &places, 0), (Some(80), 0));
        assert_eq!(oldest(&times, &places, 1), (Some(50), 1));
        assert_eq!(oldest(&times, &places, 1), (Some(30), 1));
        assert_eq!(oldest(&times, &places, 0), (Some(30), 0));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let logs = logs(&[&[10, 50]]);
        let times = LagTimes::default();
        {
            let mut known = times.known.lock().unwrap();
            known.extend((0..20_000).map(|n| ((logs[0].key(), at(n + 5)), Timestamp(0))));
        }
        assert_eq!(times.find(&*logs[0], at(1)), Some(Timestamp(50)));
        assert_eq!(times.known.lock().unwrap().len(), 1);
        assert_eq!(age_ms(Timestamp(60), Timestamp(50)), 10);
        assert_eq!(age_ms(Timestamp(40), Timestamp(50)), 0);
    }
}
