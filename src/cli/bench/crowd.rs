//! Many members of many groups over few connections. They heartbeat, hold partitions and release them, and read nothing: what is
//! measured is the coordinator.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{Latency, create_if_missing};
use crate::cli::Context;
use crate::cli::failure::{Exit, Failure, Stopped};
use crate::cli::session::connect;
use crate::client::{Client, Error, GroupHeartbeat, GroupMember, Membership, Subscription, TopicPartition};
use crate::model::ErrorCode;
use crate::rt::{Clock, SystemClock};

/// A group that takes longer to come to rest ends the run.
const SETTLE_MAX: Duration = Duration::from_secs(120);
/// How long members whose connections are gone may take to be removed.
const GONE_MAX: Duration = Duration::from_secs(60);
/// Between two looks at whether they are.
const GONE_LOOK: Duration = Duration::from_millis(100);

/// How many of what.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Name of the topic that all subscribe to.
    pub(super) topic: String,
    pub(super) partitions: u32,
    pub(super) groups: u32,
    /// Of each group.
    pub(super) members: u32,
    pub(super) connections: u32,
    /// How often a heartbeat that does not wait is sent; `None`: the broker holds heartbeats back until there is news.
    pub(super) every: Option<Duration>,
}

/// Makes the topic if it is missing. How many partitions it has.
pub(super) async fn prepare_topic(name: &str, partitions: u32, context: &Context) -> Result<u32, Stopped> {
    let client = connect(context).await?;
    create_if_missing(&client, name, partitions).await?;
    let topic = client.describe_topic(name).await?;
    Ok(u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX))
}

/// Members that are there, each with a task that keeps it alive.
pub(super) struct Crowd {
    pub(super) board: Arc<Board>,
    pub(super) seats: Vec<Arc<Seat>>,
    /// How long each join took until it was answered.
    pub(super) joins: Latency,
    groups: Vec<String>,
    tasks: JoinSet<()>,
}

impl Crowd {
    /// Lets all members join, one after the other, and waits until every group is at rest. The groups have their members one by
    /// one in turn, so that a group changes while others are at rest.
    pub(super) async fn gather(plan: &Plan, context: &Context) -> Result<Self, Stopped> {
        let run = fastrand::u64(..);
        let groups: Vec<_> = (0..plan.groups)
            .map(|at| format!("bench-{run:016x}-{at}"))
            .collect();
        let mut clients = Vec::new();
        for _ in 0..plan.connections {
            clients.push(connect(context).await?);
        }
        let board = Arc::new(Board::new(plan));
        let mut crowd = Self {
            board: Arc::clone(&board),
            seats: Vec::new(),
            joins: Latency::new(),
            groups,
            tasks: JoinSet::new(),
        };
        let mut over = clients.iter().cycle();
        for number in 0..plan.members {
            for group in &crowd.groups {
                let Some(client) = over.next() else {
                    return Err(
                        Failure::usage("without a connection there are no members".to_owned()).into(),
                    );
                };
                let seat = Arc::new(Seat::new(client.clone(), group.clone(), number));
                let began = board.clock.mono();
                seat.join(&plan.topic, &board).await?;
                crowd.joins.record(board.clock.mono().saturating_sub(began));
                crowd
                    .tasks
                    .spawn(Arc::clone(&seat).live(Arc::clone(&board), plan.every));
                crowd.seats.push(seat);
            }
        }
        board.settled().await?;
        Ok(crowd)
    }

    /// Connections are lost, which removes the members; then the groups go.
    pub(super) async fn leave(mut self, context: &Context) -> Result<(), Stopped> {
        self.tasks.shutdown().await;
        self.seats.clear();
        let client = connect(context).await?;
        let clock = SystemClock::new();
        let deadline = clock.mono() + GONE_MAX;
        for group in &self.groups {
            while let Err(error) = client.delete_group(group).await {
                let waits = error.code() == Some(ErrorCode::GroupNotEmpty) && clock.mono() < deadline;
                if !waits {
                    return Err(error.into());
                }
                tokio::time::sleep(GONE_LOOK).await;
            }
        }
        Ok(())
    }
}

/// A member.
pub(super) struct Seat {
    pub(super) client: Client,
    pub(super) group: String,
    told: Mutex<Told>,
}

/// What a member knows.
#[derive(Clone, Debug)]
struct Told {
    member: GroupMember,
    revision: u64,
    /// How long a heartbeat may be held back.
    heartbeat: Duration,
    assigned: BTreeSet<TopicPartition>,
    /// It has something to release, which it does at once.
    releases: bool,
}

impl Told {
    fn beat(&self, group: &str, every: Option<Duration>) -> GroupHeartbeat {
        GroupHeartbeat {
            group: group.to_owned(),
            member: self.member.clone(),
            revision: self.revision,
            client_id: "naru-bench".to_owned(),
            max_wait: if every.is_some() || self.releases {
                Duration::ZERO
            } else {
                self.heartbeat
            },
            subscription: None,
            owned: self.releases.then(|| self.assigned.iter().cloned().collect()),
        }
    }

    /// Takes an answer in. Returns how many partitions it held before and holds now.
    fn answered(&mut self, answer: Membership) -> [usize; 2] {
        let before = self.assigned.len();
        self.member.member_epoch = answer.member_epoch;
        self.revision = answer.revision;
        self.heartbeat = answer.heartbeat;
        self.assigned = answer
            .assigned
            .into_iter()
            .map(|assigned| assigned.partition)
            .collect();
        self.releases = !answer.revoking.is_empty();
        [before, self.assigned.len()]
    }
}

impl Seat {
    fn new(client: Client, group: String, number: u32) -> Self {
        let member = GroupMember {
            member_id: format!("m{number}-{:016x}", fastrand::u64(..)),
            member_epoch: 0,
            instance_id: None,
        };
        Self {
            client,
            group,
            told: Mutex::new(Told {
                member,
                revision: 0,
                heartbeat: Duration::ZERO,
                assigned: BTreeSet::new(),
                releases: false,
            }),
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().expect("no panics while locked")
    }

    /// Who it is now.
    pub(super) fn member(&self) -> GroupMember {
        self.told().member.clone()
    }

    /// What it holds now.
    pub(super) fn assigned(&self) -> Vec<TopicPartition> {
        self.told().assigned.iter().cloned().collect()
    }

    async fn join(&self, topic: &str, board: &Board) -> Result<(), Error> {
        let mut beat = self.told().beat(&self.group, None);
        beat.subscription = Some(Subscription {
            topics: vec![topic.to_owned()],
            patterns: Vec::new(),
        });
        beat.owned = Some(Vec::new());
        let answer = self.client.group_heartbeat(beat).await?;
        board.holds(self.told().answered(answer));
        Ok(())
    }

    /// Heartbeats until it is stopped. A member that is refused ends, and is counted.
    async fn live(self: Arc<Self>, board: Arc<Board>, every: Option<Duration>) {
        loop {
            let beat = self.told().beat(&self.group, every);
            if let Some(every) = every.filter(|_| beat.owned.is_none()) {
                tokio::time::sleep(every).await;
            }
            let answer = self.client.group_heartbeat(beat).await;
            board.beats.fetch_add(1, Ordering::Relaxed);
            match answer {
                Ok(answer) => board.holds(self.told().answered(answer)),
                Err(error) => return board.failed(error),
            }
        }
    }
}

/// What members tell.
pub(super) struct Board {
    pub(super) clock: SystemClock,
    /// Heartbeats that were answered.
    beats: AtomicU64,
    shares: Mutex<Shares>,
    changed: Notify,
    /// The first thing that went wrong.
    first_error: Mutex<Option<Error>>,
    errors: AtomicU64,
}

/// How partitions are shared out.
#[derive(Debug)]
struct Shares {
    /// Partitions that have an owner, of all groups.
    held: usize,
    /// Members that have fewer or more than they are to have in the end.
    uneven: usize,
    all: usize,
    /// Least and most of a member.
    share: [usize; 2],
}

impl Shares {
    fn new(groups: usize, members: usize, partitions: usize) -> Self {
        let least = partitions / members.max(1);
        Self {
            held: 0,
            uneven: if least == 0 { 0 } else { groups * members },
            all: groups * partitions,
            share: [least, partitions.div_ceil(members.max(1))],
        }
    }

    fn is_even(&self, count: usize) -> bool {
        let [least, most] = self.share;
        (least..=most).contains(&count)
    }

    fn moved(&mut self, [before, now]: [usize; 2]) {
        self.held = (self.held + now).saturating_sub(before);
        match (self.is_even(before), self.is_even(now)) {
            (true, false) => self.uneven += 1,
            (false, true) => self.uneven = self.uneven.saturating_sub(1),
            (true, true) | (false, false) => {}
        }
    }

    fn are_settled(&self) -> bool {
        self.held == self.all && self.uneven == 0
    }
}

impl Board {
    fn new(plan: &Plan) -> Self {
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            clock: SystemClock::new(),
            beats: AtomicU64::new(0),
            shares: Mutex::new(Shares::new(
                count(plan.groups),
                count(plan.members),
                count(plan.partitions),
            )),
            changed: Notify::new(),
            first_error: Mutex::new(None),
            errors: AtomicU64::new(0),
        }
    }

    /// Heartbeats that were answered so far.
    pub(super) fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Members that were refused.
    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    fn shares(&self) -> std::sync::MutexGuard<'_, Shares> {
        self.shares.lock().expect("no panics while locked")
    }

    fn holds(&self, counts: [usize; 2]) {
        let [before, now] = counts;
        if before != now {
            self.shares().moved(counts);
            self.changed.notify_one();
        }
    }

    fn failed(&self, error: Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first_error.lock().expect("no panics while locked");
        first.get_or_insert(error);
        self.changed.notify_one();
    }

    /// The first refusal, if there was one.
    ///
    /// # Errors
    /// It.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let first = self.first_error.lock().expect("no panics while locked").take();
        match first {
            None => Ok(()),
            Some(error) => {
                let errors = self.errors();
                let message = format!("{errors} members were refused, the first of them with: {error}");
                Err(Failure::new(Exit::CheckFailed, "MEMBERS_REFUSED", message))
            }
        }
    }

    /// Waits until every partition of every group has an owner, and every member its share.
    async fn settled(&self) -> Result<(), Failure> {
        let settled = async {
            loop {
                let changed = self.changed.notified();
                if self.shares().are_settled() || self.errors() > 0 {
                    return self.check();
                }
                changed.await;
            }
        };
        tokio::time::timeout(SETTLE_MAX, settled)
            .await
            .unwrap_or_else(|_| {
                let message = format!("the groups did not come to rest within {SETTLE_MAX:?}");
                Err(Failure::new(Exit::CheckFailed, "NOT_SETTLED", message))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_at_rest_when_all_is_held_and_nobody_has_more_than_its_share() {
        let mut shares = Shares::new(1, 2, 3);
        assert!(!shares.are_settled());
        shares.moved([0, 3]);
        assert!(!shares.are_settled(), "the second has nothing yet");
        shares.moved([3, 2]);
        assert!(!shares.are_settled());
        shares.moved([0, 1]);
        assert!(shares.are_settled());
        shares.moved([1, 0]);
        assert!(!shares.are_settled());
    }

    #[test]
    fn members_that_get_nothing_are_at_rest_from_the_beginning() {
        let mut shares = Shares::new(2, 3, 2);
        for _ in 0..4 {
            assert!(!shares.are_settled());
            shares.moved([0, 1]);
        }
        assert!(shares.are_settled());
    }
}
