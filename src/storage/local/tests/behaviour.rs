//! What the engine does while nothing is wrong, and when the disk says no.

use super::*;
use crate::disk::Disk as _;
use crate::disk::sim::{CutProfile, Fault, FaultKind};

#[test]
fn nothing_is_visible_before_it_is_durable_and_all_of_a_step_at_once() {
    let mut rig = Rig::new(&small());
    let (a, b) = (key(1, 0), key(2, 3));
    let step = vec![(a, rig.batch(a, 3, 100, 1)), (b, rig.batch(b, 2, 100, 2))];
    let lsn = rig.submit(step, &[]);
    assert!(rig.durable() < lsn);
    for k in [a, b] {
        let bounds = rig.store.open(k, CONFIG).bounds(rig.durable());
        assert_eq!(bounds.high_watermark, Offset::ZERO);
        assert!(bounds.log_end > Offset::ZERO);
        assert_eq!(rig.read(k, Offset::ZERO, 1000).unwrap().0.len(), 0);
    }
    rig.inline.journal().unwrap();
    assert_eq!(rig.durable(), lsn);
    assert_eq!(rig.read(a, Offset::ZERO, 1000).unwrap().1, offset(3));
    assert_eq!(rig.read(b, Offset::ZERO, 1000).unwrap().1, offset(2));
    // A reader that loaded the state before sees neither.
    let before = ReadSpec {
        from: Offset::ZERO,
        durable: Lsn(lsn.0 - 1),
        max_bytes: 1000,
        min_one: true,
    };
    assert_eq!(
        rig.store
            .open(a, CONFIG)
            .try_read(&before)
            .unwrap()
            .unwrap()
            .bytes,
        0
    );
}

#[test]
fn journal_files_that_became_too_short_are_replaced_at_the_next_start() {
    let disk = new_disk();
    let k = key(1, 0);
    let files = |disk: &SimDisk| {
        let mut names: Vec<_> = disk
            .list("journal")
            .unwrap()
            .into_iter()
            .map(|e| e.name)
            .collect();
        names.sort();
        names
    };
    let mut stored = Vec::new();
    {
        let mut rig = Rig::open(&disk, &small()).unwrap();
        for fill in 0..40 {
            stored.extend_from_slice(&rig.produce(k, 1, 10_000, fill));
        }
    }
    let before = files(&disk);
    assert_eq!(before.len(), 3);
    let larger = Settings {
        journal_file_bytes: 1 << 20,
        journal_first_file_bytes: 1 << 20,
        memory_tail_bytes: 4 << 20,
        ..small()
    };
    let mut rig = Rig::open(&disk, &larger).unwrap();
    assert!(files(&disk).iter().all(|name| !before.contains(name)));
    // Larger than any of the old files.
    stored.extend_from_slice(&rig.produce(k, 1, 200_000, 1));
    drop(rig);
    // Smaller files are wanted again: larger ones hold everything that smaller ones do.
    let rig = Rig::open(&disk, &small()).unwrap();
    assert_eq!(rig.read_all(k), stored);
}

#[test]
fn many_submissions_become_one_group() {
    let mut rig = Rig::new(&small());
    let submit = |i| {
        let batch = rig.batch(key(1, i), 1, 50, 1);
        rig.submit(vec![(key(1, i), batch)], &[])
    };
    let lsns: Vec<_> = (0..10).map(submit).collect();
    assert!(lsns.iter().all(|l| *l == lsns[0]));
    let ops = rig.disk.ops();
    assert_eq!(rig.inline.journal().unwrap(), Round::Worked);
    assert_eq!(rig.disk.ops() - ops, 2, "one write and one sync");
    assert_eq!(rig.inline.journal().unwrap(), Round::Idle);
}

#[test]
fn what_wakes_the_applier_is_enough_for_it_to_apply() {
    let settings = Settings {
        journal_file_bytes: 1 << 20,
        journal_first_file_bytes: 1 << 20,
        apply_bytes: 64 << 10,
        apply_after: Duration::from_secs(3_600),
        ..small()
    };
    let mut rig = Rig::new(&settings);
    // Sixteen small batches in one group: more than twice as many bytes admitted as the group has.
    for i in 0..16 {
        let batch = rig.batch(key(1, i), 1, 50, 1);
        rig.submit(vec![(key(1, i), batch)], &[]);
    }
    assert_eq!(rig.inline.journal().unwrap(), Round::Worked);
    assert!(rig.store.engine.budget.admitted() >= settings.apply_bytes);
    rig.inline.applier_round(false).unwrap();
    assert_eq!(rig.store.engine.budget.admitted(), 0);
}

#[test]
fn large_batches_go_to_their_segment_from_where_they_are_in_memory() {
    let settings = Settings {
        journal_file_bytes: 4 << 20,
        journal_first_file_bytes: 4 << 20,
        memory_tail_bytes: 16 << 20,
        ..small()
    };
    let config = LogConfig {
        segment_bytes: 1 << 20,
        ..CONFIG
    };
    let mut rig = Rig::new(&settings);
    let (a, b) = (key(1, 0), key(1, 1));
    for k in [a, b] {
        rig.store.open(k, config);
    }
    let mut expected = BTreeMap::from([(a, Vec::new()), (b, Vec::new())]);
    // Sizes with every kind of beginning and end inside of a block; several batches in a group; small ones between.
    for (round, bytes) in [
        (0, 70_001),
        (1, 4_096),
        (2, 200_000),
        (3, 9),
        (4, 131_072),
        (5, 300_000),
        (6, 65_475),
    ] {
        let step = [a, b].map(|k| (k, rig.batch(k, 2, bytes, round)));
        for (k, batch) in &step {
            expected.get_mut(k).unwrap().extend_from_slice(&batch.to_bytes());
        }
        rig.submit(step.into(), &[]);
        if round % 2 == 1 {
            while rig.inline.journal().unwrap() == Round::Worked {}
        }
    }
    while rig.inline.journal().unwrap() == Round::Worked {}
    for (k, bytes) in &expected {
        assert_eq!(rig.read_all(*k), bytes, "from memory");
    }
    let above = rig.above.lock().unwrap().clone();
    // From the journal alone, and by the applier.
    let killed = Rig::open(&rig.disk.after_kill(), &settings).unwrap();
    assert_eq!(*killed.above.lock().unwrap(), above);
    let written = rig.disk.ops();
    while rig.inline.apply().unwrap() == Round::Worked {}
    assert!(rig.disk.ops() > written);
    rig.store.engine.tail().evict(rig.durable(), 0);
    for (k, bytes) in &expected {
        assert_eq!(killed.read_all(*k), bytes, "after a replay");
        assert_eq!(rig.read_all(*k), bytes, "from segments");
        assert!(rig.store.open(*k, config).stats().segments > 1);
    }
}

#[test]
fn large_batches_of_one_partition_in_one_step_follow_each_other() {
    let settings = Settings {
        journal_file_bytes: 4 << 20,
        journal_first_file_bytes: 4 << 20,
        memory_tail_bytes: 16 << 20,
        ..small()
    };
    let mut rig = Rig::new(&settings);
    rig.config.segment_bytes = 1 << 20;
    let k = key(1, 0);
    // The second and the third do not begin where the segment ends now, from which their place in a block was foreseen.
    let mut batches = [0, 1, 2].map(|fill| rig.batch(k, 1, 70_001, fill));
    for (n, batch) in batches.iter_mut().enumerate() {
        batch.stamp(offset(i64::try_from(n).unwrap()), rig.store.leader_epoch());
    }
    let expected = batches.each_ref().map(SealedBatch::to_bytes).concat();
    rig.submit(batches.map(|batch| (k, batch)).into(), &[]);
    while rig.inline.journal().unwrap() == Round::Worked {}
    assert_eq!(rig.read_all(k), expected, "from memory");
    let killed = Rig::open(&rig.disk.after_kill(), &settings).unwrap();
    assert_eq!(killed.read_all(k), expected, "after a replay");
    while rig.inline.apply().unwrap() == Round::Worked {}
    rig.store.engine.tail().evict(rig.durable(), 0);
    assert_eq!(rig.read_all(k), expected, "from the segment");
}

#[test]
fn records_are_the_same_from_memory_from_segments_and_after_a_restart() {
    let mut rig = Rig::new(&small());
    let (a, b) = (key(1, 0), key(1, 1));
    let mut expected = BTreeMap::from([(a, Vec::new()), (b, Vec::new())]);
    for round in 0..40_u8 {
        for k in [a, b] {
            let stored = rig.produce(k, 3, 300, round);
            expected.get_mut(&k).unwrap().extend_from_slice(&stored);
        }
        if round % 7 == 0 {
            while rig.inline.apply().unwrap() == Round::Worked {}
        }
    }
    for (k, bytes) in &expected {
        assert_eq!(rig.read_all(*k), bytes, "from memory");
    }
    while rig.inline.apply().unwrap() == Round::Worked {}
    rig.store.engine.tail().evict(rig.durable(), 0);
    for (k, bytes) in &expected {
        assert_eq!(rig.read_all(*k), bytes, "from segments");
        assert!(rig.store.open(*k, CONFIG).stats().segments > 1);
    }
    let above = rig.above.lock().unwrap().clone();
    rig.inline.stop().unwrap();
    let again = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
    assert_eq!(
        again.store.report().groups,
        0,
        "a clean stop leaves nothing to replay"
    );
    assert!(again.store.report().clean);
    assert_eq!(*again.above.lock().unwrap(), above);
    for (k, bytes) in &expected {
        assert_eq!(again.read_all(*k), bytes, "after a restart");
    }
}

#[test]
fn every_start_has_a_higher_leader_epoch() {
    let rig = Rig::new(&small());
    let again = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
    let third = Rig::open(&again.disk.after_kill(), &small()).unwrap();
    assert!(rig.store.leader_epoch() < again.store.leader_epoch());
    assert!(again.store.leader_epoch() < third.store.leader_epoch());
}

#[test]
fn journal_goes_round_many_times() {
    let mut rig = Rig::new(&small());
    let mut expected = Vec::new();
    for i in 0..200 {
        expected.extend_from_slice(&rig.produce(key(1, 0), 2, 900, i));
        if i % 5 == 0 {
            rig.inline.applier_round(true).unwrap();
        }
    }
    let journal: u64 = rig
        .disk
        .files()
        .iter()
        .filter(|(p, _)| p.starts_with("journal/"))
        .map(|(_, len)| len)
        .sum();
    assert!(journal <= 3 * (64 << 10), "the ring does not grow: {journal}");
    assert_eq!(rig.read_all(key(1, 0)), expected);
    let again = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
    assert_eq!(again.read_all(key(1, 0)), expected);
}

#[test]
fn failed_sync_poisons_for_ever() {
    let mut rig = Rig::new(&small());
    let mut failed = rig.store.failed();
    rig.produce(key(1, 0), 1, 10, 1);
    let durable = rig.durable();
    let woken = failed.has_changed().unwrap();
    assert!(!woken, "a group wakes nobody who waits for the end");
    rig.disk.inject(Fault::next(FaultKind::SyncFails, "journal/"));
    let batch = rig.batch(key(1, 0), 1, 10, 2);
    rig.submit(vec![(key(1, 0), batch)], &[]);
    rig.inline.journal().unwrap();
    let state = *rig.store.durable().borrow();
    assert!(state.poisoned);
    assert_eq!(state.lsn, durable, "what was not synced is never called durable");
    assert!(failed.has_changed().unwrap());
    assert!(*failed.borrow_and_update());
    let step = Step {
        appends: smallvec::SmallVec::new(),
        trims: smallvec::SmallVec::new(),
        deletions: smallvec::SmallVec::new(),
    };
    let permit = rig.store.permit(10, Class::Produce).unwrap();
    assert_eq!(
        rig.store.submit(permit, step),
        Err(crate::storage::SubmitError::Poisoned)
    );
    assert!(rig.store.status().failure.is_some_and(|f| f.contains("sync")));
    // The next life decides by what is on the disk, and what was acknowledged is there.
    let again = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
    assert!(
        again
            .store
            .open(key(1, 0), CONFIG)
            .bounds(again.durable())
            .high_watermark
            >= offset(1)
    );
}

#[test]
fn full_disk_refuses_produce_before_anything_is_written_and_recovers_by_itself() {
    let settings = Settings {
        reserve_bytes: 64 << 10,
        ..small()
    };
    let mut rig = Rig::new(&settings);
    rig.inline.make_journal_file().unwrap();
    rig.inline.make_journal_file().unwrap();
    rig.disk.set_free_bytes(100 << 10);
    let mut accepted = Vec::new();
    rig.inline.applier_round(false).unwrap();
    let refused = loop {
        match rig.store.permit(2000, Class::Produce) {
            Ok(permit) => drop(permit),
            Err(e) => break e,
        }
        accepted.extend_from_slice(&rig.produce(key(1, 0), 1, 1900, 1));
        rig.inline.applier_round(true).unwrap();
        assert!(accepted.len() < 1 << 20, "the disk was to fill up");
    };
    assert!(
        std::matches!(refused, Backpressure::StorageFull { .. }),
        "{refused:?}"
    );
    assert_eq!(
        rig.read_all(key(1, 0)),
        accepted,
        "reads go on, and nothing half-written is there"
    );
    rig.disk.set_free_bytes(1 << 20);
    rig.inline.applier_round(false).unwrap();
    assert!(
        rig.store.permit(2000, Class::Produce).is_ok(),
        "it recovers by itself"
    );
}

#[test]
fn full_disk_while_applying_loses_nothing() {
    let mut rig = Rig::new(&small());
    let mut expected = Vec::new();
    for i in 0..10 {
        expected.extend_from_slice(&rig.produce(key(1, 0), 2, 900, i));
    }
    rig.disk
        .inject(Fault::next(FaultKind::NoSpace, "topics/").after(1).times(2));
    let full = rig.inline.apply().unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(rig.read_all(key(1, 0)), expected);
    while rig.inline.apply().is_err() {}
    while rig.inline.apply().unwrap() == Round::Worked {}
    rig.store.engine.tail().evict(rig.durable(), 0);
    assert_eq!(rig.read_all(key(1, 0)), expected, "repeating wrote nothing twice");
}

/// The system forgets what a sync could not write, for want of space too: a second one would succeed, and a checkpoint
/// would then stand on bytes that are nowhere.
#[test]
fn sync_that_finds_the_disk_full_is_not_tried_again() {
    for prefix in ["topics/", "checkpoint"] {
        let mut rig = Rig::new(&small());
        let expected = rig.produce(key(1, 0), 2, 900, 1);
        rig.inline.apply().unwrap();
        rig.disk.inject(Fault::next(FaultKind::SyncNoSpace, prefix));
        let failed = rig.inline.checkpoint().unwrap_err();
        assert_ne!(
            failed.kind(),
            std::io::ErrorKind::StorageFull,
            "{prefix}: {failed}"
        );
        let again = Rig::open(&rig.disk.after_power_cut(1, CutProfile::DropAll), &small()).unwrap();
        assert_eq!(again.read_all(key(1, 0)), expected);
    }
}

/// A directory whose other journal files were not made yet: recovery begins the one that there is anew, and a crash in the
/// middle of that must not leave the ring without any header.
#[test]
fn power_cut_while_the_only_journal_file_begins_anew_is_recovered_from() {
    let mut rig = Rig::new(&small());
    let stored = rig.produce(key(1, 0), 2, 900, 1);
    let image = rig.disk.after_kill();
    let recoveries = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&recoveries);
    image.on_op(move |moment| {
        for seed in 0..10 {
            let cut = moment.after_power_cut(seed, CutProfile::Ext4);
            let again = Rig::open(&cut, &small());
            let again = again.unwrap_or_else(|e| panic!("before {:?}, seed {seed}: {e}", moment.op()));
            assert_eq!(again.read_all(key(1, 0)), stored, "before {:?}", moment.op());
            *counted.lock().unwrap() += 1;
        }
    });
    Rig::open(&image, &small()).unwrap();
    assert!(*recoveries.lock().unwrap() > 100);
}

#[test]
fn files_of_a_deleted_topic_go_when_there_is_space_to_move_them() {
    let mut rig = Rig::new(&small());
    rig.produce(key(1, 0), 3, 100, 1);
    rig.inline.applier_round(true).unwrap();
    rig.submit(vec![], &[key(1, 0).topic]);
    rig.inline.journal().unwrap();
    rig.disk.inject(Fault::next(FaultKind::ChangeNoSpace, "topics/"));
    let full = rig.inline.applier_round(true).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    for _ in 0..10 {
        rig.inline.applier_round(true).unwrap();
    }
    let name = key(1, 0).topic.to_string();
    let left: Vec<_> = rig
        .disk
        .files()
        .into_iter()
        .filter(|(path, _)| path.contains(&name))
        .collect();
    assert_eq!(left, []);
}

#[test]
fn deleted_topic_is_gone_with_its_files_and_stays_gone() {
    let mut rig = Rig::new(&small());
    rig.produce(key(1, 0), 3, 100, 1);
    let kept = rig.produce(key(2, 0), 3, 100, 2);
    rig.inline.applier_round(true).unwrap();
    let log = rig.store.open(key(1, 0), CONFIG);
    rig.submit(vec![], &[key(1, 0).topic]);
    let spec = ReadSpec {
        from: Offset::ZERO,
        durable: rig.durable(),
        max_bytes: 100,
        min_one: true,
    };
    assert_eq!(log.try_read(&spec).unwrap().unwrap_err(), ReadError::NotOwner);
    rig.inline.journal().unwrap();
    for _ in 0..10 {
        rig.inline.applier_round(true).unwrap();
    }
    let name = key(1, 0).topic.to_string();
    assert!(
        rig.disk.files().iter().all(|(path, _)| !path.contains(&name)),
        "{:?}",
        rig.disk.files()
    );
    let again = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
    assert_eq!(again.read_all(key(2, 0)), kept);
    assert!(!again.store.engine.logs().contains_key(&key(1, 0)));
}

#[test]
fn foreign_directory_is_refused_and_left_alone() {
    let disk = new_disk();
    disk.write_file("holiday.jpg", b"jpeg").unwrap();
    let refused = Rig::open(&disk, &small()).err().unwrap();
    assert!(
        std::matches!(&refused, OpenError::NotOurs(found) if found == "holiday.jpg"),
        "{refused}"
    );
    assert_eq!(disk.files(), [("holiday.jpg".to_owned(), 4)]);
}

#[test]
fn newer_format_is_refused() {
    let rig = Rig::new(&small());
    let text = crate::storage::local::format::identity::encode_as(2, rig.store.directory_id());
    rig.disk.write_file("FORMAT", text.as_bytes()).unwrap();
    let refused = Rig::open(&rig.disk, &small()).err().unwrap();
    assert!(refused.to_string().contains("newer"), "{refused}");
}

#[test]
fn waiters_hear_of_appends_and_of_the_end() {
    let mut rig = Rig::new(&small());
    let log = rig.store.open(key(1, 0), CONFIG);
    let notify = Arc::new(tokio::sync::Notify::new());
    log.notify_on_append(Arc::downgrade(&notify));
    let woken = |notify: &Arc<tokio::sync::Notify>| {
        let mut wait = std::pin::pin!(notify.notified());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        wait.as_mut().poll(&mut context).is_ready()
    };
    rig.produce(key(2, 0), 1, 1, 1);
    assert!(!woken(&notify), "another partition");
    rig.produce(key(1, 0), 1, 1, 1);
    assert!(woken(&notify));
    rig.produce(key(1, 0), 1, 1, 1);
    assert!(!woken(&notify), "a waiter is told once");
    log.notify_on_append(Arc::downgrade(&notify));
    rig.submit(vec![], &[key(1, 0).topic]);
    assert!(woken(&notify), "the partition is gone");
}

#[test]
fn poison_is_not_taken_back_by_a_group_that_was_being_written() {
    let mut rig = Rig::new(&small());
    let batch = rig.batch(key(1, 0), 1, 10, 1);
    rig.submit(vec![(key(1, 0), batch)], &[]);
    let store = Arc::downgrade(&rig.store);
    rig.disk.on_op(move |_| {
        if let Some(store) = store.upgrade() {
            store
                .engine
                .poison("the applier failed", &std::io::Error::other("EIO"));
        }
    });
    rig.inline.journal().unwrap();
    assert!(rig.store.durable().borrow().poisoned);
}

#[test]
fn group_of_the_smallest_batches_fits_the_smallest_journal_file() {
    let mut rig = Rig::new(&small());
    let mut expected = Vec::new();
    for _ in 0..3 {
        for _ in 0..10 {
            // Six steps of many batches each go into one group by their bytes; the table comes on top.
            let mut step = Vec::new();
            for partition in 0..50 {
                step.push((key(1, partition), rig.batch(key(1, partition), 1, 0, 0)));
            }
            expected.extend_from_slice(&step[0].1.to_bytes());
            rig.submit(step, &[]);
        }
        while rig.inline.journal().unwrap() == Round::Worked {}
    }
    assert_eq!(rig.read_all(key(1, 0)), expected);
}

#[test]
fn what_an_answer_has_no_room_for_is_not_read_from_the_disk() {
    const BATCH_BYTES: usize = 600 << 10;
    let mut rig = Rig::new(&Settings {
        journal_file_bytes: 4 << 20,
        journal_first_file_bytes: 4 << 20,
        memory_tail_bytes: 16 << 20,
        ..small()
    });
    let key = key(1, 0);
    rig.config.segment_bytes = 4 << 20;
    let first = rig.produce(key, 1, BATCH_BYTES, 1);
    let second = rig.produce(key, 1, BATCH_BYTES, 2);
    let log = rig.store.open(key, rig.config);
    while rig.inline.apply().unwrap() == Round::Worked {}
    let (path, _) = rig
        .disk
        .files()
        .into_iter()
        .find(|(p, len)| p.ends_with(".log") && *len >= (first.len() + second.len()) as u64)
        .unwrap();
    // Whoever reads on behind the first piece is told.
    let second_read_fails = || rig.disk.inject(Fault::next(FaultKind::ReadFails, &path).after(1));
    second_read_fails();
    let spec = |max_bytes: usize| ReadSpec {
        from: Offset::ZERO,
        durable: rig.durable(),
        max_bytes: u32::try_from(max_bytes).unwrap(),
        min_one: true,
    };
    let out = log.read_segments(&spec(first.len() + 100)).unwrap();
    assert_eq!((out.extents.concat(), out.next), (first.to_vec(), offset(1)));
    assert_eq!(rig.store.status().read_errors.healed, 0);
    rig.disk.clear_faults();
    second_read_fails();
    let both = log.read_segments(&spec(first.len() + second.len())).unwrap();
    assert_eq!(both.next, offset(2));
    assert_eq!(rig.store.status().read_errors.healed, 1);
}
