//! The scrub: rot that nobody reads is found, at the rate that was asked for, and told like any other.

use super::*;
use crate::disk::Disk;
use crate::disk::sim::{Fault, FaultKind};
use crate::storage::local::paths;
use crate::testing::rounds;

const HOUR: Duration = Duration::from_secs(3600);
const RATE: u64 = 4 << 10;

fn settings() -> Settings {
    Settings {
        scrub_interval: HOUR,
        scrub_bytes_per_second: RATE,
        ..small()
    }
}

/// Lets time pass until a pass of the scrub has come to its end; how long it took, and the most that was read in a second.
fn pass(rig: &mut Rig) -> (Duration, u64) {
    let before = rig.store.status().scrub;
    let begun = rig.clock.mono();
    let (mut second, mut in_second, mut most) = (0, 0, 0);
    loop {
        let read = rig.store.status().scrub.bytes;
        let rest = rig.inline.scrub().unwrap();
        let status = rig.store.status().scrub;
        if status.passes > before.passes {
            return (rig.clock.mono() - begun, most);
        }
        let now = rig.clock.mono().as_secs();
        in_second = if now == second { in_second } else { 0 } + (status.bytes - read);
        (second, most) = (now, most.max(in_second));
        assert!(rig.clock.mono() - begun < 100 * HOUR);
        rig.clock.advance(rest);
    }
}

fn filled(settings: &Settings) -> (Rig, Vec<Bytes>) {
    let mut rig = Rig::new(settings);
    let stored = (0..60).map(|i| {
        rig.produce(key(2, 0), 1, 200, i);
        rig.produce(key(1, 0), 2, 700, i)
    });
    let stored = stored.collect();
    while rig.inline.apply().unwrap() == Round::Worked {}
    (rig, stored)
}

fn quarantined(rig: &Rig, key: PartitionKey) -> Vec<(Offset, Offset)> {
    rig.store.open(key, CONFIG).stats().quarantined
}

fn segment_bytes(rig: &Rig) -> u64 {
    let of = |key| {
        rig.store
            .open(key, CONFIG)
            .segments()
            .iter()
            .map(|s| s.bytes)
            .sum::<u64>()
    };
    of(key(1, 0)) + of(key(2, 0))
}

#[test]
fn rot_that_nobody_reads_is_found_at_the_rate_that_was_asked_for() {
    let (mut rig, stored) = filled(&settings());
    let segments = rig.store.open(key(1, 0), CONFIG).segments();
    assert!(segments.len() > 3 && segments[1].sealed);
    let base = segments[1].base;
    rig.disk
        .flip_bit(&paths::segment(key(1, 0), base), 100, 3)
        .unwrap();
    let total = segment_bytes(&rig);
    let (took, most) = pass(&mut rig);
    let damage = [(base, base.next())];
    assert_eq!(quarantined(&rig, key(1, 0)), damage);
    assert_eq!(quarantined(&rig, key(2, 0)), []);
    let status = rig.store.status();
    assert_eq!(
        (status.scrub.bytes, status.scrub.damaged, status.crc_errors),
        (total, 1, 1)
    );
    assert_eq!(status.scrub.last_pass, Some(rig.clock.wall()));
    // Not before a first wait, and not faster than it may.
    let reading = Duration::from_secs(total / RATE);
    assert!(took >= Duration::from_secs(600) + reading, "{took:?}");
    assert!(took <= Duration::from_secs(602) + reading, "{took:?}");
    assert!(most <= RATE + u64::from(CONFIG.segment_bytes), "{most}");
    // Readers are told, and read on behind it; appends go on.
    let first = usize::try_from(base.get() / 2).unwrap();
    assert!(std::matches!(
        rig.read(key(1, 0), base, 1).unwrap_err(),
        ReadError::Corrupt { first, last } if (first, last) == damage[0]
    ));
    assert_eq!(
        rig.read(key(1, 0), offset(base.get() + 2), 1).unwrap().0,
        stored[first + 1]
    );
    rig.produce(key(1, 0), 1, 10, 1);
    // The next pass begins an interval behind the beginning of the first, and has nothing new to tell.
    let (took_again, _) = pass(&mut rig);
    assert!(took + took_again >= HOUR + Duration::from_secs(600) + reading);
    assert_eq!(rig.store.status().scrub.damaged, 1);
    println!("figures scrub: bytes={total} seconds={}", took.as_secs());
}

#[test]
fn page_cache_does_not_hide_what_the_disk_has_lost() {
    let mut rig = Rig::new(&settings());
    let stored: Vec<_> = (0..60).map(|i| rig.produce(key(1, 0), 2, 700, i)).collect();
    // The disk confirms the segments and keeps sectors of them back.
    rig.disk
        .inject(Fault::next(FaultKind::SyncLies, "topics/").times(u64::MAX));
    while rig.inline.apply().unwrap() == Round::Worked {}
    rig.inline.checkpoint().unwrap();
    assert_eq!(
        rig.read_all(key(1, 0)),
        stored.concat(),
        "nobody who reads sees it"
    );
    pass(&mut rig);
    assert!(rig.store.status().scrub.damaged > 0);
}

#[test]
fn segments_are_scrubbed_while_they_are_appended_to_rolled_and_removed() {
    let mut pieces = 0;
    for seed in rounds(15) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut rig, _) = filled(&Settings {
            scrub_interval: Duration::from_secs(1),
            scrub_bytes_per_second: 1 << 30,
            ..small()
        });
        for _ in 0..100 {
            let end = rig.store.open(key(1, 0), CONFIG).bounds(rig.durable());
            match rng.u8(0..6) {
                0 => drop(rig.produce(key(1, 0), 1, rng.usize(1..3000), 1)),
                1 => {
                    let to = rng.i64(end.log_start.get()..=end.high_watermark.get());
                    rig.trim(key(1, 0), offset(to));
                    while rig.inline.journal().unwrap() == Round::Worked {}
                }
                2 => drop(rig.inline.apply().unwrap()),
                3 => rig.inline.checkpoint().unwrap(),
                _ => {
                    let before = rig.store.status().scrub.bytes;
                    let rest = rig.inline.scrub().unwrap();
                    pieces += u64::from(rig.store.status().scrub.bytes > before);
                    rig.clock.advance(rest);
                }
            }
            let status = rig.store.status();
            assert_eq!(
                (status.crc_errors, status.scrub.index_errors),
                (0, 0),
                "seed {seed}"
            );
        }
    }
    println!("figures scrub_amid_changes: pieces={pieces}");
    assert!(pieces > 300, "{pieces}");
}

#[test]
fn damaged_index_is_told_and_costs_nothing() {
    let (mut rig, stored) = filled(&settings());
    let index = paths::index(key(1, 0), Offset::ZERO);
    rig.disk.flip_bit(&index, 40, 3).unwrap();
    pass(&mut rig);
    let status = rig.store.status();
    assert_eq!((status.scrub.index_errors, status.crc_errors), (1, 0));
    assert_eq!(rig.read_all(key(1, 0)), stored.concat());
}

#[test]
fn disk_that_gives_nothing_is_tried_again_later() {
    let (mut rig, stored) = filled(&settings());
    rig.clock.advance(HOUR);
    rig.disk
        .inject(Fault::next(FaultKind::ReadFails, "").times(u64::MAX));
    let rest = rig.inline.scrub().unwrap();
    assert_eq!(rest, HOUR);
    assert_eq!(rig.store.status().crc_errors, 0);
    rig.disk.clear_faults();
    pass(&mut rig);
    assert_eq!(rig.store.status().scrub.damaged, 0);
    assert_eq!(rig.read_all(key(1, 0)), stored.concat());
}

#[test]
fn segment_that_is_gone_is_counted_once() {
    let (mut rig, _) = filled(&settings());
    let segments = rig.store.open(key(1, 0), CONFIG).segments();
    let gone = segments[1];
    Disk::unlink(&rig.disk, &paths::segment(key(1, 0), gone.base)).unwrap();
    for _ in 0..2 {
        pass(&mut rig);
        assert_eq!(rig.store.status().scrub.damaged, 1);
        let last = offset(gone.end.get() - 1);
        assert_eq!(quarantined(&rig, key(1, 0)), [(gone.base, last)]);
    }
}
