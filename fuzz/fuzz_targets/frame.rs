//! Bytes in pieces: the first byte of each piece of the input says how much comes at once.
#![no_main]

use bytes::{BufMut, Bytes};
use libfuzzer_sys::fuzz_target;
use naru::net::frame::{FrameError, FrameReader};

const FRAME_BYTES_MAX: u32 = 4096;

/// What comes out of a stream that arrives in pieces of these sizes: frames, and the error that ended it.
fn frames(stream: &[u8], mut piece: impl FnMut() -> usize) -> (Vec<Bytes>, Option<FrameError>) {
    let mut reader = FrameReader::new();
    let mut found = Vec::new();
    let mut rest = stream;
    loop {
        match reader.take(FRAME_BYTES_MAX) {
            Ok(Some(frame)) => found.push(frame),
            Ok(None) if rest.is_empty() => return (found, None),
            Ok(None) => {
                let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
                reader.room().put_slice(now);
                rest = later;
            }
            Err(error) => return (found, Some(error)),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((sizes, stream)) = input.split_at_checked(input.len().min(16)) else {
        return;
    };
    let mut next = sizes.iter().cycle();
    let pieces = frames(stream, || next.next().map_or(1, |size| usize::from(*size)));
    let whole = frames(stream, || usize::MAX);
    assert_eq!(pieces.0, whole.0);
    assert_eq!(format!("{:?}", pieces.1), format!("{:?}", whole.1));
    for frame in whole.0 {
        assert!(!frame.is_empty() && frame.len() <= FRAME_BYTES_MAX as usize);
    }
});
