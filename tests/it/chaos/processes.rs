//! The processes of the members: five places, each with a process, or none for a while, or one that is stopped.

use std::env;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::member::Orders;
use crate::broker::signal;
use crate::peer::PATIENCE;

/// The variable that makes the test a member; it carries the orders.
pub(crate) const MEMBER: &str = "NARU_TEST_CHAOS_MEMBER";

/// The test that is a member then.
const TEST: &str = "chaos::a_member_writes_down_what_it_reads_and_commits";

/// What each place is: the name of a static member, and whether it commits by itself.
const PLACES: [(Option<&str>, bool); 5] = [
    (None, false),
    (None, true),
    (Some("desk"), false),
    (Some("till"), true),
    (None, false),
];

/// A place is empty for at most so long; a dynamic member whose connection is gone is removed after 2 s.
const GONE_MS_MAX: u64 = 3_000;

/// Stopped within the session, and beyond it.
const STOPPED_MS: [std::ops::Range<u64>; 2] = [100..900, 1_800..4_500];

/// How often what was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) started: u32,
    pub(crate) killed: u32,
    pub(crate) stopped: u32,
    /// Processes that left when they were asked to.
    pub(crate) left: u32,
    /// Static members that started again while their earlier process was stopped.
    pub(crate) replaced: u32,
    /// Of those that were in their place, how many were told that another one has it.
    pub(crate) fenced: u32,
}

/// A process, killed at the end.
struct Process {
    number: u32,
    child: Child,
}

impl Process {
    fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().unwrap();
        if let Some(status) = status {
            assert!(status.success(), "process {} ended with {status}", self.number);
        }
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; one that is stopped can be killed, too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

enum Place {
    Empty { until: Instant },
    Running(Process),
    Stopped { process: Process, until: Instant },
}

pub(crate) struct Processes {
    dir: PathBuf,
    url: String,
    group: &'static str,
    topic: &'static str,
    places: Vec<Place>,
    /// Stopped, and somebody else has their place: until when.
    zombies: Vec<(Process, Instant)>,
    /// They were asked to leave, or go on where another process is in their place: they end, or come back when it has left.
    ending: Vec<Process>,
    counts: Counts,
}

impl Processes {
    pub(crate) fn new(dir: PathBuf, url: String, (group, topic): (&'static str, &'static str)) -> Self {
        let now = crate::peer::now();
        Self {
            dir,
            url,
            group,
            topic,
            places: PLACES.iter().map(|_| Place::Empty { until: now }).collect(),
            zombies: Vec::new(),
            ending: Vec::new(),
            counts: Counts::default(),
        }
    }

    pub(crate) fn start_all(&mut self) {
        for place in 0..PLACES.len() {
            self.start(place);
        }
    }

    /// Starts one process, and never another one: empty places would be taken as soon as somebody looks.
    pub(crate) fn start_alone(&mut self) {
        self.places.truncate(1);
        self.start(0);
    }

    /// Starts a process in an empty place.
    fn start(&mut self, place: usize) {
        self.counts.started += 1;
        let number = self.counts.started;
        let (instance, commits_itself) = PLACES[place];
        let orders = Orders {
            process: number,
            url: self.url.clone(),
            group: self.group.to_owned(),
            topic: self.topic.to_owned(),
            instance: instance.map(str::to_owned),
            commits_itself,
            notebook: self.dir.join(format!("process-{number}.ndjson")),
        };
        let said = File::create_new(self.dir.join(format!("process-{number}.log"))).unwrap();
        let child = Command::new(env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture", "--test-threads=1"])
            .env(MEMBER, serde_json::to_string(&orders).unwrap())
            .stdin(Stdio::piped())
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn()
            .unwrap();
        self.places[place] = Place::Running(Process { number, child });
    }

    fn empty(&mut self, place: usize, until: Instant) -> Place {
        std::mem::replace(&mut self.places[place], Place::Empty { until })
    }

    /// Whatever is due: empty places are taken, stopped processes go on.
    pub(crate) fn go_on(&mut self) {
        let now = crate::peer::now();
        for index in 0..self.places.len() {
            match &mut self.places[index] {
                Place::Empty { until } if *until <= now => self.start(index),
                Place::Stopped { until, .. } if *until <= now => self.wake(index),
                Place::Running(process) => {
                    if process.ended().is_some() {
                        self.counts.fenced += 1;
                        self.empty(index, now);
                    }
                }
                Place::Empty { .. } | Place::Stopped { .. } => {}
            }
        }
        let (due, still) = std::mem::take(&mut self.zombies)
            .into_iter()
            .partition(|(_, until)| *until <= now);
        self.zombies = still;
        self.let_go(due);
        self.ending.retain_mut(|process| process.ended().is_none());
    }

    fn wake(&mut self, place: usize) {
        match self.empty(place, crate::peer::now()) {
            Place::Stopped { process, .. } => {
                signal(&process.child, Signal::CONT);
                self.places[place] = Place::Running(process);
            }
            other => self.places[place] = other,
        }
    }

    /// Zombies go on, and find out.
    fn let_go(&mut self, zombies: Vec<(Process, Instant)>) {
        for (process, _) in zombies {
            signal(&process.child, Signal::CONT);
            self.ending.push(process);
        }
    }

    /// Does something to one of them; what, in words.
    pub(crate) fn disturb(&mut self, random: &mut fastrand::Rng) -> String {
        let place = random.usize(0..PLACES.len());
        let (what, long) = (random.u32(0..10), random.usize(0..2));
        let gone = crate::peer::now() + Duration::from_millis(random.u64(0..GONE_MS_MAX));
        let stopped = crate::peer::now() + Duration::from_millis(random.u64(STOPPED_MS[long].clone()));
        match self.empty(place, gone) {
            Place::Running(mut process) if what < 3 => {
                self.counts.killed += 1;
                process.child.kill().unwrap();
                process.child.wait().unwrap();
                format!("process {} was killed", process.number)
            }
            Place::Running(mut process) if what < 6 => {
                self.counts.left += 1;
                drop(process.child.stdin.take());
                let number = process.number;
                self.ending.push(process);
                format!("process {number} is to leave")
            }
            Place::Running(process) => {
                self.counts.stopped += 1;
                signal(&process.child, Signal::STOP);
                let number = process.number;
                self.places[place] = Place::Stopped {
                    process,
                    until: stopped,
                };
                format!("process {number} was stopped")
            }
            Place::Stopped { process, until } if PLACES[place].0.is_some() && what < 7 => {
                self.counts.replaced += 1;
                let number = process.number;
                self.zombies.push((process, until));
                self.start(place);
                format!("process {number} is stopped, and another one takes its place")
            }
            other => {
                self.places[place] = other;
                "nothing".to_owned()
            }
        }
    }

    /// Everybody goes on, and nobody is missing.
    pub(crate) fn heal(&mut self) {
        for index in 0..self.places.len() {
            self.wake(index);
        }
        let zombies = std::mem::take(&mut self.zombies);
        self.let_go(zombies);
        for process in &mut self.ending {
            drop(process.child.stdin.take());
        }
        self.go_on();
    }

    /// Everybody leaves; all of them end well.
    pub(crate) async fn leave_all(&mut self) -> Counts {
        for index in 0..self.places.len() {
            if let Place::Running(mut process) = self.empty(index, crate::peer::now()) {
                drop(process.child.stdin.take());
                self.ending.push(process);
            }
        }
        let deadline = crate::peer::now() + PATIENCE;
        while !self.ending.is_empty() && crate::peer::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.ending.retain_mut(|process| process.ended().is_none());
        }
        let left: Vec<u32> = self.ending.iter().map(|process| process.number).collect();
        assert!(left.is_empty(), "processes {left:?} do not leave");
        self.counts
    }
}
