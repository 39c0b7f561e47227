//! The power fails before every operation of a run in which members come and go, partitions move, and steps are taken.

use std::collections::VecDeque;

use super::*;
use crate::api::{
    AlterGroup, CloseConsumer, CreateGroup, DeleteGroup, EvictMember, EvictedMember, GroupHeartbeat,
    GroupMember, Membership, Step, StepStamp, Stepped, Subscription, TopicPartitions,
};
use crate::group::Group;
use crate::model::GroupId;

/// Records of each partition that is there from the beginning.
const RECORDS: u32 = 150;
const PARTITIONS: u32 = 4;
/// Longer than a session, and half of it is shorter.
const TOO_LONG: Duration = Duration::from_secs(12);

/// What there is, to the last bit of it: topics, members, what each holds, epochs, offsets, steps.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::broker::tests) struct All {
    topics: BTreeMap<String, SeenTopic>,
    pub(in crate::broker::tests) groups: BTreeMap<GroupId, Group>,
}

/// What there was after a request, and what its answer waits for.
#[derive(Clone, Debug)]
struct After {
    all: Arc<All>,
    lsn: Lsn,
}

/// A step, its answer, and the first state that it is in.
#[derive(Clone, Debug)]
struct TakenStep {
    asked: Step,
    answer: Stepped,
    since: usize,
}

#[derive(Clone, Debug, Default)]
struct Past {
    states: Vec<After>,
    steps: Vec<TakenStep>,
}

impl Past {
    /// The newest state whose answer may have been heard.
    fn acknowledged(&self, durable: Lsn) -> usize {
        self.states
            .iter()
            .rposition(|after| after.lsn <= durable)
            .unwrap()
    }
}

impl Life {
    pub(in crate::broker::tests) fn see_all(&self) -> All {
        let topics = self.see_topics();
        let groups = &self.broker.groups.lock().driver;
        let groups = groups.machine.groups();
        All {
            topics,
            groups: groups.map(|(id, group)| (id.clone(), group.clone())).collect(),
        }
    }
}

/// Every frame is a group of the journal of its own: a cut may come between any two that are not one.
fn begin(disk: &SimDisk, clock: &Arc<ManualClock>) -> Life {
    let engine = EngineSettings {
        group_bytes_max: 1,
        ..engine()
    };
    Life::begin_at(disk, &Arc::default(), clock, &engine)
}

/// A member as its client knows it.
#[derive(Clone, Debug)]
pub(in crate::broker::tests) struct Known {
    pub(in crate::broker::tests) name: String,
    pub(in crate::broker::tests) instance: Option<String>,
    pub(in crate::broker::tests) told: Option<Membership>,
}

impl Known {
    pub(in crate::broker::tests) fn new(name: String) -> Self {
        Self {
            name,
            instance: None,
            told: None,
        }
    }

    pub(in crate::broker::tests) fn who(&self) -> GroupMember {
        GroupMember {
            member_id: self.name.clone(),
            member_epoch: self.told.as_ref().map_or(0, |told| told.member_epoch),
            instance_id: self.instance.clone(),
        }
    }

    /// It holds what it was told to hold, and releases the rest.
    pub(in crate::broker::tests) fn beat(&self) -> Request {
        let topics = |told: &Membership| {
            let topics = told.assigned.iter().map(|topic| TopicPartitions {
                topic: topic.topic.as_str().into(),
                topic_id: Some(topic.topic_id),
                partitions: topic.partitions.iter().map(|p| p.partition).collect(),
            });
            topics.collect()
        };
        let joins = self.told.is_none();
        Request::GroupHeartbeat(GroupHeartbeat {
            group: "g".to_owned(),
            member: self.who(),
            revision: self.told.as_ref().map_or(0, |told| told.revision),
            client_id: "x".repeat(100),
            max_wait: Duration::ZERO,
            subscription: joins.then(|| Subscription {
                topics: vec!["in".to_owned()],
                patterns: Vec::new(),
            }),
            owned: self.told.as_ref().map(topics),
        })
    }

    pub(in crate::broker::tests) fn holds(&self) -> Vec<u32> {
        let topics = self.told.iter().flat_map(|told| &told.assigned);
        topics
            .flat_map(|topic| topic.partitions.iter().map(|p| p.partition.0))
            .collect()
    }
}

/// Partitions that came later are empty.
fn place(partition: u32, at: u32) -> OffsetToCommit {
    let at = if partition < PARTITIONS {
        at.min(RECORDS)
    } else {
        0
    };
    OffsetToCommit {
        partition: named("in", partition),
        offset: i64::from(at),
        leader_epoch: None,
        metadata: "x".repeat(300),
    }
}

/// The clients, and the broker that they ask.
struct Run {
    life: Life,
    clock: Arc<ManualClock>,
    past: Arc<Mutex<Past>>,
    members: VecDeque<Known>,
    producer: InitializedProducer,
    /// Steps taken, by group.
    taken: BTreeMap<String, i32>,
}

impl Run {
    fn new(disk: &SimDisk, clock: &Arc<ManualClock>, past: &Arc<Mutex<Past>>) -> Self {
        let mut life = begin(disk, clock);
        past.lock().unwrap().states.push(After {
            all: Arc::new(life.see_all()),
            lsn: Lsn::ZERO,
        });
        let Response::InitProducer(producer) =
            life.ask(Request::InitProducer(InitProducer { current: None }))
        else {
            panic!("a producer");
        };
        let mut run = Self {
            life,
            clock: Arc::clone(clock),
            past: Arc::clone(past),
            members: VecDeque::new(),
            producer,
            taken: BTreeMap::new(),
        };
        run.ask(create("in", PARTITIONS));
        run.ask(create("out", 2));
        for partition in 0..PARTITIONS {
            let payload = ProducePayload::Raw(batch(RECORDS, None));
            run.ask(request(Acks::Fsync, vec![item(named("in", partition), payload)]));
        }
        run.life.make_durable();
        run
    }

    fn note(&self, lsn: Lsn) {
        // Locked only while nothing is written: who looks from the disk takes it, too.
        let all = Arc::new(self.life.see_all());
        check_epochs(&self.past.lock().unwrap().states.last().unwrap().all, &all);
        self.past.lock().unwrap().states.push(After { all, lsn });
    }

    fn ask(&mut self, request: Request) -> Response {
        self.clock.advance(Duration::from_millis(7));
        let (lsn, reply) = self.life.try_ask(request);
        self.note(lsn);
        reply.unwrap()
    }

    /// What time and changed topics bring about.
    fn due(&mut self) {
        self.life.make_durable();
        self.life.broker.groups_due();
        let groups = &self.life.broker.groups;
        let lsn = groups.lsn(&groups.lock());
        self.note(lsn);
    }

    fn beat(&mut self, index: usize) {
        let Response::GroupHeartbeat(told) = self.ask(self.members[index].beat()) else {
            panic!("a membership");
        };
        self.members[index].told = Some(*told);
    }

    /// Everybody says what it holds, in turn: what is released by one is given to the next.
    fn all_beat(&mut self) {
        for index in 0..self.members.len() {
            self.beat(index);
        }
    }

    fn step(&mut self, group: &str, member: Option<&Known>, at: u32) {
        let taken = self.taken.entry(group.to_owned()).or_default();
        let sequence = Sequence(*taken);
        *taken += 1;
        let made = |partition, records| {
            let payload = ProducePayload::Raw(batch(records, None));
            item(named("out", partition), payload)
        };
        let places = member.map_or(vec![0, 1], Known::holds);
        let step = Step {
            group: group.to_owned(),
            member: member.map(Known::who),
            stamp: StepStamp {
                id: self.producer.id,
                epoch: self.producer.epoch,
                sequence,
            },
            offsets: places.into_iter().map(|partition| place(partition, at)).collect(),
            appends: vec![made(1, 2), made(0, 1 + at % 3)],
        };
        let Response::Step(answer) = self.ask(Request::Step(step.clone())) else {
            panic!("a step");
        };
        assert!(!answer.duplicate);
        let mut past = self.past.lock().unwrap();
        let since = past.states.len() - 1;
        past.steps.push(TakenStep {
            asked: step,
            answer,
            since,
        });
    }

    fn repeat_the_last_step(&mut self) {
        let last = self.past.lock().unwrap().steps.last().cloned().unwrap();
        let Response::Step(again) = self.ask(Request::Step(last.asked)) else {
            panic!("a step");
        };
        assert!(again.duplicate);
    }

    fn act(&mut self, n: u32) {
        let cycle = n / 16;
        let newest = self.members.len().saturating_sub(1);
        match n % 16 {
            0 => {
                self.members.push_back(Known::new(format!("m{cycle}")));
                self.beat(newest + usize::from(self.members.len() > 1));
            }
            1..=3 => self.all_beat(),
            4 | 10 => {
                let member = self.members[0].clone();
                self.step("g", Some(&member), n);
            }
            5 => {
                let member = &self.members[newest];
                let commit = CommitOffsets {
                    group: "g".to_owned(),
                    member: Some(member.who()),
                    offsets: member.holds().into_iter().map(|p| place(p, n)).collect(),
                };
                self.ask(Request::CommitOffsets(commit));
            }
            6 => {
                self.ask(commit("h", &["in"], i64::from(n)));
                self.step("s", None, n);
            }
            7 => self.make_and_alter_groups(cycle),
            8 => self.repeat_the_last_step(),
            9 => {
                let assignor = if cycle.is_multiple_of(2) {
                    "range"
                } else {
                    "sticky"
                };
                self.alter("g", ("assignor", assignor));
                self.all_beat();
                self.all_beat();
            }
            11 if self.members.len() > 2 => {
                let first = self.members.pop_front().unwrap();
                self.ask(Request::CloseConsumer(CloseConsumer {
                    group: "g".to_owned(),
                    member: first.who(),
                    offsets: first.holds().into_iter().map(|p| place(p, n)).collect(),
                }));
            }
            12 => self.all_beat(),
            13 if cycle % 3 == 2 => {
                let last = self.members.pop_back().unwrap();
                self.ask(Request::EvictMember(EvictMember {
                    group: "g".to_owned(),
                    member: EvictedMember::Member(last.name),
                    reason: "for a test".to_owned(),
                }));
            }
            14 => self.one_stays_away(cycle),
            15 if cycle.is_multiple_of(2) => {
                self.ask(Request::AlterTopic(AlterTopic {
                    name: "in".to_owned(),
                    partitions: PARTITIONS + 1 + cycle / 2,
                    ..AlterTopic::default()
                }));
                self.due();
            }
            _ => {}
        }
    }

    fn alter(&mut self, group: &str, (name, value): (&str, &str)) {
        self.ask(Request::AlterGroup(AlterGroup {
            group: group.to_owned(),
            set: vec![(name.to_owned(), value.to_owned())],
            unset: Vec::new(),
        }));
    }

    /// One group more, and the one before is removed with what it committed.
    fn make_and_alter_groups(&mut self, cycle: u32) {
        let group = format!("x{cycle}");
        self.ask(Request::CreateGroup(CreateGroup {
            group: group.clone(),
            configs: vec![("assignor".to_owned(), "range".to_owned())],
        }));
        self.alter(&group, ("session.timeout.ms", "20000"));
        self.ask(commit(&group, &["in"], i64::from(cycle)));
        if let Some(before) = cycle.checked_sub(1) {
            let group = format!("x{before}");
            self.ask(Request::DeleteGroup(DeleteGroup { group }));
        }
    }

    /// A member joins and is heard of no more.
    fn one_stays_away(&mut self, cycle: u32) {
        self.members.push_back(Known::new(format!("ghost{cycle}")));
        self.beat(self.members.len() - 1);
        let ghost = self.members.pop_back().unwrap();
        self.all_beat();
        self.clock.advance(TOO_LONG / 2);
        self.all_beat();
        self.clock.advance(TOO_LONG / 2);
        self.due();
        let all = self.life.see_all();
        let membership = all.groups["g"].membership.as_ref().unwrap();
        assert!(!membership.members.contains_key(ghost.name.as_str()));
        assert_eq!(membership.members.len(), self.members.len());
    }

    fn run_acts(&mut self, acts: u32, doing: &Doing) {
        for n in 0..acts {
            doing.set(match n % 16 {
                4 | 6 | 8 | 10 => Kind::Step,
                5 | 7 => Kind::Commit,
                _ => Kind::Rebalance,
            });
            self.act(n);
            if n % 4 != 3 {
                self.life.make_durable();
            }
            if n % 3 == 0 {
                self.life.inline.applier_round(true).unwrap();
            }
            if n % 7 == 0 {
                self.life.inline.checkpoint().unwrap();
            }
        }
    }
}

/// Epochs of groups that go on being there only grow, and so do the epochs of their members.
fn check_epochs(before: &All, after: &All) {
    for (id, group) in &before.groups {
        let now = after.groups.get(id).and_then(|group| group.membership.as_ref());
        let (Some(before), Some(now)) = (&group.membership, now) else {
            continue;
        };
        assert!(now.epoch >= before.epoch, "{id}");
        assert!(now.assignment_epoch >= before.assignment_epoch, "{id}");
        for (name, member) in &before.members {
            let Some(later) = now.members.get(name) else {
                continue;
            };
            assert!(
                now.member_epoch(later) >= before.member_epoch(member),
                "{id} {name}"
            );
        }
    }
}

/// EP12.
pub(in crate::broker::tests) fn check_owners(all: &All) {
    for (id, group) in &all.groups {
        let members = group.membership.iter().flat_map(|m| m.members.values());
        let mut keys: Vec<_> = members
            .flat_map(|member| member.assigned.keys().chain(member.revoking.keys()))
            .collect();
        let held = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(held, keys.len(), "{id} has a partition with two owners");
    }
}

/// Recovers an image and compares: it is one of the states since the last acknowledged one. Then goes on from there.
fn check(image: &SimDisk, past: &Past, durable: Lsn, clock: &Arc<ManualClock>) -> All {
    let mut life = begin(image, clock);
    let found = life.see_all();
    let acknowledged = past.acknowledged(durable);
    let since = &past.states[acknowledged..];
    let at = since.iter().position(|after| *after.all == found);
    let at = at.unwrap_or_else(|| {
        let (before, last) = (&since[0].all, &since[since.len() - 1].all);
        panic!("{found:#?} is no state between {before:#?} and {last:#?}")
    });
    check_epochs(&since[0].all, &found);
    check_owners(&found);
    check_members(&mut life, &found);
    for step in past.steps.iter().rev().take(2) {
        check_step(&mut life, step, step.since <= acknowledged + at);
    }
    found
}

/// Each member goes on in the epoch that it had, and one that is behind is fenced.
fn check_members(life: &mut Life, found: &All) {
    let membership = found.groups.get("g").and_then(|group| group.membership.as_ref());
    let Some(membership) = membership else {
        return;
    };
    for (name, member) in &membership.members {
        let epoch = membership.member_epoch(member);
        let mut commits = |epoch| {
            let keys = member.assigned.keys().chain(member.revoking.keys());
            life.try_ask(Request::CommitOffsets(CommitOffsets {
                group: "g".to_owned(),
                member: Some(GroupMember {
                    member_id: name.to_string(),
                    member_epoch: epoch,
                    instance_id: None,
                }),
                offsets: keys.map(|key| place(key.partition.0, 0)).collect(),
            }))
            .1
        };
        let reply = commits(epoch);
        assert!(reply.is_ok(), "{name} in epoch {epoch}: {reply:?}");
        let code = code(commits(epoch.wrapping_sub(1)));
        let fenced = [ErrorCode::StaleMemberEpoch, ErrorCode::FencedMemberEpoch];
        assert!(fenced.contains(&code), "{name} behind {epoch}: {code:?}");
    }
}

/// A step that is sent again is answered as the first time if it is there, and appends nothing; if it is not, it is taken, once.
fn check_step(life: &mut Life, step: &TakenStep, is_there: bool) {
    if !is_there {
        return;
    }
    let ends = |life: &Life| life.see_topics()["out"].ends.clone();
    let before = ends(life);
    let Response::Step(again) = life.ask(Request::Step(step.asked.clone())) else {
        panic!("a step");
    };
    let answer = (again.committed, again.acks, &again.appends);
    let first = &step.answer;
    assert_eq!(answer, (first.committed, first.acks, &first.appends));
    assert!(again.duplicate, "taken a second time");
    assert_eq!(ends(life), before);
}

impl Subject for Run {
    type Judge = Witness;

    fn judge(&self) -> Witness {
        Witness {
            past: Arc::clone(&self.past),
            durable: self.life.broker.store.durable(),
            clock: Arc::clone(&self.clock),
        }
    }

    fn run(&mut self, doing: &Doing) {
        self.run_acts(112, doing);
    }
}

struct Witness {
    past: Arc<Mutex<Past>>,
    durable: tokio::sync::watch::Receiver<crate::model::DurableState>,
    clock: Arc<ManualClock>,
}

impl Judge for Witness {
    type Found = All;

    fn check(&self, image: &SimDisk) -> All {
        let durable = self.durable.borrow().lsn;
        check(image, &self.past.lock().unwrap(), durable, &self.clock)
    }

    fn recover(&self, image: &SimDisk) {
        begin(image, &self.clock);
    }
}

fn run_on(disk: &SimDisk) -> Run {
    Run::new(disk, &Arc::new(ManualClock::at(START)), &Arc::default())
}

fn cut(plan: &'static Plan) {
    explore(plan, |disk, _| run_on(disk));
}

#[test]
fn members_and_steps_are_whole_after_any_power_cut() {
    cut(&crash::MEMBERS_POWER);
}

#[test]
fn members_and_steps_are_whole_after_any_kill() {
    cut(&crash::MEMBERS_KILLS);
}

#[test]
fn members_and_steps_are_whole_after_a_power_cut_during_recovery() {
    let disk = SimDisk::new(SimOptions::default());
    let mut run = run_on(&disk);
    run.run_acts(60, &Doing::default());
    let image = disk.after_power_cut(7, CutProfile::Ext4);
    let expected = run.judge().check(&image.after_kill());
    let count = Arc::new(AtomicU64::new(0));
    let (counted, judge) = (Arc::clone(&count), run.judge());
    image.on_op(move |moment| {
        for profile in CutProfile::ALL {
            let found = judge.check(&moment.after_power_cut(moment.index(), profile));
            assert!(
                found == expected,
                "{profile:?}: recovery before operation {} ({:?})",
                moment.index(),
                moment.op()
            );
        }
        counted.fetch_add(1, Ordering::Relaxed);
    });
    run.judge().recover(&image);
    assert!(count.load(Ordering::Relaxed) > 10);
}
