//! Buffers that are used again, for groups on their way to the journal and for what is read from segments.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::disk::{AlignedBuf, BLOCK_BYTES, huge_pages};

/// Aligned buffers that are used again, because memory that was not touched for a while is slow.
#[derive(Debug)]
pub(super) struct BufferPool {
    /// By length.
    free: Mutex<(BTreeMap<usize, Vec<AlignedBuf>>, usize)>,
    bytes_max: usize,
}

impl BufferPool {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            free: Mutex::default(),
            bytes_max,
        }
    }

    /// Lengths come in eight steps per power of two: few enough to meet again, close enough to waste an eighth at most.
    fn rounded(len: usize) -> usize {
        let step = (len.max(1).next_power_of_two() / 16).max(BLOCK_BYTES);
        len.next_multiple_of(step)
    }

    /// A buffer of at least `len` bytes with any content.
    pub(super) fn take(&self, len: usize) -> AlignedBuf {
        let len = Self::rounded(len);
        {
            let mut free = self.free.lock().expect("no panics while locked");
            // A little longer is better than fresh memory, which has to be zeroed and faulted in.
            let mut fitting = free.0.range_mut(len..=len + len / 4);
            if let Some(buf) = fitting.find_map(|(_, bufs)| bufs.pop()) {
                free.1 -= buf.len();
                return buf;
            }
        }
        huge_pages::expect_buffer(len);
        AlignedBuf::zeroed(len)
    }

    /// Bytes of the buffers that nobody uses now.
    pub(super) fn free_bytes(&self) -> usize {
        self.free.lock().expect("no panics while locked").1
    }

    /// The first `len` bytes of a buffer, which comes back when the last slice of them is dropped.
    pub(super) fn freeze(self: &Arc<Self>, buf: AlignedBuf, len: usize) -> Bytes {
        Bytes::from_owner(PooledBuf {
            buf: Some(buf),
            len,
            pool: Arc::clone(self),
        })
    }

    fn give_back(&self, buf: AlignedBuf) {
        let mut free = self.free.lock().expect("no panics while locked");
        if free.1 + buf.len() <= self.bytes_max {
            free.1 += buf.len();
            free.0.entry(buf.len()).or_default().push(buf);
        }
    }
}

/// Goes back to the pool when the last slice of it is dropped.
struct PooledBuf {
    buf: Option<AlignedBuf>,
    len: usize,
    pool: Arc<BufferPool>,
}

impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        self.buf.as_deref().map_or(&[], |b| &b[..self.len])
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        if let Some(buf) = self.buf.take() {
            self.pool.give_back(buf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_with_its_last_slice_and_no_more_than_the_pool_may_keep() {
        let pool = Arc::new(BufferPool::new(64 << 10));
        let mut buf = pool.take(50_000);
        buf.fill(7);
        let (at, len) = (buf.as_ptr() as usize, buf.len());
        let bytes = pool.freeze(buf, 10);
        assert_eq!(bytes, [7; 10].as_slice());
        let slice = bytes.slice(2..4);
        drop(bytes);
        let other = pool.take(50_000);
        assert_ne!(other.as_ptr() as usize, at, "still in use");
        assert_eq!(pool.free_bytes(), 0);
        drop(slice);
        assert_eq!(pool.free_bytes(), len);
        let again = pool.take(50_000);
        assert_eq!((again.as_ptr() as usize, again.len()), (at, len));
        drop((pool.freeze(other, 1), pool.freeze(again, 1)));
        assert!(pool.free.lock().unwrap().1 <= 64 << 10);
    }
}
