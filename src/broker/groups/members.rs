//! GroupHeartbeat, CloseConsumer, ProposeAssignment and EvictMember: what members and those who remove them ask.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::parked::Parked;
use super::{Groups, State, Undone, terms};
use crate::api::{
    ApiError, CloseConsumer, ClosedConsumer, EvictMember, Evicted, EvictedMember, GroupHeartbeat,
    GroupMember, Outcome, Peer, ProposeAssignment, Reply, Request, Response, Subscription, TopicPartitions,
};
use crate::broker::coordinator::not_admitted;
use crate::broker::{Broker, errors};
use crate::group::sessions::HeldDown;
use crate::group::{self, Command, MemberRef};
use crate::machine::StateMachine;
use crate::model::{ConnectionId, ErrorCode, GroupId, MemberId, PartitionKey};
use crate::storage::LogStore;

impl<S: LogStore> Broker<S> {
    pub(in crate::broker) fn group_heartbeat(&self, heartbeat: GroupHeartbeat, from: &Peer) -> Outcome {
        let command = group::Heartbeat {
            group: heartbeat.group.clone(),
            member: member_ref(&heartbeat.member),
            client_id: heartbeat.client_id.clone(),
            host: from.host.as_ref().to_owned(),
            subscription: heartbeat.subscription.as_ref().map(subscription),
            revision: heartbeat.revision,
            owned: heartbeat.owned.as_ref().map(|owned| self.keys(owned)),
        };
        let mut state = self.groups.lock();
        match self.groups.beat(&mut state, command, from.connection) {
            Ok((group, member)) => self.groups.tell_or_park(state, &heartbeat, from, group, member),
            Err(Undone::NotAdmitted(refused)) => not_admitted(refused, Request::GroupHeartbeat(heartbeat)),
            Err(Undone::Refused(error)) => Outcome::AfterLsn {
                lsn: self.groups.lsn(&state),
                reply: Err(*error),
            },
        }
    }

    pub(in crate::broker) fn close_consumer(&self, close: CloseConsumer) -> Outcome {
        let found = match self.found_offsets(&close.offsets) {
            Ok(found) => found,
            Err(outcome) => return outcome,
        };
        let mut state = self.groups.lock();
        let closed = self.offsets_of(&close.offsets, &found).and_then(|offsets| {
            let command = Command::Close(group::Close {
                group: close.group.clone(),
                member: member_ref(&close.member),
                offsets,
            });
            self.groups.carry_out(&mut state, command, &close.offsets)
        });
        let reply = match closed {
            Err(Undone::NotAdmitted(refused)) => return not_admitted(refused, Request::CloseConsumer(close)),
            Err(Undone::Refused(error)) => Err(*error),
            Ok(group::Reply::Closed { at, left }) => {
                if !left {
                    self.groups.rests(&mut state, &close);
                }
                Ok(Response::CloseConsumer(ClosedConsumer { at, left }))
            }
            Ok(_) => Err(other_kind()),
        };
        Outcome::AfterLsn {
            lsn: self.groups.lsn(&state),
            reply,
        }
    }

    pub(in crate::broker) fn propose_assignment(&self, propose: ProposeAssignment) -> Outcome {
        let assignments = propose.assignments.iter();
        let assignments =
            assignments.map(|(member, topics)| (member.clone(), self.keys(topics).into_iter().collect()));
        let command = Command::Propose(group::Propose {
            group: propose.group.clone(),
            member: member_ref(&propose.member),
            epoch: propose.group_epoch,
            assignments: assignments.collect(),
        });
        let mut state = self.groups.lock();
        let reply = match self.groups.carry_out(&mut state, command, &[]) {
            Err(Undone::NotAdmitted(refused)) => {
                return not_admitted(refused, Request::ProposeAssignment(propose));
            }
            Err(Undone::Refused(error)) => Err(*error),
            Ok(_) => {
                let membership = state.driver.machine.membership(&propose.group);
                let epoch = membership.map_or(propose.group_epoch, |membership| membership.assignment_epoch);
                Ok(Response::ProposeAssignment(epoch))
            }
        };
        Outcome::AfterLsn {
            lsn: self.groups.lsn(&state),
            reply,
        }
    }

    pub(in crate::broker) fn evict_member(&self, evict: EvictMember) -> Outcome {
        let mut state = self.groups.lock();
        let found = evicted(&state, &evict);
        let (group, member) = match found {
            Ok(found) => found,
            Err(error) => {
                return Outcome::AfterLsn {
                    lsn: self.groups.lsn(&state),
                    reply: Err(*error),
                };
            }
        };
        let command = Command::Remove {
            group: group.clone(),
            member: member.clone(),
        };
        let reply: Reply = match self.groups.carry_out(&mut state, command, &[]) {
            Err(Undone::NotAdmitted(refused)) => return not_admitted(refused, Request::EvictMember(evict)),
            Err(Undone::Refused(error)) => Err(*error),
            Ok(_) => {
                tracing::warn!(event = "group_member_evicted", group = %group, member = %member, reason = %evict.reason, "a member was evicted");
                let membership = state.driver.machine.membership(group.as_str());
                Ok(Response::EvictMember(Evicted {
                    member_id: member.to_string(),
                    group_epoch: membership.map_or(0, |membership| membership.epoch),
                }))
            }
        };
        Outcome::AfterLsn {
            lsn: self.groups.lsn(&state),
            reply,
        }
    }

    /// The partitions that exist of those that a client names. What does not exist cannot be held.
    fn keys(&self, topics: &[TopicPartitions]) -> BTreeSet<PartitionKey> {
        let keys = topics.iter().flat_map(|topic| {
            let named = || {
                self.registry
                    .with_name(&topic.topic)
                    .map(|handle| handle.topic.id)
            };
            let id = topic.topic_id.or_else(named);
            let partitions = topic.partitions.iter();
            partitions.filter_map(move |partition| {
                Some(PartitionKey {
                    topic: id?,
                    partition: *partition,
                })
            })
        });
        keys.collect()
    }
}

impl<S: LogStore> Groups<S> {
    /// Carries a heartbeat out and takes note that the member lives.
    fn beat(
        &self,
        state: &mut State<S::Log>,
        mut heartbeat: group::Heartbeat,
        connection: ConnectionId,
    ) -> Result<(GroupId, MemberId), Undone> {
        if let Some(owned) = &mut heartbeat.owned {
            // What went with its topic a moment ago is nothing that somebody else could hold.
            let topics = state.driver.machine.topics();
            owned.retain(|key| {
                topics
                    .partitions(key.topic)
                    .is_some_and(|count| key.partition.0 < count)
            });
        }
        let (now, asked) = (self.clock.mono(), heartbeat.member.clone());
        let effects = state
            .driver
            .machine
            .handle(self.clock.wall(), Command::Heartbeat(heartbeat));
        let (group, member) = match effects.reply {
            group::Reply::Alive { group, member } => (group, member),
            group::Reply::Refused(refusal) => {
                return Err(super::group_errors::group(refusal, &[]).into());
            }
            _ => return Err(other_kind().into()),
        };
        let before = taken_over(state, &group, &asked);
        let before =
            before.map(|(instance, holder)| state.sessions.take_over(now, &group, &instance, &holder));
        let before = before.transpose().map_err(held_down)?;
        self.write(state, effects.records)?;
        let membership = state.driver.machine.membership(group.as_str());
        let Some((membership, known)) = membership.and_then(|m| Some((m, m.members.get(&member)?))) else {
            return Err(errors::internal("a heartbeat without its member").into());
        };
        let terms = terms(membership, known);
        match before {
            Some(taken) => state
                .sessions
                .replaced(now, &group, (taken, &member), connection, terms),
            None => state.sessions.beat(now, &group, &member, connection, terms),
        }
        // Known only now, so its hand-off could not be timed before.
        state.time_member(now, &group, &member);
        self.poke(state);
        Ok((group, member))
    }

    /// A static member has left, and its place is kept.
    fn rests(&self, state: &mut State<S::Log>, close: &CloseConsumer) {
        let (group, member) = (close.group.parse(), close.member.member_id.parse());
        if let (Ok(group), Ok(member)) = (group, member) {
            state.sessions.rests(self.clock.mono(), &group, &member);
            self.poke(state);
        }
    }

    /// Answers, or waits if there is nothing new to tell.
    fn tell_or_park(
        self: &Arc<Self>,
        mut state: std::sync::MutexGuard<'_, State<S::Log>>,
        heartbeat: &GroupHeartbeat,
        from: &Peer,
        group: GroupId,
        member: MemberId,
    ) -> Outcome {
        let key = (group, member);
        let wake = Arc::new(tokio::sync::Notify::new());
        // One heartbeat of a member waits at a time: the newer one answers the older one.
        if let Some(older) = state.waiting.remove(&key) {
            older.notify_one();
        }
        let revision = state.driver.machine.revision(key.0.as_str(), key.1.as_str());
        let news = heartbeat.revision == 0 || revision != Some(heartbeat.revision);
        let wait = heartbeat.max_wait.min(self.settings.fetch_wait_max);
        let park = if news || wait.is_zero() {
            None
        } else {
            let now = self.clock.mono();
            state.sessions.park(now, &key.0, &key.1, from.connection, wait)
        };
        let Some(park) = park else {
            return Outcome::AfterLsn {
                lsn: self.lsn(&state),
                reply: self
                    .membership(&state, &key, &heartbeat.member)
                    .map(|membership| Response::GroupHeartbeat(Box::new(membership))),
            };
        };
        state.waiting.insert(key.clone(), Arc::clone(&wake));
        let parked = Parked::new(Arc::clone(self), key, heartbeat.member.clone(), wake, park);
        self.poke(&state);
        Outcome::Later(Box::pin(parked.wait()))
    }
}

/// The static member whose place this one takes, if it does.
fn taken_over<L>(
    state: &State<L>,
    group: &GroupId,
    asked: &MemberRef,
) -> Option<(crate::model::InstanceId, MemberId)> {
    let membership = state.driver.machine.membership(group.as_str())?;
    let instance = asked.instance.as_deref()?;
    let holder = membership.instance(instance)?;
    let is_other = holder.as_str() != asked.member;
    is_other.then(|| Some((instance.parse().ok()?, holder.clone())))?
}

fn held_down(held: HeldDown) -> ApiError {
    let ms = u32::try_from(held.retry_after.as_millis()).unwrap_or(u32::MAX);
    ApiError::new(ErrorCode::UnreleasedInstanceId, held.to_string())
        .hint("two processes with the same instance id take the place from each other: give each its own")
        .retry_after_ms(ms.max(1))
}

/// The member that an operator means.
fn evicted<L>(state: &State<L>, evict: &EvictMember) -> Result<(GroupId, MemberId), Box<ApiError>> {
    let machine = &state.driver.machine;
    let Some((group, known)) = machine.group(&evict.group) else {
        return Err(Box::new(unknown_group(&evict.group)));
    };
    let membership = known.membership.as_ref();
    let (name, found) = match &evict.member {
        EvictedMember::Member(id) => {
            let found = membership.and_then(|m| m.members.get_key_value(id.as_str()));
            (id, found.map(|(id, _)| id))
        }
        EvictedMember::Instance(id) => (id, membership.and_then(|m| m.instance(id))),
    };
    match found {
        Some(member) => Ok((group.clone(), member.clone())),
        None => Err(Box::new(
            ApiError::new(
                ErrorCode::UnknownMemberId,
                format!("group {} has no member {name}", evict.group),
            )
            .hint("'naru group members' shows who is there"),
        )),
    }
}

/// There is no such group, be it that there can be none.
pub(super) fn unknown_group(group: &str) -> ApiError {
    let error = match group.parse::<GroupId>() {
        Err(bad) => group::GroupError::Id(bad),
        Ok(_) => group::GroupError::UnknownGroup {
            group: group.to_owned(),
        },
    };
    super::group_errors::group(error, &[])
}

pub(in crate::broker) fn member_ref(member: &GroupMember) -> MemberRef {
    MemberRef {
        member: member.member_id.clone(),
        epoch: member.member_epoch,
        instance: member.instance_id.clone(),
    }
}

fn subscription(asked: &Subscription) -> group::Subscription {
    let texts = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
    group::Subscription {
        topics: texts(&asked.topics),
        patterns: texts(&asked.patterns),
    }
}

pub(super) fn other_kind() -> ApiError {
    errors::internal("the answer is of another kind")
}
