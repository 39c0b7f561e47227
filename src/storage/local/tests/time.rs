//! Times of segments: what is known of them, and that it survives.

use super::*;
use crate::record::Codec;

fn segments(rig: &Rig, key: PartitionKey) -> Vec<crate::storage::SegmentSummary> {
    rig.store.open(key, CONFIG).segments()
}

#[test]
fn segments_know_their_append_times_and_keep_them_over_every_restart() {
    let mut rig = Rig::new(&small());
    let mut appended = Vec::new();
    for fill in 0..40 {
        appended.push(rig.clock.wall());
        rig.produce(key(1, 0), 2, 500, fill);
        rig.clock.advance(Duration::from_millis(250));
        if fill == 0 {
            assert_eq!(segments(&rig, key(1, 0)), [], "nothing is applied yet");
        }
    }
    rig.inline.apply().unwrap();
    let live = segments(&rig, key(1, 0));
    assert!(live.len() > 2, "{live:?}");
    for (at, segment) in live.iter().enumerate() {
        // Two records per batch.
        let first = usize::try_from(segment.base.get() / 2).unwrap();
        let behind = usize::try_from(segment.end.get() / 2).unwrap();
        assert_eq!(segment.oldest_append, appended[first]);
        assert_eq!(segment.newest_append, appended[behind - 1]);
        assert_eq!(segment.max_timestamp, Timestamp(1_700_000_000_000));
        assert_eq!(segment.sealed, at + 1 < live.len());
        assert!(segment.bytes > 0);
    }
    let total: u64 = live.iter().map(|s| s.bytes).sum();
    assert_eq!(total, rig.store.open(key(1, 0), CONFIG).stats().size_bytes);

    let replayed = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
    assert_eq!(segments(&replayed, key(1, 0)), live, "from the journal");
    replayed.inline.stop().unwrap();
    let read = Rig::open(&replayed.disk.after_kill(), &small()).unwrap();
    assert_eq!(segments(&read, key(1, 0)), live, "from the checkpoint");
}

/// What is found for each of the batches of two records, which were appended then: at most so many ms too early.
fn compare_appended(rig: &Rig, appended: &[Timestamp], early_ms: i64, what: &str) {
    let log = rig.store.open(key(1, 0), CONFIG);
    for (batch, time) in appended.iter().enumerate() {
        let first = i64::try_from(batch * 2).unwrap();
        for at in [offset(first), offset(first + 1)] {
            let found = log.find_append_time_now(at).unwrap().unwrap();
            let early = time.0 - found.0;
            assert!(
                (0..=early_ms).contains(&early),
                "{what}: {at} is {early} ms early"
            );
            let known = log.state().append_time(at).unwrap();
            assert!(known.earliest <= *time && *time <= known.latest, "{what}: {at}");
            assert!(known.exact().is_none_or(|known| known == *time));
        }
    }
    let end = offset(i64::try_from(appended.len() * 2).unwrap());
    assert_eq!(log.find_append_time_now(end), Ok(None));
    assert_eq!(log.state().append_time(end), None);
}

#[test]
fn the_append_time_at_an_offset_is_exact_in_memory_and_less_than_a_second_early_on_disk() {
    let mut rig = Rig::new(&small());
    let mut appended = Vec::new();
    for (fill, pause_ms) in [0, 0, 300, 300, 300, 300, 5_000, 999, 1, 60_000, 0, 10]
        .into_iter()
        .cycle()
        .take(80)
        .enumerate()
    {
        rig.clock.advance(Duration::from_millis(pause_ms));
        appended.push(rig.clock.wall());
        rig.produce(key(1, 0), 2, 20, u8::try_from(fill).unwrap());
    }
    compare_appended(&rig, &appended, 0, "in memory");
    while rig.inline.apply().unwrap() == Round::Worked {}
    evict(&rig);
    compare_appended(&rig, &appended, 999, "on disk");
    rig.clock.advance(Duration::from_secs(3_600));
    appended.push(rig.clock.wall());
    rig.produce(key(1, 0), 2, 20, 0);
    rig.inline.stop().unwrap();

    let disk = rig.disk.after_kill();
    let mut again = Rig::open(&disk.after_kill(), &small()).unwrap();
    again.clock.jump_wall(rig.clock.wall());
    compare_appended(&again, &appended, 999, "after a restart");
    appended.push(again.clock.wall());
    again.produce(key(1, 0), 2, 20, 0);
    again.clock.advance(Duration::from_secs(2));
    appended.push(again.clock.wall());
    again.produce(key(1, 0), 2, 20, 0);
    while again.inline.apply().unwrap() == Round::Worked {}
    evict(&again);
    compare_appended(&again, &appended, 999, "a segment that was opened again");

    let indexes = disk
        .files()
        .into_iter()
        .filter(|(path, _)| path.ends_with(".index"));
    for (path, _) in indexes {
        disk.write_file(&path, b"").unwrap();
    }
    let without = Rig::open(&disk.after_kill(), &small()).unwrap();
    compare_appended(&without, &appended[..81], i64::MAX, "without an index");
}

/// What was written: offset and timestamp of every record.
type Written = Vec<(i64, i64)>;

/// A batch of records with these timestamps, appended and durable.
fn append(rig: &mut Rig, key: PartitionKey, times: &[i64], written: &mut Written) {
    let batch = timed(rig, key, times);
    let first = batch.header().base_offset.get();
    for (at, time) in times.iter().enumerate() {
        written.push((first + i64::try_from(at).unwrap(), *time));
    }
    rig.submit(vec![(key, batch)], &[]);
    while rig.inline.journal().unwrap() == Round::Worked {}
}

fn timed(rig: &Rig, key: PartitionKey, times: &[i64]) -> SealedBatch {
    let mut builder = BatchBuilder::new();
    for time in times {
        builder.push(Timestamp(*time), None, Some(&[7; 250]), &[]);
    }
    let mut batch = builder.seal(None);
    let end = rig.store.open(key, CONFIG).bounds(Lsn::ZERO).log_end;
    batch.stamp(end, rig.store.leader_epoch());
    batch
}

fn find(rig: &Rig, key: PartitionKey, at: i64) -> Result<Option<(i64, i64)>, ReadError> {
    let log = rig.store.open(key, CONFIG);
    let found = log.find_timestamp_now(Timestamp(at), rig.durable())?;
    Ok(found.map(|found| (found.offset.get(), found.timestamp.0)))
}

/// Compares lookups of every interesting time with a walk over everything that was written from `start` on.
fn compare(rig: &Rig, key: PartitionKey, written: &Written, start: i64, what: &str) {
    let times = written.iter().flat_map(|(_, time)| [time - 1, *time, time + 1]);
    for at in times.chain([i64::MIN, 0, i64::MAX]) {
        let readable = written.iter().filter(|(offset, _)| *offset >= start);
        let expected = readable.copied().find(|(_, time)| *time >= at);
        assert_eq!(find(rig, key, at), Ok(expected), "{what}: first record at {at}");
    }
}

/// Times that mostly ascend and sometimes go back, the same for the same seed.
fn some_times(seed: &mut u64, base: i64) -> Vec<i64> {
    let mut next = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        i64::try_from(*seed >> 40).unwrap()
    };
    let count = 1 + next() % 5;
    (0..count).map(|_| base + next() % 2000 - 900).collect()
}

fn evict(rig: &Rig) {
    rig.store.engine.tail().evict(rig.durable(), 0);
}

#[test]
fn a_time_is_found_exactly_in_memory_in_segments_and_across_both() {
    for mut seed in 1..6 {
        let what = format!("seed {seed}");
        let mut rig = Rig::new(&small());
        let mut written = Written::new();
        for i in 0..60 {
            let times = some_times(&mut seed, 1_000_000 + i * 400);
            append(&mut rig, key(1, 0), &times, &mut written);
        }
        compare(&rig, key(1, 0), &written, 0, &format!("{what}, in memory"));
        while rig.inline.apply().unwrap() == Round::Worked {}
        evict(&rig);
        assert!(segments(&rig, key(1, 0)).len() > 2);
        for i in 60..80 {
            let times = some_times(&mut seed, 1_000_000 + i * 400);
            append(&mut rig, key(1, 0), &times, &mut written);
        }
        compare(&rig, key(1, 0), &written, 0, &format!("{what}, half applied"));
        let replayed = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
        compare(&replayed, key(1, 0), &written, 0, &format!("{what}, recovered"));
        for start in [1, 17, 101] {
            replayed.store.open(key(1, 0), CONFIG).state().log_start = offset(start);
            compare(
                &replayed,
                key(1, 0),
                &written,
                start,
                &format!("{what}, from {start}"),
            );
        }
    }
}

/// What is done to an index file of this length.
type Damage = fn(&SimDisk, &str, u64);

#[test]
fn a_damaged_or_missing_index_changes_no_answer() {
    let mut rig = Rig::new(&small());
    let (mut written, mut seed) = (Written::new(), 7);
    for i in 0..120 {
        let times = some_times(&mut seed, 1_000_000 + i * 400);
        append(&mut rig, key(1, 0), &times, &mut written);
    }
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    let indexes: Vec<_> = disk
        .files()
        .into_iter()
        .filter(|(p, _)| p.ends_with(".index"))
        .collect();
    assert!(indexes.len() > 2 && indexes.iter().all(|(_, len)| *len > 0));
    let damage: [(&str, Damage); 3] = [
        ("every entry flipped", |disk, path, len| {
            for entry in 0..len / 40 {
                disk.flip_bit(path, entry * 40 + 17, 6).unwrap();
            }
        }),
        ("the middle entry flipped", |disk, path, len| {
            disk.flip_bit(path, len / 40 / 2 * 40 + 20, 1).unwrap();
        }),
        ("cut", |disk, path, len| {
            let bytes = disk.read_file(path).unwrap();
            disk.write_file(path, &bytes[..usize::try_from(len / 2).unwrap()])
                .unwrap();
        }),
    ];
    for (what, damage) in damage {
        let disk = disk.after_kill();
        for (path, len) in &indexes {
            damage(&disk, path, *len);
        }
        let again = Rig::open(&disk, &small()).unwrap();
        compare(&again, key(1, 0), &written, 0, what);
    }
}

#[test]
fn damage_on_the_way_to_a_time_is_an_error_and_never_a_later_record() {
    let mut rig = Rig::new(&small());
    let mut written = Written::new();
    for i in 0..20 {
        append(&mut rig, key(1, 0), &[i * 10, i * 10 + 5], &mut written);
    }
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    let path = super::super::paths::segment(key(1, 0), Offset::ZERO);
    let bytes = disk.read_file(&path).unwrap();
    // The greatest timestamp of the third batch becomes less than what is looked for.
    let batch_bytes = u64::try_from(bytes.len()).unwrap() / 20;
    disk.flip_bit(&path, 2 * batch_bytes + 42, 4).unwrap();
    let again = Rig::open(&disk, &small()).unwrap();
    let corrupt = ReadError::Corrupt {
        first: offset(4),
        last: offset(5),
    };
    assert_eq!(find(&again, key(1, 0), 20), Err(corrupt));
    assert_eq!(
        find(&again, key(1, 0), 15),
        Ok(Some((3, 15))),
        "before the damage"
    );
}

/// What the broker does with a batch before it is stored.
#[derive(Clone, Copy, Debug)]
enum Form {
    Compressed(Codec),
    AppendTime(Codec),
}

/// Batches of three records in this form, in turns of segments: the offset and time of every record as a reader sees it.
fn fill_in_form(rig: &mut Rig, form: Form) -> Written {
    let mut written = Written::new();
    for i in 0..40 {
        let (codec, stamped) = match form {
            Form::Compressed(codec) => (codec, None),
            Form::AppendTime(codec) => (codec, Some(1_000 * i)),
        };
        let times = [i * 400, i * 400 + 300, i * 400 - 250];
        let mut builder = BatchBuilder::new().compressed(codec);
        for time in times {
            builder.push(Timestamp(time), None, Some(&[7; 250]), &[]);
        }
        let mut batch = crate::record::validate(builder.finish(None), u32::MAX).unwrap();
        let end = rig.store.open(key(1, 0), CONFIG).bounds(Lsn::ZERO).log_end;
        batch.stamp(end, rig.store.leader_epoch());
        assert_eq!(Codec::of(batch.header()), Ok(codec));
        if let Some(at) = stamped {
            batch.stamp_append_time(Timestamp(at));
        }
        for (record, time) in (0..).zip(times) {
            written.push((end.get() + record, stamped.unwrap_or(time)));
        }
        rig.submit(vec![(key(1, 0), batch)], &[]);
        while rig.inline.journal().unwrap() == Round::Worked {}
    }
    written
}

#[test]
fn a_time_is_found_exactly_in_compressed_batches_and_in_those_with_the_brokers_time() {
    let real = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    let forms = real.map(Form::Compressed).into_iter();
    for form in forms.chain([Form::AppendTime(Codec::None), Form::AppendTime(Codec::Zstd)]) {
        let mut rig = Rig::new(&small());
        let written = fill_in_form(&mut rig, form);
        compare(&rig, key(1, 0), &written, 0, &format!("{form:?}, in memory"));
        rig.inline.stop().unwrap();
        let again = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
        compare(&again, key(1, 0), &written, 0, &format!("{form:?}, from disk"));
        again.store.open(key(1, 0), CONFIG).state().log_start = offset(37);
        compare(
            &again,
            key(1, 0),
            &written,
            37,
            &format!("{form:?}, behind a trim"),
        );
    }
}

#[test]
fn records_that_are_not_durable_are_not_found() {
    let mut rig = Rig::new(&small());
    let mut written = Written::new();
    append(&mut rig, key(1, 0), &[10], &mut written);
    let batch = timed(&rig, key(1, 0), &[20]);
    rig.submit(vec![(key(1, 0), batch)], &[]);
    assert_eq!(find(&rig, key(1, 0), 20), Ok(None));
    let before = rig.durable();
    while rig.inline.journal().unwrap() == Round::Worked {}
    assert_eq!(find(&rig, key(1, 0), 20), Ok(Some((1, 20))));
    // Somebody who loaded the durable LSN earlier sees what was durable then, also when more is applied by now.
    while rig.inline.apply().unwrap() == Round::Worked {}
    let log = rig.store.open(key(1, 0), CONFIG);
    assert_eq!(log.find_timestamp_now(Timestamp(20), before), Ok(None));
    rig.submit(vec![], &[key(1, 0).topic]);
    assert_eq!(
        log.find_timestamp_now(Timestamp(20), before),
        Err(ReadError::NotOwner)
    );
}

#[test]
fn an_idle_segment_is_closed_without_an_append_and_the_next_batch_begins_another() {
    let mut rig = Rig::new(&small());
    let first = rig.produce(key(1, 0), 1, 100, 1);
    rig.inline.applier_round(true).unwrap();
    assert!(!segments(&rig, key(1, 0))[0].sealed);
    rig.clock.advance(Duration::from_secs(8));
    rig.inline.applier_round(true).unwrap();
    assert!(!segments(&rig, key(1, 0))[0].sealed, "not old enough");
    rig.clock.advance(Duration::from_secs(2));
    rig.inline.applier_round(true).unwrap();
    assert!(segments(&rig, key(1, 0))[0].sealed);
    let path = super::super::paths::segment(key(1, 0), Offset::ZERO);
    assert_eq!(rig.disk.read_file(&path).unwrap(), first, "cut to its batches");
    // It stays closed over restarts, and the next batch goes elsewhere whichever way the engine came up.
    rig.inline.checkpoint().unwrap();
    let mut again = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
    assert!(segments(&again, key(1, 0))[0].sealed);
    let second = again.produce(key(1, 0), 1, 100, 2);
    again.inline.applier_round(true).unwrap();
    let third = Rig::open(&again.disk.after_kill(), &small()).unwrap();
    for rig in [&again, &third] {
        let bases: Vec<_> = segments(rig, key(1, 0))
            .iter()
            .map(|s| (s.base, s.sealed))
            .collect();
        assert_eq!(bases, [(offset(0), true), (offset(1), false)]);
        assert_eq!(rig.read_all(key(1, 0)), [first.clone(), second.clone()].concat());
    }
}

#[test]
fn a_busy_segment_is_closed_by_age_too_and_what_is_in_memory_follows_the_rule() {
    let mut rig = Rig::new(&Settings {
        apply_after: Duration::from_secs(3600),
        journal_file_bytes: 1 << 20,
        journal_first_file_bytes: 1 << 20,
        ..small()
    });
    let mut expected = Vec::new();
    for fill in 0..30 {
        expected.extend_from_slice(&rig.produce(key(1, 0), 1, 20, fill));
        rig.clock.advance(Duration::from_secs(1));
        rig.inline.applier_round(false).unwrap();
    }
    assert_eq!(segments(&rig, key(1, 0)), [], "all of it waits in memory");
    while rig.inline.apply().unwrap() == Round::Worked {}
    let live = segments(&rig, key(1, 0));
    assert_eq!(live.len(), 4, "thirty seconds in segments of nine: {live:?}");
    assert_eq!(rig.read_all(key(1, 0)), expected);
    let replayed = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
    assert_eq!(
        segments(&replayed, key(1, 0)),
        live,
        "the layout is the journal's, not the clock's"
    );
}

#[test]
fn a_segment_that_lost_its_end_is_never_written_to_again() {
    let mut rig = Rig::new(&small());
    // More than the last block, which would be put back.
    rig.produce(key(1, 0), 2, 3000, 1);
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    let path = super::super::paths::segment(key(1, 0), Offset::ZERO);
    let bytes = disk.read_file(&path).unwrap();
    disk.write_file(&path, &bytes[..700]).unwrap();
    let mut again = Rig::open(&disk, &small()).unwrap();
    again.clock.advance(Duration::from_secs(100));
    again.inline.applier_round(true).unwrap();
    let next = again.produce(key(1, 0), 1, 10, 2);
    again.inline.applier_round(true).unwrap();
    assert_eq!(again.store.status().failure, None);
    evict(&again);
    assert_eq!(again.read(key(1, 0), offset(2), 1000).unwrap().0, next);
    assert_eq!(
        disk.read_file(&path).unwrap(),
        bytes[..700],
        "left as it was found"
    );
}
