//! Lines of a stream, as bytes. An empty line is an empty value, a last line without newline counts, CR is kept.

use std::io::{self, BufRead, BufReader, Read};
use std::thread;

use bytes::Bytes;
use tokio::sync::mpsc;

/// Longest line: what a request to the broker can hold.
pub(crate) const LINE_BYTES_MAX: usize = 8 << 20;
/// Lines go over in pieces of about so many bytes.
const PIECE_BYTES: usize = 64 << 10;
/// And of at most so many lines.
const PIECE_LINES: usize = 4096;
/// Pieces that wait; a full channel stops the reading thread, and so whoever writes into the pipe.
const PIECES_WAITING: usize = 8;

/// Lines that were read together.
pub(crate) type Piece = io::Result<Vec<Bytes>>;

/// Reads lines on a thread of their own, because reading stdin blocks. The thread ends with the stream, or when nobody
/// takes its lines any more; the process does not wait for it.
///
/// # Errors
/// The thread cannot be started.
pub(crate) fn read_lines(source: impl Read + Send + 'static) -> io::Result<mpsc::Receiver<Piece>> {
    let (sender, receiver) = mpsc::channel(PIECES_WAITING);
    thread::Builder::new().name("lines".to_owned()).spawn(move || {
        let mut reader = BufReader::with_capacity(PIECE_BYTES, source);
        loop {
            let piece = next_piece(&mut reader);
            let last = !matches!(&piece, Ok(lines) if !lines.is_empty());
            let nothing = matches!(&piece, Ok(lines) if lines.is_empty());
            if nothing || sender.blocking_send(piece).is_err() || last {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Waits for one line, then takes what is there already. Empty: the end.
fn next_piece<R: Read>(reader: &mut BufReader<R>) -> Piece {
    let mut lines = Vec::new();
    let mut bytes = 0;
    while let Some(line) = next_line(reader)? {
        bytes += line.len();
        lines.push(line);
        if bytes >= PIECE_BYTES || lines.len() >= PIECE_LINES || !reader.buffer().contains(&b'\n') {
            break;
        }
    }
    Ok(lines)
}

fn next_line<R: Read>(reader: &mut BufReader<R>) -> io::Result<Option<Bytes>> {
    let mut line = Vec::new();
    // One more than allowed, for the newline.
    let read = reader
        .by_ref()
        .take(LINE_BYTES_MAX as u64 + 1)
        .read_until(b'\n', &mut line)?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() > LINE_BYTES_MAX {
        let message = format!("a line is longer than {LINE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(Some(Bytes::from(line)))
}

/// The lines of a text that is in memory; slices, nothing is copied.
pub(crate) fn split(text: &Bytes) -> Vec<Bytes> {
    let mut lines = Vec::new();
    let mut start = 0;
    for (at, byte) in text.iter().enumerate() {
        if *byte == b'\n' {
            lines.push(text.slice(start..at));
            start = at + 1;
        }
    }
    if start < text.len() {
        lines.push(text.slice(start..));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: &[(&str, &[&str])] = &[
        ("", &[]),
        ("\n", &[""]),
        ("a", &["a"]),
        ("a\n", &["a"]),
        ("a\n\nb", &["a", "", "b"]),
        ("a\r\n b \n", &["a\r", " b "]),
        ("\n\n", &["", ""]),
    ];

    fn read_all(source: impl Read + Send + 'static) -> io::Result<Vec<Bytes>> {
        let mut pieces = read_lines(source)?;
        let mut lines = Vec::new();
        while let Some(piece) = pieces.blocking_recv() {
            lines.extend(piece?);
        }
        Ok(lines)
    }

    #[test]
    fn lines_are_cut_the_same_way_from_a_stream_and_from_memory() {
        for (text, expected) in CASES {
            let expected: Vec<Bytes> = expected
                .iter()
                .map(|l| Bytes::from_static(l.as_bytes()))
                .collect();
            assert_eq!(split(&Bytes::from_static(text.as_bytes())), expected, "{text:?}");
            assert_eq!(read_all(text.as_bytes()).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_long_stream_comes_over_whole() {
        let text: String = (0..50_000).map(|n| format!("line {n}\n")).collect();
        let expected = split(&Bytes::from(text.clone()));
        assert_eq!(read_all(io::Cursor::new(text)).unwrap(), expected);
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let error = read_all(io::repeat(b'x')).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let longest = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(read_all(io::Cursor::new(longest)).unwrap().len(), 1);
    }
}
