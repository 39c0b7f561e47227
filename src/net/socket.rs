//! The two halves of a connection's socket with their buffers.

use std::io::{self, IoSlice};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::counters::Counters;
use super::frame::{FrameOut, FrameReader};
use super::outbox::{Outbox, SLICES_MAX};

/// Vectored writes in a row before others get their turn.
const WRITES_IN_A_ROW: usize = 16;

/// What comes in.
#[derive(Debug)]
pub(super) struct Inbound {
    read: OwnedReadHalf,
    pub(super) frames: FrameReader,
    received_bytes: u64,
    counters: Arc<Counters>,
}

impl Inbound {
    pub(super) fn new(read: OwnedReadHalf, counters: Arc<Counters>) -> Self {
        Self {
            read,
            frames: FrameReader::new(),
            received_bytes: 0,
            counters,
        }
    }

    /// Bytes read so far.
    pub(super) fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Reads once; 0 is the end. Losing the future loses nothing.
    pub(super) async fn receive(&mut self) -> io::Result<usize> {
        if self.frames.is_released() {
            // Waits without a buffer: most connections are idle most of the time.
            self.read.readable().await?;
        }
        let bytes = self.read.read_buf(self.frames.room()).await?;
        self.received_bytes += bytes as u64;
        self.counters.count_bytes_in(bytes);
        Ok(bytes)
    }

    /// Reads and throws away until the peer is done.
    pub(super) async fn discard(&mut self) {
        let mut scratch = [0; 4096];
        while let Ok(1..) = self.read.read(&mut scratch).await {}
    }
}

/// What goes out.
#[derive(Debug)]
pub(super) struct Outbound {
    write: OwnedWriteHalf,
    queue: Outbox,
    counters: Arc<Counters>,
}

impl Outbound {
    pub(super) fn new(write: OwnedWriteHalf, counters: Arc<Counters>) -> Self {
        Self {
            write,
            queue: Outbox::default(),
            counters,
        }
    }

    /// Adds a frame to what is to be written.
    pub(super) fn push(&mut self, frame: FrameOut) {
        self.queue.push(frame);
    }

    /// Bytes that are to be written.
    pub(super) fn bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// Whether everything was handed to the kernel.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Writes what the kernel takes without waiting. Returns how many bytes that were.
    pub(super) fn flush(&mut self) -> io::Result<usize> {
        let mut total = 0;
        for _ in 0..WRITES_IN_A_ROW {
            if self.queue.is_empty() {
                break;
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.queue.slices(&mut slices);
            match self.write.try_write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.queue.advance(written);
                    total += written;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.counters.count_bytes_out(total);
        Ok(total)
    }

    /// Waits until a write is worth trying.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.write.writable().await
    }

    /// Writes everything.
    pub(super) async fn flush_all(&mut self) -> io::Result<()> {
        loop {
            self.flush()?;
            if self.is_empty() {
                return Ok(());
            }
            self.writable().await?;
        }
    }

    /// Tells the peer that nothing more comes.
    pub(super) async fn finish(&mut self) {
        // If this fails the peer is gone already.
        let _ = self.write.shutdown().await;
    }
}
