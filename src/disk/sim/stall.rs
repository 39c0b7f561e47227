//! Operations that a test holds up: they wait until it lets them go, and nothing sleeps.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::{Op, lock};

type Choice = Box<dyn Fn(&Op<'_>) -> bool + Send + Sync>;

#[derive(Debug, Default)]
struct Gate {
    open: bool,
    waiting: u32,
}

/// Holds up the operations that it was made for until it is dropped; see [`SimDisk::stall`](super::SimDisk::stall).
pub struct Stall {
    held: Arc<Held>,
}

pub(super) struct Held {
    choice: Choice,
    gate: Mutex<Gate>,
    changed: Condvar,
}

impl Held {
    pub(super) fn new(choice: Choice) -> Arc<Self> {
        Arc::new(Self {
            choice,
            gate: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        lock(&self.gate)
    }

    pub(super) fn is_open(&self) -> bool {
        self.gate().open
    }

    /// Waits if the operation is one of those.
    pub(super) fn pass(&self, op: &Op<'_>) {
        if !(self.choice)(op) {
            return;
        }
        let mut gate = self.gate();
        gate.waiting += 1;
        self.changed.notify_all();
        let mut gate = self
            .changed
            .wait_while(gate, |gate| !gate.open)
            .expect("no panics while locked");
        gate.waiting -= 1;
    }
}

impl Stall {
    pub(super) fn new(held: Arc<Held>) -> Self {
        Self { held }
    }

    /// Waits until an operation is held up, at most so long; says whether one is.
    pub fn wait_until_reached(&self, at_most: Duration) -> bool {
        let (gate, _) = self
            .held
            .changed
            .wait_timeout_while(self.held.gate(), at_most, |gate| gate.waiting == 0)
            .expect("no panics while locked");
        gate.waiting > 0
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.held.gate().open = true;
        self.held.changed.notify_all();
    }
}

impl fmt::Debug for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stall").field(&*self.held.gate()).finish()
    }
}
