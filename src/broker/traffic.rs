//! What is counted per topic. Lives with the topic, so that its numbers end with it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::Broker;
use crate::model::{Lsn, Timestamp, TopicName};
use crate::storage::{LogStore, PartitionLog};

/// Counters of one topic; all partitions add to them.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    records_in: AtomicU64,
    bytes_in: AtomicU64,
    batches_in: AtomicU64,
    duplicates: AtomicU64,
    records_out: AtomicU64,
    bytes_out: AtomicU64,
    /// In ms since 1970; 0: nothing was appended since the start.
    last_append: AtomicI64,
}

/// A topic's numbers at one moment: counters since the start, and sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicNow {
    /// Which topic.
    pub name: TopicName,
    /// Records appended.
    pub records_in: u64,
    /// Bytes of the batches appended.
    pub bytes_in: u64,
    /// Batches appended.
    pub batches_in: u64,
    /// Batches that had been appended before.
    pub duplicates: u64,
    /// Records fetched.
    pub records_out: u64,
    /// Bytes of the batches fetched.
    pub bytes_out: u64,
    /// When a batch was appended last; `None`: not since the start.
    pub last_append: Option<Timestamp>,
    /// Idempotent producers that are remembered, over all partitions.
    pub producers: u64,
    /// Its partitions, from 0.
    pub partitions: Vec<PartitionNow>,
}

/// A partition's sizes at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionNow {
    /// First readable offset.
    pub log_start: i64,
    /// End of the visible records, exclusive.
    pub high_watermark: i64,
    /// Visible records.
    pub records: u64,
    /// Bytes of batches.
    pub size_bytes: u64,
    /// Segment files.
    pub segments: u32,
    /// Damaged ranges of offsets.
    pub quarantined: u64,
}

impl Traffic {
    pub(super) fn appended(&self, records: u32, bytes: u32, at: Timestamp) {
        add(&self.records_in, records.into());
        add(&self.bytes_in, bytes.into());
        add(&self.batches_in, 1);
        self.last_append.fetch_max(at.0, Ordering::Relaxed);
    }

    pub(super) fn duplicate(&self) {
        add(&self.duplicates, 1);
    }

    pub(super) fn fetched(&self, records: u64, bytes: u64) {
        add(&self.records_out, records);
        add(&self.bytes_out, bytes);
    }
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl<S: LogStore> Broker<S> {
    /// The numbers of every topic of users, in the order of their names.
    pub fn topics_now(&self) -> Vec<TopicNow> {
        let durable = self.durable_lsn();
        let mut topics: Vec<_> = self
            .registry
            .all()
            .iter()
            .map(|handle| topic_now(handle, durable))
            .collect();
        topics.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        topics
    }
}

fn topic_now<L: PartitionLog>(handle: &super::TopicHandle<L>, durable: Lsn) -> TopicNow {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let traffic = &handle.traffic;
    let last_append = Timestamp(traffic.last_append.load(Ordering::Relaxed));
    let producers = handle.partitions.iter().map(|p| p.lock().producers() as u64);
    TopicNow {
        name: handle.topic.name.clone(),
        records_in: get(&traffic.records_in),
        bytes_in: get(&traffic.bytes_in),
        batches_in: get(&traffic.batches_in),
        duplicates: get(&traffic.duplicates),
        records_out: get(&traffic.records_out),
        bytes_out: get(&traffic.bytes_out),
        last_append: (last_append.0 > 0).then_some(last_append),
        producers: producers.sum(),
        partitions: handle
            .partitions
            .iter()
            .map(|partition| partition_now(&*partition.log, durable))
            .collect(),
    }
}

fn partition_now<L: PartitionLog>(log: &L, durable: Lsn) -> PartitionNow {
    let (bounds, stats) = (log.bounds(durable), log.stats());
    PartitionNow {
        log_start: bounds.log_start.get(),
        high_watermark: bounds.high_watermark.get(),
        records: bounds.high_watermark.since(bounds.log_start),
        size_bytes: stats.size_bytes,
        segments: stats.segments,
        quarantined: stats.quarantined.len() as u64,
    }
}
