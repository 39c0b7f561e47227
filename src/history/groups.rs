//! Anomalies of membership: who holds what, and who may still commit.

use std::collections::BTreeMap;

use super::anomaly::Anomaly;
use super::claims::{Claim, Reading, Target};
use super::index::{Index, Viewed};
use super::names::At;
use super::report::Finding;

/// [`Anomaly::SplitOwner`].
pub(super) fn split_owner(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for viewed in &index.views {
        held_twice(viewed, findings);
    }
    epoch_goes_back(index, findings);
    for (place, reading) in &index.readings {
        same_epoch(*place, reading, findings);
        for claim in &reading.claims {
            reads_on(index, (*place, reading), claim, findings);
        }
        for poll in &reading.unclaimed {
            let (group, at) = place;
            findings.push(Finding {
                anomaly: Anomaly::SplitOwner,
                what: format!(
                    "offset {} of {at} was handed to a member of {group} that had not been given the partition",
                    poll.offset
                ),
                events: vec![poll.moment],
            });
        }
    }
}

/// One view, and a partition in it that two members hold.
fn held_twice(viewed: &Viewed<'_>, findings: &mut Vec<Finding>) {
    let mut holders: BTreeMap<&At, &str> = BTreeMap::new();
    for held in &viewed.view.members {
        for at in &held.partitions {
            let Some(other) = holders.insert(at, &held.member) else {
                continue;
            };
            findings.push(Finding {
                anomaly: Anomaly::SplitOwner,
                what: format!(
                    "{at} is held by {other} and by {} in one view of {}",
                    held.member, viewed.group
                ),
                events: vec![viewed.returned],
            });
        }
    }
}

/// An epoch that was told, and a lower one in a view that was asked for later.
fn epoch_goes_back(index: &Index<'_>, findings: &mut Vec<Finding>) {
    let mut told = index.told.clone();
    told.sort_by_key(|(.., moment)| *moment);
    let mut told = told.into_iter().peekable();
    let mut highest = BTreeMap::new();
    let mut views: Vec<_> = index.views.iter().collect();
    views.sort_by_key(|viewed| viewed.invoked);
    for viewed in views {
        while let Some((group, epoch, moment)) = told.next_if(|(.., moment)| *moment < viewed.invoked) {
            let known = highest.entry(group).or_insert((epoch, moment));
            *known = (epoch, moment).max(*known);
        }
        let known = highest.get(viewed.group);
        if let Some((epoch, moment)) = known.filter(|(epoch, _)| *epoch > viewed.view.group_epoch) {
            findings.push(Finding {
                anomaly: Anomaly::SplitOwner,
                what: format!(
                    "group {} went back from epoch {epoch} to {}",
                    viewed.group, viewed.view.group_epoch
                ),
                events: vec![*moment, viewed.returned],
            });
        }
    }
}

/// Two members that were given a partition in one epoch. A static member that starts again is the same member.
fn same_epoch((group, at): Target<'_>, reading: &Reading<'_>, findings: &mut Vec<Finding>) {
    let mut by_epoch: BTreeMap<u32, Vec<&Claim<'_>>> = BTreeMap::new();
    for claim in &reading.claims {
        by_epoch.entry(claim.epoch).or_default().push(claim);
    }
    for (epoch, claims) in by_epoch {
        let Some((first, others)) = claims.split_first() else {
            continue;
        };
        let is_same = |other: &&&Claim<'_>| {
            first.member == other.member || (first.instance.is_some() && first.instance == other.instance)
        };
        if let Some(other) = others.iter().find(|other| !is_same(other)) {
            findings.push(Finding {
                anomaly: Anomaly::SplitOwner,
                what: format!(
                    "{at} was given to {} and to {} in epoch {epoch} of {group}",
                    first.member, other.member
                ),
                events: vec![first.assigned, other.assigned],
            });
        }
    }
}

/// A member was handed a record that was sent when somebody else held the partition already: not one that it had fetched before.
fn reads_on(
    index: &Index<'_>,
    ((group, at), reading): (Target<'_>, &Reading<'_>),
    claim: &Claim<'_>,
    findings: &mut Vec<Finding>,
) {
    let Some(end) = reading.end_of(claim) else {
        return;
    };
    let late = claim.polls.iter().find_map(|poll| {
        let sent = index.records.get(&poll.uid)?.sent?.invoked;
        (sent > end).then_some((poll, sent))
    });
    if let Some((poll, sent)) = late {
        findings.push(Finding {
            anomaly: Anomaly::SplitOwner,
            what: format!(
                "{} was handed offset {} of {at}, which was sent when another member of {group} held the partition",
                claim.member, poll.offset
            ),
            events: vec![claim.assigned, end, sent, poll.moment],
        });
    }
}

/// [`Anomaly::ZombieCommit`].
pub(super) fn zombie_commit(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for ((group, at), reading) in &index.readings {
        for commit in &reading.commits {
            let (Some(returned), Some(claim)) = (
                commit.returned,
                commit.claim.and_then(|claim| reading.claims.get(claim)),
            ) else {
                continue;
            };
            if let Some(end) = reading.end_of(claim).filter(|end| *end < commit.invoked) {
                findings.push(Finding {
                    anomaly: Anomaly::ZombieCommit,
                    what: format!(
                        "{} committed {} of {at} after another member of {group} held the partition",
                        claim.member, commit.offset
                    ),
                    events: vec![claim.assigned, end, commit.invoked, returned],
                });
            }
        }
    }
}
