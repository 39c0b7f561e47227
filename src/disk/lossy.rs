//! A data directory of which a killed process leaves what a power cut would: for tests of the real binary alone, never in a
//! release.
//!
//! In front there is a [`SimDisk`] with all files in memory; only what is durable there reaches the files of the directory:
//! after a sync, and at random times in random pieces before it, so that sectors and names survive or not independently of
//! each other. A file without a durable name has no name in the directory either.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, OFlags, linkat};

use super::real::RealDisk;
use super::sim::medium::{DirId, FileId, Medium, NameOp, Node, ROOT};
use super::sim::{SimDisk, SimOptions};
use super::{Disk, DiskFile, Entry, Mode};

/// The variable that makes a broker use such a disk; its value is the seed. Release binaries do not have these letters.
pub const VARIABLE: &str = "NARU_TEST_LOSSY_DISK";

const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// A data directory that loses what was not synced.
#[derive(Debug)]
pub struct LossyDisk {
    front: SimDisk,
    /// Locked before the front is changed, so that both change in the same order.
    folder: Arc<Mutex<Folder>>,
}

impl LossyDisk {
    /// Takes all that is in the data directory `root` into memory. `seed` decides what reaches the directory before its sync;
    /// with 0 that is nothing.
    ///
    /// # Errors
    /// As [`RealDisk::open`]; and whatever the system says about reading its files.
    pub fn open(root: &Path, seed: u64) -> io::Result<Self> {
        let real = RealDisk::open(root)?;
        let front = SimDisk::new(SimOptions {
            seed,
            direct: real.supports_direct(),
            free_bytes: real.free_bytes()?,
            write_back: seed != 0,
            ..SimOptions::default()
        });
        let mut folder = Folder::new(&root.canonicalize()?)?;
        folder.load(&front, "", ROOT)?;
        front.note_what_settles();
        Ok(Self {
            front,
            folder: Arc::new(Mutex::new(folder)),
        })
    }

    /// What the next process is to find.
    #[cfg(test)]
    pub(super) fn durable(&self) -> SimDisk {
        self.front.after_power_cut(0, super::sim::CutProfile::DropAll)
    }

    /// Does something to the front, and to the directory what it made durable.
    fn change<T>(&self, change: impl FnOnce(&mut Folder) -> io::Result<T>) -> io::Result<T> {
        let mut folder = lock(&self.folder);
        let changed = change(&mut folder);
        self.front.settle_on(&mut *folder)?;
        changed
    }

    fn handle(&self, file: Box<dyn DiskFile>, id: FileId, behind: Arc<File>) -> Box<dyn DiskFile> {
        Box::new(LossyFile {
            file,
            id,
            behind,
            front: self.front.clone(),
            folder: Arc::clone(&self.folder),
        })
    }
}

impl Disk for LossyDisk {
    fn create_new(&self, path: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        self.change(|folder| {
            let file = self.front.create_new(path, mode)?;
            let id = self.front.file_id(path)?;
            let behind = folder.add_file(id)?;
            Ok(self.handle(file, id, behind))
        })
    }

    fn open(&self, path: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        self.change(|folder| {
            let file = self.front.open(path, mode)?;
            let id = self.front.file_id(path)?;
            Ok(self.handle(file, id, Arc::clone(folder.file(id)?)))
        })
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Entry>> {
        self.front.list(dir)
    }

    fn mkdir(&self, dir: &str) -> io::Result<()> {
        self.change(|folder| {
            self.front.mkdir(dir)?;
            folder.add_dir(self.front.dir_id(dir)?)
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(|_| self.front.rename(from, to))
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.change(|_| self.front.unlink(path))
    }

    fn rmdir(&self, dir: &str) -> io::Result<()> {
        self.change(|_| self.front.rmdir(dir))
    }

    fn sync_files(&self, files: &[&dyn DiskFile]) -> io::Result<()> {
        files.iter().try_for_each(|file| file.sync_data())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let root = self.change(|folder| {
            self.front.write_back_name();
            Ok(folder.root.clone())
        })?;
        // For the time that it takes: a kill in the middle of it finds some of the names.
        File::open(root)?.sync_all()?;
        self.change(|_| self.front.sync_dir(dir))?;
        // Not before: a name that became durable may have been replaced in the same sync.
        let mut folder = lock(&self.folder);
        folder.files.retain(|id, _| self.front.has_file(*id));
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.front.free_bytes()
    }

    fn supports_direct(&self) -> bool {
        self.front.supports_direct()
    }
}

#[derive(Debug)]
struct LossyFile {
    /// The file in memory.
    file: Box<dyn DiskFile>,
    id: FileId,
    /// The file of the directory.
    behind: Arc<File>,
    front: SimDisk,
    folder: Arc<Mutex<Folder>>,
}

impl LossyFile {
    fn change(&self, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut folder = lock(&self.folder);
        let changed = change();
        self.front.settle_on(&mut *folder)?;
        changed
    }
}

impl DiskFile for LossyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buf, at)
    }

    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.change(|| self.file.write_all_at(buf, at))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|| {
            self.front.write_back_file(self.id);
            Ok(())
        })?;
        // For the time that it takes: a kill in the middle of it finds some of the sectors.
        self.behind.sync_data()?;
        self.change(|| self.file.sync_data())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|| self.file.set_len(len))
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.change(|| self.file.allocate(at, len))
    }

    fn drop_cache(&self, at: u64, len: u64) -> io::Result<()> {
        self.file.drop_cache(at, len)
    }
}

/// The directory, as far as things are durable.
#[derive(Debug)]
struct Folder {
    root: PathBuf,
    /// Where directories are that have no durable name.
    nameless: PathBuf,
    /// Where each directory has its durable name; none for those in `nameless`.
    homes: BTreeMap<DirId, Option<(DirId, String)>>,
    files: BTreeMap<FileId, Arc<File>>,
}

impl Folder {
    fn new(root: &Path) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the root has no name",
            ));
        };
        let nameless = parent.join(format!(".{}.nameless", name.to_string_lossy()));
        // What a process before left there was lost with it.
        remove_all(&nameless)?;
        make_dir(&nameless)?;
        Ok(Self {
            root: root.to_owned(),
            nameless,
            homes: BTreeMap::new(),
            files: BTreeMap::new(),
        })
    }

    /// Takes a directory and all that is in it over into `front`.
    fn load(&mut self, front: &SimDisk, path: &str, dir: DirId) -> io::Result<()> {
        for entry in fs::read_dir(self.dir(dir))? {
            let entry = entry?;
            let name = entry.file_name().into_string();
            let name = name.map_err(|name| io::Error::other(format!("foreign name {name:?}")))?;
            let inner = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}/{name}")
            };
            if entry.file_type()?.is_dir() {
                front.mkdir(&inner)?;
                let id = front.dir_id(&inner)?;
                self.homes.insert(id, Some((dir, name)));
                self.load(front, &inner, id)?;
            } else {
                front.write_file(&inner, &fs::read(entry.path())?)?;
                let file = OpenOptions::new().read(true).write(true).open(entry.path())?;
                self.files.insert(front.file_id(&inner)?, Arc::new(file));
            }
        }
        front.sync_dir(path)
    }

    fn file(&self, id: FileId) -> io::Result<&Arc<File>> {
        self.files.get(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// A file without a name.
    fn add_file(&mut self, id: FileId) -> io::Result<Arc<File>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .mode(FILE_MODE)
            .custom_flags(OFlags::TMPFILE.bits().cast_signed())
            .open(&self.nameless)?;
        let file = Arc::new(file);
        self.files.insert(id, Arc::clone(&file));
        Ok(file)
    }

    fn add_dir(&mut self, id: DirId) -> io::Result<()> {
        if id == ROOT || self.homes.contains_key(&id) {
            return Ok(());
        }
        self.homes.insert(id, None);
        make_dir(&self.dir(id))
    }

    fn dir(&self, id: DirId) -> PathBuf {
        if id == ROOT {
            return self.root.clone();
        }
        match self.homes.get(&id) {
            Some(Some(place)) => self.place(place),
            Some(None) | None => self.nameless.join(id.to_string()),
        }
    }

    fn place(&self, (dir, name): &(DirId, String)) -> PathBuf {
        self.dir(*dir).join(name)
    }

    /// Takes a directory to another name, or to none.
    fn move_dir(&mut self, id: DirId, to: Option<(DirId, String)>) -> io::Result<()> {
        let from = self.dir(id);
        self.homes.insert(id, to);
        fs::rename(from, self.dir(id))
    }
}

impl Medium for Folder {
    fn change_name(&mut self, change: &NameOp) -> io::Result<()> {
        match change {
            NameOp::Link {
                at,
                node: Node::File(id),
            } => {
                let open = format!("/proc/self/fd/{}", self.file(*id)?.as_raw_fd());
                Ok(linkat(CWD, open, CWD, self.place(at), AtFlags::SYMLINK_FOLLOW)?)
            }
            NameOp::Link {
                at,
                node: Node::Dir(id),
            } => self.move_dir(*id, Some(at.clone())),
            NameOp::Unlink { at } => {
                let is_here = |(id, home): (&DirId, &Option<_>)| (home.as_ref() == Some(at)).then_some(*id);
                match self.homes.iter().find_map(is_here) {
                    // With all that is in it: whether that was removed, too, does not matter any more.
                    Some(dir) => self.move_dir(dir, None),
                    None => fs::remove_file(self.place(at)),
                }
            }
            NameOp::Rename {
                from,
                to,
                node: Node::File(_),
            } => fs::rename(self.place(from), self.place(to)),
            NameOp::Rename {
                to,
                node: Node::Dir(id),
                ..
            } => {
                let replaced = self.homes.iter().find(|(_, home)| home.as_ref() == Some(to));
                if let Some(replaced) = replaced.map(|(id, _)| *id) {
                    self.move_dir(replaced, None)?;
                }
                self.move_dir(*id, Some(to.clone()))
            }
        }
    }

    fn write(&mut self, file: FileId, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file(file)?.write_all_at(bytes, at)
    }

    fn set_len(&mut self, file: FileId, len: u64) -> io::Result<()> {
        self.file(file)?.set_len(len)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Only things that are lost anyway; the next process would remove them.
        let _ = remove_all(&self.nameless);
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIR_MODE).create(path)
}

fn remove_all(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn lock(folder: &Mutex<Folder>) -> MutexGuard<'_, Folder> {
    folder.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    use super::*;

    const SECTOR: usize = 512;

    /// Tells the test below, run as a process of its own, where to write.
    const ROOT_OF_WRITER: &str = "NARU_TEST_LOSSY_WRITER";

    fn contents(path: &Path) -> Option<Vec<u8>> {
        fs::read(path).ok()
    }

    /// A process that syncs one thing, writes others, and waits to be killed.
    fn write_and_wait(root: &Path) {
        let disk = LossyDisk::open(root, 0).unwrap();
        let synced = disk.create_new("synced", Mode::Buffered).unwrap();
        synced.write_all_at(b"kept", 0).unwrap();
        synced.sync_data().unwrap();
        disk.sync_dir("").unwrap();
        synced.write_all_at(b"lost", 0).unwrap();
        let nameless = disk.create_new("nameless", Mode::Buffered).unwrap();
        nameless.write_all_at(b"lost", 0).unwrap();
        nameless.sync_data().unwrap();
        let mut both = [0; 4];
        synced.read_at(&mut both, 0).unwrap();
        assert_eq!(&both, b"lost", "reads see what was written");
        eprint!("written");
        let _ = std::io::stdin().read(&mut [0]);
    }

    #[test]
    fn a_killed_process_leaves_what_it_synced_and_may_lose_the_rest() {
        if let Some(root) = std::env::var_os(ROOT_OF_WRITER) {
            return write_and_wait(Path::new(&root));
        }
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("data");
        fs::create_dir(&root).unwrap();
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("disk::lossy::tests::a_killed_process_leaves_what_it_synced_and_may_lose_the_rest")
            .env(ROOT_OF_WRITER, &root)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = [0; 7];
        let mut stderr = writer.stderr.take().unwrap();
        stderr.read_exact(&mut said).unwrap();
        writer.kill().unwrap();
        writer.wait().unwrap();
        assert_eq!(&said, b"written");
        assert_eq!(contents(&root.join("synced")).unwrap(), b"kept");
        assert_eq!(contents(&root.join("nameless")), None);
        // The next process goes on where the power failed, and clears away what had no name.
        let disk = LossyDisk::open(&root, 2).unwrap();
        let names: Vec<_> = disk.list("").unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["synced"]);
        drop(disk);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn unsynced_sectors_and_names_survive_independently_of_each_other() {
        let mut seen = BTreeSet::new();
        for seed in 1..60 {
            let home = tempfile::tempdir().unwrap();
            let root = home.path().join("data");
            fs::create_dir(&root).unwrap();
            let disk = LossyDisk::open(&root, seed).unwrap();
            let file = disk.create_new("f", Mode::Buffered).unwrap();
            file.write_all_at(&[1; 3 * SECTOR], 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir("").unwrap();
            file.write_all_at(&[2; 3 * SECTOR], 0).unwrap();
            for name in ["a", "b"] {
                disk.create_new(name, Mode::Buffered).unwrap();
            }
            // Any operation gives the disk an opportunity.
            for _ in 0..12 {
                file.allocate(0, 1).unwrap();
            }
            let bytes = contents(&root.join("f")).unwrap();
            let sectors: Vec<u8> = bytes.chunks(SECTOR).map(|sector| sector[0]).collect();
            assert!(bytes.chunks(SECTOR).all(|s| s.iter().all(|byte| *byte == s[0])));
            seen.insert(sectors);
            seen.insert(["a", "b"].map(|name| u8::from(root.join(name).exists())).to_vec());
        }
        // Of three sectors nothing, all, and torn in the middle; of two names each alone.
        for outcome in [
            &[1, 1, 1][..],
            &[2, 2, 2],
            &[2, 1, 2],
            &[0, 0],
            &[1, 0],
            &[0, 1],
            &[1, 1],
        ] {
            assert!(seen.contains(outcome), "never {outcome:?}: {seen:?}");
        }
    }
}
