//! How this broker is, and who it is. Waits for nothing: it must be answered when little else works.

use super::Broker;
use crate::api::{DescribedCluster, Outcome, Response};
use crate::model::{StorageHealth, StorageState};
use crate::storage::{LogStore, PartitionLog};

impl<S: LogStore> Broker<S> {
    pub(super) fn describe_cluster(&self) -> Outcome {
        let (mut topics, mut partitions, mut quarantined_ranges) = (0, 0, 0);
        for handle in self.registry.all() {
            topics += 1;
            partitions += handle.partitions.len() as u64;
            let damaged = handle
                .partitions
                .iter()
                .map(|p| p.log.stats().quarantined.len() as u64);
            quarantined_ranges += damaged.sum::<u64>();
        }
        let storage = self.store.health();
        let settings = &self.settings;
        Outcome::Ready(Ok(Response::DescribeCluster(Box::new(DescribedCluster {
            cluster_id: settings.cluster_id.clone(),
            broker_id: settings.broker_id,
            version: settings.version.clone(),
            revision: settings.revision.clone(),
            native_address: settings.address.clone(),
            http_address: settings.http_address.clone(),
            uptime: self.clock.mono().saturating_sub(self.started),
            topics,
            partitions,
            quarantined_ranges,
            problems: problems(&storage, quarantined_ranges),
            storage,
        }))))
    }
}

/// What keeps a broker from being healthy. Damage counts until it is gone: somebody has lost records and may not know.
fn problems(storage: &StorageHealth, quarantined_ranges: u64) -> Vec<String> {
    let mut problems = Vec::new();
    match &storage.state {
        StorageState::Ok => {}
        StorageState::ReadOnly => {
            problems.push("storage is full: produce is refused, reading and deleting work".to_owned());
        }
        StorageState::Broken(failure) => problems.push(format!("storage failed: {failure}")),
    }
    if quarantined_ranges > 0 {
        problems.push(format!(
            "{quarantined_ranges} damaged ranges of offsets cannot be read: topic describe shows them"
        ));
    }
    if storage.crc_errors > 0 {
        problems.push(format!(
            "{} damaged batches were found by reading since the start",
            storage.crc_errors
        ));
    }
    if let Some(lost) = storage.recovery.map(|r| r.lost_groups).filter(|lost| *lost > 0) {
        problems.push(format!(
            "{lost} acknowledged journal groups could not be read at the last start"
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Lsn, RecoverySummary};

    fn healthy() -> StorageHealth {
        StorageHealth {
            engine: "local".into(),
            state: StorageState::Ok,
            durable: Lsn(5),
            applied: Lsn(4),
            admitted_bytes: 10,
            journal_files: (1, 4),
            crc_errors: 0,
            disk: Some((100, 10)),
            memory: None,
            recovery: Some(RecoverySummary {
                clean: false,
                groups: 7,
                bytes: 700,
                lost_groups: 0,
                unfinished: true,
                took: Duration::ZERO,
            }),
        }
    }

    #[test]
    fn a_crash_that_lost_nothing_is_no_problem() {
        assert_eq!(problems(&healthy(), 0), Vec::<String>::new());
    }

    #[test]
    fn everything_that_loses_or_refuses_records_is_a_problem() {
        let full = StorageHealth {
            state: StorageState::ReadOnly,
            ..healthy()
        };
        let broken = StorageHealth {
            state: StorageState::Broken("write failed".to_owned()),
            crc_errors: 2,
            ..healthy()
        };
        let mut lost = healthy();
        lost.recovery = lost.recovery.map(|r| RecoverySummary { lost_groups: 3, ..r });
        for (storage, quarantined, words) in [
            (full, 0, &["full"][..]),
            (broken, 0, &["write failed", "2 damaged batches"]),
            (lost, 1, &["1 damaged ranges", "3 acknowledged"]),
        ] {
            let found = problems(&storage, quarantined);
            assert_eq!(found.len(), words.len(), "{found:?}");
            for (problem, word) in found.iter().zip(words) {
                assert!(problem.contains(word), "{found:?}");
            }
        }
    }
}
