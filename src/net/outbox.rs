//! Replies on their way out, in order, written in as few calls as possible.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use super::frame::FrameOut;

/// Chunks below this are gathered in one buffer.
const GATHER_BYTES_MAX: usize = 2 << 10;

/// Slices of one vectored write.
pub(super) const SLICES_MAX: usize = 64;

/// Bytes that are to be written.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    chunks: VecDeque<Bytes>,
    /// Small chunks behind all of `chunks`: a hundred replies to small requests are one slice.
    tail: BytesMut,
    bytes: usize,
}

impl Outbox {
    /// Adds a frame at the end.
    pub(super) fn push(&mut self, frame: FrameOut) {
        self.bytes = self.bytes.saturating_add(frame.bytes());
        for chunk in frame.into_chunks() {
            if chunk.len() < GATHER_BYTES_MAX {
                self.tail.extend_from_slice(&chunk);
            } else {
                self.seal_tail();
                self.chunks.push_back(chunk);
            }
        }
    }

    /// Bytes that are to be written.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether everything was written.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The next slices to be written.
    pub(super) fn slices<'a>(&'a mut self, into: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        self.seal_tail();
        let mut count = 0;
        for (slot, chunk) in into.iter_mut().zip(&self.chunks) {
            *slot = IoSlice::new(chunk);
            count += 1;
        }
        count
    }

    /// Forgets what was written.
    pub(super) fn advance(&mut self, mut written: usize) {
        self.bytes = self.bytes.saturating_sub(written);
        while written > 0 {
            let Some(first) = self.chunks.front_mut() else {
                return;
            };
            let step = written.min(first.len());
            first.advance(step);
            written -= step;
            if first.is_empty() {
                self.chunks.pop_front();
            }
        }
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = outbox.slices(&mut slices);
            let mut written = 0;
            for slice in &slices[..count] {
                let part = slice.len().min(step - written);
                all.extend_from_slice(&slice[..part]);
                written += part;
            }
            outbox.advance(written);
        }
        all
    }

    #[test]
    fn order_is_kept_whatever_is_small_or_large_and_however_little_is_written() {
        for step in [1, 7, 3000, 100_000] {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for (index, len) in [3, 5000, 1, 2, 2048, 2047, 9].into_iter().enumerate() {
                let chunk = vec![u8::try_from(index).unwrap(); len];
                expected.extend_from_slice(&chunk);
                outbox.push(FrameOut::plain(chunk));
            }
            assert_eq!(outbox.bytes(), expected.len());
            assert_eq!(drain(&mut outbox, step), expected, "step {step}");
        }
    }

    #[test]
    fn many_small_frames_are_one_slice() {
        let mut outbox = Outbox::default();
        for _ in 0..100 {
            outbox.push(FrameOut::plain(&b"reply"[..]));
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        assert_eq!(outbox.slices(&mut slices), 1);
        assert_eq!(slices[0].len(), 500);
    }
}
