//! What looking at a data directory comes to. Facts alone; how they are shown is not decided here.

use crate::model::{Lsn, Offset, PartitionKey, Timestamp};
use crate::storage::local::format::DirectoryId;
use crate::storage::local::salvage::Way;
use crate::storage::local::salvage::evidence::Lost;

/// Findings kept; what is more is counted. A directory with so many is not looked at one by one.
pub const FINDINGS_MAX: usize = 1_000;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `FORMAT` is missing or damaged.
    Format,
    /// A checkpoint file holds no record.
    Checkpoint,
    /// A journal file is missing, cut, or without its header.
    JournalFile,
    /// One of the two copies of a journal file's header, or both where nothing depends on them.
    JournalHeader,
    /// Durable groups that cannot be read.
    JournalGroup,
    /// A group that does not follow the one before it.
    JournalChain,
    /// A batch, or an entry, inside of a group.
    JournalBatch,
    /// The last group was not finished.
    UnfinishedGroup,
    /// A segment is missing.
    SegmentMissing,
    /// A segment is shorter than what was durable.
    SegmentShort,
    /// Batches of a segment.
    SegmentBatch,
    /// The part of a batch's header that its own checksum leaves out.
    BatchHeader,
    /// Bytes behind the end of a finished segment.
    SegmentTail,
    /// The last, partial block of a segment.
    PartialBlock,
    /// Whole records of the broker's own that make no sense.
    State,
    /// Offsets that nothing holds.
    Offsets,
    /// Offsets that the broker has fenced off before.
    Quarantined,
    /// An index is missing, or its entries are damaged or wrong.
    Index,
    /// The disk does not give the bytes.
    Unreadable,
    /// A file that nothing names.
    UnknownFile,
}

impl Kind {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 20] = [
        Self::Format,
        Self::Checkpoint,
        Self::JournalFile,
        Self::JournalHeader,
        Self::JournalGroup,
        Self::JournalChain,
        Self::JournalBatch,
        Self::UnfinishedGroup,
        Self::SegmentMissing,
        Self::SegmentShort,
        Self::SegmentBatch,
        Self::BatchHeader,
        Self::SegmentTail,
        Self::PartialBlock,
        Self::State,
        Self::Offsets,
        Self::Quarantined,
        Self::Index,
        Self::Unreadable,
        Self::UnknownFile,
    ];

    /// Its stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Checkpoint => "checkpoint",
            Self::JournalFile => "journal_file",
            Self::JournalHeader => "journal_header",
            Self::JournalGroup => "journal_group",
            Self::JournalChain => "journal_chain",
            Self::JournalBatch => "journal_batch",
            Self::UnfinishedGroup => "unfinished_group",
            Self::SegmentMissing => "segment_missing",
            Self::SegmentShort => "segment_short",
            Self::SegmentBatch => "segment_batch",
            Self::BatchHeader => "batch_header",
            Self::SegmentTail => "segment_tail",
            Self::PartialBlock => "partial_block",
            Self::State => "state",
            Self::Offsets => "offsets",
            Self::Quarantined => "quarantined",
            Self::Index => "index",
            Self::Unreadable => "unreadable",
            Self::UnknownFile => "unknown_file",
        }
    }
}

/// What a finding means for the data. The greater, the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Normal after a crash, or of no importance.
    Note,
    /// Damage that costs no record: there is another copy, or nobody needs what is damaged.
    Harmless,
    /// Acknowledged records cannot be read, or that cannot be ruled out.
    Loss,
    /// The broker refuses to start on this directory.
    Refusal,
}

impl Effect {
    /// Its stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Harmless => "harmless",
            Self::Loss => "loss",
            Self::Refusal => "refusal",
        }
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub kind: Kind,
    /// What it means.
    pub effect: Effect,
    /// The file, below the data directory.
    pub file: String,
    /// Where in the file, in bytes.
    pub position: Option<u64>,
    /// Whose records it concerns.
    pub partition: Option<PartitionKey>,
    /// Which of them: first and last offset.
    pub offsets: Option<(Offset, Offset)>,
    /// Which groups of the journal: first and last.
    pub groups: Option<(Lsn, Lsn)>,
    /// The way past it, if the survey of the journal or the checkpoints knows one.
    pub way: Option<Way>,
    /// In words.
    pub what: String,
}

impl Finding {
    pub(super) fn new(kind: Kind, effect: Effect, file: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            kind,
            effect,
            file: file.into(),
            position: None,
            partition: None,
            offsets: None,
            groups: None,
            way: None,
            what: what.into(),
        }
    }

    pub(super) fn at(mut self, position: u64) -> Self {
        self.position = Some(position);
        self
    }

    pub(super) fn of(mut self, key: PartitionKey) -> Self {
        self.partition = Some(key);
        self
    }

    /// Concerns the offsets from `first` up to `end`, which is not one of them.
    pub(super) fn records(mut self, first: Offset, end: Offset) -> Self {
        let last = Offset::new(end.get() - 1).unwrap_or(first).max(first);
        self.offsets = Some((first, last));
        self
    }

    pub(super) fn past(mut self, way: Way) -> Self {
        self.way = Some(way);
        self
    }

    pub(super) fn groups(mut self, first: Lsn, last: Lsn) -> Self {
        self.groups = Some((first, last));
        self
    }
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Files of the journal.
    pub journal_files: u64,
    /// Groups that a start may need.
    pub groups: u64,
    /// Batches in them.
    pub group_batches: u64,
    /// Segments.
    pub segments: u64,
    /// Batches in them.
    pub batches: u64,
    /// Records in these batches.
    pub records: u64,
    /// Entries of their indexes.
    pub index_entries: u64,
    /// Partitions, the broker's own among them.
    pub partitions: u64,
    /// Bytes of all of it.
    pub bytes: u64,
}

/// What a start would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartSummary {
    /// Groups of the journal that it would apply again.
    pub groups: u64,
    /// Bytes of their batches that it would write.
    pub bytes: u64,
    /// When the broker wrote last, by its clock then, as far as the journal that was looked at and the checkpoint tell.
    pub written: Option<Timestamp>,
}

/// A record of the checkpoint pair, for the head of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointSummary {
    /// Its file.
    pub file: String,
    /// Its number.
    pub seq: u64,
    /// Every group up to this one is in the segments.
    pub lsn: Lsn,
    /// The broker stopped cleanly.
    pub clean: bool,
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Identity of the directory.
    pub directory: Option<DirectoryId>,
    /// The records that can be read, the newest first.
    pub checkpoints: Vec<CheckpointSummary>,
    /// The last durable group.
    pub end: Lsn,
    /// How much was looked at.
    pub checked: Checked,
    /// What a start would do, if it is not refused.
    pub start: StartSummary,
    /// Durable groups that cannot be read, with what can still be told of them.
    pub lost: Vec<Lost>,
    /// First and last offsets that these may have held, of partitions that nothing behind them names.
    pub at_stake: Vec<(PartitionKey, Offset, Offset)>,
    /// What is wrong, in the order of looking: directory, journal, partitions.
    pub findings: Vec<Finding>,
    /// How many findings more there are.
    pub left_out: u64,
    /// The worst of all, those left out included.
    pub worst: Option<Effect>,
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            directory: None,
            checkpoints: Vec::new(),
            end: Lsn::ZERO,
            checked: Checked::default(),
            start: StartSummary::default(),
            lost: Vec::new(),
            at_stake: Vec::new(),
            findings: Vec::new(),
            left_out: 0,
            worst: None,
        }
    }

    pub(super) fn add(&mut self, finding: Finding) {
        self.worst = self.worst.max(Some(finding.effect));
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.left_out += 1;
        }
    }

    /// The state above the engine does not understand what the engine gives it, which refuses a start.
    pub fn not_understood(&mut self, why: impl Into<String>) {
        self.add(Finding::new(Kind::State, Effect::Refusal, "", why));
    }

    /// Whether everything is as it should be, but for what is normal after a crash.
    pub fn is_clean(&self) -> bool {
        self.worst.is_none_or(|worst| worst == Effect::Note)
    }

    /// Whether acknowledged records are affected, or that cannot be ruled out.
    pub fn affects_acknowledged(&self) -> bool {
        self.worst >= Some(Effect::Loss)
    }

    /// Whether the broker starts on this directory.
    pub fn starts(&self) -> bool {
        self.worst != Some(Effect::Refusal)
    }
}
