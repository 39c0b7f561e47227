//! Why a commit of a member failed, by what its program can do.

use crate::client::{Error, TopicPartition};

/// Why a commit of a member of a group failed. Nothing was kept of it, unless [`may_have_taken_effect`](Self::may_have_taken_effect)
/// says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The member does not hold these partitions any more: somebody else goes on there, from what was committed before.
    /// Nothing of the commit was kept, also not for the others; committing again leaves the lost ones out.
    #[error("not held any more: {}{}", named(.partitions), if *.may_have_been_kept { "; an answer was lost, so it may have been kept" } else { "" })]
    Lost {
        /// Which.
        partitions: Vec<TopicPartition>,
        /// It was sent while they were held, and that answer was lost: somebody else may go on behind it.
        may_have_been_kept: bool,
    },
    /// Any other failure.
    #[error("{0}")]
    Failed(#[from] Error),
}

impl CommitError {
    /// The partitions that are lost, if that is the reason.
    pub fn lost(&self) -> &[TopicPartition] {
        match self {
            Self::Lost { partitions, .. } => partitions,
            Self::Failed(_) => &[],
        }
    }

    /// True if the broker may have kept it although the call failed.
    pub fn may_have_taken_effect(&self) -> bool {
        match self {
            Self::Lost {
                may_have_been_kept, ..
            } => *may_have_been_kept,
            Self::Failed(error) => error.may_have_taken_effect(),
        }
    }
}

fn named(partitions: &[TopicPartition]) -> String {
    const NAMED_MAX: usize = 10;
    let names = partitions.iter().take(NAMED_MAX);
    let mut text: Vec<String> = names.map(|at| format!("{}/{}", at.topic, at.partition)).collect();
    if partitions.len() > NAMED_MAX {
        text.push(format!("{} more", partitions.len() - NAMED_MAX));
    }
    text.join(", ")
}
