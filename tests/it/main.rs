//! Behaviour across modules: the real binary and real TCP.

#![expect(clippy::unwrap_used, reason = "a test ends by a panic")]

mod cli;
