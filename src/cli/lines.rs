//! Lines of a stream, as bytes. An empty line is an empty value, a last line without newline counts, CR is kept.

use std::io::{self, BufRead, BufReader, Read};

use bytes::Bytes;

/// Longest line: what a request to the broker can hold.
pub(crate) const LINE_BYTES_MAX: usize = 8 << 20;
/// Lines are taken together up to about so many bytes.
const PIECE_BYTES: usize = 64 << 10;
/// And up to so many lines.
const PIECE_LINES: usize = 4096;

/// Cuts a stream into lines.
#[derive(Debug)]
pub(crate) struct LineReader<R> {
    reader: BufReader<R>,
}

impl<R: Read> LineReader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            reader: BufReader::with_capacity(PIECE_BYTES, source),
        }
    }

    /// Waits for one line, then takes what is there already. No lines: the end. An error comes with the lines before it.
    pub(crate) fn next_lines(&mut self) -> (Vec<Bytes>, io::Result<()>) {
        let mut lines = Vec::new();
        let mut bytes = 0;
        loop {
            match self.next_line() {
                Ok(Some(line)) => {
                    bytes += line.len();
                    lines.push(line);
                }
                Ok(None) => return (lines, Ok(())),
                Err(error) => return (lines, Err(error)),
            }
            let full = bytes >= PIECE_BYTES || lines.len() >= PIECE_LINES;
            if full || !self.reader.buffer().contains(&b'\n') {
                return (lines, Ok(()));
            }
        }
    }

    fn next_line(&mut self) -> io::Result<Option<Bytes>> {
        let mut line = Vec::new();
        // One more than allowed, for the newline.
        let read = self
            .reader
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

    fn read_all(source: impl Read) -> (Vec<Bytes>, io::Result<()>) {
        let mut reader = LineReader::new(source);
        let mut all = Vec::new();
        loop {
            let (lines, result) = reader.next_lines();
            let ended = lines.is_empty() || result.is_err();
            all.extend(lines);
            if ended {
                return (all, result);
            }
        }
    }

    #[test]
    fn lines_are_cut_the_same_way_from_a_stream_and_from_memory() {
        for (text, expected) in CASES {
            let expected: Vec<Bytes> = expected
                .iter()
                .map(|l| Bytes::from_static(l.as_bytes()))
                .collect();
            assert_eq!(split(&Bytes::from_static(text.as_bytes())), expected, "{text:?}");
            assert_eq!(read_all(text.as_bytes()).0, expected, "{text:?}");
        }
    }

    #[test]
    fn a_long_stream_comes_over_whole() {
        let text: String = (0..50_000).map(|n| format!("line {n}\n")).collect();
        let expected = split(&Bytes::from(text.clone()));
        assert_eq!(read_all(io::Cursor::new(text)).0, expected);
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let (lines, result) = read_all(io::Cursor::new("first\n").chain(io::repeat(b'x')));
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(lines, ["first"], "what was before it is not lost");
        let longest = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(read_all(io::Cursor::new(longest)).0.len(), 1);
    }
}
