//! Every history of a small group up to a depth: no partition is ever read by two members.
//!
//! Clients are honest but slow: they read what they were last told, until they are told otherwise. Messages are lost, come late and
//! come twice.

use std::collections::{BTreeSet, VecDeque};

use super::rig::{Client, Rig, beat, id, subscribed, topic};
use crate::group::*;
use crate::model::PartitionKey;

/// Three that come and go.
const DYNAMIC: &[&str] = &["x", "y", "z"];

/// One that comes and goes, and three lives of a static one: they have the instance id `i`.
const WITH_STATIC: &[&str] = &["x", "s1", "s2", "s3"];

/// Two, so that there is room for what topics do.
const TWO: &[&str] = &["x", "y"];

/// A heartbeat under way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Message {
    name: String,
    epoch: u32,
    revision: u64,
    owned: BTreeSet<PartitionKey>,
}

/// Messages under way, which may arrive in any order, or never.
type Wire = BTreeSet<Message>;

#[derive(Clone)]
struct World {
    rig: Rig,
    wire: Wire,
    names: &'static [&'static str],
    /// How often topics may still change.
    changes: u32,
    /// Which topic is `a` now, and its partitions.
    topic: (u8, u32),
}

impl World {
    fn new(partitions: u32) -> Self {
        Self {
            rig: Rig::new(partitions),
            wire: Wire::new(),
            names: DYNAMIC,
            changes: 0,
            topic: (1, partitions),
        }
    }

    /// A static member that is started again before its earlier life has ended, or is known to have.
    fn with_a_static_member(partitions: u32) -> Self {
        Self {
            names: WITH_STATIC,
            ..Self::new(partitions)
        }
    }

    /// The topic grows, and is deleted and made again.
    fn with_topic_changes(partitions: u32) -> Self {
        Self {
            names: TWO,
            changes: 3,
            ..Self::new(partitions)
        }
    }

    /// Two members, of which the second has not been told what it holds, and its heartbeat is late.
    fn with_a_late_heartbeat(partitions: u32) -> Self {
        let mut world = Self::new(partitions);
        world.rig.join("x");
        world.rig.join("y");
        let client = world.rig.clients["y"].clone();
        let mut world = world.sent("y", &client).expect("nothing is under way");
        world.rig.heartbeat("x");
        world.rig.heartbeat("x");
        world
    }

    /// As far as it decides what can happen: epochs and joins by their distance, revisions by what they allow.
    fn print(&self) -> String {
        let Some(m) = self.rig.machine.membership("g") else {
            return String::new();
        };
        let back = |epoch: u32| m.epoch.abs_diff(epoch);
        let held = |held: &Held| -> Vec<_> { held.iter().map(|(key, since)| (*key, back(*since))).collect() };
        let members: Vec<_> = m
            .in_join_order()
            .into_iter()
            .map(|(id, member)| {
                let epoch = back(m.member_epoch(member));
                (id.as_str(), held(&member.assigned), held(&member.revoking), epoch)
            })
            .collect();
        let heard = |name: &str, revision| revision >= self.rig.machine.revoked("g", name);
        let clients: Vec<_> = self
            .rig
            .clients
            .iter()
            .map(|(name, client)| {
                (
                    name,
                    back(client.epoch),
                    heard(name, client.revision),
                    &client.owned,
                )
            })
            .collect();
        let wire: Vec<_> = self
            .wire
            .iter()
            .map(|message| {
                let heard = heard(&message.name, message.revision);
                (&message.name, back(message.epoch), heard, &message.owned)
            })
            .collect();
        let topics = (self.changes, self.topic, self.rig.machine.affected().len());
        format!(
            "{members:?} {:?} {clients:?} {wire:?} {:?} {topics:?}",
            m.target, m.resolved
        )
    }

    /// What can happen next.
    fn next(&self) -> Vec<World> {
        let mut worlds = Vec::new();
        for name in self.names.iter().copied() {
            match self.rig.clients.get(name) {
                None => worlds.extend(self.joined(name)),
                Some(client) => {
                    worlds.extend(self.sent(name, client));
                    worlds.extend(self.expired(name));
                    worlds.push(self.told(name));
                }
            }
        }
        for message in &self.wire {
            worlds.push(self.arrived(message));
        }
        worlds.extend(self.grown());
        worlds.extend(self.made_again());
        worlds.extend(self.refreshed());
        worlds
    }

    /// The topic has another partition. Groups are told later.
    fn grown(&self) -> Option<World> {
        let mut world = self.clone();
        world.changes = self.changes.checked_sub(1)?;
        world.topic.1 += 1;
        let (number, partitions) = world.topic;
        world
            .rig
            .machine
            .topics_mut()
            .insert(topic(number), "a", partitions);
        Some(world)
    }

    /// The topic is deleted, and another one has its name. Its deletion reaches groups at once, the other one later.
    fn made_again(&self) -> Option<World> {
        let mut world = self.clone();
        world.changes = self.changes.checked_sub(1)?;
        let (number, partitions) = self.topic;
        world.rig.run(Command::DeleteTopic(topic(number)));
        world.rig.machine.topics_mut().remove(topic(number));
        world.topic.0 += 1;
        world
            .rig
            .machine
            .topics_mut()
            .insert(topic(world.topic.0), "a", partitions);
        Some(world)
    }

    fn refreshed(&self) -> Option<World> {
        let group = self.rig.machine.affected().into_iter().next()?;
        let mut world = self.clone();
        world.rig.run(Command::Refresh { group });
        Some(world)
    }

    fn joined(&self, name: &str) -> Option<World> {
        let mut world = self.clone();
        let known = self.rig.machine.membership("g");
        if known.is_some_and(|known| known.members.contains_key(name)) {
            return None;
        }
        let subscription = Some(subscribed(&["a"]));
        let reply = world.rig.run(Command::Heartbeat(Heartbeat {
            subscription,
            ..beating(name, 0)
        }));
        assert!(matches!(reply, Reply::Alive { .. }));
        world.rig.learn(name);
        Some(world)
    }

    /// The client says what it holds; that is under way.
    fn sent(&self, name: &str, client: &Client) -> Option<World> {
        let message = Message {
            name: name.to_owned(),
            epoch: client.epoch,
            revision: client.revision,
            owned: client.owned.clone(),
        };
        if self.wire.len() >= 2 || self.wire.contains(&message) {
            return None;
        }
        let mut world = self.clone();
        world.wire.insert(message);
        Some(world)
    }

    /// It arrives, and may arrive again.
    fn arrived(&self, message: &Message) -> World {
        let mut world = self.clone();
        let reply = world.rig.run(Command::Heartbeat(Heartbeat {
            owned: Some(message.owned.clone()),
            revision: message.revision,
            ..beating(&message.name, message.epoch)
        }));
        if let Reply::Refused(_) = reply {
            world.wire.remove(message);
        }
        world
    }

    /// The client hears how things are, or that it is no member any more.
    fn told(&self, name: &str) -> World {
        let mut world = self.clone();
        let is_member = world.rig.group().members.contains_key(name);
        if is_member {
            world.rig.learn(name);
        } else {
            world.rig.clients.remove(name);
            world.wire.retain(|message| message.name != name);
        }
        world
    }

    /// Its session ends at the broker; the client does not know, and goes on reading.
    fn expired(&self, name: &str) -> Option<World> {
        if !self.rig.group().members.contains_key(name) {
            return None;
        }
        let mut world = self.clone();
        world.rig.run(Command::Remove {
            group: "g".parse().unwrap(),
            member: id(name),
        });
        Some(world)
    }

    /// Of two clients that think they may read a partition, one at most may, and that is the holder.
    fn check(&self) {
        for (name, client) in &self.rig.clients {
            for key in &client.owned {
                let others = self
                    .rig
                    .clients
                    .iter()
                    .filter(|(other, client)| *other != name && client.owned.contains(key));
                for (other, it) in others {
                    let may = |name: &str, epoch| {
                        let asked = beating(name, epoch).member;
                        self.rig.machine.check_fetch("g", &asked, *key).is_ok()
                    };
                    let both = may(name, client.epoch) && may(other, it.epoch);
                    assert!(!both, "{name} and {other} read {key}");
                    let members = &self.rig.group().members;
                    let alive = |name: &str| members.contains_key(name);
                    assert!(
                        !alive(name) || !alive(other),
                        "{name} and {other} are members and own {key}"
                    );
                }
            }
        }
    }
}

/// A heartbeat of a member, with its instance id if it is a life of the static one.
fn beating(name: &str, epoch: u32) -> Heartbeat {
    let mut beat = beat(name, epoch);
    beat.member.instance = name.starts_with('s').then(|| "i".to_owned());
    beat
}

/// Breadth first, until there is nothing new up to the depth or enough has been seen.
fn explore(first: World, depth_max: u32, states_max: usize) -> usize {
    let mut seen = BTreeSet::from([first.print()]);
    let mut queue = VecDeque::from([(first, 0)]);
    while let Some((world, depth)) = queue.pop_front() {
        world.check();
        if depth == depth_max || seen.len() >= states_max {
            continue;
        }
        for next in world.next() {
            if seen.insert(next.print()) {
                queue.push_back((next, depth + 1));
            }
        }
    }
    seen.len()
}

#[test]
fn ep12_no_history_of_a_small_group_lets_two_members_read_one_partition() {
    let states = explore(World::new(2), 9, 8_000);
    assert!(states > 5_000, "{states} states");
}

#[test]
fn ep12_a_late_heartbeat_lets_no_two_members_read_one_partition() {
    let states = explore(World::with_a_late_heartbeat(6), 6, 8_000);
    assert!(states > 2_000, "{states} states");
}

#[test]
fn ep12_st1_no_life_of_a_static_member_reads_what_another_one_does() {
    let states = explore(World::with_a_static_member(2), 8, 5_000);
    assert!(states > 3_000, "{states} states");
}

#[test]
fn ep12_of4_no_change_of_a_topic_lets_two_members_read_one_partition() {
    let states = explore(World::with_topic_changes(2), 8, 5_000);
    assert!(states > 3_000, "{states} states");
}
