//! What tells that the end of the journal was durable, or that it cannot be told: a start never takes what was acknowledged for
//! unfinished.

use super::rot::{journal_of, journal_only, position_in};
use super::salvage::{planned, take};
use super::*;
use crate::disk::Disk;
use crate::disk::sim::{Fault, FaultKind};
use crate::storage::local::checkpoint::Pair;
use crate::storage::local::salvage::Way;
use crate::storage::local::survey::Survey;
use crate::storage::local::{paths, scan};

/// A start that is refused because of a block of a journal file, and has touched nothing.
#[track_caller]
fn refuses_because_of(disk: &SimDisk, path: &str, block: u64) {
    let before = (disk.ops(), disk.files());
    let error = Rig::open(disk, &small()).err().expect("a start");
    let names = |why: &String| why.contains(&format!("{path} cannot be read at {block},"));
    assert!(
        std::matches!(&error, OpenError::Refused(why) if names(why)),
        "{error}"
    );
    assert_eq!((disk.ops(), disk.files()), before);
}

#[test]
fn last_group_that_the_disk_does_not_give_is_not_taken_for_unfinished() {
    let mut rig = Rig::new(&small());
    let first = rig.produce(key(1, 0), 2, 100, 1);
    let last = rig.produce(key(1, 0), 2, 5_000, 2);
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &last);
    let group = position_in(&disk, &path, &last) / 4096 * 4096;
    // Its header, the middle of its batch, and its end.
    for (at, block) in [(0, 0), (5_000, 4096), (9_999, 8192)] {
        let image = disk.after_kill();
        image.make_unreadable(&path, group + at, 1).unwrap();
        refuses_because_of(&image, &path, group + block);
    }
    // Only for a moment, whenever it comes: also while the batch is looked at, behind header and table.
    let mut refused = 0;
    for after in 0..8 {
        let image = disk.after_kill();
        image.inject(Fault::next(FaultKind::ReadFails, &path).after(after).times(4));
        match Rig::open(&image, &small()) {
            Ok(rig) => assert_eq!(rig.read_all(key(1, 0)), [&first[..], &last].concat(), "{after}"),
            Err(OpenError::Refused(why)) => {
                refused += u32::from(why.contains(&format!("cannot be read at {group},")))
            }
            Err(OpenError::Io(_) | OpenError::RefusedLate(_)) => {}
            Err(other) => panic!("{after}: {other}"),
        }
        image.clear_faults();
        let again = Rig::open(&image, &small()).unwrap();
        assert_eq!(again.read_all(key(1, 0)), [&first[..], &last].concat(), "{after}");
    }
    assert!(refused > 0, "no read of the last batch has failed");
}

#[test]
fn block_behind_the_last_group_that_the_disk_does_not_give_may_be_a_group() {
    let (rig, stored) = journal_only(2);
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &stored[1]);
    let behind = position_in(&disk, &path, &stored[1]) / 4096 * 4096 + 2 * 4096;
    let image = disk.after_kill();
    image.make_unreadable(&path, behind + 512, 1).unwrap();
    refuses_because_of(&image, &path, behind);
    // Groups leave no gaps: further on there is none.
    let image = disk.after_kill();
    image.make_unreadable(&path, behind + 4096, 8192).unwrap();
    let again = Rig::open(&image, &small()).unwrap();
    assert_eq!(again.read_all(key(1, 0)), stored.concat());
    // The first group of a file that was only begun.
    let newest = Disk::list(&image, "journal")
        .unwrap()
        .into_iter()
        .map(|e| e.name)
        .max()
        .unwrap();
    let newest = format!("journal/{newest}");
    let third = image.after_kill();
    third.make_unreadable(&newest, 8192, 1).unwrap();
    refuses_because_of(&third, &newest, 8192);
    // What a stop in order has ended, and what a later file has ended, is known to be all.
    image.make_unreadable(&path, behind, 1).unwrap();
    let again = Rig::open(&image, &small()).unwrap();
    again.inline.stop().unwrap();
    image.make_unreadable(&newest, 8192, 60_000 - 8192).unwrap();
    let last = Rig::open(&image.after_kill(), &small()).unwrap();
    assert_eq!(last.read_all(key(1, 0)), stored.concat());
}

#[test]
fn last_group_in_segments_that_cannot_be_read_does_not_hide_what_is_behind_it() {
    let mut rig = Rig::new(&small());
    let first = rig.produce(key(1, 0), 2, 100, 1);
    let last = rig.produce(key(1, 0), 2, 100, 2);
    rig.inline.applier_round(true).unwrap();
    rig.inline.checkpoint().unwrap();
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &last);
    let group = position_in(&disk, &path, &last) / 4096 * 4096;
    disk.make_unreadable(&path, group, 1).unwrap();
    let again = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(again.read_all(key(1, 0)), [first, last].concat());
    disk.make_unreadable(&path, group + 8192, 1).unwrap();
    refuses_because_of(&disk, &path, group + 8192);
}

#[test]
fn damage_at_the_end_of_a_log_keeps_its_offsets_over_further_starts() {
    let (rig, stored) = journal_only(3);
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &stored[2]);
    disk.flip_bit(&path, position_in(&disk, &path, &stored[2]) + 80, 3)
        .unwrap();
    let corrupt = ReadError::Corrupt {
        first: offset(4),
        last: offset(5),
    };
    let mut next = disk;
    for start in 0..3 {
        let mut again = Rig::open(&next, &small()).unwrap();
        let bounds = again.store.open(key(1, 0), CONFIG).bounds(again.durable());
        assert_eq!(bounds.high_watermark, offset(6), "start {start}");
        assert_eq!(again.read(key(1, 0), offset(4), 10_000).unwrap_err(), corrupt);
        next = again.disk.after_kill();
        // What is given next is not what was given before.
        let more = again.produce(key(1, 0), 1, 10, 9);
        assert_eq!(
            again.read(key(1, 0), offset(6), 10_000).unwrap(),
            (more, offset(7))
        );
    }
}

/// What was cut off segments.
fn put_aside(disk: &SimDisk) -> Vec<Vec<u8>> {
    let files = disk.files().into_iter().map(|(path, _)| path);
    let cut = files.filter(|path| path.starts_with("salvage/") && path.contains(".log.from-"));
    cut.map(|path| disk.read_file(&path).unwrap()).collect()
}

/// Whether it cannot be put aside, or cannot be read.
fn what_is_cut_off_stops_no_start(disk: &SimDisk, bytes: usize) {
    let image = disk.after_kill();
    image.inject(Fault::next(FaultKind::WriteFails, "salvage/"));
    drop(Rig::open(&image, &small()).unwrap());
    assert!(!image.take_strikes().is_empty());
    assert_eq!(put_aside(&image), Vec::<Vec<u8>>::new(), "half a copy is none");
    let image = disk.after_kill();
    let path = paths::segment(key(1, 0), Offset::ZERO);
    let len = u64::try_from(disk.read_file(&path).unwrap().len()).unwrap();
    image.make_unreadable(&path, len - 1, 1).unwrap();
    drop(Rig::open(&image, &small()).unwrap());
    let kept = put_aside(&image);
    assert!(kept.iter().all(|kept| kept.len() <= bytes), "{kept:?}");
}

/// Nothing tells that the end of the journal was lost, but what was applied of it stands in a segment, whole and with an offset
/// that is given again. `replayed` partitions are written to by the start, of which the first one is that segment's.
fn batch_of_a_lost_end_is_cut_off(replayed: u32) {
    let mut rig = Rig::new(&small());
    rig.produce(key(1, 0), 1, 100, 1);
    rig.inline.applier_round(true).unwrap();
    rig.inline.checkpoint().unwrap();
    for partition in 0..replayed {
        rig.produce(key(1, partition), 1, 100, 2);
    }
    let lost = Fault::next(FaultKind::WriteLost, "journal/").times(u64::MAX);
    rig.disk.inject(lost);
    let before = rig.produce(key(1, 0), 1, 200, 3);
    rig.inline.applier_round(true).unwrap();

    let mut again = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
    assert_eq!(put_aside(&again.disk).len(), 1);
    assert_eq!(put_aside(&again.disk)[0][..before.len()], before[..]);
    what_is_cut_off_stops_no_start(&rig.disk, before.len());
    let end = again
        .store
        .open(key(1, 0), CONFIG)
        .bounds(again.durable())
        .log_end;
    assert_eq!(BatchHeader::parse(&before).unwrap().base_offset, end);
    let lost = Fault::next(FaultKind::WriteLost, "topics/").times(u64::MAX);
    again.disk.inject(lost);
    again.produce(key(1, 0), 1, 300, 4);
    again.inline.applier_round(true).unwrap();
    again.store.engine.tail().evict(again.durable(), 0);
    let damage = ReadError::Corrupt {
        first: end,
        last: end,
    };
    assert_eq!(again.read(key(1, 0), end, 5000), Err(damage));
}

#[test]
fn batch_of_a_lost_end_does_not_stand_in_for_the_one_with_its_offset() {
    batch_of_a_lost_end_is_cut_off(0);
}

#[test]
fn batch_of_a_lost_end_is_cut_off_also_where_the_start_has_written_in_front_of_it() {
    batch_of_a_lost_end_is_cut_off(1);
}

#[test]
fn batch_of_a_lost_end_is_cut_off_also_where_the_start_has_closed_the_file() {
    let replayed = u32::try_from(small().open_files_max).unwrap() + 2;
    batch_of_a_lost_end_is_cut_off(replayed);
}

/// The generation in the header of a journal file.
fn generation_of(disk: &SimDisk, path: &str) -> u64 {
    let bytes = disk.read_file(path).unwrap();
    u64::from_le_bytes(bytes[40..48].try_into().unwrap())
}

fn journal_files(disk: &SimDisk) -> Vec<String> {
    let files = disk.files().into_iter().map(|(path, _)| path);
    files.filter(|path| path.starts_with("journal/")).collect()
}

#[test]
fn header_of_the_last_lap_does_not_hide_the_groups_of_this_one() {
    use crate::storage::local::format::journal::FileHeader;
    let (rig, stored) = journal_only(60);
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, stored.last().unwrap());
    assert!(
        journal_files(&disk)
            .iter()
            .all(|file| generation_of(&disk, file) <= generation_of(&disk, &path))
    );
    let mut bytes = disk.read_file(&path).unwrap();
    let id = rig.store.directory_id();
    let header = FileHeader::decode(bytes.first_chunk().unwrap(), id).unwrap();
    let before = FileHeader {
        generation: header.generation - 3,
        first_lsn: Lsn(1),
        ..header
    };
    for copy in [0, 4096] {
        bytes[copy..copy + 4096].copy_from_slice(&before.encode(id));
    }
    disk.write_file(&path, &bytes).unwrap();
    let before = (disk.ops(), disk.files());
    let error = Rig::open(&disk, &small()).err().expect("a start");
    assert!(
        std::matches!(&error, OpenError::Refused(why) if why.contains(&path) && why.contains("earlier lap")),
        "{error}"
    );
    assert_eq!((disk.ops(), disk.files()), before);
}

/// Writes over the headers of a journal file.
fn with_headers(disk: &SimDisk, path: &str, headers: &[u8]) {
    let mut bytes = disk.read_file(path).unwrap();
    bytes[..headers.len()].copy_from_slice(headers);
    disk.write_file(path, &bytes).unwrap();
}

/// The newest journal file, and the one before, of a journal with groups in both that no checkpoint covers.
fn two_files() -> (SimDisk, String, String) {
    let (rig, stored) = journal_only(60);
    two_files_of(&rig, &stored)
}

fn two_files_of(rig: &Rig, stored: &[Bytes]) -> (SimDisk, String, String) {
    let disk = rig.disk.after_kill();
    let newest = journal_of(&disk, stored.last().unwrap());
    let generation = generation_of(&disk, &newest);
    let files = journal_files(&disk);
    let before = files
        .iter()
        .find(|file| generation_of(&disk, file) + 1 == generation);
    let before = before.unwrap().clone();
    (disk, before, newest)
}

#[track_caller]
fn refuses_because_of_a_header(disk: &SimDisk, path: &str) {
    let before = (disk.ops(), disk.files());
    let error = Rig::open(disk, &small()).err().expect("a start");
    assert!(
        std::matches!(&error, OpenError::Refused(why) if why.contains(path) && why.contains("header")),
        "{error}"
    );
    assert_eq!((disk.ops(), disk.files()), before);
}

#[test]
fn groups_behind_a_lost_first_group_show_that_a_file_without_header_is_in_use() {
    let (disk, before, newest) = two_files();
    let bytes = disk.read_file(&newest).unwrap();
    let second = (3 * 4096..bytes.len() as u64)
        .step_by(4096)
        .find(|at| bytes[usize::try_from(*at).unwrap()..].starts_with(b"NGRP"));
    assert!(second.is_some(), "one group cannot be behind another");
    // As an earlier lap had left it, and as if it had never been used.
    let old = disk.read_file(&before).unwrap()[..8192].to_vec();
    for headers in [old, vec![0; 8192]] {
        with_headers(&disk, &newest, &headers);
        disk.zero_sector(&newest, 2 * 4096).unwrap();
        refuses_because_of_a_header(&disk, &newest);
    }
}

#[test]
fn header_that_went_into_another_file_hides_no_group() {
    // Instead of its own file.
    let (disk, before, newest) = two_files();
    let headers = disk.read_file(&newest).unwrap()[..8192].to_vec();
    with_headers(&disk, &newest, &[0; 8192]);
    with_headers(&disk, &before, &headers);
    refuses_because_of_a_header(&disk, &newest);
    // And as well as into its own.
    let (disk, _, newest) = two_files();
    let whole = Rig::open(&disk.after_kill(), &small()).unwrap();
    let mut unused = vec![0; disk.read_file(&newest).unwrap().len()];
    unused[..4096].copy_from_slice(&disk.read_file(&newest).unwrap()[..4096]);
    disk.write_file("journal/00000099.journal", &unused).unwrap();
    let again = Rig::open(&disk, &small()).unwrap();
    assert_eq!(again.read_all(key(1, 0)), whole.read_all(key(1, 0)));
    assert_eq!(again.store.report().end, whole.store.report().end);
}

/// Of the file before it nothing is there, and so none of the generation that comes next. Where a checkpoint covers the groups
/// a start would be right in all but the generation that it takes: that of a later start would be theirs.
#[test]
fn file_that_was_begun_behind_one_that_is_lost_has_lost_its_header_as_well() {
    for covered in [false, true] {
        let (mut rig, stored) = journal_only(60);
        if covered {
            rig.inline.applier_round(true).unwrap();
            rig.inline.checkpoint().unwrap();
        }
        let (disk, before, newest) = two_files_of(&rig, &stored);
        let generation = generation_of(&disk, &newest);
        let older = journal_files(&disk)
            .into_iter()
            .find(|file| generation_of(&disk, file) + 2 == generation);
        let older = disk.read_file(&older.unwrap()).unwrap()[..8192].to_vec();
        let lost = vec![0; disk.read_file(&before).unwrap().len()];
        // As an earlier lap had left it, and as if it had never been used.
        for headers in [older, vec![0; 8192]] {
            let image = disk.after_kill();
            let meant = image.read_file(&newest).unwrap()[..64].to_vec();
            with_headers(&image, &before, &lost);
            with_headers(&image, &newest, &headers);
            refuses_because_of_a_header(&image, &newest);
            let number = newest.trim_start_matches("journal/").trim_end_matches(".journal");
            let way = Way::Header(number.parse().unwrap());
            assert_eq!(planned(&image).ways(), Some(vec![way]), "{covered}");
            take(&image, &[way], "one").unwrap();
            // Length, generation and first group.
            assert_eq!(image.read_file(&newest).unwrap()[32..56], meant[32..56]);
            assert_ne!(planned(&image.after_kill()).ways(), Some(vec![way]), "{covered}");
        }
    }
}

/// A record is written when all that its snapshots cover is durable.
#[test]
fn last_group_that_a_snapshot_covers_was_durable() {
    let mut rig = Rig::new(&small());
    let first = rig.produce(key(1, 0), 2, 100, 1);
    let last = rig.produce(key(1, 0), 2, 100, 2);
    rig.inline.checkpoint().unwrap();
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &last);
    let at = position_in(&disk, &path, &last);
    let image = disk.after_kill();
    image.flip_bit(&path, at + 80, 3).unwrap();
    let again = Rig::open(&image, &small()).unwrap();
    assert!(!again.store.report().unfinished);
    assert_eq!(
        again.read(key(1, 0), Offset::ZERO, 10_000).unwrap(),
        (first, offset(2))
    );
    assert_eq!(
        again.read(key(1, 0), offset(2), 10_000).unwrap_err(),
        ReadError::Corrupt {
            first: offset(2),
            last: offset(3)
        }
    );
    // Without its header nothing tells what else was in it.
    disk.zero_sector(&path, at / 4096 * 4096).unwrap();
    let before = (disk.ops(), disk.files());
    let error = Rig::open(&disk, &small()).err().expect("a start");
    assert!(
        std::matches!(&error, OpenError::Refused(why) if why.contains(&path) && why.contains("offset 4")),
        "{error}"
    );
    assert_eq!((disk.ops(), disk.files()), before);
}

#[test]
fn file_that_a_start_begins_can_be_read_where_its_first_group_will_stand() {
    let (rig, stored) = journal_only(60);
    let disk = rig.disk.after_kill();
    let files = journal_files(&disk).into_iter();
    let oldest = files.min_by_key(|path| generation_of(&disk, path)).unwrap();
    disk.make_unreadable(&oldest, 8192, 1).unwrap();
    let before = generation_of(&disk, &oldest);
    drop(Rig::open(&disk, &small()).unwrap());
    assert!(generation_of(&disk, &oldest) > before, "another file was begun");
    let again = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(again.read_all(key(1, 0)), stored.concat());
}

/// Behind it no file could have a number.
#[test]
fn journal_file_of_the_last_number_there_is_was_never_made() {
    let mut rig = Rig::new(&small());
    let stored = rig.produce(key(1, 0), 2, 100, 1);
    rig.inline.seal();
    let disk = rig.disk.after_kill();
    let path = paths::journal(u64::MAX);
    disk.write_file(&path, &[0; 64 << 10]).unwrap();
    let mut again = Rig::open(&disk, &small()).unwrap();
    assert_eq!(again.read_all(key(1, 0)), stored);
    for fill in 0..60 {
        again.produce(key(1, 0), 2, 700, fill);
    }
    assert_eq!(disk.read_file(&path).unwrap(), [0; 64 << 10], "it is left alone");
}

/// The unfinished group deletes a topic, and the one that was given its number afterwards does not.
#[test]
fn deletion_of_an_unfinished_group_is_none_of_the_group_that_came_instead() {
    let mut rig = Rig::new(&small());
    rig.produce(key(1, 0), 2, 100, 1);
    rig.produce(key(2, 0), 2, 100, 2);
    let batch = rig.batch(key(1, 0), 2, 100, 3);
    let unfinished = batch.to_bytes();
    let lsn = rig.submit(vec![(key(1, 0), batch)], &[key(2, 0).topic]);
    rig.inline.journal().unwrap();
    let disk = rig.disk.after_kill();
    let (path, at) = super::inspect::place_of(&disk, &unfinished, "journal/");
    disk.flip_bit(&path, at + 80, 3).unwrap();
    let mut again = Rig::open(&disk, &small()).unwrap();
    assert!(again.store.report().unfinished);
    again.produce(key(1, 0), 1, 50, 4);
    again.inline.seal();
    assert!(again.durable() >= lsn);
    let disk = again.disk.after_kill();
    let directory = [0x5a; 16];
    let files = scan::open_files(&disk, directory).unwrap();
    let pair = Pair::read(&disk, directory).unwrap();
    let (_, newest) = pair.newest().unwrap();
    // From the beginning, as if no checkpoint had been written since.
    let found = Survey::above(Lsn::ZERO, &files, newest, directory).unwrap();
    assert!(found.groups.iter().any(|group| group.lsn == lsn));
    assert!(found.deleted.is_empty(), "{:?}", found.deleted);
}
