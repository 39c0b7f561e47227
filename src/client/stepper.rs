//! Steps as consumers take them: each has a number, and one whose fate is unknown is settled before there is another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::link::pause_after;
use super::partitioner::partition_for_key;
use super::producer::{ProducerRecord, RecordMetadata};
use super::step::{Step, StepAppend, Stepped};
use super::{Client, Error};
use crate::model::{
    Acks, ErrorCode, Lsn, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, Timestamp,
};
use crate::record::BatchBuilder;
use crate::rt::Clock;

/// How long the number of partitions of a topic is taken to be as it was.
const TOPICS_AGE_MAX: Duration = Duration::from_secs(60);

/// What a step of a consumer brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepMetadata {
    /// When, by the broker's clock.
    pub committed: Timestamp,
    /// True if a retry found it taken already.
    pub duplicate: bool,
    /// How safe it is.
    pub acks: Acks,
    /// The journal frame that made it durable, for [`Acks::Fsync`].
    pub durable_through: Option<Lsn>,
    /// Where the records are that it appended, in the order in which they were added.
    pub records: Vec<RecordMetadata>,
}

/// Records sorted into batches, and where each of them is to be: batch, and place in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Output {
    appends: Vec<StepAppend>,
    places: Vec<(usize, u32)>,
}

/// A step that was sent, or is about to be.
#[derive(Clone, Debug)]
pub(super) struct Undecided {
    /// Which of the consumer's steps it is; never that of another.
    pub(super) number: u64,
    pub(super) step: Step,
    output: Output,
    /// An attempt may have taken effect.
    is_unknown: bool,
}

/// What became of attempts at a step.
#[derive(Debug)]
pub(super) enum Tried {
    Taken(StepMetadata),
    /// Surely not taken.
    Refused(Error),
    /// Not taken, and not decided: the member that it was made as may not, and another epoch of it may.
    NotAsThis(Error),
    /// Nobody knows; the same may be tried again.
    Unknown(Error),
}

/// The producer behind the steps of one consumer.
#[derive(Debug, Default)]
pub(super) struct Stepper {
    /// With the number of its next step.
    producer: Option<(ProducerId, ProducerEpoch, Sequence)>,
    steps: u64,
    undecided: Option<Undecided>,
    /// Partitions of topics, and when they were looked up.
    topics: BTreeMap<Arc<str>, (u32, Duration)>,
}

impl Stepper {
    /// The step whose fate is unknown.
    pub(super) fn undecided(&self) -> Option<&Undecided> {
        self.undecided.as_ref()
    }

    /// Whether an attempt at the undecided step may have taken effect.
    pub(super) fn is_unknown(&self) -> bool {
        self.undecided().is_some_and(|step| step.is_unknown)
    }

    /// The undecided step was not taken, and is not made again.
    pub(super) fn give_up(&mut self) {
        self.undecided = None;
    }

    /// Sorts records into batches.
    ///
    /// # Errors
    /// Those of [`Client::describe_topic`].
    pub(super) async fn output(
        &mut self,
        client: &Client,
        records: &[ProducerRecord],
    ) -> Result<Output, Error> {
        for record in records {
            self.look_up(client, &record.topic).await?;
        }
        let now = client.link.clock.wall();
        let partitions = |topic: &Arc<str>| self.topics.get(topic).map_or(1, |(count, _)| *count);
        Ok(output(records, now, partitions, fastrand::u32(..)))
    }

    async fn look_up(&mut self, client: &Client, topic: &Arc<str>) -> Result<(), Error> {
        let now = client.link.clock.mono();
        let known = self.topics.get(topic);
        if known.is_some_and(|(_, at)| now.saturating_sub(*at) < TOPICS_AGE_MAX) {
            return Ok(());
        }
        let described = client.describe_topic(topic).await;
        let described = described.map_err(Error::without_effect)?;
        let count = u32::try_from(described.partitions.len()).unwrap_or(u32::MAX);
        self.topics.insert(Arc::clone(topic), (count, now));
        Ok(())
    }

    /// Gives a step its stamp: from here on it is undecided. Its number.
    ///
    /// # Errors
    /// Those of [`Client::init_producer`].
    pub(super) async fn begin(
        &mut self,
        client: &Client,
        step: impl FnOnce((ProducerId, ProducerEpoch), Sequence, Vec<StepAppend>) -> Step,
        output: Output,
    ) -> Result<u64, Error> {
        let (id, epoch, next) = match self.producer {
            Some(producer) => producer,
            None => {
                let made = client.init_producer(None).await;
                let (id, epoch) = made.map_err(Error::without_effect)?;
                (id, epoch, Sequence::ZERO)
            }
        };
        self.producer = Some((id, epoch, next));
        self.steps += 1;
        self.undecided = Some(Undecided {
            number: self.steps,
            step: step((id, epoch), next, output.appends.clone()),
            output,
            is_unknown: false,
        });
        Ok(self.steps)
    }

    /// Makes the undecided step until it is decided or the deadline, by the client's clock, has passed. `None` if there is none.
    ///
    /// The future may be dropped: the step stays undecided.
    pub(super) async fn try_until(
        &mut self,
        client: &Client,
        deadline: Duration,
        prepare: impl FnOnce(&mut Step),
    ) -> Option<Tried> {
        prepare(&mut self.undecided.as_mut()?.step);
        let mut failures = 0;
        loop {
            let undecided = self.undecided.as_mut()?;
            let was_unknown = std::mem::replace(&mut undecided.is_unknown, true);
            let left = deadline.saturating_sub(client.link.clock.mono());
            let error = match client.step_once(&undecided.step, left).await {
                Ok(stepped) => return self.taken(stepped).map(Tried::Taken),
                Err(error) => error,
            };
            let is_definite = !error.may_have_taken_effect();
            let is_unknown = was_unknown || !is_definite;
            undecided.is_unknown = is_unknown;
            // The broker looks first whether it has taken the step: if it says anything else for good, it has not.
            if is_definite && error.concerns_membership() {
                undecided.is_unknown = false;
                return Some(Tried::NotAsThis(error));
            }
            if is_definite && !error.is_retriable() {
                return Some(Tried::Refused(self.refused(error)));
            }
            failures += 1;
            let pause = pause_after(&error, client.link.backoff(), failures);
            if !error.is_retriable() || client.link.clock.mono() + pause >= deadline {
                return Some(match is_unknown {
                    true => Tried::Unknown(error.after_unknown_attempt()),
                    false => Tried::Refused(self.refused(error)),
                });
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn taken(&mut self, stepped: Stepped) -> Option<StepMetadata> {
        let undecided = self.undecided.take()?;
        if let Some((_, _, next)) = &mut self.producer {
            *next = undecided.step.sequence.next();
        }
        Some(metadata(stepped, &undecided.output))
    }

    fn refused(&mut self, error: Error) -> Error {
        self.undecided = None;
        match error.code() {
            // A number that the broker does not expect would be refused for ever.
            Some(
                ErrorCode::OutOfOrderSequence
                | ErrorCode::InvalidProducerEpoch
                | ErrorCode::UnknownProducerId,
            ) => self.producer = None,
            Some(ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId) => self.topics.clear(),
            _ => {}
        }
        error
    }
}

/// One batch for each partition that gets something, in the order of the first record of each. Records without a key or partition
/// go to one partition of their topic.
fn output(
    records: &[ProducerRecord],
    now: Timestamp,
    partitions: impl Fn(&Arc<str>) -> u32,
    turn: u32,
) -> Output {
    let mut batches: Vec<(Arc<str>, u32, BatchBuilder)> = Vec::new();
    let mut places = Vec::new();
    for record in records {
        let partition = match (record.partition, &record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_for_key(key, partitions(&record.topic)),
            (None, None) => turn % partitions(&record.topic).max(1),
        };
        let known = batches
            .iter()
            .position(|(topic, at, _)| *topic == record.topic && *at == partition);
        let index = known.unwrap_or(batches.len());
        if known.is_none() {
            batches.push((Arc::clone(&record.topic), partition, BatchBuilder::new()));
        }
        if let Some((_, _, batch)) = batches.get_mut(index) {
            places.push((index, batch.count()));
            batch.push(
                record.timestamp.unwrap_or(now),
                record.key.as_deref(),
                record.value.as_deref(),
                &record.headers,
            );
        }
    }
    let append = |(topic, partition, batch): (Arc<str>, u32, BatchBuilder)| StepAppend {
        topic: topic.as_ref().to_owned(),
        topic_id: None,
        partition: PartitionId(partition),
        batch: batch.finish(None),
    };
    Output {
        appends: batches.into_iter().map(append).collect(),
        places,
    }
}

fn metadata(stepped: Stepped, output: &Output) -> StepMetadata {
    let record = |(batch, place): &(usize, u32)| {
        let asked = output.appends.get(*batch)?;
        let found = stepped.appends.get(*batch);
        Some(RecordMetadata {
            topic: asked.topic.as_str().into(),
            partition: asked.partition,
            offset: found.and_then(|found| Offset::new(found.base.get() + i64::from(*place))),
            append_time: found.map_or(stepped.committed, |found| found.append_time),
            acks: stepped.acks,
            duplicate: stepped.duplicate,
        })
    };
    StepMetadata {
        committed: stepped.committed,
        duplicate: stepped.duplicate,
        acks: stepped.acks,
        durable_through: stepped.durable_through,
        records: output.places.iter().filter_map(record).collect(),
    }
}

/// An earlier step is undecided still, so that this one was not begun.
pub(super) fn behind(error: Error, after: Duration) -> Error {
    Error::Timeout {
        what: "an earlier step of this consumer",
        after,
        may_have_taken_effect: false,
        cause: Some(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::SteppedAppend;
    use crate::model::LeaderEpoch;
    use crate::record::{BatchHeader, Records};

    fn record(topic: &str, value: &str) -> ProducerRecord {
        ProducerRecord::to(topic).value(value.to_owned())
    }

    fn values(append: &StepAppend) -> Vec<String> {
        let header = BatchHeader::parse(&append.batch).unwrap();
        assert_eq!(header.producer, None);
        Records::new(&header, &append.batch)
            .map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn records_are_sorted_into_a_batch_for_each_partition_and_found_again() {
        let records = [
            record("a", "1").partition(3),
            record("b", "2"),
            record("a", "3").partition(3),
            record("b", "4"),
            record("a", "5").key("21"),
        ];
        let sorted = output(&records, Timestamp(7), |_| 4, 6);
        let shown: Vec<_> = sorted
            .appends
            .iter()
            .map(|append| (append.topic.as_str(), append.partition.0, values(append)))
            .collect();
        let by_key = partition_for_key(b"21", 4);
        assert_ne!(by_key, 3);
        let strings = |all: &[&str]| all.iter().map(|&value| value.to_owned()).collect();
        assert_eq!(
            shown,
            [
                ("a", 3, strings(&["1", "3"])),
                ("b", 2, strings(&["2", "4"])),
                ("a", by_key, strings(&["5"])),
            ]
        );
        let append = |base, count: i64| SteppedAppend {
            base: Offset::new(base).unwrap(),
            last: Offset::new(base + count - 1).unwrap(),
            append_time: Timestamp(8),
            leader_epoch: LeaderEpoch(1),
        };
        let stepped = |appends| Stepped {
            committed: Timestamp(9),
            duplicate: false,
            acks: Acks::Fsync,
            durable_through: Some(Lsn(2)),
            appends,
        };
        let places = |stepped| {
            let records = metadata(stepped, &sorted).records.into_iter();
            records
                .map(|record| (record.partition.0, record.offset.map(Offset::get)))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            places(stepped(vec![append(10, 2), append(20, 2), append(30, 1)])),
            [
                (3, Some(10)),
                (2, Some(20)),
                (3, Some(11)),
                (2, Some(21)),
                (by_key, Some(30))
            ]
        );
        // Of a step that is older than what the broker remembers only that it was taken.
        assert_eq!(
            places(stepped(vec![]))[1..3],
            [(2, None), (3, None)],
            "no place is made up"
        );
    }
}
