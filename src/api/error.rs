//! The one error of the broker's face.

use crate::model::{ErrorCode, Offset};

/// What went wrong, for a client. Class and definiteness follow from the code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct ApiError {
    /// The code.
    pub code: ErrorCode,
    /// What was wrong and where.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// For codes of class `RETRY_AFTER`: when to try again, in ms.
    pub retry_after_ms: u32,
    /// Facts, typed.
    pub details: ErrorDetails,
}

/// Facts beside the message; each is set by the codes that name it in `docs/protocol.md`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorDetails {
    /// The limit that was passed.
    pub limit: Option<u64>,
    /// What was sent instead.
    pub actual: Option<u64>,
    /// First damaged offset.
    pub first_offset: Option<Offset>,
    /// Last damaged offset, inclusive.
    pub last_offset: Option<Offset>,
    /// Bounds of what can be read.
    pub log_start_offset: Option<Offset>,
    /// Bounds of what can be read.
    pub high_watermark: Option<Offset>,
    /// The sequence that would have been right.
    pub expected_sequence: Option<i32>,
    /// The producer epoch in force.
    pub current_epoch: Option<i32>,
    /// Protocol versions that would be accepted: lowest and highest.
    pub versions: Option<(u32, u32)>,
    /// A topic with a similar name.
    pub nearest_name: Option<String>,
    /// The field at fault.
    pub field: Option<String>,
    /// The member epoch in force.
    pub member_epoch: Option<u32>,
}

impl ApiError {
    /// An error with a message alone.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: String::new(),
            retry_after_ms: 0,
            details: ErrorDetails::default(),
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The same with the time after which a retry makes sense, in ms.
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u32) -> Self {
        self.retry_after_ms = ms;
        self
    }

    /// The same with details.
    #[must_use]
    pub fn details(mut self, details: ErrorDetails) -> Self {
        self.details = details;
        self
    }
}
