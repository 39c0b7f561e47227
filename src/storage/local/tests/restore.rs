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

/// A header tells which group was the first of its file: if that is gone, the last one of the file before says.
#[test]
fn header_whose_first_group_cannot_be_told_now_has_no_way_out_and_is_told() {
    let mut rig = Rig::new(&small());
    let last = rig.produce(key(1, 0), 1, 9000, 1);
    let mut rig = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
    rig.produce(key(1, 0), 1, 2000, 10);
    let second = rig.produce(key(1, 0), 1, 2000, 11);
    rig.inline.seal();
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &second);
    let earlier = journal_of(&disk, &last);
    assert_ne!(path, earlier);
    overwrite(&disk, &path, &[0; HEADERS + 4096]);
    let disk = disk.after_kill();
    let image = disk.after_kill();
    let at = super::rot::position_in(&disk, &earlier, &last);
    image.make_unreadable(&earlier, at + 6000, 1).unwrap();
    let found = planned(&image);
    assert_eq!(found.ways(), None, "{:#?}", found.obstacles);
    let told = &found.obstacles[0].finding.what;
    assert!(
        told.contains(&path) && told.contains(&format!("{earlier} cannot be read at")),
        "{told}"
    );
    assert!(told.contains("ddrescue"), "{told}");
    // When the disk gives it again, the header is made again.
    let way = Way::Header(number_of(&path));
    assert_eq!(planned(&disk).ways(), Some(vec![way]));
    take(&disk, &[way], "one").unwrap();
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

/// Takes the way to a header that is gone and says why a broker refuses to start behind that.
fn restored_and_refused(disk: &SimDisk, path: &str) -> String {
    let way = Way::Header(number_of(path));
    let found = planned(disk);
    assert_eq!(found.ways(), Some(vec![way]), "{:#?}", found.obstacles);
    take(disk, &[way], "one").unwrap();
    let ways = planned(disk).ways().unwrap();
    assert!(matches!(ways[..], [Way::Tail { .. }]), "{ways:?}");
    let refused = Rig::open(&disk.after_kill(), &small()).err().expect("a start");
    refused.to_string()
}

/// Without its last group and all that stands behind it.
fn cut_before(disk: &SimDisk, path: &str, last: &[u8]) {
    let at = super::rot::position_in(disk, path, last) / 4096 * 4096;
    let mut bytes = disk.read_file(path).unwrap();
    bytes.truncate(usize::try_from(at).unwrap());
    disk.write_file(path, &bytes).unwrap();
}

#[test]
fn header_that_is_made_again_does_not_hide_that_the_end_of_the_file_is_gone() {
    // Others say how long files are; the configuration alone does; the file itself, of the lap before.
    for (batches, earlier) in [(60, false), (5, false), (60, true)] {
        let (rig, stored) = journal_only(batches);
        let disk = rig.disk.after_kill();
        let last = stored.last().unwrap();
        let path = journal_of(&disk, last);
        let id = rig.store.directory_id();
        let bytes = disk.read_file(&path).unwrap();
        let own = FileHeader::decode(bytes.first_chunk().unwrap(), id).unwrap();
        let (front, length) = if earlier {
            let before = FileHeader {
                generation: own.generation - 3,
                first_lsn: Lsn(1),
                file_bytes: 60 << 10,
                ..own
            };
            ([before.encode(id), before.encode(id)].concat(), 60 << 10)
        } else {
            (vec![0; HEADERS], 64 << 10)
        };
        cut_before(&disk, &path, last);
        overwrite(&disk, &path, &front);
        let disk = disk.after_kill();
        let what = format!("{batches} batches, earlier {earlier}");
        let refused = restored_and_refused(&disk, &path);
        let said = format!("less than its header says ({length})");
        assert!(
            refused.contains(&path) && refused.contains(&said),
            "{what}: {refused}"
        );
        // No offset of what was cut is given again.
        let ways = planned(&disk).ways().unwrap();
        take(&disk, &ways, "two").unwrap();
        let mut rig = Rig::open(&disk.after_kill(), &small()).unwrap();
        let end = rig.store.open(key(1, 0), CONFIG).bounds(rig.durable()).log_end;
        assert!(end >= offset(2 * i64::from(batches)), "{what}: {end}");
        rig.produce(key(1, 0), 1, 10, 9);
    }
}

#[test]
fn group_that_goes_on_behind_the_end_of_its_file_shows_that_this_was_longer() {
    let settings = Settings {
        journal_file_bytes: 256 << 10,
        journal_first_file_bytes: 256 << 10,
        ..small()
    };
    let mut rig = Rig::new(&settings);
    for n in 0..20 {
        rig.produce(key(1, 0), 1, 5000, n);
    }
    let last = rig.produce(key(1, 0), 1, 5000, 99);
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &last);
    let group = super::rot::position_in(&disk, &path, &last) / 4096 * 4096;
    let mut bytes = disk.read_file(&path).unwrap();
    // Behind its table, and longer than a file is made by the configuration now.
    bytes.truncate(usize::try_from(group + 4096).unwrap());
    assert!(bytes.len() > 64 << 10);
    bytes[..HEADERS].fill(0);
    disk.write_file(&path, &bytes).unwrap();
    let refused = restored_and_refused(&disk.after_kill(), &path);
    let said = format!("less than its header says ({})", group + 2 * 4096);
    assert!(refused.contains(&said), "{refused}");
}

#[test]
fn header_of_a_whole_file_is_made_again_with_its_length() {
    let (rig, _) = two_files();
    for (path, bytes) in used(&rig.disk.after_kill()) {
        let disk = rig.disk.after_kill();
        disk.unlink("checkpoint.1").unwrap();
        overwrite(&disk, &path, &[0; HEADERS]);
        take(&disk, &[Way::Header(number_of(&path))], "one").unwrap();
        assert_eq!(disk.read_file(&path).unwrap()[32..56], bytes[32..56], "{path}");
    }
}

/// A file in which so many blocks look like groups with long tables, and the last one holds a group.
#[derive(Debug)]
struct LooksLikeGroups {
    like: u64,
    bytes: u64,
    fake: Vec<u8>,
    last: Vec<u8>,
    read: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl crate::disk::DiskFile for LooksLikeGroups {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.bytes)
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> std::io::Result<usize> {
        self.read
            .fetch_add(buf.len() as u64, std::sync::atomic::Ordering::Relaxed);
        for (position, block) in (at..).step_by(4096).zip(buf.chunks_mut(4096)) {
            match position / 4096 {
                n if n >= 2 && n < 2 + self.like => block.copy_from_slice(&self.fake),
                n if n == self.bytes / 4096 - 1 => block.copy_from_slice(&self.last),
                _ => block.fill(0),
            }
        }
        Ok(buf.len())
    }

    fn write_all_at(&self, _: &[u8], _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn set_len(&self, _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn allocate(&self, _: u64, _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn drop_cache(&self, _: u64, _: u64) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whoever stores records decides what looks like a group: a start may not read the journal a hundred times over for that.
#[test]
fn look_for_groups_under_other_generations_reads_so_much_of_tables_and_no_more() {
    use crate::storage::local::format::journal::{GroupHeader, Place};
    use crate::storage::local::scan::{ScannedFile, first_group_of};
    const BYTES: u64 = 8 << 20;
    let directory = [0x5a; 16];
    let header = |entries| GroupHeader {
        lsn: Lsn(7),
        previous: 0,
        incarnation: 1,
        entries,
        payload_bytes: 0,
        written: Timestamp(1),
    };
    let block = |entries, generation| {
        let mut block = vec![0; 4096];
        let place = Place {
            directory,
            generation,
            position: BYTES - 4096,
        };
        let front = if entries == 0 { 128 } else { 4096 };
        header(entries).encode_into(&mut block[..front], &place);
        block
    };
    // 64 tables of 4 MiB each.
    let read = std::sync::Arc::default();
    let file = LooksLikeGroups {
        like: 64,
        bytes: BYTES,
        fake: block((4 << 20) / 64, 2),
        last: block(0, 3),
        read: std::sync::Arc::clone(&read),
    };
    let scanned = ScannedFile {
        number: 0,
        file: Box::new(file),
        bytes: BYTES,
        header: None,
        illegible: true,
        unread: None,
    };
    let found = first_group_of(&scanned, directory, &[(3, Lsn::ZERO)], BYTES).unwrap();
    // A short one behind them is found all the same.
    assert_eq!(found, Some((3, header(0))));
    let read = read.load(std::sync::atomic::Ordering::Relaxed);
    assert!((60 << 20..96 << 20).contains(&read), "{read} bytes were read");
}
