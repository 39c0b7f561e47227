//! `naru log`: looks into a data directory while no broker uses it. Changes nothing.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _};
use std::path::Path;

use clap::Subcommand;

use super::failure::{Exit, Failure, Outcome};
use super::offline::Offline;
use super::{Context, log_dump, log_verify};
use crate::storage::local::inspect::{InspectError, LOCK_FILE};

/// A process id has fewer digits.
const PID_BYTES_MAX: u64 = 16;

/// Commands below `log`.
#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Say whether everything in a data directory is whole: exit code 8 if not. Changes nothing.
    Verify(log_verify::VerifyArgs),
    /// Show what a file of a data directory holds: a segment, an index, a journal file, a checkpoint.
    Dump(log_dump::DumpArgs),
}

pub(crate) async fn run(command: LogCommand, context: &Context, offline: Offline) -> Outcome {
    let context = context.clone();
    // Reading blocks; a signal has to end the command all the same.
    let work = tokio::task::spawn_blocking(move || match command {
        LogCommand::Verify(args) => log_verify::run(&args, &context, offline),
        LogCommand::Dump(args) => log_dump::run(&args, &context),
    });
    work.await.unwrap_or_else(|e| {
        Err(Failure::unexpected(format!("looking into the directory failed: {e}")).into())
    })
}

/// Keeps a broker from starting on the directory for as long as the returned file is open. A copy of a directory may have no
/// lock file; nothing is held then.
pub(super) fn hold(dir: &Path) -> Result<Option<File>, Failure> {
    let path = dir.join(LOCK_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(cannot_read(&path, &e)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only for the message.
            let _ = (&file).take(PID_BYTES_MAX).read_to_string(&mut pid);
            let who = match pid.trim() {
                "" => "a broker".to_owned(),
                pid => format!("the broker with process id {pid}"),
            };
            let message = format!("{} is in use by {who}", dir.display());
            Err(Failure::new(Exit::Conflict, "DATA_DIR_IN_USE", message)
                .hint("what a running broker writes is never whole: stop it first, or look at a copy of the directory"))
        }
        Err(TryLockError::Error(e)) => {
            let message = format!("cannot tell whether a broker uses {}: {e}", dir.display());
            Err(Failure::unexpected(message))
        }
    }
}

/// A file or directory that is not there or may not be read.
pub(super) fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot read {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::NotFound => Failure::new(Exit::NotFound, "NOT_FOUND", message),
        io::ErrorKind::PermissionDenied => Failure::new(Exit::Permission, "PERMISSION_DENIED", message)
            .hint("run this as the user whose broker wrote the directory"),
        io::ErrorKind::NotADirectory => Failure::usage(message),
        _ => Failure::unexpected(message),
    }
}

/// Why there is no verdict on a directory.
pub(super) fn no_verdict(dir: &Path, error: &InspectError) -> Failure {
    let message = format!("{}: {error}", dir.display());
    match error {
        InspectError::NotADataDirectory | InspectError::NeverUsed => {
            Failure::new(Exit::NotFound, "NOT_A_DATA_DIRECTORY", message)
                .hint("name the directory that `naru serve --data-dir` was given")
        }
        InspectError::Newer(_) => Failure::new(Exit::Conflict, "NEWER_FORMAT", message)
            .hint("use the naru that wrote the directory, or a newer one"),
        InspectError::Io(e) => cannot_read(dir, e),
    }
}
