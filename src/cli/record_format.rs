//! The record format language of `-f`: letters known from kcat and rpk.
//!
//! `%t` topic, `%p` partition, `%o` offset, `%k` key, `%v` value, `%K` and `%V` their lengths in bytes (-1 for null),
//! `%H` number of headers, `%h{...}` the inner format once per header with `%k` and `%v` of the header, `%d` create time in
//! ms, `%i` running number from 1, `%%`; escapes `\t \n \r \\ \xNN`. A null key or value prints nothing.

use std::io::{self, Write};

use crate::model::{Offset, PartitionId};
use crate::record::Record;

/// A record and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// The record.
    pub record: &'a Record,
    /// Running number of the output, from 1.
    pub number: u64,
}

/// A parsed format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordFormat {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Key,
    Value,
    KeyBytes,
    ValueBytes,
    HeaderCount,
    Headers(Vec<HeaderPart>),
    CreateTime,
    Number,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HeaderPart {
    Literal(Vec<u8>),
    Key,
    Value,
}

/// A format that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("format, byte {at}: {what}")]
pub(crate) struct FormatError {
    /// Where, in bytes from 0.
    pub at: usize,
    /// What is wrong.
    pub what: String,
}

impl RecordFormat {
    /// Reads a format.
    ///
    /// # Errors
    /// Says what is wrong and where.
    pub(crate) fn parse(text: &str) -> Result<Self, FormatError> {
        let mut scanner = Scanner { text, at: 0 };
        let mut parts = Vec::new();
        while let Some(token) = scanner.next(None)? {
            let part = match token {
                Token::Byte(byte) => {
                    match parts.last_mut() {
                        Some(Part::Literal(bytes)) => bytes.push(byte),
                        _ => parts.push(Part::Literal(vec![byte])),
                    }
                    continue;
                }
                Token::Letter('t', _) => Part::Topic,
                Token::Letter('p', _) => Part::Partition,
                Token::Letter('o', _) => Part::Offset,
                Token::Letter('k', _) => Part::Key,
                Token::Letter('v', _) => Part::Value,
                Token::Letter('K', _) => Part::KeyBytes,
                Token::Letter('V', _) => Part::ValueBytes,
                Token::Letter('H', _) => Part::HeaderCount,
                Token::Letter('d', _) => Part::CreateTime,
                Token::Letter('i', _) => Part::Number,
                Token::Letter('h', at) => Part::Headers(scanner.header_format(at)?),
                Token::Letter(letter, at) => return Err(unknown_letter(letter, at)),
            };
            parts.push(part);
        }
        Ok(Self { parts })
    }

    /// Writes a record.
    ///
    /// # Errors
    /// Whatever the output says.
    pub(crate) fn write(&self, out: &mut impl Write, located: &Located<'_>) -> io::Result<()> {
        let record = located.record;
        for part in &self.parts {
            match part {
                Part::Literal(bytes) => out.write_all(bytes)?,
                Part::Topic => out.write_all(located.topic.as_bytes())?,
                Part::Partition => write!(out, "{}", located.partition)?,
                Part::Offset => write!(out, "{}", located.offset)?,
                Part::Key => out.write_all(record.key.as_deref().unwrap_or_default())?,
                Part::Value => out.write_all(record.value.as_deref().unwrap_or_default())?,
                Part::KeyBytes => write_len(out, record.key.as_deref())?,
                Part::ValueBytes => write_len(out, record.value.as_deref())?,
                Part::HeaderCount => write!(out, "{}", record.headers.len())?,
                Part::Headers(inner) => write_headers(out, inner, record)?,
                Part::CreateTime => match record.timestamp {
                    Some(time) => write!(out, "{time}")?,
                    None => out.write_all(b"-1")?,
                },
                Part::Number => write!(out, "{}", located.number)?,
            }
        }
        Ok(())
    }
}

fn write_len(out: &mut impl Write, bytes: Option<&[u8]>) -> io::Result<()> {
    match bytes {
        Some(bytes) => write!(out, "{}", bytes.len()),
        None => out.write_all(b"-1"),
    }
}

fn write_headers(out: &mut impl Write, inner: &[HeaderPart], record: &Record) -> io::Result<()> {
    for header in &record.headers {
        for part in inner {
            match part {
                HeaderPart::Literal(bytes) => out.write_all(bytes)?,
                HeaderPart::Key => out.write_all(header.key.as_bytes())?,
                HeaderPart::Value => out.write_all(header.value.as_deref().unwrap_or_default())?,
            }
        }
    }
    Ok(())
}

fn unknown_letter(letter: char, at: usize) -> FormatError {
    FormatError {
        at,
        what: format!("'%{letter}' is not known; use %t %p %o %k %v %K %V %H %h{{...}} %d %i %%"),
    }
}

enum Token {
    /// A byte that stands for itself.
    Byte(u8),
    /// A letter behind `%`, and where the `%` stands.
    Letter(char, usize),
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl Scanner<'_> {
    /// The next token; `None` at the end, or behind `until`.
    fn next(&mut self, until: Option<u8>) -> Result<Option<Token>, FormatError> {
        let start = self.at;
        let Some(byte) = self.byte() else {
            return Ok(None);
        };
        match byte {
            byte if Some(byte) == until => Ok(None),
            b'%' => match self.rest().chars().next() {
                None => Err(Self::error(
                    start,
                    "a '%' at the end; write '%%' for a percent sign",
                )),
                Some('%') => {
                    self.at += 1;
                    Ok(Some(Token::Byte(b'%')))
                }
                Some(letter) => {
                    self.at += letter.len_utf8();
                    Ok(Some(Token::Letter(letter, start)))
                }
            },
            b'\\' => self.escape(start).map(Some),
            byte => Ok(Some(Token::Byte(byte))),
        }
    }

    /// What stands behind a backslash.
    fn escape(&mut self, start: usize) -> Result<Token, FormatError> {
        let byte = match self.byte() {
            Some(b't') => b'\t',
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b'0') => 0,
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits = self.text.get(self.at..self.at + 2).unwrap_or_default();
                let byte = u8::from_str_radix(digits, 16)
                    .ok()
                    // A sign would be accepted by the parser but is no digit.
                    .filter(|_| digits.bytes().all(|b| b.is_ascii_hexdigit()))
                    .ok_or_else(|| Self::error(start, "'\\x' needs two hexadecimal digits"))?;
                self.at += 2;
                byte
            }
            _ => {
                let what = "use \\t \\n \\r \\0 \\xNN or \\\\ for a backslash";
                return Err(Self::error(start, what));
            }
        };
        Ok(Token::Byte(byte))
    }

    /// The braces behind `%h`.
    fn header_format(&mut self, at: usize) -> Result<Vec<HeaderPart>, FormatError> {
        if self.byte() != Some(b'{') {
            return Err(Self::error(
                at,
                "'%h' needs a format for each header: %h{%k=%v, }",
            ));
        }
        let mut parts = Vec::new();
        while let Some(token) = self.next(Some(b'}'))? {
            match token {
                Token::Byte(byte) => match parts.last_mut() {
                    Some(HeaderPart::Literal(bytes)) => bytes.push(byte),
                    _ => parts.push(HeaderPart::Literal(vec![byte])),
                },
                Token::Letter('k', _) => parts.push(HeaderPart::Key),
                Token::Letter('v', _) => parts.push(HeaderPart::Value),
                Token::Letter(letter, at) => {
                    let what = format!("'%{letter}' is not known inside of %h{{...}}; use %k and %v");
                    return Err(FormatError { at, what });
                }
            }
        }
        if self.text.as_bytes().get(self.at - 1) == Some(&b'}') {
            Ok(parts)
        } else {
            Err(Self::error(at, "'%h{' is never closed"))
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = self.text.as_bytes().get(self.at).copied();
        self.at += usize::from(byte.is_some());
        byte
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn error(at: usize, what: &str) -> FormatError {
        FormatError {
            at,
            what: what.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::model::Timestamp;
    use crate::record::Header;

    fn record() -> Record {
        Record {
            key: Some(Bytes::from_static(b"o-1")),
            value: Some(Bytes::from_static(b"{\"x\":1}")),
            headers: vec![
                Header {
                    key: "a".to_owned(),
                    value: Some(Bytes::from_static(b"1")),
                },
                Header {
                    key: "b".to_owned(),
                    value: None,
                },
            ],
            timestamp: Some(Timestamp(1_000)),
        }
    }

    fn written(format: &str, record: &Record) -> Vec<u8> {
        let located = Located {
            topic: "orders",
            partition: PartitionId(2),
            offset: Offset::new(41).unwrap(),
            record,
            number: 7,
        };
        let mut out = Vec::new();
        RecordFormat::parse(format)
            .unwrap()
            .write(&mut out, &located)
            .unwrap();
        out
    }

    #[test]
    fn letters_and_escapes() {
        for (format, expected) in [
            ("%v\\n", "{\"x\":1}\n"),
            ("%t/%p @%o #%i", "orders/2 @41 #7"),
            ("%k(%K)=%v(%V)", "o-1(3)={\"x\":1}(7)"),
            ("%d%%\\t\\\\", "1000%\t\\"),
            ("%H:%h{%k=%v, }|", "2:a=1, b=, |"),
            ("%h{\\x7d%%}", "}%}%"),
            ("caf\u{e9} %k", "caf\u{e9} o-1"),
            ("", ""),
        ] {
            assert_eq!(written(format, &record()), expected.as_bytes(), "{format}");
        }
        assert_eq!(written("\\xff\\x00\\0", &record()), [0xff, 0, 0]);
    }

    #[test]
    fn null_prints_nothing_and_has_length_minus_one() {
        assert_eq!(written("[%k|%K|%v|%V|%d]", &Record::default()), b"[|-1||-1|-1]");
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (format, at, part) in [
            ("ab%q", 2, "'%q'"),
            ("100%", 3, "'%%'"),
            ("%v\\q", 2, "backslash"),
            ("\\x4", 0, "two hexadecimal"),
            ("\\x+4", 0, "two hexadecimal"),
            ("%h", 0, "for each header"),
            ("a%h{%k", 1, "never closed"),
            ("%h{%o}", 3, "inside"),
            ("%\u{e9}", 0, "not known"),
        ] {
            let error = RecordFormat::parse(format).unwrap_err();
            assert_eq!(error.at, at, "{format}: {error}");
            assert!(error.what.contains(part), "{format}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            if let Ok(format) = RecordFormat::parse(&text) {
                let record = record();
                let located = Located {
                    topic: "t", partition: PartitionId(0), offset: Offset::ZERO, record: &record, number: 1,
                };
                format.write(&mut Vec::new(), &located).unwrap();
            }
        }

        #[test]
        fn text_without_signs_comes_out_as_it_is(text in "[^%\\\\]{0,40}") {
            prop_assert_eq!(written(&text, &record()), text.as_bytes());
        }
    }
}
