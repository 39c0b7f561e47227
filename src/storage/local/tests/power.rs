//! The power fails before every operation of a recorded run: what was acknowledged is there, nothing else is invented.

use super::past::{Client, Found, Past};
use super::*;
use crate::disk::sim::CutProfile;
use crate::testing::crash::{self, Doing, Judge, Kind, Plan, Subject, explore};

/// How large everything is.
#[derive(Clone, Debug)]
struct Sizes {
    settings: Settings,
    config: LogConfig,
    /// Bytes that a value may have.
    value_bytes: std::ops::Range<usize>,
}

impl Sizes {
    /// Many batches in a block, many segments, a ring that goes round.
    fn small() -> Self {
        Self {
            settings: small(),
            config: CONFIG,
            value_bytes: 200..1100,
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
            value_bytes: 66_000..67_000,
        }
    }

    fn open(&self, disk: &SimDisk) -> Result<Rig, OpenError> {
        let mut rig = Rig::open(disk, &self.settings)?;
        rig.config = self.config;
        Ok(rig)
    }
}

/// An engine, and a client that gives it something of every kind to do.
struct Life {
    rig: Rig,
    client: Client,
    sizes: Sizes,
    rng: fastrand::Rng,
}

impl Life {
    fn begin(disk: &SimDisk, seed: u64, sizes: &Sizes) -> Self {
        let rig = sizes.open(disk).unwrap();
        let client = Client::new(&rig, Past::default()).with_values_of(sizes.value_bytes.clone());
        Self {
            rig,
            client,
            sizes: sizes.clone(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// False if there is no room for it.
    fn act(&mut self, kind: Kind, round: u8) -> bool {
        let (client, rng) = (&self.client, &mut self.rng);
        let keys = [key(1, 0), key(1, 1), key(2, 0), PartitionKey::META];
        match kind {
            Kind::Append => {
                let one = keys[rng.usize(..keys.len())];
                client.append(rng, &[one])
            }
            Kind::Step => {
                let parts = rng.usize(2..=keys.len());
                let mut chosen = rng.choose_multiple(keys, parts);
                chosen.sort_unstable();
                client.append(rng, &chosen)
            }
            Kind::Create => client.append(rng, &[key(20 + round, 0)]),
            Kind::Delete => client.delete(key(20 + round / 2, 0).topic),
            Kind::Trim => client.trim(rng),
            Kind::Roll | Kind::Checkpoint | Kind::Recycling => unreachable!("these come by themselves"),
            Kind::Commit | Kind::Rebalance => unreachable!("the engine knows no groups"),
        }
    }

    fn write(&mut self) {
        while self.rig.inline.journal().unwrap() == Round::Worked {}
    }
}

/// What is done again and again.
const ACTS: [Kind; 12] = [
    Kind::Step,
    Kind::Append,
    Kind::Step,
    Kind::Create,
    Kind::Step,
    Kind::Trim,
    Kind::Append,
    Kind::Step,
    Kind::Delete,
    Kind::Append,
    Kind::Trim,
    Kind::Step,
];

impl Subject for Life {
    type Judge = Witness;

    fn judge(&self) -> Witness {
        Witness {
            client: self.client.clone(),
            sizes: self.sizes.clone(),
        }
    }

    /// Appends, acknowledges, applies, checkpoints, rolls segments, recycles the journal, makes and deletes topics, trims.
    fn run(&mut self, doing: &Doing) {
        for i in 0..60_u8 {
            // Segments are closed at nine seconds of age, some by the batch that follows and some without any.
            let ms = if i % 20 == 0 { 10_000 } else { 700 };
            self.rig.clock.advance(Duration::from_millis(ms));
            let kind = ACTS[usize::from(i) % ACTS.len()];
            doing.set(kind);
            while !self.act(kind, i / 12) {
                self.rig.inline.make_journal_file().unwrap();
                self.write();
                self.rig.inline.applier_round(true).unwrap();
            }
            if i % 4 != 3 {
                self.write();
            }
            if i % 5 == 0 {
                self.rig.inline.seal();
            }
            if i % 3 == 0 {
                self.rig.inline.applier_round(true).unwrap();
            }
            if i % 8 == 0 {
                self.rig.inline.checkpoint().unwrap();
            }
        }
        assert!(
            rolled_by_age(&self.rig) > 2,
            "segments were to be closed by their age, too"
        );
    }
}

/// Compares what is recovered with what the client of a life knows.
struct Witness {
    client: Client,
    sizes: Sizes,
}

impl Judge for Witness {
    type Found = Found;

    fn check(&self, image: &SimDisk) -> Found {
        // What a reader saw just before must be there, too.
        self.client.look();
        let rig = self.sizes.open(image).unwrap();
        let past = self.client.past.lock().unwrap();
        let found = past.check(&rig, self.client.durable());
        found.keys().for_each(|key| check_segments(&rig, *key));
        found
    }

    fn recover(&self, image: &SimDisk) {
        self.sizes.open(image).unwrap();
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
fn check_segments(rig: &Rig, key: PartitionKey) {
    let segments = rig.store.open(key, rig.config).segments();
    for pair in segments.windows(2) {
        assert_eq!(pair[0].end, pair[1].base, "{key}");
        assert!(pair[0].newest_append <= pair[1].oldest_append, "{key}");
        assert!(pair[0].sealed, "{key}");
    }
    assert!(
        segments.iter().all(|s| s.oldest_append <= s.newest_append),
        "{key}"
    );
}

fn cut_small(plan: &'static Plan) {
    explore(plan, |disk, seed| Life::begin(disk, seed, &Sizes::small()));
}

#[test]
fn power_cut_at_every_write_on_a_journalling_file_system() {
    cut_small(&crash::ENGINE_EXT4);
}

#[test]
fn power_cut_at_every_write_with_names_lost_in_any_order() {
    cut_small(&crash::ENGINE_POSIX);
}

#[test]
fn power_cut_at_every_write_with_garbage_in_what_was_not_synced() {
    cut_small(&crash::ENGINE_NASTY);
}

#[test]
fn power_cut_at_every_write_with_nothing_unsynced_left_or_all_of_it() {
    cut_small(&crash::ENGINE_LOST);
}

#[test]
fn power_cut_between_the_pieces_of_large_batches() {
    explore(&crash::ENGINE_LARGE, |disk, seed| {
        Life::begin(disk, seed, &Sizes::large())
    });
}

#[test]
fn kill_at_every_write_and_amid_it() {
    cut_small(&crash::ENGINE_KILLS);
}

#[test]
fn power_cut_during_recovery_is_recovered_from() {
    let disk = new_disk();
    let mut life = Life::begin(&disk, 1, &Sizes::small());
    let witness = life.judge();
    life.run(&Doing::default());
    let image = disk.after_power_cut(7, CutProfile::Ext4);
    let expected = witness.check(&image.after_kill());
    let count = Arc::new(Mutex::new(0));
    let (counted, judge) = (Arc::clone(&count), life.judge());
    image.on_op(move |moment| {
        for profile in CutProfile::ALL {
            let found = judge.check(&moment.after_power_cut(moment.index(), profile));
            assert_eq!(
                found,
                expected,
                "{profile:?}: recovery before operation {} ({:?})",
                moment.index(),
                moment.op()
            );
        }
        *counted.lock().unwrap() += 1;
    });
    witness.recover(&image);
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
