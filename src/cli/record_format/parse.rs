//! The text of a format, cut into parts.

use super::forms::{Encoding, NumberForm, TimeForm};
use super::table::{self, ESCAPES, Letter, Meaning, Number, TextModifier};
use super::{FormatError, Part, Placed};
use crate::model::nearest;

/// Cuts a format.
pub(super) fn parts(text: &str) -> Result<Vec<Placed>, FormatError> {
    Scanner { text, at: 0 }.parts(None)
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// A modifier, without its braces, and where it stands.
struct Modifier<'a> {
    text: &'a str,
    start: usize,
}

impl<'a> Scanner<'a> {
    /// The parts up to the end of the text, or, where `opened` says where `%h{` stands, up to the brace that closes it.
    fn parts(&mut self, opened: Option<usize>) -> Result<Vec<Placed>, FormatError> {
        let mut parts: Vec<Placed> = Vec::new();
        loop {
            let start = self.at;
            let literal = match (self.char(), opened) {
                (None, None) => return Ok(parts),
                (None, Some(opened)) => {
                    let hint = "close it with '}'; where a header needs a '}' of its own, write \\x7d";
                    return Err(self.error(opened, "'%h{' is never closed", hint));
                }
                (Some('}'), Some(_)) => return Ok(parts),
                (Some('%'), _) => match self.directive(start, opened.is_some())? {
                    Some(part) => {
                        let span = start..self.at;
                        parts.push(Placed { part, span });
                        continue;
                    }
                    None => vec![b'%'],
                },
                (Some('\\'), _) => vec![self.escape(start)?],
                (Some(c), _) => c.to_string().into_bytes(),
            };
            match parts.last_mut() {
                Some(Placed {
                    part: Part::Literal(bytes),
                    span,
                }) => {
                    bytes.extend_from_slice(&literal);
                    span.end = self.at;
                }
                _ => parts.push(Placed {
                    part: Part::Literal(literal),
                    span: start..self.at,
                }),
            }
        }
    }

    /// What stands behind a percent sign; `None` for a second one.
    fn directive(&mut self, start: usize, in_headers: bool) -> Result<Option<Part>, FormatError> {
        let letter = match self.char() {
            None => return Err(self.error(start, "a '%' at the end", "write '%%' for a percent sign")),
            Some('%') => return Ok(None),
            Some(letter) => letter,
        };
        let Some(letter) = table::letter_of(letter) else {
            let what = format!("'%{letter}' is not known");
            return Err(self.error(start, what, unknown_letter(letter, in_headers)));
        };
        if in_headers && !letter.in_headers {
            let what = format!("'%{}' is not known inside of %h{{...}}", letter.letter);
            return Err(self.error(start, what, format!("there use {}", table::letters(true))));
        }
        if letter.meaning == Meaning::Headers {
            if self.char() != Some('{') {
                let hint = "write it in braces, as in %h{%k=%v, }";
                return Err(self.error(start, "'%h' needs a format for each header", hint));
            }
            return self.parts(Some(start)).map(|inner| Some(Part::Headers(inner)));
        }
        let modifier = self.modifier()?;
        self.part(letter, modifier.as_ref()).map(Some)
    }

    fn part(&self, letter: &Letter, modifier: Option<&Modifier<'_>>) -> Result<Part, FormatError> {
        let Some(modifier) = modifier else {
            return Ok(match letter.meaning {
                Meaning::Text(text) => Part::Text(text, Encoding::Plain),
                Meaning::Number(number) => Part::Number(number, NumberForm::Decimal),
                Meaning::Time => Part::Time(TimeForm::Millis(NumberForm::Decimal)),
                Meaning::Headers => Part::Headers(Vec::new()),
            });
        };
        let number_form = || {
            let mut forms = table::NUMBER_MODIFIERS.iter();
            let form = forms.find(|(name, _, _)| *name == modifier.text);
            form.map(|(_, form, _)| *form)
        };
        let part = match letter.meaning {
            Meaning::Text(text) => {
                let mut modifiers = table::TEXT_MODIFIERS.iter();
                let found = modifiers.find(|(name, _, _)| *name == modifier.text);
                match found.map(|(_, modifier, _)| *modifier) {
                    Some(TextModifier::Encoded(encoding)) => Some(Part::Text(text, encoding)),
                    Some(TextModifier::Length) => text.length().map(length),
                    None => None,
                }
            }
            Meaning::Number(number) => number_form().map(|form| Part::Number(number, form)),
            Meaning::Time => match self.time(modifier)? {
                Some(form) => Some(Part::Time(form)),
                None => number_form().map(|form| Part::Time(TimeForm::Millis(form))),
            },
            Meaning::Headers => None,
        };
        part.ok_or_else(|| unknown_modifier(letter, modifier))
    }

    /// A form of the time that is not a number.
    fn time(&self, modifier: &Modifier<'_>) -> Result<Option<TimeForm>, FormatError> {
        if modifier.text == table::RFC3339 {
            return Ok(Some(TimeForm::Rfc3339));
        }
        let (open, close) = table::STRFTIME;
        let Some(pattern) = modifier
            .text
            .strip_prefix(open)
            .and_then(|rest| rest.strip_suffix(close))
        else {
            return Ok(None);
        };
        TimeForm::strftime(pattern).map(Some).map_err(|error| {
            let what = format!("strftime cannot write '{pattern}': {error}");
            let hint = "for example %d{strftime[%Y-%m-%d %H:%M:%S]}";
            FormatError::new(modifier.start..self.at - 1, what, hint)
        })
    }

    /// The braces behind a letter, if there are any.
    fn modifier(&mut self) -> Result<Option<Modifier<'a>>, FormatError> {
        if !self.rest().starts_with('{') {
            return Ok(None);
        }
        let opened = self.at;
        let start = opened + 1;
        // A pattern of strftime may have braces of its own.
        let (open, close) = table::STRFTIME;
        let is_pattern = self.text.get(start..).is_some_and(|rest| rest.starts_with(open));
        let closing = if is_pattern {
            format!("{close}}}")
        } else {
            "}".to_owned()
        };
        let Some(length) = self.text.get(start..).and_then(|rest| rest.find(&closing)) else {
            self.at = start;
            let what = format!("this brace is never closed with '{closing}'");
            let hint = "a brace behind a letter begins a modifier; \\x7b is a brace that stands for itself";
            return Err(self.error(opened, what, hint));
        };
        let end = start + length + closing.len() - 1;
        self.at = end + 1;
        let text = self.text.get(start..end).unwrap_or_default();
        Ok(Some(Modifier { text, start }))
    }

    /// What stands behind a backslash.
    fn escape(&mut self, start: usize) -> Result<u8, FormatError> {
        match self.char() {
            Some('x') => {
                let digits = self.text.get(self.at..self.at + 2).unwrap_or_default();
                // A sign would be accepted by the parser but is no digit.
                let shaped = digits.bytes().all(|b| b.is_ascii_hexdigit());
                match u8::from_str_radix(digits, 16) {
                    Ok(byte) if shaped => {
                        self.at += 2;
                        Ok(byte)
                    }
                    _ => Err(self.error(start, "'\\x' needs two hexadecimal digits", "as in \\x1f")),
                }
            }
            found => {
                let known = ESCAPES.iter().find(|(name, _, _)| Some(*name) == found);
                known.map(|(_, byte, _)| *byte).ok_or_else(|| {
                    let what = match found {
                        Some(c) => format!("'\\{c}' is not known"),
                        None => "a backslash at the end".to_owned(),
                    };
                    let hint = "use \\n \\t \\r \\0 \\xNN, or \\\\ for a backslash";
                    self.error(start, what, hint)
                })
            }
        }
    }

    fn char(&mut self) -> Option<char> {
        let next = self.rest().chars().next();
        self.at += next.map_or(0, char::len_utf8);
        next
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// An error about what was read since `start`.
    fn error(&self, start: usize, what: impl Into<String>, hint: impl Into<String>) -> FormatError {
        FormatError::new(start..self.at, what, hint)
    }
}

fn length(number: Number) -> Part {
    Part::Number(number, NumberForm::Decimal)
}

fn unknown_letter(letter: char, in_headers: bool) -> String {
    let other = if letter.is_lowercase() {
        letter.to_ascii_uppercase()
    } else {
        letter.to_ascii_lowercase()
    };
    let fits = table::letter_of(other).is_some_and(|entry| entry.in_headers || !in_headers);
    if fits {
        format!("did you mean '%{other}'?")
    } else {
        format!("use {}, or %% for a percent sign", table::letters(in_headers))
    }
}

fn unknown_modifier(letter: &Letter, modifier: &Modifier<'_>) -> FormatError {
    let fitting = table::modifiers_of(letter.meaning);
    let given = format!("{{{}}}", modifier.text);
    let what = format!("'%{}' cannot be written as '{given}'", letter.letter);
    let hint = match nearest(&given, fitting.iter().map(String::as_str)) {
        Some(nearest) => format!("did you mean '{nearest}'?"),
        None => format!(
            "use one of {}; \\x7b is a brace that stands for itself",
            fitting.join(" ")
        ),
    };
    let span = modifier.start - 1..modifier.start + modifier.text.len() + 1;
    FormatError::new(span, what, hint)
}
