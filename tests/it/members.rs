//! Requests of members of groups and their operators between the client and a service, there and back, over real sockets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use naru::api::{self, Outcome, Reply, Request, Response};
use naru::client::{self, Client};
use naru::model::{
    Acks, ErrorCode, GroupState, LeaderEpoch, LogBounds, Lsn, Offset, PartitionId, PartitionKey,
    ProducerEpoch, ProducerId, Sequence, Timestamp, TopicId, TopicName,
};
use naru::net::Settings;

use crate::peer::{Fake, Server, start_server};

const ID: [u8; 16] = [9; 16];

/// A service that takes everything, and what it got.
pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) asked: Arc<Mutex<Vec<Request>>>,
}

impl Rig {
    /// Every request gets this answer.
    pub(crate) fn answering(reply: Reply) -> Self {
        let asked = Arc::<Mutex<Vec<Request>>>::default();
        let seen = Arc::clone(&asked);
        let service = Fake(move |request| {
            seen.lock().unwrap().push(request);
            Outcome::Ready(reply.clone())
        });
        Self {
            server: start_server(Settings::default(), service),
            asked,
        }
    }

    async fn client(&self) -> Client {
        let url = format!("naru://{}", self.server.address);
        Client::connect(&url).await.unwrap()
    }

    pub(crate) fn only(&self) -> Request {
        let mut asked = self.asked.lock().unwrap();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0)
    }
}

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn name(text: &str) -> TopicName {
    TopicName::for_user(text).unwrap()
}

fn id() -> TopicId {
    TopicId::from_bytes(ID)
}

fn inside(partitions: &[u32]) -> api::TopicPartitions {
    api::TopicPartitions {
        topic: "orders".into(),
        topic_id: Some(id()),
        partitions: partitions.iter().copied().map(PartitionId).collect(),
    }
}

fn outside(partitions: &[u32]) -> Vec<client::TopicPartition> {
    let partition = |index: &u32| client::TopicPartition {
        topic: "orders".into(),
        topic_id: id(),
        partition: PartitionId(*index),
    };
    partitions.iter().map(partition).collect()
}

fn member_inside() -> api::GroupMember {
    api::GroupMember {
        member_id: "m-1".to_owned(),
        member_epoch: u32::MAX,
        instance_id: Some("desk".to_owned()),
    }
}

fn member_outside() -> client::GroupMember {
    client::GroupMember {
        member_id: "m-1".to_owned(),
        member_epoch: u32::MAX,
        instance_id: Some("desk".to_owned()),
    }
}

fn item_inside() -> api::OffsetToCommit {
    api::OffsetToCommit {
        partition: api::TopicPartition {
            topic: "orders".into(),
            topic_id: None,
            partition: PartitionId(3),
        },
        offset: 4,
        leader_epoch: None,
        metadata: String::new(),
    }
}

fn item_outside() -> client::OffsetToCommit {
    client::OffsetToCommit::new("orders", 3, offset(4))
}

fn membership() -> api::Membership {
    api::Membership {
        member_epoch: 7,
        group_epoch: 8,
        revision: u64::MAX,
        leader_id: "m-0".to_owned(),
        is_leader: true,
        role: api::MemberRole::Standby {
            rank: 2,
            reason: "3 members, 1 partition".to_owned(),
        },
        state: GroupState::Assigning,
        heartbeat: Duration::from_secs(3),
        session_timeout: Duration::from_secs(10),
        handoff_timeout: Duration::from_secs(30),
        proposal_wanted: Some(api::ProposalWanted {
            group_epoch: 8,
            deadline: Duration::from_secs(5),
            members: vec![api::ProposalMember {
                member_id: "m-0".to_owned(),
                instance_id: Some("desk".to_owned()),
                client_id: "till 3".to_owned(),
                topics: vec![name("orders")],
                held: vec![inside(&[1])],
            }],
            partitions: vec![inside(&[0, 1])],
        }),
        assigned: vec![api::AssignedTopic {
            topic: name("orders"),
            topic_id: id(),
            partitions: vec![
                api::AssignedPartition {
                    partition: PartitionId(0),
                    committed: Some(offset(0)),
                    maybe_seen_upto: Some(offset(9)),
                },
                api::AssignedPartition {
                    partition: PartitionId(70_000),
                    committed: None,
                    maybe_seen_upto: None,
                },
            ],
        }],
        revoking: vec![inside(&[2, 300])],
    }
}

fn assigned(index: u32, committed: Option<i64>, seen: Option<i64>) -> client::AssignedPartition {
    client::AssignedPartition {
        partition: outside(&[index]).remove(0),
        committed: committed.map(offset),
        maybe_seen_upto: seen.map(offset),
    }
}

#[tokio::test]
async fn a_heartbeat_goes_there_and_its_answer_back() {
    let rig = Rig::answering(Ok(Response::GroupHeartbeat(Box::new(membership()))));
    let beat = client::GroupHeartbeat {
        group: "g".to_owned(),
        member: member_outside(),
        revision: u64::MAX,
        client_id: "till 3".to_owned(),
        max_wait: Duration::from_millis(250),
        subscription: Some(client::Subscription {
            topics: vec!["orders".to_owned()],
            patterns: vec!["b*".to_owned()],
        }),
        owned: Some(outside(&[0, 70_000])),
    };
    let got = rig.client().await.group_heartbeat(beat).await.unwrap();
    let expected = api::GroupHeartbeat {
        group: "g".to_owned(),
        member: member_inside(),
        revision: u64::MAX,
        client_id: "till 3".to_owned(),
        max_wait: Duration::from_millis(250),
        subscription: Some(api::Subscription {
            topics: vec!["orders".to_owned()],
            patterns: vec!["b*".to_owned()],
        }),
        owned: Some(vec![inside(&[0, 70_000])]),
    };
    assert_eq!(rig.only(), Request::GroupHeartbeat(expected));
    let expected = client::Membership {
        member_epoch: 7,
        group_epoch: 8,
        revision: u64::MAX,
        leader_id: "m-0".to_owned(),
        is_leader: true,
        role: client::MemberRole::Standby {
            rank: 2,
            reason: "3 members, 1 partition".to_owned(),
        },
        state: GroupState::Assigning,
        heartbeat: Duration::from_secs(3),
        session_timeout: Duration::from_secs(10),
        handoff_timeout: Duration::from_secs(30),
        proposal_wanted: Some(client::ProposalWanted {
            group_epoch: 8,
            deadline: Duration::from_secs(5),
            members: vec![client::ProposalMember {
                member_id: "m-0".to_owned(),
                instance_id: Some("desk".to_owned()),
                client_id: "till 3".to_owned(),
                topics: vec!["orders".to_owned()],
                held: outside(&[1]),
            }],
            partitions: outside(&[0, 1]),
        }),
        assigned: vec![assigned(0, Some(0), Some(9)), assigned(70_000, None, None)],
        revoking: outside(&[2, 300]),
    };
    assert_eq!(got, expected);
}

#[tokio::test]
async fn no_news_of_what_is_held_is_not_the_same_as_nothing_held() {
    let active = api::Membership {
        role: api::MemberRole::Active,
        proposal_wanted: None,
        ..membership()
    };
    let rig = Rig::answering(Ok(Response::GroupHeartbeat(Box::new(active))));
    let client = rig.client().await;
    for owned in [None, Some(Vec::new())] {
        let beat = client::GroupHeartbeat {
            group: "g".to_owned(),
            member: client::GroupMember {
                instance_id: None,
                ..member_outside()
            },
            revision: 0,
            client_id: String::new(),
            max_wait: Duration::ZERO,
            subscription: None,
            owned: owned.clone(),
        };
        let got = client.group_heartbeat(beat).await.unwrap();
        assert_eq!(
            (got.role, got.proposal_wanted),
            (client::MemberRole::Active, None)
        );
        let Request::GroupHeartbeat(got) = rig.only() else {
            panic!("another request");
        };
        assert_eq!(got.owned, owned.map(|_| Vec::new()));
        assert_eq!((got.member.instance_id, got.subscription), (None, None));
    }
}

#[tokio::test]
async fn commits_closes_and_proposals_go_there_and_back() {
    let rig = Rig::answering(Ok(Response::CommitOffsets(Timestamp(5))));
    let committed = rig
        .client()
        .await
        .commit_offsets_as("g", &member_outside(), vec![item_outside()])
        .await;
    assert_eq!(committed, Ok(Timestamp(5)));
    let commit = api::CommitOffsets {
        group: "g".to_owned(),
        member: Some(member_inside()),
        offsets: vec![item_inside()],
    };
    assert_eq!(rig.only(), Request::CommitOffsets(commit));

    let closed = api::ClosedConsumer {
        at: Timestamp(6),
        left: true,
    };
    let rig = Rig::answering(Ok(Response::CloseConsumer(closed)));
    let got = rig
        .client()
        .await
        .close_consumer("g", &member_outside(), vec![item_outside()])
        .await
        .unwrap();
    assert_eq!((got.at, got.left), (Timestamp(6), true));
    let close = api::CloseConsumer {
        group: "g".to_owned(),
        member: member_inside(),
        offsets: vec![item_inside()],
    };
    assert_eq!(rig.only(), Request::CloseConsumer(close));

    let rig = Rig::answering(Ok(Response::ProposeAssignment(8)));
    let assignments = vec![
        ("m-1".to_owned(), outside(&[0, 1])),
        ("m-2".to_owned(), Vec::new()),
    ];
    let client = rig.client().await;
    client
        .propose_assignment("g", &member_outside(), 8, assignments)
        .await
        .unwrap();
    let propose = api::ProposeAssignment {
        group: "g".to_owned(),
        member: member_inside(),
        group_epoch: 8,
        assignments: vec![
            ("m-1".to_owned(), vec![inside(&[0, 1])]),
            ("m-2".to_owned(), Vec::new()),
        ],
    };
    assert_eq!(rig.only(), Request::ProposeAssignment(propose));
}

fn setting() -> api::ConfigEntry {
    api::ConfigEntry {
        name: "assignor".to_owned(),
        value: "range".to_owned(),
        source: "group".to_owned(),
        has_effect: true,
    }
}

#[tokio::test]
async fn what_changes_groups_goes_there_and_back() {
    let set = vec![("assignor".to_owned(), "range".to_owned())];
    let rig = Rig::answering(Ok(Response::CreateGroup(api::CreatedGroup {
        created: true,
        configs: vec![setting()],
    })));
    let created = rig.client().await.create_group("g", set.clone()).await.unwrap();
    assert_eq!(
        (created.created, created.configs[0].value.as_str()),
        (true, "range")
    );
    let create = api::CreateGroup {
        group: "g".to_owned(),
        configs: set.clone(),
    };
    assert_eq!(rig.only(), Request::CreateGroup(create));

    let rig = Rig::answering(Ok(Response::AlterGroup(api::AlteredGroup {
        configs: vec![setting()],
        changed: true,
    })));
    let unset = vec!["session.timeout.ms".to_owned()];
    let client = rig.client().await;
    let altered = client.alter_group("g", set.clone(), unset.clone()).await.unwrap();
    assert_eq!(
        (altered.changed, altered.configs[0].source.as_str()),
        (true, "group")
    );
    let alter = api::AlterGroup {
        group: "g".to_owned(),
        set,
        unset,
    };
    assert_eq!(rig.only(), Request::AlterGroup(alter));

    let rig = Rig::answering(Ok(Response::DeleteGroup));
    rig.client().await.delete_group("g").await.unwrap();
    let delete = api::DeleteGroup {
        group: "g".to_owned(),
    };
    assert_eq!(rig.only(), Request::DeleteGroup(delete));

    let rig = Rig::answering(Ok(Response::EvictMember(api::Evicted {
        member_id: "m-1".to_owned(),
        group_epoch: 9,
    })));
    let client = rig.client().await;
    for (who, expected) in [
        (
            client::Evict::Member("m-1".to_owned()),
            api::EvictedMember::Member("m-1".to_owned()),
        ),
        (
            client::Evict::Instance("desk".to_owned()),
            api::EvictedMember::Instance("desk".to_owned()),
        ),
    ] {
        let evicted = client.evict_member("g", who, "stuck").await.unwrap();
        assert_eq!((evicted.member_id.as_str(), evicted.group_epoch), ("m-1", 9));
        let evict = api::EvictMember {
            group: "g".to_owned(),
            member: expected,
            reason: "stuck".to_owned(),
        };
        assert_eq!(rig.only(), Request::EvictMember(evict));
    }
}

fn description() -> api::DescribedGroup {
    api::DescribedGroup {
        empty_since: Some(naru::model::Timestamp(77)),
        group: "g".to_owned(),
        state: GroupState::Reconciling,
        group_epoch: 9,
        assignment_epoch: 8,
        assignor: "sticky".to_owned(),
        leader_id: Some("m-1".to_owned()),
        idle_members: 1,
        unassigned_partitions: 2,
        hint: "add partitions".to_owned(),
        configs: vec![setting()],
        members: vec![api::MemberDescription {
            member_id: "m-1".to_owned(),
            instance_id: Some("desk".to_owned()),
            client_id: "till 3".to_owned(),
            host: "10.0.0.7".to_owned(),
            subscription: api::Subscription {
                topics: vec!["orders".to_owned()],
                patterns: vec!["b*".to_owned()],
            },
            member_epoch: 8,
            assigned: vec![inside(&[0])],
            revoking: vec![inside(&[1])],
            role: api::MemberRole::Standby {
                rank: 1,
                reason: "told by the hint".to_owned(),
            },
            last_heartbeat_ms: 40,
            is_leader: true,
        }],
        partitions: vec![api::GroupPartition {
            stalled_ms: Some(301_000),
            topic: name("orders"),
            key: PartitionKey {
                topic: id(),
                partition: PartitionId(1),
            },
            committed: Some(offset(5)),
            bounds: LogBounds {
                log_start: offset(1),
                high_watermark: offset(9),
                log_end: offset(10),
            },
            lag: Some(4),
            lag_ms: Some(1500),
            member_id: Some("m-1".to_owned()),
            is_revoking: true,
        }],
    }
}

fn described_member() -> client::GroupMemberDescription {
    client::GroupMemberDescription {
        member_id: "m-1".to_owned(),
        instance_id: Some("desk".to_owned()),
        client_id: "till 3".to_owned(),
        host: "10.0.0.7".to_owned(),
        subscription: client::Subscription {
            topics: vec!["orders".to_owned()],
            patterns: vec!["b*".to_owned()],
        },
        member_epoch: 8,
        assigned: outside(&[0]),
        revoking: outside(&[1]),
        role: client::MemberRole::Standby {
            rank: 1,
            reason: String::new(),
        },
        last_heartbeat: Duration::from_millis(40),
        is_leader: true,
    }
}

#[tokio::test]
async fn a_description_of_a_group_goes_there_and_back() {
    let rig = Rig::answering(Ok(Response::DescribeGroup(Box::new(description()))));
    let got = rig.client().await.describe_group("g").await.unwrap();
    let describe = api::DescribeGroup {
        group: "g".to_owned(),
    };
    assert_eq!(rig.only(), Request::DescribeGroup(describe));
    assert_eq!(
        (got.state, got.group_epoch, got.assignment_epoch),
        (GroupState::Reconciling, 9, 8)
    );
    assert_eq!(
        (
            got.leader_id.as_deref(),
            got.idle_members,
            got.unassigned_partitions
        ),
        (Some("m-1"), 1, 2)
    );
    assert_eq!(
        (got.assignor.as_str(), got.hint.as_str()),
        ("sticky", "add partitions")
    );
    assert_eq!(got.configs[0].name, "assignor");
    assert_eq!(got.members, [described_member()]);
    assert_eq!(got.empty_since, Some(naru::model::Timestamp(77)));
    let expected = client::GroupPartitionDescription {
        stalled: Some(Duration::from_secs(301)),
        partition: outside(&[1]).remove(0),
        committed: Some(offset(5)),
        log_start: offset(1),
        high_watermark: offset(9),
        lag: Some(4),
        lag_time: Some(Duration::from_millis(1500)),
        member_id: Some("m-1".to_owned()),
        is_revoking: true,
    };
    assert_eq!(got.partitions, [expected]);
}

#[tokio::test]
async fn pages_of_groups_go_there_and_back() {
    let rig = Rig::answering(Ok(Response::ListGroups(api::ListedGroups {
        groups: vec![api::GroupListing {
            group: "g".to_owned(),
            state: GroupState::Stable,
            members: 3,
            topics: 2,
            lag: u64::MAX,
        }],
        cursor: "g".to_owned(),
    })));
    let options = client::ListGroupsOptions {
        pattern: "g*".to_owned(),
        page: 7,
    };
    let cursor = Some("f".to_owned());
    let page = rig
        .client()
        .await
        .list_groups_page(&options, cursor)
        .await
        .unwrap();
    let list = api::ListGroups {
        cursor: "f".to_owned(),
        count: 7,
        matching: "g*".to_owned(),
    };
    assert_eq!(rig.only(), Request::ListGroups(list));
    assert_eq!(page.cursor.as_deref(), Some("g"));
    let expected = client::GroupListing {
        group: "g".to_owned(),
        state: GroupState::Stable,
        members: 3,
        topics: 2,
        // More is on no disk.
        lag: u64::MAX >> 1,
    };
    assert_eq!(page.groups, [expected]);
}

#[tokio::test]
async fn a_step_goes_there_and_back() {
    let rig = Rig::answering(Ok(Response::Step(api::Stepped {
        committed: Timestamp(78),
        duplicate: true,
        acks: Acks::Fsync,
        durable_through: Some(Lsn(6)),
        appends: vec![api::SteppedAppend {
            base: offset(10),
            last: offset(11),
            append_time: Timestamp(77),
            leader_epoch: LeaderEpoch(2),
        }],
    })));
    let batch = Bytes::from(vec![7; 5000]);
    let step = client::Step {
        group: "g".to_owned(),
        member: Some(member_outside()),
        producer: (ProducerId(5), ProducerEpoch(1)),
        sequence: Sequence(i32::MAX),
        offsets: vec![item_outside()],
        appends: vec![client::StepAppend {
            topic: "bills".to_owned(),
            topic_id: Some(id()),
            partition: PartitionId(2),
            batch: batch.clone(),
        }],
    };
    let got = rig.client().await.step(step).await.unwrap();
    let expected = api::Step {
        group: "g".to_owned(),
        member: Some(member_inside()),
        stamp: api::StepStamp {
            id: ProducerId(5),
            epoch: ProducerEpoch(1),
            sequence: Sequence(i32::MAX),
        },
        offsets: vec![item_inside()],
        appends: vec![api::ProducePartition {
            partition: api::TopicPartition {
                topic: "bills".into(),
                topic_id: Some(id()),
                partition: PartitionId(2),
            },
            leader_epoch: None,
            payload: api::ProducePayload::Raw(batch),
        }],
    };
    assert_eq!(rig.only(), Request::Step(expected));
    let appended = client::SteppedAppend {
        base: offset(10),
        last: offset(11),
        append_time: Timestamp(77),
        leader_epoch: LeaderEpoch(2),
    };
    let expected = client::Stepped {
        committed: Timestamp(78),
        duplicate: true,
        acks: Acks::Fsync,
        durable_through: Some(Lsn(6)),
        appends: vec![appended],
    };
    assert_eq!(got, expected);
}

#[tokio::test]
async fn errors_of_members_carry_the_epoch_in_force() {
    let stale =
        api::ApiError::new(ErrorCode::StaleMemberEpoch, "the group is at 9").details(api::ErrorDetails {
            member_epoch: Some(9),
            ..api::ErrorDetails::default()
        });
    let rig = Rig::answering(Err(stale));
    let client = rig.client().await;
    let error = client
        .commit_offsets_as("g", &member_outside(), vec![item_outside()])
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::StaleMemberEpoch));
    assert_eq!(error.broker().unwrap().details.member_epoch, Some(9));
    rig.only();
}
