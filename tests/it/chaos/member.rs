//! A process that is a member of the group: it reads, commits, and writes down what it asks and hears. It leaves when its
//! standard input ends, and so never outlives the test.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::Read as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use futures_core::Stream as _;
use naru::client::{
    AutoCommit, Client, CommitError, Error, GroupConsumer, GroupHandle, GroupRecord, Reset, TopicPartition,
};
use naru::history::{self, At, Body, Done, Note, Op};
use naru::model::ErrorCode;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::load::stubborn_client;
use crate::notebook::{Notebook, at, uid};

/// Records that a member which commits by hand reads before it commits.
const COMMIT_AFTER: u32 = 25;

/// Nothing came for so long: commit what there is.
const IDLE: Duration = Duration::from_millis(150);

/// Between two attempts to join that were refused.
const JOIN_AGAIN: Duration = Duration::from_millis(200);

/// What a process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) process: u32,
    pub(crate) url: String,
    pub(crate) group: String,
    pub(crate) topic: String,
    pub(crate) instance: Option<String>,
    pub(crate) commits_itself: bool,
    pub(crate) notebook: PathBuf,
}

/// The process, until it has left.
pub(crate) async fn run(orders: Orders) {
    let stop = end_of_input();
    let member = Arc::new(Member::new(orders));
    let client = stubborn_client(&member.orders.url).await;
    if let Some(consumer) = member.join(&client, &stop).await {
        member.read(consumer, &stop).await;
    }
}

fn end_of_input() -> CancellationToken {
    let stop = CancellationToken::new();
    let ended = stop.clone();
    thread::spawn(move || {
        // Whatever the end looks like, it is the end.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        ended.cancel();
    });
    stop
}

/// A member, and what it writes down.
pub(crate) struct Member {
    orders: Orders,
    pub(crate) book: Notebook,
    /// What was read last of each partition and is not committed yet.
    processed: Mutex<BTreeMap<At, GroupRecord>>,
}

impl Member {
    pub(crate) fn new(orders: Orders) -> Self {
        Self {
            book: Notebook::create(&orders.notebook, orders.process),
            orders,
            processed: Mutex::default(),
        }
    }

    /// Joins, however often that takes; `None`: it is to leave.
    pub(crate) async fn join(
        self: &Arc<Self>,
        client: &Client,
        stop: &CancellationToken,
    ) -> Option<GroupConsumer> {
        while !stop.is_cancelled() {
            let op = self.book.invoke(Op::Join {
                group: self.orders.group.clone(),
                instance: self.orders.instance.clone(),
                auto_commit: self.orders.commits_itself,
                reset: history::Reset::Earliest,
            });
            match self.consumer(client).await {
                Ok(consumer) => {
                    self.book.end(op, Body::Ok(Done::Done));
                    return Some(consumer);
                }
                Err(error) => self.book.end(op, failure(&error)),
            }
            tokio::time::sleep(JOIN_AGAIN).await;
        }
        None
    }

    async fn consumer(self: &Arc<Self>, client: &Client) -> Result<GroupConsumer, Error> {
        let mut builder = client
            .group_consumer(&self.orders.group)
            .topics([self.orders.topic.as_str()])
            .reset(Reset::Earliest)
            .auto_commit(match self.orders.commits_itself {
                true => AutoCommit::AfterProcessing {
                    every: Duration::from_millis(200),
                },
                false => AutoCommit::Off,
            });
        if let Some(instance) = &self.orders.instance {
            builder = builder.instance_id(instance);
        }
        let (assigned, revoked, lost) = (Arc::clone(self), Arc::clone(self), Arc::clone(self));
        builder
            .on_assigned(move |partitions, handle| {
                assigned.assigned(&partitions, &handle);
                std::future::ready(())
            })
            .on_revoked(move |partitions, handle| {
                let member = Arc::clone(&revoked);
                async move { member.revoked(&partitions, &handle).await }
            })
            .on_lost(move |partitions, _| {
                lost.lost(&partitions);
                std::future::ready(())
            })
            .build()
            .await
    }

    fn assigned(&self, partitions: &[TopicPartition], handle: &GroupHandle) {
        self.book.with(|pen| {
            let before = handle.member();
            let Some(membership) = handle.membership() else {
                return;
            };
            // What was told and what was told to whom belong together, or the member has lost everything meanwhile.
            if handle.member().member_id != before.member_id {
                return;
            }
            let held = membership.assigned.iter().map(|held| &held.partition);
            let held: Vec<At> = held.filter(|held| partitions.contains(held)).map(place).collect();
            self.forget(&held);
            if held.is_empty() {
                return;
            }
            pen.note(Note::Assigned {
                group: self.orders.group.clone(),
                member: before.member_id,
                instance: self.orders.instance.clone(),
                epoch: membership.member_epoch,
                group_epoch: membership.group_epoch,
                partitions: held,
            });
        });
    }

    async fn revoked(&self, partitions: &[TopicPartition], handle: &GroupHandle) {
        let places: Vec<At> = partitions.iter().map(place).collect();
        let note = Note::Revoked {
            partitions: places.clone(),
        };
        self.book.with(|pen| pen.note(note));
        self.commit(handle, |at| places.contains(at)).await;
    }

    fn lost(&self, partitions: &[TopicPartition]) {
        let places: Vec<At> = partitions.iter().map(place).collect();
        self.book.with(|pen| pen.note(Note::Lost { partitions: places }));
    }

    fn forget(&self, places: &[At]) {
        let mut processed = self.processed.lock().unwrap();
        processed.retain(|at, _| !places.contains(at));
    }

    /// Commits what was processed of these partitions, if the member does that by hand.
    async fn commit(&self, handle: &GroupHandle, of: impl Fn(&At) -> bool) {
        if self.orders.commits_itself {
            return;
        }
        let wanted: Vec<(At, GroupRecord)> = {
            let mut processed = self.processed.lock().unwrap();
            processed.extract_if(.., |at, _| of(at)).collect()
        };
        for (at, record) in wanted {
            let op = self.book.invoke(Op::Commit {
                group: self.orders.group.clone(),
                member: handle.member().member_id,
                offsets: vec![(at, record.offset.next().get())],
            });
            let is = match handle.commit_through(&record).await {
                Ok(_) => Body::Ok(Done::Done),
                Err(error) => unkept(&error),
            };
            self.book.end(op, is);
        }
    }

    /// Reads until it is to leave, or is told that somebody else has its place.
    async fn read(&self, mut consumer: GroupConsumer, stop: &CancellationToken) {
        let handle = consumer.handle();
        let mut count = 0;
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                next = tokio::time::timeout(IDLE, self.next(&mut consumer)) => next,
            };
            let record = match next {
                Err(_) => {
                    self.commit(&handle, |_| true).await;
                    continue;
                }
                Ok(None) => {
                    return self.book.nemesis("ended");
                }
                Ok(Some(Ok(record))) => record,
                Ok(Some(Err(error))) => {
                    self.book.nemesis(error.to_string());
                    let is_told = error.is_retriable() || error.code() == Some(ErrorCode::FencedInstanceId);
                    assert!(is_told, "{error}");
                    continue;
                }
            };
            count += 1;
            // Most are quick to process, some are not.
            if count % 64 == 0 {
                tokio::time::sleep(Duration::from_millis(count % 23)).await;
            }
            let place = at(&record.topic, record.partition.0);
            self.processed.lock().unwrap().insert(place, record);
            if count % u64::from(COMMIT_AFTER) == 0 {
                self.commit(&handle, |_| true).await;
            }
        }
        self.leave(consumer).await;
    }

    pub(crate) async fn leave(&self, consumer: GroupConsumer) {
        self.commit(&consumer.handle(), |_| true).await;
        let op = self.book.invoke(Op::Leave {
            group: self.orders.group.clone(),
        });
        let is = match consumer.close().await {
            Ok(()) => Body::Ok(Done::Done),
            Err(error) => unkept(&error),
        };
        self.book.end(op, is);
    }

    /// The next record, in the notebook before anybody has it.
    pub(crate) async fn next(&self, consumer: &mut GroupConsumer) -> Option<Result<GroupRecord, Error>> {
        poll_fn(|context| {
            self.book.with(|pen| {
                let polled = Pin::new(&mut *consumer).poll_next(context);
                if let Poll::Ready(Some(Ok(record))) = &polled {
                    pen.note(Note::Polled {
                        group: self.orders.group.clone(),
                        at: at(&record.topic, record.partition.0),
                        offset: record.offset.get(),
                        uid: uid(record.value.as_ref().unwrap()),
                        redelivered: record.redelivered,
                    });
                }
                polled
            })
        })
        .await
    }
}

fn place(partition: &TopicPartition) -> At {
    at(&partition.topic, partition.partition.0)
}

pub(crate) fn unkept(error: &CommitError) -> Body {
    match error.may_have_taken_effect() {
        true => Body::Info(error.to_string()),
        false => Body::Fail(error.to_string()),
    }
}

fn failure(error: &Error) -> Body {
    match error.may_have_taken_effect() {
        true => Body::Info(error.to_string()),
        false => Body::Fail(error.to_string()),
    }
}
