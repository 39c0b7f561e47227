//! Disks that lie, lose their way, run out of one thing or another, or do not answer.

use super::*;
use std::time::Duration;

fn errno<T>(result: io::Result<T>) -> Option<Errno> {
    os_error(&result.err()?).map(Errno::from_raw_os_error)
}

fn old_file(disk: &SimDisk, path: &str, fill: u8) {
    disk.write_file(path, &[fill; 4 * 4096]).unwrap();
}

#[test]
fn a_misdirected_write_hits_one_other_page_and_nothing_else() {
    let mut targets = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = with(|options| options.seed = seed);
        old_file(&disk, "a", 1);
        old_file(&disk, "b", 2);
        let file = disk.open("a", Mode::Buffered).unwrap();
        disk.inject(Fault::next(FaultKind::WriteMisdirected, "a"));
        file.write_all_at(&[9; 4096], 4096).unwrap();
        file.sync_data().unwrap();
        let strikes = disk.take_strikes();
        let [Strike { kind, path, landed }] = &strikes[..] else {
            panic!("{strikes:?}")
        };
        assert_eq!((*kind, &**path), (FaultKind::WriteMisdirected, "a"));
        let (target, at) = landed.clone().unwrap();
        assert_ne!((&*target, at), ("a", 4096), "this would be no mistake");
        targets.insert((target.clone(), at));
        // It is on the medium: no cache hides it, no power cut heals it.
        for disk in [&disk, &disk.after_power_cut(seed, CutProfile::DropAll)] {
            for (path, fill) in [("a", 1), ("b", 2)] {
                let mut expected = vec![fill; 4 * 4096];
                if path == target {
                    let at = usize::try_from(at).unwrap();
                    expected[at..at + 4096].fill(9);
                }
                assert_eq!(disk.read_file(path).unwrap(), expected);
            }
        }
    }
    assert_eq!(
        targets.len(),
        7,
        "every other page is hit by some seed: {targets:?}"
    );
}

#[test]
fn a_misdirected_write_makes_no_file_longer() {
    let disk = new_disk();
    disk.write_file("a", &[1; 100]).unwrap();
    disk.write_file("b", &[2; 700]).unwrap();
    let file = disk.open("a", Mode::Buffered).unwrap();
    disk.inject(Fault::next(FaultKind::WriteMisdirected, "a"));
    file.write_all_at(&[9; 3000], 0).unwrap();
    assert_eq!(disk.read_file("a").unwrap(), [1; 100]);
    assert_eq!(disk.read_file("b").unwrap(), [9; 700]);
}

#[test]
fn a_sync_that_lies_shows_itself_when_the_cache_is_gone() {
    let mut kept_some = 0;
    for seed in 0..SEEDS {
        let disk = with(|options| options.seed = seed);
        old_file(&disk, "f", 1);
        let file = disk.open("f", Mode::Buffered).unwrap();
        file.write_all_at(&[2; 4096], 0).unwrap();
        disk.inject(Fault::next(FaultKind::SyncLies, ""));
        file.sync_data().unwrap();
        assert_eq!(
            disk.read_file("f").unwrap()[..4096],
            [2; 4096],
            "the cache knows no better"
        );
        file.sync_data().unwrap();
        let cut = disk
            .after_power_cut(seed, CutProfile::KeepAll)
            .read_file("f")
            .unwrap();
        assert!(
            cut[..4096]
                .chunks(512)
                .all(|sector| sector == [1; 512] || sector == [2; 512])
        );
        assert_eq!(cut[4096..], [1; 3 * 4096]);
        kept_some += u32::from(cut[..4096].contains(&1) && cut[..4096].contains(&2));
        file.drop_cache(0, 4096).unwrap();
        assert_eq!(disk.read_file("f").unwrap(), cut);
    }
    assert!(kept_some > 100, "{kept_some}");
}

#[test]
fn syncs_that_find_no_space_forget_like_those_that_fail() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let disk = with(|options| options.seed = seed);
        old_file(&disk, "f", 1);
        let file = disk.open("f", Mode::Buffered).unwrap();
        file.write_all_at(&[2; 512], 0).unwrap();
        disk.inject(Fault::next(FaultKind::SyncNoSpace, ""));
        let error = file.sync_data().unwrap_err();
        assert_eq!(os_error(&error), Some(Errno::NOSPC.raw_os_error()));
        assert_eq!(error.kind(), ErrorKind::Other, "not to be tried again");
        file.sync_data().unwrap();
        let cut = disk
            .after_power_cut(seed, CutProfile::KeepAll)
            .read_file("f")
            .unwrap();
        lost += u64::from(cut[0] == 1);
    }
    assert!(lost > 0 && lost < SEEDS, "{lost}");

    let disk = new_disk();
    create(&disk, "f");
    disk.inject(Fault::next(FaultKind::SyncDirNoSpace, ""));
    let error = disk.sync_dir("").unwrap_err();
    assert_eq!(os_error(&error), Some(Errno::NOSPC.raw_os_error()));
    assert_eq!(error.kind(), ErrorKind::Other);
    disk.sync_dir("").unwrap();
    assert_eq!(
        paths(&disk.after_power_cut(0, CutProfile::KeepAll)),
        Vec::<String>::new()
    );
}

#[test]
fn each_operation_runs_out_of_space_by_itself() {
    let disk = new_disk();
    let file = create(&disk, "f");
    let no_space = Some(Errno::NOSPC);
    disk.inject(Fault::next(FaultKind::AllocateNoSpace, "").times(u64::MAX));
    assert_eq!(errno(file.allocate(0, 4096)), no_space);
    file.write_all_at(&[1; 4096], 0).unwrap();
    disk.clear_faults();

    disk.inject(Fault::next(FaultKind::NoSpace, "").times(u64::MAX));
    assert_eq!(errno(file.write_all_at(&[2; 4096], 0)), no_space);
    file.allocate(0, 8192).unwrap();
    assert_eq!(disk.read_file("f").unwrap(), [1; 4096], "nothing was done");
    disk.clear_faults();

    disk.inject(Fault::next(FaultKind::ChangeNoSpace, "").times(u64::MAX));
    assert_eq!(errno(disk.create_new("g", Mode::Buffered)), no_space);
    assert_eq!(errno(disk.mkdir("d")), no_space);
    assert_eq!(errno(disk.rename("f", "g")), no_space);
    file.set_len(5).unwrap();
    disk.unlink("f").unwrap();
    assert_eq!(disk.list("").unwrap(), []);
}

#[test]
fn a_write_can_run_out_of_space_after_a_part_of_it() {
    let mut lengths = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = with(|options| options.seed = seed);
        let file = create(&disk, "f");
        disk.inject(Fault::next(FaultKind::NoSpaceMidway, "f"));
        assert_eq!(kind(file.write_all_at(&[1; 2000], 0)), ErrorKind::StorageFull);
        lengths.insert(disk.read_file("f").unwrap().len());
    }
    assert_eq!(lengths, BTreeSet::from([0, 512, 1024, 1536]));
}

#[test]
fn files_and_directories_run_out_before_space_does() {
    let disk = new_disk();
    create(&disk, "before");
    disk.set_free_inodes(2);
    let held = create(&disk, "a");
    disk.mkdir("d").unwrap();
    disk.mkdir("d").unwrap();
    assert_eq!(errno(disk.create_new("b", Mode::Buffered)), Some(Errno::NOSPC));
    assert_eq!(errno(disk.mkdir("e")), Some(Errno::NOSPC));
    held.write_all_at(&[1; 9000], 0).unwrap();
    disk.rename("a", "d/a").unwrap();
    disk.unlink("d/a").unwrap();
    assert_eq!(
        errno(disk.mkdir("e")),
        Some(Errno::NOSPC),
        "a handle keeps the file"
    );
    drop(held);
    disk.mkdir("e").unwrap();
    assert_eq!(errno(disk.mkdir("g")), Some(Errno::NOSPC));
    disk.rmdir("d").unwrap();
    create(&disk, "g");
}

#[test]
fn a_read_only_disk_is_read_and_not_changed() {
    let disk = new_disk();
    disk.write_file("f", &[1; 512]).unwrap();
    let file = disk.open("f", Mode::Buffered).unwrap();
    disk.set_read_only();
    let refused = Some(Errno::ROFS);
    for result in [
        file.write_all_at(b"x", 0),
        file.set_len(0),
        file.allocate(0, 9000),
        file.sync_data(),
        disk.create_new("g", Mode::Buffered).map(drop),
        disk.mkdir("d"),
        disk.rename("f", "g"),
        disk.unlink("f"),
        disk.sync_dir(""),
    ] {
        assert_eq!(errno(result), refused);
    }
    assert_eq!(file.read_at(&mut [0; 9], 0).unwrap(), 9);
    assert_eq!(disk.read_file("f").unwrap(), [1; 512]);
    disk.after_kill().unlink("f").unwrap();
}

#[test]
fn a_stalled_sync_returns_when_it_is_let_go() {
    let disk = new_disk();
    let file = create(&disk, "f");
    let other = create(&disk, "g");
    let stall = disk.stall(|op| matches!(op, Op::Sync { path } if path.starts_with('f')));
    let synced = Arc::new(Mutex::new(false));
    let done = Arc::clone(&synced);
    file.write_all_at(b"x", 0).unwrap();
    let thread = std::thread::spawn(move || {
        file.sync_data().unwrap();
        *done.lock().unwrap() = true;
    });
    assert!(stall.wait_until_reached(Duration::from_secs(10)));
    // The rest of the disk goes on.
    other.sync_data().unwrap();
    assert!(!*synced.lock().unwrap());
    assert_eq!(
        disk.after_power_cut(0, CutProfile::DropAll).read_file("f").ok(),
        None
    );
    drop(stall);
    thread.join().unwrap();
    assert!(*synced.lock().unwrap());
    assert!(!disk.stall(|_| true).wait_until_reached(Duration::ZERO));
}

#[test]
fn every_kind_of_fault_is_noted_when_it_strikes_and_has_a_class() {
    for fault in FaultKind::ALL {
        let disk = new_disk();
        old_file(&disk, "f", 1);
        old_file(&disk, "g", 1);
        let file = disk.open("f", Mode::Buffered).unwrap();
        disk.inject(Fault::next(fault, ""));
        let failed = [
            file.write_all_at(&[2; 5000], 0),
            file.allocate(0, 50_000),
            file.sync_data(),
            disk.rename("f", "h"),
            disk.sync_dir(""),
            crate::disk::read_exact_at(&*file, &mut [0; 5000], 0),
        ];
        let failed = failed.iter().filter(|result| result.is_err()).count();
        let strikes = disk.take_strikes();
        assert_eq!(strikes.iter().map(|s| s.kind).collect::<Vec<_>>(), [fault]);
        // Interrupted and short reads are gone on with.
        let harmless = matches!(fault, FaultKind::ReadInterrupted | FaultKind::ReadShort);
        let silent = harmless || fault.class() == FaultClass::Detect;
        assert_eq!(failed, usize::from(!silent), "{fault:?}");
        assert_eq!(disk.take_strikes(), []);
    }
}
