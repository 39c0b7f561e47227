//! Trims: what is below goes for good, what is above stays, whatever happens on the way.

use super::*;
use crate::disk::sim::CutProfile;
use crate::model::LogBounds;

const KEY: PartitionKey = PartitionKey {
    topic: TopicId::from_bytes([1; 16]),
    partition: PartitionId(0),
};

impl Rig {
    fn bounds(&self) -> LogBounds {
        self.store.open(KEY, CONFIG).bounds(self.durable())
    }

    /// Everything from the log start on.
    fn read_from_start(&self) -> Bytes {
        let mut next = self.bounds().log_start;
        let mut all = Vec::new();
        while next < self.bounds().high_watermark {
            let (bytes, behind) = self.read(KEY, next, 5_000).unwrap();
            assert!(behind > next);
            all.extend_from_slice(&bytes);
            next = behind;
        }
        all.into()
    }

    fn segment_files(&self) -> Vec<String> {
        let files = self.disk.files().into_iter().map(|(path, _)| path);
        files
            .filter(|path| path.starts_with("topics/") && path.ends_with(".log"))
            .collect()
    }

    fn apply(&mut self) {
        while self.inline.journal().unwrap() == Round::Worked {}
        self.inline.applier_round(true).unwrap();
    }
}

/// A partition of so many batches of one record of about 4 kB: four of them fill a segment.
fn filled(batches: u8) -> (Rig, Vec<Bytes>) {
    let mut rig = Rig::new(&small());
    let stored = (0..batches).map(|i| rig.produce(KEY, 1, 4_000, i)).collect();
    (rig, stored)
}

#[test]
fn segments_that_are_closed_are_counted_by_their_reason() {
    let (mut rig, _) = filled(9);
    rig.apply();
    assert_eq!(
        rig.store.stats().rolls,
        [("size", 2), ("age", 0), ("emptied", 0)],
        "four to a segment"
    );
    rig.clock.advance(Duration::from_secs(10));
    rig.inline.applier_round(true).unwrap();
    rig.clock.advance(Duration::from_secs(10));
    rig.inline.applier_round(true).unwrap();
    rig.produce(KEY, 1, 4_000, 9);
    rig.trim(KEY, offset(10));
    rig.apply();
    assert_eq!(
        rig.store.stats().rolls,
        [("size", 2), ("age", 1), ("emptied", 1)],
        "a segment is closed once"
    );
}

#[test]
fn a_trim_is_seen_when_it_is_durable() {
    let (mut rig, stored) = filled(8);
    rig.trim(KEY, offset(5));
    assert_eq!(rig.bounds().log_start, Offset::ZERO);
    assert_eq!(rig.read(KEY, Offset::ZERO, 1).unwrap().0, stored[0]);
    while rig.inline.journal().unwrap() == Round::Worked {}
    assert_eq!(rig.bounds().log_start, offset(5));
    let out = rig.read(KEY, offset(4), 1).unwrap_err();
    assert!(
        std::matches!(out, ReadError::OutOfRange(bounds) if bounds.log_start == offset(5)),
        "{out}"
    );
    assert_eq!(rig.read_from_start(), stored[5..].concat());
    // A step back changes nothing.
    rig.trim(KEY, offset(2));
    rig.apply();
    assert_eq!(rig.bounds().log_start, offset(5));
}

#[test]
fn files_below_the_log_start_go_and_the_rest_stays() {
    let (mut rig, stored) = filled(40);
    rig.apply();
    assert!(rig.segment_files().len() > 8);
    let size = rig.store.open(KEY, CONFIG).stats().size_bytes;
    rig.trim(KEY, offset(30));
    rig.apply();
    let stats = rig.store.open(KEY, CONFIG).stats();
    assert!(stats.size_bytes < size / 2, "{stats:?}");
    for _ in 0..2 {
        rig.inline.checkpoint().unwrap();
    }
    let after = rig.segment_files();
    assert!(after.len() <= 4, "{after:?}");
    assert_eq!(rig.read_from_start(), stored[30..].concat());
    let again = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
    assert_eq!(again.bounds().log_start, offset(30));
    assert_eq!(again.read_from_start(), stored[30..].concat());
}

#[test]
fn a_partition_that_is_emptied_goes_on_where_it_ended() {
    let (mut rig, _) = filled(10);
    rig.apply();
    rig.trim(KEY, offset(10));
    rig.apply();
    for _ in 0..3 {
        // The file gets its final length when segments are looked at.
        rig.clock.advance(Duration::from_secs(2));
        rig.inline.applier_round(true).unwrap();
        rig.inline.checkpoint().unwrap();
    }
    assert_eq!(rig.segment_files(), [""; 0], "nothing is left to store");
    let mut again = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
    let bounds = again.bounds();
    assert_eq!((bounds.log_start, bounds.log_end), (offset(10), offset(10)));
    let more = again.produce(KEY, 2, 100, 7);
    assert_eq!(
        again.read(KEY, offset(10), 5_000).unwrap(),
        (more.clone(), offset(12))
    );
    again.inline.stop().unwrap();
    let third = Rig::open(&again.disk.after_kill(), &small()).unwrap();
    assert_eq!(third.read_from_start(), more);
    assert_eq!(third.segment_files().len(), 1);
}

#[test]
fn damage_below_the_log_start_is_forgotten() {
    let (rig, stored) = filled(20);
    rig.inline.stop().unwrap();
    let disk = rig.disk.after_kill();
    let first = disk
        .files()
        .into_iter()
        .map(|(path, _)| path)
        .find(|path| path.ends_with(".log"));
    disk.flip_bit(&first.unwrap(), 2_000, 1).unwrap();
    let mut again = Rig::open(&disk, &small()).unwrap();
    again.read(KEY, Offset::ZERO, 5_000).unwrap_err();
    assert_eq!(again.store.open(KEY, CONFIG).stats().quarantined.len(), 1);
    again.trim(KEY, offset(9));
    again.apply();
    assert_eq!(again.store.open(KEY, CONFIG).stats().quarantined, []);
    assert_eq!(again.read_from_start(), stored[9..].concat());
}

#[test]
fn what_is_trimmed_counts_no_more_although_its_files_are_still_there() {
    let (mut rig, _) = filled(20);
    rig.apply();
    let log = rig.store.open(KEY, CONFIG);
    let (before, files) = (log.stats(), rig.segment_files());
    rig.trim(KEY, offset(13));
    while rig.inline.journal().unwrap() == Round::Worked {}
    // Durable, and nothing is applied yet.
    assert_eq!(rig.segment_files(), files);
    assert!(log.segments().iter().all(|segment| segment.end > offset(13)));
    assert!(log.stats().size_bytes < before.size_bytes / 2);
    assert!(log.stats().segments < before.segments);
    rig.trim(KEY, offset(20));
    while rig.inline.journal().unwrap() == Round::Worked {}
    assert_eq!(log.segments(), []);
}

#[test]
fn files_go_also_where_nobody_appends_any_more() {
    // A journal that never runs out of files asks for no checkpoint.
    let mut rig = Rig::new(&Settings {
        journal_file_bytes: 1 << 20,
        journal_first_file_bytes: 1 << 20,
        ..small()
    });
    let stored: Vec<_> = (0..20).map(|i| rig.produce(KEY, 1, 4_000, i)).collect();
    let idle_for = |rig: &mut Rig, seconds: u32, until: &dyn Fn(&Rig) -> bool| {
        for _ in 0..seconds {
            rig.clock.advance(Duration::from_secs(1));
            rig.inline.applier_round(false).unwrap();
            if until(rig) {
                return true;
            }
        }
        false
    };
    // The last segment is closed by its age, and that is in a checkpoint: nothing is left to be done.
    idle_for(&mut rig, 120, &|_| false);
    rig.trim(KEY, offset(17));
    while rig.inline.journal().unwrap() == Round::Worked {}
    let gone = idle_for(&mut rig, 120, &|rig| rig.segment_files().len() <= 2);
    assert!(gone, "{:?}", rig.segment_files());
    assert_eq!(rig.read_from_start(), stored[17..].concat());
}

/// What a run has done so far.
#[derive(Clone, Debug, Default)]
struct Done {
    stored: Vec<Bytes>,
    acknowledged: usize,
    trim_asked: usize,
    trim_acknowledged: usize,
}

/// Appends and trims in turn, with everything else going on around them. One record in a batch: offset = index.
fn run(rig: &mut Rig, done: &Mutex<Done>) {
    for i in 0..60_u8 {
        rig.clock.advance(Duration::from_millis(300));
        let batch = rig.batch(KEY, 1, 2_500 + 40 * usize::from(i), i);
        done.lock().unwrap().stored.push(batch.to_bytes());
        rig.submit(vec![(KEY, batch)], &[]);
        if i % 7 == 6 {
            // Up to the high watermark, now and then all of it.
            let end = done.lock().unwrap().acknowledged;
            let to = if i % 3 == 0 { end } else { end - end / 5 };
            let mut done = done.lock().unwrap();
            done.trim_asked = done.trim_asked.max(to);
            drop(done);
            rig.trim(KEY, offset(i64::try_from(to).unwrap()));
        }
        if i % 4 != 1 {
            while rig.inline.journal().unwrap() == Round::Worked {}
            let mut done = done.lock().unwrap();
            done.acknowledged = done.stored.len();
            done.trim_acknowledged = done.trim_asked;
        }
        if i % 3 == 0 {
            rig.inline.applier_round(true).unwrap();
        }
        if i % 5 == 0 {
            rig.inline.checkpoint().unwrap();
        }
    }
}

fn check(image: &SimDisk, done: &Done, what: &str) {
    let rig = Rig::open(image, &small()).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(rig.store.report().lost_groups, 0, "{what}");
    let bounds = rig.bounds();
    let (start, end) = (bounds.log_start.get(), bounds.log_end.get());
    let (start, end) = (usize::try_from(start).unwrap(), usize::try_from(end).unwrap());
    assert!(
        start >= done.trim_acknowledged && start <= done.trim_asked,
        "{what}: begins at {start}, {done:?}"
    );
    assert!(
        end >= done.acknowledged,
        "{what}: ends at {end} of {}",
        done.acknowledged
    );
    assert_eq!(rig.read_from_start(), done.stored[start..end].concat(), "{what}");
}

#[test]
fn the_power_may_fail_at_any_moment_of_a_trim() {
    let done = Arc::new(Mutex::new(Done::default()));
    let mut rig = Rig::new(&small());
    let seen = Arc::clone(&done);
    let mut images = 0;
    rig.disk.on_op(move |moment| {
        let done = seen.lock().unwrap().clone();
        for profile in [
            CutProfile::Ext4,
            CutProfile::Posix,
            CutProfile::DropAll,
            CutProfile::KeepAll,
        ] {
            images += 1;
            let what = format!("{profile:?} before {} {:?}", moment.index(), moment.op());
            let image = moment.after_power_cut(moment.index(), profile);
            check(&image, &done, &what);
            // And once more, from what that recovery left.
            if images % 16 == 0 {
                check(&image.after_power_cut(moment.index(), profile), &done, &what);
            }
        }
    });
    run(&mut rig, &done);
    let done = done.lock().unwrap().clone();
    assert!(done.trim_acknowledged > 40, "{}", done.trim_acknowledged);
}
