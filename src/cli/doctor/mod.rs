//! `naru doctor`: whether a data directory is well, on one page, and what to do if it is not.
//!
//! The system around the directory is looked at in [`environment`], what lies in it by the code of `log verify`.

mod environment;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::Context;
use super::failure::{Exit, Failure, Outcome, Stopped};
use super::log::hold;
use super::offline::{self, Offline, Verdict};
use super::output::{bytes_text, line};
use super::{log_verify, record_time};
use crate::disk::Disk as _;
use crate::model::shell_path;
use crate::storage::local::inspect::{Effect, Finding, Kind, RESERVE_FILE};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru doctor ./data
  naru doctor ./data --format json

Looks at the system around the directory (permissions, file system, space, clock) and at everything in it, and rehearses a start. Nothing
is written, and the directory may be read-only. While a broker runs only the system is looked at (exit code 4).

Exit code 0 if the data is whole, 8 if anything is damaged or keeps a broker from starting, 3 if it is no data directory.")]
pub(crate) struct DoctorArgs {
    /// The data directory.
    dir: PathBuf,
}

/// How one thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    Ok,
    Skipped,
    Warning,
    Error,
}

impl Status {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One line of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    name: &'static str,
    status: Status,
    what: String,
    /// What to do about it.
    todo: Option<String>,
}

impl Check {
    fn new(name: &'static str, status: Status, what: impl Into<String>) -> Self {
        Self {
            name,
            status,
            what: what.into(),
            todo: None,
        }
    }

    fn todo(mut self, todo: impl Into<String>) -> Self {
        self.todo = Some(todo.into());
        self
    }
}

pub(super) async fn run(args: DoctorArgs, context: &Context, offline: Offline) -> Outcome {
    let context = context.clone();
    // Reading blocks; a signal has to end the command all the same.
    let work = tokio::task::spawn_blocking(move || look(&args.dir, &context, offline));
    work.await.unwrap_or_else(|e| {
        Err(Failure::unexpected(format!("looking into the directory failed: {e}")).into())
    })
}

fn look(dir: &Path, context: &Context, offline: Offline) -> Outcome {
    let disk = offline::open(dir)?;
    let mut checks = environment::checks(dir);
    let reserve = disk.open(RESERVE_FILE, crate::disk::Mode::Buffered);
    let reserve = reserve.and_then(|file| file.len()).ok();
    let lock = match hold(dir) {
        Ok(lock) => lock,
        Err(failure) if failure.exit == Exit::Conflict => {
            checks.push(environment::space(&disk, reserve));
            checks.push(environment::clock(None));
            checks.push(Check::new("lock", Status::Skipped, failure.message.as_str()).todo(
                "the data is looked at when the broker is stopped, or in a copy; `naru cluster health` asks the running one",
            ));
            show(dir, context, &checks, None)?;
            return Err(Stopped::Failed(failure));
        }
        Err(failure) => return Err(failure.into()),
    };
    let verdict = offline::verdict(dir, &disk, context, offline)?;
    checks.push(environment::space(&disk, reserve));
    checks.push(environment::clock(verdict.report.start.written));
    checks.push(match lock {
        Some(_) => Check::new("lock", Status::Ok, "no broker uses the directory"),
        None => Check::new(
            "lock",
            Status::Ok,
            "there is no lock file: no broker has run here, or this is a copy",
        ),
    });
    checks.extend(of_data(dir, &verdict));
    show(dir, context, &checks, Some(&verdict))?;
    let failed = checks.iter().any(|check| check.status == Status::Error);
    if verdict.report.is_clean() && !failed {
        return Ok(());
    }
    let what = if verdict.report.is_clean() {
        "a broker would not run here: see what is marked error"
    } else {
        log_verify::verdict_text(&verdict.report)
    };
    Err(Failure::new(Exit::CheckFailed, "NOT_WELL", what).into())
}

/// What lies in the directory, part by part.
fn of_data(dir: &Path, verdict: &Verdict) -> Vec<Check> {
    let report = &verdict.report;
    let checked = &report.checked;
    let records = report.checkpoints.iter().map(|record| {
        let how = if record.clean { ", clean stop" } else { "" };
        format!("{} up to group {}{how} ({})", record.seq, record.lsn, record.file)
    });
    let records: Vec<_> = records.collect();
    let topics = verdict.names.all();
    let journal = format!(
        "{} files, ends with group {}; {} groups with {} batches looked at",
        checked.journal_files, report.end, checked.groups, checked.group_batches
    );
    let segments = format!(
        "{} of {} partitions: {} batches, {} records",
        checked.segments, checked.partitions, checked.batches, checked.records
    );
    let parts = [
        (
            "identity",
            format!("storage format 1, id {}", log_verify::id_text(report)),
            &[Kind::Format][..],
        ),
        ("checkpoints", records.join("; "), &[Kind::Checkpoint]),
        (
            "journal",
            journal,
            &[
                Kind::JournalFile,
                Kind::JournalHeader,
                Kind::JournalGroup,
                Kind::JournalChain,
                Kind::JournalBatch,
                Kind::UnfinishedGroup,
            ],
        ),
        ("metadata", topics_text(&topics), &[Kind::State]),
        (
            "segments",
            segments,
            &[
                Kind::SegmentMissing,
                Kind::SegmentShort,
                Kind::SegmentBatch,
                Kind::BatchHeader,
                Kind::SegmentTail,
                Kind::PartialBlock,
                Kind::Offsets,
                Kind::Quarantined,
            ],
        ),
        (
            "indexes",
            format!("{} entries", checked.index_entries),
            &[Kind::Index],
        ),
        (
            "other",
            "nothing else wrong".to_owned(),
            &[Kind::Unreadable, Kind::UnknownFile],
        ),
    ];
    let mut checks: Vec<_> = parts
        .into_iter()
        .map(|(name, what, kinds)| part(dir, name, what, kinds, verdict))
        .collect();
    checks.push(start(dir, verdict));
    checks
}

fn topics_text(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    match names.len() {
        0 => "no topics".to_owned(),
        1 => format!("1 topic: {}", names[0]),
        count if count <= SHOWN => format!("{count} topics: {}", names.join(", ")),
        count => format!("{count} topics: {} and others", names[..SHOWN].join(", ")),
    }
}

/// The findings of some kinds as one line: the worst of them in words.
fn part(dir: &Path, name: &'static str, well: String, kinds: &[Kind], verdict: &Verdict) -> Check {
    let of_part = |f: &&Finding| kinds.contains(&f.kind);
    let findings: Vec<_> = verdict.report.findings.iter().filter(of_part).collect();
    let Some(worst) = findings.iter().max_by_key(|f| f.effect) else {
        return Check::new(name, Status::Ok, well);
    };
    let status = match worst.effect {
        Effect::Note => Status::Ok,
        Effect::Harmless => Status::Warning,
        Effect::Loss | Effect::Refusal => Status::Error,
    };
    let file = if worst.file.is_empty() {
        String::new()
    } else {
        format!("{}: ", worst.file)
    };
    let at = worst.partition.map_or(String::new(), |key| {
        let offsets = worst.offsets.map_or(String::new(), |(first, last)| {
            format!(", offsets {first} to {last}")
        });
        format!(" ({}{offsets})", verdict.names.partition(key))
    });
    let more = match findings.len() - 1 {
        0 => String::new(),
        more => format!("; and {more} more, see `naru log verify {}`", shell_path(dir)),
    };
    let what = format!("{}{file}{}{at}{more}", prefix(worst.effect), worst.what);
    let check = Check::new(name, status, what);
    match log_verify::advice(worst) {
        Some(advice) => check.todo(advice),
        None => check,
    }
}

const fn prefix(effect: Effect) -> &'static str {
    match effect {
        Effect::Note => "a note: ",
        Effect::Harmless | Effect::Loss | Effect::Refusal => "",
    }
}

/// What a start would come to.
fn start(dir: &Path, verdict: &Verdict) -> Check {
    let report = &verdict.report;
    if !report.starts() {
        let refusals = report
            .findings
            .iter()
            .filter(|f| f.effect == Effect::Refusal)
            .count();
        let what = format!("a broker would refuse to start, for {refusals} reasons")
            .replace("1 reasons", "1 reason");
        let ways = format!(
            "copy the directory first; `naru log salvage {}` tells the ways out and what each gives up",
            shell_path(dir)
        );
        return Check::new("start", Status::Error, what).todo(ways);
    }
    let clean = report.checkpoints.first().is_some_and(|record| record.clean);
    let what = match report.start.groups {
        0 if clean => "a broker would start and replay nothing: the last one stopped in order".to_owned(),
        0 => "a broker would start and replay nothing".to_owned(),
        groups => format!(
            "a broker would start and replay {groups} groups, {} of batches",
            bytes_text(report.start.bytes)
        ),
    };
    Check::new("start", Status::Ok, what)
}

fn show(dir: &Path, context: &Context, checks: &[Check], verdict: Option<&Verdict>) -> Outcome {
    let worst = checks
        .iter()
        .map(|check| check.status)
        .max()
        .unwrap_or(Status::Ok);
    if context.output.wants_json() {
        context.output.json(&to_json(checks, worst, verdict))?;
    } else {
        line(&to_text(dir, checks, verdict))?;
    }
    Ok(())
}

fn to_text(dir: &Path, checks: &[Check], verdict: Option<&Verdict>) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = dir.display().to_string();
    for check in checks {
        let (status, name) = (check.status.name(), check.name);
        text.push_str(&format!("\n{status:7}  {name:width$}  {}", check.what));
        if let Some(todo) = &check.todo {
            text.push_str(&format!("\n{:7}  {:width$}  do: {todo}", "", ""));
        }
    }
    if let Some(verdict) = verdict {
        text.push_str("\nVERDICT  ");
        text.push_str(log_verify::verdict_text(&verdict.report));
    }
    text
}

fn to_json(checks: &[Check], worst: Status, verdict: Option<&Verdict>) -> Value {
    let check = |check: &Check| json!({"name": check.name, "status": check.status.name(), "what": check.what, "do": check.todo});
    let report = verdict.map(|verdict| &verdict.report);
    json!({
        "worst": worst.name(),
        "clean": report.map(|report| report.is_clean()),
        "starts": report.map(|report| report.starts()),
        "acknowledged_data_affected": report.map(|report| report.affects_acknowledged()),
        "directory_id": report.map(log_verify::id_text),
        "replay_groups": report.map(|report| report.start.groups),
        "replay_bytes": report.map(|report| report.start.bytes),
        "last_written": report.and_then(|report| report.start.written).map(record_time::text),
        "topics": verdict.map(|verdict| verdict.names.all()),
        "checks": checks.iter().map(check).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_finding_is_on_the_page() {
        let source = include_str!("mod.rs");
        for kind in Kind::ALL {
            assert!(
                source.contains(&format!("Kind::{kind:?}")),
                "{kind:?} is in no part"
            );
        }
    }

    #[test]
    fn many_topics_are_counted_and_some_are_named() {
        assert_eq!(topics_text(&["a"]), "1 topic: a");
        assert_eq!(topics_text(&["a", "b"]), "2 topics: a, b");
        let many: Vec<_> = ["x"; 20].to_vec();
        assert!(
            topics_text(&many).starts_with("20 topics: x, x") && topics_text(&many).ends_with("and others")
        );
    }
}
