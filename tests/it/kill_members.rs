//! The broker is killed again and again while members come and go, commit and step: what was acknowledged is there, steps are
//! whole, epochs never go back, no partition has two owners, and everybody goes on within three seconds. All of them write down
//! what they ask and hear, and at the end their histories are checked together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use naru::client::{
    Client, CommitError, CreateTopicOptions, GroupConsumer, GroupDescription, GroupRecord, OffsetSpec,
    ProducerRecord, Start,
};
use naru::history::{Body, Done, Figures, Op, Output, Stored, Uid, check};
use naru::model::GroupState;
use naru::rt::{Clock, SystemClock};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Setup};
use crate::chaos::member::{Member, Orders, unkept};
use crate::kill::Lossy;
use crate::load::stubborn_client;
use crate::notebook::{Histories, Notebook, at, value};
use crate::peer::PATIENCE;
use crate::rounds::rounds;

/// Rounds in a run of CI, of so many kills each.
const ROUNDS: u64 = 3;
const KILLS: u32 = 10;
const PARTITIONS: u32 = 6;
const PRODUCERS: u32 = 2;
const STEPPERS: usize = 3;
const READERS: usize = 2;
/// The number of the producers' process in histories; members have those from here on.
const OWN: u32 = 10;
/// From a kill until everybody has got on.
const RECOVERED_WITHIN: Duration = Duration::from_secs(3);
/// Far below the deadlines of sessions and hand-overs, which nobody is to need.
const AT_ONCE: Duration = Duration::from_secs(8);

/// A record of `orders`: its partition and its offset.
type Place = (u32, i64);

/// What the clients know for certain.
#[derive(Debug, Default)]
struct Ledger {
    /// Orders of which the step was acknowledged.
    stepped: Mutex<BTreeSet<Place>>,
    /// Where the group that reads and commits is, by partition.
    committed: Mutex<BTreeMap<u32, i64>>,
    /// Steps and commits that were acknowledged.
    count: watch::Sender<u64>,
}

impl Ledger {
    async fn more(&self, count: u64) {
        let mut seen = self.count.subscribe();
        let enough = *seen.borrow() + count;
        let waited = tokio::time::timeout(PATIENCE, seen.wait_for(|count| *count >= enough)).await;
        waited.expect("they get on").unwrap();
    }
}

/// A member at work until it is told to leave.
struct Worker {
    /// What it has got acknowledged.
    done: Arc<AtomicU64>,
    leave: CancellationToken,
}

/// All that work on one broker.
struct Workers {
    url: String,
    ledger: Arc<Ledger>,
    histories: Histories,
    /// How many there have been.
    count: u32,
    tasks: JoinSet<()>,
}

impl Workers {
    fn stepper(&mut self) -> Worker {
        self.worker("steppers")
    }

    fn worker(&mut self, group: &'static str) -> Worker {
        let worker = Worker {
            done: Arc::default(),
            leave: CancellationToken::new(),
        };
        self.count += 1;
        let process = OWN + self.count;
        let member = Arc::new(Member::new(Orders {
            process,
            url: self.url.clone(),
            group: group.to_owned(),
            topic: "orders".to_owned(),
            instance: None,
            commits_itself: false,
            notebook: self.histories.path().join(format!("process-{process}.ndjson")),
        }));
        let (url, ledger) = (self.url.clone(), Arc::clone(&self.ledger));
        let (done, leave) = (Arc::clone(&worker.done), worker.leave.clone());
        self.tasks.spawn(async move {
            let client = stubborn_client(&url).await;
            let Some(mut consumer) = member.join(&client, &leave).await else {
                return;
            };
            let mut bill = Uid { process, number: 0 };
            while let Some(order) = next(&member, &mut consumer, &leave).await {
                let acknowledged = match group {
                    "steppers" => step(&member.book, &consumer, &order, bill, &ledger).await,
                    _ => commit(&member.book, &mut consumer, &order, &ledger).await,
                };
                bill.number += 1;
                if acknowledged {
                    done.fetch_add(1, Ordering::SeqCst);
                    ledger.count.send_modify(|count| *count += 1);
                }
            }
            member.leave(consumer).await;
        });
        worker
    }
}

/// A record; `None`: it is to leave.
async fn next(
    member: &Member,
    consumer: &mut GroupConsumer,
    leave: &CancellationToken,
) -> Option<GroupRecord> {
    tokio::select! {
        order = member.next(consumer) => Some(order.unwrap().unwrap()),
        () = leave.cancelled() => None,
    }
}

/// Makes a bill of an order; false: the partition went to somebody else.
async fn step(
    book: &Notebook,
    consumer: &GroupConsumer,
    order: &GroupRecord,
    uid: Uid,
    ledger: &Ledger,
) -> bool {
    let (partition, offset) = (order.partition.0, order.offset.get());
    let of = at("orders", partition);
    let bills = partition % 2;
    let op = book.invoke(Op::Step {
        group: "steppers".to_owned(),
        member: consumer.handle().member().member_id,
        outputs: vec![Output {
            at: at("bills", bills),
            uid,
            of: Some((of.clone(), offset)),
        }],
        offsets: vec![(of, offset + 1)],
    });
    let bill = ProducerRecord::to("bills").partition(bills);
    let bill = bill.key(format!("{partition}/{offset}")).value(value(uid));
    let mut step = consumer.step().append(bill).consumed(order);
    let stepped = step.send().await;
    book.end(
        op,
        match &stepped {
            Ok(stepped) => {
                let offsets = stepped.records.iter().map(|record| record.offset.unwrap().get());
                Body::Ok(Done::Stepped(offsets.collect()))
            }
            Err(error) => unkept(error),
        },
    );
    let is_kept = is_kept(stepped.err(), (partition, offset));
    if is_kept {
        ledger.stepped.lock().unwrap().insert((partition, offset));
    }
    is_kept
}

/// Commits an order; false: the partition went to somebody else.
async fn commit(book: &Notebook, consumer: &mut GroupConsumer, order: &GroupRecord, ledger: &Ledger) -> bool {
    let (partition, offset) = (order.partition.0, order.offset.get());
    let op = book.invoke(Op::Commit {
        group: "readers".to_owned(),
        member: consumer.handle().member().member_id,
        offsets: vec![(at("orders", partition), offset + 1)],
    });
    let committed = consumer.commit_through(order).await;
    let is = committed.as_ref().map_or_else(unkept, |_| Body::Ok(Done::Done));
    book.end(op, is);
    let is_kept = is_kept(committed.err(), (partition, offset));
    if is_kept {
        let mut committed = ledger.committed.lock().unwrap();
        let known = committed.entry(partition).or_default();
        *known = (*known).max(offset + 1);
    }
    is_kept
}

fn is_kept(error: Option<CommitError>, (partition, offset): Place) -> bool {
    match error {
        None => true,
        Some(CommitError::Lost { .. }) => false,
        Some(error) => panic!("{partition}/{offset}: {error}"),
    }
}

/// Writes orders until it is told to stop; how many there are.
async fn order(url: String, number: u32, book: Arc<Notebook>, stop: CancellationToken) -> u32 {
    let client = stubborn_client(&url).await;
    let producer = client.producer().build().await.unwrap();
    let mut count = 0;
    while !stop.is_cancelled() {
        let partition = (number + count) % PARTITIONS;
        let uid = Uid {
            process: number,
            number: u64::from(count),
        };
        let op = book.invoke(Op::Produce {
            at: at("orders", partition),
            uids: vec![uid],
            session: Some(u64::from(number)),
            sequence: None,
        });
        let record = ProducerRecord::to("orders").partition(partition);
        let stored = producer.send(record.value(value(uid))).await.unwrap();
        let stored = Stored::fsync(stored.offset.unwrap().get());
        book.end(op, Body::Ok(Done::Produced(stored)));
        count += 1;
    }
    producer.close().await.unwrap();
    count
}

/// Where a group is for certain, by partition.
async fn places(client: &Client, group: &str) -> BTreeMap<u32, i64> {
    let all = client.fetch_all_offsets(group).await.unwrap();
    let committed = all
        .into_iter()
        .map(|at| (at.partition.0, at.committed.unwrap().offset.get()));
    committed.collect()
}

async fn ends(client: &Client, topic: &str, partitions: u32) -> Vec<i64> {
    let partitions: Vec<_> = (0..partitions).collect();
    let ends = client
        .list_offsets(topic, &partitions, OffsetSpec::Latest)
        .await
        .unwrap();
    ends.into_iter().map(|end| end.unwrap().get()).collect()
}

/// All orders of which there is a bill: each has one.
async fn billed(client: &Client) -> BTreeSet<Place> {
    let mut billed = BTreeSet::new();
    for (partition, end) in (0..).zip(ends(client, "bills", 2).await) {
        let reader = client.reader("bills", partition, Start::Earliest);
        let mut reader = reader.build().await.unwrap();
        while reader.position().get() < end {
            let bill = reader.next().await.unwrap().unwrap();
            let text = String::from_utf8(bill.key.unwrap().to_vec()).unwrap();
            let (of, offset) = text.split_once('/').unwrap();
            let place = (of.parse().unwrap(), offset.parse().unwrap());
            assert!(billed.insert(place), "{place:?} has two bills");
        }
    }
    billed
}

/// No partition has two owners, and the epoch is none from before. Returns it.
fn check_group(group: &GroupDescription, before: u32) -> u32 {
    let held = group.members.iter();
    let mut held: Vec<_> = held
        .flat_map(|member| member.assigned.iter().chain(&member.revoking))
        .map(|partition| partition.partition)
        .collect();
    let all = held.len();
    held.sort_unstable();
    held.dedup();
    assert_eq!(all, held.len(), "a partition has two owners: {group:?}");
    assert!(
        group.group_epoch >= before,
        "epoch {} after {before}",
        group.group_epoch
    );
    assert!(group.assignment_epoch <= group.group_epoch);
    group.group_epoch
}

/// Whatever is going on: what is billed is committed, what is committed is billed, and what was acknowledged is both.
async fn check_ledger(client: &Client, ledger: &Ledger) {
    let (stepped, read) = (
        ledger.stepped.lock().unwrap().clone(),
        ledger.committed.lock().unwrap().clone(),
    );
    let before = billed(client).await;
    let committed = places(client, "steppers").await;
    let after = billed(client).await;
    let at = |partition: &u32| committed.get(partition).copied().unwrap_or(0);
    for (partition, offset) in before.iter().chain(&stepped) {
        assert!(
            *offset < at(partition),
            "{partition}/{offset} has a bill and is not committed"
        );
    }
    for (partition, committed) in &committed {
        for offset in 0..*committed {
            assert!(
                after.contains(&(*partition, offset)),
                "{partition}/{offset} is committed and has no bill"
            );
        }
    }
    let now = places(client, "readers").await;
    for (partition, acknowledged) in read {
        assert!(now[&partition] >= acknowledged, "a commit in {partition} is lost");
    }
}

/// Waits until everybody has got something done since, and the groups are at rest.
async fn all_got_on(client: &Client, workers: &[Worker], epochs: &mut BTreeMap<&'static str, u32>) {
    let done = || workers.iter().map(|worker| worker.done.load(Ordering::SeqCst));
    let before: Vec<_> = done().collect();
    let got_on = async {
        loop {
            let mut rests = true;
            for (group, epoch) in epochs.iter_mut() {
                let described = client.describe_group(group).await.unwrap();
                *epoch = check_group(&described, *epoch);
                rests &= described.state == GroupState::Stable;
            }
            if rests && done().zip(&before).all(|(now, before)| now > *before) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let got_on = tokio::time::timeout(PATIENCE, got_on).await;
    got_on.expect("everybody gets on");
}

/// Waits for what needs no deadline of anybody.
async fn at_once(client: &Client, what: &str, done: impl Future<Output = ()>) {
    if tokio::time::timeout(AT_ONCE, done).await.is_err() {
        let groups = [
            client.describe_group("steppers").await,
            client.describe_group("readers").await,
        ];
        panic!("not before {AT_ONCE:?}: {what}; {groups:#?}");
    }
}

async fn start(broker: &Broker) {
    let client = broker.client().await;
    for (topic, partitions) in [("orders", PARTITIONS), ("bills", 2)] {
        let options = CreateTopicOptions {
            partitions,
            ..Default::default()
        };
        client.create_topic(topic, options).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_amid_rebalances_steps_and_commits_lose_double_and_split_nothing() {
    amid_rebalances("kill_members", |_| None).await;
}

pub(crate) async fn amid_rebalances(name: &str, lossy: Lossy) {
    let (mut kills, mut orders, mut slowest) = (0, 0, Duration::ZERO);
    let (mut polled, mut redelivered, mut claims) = (0, 0, 0);
    for seed in rounds(ROUNDS) {
        let mut random = fastrand::Rng::with_seed(seed);
        let lossy = lossy(&mut random);
        let setup = Setup {
            lossy,
            ..Setup::small_journal()
        };
        let (more, took, seen) = one_round(setup.start(), &mut random).await;
        (kills, orders, slowest) = (kills + KILLS, orders + more, slowest.max(took));
        polled += seen.polled;
        redelivered += seen.redelivered;
        claims += seen.claims;
    }
    let slowest = slowest.as_millis();
    eprintln!(
        "figures {name}: kills={kills} orders={orders} polled={polled} redelivered={redelivered} claims={claims} \
         slowest_recovery_ms={slowest}"
    );
}

/// How many orders there were, how long it took at most until everybody got on, and what the history has counted.
async fn one_round(mut broker: Broker, random: &mut fastrand::Rng) -> (u32, Duration, Figures) {
    let clock = SystemClock::new();
    start(&broker).await;
    let stop = CancellationToken::new();
    let histories = Histories::new();
    let book = Arc::new(histories.book(OWN));
    let mut producers = JoinSet::new();
    for number in 0..PRODUCERS {
        producers.spawn(order(broker.url(), number, Arc::clone(&book), stop.clone()));
    }
    let mut all = Workers {
        url: broker.url(),
        ledger: Arc::default(),
        histories,
        count: 0,
        tasks: JoinSet::new(),
    };
    let ledger = Arc::clone(&all.ledger);
    let mut workers: Vec<_> = (0..STEPPERS).map(|_| all.stepper()).collect();
    workers.extend((0..READERS).map(|_| all.worker("readers")));
    ledger.more(100).await;
    let mut epochs = BTreeMap::from([("steppers", 0), ("readers", 0)]);
    all_got_on(&broker.client().await, &workers, &mut epochs).await;
    let mut passing: Option<Worker> = None;
    let mut slowest = Duration::ZERO;
    for _ in 0..KILLS {
        // Somebody comes or goes, or both, and meanwhile the broker is killed.
        let (comes, goes) = (random.bool(), random.bool());
        if let Some(passing) = passing.take_if(|_| goes) {
            passing.leave.cancel();
        }
        if comes && passing.is_none() {
            passing = Some(all.stepper());
        }
        ledger.more(random.u64(0..=200)).await;
        book.nemesis("the broker is killed");
        broker.kill();
        let killed = clock.mono();
        broker.restart();
        book.nemesis("the broker is ready");
        let client = broker.client().await;
        all_got_on(&client, &workers, &mut epochs).await;
        let took = clock.mono().saturating_sub(killed);
        assert!(took < RECOVERED_WITHIN, "everybody got on after {took:?}");
        slowest = slowest.max(took);
        assert_eq!(broker.log.event("data_corrupt"), None);
        check_ledger(&client, &ledger).await;
    }
    stop.cancel();
    let orders = producers.join_all().await.into_iter().sum();
    workers.extend(passing);
    let figures = finish(&broker, all, &workers, orders).await;
    (orders, slowest, figures)
}

/// Everybody processes all that there is, and leaves; then the ledger and the histories are checked. What they have counted.
async fn finish(broker: &Broker, mut all: Workers, workers: &[Worker], orders: u32) -> Figures {
    let client = broker.client().await;
    let ends = ends(&client, "orders", PARTITIONS).await;
    let expected: BTreeMap<_, _> = (0..).zip(ends).collect();
    let finished = async {
        while places(&client, "steppers").await != expected || places(&client, "readers").await != expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    at_once(&client, "everything is processed", finished).await;
    for worker in workers {
        worker.leave.cancel();
    }
    let ended = async {
        while let Some(ended) = all.tasks.join_next().await {
            ended.unwrap();
        }
    };
    at_once(&client, "everybody has left", ended).await;
    check_ledger(&client, &all.ledger).await;
    let billed = billed(&client).await;
    assert_eq!(billed.len(), usize::try_from(orders).unwrap());
    let report = check(all.histories.events());
    assert!(report.is_clean(), "{report}");
    // Both groups have read everything, and both are in the history.
    assert!(report.figures.polled >= 2 * billed.len(), "{report}");
    report.figures
}
