//! Anomalies of records: whether each is where it was acknowledged, once, and as it was made.

use std::collections::{BTreeMap, BTreeSet};

use super::anomaly::Anomaly;
use super::event::Numbered;
use super::index::{Answered, Index, Moment};
use super::names::{At, Uid};
use super::report::Finding;
use super::written::{Known, Place};

/// Every record that was sent or seen, in order.
fn known<'i, 'a>(index: &'i Index<'a>) -> impl Iterator<Item = (Uid, &'i Known<'a>)> {
    let uids = index.order.iter();
    uids.filter_map(|uid| Some((*uid, index.records.get(uid)?)))
}

fn sent_at(known: &Known<'_>) -> Option<Moment> {
    known.sent.map(|sent| sent.invoked)
}

/// [`Anomaly::LostWrite`]. What is at another place, altered, or missing as a part of its step is told of elsewhere.
pub(super) fn lost_write(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (uid, known) in known(index) {
        let Some(ack) = known.ack else {
            continue;
        };
        let Some(last) = index.finals[0]
            .get(ack.at)
            .filter(|last| ack.moment < last.cutoff)
        else {
            continue;
        };
        let there = last.entry(ack.offset);
        let is_another = there.is_some_and(|entry| entry.uid != Some(uid) && entry.is_intact);
        let is_lost = (last.misses(ack.offset) || is_another)
            && ack.offset >= index.kept_from(ack.at)
            && !is_elsewhere(known, ack)
            && !is_torn(index, known)
            && !index.may_be_rotten(ack.at, (ack.offset, ack.offset), last.cutoff);
        if is_lost {
            findings.push(Finding {
                anomaly: Anomaly::LostWrite,
                what: format!(
                    "record {uid} was acknowledged at {} offset {} and is not there",
                    ack.at, ack.offset
                ),
                events: [sent_at(known), Some(ack.moment), Some(last.span.begin)]
                    .into_iter()
                    .flatten()
                    .collect(),
            });
        }
    }
}

fn is_elsewhere(known: &Known<'_>, ack: Place<'_>) -> bool {
    let is_other = |seen: &Place<'_>| seen.offset != ack.offset || seen.at != ack.at;
    !known.seen.is_empty() && known.seen.iter().all(is_other)
}

/// Whether the record belongs to a step of which something else was read.
fn is_torn(index: &Index<'_>, known: &Known<'_>) -> bool {
    let step = known.sent.and_then(|sent| index.steps.get(sent.step?));
    step.is_some_and(|step| {
        let mut outputs = step.outputs.iter();
        outputs.any(|output| !index.records[&output.uid].seen.is_empty())
    })
}

/// [`Anomaly::MovedWrite`]: read at another place than it was acknowledged at, or in another partition than it was sent to.
pub(super) fn moved_write(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (uid, known) in known(index) {
        let [seen] = known.seen.as_slice() else {
            continue;
        };
        let is_moved = match (known.ack, known.sent) {
            (Some(ack), _) => is_elsewhere(known, ack),
            (None, Some(sent)) => sent.at != seen.at,
            (None, None) => false,
        };
        if is_moved {
            let promised = known.ack.map_or("sent to another partition".to_owned(), |ack| {
                format!("acknowledged at {} offset {}", ack.at, ack.offset)
            });
            let ack = known.ack.map(|ack| ack.moment);
            findings.push(Finding {
                anomaly: Anomaly::MovedWrite,
                what: format!(
                    "record {uid} is at {} offset {} and was {promised}",
                    seen.at, seen.offset
                ),
                events: [sent_at(known), ack, Some(seen.moment)]
                    .into_iter()
                    .flatten()
                    .collect(),
            });
        }
    }
}

/// [`Anomaly::InconsistentOffset`].
pub(super) fn inconsistent_offset(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (at, log) in &index.log {
        for (offset, there) in log.iter().filter(|(_, there)| there.len() > 1) {
            let uids: Vec<String> = there.iter().map(|(uid, _)| uid.to_string()).collect();
            findings.push(Finding {
                anomaly: Anomaly::InconsistentOffset,
                what: format!("{at} offset {offset} has the records {}", uids.join(" and ")),
                events: there.iter().map(|(_, moment)| *moment).collect(),
            });
        }
    }
}

/// [`Anomaly::Duplicate`].
pub(super) fn duplicate(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (uid, known) in known(index).filter(|(_, known)| known.seen.len() > 1) {
        let places = known.seen.iter();
        let named: Vec<String> = places
            .clone()
            .map(|place| format!("{} offset {}", place.at, place.offset))
            .collect();
        findings.push(Finding {
            anomaly: Anomaly::Duplicate,
            what: format!("record {uid} is at {}", named.join(" and ")),
            events: sent_at(known)
                .into_iter()
                .chain(places.map(|place| place.moment))
                .collect(),
        });
    }
}

/// [`Anomaly::DuplicateAck`].
pub(super) fn duplicate_ack(index: &Index<'_>, findings: &mut Vec<Finding>) {
    let mut first: BTreeMap<(&At, Numbered), &Answered<'_>> = BTreeMap::new();
    for answered in &index.answered {
        let known = *first.entry((answered.at, answered.sequence)).or_insert(answered);
        if known.base != answered.base {
            let Numbered {
                producer,
                epoch,
                first,
            } = answered.sequence;
            findings.push(Finding {
                anomaly: Anomaly::DuplicateAck,
                what: format!(
                    "sequence {first} of producer {producer} in epoch {epoch} was acknowledged at offset {} of {} \
                     and again at {}",
                    known.base, answered.at, answered.base
                ),
                events: vec![known.returned, answered.returned],
            });
        }
    }
}

/// [`Anomaly::Phantom`]. Histories without any producer say nothing about who made what.
pub(super) fn phantom(index: &Index<'_>, findings: &mut Vec<Finding>) {
    if index.records.values().all(|known| known.sent.is_none()) {
        return;
    }
    for (uid, known) in known(index) {
        let Some(seen) = known.seen.first() else {
            continue;
        };
        let what = match sent_at(known) {
            None => "nobody sent it",
            Some(sent) if seen.moment < sent => "it was sent only later",
            Some(_) => continue,
        };
        findings.push(Finding {
            anomaly: Anomaly::Phantom,
            what: format!("record {uid} is at {} offset {}: {what}", seen.at, seen.offset),
            events: [Some(seen.moment), sent_at(known)]
                .into_iter()
                .flatten()
                .collect(),
        });
    }
}

/// [`Anomaly::CorruptRead`].
pub(super) fn corrupt_read(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (uid, place) in &index.altered {
        let named = uid.map_or("bytes that are no record".to_owned(), |uid| {
            format!("record {uid}, which is not as it was made,")
        });
        findings.push(Finding {
            anomaly: Anomaly::CorruptRead,
            what: format!("{named} came from {} offset {}", place.at, place.offset),
            events: vec![place.moment],
        });
    }
}

/// [`Anomaly::FailedVisible`].
pub(super) fn failed_visible(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (uid, known) in known(index).filter(|(_, known)| known.has_failed()) {
        if let Some(seen) = known.seen.first() {
            findings.push(Finding {
                anomaly: Anomaly::FailedVisible,
                what: format!(
                    "record {uid} was refused and is at {} offset {}",
                    seen.at, seen.offset
                ),
                events: sent_at(known).into_iter().chain([seen.moment]).collect(),
            });
        }
    }
}

/// [`Anomaly::Coverage`].
pub(super) fn coverage(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for ((group, at), reading) in &index.readings {
        let commits = reading.commits.iter();
        let kept = commits.filter_map(|commit| Some((commit.offset, commit.returned?)));
        let seen = reading.seen.iter().map(|seen| (seen.offset, seen.returned));
        let Some((committed, proof)) = kept.chain(seen).max() else {
            continue;
        };
        // Who begins anywhere, or is set somewhere from outside, leaves out what is before.
        let is_set = reading.commits.iter().any(|commit| commit.claim.is_none());
        if is_set || reading.claims.iter().any(|claim| claim.begins_anywhere) {
            continue;
        }
        let claims = reading.claims.iter().flat_map(|claim| &claim.polls);
        let polled: BTreeSet<i64> = claims.chain(&reading.unclaimed).map(|poll| poll.offset).collect();
        let log = index.log.get(at).into_iter().flatten();
        let passed = log.filter(|(offset, _)| **offset < committed && !polled.contains(offset));
        for (offset, there) in passed.filter(|(offset, _)| index.exists(at, **offset)) {
            findings.push(Finding {
                anomaly: Anomaly::Coverage,
                what: format!(
                    "group {group} has committed {committed} of {at}, and nobody was handed offset {offset}"
                ),
                events: there.iter().map(|(_, moment)| *moment).chain([proof]).collect(),
            });
        }
    }
}
