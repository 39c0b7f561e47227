//! What `/metrics` shows: walks every component when somebody asks. Names and meanings: `docs/metrics.md`.
//!
//! The one place that knows both the components and the names of metrics.

mod damage;
mod groups;
mod memory;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::metered::{DiskMeter, DiskNow};
use super::process;
use super::reload::LastReload;
use super::status::Status;
use crate::broker::{CountersNow, GroupNow, TopicNow};
use crate::http::{self, BadQuery, CheckState, Probe};
use crate::model::Glob;
use crate::model::{ErrorCode, MemoryHealth, Timestamp};
use crate::net::{Counters, Hangup};
use crate::rt::Clock;
use crate::storage::local::{ReadErrors, RecoveryReport, ScrubNow, StatsNow};
use crate::telemetry::{Kind, LogCounts, Page};

/// A page is kept for so long: scrapes that come faster get the same one.
const CACHED_FOR: Duration = Duration::from_secs(1);

/// Topics with series of their own; what is above is added up as `__other`.
const TOPICS_MAX: usize = 500;

/// Groups that are shown, the first by name.
pub(crate) const GROUPS_MAX: usize = 500;

/// Topics with series of their own in one group; what is above is added up as `__other`.
const GROUP_TOPICS_MAX: usize = 30;

/// Partitions on one page of `/metrics/partitions`.
const PARTITIONS_MAX: usize = 5_000;

/// The name under which topics above a limit are added up; no topic of users can be called so.
const OTHER: &str = "__other";

/// What an engine with its broker says about itself.
#[derive(Clone, Debug)]
pub(crate) struct EngineNow {
    /// What the broker has counted.
    pub(crate) counters: CountersNow,
    /// All topics, in the order of their names.
    pub(crate) topics: Vec<TopicNow>,
    /// The first groups by name, at most [`GROUPS_MAX`], and how many there are.
    pub(crate) groups: (Vec<GroupNow>, usize),
    /// What only an engine on disk has.
    pub(crate) local: Option<LocalNow>,
    /// What logs in memory hold.
    pub(crate) memory: Option<MemoryHealth>,
}

/// An engine on disk.
#[derive(Clone, Debug)]
pub(crate) struct LocalNow {
    /// What the journal has counted.
    pub(crate) stats: StatsNow,
    /// What recovery came to.
    pub(crate) recovery: RecoveryReport,
    /// How long it took.
    pub(crate) recovery_took: Duration,
    /// The last durable and the last applied group.
    pub(crate) lsn: (u64, u64),
    /// Bytes admitted and not yet applied.
    pub(crate) admitted_bytes: u64,
    /// Journal files that are ready, and how many there shall be.
    pub(crate) journal_files: (u32, u32),
    /// Damaged ranges found by reading.
    pub(crate) crc_errors: u64,
    /// Reads of segments that failed.
    pub(crate) read_errors: ReadErrors,
    /// What the scrub has done.
    pub(crate) scrub: ScrubNow,
    /// Whether produce is refused for want of disk.
    pub(crate) storage_full: bool,
    /// Bytes of disk set aside for the broker's own work.
    pub(crate) reserve_held_bytes: u64,
    /// Whether the engine failed.
    pub(crate) failed: bool,
}

/// Asks the engine.
pub(crate) type AskEngine = Box<dyn Fn() -> EngineNow + Send + Sync>;

/// Everything that is asked.
pub(crate) struct Metrics {
    /// For ages and for how long a page is kept.
    pub(crate) clock: Arc<dyn Clock>,
    /// When the process started.
    pub(crate) started: Timestamp,
    /// How the process stands.
    pub(crate) status: Arc<Status>,
    /// The native listener.
    pub(crate) native: Arc<Counters>,
    /// The disk.
    pub(crate) disk: Arc<DiskMeter>,
    /// Where its space is looked up; `None`: nothing is on disk.
    pub(crate) data_dir: Option<PathBuf>,
    /// The runtime whose load is shown.
    pub(crate) runtime: tokio::runtime::Handle,
    /// How and when the configuration was read last.
    pub(crate) last_reload: Arc<LastReload>,
    log: Arc<LogCounts>,
    engine: Mutex<Option<AskEngine>>,
    page: Mutex<Option<(Duration, String)>>,
}

/// What there is before the engine.
pub(crate) struct Parts {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) status: Arc<Status>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) log: Arc<LogCounts>,
}

impl Metrics {
    /// Metrics of a process that begins now; must be made inside of its runtime.
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            started: parts.clock.wall(),
            last_reload: Arc::new(LastReload::new(Arc::clone(&parts.clock))),
            clock: parts.clock,
            status: parts.status,
            native: Arc::default(),
            disk: Arc::default(),
            data_dir: parts.data_dir,
            log: parts.log,
            runtime: tokio::runtime::Handle::current(),
            engine: Mutex::new(None),
            page: Mutex::new(None),
        }
    }

    /// From now on the engine can be asked.
    pub(crate) fn watch_engine(&self, ask: AskEngine) {
        *lock(&self.engine) = Some(ask);
    }

    fn engine_now(&self) -> Option<EngineNow> {
        lock(&self.engine).as_ref().map(|ask| ask())
    }

    fn gather(&self) -> Page {
        let mut page = Page::default();
        self.process(&mut page);
        self.health(&mut page);
        self.network(&mut page);
        self.requests(&mut page);
        if let Some(engine) = self.engine_now() {
            broker(&mut page, &engine.counters);
            topics(&mut page, &engine.topics);
            groups::groups(&mut page, &engine.groups);
            fetch_sources(&mut page, &engine.counters, &self.disk.now());
            if let Some(local) = &engine.local {
                journal(&mut page, local);
                rolls(&mut page, local);
                recovery(&mut page, local);
            }
            memory::show(&mut page, engine.local.is_none(), engine.memory.as_ref());
        }
        disk(&mut page, &self.disk.now());
        self.stalls(&mut page);
        self.space(&mut page);
        page
    }

    fn stalls(&self, page: &mut Page) {
        page.family(
            Kind::Gauge,
            "naru_disk_stall_seconds",
            "How long the oldest write or sync that has not come back has taken, in seconds; 0 below a second.",
        )
        .seconds([], self.disk.stalls.stalled_for(&*self.clock));
        page.one(
            Kind::Counter,
            "naru_disk_stalls",
            "Writes and syncs that took a second or more.",
            self.disk.stalls.count(),
        );
    }

    fn process(&self, page: &mut Page) {
        let version = [
            ("version", Cow::from(env!("CARGO_PKG_VERSION"))),
            (
                "revision",
                Cow::from(option_env!("NARU_REVISION").unwrap_or("unknown")),
            ),
            ("rustc", Cow::from(env!("NARU_RUSTC_VERSION"))),
        ];
        page.family(Kind::Gauge, "naru_build_info", "What runs here; always 1.")
            .whole(version, 1);
        page.family(
            Kind::Gauge,
            "naru_start_time_seconds",
            "When the process started, in seconds since 1970.",
        )
        .real([], seconds_since_1970(self.started));
        page.one(
            Kind::Gauge,
            "naru_config_last_reload_successful",
            "1 if the configuration was read without an error the last time, else 0.",
            self.last_reload.was_successful().into(),
        );
        page.family(
            Kind::Gauge,
            "naru_config_last_reload_timestamp_seconds",
            "When the configuration was read the last time, in seconds since 1970.",
        )
        .real([], seconds_since_1970(self.last_reload.at()));
        let lines = page.family(Kind::Counter, "naru_log_events", "Lines logged, by level.");
        for (level, count) in self.log.now() {
            lines.whole([("level", level.into())], count);
        }
        process::collect(page);
        let runtime = self.runtime.metrics();
        let amounts = [
            (
                "naru_runtime_workers",
                "Threads that run tasks.",
                runtime.num_workers(),
            ),
            (
                "naru_runtime_alive_tasks",
                "Tasks that have not ended.",
                runtime.num_alive_tasks(),
            ),
            (
                "naru_runtime_global_queue_depth",
                "Tasks that are ready and wait for a thread.",
                runtime.global_queue_depth(),
            ),
        ];
        for (name, help, value) in amounts {
            page.one(Kind::Gauge, name, help, value as u64);
        }
        let busy = (0..runtime.num_workers()).map(|worker| runtime.worker_total_busy_duration(worker));
        page.family(
            Kind::Counter,
            "naru_runtime_busy_seconds",
            "Time that the threads have run tasks, added up.",
        )
        .seconds([], busy.sum());
    }

    fn health(&self, page: &mut Page) {
        let ready = page.family(
            Kind::Gauge,
            "naru_ready",
            "1 if this check of /readyz passes, else 0.",
        );
        for check in self.status.readiness() {
            match check.state {
                CheckState::Good => ready.whole([("check", check.name.into())], 1),
                CheckState::Failed(_) => ready.whole([("check", check.name.into())], 0),
                // Fails nothing, so it has nothing to say here.
                CheckState::Note(_) => continue,
            };
        }
    }

    fn network(&self, page: &mut Page) {
        let net = &self.native;
        let listener = || [("listener", Cow::from("native"))];
        page.family(Kind::Gauge, "naru_connections", "Connections that are open.")
            .whole(listener(), net.open());
        page.family(Kind::Counter, "naru_connections_opened", "Connections accepted.")
            .whole(listener(), net.accepted());
        page.family(
            Kind::Counter,
            "naru_connections_closed",
            "Connections closed, by whomever.",
        )
        .whole(listener(), net.closed());
        let hung_up = page.family(
            Kind::Counter,
            "naru_connections_hung_up",
            "Connections that the broker closed for a deadline, by which one.",
        );
        for reason in Hangup::ALL {
            hung_up.whole([("reason", reason.name().into())], net.hangups(reason));
        }
        page.one(
            Kind::Counter,
            "naru_accept_errors",
            "Accepts that failed.",
            net.accept_errors(),
        );
        page.family(
            Kind::Counter,
            "naru_network_received_bytes",
            "Bytes read from connections.",
        )
        .whole(listener(), net.bytes_in());
        page.family(
            Kind::Counter,
            "naru_network_sent_bytes",
            "Bytes written to connections.",
        )
        .whole(listener(), net.bytes_out());
        let bad = page.family(
            Kind::Counter,
            "naru_bad_input",
            "Frames and requests that broke the protocol, by error code.",
        );
        for code in ErrorCode::ALL.iter().filter(|code| net.bad_input(**code) > 0) {
            bad.whole([("code", code.name().into())], net.bad_input(*code));
        }
    }

    fn requests(&self, page: &mut Page) {
        let answers = self.native.answers();
        let seen = || answers.iter().filter(|kind| kind.durations.count() > 0);
        let total = page.family(
            Kind::Counter,
            "naru_requests",
            "Requests answered, by kind and by how they ended.",
        );
        for kind in seen() {
            for (ending, count) in kind.endings.iter().filter(|(_, count)| *count > 0) {
                total.whole(
                    [
                        ("api", kind.kind.name().into()),
                        ("outcome", ending.name().into()),
                    ],
                    *count,
                );
            }
        }
        let durations = page.family(
            Kind::Latency,
            "naru_request_duration_seconds",
            "From a request being read to its answer being handed to the socket; of produce: to its acknowledgement.",
        );
        for kind in seen() {
            durations.histogram([("api", kind.kind.name().into())], kind.durations.clone());
        }
        let acknowledged = page.family(
            Kind::Latency,
            "naru_produce_ack_duration_seconds",
            "From a produce being read to its acknowledgement, by the level asked for.",
        );
        for (acks, durations) in self.native.acknowledged() {
            acknowledged.histogram([("acks", acks.name().into())], durations);
        }
        let answered: u64 = answers.iter().map(|kind| kind.durations.count()).sum();
        let over = answered + self.native.abandoned();
        page.one(
            Kind::Gauge,
            "naru_requests_in_flight",
            "Requests taken in and not answered yet, waiting fetches included.",
            self.native.requests().saturating_sub(over),
        );
    }

    fn space(&self, page: &mut Page) {
        let Some(dir) = &self.data_dir else { return };
        let Ok(stat) = rustix::fs::statvfs(dir.as_path()) else {
            return;
        };
        let data = || [("path", Cow::from("data"))];
        page.family(
            Kind::Gauge,
            "naru_disk_free_bytes",
            "Bytes that can still be written where the data is.",
        )
        .whole(data(), stat.f_bavail.saturating_mul(stat.f_frsize));
        page.family(
            Kind::Gauge,
            "naru_disk_total_bytes",
            "Size of the file system where the data is.",
        )
        .whole(data(), stat.f_blocks.saturating_mul(stat.f_frsize));
    }
}

impl http::Metrics for Metrics {
    fn all(&self) -> String {
        let now = self.clock.mono();
        let mut page = lock(&self.page);
        if let Some((made, text)) = &*page
            && now.saturating_sub(*made) < CACHED_FOR
        {
            return text.clone();
        }
        let text = self.gather().text();
        *page = Some((now, text.clone()));
        text
    }

    fn partitions(&self, pattern: &str) -> Result<String, BadQuery> {
        let glob = Glob::new(pattern).map_err(|error| BadQuery(error.to_string()))?;
        let mut topics = self.engine_now().map_or_else(Vec::new, |engine| engine.topics);
        topics.retain(|topic| glob.matches(topic.name.as_str()));
        let count: usize = topics.iter().map(|topic| topic.partitions.len()).sum();
        if count > PARTITIONS_MAX {
            return Err(BadQuery(format!(
                "{count} partitions match, a page has at most {PARTITIONS_MAX}: narrow it down with ?topic=PATTERN"
            )));
        }
        let mut page = Page::default();
        partitions(&mut page, &topics);
        Ok(page.text())
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic elsewhere must not take the metrics with it: they are what tells about it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds of our time fit many times over"
)]
fn seconds_since_1970(at: Timestamp) -> f64 {
    at.0 as f64 / 1e3
}

fn broker(page: &mut Page, counters: &CountersNow) {
    let by_code = |family: &mut crate::telemetry::Family, label, counts: &[(ErrorCode, u64)]| {
        for (code, count) in counts {
            family.whole([(label, code.name().into())], *count);
        }
    };
    let errors = page.family(
        Kind::Counter,
        "naru_request_errors",
        "Errors answered, for whole requests and for their items, by code.",
    );
    by_code(errors, "code", &counters.refused);
    let rejected = page.family(
        Kind::Counter,
        "naru_produce_rejected",
        "Batches refused, by error code.",
    );
    by_code(rejected, "reason", &counters.produce_refused);
    let refused = |code| {
        let mut found = counters.refused.iter().filter(|(seen, _)| *seen == code);
        found.next().map_or(0, |(_, count)| *count)
    };
    page.one(
        Kind::Counter,
        "naru_producer_fenced",
        "Batches refused because a newer epoch of their producer has written.",
        refused(ErrorCode::InvalidProducerEpoch),
    );
    page.one(
        Kind::Counter,
        "naru_producer_sequence_errors",
        "Batches refused because they do not follow the last one of their producer.",
        refused(ErrorCode::OutOfOrderSequence),
    );
    page.one(
        Kind::Counter,
        "naru_group_members_expired",
        "Members removed because nothing was heard of them, or because they did not release in time.",
        counters.members_expired,
    );
    page.one(
        Kind::Counter,
        "naru_group_members_stalled",
        "Positions that were found to stand still although their member lives.",
        counters.members_stalled,
    );
}

fn fetch_sources(page: &mut Page, counters: &CountersNow, disk: &DiskNow) {
    let sources = page.family(
        Kind::Counter,
        "naru_fetch_source_bytes",
        "Bytes read for fetches, by where they were: memory of the broker, page cache, disk.",
    );
    for (source, bytes) in [
        ("memory", counters.memory_bytes),
        ("page_cache", disk.page_cache_bytes),
        ("disk", disk.disk_bytes),
    ] {
        sources.whole([("source", source.into())], bytes);
    }
}

/// Numbers of a topic, or of all that share the name `__other`.
#[derive(Debug, Default)]
struct TopicSums {
    name: String,
    counters: [u64; 6],
    gauges: [u64; 5],
    last_append: Option<Timestamp>,
}

const TOPIC_COUNTERS: [(&str, &str); 6] = [
    ("naru_records_produced", "Records appended."),
    ("naru_produced_bytes", "Bytes of the batches appended."),
    ("naru_produce_batches", "Batches appended."),
    (
        "naru_produce_duplicates",
        "Batches that were sent again and had been appended before.",
    ),
    ("naru_records_fetched", "Records sent to consumers."),
    ("naru_fetched_bytes", "Bytes of the batches sent to consumers."),
];

const TOPIC_GAUGES: [(&str, &str); 5] = [
    ("naru_topic_partitions", "Partitions."),
    (
        "naru_topic_records",
        "Visible records: high watermarks minus log starts.",
    ),
    ("naru_topic_log_size_bytes", "Bytes of batches."),
    ("naru_topic_segments", "Segment files."),
    ("naru_topic_quarantined_ranges", "Damaged ranges of offsets."),
];

impl TopicSums {
    fn of(topic: &TopicNow) -> Self {
        let sum = |of: fn(&crate::broker::PartitionNow) -> u64| topic.partitions.iter().map(of).sum();
        Self {
            name: topic.name.to_string(),
            counters: [
                topic.records_in,
                topic.bytes_in,
                topic.batches_in,
                topic.duplicates,
                topic.records_out,
                topic.bytes_out,
            ],
            gauges: [
                topic.partitions.len() as u64,
                sum(|p| p.records),
                sum(|p| p.size_bytes),
                sum(|p| p.segments.into()),
                sum(|p| p.quarantined),
            ],
            last_append: topic.last_append,
        }
    }

    fn add(&mut self, other: &Self) {
        let pairs = self.counters.iter_mut().zip(other.counters);
        for (sum, one) in pairs.chain(self.gauges.iter_mut().zip(other.gauges)) {
            *sum += one;
        }
        self.last_append = self.last_append.max(other.last_append);
    }
}

fn topics(page: &mut Page, topics: &[TopicNow]) {
    let (own, rest) = topics.split_at(topics.len().min(TOPICS_MAX));
    let mut sums: Vec<_> = own.iter().map(TopicSums::of).collect();
    if !rest.is_empty() {
        let mut other = TopicSums {
            name: OTHER.to_owned(),
            ..TopicSums::default()
        };
        rest.iter().for_each(|topic| other.add(&TopicSums::of(topic)));
        sums.push(other);
    }
    page.one(
        Kind::Gauge,
        "naru_metrics_series_dropped",
        "Topics above the limit on series, which are added up as topic=\"__other\".",
        rest.len() as u64,
    );
    let producers = topics.iter().map(|topic| topic.producers).sum();
    page.one(
        Kind::Gauge,
        "naru_producers_active",
        "Idempotent producers that are remembered.",
        producers,
    );
    for (at, (name, help)) in TOPIC_COUNTERS.iter().enumerate() {
        let family = page.family(Kind::Counter, name, help);
        for topic in &sums {
            family.whole([("topic", topic.name.clone().into())], topic.counters[at]);
        }
    }
    for (at, (name, help)) in TOPIC_GAUGES.iter().enumerate() {
        let family = page.family(Kind::Gauge, name, help);
        for topic in &sums {
            family.whole([("topic", topic.name.clone().into())], topic.gauges[at]);
        }
    }
    let last = page.family(
        Kind::Gauge,
        "naru_topic_last_append_timestamp_seconds",
        "When a batch was appended last since the start, in seconds since 1970.",
    );
    for topic in &sums {
        if let Some(at) = topic.last_append {
            last.real([("topic", topic.name.clone().into())], seconds_since_1970(at));
        }
    }
}

fn partitions(page: &mut Page, topics: &[TopicNow]) {
    type Of = fn(&crate::broker::PartitionNow) -> u64;
    let families: [(&str, &str, Of); 4] = [
        ("naru_partition_log_start_offset", "First readable offset.", |p| {
            offset(p.log_start)
        }),
        (
            "naru_partition_high_watermark",
            "End of the visible records, exclusive.",
            |p| offset(p.high_watermark),
        ),
        ("naru_partition_size_bytes", "Bytes of batches.", |p| p.size_bytes),
        ("naru_partition_segments", "Segment files.", |p| p.segments.into()),
    ];
    for (name, help, of) in families {
        let family = page.family(Kind::Gauge, name, help);
        for topic in topics {
            for (index, partition) in topic.partitions.iter().enumerate() {
                let labels = [
                    ("topic", Cow::from(topic.name.to_string())),
                    ("partition", Cow::from(index.to_string())),
                ];
                family.whole(labels, of(partition));
            }
        }
    }
}

/// Offsets are never negative.
fn offset(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn journal(page: &mut Page, local: &LocalNow) {
    let StatsNow {
        batches,
        records,
        commits,
        rolls: _,
    } = local.stats.clone();
    page.family(
        Kind::Amount,
        "naru_commit_batches",
        "Batches that shared one write and one sync of the journal.",
    )
    .histogram([], batches);
    page.family(
        Kind::Amount,
        "naru_commit_batch_records",
        "Records that shared one write and one sync.",
    )
    .histogram([], records);
    page.family(
        Kind::Latency,
        "naru_append_duration_seconds",
        "From a group being taken to its being durable.",
    )
    .histogram([], commits);
    let (durable, applied) = local.lsn;
    for (name, help, value) in [
        (
            "naru_storage_state",
            "0: works, 2: takes no writes for want of disk, 3: failed.",
            storage_state(local),
        ),
        ("naru_durable_lsn", "Number of the last durable group.", durable),
        (
            "naru_applied_lsn",
            "Number of the last group in segments.",
            applied,
        ),
        (
            "naru_unapplied_bytes",
            "Bytes taken in that are not in segments yet.",
            local.admitted_bytes,
        ),
        (
            "naru_reserve_held_bytes",
            "Bytes of disk that are set aside for the broker's own work; 0 while that uses them.",
            local.reserve_held_bytes,
        ),
        (
            "naru_journal_files_ready",
            "Journal files that are made.",
            local.journal_files.0.into(),
        ),
        (
            "naru_journal_files",
            "Journal files that there shall be.",
            local.journal_files.1.into(),
        ),
    ] {
        page.one(Kind::Gauge, name, help, value);
    }
    damage::show(page, local);
}

fn storage_state(local: &LocalNow) -> u64 {
    match (local.failed, local.storage_full) {
        (true, _) => 3,
        (false, true) => 2,
        (false, false) => 0,
    }
}

fn rolls(page: &mut Page, local: &LocalNow) {
    let by_reason = page.family(Kind::Counter, "naru_segment_rolls", "Segments closed, by reason.");
    for (reason, count) in local.stats.rolls {
        by_reason.whole([("reason", reason.into())], count);
    }
}

fn recovery(page: &mut Page, local: &LocalNow) {
    let report = &local.recovery;
    page.family(
        Kind::Gauge,
        "naru_recovery_duration_seconds",
        "How long the start took to recover.",
    )
    .seconds([], local.recovery_took);
    for (name, help, value) in [
        (
            "naru_recovery_replayed_bytes",
            "Bytes of batches that the start applied again.",
            report.bytes,
        ),
        (
            "naru_recovery_unfinished_group",
            "1 if the start left out a last group that was never acknowledged.",
            u64::from(report.unfinished),
        ),
        (
            "naru_recovery_lost_groups",
            "Acknowledged groups that the start could not read.",
            report.lost_groups,
        ),
        (
            "naru_last_shutdown_clean",
            "1 if the run before ended in order, or there was none.",
            u64::from(report.in_order()),
        ),
    ] {
        page.one(Kind::Gauge, name, help, value);
    }
}

fn disk(page: &mut Page, disk: &DiskNow) {
    let durations = page.family(
        Kind::Latency,
        "naru_fsync_duration_seconds",
        "How long syncs took, by kind of file.",
    );
    for (file, syncs, _) in disk.syncs.iter().filter(|(_, syncs, _)| syncs.count() > 0) {
        durations.histogram([("file", (*file).into())], syncs.clone());
    }
    let errors = page.family(
        Kind::Counter,
        "naru_fsync_errors",
        "Syncs that failed, by kind of file.",
    );
    for (file, _, failed) in &disk.syncs {
        errors.whole([("file", (*file).into())], *failed);
    }
    page.one(
        Kind::Counter,
        "naru_segments_created",
        "Segment files made.",
        disk.segments_created,
    );
    page.one(
        Kind::Counter,
        "naru_segments_deleted",
        "Segment files removed.",
        disk.segments_removed,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::PartitionNow;
    use crate::model::TopicName;

    fn topic(name: &str, records: u64) -> TopicNow {
        TopicNow {
            name: TopicName::for_user(name).unwrap(),
            records_in: records,
            bytes_in: 10 * records,
            batches_in: 1,
            duplicates: 0,
            records_out: 0,
            bytes_out: 0,
            last_append: Some(Timestamp(1_500)),
            producers: 1,
            partitions: vec![PartitionNow {
                log_start: 5,
                high_watermark: 9,
                records: 4,
                size_bytes: 40,
                segments: 2,
                quarantined: 0,
            }],
        }
    }

    fn shown(all: &[TopicNow]) -> String {
        let mut page = Page::default();
        topics(&mut page, all);
        page.text()
    }

    #[test]
    fn a_topic_has_its_own_series() {
        let text = shown(&[topic("a.b", 3), topic("a_b", 4)]);
        for line in [
            "naru_records_produced_total{topic=\"a.b\"} 3",
            "naru_records_produced_total{topic=\"a_b\"} 4",
            "naru_topic_records{topic=\"a.b\"} 4",
            "naru_topic_last_append_timestamp_seconds{topic=\"a.b\"} 1.5",
            "naru_metrics_series_dropped 0",
            "naru_producers_active 2",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is missing in\n{text}"
            );
        }
    }

    #[test]
    fn topics_above_the_limit_are_added_up() {
        let all: Vec<_> = (0..TOPICS_MAX + 3)
            .map(|n| topic(&format!("t{n:04}"), 2))
            .collect();
        let text = shown(&all);
        assert!(
            text.contains("naru_records_produced_total{topic=\"__other\"} 6\n"),
            "{text}"
        );
        assert!(text.contains("naru_metrics_series_dropped 3\n"));
        let own = text
            .lines()
            .filter(|line| line.starts_with("naru_records_produced_total{"));
        assert_eq!(own.count(), TOPICS_MAX + 1);
        // A topic of that name could only double the series.
        assert!(TopicName::for_user(OTHER).is_err());
    }

    #[test]
    fn groups_show_their_lag_and_many_topics_of_one_are_added_up() {
        let group = GroupNow {
            name: "a \"b\"".parse().unwrap(),
            last_commit: Timestamp(2_500),
            lag: (0..GROUP_TOPICS_MAX + 3)
                .map(|n| (TopicName::for_user(&format!("t{n:02}")).unwrap(), 4))
                .collect(),
            lag_max: 4,
            lag_ms: 1_500,
            members: 3,
            idle_members: 1,
            unassigned_partitions: 0,
            stalled_partitions: 2,
            epoch: 5,
        };
        let mut page = Page::default();
        groups::groups(&mut page, &(vec![group], 7));
        let text = page.text();
        for line in [
            "naru_groups 7",
            "naru_metrics_groups_dropped 6",
            "naru_group_lag_records{group=\"a \\\"b\\\"\",topic=\"t00\"} 4",
            "naru_group_lag_records{group=\"a \\\"b\\\"\",topic=\"__other\"} 12",
            "naru_group_lag_max_records{group=\"a \\\"b\\\"\"} 4",
            "naru_group_lag_max_seconds{group=\"a \\\"b\\\"\"} 1.5",
            "naru_group_members{group=\"a \\\"b\\\"\"} 3",
            "naru_group_idle_members{group=\"a \\\"b\\\"\"} 1",
            "naru_group_stalled_partitions{group=\"a \\\"b\\\"\"} 2",
            "naru_group_epoch{group=\"a \\\"b\\\"\"} 5",
            "naru_group_last_commit_timestamp_seconds{group=\"a \\\"b\\\"\"} 2.5",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is missing in\n{text}"
            );
        }
        let own = text
            .lines()
            .filter(|line| line.starts_with("naru_group_lag_records{"));
        assert_eq!(own.count(), GROUP_TOPICS_MAX + 1);
    }
}
