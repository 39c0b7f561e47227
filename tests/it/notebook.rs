//! Where a process writes down its history: one line for each event, in the file before anything follows from it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;

use naru::history::{At, Body, Event, Note, Op, Uid, read, write};
use rustix::time::{ClockId, clock_gettime};

/// The files of all processes of a test; kept if it fails, to be looked at.
pub(crate) struct Histories(tempfile::TempDir);

impl Histories {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Of a process of this number, which is to be the only one.
    pub(crate) fn book(&self, process: u32) -> Notebook {
        Notebook::create(&self.path().join(format!("process-{process}.ndjson")), process)
    }

    /// What all have written so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for entry in fs::read_dir(self.path()).unwrap() {
            let path = entry.unwrap().path();
            // What a process says on its standard error lies beside.
            if path.extension().is_none_or(|is| is != "ndjson") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            events.extend(read(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        }
        events
    }
}

impl Drop for Histories {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the processes wrote down is in {}", self.path().display());
            self.0.disable_cleanup(true);
        }
    }
}

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

    pub(crate) fn note(&self, note: Note) {
        self.with(|pen| pen.note(note));
    }

    pub(crate) fn nemesis(&self, what: impl Into<String>) {
        self.note(Note::Nemesis(what.into()));
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
