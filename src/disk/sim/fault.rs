//! Faults that a test orders from the simulated disk.

use rustix::io::Errno;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A write fails with `EIO`; a part of it, cut between sectors, may have been done.
    WriteFails,
    /// A write or reservation fails with `ENOSPC`; nothing of it has been done.
    NoSpace,
    /// A write says that it was done and was not.
    WriteLost,
    /// A sync of a file fails with `EIO`: see [`FailedSync`](super::FailedSync).
    SyncFails,
    /// A sync of a directory fails with `EIO`; its changes stay visible, are not durable, and no later sync tries again.
    SyncDirFails,
    /// A creation, rename, removal or change of length fails with `EIO` and has no effect.
    ChangeFails,
    /// A read fails with `EIO`.
    ReadFails,
    /// A read is interrupted (`EINTR`).
    ReadInterrupted,
    /// A read returns less than was asked for and is there: at least one byte, in whole blocks for direct reads.
    ReadShort,
}

/// A fault and the operations that it strikes: those of its kind on paths that begin with `prefix`, without the first
/// `skip`, `times` in all.
///
/// A handle keeps the path under which it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// Beginning of the paths that are struck; `""` strikes all.
    pub prefix: String,
    /// How many such operations pass unharmed before.
    pub skip: u64,
    /// How many are struck in a row; [`u64::MAX`] for ever.
    pub times: u64,
}

impl Fault {
    /// The next such operation is struck, once.
    pub fn next(kind: FaultKind, prefix: &str) -> Self {
        Self {
            kind,
            prefix: prefix.to_owned(),
            skip: 0,
            times: 1,
        }
    }

    /// Lets `skip` operations pass before.
    #[must_use]
    pub fn after(self, skip: u64) -> Self {
        Self { skip, ..self }
    }

    /// Strikes `times` operations in a row.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }
}

/// The faults that are still to come.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        if fault.times > 0 {
            self.0.push(fault);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether an operation on `path` that can suffer `kind` is struck; counts it either way.
    pub(super) fn strikes(&mut self, kind: FaultKind, path: &str) -> bool {
        let mut struck = false;
        for fault in &mut self.0 {
            if fault.kind != kind || !path.starts_with(&fault.prefix) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if !struck {
                fault.times = fault.times.saturating_sub(1);
                struck = true;
            }
        }
        self.0.retain(|fault| fault.times > 0);
        struck
    }

    pub(super) fn check(&mut self, kind: FaultKind, path: &str, errno: Errno) -> Result<(), Errno> {
        if self.strikes(kind, path) {
            Err(errno)
        } else {
            Ok(())
        }
    }
}
