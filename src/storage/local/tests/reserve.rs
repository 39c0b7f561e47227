//! The space set aside for the engine's own work, on a disk that others fill.

use std::io;

use super::{Rig, key, new_disk, small};
use crate::disk::Disk as _;
use crate::disk::sim::SimDisk;
use crate::storage::local::{OpenError, Round, Settings};
use crate::storage::{Backpressure, Class, LogStore as _};

const RESERVE: u64 = 256 << 10;

fn settings() -> Settings {
    Settings {
        reserve_bytes: RESERVE,
        ..small()
    }
}

fn reserve_file(disk: &SimDisk) -> Option<u64> {
    let files = disk.files();
    files
        .into_iter()
        .find(|(path, _)| path == "reserve")
        .map(|(_, len)| len)
}

/// A rig with everything made, and groups that wait to be applied.
fn waiting() -> (Rig, Vec<u8>) {
    let mut rig = Rig::new(&settings());
    while rig.store.status().journal_files.0 < 3 {
        rig.inline.make_journal_file().unwrap();
    }
    let mut expected = Vec::new();
    for i in 0..10 {
        expected.extend_from_slice(&rig.produce(key(1, 0), 2, 900, i));
    }
    (rig, expected)
}

/// What the applier thread does on a full disk.
fn apply_on_a_full_disk(rig: &mut Rig) -> io::Result<Round> {
    rig.inline.apply().or_else(|error| {
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        if rig.store.engine.disk_is_full() {
            rig.inline.apply()
        } else {
            Err(error)
        }
    })
}

#[test]
fn others_can_take_everything_but_the_reserve_from_which_work_goes_on() {
    let (mut rig, expected) = waiting();
    assert_eq!(reserve_file(&rig.disk), Some(RESERVE));
    rig.disk.set_free_bytes(0);
    rig.inline.applier_round(false).unwrap_err();
    let refused = rig.store.permit(1, Class::Produce).unwrap_err();
    assert!(
        std::matches!(refused, Backpressure::StorageFull { .. }),
        "{refused:?}"
    );
    while apply_on_a_full_disk(&mut rig).unwrap() == Round::Worked {}
    rig.inline.checkpoint().unwrap();
    assert_eq!(
        (reserve_file(&rig.disk), rig.store.status().reserve_held_bytes),
        (None, 0)
    );
    rig.store.engine.tail().evict(rig.durable(), 0);
    assert_eq!(rig.read_all(key(1, 0)), expected);
    // As much as the reserve is not enough to set it aside again; a quarter more is.
    rig.disk.set_free_bytes(RESERVE);
    rig.inline.applier_round(false).unwrap();
    assert_eq!(reserve_file(&rig.disk), None);
    rig.store.permit(1, Class::Produce).unwrap_err();
    rig.disk.set_free_bytes(RESERVE + RESERVE / 4);
    rig.inline.applier_round(false).unwrap();
    assert_eq!(reserve_file(&rig.disk), Some(RESERVE));
    assert!(
        rig.store.permit(1, Class::Produce).is_ok(),
        "it goes on by itself"
    );
    assert_eq!(rig.disk.free_bytes().unwrap(), RESERVE / 4);
}

#[test]
fn without_a_reserve_the_same_work_waits_for_room() {
    let (mut rig, _) = waiting();
    rig.store.engine.reserve.give_up();
    rig.disk.set_free_bytes(0);
    assert!(apply_on_a_full_disk(&mut rig).is_err());
}

#[test]
fn recovery_on_a_full_disk_uses_the_reserve_and_the_start_behind_it_sets_none_aside() {
    let (rig, expected) = waiting();
    let disk = rig.disk.after_kill();
    disk.set_free_bytes(0);
    let full = Rig::open(&disk, &settings()).err().unwrap();
    assert!(
        std::matches!(&full, OpenError::Io(e) if e.kind() == io::ErrorKind::StorageFull),
        "{full}"
    );
    // Others are quick: not so much is left that recovery could set a reserve aside again.
    disk.set_free_bytes(RESERVE / 2);
    let again = Rig::open(&disk, &settings()).unwrap();
    assert_eq!(again.read_all(key(1, 0)), expected);
    assert_eq!(reserve_file(&disk), None);
    again.store.permit(1, Class::Produce).unwrap_err();
}

#[test]
fn a_reserve_of_an_earlier_life_is_taken_over_also_if_nothing_else_is_free() {
    let mut rig = Rig::new(&settings());
    rig.inline.checkpoint().unwrap();
    let disk = rig.disk.after_kill();
    disk.set_free_bytes(64 << 10);
    let again = Rig::open(&disk, &settings()).unwrap();
    assert_eq!(again.store.status().reserve_held_bytes, RESERVE);
    drop(again);
    let disk = disk.after_kill();
    Rig::open(&disk, &small()).unwrap();
    assert_eq!(reserve_file(&disk), None, "a reserve of 0 has no file");
}

#[test]
fn a_file_of_the_right_length_without_blocks_is_no_reserve() {
    let disk = new_disk();
    drop(Rig::open(&disk, &settings()).unwrap());
    let disk = disk.after_kill();
    let file = disk.open("reserve", crate::disk::Mode::Buffered).unwrap();
    file.set_len(0).unwrap();
    file.set_len(RESERVE).unwrap();
    drop(file);
    disk.set_free_bytes(RESERVE / 2);
    let again = Rig::open(&disk, &settings()).unwrap();
    assert_eq!(again.store.status().reserve_held_bytes, 0);
}
