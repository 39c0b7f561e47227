//! Topics that change while they are in use.

use super::*;
use crate::client::AlterTopicOptions;
use crate::model::TopicId;

#[tokio::test]
async fn a_producer_finds_partitions_that_were_added() {
    let broker = FakeBroker::start(1, |_, _| Act::Serve).await;
    let client = broker.client().await;
    let old = client.producer().build().await.unwrap();
    let fresh = client.producer().topics_max_age(ms(1)).build().await.unwrap();
    for producer in [&old, &fresh] {
        producer.send(order("a")).await.unwrap();
    }
    broker.grow(3);
    // One that a record names is looked for at once, and only if it is not known.
    let stored = old.send(order("b").partition(2)).await.unwrap();
    assert_eq!(stored.partition.0, 2);
    assert_eq!(old.prepare("orders").await.unwrap().partitions, 3);
    assert!(matches!(
        old.send(order("x").partition(3)).await,
        Err(Error::Usage(_))
    ));
    // The others are found while records are sent.
    let mut found = false;
    for n in 0..10_000 {
        let stored = fresh.send(order(n.to_string())).await.unwrap();
        assert!(!stored.duplicate);
        found |= stored.partition.0 == 1;
        if found {
            break;
        }
    }
    assert!(found, "no record went to a new partition");
    // A partition that was known goes on with its sequences: nothing is taken for a repetition.
    let all: usize = (0..3).map(|partition| broker.values(partition).len()).sum();
    let before = broker.values(0).len();
    let stored = fresh.send(order("last").partition(0)).await.unwrap();
    assert!(!stored.duplicate);
    assert_eq!(broker.values(0).len(), before + 1);
    let after: usize = (0..3).map(|partition| broker.values(partition).len()).sum();
    assert_eq!(after, all + 1);
}

#[tokio::test]
async fn a_change_is_repeated_only_where_it_cannot_meet_another_topic() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let script = move |_, body: &RequestBody| match body {
        RequestBody::AlterTopic(alter) => {
            let first = count.fetch_add(1, Ordering::Relaxed) == 0;
            if first {
                return Act::HangUp;
            }
            answer(ResponseBody::AlterTopic(pb::AlterTopicResponse {
                topic_id: Bytes::from_static(&[9; 16]),
                partitions: alter.partitions,
                changed: false,
                configs: alter.set.clone(),
            }))
        }
        _ => Act::Serve,
    };
    let broker = FakeBroker::start(1, script).await;
    let client = broker.client().await;
    let options = AlterTopicOptions {
        set: vec![("retention.ms".to_owned(), "1".to_owned())],
        partitions: 4,
        ..AlterTopicOptions::default()
    };
    let error = client.alter_topic("orders", options.clone()).await.unwrap_err();
    assert!(error.may_have_taken_effect(), "{error}");
    assert_eq!(asked.swap(0, Ordering::Relaxed), 1);
    let with_id = AlterTopicOptions {
        topic_id: Some(TopicId::from_bytes([9; 16])),
        ..options
    };
    let altered = client.alter_topic("orders", with_id).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert_eq!((altered.partitions, altered.changed), (4, false));
    assert_eq!(altered.configs[0].name, "retention.ms");
}
