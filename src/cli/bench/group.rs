//! `naru bench group`: members come and go, and how long partitions are without an owner meanwhile. Records flow all the time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Latency, create_if_missing, joined};
use crate::cli::Context;
use crate::cli::failure::{Exit, Failure, Outcome, Stopped};
use crate::cli::output::line;
use crate::cli::session::connect;
use crate::client::{Client, Error, GroupHandle, ProducerRecord, Reset, TopicPartition};
use crate::rt::{Clock, SystemClock};

/// A change that takes longer ends the run.
const CHANGE_MAX: Duration = Duration::from_secs(60);

/// Flags of `bench group`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  naru bench group --members 8 --partitions 64 --cycles 20 --json

In each cycle a member joins, and the one that has been there longest leaves. `settle_us`: from a join or a leave until every \
partition has the owner that it is to have. `gap_us`: from the moment at which its old owner stops reading a partition until \
its new one begins. Exit code 8 if a record was handed out twice although every member left in order, or if a member fails.")]
pub(crate) struct GroupBenchArgs {
    /// Topic to read; created with --partitions if it is missing.
    #[arg(long, default_value = "bench-group")]
    topic: String,
    /// Partitions of a topic that is created.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// Members that are there at the same time, not counting the one that joins.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    members: u32,
    /// How often one joins and one leaves.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    cycles: u32,
    /// Records per second that are written meanwhile.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    rate: u32,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: GroupBenchArgs, context: &Context) -> Outcome {
    let client = connect(context).await?;
    create_if_missing(&client, &args.topic, args.partitions).await?;
    let topic = client.describe_topic(&args.topic).await?;
    let partitions = topic.partitions.len();
    let bench = Bench {
        group: format!("bench-{:016x}", fastrand::u64(..)),
        topic: args.topic.clone(),
        board: Arc::new(Board::new(partitions)),
    };
    let writing = CancellationToken::new();
    let mut writer = JoinSet::new();
    writer.spawn(write(
        client.clone(),
        args.topic.clone(),
        args.rate,
        writing.clone(),
    ));
    let mut members = std::collections::VecDeque::new();
    let outcome = bench.cycles(&args, context, &mut members).await;
    bench.board.stop();
    let mut leaving = JoinSet::new();
    for member in members {
        leaving.spawn(member.leave());
    }
    while leaving.join_next().await.is_some() {}
    writing.cancel();
    let written = joined(&mut writer).await?;
    // What it leaves behind is of no use to anybody.
    let deleted = client.delete_group(&bench.group).await;
    outcome?;
    written?;
    deleted?;
    let result = bench.board.result(&args, partitions);
    line(&result.report(args.json || !context.output.is_table()))?;
    result.outcome()
}

/// Writes to all partitions in turn until it is told to stop.
async fn write(client: Client, topic: String, rate: u32, stop: CancellationToken) -> Result<(), Error> {
    let producer = client.producer().build().await?;
    let every = Duration::from_secs(1).checked_div(rate);
    let Some(mut ticks) = every.map(tokio::time::interval) else {
        return Ok(());
    };
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => break,
        }
        // Closing shows what failed.
        drop(
            producer
                .enqueue(ProducerRecord::to(topic.as_str()).value("x"))
                .await?,
        );
    }
    producer.close().await
}

struct Bench {
    group: String,
    topic: String,
    board: Arc<Board>,
}

impl Bench {
    async fn cycles(
        &self,
        args: &GroupBenchArgs,
        context: &Context,
        members: &mut std::collections::VecDeque<Member>,
    ) -> Outcome {
        for number in 0..args.members {
            members.push_back(self.join(number, context).await?);
        }
        self.settle(members.len()).await?;
        self.board.start();
        for cycle in 0..args.cycles {
            let began = self.board.clock.mono();
            members.push_back(self.join(args.members + cycle, context).await?);
            self.settle(members.len()).await?;
            self.board.settled(began);
            let began = self.board.clock.mono();
            if let Some(member) = members.pop_front() {
                member.leave().await?;
            }
            self.settle(members.len()).await?;
            self.board.settled(began);
        }
        Ok(())
    }

    /// A member over a connection of its own, as in a process of its own.
    async fn join(&self, number: u32, context: &Context) -> Result<Member, Stopped> {
        let client = connect(context).await?;
        let (assigned, revoked, lost) = (self.board.clone(), self.board.clone(), self.board.clone());
        let consumer = client.group_consumer(&self.group).topics([self.topic.as_str()]);
        let consumer = consumer
            .reset(Reset::Earliest)
            .on_assigned(move |partitions, _: GroupHandle| {
                assigned.took(number, &partitions);
                std::future::ready(())
            })
            .on_revoked(move |partitions, _: GroupHandle| {
                revoked.gave(&partitions);
                std::future::ready(())
            })
            .on_lost(move |partitions, _: GroupHandle| {
                lost.gave(&partitions);
                std::future::ready(())
            });
        let mut consumer = consumer.build().await?;
        let leave = CancellationToken::new();
        let (told, board) = (leave.clone(), self.board.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let next = tokio::select! {
                    next = consumer.next() => next,
                    () = told.cancelled() => break,
                };
                match next {
                    Some(Ok(record)) => board.read(record.partition.0, record.offset.get()),
                    Some(Err(error)) => return Err(Failure::from(error)),
                    None => break,
                }
            }
            // What was handed out last is processed.
            let committed = consumer.commit().await.map(drop);
            committed
                .and(consumer.close().await)
                .map_err(|error| Failure::new(Exit::Unexpected, "COMMIT_FAILED", error.to_string()))
        });
        Ok(Member { leave, task })
    }

    /// Waits until every partition has an owner, and every member its share.
    async fn settle(&self, members: usize) -> Outcome {
        let settled = async {
            loop {
                let changed = self.board.changed.notified();
                if self.board.is_settled(members) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(CHANGE_MAX, settled).await.map_err(|_| {
            let message = format!("the group did not come to rest within {CHANGE_MAX:?}");
            Failure::new(Exit::CheckFailed, "NOT_SETTLED", message)
                .hint(format!("naru group describe {}", self.group))
        })?;
        Ok(())
    }
}

/// A member and its reader.
struct Member {
    leave: CancellationToken,
    task: JoinSet<Result<(), Failure>>,
}

impl Member {
    async fn leave(mut self) -> Result<(), Failure> {
        self.leave.cancel();
        joined(&mut self.task).await?
    }
}

/// Who has what, and what was seen.
struct Board {
    clock: SystemClock,
    /// Told by hooks.
    owners: Mutex<Owners>,
    changed: Notify,
    /// Behind the last record that was handed out, of each partition.
    read_to: Vec<AtomicI64>,
    records: AtomicU64,
    redelivered: AtomicU64,
}

struct Owners {
    /// Who has a partition.
    of: BTreeMap<u32, u32>,
    /// Since when nobody has it.
    free_since: BTreeMap<u32, Duration>,
    /// When the first members had settled: what was freed before that is the way there, and is not counted.
    counts_from: Option<Duration>,
    /// When the last change had settled: behind it is the end, where all leave.
    counts_until: Duration,
    moved: u64,
    settle: Latency,
    gap: Latency,
}

impl Owners {
    fn took(&mut self, member: u32, partitions: &[TopicPartition], now: Duration) {
        for partition in partitions.iter().map(index) {
            self.of.insert(partition, member);
            let counted = self.counts_from.unwrap_or(Duration::MAX)..self.counts_until;
            let free_since = self.free_since.remove(&partition);
            if let Some(since) = free_since.filter(|since| counted.contains(since)) {
                self.moved += 1;
                self.gap.record(now.saturating_sub(since));
            }
        }
    }

    fn gave(&mut self, partitions: &[TopicPartition], now: Duration) {
        for partition in partitions.iter().map(index) {
            self.of.remove(&partition);
            self.free_since.insert(partition, now);
        }
    }
}

fn index(partition: &TopicPartition) -> u32 {
    partition.partition.0
}

impl Board {
    fn new(partitions: usize) -> Self {
        Self {
            clock: SystemClock::new(),
            owners: Mutex::new(Owners {
                of: BTreeMap::new(),
                free_since: BTreeMap::new(),
                counts_from: None,
                counts_until: Duration::MAX,
                moved: 0,
                settle: Latency::new(),
                gap: Latency::new(),
            }),
            changed: Notify::new(),
            read_to: (0..partitions).map(|_| AtomicI64::new(0)).collect(),
            records: AtomicU64::new(0),
            redelivered: AtomicU64::new(0),
        }
    }

    fn owners(&self) -> std::sync::MutexGuard<'_, Owners> {
        self.owners.lock().expect("no panics while locked")
    }

    /// From now on moves count.
    fn start(&self) {
        self.owners().counts_from = Some(self.clock.mono());
    }

    /// From now on they do not any more.
    fn stop(&self) {
        self.owners().counts_until = self.clock.mono();
    }

    fn took(&self, member: u32, partitions: &[TopicPartition]) {
        self.owners().took(member, partitions, self.clock.mono());
        self.changed.notify_one();
    }

    fn gave(&self, partitions: &[TopicPartition]) {
        self.owners().gave(partitions, self.clock.mono());
        self.changed.notify_one();
    }

    fn settled(&self, began: Duration) {
        let took = self.clock.mono().saturating_sub(began);
        self.owners().settle.record(took);
    }

    /// Every partition has an owner, and no two members differ by more than one.
    fn is_settled(&self, members: usize) -> bool {
        let owners = self.owners();
        let mut shares: BTreeMap<u32, usize> = BTreeMap::new();
        for member in owners.of.values() {
            *shares.entry(*member).or_default() += 1;
        }
        let partitions = self.read_to.len();
        let members = members.max(1);
        let (at_least, at_most) = (partitions / members, partitions.div_ceil(members));
        let active = members.min(partitions);
        owners.of.len() == partitions
            && shares.len() == active
            && shares.values().all(|share| (at_least..=at_most).contains(share))
    }

    fn read(&self, partition: u32, offset: i64) {
        self.records.fetch_add(1, Ordering::Relaxed);
        let read_to = usize::try_from(partition)
            .ok()
            .and_then(|at| self.read_to.get(at));
        if let Some(read_to) = read_to
            && read_to.fetch_max(offset + 1, Ordering::Relaxed) > offset
        {
            self.redelivered.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn result(&self, args: &GroupBenchArgs, partitions: usize) -> Summary {
        let owners = self.owners();
        Summary {
            members: args.members,
            partitions,
            cycles: args.cycles,
            moved: owners.moved,
            settle_us: [0.5, 0.99, 1.0].map(|share| owners.settle.quantile_us(share)),
            gap_us: [0.5, 0.99, 1.0].map(|share| owners.gap.quantile_us(share)),
            records: self.records.load(Ordering::Relaxed),
            redelivered: self.redelivered.load(Ordering::Relaxed),
        }
    }
}

/// What is reported. Times: p50, p99, max.
#[derive(Clone, Copy, Debug)]
struct Summary {
    members: u32,
    partitions: usize,
    cycles: u32,
    moved: u64,
    settle_us: [u64; 3],
    gap_us: [u64; 3],
    records: u64,
    redelivered: u64,
}

impl Summary {
    fn report(&self, json: bool) -> String {
        let [settle, gap] = [self.settle_us, self.gap_us];
        if json {
            let times = |[p50, p99, max]: [u64; 3]| json!({"p50": p50, "p99": p99, "max": max});
            return json!({
                "members": self.members, "partitions": self.partitions, "cycles": self.cycles, "moved": self.moved,
                "settle_us": times(settle), "gap_us": times(gap), "records": self.records,
                "redelivered": self.redelivered,
            })
            .to_string();
        }
        let times = |[p50, p99, max]: [u64; 3]| format!("p50 {p50} us, p99 {p99} us, max {max} us");
        format!(
            "{} joins and leaves of {} members, {} partitions: {} moved\nuntil all have their owner  {}\nwithout an owner, each      {}\n{} records read, {} of them redelivered",
            2 * u64::from(self.cycles),
            self.members,
            self.partitions,
            self.moved,
            times(settle),
            times(gap),
            self.records,
            self.redelivered,
        )
    }

    fn outcome(&self) -> Outcome {
        if self.redelivered == 0 {
            return Ok(());
        }
        let message = format!("{} records were handed out twice", self.redelivered);
        Err(Failure::new(Exit::CheckFailed, "REDELIVERED", message).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PartitionId, TopicId};

    fn at(indexes: &[u32]) -> Vec<TopicPartition> {
        let partition = |index: &u32| TopicPartition {
            topic: "t".into(),
            topic_id: TopicId::from_bytes([9; 16]),
            partition: PartitionId(*index),
        };
        indexes.iter().map(partition).collect()
    }

    #[test]
    fn a_group_has_settled_when_all_is_owned_and_shared() {
        let board = Board::new(3);
        assert!(!board.is_settled(1));
        board.took(0, &at(&[0, 1, 2]));
        assert!(board.is_settled(1) && !board.is_settled(2));
        board.start();
        board.gave(&at(&[2]));
        assert!(!board.is_settled(2));
        board.took(1, &at(&[2]));
        assert!(board.is_settled(2));
        assert_eq!(board.owners().moved, 1);
    }

    #[test]
    fn a_group_on_its_way_has_not_settled_while_a_member_has_less_than_its_share() {
        let board = Board::new(10);
        for (member, partitions) in [[0, 1, 2], [3, 4, 5], [6, 7, 8]].iter().enumerate() {
            board.took(u32::try_from(member).unwrap(), &at(partitions));
        }
        board.took(3, &at(&[9]));
        assert!(!board.is_settled(4), "3, 3, 3 and 1: another one moves");
        board.gave(&at(&[8]));
        board.took(3, &at(&[8]));
        assert!(board.is_settled(4));
    }

    #[test]
    fn what_moves_before_the_first_members_have_settled_and_at_the_end_is_not_counted() {
        let ms = Duration::from_millis;
        let board = Board::new(3);
        let mut owners = board.owners();
        owners.took(0, &at(&[0, 1, 2]), ms(1));
        owners.gave(&at(&[1, 2]), ms(2));
        owners.took(1, &at(&[1]), ms(3));
        owners.counts_from = Some(ms(4));
        // Freed on the way there, and taken only now.
        owners.took(2, &at(&[2]), ms(9));
        assert_eq!((owners.moved, owners.gap.quantile_us(1.0)), (0, 0));
        owners.gave(&at(&[1]), ms(10));
        owners.took(2, &at(&[1]), ms(12));
        assert_eq!(owners.moved, 1);
        // All leave, one after another.
        owners.counts_until = ms(20);
        owners.gave(&at(&[1]), ms(21));
        owners.took(0, &at(&[1]), ms(22));
        assert_eq!(owners.moved, 1);
        assert!((1_990..=2_010).contains(&owners.gap.quantile_us(1.0)));
    }

    #[test]
    fn a_record_that_comes_twice_is_counted_and_fails_the_check() {
        let board = Board::new(1);
        for offset in [0, 1, 1, 2] {
            board.read(0, offset);
        }
        let args = GroupBenchArgs {
            topic: "t".to_owned(),
            partitions: 1,
            members: 1,
            cycles: 3,
            rate: 1,
            json: true,
        };
        let result = board.result(&args, 1);
        assert_eq!((result.records, result.redelivered), (4, 1));
        assert!(result.outcome().is_err());
        let json: serde_json::Value = serde_json::from_str(&result.report(true)).unwrap();
        assert_eq!(
            (&json["cycles"], &json["settle_us"]["p99"]),
            (&3.into(), &0.into())
        );
        assert!(
            result
                .report(false)
                .contains("6 joins and leaves of 1 members, 1 partitions")
        );
    }
}
