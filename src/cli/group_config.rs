//! `naru group create` and `naru group config get|set|unset`: settings of groups.

use clap::{Args, Subcommand};
use serde_json::json;

use super::Context;
use super::config_entries::{CHANGED, NOTHING_TO_CHANGE, chosen, show_changes, show_entries};
use super::failure::Outcome;
use super::output::line;
use super::session::connect;
use super::topic::{config_json, parse_config};
use crate::model::shell_word;

/// Flags of `group create`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: a group whose offsets are forgotten a week after its last member has left
  naru group create billing -c offsets.retention.ms=7d

A group need not be created: it is there once somebody joins it or commits. One that is there already is left as it is, which is success."
)]
pub(crate) struct CreateArgs {
    /// Name of the group.
    group: String,
    /// A setting; may be repeated.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse_config)]
    config: Vec<(String, String)>,
}

/// What to do with the settings of a group.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupConfigCommand {
    /// Show the settings in force, and where each comes from.
    Get(GetArgs),
    /// Set settings, all of them or none; in force at once.
    Set(SetArgs),
    /// Let settings go back to the default.
    Unset(UnsetArgs),
}

/// Flags of `group config get`.
#[derive(Debug, Args)]
#[command(after_help = "SOURCE says who sets the value: the group itself, or nobody (default).")]
pub(crate) struct GetArgs {
    /// Name of the group.
    group: String,
    /// Only these settings.
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
}

/// Flags of `group config set`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru group config set billing session.timeout.ms=30s heartbeat.interval.ms=5s
  naru group config set billing assignor=range

Another assignor assigns anew at once. The settings there are: docs/groups.md.")]
pub(crate) struct SetArgs {
    /// Name of the group.
    group: String,
    /// Settings and their values.
    #[arg(value_name = "KEY=VALUE", value_parser = parse_config, required = true)]
    entries: Vec<(String, String)>,
}

/// Flags of `group config unset`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  naru group config unset billing session.timeout.ms")]
pub(crate) struct UnsetArgs {
    /// Name of the group.
    group: String,
    /// Settings that the group is no longer to have of its own.
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<String>,
}

pub(super) async fn create(args: CreateArgs, context: &Context) -> Outcome {
    let client = connect(context).await?;
    let group = client.create_group(&args.group, args.config).await?;
    if !context.output.is_table() {
        let configs: Vec<_> = group.configs.iter().map(config_json).collect();
        context.output.json(&json!({
            "group": args.group, "created": group.created, "configs": configs,
        }))?;
        return Ok(());
    }
    if group.created {
        line(&format!("group '{}' created", args.group))?;
    } else {
        line(&format!(
            "group '{}' exists already, and is as it was",
            args.group
        ))?;
        let command = get_command(&args.group);
        context.output.tell(&format!("its settings: {command}"));
    }
    Ok(())
}

/// The command that shows the settings of a group.
fn get_command(group: &str) -> String {
    format!("naru group config get {}", shell_word(group))
}

pub(super) async fn run(command: GroupConfigCommand, context: &Context) -> Outcome {
    match command {
        GroupConfigCommand::Get(args) => get(args, context).await,
        GroupConfigCommand::Set(args) => alter(&args.group, args.entries, Vec::new(), context).await,
        GroupConfigCommand::Unset(args) => alter(&args.group, Vec::new(), args.keys, context).await,
    }
}

async fn get(args: GetArgs, context: &Context) -> Outcome {
    let client = connect(context).await?;
    let described = client.describe_group(&args.group).await?;
    let of = format!("group '{}'", args.group);
    let command = get_command(&args.group);
    show_entries(context, &chosen(&args.keys, &described.configs, [&of, &command])?)
}

async fn alter(group: &str, set: Vec<(String, String)>, unset: Vec<String>, context: &Context) -> Outcome {
    let client = connect(context).await?;
    let before = client.describe_group(group).await?;
    let after = client.alter_group(group, set, unset).await?;
    let whole = json!({"group": group, "changed": after.changed});
    show_changes(context, whole, [&before.configs, &after.configs])?;
    context
        .output
        .tell(if after.changed { CHANGED } else { NOTHING_TO_CHANGE });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_in_a_command_that_is_shown_is_one_word() {
        assert_eq!(get_command("billing"), "naru group config get billing");
        let odd = get_command("it's $HOME");
        assert_eq!(odd, r"naru group config get 'it'\''s $HOME'");
    }
}
