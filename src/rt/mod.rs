//! The world outside of decisions: time, randomness, tasks. Everything here is handed to its users as an argument.

mod clock;
mod tasks;

pub use clock::{Clock, ManualClock, SystemClock};
pub use tasks::Tasks;

/// A boxed future, as trait objects need it.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Source of identities that nobody else has.
pub trait IdSource: Send + Sync + 'static {
    /// 16 bytes that form a version 4 UUID.
    fn uuid(&self) -> [u8; 16];
}

/// Identities from the operating system's random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomIds;

#[expect(clippy::disallowed_methods, reason = "this is where identities come from")]
impl IdSource for RandomIds {
    fn uuid(&self) -> [u8; 16] {
        uuid::Uuid::new_v4().into_bytes()
    }
}
