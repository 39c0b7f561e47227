//! The letters of the language, their modifiers and escapes: one table, which the parser looks things up in and help is made of.

use std::fmt::Write as _;

use super::forms::{Encoding, NumberForm, Width};

/// What a letter stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Bytes.
    Text(Text),
    /// A number.
    Number(Number),
    /// The create time.
    Time,
    /// The inner format, once per header.
    Headers,
}

/// Bytes of a record; in the braces of `%h`, of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    Topic,
    Key,
    Value,
}

/// A number about a record; the lengths also about a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    Partition,
    Offset,
    KeyBytes,
    ValueBytes,
    HeaderCount,
    Running,
}

impl Text {
    /// The number that is the length of this.
    pub(super) const fn length(self) -> Option<Number> {
        match self {
            Self::Topic => None,
            Self::Key => Some(Number::KeyBytes),
            Self::Value => Some(Number::ValueBytes),
        }
    }
}

/// A letter behind `%`.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) letter: char,
    pub(super) meaning: Meaning,
    /// It may stand in the braces of `%h`.
    pub(super) in_headers: bool,
    /// What `consume` writes.
    written: &'static str,
    /// What `produce` does with what it reads.
    read: &'static str,
}

const fn letter(
    letter: char,
    meaning: Meaning,
    in_headers: bool,
    written: &'static str,
    read: &'static str,
) -> Letter {
    Letter {
        letter,
        meaning,
        in_headers,
        written,
        read,
    }
}

const LEFT_ASIDE: &str = "read and left aside";

/// All letters.
pub(super) const LETTERS: &[Letter] = &[
    letter('k', Meaning::Text(Text::Key), true, "key", "key"),
    letter('v', Meaning::Text(Text::Value), true, "value", "value"),
    letter(
        'K',
        Meaning::Number(Number::KeyBytes),
        true,
        "length of the key in bytes, -1 if it is null",
        "so many bytes are the key, which stands behind",
    ),
    letter(
        'V',
        Meaning::Number(Number::ValueBytes),
        true,
        "length of the value in bytes, -1 if it is null",
        "so many bytes are the value, which stands behind",
    ),
    letter(
        'H',
        Meaning::Number(Number::HeaderCount),
        false,
        "number of headers",
        "so many headers stand in %h, behind",
    ),
    letter(
        'h',
        Meaning::Headers,
        false,
        "each header, as in %h{%k=%v, }; inside %k %v %K %V are of the header",
        "headers, as many as %H said",
    ),
    letter(
        'd',
        Meaning::Time,
        false,
        "create time, in ms since 1970",
        "create time",
    ),
    letter('t', Meaning::Text(Text::Topic), false, "topic", LEFT_ASIDE),
    letter(
        'p',
        Meaning::Number(Number::Partition),
        false,
        "partition",
        "partition that the record goes to",
    ),
    letter('o', Meaning::Number(Number::Offset), false, "offset", LEFT_ASIDE),
    letter(
        'i',
        Meaning::Number(Number::Running),
        false,
        "running number, from 1",
        LEFT_ASIDE,
    ),
];

/// What may stand in braces behind a letter for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextModifier {
    Encoded(Encoding),
    Length,
}

/// Modifiers of bytes.
pub(super) const TEXT_MODIFIERS: &[(&str, TextModifier, &str)] = &[
    ("hex", TextModifier::Encoded(Encoding::Hex), "hexadecimal digits"),
    (
        "base64",
        TextModifier::Encoded(Encoding::Base64),
        "base64 with padding",
    ),
    (
        "json",
        TextModifier::Encoded(Encoding::Json),
        "a JSON string; null if null, {\"base64\":\"...\"} if not UTF-8",
    ),
    ("len", TextModifier::Length, "the length, as %K and %V"),
];

/// Modifiers of numbers, lengths included; also of the time, in ms.
pub(super) const NUMBER_MODIFIERS: &[(&str, NumberForm, &str)] = &[
    ("ascii", NumberForm::Decimal, DECIMAL),
    ("hex8", NumberForm::Hex(Width::W8), HEX),
    ("hex16", NumberForm::Hex(Width::W16), HEX),
    ("hex32", NumberForm::Hex(Width::W32), HEX),
    ("hex64", NumberForm::Hex(Width::W64), HEX),
    ("big8", NumberForm::Big(Width::W8), BIG),
    ("big16", NumberForm::Big(Width::W16), BIG),
    ("big32", NumberForm::Big(Width::W32), BIG),
    ("big64", NumberForm::Big(Width::W64), BIG),
    ("little8", NumberForm::Little(Width::W8), LITTLE),
    ("little16", NumberForm::Little(Width::W16), LITTLE),
    ("little32", NumberForm::Little(Width::W32), LITTLE),
    ("little64", NumberForm::Little(Width::W64), LITTLE),
];

const DECIMAL: &str = "decimal digits; so it is without a modifier, too";
const HEX: &str = "2, 4, 8, 16 hexadecimal digits";
const BIG: &str = "1, 2, 4, 8 bytes, the greatest first";
const LITTLE: &str = "1, 2, 4, 8 bytes, the smallest first";

/// Modifiers of the time beside those of numbers, as help shows them.
const TIME_MODIFIERS: &[(&str, &str)] = &[
    (RFC3339, "2026-11-25T09:30:00.000Z"),
    (
        "strftime[...]",
        "as strftime does in UTC: %d{strftime[%Y-%m-%d %H:%M:%S]}",
    ),
];

pub(super) const RFC3339: &str = "rfc3339";
/// What the brackets of strftime stand between.
pub(super) const STRFTIME: (&str, &str) = ("strftime[", "]");

/// What may stand behind a backslash, beside `x` and two digits.
pub(super) const ESCAPES: &[(char, u8, &str)] = &[
    ('n', b'\n', "newline"),
    ('t', b'\t', "tab"),
    ('r', b'\r', "carriage return"),
    ('0', 0, "zero byte"),
    ('\\', b'\\', "backslash"),
];

/// The letter, if it is one of the language.
pub(super) fn letter_of(letter: char) -> Option<&'static Letter> {
    LETTERS.iter().find(|entry| entry.letter == letter)
}

/// Names of modifiers that fit a letter, in braces.
pub(super) fn modifiers_of(meaning: Meaning) -> Vec<String> {
    let numbers = NUMBER_MODIFIERS.iter().map(|(name, _, _)| *name);
    let names: Vec<&str> = match meaning {
        Meaning::Text(text) => {
            let fitting = TEXT_MODIFIERS
                .iter()
                .filter(|(_, modifier, _)| *modifier != TextModifier::Length || text.length().is_some());
            fitting.map(|(name, _, _)| *name).collect()
        }
        Meaning::Number(_) => numbers.collect(),
        Meaning::Time => TIME_MODIFIERS
            .iter()
            .map(|(name, _)| *name)
            .chain(numbers)
            .collect(),
        Meaning::Headers => Vec::new(),
    };
    names.iter().map(|name| format!("{{{name}}}")).collect()
}

/// The letters, for hints: `%k %v ...`.
pub(super) fn letters(in_headers: bool) -> String {
    let fitting = LETTERS.iter().filter(|entry| entry.in_headers || !in_headers);
    let names: Vec<String> = fitting.map(|entry| format!("%{}", entry.letter)).collect();
    names.join(" ")
}

/// Who the help is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Whoever writes records with a format.
    Consume,
    /// Whoever reads records with one.
    Produce,
}

/// The language for `--help`.
pub(crate) fn help(reader: Reader) -> String {
    let mut out = String::from(
        "Record format (-f): 'json' for JSON lines, or text in which these stand for parts of a record:\n",
    );
    for entry in LETTERS {
        let what = match reader {
            Reader::Consume => entry.written,
            Reader::Produce => entry.read,
        };
        row(&mut out, &format!("%{}", entry.letter), what);
    }
    row(&mut out, "%%", "a percent sign");
    for (name, _, what) in ESCAPES {
        row(&mut out, &format!("\\{name}"), what);
    }
    row(&mut out, "\\xNN", "the byte with these two hexadecimal digits");
    out.push_str(
        "\nBehind %k, %v and %t, in braces, how bytes are written (without: as they are; null as nothing):\n",
    );
    for (name, _, what) in TEXT_MODIFIERS {
        row(&mut out, &format!("{{{name}}}"), what);
    }
    out.push_str("Behind letters for numbers, and behind %d for its ms:\n");
    for (names, what) in families() {
        row(&mut out, &names, what);
    }
    out.push_str("Behind %d:\n");
    for (name, what) in TIME_MODIFIERS {
        row(&mut out, &format!("{{{name}}}"), what);
    }
    out.push_str("In a fixed width, all bits set are -1. A literal brace behind a letter is \\x7b, a closing one in %h is \\x7d.");
    out
}

fn row(out: &mut String, name: &str, what: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "  {name:<18} {what}");
}

/// Modifiers of numbers that are explained by the same words: `{hex8} 16 32 64`.
fn families() -> Vec<(String, &'static str)> {
    let mut families: Vec<(String, &str)> = Vec::new();
    for (name, _, what) in NUMBER_MODIFIERS {
        match families.last_mut() {
            Some((names, last)) if last == what => {
                let digits = name.trim_start_matches(|c: char| c.is_ascii_alphabetic());
                names.push(' ');
                names.push_str(digits);
            }
            _ => families.push((format!("{{{name}}}"), what)),
        }
    }
    families
}
