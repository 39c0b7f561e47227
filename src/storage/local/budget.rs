//! Admission: three budgets that a permit is taken from before any state is looked at.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::reserve::Reserve;
use crate::rt::BoxFuture;
use crate::storage::{Backpressure, Class, Permit, PermitOwner};

#[derive(Clone, Copy, Debug, Default)]
struct Inner {
    /// Bytes admitted and not yet applied to the segments: they sit in memory and will need disk.
    admitted: u64,
    /// The part of `admitted` that is not yet written to the journal.
    unwritten: u64,
    /// Bytes that the journal can still take before a checkpoint must free a file.
    journal_free: u64,
    /// Bytes of the journal files that exist.
    journal_total: u64,
    /// Free bytes of the disk when last asked.
    disk_free: u64,
    /// Bytes that journal files still to be made will need.
    disk_claimed: u64,
    /// Produce was refused for want of disk, and is until there is room and some more.
    disk_full: bool,
}

/// The budgets of an engine.
#[derive(Debug)]
pub(super) struct Budget {
    inner: Mutex<Inner>,
    freed: Arc<Notify>,
    memory_max: u64,
    reserve: u64,
    step_bytes_max: u64,
}

/// How much of a budget a class may use, of eight.
fn share(class: Class, total: u64) -> u64 {
    match class {
        Class::Produce => total / 8 * 7,
        Class::Internal => total,
    }
}

impl Budget {
    pub(super) fn new(memory_max: u64, reserve: u64, step_bytes_max: u32) -> Self {
        let inner = Mutex::new(Inner::default());
        Self {
            inner,
            freed: Arc::new(Notify::new()),
            memory_max,
            reserve,
            step_bytes_max: u64::from(step_bytes_max),
        }
    }

    /// Bytes that a permit really takes: a batch in a group of its own fills a block of the journal, and one of its
    /// segment.
    fn cost(bytes: u64) -> u64 {
        bytes.next_multiple_of(4096).max(4096)
    }

    /// Admits `bytes`, or says what is short.
    pub(super) fn permit(self: &Arc<Self>, bytes: u64, class: Class) -> Result<Permit, Backpressure> {
        if bytes > self.step_bytes_max {
            return Err(Backpressure::TooLarge {
                bytes,
                max: self.step_bytes_max,
            });
        }
        let cost = Self::cost(bytes);
        let mut inner = self.inner.lock().expect("no panics while locked");
        let reserve_bytes = match class {
            Class::Produce => self.reserve,
            Class::Internal => 0,
        };
        let free_bytes = inner
            .disk_free
            .saturating_sub(inner.admitted)
            .saturating_sub(inner.disk_claimed);
        let waits = class == Class::Produce && inner.disk_full;
        if waits || free_bytes < cost.saturating_add(reserve_bytes) {
            inner.disk_full |= class == Class::Produce;
            return Err(Backpressure::StorageFull {
                free_bytes,
                reserve_bytes,
            });
        }
        let kept = inner.journal_total - share(class, inner.journal_total);
        let journal_short = inner.unwritten + cost > inner.journal_free.saturating_sub(kept);
        if inner.admitted + cost > share(class, self.memory_max) || journal_short {
            return Err(Backpressure::Busy);
        }
        inner.admitted += cost;
        inner.unwritten += cost;
        Ok(Permit::new(bytes, Box::new(Owner(Arc::clone(self)))))
    }

    /// Splits a permit; the parts' rounding is paid for by the whole's, as they end in one journal group or pay there.
    pub(super) fn split(self: &Arc<Self>, permit: &mut Permit, bytes: u64) -> Option<Permit> {
        let before = Self::cost(permit.bytes());
        let part = permit.split(bytes, Box::new(Owner(Arc::clone(self))))?;
        let after = Self::cost(permit.bytes()) + Self::cost(bytes);
        let mut inner = self.inner.lock().expect("no panics while locked");
        inner.admitted += after - before;
        inner.unwritten += after - before;
        Some(part)
    }

    /// What [`spend`](Self::spend) will return for this permit.
    pub(super) fn cost_of(permit: &Permit) -> u64 {
        Self::cost(permit.bytes())
    }

    /// A permit was used for a step; returns what is to be given back by `written` and `applied`.
    pub(super) fn spend(permit: Permit) -> u64 {
        Self::cost(permit.spend())
    }

    /// So much admitted is in the journal now, which can still take `journal_free`.
    pub(super) fn written(&self, granted: u64, journal_free: u64) {
        let mut inner = self.inner.lock().expect("no panics while locked");
        inner.unwritten = inner.unwritten.saturating_sub(granted);
        inner.journal_free = journal_free;
    }

    /// So much admitted is in the segments now.
    pub(super) fn applied(&self, granted: u64, disk_free: u64) {
        {
            let mut inner = self.inner.lock().expect("no panics while locked");
            inner.admitted = inner.admitted.saturating_sub(granted);
            inner.disk_free = disk_free;
            self.resume(&mut inner);
        }
        self.freed.notify_waiters();
    }

    /// What the journal's files amount to now.
    pub(super) fn set_journal(&self, free: u64, total: u64, claimed: u64) {
        {
            let mut inner = self.inner.lock().expect("no panics while locked");
            inner.journal_free = free;
            inner.journal_total = total;
            inner.disk_claimed = claimed;
        }
        self.freed.notify_waiters();
    }

    /// What the disk has now.
    pub(super) fn set_disk_free(&self, bytes: u64) {
        let tell = {
            let mut inner = self.inner.lock().expect("no panics while locked");
            let (more, was_full) = (bytes > inner.disk_free, self.is_full(&inner));
            inner.disk_free = bytes;
            self.resume(&mut inner);
            more || was_full != self.is_full(&inner)
        };
        if tell {
            // Also that it is full: what waits for memory or the journal would wait for nothing, and is told so.
            self.freed.notify_waiters();
        }
    }

    /// Takes produce in again if there is room for more than a moment.
    fn resume(&self, inner: &mut Inner) {
        let needed = self.reserve.saturating_add(Reserve::margin(self.reserve));
        let needed = needed
            .saturating_add(inner.admitted)
            .saturating_add(inner.disk_claimed);
        inner.disk_full &= inner.disk_free < needed;
    }

    /// The disk was found full: produce is refused until there is room for more than a moment, and what waits to be
    /// admitted is told.
    pub(super) fn disk_is_full(&self) {
        self.inner.lock().expect("no panics while locked").disk_full = true;
        self.freed.notify_waiters();
    }

    /// Whether produce would be refused for want of disk.
    pub(super) fn storage_full(&self) -> bool {
        self.is_full(&self.inner.lock().expect("no panics while locked"))
    }

    fn is_full(&self, inner: &Inner) -> bool {
        let free = inner
            .disk_free
            .saturating_sub(inner.admitted)
            .saturating_sub(inner.disk_claimed);
        inner.disk_full || free < Self::cost(1) + self.reserve
    }

    /// Free bytes of the disk when it was last looked at.
    pub(super) fn disk_free(&self) -> u64 {
        self.inner.lock().expect("no panics while locked").disk_free
    }

    /// Bytes admitted and not applied.
    pub(super) fn admitted(&self) -> u64 {
        self.inner.lock().expect("no panics while locked").admitted
    }

    /// Ready when something was given back after this call, or the disk was found full: then, too, a new try has an answer.
    pub(super) fn freed(&self) -> BoxFuture<'static, ()> {
        // A `Notified` counts from its creation on, so nothing is lost between this and the next try.
        Box::pin(Arc::clone(&self.freed).notified_owned())
    }
}

struct Owner(Arc<Budget>);

impl PermitOwner for Owner {
    fn give_back(&self, bytes: u64) {
        let cost = Budget::cost(bytes);
        {
            let mut inner = self.0.inner.lock().expect("no panics while locked");
            inner.admitted = inner.admitted.saturating_sub(cost);
            inner.unwritten = inner.unwritten.saturating_sub(cost);
        }
        self.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Arc<Budget> {
        let budget = Arc::new(Budget::new(64 << 10, 16 << 10, 32 << 10));
        budget.set_journal(64 << 10, 64 << 10, 0);
        budget.set_disk_free(1 << 20);
        budget
    }

    #[test]
    fn permit_returns_what_it_took_when_dropped() {
        let budget = budget();
        let permit = budget.permit(5000, Class::Produce).unwrap();
        assert_eq!(budget.admitted(), 8192);
        drop(permit);
        assert_eq!(budget.admitted(), 0);
    }

    #[test]
    fn parts_of_a_permit_return_what_they_took() {
        let budget = budget();
        let mut whole = budget.permit(5000, Class::Produce).unwrap();
        let part = budget.split(&mut whole, 100).unwrap();
        assert_eq!(budget.split(&mut whole, 5000).map(|p| p.bytes()), None);
        assert_eq!(part.bytes(), 100);
        let spent = Budget::spend(part);
        drop(whole);
        assert_eq!(budget.admitted(), spent);
        budget.written(spent, 64 << 10);
        budget.applied(spent, 1 << 20);
        assert_eq!(budget.admitted(), 0);
    }

    #[test]
    fn last_eighth_is_for_the_broker_itself() {
        let budget = budget();
        let _held = budget.permit(32 << 10, Class::Produce).unwrap();
        let _more = budget.permit(24 << 10, Class::Produce).unwrap();
        assert_eq!(budget.permit(1, Class::Produce).unwrap_err(), Backpressure::Busy);
        assert!(budget.permit(1, Class::Internal).is_ok());
    }

    #[test]
    fn full_disk_refuses_produce_and_lets_the_broker_work() {
        let budget = budget();
        budget.set_disk_free(18 << 10);
        let refused = budget.permit(1, Class::Produce).unwrap_err();
        assert_eq!(
            refused,
            Backpressure::StorageFull {
                free_bytes: 18 << 10,
                reserve_bytes: 16 << 10
            }
        );
        assert!(budget.storage_full());
        assert!(budget.permit(1, Class::Internal).is_ok());
    }

    #[test]
    fn produce_goes_on_only_when_there_is_room_for_more_than_a_moment() {
        let budget = Arc::new(Budget::new(1 << 20, 64 << 10, 32 << 10));
        budget.set_journal(1 << 20, 1 << 20, 0);
        let takes = |free| {
            budget.set_disk_free(free);
            budget.permit(1, Class::Produce).is_ok()
        };
        assert!(takes(72 << 10));
        assert!(!takes(66 << 10));
        assert!(
            !takes(72 << 10),
            "a quarter of the reserve has to be free beside it"
        );
        assert!(budget.storage_full());
        assert!(takes(80 << 10));
        assert!(takes(72 << 10));
        budget.disk_is_full();
        assert!(!takes(72 << 10));
        assert!(takes(80 << 10));
    }

    #[tokio::test]
    async fn whoever_waits_for_room_is_told_that_the_disk_is_full() {
        let found_by: [fn(&Budget); 2] = [|budget| budget.set_disk_free(8 << 10), Budget::disk_is_full];
        for found in found_by {
            let budget = budget();
            // The journal has no file that it could free: only the disk could give it one.
            budget.set_journal(0, 64 << 10, 0);
            assert_eq!(budget.permit(1, Class::Produce).unwrap_err(), Backpressure::Busy);
            let told = budget.freed();
            found(&budget);
            tokio::select! {
                biased;
                () = told => {}
                () = std::future::ready(()) => panic!("a full disk is an answer"),
            }
            let refused = budget.permit(1, Class::Produce).unwrap_err();
            assert!(matches!(refused, Backpressure::StorageFull { .. }), "{refused:?}");
        }
    }

    #[test]
    fn step_that_no_frame_can_take_is_refused() {
        let error = budget().permit(33 << 10, Class::Internal).unwrap_err();
        assert_eq!(
            error,
            Backpressure::TooLarge {
                bytes: 33 << 10,
                max: 32 << 10
            }
        );
    }
}
