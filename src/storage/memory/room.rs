//! The memory that all logs share. When it is full, the log that holds the most gives up its oldest batches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Semaphore;

use super::lock;
use super::log::MemoryLog;
use crate::model::{Lsn, MemoryHealth, PartitionKey};

/// So many lookups by time run at once; each may hold a batch that it has decompressed.
const LOOKUPS_MAX: usize = 4;

/// At least this part of everything is given up at once: finding out who holds the most means looking at every log.
const GIVEN_UP_AT_ONCE: u64 = 64;

/// How much memory there is, and who has it.
#[derive(Debug)]
pub(super) struct Room {
    bytes_max: u64,
    used: Mutex<Used>,
    logs: Mutex<BTreeMap<PartitionKey, Weak<MemoryLog>>>,
    lookups: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Used {
    /// Held by all logs, with what batches take beside their bytes.
    held: u64,
    given_up: GivenUp,
}

/// What went because there was no room for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GivenUp {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Room {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            used: Mutex::default(),
            logs: Mutex::default(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
        }
    }

    pub(super) fn lookups(&self) -> Arc<Semaphore> {
        Arc::clone(&self.lookups)
    }

    /// From now on this log can be asked to give something up.
    pub(super) fn enter(&self, log: &Arc<MemoryLog>) {
        lock(&self.logs).insert(log.partition(), Arc::downgrade(log));
    }

    pub(super) fn leave(&self, key: PartitionKey) {
        lock(&self.logs).remove(&key);
    }

    pub(super) fn held(&self) -> u64 {
        lock(&self.used).held
    }

    pub(super) fn health(&self) -> MemoryHealth {
        let used = lock(&self.used);
        MemoryHealth {
            held_bytes: used.held,
            bytes_max: self.bytes_max,
            dropped_records: used.given_up.records,
            dropped_bytes: used.given_up.bytes,
        }
    }

    /// Takes so many bytes, and makes room for them first. False: what there is cannot be given up yet, because nobody
    /// could have read it; nothing was taken then.
    pub(super) fn take(&self, bytes: u64, durable: Lsn) -> bool {
        let over = {
            let mut used = lock(&self.used);
            used.held += bytes;
            used.held.saturating_sub(self.bytes_max)
        };
        if over == 0 || self.make_room(over.max(self.bytes_max / GIVEN_UP_AT_ONCE), durable) >= over {
            return true;
        }
        self.give_back(bytes);
        false
    }

    /// What a log has let go of without having been full.
    pub(super) fn give_back(&self, bytes: u64) {
        let mut used = lock(&self.used);
        used.held = used.held.saturating_sub(bytes);
    }

    /// What a log has let go of because it, or the room, was full.
    pub(super) fn gave_up(&self, held: u64, gone: GivenUp) {
        let mut used = lock(&self.used);
        used.held = used.held.saturating_sub(held);
        used.given_up.records += gone.records;
        used.given_up.bytes += gone.bytes;
    }

    /// Asks whoever holds the most, until so many bytes are free; how many were freed. Never called with a log locked.
    ///
    /// Nobody is emptied while others have more than half of theirs: among many small logs the newest records stay.
    fn make_room(&self, bytes: u64, durable: Lsn) -> u64 {
        let logs: Vec<_> = lock(&self.logs).values().filter_map(Weak::upgrade).collect();
        let mut by_size: Vec<_> = logs.iter().map(|log| (log.held(), log)).collect();
        by_size.sort_unstable_by_key(|(held, _)| std::cmp::Reverse(*held));
        let mut freed = 0;
        for share in [2, 1] {
            for (held, log) in &by_size {
                if freed >= bytes {
                    return freed;
                }
                freed += log.give_up((bytes - freed).min(held / share), durable);
            }
        }
        freed
    }
}
