//! The kinds of broken promises.

/// A promise that was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anomaly {
    /// A record that was acknowledged is not there.
    LostWrite,
    /// A record is at another place than it was acknowledged at.
    MovedWrite,
    /// Two records at one offset.
    InconsistentOffset,
    /// One record at two offsets.
    Duplicate,
    /// A batch that was sent again was acknowledged at another offset.
    DuplicateAck,
    /// A record that nobody sent, or not yet.
    Phantom,
    /// A record that was handed out is not as it was made.
    CorruptRead,
    /// A record that was refused for good was read.
    FailedVisible,
    /// A record that was read once is not there any more.
    UnstableRead,
    /// Two readings of everything have different results.
    SecondReadDiffers,
    /// A record has a lower offset than one that was there before it was sent.
    RealtimeOrder,
    /// Records of one session are not in the order in which they were sent.
    SessionOrder,
    /// A batch is there in part, or its records are not beside each other.
    TornBatch,
    /// A partition was said to end before a record that was there.
    EndOffsetStale,
    /// Offsets under which there is nothing.
    OffsetHole,
    /// A reader was handed an offset again, or a lower one.
    PollNonmonotonic,
    /// A reader was handed a record and a later one, but none of those between.
    PollSkip,
    /// A reader begins, or a group stands, where nobody said.
    StartWrong,
    /// A member begins to read, or the group stands, below what was acknowledged as committed.
    CommitLost,
    /// The committed offset was seen to go back without anybody committing a lower one.
    CommitRegress,
    /// The committed offset lies behind the end of the partition.
    CommitBeyond,
    /// A commit was kept that was sent after another member held the partition.
    ZombieCommit,
    /// Two members hold a partition at a time, or the epoch of a group goes back.
    SplitOwner,
    /// A record that the group has passed over: below a committed offset, and handed to nobody.
    Coverage,
    /// A record came again to a later holder without the mark that says so.
    Redelivery,
    /// A step has happened in part.
    TornStep,
    /// Two steps of one group have made something of one record.
    StepDoubled,
    /// A damaged record is missing, and nobody was told.
    CorruptSilent,
    /// Records were said to be damaged that nobody has damaged.
    FalseQuarantine,
    /// An operation never ended, although all was well again.
    Stuck,
    /// Too little is known to prove anything.
    InfoRate,
}

/// How bad an anomaly is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth a look; no promise is broken.
    Warning,
    /// A promise is broken.
    Error,
}

impl Severity {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Anomaly {
    /// All.
    pub const ALL: [Self; 31] = [
        Self::LostWrite,
        Self::MovedWrite,
        Self::InconsistentOffset,
        Self::Duplicate,
        Self::DuplicateAck,
        Self::Phantom,
        Self::CorruptRead,
        Self::FailedVisible,
        Self::UnstableRead,
        Self::SecondReadDiffers,
        Self::RealtimeOrder,
        Self::SessionOrder,
        Self::TornBatch,
        Self::EndOffsetStale,
        Self::OffsetHole,
        Self::PollNonmonotonic,
        Self::PollSkip,
        Self::StartWrong,
        Self::CommitLost,
        Self::CommitRegress,
        Self::CommitBeyond,
        Self::ZombieCommit,
        Self::SplitOwner,
        Self::Coverage,
        Self::Redelivery,
        Self::TornStep,
        Self::StepDoubled,
        Self::CorruptSilent,
        Self::FalseQuarantine,
        Self::Stuck,
        Self::InfoRate,
    ];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LostWrite => "lost-write",
            Self::MovedWrite => "moved-write",
            Self::InconsistentOffset => "inconsistent-offset",
            Self::Duplicate => "duplicate",
            Self::DuplicateAck => "duplicate-ack",
            Self::Phantom => "phantom",
            Self::CorruptRead => "corrupt-read",
            Self::FailedVisible => "failed-visible",
            Self::UnstableRead => "unstable-read",
            Self::SecondReadDiffers => "second-read-differs",
            Self::RealtimeOrder => "realtime-order",
            Self::SessionOrder => "session-order",
            Self::TornBatch => "torn-batch",
            Self::EndOffsetStale => "end-offset-stale",
            Self::OffsetHole => "offset-hole",
            Self::PollNonmonotonic => "poll-nonmonotonic",
            Self::PollSkip => "poll-skip",
            Self::StartWrong => "start-wrong",
            Self::CommitLost => "commit-lost",
            Self::CommitRegress => "commit-regress",
            Self::CommitBeyond => "commit-beyond",
            Self::ZombieCommit => "zombie-commit",
            Self::SplitOwner => "split-owner",
            Self::Coverage => "coverage",
            Self::Redelivery => "redelivery",
            Self::TornStep => "torn-step",
            Self::StepDoubled => "step-doubled",
            Self::CorruptSilent => "corrupt-silent",
            Self::FalseQuarantine => "false-quarantine",
            Self::Stuck => "stuck",
            Self::InfoRate => "info-rate",
        }
    }

    /// How bad it is.
    pub const fn severity(self) -> Severity {
        match self {
            Self::OffsetHole | Self::InfoRate => Severity::Warning,
            _ => Severity::Error,
        }
    }
}
