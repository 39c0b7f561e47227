//! `naru log verify`: the verdict on a data directory.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::Context;
use super::failure::{Exit, Failure, Outcome};
use super::log::hold;
use super::offline::{self, Names, Offline, Verdict};
use super::output::{bytes_text, duration_text, facts, line};
use crate::rt::{Clock as _, SystemClock};
use crate::storage::local::inspect::{Effect, Finding, Kind, Report, Watch};

/// Arguments of `log verify`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru log verify ./data
  naru log verify ./data --format json

Reads everything: FORMAT, checkpoints, every group of the journal that a start may need, every batch of every segment, every index
entry. Nothing is written, and the directory may be read-only. A running broker's directory is refused (exit code 4).

Effects: note (normal after a crash), harmless (damage that costs no record), loss (acknowledged records cannot be read, or that
cannot be ruled out), refusal (the broker will not start).
Exit code 0 if there are notes at most, 8 if anything is damaged, 3 if it is no data directory.")]
pub(crate) struct VerifyArgs {
    /// The data directory.
    dir: PathBuf,
}

pub(super) struct Progress(pub(super) ProgressBar);

impl Watch for Progress {
    fn total(&mut self, bytes: u64) {
        self.0.set_length(bytes);
    }

    fn more(&mut self, bytes: u64) {
        self.0.inc(bytes);
    }
}

pub(super) fn run(args: &VerifyArgs, context: &Context, offline: Offline) -> Outcome {
    let dir = &args.dir;
    let disk = offline::open(dir)?;
    let _lock = hold(dir)?;
    let clock = SystemClock::new();
    let Verdict { report, names } = offline::verdict(dir, &disk, context, offline)?;
    if context.output.wants_json() {
        context.output.json(&to_json(&report, &names))?;
    } else {
        line(&to_text(
            &report,
            &names,
            &dir.display().to_string(),
            clock.mono(),
        ))?;
    }
    if report.is_clean() {
        return Ok(());
    }
    let hint = if report.affects_acknowledged() {
        "keep a copy of the directory as it is before anything else is done to it"
    } else {
        ""
    };
    Err(Failure::new(Exit::CheckFailed, "DAMAGED", verdict_text(&report))
        .hint(hint)
        .into())
}

fn count(report: &Report, effect: Effect) -> usize {
    report.findings.iter().filter(|f| f.effect == effect).count()
}

pub(super) fn verdict_text(report: &Report) -> &'static str {
    match report.worst {
        None | Some(Effect::Note) => "everything is whole",
        Some(Effect::Harmless) => "damaged, but every acknowledged record is there",
        Some(Effect::Loss) => "damaged: acknowledged records are affected",
        Some(Effect::Refusal) => "damaged: the broker will not start on this directory",
    }
}

pub(super) fn id_text(report: &Report) -> String {
    report
        .directory
        .map_or("unknown".to_owned(), |id| uuid::Uuid::from_bytes(id).to_string())
}

fn to_text(report: &Report, names: &Names, dir: &str, took: Duration) -> String {
    let c = &report.checked;
    let records = report.checkpoints.iter().map(|record| {
        let how = if record.clean { ", clean stop" } else { "" };
        format!("{} up to group {}{how} ({})", record.seq, record.lsn, record.file)
    });
    let records: Vec<_> = records.collect();
    let counts = [Effect::Refusal, Effect::Loss, Effect::Harmless, Effect::Note]
        .map(|effect| format!("{} {}", count(report, effect), effect.name()));
    let head = facts(&[
        ("DIRECTORY", format!("{dir}, id {}", id_text(report))),
        ("CHECKPOINTS", records.join("; ")),
        (
            "JOURNAL",
            format!(
                "{} files, {} groups with {} batches looked at, ends with group {}",
                c.journal_files, c.groups, c.group_batches, report.end
            ),
        ),
        (
            "SEGMENTS",
            format!(
                "{} of {} partitions: {} batches, {} records, {} index entries",
                c.segments, c.partitions, c.batches, c.records, c.index_entries
            ),
        ),
        (
            "READ",
            format!("{} in {}", bytes_text(c.bytes), duration_text(took)),
        ),
        ("FINDINGS", counts.join(", ")),
        ("VERDICT", verdict_text(report).to_owned()),
    ]);
    let mut text = head;
    for finding in &report.findings {
        text.push_str("\n\n");
        text.push_str(&finding_text(finding, names));
    }
    if report.left_out > 0 {
        text.push_str(&format!("\n\n{} more findings are left out", report.left_out));
    }
    text
}

fn finding_text(finding: &Finding, names: &Names) -> String {
    let mut lines = vec![format!("{}  {}", finding.effect.name(), finding.kind.name())];
    let position = finding
        .position
        .map_or(String::new(), |at| format!(", byte {at}"));
    if !finding.file.is_empty() {
        lines.push(format!("  file   {}{position}", finding.file));
    }
    if let Some(key) = finding.partition {
        let which = finding.offsets.map_or(String::new(), |(first, last)| {
            let count = last.get() - first.get() + 1;
            format!(", offsets {first} to {last} ({count} records)")
        });
        lines.push(format!("  where  {}{which}", names.partition(key)));
    }
    if let Some((first, last)) = finding.groups {
        lines.push(format!("  group  {first} to {last}"));
    }
    lines.push(format!("  what   {}", finding.what));
    if let Some(advice) = advice(finding) {
        lines.push(format!("  do     {advice}"));
    }
    lines.join("\n")
}

/// What to do about a finding; nothing about notes.
pub(super) fn advice(finding: &Finding) -> Option<&'static str> {
    let restore = "take the file from a backup of this very directory, if there is one; otherwise start the broker: it answers \
                   with DATA_CORRUPT for these offsets alone and keeps everything else";
    let advice = match (finding.effect, finding.kind) {
        (Effect::Note, _) => return None,
        (_, Kind::Format) => {
            "`naru log salvage` writes it again if a checkpoint says what it should read; otherwise put it back from a copy"
        }
        (Effect::Refusal, Kind::Checkpoint) => {
            "put the missing checkpoint file back from a copy of this very directory made since the last start; otherwise `naru log \
             salvage` says what going on without it costs, or that nothing but a backup helps"
        }
        (Effect::Refusal, Kind::JournalFile) => {
            "put the journal file back from where it went, never an empty one; `naru log salvage` says whether there is another way"
        }
        (Effect::Refusal, Kind::Unreadable) => {
            "try again: a disk may come back; if not, `naru log salvage` says what giving up what it does not give costs, or that a \
             copy made around bad blocks (ddrescue) is needed first, and `naru doctor` on that"
        }
        (Effect::Refusal, Kind::State) => {
            "restore the directory from a backup, and report this: it is no damage of the disk"
        }
        (Effect::Refusal, _) => {
            "put a whole copy of the file in its place, or restore the directory from a backup; otherwise `naru log salvage` tells what \
             giving it up costs"
        }
        (Effect::Loss, Kind::Quarantined) => {
            "produce the records again if their source still has them; a trim beyond them ends the finding"
        }
        (Effect::Loss, _) => restore,
        (Effect::Harmless, Kind::Index) => "nothing: reading is slower there, and never wrong",
        (
            Effect::Harmless,
            Kind::JournalBatch | Kind::JournalGroup | Kind::JournalHeader | Kind::Checkpoint,
        ) => "start the broker: it writes what it needs anew; and look at the disk, which has lost bytes",
        (Effect::Harmless, _) => "look at the disk, which has changed bytes; no record is affected",
    };
    Some(advice)
}

fn to_json(report: &Report, names: &Names) -> Value {
    let c = &report.checked;
    let records: Vec<_> = report
        .checkpoints
        .iter()
        .map(|r| json!({"file": r.file, "sequence": r.seq, "lsn": r.lsn.0, "clean": r.clean}))
        .collect();
    let findings: Vec<_> = report.findings.iter().map(|f| finding_json(f, names)).collect();
    json!({
        "clean": report.is_clean(),
        "acknowledged_data_affected": report.affects_acknowledged(),
        "starts": report.starts(),
        "directory_id": report.directory.map(|_| id_text(report)),
        "checkpoints": records,
        "end_lsn": report.end.0,
        "checked": {
            "journal_files": c.journal_files, "groups": c.groups, "group_batches": c.group_batches,
            "segments": c.segments, "partitions": c.partitions, "batches": c.batches, "records": c.records,
            "index_entries": c.index_entries, "bytes": c.bytes,
        },
        "findings": findings,
        "findings_left_out": report.left_out,
    })
}

pub(super) fn finding_json(finding: &Finding, names: &Names) -> Value {
    json!({
        "kind": finding.kind.name(),
        "effect": finding.effect.name(),
        "acknowledged_data_affected": finding.effect >= Effect::Loss,
        "file": finding.file,
        "position": finding.position,
        "topic": finding.partition.and_then(|key| names.of(key.topic)),
        "topic_id": finding.partition.map(|key| key.topic.to_string()),
        "partition": finding.partition.map(|key| key.partition.0),
        "first_offset": finding.offsets.map(|(first, _)| first.get()),
        "last_offset": finding.offsets.map(|(_, last)| last.get()),
        "first_lsn": finding.groups.map(|(first, _)| first.0),
        "last_lsn": finding.groups.map(|(_, last)| last.0),
        "what": finding.what,
        "advice": advice(finding),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_damage_has_advice_and_a_note_has_none() {
        for kind in Kind::ALL {
            for effect in [Effect::Note, Effect::Harmless, Effect::Loss, Effect::Refusal] {
                let finding = Finding {
                    kind,
                    effect,
                    file: "f".to_owned(),
                    position: Some(7),
                    partition: None,
                    offsets: None,
                    groups: None,
                    way: None,
                    what: "w".to_owned(),
                };
                assert_eq!(advice(&finding).is_none(), effect == Effect::Note);
                let text = finding_text(&finding, &offline::no_names());
                assert!(text.contains("file   f, byte 7"));
            }
        }
    }

    #[test]
    fn the_documentation_names_every_kind() {
        let document = include_str!("../../docs/storage-format.md");
        for kind in Kind::ALL {
            assert!(
                document.contains(&format!("| `{}` |", kind.name())),
                "{}",
                kind.name()
            );
        }
    }
}
