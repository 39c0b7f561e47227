//! Sizes and durations as people write them: plain numbers, or with a unit.

/// Units of sizes and their bytes. Decimal and binary ones differ, as they do on packages of disks.
const SIZES: [(&str, u64); 10] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// Units of durations and their milliseconds. A plain number is milliseconds, as everywhere in Kafka.
const DURATIONS: [(&str, u64); 7] = [
    ("", 1),
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
];

/// A size in bytes: `1048576`, `1MiB`, `1 MB`. `None` if it is no whole number with a known unit, or beyond `u64`.
pub fn parse_bytes(text: &str) -> Option<u64> {
    parse(text, &SIZES)
}

/// A duration in ms: `604800000`, `7d`, `12h`, `30m`, `10s`, `500ms`. `None` as for [`parse_bytes`].
pub fn parse_millis(text: &str) -> Option<u64> {
    parse(text, &DURATIONS)
}

/// A duration in ms with the largest unit that leaves a whole number: `7d`, `90m`, `0ms`.
pub fn show_millis(ms: u64) -> String {
    let whole = |(_, factor): &&(&str, u64)| ms >= *factor && ms.is_multiple_of(*factor);
    // Weeks are read, but nobody expects to see them.
    let known = DURATIONS[1..6].iter().rev().find(whole);
    known.map_or_else(
        || format!("{ms}ms"),
        |(unit, factor)| format!("{}{unit}", ms / factor),
    )
}

/// A size with the largest binary unit that leaves a whole number: `256MiB`, `1500B`, `0B`.
pub fn show_bytes(bytes: u64) -> String {
    let whole = |(_, factor): &&(&str, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    let known = SIZES[1..6].iter().rev().find(whole);
    known.map_or_else(
        || format!("{bytes}B"),
        |(unit, factor)| format!("{}{unit}", bytes / factor),
    )
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("256MiB", 256 << 20),
            ("256 MB", 256_000_000),
            ("1kB", 1000),
            ("16384TiB", 16384 << 40),
        ] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for bad in [
            "",
            "MiB",
            "-1",
            "1.5GiB",
            "1e6",
            "1mib",
            "16777216TiB",
            "1 MiB x",
            "+1",
        ] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_as_they_are_read() {
        for (bytes, shown) in [(0, "0B"), (1500, "1500B"), (64 << 10, "64KiB"), (3 << 30, "3GiB")] {
            assert_eq!(show_bytes(bytes), shown);
            assert_eq!(parse_bytes(shown), Some(bytes));
        }
    }

    #[test]
    fn durations_are_read_and_shown() {
        for (text, ms, shown) in [
            ("0", 0, "0ms"),
            ("500", 500, "500ms"),
            ("10s", 10_000, "10s"),
            ("90m", 5_400_000, "90m"),
            ("12h", 43_200_000, "12h"),
            ("7d", 604_800_000, "7d"),
            ("1w", 604_800_000, "7d"),
            ("1001", 1001, "1001ms"),
        ] {
            assert_eq!(parse_millis(text), Some(ms), "{text}");
            assert_eq!(show_millis(ms), shown);
        }
        for bad in [
            "",
            "d",
            "-1",
            "1.5h",
            "7 days",
            "99999999999999999999",
            "999999999999999w",
        ] {
            assert_eq!(parse_millis(bad), None, "{bad}");
        }
    }
}
