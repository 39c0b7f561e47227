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

impl ErrorClass {
    /// Name on the wire and in the docs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retry => "RETRY",
            Self::RetryAfter => "RETRY_AFTER",
            Self::Refresh => "REFRESH",
            Self::Rejoin => "REJOIN",
            Self::Abort => "ABORT",
            Self::Fatal => "FATAL",
        }
    }

    /// True if the same request may succeed later, once what the class asks for has been done.
    pub const fn is_retriable(self) -> bool {
        match self {
            Self::Retry | Self::RetryAfter | Self::Refresh | Self::Rejoin => true,
            Self::Abort | Self::Fatal => false,
        }
    }
}

macro_rules! error_codes {
    ($(#[doc = $cause:literal] $variant:ident = $number:literal, $name:literal, $class:ident, $definite:literal => $cure:literal;)*) => {
        /// Stable code of an error. Numbers and names are part of the protocol and never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $(#[doc = $cause] $variant,)*
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

            /// What has happened, in a sentence or two; the table of `docs/protocol.md` says the same.
            pub const fn cause(self) -> &'static str {
                // A documentation comment begins with the blank behind its slashes.
                match self { $(Self::$variant => $cause.trim_ascii(),)* }
            }

            /// What to do about it.
            pub const fn cure(self) -> &'static str {
                match self { $(Self::$variant => $cure,)* }
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
    Internal = 1, "INTERNAL", Abort, false
        => "Report it with the broker's log of that moment. Look whether the request took effect before you repeat it.";
    /// The engine was poisoned by a failed write or sync before the outcome was known.
    StorageFailed = 2, "STORAGE_FAILED", Retry, false
        => "Look at the disk and at the broker's log. The broker ends with exit code 74 and recovers when it is started again; then look whether the request took effect.";
    /// The disk is full.
    StorageFull = 3, "STORAGE_FULL", RetryAfter, true
        => "Make room on the disk of the data directory, delete or trim topics, or shorten their retention. The broker goes on by itself.";
    /// The broker is at one of its limits right now.
    Backpressure = 4, "BACKPRESSURE", RetryAfter, true
        => "Try again after the time that the error names; clients do. If it lasts, spread the load or raise the limit.";
    /// The broker is stopping.
    Draining = 5, "DRAINING", Refresh, true
        => "Connect again once the broker has been started again; clients do.";
    /// The request's deadline passed before it was looked at.
    DeadlineExceeded = 6, "DEADLINE_EXCEEDED", Retry, true
        => "Try again, with a longer deadline if the broker is busy.";
    /// Another broker or a newer epoch of this one owns the partition.
    NotOwner = 7, "NOT_OWNER", Refresh, true
        => "Ask for metadata and send the request to the leader that it names, with its epoch.";

    /// The frame has length 0.
    EmptyFrame = 20, "EMPTY_FRAME", Fatal, true
        => "Mend the client: a frame holds one message.";
    /// The frame is longer than the limit.
    FrameTooLarge = 21, "FRAME_TOO_LARGE", Fatal, true
        => "Say Hello first, then keep to request_bytes_max of its answer.";
    /// The frame is no valid protobuf message.
    Malformed = 22, "MALFORMED", Abort, true
        => "Mend the client: encode requests with the published .proto files.";
    /// The message nests deeper than allowed.
    TooDeep = 23, "TOO_DEEP", Abort, true
        => "Mend the client: no request of this protocol nests so deep.";
    /// The message has more elements than allowed.
    TooManyElements = 24, "TOO_MANY_ELEMENTS", Abort, true
        => "Send less in one request, or records as raw batches.";
    /// The message has more bytes in unknown fields than allowed.
    TooManyUnknown = 25, "TOO_MANY_UNKNOWN", Abort, true
        => "Use a client that is not newer than the broker, or a newer broker.";
    /// The request has no body, or one that this broker does not know.
    UnknownRequest = 26, "UNKNOWN_REQUEST", Abort, true
        => "Use a newer broker, or do without this request.";
    /// The conversation is out of order: no Hello first, Hello twice, a request id twice in flight.
    Protocol = 27, "PROTOCOL", Fatal, true
        => "Mend the client: say Hello first, once, and give every request in flight an id of its own.";
    /// No common protocol version.
    UnsupportedVersion = 28, "UNSUPPORTED_VERSION", Fatal, true
        => "Use a client and a broker of similar age; the details name the versions of the broker.";
    /// The client wants another cluster.
    WrongCluster = 29, "WRONG_CLUSTER", Fatal, true
        => "Check the address, or expect the right cluster: 'naru cluster info' shows its id.";
    /// A field has a value that it cannot have.
    InvalidArgument = 30, "INVALID_ARGUMENT", Abort, true
        => "Correct the field that the details name.";
    /// What comes over this connection is another protocol.
    WrongProtocol = 31, "WRONG_PROTOCOL", Fatal, true
        => "Use the right port: 9640 is the native protocol, 9641 is HTTP.";

    /// No such topic, or no such partition of it.
    UnknownTopicOrPartition = 40, "UNKNOWN_TOPIC_OR_PARTITION", Refresh, true
        => "Check the name against 'naru topic list', or create the topic.";
    /// A topic of this name exists.
    TopicAlreadyExists = 41, "TOPIC_ALREADY_EXISTS", Abort, true
        => "Use another name, or --if-not-exists if the existing one will do.";
    /// The name is not allowed.
    InvalidName = 42, "INVALID_NAME", Abort, true
        => "Use letters, digits, '.', '_' and '-', at most 200, without the prefixes __ and dlq.";
    /// A configuration entry is unknown or has a bad value.
    InvalidConfig = 43, "INVALID_CONFIG", Abort, true
        => "Correct the entry that the message names; docs/topics.md lists all entries with their ranges.";
    /// The number of partitions is out of range.
    InvalidPartitions = 44, "INVALID_PARTITIONS", Abort, true
        => "Choose a number of partitions inside of the range that the message names.";
    /// A limit on how much of something may exist was reached.
    LimitExceeded = 45, "LIMIT_EXCEEDED", Abort, true
        => "Remove what is not needed any more, or ask for less at once.";
    /// The topic of that name has another id than the caller thinks.
    UnknownTopicId = 46, "UNKNOWN_TOPIC_ID", Refresh, true
        => "Ask for metadata: the topic was deleted, and perhaps created again under another id.";

    /// The batch is larger than the topic allows, or the request larger than a journal frame.
    MessageTooLarge = 60, "MESSAGE_TOO_LARGE", Abort, true
        => "Send smaller batches, or raise max.message.bytes of the topic; the details name the limit.";
    /// The batch contradicts itself or the format.
    InvalidBatch = 61, "INVALID_BATCH", Abort, true
        => "Mend the client that built the batch.";
    /// The batch's checksum does not fit its bytes.
    CorruptBatch = 62, "CORRUPT_BATCH", Retry, true
        => "Send it again. If it lasts, look at the network and the memory of both machines.";
    /// A record of the batch is invalid.
    InvalidRecord = 63, "INVALID_RECORD", Abort, true
        => "Correct the record that the message names.";
    /// The codec is not supported.
    UnsupportedCompression = 64, "UNSUPPORTED_COMPRESSION", Abort, true
        => "Use a codec that the broker has, or none.";
    /// A timestamp lies too far from the broker's clock, or the batch sets the timestamp type, which is the broker's to set.
    InvalidTimestamp = 65, "INVALID_TIMESTAMP", Abort, true
        => "Set the clock of the producer, or widen message.timestamp.before.max.ms and message.timestamp.after.max.ms of the topic. Batches carry create time; append time is the broker\'s to set.";
    /// The sequence does not follow the last one of this producer.
    OutOfOrderSequence = 66, "OUT_OF_ORDER_SEQUENCE", Fatal, true
        => "Begin with a new producer. Records behind the gap were not stored.";
    /// A newer epoch of this producer exists.
    InvalidProducerEpoch = 67, "INVALID_PRODUCER_EPOCH", Abort, true
        => "Stop this producer: another one with the same id has taken its place.";
    /// This producer id was never handed out.
    UnknownProducerId = 68, "UNKNOWN_PRODUCER_ID", Fatal, true
        => "Ask for a producer id with InitProducer before producing.";
    /// Transactions are not supported here.
    InvalidTxnState = 69, "INVALID_TXN_STATE", Abort, true
        => "Produce without transactions.";

    /// The offset lies outside of what can be read.
    OffsetOutOfRange = 80, "OFFSET_OUT_OF_RANGE", Abort, true
        => "Read from inside of the bounds that the details name: -o start begins at the first offset.";
    /// Acknowledged data cannot be read any more; the offsets are in the details.
    DataCorrupt = 81, "DATA_CORRUPT", Abort, true
        => "Read on behind the last damaged offset. Restore what is missing from where it came from; 'naru log verify' shows the damage.";

    /// The group has no such member: its session has ended, it was removed, or the group was deleted.
    UnknownMemberId = 90, "UNKNOWN_MEMBER_ID", Rejoin, true
        => "Drop everything that was assigned, then join again under a new member id; clients do. If it happens often, heartbeat more often or raise session.timeout.ms of the group.";
    /// The member's epoch or what it claims to hold is not what the group knows.
    FencedMemberEpoch = 91, "FENCED_MEMBER_EPOCH", Rejoin, true
        => "Drop everything that was assigned, then join again under a new member id; clients do.";
    /// The member's epoch has been passed: the group moves, and the next heartbeat tells where to.
    StaleMemberEpoch = 92, "STALE_MEMBER_EPOCH", Retry, true
        => "Send a heartbeat, then try again with the epoch of its answer; clients do.";
    /// Another member has joined with the same instance id and has taken this one's place.
    FencedInstanceId = 93, "FENCED_INSTANCE_ID", Fatal, true
        => "Stop this member. If both are to run, give each an instance id of its own.";
    /// Members with the same instance id take each other's place again and again.
    UnreleasedInstanceId = 94, "UNRELEASED_INSTANCE_ID", RetryAfter, true
        => "Give every running member an instance id of its own; otherwise wait for the time that the error names.";
    /// There is no group of that name.
    UnknownGroup = 95, "UNKNOWN_GROUP", Abort, true
        => "Check the name against 'naru group list'. A group begins with its first member or its first commit.";
    /// The group has members, and what was asked is for groups without.
    GroupNotEmpty = 96, "GROUP_NOT_EMPTY", Abort, true
        => "Stop the members, or evict them; 'naru group members' shows them. A consumer that assigns itself needs a group of its own.";
    /// The proposed assignment cannot be the group's.
    InvalidAssignment = 97, "INVALID_ASSIGNMENT", Abort, true
        => "Give every partition to exactly one member that subscribes to its topic; the message names the one at fault. The broker assigns if no valid proposal comes.";
    /// The group has as many members as a group may have.
    GroupFull = 98, "GROUP_FULL", Abort, true
        => "Stop members that have nothing to do, or use several groups.";
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

    #[test]
    fn every_code_has_a_cause_and_a_cure_in_sentences() {
        for code in ErrorCode::ALL {
            for text in [code.cause(), code.cure()] {
                let sentence = text.starts_with(char::is_uppercase) && text.ends_with('.');
                assert!(sentence && text.trim() == text, "{}: {text:?}", code.name());
            }
        }
    }
}
