//! What the tables say when everything was looked at: what was kept, what may be missing, and what was there at the end.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{FaultKind, Phase};
use super::index::{Index, Moment, Step};
use super::names::At;
use super::through::{Span, Through};

impl<'a> Index<'a> {
    /// The lowest offset of which it is sure that nothing has removed it on purpose.
    pub(super) fn kept_from(&self, at: &At) -> i64 {
        let is_gone = self.deleted.contains(at.topic.as_str())
            || self.in_memory.contains(at.topic.as_str()) && self.memory_emptied() > 0;
        if is_gone {
            return i64::MAX;
        }
        self.kept_from.get(at).copied().unwrap_or(i64::MIN)
    }

    /// Whether a record that is known to have been here must be here whenever somebody reads.
    pub(super) fn exists(&self, at: &At, offset: i64) -> bool {
        let is_damaged = |span: &Span<'_>| span.at == at && span.is_damaged(offset);
        if offset < self.kept_from(at) || self.spans.iter().any(is_damaged) {
            return false;
        }
        // That it is missing for good is told of by itself, not of everybody who did not find it.
        let is_missing = self.finals[0]
            .get(at)
            .is_some_and(|last| last.misses(offset) && self.is_known(at, offset, last.cutoff));
        !is_missing
    }

    /// Whether something was known to be here before this moment.
    pub(super) fn is_known(&self, at: &At, offset: i64, before: Moment) -> bool {
        let there = self.log.get(at).and_then(|log| log.get(&offset));
        there.is_some_and(|there| there.iter().any(|(_, moment)| *moment < before))
    }

    /// Whether somebody may have damaged this before this moment.
    pub(super) fn may_be_rotten(&self, at: &At, (first, last): (i64, i64), before: Moment) -> bool {
        let rot = self
            .faults
            .iter()
            .filter(|(fault, moment)| fault.kind == FaultKind::Rot && *moment < before);
        rot.map(|(fault, _)| fault).any(|fault| {
            let mut damaged = fault.damaged.iter();
            fault.damaged.is_empty()
                || damaged.any(|range| range.at == *at && range.first <= last && first <= range.last)
        })
    }

    /// What can be said only when everything was looked at.
    pub(super) fn finish(&mut self) {
        let emptied = self.memory_emptied();
        for (uid, place) in std::mem::take(&mut self.unsure) {
            if place.moment >= emptied {
                self.sure(uid, place);
            }
        }
        let open: Vec<_> = self
            .open
            .iter()
            .map(|(id, open)| (id.0, open.op, open.invoked))
            .collect();
        for (process, op, invoked) in open {
            self.ended(process, op, invoked, None);
        }
        self.finish_steps();
        self.finish_looks();
        for reading in self.readings.values_mut() {
            reading.commits.sort_by_key(|commit| commit.invoked);
        }
        self.order = self.records.keys().copied().collect();
        self.order.sort_unstable();
        self.finals = [Phase::FinalRead, Phase::SecondRead].map(|phase| self.last_readings(phase));
    }

    /// The last moment up to which a fault may have taken what was in memory alone.
    fn memory_emptied(&self) -> Moment {
        let mut faults = self.faults.iter().rev();
        let last = faults.find(|(fault, _)| fault.kind.empties_memory());
        last.map_or(0, |(fault, moment)| match fault.is_over {
            true => *moment,
            false => self.events.len(),
        })
    }

    /// A step of which an output was seen has happened, whatever its process was told.
    fn finish_steps(&mut self) {
        for number in 0..self.steps.len() {
            let step = &self.steps[number];
            let outputs = step.outputs.iter();
            let seen = outputs.filter_map(|output| self.records.get(&output.uid)?.place());
            let moments = seen.map(|place| place.moment).chain(step.happened);
            let happened = moments.min();
            self.steps[number].happened = happened;
            let Step {
                process,
                invoked,
                has_failed,
                group,
                offsets,
                ..
            } = self.steps[number];
            if !has_failed {
                self.committed((process, group), offsets, invoked, happened, Some(number));
            }
        }
    }

    /// Partitions of which a look should have shown a committed offset if there was one.
    fn finish_looks(&mut self) {
        for asked in std::mem::take(&mut self.asked) {
            let shown: BTreeSet<&At> = asked.shown.iter().map(|(at, _)| at).collect();
            let of: Option<BTreeSet<&At>> = asked.of.map(|of| of.iter().collect());
            for ((group, at), reading) in &mut self.readings {
                let is_asked = *group == asked.group && of.as_ref().is_none_or(|of| of.contains(at));
                if is_asked && !shown.contains(at) {
                    reading.nowhere.push((asked.invoked, asked.returned));
                }
            }
        }
    }

    /// What was read in a phase, of each partition what got furthest.
    fn last_readings(&self, phase: Phase) -> BTreeMap<&'a At, Through<'a>> {
        let mut last: BTreeMap<&'a At, Through<'a>> = BTreeMap::new();
        let Some(begin) = self.phases.iter().rposition(|(known, _)| *known == phase) else {
            return last;
        };
        let end = self
            .phases
            .get(begin + 1)
            .map_or(self.events.len(), |(_, end)| *end);
        let begin = self.phases[begin].1;
        let mut ends: BTreeMap<&At, i64> = BTreeMap::new();
        for told in self
            .ends
            .iter()
            .filter(|told| told.invoked > begin && told.returned < end)
        {
            let known = ends.entry(told.at).or_insert(told.offset);
            *known = told.offset.max(*known);
        }
        for span in self
            .spans
            .iter()
            .filter(|span| span.begin > begin && span.begin < end)
        {
            let is_whole = ends.get(span.at).is_some_and(|end| span.next >= Some(*end));
            let is_better = last
                .get(span.at)
                .is_none_or(|known| (known.is_whole, known.span.next) < (is_whole, span.next));
            if is_better {
                last.insert(span.at, Through::new(span, begin, is_whole));
            }
        }
        last
    }
}
