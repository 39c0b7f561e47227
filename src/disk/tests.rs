//! What every disk does, run on the real one, on the simulated one, and on the one that is both.

use std::io::ErrorKind;

use proptest::prelude::*;

use super::lossy::LossyDisk;
use super::real::RealDisk;
use super::sim::{CutProfile, SimDisk, SimOptions};
use super::*;

/// Where the build keeps its programs there is a real file system, with direct I/O as a rule; `/tmp` is often in memory.
fn real_root() -> tempfile::TempDir {
    let program = std::env::current_exe().unwrap();
    tempfile::tempdir_in(program.parent().unwrap()).unwrap()
}

/// A root in a directory of its own.
struct Nested {
    _parent: tempfile::TempDir,
    path: std::path::PathBuf,
}

impl Nested {
    fn new() -> Self {
        let parent = real_root();
        let path = parent.path().join("root");
        std::fs::create_dir(&path).unwrap();
        Self {
            _parent: parent,
            path,
        }
    }
}

fn on_all(check: impl Fn(&dyn Disk)) {
    let root = real_root();
    check(&RealDisk::open(root.path()).unwrap());
    let root = Nested::new();
    check(&LossyDisk::open(&root.path, 1).unwrap());
    check(&SimDisk::new(SimOptions::default()));
    check(&SimDisk::new(SimOptions {
        direct: false,
        write_back: true,
        ..SimOptions::default()
    }));
}

fn kind<T>(result: io::Result<T>) -> ErrorKind {
    result.err().expect("this must fail").kind()
}

fn names(disk: &dyn Disk, dir: &str) -> Vec<String> {
    disk.list(dir)
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect()
}

fn contents(disk: &dyn Disk, path: &str) -> Vec<u8> {
    let file = disk.open(path, Mode::Buffered).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    read_exact_at(&*file, &mut bytes, 0).unwrap();
    bytes
}

#[test]
fn files_are_made_once_and_opened_often() {
    on_all(|disk| {
        let file = disk.create_new("f", Mode::Buffered).unwrap();
        assert_eq!(
            kind(disk.create_new("f", Mode::Buffered)),
            ErrorKind::AlreadyExists
        );
        file.write_all_at(b"hello", 0).unwrap();
        assert_eq!(contents(disk, "f"), b"hello");
        assert_eq!(kind(disk.open("g", Mode::Buffered)), ErrorKind::NotFound);
        assert_eq!(kind(disk.open("f/g", Mode::Buffered)), ErrorKind::NotADirectory);
        assert_eq!(kind(disk.create_new("d/f", Mode::Buffered)), ErrorKind::NotFound);
    });
}

#[test]
fn a_gap_reads_as_zeros_and_the_end_reads_as_nothing() {
    on_all(|disk| {
        let file = disk.create_new("f", Mode::Buffered).unwrap();
        file.write_all_at(b"end", 5000).unwrap();
        assert_eq!(file.len().unwrap(), 5003);
        let bytes = contents(disk, "f");
        assert_eq!(bytes[..5000], [0; 5000]);
        assert_eq!(bytes[5000..], *b"end");
        let mut buf = [7; 10];
        assert_eq!(file.read_at(&mut buf, 5000).unwrap(), 3);
        assert_eq!(file.read_at(&mut buf, 5003).unwrap(), 0);
        assert_eq!(file.read_at(&mut buf, 9000).unwrap(), 0);
        assert_eq!(
            kind(read_exact_at(&*file, &mut buf, 5000)),
            ErrorKind::UnexpectedEof
        );
    });
}

#[test]
fn an_empty_write_changes_nothing() {
    on_all(|disk| {
        let file = disk.create_new("f", Mode::Buffered).unwrap();
        file.write_all_at(b"", 4096).unwrap();
        assert_eq!(file.len().unwrap(), 0);
    });
}

#[test]
fn what_was_cut_off_does_not_come_back() {
    on_all(|disk| {
        let file = disk.create_new("f", Mode::Buffered).unwrap();
        file.write_all_at(&[1; 9000], 0).unwrap();
        file.set_len(100).unwrap();
        assert_eq!(contents(disk, "f"), [1; 100]);
        file.set_len(9000).unwrap();
        let bytes = contents(disk, "f");
        assert_eq!(bytes[..100], [1; 100]);
        assert_eq!(bytes[100..], [0; 8900]);
    });
}

#[test]
fn direct_writes_and_reads_take_whole_aligned_blocks_only() {
    on_all(|disk| {
        let file = disk.create_new("f", Mode::Direct).unwrap();
        let mut buf = AlignedBuf::zeroed(8192);
        buf.fill(3);
        file.write_all_at(&buf, 4096).unwrap();
        assert_eq!(contents(disk, "f")[4096..], [3; 8192]);
        let mut back = AlignedBuf::zeroed(8192);
        read_exact_at(&*file, &mut back, 4096).unwrap();
        assert_eq!(*back, *buf);
        if !disk.supports_direct() {
            return;
        }
        assert_eq!(kind(file.write_all_at(&buf, 512)), ErrorKind::InvalidInput);
        assert_eq!(
            kind(file.write_all_at(&buf[..512], 4096)),
            ErrorKind::InvalidInput
        );
        let long = AlignedBuf::zeroed(12288);
        assert_eq!(
            kind(file.write_all_at(&long[512..4608], 0)),
            ErrorKind::InvalidInput
        );
        assert_eq!(kind(file.read_at(&mut back[..100], 0)), ErrorKind::InvalidInput);
        assert_eq!(kind(file.read_at(&mut back, 100)), ErrorKind::InvalidInput);
    });
}

#[test]
fn slices_written_together_follow_each_other() {
    on_all(|disk| {
        let file = disk.create_new("f", Mode::Buffered).unwrap();
        // More than one system call takes.
        let parts: Vec<Vec<u8>> = (0..3_000_u16)
            .map(|n| n.to_le_bytes().repeat(usize::from(n % 5)))
            .collect();
        let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        file.write_all_vectored_at(&slices, 10).unwrap();
        assert_eq!(contents(disk, "f")[10..], parts.concat());
        file.write_all_vectored_at(&[], 1 << 20).unwrap();
        assert_eq!(file.len().unwrap(), 10 + parts.concat().len() as u64);

        let direct = disk.create_new("g", Mode::Direct).unwrap();
        let (mut first, mut second) = (AlignedBuf::zeroed(4096), AlignedBuf::zeroed(8192));
        first.fill(1);
        second.fill(2);
        direct.write_all_vectored_at(&[&first, &second], 4096).unwrap();
        assert_eq!(
            contents(disk, "g")[4096..],
            [vec![1; 4096], vec![2; 8192]].concat()
        );
        if disk.supports_direct() {
            let odd = direct.write_all_vectored_at(&[&second, &first[..512]], 0);
            assert_eq!(kind(odd), ErrorKind::InvalidInput);
        }
    });
}

#[test]
fn a_direct_read_ends_where_the_file_ends() {
    on_all(|disk| {
        let file = disk.create_new("f", Mode::Direct).unwrap();
        file.write_all_at(&AlignedBuf::zeroed(8192), 0).unwrap();
        file.set_len(5000).unwrap();
        let mut buf = AlignedBuf::zeroed(8192);
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 5000);
        assert_eq!(file.read_at(&mut buf, 4096).unwrap(), 904);
        assert_eq!(file.read_at(&mut buf, 8192).unwrap(), 0);
    });
}

#[test]
fn a_reservation_does_not_change_the_length() {
    on_all(|disk| {
        let file = disk.create_new("f", Mode::Buffered).unwrap();
        match file.allocate(0, 1 << 20) {
            Err(e) if e.kind() == ErrorKind::Unsupported => return,
            result => result.unwrap(),
        }
        file.allocate(0, 0).unwrap();
        assert_eq!(file.len().unwrap(), 0);
    });
}

#[test]
fn directories_are_listed_sorted_and_made_again_without_harm() {
    on_all(|disk| {
        disk.mkdir("").unwrap();
        disk.mkdir("b").unwrap();
        disk.mkdir("b").unwrap();
        disk.mkdir("b/c").unwrap();
        disk.create_new("a", Mode::Buffered).unwrap();
        disk.create_new("c", Mode::Buffered).unwrap();
        let entry = |name: &str, is_dir| Entry {
            name: name.to_owned(),
            is_dir,
        };
        let expected = [entry("a", false), entry("b", true), entry("c", false)];
        assert_eq!(disk.list("").unwrap(), expected);
        assert_eq!(disk.list("b").unwrap(), [entry("c", true)]);
        assert_eq!(kind(disk.mkdir("a")), ErrorKind::AlreadyExists);
        assert_eq!(kind(disk.mkdir("x/y")), ErrorKind::NotFound);
        assert_eq!(kind(disk.list("x")), ErrorKind::NotFound);
        assert_eq!(kind(disk.list("a")), ErrorKind::NotADirectory);
        assert_eq!(kind(disk.open("b", Mode::Buffered)), ErrorKind::IsADirectory);
        disk.sync_dir("").unwrap();
        disk.sync_dir("b/c").unwrap();
        assert_eq!(kind(disk.sync_dir("x")), ErrorKind::NotFound);
        assert_eq!(kind(disk.sync_dir("a")), ErrorKind::NotADirectory);
    });
}

#[test]
fn removal_takes_files_and_empty_directories() {
    on_all(|disk| {
        disk.mkdir("d").unwrap();
        disk.create_new("d/f", Mode::Buffered).unwrap();
        assert_eq!(kind(disk.rmdir("d")), ErrorKind::DirectoryNotEmpty);
        assert_eq!(kind(disk.unlink("d")), ErrorKind::IsADirectory);
        assert_eq!(kind(disk.rmdir("d/f")), ErrorKind::NotADirectory);
        disk.unlink("d/f").unwrap();
        assert_eq!(kind(disk.unlink("d/f")), ErrorKind::NotFound);
        disk.rmdir("d").unwrap();
        assert_eq!(kind(disk.rmdir("d")), ErrorKind::NotFound);
        assert_eq!(disk.list("").unwrap(), []);
    });
}

#[test]
fn rename_moves_replaces_and_refuses_as_the_system_does() {
    on_all(|disk| {
        disk.mkdir("d").unwrap();
        disk.write("a", b"a");
        disk.write("b", b"b");
        disk.rename("a", "b").unwrap();
        assert_eq!(names(disk, ""), ["b", "d"]);
        assert_eq!(contents(disk, "b"), b"a");
        disk.rename("b", "b").unwrap();
        disk.rename("b", "d/c").unwrap();
        assert_eq!(contents(disk, "d/c"), b"a");
        assert_eq!(kind(disk.rename("b", "c")), ErrorKind::NotFound);
        disk.write("b", b"b");
        assert_eq!(kind(disk.rename("b", "d")), ErrorKind::IsADirectory);
        assert_eq!(kind(disk.rename("d", "b")), ErrorKind::NotADirectory);
        assert_eq!(kind(disk.rename("d", "d/e")), ErrorKind::InvalidInput);
        disk.mkdir("e").unwrap();
        assert_eq!(kind(disk.rename("e", "d")), ErrorKind::DirectoryNotEmpty);
        disk.rename("d", "e").unwrap();
        assert_eq!(contents(disk, "e/c"), b"a");
        assert_eq!(names(disk, ""), ["b", "e"]);
    });
}

#[test]
fn a_file_stays_readable_through_its_handle_after_its_name_is_gone() {
    on_all(|disk| {
        disk.write("a", b"old");
        let replaced = disk.open("a", Mode::Buffered).unwrap();
        disk.write("b", b"new");
        disk.rename("b", "a").unwrap();
        let unlinked = disk.open("a", Mode::Buffered).unwrap();
        disk.unlink("a").unwrap();
        disk.sync_dir("").unwrap();
        let mut buf = [0; 3];
        read_exact_at(&*replaced, &mut buf, 0).unwrap();
        assert_eq!(buf, *b"old");
        unlinked.write_all_at(b"N", 0).unwrap();
        unlinked.sync_data().unwrap();
        read_exact_at(&*unlinked, &mut buf, 0).unwrap();
        assert_eq!(buf, *b"New");
    });
}

#[test]
fn paths_that_leave_the_directory_are_refused() {
    on_all(|disk| {
        for path in ["/f", "../f", "a//f", "./f", ""] {
            assert_eq!(
                kind(disk.create_new(path, Mode::Buffered)),
                ErrorKind::InvalidInput
            );
            assert_eq!(kind(disk.open(path, Mode::Buffered)), ErrorKind::InvalidInput);
            assert_eq!(kind(disk.unlink(path)), ErrorKind::InvalidInput);
            assert_eq!(kind(disk.rmdir(path)), ErrorKind::InvalidInput);
            assert_eq!(kind(disk.rename(path, "x")), ErrorKind::InvalidInput);
            assert_eq!(kind(disk.rename("x", path)), ErrorKind::InvalidInput);
        }
        for dir in ["/", "..", "a/", "."] {
            assert_eq!(kind(disk.mkdir(dir)), ErrorKind::InvalidInput);
            assert_eq!(kind(disk.list(dir)), ErrorKind::InvalidInput);
            assert_eq!(kind(disk.sync_dir(dir)), ErrorKind::InvalidInput);
        }
    });
}

#[test]
fn errors_name_operation_path_and_system_number() {
    on_all(|disk| {
        let error = disk.open("nowhere", Mode::Buffered).unwrap_err();
        assert_eq!(os_error(&error), Some(rustix::io::Errno::NOENT.raw_os_error()));
        assert!(error.to_string().starts_with("open \"nowhere\": "), "{error}");
    });
}

/// Short-hand of these tests.
trait WriteWhole {
    fn write(&self, path: &str, bytes: &[u8]);
}

impl WriteWhole for dyn Disk + '_ {
    fn write(&self, path: &str, bytes: &[u8]) {
        let file = self.create_new(path, Mode::Buffered).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    }
}

/// An operation of the random runs. Files have four names in two directories.
#[derive(Clone, Debug)]
enum Step {
    Create(usize),
    Write {
        path: usize,
        at: u64,
        fill: u8,
        len: usize,
    },
    SetLen {
        path: usize,
        len: u64,
    },
    Sync(usize),
    DropCache(usize),
    Rename(usize, usize),
    Unlink(usize),
    SyncDir(usize),
    Mkdir(usize),
    Rmdir(usize),
}

const PATHS: [&str; 6] = ["a", "b", "d/a", "d/b", "d", "e"];
const DIRS: [&str; 3] = ["", "d", "e"];

fn any_step() -> impl Strategy<Value = Step> {
    let path = 0..PATHS.len();
    let dir = 0..DIRS.len();
    prop_oneof![
        3 => path.clone().prop_map(Step::Create),
        6 => (path.clone(), 0..9000u64, 1..=255u8, 0..6000usize)
            .prop_map(|(path, at, fill, len)| Step::Write { path, at, fill, len }),
        2 => (path.clone(), 0..12000u64).prop_map(|(path, len)| Step::SetLen { path, len }),
        2 => path.clone().prop_map(Step::Sync),
        1 => path.clone().prop_map(Step::DropCache),
        2 => (path.clone(), path.clone()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => path.prop_map(Step::Unlink),
        2 => dir.clone().prop_map(Step::SyncDir),
        2 => dir.clone().prop_map(Step::Mkdir),
        1 => dir.prop_map(Step::Rmdir),
    ]
}

fn run(disk: &dyn Disk, step: &Step) -> Result<(), ErrorKind> {
    let with = |path: usize, act: &dyn Fn(&dyn DiskFile) -> io::Result<()>| {
        let file = disk.open(PATHS[path], Mode::Buffered)?;
        act(&*file)
    };
    let result = match *step {
        Step::Create(path) => disk.create_new(PATHS[path], Mode::Buffered).map(drop),
        Step::Write { path, at, fill, len } => with(path, &|file| file.write_all_at(&vec![fill; len], at)),
        Step::SetLen { path, len } => with(path, &|file| file.set_len(len)),
        Step::Sync(path) => with(path, &|file| file.sync_data()),
        Step::DropCache(path) => with(path, &|file| file.drop_cache(0, 1 << 20)),
        Step::Rename(from, to) => disk.rename(PATHS[from], PATHS[to]),
        Step::Unlink(path) => disk.unlink(PATHS[path]),
        Step::SyncDir(dir) => disk.sync_dir(DIRS[dir]),
        Step::Mkdir(dir) => disk.mkdir(DIRS[dir]),
        Step::Rmdir(dir) => disk.rmdir(DIRS[dir]),
    };
    result.map_err(|e| e.kind())
}

/// Everything that can be seen: paths, and bytes of files.
fn visible(disk: &dyn Disk, dir: &str, into: &mut Vec<(String, Option<Vec<u8>>)>) {
    for entry in disk.list(dir).unwrap() {
        let path = if dir.is_empty() {
            entry.name
        } else {
            format!("{dir}/{}", entry.name)
        };
        if entry.is_dir {
            into.push((path.clone(), None));
            visible(disk, &path, into);
        } else {
            let bytes = contents(disk, &path);
            into.push((path, Some(bytes)));
        }
    }
}

fn all_visible(disk: &dyn Disk) -> Vec<(String, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    visible(disk, "", &mut all);
    all
}

proptest! {
    #[test]
    fn the_simulated_and_the_lossy_disk_show_what_the_real_one_shows(
        steps in proptest::collection::vec(any_step(), 1..60),
        seed: u64,
    ) {
        let root = real_root();
        let real = RealDisk::open(root.path()).unwrap();
        let sim = SimDisk::new(SimOptions { seed, write_back: seed % 2 == 0, ..SimOptions::default() });
        let nested = Nested::new();
        let lossy = LossyDisk::open(&nested.path, seed).unwrap();
        for (number, step) in (0..).zip(&steps) {
            let expected = run(&real, step);
            prop_assert_eq!(run(&sim, step), expected, "{:?}", step);
            prop_assert_eq!(run(&lossy, step), expected, "{:?}", step);
            if number % 16 == seed % 16 {
                prop_assert_eq!(&all_visible(&RealDisk::open(&nested.path).unwrap()), &all_visible(&lossy.durable()));
            }
        }
        let expected = all_visible(&real);
        prop_assert_eq!(&all_visible(&lossy), &expected);
        // The next process finds what is durable, and nothing else.
        let durable = all_visible(&lossy.durable());
        prop_assert_eq!(&all_visible(&RealDisk::open(&nested.path).unwrap()), &durable);
        drop(lossy);
        prop_assert_eq!(&all_visible(&LossyDisk::open(&nested.path, seed).unwrap()), &durable);
        prop_assert_eq!(&all_visible(&sim), &expected);
        prop_assert_eq!(&all_visible(&sim.after_kill()), &expected);
        prop_assert_eq!(&all_visible(&sim.after_power_cut(seed, CutProfile::KeepAll)), &expected);
    }
}
