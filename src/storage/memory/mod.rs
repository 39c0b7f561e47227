//! Logs that are in memory alone: bounded, and gone when the process ends.
//!
//! [`MemoryStore`] keeps everything so: for tests, and for brokers that need not survive. [`WithMemory`] puts single topics
//! beside those of another engine, which keeps nothing of them but which offsets were given. Both are made of the same log: a
//! ring whose oldest batches go when it, or the memory of all logs, is full. Why so: `docs/adr/0009-topics-in-memory.md`.

mod beside;
mod log;
mod reserved;
mod room;
mod store;
#[cfg(test)]
pub(crate) mod tests;

pub use beside::{EitherLog, WithMemory};
pub use log::MemoryLog;
pub use store::{MemoryOptions, MemoryStore, WhenFull};

use std::sync::{Mutex, MutexGuard};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panics while locked")
}
