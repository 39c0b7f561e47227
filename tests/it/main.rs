//! Behaviour across modules, seen from outside of the crate: real TCP, and the real binary.
#![expect(missing_docs, reason = "tests document themselves by their names")]

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod peer;
