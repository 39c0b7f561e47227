//! Files that have become longer than any can be: what is read of them is bounded by what they should hold.

use super::inspect::look;
use super::*;
use crate::disk::sim::{Fault, FaultKind};
use crate::disk::{Disk, Mode};
use crate::storage::local::format::checkpoint::CHECKPOINT_BYTES_MAX;
use crate::storage::local::inspect::Kind;
use crate::storage::local::paths;

/// As a sparse file it takes no room.
const ABSURD: u64 = 8 << 40;

/// More entries than anybody should look at one by one.
const ABSURD_INDEX: u64 = 64 << 20;

fn grow(disk: &SimDisk, path: &str) {
    grow_to(disk, path, ABSURD);
}

fn grow_to(disk: &SimDisk, path: &str, len: u64) {
    disk.open(path, Mode::Direct).unwrap().set_len(len).unwrap();
}

fn stopped() -> (SimDisk, Bytes) {
    let mut rig = Rig::new(&small());
    for fill in 0..30 {
        rig.produce(key(1, 0), 2, 700, fill);
    }
    let all = rig.read_all(key(1, 0));
    rig.inline.stop().unwrap();
    (rig.disk.after_kill(), all)
}

#[test]
fn checkpoint_files_of_any_length_are_read_as_far_as_their_record_goes() {
    let (disk, all) = stopped();
    paths::CHECKPOINTS.iter().for_each(|path| grow(&disk, path));
    let report = look(&disk).unwrap();
    assert!(report.is_clean(), "{report:#?}");
    let rig = Rig::open(&disk, &small()).unwrap();
    assert_eq!(rig.read_all(key(1, 0)), all);
    // The same without `FORMAT`, which the records tell.
    let without = disk.after_kill();
    Disk::unlink(&without, paths::FORMAT).unwrap();
    let refused = Rig::open(&without, &small()).err().unwrap().to_string();
    assert!(refused.contains("it should read"), "{refused}");
}

#[test]
fn record_that_claims_more_than_any_has_is_refused_by_its_length() {
    let (disk, all) = stopped();
    for (path, both) in [(paths::CHECKPOINTS[0], false), (paths::CHECKPOINTS[1], true)] {
        grow(&disk, path);
        let file = disk.open(path, Mode::Buffered).unwrap();
        file.write_all_at(&(ABSURD - 44).to_le_bytes(), 32).unwrap();
        file.sync_data().unwrap();
        let report = look(&disk.after_kill()).unwrap();
        let finding = report
            .findings
            .iter()
            .find(|f| f.kind == Kind::Checkpoint)
            .unwrap();
        let limit = CHECKPOINT_BYTES_MAX.to_string();
        let names = |what: &str| what.contains(&limit) && what.contains(&ABSURD.to_string());
        assert!(names(&finding.what), "{finding:?}");
        assert_eq!(report.starts(), !both, "{report:#?}");
        let again = Rig::open(&disk.after_kill(), &small());
        if both {
            let refused = again.err().unwrap().to_string();
            assert!(names(&refused), "{refused}");
        } else {
            assert_eq!(again.unwrap().read_all(key(1, 0)), all);
        }
    }
}

/// It would be searched, and cut from its end, for ever.
#[test]
fn indexes_of_any_length_are_read_as_far_as_their_segment_goes() {
    let (disk, all) = stopped();
    let files = disk.files().into_iter().map(|(path, _)| path);
    let indexes: Vec<_> = files.filter(|path| path.ends_with(".index")).collect();
    assert!(indexes.len() > 2);
    indexes.iter().for_each(|path| grow_to(&disk, path, ABSURD_INDEX));
    let disk = disk.after_kill();
    // What is read beyond so many pieces fails, and is seen.
    disk.inject(
        Fault::next(FaultKind::ReadFails, "topics/")
            .after(50_000)
            .times(u64::MAX),
    );
    let report = look(&disk).unwrap();
    assert!(report.starts() && !report.affects_acknowledged(), "{report:#?}");
    let settings = Settings {
        scrub_interval: Duration::from_secs(1),
        ..small()
    };
    let mut rig = Rig::open(&disk, &settings).unwrap();
    assert_eq!(rig.read_all(key(1, 0)), all);
    rig.read(key(1, 0), offset(31), 1).unwrap();
    while rig.store.status().scrub.passes == 0 {
        let rest = rig.inline.scrub().unwrap();
        rig.clock.advance(rest);
    }
    assert_eq!(disk.take_strikes(), []);
    let more = rig.produce(key(1, 0), 1, 10, 1);
    rig.inline.stop().unwrap();
    let again = Rig::open(&disk.after_kill(), &small()).unwrap();
    assert_eq!(again.read_all(key(1, 0)), [all, more].concat());
}

#[test]
fn journal_files_of_any_length_are_read_as_far_as_they_were_made() {
    let mut rig = Rig::new(&small());
    let stored: Vec<_> = (0..3).map(|fill| rig.produce(key(1, 0), 2, 700, fill)).collect();
    let disk = rig.disk.after_kill();
    grow(&disk, &paths::journal(0));
    let disk = disk.after_kill();
    let report = look(&disk).unwrap();
    assert!(report.is_clean(), "{report:#?}");
    let again = Rig::open(&disk, &small()).unwrap();
    assert_eq!(again.read_all(key(1, 0)), stored.concat());
}
