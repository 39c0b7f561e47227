//! What the connections count instead of logging it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::pending::Meter;
use crate::api::{Ending, RequestKind};
use crate::model::{Acks, ErrorCode};
use crate::telemetry::{Histogram, HistogramNow};

/// Lowest and highest number of the codes for bad input.
const BAD_INPUT_FIRST: u32 = 20;
const BAD_INPUT_COUNT: usize = 12;

/// Why the broker ended a connection by itself, other than for bad input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// No Hello in time, or too much before it.
    Greeting,
    /// A frame was started and not continued.
    SlowFrame,
    /// Replies were not taken.
    SlowReader,
    /// No request for too long.
    Idle,
}

impl Hangup {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Greeting, Self::SlowFrame, Self::SlowReader, Self::Idle];

    /// Name for metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::SlowFrame => "slow_frame",
            Self::SlowReader => "slow_reader",
            Self::Idle => "idle",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Greeting => 0,
            Self::SlowFrame => 1,
            Self::SlowReader => 2,
            Self::Idle => 3,
        }
    }
}

/// Counters of a listener and all its connections. All but [`open`](Self::open) only grow.
#[derive(Debug)]
pub struct Counters {
    accepted: AtomicU64,
    accept_errors: AtomicU64,
    closed: AtomicU64,
    requests: AtomicU64,
    abandoned: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    bad_input: [AtomicU64; BAD_INPUT_COUNT],
    hangups: [AtomicU64; Hangup::ALL.len()],
    /// One per kind of request, in the order of [`RequestKind::ALL`].
    answers: Box<[Answers]>,
    /// Of produces that went well, one per level, in the order of [`Acks::ALL`].
    acknowledged: [Histogram; Acks::ALL.len()],
}

/// How requests of one kind ended.
#[derive(Debug)]
struct Answers {
    endings: [AtomicU64; Ending::ALL.len()],
    durations: Histogram,
}

/// How requests of one kind ended, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswersNow {
    /// Which kind.
    pub kind: RequestKind,
    /// How many ended how.
    pub endings: [(Ending, u64); Ending::ALL.len()],
    /// How long they took, from being read to their answer being handed to the socket.
    pub durations: HistogramNow,
}

impl Default for Counters {
    fn default() -> Self {
        let answers = RequestKind::ALL.iter().map(|_| Answers {
            endings: Default::default(),
            durations: Histogram::of_latencies(),
        });
        Self {
            accepted: AtomicU64::default(),
            accept_errors: AtomicU64::default(),
            closed: AtomicU64::default(),
            requests: AtomicU64::default(),
            abandoned: AtomicU64::default(),
            bytes_in: AtomicU64::default(),
            bytes_out: AtomicU64::default(),
            bad_input: Default::default(),
            hangups: Default::default(),
            answers: answers.collect(),
            acknowledged: Acks::ALL.map(|_| Histogram::of_latencies()),
        }
    }
}

impl Counters {
    /// How requests ended, one entry per kind.
    pub fn answers(&self) -> Vec<AnswersNow> {
        let kinds = RequestKind::ALL.iter().zip(&self.answers);
        kinds
            .map(|(kind, answers)| AnswersNow {
                kind: *kind,
                endings: Ending::ALL.map(|ending| {
                    let count = answers.endings.get(ending.index());
                    (ending, count.map_or(0, |count| count.load(Ordering::Relaxed)))
                }),
                durations: answers.durations.now(),
            })
            .collect()
    }

    /// From a produce being read to its acknowledgement, by the level that was asked for.
    pub fn acknowledged(&self) -> [(Acks, HistogramNow); Acks::ALL.len()] {
        let [fsync, memory] = &self.acknowledged;
        [(Acks::Fsync, fsync.now()), (Acks::Memory, memory.now())]
    }

    pub(super) fn count_answer(&self, meter: &Meter, took: Duration) {
        let Some(answers) = self.answers.get(meter.kind.index()) else {
            return;
        };
        if let Some(counter) = answers.endings.get(meter.ending.index()) {
            add(counter, 1);
        }
        answers.durations.observe(took);
        let [fsync, memory] = &self.acknowledged;
        match meter.acks.filter(|_| meter.ending == Ending::Ok) {
            Some(Acks::Fsync) => fsync.observe(took),
            Some(Acks::Memory) => memory.observe(took),
            None => {}
        }
    }

    /// Connections accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Failed accepts.
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    /// Connections closed, by whomever.
    pub fn closed(&self) -> u64 {
        self.closed.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        // Closed first: read the other way round, the difference could be negative.
        let closed = self.closed();
        self.accepted().saturating_sub(closed)
    }

    /// Requests handed to the broker.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Requests whose connection ended before their answer.
    pub fn abandoned(&self) -> u64 {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Bytes read.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    /// Bytes written.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }

    /// Frames refused with this code; 0 for codes that are not about bad input.
    pub fn bad_input(&self, code: ErrorCode) -> u64 {
        self.bad_input_of(code)
            .map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// Connections ended for this reason.
    pub fn hangups(&self, reason: Hangup) -> u64 {
        self.hangups
            .get(reason.index())
            .map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    pub(super) fn count_accepted(&self) {
        add(&self.accepted, 1);
    }

    pub(super) fn count_accept_error(&self) {
        add(&self.accept_errors, 1);
    }

    pub(super) fn count_closed(&self) {
        add(&self.closed, 1);
    }

    pub(super) fn count_request(&self) {
        add(&self.requests, 1);
    }

    pub(super) fn count_abandoned(&self, requests: usize) {
        add(&self.abandoned, requests as u64);
    }

    pub(super) fn count_bytes_in(&self, bytes: usize) {
        add(&self.bytes_in, bytes as u64);
    }

    pub(super) fn count_bytes_out(&self, bytes: usize) {
        add(&self.bytes_out, bytes as u64);
    }

    pub(super) fn count_bad_input(&self, code: ErrorCode) {
        if let Some(counter) = self.bad_input_of(code) {
            add(counter, 1);
        }
    }

    pub(super) fn count_hangup(&self, reason: Hangup) {
        if let Some(counter) = self.hangups.get(reason.index()) {
            add(counter, 1);
        }
    }

    fn bad_input_of(&self, code: ErrorCode) -> Option<&AtomicU64> {
        let index = code.number().checked_sub(BAD_INPUT_FIRST)?;
        self.bad_input.get(usize::try_from(index).ok()?)
    }
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_for_bad_input_has_its_own_counter() {
        let counters = Counters::default();
        for code in ErrorCode::ALL {
            counters.count_bad_input(*code);
        }
        for code in ErrorCode::ALL {
            let expected = u64::from((20..=31).contains(&code.number()));
            assert_eq!(counters.bad_input(*code), expected, "{}", code.name());
        }
    }

    #[test]
    fn acknowledgements_are_timed_by_their_level_and_refusals_not_among_them() {
        let counters = Counters::default();
        let produce = |acks, ending| {
            let meter = Meter {
                kind: RequestKind::Produce,
                acks: Some(acks),
                since: Duration::ZERO,
                ending,
            };
            counters.count_answer(&meter, Duration::from_millis(1));
        };
        produce(Acks::Fsync, Ending::Ok);
        produce(Acks::Fsync, Ending::Ok);
        produce(Acks::Memory, Ending::Ok);
        produce(Acks::Memory, Ending::ClientError);
        let counted = counters.acknowledged().map(|(acks, now)| (acks, now.count()));
        assert_eq!(counted, [(Acks::Fsync, 2), (Acks::Memory, 1)]);
    }

    #[test]
    fn open_is_what_was_accepted_and_not_closed() {
        let counters = Counters::default();
        counters.count_accepted();
        counters.count_accepted();
        counters.count_closed();
        assert_eq!((counters.open(), counters.closed()), (1, 1));
    }
}
