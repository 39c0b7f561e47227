//! How bad a power cut or a failed sync may be.

/// What survives a power cut of that which was not synced. What was synced survives always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutProfile {
    /// A journalling file system: of each directory the first changes of names, up to a random one. Of each file any
    /// sectors of 512 bytes, independently of each other, and any length between the durable and the last one.
    Ext4,
    /// What POSIX allows: any changes of names, but none of a name whose earlier change is lost. Files as in `Ext4`.
    Posix,
    /// As `Posix`, and an un-synced sector may also hold neither the old nor the new bytes.
    Nasty,
    /// Nothing survives.
    DropAll,
    /// Everything survives.
    KeepAll,
}

impl CutProfile {
    /// All profiles, for tests that try each.
    pub const ALL: [Self; 5] = [Self::Ext4, Self::Posix, Self::Nasty, Self::DropAll, Self::KeepAll];

    pub(super) fn parts(self) -> (NamesKept, DataKept) {
        match self {
            Self::Ext4 => (NamesKept::Prefix, DataKept::Torn),
            Self::Posix => (NamesKept::Subset, DataKept::Torn),
            Self::Nasty => (NamesKept::Subset, DataKept::Garbage),
            Self::DropAll => (NamesKept::None, DataKept::None),
            Self::KeepAll => (NamesKept::All, DataKept::All),
        }
    }
}

/// What reads show after a failed sync. Some of the sectors have reached the medium either way, none is tried again, and
/// the next sync succeeds: only what is written anew will be synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedSync {
    /// The new bytes, until [`DiskFile::drop_cache`](crate::disk::DiskFile::drop_cache) or a power cut (ext4, XFS).
    KeepsCache,
    /// What is on the medium (Btrfs).
    Reverts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NamesKept {
    None,
    Prefix,
    Subset,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataKept {
    None,
    Torn,
    Garbage,
    All,
}
