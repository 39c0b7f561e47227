//! What the simulated disk loses, keeps and breaks, rule by rule.

mod unkind;

use std::collections::BTreeSet;
use std::io::ErrorKind;

use proptest::prelude::*;

use super::*;
use crate::disk::{AlignedBuf, os_error};

const SEEDS: u64 = 200;
const KIB: usize = 1024;

fn new_disk() -> SimDisk {
    SimDisk::new(SimOptions::default())
}

fn with(change: impl FnOnce(&mut SimOptions)) -> SimDisk {
    let mut options = SimOptions::default();
    change(&mut options);
    SimDisk::new(options)
}

fn create(disk: &SimDisk, path: &str) -> Box<dyn DiskFile> {
    disk.create_new(path, Mode::Buffered).unwrap()
}

fn kind<T>(result: io::Result<T>) -> ErrorKind {
    result.err().expect("this must fail").kind()
}

fn paths(disk: &SimDisk) -> Vec<String> {
    disk.files().into_iter().map(|(path, _)| path).collect()
}

/// Bytes of `path` in each image of `SEEDS` power cuts, without repetitions.
fn outcomes(disk: &SimDisk, path: &str, profile: CutProfile) -> BTreeSet<Option<Vec<u8>>> {
    (0..SEEDS)
        .map(|seed| disk.after_power_cut(seed, profile).read_file(path).ok())
        .collect()
}

/// All sets of names that power cuts leave.
fn name_outcomes(disk: &SimDisk, profile: CutProfile) -> BTreeSet<Vec<String>> {
    (0..SEEDS)
        .map(|seed| paths(&disk.after_power_cut(seed, profile)))
        .collect()
}

fn sets(of: &[&[&str]]) -> BTreeSet<Vec<String>> {
    of.iter()
        .map(|names| names.iter().map(|&name| name.to_owned()).collect())
        .collect()
}

#[test]
fn synced_data_survives_every_cut_and_the_rest_is_lost_at_worst() {
    let disk = new_disk();
    disk.write_file("f", b"").unwrap();
    let file = disk.open("f", Mode::Buffered).unwrap();
    file.write_all_at(&[1; 3000], 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[2; 3000], 3000).unwrap();
    for profile in CutProfile::ALL {
        for bytes in outcomes(&disk, "f", profile) {
            let bytes = bytes.expect("the name is durable");
            // The sector that holds the end is shared with bytes that were not synced.
            assert!(bytes.len() >= 3000, "{profile:?}");
            assert_eq!(bytes[..2560], [1; 2560], "{profile:?}");
        }
    }
    let only = |bytes: Vec<u8>| BTreeSet::from([Some(bytes)]);
    assert_eq!(outcomes(&disk, "f", CutProfile::DropAll), only(vec![1; 3000]));
    let both = [[1; 3000], [2; 3000]].concat();
    assert_eq!(outcomes(&disk, "f", CutProfile::KeepAll), only(both));
}

#[test]
fn overwritten_sectors_are_old_or_new_each_for_itself() {
    let disk = new_disk();
    disk.write_file("f", &[1; 4 * KIB]).unwrap();
    let file = disk.open("f", Mode::Direct).unwrap();
    let mut new = AlignedBuf::zeroed(4 * KIB);
    new.fill(2);
    file.write_all_at(&new, 0).unwrap();
    for profile in [CutProfile::Ext4, CutProfile::Posix] {
        let outcomes = outcomes(&disk, "f", profile);
        for bytes in outcomes.iter().flatten() {
            assert_eq!(bytes.len(), 4 * KIB);
            for sector in bytes.chunks(512) {
                assert!(sector == [1; 512] || sector == [2; 512]);
            }
        }
        assert!(outcomes.contains(&Some(vec![1; 4 * KIB])));
        assert!(outcomes.contains(&Some(vec![2; 4 * KIB])));
        let hole = |bytes: &Vec<u8>| bytes[0] == 2 && bytes[512] == 1 && bytes[1024] == 2;
        assert!(outcomes.iter().flatten().any(hole));
    }
}

#[test]
fn a_grown_file_ends_anywhere_between_and_may_have_holes_of_zeros() {
    let disk = new_disk();
    disk.write_file("f", &[1; 700]).unwrap();
    let file = disk.open("f", Mode::Buffered).unwrap();
    file.write_all_at(&[2; 3000], 700).unwrap();
    let outcomes = outcomes(&disk, "f", CutProfile::Ext4);
    let lengths: BTreeSet<usize> = outcomes.iter().flatten().map(Vec::len).collect();
    assert_eq!(
        lengths,
        BTreeSet::from([700, 1024, 1536, 2048, 2560, 3072, 3584, 3700])
    );
    for bytes in outcomes.iter().flatten() {
        assert_eq!(bytes[..512], [1; 512]);
        let end = bytes.len().min(1536);
        assert!(
            bytes[1024.min(end)..end]
                .iter()
                .all(|&b| b == bytes[1024] && matches!(b, 0 | 2))
        );
    }
    let hole = |bytes: &&Vec<u8>| bytes.len() == 3700 && bytes[1024] == 0 && bytes[3600] == 2;
    assert!(outcomes.iter().flatten().any(|bytes| hole(&bytes)));
}

#[test]
fn a_cut_off_that_was_not_synced_can_come_back() {
    let disk = new_disk();
    disk.write_file("f", &[1; 4 * KIB]).unwrap();
    let file = disk.open("f", Mode::Buffered).unwrap();
    file.set_len(0).unwrap();
    let lost = outcomes(&disk, "f", CutProfile::DropAll);
    assert_eq!(lost, BTreeSet::from([Some(vec![1; 4 * KIB])]));
    let some = outcomes(&disk, "f", CutProfile::Ext4);
    assert!(some.contains(&Some(vec![])));
    assert!(some.contains(&Some(vec![1; 4 * KIB])));
    file.sync_data().unwrap();
    assert_eq!(
        outcomes(&disk, "f", CutProfile::Nasty),
        BTreeSet::from([Some(vec![])])
    );
}

#[test]
fn garbage_is_found_in_unsynced_sectors_of_nasty_disks_only() {
    let disk = new_disk();
    disk.write_file("f", &[1; 2 * KIB]).unwrap();
    let file = disk.open("f", Mode::Buffered).unwrap();
    file.write_all_at(&[2; 512], 512).unwrap();
    let foreign = |bytes: &Vec<u8>| bytes.iter().any(|&byte| byte != 1 && byte != 2);
    for profile in CutProfile::ALL {
        let outcomes = outcomes(&disk, "f", profile);
        let garbage = outcomes.iter().flatten().any(foreign);
        assert_eq!(garbage, profile == CutProfile::Nasty, "{profile:?}");
        for bytes in outcomes.iter().flatten() {
            assert_eq!(bytes[..512], [1; 512]);
            assert_eq!(bytes[1024..], [1; 1024]);
        }
    }
}

#[test]
fn a_direct_write_survives_a_kill_and_not_a_power_cut() {
    let disk = new_disk();
    let file = disk.create_new("f", Mode::Direct).unwrap();
    disk.sync_dir("").unwrap();
    file.write_all_at(&AlignedBuf::zeroed(4096), 0).unwrap();
    assert_eq!(disk.after_kill().files(), [("f".to_owned(), 4096)]);
    let cut = disk.after_power_cut(1, CutProfile::DropAll);
    assert_eq!(cut.files(), [("f".to_owned(), 0)]);
    // A kill makes nothing durable either.
    let cut = disk.after_kill().after_power_cut(1, CutProfile::DropAll);
    assert_eq!(cut.files(), [("f".to_owned(), 0)]);
}

#[test]
fn names_need_the_sync_of_their_directory() {
    let disk = new_disk();
    disk.mkdir("d").unwrap();
    let file = create(&disk, "d/f");
    file.write_all_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(name_outcomes(&disk, CutProfile::DropAll), sets(&[&[]]));
    disk.sync_dir("d").unwrap();
    // The directory itself is not durable yet, so nothing in it can be found.
    assert_eq!(name_outcomes(&disk, CutProfile::DropAll), sets(&[&[]]));
    disk.sync_dir("").unwrap();
    for profile in CutProfile::ALL {
        let found = disk.after_power_cut(7, profile);
        assert_eq!(found.read_file("d/f").unwrap(), b"x");
    }
}

#[test]
fn ext4_keeps_the_first_names_and_posix_any() {
    let disk = new_disk();
    for path in ["a", "b", "c"] {
        create(&disk, path);
    }
    let prefixes = sets(&[&[], &["a"], &["a", "b"], &["a", "b", "c"]]);
    assert_eq!(name_outcomes(&disk, CutProfile::Ext4), prefixes);
    let mut any = sets(&[&["b"], &["c"], &["a", "c"], &["b", "c"]]);
    any.extend(prefixes);
    assert_eq!(name_outcomes(&disk, CutProfile::Posix), any);
    assert_eq!(name_outcomes(&disk, CutProfile::Nasty), any);
}

#[test]
fn changes_of_one_name_are_not_reordered() {
    let disk = new_disk();
    create(&disk, "a");
    disk.rename("a", "b").unwrap();
    create(&disk, "a");
    disk.unlink("b").unwrap();
    let possible = sets(&[&[], &["a"], &["b"], &["a", "b"]]);
    assert_eq!(name_outcomes(&disk, CutProfile::Posix), possible);
}

#[test]
fn a_replaced_file_is_old_or_new_and_never_gone() {
    let disk = new_disk();
    disk.write_file("current", b"old").unwrap();
    let new = create(&disk, "new");
    new.write_all_at(b"new", 0).unwrap();
    new.sync_data().unwrap();
    disk.rename("new", "current").unwrap();
    let both = BTreeSet::from([Some(b"new".to_vec()), Some(b"old".to_vec())]);
    for profile in [CutProfile::Ext4, CutProfile::Posix, CutProfile::Nasty] {
        assert_eq!(outcomes(&disk, "current", profile), both, "{profile:?}");
    }
    disk.sync_dir("").unwrap();
    for profile in CutProfile::ALL {
        let only = BTreeSet::from([Some(b"new".to_vec())]);
        assert_eq!(outcomes(&disk, "current", profile), only, "{profile:?}");
    }
}

#[test]
fn a_rename_can_reach_the_disk_before_the_data() {
    let disk = new_disk();
    disk.write_file("current", b"old").unwrap();
    let new = create(&disk, "new");
    new.write_all_at(b"new", 0).unwrap();
    disk.rename("new", "current").unwrap();
    let outcomes = outcomes(&disk, "current", CutProfile::Ext4);
    assert!(outcomes.contains(&Some(vec![])));
}

#[test]
fn a_file_moved_between_directories_is_in_exactly_one() {
    let disk = new_disk();
    for dir in ["from", "to"] {
        disk.mkdir(dir).unwrap();
    }
    disk.sync_dir("").unwrap();
    disk.write_file("from/f", b"x").unwrap();
    create(&disk, "to/before");
    disk.rename("from/f", "to/f").unwrap();
    let ext4 = sets(&[&["from/f"], &["from/f", "to/before"], &["to/before", "to/f"]]);
    assert_eq!(name_outcomes(&disk, CutProfile::Ext4), ext4);
    let posix = sets(&[
        &["from/f"],
        &["from/f", "to/before"],
        &["to/f"],
        &["to/before", "to/f"],
    ]);
    assert_eq!(name_outcomes(&disk, CutProfile::Posix), posix);
    disk.sync_dir("from").unwrap();
    assert_eq!(name_outcomes(&disk, CutProfile::DropAll), sets(&[&["to/f"]]));
}

#[test]
fn an_unlinked_file_comes_back_with_its_durable_bytes() {
    let disk = new_disk();
    disk.write_file("f", b"durable").unwrap();
    disk.unlink("f").unwrap();
    let both = BTreeSet::from([None, Some(b"durable".to_vec())]);
    assert_eq!(outcomes(&disk, "f", CutProfile::Ext4), both);
    disk.sync_dir("").unwrap();
    for profile in CutProfile::ALL {
        assert_eq!(outcomes(&disk, "f", profile), BTreeSet::from([None]));
    }
}

#[test]
fn an_image_of_a_power_cut_has_nothing_left_to_lose() {
    let disk = new_disk();
    for path in ["a", "b", "c"] {
        create(&disk, path).write_all_at(&[1; 2000], 0).unwrap();
    }
    for seed in 0..SEEDS {
        let image = disk.after_power_cut(seed, CutProfile::Nasty);
        let again = image.after_power_cut(seed + 1, CutProfile::DropAll);
        assert_eq!(again.files(), image.files());
        for path in paths(&image) {
            assert_eq!(again.read_file(&path).unwrap(), image.read_file(&path).unwrap());
        }
    }
}

#[test]
fn images_and_original_do_not_touch_each_other() {
    let disk = new_disk();
    let file = create(&disk, "f");
    file.write_all_at(&[1; 100], 0).unwrap();
    let image = disk.after_kill();
    file.write_all_at(&[2; 100], 0).unwrap();
    create(&disk, "later");
    let other = image.open("f", Mode::Buffered).unwrap();
    other.write_all_at(&[3; 50], 50).unwrap();
    assert_eq!(disk.read_file("f").unwrap(), [2; 100]);
    assert_eq!(image.read_file("f").unwrap(), [[1; 50], [3; 50]].concat());
    assert_eq!(paths(&image), ["f"]);
}

#[test]
fn the_same_seed_gives_the_same_image() {
    let run = || {
        let disk = with(|options| options.write_back = true);
        for path in ["a", "b"] {
            let file = create(&disk, path);
            for at in 0..20 {
                file.write_all_at(&[1; 700], at * 700).unwrap();
            }
        }
        disk
    };
    let (one, two) = (run(), run());
    let image = |disk: &SimDisk, seed| {
        let image = disk.after_power_cut(seed, CutProfile::Nasty);
        let files: Vec<Vec<u8>> = paths(&image)
            .iter()
            .map(|path| image.read_file(path).unwrap())
            .collect();
        (paths(&image), files)
    };
    let images: BTreeSet<_> = (0..SEEDS).map(|seed| image(&one, seed)).collect();
    let again: BTreeSet<_> = (0..SEEDS).map(|seed| image(&two, seed)).collect();
    assert_eq!(images, again);
    assert!(images.len() > 50, "only {} different images", images.len());
}

#[test]
fn write_back_can_leave_a_version_in_between() {
    let found = (0..SEEDS).any(|seed| {
        let disk = with(|options| (options.seed, options.write_back) = (seed, true));
        disk.write_file("f", &[0; 512]).unwrap();
        let file = disk.open("f", Mode::Buffered).unwrap();
        for version in 1..10 {
            file.write_all_at(&[version; 512], 0).unwrap();
        }
        let outcomes = outcomes(&disk, "f", CutProfile::DropAll);
        outcomes.iter().flatten().any(|bytes| (1..9).contains(&bytes[0]))
    });
    assert!(found);
}

#[test]
fn a_failed_sync_forgets_and_the_next_one_lies() {
    for failed_sync in [FailedSync::KeepsCache, FailedSync::Reverts] {
        let mut lost = 0;
        for seed in 0..SEEDS {
            let disk = with(|options| (options.seed, options.failed_sync) = (seed, failed_sync));
            disk.write_file("f", &[1; 512]).unwrap();
            let file = disk.open("f", Mode::Buffered).unwrap();
            file.write_all_at(&[2; 512], 0).unwrap();
            disk.inject(Fault::next(FaultKind::SyncFails, "f"));
            let error = file.sync_data().unwrap_err();
            assert_eq!(os_error(&error), Some(Errno::IO.raw_os_error()));
            file.sync_data().unwrap();

            let durable = disk.after_power_cut(seed, CutProfile::KeepAll);
            let kept = disk
                .after_power_cut(seed, CutProfile::DropAll)
                .read_file("f")
                .unwrap();
            assert!(kept == [1; 512] || kept == [2; 512]);
            lost += u32::from(kept == [1; 512]);
            match failed_sync {
                FailedSync::KeepsCache => assert_eq!(disk.read_file("f").unwrap(), [2; 512]),
                FailedSync::Reverts => assert_eq!(disk.read_file("f").unwrap(), kept),
            }
            file.drop_cache(0, 512).unwrap();
            assert_eq!(disk.read_file("f").unwrap(), kept);
            // "Everything survives" is about what is waiting to be synced, and nothing is.
            assert_eq!(durable.read_file("f").unwrap(), kept);

            file.write_all_at(&[3; 512], 0).unwrap();
            file.sync_data().unwrap();
            let bytes = disk.after_power_cut(seed, CutProfile::DropAll).read_file("f");
            assert_eq!(bytes.unwrap(), [3; 512]);
        }
        assert!(lost > 0 && u64::from(lost) < SEEDS, "{lost}");
    }
}

#[test]
fn a_failed_directory_sync_forgets_too() {
    let disk = new_disk();
    create(&disk, "f");
    disk.inject(Fault::next(FaultKind::SyncDirFails, ""));
    assert!(disk.sync_dir("").is_err());
    disk.sync_dir("").unwrap();
    assert_eq!(paths(&disk), ["f"]);
    assert_eq!(
        paths(&disk.after_power_cut(0, CutProfile::KeepAll)),
        Vec::<String>::new()
    );
}

#[test]
fn a_full_disk_refuses_before_anything_is_written() {
    let disk = with(|options| options.free_bytes = 5 * 4096 + 4095);
    let file = create(&disk, "f");
    file.write_all_at(&[1; 3 * 4096], 0).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 2 * 4096);
    let error = file.write_all_at(&[2; 4 * 4096], 2 * 4096).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(os_error(&error), Some(Errno::NOSPC.raw_os_error()));
    assert_eq!(disk.read_file("f").unwrap(), [1; 3 * 4096]);
    assert_eq!(disk.free_bytes().unwrap(), 2 * 4096);
    assert_eq!(kind(file.allocate(0, 6 * 4096)), ErrorKind::StorageFull);
    // What is overwritten needs no space.
    file.write_all_at(&[3; 5 * 4096], 0).unwrap();
    file.write_all_at(&[4; 5 * 4096], 0).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 0);
    disk.set_free_bytes(4096);
    file.write_all_at(&[5; 1], 5 * 4096).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 0);
}

#[test]
fn space_is_counted_in_blocks_and_given_back() {
    let disk = with(|options| options.free_bytes = 100 * 4096);
    let free = || disk.free_bytes().unwrap() / 4096;
    let file = create(&disk, "f");
    file.write_all_at(b"x", 50 * 4096).unwrap();
    assert_eq!(free(), 99, "a gap takes no space");
    file.allocate(0, 10 * 4096).unwrap();
    file.write_all_at(&[1; 4096], 4096).unwrap();
    assert_eq!(free(), 89);
    file.allocate(60 * 4096, 10 * 4096).unwrap();
    assert_eq!(free(), 79);
    file.set_len(50 * 4096 + 1).unwrap();
    assert_eq!(free(), 89, "a reservation behind the end is cut off");
    file.set_len(4097).unwrap();
    assert_eq!(free(), 98);
    let second = disk.open("f", Mode::Buffered).unwrap();
    disk.unlink("f").unwrap();
    drop(second);
    assert_eq!(free(), 98, "a handle holds the space");
    drop(file);
    assert_eq!(free(), 100);
    disk.sync_dir("").unwrap();
    assert_eq!(free(), 100);
    disk.write_file("a", &[0; 5000]).unwrap();
    disk.write_file("b", &[0; 5000]).unwrap();
    assert_eq!(free(), 96);
    disk.rename("a", "b").unwrap();
    assert_eq!(free(), 98);
}

#[test]
fn a_reservation_survives_a_power_cut_once_it_is_synced() {
    let disk = with(|options| options.free_bytes = 100 * 4096);
    disk.write_file("f", b"").unwrap();
    let file = disk.open("f", Mode::Buffered).unwrap();
    file.allocate(0, 10 * 4096).unwrap();
    let free = |disk: &SimDisk| disk.free_bytes().unwrap() / 4096;
    assert_eq!(free(&disk.after_power_cut(0, CutProfile::DropAll)), 100);
    assert_eq!(free(&disk.after_power_cut(0, CutProfile::KeepAll)), 90);
    assert_eq!(free(&disk.after_kill()), 90);
    file.sync_data().unwrap();
    let image = disk.after_power_cut(0, CutProfile::DropAll);
    assert_eq!(free(&image), 90);
    image.set_free_bytes(0);
    let file = image.open("f", Mode::Buffered).unwrap();
    file.write_all_at(&[1; 10 * 4096], 0).unwrap();
    assert_eq!(kind(file.write_all_at(&[1], 10 * 4096)), ErrorKind::StorageFull);
}

#[test]
fn a_kill_frees_files_without_names() {
    let disk = with(|options| options.free_bytes = 10 * 4096);
    disk.write_file("f", &[1; 4096]).unwrap();
    let file = disk.open("f", Mode::Buffered).unwrap();
    disk.unlink("f").unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 9 * 4096);
    assert_eq!(disk.after_kill().free_bytes().unwrap(), 10 * 4096);
    file.write_all_at(&[2; 4096], 4096).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 8 * 4096);
}

#[test]
fn direct_and_buffered_writes_to_one_file_are_refused() {
    let disk = new_disk();
    let direct = disk.create_new("f", Mode::Direct).unwrap();
    let buffered = disk.open("f", Mode::Buffered).unwrap();
    let block = AlignedBuf::zeroed(4096);
    direct.write_all_at(&block, 0).unwrap();
    assert_eq!(kind(buffered.write_all_at(b"x", 0)), ErrorKind::InvalidInput);
    assert_eq!(buffered.read_at(&mut [1; 5], 0).unwrap(), 5);
    let buffered = create(&disk, "g");
    buffered.write_all_at(b"x", 0).unwrap();
    let direct = disk.open("g", Mode::Direct).unwrap();
    assert_eq!(kind(direct.write_all_at(&block, 0)), ErrorKind::InvalidInput);
}

#[test]
fn without_direct_support_every_file_is_buffered() {
    let disk = with(|options| options.direct = false);
    assert!(!disk.supports_direct());
    let file = disk.create_new("f", Mode::Direct).unwrap();
    file.write_all_at(b"x", 3).unwrap();
    disk.open("f", Mode::Buffered)
        .unwrap()
        .write_all_at(b"y", 4)
        .unwrap();
    assert_eq!(disk.read_file("f").unwrap(), b"\0\0\0xy");
}

#[test]
fn faults_strike_the_path_and_turn_that_was_ordered() {
    let disk = new_disk();
    disk.mkdir("d").unwrap();
    let (inside, outside) = (create(&disk, "d/f"), create(&disk, "f"));
    disk.inject(Fault::next(FaultKind::NoSpace, "d/").after(1).times(2));
    let write = |file: &dyn DiskFile| file.write_all_at(b"x", 0).map_err(|e| e.kind());
    let full = Err(ErrorKind::StorageFull);
    let results: Vec<_> = (0..4).map(|_| (write(&*inside), write(&*outside))).collect();
    assert_eq!(
        results,
        [(Ok(()), Ok(())), (full, Ok(())), (full, Ok(())), (Ok(()), Ok(()))]
    );
    disk.inject(Fault::next(FaultKind::NoSpace, "").times(u64::MAX));
    assert_eq!(write(&*outside), full);
    assert_eq!(write(&*outside), full);
    disk.clear_faults();
    assert_eq!(write(&*outside), Ok(()));
}

#[test]
fn a_failed_write_may_be_done_up_to_a_sector() {
    let mut lengths = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = with(|options| options.seed = seed);
        let file = create(&disk, "f");
        disk.inject(Fault::next(FaultKind::WriteFails, "f"));
        let error = file.write_all_at(&[1; 2000], 0).unwrap_err();
        assert_eq!(os_error(&error), Some(Errno::IO.raw_os_error()));
        lengths.insert(disk.read_file("f").unwrap().len());
    }
    assert_eq!(lengths, BTreeSet::from([0, 512, 1024, 1536]));
}

#[test]
fn a_lost_write_says_that_all_is_well() {
    let disk = new_disk();
    disk.write_file("f", b"old").unwrap();
    let file = disk.open("f", Mode::Buffered).unwrap();
    disk.inject(Fault::next(FaultKind::WriteLost, "f"));
    file.write_all_at(b"new", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.read_file("f").unwrap(), b"old");
}

#[test]
fn failed_changes_have_no_effect() {
    let disk = new_disk();
    disk.write_file("f", b"x").unwrap();
    let file = disk.open("f", Mode::Buffered).unwrap();
    disk.inject(Fault::next(FaultKind::ChangeFails, "").times(6));
    for result in [
        disk.create_new("g", Mode::Buffered).map(drop),
        disk.rename("f", "g"),
        disk.unlink("f"),
        disk.mkdir("d"),
        disk.rmdir("d"),
        file.set_len(0),
    ] {
        let error = result.unwrap_err();
        assert_eq!(os_error(&error), Some(Errno::IO.raw_os_error()));
    }
    assert_eq!(disk.files(), [("f".to_owned(), 1)]);
    assert_eq!(disk.list("").unwrap().len(), 1);
}

#[test]
fn reads_are_short_interrupted_or_fail_as_ordered() {
    let disk = new_disk();
    let bytes: Vec<u8> = (0..16 * KIB).map(|i| i.to_le_bytes()[0]).collect();
    disk.write_file("f", &bytes).unwrap();
    let file = disk.open("f", Mode::Buffered).unwrap();
    disk.inject(Fault::next(FaultKind::ReadShort, "f").times(5));
    disk.inject(Fault::next(FaultKind::ReadInterrupted, "f").after(2).times(3));
    let mut buf = vec![0; bytes.len()];
    let short = file.read_at(&mut buf, 0).unwrap();
    assert!((1..bytes.len()).contains(&short));
    crate::disk::read_exact_at(&*file, &mut buf, 0).unwrap();
    assert_eq!(buf, bytes);

    let direct = disk.open("f", Mode::Direct).unwrap();
    let mut block = AlignedBuf::zeroed(16 * KIB);
    disk.inject(Fault::next(FaultKind::ReadShort, "f"));
    let short = direct.read_at(&mut block, 0).unwrap();
    assert!([4096, 8192, 12288].contains(&short));
    disk.inject(Fault::next(FaultKind::ReadFails, "f"));
    let error = direct.read_at(&mut block, 0).unwrap_err();
    assert_eq!(os_error(&error), Some(Errno::IO.raw_os_error()));
    assert_eq!(direct.read_at(&mut block, 0).unwrap(), bytes.len());
}

#[test]
fn damage_is_on_the_medium_and_in_the_cache() {
    let disk = new_disk();
    disk.write_file("f", &[0xf0; 2000]).unwrap();
    disk.flip_bit("f", 600, 0).unwrap();
    disk.zero_sector("f", 1999).unwrap();
    let mut expected = vec![0xf0; 2000];
    expected[600] = 0xf1;
    expected[1536..].fill(0);
    assert_eq!(disk.read_file("f").unwrap(), expected);
    let cut = disk.after_power_cut(0, CutProfile::DropAll);
    assert_eq!(cut.read_file("f").unwrap(), expected);
    assert_eq!(kind(disk.flip_bit("g", 0, 0)), ErrorKind::NotFound);
}

#[test]
fn an_unreadable_sector_stays_so_until_it_is_written_whole() {
    let disk = new_disk();
    disk.write_file("f", &[1; 4096]).unwrap();
    disk.make_unreadable("f", 1000, 100).unwrap();
    let image = disk.after_power_cut(0, CutProfile::DropAll);
    for disk in [&disk, &image] {
        let file = disk.open("f", Mode::Buffered).unwrap();
        let read = |at, len| file.read_at(&mut vec![0; len], at).map_err(|e| os_error(&e));
        let unreadable = Err(Some(Errno::IO.raw_os_error()));
        assert_eq!(read(0, 512), Ok(512));
        assert_eq!(read(0, 513), unreadable);
        assert_eq!(read(1500, 10), unreadable);
        assert_eq!(read(1536, 4096), Ok(2560));
        file.write_all_at(&[2; 700], 512).unwrap();
        assert_eq!(read(512, 512), Ok(512));
        assert_eq!(read(1024, 1), unreadable);
        file.write_all_at(&[2; 512], 1024).unwrap();
        assert_eq!(read(0, 4096), Ok(4096));
    }
}

#[test]
fn the_hook_sees_every_operation_before_it_happens() {
    let disk = new_disk();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&seen);
    disk.on_op(move |moment| {
        let op = format!("{:?}", moment.op());
        let op = op.split(' ').next().unwrap().to_owned();
        into.lock()
            .unwrap()
            .push((moment.index(), op, moment.after_kill().files()));
    });
    disk.mkdir("d").unwrap();
    let file = create(&disk, "d/f");
    file.write_all_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    file.set_len(3).unwrap();
    file.allocate(0, 1).unwrap();
    disk.rename("d/f", "d/g").unwrap();
    disk.sync_dir("d").unwrap();
    disk.unlink("d/g").unwrap();
    disk.rmdir("d").unwrap();
    assert_eq!(kind(disk.unlink("d/g")), ErrorKind::NotFound);
    // Looking changes nothing.
    disk.list("").unwrap();
    file.read_at(&mut [0], 0).unwrap();

    let f = |len| vec![("d/f".to_owned(), len)];
    let g = || vec![("d/g".to_owned(), 3)];
    let expected = [
        ("Mkdir", vec![]),
        ("Create", vec![]),
        ("Write", f(0)),
        ("Sync", f(1)),
        ("SetLen", f(1)),
        ("Allocate", f(3)),
        ("Rename", f(3)),
        ("SyncDir", g()),
        ("Unlink", g()),
        ("Rmdir", vec![]),
        ("Unlink", vec![]),
    ];
    let seen = seen.lock().unwrap();
    assert_eq!(disk.ops(), 11);
    assert_eq!(seen.len(), expected.len());
    for ((index, op, files), (nth, (name, before))) in seen.iter().zip(expected.iter().enumerate()) {
        assert_eq!((*index, &**op, files), (nth as u64, *name, before));
    }
}

#[test]
fn a_kill_in_the_middle_of_a_write_leaves_its_beginning() {
    let disk = new_disk();
    disk.write_file("f", &[1; 2000]).unwrap();
    let found = Arc::new(Mutex::new(BTreeSet::new()));
    let into = Arc::clone(&found);
    disk.on_op(move |moment| {
        for seed in 0..SEEDS {
            let bytes = moment.after_kill_midway(seed).read_file("f").unwrap();
            into.lock().unwrap().insert(bytes);
        }
    });
    let file = disk.open("f", Mode::Buffered).unwrap();
    file.write_all_at(&[2; 2000], 0).unwrap();
    let expected = [0, 512, 1024, 1536].map(|done| [vec![2; done], vec![1; 2000 - done]].concat());
    assert_eq!(*found.lock().unwrap(), BTreeSet::from(expected));
}

proptest! {
    /// The law behind all profiles: what was durable at the last sync is there, and what is there was written some time.
    #[test]
    fn each_sector_of_an_image_is_a_version_not_older_than_its_last_sync(
        steps in proptest::collection::vec((0..12u64, 1..4u64, any::<bool>()), 1..40),
        seed: u64,
        write_back: bool,
    ) {
        let disk = with(|options| (options.seed, options.write_back) = (seed, write_back));
        disk.write_file("f", &[0; 16 * 512]).unwrap();
        let file = disk.open("f", Mode::Buffered).unwrap();
        let mut possible = vec![BTreeSet::from([0u8]); 16];
        for (version, &(first, count, sync)) in (1u8..).zip(&steps) {
            let len = usize::try_from(count).unwrap() * 512;
            file.write_all_at(&vec![version; len], first * 512).unwrap();
            for sector in first..first + count {
                possible[usize::try_from(sector).unwrap()].insert(version);
            }
            if sync {
                file.sync_data().unwrap();
                for versions in &mut possible {
                    *versions = versions.last().copied().into_iter().collect();
                }
            }
            let image = disk.after_power_cut(seed ^ u64::from(version), CutProfile::Posix);
            let bytes = image.read_file("f").unwrap();
            for (sector, versions) in bytes.chunks(512).zip(&possible) {
                prop_assert!(versions.contains(&sector[0]), "{} not in {:?}", sector[0], versions);
                prop_assert!(sector.iter().all(|byte| *byte == sector[0]));
            }
        }
    }
}
