//! Huge pages only for a process that has large buffers to fill.
//!
//! The allocator asks for pages of 2 MiB wherever it can. They make copying large batches about a tenth faster, even where
//! every page was touched before. Of an idle broker, which uses little of each, they make more than half of its memory.

use std::sync::atomic::{AtomicBool, Ordering};

/// A buffer of so many bytes is worth huge pages.
const LARGE_BYTES: usize = 64 << 10;

/// A process that never called [`decline`] is left as it is.
static DECLINED: Declined = Declined(AtomicBool::new(false));

/// Takes memory in small pages from now on, until the first large buffer is made. For the start of a process.
pub fn decline() {
    DECLINED.0.store(switched_off(true), Ordering::Relaxed);
}

/// To be called before a buffer of so many bytes is made: the first large one ends what [`decline`] began.
pub(crate) fn expect_buffer(bytes: usize) {
    if DECLINED.ends_with(bytes) {
        switched_off(false);
    }
}

/// Whether huge pages are declined.
struct Declined(AtomicBool);

impl Declined {
    /// True once, for the first large buffer.
    fn ends_with(&self, bytes: usize) -> bool {
        bytes >= LARGE_BYTES && self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

/// Whether it could be done; where it cannot be, the system decides alone, and nothing but memory is lost.
#[cfg(target_os = "linux")]
fn switched_off(off: bool) -> bool {
    rustix::thread::disable_transparent_huge_pages(off).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn switched_off(_off: bool) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_declined_until_the_first_large_buffer() {
        let declined = Declined(AtomicBool::new(true));
        assert!(!declined.ends_with(LARGE_BYTES - 1));
        assert!(declined.ends_with(LARGE_BYTES));
        assert!(!declined.ends_with(LARGE_BYTES), "only once");
        let never = Declined(AtomicBool::new(false));
        assert!(!never.ends_with(LARGE_BYTES), "what was never declined stays");
    }
}
