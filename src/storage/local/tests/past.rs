//! What was asked of an engine, and whether what is recovered may follow from it.

use super::*;
use crate::storage::SubmitError;
use crate::storage::local::LocalLog;

/// A batch that was taken in.
#[derive(Clone, Debug)]
struct Sent {
    base: Offset,
    last: Offset,
    bytes: Bytes,
    lsn: Lsn,
}

/// Everything that was asked, with the group that it went to.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    logs: BTreeMap<PartitionKey, Vec<Sent>>,
    /// Steps over several partitions: where each ends with it.
    steps: Vec<Vec<(PartitionKey, Offset)>>,
    trims: BTreeMap<PartitionKey, Vec<(Lsn, Offset)>>,
    deletions: BTreeMap<TopicId, Lsn>,
    /// The greatest high watermark that a reader was told.
    shown: BTreeMap<PartitionKey, Offset>,
}

/// What a recovery found of a partition: log start and end.
pub(super) type Found = BTreeMap<PartitionKey, (Offset, Offset)>;

/// Gives work to an engine as its callers do, and writes down what it was. May be called while the engine writes.
#[derive(Clone)]
pub(super) struct Client {
    store: Arc<LocalStore>,
    above: Arc<Mutex<Above>>,
    clock: Arc<ManualClock>,
    config: LogConfig,
    /// Whether it also writes to one of the broker's own partitions, whose damage refuses a start.
    internal: bool,
    /// Bytes that a value may have.
    value_bytes: std::ops::Range<usize>,
    pub(super) past: Arc<Mutex<Past>>,
}

impl Client {
    pub(super) fn new(rig: &Rig, past: Past) -> Self {
        Self {
            store: Arc::clone(&rig.store),
            above: Arc::clone(&rig.above),
            clock: Arc::clone(&rig.clock),
            config: rig.config,
            internal: true,
            value_bytes: 10..900,
            past: Arc::new(Mutex::new(past)),
        }
    }

    pub(super) fn without_internal(self) -> Self {
        Self {
            internal: false,
            ..self
        }
    }

    pub(super) fn with_values_of(self, value_bytes: std::ops::Range<usize>) -> Self {
        Self { value_bytes, ..self }
    }

    pub(super) fn durable(&self) -> Lsn {
        self.store.durable().borrow().lsn
    }

    pub(super) fn has_failed(&self) -> bool {
        self.store.status().failure.is_some()
    }

    fn log(&self, key: PartitionKey) -> Arc<LocalLog> {
        self.store.open(key, self.config)
    }

    /// Something that a caller may want: a step over some partitions, now and then a trim or the end of a topic. False if
    /// there is no room for it.
    pub(super) fn ask(&self, rng: &mut fastrand::Rng) -> bool {
        match rng.u32(0..24) {
            0 => self.trim(rng),
            1 => self.delete(key(10 + rng.u8(0..3), 0).topic),
            _ => {
                let keys = self.keys(rng);
                self.append(rng, &keys)
            }
        }
    }

    fn keys(&self, rng: &mut fastrand::Rng) -> Vec<PartitionKey> {
        let all = [
            PartitionKey::META,
            key(1, 0),
            key(1, 1),
            key(2, 0),
            // Few batches each: the only ones of their topic.
            key(10 + rng.u8(0..12), 0),
        ];
        let past = self.past.lock().unwrap();
        let lives = |key: &PartitionKey| {
            !past.deletions.contains_key(&key.topic) && (self.internal || !key.topic.is_internal())
        };
        let parts = rng.usize(1..4);
        let mut chosen = rng.choose_multiple(all.into_iter().filter(lives), parts);
        chosen.sort_unstable();
        chosen
    }

    /// One step over these partitions.
    pub(super) fn append(&self, rng: &mut fastrand::Rng, keys: &[PartitionKey]) -> bool {
        let mut step = Step {
            appends: smallvec::SmallVec::new(),
            trims: smallvec::SmallVec::new(),
            deletions: smallvec::SmallVec::new(),
        };
        for key in keys {
            let log = self.log(*key);
            let base = log.bounds(Lsn::ZERO).log_end;
            let mut builder = BatchBuilder::new();
            for _ in 0..rng.usize(1..4) {
                let value = vec![rng.u8(..); rng.usize(self.value_bytes.clone())];
                builder.push(self.clock.wall(), None, Some(&value), &[]);
            }
            let mut batch = builder.seal(None);
            batch.stamp(base, self.store.leader_epoch());
            step.appends.push(Placed {
                log,
                base,
                batch,
                append_time: self.clock.wall(),
            });
        }
        let bytes = step
            .appends
            .iter()
            .map(|p| u64::from(p.batch.total_bytes()))
            .sum();
        let sent: Vec<_> = step
            .appends
            .iter()
            .map(|placed| {
                (
                    placed.log.partition(),
                    *placed.batch.header(),
                    placed.batch.to_bytes(),
                )
            })
            .collect();
        let Some(lsn) = self.submit(bytes, step) else {
            return false;
        };
        let mut past = self.past.lock().unwrap();
        let mut above = self.above.lock().unwrap();
        for (key, header, bytes) in &sent {
            above.take(*key, header.base_offset, header.last_offset(), bytes);
            past.logs.entry(*key).or_default().push(Sent {
                base: header.base_offset,
                last: header.last_offset(),
                bytes: bytes.clone(),
                lsn,
            });
        }
        let ends = sent
            .iter()
            .map(|(key, header, _)| (*key, header.last_offset().next()));
        past.steps.push(ends.collect());
        true
    }

    /// To the end of a batch that can be read.
    pub(super) fn trim(&self, rng: &mut fastrand::Rng) -> bool {
        let key = key(1, rng.u32(0..2));
        let log = self.log(key);
        let watermark = log.bounds(self.durable()).high_watermark;
        let to = {
            let past = self.past.lock().unwrap();
            let batches = past.logs.get(&key).map_or(&[][..], |batches| batches);
            let ends = batches.iter().map(|sent| sent.last.next());
            rng.choose_multiple(ends.filter(|end| *end <= watermark), 1)
        };
        let Some(to) = to.first().copied() else {
            return true;
        };
        let Some(lsn) = self.submit(0, Step::trim([Trim { log, to }])) else {
            return false;
        };
        self.past
            .lock()
            .unwrap()
            .trims
            .entry(key)
            .or_default()
            .push((lsn, to));
        true
    }

    /// Nothing to do if it is not there.
    pub(super) fn delete(&self, topic: TopicId) -> bool {
        let known = {
            let past = self.past.lock().unwrap();
            past.logs.keys().any(|key| key.topic == topic) && !past.deletions.contains_key(&topic)
        };
        if !known {
            return true;
        }
        let step = Step {
            appends: smallvec::SmallVec::new(),
            trims: smallvec::SmallVec::new(),
            deletions: std::iter::once(topic).collect(),
        };
        let Some(lsn) = self.submit(0, step) else {
            return false;
        };
        self.above.lock().unwrap().topic_deleted(topic);
        self.past.lock().unwrap().deletions.insert(topic, lsn);
        true
    }

    fn submit(&self, bytes: u64, step: Step<LocalLog>) -> Option<Lsn> {
        let permit = self.store.permit(bytes, Class::Internal).ok()?;
        match self.store.submit(permit, step) {
            Ok(lsn) => Some(lsn),
            Err(SubmitError::Poisoned) => None,
            Err(error @ (SubmitError::NotOwner | SubmitError::Busy)) => panic!("{error}"),
        }
    }

    /// Looks as a reader may at any moment: what is shown has to stay, and of a step all is shown or nothing.
    pub(super) fn look(&self) {
        let durable = self.durable();
        let mut past = self.past.lock().unwrap();
        let past = &mut *past;
        for key in past
            .logs
            .keys()
            .filter(|key| !past.deletions.contains_key(&key.topic))
        {
            let watermark = self.log(*key).bounds(durable).high_watermark;
            let shown = past.shown.entry(*key).or_default();
            assert!(watermark >= *shown, "{key}: the high watermark went back");
            *shown = watermark;
        }
        past.check_steps("shown", |key| past.shown.get(&key).copied());
    }
}

impl Past {
    /// Whether steps are whole, where a partition reaches to this offset; `None` if it is gone.
    fn check_steps(&self, what: &str, end: impl Fn(PartitionKey) -> Option<Offset>) {
        for step in &self.steps {
            let there = step
                .iter()
                .filter(|(key, _)| !self.deletions.contains_key(&key.topic))
                .map(|(key, until)| end(*key).is_some_and(|end| end >= *until));
            let there: Vec<_> = there.collect();
            assert!(
                there.windows(2).all(|pair| pair[0] == pair[1]),
                "{what}: a step is there in part: {step:?}"
            );
        }
    }

    /// The least end that a partition must have if groups up to this one were acknowledged.
    fn promised_end(&self, key: PartitionKey, durable: Lsn) -> Offset {
        let batches = self.logs.get(&key).into_iter().flatten();
        let acknowledged = batches
            .filter(|sent| sent.lsn <= durable)
            .map(|sent| sent.last.next());
        let shown = self.shown.get(&key).copied().unwrap_or_default();
        acknowledged.fold(shown, Offset::max)
    }

    /// Compares a recovered engine with what was asked before, of which groups up to `durable` were acknowledged.
    pub(super) fn check(&self, rig: &Rig, durable: Lsn) -> Found {
        assert_eq!(rig.store.report().lost_groups, 0, "groups are called lost");
        let mut found = Found::new();
        let mut above = Above::default();
        for (key, batches) in &self.logs {
            let deleted = self.deletions.get(&key.topic);
            let there = rig.store.engine.logs().contains_key(key);
            if deleted.is_some_and(|lsn| *lsn <= durable || !there) {
                assert!(!there, "{key} was deleted");
                continue;
            }
            let promised = self.promised_end(*key, durable);
            if !there {
                assert_eq!(promised, Offset::ZERO, "{key} is gone");
                continue;
            }
            let bounds = rig.store.open(*key, rig.config).bounds(rig.durable());
            let (start, end) = (bounds.log_start, bounds.log_end);
            assert!(end >= promised, "{key} ends at {end}, {promised} was promised");
            self.check_start(*key, start, durable);
            let is_end = end == Offset::ZERO || batches.iter().any(|sent| sent.last.next() == end);
            assert!(is_end, "{key} ends at {end}, which is within a batch");
            if !key.topic.is_internal() {
                let expected = batches.iter().filter(|b| b.base >= start && b.last < end);
                let expected: Vec<_> = expected.map(|sent| sent.bytes.clone()).collect();
                assert_eq!(
                    read_between(rig, *key, start, end),
                    expected.concat(),
                    "{key} holds something else than what was written"
                );
            }
            for sent in batches.iter().filter(|sent| sent.last < end) {
                above.take(*key, sent.base, sent.last, &sent.bytes);
            }
            found.insert(*key, (start, end));
        }
        self.check_steps("found", |key| found.get(&key).map(|(_, end)| *end));
        assert_eq!(
            *rig.above.lock().unwrap(),
            above,
            "the state above is not that of the log"
        );
        found
    }

    fn check_start(&self, key: PartitionKey, start: Offset, durable: Lsn) {
        if key.topic.is_internal() {
            return;
        }
        let trims = self.trims.get(&key).map_or(&[][..], |trims| trims);
        let greatest = |trims: &mut dyn Iterator<Item = &(Lsn, Offset)>| {
            trims.map(|(_, to)| *to).fold(Offset::ZERO, Offset::max)
        };
        let least = greatest(&mut trims.iter().filter(|(lsn, _)| *lsn <= durable));
        let most = greatest(&mut trims.iter());
        assert!(
            least <= start && start <= most,
            "{key} begins at {start}, not between {least} and {most}"
        );
    }

    /// The past of the life that began with what was found: all of it counts as acknowledged.
    pub(super) fn after(&self, found: &Found) -> Self {
        let end = |key: &PartitionKey| found.get(key).map(|(_, end)| *end);
        let mut after = Self::default();
        for (key, (start, end)) in found {
            let batches = self.logs[key].iter().filter(|sent| sent.last < *end);
            let batches = batches.map(|sent| Sent {
                lsn: Lsn::ZERO,
                ..sent.clone()
            });
            after.logs.insert(*key, batches.collect());
            after.trims.insert(*key, vec![(Lsn::ZERO, *start)]);
            after.shown.insert(*key, *end);
        }
        let whole = |step: &&Vec<(PartitionKey, Offset)>| {
            step.iter()
                .all(|(key, until)| end(key).is_some_and(|end| end >= *until))
        };
        after.steps = self.steps.iter().filter(whole).cloned().collect();
        // Nobody makes a topic again under an id that is gone.
        let is_gone = |topic: &TopicId| !found.keys().any(|key| key.topic == *topic);
        let gone = self.deletions.keys().copied().filter(is_gone);
        after.deletions = gone.map(|topic| (topic, Lsn::ZERO)).collect();
        after
    }

    /// Whether every offset that was acknowledged is there as it was written, or is reported as damaged; how many reports
    /// there were. Where groups were lost with their tables, the ends of partitions may be part of them.
    pub(super) fn check_damaged(&self, rig: &Rig, durable: Lsn, groups_lost: bool) -> usize {
        let mut reported = 0;
        let lives = |key: &PartitionKey| !key.topic.is_internal() && !self.deletions.contains_key(&key.topic);
        for (key, batches) in self.logs.iter().filter(|(key, _)| lives(key)) {
            let bounds = rig.store.open(*key, rig.config).bounds(rig.durable());
            let mut promised = self.promised_end(*key, durable);
            if groups_lost && bounds.high_watermark < promised {
                reported += 1;
                promised = bounds.high_watermark;
            }
            assert!(
                bounds.high_watermark >= promised,
                "{key} ends at {} and nothing is said of the rest up to {promised}",
                bounds.high_watermark
            );
            let mut next = bounds.log_start;
            while next < promised {
                match rig.read(*key, next, 1) {
                    Ok((bytes, behind)) => {
                        let sent = batches.iter().find(|sent| sent.base <= next && next <= sent.last);
                        assert!(
                            sent.is_some_and(|sent| sent.bytes == bytes && behind == sent.last.next()),
                            "{key} gives something else at {next} than was written"
                        );
                        next = behind;
                    }
                    Err(ReadError::Corrupt { last, .. }) => {
                        reported += 1;
                        next = next.max(last).next();
                    }
                    // A sector that the disk does not give: told, and perhaps readable another time.
                    Err(ReadError::Io(_)) => {
                        reported += 1;
                        let sent = batches.iter().find(|sent| sent.base <= next && next <= sent.last);
                        next = sent.map_or(next, |sent| sent.last).next();
                    }
                    Err(error) => panic!("{key} at {next}: {error}"),
                }
            }
        }
        reported
    }
}

fn read_between(rig: &Rig, key: PartitionKey, start: Offset, end: Offset) -> Bytes {
    let mut next = start;
    let mut all = Vec::new();
    while next < end {
        let (bytes, behind) = rig
            .read(key, next, 2500)
            .unwrap_or_else(|e| panic!("{key} at {next}: {e}"));
        assert!(behind > next, "{key} at {next}: nothing is there");
        all.extend_from_slice(&bytes);
        next = behind;
    }
    all.into()
}
