//! Entries of a segment's sidecar `.index`: offset and time to position, sparse, each with its own checksum.

use bytes::{Buf, BufMut};

use super::FormatError;
use crate::model::{Offset, Timestamp};
use crate::planted::{self, Bug};
use crate::record::{HEADER_BYTES, crc32c};

/// Bytes of an entry.
pub const INDEX_ENTRY_BYTES: usize = 40;

/// How many entries of an index of so many bytes are worth a look: no segment of so many bytes has more batches, so what
/// stands behind is none of its own, however long the file is.
pub fn entries_at_most(index_bytes: u64, segment_bytes: u64) -> u64 {
    let batches = segment_bytes.checked_div(HEADER_BYTES as u64).unwrap_or_default();
    let entries = index_bytes
        .checked_div(INDEX_ENTRY_BYTES as u64)
        .unwrap_or_default();
    entries.min(batches.saturating_add(1))
}

/// Where a batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Offset of its first record.
    pub base: Offset,
    /// When it was appended.
    pub append_time: Timestamp,
    /// Greatest timestamp of the records before it in this segment; `i64::MIN` if there are none.
    pub max_timestamp_before: Timestamp,
    /// Position in the segment file.
    pub position: u32,
    /// CRC-32C of the 21 header bytes that the batch's own checksum leaves out.
    pub outer_crc: u32,
}

impl IndexEntry {
    /// Its bytes.
    pub fn encode(&self) -> [u8; INDEX_ENTRY_BYTES] {
        let mut out = [0; INDEX_ENTRY_BYTES];
        let mut buf = out.as_mut_slice();
        buf.put_i64_le(self.base.get());
        buf.put_i64_le(self.append_time.0);
        buf.put_i64_le(self.max_timestamp_before.0);
        buf.put_u32_le(self.position);
        buf.put_u32_le(self.outer_crc);
        buf.put_u32_le(0);
        let crc = crc32c(out.first_chunk::<36>().expect("an entry has 40 bytes"));
        *out.last_chunk_mut::<4>().expect("an entry has 40 bytes") = crc.to_le_bytes();
        out
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// `Checksum` if it is damaged or was never written.
    pub fn decode(bytes: &[u8; INDEX_ENTRY_BYTES]) -> Result<Self, FormatError> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(FormatError::Truncated)?;
        if crc32c(body) != u32::from_le_bytes(*crc) && !planted::is(Bug::IndexTrusted) {
            return Err(FormatError::Checksum);
        }
        let mut buf = body;
        let base = Offset::new(buf.try_get_i64_le()?).ok_or(FormatError::Field("base offset"))?;
        let append_time = Timestamp(buf.try_get_i64_le()?);
        Ok(Self {
            base,
            append_time,
            max_timestamp_before: Timestamp(buf.try_get_i64_le()?),
            position: buf.try_get_u32_le()?,
            outer_crc: buf.try_get_u32_le()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_comes_back_and_every_flip_is_seen() {
        let entry = IndexEntry {
            base: Offset::new(1 << 40).unwrap(),
            append_time: Timestamp(-5),
            max_timestamp_before: Timestamp(i64::MIN),
            position: 77,
            outer_crc: 0xdead_beef,
        };
        let bytes = entry.encode();
        assert_eq!(IndexEntry::decode(&bytes), Ok(entry));
        for bit in 0..8 * INDEX_ENTRY_BYTES {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(IndexEntry::decode(&bad), Err(FormatError::Checksum));
        }
    }

    #[test]
    fn zeros_are_no_entry() {
        assert_eq!(
            IndexEntry::decode(&[0; INDEX_ENTRY_BYTES]),
            Err(FormatError::Checksum)
        );
    }
}
