//! The last, partial block of a segment: damaged, and put back from the checkpoint.

use super::inspect::look;
use super::*;
use crate::disk::BLOCK_BYTES;
use crate::disk::sim::CutProfile;
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
