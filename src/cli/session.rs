//! A command's connection to the broker, and what the broker's refusals mean for the command.

use super::Context;
use super::failure::{Exit, Failure, Stopped};
use crate::client::{Client, Error};
use crate::model::ErrorCode;

/// Connects to the broker that the command line names.
///
/// # Errors
/// The URL is wrong, or nobody answers.
pub(crate) async fn connect(context: &Context) -> Result<Client, Failure> {
    Ok(Client::builder()
        .client_id("naru-cli")
        .connect_timeout(context.timeout)
        .request_timeout(context.timeout)
        .connect(&context.server)
        .await?)
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let unknown_fate = if error.may_have_taken_effect() {
            "it may have been done all the same: look before you repeat it"
        } else {
            ""
        };
        let retriable = error.is_retriable();
        let failure = match &error {
            Error::Connect { .. } => Self::new(Exit::Unavailable, "CANNOT_CONNECT", error.to_string())
                .hint("is a broker running there? start one with 'naru serve', or name another with -s"),
            Error::Disconnected { .. } => {
                Self::new(Exit::Unavailable, "DISCONNECTED", error.to_string()).hint(unknown_fate)
            }
            Error::Timeout { .. } => {
                Self::new(Exit::Unavailable, "TIMEOUT", error.to_string()).hint(if unknown_fate.is_empty() {
                    "give it more time with --timeout"
                } else {
                    unknown_fate
                })
            }
            Error::Broker(refusal) => {
                let exit = refusal.code.map_or(Exit::Unexpected, Exit::of);
                Self::new(exit, &refusal.name, refusal.message.clone()).hint(hint_of(refusal))
            }
            Error::Usage(_) | Error::Config(_) => Self::usage(error.to_string()),
            Error::NoPlace(_) => Self::new(Exit::NotFound, "NO_PLACE", error.to_string())
                .hint("-o start or -o end says where to go on instead"),
            Error::Decode { .. } => Self::new(Exit::Unexpected, "DECODE", error.to_string()),
            Error::BufferFull { .. } => Self::new(Exit::Unexpected, "BUFFER_FULL", error.to_string()),
        };
        Self { retriable, ..failure }
    }
}

fn hint_of(refusal: &crate::client::BrokerError) -> String {
    let nearest = &refusal.details.nearest_name;
    let bounds = (refusal.details.log_start_offset, refusal.details.high_watermark);
    match (refusal.code, bounds) {
        _ if !nearest.is_empty() => format!("did you mean '{nearest}'?"),
        (Some(ErrorCode::OffsetOutOfRange), (Some(start), Some(end))) if refusal.hint.is_empty() => {
            format!("offsets {start} to {end} can be read; -o start begins at the first")
        }
        (Some(ErrorCode::TopicAlreadyExists), _) => refusal.hint.replace("if_not_exists", "--if-not-exists"),
        _ => refusal.hint.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::v1 as pb;

    fn refusal(code: ErrorCode, details: pb::ErrorDetails) -> Failure {
        Failure::from(Error::from(pb::Error {
            code: code.number(),
            definite: code.is_definite(),
            message: "no".to_owned(),
            details: Some(details),
            ..pb::Error::default()
        }))
    }

    #[test]
    fn a_similar_name_becomes_a_question() {
        let details = pb::ErrorDetails {
            nearest_name: "orders".to_owned(),
            ..pb::ErrorDetails::default()
        };
        let failure = refusal(ErrorCode::UnknownTopicOrPartition, details);
        assert_eq!(failure.exit, Exit::NotFound);
        assert_eq!(failure.code, "UNKNOWN_TOPIC_OR_PARTITION");
        assert_eq!(failure.hint.as_deref(), Some("did you mean 'orders'?"));
    }

    #[test]
    fn bounds_are_told_for_an_offset_out_of_range() {
        let details = pb::ErrorDetails {
            log_start_offset: Some(5),
            high_watermark: Some(9),
            ..pb::ErrorDetails::default()
        };
        let failure = refusal(ErrorCode::OffsetOutOfRange, details);
        assert!(failure.hint.is_some_and(|h| h.starts_with("offsets 5 to 9")));
    }

    #[test]
    fn no_broker_is_exit_6_and_worth_another_try() {
        let failure = Failure::from(Error::Connect {
            address: "x:1".to_owned(),
            reason: "refused".to_owned(),
        });
        assert_eq!((failure.exit.code(), failure.retriable), (6, true));
    }

    #[test]
    fn an_unknown_fate_is_said() {
        let failure = Failure::from(Error::Disconnected {
            address: "x:1".to_owned(),
            reason: "reset".to_owned(),
            may_have_taken_effect: true,
        });
        assert!(failure.hint.is_some_and(|h| h.contains("may have been done")));
    }
}
