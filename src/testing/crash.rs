//! The crash explorer: runs something on a simulated disk, and before each operation of that disk takes images of what the
//! next process would find, recovers each, and has it compared with what was asked and answered by then.
//!
//! What is run, and what may be found, is its [`Subject`]'s business. Which cuts there are, how many images are taken, and
//! which kinds of work must have been cut is in the [`Plan`]. The short form of all plans together recovers at least
//! [`IMAGES_MIN`] times; the last of them to end says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::sim::{CutProfile, Moment, Op, Rng, SimDisk, SimOptions};

/// Recoveries that the short forms of all plans come to, at least.
pub(crate) const IMAGES_MIN: u64 = 18_000;

/// What the work was for that is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Records to one partition.
    Append,
    /// Records to several partitions, or records and a commit, that are there together or not at all.
    Step,
    /// Groups commit offsets.
    Commit,
    /// Members come and go, and partitions move between them.
    Rebalance,
    /// A segment begins.
    Roll,
    /// A checkpoint record is written.
    Checkpoint,
    /// A journal file is used again.
    Recycling,
    /// A topic is made.
    Create,
    /// A topic is deleted.
    Delete,
    /// The first records of a partition go.
    Trim,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The process is killed between two operations.
    Kill,
    /// The process is killed in the middle of a write; there are no other such images.
    KillMidway,
    /// The power fails.
    Power(CutProfile),
}

impl Cut {
    fn image(self, moment: &Moment<'_>, seed: u64) -> Option<SimDisk> {
        match self {
            Self::Kill => Some(moment.after_kill()),
            Self::KillMidway => {
                let writes = matches!(moment.op(), Op::Write { .. });
                writes.then(|| moment.after_kill_midway(seed))
            }
            Self::Power(profile) => Some(moment.after_power_cut(seed, profile)),
        }
    }
}

/// What a run is cut by, and how often.
#[derive(Debug)]
pub(crate) struct Plan {
    /// For the report.
    pub(crate) name: &'static str,
    /// The cuts, and of each how many images with seeds of their own.
    pub(crate) cuts: &'static [(Cut, u64)],
    /// One of so many operations is cut.
    pub(crate) every: u64,
    /// One of so many images is recovered twice, and cut in its first recovery.
    pub(crate) again_every: u64,
    /// Lives in the short form, each with a seed of its own.
    pub(crate) lives: u64,
    /// Recoveries that the short form comes to, at least.
    pub(crate) recoveries_min: u64,
    /// Work that must have been cut.
    pub(crate) kinds: &'static [Kind],
}

/// What is run and cut.
pub(crate) trait Subject {
    /// Who compares.
    type Judge: Judge;

    /// Somebody who knows at any time what was asked and answered so far. Asked in the middle of operations of the disk:
    /// what it locks must not be locked then.
    fn judge(&self) -> Self::Judge;

    /// Does everything, and says what it is for.
    fn run(&mut self, doing: &Doing);
}

/// Compares images with what was asked and answered.
pub(crate) trait Judge: Send + 'static {
    /// What a recovery finds.
    type Found: PartialEq + Debug;

    /// Recovers an image, and panics if it does not hold everything acknowledged, or anything that was not asked. May go on
    /// from there.
    fn check(&self, image: &SimDisk) -> Self::Found;

    /// Recovers an image and leaves it there.
    fn recover(&self, image: &SimDisk);
}

/// The handle with which a run says what it is doing.
#[derive(Clone, Debug)]
pub(crate) struct Doing(Arc<Mutex<Kind>>);

impl Default for Doing {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Kind::Create)))
    }
}

impl Doing {
    /// What comes next is for this.
    pub(crate) fn set(&self, kind: Kind) {
        *lock(&self.0) = kind;
    }
}

/// What a plan has come to.
#[derive(Clone, Debug, Default)]
struct Tally {
    operations: u64,
    recoveries: u64,
    again: u64,
    /// Images by what the work was for.
    kinds: BTreeMap<Kind, u64>,
}

/// What every plan has come to that has ended in this process.
static ENDED: Mutex<BTreeMap<&str, Tally>> = Mutex::new(BTreeMap::new());

/// Runs a plan: in its short form, or for as long as [`rounds`](super::rounds) says.
pub(crate) fn explore<S: Subject>(plan: &'static Plan, begin: impl Fn(&SimDisk, u64) -> S) {
    let tally = Arc::new(Mutex::new(Tally::default()));
    for seed in super::rounds(plan.lives) {
        let disk = SimDisk::new(SimOptions {
            seed,
            write_back: seed.is_multiple_of(2),
            ..SimOptions::default()
        });
        let mut subject = begin(&disk, seed);
        let doing = Doing::default();
        let mut explorer = Explorer {
            plan,
            judge: subject.judge(),
            doing: doing.clone(),
            journals: BTreeSet::new(),
            rng: Rng::new(seed),
            tally: Arc::clone(&tally),
        };
        disk.on_op(move |moment| explorer.cut(moment));
        subject.run(&doing);
        // The hook holds what holds the disk.
        disk.on_op(|_| {});
    }
    let tally = lock(&tally).clone();
    end(plan, tally);
}

struct Explorer<J> {
    plan: &'static Plan,
    judge: J,
    doing: Doing,
    /// Journal files that have been used.
    journals: BTreeSet<String>,
    rng: Rng,
    tally: Arc<Mutex<Tally>>,
}

impl<J: Judge> Explorer<J> {
    fn cut(&mut self, moment: &Moment<'_>) {
        let kinds = self.kinds(moment.op());
        lock(&self.tally).operations += 1;
        if !moment.index().is_multiple_of(self.plan.every) {
            return;
        }
        for (cut, seeds) in self.plan.cuts {
            for _ in 0..*seeds {
                let seed = self.rng.next();
                if let Some(image) = cut.image(moment, seed) {
                    let _context = Context(*cut, seed, moment);
                    self.recover(&image);
                    let mut tally = lock(&self.tally);
                    for kind in &kinds {
                        *tally.kinds.entry(*kind).or_default() += 1;
                    }
                }
            }
        }
    }

    fn recover(&mut self, image: &SimDisk) {
        let twice = self.rng.below(self.plan.again_every) == 0;
        let spare = twice.then(|| image.after_kill());
        let found = self.judge.check(image);
        lock(&self.tally).recoveries += 1;
        if let Some(spare) = spare {
            self.recover_again(&spare, &found);
        }
    }

    /// Recovering what was just recovered changes nothing, and neither does a cut in the middle of that.
    fn recover_again(&mut self, spare: &SimDisk, found: &J::Found) {
        let images = Arc::<Mutex<Vec<SimDisk>>>::default();
        let (cut, seed, mut left) = (*self.any_cut(), self.rng.next(), self.rng.below(RECOVERY_OPS));
        let taken = Arc::clone(&images);
        spare.on_op(move |moment| {
            if left == 0 {
                lock(&taken).extend(cut.image(moment, seed));
            }
            left = left.wrapping_sub(1);
        });
        self.judge.recover(spare);
        let last = match *self.any_cut() {
            Cut::Kill | Cut::KillMidway => spare.after_kill(),
            Cut::Power(profile) => spare.after_power_cut(seed, profile),
        };
        lock(&images).push(last);
        let images = std::mem::take(&mut *lock(&images));
        for (n, image) in images.iter().enumerate() {
            let again = self.judge.check(image);
            assert!(
                again == *found,
                "recovered again, image {n} of {}: {again:?} instead of {found:?}",
                images.len()
            );
        }
        let mut tally = lock(&self.tally);
        tally.again += 1;
        tally.recoveries += 1 + images.len() as u64;
    }

    fn any_cut(&mut self) -> &'static Cut {
        let chosen = self.rng.below(self.plan.cuts.len() as u64);
        &self.plan.cuts[usize::try_from(chosen).expect("there are few")].0
    }

    /// What an operation is for: what the run says, and what can be seen of it.
    fn kinds(&mut self, op: &Op<'_>) -> BTreeSet<Kind> {
        let mut kinds = BTreeSet::from([*lock(&self.doing.0)]);
        kinds.extend(match *op {
            Op::Create { path } if path.ends_with(".log") => Some(Kind::Roll),
            Op::Write { path, .. } | Op::Sync { path } if path.starts_with("checkpoint.") => {
                Some(Kind::Checkpoint)
            }
            // The header goes in front of the groups of a new lap.
            Op::Write { path, at: 0, data }
                if path.ends_with(".journal") && data.starts_with(b"NARUJRNL") =>
            {
                let used = !self.journals.insert(path.to_owned());
                used.then_some(Kind::Recycling)
            }
            _ => None,
        });
        kinds
    }
}

/// A recovery has about so many operations.
const RECOVERY_OPS: u64 = 40;

/// Says which image it was if the check of it panics.
struct Context<'a>(Cut, u64, &'a Moment<'a>);

impl Drop for Context<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The bytes of a write say nothing here.
            let op: String = format!("{:?}", self.2.op()).chars().take(80).collect();
            eprintln!(
                "{:?}, seed {}, before operation {} ({op})",
                self.0,
                self.1,
                self.2.index()
            );
        }
    }
}

/// The plans, all of which the short form runs.
const PLANS: &[&Plan] = &[
    &ENGINE_KILLS,
    &ENGINE_EXT4,
    &ENGINE_POSIX,
    &ENGINE_NASTY,
    &ENGINE_LOST,
    &ENGINE_LARGE,
    &TOPICS_KILLS,
    &TOPICS_POWER,
    &MEMBERS_KILLS,
    &MEMBERS_POWER,
];

const _: () = {
    let (mut sum, mut n) = (0, 0);
    while n < PLANS.len() {
        sum += PLANS[n].recoveries_min;
        n += 1;
    }
    assert!(sum >= IMAGES_MIN);
};

fn end(plan: &'static Plan, tally: Tally) {
    eprintln!(
        "figures crash-images-{}: operations={} recoveries={} twice={}{}",
        plan.name,
        tally.operations,
        tally.recoveries,
        tally.again,
        by_kind(&tally.kinds)
    );
    assert!(
        tally.recoveries >= plan.recoveries_min,
        "only {} recoveries",
        tally.recoveries
    );
    for kind in plan.kinds {
        assert!(tally.kinds.contains_key(kind), "{kind:?} was never cut");
    }
    if !PLANS.iter().any(|other| other.name == plan.name) {
        return;
    }
    let mut ended = lock(&ENDED);
    ended.insert(plan.name, tally);
    if ended.len() == PLANS.len() {
        let recoveries: u64 = ended.values().map(|tally| tally.recoveries).sum();
        let mut kinds = BTreeMap::<Kind, u64>::new();
        for (kind, images) in ended.values().flat_map(|tally| &tally.kinds) {
            *kinds.entry(*kind).or_default() += images;
        }
        eprintln!(
            "figures crash-images: plans={} recoveries={recoveries}{}",
            PLANS.len(),
            by_kind(&kinds)
        );
        assert!(recoveries >= IMAGES_MIN, "only {recoveries} recoveries");
    }
}

fn by_kind(kinds: &BTreeMap<Kind, u64>) -> String {
    let one = |(kind, images): (&Kind, &u64)| format!(" {}={images}", format!("{kind:?}").to_lowercase());
    kinds.iter().map(one).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that the engine does.
const ENGINE_KINDS: &[Kind] = &[
    Kind::Append,
    Kind::Step,
    Kind::Roll,
    Kind::Checkpoint,
    Kind::Recycling,
    Kind::Create,
    Kind::Delete,
    Kind::Trim,
];

/// The engine, killed.
pub(crate) const ENGINE_KILLS: Plan = Plan {
    name: "engine-kills",
    cuts: &[(Cut::Kill, 1), (Cut::KillMidway, 2)],
    recoveries_min: 3_000,
    ..ENGINE
};

/// The engine on a journalling file system.
pub(crate) const ENGINE_EXT4: Plan = Plan {
    name: "engine-ext4",
    cuts: &[(Cut::Power(CutProfile::Ext4), 2)],
    ..ENGINE
};

/// The engine where names get lost in any order.
pub(crate) const ENGINE_POSIX: Plan = Plan {
    name: "engine-posix",
    cuts: &[(Cut::Power(CutProfile::Posix), 2)],
    ..ENGINE
};

/// The engine where what was not synced may hold anything.
pub(crate) const ENGINE_NASTY: Plan = Plan {
    name: "engine-nasty",
    cuts: &[(Cut::Power(CutProfile::Nasty), 2)],
    ..ENGINE
};

/// The engine where nothing unsynced is left, or all of it.
pub(crate) const ENGINE_LOST: Plan = Plan {
    name: "engine-lost",
    cuts: &[
        (Cut::Power(CutProfile::DropAll), 1),
        (Cut::Power(CutProfile::KeepAll), 1),
    ],
    ..ENGINE
};

/// The engine with batches that are written from where they are.
pub(crate) const ENGINE_LARGE: Plan = Plan {
    name: "engine-large",
    cuts: &[
        (Cut::Power(CutProfile::Ext4), 1),
        (Cut::Power(CutProfile::DropAll), 1),
    ],
    every: 5,
    lives: 1,
    recoveries_min: 500,
    kinds: &[Kind::Append, Kind::Step, Kind::Roll, Kind::Checkpoint],
    ..ENGINE
};

/// A broker whose topics change and whose groups commit, killed.
pub(crate) const TOPICS_KILLS: Plan = Plan {
    name: "topics-kills",
    cuts: &[(Cut::Kill, 1), (Cut::KillMidway, 1)],
    recoveries_min: 600,
    ..BROKER
};

/// The same, and the power fails.
pub(crate) const TOPICS_POWER: Plan = Plan {
    name: "topics-power",
    cuts: POWER,
    recoveries_min: 1_700,
    ..BROKER
};

/// A broker whose groups have members and step, killed.
pub(crate) const MEMBERS_KILLS: Plan = Plan {
    name: "members-kills",
    cuts: &[(Cut::Kill, 1), (Cut::KillMidway, 1)],
    recoveries_min: 1_300,
    kinds: MEMBER_KINDS,
    ..BROKER
};

/// The same, and the power fails.
pub(crate) const MEMBERS_POWER: Plan = Plan {
    name: "members-power",
    cuts: POWER,
    recoveries_min: 3_400,
    kinds: MEMBER_KINDS,
    ..BROKER
};

const POWER: &[(Cut, u64)] = &[
    (Cut::Power(CutProfile::Ext4), 1),
    (Cut::Power(CutProfile::Posix), 1),
    (Cut::Power(CutProfile::Nasty), 1),
    (Cut::Power(CutProfile::DropAll), 1),
];

const BROKER: Plan = Plan {
    kinds: &[
        Kind::Append,
        Kind::Commit,
        Kind::Create,
        Kind::Delete,
        Kind::Checkpoint,
        Kind::Roll,
    ],
    lives: 1,
    ..ENGINE
};

const MEMBER_KINDS: &[Kind] = &[
    Kind::Step,
    Kind::Commit,
    Kind::Rebalance,
    Kind::Checkpoint,
    Kind::Recycling,
];

const ENGINE: Plan = Plan {
    name: "",
    cuts: &[],
    every: 1,
    again_every: 16,
    lives: 2,
    recoveries_min: 4_000,
    kinds: ENGINE_KINDS,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, Mode};

    const TRIED: Plan = Plan {
        name: "of-the-explorer",
        cuts: &[(Cut::KillMidway, 1), (Cut::Power(CutProfile::Ext4), 2)],
        again_every: 2,
        recoveries_min: 100,
        kinds: &[Kind::Append],
        ..ENGINE
    };

    /// Appends a byte at a time to a file.
    struct Appender {
        disk: SimDisk,
        told: Arc<Mutex<u64>>,
        syncs: bool,
        recovery_appends: bool,
    }

    struct Reader {
        told: Arc<Mutex<u64>>,
        recovery_appends: bool,
    }

    impl Subject for Appender {
        type Judge = Reader;

        fn judge(&self) -> Reader {
            Reader {
                told: Arc::clone(&self.told),
                recovery_appends: self.recovery_appends,
            }
        }

        fn run(&mut self, doing: &Doing) {
            let file = self.disk.create_new("f", Mode::Buffered).unwrap();
            self.disk.sync_dir("").unwrap();
            doing.set(Kind::Append);
            for at in 0..30 {
                file.write_all_at(b"x", at).unwrap();
                if self.syncs {
                    file.sync_data().unwrap();
                }
                *lock(&self.told) = at + 1;
            }
        }
    }

    impl Judge for Reader {
        type Found = usize;

        fn check(&self, image: &SimDisk) -> usize {
            let found = image.read_file("f").map_or(0, |bytes| bytes.len());
            assert!(found as u64 >= *lock(&self.told), "acknowledged bytes are gone");
            found
        }

        fn recover(&self, image: &SimDisk) {
            let found = image.read_file("f").map_or(0, |bytes| bytes.len());
            if self.recovery_appends && found > 0 {
                let file = image.open("f", Mode::Buffered).unwrap();
                file.write_all_at(b"x", found as u64).unwrap();
                file.sync_data().unwrap();
            }
        }
    }

    fn tried(plan: &'static Plan, syncs: bool, recovery_appends: bool) {
        explore(plan, |disk, _| Appender {
            disk: disk.clone(),
            told: Arc::default(),
            syncs,
            recovery_appends,
        });
    }

    #[test]
    fn who_syncs_and_recovers_as_before_passes() {
        tried(&TRIED, true, false);
    }

    #[test]
    #[should_panic(expected = "acknowledged bytes are gone")]
    fn who_does_not_sync_is_found() {
        tried(&TRIED, false, false);
    }

    #[test]
    #[should_panic(expected = "recovered again")]
    fn who_recovers_something_else_the_second_time_is_found() {
        tried(&TRIED, true, true);
    }

    #[test]
    #[should_panic(expected = "Trim was never cut")]
    fn a_run_without_a_kind_of_work_is_found() {
        const PLAN: Plan = Plan {
            kinds: &[Kind::Append, Kind::Trim],
            ..TRIED
        };
        tried(&PLAN, true, false);
    }
}
