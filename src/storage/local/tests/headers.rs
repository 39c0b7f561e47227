//! Headers of journal files over starts that fail: whatever fails, the next start finds the journal.

use super::*;
use crate::disk::sim::{CutProfile, FailedSync, Fault, FaultKind};

/// Journal files with a header.
fn with_header(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let files = disk.files().into_iter().map(|(path, _)| path);
    files
        .filter(|path| path.starts_with("journal/"))
        .map(|path| {
            let bytes = disk.read_file(&path).unwrap();
            (path, bytes)
        })
        .filter(|(_, bytes)| bytes.starts_with(b"NARUJRNL"))
        .collect()
}

/// A directory whose journal has so many files with a header, and what is in it.
fn killed_with(files: usize, options: SimOptions) -> (SimDisk, Vec<u8>) {
    let mut rig = Rig::open(&SimDisk::new(options), &small()).unwrap();
    let mut stored = rig.produce(key(1, 0), 2, 100, 1).to_vec();
    rig.inline.seal();
    while with_header(&rig.disk).len() < files {
        stored.extend_from_slice(&rig.produce(key(1, 0), 2, 900, 2));
    }
    // A checkpoint that stands on the journal: without it the file might never have been used.
    rig.inline.applier_round(true).unwrap();
    rig.inline.checkpoint().unwrap();
    (rig.disk.after_kill(), stored)
}

#[test]
fn a_start_leaves_the_only_journal_file_as_it_is() {
    let (disk, stored) = killed_with(1, SimOptions::default());
    let [(path, before)] = &with_header(&disk)[..] else {
        panic!("one file was asked for");
    };
    let mut again = Rig::open(&disk, &small()).unwrap();
    assert_eq!(&disk.read_file(path).unwrap(), before);
    assert_eq!(with_header(&disk).len(), 2);
    assert_eq!(again.read_all(key(1, 0)), stored);
    // It comes round like any other.
    while disk.read_file(path).unwrap()[..4096] == before[..4096] {
        again.produce(key(1, 0), 2, 900, 3);
        again.inline.applier_round(true).unwrap();
    }
    let third = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(third.read_all(key(1, 0)), again.read_all(key(1, 0)));
}

/// Starts that fail one after the other at writes and syncs of the journal, with kills between; then the power fails.
fn fails_and_starts(files: usize, faults: &[(FaultKind, u64)], options: &SimOptions) {
    let killed = killed_with(files, options.clone());
    fails_at("journal/", faults, killed, (CutProfile::Ext4, options.seed));
}

/// The same at files whose names begin so.
fn fails_at(
    place: &'static str,
    faults: &[(FaultKind, u64)],
    (mut disk, stored): (SimDisk, Vec<u8>),
    (cut, seed): (CutProfile, u64),
) {
    for (kind, after) in faults {
        disk.inject(Fault::next(*kind, place).after(*after));
        drop(Rig::open(&disk, &small()));
        disk = disk.after_kill();
    }
    let disk = disk.after_power_cut(seed, cut);
    let again = Rig::open(&disk, &small());
    let again = again.unwrap_or_else(|e| panic!("{faults:?} at {place}, {cut:?} {seed}: {e}"));
    assert_eq!(
        again.read_all(key(1, 0)),
        stored,
        "{faults:?} at {place}, {cut:?} {seed}"
    );
}

fn on_both_kinds_of_disk(seeds: u64, run: impl Fn(&SimOptions)) {
    for seed in 0..seeds {
        for failed_sync in [FailedSync::KeepsCache, FailedSync::Reverts] {
            run(&SimOptions {
                seed,
                failed_sync,
                ..SimOptions::default()
            });
        }
    }
}

/// The first start writes one copy and fails at the other, the second fails at the first.
#[test]
fn two_starts_that_fail_at_the_header_of_a_journal_file_leave_one() {
    let kinds = [FaultKind::SyncFails, FaultKind::WriteFails];
    on_both_kinds_of_disk(8, |options| {
        for files in [1, 2] {
            for (first, second) in kinds.into_iter().flat_map(|a| kinds.map(|b| (a, b))) {
                for (after_first, after_second) in [(1, 0), (2, 1)] {
                    fails_and_starts(files, &[(first, after_first), (second, after_second)], options);
                }
            }
        }
    });
}

/// The first start fails at the new file, whose header then stands in the page cache alone; the ones after it write over the
/// others in turn, and the disk has none whole in the end if they rely on what they see.
#[test]
fn header_that_was_never_synced_is_not_what_a_start_relies_on() {
    on_both_kinds_of_disk(24, |options| {
        for after in [[1, 1, 0, 0], [1, 3, 2, 2]] {
            let faults = after.map(|after| (FaultKind::SyncFails, after));
            fails_and_starts(1, &faults, options);
        }
    });
}

/// A directory whose checkpoints have more than a sector, and what is in one of its partitions.
fn killed_with_checkpoints(options: SimOptions) -> (SimDisk, Vec<u8>) {
    let mut rig = Rig::open(&SimDisk::new(options), &small()).unwrap();
    let stored = rig.produce(key(1, 0), 2, 100, 1).to_vec();
    for partition in 1..12 {
        rig.produce(key(1, partition), 1, 100, 2);
    }
    rig.inline.seal();
    for _ in 0..2 {
        rig.inline.applier_round(true).unwrap();
        rig.inline.checkpoint().unwrap();
    }
    (rig.disk.after_kill(), stored)
}

/// The first start writes over the older checkpoint and cannot sync it; the second one goes on from what stands in the page cache
/// alone, and writes over the other.
#[test]
fn checkpoint_that_was_never_synced_is_not_what_a_start_relies_on() {
    let kinds = [FaultKind::SyncFails, FaultKind::SyncNoSpace];
    on_both_kinds_of_disk(16, |options| {
        for cut in [CutProfile::Ext4, CutProfile::Nasty] {
            for faults in kinds.into_iter().flat_map(|a| kinds.map(|b| [(a, 0), (b, 0)])) {
                let killed = killed_with_checkpoints(options.clone());
                fails_at("checkpoint", &faults, killed, (cut, options.seed));
            }
        }
    });
}
