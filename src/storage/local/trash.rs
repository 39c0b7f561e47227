//! Removing the files of deleted topics and of segments that are not needed any more, a little at a time: unlinking a large file at once stalls the journal's syncs.

use std::collections::{BTreeSet, VecDeque};
use std::io;

use super::checkpoint::Retired;
use super::paths;
use crate::disk::{Disk, Mode};
use crate::model::TopicId;

/// A file is cut by so much in one step.
const STEP_BYTES: u64 = 16 << 20;

/// What is still to be removed.
#[derive(Debug, Default)]
pub(super) struct Trash {
    files: VecDeque<String>,
    dirs: VecDeque<String>,
}

impl Trash {
    /// Takes over what an earlier life left in the trash.
    pub(super) fn open(disk: &dyn Disk) -> io::Result<Self> {
        let mut trash = Self::default();
        for entry in disk.list(paths::TRASH)? {
            trash.collect(disk, &format!("{}/{}", paths::TRASH, entry.name), entry.is_dir)?;
        }
        Ok(trash)
    }

    /// Whether anything is left to do.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.dirs.is_empty()
    }

    /// Moves deleted topics out of the way. Their deletion is in a durable checkpoint.
    pub(super) fn take_in(&mut self, disk: &dyn Disk, topics: &[TopicId]) -> io::Result<()> {
        for topic in topics {
            let aside = format!("{}/{topic}", paths::TRASH);
            match disk.rename(&paths::topic(*topic), &aside) {
                Ok(()) => self.collect(disk, &aside, true)?,
                // A topic without records never had a directory.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        if !topics.is_empty() {
            disk.sync_dir(paths::TOPICS)?;
            disk.sync_dir(paths::TRASH)?;
        }
        Ok(())
    }

    /// Moves segments out of the way that neither checkpoint names.
    pub(super) fn take_in_segments(&mut self, disk: &dyn Disk, segments: &[Retired]) -> io::Result<()> {
        for (key, base) in segments {
            for path in [paths::segment(*key, *base), paths::index(*key, *base)] {
                let name = path.rsplit('/').next().unwrap_or(&path);
                let aside = format!("{}/{}-{}-{name}", paths::TRASH, key.topic, key.partition);
                match disk.rename(&path, &aside) {
                    Ok(()) => self.files.push_back(aside),
                    // Its topic was deleted meanwhile, or a crash came between the two.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
        }
        let dirs: BTreeSet<_> = segments.iter().map(|(key, _)| paths::partition(*key)).collect();
        for dir in &dirs {
            disk.sync_dir(dir)?;
        }
        if !dirs.is_empty() {
            disk.sync_dir(paths::TRASH)?;
        }
        Ok(())
    }

    fn collect(&mut self, disk: &dyn Disk, path: &str, is_dir: bool) -> io::Result<()> {
        if !is_dir {
            self.files.push_back(path.to_owned());
            return Ok(());
        }
        for entry in disk.list(path)? {
            self.collect(disk, &format!("{path}/{}", entry.name), entry.is_dir)?;
        }
        self.dirs.push_back(path.to_owned());
        Ok(())
    }

    /// One step of removing.
    pub(super) fn round(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if let Some(path) = self.files.front() {
            let file = disk.open(path, Mode::Buffered)?;
            let len = file.len()?;
            if len > STEP_BYTES {
                return file.set_len(len - STEP_BYTES);
            }
            disk.unlink(path)?;
            self.files.pop_front();
        } else if let Some(dir) = self.dirs.pop_front() {
            disk.rmdir(&dir)?;
        }
        Ok(())
    }
}
