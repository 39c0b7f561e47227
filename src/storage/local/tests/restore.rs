//! Headers of journal files that are made again from the groups behind them, and what is told where that is not all.

use super::rot::{journal_of, journal_only};
use super::salvage::{long_life, planned, take};
use super::*;
use crate::disk::Disk;
use crate::storage::local::format::journal::FileHeader;
use crate::storage::local::paths;
use crate::storage::local::salvage::Way;

/// Bytes of both copies.
const HEADERS: usize = 2 * 4096;

fn number_of(path: &str) -> u64 {
    let digits = path.trim_start_matches("journal/").trim_end_matches(".journal");
    digits.parse().unwrap()
}

fn generation_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[40..48].try_into().unwrap())
}

/// Journal files, oldest first.
fn files(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = disk
        .files()
        .into_iter()
        .filter(|(path, _)| path.starts_with("journal/"))
        .map(|(path, _)| (path.clone(), disk.read_file(&path).unwrap()))
        .collect();
    files.sort_by_key(|(_, bytes)| generation_of(bytes));
    files
}

/// Those with a header.
fn used(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let mut used = files(disk);
    used.retain(|(_, bytes)| bytes.starts_with(b"NARUJRNL"));
    used
}

/// Writes over the front of a file.
fn overwrite(disk: &SimDisk, path: &str, front: &[u8]) {
    let mut bytes = disk.read_file(path).unwrap();
    bytes[..front.len()].copy_from_slice(front);
    disk.write_file(path, &bytes).unwrap();
}

/// An engine whose journal has two files with groups, and what is in them.
fn two_files() -> (Rig, Vec<Bytes>) {
    let mut rig = Rig::new(&small());
    let mut stored = Vec::new();
    while used(&rig.disk).len() < 2 {
        stored.push(rig.produce(key(1, 0), 2, 900, 1));
    }
    rig.inline.seal();
    (rig, stored)
}

#[test]
fn header_of_the_oldest_file_is_made_again_and_no_group_given_up() {
    let (rig, stored) = two_files();
    for rubbish in [0, 0xa5] {
        let disk = rig.disk.after_kill();
        // By the record before the newest, all of it is needed.
        disk.unlink("checkpoint.1").unwrap();
        let oldest = &used(&disk)[0].0;
        overwrite(&disk, oldest, &[rubbish; HEADERS]);
        let disk = disk.after_kill();
        let way = Way::Header(number_of(oldest));
        assert_eq!(planned(&disk).ways(), Some(vec![way]), "{rubbish}");
        take(&disk, &[way], "one").unwrap();
        let again = Rig::open(&disk.after_kill(), &small()).unwrap();
        assert_eq!(again.read_all(key(1, 0)), stored.concat(), "{rubbish}");
    }
}

#[test]
fn header_that_went_into_an_unused_file_is_made_again() {
    let (rig, stored) = journal_only(60);
    let disk = rig.disk.after_kill();
    let newest = journal_of(&disk, stored.last().unwrap());
    let bytes = disk.read_file(&newest).unwrap();
    let mut other = vec![0; bytes.len()];
    other[..HEADERS].copy_from_slice(&bytes[..HEADERS]);
    disk.write_file("journal/00000099.journal", &other).unwrap();
    overwrite(&disk, &newest, &[0; HEADERS]);
    let disk = disk.after_kill();
    let way = Way::Header(number_of(&newest));
    assert_eq!(planned(&disk).ways(), Some(vec![way]));
    take(&disk, &[way], "one").unwrap();
    assert_eq!(disk.read_file(&newest).unwrap()[40..56], bytes[40..56]);
    let again = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(again.read_all(key(1, 0)), stored.concat());
}

/// The number of a group that was not finished is given again, to the first group of the next file.
#[test]
fn unfinished_group_does_not_say_where_the_next_file_began() {
    let (mut rig, _) = journal_only(3);
    let torn = rig.produce(key(1, 0), 1, 2000, 9);
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &torn);
    let at = super::rot::position_in(&disk, &path, &torn);
    disk.flip_bit(&path, at + 1000, 1).unwrap();
    let mut rig = Rig::open(&disk.after_kill(), &small()).unwrap();
    let lost = rig.store.report().end.next();
    assert!(rig.store.report().unfinished);
    let first = rig.produce(key(1, 0), 1, 2000, 10);
    let second = rig.produce(key(1, 0), 1, 2000, 11);
    rig.inline.seal();
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &second);
    assert_eq!(path, journal_of(&disk, &first));
    overwrite(&disk, &path, &[0; HEADERS + 4096]);
    let disk = disk.after_kill();
    let header = Way::Header(number_of(&path));
    let found = planned(&disk);
    assert_eq!(found.ways(), Some(vec![header]), "{:#?}", found.obstacles);
    assert!(found.goes_on, "more stands behind the header");
    take(&disk, &[header], "one").unwrap();
    let group = Way::Groups {
        first: lost,
        last: lost,
    };
    assert_eq!(planned(&disk.after_kill()).ways(), Some(vec![group]));
}

#[test]
fn headers_of_all_files_are_made_again_one_after_the_other() {
    let (rig, stored) = long_life();
    for rubbish in [0, 0xa5] {
        let mut disk = rig.disk.after_kill();
        let all = used(&disk);
        for (path, _) in &all {
            overwrite(&disk, path, &[rubbish; HEADERS]);
        }
        disk = disk.after_kill();
        for (_, round) in all.iter().zip(["one", "two", "three", "four"]) {
            let ways = planned(&disk).ways().unwrap();
            if ways.is_empty() {
                break;
            }
            assert!(ways.iter().all(|way| way.restores()), "{ways:?}");
            take(&disk, &ways, round).unwrap();
            disk = disk.after_kill();
        }
        let again = Rig::open(&disk, &small()).unwrap();
        assert_eq!(again.store.report().end, rig.durable());
        for (key, stored) in &stored {
            assert_eq!(again.read_all(*key), *stored, "{rubbish}");
        }
    }
}

#[test]
fn what_files_without_a_header_hold_is_copied_before_anything_is_given_up() {
    let (mut rig, _) = long_life();
    // Without any header those of the first 17 generations alone are made again.
    while files(&rig.disk)
        .iter()
        .any(|(_, bytes)| generation_of(bytes) <= 17)
    {
        rig.produce(key(1, 0), 2, 900, 1);
    }
    rig.inline.seal();
    let disk = rig.disk.after_kill();
    let all = files(&disk);
    for (path, _) in &all {
        overwrite(&disk, path, &[0; HEADERS]);
    }
    let disk = disk.after_kill();
    let before = files(&disk);
    let found = planned(&disk);
    let ways = found.ways().unwrap();
    assert!(ways.iter().all(|way| !way.restores()), "{ways:?}");
    take(&disk, &ways, "one").unwrap();
    for (path, bytes) in before.iter().filter(|(_, bytes)| bytes.iter().any(|b| *b != 0)) {
        assert!(
            disk.read_file(&format!("salvage/one/{path}")).unwrap() == *bytes,
            "{path}"
        );
    }
}

#[test]
fn checkpoint_is_not_made_again_without_the_front_of_the_journal() {
    let (rig, _) = two_files();
    let disk = rig.disk.after_kill();
    let all = used(&disk);
    // As of a file that was begun when not all of the oldest one was in segments.
    let id = rig.store.directory_id();
    let mut header = FileHeader::decode(all[1].1.first_chunk().unwrap(), id).unwrap();
    header.checkpoint_lsn = Lsn(header.first_lsn.0 - 5);
    overwrite(&disk, &all[1].0, &[header.encode(id), header.encode(id)].concat());
    for path in paths::CHECKPOINTS {
        let _ = disk.unlink(path);
    }
    overwrite(&disk, &all[0].0, &[0; HEADERS]);
    let found = planned(&disk.after_kill());
    assert_eq!(found.ways(), None, "{:#?}", found.obstacles);
    let is_told = |what: &str| what.contains("in front of it, or its header, is missing");
    assert!(
        found.obstacles.iter().any(|o| is_told(&o.finding.what)),
        "{:#?}",
        found.obstacles
    );
}

#[test]
fn checkpoints_of_a_newer_version_are_not_made_again() {
    let (rig, _) = two_files();
    let disk = rig.disk.after_kill();
    for path in paths::CHECKPOINTS {
        let mut record = disk.read_file(path).unwrap();
        record[8] += 1;
        let (covered, crc) = record.split_last_chunk_mut::<4>().unwrap();
        *crc = crate::record::crc32c(covered).to_le_bytes();
        disk.write_file(path, &record).unwrap();
    }
    let found = planned(&disk.after_kill());
    assert_eq!(found.ways(), None, "{:#?}", found.obstacles);
    assert!(
        found.obstacles[0].finding.what.contains("newer"),
        "{:#?}",
        found.obstacles
    );
}
