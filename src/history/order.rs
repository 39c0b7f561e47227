//! Anomalies of order: offsets grow as records are acknowledged and sent, batches are whole, and ends never lie behind.

use std::collections::{BTreeMap, HashMap};

use super::anomaly::Anomaly;
use super::event::{Body, Op};
use super::index::{End, Index, Moment};
use super::names::{At, Uid};
use super::report::Finding;
use super::written::{Known, Place, Sent};

/// What is known about a partition, by the moment from which it was known, so that the highest offset so far can be asked for.
struct Proofs {
    by_moment: Vec<(Moment, i64)>,
}

impl Proofs {
    /// Of all partitions.
    fn all<'a>(index: &Index<'a>) -> BTreeMap<&'a At, Self> {
        let mut all: BTreeMap<&'a At, Self> = BTreeMap::new();
        let places = index
            .order
            .iter()
            .filter_map(|uid| index.records.get(uid)?.place());
        for place in places {
            let by_moment = Vec::new();
            let proofs = all.entry(place.at).or_insert(Self { by_moment });
            proofs.by_moment.push((place.moment, place.offset));
        }
        for proofs in all.values_mut() {
            proofs.sum_up();
        }
        all
    }

    fn sum_up(&mut self) {
        self.by_moment.sort_unstable();
        let mut highest = i64::MIN;
        for (_, offset) in &mut self.by_moment {
            highest = highest.max(*offset);
            *offset = highest;
        }
    }

    /// The highest offset known before this moment, and some moment at which something as high was known.
    fn highest(&self, before: Moment) -> Option<(Moment, i64)> {
        let count = self.by_moment.partition_point(|(moment, _)| *moment < before);
        let (_, highest) = *self.by_moment.get(count.checked_sub(1)?)?;
        let first = self.by_moment.partition_point(|(_, offset)| *offset < highest);
        self.by_moment.get(first).copied()
    }
}

/// [`Anomaly::RealtimeOrder`].
pub(super) fn realtime_order(index: &Index<'_>, findings: &mut Vec<Finding>) {
    let proofs = Proofs::all(index);
    let sent = index.order.iter().filter_map(|uid| {
        let known = index.records.get(uid)?;
        Some((uid, known.sent?, known.place()?))
    });
    for (uid, sent, place) in sent {
        let earlier = proofs
            .get(place.at)
            .and_then(|proofs| proofs.highest(sent.invoked));
        // At the same offset there are two records, which is told of by itself.
        if let Some((moment, offset)) = earlier.filter(|(_, offset)| *offset > place.offset) {
            findings.push(Finding {
                anomaly: Anomaly::RealtimeOrder,
                what: format!(
                    "record {uid} is at {} offset {}, and {offset} was there before it was sent",
                    place.at, place.offset
                ),
                events: vec![moment, sent.invoked, place.moment],
            });
        }
    }
}

/// [`Anomaly::SessionOrder`].
pub(super) fn session_order(index: &Index<'_>, findings: &mut Vec<Finding>) {
    let mut last: HashMap<(u32, u64, &At), (Uid, Sent<'_>, Place<'_>)> = HashMap::new();
    for (moment, event) in index.events.iter().enumerate() {
        let Body::Invoke(Op::Produce {
            at,
            uids,
            session: Some(session),
            ..
        }) = &event.is
        else {
            continue;
        };
        for uid in uids {
            let known = index.records.get(uid);
            let Some((sent, place)) = known.and_then(|known| Some((known.sent?, known.place()?))) else {
                continue;
            };
            // Sent again, it is where it was; in another partition it is told of by itself.
            if sent.invoked != moment || place.at != at {
                continue;
            }
            let key = (event.process, *session, at);
            let before = last.insert(key, (*uid, sent, place));
            let Some((earlier, before_sent, before)) = before else {
                continue;
            };
            if before.offset > place.offset {
                findings.push(Finding {
                    anomaly: Anomaly::SessionOrder,
                    what: format!(
                        "records {earlier} and {uid} of one session are at {at} offsets {} and {}",
                        before.offset, place.offset
                    ),
                    events: vec![before_sent.invoked, moment, before.moment, place.moment],
                });
            }
        }
    }
}

/// [`Anomaly::TornBatch`].
pub(super) fn torn_batch(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (moment, event) in index.events.iter().enumerate() {
        let Body::Invoke(Op::Produce { at, uids, .. }) = &event.is else {
            continue;
        };
        if uids.len() < 2 {
            continue;
        }
        let known: Vec<Option<&Known<'_>>> = uids.iter().map(|uid| index.records.get(uid)).collect();
        // Where the batch would begin, by each of its records that was read.
        let mut bases = BTreeMap::new();
        for (number, known) in (0..).zip(&known) {
            let seen = known
                .and_then(|known| known.seen.first())
                .filter(|seen| seen.at == at);
            if let Some(seen) = seen {
                bases
                    .entry(seen.offset.saturating_sub(number))
                    .or_insert((seen.moment, seen.offset));
            }
        }
        let mut findings_of = |what: String, moments: Vec<Moment>| {
            findings.push(Finding {
                anomaly: Anomaly::TornBatch,
                what: format!(
                    "the batch of {} records from {} on, in {at}: {what}",
                    uids.len(),
                    uids[0]
                ),
                events: [moment].into_iter().chain(moments).collect(),
            });
        };
        if bases.len() > 1 {
            let named: Vec<String> = bases.keys().map(ToString::to_string).collect();
            let what = format!(
                "its records are not beside each other, but as if it began at {}",
                named.join(" and at ")
            );
            findings_of(what, bases.into_values().map(|(moment, _)| moment).collect());
            continue;
        }
        // Acknowledged and missing is lost, which is told of by itself.
        if known.iter().flatten().any(|known| known.ack.is_some()) {
            continue;
        }
        let Some((base, (seen, offset))) = bases.into_iter().next() else {
            continue;
        };
        // Read before, or by the same reader: then the rest is there for it, too.
        let mut last = index.finals[0].get(at).into_iter();
        let last = last.find(|last| seen < last.cutoff || last.entry(offset).is_some());
        let missing = (0..).zip(uids).find_map(|(number, uid)| {
            let offset = base.saturating_add(number);
            let is_missing = index.records.get(uid).is_none_or(|known| known.seen.is_empty())
                && offset >= index.kept_from(at)
                && last?.misses(offset)
                && !index.may_be_rotten(at, (offset, offset), Moment::MAX);
            is_missing.then_some(offset)
        });
        if let Some(missing) = missing {
            findings_of(format!("offset {missing} is not there"), vec![seen]);
        }
    }
}

/// [`Anomaly::EndOffsetStale`].
pub(super) fn end_offset_stale(index: &Index<'_>, findings: &mut Vec<Finding>) {
    let proofs = Proofs::all(index);
    let mut by_end: Vec<&End<'_>> = index.ends.iter().collect();
    by_end.sort_by_key(|end| end.invoked);
    let mut told: BTreeMap<&At, Proofs> = BTreeMap::new();
    for end in &index.ends {
        let by_moment = Vec::new();
        let told = told.entry(end.at).or_insert(Proofs { by_moment });
        told.by_moment.push((end.returned, end.offset));
    }
    told.values_mut().for_each(Proofs::sum_up);
    for end in by_end {
        if index.kept_from(end.at) == i64::MAX {
            continue;
        }
        let highest = proofs.get(end.at).and_then(|proofs| proofs.highest(end.invoked));
        let record = highest.map(|(moment, offset)| (moment, offset.saturating_add(1)));
        let before = told.get(end.at).and_then(|told| told.highest(end.invoked));
        let reached = record.into_iter().chain(before).max_by_key(|(_, offset)| *offset);
        if let Some((moment, offset)) = reached.filter(|(_, offset)| *offset > end.offset) {
            findings.push(Finding {
                anomaly: Anomaly::EndOffsetStale,
                what: format!(
                    "{} was said to end at {}, and had reached {offset} before",
                    end.at, end.offset
                ),
                events: vec![moment, end.invoked, end.returned],
            });
        }
    }
}
