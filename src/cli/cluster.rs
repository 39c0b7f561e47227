//! `naru cluster info|health`: who the broker is and how it is.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Context;
use super::failure::{Exit, Failure, Outcome, Stopped};
use super::output::{bytes_text, duration_text, facts, line};
use super::session::connect;
use crate::client::{Client, ClusterDescription};
use crate::model::{MemoryHealth, RecoverySummary, StorageHealth, StorageState};
use crate::rt::{Clock as _, SystemClock};

/// What to ask about the cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show version, addresses, limits and storage engine of the broker.
    Info,
    /// Say whether the broker is healthy, and why not; exit code 8 if it is not.
    Health(HealthArgs),
}

/// Flags of `cluster health`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru cluster health
  naru cluster health --watch --exit-when-healthy --timeout 60s
  naru cluster health --format json

Exit code 0 if it is healthy, 8 if it is not, 6 if no broker answers. With --exit-when-healthy a broker that does not answer
yet is asked again for --timeout.")]
pub(crate) struct HealthArgs {
    /// Ask again every --interval.
    #[arg(short, long)]
    watch: bool,
    /// Between two questions of --watch.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = super::parse_duration)]
    interval: Duration,
    /// With --watch: end with exit code 0 as soon as the broker is healthy.
    #[arg(long, requires = "watch")]
    exit_when_healthy: bool,
}

pub(crate) async fn run(command: ClusterCommand, context: &Context) -> Outcome {
    match command {
        ClusterCommand::Info => info(context).await,
        ClusterCommand::Health(args) if args.watch => watch(&args, context).await,
        ClusterCommand::Health(_) => {
            let described = connect(context).await?.describe_cluster().await?;
            show_health(&described, context)?;
            verdict(&described)
        }
    }
}

async fn info(context: &Context) -> Outcome {
    let described = connect(context).await?.describe_cluster().await?;
    if context.output.is_table() {
        line(&info_text(&described))?;
    } else {
        context.output.json(&info_json(&described))?;
    }
    Ok(())
}

/// Asks again and again. Until the first answer nobody needs to be there if one waits for health.
async fn watch(args: &HealthArgs, context: &Context) -> Outcome {
    let clock = SystemClock::new();
    let mut client: Option<Client> = None;
    loop {
        match ask(&mut client, context).await {
            Ok(described) => {
                redraw(context);
                show_health(&described, context)?;
                if args.exit_when_healthy && described.problems.is_empty() {
                    return Ok(());
                }
            }
            Err(failure) if args.exit_when_healthy && failure.retriable => {
                // This clock begins at 0.
                if clock.mono() >= context.timeout {
                    return Err(failure.into());
                }
            }
            Err(failure) => return Err(failure.into()),
        }
        tokio::time::sleep(args.interval).await;
    }
}

async fn ask(client: &mut Option<Client>, context: &Context) -> Result<ClusterDescription, Failure> {
    let connected = match client {
        Some(client) => client,
        None => client.insert(connect(context).await?),
    };
    Ok(connected.describe_cluster().await?)
}

/// Clears the screen between two answers where somebody looks at one.
fn redraw(context: &Context) {
    if context.output.is_table() && std::io::stdout().is_terminal() {
        // What cannot be cleared is scrolled.
        let _ = line("\u{1b}[H\u{1b}[2J");
    }
}

fn show_health(described: &ClusterDescription, context: &Context) -> Result<(), Stopped> {
    if context.output.is_table() {
        line(&health_text(described))?;
    } else {
        context.output.json(&health_json(described))?;
    }
    Ok(())
}

fn verdict(described: &ClusterDescription) -> Outcome {
    if described.problems.is_empty() {
        return Ok(());
    }
    let message = format!("the broker is not healthy: {}", described.problems.join("; "));
    Err(Failure::new(Exit::CheckFailed, "NOT_HEALTHY", message).into())
}

fn info_text(c: &ClusterDescription) -> String {
    let revision = c.revision.as_ref().map_or(String::new(), |r| format!(" ({r})"));
    let l = &c.limits;
    facts(&[
        ("cluster", c.cluster_id.clone()),
        ("broker", c.broker_id.0.to_string()),
        ("version", format!("{}{revision}", c.version)),
        ("native", c.native_address.clone()),
        ("http", c.http_address.clone()),
        ("uptime", duration_text(c.uptime)),
        ("protocol", format!("{} to {}", c.protocol.0, c.protocol.1)),
        ("engine", engine_text(&c.storage)),
        (
            "records in memory",
            c.storage.memory.as_ref().map_or("none".to_owned(), memory_text),
        ),
        ("topics", c.topics.to_string()),
        ("partitions", c.partitions.to_string()),
        ("request at most", bytes_text(l.request_bytes_max.into())),
        ("response at most", bytes_text(l.response_bytes_max.into())),
        ("batch at most", bytes_text(l.batch_bytes_max.into())),
        ("journal frame at most", bytes_text(l.step_bytes_max.into())),
        (
            "in flight per connection",
            format!(
                "{} running, {} waiting",
                l.requests_running_max, l.requests_parked_max
            ),
        ),
        ("fetch waits at most", duration_text(millis(l.fetch_wait_ms_max))),
        (
            "idle connection closed after",
            duration_text(millis(l.idle_timeout_ms)),
        ),
    ])
}

/// The engine, and what that means where it means loss.
fn engine_text(storage: &StorageHealth) -> String {
    if is_in_memory(storage) {
        "memory: nothing survives the end of the process".to_owned()
    } else {
        storage.engine.to_string()
    }
}

fn is_in_memory(storage: &StorageHealth) -> bool {
    storage.engine == "memory"
}

fn memory_text(m: &MemoryHealth) -> String {
    format!(
        "{} of at most {}; {} records ({}) dropped for want of room since the start",
        bytes_text(m.held_bytes),
        bytes_text(m.bytes_max),
        m.dropped_records,
        bytes_text(m.dropped_bytes)
    )
}

fn memory_json(m: &MemoryHealth) -> Value {
    json!({
        "held_bytes": m.held_bytes, "bytes_max": m.bytes_max,
        "dropped_records": m.dropped_records, "dropped_bytes": m.dropped_bytes,
    })
}

fn info_json(c: &ClusterDescription) -> Value {
    let l = &c.limits;
    json!({
        "cluster_id": c.cluster_id, "broker_id": c.broker_id.0, "version": c.version, "revision": c.revision,
        "native_address": c.native_address, "http_address": c.http_address,
        "uptime_ms": u64::try_from(c.uptime.as_millis()).unwrap_or(u64::MAX),
        "protocol": {"lowest": c.protocol.0, "highest": c.protocol.1},
        "engine": c.storage.engine, "in_memory": is_in_memory(&c.storage), "topics": c.topics, "partitions": c.partitions,
        "memory": c.storage.memory.as_ref().map(memory_json),
        "limits": {
            "request_bytes_max": l.request_bytes_max, "response_bytes_max": l.response_bytes_max,
            "batch_bytes_max": l.batch_bytes_max, "step_bytes_max": l.step_bytes_max,
            "requests_running_max": l.requests_running_max, "requests_parked_max": l.requests_parked_max,
            "fetch_wait_ms_max": l.fetch_wait_ms_max, "idle_timeout_ms": l.idle_timeout_ms,
        },
    })
}

fn health_text(c: &ClusterDescription) -> String {
    let s = &c.storage;
    let healthy = c.problems.is_empty();
    let mut lines = vec![("HEALTHY", if healthy { "yes" } else { "no" }.to_owned())];
    lines.extend(c.problems.iter().map(|problem| ("PROBLEM", problem.clone())));
    let disk = s.disk.map_or("nothing is on disk".to_owned(), |(free, reserve)| {
        format!("free {}, reserve {}", bytes_text(free), bytes_text(reserve))
    });
    lines.push(("STORAGE", format!("{}, {disk}", state_name(&s.state))));
    lines.extend(s.memory.iter().map(|memory| ("MEMORY", memory_text(memory))));
    lines.push((
        "JOURNAL",
        format!(
            "durable {}, applied {} ({} behind, {} to write); files {} of {}",
            s.durable,
            s.applied,
            s.durable.0.saturating_sub(s.applied.0),
            bytes_text(s.admitted_bytes),
            s.journal_files.0,
            s.journal_files.1
        ),
    ));
    lines.push((
        "DAMAGE",
        format!(
            "{} CRC errors since the start, {} ranges quarantined",
            s.crc_errors, c.quarantined_ranges
        ),
    ));
    if let Some(recovery) = &s.recovery {
        lines.push(("LAST START", recovery_text(recovery)));
    }
    lines.push(("UPTIME", duration_text(c.uptime)));
    lines.push(("TOPICS", format!("{} with {} partitions", c.topics, c.partitions)));
    facts(&lines)
}

fn recovery_text(r: &RecoverySummary) -> String {
    let how = if r.clean {
        "after a clean stop"
    } else {
        "after a crash"
    };
    let mut text = format!(
        "{how}: {} journal groups with {} applied again in {}",
        r.groups,
        bytes_text(r.bytes),
        duration_text(r.took)
    );
    if r.unfinished {
        text.push_str("; the last group was never acknowledged and was left out");
    }
    if r.lost_groups > 0 {
        text.push_str(&format!(
            "; {} acknowledged groups could not be read",
            r.lost_groups
        ));
    }
    text
}

fn health_json(c: &ClusterDescription) -> Value {
    let s = &c.storage;
    let failure = match &s.state {
        StorageState::Broken(failure) => Some(failure),
        StorageState::Ok | StorageState::ReadOnly => None,
    };
    let recovery = s.recovery.map(|r| {
        json!({
            "clean": r.clean, "groups": r.groups, "bytes": r.bytes, "lost_groups": r.lost_groups,
            "unfinished": r.unfinished, "duration_ms": u64::try_from(r.took.as_millis()).unwrap_or(u64::MAX),
        })
    });
    json!({
        "healthy": c.problems.is_empty(), "problems": c.problems,
        "uptime_ms": u64::try_from(c.uptime.as_millis()).unwrap_or(u64::MAX),
        "topics": c.topics, "partitions": c.partitions,
        "storage": {
            "engine": s.engine, "state": state_name(&s.state), "failure": failure,
            "free_bytes": s.disk.map(|(free, _)| free), "reserve_bytes": s.disk.map(|(_, reserve)| reserve),
            "durable_lsn": s.durable.0, "applied_lsn": s.applied.0, "admitted_bytes": s.admitted_bytes,
            "journal_files": s.journal_files.0, "journal_files_wanted": s.journal_files.1,
            "memory": s.memory.as_ref().map(memory_json),
            "crc_errors": s.crc_errors, "quarantined_ranges": c.quarantined_ranges, "recovery": recovery,
        },
    })
}

const fn state_name(state: &StorageState) -> &'static str {
    match state {
        StorageState::Ok => "ok",
        StorageState::ReadOnly => "read-only",
        StorageState::Broken(_) => "failed",
    }
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClusterLimits;
    use crate::model::{BrokerId, Lsn};

    fn described() -> ClusterDescription {
        ClusterDescription {
            cluster_id: "c".to_owned(),
            broker_id: BrokerId(1),
            version: "0.1.0".to_owned(),
            revision: None,
            native_address: "127.0.0.1:9640".to_owned(),
            http_address: "127.0.0.1:9641".to_owned(),
            uptime: Duration::from_secs(3_700),
            protocol: (1, 1),
            limits: ClusterLimits::default(),
            topics: 2,
            partitions: 7,
            problems: Vec::new(),
            quarantined_ranges: 0,
            storage: StorageHealth {
                engine: "local".into(),
                state: StorageState::Ok,
                durable: Lsn(9),
                applied: Lsn(7),
                admitted_bytes: 4096,
                journal_files: (4, 4),
                crc_errors: 0,
                disk: Some((3 << 30, 1 << 30)),
                memory: None,
                recovery: None,
            },
        }
    }

    #[test]
    fn a_healthy_broker_is_said_to_be_so_on_the_first_line() {
        let healthy = described();
        let text = health_text(&healthy);
        assert!(
            text.starts_with("HEALTHY  yes\nSTORAGE  ok, free 3.00 GiB"),
            "{text}"
        );
        assert!(
            text.contains("durable 9, applied 7 (2 behind, 4.00 KiB to write)"),
            "{text}"
        );
        assert!(verdict(&healthy).is_ok());
    }

    #[test]
    fn problems_are_listed_and_end_with_exit_8() {
        let sick = ClusterDescription {
            problems: vec!["a".to_owned(), "b".to_owned()],
            ..described()
        };
        assert!(health_text(&sick).starts_with("HEALTHY  no\nPROBLEM  a\nPROBLEM  b\n"));
        assert_eq!(health_json(&sick)["healthy"], false);
        let Err(Stopped::Failed(failure)) = verdict(&sick) else {
            panic!("no failure");
        };
        assert_eq!(failure.exit.code(), 8);
    }
}
