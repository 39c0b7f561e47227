//! A group in memory that does everything right, with members that come, go, are killed and are stopped, and the history of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{At, Body, Done, Event, Held, Note, Op, Uid, View};

const PARTITIONS: u32 = 3;
const STEPS: usize = 260;
pub(super) const GROUP: &str = "g";

/// A history from a seed.
pub(super) fn history(seed: u64) -> Vec<Event> {
    let mut group = Reference {
        random: fastrand::Rng::with_seed(seed),
        ..Reference::default()
    };
    group.join(None);
    for _ in 0..STEPS {
        group.step();
    }
    group.drain();
    group.events
}

fn at(partition: u32) -> At {
    At {
        topic: "orders".to_owned(),
        partition,
    }
}

/// What a process believes to hold.
#[derive(Clone, Debug, Default)]
struct Claim {
    /// Offset of the next record.
    next: i64,
    /// Fetched before the partition was lost: the end of what a process that was stopped may hand out.
    fetched: i64,
    seen_upto: i64,
    epoch: u32,
    is_told: bool,
    /// The group agrees.
    is_held: bool,
}

#[derive(Clone, Debug, Default)]
struct Process {
    number: u32,
    instance: Option<String>,
    commits_itself: bool,
    is_member: bool,
    claims: BTreeMap<u32, Claim>,
    /// A commit on its way: operation, partition, offset, and the epoch of the claim.
    committing: Option<(u64, u32, i64, u32)>,
}

#[derive(Default)]
struct Reference {
    random: fastrand::Rng,
    events: Vec<Event>,
    logs: BTreeMap<u32, Vec<Uid>>,
    committed: BTreeMap<u32, i64>,
    seen: BTreeMap<u32, i64>,
    epoch: u32,
    processes: Vec<Process>,
    count: u32,
    ops: u64,
}

impl Process {
    fn member(&self) -> String {
        format!("m-{}", self.number)
    }
}

impl Reference {
    fn log(&mut self, process: u32, op: u64, is: Body) {
        let t = self.events.len() as u64;
        self.events.push(Event { t, process, op, is });
    }

    fn note(&mut self, process: u32, note: Note) {
        self.log(process, 0, Body::Note(note));
    }

    fn invoke(&mut self, process: u32, op: Op) -> u64 {
        self.ops += 1;
        self.log(process, self.ops, Body::Invoke(op));
        self.ops
    }

    fn step(&mut self) {
        let any = self.random.usize(0..self.processes.len());
        match self.random.u32(0..100) {
            0..25 => self.produce(),
            25..60 => self.poll(any),
            60..78 => self.commit(any),
            78..82 => self.view(),
            82..86 if self.members().len() < 4 => {
                let instance = self.random.bool().then(|| format!("desk-{}", self.count));
                self.join(instance);
            }
            86..88 => self.restart(any),
            88..91 if self.members().len() > 1 => self.go(any, true),
            91..94 if self.members().len() > 1 => self.go(any, false),
            _ => self.tell(any),
        }
    }

    fn produce(&mut self) {
        let partition = self.random.u32(0..PARTITIONS);
        let uid = Uid {
            process: 0,
            number: self.ops,
        };
        let op = self.invoke(
            0,
            Op::Produce {
                at: at(partition),
                uid,
            },
        );
        let outcome = self.random.u32(0..10);
        if outcome == 0 {
            self.log(0, op, Body::Fail("no".to_owned()));
            return;
        }
        if outcome > 1 {
            let log = self.logs.entry(partition).or_default();
            log.push(uid);
            let offset = len_of(log) - 1;
            if outcome > 2 {
                return self.log(0, op, Body::Ok(Done::Produced(offset)));
            }
        }
        self.log(0, op, Body::Info("timeout".to_owned()));
    }

    fn members(&self) -> Vec<usize> {
        (0..self.processes.len())
            .filter(|index| self.processes[*index].is_member)
            .collect()
    }

    fn join(&mut self, instance: Option<String>) -> usize {
        self.count += 1;
        let commits_itself = self.random.u32(0..3) == 0;
        let process = Process {
            number: self.count,
            instance: instance.clone(),
            commits_itself,
            is_member: true,
            ..Process::default()
        };
        let join = Op::Join {
            group: GROUP.to_owned(),
            instance,
            auto_commit: commits_itself,
        };
        let op = self.invoke(self.count, join);
        self.log(self.count, op, Body::Ok(Done::Done));
        self.processes.push(process);
        self.rebalance();
        self.processes.len() - 1
    }

    /// Another epoch: partitions go round the members.
    fn rebalance(&mut self) {
        self.epoch += 1;
        let members = self.members();
        for partition in 0..PARTITIONS {
            let to = members[(partition + self.epoch) as usize % members.len()];
            if self.processes[to]
                .claims
                .get(&partition)
                .is_some_and(|claim| claim.is_held)
            {
                continue;
            }
            self.release(partition);
            self.give(to, partition);
        }
    }

    /// Whoever holds it holds it no longer; one that is well knows it.
    fn release(&mut self, partition: u32) {
        let end = self.logs.get(&partition).map_or(0, |log| len_of(log));
        for index in 0..self.processes.len() {
            let process = &mut self.processes[index];
            let Some(claim) = process.claims.get_mut(&partition).filter(|claim| claim.is_held) else {
                continue;
            };
            claim.is_held = false;
            claim.fetched = claim.next.max(self.random.i64(0..=end));
            // It was fetched, so the next holder is told.
            let seen = self.seen.entry(partition).or_default();
            *seen = claim.fetched.max(*seen);
            let (number, is_member) = (process.number, process.is_member);
            if is_member && self.random.bool() {
                self.processes[index].claims.remove(&partition);
                self.note(
                    number,
                    Note::Revoked {
                        partitions: vec![at(partition)],
                    },
                );
            }
        }
    }

    fn give(&mut self, index: usize, partition: u32) {
        let claim = Claim {
            next: self.committed.get(&partition).copied().unwrap_or_default(),
            fetched: 0,
            seen_upto: self.seen.get(&partition).copied().unwrap_or_default(),
            epoch: self.epoch,
            is_told: false,
            is_held: true,
        };
        self.processes[index].claims.insert(partition, claim);
        if self.random.u32(0..8) > 0 {
            self.tell(index);
        }
    }

    /// A process writes down what it has been told, perhaps late. Where it begins it asks then.
    fn tell(&mut self, index: usize) {
        let process = self.processes[index].clone();
        for (partition, claim) in process.claims.iter().filter(|(_, claim)| !claim.is_told) {
            let assigned = Note::Assigned {
                group: GROUP.to_owned(),
                member: process.member(),
                instance: process.instance.clone(),
                epoch: claim.epoch,
                group_epoch: claim.epoch,
                partitions: vec![at(*partition)],
            };
            self.note(process.number, assigned);
            if !claim.is_held {
                self.processes[index].claims.remove(partition);
                continue;
            }
            let committed = self.committed.get(partition).copied().unwrap_or_default();
            if let Some(claim) = self.processes[index].claims.get_mut(partition) {
                (claim.is_told, claim.next) = (true, committed);
            }
        }
    }

    fn poll(&mut self, index: usize) {
        let process = self.processes[index].clone();
        let told: Vec<u32> = process
            .claims
            .iter()
            .filter(|(_, claim)| claim.is_told)
            .map(|(partition, _)| *partition)
            .collect();
        if told.is_empty() {
            return;
        }
        let partition = told[self.random.usize(0..told.len())];
        for _ in 0..self.random.u32(1..4) {
            self.poll_one(index, partition);
        }
    }

    fn poll_one(&mut self, index: usize, partition: u32) -> bool {
        let log = self.logs.entry(partition).or_default();
        let process = &mut self.processes[index];
        let Some(claim) = process.claims.get_mut(&partition) else {
            return false;
        };
        let end = if claim.is_held { len_of(log) } else { claim.fetched };
        if claim.next >= end {
            return false;
        }
        let polled = Note::Polled {
            group: GROUP.to_owned(),
            at: at(partition),
            offset: claim.next,
            uid: log[usize::try_from(claim.next).unwrap()],
            redelivered: claim.next < claim.seen_upto,
        };
        claim.next += 1;
        if claim.is_held {
            let seen = self.seen.entry(partition).or_default();
            *seen = claim.next.max(*seen);
        }
        let number = process.number;
        self.note(number, polled);
        true
    }

    /// Begins a commit, or ends the one that is under way.
    fn commit(&mut self, index: usize) {
        let process = self.processes[index].clone();
        if let Some((op, partition, offset, epoch)) = process.committing {
            self.processes[index].committing = None;
            return self.end_commit(index, op, (partition, offset, epoch));
        }
        let told = process.claims.iter().find(|(_, claim)| claim.is_told);
        let Some((partition, claim)) = told else {
            return;
        };
        if process.commits_itself {
            self.keep(index, (*partition, claim.next, claim.epoch));
            return;
        }
        let commit = Op::Commit {
            group: GROUP.to_owned(),
            member: process.member(),
            offsets: vec![(at(*partition), claim.next)],
        };
        let op = self.invoke(process.number, commit);
        self.processes[index].committing = Some((op, *partition, claim.next, claim.epoch));
        if self.random.bool() {
            self.commit(index);
        }
    }

    fn end_commit(&mut self, index: usize, op: u64, commit: (u32, i64, u32)) {
        let number = self.processes[index].number;
        let outcome = self.random.u32(0..8);
        let is_kept = outcome != 0 && self.keep(index, commit);
        let is = match outcome {
            0 | 1 => Body::Info("timeout".to_owned()),
            _ if is_kept => Body::Ok(Done::Done),
            _ => Body::Fail("not held".to_owned()),
        };
        self.log(number, op, is);
    }

    /// Commits, if the process holds the partition as it did when it asked.
    fn keep(&mut self, index: usize, (partition, offset, epoch): (u32, i64, u32)) -> bool {
        let claim = self.processes[index].claims.get(&partition);
        let holds = claim.is_some_and(|claim| claim.is_held && claim.is_told && claim.epoch == epoch);
        if holds {
            self.committed.insert(partition, offset);
        }
        holds
    }

    fn view(&mut self) {
        let op = self.invoke(
            u32::MAX,
            Op::Describe {
                group: GROUP.to_owned(),
            },
        );
        let members = self.members().into_iter().map(|index| {
            let process = &self.processes[index];
            let held = process.claims.iter().filter(|(_, claim)| claim.is_held);
            Held {
                member: process.member(),
                partitions: held.map(|(partition, _)| at(*partition)).collect(),
            }
        });
        let view = View {
            group_epoch: self.epoch,
            members: members.collect(),
            committed: self
                .committed
                .iter()
                .map(|(partition, offset)| (at(*partition), *offset))
                .collect(),
        };
        self.log(u32::MAX, op, Body::Ok(Done::Described(view)));
    }

    /// A process goes: it is killed, or it is stopped and goes on as one that has lost everything.
    fn go(&mut self, index: usize, is_killed: bool) {
        if !self.processes[index].is_member {
            return;
        }
        if let Some((_, partition, offset, epoch)) = self.processes[index].committing
            && self.random.bool()
        {
            // It is kept, and its answer is not heard.
            self.keep(index, (partition, offset, epoch));
            self.processes[index].committing = None;
        }
        self.processes[index].is_member = false;
        self.rebalance();
        if is_killed {
            let process = &mut self.processes[index];
            (process.committing, process.claims) = (None, BTreeMap::new());
        }
    }

    /// A static member starts again while the old process may still be there.
    fn restart(&mut self, index: usize) {
        let old = self.processes[index].clone();
        if !old.is_member || old.instance.is_none() {
            return;
        }
        let held: BTreeSet<u32> = old
            .claims
            .iter()
            .filter(|(_, claim)| claim.is_held)
            .map(|(partition, _)| *partition)
            .collect();
        self.processes[index].is_member = false;
        for partition in &held {
            self.release(*partition);
        }
        self.count += 1;
        let join = Op::Join {
            group: GROUP.to_owned(),
            instance: old.instance.clone(),
            auto_commit: old.commits_itself,
        };
        let op = self.invoke(self.count, join);
        self.log(self.count, op, Body::Ok(Done::Done));
        self.processes.push(Process {
            number: self.count,
            instance: old.instance,
            commits_itself: old.commits_itself,
            is_member: true,
            ..Process::default()
        });
        for partition in held {
            self.give(self.processes.len() - 1, partition);
        }
    }

    /// Everything is read and committed.
    fn drain(&mut self) {
        for index in self.members() {
            self.processes[index].committing = None;
            self.tell(index);
            let held: Vec<u32> = self.processes[index]
                .claims
                .iter()
                .filter(|(_, claim)| claim.is_held)
                .map(|(partition, _)| *partition)
                .collect();
            for partition in held {
                while self.poll_one(index, partition) {}
                let end = self.logs.get(&partition).map_or(0, |log| len_of(log));
                let process = &self.processes[index];
                let commit = Op::Commit {
                    group: GROUP.to_owned(),
                    member: process.member(),
                    offsets: vec![(at(partition), end)],
                };
                let (number, epoch) = (process.number, process.claims[&partition].epoch);
                let op = self.invoke(number, commit);
                assert!(self.keep(index, (partition, end, epoch)), "everything is held");
                self.log(number, op, Body::Ok(Done::Done));
            }
        }
        self.view();
    }
}

/// The offset behind the last record.
fn len_of(log: &[Uid]) -> i64 {
    i64::try_from(log.len()).unwrap()
}
