//! Records for people: two lines each.

use std::io::{self, Write};

use super::output::bytes_text;
use super::record_format::Located;
use crate::telemetry::rfc3339_millis;

/// Where, when and which on one line, the value on the next. Control characters are shown, not sent: a record must not be
/// able to write to somebody's terminal.
///
/// # Errors
/// Whatever the output says.
pub(crate) fn write_readable(out: &mut impl Write, located: &Located<'_>, colours: bool) -> io::Result<()> {
    let record = located.record;
    let (bright, plain) = if colours {
        ("\u{1b}[1m", "\u{1b}[0m")
    } else {
        ("", "")
    };
    write!(
        out,
        "{bright}{}/{} @{}{plain}",
        located.topic, located.partition, located.offset
    )?;
    if let Some(time) = record.timestamp {
        write!(out, "  {}", rfc3339_millis(time).replace('T', " "))?;
    }
    if let Some(key) = &record.key {
        write!(out, "  key={}", shown(key))?;
    }
    let size = record.value.as_ref().map_or(0, |value| value.len());
    write!(out, "  {}", bytes_text(u64::try_from(size).unwrap_or(u64::MAX)))?;
    for header in &record.headers {
        let value = header.value.as_deref().map_or("null".to_owned(), shown);
        write!(out, "  {}={value}", shown(header.key.as_bytes()))?;
    }
    let value = record.value.as_deref().map_or("null".to_owned(), shown);
    writeln!(out, "\n  {value}")
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control() && c != '\t';
            let whole = (!escaped).then_some(c);
            let parts = escaped.then(|| c.escape_default());
            whole.into_iter().chain(parts.into_iter().flatten())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::{Offset, PartitionId, Timestamp};
    use crate::record::{Header, Record};

    fn record() -> Record {
        Record {
            key: Some(Bytes::from_static(b"o-1")),
            value: Some(Bytes::from_static(b"\xff\x00")),
            headers: vec![Header {
                key: "trace".to_owned(),
                value: Some(Bytes::from_static(b"ab12")),
            }],
            timestamp: Some(Timestamp(0)),
        }
    }

    fn with<'a>(record: &'a Record) -> Located<'a> {
        Located {
            topic: "orders",
            partition: PartitionId(2),
            offset: Offset::new(7).unwrap(),
            record,
            number: 1,
        }
    }

    #[test]
    fn a_record_cannot_write_to_the_terminal() {
        let mut record = record();
        record.value = Some(Bytes::from_static(b"a\x1b[31m\x07b"));
        let mut out = Vec::new();
        write_readable(&mut out, &with(&record), false).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "orders/2 @7  1970-01-01 00:00:00.000Z  key=o-1  8 B  trace=ab12\n  a\\u{1b}[31m\\u{7}b\n"
        );
    }
}
