//! TrimTopic and retention, seen through requests.

use std::time::Duration;

use super::restart::restart;
use super::*;
use crate::api::{TrimPartition, TrimTopic, Trimmed};

const MINUTE: Duration = Duration::from_secs(60);

impl Rig {
    fn create_with(&self, name: &str, configs: &[(&str, &str)]) {
        let Request::CreateTopic(mut create) = create(name, 1) else {
            unreachable!("it is a creation")
        };
        create.configs = configs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let (_, reply) = waits(self.broker.receive(Request::CreateTopic(create)));
        reply.unwrap();
        self.store.make_all_durable();
    }

    fn trim(&self, topic: &str, to: i64) -> (Lsn, Result<Trimmed, ApiError>) {
        let partitions = vec![TrimPartition {
            partition: named(topic, 0),
            to,
        }];
        let (lsn, reply) = waits(self.broker.receive(Request::TrimTopic(TrimTopic { partitions })));
        let Ok(Response::TrimTopic(mut results)) = reply else {
            panic!("{reply:?}")
        };
        (lsn, results.remove(0))
    }

    fn start_of(&self, topic: &str) -> i64 {
        let end = self.visible_end(topic);
        self.read(topic, end).unwrap().log_start.get()
    }

    fn visible_end(&self, topic: &str) -> i64 {
        match self.read(topic, i64::MAX) {
            Err(error) => error.details.high_watermark.unwrap().get(),
            Ok(_) => unreachable!("nothing is there"),
        }
    }

    fn fill(&self, topic: &str, batches: u32) {
        for _ in 0..batches {
            self.produce(Acks::Fsync, raw(topic, 1)).1.unwrap();
        }
    }
}

#[test]
fn a_trim_is_answered_when_it_is_durable_and_seen_then() {
    let rig = Rig::manual();
    rig.create("t", 1);
    rig.fill("t", 5);
    rig.store.make_all_durable();
    let (lsn, trimmed) = rig.trim("t", 3);
    assert_eq!(trimmed.unwrap().log_start.get(), 3);
    assert!(lsn > rig.durable(), "the answer waits");
    assert_eq!(rig.start_of("t"), 0);
    rig.store.make_all_durable();
    assert_eq!(rig.start_of("t"), 3);
    let below = rig.read("t", 2).unwrap_err();
    assert_eq!(below.code, ErrorCode::OffsetOutOfRange);
    assert_eq!(
        (below.details.log_start_offset, below.details.high_watermark),
        (Offset::new(3), Offset::new(5))
    );
}

#[test]
fn what_cannot_be_trimmed_is_refused_and_what_is_trimmed_already_is_not() {
    let rig = Rig::new();
    rig.create("t", 1);
    rig.fill("t", 5);
    for to in [6, i64::MAX, -2, i64::MIN] {
        let error = rig.trim("t", to).1.unwrap_err();
        assert_eq!(error.code, ErrorCode::OffsetOutOfRange, "{to}");
        assert_eq!(error.details.high_watermark, Offset::new(5), "{to}");
    }
    let unknown = rig.trim("u", 0).1.unwrap_err();
    assert_eq!(unknown.code, ErrorCode::UnknownTopicOrPartition);
    assert_eq!(rig.trim("t", 4).1.unwrap().log_start.get(), 4);
    assert_eq!(rig.trim("t", 2).1.unwrap().log_start.get(), 4);
    assert_eq!(rig.trim("t", -1).1.unwrap().log_start.get(), 5);
    // Offsets go on.
    let produced = rig.produce(Acks::Fsync, raw("t", 2)).1.unwrap();
    assert_eq!(produced.offsets.unwrap().0.get(), 5);
    assert_eq!(produced.log_start.get(), 5);
}

#[test]
fn producers_are_known_behind_a_trim() {
    let rig = Rig::new();
    rig.create("t", 1);
    let producer = rig.init(None).unwrap();
    let batch = || sequenced("t", producer, 0, 1);
    rig.produce(Acks::Fsync, batch()).1.unwrap();
    rig.trim("t", -1).1.unwrap();
    assert!(rig.produce(Acks::Fsync, batch()).1.unwrap().duplicate);
}

#[test]
fn what_is_too_old_goes_and_what_is_too_much() {
    let rig = Rig::new();
    rig.create_with("old", &[("retention.ms", "60000")]);
    rig.create_with("much", &[("retention.ms", "-1"), ("retention.bytes", "200")]);
    rig.create_with("kept", &[("retention.ms", "-1")]);
    for topic in ["old", "much", "kept"] {
        rig.fill(topic, 10);
    }
    assert!(rig.broker.retain().by_age);
    assert_eq!(rig.start_of("old"), 0);
    assert!(rig.start_of("much") > 0, "more than 200 bytes were there");
    rig.clock.advance(MINUTE / 2);
    rig.fill("old", 1);
    rig.clock.advance(MINUTE / 2 + Duration::from_millis(1));
    let pass = rig.broker.retain();
    assert_eq!((pass.partitions, pass.records), (1, 10), "{pass:?}");
    assert_eq!(rig.start_of("old"), 10);
    rig.clock.advance(MINUTE);
    rig.broker.retain();
    assert_eq!(rig.start_of("old"), 11, "a quiet topic becomes empty");
    assert_eq!(rig.start_of("kept"), 0);
}

#[test]
fn a_clock_that_jumps_ahead_removes_nothing_for_its_age() {
    let rig = Rig::new();
    rig.create_with("t", &[("retention.ms", "60000")]);
    rig.fill("t", 3);
    rig.broker.retain();
    rig.clock.jump_wall(Timestamp(START.0 + 86_400_000));
    assert!(!rig.broker.retain().by_age);
    for _ in 0..29 {
        rig.clock.advance(MINUTE);
        assert!(!rig.broker.retain().by_age);
    }
    assert_eq!(rig.start_of("t"), 0);
    rig.clock.advance(MINUTE);
    // Steady for half an hour: the new time is believed.
    assert!(rig.broker.retain().by_age);
    assert_eq!(rig.start_of("t"), 3);
}

/// The real clock of a machine may be set wrong while the broker is down: there is no look before it then.
#[test]
fn a_clock_that_was_set_ahead_before_the_start_removes_nothing_for_its_age() {
    for (away, trusted) in [
        (MINUTE * 10, true),
        (MINUTE * 11, false),
        (MINUTE * 600_000, false),
    ] {
        let rig = Rig::new();
        rig.create_with("t", &[("retention.ms", "1000")]);
        rig.fill("t", 3);
        rig.clock.advance(away);
        let mut rig = restart(rig, Vec::new(), &[]);
        // A record that came with the wrong time is no proof of it.
        rig.fill("t", 1);
        assert_eq!(rig.broker.retain().by_age, trusted, "{away:?}");
        if !trusted {
            assert_eq!(rig.start_of("t"), 0);
            rig.clock.advance(MINUTE * 30);
            rig.broker.retain();
            assert_eq!(rig.start_of("t"), 4);
        }
        rig = Rig::new();
        assert!(rig.broker.retain().by_age, "nothing is known of an empty broker");
    }
}
