//! Disk errors that say what was done, to which file, and where. Knows nothing of what the files mean.

use std::io;

use thiserror::Error;

/// What a disk operation that failed was about; the inner error of the `io::Error` that is returned.
///
/// The `io::Error` around it has the kind of `cause`, with two exceptions: an exhausted quota is `StorageFull` like a full
/// disk, and a sync is never `StorageFull`. [`os_error`] finds the system's number.
#[derive(Debug, Error)]
#[error("{op} {path:?}{}: {cause}", position(*at))]
pub struct DiskError {
    /// The operation, as a verb: `write`, `sync`, `rename`.
    pub op: &'static str,
    /// The path, relative to the data directory.
    pub path: String,
    /// Position in the file in bytes, where the operation has one.
    pub at: Option<u64>,
    /// What the system said. Not an error source of its own, because the message already contains it.
    pub cause: io::Error,
}

/// The system's error number (`errno`) of an error from a [`Disk`](super::Disk), if it came from the system.
pub fn os_error(error: &io::Error) -> Option<i32> {
    error.raw_os_error().or_else(|| {
        let inner = error.get_ref()?.downcast_ref::<DiskError>()?;
        inner.cause.raw_os_error()
    })
}

/// Wraps `cause` so that it tells operation and path.
pub(super) fn failed(op: &'static str, path: &str, at: Option<u64>, cause: io::Error) -> io::Error {
    let kind = match cause.kind() {
        io::ErrorKind::QuotaExceeded => io::ErrorKind::StorageFull,
        kind => kind,
    };
    wrapped(kind, op, path, at, cause)
}

/// As [`failed`], for a sync. Never of the kind `StorageFull`, which callers try again: the system forgot what it could not
/// write, so a second sync would succeed and prove nothing. The system's number stays.
pub(super) fn sync_failed(op: &'static str, path: &str, cause: io::Error) -> io::Error {
    let kind = match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => io::ErrorKind::Other,
        kind => kind,
    };
    wrapped(kind, op, path, None, cause)
}

fn wrapped(
    kind: io::ErrorKind,
    op: &'static str,
    path: &str,
    at: Option<u64>,
    cause: io::Error,
) -> io::Error {
    let path = path.to_owned();
    io::Error::new(kind, DiskError { op, path, at, cause })
}

fn position(at: Option<u64>) -> String {
    at.map_or_else(String::new, |at| format!(" at {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_number_and_place_survive_wrapping() {
        let error = failed("write", "a/b", Some(4096), io::Error::from_raw_os_error(28));
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(os_error(&error), Some(28));
        assert!(
            error
                .to_string()
                .starts_with("write \"a/b\" at 4096: No space left")
        );
    }

    #[test]
    fn a_sync_that_finds_the_disk_full_is_not_to_be_repeated_and_a_quota_is_a_full_disk() {
        const NOSPC: i32 = 28;
        const DQUOT: i32 = 122;
        for errno in [NOSPC, DQUOT] {
            let error = sync_failed("sync", "a", io::Error::from_raw_os_error(errno));
            assert_eq!(error.kind(), io::ErrorKind::Other);
            assert_eq!(os_error(&error), Some(errno));
            let error = failed("write", "a", None, io::Error::from_raw_os_error(errno));
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        }
    }

    #[test]
    fn an_error_that_the_system_did_not_make_has_no_number() {
        let error = failed("open", "..", None, io::ErrorKind::InvalidInput.into());
        assert_eq!(os_error(&error), None);
        assert_eq!(error.to_string(), "open \"..\": invalid input parameter");
    }
}
