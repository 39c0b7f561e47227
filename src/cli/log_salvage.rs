//! `naru log salvage`: what keeps a broker from starting, what each way out gives up, and taking it.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::failure::{Exit, Failure, Outcome};
use super::log::{hold, no_verdict};
use super::offline::{self, Names, Offline};
use super::output::{bytes_text, line};
use super::serve::ServeArgs;
use super::{Context, log_verify, record_time};
use crate::model::{Offset, PartitionKey, shell_path};
use crate::rt::{Clock as _, SystemClock};
use crate::storage::local::inspect::{Effect, Held, Kind, Lost};
use crate::storage::local::salvage::{Done, Obstacle, Plan, SalvageError, Way, check, plan};

/// Arguments of `log salvage`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru log salvage ./data
  naru log salvage ./data --give-up group:12
  naru log salvage ./data --give-up tail:19
  naru log salvage ./data --give-up checkpoint
  naru log salvage ./data --restore format

Without --give-up and --restore nothing is written: it says what stands in the way of a start, what each way out gives up, and the
command that takes it. With them, all that stands in the way must be named, and nothing else; otherwise nothing is changed.

Before anything is changed, every file that is touched is copied to salvage/ in the directory. A kill at any moment leaves the directory
as it was or as it shall be. Offsets that may have been given up are answered with DATA_CORRUPT and never given again.

Exit code 0 if nothing stands in the way (any more), 8 if something does, 4 while a broker runs, 3 if it is no data directory.")]
pub(crate) struct SalvageArgs {
    /// The data directory.
    dir: PathBuf,
    /// What is given up: group:N, group:N-M, tail:N (group N and all behind it), checkpoint, or TOPIC/PARTITION:FIRST-LAST of
    /// the broker's own topics; may be repeated.
    #[arg(long, value_name = "WHAT")]
    give_up: Vec<Way>,
    /// What is written again from what is left, at no loss: format, or header:N; may be repeated.
    #[arg(long, value_name = "WHAT")]
    restore: Vec<Way>,
    /// The broker's configuration file, as for 'serve'.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: SalvageArgs, context: &Context, offline: Offline) -> Outcome {
    if let Some(way) = args.give_up.iter().find(|way| way.restores()) {
        return Err(Failure::usage(format!("{way} is restored, not given up: use --restore")).into());
    }
    if let Some(way) = args.restore.iter().find(|way| !way.restores()) {
        return Err(Failure::usage(format!("{way} is given up, not restored: use --give-up")).into());
    }
    let wanted: Vec<Way> = args.give_up.iter().chain(&args.restore).copied().collect();
    let (found, names) = look(&args.dir, context, offline)?;
    let place = Place {
        dir: &args.dir,
        config: args.config.as_deref(),
    };
    if wanted.is_empty() {
        return tell(place, context, &found, &names);
    }
    let dir = place.dir;
    check(&found, &wanted).map_err(|error| refused(place, &error))?;
    let configuration = ServeArgs::with_file(args.config.clone()).configuration(None)?;
    let name = record_time::text(SystemClock::new().wall()).replace(':', "-");
    let done = (offline.salvage)(dir, &configuration.settings, &wanted, &name);
    let done = done.map_err(|error| refused(place, &error))?;
    if context.output.wants_json() {
        context.output.json(&done_json(&done, &found, &names))?;
    } else {
        line(&done_text(place, &done, &found, &names))?;
    }
    Ok(())
}

fn look(dir: &Path, context: &Context, offline: Offline) -> Result<(Plan, Names), Failure> {
    let disk = offline::open(dir)?;
    let _lock = hold(dir)?;
    let mut progress = log_verify::Progress(super::progress::bar(context, 0, "bytes"));
    let mut found = None;
    let (names, _) = (offline.state_of)(&mut |replay| found = Some(plan(&disk, &mut progress, replay)));
    progress.0.finish_and_clear();
    let found = found.ok_or_else(|| Failure::unexpected(format!("nothing looked at {}", dir.display())))?;
    Ok((found.map_err(|e| no_verdict(dir, &e))?, Names::new(names)))
}

/// What a command line has to say that is to do something to the same directory as this one.
#[derive(Clone, Copy)]
struct Place<'a> {
    dir: &'a Path,
    config: Option<&'a Path>,
}

fn refused(place: Place<'_>, error: &SalvageError) -> Failure {
    let message = format!("{}: {error}", place.dir.display());
    let ask = format!("`{}` says what stands in the way now", command(place, &[]));
    match error {
        SalvageError::Inspect(e) => no_verdict(place.dir, e),
        SalvageError::Differs(_) => Failure::new(Exit::CheckFailed, "OTHER_FINDINGS", message).hint(ask),
        SalvageError::InUse(_) => Failure::new(Exit::Conflict, "DATA_DIR_IN_USE", message),
        SalvageError::Copies { .. } | SalvageError::Disk(_) | SalvageError::Unfinished { .. } => {
            Failure::unexpected(message).hint(ask)
        }
    }
}

/// The command that takes these ways; without any it only looks. It can be pasted into a shell as it is.
fn command(place: Place<'_>, ways: &[Way]) -> String {
    let mut words = format!("naru log salvage {}", shell_path(place.dir));
    if let Some(config) = place.config {
        words.push_str(&format!(" --config {}", shell_path(config)));
    }
    for way in ways {
        let flag = if way.restores() { "--restore" } else { "--give-up" };
        words.push_str(&format!(" {flag} {way}"));
    }
    words
}

/// Offsets that are given up, and whether it is known that they held anything.
struct Loss {
    key: PartitionKey,
    first: Offset,
    last: Offset,
    sure: bool,
}

fn losses(found: &Plan) -> Vec<Loss> {
    let gives_up = found
        .obstacles
        .iter()
        .any(|o| o.way.is_some_and(|way| !way.restores()));
    if !gives_up {
        return Vec::new();
    }
    let gaps = found.report.findings.iter().filter(|f| match f.kind {
        Kind::Offsets => f.effect == Effect::Loss,
        // A batch of which the disk does not give a block.
        Kind::Unreadable => f.effect == Effect::Refusal,
        _ => false,
    });
    let gaps = gaps
        .filter_map(|f| f.partition.zip(f.offsets))
        .map(|(key, (first, last))| Loss {
            key,
            first,
            last,
            sure: true,
        });
    let rest = found.report.at_stake.iter().map(|(key, first, last)| Loss {
        key: *key,
        first: *first,
        last: *last,
        sure: false,
    });
    gaps.chain(rest).collect()
}

fn tell(place: Place<'_>, context: &Context, found: &Plan, names: &Names) -> Outcome {
    if context.output.wants_json() {
        context.output.json(&plan_json(place, found, names))?;
    } else {
        line(&plan_text(place, found, names))?;
    }
    if found.obstacles.is_empty() {
        return Ok(());
    }
    let message = "a broker will not start on this directory";
    Err(Failure::new(Exit::CheckFailed, "START_REFUSED", message).into())
}

fn plan_text(place: Place<'_>, found: &Plan, names: &Names) -> String {
    let dir = place.dir;
    if found.obstacles.is_empty() {
        let damaged = "; what is damaged is answered with DATA_CORRUPT, and `naru log verify` names it";
        let damaged = if found.report.affects_acknowledged() {
            damaged
        } else {
            ""
        };
        return format!("{}: nothing stands in the way of a start{damaged}", dir.display());
    }
    let mut text = format!("{}: a broker refuses to start", dir.display());
    for (index, obstacle) in found.obstacles.iter().enumerate() {
        let file = &obstacle.finding.file;
        let file = if file.is_empty() {
            String::new()
        } else {
            format!("{file}: ")
        };
        text.push_str(&format!("\n\n{}  {file}{}", index + 1, obstacle.finding.what));
        if let Some(Way::Groups { first, .. }) = obstacle.way
            && let Some(lost) = found.report.lost.iter().find(|lost| lost.last >= first)
        {
            text.push_str(&format!("\n   left of it: {}", held_text(lost, names)));
        }
        let way = match obstacle.way {
            Some(way) if way.restores() => format!("--restore {way}, which gives up nothing"),
            Some(way) if obstacle.finding.kind == Kind::Unreadable => {
                format!("try again first: the disk may give it; if it does not, --give-up {way}")
            }
            Some(way) => format!("--give-up {way}"),
            None => nothing_but_a_copy(obstacle.finding.kind).to_owned(),
        };
        text.push_str(&format!("\n   way out: {way}"));
    }
    let losses = losses(found);
    if !losses.is_empty() {
        text.push_str("\n\nOffsets that are given up:");
        for loss in &losses {
            text.push_str(&format!("\n   {}", loss_text(loss, names)));
        }
    }
    if found
        .obstacles
        .iter()
        .any(|o| matches!(o.way, Some(Way::Groups { .. } | Way::Tail { .. })))
    {
        text.push_str(
            "\n\nNothing tells whether these groups held commits of consumer groups (they go back and read again), topics that were \
             made, changed or deleted, or trims (what they removed is there again).",
        );
    }
    if found.goes_on {
        text.push_str("\n\nMore stands in the way, which is looked at when this is restored.");
    }
    if let Some(ways) = found.ways() {
        let failed = |o: &Obstacle| o.finding.kind == Kind::Unreadable;
        let again = if found.obstacles.iter().any(failed) {
            "A read has failed, and another may not: look at the disk, and try again. If it stays so:\n"
        } else {
            ""
        };
        text.push_str(&format!(
            "\n\n{again}Keep a copy of the directory, try `naru log verify` on it, and when nobody has a better copy of the file:\n   {}",
            command(place, &ways)
        ));
    }
    text
}

/// What to do where nothing in the directory helps.
const fn nothing_but_a_copy(kind: Kind) -> &'static str {
    match kind {
        Kind::Unreadable => {
            "none here: copy the directory to another disk with a tool that reads around bad blocks (ddrescue), and run \
             `naru doctor` on the copy"
        }
        Kind::State => {
            "none: the records are whole, so this is no damage; restore the directory from a backup, and report it"
        }
        Kind::Checkpoint => {
            "none but a copy: put one of the checkpoint files back, or restore the directory from a backup"
        }
        _ => "none but a copy: put the file back, or restore the directory from a backup",
    }
}

fn held_text(lost: &Lost, names: &Names) -> String {
    match &lost.held {
        Held::AtMost(_) => "nothing that says which records it held".to_owned(),
        Held::Batches(batches) => {
            let of = |key: Option<PartitionKey>| {
                key.map_or("of an unknown partition".to_owned(), |key| {
                    format!("of {}", names.partition(key))
                })
            };
            let batches: Vec<_> = batches
                .iter()
                .map(|batch| format!("offsets {} to {} {}", batch.base, batch.last, of(batch.key)))
                .collect();
            format!(
                "its batches, but nothing vouches for whose they are: {}",
                batches.join("; ")
            )
        }
    }
}

fn loss_text(loss: &Loss, names: &Names) -> String {
    let sure = if loss.sure {
        "were in it"
    } else {
        "may have been in it"
    };
    format!(
        "{}: {} to {} {sure}",
        names.partition(loss.key),
        loss.first,
        loss.last
    )
}

fn done_text(place: Place<'_>, done: &Done, found: &Plan, names: &Names) -> String {
    let (files, bytes) = done.copied;
    let mut text = format!(
        "copied   {files} files, {}, to {}",
        bytes_text(bytes),
        place.dir.join(&done.copies).display()
    );
    for obstacle in &found.obstacles {
        if let Some(way) = obstacle.way {
            let verb = if way.restores() { "restored" } else { "given up" };
            text.push_str(&format!("\n{verb} {way}"));
        }
    }
    for loss in losses(found) {
        let (partition, first, last) = (names.partition(loss.key), loss.first, loss.last);
        text.push_str(&format!(
            "\nDATA_CORRUPT from now on: {partition}: {first} to {last}"
        ));
    }
    if found.goes_on {
        text.push_str(&format!("\nnext     {}", command(place, &[])));
    } else {
        text.push_str("\na broker starts on this directory");
    }
    text
}

fn losses_json(found: &Plan, names: &Names) -> Value {
    let loss = |loss: &Loss| {
        json!({
            "topic": names.of(loss.key.topic), "topic_id": loss.key.topic.to_string(), "partition": loss.key.partition.0,
            "first_offset": loss.first.get(), "last_offset": loss.last.get(), "sure": loss.sure,
        })
    };
    losses(found).iter().map(loss).collect()
}

fn plan_json(place: Place<'_>, found: &Plan, names: &Names) -> Value {
    let obstacle = |o: &Obstacle| {
        let mut value = log_verify::finding_json(&o.finding, names);
        value["way"] = o.way.map(|way| way.to_string()).into();
        value
    };
    json!({
        "starts": found.obstacles.is_empty(),
        "obstacles": found.obstacles.iter().map(obstacle).collect::<Vec<_>>(),
        "given_up": losses_json(found, names),
        "more_behind": found.goes_on,
        "command": found.ways().filter(|ways| !ways.is_empty()).map(|ways| command(place, &ways)),
    })
}

fn done_json(done: &Done, found: &Plan, names: &Names) -> Value {
    json!({
        "copies": done.copies, "copied_files": done.copied.0, "copied_bytes": done.copied.1,
        "given_up": losses_json(found, names),
        "more_behind": found.goes_on,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_are_shown_can_be_pasted() {
        let group: Way = "group:3-4".parse().unwrap();
        let ways = [Way::Format, group];
        let plain = Place {
            dir: Path::new("./data"),
            config: None,
        };
        assert_eq!(
            command(plain, &ways),
            "naru log salvage ./data --restore format --give-up group:3-4"
        );
        let odd = Place {
            dir: Path::new("/mnt/it's $1"),
            config: Some(Path::new("my naru.toml")),
        };
        let shown = r"naru log salvage '/mnt/it'\''s $1' --config 'my naru.toml'";
        assert_eq!(command(odd, &[]), shown);
        let failure = refused(odd, &SalvageError::Differs("x".to_owned()));
        assert!(failure.hint.unwrap().contains(shown));
    }
}
