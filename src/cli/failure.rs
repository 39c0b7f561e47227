//! How a command fails: an exit code that scripts can rely on, and one or two lines for people.

use std::fmt;
use std::io;

use crate::model::ErrorCode;

/// Exit codes of the process; listed by `naru --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Something unexpected: a bug, an I/O error.
    Unexpected,
    /// The command line or a configuration is wrong.
    Usage,
    /// What was named does not exist.
    NotFound,
    /// It exists already, or is in the wrong state.
    Conflict,
    /// Not allowed.
    Permission,
    /// No broker there, or it took too long.
    Unavailable,
    /// Some records or partitions failed.
    Partial,
    /// A check said no.
    CheckFailed,
    /// The broker's storage failed: what was not acknowledged has an unknown fate.
    StorageFailed,
    /// A signal ended the command.
    Interrupted,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Unexpected => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Permission => 5,
            Self::Unavailable => 6,
            Self::Partial => 7,
            Self::CheckFailed => 8,
            Self::StorageFailed => 74,
            Self::Interrupted => 130,
        }
    }

    /// What a refusal of the broker means for a script.
    pub const fn of(code: ErrorCode) -> Self {
        use ErrorCode as E;
        match code {
            E::UnknownTopicOrPartition
            | E::UnknownTopicId
            | E::OffsetOutOfRange
            | E::UnknownGroup
            | E::UnknownMemberId => Self::NotFound,
            E::TopicAlreadyExists
            | E::NotOwner
            | E::OutOfOrderSequence
            | E::InvalidProducerEpoch
            | E::UnknownProducerId
            | E::InvalidTxnState
            | E::LimitExceeded
            | E::FencedMemberEpoch
            | E::StaleMemberEpoch
            | E::FencedInstanceId
            | E::UnreleasedInstanceId
            | E::GroupNotEmpty
            | E::GroupFull
            | E::WrongCluster => Self::Conflict,
            E::InvalidName | E::InvalidConfig | E::InvalidPartitions | E::InvalidArgument => Self::Usage,
            E::Backpressure
            | E::Draining
            | E::DeadlineExceeded
            | E::StorageFull
            | E::StorageFailed
            | E::UnsupportedVersion
            | E::WrongProtocol => Self::Unavailable,
            E::DataCorrupt | E::MessageTooLarge => Self::Partial,
            E::Internal
            | E::EmptyFrame
            | E::FrameTooLarge
            | E::Malformed
            | E::TooDeep
            | E::TooManyElements
            | E::TooManyUnknown
            | E::UnknownRequest
            | E::Protocol
            | E::InvalidBatch
            | E::CorruptBatch
            | E::InvalidRecord
            | E::InvalidAssignment
            | E::UnsupportedCompression
            | E::InvalidTimestamp => Self::Unexpected,
        }
    }
}

/// Text for `naru --help`.
pub(crate) const EXIT_CODES_HELP: &str = "\
Exit codes:
  0  success
  1  unexpected failure (bug, I/O)
  2  usage error
  3  not found (topic, partition, offset, group, member)
  4  conflict (exists already, wrong state, data directory in use)
  5  authentication or permission
  6  cannot connect, or timed out
  7  partial: some records or partitions failed
  8  a check said no (config check, cluster health, doctor, log verify, check-history; demo: what was acknowledged and what was found differ)
 74  the broker's storage failed
130  interrupted";

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For scripts.
    pub exit: Exit,
    /// Stable name of what happened: the broker's error code, or one of our own.
    pub code: String,
    /// For people.
    pub message: String,
    /// Lines that show the place, for people alone: the message names it, too.
    pub shown: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Whether trying again may help.
    pub retriable: bool,
    /// For people instead of all that, where there is more than one thing to tell.
    pub as_text: Option<String>,
    /// More for programs: fields beside the others.
    pub details: Option<serde_json::Value>,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: code.to_owned(),
            message: message.into(),
            shown: None,
            hint: None,
            retriable: false,
            as_text: None,
            details: None,
        }
    }

    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "USAGE", message)
    }

    /// Something unexpected.
    pub fn unexpected(message: impl Into<String>) -> Self {
        Self::new(Exit::Unexpected, "UNEXPECTED", message)
    }

    /// The same with lines that show the place.
    #[must_use]
    pub fn shown(mut self, shown: impl Into<String>) -> Self {
        self.shown = Some(shown.into());
        self
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into()).filter(|hint: &String| !hint.is_empty());
        self
    }

    /// The failure as one JSON object.
    pub fn to_json(&self) -> String {
        let mut error = serde_json::json!({
            "code": self.code, "message": self.message, "hint": self.hint, "retriable": self.retriable,
        });
        if let (Some(fields), Some(serde_json::Value::Object(more))) = (error.as_object_mut(), &self.details)
        {
            fields.extend(more.clone());
        }
        serde_json::json!({ "error": error }).to_string()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.as_text {
            return f.write_str(text);
        }
        write!(f, "error: {}", self.message)?;
        if let Some(shown) = &self.shown {
            write!(f, "\n{shown}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Why a command ended before its end.
#[derive(Debug)]
pub enum Stopped {
    /// It failed.
    Failed(Failure),
    /// Whoever read its output has gone; nobody wants to hear more.
    ReaderGone,
    /// A signal asked it to end, and it has done so in order; the exit code.
    Told(u8),
}

/// What a command comes to.
pub type Outcome = Result<(), Stopped>;

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Only for output: a broken pipe is a quiet end, anything else a failure.
impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::Failed(Failure::unexpected(format!("cannot write the output: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_is_documented() {
        let all = [
            Exit::Unexpected,
            Exit::Usage,
            Exit::NotFound,
            Exit::Conflict,
            Exit::Permission,
            Exit::Unavailable,
            Exit::Partial,
            Exit::CheckFailed,
            Exit::StorageFailed,
            Exit::Interrupted,
        ];
        let documented: Vec<u8> = EXIT_CODES_HELP
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
            .collect();
        let mut expected = vec![0];
        expected.extend(all.map(Exit::code));
        assert_eq!(documented, expected);
    }

    #[test]
    fn refusals_map_to_what_a_script_can_do() {
        for (code, exit) in [
            (ErrorCode::UnknownTopicOrPartition, 3),
            (ErrorCode::TopicAlreadyExists, 4),
            (ErrorCode::InvalidName, 2),
            (ErrorCode::DeadlineExceeded, 6),
            (ErrorCode::DataCorrupt, 7),
            (ErrorCode::Internal, 1),
        ] {
            assert_eq!(Exit::of(code).code(), exit, "{}", code.name());
        }
    }

    #[test]
    fn errors_are_short_for_people_and_structured_for_programs() {
        let failure = Failure::new(Exit::NotFound, "UNKNOWN_TOPIC_OR_PARTITION", "no topic 'ordres'")
            .hint("did you mean 'orders'?");
        assert_eq!(
            failure.to_string(),
            "error: no topic 'ordres'\nhint: did you mean 'orders'?"
        );
        let json: serde_json::Value = serde_json::from_str(&failure.to_json()).unwrap();
        assert_eq!(json["error"]["code"], "UNKNOWN_TOPIC_OR_PARTITION");
        assert_eq!(json["error"]["hint"], "did you mean 'orders'?");
        assert_eq!(json["error"]["retriable"], false);
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let gone = Stopped::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(gone, Stopped::ReaderGone));
        let full = Stopped::from(io::Error::from(io::ErrorKind::StorageFull));
        assert!(matches!(full, Stopped::Failed(f) if f.exit == Exit::Unexpected));
    }
}
