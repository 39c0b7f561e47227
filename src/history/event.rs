//! What a history consists of. `docs/histories.md` is the page for those who record one.

use serde::{Deserialize, Deserializer, Serialize};

use super::names::{At, Uid};

/// A step of one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in nanoseconds of a clock that all processes share and that never goes back.
    pub t: u64,
    /// The process: one life of it, so another number after a restart.
    pub process: u32,
    /// Ties the end of an operation to its beginning; one process uses each number for one operation. 0 for notes.
    #[serde(default)]
    pub op: u64,
    /// What happened.
    pub is: Body,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// An operation begins; written before the first byte leaves.
    Invoke(Op),
    /// It has succeeded; written after the answer was understood.
    Ok(Done),
    /// It has definitely not happened, and why.
    Fail(String),
    /// It may have happened, or may happen yet, and why that is not known.
    Info(String),
    /// Something that was not asked for.
    Note(Note),
}

/// What is asked of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// To append records.
    Produce {
        /// Where.
        at: At,
        /// Which, in order. Several are one batch, which is there as a whole or not at all.
        #[serde(alias = "uid", deserialize_with = "one_or_many")]
        uids: Vec<Uid>,
        /// Records of one session of the process keep the order in which they were sent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<u64>,
        /// What the broker tells repeated sending by, if whoever records knows it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sequence: Option<Numbered>,
    },
    /// To append records and to commit, both or neither, as a member.
    Step {
        /// The group.
        group: String,
        /// Id of the member.
        member: String,
        /// The records.
        outputs: Vec<Output>,
        /// Offsets of the next records wanted.
        offsets: Vec<(At, i64)>,
    },
    /// To become a member of a group.
    Join {
        /// The group.
        group: String,
        /// The name of a static member.
        instance: Option<String>,
        /// From here on whatever was handed out may be committed at any time, without an event.
        auto_commit: bool,
        /// Where members begin if nothing is committed.
        #[serde(default)]
        reset: Reset,
    },
    /// To commit, as a member; or, with an empty member, to set the offsets of a group from outside.
    Commit {
        /// The group.
        group: String,
        /// Id of the member.
        member: String,
        /// Offsets of the next records wanted.
        offsets: Vec<(At, i64)>,
    },
    /// To leave the group.
    Leave {
        /// The group.
        group: String,
    },
    /// To see the group as a whole.
    Describe {
        /// The group.
        group: String,
    },
    /// To see committed offsets.
    Committed {
        /// The group.
        group: String,
        /// Of which partitions.
        of: Vec<At>,
    },
    /// To see where a partition begins or ends.
    Offset {
        /// The partition.
        at: At,
        /// Which of its offsets.
        edge: Edge,
    },
    /// To create a topic.
    CreateTopic {
        /// Its name. A topic that is created again is another one and needs another name in the history.
        topic: String,
        /// How many partitions it has.
        partitions: u32,
        /// Its records are in memory alone: gone whenever the broker starts again.
        #[serde(default)]
        in_memory: bool,
    },
    /// To delete a topic with its records.
    DeleteTopic {
        /// Its name.
        topic: String,
    },
    /// To remove the oldest records.
    Trim {
        /// Of which partition.
        at: At,
        /// The first offset that stays.
        before: i64,
    },
}

/// What a batch is known by when it is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Numbered {
    /// Id of the producer.
    pub producer: u64,
    /// Its epoch.
    pub epoch: u32,
    /// Sequence of the first record.
    pub first: u64,
}

/// A record that a step appends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Where.
    pub at: At,
    /// Which.
    pub uid: Uid,
    /// The record that it was made of: no other step may make something of it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<(At, i64)>,
}

/// Where members begin if nothing is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// At the first record.
    #[default]
    Earliest,
    /// Behind the last record, or wherever else.
    Latest,
}

/// An offset that a partition has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edge {
    /// Of the first record that can be read.
    Start,
    /// Behind the last record that can be read.
    End,
}

/// How an operation has succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// The records are there.
    Produced(Stored),
    /// The outputs have these offsets, in their order.
    Stepped(Vec<i64>),
    /// The group is so.
    Described(View),
    /// Committed offsets; partitions without one are left out.
    Committed(Vec<(At, i64)>),
    /// The offset is this.
    Offset(i64),
    /// There is nothing to say about it.
    Done,
}

/// Where records were put, and what was promised about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredForm")]
pub struct Stored {
    /// Offset of the first.
    pub base: i64,
    /// What was promised.
    pub level: Level,
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The records are on disk.
    #[default]
    Fsync,
    /// A kill or a power cut may take them, and give their offsets again.
    Memory,
}

impl Stored {
    /// On disk from this offset on.
    pub const fn fsync(base: i64) -> Self {
        Self {
            base,
            level: Level::Fsync,
        }
    }
}

/// As histories have it: older ones have the offset alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredForm {
    Base(i64),
    Whole {
        base: i64,
        #[serde(default)]
        level: Level,
    },
}

impl From<StoredForm> for Stored {
    fn from(form: StoredForm) -> Self {
        match form {
            StoredForm::Base(base) => Self::fsync(base),
            StoredForm::Whole { base, level } => Self { base, level },
        }
    }
}

/// Older histories have one record in each operation.
fn one_or_many<'de, D: Deserializer<'de>>(form: D) -> Result<Vec<Uid>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        One(Uid),
        Many(Vec<Uid>),
    }
    Form::deserialize(form).map(|form| match form {
        Form::One(uid) => vec![uid],
        Form::Many(uids) => uids,
    })
}

/// A group as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Its epoch.
    pub group_epoch: u32,
    /// Who holds what.
    pub members: Vec<Held>,
    /// How far it is; partitions without a committed offset are left out.
    pub committed: Vec<(At, i64)>,
}

/// What a member holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its id.
    pub member: String,
    /// Also what it is still to release.
    pub partitions: Vec<At>,
}

/// What was not asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// A member was told that it holds more partitions. Written before it reads any of them.
    Assigned {
        /// The group.
        group: String,
        /// Id of the member.
        member: String,
        /// The name of a static member.
        instance: Option<String>,
        /// The member's epoch in the answer that said so.
        epoch: u32,
        /// The group's epoch in it.
        group_epoch: u32,
        /// The new ones.
        partitions: Vec<At>,
    },
    /// A member is about to give partitions back.
    Revoked {
        /// Which.
        partitions: Vec<At>,
    },
    /// A member was told that it has lost partitions.
    Lost {
        /// Which.
        partitions: Vec<At>,
    },
    /// A member was handed a record.
    Polled {
        /// The group.
        group: String,
        /// Where the record lies.
        at: At,
        /// Its offset.
        offset: i64,
        /// Which record it is.
        uid: Uid,
        /// Whether it was marked as one that may have been handed out before.
        redelivered: bool,
    },
    /// The process begins to read a partition, without a group; whatever it read of it before is over.
    Reading {
        /// The partition.
        at: At,
        /// From where.
        from: Start,
    },
    /// What came of that, in order.
    Read {
        /// The partition.
        at: At,
        /// What the process was handed.
        records: Vec<Found>,
        /// The offset that it asks for next: it has everything below.
        next: i64,
    },
    /// A reader was told that records are damaged, instead of being handed them.
    Damaged(Range),
    /// What follows, by the time, until the next such note.
    Phase(Phase),
    /// A fault begins or ends.
    Fault(Fault),
    /// Something was done to the broker or to a process, or anything else that a reader of the history wants to know.
    Nemesis(String),
}

/// Where somebody begins to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the first record that there is.
    Earliest,
    /// Behind the last one.
    Latest,
    /// With this one.
    Offset(i64),
}

/// A record that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Where.
    pub offset: i64,
    /// Which record it says it is; `None`: it does not even say that.
    pub uid: Option<Uid>,
    /// Whether it is as it was made, to the last byte.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub intact: bool,
}

const fn yes() -> bool {
    true
}

const fn is_yes(value: &bool) -> bool {
    *value
}

/// Records of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The partition.
    pub at: At,
    /// The first offset.
    pub first: i64,
    /// The last one.
    pub last: i64,
}

/// A part of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Work, and faults.
    Chaos,
    /// No more faults; everybody recovers.
    Healed,
    /// Nobody writes any more; everything is read from the beginning.
    FinalRead,
    /// The broker was started once more; everything is read again.
    SecondRead,
}

/// Something that was done to the broker or its disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Which kind.
    pub kind: FaultKind,
    /// Whether this is its end: the broker is ready again, the disk has room.
    #[serde(default)]
    pub is_over: bool,
    /// In words.
    #[serde(default)]
    pub what: String,
    /// What [`FaultKind::Rot`] has damaged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<Range>,
}

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The broker is killed.
    Kill,
    /// What was not synced is gone, and the broker with it.
    PowerCut,
    /// The broker is stopped in good order and started again.
    Restart,
    /// The broker or a process stands still.
    Pause,
    /// The disk or the network is slow, or fails.
    Error,
    /// The disk has no room.
    Full,
    /// Bytes on disk are changed.
    Rot,
}

impl FaultKind {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::PowerCut => "power_cut",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Error => "error",
            Self::Full => "full",
            Self::Rot => "rot",
        }
    }

    /// Whether what was acknowledged at [`Level::Memory`] may be lost. A broker in memory loses it whenever it starts.
    pub const fn empties_memory(self) -> bool {
        matches!(self, Self::Kill | Self::PowerCut | Self::Restart)
    }
}
