//! Faults that a test orders from the simulated disk.

use rustix::io::Errno;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A write fails with `EIO`; a part of it, cut between sectors, may have been done.
    WriteFails,
    /// A write fails with `ENOSPC`; nothing of it has been done.
    NoSpace,
    /// A write fails with `ENOSPC` after a part of it, cut between sectors.
    NoSpaceMidway,
    /// A reservation fails with `ENOSPC`.
    AllocateNoSpace,
    /// A write says that it was done and was not.
    WriteLost,
    /// A write says that it was done, and has overwritten a page elsewhere: in the same file or in another one.
    WriteMisdirected,
    /// A sync of a file fails with `EIO`: see [`FailedSync`](super::FailedSync).
    SyncFails,
    /// As `SyncFails`, with `ENOSPC`: the file system chose the place only now, and there was none.
    SyncNoSpace,
    /// A sync says that all is durable, and of the sectors only some are. The cache shows all of them until it is dropped.
    SyncLies,
    /// A sync of a directory fails with `EIO`; its changes stay visible, are not durable, and no later sync tries again.
    SyncDirFails,
    /// As `SyncDirFails`, with `ENOSPC`.
    SyncDirNoSpace,
    /// A creation, rename, removal or change of length fails with `EIO` and has no effect.
    ChangeFails,
    /// A creation or rename fails with `ENOSPC` and has no effect.
    ChangeNoSpace,
    /// A read fails with `EIO`.
    ReadFails,
    /// A read is interrupted (`EINTR`).
    ReadInterrupted,
    /// A read returns less than was asked for and is there: at least one byte, in whole blocks for direct reads.
    ReadShort,
}

/// What may be asked of whoever meets a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultClass {
    /// The disk said so: nothing that was acknowledged may be lost.
    Survive,
    /// The disk lied or forgot: what was acknowledged may be lost, and not in silence.
    Detect,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 16] = [
        Self::WriteFails,
        Self::NoSpace,
        Self::NoSpaceMidway,
        Self::AllocateNoSpace,
        Self::WriteLost,
        Self::WriteMisdirected,
        Self::SyncFails,
        Self::SyncNoSpace,
        Self::SyncLies,
        Self::SyncDirFails,
        Self::SyncDirNoSpace,
        Self::ChangeFails,
        Self::ChangeNoSpace,
        Self::ReadFails,
        Self::ReadInterrupted,
        Self::ReadShort,
    ];

    /// Whether it must be survived or only detected. Damage at rest ([`SimDisk::flip_bit`](super::SimDisk::flip_bit) and
    /// its kin) must be detected.
    pub fn class(self) -> FaultClass {
        match self {
            Self::WriteLost | Self::WriteMisdirected | Self::SyncLies => FaultClass::Detect,
            Self::WriteFails
            | Self::NoSpace
            | Self::NoSpaceMidway
            | Self::AllocateNoSpace
            | Self::SyncFails
            | Self::SyncNoSpace
            | Self::SyncDirFails
            | Self::SyncDirNoSpace
            | Self::ChangeFails
            | Self::ChangeNoSpace
            | Self::ReadFails
            | Self::ReadInterrupted
            | Self::ReadShort => FaultClass::Survive,
        }
    }
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

/// A fault that struck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// What went wrong.
    pub kind: FaultKind,
    /// The file or directory that the operation was on.
    pub path: String,
    /// Where a misdirected write went, if it went anywhere: file and position.
    pub landed: Option<(String, u64)>,
}

/// The faults that are still to come, and those that struck.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    ordered: Vec<Fault>,
    pub(super) struck: Vec<Strike>,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        if fault.times > 0 {
            self.ordered.push(fault);
        }
    }

    pub(super) fn are_ordered(&self, kind: FaultKind) -> bool {
        self.ordered.iter().any(|fault| fault.kind == kind)
    }

    pub(super) fn clear(&mut self) {
        self.ordered.clear();
    }

    /// Whether an operation on `path` that can suffer `kind` is struck; counts it either way.
    pub(super) fn strikes(&mut self, kind: FaultKind, path: &str) -> bool {
        let mut struck = false;
        for fault in &mut self.ordered {
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
        self.ordered.retain(|fault| fault.times > 0);
        if struck {
            self.struck.push(Strike {
                kind,
                path: path.to_owned(),
                landed: None,
            });
        }
        struck
    }

    pub(super) fn check(&mut self, kind: FaultKind, path: &str, errno: Errno) -> Result<(), Errno> {
        if self.strikes(kind, path) {
            Err(errno)
        } else {
            Ok(())
        }
    }

    /// The error of the first of these kinds that strikes.
    pub(super) fn check_each(&mut self, kinds: &[(FaultKind, Errno)], path: &str) -> Result<(), Errno> {
        kinds
            .iter()
            .try_for_each(|(kind, errno)| self.check(*kind, path, *errno))
    }
}
