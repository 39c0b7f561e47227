//! Members of a group in processes of their own, which come, go, are killed and are stopped at random while the broker is killed,
//! too. All of them write down what they ask and hear; at the end the histories are checked together.
//!
//! The moments are the test's own to choose, so here time passes by; everything else waits for events.

pub(crate) mod member;
mod processes;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs};

use naru::client::{Client, CreateTopicOptions, ProducerRecord};
use naru::history::{Body, Done, Held, Op, Report, Stored, Uid, View, check, write};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::processes::{Counts, MEMBER, Processes};
use crate::broker::{Broker, Setup};
use crate::kill::Lossy;
use crate::load::stubborn_client;
use crate::notebook::{Histories, Notebook, at, value};
use crate::peer::until;

const TOPIC: &str = "orders";
const GROUP: &str = "chaos";
const PARTITIONS: u32 = 6;

/// Short, so that those that are stopped are removed within the test.
const SETTINGS: [(&str, &str); 3] = [
    ("session.timeout.ms", "1500"),
    ("heartbeat.interval.ms", "300"),
    ("handoff.timeout.ms", "2000"),
];

/// So long that a machine with other work does not remove who is well.
const PATIENT: [(&str, &str); 3] = [
    ("session.timeout.ms", "30000"),
    ("heartbeat.interval.ms", "3000"),
    ("handoff.timeout.ms", "30000"),
];

/// The number of the test's own process in histories.
const OWN: u32 = 0;

/// Of those who produce, and each waits so long between two records.
const PRODUCERS: u32 = 2;
const PRODUCE_EVERY: Duration = Duration::from_millis(4);

const LOOK_EVERY: Duration = Duration::from_millis(120);

/// Between two things that are done to the processes, at most.
const PAUSE_MS_MAX: u64 = 500;

/// Between two kills of the broker.
const BROKER_LIVES_MS: std::ops::Range<u64> = 4_000..9_000;

fn seconds() -> u64 {
    crate::rounds::seconds().unwrap_or(20)
}

/// Run as a process of its own by the tests below, it is a member of their group; by itself it tries that out with one.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_writes_down_what_it_reads_and_commits() {
    if let Ok(orders) = env::var(MEMBER) {
        return member::run(serde_json::from_str(&orders).unwrap()).await;
    }
    let mut stage = Stage::set(Setup::small_journal(), PATIENT).await;
    stage.processes.start_alone();
    until("a commit of everything", || stage.produced() > 50).await;
    let (report, _) = stage.finish().await;
    let figures = report.figures;
    assert!(report.is_clean(), "{report}");
    assert_eq!(figures.redelivered, 0, "{report}");
    assert_eq!(figures.polled, figures.produced, "{report}");
    assert!(figures.claims >= PARTITIONS as usize, "{report}");
    assert!(figures.commits >= PARTITIONS as usize, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_promise_is_broken_while_members_and_the_broker_are_killed_and_stopped() {
    while_all_are_disturbed("chaos", |_| None).await;
}

pub(crate) async fn while_all_are_disturbed(name: &str, lossy: Lossy) {
    let seed = env::var("NARU_TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("NARU_TEST_SEED={seed} does the same things in the same order again");
    let mut random = fastrand::Rng::with_seed(seed);
    let broker = Setup {
        lossy: lossy(&mut random),
        ..Setup::small_journal()
    };
    let mut stage = Stage::set(broker, SETTINGS).await;
    let kills = stage.chaos(&mut random, Duration::from_secs(seconds())).await;
    let (report, counts) = stage.finish().await;
    let figures = report.figures;
    eprintln!(
        "figures {name}: kills={kills} members_killed={} stopped={} produced={} polled={} redelivered={} commits={} claims={}",
        counts.killed,
        counts.stopped,
        figures.produced,
        figures.polled,
        figures.redelivered,
        figures.commits,
        figures.claims
    );
    let kept = keep(&report, seed);
    assert!(report.is_clean(), "{}:\n{report}", kept.display());
    // A run without trouble would prove nothing.
    assert!(kills > 0 && counts.killed > 0 && counts.stopped > 0 && counts.left > 0);
    assert!(figures.redelivered > 0 && figures.commits > 50 && figures.claims > 30);
}

/// The merged history, where it can be looked at.
fn keep(report: &Report, seed: u64) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{seed}.ndjson"));
    if !report.is_clean() {
        let lines: String = report.events.iter().map(write).collect();
        fs::write(&path, lines).unwrap();
    }
    path
}

/// The broker, and everybody who talks to it.
struct Stage {
    broker: Broker,
    processes: Processes,
    histories: Histories,
    book: Arc<Notebook>,
    producers: JoinSet<()>,
    stop_producing: CancellationToken,
    watching: JoinSet<()>,
    stop_watching: CancellationToken,
    produced: Arc<std::sync::atomic::AtomicUsize>,
}

impl Stage {
    async fn set(broker: Setup, settings: [(&str, &str); 3]) -> Self {
        let broker = broker.start();
        let client = broker.client().await;
        let options = CreateTopicOptions {
            partitions: PARTITIONS,
            ..Default::default()
        };
        client.create_topic(TOPIC, options).await.unwrap();
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        client.create_group(GROUP, settings.to_vec()).await.unwrap();
        let histories = Histories::new();
        let book = Arc::new(histories.book(OWN));
        let mut stage = Self {
            processes: Processes::new(histories.path().to_owned(), broker.url(), (GROUP, TOPIC)),
            broker,
            histories,
            book,
            producers: JoinSet::new(),
            stop_producing: CancellationToken::new(),
            watching: JoinSet::new(),
            stop_watching: CancellationToken::new(),
            produced: Arc::default(),
        };
        for number in 0..PRODUCERS {
            let client = stubborn_client(&stage.broker.url()).await;
            let (book, stop) = (Arc::clone(&stage.book), stage.stop_producing.clone());
            let count = Arc::clone(&stage.produced);
            stage.producers.spawn(async move {
                produce(number, client, &book, stop, &count).await;
            });
        }
        let client = stubborn_client(&stage.broker.url()).await;
        let (book, stop) = (Arc::clone(&stage.book), stage.stop_watching.clone());
        stage.watching.spawn(async move {
            while !stop.is_cancelled() {
                look(&client, &book).await;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        stage
    }

    fn produced(&self) -> usize {
        self.produced.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Lets all that happen to everybody for so long. How often the broker was killed.
    async fn chaos(&mut self, random: &mut fastrand::Rng, time: Duration) -> u32 {
        let end = crate::peer::now() + time;
        let mut kills = 0;
        let mut broker_dies = crate::peer::now() + Duration::from_millis(random.u64(BROKER_LIVES_MS));
        self.processes.start_all();
        while crate::peer::now() < end {
            tokio::time::sleep(Duration::from_millis(random.u64(20..PAUSE_MS_MAX))).await;
            self.processes.go_on();
            if crate::peer::now() >= broker_dies {
                kills += 1;
                self.book.nemesis("the broker is killed");
                self.broker.kill();
                // Some members notice, others are stopped or killed meanwhile.
                tokio::time::sleep(Duration::from_millis(random.u64(0..300))).await;
                self.broker.restart();
                assert_eq!(self.broker.log.event("data_corrupt"), None);
                self.book.nemesis("the broker is ready");
                broker_dies = crate::peer::now() + Duration::from_millis(random.u64(BROKER_LIVES_MS));
            } else {
                let done = self.processes.disturb(random);
                self.book.nemesis(done);
            }
        }
        kills
    }

    /// Everybody is well, reads and commits all that there is, and leaves. The broker is started once more; then the history
    /// is checked.
    async fn finish(mut self) -> (Report, Counts) {
        self.processes.heal();
        self.stop_producing.cancel();
        while let Some(done) = self.producers.join_next().await {
            done.unwrap();
        }
        let client = stubborn_client(&self.broker.url()).await;
        let deadline = crate::peer::now() + Duration::from_secs(40);
        while !is_drained(&client).await {
            if crate::peer::now() > deadline {
                panic!("not drained: {:#?}", client.describe_group(GROUP).await);
            }
            self.processes.go_on();
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.book.nemesis("drained");
        let counts = self.processes.leave_all().await;
        look(&client, &self.book).await;
        self.broker.kill();
        self.broker.restart();
        look(&client, &self.book).await;
        self.stop_watching.cancel();
        while let Some(done) = self.watching.join_next().await {
            done.unwrap();
        }
        (check(self.histories.events()), counts)
    }
}

async fn is_drained(client: &Client) -> bool {
    match client.describe_group(GROUP).await {
        Ok(group) => group.partitions.iter().all(|at| {
            let is_empty = at.high_watermark.get() == 0;
            is_empty || at.committed == Some(at.high_watermark)
        }),
        Err(error) => {
            assert!(error.is_retriable(), "{error}");
            false
        }
    }
}

/// Writes records until it is told to stop, one after the other.
async fn produce(
    number: u32,
    client: Client,
    book: &Notebook,
    stop: CancellationToken,
    count: &std::sync::atomic::AtomicUsize,
) {
    let producer = client.producer().build().await.unwrap();
    let mut records = JoinSet::new();
    let mut sent = 0;
    while !stop.is_cancelled() {
        let uid = Uid {
            process: number,
            number: sent,
        };
        let partition = u32::try_from(sent).unwrap() % PARTITIONS;
        let op = book.invoke(Op::Produce {
            at: at(TOPIC, partition),
            uids: vec![uid],
            // Each record is awaited by itself, and the client keeps their order.
            session: Some(u64::from(number)),
            sequence: None,
        });
        let record = ProducerRecord::to(TOPIC).partition(partition).value(value(uid));
        let ticket = producer.enqueue(record).await.unwrap();
        records.spawn(async move { (op, ticket.await) });
        sent += 1;
        while let Some(done) = records.try_join_next() {
            end(book, done.unwrap(), count);
        }
        tokio::time::sleep(PRODUCE_EVERY).await;
    }
    while let Some(done) = records.join_next().await {
        end(book, done.unwrap(), count);
    }
    producer.close().await.unwrap();
}

fn end(
    book: &Notebook,
    (op, stored): (u64, Result<naru::client::RecordMetadata, naru::client::Error>),
    count: &std::sync::atomic::AtomicUsize,
) {
    // The producer sends again until it is answered.
    let offset = stored.unwrap().offset.unwrap();
    book.end(op, Body::Ok(Done::Produced(Stored::fsync(offset.get()))));
    count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
}

/// Writes down how the group is.
async fn look(client: &Client, book: &Notebook) {
    let op = book.invoke(Op::Describe {
        group: GROUP.to_owned(),
    });
    let group = match client.describe_group(GROUP).await {
        Ok(group) => group,
        Err(error) => {
            assert!(error.is_retriable(), "{error}");
            return book.end(op, Body::Fail(error.to_string()));
        }
    };
    let members = group.members.iter().map(|member| {
        let assigned = member.assigned.iter().chain(&member.revoking);
        Held {
            member: member.member_id.clone(),
            partitions: assigned.map(|held| at(&held.topic, held.partition.0)).collect(),
        }
    });
    let committed = group.partitions.iter().filter_map(|shown| {
        let offset = shown.committed?.get();
        Some((at(&shown.partition.topic, shown.partition.partition.0), offset))
    });
    let view = View {
        group_epoch: group.group_epoch,
        members: members.collect(),
        committed: committed.collect(),
    };
    book.end(op, Body::Ok(Done::Described(view)));
}
