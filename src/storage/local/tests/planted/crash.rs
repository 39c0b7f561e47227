//! Finder: kills and power cuts at random moments of random runs, some followed by a second crash or by one rotten
//! checkpoint file.

use super::past::{Client, Found, Past};
use super::*;
use crate::disk::sim::{CutProfile, Moment};
use crate::planted::hunt::Hunt;
use crate::storage::local::checkpoint::Pair;
use crate::storage::local::format::checkpoint::PartitionCheckpoint;
use crate::storage::local::format::identity;
use crate::storage::local::partial;
use crate::storage::local::paths;
use crate::storage::local::redo::{FrontState, front_state};

pub(super) const CRASHES: Finder = Finder {
    name: "crash images",
    unit: "images",
    budget: 5000,
    clean: 600,
    search,
};

/// Things asked for in one life.
const ACTS: usize = 70;
/// An image whose newest checkpoint may be the older one.
const ONE_ROTTEN: &str = "kill and one rotten checkpoint";
/// Of so many operations one is cut at.
const EVERY: u32 = 3;

/// Small, so that files are used again and segments end; with groups of one step each in every other life.
pub(super) fn settings(seed: u64) -> Settings {
    let mut settings = small();
    if seed.is_multiple_of(2) {
        settings.group_bytes_max = 1;
    }
    settings
}

/// A start on an image, which must succeed.
pub(super) fn open(image: &SimDisk, settings: &Settings) -> Result<Rig, OpenError> {
    let mut rig = Rig::open(image, settings)?;
    rig.config = LogConfig {
        segment_bytes: 8 << 10,
        index_interval_bytes: 64,
        ..CONFIG
    };
    Ok(rig)
}

fn search(hunt: &Hunt, first: u64) {
    let mut seed = first;
    while hunt.goes_on() {
        one_life(hunt, seed);
        seed += 1;
    }
}

fn one_life(hunt: &Hunt, seed: u64) {
    let disk = SimDisk::new(SimOptions {
        seed,
        write_back: seed.is_multiple_of(3),
        ..SimOptions::default()
    });
    let settings = settings(seed);
    let mut rig = open(&disk, &settings).unwrap();
    let client = Client::new(&rig, Past::default());
    let mut rng = fastrand::Rng::with_seed(seed);
    let (asks, hunts, mut dice) = (client.clone(), hunt.clone(), rng.fork());
    disk.on_op(move |moment| {
        if !hunts.goes_on() {
            return;
        }
        hunts.watch(|| asks.look());
        // Callers do not wait for the disk.
        if dice.u32(0..8) == 0 {
            asks.ask(&mut dice);
        }
        if dice.u32(0..EVERY) == 0 {
            hunts.attempt(|| try_image(moment, &asks, &settings, &mut dice));
        }
    });
    hunt.watch(|| run(&mut rig, &client, &mut rng, ACTS, || hunt.goes_on()));
}

/// Does what callers ask, and what the engine's threads do meanwhile.
pub(super) fn run(
    rig: &mut Rig,
    client: &Client,
    rng: &mut fastrand::Rng,
    acts: usize,
    goes_on: impl Fn() -> bool,
) {
    for _ in 0..acts {
        if !goes_on() {
            return;
        }
        let ms = if rng.u32(0..20) == 0 {
            10_000
        } else {
            rng.u64(0..900)
        };
        rig.clock.advance(Duration::from_millis(ms));
        while !client.ask(rng) {
            rig.inline.make_journal_file().unwrap();
            while rig.inline.journal().unwrap() == Round::Worked {}
            rig.inline.applier_round(true).unwrap();
        }
        if rng.u32(0..4) > 0 {
            while rig.inline.journal().unwrap() == Round::Worked {}
        }
        if rng.u32(0..5) == 0 {
            rig.inline.seal();
        }
        if rng.u32(0..3) == 0 {
            rig.inline.applier_round(rng.bool()).unwrap();
        }
        if rng.u32(0..8) == 0 {
            rig.inline.checkpoint().unwrap();
        }
        if rng.u32(0..16) == 0 {
            rig.inline.make_journal_file().unwrap();
        }
    }
}

fn try_image(moment: &Moment<'_>, client: &Client, settings: &Settings, rng: &mut fastrand::Rng) {
    let durable = client.durable();
    let past = client.past.lock().unwrap().clone();
    let (image, how) = image_of(moment, rng);
    let what = format!("{how} before operation {} ({:?})", moment.index(), name(moment));
    if how != ONE_ROTTEN {
        check_named_files(&image, &what);
    }
    let rig = open(&image, settings).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = past.check(&rig, durable);
    let after = past.after(&found);
    match rng.u32(0..4) {
        0 => go_on(rig, &image, &after, settings, rng),
        1 | 2 => crash_again(&image, &after, &found, settings, rng),
        _ => {}
    }
}

fn name(moment: &Moment<'_>) -> String {
    // The bytes of a write say nothing here.
    format!("{:?}", moment.op()).chars().take(60).collect()
}

fn image_of(moment: &Moment<'_>, rng: &mut fastrand::Rng) -> (SimDisk, &'static str) {
    let seed = rng.u64(..);
    match rng.u32(0..8) {
        0 => (moment.after_kill(), "kill"),
        1 => (moment.after_kill_midway(seed), "kill midway"),
        2 => {
            let image = moment.after_kill();
            rot_one_checkpoint(&image, rng);
            (image, ONE_ROTTEN)
        }
        3 => (
            moment.after_power_cut(seed, CutProfile::Posix),
            "power cut, names lost",
        ),
        4 => (
            moment.after_power_cut(seed, CutProfile::DropAll),
            "power cut, all lost",
        ),
        5 => (
            moment.after_power_cut(seed, CutProfile::Nasty),
            "power cut, garbage",
        ),
        _ => (moment.after_power_cut(seed, CutProfile::Ext4), "power cut"),
    }
}

/// What the newest checkpoint names is there, whether a start needs it or knows a way around.
fn check_named_files(image: &SimDisk, what: &str) {
    let format = image.read_file(paths::FORMAT).unwrap();
    let pair = Pair::read(image, identity::decode(&format).unwrap()).unwrap();
    let (_, newest) = pair.newest().expect("one record is whole");
    for partition in &newest.partitions {
        // Not with the help of the copy that the record has of the last block.
        let named = PartitionCheckpoint {
            partial: None,
            ..partition.clone()
        };
        for segment in &named.segments {
            let (key, base) = (named.key, segment.base);
            let state = front_state(image, &named, segment).unwrap();
            assert_eq!(
                state,
                FrontState::Whole,
                "{what}: the checkpoint names segment {base} of {key}"
            );
        }
    }
}

/// Of every partition the last block is there as the newest checkpoint has its checksum, without the copy that it has as well.
pub(super) fn check_last_blocks(image: &SimDisk, what: &str) {
    let format = image.read_file(paths::FORMAT).unwrap();
    let pair = Pair::read(image, identity::decode(&format).unwrap()).unwrap();
    let (_, newest) = pair.newest().expect("one record is whole");
    for partition in &newest.partitions {
        let block = partial::in_file(image, partition).unwrap();
        assert!(
            block.is_some(),
            "{what}: the last block of {} is damaged",
            partition.key
        );
    }
}

/// Damages one of two records.
fn rot_one_checkpoint(image: &SimDisk, rng: &mut fastrand::Rng) {
    let files = image.files();
    let there = |name: &&str| files.iter().any(|(path, bytes)| path == name && *bytes > 0);
    if ["checkpoint.0", "checkpoint.1"].iter().all(there) {
        let rotten = if rng.bool() {
            "checkpoint.0"
        } else {
            "checkpoint.1"
        };
        image.flip_bit(rotten, 40 + rng.u64(0..8), rng.u32(0..8)).unwrap();
    }
}

/// The power fails soon after the start: what the broker has told by then must still be there.
fn crash_again(image: &SimDisk, after: &Past, found: &Found, settings: &Settings, rng: &mut fastrand::Rng) {
    let profile = if rng.bool() {
        CutProfile::DropAll
    } else {
        CutProfile::Ext4
    };
    let second = image.after_power_cut(rng.u64(..), profile);
    let rig = open(&second, settings).unwrap_or_else(|error| panic!("{profile:?} after a start: {error}"));
    assert_eq!(
        after.check(&rig, Lsn::ZERO),
        *found,
        "a second recovery finds something else"
    );
}

/// Works on, stops in order, and is there once more.
fn go_on(mut rig: Rig, image: &SimDisk, after: &Past, settings: &Settings, rng: &mut fastrand::Rng) {
    let client = Client::new(&rig, after.clone());
    run(&mut rig, &client, rng, 8, || true);
    rig.inline.stop().unwrap();
    let durable = client.durable();
    let again = open(&image.after_power_cut(0, CutProfile::DropAll), settings).unwrap();
    assert!(again.store.report().clean, "the stop was in order");
    client.past.lock().unwrap().check(&again, durable);
}
