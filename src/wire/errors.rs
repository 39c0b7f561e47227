//! The one place where error codes meet the wire.

#[cfg(feature = "server")]
use crate::api::{ApiError, ErrorDetails};
#[cfg(feature = "server")]
use crate::model::is_hidden;
use crate::model::{ErrorClass, ErrorCode};
use crate::pb::v1;

/// An error as it came from a broker, which may be newer than we are: what it says goes before what we know of the code.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name}: {message}")]
pub struct RemoteError {
    /// The code, if we know it.
    pub code: Option<ErrorCode>,
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// What to do next.
    pub class: ErrorClass,
    /// True if the request surely had no effect.
    pub definite: bool,
    /// For [`ErrorClass::RetryAfter`]: when to try again, in ms.
    pub retry_after_ms: u32,
    /// What was wrong and where.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// Facts.
    pub details: v1::ErrorDetails,
}

impl From<v1::Error> for RemoteError {
    fn from(error: v1::Error) -> Self {
        Self {
            code: ErrorCode::from_number(error.code),
            number: error.code,
            class: class_from_wire(error.class()),
            name: error.name,
            definite: error.definite,
            retry_after_ms: error.retry_after_ms,
            message: error.message,
            hint: error.hint,
            details: error.details.unwrap_or_default(),
        }
    }
}

/// A class on the wire.
pub const fn class_to_wire(class: ErrorClass) -> v1::ErrorClass {
    match class {
        ErrorClass::Retry => v1::ErrorClass::Retry,
        ErrorClass::RetryAfter => v1::ErrorClass::RetryAfter,
        ErrorClass::Refresh => v1::ErrorClass::Refresh,
        ErrorClass::Rejoin => v1::ErrorClass::Rejoin,
        ErrorClass::Abort => v1::ErrorClass::Abort,
        ErrorClass::Fatal => v1::ErrorClass::Fatal,
    }
}

/// A class from the wire. One that is unknown or missing is taken for the one that does the least.
pub const fn class_from_wire(class: v1::ErrorClass) -> ErrorClass {
    match class {
        v1::ErrorClass::Retry => ErrorClass::Retry,
        v1::ErrorClass::RetryAfter => ErrorClass::RetryAfter,
        v1::ErrorClass::Refresh => ErrorClass::Refresh,
        v1::ErrorClass::Rejoin => ErrorClass::Rejoin,
        v1::ErrorClass::Abort | v1::ErrorClass::Unspecified => ErrorClass::Abort,
        v1::ErrorClass::Fatal => ErrorClass::Fatal,
    }
}

/// An error on the wire.
#[cfg(feature = "server")]
pub fn to_wire(error: ApiError) -> v1::Error {
    let details = (error.details != ErrorDetails::default()).then(|| details_to_wire(error.details));
    v1::Error {
        code: error.code.number(),
        name: error.code.name().to_owned(),
        class: class_to_wire(error.code.class()).into(),
        definite: error.code.is_definite(),
        retry_after_ms: error.retry_after_ms,
        message: presentable(error.message),
        hint: presentable(error.hint),
        details,
    }
}

/// Longest text of an error, in bytes.
#[cfg(feature = "server")]
const TEXT_BYTES_MAX: usize = 2_048;

/// Texts say what was sent, which may be anything: nothing that a terminal would obey, and no more than somebody reads.
#[cfg(feature = "server")]
fn presentable(text: String) -> String {
    if text.len() <= TEXT_BYTES_MAX && !text.chars().any(is_hidden) {
        return text;
    }
    let mut shown = String::new();
    for c in text.chars() {
        let escaped = if is_hidden(c) {
            c.escape_default().to_string()
        } else {
            c.to_string()
        };
        if shown.len() + escaped.len() > TEXT_BYTES_MAX {
            shown.push_str("...");
            break;
        }
        shown.push_str(&escaped);
    }
    shown
}

#[cfg(feature = "server")]
fn details_to_wire(details: ErrorDetails) -> v1::ErrorDetails {
    let ErrorDetails {
        limit,
        actual,
        first_offset,
        last_offset,
        log_start_offset,
        high_watermark,
        expected_sequence,
        current_epoch,
        versions,
        nearest_name,
        field,
        member_epoch,
    } = details;
    v1::ErrorDetails {
        limit,
        actual,
        first_offset: first_offset.map(|offset| offset.get()),
        last_offset: last_offset.map(|offset| offset.get()),
        log_start_offset: log_start_offset.map(|offset| offset.get()),
        high_watermark: high_watermark.map(|offset| offset.get()),
        expected_sequence,
        current_epoch,
        version_min: versions.map(|(min, _)| min),
        version_max: versions.map(|(_, max)| max),
        nearest_name: nearest_name.unwrap_or_default(),
        field: field.unwrap_or_default(),
        member_epoch,
    }
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;
    use crate::model::Offset;

    #[test]
    fn every_code_crosses_the_wire_with_its_name_class_and_definiteness() {
        for code in ErrorCode::ALL {
            let remote = RemoteError::from(to_wire(ApiError::new(*code, "what")));
            assert_eq!(remote.code, Some(*code));
            assert_eq!(remote.number, code.number());
            assert_eq!(remote.name, code.name());
            assert_eq!(remote.class, code.class());
            assert_eq!(remote.definite, code.is_definite());
            assert_eq!(remote.to_string(), format!("{}: what", code.name()));
        }
    }

    #[test]
    fn what_was_sent_is_said_again_without_anything_that_a_terminal_obeys_and_not_endlessly() {
        let said = |text: &str| to_wire(ApiError::new(ErrorCode::UnknownGroup, "m").hint(text)).hint;
        assert_eq!(said("there is no gr\u{fc}n"), "there is no gr\u{fc}n");
        assert_eq!(said("a\x1b[31m\n\u{202e}b"), "a\\u{1b}[31m\\n\\u{202e}b");
        let long = to_wire(ApiError::new(ErrorCode::UnknownMemberId, "x".repeat(200_000))).message;
        assert_eq!((long.len(), &long[2_047..]), (2_051, "x..."));
    }

    #[test]
    fn details_hint_and_retry_time_cross_the_wire() {
        let error = ApiError::new(ErrorCode::OffsetOutOfRange, "no")
            .hint("look at the bounds")
            .retry_after_ms(7)
            .details(ErrorDetails {
                limit: Some(1),
                actual: Some(2),
                first_offset: Some(Offset::ZERO),
                last_offset: Offset::new(4),
                log_start_offset: Offset::new(5),
                high_watermark: Offset::new(6),
                expected_sequence: Some(0),
                current_epoch: Some(8),
                versions: Some((1, 9)),
                nearest_name: Some("orders".to_owned()),
                field: Some("produce.acks".to_owned()),
                member_epoch: Some(13),
            });
        let remote = RemoteError::from(to_wire(error));
        assert_eq!(
            (remote.hint.as_str(), remote.retry_after_ms),
            ("look at the bounds", 7)
        );
        let expected = v1::ErrorDetails {
            limit: Some(1),
            actual: Some(2),
            first_offset: Some(0),
            last_offset: Some(4),
            log_start_offset: Some(5),
            high_watermark: Some(6),
            expected_sequence: Some(0),
            current_epoch: Some(8),
            version_min: Some(1),
            version_max: Some(9),
            nearest_name: "orders".to_owned(),
            field: "produce.acks".to_owned(),
            member_epoch: Some(13),
        };
        assert_eq!(remote.details, expected);
    }

    #[test]
    fn an_error_of_a_newer_broker_is_understood_by_its_class() {
        let remote = RemoteError::from(v1::Error {
            code: 9999,
            name: "FROM_THE_FUTURE".to_owned(),
            class: 3,
            definite: true,
            ..v1::Error::default()
        });
        assert_eq!((remote.code, remote.class), (None, ErrorClass::Refresh));
        assert!(remote.definite);
        assert_eq!(
            RemoteError::from(v1::Error {
                class: 77,
                ..v1::Error::default()
            })
            .class,
            ErrorClass::Abort
        );
    }
}
