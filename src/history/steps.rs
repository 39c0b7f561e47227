//! Anomalies of steps: records and committed offsets go together, and nothing is stepped twice.

use std::collections::BTreeMap;

use super::anomaly::Anomaly;
use super::claims::Reading;
use super::commits::bad_looks;
use super::event::Output;
use super::index::{Index, Moment, Step};
use super::names::At;
use super::register::{Look, Register};
use super::report::Finding;

/// [`Anomaly::TornStep`].
pub(super) fn torn_step(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for step in &index.steps {
        half_of_the_outputs(index, step, findings);
    }
    // Outputs that are there, and a commit that is not.
    bad_looks(index, Anomaly::TornStep, findings);
    for ((group, at), reading) in &index.readings {
        commit_alone(index, (group, at), reading, findings);
    }
}

/// Since when an output is known to be missing for good: it was not there after this moment, and nobody may have removed it.
fn missing_since(index: &Index<'_>, output: &Output) -> Option<Moment> {
    let mut known = index.records.get(&output.uid).into_iter();
    if known.any(|known| !known.seen.is_empty()) || index.kept_from(&output.at) > i64::MIN {
        return None;
    }
    let lasts = index.finals.iter().filter_map(|last| last.get(&output.at));
    let whole = lasts.filter(|last| {
        let may_be_rotten = index.may_be_rotten(&output.at, (i64::MIN, i64::MAX), last.cutoff);
        last.is_whole && last.covers(i64::MIN) && last.span.damaged.is_empty() && !may_be_rotten
    });
    whole.map(|last| last.cutoff).max()
}

fn half_of_the_outputs(index: &Index<'_>, step: &Step<'_>, findings: &mut Vec<Finding>) {
    let seen = step.outputs.iter().filter_map(|output| {
        let seen = index.records.get(&output.uid)?.seen.first()?;
        Some((output, seen.moment))
    });
    let Some(((there, moment), happened)) = seen.min_by_key(|(_, moment)| *moment).zip(step.happened) else {
        return;
    };
    let is_missing = |output: &&Output| missing_since(index, output).is_some_and(|since| happened < since);
    if let Some(missing) = step.outputs.iter().find(is_missing) {
        findings.push(Finding {
            anomaly: Anomaly::TornStep,
            what: format!(
                "record {} of a step of {} is in {}, and record {} is not in {}",
                there.uid, step.group, there.at, missing.uid, missing.at
            ),
            events: vec![step.invoked, happened, moment],
        });
    }
}

/// A committed offset that only a step can have written of which no record is there.
fn commit_alone(
    index: &Index<'_>,
    (group, at): (&str, &At),
    reading: &Reading<'_>,
    findings: &mut Vec<Finding>,
) {
    let register = Register::of(reading);
    for seen in &reading.seen {
        let look = Look::from(*seen);
        let mut steps = Vec::new();
        let mut is_explained = false;
        for write in register.explanations(look) {
            let step = write.step.and_then(|step| index.steps.get(step));
            let missing = step.and_then(|step| {
                let mut missing = step.outputs.iter();
                missing.find(|output| missing_since(index, output).is_some_and(|since| seen.returned < since))
            });
            match step.zip(missing) {
                Some(torn) => steps.push(torn),
                None => is_explained = true,
            }
        }
        let Some((step, missing)) = steps.first().filter(|_| !is_explained) else {
            continue;
        };
        // Of a step that was acknowledged the records are lost.
        if step.happened.is_some() {
            continue;
        }
        findings.push(Finding {
            anomaly: Anomaly::TornStep,
            what: format!(
                "group {group} stood at {} of {at} by a step, and record {} of it is not in {}",
                seen.offset, missing.uid, missing.at
            ),
            events: vec![step.invoked, seen.returned],
        });
    }
}

/// [`Anomaly::StepDoubled`]. Who sets a group back wants things done again.
pub(super) fn step_doubled(index: &Index<'_>, findings: &mut Vec<Finding>) {
    let mut made: BTreeMap<(&str, &At, i64), (usize, &Output, Moment)> = BTreeMap::new();
    for (number, step) in index.steps.iter().enumerate() {
        for output in step.outputs {
            let place = index.records.get(&output.uid).and_then(|known| known.place());
            let (Some(place), Some((at, offset))) = (place, &output.of) else {
                continue;
            };
            let key = (step.group, at, *offset);
            let first = *made.entry(key).or_insert((number, output, place.moment));
            let since = index.steps[first.0].invoked;
            if first.0 == number || is_set_back(index, (step.group, at), *offset, since) {
                continue;
            }
            findings.push(Finding {
                anomaly: Anomaly::StepDoubled,
                what: format!(
                    "two steps of group {} have made a record of {at} offset {offset}: {} and {}",
                    step.group, first.1.uid, output.uid
                ),
                events: vec![index.steps[first.0].invoked, first.2, step.invoked, place.moment],
            });
        }
    }
}

/// Whether somebody may have committed what is before a record since then.
pub(super) fn is_set_back(index: &Index<'_>, target: (&str, &At), offset: i64, since: Moment) -> bool {
    let commits = index.readings.get(&target).map(|reading| &reading.commits);
    let mut commits = commits.into_iter().flatten();
    commits.any(|commit| {
        let is_later = commit.returned.is_none_or(|returned| returned > since);
        is_later && commit.step.is_none() && commit.offset <= offset
    })
}
