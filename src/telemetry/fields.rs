//! Names of log fields, in one place, so that whoever searches logs need not guess.
//!
//! Tracing's macros take field names as they stand in the code; these constants are the list to choose from and what the
//! formatter itself writes. Values that clients chose are cut at [`VALUE_BYTES_MAX`] bytes by the formatter.

/// Time of the line, RFC 3339 with milliseconds.
pub const TS: &str = "ts";
/// `error`, `warn`, `info`, `debug`, `trace`.
pub const LEVEL: &str = "level";
/// The level, or `critical` where a line says so.
pub const SEVERITY: &str = "severity";
/// Stable code of what happened, in snake case.
pub const EVENT: &str = "event";
/// A constant lower-case phrase.
pub const MSG: &str = "msg";
/// Module that wrote the line.
pub const TARGET: &str = "target";
/// Number of the broker.
pub const NODE: &str = "node";
/// Name of a topic.
pub const TOPIC: &str = "topic";
/// Index of a partition.
pub const PARTITION: &str = "partition";
/// An offset.
pub const OFFSET: &str = "offset";
/// A leader or producer epoch.
pub const EPOCH: &str = "epoch";
/// Identity of an idempotent producer.
pub const PRODUCER_ID: &str = "producer_id";
/// Name that a client gave itself.
pub const CLIENT_ID: &str = "client_id";
/// Address of the other side.
pub const PEER: &str = "peer";
/// Kind of a request.
pub const API: &str = "api";
/// Number of a request on its connection.
pub const REQUEST_ID: &str = "request_id";
/// How long something took.
pub const DURATION_MS: &str = "duration_ms";
/// Stable code of an error.
pub const ERROR_CODE: &str = "error.code";
/// Text of an error.
pub const ERROR_MESSAGE: &str = "error.message";

/// Longest value of a field, in bytes: client-chosen text must not flood the log.
pub const VALUE_BYTES_MAX: usize = 256;

/// Longest text of an error, in bytes: why a broker does not start, and what to do about it, must not be cut.
pub const MESSAGE_BYTES_MAX: usize = 4096;
