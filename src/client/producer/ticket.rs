//! Acknowledgements as futures. One completion per batch, shared by the tickets of its records.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::{BatchMetadata, RecordMetadata};
use crate::client::Error;
use crate::model::Offset;

/// The answer to one batch, once there is one.
#[derive(Debug, Default)]
pub(super) struct Completion {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    answer: Option<Result<BatchMetadata, Error>>,
    /// Somebody has seen the answer.
    observed: bool,
    waiting: Vec<Option<Waker>>,
}

impl Completion {
    /// Gives the answer and wakes everybody who waits for it.
    pub(super) fn complete(&self, answer: Result<BatchMetadata, Error>) {
        let waiting = {
            let mut state = self.lock();
            state.answer = Some(answer);
            std::mem::take(&mut state.waiting)
        };
        for waker in waiting.into_iter().flatten() {
            waker.wake();
        }
    }

    /// The failure, if it is one that no ticket has shown.
    pub(super) fn unobserved_failure(&self) -> Option<Error> {
        let state = self.lock();
        match &state.answer {
            Some(Err(error)) if !state.observed => Some(error.clone()),
            _ => None,
        }
    }

    /// `slot` is where the caller's waker is kept between polls.
    fn poll(
        &self,
        slot: &mut Option<usize>,
        context: &Context<'_>,
        observe: bool,
    ) -> Poll<Result<BatchMetadata, Error>> {
        let mut state = self.lock();
        if let Some(answer) = state.answer.clone() {
            state.observed |= observe;
            return Poll::Ready(answer);
        }
        let waker = Some(context.waker().clone());
        if let Some(at) = *slot {
            state.waiting[at] = waker;
        } else {
            *slot = Some(state.waiting.len());
            state.waiting.push(waker);
        }
        Poll::Pending
    }

    fn forget_waker(&self, slot: Option<usize>) {
        if let Some(waker) = slot.and_then(|at| self.lock().waiting.get_mut(at).map(Option::take)) {
            // Dropped outside of the lock: a waker is foreign code.
            drop(waker);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panics while locked")
    }
}

/// The acknowledgement of one batch: a future. Dropping it changes nothing about the batch.
#[derive(Debug)]
#[must_use = "a ticket that nobody awaits hides errors until flush or close"]
pub struct BatchTicket {
    completion: Arc<Completion>,
    slot: Option<usize>,
}

/// The acknowledgement of one record: a future. Dropping it changes nothing about the record.
#[derive(Debug)]
#[must_use = "a ticket that nobody awaits hides errors until flush or close"]
pub struct Ticket {
    batch: BatchTicket,
    /// Which record of the batch, from 0.
    index: u32,
}

/// Waits for an answer without being the one who is told.
#[derive(Debug)]
pub(super) struct Answered(BatchTicket);

impl BatchTicket {
    pub(super) fn new(completion: Arc<Completion>) -> Self {
        Self {
            completion,
            slot: None,
        }
    }
}

impl Ticket {
    pub(super) fn new(completion: Arc<Completion>, index: u32) -> Self {
        Self {
            batch: BatchTicket::new(completion),
            index,
        }
    }
}

impl Answered {
    pub(super) fn new(completion: Arc<Completion>) -> Self {
        Self(BatchTicket::new(completion))
    }
}

impl Future for BatchTicket {
    type Output = Result<BatchMetadata, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.completion.poll(&mut this.slot, context, true)
    }
}

impl Future for Ticket {
    type Output = Result<RecordMetadata, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let index = this.index;
        Pin::new(&mut this.batch)
            .poll(context)
            .map_ok(|batch| of_record(batch, index))
    }
}

impl Future for Answered {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.0
            .completion
            .poll(&mut this.0.slot, context, false)
            .map(|_| ())
    }
}

impl Drop for BatchTicket {
    fn drop(&mut self) {
        self.completion.forget_waker(self.slot);
    }
}

fn of_record(batch: BatchMetadata, index: u32) -> RecordMetadata {
    RecordMetadata {
        offset: batch.base_offset.and_then(|base: Offset| base.checked_add(index)),
        topic: batch.topic,
        partition: batch.partition,
        append_time: batch.append_time,
        acks: batch.acks,
        duplicate: batch.duplicate,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::model::{Acks, PartitionId, Timestamp};

    fn metadata() -> BatchMetadata {
        BatchMetadata {
            topic: "orders".into(),
            partition: PartitionId(3),
            base_offset: Offset::new(100),
            records: 5,
            append_time: Timestamp(1),
            acks: Acks::Fsync,
            duplicate: false,
            durable_through: None,
        }
    }

    #[tokio::test]
    async fn all_tickets_of_a_batch_wake_with_their_own_offsets() {
        let completion = Arc::new(Completion::default());
        let mut waiting = tokio::task::JoinSet::new();
        for index in 0..5 {
            waiting.spawn(Ticket::new(completion.clone(), index));
        }
        tokio::task::yield_now().await;
        completion.complete(Ok(metadata()));
        let mut offsets: Vec<_> = waiting
            .join_all()
            .await
            .into_iter()
            .map(|record| record.unwrap().offset.unwrap().get())
            .collect();
        offsets.sort_unstable();
        assert_eq!(offsets, [100, 101, 102, 103, 104]);
    }

    #[tokio::test]
    async fn a_failure_counts_as_seen_once_a_ticket_has_shown_it() {
        let completion = Arc::new(Completion::default());
        let mut ticket = pin!(Ticket::new(completion.clone(), 0));
        let mut context = Context::from_waker(Waker::noop());
        assert!(ticket.as_mut().poll(&mut context).is_pending());
        completion.complete(Err(Error::Usage("no".into())));
        Answered::new(completion.clone()).await;
        assert_eq!(completion.unobserved_failure(), Some(Error::Usage("no".into())));
        assert_eq!(ticket.await.unwrap_err(), Error::Usage("no".into()));
        assert_eq!(completion.unobserved_failure(), None);
    }
}
