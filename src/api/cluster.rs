//! How a broker is, and who it is.

use std::time::Duration;

use crate::model::{BrokerId, StorageHealth};

/// Asks for [`DescribedCluster`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescribeCluster;

/// A broker and its state. Protocol versions and limits are the protocol's to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedCluster {
    /// Identity of the cluster.
    pub cluster_id: String,
    /// Number of the broker.
    pub broker_id: BrokerId,
    /// Version of the broker.
    pub version: String,
    /// Revision of its source; empty if unknown.
    pub revision: String,
    /// host:port of the native protocol.
    pub native_address: String,
    /// host:port of HTTP.
    pub http_address: String,
    /// Since the start.
    pub uptime: Duration,
    /// Topics of users.
    pub topics: u32,
    /// Partitions of users.
    pub partitions: u64,
    /// Ranges of offsets that answer `DATA_CORRUPT`.
    pub quarantined_ranges: u64,
    /// What keeps it from being healthy, for people; empty: healthy.
    pub problems: Vec<String>,
    /// The engine.
    pub storage: StorageHealth,
}
