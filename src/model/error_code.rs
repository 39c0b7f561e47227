//! Names of everything that can go wrong, as the protocols and the command line show it.

/// What the caller should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Try again at once, with backoff.
    Retry,
    /// Try again after the time that the error names.
    RetryAfter,
    /// Refresh metadata, then try again.
    Refresh,
    /// Rejoin the group, then try again.
    Rejoin,
    /// Give up this operation; the session goes on.
    Abort,
    /// Give up this producer, member or connection.
    Fatal,
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $class:ident, $definite:literal;)*) => {
        /// Stable code of an error. Numbers and names are part of the protocol and never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorCode {
            /// All codes, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Number on the wire.
            pub const fn number(self) -> u32 {
                match self { $(Self::$variant => $number,)* }
            }

            /// Name on the wire and in the docs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What the caller should do next.
            pub const fn class(self) -> ErrorClass {
                match self { $(Self::$variant => ErrorClass::$class,)* }
            }

            /// True if the request surely had no effect.
            pub const fn is_definite(self) -> bool {
                match self { $(Self::$variant => $definite,)* }
            }

            /// The code with this number.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

error_codes! {
    /// A bug in the broker; whether the request had an effect is unknown.
    Internal = 1, "INTERNAL", Abort, false;
    /// The engine was poisoned by a failed write or sync before the outcome was known.
    StorageFailed = 2, "STORAGE_FAILED", Retry, false;
    /// The disk is full.
    StorageFull = 3, "STORAGE_FULL", RetryAfter, true;
    /// The broker is at one of its limits right now.
    Backpressure = 4, "BACKPRESSURE", RetryAfter, true;
    /// The broker is stopping.
    Draining = 5, "DRAINING", Refresh, true;
    /// The request's deadline passed before it was looked at.
    DeadlineExceeded = 6, "DEADLINE_EXCEEDED", Retry, true;
    /// Another broker or a newer epoch of this one owns the partition.
    NotOwner = 7, "NOT_OWNER", Refresh, true;

    /// The frame has length 0.
    EmptyFrame = 20, "EMPTY_FRAME", Fatal, true;
    /// The frame is longer than the limit.
    FrameTooLarge = 21, "FRAME_TOO_LARGE", Fatal, true;
    /// The frame is no valid protobuf message.
    Malformed = 22, "MALFORMED", Abort, true;
    /// The message nests deeper than allowed.
    TooDeep = 23, "TOO_DEEP", Abort, true;
    /// The message has more elements than allowed.
    TooManyElements = 24, "TOO_MANY_ELEMENTS", Abort, true;
    /// The message has more bytes in unknown fields than allowed.
    TooManyUnknown = 25, "TOO_MANY_UNKNOWN", Abort, true;
    /// The request has no body, or one that this broker does not know.
    UnknownRequest = 26, "UNKNOWN_REQUEST", Abort, true;
    /// The conversation is out of order: no Hello first, Hello twice, a request id twice in flight.
    Protocol = 27, "PROTOCOL", Fatal, true;
    /// No common protocol version.
    UnsupportedVersion = 28, "UNSUPPORTED_VERSION", Fatal, true;
    /// The client wants another cluster.
    WrongCluster = 29, "WRONG_CLUSTER", Fatal, true;
    /// A field has a value that it cannot have.
    InvalidArgument = 30, "INVALID_ARGUMENT", Abort, true;
    /// What comes over this connection is another protocol.
    WrongProtocol = 31, "WRONG_PROTOCOL", Fatal, true;

    /// No such topic, or no such partition of it.
    UnknownTopicOrPartition = 40, "UNKNOWN_TOPIC_OR_PARTITION", Refresh, true;
    /// A topic of this name exists.
    TopicAlreadyExists = 41, "TOPIC_ALREADY_EXISTS", Abort, true;
    /// The name is not allowed.
    InvalidName = 42, "INVALID_NAME", Abort, true;
    /// A configuration entry is unknown or has a bad value.
    InvalidConfig = 43, "INVALID_CONFIG", Abort, true;
    /// The number of partitions is out of range.
    InvalidPartitions = 44, "INVALID_PARTITIONS", Abort, true;
    /// A limit on how much of something may exist was reached.
    LimitExceeded = 45, "LIMIT_EXCEEDED", Abort, true;
    /// The topic of that name has another id than the caller thinks.
    UnknownTopicId = 46, "UNKNOWN_TOPIC_ID", Refresh, true;

    /// The batch is larger than the topic allows, or the request larger than a journal frame.
    MessageTooLarge = 60, "MESSAGE_TOO_LARGE", Abort, true;
    /// The batch contradicts itself or the format.
    InvalidBatch = 61, "INVALID_BATCH", Abort, true;
    /// The batch's checksum does not fit its bytes.
    CorruptBatch = 62, "CORRUPT_BATCH", Retry, true;
    /// A record of the batch is invalid.
    InvalidRecord = 63, "INVALID_RECORD", Abort, true;
    /// The codec is not supported.
    UnsupportedCompression = 64, "UNSUPPORTED_COMPRESSION", Abort, true;
    /// A timestamp lies too far from the broker's clock, or the batch sets the timestamp type, which is the broker's to set.
    InvalidTimestamp = 65, "INVALID_TIMESTAMP", Abort, true;
    /// The sequence does not follow the last one of this producer.
    OutOfOrderSequence = 66, "OUT_OF_ORDER_SEQUENCE", Fatal, true;
    /// A newer epoch of this producer exists.
    InvalidProducerEpoch = 67, "INVALID_PRODUCER_EPOCH", Abort, true;
    /// This producer id was never handed out.
    UnknownProducerId = 68, "UNKNOWN_PRODUCER_ID", Fatal, true;
    /// Transactions are not supported here.
    InvalidTxnState = 69, "INVALID_TXN_STATE", Abort, true;

    /// The offset lies outside of what can be read.
    OffsetOutOfRange = 80, "OFFSET_OUT_OF_RANGE", Abort, true;
    /// Acknowledged data cannot be read any more; the offsets are in the details.
    DataCorrupt = 81, "DATA_CORRUPT", Abort, true;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_and_names_are_unique_and_lead_back() {
        let numbers: BTreeSet<_> = ErrorCode::ALL.iter().map(|c| c.number()).collect();
        let names: BTreeSet<_> = ErrorCode::ALL.iter().map(|c| c.name()).collect();
        assert_eq!(numbers.len(), ErrorCode::ALL.len());
        assert_eq!(names.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), Some(*code));
        }
    }
}
