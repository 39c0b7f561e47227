//! One broker per data directory: a lock on the file `LOCK`, which also says whose it is.
//!
//! The kernel gives the lock back when the process ends, however it ends, so a stale file never stands in the way.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tracing::warn;

use super::ServeError;

const NAME: &str = "LOCK";
/// A process id has fewer digits.
const PID_BYTES_MAX: u64 = 16;

/// The lock on a data directory; given back when dropped.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
    dir: PathBuf,
    made: bool,
}

impl DirectoryLock {
    /// Makes the directory if it is missing, for this user alone, and locks it. A symbolic link is followed here and
    /// never again: whoever turns it elsewhere later moves neither the lock nor the data.
    ///
    /// # Errors
    /// `InUse` with the process id of the other broker; `DataDir` if it cannot be made or written.
    pub(crate) fn take(dir: &Path) -> Result<Self, ServeError> {
        let real = || make(dir).and_then(|()| dir.canonicalize());
        real().and_then(Self::open).map_or_else(
            |source| {
                Err(ServeError::DataDir {
                    dir: dir.to_owned(),
                    source,
                })
            },
            |opened| {
                opened.map_err(|pid| ServeError::InUse {
                    dir: dir.to_owned(),
                    pid,
                })
            },
        )
    }

    /// The lock, or the process id of who has it.
    fn open(dir: PathBuf) -> io::Result<Result<Self, Option<u32>>> {
        let path = dir.join(NAME);
        let made = !path.try_exists()?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(of_the_lock)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Err(read_pid(&file))),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Written over, not anew: on a full disk that needs no space, and whoever finds no number there is only told less.
        let pid = format!("{}\n", std::process::id());
        match file
            .write_all(pid.as_bytes())
            .and_then(|()| file.set_len(pid.len() as u64))
        {
            Err(error) if !is_full(&error) => return Err(error),
            _ => {}
        }
        Ok(Ok(Self {
            _file: file,
            dir,
            made,
        }))
    }

    /// The directory itself, where the link pointed if it was one.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves a directory that turned out not to be ours as it was found.
    pub(crate) fn withdraw(self) {
        if self.made {
            // The refusal is what the operator has to hear; a file left behind is harmless.
            let _ = fs::remove_file(self.dir.join(NAME));
        }
    }
}

fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mode = fs::metadata(dir)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        warn!(
            event = "data_dir_permissions",
            data_dir = %dir.display(),
            mode = format!("{mode:o}"),
            "other users of this machine may look into the data directory; chmod 700 keeps them out"
        );
    }
    Ok(())
}

/// Whoever is to mend it has to know which file it is.
fn of_the_lock(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{NAME}: {error}"))
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn read_pid(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_no_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(NAME)).unwrap();
        let refused = DirectoryLock::take(dir.path()).unwrap_err();
        assert!(refused.to_string().contains(": LOCK: "), "{refused}");
    }

    #[test]
    fn a_second_lock_names_the_process_that_has_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b");
        let first = DirectoryLock::take(&data).unwrap();
        let mode = fs::metadata(&data).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let error = DirectoryLock::take(&data).unwrap_err();
        assert!(
            matches!(&error, ServeError::InUse { pid: Some(pid), .. } if *pid == std::process::id()),
            "{error}"
        );
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains(&std::process::id().to_string()));
        drop(first);
        assert!(DirectoryLock::take(&data).is_ok());
    }

    #[test]
    fn a_directory_that_is_not_ours_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        DirectoryLock::take(dir.path()).unwrap().withdraw();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fs::write(dir.path().join(NAME), "7").unwrap();
        DirectoryLock::take(dir.path()).unwrap().withdraw();
        assert!(dir.path().join(NAME).exists());
    }

    #[test]
    fn a_link_is_followed_once() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        let link = dir.path().join("link");
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        let lock = DirectoryLock::take(&link).unwrap();
        assert_eq!(lock.dir(), real);
        let second = DirectoryLock::take(&real).unwrap_err();
        assert!(matches!(second, ServeError::InUse { .. }), "{second}");
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        lock.withdraw();
        assert_eq!(fs::read_dir(&real).unwrap().count(), 0);
        let dangling = DirectoryLock::take(&link).unwrap_err();
        assert!(matches!(dangling, ServeError::DataDir { .. }), "{dangling}");
    }

    #[test]
    fn a_file_in_place_of_the_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "").unwrap();
        let error = DirectoryLock::take(&path).unwrap_err();
        assert!(matches!(error, ServeError::DataDir { .. }), "{error}");
    }
}
