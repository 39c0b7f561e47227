//! LZ4 frames. Source: "LZ4 Frame Format Description" 1.6.
//!
//! The decoder takes a frame that is cut between two blocks for a whole one, and reads nothing behind the end of the first.
//! Consumers differ: Kafka's Java client and librdkafka stop at either. So the frame is measured before it is decoded.

use std::io::{self, Write};

use super::{Undone, malformed, read_limited};

const MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();
/// Bits of the byte behind the magic number.
const BLOCK_CHECKSUMS_BIT: u8 = 1 << 4;
const CONTENT_SIZE_BIT: u8 = 1 << 3;
const CONTENT_CHECKSUM_BIT: u8 = 1 << 2;
const DICTIONARY_BIT: u8 = 1;
/// Of the size of a block: it is not compressed.
const STORED_BIT: u32 = 1 << 31;
const CHECKSUM_BYTES: usize = 4;

/// Blocks of 64 KiB that stand for themselves: what Kafka's clients write and every reader takes.
pub(super) fn compress(records: &[u8]) -> io::Result<Vec<u8>> {
    let info = lz4_flex::frame::FrameInfo::new()
        .block_size(lz4_flex::frame::BlockSize::Max64KB)
        .block_mode(lz4_flex::frame::BlockMode::Independent);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(records)?;
    encoder.finish().map_err(io::Error::other)
}

pub(super) fn decompress(body: &[u8], bytes_max: usize) -> Result<Vec<u8>, Undone> {
    measure(body)?;
    read_limited(lz4_flex::frame::FrameDecoder::new(body), bytes_max)
}

/// Walks the sizes of the blocks: these must be the bytes of one frame, to its end and no further.
fn measure(body: &[u8]) -> Result<(), Undone> {
    let early = || malformed("the frame ends early");
    let frame = body
        .strip_prefix(&MAGIC)
        .ok_or_else(|| malformed("it does not begin as an LZ4 frame"))?;
    let flags = *frame.first().ok_or_else(early)?;
    let has = |bit: u8, bytes: usize| if flags & bit == 0 { 0 } else { bytes };
    // The flags themselves, the sizes of blocks, and the checksum of both.
    let header = [3, has(CONTENT_SIZE_BIT, 8), has(DICTIONARY_BIT, 4)];
    let mut rest = frame.get(header.into_iter().sum()..).ok_or_else(early)?;
    loop {
        let (size, behind) = rest.split_first_chunk::<4>().ok_or_else(early)?;
        let size = u32::from_le_bytes(*size);
        if size == 0 {
            rest = behind;
            break;
        }
        let bytes = usize::try_from(size & !STORED_BIT).map_err(|_| early())?;
        if bytes == 0 {
            // The decoder would take it for the end.
            return Err(malformed("a block is empty"));
        }
        let bytes = bytes.saturating_add(has(BLOCK_CHECKSUMS_BIT, CHECKSUM_BYTES));
        rest = behind.get(bytes..).ok_or_else(early)?;
    }
    let behind = rest.get(has(CONTENT_CHECKSUM_BIT, CHECKSUM_BYTES)..);
    if behind.ok_or_else(early)?.is_empty() {
        Ok(())
    } else {
        Err(malformed("bytes follow the frame"))
    }
}
