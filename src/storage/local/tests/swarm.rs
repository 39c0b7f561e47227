//! Swarms: each seed draws what the engine is made of, what is done with it and what goes wrong on the disk, and then looks
//! whether all that was acknowledged is there and nothing else.
//!
//! Faults come from one side only, so that a loss has one meaning: those that must be survived ([`FaultClass::Survive`]),
//! where any loss is a finding, or, in [`lies`], those that must be detected, where a loss that is not told is one.
//!
//! The oracle is exact: journal groups are durable one after the other, so a recovered engine that ends at group L holds
//! every step up to L, whole, and no other. L is at least the last group that was acknowledged.

mod lies;
mod life;
mod model;
mod options;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::disk::sim::FaultClass;

use options::{Draw, Options};

/// What a seed, or many, came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) seeds: u64,
    pub(crate) recoveries: u64,
    /// How often each situation was reached.
    pub(crate) reached: BTreeMap<&'static str, u64>,
}

impl Figures {
    pub(crate) fn reach(&mut self, situation: &'static str) {
        *self.reached.entry(situation).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.recoveries += other.recoveries;
        for (situation, count) in &other.reached {
            *self.reached.entry(situation).or_default() += count;
        }
    }

    /// A swarm that never comes into a situation proves nothing about it.
    #[track_caller]
    pub(crate) fn expect_all(&self, situations: &[&str]) {
        let missed = situations.iter().filter(|s| !self.reached.contains_key(**s));
        let missed: Vec<_> = missed.collect();
        assert!(
            missed.is_empty(),
            "no seed reached {missed:?}; reached were {:#?}",
            self.reached
        );
    }

    pub(crate) fn print(&self, name: &str) {
        let reached = self
            .reached
            .iter()
            .map(|(what, count)| format!(" {}={count}", what.replace(' ', "_")));
        let reached: String = reached.collect();
        eprintln!(
            "figures {name}: seeds={} recoveries={}{reached}",
            self.seeds, self.recoveries
        );
    }
}

/// What is wrong, and how to see it again.
#[derive(Clone, Debug)]
pub(crate) struct Finding(pub(crate) String);

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A finding unless `holds`.
fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Finding> {
    if holds { Ok(()) } else { Err(Finding(what())) }
}

/// How the lives of a seed go.
type Run = fn(&Options) -> Result<Figures, Finding>;

/// Runs one seed. A panic is a finding, too.
fn engine(options: &Options, run: Run) -> Result<Figures, Finding> {
    let result = catch_unwind(AssertUnwindSafe(|| run(options))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Finding(format!("panic: {}", text.unwrap_or("without a text"))))
    });
    result.map_err(|Finding(what)| {
        Finding(format!(
            "{what}\nwith {options:#?}\nagain: NARU_TEST_SEED={} NARU_TEST_SECONDS=1 cargo test --lib swarm",
            options.seed
        ))
    })
}

/// Runs as many seeds as are due, behind those of other tests, and reports all findings together.
fn swarm(name: &str, (others, rounds): (u64, u64), draw: fn(u64) -> Options, run: Run, situations: &[&str]) {
    let mut figures = Figures::default();
    let mut findings = Vec::new();
    for seed in crate::testing::rounds_behind(others, rounds) {
        match engine(&draw(seed), run) {
            Ok(found) => figures.add(&found),
            Err(finding) => findings.push(finding.to_string()),
        }
        if findings.len() >= 3 {
            break;
        }
    }
    figures.print(name);
    assert!(findings.is_empty(), "{}", findings.join("\n\n"));
    if figures.seeds >= rounds {
        figures.expect_all(situations);
    }
}

const SURVIVED: &[&str] = &[
    "a group without acknowledgement was there",
    "a group without acknowledgement was gone",
    "a torn group was dropped",
    "a write to the journal failed",
    "a sync of the journal failed",
    "a sync of the journal found no space",
    "a write to a segment failed",
    "a sync of a segment failed",
    "a sync of a segment found no space",
    "a sync of a checkpoint failed",
    "a sync of a directory failed",
    "the disk was full for the applier",
    "the disk was full for a checkpoint",
    "the disk was full in recovery",
    "no file could be made for want of space",
    "produce was refused for want of space",
    "reading failed in recovery",
    "a sync failed in recovery",
    "recovery failed and succeeded later",
    "reading failed",
    "poisoned with steps waiting",
    "a topic was deleted",
    "a log was trimmed",
    "a step went to several partitions",
    "a large batch was appended",
    "a power cut",
    "a kill",
];

#[test]
fn no_seed_loses_what_was_acknowledged_when_the_disk_fails_openly() {
    swarm("swarm-1", (0, 200), Options::draw, life::run, SURVIVED);
}

#[test]
fn no_other_seed_loses_what_was_acknowledged_when_the_disk_fails_openly() {
    swarm("swarm-2", (200, 200), Options::draw, life::run, SURVIVED);
}

const DETECTED: &[&str] = &[
    "a write was lost",
    "a write went elsewhere",
    "a sync kept sectors back",
    "a bit flipped",
    "a sector was zeroed",
    "a sector could not be read",
    "a start was refused",
    "a state above was that of its log",
    "damage was told with its offsets",
    "all was there",
];

#[test]
fn no_seed_loses_anything_in_silence_when_the_disk_lies() {
    swarm("swarm-lies", (0, 60), lies::options, lies::run, DETECTED);
}
