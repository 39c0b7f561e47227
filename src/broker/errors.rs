//! How refusals of the pure code and of the engine are said to a client.

use super::Settings;
use super::times::{Off, TooFarOff};
use crate::api::{ApiError, ErrorDetails, OffsetToCommit};
use crate::metadata::{ConfigError, ConfigKey, MetaError, Topic};
use crate::model::{
    ErrorCode, InvalidGroupId, InvalidTopicName, LeaderEpoch, LogBounds, PartitionId, ProducerId, TopicId,
    TopicName, show_millis,
};
use crate::partition::Refusal;
use crate::record::BatchError;
use crate::storage::{Backpressure, ReadError, SubmitError};

/// There is no room just now.
pub(super) fn busy() -> ApiError {
    ApiError::new(ErrorCode::Backpressure, Backpressure::Busy.to_string()).retry_after_ms(100)
}

pub(super) fn not_admitted(refusal: Backpressure, settings: &Settings) -> ApiError {
    let text = refusal.to_string();
    match refusal {
        Backpressure::Busy => busy(),
        Backpressure::StorageFull { .. } => ApiError::new(ErrorCode::StorageFull, text)
            .hint("nothing was written; delete topics or add space, the broker goes on by itself")
            .retry_after_ms(settings.storage_full_retry_ms),
        Backpressure::TooLarge { bytes, max } => too_large(text, max, bytes)
            .hint("send the batches of this request in several requests, or make them smaller"),
    }
}

pub(super) fn unknown_topic_id(id: TopicId) -> ApiError {
    ApiError::new(
        ErrorCode::UnknownTopicOrPartition,
        format!("there is no topic with the id {id}"),
    )
    .hint("it was deleted, perhaps created again under another id: refresh the metadata")
}

pub(super) fn unknown_topic(name: &TopicName, nearest: Option<TopicName>) -> ApiError {
    let error = ApiError::new(
        ErrorCode::UnknownTopicOrPartition,
        format!("there is no topic {name}"),
    );
    let Some(nearest) = nearest else {
        return error.hint(format!("create it: naru topic create {name}"));
    };
    error
        .hint(format!(
            "did you mean {nearest}? otherwise create it: naru topic create {name}"
        ))
        .details(ErrorDetails {
            nearest_name: Some(nearest.to_string()),
            ..ErrorDetails::default()
        })
}

pub(super) fn unknown_partition(topic: &Topic, partition: PartitionId) -> ApiError {
    let (name, partitions) = (&topic.name, topic.partitions);
    ApiError::new(
        ErrorCode::UnknownTopicOrPartition,
        format!("topic {name} has no partition {partition}"),
    )
    .hint(format!("it has {partitions}, numbered from 0"))
    .details(ErrorDetails {
        limit: Some(u64::from(partitions)),
        actual: Some(u64::from(partition.0)),
        ..ErrorDetails::default()
    })
}

pub(super) fn deleted() -> ApiError {
    ApiError::new(ErrorCode::UnknownTopicOrPartition, "the topic was deleted").hint("refresh the metadata")
}

pub(super) fn bad_name(bad: &InvalidTopicName) -> ApiError {
    ApiError::new(ErrorCode::InvalidName, bad.to_string())
        .hint("1 to 200 of A-Z a-z 0-9 . _ -, not beginning with '__' or 'dlq.'")
        .details(field("topic"))
}

pub(super) fn not_owner(current: LeaderEpoch, got: LeaderEpoch) -> ApiError {
    ApiError::new(
        ErrorCode::NotOwner,
        format!("the request is for leader epoch {got}, the partition has {current}"),
    )
    .hint("refresh the metadata")
    .details(ErrorDetails {
        current_epoch: Some(current.0),
        ..ErrorDetails::default()
    })
}

pub(super) fn unknown_producer(id: ProducerId) -> ApiError {
    ApiError::new(
        ErrorCode::UnknownProducerId,
        format!("producer id {id} was never handed out"),
    )
    .hint("ask for one with InitProducer")
}

pub(super) fn out_of_sequence(refusal: Refusal) -> ApiError {
    let text = refusal.to_string();
    match refusal {
        Refusal::OutOfOrder { expected, .. } => ApiError::new(ErrorCode::OutOfOrderSequence, text)
            .hint(
                "a batch before this one is missing: bump the epoch, then send all that was not acknowledged",
            )
            .details(ErrorDetails {
                expected_sequence: Some(expected.0),
                ..ErrorDetails::default()
            }),
        Refusal::StaleEpoch { current, .. } => ApiError::new(ErrorCode::InvalidProducerEpoch, text)
            .hint("a newer instance of this producer writes here")
            .details(ErrorDetails {
                current_epoch: Some(i32::from(current.0)),
                ..ErrorDetails::default()
            }),
    }
}

pub(super) fn bad_batch(bad: &BatchError) -> ApiError {
    let text = bad.to_string();
    match bad {
        BatchError::Truncated { .. } | BatchError::Invalid(_) => ApiError::new(ErrorCode::InvalidBatch, text),
        BatchError::TooLarge { actual, max } => batch_too_large(*actual, *max),
        BatchError::Crc { .. } => ApiError::new(ErrorCode::CorruptBatch, text)
            .hint("it was damaged on the way; nothing was written"),
        BatchError::Compression(_) => ApiError::new(ErrorCode::UnsupportedCompression, text)
            .hint("use gzip (1), snappy (2), lz4 (3), zstd (4) or none (0)"),
        BatchError::Expands { max } => ApiError::new(ErrorCode::MessageTooLarge, text)
            .hint("send fewer records in a batch")
            .details(ErrorDetails {
                limit: Some(*max),
                ..ErrorDetails::default()
            }),
        BatchError::TimestampType => ApiError::new(ErrorCode::InvalidTimestamp, text),
        BatchError::Transactional => ApiError::new(ErrorCode::InvalidTxnState, text),
        BatchError::Record { .. } => ApiError::new(ErrorCode::InvalidRecord, text),
    }
}

pub(super) fn time_too_far_off(far: &TooFarOff) -> ApiError {
    let (ms, direction, name) = match far.off {
        Off::Behind(ms) => (ms, "behind", "message.timestamp.before.max.ms"),
        Off::Ahead(ms) => (ms, "ahead of", "message.timestamp.after.max.ms"),
    };
    let text = format!(
        "record {}: its timestamp {} lies {} {direction} the broker's clock, the topic allows {} ({name})",
        far.record,
        far.timestamp,
        show_millis(ms),
        show_millis(far.max_ms),
    );
    ApiError::new(ErrorCode::InvalidTimestamp, text)
        .hint("set the clock of the producer, or let the broker set times: message.timestamp.type=LogAppendTime")
        .details(ErrorDetails {
            limit: Some(far.max_ms),
            actual: Some(ms),
            ..field(name)
        })
}

pub(super) fn batch_too_large(actual: u64, max: u64) -> ApiError {
    too_large(
        format!("the batch has {actual} bytes, the topic allows {max} (max.message.bytes)"),
        max,
        actual,
    )
    .hint("send smaller batches, or raise the limit: naru topic config set TOPIC max.message.bytes=BYTES")
}

pub(super) fn submit(error: SubmitError) -> ApiError {
    match error {
        SubmitError::Poisoned => storage_failed(error.to_string()),
        SubmitError::NotOwner => deleted(),
        SubmitError::Busy => ApiError::new(ErrorCode::Backpressure, error.to_string()).retry_after_ms(100),
    }
}

pub(super) fn storage_failed(text: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::StorageFailed, text)
        .hint("the broker restarts; retry with the same sequence, or look whether it was written")
}

pub(super) fn read(error: ReadError) -> ApiError {
    let text = error.to_string();
    match error {
        ReadError::OutOfRange(bounds) => out_of_range(bounds),
        ReadError::Corrupt { first, last } => ApiError::new(ErrorCode::DataCorrupt, text)
            .hint("the damage is on the broker's disk; fetch from behind it to go on without these records")
            .details(ErrorDetails {
                first_offset: Some(first),
                last_offset: Some(last),
                ..ErrorDetails::default()
            }),
        ReadError::NotOwner => deleted(),
        ReadError::Io(_) => ApiError::new(ErrorCode::StorageFailed, text),
    }
}

pub(super) fn out_of_range(bounds: LogBounds) -> ApiError {
    let (start, end) = (bounds.log_start, bounds.high_watermark);
    ApiError::new(
        ErrorCode::OffsetOutOfRange,
        format!("the offset lies outside of {start} to {end}"),
    )
    .hint("begin at log_start_offset or at high_watermark")
    .details(ErrorDetails {
        log_start_offset: Some(start),
        high_watermark: Some(end),
        ..ErrorDetails::default()
    })
}

pub(super) fn too_many(what: &str, actual: usize, max: usize) -> ApiError {
    ApiError::new(
        ErrorCode::TooManyElements,
        format!("{actual} {what} in one request, at most {max} are allowed"),
    )
    .details(ErrorDetails {
        limit: u64::try_from(max).ok(),
        actual: u64::try_from(actual).ok(),
        ..ErrorDetails::default()
    })
}

pub(super) fn bad_argument(name: &str, text: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidArgument, text).details(field(name))
}

pub(super) fn internal(text: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Internal, text).hint("this is a bug of the broker: please report it")
}

pub(super) fn bad_group(bad: &InvalidGroupId) -> ApiError {
    ApiError::new(ErrorCode::InvalidName, bad.to_string())
        .hint("1 to 200 bytes of text that can be shown")
        .details(field("group"))
}

/// An offset that is not in its partition. A commit says what was processed, and that was read before.
pub(super) fn commit_out_of_range(offset: i64, bounds: LogBounds) -> ApiError {
    let (start, end) = (bounds.log_start, bounds.high_watermark);
    ApiError::new(
        ErrorCode::OffsetOutOfRange,
        format!("offset {offset} cannot be committed: consumers can have read up to {end}"),
    )
    .hint("commit the offset behind the last record that was processed")
    .details(ErrorDetails {
        log_start_offset: Some(start),
        high_watermark: Some(end),
        ..ErrorDetails::default()
    })
}

/// The same error with the item of the commit that is at fault: one bad item refuses all of them.
pub(super) fn of_item(error: ApiError, index: usize, item: &OffsetToCommit) -> ApiError {
    let asked = &item.partition;
    let topic = match asked.topic_id {
        Some(id) if asked.topic.is_empty() => id.to_string(),
        _ => asked.topic.to_string(),
    };
    let message = format!("{topic}/{}: {}", asked.partition, error.message);
    let details = ErrorDetails {
        field: Some(format!("commit_offsets.offsets[{index}]")),
        ..error.details
    };
    ApiError {
        message,
        details,
        ..error
    }
}

pub(super) fn metadata(error: MetaError) -> ApiError {
    let text = error.to_string();
    match error {
        MetaError::Name(bad) => bad_name(&bad),
        MetaError::Config(bad) => bad_config(&bad),
        MetaError::Partitions { asked, max } => limit(ErrorCode::InvalidPartitions, text, asked, max),
        MetaError::FewerPartitions { has, asked, .. } => limit(
            ErrorCode::InvalidPartitions,
            text,
            asked,
            has,
        )
        .hint(
            "make a new topic and write to that one; this one goes by its retention, or when it is deleted",
        ),
        MetaError::TooManyTopics { max } => ApiError::new(ErrorCode::LimitExceeded, text)
            .hint("delete topics that are not needed")
            .details(ErrorDetails {
                limit: u64::try_from(max).ok(),
                ..ErrorDetails::default()
            }),
        MetaError::TooManyPartitions { asked, max } => limit(ErrorCode::LimitExceeded, text, asked, max),
        MetaError::Exists { partitions, .. } => ApiError::new(ErrorCode::TopicAlreadyExists, text)
            .hint("if_not_exists makes this success where the number of partitions is the same")
            .details(ErrorDetails {
                actual: Some(u64::from(partitions)),
                ..ErrorDetails::default()
            }),
        MetaError::Unknown { name, nearest } => unknown_topic(&name, nearest),
        MetaError::OtherId { .. } => {
            ApiError::new(ErrorCode::UnknownTopicId, text).hint("refresh the metadata")
        }
        MetaError::OperationId(_) => bad_argument("operation_id", text),
    }
}

fn bad_config(bad: &ConfigError) -> ApiError {
    let error = ApiError::new(ErrorCode::InvalidConfig, bad.to_string());
    match bad {
        ConfigError::Unknown { nearest, .. } => match nearest {
            Some(nearest) => error
                .hint(format!("did you mean {nearest}?"))
                .details(ErrorDetails {
                    nearest_name: Some((*nearest).to_owned()),
                    ..field("configs")
                }),
            None => error
                .hint(format!("there are {}", config_names()))
                .details(field("configs")),
        },
        ConfigError::Refused { name, .. }
        | ConfigError::Value { name, .. }
        | ConfigError::Fixed(name)
        | ConfigError::Twice(name)
        | ConfigError::NoDefault(name) => error.details(field(name)),
    }
}

fn config_names() -> String {
    let names: Vec<_> = ConfigKey::all()
        .filter(|key| key.has_effect())
        .map(ConfigKey::name)
        .collect();
    names.join(", ")
}

fn limit(code: ErrorCode, text: String, actual: u32, max: u32) -> ApiError {
    ApiError::new(code, text).details(ErrorDetails {
        limit: Some(u64::from(max)),
        actual: Some(u64::from(actual)),
        ..ErrorDetails::default()
    })
}

pub(super) fn too_large(text: String, max: u64, actual: u64) -> ApiError {
    ApiError::new(ErrorCode::MessageTooLarge, text).details(ErrorDetails {
        limit: Some(max),
        actual: Some(actual),
        ..ErrorDetails::default()
    })
}

pub(super) fn field(name: &str) -> ErrorDetails {
    ErrorDetails {
        field: Some(name.to_owned()),
        ..ErrorDetails::default()
    }
}
