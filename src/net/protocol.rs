//! What the net asks of a protocol: frames in and out, never sockets.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::frame::{FrameError, FrameOut};
use crate::api::{ApiError, Reply, Request};
use crate::model::ErrorCode;

/// A protocol in frames. Stateless: the connection knows whether it was greeted.
pub trait Protocol: Send + Sync + 'static {
    /// Judges a frame of a connection that was not greeted yet.
    fn greet(&self, frame: Bytes) -> Greeting;

    /// Decodes a frame of a greeted connection.
    fn decode(&self, frame: Bytes) -> Decoded;

    /// Encodes the reply to the request with this id.
    fn encode(&self, id: u64, reply: Reply) -> FrameOut;

    /// The error, for no request in particular, that answers bytes which are no frames.
    fn frame_error(&self, error: FrameError) -> ApiError;
}

/// What to do with a frame before the greeting.
#[derive(Debug)]
pub enum Greeting {
    /// The greeting was accepted: answer, the connection is open now.
    Welcome {
        /// What the peer gets.
        answer: FrameOut,
        /// Name and version of the peer's software, cut to what can be shown.
        software: Arc<str>,
    },
    /// Answer; still not greeted.
    Answer(FrameOut),
    /// Answer and hang up.
    Refuse {
        /// For the counters.
        code: ErrorCode,
        /// What the peer gets.
        answer: FrameOut,
    },
}

/// A decoded frame.
#[derive(Debug)]
pub struct Decoded {
    /// Id of the request, 0 if it cannot be known.
    pub id: u64,
    /// What to do.
    pub decision: Decision,
}

/// What to do with a frame.
#[derive(Debug)]
pub enum Decision {
    /// Hand it to the broker.
    Request {
        /// The request.
        request: Request,
        /// How long the client waits for it, if it says so.
        deadline: Option<Duration>,
        /// Memory that the decoded request takes beside its frame, in bytes.
        decoded_bytes: u64,
    },
    /// The protocol answers by itself.
    Answer(FrameOut),
    /// Answer with the error.
    Refuse(ApiError),
    /// Answer with the error and hang up.
    HangUp(ApiError),
}
