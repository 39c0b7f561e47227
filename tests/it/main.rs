//! Behaviour across modules, seen from outside of the crate: real TCP, and the real binary.

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod peer;
