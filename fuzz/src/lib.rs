//! A data directory on a simulated disk, to be damaged, opened and read.

use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use naru::disk::sim::{SimDisk, SimOptions};
use naru::model::{Lsn, Offset, PartitionId, PartitionKey, Timestamp, TopicId};
use naru::record::{BatchBuilder, BatchHeader, Batches, check_crc};
use naru::rt::{Clock, IdSource, ManualClock};
use naru::storage::local::{Inline, LocalStore, Settings};
use naru::storage::{
    Class, LogConfig, LogStore, PartitionLog, Placed, ReadError, ReadSpec, Replay, SharedSnapshots, Snapshot,
    SnapshotSource, Step, Trim,
};

const CONFIG: LogConfig = LogConfig {
    segment_bytes: 4 << 10,
    index_interval_bytes: 512,
    segment_ms: u64::MAX,
    segment_jitter_ms: 0,
    memory_bytes: None,
};

/// Two partitions are enough for steps that span them.
const KEYS: [PartitionKey; 2] = [key(0), key(1)];

const fn key(partition: u32) -> PartitionKey {
    PartitionKey {
        topic: TopicId::from_bytes([7; 16]),
        partition: PartitionId(partition),
    }
}

fn settings() -> Settings {
    Settings {
        journal_file_bytes: 512 << 10,
        journal_first_file_bytes: 512 << 10,
        journal_files: 2,
        memory_tail_bytes: 1 << 20,
        reserve_bytes: 0,
        apply_after: Duration::ZERO,
        ..Settings::default()
    }
}

struct FixedIds;

impl IdSource for FixedIds {
    fn uuid(&self) -> [u8; 16] {
        [0x5a; 16]
    }
}

/// Nothing is kept above the engine.
struct NothingAbove;

impl Replay for NothingAbove {
    fn snapshot(&mut self, _key: PartitionKey, _snapshot: Snapshot) {}

    fn batch(&mut self, _key: PartitionKey, header: &BatchHeader, batch: &[u8], _append_time: Timestamp) {
        check_crc(header, batch).expect("recovery hands on what it has checked");
    }

    fn topic_deleted(&mut self, _topic: TopicId) {}

    fn replayed_snapshot(&self, _key: PartitionKey) -> Option<Snapshot> {
        None
    }
}

impl SnapshotSource for NothingAbove {
    fn snapshot(&self, _key: PartitionKey) -> Option<Snapshot> {
        None
    }
}

fn open(disk: &SimDisk) -> Result<(Arc<LocalStore>, Inline), String> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let opened = LocalStore::open(
        Arc::new(disk.clone()),
        &settings(),
        clock,
        &FixedIds,
        &mut NothingAbove,
    );
    let store = opened.map_err(|error| error.to_string())?;
    let above: SharedSnapshots = Arc::new(NothingAbove);
    Ok(store.into_inline(above))
}

/// Appends a batch and makes it durable.
fn append(store: &LocalStore, inline: &mut Inline, key: PartitionKey, fill: u8) {
    let log = store.open(key, CONFIG);
    let mut builder = BatchBuilder::new();
    for _ in 0..3 {
        builder.push(
            Timestamp(1_700_000_000_000),
            Some(&[fill]),
            Some(&[fill; 60]),
            &[],
        );
    }
    let mut batch = builder.seal(None);
    let base = log.bounds(Lsn::ZERO).log_end;
    batch.stamp(base, store.leader_epoch());
    let permit = store
        .permit(u64::from(batch.total_bytes()), Class::Internal)
        .expect("the ring is far from full");
    let placed = Placed {
        log,
        base,
        batch,
        append_time: Timestamp(1_700_000_000_000),
    };
    store
        .submit(permit, Step::append(placed))
        .expect("the engine works");
    inline.journal().expect("the disk works");
}

/// Moves a log start and makes that durable.
fn trim(store: &LocalStore, inline: &mut Inline, key: PartitionKey, to: i64) {
    let to = Offset::new(to).expect("it is not negative");
    let log = store.open(key, CONFIG);
    let permit = store.permit(0, Class::Internal).expect("the ring is far from full");
    let step = Step {
        appends: Default::default(),
        trims: std::iter::once(Trim { log, to }).collect(),
        deletions: Default::default(),
    };
    store.submit(permit, step).expect("the engine works");
    inline.journal().expect("the disk works");
}

/// A directory after a kill: three segments with their indexes in each partition, a checkpoint, and more in the journal;
/// the first partition was trimmed before the one and behind it.
static DIRECTORY: LazyLock<SimDisk> = LazyLock::new(|| {
    let disk = SimDisk::new(SimOptions::default());
    let (store, mut inline) = open(&disk).expect("a new directory");
    inline.make_journal_file().expect("the disk works");
    for fill in 0..40 {
        append(&store, &mut inline, KEYS[usize::from(fill % 2)], fill);
    }
    trim(&store, &mut inline, KEYS[0], 4);
    inline.applier_round(true).expect("the disk works");
    inline.checkpoint().expect("the disk works");
    for fill in 40..60 {
        append(&store, &mut inline, KEYS[usize::from(fill % 2)], fill);
        if fill == 50 {
            trim(&store, &mut inline, KEYS[0], 40);
        }
    }
    disk.after_kill()
});

/// Damages files whose names satisfy `of`, opens the directory, and reads everything. Refusing to start is fine.
///
/// The input is a list of patches: which file, where, how many bytes, the bytes.
pub fn damage_and_read(mut input: &[u8], of: impl Fn(&str) -> bool) {
    let disk = DIRECTORY.after_kill();
    let files: Vec<_> = disk
        .files()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| of(path))
        .collect();
    assert!(!files.is_empty());
    for _ in 0..8 {
        let Some(([which, high, middle, low, length], rest)) =
            input.split_first_chunk().map(|(a, b)| (*a, b))
        else {
            break;
        };
        let (bytes, rest) = rest.split_at(usize::from(length).min(rest.len()));
        input = rest;
        let path = &files[usize::from(which) % files.len()];
        let mut content = disk.read_file(path).expect("it was listed");
        let at = u32::from_be_bytes([0, high, middle, low]) as usize % content.len().max(1);
        if bytes.is_empty() {
            // Cut instead.
            content.truncate(at);
        }
        for (old, new) in content.iter_mut().skip(at).zip(bytes) {
            *old = *new;
        }
        disk.write_file(path, &content).expect("the disk works");
    }
    let Ok((store, inline)) = open(&disk) else { return };
    read_everything(&store);
    drop(inline);
}

fn read_everything(store: &LocalStore) {
    for key in KEYS {
        let log = store.open(key, CONFIG);
        let bounds = log.bounds(store.durable().borrow().lsn);
        let mut next = bounds.log_start;
        let mut steps = 0;
        while next < bounds.high_watermark {
            steps += 1;
            assert!(steps < 10_000, "reading does not get on at {next}");
            next = read_at(store, key, next);
        }
        look_up(store, key);
    }
}

/// Looks for every time there may be: the first record that can be read, or damage.
fn look_up(store: &LocalStore, key: PartitionKey) {
    let log = store.open(key, CONFIG);
    let durable = store.durable().borrow().lsn;
    let bounds = log.bounds(durable);
    for at in [i64::MIN, 1_700_000_000_000, i64::MAX] {
        match block_on(Arc::clone(&log).find_timestamp(Timestamp(at), durable)) {
            Ok(Some(found)) => {
                assert!(found.timestamp >= Timestamp(at));
                assert!((bounds.log_start..bounds.high_watermark).contains(&found.offset));
            }
            Ok(None) | Err(ReadError::Corrupt { .. }) => {}
            Err(error) => panic!("looking for {at} in {key}: {error}"),
        }
    }
}

/// Reads at an offset; where to go on.
fn read_at(store: &LocalStore, key: PartitionKey, from: Offset) -> Offset {
    let spec = ReadSpec {
        from,
        durable: store.durable().borrow().lsn,
        max_bytes: 64 << 10,
        min_one: true,
    };
    let log = store.open(key, CONFIG);
    let read = match log.try_read(&spec) {
        Some(read) => read,
        None => block_on(log.read(spec)),
    };
    match read {
        Ok(out) => {
            assert!(out.next > from, "nothing is read at {from}");
            let whole: Bytes = out.extents.concat().into();
            for batch in Batches::new(whole) {
                let (header, bytes) = batch.expect("whole batches come");
                check_crc(&header, &bytes).expect("what is given out was checked");
                assert!(header.last_offset() >= from && header.last_offset() < out.next);
            }
            out.next
        }
        Err(ReadError::Corrupt { last, .. }) => {
            assert!(last >= from, "damage below what was asked for");
            last.next()
        }
        Err(error) => panic!("reading {key} at {from}: {error}"),
    }
}

/// Disk reads run on blocking threads of a runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime can be made")
    });
    RUNTIME.block_on(future)
}
