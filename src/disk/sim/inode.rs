//! One simulated file without its name: what is cached, what is durable, and what a crash makes of the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::content::{Content, PAGE, SECTOR, SECTORS_PER_PAGE, sectors};
use super::rng::Rng;
use super::{DataKept, FailedSync};

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// What reads see: page cache and the disk's own cache together.
    pub(super) cached: Content,
    durable: Content,
    /// Sectors that were written or cut off since they were last synced: page number to a bit per sector.
    dirty: BTreeMap<u64, u8>,
    len_dirty: bool,
    /// A sync has failed, so the cache may show what is not on the medium although nothing is dirty.
    forgot: bool,
    /// Blocks that count against free space, reserved ones included.
    pub(super) allocated: Arc<BTreeSet<u64>>,
    durable_allocated: Arc<BTreeSet<u64>>,
    /// Sectors that cannot be read until they are written again.
    unreadable: BTreeSet<u64>,
    /// No name leads here any more, only handles.
    pub(super) unlinked: bool,
}

impl Inode {
    /// An inode whose content is durable already.
    pub(super) fn settled(content: Content) -> Self {
        let mut inode = Self::default();
        inode.settle(content);
        inode
    }

    /// Replaces everything by `content`, durably, with the reservations that were durable before.
    fn settle(&mut self, content: Content) {
        let mut blocks = BTreeSet::clone(&self.durable_allocated);
        blocks.extend(content.pages());
        self.allocated = Arc::new(blocks);
        self.durable_allocated = Arc::clone(&self.allocated);
        self.durable = content.clone();
        self.cached = content;
        self.dirty.clear();
        self.len_dirty = false;
        self.forgot = false;
    }

    /// Blocks of a range that are not allocated yet.
    pub(super) fn missing_blocks(&self, at: u64, len: u64) -> Vec<u64> {
        let blocks = at / PAGE..at.saturating_add(len).div_ceil(PAGE);
        blocks.filter(|block| !self.allocated.contains(block)).collect()
    }

    pub(super) fn allocate(&mut self, blocks: Vec<u64>) {
        if !blocks.is_empty() {
            Arc::make_mut(&mut self.allocated).extend(blocks);
        }
    }

    pub(super) fn write(&mut self, buf: &[u8], at: u64) {
        let end = at + buf.len() as u64;
        self.mark_dirty(at, end);
        self.len_dirty |= end > self.cached.len();
        self.cached.write(buf, at);
        // Only a sector that is written whole is remapped; a part of it would have to be read first.
        self.unreadable
            .retain(|&sector| sector * SECTOR < at || (sector + 1) * SECTOR > end);
    }

    /// Sets the length and returns how many blocks that frees.
    pub(super) fn set_len(&mut self, len: u64) -> usize {
        let old = self.cached.len();
        self.len_dirty |= len != old;
        self.cached.set_len(len);
        if len > old {
            return 0;
        }
        // Whatever grows back later is zeros; until the next sync the medium still holds the old bytes.
        self.mark_dirty(len, old);
        self.unreadable.split_off(&len.div_ceil(SECTOR));
        Arc::make_mut(&mut self.allocated)
            .split_off(&len.div_ceil(PAGE))
            .len()
    }

    pub(super) fn is_readable(&self, at: u64, len: u64) -> bool {
        let mut unreadable = self.unreadable.range(sectors(at, at.saturating_add(len)));
        unreadable.next().is_none()
    }

    pub(super) fn make_unreadable(&mut self, at: u64, len: u64) {
        self.unreadable.extend(sectors(at, at.saturating_add(len)));
    }

    /// Makes everything durable; returns the sectors that were not.
    pub(super) fn sync(&mut self) -> Vec<u64> {
        if self.len_dirty {
            self.durable.set_len(self.cached.len());
        }
        let reached = self.write_back(|_| true);
        self.len_dirty = false;
        self.durable_allocated = Arc::clone(&self.allocated);
        reached
    }

    /// A failed sync: some sectors got there, none is dirty any more, so the next sync finds nothing to do and says so.
    pub(super) fn fail_sync(&mut self, rng: &mut Rng, after: FailedSync) {
        self.durable = self.after_power_cut(rng, DataKept::Torn);
        self.dirty.clear();
        self.len_dirty = false;
        self.forgot = true;
        if after == FailedSync::Reverts {
            self.cached = self.durable.clone();
        }
    }

    /// A sync that says it has done everything and has not: nothing is dirty any more, and the medium has some of it. Returns
    /// the sectors that reached it.
    pub(super) fn sync_some(&mut self, rng: &mut Rng) -> Vec<u64> {
        if self.len_dirty {
            self.durable.set_len(self.cached.len());
        }
        let reached = self.write_back(|_| rng.quarters(2));
        self.dirty.clear();
        self.len_dirty = false;
        self.forgot = true;
        self.durable_allocated = Arc::clone(&self.allocated);
        reached
    }

    /// Lets chosen dirty sectors reach the medium; they are clean afterwards. Returns them.
    pub(super) fn write_back(&mut self, mut chosen: impl FnMut(u64) -> bool) -> Vec<u64> {
        let mut reached = Vec::new();
        let mut end = 0;
        for (page, bits) in std::mem::take(&mut self.dirty) {
            let mut left = 0;
            for sector in dirty_sectors(page, bits) {
                if chosen(sector) {
                    reached.push(sector);
                    end = (sector + 1) * SECTOR;
                } else {
                    left |= bit(sector);
                }
            }
            if left == 0 && bits == u8::MAX {
                self.durable.take_page(page, &self.cached);
            } else {
                for sector in dirty_sectors(page, bits & !left) {
                    self.durable.put_sector(sector, &self.cached.sector(sector));
                }
            }
            if left != 0 {
                self.dirty.insert(page, left);
            }
        }
        // A length that was cut off stays on the medium until the sync; a longer one arrives with its bytes.
        let len = self.durable.len().max(end.min(self.cached.len()));
        self.durable.set_len(len);
        reached
    }

    /// What is on the medium.
    #[cfg(any(test, feature = "test-faults"))]
    pub(super) fn durable(&self) -> &Content {
        &self.durable
    }

    /// Forgets cached pages that are clean, so that reads show what is really on the medium.
    pub(super) fn drop_cache(&mut self, at: u64, len: u64) {
        let first = at.div_ceil(PAGE);
        let end = at.saturating_add(len).min(self.cached.len()).div_ceil(PAGE);
        for page in first..end {
            if !self.dirty.contains_key(&page) {
                self.cached.take_page(page, &self.durable);
            }
        }
        self.cached.set_len(self.cached.len());
    }

    /// The content that a power cut leaves.
    pub(super) fn after_power_cut(&self, rng: &mut Rng, kept: DataKept) -> Content {
        match kept {
            DataKept::All => {
                // Not simply the cache: what a failed sync forgot is lost with it.
                let mut synced = self.clone();
                synced.sync();
                return synced.durable;
            }
            DataKept::None => return self.durable.clone(),
            DataKept::Torn | DataKept::Garbage => {}
        }
        let mut content = self.durable.clone();
        let quarters = rng.below(5);
        for sector in self
            .dirty
            .iter()
            .flat_map(|(&page, &bits)| dirty_sectors(page, bits))
        {
            let written = sector * SECTOR < self.cached.len();
            if written && kept == DataKept::Garbage && rng.below(8) == 0 {
                content.put_sector(sector, &std::array::from_fn(|_| rng.next().to_le_bytes()[0]));
            } else if rng.quarters(quarters) {
                content.put_sector(sector, &self.cached.sector(sector));
            }
        }
        content.set_len(self.choose_len(rng));
        content
    }

    /// Makes this inode what is found after a power cut, with nothing left to sync.
    pub(super) fn cut(self: &mut Arc<Self>, rng: &mut Rng, kept: DataKept) {
        if self.is_settled() {
            // Most files of a long run; shared with the original instead of copied.
            return;
        }
        let content = self.after_power_cut(rng, kept);
        let inode = Arc::make_mut(self);
        if kept == DataKept::All {
            inode.durable_allocated = Arc::clone(&inode.allocated);
        }
        inode.settle(content);
        inode.unlinked = false;
    }

    /// Whether a power cut would change nothing.
    fn is_settled(&self) -> bool {
        self.dirty.is_empty()
            && !self.len_dirty
            && !self.forgot
            && !self.unlinked
            && self.allocated == self.durable_allocated
    }

    /// Changes bytes on the medium and in the cache alike: damage that nobody wrote.
    pub(super) fn rot(&mut self, sector: u64, change: impl Fn(&mut [u8])) {
        for content in [&mut self.durable, &mut self.cached] {
            let mut bytes = content.sector(sector);
            change(&mut bytes);
            content.put_sector(sector, &bytes);
            content.set_len(content.len());
        }
    }

    fn choose_len(&self, rng: &mut Rng) -> u64 {
        let (durable, cached) = (self.durable.len(), self.cached.len());
        if !self.len_dirty {
            return durable;
        }
        let (low, high) = (durable.min(cached), durable.max(cached));
        match rng.below(4) {
            0 => durable,
            1 => cached,
            _ => {
                let len = low + rng.below(high - low + 1);
                (len / SECTOR * SECTOR).max(low)
            }
        }
    }

    fn mark_dirty(&mut self, at: u64, end: u64) {
        for sector in sectors(at, end) {
            *self.dirty.entry(sector / SECTORS_PER_PAGE).or_default() |= bit(sector);
        }
    }
}

fn bit(sector: u64) -> u8 {
    1 << (sector % SECTORS_PER_PAGE)
}

fn dirty_sectors(page: u64, bits: u8) -> impl Iterator<Item = u64> {
    (page * SECTORS_PER_PAGE..(page + 1) * SECTORS_PER_PAGE).filter(move |&sector| bits & bit(sector) != 0)
}
