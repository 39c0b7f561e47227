//! The codecs of record batches: the records behind the header as one compressed piece.
//!
//! What is decompressed has a limit on its size and is never believed about it: a declared size only ever makes an
//! allocation smaller. Formats as Kafka's clients write them: gzip, Snappy in blocks as snappy-java frames them (read
//! without frame, too, as other clients write it), LZ4 frames, Zstandard frames.

mod lz4;

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use bytes::{BufMut, Bytes, BytesMut};

use super::batch::CODEC_BITS;
use super::builder::encode_head;
use super::codec::codec;
use super::{BatchError, BatchHeader, HEADER_BYTES};

/// Most bytes that the records of one batch may have decompressed. A batch is at most 8 MiB compressed, so this is ample for
/// honest ones and keeps a bomb from taking memory.
pub const DECOMPRESSED_BYTES_MAX: usize = 32 << 20;

/// Levels that weigh speed against size as Kafka's clients do.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// Largest window of a Zstandard frame that is accepted, as a power of two: what its decoder may allocate.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;

/// A Snappy element of three bytes yields at most 64: no honest block declares more than so many times its length.
const SNAPPY_RATIO_MAX: usize = 64;

/// snappy-java's stream: magic, version, lowest version that can read it, then blocks with their length.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_VERSION: u32 = 1;
const XERIAL_BLOCK_BYTES: usize = 32 << 10;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// gzip, RFC 1952.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard, RFC 8878.
    Zstd,
}

impl Codec {
    /// All codecs, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Name in options and configurations, as Kafka has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Number in the attributes of a batch.
    pub const fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The codec of a batch.
    ///
    /// # Errors
    /// `Compression` if there is none with its number.
    pub fn of(header: &BatchHeader) -> Result<Self, BatchError> {
        match codec(header.attributes) {
            0 => Ok(Self::None),
            1 => Ok(Self::Gzip),
            2 => Ok(Self::Snappy),
            3 => Ok(Self::Lz4),
            4 => Ok(Self::Zstd),
            unknown => Err(BatchError::Compression(unknown)),
        }
    }

    /// Compresses records. `None` if that does not make them smaller.
    pub(super) fn compress(self, records: &[u8]) -> Option<Vec<u8>> {
        let compressed = match self {
            Self::None => return None,
            Self::Gzip => gzip(records),
            Self::Snappy => snappy(records),
            Self::Lz4 => lz4::compress(records),
            Self::Zstd => zstd::bulk::compress(records, ZSTD_LEVEL),
        };
        // Writing to memory does not fail; were it to, the records go as they are.
        compressed.ok().filter(|bytes| bytes.len() < records.len())
    }

    /// The records of a batch, at most so many bytes of them.
    ///
    /// # Errors
    /// `Expands` if there are more, `Invalid` if these are no bytes of this codec.
    pub(super) fn decompress(self, body: &[u8], bytes_max: usize) -> Result<Cow<'_, [u8]>, BatchError> {
        let read = match self {
            Self::None => return Ok(Cow::Borrowed(body)),
            Self::Gzip => read_limited(flate2::read::MultiGzDecoder::new(body), bytes_max),
            Self::Snappy => unsnappy(body, bytes_max),
            Self::Lz4 => lz4::decompress(body, bytes_max),
            Self::Zstd => unzstd(body, bytes_max),
        };
        match read {
            Ok(records) => Ok(Cow::Owned(records)),
            Err(Undone::Expands) => Err(BatchError::Expands {
                max: as_u64(bytes_max),
            }),
            Err(Undone::Malformed(error)) => Err(BatchError::Invalid(format!(
                "the records cannot be decompressed with {self}: {error}"
            ))),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is that of no codec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no codec {0:?}: use none, gzip, snappy, lz4 or zstd")]
pub struct UnknownCodec(pub String);

impl FromStr for Codec {
    type Err = UnknownCodec;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|codec| codec.name() == name)
            .ok_or_else(|| UnknownCodec(name.to_owned()))
    }
}

/// A batch in its uncompressed form, to be walked with [`super::Records`]: the same bytes if it is not compressed, otherwise
/// its records decompressed behind a header that says so. The checksum in that header is still the one of the compressed
/// form: check it before.
///
/// # Errors
/// `Compression` for an unknown codec, `Expands` above `bytes_max`, `Invalid` if the bytes are not what the codec writes.
pub fn uncompressed(
    header: &BatchHeader,
    batch: &Bytes,
    bytes_max: usize,
) -> Result<(BatchHeader, Bytes), BatchError> {
    let codec = Codec::of(header)?;
    if codec == Codec::None {
        return Ok((*header, batch.clone()));
    }
    let end = usize::try_from(header.total_bytes()).unwrap_or(usize::MAX);
    let body = batch.get(HEADER_BYTES..end.min(batch.len())).unwrap_or_default();
    let records = codec.decompress(body, bytes_max)?;
    let grown = u32::try_from(records.len())
        .ok()
        .and_then(|bytes| bytes.checked_add(BEHIND_LENGTH_BYTES))
        .ok_or(BatchError::Expands {
            max: as_u64(bytes_max),
        })?;
    let plain = BatchHeader {
        attributes: header.attributes & !CODEC_BITS,
        batch_length: grown,
        ..*header
    };
    let mut whole = BytesMut::with_capacity(HEADER_BYTES.saturating_add(records.len()));
    whole.put_slice(&encode_head(&plain));
    whole.put_slice(&records);
    Ok((plain, whole.freeze()))
}

/// Bytes of the header behind the length field, which counts them.
const BEHIND_LENGTH_BYTES: u32 = 49;

fn as_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Why there are no records.
enum Undone {
    /// They are more than allowed.
    Expands,
    /// The bytes are not what the codec writes.
    Malformed(io::Error),
}

impl From<io::Error> for Undone {
    fn from(error: io::Error) -> Self {
        Self::Malformed(error)
    }
}

impl From<snap::Error> for Undone {
    fn from(error: snap::Error) -> Self {
        Self::Malformed(io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

fn malformed(what: &'static str) -> Undone {
    Undone::Malformed(io::Error::new(io::ErrorKind::InvalidData, what))
}

/// Reads to the end, but not more than so many bytes: memory grows with what comes out, and not beyond the limit.
fn read_limited(mut decoder: impl Read, bytes_max: usize) -> Result<Vec<u8>, Undone> {
    let mut records = Vec::new();
    decoder
        .by_ref()
        .take(as_u64(bytes_max))
        .read_to_end(&mut records)?;
    // Another byte tells "as many" from "more".
    if records.len() == bytes_max && decoder.read(&mut [0])? > 0 {
        return Err(Undone::Expands);
    }
    Ok(records)
}

fn gzip(records: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
    encoder.write_all(records)?;
    encoder.finish()
}

fn unzstd(body: &[u8], bytes_max: usize) -> Result<Vec<u8>, Undone> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(body)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    read_limited(decoder, bytes_max)
}

fn snappy(records: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = snap::raw::Encoder::new();
    let mut framed = Vec::new();
    framed.put_slice(&XERIAL_MAGIC);
    framed.put_u32(XERIAL_VERSION);
    framed.put_u32(XERIAL_VERSION);
    for block in records.chunks(XERIAL_BLOCK_BYTES) {
        let compressed = encoder.compress_vec(block)?;
        let length = u32::try_from(compressed.len()).map_err(io::Error::other)?;
        framed.put_u32(length);
        framed.put_slice(&compressed);
    }
    Ok(framed)
}

fn unsnappy(body: &[u8], bytes_max: usize) -> Result<Vec<u8>, Undone> {
    let mut records = Vec::new();
    let Some(mut rest) = body.strip_prefix(&XERIAL_MAGIC) else {
        unsnappy_block(body, bytes_max, &mut records)?;
        return Ok(records);
    };
    // The two version numbers say nothing that a reader of blocks would need.
    rest = rest
        .get(8..)
        .ok_or_else(|| malformed("the frame has no versions"))?;
    while !rest.is_empty() {
        let (length, behind) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| malformed("a block has no length"))?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (block, behind) = behind
            .split_at_checked(length)
            .ok_or_else(|| malformed("a block is longer than the rest"))?;
        unsnappy_block(block, bytes_max, &mut records)?;
        rest = behind;
    }
    Ok(records)
}

/// Appends one block's bytes.
fn unsnappy_block(block: &[u8], bytes_max: usize, records: &mut Vec<u8>) -> Result<(), Undone> {
    let declared = snap::raw::decompress_len(block)?;
    if declared > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(malformed("a block declares more than it can hold"));
    }
    if declared > bytes_max.saturating_sub(records.len()) {
        return Err(Undone::Expands);
    }
    records.extend_from_slice(&snap::raw::Decoder::new().decompress_vec(block)?);
    Ok(())
}

#[cfg(test)]
mod tests;
