//! What members of groups and operators say: requests as they go out, answers as they are understood.

use super::*;
use crate::model::{
    Acks, GroupState, LeaderEpoch, Lsn, PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId,
};

const ID: [u8; 16] = [9; 16];

type Asked = Arc<Mutex<Vec<RequestBody>>>;

/// A broker that answers everything but Hello with this, and what it was asked.
async fn always(body: ResponseBody) -> (FakeBroker, Asked) {
    scripted(move |_| answer(body.clone())).await
}

/// A broker that answers everything but Hello by this, told how often it was asked before.
async fn scripted(act: impl Fn(usize) -> Act + Send + 'static) -> (FakeBroker, Asked) {
    let asked = Asked::default();
    let seen = asked.clone();
    let script = move |_, body: &RequestBody| {
        if matches!(body, RequestBody::Hello(_)) {
            return Act::Serve;
        }
        let mut seen = seen.lock().unwrap();
        seen.push(body.clone());
        act(seen.len() - 1)
    };
    (FakeBroker::start(1, script).await, asked)
}

fn only(asked: &Asked) -> RequestBody {
    let mut asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 1, "{asked:?}");
    asked.remove(0)
}

fn orders(partition: u32) -> TopicPartition {
    TopicPartition {
        topic: "orders".into(),
        topic_id: TopicId::from_bytes(ID),
        partition: PartitionId(partition),
    }
}

fn on_wire(partitions: &[u32]) -> pb::TopicPartitions {
    pb::TopicPartitions {
        topic: "orders".into(),
        topic_id: Bytes::from_static(&ID),
        partitions: partitions.to_vec(),
    }
}

fn member() -> GroupMember {
    GroupMember {
        member_id: "m-1".into(),
        member_epoch: 7,
        instance_id: Some("desk".into()),
    }
}

fn member_on_wire() -> Option<pb::GroupMember> {
    Some(pb::GroupMember {
        member_id: "m-1".into(),
        member_epoch: 7,
        instance_id: "desk".into(),
    })
}

fn beat() -> GroupHeartbeat {
    let other = TopicPartition {
        topic: "bills".into(),
        topic_id: TopicId::from_bytes([8; 16]),
        partition: PartitionId(0),
    };
    GroupHeartbeat {
        group: "g".into(),
        member: member(),
        revision: 40,
        client_id: "till 3".into(),
        max_wait: ms(250),
        subscription: Some(Subscription {
            topics: vec!["orders".into()],
            patterns: vec!["b*".into()],
        }),
        owned: Some(vec![orders(2), other, orders(0)]),
    }
}

fn membership() -> pb::GroupHeartbeatResponse {
    pb::GroupHeartbeatResponse {
        member_epoch: 7,
        group_epoch: 8,
        revision: 41,
        leader_id: "m-0".into(),
        is_leader: false,
        role: pb::MemberRole::Standby.into(),
        standby_rank: 2,
        standby_reason: "3 members, 1 partition".into(),
        group_state: pb::GroupState::GroupReconciling.into(),
        heartbeat_ms: 3000,
        session_timeout_ms: 10_000,
        handoff_timeout_ms: 30_000,
        proposal_wanted: Some(pb::ProposalWanted {
            group_epoch: 8,
            deadline_ms: 5000,
            members: vec![pb::ProposalMember {
                member_id: "m-0".into(),
                topics: vec!["orders".into()],
                held: vec![on_wire(&[1])],
                ..Default::default()
            }],
            partitions: vec![on_wire(&[0, 1])],
        }),
        assigned: vec![pb::AssignedTopic {
            topic: "orders".into(),
            topic_id: Bytes::from_static(&ID),
            partitions: vec![
                pb::AssignedPartition {
                    partition: 0,
                    committed_offset: Some(5),
                    maybe_seen_upto: Some(9),
                },
                pb::AssignedPartition {
                    partition: 1,
                    committed_offset: None,
                    maybe_seen_upto: None,
                },
            ],
        }],
        revoking: vec![on_wire(&[2, 3])],
    }
}

#[tokio::test]
async fn a_heartbeat_says_all_it_knows() {
    let (broker, asked) = always(ResponseBody::GroupHeartbeat(membership())).await;
    let client = broker.client().await;
    client.group_heartbeat(beat()).await.unwrap();
    let bills = pb::TopicPartitions {
        topic: "bills".into(),
        topic_id: Bytes::from_static(&[8; 16]),
        partitions: vec![0],
    };
    let expected = pb::GroupHeartbeatRequest {
        group: "g".into(),
        member_id: "m-1".into(),
        member_epoch: 7,
        revision: 40,
        instance_id: "desk".into(),
        client_id: "till 3".into(),
        max_wait_ms: 250,
        subscription: Some(pb::Subscription {
            topics: vec!["orders".into()],
            patterns: vec!["b*".into()],
        }),
        owned: Some(pb::OwnedPartitions {
            topics: vec![on_wire(&[2, 0]), bills],
        }),
    };
    assert_eq!(only(&asked), RequestBody::GroupHeartbeat(expected));

    let quiet = GroupHeartbeat {
        subscription: None,
        owned: Some(Vec::new()),
        ..beat()
    };
    client.group_heartbeat(quiet).await.unwrap();
    let RequestBody::GroupHeartbeat(sent) = only(&asked) else {
        panic!("another request");
    };
    // Nothing held is not the same as no news.
    assert_eq!(
        (sent.subscription, sent.owned),
        (None, Some(pb::OwnedPartitions::default()))
    );
}

#[tokio::test]
async fn the_answer_to_a_heartbeat_is_understood() {
    let (broker, _) = always(ResponseBody::GroupHeartbeat(membership())).await;
    let got = broker.client().await.group_heartbeat(beat()).await.unwrap();
    let assigned = |index, committed, maybe_seen_upto| AssignedPartition {
        partition: orders(index),
        committed,
        maybe_seen_upto,
    };
    let expected = Membership {
        member_epoch: 7,
        group_epoch: 8,
        revision: 41,
        leader_id: "m-0".into(),
        is_leader: false,
        role: MemberRole::Standby {
            rank: 2,
            reason: "3 members, 1 partition".into(),
        },
        state: GroupState::Reconciling,
        heartbeat: ms(3000),
        session_timeout: ms(10_000),
        handoff_timeout: ms(30_000),
        proposal_wanted: Some(ProposalWanted {
            group_epoch: 8,
            deadline: ms(5000),
            members: vec![ProposalMember {
                member_id: "m-0".into(),
                instance_id: None,
                client_id: String::new(),
                topics: vec!["orders".into()],
                held: vec![orders(1)],
            }],
            partitions: vec![orders(0), orders(1)],
        }),
        assigned: vec![
            assigned(0, Some(offset(5)), Some(offset(9))),
            assigned(1, None, None),
        ],
        revoking: vec![orders(2), orders(3)],
    };
    assert_eq!(got, expected);
}

#[tokio::test]
async fn answers_to_heartbeats_that_make_no_sense_are_decode_errors() {
    type Spoil = fn(&mut pb::GroupHeartbeatResponse);
    let spoils: [Spoil; 7] = [
        |answer| answer.role = 0,
        |answer| answer.role = 77,
        |answer| answer.group_state = 0,
        |answer| answer.assigned[0].topic_id = Bytes::from_static(b"short"),
        |answer| answer.assigned[0].partitions[0].committed_offset = Some(-1),
        |answer| answer.assigned[0].partitions[1].maybe_seen_upto = Some(-1),
        |answer| answer.revoking[0].topic_id = Bytes::new(),
    ];
    for (index, spoil) in spoils.iter().enumerate() {
        let mut answer = membership();
        spoil(&mut answer);
        let (broker, _) = always(ResponseBody::GroupHeartbeat(answer)).await;
        let error = broker.client().await.group_heartbeat(beat()).await.unwrap_err();
        assert!(matches!(error, Error::Decode { .. }), "{index}: {error}");
    }
}

#[tokio::test]
async fn a_heartbeat_is_sent_once_whatever_becomes_of_it() {
    let (broker, asked) = scripted(|_| Act::HangUp).await;
    let error = broker.client().await.group_heartbeat(beat()).await.unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    only(&asked);
    let busy = ResponseBody::Error(refusal(ErrorCode::UnreleasedInstanceId));
    let (broker, asked) = always(busy).await;
    let error = broker.client().await.group_heartbeat(beat()).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UnreleasedInstanceId));
    only(&asked);
}

#[tokio::test]
async fn heartbeats_that_wait_leave_room_for_everything_else() {
    let script = |_, body: &RequestBody| match body {
        RequestBody::GroupHeartbeat(beat) if beat.max_wait_ms > 0 => Act::Ignore,
        RequestBody::GroupHeartbeat(_) => answer(ResponseBody::GroupHeartbeat(membership())),
        _ => Act::Serve,
    };
    let broker = FakeBroker::start(1, script).await;
    let client = broker.client().await;
    let mut waiting = tokio::task::JoinSet::new();
    // As many as the connection may have that wait, and as many as it may have that run.
    for _ in 0..8 {
        let client = client.clone();
        let long = GroupHeartbeat {
            max_wait: Duration::from_secs(60),
            ..beat()
        };
        waiting.spawn(async move { client.group_heartbeat(long).await });
    }
    let short = GroupHeartbeat {
        max_wait: Duration::ZERO,
        ..beat()
    };
    client.group_heartbeat(short).await.unwrap();
    client.ping(Bytes::new()).await.unwrap();
    assert!(waiting.try_join_next().is_none(), "they wait");
}

#[tokio::test]
async fn what_only_a_heartbeat_can_mend_is_not_repeated() {
    for code in [
        ErrorCode::StaleMemberEpoch,
        ErrorCode::UnknownMemberId,
        ErrorCode::FencedMemberEpoch,
        ErrorCode::FencedInstanceId,
    ] {
        let (broker, asked) = always(ResponseBody::Error(refusal(code))).await;
        let offsets = vec![OffsetToCommit::new("orders", 0, offset(4))];
        let error = broker
            .client()
            .await
            .commit_offsets_as("g", &member(), offsets)
            .await
            .unwrap_err();
        assert_eq!(error.code(), Some(code));
        assert!(!error.may_have_taken_effect());
        let RequestBody::CommitOffsets(sent) = only(&asked) else {
            panic!("another request");
        };
        assert_eq!((sent.member, sent.offsets.len()), (member_on_wire(), 1));
    }
    let (broker, asked) = scripted(|before| match before {
        0 => answer(ResponseBody::Error(refusal(ErrorCode::Backpressure))),
        _ => answer(ResponseBody::CommitOffsets(pb::CommitOffsetsResponse {
            committed_ms: 3,
        })),
    })
    .await;
    let client = broker.client().await;
    let committed = client.commit_offsets_as("g", &member(), Vec::new()).await;
    assert_eq!(committed, Ok(Timestamp(3)));
    assert_eq!(asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_close_whose_answer_was_lost_is_repeated() {
    let (broker, asked) = scripted(|before| match before {
        0 => Act::HangUp,
        1 => answer(ResponseBody::CloseConsumer(pb::CloseConsumerResponse {
            committed_ms: 9,
            left: true,
        })),
        _ => answer(ResponseBody::Error(refusal(ErrorCode::UnknownMemberId))),
    })
    .await;
    let client = broker.client().await;
    let offsets = vec![OffsetToCommit::new("orders", 0, offset(4))];
    let closed = client.close_consumer("g", &member(), offsets).await;
    assert_eq!(
        closed,
        Ok(ClosedConsumer {
            at: Timestamp(9),
            left: true
        })
    );
    {
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 2);
        assert_eq!(asked[0], asked[1]);
        let RequestBody::CloseConsumer(sent) = &asked[0] else {
            panic!("another request");
        };
        assert_eq!((&sent.member, sent.offsets.len()), (&member_on_wire(), 1));
    }
    let again = client.close_consumer("g", &member(), Vec::new()).await;
    assert_eq!(again.unwrap_err().code(), Some(ErrorCode::UnknownMemberId));
}

#[tokio::test]
async fn a_proposal_names_what_each_member_is_to_hold() {
    let (broker, asked) = always(ResponseBody::ProposeAssignment(Default::default())).await;
    let assignments = vec![
        ("m-1".to_owned(), vec![orders(0), orders(1)]),
        ("m-2".to_owned(), Vec::new()),
    ];
    let client = broker.client().await;
    client
        .propose_assignment("g", &member(), 8, assignments)
        .await
        .unwrap();
    let expected = |member_id: &str, partitions| pb::MemberAssignment {
        member_id: member_id.into(),
        partitions,
    };
    assert_eq!(
        only(&asked),
        RequestBody::ProposeAssignment(pb::ProposeAssignmentRequest {
            group: "g".into(),
            member: member_on_wire(),
            group_epoch: 8,
            assignments: vec![expected("m-1", vec![on_wire(&[0, 1])]), expected("m-2", vec![])],
        })
    );
}

fn entry(name: &str, value: &str, source: &str) -> pb::ConfigEntry {
    pb::ConfigEntry {
        name: name.into(),
        value: value.into(),
        source: source.into(),
        without_effect: false,
    }
}

#[tokio::test]
async fn settings_of_groups_go_out_and_come_back() {
    let configs = vec![entry("assignor", "range", "group")];
    let (broker, asked) = always(ResponseBody::CreateGroup(pb::CreateGroupResponse {
        created: true,
        configs: configs.clone(),
    }))
    .await;
    let set = vec![("assignor".to_owned(), "range".to_owned())];
    let created = broker
        .client()
        .await
        .create_group("g", set.clone())
        .await
        .unwrap();
    assert!(created.created);
    assert_eq!(created.configs[0].source, "group");
    let sent = vec![entry("assignor", "range", "")];
    assert_eq!(
        only(&asked),
        RequestBody::CreateGroup(pb::CreateGroupRequest {
            group: "g".into(),
            configs: sent.clone(),
        })
    );

    let (broker, asked) = always(ResponseBody::AlterGroup(pb::AlterGroupResponse {
        configs,
        changed: true,
    }))
    .await;
    let unset = vec!["session.timeout.ms".to_owned()];
    let client = broker.client().await;
    let altered = client.alter_group("g", set, unset.clone()).await.unwrap();
    assert_eq!((altered.changed, altered.configs.len()), (true, 1));
    assert_eq!(
        only(&asked),
        RequestBody::AlterGroup(pb::AlterGroupRequest {
            group: "g".into(),
            set: sent,
            unset,
        })
    );
}

#[tokio::test]
async fn what_removes_is_not_repeated_when_its_answer_was_lost() {
    let (broker, asked) = scripted(|before| match before {
        0 | 2 => Act::HangUp,
        1 => answer(ResponseBody::DeleteGroup(pb::DeleteGroupResponse {})),
        _ => answer(ResponseBody::EvictMember(pb::EvictMemberResponse {
            member_id: "m-1".into(),
            group_epoch: 12,
        })),
    })
    .await;
    let client = broker.client().await;
    let lost = client.delete_group("g").await.unwrap_err();
    assert!(lost.may_have_taken_effect());
    client.delete_group("g").await.unwrap();
    let by_name = Evict::Instance("desk".into());
    assert!(client.evict_member("g", by_name, "stuck").await.is_err());
    let by_id = Evict::Member("m-1".into());
    let evicted = client.evict_member("g", by_id, "stuck").await.unwrap();
    assert_eq!((evicted.member_id.as_str(), evicted.group_epoch), ("m-1", 12));
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 4);
    let evict = |member_id: &str, instance_id: &str| {
        RequestBody::EvictMember(pb::EvictMemberRequest {
            group: "g".into(),
            member_id: member_id.into(),
            instance_id: instance_id.into(),
            reason: "stuck".into(),
        })
    };
    assert_eq!(asked[2..], [evict("", "desk"), evict("m-1", "")]);
}

fn described() -> pb::DescribeGroupResponse {
    pb::DescribeGroupResponse {
        empty_since_ms: None,
        group: "g".into(),
        state: pb::GroupState::GroupStable.into(),
        group_epoch: 8,
        assignment_epoch: 8,
        assignor: "sticky".into(),
        leader_id: "m-1".into(),
        idle_members: 1,
        unassigned_partitions: 2,
        hint: "add partitions".into(),
        configs: vec![entry("assignor", "sticky", "default")],
        members: vec![pb::GroupMemberDescription {
            member_id: "m-1".into(),
            instance_id: String::new(),
            client_id: "till 3".into(),
            host: "10.0.0.7".into(),
            subscription: Some(pb::Subscription {
                topics: vec!["orders".into()],
                patterns: Vec::new(),
            }),
            member_epoch: 8,
            assigned: vec![on_wire(&[0])],
            revoking: vec![on_wire(&[1])],
            role: pb::MemberRole::Active.into(),
            standby_rank: 0,
            last_heartbeat_ms: 40,
            is_leader: true,
        }],
        partitions: vec![pb::GroupPartitionDescription {
            partition: Some(pb::TopicPartition {
                topic: "orders".into(),
                topic_id: Bytes::from_static(&ID),
                partition: 1,
            }),
            committed_offset: Some(5),
            log_start_offset: 1,
            high_watermark: 9,
            lag: Some(4),
            lag_ms: Some(1500),
            member_id: "m-1".into(),
            revoking: true,
            stalled_ms: Some(301_000),
        }],
    }
}

#[tokio::test]
async fn a_described_group_is_understood() {
    let (broker, asked) = always(ResponseBody::DescribeGroup(described())).await;
    let group = broker.client().await.describe_group("g").await.unwrap();
    assert!(matches!(only(&asked), RequestBody::DescribeGroup(sent) if sent.group == "g"));
    assert_eq!((group.state, group.group_epoch), (GroupState::Stable, 8));
    assert_eq!(
        (group.assignor.as_str(), group.hint.as_str()),
        ("sticky", "add partitions")
    );
    assert_eq!((group.idle_members, group.unassigned_partitions), (1, 2));
    assert_eq!(group.leader_id.as_deref(), Some("m-1"));
    let [member] = &group.members[..] else {
        panic!("{:?}", group.members);
    };
    assert_eq!((&member.instance_id, member.host.as_str()), (&None, "10.0.0.7"));
    assert_eq!(
        (&member.assigned, &member.revoking),
        (&vec![orders(0)], &vec![orders(1)])
    );
    assert_eq!(
        (&member.role, member.last_heartbeat),
        (&MemberRole::Active, ms(40))
    );
    let expected = GroupPartitionDescription {
        stalled: Some(Duration::from_secs(301)),
        partition: orders(1),
        committed: Some(offset(5)),
        log_start: offset(1),
        high_watermark: offset(9),
        lag: Some(4),
        lag_time: Some(ms(1500)),
        member_id: Some("m-1".into()),
        is_revoking: true,
    };
    assert_eq!(group.partitions, [expected]);
}

#[tokio::test]
async fn descriptions_that_make_no_sense_are_decode_errors() {
    type Spoil = fn(&mut pb::DescribeGroupResponse);
    let spoils: [Spoil; 6] = [
        |group| group.state = 0,
        |group| group.members[0].role = 0,
        |group| group.members[0].assigned[0].topic_id = Bytes::new(),
        |group| group.partitions[0].partition = None,
        |group| group.partitions[0].lag = Some(-1),
        |group| group.partitions[0].high_watermark = -1,
    ];
    for (index, spoil) in spoils.iter().enumerate() {
        let mut group = described();
        spoil(&mut group);
        let (broker, _) = always(ResponseBody::DescribeGroup(group)).await;
        let error = broker.client().await.describe_group("g").await.unwrap_err();
        assert!(matches!(error, Error::Decode { .. }), "{index}: {error}");
    }
}

#[tokio::test]
async fn all_groups_are_listed_page_by_page() {
    let page = |group: &str, cursor: &str| {
        ResponseBody::ListGroups(pb::ListGroupsResponse {
            groups: vec![pb::GroupListing {
                group: group.into(),
                state: pb::GroupState::GroupEmpty.into(),
                members: 0,
                topics: 1,
                lag: 12,
            }],
            cursor: cursor.into(),
        })
    };
    let (first, last) = (page("a", "a"), page("b", ""));
    let (broker, asked) =
        scripted(move |before| answer(if before == 0 { first.clone() } else { last.clone() })).await;
    let options = ListGroupsOptions {
        pattern: "*".into(),
        page: 1,
    };
    let groups = broker.client().await.list_groups(&options).await.unwrap();
    let names: Vec<_> = groups.iter().map(|group| group.group.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!((groups[0].state, groups[0].lag), (GroupState::Empty, 12));
    let asked = asked.lock().unwrap();
    let request = |cursor: &str| {
        RequestBody::ListGroups(pb::ListGroupsRequest {
            cursor: cursor.into(),
            count: 1,
            r#match: "*".into(),
        })
    };
    assert_eq!(*asked, [request(""), request("a")]);
}

fn step() -> Step {
    Step {
        group: "g".into(),
        member: Some(member()),
        producer: (ProducerId(5), ProducerEpoch(1)),
        sequence: Sequence(3),
        offsets: vec![OffsetToCommit::new("orders", 0, offset(4))],
        appends: vec![StepAppend {
            topic: "bills".into(),
            topic_id: None,
            partition: PartitionId(2),
            batch: Bytes::from_static(b"batch"),
        }],
    }
}

#[tokio::test]
async fn a_step_goes_out_whole_and_its_answer_is_understood() {
    let appended = pb::SteppedPartition {
        base_offset: 10,
        last_offset: 11,
        append_time: 77,
        leader_epoch: 2,
    };
    let stepped = pb::StepResponse {
        committed_ms: 78,
        duplicate: false,
        acks: pb::Acks::Fsync.into(),
        durable_through: Some(6),
        appends: vec![appended],
    };
    let (broker, asked) = scripted(move |before| match before {
        0 => Act::HangUp,
        _ => answer(ResponseBody::Step(stepped.clone())),
    })
    .await;
    let got = broker.client().await.step(step()).await.unwrap();
    assert_eq!(
        got,
        Stepped {
            committed: Timestamp(78),
            duplicate: false,
            acks: Acks::Fsync,
            durable_through: Some(Lsn(6)),
            appends: vec![SteppedAppend {
                base: offset(10),
                last: offset(11),
                append_time: Timestamp(77),
                leader_epoch: LeaderEpoch(2),
            }],
        }
    );
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 2, "repeated, since the broker knows it again");
    assert_eq!(asked[0], asked[1]);
    let RequestBody::Step(sent) = &asked[0] else {
        panic!("another request");
    };
    assert_eq!((sent.producer_id, sent.producer_epoch, sent.sequence), (5, 1, 3));
    assert_eq!((&sent.member, sent.offsets.len()), (&member_on_wire(), 1));
    let batch = pb::produce_partition::Payload::Raw(Bytes::from_static(b"batch"));
    assert_eq!(sent.appends[0].payload, Some(batch));
}

#[tokio::test]
async fn a_step_must_be_answered_append_by_append() {
    let none = |duplicate| {
        ResponseBody::Step(pb::StepResponse {
            duplicate,
            acks: pb::Acks::Memory.into(),
            ..Default::default()
        })
    };
    let (broker, _) = always(none(false)).await;
    let error = broker.client().await.step(step()).await.unwrap_err();
    assert!(matches!(error, Error::Decode { .. }), "{error}");
    let (broker, _) = always(none(true)).await;
    let old = broker.client().await.step(step()).await.unwrap();
    assert!(old.duplicate && old.appends.is_empty());
}

#[tokio::test]
async fn producers_of_steps_are_made_and_bumped() {
    let broker = FakeBroker::start(1, |_, _| Act::Serve).await;
    let client = broker.client().await;
    let (id, epoch) = client.init_producer(None).await.unwrap();
    assert_eq!(epoch, ProducerEpoch(0));
    assert_eq!(
        client.init_producer(Some((id, epoch))).await,
        Ok((id, ProducerEpoch(1)))
    );
    let stale = client.init_producer(Some((id, epoch))).await.unwrap_err();
    assert_eq!(stale.code(), Some(ErrorCode::InvalidProducerEpoch));
}
