//! Buffers for direct I/O.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Alignment and granularity of direct reads and writes.
pub const BLOCK_BYTES: usize = 4096;

/// A zeroed buffer of fixed length whose address is a multiple of [`BLOCK_BYTES`].
///
/// Aligned without `unsafe`: it begins inside a longer `Vec`, whose heap block does not move.
pub struct AlignedBuf {
    block: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// A buffer of `len` zero bytes, rounded up to whole blocks.
    pub fn zeroed(len: usize) -> Self {
        let len = len.next_multiple_of(BLOCK_BYTES);
        let block = vec![0; len + BLOCK_BYTES];
        let start = block.as_ptr().align_offset(BLOCK_BYTES);
        assert!(
            start < BLOCK_BYTES,
            "a byte pointer can be aligned within one block"
        );
        Self { block, start, len }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.block[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.block[self.start..self.start + self.len]
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuf").field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_and_length_are_whole_blocks() {
        for len in [1, 4096, 4097, 1 << 20] {
            let buf = AlignedBuf::zeroed(len);
            assert_eq!(buf.as_ptr() as usize % BLOCK_BYTES, 0);
            assert_eq!(buf.len(), len.next_multiple_of(BLOCK_BYTES));
        }
    }
}
