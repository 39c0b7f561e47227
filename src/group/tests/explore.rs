//! Every history of a small group up to a depth: no partition is ever read by two members.
//!
//! Clients are honest but slow: they read what they were last told, until they are told otherwise. Messages are lost, come late and
//! come twice.

use std::collections::{BTreeSet, VecDeque};

use super::members::{Client, Rig, beat, id, subscribed, who};
use crate::group::*;
use crate::model::PartitionKey;

const NAMES: [&str; 3] = ["x", "y", "z"];

/// Messages under way, which may arrive in any order, or never.
type Wire = BTreeSet<(String, u32, Option<BTreeSet<PartitionKey>>)>;

#[derive(Clone)]
struct World {
    rig: Rig,
    wire: Wire,
}

impl World {
    /// As far as it decides what can happen.
    fn print(&self) -> String {
        let membership = self.rig.machine.membership("g");
        let members = membership.map(|m| {
            let members = m.members.iter().map(|(id, member)| {
                (
                    id.to_string(),
                    member.assigned.clone(),
                    member.revoking.clone(),
                    member.held_epoch,
                    member.join,
                )
            });
            (m.epoch, members.collect::<Vec<_>>(), m.target.clone())
        });
        format!("{members:?} {:?} {:?}", self.rig.clients, self.wire)
    }

    /// What can happen next.
    fn next(&self) -> Vec<World> {
        let mut worlds = Vec::new();
        for name in NAMES {
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
        worlds
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
            ..beat(name, 0)
        }));
        assert!(matches!(reply, Reply::Alive { .. }));
        world.rig.learn(name);
        Some(world)
    }

    /// The client says what it holds; that is under way.
    fn sent(&self, name: &str, client: &Client) -> Option<World> {
        let message = (name.to_owned(), client.epoch, Some(client.owned.clone()));
        if self.wire.len() >= 2 || self.wire.contains(&message) {
            return None;
        }
        let mut world = self.clone();
        world.wire.insert(message);
        Some(world)
    }

    /// It arrives, and may arrive again.
    fn arrived(&self, message: &(String, u32, Option<BTreeSet<PartitionKey>>)) -> World {
        let mut world = self.clone();
        let (name, epoch, owned) = message.clone();
        let reply = world.rig.run(Command::Heartbeat(Heartbeat {
            owned,
            ..beat(&name, epoch)
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
            world.wire.retain(|(of, ..)| of != name);
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
                        self.rig.machine.check_fetch("g", &who(name, epoch), *key).is_ok()
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

#[test]
fn ep12_no_history_of_a_small_group_lets_two_members_read_one_partition() {
    let first = World {
        rig: Rig::new(2),
        wire: Wire::new(),
    };
    let mut seen = BTreeSet::from([first.print()]);
    let mut queue = VecDeque::from([(first, 0)]);
    while let Some((world, depth)) = queue.pop_front() {
        world.check();
        if depth == 8 || seen.len() > 30_000 {
            continue;
        }
        for next in world.next() {
            if seen.insert(next.print()) {
                queue.push_back((next, depth + 1));
            }
        }
    }
    assert!(seen.len() > 10_000, "{} states", seen.len());
}
