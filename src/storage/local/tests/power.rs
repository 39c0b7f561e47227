//! The power fails before every operation of a recorded run: what was acknowledged is there, nothing else is invented.

use super::*;
use crate::disk::sim::CutProfile;

/// How large everything is.
#[derive(Clone, Debug)]
struct Sizes {
    settings: Settings,
    config: LogConfig,
    /// Bytes that every value has at least.
    value_bytes: usize,
}

impl Sizes {
    /// Many batches in a block, many segments, a ring that goes round.
    fn small() -> Self {
        Self {
            settings: small(),
            config: CONFIG,
            value_bytes: 200,
        }
    }

    /// Batches that are copied before they are taken in, and written to their segments from where they are; up to three in
    /// a row, which end in the middle of a block.
    fn large() -> Self {
        Self {
            settings: Settings {
                journal_file_bytes: 2 << 20,
                journal_first_file_bytes: 2 << 20,
                memory_tail_bytes: 8 << 20,
                ..small()
            },
            config: LogConfig {
                segment_bytes: 1 << 20,
                ..CONFIG
            },
            value_bytes: 66_000,
        }
    }

    fn open(&self, disk: &SimDisk) -> Result<Rig, OpenError> {
        let mut rig = Rig::open(disk, &self.settings)?;
        rig.config = self.config;
        Ok(rig)
    }
}

/// What was done so far, by partition: batches as stored, and how many of them were acknowledged.
#[derive(Clone, Debug, Default)]
struct Done {
    batches: BTreeMap<PartitionKey, Vec<Bytes>>,
    acknowledged: BTreeMap<PartitionKey, usize>,
    /// Steps over several partitions: how many batches of each there are when it is in.
    steps: Vec<Vec<(PartitionKey, usize)>>,
    delete_asked: Vec<TopicId>,
    delete_acknowledged: Vec<TopicId>,
}

/// Recovers an image and compares it with what was done. Returns the state above.
fn check(image: &SimDisk, sizes: &Sizes, done: &Done, what: &str) -> Above {
    let rig = sizes.open(image).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(rig.store.report().lost_groups, 0, "{what}");
    let mut found = BTreeMap::new();
    for (key, batches) in &done.batches {
        let there = rig.store.engine.logs().contains_key(key);
        if done.delete_acknowledged.contains(&key.topic) {
            assert!(!there, "{what}: {key} was deleted");
            continue;
        }
        let all = if there { rig.read_all(*key) } else { Bytes::new() };
        let count = (0..=batches.len()).find(|n| batches[..*n].concat() == all);
        let count = count.unwrap_or_else(|| {
            panic!("{what}: {key} holds something else than a prefix of what was written")
        });
        let deleted = done.delete_asked.contains(&key.topic) && !there;
        let acknowledged = done.acknowledged.get(key).copied().unwrap_or(0);
        assert!(
            count >= acknowledged || deleted,
            "{what}: {key} has {count} of {acknowledged} acknowledged batches"
        );
        if !deleted {
            check_segments(&rig, *key, what);
            found.insert(*key, count);
        }
    }
    for step in &done.steps {
        let parts: Vec<_> = step
            .iter()
            .filter_map(|(key, count)| Some(found.get(key)? >= count))
            .collect();
        assert!(
            parts.windows(2).all(|w| w[0] == w[1]),
            "{what}: a step is there in part"
        );
    }
    let above = rig.above.lock().unwrap().clone();
    let expected = replay_of(done, &found);
    assert_eq!(above, expected, "{what}: the state above is that of the log");
    above
}

fn replay_of(done: &Done, found: &BTreeMap<PartitionKey, usize>) -> Above {
    let mut above = Above::default();
    for (key, count) in found {
        for bytes in &done.batches[key][..*count] {
            let header = BatchHeader::parse(bytes).unwrap();
            above.take(*key, header.base_offset, header.last_offset(), bytes);
        }
    }
    above
}

/// Appends, acknowledges, applies, checkpoints, rolls segments, recycles the journal, deletes a topic.
fn run(rig: &mut Rig, sizes: &Sizes, done: &Mutex<Done>) {
    let keys = [key(1, 0), key(1, 1), key(2, 0), key(3, 0)];
    for i in 0..60_usize {
        // Segments are closed at nine seconds of age, some by the batch that follows and some without any.
        rig.clock
            .advance(Duration::from_millis(if i % 20 == 0 { 10_000 } else { 700 }));
        let fill = u8::try_from(i).unwrap();
        let chosen: Vec<_> = keys
            .iter()
            .filter(|k| !(i + k.partition.0 as usize + usize::from(k.topic.as_bytes()[0])).is_multiple_of(3))
            .collect();
        let chosen: Vec<_> = chosen
            .into_iter()
            .filter(|k| !done.lock().unwrap().delete_asked.contains(&k.topic))
            .copied()
            .collect();
        let batches: Vec<_> = chosen
            .iter()
            .map(|k| {
                let bytes = sizes.value_bytes + 37 * i % 900;
                (*k, rig.batch(*k, 1 + i % 3, bytes, fill))
            })
            .collect();
        {
            let mut done = done.lock().unwrap();
            let mut step = Vec::new();
            for (k, batch) in &batches {
                let list = done.batches.entry(*k).or_default();
                list.push(batch.to_bytes());
                step.push((*k, list.len()));
            }
            done.steps.push(step);
        }
        rig.submit(batches, &[]);
        if i == 40 {
            done.lock().unwrap().delete_asked.push(key(3, 0).topic);
            rig.submit(vec![], &[key(3, 0).topic]);
        }
        if i % 4 != 3 {
            while rig.inline.journal().unwrap() == Round::Worked {}
            let mut done = done.lock().unwrap();
            done.acknowledged = done.batches.iter().map(|(k, b)| (*k, b.len())).collect();
            done.delete_acknowledged = done.delete_asked.clone();
        }
        if i % 5 == 0 {
            rig.inline.seal();
        }
        if i % 3 == 0 {
            rig.inline.applier_round(true).unwrap();
        }
        if i % 8 == 0 {
            rig.inline.checkpoint().unwrap();
        }
    }
}

/// Segments that were closed though the largest batch would have fitted.
fn rolled_by_age(rig: &Rig) -> usize {
    let keys: Vec<_> = rig.store.engine.logs().keys().copied().collect();
    let segments = keys
        .iter()
        .flat_map(|key| rig.store.open(*key, rig.config).segments());
    segments
        .filter(|s| s.sealed && s.bytes + 4096 < u64::from(rig.config.segment_bytes))
        .count()
}

/// Segments follow each other, and times never go back.
fn check_segments(rig: &Rig, key: PartitionKey, what: &str) {
    let segments = rig.store.open(key, rig.config).segments();
    for pair in segments.windows(2) {
        assert_eq!(pair[0].end, pair[1].base, "{what}: {key}");
        assert!(pair[0].newest_append <= pair[1].oldest_append, "{what}: {key}");
        assert!(pair[0].sealed, "{what}: {key}");
    }
    assert!(
        segments.iter().all(|s| s.oldest_append <= s.newest_append),
        "{what}: {key}"
    );
}

fn cut_at_every_operation(profile: CutProfile, every: u64, seeds: u64) {
    cut(&Sizes::small(), profile, every, seeds);
}

fn cut(sizes: &Sizes, profile: CutProfile, every: u64, seeds: u64) {
    let disk = new_disk();
    let done = Arc::new(Mutex::new(Done::default()));
    let recoveries = Arc::new(Mutex::new(0_u64));
    let mut rig = sizes.open(&disk).unwrap();
    let for_image = sizes.clone();
    let (seen, count) = (Arc::clone(&done), Arc::clone(&recoveries));
    disk.on_op(move |moment| {
        if moment.index() % every != 0 {
            return;
        }
        let done = seen.lock().unwrap().clone();
        for seed in 0..seeds {
            let what = format!(
                "{profile:?}, seed {seed}, before operation {} ({:?})",
                moment.index(),
                moment.op()
            );
            let image = moment.after_power_cut(seed.wrapping_add(moment.index() << 8), profile);
            let above = check(&image, &for_image, &done, &what);
            if moment.index() % 16 == 0 {
                // Recovering what was just recovered changes nothing.
                assert_eq!(
                    check(
                        &image.after_power_cut(seed, profile),
                        &for_image,
                        &done,
                        &format!("{what}, again")
                    ),
                    above
                );
            }
            *count.lock().unwrap() += 1;
        }
    });
    run(&mut rig, sizes, &done);
    assert!(
        rolled_by_age(&rig) > 3,
        "segments were to be closed by their age, too"
    );
    let count = *recoveries.lock().unwrap();
    assert!(count >= 100, "only {count} recoveries");
    println!("{profile:?}: {} operations, {count} recoveries", disk.ops());
}

#[test]
fn power_cut_at_every_write_on_a_journalling_file_system() {
    cut_at_every_operation(CutProfile::Ext4, 1, 2);
}

#[test]
fn power_cut_at_every_write_with_names_lost_in_any_order() {
    cut_at_every_operation(CutProfile::Posix, 1, 1);
}

#[test]
fn power_cut_at_every_write_with_nothing_unsynced_left() {
    cut_at_every_operation(CutProfile::DropAll, 1, 1);
}

#[test]
fn power_cut_between_the_pieces_of_large_batches() {
    for profile in [CutProfile::Ext4, CutProfile::DropAll] {
        cut(&Sizes::large(), profile, 5, 1);
    }
}

#[test]
fn kill_at_every_write() {
    cut_at_every_operation(CutProfile::KeepAll, 1, 1);
}

#[test]
fn power_cut_during_recovery_is_recovered_from() {
    let sizes = Sizes::small();
    let disk = new_disk();
    let done = Arc::new(Mutex::new(Done::default()));
    let mut rig = sizes.open(&disk).unwrap();
    run(&mut rig, &sizes, &done);
    let image = disk.after_power_cut(7, CutProfile::Ext4);
    let done = Arc::new(done.lock().unwrap().clone());
    let expected = check(&image.after_kill(), &sizes, &done, "reference");
    let count = Arc::new(Mutex::new(0));
    let for_image = sizes.clone();
    let (seen, counted) = (Arc::clone(&done), Arc::clone(&count));
    image.on_op(move |moment| {
        let what = format!("recovery before operation {} ({:?})", moment.index(), moment.op());
        for profile in [CutProfile::Ext4, CutProfile::Posix, CutProfile::DropAll] {
            assert_eq!(
                check(
                    &moment.after_power_cut(moment.index(), profile),
                    &for_image,
                    &seen,
                    &what
                ),
                expected,
                "{what}"
            );
        }
        *counted.lock().unwrap() += 1;
    });
    sizes.open(&image).unwrap();
    assert!(*count.lock().unwrap() > 10);
}

#[test]
fn power_cut_while_a_directory_is_made() {
    let disk = new_disk();
    disk.on_op(move |moment| {
        for profile in CutProfile::ALL {
            let image = moment.after_power_cut(moment.index(), profile);
            let mut rig =
                Rig::open(&image, &small()).unwrap_or_else(|e| panic!("{profile:?} {:?}: {e}", moment.op()));
            rig.produce(key(1, 0), 1, 1, 1);
        }
    });
    Rig::open(&disk, &small()).unwrap();
    assert!(disk.ops() > 10);
}
