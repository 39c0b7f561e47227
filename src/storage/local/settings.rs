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
    /// From the beginning of one pass of the scrub over all segments to that of the next; zero: no scrub.
    pub scrub_interval: Duration,
    /// Most bytes that the scrub reads in a second.
    pub scrub_bytes_per_second: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            journal_file_bytes: 256 << 20,
            journal_first_file_bytes: 16 << 20,
            journal_files: 4,
            group_bytes_max: 4 << 20,
            step_bytes_max: 8 << 20,
            memory_tail_bytes: 128 << 20,
            apply_bytes: 40 << 20,
            apply_after: Duration::from_secs(10),
            checkpoint_every: Duration::from_secs(30),
            reserve_bytes: 64 << 20,
            seal_after: Duration::from_millis(20),
            open_files_max: 256,
            reads_max: 4,
            scrub_interval: Duration::from_secs(7 * 24 * 3600),
            scrub_bytes_per_second: 8 << 20,
        }
    }
}

impl Settings {
    /// The smallest length of a journal file.
    pub const JOURNAL_FILE_BYTES_MIN: u64 = 64 << 10;

    /// The largest step that fits a journal file of this length as a group of its own.
    pub const fn step_bytes_in(file_bytes: u64) -> u64 {
        let groups = file_bytes.saturating_sub(GROUPS_START + GROUP_HEADER_BYTES as u64);
        // A table entry of 64 bytes comes on top of every batch, and the smallest batch has 68: 17 parts of 33 are batches.
        groups / 33 * 17
    }

    /// The shortest journal file that a step of so many bytes fits.
    pub const fn file_bytes_for(step_bytes: u64) -> u64 {
        let groups = step_bytes.div_ceil(17).saturating_mul(33);
        let bytes = groups.saturating_add(GROUPS_START + GROUP_HEADER_BYTES as u64);
        if bytes > Self::JOURNAL_FILE_BYTES_MIN {
            bytes.next_multiple_of(4096)
        } else {
            Self::JOURNAL_FILE_BYTES_MIN
        }
    }

    /// The largest step that a memory tail of this size leaves room for.
    pub const fn step_bytes_beside(memory_tail_bytes: u64) -> u64 {
        memory_tail_bytes / 4
    }

    /// The most bytes that may wait for the applier beside a memory tail of this size.
    pub const fn apply_bytes_beside(memory_tail_bytes: u64) -> u64 {
        memory_tail_bytes / 3
    }

    /// The same with limits that fit together: the largest group fits the smallest journal file, and a step fits what
    /// produce may use of the smallest ring and of the memory tail. What an operator sets was checked before and stays.
    #[must_use]
    pub fn fitted(mut self) -> Self {
        let round = |bytes: u64| bytes.max(Self::JOURNAL_FILE_BYTES_MIN).next_multiple_of(4096);
        self.journal_file_bytes = round(self.journal_file_bytes);
        let first = Self::file_bytes_for(self.step_bytes_max.into()).max(self.journal_first_file_bytes);
        self.journal_first_file_bytes = round(first).min(self.journal_file_bytes);
        self.journal_files = self.journal_files.max(3);
        let step = Self::step_bytes_in(self.journal_first_file_bytes)
            .min(Self::step_bytes_beside(self.memory_tail_bytes));
        self.step_bytes_max = self.step_bytes_max.min(u32::try_from(step).unwrap_or(u32::MAX));
        self.group_bytes_max = self.group_bytes_max.min(self.step_bytes_max);
        self.apply_bytes = self
            .apply_bytes
            .min(Self::apply_bytes_beside(self.memory_tail_bytes));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_made_for_a_step_holds_it() {
        for step in [1, 16 << 10, 29_000, 1 << 20, (8 << 20) + 1, 64 << 20] {
            let file = Settings::file_bytes_for(step);
            assert!(Settings::step_bytes_in(file) >= step, "{step}");
            assert!(
                file == Settings::JOURNAL_FILE_BYTES_MIN || Settings::step_bytes_in(file - 8192) < step,
                "{step}: {file} is more than it takes"
            );
        }
        assert_eq!(Settings::step_bytes_in(0), 0);
    }

    #[test]
    fn the_first_file_grows_with_the_step_and_the_defaults_stay_as_they_are() {
        let defaults = Settings::default();
        assert_eq!(defaults.clone().fitted(), defaults);
        let large = Settings {
            step_bytes_max: 32 << 20,
            ..defaults
        };
        let fitted = large.clone().fitted();
        assert_eq!(fitted.step_bytes_max, 32 << 20);
        assert_eq!(
            fitted.journal_first_file_bytes,
            Settings::file_bytes_for(32 << 20)
        );
    }
}
