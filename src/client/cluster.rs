//! Asking a broker how it is.

use std::time::Duration;

use super::admin::{decode, unexpected};
use super::link::Repeat;
use super::{Client, Error};
use crate::model::{BrokerId, Lsn, MemoryHealth, RecoverySummary, StorageHealth, StorageState};
use crate::pb::v1 as pb;
use crate::pb::v1::{request::Body as RequestBody, response::Body as ResponseBody};

const WHAT: &str = "describe cluster";

/// A broker and its state.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterDescription {
    /// Identity of the cluster.
    pub cluster_id: String,
    /// Number of the broker that answered.
    pub broker_id: BrokerId,
    /// Its version.
    pub version: String,
    /// Revision of its source; `None` if whoever built it did not say.
    pub revision: Option<String>,
    /// host:port of the native protocol.
    pub native_address: String,
    /// host:port of HTTP.
    pub http_address: String,
    /// Since its start.
    pub uptime: Duration,
    /// Lowest and highest protocol version that it speaks.
    pub protocol: (u32, u32),
    /// Limits of its connections.
    pub limits: ClusterLimits,
    /// Topics of users.
    pub topics: u32,
    /// Partitions of users.
    pub partitions: u64,
    /// What keeps it from being healthy, for people; empty: healthy.
    pub problems: Vec<String>,
    /// Ranges of offsets that answer `DATA_CORRUPT`.
    pub quarantined_ranges: u64,
    /// Its storage.
    pub storage: StorageHealth,
}

/// Limits that a broker's connections keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterLimits {
    /// Longest request, in bytes.
    pub request_bytes_max: u32,
    /// Longest response, in bytes.
    pub response_bytes_max: u32,
    /// Largest record batch of any topic, in bytes.
    pub batch_bytes_max: u32,
    /// All batches of one journal frame, in bytes.
    pub step_bytes_max: u32,
    /// Requests that run at once, per connection.
    pub requests_running_max: u32,
    /// Fetches that wait at once, per connection.
    pub requests_parked_max: u32,
    /// Longest wait of a fetch, in ms.
    pub fetch_wait_ms_max: u32,
    /// A connection without any request for so long is closed, in ms.
    pub idle_timeout_ms: u32,
}

impl Client {
    /// The broker, its limits and how its storage is.
    ///
    /// # Errors
    /// Those of every request; `UNKNOWN_REQUEST` from a broker that is older than this request.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, Error> {
        let body = RequestBody::DescribeCluster(pb::DescribeClusterRequest {});
        match self.link.call(WHAT, body, Repeat::Safe).await? {
            ResponseBody::DescribeCluster(described) => described.try_into(),
            other => Err(unexpected(WHAT, &other)),
        }
    }
}

impl TryFrom<pb::DescribeClusterResponse> for ClusterDescription {
    type Error = Error;

    fn try_from(described: pb::DescribeClusterResponse) -> Result<Self, Error> {
        let storage = described
            .storage
            .ok_or_else(|| decode(WHAT, "the storage is missing"))?;
        let limits = described.limits.unwrap_or_default();
        Ok(Self {
            quarantined_ranges: storage.quarantined_ranges,
            storage: health(described.engine, storage)?,
            cluster_id: described.cluster_id,
            broker_id: BrokerId(described.broker_id),
            version: described.version,
            revision: Some(described.revision).filter(|revision| !revision.is_empty()),
            native_address: described.native_address,
            http_address: described.http_address,
            uptime: Duration::from_millis(described.uptime_ms),
            protocol: (described.protocol_min, described.protocol_max),
            limits: ClusterLimits {
                request_bytes_max: limits.request_bytes_max,
                response_bytes_max: limits.response_bytes_max,
                batch_bytes_max: limits.batch_bytes_max,
                step_bytes_max: limits.step_bytes_max,
                requests_running_max: limits.requests_running_max,
                requests_parked_max: limits.requests_parked_max,
                fetch_wait_ms_max: limits.fetch_wait_ms_max,
                idle_timeout_ms: limits.idle_timeout_ms,
            },
            topics: described.topics,
            partitions: described.partitions,
            problems: described.problems,
        })
    }
}

fn health(engine: String, storage: pb::StorageHealth) -> Result<StorageHealth, Error> {
    let state = match storage.state() {
        pb::StorageState::StorageOk => StorageState::Ok,
        pb::StorageState::StorageReadOnly => StorageState::ReadOnly,
        pb::StorageState::StorageBroken => StorageState::Broken(storage.failure),
        pb::StorageState::Unspecified => return Err(decode(WHAT, "the state of the storage is missing")),
    };
    Ok(StorageHealth {
        engine: engine.into(),
        state,
        durable: Lsn(storage.durable_lsn),
        applied: Lsn(storage.applied_lsn),
        admitted_bytes: storage.admitted_bytes,
        journal_files: (storage.journal_files, storage.journal_files_wanted),
        crc_errors: storage.crc_errors,
        disk: storage.free_bytes.zip(storage.reserve_bytes),
        memory: storage.memory.map(|memory| MemoryHealth {
            held_bytes: memory.held_bytes,
            bytes_max: memory.bytes_max,
            dropped_records: memory.dropped_records,
            dropped_bytes: memory.dropped_bytes,
        }),
        recovery: storage.recovery.map(|recovery| RecoverySummary {
            clean: recovery.clean,
            groups: recovery.groups,
            bytes: recovery.bytes,
            lost_groups: recovery.lost_groups,
            unfinished: recovery.unfinished,
            took: Duration::from_millis(recovery.duration_ms),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_without_storage_or_state_is_refused() {
        let described = pb::DescribeClusterResponse::default();
        assert!(ClusterDescription::try_from(described).is_err());
        let described = pb::DescribeClusterResponse {
            storage: Some(pb::StorageHealth::default()),
            ..pb::DescribeClusterResponse::default()
        };
        assert!(ClusterDescription::try_from(described).is_err());
    }

    #[test]
    fn the_reason_of_a_broken_storage_comes_over() {
        let described = pb::DescribeClusterResponse {
            storage: Some(pb::StorageHealth {
                state: pb::StorageState::StorageBroken.into(),
                failure: "write failed".to_owned(),
                free_bytes: Some(7),
                reserve_bytes: Some(3),
                ..pb::StorageHealth::default()
            }),
            ..pb::DescribeClusterResponse::default()
        };
        let storage = ClusterDescription::try_from(described).unwrap().storage;
        assert_eq!(storage.state, StorageState::Broken("write failed".to_owned()));
        assert_eq!(storage.disk, Some((7, 3)));
    }
}
