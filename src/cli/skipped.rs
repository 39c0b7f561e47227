//! `naru consume --skip-corrupt`: damaged offsets that were passed over, each told at once, all of them at the end.

use super::failure::{Exit, Failure, Outcome};
use super::output::say;
use crate::model::{Offset, PartitionId};

/// Damaged ranges of one command so far.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    ranges: u64,
    offsets: u64,
}

impl Skipped {
    /// Passes over a range and says so.
    pub(super) fn pass_over(&mut self, topic: &str, partition: PartitionId, (first, last): (Offset, Offset)) {
        self.ranges += 1;
        self.offsets += last.next().since(first);
        say(&format!(
            "warning: {topic}/{partition}: offsets {first} to {last} are damaged and were skipped"
        ));
    }

    /// How the command ends that came to its end: not as if everything had been there.
    pub(super) fn outcome(&self) -> Outcome {
        match (self.ranges, self.offsets) {
            (0, _) => Ok(()),
            (ranges, offsets) => {
                let of = if ranges == 1 { "range" } else { "ranges" };
                let message = format!("{ranges} damaged {of} with {offsets} offsets skipped");
                Err(Failure::new(Exit::Partial, "DATA_CORRUPT", message).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::Stopped;

    #[test]
    fn what_was_skipped_is_counted_and_is_no_success() {
        let mut skipped = Skipped::default();
        assert!(skipped.outcome().is_ok());
        let offset = |at| Offset::new(at).unwrap();
        for (ranges, message) in [
            (1, "1 damaged range with 10 offsets skipped"),
            (2, "2 damaged ranges with 20 offsets skipped"),
        ] {
            skipped.pass_over(
                "orders",
                PartitionId(2),
                (offset(10 * ranges), offset(10 * ranges + 9)),
            );
            let Err(Stopped::Failed(failure)) = skipped.outcome() else {
                panic!("no failure");
            };
            assert_eq!((failure.exit.code(), failure.message.as_str()), (7, message));
        }
    }
}
