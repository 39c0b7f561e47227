//! How far damage in a segment goes: exactly the damaged batches are fenced off, found by whom and when it may be.

use super::rot::position_in;
use super::*;
use crate::disk::Disk;
use crate::disk::sim::{Fault, FaultKind};
use crate::storage::TimedOffset;
use crate::storage::local::format::index::IndexEntry;
use crate::testing::rounds;

const KEY: PartitionKey = PartitionKey {
    topic: TopicId::from_bytes([1; 16]),
    partition: PartitionId(0),
};
const SECTOR: u64 = 512;

/// A partition with a first segment that is full, of batches of many sizes, stopped in order.
struct Filled {
    disk: SimDisk,
    stored: Vec<Bytes>,
    path: String,
    /// Of the batches in the first segment: position, first and last offset.
    places: Vec<(u64, Offset, Offset)>,
}

fn first_segment() -> String {
    crate::storage::local::paths::segment(KEY, Offset::ZERO)
}

fn filled(batches: u8) -> Filled {
    let mut rig = Rig::new(&small());
    let sizes = [10, 40, 300, 90, 5, 700, 20, 130];
    let stored: Vec<_> = (0..batches)
        .map(|i| {
            let records = 1 + usize::from(i) % 3;
            rig.produce(KEY, records, sizes[usize::from(i) % sizes.len()], i)
        })
        .collect();
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    let path = first_segment();
    let segment = disk.read_file(&path).unwrap();
    let mut places = Vec::new();
    let mut at = 0;
    for batch in &stored {
        if at == segment.len() {
            break;
        }
        let header = BatchHeader::parse(batch).unwrap();
        assert!(segment[at..].starts_with(batch));
        places.push((at as u64, header.base_offset, header.last_offset()));
        at += batch.len();
    }
    assert!(places.len() < stored.len(), "something stands in another segment");
    Filled {
        disk,
        stored,
        path,
        places,
    }
}

impl Filled {
    /// The batches that these bytes of the first segment belong to.
    fn batches_of(&self, from: u64, to: u64) -> Vec<usize> {
        let end = |i: usize| self.places[i].0 + self.stored[i].len() as u64;
        (0..self.places.len())
            .filter(|i| self.places[*i].0 < to && from < end(*i))
            .collect()
    }

    /// What must be told of some damaged batches, and what must be read.
    fn expected(&self, damaged: &[usize]) -> (Vec<(Offset, Offset)>, Bytes) {
        let mut ranges: Vec<(Offset, Offset)> = Vec::new();
        let mut bytes = Vec::new();
        for (i, batch) in self.stored.iter().enumerate() {
            if !damaged.contains(&i) {
                bytes.extend_from_slice(batch);
                continue;
            }
            let (_, first, last) = self.places[i];
            match ranges.last_mut() {
                Some((_, before)) if before.next() == first => *before = last,
                _ => ranges.push((first, last)),
            }
        }
        (ranges, bytes.into())
    }
}

/// Reads all that can be read from an offset on, going on behind what is told to be damaged.
fn read_around(rig: &Rig, from: Offset, max_bytes: u32) -> (Vec<(Offset, Offset)>, Bytes) {
    let (mut told, mut bytes) = (Vec::new(), Vec::new());
    let mut next = from;
    loop {
        match rig.read(KEY, next, max_bytes) {
            Ok((read, _)) if read.is_empty() => return (told, bytes.into()),
            Ok((read, behind)) => {
                assert!(behind > next);
                bytes.extend_from_slice(&read);
                next = behind;
            }
            Err(ReadError::Corrupt { first, last }) => {
                assert_eq!(first, next);
                told.push((first, last));
                next = last.next();
            }
            Err(other) => panic!("{next}: {other}"),
        }
    }
}

fn without_index(disk: &SimDisk) {
    for (path, len) in disk.files().into_iter().filter(|(p, _)| p.ends_with(".index")) {
        (0..len).for_each(|at| disk.flip_bit(&path, at, 1).unwrap());
    }
}

fn quarantined(rig: &Rig) -> Vec<(Offset, Offset)> {
    rig.store.open(KEY, CONFIG).stats().quarantined
}

#[test]
fn every_flip_in_a_header_costs_its_own_batch_alone() {
    let filled = filled(60);
    let last = filled.places.len() - 1;
    let mut images = 0;
    for indexed in [true, false] {
        let disk = filled.disk.after_kill();
        if !indexed {
            without_index(&disk);
        }
        for victim in [0, 7, last] {
            // The leader epoch, bytes 12 to 15, is nothing that a checksum of the batch covers.
            for at in (0..12).chain(16..62) {
                let image = disk.after_kill();
                let bit = (at + victim as u64) % 8;
                image
                    .flip_bit(
                        &filled.path,
                        filled.places[victim].0 + at,
                        bit.try_into().unwrap(),
                    )
                    .unwrap();
                let rig = Rig::open(&image, &small()).unwrap();
                let what = format!("batch {victim}, byte {at}, indexed {indexed}");
                let (ranges, bytes) = filled.expected(&[victim]);
                assert_eq!(
                    read_around(&rig, Offset::ZERO, 5_000),
                    (ranges.clone(), bytes),
                    "{what}"
                );
                assert_eq!(quarantined(&rig), ranges, "{what}");
                assert_eq!(rig.store.status().crc_errors, 1, "{what}");
                images += 1;
            }
        }
    }
    println!("figures every_flip_in_a_header: images={images}");
}

/// Several pieces of damage, read from anywhere: the same batches are fenced off in whatever order they are found.
#[test]
fn fences_are_the_batches_that_are_damaged_and_no_others() {
    let filled = filled(60);
    let length: u64 = filled.disk.read_file(&filled.path).unwrap().len() as u64;
    let (mut images, mut pieces, mut ranges, mut wider) = (0, 0, 0, 0);
    for seed in rounds(150) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let image = filled.disk.after_kill();
        if rng.u8(0..4) == 0 {
            without_index(&image);
        }
        let mut damaged = Vec::new();
        for _ in 0..rng.usize(1..5) {
            let (at, how) = (rng.u64(0..length), rng.u8(0..3));
            let sector = at / SECTOR * SECTOR;
            let (from, to) = if how == 0 {
                (at, at + 1)
            } else {
                (sector, sector + SECTOR)
            };
            let hit = filled.batches_of(from, to);
            let is_epoch = |batch: &usize| (12..16).contains(&at.wrapping_sub(filled.places[*batch].0));
            // Of a header that is hit twice nothing may be left by which it is known.
            if (how == 0 && hit.iter().any(is_epoch)) || hit.iter().any(|batch| damaged.contains(batch)) {
                continue;
            }
            match how {
                0 => image.flip_bit(&filled.path, at, rng.u32(0..8)).unwrap(),
                1 => image.zero_sector(&filled.path, at).unwrap(),
                _ => image.make_unreadable(&filled.path, sector, 1).unwrap(),
            }
            damaged.extend(hit);
            pieces += 1;
        }
        let (expected, bytes) = filled.expected(&damaged);
        let end = filled
            .stored
            .iter()
            .map(|b| BatchHeader::parse(b).unwrap().last_offset())
            .max();
        let from = offset(rng.i64(0..end.unwrap().get()));
        // Found by a read from the middle, and then the rest by one from the start, or all at once.
        let rig = Rig::open(&image, &small()).unwrap();
        if rng.bool() {
            read_around(&rig, from, rng.u32(1..20_000));
        }
        let told = read_around(&rig, Offset::ZERO, rng.u32(1..20_000));
        assert_eq!(quarantined(&rig), told.0, "seed {seed}");
        if told.0 != expected {
            // Whole batches in front of a second one whose header is gone look like those in a record's value.
            wider += 1;
            let covered = |range: &(Offset, Offset)| told.0.iter().any(|t| t.0 <= range.0 && range.1 <= t.1);
            assert!(
                expected.len() > told.0.len() && expected.iter().all(covered),
                "seed {seed}"
            );
            let ends = |t: &(Offset, Offset)| {
                expected.iter().any(|e| e.0 == t.0) && expected.iter().any(|e| e.1 == t.1)
            };
            assert!(told.0.iter().all(ends), "seed {seed}: {:?}", told.0);
            continue;
        }
        assert!(told.1 == bytes, "seed {seed}");
        ranges += expected.len();
        images += 1;
    }
    println!("figures fences: images={images} pieces={pieces} ranges={ranges} wider={wider}");
    assert!(
        images > 10 * wider,
        "{wider} of {images} are wider than the damage"
    );
}

#[test]
fn damage_over_entries_of_the_index_is_one_range() {
    let filled = filled(60);
    let image = filled.disk.after_kill();
    for sector in 2..20 {
        image.zero_sector(&filled.path, sector * SECTOR).unwrap();
    }
    let (ranges, bytes) = filled.expected(&filled.batches_of(2 * SECTOR, 20 * SECTOR));
    assert_eq!(ranges.len(), 1);
    let rig = Rig::open(&image, &small()).unwrap();
    assert_eq!(read_around(&rig, Offset::ZERO, 5_000), (ranges, bytes));
}

#[test]
fn what_a_shortened_file_has_lost_is_fenced_off_to_the_end_of_the_segment() {
    let filled = filled(60);
    let image = filled.disk.after_kill();
    let kept = image.read_file(&filled.path).unwrap()[..5_000].to_vec();
    image.write_file(&filled.path, &kept).unwrap();
    let (ranges, bytes) = filled.expected(&filled.batches_of(5_000, u64::MAX));
    let rig = Rig::open(&image, &small()).unwrap();
    assert_eq!(read_around(&rig, Offset::ZERO, 5_000), (ranges, bytes));
}

#[test]
fn segment_that_goes_missing_while_the_broker_runs_is_damage() {
    let filled = filled(60);
    let rig = Rig::open(&filled.disk, &small()).unwrap();
    Disk::unlink(&filled.disk, &filled.path).unwrap();
    let all: Vec<_> = (0..filled.places.len()).collect();
    assert_eq!(read_around(&rig, Offset::ZERO, 5_000), filled.expected(&all));
}

/// A record whose value is itself a batch of this partition, as of somebody who copies raw batches.
#[test]
fn batch_in_the_value_of_a_record_is_not_taken_for_the_next_one() {
    for around in [0, 3] {
        let mut rig = Rig::new(&small());
        let mut stored: Vec<_> = (0..around).map(|i| rig.produce(KEY, 1, 30, i)).collect();
        let mut inner = rig.batch(KEY, 1, 50, 7);
        inner.stamp(offset(i64::from(around) + 1), rig.store.leader_epoch());
        let mut outer = BatchBuilder::new();
        for _ in 0..3 {
            outer.push(Timestamp(1_700_000_000_000), None, Some(&inner.to_bytes()), &[]);
        }
        let mut outer = outer.seal(None);
        outer.stamp(offset(around.into()), rig.store.leader_epoch());
        stored.push(outer.to_bytes());
        rig.submit(vec![(KEY, outer)], &[]);
        rig.inline.journal().unwrap();
        stored.extend((0..5).map(|i| rig.produce(KEY, 1, 30, i)));
        // Into the next block: of the last one the checkpoint has a copy.
        stored.push(rig.produce(KEY, 1, 4096, 5));
        rig.inline.stop().unwrap();
        let victim = &stored[usize::from(around)];
        let place = position_in(&rig.disk, &first_segment(), victim);
        for indexed in [true, false] {
            let image = rig.disk.after_kill();
            if !indexed {
                without_index(&image);
            }
            for (at, bit) in [(9, 4), (16, 0)] {
                image.flip_bit(&first_segment(), place + at, bit).unwrap();
            }
            let again = Rig::open(&image, &small()).unwrap();
            let damage = (offset(i64::from(around)), offset(i64::from(around) + 2));
            let mut rest = stored.clone();
            rest.remove(usize::from(around));
            let told = read_around(&again, Offset::ZERO, 10_000);
            assert_eq!(told.0, [damage], "indexed {indexed}");
            assert!(told.1 == rest.concat(), "indexed {indexed}");
        }
    }
}

/// The length of a damaged batch leads to a batch in the value of one of its records: nothing follows on that one.
#[test]
fn length_that_leads_into_a_record_is_not_believed() {
    let mut rig = Rig::new(&small());
    let mut inner = rig.batch(KEY, 1, 50, 7);
    inner.stamp(offset(1), rig.store.leader_epoch());
    let inner = inner.to_bytes();
    let mut outer = BatchBuilder::new();
    (0..3).for_each(|_| outer.push(Timestamp(1_700_000_000_000), None, Some(&inner), &[]));
    let mut outer = outer.seal(None);
    outer.stamp(Offset::ZERO, rig.store.leader_epoch());
    let mut stored = vec![outer.to_bytes()];
    rig.submit(vec![(KEY, outer)], &[]);
    rig.inline.journal().unwrap();
    stored.extend((0..5).map(|i| rig.produce(KEY, 1, 30, i)));
    // Into the next block: of the last one the checkpoint has a copy.
    stored.push(rig.produce(KEY, 1, 4096, 5));
    rig.inline.stop().unwrap();
    let at = position_in(&rig.disk, &first_segment(), &inner);
    let mut segment = rig.disk.read_file(&first_segment()).unwrap();
    let length = u32::try_from(at - 12).unwrap();
    segment[8..12].copy_from_slice(&length.to_be_bytes());
    for indexed in [true, false] {
        let image = rig.disk.after_kill();
        image.write_file(&first_segment(), &segment).unwrap();
        if !indexed {
            without_index(&image);
        }
        let again = Rig::open(&image, &small()).unwrap();
        let told = read_around(&again, Offset::ZERO, 10_000);
        assert_eq!(told.0, [(offset(0), offset(2))], "indexed {indexed}");
        assert!(told.1 == stored[1..].concat(), "indexed {indexed}");
    }
}

/// Where batches begin that the index of the first segment names.
fn indexed_places(disk: &SimDisk) -> Vec<u64> {
    let path = crate::storage::local::paths::index(KEY, Offset::ZERO);
    let bytes = disk.read_file(&path).unwrap();
    let entries = bytes.as_chunks().0.iter();
    let entries = entries.map(|entry| IndexEntry::decode(entry).unwrap());
    entries.map(|entry| u64::from(entry.position)).collect()
}

/// The batch that the last entry of the index names has lost its own offset: not all that is in front of it is read for that,
/// however often somebody comes by.
#[test]
fn damaged_offset_of_an_indexed_batch_is_not_looked_for_from_the_front() {
    // From the entry before: two reads for each of about 50 batches, and some to see what follows; from the front they are 300.
    const READS: u64 = 220;
    let mut rig = Rig::new(&small());
    (0..250).for_each(|i| drop(rig.produce(KEY, 1, 10, i)));
    rig.inline.stop().unwrap();
    let segment = rig.store.open(KEY, CONFIG).segments()[0];
    let victim = *indexed_places(&rig.disk).last().unwrap();
    assert!(victim > 8192 && segment.sealed, "{victim}");
    let bytes = rig.disk.read_file(&first_segment()).unwrap();
    let header = BatchHeader::parse(&bytes[usize::try_from(victim).unwrap()..]).unwrap();
    let (first, last) = (header.base_offset, header.last_offset());
    let disk = rig.disk.after_kill();
    disk.flip_bit(&first_segment(), victim + 3, 3).unwrap();
    let settings = Settings {
        scrub_interval: Duration::from_secs(1),
        scrub_bytes_per_second: 1 << 30,
        ..small()
    };
    let mut rig = Rig::open(&disk, &settings).unwrap();
    rig.trim(KEY, last.next());
    while rig.inline.journal().unwrap() == Round::Worked {}
    while rig.inline.apply().unwrap() == Round::Worked {}
    let log = rig.store.open(KEY, CONFIG);
    // What is read beyond so many pieces fails, and is seen.
    let bounded = |what: &str, reads: u64, work: &mut dyn FnMut()| {
        disk.inject(
            Fault::next(FaultKind::ReadFails, &first_segment())
                .after(reads)
                .times(u64::MAX),
        );
        work();
        let strikes = disk.take_strikes();
        assert!(strikes.is_empty(), "{what}: more than {reads} reads");
        disk.clear_faults();
    };
    for round in 0..3 {
        bounded(&format!("lookup {round}"), READS, &mut || {
            let found = log
                .find_timestamp_now(Timestamp(i64::MIN), rig.durable())
                .unwrap();
            assert_eq!(found.unwrap().offset, last.next());
        });
    }
    for round in 0..2 {
        bounded(&format!("scrub {round}"), READS / 2, &mut || {
            let before = rig.store.status().scrub.passes;
            while rig.store.status().scrub.passes == before {
                let rest = rig.inline.scrub().unwrap();
                rig.clock.advance(rest);
            }
        });
    }
    assert!(first < last.next());
}

#[test]
fn read_error_that_heals_is_no_damage() {
    let filled = filled(60);
    for times in 1..5 {
        let disk = filled.disk.after_kill();
        let rig = Rig::open(&disk, &small()).unwrap();
        disk.inject(Fault::next(FaultKind::ReadFails, &filled.path).times(times));
        assert_eq!(
            read_around(&rig, Offset::ZERO, 5_000),
            (Vec::new(), filled.stored.concat().into()),
            "{times} times"
        );
        let status = rig.store.status();
        assert_eq!(
            (status.crc_errors, status.read_errors.lasting),
            (0, 0),
            "{times} times"
        );
        // The third try is for one batch alone, as in front of a sector that fails for good: what became of the rest it cannot tell.
        assert_eq!(status.read_errors.healed, u64::from(times != 2), "{times} times");
    }
}

#[test]
fn sector_that_cannot_be_read_costs_its_batches_and_nothing_else() {
    let filled = filled(60);
    let disk = filled.disk.after_kill();
    let mut rig = Rig::open(&disk, &small()).unwrap();
    let other = rig.produce(key(2, 0), 1, 100, 7);
    let sector = 9 * SECTOR;
    disk.make_unreadable(&filled.path, sector, 1).unwrap();
    let (ranges, bytes) = filled.expected(&filled.batches_of(sector, sector + SECTOR));
    assert_eq!(read_around(&rig, Offset::ZERO, 5_000), (ranges.clone(), bytes));
    let errors = rig.store.status().read_errors;
    assert_eq!((errors.healed, errors.lasting), (0, 1));
    // Appends go on, and so do other partitions.
    let more = rig.produce(KEY, 1, 10, 9);
    rig.inline.apply().unwrap();
    let (told, bytes) = read_around(&rig, ranges[0].0, 5_000);
    assert_eq!(told, ranges);
    assert!(bytes.ends_with(&more));
    assert_eq!(rig.read_all(key(2, 0)), other);
}

#[test]
fn disk_that_gives_nothing_at_all_is_no_damage_of_a_segment() {
    let filled = filled(60);
    let rig = Rig::open(&filled.disk, &small()).unwrap();
    filled
        .disk
        .inject(Fault::next(FaultKind::ReadFails, "").times(u64::MAX));
    let error = rig.read(KEY, Offset::ZERO, 5_000).unwrap_err();
    assert!(std::matches!(error, ReadError::Io(_)), "{error}");
    assert_eq!(quarantined(&rig), []);
    filled.disk.clear_faults();
    assert_eq!(rig.read_all(KEY), filled.stored.concat());
}

#[test]
fn what_a_read_has_found_is_known_after_a_kill() {
    let filled = filled(60);
    let (ranges, _) = filled.expected(&[9]);
    let disk = filled.disk.after_kill();
    disk.flip_bit(&filled.path, filled.places[9].0 + 8, 3).unwrap();
    let mut rig = Rig::open(&disk, &small()).unwrap();
    // What the start has changed is in a checkpoint.
    rig.clock.advance(Duration::from_secs(31));
    rig.inline.applier_round(false).unwrap();
    read_around(&rig, Offset::ZERO, 5_000);
    assert_eq!(quarantined(&rig), ranges);
    // Killed before the next checkpoint: it is found again, and it is the same.
    let again = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(quarantined(&again), []);
    assert_eq!(
        again.read(KEY, ranges[0].0, 5_000).unwrap_err(),
        rig.read(KEY, ranges[0].0, 5_000).unwrap_err()
    );
    assert_eq!(quarantined(&again), ranges);
    // Nobody appends, and yet a checkpoint tells the next life.
    rig.clock.advance(Duration::from_secs(31));
    rig.inline.applier_round(false).unwrap();
    let again = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(quarantined(&again), ranges);
    // Once is enough.
    let before = disk.ops();
    rig.clock.advance(Duration::from_secs(31));
    rig.inline.applier_round(false).unwrap();
    assert_eq!(disk.ops(), before);
}

/// What is trimmed is gone; what is left of a damaged range stays damage, whatever becomes of the segments around it.
#[test]
fn rest_of_a_damaged_range_stays_damage_when_it_is_trimmed_into() {
    let mut rig = Rig::new(&small());
    rig.produce(KEY, 2, 100, 1);
    let lost = rig.produce(KEY, 8, 100, 2);
    rig.produce(KEY, 2, 100, 3);
    rig.inline.seal();
    let disk = rig.disk.after_kill();
    let journal = "journal/00000000.journal";
    disk.flip_bit(journal, position_in(&disk, journal, &lost) + 80, 3)
        .unwrap();
    // The segment in front of the range ends with it, and goes when the range is trimmed into.
    let mut rig = Rig::open(&disk, &small()).unwrap();
    assert_eq!(quarantined(&rig), [(offset(2), offset(9))]);
    rig.trim(KEY, offset(5));
    let answers = |rig: &Rig, when: &str| {
        let low = rig.read(KEY, offset(4), 5_000).unwrap_err();
        assert!(
            std::matches!(low, ReadError::OutOfRange(bounds) if bounds.log_start == offset(5)),
            "{when}: {low}"
        );
        for from in 5..10 {
            let rest = ReadError::Corrupt {
                first: offset(from),
                last: offset(9),
            };
            assert_eq!(rig.read(KEY, offset(from), 5_000).unwrap_err(), rest, "{when}");
        }
        assert_eq!(quarantined(rig), [(offset(5), offset(9))], "{when}");
        rig.read(KEY, offset(10), 5_000).unwrap();
    };
    while rig.inline.journal().unwrap() == Round::Worked {}
    while rig.inline.apply().unwrap() == Round::Worked {}
    answers(&rig, "applied");
    for checkpoint in 0..3 {
        rig.inline.checkpoint().unwrap();
        answers(&rig, &format!("checkpoint {checkpoint}"));
    }
    answers(&Rig::open(&disk.after_kill(), &small()).unwrap(), "after a kill");
    rig.inline.stop().unwrap();
    answers(&Rig::open(&disk.after_kill(), &small()).unwrap(), "after a stop");
}

#[test]
fn lookup_by_time_passes_over_damage_below_the_log_start_and_tells_of_any_other() {
    let filled = filled(60);
    let disk = filled.disk.after_kill();
    let (_, first, last) = filled.places[3];
    disk.flip_bit(&filled.path, filled.places[3].0 + 9, 3).unwrap();
    let mut rig = Rig::open(&disk, &small()).unwrap();
    let log = rig.store.open(KEY, CONFIG);
    let everything = Timestamp(i64::MIN);
    let found = log.find_timestamp_now(Timestamp(i64::MAX), rig.durable());
    assert_eq!(found, Ok(None));
    let found = log.find_timestamp_now(everything, rig.durable()).unwrap();
    assert_eq!(found.map(|f| f.offset), Some(Offset::ZERO));
    for (trim, answer) in [
        (first, Err(ReadError::Corrupt { first, last })),
        (last.next(), Ok(last.next())),
    ] {
        rig.trim(KEY, trim);
        while rig.inline.journal().unwrap() == Round::Worked {}
        while rig.inline.apply().unwrap() == Round::Worked {}
        let found = log.find_timestamp_now(everything, rig.durable());
        let expected = answer.map(|offset| {
            Some(TimedOffset {
                offset,
                timestamp: Timestamp(1_700_000_000_000),
            })
        });
        assert_eq!(found, expected);
    }
}
