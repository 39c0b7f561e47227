//! Requests of one connection that are not answered yet: all of them, and where each one waits.

use std::collections::{HashMap, VecDeque};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::frame::FrameOut;
use crate::api::{Ending, Reply, Request, RequestKind};
use crate::model::{Acks, Lsn};
use crate::rt::BoxFuture;

/// What is counted about a request when its answer leaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meter {
    /// Which kind it is.
    pub(super) kind: RequestKind,
    /// When a produce is to be answered.
    pub(super) acks: Option<Acks>,
    /// When it was taken in, on the monotonic clock.
    pub(super) since: Duration,
    /// How its answer ends it; as yet unknown answers count as fine.
    pub(super) ending: Ending,
}

/// Every unanswered request and what it costs.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    charges: HashMap<u64, Charge>,
    bytes: u64,
}

#[derive(Debug)]
struct Charge {
    bytes: u64,
    meter: Meter,
    /// Share of the memory that all connections have for requests.
    permit: Option<OwnedSemaphorePermit>,
}

impl InFlight {
    /// Whether a request with this id is unanswered.
    pub(super) fn contains(&self, id: u64) -> bool {
        self.charges.contains_key(&id)
    }

    /// Takes a request in.
    pub(super) fn insert(&mut self, id: u64, bytes: u64, meter: Meter, permit: Option<OwnedSemaphorePermit>) {
        self.bytes += bytes;
        let before = self.charges.insert(id, Charge { bytes, meter, permit });
        debug_assert!(before.is_none(), "ids are checked first");
    }

    /// Its answer is made and says this.
    pub(super) fn ends(&mut self, id: u64, ending: Ending) {
        if let Some(charge) = self.charges.get_mut(&id) {
            charge.meter.ending = ending;
        }
    }

    /// It is answered.
    pub(super) fn remove(&mut self, id: u64) -> Option<Meter> {
        let charge = self.charges.remove(&id)?;
        self.bytes -= charge.bytes;
        Some(charge.meter)
    }

    /// Which kind of request has this id, if it is unanswered.
    pub(super) fn kind(&self, id: u64) -> Option<RequestKind> {
        self.charges.get(&id).map(|charge| charge.meter.kind)
    }

    /// It goes on without its bytes, which were handed over.
    pub(super) fn discharge(&mut self, id: u64) {
        if let Some(charge) = self.charges.get_mut(&id) {
            self.bytes -= charge.bytes;
            charge.bytes = 0;
            charge.permit = None;
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.charges.len()
    }

    /// Whether all are answered.
    pub(super) fn is_empty(&self) -> bool {
        self.charges.is_empty()
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Encoded replies that wait for their LSN to become durable, in its order.
#[derive(Debug, Default)]
pub(super) struct Held(VecDeque<(Lsn, u64, FrameOut)>);

impl Held {
    /// Adds a reply, behind those that wait for the same LSN.
    pub(super) fn push(&mut self, lsn: Lsn, id: u64, reply: FrameOut) {
        // Almost always at the end: LSNs grow, only duplicates and readers wait for older ones.
        let at = self.0.partition_point(|(other, ..)| *other <= lsn);
        self.0.insert(at, (lsn, id, reply));
    }

    /// The next reply that is due at this LSN.
    pub(super) fn pop_due(&mut self, durable: Lsn) -> Option<(u64, FrameOut)> {
        let (_, id, reply) = self.0.pop_front_if(|(lsn, ..)| *lsn <= durable)?;
        Some((id, reply))
    }

    /// The ids of all that are left, which never become due.
    pub(super) fn give_up(&mut self) -> Vec<u64> {
        self.0.drain(..).map(|(_, id, _)| id).collect()
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Requests that are answered by a future of their own. At most a few dozen, so each wake-up polls all.
#[derive(Default)]
pub(super) struct Parked(Vec<(u64, BoxFuture<'static, Reply>)>);

impl Parked {
    /// Adds a request.
    pub(super) fn push(&mut self, id: u64, reply: BoxFuture<'static, Reply>) {
        self.0.push((id, reply));
    }

    /// The next reply. Waits for ever if nothing is parked; losing the future loses nothing.
    pub(super) async fn next(&mut self) -> (u64, Reply) {
        std::future::poll_fn(|context| {
            for (at, (id, future)) in self.0.iter_mut().enumerate() {
                if let Poll::Ready(reply) = future.as_mut().poll(context) {
                    let id = *id;
                    drop(self.0.swap_remove(at));
                    return Poll::Ready((id, reply));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Drops all futures, and with them the requests; their ids.
    pub(super) fn give_up(&mut self) -> Vec<u64> {
        self.give_up_those(|_| true)
    }

    /// Drops some futures, and with them the requests; their ids.
    pub(super) fn give_up_those(&mut self, which: impl Fn(u64) -> bool) -> Vec<u64> {
        self.0
            .extract_if(.., |(id, _)| which(*id))
            .map(|(id, _)| id)
            .collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is parked.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Parked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Parked").field(&self.0.len()).finish()
    }
}

/// A request that was not taken in yet.
#[derive(Debug)]
pub(super) struct Queued {
    /// Its id.
    pub(super) id: u64,
    /// When its client stops waiting, on the monotonic clock.
    pub(super) expires: Duration,
    /// The request.
    pub(super) request: Request,
}

/// Requests for which the broker has no room now, first come first served.
///
/// Invariant: while there are any, there is a future that says when the first is worth another try.
#[derive(Default)]
pub(super) struct Blocked {
    queue: VecDeque<Queued>,
    retry: Option<BoxFuture<'static, ()>>,
}

impl Blocked {
    /// Puts the first one (back) in, with the time of its next try.
    pub(super) fn put_first(&mut self, first: Queued, retry: BoxFuture<'static, ()>) {
        self.queue.push_front(first);
        self.retry = Some(retry);
    }

    /// Puts one in behind all others, of which there is at least one.
    pub(super) fn put_last(&mut self, last: Queued) {
        debug_assert!(self.retry.is_some(), "somebody is in front");
        self.queue.push_back(last);
    }

    /// Waits until the first one is worth another try; for ever if there is none. Losing the future loses nothing.
    pub(super) async fn retry(&mut self) {
        match &mut self.retry {
            Some(retry) => retry.await,
            None => std::future::pending().await,
        }
        self.retry = None;
    }

    /// Takes the first one out.
    pub(super) fn pop(&mut self) -> Option<Queued> {
        self.queue.pop_front()
    }

    /// Takes out whose client has stopped waiting; their ids.
    pub(super) fn take_expired(&mut self, now: Duration) -> Vec<u64> {
        let expired: Vec<u64> = self
            .queue
            .iter()
            .filter(|q| q.expires <= now)
            .map(|q| q.id)
            .collect();
        self.queue.retain(|q| q.expires > now);
        expired
    }

    /// When the next client stops waiting.
    pub(super) fn next_expiry(&self) -> Option<Duration> {
        self.queue.iter().map(|q| q.expires).min()
    }

    /// Takes all out; their ids.
    pub(super) fn give_up(&mut self) -> Vec<u64> {
        self.retry = None;
        self.queue.drain(..).map(|queued| queued.id).collect()
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl std::fmt::Debug for Blocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocked")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_replies_come_out_in_the_order_of_their_lsn() {
        let mut held = Held::default();
        for (lsn, id) in [(3, 1), (5, 2), (4, 3), (3, 4), (9, 5)] {
            held.push(Lsn(lsn), id, FrameOut::default());
        }
        let mut due = |lsn| {
            let mut ids = Vec::new();
            while let Some((id, _)) = held.pop_due(Lsn(lsn)) {
                ids.push(id);
            }
            ids
        };
        assert_eq!(due(2), [0; 0]);
        assert_eq!(due(4), [1, 4, 3]);
        assert_eq!(due(5), [2]);
        assert_eq!(held.give_up(), [5]);
    }

    #[test]
    fn charges_are_given_back_once() {
        let mut flight = InFlight::default();
        let meter = Meter {
            kind: RequestKind::Fetch,
            acks: None,
            since: Duration::ZERO,
            ending: Ending::Ok,
        };
        flight.insert(1, 100, meter, None);
        flight.insert(2, 50, meter, None);
        flight.discharge(1);
        assert_eq!((flight.len(), flight.bytes()), (2, 50));
        flight.ends(1, Ending::Throttled);
        assert_eq!(
            flight.remove(1).map(|meter| meter.ending),
            Some(Ending::Throttled)
        );
        assert!(flight.remove(1).is_none());
        assert_eq!((flight.len(), flight.bytes()), (1, 50));
        assert!(!flight.contains(1) && flight.contains(2));
    }
}
