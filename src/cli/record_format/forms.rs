//! How bytes, numbers and times are written, and read again.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::cli::record_time;
use crate::model::Timestamp;

/// How bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As they are; null as nothing.
    Plain,
    Hex,
    Base64,
    /// A JSON string, `null`, or an object with base64: nothing is lost.
    Json,
}

/// Bytes of a fixed number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    W8 = 1,
    W16 = 2,
    W32 = 4,
    W64 = 8,
}

/// How a number is written. In a fixed width, numbers are unsigned, except that all bits set are -1: a null, or a time that
/// is not there. So a length of 40,000 fits into 16 bits. 64 bits hold every number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberForm {
    Decimal,
    Hex(Width),
    Big(Width),
    Little(Width),
}

/// How a time is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TimeForm {
    Millis(NumberForm),
    Rfc3339,
    Strftime(String),
}

impl Encoding {
    pub(super) fn write(self, out: &mut Vec<u8>, bytes: Option<&[u8]>) {
        let plain = bytes.unwrap_or_default();
        match self {
            Self::Plain => out.extend_from_slice(plain),
            Self::Hex => plain.iter().for_each(|byte| {
                out.push(hex_digit(byte >> 4));
                out.push(hex_digit(byte & 0xf));
            }),
            Self::Base64 => out.extend_from_slice(BASE64.encode(plain).as_bytes()),
            Self::Json => out.extend_from_slice(json_of(bytes).as_bytes()),
        }
    }

    /// What stands for bytes, without JSON, which is read by [`json_prefix`].
    pub(super) fn read(self, text: Bytes) -> Result<Bytes, &'static str> {
        match self {
            Self::Plain | Self::Json => Ok(text),
            Self::Hex => from_hex(&text).ok_or("these are not hexadecimal digits in pairs"),
            Self::Base64 => BASE64
                .decode(&text)
                .map(Bytes::from)
                .map_err(|_| "this is not base64 with padding"),
        }
    }

    /// Length of what stands for so many bytes; of JSON nobody knows.
    pub(super) const fn written_bytes(self, bytes: usize) -> usize {
        match self {
            Self::Plain | Self::Json => bytes,
            Self::Hex => bytes.saturating_mul(2),
            Self::Base64 => bytes.div_ceil(3).saturating_mul(4),
        }
    }

    /// Whether this byte may be part of what is written.
    pub(super) const fn may_contain(self, byte: u8) -> bool {
        match self {
            Self::Plain | Self::Json => true,
            Self::Hex => byte.is_ascii_hexdigit(),
            Self::Base64 => byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='),
        }
    }
}

const fn hex_digit(value: u8) -> u8 {
    match value {
        0..10 => b'0' + value,
        _ => b'a' - 10 + value,
    }
}

fn from_hex(text: &[u8]) -> Option<Bytes> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, []) = text.as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Binary {
    base64: String,
}

fn json_of(bytes: Option<&[u8]>) -> String {
    match bytes.map(|bytes| (bytes, str::from_utf8(bytes))) {
        None => "null".to_owned(),
        Some((_, Ok(text))) => serde_json::Value::from(text).to_string(),
        Some((bytes, Err(_))) => format!("{{\"base64\":\"{}\"}}", BASE64.encode(bytes)),
    }
}

/// What was read at the front.
pub(super) enum Prefix<T> {
    /// This, from so many bytes.
    Whole(T, usize),
    /// More input may make it whole.
    Unfinished,
    /// Nothing will.
    Wrong,
}

/// Reads what [`Encoding::Json`] writes from the front of a text.
pub(super) fn json_prefix(text: &[u8]) -> Prefix<Option<Bytes>> {
    const NULL: &[u8] = b"null";
    match text.first() {
        None => Prefix::Unfinished,
        Some(b'n') if text.starts_with(NULL) => Prefix::Whole(None, NULL.len()),
        Some(b'n') if NULL.starts_with(text) => Prefix::Unfinished,
        Some(b'"') => match first_of::<String>(text) {
            Prefix::Whole(text, used) => Prefix::Whole(Some(Bytes::from(text)), used),
            Prefix::Unfinished => Prefix::Unfinished,
            Prefix::Wrong => Prefix::Wrong,
        },
        Some(b'{') => match first_of::<Binary>(text) {
            Prefix::Whole(binary, used) => match BASE64.decode(binary.base64) {
                Ok(bytes) => Prefix::Whole(Some(bytes.into()), used),
                Err(_) => Prefix::Wrong,
            },
            Prefix::Unfinished => Prefix::Unfinished,
            Prefix::Wrong => Prefix::Wrong,
        },
        Some(_) => Prefix::Wrong,
    }
}

fn first_of<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Prefix<T> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<T>();
    match values.next() {
        Some(Ok(value)) => Prefix::Whole(value, values.byte_offset()),
        Some(Err(error)) if !error.is_eof() => Prefix::Wrong,
        Some(Err(_)) | None => Prefix::Unfinished,
    }
}

impl Width {
    const fn bytes(self) -> usize {
        self as usize
    }

    /// All bits set.
    const fn max(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

impl NumberForm {
    /// Writes a number; false if it does not fit, and then nothing was written.
    #[must_use]
    pub(super) fn write(self, out: &mut Vec<u8>, number: i64) -> bool {
        let width = match self {
            Self::Decimal => {
                out.extend_from_slice(number.to_string().as_bytes());
                return true;
            }
            Self::Hex(width) | Self::Big(width) | Self::Little(width) => width,
        };
        // All bits set stand for -1 alone.
        let fits = width == Width::W64
            || number == -1
            || u64::try_from(number).is_ok_and(|number| number < width.max());
        if !fits {
            return false;
        }
        let bits = number.cast_unsigned() & width.max();
        let bytes = width.bytes();
        match self {
            Self::Decimal => {}
            Self::Hex(_) => out.extend_from_slice(format!("{bits:0digits$x}", digits = 2 * bytes).as_bytes()),
            Self::Big(_) => out.extend_from_slice(&bits.to_be_bytes()[8 - bytes..]),
            Self::Little(_) => out.extend_from_slice(&bits.to_le_bytes()[..bytes]),
        }
        true
    }

    /// Length of what is written, where it is always the same.
    pub(super) const fn fixed_bytes(self) -> Option<usize> {
        match self {
            Self::Decimal => None,
            Self::Hex(width) => Some(2 * width.bytes()),
            Self::Big(width) | Self::Little(width) => Some(width.bytes()),
        }
    }

    /// Reads what was written, all of it.
    pub(super) fn read(self, text: &[u8]) -> Option<i64> {
        let (width, bits) = match self {
            Self::Decimal => return decimal(text),
            Self::Hex(width) => {
                let text = str::from_utf8(text).ok()?;
                let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
                (
                    width,
                    digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()?,
                )
            }
            Self::Big(width) => (
                width,
                text.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte)),
            ),
            Self::Little(width) => {
                let bits = text
                    .iter()
                    .rev()
                    .fold(0, |bits, byte| bits << 8 | u64::from(*byte));
                (width, bits)
            }
        };
        Some(if bits == width.max() {
            -1
        } else {
            bits.cast_signed()
        })
    }
}

/// Whether this byte may be part of a decimal number.
pub(super) const fn is_decimal(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'-'
}

fn decimal(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    // The parser behind takes a plus sign, which nobody writes.
    let shaped = digits.iter().all(u8::is_ascii_digit);
    shaped.then(|| str::from_utf8(text).ok()?.parse().ok()).flatten()
}

impl TimeForm {
    /// A form of strftime, if it is one.
    pub(super) fn strftime(pattern: &str) -> Result<Self, String> {
        match strftime(pattern, Timestamp(0)) {
            Ok(_) => Ok(Self::Strftime(pattern.to_owned())),
            Err(error) => Err(error),
        }
    }

    /// Writes a time, -1 where there is none; false if it does not fit.
    #[must_use]
    pub(super) fn write(&self, out: &mut Vec<u8>, time: Option<Timestamp>) -> bool {
        let text = match (self, time) {
            (Self::Millis(form), time) => return form.write(out, time.map_or(-1, |time| time.0)),
            (_, None) => "-1".to_owned(),
            (Self::Rfc3339, Some(time)) => record_time::text(time),
            // Times beyond the calendar are written as ms.
            (Self::Strftime(pattern), Some(time)) => {
                strftime(pattern, time).unwrap_or_else(|_| time.0.to_string())
            }
        };
        out.extend_from_slice(text.as_bytes());
        true
    }

    /// Reads what was written, to the precision that it was written with.
    pub(super) fn read(&self, text: &[u8]) -> Option<Timestamp> {
        let as_text = str::from_utf8(text).ok();
        match self {
            Self::Millis(form) => form.read(text).map(Timestamp),
            Self::Rfc3339 => record_time::parse(as_text?),
            Self::Strftime(pattern) => strptime(pattern, as_text?).or_else(|| decimal(text).map(Timestamp)),
        }
    }

    /// Whether this byte may be part of what is written.
    pub(super) const fn may_contain(&self, byte: u8) -> bool {
        match self {
            Self::Millis(_) => is_decimal(byte),
            Self::Rfc3339 => is_decimal(byte) || matches!(byte, b'T' | b'Z' | b':' | b'.' | b'+'),
            Self::Strftime(_) => true,
        }
    }

    /// Times as they would be written, for those who want to know what cannot end them.
    pub(super) fn samples(&self) -> Vec<Vec<u8>> {
        // 2001-02-03T04:05:06.789Z and 2025-12-31T22:59:58.123Z.
        let times = [981_173_106_789, 1_767_221_998_123].map(Timestamp);
        let written = times.into_iter().map(|time| {
            let mut out = Vec::new();
            self.write(&mut out, Some(time)).then_some(out)
        });
        written.flatten().collect()
    }
}

fn strftime(pattern: &str, time: Timestamp) -> Result<String, String> {
    let time = jiff::Timestamp::from_millisecond(time.0).map_err(|error| error.to_string())?;
    strtime::format(pattern, &time.to_zoned_datetime(TimeZone::UTC)).map_err(|error| error.to_string())
}

fn strptime(pattern: &str, text: &str) -> Option<Timestamp> {
    let parts = strtime::parse(pattern, text).ok()?;
    if let Ok(time) = parts.to_timestamp() {
        return Some(Timestamp(time.as_millisecond()));
    }
    // Without an offset it is UTC, as it was written; without a time of day it is midnight.
    let date_time = match parts.to_datetime() {
        Ok(date_time) => date_time,
        Err(_) => parts.to_date().ok()?.into(),
    };
    let time = date_time.to_zoned_datetime(TimeZone::UTC).ok()?.timestamp();
    Some(Timestamp(time.as_millisecond()))
}
