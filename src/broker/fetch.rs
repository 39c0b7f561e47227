//! Fetch: from memory at once where possible, otherwise later: from disk, or when there is enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, watch};

use super::decompression::{Decompression, has_compressed};
use super::groups::Fence;
use super::{Broker, Counters, Partition, errors, when_durable};
use crate::api::{
    ApiError, Fetch, FetchForm, FetchPartition, FetchPayload, Fetched, FetchedPartition, Outcome, Reply,
    Response,
};
use crate::model::{DurableState, LeaderEpoch, LogBounds, Lsn, Offset};
use crate::planted::{self, Bug};
use crate::record::{Batches, DECOMPRESSED_BYTES_MAX, Record, Records, uncompressed};
use crate::storage::{LogStore, PartitionLog, ReadError, ReadOut, ReadSpec};

/// A fetch with everything looked up; needs the broker no more.
struct Plan<L> {
    targets: Vec<Result<Target<L>, ApiError>>,
    max_wait: Duration,
    min_bytes: u64,
    max_bytes: u64,
    form: FetchForm,
    structured_bytes_max: u64,
    leader_epoch: LeaderEpoch,
    durable: watch::Receiver<DurableState>,
    metadata_lsn: Arc<AtomicU64>,
    counters: Arc<Counters>,
    decompression: Decompression,
    /// If a member of a group asks.
    fence: Option<Arc<dyn Fence>>,
    fence_lsn: Lsn,
}

/// One partition to read.
struct Target<L> {
    partition: Arc<Partition<L>>,
    offset: i64,
    max_bytes: u64,
}

/// One pass over all partitions, as of one durable LSN.
struct Round {
    durable: Lsn,
    results: Vec<Result<FetchedPartition, ApiError>>,
    /// Bytes of batches so far.
    bytes: u64,
    /// Bytes of decoded records so far, as a client gets them.
    structured_bytes: u64,
    records: u64,
    /// Bytes of batches that the engine had in memory.
    memory_bytes: u64,
    /// Which targets gave how many records and bytes.
    taken: Vec<(usize, u64, u64)>,
    /// A limit kept something back: there is no point in waiting for more.
    full: bool,
    failed: bool,
}

/// What has to be done for a partition.
enum Next {
    Answered(Result<FetchedPartition, ApiError>),
    Read(ReadSpec, LogBounds),
}

impl<S: LogStore> Broker<S> {
    pub(super) fn fetch(&self, fetch: Fetch) -> Outcome {
        let (asked, max) = (fetch.partitions.len(), self.settings.request_partitions_max);
        if asked > max {
            return Outcome::Ready(Err(errors::too_many("partitions", asked, max)));
        }
        let mut plan = self.plan(fetch);
        plan.pass_fence();
        if let Some(mut round) = plan.read_memory()
            && (round.is_enough(plan.min_bytes) || plan.max_wait.is_zero())
        {
            plan.hand_out(&mut round);
            let lsn = plan.waits_for(&round);
            let reply = plan.answer(round);
            return Outcome::AfterLsn { lsn, reply };
        }
        Outcome::Later(Box::pin(plan.wait()))
    }

    fn plan(&self, fetch: Fetch) -> Plan<S::Log> {
        let limit = self.settings.fetch_bytes_max;
        let max_bytes = match fetch.max_bytes {
            0 => limit,
            asked => asked.min(limit),
        };
        let targets = fetch.partitions.iter().map(|asked| self.target(asked));
        let member = fetch.member.as_ref();
        let fence = member.map(|(group, member)| self.groups.fence(group, member));
        Plan {
            targets: targets.collect(),
            max_wait: fetch.max_wait.min(self.settings.fetch_wait_max),
            min_bytes: u64::from(fetch.min_bytes.max(1)),
            max_bytes: u64::from(max_bytes),
            form: fetch.form,
            structured_bytes_max: u64::from(self.settings.fetch_structured_bytes_max),
            leader_epoch: self.store.leader_epoch(),
            durable: self.durable.clone(),
            metadata_lsn: Arc::clone(&self.metadata_lsn),
            counters: Arc::clone(&self.counters),
            decompression: self.decompression.clone(),
            fence,
            fence_lsn: Lsn::ZERO,
        }
    }

    fn target(&self, asked: &FetchPartition) -> Result<Target<S::Log>, ApiError> {
        let partition = self.resolve(&asked.partition)?;
        let epoch = self.store.leader_epoch();
        if let Some(got) = asked.leader_epoch.filter(|got| *got != epoch) {
            return Err(errors::not_owner(epoch, got));
        }
        let max_bytes = match asked.max_bytes {
            0 => u64::MAX,
            max => u64::from(max),
        };
        Ok(Target {
            partition,
            offset: asked.offset,
            max_bytes,
        })
    }
}

impl<L: PartitionLog> Plan<L> {
    /// Answers as soon as there is enough, an error, or the time is up. Dropping it loses nothing.
    async fn wait(mut self) -> Reply {
        let deadline = tokio::time::sleep(self.max_wait);
        tokio::pin!(deadline);
        let mut round = loop {
            // Registered first: what becomes durable behind the read wakes us. A new one per turn, because which of the
            // partitions has used up its registration is not known.
            let appended = Arc::new(Notify::new());
            for target in self.targets.iter().flatten() {
                target.partition.log.notify_on_append(Arc::downgrade(&appended));
            }
            let woken = appended.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let round = self.read().await;
            if round.is_enough(self.min_bytes) {
                break round;
            }
            tokio::select! {
                biased;
                () = &mut woken => {}
                () = &mut deadline => break round,
            }
        };
        self.hand_out(&mut round);
        let lsn = self.waits_for(&round);
        let reply = self.answer(round);
        let reply = when_durable(self.durable.clone(), lsn, reply).await;
        self.counters.count(&reply);
        reply
    }

    /// A member reads what it holds; the others of its partitions are answered at once with what is wrong.
    fn pass_fence(&mut self) {
        let Some(fence) = &self.fence else { return };
        let held = self.targets.iter().enumerate();
        let held = held.filter_map(|(at, target)| Some((at, target.as_ref().ok()?.partition.log.key())));
        let (places, ends): (Vec<_>, Vec<_>) = held.map(|(at, key)| (at, (key, Offset::default()))).unzip();
        let (lsn, passed) = fence.pass(&ends);
        self.fence_lsn = lsn;
        for (at, passed) in places.into_iter().zip(passed) {
            if let (Err(error), Some(target)) = (passed, self.targets.get_mut(at)) {
                *target = Err(error);
            }
        }
    }

    /// A member may have lost meanwhile what it asked for; and what it is handed now is noted for whoever comes after it.
    fn hand_out(&mut self, round: &mut Round) {
        let Some(fence) = &self.fence else { return };
        let fetched = round.results.iter().zip(&self.targets).enumerate();
        let fetched = fetched.filter_map(|(at, (result, target))| {
            let (result, target) = (result.as_ref().ok()?, target.as_ref().ok()?);
            Some((at, (target.partition.log.key(), result.next_offset)))
        });
        let (places, ends): (Vec<_>, Vec<_>) = fetched.unzip();
        let (lsn, passed) = fence.pass(&ends);
        self.fence_lsn = self.fence_lsn.max(lsn);
        for (at, passed) in places.into_iter().zip(passed) {
            if let (Err(error), Some(result)) = (passed, round.results.get_mut(at)) {
                *result = Err(error);
                round.failed = true;
                round.taken.retain(|(of, ..)| *of != at);
            }
        }
    }

    /// All partitions from memory; `None` if one of them needs the disk, or another thread for decompression.
    fn read_memory(&self) -> Option<Round> {
        let mut round = self.begin();
        for target in &self.targets {
            match self.next(&round, target) {
                Next::Answered(answer) => round.push(answer),
                Next::Read(spec, bounds) => {
                    let log = &target.as_ref().ok()?.partition.log;
                    let read = log.try_read(&spec)?;
                    round.note_memory(&read);
                    let cut = self.cut(&round, &spec);
                    if cut.is_some() && read.as_ref().is_ok_and(has_compressed) {
                        return None;
                    }
                    let found = read.and_then(|out| found(out, cut));
                    self.take(&mut round, &spec, bounds, found);
                }
            }
        }
        Some(round)
    }

    /// All partitions, from disk where memory does not do.
    async fn read(&self) -> Round {
        let mut round = self.begin();
        for target in &self.targets {
            match (self.next(&round, target), target) {
                (Next::Answered(answer), _) => round.push(answer),
                (Next::Read(spec, bounds), Ok(target)) => {
                    let log = &target.partition.log;
                    let read = match log.try_read(&spec) {
                        Some(read) => {
                            round.note_memory(&read);
                            read
                        }
                        None => Arc::clone(log).read(spec).await,
                    };
                    let cut = self.cut(&round, &spec);
                    let found = self.found(read, cut).await;
                    self.take(&mut round, &spec, bounds, found);
                }
                (Next::Read(..), Err(error)) => round.push(Err(error.clone())),
            }
        }
        round
    }

    /// Decodes what was read, where it is compressed on another thread.
    async fn found(&self, read: Result<ReadOut, ReadError>, cut: Option<Cut>) -> Result<Found, ReadError> {
        let out = read?;
        if cut.is_none() || !has_compressed(&out) {
            return found(out, cut);
        }
        let decoded = self.decompression.run(move || found(out, cut)).await;
        decoded.unwrap_or_else(|| Err(ReadError::Io("the broker is stopping".to_owned())))
    }

    /// The LSN is loaded once, so that steps over several partitions are seen whole.
    fn begin(&self) -> Round {
        Round {
            durable: self.durable.borrow().lsn,
            results: Vec::with_capacity(self.targets.len()),
            bytes: 0,
            structured_bytes: 0,
            records: 0,
            memory_bytes: 0,
            taken: Vec::new(),
            full: false,
            failed: false,
        }
    }

    fn next(&self, round: &Round, target: &Result<Target<L>, ApiError>) -> Next {
        let target = match target {
            Ok(target) => target,
            Err(error) => return Next::Answered(Err(error.clone())),
        };
        if target.partition.is_gone() {
            return Next::Answered(Err(errors::deleted()));
        }
        let durable = match planted::is(Bug::ShownInParts) {
            true => self.durable.borrow().lsn,
            false => round.durable,
        };
        let bounds = target.partition.log.bounds(durable);
        let Some(from) = Offset::new(target.offset) else {
            return Next::Answered(Err(errors::out_of_range(bounds)));
        };
        let left = match self.form {
            FetchForm::Structured if round.structured_bytes >= self.structured_bytes_max => 0,
            FetchForm::Structured | FetchForm::Raw => self.max_bytes.saturating_sub(round.bytes),
        };
        let readable = from >= bounds.log_start && from < bounds.high_watermark;
        if from == bounds.high_watermark || (readable && left == 0 && round.bytes > 0) {
            return Next::Answered(Ok(self.empty(from, bounds)));
        }
        let spec = ReadSpec {
            from,
            durable,
            max_bytes: u32::try_from(left.min(target.max_bytes)).unwrap_or(u32::MAX),
            min_one: round.bytes == 0,
        };
        Next::Read(spec, bounds)
    }

    /// What is to be decoded of what was read; `None`: it goes out as it is.
    fn cut(&self, round: &Round, spec: &ReadSpec) -> Option<Cut> {
        match self.form {
            FetchForm::Raw => None,
            FetchForm::Structured => Some(Cut {
                from: spec.from,
                bytes_max: self.structured_bytes_max.saturating_sub(round.structured_bytes),
                min_one: round.structured_bytes == 0,
            }),
        }
    }

    fn take(&self, round: &mut Round, spec: &ReadSpec, bounds: LogBounds, read: Result<Found, ReadError>) {
        let found = match read {
            Ok(found) => found,
            Err(error) => return round.push(Err(errors::read(error))),
        };
        let mut fetched = self.empty(spec.from, bounds);
        fetched.next_offset = found.next;
        fetched.payload = found.payload;
        let records = fetched.next_offset.since(spec.from);
        round.structured_bytes += found.structured_bytes;
        round.bytes += found.bytes;
        round.records += records;
        round.taken.push((round.results.len(), records, found.bytes));
        round.push(Ok(fetched));
    }

    fn empty(&self, from: Offset, bounds: LogBounds) -> FetchedPartition {
        FetchedPartition {
            high_watermark: bounds.high_watermark,
            log_start: bounds.log_start,
            next_offset: from,
            leader_epoch: self.leader_epoch,
            payload: match self.form {
                FetchForm::Raw => FetchPayload::Raw(Vec::new()),
                FetchForm::Structured => FetchPayload::Structured(Vec::new()),
            },
        }
    }

    /// Records are durable by themselves; that a topic does not exist may have been decided a moment ago.
    fn waits_for(&self, round: &Round) -> Lsn {
        if !round.failed {
            return Lsn::ZERO;
        }
        // Who deletes a topic holds its partitions until the LSN of the deletion is known.
        for target in self.targets.iter().flatten() {
            drop(target.partition.lock());
        }
        Lsn(self.metadata_lsn.load(Ordering::Acquire)).max(self.fence_lsn)
    }

    fn answer(&self, round: Round) -> Reply {
        self.counters
            .fetched(round.records, round.bytes, round.memory_bytes);
        for (at, records, bytes) in &round.taken {
            if let Some(Ok(target)) = self.targets.get(*at) {
                target.partition.traffic.fetched(*records, *bytes);
            }
        }
        Ok(Response::Fetch(Fetched {
            partitions: round.results,
        }))
    }
}

impl Round {
    fn push(&mut self, result: Result<FetchedPartition, ApiError>) {
        match &result {
            Ok(fetched) => self.full |= fetched.next_offset < fetched.high_watermark,
            Err(_) => self.failed = true,
        }
        self.results.push(result);
    }

    fn note_memory(&mut self, read: &Result<ReadOut, ReadError>) {
        self.memory_bytes += read.as_ref().map_or(0, |out| out.bytes);
    }

    fn is_enough(&self, min_bytes: u64) -> bool {
        self.bytes >= min_bytes || self.full || self.failed
    }
}

/// What of the batches read is decoded.
#[derive(Clone, Copy)]
struct Cut {
    from: Offset,
    bytes_max: u64,
    min_one: bool,
}

/// What was read of a partition, in the form that was asked for.
struct Found {
    payload: FetchPayload,
    /// Where to read next.
    next: Offset,
    /// Bytes of the batches.
    bytes: u64,
    /// Bytes of the decoded records, as a client gets them.
    structured_bytes: u64,
}

fn found(out: ReadOut, cut: Option<Cut>) -> Result<Found, ReadError> {
    let Some(cut) = cut else {
        return Ok(Found {
            next: out.next,
            bytes: out.bytes,
            structured_bytes: 0,
            payload: FetchPayload::Raw(out.extents),
        });
    };
    let bytes = out.bytes;
    let decoded = decode(out, cut)?;
    Ok(Found {
        next: decoded.next,
        bytes,
        structured_bytes: decoded.bytes,
        payload: FetchPayload::Structured(decoded.records),
    })
}

struct Decoded {
    records: Vec<(Offset, Record)>,
    bytes: u64,
    next: Offset,
}

/// Decodes the records from the offset asked for, as far as the limit allows. A batch that does not fit as a whole is
/// decompressed again for the next answer.
fn decode(out: ReadOut, cut: Cut) -> Result<Decoded, ReadError> {
    let mut decoded = Decoded {
        records: Vec::new(),
        bytes: 0,
        next: cut.from,
    };
    for batch in Batches::new(in_one_piece(out.extents)) {
        // The engine has checked the sum of every batch: what cannot be decoded now was stored so.
        let (header, bytes) = batch.map_err(|error| ReadError::Io(error.to_string()))?;
        let corrupt = |_| ReadError::Corrupt {
            first: header.base_offset,
            last: header.last_offset(),
        };
        let (plain, bytes) = uncompressed(&header, &bytes, DECOMPRESSED_BYTES_MAX).map_err(corrupt)?;
        for view in Records::new(&plain, &bytes) {
            let view = view.map_err(corrupt)?;
            if view.offset < cut.from {
                continue;
            }
            let record = view.to_record(&bytes);
            let size = record.encoded_bytes_max();
            let first = cut.min_one && decoded.records.is_empty();
            if decoded.bytes + size > cut.bytes_max && !first {
                return Ok(decoded);
            }
            decoded.bytes += size;
            decoded.next = view.offset.next();
            decoded.records.push((view.offset, record));
        }
        decoded.next = decoded.next.max(header.last_offset().next());
    }
    decoded.next = decoded.next.max(out.next);
    Ok(decoded)
}

/// Where a piece ends says nothing about where a batch does.
fn in_one_piece(mut extents: Vec<Bytes>) -> Bytes {
    if extents.len() == 1
        && let Some(only) = extents.pop()
    {
        return only;
    }
    let mut whole = BytesMut::with_capacity(extents.iter().map(Bytes::len).sum());
    for extent in extents {
        whole.extend_from_slice(&extent);
    }
    whole.freeze()
}
