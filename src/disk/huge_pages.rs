//! Huge pages only for a process that has large buffers to fill, and while it has.
//!
//! The allocator asks for pages of 2 MiB wherever it can. They make copying large batches about a tenth faster, even where
//! every page was touched before. Of an idle broker, which uses little of each, they make more than half of its memory. And
//! who takes small records pays for them with its slowest ones: the first touch of such a page zeroes all of it, which takes
//! milliseconds where a hypervisor has to find the memory, and the thread that touches it does nothing else meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A buffer of so many bytes is worth huge pages,
const LARGE_BYTES: usize = 64 << 10;

/// if so many bytes of such buffers are needed
const MANY_BYTES: u64 = 32 << 20;

/// in so long, from look to look: a window ends with the first look behind that, so it may be longer. A single one is not: after
/// a stall small records come in large groups, too.
const WINDOW: Duration = Duration::from_secs(1);

/// A process that never called [`decline`] is left as it is.
static PROCESS: Pages = Pages::new();

/// Takes memory in small pages from now on, while few large buffers are needed. For the start of a process.
pub fn decline() {
    if switched_off(true) {
        PROCESS.begin_declined();
    }
}

/// To be called before a buffer of so many bytes is filled: many large ones end what [`decline`] began.
pub(crate) fn expect_buffer(bytes: usize) {
    if PROCESS.must_take(bytes) {
        switched_off(false);
    }
}

/// To be called about every second, or more often, with the time: declines again once few large buffers are needed.
pub(crate) fn look(now: Duration) {
    if PROCESS.must_decline(now) {
        switched_off(true);
    }
}

/// Whether huge pages are declined, and how much would be worth them.
struct Pages {
    managed: AtomicBool,
    declined: AtomicBool,
    /// Bytes of large buffers needed in this window.
    bytes: AtomicU64,
    /// When the window began, in nanoseconds.
    began: AtomicU64,
}

impl Pages {
    const fn new() -> Self {
        Self {
            managed: AtomicBool::new(false),
            declined: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            began: AtomicU64::new(0),
        }
    }

    fn begin_declined(&self) {
        self.declined.store(true, Ordering::Relaxed);
        self.managed.store(true, Ordering::Relaxed);
    }

    /// True once, when many large buffers are needed after all.
    fn must_take(&self, bytes: usize) -> bool {
        if bytes < LARGE_BYTES || !self.managed.load(Ordering::Relaxed) {
            return false;
        }
        let bytes = bytes as u64;
        let all = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        all >= MANY_BYTES
            && self.declined.load(Ordering::Relaxed)
            && self.declined.swap(false, Ordering::Relaxed)
    }

    /// Ends the window if it is over. True if huge pages are to be declined again.
    fn must_decline(&self, now: Duration) -> bool {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let lasted = now.saturating_sub(self.began.load(Ordering::Relaxed));
        if !self.managed.load(Ordering::Relaxed) || u128::from(lasted) < WINDOW.as_nanos() {
            return false;
        }
        self.began.store(now, Ordering::Relaxed);
        self.bytes.swap(0, Ordering::Relaxed) < MANY_BYTES && !self.declined.swap(true, Ordering::Relaxed)
    }
}

/// Whether it could be done; where it cannot be, the system decides alone, and nothing but memory and time is lost.
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

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn huge_pages_are_declined_until_many_large_buffers_are_needed_and_again_when_there_are_few() {
        let pages = Pages::new();
        pages.begin_declined();
        let many = usize::try_from(MANY_BYTES).unwrap() / LARGE_BYTES;
        let times = |count: usize, bytes| (0..count).filter(|_| pages.must_take(bytes)).count();
        assert_eq!(times(10 * many, LARGE_BYTES - 1), 0, "small ones");
        assert_eq!(times(many - 1, LARGE_BYTES), 0, "few");
        assert!(
            !pages.must_decline(at(10_000)),
            "they are declined, and a window ends"
        );
        assert_eq!(times(many - 1, LARGE_BYTES), 0, "few again");
        assert!(!pages.must_decline(at(10_999)), "the window goes on");
        assert_eq!(times(2, LARGE_BYTES), 1, "many, and only once");
        assert!(!pages.must_decline(at(11_000)), "many in this window");
        assert_eq!(times(many - 1, LARGE_BYTES), 0, "taken already");
        assert!(pages.must_decline(at(12_500)), "few in this one");
        assert!(!pages.must_decline(at(20_000)), "only once");
        assert_eq!(times(many, LARGE_BYTES), 1, "and so on");
    }

    #[test]
    fn a_process_that_never_declined_is_left_as_it_is() {
        let pages = Pages::new();
        assert!(!pages.must_take(usize::try_from(MANY_BYTES).unwrap()));
        assert!(!pages.must_decline(at(10_000)));
    }
}
