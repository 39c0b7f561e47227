//! The generator behind every choice of the simulated disk: splitmix64, so that a seed gives the same run everywhere.

use super::content::SECTOR;

/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..end`; `end` is positive. The slight bias towards small numbers does not matter here.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True in `quarters` of four cases.
    pub(super) fn quarters(&mut self, quarters: u64) -> bool {
        self.below(4) < quarters
    }

    /// A whole number of sectors below `len`: how far a write came before it stopped.
    pub(super) fn cut_point(&mut self, len: usize) -> usize {
        let sectors = (len as u64).div_ceil(SECTOR);
        let done = if sectors == 0 { 0 } else { self.below(sectors) };
        usize::try_from(done * SECTOR).unwrap_or(len)
    }
}
