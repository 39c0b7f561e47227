//! Members of groups as programs have them, against the real binary: they join and leave, their connections break, the broker is
//! killed, and one that was away for too long is told.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use naru::client::{
    Client, CommitError, ConsumerState, CreateTopicOptions, GroupConsumer, GroupHandle, GroupHeartbeat,
    GroupMember, OffsetToCommit, ProducerRecord, Reset, Subscription, TopicPartition,
};
use naru::model::{ErrorCode, Offset};
use naru::pb::v1;
use naru::pb::v1::request::Body;
use naru::pb::v1::response::Body as Answer;
use naru::rt::{Clock as _, SystemClock};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use rustix::process::Signal;

use crate::broker::{Broker, naru, signal};
use crate::peer::{PATIENCE, Peer, until};
use crate::proxy::Proxy;

const PARTITIONS: u32 = 6;

/// How often each value was handed out.
type Seen = Arc<Mutex<BTreeMap<u32, u32>>>;

/// A consumer that counts what it gets until it is told to leave.
struct Reader {
    handle: GroupHandle,
    stop: CancellationToken,
    task: JoinSet<()>,
    lost: Arc<AtomicUsize>,
}

impl Reader {
    async fn join(client: &Client, seen: &Seen) -> Self {
        let lost = Arc::new(AtomicUsize::new(0));
        let count = lost.clone();
        let builder = client
            .group_consumer("g")
            .topics(["orders"])
            .reset(Reset::Earliest);
        let builder = builder.on_lost(move |partitions: Vec<TopicPartition>, _| {
            count.fetch_add(partitions.len(), Ordering::SeqCst);
            std::future::ready(())
        });
        let consumer = builder.build().await.unwrap();
        let (handle, stop) = (consumer.handle(), CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn(read(consumer, seen.clone(), stop.clone()));
        Self {
            handle,
            stop,
            task,
            lost,
        }
    }

    async fn has(&self, partitions: usize) {
        until("a share", || self.handle.assignment().len() == partitions).await;
    }

    async fn leave(mut self) {
        self.stop.cancel();
        self.task.join_next().await.unwrap().unwrap();
        assert_eq!(self.lost.load(Ordering::SeqCst), 0, "nothing was lost");
    }
}

async fn read(mut consumer: GroupConsumer, seen: Seen, stop: CancellationToken) {
    loop {
        let next = tokio::select! {
            next = consumer.next() => next,
            () = stop.cancelled() => break,
        };
        let record = next.unwrap().unwrap();
        let value = String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap();
        *seen.lock().unwrap().entry(value.parse().unwrap()).or_default() += 1;
    }
    // What was handed out last is processed, too.
    consumer.commit().await.unwrap();
    consumer.close().await.unwrap();
}

async fn create(client: &Client) {
    let options = CreateTopicOptions {
        partitions: PARTITIONS,
        ..Default::default()
    };
    client.create_topic("orders", options).await.unwrap();
}

/// Writes numbers until it is told to stop; how many there are.
fn write(client: Client, stop: CancellationToken) -> JoinSet<u32> {
    let mut task = JoinSet::new();
    task.spawn(async move {
        let producer = client.producer().build().await.unwrap();
        let mut count = 0;
        while !stop.is_cancelled() {
            let record = ProducerRecord::to("orders").partition(count % PARTITIONS);
            producer.send(record.value(count.to_string())).await.unwrap();
            count += 1;
        }
        producer.close().await.unwrap();
        count
    });
    task
}

/// Waits until everything was seen; how many came more than once.
async fn all_seen(seen: &Seen, count: u32) -> usize {
    until("all records", || {
        seen.lock().unwrap().len() == usize::try_from(count).unwrap()
    })
    .await;
    seen.lock().unwrap().values().filter(|times| **times > 1).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_join_and_leave_and_nobody_gets_a_record_twice() {
    let broker = Broker::start();
    let client = broker.client().await;
    create(&client).await;
    let (seen, stop) = (Seen::default(), CancellationToken::new());
    let mut writer = write(client.clone(), stop.clone());
    for _ in 0..2 {
        let first = Reader::join(&client, &seen).await;
        first.has(6).await;
        let second = Reader::join(&client, &seen).await;
        first.has(3).await;
        second.has(3).await;
        let third = Reader::join(&broker.client().await, &seen).await;
        for reader in [&first, &second, &third] {
            reader.has(2).await;
        }
        first.leave().await;
        second.has(3).await;
        third.has(3).await;
        second.leave().await;
        third.has(6).await;
        third.leave().await;
    }
    stop.cancel();
    let count = writer.join_next().await.unwrap().unwrap();
    let last = Reader::join(&client, &seen).await;
    assert_eq!(all_seen(&seen, count).await, 0, "records came twice");
    last.leave().await;
    let group = client.describe_group("g").await.unwrap();
    assert_eq!(group.members.len(), 0);
    assert!(
        group.partitions.iter().all(|at| at.lag == Some(0)),
        "{:?}",
        group.partitions
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stands_by_takes_over_when_the_other_is_gone_without_a_word() {
    let broker = Broker::start();
    let client = broker.client().await;
    client
        .create_topic("orders", CreateTopicOptions::default())
        .await
        .unwrap();
    let seen = Seen::default();
    let first = Reader::join(&client, &seen).await;
    first.has(1).await;
    let second = Reader::join(&broker.client().await, &seen).await;
    let standby = |rank| matches!(rank, ConsumerState::Standby { rank: 1, .. });
    until("a stand-by", || standby(second.handle.state())).await;
    // The stream is dropped, and its connection with it.
    drop(first.task);
    second.has(1).await;
    assert_eq!(second.handle.state(), ConsumerState::Active);
    second.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_costs_no_partition_and_no_record_comes_twice() {
    let broker = Broker::start();
    let client = broker.client().await;
    create(&client).await;
    let proxy = Proxy::start(broker.native.clone()).await;
    let through = Client::connect(&format!("naru://{}", proxy.address))
        .await
        .unwrap();
    let (seen, stop) = (Seen::default(), CancellationToken::new());
    let mut writer = write(client.clone(), stop.clone());
    let reader = Reader::join(&through, &seen).await;
    reader.has(6).await;
    let before = reader.handle.member();
    for _ in 0..3 {
        let more = seen.lock().unwrap().len() + 50;
        proxy.cut();
        until("more records", || seen.lock().unwrap().len() >= more).await;
    }
    stop.cancel();
    let count = writer.join_next().await.unwrap().unwrap();
    assert_eq!(all_seen(&seen, count).await, 0, "records came twice");
    assert_eq!(
        reader.handle.member(),
        before,
        "it is the same member in the same epoch"
    );
    reader.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_restart_of_the_broker_members_stay_and_go_on_where_they_are() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    create(&client).await;
    let (seen, stop) = (Seen::default(), CancellationToken::new());
    let mut writer = write(client.clone(), stop.clone());
    let first = Reader::join(&client, &seen).await;
    let second = Reader::join(&broker.client().await, &seen).await;
    first.has(3).await;
    second.has(3).await;
    let ids = [first.handle.member().member_id, second.handle.member().member_id];
    for _ in 0..2 {
        let more = seen.lock().unwrap().len() + 100;
        broker.kill();
        broker.restart();
        until("more records", || seen.lock().unwrap().len() >= more).await;
    }
    stop.cancel();
    let count = writer.join_next().await.unwrap().unwrap();
    assert_eq!(all_seen(&seen, count).await, 0, "records came twice");
    assert_eq!(
        ids,
        [first.handle.member().member_id, second.handle.member().member_id]
    );
    first.has(3).await;
    second.has(3).await;
    first.leave().await;
    second.leave().await;
}

fn beat(member: &GroupMember, revision: u64) -> GroupHeartbeat {
    GroupHeartbeat {
        group: "g".to_owned(),
        member: member.clone(),
        revision,
        client_id: String::new(),
        max_wait: Duration::ZERO,
        subscription: (member.member_epoch == 0).then(|| Subscription {
            topics: vec!["orders".to_owned()],
            patterns: vec![],
        }),
        owned: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_back_after_its_session_is_refused_and_told() {
    let broker = Broker::start();
    let client = broker.client().await;
    create(&client).await;
    let short = [("session.timeout.ms", "1000"), ("heartbeat.interval.ms", "300")];
    let short = short.map(|(name, value)| (name.to_owned(), value.to_owned()));
    client.create_group("g", short.to_vec()).await.unwrap();
    let mut zombie = GroupMember {
        member_id: "zombie".to_owned(),
        member_epoch: 0,
        instance_id: None,
    };
    let joined = client.group_heartbeat(beat(&zombie, 0)).await.unwrap();
    assert_eq!(joined.assigned.len(), 6);
    zombie.member_epoch = joined.member_epoch;
    // It says no more, and somebody else gets everything.
    let seen = Seen::default();
    let other = Reader::join(&broker.client().await, &seen).await;
    other.has(6).await;

    let offsets = vec![OffsetToCommit::new("orders", 0, Offset::ZERO)];
    let commit = client.commit_offsets_as("g", &zombie, offsets).await.unwrap_err();
    assert_eq!(commit.code(), Some(ErrorCode::UnknownMemberId));
    assert!(!commit.may_have_taken_effect());
    let told = client
        .group_heartbeat(beat(&zombie, joined.revision))
        .await
        .unwrap_err();
    assert_eq!(told.code(), Some(ErrorCode::UnknownMemberId));
    let mut peer = Peer::connect(broker.native.parse().unwrap()).await;
    peer.ask(
        2,
        Body::Fetch(v1::FetchRequest {
            group: "g".to_owned(),
            member: Some(v1::GroupMember {
                member_id: zombie.member_id.clone(),
                member_epoch: zombie.member_epoch,
                instance_id: String::new(),
            }),
            partitions: vec![v1::FetchPartition {
                partition: Some(v1::TopicPartition {
                    topic: "orders".to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            }],
            ..Default::default()
        }),
    )
    .await;
    let code = match peer.answer().await.body.unwrap() {
        Answer::Fetch(fetched) => fetched.partitions[0].error.clone().unwrap().code,
        Answer::Error(error) => error.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code, ErrorCode::UnknownMemberId.number());
    other.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_consumer_loses_what_it_had_in_hand_and_joins_as_another() {
    let broker = Broker::start();
    let client = broker.client().await;
    client
        .create_topic("orders", CreateTopicOptions::default())
        .await
        .unwrap();
    let producer = client.producer().build().await.unwrap();
    producer
        .send(ProducerRecord::to("orders").value("1"))
        .await
        .unwrap();
    let lost = Arc::new(AtomicUsize::new(0));
    let count = lost.clone();
    let builder = client
        .group_consumer("g")
        .topics(["orders"])
        .reset(Reset::Earliest);
    let builder = builder.on_lost(move |partitions: Vec<TopicPartition>, _| {
        count.fetch_add(partitions.len(), Ordering::SeqCst);
        std::future::ready(())
    });
    let mut consumer = builder.build().await.unwrap();
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
    let first = next.unwrap().unwrap().unwrap();
    let id = consumer.handle().member().member_id;
    let who = naru::client::Evict::Member(id.clone());
    client.evict_member("g", who, "for a test").await.unwrap();
    until("a loss", || lost.load(Ordering::SeqCst) == 1).await;
    let error = consumer.commit_through(&first).await.unwrap_err();
    assert!(matches!(error, CommitError::Lost { .. }), "{error}");
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
    let again = next.unwrap().unwrap().unwrap();
    assert_eq!(again.offset, first.offset);
    assert!(again.redelivered && !first.redelivered);
    assert_ne!(consumer.handle().member().member_id, id);
    consumer.commit().await.unwrap();
    consumer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_more_partitions_than_fetches_may_wait_on_a_connection_none_waits_for_another() {
    const MANY: u32 = 150;
    let broker = Broker::start();
    let client = broker.client().await;
    assert!(client.broker_info().limits.requests_parked_max < MANY);
    let options = CreateTopicOptions {
        partitions: MANY,
        ..Default::default()
    };
    client.create_topic("orders", options).await.unwrap();
    let builder = client
        .group_consumer("g")
        .topics(["orders"])
        .reset(Reset::Earliest);
    let mut consumer = builder.build().await.unwrap();
    let producer = client.producer().build().await.unwrap();
    // One at a time: behind fetches that wait in vain each would take seconds.
    let all = async {
        for partition in 0..MANY {
            let record = ProducerRecord::to("orders").partition(partition).value("x");
            producer.send(record).await.unwrap();
            assert_eq!(consumer.next().await.unwrap().unwrap().partition.0, partition);
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("all in time");
    consumer.commit().await.unwrap();
    consumer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stood_still_is_told_what_it_lost_and_joins_again() {
    let broker = Broker::start();
    let client = broker.client().await;
    create(&client).await;
    let short = [("session.timeout.ms", "1000"), ("heartbeat.interval.ms", "300")];
    let short = short.map(|(name, value)| (name.to_owned(), value.to_owned()));
    client.create_group("g", short.to_vec()).await.unwrap();
    let mut child = naru()
        .args([
            "-s",
            &broker.url(),
            "consume",
            "orders",
            "-g",
            "g",
            "-o",
            "start",
            "--format",
            "table",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    assert_eq!(told.next().unwrap().unwrap(), "reading orders/0,1,2,3,4,5");
    signal(&child, Signal::STOP);
    let seen = Seen::default();
    let other = Reader::join(&client, &seen).await;
    other.has(6).await;
    signal(&child, Signal::CONT);
    // What it was asked for while it stood still may be the first that it hears.
    let mut next = || told.next().unwrap().unwrap();
    let first = next();
    let lost = if first == "handing over orders/3,4,5" {
        next()
    } else {
        first
    };
    assert!(lost.starts_with("lost orders/0,1,2"), "{lost}");
    assert!(next().starts_with("reading orders/"));
    other.has(3).await;
    other.leave().await;
    child.kill().unwrap();
    child.wait().unwrap();
}

/// `naru consume -g` of the topic `orders`, its output line by line.
fn consume(broker: &Broker) -> (std::process::Child, std::sync::mpsc::Receiver<String>) {
    let mut child = naru()
        .args([
            "-s",
            &broker.url(),
            "consume",
            "orders",
            "-g",
            "g",
            "-o",
            "start",
            "-f",
            "%v\\n",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (line, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for next in out.lines() {
            line.send(next.unwrap()).unwrap();
        }
    });
    (child, lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_makes_the_command_commit_what_it_printed_and_leave() {
    let broker = Broker::start();
    let client = broker.client().await;
    create(&client).await;
    let stop = CancellationToken::new();
    let mut writer = write(client.clone(), stop.clone());
    let mut printed: Vec<u32> = Vec::new();
    for (told, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (mut child, lines) = consume(&broker);
        for _ in 0..200 {
            printed.push(lines.recv_timeout(PATIENCE).unwrap().parse().unwrap());
        }
        signal(&child, told);
        let ended = child.wait().unwrap();
        assert_eq!(ended.code(), Some(code));
        printed.extend(lines.iter().map(|line| line.parse::<u32>().unwrap()));
        // It has left: nobody waits for the end of a session or of a grace.
        let group = client.describe_group("g").await.unwrap();
        assert_eq!(group.members.len(), 0, "{group:?}");
        let committed = client.fetch_all_offsets("g").await.unwrap();
        let committed = committed.iter().filter_map(|at| at.committed.as_ref());
        let committed: i64 = committed.map(|committed| committed.offset.get()).sum();
        assert_eq!(usize::try_from(committed), Ok(printed.len()), "what was printed");
    }
    stop.cancel();
    let count = writer.join_next().await.unwrap().unwrap();
    let seen = Seen::default();
    for value in printed {
        *seen.lock().unwrap().entry(value).or_default() += 1;
    }
    let last = Reader::join(&client, &seen).await;
    assert_eq!(all_seen(&seen, count).await, 0, "printed once each");
    last.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_proposes_and_what_it_must_not_is_refused_and_left_to_the_broker() {
    const PROPOSAL_MS: u64 = 1_500;
    let clock = SystemClock::new();
    let broker = Broker::start();
    let client = broker.client().await;
    create(&client).await;
    let configs = [("assignor", "leader"), ("proposal.timeout.ms", "1500")];
    let configs = configs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    for group in ["all-to-one", "none", "bad"] {
        client.create_group(group, configs.to_vec()).await.unwrap();
    }
    let member = |client: &Client, group: &str| {
        let builder = client.group_consumer(group).topics(["orders"]);
        builder.reset(Reset::Earliest)
    };
    // Everything to the member that joined last, which the broker would never do.
    let to_last = |wanted: &naru::client::ProposalWanted| {
        let last = wanted.members.last().unwrap().member_id.clone();
        vec![(last, wanted.partitions.clone())]
    };
    let first = member(&client, "all-to-one")
        .propose(to_last)
        .build()
        .await
        .unwrap();
    until("all of it", || first.assignment().len() == 6).await;
    let second = member(&client, "all-to-one")
        .propose(to_last)
        .build()
        .await
        .unwrap();
    until("all of it", || {
        second.assignment().len() == 6 && first.assignment().is_empty()
    })
    .await;
    assert_eq!(first.handle().refused_proposal(), None);

    // Nobody proposes: the broker does not wait.
    let began = clock.mono();
    let silent = member(&client, "none").build().await.unwrap();
    until("all of it", || silent.assignment().len() == 6).await;
    let took = clock.mono() - began;
    assert!(took < Duration::from_millis(PROPOSAL_MS), "{took:?}");

    // One partition is left out.
    let began = clock.mono();
    let bad = member(&client, "bad").propose(|wanted| {
        let leader = wanted.members[0].member_id.clone();
        vec![(leader, wanted.partitions[1..].to_vec())]
    });
    let bad = bad.build().await.unwrap();
    until("a refusal", || bad.handle().refused_proposal().is_some()).await;
    let refused = bad.handle().refused_proposal().unwrap();
    assert_eq!(refused.code(), Some(ErrorCode::InvalidAssignment));
    assert!(
        refused.to_string().contains("orders/0 goes to nobody"),
        "{refused}"
    );
    until("all of it", || bad.assignment().len() == 6).await;
    assert!(
        clock.mono() - began >= Duration::from_millis(PROPOSAL_MS),
        "after the deadline"
    );
}
