//! Tests from outside: over TCP on the loopback interface, or through the binary.

mod bad_input;
mod cli;
