//! The last, partial block of a segment: damaged, and put back from the checkpoint.

use super::inspect::look;
use super::*;
use crate::disk::sim::CutProfile;
use crate::disk::{BLOCK_BYTES, Disk, Mode};
use crate::storage::local::format::checkpoint::Checkpoint;
use crate::storage::local::inspect::{Effect, Kind};
use crate::storage::local::partial::{PARTIAL_BLOCKS_BYTES_MAX, Partial, Partials, keep_within};
use crate::storage::local::paths;

const KEYS: [PartitionKey; 2] = [
    PartitionKey::META,
    PartitionKey {
        topic: TopicId::from_bytes([1; 16]),
        partition: PartitionId(0),
    },
];

/// A stop after which both partitions end in a block of which they have five sectors and a part; and what they hold.
fn stopped() -> (SimDisk, [Bytes; 2]) {
    let mut rig = Rig::new(&small());
    for n in 0..9 {
        for key in KEYS {
            rig.produce(key, 1, 650, n);
        }
    }
    let all = KEYS.map(|key| rig.read_all(key));
    rig.inline.stop().unwrap();
    (rig.disk.after_kill(), all)
}

fn records(disk: &SimDisk) -> impl Iterator<Item = (&'static str, Checkpoint)> {
    paths::CHECKPOINTS
        .map(|path| {
            let bytes = disk.read_file(path).unwrap();
            (path, Checkpoint::decode(&bytes, [0x5a; 16]).unwrap())
        })
        .into_iter()
}

#[test]
fn damaged_last_block_is_put_back_whatever_is_damaged_in_it() {
    let (disk, all) = stopped();
    for (key, bytes) in KEYS.iter().zip(&all) {
        let path = paths::segment(*key, Offset::ZERO);
        let end = bytes.len() as u64;
        let first = end / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        assert!(end - first > 2048, "{end}");
        for at in (first..end).step_by(512) {
            let damages: [&dyn Fn(&SimDisk); 3] = [
                &|image| image.flip_bit(&path, at, 3).unwrap(),
                &|image| image.zero_sector(&path, at).unwrap(),
                &|image| image.make_unreadable(&path, at, 1).unwrap(),
            ];
            for damage in damages {
                let image = disk.after_kill();
                damage(&image);
                let report = look(&image).unwrap();
                assert!(report.starts() && !report.affects_acknowledged(), "{report:#?}");
                let finding = report.findings.iter().find(|f| f.kind == Kind::PartialBlock);
                assert_eq!(finding.unwrap().effect, Effect::Harmless);
                drop(Rig::open(&image, &small()).unwrap());
                // On the medium, not in the cache alone.
                let image = image.after_power_cut(0, CutProfile::DropAll);
                let report = look(&image).unwrap();
                assert!(report.is_clean(), "{report:#?}");
                let rig = Rig::open(&image, &small()).unwrap();
                KEYS.iter()
                    .zip(&all)
                    .for_each(|(key, all)| assert_eq!(rig.read_all(*key), *all));
            }
        }
    }
}

fn cut(disk: &SimDisk, path: &str, len: u64) {
    let file = disk.open(path, Mode::Buffered).unwrap();
    file.set_len(len).unwrap();
    file.sync_data().unwrap();
}

/// A start and who looks before it agree: what is missing is lost only if the checkpoint has not all of it.
#[test]
fn last_block_that_was_cut_off_is_put_back_and_no_more_than_that() {
    let (disk, all) = stopped();
    for (key, bytes) in KEYS.iter().zip(&all) {
        let path = paths::segment(*key, Offset::ZERO);
        let end = bytes.len() as u64;
        let first = end / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        for len in [end - 1, end - 700, first + 1, first] {
            let image = disk.after_kill();
            cut(&image, &path, len);
            let image = image.after_kill();
            let report = look(&image).unwrap();
            assert!(
                report.starts() && !report.affects_acknowledged(),
                "{len}: {report:#?}"
            );
            let finding = report.findings.iter().find(|f| f.kind == Kind::PartialBlock);
            assert_eq!(finding.unwrap().effect, Effect::Harmless);
            let mut rig = Rig::open(&image, &small()).unwrap();
            let more = rig.produce(*key, 1, 50, 9);
            let image = image.after_power_cut(0, CutProfile::DropAll);
            assert!(look(&image).unwrap().is_clean());
            let rig = Rig::open(&image, &small()).unwrap();
            assert_eq!(rig.read_all(*key), [bytes.clone(), more].concat(), "{len}");
        }
    }
    // One byte more, or the whole file, stands in no checkpoint.
    let path = paths::segment(KEYS[1], Offset::ZERO);
    let first = all[1].len() as u64 / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let short = disk.after_kill();
    cut(&short, &path, first - 1);
    let gone = disk.after_kill();
    Disk::unlink(&gone, &path).unwrap();
    for image in [short.after_kill(), gone.after_kill()] {
        assert!(look(&image).unwrap().affects_acknowledged());
        let rig = Rig::open(&image, &small()).unwrap();
        rig.read(KEYS[1], offset(8), 1).unwrap_err();
    }
}

#[test]
fn small_segment_that_was_cut_to_nothing_is_put_back() {
    let mut rig = Rig::new(&small());
    let stored = KEYS.map(|key| rig.produce(key, 2, 100, 3));
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    for key in KEYS {
        cut(&disk, &paths::segment(key, Offset::ZERO), 0);
    }
    let disk = disk.after_kill();
    let report = look(&disk).unwrap();
    assert!(report.starts() && !report.affects_acknowledged(), "{report:#?}");
    let rig = Rig::open(&disk, &small()).unwrap();
    assert_eq!(KEYS.map(|key| rig.read_all(key)), stored);
}

/// It does not matter to the last block what became of an earlier segment.
#[test]
fn last_block_is_put_back_although_an_earlier_segment_is_gone() {
    let mut rig = Rig::new(&small());
    let stored: Vec<_> = (0..16).map(|n| rig.produce(KEYS[1], 1, 1450, n)).collect();
    rig.inline.stop().unwrap();
    let segments = rig.store.open(KEYS[1], CONFIG).segments();
    assert_eq!(segments.len(), 2);
    let disk = rig.disk.after_kill();
    Disk::unlink(&disk, &paths::segment(KEYS[1], segments[0].base)).unwrap();
    let path = paths::segment(KEYS[1], segments[1].base);
    disk.flip_bit(&path, segments[1].bytes - 100, 3).unwrap();
    let disk = disk.after_kill();
    let report = look(&disk).unwrap();
    let blocks: Vec<_> = report
        .findings
        .iter()
        .filter(|f| f.kind == Kind::PartialBlock)
        .collect();
    assert!(
        blocks.len() == 1 && blocks[0].effect == Effect::Harmless,
        "{report:#?}"
    );
    let mut rig = Rig::open(&disk, &small()).unwrap();
    let behind: Vec<_> = stored[usize::try_from(segments[1].base.get()).unwrap()..].to_vec();
    rig.produce(KEYS[1], 1, 10, 3);
    let read = rig.read(KEYS[1], segments[1].base, 1 << 20).unwrap().0;
    assert!(read.starts_with(&behind.concat()));
}

/// One of the broker's own partitions could be put back, the other one cannot.
#[test]
fn refusal_for_one_last_block_leaves_the_others_as_they_were() {
    let mut rig = Rig::new(&small());
    let keys = [PartitionKey::META, PartitionKey::GROUPS];
    for key in keys {
        rig.produce(key, 2, 300, 1);
    }
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    for (path, mut record) in records(&disk) {
        for partition in &mut record.partitions {
            partition.snapshot = None;
            partition.partial = partition.partial.take().filter(|_| partition.key == keys[0]);
        }
        disk.write_file(path, &record.encode([0x5a; 16])).unwrap();
    }
    for key in keys {
        disk.flip_bit(&paths::segment(key, Offset::ZERO), 100, 3).unwrap();
    }
    let disk = disk.after_kill();
    let before = (disk.ops(), disk.files());
    let refused = Rig::open(&disk, &small()).err().unwrap().to_string();
    assert!(
        refused.contains("nothing was changed") && refused.contains("the last block"),
        "{refused}"
    );
    assert_eq!((disk.ops(), disk.files()), before);
}

#[test]
fn without_a_copy_the_broker_needs_its_own_block_and_others_lose_theirs() {
    let (disk, all) = stopped();
    for (path, mut record) in records(&disk) {
        for partition in &mut record.partitions {
            // What a snapshot covers would not be needed either.
            (partition.partial, partition.snapshot) = (None, None);
        }
        disk.write_file(path, &record.encode([0x5a; 16])).unwrap();
    }
    let damaged = |n: usize| {
        let image = disk.after_kill();
        let path = paths::segment(KEYS[n], Offset::ZERO);
        image.flip_bit(&path, all[n].len() as u64 - 100, 3).unwrap();
        Rig::open(&image, &small())
    };
    let refused = damaged(0).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("the last block"), "{refused}");
    let rig = damaged(1).unwrap();
    let lost = rig.read(KEYS[1], offset(8), 1).unwrap_err();
    assert!(std::matches!(lost, ReadError::Corrupt { .. }), "{lost}");
}

#[test]
fn checkpoint_of_a_thousand_partitions_grows_by_their_last_blocks() {
    let mut rig = Rig::new(&small());
    for partition in 0..1000 {
        rig.produce(key(1, partition), 1, 1 + partition as usize * 2, 1);
        if partition % 16 == 0 {
            rig.inline.applier_round(true).unwrap();
        }
    }
    rig.inline.applier_round(true).unwrap();
    rig.inline.checkpoint().unwrap();
    let newest = records(&rig.disk)
        .map(|(_, record)| record)
        .max_by_key(|record| record.seq);
    let mut newest = newest.unwrap();
    let with = newest.encode([0x5a; 16]).len();
    assert!(
        newest
            .partitions
            .iter()
            .all(|partition| partition.partial.is_some())
    );
    let kept: usize = newest
        .partitions
        .iter()
        .flat_map(|p| &p.partial)
        .map(Bytes::len)
        .sum();
    keep_within(&mut newest.partitions, 2000);
    let first: Vec<_> = newest
        .partitions
        .iter()
        .take_while(|p| p.partial.is_some())
        .collect();
    let bytes: usize = first.iter().flat_map(|p| &p.partial).map(Bytes::len).sum();
    assert!(first.len() < 1000 && bytes <= 2000, "{bytes} bytes");
    newest
        .partitions
        .iter_mut()
        .for_each(|partition| partition.partial = None);
    let without = newest.encode([0x5a; 16]).len();
    assert_eq!(with, without + kept + 4 * 1000);
    eprintln!("figures checkpoint-of-1000-partitions: bytes={with} without_last_blocks={without}");
}

#[test]
fn blocks_of_closed_files_are_kept_up_to_a_limit() {
    let mut partials = Partials::default();
    let full = Partial::of(&[1; 4095]);
    let room = u32::try_from(PARTIAL_BLOCKS_BYTES_MAX / 4095).unwrap();
    for partition in 0..=room {
        partials.insert(key(1, partition), full.clone());
        partials.insert(key(1, partition), full.clone());
    }
    let last = partials.get(key(1, room)).unwrap();
    assert_eq!((last.crc, &last.bytes), (full.crc, &None));
    assert_eq!(partials.get(key(1, room - 1)), Some(&full));
    partials.remove(key(1, 0));
    partials.insert(key(1, room), full.clone());
    assert_eq!(partials.get(key(1, room)), Some(&full));
    partials.forget_topic(key(1, 0).topic);
    partials.insert(key(2, 0), full.clone());
    assert_eq!(partials.get(key(2, 0)), Some(&full));
}
