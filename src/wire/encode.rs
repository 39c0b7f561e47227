//! Replies from the broker's types onto the wire. Raw batches are shared, everything else is built and encoded.
#![deny(clippy::wildcard_enum_match_arm)]

mod groups;

use std::time::Duration;

use bytes::Bytes;

use super::payload::{self, Part};
use super::{PROTOCOL_VERSION, errors};
use crate::api::{
    AlteredTopic, ApiError, ConfigEntry, CreatedTopic, DeletionTime, DescribedCluster, DescribedTopic,
    ErrorDetails, FetchPayload, Fetched, FetchedPartition, GroupOffset, InitializedProducer, ListedOffset,
    ListedTopics, MetadataAnswer, NextDeletion, PartitionDescription, PartitionMetadata, Produced,
    ProducedPartition, Reply, Response, TopicListing, TopicMetadata, Trimmed,
};
use crate::model::{Acks, ErrorCode, Lsn, Offset, StorageHealth, StorageState, TopicId};
use crate::net::frame::{FrameOut, PREFIX_BYTES};
use crate::pb::v1;
use crate::pb::v1::fetched_partition::Payload;
use crate::pb::v1::response::Body;
use crate::record::Record;

const FETCH_TAG: u32 = 20;
const PARTITIONS_TAG: u32 = 15;
const RAW_BATCHES_TAG: u32 = 15;

/// The base offset of a duplicate that is older than what is remembered.
const NO_OFFSET: i64 = -1;

/// Encodes a reply; one above `bytes_max` becomes an error.
pub(super) fn reply(request_id: u64, reply: Reply, bytes_max: u32) -> FrameOut {
    let limit = u64::from(bytes_max);
    match frame(request_id, reply) {
        Some(frame) if frame.bytes() as u64 <= limit.saturating_add(PREFIX_BYTES as u64) => frame,
        Some(frame) => too_large(request_id, Some(frame.bytes() as u64), limit),
        None => too_large(request_id, None, limit),
    }
}

/// Encodes a body that the protocol answers with by itself.
pub(super) fn body(request_id: u64, body: Body) -> FrameOut {
    let frame = payload::whole(&envelope(request_id, Some(body)));
    frame.unwrap_or_else(|| too_large(request_id, None, u64::from(u32::MAX)))
}

fn too_large(request_id: u64, actual: Option<u64>, limit: u64) -> FrameOut {
    let error = ApiError::new(
        ErrorCode::LimitExceeded,
        format!("the answer is larger than a response may be ({limit} bytes)"),
    )
    .hint("ask for less at once")
    .details(ErrorDetails {
        limit: Some(limit),
        actual,
        ..ErrorDetails::default()
    });
    let frame = payload::whole(&envelope(request_id, Some(Body::Error(errors::to_wire(error)))));
    frame.expect("an error of two lines fits into a frame")
}

fn envelope(request_id: u64, body: Option<Body>) -> v1::Response {
    v1::Response { request_id, body }
}

/// The frame, unless it is larger than any frame.
fn frame(request_id: u64, reply: Reply) -> Option<FrameOut> {
    let body = match reply {
        Err(error) => Body::Error(errors::to_wire(error)),
        Ok(Response::Fetch(fetched)) => return fetch(request_id, fetched),
        Ok(Response::Metadata(answer)) => Body::Metadata(metadata(answer)),
        Ok(Response::CreateTopic(created)) => Body::CreateTopic(create_topic(created)),
        Ok(Response::DeleteTopic(id)) => Body::DeleteTopic(v1::DeleteTopicResponse {
            topic_id: topic_id(id),
        }),
        Ok(Response::DescribeTopic(topic)) => Body::DescribeTopic(describe_topic(topic)),
        Ok(Response::ListTopics(listed)) => Body::ListTopics(list_topics(listed)),
        Ok(Response::ListOffsets(partitions)) => Body::ListOffsets(v1::ListOffsetsResponse {
            partitions: partitions.into_iter().map(listed_offset).collect(),
        }),
        Ok(Response::InitProducer(producer)) => Body::InitProducer(init_producer(producer)),
        Ok(Response::Produce(Produced { partitions })) => Body::Produce(v1::ProduceResponse {
            partitions: partitions.into_iter().map(produced_partition).collect(),
        }),
        Ok(Response::AlterTopic(altered)) => Body::AlterTopic(alter_topic(altered)),
        Ok(Response::TrimTopic(trimmed)) => Body::TrimTopic(trim_topic(trimmed)),
        Ok(Response::DescribeCluster(cluster)) => Body::DescribeCluster(describe_cluster(*cluster)),
        Ok(Response::CommitOffsets(at)) => {
            Body::CommitOffsets(v1::CommitOffsetsResponse { committed_ms: at.0 })
        }
        Ok(Response::FetchOffsets(offsets)) => Body::FetchOffsets(v1::FetchOffsetsResponse {
            offsets: offsets.into_iter().map(group_offset).collect(),
        }),
        Ok(Response::GroupHeartbeat(answer)) => Body::GroupHeartbeat(groups::group_heartbeat(*answer)),
        Ok(Response::CloseConsumer(answer)) => Body::CloseConsumer(groups::close_consumer(answer)),
        Ok(Response::ProposeAssignment(answer)) => {
            Body::ProposeAssignment(groups::propose_assignment(answer))
        }
        Ok(Response::CreateGroup(answer)) => Body::CreateGroup(groups::create_group(answer)),
        Ok(Response::AlterGroup(answer)) => Body::AlterGroup(groups::alter_group(answer)),
        Ok(Response::DeleteGroup) => Body::DeleteGroup(v1::DeleteGroupResponse {}),
        Ok(Response::DescribeGroup(answer)) => Body::DescribeGroup(groups::describe_group(*answer)),
        Ok(Response::ListGroups(answer)) => Body::ListGroups(groups::list_groups(answer)),
        Ok(Response::EvictMember(answer)) => Body::EvictMember(groups::evict_member(answer)),
        Ok(Response::Step(answer)) => Body::Step(groups::step(answer)),
    };
    payload::whole(&envelope(request_id, Some(body)))
}

fn group_offset(result: Result<GroupOffset, ApiError>) -> v1::GroupOffset {
    let shown = match result {
        Ok(shown) => shown,
        Err(error) => {
            return v1::GroupOffset {
                error: Some(errors::to_wire(error)),
                ..Default::default()
            };
        }
    };
    let committed = shown.committed;
    v1::GroupOffset {
        error: None,
        partition: Some(v1::TopicPartition {
            topic: shown.topic.to_string(),
            topic_id: topic_id(shown.key.topic),
            partition: shown.key.partition.0,
        }),
        offset: committed.as_ref().map(|committed| committed.offset.get()),
        leader_epoch: committed
            .as_ref()
            .and_then(|committed| committed.leader_epoch)
            .map(|epoch| epoch.0),
        committed_ms: committed.as_ref().map_or(0, |committed| committed.at.0),
        metadata: committed.map_or_else(String::new, |committed| committed.metadata.as_ref().to_owned()),
        log_start_offset: shown.bounds.log_start.get(),
        high_watermark: shown.bounds.high_watermark.get(),
    }
}

pub(super) fn describe_cluster(cluster: DescribedCluster) -> v1::DescribeClusterResponse {
    let storage = storage_health(&cluster.storage, cluster.quarantined_ranges);
    v1::DescribeClusterResponse {
        cluster_id: cluster.cluster_id,
        broker_id: cluster.broker_id.0,
        version: cluster.version,
        revision: cluster.revision,
        native_address: cluster.native_address,
        http_address: cluster.http_address,
        uptime_ms: millis(cluster.uptime),
        protocol_min: PROTOCOL_VERSION,
        protocol_max: PROTOCOL_VERSION,
        limits: None,
        engine: cluster.storage.engine.into_owned(),
        topics: cluster.topics,
        partitions: cluster.partitions,
        problems: cluster.problems,
        storage: Some(storage),
    }
}

fn storage_health(health: &StorageHealth, quarantined_ranges: u64) -> v1::StorageHealth {
    let (state, failure) = match &health.state {
        StorageState::Ok => (v1::StorageState::StorageOk, ""),
        StorageState::ReadOnly => (v1::StorageState::StorageReadOnly, ""),
        StorageState::Broken(failure) => (v1::StorageState::StorageBroken, failure.as_str()),
    };
    v1::StorageHealth {
        state: state.into(),
        failure: failure.to_owned(),
        durable_lsn: health.durable.0,
        applied_lsn: health.applied.0,
        admitted_bytes: health.admitted_bytes,
        journal_files: health.journal_files.0,
        journal_files_wanted: health.journal_files.1,
        crc_errors: health.crc_errors,
        quarantined_ranges,
        free_bytes: health.disk.map(|(free, _)| free),
        reserve_bytes: health.disk.map(|(_, reserve)| reserve),
        recovery: health.recovery.map(|recovery| v1::Recovery {
            clean: recovery.clean,
            groups: recovery.groups,
            bytes: recovery.bytes,
            lost_groups: recovery.lost_groups,
            unfinished: recovery.unfinished,
            duration_ms: millis(recovery.took),
        }),
        memory: health.memory.map(|memory| v1::Memory {
            held_bytes: memory.held_bytes,
            bytes_max: memory.bytes_max,
            dropped_records: memory.dropped_records,
            dropped_bytes: memory.dropped_bytes,
        }),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn create_topic(created: CreatedTopic) -> v1::CreateTopicResponse {
    v1::CreateTopicResponse {
        topic_id: topic_id(created.id),
        partitions: created.partitions,
        created: created.created,
    }
}

fn alter_topic(altered: AlteredTopic) -> v1::AlterTopicResponse {
    v1::AlterTopicResponse {
        topic_id: topic_id(altered.id),
        partitions: altered.partitions,
        configs: altered.configs.into_iter().map(config_entry).collect(),
        changed: altered.changed,
    }
}

fn trim_topic(trimmed: Vec<Result<Trimmed, ApiError>>) -> v1::TrimTopicResponse {
    let partition = |result: Result<Trimmed, ApiError>| match result {
        Ok(trimmed) => v1::TrimmedPartition {
            error: None,
            log_start_offset: trimmed.log_start.get(),
        },
        Err(error) => v1::TrimmedPartition {
            error: Some(errors::to_wire(error)),
            log_start_offset: 0,
        },
    };
    v1::TrimTopicResponse {
        partitions: trimmed.into_iter().map(partition).collect(),
    }
}

fn list_topics(listed: ListedTopics) -> v1::ListTopicsResponse {
    v1::ListTopicsResponse {
        topics: listed.topics.into_iter().map(topic_listing).collect(),
        cursor: listed.cursor,
    }
}

fn init_producer(producer: InitializedProducer) -> v1::InitProducerResponse {
    v1::InitProducerResponse {
        producer_id: producer.id.0,
        producer_epoch: i32::from(producer.epoch.0),
    }
}

fn fetch(request_id: u64, fetched: Fetched) -> Option<FrameOut> {
    let parts: Vec<Part> = fetched
        .partitions
        .into_iter()
        .map(|result| match fetched_partition(result) {
            (partition, Some(extents)) => Part::with_payload(&partition, RAW_BATCHES_TAG, extents),
            (partition, None) => Part::plain(&partition),
        })
        .collect();
    let fields = v1::FetchResponse::default();
    payload::frame(
        &envelope(request_id, None),
        FETCH_TAG,
        &fields,
        PARTITIONS_TAG,
        &parts,
    )
}

/// A fetched partition without its raw batches, and these.
fn fetched_partition(
    result: Result<FetchedPartition, ApiError>,
) -> (v1::FetchedPartition, Option<Vec<Bytes>>) {
    let fetched = match result {
        Ok(fetched) => fetched,
        Err(error) => {
            let error = Some(errors::to_wire(error));
            return (
                v1::FetchedPartition {
                    error,
                    ..Default::default()
                },
                None,
            );
        }
    };
    let (payload, extents) = match fetched.payload {
        FetchPayload::Raw(extents) => (None, Some(extents)),
        FetchPayload::Structured(records) => {
            let records = records
                .into_iter()
                .map(|(offset, record)| fetched_record(offset, record))
                .collect();
            (Some(Payload::Records(v1::Records { records })), None)
        }
    };
    let partition = v1::FetchedPartition {
        error: None,
        high_watermark: fetched.high_watermark.get(),
        log_start_offset: fetched.log_start.get(),
        next_offset: fetched.next_offset.get(),
        leader_epoch: fetched.leader_epoch.0,
        payload,
    };
    (partition, extents)
}

fn fetched_record(offset: Offset, record: Record) -> v1::Record {
    v1::Record {
        key: record.key,
        value: record.value,
        headers: record
            .headers
            .into_iter()
            .map(|header| v1::Header {
                key: header.key,
                value: header.value,
            })
            .collect(),
        timestamp: record.timestamp.map(|timestamp| timestamp.0),
        offset: offset.get(),
    }
}

fn produced_partition(result: Result<ProducedPartition, ApiError>) -> v1::ProducedPartition {
    match result {
        Err(error) => v1::ProducedPartition {
            error: Some(errors::to_wire(error)),
            base_offset: NO_OFFSET,
            last_offset: NO_OFFSET,
            ..Default::default()
        },
        Ok(produced) => v1::ProducedPartition {
            error: None,
            base_offset: produced.offsets.map_or(NO_OFFSET, |(base, _)| base.get()),
            last_offset: produced.offsets.map_or(NO_OFFSET, |(_, last)| last.get()),
            append_time: produced.append_time.0,
            leader_epoch: produced.leader_epoch.0,
            duplicate: produced.duplicate,
            acks: acks(produced.acks).into(),
            durable_through: produced.durable_through.map(|Lsn(lsn)| lsn),
            log_start_offset: produced.log_start.get(),
        },
    }
}

fn acks(acks: Acks) -> v1::Acks {
    match acks {
        Acks::Fsync => v1::Acks::Fsync,
        Acks::Memory => v1::Acks::Memory,
    }
}

fn metadata(answer: MetadataAnswer) -> v1::MetadataResponse {
    v1::MetadataResponse {
        cluster_id: answer.cluster_id,
        brokers: answer
            .brokers
            .into_iter()
            .map(|broker| v1::Broker {
                id: broker.id.0,
                address: broker.address,
            })
            .collect(),
        topics: answer
            .topics
            .into_iter()
            .map(|(name, topic)| topic_metadata(name, topic))
            .collect(),
    }
}

fn topic_metadata(name: String, topic: Result<TopicMetadata, ApiError>) -> v1::TopicMetadata {
    match topic {
        Ok(topic) => v1::TopicMetadata {
            name,
            topic_id: topic_id(topic.id),
            partitions: topic.partitions.into_iter().map(partition_metadata).collect(),
            error: None,
        },
        Err(error) => v1::TopicMetadata {
            name,
            error: Some(errors::to_wire(error)),
            ..Default::default()
        },
    }
}

fn partition_metadata(partition: PartitionMetadata) -> v1::PartitionMetadata {
    v1::PartitionMetadata {
        partition: partition.partition.0,
        leader: partition.leader.0,
        leader_epoch: partition.leader_epoch.0,
    }
}

fn describe_topic(topic: DescribedTopic) -> v1::DescribeTopicResponse {
    v1::DescribeTopicResponse {
        name: topic.name.to_string(),
        topic_id: topic_id(topic.id),
        configs: topic.configs.into_iter().map(config_entry).collect(),
        partitions: topic.partitions.into_iter().map(partition_description).collect(),
        created_ms: topic.created.0,
    }
}

fn config_entry(entry: ConfigEntry) -> v1::ConfigEntry {
    v1::ConfigEntry {
        name: entry.name,
        value: entry.value,
        source: entry.source,
        without_effect: !entry.has_effect,
    }
}

fn next_deletion(next: NextDeletion) -> v1::NextDeletion {
    v1::NextDeletion {
        upto_offset: next.upto.get(),
        when: Some(match next.when {
            DeletionTime::At(at) => v1::next_deletion::When::AtMs(at.0),
            DeletionTime::AfterBytes(bytes) => v1::next_deletion::When::AfterBytes(bytes),
        }),
    }
}

fn partition_description(partition: PartitionDescription) -> v1::PartitionDescription {
    v1::PartitionDescription {
        partition: partition.metadata.partition.0,
        leader: partition.metadata.leader.0,
        leader_epoch: partition.metadata.leader_epoch.0,
        log_start_offset: partition.bounds.log_start.get(),
        high_watermark: partition.bounds.high_watermark.get(),
        log_end_offset: partition.bounds.log_end.get(),
        size_bytes: partition.size_bytes,
        segments: partition.segments,
        producers: partition.producers,
        quarantined: partition
            .quarantined
            .into_iter()
            .map(|(first, last)| v1::OffsetRange {
                first: first.get(),
                last: last.get(),
            })
            .collect(),
        next_deletion: partition.next_deletion.map(next_deletion),
    }
}

fn topic_listing(topic: TopicListing) -> v1::TopicListing {
    v1::TopicListing {
        name: topic.name.to_string(),
        topic_id: topic_id(topic.id),
        partitions: topic.partitions,
        // More records than fit are not on any disk.
        records: i64::try_from(topic.records).unwrap_or(i64::MAX),
        size_bytes: topic.size_bytes,
    }
}

fn listed_offset(result: Result<ListedOffset, ApiError>) -> v1::ListedOffset {
    match result {
        Ok(listed) => v1::ListedOffset {
            error: None,
            offset: listed.offset.get(),
            leader_epoch: listed.leader_epoch.0,
            timestamp: listed.timestamp.map(|at| at.0),
        },
        Err(error) => v1::ListedOffset {
            error: Some(errors::to_wire(error)),
            ..Default::default()
        },
    }
}

fn topic_id(id: TopicId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

#[cfg(test)]
mod tests;
