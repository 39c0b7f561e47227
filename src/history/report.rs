//! What a check has found, and how it is told.

use std::collections::BTreeMap;
use std::fmt;

use super::event::{Event, write};

/// Findings of one anomaly that are told in full; of others the number.
const TOLD_MAX: usize = 8;

/// A promise that was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anomaly {
    /// Two records at one offset.
    InconsistentOffset,
    /// One record at two offsets.
    Duplicate,
    /// A record that the group has passed over: below a committed offset, and handed to nobody.
    Coverage,
    /// Two members hold a partition at a time, or the epoch of a group goes back.
    SplitOwner,
    /// A commit was kept that was sent after another member held the partition.
    ZombieCommit,
    /// A member begins to read, or the group stands, where nobody committed.
    StartWrong,
    /// A member begins to read, or the group stands, below what was acknowledged as committed.
    CommitLost,
    /// The committed offset was seen to go back without anybody committing a lower one.
    CommitRegress,
    /// A member was handed an offset again, or a lower one, while it held the partition.
    PollNonmonotonic,
    /// A member was handed a record and a later one, but none of those between.
    PollSkip,
    /// A record came again to a later holder without the mark that says so.
    Redelivery,
}

impl Anomaly {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InconsistentOffset => "inconsistent-offset",
            Self::Duplicate => "duplicate",
            Self::Coverage => "coverage",
            Self::SplitOwner => "split-owner",
            Self::ZombieCommit => "zombie-commit",
            Self::StartWrong => "start-wrong",
            Self::CommitLost => "commit-lost",
            Self::CommitRegress => "commit-regress",
            Self::PollNonmonotonic => "poll-nonmonotonic",
            Self::PollSkip => "poll-skip",
            Self::Redelivery => "redelivery",
        }
    }
}

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
    /// Records that were handed out, each time counted.
    pub polled: usize,
    /// Of them those that were handed out before.
    pub redelivered: usize,
    /// Times that a member was given a partition.
    pub claims: usize,
    /// Commits that were acknowledged, of one partition each.
    pub commits: usize,
    /// Commits that were refused, of one partition each.
    pub refused: usize,
    /// Views of a group.
    pub views: usize,
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
    /// Whether no promise was broken.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// The anomalies that were found, and how often.
    pub fn anomalies(&self) -> BTreeMap<Anomaly, usize> {
        let mut found = BTreeMap::new();
        for finding in &self.findings {
            *found.entry(finding.anomaly).or_default() += 1;
        }
        found
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = &self.figures;
        writeln!(
            f,
            "{} events: {} records acknowledged, {} handed out ({} again), {} claims, {} commits kept, {} refused, {} views",
            self.events.len(),
            figures.produced,
            figures.polled,
            figures.redelivered,
            figures.claims,
            figures.commits,
            figures.refused,
            figures.views,
        )?;
        for (anomaly, count) in self.anomalies() {
            writeln!(f, "{}: {count}", anomaly.name())?;
            let cases = self.findings.iter().filter(|finding| finding.anomaly == anomaly);
            for finding in cases.take(TOLD_MAX) {
                writeln!(f, "  {}", finding.what)?;
                for event in finding.events.iter().filter_map(|index| self.events.get(*index)) {
                    write!(f, "    {}", write(event))?;
                }
            }
        }
        Ok(())
    }
}
