//! The broker's own partitions keep what a recovery needs, and no more.

use super::*;
use crate::disk::sim::CutProfile;

const META: PartitionKey = PartitionKey::META;

/// Names of segment files of a partition.
fn segments(disk: &SimDisk, key: PartitionKey) -> Vec<String> {
    let dir = format!("topics/{}/", key.topic);
    let files = disk.files().into_iter().map(|(path, _)| path);
    files
        .filter(|path| path.starts_with(&dir) && path.ends_with(".log"))
        .collect()
}

fn in_trash(disk: &SimDisk) -> usize {
    disk.files()
        .iter()
        .filter(|(path, _)| path.starts_with("trash/"))
        .count()
}

/// Writes to an internal and to a user's partition, applies, checkpoints. Calls `after` when a batch is acknowledged.
fn run(rig: &mut Rig, batches: u8, mut after: impl FnMut(&Rig)) {
    for i in 0..batches {
        for of in [META, key(1, 0)] {
            rig.produce(of, 1, 3_000, i);
            after(rig);
        }
        rig.inline.applier_round(true).unwrap();
        if i % 4 == 3 {
            rig.inline.checkpoint().unwrap();
        }
    }
}

#[test]
fn segments_of_internal_partitions_go_once_no_checkpoint_needs_them() {
    let mut rig = Rig::new(&small());
    let mut most = 0;
    let disk = rig.disk.clone();
    run(&mut rig, 100, |_| most = most.max(segments(&disk, META).len()));
    // 300 kB in segments of 16 KiB: 19 of them, if none went.
    assert!(most <= 5, "{most} segments were there at once");
    assert_eq!(segments(&rig.disk, key(1, 0)).len(), 20, "users keep theirs");
    let start = rig.store.open(META, CONFIG).bounds(rig.durable()).log_start;
    assert!(start > offset(80), "{start}");
    for _ in 0..2 {
        rig.inline.checkpoint().unwrap();
    }
    assert_eq!(segments(&rig.disk, META).len(), 1);
    for _ in 0..200 {
        rig.inline.applier_round(false).unwrap();
    }
    assert_eq!(in_trash(&rig.disk), 0);
    let expected = rig.above.lock().unwrap().clone();
    let mut again = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
    assert_eq!(*again.above.lock().unwrap(), expected);
    assert!(again.store.open(META, CONFIG).bounds(again.durable()).log_start >= start);
    again.produce(META, 1, 10, 1);
    again.inline.stop().unwrap();
}

#[test]
fn either_checkpoint_alone_is_enough_to_recover_internal_partitions() {
    let mut rig = Rig::new(&small());
    let disk = rig.disk.clone();
    let mut tries = 0;
    run(&mut rig, 60, |rig| {
        let expected = rig.above.lock().unwrap().clone();
        for damaged in ["checkpoint.0", "checkpoint.1"] {
            let image = disk.after_kill();
            if image.flip_bit(damaged, 40, 1).is_err() {
                // There is only one yet.
                continue;
            }
            tries += 1;
            let again = Rig::open(&image, &small()).unwrap_or_else(|e| panic!("{damaged}: {e}"));
            assert_eq!(*again.above.lock().unwrap(), expected, "{damaged}");
            let aside = image.files();
            let aside = aside
                .iter()
                .filter(|(path, _)| path.starts_with("salvage/"))
                .count();
            assert_eq!(aside, 0, "{damaged}: what is not needed is no find");
        }
    });
    assert!(tries > 100, "{tries}");
}

#[test]
fn an_internal_partition_whose_segments_all_went_goes_on_where_it_ended() {
    let mut rig = Rig::new(&small());
    for i in 0..4 {
        rig.produce(META, 1, 100, i);
    }
    for _ in 0..4 {
        // Old enough to be closed, and covered by its snapshot: the only segment goes.
        rig.clock.advance(Duration::from_secs(20));
        rig.inline.applier_round(true).unwrap();
        rig.inline.checkpoint().unwrap();
    }
    assert_eq!(segments(&rig.disk, META), [""; 0]);
    rig.produce(META, 1, 100, 9);
    let expected = rig.above.lock().unwrap().clone();
    let again = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
    assert_eq!(*again.above.lock().unwrap(), expected);
    assert_eq!(
        again.store.open(META, CONFIG).bounds(again.durable()).log_end,
        offset(5)
    );
}

fn cut_before_every_operation(profile: CutProfile) {
    let disk = new_disk();
    let mut rig = Rig::open(&disk, &small()).unwrap();
    // All states so far; the first that may be found is the last one that was acknowledged.
    let states = Arc::new(Mutex::new(vec![Above::default()]));
    let recoveries = Arc::new(Mutex::new(0));
    let (seen, count) = (Arc::clone(&states), Arc::clone(&recoveries));
    let above = Arc::clone(&rig.above);
    disk.on_op(move |moment| {
        let mut possible = seen.lock().unwrap().clone();
        // What is being written right now.
        possible.push(above.lock().unwrap().clone());
        let what = format!(
            "{profile:?} before operation {} ({:?})",
            moment.index(),
            moment.op()
        );
        let image = moment.after_power_cut(moment.index(), profile);
        let again = Rig::open(&image, &small()).unwrap_or_else(|e| panic!("{what}: {e}"));
        let found = again.above.lock().unwrap().clone();
        assert!(
            possible[possible.len() - 2..].contains(&found),
            "{what}: {found:?} in {possible:?}"
        );
        *count.lock().unwrap() += 1;
    });
    run(&mut rig, 40, |rig| {
        let now = rig.above.lock().unwrap().clone();
        states.lock().unwrap().push(now);
    });
    assert!(*recoveries.lock().unwrap() > 100);
}

#[test]
fn power_cut_at_every_write_while_segments_go() {
    for profile in [
        CutProfile::Ext4,
        CutProfile::Posix,
        CutProfile::DropAll,
        CutProfile::KeepAll,
    ] {
        cut_before_every_operation(profile);
    }
}
