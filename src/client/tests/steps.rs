//! Steps of consumers against a broker that loses answers, refuses, and is silent.

use super::*;

/// What becomes of the next steps.
#[derive(Clone, Default)]
struct Fate(Arc<Mutex<Vec<Act>>>);

impl Fate {
    /// In this order; then they are served.
    fn is(&self, acts: impl IntoIterator<Item = Act>) {
        *self.0.lock().unwrap() = acts.into_iter().collect();
    }

    fn next(&self) -> Act {
        let mut acts = self.0.lock().unwrap();
        match acts.is_empty() {
            true => Act::Serve,
            false => acts.remove(0),
        }
    }
}

/// Partitions 0 and 1 are read and have three records each; 2 is written.
async fn broker() -> (FakeBroker, Fate) {
    let fate = Fate::default();
    let acts = fate.clone();
    let broker = FakeBroker::start(3, move |_, body| match body {
        RequestBody::Step(_) => acts.next(),
        _ => Act::Serve,
    })
    .await;
    let producer = broker.client().await.producer().build().await.unwrap();
    for n in 0..3 {
        for partition in 0..2 {
            let value = format!("{partition}/{n}");
            producer.send(order(value).partition(partition)).await.unwrap();
        }
    }
    producer.close().await.unwrap();
    (broker, fate)
}

async fn consumer(broker: &FakeBroker, partitions: &[u32], request_timeout: Duration) -> GroupConsumer {
    broker.group().give(1, partitions, &[], None);
    let client = fast().request_timeout(request_timeout);
    let client = client.connect(&broker.url()).await.unwrap();
    let builder = client.group_consumer("billing").topics(["orders"]);
    let builder = builder.reset(Reset::Earliest).auto_commit(AutoCommit::Off);
    builder.build().await.unwrap()
}

const PATIENT: Duration = Duration::from_secs(20);
const HASTY: Duration = Duration::from_millis(300);

async fn next(consumer: &mut GroupConsumer) -> GroupRecord {
    let next = tokio::time::timeout(PATIENT, consumer.next()).await;
    next.expect("a record").unwrap().unwrap()
}

fn text(record: &ConsumedRecord) -> String {
    String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap()
}

/// What is made of a record.
fn bill(record: &ConsumedRecord) -> ProducerRecord {
    order(format!("bill of {}", text(record))).partition(2)
}

fn step(consumer: &GroupConsumer, record: &GroupRecord) -> GroupStep {
    consumer.step().append(bill(record)).consumed(record)
}

/// Sequence numbers of the steps that were sent.
fn sequences(broker: &FakeBroker) -> Vec<i32> {
    let told = broker.group().told();
    told.steps.iter().map(|step| step.sequence).collect()
}

fn committed(broker: &FakeBroker, partition: u32) -> Option<i64> {
    broker.group().told().committed.get(&partition).copied()
}

#[tokio::test]
async fn a_step_appends_and_commits_and_the_next_one_has_the_next_number() {
    let (broker, _) = broker().await;
    let mut consumer = consumer(&broker, &[0], PATIENT).await;
    let first = next(&mut consumer).await;
    let stepped = step(&consumer, &first).send().await.unwrap();
    let record = &stepped.records[0];
    assert_eq!(
        (record.partition.0, record.offset, stepped.duplicate),
        (2, Some(offset(0)), false)
    );
    let second = next(&mut consumer).await;
    let third = next(&mut consumer).await;
    let both = step(&consumer, &second).append(bill(&third)).consumed(&third);
    both.append(bill(&third)).send().await.unwrap();
    assert_eq!(sequences(&broker), [0, 1]);
    assert_eq!(committed(&broker, 0), Some(3));
    let bills = ["0/0", "0/1", "0/2", "0/2"].map(|of| format!("bill of {of}"));
    assert_eq!(broker.values(2), bills);
    assert_eq!(broker.batches(2), 2, "what goes to one partition is one batch");
    let told = broker.group().told().steps[1].clone();
    assert_eq!((told.group.as_str(), told.offsets.len()), ("billing", 1));
    assert_eq!(told.member.unwrap().member_epoch, 1);
    assert_eq!(consumer.commit().await.unwrap(), None, "all is committed");
}

#[tokio::test]
async fn a_batch_is_consumed_as_a_whole() {
    let (broker, _) = broker().await;
    let mut consumer = consumer(&broker, &[0], PATIENT).await;
    let batch = consumer.next_batch().await.unwrap().unwrap();
    let behind = batch.batch.header.last_offset().next().get();
    let mut step = consumer.step().consumed(&batch);
    step.send().await.unwrap();
    assert_eq!(committed(&broker, 0), Some(behind));
    let error = step.send().await.unwrap_err();
    assert!(matches!(error, CommitError::Failed(Error::Usage(_))), "{error}");
}

#[tokio::test]
async fn a_step_whose_answer_is_lost_is_sent_again_and_happens_once() {
    let (broker, fate) = broker().await;
    let mut consumer = consumer(&broker, &[0], PATIENT).await;
    fate.is([Act::HangUp, Act::ServeAndHangUp]);
    let first = next(&mut consumer).await;
    let stepped = step(&consumer, &first).send().await.unwrap();
    assert!(stepped.duplicate);
    assert_eq!(stepped.records[0].offset, None, "the fake has forgotten it");
    let second = next(&mut consumer).await;
    step(&consumer, &second).send().await.unwrap();
    // The one that never came is not in the list.
    assert_eq!(sequences(&broker), [0, 0, 1]);
    assert_eq!(broker.values(2), ["bill of 0/0", "bill of 0/1"]);
    assert_eq!(committed(&broker, 0), Some(2));
}

#[tokio::test]
async fn a_step_in_an_old_epoch_is_made_again_after_the_next_heartbeat() {
    let (broker, _) = broker().await;
    let mut consumer = consumer(&broker, &[0], PATIENT).await;
    let first = next(&mut consumer).await;
    broker
        .group()
        .told()
        .refuse_steps
        .push_back(ErrorCode::StaleMemberEpoch);
    broker.group().give(2, &[0], &[], None);
    step(&consumer, &first).send().await.unwrap();
    let epochs: Vec<_> = broker
        .group()
        .told()
        .steps
        .iter()
        .map(|step| step.member.clone().unwrap().member_epoch)
        .collect();
    assert_eq!(epochs.last(), Some(&2));
    assert!(sequences(&broker).iter().all(|sequence| *sequence == 0));
    assert_eq!(broker.values(2), ["bill of 0/0"]);
}

#[tokio::test]
async fn a_step_of_a_lost_partition_does_not_happen_and_what_is_left_comes_again() {
    let (broker, _) = broker().await;
    let mut consumer = consumer(&broker, &[0, 1], PATIENT).await;
    let mut read = std::collections::BTreeMap::new();
    while [(0, 0), (0, 1), (1, 0)].iter().any(|at| !read.contains_key(at)) {
        let record = next(&mut consumer).await;
        read.insert((record.partition.0, record.offset.get()), record);
    }
    let [one, other, two] = [(0, 0), (0, 1), (1, 0)].map(|at| read[&at].clone());
    broker
        .group()
        .told()
        .refuse_steps
        .push_back(ErrorCode::FencedMemberEpoch);
    broker.group().give(2, &[one.partition.0], &[], None);
    let both = step(&consumer, &one).append(bill(&two)).consumed(&two);
    let error = { both }.send().await.unwrap_err();
    let lost: Vec<_> = error.lost().iter().map(|at| at.partition).collect();
    assert_eq!(lost, [two.partition]);
    assert!(broker.values(2).is_empty());
    // The program still has the record behind it, and would pass over the first.
    let error = step(&consumer, &other).send().await.unwrap_err();
    assert_eq!(error.lost().len(), 1, "{error}");
    for of in [&one, &other] {
        let again = next(&mut consumer).await;
        assert_eq!((again.partition, again.offset), (of.partition, of.offset));
        assert!(again.redelivered);
        step(&consumer, &again).send().await.unwrap();
    }
    let bills = [&one, &other].map(|of| format!("bill of {}", text(of)));
    assert_eq!(broker.values(2), bills);
}

#[tokio::test]
async fn what_is_wrong_with_a_step_is_said_and_what_it_was_made_of_comes_again() {
    let (broker, _) = broker().await;
    let mut consumer = consumer(&broker, &[0], PATIENT).await;
    let first = next(&mut consumer).await;
    broker
        .group()
        .told()
        .refuse_steps
        .push_back(ErrorCode::MessageTooLarge);
    let mut refused = step(&consumer, &first);
    let error = refused.send().await.unwrap_err();
    let CommitError::Failed(failed) = &error else {
        panic!("{error}");
    };
    assert_eq!(failed.code(), Some(ErrorCode::MessageTooLarge));
    assert!(!failed.may_have_taken_effect());
    // Decided is decided: whoever sends it again might make it twice.
    let error = refused.send().await.unwrap_err();
    assert!(matches!(error, CommitError::Failed(Error::Usage(_))), "{error}");

    let again = next(&mut consumer).await;
    assert_eq!(again.offset, first.offset);
    let unknown = consumer.step().append(ProducerRecord::to("nowhere"));
    let error = unknown.consumed(&again).send().await.unwrap_err();
    assert!(error.to_string().contains("UNKNOWN_TOPIC"), "{error}");
    let again = next(&mut consumer).await;
    // One that is begun and not sent.
    drop(step(&consumer, &again));
    let again = next(&mut consumer).await;
    assert_eq!(again.offset, first.offset);
    step(&consumer, &again).send().await.unwrap();
    let error = consumer.step().send().await.unwrap_err();
    assert!(error.to_string().contains("something to append"), "{error}");
    assert_eq!(sequences(&broker), [0, 0]);
    assert_eq!(broker.values(2), ["bill of 0/0"]);
}

#[tokio::test]
async fn a_step_that_nobody_knows_of_may_be_sent_again_and_nothing_else_is_committed_meanwhile() {
    for is_taken in [true, false] {
        let (broker, fate) = broker().await;
        let mut consumer = consumer(&broker, &[0], HASTY).await;
        let first = next(&mut consumer).await;
        fate.is(match is_taken {
            true => vec![Act::ServeAndHangUp, Act::Ignore],
            false => vec![Act::Ignore],
        });
        let mut step = step(&consumer, &first);
        let CommitError::Failed(error) = step.send().await.unwrap_err() else {
            panic!("it is not lost");
        };
        assert!(error.may_have_taken_effect(), "{error}");
        assert_eq!(consumer.commit().await.unwrap(), None);
        let refused = consumer.commit_through(&first).await.unwrap_err();
        assert!(refused.to_string().contains("undecided"), "{refused}");
        assert!(broker.group().told().commits.is_empty());
        let stepped = step.send().await.unwrap();
        assert_eq!(stepped.duplicate, is_taken);
        assert_eq!(next(&mut consumer).await.offset, offset(1));
        assert_eq!(broker.values(2), ["bill of 0/0"]);
        assert_eq!(committed(&broker, 0), Some(1));
    }
}

#[tokio::test]
async fn a_step_that_its_program_gave_up_is_settled_before_the_next_one() {
    for fate_of_it in ["taken", "not taken", "refused"] {
        let (broker, fate) = broker().await;
        let mut consumer = consumer(&broker, &[0], HASTY).await;
        let first = next(&mut consumer).await;
        fate.is(match fate_of_it {
            "taken" => vec![Act::ServeAndHangUp, Act::Ignore],
            _ => vec![Act::Ignore],
        });
        step(&consumer, &first).send().await.unwrap_err();
        if fate_of_it == "refused" {
            let code = ErrorCode::MessageTooLarge;
            broker.group().told().refuse_steps.push_back(code);
        }
        // The program goes on, and tries the first again: both are in doubt.
        let second = next(&mut consumer).await;
        for record in [&second, &first] {
            let error = step(&consumer, record).send().await.unwrap_err();
            assert_eq!(error.lost().len(), 1, "{fate_of_it}: {error}");
        }
        loop {
            let record = next(&mut consumer).await;
            step(&consumer, &record).send().await.unwrap();
            if record.offset == offset(2) {
                break;
            }
        }
        let bills = ["0/0", "0/1", "0/2"].map(|of| format!("bill of {of}"));
        assert_eq!(broker.values(2), bills, "{fate_of_it}");
        assert_eq!(committed(&broker, 0), Some(3));
    }
}

#[tokio::test]
async fn a_step_whose_future_is_dropped_is_settled_as_well() {
    let (broker, fate) = broker().await;
    let mut consumer = consumer(&broker, &[0], PATIENT).await;
    let first = next(&mut consumer).await;
    fate.is([Act::Ignore]);
    let mut dropped = step(&consumer, &first);
    let arrived = async {
        while !fate.0.lock().unwrap().is_empty() {
            tokio::time::sleep(ms(2)).await;
        }
    };
    tokio::select! {
        sent = dropped.send() => panic!("{sent:?}"),
        () = arrived => {}
    }
    drop(dropped);
    let second = next(&mut consumer).await;
    assert_eq!(step(&consumer, &second).send().await.unwrap_err().lost().len(), 1);
    assert_eq!(broker.values(2), ["bill of 0/0"], "it is a step that was sent");
    assert_eq!(next(&mut consumer).await.offset, second.offset);
}

#[tokio::test]
async fn beside_commits_of_its_own_a_consumer_takes_no_steps() {
    let (broker, _) = broker().await;
    broker.group().give(1, &[0], &[], None);
    let builder = broker.client().await.group_consumer("billing").topics(["orders"]);
    let mut consumer = builder.reset(Reset::Earliest).build().await.unwrap();
    let first = next(&mut consumer).await;
    let error = step(&consumer, &first).send().await.unwrap_err();
    assert!(error.to_string().contains("AutoCommit::Off"), "{error}");
    assert!(sequences(&broker).is_empty());
}

async fn assigned(broker: &FakeBroker) -> Consumer {
    let client = fast().request_timeout(HASTY);
    let client = client.connect(&broker.url()).await.unwrap();
    let builder = client.consumer("billing", "orders").partitions([0]);
    // The fake serves one request of a connection after another.
    builder
        .max_wait(ms(20))
        .reset(Reset::Earliest)
        .build()
        .await
        .unwrap()
}

async fn read(consumer: &mut Consumer) -> ConsumedRecord {
    let next = tokio::time::timeout(PATIENT, consumer.next()).await;
    next.expect("a record").unwrap().unwrap()
}

#[tokio::test]
async fn a_consumer_that_assigns_itself_steps_as_well() {
    let (broker, fate) = broker().await;
    let mut consumer = assigned(&broker).await;
    let first = read(&mut consumer).await;
    let mut step = consumer.step().append(bill(&first)).consumed(&first);
    assert!(!step.send().await.unwrap().duplicate);
    drop(step);
    assert_eq!(consumer.committed(0), Some(offset(1)));
    // Taken, and nobody hears it.
    let second = read(&mut consumer).await;
    fate.is([Act::ServeAndHangUp, Act::Ignore]);
    let error = consumer
        .step()
        .append(bill(&second))
        .consumed(&second)
        .send()
        .await;
    assert!(error.unwrap_err().may_have_taken_effect());
    let third = read(&mut consumer).await;
    assert!(matches!(consumer.commit().await, Err(Error::Usage(_))));
    for record in [&second, &third] {
        let again = consumer.step().append(bill(record)).consumed(record).send().await;
        assert!(matches!(again, Err(Error::Usage(_))), "{again:?}");
    }
    let third = read(&mut consumer).await;
    assert_eq!(third.offset, offset(2));
    // Refused: it comes again.
    let code = ErrorCode::MessageTooLarge;
    broker.group().told().refuse_steps.push_back(code);
    let error = consumer.step().append(bill(&third)).consumed(&third).send().await;
    assert_eq!(error.unwrap_err().code(), Some(code));
    let again = read(&mut consumer).await;
    assert_eq!(again, third);
    consumer
        .step()
        .append(bill(&again))
        .consumed(&again)
        .send()
        .await
        .unwrap();
    let bills = ["0/0", "0/1", "0/2"].map(|of| format!("bill of {of}"));
    assert_eq!(broker.values(2), bills);
    assert!(
        broker
            .group()
            .told()
            .steps
            .iter()
            .all(|step| step.member.is_none())
    );
}

#[tokio::test]
async fn a_consumer_that_assigns_itself_steps_batch_by_batch() {
    let (broker, _) = broker().await;
    let mut consumer = assigned(&broker).await;
    for at in 0..3 {
        let next = tokio::time::timeout(PATIENT, consumer.next_batch()).await;
        let (partition, batch) = next.expect("a batch").unwrap().unwrap();
        assert_eq!(batch.header.base_offset, offset(at));
        let step = consumer.step().consumed_batch(partition, &batch);
        { step }.send().await.unwrap();
        assert_eq!(committed(&broker, 0), Some(at + 1));
    }
    assert_eq!(sequences(&broker), [0, 1, 2]);
}
