//! Anomalies of reading on: what members and other readers are handed one after the other.

use std::collections::BTreeMap;

use super::anomaly::Anomaly;
use super::claims::{Claim, Polled, Target};
use super::event::{Phase, Start};
use super::index::{Index, Moment};
use super::names::At;
use super::report::Finding;
use super::through::Span;

/// What one reader was handed one after the other, with who it was and since when.
struct Sequence<'r> {
    who: String,
    at: &'r At,
    begin: Moment,
    handed: Vec<(i64, Moment)>,
}

impl<'r> Sequence<'r> {
    fn of_claim(at: &'r At, claim: &Claim<'_>) -> Self {
        Self {
            who: claim.member.to_owned(),
            at,
            begin: claim.assigned,
            handed: claim
                .polls
                .iter()
                .map(|poll| (poll.offset, poll.moment))
                .collect(),
        }
    }

    fn of_span(span: &Span<'r>) -> Self {
        let entries = span.entries.iter();
        Self {
            who: format!("the reader of process {}", span.process),
            at: span.at,
            begin: span.begin,
            handed: entries.map(|entry| (entry.offset, entry.moment)).collect(),
        }
    }

    fn pairs(&self) -> impl Iterator<Item = ((i64, Moment), (i64, Moment))> {
        let pairs = self.handed.windows(2);
        pairs.filter_map(|pair| match pair {
            [first, second] => Some((*first, *second)),
            _ => None,
        })
    }

    fn all(index: &'r Index<'_>) -> impl Iterator<Item = Self> {
        let readings = index.readings.iter();
        let claims = readings.flat_map(|((_, at), reading)| {
            let claims = reading.claims.iter();
            claims.map(|claim| Self::of_claim(at, claim))
        });
        claims.chain(index.spans.iter().map(Self::of_span))
    }

    /// The first record between two offsets, both excluded, that should have been handed out.
    fn skipped(
        &self,
        index: &Index<'_>,
        (above, below): (i64, i64),
        findings: &mut Vec<Finding>,
        what: &str,
    ) {
        let between = above.saturating_add(1)..below;
        let Some(log) = index.log.get(self.at).filter(|_| !between.is_empty()) else {
            return;
        };
        let mut there = log
            .range(between)
            .filter(|(offset, _)| index.exists(self.at, **offset));
        let Some((skipped, there)) = there.next() else {
            return;
        };
        let around = self.handed.iter();
        let around = around.filter(|(offset, _)| *offset == above || *offset == below);
        let proofs = there.iter().map(|(_, moment)| *moment);
        findings.push(Finding {
            anomaly: Anomaly::PollSkip,
            what: format!(
                "{} was not handed offset {skipped} of {}: {what}",
                self.who, self.at
            ),
            events: [self.begin]
                .into_iter()
                .chain(around.map(|(_, moment)| *moment))
                .chain(proofs)
                .collect(),
        });
    }
}

/// [`Anomaly::PollNonmonotonic`].
pub(super) fn poll_nonmonotonic(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for sequence in Sequence::all(index) {
        for (first, second) in sequence.pairs().filter(|(first, second)| second.0 <= first.0) {
            findings.push(Finding {
                anomaly: Anomaly::PollNonmonotonic,
                what: format!(
                    "{} was handed offset {} of {} after {}",
                    sequence.who, second.0, sequence.at, first.0
                ),
                events: vec![sequence.begin, first.1, second.1],
            });
        }
    }
}

/// [`Anomaly::PollSkip`].
pub(super) fn poll_skip(index: &Index<'_>, findings: &mut Vec<Finding>) {
    // What the second reading at the end leaves out is told of by itself.
    let mut phases = index.phases.iter();
    let second = phases.find(|(phase, _)| *phase == Phase::SecondRead);
    let second = second.map_or(Moment::MAX, |(_, moment)| *moment);
    for sequence in Sequence::all(index).filter(|sequence| sequence.begin < second) {
        for (first, second) in sequence.pairs() {
            let what = format!("it was handed {} and {}", first.0, second.0);
            sequence.skipped(index, (first.0, second.0), findings, &what);
        }
    }
    for span in index.spans.iter().filter(|span| span.begin < second) {
        let sequence = Sequence::of_span(span);
        let first = span.entries.first().map(|entry| entry.offset);
        let begin = match span.from {
            // Records that may be removed may be gone.
            Some(Start::Earliest) => Some(index.kept_from(span.at).saturating_sub(1)),
            Some(Start::Offset(from)) => Some(from.saturating_sub(1)),
            Some(Start::Latest) | None => None,
        };
        if let Some((above, below)) = begin.zip(first.or(span.next)) {
            sequence.skipped(index, (above, below), findings, "it began below it");
        }
        let last = span.entries.last().map(|entry| entry.offset);
        if let Some((above, below)) = last.zip(span.next) {
            sequence.skipped(index, (above, below), findings, "it went on behind it");
        }
    }
}

/// [`Anomaly::StartWrong`] of readers without a group: before where they were to begin.
pub(super) fn start_too_early(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for span in &index.spans {
        let (Some(Start::Offset(from)), Some(first)) = (span.from, span.entries.first()) else {
            continue;
        };
        if first.offset < from {
            findings.push(Finding {
                anomaly: Anomaly::StartWrong,
                what: format!(
                    "the reader of process {} was to begin at {from} of {} and was handed {}",
                    span.process, span.at, first.offset
                ),
                events: vec![span.begin, first.moment],
            });
        }
    }
}

/// [`Anomaly::Redelivery`]. A member that was stopped may hand out late what it fetched in time: only who comes later is told.
pub(super) fn redelivery(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (place, reading) in &index.readings {
        let mut earlier: BTreeMap<i64, Vec<(&Claim<'_>, Polled)>> = BTreeMap::new();
        for claim in &reading.claims {
            for poll in &claim.polls {
                earlier.entry(poll.offset).or_default().push((claim, *poll));
            }
        }
        for deliveries in earlier.values().filter(|deliveries| deliveries.len() > 1) {
            unmarked(*place, deliveries, findings);
        }
    }
}

fn unmarked((group, at): Target<'_>, deliveries: &[(&Claim<'_>, Polled)], findings: &mut Vec<Finding>) {
    for (claim, poll) in deliveries.iter().filter(|(_, poll)| !poll.redelivered) {
        let mut before = deliveries.iter().filter(|(_, first)| first.moment < poll.moment);
        let first = before.find(|(other, _)| claim.follows(other));
        if let Some((other, first)) = first {
            findings.push(Finding {
                anomaly: Anomaly::Redelivery,
                what: format!(
                    "offset {} of {at} was handed to {} and again to {} of group {group}, without a mark",
                    poll.offset, other.member, claim.member
                ),
                events: vec![first.moment, claim.assigned, poll.moment],
            });
        }
    }
}
