//! Defects planted on purpose, each of which the tests must find: a tester that cannot find them is not a tester.
//!
//! A plant is one line at the place where a careless hand could break a promise. Which bug there is, if any, is chosen at
//! run time: in unit tests per thread, with [`plant`]; in a binary built with the hidden feature `test-faults` by the
//! environment variable `NARU_TEST_PLANTED`. Everywhere else [`is`] is the constant `false`, and the compiler removes the
//! line. `docs/testing.md`, "Planted bugs", says which test finds which.

#[cfg(test)]
pub(crate) mod hunt;

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $bug:ident = $name:literal,)+) => {
        /// What the wrong code does, and which promise that breaks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Bug {
            $($(#[doc = $doc])+ $bug,)+
        }

        #[cfg(any(test, feature = "test-faults"))]
        impl Bug {
            /// All of them.
            pub(crate) const ALL: &[Self] = &[$(Self::$bug,)+];

            /// As it is called in the environment and in documents.
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)+
                }
            }
        }
    };
}

bugs! {
    /// A group is acknowledged without its sync. Acknowledged records survive.
    AckBeforeSync = "ack-before-sync",
    /// The high watermark is the log's end, durable or not. What was visible stays.
    ReadBeforeSync = "read-before-sync",
    /// What recovery finds in the page cache counts as durable and is not synced again. A kill, a start and a power cut
    /// later it is still there.
    RecoveredTailNotSynced = "recovered-tail-not-synced",
    /// The name of a new journal file is not synced. Acknowledged records survive.
    JournalDirNotSynced = "journal-dir-not-synced",
    /// The name of a new segment is not synced before a checkpoint relies on it.
    SegmentDirNotSynced = "segment-dir-not-synced",
    /// The name of a new topic's directory is not synced before a checkpoint relies on it.
    TopicDirNotSynced = "topic-dir-not-synced",
    /// A failed sync of the journal is tried again, and the second success believed. Acknowledged records survive.
    SyncRetried = "sync-retried",
    /// Recovery ends at the first group that does not hold, although later ones prove that it was durable. Damage is
    /// reported and never cut.
    CutAtFirstBadCrc = "cut-at-first-bad-crc",
    /// A group that an earlier lap left in a journal file counts like one of this lap. Nothing is invented or altered.
    EarlierLapAccepted = "earlier-lap-accepted",
    /// The base offset of a batch in a segment is not looked at. No record moves to another offset.
    BaseOffsetUnchecked = "base-offset-unchecked",
    /// A checkpoint does not wait for what its snapshots cover. State never runs ahead of the log.
    SnapshotAheadOfDurability = "snapshot-ahead-of-durability",
    /// Snapshots are taken after the wait for what they cover. State never runs ahead of the log.
    SnapshotAfterWait = "snapshot-after-wait",
    /// The parts of a step go to groups of their own. A step is there whole or not at all.
    StepSplit = "step-split",
    /// The checkpoint record is written before the segments are synced. What it names is there.
    CheckpointBeforeSync = "checkpoint-before-sync",
    /// The checkpoint names the last durable group instead of the last applied one. Acknowledged records survive.
    CheckpointAhead = "checkpoint-ahead",
    /// Recovery takes what stands in a segment above the checkpoint for whole. Nothing is invented or altered.
    SegmentTrusted = "segment-trusted",
    /// A journal file is used again below the newest checkpoint instead of the one before. One rotten checkpoint costs
    /// nothing but time.
    RecycledTooEarly = "recycled-too-early",
    /// A start goes on from a checkpoint older than the journal allows for. What is missing is never passed over in silence.
    OlderCheckpointAccepted = "older-checkpoint-accepted",
    /// Files of segments go before the record that does without them is durable. What a checkpoint names is there.
    UnlinkedBeforeCheckpoint = "unlinked-before-checkpoint",
    /// What a full disk left of a write stays in front of the next try. Nothing is lost by a full disk.
    PartialBatchAfterEnospc = "partial-batch-after-enospc",
    /// A full disk under the segments counts as broken. The broker goes on by itself when there is room.
    EnospcIsFatal = "enospc-is-fatal",
    /// Entries of an index are believed without their checksum, and whatever they say, after an unclean stop. No readable record is called damaged.
    IndexTrusted = "index-trusted",
    /// Recovery does not write what the page cache shows already. What it relies on is on the disk.
    ReplaySkipsEqualBytes = "replay-skips-equal-bytes",
    /// Recovery cuts segments at the checkpoint before it replays. The second copy of a damaged batch is used.
    ReplayTruncatesFirst = "replay-truncates-first",
    /// Recovery leaves a damaged last block of a segment as it is, although the checkpoint has a copy. Bytes that were durable
    /// survive the write that follows them in their block.
    PartialBlockLeft = "partial-block-left",
    /// A segment is closed with unsynced writes. What a checkpoint names is there.
    ClosedUnsynced = "closed-unsynced",
    /// A batch that is sent again is acknowledged before the first one is durable. Acknowledged records survive.
    DuplicateAnsweredEarly = "duplicate-answered-early",
    /// A start does not learn sequences of producers from the batches that it replays. Nothing is there twice.
    SequenceNotReplayed = "sequence-not-replayed",
    /// A fetch looks anew for each partition what is durable. A step over several partitions is seen whole or not at all.
    ShownInParts = "shown-in-parts",
    /// What a group is to remember is applied before there is room for it. What was not taken in has left nothing behind.
    AppliedWithoutPermit = "applied-without-permit",
    /// A start does not learn which members were removed or replaced. Who was fenced stays fenced.
    FenceNotReplayed = "fence-not-replayed",
    /// Committed offsets are shown before they are durable. What was shown stays.
    UndurableOffsetShown = "undurable-offset-shown",
}

#[cfg(not(any(test, feature = "test-faults")))]
#[inline]
pub(crate) const fn is(_: Bug) -> bool {
    false
}

/// Whether this bug is planted.
#[cfg(test)]
pub(crate) fn is(bug: Bug) -> bool {
    CHOSEN.get() == Some(bug)
}

#[cfg(test)]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in this thread, until what is returned is dropped.
#[cfg(test)]
#[must_use]
pub(crate) fn plant(bug: Option<Bug>) -> Planted {
    Planted {
        before: CHOSEN.replace(bug),
    }
}

/// As long as it lives a bug is planted.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Planted {
    before: Option<Bug>,
}

#[cfg(test)]
impl Drop for Planted {
    fn drop(&mut self) {
        CHOSEN.set(self.before);
    }
}

/// Whether this bug is planted.
#[cfg(all(feature = "test-faults", not(test)))]
pub(crate) fn is(bug: Bug) -> bool {
    *CHOSEN == Some(bug)
}

/// For the one binary that may have any; chosen once, as threads of any kind ask.
#[cfg(all(feature = "test-faults", not(test)))]
static CHOSEN: std::sync::LazyLock<Option<Bug>> = std::sync::LazyLock::new(|| {
    let name = std::env::var(VARIABLE).ok()?;
    let bug = Bug::ALL.iter().find(|bug| bug.name() == name).copied();
    Some(bug.unwrap_or_else(|| panic!("{VARIABLE}={name}: there is no such bug")))
});

/// That a release knows this name of nothing shows that it has no plants.
#[cfg(all(feature = "test-faults", not(test)))]
const VARIABLE: &str = "NARU_TEST_PLANTED";

/// Says in the log which bug there is.
///
/// # Panics
/// If a bug is asked for that is not there.
#[cfg(all(feature = "test-faults", not(test)))]
pub(crate) fn announce() {
    if let Some(bug) = *CHOSEN {
        tracing::error!(
            event = "bug_planted",
            bug = bug.name(),
            "this broker is broken on purpose and will lose data"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_is_there_as_long_as_its_guard_and_in_its_thread_alone() {
        assert!(!is(Bug::StepSplit));
        let planted = plant(Some(Bug::StepSplit));
        assert!(is(Bug::StepSplit) && !is(Bug::AckBeforeSync));
        let elsewhere = std::thread::spawn(|| is(Bug::StepSplit));
        assert!(!elsewhere.join().unwrap());
        drop(planted);
        assert!(!is(Bug::StepSplit));
    }

    #[test]
    fn every_bug_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
    }
}
