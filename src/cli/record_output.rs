//! Records without a format: JSON for programs, two lines for people.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::output::bytes_text;
use super::record_format::Located;
use crate::telemetry::rfc3339_millis;

/// One JSON object and a newline. Text is text; bytes that are no UTF-8 stand in a field `..._base64`.
///
/// # Errors
/// Whatever the output says.
pub(crate) fn write_json(out: &mut impl Write, located: &Located<'_>) -> io::Result<()> {
    let record = located.record;
    let mut object = Map::new();
    object.insert("topic".to_owned(), located.topic.into());
    object.insert("partition".to_owned(), located.partition.0.into());
    object.insert("offset".to_owned(), located.offset.get().into());
    object.insert(
        "timestamp".to_owned(),
        json!(record.timestamp.map(rfc3339_millis)),
    );
    put(&mut object, "key", record.key.as_deref());
    put(&mut object, "value", record.value.as_deref());
    let headers = record.headers.iter().map(|header| {
        let mut pair = Map::new();
        pair.insert("key".to_owned(), header.key.as_str().into());
        put(&mut pair, "value", header.value.as_deref());
        Value::Object(pair)
    });
    object.insert("headers".to_owned(), headers.collect());
    serde_json::to_writer(&mut *out, &object)?;
    out.write_all(b"\n")
}

fn put(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(|bytes| (bytes, str::from_utf8(bytes))) {
        None => object.insert(name.to_owned(), Value::Null),
        Some((_, Ok(text))) => object.insert(name.to_owned(), text.into()),
        Some((bytes, Err(_))) => object.insert(format!("{name}_base64"), BASE64.encode(bytes).into()),
    };
}

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
    fn bytes_that_are_no_text_become_base64_and_null_stays_null() {
        let mut out = Vec::new();
        write_json(&mut out, &with(&record())).unwrap();
        let json: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            json,
            json!({
                "topic": "orders", "partition": 2, "offset": 7, "timestamp": "1970-01-01T00:00:00.000Z",
                "key": "o-1", "value_base64": "/wA=", "headers": [{"key": "trace", "value": "ab12"}],
            })
        );
        let mut out = Vec::new();
        write_json(&mut out, &with(&Record::default())).unwrap();
        let json: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["value"], Value::Null);
        assert!(json.as_object().unwrap().contains_key("key"));
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
