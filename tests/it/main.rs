//! Behaviour across modules, seen from outside of the crate.

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod peer;
