//! Where a process writes down its history: one line for each event, in the file before anything follows from it.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;

use naru::history::{At, Body, Event, Note, Op, Uid, write};
use rustix::time::{ClockId, clock_gettime};

/// One process, and its file. What happens inside of [`with`](Self::with) cannot be overtaken in the file by anything else of it.
pub(crate) struct Notebook {
    pen: Mutex<Pen>,
}

pub(crate) struct Pen {
    process: u32,
    file: File,
    ops: u64,
}

impl Notebook {
    pub(crate) fn create(path: &Path, process: u32) -> Self {
        let file = File::create_new(path).unwrap();
        Self {
            pen: Mutex::new(Pen {
                process,
                file,
                ops: 0,
            }),
        }
    }

    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Pen) -> T) -> T {
        work(&mut self.pen.lock().unwrap())
    }

    /// Begins an operation.
    pub(crate) fn invoke(&self, op: Op) -> u64 {
        self.with(|pen| {
            pen.ops += 1;
            pen.write(pen.ops, Body::Invoke(op));
            pen.ops
        })
    }

    pub(crate) fn end(&self, op: u64, is: Body) {
        self.with(|pen| pen.write(op, is));
    }

    pub(crate) fn nemesis(&self, what: impl Into<String>) {
        self.with(|pen| pen.note(Note::Nemesis(what.into())));
    }
}

impl Pen {
    pub(crate) fn note(&mut self, note: Note) {
        self.write(0, Body::Note(note));
    }

    fn write(&mut self, op: u64, is: Body) {
        let event = Event {
            t: now(),
            process: self.process,
            op,
            is,
        };
        // One write of one line: a kill leaves it out or cuts the last line off, and what is in the file outlives the process.
        self.file.write_all(write(&event).as_bytes()).unwrap();
    }
}

/// Nanoseconds of the clock that all processes of the machine share.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

pub(crate) fn at(topic: &str, partition: u32) -> At {
    At {
        topic: topic.to_owned(),
        partition,
    }
}

/// The value of a record: which it is, and something behind it.
pub(crate) fn value(uid: Uid) -> String {
    let filler = usize::try_from(uid.number % 97).unwrap();
    format!("{uid}/{}", ".".repeat(filler))
}

pub(crate) fn uid(value: &[u8]) -> Uid {
    let text = std::str::from_utf8(value).unwrap();
    let found: Uid = text.split_once('/').unwrap().0.parse().unwrap();
    assert_eq!(text, self::value(found), "the record is as it was made");
    found
}
