//! The machine: what can be asked, what is answered, and what there is. Decisions about members and commits have files of their
//! own.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::change::GroupChange;
use super::error::GroupError;
use super::members::{Heartbeat, MemberRef};
use super::record::GroupRecord;
use super::state::{Held, Member, Membership, Topics};
use super::step::{StepCommand, StepIndex, Steppers, Taken};
use crate::machine::{Effects, StateMachine};
use crate::model::{GroupId, GroupState, LeaderEpoch, MemberId, Offset, PartitionKey, Timestamp, TopicId};

/// What a committed offset is counted as beside its metadata, in bytes of state: about what it takes in memory.
pub const OFFSET_STATE_BYTES: u64 = 96;

/// How much of everything there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Groups.
    pub groups_max: usize,
    /// Committed offsets of one group.
    pub offsets_per_group_max: usize,
    /// Metadata of one committed offset, in bytes.
    pub metadata_bytes_max: usize,
    /// Offsets of all groups with their metadata, and members with what they subscribe to and hold, in bytes, counted as
    /// [`OFFSET_STATE_BYTES`] and its like. The whole state is written with every checkpoint.
    pub state_bytes_max: u64,
    /// Members of one group. Every join and leave looks at all of them.
    pub members_per_group_max: usize,
    /// Members of all groups.
    pub members_max: usize,
    /// Producers whose steps are remembered, of all groups; beyond, the one that has not stepped for longest is forgotten.
    pub step_producers_max: usize,
    /// What is remembered of steps, of all groups, in bytes, counted as [`STEP_STATE_BYTES`](super::STEP_STATE_BYTES) and
    /// its like; beyond, as for the number of producers.
    pub step_state_bytes_max: u64,
    /// A producer is forgotten so many ms after its last step.
    pub step_idle_ms_max: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            groups_max: 10_000,
            offsets_per_group_max: 20_000,
            metadata_bytes_max: 4_096,
            state_bytes_max: 64 << 20,
            members_per_group_max: 1_000,
            members_max: 50_000,
            step_producers_max: 10_000,
            step_state_bytes_max: 16 << 20,
            step_idle_ms_max: super::step::STEP_IDLE_MS_MAX,
        }
    }
}

/// How far a group is in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Offset of the next record that the group wants.
    pub offset: Offset,
    /// Epoch of the last record that it processed, if it told.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Its own words.
    pub metadata: Arc<str>,
    /// When it was committed, by the broker's clock.
    pub committed: Timestamp,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Keep these offsets.
    CommitOffsets(CommitOffsets),
    /// Forget everything about a topic, which is being deleted.
    DeleteTopic(TopicId),
    /// A member joins, lives on, tells what it holds.
    Heartbeat(Heartbeat),
    /// A member commits a last time and leaves.
    Close(Close),
    /// A member is gone: its session has ended, or an operator wants it so.
    Remove {
        /// The group.
        group: GroupId,
        /// The member.
        member: MemberId,
    },
    /// What subscriptions mean may have changed.
    Refresh {
        /// The group.
        group: GroupId,
    },
    /// The leader proposes an assignment.
    Propose(Propose),
    /// The leader has not proposed in time, or nothing that could be taken.
    Fallback {
        /// The group.
        group: GroupId,
        /// The epoch that the proposal was wanted for.
        epoch: u32,
    },
    /// Makes a group, or changes its settings.
    Configure(Configure),
    /// Removes a group without members.
    Delete {
        /// The group; not checked yet.
        group: String,
    },
    /// Forgets the committed offsets of a group that are kept for long enough without a member (OF3).
    ExpireOffsets {
        /// The group.
        group: GroupId,
    },
    /// A producer appends and commits in one.
    Step(StepCommand),
}

/// A member commits a last time and leaves: all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The group; not checked yet.
    pub group: String,
    /// Who.
    pub member: MemberRef,
    /// Where it is; may be empty.
    pub offsets: Vec<(PartitionKey, CommittedOffset)>,
}

/// An assignment by the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Propose {
    /// The group; not checked yet.
    pub group: String,
    /// The leader.
    pub member: MemberRef,
    /// The epoch that it is for.
    pub epoch: u32,
    /// Member ids and what each is to hold; empty: the leader leaves it to the broker, at once.
    pub assignments: Vec<(String, Vec<PartitionKey>)>,
}

/// Makes a group, or changes its settings: all of them or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configure {
    /// The group; not checked yet.
    pub group: String,
    /// Whether it is made if there is none; if there is one, it is left as it is.
    pub create: bool,
    /// Names and values of settings; `None`: the default again.
    pub entries: Vec<(String, Option<String>)>,
}

/// Offsets to be kept, all of them or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOffsets {
    /// The group; not checked yet.
    pub group: String,
    /// Who says so; `None`: a consumer that assigns itself.
    pub member: Option<MemberRef>,
    /// Where it is; the time of the commit is filled in.
    pub offsets: Vec<(PartitionKey, CommittedOffset)>,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To [`Command::CommitOffsets`]: the time of the commit.
    Committed(Timestamp),
    /// To [`Command::DeleteTopic`].
    TopicDeleted,
    /// To [`Command::Heartbeat`]: [`Machine::membership`] says what the member is to know.
    Alive {
        /// The group.
        group: GroupId,
        /// The member.
        member: MemberId,
    },
    /// To [`Command::Close`].
    Closed {
        /// When.
        at: Timestamp,
        /// False: it is a static member, and its place is kept until its session ends.
        left: bool,
    },
    /// To commands that have nothing to say but that they were carried out, or that there was nothing to do.
    Done,
    /// To [`Command::Configure`].
    Configured {
        /// Whether something is different now.
        changed: bool,
    },
    /// To [`Command::Step`]. Without records it had been taken before.
    Stepped(Taken),
    /// To any of them: nothing has happened.
    Refused(GroupError),
}

/// The committed offsets of one group.
pub type Offsets = BTreeMap<PartitionKey, CommittedOffset>;

/// A group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its members; `None`: it has never had one, nor settings. If it has had one, it stays until it is deleted.
    pub membership: Option<Membership>,
    /// How far it is.
    pub offsets: Offsets,
    /// Producers that have stepped here.
    pub steppers: Steppers,
}

impl Group {
    /// Whether nothing is left of it.
    pub(super) fn is_empty(&self) -> bool {
        self.membership.is_none() && self.offsets.is_empty() && self.steppers.is_empty()
    }
}

/// What a member was told last, as far as it shows in an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shown {
    revision: u64,
    epoch: u32,
    leader: Option<MemberId>,
    idle_rank: Option<usize>,
    /// Fingerprint of what it holds.
    holds: u64,
    /// What it is to release.
    revoking: Held,
    /// The revision that told it of the newest of these.
    revoked: u64,
    wanted: Option<u32>,
}

impl Shown {
    /// Whether this is what it shows, whenever it was told.
    fn shows(&self, now: &Self) -> bool {
        self.epoch == now.epoch
            && self.leader == now.leader
            && self.idle_rank == now.idle_rank
            && self.holds == now.holds
            && self.revoking == now.revoking
            && self.wanted == now.wanted
    }

    fn after(self, before: Option<&Self>, revision: u64) -> Self {
        let told = before.filter(|known| self.revoking.keys().all(|key| known.revoking.contains_key(key)));
        Self {
            revision,
            revoked: told.map_or(revision, |known| known.revoked),
            ..self
        }
    }
}

/// What follows from a group as it is. Every member is told it after every change, so it is worked out once.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    leader: Option<MemberId>,
    state: GroupState,
    idle_members: usize,
    members: BTreeMap<MemberId, Shown>,
}

impl Overview {
    /// As [`Membership::leader`].
    pub fn leader(&self) -> Option<&MemberId> {
        self.leader.as_ref()
    }

    /// As [`Membership::state`].
    pub fn state(&self) -> GroupState {
        self.state
    }

    /// How many members [`Membership::idle`] has.
    pub fn idle_members(&self) -> usize {
        self.idle_members
    }

    /// The place of a member among those of [`Membership::idle`], from 0; `None`: it is not idle.
    pub fn idle_rank(&self, member: &str) -> Option<usize> {
        self.members.get(member)?.idle_rank
    }
}

/// All groups.
// Invariants: no group is empty; `state_bytes` counts every offset and membership, `members` every member that is there,
// `steps` every producer that has stepped.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(super) limits: Limits,
    pub(super) groups: BTreeMap<GroupId, Group>,
    pub(super) state_bytes: u64,
    members: usize,
    pub(super) steps: StepIndex,
    /// What there is to subscribe to. Soft.
    topics: Topics,
    /// What members were told, and what follows from the group as it is. Soft.
    shown: BTreeMap<GroupId, Overview>,
    /// The newest revision. Soft.
    revision: u64,
    /// Whose revision has changed since it was asked last. Soft.
    changed: BTreeSet<(GroupId, MemberId)>,
}

impl Machine {
    /// No groups.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            groups: BTreeMap::new(),
            state_bytes: 0,
            members: 0,
            steps: StepIndex::default(),
            topics: Topics::default(),
            shown: BTreeMap::new(),
            revision: 0,
            changed: BTreeSet::new(),
        }
    }

    /// The broker has started, in this epoch. Revisions of earlier runs are never those of this one.
    pub fn begin(&mut self, leader_epoch: LeaderEpoch) {
        let epoch = u64::try_from(leader_epoch.0).unwrap_or_default();
        self.revision = epoch << 32;
        self.shown.clear();
        let groups: Vec<_> = self.groups.keys().cloned().collect();
        for group in groups {
            self.show(&group);
        }
        self.changed.clear();
    }

    /// From now on there may be so much. What there is more than that stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// What there is to subscribe to. Whoever changes it has every group of [`affected`](Self::affected) refreshed.
    pub fn topics_mut(&mut self) -> &mut Topics {
        &mut self.topics
    }

    /// What there is to subscribe to.
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// Groups whose subscriptions mean something else than what they were resolved to, for what has changed of the topics.
    pub fn affected(&self) -> Vec<GroupId> {
        let groups = self.groups.iter();
        let mut known = BTreeMap::new();
        let affected = groups.filter(|(_, group)| {
            let membership = group.membership.as_ref();
            membership.is_some_and(|membership| membership.is_affected(&self.topics, &mut known))
        });
        affected.map(|(id, _)| id.clone()).collect()
    }

    /// How far a group is in a partition; `None`: it never committed there.
    pub fn offset(&self, group: &str, key: PartitionKey) -> Option<&CommittedOffset> {
        self.groups.get(group)?.offsets.get(&key)
    }

    /// Everything that a group has committed, by topic id and partition.
    pub fn offsets(&self, group: &str) -> impl Iterator<Item = (PartitionKey, &CommittedOffset)> {
        let offsets = self
            .groups
            .get(group)
            .into_iter()
            .flat_map(|group| &group.offsets);
        offsets.map(|(key, committed)| (*key, committed))
    }

    /// All groups, in the order of their ids.
    pub fn groups(&self) -> impl Iterator<Item = (&GroupId, &Group)> {
        self.groups.iter()
    }

    /// The groups behind this name, in the order of their ids.
    pub fn groups_after(&self, name: &str) -> impl Iterator<Item = (&GroupId, &Group)> {
        use std::ops::Bound;
        let range = (Bound::Excluded(name), Bound::Unbounded);
        self.groups.range::<str, _>(range)
    }

    /// A group.
    pub fn group(&self, group: &str) -> Option<(&GroupId, &Group)> {
        self.groups.get_key_value(group)
    }

    /// The members of a group.
    pub fn membership(&self, group: &str) -> Option<&Membership> {
        self.groups.get(group)?.membership.as_ref()
    }

    /// Members of all groups.
    pub fn members(&self) -> usize {
        self.members
    }

    /// Number of what a member is to know now: as long as it is the same, there is nothing new to tell. `None`: no member.
    pub fn revision(&self, group: &str, member: &str) -> Option<u64> {
        Some(self.shown.get(group)?.members.get(member)?.revision)
    }

    /// The revision that told a member of the newest partition that it is to release. What was said before that one was heard
    /// says nothing about it.
    pub fn revoked(&self, group: &str, member: &str) -> u64 {
        let shown = self.shown.get(group).and_then(|group| group.members.get(member));
        shown.map_or(0, |shown| shown.revoked)
    }

    /// What follows from a group as it is, without looking at all of its members again. `None`: it has no members.
    pub fn overview(&self, group: &str) -> Option<&Overview> {
        self.shown.get(group)
    }

    /// The members whose revision has changed since this was asked last.
    pub fn take_changed(&mut self) -> BTreeSet<(GroupId, MemberId)> {
        std::mem::take(&mut self.changed)
    }

    /// Whether a member may read a partition.
    ///
    /// # Errors
    /// Those of [`Membership::check_fetch`]; a group without members knows none.
    pub fn check_fetch(&self, group: &str, asked: &MemberRef, key: PartitionKey) -> Result<(), GroupError> {
        self.members_of(group, asked)?.check_fetch(asked, key)
    }

    /// Bytes of state as [`Limits::state_bytes_max`] counts them.
    pub fn state_bytes(&self) -> u64 {
        self.state_bytes
    }

    /// The members of a group that has ever had one.
    pub(super) fn members_of(&self, group: &str, asked: &MemberRef) -> Result<&Membership, GroupError> {
        self.membership(group).ok_or_else(|| GroupError::UnknownMember {
            member: asked.member.clone(),
        })
    }

    fn change(&mut self, group: &GroupId, change: &GroupChange) {
        let known = self.groups.entry(group.clone()).or_default();
        let was_there = known.membership.is_some();
        let membership = known.membership.get_or_insert_default();
        let (before, bytes) = (membership.members.len(), membership.state_bytes());
        // A group that was not there is counted from nothing.
        let bytes = if was_there { bytes } else { 0 };
        change.apply_to(membership);
        self.members = (self.members + membership.members.len()).saturating_sub(before);
        self.state_bytes = (self.state_bytes + membership.state_bytes()).saturating_sub(bytes);
        self.show(group);
    }

    fn delete(&mut self, group: &GroupId) {
        let Some(known) = self.groups.remove(group) else {
            return;
        };
        let offsets: u64 = known.offsets.values().map(super::commits::state_bytes).sum();
        let membership = known.membership.as_ref();
        let freed = offsets + membership.map_or(0, Membership::state_bytes);
        self.state_bytes = self.state_bytes.saturating_sub(freed);
        let members = membership.map_or(0, |membership| membership.members.len());
        self.members = self.members.saturating_sub(members);
        for (producer, stepper) in &known.steppers {
            self.steps.remove(group, *producer, stepper);
        }
        self.show(group);
    }

    /// Looks who is to be told something new.
    pub(super) fn show(&mut self, group: &GroupId) {
        let before = self.shown.remove(group).unwrap_or_default().members;
        let membership = self.groups.get(group).and_then(|group| group.membership.as_ref());
        let Some(membership) = membership.filter(|membership| !membership.members.is_empty()) else {
            let gone = before.into_keys().map(|member| (group.clone(), member));
            self.changed.extend(gone);
            return;
        };
        let leader = membership.leader().cloned();
        let idle = membership.idle();
        let idle_members = idle.len();
        let ranks: BTreeMap<&MemberId, usize> = idle.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        let wanted = (membership.assignment_epoch < membership.epoch).then_some(membership.epoch);
        let mut shown = BTreeMap::new();
        for (id, member) in &membership.members {
            let epoch = membership.member_epoch(member);
            let now = Shown {
                revision: 0,
                epoch,
                leader: leader.clone(),
                idle_rank: ranks.get(id).copied(),
                holds: fingerprint(member),
                revoking: member.revoking.clone(),
                revoked: 0,
                wanted: wanted.filter(|_| leader.as_ref() == Some(id)),
            };
            let known = before.get(id);
            let now = if let Some(known) = known.filter(|known| known.shows(&now)) {
                known.clone()
            } else {
                self.revision += 1;
                self.changed.insert((group.clone(), id.clone()));
                now.after(known, self.revision)
            };
            shown.insert(id.clone(), now);
        }
        let gone = before.into_keys().filter(|id| !shown.contains_key(id));
        self.changed.extend(gone.map(|id| (group.clone(), id)));
        let overview = Overview {
            leader,
            state: membership.state(),
            idle_members,
            members: shown,
        };
        self.shown.insert(group.clone(), overview);
    }

    fn decide(&self, now: Timestamp, command: Command) -> Result<Effects<GroupRecord, Reply>, GroupError> {
        match command {
            Command::CommitOffsets(commit) => self.commit(now, commit),
            Command::DeleteTopic(topic) => Ok(self.delete_topic(topic)),
            Command::Heartbeat(heartbeat) => self.heartbeat(now, &heartbeat),
            Command::Close(close) => self.close(now, close),
            Command::Remove { group, member } => {
                Ok(self.draft(now, &group, |draft| draft.remove(member.as_str(), &self.topics)))
            }
            Command::Refresh { group } => Ok(self.draft(now, &group, |draft| {
                if draft.refresh(&self.topics) {
                    draft.advance();
                    draft.settle();
                }
            })),
            Command::Propose(propose) => self.propose(&propose),
            Command::Fallback { group, epoch } => Ok(self.draft(now, &group, |draft| {
                if draft.epoch == epoch && draft.assignment_epoch < epoch {
                    draft.settle_on(draft.best());
                }
            })),
            Command::Configure(configure) => self.configure(now, &configure),
            Command::Delete { group } => self.delete_group(&group),
            Command::ExpireOffsets { group } => Ok(self.expire_offsets(now, group)),
            Command::Step(step) => self.step(now, step),
        }
    }

    /// Changes the membership of a group that is there, if it changes.
    fn draft(
        &self,
        now: Timestamp,
        group: &GroupId,
        change: impl FnOnce(&mut Membership),
    ) -> Effects<GroupRecord, Reply> {
        let records = self.membership(group.as_str()).and_then(|before| {
            let mut draft = before.clone();
            change(&mut draft);
            draft.note_emptiness(now);
            GroupRecord::changed(group, before, &draft)
        });
        Effects {
            records: records.into_iter().collect(),
            reply: Reply::Done,
        }
    }

    fn heartbeat(
        &self,
        now: Timestamp,
        heartbeat: &Heartbeat,
    ) -> Result<Effects<GroupRecord, Reply>, GroupError> {
        let group: GroupId = heartbeat.group.parse()?;
        let known = self.membership(group.as_str());
        let mut records = Vec::new();
        let revoked = self.revoked(group.as_str(), &heartbeat.member.member);
        if !known.map_or(Ok(false), |known| known.is_quiet(heartbeat, revoked))? {
            let empty = Membership::default();
            let before = known.unwrap_or(&empty);
            let mut draft = before.clone();
            draft.beat(heartbeat, revoked, &self.topics, &self.limits)?;
            draft.note_emptiness(now);
            self.check_members(before, &draft)?;
            records.extend(self.room_for(&group)?);
            records.extend(GroupRecord::changed(&group, before, &draft));
        }
        let member = heartbeat.member.member.parse().map_err(GroupError::MemberId)?;
        Ok(Effects {
            records,
            reply: Reply::Alive { group, member },
        })
    }

    /// Limits hold back what grows.
    fn check_members(&self, before: &Membership, after: &Membership) -> Result<(), GroupError> {
        let (freed, added) = (before.state_bytes(), after.state_bytes());
        let would_be = (self.state_bytes + added).saturating_sub(freed);
        let max = self.limits.state_bytes_max;
        if would_be > max && added > freed {
            return Err(GroupError::StateFull { would_be, max });
        }
        if after.members.len() <= before.members.len() {
            return Ok(());
        }
        let max = self.limits.members_max;
        if self.members >= max {
            return Err(GroupError::TooManyMembers { max });
        }
        Ok(())
    }

    /// Room for a group, if it is a new one: where there is none, the group goes that has been without members for longest and has
    /// nothing else to remember. Whoever tries out a name leaves such a group behind, and nobody deletes it.
    pub(super) fn room_for(&self, group: &GroupId) -> Result<Option<GroupRecord>, GroupError> {
        let max = self.limits.groups_max;
        if self.groups.contains_key(group) || self.groups.len() < max {
            return Ok(None);
        }
        let empty = self.groups.iter().filter_map(|(id, known)| {
            let membership = known.membership.as_ref()?;
            let is_left = known.offsets.is_empty() && known.steppers.is_empty();
            (is_left && membership.is_left_behind()).then_some((membership.empty_since, id))
        });
        // One that goes is not enough if the limit was lowered.
        let oldest = empty.min().filter(|_| self.groups.len() == max);
        let oldest = oldest.ok_or(GroupError::TooManyGroups { max })?;
        Ok(Some(GroupRecord::Deleted(oldest.1.clone())))
    }

    /// EP11, bug 27: the last commit and the leave are one.
    fn close(&self, now: Timestamp, close: Close) -> Result<Effects<GroupRecord, Reply>, GroupError> {
        let membership = self.members_of(&close.group, &close.member)?;
        let (id, member) = membership.not_ahead(&close.member)?;
        let mut records = Vec::new();
        if !close.offsets.is_empty() {
            let commit = CommitOffsets {
                group: close.group.clone(),
                member: Some(close.member.clone()),
                offsets: close.offsets,
            };
            records = self.commit(now, commit)?.records;
        }
        // ST6: a static member will be back.
        let left = member.instance.is_none();
        if left {
            let mut draft = membership.clone();
            draft.remove(id.as_str(), &self.topics);
            draft.note_emptiness(now);
            let group: GroupId = close.group.parse()?;
            records.extend(GroupRecord::changed(&group, membership, &draft));
        }
        Ok(Effects {
            records,
            reply: Reply::Closed { at: now, left },
        })
    }

    fn configure(
        &self,
        now: Timestamp,
        configure: &Configure,
    ) -> Result<Effects<GroupRecord, Reply>, GroupError> {
        let group: GroupId = configure.group.parse()?;
        let known = self.groups.get(&group);
        match (known, configure.create) {
            (Some(_), true) => {
                return Ok(Effects {
                    records: Vec::new(),
                    reply: Reply::Configured { changed: false },
                });
            }
            (None, false) => {
                return Err(GroupError::UnknownGroup {
                    group: configure.group.clone(),
                });
            }
            (None, true) | (Some(_), false) => {}
        }
        let room = self.room_for(&group)?;
        let before = known.and_then(|known| known.membership.clone());
        let mut draft = before.clone().unwrap_or_default();
        for (name, value) in &configure.entries {
            draft.config.set(name, value.as_deref())?;
        }
        draft.config.check()?;
        draft.note_emptiness(now);
        let before_or_empty = before.clone().unwrap_or_default();
        if draft.config.assignor() != before_or_empty.config.assignor() && !draft.members.is_empty() {
            draft.advance();
            draft.settle();
        }
        let mut change = GroupChange::between(&before_or_empty, &draft);
        if before.is_none() {
            // That there is a group at all is a change.
            change = change.or_else(|| Some(GroupChange::default()));
        }
        let is_changed = change.is_some();
        let record = |change| GroupRecord::Changed {
            group,
            change: Box::new(change),
        };
        Ok(Effects {
            records: room.into_iter().chain(change.map(record)).collect(),
            reply: Reply::Configured { changed: is_changed },
        })
    }

    fn delete_group(&self, group: &str) -> Result<Effects<GroupRecord, Reply>, GroupError> {
        let Some((id, known)) = self.group(group) else {
            let _: GroupId = group.parse()?;
            return Err(GroupError::UnknownGroup {
                group: group.to_owned(),
            });
        };
        let members = known
            .membership
            .as_ref()
            .map_or(0, |membership| membership.members.len());
        if members > 0 {
            return Err(GroupError::NotEmpty { members });
        }
        Ok(Effects {
            records: vec![GroupRecord::Deleted(id.clone())],
            reply: Reply::Done,
        })
    }
}

/// The same as long as the member holds the same. Not stored, and compared within one run of the broker only.
fn fingerprint(member: &Member) -> u64 {
    let mut hasher = DefaultHasher::new();
    member.assigned.hash(&mut hasher);
    hasher.finish()
}

impl StateMachine for Machine {
    type Command = Command;
    type Record = GroupRecord;
    type Reply = Reply;

    fn handle(&self, now: Timestamp, command: Command) -> Effects<GroupRecord, Reply> {
        self.decide(now, command).unwrap_or_else(|refusal| Effects {
            records: Vec::new(),
            reply: Reply::Refused(refusal),
        })
    }

    fn apply(&mut self, record: &GroupRecord) {
        match record {
            GroupRecord::OffsetsCommitted { group, offsets } => self.insert(group, offsets),
            GroupRecord::TopicDeleted(topic) => self.forget_topic(*topic),
            GroupRecord::Changed { group, change } => self.change(group, change),
            GroupRecord::Deleted(group) => self.delete(group),
            GroupRecord::OffsetsRemoved { group, partitions } => self.remove_offsets(group, partitions),
            GroupRecord::StepTaken { group, step } => self.take_step(group, step),
        }
    }
}
