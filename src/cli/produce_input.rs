//! What `produce` reads: lines, JSON lines, or records of a format, on a thread of their own.

use std::io::{self, Read};
use std::thread;

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

use super::failure::{Exit, Failure};
use super::lines::{LINE_BYTES_MAX, LineReader};
use super::record_format::{Incoming, RecordReader};
use super::record_json;
use crate::record::Record;

/// Pieces that wait; a full channel stops the reading thread, and so whoever writes into the pipe.
const PIECES_WAITING: usize = 8;
/// The most records in a piece.
const PIECE_RECORDS: usize = 4096;
/// The input is read in pieces of so many bytes at least.
const READ_BYTES: usize = 64 << 10;
/// The longest text of a record with a format: hexadecimal digits and JSON are longer than what they stand for.
const RECORD_TEXT_BYTES_MAX: usize = 4 * LINE_BYTES_MAX;

/// How the input becomes records.
#[derive(Clone, Debug)]
pub(crate) enum InputForm {
    /// A line is a value; behind the first delimiter, if there is one: before it is the key.
    Lines { delimiter: Option<Bytes> },
    /// A line is an object.
    Json,
    /// As a format says.
    Format(RecordReader),
}

/// A record and its number, from 1: of its line, or of itself if it was read with a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) incoming: Incoming,
}

/// Records that were read together, and what came behind them.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub(crate) records: Vec<Numbered>,
    /// Why there is nothing more, if that is not the end.
    pub(crate) failure: Option<Failure>,
}

impl InputForm {
    /// What [`Numbered::number`] counts.
    pub(crate) const fn counted(&self) -> &'static str {
        match self {
            Self::Lines { .. } | Self::Json => "line",
            Self::Format(_) => "record",
        }
    }

    /// Reads records on a thread of their own, because reading stdin blocks. The thread ends with the stream, at the first
    /// mistake in it, or when nobody takes its records any more; the process does not wait for it.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn read(self, source: impl Read + Send + 'static) -> io::Result<mpsc::Receiver<Piece>> {
        let (sender, receiver) = mpsc::channel(PIECES_WAITING);
        let body = move || {
            let mut send = |piece: Piece| {
                let ended = piece.failure.is_some();
                sender.blocking_send(piece).is_ok() && !ended
            };
            match self {
                Self::Lines { delimiter } => {
                    let parse = |line: Bytes| Ok(Some(of_line(line, delimiter.as_deref())));
                    by_line(source, parse, &mut send);
                }
                Self::Json => by_line(source, of_json, &mut send),
                Self::Format(reader) => by_format(source, &reader, &mut send),
            }
        };
        thread::Builder::new().name("input".to_owned()).spawn(body)?;
        Ok(receiver)
    }
}

/// What is wrong with a line: where in it, in bytes from 1, what, and what to do.
struct Mistake {
    column: Option<usize>,
    what: String,
    hint: String,
}

/// Sends what `parse` makes of each line, until the end, a mistake, or `send` says that nobody listens.
fn by_line(
    source: impl Read,
    parse: impl Fn(Bytes) -> Result<Option<Incoming>, Mistake>,
    send: &mut impl FnMut(Piece) -> bool,
) {
    let mut lines = LineReader::new(source);
    let mut number = 0;
    loop {
        let (read, result) = lines.next_lines();
        if read.is_empty() && result.is_ok() {
            return;
        }
        let mut piece = Piece::default();
        for line in read {
            number += 1;
            match parse(line) {
                Ok(None) => {}
                Ok(Some(incoming)) => piece.records.push(Numbered { number, incoming }),
                Err(mistake) => {
                    piece.failure = Some(bad_line(number, &mistake));
                    break;
                }
            }
        }
        if let (None, Err(error)) = (&piece.failure, result) {
            piece.failure = Some(unread(number + 1, &error));
        }
        if !send(piece) {
            return;
        }
    }
}

/// A line that is a value, with its key if there is a delimiter in it.
fn of_line(line: Bytes, delimiter: Option<&[u8]>) -> Incoming {
    let at = delimiter.and_then(|delimiter| {
        line.windows(delimiter.len())
            .position(|window| window == delimiter)
    });
    let (key, value) = match (at, delimiter) {
        (Some(at), Some(delimiter)) => (Some(line.slice(..at)), line.slice(at + delimiter.len()..)),
        _ => (None, line),
    };
    Incoming {
        record: Record {
            key,
            value: Some(value),
            ..Record::default()
        },
        partition: None,
    }
}

/// A line that is an object. An empty one, as there may be at the end of a file, is nothing.
fn of_json(line: Bytes) -> Result<Option<Incoming>, Mistake> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    record_json::read(&line).map(Some).map_err(|bad| Mistake {
        column: bad.column,
        what: bad.what,
        hint: bad.hint,
    })
}

fn bad_line(number: u64, mistake: &Mistake) -> Failure {
    let column = mistake.column.map(|column| format!(", column {column}"));
    let message = format!("line {number}{}: {}", column.unwrap_or_default(), mistake.what);
    let again =
        format!("nothing from this line on was sent; go on with: tail -n +{number} FILE | naru produce ...");
    bad_input(message).hint(format!("{}; {again}", mistake.hint))
}

fn bad_input(message: String) -> Failure {
    Failure::new(Exit::Usage, "BAD_INPUT", message)
}

fn unread(number: u64, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::InvalidData => bad_input(format!("line {number}: {error}"))
            .hint("records are separated by newlines; binary data needs a format with lengths, as in -f '%V{big32}%v'"),
        _ => Failure::unexpected(format!("cannot read stdin at line {number}: {error}")),
    }
}

/// Where in the input a record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Number of the record, from 1.
    record: u64,
    /// Bytes before it.
    bytes: u64,
    /// Newlines before it.
    newlines: u64,
    /// Bytes before it in its line.
    in_line: usize,
}

impl Place {
    const START: Self = Self {
        record: 1,
        bytes: 0,
        newlines: 0,
        in_line: 0,
    };

    /// The place behind these bytes.
    fn behind(self, bytes: &[u8]) -> Self {
        let newlines = bytes.iter().filter(|byte| **byte == b'\n').count();
        let in_line = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => bytes.len() - last - 1,
            None => self.in_line + bytes.len(),
        };
        Self {
            bytes: self.bytes + bytes.len() as u64,
            newlines: self.newlines + newlines as u64,
            in_line,
            ..self
        }
    }

    fn failure(self, input: &[u8], at: usize, what: &str) -> Failure {
        let Self { record, .. } = self;
        let there = self.behind(input.get(..at).unwrap_or(input));
        let (line, column, byte) = (there.newlines + 1, there.in_line + 1, there.bytes);
        let start = self.bytes + 1;
        bad_input(format!(
            "record {record}, line {line}, column {column} (byte {byte}): {what}"
        ))
        .hint(format!(
            "nothing from this record on was sent; go on with: tail -c +{start} FILE | naru produce ..."
        ))
    }
}

/// Sends the records that a format finds, until the end, a mistake, or `send` says that nobody listens.
fn by_format(mut source: impl Read, reader: &RecordReader, send: &mut impl FnMut(Piece) -> bool) {
    let mut input = Bytes::new();
    let mut is_end = false;
    let mut place = Place::START;
    loop {
        let mut piece = Piece::default();
        while !input.is_empty() && piece.records.len() < PIECE_RECORDS {
            match reader.read(&input, is_end) {
                Ok(Some((incoming, used))) => {
                    let number = place.record;
                    piece.records.push(Numbered { number, incoming });
                    place = place.behind(input.get(..used).unwrap_or_default());
                    place.record += 1;
                    input.advance(used);
                }
                Ok(None) => break,
                Err(unreadable) => {
                    piece.failure = Some(place.failure(&input, unreadable.at, &unreadable.what));
                    break;
                }
            }
        }
        let more = piece.records.len() < PIECE_RECORDS;
        // What is there leaves before the next read, which may wait.
        if (!piece.records.is_empty() || piece.failure.is_some()) && !send(piece) {
            return;
        }
        if !more {
            continue;
        }
        if is_end && input.is_empty() {
            return;
        }
        let read = if is_end {
            Err(place.failure(&input, input.len(), "the input ends in the middle of this record"))
        } else if input.len() > RECORD_TEXT_BYTES_MAX {
            let what = format!("this record does not end within {RECORD_TEXT_BYTES_MAX} bytes");
            Err(place.failure(&input, 0, &what))
        } else {
            read_more(&mut source, &input)
                .map_err(|error| Failure::unexpected(format!("cannot read stdin: {error}")))
        };
        match read {
            Ok(longer) => {
                is_end = longer.len() == input.len();
                input = longer;
            }
            Err(failure) => {
                let failure = Some(failure);
                let records = Vec::new();
                send(Piece { records, failure });
                return;
            }
        }
    }
}

/// The input with what one read adds to it; nothing is added at the end.
fn read_more(source: &mut impl Read, input: &Bytes) -> io::Result<Bytes> {
    // As much again as there is: a long record is not begun again too often.
    let room = input.len().max(READ_BYTES);
    let mut longer = Vec::with_capacity(input.len() + room);
    longer.extend_from_slice(input);
    longer.resize(input.len() + room, 0);
    let read = loop {
        match source.read(longer.get_mut(input.len()..).unwrap_or_default()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    longer.truncate(input.len() + read);
    Ok(longer.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::record_format::RecordFormat;

    fn read(form: InputForm, source: impl Read + Send + 'static) -> (Vec<Numbered>, Option<Failure>) {
        let mut pieces = form.read(source).unwrap();
        let mut records = Vec::new();
        while let Some(piece) = pieces.blocking_recv() {
            records.extend(piece.records);
            if piece.failure.is_some() {
                return (records, piece.failure);
            }
        }
        (records, None)
    }

    fn format(text: &str) -> InputForm {
        InputForm::Format(RecordReader::new(&RecordFormat::parse(text).unwrap()).unwrap())
    }

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn the_key_ends_at_the_first_delimiter() {
        for (line, delimiter, key, value) in [
            ("a:b:c", ":", Some("a"), "b:c"),
            (":b", ":", Some(""), "b"),
            ("a:", ":", Some("a"), ""),
            ("abc", ":", None, "abc"),
            ("", ":", None, ""),
            ("k=>v", "=>", Some("k"), "v"),
        ] {
            let record = of_line(bytes(line), Some(delimiter.as_bytes())).record;
            assert_eq!(
                (record.key, record.value),
                (key.map(bytes), Some(bytes(value))),
                "{line:?}"
            );
        }
    }

    #[test]
    fn a_bad_line_is_told_with_its_number_after_the_lines_before_it() {
        let input = "{\"value\":1}\n\n {\"value\":2}\n{\"vaule\":3}\n{\"value\":4}\n";
        let (records, failure) = read(InputForm::Json, input.as_bytes());
        let numbers: Vec<u64> = records.iter().map(|record| record.number).collect();
        assert_eq!(numbers, [1, 3], "empty lines are nothing but have their number");
        let failure = failure.unwrap();
        assert_eq!((failure.exit, failure.code.as_str()), (Exit::Usage, "BAD_INPUT"));
        assert_eq!(failure.message, "line 4, column 8: there is no field 'vaule'");
        let hint = failure.hint.unwrap();
        assert!(
            hint.contains("did you mean 'value'?") && hint.contains("tail -n +4 FILE"),
            "{hint}"
        );
    }

    #[test]
    fn a_bad_record_is_told_with_line_column_and_byte() {
        let (records, failure) = read(format("%k=%v\\n"), &b"a=1\nb=2\nc3\nd=4\n"[..]);
        assert_eq!(records.len(), 2);
        let failure = failure.unwrap();
        assert_eq!(
            failure.message,
            "record 3, line 3, column 3 (byte 10): expected '=', but there is '\\nd=4\\n'"
        );
        assert!(failure.hint.unwrap().contains("tail -c +9 FILE"));
    }

    #[test]
    fn records_longer_than_a_read_come_over_whole_and_endless_ones_are_refused() {
        let text: Vec<u8> = (0..30_u8)
            .flat_map(|n| [&[n; 50_000][..], b"\n"].concat())
            .collect();
        // 10 is the newline.
        let (records, failure) = read(
            format("%v;\\0"),
            io::Cursor::new([&text[..], b";\0x;\0"].concat()),
        );
        assert_eq!(failure, None);
        let lengths: Vec<usize> = records
            .iter()
            .map(|record| record.incoming.record.value.as_ref().unwrap().len())
            .collect();
        assert_eq!(lengths, [text.len(), 1]);
        let (records, failure) = read(
            format("%V{big8}%v%k\\0"),
            Read::chain(io::Cursor::new([1, b'x', 0]), io::repeat(1)),
        );
        assert_eq!(records.len(), 1);
        assert!(
            failure
                .unwrap()
                .message
                .contains("does not end within 33554432 bytes")
        );
    }

    #[test]
    fn what_is_there_leaves_before_the_rest_has_come() {
        let (sender, receiver) = std::sync::mpsc::channel::<&'static [u8]>();
        struct Slow(std::sync::mpsc::Receiver<&'static [u8]>);
        impl Read for Slow {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                let piece = self.0.recv().unwrap_or_default();
                out[..piece.len()].copy_from_slice(piece);
                Ok(piece.len())
            }
        }
        let mut pieces = format("%v\\n").read(Slow(receiver)).unwrap();
        sender.send(b"one\ntw").unwrap();
        assert_eq!(pieces.blocking_recv().unwrap().records.len(), 1);
        sender.send(b"o\n").unwrap();
        let piece = pieces.blocking_recv().unwrap();
        assert_eq!(
            piece.records[0].incoming.record.value.as_deref(),
            Some(&b"two"[..])
        );
        drop(sender);
        assert!(pieces.blocking_recv().is_none());
    }
}
