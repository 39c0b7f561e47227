//! A handle on a file of the simulated disk.

use std::io;

use super::tree::FileId;
use super::{Op, SimDisk};
use crate::disk::error::{failed, sync_failed};
use crate::disk::{BLOCK_BYTES, DiskFile, Mode, check_alignment};

#[derive(Debug)]
pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) id: FileId,
    pub(super) path: String,
    /// What it really is: buffered where the disk does not support direct.
    pub(super) mode: Mode,
}

impl SimFile {
    fn is_direct(&self) -> bool {
        self.mode == Mode::Direct
    }

    fn failed(&self, op: &'static str, at: Option<u64>) -> impl Fn(io::Error) -> io::Error {
        move |e| failed(op, &self.path, at, e)
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().view(self.id).cached.len())
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut read = || {
            check_alignment(self.is_direct(), buf, at)?;
            let mut state = self.disk.state();
            let unit = if self.is_direct() { BLOCK_BYTES } else { 1 };
            let limit = state.read_limit(&self.path, buf.len(), unit);
            state.read(self.id, &self.path, &mut buf[..limit], at)
        };
        read().map_err(self.failed("read", Some(at)))
    }

    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        let (id, path) = (self.id, &*self.path);
        self.disk.begin(&Op::Write { path, at, data: buf });
        check_alignment(self.is_direct(), buf, at)
            .and_then(|()| self.disk.state().write(id, path, self.mode, buf, at))
            .map_err(self.failed("write", Some(at)))
    }

    fn sync_data(&self) -> io::Result<()> {
        let (id, path) = (self.id, &*self.path);
        self.disk.begin(&Op::Sync { path });
        let result = self.disk.state().sync_data(id, path);
        result.map_err(|e| sync_failed("sync", path, e))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (id, path) = (self.id, &*self.path);
        self.disk.begin(&Op::SetLen { path, len });
        let result = self.disk.state().set_len(id, path, len);
        result.map_err(self.failed("set length", Some(len)))
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        let (id, path) = (self.id, &*self.path);
        self.disk.begin(&Op::Allocate { path, at, len });
        let result = self.disk.state().allocate(id, path, at, len);
        result.map_err(self.failed("allocate", Some(at)))
    }

    fn drop_cache(&self, at: u64, len: u64) -> io::Result<()> {
        self.disk.state().inode(self.id).drop_cache(at, len);
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.state().close(self.id);
    }
}
