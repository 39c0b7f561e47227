//! Where reading begins and ends, as people write it: `start`, `-10`, `100:200`, `@-15m`, `@2026-11-25:@-1h`.
//!
//! Pure: the clock is an argument of [`Time::resolve`], the broker is asked by whoever has the range.

use std::fmt;
use std::str::FromStr;

use crate::model::{Offset, Timestamp, parse_millis};

/// What is accepted, for help and errors.
pub(crate) const EXPECTED: &str = "expected start, end, N, +N (behind the start), -N (the last N), @TIME, and after a ':' where to end: end, N \
     or @TIME, as in 100:200, :end, @-1h:@-30m";

/// What a time is, for help and errors.
pub(crate) const TIME_EXPECTED: &str = "expected RFC 3339 (2026-11-25T09:30:00Z), a date (2026-11-25, midnight UTC), 10 digits of seconds or 13 of \
     milliseconds since 1970, or a signed duration (-15m, +30s; ms s m h d w)";

/// A point in time, absolute or as seen from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    /// This one.
    At(Timestamp),
    /// So many ms from now; negative: ago.
    FromNow(i64),
}

/// Where to begin, in each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// The first record kept.
    Start,
    /// Behind the last record.
    End,
    /// This offset.
    At(Offset),
    /// So many offsets behind the first record kept.
    AfterStart(u32),
    /// So many offsets before the end.
    BeforeEnd(u32),
    /// The first record that is not older.
    Time(Time),
}

/// Where to end, in each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Nowhere.
    Forever,
    /// At the high watermark that holds when the command starts.
    End,
    /// Before this offset.
    Offset(Offset),
    /// Before the first record that is not older.
    Time(Time),
}

/// What of each partition is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OffsetRange {
    pub(crate) begin: Begin,
    pub(crate) until: Until,
}

impl OffsetRange {
    /// Everything, and what comes.
    pub(crate) const FROM_START: Self = Self {
        begin: Begin::Start,
        until: Until::Forever,
    };
}

impl Time {
    /// The time that is meant when it is `now`. Saturates where the numbers end.
    pub(crate) fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::FromNow(ms) => Timestamp(now.0.saturating_add(ms)),
        }
    }
}

/// Reads where to begin, without an end.
pub(crate) fn parse_begin_alone(text: &str) -> Result<Begin, String> {
    let range: OffsetRange = text.parse()?;
    match range.until {
        Until::Forever => Ok(range.begin),
        _ => Err(format!("{text:?} has an end; only where to begin is asked for")),
    }
}

/// Reads a time with or without the `@` in front.
pub(crate) fn parse_time(text: &str) -> Result<Time, String> {
    let bare = text.strip_prefix('@').unwrap_or(text);
    time(bare).ok_or_else(|| format!("{text:?} is no time: {TIME_EXPECTED}"))
}

fn time(text: &str) -> Option<Time> {
    if let Some(duration) = text.strip_prefix('-') {
        return duration_ms(duration).map(|ms| Time::FromNow(-ms));
    }
    if let Some(duration) = text.strip_prefix('+') {
        return duration_ms(duration).map(Time::FromNow);
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let number: i64 = text.parse().ok()?;
        return match text.len() {
            10 => Some(Time::At(Timestamp(number * 1000))),
            13 => Some(Time::At(Timestamp(number))),
            _ => None,
        };
    }
    if text.len() == "2026-11-25".len() {
        return instant(&format!("{text}T00:00:00Z"));
    }
    instant(text)
}

/// RFC 3339 alone: the parser behind it takes more, and what is taken here is to mean one thing everywhere.
fn instant(text: &str) -> Option<Time> {
    let shaped = text.len() >= "2026-11-25T09:30:00Z".len() && text.as_bytes().get(10) == Some(&b'T');
    let parsed: jiff::Timestamp = shaped.then(|| text.parse().ok()).flatten()?;
    Some(Time::At(Timestamp(parsed.as_millisecond())))
}

/// A duration with a unit; a bare number would be anybody's guess.
fn duration_ms(text: &str) -> Option<i64> {
    let has_unit = text.ends_with(|c: char| c.is_ascii_alphabetic());
    let ms = has_unit.then(|| parse_millis(text)).flatten()?;
    i64::try_from(ms).ok()
}

impl FromStr for OffsetRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Times have colons inside, so every one may be the one that separates; at most one reading makes sense.
        let colons = text.match_indices(':').map(|(at, _)| at);
        let mut readings = colons.filter_map(|at| {
            let (begin, until) = (text.get(..at)?, text.get(at + 1..)?);
            let begin = if begin.is_empty() {
                Begin::Start
            } else {
                parse_begin(begin)?
            };
            let until = parse_until(until, matches!(begin, Begin::Time(_)))?;
            Some(Self { begin, until })
        });
        let whole = parse_begin(text).map(|begin| Self {
            begin,
            until: Until::Forever,
        });
        let range = whole.or_else(|| readings.next());
        let range = range.ok_or_else(|| complaint(text))?;
        match (range.begin, range.until) {
            (Begin::At(first), Until::Offset(end)) if first > end => Err(format!(
                "{text:?} ends before it begins: write the smaller offset first"
            )),
            _ => Ok(range),
        }
    }
}

fn parse_begin(text: &str) -> Option<Begin> {
    match text {
        "start" => return Some(Begin::Start),
        "end" => return Some(Begin::End),
        _ => {}
    }
    if let Some(at) = text.strip_prefix('@') {
        return time(at).map(Begin::Time);
    }
    if let Some(count) = text.strip_prefix('+') {
        return digits(count)?.parse().ok().map(Begin::AfterStart);
    }
    if let Some(count) = text.strip_prefix('-') {
        return digits(count)?.parse().ok().map(Begin::BeforeEnd);
    }
    offset(text).map(Begin::At)
}

/// Behind a time, a time needs no `@`.
fn parse_until(text: &str, behind_time: bool) -> Option<Until> {
    if text == "end" {
        return Some(Until::End);
    }
    if let Some(at) = text.strip_prefix('@') {
        return time(at).map(Until::Time);
    }
    if behind_time {
        return time(text).map(Until::Time);
    }
    offset(text).map(Until::Offset)
}

fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

fn offset(text: &str) -> Option<Offset> {
    digits(text)?.parse().ok().and_then(Offset::new)
}

fn complaint(text: &str) -> String {
    if text.contains('@') {
        format!("{text:?} has no time behind '@': {TIME_EXPECTED}")
    } else {
        EXPECTED.to_owned()
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => f.write_str(&crate::telemetry::rfc3339_millis(*at)),
            Self::FromNow(ms) => write!(f, "{ms:+}ms"),
        }
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.begin {
            Begin::Start => f.write_str("start")?,
            Begin::End => f.write_str("end")?,
            Begin::At(offset) => write!(f, "{offset}")?,
            Begin::AfterStart(count) => write!(f, "+{count}")?,
            Begin::BeforeEnd(count) => write!(f, "-{count}")?,
            Begin::Time(at) => write!(f, "@{at}")?,
        }
        match self.until {
            Until::Forever => Ok(()),
            Until::End => f.write_str(":end"),
            Until::Offset(offset) => write!(f, ":{offset}"),
            Until::Time(at) => write!(f, ":@{at}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> Result<(Begin, Until), String> {
        text.parse::<OffsetRange>()
            .map(|range| (range.begin, range.until))
    }

    fn o(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    const MORNING: Timestamp = Timestamp(1_795_599_000_000);

    #[test]
    fn every_form_of_the_help_is_read() {
        let time = |at| Begin::Time(Time::At(Timestamp(at)));
        let ago = |ms: i64| Time::FromNow(-ms);
        for (text, begin, until) in [
            ("start", Begin::Start, Until::Forever),
            ("end", Begin::End, Until::Forever),
            ("0", Begin::At(o(0)), Until::Forever),
            ("1200", Begin::At(o(1200)), Until::Forever),
            ("+5", Begin::AfterStart(5), Until::Forever),
            ("-10", Begin::BeforeEnd(10), Until::Forever),
            ("100:200", Begin::At(o(100)), Until::Offset(o(200))),
            (":end", Begin::Start, Until::End),
            (":7", Begin::Start, Until::Offset(o(7))),
            ("-10:end", Begin::BeforeEnd(10), Until::End),
            ("start:@-1h", Begin::Start, Until::Time(ago(3_600_000))),
            ("@2026-11-25T09:30:00Z", time(MORNING.0), Until::Forever),
            ("@2026-11-25T10:30:00+01:00", time(MORNING.0), Until::Forever),
            ("@2026-11-25T09:30:00.250Z", time(MORNING.0 + 250), Until::Forever),
            ("@2026-11-25", time(MORNING.0 - 34_200_000), Until::Forever),
            ("@1795599000", time(MORNING.0), Until::Forever),
            ("@1795599000000", time(MORNING.0), Until::Forever),
            ("@-15m", Begin::Time(ago(900_000)), Until::Forever),
            ("@+2s", Begin::Time(Time::FromNow(2000)), Until::Forever),
            (
                "@-1h:-30m",
                Begin::Time(ago(3_600_000)),
                Until::Time(ago(1_800_000)),
            ),
            (
                "@-1h:@-30m",
                Begin::Time(ago(3_600_000)),
                Until::Time(ago(1_800_000)),
            ),
            ("@-1d:end", Begin::Time(ago(86_400_000)), Until::End),
            (
                "@2026-11-25T09:30:00Z:2026-11-25T09:30:01Z",
                time(MORNING.0),
                Until::Time(Time::At(Timestamp(MORNING.0 + 1000))),
            ),
        ] {
            assert_eq!(range(text), Ok((begin, until)), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_what_was_expected() {
        for bad in [
            "",
            ":",
            "begin",
            "1.5",
            "-",
            "+",
            "-1:",
            "1:2:3",
            "0x10",
            "--5",
            " 1",
            "9223372036854775808",
            "+99999999999",
        ] {
            assert_eq!(range(bad), Err(EXPECTED.to_owned()), "{bad}");
        }
        for bad in [
            "@",
            "@soon",
            "@15m",
            "@-15",
            "@-1.5h",
            "@12345",
            "@2026-13-01",
            "@2026-11-25T25:00:00Z",
            "@2026-11-25T09:30:00",
            "@2026-11-25 09:30:00Z",
            "@-1h:100",
            "@-1h:",
            "1:@x",
            "@-99999999999999999999w",
        ] {
            let error = range(bad).unwrap_err();
            assert!(error.contains(TIME_EXPECTED), "{bad}: {error}");
        }
        assert!(range("9:3").unwrap_err().contains("smaller offset first"));
        assert!(parse_time("noon").unwrap_err().starts_with("\"noon\" is no time"));
        assert_eq!(parse_time("@-1s"), parse_time("-1s"));
    }

    #[test]
    fn times_from_now_end_where_numbers_do() {
        assert_eq!(Time::FromNow(-1000).resolve(Timestamp(5000)), Timestamp(4000));
        assert_eq!(Time::FromNow(i64::MAX).resolve(Timestamp(5)), Timestamp(i64::MAX));
        assert_eq!(Time::At(Timestamp(7)).resolve(Timestamp(5)), Timestamp(7));
    }

    fn some_time() -> impl Strategy<Value = Time> {
        prop_oneof![
            // Years 0 to 9999, which RFC 3339 can write.
            (-62_167_219_200_000..253_402_300_800_000_i64).prop_map(|ms| Time::At(Timestamp(ms))),
            any::<i64>()
                .prop_filter("has an opposite", |ms| *ms != i64::MIN)
                .prop_map(Time::FromNow),
        ]
    }

    fn some_range() -> impl Strategy<Value = OffsetRange> {
        let offset = || (0..=i64::MAX).prop_filter_map("not negative", Offset::new);
        let begin = prop_oneof![
            Just(Begin::Start),
            Just(Begin::End),
            offset().prop_map(Begin::At),
            any::<u32>().prop_map(Begin::AfterStart),
            any::<u32>().prop_map(Begin::BeforeEnd),
            some_time().prop_map(Begin::Time),
        ];
        let until = prop_oneof![
            Just(Until::Forever),
            Just(Until::End),
            offset().prop_map(Until::Offset),
            some_time().prop_map(Until::Time),
        ];
        (begin, until)
            .prop_map(|(begin, until)| OffsetRange { begin, until })
            .prop_filter("can be written", |range| match (range.begin, range.until) {
                (Begin::At(first), Until::Offset(end)) => first <= end,
                // Behind a time there is no offset.
                (Begin::Time(_), Until::Offset(_)) => false,
                _ => true,
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(range in some_range()) {
            prop_assert_eq!(range.to_string().parse(), Ok(range), "{}", range);
        }

        #[test]
        fn any_text_is_read_or_refused_but_never_panics(text in "\\PC{0,24}", digits in "[-+@:0-9a-zTZ.]{0,40}") {
            for text in [text, digits] {
                if let Ok(range) = text.parse::<OffsetRange>() {
                    prop_assert_eq!(range.to_string().parse(), Ok(range), "{}", text);
                }
            }
        }
    }
}
