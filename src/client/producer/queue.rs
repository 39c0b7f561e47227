//! The batches of one partition on their way to the broker: what to send next, and what an answer means.
//!
//! Pure: no I/O, no clock, no tasks; time is an argument. Order and sequences are decided here and nowhere else.
//!
//! The rules, in short. Batches are sent in the order in which they were pushed. A batch keeps (producer, epoch, sequence)
//! over all of its attempts. After any failure nothing is sent until everything in flight has been answered; then
//! one batch is sent alone, and only its success opens the window again: a broker that has forgotten this producer
//! accepts any sequence, so a batch must not arrive there before the one in front of it.
//!
//! A batch that is given up leaves a gap in the sequences, and what comes behind it is numbered anew in a new epoch. That is
//! safe only for what surely was not written and never will be. A batch of unknown fate may still lie in the buffers of a
//! broken connection, where no answer to a later attempt says anything about it. So it depends on the batch that is given
//! up. If it surely was not written, nothing behind it can be written under the old numbers: the others are sent again as
//! they are, to be refused, before they are numbered anew. If it may have been written, those behind it may follow it at any
//! time: what is of unknown fate as well is given up with it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::client::Error;
use crate::client::backoff::Backoff;
use crate::client::link::pause_after;
use crate::model::{ErrorCode, ProducerEpoch, ProducerId, Sequence};
use crate::record::ProducerFields;

/// How many batches of a partition may be in flight: so many the broker recognises when they come again.
pub(super) const WINDOW_BATCHES_MAX: u32 = 5;

/// After so long without an append the broker may have forgotten this producer, so the next batch goes alone.
const PROBE_AFTER_IDLE: Duration = Duration::from_secs(3600);

/// Options of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueOptions {
    pub(super) idempotent: bool,
    pub(super) retries: bool,
    pub(super) window_batches: u32,
    pub(super) delivery_timeout: Duration,
    pub(super) backoff: Backoff,
}

/// Number of a batch in its queue, in the order of pushing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BatchNo(u64);

/// Under which name the broker knows this producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Grows with every identity that this producer got.
    pub(super) generation: u64,
    pub(super) id: ProducerId,
    pub(super) epoch: ProducerEpoch,
}

/// A queue cannot go on without an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IdentityNeed {
    /// Its generation must be above this one.
    pub(super) above: u64,
    /// The broker does not know the id any more: its epoch cannot be bumped.
    pub(super) new_id: bool,
}

/// What is known about a batch that has no final answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    NotWritten,
    /// An attempt went without a definite answer.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    InFlight,
    /// Acknowledged, behind one that is not.
    Done,
}

#[derive(Debug)]
struct Entry<B> {
    no: BatchNo,
    /// `None` once it is done.
    batch: Option<B>,
    records: u32,
    deadline: Duration,
    sequence: Option<Sequence>,
    state: State,
    fate: Fate,
    last_error: Option<Error>,
}

/// A batch to be sent now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sending<'a, B> {
    pub(super) no: BatchNo,
    pub(super) batch: &'a mut B,
    /// `None` for a producer that is not idempotent.
    pub(super) producer: Option<ProducerFields>,
}

/// What became of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It will be sent again.
    Again,
    /// It will be sent again under a new identity: the broker does not know batches that it had acknowledged.
    Forgotten,
    /// It is given up, perhaps with others: see [`PartitionQueue::take_failed`].
    Final,
}

/// The batches of one partition that have no answer yet.
// Invariant: `entries` are in the order of `no`; the front is not `Done`; `in_flight` counts `InFlight`.
#[derive(Debug)]
pub(super) struct PartitionQueue<B> {
    options: QueueOptions,
    entries: VecDeque<Entry<B>>,
    in_flight: u32,
    next_no: u64,
    identity: Option<Identity>,
    next_sequence: Sequence,
    /// The broker has appended a batch of this identity over this connection, so it knows the last sequence.
    proven: bool,
    /// Something failed: nothing is sent until `in_flight` is 0.
    settling: bool,
    /// The sequences of the identity cannot go on: one was given up, or the broker does not know those before.
    gap: bool,
    /// The first batch that was given up although it may have been written. Those behind it may follow it at any time.
    uncertain_from: Option<BatchNo>,
    new_id: bool,
    failures: u32,
    not_before: Duration,
    last_success: Duration,
    failed: Vec<(B, Error)>,
}

impl<B> PartitionQueue<B> {
    pub(super) fn new(options: QueueOptions) -> Self {
        Self {
            options,
            entries: VecDeque::new(),
            in_flight: 0,
            next_no: 0,
            identity: None,
            next_sequence: Sequence::ZERO,
            proven: false,
            settling: false,
            gap: false,
            uncertain_from: None,
            new_id: false,
            failures: 0,
            not_before: Duration::ZERO,
            last_success: Duration::ZERO,
            failed: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True if a batch pushed now would be sent as soon as the window allows, behind none that waits.
    ///
    /// An empty queue always has room: only a batch in it makes it ask for the new identity that closes a gap.
    pub(super) fn has_room(&self) -> bool {
        let window = usize::try_from(self.window()).unwrap_or(usize::MAX);
        self.entries.is_empty() || (self.entries.len() < window && !self.settling && !self.gap)
    }

    /// Appends a batch that must be answered before `deadline`.
    pub(super) fn push(&mut self, batch: B, records: u32, deadline: Duration) -> BatchNo {
        let no = BatchNo(self.next_no);
        self.next_no += 1;
        self.entries.push_back(Entry {
            no,
            batch: Some(batch),
            records,
            deadline,
            sequence: None,
            state: State::Waiting,
            fate: Fate::NotWritten,
            last_error: None,
        });
        no
    }

    /// The identity that this queue waits for, if it does.
    pub(super) fn needs_identity(&self) -> Option<IdentityNeed> {
        if !self.options.idempotent || self.entries.is_empty() || self.in_flight > 0 {
            return None;
        }
        match self.identity {
            None => Some(IdentityNeed {
                above: 0,
                new_id: false,
            }),
            Some(identity) if self.gap && !self.has_unknown() => Some(IdentityNeed {
                above: identity.generation,
                new_id: self.new_id,
            }),
            Some(_) => None,
        }
    }

    /// Takes an identity that [`needs_identity`](Self::needs_identity) asked for; all batches are numbered from 0.
    pub(super) fn on_identity(&mut self, identity: Identity) {
        let Some(need) = self.needs_identity() else { return };
        if identity.generation <= need.above {
            return;
        }
        self.identity = Some(identity);
        self.next_sequence = Sequence::ZERO;
        self.gap = false;
        self.uncertain_from = None;
        self.new_id = false;
        self.proven = false;
        for entry in &mut self.entries {
            debug_assert_eq!(
                entry.fate,
                Fate::NotWritten,
                "only what was not written gets another number"
            );
            entry.sequence = None;
        }
    }

    /// The batch to be sent now, which counts as in flight from here on.
    pub(super) fn next_to_send(&mut self, now: Duration) -> Option<Sending<'_, B>> {
        let at = self.find_to_send(now)?;
        let identity = self.identity;
        let entry = &mut self.entries[at];
        let producer = identity.map(|identity| {
            let base_sequence = *entry.sequence.get_or_insert_with(|| {
                let sequence = self.next_sequence;
                self.next_sequence = sequence.plus(entry.records);
                sequence
            });
            ProducerFields {
                id: identity.id,
                epoch: identity.epoch,
                base_sequence,
            }
        });
        entry.state = State::InFlight;
        self.in_flight += 1;
        let batch = entry.batch.as_mut().expect("a batch that is not done is there");
        Some(Sending {
            no: entry.no,
            batch,
            producer,
        })
    }

    /// The batch that [`next_to_send`](Self::next_to_send) would return.
    pub(super) fn peek_to_send(&mut self, now: Duration) -> Option<&B> {
        let at = self.find_to_send(now)?;
        self.entries[at].batch.as_ref()
    }

    /// A batch without an answer.
    pub(super) fn get(&self, no: BatchNo) -> Option<&B> {
        let at = self.entries.binary_search_by_key(&no, |entry| entry.no).ok()?;
        self.entries[at].batch.as_ref()
    }

    fn find_to_send(&mut self, now: Duration) -> Option<usize> {
        if self.in_flight == 0 {
            self.settling = false;
            // The broker may have forgotten a producer that was quiet.
            self.proven &= now.saturating_sub(self.last_success) <= PROBE_AFTER_IDLE;
        }
        let nameless = self.options.idempotent && self.identity.is_none();
        if self.settling || nameless || now < self.not_before {
            return None;
        }
        if self.gap {
            self.next_to_resolve()
        } else {
            self.next_in_window()
        }
    }

    /// With a gap: batches of unknown fate, one by one, under their old numbers.
    fn next_to_resolve(&self) -> Option<usize> {
        let unknown = |entry: &Entry<B>| entry.state == State::Waiting && entry.fate == Fate::Unknown;
        (self.in_flight == 0).then(|| self.entries.iter().position(unknown))?
    }

    /// Without: the first that waits, if it lies in the window. All before it are in flight or done.
    fn next_in_window(&self) -> Option<usize> {
        let window = usize::try_from(self.window()).unwrap_or(usize::MAX);
        let mut window = self.entries.iter().take(window);
        window.position(|entry| entry.state == State::Waiting)
    }

    fn window(&self) -> u32 {
        match (self.options.idempotent, self.options.retries) {
            (true, _) if self.proven => self.options.window_batches.min(WINDOW_BATCHES_MAX),
            (true, _) => 1,
            // Without sequences a retry would overtake what is in flight behind it.
            (false, true) => 1,
            (false, false) => self.options.window_batches,
        }
    }

    /// The broker has the batch. Returns `None` for a batch that is not in flight.
    pub(super) fn on_success(&mut self, no: BatchNo, now: Duration) -> Option<B> {
        let at = self.settle(no)?;
        let entry = &mut self.entries[at];
        entry.state = State::Done;
        entry.fate = Fate::NotWritten;
        let batch = entry.batch.take();
        self.proven = true;
        self.failures = 0;
        self.last_success = now;
        self.drop_done();
        batch
    }

    /// An attempt failed. Returns `None` for a batch that is not in flight.
    pub(super) fn on_failure(&mut self, no: BatchNo, error: Error, now: Duration) -> Option<Failure> {
        let at = self.settle(no)?;
        self.proven = false;
        self.settling = true;
        let failure = match error.code() {
            Some(ErrorCode::OutOfOrderSequence) if self.options.idempotent => {
                self.on_out_of_order(at, &error, now)
            }
            Some(ErrorCode::InvalidProducerEpoch | ErrorCode::UnknownProducerId)
                if self.options.idempotent =>
            {
                self.on_identity_refused(at, error, now)
            }
            _ if self.options.retries && error.is_retriable() => {
                if error.may_have_taken_effect() {
                    self.entries[at].fate = Fate::Unknown;
                }
                self.pause(&error, now);
                self.entries[at].last_error = Some(error);
                Failure::Again
            }
            _ => {
                self.give_up(at, error);
                Failure::Final
            }
        };
        self.give_up_what_cannot_be_resolved();
        Some(failure)
    }

    /// This attempt was not written, because the batch before it was not.
    fn on_out_of_order(&mut self, at: usize, error: &Error, now: Duration) -> Failure {
        let unanswered = |e: &Entry<B>| e.state == State::InFlight || e.fate == Fate::Unknown;
        // An earlier attempt may still be written, behind an earlier attempt of a batch before it.
        let inconclusive = self.entries.iter().take(at).any(unanswered);
        let behind_uncertain = self.is_behind_uncertain(&self.entries[at]);
        match (self.gap, at) {
            // Everything before it was acknowledged, and the broker has forgotten that.
            (false, 0) => {
                self.entries[at].fate = Fate::NotWritten;
                self.gap = true;
                self.pause(error, now);
                Failure::Forgotten
            }
            // What is missing before it will never be written under its number.
            (true, _) if !inconclusive && !behind_uncertain => {
                self.entries[at].fate = Fate::NotWritten;
                Failure::Again
            }
            (_, _) => Failure::Again,
        }
    }

    /// The broker does not accept the identity any more. Whether earlier attempts were written cannot be found out.
    fn on_identity_refused(&mut self, at: usize, error: Error, now: Duration) -> Failure {
        self.new_id |= error.code() == Some(ErrorCode::UnknownProducerId);
        self.pause(&error, now);
        let entry = &mut self.entries[at];
        match entry.fate {
            Fate::NotWritten => {
                entry.last_error = Some(error);
                self.gap = true;
                Failure::Again
            }
            Fate::Unknown => {
                self.give_up(at, error);
                Failure::Final
            }
        }
    }

    fn pause(&mut self, error: &Error, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        let pause = pause_after(error, self.options.backoff, self.failures);
        self.not_before = self.not_before.max(now.saturating_add(pause));
    }

    fn give_up(&mut self, at: usize, error: Error) {
        let entry = self.entries.remove(at).expect("the caller has just found it");
        let uncertain = entry.fate == Fate::Unknown || error.may_have_taken_effect();
        self.gap |= entry.sequence.is_some();
        if uncertain {
            self.uncertain_from = Some(self.uncertain_from.map_or(entry.no, |no| no.min(entry.no)));
        }
        let error = if uncertain {
            error.after_unknown_attempt()
        } else {
            error
        };
        self.drop_done();
        let batch = entry.batch.expect("a batch that is not done is there");
        self.failed.push((batch, error));
    }

    /// Behind a batch that may have been written, others of unknown fate may be written at any time as well.
    fn give_up_what_cannot_be_resolved(&mut self) {
        while let Some(at) = self.entries.iter().position(|entry| {
            entry.state == State::Waiting && entry.fate == Fate::Unknown && self.is_behind_uncertain(entry)
        }) {
            let error = self.entries[at].last_error.take();
            let error = error.unwrap_or_else(|| self.timed_out(None));
            self.give_up(at, error);
        }
    }

    fn is_behind_uncertain(&self, entry: &Entry<B>) -> bool {
        self.uncertain_from.is_some_and(|no| entry.no > no)
    }

    /// The batches that were given up since the last call, and why.
    pub(super) fn take_failed(&mut self) -> Vec<(B, Error)> {
        std::mem::take(&mut self.failed)
    }

    /// Gives up what was not answered in time. What is in flight is not touched: its answer comes, or its connection ends.
    pub(super) fn expire(&mut self, now: Duration) {
        while let Some(front) = self.entries.front_mut()
            && front.state == State::Waiting
            && front.deadline <= now
        {
            let cause = front.last_error.take();
            let error = self.timed_out(cause);
            self.give_up(0, error);
        }
        self.give_up_what_cannot_be_resolved();
    }

    /// Gives up everything that is not in flight.
    pub(super) fn fail_waiting(&mut self, error: &Error) {
        while let Some(at) = self.entries.iter().position(|e| e.state == State::Waiting) {
            self.give_up(at, error.clone());
        }
    }

    fn timed_out(&self, cause: Option<Error>) -> Error {
        Error::Timeout {
            what: "produce",
            after: self.options.delivery_timeout,
            may_have_taken_effect: false,
            cause: cause.map(Box::new),
        }
    }

    /// The next batch goes over another connection, perhaps to a broker that has forgotten something.
    pub(super) fn on_new_connection(&mut self) {
        self.proven = false;
    }

    /// When something may have to be done although nothing happens: a pause ends or a batch expires.
    pub(super) fn wakes_at(&self, now: Duration) -> Option<Duration> {
        let front = self.entries.front()?;
        match front.state {
            State::InFlight | State::Done => None,
            State::Waiting if self.not_before > now => Some(self.not_before.min(front.deadline)),
            State::Waiting => Some(front.deadline),
        }
    }

    /// Deadline of the oldest batch, for the deadline of a request.
    pub(super) fn front_deadline(&self) -> Option<Duration> {
        self.entries.front().map(|entry| entry.deadline)
    }

    fn has_unknown(&self) -> bool {
        self.entries.iter().any(|entry| entry.fate == Fate::Unknown)
    }

    /// Takes a batch out of flight and says where it is.
    fn settle(&mut self, no: BatchNo) -> Option<usize> {
        let at = self.entries.binary_search_by_key(&no, |entry| entry.no).ok()?;
        let entry = &mut self.entries[at];
        if entry.state != State::InFlight {
            return None;
        }
        entry.state = State::Waiting;
        self.in_flight -= 1;
        Some(at)
    }

    fn drop_done(&mut self) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.state == State::Done)
        {
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
