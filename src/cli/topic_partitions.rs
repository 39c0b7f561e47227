//! `naru topic add-partitions`: more partitions for a topic that is in use.

use clap::Args;
use serde_json::json;

use super::Context;
use super::failure::Outcome;
use super::output::line;
use super::session::connect;
use crate::client::AlterTopicOptions;

/// What to know before, and after.
const WARNING: &str = "with another number of partitions, keys lead to other ones: older records of a key stay where they \
                       are, so its order does not reach over this change";

/// Flags of `topic add-partitions`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru topic add-partitions orders --to 12
  naru topic add-partitions orders -p 12 --dry-run

Partitions are never removed. Which partition a key leads to follows from their number, so it changes: older records of a key stay
where they are, newer ones may go elsewhere, and a consumer may see the newer ones first. Running producers of the Rust client learn
of new partitions within a minute, 'naru consume' within seconds.")]
pub(crate) struct AddPartitionsArgs {
    /// Name of the topic.
    topic: String,
    /// How many partitions it is to have in all.
    #[arg(short = 'p', long = "to", visible_alias = "partitions", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// Only check, and show what would change.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(args: AddPartitionsArgs, context: &Context) -> Outcome {
    let client = connect(context).await?;
    let before = client.describe_topic(&args.topic).await?;
    let options = AlterTopicOptions {
        partitions: args.partitions,
        validate_only: args.dry_run,
        topic_id: Some(before.topic_id),
        ..AlterTopicOptions::default()
    };
    let after = client.alter_topic(&args.topic, options).await?;
    let had = before.partitions.len();
    if context.output.is_table() {
        let has = after.partitions;
        line(&match (after.changed, args.dry_run) {
            (false, _) => format!("topic '{}' has {has} partitions already", args.topic),
            (true, true) => format!(
                "topic '{}' would have {has} partitions instead of {had}",
                args.topic
            ),
            (true, false) => format!("topic '{}' has {has} partitions now, it had {had}", args.topic),
        })?;
    } else {
        context.output.json(&json!({
            "topic": args.topic, "id": after.topic_id.to_string(), "partitions_before": had,
            "partitions": after.partitions, "changed": after.changed, "dry_run": args.dry_run,
        }))?;
    }
    if after.changed {
        context.output.tell(&format!("warning: {WARNING}"));
    }
    Ok(())
}
