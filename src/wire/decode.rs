//! Requests from the wire into the broker's types. Says which field is wrong; judges nothing that the broker judges.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm
)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::api;
use crate::api::{
    ApiError, ErrorDetails, FetchForm, OffsetSpec, ProducePayload, ProducerStamp, TopicPartition,
};
use crate::model::{
    Acks, ErrorCode, LeaderEpoch, PartitionId, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicId,
};
use crate::pb::v1;
use crate::pb::v1::produce_partition::Payload;
use crate::record::{Header, Record};

/// Bytes of a fetch that names no limit.
const FETCH_BYTES_DEFAULT: u32 = 8 << 20;

/// Room in a response for everything but the batches of a fetch.
const RESPONSE_RESERVE_BYTES: u32 = 256 << 10;

const LIST_COUNT_DEFAULT: u32 = 100;
const LIST_COUNT_MAX: u32 = 1000;

pub(super) mod groups;

/// Limits that are applied by cutting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cuts {
    pub(super) response_bytes_max: u32,
    pub(super) fetch_wait_max: Duration,
}

pub(super) fn metadata(request: v1::MetadataRequest) -> api::Request {
    let v1::MetadataRequest { topics, all } = request;
    api::Request::Metadata(api::Metadata { topics, all })
}

pub(super) fn create_topic(request: v1::CreateTopicRequest) -> Result<api::Request, ApiError> {
    let v1::CreateTopicRequest {
        name,
        partitions,
        configs,
        if_not_exists,
        operation_id,
    } = request;
    let operation_id = topic_id("create_topic.operation_id", &operation_id)?;
    if operation_id.is_some_and(|id| id.is_internal()) {
        return Err(invalid(
            "create_topic.operation_id",
            "ids below 65536 are the broker's own",
        ));
    }
    Ok(api::Request::CreateTopic(api::CreateTopic {
        name,
        partitions,
        configs: config_entries(configs),
        if_not_exists,
        operation_id,
    }))
}

pub(super) fn delete_topic(request: v1::DeleteTopicRequest) -> Result<api::Request, ApiError> {
    let v1::DeleteTopicRequest { name, topic_id: id } = request;
    let id = topic_id("delete_topic.topic_id", &id)?;
    Ok(api::Request::DeleteTopic(api::DeleteTopic { name, id }))
}

pub(super) fn alter_topic(request: v1::AlterTopicRequest) -> Result<api::Request, ApiError> {
    let v1::AlterTopicRequest {
        name,
        topic_id: id,
        set,
        unset,
        partitions,
        validate_only,
    } = request;
    Ok(api::Request::AlterTopic(api::AlterTopic {
        name,
        id: topic_id("alter_topic.topic_id", &id)?,
        set: config_entries(set),
        unset,
        partitions,
        validate_only,
    }))
}

fn config_entries(entries: Vec<v1::ConfigEntry>) -> Vec<(String, String)> {
    let entries = entries.into_iter();
    entries.map(|entry| (entry.name, entry.value)).collect()
}

pub(super) fn describe_topic(request: v1::DescribeTopicRequest) -> api::Request {
    api::Request::DescribeTopic(api::DescribeTopic { name: request.name })
}

pub(super) fn list_topics(request: v1::ListTopicsRequest) -> api::Request {
    let v1::ListTopicsRequest {
        cursor,
        count,
        r#match: matching,
        include_internal,
    } = request;
    api::Request::ListTopics(api::ListTopics {
        cursor,
        count: page(count),
        matching,
        include_internal,
    })
}

/// Size of a page of a list.
fn page(count: u32) -> u32 {
    match count {
        0 => LIST_COUNT_DEFAULT,
        some => some.min(LIST_COUNT_MAX),
    }
}

pub(super) fn list_offsets(request: v1::ListOffsetsRequest) -> Result<api::Request, ApiError> {
    let partitions = each(request.partitions, "list_offsets.partitions", |item, path| {
        let spec = offset_spec(item.spec, item.timestamp, path)?;
        let partition = topic_partition(item.partition, path)?;
        Ok(api::ListOffsetsPartition { partition, spec })
    })?;
    Ok(api::Request::ListOffsets(api::ListOffsets { partitions }))
}

pub(super) fn trim_topic(request: v1::TrimTopicRequest) -> Result<api::Request, ApiError> {
    let partitions = each(request.partitions, "trim_topic.partitions", |item, path| {
        let partition = topic_partition(item.partition, path)?;
        Ok(api::TrimPartition {
            partition,
            to: item.to_offset,
        })
    })?;
    Ok(api::Request::TrimTopic(api::TrimTopic { partitions }))
}

fn offset_spec(spec: i32, timestamp: Option<i64>, path: Path) -> Result<OffsetSpec, ApiError> {
    match (v1::OffsetSpec::try_from(spec), timestamp) {
        (Ok(v1::OffsetSpec::Earliest), None) => Ok(OffsetSpec::Earliest),
        (Ok(v1::OffsetSpec::Latest), None) => Ok(OffsetSpec::Latest),
        (Ok(v1::OffsetSpec::AtTimestamp), Some(at)) => Ok(OffsetSpec::AtTimestamp(Timestamp(at))),
        (Ok(v1::OffsetSpec::AtTimestamp), None) => Err(invalid(
            path.field("timestamp"),
            "must be given with AT_TIMESTAMP",
        )),
        (Ok(v1::OffsetSpec::Earliest | v1::OffsetSpec::Latest), Some(_)) => {
            Err(invalid(path.field("timestamp"), "belongs to AT_TIMESTAMP alone"))
        }
        (Ok(v1::OffsetSpec::Unspecified), _) => Err(invalid(path.field("spec"), "must be given")),
        (Err(_), _) => Err(invalid(path.field("spec"), format!("{spec} is no value of it"))),
    }
}

pub(super) fn init_producer(request: v1::InitProducerRequest) -> Result<api::Request, ApiError> {
    let v1::InitProducerRequest {
        producer_id,
        producer_epoch,
    } = request;
    let current = match (producer_id, producer_epoch) {
        (-1 | 0, -1) => None,
        (_, -1) => {
            return Err(invalid(
                "init_producer.producer_epoch",
                "must be given with the id of a producer",
            ));
        }
        (id, epoch) => Some((
            producer_id_from("init_producer.producer_id", id)?,
            producer_epoch_from("init_producer.producer_epoch", epoch)?,
        )),
    };
    Ok(api::Request::InitProducer(api::InitProducer { current }))
}

pub(super) fn produce(request: v1::ProduceRequest) -> Result<api::Request, ApiError> {
    let acks = match v1::Acks::try_from(request.acks) {
        Ok(v1::Acks::Unspecified | v1::Acks::Fsync) => Acks::Fsync,
        Ok(v1::Acks::Memory) => Acks::Memory,
        Err(_) => {
            return Err(invalid(
                "produce.acks",
                format!("{} is no value of it", request.acks),
            ));
        }
    };
    let partitions = each(request.partitions, "produce.partitions", produce_partition)?;
    Ok(api::Request::Produce(api::Produce { acks, partitions }))
}

fn produce_partition(item: v1::ProducePartition, path: Path) -> Result<api::ProducePartition, ApiError> {
    Ok(api::ProducePartition {
        partition: topic_partition(item.partition, path)?,
        leader_epoch: leader_epoch(item.leader_epoch, path)?,
        payload: produce_payload(
            item.payload,
            (item.producer_id, item.producer_epoch, item.base_sequence),
            path,
        )?,
    })
}

fn produce_payload(
    payload: Option<Payload>,
    producer: (Option<i64>, Option<i32>, Option<i32>),
    path: Path,
) -> Result<ProducePayload, ApiError> {
    match payload {
        None => Err(invalid(path.field("payload"), "must be given")),
        Some(Payload::Raw(batch)) => match producer {
            (None, None, None) => Ok(ProducePayload::Raw(batch)),
            (Some(_), _, _) | (_, Some(_), _) | (_, _, Some(_)) => Err(invalid(
                path.field("producer_id"),
                "belongs to the structured form; a raw batch has its producer in its header",
            )),
        },
        Some(Payload::Structured(records)) => Ok(ProducePayload::Structured {
            records: records.records.into_iter().map(record).collect(),
            producer: producer_stamp(producer, path)?,
        }),
    }
}

fn producer_stamp(
    producer: (Option<i64>, Option<i32>, Option<i32>),
    path: Path,
) -> Result<Option<ProducerStamp>, ApiError> {
    match producer {
        (None, None, None) => Ok(None),
        (Some(id), Some(epoch), Some(sequence)) => {
            if sequence < 0 {
                return Err(invalid(
                    path.field("base_sequence"),
                    format!("{sequence} is negative"),
                ));
            }
            Ok(Some(ProducerStamp {
                id: producer_id_from(path.field("producer_id"), id)?,
                epoch: producer_epoch_from(path.field("producer_epoch"), epoch)?,
                base_sequence: Sequence(sequence),
            }))
        }
        (None, _, _) | (_, None, _) | (_, _, None) => Err(invalid(
            path.field("producer_id"),
            "producer_id, producer_epoch and base_sequence are given together or not at all",
        )),
    }
}

fn record(record: v1::Record) -> Record {
    let v1::Record {
        key,
        value,
        headers,
        timestamp,
        offset: _,
    } = record;
    Record {
        key,
        value,
        headers: headers
            .into_iter()
            .map(|v1::Header { key, value }| Header { key, value })
            .collect(),
        timestamp: timestamp.map(Timestamp),
    }
}

pub(super) fn fetch(request: v1::FetchRequest, cuts: Cuts) -> Result<api::Request, ApiError> {
    let form = match v1::FetchForm::try_from(request.form) {
        Ok(v1::FetchForm::Unspecified | v1::FetchForm::Raw) => FetchForm::Raw,
        Ok(v1::FetchForm::Structured) => FetchForm::Structured,
        Err(_) => {
            return Err(invalid(
                "fetch.form",
                format!("{} is no value of it", request.form),
            ));
        }
    };
    let partitions = each(request.partitions, "fetch.partitions", |item, path| {
        Ok(api::FetchPartition {
            partition: topic_partition(item.partition, path)?,
            offset: item.offset,
            max_bytes: if item.max_bytes == 0 {
                u32::MAX
            } else {
                item.max_bytes
            },
            leader_epoch: leader_epoch(item.leader_epoch, path)?,
        })
    })?;
    let max_bytes = match request.max_bytes {
        0 => FETCH_BYTES_DEFAULT,
        some => some,
    };
    let room = cuts.response_bytes_max.saturating_sub(RESPONSE_RESERVE_BYTES);
    Ok(api::Request::Fetch(api::Fetch {
        max_wait: Duration::from_millis(u64::from(request.max_wait_ms)).min(cuts.fetch_wait_max),
        min_bytes: request.min_bytes,
        max_bytes: max_bytes.min(room.max(1)),
        form,
        member: groups::of_fetch(request.group, request.member)?,
        partitions,
    }))
}

pub(super) fn commit_offsets(request: v1::CommitOffsetsRequest) -> Result<api::Request, ApiError> {
    let v1::CommitOffsetsRequest {
        group,
        member,
        offsets,
    } = request;
    let offsets = each(offsets, "commit_offsets.offsets", offset_to_commit)?;
    Ok(api::Request::CommitOffsets(api::CommitOffsets {
        group,
        member: member.map(groups::member),
        offsets,
    }))
}

fn offset_to_commit(item: v1::OffsetToCommit, path: Path) -> Result<api::OffsetToCommit, ApiError> {
    Ok(api::OffsetToCommit {
        partition: topic_partition(item.partition, path)?,
        offset: item.offset,
        leader_epoch: leader_epoch(item.leader_epoch, path)?,
        metadata: item.metadata,
    })
}

pub(super) fn fetch_offsets(request: v1::FetchOffsetsRequest) -> Result<api::Request, ApiError> {
    let v1::FetchOffsetsRequest { group, partitions } = request;
    // Here an empty list has a meaning.
    let partitions = each_if_any(partitions, "fetch_offsets.partitions", |item, path| {
        topic_partition(Some(item), path)
    })?;
    Ok(api::Request::FetchOffsets(api::FetchOffsets {
        group,
        partitions,
    }))
}

/// A place in a request, put into words only if something is wrong there.
#[derive(Clone, Copy)]
struct Path {
    list: &'static str,
    index: usize,
}

impl Path {
    fn field(self, name: &str) -> String {
        format!("{}[{}].{name}", self.list, self.index)
    }
}

/// Converts a list that must not be empty.
fn each<T, U>(
    items: Vec<T>,
    list: &'static str,
    convert: impl FnMut(T, Path) -> Result<U, ApiError>,
) -> Result<Vec<U>, ApiError> {
    if items.is_empty() {
        return Err(invalid(list, "must not be empty"));
    }
    each_if_any(items, list, convert)
}

/// Converts a list.
fn each_if_any<T, U>(
    items: Vec<T>,
    list: &'static str,
    mut convert: impl FnMut(T, Path) -> Result<U, ApiError>,
) -> Result<Vec<U>, ApiError> {
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| convert(item, Path { list, index }))
        .collect()
}

fn topic_partition(value: Option<v1::TopicPartition>, path: Path) -> Result<TopicPartition, ApiError> {
    let Some(v1::TopicPartition {
        topic,
        topic_id: id,
        partition,
    }) = value
    else {
        return Err(invalid(path.field("partition"), "must be given"));
    };
    let topic_id = topic_id(|| path.field("partition.topic_id"), &id)?;
    if topic.is_empty() && topic_id.is_none() {
        return Err(invalid(
            path.field("partition.topic"),
            "must be given, or topic_id instead",
        ));
    }
    Ok(TopicPartition {
        topic: Arc::from(topic),
        topic_id,
        partition: PartitionId(partition),
    })
}

fn topic_id(field: impl FieldName, bytes: &Bytes) -> Result<Option<TopicId>, ApiError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    match TopicId::from_slice(bytes) {
        Some(id) => Ok(Some(id)),
        None => Err(invalid(
            field,
            format!("must have 16 bytes, this has {}", bytes.len()),
        )),
    }
}

fn leader_epoch(value: Option<i32>, path: Path) -> Result<Option<LeaderEpoch>, ApiError> {
    match value {
        Some(epoch) if epoch < 0 => Err(invalid(
            path.field("leader_epoch"),
            format!("{epoch} is negative"),
        )),
        other => Ok(other.map(LeaderEpoch)),
    }
}

fn producer_id_from(field: impl FieldName, id: i64) -> Result<ProducerId, ApiError> {
    if id < 0 {
        return Err(invalid(field, format!("{id} is negative")));
    }
    Ok(ProducerId(id))
}

fn producer_epoch_from(field: impl FieldName, epoch: i32) -> Result<ProducerEpoch, ApiError> {
    match i16::try_from(epoch) {
        Ok(epoch) if epoch >= 0 => Ok(ProducerEpoch(epoch)),
        Ok(_) | Err(_) => Err(invalid(
            field,
            format!("{epoch} is not between 0 and {}", i16::MAX),
        )),
    }
}

/// The name of a field, or how to make it.
trait FieldName {
    fn name(self) -> String;
}

impl FieldName for &str {
    fn name(self) -> String {
        self.to_owned()
    }
}

impl FieldName for String {
    fn name(self) -> String {
        self
    }
}

impl<F: FnOnce() -> String> FieldName for F {
    fn name(self) -> String {
        self()
    }
}

/// A field has a value that it cannot have.
pub(super) fn invalid_argument(field: String, what: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidArgument, format!("{field}: {what}")).details(ErrorDetails {
        field: Some(field),
        ..ErrorDetails::default()
    })
}

fn invalid(field: impl FieldName, what: impl AsRef<str>) -> ApiError {
    invalid_argument(field.name(), what.as_ref())
}
