//! `naru consume -g`: a member of a group. The broker says which partitions it prints, and what it printed is committed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Context;
use super::consume::{ConsumeArgs, Printer, Style, failed};
use super::consume_group::reset_of;
use super::failure::{Outcome, Stopped};
use super::output::say;
use super::session::connect;
use super::signals::Interruption;
use super::skipped::Skipped;
use crate::client::{
    AutoCommit, Client, CommitError, Error, GroupConsumer, GroupHandle, LostRange, OffsetSpec, TopicPartition,
};
use crate::model::{Offset, PartitionId};

/// Nothing came for so long: there is nothing more to print now, and what was printed is committed.
const IDLE: Duration = Duration::from_millis(20);

/// How often `--exit-at-end` looks whether the group is there.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// While records come without a break, what was printed is committed so often.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn run(args: &ConsumeArgs, group: &str, style: Style, context: &Context) -> Outcome {
    let reset = reset_of(args.offset)?;
    let mut interruption = Interruption::new();
    let client = interruption.or(connect(context)).await?;
    // A group may wait for a topic that is not there yet; who types a name wants to hear that it is wrong.
    let topic = interruption.or(client.describe_topic(&args.topic)).await?;
    let mut printer = Printer::new(args, style);
    if args.count == Some(0) {
        return Ok(());
    }
    let partitions: Vec<u32> = topic.partitions.iter().map(|at| at.partition.0).collect();
    let ends = match args.exit_at_end {
        true => Some(
            interruption
                .or(Ends::find(&client, &args.topic, &partitions))
                .await?,
        ),
        false => None,
    };
    let told = context.output.is_table() && !context.output.quiet;
    let tell = move |what: &'static str| {
        move |partitions: Vec<TopicPartition>, _: GroupHandle| {
            if told {
                say(&format!(
                    "{what} {}",
                    super::group_admin::partitions_text(&partitions)
                ));
            }
            std::future::ready(())
        }
    };
    let builder = client
        .group_consumer(group)
        .topics([args.topic.as_str()])
        .reset(reset)
        .auto_commit(AutoCommit::AfterProcessing { every: COMMIT_EVERY })
        .on_assigned(tell("reading"))
        .on_revoked(tell("handing over"))
        .on_lost(tell("lost"));
    let consumer = interruption.or(builder.build()).await?;
    let mut printing = Printing {
        group,
        topic: &args.topic,
        consumer,
        ends,
        lost: 0,
        skipped: args.skip_corrupt.then(Skipped::default),
    };
    // Where a signal ends the printing it waits for something: what was printed was flushed, and counts as processed.
    let printed = interruption.or(printing.run(&mut printer)).await;
    let flushed = printer.flush();
    let left = match printing.consumer.close().await {
        // Another member goes on from what was committed before.
        Ok(()) | Err(CommitError::Lost { .. }) => Ok(()),
        Err(CommitError::Failed(error)) => Err(error),
    };
    printed?;
    flushed?;
    left?;
    printing.skipped.map_or(Ok(()), |skipped| skipped.outcome())
}

struct Printing<'a> {
    group: &'a str,
    topic: &'a str,
    consumer: GroupConsumer,
    ends: Option<Ends>,
    /// Ranges of lost records that were told.
    lost: usize,
    /// `None`: damage is the end.
    skipped: Option<Skipped>,
}

impl Printing<'_> {
    /// Prints until there is nothing more to print.
    async fn run(&mut self, printer: &mut Printer<'_>) -> Outcome {
        let mut wait = IDLE;
        loop {
            let next = match (&self.ends, wait) {
                (None, LOOK_EVERY) => Ok(self.consumer.next_batch().await),
                (_, wait) => tokio::time::timeout(wait, self.consumer.next_batch()).await,
            };
            self.tell_lost();
            let Ok(next) = next else {
                // Whoever reads the output has seen everything there is.
                self.commit().await?;
                if self.is_at_end().await? {
                    return Ok(());
                }
                wait = LOOK_EVERY;
                continue;
            };
            wait = IDLE;
            let batch = match next {
                None => return Ok(()),
                Some(Ok(batch)) => batch,
                Some(Err(error)) => {
                    self.commit().await?;
                    let at = self.consumer.failed_partition();
                    if let Some(error) = self.pass_over(at.as_ref(), error) {
                        let partition = at.map_or(PartitionId(0), |at| at.partition);
                        return Err(failed(self.topic, partition, error));
                    }
                    continue;
                }
            };
            let partition = &batch.partition;
            let end = self.ends.as_ref().and_then(|ends| ends.of(partition.partition));
            let printed = printer.print(partition.partition, &batch.batch, end)?;
            // Asking for the next batch says that this one is processed, and it may be committed from then on.
            printer.flush()?;
            // One that begins behind the end was committed by somebody else already.
            let next = printed.next.max(batch.batch.from);
            let is_done = end.is_some_and(|end| next >= end);
            if is_done || printed.was_all {
                // It may have been taken away meanwhile; then nothing of it is committed here.
                let _ = self.consumer.seek(partition, next);
            }
            if is_done {
                let _ = self.consumer.pause(partition);
            }
            if printed.was_all {
                return self.commit().await;
            }
        }
    }

    /// Commits what was printed; what was lost meanwhile prints somebody else.
    async fn commit(&self) -> Outcome {
        match self.consumer.handle().commit().await {
            Ok(_) | Err(CommitError::Lost { .. }) => Ok(()),
            Err(CommitError::Failed(error)) => Err(error.into()),
        }
    }

    async fn is_at_end(&self) -> Result<bool, Stopped> {
        match &self.ends {
            Some(ends) => ends.are_reached(self.group, self.topic).await,
            None => Ok(false),
        }
    }

    /// Goes on behind damage if that was asked for; else, and of any other error, gives it back.
    fn pass_over(&mut self, at: Option<&TopicPartition>, error: Error) -> Option<Error> {
        let (Some(skipped), Some(at), Some((first, last))) = (&mut self.skipped, at, error.damaged_offsets())
        else {
            return Some(error);
        };
        // Taken away meanwhile, it is the next member's to skip.
        if self.consumer.seek(at, last.next()).is_ok() {
            skipped.pass_over(self.topic, at.partition, (first, last));
        }
        None
    }

    fn tell_lost(&mut self) {
        let lost = self.consumer.handle().lost_ranges();
        for LostRange {
            topic,
            partition,
            first,
            last,
        } in lost.iter().skip(self.lost)
        {
            let group = self.group;
            say(&format!(
                "offsets {first} to {last} of {topic}/{partition} are gone, and group {group} has not read them"
            ));
        }
        self.lost = lost.len();
    }
}

/// Where `--exit-at-end` ends.
struct Ends {
    client: Client,
    ends: BTreeMap<PartitionId, Offset>,
}

impl Ends {
    async fn find(client: &Client, topic: &str, partitions: &[u32]) -> Result<Self, Stopped> {
        let latest = client.list_offsets(topic, partitions, OffsetSpec::Latest).await?;
        let mut ends = BTreeMap::new();
        for (partition, end) in partitions.iter().zip(latest) {
            ends.insert(PartitionId(*partition), end?);
        }
        Ok(Self {
            client: client.clone(),
            ends,
        })
    }

    /// Records of partitions that came later are not wanted.
    fn of(&self, partition: PartitionId) -> Option<Offset> {
        Some(self.ends.get(&partition).copied().unwrap_or_default())
    }

    /// Whether the group, this command or another member, has committed everything up to the ends.
    async fn are_reached(&self, group: &str, topic: &str) -> Result<bool, Stopped> {
        let partitions: Vec<u32> = self.ends.keys().map(|partition| partition.0).collect();
        let found = self.client.fetch_offsets(group, topic, &partitions).await?;
        for (end, found) in self.ends.values().zip(found) {
            let found = found?;
            let committed = found.committed.map(|committed| committed.offset);
            if committed.unwrap_or(found.log_start) < *end {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
