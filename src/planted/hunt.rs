//! The search for a planted bug: a finder tries one image, or one seed, after the other until something is wrong.
//!
//! A finder does not know what is planted. Without a bug it must find nothing in as many tries as it is allowed with one.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Bug, plant};
use crate::rt::{Clock, SystemClock};

/// What looks for defects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finder {
    /// What it does, for the report.
    pub(crate) name: &'static str,
    /// What it tries: images or seeds.
    pub(crate) unit: &'static str,
    /// It must have found a bug after so many.
    pub(crate) budget: u64,
    /// So many are tried in every run without a bug, and nothing may be found.
    pub(crate) clean: u64,
    /// Tries until the hunt says that it is over; the number is the seed to begin with.
    pub(crate) search: fn(&Hunt, u64),
}

#[derive(Debug)]
struct State {
    budget: u64,
    tried: u64,
    found: Option<String>,
}

/// A search under way; clones are handles on the same one.
#[derive(Clone, Debug)]
pub(crate) struct Hunt(Arc<Mutex<State>>);

impl Hunt {
    fn new(budget: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            budget,
            tried: 0,
            found: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing was found and there are tries left.
    pub(crate) fn goes_on(&self) -> bool {
        let state = self.state();
        state.found.is_none() && state.tried < state.budget
    }

    /// Tries an image or a seed: a panic is a find.
    pub(crate) fn attempt(&self, check: impl FnOnce()) {
        if self.goes_on() {
            self.state().tried += 1;
            self.watch(check);
        }
    }

    /// Does what is no try of its own, and may show a defect all the same.
    pub(crate) fn watch(&self, act: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(act)) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let text = text.unwrap_or("a panic without words").to_owned();
            self.state().found.get_or_insert(text);
        }
    }
}

/// The bugs found so far in this process, with the seconds that each took.
static FOUND: Mutex<BTreeMap<&str, f64>> = Mutex::new(BTreeMap::new());

/// Not captured by the test harness: figures of a run in order are wanted, too.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn seed() -> u64 {
    let given = std::env::var("NARU_TEST_SEED").ok();
    given.map_or(1, |text| text.parse().expect("NARU_TEST_SEED is a number"))
}

fn search(finder: &Finder, budget: u64, bug: Option<Bug>) -> (Hunt, f64) {
    let clock = SystemClock::new();
    let hunt = Hunt::new(budget);
    let planted = plant(bug);
    (finder.search)(&hunt, seed());
    drop(planted);
    (hunt, clock.mono().as_secs_f64())
}

/// A test for each bug: this finder finds it.
macro_rules! found {
    ($($name:ident: $bug:ident by $finder:path;)+) => {
        $(#[test]
        fn $name() {
            $crate::planted::hunt::finds(&$finder, $crate::planted::Bug::$bug);
        })+
    };
}
pub(crate) use found;

/// Asserts that a finder finds a bug within its budget.
pub(crate) fn finds(finder: &Finder, bug: Bug) {
    let (hunt, seconds) = search(finder, finder.budget, Some(bug));
    let State { tried, found, .. } = &*hunt.state();
    let found = found.as_ref();
    let found = found.unwrap_or_else(|| {
        panic!(
            "{} was not found in {tried} {} of: {}",
            bug.name(),
            finder.unit,
            finder.name
        )
    });
    let why: String = found
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(160)
        .collect();
    say(&format!(
        "planted: {}: found by {} after {tried} {}, {seconds:.1} s: {why}",
        bug.name(),
        finder.name,
        finder.unit
    ));
    let mut all = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    all.insert(bug.name(), seconds);
    if all.len() == Bug::ALL.len() {
        let seconds: f64 = all.values().sum();
        say(&format!(
            "figures planted: bugs={} found={} seconds={seconds:.0}",
            Bug::ALL.len(),
            all.len()
        ));
    }
}

/// Asserts that a finder finds nothing where nothing is planted.
pub(crate) fn is_clean(finder: &Finder) {
    let (hunt, seconds) = search(finder, finder.clean, None);
    let State { tried, found, .. } = &*hunt.state();
    if let Some(found) = found {
        panic!(
            "NARU_TEST_SEED={} {}, {} {tried}: {found}",
            seed(),
            finder.name,
            finder.unit
        );
    }
    assert_eq!(*tried, finder.clean, "{} gave up early", finder.name);
    say(&format!(
        "figures planted-clean: finder=\"{}\" {}={tried} seconds={seconds:.1}",
        finder.name, finder.unit
    ));
}
