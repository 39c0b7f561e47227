//! Records, read with a format.
//!
//! First a plan is made, which says of every field where it ends: by itself (fixed widths, JSON), at a length that was read
//! before it, or at the literal behind it. A format that does not say so is refused, because it could be read in several
//! ways. Then the plan is run on what has been read of the input so far; where that ends too early, more is read and the
//! record begun again.
//!
//! A field that ends at a literal ends where it stands first, and does not run over the end of the record, which is the
//! literal at the end of the format: a line without its tab must not swallow the next one.

use std::ops::Range;

use bytes::Bytes;

use super::forms::{self, Encoding, NumberForm, Prefix, TimeForm};
use super::table::{Number, Text};
use super::{FormatError, Part, Placed, RecordFormat};
use crate::cli::failure::Failure;
use crate::cli::lines::LINE_BYTES_MAX;
use crate::model::Timestamp;
use crate::record::{Header, Record};

/// The most that a length may ask for: what a request to the broker can hold.
const FIELD_BYTES_MAX: usize = LINE_BYTES_MAX;

/// The most headers that a record can have: more would not fit into a request either, empty as they may be.
const HEADERS_MAX: i64 = 1 << 20;

const NEEDS_END: &str = "write something behind it that ends it, as in '%v\\n'; or its length before it, as in '%V{big32}%v'; \
     or use '%v{json}'";

/// A record that was read, and where it wants to go.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Incoming {
    /// The record.
    pub record: Record,
    /// Its partition, if the input names one.
    pub partition: Option<u32>,
}

/// Input that is not what the format says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// Where, in bytes from the beginning of the record.
    pub at: usize,
    /// What was expected and what is there.
    pub what: String,
}

/// A format that records can be read with.
#[derive(Clone, Debug)]
pub(crate) struct RecordReader {
    steps: Vec<Step>,
    /// The literal at the end of the format; empty if there is none.
    terminator: Vec<u8>,
    has: Fields,
}

/// What a format reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    pub key: bool,
    pub value: bool,
    pub partition: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Literal(Vec<u8>),
    Text(Text, Encoding, End),
    Number(Number, NumberForm, End),
    Time(TimeForm, End),
    Headers(Vec<Step>),
}

/// Where a field ends.
#[derive(Clone, Debug)]
enum End {
    /// It says so itself.
    Own,
    /// A length was read before it.
    Counted,
    /// Where these bytes are.
    Before(Vec<u8>),
}

impl RecordReader {
    /// Makes the plan for a format.
    ///
    /// # Errors
    /// It does not say where a field ends, or names one twice.
    pub(crate) fn new(format: &RecordFormat) -> Result<Self, Failure> {
        let mut seen = Seen::default();
        let steps = plan(&format.parts, &mut seen).map_err(|error| error.failure(&format.text))?;
        let terminator = match format.parts.last() {
            Some(Placed {
                part: Part::Literal(bytes),
                ..
            }) => bytes.clone(),
            _ => Vec::new(),
        };
        let has = Fields {
            key: seen.texts.contains(&Text::Key),
            value: seen.texts.contains(&Text::Value),
            partition: seen
                .numbers
                .iter()
                .any(|(number, _)| *number == Number::Partition),
        };
        if !has.key && !has.value {
            let everything = FormatError::new(
                0..format.text.len(),
                "neither '%k' nor '%v' is in it",
                "a line as a value is '%v\\n'; a key and a value '%k\\t%v\\n'",
            );
            return Err(everything.failure(&format.text));
        }
        Ok(Self {
            steps,
            terminator,
            has,
        })
    }

    /// What it reads.
    pub(crate) fn has(&self) -> Fields {
        self.has
    }

    /// Reads the record at the front of the input, which is not empty: the record, and how many bytes it has. `None` if
    /// the input ends before the record does and more may come, which is not so if this is the end of it.
    ///
    /// # Errors
    /// The input is not what the format says.
    pub(crate) fn read(&self, input: &Bytes, is_end: bool) -> Result<Option<(Incoming, usize)>, Unreadable> {
        let mut run = Run {
            input,
            at: 0,
            is_end,
            terminator: &self.terminator,
        };
        let mut fields = Found::default();
        match run.steps(&self.steps, &mut fields, true) {
            Ok(()) => {
                let incoming = Incoming {
                    record: Record {
                        key: fields.key,
                        value: fields.value,
                        headers: fields.headers,
                        timestamp: fields.time,
                    },
                    partition: fields.partition,
                };
                Ok(Some((incoming, run.at)))
            }
            Err(Halt::Unfinished) => Ok(None),
            Err(Halt::Wrong(unreadable)) => Err(unreadable),
        }
    }
}

/// What was planned already, of a record or of a header.
#[derive(Default)]
struct Seen {
    texts: Vec<Text>,
    numbers: Vec<(Number, Range<usize>)>,
    headers: bool,
    time: bool,
}

impl Seen {
    fn has_number(&self, number: Number) -> bool {
        self.numbers.iter().any(|(seen, _)| *seen == number)
    }
}

fn plan(parts: &[Placed], seen: &mut Seen) -> Result<Vec<Step>, FormatError> {
    let mut steps = Vec::new();
    for (index, placed) in parts.iter().enumerate() {
        let next = parts.get(index + 1);
        let end = |may_contain: &dyn Fn(u8) -> bool| end_of(placed, next, may_contain);
        let twice = || FormatError::new(placed.span.clone(), "this stands twice", "read it once");
        steps.push(match &placed.part {
            Part::Literal(bytes) => Step::Literal(bytes.clone()),
            Part::Text(text, encoding) => {
                if seen.texts.contains(text) {
                    return Err(twice());
                }
                seen.texts.push(*text);
                let counted = text.length().is_some_and(|length| seen.has_number(length));
                let end = match encoding {
                    _ if counted => End::Counted,
                    Encoding::Json => End::Own,
                    Encoding::Plain | Encoding::Hex | Encoding::Base64 => {
                        end(&|byte| encoding.may_contain(byte))?
                    }
                };
                Step::Text(*text, *encoding, end)
            }
            Part::Number(number, form) => {
                if seen.has_number(*number) {
                    return Err(twice());
                }
                let behind = seen.texts.iter().any(|text| text.length() == Some(*number))
                    || (*number == Number::HeaderCount && seen.headers);
                if behind {
                    let what = "this stands behind what it counts";
                    return Err(FormatError::new(placed.span.clone(), what, "write it before"));
                }
                seen.numbers.push((*number, placed.span.clone()));
                let end = match form.fixed_bytes() {
                    Some(_) => End::Own,
                    None => end(&forms::is_decimal)?,
                };
                Step::Number(*number, *form, end)
            }
            Part::Time(form) => {
                if std::mem::replace(&mut seen.time, true) {
                    return Err(twice());
                }
                Step::Time(form.clone(), end_of_time(placed, next, form)?)
            }
            Part::Headers(inner) => {
                if std::mem::replace(&mut seen.headers, true) {
                    return Err(twice());
                }
                headers(placed, inner, seen)?
            }
        });
    }
    counts_something(seen)?;
    Ok(steps)
}

fn headers(placed: &Placed, inner: &[Placed], seen: &Seen) -> Result<Step, FormatError> {
    if !seen.has_number(Number::HeaderCount) {
        let what = "nothing says how many headers there are";
        let hint = "write their number before, as in '%H %h{%k=%v,}'";
        return Err(FormatError::new(placed.span.clone(), what, hint));
    }
    let mut of_header = Seen::default();
    let steps = plan(inner, &mut of_header)?;
    if of_header.texts.len() < 2 {
        let what = "a header needs its key and its value";
        let hint = "read both, as in %h{%k=%v,}";
        return Err(FormatError::new(placed.span.clone(), what, hint));
    }
    Ok(Step::Headers(steps))
}

/// A number that counts something needs it behind.
fn counts_something(seen: &Seen) -> Result<(), FormatError> {
    for (number, span) in &seen.numbers {
        let counted = match number {
            Number::KeyBytes => ("%k", seen.texts.contains(&Text::Key)),
            Number::ValueBytes => ("%v", seen.texts.contains(&Text::Value)),
            Number::HeaderCount => ("%h{...}", seen.headers),
            Number::Partition | Number::Offset | Number::Running => continue,
        };
        if let (name, false) = counted {
            let what = format!("this counts '{name}', which is not there");
            let hint = format!("write '{name}' behind it");
            return Err(FormatError::new(span.clone(), what, hint));
        }
    }
    Ok(())
}

/// The literal behind a field, if it ends the field wherever it stands.
fn end_of(
    placed: &Placed,
    next: Option<&Placed>,
    may_contain: &dyn Fn(u8) -> bool,
) -> Result<End, FormatError> {
    let span = placed.span.clone();
    let Some(next) = next else {
        return Err(FormatError::new(span, "nothing says where this ends", NEEDS_END));
    };
    match &next.part {
        Part::Literal(bytes) if !bytes.iter().all(|byte| may_contain(*byte)) => {
            Ok(End::Before(bytes.clone()))
        }
        // Text ends at whatever is behind it, and whoever writes the input sees to it that the text has none of it.
        Part::Literal(bytes) if (0..=u8::MAX).all(may_contain) => Ok(End::Before(bytes.clone())),
        Part::Literal(_) => {
            let what = "this may contain what is to end it";
            Err(FormatError::new(
                span.start..next.span.end,
                what,
                "write another delimiter",
            ))
        }
        Part::Text(..) | Part::Number(..) | Part::Time(_) | Part::Headers(_) => {
            let what = "nothing says where the first of these ends and the second begins";
            Err(FormatError::new(span.start..next.span.end, what, NEEDS_END))
        }
    }
}

fn end_of_time(placed: &Placed, next: Option<&Placed>, form: &TimeForm) -> Result<End, FormatError> {
    if let TimeForm::Millis(form) = form
        && form.fixed_bytes().is_some()
    {
        return Ok(End::Own);
    }
    let end = end_of(placed, next, &|byte| form.may_contain(byte))?;
    let End::Before(delimiter) = &end else {
        return Ok(end);
    };
    for sample in form.samples() {
        if find(&sample, delimiter).is_some() {
            let what = "the time contains what is to end it";
            let hint = "write a delimiter that is not part of it";
            return Err(FormatError::new(placed.span.clone(), what, hint));
        }
        if form.read(&sample).is_none() {
            let what = "no time can be read with this: it needs year, month and day, or seconds since 1970";
            let hint = "for example %d{strftime[%Y-%m-%d %H:%M:%S]}, %d{rfc3339}, or %d for ms";
            return Err(FormatError::new(placed.span.clone(), what, hint));
        }
    }
    Ok(end)
}

/// Where a needle, which is not empty, stands first.
fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let first = needle.first()?;
    let mut from = 0;
    loop {
        let rest = hay.get(from..)?;
        let at = from + rest.iter().position(|byte| byte == first)?;
        if hay.get(at..)?.starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
}

/// What the fields of a record, or of a header, were found to be.
#[derive(Default)]
struct Found {
    key: Option<Bytes>,
    value: Option<Bytes>,
    key_bytes: i64,
    value_bytes: i64,
    header_count: i64,
    headers: Vec<Header>,
    time: Option<Timestamp>,
    partition: Option<u32>,
}

enum Halt {
    Unfinished,
    Wrong(Unreadable),
}

/// A plan being run.
struct Run<'a> {
    input: &'a Bytes,
    at: usize,
    is_end: bool,
    terminator: &'a [u8],
}

impl Run<'_> {
    /// Runs steps; `outermost` if they are those of the record and not of a header.
    fn steps(&mut self, steps: &[Step], found: &mut Found, outermost: bool) -> Result<(), Halt> {
        for (index, step) in steps.iter().enumerate() {
            match step {
                Step::Literal(bytes) => self.literal(bytes, outermost && index + 1 == steps.len())?,
                Step::Text(text, encoding, end) => self.text(*text, *encoding, end, found)?,
                Step::Number(number, form, end) => self.number(*number, *form, end, found)?,
                Step::Time(form, end) => {
                    let start = self.at;
                    let field = self.field(end, form_bytes(form))?;
                    let time = form.read(&field);
                    found.time = Some(time.ok_or_else(|| self.wrong_field(start, "a time", &field))?);
                }
                Step::Headers(inner) => {
                    for _ in 0..found.header_count {
                        let start = self.at;
                        let mut header = Found::default();
                        self.steps(inner, &mut header, false)?;
                        let key = header.key.unwrap_or_default();
                        let key = String::from_utf8(key.into())
                            .map_err(|_| self.wrong(start, "the key of a header is not UTF-8"))?;
                        let value = header.value;
                        found.headers.push(Header { key, value });
                    }
                }
            }
        }
        Ok(())
    }

    fn literal(&mut self, bytes: &[u8], is_last: bool) -> Result<(), Halt> {
        let rest = self.rest();
        if rest.starts_with(bytes) {
            self.at += bytes.len();
            return Ok(());
        }
        if bytes.starts_with(rest) && !self.is_end {
            return Err(Halt::Unfinished);
        }
        // A last line without newline counts.
        if is_last && bytes.strip_suffix(b"\n") == Some(rest) {
            self.at = self.input.len();
            return Ok(());
        }
        Err(self.expected(bytes))
    }

    fn text(&mut self, text: Text, encoding: Encoding, end: &End, found: &mut Found) -> Result<(), Halt> {
        let start = self.at;
        let counted = matches!(end, End::Counted);
        let count = match text {
            Text::Topic => -1,
            Text::Key => found.key_bytes,
            Text::Value => found.value_bytes,
        };
        let bytes = if encoding == Encoding::Json {
            let bytes = self.json()?;
            let length = bytes.as_ref().map_or(-1, |bytes| signed(bytes.len()));
            if counted && length != count {
                let what = format!("this has {length} bytes, but its length was said to be {count}");
                return Err(self.wrong(start, what));
            }
            bytes
        } else if counted {
            match usize::try_from(count) {
                Ok(count) => {
                    let written = self.take(encoding.written_bytes(count))?;
                    let bytes = encoding.read(written).map_err(|what| self.wrong(start, what))?;
                    if bytes.len() != count {
                        let what = format!(
                            "this has {} bytes, but its length was said to be {count}",
                            bytes.len()
                        );
                        return Err(self.wrong(start, what));
                    }
                    Some(bytes)
                }
                // -1: null.
                Err(_) => None,
            }
        } else {
            let written = self.field(end, None)?;
            Some(encoding.read(written).map_err(|what| self.wrong(start, what))?)
        };
        match text {
            Text::Topic => {}
            Text::Key => found.key = bytes,
            Text::Value => found.value = bytes,
        }
        Ok(())
    }

    fn number(&mut self, number: Number, form: NumberForm, end: &End, found: &mut Found) -> Result<(), Halt> {
        let start = self.at;
        let field = self.field(end, form.fixed_bytes())?;
        let read = form
            .read(&field)
            .ok_or_else(|| self.wrong_field(start, "a number", &field))?;
        let within = |range: Range<i64>, what: &str| {
            if range.contains(&read) {
                return Ok(read);
            }
            let what = format!("{read} is no {what}: {} to {} can be", range.start, range.end - 1);
            Err(self.wrong(start, what))
        };
        let lengths = -1..signed(FIELD_BYTES_MAX) + 1;
        match number {
            Number::KeyBytes => found.key_bytes = within(lengths, "length of a key")?,
            Number::ValueBytes => found.value_bytes = within(lengths, "length of a value")?,
            Number::HeaderCount => found.header_count = within(0..HEADERS_MAX + 1, "number of headers")?,
            Number::Partition => {
                let partition = within(0..i64::from(u32::MAX) + 1, "partition")?;
                found.partition = u32::try_from(partition).ok();
            }
            Number::Offset | Number::Running => {}
        }
        Ok(())
    }

    /// The bytes of a field that is not JSON; `fixed` is its length if it ends by itself.
    fn field(&mut self, end: &End, fixed: Option<usize>) -> Result<Bytes, Halt> {
        match (end, fixed) {
            (End::Before(delimiter), _) => self.before(delimiter),
            (End::Own | End::Counted, fixed) => self.take(fixed.unwrap_or_default()),
        }
    }

    fn take(&mut self, count: usize) -> Result<Bytes, Halt> {
        let rest = self.rest().len();
        if rest < count {
            return Err(if self.is_end {
                let what = format!(
                    "the input ends here, but {} more bytes belong to the field",
                    count - rest
                );
                self.wrong(self.input.len(), what)
            } else {
                Halt::Unfinished
            });
        }
        let start = self.at;
        self.at += count;
        Ok(self.input.slice(start..self.at))
    }

    fn before(&mut self, delimiter: &[u8]) -> Result<Bytes, Halt> {
        let rest = self.rest();
        let found = find(rest, delimiter);
        let within = found.map_or(rest, |at| &rest[..at]);
        // Found or not: what ends the record must not be inside of a field.
        if delimiter != self.terminator
            && let Some(at) = find(within, self.terminator)
        {
            self.at += at;
            return Err(self.expected(delimiter));
        }
        let length = match found {
            Some(at) => at,
            None if !self.is_end => return Err(Halt::Unfinished),
            None => match delimiter.strip_suffix(b"\n") {
                // A last line without newline counts.
                Some(before) if delimiter == self.terminator && rest.ends_with(before) => {
                    rest.len() - before.len()
                }
                _ => {
                    self.at = self.input.len();
                    return Err(self.expected(delimiter));
                }
            },
        };
        self.take(length)
    }

    fn json(&mut self) -> Result<Option<Bytes>, Halt> {
        match forms::json_prefix(self.rest()) {
            Prefix::Whole(bytes, used) => {
                self.at += used;
                Ok(bytes)
            }
            Prefix::Unfinished if !self.is_end => Err(Halt::Unfinished),
            Prefix::Unfinished => Err(self.wrong(self.at, "the input ends in the middle of this")),
            Prefix::Wrong => {
                let what = "expected a JSON string, null, or {\"base64\":\"...\"}";
                Err(self.wrong(self.at, what))
            }
        }
    }

    fn rest(&self) -> &[u8] {
        self.input.get(self.at..).unwrap_or_default()
    }

    fn expected(&self, literal: &[u8]) -> Halt {
        let rest = self.rest();
        let there = if rest.is_empty() {
            "the input ends".to_owned()
        } else {
            format!("there is {}", quoted(rest))
        };
        self.wrong(self.at, format!("expected {}, but {there}", quoted(literal)))
    }

    fn wrong_field(&self, at: usize, kind: &str, field: &[u8]) -> Halt {
        self.wrong(at, format!("expected {kind}, but there is {}", quoted(field)))
    }

    fn wrong(&self, at: usize, what: impl Into<String>) -> Halt {
        Halt::Wrong(Unreadable {
            at,
            what: what.into(),
        })
    }
}

const fn form_bytes(form: &TimeForm) -> Option<usize> {
    match form {
        TimeForm::Millis(form) => form.fixed_bytes(),
        TimeForm::Rfc3339 | TimeForm::Strftime(_) => None,
    }
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The first bytes, as a format would write them.
fn quoted(bytes: &[u8]) -> String {
    const SHOWN_BYTES: usize = 16;
    let shown = bytes.get(..SHOWN_BYTES).unwrap_or(bytes);
    let more = if bytes.len() > SHOWN_BYTES { "..." } else { "" };
    format!("'{}'{more}", shown.escape_ascii())
}
