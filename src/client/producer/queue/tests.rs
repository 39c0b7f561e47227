//! Drives the queue by scripts against a model of the broker, over a network that loses, delays and repeats.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::pb::v1 as pb;
use crate::wire::errors::class_to_wire;

const RECORDS: u32 = 3;

fn options() -> QueueOptions {
    QueueOptions {
        idempotent: true,
        retries: true,
        window_batches: 5,
        delivery_timeout: Duration::from_secs(120),
        backoff: Backoff {
            first: Duration::from_millis(50),
            max: Duration::from_secs(2),
        },
    }
}

fn queue() -> PartitionQueue<u32> {
    let mut queue = PartitionQueue::new(options());
    queue.push(0, RECORDS, secs(120));
    queue.on_identity(identity(1, 7, 0));
    let no = queue.next_to_send(secs(0)).unwrap().no;
    assert_eq!(queue.on_success(no, secs(0)), Some(0));
    queue
}

fn identity(generation: u64, id: i64, epoch: i16) -> Identity {
    Identity {
        generation,
        id: ProducerId(id),
        epoch: ProducerEpoch(epoch),
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn broker_error(code: ErrorCode) -> Error {
    Error::from(pb::Error {
        code: code.number(),
        class: class_to_wire(code.class()).into(),
        definite: code.is_definite(),
        ..Default::default()
    })
}

fn lost() -> Error {
    Error::Disconnected {
        address: "broker:1".into(),
        reason: "gone".into(),
        may_have_taken_effect: true,
    }
}

/// Sends all that may be sent: payloads and first sequences.
fn send_all(queue: &mut PartitionQueue<u32>, now: Duration) -> Vec<(BatchNo, u32, i32)> {
    std::iter::from_fn(|| {
        let sending = queue.next_to_send(now)?;
        Some((
            sending.no,
            *sending.batch,
            sending.producer.unwrap().base_sequence.0,
        ))
    })
    .collect()
}

fn shape(sent: &[(BatchNo, u32, i32)]) -> Vec<(u32, i32)> {
    sent.iter()
        .map(|(_, batch, sequence)| (*batch, *sequence))
        .collect()
}

#[test]
fn the_first_batch_of_an_identity_goes_alone_and_then_five_are_in_flight() {
    let mut queue = PartitionQueue::new(options());
    for batch in 0..8 {
        queue.push(batch, RECORDS, secs(120));
    }
    assert!(queue.next_to_send(secs(0)).is_none(), "there is no identity yet");
    assert_eq!(
        queue.needs_identity(),
        Some(IdentityNeed {
            above: 0,
            new_id: false
        })
    );
    queue.on_identity(identity(1, 7, 0));
    let first = send_all(&mut queue, secs(0));
    assert_eq!(shape(&first), [(0, 0)]);
    assert_eq!(queue.on_success(first[0].0, secs(0)), Some(0));
    let rest = send_all(&mut queue, secs(0));
    assert_eq!(shape(&rest), [(1, 3), (2, 6), (3, 9), (4, 12), (5, 15)]);
}

#[test]
fn the_window_is_counted_from_the_oldest_batch_without_an_answer() {
    let mut queue = queue();
    for batch in 1..10 {
        queue.push(batch, RECORDS, secs(120));
    }
    let sent = send_all(&mut queue, secs(0));
    for (no, batch, _) in &sent[1..] {
        assert_eq!(queue.on_success(*no, secs(0)), Some(*batch));
    }
    assert_eq!(shape(&send_all(&mut queue, secs(0))), [], "batch 1 has no answer");
    queue.on_success(sent[0].0, secs(0));
    assert_eq!(send_all(&mut queue, secs(0)).len(), 4, "6 to 9");
}

#[test]
fn batches_behind_a_refused_one_are_sent_again_behind_it_with_their_sequences() {
    let mut queue = queue();
    for batch in 1..=4 {
        queue.push(batch, RECORDS, secs(120));
    }
    let sent = send_all(&mut queue, secs(0));
    assert_eq!(
        queue.on_failure(sent[0].0, broker_error(ErrorCode::Backpressure), secs(0)),
        Some(Failure::Again)
    );
    assert!(queue.next_to_send(secs(9)).is_none(), "three are in flight");
    for (no, _, _) in &sent[1..] {
        let out_of_order = broker_error(ErrorCode::OutOfOrderSequence);
        assert_eq!(queue.on_failure(*no, out_of_order, secs(0)), Some(Failure::Again));
    }
    assert!(queue.next_to_send(secs(0)).is_none(), "the pause is not over");
    let alone = send_all(&mut queue, secs(9));
    assert_eq!(shape(&alone), [(1, 3)]);
    queue.on_success(alone[0].0, secs(9));
    assert_eq!(shape(&send_all(&mut queue, secs(9))), [(2, 6), (3, 9), (4, 12)]);
    assert_eq!(queue.needs_identity(), None);
}

#[test]
fn a_lost_connection_repeats_all_in_order_with_their_sequences() {
    let mut queue = queue();
    for batch in 1..=3 {
        queue.push(batch, RECORDS, secs(120));
    }
    let sent = send_all(&mut queue, secs(0));
    // Failures may be reported in any order.
    for at in [2, 0, 1] {
        assert_eq!(
            queue.on_failure(sent[at].0, lost(), secs(0)),
            Some(Failure::Again)
        );
    }
    let alone = send_all(&mut queue, secs(9));
    assert_eq!(shape(&alone), [(1, 3)]);
    queue.on_success(alone[0].0, secs(9));
    assert_eq!(shape(&send_all(&mut queue, secs(9))), [(2, 6), (3, 9)]);
}

#[test]
fn behind_a_batch_that_is_given_up_all_are_numbered_anew_in_a_new_epoch() {
    let mut queue = queue();
    for batch in 1..=3 {
        queue.push(batch, RECORDS, secs(120));
    }
    let sent = send_all(&mut queue, secs(0));
    let too_large = broker_error(ErrorCode::MessageTooLarge);
    assert_eq!(
        queue.on_failure(sent[0].0, too_large.clone(), secs(0)),
        Some(Failure::Final)
    );
    assert_eq!(queue.take_failed(), [(1, too_large)]);
    assert_eq!(queue.needs_identity(), None, "two are in flight");
    for (no, _, _) in &sent[1..] {
        queue.on_failure(*no, broker_error(ErrorCode::OutOfOrderSequence), secs(0));
    }
    assert!(queue.next_to_send(secs(9)).is_none());
    assert_eq!(
        queue.needs_identity(),
        Some(IdentityNeed {
            above: 1,
            new_id: false
        })
    );
    queue.on_identity(identity(1, 7, 0));
    assert!(queue.needs_identity().is_some(), "the old identity does not help");
    queue.on_identity(identity(2, 7, 1));
    let alone = send_all(&mut queue, secs(9));
    assert_eq!(shape(&alone), [(2, 0)]);
    queue.on_success(alone[0].0, secs(9));
    assert_eq!(shape(&send_all(&mut queue, secs(9))), [(3, 3)]);
}

#[test]
fn a_batch_of_unknown_fate_is_resolved_before_anything_is_numbered_anew() {
    let mut queue = queue();
    for batch in 1..=3 {
        queue.push(batch, RECORDS, secs(120));
    }
    let sent = send_all(&mut queue, secs(0));
    queue.on_failure(sent[0].0, broker_error(ErrorCode::MessageTooLarge), secs(0));
    queue.on_failure(sent[1].0, lost(), secs(0));
    queue.on_failure(sent[2].0, lost(), secs(0));
    assert_eq!(queue.needs_identity(), None);
    let resolving = send_all(&mut queue, secs(9));
    assert_eq!(shape(&resolving), [(2, 6)], "under its old number");
    queue.on_failure(
        resolving[0].0,
        broker_error(ErrorCode::OutOfOrderSequence),
        secs(9),
    );
    let resolving = send_all(&mut queue, secs(19));
    assert_eq!(shape(&resolving), [(3, 9)]);
    assert_eq!(queue.on_success(resolving[0].0, secs(19)), None.or(Some(3)));
    assert_eq!(
        queue.needs_identity(),
        Some(IdentityNeed {
            above: 1,
            new_id: false
        })
    );
}

#[test]
fn behind_a_batch_of_unknown_fate_that_is_given_up_only_what_was_never_sent_goes_on() {
    let mut queue = queue();
    for batch in 1..=3 {
        queue.push(batch, RECORDS, secs(if batch == 1 { 10 } else { 99 }));
    }
    let sent = send_all(&mut queue, secs(0));
    queue.push(4, RECORDS, secs(99));
    for (no, ..) in &sent[..3] {
        queue.on_failure(*no, lost(), secs(0));
    }
    // Alone; the answer that batch 2 is out of order would say nothing about its first attempt.
    let alone = send_all(&mut queue, secs(9));
    queue.on_failure(alone[0].0, broker_error(ErrorCode::Backpressure), secs(9));
    queue.expire(secs(10));
    let failed = queue.take_failed();
    let facts: Vec<_> = failed
        .iter()
        .map(|(b, e)| (*b, e.may_have_taken_effect()))
        .collect();
    assert_eq!(facts, [(1, true), (2, true), (3, true)]);
    queue.on_identity(identity(2, 7, 1));
    assert_eq!(shape(&send_all(&mut queue, secs(20))), [(4, 0)]);
}

#[test]
fn a_refusal_says_nothing_about_an_earlier_attempt_while_one_before_it_may_be_written() {
    let mut queue = queue();
    for batch in 1..=5 {
        queue.push(batch, RECORDS, secs(120));
    }
    for (no, _, _) in send_all(&mut queue, secs(0)) {
        queue.on_failure(no, lost(), secs(0));
    }
    let alone = send_all(&mut queue, secs(9));
    queue.on_success(alone[0].0, secs(9));
    let second = send_all(&mut queue, secs(9));
    assert_eq!(shape(&second), [(2, 6), (3, 9), (4, 12), (5, 15)]);
    queue.on_failure(second[0].0, broker_error(ErrorCode::Backpressure), secs(9));
    queue.on_failure(second[2].0, broker_error(ErrorCode::InvalidRecord), secs(9));
    for at in [1, 3] {
        queue.on_failure(second[at].0, broker_error(ErrorCode::OutOfOrderSequence), secs(9));
    }
    // Batch 4 may have been written by its first attempt, and batch 5 behind it. Those before it lose nothing.
    let failed = queue.take_failed();
    let facts: Vec<_> = failed
        .iter()
        .map(|(b, e)| (*b, e.may_have_taken_effect()))
        .collect();
    assert_eq!(facts, [(4, true), (5, true)]);
    for expected in [(2, 6), (3, 9)] {
        assert_eq!(queue.needs_identity(), None);
        let resolving = send_all(&mut queue, secs(99));
        assert_eq!(shape(&resolving), [expected], "under its old number");
        queue.on_success(resolving[0].0, secs(99));
    }
    assert!(queue.is_empty());
}

#[test]
fn a_broker_that_has_forgotten_acknowledged_batches_gets_the_rest_in_a_new_epoch() {
    let mut queue = queue();
    queue.push(1, RECORDS, secs(120));
    let sent = send_all(&mut queue, secs(0));
    let out_of_order = broker_error(ErrorCode::OutOfOrderSequence);
    assert_eq!(
        queue.on_failure(sent[0].0, out_of_order, secs(0)),
        Some(Failure::Forgotten)
    );
    queue.on_identity(identity(2, 7, 1));
    assert_eq!(shape(&send_all(&mut queue, secs(9))), [(1, 0)]);
}

#[test]
fn an_unknown_producer_id_asks_for_a_new_one() {
    let mut queue = queue();
    queue.push(1, RECORDS, secs(120));
    let sent = send_all(&mut queue, secs(0));
    queue.on_failure(sent[0].0, broker_error(ErrorCode::UnknownProducerId), secs(0));
    assert_eq!(
        queue.needs_identity(),
        Some(IdentityNeed {
            above: 1,
            new_id: true
        })
    );
}

#[test]
fn a_batch_that_expires_says_whether_it_may_have_been_written() {
    let mut queue = queue();
    queue.push(1, RECORDS, secs(10));
    queue.push(2, RECORDS, secs(10));
    queue.push(3, RECORDS, secs(99));
    let sent = send_all(&mut queue, secs(0));
    queue.expire(secs(10));
    assert_eq!(queue.take_failed(), [], "it is in flight");
    queue.on_failure(sent[0].0, lost(), secs(0));
    queue.on_failure(sent[1].0, broker_error(ErrorCode::StorageFull), secs(0));
    queue.on_failure(sent[2].0, broker_error(ErrorCode::OutOfOrderSequence), secs(0));
    assert_eq!(queue.wakes_at(secs(5)), Some(secs(10)));
    queue.expire(secs(10));
    let expired = queue.take_failed();
    let facts: Vec<_> = expired
        .iter()
        .map(|(b, e)| (*b, e.may_have_taken_effect()))
        .collect();
    assert_eq!(facts, [(1, true), (2, false)]);
    assert!(
        expired.iter().all(|(_, e)| matches!(e, Error::Timeout { .. })),
        "{expired:?}"
    );
    assert_eq!(
        queue.needs_identity(),
        Some(IdentityNeed {
            above: 1,
            new_id: false
        })
    );
}

#[test]
fn without_sequences_one_batch_is_in_flight_if_retries_are_on() {
    for (retries, sent) in [(true, 1), (false, 5)] {
        let mut queue = PartitionQueue::new(QueueOptions {
            idempotent: false,
            retries,
            ..options()
        });
        for batch in 0..8 {
            queue.push(batch, RECORDS, secs(120));
        }
        let mut count = 0;
        while let Some(sending) = queue.next_to_send(secs(0)) {
            assert_eq!(sending.producer, None);
            count += 1;
        }
        assert_eq!(count, sent);
        assert_eq!(queue.needs_identity(), None);
    }
}

#[test]
fn without_retries_the_first_failure_is_final() {
    let mut queue = PartitionQueue::new(QueueOptions {
        retries: false,
        ..options()
    });
    queue.push(1, RECORDS, secs(120));
    queue.on_identity(identity(1, 7, 0));
    let sent = send_all(&mut queue, secs(0));
    assert_eq!(queue.on_failure(sent[0].0, lost(), secs(0)), Some(Failure::Final));
    assert_eq!(queue.take_failed(), [(1, lost())]);
}

/// A batch on the wire.
#[derive(Clone, Debug)]
struct Request {
    no: BatchNo,
    batch: u32,
    producer: ProducerFields,
}

/// One partition of a broker, by the rules of the idempotent producer.
#[derive(Debug, Default)]
struct Broker {
    log: Vec<u32>,
    epochs: BTreeMap<i64, (i16, i32)>,
}

const TOO_LARGE: u32 = 13;

impl Broker {
    /// `(epoch, next sequence)` per producer; a sequence before the next one is a duplicate.
    fn produce(&mut self, request: &Request) -> Result<(), Error> {
        let (id, epoch) = (request.producer.id.0, request.producer.epoch.0);
        let sequence = request.producer.base_sequence.0;
        if request.batch % 16 == TOO_LARGE {
            return Err(broker_error(ErrorCode::MessageTooLarge));
        }
        // An unknown producer may begin with any sequence.
        let (known_epoch, next) = *self.epochs.entry(id).or_insert((epoch, sequence));
        if epoch < known_epoch {
            return Err(broker_error(ErrorCode::InvalidProducerEpoch));
        }
        let next = if epoch > known_epoch { 0 } else { next };
        match sequence.cmp(&next) {
            std::cmp::Ordering::Less => return Ok(()),
            std::cmp::Ordering::Greater => return Err(broker_error(ErrorCode::OutOfOrderSequence)),
            std::cmp::Ordering::Equal => {}
        }
        self.epochs.insert(id, (epoch, next + 3));
        self.log.push(request.batch);
        Ok(())
    }
}

/// Queue, network and broker.
#[derive(Debug)]
struct World {
    queue: PartitionQueue<u32>,
    broker: Broker,
    now: Duration,
    /// Sent and not looked at by the broker.
    requests: VecDeque<Request>,
    /// Answered and not delivered.
    replies: Vec<(BatchNo, Result<(), Error>)>,
    /// Still in the buffers of broken connections; the broker may come to them at any time.
    ghosts: VecDeque<Request>,
    generation: u64,
    next_batch: u32,
    acknowledged: Vec<u32>,
    failed: Vec<(u32, Error)>,
}

impl World {
    fn new() -> Self {
        Self {
            queue: PartitionQueue::new(options()),
            broker: Broker::default(),
            now: Duration::ZERO,
            requests: VecDeque::new(),
            replies: Vec::new(),
            ghosts: VecDeque::new(),
            generation: 0,
            next_batch: 0,
            acknowledged: Vec::new(),
            failed: Vec::new(),
        }
    }

    fn step(&mut self, action: u8, argument: u8) {
        match action {
            0..=19 => {
                self.queue.push(self.next_batch, RECORDS, self.now + secs(120));
                self.next_batch += 1;
            }
            20..=44 => self.send(),
            45..=64 => self.serve(None),
            65..=79 => self.deliver(usize::from(argument)),
            80..=83 => self.serve(Some(broker_error(ErrorCode::Backpressure))),
            84..=86 => self.fail_indefinitely(argument, ErrorCode::StorageFailed),
            87 => self.fail_indefinitely(argument, ErrorCode::Internal),
            88..=91 => self.disconnect(usize::from(argument)),
            92..=95 => self.haunt(),
            96..=98 => self.now += Duration::from_millis(u64::from(argument) * 20),
            _ => self.expire_after(secs(u64::from(argument))),
        }
    }

    fn send(&mut self) {
        if self.queue.needs_identity().is_some() {
            let epoch = i16::try_from(self.generation).unwrap();
            self.generation += 1;
            self.queue.on_identity(identity(self.generation, 7, epoch));
        }
        if let Some(sending) = self.queue.next_to_send(self.now) {
            self.requests.push_back(Request {
                no: sending.no,
                batch: *sending.batch,
                producer: sending.producer.unwrap(),
            });
        }
    }

    /// The broker looks at one request, or refuses it unseen.
    fn serve(&mut self, refusal: Option<Error>) {
        if let Some(request) = self.requests.pop_front() {
            let result = refusal.map_or_else(|| self.broker.produce(&request), Err);
            self.replies.push((request.no, result));
        }
    }

    /// Written or not, the answer does not tell.
    fn fail_indefinitely(&mut self, argument: u8, code: ErrorCode) {
        if let Some(request) = self.requests.pop_front() {
            if argument.is_multiple_of(2) {
                let _ = self.broker.produce(&request);
            }
            self.replies.push((request.no, Err(broker_error(code))));
        }
    }

    /// Replies come in any order.
    fn deliver(&mut self, which: usize) {
        if self.replies.is_empty() {
            return;
        }
        let (no, result) = self.replies.remove(which % self.replies.len());
        match result {
            Ok(()) => {
                let batch = self.queue.on_success(no, self.now);
                self.acknowledged
                    .push(batch.expect("an answer belongs to a batch in flight"));
            }
            Err(error) => {
                let failure = self.queue.on_failure(no, error, self.now);
                failure.expect("as above");
                self.failed.extend(self.queue.take_failed());
            }
        }
    }

    /// All answers are lost. The broker has seen some requests, comes to others later, and never sees the rest.
    fn disconnect(&mut self, seen: usize) {
        let mut out: Vec<BatchNo> = self.replies.drain(..).map(|(no, _)| no).collect();
        out.extend(self.requests.iter().map(|request| request.no));
        for _ in 0..(seen % 4).min(self.requests.len()) {
            let request = self.requests.pop_front().unwrap();
            let _ = self.broker.produce(&request);
        }
        let rest = self.requests.drain(..);
        if seen.is_multiple_of(3) {
            self.ghosts.extend(rest);
        } else {
            drop(rest);
        }
        for no in out {
            let failure = self.queue.on_failure(no, lost(), self.now);
            assert_eq!(failure, Some(Failure::Again));
        }
        self.failed.extend(self.queue.take_failed());
        self.queue.on_new_connection();
    }

    fn haunt(&mut self) {
        if let Some(request) = self.ghosts.pop_front() {
            let _ = self.broker.produce(&request);
        }
    }

    fn expire_after(&mut self, passed: Duration) {
        self.now += passed;
        self.queue.expire(self.now);
        self.failed.extend(self.queue.take_failed());
    }

    /// The network heals; everything gets an answer.
    fn finish(&mut self) {
        for _ in 0..2_000 {
            if self.queue.is_empty() {
                return;
            }
            self.now += Duration::from_millis(500);
            while !self.requests.is_empty() {
                self.serve(None);
            }
            while !self.replies.is_empty() {
                self.deliver(0);
            }
            self.haunt();
            self.send();
        }
        panic!("batches are stuck: {self:#?}");
    }

    fn check(&self) {
        let log = &self.broker.log;
        assert!(log.is_sorted_by(|a, b| a < b), "order or duplicates: {log:?}");
        for batch in &self.acknowledged {
            assert!(
                log.binary_search(batch).is_ok(),
                "{batch} was acknowledged and is not in {log:?}"
            );
        }
        for (batch, error) in &self.failed {
            let there = log.binary_search(batch).is_ok();
            assert!(
                !there || error.may_have_taken_effect(),
                "{batch} is there in spite of {error:?}"
            );
        }
        let answered = self.acknowledged.len() + self.failed.len();
        assert_eq!(
            answered,
            usize::try_from(self.next_batch).unwrap(),
            "one answer for each"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn each_batch_is_written_once_and_in_order(script in proptest::collection::vec((0_u8..100, any::<u8>()), 0..300)) {
        let mut world = World::new();
        for (action, argument) in script {
            world.step(action, argument);
        }
        world.finish();
        world.check();
    }
}

#[test]
fn a_queue_whose_only_batch_was_given_up_takes_the_next_one() {
    let mut queue = queue();
    queue.push(1, RECORDS, secs(10));
    let sent = send_all(&mut queue, secs(0));
    queue.on_failure(sent[0].0, broker_error(ErrorCode::StorageFull), secs(1));
    queue.expire(secs(10));
    assert_eq!(queue.take_failed().len(), 1);
    // Without room nothing would ever be pushed, and without a batch no identity would ever be asked for.
    assert!(queue.has_room());
}
