//! Members: they join, say that they live, release, leave, are removed; and who of them may do what.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::GroupError;
use super::machine::Limits;
use super::state::{Held, Member, Membership, Subscription, Topics};
use crate::model::{GLOB_BYTES_MAX, InstanceId, MemberId, PartitionKey, TopicId, TopicName};

/// A member joins, lives on, tells what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The group; not checked yet.
    pub group: String,
    /// Who.
    pub member: MemberRef,
    /// Its own words.
    pub client_id: String,
    /// Address that it comes from.
    pub host: String,
    /// What it wants to read; `None`: as before.
    pub subscription: Option<Subscription>,
    /// Revision of the newest answer that it has heard; 0: none.
    pub revision: u64,
    /// All that it holds; `None`: no news. Partitions that do not exist are left out.
    pub owned: Option<BTreeSet<PartitionKey>>,
}

/// Who asks, as a member; not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRef {
    /// Its id.
    pub member: String,
    /// Its epoch, as it was told last; 0: it joins.
    pub epoch: u32,
    /// Its name, if it is static.
    pub instance: Option<String>,
}

/// Longest words of a client about itself, in bytes.
pub const CLIENT_ID_BYTES_MAX: usize = 256;

/// Longest address of a member, in bytes; what is longer is cut.
const HOST_BYTES_MAX: usize = 64;

/// Topics named in a subscription, at most.
pub const SUBSCRIBED_TOPICS_MAX: usize = 1_000;

/// Patterns of a subscription, at most.
pub const PATTERNS_MAX: usize = 100;

/// Patterns of all members of a group, at most, those that subscribe alike counted once: all of them are held against the name of
/// every topic whenever the group changes.
pub const PATTERNS_PER_GROUP_MAX: usize = 1_000;

impl Membership {
    /// The member that asks, whatever its epoch.
    ///
    /// # Errors
    /// [`GroupError::FencedInstance`] if another member has its instance id, [`GroupError::UnknownMember`] if it is none.
    pub fn known(&self, asked: &MemberRef) -> Result<(&MemberId, &Member), GroupError> {
        let known = self.members.get_key_value(asked.member.as_str());
        // An instance id belongs to one member at most: who has it need not be looked for.
        let has_it =
            |member: &Member| member.instance.as_ref().map(InstanceId::as_str) == asked.instance.as_deref();
        if let Some(instance) = &asked.instance
            && !known.is_some_and(|(_, member)| has_it(member))
            && let Some(holder) = self.instance(instance)
            && holder.as_str() != asked.member
        {
            return Err(GroupError::FencedInstance {
                instance: instance.clone(),
            });
        }
        known.ok_or_else(|| GroupError::UnknownMember {
            member: asked.member.clone(),
        })
    }

    /// The member that asks, if it is in the epoch that it says (OF1, EP9).
    ///
    /// # Errors
    /// Those of [`known`](Self::known), [`GroupError::StaleEpoch`] behind its epoch, [`GroupError::FencedEpoch`] ahead of it.
    pub fn current(&self, asked: &MemberRef) -> Result<(&MemberId, &Member), GroupError> {
        let (id, member) = self.known(asked)?;
        let current = self.member_epoch(member);
        match asked.epoch.cmp(&current) {
            std::cmp::Ordering::Equal => Ok((id, member)),
            std::cmp::Ordering::Less => Err(GroupError::StaleEpoch {
                current,
                got: asked.epoch,
            }),
            std::cmp::Ordering::Greater => Err(GroupError::FencedEpoch {
                current,
                got: asked.epoch,
            }),
        }
    }

    /// The member that asks, unless it is ahead of its epoch.
    ///
    /// # Errors
    /// Those of [`known`](Self::known), [`GroupError::FencedEpoch`] ahead of its epoch.
    pub fn not_ahead(&self, asked: &MemberRef) -> Result<(&MemberId, &Member), GroupError> {
        match self.current(asked) {
            Err(GroupError::StaleEpoch { .. }) => self.known(asked),
            other => other,
        }
    }

    /// Whether a member may read a partition: it holds it, is not to release it, and knows so. An epoch that is behind does no
    /// harm to a partition that has not moved since: partitions that stay never pause.
    ///
    /// # Errors
    /// Those of [`known`](Self::known), [`GroupError::StaleEpoch`] if a heartbeat will tell what has changed,
    /// [`GroupError::FencedEpoch`] ahead of its epoch.
    pub fn check_fetch(&self, asked: &MemberRef, key: PartitionKey) -> Result<(), GroupError> {
        let (_, member) = self.known(asked)?;
        let current = self.member_epoch(member);
        let got = asked.epoch;
        if got > current {
            return Err(GroupError::FencedEpoch { current, got });
        }
        match member.assigned.get(&key) {
            Some(since) if *since <= got => Ok(()),
            Some(_) | None => Err(GroupError::StaleEpoch { current, got }),
        }
    }

    /// What a heartbeat brings about: nothing for most of them. `revoked`: the revision that told the member of the newest
    /// partition that it is to release.
    pub(super) fn beat(
        &mut self,
        heartbeat: &Heartbeat,
        revoked: u64,
        topics: &Topics,
        limits: &Limits,
    ) -> Result<(), GroupError> {
        let subscription = heartbeat.subscription.as_ref();
        subscription.map(check_subscription).transpose()?;
        if self.must_join(&heartbeat.member)? {
            return self.join(heartbeat, topics, limits);
        }
        let (id, member) = self.known(&heartbeat.member)?;
        let id = id.clone();
        let released = self.released(member, heartbeat, revoked)?;
        let news = subscription.filter(|news| *news != member.subscription.as_ref());
        let news = news.cloned();
        if let Some(news) = &news {
            self.check_patterns(Some(&id), news)?;
        }
        let is_other = news.is_some();
        if let Some(member) = self.members.get_mut(&id) {
            member.revoking.retain(|key, _| !released.contains(key));
            if let Some(subscription) = news {
                member.topics = Arc::new(topics.resolve(&subscription));
                member.subscription = Arc::new(subscription);
            }
        }
        if self.recount(topics) || is_other {
            self.advance();
        }
        self.settle();
        Ok(())
    }

    /// Whether a heartbeat changes nothing. Most are so, and must cost little.
    pub(super) fn is_quiet(&self, heartbeat: &Heartbeat, revoked: u64) -> Result<bool, GroupError> {
        if self.must_join(&heartbeat.member)? {
            return Ok(false);
        }
        let (_, member) = self.known(&heartbeat.member)?;
        let subscription = heartbeat.subscription.as_ref();
        let same = subscription.is_none_or(|news| *news == *member.subscription);
        Ok(same && self.released(member, heartbeat, revoked)?.is_empty())
    }

    /// Whether this is somebody new, or a static member that comes back.
    fn must_join(&self, asked: &MemberRef) -> Result<bool, GroupError> {
        if self.members.contains_key(asked.member.as_str()) {
            return Ok(false);
        }
        if asked.epoch == 0 {
            return Ok(true);
        }
        self.known(asked).map(|_| false)
    }

    /// What the member says that it does not hold any more, of what it is to release (EP5). Words from an older epoch
    /// release nothing, and neither do words of a client that has not heard revision `revoked`: they may be late, from
    /// before it was given the partition that it now holds, and reads.
    fn released(
        &self,
        member: &Member,
        heartbeat: &Heartbeat,
        revoked: u64,
    ) -> Result<Vec<PartitionKey>, GroupError> {
        let current = self.member_epoch(member);
        let got = heartbeat.member.epoch;
        if got > current {
            return Err(GroupError::FencedEpoch { current, got });
        }
        let Some(owned) = &heartbeat.owned else {
            return Ok(Vec::new());
        };
        // EP8: who thinks that it holds what it does not has lost it to somebody else. Epoch 0 says nothing yet.
        if got > 0 && !owned.iter().all(|key| member.holds(*key)) {
            return Err(GroupError::FencedEpoch { current, got });
        }
        if got < current || heartbeat.revision < revoked {
            return Ok(Vec::new());
        }
        let released = member.revoking.keys().filter(|key| !owned.contains(key));
        Ok(released.copied().collect())
    }

    fn join(&mut self, heartbeat: &Heartbeat, topics: &Topics, limits: &Limits) -> Result<(), GroupError> {
        let id: MemberId = heartbeat.member.member.parse().map_err(GroupError::MemberId)?;
        let instance = heartbeat.member.instance.as_deref();
        let instance: Option<InstanceId> = instance
            .map(str::parse)
            .transpose()
            .map_err(GroupError::InstanceId)?;
        let Some(subscription) = heartbeat.subscription.clone() else {
            return Err(GroupError::NoSubscription);
        };
        let bytes = heartbeat.client_id.len();
        if bytes > CLIENT_ID_BYTES_MAX {
            return Err(GroupError::ClientIdTooLong { bytes });
        }
        let before = instance
            .as_ref()
            .and_then(|instance| self.instance(instance.as_str()));
        let before = before.cloned();
        self.check_patterns(before.as_ref(), &subscription)?;
        let max = limits.members_per_group_max;
        if before.is_none() && self.members.len() >= max {
            return Err(GroupError::GroupFull { max });
        }
        let (subscription, means) = self.subscribed(subscription, topics);
        let member = Member {
            join: self.next_join,
            instance,
            client_id: heartbeat.client_id.as_str().into(),
            host: cut(&heartbeat.host, HOST_BYTES_MAX).into(),
            topics: means,
            subscription,
            assigned: Held::new(),
            revoking: Held::new(),
            held_epoch: 0,
        };
        let is_other = match before {
            Some(before) => self.take_over(&before, id, member),
            None => {
                self.next_join = self.next_join.saturating_add(1);
                self.members.insert(id, member);
                true
            }
        };
        if self.recount(topics) || is_other {
            self.advance();
        }
        self.settle();
        Ok(())
    }

    /// A subscription and what it means, in the memory of a member that wants the same, if there is one.
    fn subscribed(
        &self,
        subscription: Subscription,
        topics: &Topics,
    ) -> (Arc<Subscription>, Arc<BTreeSet<TopicId>>) {
        let means = topics.resolve(&subscription);
        let mut members = self.members.values();
        let alike = members.find(|member| *member.topics == means && *member.subscription == subscription);
        match alike {
            Some(member) => (Arc::clone(&member.subscription), Arc::clone(&member.topics)),
            None => (Arc::new(subscription), Arc::new(means)),
        }
    }

    /// Whether there is room for the patterns of a subscription in place of that of a member.
    fn check_patterns(&self, instead_of: Option<&MemberId>, news: &Subscription) -> Result<(), GroupError> {
        if news.patterns.is_empty() {
            return Ok(());
        }
        let others = self.members.iter().filter(|(id, _)| Some(*id) != instead_of);
        let mut all: BTreeSet<&Subscription> = others.map(|(_, member)| &*member.subscription).collect();
        let max = PATTERNS_PER_GROUP_MAX;
        let would_be = match all.insert(news) {
            true => all.iter().map(|subscription| subscription.patterns.len()).sum(),
            // Somebody pays for the same already.
            false => 0,
        };
        if would_be > max {
            return Err(GroupError::TooManyPatterns { would_be, max });
        }
        Ok(())
    }

    /// ST1, LE3: the new incarnation of a static member is what the old one was, without another epoch; unless it wants to
    /// read something else: true.
    fn take_over(&mut self, before: &MemberId, id: MemberId, mut member: Member) -> bool {
        let Some(old) = self.members.remove(before) else {
            return false;
        };
        let is_other = old.subscription != member.subscription;
        member.join = old.join;
        member.assigned = old.assigned;
        member.revoking = old.revoking;
        member.held_epoch = old.held_epoch;
        if !is_other {
            member.topics = old.topics;
        }
        for holder in self.target.values_mut().filter(|holder| *holder == before) {
            *holder = id.clone();
        }
        self.members.insert(id, member);
        is_other
    }

    /// A member is gone, whatever it held.
    pub(super) fn remove(&mut self, id: &str, topics: &Topics) {
        if self.members.remove(id).is_some() {
            self.recount(topics);
            self.advance();
            self.settle();
        }
    }
}

/// Whether a subscription can be one, whatever topics there are.
fn check_subscription(subscription: &Subscription) -> Result<(), GroupError> {
    let (topics, patterns) = (subscription.topics.len(), subscription.patterns.len());
    if topics + patterns == 0 {
        return Err(GroupError::NoSubscription);
    }
    if topics > SUBSCRIBED_TOPICS_MAX || patterns > PATTERNS_MAX {
        return Err(GroupError::SubscriptionTooLarge { topics, patterns });
    }
    for name in &subscription.topics {
        TopicName::for_user(name).map_err(GroupError::TopicName)?;
    }
    let bad = |pattern: &&Arc<str>| pattern.is_empty() || pattern.len() > GLOB_BYTES_MAX;
    match subscription.patterns.iter().find(bad) {
        Some(pattern) => Err(GroupError::Pattern { bytes: pattern.len() }),
        None => Ok(()),
    }
}

/// The beginning of a text, at most so many bytes of it.
fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}
