//! Records, written with a format.

use super::table::{Number, Text};
use super::{Located, Part, Placed, RecordFormat};

/// A number that the format has no room for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{number} does not fit into '{part}' of the record format")]
pub(crate) struct DoesNotFit {
    /// The number.
    number: i64,
    /// What should hold it.
    part: String,
}

/// What the letters stand for: a record, or one of its headers.
#[derive(Clone, Copy)]
struct Scope<'a> {
    located: &'a Located<'a>,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
}

impl RecordFormat {
    /// Writes a record.
    ///
    /// # Errors
    /// A number does not fit where the format has a fixed width. What was written before stays in `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>, located: &Located<'_>) -> Result<(), DoesNotFit> {
        let scope = Scope {
            located,
            key: located.record.key.as_deref(),
            value: located.record.value.as_deref(),
        };
        self.write_parts(&self.parts, out, scope)
    }

    fn write_parts(&self, parts: &[Placed], out: &mut Vec<u8>, scope: Scope<'_>) -> Result<(), DoesNotFit> {
        let record = scope.located.record;
        for placed in parts {
            match &placed.part {
                Part::Literal(bytes) => out.extend_from_slice(bytes),
                Part::Text(text, encoding) => encoding.write(out, scope.text(*text)),
                Part::Number(number, form) => {
                    let number = scope.number(*number);
                    if !form.write(out, number) {
                        return Err(self.does_not_fit(placed, number));
                    }
                }
                Part::Time(form) => {
                    if !form.write(out, record.timestamp) {
                        return Err(self.does_not_fit(placed, record.timestamp.map_or(-1, |time| time.0)));
                    }
                }
                Part::Headers(inner) => {
                    for header in &record.headers {
                        let scope = Scope {
                            key: Some(header.key.as_bytes()),
                            value: header.value.as_deref(),
                            ..scope
                        };
                        self.write_parts(inner, out, scope)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn does_not_fit(&self, placed: &Placed, number: i64) -> DoesNotFit {
        DoesNotFit {
            number,
            part: self.text.get(placed.span.clone()).unwrap_or_default().to_owned(),
        }
    }
}

impl<'a> Scope<'a> {
    fn text(&self, text: Text) -> Option<&'a [u8]> {
        match text {
            Text::Topic => Some(self.located.topic.as_bytes()),
            Text::Key => self.key,
            Text::Value => self.value,
        }
    }

    fn number(&self, number: Number) -> i64 {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        match number {
            Number::Partition => self.located.partition.0.into(),
            Number::Offset => self.located.offset.get(),
            Number::KeyBytes => self.key.map_or(-1, |key| count(key.len())),
            Number::ValueBytes => self.value.map_or(-1, |value| count(value.len())),
            Number::HeaderCount => count(self.located.record.headers.len()),
            Number::Running => signed(self.located.number),
        }
    }
}
