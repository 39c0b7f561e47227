//! Frames: a `u32` big-endian length and so many bytes of payload. Used by broker and client; does no I/O itself.
//!
//! Layout and limits: `docs/protocol.md`, "Frames".
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

/// Bytes of the length in front of a payload.
pub const PREFIX_BYTES: usize = 4;

/// Chunks below this are copied behind their neighbours: an extra slice in a vectored write costs more.
const SHARE_BYTES_MIN: usize = 1024;

/// Smallest room worth a read.
const ROOM_BYTES_MIN: usize = 4 << 10;

/// Smallest buffer that is allocated.
const BUFFER_BYTES_MIN: usize = 16 << 10;

/// What a peer that has sent nothing yet of a frame may make the reader allocate for it.
const STEP_BYTES: usize = 64 << 10;

/// What a peer may make the reader allocate at once, however much it has sent.
const STEP_BYTES_MAX: usize = 1 << 20;

/// Why the bytes of a peer are no frames. Nothing behind such a frame can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is 0.
    #[error("a frame of length 0")]
    Empty,
    /// The length is above the limit.
    #[error("a frame of {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// The length that was declared.
        bytes: u32,
        /// The limit.
        max: u32,
    },
}

/// How much of the next frame is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    /// Not even its length.
    Nothing,
    /// Its length, but not all of its payload.
    Partial {
        /// Bytes of the payload.
        bytes: u32,
    },
    /// All of it.
    Complete {
        /// Bytes of the payload.
        bytes: u32,
    },
}

/// Cuts frames out of a buffer that grows only as bytes arrive. Payloads are slices of it, never copies.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
    /// Size of the last frame: a connection that carries large frames earns large reads.
    recent_bytes: usize,
}

impl FrameReader {
    /// With nothing read yet and nothing allocated.
    pub fn new() -> Self {
        Self::default()
    }

    /// How much of the next frame is there.
    ///
    /// # Errors
    /// The declared length is 0 or above `max`.
    pub fn peek(&self, max: u32) -> Result<Peek, FrameError> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX_BYTES>() else {
            return Ok(Peek::Nothing);
        };
        let bytes = u32::from_be_bytes(*prefix);
        if bytes == 0 {
            return Err(FrameError::Empty);
        }
        if bytes > max {
            return Err(FrameError::TooLarge { bytes, max });
        }
        if self.buffer.len() >= total_bytes(bytes) {
            Ok(Peek::Complete { bytes })
        } else {
            Ok(Peek::Partial { bytes })
        }
    }

    /// Cuts the next payload out, if all of it is there.
    ///
    /// # Errors
    /// As [`peek`](Self::peek).
    pub fn take(&mut self, max: u32) -> Result<Option<Bytes>, FrameError> {
        match self.peek(max)? {
            Peek::Nothing | Peek::Partial { .. } => Ok(None),
            Peek::Complete { bytes } => {
                let mut frame = self.buffer.split_to(total_bytes(bytes));
                self.recent_bytes = frame.len();
                Ok(Some(frame.split_off(PREFIX_BYTES).freeze()))
            }
        }
    }

    /// The buffer with room to read into. Grows by what the peer has already sent of this frame, by what its last frame
    /// had, or by 64 KiB, at most by 1 MiB: a declared length alone allocates next to nothing.
    pub fn room(&mut self) -> &mut BytesMut {
        let there = self.buffer.len();
        let missing = match self.buffer.first_chunk::<PREFIX_BYTES>() {
            Some(prefix) => total_bytes(u32::from_be_bytes(*prefix)).saturating_sub(there),
            None => PREFIX_BYTES,
        };
        let earned = STEP_BYTES.max(there).max(self.recent_bytes).min(STEP_BYTES_MAX);
        let needed = missing.min(earned).max(ROOM_BYTES_MIN);
        // At its beginning a frame is moved to where it has room; later what room there is gets used up first.
        let enough = if there < BUFFER_BYTES_MIN {
            needed
        } else {
            ROOM_BYTES_MIN
        };
        if self.buffer.capacity().saturating_sub(there) < enough {
            // Several frames share one buffer, so that a partial frame at its end is seldom moved to the next.
            let several = self.recent_bytes.saturating_mul(4);
            self.buffer
                .reserve(needed.max(several.clamp(BUFFER_BYTES_MIN, STEP_BYTES_MAX)));
        }
        &mut self.buffer
    }

    /// Bytes that were read and not cut out yet.
    pub fn unread(&self) -> &[u8] {
        &self.buffer
    }

    /// Whether there is no buffer.
    pub fn is_released(&self) -> bool {
        self.buffer.capacity() == 0
    }

    /// Lets the buffer go if nothing is in it: ten thousand idle connections must not hold ten thousand buffers.
    pub fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }
}

fn total_bytes(payload: u32) -> usize {
    // On 32-bit targets a payload of 4 GiB saturates; the limit has refused it before.
    usize::try_from(payload)
        .unwrap_or(usize::MAX)
        .saturating_add(PREFIX_BYTES)
}

/// One frame to be written: length, then payload, in chunks that may be shared with others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameOut {
    chunks: SmallVec<[Bytes; 2]>,
    bytes: usize,
}

impl FrameOut {
    /// Bytes that are no frame: a line for a peer that speaks something else.
    pub fn plain(line: impl Into<Bytes>) -> Self {
        let line = line.into();
        Self {
            bytes: line.len(),
            chunks: smallvec::smallvec![line],
        }
    }

    /// Bytes in all, with the length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The chunks in the order in which they are to be written.
    pub fn into_chunks(self) -> SmallVec<[Bytes; 2]> {
        self.chunks
    }

    /// All chunks in one piece.
    pub fn to_bytes(&self) -> Bytes {
        let mut all = BytesMut::with_capacity(self.bytes);
        for chunk in &self.chunks {
            all.extend_from_slice(chunk);
        }
        all.freeze()
    }
}

/// Builds a frame whose length is known: small parts are copied together, large ones shared.
#[derive(Debug)]
pub struct FrameBuilder {
    chunks: SmallVec<[Bytes; 2]>,
    tail: BytesMut,
    shared_bytes: usize,
    total_bytes: usize,
}

impl FrameBuilder {
    /// A frame with a payload of exactly so many bytes, of which `copied` will not be shared (a hint).
    ///
    /// Returns `None` if so large a frame does not exist.
    pub fn new(payload_bytes: usize, copied: usize) -> Option<Self> {
        let prefix = u32::try_from(payload_bytes).ok()?;
        let mut tail = BytesMut::with_capacity(copied.saturating_add(PREFIX_BYTES));
        tail.put_u32(prefix);
        Some(Self {
            chunks: SmallVec::new(),
            tail,
            shared_bytes: 0,
            total_bytes: total_bytes(prefix),
        })
    }

    /// Where small parts are written.
    pub fn copied(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Adds bytes without copying them, unless they are few.
    pub fn share(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARE_BYTES_MIN {
            self.tail.extend_from_slice(bytes);
            return;
        }
        self.seal_tail();
        self.push(bytes.clone());
    }

    /// The frame.
    ///
    /// # Panics
    /// If not exactly the announced number of bytes was written: a bug that would cost the whole connection.
    pub fn finish(mut self) -> FrameOut {
        self.seal_tail();
        assert_eq!(
            self.shared_bytes, self.total_bytes,
            "a frame has as many bytes as its length says"
        );
        FrameOut {
            chunks: self.chunks,
            bytes: self.total_bytes,
        }
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = self.tail.split().freeze();
            self.push(tail);
        }
    }

    fn push(&mut self, chunk: Bytes) {
        self.shared_bytes = self.shared_bytes.saturating_add(chunk.len());
        self.chunks.push(chunk);
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use super::*;

    fn stream(payloads: &[&[u8]]) -> Vec<u8> {
        let mut all = Vec::new();
        for payload in payloads {
            all.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
            all.extend_from_slice(payload);
        }
        all
    }

    fn take_all(reader: &mut FrameReader) -> Vec<Bytes> {
        std::iter::from_fn(|| reader.take(1 << 20).unwrap()).collect()
    }

    #[test]
    fn frames_split_at_every_byte_boundary_come_out_whole() {
        let long = [7_u8; 300];
        let bytes = stream(&[b"a", b"hello", &long, b"end"]);
        for cut in 0..=bytes.len() {
            let mut reader = FrameReader::new();
            let mut frames = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                reader.room().extend_from_slice(part);
                frames.extend(take_all(&mut reader));
            }
            assert_eq!(frames, [&b"a"[..], b"hello", &long, b"end"], "cut at {cut}");
            assert_eq!(reader.unread(), b"");
        }
    }

    #[test]
    fn single_bytes_make_the_same_frames() {
        let bytes = stream(&[b"one", b"two"]);
        let mut reader = FrameReader::new();
        let mut frames = Vec::new();
        for byte in bytes {
            reader.room().extend_from_slice(&[byte]);
            frames.extend(take_all(&mut reader));
        }
        assert_eq!(frames, [&b"one"[..], b"two"]);
    }

    #[test]
    fn empty_and_oversized_frames_are_refused_by_their_length_alone() {
        let mut reader = FrameReader::new();
        reader.room().extend_from_slice(&[0, 0, 0, 0]);
        assert_eq!(reader.take(10), Err(FrameError::Empty));
        for (length, max) in [(11, 10), (0x8000_0000, 8 << 20), (u32::MAX, 8 << 20)] {
            let mut reader = FrameReader::new();
            reader.room().extend_from_slice(&u32::to_be_bytes(length));
            assert_eq!(reader.peek(max), Err(FrameError::TooLarge { bytes: length, max }));
        }
        let mut reader = FrameReader::new();
        reader.room().extend_from_slice(&u32::to_be_bytes(10));
        assert_eq!(reader.peek(10), Ok(Peek::Partial { bytes: 10 }));
    }

    #[test]
    fn a_declared_length_alone_allocates_little() {
        let mut reader = FrameReader::new();
        reader.room().extend_from_slice(&u32::to_be_bytes(64 << 20));
        assert!(reader.room().capacity() <= 2 * STEP_BYTES);
    }

    #[test]
    fn the_buffer_grows_with_what_has_arrived() {
        let mut reader = FrameReader::new();
        reader.room().extend_from_slice(&u32::to_be_bytes(8 << 20));
        for _ in 0..128 {
            let room = reader.room();
            let step = (room.capacity() - room.len()).min(64 << 10);
            room.extend_from_slice(&vec![1; step]);
            let (len, capacity) = (room.len(), room.capacity());
            assert!(capacity <= 2 * len + STEP_BYTES_MAX, "{capacity} for {len}");
        }
    }

    #[test]
    fn a_connection_of_large_frames_reads_in_large_pieces() {
        let payload = vec![1_u8; 100_000];
        let mut reader = FrameReader::new();
        reader.room().extend_from_slice(&stream(&[&payload]));
        let kept = reader.take(1 << 20).unwrap();
        let room = reader.room();
        assert!(room.capacity() - room.len() >= 100_000);
        assert_eq!(kept.map(|f| f.len()), Some(100_000));
    }

    #[test]
    fn an_empty_buffer_can_be_let_go() {
        let mut reader = FrameReader::new();
        assert!(reader.is_released());
        reader.room().extend_from_slice(&stream(&[b"x"])[..2]);
        reader.release();
        assert_eq!(reader.unread().len(), 2);
        reader.room().extend_from_slice(&stream(&[b"x"])[2..]);
        assert_eq!(take_all(&mut reader).len(), 1);
        reader.release();
        assert!(reader.is_released());
    }

    #[test]
    fn large_parts_are_shared_and_small_ones_copied() {
        let large = Bytes::from(vec![9_u8; 5000]);
        let small = Bytes::from_static(b"small");
        let mut builder = FrameBuilder::new(3 + 5000 + 5, 16).unwrap();
        builder.copied().extend_from_slice(b"abc");
        builder.share(&large);
        builder.share(&small);
        let frame = builder.finish();
        assert_eq!(frame.bytes(), 4 + 5008);
        assert_eq!(&frame.to_bytes()[..7], b"\x00\x00\x13\x90abc");
        let chunks = frame.into_chunks();
        assert_eq!(chunks.len(), 3);
        assert_eq!(chunks[1].as_ptr(), large.as_ptr(), "not copied");
    }
}
