//! A broker in memory that does everything right, and the history of it: a group with members that come, go, are killed and
//! are stopped, and that commit and step; beside it producers, readers and faults, which are in the modules below.

mod clients;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use self::clients::{OnTheWay, Reader};
use self::store::Store;
use crate::history::{At, Body, Done, Event, Held, Note, Op, Output, Phase, Reset, Uid, View};

const PARTITIONS: u32 = 3;
const STEPS: usize = 420;
/// What the group reads, what it writes, and what it has nothing to do with.
const ORDERS: &str = "orders";
const BILLS: &str = "bills";
const EVENTS: &str = "events";
pub(super) const GROUP: &str = "g";

/// A history from a seed.
pub(super) fn history(seed: u64) -> Vec<Event> {
    let mut group = Reference {
        random: fastrand::Rng::with_seed(seed),
        ..Reference::default()
    };
    group.rots = group.random.u32(0..3) == 0;
    group.phase(Phase::Chaos);
    group.join(None);
    for _ in 0..STEPS {
        group.step();
    }
    group.phase(Phase::Healed);
    group.settle();
    group.drain();
    group.read_everything();
    group.events
}

fn at(partition: u32) -> At {
    place(ORDERS, partition)
}

fn place(topic: &str, partition: u32) -> At {
    At {
        topic: topic.to_owned(),
        partition,
    }
}

/// A commit on its way, perhaps as a part of a step.
#[derive(Clone, Debug)]
struct Committing {
    op: u64,
    partition: u32,
    offset: i64,
    epoch: u32,
    outputs: Vec<Output>,
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
    /// The end of what it has tried to step.
    stepped: i64,
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
    committing: Option<Committing>,
}

#[derive(Default)]
struct Reference {
    random: fastrand::Rng,
    events: Vec<Event>,
    store: Store,
    on_the_way: Vec<OnTheWay>,
    /// Batches that are there, with their offsets.
    answers: Vec<(OnTheWay, i64)>,
    readers: Vec<Reader>,
    rots: bool,
    /// Records so far.
    made: u64,
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
        match self.random.u32(0..160) {
            0..14 => self.produce(),
            14..28 => self.arrive(),
            28..48 => self.answer(),
            48..80 => self.poll(any),
            80..104 => self.commit(any),
            104..108 => self.view(),
            108..112 if self.members().len() < 4 => {
                let instance = self.random.bool().then(|| format!("desk-{}", self.count));
                self.join(instance);
            }
            112..114 => self.restart(any),
            114..117 if self.members().len() > 1 => self.go(any, true),
            117..120 if self.members().len() > 1 => self.go(any, false),
            120..140 => self.read(),
            140..146 => self.ask(),
            146..150 => self.harm(),
            150 => self.passing_topic(),
            _ => self.tell(any),
        }
    }

    fn end(&mut self, partition: u32) -> i64 {
        self.store.of(&at(partition)).end()
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
            reset: Reset::Earliest,
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
        let end = self.end(partition);
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
            stepped: 0,
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
                (claim.is_told, claim.next, claim.stepped) = (true, committed, committed);
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
        let log = self.store.of(&at(partition)).clone();
        let process = &mut self.processes[index];
        let Some(claim) = process.claims.get_mut(&partition) else {
            return false;
        };
        let end = if claim.is_held { log.end() } else { claim.fetched };
        if claim.next >= end {
            return false;
        }
        let polled = Note::Polled {
            group: GROUP.to_owned(),
            at: at(partition),
            offset: claim.next,
            uid: log.at(claim.next),
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

    /// Begins a commit or a step, or ends the one that is under way.
    fn commit(&mut self, index: usize) {
        let process = self.processes[index].clone();
        if let Some(committing) = process.committing {
            self.processes[index].committing = None;
            return self.end_commit(index, committing);
        }
        let told = process.claims.iter().find(|(_, claim)| claim.is_told);
        let Some((partition, claim)) = told else {
            return;
        };
        let committing = Committing {
            op: 0,
            partition: *partition,
            offset: claim.next,
            epoch: claim.epoch,
            outputs: Vec::new(),
        };
        if process.commits_itself {
            self.keep(index, &committing);
            return;
        }
        // A step with an unknown outcome is not taken again by whoever took it.
        let is_step = claim.next > claim.stepped && self.random.u32(0..3) == 0;
        let (group, member) = (GROUP.to_owned(), process.member());
        let offsets = vec![(at(*partition), claim.next)];
        let outputs = match is_step {
            true => self.outputs(process.number, (at(*partition), claim.next - 1)),
            false => Vec::new(),
        };
        let op = match is_step {
            true => Op::Step {
                group,
                member,
                outputs: outputs.clone(),
                offsets,
            },
            false => Op::Commit {
                group,
                member,
                offsets,
            },
        };
        if let Some(claim) = self.processes[index]
            .claims
            .get_mut(partition)
            .filter(|_| is_step)
        {
            claim.stepped = claim.next;
        }
        let op = self.invoke(process.number, op);
        self.processes[index].committing = Some(Committing {
            op,
            outputs,
            ..committing
        });
        if self.random.bool() {
            self.commit(index);
        }
    }

    /// One or two bills for an order.
    fn outputs(&mut self, process: u32, of: (At, i64)) -> Vec<Output> {
        (0..self.random.u32(1..3))
            .map(|number| {
                self.made += 1;
                Output {
                    at: place(BILLS, number),
                    uid: Uid {
                        process,
                        number: self.made,
                    },
                    of: Some(of.clone()),
                }
            })
            .collect()
    }

    fn end_commit(&mut self, index: usize, commit: Committing) {
        let number = self.processes[index].number;
        let outcome = self.random.u32(0..16);
        let kept = if outcome == 0 {
            None
        } else {
            self.keep(index, &commit)
        };
        let is = match (outcome, kept) {
            (0 | 1, _) => Body::Info("timeout".to_owned()),
            (_, Some(_)) if commit.outputs.is_empty() => Body::Ok(Done::Done),
            (_, Some(offsets)) => Body::Ok(Done::Stepped(offsets)),
            (_, None) => Body::Fail("not held".to_owned()),
        };
        self.log(number, commit.op, is);
    }

    /// Commits and appends, if the process holds the partition as it did when it asked.
    fn keep(&mut self, index: usize, commit: &Committing) -> Option<Vec<i64>> {
        let claim = self.processes[index].claims.get(&commit.partition)?;
        if !(claim.is_held && claim.is_told && claim.epoch == commit.epoch) {
            return None;
        }
        self.committed.insert(commit.partition, commit.offset);
        let outputs = commit.outputs.iter();
        Some(
            outputs
                .map(|output| self.store.append(&output.at, &[output.uid], true))
                .collect(),
        )
    }

    fn committed_offsets(&self) -> Vec<(At, i64)> {
        let committed = self.committed.iter();
        committed
            .map(|(partition, offset)| (at(*partition), *offset))
            .collect()
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
            committed: self.committed_offsets(),
        };
        self.log(u32::MAX, op, Body::Ok(Done::Described(view)));
    }

    /// A process goes: it is killed, or it is stopped and goes on as one that has lost everything.
    fn go(&mut self, index: usize, is_killed: bool) {
        if !self.processes[index].is_member {
            return;
        }
        if let Some(commit) = self.processes[index].committing.clone()
            && self.random.bool()
        {
            // It is kept, and its answer is not heard.
            self.keep(index, &commit);
            self.processes[index].committing = None;
            if !is_killed {
                let number = self.processes[index].number;
                self.log(number, commit.op, Body::Info("timeout".to_owned()));
            }
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
            reset: Reset::Earliest,
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
        for index in 0..self.processes.len() {
            if let Some(commit) = self.processes[index].committing.take() {
                self.end_commit(index, commit);
            }
        }
        for index in self.members() {
            self.tell(index);
            let held: Vec<u32> = self.processes[index]
                .claims
                .iter()
                .filter(|(_, claim)| claim.is_held)
                .map(|(partition, _)| *partition)
                .collect();
            for partition in held {
                while self.poll_one(index, partition) {}
                let process = self.processes[index].clone();
                let commit = Committing {
                    op: 0,
                    partition,
                    offset: self.end(partition),
                    epoch: process.claims[&partition].epoch,
                    outputs: Vec::new(),
                };
                let op = Op::Commit {
                    group: GROUP.to_owned(),
                    member: process.member(),
                    offsets: vec![(at(partition), commit.offset)],
                };
                let op = self.invoke(process.number, op);
                assert!(self.keep(index, &commit).is_some(), "everything is held");
                self.log(process.number, op, Body::Ok(Done::Done));
            }
        }
        self.view();
    }
}
