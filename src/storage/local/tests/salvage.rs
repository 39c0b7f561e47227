//! The way out of a refused start: exactly what is named is given up, no offset is given twice, and a kill at any moment
//! leaves the old or the new.

use std::collections::BTreeMap;

use super::*;
use crate::disk::sim::{Fault, FaultKind};
use crate::disk::{Disk, Mode};
use crate::storage::local::format::checkpoint::Checkpoint;
use crate::storage::local::inspect::{Held, Watch};
use crate::storage::local::paths;
use crate::storage::local::salvage::{Done, Means, Plan, SalvageError, Way, check, plan, salvage};

const A: u8 = 1;
const B: u8 = 2;

struct Nobody;

impl Watch for Nobody {
    fn total(&mut self, _bytes: u64) {}

    fn more(&mut self, _bytes: u64) {}
}

/// Replayed state that knows of partitions in which nothing is stored.
struct Knowing(Above, Vec<PartitionKey>);

impl Replay for Knowing {
    fn snapshot(&mut self, key: PartitionKey, snapshot: Snapshot) {
        self.0.snapshot(key, snapshot);
    }

    fn batch(&mut self, key: PartitionKey, header: &BatchHeader, batch: &[u8], append_time: Timestamp) {
        self.0.batch(key, header, batch, append_time);
    }

    fn topic_deleted(&mut self, topic: TopicId) {
        self.0.topic_deleted(topic);
    }

    fn partitions(&self) -> Vec<PartitionKey> {
        self.1.clone()
    }

    fn replayed_snapshot(&self, key: PartitionKey) -> Option<Snapshot> {
        self.0.replayed_snapshot(key)
    }
}

fn knowing() -> Knowing {
    Knowing(Above::default(), vec![key(A, 0), key(B, 0), key(B, 1)])
}

pub(super) fn planned(disk: &SimDisk) -> Plan {
    let before = (disk.ops(), disk.files());
    let found = plan(disk, &mut Nobody, &mut knowing()).unwrap();
    assert_eq!((disk.ops(), disk.files()), before);
    found
}

pub(super) fn take(disk: &SimDisk, ways: &[Way], name: &str) -> Result<Done, SalvageError> {
    let found = planned(disk);
    let ways = check(&found, ways)?;
    let settings = small();
    let means = Means {
        settings: &settings,
        clock: Arc::new(ManualClock::at(Timestamp(1_700_000_000_000))),
        ids: &FixedIds,
        name,
    };
    salvage(Arc::new(disk.clone()), &found, &ways, &means, &mut knowing())
}

fn place(disk: &SimDisk, needle: &[u8], below: &str) -> (String, u64) {
    super::inspect::place_of(disk, needle, below)
}

/// Partition A with something behind the group that is lost, B without. The third group, of both, is the one.
struct Scene {
    disk: SimDisk,
    a: Vec<Bytes>,
    b: Vec<Bytes>,
    path: String,
    group: u64,
}

fn scene() -> Scene {
    let mut rig = Rig::new(&small());
    let mut a = vec![rig.produce(key(A, 0), 2, 100, 1)];
    let mut b = vec![rig.produce(key(B, 0), 3, 100, 2)];
    let both = [rig.batch(key(A, 0), 2, 100, 3), rig.batch(key(B, 0), 4, 100, 4)];
    a.push(both[0].to_bytes());
    b.push(both[1].to_bytes());
    let [of_a, of_b] = both;
    rig.submit(vec![(key(A, 0), of_a), (key(B, 0), of_b)], &[]);
    assert_eq!(rig.inline.journal().unwrap(), Round::Worked);
    // A trim does not say where the log ended.
    rig.trim(key(B, 0), offset(1));
    assert_eq!(rig.inline.journal().unwrap(), Round::Worked);
    a.push(rig.produce(key(A, 0), 2, 100, 5));
    rig.inline.seal();
    let disk = rig.disk.after_kill();
    let (path, at) = place(&disk, &a[1], "journal/");
    let group = at / 4096 * 4096;
    Scene {
        disk,
        a,
        b,
        path,
        group,
    }
}

fn end(rig: &Rig, key: PartitionKey) -> i64 {
    rig.store.open(key, CONFIG).bounds(rig.durable()).log_end.get()
}

fn fenced(rig: &Rig, key: PartitionKey) -> Vec<(i64, i64)> {
    let stats = rig.store.open(key, CONFIG).stats();
    stats
        .quarantined
        .iter()
        .map(|(first, last)| (first.get(), last.get()))
        .collect()
}

const THIRD: Way = Way::Groups {
    first: Lsn(3),
    last: Lsn(3),
};

#[test]
fn a_lost_group_is_given_up_and_its_offsets_are_never_given_again() {
    let scene = scene();
    for at in [0, 9, 40, 128 + 40, 128 + 64 + 60] {
        let image = scene.disk.after_kill();
        image.flip_bit(&scene.path, scene.group + at, 3).unwrap();
        let image = image.after_kill();
        let found = planned(&image);
        assert_eq!(
            found.ways(),
            Some(vec![THIRD]),
            "byte {at}: {:#?}",
            found.obstacles
        );
        // The batches hold by themselves: what was in the group is known, but for whose it was.
        assert!(
            matches!(&found.report.lost[0].held, Held::Batches(all) if all.len() == 2),
            "byte {at}"
        );
        assert_eq!(
            found.report.at_stake,
            [(key(B, 0), offset(3), offset(6))],
            "byte {at}"
        );
        let done = take(&image, &[THIRD], "one").unwrap();
        assert_eq!(done.report.unwrap().lost_groups, 1);
        let mut rig = Rig::open(&image.after_kill(), &small()).unwrap();
        assert_eq!((fenced(&rig, key(A, 0)), end(&rig, key(A, 0))), (vec![(2, 3)], 6));
        assert_eq!((fenced(&rig, key(B, 0)), end(&rig, key(B, 0))), (vec![(3, 6)], 7));
        assert_eq!(rig.read(key(A, 0), offset(4), 9_000).unwrap().0, scene.a[2]);
        assert_eq!(rig.read(key(A, 0), offset(0), 9_000).unwrap().0, scene.a[0]);
        assert_eq!(rig.read(key(B, 0), offset(1), 9_000).unwrap().0, scene.b[0]);
        let more = rig.produce(key(B, 0), 1, 50, 9);
        assert_eq!(rig.read(key(B, 0), offset(7), 9_000).unwrap().0, more);
    }
}

#[test]
fn where_nothing_is_left_every_partition_leaves_out_as_many_offsets_as_there_can_have_been() {
    let scene = scene();
    for sector in 0..8 {
        scene
            .disk
            .zero_sector(&scene.path, scene.group + sector * 512)
            .unwrap();
    }
    let found = planned(&scene.disk);
    assert_eq!(found.ways(), Some(vec![THIRD]));
    assert!(
        matches!(found.report.lost[0].held, Held::AtMost(_)),
        "{:?}",
        found.report.lost
    );
    let at_stake: Vec<_> = found
        .report
        .at_stake
        .iter()
        .map(|(key, first, _)| (*key, first.get()))
        .collect();
    // One that nothing was ever stored in, too.
    assert_eq!(at_stake, [(key(B, 0), 3), (key(B, 1), 0)]);
    take(&scene.disk, &[THIRD], "one").unwrap();
    // The second start has no journal that tells.
    for _ in 0..2 {
        let rig = Rig::open(&scene.disk.after_kill(), &small()).unwrap();
        for (key, first, last) in &found.report.at_stake {
            assert_eq!(fenced(&rig, *key), [(first.get(), last.get())]);
            assert_eq!(end(&rig, *key), last.get() + 1);
        }
    }
}

#[test]
fn what_is_named_has_to_be_what_was_found() {
    let scene = scene();
    assert!(matches!(
        take(&scene.disk, &[THIRD], "one"),
        Err(SalvageError::Differs(_))
    ));
    scene.disk.flip_bit(&scene.path, scene.group, 3).unwrap();
    let disk = scene.disk.after_kill();
    let before = disk.files();
    let other = Way::Groups {
        first: Lsn(2),
        last: Lsn(3),
    };
    for wrong in [&[][..], &[other], &[THIRD, other], &[THIRD, Way::Format]] {
        let error = take(&disk, wrong, "one").unwrap_err();
        assert!(matches!(&error, SalvageError::Differs(_)), "{error}");
        assert_eq!(disk.files(), before);
    }
}

/// The directory as a kill or a power cut at each moment of taking these ways leaves it.
fn at_every_moment(disk: &SimDisk, ways: &[Way]) -> Vec<SimDisk> {
    let images = Arc::new(Mutex::new(Vec::new()));
    let collected = Arc::clone(&images);
    disk.on_op(move |moment| {
        let index = moment.index();
        let mut images = collected.lock().unwrap();
        images.push(moment.after_kill_midway(index));
        images.push(moment.after_power_cut(index, crate::disk::sim::CutProfile::Posix));
    });
    take(disk, ways, "one").unwrap();
    let images = std::mem::take(&mut *images.lock().unwrap());
    let (mut old, mut new) = (0, 0);
    for image in &images {
        let found = planned(image);
        if found.obstacles.is_empty() {
            new += 1;
        } else {
            old += 1;
            assert!(Rig::open(&image.after_kill(), &small()).is_err());
            assert_eq!(found.ways().as_deref(), Some(ways));
            take(image, ways, "two").unwrap();
        }
    }
    eprintln!(
        "figures salvage_kills: ways={ways:?} images={} old={old} new={new}",
        images.len()
    );
    assert!(old > 20 && new > 0, "{old} old, {new} new");
    images
}

#[test]
fn a_kill_or_power_cut_at_any_moment_leaves_the_old_or_the_new() {
    let scene = scene();
    scene.disk.flip_bit(&scene.path, scene.group + 40, 3).unwrap();
    for image in at_every_moment(&scene.disk.after_kill(), &[THIRD]) {
        let rig = Rig::open(&image.after_kill(), &small()).unwrap();
        assert_eq!(
            (fenced(&rig, key(A, 0)), fenced(&rig, key(B, 0))),
            (vec![(2, 3)], vec![(3, 6)])
        );
        assert_eq!((end(&rig, key(A, 0)), end(&rig, key(B, 0))), (6, 7));
        assert_eq!(rig.read(key(A, 0), offset(4), 9_000).unwrap().0, scene.a[2]);
    }
}

#[test]
fn what_is_restored_is_there_or_not_whenever_a_kill_comes() {
    let scene = scene();
    let without_format = scene.disk.after_kill();
    without_format.unlink("FORMAT").unwrap();
    let without_header = scene.disk.after_kill();
    for sector in 0..16 {
        without_header.zero_sector(&scene.path, sector * 512).unwrap();
    }
    for (disk, way) in [(without_format, Way::Format), (without_header, Way::Header(0))] {
        for image in at_every_moment(&disk.after_kill(), &[way]) {
            let rig = Rig::open(&image.after_kill(), &small()).unwrap();
            assert_eq!(rig.read_all(key(A, 0)), scene.a.concat());
        }
    }
}

#[test]
fn copies_are_whole_and_there_is_room_for_them_first() {
    let scene = scene();
    scene.disk.flip_bit(&scene.path, scene.group, 3).unwrap();
    let disk = scene.disk.after_kill();
    let full = disk.after_kill();
    full.set_free_bytes(1 << 20);
    let before = full.files();
    let error = take(&full, &[THIRD], "one").unwrap_err();
    assert!(matches!(&error, SalvageError::Copies { .. }), "{error}");
    assert_eq!(full.files(), before);
    let done = take(&disk, &[THIRD], "one").unwrap();
    assert_eq!(done.copies, "salvage/one");
    for path in [scene.path.as_str(), "FORMAT", "checkpoint.0"] {
        let copy = disk.read_file(&format!("salvage/one/{path}")).unwrap();
        assert_eq!(copy, scene.disk.read_file(path).unwrap(), "{path}");
    }
}

#[test]
fn format_and_a_header_are_restored_and_nothing_is_lost() {
    let scene = scene();
    let text = scene.disk.read_file("FORMAT").unwrap();
    let disk = scene.disk.after_kill();
    disk.unlink("FORMAT").unwrap();
    let disk = disk.after_kill();
    take(&disk, &[Way::Format], "one").unwrap();
    assert_eq!(disk.read_file("FORMAT").unwrap(), text);
    for at in [0, 4096] {
        for sector in 0..8 {
            disk.zero_sector(&scene.path, at + sector * 512).unwrap();
        }
    }
    let disk = disk.after_kill();
    let found = planned(&disk);
    assert_eq!(found.ways(), Some(vec![Way::Header(0)]), "{:#?}", found.obstacles);
    take(&disk, &[Way::Header(0)], "two").unwrap();
    let rig = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(rig.read_all(key(A, 0)), scene.a.concat());
    assert_eq!(rig.read(key(B, 0), offset(1), 9_000).unwrap().0, scene.b.concat());
}

#[test]
fn damage_in_the_brokers_own_partitions_is_given_up_record_by_record() {
    let mut rig = Rig::new(&small());
    rig.produce(PartitionKey::GROUPS, 1, 100, 1);
    let lost = rig.produce(PartitionKey::GROUPS, 2, 100, 2);
    let kept = rig.produce(PartitionKey::GROUPS, 1, 100, 3);
    let disk = rig.disk.after_kill();
    let (path, at) = place(&disk, &lost, "journal/");
    disk.flip_bit(&path, at + 90, 2).unwrap();
    let disk = disk.after_kill();
    assert!(Rig::open(&disk.after_kill(), &small()).is_err());
    let way: Way = "__groups/0:1-2".parse().unwrap();
    assert_eq!(planned(&disk).ways(), Some(vec![way]));
    take(&disk, &[way], "one").unwrap();
    let rig = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(end(&rig, PartitionKey::GROUPS), 4);
    let above = rig.above.lock().unwrap();
    assert_eq!(above.0[&PartitionKey::GROUPS].0, offset(4), "{}", kept.len());
}

#[test]
fn a_segment_of_the_brokers_own_that_its_snapshot_does_not_cover_is_given_up_as_a_whole() {
    let mut rig = Rig::new(&small());
    rig.produce(PartitionKey::GROUPS, 3, 100, 1);
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    for path in paths::CHECKPOINTS {
        let bytes = disk.read_file(path).unwrap();
        let mut record = Checkpoint::decode(&bytes, [0x5a; 16]).unwrap();
        for partition in &mut record.partitions {
            // As of a broker that had not taken its last snapshot: the state is older than the log.
            partition.partial = None;
            if let Some((covers, _)) = &mut partition.snapshot {
                *covers = offset(2);
            }
        }
        disk.write_file(path, &record.encode([0x5a; 16])).unwrap();
    }
    let segments = disk.files().into_iter().map(|(path, _)| path);
    let path = segments.into_iter().find(|path| path.ends_with(".log")).unwrap();
    for damage in ["unlink", "cut", "flip"] {
        let image = disk.after_kill();
        match damage {
            "unlink" => image.unlink(&path).unwrap(),
            "cut" => image.open(&path, Mode::Buffered).unwrap().set_len(10).unwrap(),
            _ => image.flip_bit(&path, 80, 1).unwrap(),
        }
        let image = image.after_kill();
        assert!(Rig::open(&image.after_kill(), &small()).is_err(), "{damage}");
        let way: Way = "__groups/0:0-2".parse().unwrap();
        assert_eq!(planned(&image).ways(), Some(vec![way]), "{damage}");
        take(&image, &[way], "one").unwrap();
        let mut again = Rig::open(&image.after_kill(), &small()).unwrap();
        let covered = (offset(2), rig.above.lock().unwrap().0[&PartitionKey::GROUPS].1);
        assert_eq!(
            again.above.lock().unwrap().0[&PartitionKey::GROUPS],
            covered,
            "{damage}"
        );
        again.produce(PartitionKey::GROUPS, 1, 100, 4);
        assert_eq!(end(&again, PartitionKey::GROUPS), 4);
        again.inline.stop().unwrap();
        assert!(planned(&again.disk.after_kill()).report.is_clean(), "{damage}");
    }
}

/// Nothing but the fence said that the offsets behind the last batch had been used, and the checkpoint did not look at it.
#[test]
fn offsets_of_a_damaged_last_batch_are_not_given_again_after_two_starts() {
    let mut rig = Rig::new(&small());
    rig.produce(key(A, 0), 2, 100, 1);
    let last = rig.produce(key(A, 0), 2, 100, 2);
    rig.inline.seal();
    let disk = rig.disk.after_kill();
    let (path, at) = place(&disk, &last, "journal/");
    disk.flip_bit(&path, at + 80, 3).unwrap();
    let mut image = disk.after_kill();
    for _ in 0..3 {
        let rig = Rig::open(&image, &small()).unwrap();
        assert_eq!((fenced(&rig, key(A, 0)), end(&rig, key(A, 0))), (vec![(2, 3)], 4));
        image = rig.disk.after_kill();
    }
}

/// Records of the broker's own in the journal and, replayed, in a segment: the damage, the way, and what is left.
fn internal_scene(of: PartitionKey) -> (SimDisk, Way, (Offset, u64)) {
    let mut rig = Rig::new(&small());
    rig.produce(of, 1, 100, 1);
    rig.produce(key(A, 0), 2, 100, 7);
    let lost = rig.produce(of, 2, 100, 2);
    rig.produce(of, 1, 100, 3);
    let disk = rig.disk.after_kill();
    let (path, at) = place(&disk, &lost, "journal/");
    disk.flip_bit(&path, at + 90, 2).unwrap();
    let topic = if of == PartitionKey::META {
        "__meta"
    } else {
        "__groups"
    };
    let way: Way = format!("{topic}/0:1-2").parse().unwrap();
    let whole = disk.after_kill();
    take(&whole, &[way], "whole").unwrap();
    let again = Rig::open(&whole.after_kill(), &small()).unwrap();
    let left = again.above.lock().unwrap().0[&of];
    (disk.after_kill(), way, left)
}

#[test]
fn records_of_the_brokers_own_are_given_up_or_not_whenever_a_kill_comes() {
    for of in [PartitionKey::META, PartitionKey::GROUPS] {
        let (disk, way, left) = internal_scene(of);
        for image in at_every_moment(&disk, &[way]) {
            let mut rig = Rig::open(&image.after_kill(), &small()).unwrap();
            assert_eq!(rig.above.lock().unwrap().0[&of], left, "{of}");
            assert_eq!((end(&rig, of), end(&rig, key(A, 0))), (4, 2), "{of}");
            rig.produce(of, 1, 100, 4);
            assert_eq!(end(&rig, of), 5, "{of}");
        }
    }
}

/// Many groups, so that the journal has been used again and the oldest records are in segments alone.
pub(super) fn long_life() -> (Rig, BTreeMap<PartitionKey, Vec<u8>>) {
    let mut rig = Rig::new(&small());
    let mut all = BTreeMap::new();
    let mut store = |rig: &mut Rig, key: PartitionKey, fill: u8| {
        let batch = rig.produce(key, 2, 900, fill);
        all.entry(key).or_insert_with(Vec::new).extend_from_slice(&batch);
    };
    store(&mut rig, PartitionKey::META, 1);
    store(&mut rig, PartitionKey::GROUPS, 2);
    store(&mut rig, key(B, 0), 3);
    for round in 0..120 {
        store(&mut rig, key(A, 0), round);
        if round % 20 == 19 {
            store(&mut rig, PartitionKey::META, round);
            rig.inline.applier_round(true).unwrap();
        }
    }
    rig.inline.seal();
    (rig, all)
}

fn without_checkpoints(rig: &Rig) -> SimDisk {
    let disk = rig.disk.after_kill();
    for path in paths::CHECKPOINTS {
        let _ = disk.unlink(path);
    }
    disk.after_kill()
}

#[test]
fn a_checkpoint_that_is_gone_is_made_again_whenever_a_kill_comes() {
    let (rig, all) = long_life();
    let disk = without_checkpoints(&rig);
    let found = planned(&disk);
    assert_eq!(
        found.ways(),
        Some(vec![Way::Checkpoint]),
        "{:#?}",
        found.obstacles
    );
    let what = &found.obstacles[0].finding.what;
    assert!(what.contains("the journal from group"), "{what}");
    let above = rig.above.lock().unwrap().clone();
    for image in at_every_moment(&disk, &[Way::Checkpoint]) {
        let mut rig = Rig::open(&image.after_kill(), &small()).unwrap();
        for of in [key(A, 0), key(B, 0)] {
            assert!(rig.read_all(of) == all[&of], "{of}");
        }
        for of in [PartitionKey::META, PartitionKey::GROUPS] {
            assert_eq!(rig.above.lock().unwrap().0[&of], above.0[&of], "{of}");
        }
        let end_before = end(&rig, key(A, 0));
        assert_eq!(end_before, 240);
        rig.produce(key(A, 0), 1, 10, 9);
        assert_eq!(end(&rig, key(A, 0)), 241);
    }
}

#[test]
fn a_checkpoint_is_not_made_again_without_the_first_records_of_meta() {
    let (rig, _) = long_life();
    let disk = without_checkpoints(&rig);
    let meta = paths::segment(PartitionKey::META, offset(0));
    disk.unlink(&meta).unwrap();
    let found = planned(&disk.after_kill());
    assert_eq!(found.ways(), None);
    let what = &found.obstacles[0].finding.what;
    assert!(what.contains("__meta"), "{what}");
}

/// A segment is taken up to where the journal goes on: that has the rest, whatever became of it in the segment.
#[test]
fn what_the_journal_has_is_taken_from_there_when_a_checkpoint_is_made_again() {
    let (rig, all) = long_life();
    let disk = without_checkpoints(&rig);
    let stored = &all[&key(A, 0)];
    let of_a = paths::partition(key(A, 0));
    let files = disk.files().into_iter().map(|(path, _)| path);
    let segments = files.filter(|path| path.starts_with(&of_a) && path.ends_with(".log"));
    let last = segments.max().unwrap();
    let bytes = disk.read_file(&last).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    disk.flip_bit(&last, u64::try_from(used - 100).unwrap(), 1)
        .unwrap();
    let disk = disk.after_kill();
    take(&disk, &[Way::Checkpoint], "one").unwrap();
    let rig = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert!(rig.read_all(key(A, 0)) == *stored);
    assert_eq!(fenced(&rig, key(A, 0)), []);
}

/// Nothing tells where a partition without any segment ended.
#[test]
fn a_partition_without_a_segment_goes_on_far_behind_as_was_said_when_a_checkpoint_is_made_again() {
    let (rig, _) = long_life();
    let disk = without_checkpoints(&rig);
    for (path, _) in disk.files() {
        if path.starts_with(&paths::partition(key(B, 0))) {
            disk.unlink(&path).unwrap();
        }
    }
    let disk = disk.after_kill();
    let at_stake = planned(&disk).report.at_stake;
    let far = 1 << 48;
    assert_eq!(at_stake, [(key(B, 0), offset(0), offset(far - 1))]);
    take(&disk, &[Way::Checkpoint], "one").unwrap();
    let rig = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(fenced(&rig, key(B, 0)), [(0, far - 1)]);
    assert_eq!(end(&rig, key(B, 0)), far);
}

#[test]
fn a_damaged_end_of_a_segment_leaves_its_offsets_out_when_a_checkpoint_is_made_again() {
    let (rig, _) = long_life();
    let disk = without_checkpoints(&rig);
    let path = paths::segment(key(B, 0), offset(0));
    disk.flip_bit(&path, 200, 1).unwrap();
    let disk = disk.after_kill();
    take(&disk, &[Way::Checkpoint], "one").unwrap();
    let rig = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(fenced(&rig, key(B, 0))[0].0, 0);
    assert!(end(&rig, key(B, 0)) > 2);
}

/// A record whose value is itself a batch, of an offset far away: a damaged batch around it does not make it one of the log.
#[test]
fn a_batch_in_the_value_of_a_damaged_record_is_none_when_a_checkpoint_is_made_again() {
    let mut rig = Rig::new(&small());
    let mut inner = rig.batch(key(B, 0), 1, 50, 7);
    inner.stamp(offset(1000), rig.store.leader_epoch());
    let mut outer = BatchBuilder::new();
    outer.push(Timestamp(1_700_000_000_000), None, Some(&inner.to_bytes()), &[]);
    let mut outer = outer.seal(None);
    outer.stamp(Offset::ZERO, rig.store.leader_epoch());
    let victim = outer.to_bytes();
    rig.produce(PartitionKey::META, 1, 100, 1);
    rig.submit(vec![(key(B, 0), outer)], &[]);
    rig.inline.journal().unwrap();
    let behind: Vec<_> = (0..3).map(|fill| rig.produce(key(B, 0), 1, 100, fill)).collect();
    for round in 0..120 {
        rig.produce(key(A, 0), 2, 900, round);
        if round % 20 == 19 {
            rig.inline.applier_round(true).unwrap();
        }
    }
    rig.inline.seal();
    let disk = without_checkpoints(&rig);
    let (path, at) = place(&disk, &victim, "topics/");
    for (byte, bit) in [(9, 4), (16, 0)] {
        disk.flip_bit(&path, at + byte, bit).unwrap();
    }
    let disk = disk.after_kill();
    take(&disk, &[Way::Checkpoint], "one").unwrap();
    let rig = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(end(&rig, key(B, 0)), 4);
    rig.read(key(B, 0), offset(0), 9_000).unwrap_err();
    assert_eq!(fenced(&rig, key(B, 0)), [(0, 0)]);
    let (found, _) = rig.read(key(B, 0), offset(1), 9_000).unwrap();
    assert_eq!(found, behind.concat());
}

#[test]
fn a_block_that_the_disk_does_not_give_at_the_end_is_given_up_and_no_offset_twice() {
    let scene = scene();
    let disk = scene.disk.after_kill();
    let (path, at) = place(&disk, &scene.a[2], "journal/");
    let group = at / 4096 * 4096;
    disk.make_unreadable(&path, group, 2 * 4096).unwrap();
    let found = planned(&disk);
    let ways = found.ways().unwrap();
    assert!(matches!(ways[..], [Way::Tail { .. }]), "{:#?}", found.obstacles);
    for image in at_every_moment(&disk, &ways) {
        let mut rig = Rig::open(&image.after_kill(), &small()).unwrap();
        let of_a = end(&rig, key(A, 0));
        assert!(of_a >= 6, "{of_a}");
        assert_eq!(
            rig.read(key(A, 0), offset(0), 9_000).unwrap().0[..scene.a[0].len()],
            scene.a[0]
        );
        rig.produce(key(A, 0), 1, 10, 9);
        assert_eq!(end(&rig, key(A, 0)), of_a + 1);
    }
}

#[test]
fn header_that_the_disk_does_not_give_is_told_and_made_again() {
    let scene = scene();
    let disk = scene.disk.after_kill();
    disk.make_unreadable(&scene.path, 0, 2 * 4096).unwrap();
    let refused = Rig::open(&disk, &small()).err().unwrap().to_string();
    assert!(
        refused.contains("naru doctor") && refused.contains("ddrescue"),
        "{refused}"
    );
    let found = planned(&disk);
    assert_eq!(found.ways(), Some(vec![Way::Header(0)]), "{:#?}", found.obstacles);
    take(&disk, &[Way::Header(0)], "one").unwrap();
    let rig = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(rig.read_all(key(A, 0)), scene.a.concat());
}

#[test]
fn every_refusal_of_the_journal_names_its_way_out() {
    use crate::storage::local::survey::Problem;
    let lsn = Lsn(7);
    let (number, position, bytes) = (3, 8192, 10);
    let all = [
        Problem::CheckpointGone {
            seq: 4,
            lsn,
            newest_seq: 2,
            newest_lsn: Lsn(1),
        },
        Problem::FileCut {
            number,
            bytes,
            of: 20,
        },
        Problem::FileStump { number, bytes },
        Problem::NoneLegible,
        Problem::NoFiles,
        Problem::HeaderGone { number, lsn },
        Problem::GroupsLost {
            first: lsn,
            last: lsn,
            number,
            position: None,
            unread: None,
        },
        Problem::Unreadable {
            number,
            position,
            lsn,
            why: "EIO".to_owned(),
        },
        Problem::CheckpointUnread {
            file: "checkpoint.0",
            why: "EIO".to_owned(),
            newest_seq: 2,
            newest_lsn: Lsn(1),
        },
        Problem::EndLost {
            seq: 2,
            key: key(A, 0),
            covers: offset(3),
            end: lsn,
            number,
        },
        Problem::FileMissing {
            needed: Lsn(2),
            oldest: lsn,
        },
    ];
    let document = include_str!("../../../../docs/operations.md");
    let table = document.split("| refused because |").nth(1).unwrap();
    for problem in all {
        let way = problem.way(lsn, Lsn(1)).to_string();
        assert_eq!(way.parse::<Way>().unwrap(), problem.way(lsn, Lsn(1)), "{problem}");
        let name = way.split(':').next().unwrap();
        assert!(
            table.contains(&format!("`--give-up {name}")) || table.contains(&format!("`--restore {name}")),
            "{way}"
        );
    }
}

/// The group that is lost was in the segments already: its records are there, also where it began a new segment, and what is said
/// of them before is what comes of it.
#[test]
fn records_of_a_lost_group_that_are_in_segments_are_not_given_up() {
    for is_last in [false, true] {
        for begins_segment in [false, true] {
            let mut rig = Rig::new(&small());
            let mut stored: Vec<_> = (0..10).map(|n| rig.produce(key(A, 0), 1, 3000, n)).collect();
            while rig.inline.apply().unwrap() == Round::Worked {}
            let second = rig.store.open(key(A, 0), CONFIG).segments()[1].base;
            let victim = usize::try_from(second.get()).unwrap() + usize::from(!begins_segment);
            if is_last {
                // A directory in which nothing follows.
                rig = Rig::new(&small());
                stored = (0..=victim)
                    .map(|n| rig.produce(key(A, 0), 1, 3000, u8::try_from(n).unwrap()))
                    .collect();
                rig.inline.seal();
                while rig.inline.apply().unwrap() == Round::Worked {}
            } else {
                rig.inline.seal();
            }
            let disk = rig.disk.after_kill();
            let (path, at) = place(&disk, &stored[victim], "journal/");
            disk.flip_bit(&path, at / 4096 * 4096 + 40, 3).unwrap();
            let disk = disk.after_kill();
            let what = format!("last {is_last}, begins a segment {begins_segment}");
            let found = planned(&disk);
            let ways = found.ways().unwrap();
            assert!(matches!(ways[..], [Way::Groups { .. }]), "{what}: {ways:?}");
            let lost = found
                .report
                .findings
                .iter()
                .filter(|f| f.partition == Some(key(A, 0)));
            assert_eq!(lost.count(), 0, "{what}: {:#?}", found.report.findings);
            assert_eq!(found.report.at_stake, [], "{what}");
            take(&disk, &ways, "one").unwrap();
            let rig = Rig::open(&disk.after_kill(), &small()).unwrap();
            assert_eq!(fenced(&rig, key(A, 0)), [], "{what}");
            assert_eq!(rig.read_all(key(A, 0)), stored.concat(), "{what}");
        }
    }
}

#[test]
fn the_second_of_two_restores_that_fails_does_not_make_the_first_one_undone() {
    let scene = scene();
    let disk = scene.disk.after_kill();
    disk.unlink("FORMAT").unwrap();
    for sector in 0..16 {
        disk.zero_sector(&scene.path, sector * 512).unwrap();
    }
    let disk = disk.after_kill();
    let both = [Way::Format, Way::Header(0)];
    assert_eq!(planned(&disk).ways().as_deref(), Some(&both[..]));
    disk.inject(Fault::next(FaultKind::WriteFails, "journal/"));
    let error = take(&disk, &both, "one").unwrap_err().to_string();
    assert!(!error.contains("as it was before:"), "{error}");
    assert!(
        error.contains("format was restored") && error.contains("salvage/one"),
        "{error}"
    );
    // What is left to do is another call.
    assert_eq!(planned(&disk).ways(), Some(vec![Way::Header(0)]));
    take(&disk, &[Way::Header(0)], "two").unwrap();
    let rig = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(rig.read_all(key(A, 0)), scene.a.concat());
}

/// Whoever salvages twice, or puts a directory back by hand, has the same topic twice.
#[test]
fn what_an_earlier_start_put_aside_stays_and_stops_none() {
    let mut rig = Rig::new(&small());
    let stored = rig.produce(key(A, 0), 2, 100, 1);
    rig.inline.stop().unwrap();
    let mut disk = rig.disk.after_kill();
    let of_none = key(B, 0);
    let topic = of_none.topic;
    let extra = paths::segment(key(A, 0), offset(77));
    for (round, kept) in ["", ".2", ".3"].iter().enumerate() {
        disk.mkdir(&paths::topic(topic)).unwrap();
        disk.mkdir(&paths::partition(of_none)).unwrap();
        let bytes = [u8::try_from(round).unwrap(); 10];
        disk.write_file(&paths::segment(of_none, Offset::ZERO), &bytes)
            .unwrap();
        disk.write_file(&extra, &bytes).unwrap();
        let again = Rig::open(&disk, &small()).unwrap();
        assert_eq!(again.read_all(key(A, 0)), stored);
        again.inline.stop().unwrap();
        disk = again.disk.after_kill();
        for n in 0..=round {
            let suffix = ["", ".2", ".3"][n];
            let file = format!("salvage/topic-{topic}{suffix}/0/{:020}.log", 0);
            assert_eq!(
                disk.read_file(&file).unwrap(),
                [u8::try_from(n).unwrap(); 10],
                "{file}"
            );
            let file = format!("salvage/{}-0-{:020}.log{suffix}", key(A, 0).topic, 77);
            assert_eq!(
                disk.read_file(&file).unwrap(),
                [u8::try_from(n).unwrap(); 10],
                "{kept}"
            );
        }
    }
}

/// All of these ways, one round after the other, until a broker starts.
fn all_ways(disk: &SimDisk) -> Vec<Way> {
    let mut taken = Vec::new();
    for round in 0..4 {
        let found = planned(disk);
        if found.obstacles.is_empty() {
            return taken;
        }
        let ways = found.ways().unwrap_or_else(|| panic!("{:#?}", found.obstacles));
        take(disk, &ways, &format!("round-{round}")).unwrap();
        taken.extend(ways);
    }
    panic!("it never ends: {taken:?}");
}

/// What a broker does that was led out of a refusal: the first batch is there, and no offset below this one is given again.
fn goes_on(disk: &SimDisk, first: &[u8], below: i64) {
    let mut image = disk.after_kill();
    for start in 0..2 {
        let mut rig = Rig::open(&image, &small()).unwrap();
        let before = end(&rig, key(A, 0));
        assert!(before >= below, "start {start}: {before}");
        let (bytes, _) = rig.read(key(A, 0), offset(0), 1).unwrap();
        assert_eq!(bytes, first, "start {start}");
        let more = rig.produce(key(A, 0), 1, 10, 9);
        assert_eq!(rig.read(key(A, 0), offset(before), 1).unwrap().0, more);
        image = rig.disk.after_kill();
    }
}

#[test]
fn an_end_that_a_snapshot_knew_of_is_given_up_and_the_broker_goes_on_behind_it() {
    let mut rig = Rig::new(&small());
    let first = rig.produce(key(A, 0), 2, 100, 1);
    rig.produce(PartitionKey::GROUPS, 1, 100, 6);
    rig.inline.applier_round(true).unwrap();
    let both = [
        rig.batch(key(A, 0), 2, 100, 2),
        rig.batch(PartitionKey::GROUPS, 1, 100, 7),
    ];
    let last = both[0].to_bytes();
    let [of_a, of_groups] = both;
    rig.submit(vec![(key(A, 0), of_a), (PartitionKey::GROUPS, of_groups)], &[]);
    assert_eq!(rig.inline.journal().unwrap(), Round::Worked);
    rig.inline.checkpoint().unwrap();
    let above = rig.above.lock().unwrap().clone();
    let disk = rig.disk.after_kill();
    let (path, at) = place(&disk, &last, "journal/");
    disk.zero_sector(&path, at / 4096 * 4096).unwrap();
    let refused = Rig::open(&disk.after_kill(), &small()).err().unwrap().to_string();
    assert!(refused.contains("ends before that"), "{refused}");
    let ways = planned(&disk).ways().unwrap();
    assert!(matches!(ways[..], [Way::Tail { from: Lsn(3) }]), "{ways:?}");
    for image in at_every_moment(&disk.after_kill(), &ways) {
        let mut rig = Rig::open(&image.after_kill(), &small()).unwrap();
        // The state is that of the snapshot, and its log goes on behind it.
        assert_eq!(*rig.above.lock().unwrap(), above);
        assert!(end(&rig, key(A, 0)) >= 4);
        rig.produce(PartitionKey::GROUPS, 1, 100, 8);
        assert_eq!(end(&rig, PartitionKey::GROUPS), 3);
        let after = rig.above.lock().unwrap().clone();
        let again = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
        assert_eq!(*again.above.lock().unwrap(), after);
    }
    let image = disk.after_kill();
    assert_eq!(all_ways(&image), ways);
    goes_on(&image, &first, 4);
}

#[test]
fn what_a_journal_file_that_was_cut_to_a_stump_held_is_given_up_and_the_broker_goes_on_behind_it() {
    for bytes in [0, 100] {
        let mut rig = Rig::new(&small());
        let first = rig.produce(key(A, 0), 2, 100, 1);
        rig.inline.applier_round(true).unwrap();
        rig.inline.checkpoint().unwrap();
        rig.inline.checkpoint().unwrap();
        rig.produce(key(A, 0), 2, 100, 2);
        let disk = rig.disk.after_kill();
        let path = paths::journal(0);
        let kept = disk.read_file(&path).unwrap()[..bytes].to_vec();
        disk.write_file(&path, &kept).unwrap();
        let disk = disk.after_kill();
        let refused = Rig::open(&disk, &small()).err().unwrap().to_string();
        assert!(refused.contains("less than any journal file"), "{refused}");
        let taken = all_ways(&disk);
        assert!(matches!(taken[..], [Way::Tail { .. }]), "{taken:?}");
        let copy = disk.read_file(&format!("salvage/round-0/{path}"));
        assert!(bytes == 0 || copy.is_ok_and(|copy| copy == kept), "{bytes}");
        goes_on(&disk, &first, 4);
    }
}

/// A group whose checksums hold and of which one entry is of a kind that nobody knows.
fn of_an_unknown_kind(disk: &SimDisk, batch: &[u8]) {
    use crate::storage::local::format::journal::{FileHeader, GroupHeader, Place as At};
    let (path, at) = place(disk, batch, "journal/");
    let position = at / 4096 * 4096;
    let mut bytes = disk.read_file(&path).unwrap();
    let file = FileHeader::decode(bytes.first_chunk().unwrap(), [0x5a; 16]).unwrap();
    let group = &mut bytes[usize::try_from(position).unwrap()..];
    let header = GroupHeader::peek(group.first_chunk().unwrap()).unwrap();
    group[128] = 9;
    let place = At {
        directory: [0x5a; 16],
        generation: file.generation,
        position,
    };
    let front = usize::try_from(header.payload_start()).unwrap();
    header.encode_into(&mut group[..front], &place);
    disk.write_file(&path, &bytes).unwrap();
}

#[test]
fn a_refusal_that_comes_late_says_so_comes_again_and_loses_nothing() {
    let mut rig = Rig::new(&small());
    let first = rig.produce(key(A, 0), 2, 100, 1);
    let damaged = rig.produce(key(A, 0), 2, 100, 2);
    let odd = rig.produce(key(B, 0), 2, 100, 3);
    let last = rig.produce(key(A, 0), 2, 100, 4);
    rig.inline.seal();
    let disk = rig.disk.after_kill();
    let (path, at) = place(&disk, &damaged, "journal/");
    // What is before a damaged batch is written before the next group is looked at.
    disk.flip_bit(&path, at + 90, 1).unwrap();
    let whole = disk.read_file(&path).unwrap();
    of_an_unknown_kind(&disk, &odd);
    let mut image = disk.after_kill();
    let mut told = Vec::new();
    for _ in 0..3 {
        let before = image.ops();
        let error = Rig::open(&image, &small()).err().expect("a start");
        assert!(
            matches!(&error, OpenError::RefusedLate(why) if why.contains("kind of entry is impossible")),
            "{error}"
        );
        assert_ne!(image.ops(), before, "nothing was written, so it was not late");
        told.push(error.to_string());
        image = image.after_kill();
    }
    let said = "what was written by then stands in the journal or a checkpoint, too, and nothing is lost";
    assert!(
        told[0].starts_with("refusing to start: ") && told[0].ends_with(said),
        "{}",
        told[0]
    );
    assert!(!told[0].contains("nothing was changed"), "{}", told[0]);
    assert!(told.iter().all(|text| *text == told[0]), "{told:#?}");
    // With a whole copy of the file all is there but what was damaged.
    image.write_file(&path, &whole).unwrap();
    let rig = Rig::open(&image.after_kill(), &small()).unwrap();
    assert_eq!(rig.read(key(A, 0), offset(0), 1).unwrap().0, first);
    assert_eq!(rig.read(key(A, 0), offset(4), 1).unwrap().0, last);
    assert_eq!(rig.read_all(key(B, 0)), odd);
    assert_eq!(fenced(&rig, key(A, 0)), [(2, 3)]);
}
