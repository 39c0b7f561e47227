//! Bytes on disk, as drawn in `docs/storage-format.md`. Pure: knows no files. All integers are little-endian.
//!
//! Segment files hold record batches and nothing else; their format is [`crate::record`]'s.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod checkpoint;
pub mod identity;
pub mod index;
pub mod journal;

/// Identity of a data directory: seeds every checksum, so that a file from another directory is never taken for ours.
pub type DirectoryId = [u8; 16];

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Too short.
    #[error("too short")]
    Truncated,
    /// Another kind of file.
    #[error("not a {0}")]
    Magic(&'static str),
    /// Written by a newer Naru.
    #[error("format version {0} is newer than this program knows")]
    Version(u32),
    /// The checksum does not fit.
    #[error("checksum does not fit")]
    Checksum,
    /// From another data directory.
    #[error("belongs to another data directory")]
    OtherDirectory,
    /// It says of itself that it is longer than any.
    #[error("it would have {bytes} bytes, and none has more than {max}")]
    TooLong {
        /// How long.
        bytes: u64,
        /// No longer one is written.
        max: usize,
    },
    /// A field has an impossible value.
    #[error("{0} is impossible")]
    Field(&'static str),
}

impl From<bytes::TryGetError> for FormatError {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Truncated
    }
}

/// Reads a fixed number of bytes.
fn take<const N: usize>(buf: &mut &[u8]) -> Result<[u8; N], FormatError> {
    let (head, rest) = buf.split_first_chunk::<N>().ok_or(FormatError::Truncated)?;
    *buf = rest;
    Ok(*head)
}
