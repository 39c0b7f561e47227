//! Produce: order, duplicates, levels, refusals.

use super::*;

#[test]
fn nothing_is_visible_before_it_is_durable() {
    let rig = Rig::manual();
    rig.create("t", 1);
    let (lsn, produced) = rig.produce(Acks::Fsync, raw("t", 3));
    assert_eq!(offsets(&produced), Some((0, 2)));
    assert_eq!(produced.unwrap().durable_through, Some(lsn));
    assert!(lsn > rig.durable());
    assert_eq!(rig.visible("t"), 0);
    rig.store.make_durable(lsn);
    assert_eq!(rig.visible("t"), 3);
}

#[test]
fn level_memory_is_answered_at_once_and_says_so() {
    let rig = Rig::manual();
    rig.create("t", 1);
    let producer = rig.init(None).unwrap();
    for duplicate in [false, true] {
        let (lsn, produced) = rig.produce(Acks::Memory, sequenced("t", producer, 0, 2));
        assert!(lsn <= rig.durable());
        let produced = produced.unwrap();
        assert_eq!((produced.acks, produced.durable_through), (Acks::Memory, None));
        assert_eq!(produced.duplicate, duplicate);
        assert_eq!(produced.offsets, Some((offset(0), offset(1))));
    }
    assert_eq!(rig.visible("t"), 0);
}

#[test]
fn a_duplicate_in_flight_waits_for_the_original() {
    let rig = Rig::manual();
    rig.create("t", 1);
    let producer = rig.init(None).unwrap();
    let (first, original) = rig.produce(Acks::Fsync, sequenced("t", producer, 0, 2));
    rig.clock.advance(Duration::from_secs(60));
    let (later, _) = rig.produce(Acks::Fsync, raw("t", 1));
    assert!(later > first && first > rig.durable());
    let (again, duplicate) = rig.produce(Acks::Fsync, sequenced("t", producer, 0, 2));
    assert_eq!(again, first);
    let (original, duplicate) = (original.unwrap(), duplicate.unwrap());
    assert!(duplicate.duplicate);
    assert_eq!(duplicate.offsets, original.offsets);
    assert_eq!(duplicate.append_time, original.append_time);
    assert_eq!(duplicate.durable_through, Some(first));
    rig.store.make_all_durable();
    assert_eq!(rig.visible("t"), 3);
}

#[test]
fn a_retry_encoded_differently_is_still_a_duplicate() {
    let rig = Rig::new();
    rig.create("t", 1);
    let producer = rig.init(None).unwrap();
    let (_, first) = rig.produce(Acks::Fsync, structured("t", &["a", "b"], Some((producer, 0))));
    rig.clock.advance(Duration::from_secs(1));
    let (_, again) = rig.produce(Acks::Fsync, sequenced("t", producer, 0, 2));
    assert_eq!(offsets(&again), offsets(&first));
    assert!(again.unwrap().duplicate);
}

#[test]
fn a_duplicate_older_than_the_window_waits_for_what_may_not_be_durable() {
    let rig = Rig::manual();
    rig.create("t", 1);
    let producer = rig.init(None).unwrap();
    let (first, _) = rig.produce(Acks::Fsync, sequenced("t", producer, 0, 1));
    for sequence in 1..6 {
        assert!(
            rig.produce(Acks::Fsync, sequenced("t", producer, sequence, 1))
                .1
                .is_ok()
        );
    }
    let (lsn, produced) = rig.produce(Acks::Fsync, sequenced("t", producer, 0, 1));
    let produced = produced.unwrap();
    assert!(produced.duplicate);
    assert_eq!(produced.offsets, None);
    assert!(lsn >= first, "{lsn} {first}");
}

#[test]
fn sequences_of_the_catalogue_are_refused_with_facts() {
    let rig = Rig::new();
    rig.create("t", 1);
    let producer = rig.init(None).unwrap();
    assert!(rig.produce(Acks::Fsync, sequenced("t", producer, 0, 5)).1.is_ok());
    let error = rig
        .produce(Acks::Fsync, sequenced("t", producer, 6, 1))
        .1
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::OutOfOrderSequence);
    assert_eq!(error.details.expected_sequence, Some(5));

    let bumped = rig.init(Some((producer.id, producer.epoch))).unwrap();
    assert_eq!((bumped.id, bumped.epoch), (producer.id, ProducerEpoch(1)));
    assert!(rig.produce(Acks::Fsync, sequenced("t", bumped, 0, 1)).1.is_ok());
    let error = rig
        .produce(Acks::Fsync, sequenced("t", producer, 5, 1))
        .1
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidProducerEpoch);
    assert_eq!(error.details.current_epoch, Some(1));

    for id in [0, producer.id.0 + 1, i64::MAX] {
        let never = InitializedProducer {
            id: ProducerId(id),
            epoch: ProducerEpoch(0),
        };
        let (_, refused) = rig.produce(Acks::Fsync, sequenced("t", never, 0, 1));
        assert_eq!(code(refused), ErrorCode::UnknownProducerId);
    }
    assert_eq!(rig.visible("t"), 6);
}

#[test]
fn bad_batches_of_the_catalogue_are_refused_and_leave_nothing() {
    let rig = Rig::new();
    rig.create("t", 1);
    let good = batch(3, None);
    let change = |at: usize, value: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = value;
        Bytes::from(bytes)
    };
    let produce = |bytes| {
        let raw = item(named("t", 0), ProducePayload::Raw(bytes));
        code(rig.produce(Acks::Fsync, raw).1)
    };
    assert_eq!(produce(change(good.len() - 1, 0xee)), ErrorCode::CorruptBatch);
    assert_eq!(produce(good.slice(..60)), ErrorCode::InvalidBatch);
    assert_eq!(produce(Bytes::new()), ErrorCode::InvalidBatch);
    assert_eq!(
        produce([good.clone(), good.clone()].concat().into()),
        ErrorCode::InvalidBatch
    );
    // Magic 1.
    assert_eq!(produce(change(16, 1)), ErrorCode::InvalidBatch);
    let (_, none) = rig.produce(Acks::Fsync, structured("t", &[], None));
    assert_eq!(code(none), ErrorCode::InvalidBatch);
    let mut nameless = record("v");
    nameless.headers.push(crate::record::Header::default());
    let payload = ProducePayload::Structured {
        records: vec![nameless],
        producer: None,
    };
    assert_eq!(
        code(rig.produce(Acks::Fsync, item(named("t", 0), payload)).1),
        ErrorCode::InvalidRecord
    );
    let negative = InitializedProducer {
        id: ProducerId(-1),
        epoch: ProducerEpoch(0),
    };
    let (_, refused) = rig.produce(Acks::Fsync, structured("t", &["a"], Some((negative, 0))));
    assert_eq!(code(refused), ErrorCode::InvalidArgument);
    assert_eq!(rig.visible("t"), 0);
    assert_eq!(rig.broker.counters().now().records_in, 0);
}

#[test]
fn a_batch_above_the_topics_limit_is_refused_with_the_limit() {
    let rig = Rig::new();
    rig.create("t", 1);
    let large = "x".repeat(1_048_588);
    for refused in [rig.produce(Acks::Fsync, structured("t", &[&large], None)).1, {
        let mut builder = BatchBuilder::new();
        builder.push(START, None, Some(large.as_bytes()), &[]);
        let raw = item(named("t", 0), ProducePayload::Raw(builder.finish(None)));
        rig.produce(Acks::Fsync, raw).1
    }] {
        let error = refused.unwrap_err();
        assert_eq!(error.code, ErrorCode::MessageTooLarge);
        assert_eq!(error.details.limit, Some(1_048_588));
        assert!(error.details.actual > error.details.limit);
    }
}

#[test]
fn times_are_stored_as_given_and_absent_ones_filled_in() {
    let rig = Rig::new();
    rig.create("t", 1);
    let times = [
        Some(Timestamp(0)),
        None,
        Some(Timestamp(START.0 + 3_600_000)),
        Some(Timestamp(-1)),
    ];
    let records: Vec<Record> = times
        .into_iter()
        .map(|timestamp| Record {
            timestamp,
            ..record("v")
        })
        .collect();
    let payload = ProducePayload::Structured {
        records,
        producer: None,
    };
    let (_, produced) = rig.produce(Acks::Fsync, item(named("t", 0), payload));
    assert_eq!(produced.unwrap().append_time, START);
    let all = fetched(rig.ask(fetch(FetchForm::Structured, Duration::ZERO, &[("t", 0, 0)])));
    let FetchPayload::Structured(records) = &all[0].as_ref().unwrap().payload else {
        panic!("{all:?}");
    };
    let stored: Vec<_> = records.iter().map(|(_, r)| r.timestamp.unwrap()).collect();
    assert_eq!(
        stored,
        [Timestamp(0), START, Timestamp(START.0 + 3_600_000), Timestamp(-1)]
    );
}

#[test]
fn each_partition_succeeds_or_fails_by_itself_in_the_order_asked() {
    let rig = Rig::new();
    let id = rig.create("orders", 1);
    let far = ProducePartition {
        partition: named("orders", u32::MAX),
        ..raw("orders", 1)
    };
    let by_id = ProducePartition {
        partition: with_id(id),
        ..raw("orders", 2)
    };
    let other_id = ProducePartition {
        partition: TopicPartition {
            topic: Arc::from("orders"),
            ..with_id(TopicId::from_bytes([9; 16]))
        },
        ..raw("orders", 1)
    };
    let meta_by_id = ProducePartition {
        partition: with_id(TopicId::META),
        ..raw("orders", 1)
    };
    let items = vec![
        raw("order", 1),
        raw("orders", 1),
        far,
        by_id,
        other_id,
        raw("../../etc", 1),
        raw("__meta", 1),
        meta_by_id,
    ];
    let Ok(Response::Produce(produced)) = rig.ask(request(Acks::Fsync, items)) else {
        panic!("no answer to produce");
    };
    let codes: Vec<_> = produced
        .partitions
        .iter()
        .map(|result| result.as_ref().err().map(|error| error.code))
        .collect();
    let unknown = Some(ErrorCode::UnknownTopicOrPartition);
    let bad_name = Some(ErrorCode::InvalidName);
    assert_eq!(
        codes,
        [unknown, None, unknown, None, unknown, bad_name, bad_name, unknown]
    );
    let nearest = &produced.partitions[0].as_ref().unwrap_err().details.nearest_name;
    assert_eq!(nearest.as_deref(), Some("orders"));
    assert_eq!(rig.visible("orders"), 3);
    let now = rig.broker.counters().now();
    assert_eq!((now.records_in, now.duplicates), (3, 0));
    assert_eq!(
        now.refused,
        [
            (ErrorCode::UnknownTopicOrPartition, 4),
            (ErrorCode::InvalidName, 2)
        ]
    );
}

#[test]
fn another_leader_epoch_is_not_owned_here() {
    let rig = Rig::new();
    rig.create("t", 1);
    for (epoch, owned) in [(0, false), (1, true), (2, false)] {
        let item = ProducePartition {
            leader_epoch: Some(crate::model::LeaderEpoch(epoch)),
            ..raw("t", 1)
        };
        let (_, produced) = rig.produce(Acks::Fsync, item);
        match produced {
            Ok(produced) => assert_eq!((owned, produced.leader_epoch.0), (true, 1)),
            Err(error) => assert_eq!((owned, error.code), (false, ErrorCode::NotOwner)),
        }
    }
}

#[test]
fn append_times_of_a_partition_never_go_back() {
    let rig = Rig::new();
    rig.create("t", 1);
    rig.clock.advance(Duration::from_secs(10));
    let (_, first) = rig.produce(Acks::Fsync, raw("t", 1));
    let back = Arc::new(ManualClock::at(START));
    let rig = Rig {
        clock: Arc::clone(&back),
        broker: Broker {
            clock: back,
            ..rig.broker
        },
        ..rig
    };
    let (_, second) = rig.produce(Acks::Fsync, raw("t", 1));
    assert_eq!(second.unwrap().append_time, first.unwrap().append_time);
}

#[test]
fn a_full_store_refuses_before_anything_is_written_and_goes_on_when_there_is_room() {
    let options = MemoryOptions {
        capacity_bytes: 64 << 10,
        ..MemoryOptions::default()
    };
    let rig = Rig::with(options, Settings::default());
    rig.create("t", 1);
    let value = "x".repeat(20 << 10);
    let mut full = None;
    for _ in 0..4 {
        let request = request(Acks::Fsync, vec![structured("t", &[&value], None)]);
        if let Err(error) = rig.ask(request) {
            full = Some(error);
        }
    }
    let error = full.unwrap();
    assert_eq!(error.code, ErrorCode::StorageFull);
    assert!(error.code.is_definite() && error.retry_after_ms > 0);
    assert_eq!(rig.visible("t"), 2);
    let delete = Request::DeleteTopic(crate::api::DeleteTopic {
        name: "t".to_owned(),
        id: None,
    });
    assert!(rig.ask(delete).is_ok());
    rig.create("u", 1);
    let (_, produced) = rig.produce(Acks::Fsync, structured("u", &[&value], None));
    assert_eq!(offsets(&produced), Some((0, 0)));
}

#[test]
fn a_request_larger_than_a_step_is_refused_as_a_whole() {
    let options = MemoryOptions {
        step_bytes_max: 32 << 10,
        ..MemoryOptions::default()
    };
    let rig = Rig::with(options, Settings::default());
    rig.create("t", 1);
    let value = "x".repeat(20 << 10);
    let items = vec![structured("t", &[&value], None), structured("t", &[&value], None)];
    let error = rig.ask(request(Acks::Fsync, items)).unwrap_err();
    assert_eq!(error.code, ErrorCode::MessageTooLarge);
    assert_eq!(error.details.limit, Some(32 << 10));
    assert_eq!(rig.visible("t"), 0);
}

#[tokio::test]
async fn a_produce_without_a_permit_is_handed_back_and_succeeds_when_there_is_room() {
    let options = MemoryOptions {
        queue_bytes: 48 << 10,
        durable_at_once: false,
        ..MemoryOptions::default()
    };
    let rig = Rig::with(options, Settings::default());
    rig.create("t", 1);
    let value = "x".repeat(30 << 10);
    let (lsn, _) = rig.produce(Acks::Fsync, structured("t", &[&value], None));
    let asked = request(Acks::Fsync, vec![structured("t", &[&value], None)]);
    let Outcome::Blocked { request, retry } = rig.broker.receive(asked.clone()) else {
        panic!("admitted beyond the budget");
    };
    assert_eq!(request, asked);
    // Freed before anybody looks at `retry`: it was registered when it was handed out.
    rig.store.make_durable(lsn);
    tokio::time::timeout(Duration::from_secs(10), retry)
        .await
        .unwrap();
    let (lsn, reply) = waits(rig.broker.receive(request));
    assert!(reply.is_ok() && lsn > rig.durable());
    rig.store.make_durable(lsn);
    assert_eq!(rig.visible("t"), 2);
}

#[test]
fn a_poisoned_engine_gives_no_definite_answer() {
    let rig = Rig::manual();
    rig.create("t", 1);
    rig.store.poison();
    let (_, produced) = rig.produce(Acks::Fsync, raw("t", 1));
    let error = produced.unwrap_err();
    assert_eq!(error.code, ErrorCode::StorageFailed);
    assert!(!error.code.is_definite());
}

#[test]
fn too_many_batches_in_one_request_are_refused() {
    let rig = Rig::new();
    let max = Settings::default().request_partitions_max;
    let items = vec![raw("t", 1); max + 1];
    let error = rig.ask(request(Acks::Fsync, items)).unwrap_err();
    assert_eq!(error.code, ErrorCode::TooManyElements);
    assert_eq!(
        (error.details.limit, error.details.actual),
        (Some(max as u64), Some(max as u64 + 1))
    );
}

/// A compressed batch for partition 0.
fn compressed(topic: &str, records: u32) -> ProducePartition {
    let mut builder = BatchBuilder::new().compressed(crate::record::Codec::Zstd);
    for _ in 0..records {
        builder.push(Timestamp(5), None, Some(&[b'v'; 1_000]), &[]);
    }
    item(named(topic, 0), ProducePayload::Raw(builder.finish(None)))
}

#[tokio::test]
async fn small_compressed_batches_are_validated_where_they_arrive_and_many_of_them_elsewhere() {
    let rig = Rig::new();
    rig.create("t", 1);
    for batches in [1, 8, 9, 1_000] {
        let mut outcome = rig
            .broker
            .receive(request(Acks::Fsync, vec![compressed("t", 5); batches]));
        let elsewhere = matches!(outcome, Outcome::Blocked { .. });
        assert_eq!(elsewhere, batches > 8, "{batches}");
        if let Outcome::Blocked { request, retry } = outcome {
            retry.await;
            outcome = rig.broker.receive(request);
        }
        let (_, reply) = waits(outcome);
        let Ok(Response::Produce(Produced { partitions })) = reply else {
            panic!("{reply:?}");
        };
        assert!(partitions.iter().all(Result::is_ok), "{batches}");
    }
    // To be read as records it is decompressed elsewhere, too; as it is, it needs no thread.
    let read = |form| rig.broker.receive(fetch(form, Duration::ZERO, &[("t", 0, 1)]));
    assert!(matches!(read(FetchForm::Raw), Outcome::AfterLsn { .. }));
    let Outcome::Later(records) = read(FetchForm::Structured) else {
        panic!("records were decompressed on the caller's thread");
    };
    let records = fetched(records.await).remove(0).unwrap();
    assert_eq!(values(&records)[0].0, 1);
    // One that holds more than a thread of connections should look at.
    let large = compressed("t", 1_000);
    assert!(large.payload.bytes() < 16 << 10);
    let outcome = rig.broker.receive(request(Acks::Fsync, vec![large]));
    assert!(matches!(outcome, Outcome::Blocked { .. }));
    assert_eq!(rig.visible("t"), 5 * (1 + 8 + 9 + 1_000));
}

/// A topic whose records have the broker's time.
fn create_with_append_time(rig: &Rig, name: &str) {
    let configs = vec![("message.timestamp.type".to_owned(), "LogAppendTime".to_owned())];
    let Request::CreateTopic(create) = create(name, 1) else {
        panic!("another request");
    };
    let created = rig.ask(Request::CreateTopic(CreateTopic { configs, ..create }));
    assert!(created.is_ok(), "{created:?}");
}

#[test]
fn append_time_takes_the_place_of_the_producers_and_never_goes_back() {
    let rig = Rig::new();
    create_with_append_time(&rig, "t");
    let times = |offset| {
        let all = fetched(rig.ask(fetch(FetchForm::Structured, Duration::ZERO, &[("t", 0, offset)])));
        let FetchPayload::Structured(records) = &all[0].as_ref().unwrap().payload else {
            panic!("{all:?}");
        };
        let times = records
            .iter()
            .map(|(_, record)| record.timestamp.unwrap().0 - START.0);
        times.collect::<Vec<_>>()
    };
    rig.produce(Acks::Fsync, raw("t", 2)).1.unwrap();
    rig.clock.advance(Duration::from_secs(3));
    let produced = rig.produce(Acks::Fsync, structured("t", &["a"], None)).1.unwrap();
    assert_eq!(times(0), [0, 0, 3000]);
    assert_eq!(produced.append_time.0 - START.0, 3000);
    let FetchPayload::Raw(batches) = rig.read("t", 0).unwrap().payload else {
        panic!("not raw");
    };
    for bytes in batches {
        for batch in crate::record::Batches::new(bytes) {
            let (header, bytes) = batch.unwrap();
            assert_eq!(header.attributes, 1 << 3);
            assert_eq!(crate::record::check_crc(&header, &bytes), Ok(()));
        }
    }
}

#[test]
fn a_retry_on_a_topic_with_append_time_is_a_duplicate_with_the_first_time() {
    let rig = Rig::new();
    create_with_append_time(&rig, "t");
    let producer = rig.init(None).unwrap();
    let first = rig
        .produce(Acks::Fsync, sequenced("t", producer, 0, 2))
        .1
        .unwrap();
    rig.clock.advance(Duration::from_secs(9));
    let again = rig
        .produce(Acks::Fsync, sequenced("t", producer, 0, 2))
        .1
        .unwrap();
    assert!(again.duplicate);
    assert_eq!(
        (again.offsets, again.append_time),
        (first.offsets, first.append_time)
    );
}

#[test]
fn a_time_too_far_ahead_is_refused_with_the_record_and_nothing_is_written() {
    let rig = Rig::new();
    rig.create("t", 1);
    let mut ahead = structured("t", &["a", "b"], None);
    if let ProducePayload::Structured { records, .. } = &mut ahead.payload {
        records[1].timestamp = Some(Timestamp(START.0 + 3_600_001));
    }
    let refused = rig.produce(Acks::Fsync, ahead).1.unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidTimestamp);
    assert!(refused.message.starts_with("record 1: "), "{}", refused.message);
    assert!(refused.code.is_definite());
    assert_eq!(rig.visible("t"), 0);
}
