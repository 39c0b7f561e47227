//! Records as JSON lines: what `consume` prints into a pipe, and `produce -f json` reads.
//!
//! Nothing is lost on the way: a value that is a JSON object or array on one line stands in the line byte by byte; other text
//! is a string, and bytes that are no text are base64 in a field with another name. So what is read from a line is exactly
//! what was written into it. Headers are a list, because their names may repeat and their order counts.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::record_format::{Incoming, Located};
use super::record_time;
use crate::model::{Timestamp, nearest};
use crate::record::{Header, Record};

/// The fields of a line, for `--help`.
pub(crate) const HELP: &str = "JSON lines (-f json): one object per line with topic, partition, offset, timestamp (RFC 3339), key, value, and headers as a list \
of {\"key\": ..., \"value\": ...}. A value that is a JSON object or array on one line stands there as it is, other text as a string, a null \
as null; bytes that are not UTF-8 are base64 in key_base64 or value_base64 instead.";

/// Writes one line.
///
/// # Errors
/// Whatever the output says.
pub(crate) fn write(out: &mut impl Write, located: &Located<'_>) -> io::Result<()> {
    let record = located.record;
    out.write_all(b"{\"topic\":")?;
    serde_json::to_writer(&mut *out, located.topic)?;
    write!(
        out,
        ",\"partition\":{},\"offset\":{},\"timestamp\":",
        located.partition, located.offset
    )?;
    match record.timestamp {
        None => out.write_all(b"null")?,
        Some(time) if record_time::is_in_calendar(time) => write!(out, "\"{}\"", record_time::text(time))?,
        Some(time) => write!(out, "{time}")?,
    }
    out.write_all(b",")?;
    write_bytes(out, "key", record.key.as_deref())?;
    out.write_all(b",")?;
    match record.value.as_deref().filter(|value| can_stand_as_it_is(value)) {
        Some(value) => {
            out.write_all(b"\"value\":")?;
            out.write_all(value)?;
        }
        None => write_bytes(out, "value", record.value.as_deref())?,
    }
    out.write_all(b",\"headers\":[")?;
    for (index, header) in record.headers.iter().enumerate() {
        out.write_all(if index == 0 { b"{\"key\":" } else { b",{\"key\":" })?;
        serde_json::to_writer(&mut *out, &header.key)?;
        out.write_all(b",")?;
        write_bytes(out, "value", header.value.as_deref())?;
        out.write_all(b"}")?;
    }
    out.write_all(b"]}\n")
}

fn write_bytes(out: &mut impl Write, name: &str, bytes: Option<&[u8]>) -> io::Result<()> {
    match bytes.map(|bytes| (bytes, str::from_utf8(bytes))) {
        None => write!(out, "\"{name}\":null"),
        Some((_, Ok(text))) => {
            write!(out, "\"{name}\":")?;
            serde_json::to_writer(out, text).map_err(io::Error::from)
        }
        Some((bytes, Err(_))) => write!(out, "\"{name}_base64\":\"{}\"", BASE64.encode(bytes)),
    }
}

/// An object or an array, without anything around it and without newlines, can be a part of the line. Numbers and strings
/// cannot: a string in the line is text.
fn can_stand_as_it_is(value: &[u8]) -> bool {
    let wrapped = matches!(
        (value.first(), value.last()),
        (Some(b'{'), Some(b'}')) | (Some(b'['), Some(b']'))
    );
    wrapped
        && !value.iter().any(|byte| matches!(byte, b'\n' | b'\r'))
        // The parser passes over strings without looking whether they are text.
        && str::from_utf8(value).is_ok()
        && serde_json::from_slice::<IgnoredAny>(value).is_ok()
}

/// A line that is not a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadLine {
    /// Where, in bytes from 1, if it can be said.
    pub column: Option<usize>,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub hint: String,
}

/// Reads a line. Where the record stood (topic, partition, offset) may be left out, and so may everything but the value.
///
/// # Errors
/// It is no JSON object, or one with other fields.
pub(crate) fn read(line: &[u8]) -> Result<Incoming, BadLine> {
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| bad_json(&error))?;
    let value = match (line.value, line.value_base64) {
        (Some(_), Some(_)) => return Err(both("value")),
        (None, None) => {
            return Err(BadLine {
                column: None,
                what: "there is no 'value'".to_owned(),
                hint: "a tombstone is written as \"value\":null".to_owned(),
            });
        }
        (Some(value), None) => value_of(value)?,
        (None, Some(base64)) => Some(decoded("value_base64", &base64)?),
    };
    let headers = line.headers.unwrap_or_default();
    let headers = headers.0.into_iter().map(HeaderLine::header);
    Ok(Incoming {
        record: Record {
            key: one_of("key", line.key.as_deref(), line.key_base64.as_deref())?,
            value,
            headers: headers.collect::<Result<_, _>>()?,
            timestamp: line.timestamp.map(|time| time.0),
        },
        partition: line.partition,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(default, rename = "topic")]
    _topic: Option<IgnoredAny>,
    partition: Option<u32>,
    #[serde(default, rename = "offset")]
    _offset: Option<IgnoredAny>,
    timestamp: Option<Time>,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key_base64: Option<Cow<'a, str>>,
    // Null and left out are two things here.
    #[serde(default, borrow, deserialize_with = "some")]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    value_base64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    headers: Option<Headers<'a>>,
}

fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A header of a line. A value that is left out is null.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    value: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value_base64: Option<Cow<'a, str>>,
}

impl HeaderLine<'_> {
    fn header(self) -> Result<Header, BadLine> {
        Ok(Header {
            key: self.key.into_owned(),
            value: one_of("value", self.value.as_deref(), self.value_base64.as_deref())?,
        })
    }
}

/// A list of headers, or an object for those who write by hand.
#[derive(Default)]
struct Headers<'a>(Vec<HeaderLine<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Headers<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HeadersVisitor).map(Self)
    }
}

struct HeadersVisitor;

impl<'de> Visitor<'de> for HeadersVisitor {
    type Value = Vec<HeaderLine<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of headers, as in [{\"key\":\"a\",\"value\":\"1\"}]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut headers = Vec::new();
        while let Some(header) = list.next_element()? {
            headers.push(header);
        }
        Ok(headers)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut headers = Vec::new();
        while let Some((key, value)) = object.next_entry::<String, Option<String>>()? {
            headers.push(HeaderLine {
                key: key.into(),
                value: value.map(Cow::from),
                value_base64: None,
            });
        }
        Ok(headers)
    }
}

struct Time(Timestamp);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Millis(i64),
            Text(String),
        }
        let expected = "a timestamp is text in RFC 3339, or a number of ms since 1970";
        match Written::deserialize(deserializer).map_err(|_| D::Error::custom(expected))? {
            Written::Millis(ms) => Ok(Self(Timestamp(ms))),
            Written::Text(text) => match record_time::parse(&text) {
                Some(time) => Ok(Self(time)),
                None => Err(D::Error::custom(format!("{text:?}: {expected}"))),
            },
        }
    }
}

/// A string is its text, null is null, anything else is what stands there.
fn value_of(raw: &RawValue) -> Result<Option<Bytes>, BadLine> {
    let raw = raw.get();
    if raw == "null" {
        return Ok(None);
    }
    if raw.starts_with('"') {
        let text: String = serde_json::from_str(raw).map_err(|error| BadLine {
            column: None,
            ..bad_json(&error)
        })?;
        return Ok(Some(text.into()));
    }
    Ok(Some(Bytes::copy_from_slice(raw.as_bytes())))
}

fn one_of(name: &str, text: Option<&str>, base64: Option<&str>) -> Result<Option<Bytes>, BadLine> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(both(name)),
        (Some(text), None) => Ok(Some(Bytes::copy_from_slice(text.as_bytes()))),
        (None, Some(base64)) => decoded(&format!("{name}_base64"), base64).map(Some),
        (None, None) => Ok(None),
    }
}

fn decoded(name: &str, base64: &str) -> Result<Bytes, BadLine> {
    BASE64.decode(base64).map(Bytes::from).map_err(|error| BadLine {
        column: None,
        what: format!("'{name}' is not base64: {error}"),
        hint: "the standard alphabet with padding is read, as in \"/wA=\"".to_owned(),
    })
}

fn both(name: &str) -> BadLine {
    BadLine {
        column: None,
        what: format!("both '{name}' and '{name}_base64' are there"),
        hint: "write one of them".to_owned(),
    }
}

fn bad_json(error: &serde_json::Error) -> BadLine {
    const FIELDS: [&str; 9] = [
        "topic",
        "partition",
        "offset",
        "timestamp",
        "key",
        "key_base64",
        "value",
        "value_base64",
        "headers",
    ];
    let text = error.to_string();
    // The place is told by whoever knows the line.
    let what = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(what, _)| what);
    let unknown = what
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split_once('`'));
    let (what, hint) = match unknown {
        Some((name, _)) => {
            let hint = match nearest(name, FIELDS) {
                Some(nearest) => format!("did you mean '{nearest}'?"),
                None => format!(
                    "take it out, as with jq -c 'del(.{name})'; known are {}",
                    FIELDS.join(", ")
                ),
            };
            (format!("there is no field '{name}'"), hint)
        }
        None => (
            what.to_owned(),
            "a line is one object, as 'naru consume -f json' prints it; lines as values need no -f"
                .to_owned(),
        ),
    };
    BadLine {
        column: Some(error.column()),
        what,
        hint,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Offset, PartitionId};

    fn line_of(record: &Record) -> String {
        let mut out = Vec::new();
        let located = Located {
            topic: "orders",
            partition: PartitionId(2),
            offset: Offset::new(7).unwrap(),
            record,
            number: 1,
        };
        write(&mut out, &located).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn with_value(value: &'static [u8]) -> Record {
        Record {
            value: Some(Bytes::from_static(value)),
            timestamp: Some(Timestamp(0)),
            ..Record::default()
        }
    }

    #[test]
    fn bytes_that_are_no_text_become_base64_and_null_stays_null() {
        let record = Record {
            key: Some(Bytes::from_static(b"o-1")),
            headers: vec![Header {
                key: "trace".to_owned(),
                value: Some(Bytes::from_static(b"ab12")),
            }],
            ..with_value(b"\xff\x00")
        };
        assert_eq!(
            line_of(&record),
            "{\"topic\":\"orders\",\"partition\":2,\"offset\":7,\"timestamp\":\"1970-01-01T00:00:00.000Z\",\"key\":\"o-1\",\
             \"value_base64\":\"/wA=\",\"headers\":[{\"key\":\"trace\",\"value\":\"ab12\"}]}\n"
        );
        let json: Value = serde_json::from_str(&line_of(&Record::default())).unwrap();
        assert_eq!((&json["value"], &json["timestamp"]), (&Value::Null, &Value::Null));
        assert!(json.as_object().unwrap().contains_key("key"));
    }

    #[test]
    fn objects_and_lists_stand_in_the_line_as_they_are() {
        for (value, expected) in [
            (&b"{\"id\": 1.50, \"id\":2}"[..], "{\"id\": 1.50, \"id\":2}"),
            (b"[1, 2]", "[1, 2]"),
            (b"12", "\"12\""),
            (b"\"x\"", "\"\\\"x\\\"\""),
            (b"null", "\"null\""),
            (b"", "\"\""),
            (b"{}x", "\"{}x\""),
            (b"{,}", "\"{,}\""),
            (b"{\n}", "\"{\\n}\""),
            (b" {}", "\" {}\""),
        ] {
            let line = line_of(&with_value(value));
            assert!(
                line.contains(&format!("\"value\":{expected},\"headers\"")),
                "{line}"
            );
            assert_eq!(read(line.as_bytes()).unwrap().record, with_value(value), "{line}");
        }
    }

    #[test]
    fn lines_written_by_hand_need_a_value_alone() {
        let read = |line: Value| read(line.to_string().as_bytes()).unwrap();
        let alone = read(json!({"value": "x"}));
        assert_eq!(alone.record.value.as_deref(), Some(&b"x"[..]));
        assert_eq!((alone.record.key, alone.record.timestamp), (None, None));
        let more =
            read(json!({"value": 5, "headers": {"a": "1", "b": null}, "timestamp": 12, "partition": 3}));
        assert_eq!(more.record.value.as_deref(), Some(&b"5"[..]));
        assert_eq!(more.record.headers[1].value, None);
        assert_eq!(
            (more.record.timestamp, more.partition),
            (Some(Timestamp(12)), Some(3))
        );
    }

    #[test]
    fn bad_lines_are_told_with_their_column_and_a_way_out() {
        for (line, column, what, hint) in [
            (
                "{\"vaule\":1}",
                Some(8),
                "no field 'vaule'",
                "did you mean 'value'?",
            ),
            (
                "{\"enriched\":1}",
                Some(11),
                "no field 'enriched'",
                "del(.enriched)",
            ),
            ("hello", Some(1), "expected value", "need no -f"),
            ("[]", Some(2), "invalid length", "one object"),
            ("{\"key\":\"a\"}", None, "no 'value'", "\"value\":null"),
            (
                "{\"value\":1,\"value_base64\":\"\"}",
                None,
                "both 'value'",
                "one of them",
            ),
            ("{\"value_base64\":\"/\"}", None, "not base64", "padding"),
            (
                "{\"value\":1,\"value\":2}",
                Some(18),
                "duplicate field `value`",
                "",
            ),
            (
                "{\"value\":1,\"key\":7}",
                Some(18),
                "invalid type: integer `7`",
                "",
            ),
            (
                "{\"value\":1,\"timestamp\":\"soon\"}",
                Some(30),
                "\"soon\": a timestamp is",
                "",
            ),
            ("{\"value\":1", Some(10), "EOF while parsing", ""),
            ("{\"value\":1} {}", Some(13), "trailing characters", ""),
            (
                "{\"value\":1,\"headers\":[{\"kee\":\"a\"}]}",
                Some(28),
                "no field 'kee'",
                "'key'",
            ),
        ] {
            let bad = read(line.as_bytes()).unwrap_err();
            assert!(
                bad.what.contains(what) && bad.hint.contains(hint),
                "{line}: {bad:?}"
            );
            assert_eq!(bad.column, column, "{line}: {bad:?}");
        }
    }

    fn any_bytes() -> impl Strategy<Value = Option<Bytes>> {
        let bytes = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..12),
            "\\PC{0,8}".prop_map(String::into_bytes),
            "[\\[{][\\]{}:,\" \\r\\n0-9\\\\u]{0,9}[\\]}]".prop_map(String::into_bytes),
        ];
        proptest::option::of(bytes.prop_map(Bytes::from))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_exactly(
            key in any_bytes(),
            value in any_bytes(),
            headers in proptest::collection::vec((".{0,5}", any_bytes()), 0..4),
            time in proptest::option::of(prop_oneof![any::<i64>(), 0_i64..4_000_000_000_000]),
        ) {
            let headers = headers.into_iter().map(|(key, value)| Header { key, value }).collect();
            let record = Record { key, value, headers, timestamp: time.map(Timestamp) };
            let line = line_of(&record);
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(serde_json::from_str::<IgnoredAny>(&line).is_ok());
            let incoming = read(line.as_bytes()).unwrap();
            prop_assert_eq!(incoming, Incoming { record, partition: Some(2) });
        }
    }
}
