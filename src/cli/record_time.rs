//! Times of records as text, in RFC 3339, the same wherever records are written and read.

use crate::model::Timestamp;
use crate::telemetry::rfc3339_millis;

/// First ms of the year 0, and the end of what the calendar behind knows, a day before the year 10,000: in between the text
/// has four digits for the year.
const YEARS: std::ops::Range<i64> = -62_167_219_200_000..253_402_207_200_000;

/// Whether RFC 3339 knows this time.
pub(crate) fn is_in_calendar(time: Timestamp) -> bool {
    YEARS.contains(&time.0)
}

/// `2026-11-25T09:30:00.000Z`; ms since 1970 where RFC 3339 has no year for it.
pub(crate) fn text(time: Timestamp) -> String {
    if is_in_calendar(time) {
        rfc3339_millis(time)
    } else {
        time.to_string()
    }
}

/// Reads what [`text`] writes, and any other RFC 3339, to the ms.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    let shaped = text.len() >= "2026-11-25T09:30:00Z".len() && text.as_bytes().get(10) == Some(&b'T');
    if shaped {
        // The parser behind takes more, such as names of time zones in brackets.
        let time: jiff::Timestamp = text.parse().ok().filter(|_| !text.contains('['))?;
        return Some(Timestamp(time.as_millisecond()));
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let number = digits.bytes().all(|byte| byte.is_ascii_digit());
    number.then(|| text.parse().ok()).flatten().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_comes_back_to_the_ms() {
        for ms in [
            0,
            -1,
            1_764_063_000_123,
            YEARS.start,
            YEARS.start - 1,
            YEARS.end - 1,
            YEARS.end,
            i64::MIN,
            i64::MAX,
        ] {
            let text = text(Timestamp(ms));
            assert_eq!(parse(&text), Some(Timestamp(ms)), "{text}");
        }
        assert_eq!(text(Timestamp(YEARS.start)), "0000-01-01T00:00:00.000Z");
        assert_eq!(text(Timestamp(YEARS.end - 1)), "9999-12-30T21:59:59.999Z");
    }

    #[test]
    fn offsets_count_and_half_times_are_refused() {
        assert_eq!(parse("1970-01-01T01:00:00+01:00"), Some(Timestamp(0)));
        for text in [
            "",
            "-",
            "soon",
            "2026-11-25",
            "2026-11-25T09:30:00",
            "12:00",
            "+5",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
