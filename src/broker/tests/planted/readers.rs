//! Finder: fetches of several partitions, some of which the disk has to answer, while steps become durable.

use super::super::power::Life;
use super::*;
use crate::api::{Step, StepStamp};
use crate::planted::hunt::{Finder, Hunt};

pub(super) const READERS: Finder = Finder {
    name: "seeds with readers",
    unit: "seeds",
    budget: 200,
    clean: 60,
    search,
};

const PARTITIONS: u32 = 3;
/// Things done in the life of a seed.
const ACTS: u32 = 30;

fn search(hunt: &Hunt, first: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.expect("a runtime");
    let mut seed = first;
    while hunt.goes_on() {
        hunt.attempt(|| runtime.block_on(one_seed(seed)));
        seed = seed.wrapping_add(1);
    }
}

struct Readers {
    life: Life,
    producer: InitializedProducer,
    /// Of each step the partitions, and where each ends with it.
    steps: Vec<Vec<(u32, i64)>>,
    /// Where each partition ends.
    ends: Vec<i64>,
    /// Up to where each can be read.
    readable: Vec<i64>,
}

impl Readers {
    /// A batch for each of some partitions, in one.
    fn step(&mut self, rng: &mut fastrand::Rng) {
        let count = rng.usize(2..4);
        let parts = rng.choose_multiple(0..PARTITIONS, count);
        let mut appends = Vec::new();
        let mut step = Vec::new();
        for partition in parts {
            let records = rng.u32(1..4);
            let payload = ProducePayload::Raw(batch(records, None));
            appends.push(item(named("t", partition), payload));
            let end = &mut self.ends[partition as usize];
            *end += i64::from(records);
            step.push((partition, *end));
        }
        let request = Request::Step(Step {
            group: "s".to_owned(),
            member: None,
            stamp: StepStamp {
                id: self.producer.id,
                epoch: self.producer.epoch,
                sequence: Sequence(i32::try_from(self.steps.len()).unwrap()),
            },
            offsets: Vec::new(),
            appends,
        });
        self.life.ask(request);
        self.steps.push(step);
    }

    fn make_durable(&mut self) {
        self.life.make_durable();
        self.readable.clone_from(&self.ends);
    }

    /// Asks for all partitions, in any order; while the disk is asked for one, another step becomes durable.
    async fn read(&mut self, rng: &mut fastrand::Rng) {
        let mut order: Vec<u32> = (0..PARTITIONS).collect();
        rng.shuffle(&mut order);
        let mut from = |partition: u32| rng.i64(0..=self.readable[partition as usize]);
        let asked = order.iter().map(|partition| ("t", *partition, from(*partition)));
        let asked: Vec<_> = asked.collect();
        let outcome = self
            .life
            .broker
            .receive(fetch(FetchForm::Raw, Duration::ZERO, &asked));
        let Outcome::Later(mut reply) = outcome else {
            return self.check(&order, waits(outcome).1);
        };
        let early = tokio::select! {
            biased;
            reply = &mut reply => Some(reply),
            () = std::future::ready(()) => None,
        };
        let reply = match early {
            Some(reply) => reply,
            None => {
                self.step(rng);
                self.make_durable();
                reply.await
            }
        };
        self.check(&order, reply);
    }

    /// Of each step all is shown, or nothing.
    fn check(&self, order: &[u32], reply: Reply) {
        let mut shown = vec![0; self.ends.len()];
        for (partition, fetched) in order.iter().zip(fetched(reply)) {
            shown[*partition as usize] = fetched.unwrap().high_watermark.get();
        }
        for step in &self.steps {
            let there = step
                .iter()
                .map(|(partition, end)| shown[*partition as usize] >= *end);
            let there: Vec<_> = there.collect();
            assert!(
                there.windows(2).all(|pair| pair[0] == pair[1]),
                "an answer shows a step in part: {step:?} up to {shown:?}"
            );
        }
    }
}

async fn one_seed(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let disk = SimDisk::new(SimOptions {
        seed,
        ..SimOptions::default()
    });
    let ids = Arc::new(CountedIds::default());
    let mut life = Life::begin(&disk, &ids);
    life.ask(create("t", PARTITIONS));
    let Response::InitProducer(producer) = life.ask(Request::InitProducer(InitProducer { current: None }))
    else {
        panic!("no producer");
    };
    let mut readers = Readers {
        life,
        producer,
        steps: Vec::new(),
        ends: vec![0; PARTITIONS as usize],
        readable: vec![0; PARTITIONS as usize],
    };
    for _ in 0..rng.u32(1..ACTS) {
        readers.step(&mut rng);
    }
    readers.make_durable();
    // What was there before a start is on the disk alone.
    readers.life = Life::begin(&disk.after_kill(), &ids);
    for _ in 0..ACTS {
        match rng.u32(0..4) {
            0 => readers.step(&mut rng),
            1 => readers.make_durable(),
            _ => readers.read(&mut rng).await,
        }
    }
}
