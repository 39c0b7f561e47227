//! Topics in memory in a broker on (simulated) disk: what is acknowledged, what a restart leaves, and that no offset is
//! ever given twice.

use std::sync::Mutex;

use super::*;
use crate::api::{
    CommitOffsets, DeleteTopic, FetchOffsets, ListOffsets, ListOffsetsPartition, OffsetSpec, OffsetToCommit,
    TrimPartition, TrimTopic,
};
use crate::disk::sim::{CutProfile, SimDisk, SimOptions};
use crate::storage::SnapshotSource;
use crate::storage::local::{Inline, LocalStore, Round, Settings as EngineSettings};
use crate::storage::memory::WithMemory;
use crate::storage::memory::tests::Shared;

type Engine = WithMemory<Shared<LocalStore>>;

struct Life {
    broker: Arc<Broker<Engine>>,
    inline: Inline,
    disk: SimDisk,
    clock: Arc<ManualClock>,
}

/// The smallest journal there is, so that its files are used again and again.
fn engine() -> EngineSettings {
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
    fn begin(disk: &SimDisk) -> Self {
        let settings = Settings::default();
        let manual = Arc::new(ManualClock::at(START));
        let clock: Arc<dyn Clock> = Arc::clone(&manual) as _;
        let ids = Arc::new(CountedIds::default());
        let mut recovered = Recovered::new(&settings);
        let on = Arc::new(disk.clone());
        let store = LocalStore::open(on, &engine(), Arc::clone(&clock), &*ids, &mut recovered).unwrap();
        assert_eq!(store.report().lost_groups, 0);
        let later = Arc::new(Later::default());
        let (store, inline) = store.into_inline(Arc::clone(&later) as _);
        let store = Arc::new(WithMemory::new(Shared(store), 1 << 20));
        let broker = Arc::new(Broker::new(store, recovered, clock, ids, settings).unwrap());
        *later.0.lock().unwrap() = Some(Arc::clone(&broker));
        Self {
            broker,
            inline,
            disk: disk.clone(),
            clock: manual,
        }
    }

    /// With a topic `m` in memory and a topic `d` on disk.
    fn with_topics(disk: &SimDisk) -> Self {
        let mut life = Self::begin(disk);
        life.create("m", &[("storage", "memory"), ("memory.bytes", "65536")]);
        life.create("d", &[]);
        life
    }

    fn create(&mut self, name: &str, configs: &[(&str, &str)]) {
        let Request::CreateTopic(mut create) = create(name, 1) else {
            unreachable!("it is a creation")
        };
        create.configs = configs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        self.ask(Request::CreateTopic(create)).unwrap();
        self.make_durable();
    }

    /// What its answer waits for, and the answer.
    fn outcome(&mut self, request: Request) -> (Lsn, Reply) {
        let mut outcome = self.broker.receive(request);
        while let Outcome::Blocked { request, .. } = outcome {
            self.inline.make_journal_file().unwrap();
            self.make_durable();
            self.inline.applier_round(true).unwrap();
            outcome = self.broker.receive(request);
        }
        waits(outcome)
    }

    fn ask(&mut self, request: Request) -> Reply {
        self.outcome(request).1
    }

    fn make_durable(&mut self) {
        while self.inline.journal().unwrap() == Round::Worked {}
    }

    fn durable(&self) -> Lsn {
        self.broker.durable_lsn()
    }

    fn produce(&mut self, item: ProducePartition) -> (Lsn, ProducedPartition) {
        let (lsn, reply) = self.outcome(request(Acks::Fsync, vec![item]));
        let Ok(Response::Produce(Produced { mut partitions })) = reply else {
            panic!("{reply:?}");
        };
        (lsn, partitions.remove(0).unwrap())
    }

    fn read(&mut self, topic: &str, offset: i64) -> Result<FetchedPartition, ApiError> {
        let asked = fetch(FetchForm::Structured, Duration::ZERO, &[(topic, 0, offset)]);
        fetched(self.ask(asked)).remove(0)
    }

    /// Log start and high watermark.
    fn marks(&mut self, topic: &str) -> (i64, i64) {
        let partitions = [OffsetSpec::Earliest, OffsetSpec::Latest].map(|spec| ListOffsetsPartition {
            partition: named(topic, 0),
            spec,
        });
        let list = ListOffsets {
            partitions: partitions.to_vec(),
        };
        let Ok(Response::ListOffsets(listed)) = self.ask(Request::ListOffsets(list)) else {
            panic!("no offsets");
        };
        let at = |index: usize| listed[index].as_ref().unwrap().offset.get();
        (at(0), at(1))
    }

    fn stopped(self) -> SimDisk {
        self.inline.stop().unwrap();
        self.disk.after_kill()
    }

    fn killed(self) -> SimDisk {
        self.disk.after_kill()
    }
}

/// Gives snapshots once there is a broker.
#[derive(Default)]
struct Later(Mutex<Option<Arc<Broker<Engine>>>>);

impl SnapshotSource for Later {
    fn snapshot(&self, key: crate::model::PartitionKey) -> Option<crate::storage::Snapshot> {
        let broker = self.0.lock().unwrap().clone();
        broker.and_then(|broker| broker.snapshot(key))
    }
}

fn new_disk() -> SimDisk {
    SimDisk::new(SimOptions::default())
}

#[test]
fn the_answer_says_memory_whatever_was_asked_and_comes_when_the_record_can_be_read() {
    let mut life = Life::with_topics(&new_disk());
    let (lsn, first) = life.produce(raw("m", 3));
    assert_eq!((first.acks, first.durable_through), (Acks::Memory, None));
    assert!(lsn > life.durable(), "its offsets are not reserved yet");
    assert_eq!(life.marks("m"), (0, 0));
    life.make_durable();
    assert_eq!(life.marks("m"), (0, 3));
    let (lsn, second) = life.produce(raw("m", 3));
    assert_eq!((second.acks, second.durable_through), (Acks::Memory, None));
    assert!(lsn <= life.durable(), "nothing is to be waited for");
    assert_eq!(values(&life.read("m", 3).unwrap())[0].0, 3);
    let (lsn, on_disk) = life.produce(raw("d", 1));
    assert_eq!((on_disk.acks, on_disk.durable_through), (Acks::Fsync, Some(lsn)));
}

#[test]
fn a_restart_leaves_nothing_and_old_places_are_out_of_range() {
    let mut life = Life::with_topics(&new_disk());
    let producer = {
        let Ok(Response::InitProducer(producer)) =
            life.ask(Request::InitProducer(InitProducer { current: None }))
        else {
            panic!("no producer");
        };
        producer
    };
    life.produce(sequenced("m", producer, 0, 5));
    life.produce(sequenced("d", producer, 0, 5));
    life.make_durable();
    assert!(life.produce(sequenced("m", producer, 0, 5)).1.duplicate);
    let commit = Request::CommitOffsets(CommitOffsets {
        member: None,
        group: "g".to_owned(),
        offsets: vec![OffsetToCommit {
            partition: named("m", 0),
            offset: 4,
            leader_epoch: None,
            metadata: String::new(),
        }],
    });
    life.ask(commit).unwrap();
    life.make_durable();
    life.inline.checkpoint().unwrap();
    for clean in [false, true] {
        let disk = if clean { life.stopped() } else { life.killed() };
        life = Life::begin(&disk);
        let (start, end) = life.marks("m");
        assert!(start == end && start > 5, "{start} to {end}");
        // The one who was at the end is told, too: he cannot know that nothing came behind what he read.
        for offset in [0, 4, 5, start - 1] {
            let error = life.read("m", offset).unwrap_err();
            assert_eq!(error.code, ErrorCode::OffsetOutOfRange, "{offset}");
            assert_eq!(error.details.log_start_offset, Offset::new(start));
        }
        assert_eq!(life.marks("d"), (0, 5));
    }
    let asked = Request::FetchOffsets(FetchOffsets {
        group: "g".to_owned(),
        partitions: vec![named("m", 0)],
    });
    let Ok(Response::FetchOffsets(committed)) = life.ask(asked) else {
        panic!("no offsets");
    };
    assert!(format!("{committed:?}").contains("Offset(4)"), "{committed:?}");
    // A batch that was sent before and is sent again is not there any more, so it is no duplicate; on disk it is.
    let (start, _) = life.marks("m");
    let (_, again) = life.produce(sequenced("m", producer, 0, 5));
    assert_eq!(
        (again.duplicate, again.offsets.unwrap().0),
        (false, offset(start))
    );
    assert!(life.produce(sequenced("d", producer, 0, 5)).1.duplicate);
}

#[test]
fn beyond_its_bound_the_oldest_records_go_and_their_readers_are_told() {
    let mut life = Life::with_topics(&new_disk());
    let value = "x".repeat(1000);
    for _ in 0..200 {
        life.produce(structured("m", &[&value], None));
        life.make_durable();
    }
    let (start, end) = life.marks("m");
    assert!(start > 100 && end == 200, "{start} to {end}");
    let error = life.read("m", start - 1).unwrap_err();
    assert_eq!(error.code, ErrorCode::OffsetOutOfRange);
    assert_eq!(
        (error.details.log_start_offset, error.details.high_watermark),
        (Offset::new(start), Offset::new(end))
    );
    let held = life.broker.store.memory();
    assert!(held.held_bytes <= 65_536, "{held:?}");
    assert_eq!(held.dropped_records, u64::try_from(start).unwrap());
    let files: u64 = life
        .disk
        .files()
        .iter()
        .map(|(path, _)| u64::from(path.ends_with(".log")))
        .sum();
    assert_eq!(files, 0, "nothing of it is on disk");
}

#[test]
fn retention_trim_and_deletion_work_on_topics_in_memory() {
    let mut life = Life::with_topics(&new_disk());
    life.create("old", &[("storage", "memory"), ("retention.ms", "60000")]);
    for topic in ["m", "old"] {
        for _ in 0..10 {
            life.produce(raw(topic, 1));
        }
    }
    life.make_durable();
    life.clock.advance(Duration::from_secs(61));
    life.broker.retain();
    assert_eq!((life.marks("old"), life.marks("m")), ((10, 10), (0, 10)));
    let trim = TrimTopic {
        partitions: vec![TrimPartition {
            partition: named("m", 0),
            to: 7,
        }],
    };
    life.ask(Request::TrimTopic(trim)).unwrap();
    assert_eq!(life.marks("m"), (7, 10));
    let delete = Request::DeleteTopic(DeleteTopic {
        name: "m".to_owned(),
        id: None,
    });
    life.ask(delete).unwrap();
    assert_eq!(code(life.read("m", 7)), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(life.broker.store.memory().held_bytes, 0);
    life.create("m", &[("storage", "memory")]);
    life.produce(raw("m", 1));
    life.make_durable();
    assert_eq!(life.marks("m"), (0, 1));
    // And the deleted one does not come back.
    let mut life = Life::begin(&life.killed());
    let (start, _) = life.marks("m");
    assert!(start > 1);
}

/// Whatever could be read, or was acknowledged, before the power failed.
fn cut_before_every_operation(profile: CutProfile) {
    let disk = new_disk();
    let mut life = Life::with_topics(&disk);
    let given = Arc::new(Mutex::new(0));
    let recoveries = Arc::new(AtomicU64::new(0));
    let (seen, count) = (Arc::clone(&given), Arc::clone(&recoveries));
    disk.on_op(move |moment| {
        let image = moment.after_power_cut(moment.index(), profile);
        let mut again = Life::begin(&image);
        let given = *seen.lock().unwrap();
        let (start, end) = again.marks("m");
        assert_eq!(start, end);
        assert!(
            start >= given,
            "{profile:?} before operation {}: begins at {start}, {given} were given",
            moment.index()
        );
        again.produce(raw("m", 1));
        again.make_durable();
        assert_eq!(again.marks("m"), (start, start + 1));
        count.fetch_add(1, Ordering::Relaxed);
    });
    let item = structured("m", &[""; 800], None);
    for n in 0..20 {
        // Half a block or so, which nothing is written for until the next is reserved.
        for _ in 0..25 {
            life.produce(item.clone());
            life.make_durable();
            let (_, end) = life.marks("m");
            *given.lock().unwrap() = end;
        }
        life.produce(raw("d", 50));
        life.make_durable();
        if n % 3 == 0 {
            life.inline.applier_round(true).unwrap();
        }
        if n % 7 == 0 {
            life.inline.checkpoint().unwrap();
        }
    }
    let recoveries = recoveries.load(Ordering::Relaxed);
    assert!(recoveries >= 50, "only {recoveries} recoveries");
}

#[test]
fn no_offset_is_given_twice_after_a_power_cut() {
    cut_before_every_operation(CutProfile::Posix);
}

#[test]
fn no_offset_is_given_twice_after_a_power_cut_with_nothing_unsynced_left() {
    cut_before_every_operation(CutProfile::DropAll);
}

#[test]
fn no_offset_is_given_twice_after_a_kill() {
    cut_before_every_operation(CutProfile::KeepAll);
}
