//! What can be set about the broker itself.

use std::sync::Arc;
use std::time::Duration;

use crate::group;
use crate::metadata;
use crate::model::BrokerId;
use crate::partition::ProducerLimits;

/// Settings of the broker. The defaults are those of `docs/operations.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Identity of the cluster, as Metadata shows it.
    pub cluster_id: String,
    /// Number of this broker.
    pub broker_id: BrokerId,
    /// host:port under which clients reach this broker.
    pub address: String,
    /// host:port of HTTP.
    pub http_address: String,
    /// Version of the broker.
    pub version: String,
    /// Revision of its source; empty if unknown.
    pub revision: String,
    /// How many topics and partitions there may be.
    pub limits: metadata::Limits,
    /// Configuration of topics that do not set it themselves.
    pub topic_defaults: Arc<metadata::TopicDefaults>,
    /// How many groups there may be, and how much they may commit.
    pub groups: group::Limits,
    /// How long and how many idempotent producers are remembered per partition.
    pub producers: ProducerLimits,
    /// Most partitions or topics in one request: a topic as large as it may be fits.
    pub request_partitions_max: usize,
    /// Longest wait of a fetch.
    pub fetch_wait_max: Duration,
    /// Most bytes of batches in one answer to a fetch; one batch comes even if it is larger. Well below the limit on
    /// response frames.
    pub fetch_bytes_max: u32,
    /// Most bytes of decoded records in one answer to a structured fetch, as they are encoded for the client; one record
    /// comes even if it is larger.
    pub fetch_structured_bytes_max: u32,
    /// When a client should try again after a refusal for lack of disk space, in ms.
    pub storage_full_retry_ms: u32,
    /// Topics on a page that does not say how many.
    pub list_count_default: u32,
    /// Most topics on a page.
    pub list_count_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster_id: String::new(),
            broker_id: BrokerId(1),
            address: String::new(),
            http_address: String::new(),
            version: String::new(),
            revision: String::new(),
            limits: metadata::Limits::default(),
            topic_defaults: Arc::default(),
            groups: group::Limits::default(),
            producers: ProducerLimits::default(),
            request_partitions_max: 1_024,
            fetch_wait_max: Duration::from_secs(30),
            fetch_bytes_max: 8 << 20,
            fetch_structured_bytes_max: 4 << 20,
            storage_full_retry_ms: 1_000,
            list_count_default: 100,
            list_count_max: 1_000,
        }
    }
}
