//! One pass over a request before anything is decoded: counts and refuses what would cost more than it should.
//!
//! Not recursive, allocates nothing, knows the messages from a table that a test compares with the .proto files. What
//! it lets through can be decoded with memory in proportion to the frame. Limits: `docs/protocol.md`, "Limits".
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm
)]

use super::schema::{Field, Kind, Message, RECORDS, REQUEST};

/// Messages inside of each other, the request itself included.
pub(super) const DEPTH_MAX: usize = 8;

/// Field numbers end here.
const FIELD_NUMBER_MAX: u64 = (1 << 29) - 1;

/// What a request may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Messages inside of each other, at most [`DEPTH_MAX`].
    pub(super) depth: usize,
    /// Fields outside of structured records.
    pub(super) elements: u32,
    /// Records and record headers together. They are far more than other elements in honest requests, and bounded by
    /// the frame, too: each costs two bytes at least.
    pub(super) record_messages: u32,
    /// Fields inside of structured records.
    pub(super) record_fields: u32,
    /// Numbers in lists of numbers. Partitions are so listed, of which there are 20,000 at most in all of a broker.
    pub(super) numbers: u32,
    /// Bytes in fields that are not in the table.
    pub(super) unknown_bytes: usize,
}

/// Before the greeting.
pub(super) const GREETING: Limits = Limits {
    depth: 4,
    elements: 32,
    record_messages: 32,
    record_fields: 32,
    numbers: 32,
    unknown_bytes: 0,
};

/// After it.
pub(super) const OPEN: Limits = Limits {
    depth: DEPTH_MAX,
    elements: 10_000,
    record_messages: 100_000,
    record_fields: 800_000,
    numbers: 100_000,
    unknown_bytes: 1024,
};

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum GuardError {
    #[error("byte {at} of the message: {what}")]
    Malformed { at: usize, what: &'static str },
    #[error("messages nest deeper than {max}")]
    TooDeep { max: usize },
    #[error("the message has more than {max} elements")]
    TooManyElements { max: u32 },
    #[error("the message has {bytes} bytes in unknown fields, at most {max} are allowed")]
    TooManyUnknown { bytes: usize, max: usize },
    #[error("the request has no body that this broker knows")]
    UnknownRequest,
    #[error("this is a response, not a request")]
    Response,
    #[error("{message}.{field} has the value {value}, which does not fit its type")]
    OutOfRange {
        message: &'static str,
        field: &'static str,
        value: u64,
    },
}

/// What a request has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Fields outside of structured records.
    pub(super) elements: u32,
    /// Records and record headers.
    pub(super) record_messages: u32,
    /// Fields inside of structured records.
    pub(super) record_fields: u32,
    /// Numbers in lists of numbers.
    pub(super) numbers: u32,
    /// Bytes in unknown fields.
    pub(super) unknown_bytes: usize,
}

/// Looks through a whole request.
pub(super) fn check(bytes: &[u8], limits: &Limits) -> Result<Counts, GuardError> {
    Pass {
        cursor: Cursor { bytes, at: 0 },
        limits,
        counts: Counts::default(),
        open: [(0, &REQUEST); DEPTH_MAX],
        depth: 0,
        records_depth: usize::MAX,
        has_body: false,
        has_unknown_body: false,
    }
    .run()
}

/// The request id, as far as it can be found; 0 otherwise.
pub(super) fn request_id(bytes: &[u8]) -> u64 {
    let mut cursor = Cursor { bytes, at: 0 };
    let mut id = 0;
    while cursor.at < bytes.len() {
        let Ok((number, wire_type)) = cursor.tag() else {
            break;
        };
        match (number, wire_type) {
            (1, WireType::Varint) => match cursor.varint() {
                Ok(value) => id = value,
                Err(_) => break,
            },
            _ => {
                if cursor.skip(wire_type).is_err() {
                    break;
                }
            }
        }
    }
    id
}

struct Pass<'a> {
    cursor: Cursor<'a>,
    limits: &'a Limits,
    counts: Counts,
    /// Ends and types of the messages around the cursor, the request itself first.
    open: [(usize, &'static Message); DEPTH_MAX],
    depth: usize,
    /// At this depth the outermost `Records` is open.
    records_depth: usize,
    has_body: bool,
    has_unknown_body: bool,
}

impl Pass<'_> {
    fn run(mut self) -> Result<Counts, GuardError> {
        self.enter(self.cursor.bytes.len(), &REQUEST)?;
        while let Some((end, message)) = self.innermost() {
            if self.cursor.at == end {
                self.leave();
                continue;
            }
            let start = self.cursor.at;
            let (number, wire_type) = self.cursor.tag()?;
            match message.field(number) {
                Some(field) => {
                    self.count_field()?;
                    self.known(message, field, wire_type, end)?;
                }
                None => {
                    self.count_field()?;
                    self.unknown(start, number, wire_type)?;
                }
            }
            if self.cursor.at > self.innermost().map_or(end, |(inner, _)| inner) {
                return Err(self.cursor.malformed("a field ends behind its message"));
            }
        }
        self.judge()
    }

    fn judge(self) -> Result<Counts, GuardError> {
        let bytes = self.counts.unknown_bytes;
        let max = self.limits.unknown_bytes;
        if !self.has_body && (self.has_unknown_body || bytes <= max) {
            return Err(GuardError::UnknownRequest);
        }
        if bytes > max {
            return Err(GuardError::TooManyUnknown { bytes, max });
        }
        Ok(self.counts)
    }

    fn known(
        &mut self,
        message: &'static Message,
        field: &'static Field,
        wire_type: WireType,
        end: usize,
    ) -> Result<(), GuardError> {
        match (field.kind, wire_type) {
            (Kind::U64 | Kind::I64 | Kind::Bool, WireType::Varint) => {
                self.cursor.varint()?;
            }
            (kind @ (Kind::U32 | Kind::I32 | Kind::Enum), WireType::Varint) => {
                let value = self.cursor.varint()?;
                in_range(kind, value, message, field)?;
            }
            (Kind::U32s, WireType::Varint) => self.number(message, field)?,
            (Kind::U32s, WireType::Length) => {
                let length = self.cursor.length()?;
                let list_end = self.cursor.at.saturating_add(length);
                while self.cursor.at < list_end {
                    self.number(message, field)?;
                }
                if self.cursor.at > list_end {
                    return Err(self.cursor.malformed("a number ends behind its list"));
                }
            }
            (Kind::Bytes | Kind::String, WireType::Length) => self.cursor.skip(wire_type)?,
            (Kind::Message(inner), WireType::Length) => {
                let length = self.cursor.length()?;
                let inner_end = self.cursor.at.saturating_add(length);
                if inner_end > end {
                    return Err(self.cursor.malformed("a message ends behind the one around it"));
                }
                self.has_body |= self.depth == 1;
                self.enter(inner_end, inner)?;
            }
            (_, WireType::Length) if self.depth == 1 && field.number == 2 => {
                return Err(GuardError::Response);
            }
            (_, _) => {
                return Err(self
                    .cursor
                    .malformed("a field has another wire type than it should"));
            }
        }
        Ok(())
    }

    /// One number of a list.
    fn number(&mut self, message: &'static Message, field: &'static Field) -> Result<(), GuardError> {
        self.counts.numbers = self.counts.numbers.saturating_add(1);
        if self.counts.numbers > self.limits.numbers {
            return Err(GuardError::TooManyElements {
                max: self.limits.numbers,
            });
        }
        let value = self.cursor.varint()?;
        in_range(field.kind, value, message, field)
    }

    fn unknown(&mut self, start: usize, number: u64, wire_type: WireType) -> Result<(), GuardError> {
        self.cursor.skip(wire_type)?;
        let bytes = self.cursor.at.saturating_sub(start);
        self.counts.unknown_bytes = self.counts.unknown_bytes.saturating_add(bytes);
        // Bodies are messages with numbers from 10 on: most likely one that a newer client knows.
        self.has_unknown_body |= self.depth == 1 && number >= 10 && wire_type == WireType::Length;
        Ok(())
    }

    fn count_field(&mut self) -> Result<(), GuardError> {
        let (count, max) = if self.depth >= self.records_depth {
            (&mut self.counts.record_fields, self.limits.record_fields)
        } else {
            (&mut self.counts.elements, self.limits.elements)
        };
        *count = count.saturating_add(1);
        if *count > max {
            return Err(GuardError::TooManyElements { max });
        }
        Ok(())
    }

    fn enter(&mut self, end: usize, message: &'static Message) -> Result<(), GuardError> {
        if self.depth >= self.limits.depth {
            return Err(GuardError::TooDeep {
                max: self.limits.depth,
            });
        }
        if self.depth >= self.records_depth {
            self.counts.record_messages = self.counts.record_messages.saturating_add(1);
            if self.counts.record_messages > self.limits.record_messages {
                return Err(GuardError::TooManyElements {
                    max: self.limits.record_messages,
                });
            }
        }
        let Some(slot) = self.open.get_mut(self.depth) else {
            return Err(GuardError::TooDeep { max: DEPTH_MAX });
        };
        *slot = (end, message);
        self.depth = self.depth.saturating_add(1);
        if std::ptr::eq(message, &RECORDS) {
            self.records_depth = self.records_depth.min(self.depth);
        }
        Ok(())
    }

    fn leave(&mut self) {
        if self.depth == self.records_depth {
            self.records_depth = usize::MAX;
        }
        self.depth = self.depth.saturating_sub(1);
    }

    fn innermost(&self) -> Option<(usize, &'static Message)> {
        self.open.get(self.depth.checked_sub(1)?).copied()
    }
}

fn in_range(
    kind: Kind,
    value: u64,
    message: &'static Message,
    field: &'static Field,
) -> Result<(), GuardError> {
    if fits(kind, value) {
        return Ok(());
    }
    Err(GuardError::OutOfRange {
        message: message.name,
        field: field.name,
        value,
    })
}

/// Whether decoding keeps the value: decoders cut 64 bits to 32 without a word.
fn fits(kind: Kind, value: u64) -> bool {
    match kind {
        Kind::U32 | Kind::U32s => u32::try_from(value).is_ok(),
        Kind::I32 | Kind::Enum => i32::try_from(value.cast_signed()).is_ok(),
        Kind::U64 | Kind::I64 | Kind::Bool | Kind::Bytes | Kind::String | Kind::Message(_) => true,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WireType {
    Varint,
    Fixed64,
    Length,
    Fixed32,
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn malformed(&self, what: &'static str) -> GuardError {
        GuardError::Malformed { at: self.at, what }
    }

    fn tag(&mut self) -> Result<(u64, WireType), GuardError> {
        let start = self.at;
        let tag = self.varint()?;
        let number = tag >> 3;
        let malformed = |what| Err(GuardError::Malformed { at: start, what });
        if number == 0 || number > FIELD_NUMBER_MAX {
            return malformed("a field number is out of range");
        }
        match tag & 7 {
            0 => Ok((number, WireType::Varint)),
            1 => Ok((number, WireType::Fixed64)),
            2 => Ok((number, WireType::Length)),
            5 => Ok((number, WireType::Fixed32)),
            3 | 4 => malformed("groups are not allowed"),
            _ => malformed("this wire type does not exist"),
        }
    }

    fn varint(&mut self) -> Result<u64, GuardError> {
        let mut value: u64 = 0;
        let mut shift = 0;
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        for (index, byte) in rest.iter().enumerate().take(10) {
            // The tenth byte has room for one bit.
            if index == 9 && *byte & 0x7f > 1 && *byte & 0x80 == 0 {
                return Err(self.malformed("a varint is larger than 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                self.at = self.at.saturating_add(index).saturating_add(1);
                return Ok(value);
            }
            shift = u32::saturating_add(shift, 7);
        }
        Err(self.malformed(if rest.len() < 10 {
            "a varint is cut off"
        } else {
            "a varint is longer than 10 bytes"
        }))
    }

    /// Reads a length that the rest of the bytes has.
    fn length(&mut self) -> Result<usize, GuardError> {
        let length = self.varint()?;
        let rest = self.bytes.len().saturating_sub(self.at);
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= rest)
            .ok_or_else(|| self.malformed("a length is greater than what is left"))
    }

    fn skip(&mut self, wire_type: WireType) -> Result<(), GuardError> {
        let bytes = match wire_type {
            WireType::Varint => {
                self.varint()?;
                0
            }
            WireType::Fixed64 => 8,
            WireType::Fixed32 => 4,
            WireType::Length => self.length()?,
        };
        let end = self.at.saturating_add(bytes);
        if end > self.bytes.len() {
            return Err(self.malformed("a field is cut off"));
        }
        self.at = end;
        Ok(())
    }
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests may panic"
)]
mod tests;
