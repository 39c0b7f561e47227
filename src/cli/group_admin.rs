//! `naru group list|describe|members|delete|evict`: groups as operators see them.

use std::io::{self, IsTerminal};

use clap::Args;
use serde_json::{Value, json};

use super::Context;
use super::failure::{Failure, Outcome};
use super::group::lost_text;
use super::output::{duration_text, facts, line, table};
use super::session::connect;
use super::topic::confirm;
use crate::client::{
    Evict, GroupDescription, GroupListing, GroupMemberDescription, GroupPartitionDescription,
    ListGroupsOptions, MemberRole, TopicPartition,
};
use crate::telemetry::rfc3339_millis;

/// Flags of `group list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only groups whose names match: * any text, ? one character.
    #[arg(long = "match", value_name = "GLOB")]
    pattern: Option<String>,
}

/// A group.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Name of the group.
    group: String,
}

/// Flags of `group evict`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: a member whose machine is gone, before its session ends
  naru group evict billing billing-7f3a5c00aa11bb22 --reason 'host 7 was scrapped'

What it held goes to the others at once. If it lives, it is told, and joins again as another member; a static one that is \
evicted is free to be taken by its next start."
)]
pub(crate) struct EvictArgs {
    /// Name of the group.
    group: String,
    /// Member id, as `group members` shows it.
    #[arg(required_unless_present = "instance")]
    member: Option<String>,
    /// The static member with this instance id instead.
    #[arg(long, value_name = "ID", conflicts_with = "member")]
    instance: Option<String>,
    /// Why, for the broker's log.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

pub(super) async fn list(args: ListArgs, context: &Context) -> Outcome {
    let client = connect(context).await?;
    let options = ListGroupsOptions {
        pattern: args.pattern.unwrap_or_default(),
        ..ListGroupsOptions::default()
    };
    let groups = client.list_groups(&options).await?;
    let items = groups
        .iter()
        .map(|group| (listing_row(group), listing_json(group)));
    let header = ["GROUP", "STATE", "MEMBERS", "TOPICS", "LAG"];
    context.output.list(&header, &[2, 3, 4], items)?;
    Ok(())
}

fn listing_row(group: &GroupListing) -> Vec<String> {
    vec![
        group.group.clone(),
        group.state.name().to_owned(),
        group.members.to_string(),
        group.topics.to_string(),
        group.lag.to_string(),
    ]
}

fn listing_json(group: &GroupListing) -> Value {
    json!({
        "group": group.group, "state": group.state.name(), "members": group.members, "topics": group.topics,
        "lag": group.lag,
    })
}

pub(super) async fn describe(args: NameArgs, context: &Context) -> Outcome {
    let client = connect(context).await?;
    let group = client.describe_group(&args.group).await?;
    if !context.output.is_table() {
        context.output.json(&description_json(&group))?;
        return Ok(());
    }
    line(&summary_text(&group))?;
    if !group.partitions.is_empty() {
        let header = [
            "TOPIC",
            "PART",
            "COMMITTED",
            "END",
            "LAG",
            "BEHIND",
            "MEMBER",
            "HOST",
        ];
        let rows = group.partitions.iter().map(|at| partition_row(&group, at));
        line("")?;
        line(&table(&header, rows.collect(), &[1, 2, 3, 4, 5]))?;
    }
    for at in &group.partitions {
        if let Some(lost) = at.lost() {
            let place = format!("{}/{}", at.partition.topic, at.partition.partition);
            context.output.tell(&lost_text(&group.group, &place, lost));
        }
    }
    if !group.hint.is_empty() {
        context.output.tell(&format!("hint: {}", group.hint));
    }
    Ok(())
}

fn summary_text(group: &GroupDescription) -> String {
    let idle = match group.idle_members {
        0 => String::new(),
        idle => format!(" ({idle} idle)"),
    };
    let unassigned = match group.unassigned_partitions {
        0 => String::new(),
        count => format!(" ({count} unassigned)"),
    };
    let lags = group.partitions.iter().filter_map(|at| at.lag);
    let behind = group.partitions.iter().filter_map(|at| at.lag_time).max();
    let behind = behind.filter(|behind| !behind.is_zero());
    let behind = behind.map_or_else(String::new, |behind| {
        format!(", {} behind", duration_text(behind))
    });
    facts(&[
        ("GROUP", group.group.clone()),
        ("STATE", state_text(group)),
        ("EPOCH", epoch_text(group)),
        ("ASSIGNOR", group.assignor.clone()),
        ("MEMBERS", format!("{}{idle}", group.members.len())),
        (
            "LEADER",
            group.leader_id.clone().unwrap_or_else(|| "-".to_owned()),
        ),
        ("PARTITIONS", format!("{}{unassigned}", group.partitions.len())),
        ("LAG", format!("{} records{behind}", lags.sum::<u64>())),
    ])
}

/// Since when nobody is there, too.
fn state_text(group: &GroupDescription) -> String {
    let since = group.empty_since.map_or_else(String::new, |since| {
        format!(" since {}", rfc3339_millis(since).replace('T', " "))
    });
    format!("{}{since}", group.state.name())
}

fn epoch_text(group: &GroupDescription) -> String {
    if group.group_epoch == group.assignment_epoch {
        return group.group_epoch.to_string();
    }
    format!("{} (assigned: {})", group.group_epoch, group.assignment_epoch)
}

fn partition_row(group: &GroupDescription, at: &GroupPartitionDescription) -> Vec<String> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let holder = at.member_id.as_ref();
    let host = group
        .members
        .iter()
        .find(|member| Some(&member.member_id) == holder);
    let member = match holder {
        Some(member) if at.is_revoking => format!("{member} (releasing)"),
        Some(member) if at.stalled.is_some() => format!("{member} (stalled)"),
        Some(member) => member.clone(),
        None => "(unassigned)".to_owned(),
    };
    vec![
        at.partition.topic.as_ref().to_owned(),
        at.partition.partition.to_string(),
        or_none(at.committed.map(|offset| offset.to_string())),
        at.high_watermark.to_string(),
        or_none(at.lag.map(|lag| lag.to_string())),
        or_none(at.lag_time.map(duration_text)),
        member,
        host.map_or_else(String::new, |member| member.host.clone()),
    ]
}

fn description_json(group: &GroupDescription) -> Value {
    let configs = group
        .configs
        .iter()
        .map(|config| json!({"name": config.name, "value": config.value, "source": config.source}));
    json!({
        "group": group.group, "state": group.state.name(), "group_epoch": group.group_epoch,
        "assignment_epoch": group.assignment_epoch, "assignor": group.assignor, "leader": group.leader_id,
        "idle_members": group.idle_members, "unassigned_partitions": group.unassigned_partitions,
        "empty_since": group.empty_since.map(rfc3339_millis),
        "hint": group.hint, "configs": configs.collect::<Vec<_>>(),
        "members": group.members.iter().map(member_json).collect::<Vec<_>>(),
        "partitions": group.partitions.iter().map(partition_json).collect::<Vec<_>>(),
    })
}

fn partition_json(at: &GroupPartitionDescription) -> Value {
    json!({
        "topic": at.partition.topic.as_ref(), "topic_id": at.partition.topic_id.to_string(),
        "partition": at.partition.partition.0, "committed": at.committed.map(|offset| offset.get()),
        "log_start": at.log_start.get(), "high_watermark": at.high_watermark.get(), "lag": at.lag,
        "lag_ms": at.lag_time.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
        "member": at.member_id, "releasing": at.is_revoking,
        "stalled_ms": at.stalled.map(|stalled| u64::try_from(stalled.as_millis()).unwrap_or(u64::MAX)),
        "lost": at.lost().map(|(first, last)| json!({"first": first.get(), "last": last.get()})),
    })
}

pub(super) async fn members(args: NameArgs, context: &Context) -> Outcome {
    let client = connect(context).await?;
    let group = client.describe_group(&args.group).await?;
    let items = group
        .members
        .iter()
        .map(|member| (member_row(member), member_json(member)));
    let header = [
        "MEMBER",
        "INSTANCE",
        "CLIENT",
        "HOST",
        "EPOCH",
        "ROLE",
        "PARTITIONS",
        "HEARTBEAT",
    ];
    context.output.list(&header, &[4, 7], items)?;
    Ok(())
}

fn member_row(member: &GroupMemberDescription) -> Vec<String> {
    let or_none = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    let role = match &member.role {
        MemberRole::Active if member.is_leader => "active, leader".to_owned(),
        MemberRole::Active => "active".to_owned(),
        MemberRole::Standby { rank, .. } => format!("standby {rank}"),
    };
    let mut holds = partitions_text(&member.assigned);
    if !member.revoking.is_empty() {
        holds = format!("{holds} releasing {}", partitions_text(&member.revoking));
    }
    vec![
        member.member_id.clone(),
        or_none(member.instance_id.as_deref().unwrap_or_default()),
        or_none(&member.client_id),
        member.host.clone(),
        member.member_epoch.to_string(),
        role,
        or_none(holds.trim()),
        format!("{} ago", duration_text(member.last_heartbeat)),
    ]
}

/// `orders/0,2 emails/1`.
pub(super) fn partitions_text(partitions: &[TopicPartition]) -> String {
    let mut text = String::new();
    let mut topic = None;
    for at in partitions {
        if topic == Some(&at.topic) {
            text.push_str(&format!(",{}", at.partition));
        } else {
            let space = if text.is_empty() { "" } else { " " };
            text.push_str(&format!("{space}{}/{}", at.topic, at.partition));
        }
        topic = Some(&at.topic);
    }
    text
}

fn member_json(member: &GroupMemberDescription) -> Value {
    let (role, rank, reason) = match &member.role {
        MemberRole::Active => ("active", None, None),
        MemberRole::Standby { rank, reason } => ("standby", Some(rank), Some(reason)),
    };
    let partitions = |partitions: &[TopicPartition]| {
        let each = partitions.iter();
        let each = each.map(|at| json!({"topic": at.topic.as_ref(), "partition": at.partition.0}));
        each.collect::<Vec<_>>()
    };
    json!({
        "member": member.member_id, "instance": member.instance_id, "client_id": member.client_id,
        "host": member.host, "epoch": member.member_epoch, "role": role, "rank": rank, "reason": reason,
        "leader": member.is_leader, "topics": member.subscription.topics, "patterns": member.subscription.patterns,
        "assigned": partitions(&member.assigned), "releasing": partitions(&member.revoking),
        "last_heartbeat_ms": u64::try_from(member.last_heartbeat.as_millis()).unwrap_or(u64::MAX),
    })
}

pub(super) async fn delete(args: NameArgs, context: &Context) -> Outcome {
    // Before anything else: a script that forgot -y hears of it even when no broker runs.
    if !context.yes && !io::stdin().is_terminal() {
        let message = format!(
            "refusing to delete group '{}' without being asked twice",
            args.group
        );
        return Err(Failure::usage(message).hint("add -y if you mean it").into());
    }
    let client = connect(context).await?;
    if !context.yes {
        let question = format!("delete group '{}' with its committed offsets? [y/N] ", args.group);
        confirm(&question).await?;
    }
    client.delete_group(&args.group).await?;
    if context.output.is_table() {
        line(&format!("group '{}' deleted", args.group))?;
    } else {
        context
            .output
            .json(&json!({"group": args.group, "deleted": true}))?;
    }
    Ok(())
}

pub(super) async fn evict(args: EvictArgs, context: &Context) -> Outcome {
    let who = match (args.member, args.instance) {
        (_, Some(instance)) => Evict::Instance(instance),
        (Some(member), None) => Evict::Member(member),
        (None, None) => return Err(Failure::usage("no member is named".to_owned()).into()),
    };
    let client = connect(context).await?;
    let evicted = client.evict_member(&args.group, who, &args.reason).await?;
    if context.output.is_table() {
        line(&format!(
            "member '{}' is out of group '{}'",
            evicted.member_id, args.group
        ))?;
    } else {
        context.output.json(&json!({
            "group": args.group, "member": evicted.member_id, "group_epoch": evicted.group_epoch,
        }))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Subscription;
    use crate::model::{GroupState, Offset, PartitionId, TopicId};
    use std::time::Duration;

    fn at(topic: &str, partition: u32) -> TopicPartition {
        TopicPartition {
            topic: topic.into(),
            topic_id: TopicId::from_bytes([9; 16]),
            partition: PartitionId(partition),
        }
    }

    fn member() -> GroupMemberDescription {
        GroupMemberDescription {
            member_id: "m-1".to_owned(),
            instance_id: None,
            client_id: "till".to_owned(),
            host: "127.0.0.1:5".to_owned(),
            subscription: Subscription::default(),
            member_epoch: 4,
            assigned: vec![at("emails", 1), at("orders", 0), at("orders", 2)],
            revoking: vec![at("orders", 3)],
            role: MemberRole::Active,
            last_heartbeat: Duration::from_millis(1_200),
            is_leader: true,
        }
    }

    fn partition(holder: Option<&str>, lag: Option<u64>) -> GroupPartitionDescription {
        GroupPartitionDescription {
            partition: at("orders", 3),
            committed: lag.map(|_| Offset::ZERO),
            log_start: Offset::ZERO,
            high_watermark: Offset::new(7).unwrap(),
            lag,
            lag_time: lag.map(|_| Duration::from_secs(41)),
            member_id: holder.map(str::to_owned),
            is_revoking: holder.is_some(),
            stalled: None,
        }
    }

    fn group() -> GroupDescription {
        GroupDescription {
            group: "billing".to_owned(),
            state: GroupState::Reconciling,
            group_epoch: 5,
            assignment_epoch: 4,
            assignor: "sticky".to_owned(),
            leader_id: Some("m-1".to_owned()),
            idle_members: 1,
            unassigned_partitions: 1,
            hint: "one member is idle".to_owned(),
            configs: vec![],
            members: vec![member()],
            partitions: vec![partition(Some("m-1"), Some(7)), partition(None, None)],
            empty_since: None,
        }
    }

    #[test]
    fn a_member_shows_what_it_holds_by_topic() {
        let row = member_row(&member());
        assert_eq!(
            row[5..7],
            ["active, leader", "emails/1 orders/0,2 releasing orders/3"]
        );
        let idle = GroupMemberDescription {
            assigned: vec![],
            revoking: vec![],
            role: MemberRole::Standby {
                rank: 2,
                reason: "3 members, 1 partition".to_owned(),
            },
            ..member()
        };
        assert_eq!(member_row(&idle)[5..7], ["standby 2", "-"]);
        let json = member_json(&idle);
        assert_eq!((&json["role"], &json["rank"]), (&"standby".into(), &2.into()));
    }

    #[test]
    fn a_group_without_members_says_since_when() {
        let empty = GroupDescription {
            state: GroupState::Empty,
            members: vec![],
            empty_since: Some(crate::model::Timestamp(0)),
            ..group()
        };
        let text = summary_text(&empty);
        assert!(text.contains("empty since 1970-01-01 00:00:00.000Z"), "{text}");
        assert_eq!(
            description_json(&empty)["empty_since"],
            "1970-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn a_group_shows_its_lag_who_holds_what_and_who_is_idle() {
        let group = group();
        let text = summary_text(&group);
        for expected in [
            "5 (assigned: 4)",
            "1 (1 idle)",
            "2 (1 unassigned)",
            "7 records, 41",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        let row = partition_row(&group, &group.partitions[0]);
        assert_eq!(row[6..], ["m-1 (releasing)", "127.0.0.1:5"]);
        let stalled = GroupPartitionDescription {
            is_revoking: false,
            stalled: Some(Duration::from_secs(301)),
            ..group.partitions[0].clone()
        };
        assert_eq!(partition_row(&group, &stalled)[6], "m-1 (stalled)");
        assert_eq!(partition_json(&stalled)["stalled_ms"], json!(301_000));
        let nobodys = partition_row(&group, &group.partitions[1]);
        assert_eq!(nobodys[2..], ["-", "7", "-", "-", "(unassigned)", ""]);
        let json = description_json(&group);
        assert_eq!(json["partitions"][0]["lost"], Value::Null);
        let behind = GroupPartitionDescription {
            log_start: Offset::new(5).unwrap(),
            ..group.partitions[0].clone()
        };
        assert_eq!(partition_json(&behind)["lost"], json!({"first": 0, "last": 4}));
        assert_eq!(
            (&json["partitions"][0]["lag_ms"], &json["hint"]),
            (&41_000.into(), &"one member is idle".into())
        );
    }
}
