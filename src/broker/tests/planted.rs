//! Bugs planted above the engine, and the finders that must find them. Here: an idempotent producer that sends again at random,
//! over power cuts at random.

mod members;
mod readers;

use super::power::Life;
use super::*;
use crate::disk::sim::{CutProfile, SimDisk, SimOptions};
use crate::planted::hunt::{Finder, Hunt, found, is_clean};

const RETRIES: Finder = Finder {
    name: "seeds with retries",
    unit: "seeds",
    budget: 200,
    clean: 60,
    search,
};

/// Things done in the life of a seed.
const ACTS: u32 = 40;
/// What the broker remembers of a producer in a partition: of older batches it says that they are there, not where.
const REMEMBERED: usize = 5;

fn search(hunt: &Hunt, first: u64) {
    let mut seed = first;
    while hunt.goes_on() {
        hunt.attempt(|| one_seed(seed));
        seed = seed.wrapping_add(1);
    }
}

/// A producer of one partition, and what it knows.
struct Client {
    life: Life,
    producer: InitializedProducer,
    /// Where each of its batches of one record is, if it was told.
    told: Vec<Option<Offset>>,
    /// Answers on the way: what each waits for, and of which batch it is.
    waiting: Vec<(Lsn, usize)>,
    acknowledged: Vec<usize>,
}

impl Client {
    /// Sends a batch, for the first time or again; whether the broker had it.
    fn send(&mut self, number: usize) -> bool {
        let batch = sequenced("t", self.producer, i32::try_from(number).unwrap(), 1);
        let (lsn, reply) = self.life.try_ask(request(Acks::Fsync, vec![batch]));
        let Ok(Response::Produce(Produced { mut partitions })) = reply else {
            panic!("{reply:?}");
        };
        let produced = partitions.remove(0).unwrap();
        let base = produced.offsets.map(|(base, _)| base);
        match self.told.get(number) {
            None => self.told.push(base),
            Some(before) if produced.duplicate => {
                assert!(
                    base.is_none() || base == *before,
                    "batch {number} is at {base:?}, not at {before:?}"
                );
            }
            Some(_) => self.told[number] = base,
        }
        self.waiting.push((lsn, number));
        produced.duplicate
    }

    /// Answers that wait for nothing any more have arrived.
    fn hear(&mut self) {
        let durable = self.life.broker.durable_lsn();
        let (heard, waiting) = self.waiting.iter().partition(|(lsn, _)| *lsn <= durable);
        self.waiting = waiting;
        let heard: Vec<(Lsn, usize)> = heard;
        self.acknowledged
            .extend(heard.into_iter().map(|(_, number)| number));
    }

    fn act(&mut self, rng: &mut fastrand::Rng) {
        match rng.u32(0..8) {
            0..4 => {
                self.send(self.told.len());
            }
            4..6 if !self.told.is_empty() => {
                let number = self.told.len() - rng.usize(1..=self.told.len().min(REMEMBERED));
                assert!(self.send(number), "batch {number} is there twice");
            }
            6 => {
                self.life.make_durable();
            }
            _ => {
                self.life.inline.applier_round(true).unwrap();
            }
        }
        self.hear();
    }

    /// The power fails. Everything is sent once more: the broker has what was acknowledged, where it was, and nothing twice.
    fn power_cut(mut self, disk: &SimDisk, ids: &Arc<CountedIds>, seed: u64) -> (Self, SimDisk) {
        let profile = if seed.is_multiple_of(2) {
            CutProfile::DropAll
        } else {
            CutProfile::Ext4
        };
        let disk = disk.after_power_cut(seed, profile);
        self.life = Life::begin(&disk, ids);
        self.waiting.clear();
        for number in 0..self.told.len() {
            let had = self.send(number);
            let acknowledged = self.acknowledged.contains(&number);
            assert!(
                had || !acknowledged,
                "batch {number} was acknowledged and is gone"
            );
        }
        let mut places: Vec<_> = self.told.iter().flatten().collect();
        places.sort_unstable();
        let all = places.len();
        places.dedup();
        assert_eq!(places.len(), all, "two batches have one offset");
        let end = self.life.end("t");
        assert_eq!(
            end,
            self.told.len(),
            "there are {end} records of {} that were sent",
            self.told.len()
        );
        self.life.make_durable();
        self.hear();
        (self, disk)
    }
}

fn one_seed(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut disk = SimDisk::new(SimOptions {
        seed,
        ..SimOptions::default()
    });
    let ids = Arc::new(CountedIds::default());
    let mut life = Life::begin(&disk, &ids);
    life.ask(create("t", 1));
    let Response::InitProducer(producer) = life.ask(Request::InitProducer(InitProducer { current: None }))
    else {
        panic!("no producer");
    };
    life.make_durable();
    let mut client = Client {
        life,
        producer,
        told: Vec::new(),
        waiting: Vec::new(),
        acknowledged: Vec::new(),
    };
    for _ in 0..3 {
        for _ in 0..rng.u32(1..=ACTS) {
            client.act(&mut rng);
        }
        (client, disk) = client.power_cut(&disk, &ids, rng.u64(..));
    }
}

found! {
    duplicate_answered_before_its_original_is_durable_is_found: DuplicateAnsweredEarly by RETRIES;
    sequence_that_a_start_does_not_learn_is_found: SequenceNotReplayed by RETRIES;
    step_that_is_shown_in_parts_is_found: ShownInParts by readers::READERS;
    state_changed_without_a_permit_is_found: AppliedWithoutPermit by members::MEMBERS;
    fence_that_a_start_does_not_learn_is_found: FenceNotReplayed by members::MEMBERS;
    offset_shown_before_it_is_durable_is_found: UndurableOffsetShown by members::MEMBERS;
}

#[test]
fn without_a_bug_retries_find_nothing() {
    is_clean(&RETRIES);
}

#[test]
fn without_a_bug_readers_find_nothing() {
    is_clean(&readers::READERS);
}

#[test]
fn without_a_bug_members_find_nothing() {
    is_clean(&members::MEMBERS);
}
