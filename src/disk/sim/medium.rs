//! What becomes durable on a simulated disk, for a medium behind it that other processes can see. Does not know what it is.

#[cfg(any(test, feature = "test-faults"))]
pub(in crate::disk) use super::tree::{DirId, FileId, NameOp, Node, ROOT};
#[cfg(any(test, feature = "test-faults"))]
pub(in crate::disk) use behind::Medium;

use super::tree;

/// Something that became durable.
#[derive(Clone, Debug)]
#[cfg_attr(
    not(any(test, feature = "test-faults")),
    expect(dead_code, reason = "only the disks of tests have a medium behind them")
)]
pub(super) enum Settled {
    Name(tree::NameOp),
    /// Sectors of a file, and its length.
    Sectors(tree::FileId, Vec<u64>),
}

/// The simulated disk as the front of a medium.
#[cfg(any(test, feature = "test-faults"))]
mod behind {
    use std::io;

    use super::Settled;
    use crate::disk::paths;
    use crate::disk::sim::content::SECTOR;
    use crate::disk::sim::state::State;
    use crate::disk::sim::tree::{DirId, FileId, NameOp};
    use crate::disk::sim::{SimDisk, lock};

    /// What takes over from the simulated disk whatever is durable there.
    pub(in crate::disk) trait Medium {
        /// A change of a name, after all those that it builds on.
        fn change_name(&mut self, change: &NameOp) -> io::Result<()>;

        /// Bytes of a file.
        fn write(&mut self, file: FileId, bytes: &[u8], at: u64) -> io::Result<()>;

        /// Length of a file; what is behind is gone, a gap reads as zeros.
        fn set_len(&mut self, file: FileId, len: u64) -> io::Result<()>;
    }

    impl SimDisk {
        /// From now on, what becomes durable is noted for [`settle_on`](Self::settle_on).
        pub(in crate::disk) fn note_what_settles(&self) {
            self.state().settled = Some(Vec::new());
        }

        /// Gives a medium what became durable since the last time.
        pub(in crate::disk) fn settle_on(&self, medium: &mut impl Medium) -> io::Result<()> {
            let mut state = lock(&self.shared.state);
            let Some(settled) = state.settled.as_mut().map(std::mem::take) else {
                return Ok(());
            };
            for durable in settled {
                match durable {
                    Settled::Name(change) => medium.change_name(&change)?,
                    // A file that nobody can reach any more needs no bytes.
                    Settled::Sectors(id, sectors) if state.has(id) => {
                        settle_sectors(&state, id, &sectors, medium)?;
                    }
                    Settled::Sectors(..) => {}
                }
            }
            Ok(())
        }

        /// Random sectors of a file become durable before anybody has asked for it.
        pub(in crate::disk) fn write_back_file(&self, id: FileId) {
            let mut state = self.state();
            if state.options.write_back {
                let quarters = state.rng.below(5);
                state.write_back_some_of(id, quarters);
            }
        }

        /// A random change of a name becomes durable before anybody has asked for it.
        pub(in crate::disk) fn write_back_name(&self) {
            let mut state = self.state();
            if state.options.write_back {
                state.write_back_a_name();
            }
        }

        pub(in crate::disk) fn file_id(&self, path: &str) -> io::Result<FileId> {
            self.state().find_file(path)
        }

        pub(in crate::disk) fn dir_id(&self, path: &str) -> io::Result<DirId> {
            Ok(self.state().tree.dir(&paths::names(path)?)?)
        }

        /// Whether a name or a handle leads to this file, or a power cut could bring a name back.
        pub(in crate::disk) fn has_file(&self, id: FileId) -> bool {
            self.state().has(id)
        }
    }

    fn settle_sectors(
        state: &State,
        id: FileId,
        sectors: &[u64],
        medium: &mut impl Medium,
    ) -> io::Result<()> {
        let content = state.view(id).durable();
        for run in sectors.chunk_by(|one, next| one + 1 == *next) {
            let mut bytes = vec![0; run.len() * SECTOR_BYTES];
            let at = run[0] * SECTOR;
            let there = content.read(&mut bytes, at);
            medium.write(id, &bytes[..there], at)?;
        }
        medium.set_len(id, content.len())
    }

    const SECTOR_BYTES: usize = 512;
    const _: () = assert!(SECTOR_BYTES as u64 == SECTOR);
}
