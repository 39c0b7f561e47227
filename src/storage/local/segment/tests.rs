//! How bytes get from memory into a segment: which writes there are, and what is in the file then.

use std::sync::Mutex;

use super::*;

/// Keeps what is written and how.
#[derive(Debug, Default)]
struct Recorder {
    bytes: Mutex<Vec<u8>>,
    /// Position and length of each call.
    calls: Mutex<Vec<(usize, usize)>>,
}

impl DiskFile for Recorder {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let bytes = self.bytes.lock().unwrap();
        let there = bytes.get(usize::try_from(at).unwrap()..).unwrap_or_default();
        let got = there.len().min(buf.len());
        buf[..got].copy_from_slice(&there[..got]);
        Ok(got)
    }

    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.write_all_vectored_at(&[buf], at)
    }

    fn write_all_vectored_at(&self, bufs: &[&[u8]], at: u64) -> io::Result<()> {
        let at = usize::try_from(at).unwrap();
        for buf in bufs {
            let whole_blocks = buf.len().is_multiple_of(BLOCK_BYTES);
            assert!(whole_blocks && buf.as_ptr().addr().is_multiple_of(BLOCK_BYTES));
        }
        let new = bufs.concat();
        let mut bytes = self.bytes.lock().unwrap();
        let len = bytes.len().max(at + new.len());
        bytes.resize(len, 0);
        bytes[at..at + new.len()].copy_from_slice(&new);
        self.calls.lock().unwrap().push((at, new.len()));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes
            .lock()
            .unwrap()
            .resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn drop_cache(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// Memory with a piece that stands as far behind the start of a block as it will in the file, or a byte beside that.
struct Memory {
    buf: AlignedBuf,
    from: usize,
    to: usize,
}

impl Memory {
    fn new(len: usize, position: usize, stands_as_in_file: bool) -> Self {
        let from = (position + usize::from(!stands_as_in_file)) % BLOCK_BYTES;
        let to = from + len;
        let mut buf = AlignedBuf::zeroed(to.next_multiple_of(BLOCK_BYTES));
        for (byte, value) in buf[from..to].iter_mut().zip((1..=251).cycle()) {
            *byte = value;
        }
        Self { buf, from, to }
    }

    fn bytes(&self) -> &[u8] {
        &self.buf[self.from..self.to]
    }
}

/// Appends pieces to a segment of these bytes; what was written, and the last block.
fn written(before: &[u8], pieces: &[Memory], max: usize) -> (Recorder, Vec<u8>) {
    let file = Recorder::default();
    file.bytes.lock().unwrap().extend_from_slice(before);
    let partial = before.len() % BLOCK_BYTES;
    let mut staging = AlignedBuf::zeroed(max);
    staging[..partial].copy_from_slice(&before[before.len() - partial..]);
    let mut stage = Stage {
        at: (before.len() - partial) as u64,
        parts: Vec::new(),
        parts_bytes: 0,
        open: 0,
        filled: partial,
        max,
        buf: &mut staging,
    };
    for piece in pieces {
        stage.push(&file, piece.bytes()).unwrap();
    }
    let partial = stage.finish(&file, false).unwrap();
    (file, partial)
}

fn expected(before: &[u8], pieces: &[Memory]) -> Vec<u8> {
    let mut all = before.to_vec();
    pieces
        .iter()
        .for_each(|piece| all.extend_from_slice(piece.bytes()));
    all
}

#[test]
fn batches_of_several_groups_are_one_write() {
    let before = [7; 100];
    let mut pieces: Vec<Memory> = Vec::new();
    let mut position = before.len();
    for len in [100_000, 110_001, 99_999] {
        pieces.push(Memory::new(len, position, true));
        position += len;
    }
    let (file, _) = written(&before, &pieces, 1 << 20);
    let padded = position.next_multiple_of(BLOCK_BYTES);
    assert_eq!(*file.calls.lock().unwrap(), [(0, padded)]);
    let mut all = expected(&before, &pieces);
    all.resize(padded, 0);
    assert!(*file.bytes.lock().unwrap() == all);
}

#[test]
fn whatever_stands_where_in_memory_the_file_has_it_in_order_and_no_write_is_too_large() {
    const MAX: usize = 64 << 10;
    for seed in crate::testing::rounds(50) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let before = vec![9; rng.usize(..2 * BLOCK_BYTES)];
        let mut pieces: Vec<Memory> = Vec::new();
        let mut position = before.len();
        for _ in 0..rng.usize(..8) {
            let len_max = [100, 9_000, 200_000][rng.usize(..3)];
            let len = rng.usize(1..len_max);
            pieces.push(Memory::new(len, position, rng.bool()));
            position += len;
        }
        let (file, partial) = written(&before, &pieces, MAX);
        let all = expected(&before, &pieces);
        let there = file.bytes.lock().unwrap().clone();
        assert!(there[..all.len()] == all, "not in order");
        assert!(there[all.len()..].iter().all(|byte| *byte == 0));
        assert_eq!(partial, all[all.len() / BLOCK_BYTES * BLOCK_BYTES..]);
        let mut at = before.len() / BLOCK_BYTES * BLOCK_BYTES;
        for (from, bytes) in file.calls.lock().unwrap().iter().filter(|(_, bytes)| *bytes > 0) {
            assert!(
                *from == at && *bytes <= MAX,
                "{bytes} bytes at {from}, not at {at}"
            );
            at += bytes;
        }
    }
}
