//! Starts on a damaged image, reads everything, and compares with what is due.

use std::collections::BTreeSet;

use super::super::*;
use super::directories::{Directory, Sent, TINY};
use super::rules::Outcome;

/// Names the place if there is a panic.
pub(super) struct Place<'a>(pub(super) &'a str);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("panic at {}", self.0);
        }
    }
}

type Range = (PartitionKey, Offset, Offset);

/// What is wrong, in words, or nothing.
pub(super) fn judge(
    directory: &Directory,
    image: &SimDisk,
    outcome: &Outcome,
    works_on: bool,
) -> Result<(), String> {
    let before = (image.ops(), image.files());
    let damaged = match outcome {
        Outcome::Torn { path, at } => block_of(image, path, *at),
        _ => Vec::new(),
    };
    let mut rig = match (Rig::open(image, &small()), outcome) {
        (Ok(rig), _) => rig,
        (Err(error), Outcome::Refused(named)) => {
            let error = error.to_string();
            let missing: Vec<_> = named.iter().filter(|name| !error.contains(*name)).collect();
            if !missing.is_empty() {
                return Err(format!("{missing:?} not said: {error}"));
            }
            let after = (image.ops(), image.files());
            return same("changed by a refusal", &after, &before);
        }
        (Err(error), _) => return Err(format!("no start: {error}")),
    };
    if let Outcome::Refused(_) = outcome {
        return Err("it starts".to_owned());
    }
    rig.config = TINY;
    check_above(directory, &rig, outcome)?;
    let expected = expected(directory, outcome);
    check_reads(directory, &rig, outcome, &expected)?;
    if !damaged.is_empty() {
        check_salvage(image, directory.last, &damaged)?;
    }
    if works_on {
        return work_on(directory, rig, outcome, expected);
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, due: &T) -> Result<(), String> {
    if found == due {
        return Ok(());
    }
    Err(format!("{what}: {found:?}, not {due:?}"))
}

/// The state above the engine is that of the records that are there.
fn check_above(directory: &Directory, rig: &Rig, outcome: &Outcome) -> Result<(), String> {
    let found = rig.above.lock().unwrap().clone();
    match outcome {
        Outcome::Nothing | Outcome::Epoch { .. } => same("replayed", &found, &directory.above),
        Outcome::Torn { .. } => same("replayed", &found, &directory.above_before_last),
        Outcome::Told { .. } => {
            let key = PartitionKey::META;
            same(
                "replayed of the broker's own",
                &found.0.get(&key),
                &directory.above.0.get(&key),
            )
        }
        Outcome::Refused(_) => Ok(()),
    }
}

/// What should be there.
fn expected(directory: &Directory, outcome: &Outcome) -> BTreeMap<PartitionKey, Vec<Sent>> {
    let mut sent = directory.sent.clone();
    if let Outcome::Torn { .. } = outcome {
        for batches in sent.values_mut() {
            batches.retain(|batch| batch.lsn < directory.last);
        }
    }
    sent
}

fn check_reads(
    directory: &Directory,
    rig: &Rig,
    outcome: &Outcome,
    sent: &BTreeMap<PartitionKey, Vec<Sent>>,
) -> Result<(), String> {
    let mut told = Vec::new();
    for (key, batches) in sent.iter().filter(|(key, _)| !key.topic.is_internal()) {
        let bounds = rig.store.open(*key, TINY).bounds(rig.durable());
        let start = directory.starts.get(key).copied().unwrap_or(Offset::ZERO);
        let end = batches.last().map_or(Offset::ZERO, |batch| batch.last.next());
        same(
            &format!("bounds of {key}"),
            &(bounds.log_start, bounds.high_watermark, bounds.log_end),
            &(start, end, end),
        )?;
        for max_bytes in [1, 5000] {
            told.extend(read_partition(
                rig,
                (*key, start, end),
                max_bytes,
                batches,
                outcome,
            )?);
        }
    }
    told.sort();
    told.dedup();
    compare_told(&told, outcome)
}

/// Reads one partition; what is told to be damaged.
fn read_partition(
    rig: &Rig,
    (key, start, end): Range,
    max_bytes: u32,
    batches: &[Sent],
    outcome: &Outcome,
) -> Result<Vec<Range>, String> {
    let (mut told, mut next) = (Vec::new(), start);
    while next < end {
        match rig.read(key, next, max_bytes) {
            Ok((bytes, behind)) => {
                let wanted = batches.iter().filter(|b| b.last >= next && b.base < behind);
                let wanted: Vec<u8> = wanted.flat_map(|b| whole(key, b, outcome, &bytes)).collect();
                if wanted != bytes || behind <= next {
                    return Err(format!("{key} gives other bytes at {next}, up to {behind}"));
                }
                next = behind;
            }
            Err(ReadError::Corrupt { first, last }) => {
                told.push((key, first, last));
                next = next.max(last).next();
            }
            Err(error) => return Err(format!("{key} at {next}: {error}")),
        }
    }
    Ok(told)
}

/// A batch as it was sent; with the leader epoch that was found, where that may be another.
fn whole(key: PartitionKey, batch: &Sent, outcome: &Outcome, found: &[u8]) -> Vec<u8> {
    let mut bytes = batch.bytes.to_vec();
    let epoch_may_differ = *outcome
        == Outcome::Epoch {
            key,
            base: batch.base,
        };
    if epoch_may_differ {
        let at = found.windows(12).position(|w| w == &bytes[..12]);
        if let Some(at) = at {
            bytes[12..16].copy_from_slice(&found[at + 12..at + 16]);
        }
    }
    bytes
}

fn compare_told(told: &[Range], outcome: &Outcome) -> Result<(), String> {
    let offsets = |(key, first, last): &Range| {
        let key = *key;
        (first.get()..=last.get()).map(move |n| (key, n))
    };
    let found: BTreeSet<_> = told.iter().flat_map(offsets).collect();
    let due = match outcome {
        Outcome::Told { key, first, last } => offsets(&(*key, *first, *last)).collect(),
        _ => BTreeSet::new(),
    };
    same("told", &found, &due)
}

/// The block of a group as it was found.
fn block_of(image: &SimDisk, path: &str, at: u64) -> Vec<u8> {
    let at = usize::try_from(at).unwrap();
    image.read_file(path).unwrap()[at..at + 4096].to_vec()
}

fn check_salvage(image: &SimDisk, lsn: Lsn, damaged: &[u8]) -> Result<(), String> {
    let path = format!("salvage/unfinished-{lsn}.group");
    match image.read_file(&path) {
        Ok(copy) if copy.starts_with(damaged) => Ok(()),
        Ok(_) => Err(format!("{path} holds something else")),
        Err(_) => Err(format!("no {path}")),
    }
}

/// Appends to every partition, is killed, and starts again: nothing of what was found changes.
fn work_on(
    directory: &Directory,
    mut rig: Rig,
    outcome: &Outcome,
    mut sent: BTreeMap<PartitionKey, Vec<Sent>>,
) -> Result<(), String> {
    for (key, batches) in &mut sent {
        let bytes = rig.produce(*key, 1, 3, 9);
        let base = batches.last().map_or(Offset::ZERO, |batch| batch.last.next());
        batches.push(Sent {
            base,
            last: base,
            bytes,
            lsn: rig.durable(),
        });
    }
    rig.inline.seal();
    let image = rig.disk.after_kill();
    let mut again = Rig::open(&image, &small()).map_err(|e| format!("no second start: {e}"))?;
    again.config = TINY;
    check_reads(directory, &again, outcome, &sent).map_err(|why| format!("after a second start: {why}"))
}
