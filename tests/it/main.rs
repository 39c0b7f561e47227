//! Behaviour across modules, seen from outside of the crate.
#![expect(missing_docs, reason = "tests document themselves by their names")]

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod peer;
