//! Looking without changing: what a crash leaves is clean, damage is named as recovery names it, and nothing is written.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::disk::sim::CutProfile;
use crate::disk::{Disk, Mode};
use crate::storage::local::inspect::dump::{DumpError, Item, dump};
use crate::storage::local::inspect::{Effect, Finding, InspectError, Kind, Report, Watch, rehearse};

const KEY: PartitionKey = PartitionKey {
    topic: TopicId::from_bytes([1; 16]),
    partition: PartitionId(0),
};

#[derive(Default)]
struct Progress {
    total: u64,
    done: u64,
}

impl Watch for Progress {
    fn total(&mut self, bytes: u64) {
        self.total += bytes;
    }

    fn more(&mut self, bytes: u64) {
        self.done += bytes;
    }
}

/// Looks, and makes sure that nothing else happened.
pub(super) fn look(disk: &SimDisk) -> Result<Report, InspectError> {
    look_with(disk, &mut Above::default())
}

/// As [`look`], with the state that the rehearsed start leaves.
fn look_with(disk: &SimDisk, above: &mut Above) -> Result<Report, InspectError> {
    let before = (disk.ops(), disk.files());
    let mut progress = Progress::default();
    let report = rehearse(disk, &mut progress, above);
    assert_eq!((disk.ops(), disk.files()), before, "something was changed");
    assert!(
        progress.done <= progress.total,
        "{} of {}",
        progress.done,
        progress.total
    );
    report
}

fn clean(disk: &SimDisk, what: &str) -> Report {
    let report = look(disk).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(report.is_clean(), "{what}: {:#?}", report.findings);
    report
}

/// Three partitions, one internal; trims, deletions, seals, checkpoints. Returns what was acknowledged of [`KEY`], by offset.
fn run(rig: &mut Rig, rounds: u8) -> Vec<Bytes> {
    let mut stored = Vec::new();
    for i in 0..rounds {
        rig.clock.advance(Duration::from_millis(700));
        stored.push(rig.produce(KEY, 1, 900 + 30 * usize::from(i), i));
        rig.produce(key(2, 1), 2, 300, i);
        rig.produce(PartitionKey::META, 1, 200, i);
        if i % 11 == 5 {
            rig.produce(key(10 + i, 0), 1, 100, i);
        }
        if i % 11 == 9 {
            let topic = key(10 + i - 4, 0).topic;
            rig.submit(vec![], &[topic]);
            while rig.inline.journal().unwrap() == Round::Worked {}
        }
        if i % 9 == 8 {
            let end = rig.store.open(key(2, 1), CONFIG).bounds(rig.durable()).log_end;
            rig.trim(key(2, 1), offset(end.get() / 2));
            while rig.inline.journal().unwrap() == Round::Worked {}
        }
        match i % 4 {
            0 => rig.inline.applier_round(true).unwrap(),
            1 => drop(rig.inline.seal()),
            _ => {}
        }
        if i % 10 == 3 {
            rig.inline.checkpoint().unwrap();
        }
    }
    stored
}

#[test]
fn whatever_a_crash_leaves_is_clean() {
    let disk = new_disk();
    let looked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&looked);
    disk.on_op(move |moment| {
        let images = [
            CutProfile::Ext4,
            CutProfile::Posix,
            CutProfile::DropAll,
            CutProfile::KeepAll,
        ]
        .map(|profile| moment.after_power_cut(moment.index(), profile));
        for image in images
            .into_iter()
            .chain([moment.after_kill_midway(moment.index())])
        {
            match look(&image) {
                Ok(report) => assert!(
                    report.is_clean(),
                    "before {} {:?}: {:#?}",
                    moment.index(),
                    moment.op(),
                    report.findings
                ),
                // Before the directory is made.
                Err(InspectError::NotADataDirectory | InspectError::NeverUsed) => {}
                Err(e) => panic!("{e}"),
            }
            *count.lock().unwrap() += 1;
        }
    });
    let mut rig = Rig::open(&disk, &small()).unwrap();
    run(&mut rig, 45);
    rig.inline.stop().unwrap();
    let again = Rig::open(&disk, &small()).unwrap();
    drop(again);
    assert!(*looked.lock().unwrap() > 2_000);
}

#[test]
fn everything_is_counted() {
    let mut rig = Rig::new(&small());
    let stored = run(&mut rig, 30);
    let report = clean(&rig.disk.after_kill(), "killed");
    assert!(
        report.checked.groups > 2 && report.checked.group_batches > 2,
        "{report:?}"
    );
    assert_eq!(report.end, rig.durable());
    let mut above = Above::default();
    let image = rig.disk.after_kill();
    let report = look_with(&image, &mut above).unwrap();
    let again = Rig::open(&image, &small()).unwrap();
    assert_eq!(above, *again.above.lock().unwrap());
    let replayed = again.store.report();
    assert_eq!(
        (report.start.groups, report.start.bytes),
        (replayed.groups, replayed.bytes)
    );
    assert_eq!(report.start.written, Some(rig.clock.wall()));
    rig.inline.stop().unwrap();
    let report = clean(&rig.disk.after_kill(), "stopped");
    assert!(report.checkpoints[0].clean);
    assert!(report.checked.records >= stored.len() as u64, "{report:?}");
    assert!(
        report.checked.index_entries > 0 && report.checked.segments > 3,
        "{report:?}"
    );
}

#[test]
fn what_is_no_data_directory_is_said_to_be_none() {
    let disk = new_disk();
    assert!(std::matches!(look(&disk), Err(InspectError::NotADataDirectory)));
    disk.write_file("letter.txt", b"dear").unwrap();
    assert!(std::matches!(look(&disk), Err(InspectError::NotADataDirectory)));
    let text = crate::storage::local::format::identity::encode_as(7, [1; 16]);
    disk.write_file("FORMAT", text.as_bytes()).unwrap();
    assert!(std::matches!(look(&disk), Err(InspectError::Newer(7))));
}

fn find(report: &Report, kind: Kind) -> &Finding {
    let found = report.findings.iter().find(|f| f.kind == kind);
    found.unwrap_or_else(|| panic!("no {}: {:#?}", kind.name(), report.findings))
}

/// The first file below this path that holds these bytes, and where.
pub(super) fn place_of(disk: &SimDisk, needle: &[u8], below: &str) -> (String, u64) {
    disk.files()
        .into_iter()
        .filter(|(path, _)| path.starts_with(below))
        .find_map(|(path, _)| {
            let bytes = disk.read_file(&path).unwrap();
            let at = bytes.windows(needle.len()).position(|w| w == needle)?;
            Some((path, u64::try_from(at).unwrap()))
        })
        .unwrap()
}

/// Eight batches of two records, in a segment.
fn stopped() -> (SimDisk, Vec<Bytes>) {
    let mut rig = Rig::new(&small());
    let stored: Vec<_> = (0..8).map(|i| rig.produce(KEY, 2, 700, i)).collect();
    rig.inline.stop().unwrap();
    (rig.disk.after_kill(), stored)
}

#[test]
fn a_damaged_batch_of_a_segment_is_named_with_its_place_and_its_offsets() {
    let (disk, stored) = stopped();
    let (path, at) = place_of(&disk, &stored[3], "topics/");
    for (what, byte) in [
        ("body", 100),
        ("checksum", 17),
        ("length", 11),
        ("base offset", 3),
        ("magic", 16),
    ] {
        let image = disk.after_kill();
        image.flip_bit(&path, at + byte, 5).unwrap();
        let report = look(&image).unwrap();
        let finding = find(&report, Kind::SegmentBatch);
        assert_eq!(
            (finding.effect, &finding.file, finding.position),
            (Effect::Loss, &path, Some(at)),
            "{what}"
        );
        assert_eq!(finding.partition, Some(KEY), "{what}");
        let (first, last) = finding.offsets.unwrap();
        // A length that is damaged leads nowhere: the rest up to the next indexed batch goes with it.
        assert_eq!(first, offset(6), "{what}");
        assert!(
            last == offset(7) || (byte == 11 || byte == 16) && last < offset(16),
            "{what}: {last}"
        );
        assert!(report.affects_acknowledged() && report.starts(), "{what}");
    }
    // Nobody but the index or the neighbours can tell.
    for (batch, byte) in [(0, 12), (3, 12)] {
        let image = disk.after_kill();
        let (path, at) = place_of(&disk, &stored[batch], "topics/");
        image.flip_bit(&path, at + byte, 4).unwrap();
        let report = look(&image).unwrap();
        assert_eq!(
            find(&report, Kind::BatchHeader).position,
            Some(at),
            "batch {batch}"
        );
        assert!(!report.affects_acknowledged() && !report.is_clean());
    }
}

#[test]
fn sectors_that_cannot_be_read_are_findings() {
    let (disk, stored) = stopped();
    let (path, at) = place_of(&disk, &stored[3], "topics/");
    let image = disk.after_kill();
    image.make_unreadable(&path, at + 600, 1).unwrap();
    let report = look(&image).unwrap();
    let finding = find(&report, Kind::SegmentBatch);
    assert_eq!(
        (finding.position, finding.offsets),
        (Some(at), Some((offset(6), offset(7))))
    );
    assert!(finding.what.contains("does not give"), "{}", finding.what);
    let mut rig = Rig::new(&small());
    let stored: Vec<_> = (0..5).map(|i| rig.produce(KEY, 2, 100, i)).collect();
    rig.inline.seal();
    let image = rig.disk.after_kill();
    let (path, at) = place_of(&image, &stored[2], "journal/");
    image.make_unreadable(&path, at, 1).unwrap();
    let report = look(&image).unwrap();
    assert_eq!(find(&report, Kind::Unreadable).position, Some(at / 4096 * 4096));
    let refusal = report
        .findings
        .iter()
        .find(|f| f.effect == Effect::Refusal)
        .unwrap();
    assert_eq!(
        (refusal.kind, refusal.groups),
        (Kind::Unreadable, Some((Lsn(3), Lsn(3))))
    );
    assert_eq!(find(&report, Kind::Offsets).offsets, Some((offset(4), offset(5))));
}

/// Behind it no file could have a number, so a start does not read it; it may hold what somebody wants all the same.
#[test]
fn journal_file_of_the_last_number_there_is_is_told() {
    let (disk, _) = stopped();
    let path = crate::storage::local::paths::journal(u64::MAX);
    disk.write_file(&path, &[0; 64 << 10]).unwrap();
    let report = look(&disk).unwrap();
    let finding = find(&report, Kind::UnknownFile);
    assert_eq!(
        (finding.file.as_str(), finding.effect),
        (path.as_str(), Effect::Note)
    );
    assert!(
        finding.what.contains("a broker does not read it"),
        "{}",
        finding.what
    );
    assert!(report.starts() && report.is_clean());
}

#[test]
fn a_damaged_index_costs_no_record() {
    let mut rig = Rig::new(&small());
    for i in 0..30 {
        rig.produce(KEY, 2, 700, i);
    }
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    let files = disk.files().into_iter().map(|(path, _)| path);
    let path = files.into_iter().find(|path| path.ends_with("00.index")).unwrap();
    let damaged = disk.after_kill();
    damaged.flip_bit(&path, 41, 1).unwrap();
    let missing = disk.after_kill();
    missing.unlink(&path).unwrap();
    let missing = missing.after_kill();
    for image in [damaged, missing] {
        let report = look(&image).unwrap();
        let finding = find(&report, Kind::Index);
        assert_eq!((finding.effect, &finding.file), (Effect::Harmless, &path));
        assert_eq!(report.findings.len(), 1, "{:#?}", report.findings);
    }
}

#[test]
fn damage_that_refuses_a_start_is_said_to() {
    let (disk, _) = stopped();
    for which in ["checkpoint.0", "checkpoint.1"] {
        let image = disk.after_kill();
        image.flip_bit(which, 60, 2).unwrap();
        let report = look(&image).unwrap();
        assert_eq!(find(&report, Kind::Checkpoint).file, which);
        assert!(!report.affects_acknowledged(), "{:#?}", report.findings);
        image.flip_bit("checkpoint.0", 61, 2).unwrap();
        image.flip_bit("checkpoint.1", 61, 2).unwrap();
        assert!(!look(&image).unwrap().starts());
    }
    for damage in ["flip", "unlink"] {
        let image = disk.after_kill();
        if damage == "flip" {
            image.flip_bit("FORMAT", 40, 1).unwrap();
        } else {
            image.unlink("FORMAT").unwrap();
        }
        let report = look_at_changed(&image);
        let finding = find(&report, Kind::Format);
        assert_eq!(finding.effect, Effect::Refusal);
        assert!(
            finding.what.contains("it should read: naru data directory"),
            "{}",
            finding.what
        );
        assert!(report.checked.batches >= 8, "the rest is looked at all the same");
    }
}

/// A look at what was changed by an operation that is counted.
fn look_at_changed(image: &SimDisk) -> Report {
    look(&image.after_kill()).unwrap()
}

/// A directory that died in the middle of its life, one that stopped, and what of [`KEY`] was acknowledged.
fn examples() -> &'static [(SimDisk, Vec<Bytes>)] {
    static EXAMPLES: OnceLock<Vec<(SimDisk, Vec<Bytes>)>> = OnceLock::new();
    EXAMPLES.get_or_init(|| {
        let dead = |rounds| {
            let mut rig = Rig::new(&small());
            let stored = run(&mut rig, rounds);
            (rig.disk.after_kill(), stored)
        };
        let mut rig = Rig::new(&small());
        let stored = run(&mut rig, 24);
        rig.inline.stop().unwrap();
        vec![dead(13), dead(20), dead(42), (rig.disk.after_kill(), stored)]
    })
}

#[derive(Clone, Debug)]
enum Damage {
    Flip(u64, u32),
    Zero(u64),
    Cut(u64),
    Unlink,
    Unreadable(u64),
    Extend(u8),
}

fn damages() -> impl Strategy<Value = Damage> {
    prop_oneof![
        6 => (any::<u64>(), 0..8_u32).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        2 => any::<u64>().prop_map(Damage::Zero),
        1 => any::<u64>().prop_map(Damage::Cut),
        1 => Just(Damage::Unlink),
        1 => any::<u64>().prop_map(Damage::Unreadable),
        1 => any::<u8>().prop_map(Damage::Extend),
    ]
}

fn damage(disk: &SimDisk, path: &str, len: u64, how: &Damage) {
    let file = || disk.open(path, Mode::Buffered).unwrap();
    let inside = |at: &u64| at % len.max(1);
    match how {
        Damage::Unlink => disk.unlink(path).unwrap(),
        Damage::Cut(at) => file().set_len(inside(at)).unwrap(),
        Damage::Extend(byte) => {
            let bytes = [disk.read_file(path).unwrap(), vec![*byte; 100]].concat();
            disk.write_file(path, &bytes).unwrap();
        }
        _ if len == 0 => {}
        Damage::Flip(at, bit) => disk.flip_bit(path, inside(at), *bit).unwrap(),
        Damage::Zero(at) => disk.zero_sector(path, inside(at)).unwrap(),
        Damage::Unreadable(at) => disk.make_unreadable(path, inside(at), 1).unwrap(),
    }
}

/// Offsets of a partition that findings of these kinds call lost.
fn lost(report: &Report, of: PartitionKey, kinds: &[Kind]) -> Vec<i64> {
    let of_kind = |f: &&Finding| kinds.contains(&f.kind) && f.effect == Effect::Loss;
    offsets_of(report.findings.iter().filter(of_kind), of)
}

/// Offsets of a partition that findings of this kind name, whatever their effect.
fn named(report: &Report, of: PartitionKey, kind: Kind) -> Vec<i64> {
    offsets_of(report.findings.iter().filter(|f| f.kind == kind), of)
}

fn offsets_of<'a>(findings: impl Iterator<Item = &'a Finding>, of: PartitionKey) -> Vec<i64> {
    let ranges = findings
        .filter(|f| f.partition == Some(of))
        .filter_map(|f| f.offsets);
    let mut all: Vec<i64> = ranges
        .flat_map(|(first, last)| first.get()..=last.get())
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Recovery is the judge: the same refusals, the same offsets fenced off, and no damage that reading finds is missed.
    #[test]
    fn the_verdict_is_that_of_recovery(which in 0..4_usize, hits in proptest::collection::vec((any::<prop::sample::Index>(), damages()), 1..3)) {
        let (disk, stored) = &examples()[which];
        let image = disk.after_kill();
        let mut told_hits = Vec::new();
        for (file, how) in &hits {
            let files: Vec<_> = image.files().into_iter().filter(|(p, _)| !p.starts_with("salvage") && !p.starts_with("trash")).collect();
            let (path, len) = file.get(&files);
            damage(&image, path, *len, how);
            told_hits.push(path.clone());
        }
        let image = image.after_kill();
        let mut above = Above::default();
        let report = match look_with(&image, &mut above) {
            Ok(report) => report,
            Err(e) => {
                let missing = Disk::open(&image, "FORMAT", Mode::Buffered).is_err();
                prop_assert!(missing || std::matches!(e, InspectError::Newer(_)), "{e}");
                return Ok(());
            }
        };
        let rig = match Rig::open(&image, &small()) {
            Ok(rig) => rig,
            Err(OpenError::Io(e)) => {
                // The disk does not give what has to be written behind.
                prop_assert!(!report.is_clean(), "recovery: {e}");
                return Ok(());
            }
            Err(e) => {
                prop_assert!(!report.starts(), "recovery: {e}; {:#?}", report.findings);
                return Ok(());
            }
        };
        prop_assert!(report.starts(), "recovery starts; {:#?}", report.findings);
        prop_assert_eq!(&above, &*rig.above.lock().unwrap(), "{:#?}", report.findings);
        let log = rig.store.open(KEY, CONFIG);
        let fenced: Vec<i64> = log.stats().quarantined.iter().flat_map(|(a, b)| a.get()..=b.get()).collect();
        let told = lost(&report, KEY, &[Kind::JournalBatch, Kind::Offsets, Kind::SegmentMissing]);
        prop_assert_eq!(&told, &fenced, "{:#?}", report.findings);
        // The epoch stands outside of the checksum: a batch with another one is given out, and named.
        let mut told = lost(&report, KEY, &Kind::ALL);
        told.extend(named(&report, KEY, Kind::BatchHeader));
        let end = log.bounds(rig.durable()).log_end;
        for (i, batch) in stored.iter().enumerate() {
            let at = i64::try_from(i).unwrap();
            // A newest journal file that is gone as a whole leaves no trace.
            let gone = told_hits.iter().any(|path| path.starts_with("journal/") && Disk::open(&image, path, Mode::Direct).is_err());
            let whole = gone || offset(at) < end && rig.read(KEY, offset(at), 1).is_ok_and(|(bytes, _)| bytes == *batch);
            if report.is_clean() || (!told.contains(&at) && !report.affects_acknowledged()) {
                prop_assert!(whole, "offset {} is not there after {:?}, and nothing was said: {:#?}", at, told_hits, report.findings);
            }
        }
    }
}

/// A topic in memory stores no batch, and only its trims.
#[test]
fn trim_of_a_partition_without_batches_is_no_gap() {
    let mut rig = Rig::new(&small());
    rig.produce(KEY, 1, 100, 1);
    rig.trim(key(3, 0), offset(50));
    rig.trim(key(3, 0), offset(70));
    while rig.inline.journal().unwrap() == Round::Worked {}
    rig.inline.seal();
    let image = rig.disk.after_kill();
    clean(&image, "trimmed");
    let again = Rig::open(&image, &small()).unwrap();
    let bounds = again.store.open(key(3, 0), CONFIG).bounds(again.durable());
    assert_eq!((bounds.log_start, bounds.log_end), (offset(70), offset(70)));
}

/// All items of a file, or why there are no more.
fn items(disk: &SimDisk, path: &str) -> (Vec<Item>, Option<DumpError>) {
    let before = disk.ops();
    let mut all = Vec::new();
    let shown = dump(disk, path, &mut |item| {
        all.push(item);
        Ok(())
    });
    assert_eq!(disk.ops(), before);
    (all, shown.err())
}

#[test]
fn a_file_shows_all_that_was_written_to_it() {
    let (disk, stored) = stopped();
    let (path, _) = place_of(&disk, &stored[0], "topics/");
    let (all, error) = items(&disk, &path);
    let shown = all.iter().filter_map(|item| match item {
        Item::Batch {
            bytes, damage: None, ..
        } => Some(bytes.clone()),
        _ => None,
    });
    assert_eq!(shown.collect::<Vec<_>>(), stored);
    assert!(error.is_none());
    let (journal, at) = place_of(&disk, &stored[2], "journal/");
    let (all, _) = items(&disk, &journal);
    let entry = all
        .iter()
        .find(|item| std::matches!(item, Item::Append { position, whole: true, .. } if *position == at));
    assert!(entry.is_some(), "{all:?}");
    // Behind garbage the walk goes on with the next batch.
    let (_, at) = place_of(&disk, &stored[3], "topics/");
    disk.flip_bit(&path, at + 16, 3).unwrap();
    let (all, _) = items(&disk, &path);
    assert_eq!(all.iter().filter(|item| item.is_damaged()).count(), 1);
    let is_last = |item: &Item| std::matches!(item, Item::Batch { bytes, .. } if *bytes == stored[7]);
    assert!(all.iter().any(is_last), "{all:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_file_makes_a_dump_panic(which in 0..4_usize, file: prop::sample::Index, how in damages(), bytes in proptest::collection::vec(any::<u8>(), 0..10_000)) {
        let image = examples()[which].0.after_kill();
        let files: Vec<_> = image.files().into_iter().filter(|(path, _)| path != "FORMAT" && path != "LOCK").collect();
        let (path, len) = file.get(&files);
        damage(&image, path, *len, &how);
        items(&image, path);
        for name in ["0.log", "0.index", "0.journal", "checkpoint.0", "letter"] {
            image.write_file(name, &bytes).unwrap();
            items(&image, name);
        }
    }
}
