//! `naru group offsets|commit`; the other commands of groups are in `group_admin` and `group_config`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Context;
use super::failure::{Exit, Failure, Outcome, Stopped};
use super::group_admin::{self, EvictArgs, ListArgs, NameArgs};
use super::group_config::{self, CreateArgs, GroupConfigCommand};
use super::offset_range::{Begin, parse_begin_alone};
use super::output::{line, table};
use super::ranges::resolve_begin;
use super::session::connect;
use crate::client::{Client, GroupOffset, MetadataTopics, OffsetToCommit};
use crate::model::{Offset, shell_word};
use crate::telemetry::rfc3339_millis;

/// What to do with groups.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Make a group before anybody joins it, with settings.
    Create(CreateArgs),
    /// List groups with their state, members and lag.
    List(ListArgs),
    /// Show everything about a group: members, lag, who reads what.
    Describe(NameArgs),
    /// Show the members of a group: what each one holds, and when it was heard of.
    Members(NameArgs),
    /// Show and change the settings of a group.
    #[command(subcommand)]
    Config(GroupConfigCommand),
    /// Delete a group without members, with its committed offsets and settings.
    Delete(NameArgs),
    /// Remove a member at once; what it held goes to the others.
    Evict(EvictArgs),
    /// Show how far a group is: committed offset, end and lag of each partition.
    Offsets(OffsetsArgs),
    /// Set how far a group is in a partition.
    Commit(CommitArgs),
}

/// Flags of `group offsets`.
#[derive(Debug, Args)]
#[command(
    after_help = "Works whether or not somebody of the group is connected. LAG counts records that can still be read."
)]
pub(crate) struct OffsetsArgs {
    /// Name of the group.
    group: String,
}

/// Flags of `group commit`.
#[derive(Debug, Args)]
#[command(after_help = "Example: read partition 0 again from the first record kept
  naru group commit billing orders -p 0 -o start

Refused while the group has members. A consumer that assigns itself does not notice; its next commit replaces this one. Stop it first.")]
pub(crate) struct CommitArgs {
    /// Name of the group.
    group: String,
    /// The topic.
    topic: String,
    /// The partition.
    #[arg(short, long, value_name = "N")]
    partition: u32,
    /// Offset of the next record wanted: start, end, N, +N, -N, or @TIME.
    #[arg(short, long, value_parser = parse_begin_alone, allow_hyphen_values = true)]
    offset: Begin,
}

pub(crate) async fn run(command: GroupCommand, context: &Context) -> Outcome {
    match command {
        GroupCommand::Create(args) => group_config::create(args, context).await,
        GroupCommand::Config(command) => group_config::run(command, context).await,
        GroupCommand::List(args) => group_admin::list(args, context).await,
        GroupCommand::Describe(args) => group_admin::describe(args, context).await,
        GroupCommand::Members(args) => group_admin::members(args, context).await,
        GroupCommand::Delete(args) => group_admin::delete(args, context).await,
        GroupCommand::Evict(args) => group_admin::evict(args, context).await,
        GroupCommand::Offsets(args) => offsets(args, context).await,
        GroupCommand::Commit(args) => commit(args, context).await,
    }
}

/// How a group comes to be there.
fn committing(group: &str) -> String {
    format!(
        "a group is there once it commits: naru consume TOPIC -g {}",
        shell_word(group)
    )
}

async fn offsets(args: OffsetsArgs, context: &Context) -> Outcome {
    let client = connect(context).await?;
    let offsets = all_partitions(&client, &args.group).await?;
    if offsets.is_empty() {
        let message = format!("group '{}' has committed nothing", args.group);
        return Err(Failure::new(Exit::NotFound, "GROUP_NOT_FOUND", message)
            .hint(committing(&args.group))
            .into());
    }
    if !context.output.is_table() {
        let values = offsets.iter().map(|offset| offset_json(&args.group, offset));
        context.output.json_all(values.collect())?;
        return Ok(());
    }
    let header = [
        "TOPIC",
        "PART",
        "COMMITTED",
        "START",
        "END",
        "LAG",
        "COMMITTED AT",
    ];
    let rows = offsets.iter().map(offset_row).collect();
    line(&table(&header, rows, &[1, 2, 3, 4, 5]))?;
    for offset in &offsets {
        if let Some(lost) = offset.lost() {
            let place = format!("{}/{}", offset.topic, offset.partition);
            context.output.tell(&lost_text(&args.group, &place, lost));
        }
    }
    Ok(())
}

/// Every partition of every topic that the group has committed something of: one that it never committed may be the one
/// that nobody reads.
async fn all_partitions(client: &Client, group: &str) -> Result<Vec<GroupOffset>, Stopped> {
    let committed = client.fetch_all_offsets(group).await?;
    let mut topics: Vec<String> = committed.into_iter().map(|offset| offset.topic).collect();
    topics.dedup();
    let metadata = client.metadata(MetadataTopics::Named(topics)).await?;
    let mut found = Vec::new();
    for topic in metadata.topics {
        // A topic that was deleted in between took its offsets with it.
        let Ok((_, count)) = topic.result else { continue };
        let partitions: Vec<u32> = (0..count).collect();
        let offsets = client.fetch_offsets(group, &topic.name, &partitions).await?;
        found.extend(offsets.into_iter().flatten());
    }
    Ok(found)
}

fn offset_json(group: &str, offset: &GroupOffset) -> Value {
    let committed = offset.committed.as_ref();
    json!({
        "group": group, "topic": offset.topic, "topic_id": offset.topic_id.to_string(),
        "partition": offset.partition.0,
        "committed": committed.map(|committed| committed.offset.get()),
        "committed_at": committed.map(|committed| rfc3339_millis(committed.at)),
        "leader_epoch": committed.and_then(|committed| committed.leader_epoch).map(|epoch| epoch.0),
        "metadata": committed.map(|committed| committed.metadata.as_str()),
        "log_start": offset.log_start.get(), "high_watermark": offset.high_watermark.get(), "lag": offset.lag(),
        "lost": offset.lost().map(|(first, last)| json!({"first": first.get(), "last": last.get()})),
    })
}

fn offset_row(offset: &GroupOffset) -> Vec<String> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let committed = offset.committed.as_ref();
    vec![
        offset.topic.clone(),
        offset.partition.to_string(),
        or_none(committed.map(|committed| committed.offset.to_string())),
        offset.log_start.to_string(),
        offset.high_watermark.to_string(),
        or_none(offset.lag().map(|lag| lag.to_string())),
        or_none(committed.map(|committed| rfc3339_millis(committed.at).replace('T', " "))),
    ]
}

/// What retention took before the group came to it.
pub(super) fn lost_text(group: &str, place: &str, (first, last): (Offset, Offset)) -> String {
    format!("offsets {first} to {last} of {place} are gone, and group {group} has not read them")
}

async fn commit(args: CommitArgs, context: &Context) -> Outcome {
    let client = connect(context).await?;
    let offset = resolve_begin(&client, &args.topic, args.partition, args.offset).await?;
    let item = OffsetToCommit::new(args.topic.as_str(), args.partition, offset);
    let at = client.commit_offsets(&args.group, vec![item]).await?;
    if context.output.is_table() {
        line(&format!(
            "group '{}' goes on at {offset} in {}/{}",
            args.group, args.topic, args.partition
        ))?;
    } else {
        context.output.json(&json!({
            "group": args.group, "topic": args.topic, "partition": args.partition, "committed": offset.get(),
            "committed_at": rfc3339_millis(at),
        }))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::CommittedOffset;
    use crate::model::{PartitionId, Timestamp, TopicId};

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    #[test]
    fn group_in_a_hint_is_one_word_of_the_command() {
        assert!(committing("my group's").ends_with(r"-g 'my group'\''s'"));
        assert!(committing("billing").ends_with("-g billing"));
    }

    fn place(committed: Option<i64>) -> GroupOffset {
        GroupOffset {
            topic: "orders".to_owned(),
            topic_id: TopicId::from_bytes([9; 16]),
            partition: PartitionId(3),
            committed: committed.map(|offset| CommittedOffset {
                offset: at(offset),
                leader_epoch: None,
                metadata: "half".to_owned(),
                at: Timestamp(0),
            }),
            log_start: at(5),
            high_watermark: at(20),
        }
    }

    #[test]
    fn a_partition_without_a_commit_has_no_lag_but_is_shown() {
        let row = offset_row(&place(None));
        assert_eq!(row, ["orders", "3", "-", "5", "20", "-", "-"]);
        let json = offset_json("g", &place(None));
        assert_eq!((&json["committed"], &json["lag"]), (&Value::Null, &Value::Null));
        let row = offset_row(&place(Some(12)));
        assert_eq!(row[2..6], ["12", "5", "20", "8"]);
        let json = offset_json("g", &place(Some(12)));
        assert_eq!((&json["committed"], &json["lag"]), (&12.into(), &8.into()));
        assert_eq!((&json["metadata"], &json["lost"]), (&"half".into(), &Value::Null));
    }

    #[test]
    fn lost_records_are_named() {
        assert_eq!(place(Some(5)).lost(), None);
        assert_eq!(
            lost_text("g", "orders/3", place(Some(2)).lost().unwrap()),
            "offsets 2 to 4 of orders/3 are gone, and group g has not read them"
        );
        let json = offset_json("g", &place(Some(2)));
        assert_eq!((&json["lost"]["first"], &json["lag"]), (&2.into(), &15.into()));
    }
}
