//! Behaviour across modules, seen from outside of the crate: real TCP, and the real binary.

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod bad_members;
#[cfg(test)]
mod bad_requests;
#[cfg(test)]
mod bench_groups;
#[cfg(test)]
mod broker;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod check_history;
#[cfg(test)]
mod churn;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod compression;
#[cfg(test)]
mod config;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod consumers;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod group_commands;
#[cfg(test)]
mod groups;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod kill_members;
#[cfg(test)]
mod load;
#[cfg(test)]
mod log_tools;
#[cfg(test)]
mod members;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod notebook;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod peer;
#[cfg(all(test, feature = "test-faults"))]
mod power_cut;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod rot;
#[cfg(test)]
mod rounds;
#[cfg(test)]
mod salvage;
#[cfg(test)]
mod scrub;
#[cfg(test)]
#[cfg(feature = "test-faults")]
mod standing_disk;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod system;
#[cfg(test)]
mod topics;
