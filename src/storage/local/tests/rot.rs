//! Damage of what was acknowledged: detected, named with its offsets, never cut, never given out as data.

use super::*;
use crate::disk::Disk;
use crate::disk::sim::{Fault, FaultKind};

/// A run of one batch per group with a seal behind, stopped by a kill. Nothing is applied.
pub(super) fn journal_only(batches: u8) -> (Rig, Vec<Bytes>) {
    let mut rig = Rig::new(&small());
    let stored = (0..batches).map(|i| rig.produce(key(1, 0), 2, 100, i)).collect();
    rig.inline.seal();
    (rig, stored)
}

pub(super) fn position_in(disk: &SimDisk, path: &str, needle: &[u8]) -> u64 {
    let bytes = disk.read_file(path).unwrap();
    let at = bytes.windows(needle.len()).position(|w| w == needle);
    u64::try_from(at.unwrap_or_else(|| panic!("not in {path}"))).unwrap()
}

pub(super) fn journal_of(disk: &SimDisk, needle: &[u8]) -> String {
    let holds = |path: &str| {
        disk.read_file(path)
            .unwrap()
            .windows(needle.len())
            .any(|w| w == needle)
    };
    disk.files()
        .into_iter()
        .map(|(p, _)| p)
        .find(|p| p.starts_with("journal/") && holds(p))
        .unwrap()
}

#[test]
fn damaged_batch_in_the_journal_is_quarantined_and_its_neighbours_live() {
    let (rig, stored) = journal_only(5);
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &stored[2]);
    disk.flip_bit(&path, position_in(&disk, &path, &stored[2]) + 80, 3)
        .unwrap();
    let mut again = Rig::open(&disk, &small()).unwrap();
    assert_eq!(
        again.read(key(1, 0), Offset::ZERO, 10_000).unwrap(),
        (stored[..2].concat().into(), offset(4))
    );
    let corrupt = ReadError::Corrupt {
        first: offset(4),
        last: offset(5),
    };
    assert_eq!(again.read(key(1, 0), offset(4), 10_000).unwrap_err(), corrupt);
    assert_eq!(
        again.read(key(1, 0), offset(6), 10_000).unwrap(),
        (stored[3..].concat().into(), offset(10))
    );
    // Appends go on behind, and the quarantine survives the next start.
    let more = again.produce(key(1, 0), 1, 10, 9);
    again.inline.stop().unwrap();
    let third = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(third.read(key(1, 0), offset(4), 10_000).unwrap_err(), corrupt);
    assert_eq!(third.read(key(1, 0), offset(10), 10_000).unwrap().0, more);
    assert_eq!(
        third.store.open(key(1, 0), CONFIG).stats().quarantined,
        [(offset(4), offset(5))]
    );
}

/// Recovery writes them to a segment that the damage ends: this was not synced, and the journal is not needed any more.
#[test]
fn batches_in_front_of_damage_survive_a_power_cut_after_the_next_start() {
    let (rig, stored) = journal_only(5);
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &stored[2]);
    disk.flip_bit(&path, position_in(&disk, &path, &stored[2]) + 80, 3)
        .unwrap();
    let again = Rig::open(&disk, &small()).unwrap();
    let image = again
        .disk
        .after_power_cut(1, crate::disk::sim::CutProfile::DropAll);
    let third = Rig::open(&image, &small()).unwrap();
    assert_eq!(
        third.read(key(1, 0), Offset::ZERO, 10_000).unwrap().0,
        stored[..2].concat()
    );
}

/// The gaps that a group leaves in the offsets tell what something follows, and no more: not the last batch of a partition, no
/// trim, no deletion, no commit.
#[test]
fn durable_group_whose_table_cannot_be_read_refuses_to_start() {
    let mut rig = Rig::new(&small());
    rig.produce(key(1, 0), 2, 100, 1);
    // Nothing of this partition follows.
    let only = rig.produce(key(2, 0), 2, 100, 2);
    rig.produce(key(1, 0), 2, 100, 3);
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &only);
    let group = position_in(&disk, &path, &only) / 4096 * 4096;
    for at in [0, 9, 40, 128 + 40] {
        let image = disk.after_kill();
        image.flip_bit(&path, group + at, 3).unwrap();
        let before = (image.ops(), image.files());
        let error = Rig::open(&image, &small()).err().expect("a start");
        let names = |why: &String| why.contains(&path) && why.contains(&group.to_string());
        assert!(
            std::matches!(&error, OpenError::Refused(why) if names(why)),
            "{error}"
        );
        assert_eq!((image.ops(), image.files()), before);
    }
}

#[test]
fn empty_group_that_cannot_be_read_held_nothing_and_refuses_nothing() {
    let mut rig = Rig::new(&small());
    let first = rig.produce(key(1, 0), 2, 100, 1);
    rig.inline.seal();
    let second = rig.produce(key(1, 0), 2, 100, 2);
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &first);
    let seal = position_in(&disk, &path, &second) / 4096 * 4096 - 4096;
    for at in [0, 9, 24, 28, 100] {
        let image = disk.after_kill();
        image.flip_bit(&path, seal + at, 3).unwrap();
        let again = Rig::open(&image, &small()).unwrap();
        assert_eq!(
            again.read_all(key(1, 0)),
            [first.clone(), second.clone()].concat(),
            "byte {at}"
        );
        assert_eq!(again.store.report().lost_groups, 0);
    }
    // Nothing is left that says so: it may have been any group.
    disk.zero_sector(&path, seal).unwrap();
    assert!(Rig::open(&disk, &small()).is_err());
}

#[test]
fn header_of_the_next_file_proves_that_the_last_group_was_durable() {
    let (rig, stored) = journal_only(13);
    let disk = rig.disk.after_kill();
    let last = stored.last().unwrap();
    let path = journal_of(&disk, last);
    // The next file has its header, and nothing else: the broker died right behind that.
    let header = crate::storage::local::format::journal::FileHeader {
        file_bytes: 64 << 10,
        generation: 2,
        first_lsn: rig.durable().next(),
        checkpoint_seq: 1,
        checkpoint_lsn: Lsn::ZERO,
        incarnation: 1,
    };
    let block = header.encode(rig.store.directory_id());
    let file = [block.to_vec(), block.to_vec(), vec![0; (64 << 10) - 8192]].concat();
    disk.write_file("journal/00000009.journal", &file).unwrap();
    let at = position_in(&disk, &path, last);
    disk.flip_bit(&path, at + 80, 3).unwrap();
    let seal = at / 4096 * 4096 + 4096;
    for sector in 0..8 {
        disk.zero_sector(&path, seal + sector * 512).unwrap();
    }
    assert!(
        Rig::open(&disk, &small()).is_err(),
        "the seal is missing, too, and was durable"
    );
}

#[test]
fn damage_in_the_brokers_own_partitions_is_known_before_anything_is_written() {
    let mut rig = Rig::new(&small());
    rig.produce(PartitionKey::META, 1, 100, 1);
    let needed = rig.produce(PartitionKey::META, 1, 100, 2);
    rig.inline.seal();
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &needed);
    disk.flip_bit(&path, position_in(&disk, &path, &needed) + 80, 3)
        .unwrap();
    let before = (disk.ops(), disk.files());
    let error = Rig::open(&disk, &small()).err().expect("a start");
    assert!(
        std::matches!(&error, OpenError::Refused(why) if why.contains(&path)),
        "{error}"
    );
    assert_eq!((disk.ops(), disk.files()), before);
}

#[test]
fn copy_in_the_segment_stands_in_for_damage_in_the_journal() {
    let (mut rig, stored) = journal_only(5);
    rig.inline.apply().unwrap();
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &stored[2]);
    disk.flip_bit(&path, position_in(&disk, &path, &stored[2]) + 80, 3)
        .unwrap();
    let again = Rig::open(&disk, &small()).unwrap();
    assert_eq!(again.read_all(key(1, 0)), stored.concat());
}

#[test]
fn unfinished_last_group_is_salvaged_and_forgotten() {
    let mut rig = Rig::new(&small());
    let first = rig.produce(key(1, 0), 2, 100, 1);
    let second = rig.produce(key(1, 0), 2, 100, 2);
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &second);
    disk.flip_bit(&path, position_in(&disk, &path, &second) + 80, 0)
        .unwrap();
    let mut again = Rig::open(&disk, &small()).unwrap();
    assert!(again.store.report().unfinished);
    assert_eq!(again.read_all(key(1, 0)), first);
    assert!(
        disk.files()
            .iter()
            .any(|(path, _)| path.starts_with("salvage/unfinished-"))
    );
    // The number is used again, and the forgotten group never comes back.
    let other = again.produce(key(1, 0), 1, 50, 3);
    let third = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(third.read_all(key(1, 0)), [first, other].concat());
}

/// Also in the bytes that make it a group, unless it is the first one of its file and nothing is read of the file before.
#[test]
fn unfinished_last_group_is_told_and_kept_wherever_its_header_is_damaged() {
    for batches in [3, 14, 15, 16] {
        let (first_life, stored) = unsealed(batches);
        let path = journal_of(&first_life.disk, stored.last().unwrap());
        let group = position_in(&first_life.disk, &path, stored.last().unwrap()) / 4096 * 4096;
        let is_first = group == 8192;
        let marks = [0, 4, 8].into_iter().filter(|_| !is_first);
        for at in marks.chain([16, 24, 28, 100, 124, 140]) {
            let disk = first_life.disk.after_kill();
            disk.flip_bit(&path, group + at, 0).unwrap();
            let damaged = disk.read_file(&path).unwrap();
            let again = Rig::open(&disk, &small()).unwrap();
            assert!(again.store.report().unfinished, "{batches} batches, byte {at}");
            let kept = format!("salvage/unfinished-{}.group", first_life.durable());
            let kept = disk.read_file(&kept).unwrap();
            let from = usize::try_from(group).unwrap();
            assert_eq!(kept[..4096], damaged[from..from + 4096], "byte {at}");
            assert_eq!(again.read_all(key(1, 0)), stored[..batches - 1].concat());
        }
    }
}

/// One batch per group, the last one without a seal behind it.
fn unsealed(batches: usize) -> (Rig, Vec<Bytes>) {
    let mut rig = Rig::new(&small());
    let stored = (0..batches).map(|i| rig.produce(key(1, 0), 2, 100, u8::try_from(i).unwrap()));
    let stored = stored.collect();
    (rig, stored)
}

/// Snapshots stand in for the records of the broker's own partitions: nothing reads those that a checkpoint's snapshot covers.
#[test]
fn segment_that_a_snapshot_covers_is_not_needed_for_a_start() {
    let mut rig = Rig::new(&small());
    rig.produce(PartitionKey::META, 1, 100, 1);
    let stored = rig.produce(key(1, 0), 2, 100, 2);
    rig.inline.stop().unwrap();
    let above = rig.above.lock().unwrap().clone();
    let path = "topics/00000000-0000-0000-0000-000000000001/0/00000000000000000000.log";
    for damage in ["flip", "cut", "gone", "unreadable"] {
        let disk = rig.disk.after_kill();
        match damage {
            "flip" => disk.flip_bit(path, 80, 3).unwrap(),
            "cut" => disk.write_file(path, b"cut").unwrap(),
            "gone" => Disk::unlink(&disk, path).unwrap(),
            _ => disk.make_unreadable(path, 0, 1).unwrap(),
        }
        let mut again = Rig::open(&disk, &small()).unwrap_or_else(|e| panic!("{damage}: {e}"));
        assert_eq!(*again.above.lock().unwrap(), above, "{damage}");
        assert_eq!(again.read_all(key(1, 0)), stored, "{damage}");
        // It goes on behind, and the next starts find that.
        again.produce(PartitionKey::META, 1, 100, 3);
        let above = again.above.lock().unwrap().clone();
        again.inline.seal();
        let third = Rig::open(&disk.after_kill(), &small()).unwrap_or_else(|e| panic!("{damage}: {e}"));
        assert_eq!(*third.above.lock().unwrap(), above, "{damage}");
        third.inline.stop().unwrap();
        let fourth = Rig::open(&disk.after_kill(), &small()).unwrap_or_else(|e| panic!("{damage}: {e}"));
        assert_eq!(*fourth.above.lock().unwrap(), above, "{damage}");
    }
}

#[test]
fn flipped_bit_in_a_segment_is_found_by_reading() {
    let mut rig = Rig::new(&small());
    let stored: Vec<_> = (0..8).map(|i| rig.produce(key(1, 0), 2, 700, i)).collect();
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    let path = disk
        .files()
        .into_iter()
        .map(|(p, _)| p)
        .find(|p| p.ends_with("0.log"))
        .unwrap();
    for (what, at) in [("body", 100), ("checksum", 17), ("length", 9), ("base offset", 3)] {
        let disk = disk.after_kill();
        disk.flip_bit(&path, position_in(&disk, &path, &stored[3]) + at, 5)
            .unwrap();
        let again = Rig::open(&disk, &small()).unwrap();
        assert_eq!(
            again.read(key(1, 0), Offset::ZERO, 100_000).unwrap().0,
            stored[..3].concat(),
            "{what}"
        );
        let Err(ReadError::Corrupt { first, last }) = again.read(key(1, 0), offset(6), 100_000) else {
            panic!("{what}: damage was not seen")
        };
        assert_eq!(first, offset(6), "{what}");
        // A damaged length hides its neighbours up to the next indexed batch, but never for good.
        let behind = last.next();
        let at = usize::try_from(behind.get() / 2).unwrap();
        assert_eq!(
            again.read(key(1, 0), behind, 100_000).unwrap().0,
            stored[at..].concat(),
            "{what}"
        );
        assert_eq!(again.store.status().crc_errors, 1, "{what}");
    }
}

#[test]
fn damaged_index_costs_nothing() {
    let mut rig = Rig::new(&small());
    let stored: Vec<_> = (0..30).map(|i| rig.produce(key(1, 0), 2, 700, i)).collect();
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    for (path, len) in disk.files().into_iter().filter(|(p, _)| p.ends_with(".index")) {
        for at in 0..len {
            disk.flip_bit(&path, at, 1).unwrap();
        }
    }
    let again = Rig::open(&disk, &small()).unwrap();
    assert_eq!(again.read_all(key(1, 0)), stored.concat());
    assert_eq!(again.read(key(1, 0), offset(40), 1).unwrap().0, stored[20]);
}

#[test]
fn one_rotten_checkpoint_costs_a_longer_replay_and_two_refuse() {
    let mut rig = Rig::new(&small());
    let mut stored = Vec::new();
    for i in 0..60 {
        stored.extend_from_slice(&rig.produce(key(1, 0), 2, 900, i));
        if i % 6 == 0 {
            rig.inline.applier_round(true).unwrap();
            rig.inline.checkpoint().unwrap();
        }
    }
    let disk = rig.disk.after_kill();
    for rotten in ["checkpoint.0", "checkpoint.1"] {
        let disk = disk.after_kill();
        disk.flip_bit(rotten, 60, 2).unwrap();
        let again = Rig::open(&disk, &small()).unwrap_or_else(|e| panic!("{rotten}: {e}"));
        assert_eq!(again.read_all(key(1, 0)), stored, "{rotten}");
    }
    disk.flip_bit("checkpoint.0", 60, 2).unwrap();
    disk.flip_bit("checkpoint.1", 60, 2).unwrap();
    let before = disk.files();
    let refused = Rig::open(&disk, &small()).err().unwrap();
    assert!(std::matches!(refused, OpenError::Refused(_)), "{refused}");
    assert_eq!(disk.files(), before, "nothing was touched");
}

#[test]
fn missing_journal_file_refuses_to_start() {
    let (rig, stored) = journal_only(3);
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &stored[0]);
    crate::disk::Disk::unlink(&disk, &path).unwrap();
    rig.disk.files();
    let refused = Rig::open(&disk, &small()).err().unwrap();
    assert!(refused.to_string().contains("journal"), "{refused}");
}

#[test]
fn damage_in_an_internal_partition_refuses_to_start() {
    let mut rig = Rig::new(&small());
    let stored: Vec<_> = (0..3)
        .map(|i| rig.produce(PartitionKey::META, 1, 100, i))
        .collect();
    rig.inline.seal();
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &stored[1]);
    disk.flip_bit(&path, position_in(&disk, &path, &stored[1]) + 80, 0)
        .unwrap();
    let refused = Rig::open(&disk, &small()).err().unwrap();
    assert!(std::matches!(refused, OpenError::Refused(_)), "{refused}");
}

#[test]
fn last_batch_of_a_segment_that_tells_fewer_offsets_is_damage_and_not_the_end() {
    let mut rig = Rig::new(&small());
    let stored: Vec<_> = (0..40).map(|i| rig.produce(key(1, 0), 2, 700, i)).collect();
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    let (path, _) = disk
        .files()
        .into_iter()
        .find(|(p, _)| p.ends_with("0.log"))
        .unwrap();
    let segment = disk.read_file(&path).unwrap();
    let last = stored.iter().rposition(|b| segment.ends_with(b)).unwrap();
    // Bytes 23 to 26 of a batch: the last record's offset less the first's, 1.
    disk.flip_bit(&path, (segment.len() - stored[last].len() + 26) as u64, 0)
        .unwrap();
    let again = Rig::open(&disk, &small()).unwrap();
    let second = offset(i64::try_from(last).unwrap() * 2 + 1);
    assert_eq!(
        again.read(key(1, 0), second, 100_000).unwrap_err(),
        ReadError::Corrupt {
            first: second,
            last: second
        }
    );
    let (bytes, _) = again.read(key(1, 0), second.next(), 1).unwrap();
    assert_eq!(bytes, stored[last + 1]);
}

#[test]
fn missing_segment_is_damage_and_not_absence() {
    let mut rig = Rig::new(&small());
    for i in 0..40 {
        rig.produce(key(1, 0), 2, 700, i);
    }
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    let segments: Vec<_> = disk
        .files()
        .into_iter()
        .map(|(p, _)| p)
        .filter(|p| p.ends_with(".log"))
        .collect();
    assert!(segments.len() > 2);
    crate::disk::Disk::unlink(&disk, &segments[0]).unwrap();
    let again = Rig::open(&disk, &small()).unwrap();
    let Err(ReadError::Corrupt { first, last }) = again.read(key(1, 0), Offset::ZERO, 1000) else {
        panic!("not seen")
    };
    assert_eq!(first, Offset::ZERO);
    assert!(again.read(key(1, 0), last.next(), 1000).is_ok());
}

#[test]
fn shortened_journal_file_refuses_to_start() {
    let (rig, stored) = journal_only(5);
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &stored[0]);
    let cut = position_in(&disk, &path, &stored[3]) / 4096 * 4096;
    let file = crate::disk::Disk::open(&disk, &path, crate::disk::Mode::Direct).unwrap();
    file.set_len(cut).unwrap();
    drop(file);
    let refused = Rig::open(&disk, &small()).err().unwrap();
    assert!(std::matches!(refused, OpenError::Refused(_)), "{refused}");
}

/// Destroys both copies of a journal file's header.
fn destroy_header(disk: &SimDisk, path: &str) {
    for copy in [0, 4096] {
        disk.flip_bit(path, copy + 20, 5).unwrap();
    }
}

/// Damages the newest journal file, of a directory that is new and of one whose ring has gone round: no start, nothing touched.
fn refuses_to_start_after(damage: impl Fn(&SimDisk, &str)) {
    for batches in [5, 60] {
        let (rig, stored) = journal_only(batches);
        let disk = rig.disk.after_kill();
        let path = journal_of(&disk, stored.last().unwrap());
        damage(&disk, &path);
        let before = disk.files();
        let refused = Rig::open(&disk, &small()).err().unwrap();
        assert!(
            std::matches!(&refused, OpenError::Refused(why) if why.contains(&path)),
            "{refused}"
        );
        assert_eq!(disk.files(), before, "nothing was touched");
    }
}

#[test]
fn newest_journal_file_without_its_header_refuses_to_start() {
    refuses_to_start_after(destroy_header);
}

#[test]
fn newest_journal_file_whose_header_reads_as_zeros_is_not_taken_for_unused() {
    refuses_to_start_after(|disk, path| {
        for sector in 0..16 {
            disk.zero_sector(path, sector * 512).unwrap();
        }
    });
}

#[test]
fn newest_journal_file_that_cannot_be_read_now_is_not_taken_for_unused() {
    let (rig, stored) = journal_only(5);
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &stored[4]);
    let before = disk.files();
    disk.inject(Fault::next(FaultKind::ReadFails, &path).times(u64::MAX));
    let refused = Rig::open(&disk, &small()).err().unwrap();
    assert!(std::matches!(&refused, OpenError::Io(_)), "{refused}");
    assert_eq!(disk.files(), before, "nothing was touched");
    disk.clear_faults();
    let again = Rig::open(&disk, &small()).unwrap();
    assert_eq!(again.read_all(key(1, 0)), stored.concat());
}

#[test]
fn unreadable_index_neither_refuses_a_start_nor_a_read() {
    let mut rig = Rig::new(&small());
    let stored: Vec<_> = (0..30).map(|i| rig.produce(key(1, 0), 2, 700, i)).collect();
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    for (path, len) in disk.files().into_iter().filter(|(p, _)| p.ends_with(".index")) {
        disk.make_unreadable(&path, 0, len).unwrap();
    }
    let mut again = Rig::open(&disk, &small()).unwrap();
    assert_eq!(again.read(key(1, 0), offset(40), 1).unwrap().0, stored[20]);
    let more = again.produce(key(1, 0), 1, 10, 9);
    again.inline.apply().unwrap();
    assert_eq!(
        again.read_all(key(1, 0)),
        [stored.concat(), more.to_vec()].concat()
    );
}

#[test]
fn header_that_was_only_being_rewritten_is_no_damage() {
    let (rig, stored) = journal_only(60);
    let disk = rig.disk.after_kill();
    let newest = journal_of(&disk, stored.last().unwrap());
    let all = disk.files().into_iter().map(|(path, _)| path);
    // Everything else lies below the checkpoint before the newest, as a file must before it is used again.
    let again = Rig::open(&disk, &small()).unwrap();
    again.inline.stop().unwrap();
    let disk = again.disk.after_kill();
    let mut others = all.filter(|path| path.starts_with("journal/") && *path != newest);
    let other = others.next_back().unwrap();
    destroy_header(&disk, &other);
    let third = Rig::open(&disk, &small()).unwrap();
    assert_eq!(third.read_all(key(1, 0)), stored.concat());
}

#[test]
fn journal_file_that_is_shorter_than_its_header_refuses_to_start() {
    let (rig, stored) = journal_only(1);
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, &stored[0]);
    let file = crate::disk::Disk::open(&disk, &path, crate::disk::Mode::Direct).unwrap();
    for length in [0, 4096] {
        file.set_len(length).unwrap();
        let refused = Rig::open(&disk, &small()).err().unwrap();
        assert!(
            std::matches!(refused, OpenError::Refused(_)),
            "{length}: {refused}"
        );
    }
}

/// Entries with right checksums, of batches that stand elsewhere: what an index says is no proof of damage.
#[test]
fn index_of_another_segment_leads_no_read_astray() {
    let mut rig = Rig::new(&small());
    let stored: Vec<_> = (0..40).map(|i| rig.produce(key(1, 0), 2, 700, i)).collect();
    // The same offsets at other positions.
    for i in 0..40 {
        rig.produce(key(2, 0), 2, 500, i);
    }
    rig.inline.stop().unwrap();
    let indexes: Vec<_> = rig
        .disk
        .files()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| path.ends_with(".index"))
        .collect();
    let own = indexes.iter().filter(|path| path.contains("/01010101-"));
    for of in own {
        for other in &indexes {
            let disk = rig.disk.after_kill();
            let bytes = disk.read_file(other).unwrap();
            disk.write_file(of, &bytes).unwrap();
            let again = Rig::open(&disk, &small()).unwrap();
            for (n, batch) in stored.iter().enumerate() {
                let at = offset(i64::try_from(n).unwrap() * 2);
                assert_eq!(again.read(key(1, 0), at, 1).unwrap().0, batch, "{other} as {of}");
            }
            assert_eq!(again.store.open(key(1, 0), CONFIG).stats().quarantined, []);
        }
    }
}

/// Every broker has a reserve unless it was told to do without: it is nobody else's file.
#[test]
fn directory_that_lost_its_format_and_has_a_reserve_says_what_format_should_read() {
    let settings = Settings {
        reserve_bytes: 4096,
        ..small()
    };
    let rig = Rig::open(&new_disk(), &settings).unwrap();
    let disk = rig.disk.after_kill();
    let text = String::from_utf8(disk.read_file("FORMAT").unwrap()).unwrap();
    Disk::unlink(&disk, "FORMAT").unwrap();
    let before = (disk.ops(), disk.files());
    assert!(before.1.iter().any(|(path, _)| path == "reserve"));
    let error = Rig::open(&disk, &settings).err().expect("a start");
    assert!(
        error.to_string().contains(text.lines().nth(1).unwrap()),
        "{error}"
    );
    // Nor is the reserve alone a directory that was never used.
    let alone = new_disk();
    alone.write_file("reserve", &[0; 4096]).unwrap();
    assert!(std::matches!(
        Rig::open(&alone, &settings).err().expect("a start"),
        OpenError::FormatGone { .. }
    ));
    assert_eq!((disk.ops(), disk.files()), before);
}

/// A directory in use whose `FORMAT` is gone is never made anew, wherever its data stands.
#[test]
fn directory_that_lost_its_format_is_never_made_anew() {
    let (rig, stored) = journal_only(3);
    let mut applied = Rig::new(&small());
    applied.produce(key(1, 0), 2, 100, 1);
    applied.inline.stop().unwrap();
    for disk in [rig.disk.after_kill(), applied.disk.after_kill()] {
        let text = String::from_utf8(disk.read_file("FORMAT").unwrap()).unwrap();
        Disk::unlink(&disk, "FORMAT").unwrap();
        for gone in [
            &["topics"][..],
            &["checkpoint.1"],
            &["checkpoint.0", "checkpoint.1"],
        ] {
            let image = disk.after_kill();
            let with_data = gone.iter().filter(|path| image.read_file(path).is_ok());
            with_data.for_each(|path| Disk::unlink(&image, path).unwrap());
            let before = (image.ops(), image.files());
            let error = Rig::open(&image, &small()).err().expect("a start");
            assert!(
                std::matches!(error, OpenError::FormatGone { .. }),
                "{gone:?}: {error}"
            );
            let says_what = error.to_string().contains(text.lines().nth(1).unwrap());
            assert_eq!(says_what, gone.len() == 1, "{error}");
            assert_eq!((image.ops(), image.files()), before, "{gone:?}");
        }
        // What the message says is the way back.
        disk.write_file("FORMAT", text.as_bytes()).unwrap();
        Rig::open(&disk, &small()).unwrap();
    }
    assert_eq!(
        Rig::open(&rig.disk.after_kill(), &small())
            .unwrap()
            .read_all(key(1, 0)),
        stored.concat()
    );
}

#[test]
fn missing_directories_refuse_a_start_or_are_made_again_if_nothing_needs_them() {
    let mut rig = Rig::new(&small());
    let stored = rig.produce(key(1, 0), 2, 100, 1);
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    for dir in ["topics", "journal"] {
        let image = disk.after_kill();
        Disk::rename(&image, dir, "elsewhere").unwrap();
        let before = (image.ops(), image.files());
        let error = Rig::open(&image, &small()).err().expect("a start");
        assert!(
            std::matches!(&error, OpenError::Refused(why) if why.contains(dir)),
            "{dir}: {error}"
        );
        assert_eq!((image.ops(), image.files()), before, "{dir}");
    }
    for dir in ["salvage", "trash"] {
        let image = disk.after_kill();
        Disk::rmdir(&image, dir).unwrap();
        let again = Rig::open(&image, &small()).unwrap();
        assert_eq!(again.read_all(key(1, 0)), stored, "{dir}");
    }
}

#[test]
fn first_journal_file_that_is_gone_refuses_to_start_although_unused_ones_are_there() {
    let mut rig = Rig::new(&small());
    while rig.disk.read_file("journal/00000001.journal").is_err() {
        rig.inline.make_journal_file().unwrap();
    }
    rig.produce(key(1, 0), 2, 100, 1);
    rig.inline.seal();
    let disk = rig.disk.after_kill();
    Disk::unlink(&disk, "journal/00000000.journal").unwrap();
    let before = (disk.ops(), disk.files());
    let error = Rig::open(&disk, &small()).err().expect("a start");
    assert!(std::matches!(error, OpenError::Refused(_)), "{error}");
    assert_eq!((disk.ops(), disk.files()), before);
}

#[test]
fn journal_file_that_was_cut_to_nothing_is_not_taken_for_half_made() {
    let mut rig = Rig::new(&small());
    for number in 1..3 {
        while rig
            .disk
            .read_file(&crate::storage::local::paths::journal(number))
            .is_err()
        {
            rig.inline.make_journal_file().unwrap();
        }
    }
    let mut stored: Vec<Bytes> = Vec::new();
    // Until the newest groups stand in a file that is not the last one that was made.
    while !(stored.len() > 60 && journal_of(&rig.disk, stored.last().unwrap()).ends_with("1.journal")) {
        stored.push(rig.produce(key(1, 0), 2, 100, u8::try_from(stored.len()).unwrap()));
    }
    let disk = rig.disk.after_kill();
    let path = journal_of(&disk, stored.last().unwrap());
    for bytes in [0, 512] {
        let image = disk.after_kill();
        let kept = image.read_file(&path).unwrap()[..bytes].to_vec();
        image.write_file(&path, &kept).unwrap();
        let before = (image.ops(), image.files());
        let error = Rig::open(&image, &small()).err().expect("a start");
        assert!(
            std::matches!(&error, OpenError::Refused(why) if why.contains(&path)),
            "{error}"
        );
        assert_eq!((image.ops(), image.files()), before);
    }
}

#[test]
fn two_damaged_checkpoints_refuse_a_start() {
    let (rig, _) = journal_only(3);
    let disk = rig.disk.after_kill();
    for path in ["checkpoint.0", "checkpoint.1"] {
        disk.flip_bit(path, 60, 2).unwrap();
    }
    let before = (disk.ops(), disk.files());
    let error = Rig::open(&disk, &small()).err().expect("a start");
    assert!(
        std::matches!(&error, OpenError::Refused(why) if why.contains("checkpoint.0")),
        "{error}"
    );
    assert_eq!((disk.ops(), disk.files()), before);
}

#[test]
fn unreadable_last_block_of_a_segment_costs_its_own_partition_alone() {
    let mut rig = Rig::new(&small());
    let stored: Vec<_> = (0..3).map(|i| rig.produce(key(1, 0), 2, 700, i)).collect();
    let other = rig.produce(key(2, 0), 1, 100, 7);
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    let path = "topics/01010101-0101-0101-0101-010101010101/0/00000000000000000000.log";
    // Of three batches of 1.5 kB the last begins in the second sector from the end.
    let at = position_in(&disk, path, &stored[2]) / 512 * 512 + 1024;
    disk.make_unreadable(path, at, 1).unwrap();
    let mut again = Rig::open(&disk, &small()).unwrap();
    assert_eq!(again.read_all(key(2, 0)), other);
    again.read(key(1, 0), offset(4), 5_000).unwrap_err();
    // Appends go on in a file of their own, over the next start, too.
    let more = again.produce(key(1, 0), 1, 10, 9);
    again.inline.stop().unwrap();
    let third = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(third.read(key(1, 0), offset(6), 5_000).unwrap().0, more);
}
