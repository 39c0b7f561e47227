//! Every limit of the TCP server, with its default.

use std::time::Duration;

/// Limits and deadlines of a listener and its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Connections at once. Lowered to 60 % of the descriptor limit, see [`super::connection_limit`].
    pub connections_max: usize,
    /// Connections at once that have not said Hello yet; more wait to be accepted.
    pub ungreeted_max: usize,
    /// From accept to Hello, in all.
    pub greeting_deadline: Duration,
    /// Longest frame before the greeting, in bytes.
    pub greeting_frame_bytes_max: u32,
    /// Frames before the greeting.
    pub greeting_frames_max: u32,
    /// Bytes before the greeting, in all.
    pub greeting_bytes_max: u64,
    /// Longest request frame, in bytes.
    pub request_bytes_max: u32,
    /// Longest response frame, in bytes.
    pub response_bytes_max: u32,
    /// Requests of one connection that were read and are not answered, without the parked ones. More are not read.
    pub requests_running_max: usize,
    /// Long polls and disk reads of one connection. More are answered with `BACKPRESSURE`.
    pub requests_parked_max: usize,
    /// Bytes of unanswered requests of one connection. More are not read; a single request may be larger.
    pub connection_request_bytes_max: u64,
    /// Bytes of replies that one connection has not taken yet, above which its requests are not read.
    pub connection_reply_bytes_max: usize,
    /// Bytes of unanswered requests of all connections. Taken for the declared length before a body is read; a
    /// quarter is for requests up to 64 KiB alone.
    pub request_memory_bytes_max: usize,
    /// A started frame must end, or make [`progress_bytes`](Self::progress_bytes), in each window of this length.
    pub progress_window: Duration,
    /// See [`progress_window`](Self::progress_window).
    pub progress_bytes: u64,
    /// A peer that takes nothing of its replies for so long is hung up on.
    pub output_deadline: Duration,
    /// A connection without any request for so long is closed.
    pub idle_deadline: Duration,
    /// How long a request waits for room if it does not say so itself.
    pub request_deadline_default: Duration,
    /// Longest wait of a long poll.
    pub fetch_wait_max: Duration,
    /// How long the broker goes on reading, and throwing away, what a peer sends after the last reply: a socket closed
    /// with unread bytes would reset the connection and take the reply with it.
    pub linger: Duration,
    /// Named to peers that speak HTTP on this port.
    pub http_port: Option<u16>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            ungreeted_max: 64,
            greeting_deadline: Duration::from_secs(5),
            greeting_frame_bytes_max: 4 << 10,
            greeting_frames_max: 8,
            greeting_bytes_max: 16 << 10,
            request_bytes_max: 8 << 20,
            response_bytes_max: 16 << 20,
            requests_running_max: 64,
            requests_parked_max: 64,
            connection_request_bytes_max: 16 << 20,
            connection_reply_bytes_max: 8 << 20,
            request_memory_bytes_max: 256 << 20,
            progress_window: Duration::from_secs(10),
            progress_bytes: 64 << 10,
            output_deadline: Duration::from_secs(30),
            idle_deadline: Duration::from_secs(600),
            request_deadline_default: Duration::from_secs(30),
            fetch_wait_max: Duration::from_secs(30),
            linger: Duration::from_secs(1),
            http_port: None,
        }
    }
}
