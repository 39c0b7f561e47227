//! `naru check-history`: whether what clients asked and were told keeps the promises.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::Context;
use super::failure::{Exit, Failure, Outcome};
use super::log::cannot_read;
use super::output::{duration_text, facts, line};
use crate::history::{Event, Figures, Finding, Report, Severity, check, parse};

/// Longest line; what a reader was handed at once has to fit.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// Of an event in a text for people.
const EVENT_CHARS_MAX: usize = 200;

/// Arguments of `check-history`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru check-history clients/*.ndjson
  cat a.ndjson b.ndjson | naru check-history - --format json

A history is one JSON object in each line; docs/histories.md says what to write when, and what each anomaly means. Files of
several processes are checked together. A last line that a kill has cut off is left out and told.
Exit code 0 if no promise was broken, 8 if one was, 2 if a line is no event.")]
pub(crate) struct CheckArgs {
    /// Files of a history; `-` for stdin.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Take warnings for errors: what proves too little fails, too.
    #[arg(long)]
    strict: bool,
}

/// A file of a history.
struct Source {
    name: String,
    events: usize,
    is_cut_off: bool,
}

pub(crate) async fn run(args: CheckArgs, context: &Context) -> Outcome {
    let context = context.clone();
    // Reading blocks; a signal has to end the command all the same.
    let work = tokio::task::spawn_blocking(move || read_and_check(&args, &context));
    work.await
        .unwrap_or_else(|e| Err(Failure::unexpected(format!("checking the history failed: {e}")).into()))
}

fn read_and_check(args: &CheckArgs, context: &Context) -> Outcome {
    let mut events = Vec::new();
    let mut sources = Vec::new();
    for path in &args.files {
        let source = match path.as_os_str() == "-" {
            true => read("stdin", io::stdin().lock(), &ProgressBar::hidden(), &mut events)?,
            false => read_file(path, context, &mut events)?,
        };
        if source.is_cut_off {
            let name = &source.name;
            context.output.tell(&format!(
                "{name}: the last line has no end and is left out: its writer was killed"
            ));
        }
        sources.push(source);
    }
    let report = check(events);
    if context.output.wants_json() {
        context.output.json(&to_json(&report, &sources))?;
    } else {
        line(&to_text(&report, sources.len()))?;
    }
    let fails = |finding: &&Finding| args.strict || finding.anomaly.severity() == Severity::Error;
    match report.findings.iter().filter(fails).count() {
        0 => Ok(()),
        count => Err(Failure::new(
            Exit::CheckFailed,
            "PROMISE_BROKEN",
            format!("{count} findings: {}", names(&report)),
        )
        .hint("docs/histories.md says what each means")
        .into()),
    }
}

fn names(report: &Report) -> String {
    let names = report.anomalies().into_keys().map(|anomaly| anomaly.name());
    names.collect::<Vec<_>>().join(", ")
}

fn read_file(path: &Path, context: &Context, events: &mut Vec<Event>) -> Result<Source, Failure> {
    let file = File::open(path).map_err(|e| cannot_read(path, &e))?;
    let bytes = file.metadata().map_err(|e| cannot_read(path, &e))?.len();
    let bar = super::progress::bar(context, bytes, "bytes");
    let source = read(&path.display().to_string(), BufReader::new(file), &bar, events);
    bar.finish_and_clear();
    source
}

fn read(
    name: &str,
    mut lines: impl BufRead,
    bar: &ProgressBar,
    events: &mut Vec<Event>,
) -> Result<Source, Failure> {
    let before = events.len();
    let mut text = Vec::new();
    let mut is_cut_off = false;
    for number in 1.. {
        text.clear();
        let mut rest = lines.by_ref().take(LINE_BYTES_MAX);
        let bytes = rest
            .read_until(b'\n', &mut text)
            .map_err(|e| cannot_read(Path::new(name), &e))?;
        bar.inc(bytes as u64);
        if bytes == 0 {
            break;
        }
        if text.pop_if(|byte| *byte == b'\n').is_none() {
            if bytes as u64 == LINE_BYTES_MAX {
                let message = format!("{name}: line {number} is longer than {LINE_BYTES_MAX} bytes");
                return Err(Failure::usage(message));
            }
            is_cut_off = true;
            break;
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let event = parse(number, &String::from_utf8_lossy(&text));
        events.push(event.map_err(|e| {
            Failure::new(Exit::Usage, "NOT_A_HISTORY", format!("{name}: {e}"))
                .hint("docs/histories.md says what the lines of a history are")
        })?);
    }
    Ok(Source {
        name: name.to_owned(),
        events: events.len() - before,
        is_cut_off,
    })
}

fn verdict(report: &Report) -> &'static str {
    match (report.has_errors(), report.is_clean()) {
        (true, _) => "a promise is broken",
        (false, true) => "no promise is broken",
        (false, false) => "no promise is broken, but look at the warnings",
    }
}

fn to_text(report: &Report, files: usize) -> String {
    let it = report.figures;
    let longest = std::time::Duration::from_nanos(it.slowest_recovery_ns);
    let recoveries = match it.recoveries {
        0 => "none".to_owned(),
        count => format!("{count}, the slowest in {}", duration_text(longest)),
    };
    let mut text = facts(&[
        (
            "HISTORY",
            format!("{} events in {files} files", report.events.len()),
        ),
        (
            "RECORDS",
            format!("{} acknowledged, {} read", it.produced, it.read),
        ),
        (
            "GROUPS",
            format!(
                "{} records handed out, {} of them again; {} claims, {} commits kept, {} refused; {} steps; {} views",
                it.polled, it.redelivered, it.claims, it.commits, it.refused, it.steps, it.views
            ),
        ),
        ("READ TO THE END", format!("{} partitions", it.read_through)),
        ("RECOVERIES", recoveries),
        ("VERDICT", verdict(report).to_owned()),
    ]);
    for (anomaly, count) in report.anomalies() {
        let severity = anomaly.severity().name();
        text.push_str(&format!("\n\n{severity}  {}  {count}", anomaly.name()));
        for finding in report.witnesses(anomaly) {
            text.push_str(&format!("\n  {}", finding.what));
            for (place, event) in report.proof(finding) {
                text.push_str(&format!("\n    {}", event_text(report, place, event)));
            }
        }
    }
    text
}

/// An event with its place in the history and its time since the beginning, as much of it as fits.
fn event_text(report: &Report, place: usize, event: &Event) -> String {
    let begin = report.events.first().map_or(0, |first| first.t);
    let since = std::time::Duration::from_nanos(event.t.saturating_sub(begin));
    let is = serde_json::to_string(&event.is).unwrap_or_default();
    let short: String = is.chars().take(EVENT_CHARS_MAX).collect();
    let more = if short.len() < is.len() { "..." } else { "" };
    format!(
        "#{place}  {:.6} s  process {}  {short}{more}",
        since.as_secs_f64(),
        event.process
    )
}

fn to_json(report: &Report, sources: &[Source]) -> Value {
    let anomalies = report.anomalies().into_iter().map(|(anomaly, count)| {
        let witnesses = report.witnesses(anomaly).map(|finding| {
            let events = report.proof(finding).into_iter();
            let events = events.map(|(place, event)| json!({"place": place, "event": event}));
            json!({"what": finding.what, "events": events.collect::<Vec<_>>()})
        });
        json!({
            "name": anomaly.name(),
            "severity": anomaly.severity().name(),
            "count": count,
            "witnesses": witnesses.collect::<Vec<_>>(),
        })
    });
    let files = sources
        .iter()
        .map(|source| json!({"file": source.name, "events": source.events, "cut_off": source.is_cut_off}));
    json!({
        "clean": report.is_clean(),
        "broken": report.has_errors(),
        "files": files.collect::<Vec<_>>(),
        "figures": figures_json(report.figures),
        "anomalies": anomalies.collect::<Vec<_>>(),
    })
}

fn figures_json(it: Figures) -> Value {
    json!({
        "records_acknowledged": it.produced,
        "records_read": it.read,
        "records_polled": it.polled,
        "records_redelivered": it.redelivered,
        "partitions_read_through": it.read_through,
        "claims": it.claims,
        "commits_kept": it.commits,
        "commits_refused": it.refused,
        "steps": it.steps,
        "views": it.views,
        "recoveries": it.recoveries,
        "slowest_recovery_ns": it.slowest_recovery_ns,
    })
}
