//! Anomalies that show when everything is read at the end, and once more after another start.

use super::anomaly::Anomaly;
use super::event::FaultKind;
use super::index::{Index, Moment};
use super::names::At;
use super::report::Finding;
use super::through::{Entry, Through};

/// [`Anomaly::UnstableRead`]. What was acknowledged, too, is lost, which is told of by itself.
pub(super) fn unstable_read(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (at, last) in &index.finals[0] {
        let log = index.log.get(at).into_iter().flatten();
        let missing = log.filter(|(offset, _)| **offset >= index.kept_from(at) && last.misses(**offset));
        for (offset, there) in missing {
            if index.may_be_rotten(at, (*offset, *offset), last.cutoff) {
                continue;
            }
            let read = there.iter().filter(|(_, moment)| *moment < last.cutoff);
            let read = read.filter_map(|(uid, _)| Some((uid, index.records.get(uid)?)));
            // A record that is elsewhere now is a duplicate, and one of a step makes that half.
            let mut unanswered = read.filter(|(_, known)| known.ack.is_none() && known.seen.len() == 1);
            let Some((uid, known)) = unanswered.next() else {
                continue;
            };
            findings.push(Finding {
                anomaly: Anomaly::UnstableRead,
                what: format!("record {uid} was read at {at} offset {offset} and is not there any more"),
                events: known
                    .seen
                    .iter()
                    .map(|seen| seen.moment)
                    .chain([last.span.begin])
                    .collect(),
            });
        }
    }
}

/// [`Anomaly::SecondReadDiffers`].
pub(super) fn second_read_differs(index: &Index<'_>, findings: &mut Vec<Finding>) {
    let [first, second] = &index.finals;
    for (at, first) in first {
        let Some(second) = second.get(at) else {
            continue;
        };
        let kept_from = index.kept_from(at);
        let mut differs = |offset: i64, moment: Moment| {
            findings.push(Finding {
                anomaly: Anomaly::SecondReadDiffers,
                what: format!("{at} offset {offset} read differently when all was read again"),
                events: vec![moment, second.span.begin],
            });
        };
        let mine = first.span.entries.iter();
        for entry in mine.filter(|entry| entry.offset >= kept_from && second.covers(entry.offset)) {
            let again = second.entry(entry.offset);
            let is_same =
                again.is_some_and(|again| again.uid == entry.uid && again.is_intact == entry.is_intact);
            if !is_same && !second.span.is_damaged(entry.offset) {
                differs(entry.offset, entry.moment);
            }
        }
        let below = |entry: &&Entry| first.span.next.is_some_and(|next| entry.offset < next);
        let others = second.span.entries.iter().filter(below);
        for entry in others.filter(|entry| entry.offset >= kept_from && first.misses(entry.offset)) {
            differs(entry.offset, entry.moment);
        }
    }
}

/// [`Anomaly::OffsetHole`]: only of what nobody ever knew; of what was there it is told by itself.
pub(super) fn offset_hole(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (at, last) in &index.finals[0] {
        let kept_from = index.kept_from(at);
        for (above, entry) in gaps(last, kept_from) {
            let gap = above.saturating_add(1)..entry.offset;
            let is_known = index
                .log
                .get(at)
                .is_some_and(|log| log.range(gap.clone()).next().is_some());
            let damaged = last.span.damaged.iter();
            let is_told = damaged
                .map(|(range, _)| range)
                .any(|range| range.first < gap.end && gap.start <= range.last);
            if is_known || is_told || gap.start < kept_from {
                continue;
            }
            findings.push(Finding {
                anomaly: Anomaly::OffsetHole,
                what: format!(
                    "{at} has nothing from offset {} to {}",
                    gap.start,
                    entry.offset.saturating_sub(1)
                ),
                events: vec![last.span.begin, entry.moment],
            });
        }
    }
}

/// Records with a gap before them, and the last offset before that.
fn gaps<'t>(last: &'t Through<'_>, kept_from: i64) -> impl Iterator<Item = (i64, &'t Entry)> {
    let before_all = kept_from.max(0).saturating_sub(1);
    let is_covered = last.covers(before_all.saturating_add(1));
    let before = last.span.entries.iter().map(|entry| entry.offset);
    let first = is_covered.then_some(before_all).or(before.clone().next());
    let before = first.into_iter().chain(before);
    let pairs = before.zip(last.span.entries.iter());
    pairs.filter(|(above, entry)| above.saturating_add(1) < entry.offset)
}

/// [`Anomaly::CorruptSilent`]: known to be damaged, and neither handed out whole nor told to be damaged.
pub(super) fn corrupt_silent(index: &Index<'_>, findings: &mut Vec<Finding>) {
    let rot = index
        .faults
        .iter()
        .filter(|(fault, _)| fault.kind == FaultKind::Rot);
    for (range, moment) in
        rot.flat_map(|(fault, moment)| fault.damaged.iter().map(move |range| (range, moment)))
    {
        let Some(last) = index.finals[0]
            .get(&range.at)
            .filter(|last| *moment < last.cutoff)
        else {
            continue;
        };
        let Some(log) = index.log.get(&range.at).filter(|_| range.first <= range.last) else {
            continue;
        };
        for (offset, _) in log.range(range.first..=range.last) {
            let is_known = index.is_known(&range.at, *offset, last.cutoff);
            if is_known && *offset >= index.kept_from(&range.at) && last.misses(*offset) {
                findings.push(Finding {
                    anomaly: Anomaly::CorruptSilent,
                    what: format!(
                        "{} offset {offset} was damaged and is missing without a word",
                        range.at
                    ),
                    events: vec![*moment, last.span.begin],
                });
            }
        }
    }
}

/// [`Anomaly::FalseQuarantine`].
pub(super) fn false_quarantine(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for span in &index.spans {
        for (range, moment) in &span.damaged {
            let at: &At = &range.at;
            if index.may_be_rotten(at, (range.first, range.last), *moment) {
                continue;
            }
            findings.push(Finding {
                anomaly: Anomaly::FalseQuarantine,
                what: format!(
                    "{at} offsets {} to {} were said to be damaged, and nobody has damaged them",
                    range.first, range.last
                ),
                events: vec![span.begin, *moment],
            });
        }
    }
}
