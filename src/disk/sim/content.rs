//! The bytes of a simulated file: sparse pages, shared between images until one of them writes. Knows no durability.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Unit of allocation.
pub(super) const PAGE: u64 = 4096;
/// Unit that reaches the medium whole or not at all.
pub(super) const SECTOR: u64 = 512;
pub(super) const SECTORS_PER_PAGE: u64 = PAGE / SECTOR;

const PAGE_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;

type Page = [u8; PAGE_BYTES];
pub(super) type Sector = [u8; SECTOR_BYTES];

/// Invariant: bytes at and behind `len` are zero, so that growing shows zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pages: BTreeMap<u64, Arc<Page>>,
    len: u64,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Numbers of the pages that hold data.
    pub(super) fn pages(&self) -> impl Iterator<Item = u64> {
        self.pages.keys().copied()
    }

    /// Copies what is there from `at`; returns how much that is.
    pub(super) fn read(&self, buf: &mut [u8], at: u64) -> usize {
        let there = self.len.saturating_sub(at);
        let take = usize::try_from(there).map_or(buf.len(), |there| there.min(buf.len()));
        for (page, inside, part) in pieces(at, take) {
            match self.pages.get(&page) {
                Some(bytes) => buf[part].copy_from_slice(&bytes[inside]),
                None => buf[part].fill(0),
            }
        }
        take
    }

    pub(super) fn write(&mut self, buf: &[u8], at: u64) {
        for (page, inside, part) in pieces(at, buf.len()) {
            let bytes = self.pages.entry(page).or_insert_with(zero_page);
            Arc::make_mut(bytes)[inside].copy_from_slice(&buf[part]);
        }
        if !buf.is_empty() {
            self.len = self.len.max(at + buf.len() as u64);
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.len = len;
        self.pages.split_off(&len.div_ceil(PAGE));
        if let Some(bytes) = self.pages.get_mut(&(len / PAGE)) {
            Arc::make_mut(bytes)[to_index(len % PAGE)..].fill(0);
        }
    }

    pub(super) fn sector(&self, number: u64) -> Sector {
        let mut sector = [0; SECTOR_BYTES];
        if let Some(bytes) = self.pages.get(&(number / SECTORS_PER_PAGE)) {
            sector.copy_from_slice(&bytes[sector_range(number)]);
        }
        sector
    }

    /// Sets one sector without changing the length; a caller that goes behind the end calls `set_len` afterwards.
    pub(super) fn put_sector(&mut self, number: u64, sector: &Sector) {
        let bytes = self
            .pages
            .entry(number / SECTORS_PER_PAGE)
            .or_insert_with(zero_page);
        Arc::make_mut(bytes)[sector_range(number)].copy_from_slice(sector);
    }

    /// Takes a whole page from `other` without copying it; the length stays.
    pub(super) fn take_page(&mut self, page: u64, other: &Self) {
        match other.pages.get(&page) {
            Some(bytes) => self.pages.insert(page, Arc::clone(bytes)),
            None => self.pages.remove(&page),
        };
    }
}

/// Sectors that a range of bytes touches.
pub(super) fn sectors(at: u64, end: u64) -> Range<u64> {
    if at < end {
        at / SECTOR..end.div_ceil(SECTOR)
    } else {
        0..0
    }
}

/// Cuts `len` bytes from `at` into pages: number, range inside the page, range inside the buffer.
fn pieces(at: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let position = at + done as u64;
        let inside = to_index(position % PAGE);
        let count = (PAGE_BYTES - inside).min(len - done);
        let part = done..done + count;
        done += count;
        Some((position / PAGE, inside..inside + count, part))
    })
}

fn sector_range(number: u64) -> Range<usize> {
    let start = to_index(number % SECTORS_PER_PAGE) * SECTOR_BYTES;
    start..start + SECTOR_BYTES
}

fn to_index(inside_page: u64) -> usize {
    usize::try_from(inside_page).expect("a position inside a page is small")
}

fn zero_page() -> Arc<Page> {
    Arc::new([0; PAGE_BYTES])
}
