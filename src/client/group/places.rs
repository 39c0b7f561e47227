//! How far a member is in the partitions that it holds, and the readers of those that it reads. Synchronous: it lives under one
//! short lock.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::membership::Orders;
use super::record::{GroupBatch, GroupRecord};
use crate::client::consumer::bounds_behind;
use crate::client::error::NoPlace;
use crate::client::reader::PartitionReader;
use crate::client::{ConsumedBatch, ConsumedRecord, Error, LostRange, Membership, Reset, TopicPartition};
use crate::model::{Offset, PartitionId};

/// Ranges of lost records that are remembered for the program; later ones are in the log only.
const LOST_RANGES_MAX: usize = 1_000;

/// One time of holding a partition, and of reading it: the consumer may go back. What was read under an earlier one is nothing to
/// commit under a later one: somebody else may have gone on in between, or it comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Claim {
    tenure: u64,
    pass: u64,
}

/// A place to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) partition: TopicPartition,
    pub(super) claim: Claim,
    /// Everything before was processed.
    pub(super) offset: Offset,
}

/// A partition that is held.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) claim: Claim,
    /// False: it is being handed over, and nothing more is read.
    pub(super) is_assigned: bool,
    /// Where to begin, if the program said so before reading began.
    pub(super) wanted: Option<Offset>,
    reader: Option<PartitionReader>,
    is_paused: bool,
    /// Everything before was processed; `None`: where the group is is not known yet.
    processed: Option<Offset>,
    /// What the broker is known to have.
    committed: Option<Offset>,
    /// Where the group is: what was committed, or where reading began, or where the program wanted to go on.
    group_at: Option<Offset>,
    seen_upto: Option<Offset>,
}

/// All that is held.
#[derive(Debug, Default)]
pub(super) struct Places {
    held: BTreeMap<TopicPartition, Place>,
    /// What was handed out last; it counts as processed when the next one is asked for.
    in_hand: Option<Done>,
    /// Who was read last: the next one has its turn.
    turn: Option<TopicPartition>,
    claims: u64,
    /// To be told to the program.
    pub(super) errors: VecDeque<Error>,
    /// Of which partition the last error was that the program was told.
    pub(super) failed: Option<TopicPartition>,
    /// Nothing more will come.
    pub(super) has_ended: bool,
    /// It is about to leave.
    pub(super) is_closing: bool,
    /// It was told so when it had left already, as far as it knew: nothing that it holds is its to commit.
    pub(super) is_out: bool,
    /// Handed over, and the broker does not know yet.
    pub(super) released: Vec<TopicPartition>,
    pub(super) membership: Option<Membership>,
    /// Why the assignment that was proposed last was not taken.
    pub(super) refused_proposal: Option<Error>,
    pub(super) lost: Vec<LostRange>,
    waker: Option<Waker>,
}

/// Asks one reader for what comes next.
type Ask<T> = fn(&mut PartitionReader, &mut Context<'_>) -> Poll<Option<Result<T, Error>>>;

/// What a reader handed out, with the offset behind it.
type Got<T> = (TopicPartition, Claim, Option<Offset>, T);

impl Places {
    pub(super) fn get(&self, partition: &TopicPartition) -> Option<&Place> {
        self.held.get(partition)
    }

    /// The place, if it has been held ever since.
    pub(super) fn claimed(&mut self, partition: &TopicPartition, claim: Claim) -> Option<&mut Place> {
        let place = self.held.get_mut(partition);
        place.filter(|place| place.claim.tenure == claim.tenure)
    }

    pub(super) fn assigned(&self) -> Vec<TopicPartition> {
        let assigned = self.held.iter().filter(|(_, place)| place.is_assigned);
        assigned.map(|(partition, _)| partition.clone()).collect()
    }

    pub(super) fn all(&self) -> Vec<TopicPartition> {
        self.held.keys().cloned().collect()
    }

    /// Does of the orders what needs no waiting: reading stops at once, what is lost is forgotten, what is new has a claim.
    pub(super) fn obey(&mut self, orders: &Orders) -> Vec<Claim> {
        self.lose(&orders.lose);
        for partition in &orders.release {
            if let Some(place) = self.held.get_mut(partition) {
                (place.is_assigned, place.reader) = (false, None);
            }
        }
        let mut claims = Vec::new();
        for taken in &orders.take {
            self.claims += 1;
            let place = Place {
                claim: Claim {
                    tenure: self.claims,
                    pass: 0,
                },
                is_assigned: true,
                wanted: None,
                reader: None,
                is_paused: false,
                processed: None,
                committed: None,
                group_at: None,
                seen_upto: taken.maybe_seen_upto,
            };
            claims.push(place.claim);
            self.held.insert(taken.partition.clone(), place);
        }
        self.wake();
        claims
    }

    /// Forgets partitions: nothing is read or committed of them any more.
    pub(super) fn lose(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.held.remove(partition);
        }
        if self
            .in_hand
            .as_ref()
            .is_some_and(|done| partitions.contains(&done.partition))
        {
            self.in_hand = None;
        }
    }

    /// Begins to read, if the partition is still assigned as it was.
    pub(super) fn begin(
        &mut self,
        partition: &TopicPartition,
        claim: Claim,
        (start, committed): (Offset, Option<Offset>),
        read: impl FnOnce(Offset) -> PartitionReader,
    ) {
        let Some(place) = self.claimed(partition, claim).filter(|place| place.is_assigned) else {
            return;
        };
        let start = place.wanted.take().unwrap_or(start);
        (place.processed, place.committed) = (Some(start), committed);
        place.group_at = Some(start);
        place.reader = Some(read(start));
        self.wake();
    }

    /// Ends all reading: what is in hand is not processed any more.
    pub(super) fn stop_reading(&mut self) {
        for place in self.held.values_mut() {
            (place.is_assigned, place.reader) = (false, None);
        }
        self.in_hand = None;
        self.wake();
    }

    /// Nothing more will come; `error` is the last that is told.
    pub(super) fn end(&mut self, error: Option<Error>) -> Vec<TopicPartition> {
        self.stop_reading();
        self.errors.extend(error);
        self.has_ended = true;
        std::mem::take(&mut self.held).into_keys().collect()
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// What was handed out is processed. True if there was something.
    pub(super) fn settle(&mut self) -> bool {
        let Some(done) = self.in_hand.take() else {
            return false;
        };
        if let Some(place) = self.claimed(&done.partition, done.claim) {
            place.processed = Some(done.offset);
        }
        true
    }

    /// These partitions with the claims to them, if they are held.
    pub(super) fn claims(&self, partitions: &[TopicPartition]) -> Vec<(TopicPartition, Claim)> {
        let held = partitions.iter();
        let held = held.filter_map(|at| Some((at.clone(), self.get(at)?.claim)));
        held.collect()
    }

    /// Those of these partitions that are still held as they were.
    pub(super) fn held_as(&self, claimed: &[(TopicPartition, Claim)]) -> Vec<TopicPartition> {
        let same = |(at, claim): &&(TopicPartition, Claim)| {
            self.get(at)
                .is_some_and(|place| place.claim.tenure == claim.tenure)
        };
        claimed.iter().filter(same).map(|(at, _)| at.clone()).collect()
    }

    /// Whether something of these partitions, as they were held, was handed out and is not processed yet.
    pub(super) fn is_in_hand(&self, claimed: &[(TopicPartition, Claim)]) -> bool {
        self.in_hand.as_ref().is_some_and(|done| {
            let mut claimed = claimed.iter();
            claimed.any(|(at, claim)| *at == done.partition && claim.tenure == done.claim.tenure)
        })
    }

    /// What was processed and is not committed, of these partitions or of all.
    pub(super) fn uncommitted(&self, of: Option<&[TopicPartition]>) -> Vec<Done> {
        let wanted = |partition: &TopicPartition| of.is_none_or(|of| of.contains(partition));
        let held = self.held.iter().filter(|(partition, _)| wanted(partition));
        let news = held.filter_map(|(partition, place)| {
            let offset = place.processed.filter(|_| place.processed != place.committed)?;
            Some(Done {
                partition: partition.clone(),
                claim: place.claim,
                offset,
            })
        });
        news.collect()
    }

    /// Those that have not been held ever since.
    pub(super) fn gone(&self, wanted: &[Done]) -> Vec<TopicPartition> {
        let held = |done: &Done| {
            let place = self.get(&done.partition);
            place.is_some_and(|place| place.claim.tenure == done.claim.tenure)
        };
        let gone = wanted.iter().filter(|done| !held(done));
        gone.map(|done| done.partition.clone()).collect()
    }

    /// Those that are not held any more, or are read again.
    pub(super) fn not_held(&self, wanted: &[Done]) -> Vec<TopicPartition> {
        let held = |done: &Done| {
            self.get(&done.partition)
                .is_some_and(|place| place.claim == done.claim)
        };
        let lost = wanted.iter().filter(|done| self.is_out || !held(done));
        lost.map(|done| done.partition.clone()).collect()
    }

    pub(super) fn committed(&mut self, done: &[Done]) {
        for done in done {
            if let Some(place) = self.claimed(&done.partition, done.claim) {
                place.committed = Some(done.offset);
                place.group_at = place.committed;
                place.processed = place.processed.max(place.committed);
            }
        }
    }

    /// A step was taken: what it was made of is committed, and processed.
    pub(super) fn stepped(&mut self, done: &[Done]) {
        self.committed(done);
        if self
            .in_hand
            .as_ref()
            .is_some_and(|in_hand| done.contains(in_hand))
        {
            self.settle();
        }
        // Where the consumer went back while it was not known, it went too far.
        let again = self.not_held(done);
        let again = done.iter().filter(|done| again.contains(&done.partition));
        self.go_back(&again.cloned().collect::<Vec<_>>());
    }

    /// A step was not taken, or nobody knew whether it was until now: its partitions go on where the group is. What was handed out
    /// behind that place comes again, and what the program still has of it can be committed no more.
    pub(super) fn go_back(&mut self, done: &[Done]) {
        for done in done {
            let Some(place) = self.claimed(&done.partition, done.claim) else {
                continue;
            };
            place.claim.pass += 1;
            if let (Some(reader), Some(to)) = (&mut place.reader, place.group_at) {
                place.seen_upto = place.seen_upto.max(Some(reader.position()));
                place.processed = Some(to);
                reader.seek(to);
            }
            let in_hand = self.in_hand.as_ref();
            if in_hand.is_some_and(|in_hand| in_hand.partition == done.partition) {
                self.in_hand = None;
            }
        }
        self.wake();
    }

    /// A partition by its names, if it is held.
    pub(super) fn named(&self, topic: &str, partition: PartitionId) -> Option<&TopicPartition> {
        let mut held = self.held.keys();
        held.find(|at| *at.topic == *topic && at.partition == partition)
    }

    /// Offset of the next record that is handed out.
    pub(super) fn position(&self, partition: &TopicPartition) -> Option<Offset> {
        let place = self.get(partition)?;
        let reader = place.reader.as_ref().map(PartitionReader::position);
        reader.or(place.wanted).or(place.processed)
    }

    /// Goes on elsewhere; that is then how far the group is. False: the partition is not assigned.
    pub(super) fn seek(&mut self, partition: &TopicPartition, offset: Offset) -> bool {
        let Some(place) = self.held.get_mut(partition).filter(|place| place.is_assigned) else {
            return false;
        };
        match &mut place.reader {
            Some(reader) => {
                reader.seek(offset);
                (place.processed, place.group_at) = (Some(offset), Some(offset));
            }
            None => place.wanted = Some(offset),
        }
        if self
            .in_hand
            .as_ref()
            .is_some_and(|done| done.partition == *partition)
        {
            self.in_hand = None;
        }
        self.wake();
        true
    }

    /// Stops or goes on handing out. False: the partition is not assigned.
    pub(super) fn pause(&mut self, partition: &TopicPartition, pause: bool) -> bool {
        let Some(place) = self.held.get_mut(partition).filter(|place| place.is_assigned) else {
            return false;
        };
        place.is_paused = pause;
        self.wake();
        true
    }

    pub(super) fn poll_record(
        &mut self,
        context: &mut Context<'_>,
        reset: (&str, Reset),
    ) -> Poll<Option<Result<GroupRecord, Error>>> {
        let polled = self.poll(
            context,
            reset,
            PartitionReader::poll_record,
            |record: &ConsumedRecord| record.offset.next(),
        );
        polled.map_ok(|(_, claim, seen_upto, record)| GroupRecord {
            redelivered: seen_upto.is_some_and(|upto| record.offset < upto),
            record,
            claim,
        })
    }

    pub(super) fn poll_batch(
        &mut self,
        context: &mut Context<'_>,
        reset: (&str, Reset),
    ) -> Poll<Option<Result<GroupBatch, Error>>> {
        let polled = self.poll(
            context,
            reset,
            PartitionReader::poll_batch,
            |batch: &ConsumedBatch| batch.header.last_offset().next(),
        );
        polled.map_ok(|(partition, claim, maybe_seen_upto, batch)| GroupBatch {
            partition,
            batch,
            maybe_seen_upto,
            claim,
        })
    }

    /// Asks the readers in turn, beginning behind the one that was read last.
    fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        (group, reset): (&str, Reset),
        ask: Ask<T>,
        behind: fn(&T) -> Offset,
    ) -> Poll<Option<Result<Got<T>, Error>>> {
        if let Some(error) = self.errors.pop_front() {
            self.failed = None;
            return Poll::Ready(Some(Err(error)));
        }
        if self.has_ended {
            return Poll::Ready(None);
        }
        let turn = self.turn.take();
        let (after, upto) = match &turn {
            Some(turn) => (Bound::Excluded(turn), Bound::Included(turn)),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let mut order = Vec::new();
        for range in [(after, Bound::Unbounded), (Bound::Unbounded, upto)] {
            // Without a turn the first range is everything already.
            if turn.is_none() && !order.is_empty() {
                break;
            }
            let held = self.held.range::<TopicPartition, _>(range);
            let readable = held.filter(|(_, place)| place.reader.is_some() && !place.is_paused);
            order.extend(readable.map(|(partition, _)| partition.clone()));
        }
        for partition in order {
            while let Some(place) = self.held.get_mut(&partition) {
                let Some(reader) = place.reader.as_mut() else {
                    break;
                };
                let got = match ask(reader, context) {
                    // After an error that was told, a reader says no more until somebody seeks.
                    Poll::Pending | Poll::Ready(None) => break,
                    Poll::Ready(Some(got)) => got,
                };
                let error = match got {
                    Ok(got) => {
                        let (claim, seen_upto) = (place.claim, place.seen_upto);
                        self.in_hand = Some(Done {
                            partition: partition.clone(),
                            claim,
                            offset: behind(&got),
                        });
                        self.turn = Some(partition.clone());
                        return Poll::Ready(Some(Ok((partition, claim, seen_upto, got))));
                    }
                    Err(error) => error,
                };
                match after_error(reader, &partition, (group, reset), error) {
                    Ok(lost) => self.note_lost(lost),
                    Err(error) => {
                        self.failed = Some(partition);
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
        }
        self.turn = turn;
        self.waker = Some(context.waker().clone());
        Poll::Pending
    }

    pub(super) fn note_lost(&mut self, lost: LostRange) {
        tracing::warn!(topic = %lost.topic, partition = %lost.partition, first = %lost.first, last = %lost.last, "records went before their group had read them");
        if self.lost.len() < LOST_RANGES_MAX {
            self.lost.push(lost);
        }
    }
}

/// Moves a reader whose records went before it had read them, if the reset policy says where to.
fn after_error(
    reader: &mut PartitionReader,
    partition: &TopicPartition,
    (group, reset): (&str, Reset),
    error: Error,
) -> Result<LostRange, Error> {
    let Some((log_start, high_watermark)) = bounds_behind(&error, reader.position()) else {
        return Err(error);
    };
    let lost = LostRange {
        topic: Arc::clone(&partition.topic),
        partition: partition.partition,
        first: reader.position(),
        last: Offset::new(log_start.get() - 1).unwrap_or_default(),
    };
    match reset {
        Reset::Earliest => reader.seek(log_start),
        Reset::Latest => reader.seek(high_watermark),
        Reset::Error => {
            return Err(Error::NoPlace(Box::new(NoPlace {
                group: group.to_owned(),
                topic: partition.topic.as_ref().to_owned(),
                partition: partition.partition,
                lost: Some((lost.first, lost.last)),
            })));
        }
    }
    Ok(lost)
}
