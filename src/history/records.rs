//! Anomalies of records: where they are, and whether the group was handed each.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{At, Uid};
use super::index::{Index, Moment};
use super::report::{Anomaly, Finding};

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
    let mut places: BTreeMap<Uid, Vec<(&At, i64, Moment)>> = BTreeMap::new();
    for (at, log) in &index.log {
        for (offset, there) in log {
            for (uid, moment) in there {
                places.entry(*uid).or_default().push((at, *offset, *moment));
            }
        }
    }
    for (uid, places) in places.iter().filter(|(_, places)| places.len() > 1) {
        let named: Vec<String> = places
            .iter()
            .map(|(at, offset, _)| format!("{at} offset {offset}"))
            .collect();
        findings.push(Finding {
            anomaly: Anomaly::Duplicate,
            what: format!("record {uid} is at {}", named.join(" and ")),
            events: places.iter().map(|(.., moment)| *moment).collect(),
        });
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
        let claims = reading.claims.iter().flat_map(|claim| &claim.polls);
        let polled: BTreeSet<i64> = claims.chain(&reading.unclaimed).map(|poll| poll.offset).collect();
        let log = index.log.get(at).into_iter().flatten();
        for (offset, there) in log.filter(|(offset, _)| **offset < committed && !polled.contains(offset)) {
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
