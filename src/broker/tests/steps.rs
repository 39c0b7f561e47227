//! Steps: appends and commits as one, told from their retries, fenced like commits.

use super::*;
use crate::api::{
    CommitOffsets, DeleteTopic, FetchOffsets, GroupHeartbeat, GroupMember, OffsetToCommit, Step, StepStamp,
    Stepped, Subscription,
};

fn who(name: &str, epoch: u32) -> GroupMember {
    GroupMember {
        member_id: name.to_owned(),
        member_epoch: epoch,
        instance_id: None,
    }
}

fn commit_of(topic: &str, offset: i64) -> OffsetToCommit {
    OffsetToCommit {
        partition: named(topic, 0),
        offset,
        leader_epoch: None,
        metadata: String::new(),
    }
}

impl Rig {
    /// Topics `in` with five records and `out` with two partitions, and a member that holds `in`.
    fn with_member() -> (Self, InitializedProducer) {
        let rig = Self::new();
        rig.create("in", 1);
        rig.create("out", 2);
        rig.produce(Acks::Fsync, raw("in", 5)).1.unwrap();
        rig.join("one");
        let producer = rig.init(None).unwrap();
        (rig, producer)
    }

    fn join(&self, name: &str) {
        let heartbeat = GroupHeartbeat {
            group: "g".to_owned(),
            member: who(name, 0),
            revision: 0,
            client_id: String::new(),
            max_wait: Duration::ZERO,
            subscription: Some(Subscription {
                topics: vec!["in".to_owned()],
                patterns: Vec::new(),
            }),
            owned: None,
        };
        self.ask(Request::GroupHeartbeat(heartbeat)).unwrap();
    }

    fn steps(&self, step: Step) -> Result<Stepped, ApiError> {
        match self.ask(Request::Step(step))? {
            Response::Step(stepped) => Ok(stepped),
            other => panic!("{other:?}"),
        }
    }

    fn ends(&self) -> [i64; 2] {
        [0, 1].map(|partition| {
            let asked = fetch(FetchForm::Raw, Duration::ZERO, &[("out", partition, 0)]);
            fetched(self.ask(asked)).remove(0).unwrap().high_watermark.get()
        })
    }

    fn committed(&self) -> Option<i64> {
        let asked = FetchOffsets {
            group: "g".to_owned(),
            partitions: vec![named("in", 0)],
        };
        match self.ask(Request::FetchOffsets(asked)) {
            Ok(Response::FetchOffsets(mut offsets)) => {
                let offset = offsets.remove(0).unwrap();
                offset.committed.map(|committed| committed.offset.get())
            }
            other => panic!("{other:?}"),
        }
    }
}

fn step(producer: InitializedProducer, sequence: i32, member: Option<GroupMember>, offset: i64) -> Step {
    let append =
        |partition, records| item(named("out", partition), ProducePayload::Raw(batch(records, None)));
    Step {
        group: "g".to_owned(),
        member,
        stamp: StepStamp {
            id: producer.id,
            epoch: producer.epoch,
            sequence: Sequence(sequence),
        },
        offsets: vec![commit_of("in", offset)],
        appends: vec![append(1, 2), append(0, 3)],
    }
}

#[test]
fn a_step_appends_and_commits_and_its_retry_does_nothing() {
    let (rig, producer) = Rig::with_member();
    let first = rig.steps(step(producer, 0, Some(who("one", 1)), 2)).unwrap();
    let places: Vec<_> = first
        .appends
        .iter()
        .map(|a| (a.base.get(), a.last.get()))
        .collect();
    assert_eq!(
        (places, first.duplicate, first.acks),
        (vec![(0, 1), (0, 2)], false, Acks::Fsync)
    );
    assert_eq!((rig.ends(), rig.committed()), ([3, 2], Some(2)));
    let again = rig.steps(step(producer, 0, Some(who("one", 1)), 2)).unwrap();
    assert_eq!((again.duplicate, &again.appends), (true, &first.appends));
    assert_eq!((rig.ends(), rig.committed()), ([3, 2], Some(2)));
    let next = rig.steps(step(producer, 1, Some(who("one", 1)), 4)).unwrap();
    assert_eq!(next.appends[0].base.get(), 2);
    assert_eq!((rig.ends(), rig.committed()), ([6, 4], Some(4)));
}

/// The story: a consumer dies between what it made of a record and the commit of that record.
#[test]
fn without_a_step_a_record_is_made_twice_and_with_it_once() {
    // Produce, then commit: the consumer dies in between, and the next one makes it again.
    let (rig, producer) = Rig::with_member();
    let made = || item(named("out", 0), ProducePayload::Raw(batch(1, None)));
    rig.produce(Acks::Fsync, made()).1.unwrap();
    assert_eq!(rig.committed(), None, "it died here");
    rig.produce(Acks::Fsync, made()).1.unwrap();
    let commit = CommitOffsets {
        group: "g".to_owned(),
        member: Some(who("one", 1)),
        offsets: vec![commit_of("in", 1)],
    };
    rig.ask(Request::CommitOffsets(commit)).unwrap();
    assert_eq!(rig.ends()[0], 2, "twice");

    // The same with a step: before it there is neither, behind it both.
    let of = |sequence, offset| Step {
        appends: vec![made()],
        ..step(producer, sequence, Some(who("one", 1)), offset)
    };
    rig.steps(of(0, 2)).unwrap();
    assert_eq!((rig.ends()[0], rig.committed()), (3, Some(2)), "it died here");
    rig.steps(of(0, 2)).unwrap();
    assert_eq!((rig.ends()[0], rig.committed()), (3, Some(2)), "once");
}

type Wrong = (Step, ErrorCode, Option<&'static str>);

fn wrong_appends(producer: InitializedProducer) -> Vec<Wrong> {
    let with = |append: ProducePartition| {
        let mut step = step(producer, 0, Some(who("one", 1)), 2);
        step.appends[0] = append;
        step
    };
    let one = |topic| item(named(topic, 0), ProducePayload::Raw(batch(1, None)));
    let broken = item(
        named("out", 0),
        ProducePayload::Raw(Bytes::from_static(b"no batch")),
    );
    let first = Some("step.appends[0]");
    vec![
        (with(one("none")), ErrorCode::UnknownTopicOrPartition, first),
        (
            with(one("out")),
            ErrorCode::InvalidArgument,
            Some("step.appends[1]"),
        ),
        (with(broken), ErrorCode::InvalidBatch, first),
        (
            with(sequenced("out", producer, 0, 1)),
            ErrorCode::InvalidArgument,
            first,
        ),
    ]
}

fn wrong_commits(producer: InitializedProducer) -> Vec<Wrong> {
    let by = |member| step(producer, 0, member, 2);
    let of = |offset| Step {
        offsets: vec![offset],
        ..by(Some(who("one", 1)))
    };
    vec![
        (by(Some(who("one", 9))), ErrorCode::FencedMemberEpoch, None),
        (by(Some(who("two", 1))), ErrorCode::UnknownMemberId, None),
        (by(None), ErrorCode::GroupNotEmpty, None),
        (of(commit_of("in", 9)), ErrorCode::OffsetOutOfRange, None),
        (of(commit_of("out", 0)), ErrorCode::FencedMemberEpoch, None),
    ]
}

#[test]
fn what_is_wrong_with_one_part_refuses_all_of_a_step() {
    let (rig, producer) = Rig::with_member();
    let wrong = wrong_appends(producer).into_iter().chain(wrong_commits(producer));
    for (step, code, field) in wrong {
        let error = rig.steps(step).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        if field.is_some() {
            assert_eq!(error.details.field.as_deref(), field, "{error}");
        }
        assert_eq!((rig.ends(), rig.committed()), ([0, 0], None), "{error}");
    }
    rig.steps(step(producer, 0, Some(who("one", 1)), 2)).unwrap();
    let error = rig.steps(step(producer, 3, Some(who("one", 1)), 2)).unwrap_err();
    assert_eq!(
        (error.code, error.details.expected_sequence),
        (ErrorCode::OutOfOrderSequence, Some(1))
    );
}

#[test]
fn a_step_waits_until_it_is_durable_and_becomes_visible_as_a_whole() {
    let rig = Rig::manual();
    rig.create("in", 1);
    rig.create("out", 2);
    let (_, producer) = waits(
        rig.broker
            .receive(Request::InitProducer(InitProducer { current: None })),
    );
    rig.store.make_all_durable();
    let Ok(Response::InitProducer(producer)) = producer else {
        panic!("{producer:?}");
    };
    let taken = || waits(rig.broker.receive(Request::Step(step(producer, 0, None, 0))));
    let (lsn, reply) = taken();
    reply.unwrap();
    assert!(lsn > rig.durable());
    let (again, reply) = taken();
    assert!(matches!(
        reply,
        Ok(Response::Step(Stepped { duplicate: true, .. }))
    ));
    assert!(again >= lsn, "the retry waits for the first");
    assert_eq!(rig.ends(), [0, 0]);
    rig.store.make_all_durable();
    assert_eq!(rig.ends(), [3, 2]);
}

#[test]
fn a_step_that_is_sent_again_is_answered_as_the_first_time_although_its_topics_are_gone() {
    let (rig, producer) = Rig::with_member();
    let asked = || step(producer, 0, Some(who("one", 1)), 2);
    let first = rig.steps(asked()).unwrap();
    let again = |what: &str| {
        let again = rig
            .steps(asked())
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let answer = (again.committed, again.acks, again.duplicate, &again.appends);
        assert_eq!(
            answer,
            (first.committed, first.acks, true, &first.appends),
            "{what}"
        );
    };
    let delete = |name: &str| {
        let name = name.to_owned();
        rig.ask(Request::DeleteTopic(DeleteTopic { name, id: None }))
            .unwrap();
    };
    delete("in");
    again("without what it read");
    delete("out");
    again("without what it wrote");
    // Others of these names are not what it was about, and nothing is put there.
    rig.create("in", 1);
    again("what it read is another, and shorter");
    rig.create("out", 2);
    again("what it wrote is another");
    assert_eq!((rig.ends(), rig.committed()), ([0, 0], None));
    // One that was not taken is refused for what is wrong.
    let error = rig.steps(step(producer, 1, Some(who("one", 1)), 2)).unwrap_err();
    assert_eq!(error.code, ErrorCode::OffsetOutOfRange, "{error}");
}
