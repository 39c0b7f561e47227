//! Bugs planted into the engine, and the finders that must find them: random runs of many kinds of requests, cut, damaged
//! or given a broken disk at random moments. The finders know nothing of the bugs, and find nothing where there are none.

mod crash;
mod faults;
mod laps;
mod rot;

use super::*;
use crate::planted::hunt::{Finder, found, is_clean};

found! {
    acknowledged_before_sync_is_found: AckBeforeSync by crash::CRASHES;
    read_before_sync_is_found: ReadBeforeSync by crash::CRASHES;
    recovered_tail_not_synced_again_is_found: RecoveredTailNotSynced by crash::CRASHES;
    name_of_a_journal_file_not_synced_is_found: JournalDirNotSynced by crash::CRASHES;
    name_of_a_segment_not_synced_is_found: SegmentDirNotSynced by crash::CRASHES;
    name_of_a_topic_not_synced_is_found: TopicDirNotSynced by crash::CRASHES;
    snapshot_ahead_of_durability_is_found: SnapshotAheadOfDurability by crash::CRASHES;
    snapshot_taken_after_the_wait_is_found: SnapshotAfterWait by crash::CRASHES;
    step_split_in_two_is_found: StepSplit by crash::CRASHES;
    checkpoint_written_before_the_segments_are_synced_is_found: CheckpointBeforeSync by crash::CRASHES;
    checkpoint_ahead_of_the_segments_is_found: CheckpointAhead by crash::CRASHES;
    segment_trusted_above_the_checkpoint_is_found: SegmentTrusted by crash::CRASHES;
    journal_file_used_again_too_early_is_found: RecycledTooEarly by crash::CRASHES;
    segment_unlinked_before_the_checkpoint_is_found: UnlinkedBeforeCheckpoint by crash::CRASHES;
    index_trusted_after_an_unclean_stop_is_found: IndexTrusted by crash::CRASHES;
    partial_block_left_damaged_is_found: PartialBlockLeft by crash::CRASHES;
    segment_closed_with_unsynced_writes_is_found: ClosedUnsynced by crash::CRASHES;
    group_of_an_earlier_lap_is_found: EarlierLapAccepted by laps::LAPS;
    sync_tried_again_is_found: SyncRetried by faults::FAULTS;
    what_a_full_disk_left_of_a_batch_is_found: PartialBatchAfterEnospc by faults::FAULTS;
    full_disk_that_ends_the_engine_is_found: EnospcIsFatal by faults::FAULTS;
    replay_that_skips_equal_bytes_is_found: ReplaySkipsEqualBytes by faults::FAULTS;
    older_checkpoint_accepted_is_found: OlderCheckpointAccepted by faults::LIES;
    tail_cut_at_the_first_bad_checksum_is_found: CutAtFirstBadCrc by rot::ROT;
    base_offset_that_is_not_looked_at_is_found: BaseOffsetUnchecked by rot::ROT;
    replay_that_truncates_first_is_found: ReplayTruncatesFirst by rot::ROT;
}

#[test]
fn without_a_bug_crashes_find_nothing() {
    is_clean(&crash::CRASHES);
}

#[test]
fn without_a_bug_life_after_life_finds_nothing() {
    is_clean(&laps::LAPS);
}

#[test]
fn without_a_bug_faults_find_nothing() {
    is_clean(&faults::FAULTS);
}

#[test]
fn without_a_bug_lies_find_nothing() {
    is_clean(&faults::LIES);
}

#[test]
fn without_a_bug_rot_finds_nothing() {
    is_clean(&rot::ROT);
}
