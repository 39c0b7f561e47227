//! What one flipped bit may come to, by where it lies: the rules of `docs/storage-format.md` and `docs/guarantees.md`, stated
//! from the undamaged bytes alone. Knows nothing of the code that recovers.

use std::collections::BTreeSet;
use std::ops::Range;

use super::super::*;
use super::bytes::{Group, Part, Record, groups_of, segment_of};
use super::directories::Directory;

/// Where a bit lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    /// `FORMAT`.
    Format,
    /// A digit of its checksum, which may be a capital, or the end of its last line.
    FormatChecksum,
    /// One of two checkpoints.
    Checkpoint,
    /// What an older, longer record left behind it.
    BehindCheckpoint,
    /// One of the two copies of a journal file's header.
    FileHeader,
    /// The zeros of such a header, which its checksum covers.
    FileHeaderZeros,
    /// A group that a checkpoint covers.
    Covered,
    /// Header or table of a durable group.
    GroupFront,
    /// Header of a durable group without entries.
    EmptyGroup,
    /// Header or table of the last group.
    LastFront,
    /// A batch of it.
    LastBatch,
    /// Header of the last group, which is empty.
    LastSeal,
    /// A batch that is in the journal alone.
    Batch,
    /// A batch that a segment has, too.
    BatchTwice,
    /// A batch of a topic that is deleted later.
    BatchDeleted,
    /// A batch below what is the log start later.
    BatchTrimmed,
    /// A batch of the broker's own.
    BatchInternal,
    /// Behind a group, up to the next block.
    GroupPadding,
    /// What no group of the last lap holds.
    JournalUnused,
    /// A batch in a segment.
    SegmentBatch,
    /// A batch, or the end of one, in the last block of a segment, of which the checkpoint has a copy.
    SegmentPutBack,
    /// The leader epoch of a batch in a segment, which no checksum covers.
    SegmentEpoch,
    /// A batch below the log start.
    SegmentTrimmed,
    /// A batch of the broker's own, which its snapshot covers.
    SegmentInternal,
    /// The same in the last block of its segment, whose checksum the checkpoint has.
    SegmentInternalEnd,
    /// What the journal writes again.
    SegmentRewritten,
    /// Zeros behind a segment.
    SegmentPadding,
    /// An index.
    Index,
    /// A file that nothing names.
    Unnamed,
}

/// How many of a region's bits are flipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Density {
    /// All of them.
    Every,
    /// One of each byte.
    Byte,
    /// One of so many bytes.
    OneIn(u64),
}

impl Rule {
    /// Bits that nothing uses are told from each other by nothing.
    pub(super) fn density(self) -> Density {
        match self {
            Self::GroupPadding | Self::FileHeaderZeros | Self::SegmentPadding => Density::OneIn(64),
            Self::JournalUnused | Self::Unnamed => Density::OneIn(1024),
            Self::BehindCheckpoint | Self::Covered => Density::Byte,
            _ => Density::Every,
        }
    }
}

/// What a start and reads after it must come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything is there.
    Nothing,
    /// No start, nothing is changed, and the message has all of these.
    Refused(Vec<String>),
    /// These offsets are told to be damaged, and nothing else.
    Told {
        key: PartitionKey,
        first: Offset,
        last: Offset,
    },
    /// Everything is there, but the leader epoch of the batch with this offset may be another.
    Epoch { key: PartitionKey, base: Offset },
    /// The last group is forgotten, and a copy of it is kept.
    Torn { path: String, at: u64 },
}

/// Bytes of a file to which one rule applies.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) path: String,
    pub(super) bytes: Range<u64>,
    pub(super) rule: Rule,
    outcome: Outcome,
}

impl Region {
    /// What flipping this bit must come to.
    pub(super) fn outcome(&self, at: u64, bit: u32, byte: u8) -> Outcome {
        let is_last = at + 1 == self.bytes.end;
        let flipped = byte ^ (1 << bit);
        let means_the_same = match self.rule {
            // The file may end in any white space.
            Rule::FormatChecksum if is_last => flipped.is_ascii_whitespace() || flipped == 0x0b,
            Rule::FormatChecksum => flipped.eq_ignore_ascii_case(&byte),
            _ => false,
        };
        if means_the_same {
            Outcome::Nothing
        } else {
            self.outcome.clone()
        }
    }
}

/// The whole of a directory.
pub(super) struct Map<'a> {
    directory: &'a Directory,
    files: BTreeMap<String, Vec<u8>>,
    newest: Record,
    /// What a stop, a checkpoint or the header of a later file proves to be durable.
    proven: u64,
    deleted: BTreeSet<TopicId>,
    regions: Vec<Region>,
}

/// Every byte of every file of a directory, each in one region.
pub(super) fn regions_of(directory: &Directory) -> Vec<Region> {
    let names = directory.disk.files().into_iter().map(|(path, _)| path);
    let files: BTreeMap<_, _> = names
        .map(|path| {
            let bytes = directory.disk.read_file(&path).unwrap();
            (path, bytes)
        })
        .collect();
    let [first, second] = ["checkpoint.0", "checkpoint.1"].map(|path| Record::of(&files[path]));
    let newest = if first.seq > second.seq { first } else { second };
    let journals = || files.iter().filter(|(path, _)| path.starts_with("journal/"));
    let laps: Vec<_> = journals().filter_map(|(_, bytes)| groups_of(bytes)).collect();
    let firsts = laps.iter().map(|(first, _)| first - 1);
    let lasts = laps.iter().flat_map(|(_, groups)| groups).map(|g| g.lsn);
    let last = lasts.max().unwrap();
    assert_eq!(last, directory.last.0, "the groups are found");
    let proven = firsts
        .chain([newest.lsn, newest.clean_end, last - 1])
        .max()
        .unwrap();
    let groups = laps.iter().flat_map(|(_, groups)| groups);
    let deleted = groups.flat_map(|g| g.deleted.clone()).collect();
    let mut map = Map {
        directory,
        files: files.clone(),
        newest,
        proven,
        deleted,
        regions: Vec::new(),
    };
    for (path, bytes) in &files {
        let before = map.regions.len();
        map.file(path, bytes);
        map.regions.retain(|region| !region.bytes.is_empty());
        let mut end = 0;
        for region in map.regions.iter().skip(before) {
            assert_eq!(region.bytes.start, end, "{region:?}");
            end = region.bytes.end;
        }
        assert_eq!(end, bytes.len() as u64, "{path}");
    }
    map.regions
}

impl Map<'_> {
    fn add(&mut self, path: &str, bytes: Range<u64>, rule: Rule, outcome: Outcome) {
        self.regions.push(Region {
            path: path.to_owned(),
            bytes,
            rule,
            outcome,
        });
    }

    fn file(&mut self, path: &str, bytes: &[u8]) {
        let len = bytes.len() as u64;
        if path == "FORMAT" {
            self.format(path, bytes);
        } else if path.starts_with("checkpoint.") {
            let record = Record::of(bytes).bytes;
            self.add(path, 0..record, Rule::Checkpoint, Outcome::Nothing);
            self.add(path, record..len, Rule::BehindCheckpoint, Outcome::Nothing);
        } else if path.starts_with("journal/") {
            self.journal(path, bytes);
        } else if path.ends_with(".log") && path.starts_with("topics/") {
            self.segment(path, bytes);
        } else if path.ends_with(".index") && path.starts_with("topics/") {
            self.add(path, 0..len, Rule::Index, Outcome::Nothing);
        } else {
            assert!(path.starts_with("trash/"), "no rule for {path}");
            self.add(path, 0..len, Rule::Unnamed, Outcome::Nothing);
        }
    }

    fn format(&mut self, path: &str, bytes: &[u8]) {
        let text = std::str::from_utf8(bytes).unwrap();
        let checksum = text.rfind(' ').unwrap() as u64 + 1;
        let should = text.trim_end().replace('\n', " / ");
        let refused = Outcome::Refused(vec![path.to_owned(), should]);
        self.add(path, 0..checksum, Rule::Format, refused.clone());
        self.add(path, checksum..bytes.len() as u64, Rule::FormatChecksum, refused);
    }

    fn journal(&mut self, path: &str, bytes: &[u8]) {
        let len = bytes.len() as u64;
        let Some((_, groups)) = groups_of(bytes) else {
            return self.add(path, 0..len, Rule::JournalUnused, Outcome::Nothing);
        };
        for copy in [0, 4096] {
            let (used, checksum) = (copy + 76, copy + 4092);
            self.add(path, copy..used, Rule::FileHeader, Outcome::Nothing);
            self.add(path, used..checksum, Rule::FileHeaderZeros, Outcome::Nothing);
            self.add(path, checksum..copy + 4096, Rule::FileHeader, Outcome::Nothing);
        }
        for group in &groups {
            self.group(path, bytes, group);
        }
        let end = groups.last().map_or(8192, |group| group.to);
        self.add(path, end..len, Rule::JournalUnused, Outcome::Nothing);
    }

    fn group(&mut self, path: &str, bytes: &[u8], group: &Group) {
        if group.lsn <= self.newest.lsn {
            // Its front is looked at, its batches are not.
            let used = group.parts.last().map_or(group.payload, |part| part.to);
            let front = group.from..group.payload;
            self.add(path, front, Rule::Covered, Outcome::Nothing);
            self.add(path, group.payload..used, Rule::JournalUnused, Outcome::Nothing);
            self.add(path, used..group.to, Rule::GroupPadding, Outcome::Nothing);
            return;
        }
        let is_proven = group.lsn <= self.proven;
        let torn = Outcome::Torn {
            path: path.to_owned(),
            at: group.from,
        };
        let (rule, outcome) = match (is_proven, group.entries) {
            (true, 0) => (Rule::EmptyGroup, Outcome::Nothing),
            (true, _) => {
                let lsn = group.lsn.to_string();
                let named = Outcome::Refused(vec![path.to_owned(), lsn, group.from.to_string()]);
                (Rule::GroupFront, named)
            }
            (false, 0) => (Rule::LastSeal, torn.clone()),
            (false, _) => (Rule::LastFront, torn.clone()),
        };
        self.add(path, group.from..group.payload, rule, outcome);
        let mut end = group.payload;
        for part in &group.parts {
            let (rule, outcome) = if is_proven {
                self.batch(path, bytes, part)
            } else {
                (Rule::LastBatch, torn.clone())
            };
            self.add(path, part.from..part.to, rule, outcome);
            end = part.to;
        }
        self.add(path, end..group.to, Rule::GroupPadding, Outcome::Nothing);
    }

    /// A batch of a durable group that no checkpoint covers.
    fn batch(&self, path: &str, bytes: &[u8], part: &Part) -> (Rule, Outcome) {
        let stored = &bytes[usize::try_from(part.from).unwrap()..usize::try_from(part.to).unwrap()];
        let start = self.start(part.key);
        if self.deleted.contains(&part.key.topic) {
            (Rule::BatchDeleted, Outcome::Nothing)
        } else if self.has_copy(part.key, stored) {
            (Rule::BatchTwice, Outcome::Nothing)
        } else if part.key.topic.is_internal() {
            let key = part.key.to_string();
            (
                Rule::BatchInternal,
                Outcome::Refused(vec![path.to_owned(), key, part.base.to_string()]),
            )
        } else {
            let told = Outcome::Told {
                key: part.key,
                first: part.base.max(start),
                last: part.last,
            };
            // Of what is below the log start nothing is due, and the state above may lack it.
            let is_trimmed = part.last < start;
            let rule = if is_trimmed {
                Rule::BatchTrimmed
            } else {
                Rule::Batch
            };
            (rule, told)
        }
    }

    fn start(&self, key: PartitionKey) -> Offset {
        self.directory.starts.get(&key).copied().unwrap_or(Offset::ZERO)
    }

    fn has_copy(&self, key: PartitionKey, batch: &[u8]) -> bool {
        self.files
            .iter()
            .filter(|(path, _)| path.starts_with("topics/") && path.ends_with(".log"))
            .filter(|(path, _)| segment_of(path).0 == key)
            .any(|(_, bytes)| bytes.windows(batch.len()).any(|w| w == batch))
    }

    fn segment(&mut self, path: &str, bytes: &[u8]) {
        let len = bytes.len() as u64;
        let (key, base) = segment_of(path);
        if !self.directory.sent.contains_key(&key) {
            return self.add(path, 0..len, Rule::Unnamed, Outcome::Nothing);
        }
        let named = self.newest.segments.get(&(key, base)).copied();
        let (trusted, is_last) = named.unwrap_or_default();
        // The bytes in the last, partial block, of which the checkpoint has a checksum.
        let checked_from = if is_last { trusted / 4096 * 4096 } else { u64::MAX };
        let (mut at, mut next) = (0, base);
        let sent = &self.directory.sent[&key];
        while at < len && sent.iter().any(|s| s.base == next) {
            let stored = sent.iter().find(|s| s.base == next).unwrap().clone();
            let begin = usize::try_from(at).unwrap();
            if !bytes[begin..].starts_with(&stored.bytes) {
                // Not applied yet.
                break;
            }
            let to = at + stored.bytes.len() as u64;
            if at >= trusted {
                self.add(path, at..to, Rule::SegmentRewritten, Outcome::Nothing);
            } else {
                self.stored_batch(path, at..to, (key, stored.base, stored.last), checked_from);
            }
            (at, next) = (to, stored.last.next());
        }
        assert!(at >= trusted, "{path}: all batches are known");
        self.add(path, at..len, Rule::SegmentPadding, Outcome::Nothing);
    }

    /// A batch that the checkpoint relies on.
    fn stored_batch(
        &mut self,
        path: &str,
        at: Range<u64>,
        (key, base, last): (PartitionKey, Offset, Offset),
        checked_from: u64,
    ) {
        let start = self.start(key);
        if key.topic.is_internal() {
            let rule = if at.start >= checked_from {
                Rule::SegmentInternalEnd
            } else {
                Rule::SegmentInternal
            };
            return self.add(path, at, rule, Outcome::Nothing);
        }
        if last < start {
            return self.add(path, at, Rule::SegmentTrimmed, Outcome::Nothing);
        }
        let told = Outcome::Told {
            key,
            first: base.max(start),
            last,
        };
        let (epoch, behind) = (at.start + 12, at.start + 16);
        let parts = [
            (at.start..epoch, Rule::SegmentBatch, told.clone()),
            (epoch..behind, Rule::SegmentEpoch, Outcome::Epoch { key, base }),
            (behind..at.end, Rule::SegmentBatch, told),
        ];
        let put_back_from = if self.newest.put_back.contains(&key) {
            checked_from
        } else {
            u64::MAX
        };
        for (bytes, rule, outcome) in parts {
            let cut = put_back_from.clamp(bytes.start, bytes.end);
            self.add(path, bytes.start..cut, rule, outcome);
            self.add(path, cut..bytes.end, Rule::SegmentPutBack, Outcome::Nothing);
        }
    }
}
