//! Random histories of a group: what holds always, and that it settles when all are well.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::rig::{Rig, beat, check, commit, id, subscribed, topic, who};
use crate::group::*;
use crate::machine::{StateMachine, Stored};
use crate::model::{
    Acks, GroupState, LeaderEpoch, Offset, PartitionKey, ProducerEpoch, ProducerId, Sequence, Timestamp,
};

/// What happens next. Numbers choose members and partitions.
#[derive(Clone, Debug)]
enum Event {
    Join(u8),
    JoinStatic(u8, u8),
    Heartbeat(u8),
    /// The answer is lost: the client knows what it knew.
    Unheard(u8),
    /// Something that was sent in an older epoch arrives now.
    Late(u8, u32),
    Leave(u8),
    Expire(u8),
    Commit(u8, u32),
    /// A step of a producer; the sequence is this much before the next.
    Step(u8, u32, i32),
    Subscribe(u8, bool),
    Partitions(u32),
    DeleteTopic,
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let member = 0_u8..5;
    prop_oneof![
        3 => member.clone().prop_map(Event::Join),
        1 => (member.clone(), 0_u8..2).prop_map(|(m, i)| Event::JoinStatic(m, i)),
        8 => member.clone().prop_map(Event::Heartbeat),
        2 => member.clone().prop_map(Event::Unheard),
        2 => (member.clone(), 0_u32..6).prop_map(|(m, back)| Event::Late(m, back)),
        1 => member.clone().prop_map(Event::Leave),
        1 => member.clone().prop_map(Event::Expire),
        2 => (member.clone(), 0_u32..6).prop_map(|(m, p)| Event::Commit(m, p)),
        2 => (member.clone(), 0_u32..6, 0_i32..7).prop_map(|(m, p, back)| Event::Step(m, p, back)),
        1 => (member, any::<bool>()).prop_map(|(m, both)| Event::Subscribe(m, both)),
        1 => (1_u32..8).prop_map(Event::Partitions),
        1 => Just(Event::DeleteTopic),
        1 => Just(Event::Restart),
    ]
}

/// A rig whose records are kept, to be played again.
struct History {
    rig: Rig,
    records: Vec<GroupRecord>,
    partitions: u32,
    topics: u8,
    /// Steps that were taken, by producer, and where they were put.
    steps: BTreeMap<u8, Vec<Taken>>,
}

impl History {
    fn new() -> Self {
        Self {
            rig: Rig::new(3),
            records: Vec::new(),
            partitions: 3,
            topics: 1,
            steps: BTreeMap::new(),
        }
    }

    fn run(&mut self, command: Command) -> Reply {
        let epoch = self.epoch();
        let effects = self.rig.machine.handle(Timestamp(7), command);
        for record in &effects.records {
            let stored = Machine::decode(Machine::encode(record)).unwrap();
            assert_eq!(&stored, record);
            self.rig.machine.apply(&stored);
            self.records.push(stored);
        }
        if let Some(membership) = self.rig.machine.membership("g") {
            check(membership);
        }
        assert!(self.epoch() >= epoch, "an epoch went back");
        effects.reply
    }

    fn epoch(&self) -> u32 {
        self.rig
            .machine
            .membership("g")
            .map_or(0, |membership| membership.epoch)
    }

    fn beat(&mut self, beat: Heartbeat, heard: bool) {
        let name = beat.member.member.clone();
        match self.run(Command::Heartbeat(beat)) {
            Reply::Alive { .. } if heard => self.rig.learn(&name),
            Reply::Alive { .. } => {}
            Reply::Refused(_) => {
                self.rig.clients.remove(&name);
            }
            Reply::Committed(_)
            | Reply::TopicDeleted
            | Reply::Closed { .. }
            | Reply::Done
            | Reply::Configured { .. }
            | Reply::Stepped(_) => {
                panic!("another reply")
            }
        }
    }

    fn play(&mut self, event: &Event) {
        let name = |member: u8| format!("m{member}");
        match event {
            Event::Join(member) => {
                let subscription = Some(subscribed(&["a"]));
                self.beat(
                    Heartbeat {
                        subscription,
                        ..beat(&name(*member), 0)
                    },
                    true,
                );
            }
            Event::JoinStatic(member, instance) => {
                let mut beat = Heartbeat {
                    subscription: Some(subscribed(&["a"])),
                    ..beat(&format!("s{member}"), 0)
                };
                beat.member.instance = Some(format!("i{instance}"));
                self.beat(beat, true);
            }
            Event::Heartbeat(member) => self.beat(self.rig.beat_of(&name(*member)), true),
            Event::Unheard(member) => self.beat(self.rig.beat_of(&name(*member)), false),
            Event::Late(member, back) => self.late(&name(*member), *back),
            Event::Leave(member) => {
                let epoch = self
                    .rig
                    .clients
                    .get(&name(*member))
                    .map_or(1, |client| client.epoch);
                self.run(Command::Close(Close {
                    group: "g".to_owned(),
                    member: who(&name(*member), epoch),
                    offsets: Vec::new(),
                }));
                self.rig.clients.remove(&name(*member));
            }
            Event::Expire(member) => {
                self.run(Command::Remove {
                    group: "g".parse().unwrap(),
                    member: id(&name(*member)),
                });
            }
            Event::Commit(member, partition) => self.commit(&name(*member), *partition),
            Event::Step(member, partition, back) => self.step(*member, *partition, *back),
            Event::Subscribe(member, both) => {
                let mut beat = self.rig.beat_of(&name(*member));
                beat.subscription = Some(subscribed(if *both { &["a", "b"] } else { &["a"] }));
                self.beat(beat, true);
            }
            Event::Partitions(partitions) => {
                self.partitions = self.partitions.max(*partitions);
                self.rig
                    .machine
                    .topics_mut()
                    .insert(topic(self.topics), "a", self.partitions);
                self.rig.machine.topics_mut().insert(topic(200), "b", 2);
                self.run(Command::Refresh {
                    group: "g".parse().unwrap(),
                });
            }
            Event::DeleteTopic => self.replace_topic(),
            Event::Restart => self.restart(),
        }
    }

    fn late(&mut self, name: &str, back: u32) {
        let mut late = self.rig.beat_of(name);
        let now = late.member.epoch;
        late.member.epoch = now.saturating_sub(back);
        late.owned = Some(BTreeSet::new());
        if late.member.epoch != now {
            self.run(Command::Heartbeat(late));
        }
    }

    fn commit(&mut self, name: &str, partition: u32) {
        let client = self.rig.clients.get(name).cloned().unwrap_or_default();
        let mut asked = commit(Some(who(name, client.epoch)), partition, 5);
        for (key, _) in &mut asked.offsets {
            key.topic = topic(self.topics);
        }
        let key = asked.offsets[0].0;
        let holder = self.holder(key);
        if let Reply::Committed(_) = self.run(Command::CommitOffsets(asked)) {
            assert_eq!(holder.as_deref(), Some(name), "P4: only the holder commits");
        }
    }

    /// What was taken once is answered as the first time; what was not is never called taken.
    fn step(&mut self, member: u8, partition: u32, back: i32) {
        let name = format!("m{member}");
        let client = self.rig.clients.get(&name).cloned().unwrap_or_default();
        let mut asked = commit(Some(who(&name, client.epoch)), partition, 5);
        asked.offsets[0].0.topic = topic(self.topics);
        let known = self.steps.entry(member).or_default().clone();
        let next = i32::try_from(known.len()).unwrap();
        let sequence = next - back;
        if sequence < 0 {
            return;
        }
        let base = Offset::new(i64::try_from(self.records.len()).unwrap()).unwrap();
        let append = StepAppend {
            base,
            last: base,
            append_time: Timestamp(7),
            leader_epoch: LeaderEpoch(1),
        };
        let reply = self.run(Command::Step(StepCommand {
            group: asked.group,
            member: asked.member,
            stamp: StepStamp {
                producer: ProducerId(i64::from(member)),
                epoch: ProducerEpoch(0),
                sequence: Sequence(sequence),
            },
            offsets: asked.offsets,
            acks: Acks::Fsync,
            appends: vec![append],
        }));
        let first = usize::try_from(sequence).ok().and_then(|at| known.get(at));
        match (reply, first) {
            (Reply::Stepped(taken), None) => {
                assert_eq!((sequence, taken.duplicate), (next, false));
                self.steps.entry(member).or_default().push(taken);
            }
            (Reply::Stepped(taken), Some(first)) => {
                assert!(taken.duplicate);
                let forgotten = usize::try_from(back).unwrap() > STEP_WINDOW;
                assert!(forgotten && taken.appends.is_empty() || taken.appends == first.appends);
            }
            (reply, first) => {
                assert!(matches!(reply, Reply::Refused(_)) && first.is_none(), "{reply:?}");
            }
        }
    }

    fn holder(&self, key: PartitionKey) -> Option<String> {
        let membership = self.rig.machine.membership("g")?;
        membership.holders().get(&key).map(ToString::to_string)
    }

    fn replace_topic(&mut self) {
        let old = topic(self.topics);
        self.run(Command::DeleteTopic(old));
        self.rig.machine.topics_mut().remove(old);
        self.topics += 1;
        self.rig
            .machine
            .topics_mut()
            .insert(topic(self.topics), "a", self.partitions);
        self.run(Command::Refresh {
            group: "g".parse().unwrap(),
        });
        for client in self.rig.clients.values_mut() {
            client.owned.retain(|key| key.topic != old);
        }
    }

    /// The same state by the snapshot and by the records.
    fn restart(&mut self) {
        let topics = self.rig.machine.topics().clone();
        let restored = Machine::restore(Limits::default(), self.rig.machine.snapshot()).unwrap();
        assert_eq!(restored.groups, self.rig.machine.groups);
        assert_eq!(restored.state_bytes(), self.rig.machine.state_bytes());
        assert_eq!(restored.members(), self.rig.machine.members());
        assert_eq!(restored.steps(), self.rig.machine.steps());
        let mut replayed = Machine::new(Limits::default());
        self.records.iter().for_each(|record| replayed.apply(record));
        assert_eq!(replayed.groups, self.rig.machine.groups);
        assert_eq!(replayed.state_bytes(), self.rig.machine.state_bytes());
        assert_eq!(replayed.steps(), self.rig.machine.steps());
        self.rig.machine = restored;
        *self.rig.machine.topics_mut() = topics;
        self.rig.machine.begin(LeaderEpoch(2));
    }
}

proptest! {
    #[test]
    fn no_history_gives_a_partition_two_holders_and_every_one_settles(events in prop::collection::vec(event(), 1..60)) {
        let mut history = History::new();
        for event in &events {
            history.play(event);
        }
        history.restart();
        // All are well: those who are no member any more join again, under a new name.
        let Some(membership) = history.rig.machine.membership("g") else {
            return Ok(());
        };
        let silent: Vec<_> = membership.members.keys().filter(|id| !history.rig.clients.contains_key(id.as_str())).cloned().collect();
        for member in silent {
            history.run(Command::Remove { group: "g".parse().unwrap(), member });
        }
        let lost: Vec<_> = history.rig.clients.keys().cloned().collect();
        for name in lost {
            history.beat(history.rig.beat_of(&name), true);
        }
        let rounds = history.rig.settle();
        prop_assert!(rounds <= 5, "{rounds} rounds");
        let membership = history.rig.group();
        let expected = if membership.members.is_empty() { GroupState::Empty } else { GroupState::Stable };
        prop_assert_eq!(membership.state(), expected);
        prop_assert_eq!(membership.assignment_epoch, membership.epoch);
    }
}
