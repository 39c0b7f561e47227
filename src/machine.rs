//! The contract of the deterministic machines: metadata and groups, later deliveries and transactions.

use bytes::Bytes;

use crate::model::Timestamp;

/// A deterministic machine whose history is a log of records.
///
/// A command is decided by [`handle`](Self::handle), which changes nothing; the records that come out are appended to
/// the machine's internal partition, applied once they are sequenced, and the reply is sent once they are durable.
/// Recovery is [`apply`](Self::apply) again.
pub trait StateMachine {
    /// What can be asked.
    type Command;
    /// What is stored.
    type Record;
    /// What is answered. A refusal is a reply.
    type Reply;

    /// Decides. Must not touch hard state.
    fn handle(&self, now: Timestamp, command: Self::Command) -> Effects<Self::Record, Self::Reply>;

    /// The only writer of hard state. Infallible: a record that was written must apply.
    fn apply(&mut self, record: &Self::Record);
}

/// A machine whose records and whose whole state have a stored form, so that one driver serves them all.
pub trait Stored: StateMachine + Sized {
    /// How much of everything there may be. Decides about commands only; what was stored is always taken.
    type Limits: Copy;
    /// Why stored bytes cannot be understood. State is never guessed.
    type DecodeError: std::error::Error + Send + Sync + 'static;

    /// The state before the first record.
    fn empty(limits: Self::Limits) -> Self;

    /// The stored form of a record.
    fn encode(record: &Self::Record) -> Bytes;

    /// Reads the stored form of a record.
    ///
    /// # Errors
    /// It is not one.
    fn decode(bytes: Bytes) -> Result<Self::Record, Self::DecodeError>;

    /// The whole state.
    fn snapshot(&self) -> Bytes;

    /// The state in a snapshot.
    ///
    /// # Errors
    /// It is none.
    fn restore(limits: Self::Limits, snapshot: Bytes) -> Result<Self, Self::DecodeError>;
}

/// What a command brings about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effects<R, A> {
    /// To be written in this order in one step; empty: nothing changes.
    pub records: Vec<R>,
    /// To be answered when the records, and whatever the reply shows, are durable.
    pub reply: A,
}
