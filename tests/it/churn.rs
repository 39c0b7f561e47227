//! Somebody who makes topics, writes to them, trims them, adds partitions to them and deletes most of them, whatever happens to
//! the broker; and the comparison with what is there.

use std::collections::BTreeMap;
use std::time::Duration;

use naru::client::{
    AlterTopicOptions, Client, CreateTopicOptions, Error, ListTopicsOptions, OffsetSpec, Producer,
    ProducerRecord, Start, TrimTo,
};
use naru::model::{ErrorCode, Offset};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::load::stubborn_client;

const PREFIX: &str = "passing-";
const RECORDS: u64 = 12;
/// Of these the first are removed again.
const TRIMMED: u64 = 5;
/// One of so many topics stays.
const STAYS: u64 = 4;
const AGAIN_AFTER: Duration = Duration::from_millis(10);
/// Between two topics, so that others get on, too.
const PAUSE: Duration = Duration::from_millis(50);

/// Topics that stay, with the values of what was acknowledged: by partition, by offset.
type Kept = BTreeMap<String, BTreeMap<(u32, i64), String>>;

pub(crate) struct Churn {
    stop: CancellationToken,
    task: JoinSet<(u64, Kept)>,
}

impl Churn {
    pub(crate) async fn start(url: &str) -> Self {
        let (client, stop) = (stubborn_client(url).await, CancellationToken::new());
        let mut task = JoinSet::new();
        let stopped = stop.clone();
        task.spawn(async move {
            let producer = client.producer().build().await.unwrap();
            let mut kept = Kept::new();
            let mut count = 0;
            while !stopped.is_cancelled() {
                let name = format!("{PREFIX}{count}");
                let records = one_topic(&client, &producer, &name).await;
                if count % STAYS == 0 {
                    kept.insert(name, records);
                } else {
                    delete(&client, &name).await;
                }
                count += 1;
                tokio::time::sleep(PAUSE).await;
            }
            producer.close().await.unwrap();
            (count, kept)
        });
        Self { stop, task }
    }

    /// Ends it and compares. Returns how many topics there were in all.
    pub(crate) async fn finish(mut self, broker: &Broker) -> usize {
        self.stop.cancel();
        let (count, kept) = self.task.join_next().await.unwrap().unwrap();
        let client = broker.client().await;
        let listed = client.list_topics(&ListTopicsOptions::default()).await.unwrap();
        let names = listed.into_iter().map(|topic| topic.name);
        let mut names: Vec<String> = names.filter(|name| name.starts_with(PREFIX)).collect();
        names.sort();
        let expected: Vec<String> = kept.keys().cloned().collect();
        assert_eq!(names, expected, "these topics were made and not deleted");
        for (name, records) in kept {
            check(&client, &name, &records).await;
        }
        usize::try_from(count).unwrap()
    }
}

/// Makes a topic, and does to it what can be done; what is to be in it then.
async fn one_topic(client: &Client, producer: &Producer, name: &str) -> BTreeMap<(u32, i64), String> {
    let options = CreateTopicOptions {
        partitions: 2,
        ..Default::default()
    };
    done(Some(ErrorCode::TopicAlreadyExists), || {
        client.create_topic(name, options.clone())
    })
    .await;
    let mut records = BTreeMap::new();
    for number in 0..RECORDS {
        write(producer, name, u32::from(number % 4 == 0), number, &mut records).await;
    }
    let to = TrimTo::Offset(Offset::new(i64::try_from(TRIMMED).unwrap()).unwrap());
    done(None, || async {
        client.trim_topic(name, &[(0, to)]).await?.remove(0)
    })
    .await;
    records.retain(|&(partition, offset), _| partition != 0 || offset >= i64::try_from(TRIMMED).unwrap());
    let more = AlterTopicOptions {
        partitions: 3,
        ..Default::default()
    };
    done(None, || client.alter_topic(name, more.clone())).await;
    write(producer, name, 2, RECORDS, &mut records).await;
    records
}

async fn write(
    producer: &Producer,
    topic: &str,
    partition: u32,
    number: u64,
    records: &mut BTreeMap<(u32, i64), String>,
) {
    let value = format!("{topic}/{partition}/{number}");
    let record = ProducerRecord::to(topic)
        .partition(partition)
        .value(value.clone());
    let stored = producer.send(record).await.unwrap();
    records.insert((partition, stored.offset.unwrap().get()), value);
}

async fn delete(client: &Client, name: &str) {
    done(Some(ErrorCode::UnknownTopicOrPartition), || {
        client.delete_topic(name)
    })
    .await;
}

/// Asks until it is done. `already` is what the broker says if it was done when nobody heard the answer.
async fn done<T, F: Future<Output = Result<T, Error>>>(already: Option<ErrorCode>, ask: impl Fn() -> F) {
    let mut asked = 0;
    loop {
        asked += 1;
        match ask().await {
            Ok(_) => return,
            Err(error) if asked > 1 && error.code().is_some() && error.code() == already => return,
            Err(error) => assert!(
                error.is_retriable() || error.may_have_taken_effect(),
                "asked {asked} times: {error}"
            ),
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// The topic has what was acknowledged, where it was acknowledged, and no more.
async fn check(client: &Client, name: &str, records: &BTreeMap<(u32, i64), String>) {
    let described = client.describe_topic(name).await.unwrap();
    assert_eq!(described.partitions.len(), 3, "{name}");
    let mut found = BTreeMap::new();
    for partition in 0..3 {
        let expected = records.range((partition, 0)..(partition + 1, 0)).count();
        let reader = client.reader(name, partition, Start::Earliest);
        let mut reader = reader.build().await.unwrap();
        for _ in 0..expected {
            let record = reader.next().await.unwrap().unwrap();
            let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            found.insert((partition, record.offset.get()), value);
        }
        let ends = client.list_offsets(name, &[partition], OffsetSpec::Latest).await;
        assert_eq!(ends.unwrap()[0].clone().unwrap(), reader.position(), "{name}");
    }
    assert_eq!(&found, records, "{name}");
}
