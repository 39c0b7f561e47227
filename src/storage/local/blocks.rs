//! The bytes of a group in memory: pieces of whole blocks that follow each other.
//!
//! A large batch is copied by whoever hands it in, before it is taken in, and not when its group is written: the journal's
//! thread copies small ones alone between two syncs. It stands as far behind the start of a block as it will in its
//! segment, and so in its group, and need not be moved any more.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::buffers::BufferPool;
use crate::disk::{AlignedBuf, BLOCK_BYTES};
use crate::record::SealedBatch;

/// Room of a further piece for batches that nobody has copied.
const PIECE_BYTES_MIN: usize = 64 << 10;

/// A large batch in a buffer of its own.
#[derive(Debug)]
pub(super) struct CopiedBatch {
    buf: AlignedBuf,
    /// Bytes between the start of the buffer and the batch: less than a block.
    lead: usize,
    /// Where the batch ends in the buffer.
    end: usize,
}

impl CopiedBatch {
    /// Copies a batch that is to stand at such a position; what it has in whole blocks does not matter.
    pub(super) fn new(batch: &SealedBatch, position: u64, pool: &BufferPool) -> Self {
        let lead = in_block(position);
        let end = lead + batch.head().len() + batch.body().len();
        let mut buf = pool.take(end);
        copy_to(&mut buf[lead..end], batch);
        Self { buf, lead, end }
    }

    /// Whether it can stand there without being moved.
    pub(super) fn fits(&self, position: u64) -> bool {
        self.lead == in_block(position)
    }
}

fn in_block(position: u64) -> usize {
    usize::try_from(position % BLOCK_BYTES as u64).expect("a block has 4,096 bytes")
}

fn copy_to(to: &mut [u8], batch: &SealedBatch) {
    let (head, body) = to.split_at_mut(batch.head().len());
    head.copy_from_slice(batch.head());
    body.copy_from_slice(batch.body());
}

/// Whole blocks of a group that is being put together. Positions count from the start of the group.
#[derive(Debug)]
struct OpenPiece {
    /// Where its first block is.
    from: usize,
    /// Where what is in it ends. The buffer was used before: its old bytes must not reach the disk.
    end: usize,
    buf: AlignedBuf,
}

impl OpenPiece {
    fn at(&mut self, from: usize, to: usize) -> &mut [u8] {
        &mut self.buf[from - self.from..to - self.from]
    }
}

/// Puts a group together, from its beginning to its end.
#[derive(Debug)]
pub(super) struct BlocksBuilder<'a> {
    pool: &'a Arc<BufferPool>,
    pieces: SmallVec<[Piece; 1]>,
    open: OpenPiece,
}

impl<'a> BlocksBuilder<'a> {
    /// A group that begins with so many bytes, in a piece that has room for `room`.
    pub(super) fn new(pool: &'a Arc<BufferPool>, front_bytes: usize, room: usize) -> Self {
        Self {
            pool,
            pieces: SmallVec::new(),
            open: OpenPiece {
                from: 0,
                end: front_bytes,
                buf: pool.take(room.max(front_bytes)),
            },
        }
    }

    /// The bytes that it begins with, with any content. To be written before anything is added.
    pub(super) fn front(&mut self) -> &mut [u8] {
        self.open.at(0, self.open.end)
    }

    /// Adds a batch at `at`.
    pub(super) fn push(&mut self, batch: &SealedBatch, at: usize) {
        let end = at + batch.head().len() + batch.body().len();
        if end - self.open.from > self.open.buf.len() {
            let from = at / BLOCK_BYTES * BLOCK_BYTES;
            let buf = self.pool.take(PIECE_BYTES_MIN.max(end - from));
            self.begin(OpenPiece { from, end: at, buf }, at);
        }
        self.open.at(self.open.end, at).fill(0);
        copy_to(self.open.at(at, end), batch);
        self.open.end = end;
    }

    /// Adds a batch that was copied before, at `at`.
    pub(super) fn push_copied(&mut self, batch: CopiedBatch, at: usize) {
        assert!(
            batch.fits(at as u64),
            "a copied batch is not moved inside its blocks"
        );
        let from = at - batch.lead;
        let piece = OpenPiece {
            from,
            end: from + batch.end,
            buf: batch.buf,
        };
        self.begin(piece, at);
    }

    /// Goes on with a piece in which the first batch stands at `at`. A block that two pieces have a part of is the later
    /// one's, with everything that is in it.
    fn begin(&mut self, mut next: OpenPiece, at: usize) {
        let shared = self.open.end.max(next.from);
        let before = self.open.at(next.from.min(shared), shared);
        next.at(next.from, shared).copy_from_slice(before);
        next.at(shared, at).fill(0);
        let end = next.from;
        let done = std::mem::replace(&mut self.open, next);
        self.close(done, end);
    }

    /// Ends a piece whose blocks up to `end` are its own.
    fn close(&mut self, mut piece: OpenPiece, end: usize) {
        if end == piece.from {
            return;
        }
        if end > piece.end {
            piece.at(piece.end, end).fill(0);
        }
        self.pieces.push(Piece {
            from: piece.from,
            buffer_bytes: piece.buf.len(),
            own: end - piece.from,
            bytes: self.pool.freeze(piece.buf, end.max(piece.end) - piece.from),
        });
    }

    /// The whole group, of so many bytes.
    pub(super) fn finish(mut self, total: usize) -> Blocks {
        let empty = OpenPiece {
            from: total,
            end: total,
            buf: AlignedBuf::zeroed(0),
        };
        let last = std::mem::replace(&mut self.open, empty);
        self.close(last, total);
        Blocks {
            pieces: self.pieces,
            total,
        }
    }
}

#[derive(Debug)]
struct Piece {
    from: usize,
    buffer_bytes: usize,
    /// So many bytes are this piece's; what follows is in the next one too.
    own: usize,
    bytes: Bytes,
}

/// The bytes of a group. Every batch is in one piece.
#[derive(Debug)]
pub(super) struct Blocks {
    /// In order, without a gap.
    pieces: SmallVec<[Piece; 1]>,
    total: usize,
}

impl Blocks {
    /// Length of the group.
    pub(super) fn len(&self) -> usize {
        self.total
    }

    /// Length of the buffers that hold it.
    pub(super) fn buffer_bytes(&self) -> usize {
        self.pieces.iter().map(|p| p.buffer_bytes).sum()
    }

    /// What is to be written, in order: whole blocks each.
    pub(super) fn writes(&self) -> SmallVec<[&[u8]; 8]> {
        self.spans(0, self.total).collect()
    }

    /// These bytes, in as few slices as they have in memory; all but the first begin with a block.
    pub(super) fn spans(&self, from: usize, to: usize) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().filter_map(move |piece| {
            let (begin, end) = (from.max(piece.from), to.min(piece.from + piece.own));
            (begin < end).then(|| &piece.bytes[begin - piece.from..end - piece.from])
        })
    }

    /// The last piece that begins at or before this position: it has the whole batch that begins there.
    fn piece_of(&self, position: usize) -> &Piece {
        let behind = self.pieces.partition_point(|p| p.from <= position);
        &self.pieces[behind.saturating_sub(1)]
    }

    /// Whether these bytes, which begin with a batch, are in one piece.
    pub(super) fn has_in_one_piece(&self, from: usize, to: usize) -> bool {
        let piece = self.piece_of(from);
        to - piece.from <= piece.bytes.len()
    }

    /// The bytes of a batch, or of several in one piece.
    pub(super) fn get(&self, from: usize, to: usize) -> &[u8] {
        let piece = self.piece_of(from);
        &piece.bytes[from - piece.from..to - piece.from]
    }

    /// As [`get`](Self::get), shared.
    pub(super) fn slice(&self, from: usize, to: usize) -> Bytes {
        let piece = self.piece_of(from);
        piece.bytes.slice(from - piece.from..to - piece.from)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Timestamp;
    use crate::record::BatchBuilder;

    fn batch(bytes: usize, fill: u8) -> SealedBatch {
        let mut builder = BatchBuilder::new();
        builder.push(Timestamp(1), None, Some(&vec![fill; bytes]), &[]);
        builder.seal(None)
    }

    /// A pool whose buffers are full of what must not get out.
    fn dirty_pool() -> Arc<BufferPool> {
        let pool = Arc::new(BufferPool::new(64 << 20));
        for len in [8 << 10, 70 << 10, 100 << 10, 300 << 10] {
            let mut bufs = [pool.take(len), pool.take(len), pool.take(len)];
            for buf in &mut bufs {
                buf.fill(0xEE);
            }
            for buf in bufs {
                drop(pool.freeze(buf, len));
            }
        }
        pool
    }

    proptest! {
        /// Whatever is copied before, a group is what it would be in one buffer.
        #[test]
        fn pieces_are_the_group(
            front in 1_usize..3,
            sizes in prop::collection::vec((1_usize..90_000, any::<bool>(), 0_usize..5_000), 0..12),
            seed in any::<u8>(),
        ) {
            let pool = dirty_pool();
            let front_bytes = front * BLOCK_BYTES;
            let mut builder = BlocksBuilder::new(&pool, front_bytes, front_bytes);
            builder.front().fill(seed);
            let mut wanted = vec![seed; front_bytes];
            let mut places = Vec::new();
            for (n, (size, copied, gap)) in sizes.into_iter().enumerate() {
                let batch = batch(size, u8::try_from(n).unwrap());
                wanted.resize(wanted.len() + gap % BLOCK_BYTES, 0);
                let at = wanted.len();
                wanted.extend_from_slice(&batch.to_bytes());
                places.push((at, wanted.len()));
                if copied {
                    builder.push_copied(CopiedBatch::new(&batch, at as u64, &pool), at);
                } else {
                    builder.push(&batch, at);
                }
            }
            wanted.resize(wanted.len().next_multiple_of(BLOCK_BYTES), 0);
            let blocks = builder.finish(wanted.len());
            prop_assert_eq!(blocks.len(), wanted.len());
            prop_assert!(blocks.buffer_bytes() >= wanted.len());
            for write in blocks.writes() {
                prop_assert_eq!(write.len() % BLOCK_BYTES, 0);
                prop_assert_eq!(write.as_ptr().addr() % BLOCK_BYTES, 0);
            }
            prop_assert_eq!(blocks.writes().concat(), wanted.clone());
            for (from, to) in places {
                prop_assert!(blocks.has_in_one_piece(from, to));
                prop_assert_eq!(blocks.get(from, to), &wanted[from..to]);
                prop_assert_eq!(&*blocks.slice(from, to), &wanted[from..to]);
                prop_assert_eq!(blocks.spans(from, to).collect::<Vec<_>>().concat(), wanted[from..to].to_vec());
            }
        }
    }
}
