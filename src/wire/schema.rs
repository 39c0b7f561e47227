//! Messages and fields of a request, as the guard needs them. A test compares this with the .proto files.

/// Type of a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// `uint64`.
    U64,
    /// `int64`.
    I64,
    /// `uint32`.
    U32,
    /// `int32`.
    I32,
    /// `repeated uint32`, packed or not.
    U32s,
    /// `bool`.
    Bool,
    /// An enum.
    Enum,
    /// `string`.
    String,
    /// `bytes`.
    Bytes,
    /// A message.
    Message(&'static Message),
}

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) name: &'static str,
    fields: &'static [Field],
}

impl Message {
    /// The field with this number. Messages have a dozen fields at most, so the first match is found soonest by walking.
    pub(super) fn field(&self, number: u64) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.number == number)
    }

    #[cfg(test)]
    pub(super) fn fields(&self) -> &'static [Field] {
        self.fields
    }
}

macro_rules! message {
    ($ident:ident = $name:literal { $($field:ident = $number:literal: $kind:expr,)* }) => {
        pub(super) static $ident: Message = Message {
            name: $name,
            fields: &[$(Field { number: $number, name: stringify!($field), kind: $kind },)*],
        };
    };
}

message!(REQUEST = "Request" {
    request_id = 1: Kind::U64,
    deadline_ms = 2: Kind::U32,
    produce = 19: Kind::Message(&PRODUCE),
    fetch = 20: Kind::Message(&FETCH),
    hello = 10: Kind::Message(&HELLO),
    ping = 11: Kind::Message(&PING),
    metadata = 12: Kind::Message(&METADATA),
    create_topic = 13: Kind::Message(&CREATE_TOPIC),
    delete_topic = 14: Kind::Message(&DELETE_TOPIC),
    describe_topic = 15: Kind::Message(&DESCRIBE_TOPIC),
    list_topics = 16: Kind::Message(&LIST_TOPICS),
    list_offsets = 17: Kind::Message(&LIST_OFFSETS),
    init_producer = 18: Kind::Message(&INIT_PRODUCER),
    alter_topic = 21: Kind::Message(&ALTER_TOPIC),
    trim_topic = 22: Kind::Message(&TRIM_TOPIC),
    describe_cluster = 23: Kind::Message(&DESCRIBE_CLUSTER),
    commit_offsets = 30: Kind::Message(&COMMIT_OFFSETS),
    fetch_offsets = 31: Kind::Message(&FETCH_OFFSETS),
    group_heartbeat = 32: Kind::Message(&GROUP_HEARTBEAT),
    close_consumer = 33: Kind::Message(&CLOSE_CONSUMER),
    propose_assignment = 34: Kind::Message(&PROPOSE_ASSIGNMENT),
    create_group = 35: Kind::Message(&CREATE_GROUP),
    alter_group = 36: Kind::Message(&ALTER_GROUP),
    delete_group = 37: Kind::Message(&DELETE_GROUP),
    describe_group = 38: Kind::Message(&DESCRIBE_GROUP),
    list_groups = 39: Kind::Message(&LIST_GROUPS),
    evict_member = 40: Kind::Message(&EVICT_MEMBER),
    step = 41: Kind::Message(&STEP),
});

message!(HELLO = "HelloRequest" {
    version_min = 1: Kind::U32,
    version_max = 2: Kind::U32,
    client_name = 3: Kind::String,
    client_version = 4: Kind::String,
    client_id = 5: Kind::String,
    features = 6: Kind::String,
    expected_cluster_id = 7: Kind::String,
});

message!(PING = "PingRequest" {
    payload = 1: Kind::Bytes,
});

message!(METADATA = "MetadataRequest" {
    topics = 1: Kind::String,
    all = 2: Kind::Bool,
});

message!(CREATE_TOPIC = "CreateTopicRequest" {
    name = 1: Kind::String,
    partitions = 2: Kind::U32,
    configs = 3: Kind::Message(&CONFIG_ENTRY),
    if_not_exists = 4: Kind::Bool,
    operation_id = 5: Kind::Bytes,
});

message!(CONFIG_ENTRY = "ConfigEntry" {
    name = 1: Kind::String,
    value = 2: Kind::String,
    source = 3: Kind::String,
    without_effect = 4: Kind::Bool,
});

message!(ALTER_TOPIC = "AlterTopicRequest" {
    name = 1: Kind::String,
    topic_id = 2: Kind::Bytes,
    set = 3: Kind::Message(&CONFIG_ENTRY),
    unset = 4: Kind::String,
    partitions = 5: Kind::U32,
    validate_only = 6: Kind::Bool,
});

message!(DELETE_TOPIC = "DeleteTopicRequest" {
    name = 1: Kind::String,
    topic_id = 2: Kind::Bytes,
});

message!(DESCRIBE_TOPIC = "DescribeTopicRequest" {
    name = 1: Kind::String,
});

message!(LIST_TOPICS = "ListTopicsRequest" {
    cursor = 1: Kind::String,
    count = 2: Kind::U32,
    match = 3: Kind::String,
    include_internal = 4: Kind::Bool,
});

message!(LIST_OFFSETS = "ListOffsetsRequest" {
    partitions = 1: Kind::Message(&LIST_OFFSETS_PARTITION),
});

message!(LIST_OFFSETS_PARTITION = "ListOffsetsPartition" {
    partition = 1: Kind::Message(&TOPIC_PARTITION),
    spec = 2: Kind::Enum,
    timestamp = 3: Kind::I64,
});

message!(TRIM_TOPIC = "TrimTopicRequest" {
    partitions = 1: Kind::Message(&TRIM_PARTITION),
});

message!(TRIM_PARTITION = "TrimPartition" {
    partition = 1: Kind::Message(&TOPIC_PARTITION),
    to_offset = 2: Kind::I64,
});

message!(TOPIC_PARTITION = "TopicPartition" {
    topic = 1: Kind::String,
    topic_id = 2: Kind::Bytes,
    partition = 3: Kind::U32,
});

message!(INIT_PRODUCER = "InitProducerRequest" {
    producer_id = 1: Kind::I64,
    producer_epoch = 2: Kind::I32,
});

message!(PRODUCE = "ProduceRequest" {
    acks = 1: Kind::Enum,
    partitions = 15: Kind::Message(&PRODUCE_PARTITION),
});

message!(PRODUCE_PARTITION = "ProducePartition" {
    partition = 1: Kind::Message(&TOPIC_PARTITION),
    leader_epoch = 2: Kind::I32,
    producer_id = 3: Kind::I64,
    producer_epoch = 4: Kind::I32,
    base_sequence = 5: Kind::I32,
    raw = 14: Kind::Bytes,
    structured = 15: Kind::Message(&RECORDS),
});

message!(RECORDS = "Records" {
    records = 1: Kind::Message(&RECORD),
});

message!(RECORD = "Record" {
    key = 1: Kind::Bytes,
    value = 2: Kind::Bytes,
    headers = 3: Kind::Message(&HEADER),
    timestamp = 4: Kind::I64,
    offset = 5: Kind::I64,
});

message!(HEADER = "Header" {
    key = 1: Kind::String,
    value = 2: Kind::Bytes,
});

message!(FETCH = "FetchRequest" {
    max_wait_ms = 1: Kind::U32,
    min_bytes = 2: Kind::U32,
    max_bytes = 3: Kind::U32,
    form = 4: Kind::Enum,
    group = 5: Kind::String,
    member = 6: Kind::Message(&GROUP_MEMBER),
    partitions = 15: Kind::Message(&FETCH_PARTITION),
});

message!(FETCH_PARTITION = "FetchPartition" {
    partition = 1: Kind::Message(&TOPIC_PARTITION),
    offset = 2: Kind::I64,
    max_bytes = 3: Kind::U32,
    leader_epoch = 4: Kind::I32,
});

message!(DESCRIBE_CLUSTER = "DescribeClusterRequest" {});

message!(COMMIT_OFFSETS = "CommitOffsetsRequest" {
    group = 1: Kind::String,
    member = 2: Kind::Message(&GROUP_MEMBER),
    offsets = 15: Kind::Message(&OFFSET_TO_COMMIT),
});

message!(OFFSET_TO_COMMIT = "OffsetToCommit" {
    partition = 1: Kind::Message(&TOPIC_PARTITION),
    offset = 2: Kind::I64,
    leader_epoch = 3: Kind::I32,
    metadata = 4: Kind::String,
});

message!(FETCH_OFFSETS = "FetchOffsetsRequest" {
    group = 1: Kind::String,
    partitions = 15: Kind::Message(&TOPIC_PARTITION),
});

message!(GROUP_MEMBER = "GroupMember" {
    member_id = 1: Kind::String,
    member_epoch = 2: Kind::U32,
    instance_id = 3: Kind::String,
});

message!(TOPIC_PARTITIONS = "TopicPartitions" {
    topic = 1: Kind::String,
    topic_id = 2: Kind::Bytes,
    partitions = 3: Kind::U32s,
});

message!(GROUP_HEARTBEAT = "GroupHeartbeatRequest" {
    group = 1: Kind::String,
    member_id = 2: Kind::String,
    member_epoch = 3: Kind::U32,
    revision = 4: Kind::U64,
    instance_id = 5: Kind::String,
    client_id = 6: Kind::String,
    max_wait_ms = 7: Kind::U32,
    subscription = 8: Kind::Message(&SUBSCRIPTION),
    owned = 9: Kind::Message(&OWNED_PARTITIONS),
});

message!(SUBSCRIPTION = "Subscription" {
    topics = 1: Kind::String,
    patterns = 2: Kind::String,
});

message!(OWNED_PARTITIONS = "OwnedPartitions" {
    topics = 1: Kind::Message(&TOPIC_PARTITIONS),
});

message!(CLOSE_CONSUMER = "CloseConsumerRequest" {
    group = 1: Kind::String,
    member = 2: Kind::Message(&GROUP_MEMBER),
    offsets = 15: Kind::Message(&OFFSET_TO_COMMIT),
});

message!(PROPOSE_ASSIGNMENT = "ProposeAssignmentRequest" {
    group = 1: Kind::String,
    member = 2: Kind::Message(&GROUP_MEMBER),
    group_epoch = 3: Kind::U32,
    assignments = 15: Kind::Message(&MEMBER_ASSIGNMENT),
});

message!(MEMBER_ASSIGNMENT = "MemberAssignment" {
    member_id = 1: Kind::String,
    partitions = 2: Kind::Message(&TOPIC_PARTITIONS),
});

message!(CREATE_GROUP = "CreateGroupRequest" {
    group = 1: Kind::String,
    configs = 2: Kind::Message(&CONFIG_ENTRY),
});

message!(ALTER_GROUP = "AlterGroupRequest" {
    group = 1: Kind::String,
    set = 2: Kind::Message(&CONFIG_ENTRY),
    unset = 3: Kind::String,
});

message!(DELETE_GROUP = "DeleteGroupRequest" {
    group = 1: Kind::String,
});

message!(DESCRIBE_GROUP = "DescribeGroupRequest" {
    group = 1: Kind::String,
});

message!(LIST_GROUPS = "ListGroupsRequest" {
    cursor = 1: Kind::String,
    count = 2: Kind::U32,
    match = 3: Kind::String,
});

message!(EVICT_MEMBER = "EvictMemberRequest" {
    group = 1: Kind::String,
    member_id = 2: Kind::String,
    instance_id = 3: Kind::String,
    reason = 4: Kind::String,
});

message!(STEP = "StepRequest" {
    group = 1: Kind::String,
    member = 2: Kind::Message(&GROUP_MEMBER),
    producer_id = 3: Kind::I64,
    producer_epoch = 4: Kind::I32,
    sequence = 5: Kind::I32,
    offsets = 6: Kind::Message(&OFFSET_TO_COMMIT),
    appends = 15: Kind::Message(&PRODUCE_PARTITION),
});
