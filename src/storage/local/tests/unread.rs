//! A read that fails in a start is told as that. Nobody is led to give up what the disk may give again, and the start itself gives
//! up nothing: it would write over it.

use super::salvage::{planned, take};
use super::*;
use crate::disk::sim::{Fault, FaultKind};
use crate::storage::local::checkpoint::Pair;
use crate::storage::local::inspect::{Effect, Kind};
use crate::storage::local::paths;
use crate::storage::local::salvage::{Plan, Way};

const A: u8 = 1;
const AGAIN: &str = "try again, and look at the disk, before anything is given up";

/// Groups of the broker's own and of a user above the checkpoint, and what is in the user's partition.
fn scene() -> (SimDisk, Vec<Bytes>, Above) {
    let mut rig = Rig::new(&small());
    let mut stored = vec![rig.produce(key(A, 0), 2, 100, 1)];
    rig.produce(PartitionKey::META, 1, 100, 2);
    stored.push(rig.produce(key(A, 0), 3, 3000, 3));
    rig.produce(PartitionKey::GROUPS, 1, 100, 4);
    stored.push(rig.produce(key(A, 0), 2, 100, 5));
    rig.inline.seal();
    let above = rig.above.lock().unwrap().clone();
    (rig.disk.after_kill(), stored, above)
}

/// The journal file and the position of the group with a batch.
fn group_of(disk: &SimDisk, batch: &[u8]) -> (String, u64) {
    let (path, at) = super::inspect::place_of(disk, batch, "journal/");
    (path, at / 4096 * 4096)
}

/// A start finds all of it.
fn at_all(disk: &SimDisk, stored: &[Bytes], above: &Above, what: &str) {
    let rig = Rig::open(disk, &small()).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(rig.read_all(key(A, 0)), stored.concat(), "{what}");
    assert_eq!(*rig.above.lock().unwrap(), *above, "{what}");
}

#[track_caller]
fn is_told(error: &str, file: &str, what: &str) {
    assert!(
        error.contains(file) && error.contains("cannot be read") && error.contains("again"),
        "{what}: {error}"
    );
    assert!(!error.contains("impossible"), "{what}: {error}");
}

#[test]
fn a_read_of_the_journal_that_fails_for_a_moment_costs_nothing_whichever_it_is() {
    let (disk, stored, above) = scene();
    let (path, _) = group_of(&disk, &stored[0]);
    let (mut refused, mut late) = (0, 0);
    // Reads in a row; and one of several blocks with the second or third of them, which is then read alone.
    for reads in [&[0, 1][..], &[0, 1, 2], &[0, 1, 2, 3, 4], &[0, 2], &[0, 3]] {
        for after in 0.. {
            let what = format!("reads {reads:?} behind {after}");
            let image = disk.after_kill();
            for read in reads {
                image.inject(Fault::next(FaultKind::ReadFails, &path).after(after + read));
            }
            let opened = Rig::open(&image, &small());
            let struck = !image.take_strikes().is_empty();
            image.clear_faults();
            match opened {
                Ok(rig) => {
                    assert_eq!(rig.read_all(key(A, 0)), stored.concat(), "{what}");
                    assert_eq!(*rig.above.lock().unwrap(), above, "{what}");
                }
                Err(error) => {
                    is_told(&error.to_string(), &path, &what);
                    refused += 1;
                    late += u32::from(std::matches!(error, OpenError::RefusedLate(_)));
                }
            }
            at_all(&image, &stored, &above, &what);
            if !struck {
                break;
            }
        }
    }
    assert!(refused > 10 && late > 3, "{refused} refused, {late} of them late");
}

fn only_way(found: &Plan) -> Way {
    let ways = found.ways().unwrap();
    assert_eq!(ways.len(), 1, "{:#?}", found.obstacles);
    ways[0]
}

#[test]
fn a_batch_that_the_disk_does_not_give_refuses_before_anything_is_written_and_is_given_up_by_name() {
    let (disk, stored, above) = scene();
    let (path, group) = group_of(&disk, &stored[1]);
    let image = disk.after_kill();
    image.make_unreadable(&path, group + 4096 + 600, 1).unwrap();
    let before = (image.ops(), image.files());
    let refused = Rig::open(&image, &small()).err().expect("a start");
    assert!(std::matches!(refused, OpenError::Refused(_)), "{refused}");
    is_told(&refused.to_string(), &path, "a batch");
    assert!(refused.to_string().contains(AGAIN), "{refused}");
    assert_eq!((image.ops(), image.files()), before);
    let found = planned(&image);
    let way = only_way(&found);
    assert_eq!(
        way,
        Way::Records {
            key: key(A, 0),
            first: offset(2),
            last: offset(4)
        }
    );
    assert_eq!(found.obstacles[0].finding.kind, Kind::Unreadable);
    assert!(found.obstacles[0].finding.what.contains(AGAIN));
    // When the disk gives it again, all is there.
    at_all(&disk.after_kill(), &stored, &above, "given again");
    take(&image, &[way], "one").unwrap();
    let rig = Rig::open(&image.after_kill(), &small()).unwrap();
    let corrupt = ReadError::Corrupt {
        first: offset(2),
        last: offset(4),
    };
    assert_eq!(rig.read(key(A, 0), offset(2), 9_000).unwrap_err(), corrupt);
    assert_eq!(rig.read(key(A, 0), offset(5), 9_000).unwrap().0, stored[2]);
    assert_eq!(
        *rig.above.lock().unwrap().0.get(&PartitionKey::META).unwrap(),
        above.0[&PartitionKey::META]
    );
}

#[test]
fn a_header_of_a_group_that_the_disk_does_not_give_is_told_before_the_way_that_gives_it_up() {
    let (disk, stored, _) = scene();
    let (path, group) = group_of(&disk, &stored[1]);
    disk.make_unreadable(&path, group, 1).unwrap();
    let refused = Rig::open(&disk, &small()).err().unwrap().to_string();
    let failed = format!("{path} cannot be read at {group} (");
    let (read, lost) = (refused.find(&failed), refused.find("were durable"));
    assert!(
        read.is_some() && read < lost && refused.contains(AGAIN),
        "{refused}"
    );
    let found = planned(&disk);
    assert!(std::matches!(only_way(&found), Way::Groups { .. }));
    assert_eq!(found.obstacles[0].finding.kind, Kind::Unreadable);
}

/// The file with the newest record.
fn newest_of(disk: &SimDisk) -> &'static str {
    let pair = Pair::read(disk, [0x5a; 16]).unwrap();
    paths::CHECKPOINTS[pair.newest().unwrap().0]
}

#[test]
fn checkpoints_that_the_disk_does_not_give_are_no_damage() {
    let (disk, stored, above) = scene();
    let newest = newest_of(&disk);
    // The other one is enough: the journal reaches back to it.
    for path in paths::CHECKPOINTS {
        let image = disk.after_kill();
        image.make_unreadable(path, 0, 1).unwrap();
        at_all(&image, &stored, &above, path);
    }
    // A moment is over when they are read again.
    let image = disk.after_kill();
    for path in paths::CHECKPOINTS {
        image.inject(Fault::next(FaultKind::ReadFails, path));
    }
    at_all(&image, &stored, &above, "for a moment");
    let image = disk.after_kill();
    for path in paths::CHECKPOINTS {
        image.make_unreadable(path, 0, 1).unwrap();
    }
    let before = (image.ops(), image.files());
    let refused = Rig::open(&image, &small()).err().unwrap().to_string();
    is_told(&refused, "checkpoint.0", "both");
    assert!(refused.contains(AGAIN), "{refused}");
    assert_eq!((image.ops(), image.files()), before);
    let told = |image: &SimDisk, file: &str| {
        let found = planned(image);
        assert_eq!(only_way(&found), Way::Checkpoint);
        let finding = &found.obstacles[0].finding;
        assert_eq!(
            (finding.kind, finding.effect),
            (Kind::Unreadable, Effect::Refusal)
        );
        assert!(
            finding.file == file && finding.what.contains(AGAIN),
            "{finding:#?}"
        );
    };
    told(&image, "checkpoint.0");
    // One is damaged and the other is not given: the latter is what another try may help.
    let image = disk.after_kill();
    image.flip_bit("checkpoint.0", 60, 2).unwrap();
    image.make_unreadable("checkpoint.1", 0, 1).unwrap();
    is_told(
        &Rig::open(&image, &small()).err().unwrap().to_string(),
        "checkpoint.1",
        newest,
    );
    told(&image, "checkpoint.1");
}

/// The record of a stop in order shows that the last group was durable, and the one before it does not: by that the group looks
/// unfinished.
#[test]
fn a_start_does_not_take_the_older_checkpoint_where_that_may_not_be_enough() {
    let mut rig = Rig::new(&small());
    let first = rig.produce(key(A, 0), 2, 100, 1);
    let last = rig.produce(key(A, 0), 2, 100, 2);
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    let (path, at) = super::inspect::place_of(&disk, &last, "journal/");
    disk.flip_bit(&path, at + 80, 3).unwrap();
    let newest = newest_of(&disk);
    let image = disk.after_kill();
    image.make_unreadable(newest, 0, 1).unwrap();
    let before = (image.ops(), image.files());
    let refused = Rig::open(&image, &small()).err().expect("a start").to_string();
    is_told(&refused, newest, "the newest");
    assert!(refused.contains(AGAIN), "{refused}");
    assert_eq!((image.ops(), image.files()), before);
    assert_eq!(only_way(&planned(&image)), Way::Checkpoint);
    // When the disk gives it again, nothing is missing.
    let again = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(again.read_all(key(A, 0)), [first.clone(), last].concat());
    // Whoever gives it up goes on by the older one.
    take(&image, &[Way::Checkpoint], "one").unwrap();
    let rig = Rig::open(&image.after_kill(), &small()).unwrap();
    assert_eq!(rig.read(key(A, 0), Offset::ZERO, 200).unwrap().0, first);
}

/// The header is read together with what stands behind it.
#[test]
fn a_block_behind_the_header_of_a_file_that_was_never_used_keeps_no_broker_from_starting() {
    let settings = Settings {
        journal_file_bytes: 1 << 20,
        ..small()
    };
    let mut rig = Rig::open(&new_disk(), &settings).unwrap();
    let stored = rig.produce(key(A, 0), 2, 100, 1);
    rig.inline.make_journal_file().unwrap();
    rig.inline.seal();
    let disk = rig.disk.after_kill();
    let names = crate::disk::Disk::list(&disk, "journal").unwrap();
    let paths = names.into_iter().map(|entry| format!("journal/{}", entry.name));
    let unused = |path: &String| disk.read_file(path).unwrap().iter().all(|byte| *byte == 0);
    let path = paths.max().filter(unused).expect("a file that was never used");
    let refused = |at: u64| {
        let image = disk.after_kill();
        image.make_unreadable(&path, at, 1).unwrap();
        match Rig::open(&image, &settings) {
            Ok(rig) => {
                assert_eq!(rig.read_all(key(A, 0)), stored, "{at}");
                None
            }
            Err(error) => Some(error.to_string()),
        }
    };
    for at in [8192, 500 << 10] {
        assert_eq!(refused(at), None, "{at}");
    }
    for at in [0, 4096] {
        is_told(&refused(at).expect("a start"), &path, "its header");
    }
}
