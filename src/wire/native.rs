//! The native protocol as the connections see it: greeting, pings, and which request is which.
#![deny(clippy::wildcard_enum_match_arm)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tracing::debug;

use super::decode::{self, Cuts};
use super::guard::{self, Counts, GuardError};
use super::{PING_BYTES_MAX, PROTOCOL_VERSION, encode};
use crate::api::{self, ApiError, ErrorDetails, Reply, Response};
use crate::model::{BrokerId, ErrorCode};
use crate::net::frame::{FrameError, FrameOut};
use crate::net::{Decision, Decoded, Greeting, Protocol, Settings};
use crate::pb::v1;
use crate::pb::v1::request::Body;
use crate::pb::v1::response::Body as Answer;

/// Memory of a decoded record or header beside its bytes, which stay in the frame.
const RECORD_BYTES: u64 = 256;

/// Bytes of a client's words in a log line.
const LOGGED_CHARS_MAX: usize = 64;

/// Who the broker is, and what it takes; told to every client that says Hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Identity of the cluster.
    pub cluster_id: String,
    /// Number of this broker.
    pub broker_id: BrokerId,
    /// Version of the broker.
    pub server_version: String,
    /// Names of features.
    pub features: Vec<String>,
    /// Largest record batch of any topic, in bytes.
    pub batch_bytes_max: u32,
    /// All batches that one journal frame can take, in bytes.
    pub step_bytes_max: u32,
}

/// The native protocol.
#[derive(Clone, Debug)]
pub struct NativeProtocol {
    identity: Identity,
    limits: v1::Limits,
    cuts: Cuts,
}

impl NativeProtocol {
    /// With the limits that the connections keep.
    pub fn new(identity: Identity, settings: &Settings) -> Self {
        let limits = v1::Limits {
            request_bytes_max: settings.request_bytes_max,
            response_bytes_max: settings.response_bytes_max,
            batch_bytes_max: identity.batch_bytes_max,
            step_bytes_max: identity.step_bytes_max,
            requests_running_max: u32::try_from(settings.requests_running_max).unwrap_or(u32::MAX),
            requests_parked_max: u32::try_from(settings.requests_parked_max).unwrap_or(u32::MAX),
            fetch_wait_ms_max: millis(settings.fetch_wait_max),
            idle_timeout_ms: millis(settings.idle_deadline),
        };
        Self {
            identity,
            limits,
            cuts: Cuts {
                response_bytes_max: settings.response_bytes_max,
                fetch_wait_max: settings.fetch_wait_max,
            },
        }
    }

    fn hello(&self, hello: &v1::HelloRequest) -> Result<v1::HelloResponse, ApiError> {
        if hello.version_min > PROTOCOL_VERSION || hello.version_max < PROTOCOL_VERSION {
            return Err(unsupported_version(hello));
        }
        let wanted = &hello.expected_cluster_id;
        let cluster_id = &self.identity.cluster_id;
        if !wanted.is_empty() && wanted != cluster_id {
            let message = format!("this broker belongs to cluster {cluster_id}, not to {wanted:?}");
            return Err(ApiError::new(ErrorCode::WrongCluster, message)
                .hint("check the address, or expect the right cluster"));
        }
        debug!(
            client_name = %cut(&hello.client_name),
            client_version = %cut(&hello.client_version),
            client_id = %cut(&hello.client_id),
            "client said hello"
        );
        Ok(v1::HelloResponse {
            version: PROTOCOL_VERSION,
            server_version: self.identity.server_version.clone(),
            cluster_id: cluster_id.clone(),
            broker_id: self.identity.broker_id.0,
            features: self.identity.features.clone(),
            auth_methods: Vec::new(),
            limits: Some(self.limits),
            draining: false,
        })
    }

    fn decide(&self, request: v1::Request, counts: Counts) -> Decision {
        let Some(body) = request.body else {
            return Decision::Refuse(guard_error(GuardError::UnknownRequest));
        };
        let decoded = match body {
            Body::Hello(_) => {
                return Decision::HangUp(protocol_error("Hello was said before on this connection"));
            }
            Body::Ping(ping) => {
                return match pong(ping) {
                    Ok(answer) => Decision::Answer(encode::body(request.request_id, answer)),
                    Err(error) => Decision::Refuse(error),
                };
            }
            Body::Metadata(body) => Ok(decode::metadata(body)),
            Body::CreateTopic(body) => decode::create_topic(body),
            Body::DeleteTopic(body) => decode::delete_topic(body),
            Body::DescribeTopic(body) => Ok(decode::describe_topic(body)),
            Body::ListTopics(body) => Ok(decode::list_topics(body)),
            Body::ListOffsets(body) => decode::list_offsets(body),
            Body::AlterTopic(body) => decode::alter_topic(body),
            Body::TrimTopic(body) => decode::trim_topic(body),
            Body::InitProducer(body) => decode::init_producer(body),
            Body::Produce(body) => decode::produce(body),
            Body::Fetch(body) => decode::fetch(body, self.cuts),
            Body::DescribeCluster(v1::DescribeClusterRequest {}) => {
                Ok(api::Request::DescribeCluster(api::DescribeCluster))
            }
            Body::CommitOffsets(body) => decode::commit_offsets(body),
            Body::FetchOffsets(body) => decode::fetch_offsets(body),
            Body::GroupHeartbeat(body) => decode::groups::group_heartbeat(body),
            Body::CloseConsumer(body) => decode::groups::close_consumer(body),
            Body::ProposeAssignment(body) => decode::groups::propose_assignment(body),
            Body::CreateGroup(body) => Ok(decode::groups::create_group(body)),
            Body::AlterGroup(body) => Ok(decode::groups::alter_group(body)),
            Body::DeleteGroup(body) => Ok(decode::groups::delete_group(body)),
            Body::DescribeGroup(body) => Ok(decode::groups::describe_group(body)),
            Body::ListGroups(body) => Ok(decode::groups::list_groups(body)),
            Body::EvictMember(body) => decode::groups::evict_member(body),
            Body::Step(body) => decode::groups::step(body),
        };
        match decoded {
            Ok(decoded) => Decision::Request {
                request: decoded,
                deadline: (request.deadline_ms > 0)
                    .then(|| Duration::from_millis(u64::from(request.deadline_ms))),
                decoded_bytes: u64::from(counts.record_messages).saturating_mul(RECORD_BYTES),
            },
            Err(error) => Decision::Refuse(error),
        }
    }
}

impl Protocol for NativeProtocol {
    fn greet(&self, frame: Bytes) -> Greeting {
        let id = guard::request_id(&frame);
        let refuse = |error: ApiError| Greeting::Refuse {
            code: error.code,
            answer: self.encode(id, Err(error)),
        };
        let request = match read(&frame, &guard::GREETING) {
            Ok((request, _)) => request,
            Err(error) => return refuse(guard_error(error)),
        };
        match request.body {
            Some(Body::Hello(hello)) => match self.hello(&hello) {
                Ok(answer) => Greeting::Welcome {
                    answer: encode::body(id, Answer::Hello(answer)),
                    software: software(&hello),
                },
                Err(error) => refuse(error),
            },
            Some(Body::Ping(ping)) => match pong(ping) {
                Ok(answer) => Greeting::Answer(encode::body(id, answer)),
                Err(error) => refuse(error),
            },
            Some(
                Body::Metadata(_)
                | Body::CreateTopic(_)
                | Body::DeleteTopic(_)
                | Body::DescribeTopic(_)
                | Body::ListTopics(_)
                | Body::ListOffsets(_)
                | Body::InitProducer(_)
                | Body::Produce(_)
                | Body::Fetch(_)
                | Body::DescribeCluster(_)
                | Body::AlterTopic(_)
                | Body::TrimTopic(_)
                | Body::CommitOffsets(_)
                | Body::FetchOffsets(_)
                | Body::GroupHeartbeat(_)
                | Body::CloseConsumer(_)
                | Body::ProposeAssignment(_)
                | Body::CreateGroup(_)
                | Body::AlterGroup(_)
                | Body::DeleteGroup(_)
                | Body::DescribeGroup(_)
                | Body::ListGroups(_)
                | Body::EvictMember(_)
                | Body::Step(_),
            ) => refuse(protocol_error("the first request of a connection must be Hello")),
            None => refuse(guard_error(GuardError::UnknownRequest)),
        }
    }

    fn decode(&self, frame: Bytes) -> Decoded {
        match read(&frame, &guard::OPEN) {
            Ok((request, counts)) => Decoded {
                id: request.request_id,
                decision: self.decide(request, counts),
            },
            Err(error) => Decoded {
                id: guard::request_id(&frame),
                decision: match error {
                    // Who sends responses has lost its place in the conversation.
                    GuardError::Response => Decision::HangUp(guard_error(error)),
                    GuardError::Malformed { .. }
                    | GuardError::TooDeep { .. }
                    | GuardError::TooManyElements { .. }
                    | GuardError::TooManyUnknown { .. }
                    | GuardError::UnknownRequest
                    | GuardError::OutOfRange { .. } => Decision::Refuse(guard_error(error)),
                },
            },
        }
    }

    fn encode(&self, id: u64, reply: Reply) -> FrameOut {
        if let Ok(Response::DescribeCluster(cluster)) = reply {
            // The limits are the protocol's to tell, not the broker's.
            let mut answer = encode::describe_cluster(*cluster);
            answer.limits = Some(self.limits);
            return encode::body(id, Answer::DescribeCluster(answer));
        }
        encode::reply(id, reply, self.limits.response_bytes_max)
    }

    fn frame_error(&self, error: FrameError) -> ApiError {
        match error {
            FrameError::Empty => ApiError::new(ErrorCode::EmptyFrame, error.to_string()),
            FrameError::TooLarge { bytes, max } => ApiError::new(ErrorCode::FrameTooLarge, error.to_string())
                .hint("say Hello first, then keep to Limits.request_bytes_max")
                .details(ErrorDetails {
                    limit: Some(u64::from(max)),
                    actual: Some(u64::from(bytes)),
                    ..ErrorDetails::default()
                }),
        }
    }
}

/// Guards, then decodes.
fn read(frame: &Bytes, limits: &guard::Limits) -> Result<(v1::Request, Counts), GuardError> {
    let counts = guard::check(frame, limits)?;
    // What the guard lets through can only fail by text that is not UTF-8.
    let request = v1::Request::decode(frame.clone()).map_err(|_| GuardError::Malformed {
        at: 0,
        what: "a string is not UTF-8",
    })?;
    Ok((request, counts))
}

fn pong(ping: v1::PingRequest) -> Result<Answer, ApiError> {
    let v1::PingRequest { payload } = ping;
    if payload.len() > PING_BYTES_MAX {
        let what = format!("{} bytes, at most {PING_BYTES_MAX} are allowed", payload.len());
        return Err(decode::invalid_argument("ping.payload".to_owned(), &what));
    }
    Ok(Answer::Ping(v1::PingResponse { payload }))
}

fn guard_error(error: GuardError) -> ApiError {
    let limits = |limit: u64, actual: Option<u64>| ErrorDetails {
        limit: Some(limit),
        actual,
        ..ErrorDetails::default()
    };
    let message = error.to_string();
    match error {
        GuardError::Malformed { .. } => ApiError::new(ErrorCode::Malformed, message),
        GuardError::TooDeep { max } => {
            ApiError::new(ErrorCode::TooDeep, message).details(limits(max as u64, None))
        }
        GuardError::TooManyElements { max } => ApiError::new(ErrorCode::TooManyElements, message)
            .hint("send less in one request, or records as raw batches")
            .details(limits(u64::from(max), None)),
        GuardError::TooManyUnknown { bytes, max } => ApiError::new(ErrorCode::TooManyUnknown, message)
            .hint("the broker may be older than the client")
            .details(limits(max as u64, Some(bytes as u64))),
        GuardError::UnknownRequest => {
            ApiError::new(ErrorCode::UnknownRequest, message).hint("the broker may be older than the client")
        }
        GuardError::Response => protocol_error(&message),
        GuardError::OutOfRange {
            message,
            field,
            value,
        } => {
            let what = format!("{value} does not fit the field's type");
            decode::invalid_argument(format!("{message}.{field}"), &what)
        }
    }
}

fn protocol_error(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Protocol, message)
}

fn unsupported_version(hello: &v1::HelloRequest) -> ApiError {
    let message = format!(
        "the client speaks protocol versions {} to {}, the broker {PROTOCOL_VERSION}",
        hello.version_min, hello.version_max
    );
    ApiError::new(ErrorCode::UnsupportedVersion, message)
        .hint("use a client and a broker of similar age")
        .details(ErrorDetails {
            versions: Some((PROTOCOL_VERSION, PROTOCOL_VERSION)),
            ..ErrorDetails::default()
        })
}

/// Name and version of a client, for people.
fn software(hello: &v1::HelloRequest) -> Arc<str> {
    let text = format!("{} {}", cut(&hello.client_name), cut(&hello.client_version));
    Arc::from(text.trim_ascii())
}

fn cut(text: &str) -> String {
    text.chars()
        .take(LOGGED_CHARS_MAX)
        .flat_map(char::escape_default)
        .collect()
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
