//! A machine with members as clients of it: what the tests of members share.

use std::collections::{BTreeMap, BTreeSet};

use super::{key, run};
use crate::group::*;
use crate::model::{LeaderEpoch, MemberId, Offset, PartitionKey, Timestamp, TopicId};

/// A machine with topics, the members as clients of it, and a group.
#[derive(Clone)]
pub(super) struct Rig {
    pub(super) machine: Machine,
    pub(super) clients: BTreeMap<String, Client>,
}

/// What a client knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Client {
    pub(super) epoch: u32,
    /// Of the newest answer that it has heard.
    pub(super) revision: u64,
    /// What it reads and commits.
    pub(super) owned: BTreeSet<PartitionKey>,
}

pub(super) fn topic(number: u8) -> TopicId {
    TopicId::from_bytes([number; 16])
}

pub(super) fn id(name: &str) -> MemberId {
    name.parse().unwrap()
}

pub(super) fn subscribed(topics: &[&str]) -> Subscription {
    Subscription {
        topics: topics.iter().map(|name| (*name).into()).collect(),
        patterns: BTreeSet::new(),
    }
}

impl Rig {
    /// Topic `a` with so many partitions.
    pub(super) fn new(partitions: u32) -> Self {
        let mut machine = Machine::new(Limits::default());
        machine.topics_mut().insert(topic(1), "a", partitions);
        machine.begin(LeaderEpoch(1));
        Self {
            machine,
            clients: BTreeMap::new(),
        }
    }

    pub(super) fn group(&self) -> &Membership {
        self.machine.membership("g").unwrap()
    }

    pub(super) fn run(&mut self, command: Command) -> Reply {
        let reply = run(&mut self.machine, 7, command);
        if let Some(membership) = self.machine.membership("g") {
            check(membership);
        }
        reply
    }

    pub(super) fn refused(&mut self, command: Command) -> GroupError {
        let before = self.machine.clone();
        let reply = self.run(command);
        let Reply::Refused(error) = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(before.groups, self.machine.groups, "a refusal changes nothing");
        error
    }

    /// A heartbeat as the client would send it, without taking notice of the answer.
    pub(super) fn beat_of(&self, name: &str) -> Heartbeat {
        let client = self.clients.get(name).cloned().unwrap_or_default();
        Heartbeat {
            owned: Some(client.owned),
            revision: client.revision,
            ..beat(name, client.epoch)
        }
    }

    /// The client takes in what it is to know: it stops reading what is not its own any more, and reads what is.
    pub(super) fn learn(&mut self, name: &str) {
        let membership = self.machine.membership("g").unwrap();
        let member = &membership.members[name];
        let client = self.clients.entry(name.to_owned()).or_default();
        client.epoch = membership.member_epoch(member);
        client.revision = self.machine.revision("g", name).unwrap();
        client.owned = member.assigned.keys().copied().collect();
    }

    pub(super) fn heartbeat(&mut self, name: &str) {
        let beat = self.beat_of(name);
        let reply = self.run(Command::Heartbeat(beat));
        assert!(matches!(reply, Reply::Alive { .. }), "{reply:?}");
        self.learn(name);
    }

    pub(super) fn join(&mut self, name: &str) {
        let beat = Heartbeat {
            subscription: Some(subscribed(&["a"])),
            ..beat(name, 0)
        };
        let reply = self.run(Command::Heartbeat(beat));
        assert!(matches!(reply, Reply::Alive { .. }), "{reply:?}");
        self.learn(name);
    }

    pub(super) fn join_static(&mut self, name: &str, instance: &str) {
        let mut beat = Heartbeat {
            subscription: Some(subscribed(&["a"])),
            ..beat(name, 0)
        };
        beat.member.instance = Some(instance.to_owned());
        let reply = self.run(Command::Heartbeat(beat));
        assert!(matches!(reply, Reply::Alive { .. }), "{reply:?}");
        self.learn(name);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.run(Command::Remove {
            group: "g".parse().unwrap(),
            member: id(name),
        });
        self.clients.remove(name);
    }

    /// Everybody hears and releases until nobody has anything to say.
    pub(super) fn settle(&mut self) -> usize {
        for round in 1.. {
            let before = self.clone();
            let names: Vec<_> = self.group().members.keys().map(ToString::to_string).collect();
            for name in &names {
                self.heartbeat(name);
            }
            if before.machine.groups == self.machine.groups && before.clients == self.clients {
                return round;
            }
            assert!(round < 10, "the group does not settle");
        }
        unreachable!()
    }

    pub(super) fn counts(&self) -> Vec<usize> {
        let members = self.group().in_join_order().into_iter();
        members.map(|(_, member)| member.assigned.len()).collect()
    }

    pub(super) fn commit(&mut self, name: &str, partition: u32, offset: i64) -> Reply {
        let epoch = self.clients.get(name).map_or(1, |client| client.epoch);
        self.run(Command::CommitOffsets(commit(
            Some(who(name, epoch)),
            partition,
            offset,
        )))
    }
}

pub(super) fn who(name: &str, epoch: u32) -> MemberRef {
    MemberRef {
        member: name.to_owned(),
        epoch,
        instance: None,
    }
}

pub(super) fn beat(name: &str, epoch: u32) -> Heartbeat {
    Heartbeat {
        group: "g".to_owned(),
        member: who(name, epoch),
        client_id: "test".to_owned(),
        host: "127.0.0.1:1".to_owned(),
        subscription: None,
        revision: 0,
        owned: None,
    }
}

pub(super) fn commit(member: Option<MemberRef>, partition: u32, offset: i64) -> CommitOffsets {
    let committed = CommittedOffset {
        offset: Offset::new(offset).unwrap(),
        leader_epoch: None,
        metadata: "".into(),
        committed: Timestamp(0),
    };
    CommitOffsets {
        group: "g".to_owned(),
        member,
        offsets: vec![(key(1, partition), committed)],
    }
}

/// What holds always.
pub(super) fn check(membership: &Membership) {
    let mut holders: BTreeMap<PartitionKey, &MemberId> = BTreeMap::new();
    for (id, member) in &membership.members {
        let keys: Vec<_> = member.assigned.keys().chain(member.revoking.keys()).collect();
        for key in keys {
            if let Some(other) = holders.insert(*key, id) {
                panic!("EP12: {key} is held by {other} and by {id}");
            }
            let count = membership.resolved.get(&key.topic).copied();
            let is_gone = count.is_none_or(|count| key.partition.0 >= count);
            assert!(
                !is_gone || member.revoking.contains_key(key),
                "{key} does not exist"
            );
        }
        assert!(membership.member_epoch(member) <= membership.epoch);
    }
    assert!(membership.assignment_epoch <= membership.epoch);
}
