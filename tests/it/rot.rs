//! Rot on every kind of file below a data directory: the real binary is started on it, and what comes of that is compared with
//! a table. What acknowledged is there, or is told with its offsets, or the start is refused with a message that names the
//! file.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use naru::client::{Client, CreateTopicOptions, OffsetSpec, OffsetToCommit, ProducerRecord, Start};
use naru::model::Offset;
use rustix::process::Signal;

use crate::broker::{Broker, Setup};
use crate::system::{at_once, skipped};

const TOPIC: &str = "rotting-topic";
const GROUP: &str = "rotting-group";
const VALUE_BYTES: usize = 6_000;
/// Two segments.
const RECORDS: i64 = 14;
const COMMITTED: i64 = 5;

const META: &str = "topics/00000000-0000-0000-0000-000000000001";
const GROUPS: &str = "topics/00000000-0000-0000-0000-000000000002";

/// How the broker ended that filled the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// In order: everything is in segments.
    Stopped,
    /// Killed before it applied anything: everything is in the journal.
    Killed,
}

/// What must come of a start.
#[derive(Clone, Copy, Debug)]
enum Due {
    /// Everything is there.
    Whole,
    /// Exactly these offsets are told, first and last.
    Told(i64, i64),
    /// Exit code 1, and the message has all of these.
    Refused(&'static [&'static str]),
}

use Due::{Refused, Told, Whole};
use Ended::{Killed, Stopped};

/// A case: the directory, what is done to it, and what is due.
struct Case {
    name: &'static str,
    ended: Ended,
    damage: fn(&Dir),
    due: Due,
}

const fn case(name: &'static str, ended: Ended, damage: fn(&Dir), due: Due) -> Case {
    Case {
        name,
        ended,
        damage,
        due,
    }
}

/// A data directory that may be damaged.
struct Dir(PathBuf);

impl Dir {
    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    fn files(&self, below: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.path(below)];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    /// Segments or indexes of the topic, oldest first.
    fn of_topic(&self, kind: &str) -> Vec<PathBuf> {
        let all = self.files("topics").into_iter();
        let of_kind = all.filter(|path| path.extension().is_some_and(|e| e == kind));
        let own = |path: &PathBuf| path.to_str().unwrap().contains("/topics/00000000-0000");
        of_kind.filter(|path| !own(path)).collect()
    }

    fn segment(&self, nth: usize) -> PathBuf {
        self.of_topic("log").swap_remove(nth)
    }

    fn index(&self, nth: usize) -> PathBuf {
        self.of_topic("index").swap_remove(nth)
    }

    /// The one segment of one of the broker's own partitions.
    fn own(&self, topic: &str) -> PathBuf {
        let files = self.files(topic);
        files
            .into_iter()
            .find(|path| path.extension().is_some_and(|e| e == "log"))
            .unwrap()
    }

    /// The journal file with these bytes, and where they are.
    fn in_journal(&self, needle: &str) -> (PathBuf, u64) {
        let mut all = self.files("journal").into_iter();
        all.find_map(|path| {
            let at = find(&fs::read(&path).unwrap(), needle.as_bytes())?;
            Some((path, at as u64))
        })
        .unwrap()
    }

    /// The journal file with the record, and the first byte of its group.
    fn group_of(&self, record: i64) -> (PathBuf, u64) {
        let (path, at) = self.in_journal(&head(record));
        let bytes = fs::read(&path).unwrap();
        let mut block = at / 4096 * 4096;
        while !bytes[usize::try_from(block).unwrap()..].starts_with(b"NGRP") {
            block -= 4096;
        }
        (path, block)
    }

    /// The checkpoint with the greater sequence number, and the other one.
    fn checkpoints(&self) -> (PathBuf, PathBuf) {
        let [first, second] = ["checkpoint.0", "checkpoint.1"].map(|name| self.path(name));
        let seq = |path: &Path| u64::from_le_bytes(fs::read(path).unwrap()[40..48].try_into().unwrap());
        if seq(&first) > seq(&second) {
            (first, second)
        } else {
            (second, first)
        }
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|w| w == needle)
}

fn change(path: &Path, at: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

fn flip(path: &Path, at: u64) {
    let byte = fs::read(path).unwrap()[usize::try_from(at).unwrap()];
    change(path, at, &[byte ^ 1]);
}

fn zero_sector(path: &Path, at: u64) {
    let len = fs::metadata(path).unwrap().len();
    let from = at / 512 * 512;
    let bytes = usize::try_from((len - from).min(512)).unwrap();
    change(path, from, &vec![0; bytes]);
}

fn cut(path: &Path, len: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

fn swap(one: &Path, other: &Path) {
    let aside = one.with_extension("aside");
    fs::rename(one, &aside).unwrap();
    fs::rename(other, one).unwrap();
    fs::rename(aside, other).unwrap();
}

fn make_a_directory_of(path: &Path) {
    fs::remove_file(path).unwrap();
    fs::create_dir(path).unwrap();
}

fn flip_record(path: &Path, record: i64) {
    let at = find(&fs::read(path).unwrap(), head(record).as_bytes()).unwrap();
    flip(path, at as u64 + 100);
}

fn head(record: i64) -> String {
    format!("record-{record:02}/")
}

fn value(record: i64) -> String {
    let mut random = fastrand::Rng::with_seed(record.unsigned_abs());
    let mut value = head(record);
    while value.len() < VALUE_BYTES {
        value.push(random.alphanumeric());
    }
    value
}

const SHOULD_READ: Due = Refused(&["FORMAT", "it should read: naru data directory, format 1 / id "]);

const OF_SMALL_FILES: &[Case] = &[
    case(
        "FORMAT, a bit",
        Stopped,
        |d| flip(&d.path("FORMAT"), 40),
        SHOULD_READ,
    ),
    case(
        "FORMAT, zeros",
        Stopped,
        |d| zero_sector(&d.path("FORMAT"), 0),
        SHOULD_READ,
    ),
    case(
        "FORMAT, cut",
        Stopped,
        |d| cut(&d.path("FORMAT"), 30),
        SHOULD_READ,
    ),
    case(
        "FORMAT, gone",
        Stopped,
        |d| fs::remove_file(d.path("FORMAT")).unwrap(),
        SHOULD_READ,
    ),
    case(
        "FORMAT, gone, after a kill",
        Killed,
        |d| fs::remove_file(d.path("FORMAT")).unwrap(),
        SHOULD_READ,
    ),
    case(
        "FORMAT, a directory",
        Stopped,
        |d| make_a_directory_of(&d.path("FORMAT")),
        Refused(&["FORMAT"]),
    ),
    case(
        "LOCK, other bytes",
        Stopped,
        |d| fs::write(d.path("LOCK"), b"\0\xffnobody").unwrap(),
        Whole,
    ),
    case(
        "LOCK, gone",
        Stopped,
        |d| fs::remove_file(d.path("LOCK")).unwrap(),
        Whole,
    ),
    case(
        "LOCK, a directory",
        Stopped,
        |d| make_a_directory_of(&d.path("LOCK")),
        Refused(&["LOCK"]),
    ),
    case("reserve, a bit", Stopped, |d| flip(&d.path("reserve"), 9), Whole),
    case("reserve, cut", Stopped, |d| cut(&d.path("reserve"), 5), Whole),
    case(
        "reserve, gone",
        Killed,
        |d| fs::remove_file(d.path("reserve")).unwrap(),
        Whole,
    ),
    case(
        "reserve, a directory",
        Stopped,
        |d| make_a_directory_of(&d.path("reserve")),
        Refused(&["reserve"]),
    ),
    case(
        "a file of somebody else",
        Stopped,
        |d| fs::write(d.path("notes.txt"), b"mine").unwrap(),
        Whole,
    ),
    case(
        "an empty directory of a topic",
        Stopped,
        |d| fs::create_dir(d.path("topics/of-nobody")).unwrap(),
        Whole,
    ),
    case(
        "topics, gone",
        Stopped,
        |d| fs::remove_dir_all(d.path("topics")).unwrap(),
        Refused(&["topics is missing"]),
    ),
    case(
        "salvage and trash, gone",
        Stopped,
        |d| {
            fs::remove_dir_all(d.path("salvage")).unwrap();
            fs::remove_dir_all(d.path("trash")).unwrap();
        },
        Whole,
    ),
];

const OF_CHECKPOINTS: &[Case] = &[
    case(
        "newest checkpoint, a bit",
        Stopped,
        |d| flip(&d.checkpoints().0, 50),
        Whole,
    ),
    case(
        "newest checkpoint, zeros",
        Stopped,
        |d| zero_sector(&d.checkpoints().0, 0),
        Whole,
    ),
    case(
        "newest checkpoint, cut",
        Stopped,
        |d| cut(&d.checkpoints().0, 60),
        Whole,
    ),
    case(
        "newest checkpoint, gone",
        Stopped,
        |d| fs::remove_file(d.checkpoints().0).unwrap(),
        Whole,
    ),
    case(
        "newest checkpoint, the older one over it",
        Stopped,
        |d| {
            let (newest, older) = d.checkpoints();
            fs::copy(older, newest).unwrap();
        },
        Whole,
    ),
    case(
        "checkpoints, swapped",
        Stopped,
        |d| swap(&d.path("checkpoint.0"), &d.path("checkpoint.1")),
        Whole,
    ),
    case(
        "checkpoints, a bit of each",
        Stopped,
        |d| {
            flip(&d.path("checkpoint.0"), 50);
            flip(&d.path("checkpoint.1"), 50);
        },
        Refused(&["checkpoint.0", "checkpoint.1"]),
    ),
    case(
        "newest checkpoint, a directory",
        Stopped,
        |d| make_a_directory_of(&d.checkpoints().0),
        Refused(&["checkpoint."]),
    ),
];

const OF_THE_JOURNAL: &[Case] = &[
    case(
        "journal header, a bit",
        Killed,
        |d| flip(&d.group_of(0).0, 44),
        Whole,
    ),
    case(
        "journal header, both copies",
        Killed,
        |d| {
            let (path, _) = d.group_of(0);
            zero_sector(&path, 0);
            zero_sector(&path, 4096);
        },
        Refused(&["journal/00000000.journal", "header"]),
    ),
    case(
        "group header, a bit",
        Killed,
        |d| {
            let (path, at) = d.group_of(3);
            flip(&path, at + 9);
        },
        Refused(&["journal/00000000.journal", "durable"]),
    ),
    case(
        "group header, zeros",
        Killed,
        |d| {
            let (path, at) = d.group_of(3);
            zero_sector(&path, at);
        },
        Refused(&["journal/00000000.journal", "durable"]),
    ),
    case(
        "batch in a group, a bit",
        Killed,
        |d| flip_record(&d.group_of(3).0, 3),
        Told(3, 3),
    ),
    case(
        "batch in a group, zeros",
        Killed,
        |d| {
            let (path, at) = d.in_journal(&head(3));
            zero_sector(&path, at + 1024);
        },
        Told(3, 3),
    ),
    case(
        "record of __meta in a group",
        Killed,
        |d| {
            let (path, at) = d.in_journal(TOPIC);
            flip(&path, at);
        },
        Refused(&["journal/00000000.journal", "00000000-0000-0000-0000-000000000001"]),
    ),
    case(
        "record of __groups in a group",
        Killed,
        |d| {
            let (path, at) = d.in_journal(GROUP);
            flip(&path, at);
        },
        Refused(&["journal/00000000.journal", "00000000-0000-0000-0000-000000000002"]),
    ),
    case(
        "journal file, cut",
        Killed,
        |d| {
            let (path, at) = d.group_of(5);
            cut(&path, at);
        },
        Refused(&["journal/00000000.journal", "less than its header says"]),
    ),
    case(
        "journal file, gone",
        Killed,
        |d| fs::remove_file(d.group_of(0).0).unwrap(),
        Refused(&["journal"]),
    ),
    case(
        "journal file, a directory",
        Killed,
        |d| make_a_directory_of(&d.group_of(0).0),
        Refused(&["journal"]),
    ),
    case(
        "journal file, twice",
        Killed,
        |d| {
            // One that was being made when the kill came would not be the last any more, and look cut.
            for file in d.files("journal") {
                if fs::metadata(&file).unwrap().len() == 0 {
                    fs::remove_file(&file).unwrap();
                }
            }
            fs::copy(d.group_of(0).0, d.path("journal/00000077.journal")).unwrap();
        },
        Whole,
    ),
    case(
        "journal files, swapped",
        Stopped,
        |d| {
            let files = d.files("journal");
            swap(&files[0], &files[1]);
        },
        Whole,
    ),
    case(
        "group of a stopped broker, a bit",
        Stopped,
        |d| {
            let (path, at) = d.group_of(3);
            flip(&path, at + 9);
        },
        Whole,
    ),
    case(
        "journal, a file of somebody else",
        Stopped,
        |d| fs::write(d.path("journal/a.txt"), b"x").unwrap(),
        Whole,
    ),
    case(
        "journal, gone",
        Stopped,
        |d| fs::remove_dir_all(d.path("journal")).unwrap(),
        Refused(&["journal"]),
    ),
];

const OF_SEGMENTS: &[Case] = &[
    case(
        "segment, a bit",
        Stopped,
        |d| flip_record(&d.segment(0), 3),
        Told(3, 3),
    ),
    case(
        "segment, zeros",
        Stopped,
        |d| zero_sector(&d.segment(0), 3 * 6_070 + 3_000),
        Told(3, 3),
    ),
    case(
        "segment, gone",
        Stopped,
        |d| fs::remove_file(d.segment(0)).unwrap(),
        Told(0, 9),
    ),
    case(
        "newest segment, gone",
        Stopped,
        |d| fs::remove_file(d.segment(1)).unwrap(),
        Told(10, 13),
    ),
    case(
        "segment, twice",
        Stopped,
        |d| {
            let copy = d.segment(1).with_file_name("00000000000000000099.log");
            fs::copy(d.segment(1), copy).unwrap();
        },
        Whole,
    ),
    case(
        "segments, swapped",
        Stopped,
        |d| swap(&d.segment(0), &d.segment(1)),
        Told(0, 13),
    ),
    case(
        "segment, a directory",
        Stopped,
        |d| make_a_directory_of(&d.segment(0)),
        Refused(&["00000000000000000000.log"]),
    ),
    case(
        "segment, unfinished, of nobody",
        Killed,
        |d| {
            fs::create_dir_all(d.path("topics/11111111-1111-1111-1111-111111111111/0")).unwrap();
        },
        Whole,
    ),
    case(
        "segment of __meta, a bit",
        Stopped,
        |d| flip(&d.own(META), 70),
        Whole,
    ),
    case(
        "segment of __meta, gone",
        Stopped,
        |d| fs::remove_file(d.own(META)).unwrap(),
        Whole,
    ),
    case(
        "segment of __groups, a bit",
        Stopped,
        |d| flip(&d.own(GROUPS), 70),
        Whole,
    ),
    case(
        "segment of __groups, cut",
        Stopped,
        |d| cut(&d.own(GROUPS), 20),
        Whole,
    ),
    case("index, a bit", Stopped, |d| flip(&d.index(0), 25), Whole),
    case("index, zeros", Stopped, |d| zero_sector(&d.index(0), 0), Whole),
    case("index, cut", Stopped, |d| cut(&d.index(0), 13), Whole),
    case(
        "index, gone",
        Stopped,
        |d| fs::remove_file(d.index(0)).unwrap(),
        Whole,
    ),
];

/// What a start finds out later, when it is read.
const OF_PLACES: &[Case] = &[
    case(
        "segment, cut",
        Stopped,
        |d| cut(&d.segment(0), 9 * 6_070),
        Told(9, 9),
    ),
    case(
        "indexes, swapped",
        Stopped,
        |d| swap(&d.index(0), &d.index(1)),
        Whole,
    ),
    case(
        "newest index, that of the oldest",
        Stopped,
        |d| {
            fs::copy(d.index(0), d.index(1)).unwrap();
        },
        Whole,
    ),
];

const SHUT: Case = case(
    "segment, not to be read",
    Stopped,
    |d| fs::set_permissions(d.segment(0), fs::Permissions::from_mode(0o000)).unwrap(),
    Refused(&["00000000000000000000.log"]),
);

/// A directory that a broker has filled, and how that one ended.
async fn fill(ended: Ended) -> Broker {
    let mut broker = Setup::default().start();
    let client = broker.client().await;
    let options = CreateTopicOptions {
        partitions: 1,
        configs: vec![("segment.bytes".to_owned(), "65536".to_owned())],
        if_not_exists: false,
    };
    client.create_topic(TOPIC, options).await.unwrap();
    let producer = client
        .producer()
        .linger(std::time::Duration::ZERO)
        .build()
        .await
        .unwrap();
    for record in 0..RECORDS {
        if record == COMMITTED {
            let place = OffsetToCommit::new(TOPIC, 0, Offset::new(COMMITTED).unwrap());
            client.commit_offsets(GROUP, vec![place]).await.unwrap();
        }
        let sent = ProducerRecord::to(TOPIC).partition(0).value(value(record));
        let stored = producer.send(sent).await.unwrap();
        assert_eq!(stored.offset.unwrap().get(), record);
    }
    match ended {
        Killed => broker.kill(),
        Stopped => {
            broker.signal(Signal::TERM);
            broker.ended().await;
        }
    }
    broker
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// What is wrong, or nothing.
async fn try_case(case: &'static Case, filled: Arc<[Broker; 2]>) -> Option<String> {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    copy(&filled[usize::from(case.ended == Killed)].data, &data);
    (case.damage)(&Dir(data.clone()));
    let mut broker = Setup::default().spawn_on(home, data);
    let came = if broker.is_ready() {
        look(&broker.client().await).await
    } else {
        let code = broker.ended().await.code();
        let told = broker
            .log
            .event("ended")
            .map(|line| line["error.message"].to_string());
        Err((code, told.unwrap_or_default()))
    };
    let as_due = match (&came, case.due) {
        (Ok(told), Whole) => told.is_empty(),
        (Ok(told), Told(first, last)) => told.iter().copied().eq(first..=last),
        (Err((code, told)), Refused(says)) => *code == Some(1) && says.iter().all(|it| told.contains(it)),
        _ => false,
    };
    (!as_due).then(|| format!("{}: {:?} was due, and it came to {came:?}", case.name, case.due))
}

/// The offsets that are told to be damaged; everything else is there, and the broker goes on.
async fn look(client: &Client) -> Result<BTreeSet<i64>, (Option<i32>, String)> {
    let ends = client
        .list_offsets(TOPIC, &[0], OffsetSpec::Latest)
        .await
        .unwrap();
    assert_eq!(ends[0].as_ref().unwrap().get(), RECORDS);
    let mut told = BTreeSet::new();
    let mut next = 0;
    while next < RECORDS {
        let from = Start::Offset(Offset::new(next).unwrap());
        let mut reader = client.reader(TOPIC, 0, from).build().await.unwrap();
        while next < RECORDS {
            match reader.next().await.unwrap() {
                Ok(record) => {
                    assert_eq!(
                        (record.offset.get(), record.value.unwrap()),
                        (next, value(next).into())
                    );
                    next += 1;
                }
                Err(error) => {
                    let (first, last) = error
                        .damaged_offsets()
                        .unwrap_or_else(|| panic!("at {next}: {error}"));
                    told.extend(first.get()..=last.get());
                    next = last.get() + 1;
                    break;
                }
            }
        }
    }
    let places = client.fetch_offsets(GROUP, TOPIC, &[0]).await.unwrap().remove(0);
    let committed = places.unwrap().committed.map(|committed| committed.offset.get());
    assert_eq!(committed, Some(COMMITTED));
    let producer = client.producer().build().await.unwrap();
    let more = ProducerRecord::to(TOPIC).partition(0).value(value(RECORDS));
    assert_eq!(producer.send(more).await.unwrap().offset.unwrap().get(), RECORDS);
    Ok(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_on_any_kind_of_file_comes_to_what_the_table_says() {
    let begun = crate::peer::now();
    let filled = Arc::new([fill(Stopped).await, fill(Killed).await]);
    let mut cases: Vec<&Case> = [
        OF_SMALL_FILES,
        OF_CHECKPOINTS,
        OF_THE_JOURNAL,
        OF_SEGMENTS,
        OF_PLACES,
    ]
    .into_iter()
    .flatten()
    .collect();
    if rustix::process::geteuid().is_root() {
        skipped("a file that may not be read", "root may read everything");
    } else {
        cases.push(&SHUT);
    }
    let count = cases.len();
    let tried = cases.into_iter().map(|case| try_case(case, Arc::clone(&filled)));
    let wrong: Vec<_> = at_once(3, tried).await.into_iter().flatten().collect();
    let seconds = begun.elapsed().as_secs();
    eprintln!(
        "figures rot: cases={count} wrong={} seconds={seconds}",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
