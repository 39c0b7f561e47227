//! What can go wrong for a program that uses the client, sorted by what the program can do about it.

use std::fmt;
use std::time::Duration;

use crate::model::{ErrorClass, ErrorCode, Offset, PartitionId};
use crate::pb::v1 as pb;
use crate::wire::errors::RemoteError;

/// Why a call failed. Retries that are safe have been made by the client already.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No connection could be made; nothing was sent.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// `host:port` that was tried last.
        address: String,
        /// What the system or the broker said.
        reason: String,
    },
    /// The connection broke before the answer came.
    #[error("the connection to {address} was lost: {reason}")]
    Disconnected {
        /// `host:port` of the broker.
        address: String,
        /// What ended it.
        reason: String,
        /// True if the request may have reached the broker.
        may_have_taken_effect: bool,
    },
    /// No answer came in time.
    #[error("{what} was not answered within {after:?}{}", because(.cause))]
    Timeout {
        /// The request.
        what: &'static str,
        /// How long was waited.
        after: Duration,
        /// True if the request may have reached the broker.
        may_have_taken_effect: bool,
        /// Why the last attempt failed, if there were several.
        cause: Option<Box<Error>>,
    },
    /// The broker answered with an error.
    #[error("{0}")]
    Broker(Box<BrokerError>),
    /// The call makes no sense: a bug of the caller.
    #[error("{0}")]
    Usage(String),
    /// An option or the URL has a value that it cannot have.
    #[error("{0}")]
    Config(String),
    /// What the broker sent cannot be understood.
    #[error("cannot decode {what}: {reason}")]
    Decode {
        /// What was decoded.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A group has no place to go on from, and its reset policy is `error`.
    #[error("{0}")]
    NoPlace(Box<NoPlace>),
    /// The producer's buffer has no room for the record now; only from the calls that do not wait.
    #[error("the producer's buffer of {buffer_bytes} bytes is full")]
    BufferFull {
        /// Size of the whole buffer.
        buffer_bytes: u32,
    },
}

fn because(cause: &Option<Box<Error>>) -> String {
    cause
        .as_ref()
        .map_or_else(String::new, |cause| format!("; last: {cause}"))
}

/// Where a group has no place to go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoPlace {
    /// The group.
    pub group: String,
    /// Name of the topic.
    pub topic: String,
    /// The partition.
    pub partition: PartitionId,
    /// Offsets that are gone although the group has not read them, first and last (inclusive); `None`: it has committed
    /// nothing there.
    pub lost: Option<(Offset, Offset)>,
}

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            group,
            topic,
            partition,
            lost,
        } = self;
        match lost {
            None => write!(f, "group {group} has committed nothing for {topic}/{partition}"),
            Some((first, last)) => write!(
                f,
                "offsets {first} to {last} of {topic}/{partition} are gone, and group {group} has not read them"
            ),
        }
    }
}

/// An error answer of the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerError {
    /// The code; `None` if the broker is newer than this client and has codes that it does not know.
    pub code: Option<ErrorCode>,
    /// The code's name as sent.
    pub name: String,
    /// What to do next.
    pub class: ErrorClass,
    /// True if the request surely had no effect.
    pub definite: bool,
    /// What was wrong and where.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// For `RETRY_AFTER`: when to try again.
    pub retry_after_ms: u32,
    /// Facts, as the code defines them.
    pub details: pb::ErrorDetails,
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.message)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for BrokerError {}

impl BrokerError {
    /// The topic or partition is not there, or was created again.
    pub(super) fn says_unknown_topic(&self) -> bool {
        matches!(
            self.code,
            Some(ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId)
        )
    }
}

impl Error {
    /// True if the same call may succeed later without anything being changed.
    ///
    /// If [`may_have_taken_effect`](Self::may_have_taken_effect) is true as well, the repeated call may have its effect twice.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Disconnected { .. }
            | Self::Timeout { .. }
            | Self::BufferFull { .. } => true,
            // Names are looked up for every call, so there is nothing to refresh: the topic is not there.
            Self::Broker(error) if error.says_unknown_topic() => false,
            Self::Broker(error) => match error.class {
                ErrorClass::Retry | ErrorClass::RetryAfter | ErrorClass::Refresh | ErrorClass::Rejoin => true,
                ErrorClass::Abort | ErrorClass::Fatal => false,
            },
            Self::Usage(_) | Self::Config(_) | Self::Decode { .. } | Self::NoPlace(_) => false,
        }
    }

    /// The same request does not succeed before the member that made it has sent a heartbeat or has joined again.
    pub(super) fn concerns_membership(&self) -> bool {
        let is_out = self
            .broker()
            .is_some_and(|error| error.class == ErrorClass::Rejoin);
        is_out || self.is_stale_epoch()
    }

    /// The member was in another epoch, and may still be one.
    pub(super) fn is_stale_epoch(&self) -> bool {
        self.code() == Some(ErrorCode::StaleMemberEpoch)
    }

    /// True if the broker may have done what was asked although the call failed.
    pub fn may_have_taken_effect(&self) -> bool {
        match self {
            Self::Disconnected {
                may_have_taken_effect,
                ..
            }
            | Self::Timeout {
                may_have_taken_effect,
                ..
            } => *may_have_taken_effect,
            Self::Broker(error) => !error.definite,
            // An answer came, and it cannot be read.
            Self::Decode { .. } => true,
            Self::Connect { .. }
            | Self::Usage(_)
            | Self::Config(_)
            | Self::NoPlace(_)
            | Self::BufferFull { .. } => false,
        }
    }

    /// The broker's code, if the broker answered and the code is known.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Broker(error) => error.code,
            _ => None,
        }
    }

    /// The broker's answer, if it is one.
    pub fn broker(&self) -> Option<&BrokerError> {
        match self {
            Self::Broker(error) => Some(error),
            _ => None,
        }
    }

    /// For `DATA_CORRUPT`: the damaged offsets, first and last (inclusive). Go on behind them with
    /// [`PartitionReader::seek`](super::PartitionReader::seek).
    pub fn damaged_offsets(&self) -> Option<(Offset, Offset)> {
        let error = self.broker()?;
        if error.code != Some(ErrorCode::DataCorrupt) {
            return None;
        }
        let first = Offset::new(error.details.first_offset?)?;
        let last = Offset::new(error.details.last_offset?)?;
        Some((first, last))
    }

    /// The same error with the knowledge that what was asked changes nothing that anybody sees.
    pub(super) fn without_effect(mut self) -> Self {
        match &mut self {
            Self::Disconnected {
                may_have_taken_effect,
                ..
            }
            | Self::Timeout {
                may_have_taken_effect,
                ..
            } => *may_have_taken_effect = false,
            Self::Broker(error) => error.definite = true,
            Self::Connect { .. }
            | Self::Usage(_)
            | Self::Config(_)
            | Self::Decode { .. }
            | Self::NoPlace(_)
            | Self::BufferFull { .. } => {}
        }
        self
    }

    /// The same error with the knowledge that an earlier attempt may have succeeded.
    pub(super) fn after_unknown_attempt(mut self) -> Self {
        match &mut self {
            Self::Disconnected {
                may_have_taken_effect,
                ..
            }
            | Self::Timeout {
                may_have_taken_effect,
                ..
            } => *may_have_taken_effect = true,
            Self::Broker(error) => error.definite = false,
            Self::Connect { address, reason } => {
                return Self::Disconnected {
                    address: std::mem::take(address),
                    reason: std::mem::take(reason),
                    may_have_taken_effect: true,
                };
            }
            Self::Usage(_)
            | Self::Config(_)
            | Self::Decode { .. }
            | Self::NoPlace(_)
            | Self::BufferFull { .. } => {}
        }
        self
    }
}

impl From<pb::Error> for Error {
    fn from(error: pb::Error) -> Self {
        let error = RemoteError::from(error);
        let name = match (error.code, error.name) {
            (_, name) if !name.is_empty() => name,
            (Some(code), _) => code.name().to_owned(),
            (None, _) => format!("ERROR_{}", error.number),
        };
        Self::Broker(Box::new(BrokerError {
            code: error.code,
            name,
            class: error.class,
            definite: error.definite,
            message: error.message,
            hint: error.hint,
            retry_after_ms: error.retry_after_ms,
            details: error.details,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_indefinite_broker_error_may_have_taken_effect() {
        let error = Error::from(pb::Error {
            code: ErrorCode::StorageFailed.number(),
            class: pb::ErrorClass::Retry.into(),
            message: "sync failed".into(),
            ..Default::default()
        });
        assert!(error.is_retriable());
        assert!(error.may_have_taken_effect());
        assert_eq!(error.code(), Some(ErrorCode::StorageFailed));
        assert_eq!(error.to_string(), "STORAGE_FAILED: sync failed");
    }

    #[test]
    fn a_definite_error_after_an_unknown_attempt_is_not_definite() {
        let error = Error::from(pb::Error {
            code: ErrorCode::MessageTooLarge.number(),
            class: pb::ErrorClass::Abort.into(),
            definite: true,
            ..Default::default()
        });
        assert!(!error.may_have_taken_effect());
        assert!(error.after_unknown_attempt().may_have_taken_effect());
    }

    #[test]
    fn an_unknown_code_keeps_its_class() {
        let error = Error::from(pb::Error {
            code: 9_999,
            class: pb::ErrorClass::RetryAfter.into(),
            definite: true,
            ..Default::default()
        });
        assert_eq!(error.code(), None);
        assert!(error.is_retriable());
        assert!(error.to_string().starts_with("ERROR_9999"));
    }

    #[test]
    fn damaged_offsets_come_only_with_data_corrupt() {
        let details = pb::ErrorDetails {
            first_offset: Some(4),
            last_offset: Some(9),
            ..Default::default()
        };
        let corrupt = Error::from(pb::Error {
            code: ErrorCode::DataCorrupt.number(),
            details: Some(details.clone()),
            ..Default::default()
        });
        let other = Error::from(pb::Error {
            code: ErrorCode::Internal.number(),
            details: Some(details),
            ..Default::default()
        });
        assert_eq!(corrupt.damaged_offsets(), Offset::new(4).zip(Offset::new(9)));
        assert_eq!(other.damaged_offsets(), None);
    }
}
