//! Producers with many batches on the way, readers without a group, faults, and the reading at the end.

use super::{EVENTS, Reference, at, place};
use crate::history::{
    At, Body, Done, Edge, Fault, FaultKind, Level, Note, Numbered, Op, Phase, Range, Start, Stored, Uid,
};

/// Process numbers: producers, readers, whoever asks about partitions, and whoever does harm.
const PRODUCERS: std::ops::Range<u32> = 1_000..1_004;
const READERS: std::ops::Range<u32> = 2_000..2_003;
const ASKING: u32 = 3_000;
const NEMESIS: u32 = 4_000;
const FINAL: u32 = 5_000;

/// A batch on its way to the broker.
#[derive(Clone, Debug)]
pub(super) struct OnTheWay {
    process: u32,
    op: u64,
    at: At,
    uids: Vec<Uid>,
    level: Level,
    is_given_up: bool,
}

/// A reader without a group.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    process: u32,
    at: At,
    next: i64,
}

impl Reference {
    pub(super) fn produce(&mut self) {
        let process = self.random.u32(PRODUCERS);
        // Always both, so that an order of a session can be seen in them.
        let at = match self.random.u32(0..5) {
            0..3 => at(self.random.u32(0..super::PARTITIONS)),
            _ => place(EVENTS, self.random.u32(0..2)),
        };
        let level = match at.topic == EVENTS && self.random.u32(0..4) == 0 {
            true => Level::Memory,
            false => Level::Fsync,
        };
        let uids: Vec<Uid> = (0..[1, 1, 1, 2, 3][self.random.usize(0..5)])
            .map(|_| {
                self.made += 1;
                Uid {
                    process,
                    number: self.made,
                }
            })
            .collect();
        let first = uids[0].number;
        let op = Op::Produce {
            at: at.clone(),
            uids: uids.clone(),
            session: Some(u64::from(process)),
            sequence: self.random.bool().then_some(Numbered {
                producer: u64::from(process),
                epoch: 1,
                first,
            }),
        };
        let op = self.invoke(process, op);
        self.on_the_way.push(OnTheWay {
            process,
            op,
            at,
            uids,
            level,
            is_given_up: false,
        });
    }

    /// The oldest batch of some producer arrives.
    pub(super) fn arrive(&mut self) {
        let process = self.random.u32(PRODUCERS);
        let Some(first) = self.on_the_way.iter().position(|batch| batch.process == process) else {
            return;
        };
        let batch = self.on_the_way.remove(first);
        let outcome = self.random.u32(0..40);
        if outcome == 0 && !batch.is_given_up {
            return self.log(process, batch.op, Body::Fail("no".to_owned()));
        }
        if outcome == 1 {
            return self.give_up(&batch);
        }
        let base = self
            .store
            .append(&batch.at, &batch.uids, batch.level == Level::Fsync);
        if outcome == 2 {
            return self.give_up(&batch);
        }
        self.answers.push((batch, base));
    }

    fn give_up(&mut self, batch: &OnTheWay) {
        if !batch.is_given_up {
            self.log(batch.process, batch.op, Body::Info("timeout".to_owned()));
        }
    }

    /// An answer is understood, or somebody has waited for too long, and the batch arrives later all the same.
    pub(super) fn answer(&mut self) {
        if !self.on_the_way.is_empty() && self.random.u32(0..40) == 0 {
            let late = self.random.usize(0..self.on_the_way.len());
            let batch = self.on_the_way[late].clone();
            self.on_the_way[late].is_given_up = true;
            return self.give_up(&batch);
        }
        if self.answers.is_empty() {
            return;
        }
        let any = self.random.usize(0..self.answers.len());
        let (batch, base) = self.answers.remove(any);
        if !batch.is_given_up {
            let stored = Stored {
                base,
                level: batch.level,
            };
            self.log(batch.process, batch.op, Body::Ok(Done::Produced(stored)));
        }
    }

    pub(super) fn read(&mut self) {
        if self.readers.len() < READERS.len() || self.random.u32(0..8) == 0 {
            return self.begin_to_read();
        }
        let any = self.random.usize(0..self.readers.len());
        let mut reader = self.readers[any].clone();
        self.read_more(&mut reader, 4);
        self.readers[any] = reader;
    }

    fn begin_to_read(&mut self) {
        let process = self.random.u32(READERS);
        let partition = self.random.u32(0..2);
        let at = [at(partition), place(EVENTS, partition)][self.random.usize(0..2)].clone();
        let stored = self.store.of(&at).clone();
        let (from, next) = match self.random.u32(0..3) {
            0 => (Start::Earliest, stored.start),
            1 => (Start::Latest, stored.end()),
            _ => {
                let from = self.random.i64(stored.start..=stored.end());
                (Start::Offset(from), from)
            }
        };
        self.readers.retain(|reader| reader.process != process);
        self.note(process, Note::Reading { at: at.clone(), from });
        self.readers.push(Reader { process, at, next });
    }

    /// False: there is nothing more.
    fn read_more(&mut self, reader: &mut Reader, most: i64) -> bool {
        let stored = self.store.of(&reader.at).clone();
        if reader.next >= stored.end() {
            return false;
        }
        let (damaged, records, next) = stored.read(reader.next, most);
        if let Some(damaged) = damaged {
            self.note(reader.process, Note::Damaged(damaged.clone()));
        } else {
            let at = reader.at.clone();
            self.note(reader.process, Note::Read { at, records, next });
        }
        reader.next = next;
        true
    }

    /// Somebody asks where a partition ends or begins, or how far the group is.
    pub(super) fn ask(&mut self) {
        let at = [at(0), at(1), place(EVENTS, 0), place(EVENTS, 1)][self.random.usize(0..4)].clone();
        match self.random.u32(0..3) {
            0 => self.ask_for_end(ASKING, &at),
            1 => {
                let edge = Edge::Start;
                let op = self.invoke(ASKING, Op::Offset { at: at.clone(), edge });
                let start = self.store.of(&at).start;
                self.log(ASKING, op, Body::Ok(Done::Offset(start)));
            }
            _ => {
                let of: Vec<At> = (0..super::PARTITIONS).map(super::at).collect();
                let group = super::GROUP.to_owned();
                let op = self.invoke(ASKING, Op::Committed { group, of });
                let committed = self.committed_offsets();
                self.log(ASKING, op, Body::Ok(Done::Committed(committed)));
            }
        }
    }

    fn ask_for_end(&mut self, process: u32, at: &At) {
        let edge = Edge::End;
        let op = self.invoke(process, Op::Offset { at: at.clone(), edge });
        let end = self.store.of(at).end();
        self.log(process, op, Body::Ok(Done::Offset(end)));
    }

    fn fault(&mut self, kind: FaultKind, is_over: bool, damaged: Vec<Range>) {
        let what = String::new();
        self.note(
            NEMESIS,
            Note::Fault(Fault {
                kind,
                is_over,
                what,
                damaged,
            }),
        );
    }

    /// Something is done to the broker.
    pub(super) fn harm(&mut self) {
        match self.random.u32(0..6) {
            0..2 => self.store.sync(),
            2 => {
                let kinds = [FaultKind::Kill, FaultKind::PowerCut, FaultKind::Restart];
                let kind = kinds[self.random.usize(0..3)];
                self.fault(kind, false, Vec::new());
                self.store.forget();
                self.fault(kind, true, Vec::new());
            }
            3 => self.trim(),
            4 if self.rots => self.rot(),
            _ => self.note(NEMESIS, Note::Nemesis("looked at it".to_owned())),
        }
    }

    fn trim(&mut self) {
        // The other one is never trimmed.
        let at = place(EVENTS, 0);
        let stored = self.store.of(&at);
        let (start, end) = (stored.start, stored.end());
        let before = self.random.i64(start..=end).min(start + 5);
        let op = Op::Trim {
            at: at.clone(),
            before,
        };
        let op = self.invoke(ASKING, op);
        if self.random.u32(0..4) > 0 {
            self.store.of(&at).start = before;
        }
        let is = match self.store.of(&at).start == before {
            true => Body::Ok(Done::Done),
            false => Body::Info("timeout".to_owned()),
        };
        self.log(ASKING, op, is);
    }

    fn rot(&mut self) {
        let at = place(EVENTS, 1);
        let end = self.store.of(&at).end();
        if end < 6 || self.store.of(&at).damaged.is_some() {
            return;
        }
        let first = self.random.i64(1..end - 3);
        let damaged = Range {
            at: at.clone(),
            first,
            last: first + self.random.i64(0..3),
        };
        self.store.of(&at).damaged = Some(damaged.clone());
        self.fault(FaultKind::Rot, false, vec![damaged]);
    }

    /// A topic that comes and goes.
    pub(super) fn passing_topic(&mut self) {
        let topic = format!("passing-{}", self.ops);
        let (partitions, in_memory) = (1, false);
        let create = Op::CreateTopic {
            topic: topic.clone(),
            partitions,
            in_memory,
        };
        let op = self.invoke(ASKING, create);
        self.log(ASKING, op, Body::Ok(Done::Done));
        let at = place(&topic, 0);
        self.made += 1;
        let uid = Uid {
            process: ASKING,
            number: self.made,
        };
        let produce = Op::Produce {
            at: at.clone(),
            uids: vec![uid],
            session: None,
            sequence: None,
        };
        let op = self.invoke(ASKING, produce);
        self.log(ASKING, op, Body::Ok(Done::Produced(Stored::fsync(0))));
        let op = self.invoke(ASKING, Op::DeleteTopic { topic });
        self.log(ASKING, op, Body::Ok(Done::Done));
    }

    pub(super) fn phase(&mut self, phase: Phase) {
        self.note(NEMESIS, Note::Phase(phase));
    }

    /// All that is on its way arrives and is answered.
    pub(super) fn settle(&mut self) {
        while !self.on_the_way.is_empty() {
            self.arrive();
        }
        while !self.answers.is_empty() {
            self.answer();
        }
        self.store.sync();
    }

    /// Everything is read, the broker starts again, and everything is read once more.
    pub(super) fn read_everything(&mut self) {
        self.phase(Phase::FinalRead);
        self.read_all(FINAL);
        self.fault(FaultKind::Restart, false, Vec::new());
        self.fault(FaultKind::Restart, true, Vec::new());
        self.phase(Phase::SecondRead);
        self.read_all(FINAL + 1);
        // Everybody is still there.
        for process in PRODUCERS.chain([ASKING]) {
            self.note(process, Note::Nemesis("is there".to_owned()));
        }
    }

    fn read_all(&mut self, process: u32) {
        let all: Vec<At> = self.store.0.keys().cloned().collect();
        for at in all {
            let next = self.store.of(&at).start;
            let from = Start::Earliest;
            self.note(process, Note::Reading { at: at.clone(), from });
            let mut reader = Reader { process, at, next };
            while self.read_more(&mut reader, 50) {}
            let at = reader.at;
            if next == reader.next {
                // An empty partition is read through, too.
                let records = Vec::new();
                self.note(
                    process,
                    Note::Read {
                        at: at.clone(),
                        records,
                        next,
                    },
                );
            }
            self.ask_for_end(process, &at);
        }
    }
}
