//! What the broker counts. Success is a counter, never a log line.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::api::{Reply, Response};
use crate::model::ErrorCode;

/// Totals since the start.
#[derive(Debug)]
pub struct Counters {
    records_in: AtomicU64,
    bytes_in: AtomicU64,
    duplicates: AtomicU64,
    records_out: AtomicU64,
    bytes_out: AtomicU64,
    /// One per code, in the order of [`ErrorCode::ALL`].
    refused: Box<[AtomicU64]>,
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
    /// Errors answered, for whole requests and for items; codes that were never answered are left out.
    pub refused: Vec<(ErrorCode, u64)>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            records_in: AtomicU64::default(),
            bytes_in: AtomicU64::default(),
            duplicates: AtomicU64::default(),
            records_out: AtomicU64::default(),
            bytes_out: AtomicU64::default(),
            refused: ErrorCode::ALL.iter().map(|_| AtomicU64::default()).collect(),
        }
    }
}

impl Counters {
    /// The totals now.
    pub fn now(&self) -> CountersNow {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let refused = ErrorCode::ALL.iter().zip(&self.refused);
        CountersNow {
            records_in: get(&self.records_in),
            bytes_in: get(&self.bytes_in),
            duplicates: get(&self.duplicates),
            records_out: get(&self.records_out),
            bytes_out: get(&self.bytes_out),
            refused: refused
                .map(|(code, counter)| (*code, get(counter)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }

    pub(super) fn appended(&self, records: u32, bytes: u32) {
        add(&self.records_in, u64::from(records));
        add(&self.bytes_in, u64::from(bytes));
    }

    pub(super) fn duplicate(&self) {
        add(&self.duplicates, 1);
    }

    pub(super) fn fetched(&self, records: u64, bytes: u64) {
        add(&self.records_out, records);
        add(&self.bytes_out, bytes);
    }

    /// Counts the errors in an answer.
    pub(super) fn count(&self, reply: &Reply) {
        match reply {
            Err(error) => self.refused(error.code),
            Ok(Response::Metadata(answer)) => self.refused_items(answer.topics.iter().map(|(_, item)| item)),
            Ok(Response::ListOffsets(items)) => self.refused_items(items),
            Ok(Response::Produce(produced)) => self.refused_items(&produced.partitions),
            Ok(Response::Fetch(fetched)) => self.refused_items(&fetched.partitions),
            Ok(Response::FetchOffsets(offsets)) => self.refused_items(offsets),
            Ok(
                Response::CreateTopic(_)
                | Response::DeleteTopic(_)
                | Response::DescribeTopic(_)
                | Response::ListTopics(_)
                | Response::InitProducer(_)
                | Response::CommitOffsets(_),
            ) => {}
        }
    }

    fn refused_items<'a, T: 'a>(&self, items: impl IntoIterator<Item = &'a Result<T, crate::api::ApiError>>) {
        for error in items.into_iter().filter_map(|item| item.as_ref().err()) {
            self.refused(error.code);
        }
    }

    fn refused(&self, code: ErrorCode) {
        let counters = ErrorCode::ALL.iter().zip(&self.refused);
        for (_, counter) in counters.filter(|(at, _)| **at == code) {
            add(counter, 1);
        }
    }
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
