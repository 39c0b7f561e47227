//! Sizes and times of the engine.

use std::time::Duration;

use super::format::journal::{GROUP_HEADER_BYTES, GROUPS_START};

/// Settings of the local engine. [`Settings::default`] is for production; tests use small ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Length of a journal file in bytes.
    pub journal_file_bytes: u64,
    /// Length of the first journal file of a new directory in bytes: small, so that it is zeroed at once.
    pub journal_first_file_bytes: u64,
    /// Journal files in the ring.
    pub journal_files: u32,
    /// A group is closed when it has so many bytes of batches.
    pub group_bytes_max: u32,
    /// Most bytes of batches in one step; a larger one than `group_bytes_max` is a group of its own.
    pub step_bytes_max: u32,
    /// Most bytes of groups kept in memory, applied or not.
    pub memory_tail_bytes: u64,
    /// Durable groups are applied to the segments when they have so many bytes,
    pub apply_bytes: u64,
    /// or are so old.
    pub apply_after: Duration,
    /// A checkpoint is written after so long if anything changed.
    pub checkpoint_every: Duration,
    /// Bytes of disk that produce never uses: for the broker's own partitions, deletions and checkpoints.
    pub reserve_bytes: u64,
    /// An empty group seals the last one after so long without another.
    pub seal_after: Duration,
    /// Most segment files open for reading, and as many for writing.
    pub open_files_max: usize,
    /// Most reads from disk at once.
    pub reads_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            journal_file_bytes: 256 << 20,
            journal_first_file_bytes: 16 << 20,
            journal_files: 4,
            group_bytes_max: 4 << 20,
            step_bytes_max: 8 << 20,
            memory_tail_bytes: 160 << 20,
            apply_bytes: 48 << 20,
            apply_after: Duration::from_secs(10),
            checkpoint_every: Duration::from_secs(30),
            reserve_bytes: 64 << 20,
            seal_after: Duration::from_millis(20),
            open_files_max: 256,
            reads_max: 4,
        }
    }
}

impl Settings {
    /// The smallest length of a journal file.
    pub const JOURNAL_FILE_BYTES_MIN: u64 = 64 << 10;

    /// The same with limits that fit together: the largest group fits the smallest journal file, and a step fits what
    /// produce may use of the smallest ring and of the memory tail.
    #[must_use]
    pub fn fitted(mut self) -> Self {
        let round = |bytes: u64| bytes.max(Self::JOURNAL_FILE_BYTES_MIN).next_multiple_of(4096);
        self.journal_file_bytes = round(self.journal_file_bytes);
        self.journal_first_file_bytes = round(self.journal_first_file_bytes).min(self.journal_file_bytes);
        self.journal_files = self.journal_files.max(3);
        // A table entry of 64 bytes comes on top of every batch, and the smallest batch has 68: 17 parts of 33 are batches.
        let group = (self.journal_first_file_bytes - GROUPS_START - GROUP_HEADER_BYTES as u64) / 33 * 17;
        let step = group.min(self.memory_tail_bytes / 4);
        self.step_bytes_max = self.step_bytes_max.min(u32::try_from(step).unwrap_or(u32::MAX));
        self.group_bytes_max = self.group_bytes_max.min(self.step_bytes_max);
        self.apply_bytes = self.apply_bytes.min(self.memory_tail_bytes / 3);
        self
    }
}
