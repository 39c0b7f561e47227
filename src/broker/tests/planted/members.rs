//! Finder: members of a group that commit, look, take each other's place and are removed, on a broker that is short of room at
//! times, over power cuts.

use std::collections::BTreeMap;

use super::super::power::members::{Known, check_owners};
use super::super::power::{Life, engine};
use super::*;
use crate::api::{CommitOffsets, EvictMember, EvictedMember, FetchOffsets, Membership, OffsetToCommit};
use crate::planted::hunt::{Finder, Hunt};

pub(super) const MEMBERS: Finder = Finder {
    name: "seeds with members",
    unit: "seeds",
    budget: 200,
    clean: 60,
    search,
};

/// Things done in a life at most: more than the journal takes in before it writes.
const ACTS: u32 = 120;
const LIVES: u32 = 3;
const PARTITIONS: u32 = 3;
/// Of each partition: nobody gets to the end.
const RECORDS: u32 = ACTS * LIVES + 1;
/// Members that are removed or replaced go on trying, so many of them.
const GONE_MAX: usize = 6;

fn search(hunt: &Hunt, first: u64) {
    let mut seed = first;
    while hunt.goes_on() {
        hunt.attempt(|| one_seed(seed));
        seed = seed.wrapping_add(1);
    }
}

/// What an answer says.
enum Told {
    /// To the member of this name.
    Membership(String, Box<Membership>),
    /// This one is no member any more.
    Gone(Box<Known>),
    /// So far is the group, by partition.
    Places(BTreeMap<u32, i64>),
}

/// The clients, and the broker that they ask.
struct Clients {
    life: Life,
    clock: Arc<ManualClock>,
    ids: Arc<CountedIds>,
    members: Vec<Known>,
    /// Answers on the way, and what each waits for.
    waiting: Vec<(Lsn, Told)>,
    /// What was heard of members that are none any more, of the group's places and of its epoch.
    gone: Vec<Known>,
    places: BTreeMap<u32, i64>,
    epoch: u32,
    /// How many members there were.
    joins: u32,
    /// The greatest offset that was committed: every commit is ahead of all before it.
    last: i64,
}

impl Clients {
    fn begin(disk: &SimDisk) -> Self {
        let (clock, ids) = (Arc::new(ManualClock::at(START)), Arc::default());
        let mut life = Life::begin_at(disk, &ids, &clock, &engine());
        life.ask(create("in", PARTITIONS));
        for partition in 0..PARTITIONS {
            let payload = ProducePayload::Raw(batch(RECORDS, None));
            life.ask(request(Acks::Fsync, vec![item(named("in", partition), payload)]));
        }
        life.make_durable();
        Self {
            life,
            clock,
            ids,
            members: Vec::new(),
            waiting: Vec::new(),
            gone: Vec::new(),
            places: BTreeMap::new(),
            epoch: 0,
            joins: 0,
            last: 0,
        }
    }

    /// What the answer waits for, and the answer. A request for which there is no room leaves everything as it was, and is
    /// made again when there is some.
    fn ask(&mut self, request: Request) -> (Lsn, Reply) {
        self.clock.advance(Duration::from_millis(7));
        let before = self.life.see_all();
        let mut outcome = self.life.broker.receive(request);
        while let Outcome::Blocked { request, .. } = outcome {
            let after = self.life.see_all();
            assert!(
                after == before,
                "a request for which there was no room has left something behind"
            );
            self.life.make_room();
            outcome = self.life.broker.receive(request);
        }
        waits(outcome)
    }

    /// Somebody new, who may have the instance id of somebody else.
    fn join(&mut self, rng: &mut fastrand::Rng) {
        self.joins += 1;
        let mut member = Known::new(format!("m{}", self.joins));
        member.instance = rng.bool().then(|| format!("i{}", rng.u32(0..2)));
        let taken = self.members.iter().position(|known| {
            let instance = known.instance.as_ref();
            instance.is_some() && instance == member.instance.as_ref()
        });
        // Whoever takes a place again and again has to wait before the next time.
        let (lsn, Ok(Response::GroupHeartbeat(told))) = self.ask(member.beat()) else {
            return;
        };
        if let Some(taken) = taken {
            let gone = self.members.remove(taken);
            self.waiting.push((lsn, Told::Gone(Box::new(gone))));
        }
        let name = member.name.clone();
        self.members.push(member);
        self.waiting.push((lsn, Told::Membership(name, told)));
    }

    fn beat(&mut self, index: usize) {
        let member = &self.members[index];
        let name = member.name.clone();
        if let (lsn, Ok(Response::GroupHeartbeat(told))) = self.ask(member.beat()) {
            self.waiting.push((lsn, Told::Membership(name, told)));
        }
    }

    /// A commit for all that the member holds as far as it knows, and what its answer waits for if it was taken.
    fn commit(&mut self, member: &Known) -> Option<Lsn> {
        self.last += 1;
        let places: BTreeMap<_, _> = member.holds().into_iter().map(|p| (p, self.last)).collect();
        let offsets = places.iter().map(|(partition, offset)| OffsetToCommit {
            partition: named("in", *partition),
            offset: *offset,
            leader_epoch: None,
            metadata: "x".repeat(300),
        });
        let commit = CommitOffsets {
            group: "g".to_owned(),
            member: Some(member.who()),
            offsets: offsets.collect(),
        };
        let (lsn, reply) = self.ask(Request::CommitOffsets(commit));
        reply.ok()?;
        self.waiting.push((lsn, Told::Places(places)));
        Some(lsn)
    }

    fn look(&mut self) {
        let (lsn, reply) = self.ask(Request::FetchOffsets(FetchOffsets {
            group: "g".to_owned(),
            partitions: Vec::new(),
        }));
        let Ok(Response::FetchOffsets(shown)) = reply else {
            panic!("{reply:?}");
        };
        let places = shown.into_iter().map(|shown| {
            let shown = shown.unwrap();
            (shown.key.partition.0, shown.committed.unwrap().offset.get())
        });
        self.waiting.push((lsn, Told::Places(places.collect())));
    }

    fn evict(&mut self, index: usize) {
        let (lsn, reply) = self.ask(Request::EvictMember(EvictMember {
            group: "g".to_owned(),
            member: EvictedMember::Member(self.members[index].name.clone()),
            reason: "for a test".to_owned(),
        }));
        reply.unwrap();
        let gone = self.members.remove(index);
        self.waiting.push((lsn, Told::Gone(Box::new(gone))));
    }

    fn act(&mut self, rng: &mut fastrand::Rng) {
        if self.members.is_empty() {
            return self.join(rng);
        }
        let any = rng.usize(0..self.members.len());
        match rng.u32(0..24) {
            0..3 => self.join(rng),
            3..8 => self.beat(any),
            8..16 => {
                let member = self.members[any].clone();
                self.commit(&member);
            }
            16..22 => self.look(),
            22 => self.evict(any),
            _ => self.life.inline.applier_round(true).unwrap(),
        }
        self.hear();
    }

    /// Answers that wait for nothing any more have arrived.
    fn hear(&mut self) {
        let durable = self.life.broker.durable_lsn();
        let all = std::mem::take(&mut self.waiting).into_iter();
        let (heard, waiting): (Vec<_>, Vec<_>) = all.partition(|(lsn, _)| *lsn <= durable);
        self.waiting = waiting;
        for (_, told) in heard {
            match told {
                Told::Membership(name, told) => {
                    self.epoch = self.epoch.max(told.group_epoch);
                    let known = self.members.iter_mut().find(|known| known.name == name);
                    if let Some(known) = known {
                        known.told = Some(*told);
                    }
                }
                Told::Gone(known) => self.gone.push(*known),
                Told::Places(places) => {
                    for (partition, offset) in places {
                        let known = self.places.entry(partition).or_default();
                        *known = offset.max(*known);
                    }
                }
            }
        }
        let old = self.gone.len().saturating_sub(GONE_MAX);
        self.gone.drain(..old);
    }

    /// The power fails. What was heard is so, and whoever is known to be no member any more is refused.
    fn power_cut(&mut self, disk: &SimDisk, rng: &mut fastrand::Rng) -> SimDisk {
        let profile = if rng.bool() {
            CutProfile::DropAll
        } else {
            CutProfile::Ext4
        };
        let disk = disk.after_power_cut(rng.u64(..), profile);
        self.life = Life::begin_at(&disk, &self.ids, &self.clock, &engine());
        self.waiting.clear();
        let all = self.life.see_all();
        let group = all.groups.get("g").cloned().unwrap_or_default();
        let mut offsets = group.offsets.iter();
        for (partition, heard) in &self.places {
            let found = offsets.find(|(key, _)| key.partition.0 == *partition);
            let found = found.map_or(0, |(_, committed)| committed.offset.get());
            assert!(
                (*heard..=self.last).contains(&found),
                "partition {partition} is committed up to {found}, and {heard} was heard"
            );
        }
        let membership = group.membership.unwrap_or_default();
        assert!(
            membership.epoch >= self.epoch,
            "the group is back in an old epoch"
        );
        for gone in self.gone.clone() {
            let name = &gone.name;
            let taken = !gone.holds().is_empty() && self.commit(&gone).is_some();
            assert!(!taken, "{name} is no member any more, and commits");
        }
        check_owners(&all);
        let is_there = |known: &Known| membership.members.contains_key(known.name.as_str());
        self.members.retain(is_there);
        disk
    }
}

fn one_seed(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut disk = SimDisk::new(SimOptions {
        seed,
        ..SimOptions::default()
    });
    let mut clients = Clients::begin(&disk);
    for _ in 0..LIVES {
        // Now and then nothing is written until there is no room.
        let every = if rng.bool() { 4 } else { ACTS };
        for _ in 0..rng.u32(1..=ACTS) {
            clients.act(&mut rng);
            if rng.u32(0..every) == 0 {
                clients.life.make_durable();
            }
            if rng.u32(0..60) == 0 {
                clients.life.inline.checkpoint().unwrap();
            }
        }
        clients.hear();
        disk = clients.power_cut(&disk, &mut rng);
    }
}
