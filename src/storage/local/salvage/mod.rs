//! The way out of a refused start: what stands in its way, what each way out gives up, and taking it once a person has said so
//! in exact words. A broker never does. `docs/operations.md`, "When data is damaged".

mod copies;
pub(super) mod evidence;
pub(super) mod rebuild;
mod restore;
mod way;

use std::fmt;
use std::io;
use std::sync::Arc;

pub(super) use copies::{LEFT_BYTES, read_what_can_be};
use restore::CanBeMade;
pub use way::Way;

use super::checkpoint::Pair;
use super::directory;
use super::format::DirectoryId;
use super::inspect::{Effect, Finding, InspectError, Kind, Report, Watch, rehearse};
use super::recovery::{self, OpenError, RecoveryReport};
use super::settings::Settings;
use crate::disk::{Disk, SharedDisk};
use crate::model::{Lsn, Offset, PartitionKey};
use crate::rt::{Clock, IdSource};
use crate::storage::Replay;

/// What a person has given up. Recovery asks it before it refuses; of a broker it is always empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    groups: Vec<(Lsn, Lsn)>,
    records: Vec<(PartitionKey, Offset, Offset)>,
    tail: Option<Lsn>,
    checkpoint: bool,
}

impl Accepted {
    fn of(ways: &[Way]) -> Self {
        let mut accepted = Self::default();
        for way in ways {
            match *way {
                Way::Groups { first, last } => accepted.groups.push((first, last)),
                Way::Records { key, first, last } => accepted.records.push((key, first, last)),
                Way::Tail { from } => accepted.tail = Some(from),
                Way::Checkpoint => accepted.checkpoint = true,
                Way::Format | Way::Header(_) => {}
            }
        }
        accepted
    }

    /// Whether all of these groups are given up.
    pub(super) fn has_groups(&self, first: Lsn, last: Lsn) -> bool {
        self.groups.iter().any(|(from, to)| *from <= first && last <= *to)
    }

    /// Whether all of these records are given up.
    pub(super) fn has_records(&self, key: PartitionKey, first: Offset, last: Offset) -> bool {
        let covers =
            |(of, from, to): &(PartitionKey, Offset, Offset)| *of == key && *from <= first && last <= *to;
        self.records.iter().any(covers)
    }

    /// Whether what a newer checkpoint than those that can be read told is given up, or what any told.
    pub(super) fn has_checkpoint(&self) -> bool {
        self.checkpoint
    }

    /// Whether this way past a problem of the journal was taken.
    pub(super) fn has(&self, way: Way) -> bool {
        match way {
            Way::Groups { first, last } => self.has_groups(first, last),
            Way::Tail { from } => self.tail == Some(from),
            Way::Checkpoint => self.checkpoint,
            Way::Records { key, first, last } => self.has_records(key, first, last),
            Way::Format | Way::Header(_) => false,
        }
    }

    /// Whether nothing is.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One thing that keeps a broker from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What it is.
    pub finding: Finding,
    /// How to get past it; `None`: only with a copy of the file or the directory.
    pub way: Option<Way>,
}

/// What stands in the way of a start, and what is at stake.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The verdict on the directory.
    pub report: Report,
    /// What to get past now. Restoring comes first: what it makes readable may show more.
    pub obstacles: Vec<Obstacle>,
    /// Whether more is looked at again when these are past.
    pub goes_on: bool,
}

impl Plan {
    /// The ways past all of them, in order; `None` if there is none past one of them.
    pub fn ways(&self) -> Option<Vec<Way>> {
        let ways: Option<Vec<Way>> = self.obstacles.iter().map(|obstacle| obstacle.way).collect();
        ways.map(|mut ways| {
            ways.sort_unstable();
            ways.dedup();
            ways
        })
    }
}

/// Why nothing was salvaged. Nothing but copies below `salvage/` was written, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// There is no verdict on the directory.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// What was named is not what was found.
    #[error("what is named is not what stands in the way now: {0}")]
    Differs(String),
    /// The copies could not be made.
    #[error("the files that would be touched could not be copied to {dir}: {source}")]
    Copies {
        /// Where to.
        dir: String,
        /// Why.
        source: io::Error,
    },
    /// Somebody else uses the directory.
    #[error("{0}")]
    InUse(String),
    /// The directory could not be opened to be changed.
    #[error("nothing was changed: {0}")]
    Disk(io::Error),
    /// The change was begun and not finished.
    #[error(
        "the change was not finished: {source}; {before}, and the files as they were before are in {copies}"
    )]
    Unfinished {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// What was done by then.
        before: String,
        /// Where the copies are.
        copies: String,
    },
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Where the files are as they were before, below the data directory.
    pub copies: String,
    /// How many files, and their bytes.
    pub copied: (usize, u64),
    /// What recovery came to, if groups or records were given up.
    pub report: Option<RecoveryReport>,
}

/// Looks at what stands in the way of a start; changes nothing. `replay` hears what a start would tell it.
///
/// # Errors
/// If there is no verdict on the directory.
pub fn plan(disk: &dyn Disk, watch: &mut dyn Watch, replay: &mut dyn Replay) -> Result<Plan, InspectError> {
    let report = rehearse(disk, watch, replay)?;
    let directory = report.directory;
    let refusals = report.findings.iter().filter(|f| f.effect == Effect::Refusal);
    let mut refusals: Vec<_> = refusals.collect();
    // Of two with the same way out the one that another try may do away with is told.
    refusals.sort_by_key(|finding| finding.kind != Kind::Unreadable);
    let mut obstacles = Vec::new();
    for finding in refusals {
        let mut finding = finding.clone();
        let way = way_past(disk, directory, &mut finding)?;
        let known = way.is_some() && obstacles.iter().any(|o: &Obstacle| o.way == way);
        if !known {
            obstacles.push(Obstacle { finding, way });
        }
    }
    let restores = |o: &Obstacle| o.way.is_some_and(|way| way.restores());
    // What a file without header holds, or lacks, is seen when it has one.
    let goes_on = obstacles.iter().any(restores);
    if goes_on {
        obstacles.retain(restores);
    }
    Ok(Plan {
        report,
        obstacles,
        goes_on,
    })
}

/// The way past a finding. Where there is none for the moment, the finding says so.
fn way_past(
    disk: &dyn Disk,
    directory: Option<DirectoryId>,
    finding: &mut Finding,
) -> Result<Option<Way>, InspectError> {
    let records = || {
        let (key, (first, last)) = finding.partition.zip(finding.offsets)?;
        Some(Way::Records { key, first, last })
    };
    Ok(match finding.kind {
        Kind::Format => directory.map(|_| Way::Format),
        Kind::Checkpoint | Kind::JournalGroup | Kind::JournalFile | Kind::Unreadable => {
            match (finding.way, directory) {
                (Some(way @ Way::Header(number)), Some(directory)) => {
                    match restore::can_be_made(disk, directory, number)? {
                        CanBeMade::Yes => Some(way),
                        CanBeMade::No => None,
                        CanBeMade::NotNow(why) => {
                            finding.kind = Kind::Unreadable;
                            finding.what.push_str("; it cannot be now: ");
                            finding.what.push_str(&why);
                            None
                        }
                    }
                }
                (way, _) => way,
            }
        }
        Kind::JournalBatch
        | Kind::Offsets
        | Kind::SegmentMissing
        | Kind::SegmentShort
        | Kind::PartialBlock => records(),
        Kind::JournalHeader
        | Kind::JournalChain
        | Kind::UnfinishedGroup
        | Kind::SegmentBatch
        | Kind::BatchHeader
        | Kind::SegmentTail
        | Kind::State
        | Kind::Quarantined
        | Kind::Index
        | Kind::UnknownFile => None,
    })
}

/// Checks that what a person has named is exactly what stands in the way.
///
/// # Errors
/// Says what is too much, what is missing, and what nothing leads past.
pub fn check(plan: &Plan, wanted: &[Way]) -> Result<Vec<Way>, SalvageError> {
    if plan.obstacles.is_empty() {
        return Err(SalvageError::Differs("nothing does, a broker starts".to_owned()));
    }
    let Some(ways) = plan.ways() else {
        let stuck = plan.obstacles.iter().filter(|o| o.way.is_none());
        let stuck: Vec<_> = stuck.map(|o| o.finding.what.as_str()).collect();
        let what = format!("nothing but a copy leads past this: {}", stuck.join("; "));
        return Err(SalvageError::Differs(what));
    };
    let list = |of: &[Way], without: &[Way]| {
        let left = of.iter().filter(|way| !without.contains(way));
        left.map(Way::to_string).collect::<Vec<_>>().join(", ")
    };
    let (missing, extra) = (list(&ways, wanted), list(wanted, &ways));
    match (missing.is_empty(), extra.is_empty()) {
        (true, true) => Ok(ways),
        (false, true) => Err(SalvageError::Differs(format!("{missing} is not named"))),
        (true, false) => Err(SalvageError::Differs(format!(
            "{extra} does not stand in the way"
        ))),
        (false, false) => Err(SalvageError::Differs(format!(
            "{missing} is not named, and {extra} does not stand in the way"
        ))),
    }
}

/// What acting needs beside the disk.
pub struct Means<'a> {
    /// As of the broker that is to run here.
    pub settings: &'a Settings,
    /// For the times in what is written.
    pub clock: Arc<dyn Clock>,
    /// For new ids.
    pub ids: &'a dyn IdSource,
    /// A name for the directory of copies, which is not there yet.
    pub name: &'a str,
}

impl fmt::Debug for Means<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Means")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Takes these ways, which [`check`] has agreed to. The files that are touched are copied first. A kill at any moment leaves
/// the directory as it was or as it shall be.
///
/// # Errors
/// [`SalvageError`] says what happened.
pub fn salvage(
    disk: SharedDisk,
    plan: &Plan,
    ways: &[Way],
    means: &Means<'_>,
    replay: &mut dyn Replay,
) -> Result<Done, SalvageError> {
    let directory = plan.report.directory;
    let directory =
        directory.ok_or_else(|| SalvageError::Differs("the directory has no identity".to_owned()))?;
    let copies = copies::place(means.name);
    let copied = copies::keep(&*disk, &copies, directory, ways).map_err(|source| SalvageError::Copies {
        dir: copies.clone(),
        source,
    })?;
    let mut restored = Vec::new();
    for way in ways.iter().filter(|way| way.restores()) {
        if let Err(error) = write_again(&*disk, directory, *way, means.settings) {
            return Err(unfinished(error, &restored, &copies));
        }
        restored.push(*way);
    }
    let accepted = Accepted::of(ways);
    let report = if accepted.is_empty() {
        None
    } else {
        tracing::error!(event = "given_up", groups = ?accepted.groups, records = ?accepted.records, tail = ?accepted.tail, checkpoint = accepted.checkpoint, "acknowledged data is given up, as a person has said");
        let clock = Arc::clone(&means.clock);
        let opened = recovery::open_accepting(disk, means.settings, clock, means.ids, replay, &accepted);
        let opened = opened.map_err(|error| match error {
            // What recovery says of changes is not all that was done.
            OpenError::Refused(why) | OpenError::RefusedLate(why) => unfinished(why, &restored, &copies),
            error => unfinished(error, &restored, &copies),
        });
        Some(opened?.report)
    };
    Ok(Done {
        copies,
        copied,
        report,
    })
}

fn write_again(disk: &dyn Disk, directory: DirectoryId, way: Way, settings: &Settings) -> io::Result<()> {
    match way {
        Way::Format => directory::restore_format(disk, directory),
        Way::Header(number) => {
            let pair = Pair::read(disk, directory)?;
            let newest = pair.newest().map(|(_, newest)| newest);
            restore::header(disk, directory, number, newest, settings)
        }
        Way::Groups { .. } | Way::Records { .. } | Way::Tail { .. } | Way::Checkpoint => Ok(()),
    }
}

/// What was restored stays so: it does not stand in the way any more, and the same call would be refused for naming it.
fn unfinished(
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    restored: &[Way],
    copies: &str,
) -> SalvageError {
    let restored: Vec<_> = restored.iter().map(Way::to_string).collect();
    let before = match restored.join(", ") {
        none if none.is_empty() => "what was to be changed may be so in part".to_owned(),
        done => format!("{done} was restored before that"),
    };
    SalvageError::Unfinished {
        source: source.into(),
        before,
        copies: copies.to_owned(),
    }
}
