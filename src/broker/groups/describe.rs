//! DescribeGroup and ListGroups: groups as operators see them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::admin::configs;
use super::members::unknown_group;
use super::show::role;
use super::{Groups, State};
use crate::api::{
    DescribeGroup, DescribedGroup, GroupListing, GroupPartition, ListGroups, ListedGroups, MemberDescription,
    MemberRole, Outcome, Reply, Response, Subscription,
};
use crate::broker::lag_time::{DESCRIBE_LOOKUPS_MAX, age_ms};
use crate::broker::{Broker, errors};
use crate::group::{Group, Member, Membership, Overview};
use crate::model::{Glob, GroupId, GroupState, Lsn, MemberId, Offset, PartitionKey};
use crate::storage::{LogStore, PartitionLog};

impl<S: LogStore> Broker<S> {
    pub(in crate::broker) fn describe_group(&self, asked: &DescribeGroup) -> Outcome {
        let (lsn, described) = {
            let state = self.groups.lock();
            let described = match state.driver.machine.group(&asked.group) {
                Some((id, known)) => self.groups.described(&state, id, known),
                None => return self.answer(&state, Err(unknown_group(&asked.group))),
            };
            (self.groups.lsn(&state), described)
        };
        if described.partitions.iter().any(is_undated) {
            let dated = Arc::clone(&self.groups).dated(lsn, described);
            return Outcome::Later(Box::pin(dated));
        }
        Outcome::AfterLsn {
            lsn,
            reply: Ok(Response::DescribeGroup(Box::new(described))),
        }
    }

    pub(in crate::broker) fn list_groups(&self, asked: &ListGroups) -> Outcome {
        let matching = match Glob::new(&asked.matching) {
            Ok(glob) => glob,
            Err(long) => {
                let error = errors::bad_argument("match", long.to_string());
                return Outcome::Ready(Err(error));
            }
        };
        let count = match asked.count {
            0 => self.settings.list_count_default,
            count => count.min(self.settings.list_count_max),
        };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let state = self.groups.lock();
        let behind = state.driver.machine.groups_after(&asked.cursor);
        let mut found = behind.filter(|(id, _)| matching.matches(id.as_str()));
        let mut groups = Vec::new();
        for (id, known) in found.by_ref().take(count) {
            groups.push(self.groups.listed(&state, id, known));
        }
        let more = found.next().is_some();
        let last = groups.last().filter(|_| more);
        let cursor = last.map(|group| group.group.clone()).unwrap_or_default();
        self.answer(&state, Ok(Response::ListGroups(ListedGroups { groups, cursor })))
    }
}

impl<S: LogStore> Groups<S> {
    /// The description with the ages for which the disk must be asked.
    async fn dated(self: Arc<Self>, lsn: Lsn, described: DescribedGroup) -> Reply {
        // The semaphore is never closed.
        let slot = self.lag_times.slots().acquire_owned().await;
        let groups = Arc::clone(&self);
        let looking = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            groups.date(described)
        });
        let reply = match looking.await {
            Ok(dated) => Ok(Response::DescribeGroup(Box::new(dated))),
            Err(_) => Err(errors::internal("the lookup of ages has ended")),
        };
        self.when_durable(lsn, reply).await
    }

    /// Blocks on the disk.
    fn date(&self, mut described: DescribedGroup) -> DescribedGroup {
        let now = self.clock.wall();
        let undated = described.partitions.iter_mut().filter(|at| is_undated(at));
        for at in undated.take(DESCRIBE_LOOKUPS_MAX) {
            let Some(partition) = self.registry.partition(at.key) else {
                continue;
            };
            let from = at.committed.unwrap_or_default().max(at.bounds.log_start);
            let found = self.lag_times.find(&*partition.log, from);
            at.lag_ms = found.map(|found| age_ms(now, found));
        }
        described
    }

    /// Age of the oldest record from here on, if that is known without the disk.
    fn lag_ms(&self, log: &S::Log, from: Offset, lag: u64) -> Option<u64> {
        if lag == 0 {
            return Some(0);
        }
        let at = self.lag_times.known(log, from)?.exact()?;
        Some(age_ms(self.clock.wall(), at))
    }

    fn described(&self, state: &State<S::Log>, id: &GroupId, known: &Group) -> DescribedGroup {
        let empty = Membership::default();
        let membership = known.membership.as_ref().unwrap_or(&empty);
        let holders = membership.holders();
        let idle = membership.idle().len();
        let all: BTreeSet<PartitionKey> = membership.all_partitions().collect();
        let unassigned = all.iter().filter(|key| !holders.contains_key(key)).count();
        let members = membership.in_join_order().into_iter();
        let shown = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        DescribedGroup {
            group: id.to_string(),
            state: membership.state(),
            group_epoch: membership.epoch,
            assignment_epoch: membership.assignment_epoch,
            assignor: membership.config.assignor().to_string(),
            leader_id: membership.leader().map(ToString::to_string),
            idle_members: shown(idle),
            unassigned_partitions: shown(unassigned),
            hint: self.hint(state, id, membership, idle),
            configs: configs(state, id.as_str()),
            members: members
                .map(|(of, member)| self.member(state, id, membership, (of, member)))
                .collect(),
            partitions: self.partitions(state, id, known, &all),
            empty_since: membership.empty_since.filter(|_| membership.members.is_empty()),
        }
    }

    fn member(
        &self,
        state: &State<S::Log>,
        group: &GroupId,
        membership: &Membership,
        (id, member): (&MemberId, &Member),
    ) -> MemberDescription {
        let texts =
            |set: &BTreeSet<std::sync::Arc<str>>| set.iter().map(|text| text.as_ref().to_owned()).collect();
        let standing = state.sessions.standing(group, id);
        let overview = state.driver.machine.overview(group.as_str());
        let now = self.clock.mono();
        let heard = standing.map(|standing| now.saturating_sub(standing.heard));
        let heard_ms = heard.map_or(0, |heard| heard.as_millis());
        MemberDescription {
            member_id: id.to_string(),
            instance_id: member.instance.as_ref().map(ToString::to_string),
            client_id: member.client_id.as_ref().to_owned(),
            host: member.host.as_ref().to_owned(),
            subscription: Subscription {
                topics: texts(&member.subscription.topics),
                patterns: texts(&member.subscription.patterns),
            },
            member_epoch: membership.member_epoch(member),
            assigned: self.by_topic(&member.assigned),
            revoking: self.by_topic(&member.revoking),
            role: overview.map_or(MemberRole::Active, |overview| role(membership, overview, id)),
            last_heartbeat_ms: u64::try_from(heard_ms).unwrap_or(u64::MAX),
            is_leader: overview.and_then(Overview::leader) == Some(id),
        }
    }

    /// Subscribed or committed partitions, by topic name and index.
    fn partitions(
        &self,
        state: &State<S::Log>,
        group: &GroupId,
        known: &Group,
        subscribed: &BTreeSet<PartitionKey>,
    ) -> Vec<GroupPartition> {
        let empty = Membership::default();
        let membership = known.membership.as_ref().unwrap_or(&empty);
        let holders = membership.holders();
        let stalled = self.stalled(state, group, membership);
        let durable = self.durable.borrow().lsn;
        let committed: BTreeSet<PartitionKey> = known.offsets.keys().copied().collect();
        let keys = subscribed.union(&committed);
        let shown = keys.filter_map(|key| {
            let handle = self.registry.with_id(key.topic)?;
            let partition = self.registry.partition(*key)?;
            let bounds = partition.log.bounds(durable);
            let committed = known.offsets.get(key).map(|committed| committed.offset);
            let from = committed.map(|offset| offset.max(bounds.log_start));
            let lag = from.map(|from| bounds.high_watermark.since(from));
            let lag_ms = from
                .zip(lag)
                .and_then(|(from, lag)| self.lag_ms(&partition.log, from, lag));
            let holder = holders.get(key).copied();
            let revoking = holder.and_then(|id| membership.members.get(id));
            Some(GroupPartition {
                topic: handle.topic.name.clone(),
                key: *key,
                committed,
                bounds,
                lag,
                lag_ms,
                member_id: holder.map(ToString::to_string),
                is_revoking: revoking.is_some_and(|member| member.revoking.contains_key(key)),
                stalled_ms: stalled.get(key).map(|(_, ms)| *ms),
            })
        });
        let mut shown: Vec<_> = shown.collect();
        shown.sort_by(|a, b| (&a.topic, a.key.partition).cmp(&(&b.topic, b.key.partition)));
        shown
    }

    fn listed(&self, state: &State<S::Log>, id: &GroupId, known: &Group) -> GroupListing {
        let durable = self.durable.borrow().lsn;
        let overview = state.driver.machine.overview(id.as_str());
        let membership = known.membership.as_ref();
        let subscribed = membership
            .into_iter()
            .flat_map(|membership| membership.resolved.keys());
        let topics: BTreeSet<_> = subscribed
            .chain(known.offsets.keys().map(|key| &key.topic))
            .collect();
        let lags = known.offsets.iter().filter_map(|(key, committed)| {
            let bounds = self.registry.partition(*key)?.log.bounds(durable);
            let from: Offset = committed.offset.max(bounds.log_start);
            Some(bounds.high_watermark.since(from))
        });
        GroupListing {
            group: id.to_string(),
            state: overview.map_or(GroupState::Empty, Overview::state),
            members: u32::try_from(membership.map_or(0, |m| m.members.len())).unwrap_or(u32::MAX),
            topics: u32::try_from(topics.len()).unwrap_or(u32::MAX),
            lag: lags.fold(0, u64::saturating_add),
        }
    }
}

/// Whether there is something to process whose age is not known yet.
fn is_undated(at: &GroupPartition) -> bool {
    at.lag.is_some_and(|lag| lag > 0) && at.lag_ms.is_none()
}

/// A position that stands still: whose, and for how many ms.
type Stalled<'a> = BTreeMap<PartitionKey, (&'a MemberId, u64)>;

impl<S: LogStore> Groups<S> {
    /// The positions of a group that stand still for too long.
    fn stalled<'a>(&self, state: &State<S::Log>, group: &GroupId, membership: &'a Membership) -> Stalled<'a> {
        let now = self.clock.mono();
        let of = |id: &'a MemberId| {
            let stalled = state.sessions.stalled(group, id);
            stalled.map(move |(key, since)| {
                let ms = now.saturating_sub(since).as_millis();
                (key, (id, u64::try_from(ms).unwrap_or(u64::MAX)))
            })
        };
        membership.members.keys().flat_map(of).collect()
    }

    /// What to do about it, in words.
    fn hint(&self, state: &State<S::Log>, group: &GroupId, membership: &Membership, idle: usize) -> String {
        if membership.state() == GroupState::Stable
            && let Some((key, (member, ms))) = self.stalled(state, group, membership).first_key_value()
        {
            let topic = self.topic_name(key.topic).map(|name| name.to_string());
            let place = format!("{}/{}", topic.unwrap_or_default(), key.partition);
            let seconds = ms / 1_000;
            return format!(
                "member {member} lives, but has not got on in {place} for {seconds} s although there are records: look at what it is doing"
            );
        }
        hint(membership, idle)
    }
}

/// What to do about it, in words.
fn hint(membership: &Membership, idle: usize) -> String {
    let (members, partitions) = (membership.members.len(), membership.partitions());
    match membership.state() {
        GroupState::Assigning => {
            "the leader is to propose an assignment; after proposal.timeout.ms the broker assigns".to_owned()
        }
        GroupState::Reconciling => {
            let slow = membership
                .members
                .iter()
                .filter(|(_, member)| !member.revoking.is_empty());
            let slow: Vec<_> = slow.map(|(id, _)| id.to_string()).collect();
            format!("waiting until {} has released what is revoked", slow.join(", "))
        }
        GroupState::Empty | GroupState::Stable if idle > 0 => format!(
            "{idle} of {members} members are idle: the subscribed topics have {partitions} partitions; add partitions, or run fewer members"
        ),
        GroupState::Empty | GroupState::Stable => String::new(),
    }
}
