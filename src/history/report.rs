//! What a check has found, and how it is told.

use std::collections::BTreeMap;
use std::fmt;

use super::anomaly::{Anomaly, Severity};
use super::event::{Body, Event};
use super::lines::write;

/// Findings of one anomaly that are told in full; of others the number.
pub const TOLD_MAX: usize = 8;

/// One case of an anomaly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub anomaly: Anomaly,
    /// In words.
    pub what: String,
    /// Events that prove it, as indexes into the events of the report.
    pub events: Vec<usize>,
}

/// How much a history holds: one without kills and hand-overs proves little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Records that were acknowledged.
    pub produced: usize,
    /// Records that were handed to members, each time counted.
    pub polled: usize,
    /// Of them those that were handed out before.
    pub redelivered: usize,
    /// Records that were read without a group, each time counted.
    pub read: usize,
    /// Partitions that were read from the beginning to the end in the last phases, each time counted.
    pub read_through: usize,
    /// Times that a member was given a partition.
    pub claims: usize,
    /// Commits that were kept, of one partition each; those of steps, too.
    pub commits: usize,
    /// Commits that were refused, of one partition each.
    pub refused: usize,
    /// Steps that have happened.
    pub steps: usize,
    /// Views of a group.
    pub views: usize,
    /// Times that the broker was ready again after a kill, a power cut or a stop.
    pub recoveries: usize,
    /// The longest time from the beginning of such a fault until something succeeded after it.
    pub slowest_recovery_ns: u64,
}

/// What a check has found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// All cases of all anomalies.
    pub findings: Vec<Finding>,
    /// How much was checked.
    pub figures: Figures,
    /// The history, in order.
    pub events: Vec<Event>,
}

impl Report {
    /// Whether nothing was found, not even what is only worth a look.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether a promise was broken.
    pub fn has_errors(&self) -> bool {
        let mut findings = self.findings.iter();
        findings.any(|finding| finding.anomaly.severity() == Severity::Error)
    }

    /// The anomalies that were found, and how often.
    pub fn anomalies(&self) -> BTreeMap<Anomaly, usize> {
        let mut found = BTreeMap::new();
        for finding in &self.findings {
            *found.entry(finding.anomaly).or_default() += 1;
        }
        found
    }

    /// The first cases of an anomaly.
    pub fn witnesses(&self, anomaly: Anomaly) -> impl Iterator<Item = &Finding> {
        let cases = self.findings.iter();
        cases
            .filter(move |finding| finding.anomaly == anomaly)
            .take(TOLD_MAX)
    }

    /// The events that prove a finding and the other ends of their operations, in order, with their places in the history.
    pub fn proof(&self, finding: &Finding) -> Vec<(usize, &Event)> {
        let others = finding.events.iter().filter_map(|place| self.other_end(*place));
        let mut places: Vec<usize> = finding.events.iter().copied().chain(others).collect();
        places.sort_unstable();
        places.dedup();
        let events = places.into_iter();
        events
            .filter_map(|place| Some((place, self.events.get(place)?)))
            .collect()
    }

    fn other_end(&self, place: usize) -> Option<usize> {
        let event = self.events.get(place)?;
        let is_it = |other: &Event| (other.process, other.op) == (event.process, event.op);
        match event.is {
            Body::Invoke(_) => {
                let later = self.events.get(place + 1..)?.iter().position(is_it)?;
                Some(place + 1 + later)
            }
            Body::Ok(_) | Body::Fail(_) | Body::Info(_) => self.events.get(..place)?.iter().rposition(is_it),
            Body::Note(_) => None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = &self.figures;
        writeln!(
            f,
            "{} events: {} records acknowledged, {} handed to members ({} again), {} read, {} partitions read to the end, \
             {} claims, {} commits kept, {} refused, {} steps, {} views, {} recoveries",
            self.events.len(),
            figures.produced,
            figures.polled,
            figures.redelivered,
            figures.read,
            figures.read_through,
            figures.claims,
            figures.commits,
            figures.refused,
            figures.steps,
            figures.views,
            figures.recoveries,
        )?;
        for (anomaly, count) in self.anomalies() {
            writeln!(f, "{}: {count}", anomaly.name())?;
            for finding in self.witnesses(anomaly) {
                writeln!(f, "  {}", finding.what)?;
                for (_, event) in self.proof(finding) {
                    write!(f, "    {}", write(event))?;
                }
            }
        }
        Ok(())
    }
}
