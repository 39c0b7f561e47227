//! Rules IP1 to IP9, one by one and against a model that never forgets.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::ProducerId;

fn batch(id: i64, epoch: i16, first: i32, count: u32) -> BatchHeader {
    BatchHeader {
        base_offset: Offset::ZERO,
        batch_length: 49,
        leader_epoch: LeaderEpoch(-1),
        crc: 0,
        attributes: 0,
        last_offset_delta: count - 1,
        base_timestamp: Timestamp(0),
        max_timestamp: Timestamp(0),
        producer: Some((ProducerId(id), ProducerEpoch(epoch), Sequence(first))),
        count,
    }
}

fn anonymous(count: u32) -> BatchHeader {
    BatchHeader {
        producer: None,
        ..batch(0, 0, 0, count)
    }
}

fn state() -> PartitionState {
    PartitionState::new(ProducerLimits::default())
}

fn small(count_max: usize) -> PartitionState {
    PartitionState::new(ProducerLimits {
        count_max,
        ..ProducerLimits::default()
    })
}

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

/// Decides, and appends if that is the decision.
fn offer(
    state: &mut PartitionState,
    now: i64,
    lsn: u64,
    mut header: BatchHeader,
) -> Result<Decision, Refusal> {
    let decision = state.sequence(Timestamp(now), &header)?;
    if let Decision::Append { base, append_time } = decision {
        header.base_offset = base;
        state.appended(&header, append_time, Lsn(lsn));
    }
    Ok(decision)
}

fn out_of_order(expected: i32, got: i32) -> Result<Decision, Refusal> {
    Err(Refusal::OutOfOrder {
        expected: Sequence(expected),
        got: Sequence(got),
    })
}

fn append(base: i64, at: i64) -> Result<Decision, Refusal> {
    Ok(Decision::Append {
        base: offset(base),
        append_time: Timestamp(at),
    })
}

#[test]
fn offsets_are_dense_and_append_times_never_go_back() {
    let mut state = state();
    assert_eq!(offer(&mut state, 10, 1, anonymous(3)), append(0, 10));
    assert_eq!(offer(&mut state, 7, 2, anonymous(1)), append(3, 10));
    assert_eq!(offer(&mut state, 12, 3, anonymous(2)), append(4, 12));
    assert_eq!(state.next_offset(), offset(6));
    assert_eq!(state.producers(), 0);
}

#[test]
fn a_repeated_batch_gets_the_place_of_the_original() {
    let mut state = state();
    assert_eq!(offer(&mut state, 10, 1, batch(7, 0, 0, 3)), append(0, 10));
    assert_eq!(offer(&mut state, 11, 2, batch(7, 0, 3, 2)), append(3, 11));
    assert_eq!(
        offer(&mut state, 99, 3, batch(7, 0, 0, 3)),
        Ok(Decision::Duplicate {
            base: offset(0),
            last: offset(2),
            append_time: Timestamp(10),
            lsn: Lsn(1)
        })
    );
    assert_eq!(state.next_offset(), offset(5));
}

#[test]
fn gaps_and_overlaps_are_out_of_order() {
    let mut state = state();
    assert!(offer(&mut state, 0, 1, batch(7, 0, 0, 10)).is_ok());
    assert_eq!(offer(&mut state, 0, 2, batch(7, 0, 11, 1)), out_of_order(10, 11));
    assert_eq!(offer(&mut state, 0, 2, batch(7, 0, 0, 9)), out_of_order(10, 0));
    assert_eq!(offer(&mut state, 0, 2, batch(7, 0, 5, 10)), out_of_order(10, 5));
    assert_eq!(offer(&mut state, 0, 2, batch(7, 0, 0, 11)), out_of_order(10, 0));
    assert_eq!(offer(&mut state, 0, 2, batch(7, 0, 10, 1)), append(10, 0));
}

#[test]
fn a_duplicate_older_than_the_window_is_success_without_offset() {
    let mut state = state();
    for n in 0..6 {
        assert!(offer(&mut state, 0, 1, batch(7, 0, n * 2, 2)).is_ok());
    }
    assert_eq!(
        offer(&mut state, 0, 1, batch(7, 0, 0, 2)),
        Ok(Decision::DuplicateOld { lsn: Lsn(1) })
    );
    assert_eq!(
        offer(&mut state, 0, 1, batch(7, 0, 2, 2)),
        Ok(Decision::Duplicate {
            base: offset(2),
            last: offset(3),
            append_time: Timestamp(0),
            lsn: Lsn(1)
        })
    );
    // Half forgotten, half remembered: an overlap.
    assert_eq!(offer(&mut state, 0, 1, batch(7, 0, 1, 2)), out_of_order(12, 1));
}

#[test]
fn what_lies_before_the_first_known_record_is_never_called_a_duplicate() {
    let mut state = state();
    assert!(offer(&mut state, 0, 1, batch(7, 0, 10, 5)).is_ok());
    for n in 3..10 {
        assert!(offer(&mut state, 0, 1, batch(7, 0, n * 5, 5)).is_ok());
    }
    // Sequence 10 was appended here, sequence 5 was not, as far as anybody knows.
    assert_eq!(
        offer(&mut state, 0, 1, batch(7, 0, 10, 5)),
        Ok(Decision::DuplicateOld { lsn: Lsn(1) })
    );
    assert_eq!(offer(&mut state, 0, 1, batch(7, 0, 5, 5)), out_of_order(50, 5));
    assert_eq!(offer(&mut state, 0, 1, batch(7, 0, 5, 10)), out_of_order(50, 5));
}

#[test]
fn an_older_epoch_is_fenced_and_a_newer_one_begins_at_zero() {
    let mut state = state();
    assert!(offer(&mut state, 0, 1, batch(7, 1, 0, 5)).is_ok());
    assert_eq!(
        offer(&mut state, 0, 2, batch(7, 0, 5, 1)),
        Err(Refusal::StaleEpoch {
            current: ProducerEpoch(1),
            got: ProducerEpoch(0)
        })
    );
    assert_eq!(offer(&mut state, 0, 2, batch(7, 2, 5, 1)), out_of_order(0, 5));
    // The refusal has not changed anything.
    assert_eq!(offer(&mut state, 0, 2, batch(7, 1, 5, 1)), append(5, 0));
    assert_eq!(offer(&mut state, 0, 3, batch(7, 2, 0, 5)), append(6, 0));
    // (1, 0..4) was remembered in the old epoch, (2, 0..4) is another batch.
    assert_eq!(
        offer(&mut state, 0, 4, batch(7, 2, 0, 5)),
        Ok(Decision::Duplicate {
            base: offset(6),
            last: offset(10),
            append_time: Timestamp(0),
            lsn: Lsn(3)
        })
    );
}

#[test]
fn sequences_wrap_behind_the_largest() {
    let mut state = state();
    assert_eq!(
        offer(&mut state, 0, 1, batch(7, 0, i32::MAX - 2, 2)),
        append(0, 0)
    );
    assert_eq!(offer(&mut state, 0, 2, batch(7, 0, i32::MAX, 3)), append(2, 0));
    assert_eq!(offer(&mut state, 0, 3, batch(7, 0, 2, 1)), append(5, 0));
    assert_eq!(
        offer(&mut state, 0, 4, batch(7, 0, i32::MAX, 3)),
        Ok(Decision::Duplicate {
            base: offset(2),
            last: offset(4),
            append_time: Timestamp(0),
            lsn: Lsn(2)
        })
    );
    for n in 0..6 {
        assert!(offer(&mut state, 0, 5, batch(7, 0, 3 + n, 1)).is_ok());
    }
    assert_eq!(
        offer(&mut state, 0, 6, batch(7, 0, i32::MAX, 3)),
        Ok(Decision::DuplicateOld { lsn: Lsn(5) })
    );
}

#[test]
fn a_forgotten_producer_may_go_on_with_any_sequence() {
    let mut state = state();
    assert!(offer(&mut state, 0, 1, batch(7, 3, 0, 7)).is_ok());
    let expired = PRODUCER_IDLE_MS_MAX + 1;
    assert_eq!(
        offer(&mut state, expired - 1, 2, batch(7, 3, 9, 1)),
        out_of_order(7, 9)
    );
    assert_eq!(
        offer(&mut state, expired, 2, batch(7, 3, 9, 1)),
        append(7, expired)
    );
    // Not even its epoch is remembered.
    assert_eq!(
        offer(&mut state, 3 * expired, 3, batch(7, 0, 70, 1)),
        append(8, 3 * expired)
    );
}

#[test]
fn beyond_the_count_the_producer_that_is_silent_for_longest_is_forgotten() {
    let mut state = small(2);
    for (id, first) in [(1, 0), (2, 0), (1, 1), (3, 0)] {
        assert!(offer(&mut state, 0, 1, batch(id, 0, first, 1)).is_ok());
    }
    assert_eq!(state.producers(), 2);
    assert_eq!(offer(&mut state, 0, 1, batch(1, 0, 5, 1)), out_of_order(2, 5));
    assert_eq!(offer(&mut state, 0, 1, batch(3, 0, 5, 1)), out_of_order(1, 5));
    assert_eq!(offer(&mut state, 0, 1, batch(2, 0, 5, 1)), append(4, 0));
}

#[test]
fn stored_producers_that_cannot_be_are_refused() {
    let mut good = state();
    assert!(offer(&mut good, 5, 1, batch(7, 2, 0, 2)).is_ok());
    let good = good.snapshot().unwrap();
    let restore = |change: fn(&mut crate::pb::internal::ProducerEntry)| {
        let mut snapshot = good.clone();
        change(&mut snapshot.producers[0]);
        PartitionState::restore(ProducerLimits::default(), offset(2), &snapshot).map_err(
            |error| match error {
                SnapshotError::Producer { what, .. } => what,
                SnapshotError::Malformed(_) => "no message",
            },
        )
    };
    assert!(restore(|_| ()).is_ok());
    assert_eq!(restore(|e| e.producer_id = -1).err(), Some("a negative id"));
    assert_eq!(
        restore(|e| e.producer_epoch = 1 << 15).err(),
        Some("an epoch out of range")
    );
    assert_eq!(
        restore(|e| e.batches.clear()).err(),
        Some("no or too many batches")
    );
    assert_eq!(
        restore(|e| e.batches[0].base_offset = -1).err(),
        Some("a negative offset")
    );
    assert_eq!(
        restore(|e| e.batches[0].last_sequence = -1).err(),
        Some("a negative sequence")
    );
    assert_eq!(
        restore(|e| e.batches.push(e.batches[0])).err(),
        Some("a gap between its batches")
    );
}

#[test]
fn nothing_is_kept_of_a_partition_without_producers() {
    let mut state = state();
    assert!(offer(&mut state, 0, 1, anonymous(1)).is_ok());
    assert_eq!(state.snapshot(), None);
    assert!(offer(&mut state, 0, 1, batch(7, 0, 0, 1)).is_ok());
    assert!(state.snapshot().is_some());
    state.expire(Timestamp(PRODUCER_IDLE_MS_MAX + 1));
    assert_eq!(state.snapshot(), None);
}

/// What a client, the network or a crash may do.
#[derive(Clone, Debug)]
enum Act {
    /// The next batch in order.
    Next { producer: usize, count: u32 },
    /// A batch that was sent before, however long ago, of whatever epoch.
    Again { nth: usize },
    /// A batch anywhere near the newest one.
    Anywhere { producer: usize, back: i32, count: u32 },
    /// The producer starts a new epoch.
    Bump { producer: usize },
    /// Takes a snapshot for the next restart.
    Snapshot,
    /// The broker starts again from the last snapshot and the batches behind it.
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    let producer = 0..3_usize;
    prop_oneof![
        6 => (producer.clone(), 1..5_u32).prop_map(|(producer, count)| Act::Next { producer, count }),
        4 => any::<usize>().prop_map(|nth| Act::Again { nth }),
        2 => (producer.clone(), -10..10_i32, 1..5_u32)
            .prop_map(|(producer, back, count)| Act::Anywhere { producer, back, count }),
        1 => producer.prop_map(|producer| Act::Bump { producer }),
        1 => Just(Act::Snapshot),
        1 => Just(Act::Restart),
    ]
}

/// Remembers every record for ever.
#[derive(Default)]
struct Model {
    /// (producer, epoch, sequence) to offset.
    records: BTreeMap<(i64, i16, i32), i64>,
    /// Appended batches with their LSN, 0 once a restart has forgotten it.
    log: Vec<(BatchHeader, Timestamp, Lsn)>,
    sent: Vec<BatchHeader>,
    next: [(i16, i32); 3],
    snapshot: Option<(Offset, crate::pb::internal::ProducerSnapshot)>,
}

/// Sequences start near the wrap in half of the cases, so that it is crossed.
fn run(acts: Vec<Act>, start: i32) -> Result<(), TestCaseError> {
    let mut state = state();
    let mut model = Model {
        next: [(0, start), (0, 0), (0, start)],
        ..Model::default()
    };
    for (at, act) in (1_i64..).zip(acts) {
        let header = match act {
            Act::Next { producer, count } => {
                let (epoch, first) = model.next[producer];
                batch(id_of(producer), epoch, first, count)
            }
            Act::Again { nth } => match model.sent.len() {
                0 => continue,
                len => model.sent[nth % len],
            },
            Act::Anywhere {
                producer,
                back,
                count,
            } => {
                let (epoch, next) = model.next[producer];
                let first = (i64::from(next) - i64::from(back)).rem_euclid(1 << 31);
                batch(id_of(producer), epoch, i32::try_from(first).unwrap(), count)
            }
            Act::Bump { producer } => {
                let (epoch, _) = model.next[producer];
                model.next[producer] = (epoch + 1, 0);
                continue;
            }
            Act::Snapshot => {
                let covers = state.next_offset();
                model.snapshot = state.snapshot().map(|s| (covers, s));
                continue;
            }
            Act::Restart => {
                state = restarted(&mut model)?;
                continue;
            }
        };
        model.sent.push(header);
        check(&mut state, &mut model, at, header)?;
    }
    Ok(())
}

fn id_of(producer: usize) -> i64 {
    i64::try_from(producer).unwrap()
}

fn restarted(model: &mut Model) -> Result<PartitionState, TestCaseError> {
    let limits = ProducerLimits::default();
    let mut state = match &model.snapshot {
        Some((covers, snapshot)) => PartitionState::restore(limits, *covers, snapshot)
            .map_err(|e| TestCaseError::fail(e.to_string()))?,
        None => PartitionState::new(limits),
    };
    for (header, append_time, lsn) in &mut model.log {
        state.replayed(header, *append_time);
        *lsn = Lsn::ZERO;
    }
    Ok(state)
}

fn sequences(header: &BatchHeader) -> impl Iterator<Item = (i64, i16, i32)> {
    let (id, epoch, first) = header.producer.unwrap();
    (0..header.count).map(move |n| (id.0, epoch.0, first.plus(n).0))
}

fn check(
    state: &mut PartitionState,
    model: &mut Model,
    at: i64,
    mut header: BatchHeader,
) -> Result<(), TestCaseError> {
    let producer = usize::try_from(header.producer.unwrap().0.0).unwrap();
    let (_, epoch, first) = header.producer.unwrap();
    let is_next = model.next[producer] == (epoch.0, first.0);
    let lsn = Lsn(u64::try_from(at).unwrap());
    match state.sequence(Timestamp(at), &header) {
        Ok(Decision::Append { base, append_time }) => {
            header.base_offset = base;
            state.appended(&header, append_time, lsn);
            for (key, offset) in sequences(&header).zip(base.get()..) {
                let before = model.records.insert(key, offset);
                prop_assert_eq!(before, None, "record {:?} twice", key);
            }
            model.log.push((header, append_time, lsn));
            if header.producer.unwrap().1.0 == model.next[producer].0 {
                model.next[producer].1 = header.last_sequence().unwrap().next().0;
            }
        }
        Ok(Decision::Duplicate {
            base,
            last,
            append_time,
            lsn,
        }) => {
            let original = model.log.iter().find(|(h, ..)| h.base_offset == base).unwrap();
            prop_assert_eq!(original.0.producer, header.producer);
            prop_assert_eq!(original.0.last_offset(), last);
            prop_assert_eq!(original.0.count, header.count);
            prop_assert_eq!((original.1, original.2), (append_time, lsn));
        }
        Ok(Decision::DuplicateOld { lsn }) => {
            for key in sequences(&header) {
                let offset = model.records.get(&key);
                prop_assert!(offset.is_some(), "{:?} was never appended", key);
                let holds =
                    |h: &BatchHeader| (h.base_offset.get()..=h.last_offset().get()).contains(offset.unwrap());
                let original = model.log.iter().find(|(h, ..)| holds(h)).unwrap();
                prop_assert!(original.2 <= lsn, "answered before {} is durable", original.2);
            }
        }
        Err(refusal) => prop_assert!(!is_next, "the next batch was refused: {}", refusal),
    }
    Ok(())
}

proptest! {
    #[test]
    fn each_record_is_appended_at_most_once_and_duplicates_lead_to_it(
        acts in prop::collection::vec(act(), 1..120),
        start in prop_oneof![Just(0), i32::MAX - 40..=i32::MAX],
    ) {
        run(acts, start)?;
    }
}
