//! The story that groups and steps are for, with programs that die: what is made of a record is made a second time, or it is not.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use naru::client::{
    AutoCommit, Client, CommitError, ConsumedRecord, CreateTopicOptions, GroupConsumer, GroupRecord,
    ProducerRecord, Reset, Start,
};
use naru::model::Offset;

use crate::broker::Broker;
use crate::peer::PATIENCE;
use crate::proxy::Proxy;

/// What the process of [`a_biller`] is told: the broker, and how it is to work.
const BILLER: &str = "NARU_TEST_BILLER";

/// It makes a bill and then commits the order; or both in one step.
const PRODUCE_THEN_COMMIT: &str = "produce";
const STEP: &str = "step";

fn text(record: &ConsumedRecord) -> String {
    String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap()
}

fn bill(order: &ConsumedRecord) -> ProducerRecord {
    ProducerRecord::to("bills").value(format!("bill of {}", text(order)))
}

async fn join(client: &Client) -> GroupConsumer {
    let builder = client.group_consumer("billing").topics(["orders"]);
    let builder = builder.reset(Reset::Earliest).auto_commit(AutoCommit::Off);
    builder.build().await.unwrap()
}

async fn next(consumer: &mut GroupConsumer) -> GroupRecord {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
    next.expect("an order").unwrap().unwrap()
}

/// Bills one order after another. It says what it does, so that the test can end it in between.
async fn work(url: &str, how: &str) {
    let client = Client::connect(url).await.unwrap();
    let producer = client.producer().build().await.unwrap();
    let mut consumer = join(&client).await;
    let say = |what: &str| {
        let mut out = std::io::stderr();
        writeln!(out, "{what}").unwrap();
    };
    let wait_for_word = || {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
    };
    loop {
        let order = next(&mut consumer).await;
        if how == STEP {
            say("processed");
            wait_for_word();
            let step = consumer.step().append(bill(&order)).consumed(&order);
            { step }.send().await.unwrap();
        } else {
            producer.send(bill(&order)).await.unwrap();
            say("processed");
            wait_for_word();
            consumer.commit_through(&order).await.unwrap();
        }
        say("committed");
        wait_for_word();
    }
}

/// The process that another test starts and ends; by itself there is nothing for it to do.
#[test]
fn a_biller() {
    let Ok(told) = std::env::var(BILLER) else {
        return;
    };
    let (url, how) = told.split_once(' ').unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(work(url, how));
}

/// A consumer in a process of its own.
struct Biller {
    child: Child,
    told: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Biller {
    fn start(broker: &Broker, how: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "steps::a_biller", "--nocapture"])
            .env(BILLER, format!("{} {how}", broker.url()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let told = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, told }
    }

    fn says(&mut self, what: &str) {
        let said = self.told.next().expect("it still runs").unwrap();
        assert_eq!(said, what);
    }

    fn go_on(&mut self) {
        writeln!(self.child.stdin.as_mut().unwrap()).unwrap();
    }

    /// Without a word to anybody.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Biller {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn start(orders: u32) -> (Broker, Client) {
    let broker = Broker::start();
    let client = broker.client().await;
    for topic in ["orders", "bills"] {
        client
            .create_topic(topic, CreateTopicOptions::default())
            .await
            .unwrap();
    }
    let producer = client.producer().build().await.unwrap();
    for order in 0..orders {
        let record = ProducerRecord::to("orders").value(order.to_string());
        producer.send(record).await.unwrap();
    }
    producer.close().await.unwrap();
    (broker, client)
}

/// Everything that was made.
async fn bills(client: &Client) -> Vec<String> {
    let listed = client
        .list_offsets("bills", &[0], naru::client::OffsetSpec::Latest)
        .await
        .unwrap();
    let end = listed[0].clone().unwrap();
    let mut reader = client.reader("bills", 0, Start::Earliest).build().await.unwrap();
    let mut bills = Vec::new();
    while reader.position() < end {
        let record = tokio::time::timeout(PATIENCE, reader.next()).await;
        bills.push(text(&record.unwrap().unwrap().unwrap()));
    }
    bills
}

async fn committed(client: &Client) -> Option<Offset> {
    let found = client.fetch_offsets("billing", "orders", &[0]).await.unwrap();
    let at = found[0].clone().unwrap();
    at.committed.map(|committed| committed.offset)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_dies_between_processing_and_commit_makes_it_twice_and_with_a_step_once() {
    let (broker, client) = start(3).await;

    // The first order: produce, then commit, and a death in between.
    let mut first = Biller::start(&broker, PRODUCE_THEN_COMMIT);
    first.says("processed");
    assert_eq!(bills(&client).await, ["bill of 0"]);
    first.kill();
    let mut second = Biller::start(&broker, PRODUCE_THEN_COMMIT);
    second.says("processed");
    assert_eq!(bills(&client).await, ["bill of 0", "bill of 0"], "a second time");
    second.go_on();
    second.says("committed");
    second.kill();

    // The second order, in steps: a death before the step,
    let mut third = Biller::start(&broker, STEP);
    third.says("processed");
    third.kill();
    assert_eq!(bills(&client).await.len(), 2);
    let mut fourth = Biller::start(&broker, STEP);
    fourth.says("processed");
    fourth.go_on();
    fourth.says("committed");
    // and one behind it.
    fourth.kill();
    let mut fifth = Biller::start(&broker, STEP);
    fifth.says("processed");
    assert_eq!(
        bills(&client).await,
        ["bill of 0", "bill of 0", "bill of 1"],
        "once"
    );
    fifth.go_on();
    fifth.says("committed");
    fifth.kill();
    let all = ["bill of 0", "bill of 0", "bill of 1", "bill of 2"];
    assert_eq!(bills(&client).await, all);
    assert_eq!(committed(&client).await, Offset::new(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_answer_is_lost_with_the_connection_is_taken_once() {
    let (broker, client) = start(4).await;
    let proxy = Proxy::start(broker.native.clone()).await;
    let through = Client::connect(&format!("naru://{}", proxy.address))
        .await
        .unwrap();
    let mut consumer = join(&through).await;
    for number in 1..=4 {
        let order = next(&mut consumer).await;
        let mut step = consumer.step().append(bill(&order)).consumed(&order);
        if number % 2 == 1 {
            step.send().await.unwrap();
            continue;
        }
        // Whatever the broker says is lost from now on.
        proxy.mute(true);
        let watched = async {
            while committed(&client).await != Offset::new(number) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            proxy.mute(false);
            proxy.cut();
            std::future::pending().await
        };
        let stepped = tokio::select! {
            stepped = step.send() => stepped.unwrap(),
            () = watched => unreachable!("it only watches"),
        };
        assert!(stepped.duplicate);
        assert_eq!(
            stepped.records[0].offset,
            Offset::new(number - 1),
            "where it was put then"
        );
    }
    consumer.close().await.unwrap();
    let expected: Vec<_> = (0..4).map(|order| format!("bill of {order}")).collect();
    assert_eq!(bills(&client).await, expected);
    assert_eq!(committed(&client).await, Offset::new(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_members_come_and_go_and_the_broker_is_killed_steps_make_everything_once() {
    const ORDERS: u32 = 300;
    let (mut broker, client) = start(0).await;
    let more = |partitions| naru::client::AlterTopicOptions {
        partitions,
        ..Default::default()
    };
    client.alter_topic("orders", more(4)).await.unwrap();
    let mut billers = tokio::task::JoinSet::new();
    let ended = tokio_util::sync::CancellationToken::new();
    let biller = |client: Client, leaves: bool, ended: tokio_util::sync::CancellationToken| async move {
        let mut consumer = join(&client).await;
        let mut made = 0;
        loop {
            let order = tokio::select! {
                order = consumer.next() => order.unwrap().unwrap(),
                () = ended.cancelled() => break,
            };
            let step = consumer.step().append(bill(&order)).consumed(&order);
            match { step }.send().await {
                Ok(_) => made += 1,
                Err(CommitError::Lost { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            if leaves && made == 20 {
                // Some without a word.
                return;
            }
        }
        consumer.close().await.unwrap();
    };
    for leaves in [false, true, false] {
        billers.spawn(biller(broker.client().await, leaves, ended.clone()));
    }
    let producer = client.producer().build().await.unwrap();
    for order in 0..ORDERS {
        let record = ProducerRecord::to("orders").partition(order % 4);
        producer.send(record.value(order.to_string())).await.unwrap();
        if order % 100 == 50 {
            broker.kill();
            broker.restart();
        }
        if order % 100 == 80 {
            billers.spawn(biller(broker.client().await, true, ended.clone()));
        }
    }
    producer.close().await.unwrap();
    let all = async {
        loop {
            let listed = client
                .list_offsets("bills", &[0], naru::client::OffsetSpec::Latest)
                .await;
            if listed.unwrap()[0].clone().unwrap().get() >= i64::from(ORDERS) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE * 3, all).await.expect("all bills");
    ended.cancel();
    while let Some(joined) = billers.join_next().await {
        joined.unwrap();
    }
    let mut made = bills(&client).await;
    made.sort_by_key(|bill| bill["bill of ".len()..].parse::<u32>().unwrap());
    let expected: Vec<_> = (0..ORDERS).map(|order| format!("bill of {order}")).collect();
    assert_eq!(made, expected, "each once");
    let group = client.describe_group("billing").await.unwrap();
    assert!(group.partitions.iter().all(|at| at.lag == Some(0)), "{group:?}");
}
