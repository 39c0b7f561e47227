//! The broker over the engine on a simulated disk: the power fails before every operation of a recorded run, and what was
//! acknowledged about topics and groups is there, whole, and nothing else.

pub(super) mod members;

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::api::{AlterTopic, CommitOffsets, DeleteTopic, OffsetToCommit};
use crate::disk::sim::{CutProfile, SimDisk, SimOptions};
use crate::storage::PartitionLog;
use crate::storage::local::{Inline, LocalStore, Round, Settings as EngineSettings};
use crate::testing::crash::{self, Doing, Judge, Kind, Plan, Subject, explore};

const GROUPS: [&str; 2] = ["g", "h"];

/// What a group has committed, by topic id.
type Places = BTreeMap<TopicId, i64>;

/// What there is of a topic: its id, its `retention.ms`, and where each of its partitions ends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SeenTopic {
    id: TopicId,
    retention_ms: Option<u64>,
    ends: Vec<i64>,
}

/// What there is: the topics by name, and the places of each group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    topics: BTreeMap<String, SeenTopic>,
    places: BTreeMap<&'static str, Places>,
}

/// What there was after each act; the acts up to `acknowledged` were answered.
#[derive(Clone, Debug)]
struct History {
    states: Vec<Seen>,
    acknowledged: usize,
}

pub(super) struct Life {
    pub(super) broker: Arc<Broker<LocalStore>>,
    pub(super) inline: Inline,
}

/// The smallest journal there is, so that its files are used again and again.
pub(super) fn engine() -> EngineSettings {
    EngineSettings {
        journal_file_bytes: 64 << 10,
        journal_first_file_bytes: 64 << 10,
        journal_files: 3,
        memory_tail_bytes: 1 << 20,
        reserve_bytes: 0,
        apply_after: Duration::ZERO,
        ..EngineSettings::default()
    }
}

impl Life {
    pub(super) fn begin(disk: &SimDisk, ids: &Arc<CountedIds>) -> Self {
        Self::begin_at(disk, ids, &Arc::new(ManualClock::at(START)), &engine())
    }

    pub(super) fn begin_at(
        disk: &SimDisk,
        ids: &Arc<CountedIds>,
        clock: &Arc<ManualClock>,
        engine: &EngineSettings,
    ) -> Self {
        let settings = Settings::default();
        let clock = Arc::clone(clock) as Arc<dyn Clock>;
        let mut recovered = Recovered::new(&settings);
        let disk = Arc::new(disk.clone());
        let store = LocalStore::open(disk, engine, Arc::clone(&clock), &**ids, &mut recovered).unwrap();
        assert_eq!(store.report().lost_groups, 0);
        // The engine asks for snapshots, and the broker that gives them needs the engine.
        let later = Arc::new(Later::default());
        let (store, inline) = store.into_inline(Arc::clone(&later) as _);
        let ids = Arc::clone(ids) as Arc<dyn IdSource>;
        let broker = Arc::new(Broker::new(store, recovered, clock, ids, settings).unwrap());
        *later.0.lock().unwrap() = Some(Arc::clone(&broker));
        Self { broker, inline }
    }

    /// Makes room first if there is none.
    pub(super) fn ask(&mut self, request: Request) -> Response {
        self.try_ask(request).1.unwrap()
    }

    /// The LSN that the answer waits for, and the answer.
    pub(super) fn try_ask(&mut self, request: Request) -> (Lsn, Reply) {
        let mut outcome = self.broker.receive(request);
        while let Outcome::Blocked { request, .. } = outcome {
            self.make_room();
            outcome = self.broker.receive(request);
        }
        waits(outcome)
    }

    /// Does what the engine's threads do when a request waits for room.
    pub(super) fn make_room(&mut self) {
        self.inline.make_journal_file().unwrap();
        self.make_durable();
        self.inline.applier_round(true).unwrap();
    }

    pub(super) fn make_durable(&mut self) {
        while self.inline.journal().unwrap() == Round::Worked {}
    }

    /// How many records the first partition of a topic has ever had.
    pub(super) fn end(&self, topic: &str) -> usize {
        let end = self.see_topics()[topic].ends[0];
        usize::try_from(end).unwrap()
    }

    /// As requests would find it.
    fn see_topic(&self, topic: &crate::metadata::Topic) -> SeenTopic {
        let handle = self.broker.registry.with_id(topic.id).unwrap();
        assert_eq!(handle.partitions.len(), topic.partitions as usize);
        let ends = handle.partitions.iter().map(|p| p.log.bounds(Lsn::ZERO).log_end);
        SeenTopic {
            id: topic.id,
            retention_ms: handle.topic.config().retention_ms,
            ends: ends.map(Offset::get).collect(),
        }
    }

    fn see_topics(&self) -> BTreeMap<String, SeenTopic> {
        let meta = self.broker.lock_coordinator();
        let topics = meta.driver.machine.user_topics();
        topics
            .map(|topic| (topic.name.to_string(), self.see_topic(topic)))
            .collect()
    }

    fn see(&self) -> Seen {
        // As the machine has them: what is shown leaves out topics that are gone.
        let groups = &self.broker.groups.lock().driver;
        let places = GROUPS.map(|group| {
            let offsets = groups.machine.offsets(group);
            (
                group,
                offsets.map(|(key, c)| (key.topic, c.offset.get())).collect(),
            )
        });
        Seen {
            topics: self.see_topics(),
            places: places.into_iter().collect(),
        }
    }
}

/// Gives snapshots once there is a broker.
#[derive(Default)]
struct Later(Mutex<Option<Arc<Broker<LocalStore>>>>);

impl crate::storage::SnapshotSource for Later {
    fn snapshot(&self, key: crate::model::PartitionKey) -> Option<crate::storage::Snapshot> {
        let broker = self.0.lock().unwrap().clone();
        broker.and_then(|broker| broker.snapshot(key))
    }
}

fn commit(group: &str, topics: &[&str], at: i64) -> Request {
    let offsets = topics.iter().map(|topic| OffsetToCommit {
        partition: named(topic, 0),
        offset: at,
        leader_epoch: None,
        metadata: "x".repeat(300),
    });
    Request::CommitOffsets(CommitOffsets {
        member: None,
        group: group.to_owned(),
        offsets: offsets.collect(),
    })
}

/// A partition more, and other rules with it.
fn grown(partitions: u32) -> Request {
    Request::AlterTopic(AlterTopic {
        name: "t".to_owned(),
        set: vec![("retention.ms".to_owned(), (1000 * partitions).to_string())],
        partitions,
        ..AlterTopic::default()
    })
}

fn batch_to(partition: u32) -> Request {
    let payload = ProducePayload::Raw(batch(1, None));
    request(Acks::Fsync, vec![item(named("t", partition), payload)])
}

/// Commits of two groups over two topics, one of which is deleted and made again on the way, and the other one grows.
fn act(life: &mut Life, n: u32) {
    let at = i64::from(n);
    match n % 12 {
        0 => {
            let name = "u".to_owned();
            if n > 0 {
                life.ask(Request::DeleteTopic(DeleteTopic { name, id: None }));
            } else {
                life.ask(create("t", 1));
                life.ask(request(Acks::Fsync, vec![raw("t", 100)]));
            }
        }
        1 => {
            life.ask(create("u", 1));
            life.ask(request(Acks::Fsync, vec![raw("u", 100)]));
        }
        // Also: records are to be read before they are passed, and nothing is visible yet.
        2 => {
            life.ask(grown(n / 12 + 2));
        }
        6 => {
            life.ask(batch_to(n / 12 + 1));
        }
        3 | 7 | 11 => {
            life.ask(commit("h", &["t"], at));
        }
        _ => {
            life.ask(commit("g", &["t", "u"], at));
        }
    }
}

/// What the record of an act is for.
fn kind_of(n: u32) -> Kind {
    match n % 12 {
        0 if n > 0 => Kind::Delete,
        0..=2 => Kind::Create,
        6 => Kind::Append,
        _ => Kind::Commit,
    }
}

/// A broker whose topics change and whose groups commit.
struct Topics {
    life: Life,
    history: Arc<Mutex<History>>,
}

impl Topics {
    fn begin(disk: &SimDisk) -> Self {
        let history = History {
            states: vec![empty()],
            acknowledged: 0,
        };
        Self {
            life: Life::begin(disk, &Arc::default()),
            history: Arc::new(Mutex::new(history)),
        }
    }
}

impl Subject for Topics {
    type Judge = Arc<Mutex<History>>;

    fn judge(&self) -> Self::Judge {
        Arc::clone(&self.history)
    }

    fn run(&mut self, doing: &Doing) {
        let life = &mut self.life;
        for n in 0..60 {
            doing.set(kind_of(n));
            act(life, n);
            {
                // Locked only while nothing is written: who looks from the disk takes it, too.
                let now = life.see();
                self.history.lock().unwrap().states.push(now);
            }
            if n % 4 != 3 {
                life.make_durable();
                let mut history = self.history.lock().unwrap();
                history.acknowledged = history.states.len() - 1;
            }
            if n % 3 == 0 {
                life.inline.applier_round(true).unwrap();
            }
            if n % 7 == 0 {
                life.inline.checkpoint().unwrap();
            }
        }
    }
}

impl Judge for Arc<Mutex<History>> {
    type Found = Seen;

    /// One of the states since the last acknowledged one; and it goes on from there.
    fn check(&self, image: &SimDisk) -> Seen {
        let mut life = Life::begin(image, &Arc::default());
        let found = life.see();
        let history = self.lock().unwrap();
        let possible = &history.states[history.acknowledged..];
        assert!(possible.contains(&found), "{found:?} is none of {possible:?}");
        if let Some(t) = found.topics.get("t") {
            let partitions = u32::try_from(t.ends.len()).unwrap();
            life.ask(commit("g", &["t"], 0));
            life.ask(batch_to(partitions - 1));
            life.ask(grown(partitions + 1));
            life.ask(batch_to(partitions));
            life.make_durable();
            let ends = &life.see().topics["t"].ends;
            assert_eq!(ends.len(), t.ends.len() + 1);
            assert_eq!(ends[t.ends.len() - 1], t.ends[t.ends.len() - 1] + 1);
            assert_eq!(ends[t.ends.len()], 1);
        }
        found
    }

    fn recover(&self, image: &SimDisk) {
        Life::begin(image, &Arc::default());
    }
}

fn cut(plan: &'static Plan) {
    explore(plan, |disk, _| Topics::begin(disk));
}

fn empty() -> Seen {
    Seen {
        topics: BTreeMap::new(),
        places: GROUPS.map(|group| (group, Places::new())).into_iter().collect(),
    }
}

#[test]
fn commits_are_whole_after_any_power_cut() {
    cut(&crash::TOPICS_POWER);
}

#[test]
fn commits_are_whole_after_any_kill() {
    cut(&crash::TOPICS_KILLS);
}
