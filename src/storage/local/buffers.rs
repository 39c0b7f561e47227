//! Buffers that are used again, for groups on their way to the journal and for what is read from segments.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::disk::{AlignedBuf, BLOCK_BYTES, huge_pages};

/// Aligned buffers that are used again, because memory that was not touched for a while is slow.
#[derive(Debug)]
pub(super) struct BufferPool {
    free: Mutex<Free>,
    bytes_max: usize,
}

/// Buffers that nobody uses now.
#[derive(Debug, Default)]
struct Free {
    by_length: BTreeMap<usize, Kept>,
    bytes: usize,
    /// Buffers taken and given back so far.
    uses: u64,
}

/// Those of one length.
#[derive(Debug, Default)]
struct Kept {
    bufs: Vec<AlignedBuf>,
    /// When one was taken, or given back, for the last time.
    used: u64,
}

impl Free {
    /// A little longer is better than fresh memory, which has to be zeroed and faulted in.
    fn take(&mut self, len: usize) -> Option<AlignedBuf> {
        self.uses += 1;
        let uses = self.uses;
        let mut fitting = self.by_length.range_mut(len..=len + len / 4);
        let buf = fitting.find_map(|(_, kept)| {
            let buf = kept.bufs.pop()?;
            kept.used = uses;
            Some(buf)
        })?;
        self.bytes -= buf.len();
        Some(buf)
    }

    /// Makes room for a buffer of this length below a limit: those of the length that was not needed for the longest time go
    /// first. Otherwise what one kind of load has left would fill the pool for ever, and the next kind never find anything
    /// in it. False if there is no room but that of its own kind.
    fn make_room(&mut self, len: usize, max: usize, gone: &mut Vec<AlignedBuf>) -> bool {
        while self.bytes + len > max {
            let others = self
                .by_length
                .iter_mut()
                .filter(|(length, kept)| **length != len && !kept.bufs.is_empty());
            let oldest = others.min_by_key(|(_, kept)| kept.used);
            let Some(buf) = oldest.and_then(|(_, kept)| kept.bufs.pop()) else {
                return false;
            };
            self.bytes -= buf.len();
            gone.push(buf);
        }
        true
    }

    fn give_back(&mut self, buf: AlignedBuf) {
        self.uses += 1;
        self.bytes += buf.len();
        let kept = self.by_length.entry(buf.len()).or_default();
        kept.used = self.uses;
        kept.bufs.push(buf);
    }
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
        huge_pages::expect_buffer(len);
        let kept = self.lock().take(len);
        if let Some(buf) = kept {
            return buf;
        }
        AlignedBuf::zeroed(len)
    }

    /// Bytes of the buffers that nobody uses now.
    pub(super) fn free_bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().expect("no panics while locked")
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
        // Given back to the system when nobody waits for the pool any more.
        let mut gone = Vec::new();
        let mut free = self.lock();
        if free.make_room(buf.len(), self.bytes_max, &mut gone) {
            free.give_back(buf);
        } else {
            gone.push(buf);
        }
        drop(free);
        drop(gone);
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
        assert!(pool.free_bytes() <= 64 << 10);
    }

    #[test]
    fn what_another_load_has_left_does_not_keep_the_pool_from_the_one_that_runs() {
        let pool = Arc::new(BufferPool::new(1 << 20));
        let bufs = |len: usize, count: usize| -> Vec<_> { (0..count).map(|_| pool.take(len)).collect() };
        let give_back = |bufs: Vec<AlignedBuf>| bufs.into_iter().for_each(|buf| drop(pool.freeze(buf, 1)));
        give_back(bufs(64 << 10, 16));
        assert_eq!(
            pool.free_bytes(),
            1 << 20,
            "full of what nobody needs from here on"
        );
        for _ in 0..8 {
            give_back(bufs(256 << 10, 4));
        }
        let addresses = |bufs: &[AlignedBuf]| bufs.iter().map(|buf| buf.as_ptr().addr()).collect::<Vec<_>>();
        let first = bufs(256 << 10, 4);
        let mut before = addresses(&first);
        give_back(first);
        let mut after = addresses(&bufs(256 << 10, 4));
        before.sort_unstable();
        after.sort_unstable();
        assert_eq!((before, pool.free_bytes()), (after, 0), "all four were there");
    }

    #[test]
    fn no_more_is_let_go_than_there_has_to_be() {
        let pool = Arc::new(BufferPool::new(1 << 20));
        let large: Vec<_> = (0..4).map(|_| pool.take(256 << 10)).collect();
        large.into_iter().for_each(|buf| drop(pool.freeze(buf, 1)));
        let mut small: Vec<_> = (0..65).map(|_| pool.take(BLOCK_BYTES)).collect();
        assert_eq!(pool.free_bytes(), 1 << 20, "who takes lets nothing go");
        let last = small.pop().unwrap();
        // Small ones do not cost a large one each.
        small.into_iter().for_each(|buf| drop(pool.freeze(buf, 1)));
        assert_eq!(pool.free_bytes(), 1 << 20);
        drop(pool.freeze(last, 1));
        assert_eq!(pool.free_bytes(), (768 << 10) + BLOCK_BYTES);
    }

    #[test]
    fn a_pool_that_is_not_full_keeps_what_every_load_needs() {
        let pool = Arc::new(BufferPool::new(1 << 20));
        for _ in 0..4 {
            for len in [64 << 10, 256 << 10, 8 << 10] {
                let buf = pool.take(len);
                drop(pool.freeze(buf, 1));
            }
        }
        assert_eq!(pool.free_bytes(), 328 << 10, "one of each, made once");
    }
}
