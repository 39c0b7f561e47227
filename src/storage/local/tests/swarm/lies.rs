//! Lives of an engine on a disk that lies or forgets: writes that are lost or go elsewhere, syncs that keep sectors back, and
//! rot in what a process leaves. A start is refused with a reason, or all that was acknowledged is there or told as damaged,
//! with its offsets; nothing is altered or invented; a second start finds what the first one found.
//!
//! One loss has no trace, and is excused: that of the last groups of all, when nothing behind them reached the disk; with it may
//! go what topics had that were deleted in them. What is a trace is told by the journal as it was meant to be ([`Written`]): any
//! later group that is there as it was written, and any header of a file that was begun later.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use super::life::Life;
use super::model::{Contents, ModelLog, State};
use super::options::{Options, Rate};
use super::*;
use crate::disk::sim::{FaultKind, Moment, Op};
use crate::storage::local::format::journal::{BLOCK, FileHeader, GROUP_HEADER_BYTES, GroupHeader};

const LIES: [(FaultKind, &str); 12] = [
    (FaultKind::WriteLost, "journal/"),
    (FaultKind::WriteLost, "topics/"),
    (FaultKind::WriteLost, "checkpoint"),
    (FaultKind::WriteLost, ""),
    (FaultKind::WriteMisdirected, "journal/"),
    (FaultKind::WriteMisdirected, "topics/"),
    (FaultKind::WriteMisdirected, "checkpoint"),
    (FaultKind::WriteMisdirected, ""),
    (FaultKind::SyncLies, "journal/"),
    (FaultKind::SyncLies, "topics/"),
    (FaultKind::SyncLies, "checkpoint"),
    (FaultKind::SyncLies, ""),
];

/// Readings of a whole engine until they tell the same.
const READINGS_MAX: usize = 4;

/// The options of a seed, with faults of the other side.
pub(super) fn options(seed: u64) -> Options {
    let mut options = Options::draw(seed);
    let draw = &mut Draw::new(seed ^ 0x11e5);
    let mut rates = Vec::new();
    for (kind, prefix) in LIES {
        assert_eq!(kind.class(), FaultClass::Detect);
        if draw.chance(15) {
            rates.push(Rate {
                kind,
                prefix,
                per_mille: draw.one_of(&[5, 20, 60]),
                times: draw.one_of(&[1, 1, 2, 4]),
            });
        }
    }
    options.rates = rates;
    options.tight = false;
    options.lies = true;
    options
}

/// The journal as it would be if the disk had told the truth.
#[derive(Debug, Default)]
struct Written {
    files: BTreeMap<String, Vec<u8>>,
    /// Where groups stand: file, position, length.
    groups: BTreeMap<Lsn, (String, usize, usize)>,
}

impl Written {
    /// Follows a disk from now on.
    fn follow(shared: &Arc<Mutex<Self>>, disk: &SimDisk) {
        let shared = Arc::clone(shared);
        disk.on_op(move |moment: &Moment<'_>| {
            let mut written = shared.lock().unwrap_or_else(PoisonError::into_inner);
            match *moment.op() {
                Op::Write { path, at, data } if path.starts_with("journal/") => {
                    written.write(path, usize::try_from(at).unwrap(), data);
                }
                Op::Unlink { path } => drop(written.files.remove(path)),
                _ => {}
            }
        });
    }

    fn write(&mut self, path: &str, at: usize, data: &[u8]) {
        let file = self.files.entry(path.to_owned()).or_default();
        file.resize(file.len().max(at + data.len()), 0);
        file[at..at + data.len()].copy_from_slice(data);
        if let Some(header) = data
            .first_chunk::<GROUP_HEADER_BYTES>()
            .and_then(GroupHeader::peek)
        {
            let length = usize::try_from(header.total_bytes()).unwrap();
            self.groups.insert(header.lsn, (path.to_owned(), at, length));
        }
    }

    /// The last group that is durable by what a disk holds.
    fn proven(&self, image: &SimDisk, unreadable: &[(String, u64)]) -> Lsn {
        let images: BTreeMap<_, _> = self
            .files
            .keys()
            .filter_map(|path| image.read_file(path).ok().map(|bytes| (path, bytes)))
            .collect();
        let intact = |path: &String, at: usize, length: usize| {
            let range = at..at + length;
            let meant = self.files.get(path).and_then(|file| file.get(range.clone()));
            let is = images.get(path).and_then(|file| file.get(range.clone()));
            let covered =
                |(of, at): &(String, u64)| of == path && range.contains(&usize::try_from(*at).unwrap());
            length > 0 && meant.is_some() && meant == is && !unreadable.iter().any(covered)
        };
        let groups = self.groups.iter().filter(|(lsn, (path, at, length))| {
            // Its place may have been used again.
            let header = self.files.get(path).and_then(|file| file[*at..].first_chunk());
            header
                .and_then(GroupHeader::peek)
                .is_some_and(|header| header.lsn == **lsn)
                && intact(path, *at, *length)
        });
        let last_group = groups.map(|(lsn, _)| *lsn).max().unwrap_or_default();
        let headers = self.files.iter().filter_map(|(path, file)| {
            let block: &[u8; BLOCK] = file.first_chunk()?;
            let id = *block[16..].first_chunk()?;
            let header = FileHeader::decode(block, id).ok()?;
            let is_there = intact(path, 0, BLOCK) || intact(path, BLOCK, BLOCK);
            is_there.then_some(Lsn(header.first_lsn.0 - 1))
        });
        headers.fold(last_group, Lsn::max)
    }
}

/// What a partition gives, where it starts and where it ends.
type Told = BTreeMap<PartitionKey, (Offset, Offset, Contents)>;

/// Reads a log over damage, also over what the disk does not give.
fn read_over(rig: &Rig, key: PartitionKey, log: &ModelLog) -> Result<(Offset, Offset, Contents), Finding> {
    let bounds = rig.store.open(key, rig.config).bounds(rig.durable());
    let mut found = Contents::default();
    let mut next = bounds.log_start;
    while next < bounds.high_watermark {
        let last = match rig.read(key, next, 5000) {
            Ok((mut rest, behind)) => {
                ensure(behind > next, || {
                    format!("{key}: a read at {next} below the end gave nothing")
                })?;
                while !rest.is_empty() {
                    let header =
                        BatchHeader::parse(&rest).map_err(|e| Finding(format!("{key} at {next}: {e}")))?;
                    let batch = rest.split_to(usize::try_from(header.total_bytes()).unwrap());
                    found.batches.push((header.base_offset, batch));
                }
                next = behind;
                continue;
            }
            Err(ReadError::Corrupt { first, last }) => {
                ensure(first <= next && next <= last, || {
                    format!("{key}: damage {first} to {last} at {next}")
                })?;
                last
            }
            Err(ReadError::Io(_)) => log
                .batches
                .iter()
                .find(|b| b.base <= next && next <= b.last)
                .map_or(next, |b| b.last),
            Err(other) => return Err(Finding(format!("{key} at {next}: {other}"))),
        };
        crate::storage::local::log::insert_range(&mut found.corrupt, next, last);
        next = last.next();
    }
    Ok((bounds.log_start, bounds.high_watermark, found))
}

/// Whether a batch belongs to another partition and has, or had, the same place there.
fn is_of_another(expected: &State, key: PartitionKey, base: Offset, bytes: &Bytes) -> bool {
    let mut others = expected.sent.iter().filter(|(of, _)| *of != key);
    others.any(|(_, b)| b.base == base && b.bytes == *bytes)
}

/// Whether two batches are the same but for the leader epoch, which no checksum covers.
fn is_the_same(meant: &[u8], found: &[u8]) -> bool {
    meant.len() == found.len() && meant[..12] == found[..12] && meant[16..] == found[16..]
}

/// One log: every batch is there as it was written or told as damaged, and there is no other. Nothing in a batch says which
/// partition it is of: one that a disk puts where a batch with the same offset should be is taken for that.
pub(super) fn check_log(
    rig: &Rig,
    key: PartitionKey,
    expected: &State,
    what: &str,
) -> Result<(Offset, Offset, Contents), Finding> {
    let log = &expected.logs[&key];
    let (start, end, found) = read_over(rig, key, log)?;
    ensure((start, end) == (log.start, log.end()), || {
        format!(
            "{what}: {key} is {start} to {end}, not {} to {}",
            log.start,
            log.end()
        )
    })?;
    // Told as damaged, or taken by a batch that should not be there.
    let mut taken = found.corrupt.clone();
    for (base, bytes) in &found.batches {
        let meant = log.batches.iter().find(|b| b.base == *base);
        if meant.is_some_and(|b| is_the_same(&b.bytes, bytes)) {
            continue;
        }
        ensure(is_of_another(expected, key, *base, bytes), || {
            format!("{what}: {key} gives something else at {base} than was written")
        })?;
        let header = BatchHeader::parse(bytes).map_err(|e| Finding(format!("{key} at {base}: {e}")))?;
        crate::storage::local::log::insert_range(&mut taken, *base, header.last_offset());
    }
    let told = |b: &super::model::Stored| {
        let mut ranges = taken.iter();
        ranges.any(|(first, last)| *first <= b.base.max(start) && b.last <= *last)
    };
    let silent = log.batches.iter().filter(|b| b.last >= start).find(|b| {
        let given = found.batches.iter().any(|(base, _)| *base == b.base);
        !given && !told(b)
    });
    ensure(silent.is_none(), || {
        let (batch, told) = (silent.map(|b| (b.base, b.last)), &found.corrupt);
        format!("{what}: {key} does not give {batch:?}, and tells only {told:?}")
    })?;
    Ok((start, end, found))
}

/// What earlier lives have left for good.
#[derive(Default)]
struct Damaged {
    /// Partitions of which damage was told: what is above them lacks that, also when the damage itself was trimmed.
    told: BTreeSet<PartitionKey>,
    /// Topics whose deletion was done and then lost with the end of the journal: some of what they had is there again.
    undeleted: BTreeSet<TopicId>,
    /// States above other partitions that were that of their log.
    compared: u64,
}

/// A whole engine.
fn check(rig: &Rig, expected: &State, damaged: &mut Damaged, what: &str) -> Result<Told, Finding> {
    let keys: Vec<_> = rig.store.engine.logs().keys().copied().collect();
    let invented = keys
        .iter()
        .find(|key| !key.topic.is_internal() && !expected.logs.contains_key(key));
    ensure(invented.is_none(), || {
        format!("{what}: {invented:?} was invented or deleted")
    })?;
    let mut told = Told::new();
    for key in expected.logs.keys().filter(|key| !key.topic.is_internal()) {
        if damaged.undeleted.contains(&key.topic) {
            continue;
        }
        ensure(keys.contains(key), || format!("{what}: {key} is gone"))?;
        told.insert(*key, check_log(rig, *key, expected, what)?);
    }
    let above = rig.above.lock().unwrap();
    for (key, due) in &expected.above.0 {
        if !rig.store.open(*key, rig.config).stats().quarantined.is_empty() {
            damaged.told.insert(*key);
        }
        let found = above.0.get(key);
        // Of damage below the log start nobody is told: the rest of the state is still that of the log. If all of it is below,
        // there may be no rest.
        let start = expected.logs.get(key).map_or(Offset::ZERO, |log| log.start);
        let next = found.map_or(Offset::ZERO, |found| found.0);
        let lacks_trimmed = start > Offset::ZERO && (next == due.0 || next < due.0 && due.0 <= start);
        if damaged.told.contains(key) || damaged.undeleted.contains(&key.topic) {
            continue;
        }
        damaged.compared += u64::from(found == Some(due));
        ensure(found == Some(due) || lacks_trimmed, || {
            format!("{what}: the state above {key} is {found:?}, not {due:?}")
        })?;
    }
    Ok(told)
}

/// As [`check`], until reading changes nothing more: a closer look at damage drops pages, and a page may have held what the
/// disk had lost.
fn settled(rig: &Rig, expected: &State, damaged: &mut Damaged) -> Result<Told, Finding> {
    let mut told = check(rig, expected, damaged, "recovered")?;
    for _ in 0..READINGS_MAX {
        let again = check(rig, expected, damaged, "read again")?;
        if again == told {
            return Ok(told);
        }
        told = again;
    }
    Err(Finding(format!(
        "{READINGS_MAX} readings told something else every time"
    )))
}

pub(super) fn run(options: &Options) -> Result<Figures, Finding> {
    let disk = SimDisk::new(options.disk.clone());
    let written = Arc::default();
    Written::follow(&written, &disk);
    let mut life = Life::begin_on(options, &disk);
    let (mut unreadable, mut damaged) = (Vec::new(), Damaged::default());
    for _ in 0..options.lives {
        life.live()?;
        let image = life.end();
        let aims = life.draw.one_of(&[0, 0, 1, 1, 1, 2]);
        for _ in 0..aims {
            rot(&mut life, &image, &mut unreadable);
        }
        if !is_served(&mut life, &image, &written, &unreadable, &mut damaged)? {
            return Ok(life.figures);
        }
    }
    life.rig.disk.clear_faults();
    if damaged.compared > 0 {
        life.figures.reach("a state above was that of its log");
    }
    finish(life, &mut damaged)
}

/// One piece of damage, mostly in what stands in front of a batch or a group.
fn rot(life: &mut Life<'_>, image: &SimDisk, unreadable: &mut Vec<(String, u64)>) {
    let place = life
        .draw
        .one_of(&["journal/", "journal/", "topics/", "topics/", "checkpoint", ""]);
    let files = image
        .files()
        .into_iter()
        .filter(|(path, bytes)| path.starts_with(place) && *bytes > 0);
    let files: Vec<_> = files.collect();
    if files.is_empty() {
        return;
    }
    let (path, bytes) = life.draw.one_of(&files);
    let content = image.read_file(&path).unwrap();
    let blocks = (0..content.len())
        .step_by(4096)
        .filter(|at| content[*at..].iter().take(64).any(|b| *b != 0));
    let blocks: Vec<_> = blocks.map(|at| u64::try_from(at).unwrap()).collect();
    let at = if blocks.is_empty() {
        life.draw.below(bytes)
    } else {
        let within = life.draw.one_of(&[64, 256, 4096]);
        life.draw.one_of(&blocks) + life.draw.below(within)
    };
    let at = at.min(bytes - 1);
    match life.draw.below(4) {
        0 => {
            life.figures.reach("a sector was zeroed");
            image.zero_sector(&path, at).unwrap();
        }
        1 => {
            life.figures.reach("a sector could not be read");
            image.make_unreadable(&path, at, 1).unwrap();
            unreadable.push((path, at / 512 * 512));
        }
        _ => {
            life.figures.reach("a bit flipped");
            let bit = u32::try_from(life.draw.below(8)).unwrap();
            image.flip_bit(&path, at, bit).unwrap();
        }
    }
}

/// The next start on what is there; false if it is refused, with a reason and without having touched anything.
fn is_served(
    life: &mut Life<'_>,
    image: &SimDisk,
    written: &Arc<Mutex<Written>>,
    unreadable: &[(String, u64)],
    damaged: &mut Damaged,
) -> Result<bool, Finding> {
    let proven = written.lock().unwrap().proven(image, unreadable);
    let before = (image.ops(), image.files());
    Written::follow(written, image);
    life.rig = match life.options.open(image) {
        Ok(rig) => rig,
        Err(OpenError::Io(error)) => {
            life.figures.reach("a start failed at what cannot be read");
            ensure(!unreadable.is_empty(), || {
                format!("a start failed by itself: {error}")
            })?;
            return Ok(false);
        }
        Err(refused) => {
            life.figures.reach("a start was refused");
            ensure((image.ops(), image.files()) == before, || {
                format!("something was changed, and then: {refused}")
            })?;
            return Ok(false);
        }
    };
    life.figures.recoveries += 1;
    let report = life.rig.store.report().clone();
    ensure(report.end >= proven, || {
        format!(
            "recovered to group {}, and group {proven} is there or was followed by a file",
            report.end
        )
    })?;
    if report.end < life.model.acknowledged {
        life.figures.reach("the end was lost without a trace");
    }
    let undeleted = life.model.deleted_above(report.end);
    damaged.undeleted.extend(undeleted);
    life.model.cut_above(report.end);
    written.lock().unwrap().groups.retain(|lsn, _| *lsn <= report.end);
    let expected = life.model.state(report.end);
    let told = settled(&life.rig, &expected, damaged)?;
    let is_damaged = told.values().any(|(_, _, found)| !found.corrupt.is_empty());
    life.figures.reach(if is_damaged {
        "damage was told with its offsets"
    } else {
        "all was there"
    });
    let again = life.rig.disk.after_kill();
    let again = life
        .options
        .open(&again)
        .map_err(|e| Finding(format!("recovering again: {e}")))?;
    life.figures.recoveries += 1;
    let second = check(&again, &expected, damaged, "recovered twice")?;
    // What the first start has put back is no damage any more.
    let is_told = |(key, (_, _, found)): (&PartitionKey, &(Offset, Offset, Contents))| {
        let known = told.get(key).map_or(&[][..], |(_, _, first)| &first.corrupt);
        let is_known = |range: &(Offset, Offset)| known.iter().any(|k| k.0 <= range.0 && range.1 <= k.1);
        found.corrupt.iter().all(is_known)
    };
    ensure(second.iter().all(is_told), || {
        let differs = told.iter().find(|(key, found)| second.get(*key) != Some(*found));
        let ranges =
            |all: &Told| differs.and_then(|(key, _)| all.get(key).map(|(_, _, c)| c.corrupt.clone()));
        format!(
            "a second start told {:?} of {:?}, the first {:?}",
            ranges(&second),
            differs.map(|d| d.0),
            ranges(&told)
        )
    })?;
    life.take_back_topics();
    Ok(true)
}

/// The disk tells the truth again: the engine works, or says why not, and a stop in order leaves what there was.
fn finish(mut life: Life<'_>, damaged: &mut Damaged) -> Result<Figures, Finding> {
    for _ in 0..10 {
        life.produce()?;
        life.commit();
    }
    life.acknowledge();
    let options = life.options;
    let disk = life.rig.disk.clone();
    let Life {
        rig,
        model,
        mut figures,
        ..
    } = life;
    if rig.inline.stop().is_err() {
        return Ok(figures);
    }
    match options.open(&disk.after_kill()) {
        Ok(again) => {
            figures.recoveries += 1;
            let end = again.store.report().end;
            ensure(end >= model.acknowledged, || {
                format!("a stop at {} came back at {end}", model.acknowledged)
            })?;
            check(&again, &model.state(end), damaged, "after a clean stop")?;
        }
        Err(_) => figures.reach("a start was refused"),
    }
    Ok(figures)
}
