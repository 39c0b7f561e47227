//! Finder: one life after the other on the same disk, each of which ends in a power cut while a group is being written. What was
//! left of one stands in its file until a later lap has written over it, with a number that was given again.

use super::crash::{open, settings};
use super::past::{Client, Past};
use super::*;
use crate::disk::sim::{CutProfile, Moment, Op};
use crate::planted::hunt::Hunt;
use crate::storage::local::paths;

pub(super) const LAPS: Finder = Finder {
    name: "life after life",
    unit: "starts",
    budget: 5000,
    clean: 400,
    search,
};

/// Lives on one disk.
const LIVES: usize = 12;
/// Things asked for in one of them, at most.
const ACTS: usize = 60;
/// Syncs of the journal until the power fails: soon, or when files have been used again.
const SYNCS: [u32; 3] = [4, 16, 64];

/// What a life leaves.
struct Left {
    image: SimDisk,
    past: Past,
    durable: Lsn,
}

impl Left {
    fn at(moment: &Moment<'_>, client: &Client, rng: &mut fastrand::Rng) -> Self {
        let profiles = [CutProfile::Ext4, CutProfile::Posix, CutProfile::Nasty];
        let profile = profiles[rng.usize(..profiles.len())];
        Self {
            image: moment.after_power_cut(rng.u64(..), profile),
            past: client.past.lock().unwrap().clone(),
            durable: client.durable(),
        }
    }
}

fn search(hunt: &Hunt, first: u64) {
    let mut seed = first;
    while hunt.goes_on() {
        let mut rng = fastrand::Rng::with_seed(seed);
        let settings = settings(seed);
        let mut left = Some(Left {
            image: SimDisk::new(SimOptions {
                seed,
                ..SimOptions::default()
            }),
            past: Past::default(),
            durable: Lsn::ZERO,
        });
        for _ in 0..LIVES {
            let Some(begin) = left.take() else { break };
            hunt.attempt(|| left = Some(live(&begin, &settings, &mut rng)));
        }
        seed += 1;
    }
}

/// Starts on what is left, which must be what the past says, and lives until the power fails.
fn live(begin: &Left, settings: &Settings, rng: &mut fastrand::Rng) -> Left {
    let mut rig = open(&begin.image, settings).unwrap_or_else(|error| panic!("{error}"));
    let found = begin.past.check(&rig, begin.durable);
    let client = Client::new(&rig, begin.past.after(&found));
    let left = Arc::new(Mutex::new(None));
    let most = SYNCS[rng.usize(..SYNCS.len())];
    let mut syncs = rng.u32(..most);
    let (asks, leaves, mut dice) = (client.clone(), Arc::clone(&left), rng.fork());
    begin.image.on_op(move |moment| {
        let is_sync = matches!(moment.op(), Op::Sync { path } if path.starts_with(paths::JOURNAL));
        if is_sync && syncs == 0 {
            *leaves.lock().unwrap() = Some(Left::at(moment, &asks, &mut dice));
        }
        syncs = syncs.wrapping_sub(u32::from(is_sync));
    });
    for _ in 0..ACTS {
        if left.lock().unwrap().is_some() {
            break;
        }
        act(&mut rig, &client, rng);
    }
    begin.image.on_op(|_| {});
    let left = left.lock().unwrap().take();
    left.unwrap_or_else(|| Left {
        image: begin.image.after_kill(),
        past: client.past.lock().unwrap().clone(),
        durable: client.durable(),
    })
}

/// Checkpoints are rare, so that the ring goes round without one.
fn act(rig: &mut Rig, client: &Client, rng: &mut fastrand::Rng) {
    while !client.ask(rng) {
        rig.inline.make_journal_file().unwrap();
        while rig.inline.journal().unwrap() == Round::Worked {}
        rig.inline.applier_round(true).unwrap();
    }
    if rng.u32(0..3) > 0 {
        while rig.inline.journal().unwrap() == Round::Worked {}
    }
    if rng.u32(0..3) == 0 {
        rig.inline.apply().unwrap();
    }
    if rng.u32(0..60) == 0 {
        rig.inline.checkpoint().unwrap();
    }
}
