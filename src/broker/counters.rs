//! What the broker counts. Success is a counter, never a log line.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::api::{Reply, Response, each_error};
use crate::model::ErrorCode;

/// Totals since the start.
#[derive(Debug)]
pub struct Counters {
    records_in: AtomicU64,
    bytes_in: AtomicU64,
    duplicates: AtomicU64,
    records_out: AtomicU64,
    bytes_out: AtomicU64,
    memory_bytes: AtomicU64,
    /// One per code, in the order of [`ErrorCode::ALL`].
    refused: Box<[AtomicU64]>,
    produce_refused: Box<[AtomicU64]>,
    members_expired: AtomicU64,
    members_stalled: AtomicU64,
}

/// The totals at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountersNow {
    /// Records appended.
    pub records_in: u64,
    /// Bytes of the batches appended.
    pub bytes_in: u64,
    /// Batches that had been appended before.
    pub duplicates: u64,
    /// Offsets fetched.
    pub records_out: u64,
    /// Bytes of the batches fetched.
    pub bytes_out: u64,
    /// Bytes of the batches fetched that were in the engine's memory.
    pub memory_bytes: u64,
    /// Errors answered, for whole requests and for items; codes that were never answered are left out.
    pub refused: Vec<(ErrorCode, u64)>,
    /// Those of them that refused a batch.
    pub produce_refused: Vec<(ErrorCode, u64)>,
    /// Members of groups that were removed because they were not heard of, or did not release.
    pub members_expired: u64,
    /// How often a position of a living member was found to stand still.
    pub members_stalled: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            records_in: AtomicU64::default(),
            bytes_in: AtomicU64::default(),
            duplicates: AtomicU64::default(),
            records_out: AtomicU64::default(),
            bytes_out: AtomicU64::default(),
            memory_bytes: AtomicU64::default(),
            refused: per_code(),
            produce_refused: per_code(),
            members_expired: AtomicU64::default(),
            members_stalled: AtomicU64::default(),
        }
    }
}

impl Counters {
    /// The totals now.
    pub fn now(&self) -> CountersNow {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CountersNow {
            records_in: get(&self.records_in),
            bytes_in: get(&self.bytes_in),
            duplicates: get(&self.duplicates),
            records_out: get(&self.records_out),
            bytes_out: get(&self.bytes_out),
            memory_bytes: get(&self.memory_bytes),
            refused: seen(&self.refused),
            produce_refused: seen(&self.produce_refused),
            members_expired: get(&self.members_expired),
            members_stalled: get(&self.members_stalled),
        }
    }

    pub(super) fn appended(&self, records: u32, bytes: u32) {
        add(&self.records_in, u64::from(records));
        add(&self.bytes_in, u64::from(bytes));
    }

    pub(super) fn member_expired(&self) {
        add(&self.members_expired, 1);
    }

    pub(super) fn member_stalled(&self) {
        add(&self.members_stalled, 1);
    }

    pub(super) fn duplicate(&self) {
        add(&self.duplicates, 1);
    }

    pub(super) fn fetched(&self, records: u64, bytes: u64, memory_bytes: u64) {
        add(&self.records_out, records);
        add(&self.bytes_out, bytes);
        add(&self.memory_bytes, memory_bytes);
    }

    /// Counts the errors in an answer.
    pub(super) fn count(&self, reply: &Reply) {
        each_error(reply, |error| self.refused(error.code));
        if let Ok(Response::Produce(produced)) = reply {
            for error in produced.partitions.iter().filter_map(|item| item.as_ref().err()) {
                count_code(&self.produce_refused, error.code);
            }
        }
    }

    fn refused(&self, code: ErrorCode) {
        count_code(&self.refused, code);
    }
}

fn per_code() -> Box<[AtomicU64]> {
    ErrorCode::ALL.iter().map(|_| AtomicU64::default()).collect()
}

fn count_code(counters: &[AtomicU64], code: ErrorCode) {
    let counters = ErrorCode::ALL.iter().zip(counters);
    for (_, counter) in counters.filter(|(at, _)| **at == code) {
        add(counter, 1);
    }
}

/// What was counted, without the codes that never came up.
fn seen(counters: &[AtomicU64]) -> Vec<(ErrorCode, u64)> {
    let counted = ErrorCode::ALL.iter().zip(counters);
    counted
        .map(|(code, counter)| (*code, counter.load(Ordering::Relaxed)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
