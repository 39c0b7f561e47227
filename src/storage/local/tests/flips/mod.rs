//! Every bit of small directories, flipped one by one: what comes of it is what the rules say, whatever it is.
//!
//! Bits that nothing uses (padding, what earlier laps left) are drawn: [`rules::Density`].

mod bytes;
mod directories;
mod judge;
mod rules;

use std::collections::BTreeMap;

use directories::Directory;
use judge::judge;
use rules::{Density, Region, Rule};

/// Every so many flips the broker works on, and is killed and started once more.
const WORKS_ON_EVERY: u64 = 128;
/// Failures that are shown.
const SHOWN: usize = 24;

/// What a run has come to.
#[derive(Debug, Default)]
struct Tally {
    hits: BTreeMap<Rule, u64>,
    failures: BTreeMap<Rule, u64>,
    shown: Vec<String>,
    done: u64,
}

/// Flips the bits of one of `parts` equal parts of a directory.
fn flip_all(make: fn(u64) -> Directory, (part, parts): (u64, u64), seed: u64, tally: &mut Tally) {
    let directory = make(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let is_long = std::env::var_os("NARU_TEST_SECONDS").is_some();
    for region in rules::regions_of(&directory) {
        let file = directory.disk.read_file(&region.path).unwrap();
        for at in region.bytes.clone() {
            let byte = file[usize::try_from(at).unwrap()];
            for bit in bits(region.rule.density(), is_long, &mut rng) {
                if at % parts == part {
                    tally.flip(&directory, &region, (at, bit, byte), seed);
                }
            }
        }
    }
}

/// The bits of a byte that are flipped.
fn bits(density: Density, is_long: bool, rng: &mut fastrand::Rng) -> std::ops::Range<u32> {
    let one = rng.u32(0..8);
    match density {
        Density::Every => 0..8,
        Density::OneIn(many) if rng.u64(0..if is_long { many.min(16) } else { many }) > 0 => 0..0,
        Density::Byte | Density::OneIn(_) => one..one + 1,
    }
}

impl Tally {
    fn flip(&mut self, directory: &Directory, region: &Region, (at, bit, byte): (u64, u32, u8), seed: u64) {
        let place = format!(
            "seed {seed}: {} byte {at} bit {bit} ({:?})",
            region.path, region.rule
        );
        let outcome = region.outcome(at, bit, byte);
        let image = directory.disk.after_kill();
        image.flip_bit(&region.path, at, bit).unwrap();
        self.done += 1;
        *self.hits.entry(region.rule).or_default() += 1;
        let place_of_panic = judge::Place(&place);
        let judged = judge(
            directory,
            &image,
            &outcome,
            self.done.is_multiple_of(WORKS_ON_EVERY),
        );
        drop(place_of_panic);
        if let Err(why) = judged {
            *self.failures.entry(region.rule).or_default() += 1;
            if self.failures[&region.rule] <= 3 && self.shown.len() < SHOWN {
                self.shown.push(format!("{place}: {outcome:?} was due: {why}"));
            }
        }
    }
}

fn run(name: &str, make: fn(u64) -> Directory, part: (u64, u64), due: &[Rule]) {
    let mut tally = Tally::default();
    for seed in crate::testing::rounds(1) {
        flip_all(make, part, seed, &mut tally);
    }
    for rule in due {
        assert!(tally.hits.contains_key(rule), "{rule:?} was never hit");
    }
    let hits: Vec<_> = tally
        .hits
        .iter()
        .map(|(rule, n)| format!("{rule:?}={n}"))
        .collect();
    eprintln!(
        "figures flips_{name}_{}: flips={} {}",
        part.0,
        tally.done,
        hits.join(" ")
    );
    assert!(
        tally.failures.is_empty(),
        "{:?}\n{}",
        tally.failures,
        tally.shown.join("\n")
    );
}

/// What every directory has.
const EVERYWHERE: [Rule; 5] = [
    Rule::Format,
    Rule::FormatChecksum,
    Rule::Checkpoint,
    Rule::FileHeader,
    Rule::FileHeaderZeros,
];

#[test]
fn every_bit_of_a_journal_that_nothing_was_applied_of() {
    let own = [
        Rule::GroupFront,
        Rule::EmptyGroup,
        Rule::LastFront,
        Rule::LastBatch,
        Rule::Batch,
        Rule::BatchDeleted,
        Rule::BatchTrimmed,
        Rule::BatchInternal,
        Rule::GroupPadding,
        Rule::JournalUnused,
    ];
    run(
        "journal",
        directories::journal_only,
        (0, 1),
        &[&EVERYWHERE[..], &own].concat(),
    );
}

#[test]
fn every_bit_of_a_directory_that_was_stopped_in_order() {
    let own = [
        Rule::Covered,
        Rule::SegmentPutBack,
        Rule::SegmentInternalEnd,
        Rule::Index,
        Rule::JournalUnused,
    ];
    run(
        "stopped",
        directories::stopped,
        (0, 1),
        &[&EVERYWHERE[..], &own].concat(),
    );
}

/// Of [`directories::mixed`], whose bytes two tests share.
const MIXED: [Rule; 15] = [
    Rule::Covered,
    Rule::GroupFront,
    Rule::LastSeal,
    Rule::Batch,
    Rule::BatchTwice,
    Rule::SegmentBatch,
    Rule::SegmentEpoch,
    Rule::SegmentTrimmed,
    Rule::SegmentPutBack,
    Rule::SegmentInternalEnd,
    Rule::SegmentRewritten,
    Rule::SegmentPadding,
    Rule::Index,
    Rule::JournalUnused,
    Rule::Unnamed,
];

#[test]
fn every_bit_of_a_directory_whose_broker_was_killed_at_work_even_bytes() {
    run(
        "mixed",
        directories::mixed,
        (0, 2),
        &[&EVERYWHERE[..], &MIXED].concat(),
    );
}

#[test]
fn every_bit_of_a_directory_whose_broker_was_killed_at_work_odd_bytes() {
    run(
        "mixed",
        directories::mixed,
        (1, 2),
        &[&EVERYWHERE[..], &MIXED].concat(),
    );
}
