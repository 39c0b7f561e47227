//! The engine with its own threads on a real disk: submitters, readers, a deletion, a stop and a start.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::disk::real::RealDisk;
use crate::disk::{SharedDisk, sim::Fault, sim::FaultKind};
use crate::rt::SystemClock;
use crate::storage::SubmitError;

const SUBMITTERS: u32 = 3;
const ROUNDS: u32 = 300;

struct Nothing;

impl SnapshotSource for Nothing {
    fn snapshot(&self, _key: PartitionKey) -> Option<Snapshot> {
        None
    }
}

fn open(disk: SharedDisk) -> LocalStore {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let store = LocalStore::open(disk, &small(), clock, &FixedIds, &mut Above::default()).unwrap();
    store.start(Arc::new(Nothing)).unwrap();
    store
}

/// One record for the end of a log; its bytes say which it is.
fn batch_for(store: &LocalStore, key: PartitionKey, round: u32) -> SealedBatch {
    let value = format!("{key} {round} ").repeat(1 + usize::try_from(round % 40).unwrap());
    let mut builder = BatchBuilder::new();
    builder.push(Timestamp(1), None, Some(value.as_bytes()), &[]);
    let mut batch = builder.seal(None);
    batch.stamp(offset(i64::from(round)), store.leader_epoch());
    batch
}

fn permit(store: &LocalStore, bytes: u64, runtime: &tokio::runtime::Runtime) -> crate::storage::Permit {
    loop {
        let freed = store.permit_freed();
        match store.permit(bytes, Class::Produce) {
            Ok(permit) => return permit,
            Err(Backpressure::Busy) => runtime.block_on(freed),
            Err(other) => panic!("{other}"),
        }
    }
}

/// Appends until done or until the topic is gone; returns the stored bytes of every batch.
fn submitter(store: &LocalStore, key: PartitionKey) -> Vec<Bytes> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let log = store.open(key, CONFIG);
    let mut stored = Vec::new();
    for round in 0..ROUNDS {
        let batch = batch_for(store, key, round);
        let bytes = batch.to_bytes();
        let permit = permit(store, u64::from(batch.total_bytes()), &runtime);
        let placed = Placed {
            log: Arc::clone(&log),
            base: offset(i64::from(round)),
            batch,
            append_time: Timestamp(1),
        };
        match store.submit(permit, Step::append(placed)) {
            Ok(lsn) => {
                stored.push(bytes);
                if round % 7 == 0 {
                    let mut durable = store.durable();
                    let reached = runtime.block_on(durable.wait_for(|d| d.lsn >= lsn || d.poisoned));
                    assert!(!reached.unwrap().poisoned);
                }
            }
            Err(SubmitError::NotOwner) => break,
            Err(other) => panic!("{other}"),
        }
    }
    stored
}

/// Reads along until `done` and everything durable was read; returns the bytes.
fn reader(store: &LocalStore, key: PartitionKey, done: &AtomicBool) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let log = store.open(key, CONFIG);
    let mut all = Vec::new();
    let mut next = Offset::ZERO;
    loop {
        let was_done = done.load(Ordering::SeqCst);
        let durable = store.durable().borrow().lsn;
        let spec = ReadSpec {
            from: next,
            durable,
            max_bytes: 3000,
            min_one: true,
        };
        let out = match runtime.block_on(Arc::clone(&log).read(spec)) {
            Ok(out) => out,
            Err(ReadError::NotOwner) => return all,
            Err(other) => panic!("{key} at {next}: {other}"),
        };
        if out.bytes == 0 {
            assert_eq!(out.next, next);
            if was_done {
                return all;
            }
            thread::yield_now();
            continue;
        }
        assert!(out.next > next && out.next <= log.bounds(store.durable().borrow().lsn).high_watermark);
        let bytes = out.extents.concat();
        assert_eq!(
            BatchHeader::parse(&bytes).unwrap().base_offset,
            next,
            "{key}: contiguous"
        );
        all.extend_from_slice(&bytes);
        next = out.next;
    }
}

#[test]
fn threads_agree_on_what_is_durable_and_a_restart_finds_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk: SharedDisk = Arc::new(RealDisk::open(dir.path()).unwrap());
    let store = open(Arc::clone(&disk));
    let keys: Vec<_> = (0..SUBMITTERS).map(|p| key(1, p)).chain([key(2, 0)]).collect();
    let done = AtomicBool::new(false);
    let mut expected = BTreeMap::new();
    thread::scope(|scope| {
        let writing: Vec<_> = keys
            .iter()
            .map(|k| (*k, scope.spawn(|| submitter(&store, *k))))
            .collect();
        let reading: Vec<_> = keys
            .iter()
            .map(|k| (*k, scope.spawn(|| reader(&store, *k, &done))))
            .collect();
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let log = store.open(key(2, 0), CONFIG);
            while log.bounds(Lsn(u64::MAX)).log_end < offset(50) {
                thread::yield_now();
            }
            let step = Step {
                appends: smallvec::SmallVec::new(),
                trims: smallvec::SmallVec::new(),
                deletions: [key(2, 0).topic].into_iter().collect(),
            };
            store.submit(permit(&store, 100, &runtime), step).unwrap();
        });
        for (k, thread) in writing {
            expected.insert(k, thread.join().unwrap());
        }
        // The seal or the last group makes everything that was taken in durable.
        let last = store.engine.queue.last_submitted();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime
            .block_on(store.durable().wait_for(|d| d.lsn >= last))
            .unwrap();
        done.store(true, Ordering::SeqCst);
        for (k, thread) in reading {
            let (read, wrote) = (thread.join().unwrap(), expected[&k].concat());
            assert!(wrote.starts_with(&read), "{k}");
            assert!(k == key(2, 0) || read == wrote, "{k}");
        }
    });
    store.shutdown().unwrap();
    assert_eq!(store.status().admitted_bytes, 0, "every permit came back");
    drop(store);
    let again = open(disk);
    assert!(again.report().clean);
    for p in 0..SUBMITTERS {
        let k = key(1, p);
        assert_eq!(
            reader(&again, k, &AtomicBool::new(true)),
            expected[&k].concat(),
            "{k} after a restart"
        );
    }
    assert!(
        !again.engine.logs().contains_key(&key(2, 0)),
        "the deleted topic stays gone"
    );
    again.shutdown().unwrap();
}

#[test]
fn journal_goes_on_after_its_files_could_not_be_made() {
    let sim = new_disk();
    let store = LocalStore::open(
        Arc::new(sim.clone()),
        &small(),
        Arc::new(SystemClock::default()),
        &FixedIds,
        &mut Above::default(),
    )
    .unwrap();
    // Name, zeros and sync of the next files fail; then the disk has room again.
    sim.inject(Fault::next(FaultKind::NoSpace, "journal/00000001").times(1));
    store.start(Arc::new(Nothing)).unwrap();
    let stored = submitter(&store, key(1, 0));
    assert_eq!(stored.len(), usize::try_from(ROUNDS).unwrap());
    store.shutdown().unwrap();
}
