//! Where records wait to become batches. Knows nothing of sending: the sender takes what is ready.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::ticket::{BatchTicket, Completion, Ticket};
use super::{PreparedBatch, ProducerRecord};
use crate::client::Error;
use crate::client::partitioner::partition_for_key;
use crate::model::{Timestamp, TopicId};
use crate::record::{BatchBuilder, Codec, SealedBatch};

/// What a producer knows about a topic.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    pub(super) id: TopicId,
    pub(super) partitions: u32,
    /// No batch may be larger.
    pub(super) batch_bytes_max: u32,
    /// A batch of this size is closed.
    pub(super) batch_bytes: usize,
    /// Slot of each partition. One that a topic got later has its slot behind those of other topics.
    pub(super) slots: Vec<usize>,
    /// Partition of records without a key, until its batch is closed. Shared by what was known of the topic before, so it
    /// may lie beyond the partitions known there.
    pub(super) sticky: Arc<AtomicU32>,
}

/// What a broker says about a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) partitions: u32,
    pub(super) batch_bytes_max: u32,
    pub(super) batch_bytes: usize,
}

impl Topic {
    fn is(&self, described: &Described) -> bool {
        let Described {
            partitions,
            batch_bytes_max,
            batch_bytes,
        } = *described;
        (self.partitions, self.batch_bytes_max, self.batch_bytes)
            == (partitions, batch_bytes_max, batch_bytes)
    }

    fn slot(&self, partition: u32) -> usize {
        self.slots[index(partition)]
    }

    fn sticky_partition(&self) -> u32 {
        self.sticky.load(Ordering::Relaxed) % self.partitions.max(1)
    }
}

/// A batch of so many bytes is compressed where it is taken: a hop to another thread costs more than its work.
const INLINE_COMPRESSION_BYTES_MAX: usize = 16 << 10;

/// A batch to be sent.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) sealed: SealedBatch,
    pub(super) records: u32,
    /// Bytes that it holds of the producer's buffer.
    pub(super) buffered: u32,
    pub(super) number: u64,
    pub(super) completion: Arc<Completion>,
    pub(super) since: Duration,
}

/// A batch that takes no more records. Encoding it is left to whoever takes it, outside of the lock.
#[derive(Debug)]
pub(super) struct Closed {
    contents: Contents,
    buffered: u32,
    number: u64,
    completion: Arc<Completion>,
    since: Duration,
}

#[derive(Debug)]
enum Contents {
    Records(BatchBuilder),
    Sealed(SealedBatch),
}

impl Closed {
    /// Whether encoding it compresses much, which is no work for a thread that drives connections.
    pub(super) fn is_much_work(&self) -> bool {
        match &self.contents {
            Contents::Records(builder) => {
                builder.codec() != Codec::None && builder.encoded_bytes() > INLINE_COMPRESSION_BYTES_MAX
            }
            Contents::Sealed(_) => false,
        }
    }

    /// Encodes it.
    pub(super) fn seal(self) -> Batch {
        let sealed = match self.contents {
            Contents::Records(builder) => builder.seal(None),
            Contents::Sealed(sealed) => sealed,
        };
        Batch {
            records: sealed.header().count,
            sealed,
            buffered: self.buffered,
            number: self.number,
            completion: self.completion,
            since: self.since,
        }
    }
}

/// A batch that takes more records.
#[derive(Debug)]
struct OpenBatch {
    builder: BatchBuilder,
    buffered: u32,
    number: u64,
    completion: Arc<Completion>,
    since: Duration,
}

impl OpenBatch {
    fn close(self) -> Closed {
        Closed {
            contents: Contents::Records(self.builder),
            buffered: self.buffered,
            number: self.number,
            completion: self.completion,
            since: self.since,
        }
    }
}

/// One partition.
#[derive(Debug)]
struct Slot {
    topic: Arc<Topic>,
    partition: u32,
    open: Option<OpenBatch>,
    closed: Vec<Closed>,
}

/// All partitions that this producer has sent to.
// Invariant: `active` are the slots with an open or a closed batch; `unanswered` has every batch without an answer.
#[derive(Debug, Default)]
pub(super) struct Accumulator {
    slots: Vec<Slot>,
    active: BTreeSet<usize>,
    unanswered: BTreeMap<u64, Arc<Completion>>,
    next_number: u64,
    flush: bool,
    ended: bool,
    codec: Codec,
}

/// A record with its place and its share of the buffer.
#[derive(Debug)]
pub(super) struct Accepted<'a> {
    pub(super) topic: &'a Topic,
    pub(super) record: &'a ProducerRecord,
    pub(super) timestamp: Timestamp,
    pub(super) buffered: u32,
    pub(super) now: Duration,
}

/// A ticket, and whether the sender has something new to look at.
#[derive(Debug)]
pub(super) struct Added<T> {
    pub(super) ticket: T,
    pub(super) wake: bool,
}

impl Accumulator {
    /// A topic as the broker describes it, with places for its partitions. Partitions that have a place keep it: a second
    /// one would begin their sequences again, and the broker would take their records for duplicates.
    pub(super) fn topic(&mut self, name: &str, id: TopicId, described: Described) -> Arc<Topic> {
        let known = self.slots.iter().find(|slot| slot.topic.id == id);
        let known = known.map(|slot| slot.topic.clone());
        if let Some(known) = known.as_ref().filter(|known| known.is(&described)) {
            return known.clone();
        }
        let partitions = described.partitions.max(1);
        let (name, mut slots, sticky) = match known {
            Some(known) => (known.name.clone(), known.slots.clone(), known.sticky.clone()),
            None => {
                let sticky = AtomicU32::new(fastrand::u32(0..partitions));
                (Arc::from(name), Vec::new(), Arc::new(sticky))
            }
        };
        let has = slots.len();
        // Partitions are never removed, so there are at least those that have a place.
        let more = index(partitions).saturating_sub(has);
        slots.extend((self.slots.len()..).take(more));
        let topic = Arc::new(Topic {
            name,
            id,
            partitions: u32::try_from(slots.len()).unwrap_or(u32::MAX),
            batch_bytes_max: described.batch_bytes_max,
            batch_bytes: described.batch_bytes,
            slots,
            sticky,
        });
        for slot in &topic.slots[..has] {
            self.slots[*slot].topic = topic.clone();
        }
        for partition in (0..topic.partitions).skip(has) {
            self.slots.push(Slot {
                topic: topic.clone(),
                partition,
                open: None,
                closed: Vec::new(),
            });
        }
        topic
    }

    /// Which topic and partition a slot is.
    pub(super) fn place(&self, slot: usize) -> (Arc<Topic>, u32) {
        let slot = &self.slots[slot];
        (slot.topic.clone(), slot.partition)
    }

    /// Number of slots.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Batches of records that are opened from now on are compressed.
    pub(super) fn compressing(codec: Codec) -> Self {
        Self {
            codec,
            ..Self::default()
        }
    }

    /// Adds a record to the open batch of its partition.
    pub(super) fn add(&mut self, accepted: &Accepted<'_>) -> Result<Added<Ticket>, Error> {
        self.check_not_ended()?;
        let Accepted {
            topic,
            record,
            timestamp,
            buffered,
            now,
        } = *accepted;
        let sticky = record.partition.is_none() && record.key.is_none();
        let mut at = topic.slot(partition_of(topic, record));
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let mut wake = false;
        if let Some(open) = &self.slots[at].open {
            let bytes = open
                .builder
                .encoded_bytes_with(timestamp, key, value, &record.headers);
            if bytes > topic.batch_bytes {
                self.close(at);
                wake = true;
                if sticky {
                    at = topic.slot(topic.sticky_partition());
                }
            }
        }
        if self.slots[at].open.is_none() {
            wake = true;
            let (number, completion) = self.new_completion();
            // A new topic's first batches are often single records, so room for a whole batch is not taken at once.
            self.slots[at].open = Some(OpenBatch {
                builder: BatchBuilder::new().compressed(self.codec),
                buffered: 0,
                number,
                completion,
                since: now,
            });
            self.active.insert(at);
        }
        let open = self.slots[at]
            .open
            .as_mut()
            .expect("made above if there was none");
        open.builder.push(timestamp, key, value, &record.headers);
        open.buffered = open.buffered.saturating_add(buffered);
        let ticket = Ticket::new(open.completion.clone(), open.builder.count() - 1);
        if open.builder.encoded_bytes() >= topic.batch_bytes {
            self.close(at);
            wake = true;
        }
        Ok(Added { ticket, wake })
    }

    /// Adds a whole batch behind everything that its partition has.
    pub(super) fn add_batch(
        &mut self,
        topic: &Topic,
        partition: u32,
        batch: PreparedBatch,
        buffered: u32,
        now: Duration,
    ) -> Result<Added<BatchTicket>, Error> {
        self.check_not_ended()?;
        let at = topic.slot(partition);
        self.close(at);
        let (number, completion) = self.new_completion();
        let ticket = BatchTicket::new(completion.clone());
        self.slots[at].closed.push(Closed {
            contents: Contents::Sealed(batch.sealed),
            buffered,
            number,
            completion,
            since: now,
        });
        self.active.insert(at);
        Ok(Added { ticket, wake: true })
    }

    /// Everything that has no answer yet; what is open is to be sent without waiting for more.
    pub(super) fn begin_flush(&mut self) -> Vec<Arc<Completion>> {
        self.flush = true;
        self.unanswered.values().cloned().collect()
    }

    /// No more records are taken.
    pub(super) fn end(&mut self) {
        self.ended = true;
        self.flush = true;
    }

    /// True once nothing comes any more and everything has its answer.
    pub(super) fn is_finished(&self) -> bool {
        self.ended && self.unanswered.is_empty()
    }

    /// A batch has its answer.
    pub(super) fn answered(&mut self, number: u64) {
        self.unanswered.remove(&number);
    }

    /// Takes the batches that are to be sent now. `wants` says of a slot whether its partition could send another batch,
    /// `idle` whether nothing at all is in flight, in which case nothing waits for more. Returns when the next open batch
    /// has waited long enough.
    pub(super) fn take_ready(
        &mut self,
        now: Duration,
        linger: Duration,
        idle: bool,
        wants: impl Fn(usize) -> bool,
        mut take: impl FnMut(usize, Closed),
    ) -> Option<Duration> {
        let mut wakes_at = None;
        for at in self.active.clone() {
            if let Some(open) = &self.slots[at].open {
                let ripe = open.since + linger;
                if self.flush || (wants(at) && (idle || ripe <= now)) {
                    self.close(at);
                } else if ripe > now {
                    wakes_at = Some(wakes_at.map_or(ripe, |t: Duration| t.min(ripe)));
                }
            }
            let slot = &mut self.slots[at];
            for batch in slot.closed.drain(..) {
                take(at, batch);
            }
            if slot.open.is_none() {
                self.active.remove(&at);
            }
        }
        self.flush = false;
        wakes_at
    }

    fn close(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        let Some(open) = slot.open.take() else { return };
        slot.closed.push(open.close());
        let (topic, partition) = (&slot.topic, slot.partition);
        // Records without a key go on to the next partition when their batch is closed.
        let next = (partition + 1) % topic.partitions.max(1);
        let _ = topic
            .sticky
            .compare_exchange(partition, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn new_completion(&mut self) -> (u64, Arc<Completion>) {
        let number = self.next_number;
        self.next_number += 1;
        let completion = Arc::new(Completion::default());
        self.unanswered.insert(number, completion.clone());
        (number, completion)
    }

    fn check_not_ended(&self) -> Result<(), Error> {
        if self.ended {
            return Err(Error::Usage("the producer is closed".into()));
        }
        Ok(())
    }
}

fn partition_of(topic: &Topic, record: &ProducerRecord) -> u32 {
    match (record.partition, &record.key) {
        (Some(partition), _) => partition,
        (None, Some(key)) => partition_for_key(key, topic.partitions),
        (None, None) => topic.sticky_partition(),
    }
}

fn index(partition: u32) -> usize {
    usize::try_from(partition).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accumulator(partitions: u32, batch_bytes: usize) -> (Accumulator, Arc<Topic>) {
        let mut accumulator = Accumulator::default();
        let described = Described {
            partitions,
            batch_bytes_max: 1 << 20,
            batch_bytes,
        };
        let topic = accumulator.topic("orders", TopicId::from_bytes([9; 16]), described);
        topic.sticky.store(0, Ordering::Relaxed);
        (accumulator, topic)
    }

    fn add(accumulator: &mut Accumulator, topic: &Topic, record: &ProducerRecord) -> bool {
        let accepted = Accepted {
            topic,
            record,
            timestamp: Timestamp(1),
            buffered: 10,
            now: Duration::ZERO,
        };
        accumulator.add(&accepted).unwrap().wake
    }

    fn ready(accumulator: &mut Accumulator, now_ms: u64, idle: bool) -> Vec<(usize, u32)> {
        let mut taken = Vec::new();
        let now = Duration::from_millis(now_ms);
        let linger = Duration::from_millis(5);
        accumulator.take_ready(
            now,
            linger,
            idle,
            |_| true,
            |at, closed| taken.push((at, closed.seal().records)),
        );
        taken
    }

    #[test]
    fn only_what_compresses_much_is_work_for_another_thread() {
        for (codec, bytes, much) in [
            (Codec::None, 100_000, false),
            (Codec::Zstd, 1_000, false),
            (Codec::Zstd, 100_000, true),
        ] {
            let mut builder = BatchBuilder::new().compressed(codec);
            builder.push(Timestamp(1), None, Some(&vec![7; bytes]), &[]);
            let closed = OpenBatch {
                builder,
                buffered: 0,
                number: 0,
                completion: Arc::default(),
                since: Duration::ZERO,
            }
            .close();
            assert_eq!(closed.is_much_work(), much, "{codec}, {bytes} bytes");
            assert_eq!(Codec::of(closed.seal().sealed.header()), Ok(codec));
        }
    }

    #[test]
    fn partitions_that_a_topic_gets_have_places_and_the_others_keep_theirs() {
        let (mut accumulator, before) = accumulator(2, 1_000);
        let other = Described {
            partitions: 1,
            batch_bytes_max: 1 << 20,
            batch_bytes: 1_000,
        };
        accumulator.topic("other", TopicId::from_bytes([8; 16]), other);
        let grown = Described {
            partitions: 4,
            batch_bytes: 90,
            ..other
        };
        let after = accumulator.topic("orders", before.id, grown);
        assert_eq!((after.partitions, after.batch_bytes), (4, 90));
        assert_eq!(after.slots, [0, 1, 3, 4]);
        let places: Vec<_> = (0..5).map(|slot| accumulator.place(slot)).collect();
        let places: Vec<_> = places.iter().map(|(topic, p)| (&*topic.name, *p)).collect();
        assert_eq!(
            places,
            [
                ("orders", 0),
                ("orders", 1),
                ("other", 0),
                ("orders", 2),
                ("orders", 3)
            ]
        );
        assert!(Arc::ptr_eq(&accumulator.place(0).0, &after));
        assert!(Arc::ptr_eq(
            &accumulator.topic("orders", before.id, grown),
            &after
        ));
        // Who still has the older view writes to what it knows, and those with the newer one go round all of them.
        let record = ProducerRecord::to("orders").value(vec![0; 40]);
        before.sticky.store(3, Ordering::Relaxed);
        add(&mut accumulator, &before, &record);
        add(&mut accumulator, &after, &record);
        assert_eq!(ready(&mut accumulator, 9, true), [(1, 1), (4, 1)]);
    }

    #[test]
    fn a_lone_record_does_not_wait_for_more() {
        let (mut accumulator, topic) = accumulator(1, 1_000);
        assert!(add(
            &mut accumulator,
            &topic,
            &ProducerRecord::to("orders").value("a")
        ));
        assert_eq!(ready(&mut accumulator, 0, true), [(0, 1)]);
    }

    #[test]
    fn while_something_is_in_flight_a_batch_waits_for_the_linger_time() {
        let (mut accumulator, topic) = accumulator(1, 1_000);
        add(&mut accumulator, &topic, &ProducerRecord::to("orders").value("a"));
        assert!(!add(
            &mut accumulator,
            &topic,
            &ProducerRecord::to("orders").value("b")
        ));
        assert_eq!(ready(&mut accumulator, 4, false), []);
        assert_eq!(ready(&mut accumulator, 5, false), [(0, 2)]);
    }

    #[test]
    fn records_without_a_key_fill_one_partition_and_go_on_to_the_next() {
        let (mut accumulator, topic) = accumulator(3, 200);
        for _ in 0..7 {
            add(
                &mut accumulator,
                &topic,
                &ProducerRecord::to("orders").value(vec![0; 40]),
            );
        }
        // 61 bytes of header and 47 a record: two fit 200 bytes.
        assert_eq!(
            ready(&mut accumulator, 9, false),
            [(0, 2), (0, 1), (1, 2), (2, 2)]
        );
    }

    #[test]
    fn a_flush_takes_everything_and_waits_for_all_that_has_no_answer() {
        let (mut accumulator, topic) = accumulator(2, 1_000);
        add(
            &mut accumulator,
            &topic,
            &ProducerRecord::to("orders").partition(0).value("a"),
        );
        add(
            &mut accumulator,
            &topic,
            &ProducerRecord::to("orders").partition(1).value("b"),
        );
        assert_eq!(accumulator.begin_flush().len(), 2);
        assert_eq!(ready(&mut accumulator, 0, false), [(0, 1), (1, 1)]);
        accumulator.answered(0);
        assert_eq!(accumulator.begin_flush().len(), 1);
        accumulator.end();
        assert!(!accumulator.is_finished());
        accumulator.answered(1);
        assert!(accumulator.is_finished());
        let record = ProducerRecord::to("orders");
        let accepted = Accepted {
            topic: &topic,
            record: &record,
            timestamp: Timestamp(1),
            buffered: 0,
            now: Duration::ZERO,
        };
        assert!(matches!(accumulator.add(&accepted), Err(Error::Usage(_))));
    }

    #[test]
    fn a_whole_batch_comes_behind_the_records_before_it() {
        let (mut accumulator, topic) = accumulator(1, 1_000);
        add(&mut accumulator, &topic, &ProducerRecord::to("orders").value("a"));
        let mut builder = BatchBuilder::new();
        for i in 0..7 {
            builder.push(Timestamp(i), None, None, &[]);
        }
        let added = accumulator.add_batch(&topic, 0, builder.into(), 10, Duration::ZERO);
        assert!(added.unwrap().wake);
        assert_eq!(ready(&mut accumulator, 0, false), [(0, 1), (0, 7)]);
    }
}
