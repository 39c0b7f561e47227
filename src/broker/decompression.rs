//! Decompression, off the threads that serve connections: a batch of a few bytes may hold megabytes.
//!
//! What runs at once is bounded, and each run by [`DECOMPRESSED_BYTES_MAX`], so memory is, too.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::Broker;
use crate::api::{Outcome, Produce, ProducePartition, ProducePayload, Request, Validation};
use crate::record::{BatchHeader, Batches, Codec, DECOMPRESSED_BYTES_MAX, is_compressed};
use crate::rt::BoxFuture;
use crate::storage::{LogStore, ReadOut};

/// Decompressions that run at once; more wait.
const RUNNING_MAX: usize = 2;

/// A compressed batch up to this size is tried where it arrives, as a hop to another thread costs more than its work.
const INLINE_BATCH_BYTES_MAX: usize = 16 << 10;

/// Such a try is given up above so many decompressed bytes, which take well below a millisecond.
const INLINE_RECORDS_BYTES_MAX: usize = 128 << 10;

/// Batches of one request that are tried where they arrive: a thousand of them, each small, would hold up that thread's
/// connections for as long as a large one.
const INLINE_TRIES_MAX: usize = 8;

/// Threads that may be busy with decompression.
#[derive(Clone, Debug)]
pub(super) struct Decompression {
    slots: Arc<Semaphore>,
}

impl Default for Decompression {
    fn default() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(RUNNING_MAX)),
        }
    }
}

impl Decompression {
    /// Runs a job on a thread that may be busy; `None` if it panicked, or the runtime is ending.
    pub(super) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> BoxFuture<'static, Option<T>> {
        let slots = Arc::clone(&self.slots);
        Box::pin(async move {
            // The semaphore is never closed.
            let slot = slots.acquire_owned().await.ok()?;
            let running = tokio::task::spawn_blocking(move || {
                // Held to the end of the work, even if nobody waits for it any more.
                let _slot = slot;
                job()
            });
            running.await.ok()
        })
    }
}

impl Decompression {
    /// Ready when every one of these has its verdict, whatever `run` does.
    fn validate(
        &self,
        open: Vec<Arc<Validation>>,
        run: impl Fn(&Validation) + Send + 'static,
    ) -> BoxFuture<'static, ()> {
        let all = open.clone();
        let running = self.run(move || open.iter().for_each(|validation| run(validation)));
        Box::pin(async move {
            if running.await.is_none() {
                // Without a verdict the request would come back for ever.
                all.iter().for_each(|validation| validation.give_up());
            }
        })
    }
}

impl<S: LogStore> Broker<S> {
    /// Has the compressed batches of a request validated. Comes back with the request if that is done, otherwise with the
    /// time to hand it in again, which keeps its place among the produces of its connection.
    pub(super) fn validated(&self, mut produce: Produce) -> Result<Produce, Outcome> {
        match self.validate_compressed(&mut produce.partitions) {
            None => Ok(produce),
            Some(retry) => Err(Outcome::Blocked {
                request: Request::Produce(produce),
                retry,
            }),
        }
    }

    /// Has compressed batches validated. `None`: all of them are; otherwise ready when they are.
    pub(super) fn validate_compressed(
        &self,
        partitions: &mut [ProducePartition],
    ) -> Option<BoxFuture<'static, ()>> {
        let mut open = Vec::new();
        let mut tries = 0;
        for item in partitions {
            let validation = match &item.payload {
                ProducePayload::Raw(batch) if is_compressed(batch) => {
                    let validation = Arc::new(Validation::new(batch.clone()));
                    if batch.len() <= INLINE_BATCH_BYTES_MAX && tries < INLINE_TRIES_MAX {
                        tries += 1;
                        validation.run(INLINE_RECORDS_BYTES_MAX, DECOMPRESSED_BYTES_MAX);
                    }
                    item.payload = ProducePayload::Compressed(Arc::clone(&validation));
                    validation
                }
                ProducePayload::Compressed(validation) => Arc::clone(validation),
                ProducePayload::Raw(_) | ProducePayload::Structured { .. } => continue,
            };
            if validation.verdict().is_none() {
                open.push(validation);
            }
        }
        if open.is_empty() {
            return None;
        }
        Some(self.decompression.validate(open, |validation| {
            validation.run(DECOMPRESSED_BYTES_MAX, DECOMPRESSED_BYTES_MAX);
        }))
    }
}

/// Whether any of the batches read is compressed.
pub(super) fn has_compressed(out: &ReadOut) -> bool {
    let compressed = |header: &BatchHeader| Codec::of(header) != Ok(Codec::None);
    out.extents
        .iter()
        .flat_map(|extent| Batches::new(extent.clone()))
        .any(|batch| batch.is_ok_and(|(header, _)| compressed(&header)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn a_decoder_that_panics_refuses_the_batch_and_holds_up_no_other() {
        let decompression = Decompression::default();
        for _ in 0..=RUNNING_MAX {
            let batch = Arc::new(Validation::new(Bytes::from_static(b"x")));
            let broken = decompression.validate(vec![Arc::clone(&batch)], |_| panic!("a bug of a decoder"));
            broken.await;
            assert!(batch.verdict().is_some_and(Result::is_err));
        }
        assert_eq!(decompression.run(|| 7).await, Some(7));
    }
}
