//! What was done, and what must be there of it.

use super::*;

/// A batch as it was stored.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) base: Offset,
    pub(super) last: Offset,
    pub(super) bytes: Bytes,
}

#[derive(Clone, Debug)]
enum Deed {
    Append(PartitionKey, Stored),
    Trim(PartitionKey, Offset),
    Delete(TopicId),
}

/// A partition as it must be.
#[derive(Clone, Debug, Default)]
pub(super) struct ModelLog {
    pub(super) start: Offset,
    pub(super) batches: Vec<Stored>,
}

impl ModelLog {
    pub(super) fn end(&self) -> Offset {
        self.batches
            .last()
            .map_or(Offset::ZERO, |b| b.last.next())
            .max(self.start)
    }
}

/// Everything, as of one group.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) logs: BTreeMap<PartitionKey, ModelLog>,
    pub(super) above: Above,
    /// Every batch that was ever taken in, also those of deleted topics and of ends that were lost.
    pub(super) sent: Vec<(PartitionKey, Stored)>,
}

/// Everything that was submitted and may still be there.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    done: Vec<(Lsn, Deed)>,
    sent: Vec<(PartitionKey, Stored)>,
    /// The last group that was seen durable.
    pub(super) acknowledged: Lsn,
}

impl Model {
    pub(super) fn begin(acknowledged: Lsn) -> Self {
        Self {
            done: Vec::new(),
            sent: Vec::new(),
            acknowledged,
        }
    }

    pub(super) fn appended(&mut self, lsn: Lsn, step: Vec<(PartitionKey, Bytes)>) {
        for (key, bytes) in step {
            let header = BatchHeader::parse(&bytes).unwrap();
            let stored = Stored {
                base: header.base_offset,
                last: header.last_offset(),
                bytes,
            };
            self.sent.push((key, stored.clone()));
            self.done.push((lsn, Deed::Append(key, stored)));
        }
    }

    pub(super) fn trimmed(&mut self, lsn: Lsn, key: PartitionKey, to: Offset) {
        self.done.push((lsn, Deed::Trim(key, to)));
    }

    pub(super) fn deleted(&mut self, lsn: Lsn, topic: TopicId) {
        self.done.push((lsn, Deed::Delete(topic)));
    }

    /// Whether anything was submitted in groups above this one.
    pub(super) fn has_above(&self, lsn: Lsn) -> bool {
        self.done.iter().any(|(at, _)| *at > lsn)
    }

    /// What was submitted above this group never happened.
    pub(super) fn forget_above(&mut self, lsn: Lsn) {
        self.done.retain(|(at, _)| *at <= lsn);
        self.acknowledged = self.acknowledged.max(lsn);
    }

    /// Topics deleted above this group.
    pub(super) fn deleted_above(&self, lsn: Lsn) -> impl Iterator<Item = TopicId> {
        let above = self.done.iter().filter(move |(at, _)| *at > lsn);
        above.filter_map(|(_, deed)| match deed {
            Deed::Delete(topic) => Some(*topic),
            Deed::Append(..) | Deed::Trim(..) => None,
        })
    }

    /// What was submitted above this group is gone, acknowledged or not.
    pub(super) fn cut_above(&mut self, lsn: Lsn) {
        self.forget_above(lsn);
        self.acknowledged = lsn;
    }

    /// What there is when the group `lsn` is the last.
    pub(super) fn state(&self, lsn: Lsn) -> State {
        let mut state = State {
            sent: self.sent.clone(),
            ..State::default()
        };
        for (_, deed) in self.done.iter().filter(|(at, _)| *at <= lsn) {
            match deed {
                Deed::Append(key, stored) => {
                    state.above.take(*key, stored.base, stored.last, &stored.bytes);
                    state.logs.entry(*key).or_default().batches.push(stored.clone());
                }
                Deed::Trim(key, to) => {
                    let log = state.logs.entry(*key).or_default();
                    log.start = log.start.max(*to);
                }
                Deed::Delete(topic) => {
                    state.above.topic_deleted(*topic);
                    state.logs.retain(|key, _| key.topic != *topic);
                }
            }
        }
        state
    }
}

/// What reading a partition from its start gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) batches: Vec<(Offset, Bytes)>,
    /// First and last offset, inclusive.
    pub(super) corrupt: Vec<(Offset, Offset)>,
}

/// Reads what is visible of a partition, over damage.
pub(super) fn contents(rig: &Rig, key: PartitionKey) -> Result<Contents, ReadError> {
    let bounds = rig.store.open(key, rig.config).bounds(rig.durable());
    let mut found = Contents::default();
    let mut next = bounds.log_start;
    while next < bounds.high_watermark {
        match rig.read(key, next, 5000) {
            Ok((bytes, behind)) => {
                assert!(
                    behind > next,
                    "{key}: a read at {next} below the end gave nothing"
                );
                let mut rest = bytes;
                while !rest.is_empty() {
                    let header = BatchHeader::parse(&rest).expect("a batch begins here");
                    let batch = rest.split_to(usize::try_from(header.total_bytes()).unwrap());
                    found.batches.push((header.base_offset, batch));
                }
                next = behind;
            }
            Err(ReadError::Corrupt { first, last }) => {
                assert!(
                    first <= next && next <= last,
                    "{key}: damage {first} to {last} at {next}"
                );
                super::super::super::log::insert_range(&mut found.corrupt, next, last);
                next = last.next();
            }
            Err(other) => return Err(other),
        }
    }
    Ok(found)
}

/// Everything of a recovered engine that must not change by recovering once more.
pub(super) fn everything(rig: &Rig) -> Result<BTreeMap<PartitionKey, (Offset, Offset, Contents)>, Finding> {
    let keys: Vec<_> = rig.store.engine.logs().keys().copied().collect();
    let mut all = BTreeMap::new();
    for key in keys.into_iter().filter(|key| !key.topic.is_internal()) {
        let found = contents(rig, key).map_err(|e| Finding(format!("reading {key}: {e}")))?;
        let bounds = rig.store.open(key, rig.config).bounds(rig.durable());
        all.insert(key, (bounds.log_start, bounds.log_end, found));
    }
    Ok(all)
}

/// Compares an undamaged engine with what must be there.
pub(super) fn check(rig: &Rig, expected: &State, what: &str) -> Result<(), Finding> {
    let found = everything(rig)?;
    let invented = found.keys().find(|key| !expected.logs.contains_key(*key));
    ensure(invented.is_none(), || {
        format!("{what}: {invented:?} was invented or deleted")
    })?;
    for (key, log) in expected.logs.iter().filter(|(key, _)| !key.topic.is_internal()) {
        let Some((start, end, contents)) = found.get(key) else {
            return Err(Finding(format!("{what}: {key} is gone")));
        };
        ensure((*start, *end) == (log.start, log.end()), || {
            format!(
                "{what}: {key} is {start} to {end}, not {} to {}",
                log.start,
                log.end()
            )
        })?;
        ensure(contents.corrupt.is_empty(), || {
            format!("{what}: {key} is damaged at {:?}", contents.corrupt)
        })?;
        // The first batch may begin below the start.
        let kept = log.batches.iter().filter(|b| b.last >= log.start);
        let kept: Vec<_> = kept.map(|b| (b.base, b.bytes.clone())).collect();
        ensure(contents.batches == kept, || {
            let bases =
                |all: &[(Offset, Bytes)]| all.iter().map(|(o, b)| (o.get(), b.len())).collect::<Vec<_>>();
            format!(
                "{what}: {key} holds {:?}, not {:?}",
                bases(&contents.batches),
                bases(&kept)
            )
        })?;
    }
    let above = rig.above.lock().unwrap();
    ensure(*above == expected.above, || {
        format!("{what}: the state above is {above:?}, not {:?}", expected.above)
    })
}
